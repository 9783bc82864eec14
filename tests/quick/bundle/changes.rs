//! What changes around a bundle that runs: the CA, the room there is, who is wanted; and how
//! long it waits for whoever never becomes ready.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

use sidecar_init::policy::daemons::{FIRST_USER, LAST_USER};

use super::*;
use crate::pair::{DAY, pair, provide};

/// Starts it with a tmpfs of its own for its run directory, where this is done first.
pub(super) fn start_with_room(bed: Bed, options: &str, first: &str) -> Init {
    let run = bed.path("run");
    fs::create_dir_all(&run).unwrap();
    let run = run.display();
    let mount = format!(
        "mount -t tmpfs -o {options},mode=755 none {run} && cd {run} && {{ {first} true; }}; cd / && exec \"$@\""
    );
    bed.start_under(
        Place::Child,
        Console::Read,
        &["unshare", "--mount", "sh", "-c", &mount, "sh"],
    )
    .with_own_mounts()
}

/// Nothing more can be written there.
pub(super) fn fill(init: &Init) -> PathBuf {
    let full = init.seen_path("run/full");
    let _ = fs::write(&full, vec![b'x'; 8 << 20]);
    full
}

#[test]
fn a_pair_that_changes_restarts_after_pipelock_whoever_was_told_of_it_and_nobody_else() {
    let [agent, gate] = ports();
    let mut init = bed(&five(agent, gate)).start(Place::Child);
    let before = wait_all_ready(&mut init);
    let told = init.console().len();
    let poller = Poller::of(&init, Some(agent));
    let new = pair(7, 1000 * DAY);
    provide(&init.bed, &new);
    let sha256 = new.facts.fingerprint_sha256.as_str();
    init.wait_for("the pair is in force", |status| {
        status["ca"]["fingerprint_sha256"] == sha256 && status["restarts"] == 1
    });
    init.wait_for("who was told of the old one is another", |status| {
        ["egress", "gate"]
            .iter()
            .all(|it| daemon(status, it)["restarts"] == 1)
    });
    let after = wait_all_ready(&mut init);
    for name in ["notes", "log"] {
        assert_eq!(pid_of(&before, name), pid_of(&after, name), "{name}");
        assert_eq!(daemon(&after, name)["restarts"], 0, "{name}");
    }
    for name in ["egress", "gate", "notes", "log"] {
        assert_eq!(daemon(&after, name)["failures"], 0, "{name}");
    }
    assert_eq!(after["failures"], 0);
    let trust = |name: &str| fs::read_to_string(init.bed.path("run/client").join(name)).unwrap();
    assert_eq!(trust("pipelock-ca.pem"), new.cert_pem);
    assert!(trust("ca-bundle.pem").ends_with(&new.cert_pem));
    init.wait_until("all is said", |init| {
        let said = init.console();
        said[told..].contains("ready again: gate").then_some(())
    });
    assert_order(
        &init.console()[told..],
        &[
            "the CA pair changed",
            "ready again, generation",
            "ready again: egress",
            "ready again: gate",
        ],
    );
    assert_eq!(asked(agent, "http://a.example/"), Some(200));
    // Nothing of it changed since, but what is there is looked at.
    let (bundle, ca) = ("run/client/ca-bundle.pem", "run/client/pipelock-ca.pem");
    let inode = |name: &str| fs::metadata(init.bed.path(name)).unwrap().ino();
    let (was, kept) = (inode(bundle), inode(ca));
    let bytes = fs::read(init.bed.path(bundle)).unwrap();
    fs::remove_file(init.bed.path(bundle)).unwrap();
    kill(Pid::from_raw(pid_of(&after, "gate")), Signal::SIGKILL).unwrap();
    init.wait_for("it is there again", |status| {
        daemon(status, "gate")["restarts"] == 2 && daemon(status, "gate")["state"] == "ready"
    });
    assert_eq!(fs::read(init.bed.path(bundle)).unwrap(), bytes);
    let inode = |name: &str| fs::metadata(init.bed.path(name)).unwrap().ino();
    assert_ne!(inode(bundle), was);
    assert_eq!(inode(ca), kept);
    stop(init, Some(poller));
}

/// The egress and three behind it, each after the one before.
fn chain(agent: u16, tail: &str) -> String {
    let mut all = egress(agent);
    let mut before = "egress";
    for name in ["one", "two", "three"] {
        all += &format!("  {name}: {{exec: [@, {name}{tail}], after: [{before}], proxy: false}}\n");
        before = name;
    }
    all
}

