//! What comes out of what goes in, across the formats.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn of(text: &str) -> Result<Imported, ImportError> {
    import(
        &[Source {
            name: "f",
            bytes: text.as_bytes(),
        }],
        None,
        "a",
    )
}

fn manifest(text: &str) -> String {
    match of(text) {
        Ok(imported) => imported.manifest,
        Err(error) => unreachable!("{error}\n{text}"),
    }
}

fn hosts(text: &str) -> Vec<String> {
    let made = manifest(text);
    let policy = policy::read(made.as_bytes(), true, 0).unwrap().policy;
    policy.allowlist
}

#[test]
fn a_format_is_known_by_what_is_in_it() {
    for (text, kind) in [
        ("api_allowlist: [a.example]\n", "a pipelock configuration"),
        ("a.example\nb.example\n", "a list"),
        ("- a.example\n- b.example\n", "a list"),
        ("[\"a.example\"]", "a list"),
        ("acl x dstdomain .a.example\n", "a configuration of Squid"),
        (".a.example\n", "a list"),
        (
            "{\"sandbox\": {\"network\": {\"allowedDomains\": [\"a.example\"]}}}",
            "settings of Claude Code",
        ),
        (
            "{\"permissions\": {\"allow\": [\"WebFetch(domain:a.example)\"]}}",
            "settings of Claude Code",
        ),
        (
            "{\n\t\"network\": {\"allowedDomains\": [\"a.example\"]}\n}",
            "settings of sandbox-runtime",
        ),
        (
            "network_policies: {x: {endpoints: [{host: a.example, port: 443}]}}",
            "a policy of OpenShell",
        ),
        (
            "{\"egress\":[{\"action\":\"allow\",\"target\":\"a.example\"}]}",
            "egress rules of OpenSandbox",
        ),
        (
            "jobs: {b: {steps: [{uses: step-security/harden-runner@v2, with: {allowed-endpoints: a.example:443}}]}}",
            "a workflow with harden-runner",
        ),
        (
            "smolvm machine run --allow-host a.example\n",
            "flags or a Smolfile of smolvm",
        ),
        (
            "[network]\nallow_hosts = [\"a.example\"]\n",
            "flags or a Smolfile of smolvm",
        ),
    ] {
        let made = manifest(text);
        assert!(
            made.starts_with(&format!("# Imported from {kind} (f).\n")),
            "{text}\n{made}"
        );
        assert!(made.contains("a.example"), "{text}\n{made}");
    }
}

