//! A daemon that says and answers as little as the init asks of pipelock, and breaks
//! in the ways the file `faults` beside its configuration names: one fault on a line, read
//! again whenever it matters. Its environment is empty, its user nobody and everything else
//! closed to it, so a file there is all that reaches it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is one more way to break"
)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs, thread};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use sha2::{Digest, Sha256};

/// How often the configuration and the faults are looked at.
const LOOK: Duration = Duration::from_millis(10);

struct Faults(String);

impl Faults {
    fn of(config: &str) -> Self {
        let path = std::path::Path::new(config).with_file_name("faults");
        Self(fs::read_to_string(path).unwrap_or_default())
    }

    fn has(&self, name: &str) -> bool {
        self.number(name).is_some()
    }

    /// Whether it is named for this process: a process id after the name spares the others.
    fn has_mine(&self, name: &str) -> bool {
        self.number(name)
            .is_some_and(|pid| pid == 0 || pid == u64::from(std::process::id()))
    }

    /// The number after the name, 0 where there is none.
    fn number(&self, name: &str) -> Option<u64> {
        self.0.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(name)).then(|| {
                words
                    .next()
                    .map_or(0, |number| number.parse().expect("a number"))
            })
        })
    }
}

#[allow(unsafe_code)]
fn main() {
    let arguments: Vec<String> = env::args().collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).cloned()
    };
    if arguments
        .get(1)
        .is_some_and(|argument| argument == "--linger")
    {
        thread::sleep(Duration::from_mins(1));
        return;
    }
    // Rust's runtime survives SIGPIPE and the first SIGSEGV: pipelock does not.
    for number in 1..=64 {
        // SAFETY: SIG_DFL runs no code. Refused for KILL and STOP, which are default anyway.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let program = arguments[0].clone();
    let config = after("--config").expect("--config");
    let listen = after("--listen").expect("--listen");
    let faults = Faults::of(&config);

    if let Some(code) = faults.number("exit") {
        eprintln!("a line before it");
        eprintln!("error: the reason why it cannot start");
        exit(i32::try_from(code).expect("an exit code"));
    }
    // As a runtime dumps: what the file `dump` beside its configuration has.
    if faults.has("dump") {
        let dump = std::path::Path::new(&config).with_file_name("dump");
        let dump = fs::read(dump).expect("a dump");
        std::io::stderr().write_all(&dump).expect("standard error");
        exit(2);
    }
    if let Some(number) = faults.number("signal") {
        // SAFETY: plain numbers.
        unsafe { libc::raise(i32::try_from(number).expect("a signal")) };
    }
    if faults.has("ignore-term") {
        // SAFETY: SIG_IGN runs no code.
        unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.expect("ignore SIGTERM");
    }
    if let Some(count) = faults.number("orphans") {
        for _ in 0..count {
            orphan();
        }
    }
    leave_orphans(&faults);
    if faults.has("grandchild") {
        // The zombie is the init's to reap once we are gone.
        #[allow(clippy::zombie_processes)]
        std::process::Command::new(&program)
            .arg("--linger")
            .spawn()
            .expect("a grandchild");
    }
    print_oddities(&faults);

    let text = fs::read(&config).expect("the configuration");
    if !faults.has("no-startup") {
        let mut reported = hash(&text);
        if faults.has("wrong-hash") {
            reported = hash(b"another configuration");
        }
        say(&format!(
            r#"{{"event":"startup","config_hash":"{reported}","message":"pipelock started"}}"#
        ));
    }
    if faults.has("close-stdout") {
        // SAFETY: nothing here needs it again; Rust takes EBADF for success.
        unsafe { libc::close(1) };
    }
    if let Some(milliseconds) = faults.number("bind-late") {
        thread::sleep(Duration::from_millis(milliseconds));
    }
    if faults.has("never-bind") {
        thread::sleep(Duration::from_hours(1));
    }
    let listener = TcpListener::bind(&listen).expect("bind");
    keep_port(&faults);
    let name = config.clone();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(connection) = connection else {
                // No descriptor is left. pipelock waits as well, up to a second.
                thread::sleep(LOOK);
                continue;
            };
            let faults = Faults::of(&name);
            let name = name.clone();
            thread::spawn(move || serve(connection, &faults, &name));
        }
    });
    if faults.has("fork-bomb") {
        thread::spawn(bomb);
    }
    begin_floods(&faults);
    if let Some(count) = faults.number("deny-hosts") {
        for number in 0..count {
            say(&refusal(&format!("host-{number}.example")));
        }
    }
    // Lines as a test wants them, word for word.
    if let Ok(lines) = fs::read_to_string(std::path::Path::new(&config).with_file_name("lines")) {
        say(lines.trim_end());
    }
    watch(&config, text);
}

