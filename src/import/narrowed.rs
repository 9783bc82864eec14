//! What a source denies, narrows or turns off is not allowed by what comes out: in rows, and
//! against small oracles of the sources' own rules.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn imported(text: &str, from: Option<Kind>) -> Result<(Vec<String>, String), ImportError> {
    let source = Source {
        name: "f",
        bytes: text.as_bytes(),
    };
    let made = import(&[source], from, "a")?.manifest;
    let policy = policy::read(made.as_bytes(), true, 0).unwrap().policy;
    Ok((policy.allowlist, made))
}

/// Each text with the hosts that are allowed, and something that is said.
fn judge(rows: &[(&str, &[&str], &str)]) {
    for (text, wanted, said) in rows {
        let (hosts, made) = imported(text, None).unwrap_or_else(|why| panic!("{text}\n{why}"));
        assert_eq!(hosts, *wanted, "{text}\n{made}");
        assert!(made.contains(said), "{text}\n{said}\n{made}");
    }
}

const SHELL: &str = "network_policies: {p: {endpoints: [{host: a.x.y, port: 443";

#[test]
fn of_what_stands_beside_an_unknown_key_nothing_is_allowed() {
    let shell = |endpoint: &str, policy: &str, top: &str| {
        format!("{SHELL}{endpoint}}}], binaries: [{{path: /b}}]{policy}}}}}\n{top}")
    };
    let of = |key: &str| format!("because the key \"{key}\" beside it is not known");
    for (text, key) in [
        (shell("", ", enabled: false", ""), "enabled"),
        (shell("", ", deny: true", ""), "deny"),
        (shell(", disabled: true", "", ""), "disabled"),
        (shell(", deny: null", "", ""), "deny"),
        (shell("", "", "deny_hosts: [a.x.y]\n"), "deny_hosts"),
        (
            "egress: [{action: allow, target: a.x.y, enabled: false}]\n".to_owned(),
            "enabled",
        ),
        (
            "egress: [{action: allow, target: a.x.y}]\ndeny: [a.x.y]\n".to_owned(),
            "deny",
        ),
        (
            "{\"networkPolicy\": {\"egress\": [{\"action\": \"allow\", \"target\": \"a.x.y\"}], \"enabled\": false}}"
                .to_owned(),
            "enabled",
        ),
        (
            "{\"network\": {\"allowedDomains\": [\"a.x.y\"], \"denyDomains\": [\"a.x.y\"]}}".to_owned(),
            "denyDomains",
        ),
        (
            "{\"network\": {\"allowedDomains\": [\"a.x.y\"]}, \"deniedDomains\": [\"a.x.y\"]}".to_owned(),
            "deniedDomains",
        ),
        (
            "{\"sandbox\": {\"network\": {\"allowedDomains\": [\"a.x.y\"], \"enabled\": false}}}".to_owned(),
            "enabled",
        ),
        (
            "{\"sandbox\": {\"deniedDomains\": [\"a.x.y\"], \"network\": {\"allowedDomains\": [\"a.x.y\"]}}}"
                .to_owned(),
            "deniedDomains",
        ),
        (
            "{\"permissions\": {\"allow\": [\"WebFetch(domain:a.x.y)\"], \"denied\": [\"WebFetch(domain:a.x.y)\"]}}"
                .to_owned(),
            "denied",
        ),
        (
            "steps: [{uses: step-security/harden-runner@v2, with: {allowed-endpoints: \"a.x.y:443\", denied-endpoints: \"a.x.y:443\"}}]\n"
                .to_owned(),
            "denied-endpoints",
        ),
        (
            "[network]\nenabled = false\nallow_hosts = [\"a.x.y\"]\n".to_owned(),
            "enabled",
        ),
        (
            "[network]\nallow_hosts = [\"a.x.y\"]\ndeny_hosts = [\"a.x.y\"]\n".to_owned(),
            "deny_hosts",
        ),
        (
            "[network]\nallow_hosts = [\"a.x.y\"]\n[network.deny]\nhosts = [\"a.x.y\"]\n".to_owned(),
            "network.deny",
        ),
        (
            "network.enabled = false\n[network]\nallow_hosts = [\"a.x.y\"]\n".to_owned(),
            "network.enabled",
        ),
        (
            "api_allowlist: [a.x.y]\ndeny_hosts: [a.x.y]\n".to_owned(),
            "deny_hosts",
        ),
    ] {
        judge(&[(&text, &[], &of(key))]);
    }
    // What says nothing of hosts takes none back.
    for text in [
        shell(", tls: skip, mcp: {strict_tool_names: true}", ", name: n", "version: 1\n"),
        "{\"networkPolicy\": {\"egress\": [{\"action\": \"allow\", \"target\": \"a.x.y\"}]}, \"image\": \"i\"}".to_owned(),
        "{\"network\": {\"allowedDomains\": [\"a.x.y\"], \"httpProxyPort\": 1}, \"filesystem\": {}}".to_owned(),
        "net = true\nenv = [\n  \"A=b\",\n]\n[network]\nallow_hosts = [\"a.x.y\"]\n[dev]\nenabled = false\n".to_owned(),
        "api_allowlist: [a.x.y]\nlogging: {format: json}\n".to_owned(),
    ] {
        judge(&[(&text, &["a.x.y"], "")]);
    }
}

