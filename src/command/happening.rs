//! What has happened between two looks at a run directory: what is an event is decided by a pure
//! function of both. Touches nothing.

use std::collections::HashMap;

use serde::Serialize;

use super::below;
use super::status::condition;
use crate::plain;
use crate::policy::grants;
use crate::status::Granted;
use crate::status::denials::{self, Denial, Tally};
use crate::status::told::StatusFile;
use crate::status::{Companion, State, Word};

/// Of what was refused before anybody watched so much is told.
const MOST_OLD: usize = 5;

const STARTED: &str = "sidecar-init was started again";

/// What was seen, for what is new.
#[derive(Default)]
pub(super) struct Watched {
    /// What a command has to be told where the files are not where they usually are.
    places: String,
    pub(super) last: Option<Look>,
    /// The run that was seen last: there may have been nothing to see in between.
    run: Option<String>,
    /// The run of which the grants are told, and those of its newest manifest in force.
    grants: Option<(String, Vec<Granted>)>,
}

impl Watched {
    pub(super) fn at(places: String) -> Self {
        Self {
            places,
            ..Self::default()
        }
    }

    /// What happened since the last look; `now` is the time of this one, in seconds since 1970.
    pub(super) fn events(&mut self, look: &Look, now: u64) -> Vec<Happening> {
        let mut events = events(self.last.as_ref(), look, &self.places);
        let Look::Told(told) = look else {
            return events;
        };
        let status = &told.0.status;
        let away = matches!(self.last, Some(Look::Nothing(_)));
        let known = self.run.replace(status.boot_id.clone());
        if away && known.is_some_and(|known| known != status.boot_id) {
            events.insert(0, Happening::new("started", STARTED));
        }
        // Until then what is granted is asked for, and not so yet; nor is what is over.
        let config = &status.config;
        if config.generation == 0 || config.applied_generation < config.generation {
            return events;
        }
        let known = self.grants.take();
        let known = known.filter(|(run, _)| *run == status.boot_id);
        let known = known.map_or_else(Vec::new, |(_, grants)| grants);
        // One that is told of no more may be among those for which there was no room.
        let all = status.grants_more == 0;
        events.extend(of_grants(&known, &status.grants, all, now));
        self.grants = Some((status.boot_id.clone(), status.grants.clone()));
        events
    }
}

/// What became of grants: that one began, has another end, has ended, or was taken back.
fn of_grants(before: &[Granted], now: &[Granted], all: bool, time: u64) -> Vec<Happening> {
    fn of<'a>(host: &str, grants: &'a [Granted]) -> Option<&'a Granted> {
        grants.iter().find(|it| it.in_force && it.host == host)
    }
    let tell = |what: &str, grant: &Granted, end: String| Happening {
        host: Some(grant.host.clone()),
        ..Happening::new("grant", format!("{what}: {}, {end}", grant.host))
    };
    let until = |grant: &Granted| {
        let unscanned = if grant.passthrough {
            "; not scanned"
        } else {
            ""
        };
        format!("until {}{unscanned}", grant.until)
    };
    let mut events = Vec::new();
    for grant in now.iter().filter(|it| it.in_force) {
        match of(&grant.host, before) {
            None => events.push(tell("begun", grant, until(grant))),
            Some(known) if known != grant => events.push(tell("changed", grant, until(grant))),
            Some(_) => {}
        }
    }
    for grant in before.iter().filter(|it| it.in_force) {
        let told = now.iter().find(|it| it.host == grant.host);
        if of(&grant.host, now).is_some() || (told.is_none() && !all) {
            continue;
        }
        // Its end may have been moved to where it is over.
        let grant = told.unwrap_or(grant);
        let end = grants::time(&grant.until, time).unwrap_or(u64::MAX);
        events.push(if end <= time {
            tell("ended", grant, format!("at {}", grant.until))
        } else {
            tell(
                "revoked",
                grant,
                format!("before its end at {}", grant.until),
            )
        });
    }
    events
}

/// What one look found.
pub(super) enum Look {
    /// A status, and what was refused.
    Told(Box<(StatusFile, Option<Tally>)>),
    /// None, and why.
    Nothing(String),
}

