//! A bundle of daemons under fire, through the real binary: whatever breaks, in which order,
//! nothing gets past pipelock, nobody is there twice or left behind, and whoever looks at the
//! status is told what is.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::fixture::worker;
use crate::support::{Bed, Console, End, Init, Place, children, others, proc_field, skipped};

mod changes;
mod stops;

/// Of a machine that is busy: what is told may be so much older than what is.
const BEHIND: Duration = Duration::from_millis(1500);

/// Ports on the loopback that nobody else here has; below those that the kernel gives.
fn ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    std::array::from_fn(|_| {
        loop {
            let port = NEXT.fetch_add(1, Ordering::Relaxed);
            if TcpListener::bind(("0.0.0.0", port)).is_ok() {
                return port;
            }
        }
    })
}

/// A bed with these daemons; in their text `@` is the program, and `%` pipelock's address.
fn bed(daemons: &str) -> Bed {
    let bed = Bed::new();
    set(&bed, daemons);
    bed
}

fn text(bed: &Bed, daemons: &str) -> String {
    let program = worker().to_str().unwrap();
    let daemons = daemons.replace('@', program).replace('%', bed.address());
    bed.manifest_text(&["a.example"], &format!("daemons:\n{daemons}"))
}

fn set(bed: &Bed, daemons: &str) {
    bed.replace_manifest(&text(bed, daemons));
}

/// The agent's proxy.
fn egress(port: u16) -> String {
    format!(
        "  egress: {{exec: [@, egress, listen={port}, \"through=%\"], listen: [{port}], connect: [8888], \
         ready: {{tcp: {port}}}, agent_proxy: {port}}}\n"
    )
}

/// What one is told from now on.
fn tell(init: &Init, name: &str, words: &str) {
    let new = init.bed.path("do.new");
    fs::write(&new, words).unwrap();
    fs::rename(new, init.bed.path(&format!("run/{name}/do"))).unwrap();
}

fn daemon<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut all = status["daemons"].as_array().into_iter().flatten();
    all.find(|it| it["name"] == name).unwrap_or(&Value::Null)
}

/// All of them, pipelock as well, and what each is at.
fn all(status: &Value) -> Vec<(String, String, Option<i32>)> {
    let pid = |it: &Value| it["pid"].as_i64().map(|pid| i32::try_from(pid).unwrap());
    let word = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let companions = status["daemons"].as_array().into_iter().flatten();
    let mut all: Vec<_> = companions
        .map(|it| (word(&it["name"]), word(&it["state"]), pid(it)))
        .collect();
    all.push(("pipelock".to_owned(), String::new(), pid(&status["daemon"])));
    all
}

fn wait_all_ready(init: &mut Init) -> Value {
    init.wait_for("all are ready", |status| {
        let companions = status["daemons"].as_array();
        status["state"] == "ready"
            && companions.is_some_and(|all| all.iter().all(|it| it["state"] == "ready"))
    })
}

fn pid_of(status: &Value, name: &str) -> i32 {
    let mut all = all(status).into_iter();
    all.find_map(|(it, _, pid)| pid.filter(|_| it == name))
        .unwrap()
}

/// Looks all the time whether the status is true, nobody is there twice, and nobody who ended
/// is left; and asks for what has to be refused, where the agent asks.
struct Poller {
    goes_on: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
    refused: Arc<AtomicUsize>,
}