#[test]
fn of_a_denial_that_is_not_well_written_all_is_denied_that_it_may_name() {
    let network = |denied: &str| {
        format!(
            "{{\"network\": {{\"allowedDomains\": [\"a.x.y\", \"b.x.y\", \"192.0.2.7\"], \"deniedDomains\": {denied}}}}}"
        )
    };
    let claude = |list: &str, rule: &str| {
        format!(
            "{{\"sandbox\": {{\"network\": {{\"allowedDomains\": [\"a.x.y\", \"b.x.y\"]}}}}, \"permissions\": {{\"{list}\": [{rule}]}}}}"
        )
    };
    for (text, wanted) in [
        ("a.x.y\nb.x.y\n!a.x.y extra\n".to_owned(), &["b.x.y"][..]),
        ("a.x.y\nb.x.y\n! a.x.y\n".to_owned(), &["b.x.y"]),
        ("a.x.y\nb.x.y\n!!a.x.y\n".to_owned(), &["b.x.y"]),
        ("a.x.y\nb.x.y\n-a.x.y\n".to_owned(), &["b.x.y"]),
        ("a.x.y\nb.x.y\n||a.x.y^\n".to_owned(), &["b.x.y"]),
        ("a.x.y\nb.x.y\n0.0.0.0 a.x.y\n".to_owned(), &["b.x.y"]),
        ("---\na.x.y\nb.x.y\n!c.x.y\n".to_owned(), &["a.x.y", "b.x.y"]),
        ("[a.x.y, b.x.y, c.x.y, {deny: a.x.y}]\n".to_owned(), &[]),
        ("[a.x.y, null]\n".to_owned(), &["a.x.y"]),
        ("a.x.y\nb.x.y\n!a.x.y:https\n".to_owned(), &["b.x.y"]),
        ("a.x.y\nb.x.y\ndeny a.x.y\n".to_owned(), &["b.x.y"]),
        ("a.x.y\nb.x.y\nBlock: https://a.x.y/\n".to_owned(), &["b.x.y"]),
        ("a.x.y\nb.x.y\n[deny]\na.x.y\n[allow]\nc.x.y\n".to_owned(), &["b.x.y", "c.x.y"]),
        ("a.x.y\nb.x.y\ndenied:\na.x.y\n".to_owned(), &["b.x.y"]),
        ("a.x.y\nb.x.y\n!\n".to_owned(), &[]),
        ("a.x.y\nb.x.y\n!the office\n".to_owned(), &[]),
        ("a.x.y\nb.x.y\n!^.*\\.x\\.y$\n".to_owned(), &[]),
        ("a.x.y\n192.0.2.7\n!192.0.2.0/24\n".to_owned(), &["a.x.y"]),
        (network("\"a.x.y c.x.y\""), &["192.0.2.7", "b.x.y"]),
        (network("[\"(a.x.y\"]"), &["192.0.2.7", "b.x.y"]),
        (network("[\"192.0.2.0/24\"]"), &["a.x.y", "b.x.y"]),
        (network("[{\"host\": \"a.x.y\"}]"), &[]),
        (network("{\"a.x.y\": true}"), &[]),
        (network("[]"), &["192.0.2.7", "a.x.y", "b.x.y"]),
        (claude("deny", "\"WebFetch(domain:a.x.y\""), &["b.x.y"]),
        (claude("deny", "\"webfetch(domain:a.x.y)\""), &["b.x.y"]),
        (claude("deny", "\"WebFetch(a.x.y)\""), &["b.x.y"]),
        (claude("deny", "\"WebFetch(domain:a.x.y, b.x.y)\""), &[]),
        (claude("ask", "\"WebFetch(domain:a.x.y)\""), &["b.x.y"]),
        (claude("deny", "7"), &["a.x.y", "b.x.y"]),
        (claude("deny", "{\"domain\": \"a.x.y\"}"), &[]),
        (claude("deny", "\"Read(a.x.y)\""), &["a.x.y", "b.x.y"]),
        ("egress: [{action: block, target: a.x.y}, {action: allow, target: a.x.y}, {action: allow, target: b.x.y}]\n".to_owned(), &["b.x.y"]),
        ("egress: [{action: deny, Target: a.x.y}, {action: allow, target: a.x.y}]\n".to_owned(), &[]),
        ("egress: [\"deny a.x.y\", {action: allow, target: a.x.y}]\ndefaultAction: deny\n".to_owned(), &[]),
        ("egress: [{action: allow, target: 192.0.2.7}, {action: deny, target: 192.0.2.0/24}, {action: allow, target: b.x.y}]\n".to_owned(), &["b.x.y"]),
    ] {
        judge(&[(&text, wanted, "")]);
    }
    judge(&[
        (
            "a.x.y\nb.x.y\n!the office\n",
            &[],
            "the denial of \"the office\" (line 3), because it names no host; nothing is allowed",
        ),
        (
            &claude("ask", "\"WebFetch(domain:a.x.y)\""),
            &["b.x.y"],
            "because somebody is asked there, each time",
        ),
        (
            &claude("allow", "\"webfetch(domain:c.x.y)\""),
            &["a.x.y", "b.x.y"],
            "a rule is written WebFetch(domain:HOST)",
        ),
    ]);
    // A tag of YAML's is not passed over, nor is one for a denial.
    for text in [
        "- a.x.y\n- !b.x.y\n",
        "api_allowlist: [!deny a.x.y]\n",
        "network_policies: !off {}\n",
    ] {
        let error = imported(text, None).unwrap_err().to_string();
        assert!(error.contains("a tag of YAML's"), "{text}: {error}");
    }
}

