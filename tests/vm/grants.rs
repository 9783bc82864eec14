//! Ten permissions that end by themselves in a machine whose clock is set, whose daemon is
//! killed, and which is stopped and goes on: none outlives its end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use microvm::{HOST_ADDRESS, Running, connect_through};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sidecar_init::ca::rfc3339;
use sidecar_init::policy::grants::time;

use crate::clock::{Bed, PORT};

const GRANTS: usize = 10;
/// From an end to when nothing gets through any more, in time that the machine lives through.
const WITHIN: Duration = Duration::from_secs(5);
/// From the first look to the first end, and from each end to the next, in seconds.
const FIRST: u64 = 24;
const EACH: u64 = 7;
/// So long before an end something happens.
const BEFORE: u64 = 3;

/// What happens, one after the other, each shortly before the next end; ten ends in all.
const HAPPENINGS: [Happening; 12] = [
    Happening::Kill,
    Happening::Step(1),
    Happening::Back,
    // Whoever lets it go on puts its clock right.
    Happening::Pause(9),
    Happening::Step(1),
    Happening::Back,
    Happening::Freeze(6),
    Happening::Kill,
    Happening::Step(2),
    Happening::Nothing,
    Happening::Pause(2),
    Happening::Nothing,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    /// The daemon is killed.
    Kill,
    /// The clock is set past so many ends.
    Step(usize),
    /// It is set back before the last end, once that was seen.
    Back,
    /// The machine is stopped for so many seconds, and its clock with it.
    Pause(u64),
    /// The process that is the machine is.
    Freeze(u64),
    /// The time comes by itself.
    Nothing,
}

/// One grant, as a client sees it.
struct Seen {
    host: String,
    until: u64,
    tunnel: Option<TcpStream>,
    /// It was let through.
    allowed: bool,
    /// When its time was last seen not to have come.
    before: Duration,
    /// It was refused once its time had come.
    over: bool,
}

struct Watched<'a> {
    bed: &'a Bed,
    running: &'a Running,
    proxy: SocketAddr,
    echo: u16,
    grants: Vec<Seen>,
    begun: Instant,
    /// So long it did not run.
    slept: Duration,
    latest: Duration,
    looks: usize,
    /// What the stepper was told to do, and how many steps those were.
    told: u64,
    steps: u64,
}

