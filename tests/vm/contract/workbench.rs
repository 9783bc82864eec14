//! A bottle with everything but the model: several hosts, supervision, the internal
//! network, the upstream's root, generous limits.

use std::fs;

use super::bed::{Bottle, Sidecar, access_id, cases, network, seed_phrase, wait_until};
use super::client::{describe_certificate, python_get_strictly, s_client};
use crate::support::sha256;

fn bottle() -> Bottle {
    let network = network("  internal_cidr: 10.0.2.0/24\n  hosts: {supervise: 10.0.2.2}\n");
    Bottle {
        manifest: format!(
            "version: 1
slug: workbench
bottle:
  supervise: true
  egress:
    routes:
      - host: upstream.test
      - host: '*.wild.test'
      - host: CAPITALS.Test.
      - host: 10.0.2.2
  git: [{{name: ignored, upstream: git@notwild.test}}]
{network}pipelock:
  requests_per_minute: 100000
  max_tunnel_seconds: 3600
"
        ),
        trust: true,
    }
}

cases!(bottle:
    refuses_a_host_that_is_not_routed,
    asks_no_resolver_about_a_denied_host,
    signs_for_an_allowed_host_with_its_own_ca,
    makes_leaves_that_python_accepts_in_strict_mode,
    carries_bodies_unchanged_over_http2_and_http1,
    forwards_plain_requests,
    keeps_an_access_id_in_a_body_from_getting_out,
    keeps_an_access_id_in_any_header_from_getting_out,
    keeps_an_access_id_in_a_url_from_getting_out,
    keeps_a_seed_phrase_from_getting_out,
    reaches_the_supervisor_by_its_hosts_entry,
    allows_an_ipv4_literal_and_no_other_address,
    allows_a_wildcards_hosts_and_its_apex,
    allows_a_host_written_in_capitals_with_a_trailing_dot,
    serves_more_requests_a_minute_than_the_default,
    serves_a_stream_for_longer_than_a_short_tunnel_life,
    serves_two_hundred_intercepted_connections_at_once,
    survives_clients_that_go_away_in_the_middle,
);

fn refuses_a_host_that_is_not_routed(sidecar: &Sidecar) {
    sidecar.assert_not_allowed("denied.test");
    sidecar.assert_not_allowed("api.anthropic.com");
    // Git goes through the git gate: its upstreams are no part of the allowlist.
    sidecar.assert_not_allowed("notwild.test");
}

fn asks_no_resolver_about_a_denied_host(sidecar: &Sidecar) {
    for host in ["denied.test", "never.seen.invalid"] {
        sidecar.connect(&format!("{host}:443"));
        sidecar.forward(host, "/");
    }
    // The same resolver does hear of a host that is allowed, and after the denied ones.
    sidecar
        .get("upstream.test", "/")
        .assert_ok("hello from upstream");
    let asked = sidecar.names_asked();
    assert!(
        asked.iter().any(|name| name == "upstream.test"),
        "{asked:?}"
    );
    let about_denied = |name: &String| name.starts_with("denied.") || name.starts_with("never.");
    assert!(!asked.iter().any(about_denied), "{asked:?}");
}

fn signs_for_an_allowed_host_with_its_own_ca(sidecar: &Sidecar) {
    let (proxy, port) = (sidecar.proxy, sidecar.upstream.https);
    let shown = s_client(proxy, "upstream.test", port, &sidecar.ca());
    assert!(
        shown.contains("issuer=O = Pipelock, CN = Pipelock CA"),
        "{shown}"
    );
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");

    let leaf = describe_certificate(&shown);
    for part in [
        "ASN1 OID: prime256v1",
        "DNS:upstream.test",
        "Authority Key Identifier",
    ] {
        assert!(leaf.contains(part), "no {part}: {leaf}");
    }
    let ca = describe_certificate(&fs::read_to_string(sidecar.ca()).unwrap());
    let key = |text: &str, of: &str| {
        let rest = text.split_once(of).unwrap().1;
        let line = rest.lines().nth(1).unwrap().trim();
        line.trim_start_matches("keyid:").to_owned()
    };
    assert_eq!(
        key(&leaf, "X509v3 Authority Key Identifier"),
        key(&ca, "X509v3 Subject Key Identifier")
    );

    // Whoever trusts only the upstream's own root is not shown it.
    let untrusted = s_client(proxy, "upstream.test", port, &sidecar.upstream.root);
    assert!(
        !untrusted.contains("Verify return code: 0 (ok)"),
        "{untrusted}"
    );
}