/// Something that happened between two looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Happening {
    #[serde(rename = "event")]
    pub(super) kind: &'static str,
    pub(super) text: String,
    /// Of what was refused or granted: the host; of the former how many times by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// What to do if it was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Happening {
    pub(super) fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            host: None,
            count: None,
            advice: None,
        }
    }

    /// A denial; the advice is told the first time.
    pub(super) fn refused(denial: &Denial, is_new: bool, places: &str) -> Self {
        Self {
            host: denial.host.clone(),
            count: Some(denial.count),
            advice: Some(
                denials::remedies(denial, places)
                    .collect::<Vec<_>>()
                    .join("\n"),
            )
            .filter(|text| is_new && !text.is_empty()),
            ..Self::new(
                if denial.verb == "cut" {
                    "cut"
                } else {
                    "refused"
                },
                denials::explain(denial),
            )
        }
    }
}

/// What happened between two looks; all that is true, where there was none before. Pure.
fn events(before: Option<&Look>, now: &Look, places: &str) -> Vec<Happening> {
    let (file, tally) = match now {
        Look::Told(told) => (&told.0, told.1.as_ref()),
        Look::Nothing(why) => {
            let known = matches!(before, Some(Look::Nothing(known)) if known == why);
            return Vec::from_iter((!known).then(|| Happening::new("nothing", why.clone())));
        }
    };
    let mut events = Vec::new();
    let mut last = match before {
        Some(Look::Told(told)) => Some((&told.0, told.1.as_ref())),
        _ => None,
    };
    if let Some((known, _)) = last
        && known.status.boot_id != file.status.boot_id
    {
        events.push(Happening::new("started", STARTED));
        last = None;
    }
    let before = last.map(|(file, _)| file);
    events.extend(of_status(before, file));
    // Another start's are none of this one's.
    if let Some(tally) = tally
        && tally.boot_id == file.status.boot_id
    {
        events.extend(of_denials(
            last.map(|(_, tally)| tally.map_or(&[][..], |tally| &tally.denials)),
            tally,
            places,
        ));
    }
    events
}

fn of_status(before: Option<&StatusFile>, file: &StatusFile) -> Vec<Happening> {
    let mut events = Vec::new();
    let status = &file.status;
    // What is told where it is another than before.
    let mut tell = |event, text: Option<String>, was: Option<String>| {
        if let Some(text) = text.filter(|text| Some(text) != was.as_ref()) {
            events.push(Happening::new(event, text));
        }
    };
    let last = before.map(|before| &before.status);
    tell("state", Some(condition(file)), before.map(condition));
    tell(
        "error",
        status.error.clone(),
        last.and_then(|last| last.error.clone()),
    );
    let in_force = |generation: u64| {
        (generation > 0).then(|| format!("generation {generation} of the manifest is in force"))
    };
    let settled = status.config.applied_generation == status.config.generation;
    let is_good_again = settled
        && status.manifest_error.is_none()
        && last.is_some_and(|last| last.manifest_error.is_some());
    tell(
        "manifest",
        in_force(status.config.applied_generation),
        // What was said last is that the newest is not used.
        last.filter(|_| !is_good_again)
            .and_then(|last| in_force(last.config.applied_generation)),
    );
    tell(
        "manifest",
        status.manifest_in_words(),
        last.and_then(crate::status::Status::manifest_in_words),
    );
    let revoked = |status: &crate::status::Status| {
        let revocation = status.revocation.as_ref()?;
        let at = revocation.done_at.as_ref()?;
        let all: Vec<&str> = revocation
            .hosts
            .iter()
            .chain(&revocation.scanned)
            .map(String::as_str)
            .collect();
        let more = revocation.more.saturating_add(revocation.scanned_more);
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "{}{more}, with every tunnel, at {at}",
            all.join(", ")
        ))
    };
    tell("revoked", revoked(status), last.and_then(revoked));
    let ended = |status: &crate::status::Status| {
        let exit = status.last_exit.as_ref()?;
        Some(format!("pipelock ended: {} at {}", exit.text, exit.at))
    };
    tell("daemon", ended(status), last.and_then(ended));
    let troubled = |status: &crate::status::Status| {
        let trouble = status.daemon.trouble.as_ref()?;
        // How long it has lasted is told by the line's own time.
        let kind = trouble.split(':').next().unwrap_or_default();
        Some(format!("pipelock is {kind}"))
    };
    tell("daemon", troubled(status), last.and_then(troubled));
    for daemon in &status.daemons {
        let was = last.and_then(|last| last.daemons.iter().find(|it| it.name == daemon.name));
        // Of one that was there before anybody watched its state is in that of the bundle.
        let was_there = last.is_none().then_some(daemon).filter(|it| is_ready(it));
        tell("daemon", its_end(daemon), was.and_then(its_end));
        tell("daemon", its_trouble(daemon), was.and_then(its_trouble));
        tell(
            "daemon",
            its_state(daemon),
            was.or(was_there).and_then(its_state),
        );
    }
    let is_gone = |it: &&Companion| !status.daemons.iter().any(|now| now.name == it.name);
    for gone in last.iter().flat_map(|last| &last.daemons).filter(is_gone) {
        tell("daemon", Some(format!("{} is gone", gone.name)), None);
    }
    for warning in &status.warnings {
        let known = last.is_some_and(|last| last.warnings.contains(warning));
        tell("warning", (!known).then(|| warning.clone()), None);
    }
    events
}