#[test]
fn a_tool_that_is_denied_or_asked_about_fetches_from_nowhere() {
    for (list, rule) in [
        ("deny", "WebFetch"),
        ("deny", "WebFetch(*)"),
        ("deny", "webfetch(domain:*)"),
        ("deny", "*"),
        ("deny", "WebF*"),
        ("ask", "WebFetch"),
    ] {
        let text = format!(
            "{{\"sandbox\": {{\"network\": {{\"allowedDomains\": [\"a.x.y\"]}}}}, \"permissions\": {{\"allow\": [\"WebFetch(domain:b.x.y)\"], \"{list}\": [\"{rule}\"]}}}}"
        );
        judge(&[(&text, &["a.x.y"], "not carried over: \"b.x.y\" (line 1)")]);
    }
}

#[test]
fn below_a_key_that_denies_by_its_name_all_hosts_are_denied_at_any_level() {
    let base = "api_allowlist: [\"*.x.y\", b.z]\n";
    for (text, wanted, said) in [
        (
            format!("{base}forward_proxy: {{enabled: true, deny_hosts: [a.x.y]}}\n"),
            &["b.z"][..],
            "below the key \"forward_proxy.deny_hosts\" (line 2)",
        ),
        (
            format!("{base}blacklist: [a.x.y]\n"),
            &["b.z"],
            "below the key \"blacklist\" (line 2)",
        ),
        (
            format!("{base}fetch_proxy: {{blocklist: [a.x.y]}}\nmonitoring: {{blocklist: [a.x.y]}}\n"),
            &["b.z"],
            "below the key \"monitoring.blocklist\" (line 3)",
        ),
        (
            format!("{base}x: [{{y: {{Black-List: {{a.x.y: true}}}}}}]\n"),
            &["b.z"],
            "below the key \"x.y.Black-List\"",
        ),
        (
            format!("{base}x: {{disallow: everything}}\n"),
            &[],
            "the denial of \"* below x.disallow\" (line 2), because it names no host; nothing is allowed",
        ),
        (
            format!("{base}x: {{forbidden: [{{}}, false], except: [], Blocked: {{a: {{}}}}}}\n"),
            &["*.x.y", "b.z"],
            "",
        ),
        (
            "{\"sandbox\":{\"network\":{\"allowedDomains\":[\"*.x.y\", \"b.z\"]}},\"network\":{\"deniedDomains\":[\"a.x.y\"]}}".to_owned(),
            &["b.z"],
            "below the key \"network.deniedDomains\" (line 1)",
        ),
        (
            "networkPolicy:\n  egress: [{action: allow, target: a.x.y}, {action: allow, target: b.z}]\ndeny_hosts: [a.x.y]\n".to_owned(),
            &["b.z"],
            "below the key \"deny_hosts\" (line 3)",
        ),
        (
            "networkPolicy:\n  egress: [{action: allow, target: a.x.y}]\nnetwork_policy:\n  egress: [{action: deny, target: a.x.y}]\n".to_owned(),
            &[],
            "there are several policies",
        ),
        // What is known to be of no hosts is not.
        (
            format!("{base}logging: {{include_blocked: true}}\nadaptive_enforcement: {{levels: {{high: {{block_all: true}}}}}}\n"),
            &["*.x.y", "b.z"],
            "",
        ),
        (
            "{\"network\":{\"allowedDomains\":[\"b.z\"]},\"filesystem\":{\"denyRead\":[\"~/.b.z\"]}}".to_owned(),
            &["b.z"],
            "",
        ),
        (
            format!("{SHELL}}}], binaries: [{{path: /b}}]}}}}\nversion: {{exclude: a.x.y}}\n"),
            &[],
            "below the key \"version.exclude\" (line 2)",
        ),
    ] {
        judge(&[(&text, wanted, said)]);
    }
}