impl Poller {
    fn of(init: &Init, agent: Option<u16>) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let refused = Arc::new(AtomicUsize::new(0));
        let (pid, status) = (init.pid(), init.bed.path("run/status.json"));
        let shared = Arc::clone(&goes_on);
        let mut threads = vec![thread::spawn(move || {
            let mut lies = Vec::new();
            let mut doubts: HashMap<String, Instant> = HashMap::new();
            while shared.load(Ordering::Relaxed) && lies.len() < 5 {
                let (certain, doubtful) = look(pid, &status);
                lies.extend(certain);
                doubts.retain(|doubt, _| doubtful.contains(doubt));
                for doubt in doubtful {
                    let since = *doubts.entry(doubt.clone()).or_insert_with(Instant::now);
                    if since.elapsed() > BEHIND {
                        lies.push(format!("for {BEHIND:?}: {doubt}"));
                        doubts.remove(&doubt);
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            lies
        })];
        if let Some(port) = agent {
            let (shared, refused) = (Arc::clone(&goes_on), Arc::clone(&refused));
            threads.push(thread::spawn(move || {
                let mut past = Vec::new();
                while shared.load(Ordering::Relaxed) && past.is_empty() {
                    match asked(port, "http://canary.invalid/") {
                        Some(status) if status < 400 => past.push(format!("the canary: {status}")),
                        Some(403) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => {}
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                past
            }));
        }
        Self {
            goes_on,
            threads,
            refused,
        }
    }

    /// Ends it; how often the canary was refused by pipelock's word.
    fn end(self, init: &Init) -> usize {
        self.goes_on.store(false, Ordering::Relaxed);
        for thread in self.threads {
            let lies = thread.join().unwrap();
            assert!(
                lies.is_empty(),
                "{lies:#?}\n{:#}\n{}",
                init.status(),
                init.console()
            );
        }
        self.refused.load(Ordering::Relaxed)
    }
}

/// What is wrong whenever it is seen, and what is wrong where it lasts.
fn look(init: i32, status: &Path) -> (Vec<String>, Vec<String>) {
    let (mut certain, mut doubtful) = (Vec::new(), Vec::new());
    let Ok(bytes) = fs::read(status) else {
        return (certain, doubtful);
    };
    let status: Value = serde_json::from_slice(&bytes).expect("never half of one");
    let told = all(&status);
    for (name, state, pid) in &told {
        let rests = ["waiting", "backoff", "halted", "failed", "stopped"];
        if pid.is_some() == rests.contains(&state.as_str()) && pid.is_some()
            || pid.is_none() && state == "ready"
        {
            certain.push(format!("{name} is {state} with {pid:?}"));
        }
        if *state != "ready"
            && status["state"] == "ready"
            && daemon(&status, name)["essential"] == true
        {
            certain.push(format!("the bundle is ready, and {name} is {state}"));
        }
    }
    let mut there: HashMap<String, i32> = HashMap::new();
    for child in children(init) {
        let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        if proc_field(child, "State").is_some_and(|it| it.starts_with('Z')) {
            doubtful.push(format!("{child} is a zombie"));
            continue;
        }
        let program = words.first().and_then(|it| it.rsplit('/').next());
        let name = match program {
            Some("worker") => words[1].clone().into_owned(),
            Some("pipelock") => "pipelock".to_owned(),
            _ => continue,
        };
        let still = || children(init);
        if let Some(other) = there.insert(name.clone(), child)
            && still().contains(&other)
            && still().contains(&child)
        {
            certain.push(format!("{name} is there twice: {other}, {child}"));
        }
        if !told.contains(&(name.clone(), String::new(), Some(child)))
            && !told
                .iter()
                .any(|(it, _, pid)| *it == name && *pid == Some(child))
        {
            doubtful.push(format!("{name}, {child}, is not told of"));
        }
    }
    for (name, _, pid) in told {
        if pid.is_some() && there.get(&name).copied() != pid {
            doubtful.push(format!("{name} is told to be {pid:?}"));
        }
    }
    (certain, doubtful)
}

/// The status of the answer, where there is one.
fn asked(port: u16, target: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .ok()?;
    write!(stream, "GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while !answer.windows(4).any(|it| it == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => answer.extend(&buffer[..count]),
            _ => return None,
        }
    }
    String::from_utf8_lossy(&answer)
        .split(' ')
        .nth(1)?
        .parse()
        .ok()
}

/// Stops it: in time, as asked, with nobody left and a status that says so.
fn stop(init: Init, poller: Option<Poller>) -> String {
    stopped(init, poller).1.console_text()
}

/// The same: the first that it told of that, and all that came of it.
fn stopped(init: Init, poller: Option<Poller>) -> (Value, End) {
    init.signal(Signal::SIGTERM);
    asked_to_stop(init, poller)
}

/// Of one that was asked to stop at this moment.
fn asked_to_stop(mut init: Init, poller: Option<Poller>) -> (Value, End) {
    let begun = Instant::now();
    let first = init.wait_until("it stops", |init| {
        let status = init.status();
        let stops = status["state"] == "stopping" || status["exit_code"].is_i64();
        (stops || children(init.pid()).is_empty()).then_some(status)
    });
    if let Some(poller) = poller {
        poller.end(&init);
    }
    let end = init.wait_end();
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(4),
        "{took:?}\n{}",
        end.console_text()
    );
    assert_eq!(end.code, 0, "{}", end.console_text());
    for (name, state, pid) in all(&end.result) {
        assert_eq!(pid, None, "{name}");
        assert!(state != "ready" && state != "stopping", "{name} is {state}");
    }
    assert_eq!(end.result["daemon"]["state"], "stopped");
    assert_eq!(left_of(&end.bed), Vec::<String>::new());
    (first, end)
}

/// Whoever is there still and was started with a directory of this bed's.
fn left_of(bed: &Bed) -> Vec<String> {
    let own = bed.path("run").into_os_string().into_string().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let (line, variables) = (read("cmdline"), read("environ"));
            let is_of = |text: &[u8]| memchr::memmem::find(text, own.as_bytes()).is_some();
            (is_of(&line) || is_of(&variables)).then(|| {
                let name = String::from_utf8_lossy(&line).replace('\0', " ");
                format!("{}: {name}", entry.file_name().display())
            })
        })
        .collect()
}

