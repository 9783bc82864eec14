//! The files that resolve names are replaced while the daemon runs: by a network manager, a DHCP
//! client, a VPN. It asks whom they name, whatever became of the files it was granted at first.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Bed, Console, Init, Place, own_address, pipelock, skipped};

/// A name server that gives every name this address.
fn serve(address: [u8; 4]) -> Ipv4Addr {
    let own = own_address();
    let server = UdpSocket::bind((own, 53)).unwrap();
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, client)) = server.recv_from(&mut packet) {
            let Some(answer) = packet.get(..length).and_then(|it| answer(it, address)) else {
                continue;
            };
            let _ = server.send_to(&answer, client);
        }
    });
    own
}

/// RFC 1035: the question again, and for a question about IPv4 one record that points at it.
fn answer(query: &[u8], address: [u8; 4]) -> Option<Vec<u8>> {
    let name = query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(12..12 + name + 5)?;
    let is_v4 = question.get(name + 1..name + 3)? == [0, 1];
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    answer.extend(question);
    if is_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address);
    }
    Some(answer)
}

/// An init whose `/etc` is the bed's, as `prepare` makes it; with pipelock, or the stand-in.
fn start(prepare: impl FnOnce(&Path)) -> Init {
    let bed = Bed::new();
    pipelock::copy_into(&bed.path(""));
    let etc = bed.path("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    prepare(&etc);
    let commands = format!("mount --bind '{}' /etc; exec \"$@\"", etc.display());
    let around = ["unshare", "--mount", "sh", "-ec", &commands, "sh"];
    let mut init = bed.start_under(Place::Child, Console::Read, &around);
    init.wait_ready();
    init
}

/// What the daemon finds the allowed host to be, at a private address which it refuses to
/// connect to.
fn found(init: &Init) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(init.bed.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        stream.write_all(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")?;
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    ask().unwrap_or_default()
}

fn finds(init: &Init, address: &str) -> bool {
    found(init).contains(&format!("resolves to internal IP {address}"))
}

fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// How names come to be resolved otherwise: what was before, what changes it, and which file
/// that is told of.
type Change = (
    fn(&Path, &[String; 2]),
    fn(&Path, &[String; 2]),
    &'static str,
);

const CHANGES: [Change; 5] = [
    (
        |etc, [one, _]| put(&etc.join("resolv.conf"), one),
        |etc, [_, other]| put(&etc.join("resolv.conf"), other),
        "/etc/resolv.conf",
    ),
    (
        |etc, [one, _]| {
            put(&etc.with_file_name("stub.conf"), one);
            symlink(etc.with_file_name("stub.conf"), etc.join("resolv.conf")).unwrap();
        },
        |etc, [_, other]| put(&etc.with_file_name("stub.conf"), other),
        "/etc/resolv.conf",
    ),
    (
        |etc, [one, _]| {
            put(&etc.with_file_name("one.conf"), one);
            symlink(etc.with_file_name("one.conf"), etc.join("resolv.conf")).unwrap();
        },
        |etc, [_, other]| {
            put(&etc.with_file_name("other.conf"), other);
            symlink(etc.with_file_name("other.conf"), etc.join("resolv.new")).unwrap();
            fs::rename(etc.join("resolv.new"), etc.join("resolv.conf")).unwrap();
        },
        "/etc/resolv.conf",
    ),
    // Absent at the start: there is nobody to ask.
    (
        |_, _| {},
        |etc, [_, other]| put(&etc.join("resolv.conf"), other),
        "/etc/resolv.conf",
    ),
    (
        |etc, _| put(&etc.join("hosts"), "10.9.8.1 a.example\n"),
        |etc, _| put(&etc.join("hosts"), "10.9.8.2 a.example\n"),
        "/etc/hosts",
    ),
];

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("replaced name files", "a mount namespace needs root");
    }
    root
}

#[test]
fn the_daemon_asks_whom_a_replaced_file_names() {
    if !is_root() {
        return;
    }
    let servers = [[10, 9, 8, 1], [10, 9, 8, 2]].map(|address| {
        let own = serve(address);
        format!("nameserver {own}\noptions timeout:1 attempts:1\n")
    });
    thread::scope(|scope| {
        for (before, change, file) in CHANGES {
            let servers = &servers;
            scope.spawn(move || {
                let mut init = start(|etc| before(etc, servers));
                assert!(!finds(&init, "10.9.8.2"), "{file}");
                change(&init.bed.path("etc"), servers);
                init.wait_until("it asks whom the new file names", |init| {
                    finds(init, "10.9.8.2").then_some(())
                });
                let status = init.wait_ready();
                assert_eq!(
                    (&status["restarts"], &status["failures"]),
                    (&1.into(), &0.into())
                );
                let said = format!("warning: {file} is not the file that was there");
                assert!(init.console().contains(&said), "{}", init.console());
                assert_eq!(init.stop().0.code, 0);
            });
        }
    });
}

#[test]
fn who_puts_the_same_there_again_and_again_restarts_the_daemon_ever_more_rarely() {
    const SAME: &str = "nameserver 127.0.0.1\n";
    if !is_root() {
        return;
    }
    let mut init = start(|etc| put(&etc.join("resolv.conf"), SAME));
    let file = init.bed.path("etc/resolv.conf");
    // In place it is the same file.
    fs::write(&file, SAME).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        fs::write(&file, SAME).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(init.status()["restarts"], 0);
    // Five looks and more, of which every one finds another file.
    let end = Instant::now() + Duration::from_secs(11);
    while Instant::now() < end {
        put(&file, SAME);
        thread::sleep(Duration::from_millis(100));
    }
    let status = init.wait_ready();
    let restarts = status["restarts"].as_u64().unwrap();
    assert!((1..=3).contains(&restarts), "{restarts} restarts");
    assert_eq!(status["failures"], 0);
    assert_eq!(init.stop().0.code, 0);
}