impl Watched<'_> {
    /// How long the machine has run.
    fn lived(&self) -> Duration {
        self.begun.elapsed().saturating_sub(self.slept)
    }

    /// The machine's own time, from its daemon; `None` where that does not serve.
    fn now(&self) -> Option<u64> {
        machine_time(self.running)
    }

    /// The ends that were not seen yet, the next one first.
    fn ends(&self) -> Vec<u64> {
        let left = self.grants.iter().filter(|seen| !seen.over);
        left.map(|seen| seen.until).collect()
    }

    /// The last end that was seen.
    fn last_end(&self) -> Option<u64> {
        let over = self.grants.iter().filter(|seen| seen.over);
        over.map(|seen| seen.until).max()
    }

    /// Asks for every host whose end was not seen, and for one of the others, and judges what
    /// comes. The machine's own time before that, if its daemon serves.
    fn look(&mut self) -> Option<u64> {
        let now = self.now()?;
        self.looks += 1;
        let turn = self.looks % GRANTS;
        for index in 0..self.grants.len() {
            if self.grants[index].over && index != turn && !self.ends().is_empty() {
                continue;
            }
            let lived = self.lived();
            let authority = format!("{}:{}", self.grants[index].host, self.echo);
            let answer = connect_through(self.proxy, &authority).ok();
            let after = self.lived();
            let seen = &mut self.grants[index];
            if now < seen.until && !seen.over {
                seen.before = lived;
            }
            let open = seen.tunnel.take().filter(is_open);
            let is_through = match answer {
                Some((answer, stream)) if answer.status == 200 => {
                    seen.tunnel = open.or(Some(stream));
                    true
                }
                Some((answer, _)) if answer.body.contains("not in allowlist") => {
                    seen.over |= seen.allowed && now >= seen.until;
                    seen.tunnel = open;
                    seen.tunnel.is_some()
                }
                // It is being started again.
                _ => {
                    seen.tunnel = open;
                    seen.tunnel.is_some()
                }
            };
            if is_through {
                let late = after.saturating_sub(seen.before);
                self.latest = self.latest.max(late);
                assert!(
                    !seen.over,
                    "{} is back\n{}",
                    seen.host,
                    self.running.console()
                );
                assert!(
                    now < seen.until || late < WITHIN,
                    "{}, until {}, is let through at {}, {late:?} after it may have ended\n{}",
                    seen.host,
                    rfc3339(seen.until),
                    rfc3339(now),
                    self.running.console()
                );
                seen.allowed = true;
            }
        }
        Some(now)
    }

    /// The time by the machine's clock at which this is to happen.
    fn wait_until_due(&mut self, what: Happening) -> u64 {
        loop {
            let Some(now) = self.look() else { continue };
            let ends = self.ends();
            let is_due = match what {
                Happening::Back => ends.iter().all(|end| now < *end),
                _ => now + BEFORE >= ends[0],
            };
            if is_due {
                return now;
            }
        }
    }

    /// Lets it happen, and waits until the ends have come that it is about.
    fn undergo(&mut self, what: Happening, now: u64) {
        let ends = self.ends();
        match what {
            Happening::Kill => {
                self.told += 1;
                self.bed.tell_stepper(self.told, "kill");
            }
            Happening::Step(past) => {
                let seconds = ends[past - 1].saturating_sub(now) + 1;
                self.step(seconds.try_into().unwrap());
            }
            Happening::Back => {
                let seconds = now - self.last_end().unwrap() + 5;
                self.step(-i64::try_from(seconds).unwrap());
            }
            Happening::Pause(seconds) => self.sleep(seconds, |running, goes_on| {
                let done = if goes_on {
                    running.resume()
                } else {
                    running.pause()
                };
                done.unwrap();
            }),
            Happening::Freeze(seconds) => self.sleep(seconds, |running, goes_on| {
                let signal = if goes_on {
                    Signal::SIGCONT
                } else {
                    Signal::SIGSTOP
                };
                kill(Pid::from_raw(running.pid().try_into().unwrap()), signal).unwrap();
            }),
            Happening::Nothing => {}
        }
        let awaited = match what {
            Happening::Step(past) => past,
            Happening::Kill | Happening::Freeze(_) | Happening::Nothing => 1,
            Happening::Back | Happening::Pause(_) => 0,
        };
        while self.ends().len() + awaited > ends.len() {
            self.look();
        }
    }

    /// Has the clock set, and waits until that was noticed.
    fn step(&mut self, seconds: i64) {
        self.told += 1;
        self.steps += 1;
        self.bed.step(self.told, seconds);
        self.bed
            .wait_for(|status| status["clock_steps"] == self.steps);
    }

    /// Stops the machine for so many seconds.
    fn sleep(&mut self, seconds: u64, runs: impl Fn(&Running, bool)) {
        let begun = Instant::now();
        runs(self.running, false);
        thread::sleep(Duration::from_secs(seconds));
        runs(self.running, true);
        self.slept += begun.elapsed();
    }
}

/// Whether it leads anywhere; what was said before is read first.
fn is_open(tunnel: &TcpStream) -> bool {
    tunnel.set_nonblocking(true).unwrap();
    let mut tunnel = tunnel;
    loop {
        match tunnel.read(&mut [0; 4096]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
    }
    tunnel.write_all(b"?").is_ok()
}

/// The machine's own time, as its daemon has it that logs a refusal; `None` where it does not
/// serve.
fn machine_time(running: &Running) -> Option<u64> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let asked = format!("clock-{number}.test:443");
    let position = running.console_position();
    let (answer, _) = connect_through(running.forwarded(PORT).unwrap(), &asked).ok()?;
    assert_eq!(answer.status, 403);
    let line = running.wait_for_line_after(position, &asked, Duration::from_secs(10));
    let line = line.ok()?;
    let event: Value = serde_json::from_str(&line).unwrap();
    Some(time(event["time"].as_str().unwrap(), 0).unwrap())
}