/// What takes long is shorter than it might be, unless `AT_FULL_LENGTH` is set in the environment
/// of the tests (`AT_FULL_LENGTH=1 cargo test --test quick bundle::`).
fn is_at_full_length() -> bool {
    std::env::var_os("AT_FULL_LENGTH").is_some()
}

/// What the console says in this order.
fn assert_order(console: &str, lines: &[&str]) {
    let mut rest = console;
    for line in lines {
        let at = rest.find(line);
        let at = at.unwrap_or_else(|| panic!("no {line:?} after the others: {lines:?}\n{console}"));
        rest = &rest[at + line.len()..];
    }
}

/// pipelock and seven more, each after the one before: the last is `last`.
fn eight([agent, gate]: [u16; 2]) -> String {
    let mut all = egress(agent);
    all += &format!(
        "  gate: {{exec: [@, gate, listen={gate}], listen: [{gate}], ready: {{http: \"{gate}/\"}}, after: [egress]}}\n"
    );
    let mut before = "gate";
    for name in ["notes", "one", "two", "three", "last"] {
        all += &format!(
            "  {name}: {{exec: [@, {name}], ready: notify, after: [{before}], proxy: false}}\n"
        );
        before = name;
    }
    all
}

fn five(agent: u16, gate: u16) -> String {
    format!(
        "{}  gate: {{exec: [@, gate, listen={gate}], listen: [{gate}], ready: {{http: \"{gate}/\"}}, after: [egress]}}\n  \
         notes: {{exec: [@, notes], ready: notify, after: [gate], proxy: false}}\n  \
         log: {{exec: [@, log], after: [], proxy: false, essential: false}}\n",
        egress(agent)
    )
}

#[test]
fn each_that_is_killed_under_traffic_comes_back_alone_and_all_at_once_in_their_order() {
    let [agent, gate] = ports();
    let mut init = bed(&five(agent, gate)).start(Place::Child);
    let mut before = wait_all_ready(&mut init);
    init.wait_until("all is said", |init| {
        init.console().contains("the whole bundle").then_some(())
    });
    assert_order(
        &init.console(),
        &[
            "ready: pipelock",
            "ready: egress",
            "ready: gate",
            "ready: notes",
            "the whole bundle",
        ],
    );
    let poller = Poller::of(&init, Some(agent));
    for name in ["pipelock", "egress", "gate", "notes", "log"] {
        kill(Pid::from_raw(pid_of(&before, name)), Signal::SIGKILL).unwrap();
        let old = before.clone();
        init.wait_for("another is there", |status| {
            let mut all = all(status).into_iter();
            all.any(|(it, _, pid)| it == name && pid.is_some() && pid != Some(pid_of(&old, name)))
        });
        let after = wait_all_ready(&mut init);
        for (other, _, pid) in all(&before).into_iter().filter(|(it, ..)| it != name) {
            assert_eq!(Some(pid_of(&after, &other)), pid, "{other}, for {name}");
        }
        before = after;
    }
    let told = init.console().len();
    for (_, _, pid) in all(&before) {
        kill(Pid::from_raw(pid.unwrap()), Signal::SIGKILL).unwrap();
    }
    init.wait_for("all are others", |status| {
        let mut all = all(status).into_iter();
        all.all(|(name, _, pid)| pid.is_some_and(|pid| pid != pid_of(&before, &name)))
    });
    wait_all_ready(&mut init);
    // The console is read by another thread than the status.
    init.wait_until("all is said", |init| {
        let said = init.console();
        said[told..].contains("ready again: notes").then_some(())
    });
    assert_order(
        &init.console()[told..],
        &[
            "ready again, generation",
            "ready again: egress",
            "ready again: gate",
            "ready again: notes",
        ],
    );
    let status = init.status();
    assert_eq!(status["restarts"], 2);
    for name in ["egress", "gate", "notes", "log"] {
        assert_eq!(daemon(&status, name)["restarts"], 2, "{name}");
        assert_eq!(daemon(&status, name)["failures"], 2, "{name}");
    }
    assert_eq!(asked(agent, "http://a.example/"), Some(200));
    let console = stop(init, Some(poller));
    assert_order(
        &console[told..],
        &["notes (pid", "gate (pid", "egress (pid", "pipelock (pid"],
    );
}

