//! A CA pair that changes, or whose time ends, while the init runs: what is served, exported
//! and reported is one pair at every moment.

use std::fs;
use std::os::unix::fs::chown;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::Value;
use sidecar_init::ca::{ENTROPY_BYTES, Pair, generate};

use crate::support::{Bed, Init, Place};

pub const DAY: u64 = 86_400;
const TEN_YEARS: u64 = 3_650 * DAY;

fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// A pair of its own for each seed, that is valid for so many seconds more.
pub fn pair(seed: u8, seconds: u64) -> Pair {
    let entropy: [u8; ENTROPY_BYTES] =
        std::array::from_fn(|i| seed ^ u8::try_from(i % 251).unwrap().wrapping_mul(37));
    generate(&entropy, clock() + seconds - TEN_YEARS).unwrap()
}

/// Puts a file in its place by renaming, readable for the daemon alone.
fn put(bed: &Bed, name: &str, text: &str) {
    let new = bed.path("new");
    fs::write(&new, text).unwrap();
    let mut mode = fs::metadata(&new).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o600);
    fs::set_permissions(&new, mode).unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(&new, Some(65534), Some(65534)).unwrap();
    }
    fs::rename(new, bed.path(name)).unwrap();
}

pub fn provide(bed: &Bed, pair: &Pair) {
    put(bed, "run/ca.key", &pair.key_pem);
    put(bed, "run/ca.crt", &pair.cert_pem);
}

fn exported(init: &Init) -> String {
    fs::read_to_string(init.bed.path("run/export/pipelock-ca.pem")).unwrap_or_default()
}

/// The certificate that the daemon's configuration names.
fn served(init: &Init) -> String {
    let config = fs::read_to_string(init.bed.path("run/pipelock.yaml")).unwrap();
    let line = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("ca_cert: "));
    fs::read_to_string(line.unwrap().trim_matches('"')).unwrap()
}

fn warnings(status: &Value) -> String {
    status["warnings"].to_string()
}

fn is_in_force(status: &Value, pair: &Pair) -> bool {
    status["ca"]["fingerprint_sha256"] == pair.facts.fingerprint_sha256.as_str()
}

fn wait_in_force(init: &mut Init, pair: &Pair) -> Value {
    let status = init.wait_for("the pair is in force", |status| {
        status["state"] == "ready" && is_in_force(status, pair)
    });
    init.wait_until("it is exported", |init| {
        (exported(init) == pair.cert_pem).then_some(())
    });
    assert_eq!(served(init), pair.cert_pem);
    status
}

