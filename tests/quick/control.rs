//! `halt`, `resume`, `reload` and `stop`: each returns when it is so, or says why it is not.
//! `watch`: what happens, as it happens.

use std::fs::{self, File};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use crate::support::{Bed, Init, Place, init_program, namespace_arguments, skipped};

/// What a command answered: its code, and what it printed, an error's words where it failed.
fn answer(output: &Output) -> (Option<i32>, String) {
    let text = if output.status.success() {
        &output.stdout
    } else {
        &output.stderr
    };
    let text = String::from_utf8(text.clone()).unwrap();
    (output.status.code(), text)
}

fn ready() -> Init {
    let mut init = Bed::new().start(Place::Child);
    init.wait_ready();
    init
}

#[test]
fn each_returns_when_it_is_so_and_says_what_is_true_then() {
    let init = ready();
    let ask = |command| answer(&init.bed.run(&[command]));
    let is = |words: &str| (Some(0), format!("{words}\n"));
    for _ in 0..3 {
        // The second time it is so already.
        for _ in 0..2 {
            assert_eq!(
                ask("halt"),
                is("halted; nothing gets through until it is resumed")
            );
            assert_eq!(init.status()["state"], "halted");
            assert_eq!(init.status()["port"]["closed"], true);
        }
        for _ in 0..2 {
            assert_eq!(ask("resume"), is("ready; what is not allowed is refused"));
            assert_eq!(init.status()["state"], "ready");
        }
    }
    assert_eq!(ask("stop"), is("stopped; nothing gets through"));
    assert_eq!(ask("stop"), is("stopped; nothing gets through"));
    let end = init.wait_end();
    assert_eq!((end.code, &end.result["outcome"]), (0, &"stopped".into()));
}

