//! A bottle that may reach nothing.

use super::bed::{Bottle, Sidecar, cases, network};

fn bottle() -> Bottle {
    let network = network("  internal_cidr: 10.0.2.0/24\n  hosts: {supervise: 10.0.2.2}\n");
    Bottle {
        manifest: format!("version: 1\nslug: empty\nbottle: {{}}\n{network}"),
        trust: true,
    }
}

cases!(bottle: denies_everything);

fn denies_everything(sidecar: &Sidecar) {
    for host in [
        "upstream.test",
        "10.0.2.2",
        "supervise",
        "api.anthropic.com",
        "localhost",
    ] {
        sidecar.assert_not_allowed(host);
    }
    assert!(
        sidecar.names_asked().is_empty(),
        "{:?}",
        sidecar.names_asked()
    );
    assert_eq!(sidecar.upstream.requests(), Vec::<serde_json::Value>::new());
}
