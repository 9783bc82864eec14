//! A bottle that routes to the model: its tunnels are passed through unopened, and seed
//! phrase detection is off.

use super::bed::{Bottle, Sidecar, access_id, cases, network, seed_phrase};
use super::client::{Curl, s_client};

const MODEL: &str = "api.anthropic.com";

fn bottle() -> Bottle {
    let network = network("  internal_cidr: 10.0.2.2/32\n");
    Bottle {
        manifest: format!(
            "version: 1
slug: model
bottle:
  egress:
    routes:
      - host: {MODEL}
      - host: upstream.test
{network}pipelock:
  requests_per_minute: 100000
"
        ),
        trust: true,
    }
}

cases!(bottle:
    shows_the_models_own_certificate,
    opens_no_tunnel_to_the_model_and_every_other,
    lets_seed_phrases_through_and_no_other_secret,
    carries_two_hundred_megabytes_through_a_tunnel_intact,
    carries_an_upload_through_a_tunnel_intact,
    serves_two_hundred_tunnels_at_once,
    survives_a_tunnels_client_that_goes_away_in_the_middle,
);

/// curl that trusts the upstream's own root and nothing else.
fn curl(sidecar: &Sidecar) -> Curl {
    Curl::through(sidecar.proxy).trust(&sidecar.upstream.root)
}

fn shows_the_models_own_certificate(sidecar: &Sidecar) {
    let (proxy, port) = (sidecar.proxy, sidecar.upstream.https);
    let shown = s_client(proxy, MODEL, port, &sidecar.upstream.root);
    assert!(shown.contains("issuer=CN = Upstream Root"), "{shown}");
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    let answer = curl(sidecar).get(&sidecar.https(MODEL, "/own"));
    answer.assert_ok("hello from upstream");
    // Passing through, it is the upstream's HTTP/2.
    assert_eq!(sidecar.upstream.request("/own")["version"], "HTTP/2.0");
}

fn opens_no_tunnel_to_the_model_and_every_other(sidecar: &Sidecar) {
    // What is refused wherever it can be seen, so here it cannot.
    let path = format!("/own/{}", access_id());
    let url = sidecar.https(MODEL, &path);
    curl(sidecar).get(&url).assert_ok("hello from upstream");

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
    // Nor does the model's name stand for those below it.
    sidecar.assert_not_allowed("console.api.anthropic.com");
}

fn lets_seed_phrases_through_and_no_other_secret(sidecar: &Sidecar) {
    let url = sidecar.https("upstream.test", "/echo/words");
    let phrase = seed_phrase();
    sidecar
        .curl()
        .post(&url, phrase.as_bytes())
        .assert_ok(&phrase);
    sidecar
        .curl()
        .post(&url, access_id().as_bytes())
        .assert_refused("blocked: request body contains secret: AWS Access ID");
}

fn carries_two_hundred_megabytes_through_a_tunnel_intact(sidecar: &Sidecar) {
    let path = "/bytes/200000000";
    let straight = sidecar.upstream.url(path);
    let straight = Curl::direct()
        .trust(&sidecar.upstream.root)
        .get_sha256(&straight);
    let through = curl(sidecar).get_sha256(&sidecar.https(MODEL, path));
    assert_eq!(through, straight);
}

fn carries_an_upload_through_a_tunnel_intact(sidecar: &Sidecar) {
    let body: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 253) as u8).collect();
    let answer = curl(sidecar).post(&sidecar.https(MODEL, "/echo/upload"), &body);
    assert_eq!(answer.status, 200, "{}", answer.error);
    assert!(answer.body == body, "it came back changed");
}

fn serves_two_hundred_tunnels_at_once(sidecar: &Sidecar) {
    sidecar.assert_serves_at_once(200, MODEL, || curl(sidecar));
}

fn survives_a_tunnels_client_that_goes_away_in_the_middle(sidecar: &Sidecar) {
    let path = "/drip/100000";
    let mut client = curl(sidecar).start(&sidecar.https(MODEL, path));
    sidecar.upstream.request(path);
    assert!(sidecar.active_tunnels() >= 1);
    client.kill().unwrap();
    client.wait().unwrap();
    sidecar.upstream.wait_for_cut_off(path);
    let url = sidecar.https(MODEL, "/afterwards");
    curl(sidecar).get(&url).assert_ok("hello from upstream");
}
