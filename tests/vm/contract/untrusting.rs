//! A bottle that lacks the upstream's root.

use super::bed::{Bottle, Sidecar, cases, network};

fn bottle() -> Bottle {
    let network = network("  internal_cidr: 10.0.2.2/32\n");
    Bottle {
        manifest: format!(
            "version: 1
slug: untrusting
bottle: {{egress: {{routes: [{{host: upstream.test}}]}}}}
{network}"
        ),
        trust: false,
    }
}

cases!(bottle: answers_502_for_an_upstream_whose_root_is_unknown);

fn answers_502_for_an_upstream_whose_root_is_unknown(sidecar: &Sidecar) {
    let answer = sidecar.get("upstream.test", "/untrusted");
    assert_eq!(
        (answer.connect_status, answer.status),
        (200, 502),
        "{answer:?}"
    );
    assert_eq!(answer.text(), "upstream error");
    sidecar.upstream.assert_untouched("/untrusted");
    // It is there: what needs no certificate gets through.
    assert_eq!(sidecar.forward("upstream.test", "/unencrypted").status, 200);
}
