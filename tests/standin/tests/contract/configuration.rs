use std::process::Command;

use crate::bed::{Bed, Rendered, binary, last_words};

/// Asserts that a start is refused with these words after `loading config: `.
#[track_caller]
fn refuses(text: &str, words: &str) {
    let bed = Bed::new();
    let output = bed.refused(text);
    assert_eq!(output.status.code(), Some(1), "{}", last_words(&output));
    let path = bed.path("pipelock.yaml").display().to_string();
    let wanted = format!("loading config: {}", words.replace("FILE", &path));
    let said = last_words(&output);
    assert!(said.ends_with(&wanted), "said {said:?}, not {wanted:?}");
    assert!(output.stdout.is_empty());
}

/// Asserts that a start succeeds, and what `/health` says of the mode.
#[track_caller]
fn starts(text: &str, mode: &str) {
    let bed = Bed::new();
    bed.install(text);
    let daemon = bed.spawn();
    daemon.wait_until_healthy();
    assert_eq!(daemon.health()["mode"], mode);
}

const ERRORS: &str = "parsing config FILE: yaml: unmarshal errors:\n  ";

#[test]
fn refuses_every_unknown_key_with_its_line_and_section() {
    refuses(
        "mode: strict\nfoo: 1\nbar: 2\n",
        &format!(
            "{ERRORS}line 2: field foo not found in type config.Config\n  \
             line 3: field bar not found in type config.Config"
        ),
    );
    refuses(
        "dlp:\n  nope: 1\n",
        &format!("{ERRORS}line 2: field nope not found in type config.DLP"),
    );
    refuses(
        "forward_proxy:\n  max_tunnel_second: 1\n",
        &format!("{ERRORS}line 2: field max_tunnel_second not found in type config.ForwardProxy"),
    );
    refuses(
        "fetch_proxy:\n  monitoring:\n    requests: 1\n",
        &format!("{ERRORS}line 3: field requests not found in type config.Monitoring"),
    );
    for (section, name) in [
        ("request_body_scanning", "RequestBodyScanning"),
        ("seed_phrase_detection", "SeedPhraseDetection"),
        ("tls_interception", "TLSInterception"),
        ("ssrf", "SSRF"),
        ("fetch_proxy", "FetchProxy"),
        ("kill_switch", "KillSwitch"),
        ("logging", "LoggingConfig"),
        ("response_scanning", "ResponseScanning"),
        ("git_protection", "GitProtection"),
    ] {
        let words = format!("{ERRORS}line 2: field x not found in type config.{name}");
        refuses(&format!("{section}:\n  x: 1\n"), &words);
    }
}

#[test]
fn refuses_a_key_written_twice() {
    refuses(
        "mode: strict\nmode: strict\n",
        &format!("{ERRORS}line 2: mapping key \"mode\" already defined at line 1"),
    );
    refuses(
        "dlp:\n  scan_env: 1\n  scan_env: 2\nfoo: 2\n",
        &format!(
            "{ERRORS}line 3: mapping key \"scan_env\" already defined at line 2\n  \
             line 4: field foo not found in type config.Config"
        ),
    );
}

#[test]
fn refuses_values_of_the_wrong_type() {
    refuses(
        "mode: [a]\nversion: x\nenforce: maybe\n",
        &format!(
            "{ERRORS}line 1: cannot unmarshal !!seq into string\n  \
             line 2: cannot unmarshal !!str `x` into int\n  \
             line 3: cannot unmarshal !!str `maybe` into bool"
        ),
    );
    let cases = [
        ("dlp: 3\n", "!!int `3` into config.DLP"),
        ("- a\n", "!!seq into config.Config"),
        ("hello\n", "!!str `hello` into config.Config"),
        ("api_allowlist: \"x\"\n", "!!str `x` into []string"),
        ("api_allowlist: [1, true, {a: b}]\n", "!!map into string"),
        (
            "forward_proxy: {enabled: \"true\"}\n",
            "!!str `true` into bool",
        ),
        (
            "version: \"1 and more than ten\"\n",
            "!!str `1 and m...` into int",
        ),
        ("enforce: 1\n", "!!int `1` into bool"),
    ];
    for (text, words) in cases {
        refuses(text, &format!("{ERRORS}line 1: cannot unmarshal {words}"));
    }
}

#[test]
fn refuses_a_second_document_and_what_is_no_yaml() {
    refuses(
        "mode: strict\n---\nmode: strict\n",
        "parsing config FILE: multiple YAML documents not supported \
         (pipelock config must be a single document)",
    );
    for text in [
        "a: [\n",
        "\ta: 1\n",
        "\"unclosed\n",
        "mode: strict\n mode2: x\n",
        "mode: *x\n",
    ] {
        let output = Bed::new().refused(text);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            last_words(&output).contains("parsing config "),
            "{}",
            last_words(&output)
        );
    }
}

#[test]
fn refuses_a_strict_mode_that_allows_nothing() {
    let words = "invalid config: strict mode requires at least one domain in api_allowlist";
    refuses("mode: strict\n", words);
    refuses("mode: strict\napi_allowlist:\n", words);
    refuses("mode: strict\napi_allowlist: []\n", words);
}

#[test]
fn refuses_networks_an_init_must_not_render() {
    let ssrf = |range: &str| format!("ssrf: {{ip_allowlist: [\"{range}\"]}}\n");
    refuses(
        &ssrf("10.0.0.1"),
        "invalid config: invalid ssrf.ip_allowlist CIDR \"10.0.0.1\": invalid CIDR address: 10.0.0.1",
    );
    refuses(
        &ssrf("10.0.0.1/8"),
        "invalid config: ssrf.ip_allowlist CIDR \"10.0.0.1/8\" has host bits set \
         (did you mean \"10.0.0.0/8\"?)",
    );
    refuses(
        &ssrf("fd00::1/64"),
        "invalid config: ssrf.ip_allowlist CIDR \"fd00::1/64\" has host bits set \
         (did you mean \"fd00::/64\"?)",
    );
    refuses(
        &ssrf("0.0.0.0/0"),
        "invalid config: ssrf.ip_allowlist CIDR \"0.0.0.0/0\" is a catch-all (/0) and would \
         disable SSRF protection",
    );
}

