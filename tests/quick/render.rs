//! The rendered configuration, against the reference's own output and its rules.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_yaml::Value;
use sidecar_init::daemon::pipelock::render::{DENY_ALL, config_hash, render, render_deny_all};
use sidecar_init::policy::{self, Policy};

const CERT: &str = "/etc/pipelock-ca.pem";
const KEY: &str = "/etc/pipelock-ca-key.pem";

fn policy_of(manifest: &str) -> Policy {
    policy::read(manifest.as_bytes(), true, 0).unwrap().policy
}

/// As `policy_of`, with the warnings a fixture may give.
fn rendered_file(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    render(&policy::read(&bytes, false, 0).unwrap().policy, CERT, KEY)
}

#[test]
fn renders_what_the_reference_renders_for_json_and_yaml() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut compared = 0;
    for golden in fs::read_dir(fixtures.join("golden")).unwrap() {
        let golden = golden.unwrap().path();
        let manifest = fixtures.join("manifests").join(golden.file_name().unwrap());
        let expected = fs::read_to_string(&golden).unwrap();
        for manifest in [manifest.with_extension("json"), manifest] {
            assert_eq!(rendered_file(&manifest), expected, "{}", manifest.display());
        }
        compared += 1;
    }
    let manifests = fs::read_dir(fixtures.join("manifests")).unwrap().count();
    assert!(compared >= 25, "{compared}");
    assert_eq!(
        manifests,
        compared * 2,
        "each golden file has its manifests"
    );
}

#[test]
fn adds_the_tuning_lines_only_where_they_are_set() {
    let plain = render(&policy_of("slug: a\nbottle: {}\n"), CERT, KEY);
    let tuned = render(
        &policy_of(
            "slug: a\nbottle: {}\npipelock:\n  requests_per_minute: 600\n  max_tunnel_seconds: 3600\n  idle_timeout_seconds: 900\n",
        ),
        CERT,
        KEY,
    );
    let expected = plain.replace(
        "forward_proxy:\n  enabled: true\n",
        "forward_proxy:\n  enabled: true\n  max_tunnel_seconds: 3600\n  idle_timeout_seconds: 900\n\nfetch_proxy:\n  monitoring:\n    max_requests_per_minute: 600\n",
    );
    assert_ne!(tuned, plain);
    assert_eq!(tuned, expected);
    let passed = render(
        &policy_of(
            "slug: a\nbottle: {egress: {routes: [host: \"*.b.example\"]}}\npipelock:\n  passthrough: [\"*.b.example\"]\n  scan_limit_mib: 20\n",
        ),
        CERT,
        KEY,
    );
    let expected = plain
        .replace(DENY_ALL, "*.b.example")
        .replace(
            "forward_proxy:\n  enabled: true\n",
            "forward_proxy:\n  enabled: true\n\nfetch_proxy:\n  max_response_mb: 20\n",
        )
        .replace("\"all\"\n", "\"all\"\n  max_body_bytes: 20971520\n")
        .replace(
            "  passthrough_domains:\n",
            "  max_response_bytes: 20971520\n  passthrough_domains:\n    - \"*.b.example\"\n",
        )
        .replace(
            "    - \"api.anthropic.com\"\n",
            "    - \"api.anthropic.com\"\n    - \"b.example\"\n",
        );
    assert_eq!(passed, expected);
    let one = render(
        &policy_of("slug: a\nbottle: {}\npipelock: {idle_timeout_seconds: 900}\n"),
        CERT,
        KEY,
    );
    assert_eq!(
        one,
        plain.replace(
            "  enabled: true\n\ndlp",
            "  enabled: true\n  idle_timeout_seconds: 900\n\ndlp"
        )
    );
}

#[test]
fn drains_with_the_same_config_and_nothing_allowed() {
    let policy = policy_of(
        "slug: a\nbottle: {supervise: true, egress: {routes: [host: api.anthropic.com]}}\n",
    );
    let expected = render(&policy, CERT, KEY)
        .replace("  - \"supervise\"\n", "")
        .replacen("\"api.anthropic.com\"", &format!("\"{DENY_ALL}\""), 1);
    assert_eq!(render_deny_all(&policy, CERT, KEY), expected);
    assert!(expected.contains("seed_phrase_detection:\n  enabled: false\n"));
}