#[test]
fn streams_through_a_pipelock_that_is_killed_end_and_the_agent_s_proxy_stays() {
    let [agent] = ports();
    let mut init = bed(&egress(agent)).start(Place::Child);
    let before = wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    let mut streams: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", agent)).unwrap();
            stream.write_all(b"GET /stream HTTP/1.1\r\n\r\n").unwrap();
            let mut head = [0; 19];
            stream.read_exact(&mut head).unwrap();
            stream
        })
        .collect();
    init.kill_daemon();
    for stream in &mut streams {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    init.wait_ready_after(1);
    let after = wait_all_ready(&mut init);
    assert_eq!(pid_of(&before, "egress"), pid_of(&after, "egress"));
    assert_eq!(asked(agent, "http://canary.invalid/"), Some(403));
    stop(init, Some(poller));
}

#[test]
fn a_proxy_that_is_ready_and_then_deaf_is_replaced_and_never_passed_by() {
    let [agent] = ports();
    let mut init = bed(&egress(agent)).start(Place::Child);
    let before = wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    tell(&init, "egress", "deaf");
    init.wait_for("it is found out", |status| {
        daemon(status, "egress")["trouble"]
            .as_str()
            .is_some_and(|it| it.contains("silent"))
    });
    assert_eq!(asked(agent, "http://a.example/"), None);
    init.wait_for("it is replaced", |status| {
        daemon(status, "egress")["failures"] == 1
    });
    tell(&init, "egress", "");
    let after = wait_all_ready(&mut init);
    assert_ne!(pid_of(&before, "egress"), pid_of(&after, "egress"));
    assert_eq!(pid_of(&before, "pipelock"), pid_of(&after, "pipelock"));
    // Deaf once more, and stopped meanwhile.
    tell(&init, "egress", "deaf");
    stop(init, Some(poller));
}

#[test]
fn a_proxy_that_lets_the_canary_through_is_never_ready_and_ends_the_bundle() {
    let [agent] = ports();
    let daemons = egress(agent).replace("@, egress,", "@, egress, let-all,");
    let end = bed(&daemons).start(Place::Child).wait_end();
    assert_eq!(end.code, 69, "{}", end.console_text());
    assert!(end.error().contains("canary"), "{}", end.error());
    assert!(!end.console_text().contains("ready: egress"));
}

#[test]
fn whoever_waits_for_one_that_never_becomes_ready_waits_and_a_stop_ends_them_all() {
    let [agent, gate] = ports();
    let daemons = five(agent, gate)
        .replace("@, gate,", "@, gate, never-bind, ignore-term,")
        .replace("@, notes", "@, notes, never-notify");
    let mut init = bed(&daemons).start(Place::Child);
    let poller = Poller::of(&init, Some(agent));
    init.wait_for("the others are ready", |status| {
        ["egress", "log"]
            .iter()
            .all(|it| daemon(status, it)["state"] == "ready")
            && daemon(status, "gate")["pid"].is_i64()
    });
    let status = init.status();
    assert_eq!(daemon(&status, "gate")["state"], "starting");
    assert_eq!(daemon(&status, "notes")["state"], "waiting");
    assert_eq!(status["state"], "starting");
    assert_eq!(asked(agent, "http://canary.invalid/"), Some(403));
    let trouble = trouble_of("gate", &mut init);
    assert!(trouble.contains("Connection refused"), "{trouble}");
    let console = stop(init, Some(poller));
    assert!(!console.contains("notes begins"), "{console}");
    assert!(console.contains(&format!("gate is {trouble}")), "{console}");
}

