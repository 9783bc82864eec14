use crate::bed::{Bed, Echo, Rendered};

/// Put together so that no scanner of sources takes it for a key.
fn access_id() -> String {
    ["AKIA", "IOSFODNN7", "EXAMPLE"].concat()
}

fn seed_phrase() -> String {
    format!("{} about", ["abandon"; 11].join(" "))
}

#[test]
fn refuses_hosts_that_are_not_allowed_in_its_own_words() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    daemon.connect("canary.invalid:443", "").0.refuses(
        403,
        "CONNECT blocked: domain not in allowlist: canary.invalid",
    );
    daemon.connect("CANARY.invalid:80", "").0.refuses(
        403,
        "CONNECT blocked: domain not in allowlist: canary.invalid",
    );
    daemon
        .forward("http://canary.invalid/x", "", "")
        .refuses(403, "blocked: domain not in allowlist: canary.invalid");
    daemon
        .connect("192.0.2.1:443", "")
        .0
        .refuses(403, "CONNECT blocked: domain not in allowlist: 192.0.2.1");
}

#[test]
fn the_allowlist_ignores_case_and_a_trailing_dot_and_takes_a_wildcards_apex() {
    let bed = Bed::new();
    let allow = ["*.wild.invalid", "MiXed.invalid", "dotted.invalid."].map(str::to_owned);
    let daemon = bed.start(&Rendered {
        allow: allow.to_vec(),
        ..Rendered::default()
    });
    // None of these resolves: being refused for that is having passed the allowlist.
    for host in [
        "wild.invalid",
        "a.wild.invalid",
        "a.b.WILD.invalid",
        "mixed.INVALID",
        "mixed.invalid.",
        "dotted.invalid",
    ] {
        let answer = daemon.connect(&format!("{host}:8443"), "").0;
        let unresolved = "CONNECT blocked: SSRF check failed: DNS resolution error for ";
        assert!(answer.body.starts_with(unresolved), "{host}: {answer:?}");
        assert_eq!(answer.status(), 403);
    }
    for host in ["notwild.invalid", "a.mixed.invalid"] {
        daemon.connect(&format!("{host}:443"), "").0.refuses(
            403,
            &format!("CONNECT blocked: domain not in allowlist: {host}"),
        );
    }
}

#[test]
fn refuses_internal_addresses_unless_their_range_is_listed() {
    let bed = Bed::new();
    let upstream = Echo::plain();
    let narrow = Rendered {
        ssrf: vec!["10.0.0.0/8".to_owned()],
        ..Rendered::default()
    };
    let daemon = bed.start(&narrow);
    let words = "SSRF blocked: 127.0.0.1 resolves to internal IP 127.0.0.1";
    let (target, url) = (
        format!("127.0.0.1:{}", upstream.port),
        format!("http://127.0.0.1:{}/", upstream.port),
    );
    daemon
        .connect(&target, "")
        .0
        .refuses(403, &format!("CONNECT blocked: {words}"));
    daemon
        .forward(&url, "", "")
        .refuses(403, &format!("blocked: {words}"));
    let answer = daemon
        .connect(&format!("localhost:{}", upstream.port), "")
        .0;
    assert!(
        answer
            .body
            .starts_with("CONNECT blocked: SSRF blocked: localhost resolves to internal IP ")
    );
    let daemon = bed.start(&Rendered::default());
    assert_eq!(daemon.forward(&url, "", "").status(), 200);
}

