use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bed::{Bed, Echo, Rendered, wait_for};

#[test]
fn term_and_int_end_it_soon_with_success_and_a_last_event() {
    let bed = Bed::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = bed.start(&Rendered::default());
        let asked = Instant::now();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "took {:?}",
            asked.elapsed()
        );
        let last = daemon.event("shutdown", |_| true);
        assert_eq!(last["reason"], "signal received");
        daemon.says("Pipelock stopped.");
    }
}

#[test]
fn term_cuts_open_tunnels() {
    let bed = Bed::new();
    let upstream = Echo::raw();
    let mut daemon = bed.start(&Rendered {
        tls: false,
        ..Rendered::default()
    });
    let (_, tunnel) = daemon.connect(&format!("localhost:{}", upstream.port), "");
    let _tunnel = tunnel.unwrap();
    let asked = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "took {:?}",
        asked.elapsed()
    );
}

#[test]
fn quit_dumps_and_exits_with_2() {
    let bed = Bed::new();
    let mut daemon = bed.start(&Rendered::default());
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(daemon.wait().code(), Some(2));
    daemon.says("SIGQUIT: quit");
    wait_for("a long dump", || {
        (daemon.stderr.lock().unwrap().len() > 50).then_some(())
    });
}

#[test]
fn hup_term_and_int_right_after_exec_kill_instead_of_being_heard() {
    let bed = Bed::new();
    bed.install(&bed.render(&Rendered::default()));
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
        // On a busy machine the signal may come after the handlers: then it is heard, and
        // says nothing about this.
        let killed = (0..20).any(|_| {
            let mut daemon = bed.spawn();
            daemon.signal(signal);
            let end = wait_for("its end, or its start", || {
                match daemon.child.try_wait().unwrap() {
                    Some(status) => Some(Some(status)),
                    None => (daemon.count("startup") > 0).then_some(None),
                }
            });
            end.is_some_and(|status| status.signal() == Some(signal as i32))
        });
        assert!(killed, "{signal} never came in time, or never killed");
    }
}

#[test]
fn usr2_does_nothing() {
    let bed = Bed::new();
    let mut daemon = bed.start(&Rendered::default());
    daemon.signal(Signal::SIGUSR2);
    assert_eq!(daemon.health()["kill_switch_active"], false);
    // Delivered before what is sent after it.
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn hup_after_the_first_health_reloads() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    daemon.signal(Signal::SIGHUP);
    let hash = daemon.event("startup", |_| true)["config_hash"].clone();
    let reload = daemon.event("config_reload", |_| true);
    assert_eq!(reload["config_hash"], hash);
    assert_eq!(reload["status"], "success");
    assert_eq!(reload["detail"], "mode=strict");
    daemon.signal(Signal::SIGHUP);
    // The same bytes within two seconds are no news. What follows proves it was heard.
    let mut rendered = Rendered::default();
    rendered.allow.push("another.invalid".to_owned());
    bed.install(&bed.render(&rendered));
    daemon.event("config_reload", |e| e["config_hash"] != hash);
    assert_eq!(daemon.count("config_reload"), 2);
}

#[test]
fn usr1_toggles_the_kill_switch() {
    let bed = Bed::new();
    let (plain, secure) = (Echo::plain(), Echo::tls(&bed.upstream));
    let daemon = bed.start(&Rendered::default());
    let mut open = daemon.tls("localhost", secure.port, &bed.ca).unwrap();
    daemon.signal(Signal::SIGUSR1);
    wait_for("the kill switch", || {
        (daemon.health()["kill_switch_active"] == true).then_some(())
    });
    daemon.says("kill switch ACTIVATED via SIGUSR1");
    let refused = [
        daemon.connect("canary.invalid:443", "").0,
        daemon.connect(&format!("localhost:{}", secure.port), "").0,
        daemon.forward(&format!("http://localhost:{}/", plain.port), "", ""),
        daemon.get("/stats"),
    ];
    for answer in refused {
        assert_eq!(answer.status(), 503);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let wanted = serde_json::json!({"error": "kill_switch_active", "message": "Emergency deny-all active"});
        assert_eq!(body, wanted);
    }
    assert!(
        daemon
            .get("/metrics")
            .body
            .contains("pipelock_kill_switch_active{source=\"signal\"} 1\n")
    );
    daemon.event("kill_switch_deny", |e| {
        e["source"] == "signal" && e["endpoint"] == "/stats"
    });
    let request = format!("GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", secure.port);
    std::io::Write::write_all(&mut open, request.as_bytes()).unwrap();
    crate::bed::Answer::read(&mut std::io::BufReader::new(open)).refuses(503, "kill switch active");
    daemon.signal(Signal::SIGUSR1);
    wait_for("its end", || {
        (daemon.health()["kill_switch_active"] == false).then_some(())
    });
    assert_eq!(
        daemon
            .forward(&format!("http://localhost:{}/", plain.port), "", "")
            .status(),
        200
    );
}