#[test]
fn a_proxy_without_the_authority_it_promises_says_so_long_before_its_deadline() {
    let [agent] = ports();
    let daemons = egress(agent).replace("agent_proxy", "agent_ca: none.pem, agent_proxy");
    let mut init = bed(&daemons).start(Place::Child);
    let trouble = trouble_of("egress", &mut init);
    assert!(trouble.contains("none.pem"), "{trouble}");
    assert_eq!(init.status()["state"], "starting");
    stop(init, None);
}

/// Why this one is not ready, once it is told.
fn trouble_of(name: &str, init: &mut Init) -> String {
    let status = init.wait_for("it is told why it is not ready", |status| {
        daemon(status, name)["trouble"].is_string()
    });
    let trouble = daemon(&status, name)["trouble"].as_str().unwrap();
    assert!(trouble.starts_with("not ready: "), "{trouble}");
    trouble.to_owned()
}

#[test]
fn one_that_cannot_live_ends_the_bundle_by_its_name_and_one_that_may_fail_does_not() {
    let [agent, port] = ports();
    let may_fail = "  broken: {exec: [@, broken, exit], listen: [PORT], ready: {tcp: PORT}, essential: false, after: [], proxy: false}\n  \
                    behind: {exec: [@, behind], after: [broken], essential: false, proxy: false}\n"
        .replace("PORT", &port.to_string());
    let mut init = bed(&(egress(agent) + &may_fail)).start(Place::Child);
    let poller = Poller::of(&init, Some(agent));
    let status = init.wait_for("it gave up", |status| {
        daemon(status, "broken")["state"] == "failed" && status["state"] == "ready"
    });
    assert_eq!(daemon(&status, "broken")["failures"], 5);
    assert_eq!(daemon(&status, "behind")["state"], "waiting");
    poller.end(&init);
    tell(&init, "egress", "exit");
    let pid = Pid::from_raw(pid_of(&status, "egress"));
    kill(pid, Signal::SIGKILL).unwrap();
    let end = init.wait_end();
    assert_eq!(end.code, 69, "{}", end.console_text());
    assert!(end.error().contains("egress"), "{}", end.error());
    let report = fs::read(end.bed.path("run/report.json")).unwrap();
    let report = String::from_utf8_lossy(&report).into_owned();
    assert!(report.contains("egress has a reason"), "{report}");
    assert!(
        end.result.to_string().contains("egress has a reason"),
        "{:#}",
        end.result
    );
}

#[test]
fn a_manifest_that_adds_and_removes_daemons_all_the_time_leaves_nobody_behind() {
    let [agent, gate, more] = ports();
    let stays = egress(agent);
    let mut init = bed(&stays).start(Place::Child);
    let before = wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    let gate = |word: &str| {
        format!(
            "  gate: {{exec: [@, gate, listen={gate}, {word}], listen: [{gate}], ready: {{tcp: {gate}}}, after: [egress]}}\n"
        )
    };
    let more = format!(
        "  more: {{exec: [@, more, listen={more}, ignore-term], listen: [{more}], ready: {{tcp: {more}}}, after: [gate], proxy: false}}\n"
    );
    let long = if is_at_full_length() { 60 } else { 8 };
    let end = Instant::now() + Duration::from_secs(long);
    let mut round = 0;
    while Instant::now() < end {
        let next = match round % 4 {
            0 => stays.clone() + &gate("one") + &more,
            1 => stays.clone() + &gate("two") + &more,
            2 => stays.clone() + &gate("two"),
            _ => stays.clone(),
        };
        set(&init.bed, &next);
        round += 1;
        thread::sleep(Duration::from_secs(1));
    }
    set(&init.bed, &(stays + &gate("last") + &more));
    init.wait_for("the last are there", |status| {
        let all = status["daemons"].as_array().unwrap();
        status["state"] == "ready" && all.len() == 3 && all.iter().all(|it| it["state"] == "ready")
    });
    let after = wait_all_ready(&mut init);
    for name in ["pipelock", "egress"] {
        assert_eq!(pid_of(&before, name), pid_of(&after, name), "{name}");
    }
    init.wait_until("nobody else is left", |init| {
        (others(init.pid()).len() == 4).then_some(())
    });
    stop(init, Some(poller));
}

