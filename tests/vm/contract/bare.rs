//! A bottle with a route and no internal network.

use super::bed::{Bottle, Sidecar, cases, network};

fn bottle() -> Bottle {
    let network = network("  hosts: {supervise: 10.0.2.2}\n");
    Bottle {
        manifest: format!(
            "version: 1
slug: bare
bottle: {{egress: {{routes: [{{host: upstream.test}}, {{host: 10.0.2.2}}]}}}}
{network}"
        ),
        trust: true,
    }
}

cases!(bottle:
    refuses_an_allowed_host_whose_address_is_internal,
    refuses_the_supervisor_where_it_is_not_wanted,
);

fn refuses_an_allowed_host_whose_address_is_internal(sidecar: &Sidecar) {
    for host in ["upstream.test", "10.0.2.2"] {
        let words = format!("blocked: SSRF blocked: {host} resolves to internal IP 10.0.2.2");
        let tunnel = sidecar.connect(&format!("{host}:{}", sidecar.upstream.https));
        assert_eq!(tunnel.status, 403, "{tunnel:?}");
        assert!(
            tunnel.body.starts_with(&format!("CONNECT {words}")),
            "{tunnel:?}"
        );
        let plain = sidecar.forward(host, "/internal");
        assert_eq!(plain.status, 403, "{plain:?}");
        assert!(plain.body.starts_with(&words), "{plain:?}");
        let client = sidecar.get(host, "/internal");
        assert_eq!((client.connect_status, client.status), (403, 0));
    }
    sidecar.upstream.assert_untouched("/internal");
}

fn refuses_the_supervisor_where_it_is_not_wanted(sidecar: &Sidecar) {
    sidecar.assert_not_allowed("supervise");
}