#[test]
fn what_was_true_before_somebody_elses_request_is_no_answer() {
    let mut init = ready();
    assert_eq!(answer(&init.bed.run(&["halt"])).0, Some(0));
    // It will hear of a resume as soon as it moves again.
    init.signal(Signal::SIGSTOP);
    init.signal(Signal::SIGUSR2);
    let (code, why) = answer(&init.bed.run(&["halt", "--timeout", "1"]));
    assert_eq!(code, Some(69), "{why}");
    init.signal(Signal::SIGCONT);
    // Of the two the halt wins.
    init.wait_for("both are heard", |status| {
        status["requests"] == 3 && status["state"] == "halted"
    });
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_reload_is_answered_whatever_the_manifest_asks_for() {
    let init = ready();
    let ask = || answer(&init.bed.run(&["reload"]));
    let same = "the manifest asks for the same as before: generation 1 is in force\n";
    assert_eq!(ask(), (Some(0), same.to_owned()));
    init.bed.allow(&["a.example", "new.example"]);
    assert_eq!(ask(), (Some(0), "generation 2 is in force\n".to_owned()));
    assert_eq!(init.status()["config"]["applied_generation"], 2);

    init.bed
        .replace_manifest("version: 1\nslug: Bad\nbottle: {}\n");
    let (code, why) = ask();
    assert_eq!(code, Some(65), "{why}");
    assert!(why.contains("manifest.yaml:2: slug"), "{why}");
    assert!(why.contains("the manifest of generation 2 stays"), "{why}");

    init.bed.allow(&["a.example"]);
    assert_eq!(answer(&init.bed.run(&["halt"])).0, Some(0));
    let read = "generation 3 is read, and in force once it is resumed\n";
    assert_eq!(ask(), (Some(0), read.to_owned()));
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn who_cannot_be_asked_is_said_to_be_so() {
    let empty = Bed::new();
    let (code, why) = answer(&empty.run(&["halt"]));
    assert_eq!(code, Some(69));
    assert!(
        why.contains("no sidecar-init runs with this run directory"),
        "{why}"
    );

    // An export has the status, and nobody to ask.
    let mut init = Bed::new().with_export().start(Place::Child);
    init.wait_ready();
    let output = Command::new(init_program())
        .args(["stop", "--run-dir"])
        .arg(init.bed.path("run/export"))
        .output()
        .unwrap();
    let (code, why) = answer(&output);
    assert_eq!(code, Some(69));
    assert!(
        why.contains(
            "nobody is known to run with it\n  hint: give --run-dir the run directory itself"
        ),
        "{why}"
    );
    assert_eq!(init.status()["state"], "ready");

    // One that does not move: asked, and not said to have obeyed.
    init.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let (code, why) = answer(&init.bed.run(&["halt", "--timeout", "1"]));
    assert_eq!(code, Some(69));
    assert!(
        why.contains("asked to halt, and it has not within 1 s: ready"),
        "{why}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    init.signal(Signal::SIGCONT);
    init.wait_for("it is halted after all", |status| {
        status["state"] == "halted"
    });

    // One that was killed is nobody, and its number may be another's by now.
    let bed = init.kill();
    let (code, why) = answer(&bed.run(&["resume"]));
    assert_eq!(code, Some(69));
    assert!(why.contains("killed, and its pipelock with it"), "{why}");
    assert!(why.contains("name another with --run-dir"), "{why}");
}

#[test]
fn nobody_s_process_is_signalled_by_a_number_of_another_namespace() {
    if let Err(why) = namespace_arguments() {
        return skipped("an init in a PID namespace of its own", &why);
    }
    let mut init = Bed::new().start(Place::Namespace);
    init.wait_ready();
    // It is 1 there, which here is somebody else.
    for command in ["halt", "reload", "stop"] {
        let (code, why) = answer(&init.bed.run(&[command]));
        assert_eq!(code, Some(69), "{why}");
        assert!(why.contains("it runs in another PID namespace"), "{why}");
    }
    let pid = init.pid().to_string();
    let inside = |command: &str| {
        let output = Command::new("nsenter")
            .args(["--pid", "--mount", "--target", &pid])
            .arg(init_program())
            .args([command, "--run-dir"])
            .arg(init.bed.path("run"))
            .output()
            .unwrap();
        answer(&output)
    };
    let halted = "halted; nothing gets through until it is resumed\n".to_owned();
    assert_eq!(inside("halt"), (Some(0), halted));
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_stop_from_inside_a_container_says_so_before_it_ends_with_that() {
    if let Err(why) = namespace_arguments() {
        return skipped("an init in a PID namespace of its own", &why);
    }
    for _ in 0..3 {
        let mut init = Bed::new().start(Place::Namespace);
        init.wait_ready();
        let output = Command::new("nsenter")
            .args(["--pid", "--mount", "--target", &init.pid().to_string()])
            .arg(init_program())
            .args(["stop", "--run-dir"])
            .arg(init.bed.path("run"))
            .output()
            .unwrap();
        let said = "stopping: no daemon is left, and this command ends with all the others\n";
        assert_eq!(answer(&output), (Some(0), said.to_owned()));
        let end = init.wait_end();
        assert_eq!(end.code, 0, "{}", end.console_text());
        assert_eq!(end.result["state"], "stopped");
    }
}

#[test]
fn somebody_else_s_directory_has_nobody_signalled_but_its_owner_s() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("the lock of another user", "it takes root to make one");
    }
    let init = ready();
    let bed = Bed::new();
    let run = bed.path("run");
    fs::create_dir_all(&run).unwrap();
    fs::copy(init.bed.path("run/status.json"), run.join("status.json")).unwrap();
    fs::copy(init.bed.path("run/lock"), run.join("lock")).unwrap();
    std::os::unix::fs::chown(run.join("lock"), Some(65534), Some(65534)).unwrap();
    let lock = File::options().write(true).open(run.join("lock")).unwrap();
    // As an init has it.
    let whole = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).unwrap(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    let (code, why) = answer(&bed.run(&["halt"]));
    assert_eq!(code, Some(69));
    assert!(why.contains("names a process of another user"), "{why}");
    assert_eq!(init.status()["state"], "ready");
    assert_eq!(init.stop().0.code, 0);
}

/// It would go on for ever.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_watches_hears_of_everything_once_over_a_restart_too() {
    let refused = r#"{"event":"blocked","method":"CONNECT","target":"pypi.example:443","scanner":"allowlist","reason":"domain not in allowlist: pypi.example"}"#;
    let bed = Bed::new().with_export().with_lines(&format!("{refused}\n"));
    let told = bed.path("told");
    let watch = Command::new(init_program())
        .args(["watch", "--run-dir"])
        .arg(bed.path("run/export"))
        .stdout(File::create(&told).unwrap())
        .stderr(Stdio::null())
        .spawn();
    let mut watch = Watching(watch.unwrap());
    // The kind of each event that begins a line, and its text.
    let told_of = |path: &std::path::Path| -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("20"));
        lines.map(|line| line[22..].to_owned()).collect()
    };
    let hears = |wanted: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !told_of(&told).iter().any(|line| line.starts_with(wanted)) {
            let lines = told_of(&told);
            assert!(Instant::now() < deadline, "no {wanted:?}: {lines:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    hears("nothing   cannot read ");
    let init = bed.start(Place::Child);
    hears("state     ready; what is not allowed is refused");
    hears("manifest  generation 1 of the manifest is in force");
    hears("refused   1 × pypi.example: not in the allowlist");
    let text = fs::read_to_string(&told).unwrap();
    assert!(text.contains("- host: pypi.example"), "{text}");
    init.bed.allow(&["b.example"]);
    hears("manifest  generation 2 of the manifest is in force");
    hears("revoked   a.example");
    // The daemon was restarted for it, and says its line again.
    hears("refused   2 × pypi.example");
    init.kill_daemon();
    hears("daemon    pipelock ended: was killed by signal 9");
    assert_eq!(answer(&init.bed.run(&["halt"])).0, Some(0));
    hears("state     halted; nothing gets through");
    let (end, _) = init.stop();
    hears("state     stopped; nothing gets through");
    let init = end.bed.start(Place::Child);
    hears("started   sidecar-init was started again");
    assert!(watch.0.try_wait().unwrap().is_none(), "it goes on");
    drop(watch);
    // Nothing is told twice that did not happen twice.
    let lines = told_of(&told);
    for once in ["manifest  generation 2", "refused   2 × pypi.example"] {
        let times = lines.iter().filter(|line| line.starts_with(once)).count();
        assert_eq!(times, 1, "{once}: {lines:#?}");
    }
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn whoever_watches_ends_when_nobody_reads() {
    let init = ready();
    let mut watch = Command::new(init_program())
        .args(["watch", "--json", "--run-dir"])
        .arg(init.bed.path("run"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(watch.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&event["event"], &event["text"]),
        (
            &"state".into(),
            &"ready; what is not allowed is refused".into()
        )
    );
    drop(output);
    init.bed.allow(&["new.example"]);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    assert_eq!(init.stop().0.code, 0);
}