#[test]
fn below_a_heading_that_is_not_known_to_allow_and_in_a_line_that_is_no_host_nothing_is_allowed() {
    let below = "because it stands below a heading that is not known to allow";
    for heading in [
        "[production]",
        "production:",
        "=== production ===",
        "Not ours at all",
        "The office",
        "the hosts that we have:",
    ] {
        let text = format!("a.x.y\n{heading}\nb.x.y\nlocalhost\nallowed hosts:\nc.x.y\n");
        let said = if heading.starts_with("Not") {
            "denied there: \"b.x.y\""
        } else {
            below
        };
        judge(&[(&text, &["a.x.y", "c.x.y"], said)]);
    }
    for heading in [
        "[denylist]",
        "Deny list",
        "=== Blocked ===",
        "Forbidden:",
        "BLACKLIST",
        "do not allow",
    ] {
        for text in [
            format!("*.x.y\nb.z\n{heading}\na.x.y\n"),
            format!("[\"*.x.y\", b.z, \"{heading}\", a.x.y]\n"),
        ] {
            judge(&[(&text, &["b.z"], "\"a.x.y\" (line ")]);
        }
    }
    for line in [
        "deny:a.x.y",
        "a.x.y deny",
        "~ a.x.y",
        "local-zone: \"a.x.y\" refuse",
        "address=/a.x.y/",
        "deny/a.x.y",
        "deny@a.x.y",
        "deny://a.x.y",
        "deny=a.x.y",
        "192.0.2.7 a.x.y",
        "see https://a.x.y/ for more",
    ] {
        judge(&[(
            &format!("*.x.y\nb.z\na.x.y\n{line}\n"),
            &["b.z"],
            "is denied, and nothing can be taken out",
        )]);
    }
    for heading in [
        "# denied ones",
        "Allow:",
        "[whitelist]",
        "== Allowed domains ==",
        "hosts",
    ] {
        judge(&[(
            &format!("b.z\n{heading}\na.x.y\n[2001:db8::1]\n10.0.0.0/8\n192.0.2.1\n"),
            &["192.0.2.1", "2001:db8::1", "a.x.y", "b.z"],
            "",
        )]);
    }
}

#[test]
fn a_denied_network_is_one_however_it_is_written() {
    for network in [
        "192.0.2.0/255.255.255.0",
        "192.0.2.0/24:443",
        "192.0.2.0:443/24",
        "https://192.0.2.0/24",
        "[2001:db8::]/32",
        "2001:db8::/32",
        "192.0.2.1-192.0.2.9",
    ] {
        let text = format!(
            "{{\"network\": {{\"allowedDomains\": [\"a.x.y\", \"192.0.2.7\"], \"deniedDomains\": [\"{network}\"]}}}}"
        );
        judge(&[(&text, &["a.x.y"], "\"192.0.2.7\" (line 1)")]);
        judge(&[(&format!("a.x.y\n192.0.2.7\n!{network}\n"), &["a.x.y"], "")]);
    }
}

#[test]
fn what_turns_all_off_in_one_file_does_in_all_that_are_imported_with_it() {
    let allows = "{\"permissions\":{\"allow\":[\"WebFetch(domain:a.x.y)\"]}}";
    let settings =
        |more: &str| format!("{{{more},\"sandbox\":{{\"network\":{{\"allowedDomains\":[]}}}}}}");
    for (text, other) in [
        (
            settings("\"permissions\":{\"deny\":[\"WebFetch\"]}"),
            allows,
        ),
        (settings("\"permissions\":{\"ask\":[\"WebFetch\"]}"), allows),
        (settings("\"disallowedTools\":[\"WebFetch\"]"), allows),
        (
            "kill_switch: {enabled: true}\nfetch_proxy: {}\n".to_owned(),
            "api_allowlist: [a.x.y]\n",
        ),
        ("kill_switch: on\nfetch_proxy: {}\n".to_owned(), "a.x.y\n"),
    ] {
        for texts in [[&text, other], [other, &text]] {
            let sources = [0, 1].map(|n| Source {
                name: ["f", "g"][n],
                bytes: texts[n].as_bytes(),
            });
            let made = import(&sources, None, "a").unwrap();
            assert_eq!(made.allowed, 0, "{texts:?}\n{}", made.manifest);
            let made = made.manifest;
            assert!(
                made.contains("# nothing is carried over, because "),
                "{made}"
            );
            assert!(made.contains("# not carried over: \"a.x.y\" ("), "{made}");
        }
    }
    for text in [
        "{\"permissions\":{\"allow\":[\"WebFetch(domain:a.x.y)\"]},\"disallowedTools\":[\"WebFetch\"]}",
        "{\"permissions\":{\"allow\":[\"WebFetch(domain:a.x.y)\"],\"deny\":[\"Fetch(domain:a.x.y)\"]}}",
        "api_allowlist: [a.x.y]\nkill_switch: yes please\n",
    ] {
        judge(&[(text, &[], "\"a.x.y\" (line 1)")]);
    }
    judge(&[(
        "api_allowlist: [a.x.y]\nkill_switch: {enabled: false, message: m}\n",
        &["a.x.y"],
        "",
    )]);
}