#[test]
fn where_nothing_is_known_it_is_said_what_was_looked_for() {
    for text in [
        "",
        "\n# a comment\n",
        "slug: a\nbottle: {}\n",
        "{\"model\": \"x\"}",
        "Dear all,\nplease find the hosts attached.\nRegards\n",
        "{\"permissions\": {\"allow\": [\"Bash(ls)\"]}}",
        "acl localnet port 443\n",
        "42",
    ] {
        let error = of(text).unwrap_err().to_string();
        assert!(
            error.starts_with("f: nothing in it is an allowlist"),
            "{text:?}: {error}"
        );
        for kind in Kind::ALL {
            assert!(error.contains(kind.name()), "{error}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_an_error_with_its_place() {
    for (bytes, wanted) in [
        (&b"api_allowlist: [a\nmode: strict\n"[..], "f: not YAML: "),
        (b"{\"network\": {\"allowedDomains\": [\"a\"}", "f: not YAML: "),
        (b"a.example\n\xff\n", "f: it is not UTF-8"),
        (
            b"a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\napi_allowlist: [*d, *d, *d, *d, *d, *d, *d, *d, *d]\n",
            "f: not YAML: ",
        ),
    ] {
        let source = Source { name: "f", bytes };
        let error = import(&[source], None, "a").unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
    let deep = "[".repeat(100_000);
    assert!(of(&deep).is_err());
    let source = Source {
        name: "f",
        bytes: b"a.example\n",
    };
    let error = import(&[source], Some(Kind::Pipelock), "a").unwrap_err();
    assert!(error.to_string().starts_with("f: nothing in it"), "{error}");
    assert!(matches!(
        import(&[source], None, "A b"),
        Err(ImportError::Slug(_))
    ));
    let numbered = import(&[source], None, "12").unwrap().manifest;
    assert!(numbered.contains("\nslug: \"12\"\n"), "{numbered}");
}

#[test]
fn what_is_denied_anywhere_is_not_allowed_by_a_wildcard() {
    let settings = |allowed: &str, denied: &str| {
        format!(
            "{{\"network\": {{\"allowedDomains\": [{allowed}], \"deniedDomains\": [{denied}]}}}}"
        )
    };
    for (allowed, denied, wanted) in [
        ("\"a.x\", \"b.x\"", "\"a.x\"", &["b.x"][..]),
        ("\"a.x\", \"b.y\"", "\"*.x\"", &["b.y"]),
        // There it does not stand for the domain itself.
        ("\"x\", \"a.x\"", "\"*.x\"", &["x"]),
        ("\"*.x\", \"b.y\"", "\"a.x\"", &["b.y"]),
        ("\"*.x\", \"b.y\"", "\"*.a.x\"", &["b.y"]),
        ("\"*.a.x\", \"b.y\"", "\"*.x\"", &["b.y"]),
        // Here the wildcard stands for it.
        ("\"*.x\", \"b.y\"", "\"x\"", &["b.y"]),
        ("\"*.x\"", "\"xx\"", &["*.x"]),
        ("\"*.x\", \"b.y\"", "\"evil*.a.x\"", &["b.y"]),
        ("\"a.x\", \"b.y\"", "\"*\"", &[]),
        ("\"a.x\", \"b.y\"", "\"*:443\"", &[]),
        ("\"a.x\"", "\"A.X.\"", &[]),
        ("\"a.x\"", "\"https://a.x/\"", &[]),
        ("\"a.x\"", "\"a.x:443\"", &[]),
        // A part of it: said, beside it.
        ("\"a.x\"", "\"a.x:22\"", &["a.x"]),
    ] {
        let text = settings(allowed, denied);
        assert_eq!(hosts(&text), wanted, "{text}\n{}", manifest(&text));
    }
    let made = manifest(&settings("\"a.x\"", "\"a.x:22\""));
    assert!(
        made.contains("# not carried over: the denial of \"a.x:22\" (line 1), because a host is allowed or it is not\n      - host: a.x\n"),
        "{made}"
    );
    // What another file denies is denied.
    let sources = [("a", "*.x\nb.y\n"), ("b", "!evil.x\nc.y\n")].map(|(name, text)| Source {
        name,
        bytes: text.as_bytes(),
    });
    let made = import(&sources, None, "a").unwrap().manifest;
    assert!(
        made.contains(
            "# not carried over: \"*.x\" (a, line 1), because \"evil.x\" (b, line 1) is denied"
        ),
        "{made}"
    );
}

#[test]
fn the_first_rule_decides_where_it_does_there() {
    let rules = |rules: &[(&str, &str)]| {
        let rules: Vec<String> = rules
            .iter()
            .map(|(action, target)| format!("{{action: {action}, target: \"{target}\"}}"))
            .collect();
        format!("egress: [{}]\n", rules.join(", "))
    };
    let text = rules(&[("allow", "*.x"), ("deny", "a.x"), ("allow", "b.y")]);
    assert_eq!(hosts(&text), ["*.x", "b.y"]);
    assert!(manifest(&text).contains("# denied there, behind what allows it: \"a.x\""));
    let text = rules(&[("deny", "a.x"), ("allow", "*.x"), ("allow", "b.y")]);
    assert_eq!(hosts(&text), ["b.y"]);
}

#[test]
fn what_would_take_a_parser_minutes_or_gigabytes_is_refused_before() {
    let deep = format!(
        "api_allowlist: {}{}\n",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let json = format!(
        "{{\"sandbox\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let wide = format!(
        "a: &a {}\napi_allowlist: [{}]\n",
        "x".repeat(1_000_000),
        vec!["*a"; 20_000].join(",")
    );
    let tabs = format!(
        "a: &a {}\napi_allowlist: [{}]\n",
        "x".repeat(100_000),
        vec!["\t*a"; 2_000].join(",")
    );
    // A kilobyte or two within each other.
    let nested = format!(
        "a: &a [{}]\nb: &b [{}]\napi_allowlist: [{}]\n",
        vec!["1"; 1_600].join(","),
        vec!["*a"; 40].join(","),
        vec!["*b"; 40].join(",")
    );
    let dashes = format!("api_allowlist:\n  {}x\n", "- ".repeat(100_000));
    for (text, why) in [
        (deep, "nested"),
        (json, "nested"),
        (dashes, "nested"),
        (wide, "aliases"),
        (tabs, "aliases"),
        (nested, "aliases"),
    ] {
        let error = of(&text).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    // A list of as many wildcards is a list.
    let list = "*.a.example\n".repeat(20_000);
    assert_eq!(hosts(&list), ["*.a.example"]);
}

#[test]
fn lines_of_squids_that_are_no_lists_are_told_to_be_left_out() {
    let told = |text: &str| {
        let written = manifest(text);
        let mut lines = written.lines().filter(|line| line.contains("left out"));
        let line = lines.next().map(str::to_owned);
        assert_eq!(lines.next(), None, "{written}");
        line
    };
    let list = "acl l dstdomain a.x\nhttp_access allow l\nhttp_access deny all\n";
    assert_eq!(told(list), None);
    let line = told(&format!("{list}http_port 3128\n")).unwrap();
    assert!(
        line.contains("line 4, \"http_port\", is no list of hosts"),
        "{line}"
    );
    let line = told(&format!(
        "acl ports port 443\n{list}http_port 3128\nhttp_access\nacl x\ncache \\\n deny all\n"
    ));
    let line = line.unwrap();
    assert!(
        line.contains("line 1, \"acl\", and 4 more are no lists"),
        "{line}"
    );
}

#[test]
fn a_list_of_squids_is_what_its_access_lines_make_of_it() {
    let acl = "acl l dstdomain a.x\nacl other dstdomain b.y\n";
    for (access, wanted) in [
        ("", &["a.x", "b.y"][..]),
        ("http_access allow l\n", &["a.x"]),
        ("http_access deny l\nhttp_access allow other\n", &["b.y"]),
        ("http_access deny !l\n", &["a.x"]),
        ("http_access allow !l\nhttp_access allow other\n", &["b.y"]),
        ("http_access allow l\nhttp_access deny l\n", &[]),
        ("http_access allow localnet l\n", &["a.x"]),
        // The first line that holds decides.
        ("http_access deny all\nhttp_access allow l\n", &[]),
        (
            "acl any src 0.0.0.0/0\nhttp_access deny any\nhttp_access allow l\n",
            &[],
        ),
        ("http_access deny !l\nhttp_access deny all\n", &[]),
        (
            "http_access deny !l\nhttp_access allow localnet\nhttp_access deny all\n",
            &["a.x"],
        ),
        (
            "http_access deny !l\nhttp_access allow other\nhttp_access deny all\n",
            &[],
        ),
        (
            "http_access deny !l\nhttp_access allow l\nhttp_access deny all\n",
            &["a.x"],
        ),
        (
            "http_access deny !l\nhttp_access deny !other\nhttp_access allow all\n",
            &[],
        ),
        ("http_access allow l other\nhttp_access deny all\n", &[]),
        (
            "http_access allow l !other\nhttp_access deny all\n",
            &["a.x"],
        ),
        ("http_access allow l\nhttp_access allow all\n", &["a.x"]),
    ] {
        let text = format!("{acl}{access}");
        assert_eq!(hosts(&text), wanted, "{text}\n{}", manifest(&text));
    }
    for (access, said) in [
        (
            "http_access deny all\nhttp_access allow l\n",
            "line 3 has denied everything",
        ),
        (
            "http_access allow l other\n",
            "what is in l and other together",
        ),
        (
            "http_access deny !worktime\nhttp_access allow l\n",
            "the denial of !worktime (line 3)",
        ),
        ("http_access allow localnet\n", "line 3 allows every host"),
        ("http_access allow all\n", "no http_access line uses \"l\""),
    ] {
        let made = manifest(&format!("{acl}{access}"));
        assert!(made.contains(said), "{access}\n{made}");
    }
    assert_eq!(
        hosts("acl blocked_sites dstdomain a.x\nacl l dstdomain b.y\n"),
        ["b.y"]
    );
}

#[test]
fn each_host_is_there_once_with_what_was_said_of_it() {
    let made = manifest("# one\na.x # two\nb.y\nA.X:8443\nhttps://a.x/z\n");
    let wanted = "    routes:\n      # one\n      # not carried over: the port \"8443\" (line 4), because every port of an allowed host is allowed\n      # not carried over: the path \"/z\" (line 5), because a host is allowed with all its paths\n      - host: a.x  # two\n      - host: b.y\n";
    assert!(made.ends_with(wanted), "{made}");
}

#[test]
fn a_wildcard_is_wider_here_where_its_domain_is_not_allowed_as_well() {
    for (text, is_wider) in [
        ("*.x\n", true),
        ("*.x\nx\n", false),
        ("x:443\n*.x\n", false),
        ("*.x\nx\n!x\ny\n", false),
        (".x\n", false),
        ("api_allowlist: [\"*.x\"]\n", false),
    ] {
        let made = manifest(text);
        let wider = "# wider than there: \"*.x\" stands for x too\n";
        assert_eq!(made.contains(wider), is_wider, "{text}\n{made}");
    }
}

#[test]
fn pipelocks_limits_are_carried_over_where_a_manifest_has_them() {
    let base = "api_allowlist: [a.x]\n";
    for (text, wanted, unwanted) in [
        (
            "fetch_proxy: {monitoring: {max_requests_per_minute: 600}}\n",
            "\n  requests_per_minute: 600\n",
            "not carried",
        ),
        (
            "forward_proxy: {max_tunnel_seconds: 99, idle_timeout_seconds: 9}\n",
            "\n  max_tunnel_seconds: 99\n  idle_timeout_seconds: 9\n",
            "not carried",
        ),
        (
            "forward_proxy: {max_tunnel_seconds: 0}\n",
            "# not carried over: max_tunnel_seconds: 0 (line 2)",
            "\npipelock:",
        ),
        (
            "forward_proxy: {max_tunnel_seconds: soon}\n",
            "# not carried over: forward_proxy.max_tunnel_seconds (line 2), because it is no number",
            "\npipelock:",
        ),
        (
            "fetch_proxy: {max_response_mb: 10}\ntls_interception: {max_response_bytes: 5242880}\n",
            "",
            "scan_limit_mib",
        ),
        (
            "fetch_proxy: {max_response_mb: 8}\ntls_interception: {max_response_bytes: 8388608}\nrequest_body_scanning: {max_body_bytes: 8388608}\n",
            "\n  scan_limit_mib: 8\n",
            "not carried",
        ),
        (
            "request_body_scanning: {max_body_bytes: 8388608}\n",
            "# not carried over: request_body_scanning.max_body_bytes: 8388608 (line 2)",
            "\npipelock:",
        ),
        (
            "ssrf: {ip_allowlist: [10.0.0.0/8]}\n",
            "network:\n  internal_cidr: 10.0.0.0/8\n",
            "not carried",
        ),
        (
            "ssrf: {ip_allowlist: [10.0.0.1/8, 0.0.0.0/0]}\n",
            "# not carried over: \"0.0.0.0/0\" (line 2)",
            "\nnetwork:",
        ),
        (
            "tls_interception: {enabled: true, passthrough_domains: [a.x]}\n",
            "  passthrough:\n    - a.x\n",
            "not carried",
        ),
        (
            "tls_interception: {passthrough_domains: [b.y]}\n",
            "# not carried over: pass through \"b.y\" (line 2), because no route allows b.y",
            "\npipelock:",
        ),
        (
            "mode: audit\nenforce: false\n",
            "# not carried over: mode: audit (line 2)",
            "\npipelock:",
        ),
        (
            "dlp: {secrets: 1}\nforward_proxy: {enabled: false, sni: 1}\n",
            "# not carried over: dlp, forward_proxy.sni, because",
            "\npipelock:",
        ),
    ] {
        let made = manifest(&format!("{base}{text}"));
        assert!(
            made.contains(wanted) && !made.contains(unwanted),
            "{text}\n{made}"
        );
    }
    let scanned = "api_allowlist: [api.anthropic.com]\ntls_interception: {enabled: true}\n";
    assert!(
        manifest(scanned).contains("# wider than there: api.anthropic.com is passed through here")
    );
}

#[test]
fn a_comment_ends_where_its_line_does_whatever_is_in_it() {
    let made = manifest(
        "a.x # \u{1b}[2Jred\u{2028}- host: evil.x\u{85}\u{202e}\n# \u{7}bell\rslug: b\nb.y\n\"c.z\\n\" \n",
    );
    let odd = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{2028}' | '\u{202e}');
    assert!(!made.contains(odd), "{made:?}");
    assert!(policy::read(made.as_bytes(), true, 0).is_ok());
    let injected = "api_allowlist: [\"a.x\\\"\\n      - host: evil.x\", \"b.y\"]\n";
    assert_eq!(hosts(injected), ["b.y"]);
}

#[test]
fn so_many_comments_that_no_reader_would_find_the_next_value_are_counted() {
    let mut text = String::from("a.x\n");
    for index in 0..6000 {
        text.push_str(&format!("10.{}.{}.0/24\n", index / 250, index % 250));
    }
    let forced = import(
        &[Source {
            name: "f",
            bytes: text.as_bytes(),
        }],
        Some(Kind::List),
        "a",
    )
    .unwrap();
    assert_eq!((forced.allowed, forced.left), (1, 6000));
    assert!(
        forced.manifest.ends_with(" more\n"),
        "{}",
        forced.manifest.len()
    );
    assert!(forced.manifest.len() < 256 * 1024);
}

/// What lists are written with.
const WORDS: &[&str] = &[
    "a.example",
    "*.a.example",
    "b.a.example",
    ".c.example",
    "A.Example.",
    "https://",
    "http://",
    ":443",
    ":22",
    "/path",
    "/*",
    "10.0.0.0/8",
    "192.0.2.7",
    "[2001:db8::1]",
    "*",
    "!",
    "-",
    "- ",
    "# ",
    "#",
    "\n",
    "\n",
    "\n  ",
    " ",
    "\t",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ", ",
    ": ",
    "b\u{fc}cher.example",
    "\u{1b}",
    "\u{2028}",
    "&x ",
    "*x",
    "<<: ",
    "!t ",
    "| \n  ",
    "api_allowlist:",
    "tls_interception:\n  passthrough_domains: [",
    "ssrf:\n  ip_allowlist: [",
    "mode: ",
    "network_policies:\n  p:\n    endpoints:\n    - host: ",
    "deny_rules: [x]",
    "egress:\n- action: allow\n  target: ",
    "- action: deny\n  target: ",
    "defaultAction: ",
    "\"network\": {\"allowedDomains\": [",
    "\"deniedDomains\": [",
    "\"sandbox\": {",
    "\"permissions\": {\"allow\": [\"WebFetch(domain:",
    ")\"",
    "acl x dstdomain ",
    "acl y dstdom_regex ",
    "http_access allow x",
    "http_access deny x",
    "http_access deny !x",
    "\\\n",
    "--allow-host ",
    "--allow-host=",
    "--allow-cidr ",
    "allow_hosts = [\"",
    "uses: step-security/harden-runner@v2\nwith:\n  allowed-endpoints: >\n    ",
    "${{ x }}",
    "999999999999999999999",
    "forward_proxy:\n  max_tunnel_seconds: ",
    "canary.invalid",
    "e\u{301}",
];

fn text() -> impl Strategy<Value = String> {
    let words = proptest::collection::vec(select(WORDS), 0..40).prop_map(|words| words.concat());
    prop_oneof![4 => words, 1 => any::<String>()]
}

/// Whether the text names it: as it is, or in letters that stand for its A-label.
fn is_named(host: &str, text: &str) -> bool {
    let base = host.strip_prefix("*.").unwrap_or(host);
    text.to_lowercase().contains(base)
        || base.contains("xn--") && !text.is_ascii()
        || base.contains(':') && text.contains(':')
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_given_the_manifest_is_valid_and_allows_what_was_named(
        text in text(),
        kind in proptest::option::of(select(&Kind::ALL[..])),
    ) {
        let source = Source { name: "f", bytes: text.as_bytes() };
        match import(&[source], kind, "a") {
            Ok(imported) => {
                let policy = policy::read(imported.manifest.as_bytes(), true, 0).unwrap().policy;
                prop_assert_eq!(policy.allowlist.len(), imported.allowed);
                // A shell joins what is quoted to what is not.
                let joined = text.replace(['"', '\'', '\\'], "");
                let text = format!("{text}\n{joined}");
                for host in &policy.allowlist {
                    prop_assert!(is_named(host, &text), "{} is not in\n{}\n{}", host, text, imported.manifest);
                    // A star or Squid's dot is written by somebody.
                    let base = host.strip_prefix("*.");
                    prop_assert!(base.is_none_or(|base| {
                        let text = text.to_lowercase();
                        !base.is_ascii() || base.contains("xn--") || text.contains(&format!(".{base}"))
                    }), "{}", text);
                }
            }
            Err(ImportError::Defect(why)) => prop_assert!(false, "{why}\n{text}"),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
