//! What a hostile daemon, or a hostile agent through a good one, makes the init print and
//! keep: through the real binary, with a daemon that says what a test wants, and with one
//! that really proxies.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Bed, Init, PATIENCE, Place, pipelock, processor_ticks};

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const PASSWORD: &str = "Hunter2Trombone";
/// How many requests are refused whose URLs are longer than any buffer.
const LONG_ONES: u64 = 304;
const LONG: usize = 70 * 1024;
const LONGEST_URL: usize = 65_534;
/// The most that a reader takes of a status.
const MEBIBYTE: usize = 1024 * 1024;

/// Nothing that a terminal obeys, in lines.
fn assert_harmless(name: &str, text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap_or_else(|_| panic!("{name} is no text"));
    let odd = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    assert!(!text.contains(odd), "{name}: {text:?}");
}

fn assert_secretive(name: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text).to_lowercase();
    for secret in [KEY, PASSWORD] {
        assert!(
            !text.contains(&secret.to_lowercase()),
            "{secret} is in {name}: {}",
            text.get(..4000).unwrap_or(&text)
        );
    }
}

/// Everything that is told of a bed: the files in both places, and the status in words.
fn told(bed: &Bed) -> Vec<(String, Vec<u8>)> {
    let mut told = Vec::new();
    for place in ["run", "run/export"] {
        for file in ["status.json", "denials.json", "report.json", "metrics.prom"] {
            let name = format!("{place}/{file}");
            told.extend(fs::read(bed.path(&name)).map(|text| (name, text)));
        }
    }
    for arguments in [&["status"][..], &["healthcheck"], &["status", "--timeline"]] {
        let output = bed.run(arguments);
        told.push((arguments.join(" "), [output.stdout, output.stderr].concat()));
    }
    told
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn wait_counted(init: &mut Init, total: u64) -> Value {
    init.wait_until("all are counted", |init| {
        json(&init.bed.path("run/denials.json")).filter(|told| told["total"] == total)
    })
}

/// What reached a socket so far.
fn messages(socket: &UnixDatagram) -> Vec<String> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 65536];
    let mut messages = Vec::new();
    while let Ok(count) = socket.recv(&mut buffer) {
        messages.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
    }
    messages
}