#[test]
fn what_one_file_of_squids_lists_and_another_rules_is_not_allowed_by_its_list_alone() {
    let texts = [
        "acl social dstdomain .x.y\nacl good dstdomain a.z\n",
        "acl extra dstdomain b.z\nhttp_access deny social\nhttp_access allow extra\nhttp_access deny all\n",
    ];
    for order in [[0, 1], [1, 0]] {
        let sources = order.map(|n| Source {
            name: ["acls", "rules"][n],
            bytes: texts[n].as_bytes(),
        });
        let made = import(&sources, None, "a").unwrap();
        assert_eq!(made.allowed, 1, "{}", made.manifest);
        let beside = "see that it is not this one\n      - host: b.z\n";
        assert!(made.manifest.contains(beside), "{}", made.manifest);
    }
}

#[test]
fn what_is_said_of_a_host_stands_beside_it_or_the_host_does_not() {
    let denied: String = (0..5000)
        .map(|n| format!("!evil{n}.bad.example\n"))
        .collect();
    judge(&[(
        &format!("{denied}a.x.y:8443\n"),
        &["a.x.y"],
        "# not carried over: the port \"8443\" (line 5001), because every port of an allowed host is allowed\n# … and ",
    )]);
    // As many ports as there are lines, each said once, in no time.
    let ports: String = (1..60_000).map(|n| format!("a.x.y:{n}\n")).collect();
    let begun = std::time::Instant::now();
    judge(&[(
        &format!("{ports}b.x.y\n"),
        &["b.x.y"],
        "# not carried over: \"a.x.y\", because more has to be said of it",
    )]);
    assert!(begun.elapsed().as_secs() < 30);
}

#[test]
fn only_smolvms_own_flags_name_hosts() {
    let own = "smolvm machine run --allow-host a.x.y";
    for (line, wanted) in [
        (own.to_owned(), &["a.x.y"][..]),
        (format!("A=1 sudo /usr/bin/{own}"), &["a.x.y"]),
        ("\"$SMOLVM\" machine create --name n --allow-host 'a.x.y'".to_owned(), &["a.x.y"]),
        (format!("cd x && {own}; true"), &["a.x.y"]),
        (format!("if true; then {own}; fi"), &["a.x.y"]),
        (format!("{own} --image i -- curl --allow-host b.x.y"), &["a.x.y"]),
        (format!("{own} --image i curl --allow-host b.x.y"), &["a.x.y"]),
        (format!("{own} && curl --allow-host b.x.y"), &["a.x.y"]),
        (format!("{own} | tee --allow-host=b.x.y"), &["a.x.y"]),
        (format!("{own}\necho \"--allow-host b.x.y\""), &["a.x.y"]),
        (format!("{own}\necho \"\nsmolvm machine run --allow-host b.x.y\n\""), &["a.x.y"]),
        (format!("{own}\ncat <<EOF\nsmolvm machine run --allow-host b.x.y\nEOF\nsmolvm machine run --allow-host c.x.y"), &["a.x.y", "c.x.y"]),
        (format!("{own} # --allow-host b.x.y"), &["a.x.y"]),
        (format!("{own} \\\n  --allow-host=c.x.y"), &["a.x.y", "c.x.y"]),
        ("--allow-host a.x.y\n--allow-host=c.x.y".to_owned(), &["a.x.y", "c.x.y"]),
        ("[network]\nallow_hosts = [\"a.x.y\",# \"b.x.y\"\n]\n".to_owned(), &["a.x.y"]),
        ("[network]\nallow_hosts = [\"a.x.y\"]\n[other]\nallow_hosts = [\"b.x.y\"]\n".to_owned(), &["a.x.y"]),
        ("init = \"\"\"\n[network]\nallow_hosts = [\"b.x.y\"]\n\"\"\"\n[network]\nallow_hosts = [\"a.x.y\"]\n".to_owned(), &["a.x.y"]),
    ] {
        judge(&[(&line, wanted, "")]);
    }
    judge(&[(
        &format!("{own}\ncurl --allow-host b.x.y\n"),
        &["a.x.y"],
        "not carried over: \"curl --allow-host b.x.y\" (line 2), because it is no flag of a command of smolvm's",
    )]);
    assert!(imported("curl --allow-host b.x.y\n", None).is_err());
}

#[test]
fn what_has_a_colon_and_no_port_is_no_host() {
    for line in [
        "https:k.x.y",
        "data:text/html",
        "a.x.y:https",
        "mailto:u@a.x.y",
        "deny:a.x.y",
        "javascript:a.x.y",
    ] {
        judge(&[(
            &format!("b.x.y\n{line}\n"),
            &["b.x.y"],
            "what is behind its colon is no port",
        )]);
    }
    judge(&[("b.x.y:8000-9000\n", &["b.x.y"], "the port \"8000-9000\"")]);
}