#[test]
fn forwards_plain_requests_without_this_hops_headers() {
    let bed = Bed::new();
    let upstream = Echo::plain();
    let daemon = bed.start(&Rendered::default());
    let url = format!("http://localhost:{}/path?q=1", upstream.port);
    let answer = daemon.forward(
        &url,
        "X-End: 1\r\nTE: trailers\r\nProxy-Authorization: x\r\n",
        "payload",
    );
    assert_eq!(answer.status(), 200);
    assert!(
        answer.body.starts_with("POST /path?q=1 HTTP/1.1\r\n"),
        "{}",
        answer.body
    );
    assert!(answer.body.ends_with("\r\n\r\npayload"));
    let received = answer.body.to_lowercase();
    assert!(received.contains(&format!("\r\nhost: localhost:{}\r\n", upstream.port)));
    assert!(received.contains("\r\nx-end: 1\r\n"));
    assert!(!received.contains("proxy-authorization") && !received.contains("\r\nte:"));
    let event = daemon.event("forward_http", |_| true);
    assert_eq!(event["url"], url.as_str());
    assert_eq!(event["status_code"], 200);
}

#[test]
fn answers_502_where_an_upstream_cannot_be_reached() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    let port = crate::bed::free_port();
    daemon
        .forward(&format!("http://127.0.0.1:{port}/"), "", "")
        .refuses(502, "forward proxy fetch failed");
    daemon
        .connect(&format!("127.0.0.1:{port}"), "")
        .0
        .refuses(502, "tunnel dial failed");
    let event = daemon.event("error", |e| e["method"] == "CONNECT");
    assert_eq!(
        event["error"],
        format!("dial tcp 127.0.0.1:{port}: connect: connection refused")
    );
}

#[test]
fn answers_502_where_an_upstreams_certificate_is_not_trusted() {
    let mut bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    bed.upstream = crate::bed::Ca::new("Another CA", &rcgen::PKCS_ECDSA_P256_SHA256);
    bed.write("upstream.pem", &bed.upstream.pem, 0o644);
    let daemon = bed.start(&Rendered::default());
    daemon
        .secure(&bed, upstream.port, "/", "", "")
        .refuses(502, "upstream error");
    let event = daemon.event("error", |e| e["method"] == "GET");
    let words = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert_eq!(event["error"], words);
}

#[test]
fn intercepts_tunnels_and_sends_their_requests_on() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    let answer = daemon.secure(&bed, upstream.port, "/path?q=1", "X-End: 1\r\n", "payload");
    assert_eq!(answer.status(), 200);
    assert!(
        answer.body.starts_with("POST /path?q=1 HTTP/1.1\r\n"),
        "{}",
        answer.body
    );
    assert!(answer.body.ends_with("\r\n\r\npayload"));
    assert!(answer.body.to_lowercase().contains("\r\nx-end: 1\r\n"));
    let event = daemon.event("anomaly", |e| e["scanner"] == "tls_intercept");
    assert_eq!(event["target"], format!("localhost:{}", upstream.port));
}

#[test]
fn passes_listed_hosts_through_untouched() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let passthrough = vec!["LocalHost".to_owned()];
    let daemon = bed.start(&Rendered {
        passthrough,
        ..Rendered::default()
    });
    let mut stream = daemon
        .tls("localhost", upstream.port, &bed.upstream)
        .unwrap();
    // What would be refused in an intercepted tunnel.
    let request = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", access_id());
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let answer = crate::bed::Answer::read(&mut std::io::BufReader::new(stream));
    assert_eq!(answer.status(), 200);
    assert!(answer.body.contains(&access_id()));
    daemon.event("tunnel_close", |e| e["total_bytes"].as_u64() > Some(0));
}

#[test]
fn refuses_secrets_in_bodies() {
    let bed = Bed::new();
    let (plain, secure) = (Echo::plain(), Echo::tls(&bed.upstream));
    let daemon = bed.start(&Rendered::default());
    let url = format!("http://localhost:{}/", plain.port);
    let json = "Content-Type: application/json\r\n";
    for (secret, name) in [
        (access_id(), "AWS Access ID"),
        (seed_phrase(), "BIP-39 Seed Phrase"),
    ] {
        let words = format!("blocked: request body contains secret: {name}");
        daemon.forward(&url, "", &secret).refuses(403, &words);
        daemon
            .secure(
                &bed,
                secure.port,
                "/",
                "",
                &format!("before {secret} after"),
            )
            .refuses(403, &words);
        let body = format!("{{\"key\": [\"{secret}\"]}}");
        daemon
            .secure(&bed, secure.port, "/", json, &body)
            .refuses(403, &words);
    }
    daemon
        .forward(&url, json, "{")
        .refuses(403, "blocked: invalid JSON body");
    let gzip = "request body uses Content-Encoding \"gzip\"; compressed bodies cannot be scanned for secrets";
    daemon
        .forward(&url, "Content-Encoding: gzip\r\n", "x")
        .refuses(403, &format!("blocked: {gzip}"));
}