#[test]
fn eight_of_which_one_floods_one_crashes_and_one_stalls_stay_bounded() {
    let [agent, stalls] = ports();
    let mut daemons = egress(agent)
        + "  floods: {exec: [@, floods, flood], after: [], proxy: false}\n  \
           crashes: {exec: [@, crashes, exit], after: [], essential: false, proxy: false}\n  \
           forges: {exec: [@, forges, forge], after: [], proxy: false}\n";
    daemons += &format!(
        "  stalls: {{exec: [@, stalls, listen={stalls}], listen: [{stalls}], ready: {{http: \"{stalls}/\"}}, after: [], essential: false, proxy: false}}\n"
    );
    for name in ["one", "two"] {
        daemons += &format!("  {name}: {{exec: [@, {name}], after: [], proxy: false}}\n");
    }
    let mut init = bed(&daemons).start_on(Place::Child, Console::Stuck);
    init.wait_for("it is ready", |status| {
        status["state"] == "ready" && daemon(status, "crashes")["state"] == "failed"
    });
    let descriptors = |init: &Init| {
        fs::read_dir(format!("/proc/{}/fd", init.pid()))
            .unwrap()
            .count()
    };
    let resident = |init: &Init| -> u64 {
        let field = proc_field(init.pid(), "VmRSS").unwrap();
        field.split(' ').next().unwrap().parse().unwrap()
    };
    let (before, open) = (resident(&init), descriptors(&init));
    let poller = Poller::of(&init, Some(agent));
    tell(&init, "stalls", "deaf");
    init.wait_for("the one that stalls is replaced", |status| {
        daemon(status, "stalls")["failures"].as_u64() >= Some(1)
    });
    poller.end(&init);
    let (after, now_open) = (resident(&init), descriptors(&init));
    assert!(after < before + 1024, "{before} KiB became {after} KiB");
    assert!(now_open <= open + 4, "{open} descriptors became {now_open}");
    init.wait_for("it is told what nobody read", |status| {
        status["dropped_lines"].as_u64() > Some(0)
    });
    init.signal(Signal::SIGTERM);
    init.read_console();
    let end = init.wait_end();
    assert_eq!(end.code, 0);
}

#[test]
fn no_line_of_one_passes_for_another_s_or_for_the_init_s() {
    let daemons = "  forges: {exec: [@, forges, forge], after: [], proxy: false}\n";
    let mut init = bed(daemons).start(Place::Child);
    wait_all_ready(&mut init);
    let said = |init: &Init| init.console() + &init.output();
    init.wait_until("it said all", |init| {
        said(init).contains("ready: egress").then_some(())
    });
    let said = said(&init);
    for forged in [
        "result {\"exit_code\":0}",
        "pipelock: a line",
        "egress: a line",
        "ready: egress",
    ] {
        let mut lines = said.lines().filter(|it| it.contains(forged));
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("no {forged}: {said}"));
        assert!(line.starts_with("forges: "), "{line}");
        assert_eq!(lines.next(), None);
    }
    stop(init, None);
}

#[test]
fn pipelock_s_lines_bear_its_name_once_others_speak_beside_it() {
    let mut init = Bed::new().start(Place::Child);
    init.wait_ready();
    let line = |init: &Init, event: &str| {
        let said = init.console() + &init.output();
        let mut lines = said.lines().filter(|it| it.contains(event));
        lines.next().map(str::to_owned)
    };
    let alone = init.wait_until("it has begun", |init| line(init, "\"startup\""));
    assert!(alone.starts_with('{'), "{alone}");
    let before = init.daemon();
    let program = worker().to_str().unwrap();
    let daemons = format!("daemons:\n  beside: {{exec: [{program}, beside], proxy: false}}\n");
    // It says so when its own configuration changes meanwhile.
    let text = init
        .bed
        .manifest_text(&["a.example", "b.example"], &daemons);
    init.bed.replace_manifest(&text);
    let among = init.wait_until("it has reloaded", |init| line(init, "\"config_reload\""));
    assert!(among.starts_with("pipelock: {"), "{among}");
    wait_all_ready(&mut init);
    assert_eq!(init.daemon(), before);
    stop(init, None);
}

