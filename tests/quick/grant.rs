//! `grant`: a host is allowed for a time by an edit of the manifest that changes nothing else of
//! it, and the command returns when that is in force.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Bed, Init, Place, init_program, sha256, skipped};

fn command(bed: &Bed, arguments: &[&str]) -> Command {
    let mut command = Command::new(init_program());
    command.arg("grant").args(arguments);
    let has = |name: &str| arguments.contains(&name);
    if !has("--manifest") {
        command.arg("--manifest").arg(bed.manifest());
    }
    if !has("--run-dir") && !has("--export") {
        command.arg("--run-dir").arg(bed.path("run"));
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What the command answered: its code, and what it printed, an error's words where it failed.
fn grant(bed: &Bed, arguments: &[&str]) -> (i32, String) {
    answer(&command(bed, arguments).output().unwrap())
}

fn answer(output: &Output) -> (i32, String) {
    let text = if output.status.success() {
        &output.stdout
    } else {
        &output.stderr
    };
    let text = String::from_utf8(text.clone()).unwrap();
    (output.status.code().unwrap(), text)
}

fn ready() -> Init {
    started(Bed::new())
}

fn started(bed: Bed) -> Init {
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    init
}

fn text(bed: &Bed) -> String {
    fs::read_to_string(bed.manifest()).unwrap()
}

/// Whether what pipelock runs on has the host.
fn allows(bed: &Bed, host: &str) -> bool {
    let config = fs::read_to_string(bed.path("run/pipelock.yaml")).unwrap();
    config.contains(&format!("  - \"{host}\"\n"))
}

fn nothing_is_left_over(bed: &Bed) {
    let names = fs::read_dir(bed.path("")).unwrap().flatten();
    let mut names: Vec<_> = names
        .map(|it| it.file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name.starts_with('.'));
    assert_eq!(names, [""; 0]);
}

#[test]
fn a_grant_is_in_force_when_the_command_returns_and_gone_when_it_was_taken_back() {
    let bed = Bed::new().with_export();
    let before = bed.manifest_text(&["a.example"], "grants: # by hand\n# the end\n");
    bed.replace_manifest(&before);
    let init = started(bed);
    let bed = &init.bed;
    let (code, said) = grant(bed, &["New.Example.", "--for", "1h"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("granted: new.example, ends in "), "{said}");
    assert!(
        said.ends_with(": generation 2 is in force, and the canary was refused again\n"),
        "{said}"
    );
    let status = init.status();
    assert_eq!(status["config"]["applied_generation"], 2);
    assert_eq!(
        status["config"]["manifest_sha256"],
        sha256(&fs::read(bed.manifest()).unwrap())
    );
    assert_eq!(status["config"]["refused_sha256"], Value::Null);
    assert!(allows(bed, "new.example"));
    let after = text(bed);
    let (head, line) = after.split_once("by hand\n").unwrap();
    assert!(before.starts_with(head));
    assert!(
        line.starts_with("  - {host: new.example, until: 20"),
        "{line}"
    );
    assert!(line.ends_with("Z}\n# the end\n"), "{line}");

    // Another end is another manifest, and the same configuration: it is proved again.
    let end = ["new.example", "--until", "2027-01-01T00:00:00+01:00"];
    let (code, said) = grant(bed, &end);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains(": generation 3 is in force, and the canary"),
        "{said}"
    );
    assert!(text(bed).contains("  - {host: new.example, until: 2026-12-31T23:00:00Z}\n"));

    // From the host's side.
    let export = bed.path("run/export");
    let other = [
        "b.example",
        "--export",
        export.to_str().unwrap(),
        "--passthrough",
    ];
    let (code, said) = grant(bed, &other);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("; not scanned: generation 4"), "{said}");

    let (code, said) = grant(bed, &["--revoke", "b.example"]);
    assert_eq!(code, 0, "{said}");
    let status = init.status();
    let done = status["revocation"]["done_at"].as_str().unwrap();
    assert_eq!(
        said,
        format!("b.example was revoked at {done}, with every tunnel: that is generation 5\n")
    );
    let (code, said) = grant(bed, &["--revoke", "new.example"]);
    assert_eq!(code, 0, "{said}");
    assert!(!allows(bed, "new.example"));
    assert_eq!(text(bed), before);
    nothing_is_left_over(bed);
}

#[test]
fn a_generation_that_changes_nothing_for_pipelock_is_in_force_once_the_canary_was_refused() {
    // Nobody else asks for a minute.
    let mut init = started(Bed::new().with_supervisor("grace_seconds: 1, probe_seconds: 60"));
    let daemon = init.daemon();
    init.bed.break_daemon(&format!("allow-everything {daemon}"));
    let manifest = init
        .bed
        .manifest_text(&["a.example"], "network: {internal: one}\n");
    init.bed.replace_manifest(&manifest);
    let status = init.wait_applied(2);
    assert_eq!(status["restarts"], 1, "it let the canary by: {status}");
    // And one that refuses it goes on.
    let manifest = init
        .bed
        .manifest_text(&["a.example"], "network: {internal: two}\n");
    init.bed.replace_manifest(&manifest);
    let status = init.wait_applied(3);
    assert_eq!(status["restarts"], 1, "{status}");
}

#[test]
fn ten_at_once_lose_nothing_and_each_returns_when_its_own_is_in_force() {
    let init = ready();
    let hosts: Vec<String> = (0..10).map(|it| format!("h{it}.example")).collect();
    let before = text(&init.bed);
    let all: Vec<Child> = hosts
        .iter()
        .map(|host| command(&init.bed, &[host]).spawn().unwrap())
        .collect();
    for one in all {
        let (code, said) = answer(&one.wait_with_output().unwrap());
        assert_eq!(code, 0, "{said}");
    }
    let after = text(&init.bed);
    assert!(after.starts_with(&before), "{after}");
    for host in &hosts {
        assert_eq!(
            after.matches(&format!("host: {host},")).count(),
            1,
            "{after}"
        );
        assert!(allows(&init.bed, host));
    }
    let all: Vec<Child> = hosts
        .iter()
        .map(|host| command(&init.bed, &["--revoke", host]).spawn().unwrap())
        .collect();
    for one in all {
        let (code, said) = answer(&one.wait_with_output().unwrap());
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(text(&init.bed), format!("{before}grants:\n"));
    nothing_is_left_over(&init.bed);
}

#[test]
fn whoever_is_killed_while_it_writes_leaves_a_whole_manifest() {
    let mut init = ready();
    // It takes nothing up, and the commands wait until they are killed.
    init.signal(Signal::SIGSTOP);
    let before = text(&init.bed);
    let mut written = 0;
    for round in 0..60_u64 {
        let host = format!("h{round}.example");
        let mut one = command(&init.bed, &[&host]).spawn().unwrap();
        thread::sleep(Duration::from_micros(400 * round));
        one.kill().unwrap();
        one.wait().unwrap();
        let now = text(&init.bed);
        assert!(now.starts_with(&before), "{now}");
        let judged = sidecar_init::policy::read(now.as_bytes(), true, 0).unwrap();
        let granted = judged.policy.grants.len();
        assert!(granted == written || granted == written + 1, "{now}");
        written = granted;
    }
    init.signal(Signal::SIGCONT);
    // What was left is the next one's to take away.
    let (code, said) = grant(&init.bed, &["last.example"]);
    assert_eq!(code, 0, "{said}");
    assert!(written > 0 && allows(&init.bed, "last.example"));
    nothing_is_left_over(&init.bed);
    init.wait_ready();
}

/// Its status names the very bytes that the revocation brings back, and is older than that.
#[test]
fn bytes_that_were_in_force_before_are_not_taken_for_read_again() {
    let bed = Bed::new();
    let before = bed.manifest_text(&["a.example"], "grants: []\n");
    bed.replace_manifest(&before);
    let mut init = started(bed);
    init.signal(Signal::SIGSTOP);
    // As often as somebody likes.
    for _ in 0..2 {
        let (code, said) = grant(&init.bed, &["b.example", "--timeout", "1"]);
        assert_eq!(code, 75, "{said}");
        let (code, said) = grant(&init.bed, &["--revoke", "b.example", "--timeout", "1"]);
        assert_eq!(code, 75, "{said}");
        assert!(
            said.contains("written, and not in force within 1 s"),
            "{said}"
        );
    }
    assert_eq!(text(&init.bed), before);
    let mut waits = command(&init.bed, &["--revoke", "b.example"])
        .spawn()
        .unwrap();
    assert!(waits.try_wait().unwrap().is_none());
    init.signal(Signal::SIGCONT);
    let (code, said) = answer(&waits.wait_with_output().unwrap());
    assert_eq!(code, 0, "{said}");
    assert!(!allows(&init.bed, "b.example"));
    init.wait_ready();
}

/// What there is nothing to do for is said once it is so, and not because the manifest says so.
#[test]
fn that_nothing_had_to_be_changed_is_said_once_the_manifest_is_in_force() {
    let init = ready();
    init.signal(Signal::SIGSTOP);
    init.bed.allow(&["a.example", "b.example"]);
    for (arguments, said_first) in [
        (
            &["--revoke", "z.example"][..],
            "z.example is not granted, nor allowed otherwise: nothing was changed",
        ),
        (
            &["b.example"],
            "b.example is allowed already, and without an end, by ",
        ),
    ] {
        let (code, said) = grant(&init.bed, &[arguments, &["--timeout", "1"]].concat());
        assert_eq!(code, 75, "{said}");
        assert!(said.contains(said_first), "{said}");
        assert!(
            said.contains("nothing was changed, and not in force within 1 s: ready; "),
            "{said}"
        );
    }
    init.signal(Signal::SIGCONT);
    let (code, said) = grant(&init.bed, &["b.example"]);
    assert_eq!(code, 0, "{said}");
    assert!(allows(&init.bed, "b.example"));
    let (code, said) = grant(&init.bed, &["--revoke", "z.example"]);
    assert_eq!(code, 0, "{said}");
    // Nobody proves it where nobody is.
    let bed = init.kill();
    let (code, said) = grant(&bed, &["--revoke", "z.example"]);
    assert_eq!(code, 69, "{said}");
    assert!(
        said.contains("nothing was changed, and nobody is there"),
        "{said}"
    );
}

#[test]
fn whoever_may_merely_read_keeps_nobody_from_taking_a_grant_back() {
    let init = ready();
    let directory = fs::File::open(init.bed.path("")).unwrap();
    directory.lock().unwrap();
    let manifest = fs::File::open(init.bed.manifest()).unwrap();
    manifest.lock().unwrap();
    for arguments in [&["b.example"][..], &["--revoke", "b.example"]] {
        let (code, said) = grant(&init.bed, arguments);
        assert_eq!(code, 0, "{said}");
    }
    nothing_is_left_over(&init.bed);

    // What somebody left who was killed is taken away.
    let lock = init.bed.path(".manifest.yaml.sidecar-lock");
    fs::write(&lock, "").unwrap();
    let (code, said) = grant(&init.bed, &["b.example"]);
    assert_eq!(code, 0, "{said}");
    nothing_is_left_over(&init.bed);
}

#[test]
fn what_is_in_the_way_of_an_edit_is_named() {
    let init = ready();
    let before = text(&init.bed);
    for name in [".manifest.yaml.sidecar-init", ".manifest.yaml.sidecar-lock"] {
        let obstacle = init.bed.path(name);
        fs::create_dir(&obstacle).unwrap();
        let (code, said) = grant(&init.bed, &["b.example"]);
        assert_eq!(code, 73, "{said}");
        assert!(
            said.contains(&format!("{}: Is a directory", obstacle.display())),
            "{said}"
        );
        assert!(
            said.contains("hint: nothing was changed; whoever put that"),
            "{said}"
        );
        assert_eq!(text(&init.bed), before);
        fs::remove_dir(obstacle).unwrap();
    }
    let lock = init.bed.path(".manifest.yaml.sidecar-lock");
    symlink("victim", &lock).unwrap();
    let (code, said) = grant(&init.bed, &["b.example"]);
    assert_eq!(code, 73, "{said}");
    assert!(said.contains("it is a link"), "{said}");
    assert!(!init.bed.path("victim").exists());
}

/// As on a disk without room for a log.
#[test]
fn what_was_done_is_so_by_its_code_where_nobody_can_be_told() {
    let init = ready();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for (arguments, words) in [
        (&["b.example"][..], "granted: b.example"),
        (&["--revoke", "b.example"], "b.example was revoked at "),
    ] {
        let mut command = command(&init.bed, arguments);
        let output = command.stdout(full()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(
            said.starts_with("sidecar-init: cannot write standard output: No space left on device"),
            "{said}"
        );
        assert!(
            said.contains(&format!("it is so all the same:\n{words}")),
            "{said}"
        );
    }
    for request in ["halt", "resume", "reload"] {
        let run = init.bed.path("run");
        let mut command = Command::new(init_program());
        command.arg(request).arg("--run-dir").arg(run);
        let ended = command.stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(ended.code(), Some(0), "{request}");
    }
    // What was asked for a text has failed without it, and says so by its code alone.
    for arguments in [&["b.example", "--dry-run"][..], &["--revoke", "a.example"]] {
        let mut command = command(&init.bed, arguments);
        let ended = command.stdout(full()).stderr(full()).status().unwrap();
        let wanted = if arguments.contains(&"--dry-run") {
            73
        } else {
            65
        };
        assert_eq!(ended.code(), Some(wanted));
    }
}

#[test]
fn a_grant_of_what_a_registry_gives_away_has_the_note_of_check() {
    let init = ready();
    let dry = command(&init.bed, &["*.co.uk", "--dry-run"])
        .output()
        .unwrap();
    assert!(dry.status.success(), "{dry:?}");
    let note = String::from_utf8_lossy(&dry.stderr);
    assert!(note.starts_with("note: "), "beside the patch: {dry:?}");
    let (code, said) = grant(&init.bed, &["*.co.uk"]);
    assert_eq!(code, 0, "{said}");
    let note = "\"*.co.uk\" allows every host below co.uk, whosever it is\nhint: name the domains that are meant\n";
    assert!(said.contains("\nnote: ") && said.ends_with(note), "{said}");
    let (code, said) = grant(&init.bed, &["*.co.uk", "--for", "2h"]);
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("note: "), "it is known: {said}");
}

#[test]
fn a_halted_sidecar_takes_it_up_when_it_is_resumed() {
    let mut init = ready();
    assert_eq!(init.bed.run(&["halt"]).status.code(), Some(0));
    let (code, said) = grant(&init.bed, &["b.example"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.ends_with(": generation 2 is read, and in force once it is resumed\n"),
        "{said}"
    );
    let (code, said) = grant(&init.bed, &["c.example"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = grant(&init.bed, &["c.example", "--revoke"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("c.example was revoked at "), "{said}");
    assert_eq!(init.bed.run(&["resume"]).status.code(), Some(0));
    init.wait_applied(4);
    assert!(allows(&init.bed, "b.example") && !allows(&init.bed, "c.example"));
}

#[test]
fn another_start_that_reads_the_same_manifest_takes_it_up_as_well() {
    let init = ready();
    init.signal(Signal::SIGSTOP);
    let mut waits = command(&init.bed, &["b.example"]).spawn().unwrap();
    let before = text(&init.bed);
    while text(&init.bed) == before {
        assert!(waits.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(1));
    }
    let bed = init.kill();
    let manifest = bed.manifest();
    let mut other = bed.start(Place::Child);
    let answered = answer(&waits.wait_with_output().unwrap());
    // It may have looked while nobody was there.
    if answered.0 != 69 {
        assert_eq!(answered.0, 0, "{}", answered.1);
        assert!(
            answered.1.contains(": generation 1 is in force"),
            "{}",
            answered.1
        );
    }
    // Not what the other left.
    other.wait_for("the manifest with it is in force", |status| {
        let config = &status["config"];
        status["state"] == "ready"
            && config["manifest_sha256"] == sha256(&fs::read(&manifest).unwrap())
            && config["applied_generation"] == 1
    });
    assert!(allows(&other.bed, "b.example"));
}

#[test]
fn what_is_typed_wrong_is_told_with_what_to_write() {
    let init = ready();
    let before = text(&init.bed);
    for (arguments, why) in [
        (&["https://b.example/"][..], "hint: write \"b.example\""),
        (
            &["b.example", "--until", "2026-01-01T00:00:00Z"],
            "is over: it is 20",
        ),
        (
            &["b.example", "--until", "2030-01-01"],
            "has no time of day and no offset",
        ),
        (
            &["b.example", "--manifest", "-"],
            "standard input is not kept",
        ),
    ] {
        let (code, said) = grant(&init.bed, arguments);
        assert_eq!(code, 64, "{said}");
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(text(&init.bed), before);
    assert_eq!(init.status()["config"]["generation"], 1);
}

#[test]
fn what_check_refuses_is_refused_in_its_words_and_not_written() {
    let init = ready();
    let before = text(&init.bed);
    let (code, said) = grant(&init.bed, &["b.example", "--until", "2090-01-01T00:00:00Z"]);
    assert_eq!(code, 65, "{said}");
    assert!(
        said.contains(
            "manifest.yaml:11: grants[0].until: \"2090-01-01T00:00:00Z\" is more than a year"
        ),
        "{said}"
    );
    assert!(
        said.ends_with("that is how it would read; nothing was changed\n"),
        "{said}"
    );
    assert_eq!(text(&init.bed), before);

    let odd = init.bed.manifest_text(&["a.example"], "grants: !!seq []\n");
    for (manifest, why) in [
        (
            before.replace("slug: bed", "slug: Bed"),
            "manifest.yaml:2: slug: ",
        ),
        (odd, "manifest.yaml:10: grants: "),
    ] {
        init.bed.replace_manifest(&manifest);
        for arguments in [&["b.example"][..], &["--revoke", "b.example"]] {
            let (code, said) = grant(&init.bed, arguments);
            assert_eq!(code, 65, "{said}");
            assert!(said.contains(why), "{said}");
            assert!(
                said.ends_with("it was so before, and nothing was changed\n"),
                "{said}"
            );
            assert_eq!(text(&init.bed), manifest);
        }
    }
}

#[test]
fn what_is_allowed_anyway_is_told_with_its_line() {
    let init = ready();
    let text = init.bed.manifest_text(&["a.example", "'*.b.example'"], "");
    init.bed.replace_manifest(&text);
    init.bed.run(&["reload"]);
    let (code, said) = grant(&init.bed, &["x.b.example"]);
    assert_eq!(code, 0, "{said}");
    let line = format!("{}:7: \"*.b.example\"", init.bed.manifest().display());
    assert_eq!(
        said,
        format!(
            "x.b.example is allowed already, and without an end, by {line}: nothing was changed\n"
        )
    );
    let (code, said) = grant(&init.bed, &["x.b.example", "--revoke"]);
    assert_eq!(code, 65, "{said}");
    assert!(
        said.contains(&format!(
            "x.b.example is not granted, and allowed, by {line}: nothing was changed"
        )),
        "{said}"
    );
    let (code, said) = grant(&init.bed, &["z.example", "--revoke"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        said,
        "z.example is not granted, nor allowed otherwise: nothing was changed\n"
    );
    assert_eq!(self::text(&init.bed), text);
    // Unscanned it is not, without the grant.
    let (code, said) = grant(&init.bed, &["x.b.example", "--passthrough"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = grant(&init.bed, &["x.b.example", "--revoke"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("x.b.example stays allowed, by "), "{said}");
    let (code, said) = grant(&init.bed, &["*.c.example"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = grant(&init.bed, &["x.c.example", "--revoke"]);
    assert_eq!(code, 65, "{said}");
    assert!(
        said.contains("by the grant of *.c.example, until "),
        "{said}"
    );
}

#[test]
fn where_nobody_is_there_nothing_is_granted_and_a_grant_is_taken_back_all_the_same() {
    let bed = Bed::new();
    let before = bed.manifest_text(
        &["a.example"],
        "grants:\n- {host: b.example, until: 2026-12-31T00:00:00Z}\n",
    );
    bed.replace_manifest(&before);
    let (code, said) = grant(&bed, &["c.example"]);
    assert_eq!(code, 69, "{said}");
    assert!(
        said.contains("no sidecar-init runs with this run directory"),
        "{said}"
    );
    assert!(said.ends_with("nothing was changed\n"), "{said}");
    assert_eq!(text(&bed), before);
    let bed = started(bed).kill();
    let (code, said) = grant(&bed, &["c.example"]);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("killed, and its pipelock with it"), "{said}");
    assert_eq!(text(&bed), before);
    let (code, said) = grant(&bed, &["b.example", "--revoke"]);
    assert_eq!(code, 69, "{said}");
    assert!(
        said.contains("was changed, and nobody is there to take it up"),
        "{said}"
    );
    assert_eq!(text(&bed), bed.manifest_text(&["a.example"], "grants:\n"));
}

#[test]
fn what_is_not_taken_up_in_time_is_said_to_be_written_and_no_more() {
    let init = ready();
    init.signal(Signal::SIGSTOP);
    let (code, said) = grant(&init.bed, &["b.example", "--timeout", "1"]);
    assert_eq!(code, 75, "{said}");
    assert!(
        said.contains("written, and not in force within 1 s: ready; what is not allowed is refused; it has not read that manifest"),
        "{said}"
    );
    assert!(text(&init.bed).contains("host: b.example"));

    // Somebody else takes it out while it waits.
    let mut waits = command(&init.bed, &["c.example"]).spawn().unwrap();
    while !text(&init.bed).contains("host: c.example") {
        assert!(waits.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(1));
    }
    init.bed.allow(&["a.example"]);
    let (code, said) = answer(&waits.wait_with_output().unwrap());
    assert_eq!(code, 75, "{said}");
    assert!(
        said.contains("was changed once more since, by somebody else"),
        "{said}"
    );
    init.signal(Signal::SIGCONT);

    // Another edits, and does not come to an end.
    let lock = init.bed.path(".manifest.yaml.sidecar-lock");
    let lock = fs::File::create(lock).unwrap();
    lock.lock().unwrap();
    let (code, said) = grant(&init.bed, &["b.example", "--timeout", "1"]);
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("and has not come to an end"), "{said}");
}

#[test]
fn a_manifest_that_is_not_there_or_cannot_be_replaced_is_said_to_be_so() {
    let init = ready();
    let path = |name: &str| init.bed.path(name).to_str().unwrap().to_owned();
    let (code, said) = grant(&init.bed, &["b.example", "--manifest", &path("none.yaml")]);
    assert_eq!(code, 66, "{said}");

    fs::create_dir(init.bed.path("..data")).unwrap();
    fs::write(init.bed.path("..data/manifest.yaml"), text(&init.bed)).unwrap();
    symlink("..data/manifest.yaml", init.bed.path("link.yaml")).unwrap();
    let (code, said) = grant(&init.bed, &["b.example", "--manifest", &path("link.yaml")]);
    assert_eq!(code, 73, "{said}");
    assert!(
        said.contains("it is a link to ..data/manifest.yaml"),
        "{said}"
    );
    assert!(said.contains("kubectl edit configmap"), "{said}");

    if !nix::unistd::geteuid().is_root() {
        return skipped("a manifest that is mounted", "mounting needs root");
    }
    let by_hand = "- {host: b.example, until: 20";
    for (mount, why) in [
        (
            "mount --bind \"$0\" \"$0\"",
            "is mounted by itself: a file that replaces it never arrives here",
        ),
        (
            "d=$(dirname \"$0\"); mount --bind \"$d\" \"$d\"; mount -o remount,ro,bind \"$d\"",
            "Read-only file system",
        ),
    ] {
        let script = format!("{mount}; shift 0; exec \"$@\"");
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-ec", &script, &path("manifest.yaml")])
            .args([
                init_program(),
                "grant",
                "b.example",
                "--manifest",
                &path("manifest.yaml"),
            ])
            .args(["--run-dir", &path("run")])
            .output()
            .unwrap();
        let (code, said) = answer(&output);
        assert_eq!(code, 73, "{said}");
        assert!(said.contains(why) && said.contains(by_hand), "{said}");
    }
    assert!(!text(&init.bed).contains("b.example"));
}

#[test]
fn a_dry_run_shows_the_difference_and_needs_nobody() {
    let bed = Bed::new();
    let (code, said) = grant(
        &bed,
        &["b.example", "--until", "2026-12-31T00:00:00Z", "--dry-run"],
    );
    assert_eq!(code, 0, "{said}");
    let manifest = bed.manifest().display().to_string();
    let wanted = format!(
        "--- {manifest}\n+++ {manifest}\n@@ -6,3 +6,5 @@\n       - host: a.example\n pipelock:\n   listen: \"{}\"\n",
        bed.address
    );
    let after = "+grants:\n+  - {host: b.example, until: 2026-12-31T00:00:00Z}\n";
    let before = text(&bed);
    assert!(
        said.starts_with(&format!("--- {manifest}\n+++ {manifest}\n@@ -")),
        "{said}\n{wanted}"
    );
    assert!(said.ends_with(after), "{said}");
    assert_eq!(text(&bed), before);
}

#[test]
fn what_is_written_is_never_said_not_to_be() {
    let Some(tracer) = crate::faults::tracer() else {
        return;
    };
    let init = ready();
    // The new file is synced first, and then its directory.
    let injected = "inject=fsync:error=EIO:when=2";
    for (arguments, words) in [
        (&["b.example"][..], "granted: b.example"),
        (&["b.example", "--revoke"], "b.example was revoked at "),
    ] {
        let plain = command(&init.bed, arguments);
        let output = Command::new(tracer[0])
            .args(&tracer[1..])
            .args(["-e", injected])
            .arg(plain.get_program())
            .args(plain.get_args())
            .output()
            .unwrap();
        let (code, said) = answer(&output);
        assert_eq!(code, 0, "{said}");
        assert!(said.starts_with(words), "{said}");
        assert!(said.contains("\nnote: after a loss of power "), "{said}");
        assert_eq!(
            allows(&init.bed, "b.example"),
            !arguments.contains(&"--revoke")
        );
    }
}

#[test]
fn a_manifest_keeps_its_owner_and_its_mode() {
    let init = ready();
    let manifest = init.bed.manifest();
    let is_root = nix::unistd::geteuid().is_root();
    fs::set_permissions(&manifest, fs::Permissions::from_mode(0o640)).unwrap();
    if is_root {
        chown(&manifest, Some(1234), Some(2345)).unwrap();
    }
    let kept = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode(), metadata.uid(), metadata.gid())
    };
    let before = kept(&manifest);
    let (code, said) = grant(&init.bed, &["b.example"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(kept(&manifest), before);
    assert!(text(&init.bed).contains("host: b.example"));
}