#[test]
fn those_that_a_manifest_removes_together_leave_in_the_reverse_order_of_their_start() {
    let [agent] = ports();
    let mut init = bed(&chain(agent, "")).start(Place::Child);
    let before = wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    let mut told = init.console().len();
    // Changed, all of them, and then taken away.
    let gone = |init: &Init, from: usize| {
        let said = init.console()[from..].to_owned();
        let all = ["one", "two", "three"].map(|it| format!("{it} (pid"));
        all.iter().all(|it| said.contains(it)).then_some(said)
    };
    set(&init.bed, &chain(agent, ", changed"));
    let said = init.wait_until("they are others", |init| gone(init, told));
    assert_order(&said, &["three (pid", "two (pid", "one (pid"]);
    let after = wait_all_ready(&mut init);
    for name in ["one", "two", "three"] {
        assert_ne!(pid_of(&before, name), pid_of(&after, name), "{name}");
    }
    told = init.console().len();
    set(&init.bed, &egress(agent));
    let said = init.wait_until("they are gone", |init| gone(init, told));
    assert_order(&said, &["three (pid", "two (pid", "one (pid"]);
    let last = init.wait_for("one is left", |status| {
        status["daemons"].as_array().unwrap().len() == 1
    });
    assert_eq!(pid_of(&before, "egress"), pid_of(&last, "egress"));
    stop(init, Some(poller));
}

#[test]
fn whoever_is_told_of_the_end_is_told_which_daemon_could_not_live_its_last_line_and_why() {
    let [agent, gate] = ports();
    let gate = |words: &str| {
        format!(
            "  gate: {{exec: [{words}], listen: [{gate}], ready: {{tcp: {gate}}}, after: [egress], proxy: false}}\n"
        )
    };
    for (words, code, why, last_line) in [
        (
            "@, gate, exit",
            69,
            "gate exited with code 3; it said: error: gate has a reason",
            Some("gate has a reason"),
        ),
        (
            "/nonexistent/gate",
            127,
            "gate: cannot execute /nonexistent/gate",
            None,
        ),
        (
            "@, gate, abort",
            69,
            "gate was killed by signal 6 (SIGABRT)",
            Some("gate begins"),
        ),
    ] {
        let bed = bed(&(egress(agent) + &gate(words)));
        let path = bed.path("told");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let init = bed
            .with_environment("NOTIFY_SOCKET", path.to_str().unwrap())
            .start(Place::Child);
        // Ten that nobody reads are all that such a socket holds.
        let ender = socket.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut statuses = Vec::new();
            while let Ok(length) = socket.recv(&mut buffer)
                && length > 0
            {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let lines = text.lines().filter_map(|it| it.strip_prefix("STATUS="));
                statuses.extend(lines.map(str::to_owned));
            }
            statuses
        });
        let end = init.wait_end();
        ender.shutdown(std::net::Shutdown::Read).unwrap();
        let statuses = reader.join().unwrap();
        let console = end.console_text();
        assert_eq!(end.code, code, "{console}");
        let error = end.error();
        assert!(error.contains(why), "{why}: {error}");
        let last = statuses.last().expect("a status");
        assert!(last.contains(why), "{why}: {statuses:#?}");
        let report = fs::read(end.bed.path("run/report.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        for status in [&report["status"], &end.result] {
            assert!(
                status["error"].as_str().unwrap().contains(why),
                "{status:#}"
            );
            let it = daemon(status, "gate");
            assert_eq!(
                (&it["state"], &it["failures"]),
                (&"failed".into(), &5.into()),
                "{it:#}"
            );
            if let Some(line) = last_line {
                let lines = it["last_lines"].to_string();
                assert!(lines.contains(line), "{lines}");
            }
        }
        assert_eq!(left_of(&end.bed), Vec::<String>::new());
    }
}