fn makes_leaves_that_python_accepts_in_strict_mode(sidecar: &Sidecar) {
    for host in ["upstream.test", "10.0.2.2", "a.wild.test"] {
        let url = sidecar.https(host, "/strict");
        let answer = python_get_strictly(sidecar.proxy, &url, &sidecar.ca());
        assert_eq!(answer, "200 hello from upstream", "{host}");
    }
}

fn carries_bodies_unchanged_over_http2_and_http1(sidecar: &Sidecar) {
    // Every byte value, none of it a word that a scanner might know.
    let body: Vec<u8> = (0..30_000_u32)
        .map(|at| u8::try_from(at % 251 * (at % 241) % 128).unwrap() | 0x80)
        .collect();
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        for round in ["first", "again"] {
            let path = format!("/echo/{version}/{round}");
            let curl = sidecar.curl().arg(option);
            let answer = curl.post(&sidecar.https("upstream.test", &path), &body);
            assert_eq!(
                (answer.status, answer.version.as_str()),
                (200, version),
                "{}",
                answer.error
            );
            assert!(answer.body == body, "{path}: the answer's body was changed");
            let received = sidecar.upstream.request(&path);
            assert_eq!(received["method"], "POST");
            assert_eq!(received["scheme"], "https");
            assert_eq!(received["body_bytes"], body.len());
            let sent = sha256(&body);
            assert_eq!(received["body_sha256"], sent.as_str(), "{path}");
        }
    }
}

fn forwards_plain_requests(sidecar: &Sidecar) {
    let answer = sidecar.forward("upstream.test", "/plain");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "hello from upstream")
    );
    assert_eq!(sidecar.upstream.request("/plain")["scheme"], "http");
}

/// The URLs of a path, intercepted and plain.
fn both_ways(sidecar: &Sidecar, path: &str) -> [String; 2] {
    [
        sidecar.https("upstream.test", path),
        sidecar.http("upstream.test", path),
    ]
}

fn keeps_an_access_id_in_a_body_from_getting_out(sidecar: &Sidecar) {
    let body = format!("key = {}\n", access_id());
    for url in both_ways(sidecar, "/leak/body") {
        sidecar
            .curl()
            .post(&url, body.as_bytes())
            .assert_refused("blocked: request body contains secret: AWS Access ID");
    }
    sidecar.upstream.assert_untouched("/leak/body");
    // Not the path's fault.
    let url = sidecar.https("upstream.test", "/echo/harmless");
    sidecar
        .curl()
        .post(&url, b"key = none")
        .assert_ok("key = none");
}

fn keeps_an_access_id_in_any_header_from_getting_out(sidecar: &Sidecar) {
    for name in ["Authorization", "X-Anything-At-All"] {
        let header = format!("{name}: {}", access_id());
        for url in both_ways(sidecar, "/leak/header") {
            sidecar
                .curl()
                .header(&header)
                .get(&url)
                .assert_refused("blocked: request header contains secret");
        }
    }
    sidecar.upstream.assert_untouched("/leak/header");
}

fn keeps_an_access_id_in_a_url_from_getting_out(sidecar: &Sidecar) {
    let path = format!("/leak/{}", access_id());
    for url in both_ways(sidecar, &path) {
        let answer = sidecar.curl().get(&url);
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(answer.text().contains("AWS Access ID"), "{answer:?}");
    }
    sidecar.upstream.assert_untouched(&path);
}