fn is_ready(daemon: &Companion) -> bool {
    daemon.state == State::Ready
}

fn its_end(daemon: &Companion) -> Option<String> {
    let exit = daemon.last_exit.as_ref()?;
    Some(format!(
        "{} ended: {} at {}",
        daemon.name, exit.text, exit.at
    ))
}

fn its_trouble(daemon: &Companion) -> Option<String> {
    let trouble = daemon.trouble.as_ref()?;
    let kind = trouble.split(':').next().unwrap_or_default();
    Some(format!("{} is {kind}", daemon.name))
}

/// Where it can stay: what is between is told by its end.
fn its_state(daemon: &Companion) -> Option<String> {
    let name = &daemon.name;
    match (&daemon.state, &daemon.error) {
        (Word::Known(State::Ready), _) => Some(format!("{name} is ready")),
        (Word::Known(State::Failed), Some(error)) => Some(format!("{name} cannot live: {error}")),
        (Word::Known(State::Failed), None) => Some(format!("{name} cannot live")),
        _ => None,
    }
}

/// Each that is new or has grown. Of those from before anybody watched only the first.
fn of_denials(before: Option<&[Denial]>, tally: &Tally, places: &str) -> Vec<Happening> {
    fn key(denial: &Denial) -> (&Option<String>, &str, &str) {
        (&denial.host, &denial.scanner, &denial.reason)
    }
    let known: HashMap<_, u64> = before
        .unwrap_or_default()
        .iter()
        .map(|denial| (key(denial), denial.count))
        .collect();
    let grown = tally.denials.iter().filter_map(|denial| {
        let count = known.get(&key(denial));
        (count.copied().unwrap_or_default() < denial.count)
            .then(|| Happening::refused(denial, count.is_none(), places))
    });
    if before.is_some() {
        return grown.collect();
    }
    let mut events: Vec<Happening> = grown.take(MOST_OLD).collect();
    let shown: u64 = events.iter().filter_map(|event| event.count).sum();
    let more = tally.total.saturating_sub(shown);
    if more > 0 {
        let text = format!("{more} more before this: see {}", denials::FILE);
        events.push(Happening::new("refused", text));
    }
    events
}