#[test]
fn all_eight_that_are_killed_at_once_come_back_in_their_order_and_once() {
    let mut init = bed(&eight(ports())).start(Place::Child);
    let before = wait_all_ready(&mut init);
    assert_eq!(all(&before).len(), 8);
    let poller = Poller::of(&init, None);
    let told = init.console().len();
    // At once: it hears of none before all are dead.
    init.signal(Signal::SIGSTOP);
    for (_, _, pid) in all(&before) {
        kill(Pid::from_raw(pid.unwrap()), Signal::SIGKILL).unwrap();
    }
    init.wait_until("all are dead", |_| {
        let mut killed = all(&before).into_iter().filter_map(|(_, _, pid)| pid);
        let is_dead = |it| proc_field(it, "State").is_none_or(|it| it.starts_with('Z'));
        killed.all(is_dead).then_some(())
    });
    init.signal(Signal::SIGCONT);
    init.wait_for("all are others", |status| {
        let mut all = all(status).into_iter();
        all.all(|(name, _, pid)| pid.is_some_and(|pid| pid != pid_of(&before, &name)))
    });
    let after = wait_all_ready(&mut init);
    assert_eq!(after["restarts"], 1);
    for it in after["daemons"].as_array().unwrap() {
        assert_eq!(
            (&it["restarts"], &it["failures"]),
            (&1.into(), &1.into()),
            "{it}"
        );
        assert_eq!(it["last_exit"]["code"], 137, "{it}");
    }
    init.wait_until("all is said", |init| {
        let said = init.console();
        said[told..].contains("ready again: last").then_some(())
    });
    let console = init.console();
    let names = ["egress", "gate", "notes", "one", "two", "three", "last"];
    let lines = names.map(|name| format!("ready again: {name}"));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_order(
        &console[told..],
        &[&["ready again, generation"][..], &lines].concat(),
    );
    for line in lines {
        assert_eq!(
            console.matches(&format!("{line}\n")).count()
                + console.matches(&format!("{line},")).count(),
            1,
            "{line}"
        );
    }
    stop(init, Some(poller));
}

#[test]
fn more_names_than_there_are_users_share_none_at_any_time() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("the daemons' users", "it takes root");
    }
    let [agent] = ports();
    let stays = egress(agent);
    let mut init = bed(&stays).start(Place::Child);
    let poller = Poller::of(&init, Some(agent));
    let before = wait_all_ready(&mut init);
    let users = usize::try_from(FIRST_USER - LAST_USER + 1).unwrap();
    let mut given: HashSet<u64> = HashSet::new();
    let mut names = 1;
    let mut again = 0;
    while names < users + 14 {
        let new: Vec<String> = (names..names + 7).map(|it| format!("d{it}")).collect();
        names += new.len();
        let wanted: String = new
            .iter()
            .map(|name| format!("  {name}: {{exec: [@, {name}], after: [], proxy: false}}\n"))
            .collect();
        set(&init.bed, &(stays.clone() + &wanted));
        init.signal(Signal::SIGHUP);
        let status = init.wait_for("these alone are there", |status| {
            let all = status["daemons"].as_array().unwrap();
            status["state"] == "ready"
                && all.len() == 8
                && new.iter().all(|it| daemon(status, it)["state"] == "ready")
        });
        let mut now = HashSet::new();
        for it in status["daemons"].as_array().unwrap() {
            let (pid, uid) = (it["pid"].as_i64().unwrap(), it["uid"].as_u64().unwrap());
            assert!(now.insert(uid), "two have {uid}: {status:#}");
            assert!(
                (u64::from(LAST_USER)..=u64::from(FIRST_USER)).contains(&uid),
                "{it}"
            );
            let real = proc_field(i32::try_from(pid).unwrap(), "Uid").unwrap();
            assert_eq!(
                real.split_whitespace().next(),
                Some(&*uid.to_string()),
                "{it}"
            );
            let own = init.bed.path("run").join(it["name"].as_str().unwrap());
            assert_eq!(u64::from(fs::metadata(own).unwrap().uid()), uid, "{it}");
            if it["name"] != "egress" {
                again += usize::from(!given.insert(uid));
            }
        }
        assert_eq!(pid_of(&status, "egress"), pid_of(&before, "egress"));
        assert_eq!(
            daemon(&status, "egress")["uid"],
            daemon(&before, "egress")["uid"]
        );
    }
    assert!(again > 0, "{names} names, {} users", given.len());
    assert_eq!(given.len(), users - 1);
    // Of those whose users others have by now nothing is left.
    init.wait_until("what they left is taken away", |init| {
        let left = fs::read_dir(init.bed.path("run")).unwrap().flatten();
        let left = left.filter(|it| {
            let name = it.file_name().into_string().unwrap();
            name.strip_prefix('d')
                .is_some_and(|it| it.parse::<usize>().is_ok())
        });
        (left.count() == 7).then_some(())
    });
    stop(init, Some(poller));
}