#[test]
fn refuses_secrets_in_any_header() {
    let bed = Bed::new();
    let (plain, secure) = (Echo::plain(), Echo::tls(&bed.upstream));
    let daemon = bed.start(&Rendered::default());
    let url = format!("http://localhost:{}/", plain.port);
    let words = "blocked: request header contains secret";
    for header in ["X-Any", "Authorization", "Cookie"] {
        let header = format!("{header}: a{}z\r\n", access_id());
        daemon.forward(&url, &header, "").refuses(403, words);
        daemon
            .secure(&bed, secure.port, "/", &header, "")
            .refuses(403, words);
    }
    let target = format!("localhost:{}", secure.port);
    daemon
        .connect(&target, &format!("X-Any: {}\r\n", access_id()))
        .0
        .refuses(403, "CONNECT blocked: header DLP match");
}

#[test]
fn refuses_secrets_in_urls() {
    let bed = Bed::new();
    let (plain, secure) = (Echo::plain(), Echo::tls(&bed.upstream));
    let daemon = bed.start(&Rendered::default());
    let words = "blocked: core DLP match: AWS Access ID (critical)";
    for path in [
        format!("/{}", access_id()),
        format!("/?key={}", access_id()),
    ] {
        let url = format!("http://localhost:{}{path}", plain.port);
        daemon.forward(&url, "", "").refuses(403, words);
        daemon
            .secure(&bed, secure.port, &path, "", "")
            .refuses(403, words);
    }
}

#[test]
fn lets_seed_phrases_by_where_it_is_told_to_and_lists_of_words_always() {
    let bed = Bed::new();
    let upstream = Echo::plain();
    let url = format!("http://localhost:{}/", upstream.port);
    let daemon = bed.start(&Rendered {
        seed_phrase: false,
        ..Rendered::default()
    });
    assert_eq!(daemon.forward(&url, "", &seed_phrase()).status(), 200);
    let daemon = bed.start(&Rendered::default());
    let no_checksum = ["abandon"; 12].join(" ");
    assert_eq!(daemon.forward(&url, "", &no_checksum).status(), 200);
}

#[test]
fn refuses_another_host_inside_a_tunnel() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    for host in ["canary.invalid", "localhost", "localhost:1"] {
        let mut stream = daemon.tls("localhost", upstream.port, &bed.ca).unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        crate::bed::Answer::read(&mut std::io::BufReader::new(stream))
            .refuses(403, "authority mismatch: blocked");
    }
}

#[test]
fn ends_a_tunnel_whose_hello_names_another_host() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    let opened = daemon.tls_as("localhost", "canary.invalid", upstream.port, &bed.ca, &[]);
    assert!(opened.is_err());
    let event = daemon.event("sni_mismatch", |_| true);
    assert_eq!(event["connect_host"], "localhost");
    assert_eq!(event["sni_host"], "canary.invalid");
    assert_eq!(event["category"], "mismatch");
}

#[test]
fn trusts_no_upstream_without_a_bundle() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    bed.install(&bed.render(&Rendered::default()));
    let mut command = bed.command(&crate::bed::binary());
    command.env_remove("SSL_CERT_FILE");
    let daemon = crate::bed::Daemon::spawn(command, crate::bed::free_port());
    daemon.wait_until_healthy();
    daemon
        .secure(&bed, upstream.port, "/", "", "")
        .refuses(502, "upstream error");
}