#[test]
fn what_a_program_a_port_or_a_protocol_narrows_is_said_or_not_allowed() {
    let shell = |endpoint: &str, policy: &str| {
        format!("network_policies: {{p: {{endpoints: [{{{endpoint}}}]{policy}}}}}\n")
    };
    let programs = ", binaries: [{path: /b}]";
    judge(&[
        (
            &shell("host: a.x.y, port: 443", ""),
            &[],
            "because its policy names no program that may",
        ),
        (
            &shell("host: a.x.y, port: 443", ", binaries: []"),
            &[],
            "because its policy names no program that may",
        ),
        (
            &shell("host: a.x.y", programs),
            &[],
            "because it names no port",
        ),
        (
            &shell("host: a.x.y, ports: [null]", programs),
            &[],
            "because it names no port",
        ),
        (
            &shell("host: a.x.y, port: 443, protocol: rest", programs),
            &[],
            "because it has no rule that allows",
        ),
        (
            &shell("host: a.x.y, port: 443, access: full, rules: []", programs),
            &[],
            "because it has no rule that allows",
        ),
        (
            &shell("host: a.x.y, port: 443, access: none", programs),
            &[],
            "because its access is not known",
        ),
        (
            &shell(
                "host: a.x.y, port: 443",
                ", binaries: [{path: /b, enabled: false}]",
            ),
            &[],
            "because the key \"enabled\" beside it is not known",
        ),
        (
            "network_policies: [{endpoints: [{host: a.x.y, port: 443}], binaries: [/b]}]\n",
            &[],
            "not carried over: network_policies, because its policies have no names",
        ),
        (
            "jobs:\n  a:\n    if: false\n    steps:\n    - uses: Step-Security/Harden-Runner@v2\n      with: {allowed-endpoints: \"a.x.y:443\"}\n  b:\n    steps:\n    - uses: step-security/harden-runner@v2\n      if: ${{ c }}\n      with: {allowed-endpoints: \"b.x.y:443\"}\n",
            &["a.x.y", "b.x.y"],
            "not carried over: the condition \"false\" (line 6), because a host is allowed for everybody, at all times\n      - host: a.x.y\n      # not carried over: the condition \"${{ c }}\" (line 11), because a host is allowed for everybody, at all times\n      - host: b.x.y\n",
        ),
        (
            &shell("host: \"*.com\", port: 443", programs),
            &[],
            "a wildcard of a whole top-level domain",
        ),
        (
            &shell("host: a.x.y, port: 443, protocol: mcp", programs),
            &["a.x.y"],
            "not carried over: protocol: mcp (line 1)",
        ),
        (
            "api_allowlist: [a.x.y]\nkill_switch: {enabled: true}\n",
            &[],
            "because kill_switch.enabled (line 2) denies all",
        ),
        (
            "api_allowlist: [a.x.y]\nforward_proxy: {enabled: false}\n",
            &["a.x.y"],
            "wider than there: forward_proxy is not enabled",
        ),
        (
            "steps:\n- uses: step-security/harden-runner@v2\n  with:\n    allowed-endpoints: |\n      # b.x.y:443\n      a.x.y:443 # c.x.y:443\n",
            &["a.x.y"],
            "because it is behind a #",
        ),
        (
            "a:\n- uses: step-security/harden-runner@v2\n  with: {allowed-endpoints: \"a.x.y:443\"}\nb:\n- uses: step-security/harden-runner@v2\n  with: {allowed-endpoints: \"b.x.y:443\"}\n",
            &["a.x.y", "b.x.y"],
            "# what 2 steps may reach, each for itself, is taken together\n",
        ),
    ]);
}

