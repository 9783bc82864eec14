//! `halt`, `resume`, `reload` and `stop`: each returns when it is so, or says why it is not.
//! `watch`: what happens, as it happens.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use sidecar_init::ca::rfc3339;

use crate::support::{Bed, Init, Place, init_program, namespace_arguments, open_terminal, skipped};

/// In seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

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

#[test]
fn an_init_that_starts_is_not_taken_for_the_one_before_it() {
    let mut init = ready();
    let own = init.status();
    let run = init.bed.path("run");
    let write = |status: &str| {
        fs::write(run.join("new"), status).unwrap();
        fs::rename(run.join("new"), run.join("status.json")).unwrap();
    };
    let earlier = own.to_string().replace(
        own["boot_id"].as_str().unwrap(),
        "00000000-0000-4000-8000-000000000000",
    );
    let late = ["--timeout", "1"];
    let ask = |bed: &Bed, command| answer(&bed.run(&[&[command], &late[..]].concat()));
    // As it is between the lock and the first status: it has the directory, and others wrote this.
    init.signal(Signal::SIGSTOP);
    for state in ["stopped", "ready"] {
        write(&earlier.replace("\"state\":\"ready\"", &format!("\"state\":\"{state}\"")));
        for command in ["status", "resume", "reload", "healthcheck"] {
            let (code, why) = ask(&init.bed, command);
            assert_ne!(code, Some(0), "{state} {command}: {why}");
            let words = "the sidecar-init that starts there has not written it yet";
            assert!(why.contains(words), "{state} {command}: {why}");
        }
    }
    fs::remove_file(run.join("status.json")).unwrap();
    let (code, why) = ask(&init.bed, "halt");
    assert_eq!(code, Some(69), "{why}");
    assert!(why.contains("has not written it yet"), "{why}");
    assert!(why.contains("asked to halt all the same"), "{why}");
    init.signal(Signal::SIGCONT);
    init.wait_until("it is halted", |init| {
        let text = fs::read_to_string(init.bed.path("run/status.json")).ok()?;
        text.contains("\"state\":\"halted\"").then_some(())
    });
    assert_eq!(ask(&init.bed, "stop").0, Some(0));
    assert_eq!(init.wait_end().code, 0);
    let nobody = Command::new(init_program())
        .args(["stop", "--run-dir", "/nonexistent/run"])
        .output();
    let (code, why) = answer(&nobody.unwrap());
    assert_eq!(code, Some(69), "a wrong name is no success: {why}");
}