#[test]
fn long_urls_hide_no_refusal_and_plant_no_secret() {
    let long = "x".repeat(LONG);
    let blocked = format!(
        r#"{{"level":"warn","event":"blocked","method":"GET","url":"http://u:{PASSWORD}@no.example/{long}?k={KEY}{long}&p={PASSWORD}","client_ip":"10.0.0.2","request_id":"req-1","scanner":"allowlist","reason":"domain not in allowlist: no.example","message":"request blocked"}}"#
    );
    let mut lines = vec![blocked; usize::try_from(LONG_ONES).unwrap()];
    lines.push(format!("{long}{KEY} and {KEY}{long}"));
    lines.push(format!(
        "http: error: Get \"http://u:{PASSWORD}@h/?{KEY}\": refused"
    ));
    lines.push(format!(
        "see http://u:{PASSWORD}@h/{PASSWORD}?{KEY} for {KEY}"
    ));
    lines.push(r#"{"event":"end"}"#.to_owned());
    let bed = Bed::new().with_export().with_lines(&lines.join("\n"));
    let path = bed.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut init = bed
        .with_environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .start(Place::Child);
    init.wait_ready();
    let denials = wait_counted(&mut init, LONG_ONES);
    assert_eq!(denials["denials"][0]["host"], "no.example");
    assert_eq!(denials["denials"][0]["scanner"], "allowlist");
    assert_eq!(denials["denials"][0]["reason"], "domain not in allowlist");
    assert_eq!(denials["denials"][0]["count"], LONG_ONES);

    init.bed.break_daemon("exit-now\nexit-code 3\nexit 3");
    let end = init.wait_end();
    assert_eq!(end.code, 69);
    let said = end.result["last_lines"].to_string();
    assert!(said.contains("error: the reason why"), "{said}");
    for (name, text) in told(&end.bed) {
        assert_secretive(&name, &text);
        assert_harmless(&name, &text);
    }
    assert_secretive("the result", end.result.to_string().as_bytes());
    let notified = messages(&socket).concat();
    assert!(notified.contains("READY=1"), "{notified}");
    assert_secretive("notifications", notified.as_bytes());
    assert_harmless("the console", &end.console);
    assert_harmless("the output", &end.output);
}

#[test]
fn a_terminal_shows_what_a_hostile_daemon_says_and_obeys_none_of_it() {
    let hostile = concat!(
        "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{202e}txt.exe\u{2066}\u{7f}\n",
        "x\rsidecar-init: result {\"exit_code\":0}\n",
        "x\u{b}sidecar-init: result {}\u{c}sidecar-init: result {}\u{1c}\u{1d}\u{1e}sidecar-init: result {}\n",
        "x\u{85}sidecar-init: result {}\u{2028}sidecar-init: result {}\u{2029}sidecar-init: result {}\n",
        "sidecar-init: result {\"exit_code\":0}\n",
        "{\"event\":\"error\",\"method\":\"CONFIG_RELOAD\",\"error\":\"rejected: \\u001b[2J\\u202e\\u2028sidecar-init: result\"}\n",
        "{\"event\":\"\\u001b[2J\u{2028}\",\"scanner\":\"\u{85}\"}\n",
    );
    let bed = Bed::new()
        .with_export()
        .with_lines(hostile)
        .with_faults("binary\nforge\nvary-version");
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    init.wait_until("the daemon has spoken", |init| {
        init.output().contains("CONFIG_RELOAD").then_some(())
    });
    for (name, text) in told(&init.bed) {
        assert_harmless(&name, &text);
    }
    // The lines are its last.
    init.kill_daemon();
    init.wait_for("it ended", |status| {
        status["last_lines"]
            .as_array()
            .is_some_and(|lines| lines.len() > 5)
    });
    let (end, _) = init.stop();
    for (name, text) in told(&end.bed) {
        assert_harmless(&name, &text);
    }
    for (name, text) in [("the console", &end.console), ("the output", &end.output)] {
        let without_tabs = String::from_utf8(text.clone()).unwrap().replace('\t', " ");
        assert_harmless(name, without_tabs.as_bytes());
    }
    // As Python's splitlines takes them apart; nothing but ours starts as ours.
    let results = end.console_text();
    let results = results
        .lines()
        .filter(|line| line.starts_with("sidecar-init: result"));
    assert_eq!(results.count(), 1);
    assert!(!String::from_utf8_lossy(&end.output).contains("\nsidecar-init: result"));
}

/// A directory with a status that somebody else wrote.
fn planted(status: &str) -> Bed {
    let bed = Bed::new();
    fs::create_dir_all(bed.path("run")).unwrap();
    fs::write(bed.path("run/status.json"), status).unwrap();
    bed
}

#[test]
fn a_hostile_status_is_neither_obeyed_nor_a_reason_to_panic() {
    let stages = r#"[{"stage":"<script>alert(1)</script>","at_us":18446744073709551615,"took_us":18446744073709551615},
        {"stage":"\u001b[2J","at_us":18446744073709551615,"took_us":1},{"stage":"x","at_us":0},{"stage":7,"at_us":-1}]"#;
    let texts =
        r#""\u001b[2J\u202e</text><script>alert(1)</script>\nsidecar-init: result {}\u2028\u0085""#;
    let bed = planted(&format!(
        r#"{{"schema":1,"slug":{texts},"state":{texts},"error":{texts},"manifest_error":{texts},"stages":{stages},
        "daemon":{{"version":{texts},"pid":18446744073709551615,"trouble":{texts}}},"warnings":[{texts},{texts}],
        "ca":{{"fingerprint_sha256":{texts},"source":{texts},"not_after":{texts}}},
        "revocation":{{"hosts":[{texts}],"more":18446744073709551615,"done_at":{texts}}},
        "last_exit":{{"text":{texts},"at":{texts}}},"boot_id":"b"}}"#
    ));
    fs::write(
        bed.path("run/denials.json"),
        format!(
            r#"{{"schema":1,"boot_id":"b","total":1,"denials":[
            {{"host":{texts},"scanner":{texts},"reason":{texts},"count":18446744073709551615}},
            {{"host":null,"scanner":"x","reason":{texts},"count":18446744073709551615}}]}}"#
        ),
    )
    .unwrap();
    for arguments in [
        &["status"][..],
        &["status", "--timeline"],
        &["status", "--json"],
        &["status", "--svg", "-"],
        &["healthcheck"],
        &["status", "--wait-generation", "1", "--timeout", "1"],
    ] {
        let output = bed.run(arguments);
        let ended = output.status.code().unwrap();
        assert!([0, 1, 69].contains(&ended), "{arguments:?}: {output:?}");
        let printed = [output.stdout, output.stderr].concat();
        assert_harmless(&arguments.join(" "), &printed);
        let printed = String::from_utf8(printed).unwrap();
        let own = usize::from(ended != 0);
        let ours = printed
            .lines()
            .filter(|line| line.starts_with("sidecar-init:"));
        assert_eq!(ours.count(), own, "{arguments:?}: {printed}");
        if arguments.contains(&"--svg") {
            assert!(!printed.contains("<script"), "{printed}");
            let tags = printed.matches("</text>").count();
            assert_eq!(tags, 1 + 2 * 3, "{printed}");
        }
    }
}

