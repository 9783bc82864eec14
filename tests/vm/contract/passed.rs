//! A bottle that passes hosts through, and scans no large bodies.

use super::bed::{Bottle, Sidecar, access_id, cases, network};
use super::client::{Curl, s_client};

pub fn manifest(passthrough: &str) -> String {
    let network = network("  internal_cidr: 10.0.2.2/32\n");
    format!(
        "version: 1
slug: passed
bottle:
  egress:
    routes:
      - host: upstream.test
      - host: late.test
      - host: '*.wild.test'
{network}pipelock:
  passthrough: [{passthrough}]
  scan_limit_mib: 1
  requests_per_minute: 100000
"
    )
}

fn bottle() -> Bottle {
    Bottle {
        manifest: manifest("'*.wild.test', late.test"),
        trust: true,
    }
}

cases!(bottle:
    passes_a_wildcards_hosts_and_its_apex_through_unopened,
    scans_nothing_of_what_is_passed_through,
    refuses_a_body_above_the_scan_limit,
);

fn passes_a_wildcards_hosts_and_its_apex_through_unopened(sidecar: &Sidecar) {
    for host in ["wild.test", "a.wild.test"] {
        let shown = s_client(
            sidecar.proxy,
            host,
            sidecar.upstream.https,
            &sidecar.upstream.root,
        );
        assert!(shown.contains("issuer=CN = Upstream Root"), "{shown}");
        assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    }
    let shown = s_client(
        sidecar.proxy,
        "upstream.test",
        sidecar.upstream.https,
        &sidecar.ca(),
    );
    assert!(
        shown.contains("issuer=O = Pipelock, CN = Pipelock CA"),
        "{shown}"
    );
}

fn scans_nothing_of_what_is_passed_through(sidecar: &Sidecar) {
    let secret = access_id();
    let unopened = Curl::through(sidecar.proxy).trust(&sidecar.upstream.root);
    let url = sidecar.https("a.wild.test", "/echo/secret");
    unopened.post(&url, secret.as_bytes()).assert_ok(&secret);
    let url = sidecar.https("upstream.test", "/echo/secret");
    sidecar
        .curl()
        .post(&url, secret.as_bytes())
        .assert_refused("blocked: request body contains secret: AWS Access ID");
}

fn refuses_a_body_above_the_scan_limit(sidecar: &Sidecar) {
    const TOO_MUCH: usize = (1 << 20) + 1;
    let path = format!("/bytes/{TOO_MUCH}");
    sidecar
        .get("upstream.test", &path)
        .assert_refused("blocked: response too large for scanning");
    sidecar
        .curl()
        .post(
            &sidecar.https("upstream.test", "/echo"),
            &vec![b'a'; TOO_MUCH],
        )
        .assert_refused("blocked: request body exceeds max_body_bytes (1048576)");

    let unopened = Curl::through(sidecar.proxy).trust(&sidecar.upstream.root);
    let answer = unopened.get(&sidecar.https("wild.test", &path));
    assert_eq!((answer.status, answer.body.len()), (200, TOO_MUCH));
}