#[test]
fn a_halt_is_asked_for_whatever_cannot_be_had_besides() {
    let mut init = ready();
    // Where no process can be forked.
    let calls = "fork,vfork,clone,clone3";
    let halt = Command::new("strace")
        .args([
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={calls}"),
            "-e",
        ])
        .arg(format!("inject={calls}:error=EAGAIN"))
        .args([init_program(), "halt", "--run-dir"])
        .arg(init.bed.path("run"))
        .output();
    match halt {
        Ok(output) => {
            let halted = "halted; nothing gets through until it is resumed\n".to_owned();
            assert_eq!(answer(&output), (Some(0), halted));
            assert_eq!(answer(&init.bed.run(&["resume"])).0, Some(0));
        }
        Err(why) => skipped("a halt without a fork", &why.to_string()),
    }
    // Where the status says nothing.
    init.signal(Signal::SIGSTOP);
    fs::write(init.bed.path("run/status.json"), "{").unwrap();
    let (code, why) = answer(&init.bed.run(&["halt", "--timeout", "1"]));
    assert_eq!(code, Some(69), "{why}");
    assert!(why.contains("asked to halt all the same"), "{why}");
    init.signal(Signal::SIGCONT);
    init.wait_until("it is halted", |init| {
        let text = fs::read_to_string(init.bed.path("run/status.json")).ok()?;
        text.contains("\"state\":\"halted\"").then_some(())
    });
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
    let until = rfc3339(now() + 3600);
    let granted = format!("grants: [{{host: g.example, until: {until}}}]");
    let text = init.bed.manifest_text(&["b.example"], &granted);
    init.bed.replace_manifest(&text);
    hears(&format!("grant     begun: g.example, until {until}"));
    let longer = rfc3339(now() + 7200);
    init.bed.replace_manifest(&text.replace(&until, &longer));
    hears(&format!("grant     changed: g.example, until {longer}"));
    let soon = rfc3339(now() + 3);
    init.bed.replace_manifest(&text.replace(&until, &soon));
    hears(&format!("grant     ended: g.example, at {soon}"));
    init.bed
        .replace_manifest(&text.replace("g.example", "h.example"));
    hears(&format!("grant     begun: h.example, until {until}"));
    init.bed.allow(&["b.example"]);
    hears(&format!(
        "grant     revoked: h.example, before its end at {until}"
    ));
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

/// A `watch` on a terminal of its own, and all that was written there.
struct Seen {
    process: Watching,
    user: File,
    text: Arc<Mutex<Vec<u8>>>,
}

const ENTERED: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const LEFT: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

impl Seen {
    fn begin(bed: &Bed, options: &[&str], term: &str) -> Self {
        let (user, line) = open_terminal();
        sized(&line, "24", "80");
        let process = Command::new(init_program())
            .arg("watch")
            .args(options)
            .arg("--run-dir")
            .arg(bed.path("run"))
            .current_dir(bed.path(""))
            .env("TERM", term)
            .env_remove("NO_COLOR")
            .stdin(line.try_clone().unwrap())
            .stdout(line)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let text = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, all) = (user.try_clone().unwrap(), Arc::clone(&text));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO: nobody holds its line any more.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                all.lock().unwrap().extend(&bytes[..count]);
            }
        });
        Self {
            process: Watching(process),
            user,
            text,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// The lines of the newest picture that is whole.
    fn picture(&self) -> Vec<String> {
        let text = self.text();
        let whole = text.rsplit("\u{1b}[H").find(|it| it.contains("\u{1b}[J"));
        let whole = whole.unwrap_or_default().split("\u{1b}[J").next().unwrap();
        // The terminal adds a return of its own.
        let lines = whole.split('\n').map(|line| line.trim_end_matches('\r'));
        let lines = lines.map(|line| {
            let colours = ["[K", "[0m", "[1m", "[31m", "[32m", "[33m"];
            colours.iter().fold(line.to_owned(), |line, code| {
                line.replace(&format!("\u{1b}{code}"), "")
            })
        });
        lines.collect()
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !wanted(self) {
            let lines = self.picture();
            assert!(Instant::now() < deadline, "{what}: {lines:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn shows(&self, words: &str) {
        let has = |line: &String| line.contains(words);
        self.wait(words, |seen| seen.picture().iter().any(has));
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.0.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    /// How it ends, once the terminal has all of it.
    fn ends(mut self) -> (std::process::ExitStatus, String) {
        let status = self.process.0.wait().unwrap();
        self.wait("it is left", |seen| seen.text().ends_with(LEFT));
        (status, self.text())
    }
}

/// Gives a terminal its size.
fn sized(line: &File, rows: &str, columns: &str) {
    let status = Command::new("stty")
        .args(["rows", rows, "cols", columns])
        .stdin(line.try_clone().unwrap())
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn on_a_terminal_one_picture_shows_what_is_true_and_is_drawn_anew_when_that_changes() {
    let refused = r#"{"event":"blocked","method":"CONNECT","target":"pypi.example:443","scanner":"allowlist","reason":"domain not in allowlist: pypi.example"}"#;
    let bed = Bed::new().with_lines(&format!("{refused}\n"));
    let until = rfc3339(now() + 3570);
    let granted = format!("grants: [{{host: g.example, until: {until}}}]");
    bed.replace_manifest(&bed.manifest_text(&["a.example"], &granted));
    let seen = Seen::begin(&bed, &[], "xterm");
    seen.shows("cannot read ");
    let init = bed.start(Place::Child);
    seen.shows(": ready; what is not allowed is refused");
    seen.shows(&format!("  proxy         {}", init.bed.address()));
    seen.shows("  hosts         2 allowed, by generation 1 of the manifest");
    seen.shows("  granted       g.example, ends in 59 min, until ");
    seen.shows("  refused       1 × pypi.example: not in the allowlist");
    seen.shows("                sidecar-init grant pypi.example");
    seen.shows("  grant     begun: g.example, until ");
    // Another count is no second refusal.
    init.kill_daemon();
    seen.shows("  refused       2 × pypi.example: not in the allowlist");
    let lines = seen.picture();
    let times = lines.iter().filter(|line| line.contains("× pypi.example"));
    assert_eq!(times.count(), 1, "{lines:#?}");
    assert!(seen.text().contains("\u{1b}[31m"), "colours");

    let (_, line) = (&seen.user, seen.user.try_clone().unwrap());
    sized(&line, "9", "30");
    seen.signal(Signal::SIGWINCH);
    seen.wait("it fits", |seen| {
        let lines = seen.picture();
        let fits = |line: &String| line.chars().count() <= 30;
        (2..=9).contains(&lines.len()) && lines.iter().all(fits)
    });
    sized(&line, "50", "120");
    seen.signal(Signal::SIGWINCH);
    seen.shows("  granted       g.example, ends in 59 min, until ");

    // Somebody else's page, while it is away.
    seen.signal(Signal::SIGTSTP);
    seen.wait("it is left", |seen| seen.text().ends_with(LEFT));
    seen.signal(Signal::SIGCONT);
    seen.wait("it is back", |seen| {
        seen.text().matches(ENTERED).count() == 2
    });

    assert_eq!(answer(&init.bed.run(&["halt"])).0, Some(0));
    seen.shows(": halted; nothing gets through until it is resumed");
    let (end, _) = init.stop();
    seen.shows(": stopped; nothing gets through");
    let init = end.bed.start(Place::Child);
    seen.shows("  started   sidecar-init was started again");
    seen.shows(": ready; what is not allowed is refused");
    seen.signal(Signal::SIGTERM);
    let (status, text) = seen.ends();
    assert_eq!(status.signal(), Some(15));
    assert_eq!(text.matches(ENTERED).count(), text.matches(LEFT).count());
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn whatever_ends_it_the_terminal_is_as_it_was() {
    let init = ready();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let seen = Seen::begin(&init.bed, &[], "xterm");
        seen.shows(": ready; ");
        seen.signal(signal);
        let (status, text) = seen.ends();
        assert_eq!(status.signal(), Some(signal as i32));
        assert_eq!(text.matches(LEFT).count(), 1, "{text:?}");
    }
    // One that was stopped by ^S takes nothing, and holds nobody.
    let mut seen = Seen::begin(&init.bed, &[], "xterm");
    seen.shows(": ready; ");
    (&seen.user).write_all(b"\x13").unwrap();
    assert_eq!(answer(&init.bed.run(&["halt"])).0, Some(0));
    seen.signal(Signal::SIGTERM);
    assert_eq!(seen.process.0.wait().unwrap().signal(), Some(15));
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn a_terminal_that_is_not_to_be_drawn_on_has_lines() {
    let init = ready();
    let seen = Seen::begin(&init.bed, &["--json"], "xterm");
    seen.wait("an object", |seen| {
        seen.text().contains(r#""event":"state","text":"ready;"#)
    });
    assert!(!seen.text().contains('\u{1b}'), "{}", seen.text());
    let seen = Seen::begin(&init.bed, &[], "dumb");
    seen.wait("a line", |seen| {
        seen.text().contains("Z  state     ready; ")
    });
    assert!(!seen.text().contains('\u{1b}'), "{}", seen.text());
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn whoever_watches_ends_when_nobody_reads_though_nothing_happens() {
    let mut init = ready();
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
    let ended = init.wait_until("it ends", |_| watch.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    assert_eq!(init.stop().0.code, 0);
}
