use crate::bed::{Bed, Echo, Rendered};

fn limited(limit: usize) -> Rendered {
    let more = format!("\nfetch_proxy:\n  monitoring:\n    max_requests_per_minute: {limit}\n");
    Rendered {
        more,
        ..Rendered::default()
    }
}

#[test]
fn refuses_the_61st_request_to_a_domain_in_a_minute() {
    let bed = Bed::new();
    let upstream = Echo::plain();
    let daemon = bed.start(&Rendered::default());
    let url = format!("http://127.0.0.1:{}/", upstream.port);
    for n in 1..=60 {
        assert_eq!(daemon.forward(&url, "", "").status(), 200, "request {n}");
    }
    daemon
        .forward(&url, "", "")
        .refuses(429, "blocked: rate limit exceeded for 127.0.0.1");
    daemon.event("blocked", |e| e["scanner"] == "ratelimit");
    let other = format!("http://localhost:{}/", upstream.port);
    assert_eq!(
        daemon.forward(&other, "", "").status(),
        200,
        "domains do not share a limit"
    );
}

#[test]
fn counts_a_connect_and_its_request_as_two_but_refuses_only_the_connect() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&limited(3));
    assert_eq!(
        daemon.secure(&bed, upstream.port, "/", "", "").status(),
        200
    );
    let mut late = daemon.tls("localhost", upstream.port, &bed.ca).unwrap();
    daemon
        .connect(&format!("localhost:{}", upstream.port), "")
        .0
        .refuses(429, "CONNECT blocked: rate limit exceeded for localhost");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        upstream.port
    );
    std::io::Write::write_all(&mut late, request.as_bytes()).unwrap();
    let answer = crate::bed::Answer::read(&mut std::io::BufReader::new(late));
    assert_eq!(answer.status(), 200);
}

#[test]
fn does_not_count_what_the_allowlist_refuses() {
    let bed = Bed::new();
    let upstream = Echo::plain();
    let daemon = bed.start(&limited(1));
    for _ in 0..5 {
        daemon.connect("canary.invalid:443", "").0.refuses(
            403,
            "CONNECT blocked: domain not in allowlist: canary.invalid",
        );
    }
    let url = format!("http://localhost:{}/", upstream.port);
    assert_eq!(daemon.forward(&url, "", "").status(), 200);
}