#[test]
fn a_reload_with_a_full_run_directory_is_followed_and_ends_nobody_else() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a full run directory", "mounting needs root");
    }
    let [agent, gate, late] = ports();
    let five = five(agent, gate);
    let mut init = start_with_room(bed(&five), "size=4m", "");
    let before = wait_all_ready(&mut init);
    let full = fill(&init);
    let more = format!(
        "  late: {{exec: [@, late, listen={late}], listen: [{late}], ready: {{tcp: {late}}}, after: [], proxy: false}}\n"
    );
    let changed = five.replace("@, log]", "@, log, changed]");
    set(&init.bed, &(changed + &more));
    init.wait_until("the new ones begin", |init| {
        let said = init.output();
        (said.matches("log begins").count() == 2 && said.contains("late begins")).then_some(())
    });
    init.wait_until("the new one serves", |_| {
        TcpStream::connect(("127.0.0.1", late)).ok()
    });
    assert_eq!(asked(agent, "http://canary.invalid/"), Some(403));
    fs::remove_file(full).unwrap();
    let after = init.wait_for("the status is true again", |status| {
        status["state"] == "ready"
            && ["late", "log"]
                .iter()
                .all(|it| daemon(status, it)["state"] == "ready")
            && daemon(status, "log")["pid"] != daemon(&before, "log")["pid"]
    });
    for name in ["pipelock", "egress", "gate", "notes"] {
        assert_eq!(pid_of(&before, name), pid_of(&after, name), "{name}");
    }
    assert_eq!(
        look(init.pid(), &init.seen_path("run/status.json")).0,
        Vec::<String>::new()
    );
    init.signal(Signal::SIGTERM);
    assert_eq!(init.wait_end().code, 0);
}

#[test]
fn a_bundle_that_begins_without_room_ends_by_the_name_of_what_could_not_be_had() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a full run directory", "mounting needs root");
    }
    let [agent] = ports();
    // Room for what pipelock needs, and not for what the others trust.
    for (size, code, named) in [
        ("size=4k", 73, "status.json"),
        ("size=128k", 69, "ca-bundle.pem"),
    ] {
        let init = start_with_room(bed(&egress(agent)), size, "");
        let end = init.wait_end();
        let (error, console) = (end.error(), end.console_text());
        assert_eq!(end.code, code, "{size}: {console}");
        assert!(error.contains(named), "{size}: {error}");
        assert!(error.contains("No space left on device"), "{size}: {error}");
        assert_eq!(left_of(&end.bed), Vec::<String>::new());
    }
}

/// Two minutes for one that never becomes ready are ten until it is given up: at full length
/// alone. That a start has a deadline, and five of them an end, tests/quick/machine.rs has.
#[test]
fn one_that_never_becomes_ready_fails_after_two_minutes_and_is_given_up_after_five_such() {
    if !is_at_full_length() {
        return skipped("ten minutes of waiting", "AT_FULL_LENGTH is not set");
    }
    let [agent, gate] = ports();
    let daemons = five(agent, gate).replace("@, gate,", "@, gate, never-bind,");
    let init = bed(&daemons).start(Place::Child);
    let poller = Poller::of(&init, Some(agent));
    let begun = Instant::now();
    let last = |init: &Init| {
        let status = init.status();
        (daemon(&status, "gate")["failures"].as_u64(), status)
    };
    for failures in 1..5 {
        let status = loop {
            if let (Some(it), status) = last(&init)
                && it == failures
            {
                break status;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(130 * failures),
                "{:#}",
                init.status()
            );
            thread::sleep(Duration::from_millis(100));
        };
        let since = begun.elapsed().as_secs();
        assert!(since >= 120 * failures, "{failures} after {since} s");
        let why = daemon(&status, "gate")["error"].as_str().unwrap();
        assert!(why.contains("120") && why.contains("gate"), "{why}");
        assert_eq!(daemon(&status, "notes")["state"], "waiting");
        assert_eq!(daemon(&status, "egress")["state"], "ready");
        assert!(
            status["error"].as_str().unwrap().contains("gate"),
            "{status:#}"
        );
        assert_eq!(asked(agent, "http://canary.invalid/"), Some(403));
    }
    while begun.elapsed() < Duration::from_secs(598) {
        thread::sleep(Duration::from_millis(100));
    }
    poller.end(&init);
    let end = init.wait_end();
    assert_eq!(end.code, 69, "{}", end.console_text());
    assert!(end.error().contains("gate"), "{}", end.error());
    assert!(end.error().contains("120"), "{}", end.error());
    assert_eq!(left_of(&end.bed), Vec::<String>::new());
}