#[test]
fn what_squid_denies_in_its_other_ways_is_not_allowed_or_said_beside() {
    let acl = "acl l dstdomain a.x.y .z.y\nacl bad dstdomain b.z.y\n";
    let with = |more: &str| format!("{acl}{more}http_access allow l\nhttp_access deny all\n");
    let beside = "see that it is not this one\n      - host: a.x.y\n";
    judge(&[
        (
            &with("acl other dstdomain c.z.y\nhttp_access deny !bad !other\n"),
            &[],
            "line 5 allows what is in l and bad and other together",
        ),
        (
            &with("acl other dstdomain c.z.y\nhttp_access deny !l !other\n"),
            &["*.z.y", "a.x.y"],
            "",
        ),
        // A comment ends where its line does.
        (
            &with("# c \\\nhttp_access deny bad\n"),
            &["a.x.y"],
            "\"b.z.y\" (line 2) is denied",
        ),
        // Names of lists are the same whatever letters they have.
        (
            &with("http_access deny BAD\n"),
            &["a.x.y"],
            "\"b.z.y\" (line 2) is denied",
        ),
        (
            &with("acl both any-of bad other\nhttp_access deny both\n"),
            &["*.z.y", "a.x.y"],
            beside,
        ),
        (
            &with("acl both all-of bad other\nhttp_access deny both\n"),
            &["*.z.y", "a.x.y"],
            beside,
        ),
        (
            &with("acl r dstdom_regex b\nhttp_access deny r\n"),
            &["*.z.y", "a.x.y"],
            beside,
        ),
        (
            &with("acl f dstdomain \"/f\"\nhttp_access deny f\n"),
            &["*.z.y", "a.x.y"],
            beside,
        ),
        (
            &with("acl f dstdomain \"/f\"\nhttp_access deny f\n"),
            &["*.z.y", "a.x.y"],
            "with a ! before each line",
        ),
        (
            &with("include /etc/squid/conf.d/*\n"),
            &["*.z.y", "a.x.y"],
            "# not carried over: include /etc/squid/conf.d/* (line 3)",
        ),
        (
            &with("http_reply_access deny bad\n"),
            &["*.z.y", "a.x.y"],
            "# not carried over: http_reply_access deny bad (line 3)",
        ),
        (
            &with("if 0\nhttp_access allow bad\nendif\n"),
            &[],
            "line 3 is a condition",
        ),
        // What goes on is ended neither by a comment nor by an empty line.
        (
            "acl l dstdomain .z.y\nacl bad dstdomain c.y \\\n# c\n\n b.z.y\nhttp_access deny bad\nhttp_access allow l\n",
            &[],
            "\"b.z.y\" (line 2) is denied",
        ),
        (
            "acl l dstdomain .z.y\nacl bad dstdomain b.z.y\nhttp_access allow l \\\n# c\n !bad\nhttp_access deny all\n",
            &[],
            "\"b.z.y\" (line 2) is denied",
        ),
        (
            "acl l dstdomain .z.y\nhttp_access allow l \\\n# c\n localnet\nhttp_access deny all\n",
            &["*.z.y"],
            "the condition localnet",
        ),
        // A word in two parts is none.
        (
            "acl l dstdomain .z.y\nacl bad dstdomain b.z\\\n.y\nhttp_access deny bad\nhttp_access allow l\n",
            &[],
            "nothing is allowed",
        ),
        (
            &with("HTTP_ACCESS DENY bad\n"),
            &["a.x.y"],
            "\"b.z.y\" (line 2) is denied",
        ),
        (
            "acl l dstdomain .z.y\nACL bad DSTDOMAIN b.z.y\nhttp_access deny bad\nhttp_access allow l\n",
            &[],
            "\"b.z.y\" (line 2) is denied",
        ),
        (
            &with("http_access maybe bad\n"),
            &["*.z.y", "a.x.y"],
            beside,
        ),
        // Another file may have it.
        (
            &with("http_access deny elsewhere\n"),
            &["*.z.y", "a.x.y"],
            beside,
        ),
        (&with("include f\n"), &["*.z.y", "a.x.y"], beside),
        (
            "acl forbidden dstdomain .z.y\nacl l dstdomain a.x.y\n",
            &["a.x.y"],
            "# no http_access line was there that allows or denies it\n      - host: a.x.y",
        ),
        (
            "acl l dstdomain *.z.y a.x.y\nhttp_access allow l\n",
            &["a.x.y"],
            "a * is no wildcard of Squid's",
        ),
    ]);
    let many: String = (0..40)
        .map(|n| format!("http_access allow l c{n}\n"))
        .collect();
    judge(&[(
        &format!("{acl}{many}"),
        &[],
        "more lines of http_access name it than are followed",
    )]);
}

#[test]
fn as_many_lists_of_squids_as_a_file_holds_are_read_at_once() {
    let count = 30_000;
    let each = |line: fn(usize) -> String| (0..count).map(line).collect::<String>();
    let lists = each(|n| format!("acl l{n} dstdomain h{n}.x.y\n"));
    for lines in [
        each(|n| format!("http_access allow l{n}\n")),
        each(|n| format!("http_access deny !l{n}\nhttp_access allow c\n")),
        each(|n| format!("http_access allow l1 c{n}\n")),
        each(|n| format!("acl w{n} src all\nhttp_access deny w{n} l{n}\n")),
    ] {
        let begun = std::time::Instant::now();
        let _ = imported(&format!("{lists}{lines}"), None);
        let took = begun.elapsed();
        // Of what is quadratic it is minutes.
        assert!(took.as_secs() < 30, "{took:?}");
    }
}