fn healthcheck(bed: &Bed) -> (i32, String) {
    let output = bed.run(&["healthcheck"]);
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn a_pair_that_is_replaced_is_served_exported_and_reported_together() {
    let mut init = Bed::new().with_export().start(Place::Child);
    let begun = init.wait_ready();
    assert_eq!(begun["ca"]["source"], "generated");
    let new = pair(1, 1000 * DAY);
    provide(&init.bed, &new);
    let status = wait_in_force(&mut init, &new);
    assert_eq!(status["ca"]["source"], "provided");
    assert_eq!(
        (&status["restarts"], &status["failures"]),
        (&1.into(), &0.into())
    );
    let bundle = fs::read_to_string(init.bed.path("run/export/ca-bundle.pem")).unwrap();
    assert!(bundle.ends_with(&new.cert_pem));
    // A host that is added later is told beside the same pair.
    init.bed.allow(&["a.example", "b.example"]);
    init.wait_applied(2);
    wait_in_force(&mut init, &new);
    let (end, _) = init.stop();
    assert_eq!(end.code, 0);
    for name in [
        "served-ca.pem",
        "served-ca-key.pem",
        "next-ca.pem",
        "next-ca-key.pem",
    ] {
        assert!(!end.bed.path("run").join(name).exists(), "{name} is left");
    }
}

#[test]
fn a_pair_that_is_written_anew_and_is_the_same_costs_nothing() {
    let bed = Bed::new().with_export();
    let same = pair(2, 1000 * DAY);
    fs::create_dir_all(bed.path("run")).unwrap();
    provide(&bed, &same);
    let mut init = bed
        .with_environment("SIDECAR_LOG", "debug")
        .start(Place::Child);
    init.wait_ready();
    provide(&init.bed, &same);
    init.wait_until("it was judged", |init| {
        init.console()
            .contains("the CA pair is the same as before")
            .then_some(())
    });
    assert_eq!(init.status()["restarts"], 0);
}

type Spoil<'a> = &'a dyn Fn(&Bed);

#[test]
fn a_daemon_that_crashes_beside_a_bad_pair_serves_the_one_that_was_in_force() {
    let bed = Bed::new().with_export();
    let old = pair(3, 1000 * DAY);
    fs::create_dir_all(bed.path("run")).unwrap();
    provide(&bed, &old);
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    wait_in_force(&mut init, &old);
    let other = pair(4, 1000 * DAY);
    let cases: [(Spoil, &str); 4] = [
        (&|bed| put(bed, "run/ca.crt", "nothing"), "is not PEM"),
        (
            &|bed| put(bed, "run/ca.crt", &other.cert_pem),
            "the key does not match",
        ),
        (
            &|bed| fs::remove_file(bed.path("run/ca.crt")).unwrap(),
            "half a CA pair",
        ),
        (
            &|bed| fs::remove_file(bed.path("run/ca.key")).unwrap(),
            "not there any more",
        ),
    ];
    for (number, (spoil, says)) in cases.into_iter().enumerate() {
        spoil(&init.bed);
        // At once, before anybody can have noticed, and then once it was.
        for noticed in [false, true] {
            if noticed {
                let status = init.wait_for("it is told", |status| {
                    let warnings = warnings(status);
                    warnings.contains("the changed CA pair is not used, the old one stays in force")
                        && warnings.contains(says)
                });
                assert!(is_in_force(&status, &old), "{status}");
            }
            let restarts = init.status()["restarts"].as_u64().unwrap();
            if number == 0 {
                init.kill_daemon();
            } else {
                // Started again as well, and no failure: five in a minute were too many.
                init.signal(Signal::SIGUSR1);
                init.wait_for("it is halted", |status| status["state"] == "halted");
                init.signal(Signal::SIGUSR2);
            }
            init.wait_ready_after(restarts + 1);
            wait_in_force(&mut init, &old);
        }
    }
    provide(&init.bed, &old);
    init.wait_for("the warning is over", |status| {
        status["state"] == "ready" && !warnings(status).contains("CA pair")
    });
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_pair_that_changes_while_halted_is_served_once_it_is_resumed() {
    let mut init = Bed::new().with_export().start(Place::Child);
    init.wait_ready();
    init.signal(Signal::SIGUSR1);
    init.wait_for("it is halted", |status| status["state"] == "halted");
    let new = pair(5, 1000 * DAY);
    provide(&init.bed, &new);
    init.wait_until("it was judged", |init| {
        init.console().contains("the CA pair changed").then_some(())
    });
    assert_eq!(init.status()["state"], "halted");
    init.signal(Signal::SIGUSR2);
    wait_in_force(&mut init, &new);
}

#[test]
fn a_ca_that_expires_while_it_is_served_is_told_before_and_after_and_can_be_replaced() {
    let bed = Bed::new().with_export();
    fs::create_dir_all(bed.path("run")).unwrap();
    // Valid for eight days: nothing to say.
    let long = pair(6, 8 * DAY);
    provide(&bed, &long);
    let mut init = bed.start(Place::Child);
    let status = init.wait_ready();
    assert!(!warnings(&status).contains("the CA"), "{status}");
    assert_eq!(healthcheck(&init.bed), (0, String::new()));

    let short = pair(7, 12);
    provide(&init.bed, &short);
    let status = wait_in_force(&mut init, &short);
    assert!(warnings(&status).contains("the CA expires at "), "{status}");
    let (code, said) = healthcheck(&init.bed);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with("sidecar-init: warning: the CA expires at "),
        "{said}"
    );

    let status = init.wait_for("it has expired", |status| {
        warnings(status).contains("the CA expired at ")
    });
    assert!(
        !warnings(&status).contains("the CA expires at "),
        "{status}"
    );
    let (code, said) = healthcheck(&init.bed);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.starts_with("sidecar-init: not ready: the CA expired at "),
        "{said}"
    );
    assert!(said.contains("put another pair in its place"), "{said}");

    let new = pair(8, 1000 * DAY);
    provide(&init.bed, &new);
    let status = wait_in_force(&mut init, &new);
    assert!(!warnings(&status).contains("the CA"), "{status}");
    assert_eq!(healthcheck(&init.bed), (0, String::new()));
}
