use std::io::{Read, Write};

use serde_json::Value;

use crate::bed::{Bed, Daemon, Echo, Rendered, sha256};

/// Installs a configuration and waits until it is taken over.
fn accepted(bed: &Bed, daemon: &Daemon, rendered: &Rendered) -> String {
    let text = bed.render(rendered);
    bed.install(&text);
    let wanted = sha256(&text);
    daemon.event("config_reload", |e| e["config_hash"] == wanted.as_str());
    wanted
}

const REJECTED: &str = "rejected: security downgrade from strict mode";

type Change = fn(&mut Rendered);

fn is_rejection(e: &Value) -> bool {
    e["error"] == REJECTED && e["method"] == "CONFIG_RELOAD"
}

#[test]
fn a_rename_is_one_reload_with_the_files_hash() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    let mut rendered = Rendered::default();
    for host in ["a.invalid", "b.invalid", "c.invalid"] {
        rendered.allow.push(host.to_owned());
        let hash = accepted(&bed, &daemon, &rendered);
        let of_it = daemon
            .events()
            .iter()
            .filter(|e| e["config_hash"] == hash.as_str())
            .count();
        assert_eq!(of_it, 1);
    }
    assert_eq!(daemon.count("config_reload"), 3);
}

#[test]
fn added_and_removed_hosts_count_for_new_tunnels_only() {
    let bed = Bed::new();
    let upstream = Echo::raw();
    let target = format!("localhost:{}", upstream.port);
    let mut rendered = Rendered {
        tls: false,
        ..Rendered::default()
    };
    let daemon = bed.start(&rendered);
    let (_, tunnel) = daemon.connect(&target, "");
    let mut tunnel = tunnel.unwrap();
    tunnel.write_all(b"one").unwrap();
    let mut echoed = [0; 3];
    tunnel.read_exact(&mut echoed).unwrap();

    rendered.allow.retain(|host| host != "localhost");
    accepted(&bed, &daemon, &rendered);
    daemon
        .connect(&target, "")
        .0
        .refuses(403, "CONNECT blocked: domain not in allowlist: localhost");
    tunnel.write_all(b"two").unwrap();
    tunnel.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"two", "the reload reached an open tunnel");

    rendered.allow.push("localhost".to_owned());
    accepted(&bed, &daemon, &rendered);
    assert_eq!(daemon.connect(&target, "").0.status(), 200);
}

#[test]
fn refuses_whole_what_loosens_anything_but_the_allowlist() {
    let bed = Bed::new();
    let start = Rendered {
        ssrf: vec!["127.0.0.0/16".to_owned()],
        ..Rendered::default()
    };
    let refused: [(&str, Change); 7] = [
        ("tls_interception.passthrough_domains", |r| {
            r.passthrough.push("localhost".to_owned());
        }),
        ("ssrf.ip_allowlist", |r| {
            r.ssrf = vec!["127.0.0.0/8".to_owned()];
        }),
        ("ssrf.ip_allowlist", |r| {
            r.ssrf.push("10.0.0.0/8".to_owned());
        }),
        ("seed_phrase_detection.enabled", |r| r.seed_phrase = false),
        ("tls_interception.enabled", |r| r.tls = false),
        ("forward_proxy.enabled", |r| r.forward = false),
        ("trusted_domains", |r| {
            r.more = "\ntrusted_domains: [localhost.invalid]\n".to_owned();
        }),
    ];
    for (field, loosen) in refused {
        let daemon = bed.start(&start);
        let mut rendered = Rendered {
            ssrf: start.ssrf.clone(),
            ..Rendered::default()
        };
        loosen(&mut rendered);
        rendered.allow.push("smuggled.invalid".to_owned());
        bed.install(&bed.render(&rendered));
        daemon.event("error", is_rejection);
        daemon.says(&format!("WARNING: config reload: {field} - "));
        assert_eq!(daemon.count("config_reload"), 0);
        daemon.connect("smuggled.invalid:443", "").0.refuses(
            403,
            "CONNECT blocked: domain not in allowlist: smuggled.invalid",
        );
        let health = daemon.health();
        assert_eq!(health["tls_interception_enabled"], true);
        assert_eq!(health["forward_proxy_enabled"], true);
    }
}

#[test]
fn accepts_what_tightens() {
    let bed = Bed::new();
    let start = || Rendered {
        seed_phrase: false,
        ssrf: vec!["127.0.0.0/8".to_owned(), "10.0.0.0/8".to_owned()],
        ..Rendered::default()
    };
    let daemon = bed.start(&start());
    let mut rendered = start();
    rendered.ssrf = vec!["127.0.0.0/16".to_owned()];
    accepted(&bed, &daemon, &rendered);
    rendered.seed_phrase = true;
    accepted(&bed, &daemon, &rendered);
    rendered.passthrough.clear();
    accepted(&bed, &daemon, &rendered);
    rendered.ssrf.clear();
    accepted(&bed, &daemon, &rendered);
    assert!(!daemon.events().iter().any(is_rejection));
}

#[test]
fn keeps_the_old_configuration_when_the_new_one_is_broken() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    bed.install("mode: strict\nmoed: strict\n");
    let said = daemon.says("pipelock: config reload failed: parsing config ");
    assert!(said.contains("yaml: unmarshal errors:"), "{said}");
    assert_eq!(daemon.count("config_reload"), 0);
    daemon.connect("canary.invalid:443", "").0.refuses(
        403,
        "CONNECT blocked: domain not in allowlist: canary.invalid",
    );
    let mut rendered = Rendered::default();
    rendered.allow.push("another.invalid".to_owned());
    accepted(&bed, &daemon, &rendered);
}

#[test]
fn forgets_the_requests_it_counted() {
    let bed = Bed::new();
    let upstream = Echo::plain();
    let url = format!("http://localhost:{}/", upstream.port);
    let limit = "\nfetch_proxy:\n  monitoring:\n    max_requests_per_minute: 2\n".to_owned();
    let mut rendered = Rendered {
        more: limit,
        ..Rendered::default()
    };
    let daemon = bed.start(&rendered);
    let statuses = || [(); 3].map(|()| daemon.forward(&url, "", "").status());
    assert_eq!(statuses(), [200, 200, 429]);
    rendered.allow.push("another.invalid".to_owned());
    accepted(&bed, &daemon, &rendered);
    assert_eq!(statuses(), [200, 200, 429]);
}