fn begin_floods(faults: &Faults) {
    if let Some(megabytes) = faults.number("flood") {
        let line = [&[b'.'; 126][..], b"\n"].concat();
        thread::spawn(move || flood(megabytes, std::io::stderr().lock(), &line));
    }
    if let Some(megabytes) = faults.number("flood-events") {
        let line = br#"{"level":"warn","component":"pipelock","event":"blocked","method":"CONNECT","url":"no.example:443","client_ip":"127.0.0.1","request_id":"req-1","scanner":"allowlist","reason":"domain not in allowlist: no.example","message":"request blocked"}"#;
        let line = [&line[..], b"\n"].concat();
        thread::spawn(move || flood(megabytes, std::io::stdout().lock(), &line));
    }
    if let Some(megabytes) = faults.number("flood-secrets") {
        // Refused for what was sent: whether the host may be named is for the allowlist to say.
        let line = br#"{"level":"warn","component":"pipelock","event":"blocked","method":"CONNECT","target":"x.h12345.exampla:443","client_ip":"127.0.0.1","request_id":"req-1","scanner":"body_dlp","reason":"DLP match: AWS Access ID (critical)","message":"request blocked"}"#;
        let line = [&line[..], b"\n"].concat();
        thread::spawn(move || flood(megabytes, std::io::stdout().lock(), &line));
    }
}

fn refusal(host: &str) -> String {
    format!(
        r#"{{"level":"warn","component":"pipelock","event":"blocked","method":"CONNECT","target":"{host}:443","client_ip":"127.0.0.1","request_id":"req-1","scanner":"allowlist","reason":"domain not in allowlist: {host}","message":"request blocked"}}"#
    )
}

/// Takes over a changed configuration, as pipelock's file watcher does.
fn watch(config: &str, mut known: Vec<u8>) {
    loop {
        thread::sleep(LOOK);
        let faults = Faults::of(config);
        if faults.has_mine("exit-now") {
            exit(i32::try_from(faults.number("exit-code").expect("a code")).expect("a code"));
        }
        let now = fs::read(config).unwrap_or_default();
        if now == known || now.is_empty() || faults.has("drop-reload") {
            continue;
        }
        if faults.has("refuse-reload") {
            say(
                r#"{"event":"error","method":"CONFIG_RELOAD","error":"rejected: security downgrade from strict mode"}"#,
            );
        } else {
            say(&format!(
                r#"{{"event":"config_reload","status":"success","config_hash":"{}"}}"#,
                hash(&now)
            ));
        }
        known = now;
    }
}