/// Through a link as well, which no manifest shows: `/srv/data` may be anything.
#[test]
fn no_link_among_its_files_leads_a_daemon_to_the_run_directory() {
    let bed = Bed::new();
    std::os::unix::fs::symlink(bed.path("run"), bed.path("inside")).unwrap();
    std::os::unix::fs::symlink(bed.path(""), bed.path("around")).unwrap();
    let one = |name: &str, files: &str| {
        let files = bed.path(files);
        format!(
            "  {name}: {{exec: [@, {name}], files: [{}], essential: false}}\n",
            files.display()
        )
    };
    let daemons = one("inside", "inside") + &one("around", "around") + &one("key", "inside/ca.key");
    set(&bed, &daemons);
    let mut init = bed.start(Place::Child);
    let run = init.bed.path("run");
    for (name, path) in [
        ("inside", "inside"),
        ("around", "around"),
        ("key", "inside/ca.key"),
    ] {
        let status = init.wait_for("it is told why", |status| {
            daemon(status, name)["state"] == "failed"
        });
        let error = daemon(&status, name)["error"].as_str().unwrap().to_owned();
        let path = init.bed.path(path);
        for part in [
            format!("cannot let a daemon read {}, which is ", path.display()),
            format!(": {} is for no daemon", run.display()),
        ] {
            assert!(error.contains(&part), "{error}");
        }
    }
    stop(init, None);
}

#[test]
fn whoever_was_told_of_pipelock_is_restarted_where_that_changes_and_nobody_else() {
    let [agent] = ports();
    let daemons = egress(agent) + "  log: {exec: [@, log], after: [], proxy: false}\n";
    let mut init = bed(&daemons).start(Place::Child);
    let before = wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    let new = init.bed.address().replace(":8888", ":8889");
    new.clone_into(&mut init.bed.address);
    // What it goes through it reads itself: its manifest is as it was.
    let old = format!("through={}", new.replace(":8889", ":8888"));
    let text = text(
        &init.bed,
        &daemons.replace("connect: [8888]", "connect: [8888, 8889]"),
    );
    init.bed
        .replace_manifest(&text.replace(&format!("through={new}"), &old));
    // It is another one by its ports; once more, with what it is told alone.
    init.wait_for("the new address is in force", |status| {
        status["config"]["applied_generation"] == 2 && status["listen"] == new.as_str()
    });
    poller.end(&init);
    let pair = init.bed.path("run/egress");
    assert!(pair.is_dir());
    let after = init.wait_for("it is another", |status| {
        let mut all = all(status).into_iter();
        all.any(|(name, _, pid)| {
            name == "egress" && pid.is_some_and(|pid| pid != pid_of(&before, "egress"))
        })
    });
    assert_eq!(pid_of(&before, "log"), pid_of(&after, "log"));
}

