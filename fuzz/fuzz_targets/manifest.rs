//! Manifest to policy to configuration: whatever is accepted renders to YAML that says
//! what the policy says, and nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_yaml::Value;
use sidecar_init::daemon::pipelock::render::{DENY_ALL, render, render_deny_all};
use sidecar_init::daemon::pipelock::reload;
use sidecar_init::policy::{self, daemons};

/// 2026-11-26T12:00:00Z: what is granted until later is in force.
const NOW: u64 = 1_795_694_400;

/// Every key that may appear, as a path; `[]` is an item of a list.
const MEANT: &[&str] = &[
    "version",
    "mode",
    "enforce",
    "api_allowlist[]",
    "seed_phrase_detection.enabled",
    "forward_proxy.enabled",
    "forward_proxy.max_tunnel_seconds",
    "forward_proxy.idle_timeout_seconds",
    "fetch_proxy.max_response_mb",
    "fetch_proxy.monitoring.max_requests_per_minute",
    "dlp.include_defaults",
    "dlp.scan_env",
    "request_body_scanning.action",
    "request_body_scanning.scan_headers",
    "request_body_scanning.header_mode",
    "request_body_scanning.max_body_bytes",
    "tls_interception.enabled",
    "tls_interception.ca_cert",
    "tls_interception.ca_key",
    "tls_interception.max_response_bytes",
    "tls_interception.passthrough_domains[]",
    "ssrf.ip_allowlist[]",
];

fn leaves(value: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let key = key.as_str().expect("a key is a word");
                let path = if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                };
                leaves(value, &path, found);
            }
        }
        Value::Sequence(items) => {
            for item in items {
                leaves(item, &format!("{path}[]"), found);
            }
        }
        leaf => found.push((path.to_owned(), leaf.clone())),
    }
}

fn strings(found: &[(String, Value)], path: &str) -> Vec<String> {
    found
        .iter()
        .filter(|(at, _)| at == path)
        .map(|(_, value)| value.as_str().expect("a string").to_owned())
        .collect()
}

fn is_true(found: &[(String, Value)], path: &str) -> bool {
    found.iter().any(|(at, value)| at == path && value == &Value::Bool(true))
}

fuzz_target!(|bytes: &[u8]| {
    let judgement = match policy::read(bytes, false, NOW) {
        Ok(judgement) => judgement,
        Err(refused) => {
            assert!(!refused.problems.is_empty(), "refused without a reason");
            for problem in refused.problems.into_iter().chain(refused.warnings) {
                assert!(!problem.display("manifest.yaml").to_string().is_empty());
            }
            return;
        }
    };
    for warning in &judgement.warnings {
        let _ = warning.display("manifest.yaml").to_string();
    }
    let policy = judgement.policy;
    let (cert, key) = ("/etc/pipelock-ca.pem", "/etc/pipelock-ca-key.pem");
    let config = render(&policy, cert, key);
    let parsed: Value = serde_yaml::from_str(&config).expect("our own YAML parses");
    let mut found = Vec::new();
    leaves(&parsed, "", &mut found);
    for (path, _) in &found {
        assert!(MEANT.contains(&path.as_str()), "nobody meant {path}");
    }

    let mut allowed = policy.allowlist.clone();
    if allowed.is_empty() {
        allowed.push(DENY_ALL.to_owned());
    }
    assert_eq!(strings(&found, "api_allowlist[]"), allowed);
    assert_eq!(
        strings(&found, "tls_interception.passthrough_domains[]"),
        policy.passthrough
    );
    let internal: Vec<String> = policy.internal_cidr.iter().map(ToString::to_string).collect();
    assert_eq!(strings(&found, "ssrf.ip_allowlist[]"), internal);
    assert_eq!(strings(&found, "mode"), ["strict"]);
    assert_eq!(strings(&found, "tls_interception.ca_key"), [key]);
    for switch in [
        "enforce",
        "forward_proxy.enabled",
        "tls_interception.enabled",
        "dlp.include_defaults",
        "dlp.scan_env",
        "request_body_scanning.scan_headers",
    ] {
        assert!(is_true(&found, switch), "{switch} is not on");
    }

    let denies = serde_yaml::from_str(&render_deny_all(&policy, cert, key)).expect("parses");
    let mut found = Vec::new();
    leaves(&denies, "", &mut found);
    assert_eq!(strings(&found, "api_allowlist[]"), [DENY_ALL]);

    let mut begun = vec![daemons::PIPELOCK];
    let mut users = Vec::new();
    let mut ports = vec![policy.listen.port()];
    for daemon in &policy.daemons {
        assert!(daemon.after.iter().all(|name| begun.contains(&name.as_str())), "{daemon:?} is early");
        assert!(daemon.program().starts_with('/') && !daemon.program().contains('\0'));
        assert!(!begun.contains(&daemon.name.as_str()) && !users.contains(&daemon.user));
        assert!(daemon.listen.iter().all(|port| *port >= 1024 && !ports.contains(port)));
        assert!(daemon.files.iter().all(|path| path.is_absolute()));
        begun.push(&daemon.name);
        users.push(daemon.user);
        ports.extend(&daemon.listen);
    }
    assert_eq!(daemons::in_words(&policy.daemons, policy.listen.port()).is_empty(), policy.daemons.is_empty());

    // The same manifest twice is no change.
    assert!(matches!(reload::plan(&policy, &policy), reload::Plan::Nothing));
});
