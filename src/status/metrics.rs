//! `metrics.prom`: what the status says in numbers, in Prometheus' text format, as the textfile
//! collector of a node exporter reads it. Pure.

use crate::daemon::pipelock::refusals::Kind;
use crate::plain;
use crate::policy::daemons::PIPELOCK;
use crate::policy::grants;
use crate::status::schema::{State, Status, Validity, Word};

/// The file's name, in the export.
pub const FILE: &str = "metrics.prom";

/// How many were refused, of each kind; `None` is what is not known.
pub type Refused = Vec<(Option<Kind>, u64)>;

/// Name and help of a metric, labels, value.
type Sample = ((&'static str, &'static str), String, u64);

/// What the file says at `now`, in seconds since 1970. Every sample has the slug and the boot id, so
/// that the files of many sidecars, or of two starts of one, can be collected together. Nothing in a
/// label has to be escaped: they are words of letters, digits, hyphens and full stops.
#[must_use]
pub fn text(status: &Status, refused: &Refused, now: u64) -> String {
    let serves =
        |state: &Word<State>| matches!(state, Word::Known(State::Ready | State::Reloading));
    let is_valid = |validity| !matches!(validity, Validity::Ended | Validity::NotBegun);
    let ca = status.ca.as_ref();
    let is_ready = serves(&status.state) && ca.is_none_or(|ca| is_valid(ca.validity(now)));
    let config = &status.config;
    let mut samples: Vec<Sample> = Vec::new();
    let version = concat!(",version=\"", env!("CARGO_PKG_VERSION"), "\"");
    samples.push((("info", "Always 1."), version.to_owned(), 1));
    for (name, help, value) in [
        (
            "ready",
            "Whether what is allowed passes and what is not is refused.",
            is_ready.into(),
        ),
        (
            "halted",
            "Whether a halt is in force.",
            status.halted.into(),
        ),
        (
            "generation",
            "Manifests accepted, and ends of grants.",
            config.generation,
        ),
        (
            "applied_generation",
            "The generation that is in force.",
            config.applied_generation,
        ),
        (
            "manifest_refused",
            "Whether the newest manifest is not used.",
            status.manifest_error.is_some().into(),
        ),
        (
            "warnings",
            "Warnings in the status.",
            status.warnings.len() as u64,
        ),
    ] {
        samples.push(((name, help), String::new(), value));
    }
    if let Some(Ok(at)) = ca.map(|ca| grants::time(&ca.not_after, 0)) {
        let name = ("ca_not_after_timestamp_seconds", "When the CA expires.");
        samples.push((name, String::new(), at));
    }
    let own = status.daemon.state.as_ref().unwrap_or(&status.state);
    let own = (PIPELOCK, own, status.restarts, status.failures);
    let others = status.daemons.iter();
    let others = others.map(|it| (&*it.name, &it.state, it.restarts, it.failures));
    let daemons: Vec<_> = std::iter::once(own).chain(others).collect();
    for (place, name) in [
        ("daemon_ready", "Whether the daemon is ready."),
        (
            "daemon_restarts_total",
            "Starts of the daemon after the first.",
        ),
        ("daemon_failures_total", "Failures of the daemon."),
    ]
    .into_iter()
    .enumerate()
    {
        for (daemon, state, restarts, failures) in &daemons {
            let value = match place {
                0 => serves(state).into(),
                1 => *restarts,
                _ => *failures,
            };
            samples.push((name, format!(",daemon=\"{daemon}\""), value));
        }
    }
    for (kind, count) in refused {
        let kind = kind.map_or("\"other\"".to_owned(), |kind| plain::json(&kind, 0));
        let name = ("refusals_total", "Requests refused, cut or failed.");
        samples.push((name, format!(",reason={kind}"), *count));
    }
    let slug = status.slug.as_deref().unwrap_or_default();
    let (mut text, mut last) = (String::new(), "");
    for ((name, help), label, value) in samples {
        if name != last {
            let kind = if name.ends_with("_total") {
                "counter"
            } else {
                "gauge"
            };
            text +=
                &format!("# HELP sidecar_init_{name} {help}\n# TYPE sidecar_init_{name} {kind}\n");
            last = name;
        }
        text += &format!(
            "sidecar_init_{name}{{slug=\"{slug}\",boot_id=\"{}\"{label}}} {value}\n",
            status.boot_id
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::schema::{Ca, Companion};

    #[test]
    fn says_what_the_status_says_in_numbers() {
        let mut status = Status {
            boot_id: "id".to_owned(),
            slug: Some("a".to_owned()),
            state: State::Reloading.into(),
            restarts: 2,
            failures: 1,
            manifest_error: Some("no".to_owned()),
            ca: Some(Ca {
                not_before: "2026-01-01T00:00:00Z".to_owned(),
                not_after: "2026-01-02T00:00:00Z".to_owned(),
                ..Ca::default()
            }),
            daemons: vec![Companion {
                name: "egress".to_owned(),
                state: State::Backoff.into(),
                failures: 7,
                ..Companion::default()
            }],
            ..Status::default()
        };
        let refused = vec![(Some(Kind::NotAllowed), 0), (None, 3)];
        let now = 1_767_225_600;
        let told = text(&status, &refused, now);
        for line in [
            "# HELP sidecar_init_halted Whether a halt is in force.",
            "# TYPE sidecar_init_halted gauge",
            concat!(
                r#"sidecar_init_info{slug="a",boot_id="id",version=""#,
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "# TYPE sidecar_init_refusals_total counter",
            r#"sidecar_init_ready{slug="a",boot_id="id"} 1"#,
            r#"sidecar_init_manifest_refused{slug="a",boot_id="id"} 1"#,
            r#"sidecar_init_ca_not_after_timestamp_seconds{slug="a",boot_id="id"} 1767312000"#,
            r#"sidecar_init_daemon_ready{slug="a",boot_id="id",daemon="pipelock"} 1"#,
            r#"sidecar_init_daemon_ready{slug="a",boot_id="id",daemon="egress"} 0"#,
            r#"sidecar_init_daemon_restarts_total{slug="a",boot_id="id",daemon="pipelock"} 2"#,
            r#"sidecar_init_daemon_failures_total{slug="a",boot_id="id",daemon="egress"} 7"#,
            r#"sidecar_init_refusals_total{slug="a",boot_id="id",reason="not-allowed"} 0"#,
            r#"sidecar_init_refusals_total{slug="a",boot_id="id",reason="other"} 3"#,
        ] {
            assert!(told.lines().any(|it| it == line), "{line}\n{told}");
        }
        // A CA whose time is over serves nobody, and one that is not there has no end.
        let ready = |text: &str| text.contains("_ready{slug=\"a\",boot_id=\"id\"} 1");
        assert!(ready(&told) && !ready(&text(&status, &refused, now + 86_401)));
        status.ca = None;
        let told = text(&status, &refused, now);
        assert!(ready(&told) && !told.contains("_ca_"), "{told}");
        status.state = State::Halted.into();
        assert!(!ready(&text(&status, &refused, now)));
    }
}
