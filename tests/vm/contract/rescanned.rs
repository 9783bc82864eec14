//! The bottle that passes hosts through, until one of them leaves. A machine of its own,
//! because the daemon is restarted.

use super::bed::{Bottle, Sidecar, cases, wait_until};
use super::client::s_client;
use super::passed::manifest;

fn bottle() -> Bottle {
    Bottle {
        manifest: manifest("'*.wild.test', late.test"),
        trust: true,
    }
}

cases!(bottle: scans_a_host_again_that_leaves_the_passthrough);

fn scans_a_host_again_that_leaves_the_passthrough(sidecar: &Sidecar) {
    let (proxy, port) = (sidecar.proxy, sidecar.upstream.https);
    let shown = s_client(proxy, "late.test", port, &sidecar.upstream.root);
    assert!(shown.contains("issuer=CN = Upstream Root"), "{shown}");

    sidecar.write_manifest(&manifest("'*.wild.test'"));
    sidecar.wait_for_generation(2);
    let status = sidecar.wait_for_status(|status| status["state"] == "ready");
    let revocation = &status["revocation"];
    assert_eq!(revocation["hosts"], serde_json::json!([]), "{status}");
    assert_eq!(revocation["scanned"], serde_json::json!(["late.test"]));
    assert!(revocation["done_at"].is_string(), "{status}");
    assert_eq!(status["not_scanned"], serde_json::json!(["*.wild.test"]));
    assert_eq!(status["scan_limit_mib"], 1);
    wait_until("late.test is opened", || {
        let shown = s_client(proxy, "late.test", port, &sidecar.ca());
        shown.contains("CN = Pipelock CA").then_some(())
    });
}
