//! A bottle whose routes change while it runs.

use super::bed::{Bottle, Sidecar, cases, network};

fn manifest(hosts: &str) -> String {
    let network = network("  internal_cidr: 10.0.2.2/32\n");
    format!(
        "version: 1
slug: reloaded
bottle: {{egress: {{routes: [{hosts}]}}}}
{network}"
    )
}

fn bottle() -> Bottle {
    Bottle {
        manifest: manifest("{host: upstream.test}"),
        trust: true,
    }
}

cases!(bottle: takes_up_a_new_route_and_takes_one_away);

fn takes_up_a_new_route_and_takes_one_away(sidecar: &Sidecar) {
    sidecar.assert_not_allowed("late.test");
    let first = sidecar.wait_for_status(|status| status["state"] == "ready");

    sidecar.write_manifest(&manifest("{host: upstream.test}, {host: late.test}"));
    sidecar.wait_for_generation(2);
    sidecar
        .get("late.test", "/late")
        .assert_ok("hello from upstream");
    let grown = sidecar.wait_for_status(|status| status["state"] == "ready");
    assert_eq!(
        grown["daemon"]["pid"], first["daemon"]["pid"],
        "it was restarted"
    );

    sidecar.write_manifest(&manifest("{host: late.test}"));
    sidecar.wait_for_generation(3);
    sidecar.assert_not_allowed("upstream.test");
    sidecar
        .get("late.test", "/late")
        .assert_ok("hello from upstream");
}
