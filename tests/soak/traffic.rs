//! Servers on the loopback, and clients that ask for everything all the time. Each request
//! carries when it was sent: what is judged is that, not when a busy machine came to read it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::bottle::{AGENT_PORT, INSIDE, NEVER, names};
use super::law::{LIMIT, Law};
use super::ledger::{Fault, Ledger};
use crate::support::random::Random;

/// Plain HTTP, and what echoes.
const HTTP: u16 = 80;
const ECHO: u16 = 443;
/// What pipelock lets nobody send.
const SECRET: &str = "AKIAIOSFODNN7EXAMPLE";
const CLIENTS: u32 = 4;
const MOST_TUNNELS: usize = 24;
/// Between two looks at the open tunnels.
const TURN: Duration = Duration::from_millis(100);

/// Whether a halt is asked for.
pub struct Halt {
    pub wanted: bool,
    pub since: Instant,
    /// From when on nothing may be served; forgotten before a resume is asked for.
    pub from: Option<Instant>,
}

/// What everybody here knows.
pub struct World {
    pub ledger: Ledger,
    pub law: Mutex<Law>,
    pub halt: Mutex<Halt>,
    pub proxy: SocketAddr,
    /// Hosts that the newest manifest passes through.
    pub passed: Mutex<Vec<String>>,
    pub goes_on: AtomicBool,
    /// Some clients go around the firewall: for who wants to see that noticed.
    pub bypass: bool,
    names: Vec<String>,
    by_address: HashMap<Ipv4Addr, String>,
}

impl World {
    pub fn new(ledger: Ledger, proxy: SocketAddr, bypass: bool) -> Self {
        let now = ledger.began;
        let (names, by_address): (Vec<String>, _) = names()
            .into_iter()
            .map(|(name, address)| (name.clone(), (address.parse().unwrap(), name)))
            .unzip();
        Self {
            ledger,
            law: Mutex::new(Law::new(&names, now)),
            halt: Mutex::new(Halt {
                wanted: false,
                since: now,
                from: None,
            }),
            proxy,
            passed: Mutex::default(),
            goes_on: AtomicBool::new(true),
            bypass,
            names,
            by_address,
        }
    }

    pub fn goes_on(&self) -> bool {
        self.goes_on.load(Ordering::Relaxed)
    }

    /// Something that was sent at that time has come through to a host, or back.
    fn through(&self, name: &str, sent: Instant, what: &str) {
        let halted = self.halt.lock().unwrap().from;
        if let Some(halted) = halted.filter(|from| sent >= *from) {
            let ago = sent - halted;
            self.ledger.fault(
                Fault::ServedWhileHalted,
                &format!("{what} to {name}, sent {ago:?} after the halt"),
            );
        }
        if name == NEVER || name == INSIDE {
            self.ledger
                .fault(Fault::PastTheFirewall, &format!("{what} to {name}"));
            return;
        }
        let late = self.law.lock().unwrap().late(name, sent);
        let Some(late) = late else { return };
        let (fault, slowest) = if late.granted {
            (Fault::GrantOutlivesItsEnd, "slowest end of a grant")
        } else {
            (Fault::RemovedHostAnswers, "slowest removal of a host")
        };
        self.ledger.took(slowest, late.by);
        if late.by > LIMIT {
            let words = format!("{what} to {name}, sent {:?} after it had to end", late.by);
            self.ledger.fault(fault, &words);
        }
    }
}

/// Serves for as long as the process lives.
pub fn serve(world: &Arc<World>) {
    for (port, answer) in [
        (HTTP, answer_request as fn(&World, &str, TcpStream)),
        (ECHO, echo),
    ] {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let world = Arc::clone(world);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    let Ok(SocketAddr::V4(at)) = stream.local_addr() else {
                        return;
                    };
                    let Some(name) = world.by_address.get(at.ip()) else {
                        return;
                    };
                    if name == NEVER || name == INSIDE {
                        let words = format!("a connection to {name}");
                        world.ledger.fault(Fault::PastTheFirewall, &words);
                    }
                    answer(&world, name, stream);
                });
            }
        });
    }
}

