//! Tunnels through the firewall that are open when their host is removed: idle, streaming,
//! half closed. To the host that is passed through, because there a tunnel carries
//! whatever its client likes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The one host whose connections pipelock does not intercept.
pub const PASSED_THROUGH: &str = "api.anthropic.com";
/// What a client says first. pipelock compares names where that is TLS, and ends a tunnel
/// that is silent for 5 s: only an older one is open.
const FIRST_WORDS: &[u8] = b"no TLS";
const AGE: Duration = Duration::from_secs(6);

/// An open tunnel, by what it is.
pub type Tunnel = (&'static str, TcpStream);

/// Opens the three, and sees them alive when they are old enough. The upstream is a port of
/// this host, which the proxy reaches under the name `host`, and passes it through.
pub fn open_tunnels(proxy: SocketAddr, host: &str) -> [Tunnel; 3] {
    let echoes = serve(|mut stream| {
        let mut copy = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut copy, &mut stream);
    });
    let streams = serve(|mut stream| {
        // Whatever its client does: half closed, the other half stays.
        while stream.write_all(b"streaming ").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let mut idle = open(proxy, host, echoes);
    let mut streaming = open(proxy, host, streams);
    let mut half_closed = open(proxy, host, streams);
    half_closed.shutdown(Shutdown::Write).unwrap();
    let opened = Instant::now();
    idle.read_exact(&mut [0; FIRST_WORDS.len()]).unwrap();
    // Read all the while, or what waits in buffers would pass for life.
    while opened.elapsed() < AGE {
        for stream in [&mut streaming, &mut half_closed] {
            let count = stream.read(&mut [0; 4096]).unwrap();
            assert_ne!(count, 0, "closed after {:?}", opened.elapsed());
        }
    }
    idle.write_all(b"there?").unwrap();
    idle.read_exact(&mut [0; 6]).unwrap();
    [
        ("idle", idle),
        ("streaming", streaming),
        ("half closed", half_closed),
    ]
}

/// When each of them was gone, counted from `since`.
pub fn gone_after(tunnels: [Tunnel; 3], since: Instant) -> Vec<(&'static str, Duration)> {
    let readers = tunnels
        .map(|(kind, stream)| thread::spawn(move || (kind, read_to_its_end(stream) - since)));
    readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .collect()
}

fn serve(each: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || each(stream));
        }
    });
    port
}

fn open(proxy: SocketAddr, host: &str, port: u16) -> TcpStream {
    let authority = format!("{host}:{port}");
    let (answer, mut stream) = microvm::connect_through(proxy, &authority).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    stream.write_all(FIRST_WORDS).unwrap();
    stream
}

fn read_to_its_end(mut stream: TcpStream) -> Instant {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return Instant::now(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the tunnel is still open")
            }
            Err(_) => return Instant::now(),
        }
    }
}