fn keeps_a_seed_phrase_from_getting_out(sidecar: &Sidecar) {
    for url in both_ways(sidecar, "/leak/words") {
        sidecar
            .curl()
            .post(&url, seed_phrase().as_bytes())
            .assert_refused("blocked: request body contains secret: BIP-39 Seed Phrase");
    }
    sidecar.upstream.assert_untouched("/leak/words");
}

fn reaches_the_supervisor_by_its_hosts_entry(sidecar: &Sidecar) {
    let answer = sidecar.forward("supervise", "/supervised");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "hello from upstream")
    );
    sidecar
        .get("supervise", "/supervised")
        .assert_ok("hello from upstream");
    let asked = sidecar.names_asked();
    assert!(
        !asked.iter().any(|name| name.starts_with("supervise")),
        "{asked:?}"
    );
}

fn allows_an_ipv4_literal_and_no_other_address(sidecar: &Sidecar) {
    sidecar
        .get("10.0.2.2", "/literal")
        .assert_ok("hello from upstream");
    assert_eq!(sidecar.forward("10.0.2.2", "/literal").status, 200);
    sidecar.assert_not_allowed("10.0.2.3");
}

fn allows_a_wildcards_hosts_and_its_apex(sidecar: &Sidecar) {
    for host in ["a.wild.test", "b.a.wild.test", "wild.test"] {
        sidecar.get(host, "/wild").assert_ok("hello from upstream");
    }
    sidecar.assert_not_allowed("notwild.test");
}

fn allows_a_host_written_in_capitals_with_a_trailing_dot(sidecar: &Sidecar) {
    for host in ["capitals.test", "CAPITALS.TEST", "Capitals.Test."] {
        let tunnel = sidecar.connect(&format!("{host}:{}", sidecar.upstream.https));
        assert_eq!(tunnel.status, 200, "{host}: {tunnel:?}");
        let plain = sidecar.forward(host, "/capitals");
        assert_eq!(plain.status, 200, "{host}: {plain:?}");
    }
    for host in ["capitals.test", "CAPITALS.TEST"] {
        sidecar
            .get(host, "/capitals")
            .assert_ok("hello from upstream");
    }
}

fn serves_more_requests_a_minute_than_the_default(sidecar: &Sidecar) {
    let answers = sidecar
        .curl()
        .get_all(&sidecar.http("wild.test", "/many/[1-70]"));
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200; 70]);
}

fn serves_a_stream_for_longer_than_a_short_tunnel_life(sidecar: &Sidecar) {
    // Twice as long as the bottle `brief` lets a tunnel live.
    let answer = sidecar.get("upstream.test", "/drip/24");
    assert_eq!((answer.status, answer.exit), (200, 0), "{answer:?}");
    assert_eq!(answer.text().matches("data: tick").count(), 24);
}

fn serves_two_hundred_intercepted_connections_at_once(sidecar: &Sidecar) {
    sidecar.assert_serves_at_once(200, "a.wild.test", || sidecar.curl());
}

fn survives_clients_that_go_away_in_the_middle(sidecar: &Sidecar) {
    for option in ["--http2", "--http1.1"] {
        let path = format!("/drip/100000/{option}");
        let url = sidecar.https("upstream.test", &path);
        let mut client = sidecar.curl().arg(option).start(&url);
        sidecar.upstream.request(&path);
        client.kill().unwrap();
        client.wait().unwrap();
        sidecar.upstream.wait_for_cut_off(&path);
    }
    // In the middle of its own request: nothing half is sent on.
    let path = "/echo/half";
    let authority = format!("upstream.test:{}", sidecar.upstream.http);
    {
        use std::io::Write;
        let mut half = std::net::TcpStream::connect(sidecar.proxy).unwrap();
        write!(
            half,
            "POST http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 100\r\n\r\nhalf"
        )
        .unwrap();
    }
    wait_until("the next answer", || {
        (sidecar.forward("upstream.test", "/afterwards").status == 200).then_some(())
    });
    sidecar
        .get("upstream.test", "/afterwards")
        .assert_ok("hello from upstream");
    sidecar.upstream.assert_untouched(path);
}