/// `GET /soak/STAMP…`
fn answer_request(world: &World, name: &str, mut stream: TcpStream) {
    let mut head = String::new();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    while lines.read_line(&mut head).is_ok_and(|count| count > 2) {}
    if head.contains(SECRET) {
        let words = format!("a secret to {name}");
        world.ledger.fault(Fault::PastTheFirewall, &words);
    }
    let stamp = head.split('/').nth(2).and_then(first_number);
    let Some(stamp) = stamp else { return };
    world.through(name, world.ledger.time_of(stamp), "a request");
    let body = stamp.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

fn first_number(text: &str) -> Option<u64> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Lines, each a stamp.
fn echo(world: &World, name: &str, mut stream: TcpStream) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(stamp) = line.strip_prefix("soak ").and_then(first_number) {
            world.through(name, world.ledger.time_of(stamp), "a word in a tunnel");
        }
        if writeln!(stream, "{line}").is_err() {
            return;
        }
    }
    // Its client has shut down its half: the other half goes on until somebody cuts it.
    while writeln!(stream, "soak {}", world.ledger.stamp(Instant::now())).is_ok() {
        thread::sleep(TURN);
    }
}

/// Clients, until the world ends.
pub fn ask(world: &Arc<World>, seed: u64) -> Vec<thread::JoinHandle<()>> {
    let mut threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let world = Arc::clone(world);
            thread::spawn(move || {
                let mut random = Random::of(seed ^ 0x9e37_79b9_7f4a_7c15_u64.rotate_left(number));
                while world.goes_on() {
                    ask_once(&world, &mut random);
                    thread::sleep(Duration::from_millis(5 + random.below(60) as u64));
                }
            })
        })
        .collect();
    let world = Arc::clone(world);
    threads.push(thread::spawn(move || keep_tunnels(&world, seed)));
    threads
}

fn ask_once(world: &World, random: &mut Random) {
    let name = &world.names[random.below(world.names.len())];
    if world.bypass && name == NEVER {
        let _ = TcpStream::connect((world.by_name(name), HTTP));
    }
    match random.below(10) {
        0 => {
            let sent = Instant::now();
            let secret = format!("{}?key={SECRET}", world.url(name, sent));
            // That it arrived is the server's to say.
            if microvm::get_through(world.proxy, &secret).is_ok_and(|it| it.status == 403) {
                world.ledger.count("requests with a secret, refused");
            }
        }
        1 | 2 => {
            let sent = Instant::now();
            match microvm::connect_through(world.proxy, &format!("{name}:{ECHO}")) {
                Ok((answer, _)) if answer.status == 200 => {
                    world.ledger.count("tunnels asked for, given");
                    world.through(name, sent, "a tunnel");
                }
                Ok(_) => world.ledger.count("tunnels asked for, refused"),
                Err(_) => world.ledger.count("asked for, without an answer"),
            }
        }
        3 => {
            let sent = Instant::now();
            let agent = SocketAddr::from((Ipv4Addr::LOCALHOST, AGENT_PORT));
            match microvm::get_through(agent, &format!("http://{name}/")) {
                Ok(answer) if answer.status == 200 => {
                    world
                        .ledger
                        .count("requests through the agent's proxy, answered");
                    world.through(name, sent, "a request through the agent's proxy");
                }
                Ok(_) => world
                    .ledger
                    .count("requests through the agent's proxy, refused"),
                // Mostly there is none.
                Err(_) => {}
            }
        }
        _ => {
            world.get(name);
        }
    }
}

impl World {
    fn by_name(&self, name: &str) -> Ipv4Addr {
        let mut all = self.by_address.iter();
        *all.find(|(_, it)| *it == name).unwrap().0
    }

    fn url(&self, name: &str, sent: Instant) -> String {
        format!("http://{name}/soak/{}", self.ledger.stamp(sent))
    }

    /// Asks for a page; the status of the answer.
    pub fn get(&self, name: &str) -> Option<u16> {
        let sent = Instant::now();
        let Ok(answer) = microvm::get_through(self.proxy, &self.url(name, sent)) else {
            self.ledger.count("asked for, without an answer");
            return None;
        };
        if answer.status == 200 && answer.body == self.ledger.stamp(sent).to_string() {
            self.ledger.count("requests answered");
            self.through(name, sent, "a request answered");
        } else if answer.status == 403 {
            self.ledger.count("requests refused");
        } else {
            self.ledger.count("requests failed (502, 503, cut)");
        }
        Some(answer.status)
    }