#[test]
fn a_status_with_a_field_of_another_type_is_none() {
    let bed = planted(r#"{"schema":1,"state":"ready","restarts":"3","config":{}}"#);
    for (arguments, code) in [
        (&["status"][..], 69),
        (&["status", "--json"], 69),
        (&["healthcheck"], 1),
        (&["status", "--wait-generation", "0", "--timeout", "1"], 69),
    ] {
        let output = bed.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let why = "status.json: invalid type: string \"3\", expected u64";
        assert!(said.contains(why), "{arguments:?}: {said}");
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn a_timeout_may_be_longer_than_time() {
    let mut init = Bed::new().start(Place::Child);
    init.wait_ready();
    let output = init.bed.run(&[
        "status",
        "--wait-generation",
        "1",
        "--timeout",
        "18446744073709551615",
    ]);
    assert!(output.status.success(), "{output:?}");
    drop(init);
}

#[test]
fn a_ready_that_nobody_heard_is_told_again() {
    let bed = Bed::new();
    let path = bed.path("notify");
    let mut init = bed
        .with_environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .start(Place::Child);
    init.wait_ready();
    // Only now is there somebody.
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 4096];
    let count = socket.recv(&mut buffer).unwrap();
    assert!(buffer[..count].starts_with(b"READY=1\n"));
    drop(init);
}

#[test]
fn a_full_socket_hears_it_once_it_is_read() {
    let bed = Bed::new();
    let path = bed.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"noise", &path).is_ok() {}
    let mut init = bed
        .with_environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .start(Place::Child);
    init.wait_ready();
    let end = Instant::now() + PATIENCE;
    loop {
        if messages(&socket)
            .iter()
            .any(|text| text.starts_with("READY=1\n"))
        {
            break;
        }
        assert!(Instant::now() < end, "READY=1 never came");
        std::thread::sleep(Duration::from_millis(10));
    }
    let used = processor_ticks(init.pid());
    assert!(used < 200, "{used} ticks: it was tried without a pause");
    drop(init);
}

#[test]
fn sixty_thousand_hosts_removed_make_no_status_that_nobody_reads() {
    let hosts: Vec<String> = (0..60_000)
        .map(|number| format!("host-number-{number}.removed.example"))
        .collect();
    let names: Vec<&str> = hosts
        .iter()
        .map(String::as_str)
        .chain(["a.example"])
        .collect();
    let bed = Bed::new().with_export().with_faults("vary-version");
    bed.allow(&names);
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    init.bed.allow(&["a.example"]);
    init.wait_applied(2);
    let status = init.wait_ready();
    assert_eq!(status["revocation"]["hosts"].as_array().unwrap().len(), 100);
    assert_eq!(status["revocation"]["more"], 59_900);
    let size = fs::metadata(init.bed.path("run/status.json"))
        .unwrap()
        .len();
    assert!(size < 64 * 1024, "{size}");
    let words = init.bed.run(&["status"]);
    assert!(words.status.success(), "{words:?}");
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains("and 59900 more at "), "{words}");
    assert_eq!(init.bed.run(&["healthcheck"]).status.code(), Some(0));
    // The version was another each time it was asked; the last is told.
    let warnings = status["warnings"].to_string();
    assert_eq!(
        warnings.matches("pipelock is version 9.").count(),
        1,
        "{warnings}"
    );
    let (end, _) = init.stop();
    // Once in the log, and once in the result.
    let console = end.console_text();
    assert_eq!(
        console.matches("pipelock is version 9.").count(),
        2,
        "{console}"
    );
    assert!(console.lines().all(|line| line.len() < MEBIBYTE));
}