/// A port of this host that says what it hears.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut copy = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut copy, &mut stream);
            });
        }
    });
    port
}

/// A manifest that grants these hosts.
fn manifest(hosts: &[String], until: &impl Fn(usize) -> u64, comment: &str) -> String {
    let names: String = hosts
        .iter()
        .map(|host| format!("{host}: {HOST_ADDRESS}, "))
        .collect();
    let plain = Bed::manifest_text(&format!("{names}upstream.test: {HOST_ADDRESS}"));
    let grants = hosts.iter().enumerate().map(|(number, host)| {
        // Half of them by the offset of somebody else's clock.
        let at = match number % 2 {
            0 => rfc3339(until(number)),
            _ => rfc3339(until(number) + 19_800).replace('Z', "+05:30"),
        };
        format!("- {{host: {host}, until: {at}, passthrough: true}}\n")
    });
    let grants: String = grants.collect();
    format!("{plain}pipelock: {{requests_per_minute: 1000000}}\ngrants:\n{grants}# {comment}\n")
}

#[test]
fn ten_grants_end_in_time_whatever_becomes_of_the_clock_the_daemon_and_the_machine() {
    let bed = Bed::new();
    let hosts: Vec<String> = (0..GRANTS)
        .map(|number| format!("g{number}.test"))
        .collect();
    let running = bed
        .machine()
        .root_override(bed.root_with_stepper())
        .kernel_arg("init=/sbin/stepper")
        .export_dir(bed.export())
        .boot()
        .unwrap();
    bed.wait_for(|status| status["state"] == "ready");
    let proxy = running.forwarded(PORT).unwrap();
    let start = machine_time(&running).unwrap();
    let until = |number: usize| start + FIRST + EACH * number as u64;
    let manifest = |comment: &str| manifest(&hosts, &until, comment);
    bed.write_manifest(&manifest("as it was at the start"));
    bed.wait_for(|status| status["config"]["applied_generation"] == 2);

    let seen = |number: usize| Seen {
        host: hosts[number].clone(),
        until: until(number),
        tunnel: None,
        allowed: false,
        before: Duration::ZERO,
        over: false,
    };
    let mut watched = Watched {
        bed: &bed,
        running: &running,
        proxy,
        echo: echo(),
        grants: (0..GRANTS).map(seen).collect(),
        begun: Instant::now(),
        slept: Duration::ZERO,
        latest: Duration::ZERO,
        looks: 0,
        told: 0,
        steps: 0,
    };
    for what in HAPPENINGS {
        let now = watched.wait_until_due(what);
        println!("{what:?} at {} after {:?}", now - start, watched.lived());
        watched.undergo(what, now);
    }
    while !watched.ends().is_empty() {
        watched.look();
    }
    watched.step(-60);
    // Some of their times have not come by the clock as it is now, and the manifest is read again.
    for comment in ["read again", "and again"] {
        bed.write_manifest(&manifest(comment));
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end {
            watched.look();
        }
    }
    for seen in &watched.grants {
        assert!(
            seen.allowed && seen.over,
            "{}: {} {}",
            seen.host,
            seen.allowed,
            seen.over
        );
        assert!(seen.tunnel.is_none());
    }
    let status = bed.wait_for(|status| status["state"] == "ready");
    let grants = status["grants"].as_array().unwrap();
    assert_eq!(grants.len(), GRANTS);
    assert!(
        grants.iter().all(|grant| grant["in_force"] == false),
        "{status}"
    );
    assert_eq!(status["hosts_allowed"], 1);
    let now = watched.now().unwrap();
    assert!(now < until(GRANTS - 1), "nothing would have come back");
    println!(
        "MEASURED: at most {:?} after an end may have come, something was let through",
        watched.latest
    );
    let console = running.console();
    assert_eq!(
        console.matches(" is granted until ").count(),
        GRANTS,
        "{console}"
    );
    assert_eq!(
        console.matches("the grant of ").count(),
        GRANTS,
        "{console}"
    );
}