fn serve(mut connection: TcpStream, faults: &Faults, name: &str) {
    let config = fs::read_to_string(name).unwrap_or_default();
    // At work, on nothing, until the fault is gone.
    while Faults::of(name).has_mine("busy") {}
    let mut request = Vec::new();
    let mut buffer = [0_u8; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match connection.read(&mut buffer) {
            Ok(count) if count > 0 => request.extend(&buffer[..count]),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    // A client that has gone is no reason to break.
    let _ = if request.starts_with("GET /health") && faults.has_mine("sick-health") {
        let body = r#"{"status":"degraded","subsystems":{"scanner":"wedged"}}"#;
        respond(&mut connection, 503, body)
    } else if request.starts_with("GET /health") {
        answer_health(&mut connection, faults)
    } else if request.starts_with("GET /metrics") {
        let open = faults.number("tunnels").unwrap_or(0);
        respond(
            &mut connection,
            200,
            &format!("pipelock_active_tunnels {open}\n"),
        )
    } else if faults.has_mine("allow-everything") {
        connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n")
    } else {
        let host = request.split_whitespace().nth(1).unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        if config.contains(&format!("  - \"{host}\"\n")) {
            connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n")
        } else {
            // As pipelock, before it answers; once is enough for whoever wants to know it.
            static SAID: AtomicBool = AtomicBool::new(false);
            let speaks = host == "canary.invalid" && !faults.has("close-stdout");
            if speaks && !SAID.swap(true, Ordering::Relaxed) {
                say(&refusal(host));
            }
            let words = format!("CONNECT blocked: domain not in allowlist: {host}\n");
            respond(&mut connection, 403, &words)
        }
    };
}

fn answer_health(connection: &mut TcpStream, faults: &Faults) -> std::io::Result<()> {
    if faults.has_mine("hang-health") {
        thread::sleep(Duration::from_hours(1));
    }
    if faults.has_mine("trickle-health") {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
        for byte in head.iter().chain(std::iter::repeat(&b' ')) {
            connection.write_all(&[*byte])?;
            thread::sleep(Duration::from_millis(50));
        }
    }
    if faults.has_mine("huge-health") {
        return respond(connection, 200, &"x".repeat(10 * 1024 * 1024));
    }
    let mode = if faults.has_mine("wrong-mode") {
        "balanced"
    } else {
        "strict"
    };
    let mut version = "2.3.0".to_owned();
    if faults.has("vary-version") {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        version = format!("9.{}", now.expect("after 1970").as_nanos());
    }
    respond(
        connection,
        200,
        &format!(
            r#"{{"status":"healthy","version":"{version}","mode":"{mode}","forward_proxy_enabled":true,"request_body_scan_enabled":true,"tls_interception_enabled":true,"kill_switch_active":false}}"#
        ),
    )
}

fn respond(connection: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[allow(unsafe_code)]
fn leave_orphans(faults: &Faults) {
    if faults.has("every-end") {
        for code in 0..=255 {
            orphan_that(|| code);
        }
        for number in 1..=64 {
            // SAFETY: plain numbers, in a process of one thread.
            orphan_that(|| unsafe {
                libc::kill(libc::getpid(), number);
                99
            });
        }
    }
    if faults.has("escape") {
        // SAFETY: setsid has no arguments; the sleep ends with the process.
        orphan_that(|| unsafe {
            libc::setsid();
            libc::sleep(600);
            0
        });
    }
}

/// A process that leaves the session and keeps what it inherits: the socket that listens.
#[allow(unsafe_code)]
fn keep_port(faults: &Faults) {
    if faults.has("keep-port") {
        // SAFETY: setsid has no arguments; the sleep ends with the process.
        orphan_that(|| unsafe {
            libc::setsid();
            libc::sleep(120);
            0
        });
    }
}

/// One process whose parent is gone, so that it is the init's to reap.
fn orphan() {
    // SAFETY: plain numbers.
    #[allow(unsafe_code)]
    orphan_that(|| unsafe {
        libc::usleep(1_000);
        0
    });
}

/// The same, living and ending as it is told.
#[allow(unsafe_code)]
fn orphan_that(lives: impl FnOnce() -> i32) {
    // SAFETY: no thread has been started yet, and both children end without the
    // parent's exit handlers.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "fork");
        if child == 0 {
            if libc::fork() == 0 {
                libc::_exit(lives());
            }
            libc::_exit(0);
        }
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}

/// Every process of it forks for as long as it is let; slowly, because other tests run
/// beside it, and not for ever, because nobody may be there to end it.
#[allow(unsafe_code)]
fn bomb() {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while std::time::Instant::now() < end {
        // SAFETY: plain numbers, and what follows in the child are system calls only.
        unsafe {
            libc::fork();
            libc::usleep(50_000);
        }
    }
    // SAFETY: ends every one of them without exit handlers.
    unsafe { libc::_exit(0) }
}

fn print_oddities(faults: &Faults) {
    let mut error = std::io::stderr().lock();
    let mut put = |bytes: &[u8]| error.write_all(bytes).expect("standard error");
    if let Some(length) = faults.number("long-line") {
        put(&vec![b'x'; usize::try_from(length).expect("a length")]);
        put(b"\n");
    }
    if faults.has("binary") {
        let mut bytes: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
        bytes.push(b'\n');
        put(&bytes);
    }
    if faults.has("forge") {
        put(b"sidecar-init: result {\"exit_code\":0}\n");
    }
    if let Some(count) = faults.number("count") {
        for number in 0..count {
            put(format!("line {number}\n").as_bytes());
        }
    }
    if faults.has("no-newline") {
        put(b"unfinished");
    }
}

/// Megabytes of one line, as fast as they are taken; for ever where the number is 0.
fn flood(megabytes: u64, mut sink: impl Write, line: &[u8]) {
    let block = line.repeat(512);
    let mut left = if megabytes == 0 {
        u64::MAX
    } else {
        megabytes * 1024 * 1024
    };
    while left > 0 {
        if sink.write_all(&block).is_err() {
            return;
        }
        left = left.saturating_sub(block.len() as u64);
    }
    drop(sink);
    say("the flood is over");
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").expect("standard output");
    output.flush().expect("standard output");
}

fn hash(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}