#[test]
fn what_the_first_rule_decides_in_one_file_another_does_not_take_back() {
    let egress = |action: &str, target: &str| {
        format!("egress: [{{action: {action}, target: \"{target}\"}}]\n")
    };
    let texts = [egress("allow", "*.x.y"), egress("deny", "a.x.y")];
    let sources = [0, 1].map(|n| Source {
        name: ["a", "b"][n],
        bytes: texts[n].as_bytes(),
    });
    let made = import(&sources, None, "a").unwrap().manifest;
    assert!(made.contains("\"a.x.y\" (b, line 1) is denied"), "{made}");
}

/// All that an oracle is asked about, and what rules may name.
const HOSTS: &[&str] = &["x.y", "a.x.y", "b.x.y", "c.a.x.y", "z.y"];
const NAMES: &[&str] = &[
    "x.y", "a.x.y", "b.x.y", "c.a.x.y", "z.y", "*.x.y", "*.a.x.y",
];

/// Whether a pattern stands for a host, and `*.name` for the name too.
fn fits(pattern: &str, host: &str, with_name: bool) -> bool {
    match pattern.strip_prefix("*.") {
        Some(base) => host.ends_with(&format!(".{base}")) || with_name && host == base,
        None => pattern == host,
    }
}

/// Each host that is allowed by what comes out is by the source; or it is the domain of a
/// wildcard, and that is said.
fn compare(text: &str, kind: Kind, allows: impl Fn(&str) -> bool, denies: impl Fn(&str) -> bool) {
    let Ok((allowed, made)) = imported(text, Some(kind)) else {
        return;
    };
    for host in HOSTS {
        if policy::matching::allows_entry(&allowed, host) {
            let told = made.contains(&format!("\"*.{host}\" stands for {host} too"));
            assert!(
                allows(host) || told && !denies(host),
                "{host}\n{text}\n{made}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_host_is_allowed_that_the_source_refuses(
        rules in vec((any::<bool>(), select(NAMES)), 1..7),
        lines in vec((any::<bool>(), vec((any::<bool>(), 0..3_usize), 0..3)), 0..6),
        lists in vec(vec(select(NAMES), 0..3), 3),
    ) {
        let said = |wanted: bool| {
            let names = rules.iter().filter(move |(allows, _)| *allows == wanted).map(|(_, name)| *name);
            names.collect::<Vec<_>>()
        };
        let (allowed, denied) = (said(true), said(false));
        let has = |names: &[&str], host: &str, with: bool| names.iter().any(|it| fits(it, host, with));

        // A denial wins.
        let settings = format!("{{\"network\": {{\"allowedDomains\": {allowed:?}, \"deniedDomains\": {denied:?}}}}}");
        let refuses = |host: &str| has(&denied, host, false);
        compare(&settings, Kind::SandboxRuntime, |host| has(&allowed, host, false) && !refuses(host), refuses);
        let list: String = rules.iter().map(|(allows, name)| format!("{}{name}\n", if *allows { "" } else { "!" })).collect();
        compare(&list, Kind::List, |host| has(&allowed, host, false) && !refuses(host), refuses);
        let pipelock = format!("api_allowlist: {allowed:?}\nfetch_proxy: {{monitoring: {{blocklist: {denied:?}}}}}\n");
        let refuses = |host: &str| has(&denied, host, true);
        compare(&pipelock, Kind::Pipelock, |host| has(&allowed, host, true) && !refuses(host), refuses);

        // The first that fits.
        let egress: Vec<String> = rules.iter().map(|(allows, name)| {
            format!("{{action: {}, target: \"{name}\"}}", if *allows { "allow" } else { "deny" })
        }).collect();
        let egress = format!("egress: [{}]\n", egress.join(", "));
        let first = |host: &str| rules.iter().find(|(_, name)| fits(name, host, false)).map(|(allows, _)| *allows);
        compare(&egress, Kind::OpenSandbox, |host| first(host) == Some(true), |host| first(host) == Some(false));

        // Squid: the first line whose lists all fit; the contrary of the last where none does.
        let squid = |name: &str| name.replace("*.", ".");
        let mut text = String::new();
        for (index, names) in lists.iter().enumerate() {
            let names: Vec<String> = names.iter().map(|name| squid(name)).collect();
            text.push_str(&format!("acl l{index} dstdomain {}\n", names.join(" ")));
        }
        for (allows, names) in &lines {
            let names: Vec<String> = names.iter().map(|(is, list)| format!("{}L{list}", if *is { "" } else { "!" })).collect();
            let names = if names.is_empty() { "all".to_owned() } else { names.join(" ") };
            text.push_str(&format!("http_access {} {names}\n", if *allows { "allow" } else { "deny" }));
        }
        let access = |host: &str| {
            let holds = |names: &[(bool, usize)]| names.iter().all(|(is, list)| has(&lists[*list], host, true) == *is);
            let first = lines.iter().find(|(_, names)| holds(names)).map(|(allows, _)| *allows);
            first.or(lines.last().map(|(allows, _)| !allows))
        };
        // Without lines its lists are taken for what is allowed, which is said.
        compare(&text, Kind::Squid, |host| access(host) != Some(false), |_| true);
    }
}
