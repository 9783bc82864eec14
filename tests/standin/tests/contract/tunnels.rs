use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::bed::{Bed, Daemon, Echo, Rendered, wait_for};

fn active(daemon: &Daemon) -> String {
    let metrics = daemon.get("/metrics").body;
    let line = metrics
        .lines()
        .find(|l| l.starts_with("pipelock_active_tunnels "))
        .unwrap();
    line.to_owned()
}

/// How long until the other side ends the stream.
fn lasts(mut stream: TcpStream) -> Duration {
    let since = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    since.elapsed()
}

fn open(daemon: &Daemon, upstream: &Echo) -> TcpStream {
    let (answer, tunnel) = daemon.connect(&format!("localhost:{}", upstream.port), "");
    let mut tunnel = tunnel.unwrap_or_else(|| panic!("{answer:?}"));
    tunnel.write_all(b"ping").unwrap();
    let mut pong = [0; 4];
    tunnel.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"ping");
    tunnel
}

#[test]
fn counts_raw_tunnels_while_they_are_open() {
    let bed = Bed::new();
    let upstream = Echo::raw();
    let daemon = bed.start(&Rendered {
        tls: false,
        ..Rendered::default()
    });
    assert_eq!(active(&daemon), "pipelock_active_tunnels 0");
    let tunnel = open(&daemon, &upstream);
    assert_eq!(active(&daemon), "pipelock_active_tunnels 1");
    drop(tunnel);
    wait_for("the tunnel's end", || {
        (active(&daemon) == "pipelock_active_tunnels 0").then_some(())
    });
}

#[test]
fn does_not_count_intercepted_tunnels() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    let _open = daemon.tls("localhost", upstream.port, &bed.ca).unwrap();
    daemon.event("anomaly", |e| e["scanner"] == "tls_intercept");
    assert_eq!(active(&daemon), "pipelock_active_tunnels 0");
}

#[test]
fn ends_an_idle_tunnel() {
    let bed = Bed::new();
    let upstream = Echo::raw();
    let forward_more = "  idle_timeout_seconds: 1\n".to_owned();
    let daemon = bed.start(&Rendered {
        tls: false,
        forward_more,
        ..Rendered::default()
    });
    let lasted = lasts(open(&daemon, &upstream));
    assert!(
        (0.8..5.0).contains(&lasted.as_secs_f64()),
        "lasted {lasted:?}"
    );
}

#[test]
fn ends_every_tunnel_when_its_time_is_up() {
    let bed = Bed::new();
    let (raw, secure) = (Echo::raw(), Echo::tls(&bed.upstream));
    let forward_more = "  max_tunnel_seconds: 2\n".to_owned();
    let daemon = bed.start(&Rendered {
        tls: false,
        forward_more: forward_more.clone(),
        ..Rendered::default()
    });
    let mut tunnel = open(&daemon, &raw);
    let since = Instant::now();
    // Never idle, and ended all the same.
    while tunnel.write_all(b"x").is_ok() && tunnel.read(&mut [0]).is_ok_and(|n| n > 0) {
        std::thread::sleep(Duration::from_millis(20));
        assert!(since.elapsed() < Duration::from_secs(8), "still open");
    }
    assert!(
        since.elapsed() > Duration::from_secs(1),
        "ended after {:?}",
        since.elapsed()
    );

    let daemon = bed.start(&Rendered {
        forward_more,
        ..Rendered::default()
    });
    let opened = daemon.tls("localhost", secure.port, &bed.ca).unwrap();
    let lasted = lasts(opened.sock);
    assert!(
        (1.0..8.0).contains(&lasted.as_secs_f64()),
        "lasted {lasted:?}"
    );
}

#[test]
fn the_kill_switch_ends_a_raw_tunnel_with_its_next_byte() {
    let bed = Bed::new();
    let upstream = Echo::raw();
    let daemon = bed.start(&Rendered {
        tls: false,
        ..Rendered::default()
    });
    let mut tunnel = open(&daemon, &upstream);
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    daemon.says("kill switch ACTIVATED");
    tunnel.write_all(b"late").unwrap();
    assert_eq!(
        tunnel.read(&mut [0; 4]).unwrap_or(0),
        0,
        "a byte got through"
    );
}