#[test]
fn refuses_words_it_does_not_know() {
    refuses(
        "mode: stric\n",
        "invalid config: invalid mode \"stric\": must be strict, balanced, or audit",
    );
    refuses(
        "request_body_scanning: {action: kill}\n",
        "invalid config: invalid request_body_scanning.action \"kill\": must be warn or block",
    );
    refuses(
        "request_body_scanning: {header_mode: some}\n",
        "invalid config: invalid request_body_scanning.header_mode \"some\": must be sensitive or all",
    );
}

#[test]
fn takes_an_empty_file_for_a_balanced_mode_that_proxies_nothing() {
    for text in [
        "",
        "# nothing but a comment\n",
        "---\n",
        "version: 99\nmode: ~\n",
    ] {
        let bed = Bed::new();
        bed.install(text);
        let daemon = bed.spawn();
        daemon.wait_until_healthy();
        let health = daemon.health();
        assert_eq!(health["status"], "healthy");
        assert_eq!(health["mode"], "balanced");
        assert_eq!(health["forward_proxy_enabled"], false);
        assert_eq!(health["tls_interception_enabled"], false);
        daemon
            .connect("canary.invalid:443", "")
            .0
            .refuses(405, "CONNECT not supported");
        daemon
            .forward("http://canary.invalid/", "", "")
            .refuses(405, "forward proxy not enabled");
    }
}

#[test]
fn accepts_a_bom_anchors_and_other_spellings_of_a_boolean() {
    starts("\u{feff}---\nversion: 7\nmode: audit\n", "audit");
    starts(
        "mode: &m balanced\nresponse_scanning: {action: warn}\ntrusted_domains: [x.test, y.test]\nkill_switch: {message: *m}\n",
        "balanced",
    );
    starts("forward_proxy: {enabled: yes}\n", "balanced");
}

#[test]
fn takes_numbers_below_one_for_the_default() {
    let text = "forward_proxy: {enabled: true, max_tunnel_seconds: 0, idle_timeout_seconds: -1}\n\
                fetch_proxy: {monitoring: {max_requests_per_minute: 0}}\n";
    let bed = Bed::new();
    bed.install(text);
    let daemon = bed.spawn();
    daemon.wait_until_healthy();
    assert_eq!(daemon.health()["rate_limit_enabled"], true);
}

#[test]
fn names_a_file_that_is_not_there() {
    let bed = Bed::new();
    let output = bed.command(&binary()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let path = bed.path("pipelock.yaml").display().to_string();
    let words =
        format!("loading config: reading config {path}: open {path}: no such file or directory");
    assert!(
        last_words(&output).ends_with(&words),
        "{}",
        last_words(&output)
    );
}

#[test]
fn check_judges_a_file_on_stderr_and_does_not_look_into_the_ca() {
    let bed = Bed::new();
    bed.install(&bed.render(&Rendered::default()));
    bed.write("ca-key.pem", "no key at all\n", 0o600);
    let check = |form: &[&str]| {
        let path = bed.path("pipelock.yaml").display().to_string();
        let form: Vec<String> = form.iter().map(|f| f.replace("FILE", &path)).collect();
        Command::new(binary())
            .arg("check")
            .args(form)
            .env_clear()
            .output()
            .unwrap()
    };
    for form in [
        &["--config", "FILE"][..],
        &["--config=FILE"],
        &["-c", "FILE"],
        &["-cFILE"],
        &["-c=FILE"],
    ] {
        let output = check(form);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{form:?}: {}",
            last_words(&output)
        );
        assert!(output.stdout.is_empty());
        assert!(last_words(&output).contains("Config validation: OK\n"));
    }
    bed.install("mode: stric\n");
    let output = check(&["-c", "FILE"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        last_words(&output).ends_with("invalid mode \"stric\": must be strict, balanced, or audit")
    );
}

#[test]
fn refuses_arguments_it_does_not_know() {
    let said = |arguments: &[&str]| {
        let output = Command::new(binary())
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        (output.status.code(), last_words(&output))
    };
    let cases: [(&[&str], &str); 5] = [
        (&["run", "--bogus"], "unknown flag: --bogus"),
        (&["run", "--config"], "flag needs an argument: --config"),
        (
            &["run", "x"],
            "unexpected arguments [\"x\"]; pass agent args after --",
        ),
        (&["bogus"], "unknown command \"bogus\" for \"pipelock\""),
        (&["--bogus"], "unknown flag: --bogus"),
    ];
    for (arguments, words) in cases {
        let (code, said) = said(arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(said.starts_with(words), "{arguments:?} said {said:?}");
    }
}

#[test]
fn tells_its_version_on_stderr_as_a_command_and_on_stdout_as_a_flag() {
    let output = |form| {
        Command::new(binary())
            .arg(form)
            .env_clear()
            .output()
            .unwrap()
    };
    let starts = |bytes: &[u8]| bytes.starts_with(b"pipelock version 2.3.0");
    let (command, flag) = (output("version"), output("--version"));
    assert!(command.status.success() && flag.status.success());
    assert!(starts(&command.stderr) && command.stdout.is_empty());
    assert!(starts(&flag.stdout) && flag.stderr.is_empty());
}