#[test]
fn warnings_of_a_manifest_end_with_it() {
    let bed = Bed::new();
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    for generation in 2..12_u64 {
        let unknown = format!("    nobody_knows_{generation}: 1\n");
        let text = init.bed.manifest_text(&["a.example"], "");
        let slug = format!("slug: bed-{generation}");
        let text = text
            .replace("slug: bed", &slug)
            .replace("  egress:\n", &format!("  egress:\n{unknown}"));
        init.bed.replace_manifest(&text);
        let status = init.wait_for("the manifest is in force", |status| {
            status["config"]["generation"] == generation
        });
        let warnings = status["warnings"].to_string();
        assert_eq!(warnings.matches("nobody_knows_").count(), 1, "{warnings}");
        assert!(warnings.contains(&format!("nobody_knows_{generation}")));
    }
    drop(init);
}

#[test]
fn as_many_warnings_are_counted_as_the_manifest_has() {
    let bed = Bed::new();
    let unknown: String = (0..3000)
        .map(|number| format!("    unknown_{number}: 1\n"))
        .collect();
    let text = bed.manifest_text(&["a.example"], "");
    let text = text.replace("  egress:\n", &format!("  egress:\n{unknown}"));
    bed.replace_manifest(&text);
    let mut init = bed.start(Place::Child);
    let status = init.wait_ready();
    let warnings = status["warnings"].as_array().unwrap();
    let told = warnings
        .iter()
        .filter(|it| it.as_str().unwrap().contains("unknown_"));
    let more = 3000 - told.count();
    assert_eq!(
        warnings.last().unwrap(),
        &format!("… and {more} more warnings; the log has the first of them")
    );
    drop(init);
}

/// Asks a proxy for a URL that no line of a log holds; the status of its answer.
fn ask_long(address: &str, number: u64) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let (host, secrets) = (
        format!("http://no-{number}.example/"),
        format!("?k={KEY}&p={PASSWORD}"),
    );
    // The longest that the stand-in's server takes; what the line says besides makes it
    // longer than one that is kept.
    let long = "x".repeat(LONGEST_URL - host.len() - secrets.len());
    let url = format!("{host}{long}{secrets}");
    let request = format!("GET {url} HTTP/1.1\r\nHost: no.example\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // The answer may be followed by a reset.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).get(9..12)?.parse().ok()
}

/// The daemon that really proxies, with no limit to what it refuses in a minute.
fn proxying() -> (Init, PathBuf) {
    let bed = Bed::new().with_export();
    pipelock::copy_into(&bed.path(""));
    let path = bed.path("notify");
    let init = bed
        .with_environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .start(Place::Child);
    (init, path)
}

#[test]
fn long_urls_through_a_real_proxy_hide_no_refusal_and_plant_no_secret() {
    let (mut init, path) = proxying();
    let socket = UnixDatagram::bind(&path).unwrap();
    init.wait_ready();
    let address = init.bed.address().to_owned();
    for number in 0..LONG_ONES {
        assert_eq!(ask_long(&address, number), Some(403), "{number}");
    }
    let denials = wait_counted(&mut init, LONG_ONES);
    assert!(denials["denials"][0]["scanner"].is_string(), "{denials}");
    init.kill_daemon();
    init.wait_ready_after(1);
    let status = init.status();
    let said = status["last_lines"].to_string();
    assert!(said.contains("blocked: "), "{said}");
    let (end, _) = init.stop();
    for (name, text) in told(&end.bed) {
        assert_secretive(&name, &text);
        assert_harmless(&name, &text);
    }
    assert_secretive("notifications", messages(&socket).concat().as_bytes());
    // What the operator's console has is the daemon's own log, in lines that are its own.
    let output = String::from_utf8(end.output).unwrap();
    assert!(!output.contains("\nsidecar-init: result"));
}

#[test]
fn check_prints_a_hostile_manifest_as_text() {
    let bed = Bed::new();
    let name = bed.path("mani\u{1b}[2Jfest.yaml");
    fs::write(
        &name,
        "version: 1\nslug: \"x\\e[2J\\u202e\"\nbottle: {egress: {routes: [{host: \"a\\nsidecar-init: result\"}]}, \"k\\e\\L\": 1}\n\"\\e\\L\\N\": 1\n",
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sidecar-init"))
        .args(["check", "--strict", "--manifest"])
        .arg(&name)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let printed = [output.stdout, output.stderr].concat();
    assert_harmless("check", &printed);
    let printed = String::from_utf8(printed).unwrap();
    assert!(
        !printed
            .lines()
            .any(|line| line.starts_with("sidecar-init:")),
        "{printed}"
    );
}