/// An event as it is told where it is read from above: as an object, or in words.
pub(super) fn line(json: bool, at: &str, event: &Happening) -> String {
    #[derive(Serialize)]
    struct Dated<'a> {
        at: &'a str,
        #[serde(flatten)]
        event: &'a Happening,
    }
    const INDENT: &str = "                                ";
    if json {
        let dated = Dated { at, event };
        return format!("{}\n", plain::json(&dated, 256));
    }
    let mut text = below(&plain::lines(&event.text), INDENT);
    if let Some(advice) = &event.advice {
        text.push_str(&format!(
            "\n{INDENT}{}",
            below(&plain::lines(advice), INDENT)
        ));
    }
    format!("{at}  {:<9} {text}\n", event.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::places;

    fn look(status: &str, denials: &[(&str, u64)]) -> Look {
        let status = format!(r#"{{"schema":1,"boot_id":"one",{status}}}"#);
        let file = StatusFile::parse(status.as_bytes()).unwrap();
        let denials = denials.iter().map(|(host, count)| {
            serde_json::json!({
                "host": host, "scanner": "allowlist", "reason": "not in it", "count": count,
                "verb": "refused", "means": "not in the allowlist", "advice": format!("allow {host}"),
                "kind": null,
            })
        });
        let denials: Vec<_> = denials.collect();
        let total: u64 = denials.iter().filter_map(|it| it["count"].as_u64()).sum();
        let tally = serde_json::json!({"boot_id": "one", "total": total, "denials": denials});
        let tally = denials::parse(tally.to_string().as_bytes());
        Look::Told(Box::new((file, tally)))
    }

    fn told(before: Option<&Look>, now: &Look) -> Vec<(&'static str, String)> {
        let events = events(before, now, "").into_iter();
        events.map(|event| (event.kind, event.text)).collect()
    }

    const READY: &str = r#""state":"ready","config":{"generation":1,"applied_generation":1}"#;

    #[test]
    fn nothing_that_is_as_before_is_told_again() {
        let ready = look(READY, &[("a.example", 2)]);
        let first = told(None, &ready);
        assert_eq!(
            first,
            [
                ("state", "ready; what is not allowed is refused".to_owned()),
                (
                    "manifest",
                    "generation 1 of the manifest is in force".to_owned()
                ),
                ("refused", "2 × a.example: not in the allowlist".to_owned()),
            ]
        );
        assert_eq!(told(Some(&ready), &look(READY, &[("a.example", 2)])), []);
        let nothing = Look::Nothing("why".to_owned());
        assert_eq!(
            told(Some(&ready), &nothing),
            [("nothing", "why".to_owned())]
        );
        assert_eq!(told(Some(&nothing), &Look::Nothing("why".to_owned())), []);
        // What was told before it was away is told once more: it may be another machine.
        assert_eq!(told(Some(&nothing), &ready), first);
    }

    #[test]
    fn a_refusal_is_told_when_it_is_new_with_advice_and_when_it_grows_without() {
        let before = look(READY, &[("a.example", 2)]);
        let now = look(READY, &[("a.example", 3), ("b.example", 1)]);
        let found = events(Some(&before), &now, "");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].count, &found[0].advice), (Some(3), &None));
        let advice = Some("allow b.example".to_owned());
        assert_eq!((found[1].count, &found[1].advice), (Some(1), &advice));
        // Of many from before the first few, and how many more.
        let many: Vec<(String, u64)> = (0..9).map(|it| (format!("{it}.example"), 2)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(host, it)| (host.as_str(), *it)).collect();
        let found = told(None, &look(READY, &many));
        assert_eq!(found.len(), 2 + MOST_OLD + 1);
        let last = found.last().unwrap().1.as_str();
        assert_eq!(last, "8 more before this: see denials.json");
        // A look without any is no look at none.
        let without = Look::Told(match look(READY, &[]) {
            Look::Told(mut told) => {
                told.1 = None;
                told
            }
            Look::Nothing(_) => unreachable!(),
        });
        assert_eq!(told(Some(&without), &look(READY, &many)).len(), 9);
    }

    #[test]
    fn each_change_of_the_status_is_an_event() {
        let before = look(READY, &[]);
        for (status, event, text) in [
            (
                r#""state":"halted","port":{"closed":true}"#,
                "state",
                "halted; nothing gets through until it is resumed",
            ),
            (
                r#""state":"ready","manifest_error":"m:1: why""#,
                "manifest",
                "the newest is not used: m:1: why",
            ),
            (
                r#""state":"ready","revocation":{"hosts":["a"],"scanned":["b"],"more":1,"done_at":"now"}"#,
                "revoked",
                "a, b and 1 more, with every tunnel, at now",
            ),
            (
                r#""state":"ready","last_exit":{"code":137,"text":"killed","at":"now"}"#,
                "daemon",
                "pipelock ended: killed at now",
            ),
            (
                r#""state":"ready","daemon":{"trouble":"busy: for 3 s"}"#,
                "daemon",
                "pipelock is busy",
            ),
            (r#""state":"ready","warnings":["one"]"#, "warning", "one"),
            (r#""state":"ready","error":"why""#, "error", "why"),
        ] {
            assert_eq!(
                told(Some(&before), &look(status, &[])),
                [(event, text.to_owned())]
            );
        }
        // A mistake that is taken back.
        let config = r#""config":{"generation":1,"applied_generation":1}"#;
        let refused = format!(r#""state":"ready","manifest_error":"m:1: why",{config}"#);
        let good = format!(r#""state":"ready",{config}"#);
        assert_eq!(
            told(Some(&look(&refused, &[])), &look(&good, &[])),
            [(
                "manifest",
                "generation 1 of the manifest is in force".to_owned()
            )]
        );
        assert_eq!(told(Some(&look(&refused, &[])), &look(&refused, &[])), []);
        let revoking = look(r#""state":"ready","revocation":{"hosts":["a"]}"#, &[]);
        assert_eq!(told(Some(&before), &revoking), [], "it is not done");
        let Look::Told(mut other) = look(READY, &[]) else {
            unreachable!()
        };
        other.0.status.boot_id = "two".to_owned();
        let found = told(Some(&before), &Look::Told(other));
        assert_eq!(
            found[0],
            ("started", "sidecar-init was started again".to_owned())
        );
        assert_eq!(found[1].0, "state");
    }

    #[test]
    fn each_of_the_bundle_s_daemons_is_told_of_by_its_name() {
        let with = |daemons: &str| look(&format!(r#""state":"ready","daemons":[{daemons}]"#), &[]);
        let daemon = |name: &str, rest: &str| format!(r#"{{"name":"{name}",{rest}}}"#);
        let ready = daemon("gate", r#""state":"ready""#);
        let before = with(&ready);
        assert_eq!(told(None, &before).len(), 1, "it is ready, as all are");
        let end = r#""state":"backoff","last_exit":{"code":137,"text":"killed","at":"now"}"#;
        let killed = with(&daemon("gate", end));
        let texts = |before: &Look, now: &Look| -> Vec<String> {
            let told = told(Some(before), now).into_iter();
            told.map(|(kind, text)| format!("{kind} {text}")).collect()
        };
        assert_eq!(
            texts(&before, &killed),
            ["daemon gate ended: killed at now"]
        );
        let again = with(&daemon("gate", &end.replace("backoff", "ready")));
        assert_eq!(texts(&killed, &again), ["daemon gate is ready"]);
        // So short that nobody saw it away.
        assert_eq!(texts(&before, &again), ["daemon gate ended: killed at now"]);
        let silent = with(&daemon(
            "gate",
            r#""state":"ready","trouble":"silent: for 3 s""#,
        ));
        assert_eq!(texts(&before, &silent), ["daemon gate is silent"]);
        let failed = with(&daemon("gate", r#""state":"failed","error":"why""#));
        assert_eq!(texts(&before, &failed), ["daemon gate cannot live: why"]);
        assert_eq!(told(None, &failed).len(), 2, "it is not as all are");
        let other = with(&daemon("notes", r#""state":"ready""#));
        assert_eq!(
            texts(&before, &other),
            ["daemon notes is ready", "daemon gate is gone"]
        );
    }

    #[test]
    fn a_grant_is_told_with_the_places_that_it_needs() {
        let denial = serde_json::json!({
            "host": "a.example", "scanner": "allowlist", "reason": "not in it", "count": 1,
            "verb": "refused", "means": "not in the allowlist", "kind": "not-allowed",
            "advice": "was it meant? add it",
        });
        let tally = serde_json::json!({"boot_id": "one", "total": 1, "denials": [denial]});
        let tally = denials::parse(tally.to_string().as_bytes()).unwrap();
        for (directory, wanted) in [
            ("/run/sidecar", "sidecar-init grant a.example"),
            (
                "/x/run of mine",
                "sidecar-init grant a.example --manifest FILE --run-dir '/x/run of mine'",
            ),
        ] {
            let told = of_denials(None, &tally, &places(directory.as_ref()));
            let advice = told[0].advice.clone().unwrap();
            assert!(advice.ends_with(wanted), "{advice}");
        }
    }

    #[test]
    fn another_run_is_told_of_whatever_there_was_to_see_in_between() {
        let Look::Told(mut other) = look(READY, &[]) else {
            unreachable!()
        };
        other.0.status.boot_id = "two".to_owned();
        let (mut watched, mut kinds) = (Watched::default(), Vec::new());
        for now in [
            look(READY, &[]),
            Look::Nothing("away".to_owned()),
            look(READY, &[]),
            Look::Nothing("away".to_owned()),
            Look::Told(other),
        ] {
            kinds.push(watched.events(&now, 0).first().map(|event| event.kind));
            watched.last = Some(now);
        }
        let kinds: Vec<_> = kinds.into_iter().flatten().collect();
        assert_eq!(kinds, ["state", "nothing", "state", "nothing", "started"]);
    }

    #[test]
    fn a_grant_is_told_when_it_begins_changes_ends_or_is_taken_back() {
        /// 2026-11-26T12:00:00Z.
        const NOW: u64 = 1_795_694_400;
        let soon = r#"{"host":"a.example","until":"2026-11-26T12:00:05Z","passthrough":false,"in_force":true}"#;
        let later = r#"{"host":"b.example","until":"2026-11-26T13:00:00Z","passthrough":true,"in_force":true}"#;
        let longer = soon.replace("12:00:05", "12:00:09");
        let over = longer.replace("true", "false");
        let status = |grants: &[&str], generation: u64, applied: u64, more: u64| {
            look(
                &format!(
                    r#""state":"ready","grants":[{}],"grants_more":{more},
                    "config":{{"generation":{generation},"applied_generation":{applied}}}"#,
                    grants.join(",")
                ),
                &[],
            )
        };
        let mut watched = Watched::default();
        let mut told = |look: Look, now: u64| -> Vec<String> {
            let events = watched.events(&look, now).into_iter();
            let told = events.filter(|event| event.kind == "grant");
            told.map(|event| event.text).collect()
        };
        let nothing: [&str; 0] = [];
        assert_eq!(told(status(&[], 1, 1, 0), NOW), nothing);
        // Asked for, and not in force yet.
        assert_eq!(told(status(&[soon, later], 2, 1, 0), NOW), nothing);
        assert_eq!(
            told(status(&[soon, later], 2, 2, 0), NOW),
            [
                "begun: a.example, until 2026-11-26T12:00:05Z",
                "begun: b.example, until 2026-11-26T13:00:00Z; not scanned"
            ]
        );
        assert_eq!(told(status(&[soon, later], 2, 2, 0), NOW), nothing);
        assert_eq!(
            told(status(&[&longer, later], 3, 3, 0), NOW),
            ["changed: a.example, until 2026-11-26T12:00:09Z"]
        );
        assert_eq!(told(status(&[&over, later], 4, 3, 0), NOW + 9), nothing);
        // What it has come to is told, whatever it was to be.
        let over = over.replace("12:00:09", "12:00:07");
        assert_eq!(
            told(status(&[&over, later], 4, 4, 0), NOW + 10),
            ["ended: a.example, at 2026-11-26T12:00:07Z"]
        );
        // No room for it is no revocation.
        assert_eq!(told(status(&[&over], 4, 4, 1), NOW + 10), nothing);
        assert_eq!(told(status(&[later], 4, 4, 0), NOW + 10).len(), 1);
        assert_eq!(
            told(status(&[], 5, 5, 0), NOW + 20),
            ["revoked: b.example, before its end at 2026-11-26T13:00:00Z"]
        );
    }

    #[test]
    fn an_event_is_one_object_or_lines_that_stand_under_each_other() {
        let denial = look(READY, &[("a.example", 2)]);
        let event = events(None, &denial, "").pop().unwrap();
        assert_eq!(
            line(true, "now", &event),
            "{\"at\":\"now\",\"event\":\"refused\",\"text\":\"2 × a.example: not in the allowlist\",\
             \"host\":\"a.example\",\"count\":2,\"advice\":\"allow a.example\"}\n"
        );
        let plain = line(false, "2026-01-01T00:00:00Z", &event);
        let (first, second) = plain.trim_end().split_once('\n').unwrap();
        assert_eq!(
            first,
            "2026-01-01T00:00:00Z  refused   2 × a.example: not in the allowlist"
        );
        assert_eq!(second.trim_start(), "allow a.example");
        assert_eq!(first.find('2'), Some(0));
        assert_eq!(
            second.len() - second.trim_start().len(),
            first.find("2 ×").unwrap()
        );
    }
}