#[test]
fn a_halt_is_kept_by_all_that_face_the_agent_and_by_those_that_come() {
    let [agent, late] = ports();
    let daemons = egress(agent) + "  log: {exec: [@, log], after: [], proxy: false}\n";
    let mut init = bed(&daemons).start(Place::Child);
    let before = wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    init.signal(Signal::SIGUSR1);
    let status = init.wait_for("it is halted", |status| status["state"] == "halted");
    assert_eq!(daemon(&status, "egress")["state"], "halted");
    assert_eq!(pid_of(&status, "log"), pid_of(&before, "log"));
    assert_eq!(asked(agent, "http://a.example/"), None);
    // Whoever takes a way in meanwhile is told of, on whatever address, until it has gone.
    assert_eq!(status["port"]["closed"], true);
    for address in ["127.0.0.1", "127.0.0.77"] {
        let other = TcpListener::bind((address, agent)).unwrap();
        let status = init.wait_for("it is told of", |status| status["port"]["closed"] == false);
        assert_eq!(status["port"]["address"], format!("0.0.0.0:{agent}"));
        assert_eq!(status["state"], "halted");
        drop(other);
        init.wait_for("it has gone", |status| status["port"]["closed"] == true);
    }
    let more = format!(
        "  late: {{exec: [@, late, listen={late}], listen: [{late}], ready: {{tcp: {late}}}, after: [], proxy: false}}\n  \
         shipper: {{exec: [@, shipper], after: [], proxy: false}}\n"
    );
    set(&init.bed, &(daemons + &more));
    let status = init.wait_for("the new ones are known", |status| {
        daemon(status, "shipper")["state"] == "ready" && daemon(status, "late")["state"] == "halted"
    });
    assert_eq!(status["state"], "halted");
    kill(Pid::from_raw(pid_of(&status, "log")), Signal::SIGKILL).unwrap();
    let status = init.wait_for("the one without a port is back", |status| {
        daemon(status, "log")["restarts"] == 1 && daemon(status, "log")["state"] == "ready"
    });
    assert_eq!(status["state"], "halted");
    init.signal(Signal::SIGUSR2);
    let status = wait_all_ready(&mut init);
    assert_eq!(status["halted"], false);
    assert_eq!(asked(agent, "http://a.example/"), Some(200));
    stop(init, Some(poller));
}

#[test]
fn pipelock_drains_before_those_after_it_are_stopped() {
    let [agent] = ports();
    let bed = Bed::new().with_supervisor("grace_seconds: 1, probe_seconds: 1, drain_seconds: 20");
    set(&bed, &egress(agent));
    let mut init = bed.with_faults("tunnels 1").start(Place::Child);
    wait_all_ready(&mut init);
    let poller = Poller::of(&init, Some(agent));
    init.signal(Signal::SIGTERM);
    // The tunnel is there, and with it who goes through it.
    let refused = init.wait_until("it drains", |init| {
        (init.status()["state"] == "stopping").then(|| asked(agent, "http://a.example/"))
    });
    assert!(refused.is_some(), "egress has gone");
    init.wait_until("nothing new is let in", |_| {
        (asked(agent, "http://a.example/") == Some(403)).then_some(())
    });
    init.bed.break_daemon("tunnels 0");
    poller.end(&init);
    let end = init.wait_end();
    assert_eq!(end.code, 0, "{}", end.console_text());
    assert_order(&end.console_text(), &["egress (pid", "pipelock (pid"]);
}

#[test]
fn a_run_directory_that_is_full_ends_nothing_that_runs() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a full run directory", "mounting needs root");
    }
    let [agent, gate] = ports();
    let bed = bed(&five(agent, gate));
    let run = bed.path("run");
    fs::create_dir_all(&run).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=4m,mode=755 none {} && exec \"$@\"",
        run.display()
    );
    let mut init = bed
        .start_under(
            Place::Child,
            Console::Read,
            &["unshare", "--mount", "sh", "-c", &mount, "sh"],
        )
        .with_own_mounts();
    let before = wait_all_ready(&mut init);
    let full = init.seen_path("run/full");
    let _ = fs::write(&full, vec![b'x'; 8 << 20]);
    for name in ["egress", "notes", "log"] {
        kill(Pid::from_raw(pid_of(&before, name)), Signal::SIGKILL).unwrap();
    }
    init.wait_until("they begin again", |init| {
        let begun = init.output().matches("egress begins").count();
        (begun >= 2).then_some(())
    });
    init.wait_until("the agent is refused again", |_| {
        (asked(agent, "http://canary.invalid/") == Some(403)).then_some(())
    });
    init.wait_until("each is there, once", |init| {
        let mut there = children(init.pid());
        there.retain(|it| proc_field(*it, "Name").as_deref() == Some("worker"));
        (there.len() == 4).then_some(())
    });
    fs::remove_file(full).unwrap();
    init.wait_for("the status is true again", |status| {
        ["egress", "notes", "log"]
            .iter()
            .all(|it| daemon(status, it)["restarts"] == 1 && daemon(status, it)["state"] == "ready")
    });
    let poller_would = look(init.pid(), &init.seen_path("run/status.json"));
    assert_eq!(poller_would.0, Vec::<String>::new());
    init.signal(Signal::SIGTERM);
    let end = init.wait_end();
    assert_eq!(end.code, 0, "{}", end.console_text());
}