#[test]
fn keeps_an_odd_path_inside_its_quotes() {
    let config = render(&policy_of("slug: a\nbottle: {}\n"), "/a\"b\\c\n", KEY);
    let value: Value = serde_yaml::from_str(&config).unwrap();
    assert_eq!(value["tls_interception"]["ca_cert"], "/a\"b\\c\n");
}

#[test]
fn names_a_config_by_its_sha256() {
    // FIPS 180-2, appendix B.1.
    assert_eq!(
        config_hash("abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "(\\*\\.)?([a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?\\.){0,3}[a-z]{1,8}",
        1 => "[1-9][0-9]?\\.[1-9]\\.0\\.[1-9]",
        1 => "2001:db8::[1-9a-f]{1,4}",
        1 => Just("api.anthropic.com".to_owned()),
        1 => Just("supervise".to_owned()),
    ]
}

proptest! {
    #[test]
    fn says_in_yaml_what_the_policy_says_and_nothing_else(
        hosts in proptest::collection::vec(host(), 0..20),
        supervise: bool,
        cidr in proptest::option::of("10\\.[1-9]\\.0\\.0/(16|24)"),
        tuning in proptest::array::uniform3(proptest::option::of(1_u32..100_000)),
        scan_limit in proptest::option::of(1_u32..=256),
        passed in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        upper: bool,
    ) {
        let mut manifest = format!("slug: a\nbottle:\n  supervise: {supervise}\n  egress:\n    routes:\n");
        for host in &hosts {
            let host = if upper { host.to_uppercase() } else { host.clone() };
            writeln!(manifest, "    - host: \"{host}\"").unwrap();
        }
        if let Some(cidr) = &cidr {
            writeln!(manifest, "network:\n  internal_cidr: {cidr}").unwrap();
        }
        manifest.push_str("pipelock:\n");
        let keys = ["requests_per_minute", "max_tunnel_seconds", "idle_timeout_seconds"];
        for (key, value) in keys.iter().zip(tuning) {
            if let Some(value) = value {
                writeln!(manifest, "  {key}: {value}").unwrap();
            }
        }
        if let Some(value) = scan_limit {
            writeln!(manifest, "  scan_limit_mib: {value}").unwrap();
        }
        let mut passthrough = BTreeSet::from(["api.anthropic.com".to_owned()]);
        if !hosts.is_empty() {
            manifest.push_str("  passthrough:\n");
            for index in passed {
                let host = index.get(&hosts);
                writeln!(manifest, "  - \"{host}\"").unwrap();
                passthrough.insert(host.clone());
                passthrough.extend(host.strip_prefix("*.").map(str::to_owned));
            }
        }
        let config = render(&policy_of(&manifest), CERT, KEY);

        // Sorted by bytes, each once, each in quotes.
        let mut allowed: BTreeSet<String> = hosts.iter().cloned().collect();
        if supervise {
            allowed.insert("supervise".into());
        }
        if allowed.is_empty() {
            allowed.insert(DENY_ALL.into());
        }
        let list = allowed.iter().fold(String::new(), |list, host| list + "  - \"" + host + "\"\n");
        let head =
            format!("version: 1\nmode: strict\nenforce: true\n\napi_allowlist:\n{list}\n");
        prop_assert!(config.starts_with(&head));

        // The same as a tree: no key is there that was not meant.
        let text = |s: &str| Value::from(s);
        let map = |pairs: Vec<(&str, Value)>| {
            Value::Mapping(pairs.into_iter().map(|(k, v)| (Value::from(k), v)).collect())
        };
        let list = |items: Vec<Value>| Value::Sequence(items);
        let mut forward = vec![("enabled", Value::from(true))];
        if let Some(n) = tuning[1] { forward.push(("max_tunnel_seconds", n.into())); }
        if let Some(n) = tuning[2] { forward.push(("idle_timeout_seconds", n.into())); }
        let mut expected = vec![
            ("version", Value::from(1)),
            ("mode", text("strict")),
            ("enforce", true.into()),
            ("api_allowlist", list(allowed.iter().map(|h| text(h)).collect())),
        ];
        if hosts.iter().any(|h| h == "api.anthropic.com") {
            expected.push(("seed_phrase_detection", map(vec![("enabled", false.into())])));
        }
        expected.push(("forward_proxy", map(forward)));
        let mut fetch = Vec::new();
        if let Some(mib) = scan_limit {
            fetch.push(("max_response_mb", mib.into()));
        }
        if let Some(n) = tuning[0] {
            fetch.push(("monitoring", map(vec![("max_requests_per_minute", n.into())])));
        }
        if !fetch.is_empty() {
            expected.push(("fetch_proxy", map(fetch)));
        }
        expected.push(("dlp", map(vec![("include_defaults", true.into()), ("scan_env", true.into())])));
        let mut body = vec![
            ("action", text("block")), ("scan_headers", true.into()), ("header_mode", text("all")),
        ];
        let mut tls =
            vec![("enabled", Value::from(true)), ("ca_cert", text(CERT)), ("ca_key", text(KEY))];
        if let Some(mib) = scan_limit {
            body.push(("max_body_bytes", (mib * 1024 * 1024).into()));
            tls.push(("max_response_bytes", (mib * 1024 * 1024).into()));
        }
        tls.push(("passthrough_domains", list(passthrough.iter().map(|h| text(h)).collect())));
        expected.push(("request_body_scanning", map(body)));
        expected.push(("tls_interception", map(tls)));
        if let Some(cidr) = &cidr {
            expected.push(("ssrf", map(vec![("ip_allowlist", list(vec![text(cidr)]))])));
        }
        let expected = map(expected);
        let parsed: Value = serde_yaml::from_str(&config).unwrap();
        prop_assert_eq!(&parsed, &expected);
        // Mappings compare without order; the sections' order is theirs in the file.
        let order = |value: &Value| -> Vec<String> {
            value.as_mapping().unwrap().keys().map(|k| k.as_str().unwrap().to_owned()).collect()
        };
        prop_assert_eq!(order(&parsed), order(&expected));
    }

    #[test]
    fn reads_any_bytes_without_a_panic_and_prints_no_control_character(
        bytes in proptest::collection::vec(
            prop_oneof![
                3 => proptest::sample::select(b"[]{}:,-?&*!|>'\"%@#\n \t<~\\".to_vec()),
                1 => any::<u8>(),
                2 => proptest::sample::select(b"slugbottlehostroutes1".to_vec()),
            ],
            0..300,
        ),
    ) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for manifest in [bytes, format!("slug: a\nbottle:\n  egress:\n    routes:\n{text}").into_bytes()] {
            if let Err(refused) = policy::read(&manifest, true, 0) {
                prop_assert!(!refused.problems.is_empty());
                for problem in refused.problems {
                    let mut lines = problem.display("m").to_string();
                    if problem.hint.is_some() {
                        lines = lines.replacen("\nhint: ", "", 1);
                    }
                    prop_assert!(!lines.contains(char::is_control), "{lines:?}");
                }
            }
        }
    }

    #[test]
    fn reads_yaml_as_another_reader_does(slug in "[a-z0-9+.xoe-]{1,6}") {
        // A slug this reader takes for text is text to the other one too, but for binary numbers,
        // which it alone has: YAML's core schema knows none.
        let manifest = format!("slug: {slug}\nbottle: {{}}\n");
        let is_binary = slug.trim_start_matches(['+', '-']).starts_with("0b");
        if let Ok(judgement) = policy::read(manifest.as_bytes(), true, 0)
            && !is_binary
        {
            let other: Value = serde_yaml::from_str(&manifest).unwrap();
            prop_assert_eq!(other["slug"].as_str(), Some(judgement.policy.slug.as_str()));
        }
    }
}