    /// Opens a tunnel that carries whatever its client likes.
    pub fn open_tunnel(&self, name: &str) -> Option<TcpStream> {
        let proxied = microvm::connect_through(self.proxy, &format!("{name}:{ECHO}"));
        let (answer, mut stream) = proxied.ok()?;
        if answer.status != 200 {
            return None;
        }
        stream.write_all(b"no TLS\n").ok()?;
        Some(stream)
    }
}

/// What the client of an open tunnel does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Talks,
    IsIdle,
    /// Has shut down its own half.
    HalfClosed,
}

struct Tunnel {
    name: String,
    kind: Kind,
    stream: TcpStream,
    unread: Vec<u8>,
    /// What is wrong with it is told once.
    told: Vec<Fault>,
}

fn keep_tunnels(world: &World, seed: u64) {
    let mut random = Random::of(seed ^ 0x7475_6e6e_656c);
    let mut tunnels: Vec<Tunnel> = Vec::new();
    while world.goes_on() {
        if tunnels.len() < MOST_TUNNELS {
            let passed = world.passed.lock().unwrap().clone();
            if !passed.is_empty() {
                let name = passed[random.below(passed.len())].clone();
                tunnels.extend(open(world, name, &mut random));
            }
        }
        tunnels.retain_mut(|tunnel| lives(world, tunnel));
        thread::sleep(TURN);
    }
}

fn open(world: &World, name: String, random: &mut Random) -> Option<Tunnel> {
    let stream = world.open_tunnel(&name)?;
    let kind = match random.below(4) {
        0 => Kind::IsIdle,
        1 => Kind::HalfClosed,
        _ => Kind::Talks,
    };
    if kind == Kind::HalfClosed {
        stream.shutdown(std::net::Shutdown::Write).ok()?;
    }
    stream.set_nonblocking(true).ok()?;
    world.ledger.count("tunnels opened and kept");
    Some(Tunnel {
        name,
        kind,
        stream,
        unread: Vec::new(),
        told: Vec::new(),
    })
}

/// Whether it is open still; everything that comes out of it is judged.
fn lives(world: &World, tunnel: &mut Tunnel) -> bool {
    let name = &tunnel.name;
    let now = Instant::now();
    if tunnel.kind == Kind::Talks {
        let said = format!("soak {}\n", world.ledger.stamp(now));
        // Where it is full, less is said.
        let _ = tunnel.stream.write(said.as_bytes());
    }
    let mut buffer = [0; 4096];
    let open = loop {
        match tunnel.stream.read(&mut buffer) {
            Ok(0) => break false,
            Ok(count) => tunnel.unread.extend(&buffer[..count]),
            Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
        }
    };
    while let Some(end) = tunnel.unread.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = tunnel.unread.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(stamp) = line.strip_prefix("soak ").and_then(first_number) {
            world.ledger.count("words echoed through tunnels");
            world.through(name, world.ledger.time_of(stamp), "an echo in a tunnel");
        }
    }
    let mut wrong = |fault: Fault, words: String| {
        if !tunnel.told.contains(&fault) {
            tunnel.told.push(fault);
            world.ledger.fault(fault, &words);
        }
    };
    let (name, kind) = (&tunnel.name, tunnel.kind);
    match world.law.lock().unwrap().late(name, now) {
        Some(_) if !open => world.ledger.count("tunnels to removed hosts, cut"),
        Some(late) if late.by > LIMIT => wrong(
            Fault::RemovedHostsTunnelIsOpen,
            format!("to {name} ({kind:?}) for {:?}", late.by),
        ),
        Some(late) => world
            .ledger
            .took("longest a tunnel outlived its host", late.by),
        None => {}
    }
    if open && world.halt.lock().unwrap().from.is_some_and(|it| now >= it) {
        wrong(
            Fault::ServedWhileHalted,
            format!("a tunnel to {name} ({kind:?}) is open"),
        );
    }
    open
}
