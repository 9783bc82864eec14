//! The lines an init counts refusals by: their fields, in their order.

use serde_json::Value;

use crate::bed::{Bed, Echo, Rendered};

#[track_caller]
fn has_fields(event: &Value, wanted: &[&str]) {
    let fields: Vec<&str> = event
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(fields, wanted);
    assert_eq!(event["component"], "pipelock");
}

const BLOCKED: [&str; 13] = [
    "level",
    "component",
    "event",
    "method",
    "url",
    "client_ip",
    "request_id",
    "scanner",
    "reason",
    "agent",
    "mitre_technique",
    "time",
    "message",
];

#[test]
fn a_refused_tunnel_is_blocked_with_its_target() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    daemon.connect("canary.invalid:443", "");
    let event = daemon.event("blocked", |_| true);
    has_fields(
        &event,
        &BLOCKED.map(|f| if f == "url" { "target" } else { f }),
    );
    assert_eq!(event["level"], "warn");
    assert_eq!(event["method"], "CONNECT");
    assert_eq!(event["target"], "canary.invalid:443");
    assert_eq!(event["client_ip"], "127.0.0.1");
    assert_eq!(event["request_id"], "req-1");
    assert_eq!(event["scanner"], "allowlist");
    assert_eq!(event["reason"], "domain not in allowlist: canary.invalid");
    assert_eq!(event["mitre_technique"], "T1071.001");
}

#[test]
fn a_refused_request_is_blocked_with_its_url() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    daemon.forward("http://canary.invalid/x?y", "", "");
    let event = daemon.event("blocked", |_| true);
    has_fields(&event, &BLOCKED);
    assert_eq!(event["url"], "http://canary.invalid/x?y");
}

#[test]
fn secrets_in_plain_requests_are_no_blocked_events_but_of_their_own_kind() {
    let bed = Bed::new();
    let upstream = Echo::plain();
    let daemon = bed.start(&Rendered::default());
    let secret = ["AKIA", "IOSFODNN7", "EXAMPLE"].concat();
    let url = format!("http://localhost:{}/", upstream.port);
    daemon.forward(&url, "", &secret);
    daemon.forward(&url, &format!("X-Any: {secret}\r\n"), "");
    daemon.connect(
        &format!("localhost:{}", upstream.port),
        &format!("X-Any: {secret}\r\n"),
    );
    let event = daemon.event("body_dlp", |_| true);
    has_fields(
        &event,
        &[
            "level",
            "component",
            "event",
            "method",
            "url",
            "action",
            "client_ip",
            "request_id",
            "agent",
            "match_count",
            "patterns",
            "mitre_technique",
            "time",
            "message",
        ],
    );
    assert_eq!(event["patterns"], serde_json::json!(["AWS Access ID"]));
    assert_eq!(event["action"], "block");
    let event = daemon.event("header_dlp", |e| e["method"] == "GET");
    has_fields(
        &event,
        &[
            "level",
            "component",
            "event",
            "method",
            "url",
            "header",
            "action",
            "client_ip",
            "request_id",
            "agent",
            "patterns",
            "mitre_technique",
            "time",
            "message",
        ],
    );
    assert_eq!(event["header"], "X-Any");
    daemon.event("header_dlp", |e| e["method"] == "CONNECT");
    assert_eq!(daemon.count("blocked"), 0);
}

#[test]
fn secrets_in_intercepted_requests_are_blocked_events_that_withhold_the_url() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    let secret = ["AKIA", "IOSFODNN7", "EXAMPLE"].concat();
    daemon.secure(&bed, upstream.port, "/path", "", &secret);
    daemon.secure(
        &bed,
        upstream.port,
        "/path",
        &format!("X-Any: {secret}\r\n"),
        "",
    );
    for scanner in ["body_dlp", "header_dlp"] {
        let event = daemon.event("blocked", |e| e["scanner"] == scanner);
        has_fields(&event, &BLOCKED);
        assert_eq!(
            event["url"],
            format!("https://localhost:{}/[redacted]", upstream.port)
        );
        assert_eq!(event["mitre_technique"], "T1048");
    }
}

#[test]
fn a_client_that_does_not_trust_the_ca_is_a_blocked_event() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    assert!(
        daemon
            .tls("localhost", upstream.port, &bed.upstream)
            .is_err()
    );
    let event = daemon.event("blocked", |e| e["scanner"] == "tls_handshake_error");
    assert_eq!(event["target"], format!("localhost:{}", upstream.port));
}
