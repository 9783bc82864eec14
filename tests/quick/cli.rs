//! The commands as a person types them, and what they answer to bad input.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use microvm::ScratchDir;
use serde_json::Value;

const GOOD: &str = "version: 1\nslug: tried\nbottle: {egress: {routes: [{host: a.example}]}}\n";

fn init(arguments: &[&str]) -> Output {
    init_in(Path::new("/"), arguments, b"")
}

fn init_in(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidecar-init"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn prints_help_and_version() {
    let help = init(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(out(&help).starts_with("sidecar-init, PID 1 of the sidecar bundle"));
    let version = init(&["-V"]);
    assert_eq!(version.status.code(), Some(0));
    let version = out(&version);
    let lines: Vec<&str> = version.lines().collect();
    assert_eq!(
        lines[0],
        concat!("sidecar-init ", env!("CARGO_PKG_VERSION"))
    );
    // A test's build says nothing that it would have to be made anew for.
    assert_eq!(lines[1], "commit: unknown");
    assert!(lines[2].starts_with("build epoch: "), "{version}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn refuses_unknown_words_with_64_and_a_hint() {
    let output = init(&["rum"]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        err(&output),
        "sidecar-init: \"rum\" is not a command; did you mean run?\n\
         hint: sidecar-init --help lists commands and options\n"
    );
}

#[test]
fn what_is_passed_over_is_told_beside_what_is_wrong() {
    let manifest =
        "slug: dev\nbottle:\n  egress:\n    routes:\n    - hots: a.example\nnetwork: {dns: [x]}\n";
    let output = init_in(&std::env::temp_dir(), &["check", "-"], manifest.as_bytes());
    assert_eq!(output.status.code(), Some(65));
    let said = err(&output);
    assert!(
        said.contains("<stdin>:6: network.dns[0]: \"x\" is not an IP address"),
        "{said}"
    );
    let typo = "\nwarning: <stdin>:5: bottle.egress.routes[0].hots: not a key that is read here\nhint: did you mean \"host\"?";
    assert!(said.contains(typo), "{said}");
}

#[test]
fn what_check_has_to_say_is_to_be_had_as_one_object() {
    let scratch = ScratchDir::new().unwrap();
    let check = |text: &str, arguments: &[&str]| {
        fs::write(scratch.join("m.yaml"), text).unwrap();
        let line = [&["check", "m.yaml", "--json"], arguments].concat();
        let output = init_in(scratch.path(), &line, b"");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(out(&output).lines().count(), 1);
        (output, told)
    };
    let (output, told) = check(GOOD, &[]);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(
        (&told["file"], &told["valid"]),
        (&"m.yaml".into(), &true.into())
    );
    assert_eq!(told["errors"], serde_json::json!([]));

    let bad = "version: 1\nslug: dev\nbottle: {egress: {rotues: []}}\nnetwork:\n  dns: [x]\n  addres: x\n";
    let (output, told) = check(bad, &[]);
    assert_eq!(output.status.code(), Some(65), "{told}");
    assert_eq!(err(&output), "m.yaml: invalid, for 2 reason(s)\n");
    assert_eq!(
        (&told["valid"], &told["slug"]),
        (&false.into(), &serde_json::Value::Null)
    );
    let unknown = serde_json::json!({
        "line": 6, "column": 3, "field": "network.addres", "message": "unknown key",
        "hint": "did you mean \"address\"?",
    });
    assert_eq!(told["errors"][1], unknown, "{told}");
    let (_, told) = check(bad, &["--strict"]);
    assert_eq!(told["errors"][0]["field"], "bottle.egress.rotues");

    // And what is beside it.
    fs::create_dir(scratch.join("trust")).unwrap();
    fs::write(scratch.join("trust/a.pem"), "nothing").unwrap();
    let (output, told) = check(GOOD, &[]);
    assert_eq!(output.status.code(), Some(65), "{told}");
    assert_eq!(told["errors"][0]["field"], "trust");
}

/// The blocks of a section of docs/manifest.md.
fn blocks_of_the_page(section: &str) -> Vec<String> {
    let page = include_str!("../../docs/manifest.md");
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let parts = section.split("```").skip(1).step_by(2);
    parts
        .map(|block| block.split_once('\n').unwrap().1.to_owned())
        .collect()
}

#[test]
fn says_what_runs_beside_pipelock_in_which_order_with_which_rights() {
    let blocks = blocks_of_the_page("`daemons`");
    let [manifest, words, ..] = &blocks[..] else {
        panic!("{blocks:?}");
    };
    let manifest = format!("{GOOD}{manifest}");
    let answer = init_in(Path::new("/"), &["check", "-"], manifest.as_bytes());
    assert_eq!(
        out(&answer),
        format!("<stdin>: valid; slug tried, 1 host(s) allowed\n{words}")
    );
    let answer = init_in(
        Path::new("/"),
        &["check", "--json", "-"],
        manifest.as_bytes(),
    );
    let told: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    let egress = &told["daemons"][0];
    assert_eq!(egress["name"], "egress", "{told}");
    assert_eq!(egress["connect"], serde_json::json!([8888]), "{told}");
    assert_eq!(told["daemons"][1]["user"], 65532, "{told}");
    // Without any there is no such key, as there was none.
    let answer = init_in(Path::new("/"), &["check", "--json", "-"], GOOD.as_bytes());
    let told: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(told.get("daemons"), None, "{told}");
}

#[test]
fn the_bundles_that_are_shown_are_valid_and_nothing_is_to_be_said_of_them() {
    let page = include_str!("../../docs/bundle.md");
    let block = page.split("```yaml\n").nth(1).unwrap();
    let shown = block.split("```").next().unwrap();
    let example = include_str!("../../image/example/bundle.yaml");
    for (manifest, order) in [
        (shown, ["when pipelock is ready"; 3]),
        (
            example,
            [
                "when pipelock is ready",
                "when egress is ready",
                "when git-gate is ready",
            ],
        ),
    ] {
        let answer = init_in(
            Path::new("/"),
            &["check", "--strict", "-"],
            manifest.as_bytes(),
        );
        assert_eq!(answer.status.code(), Some(0), "{}", err(&answer));
        assert_eq!(err(&answer), "", "{manifest}");
        let said = out(&answer);
        for (name, when) in ["egress", "git-gate", "supervise"].iter().zip(order) {
            assert!(said.contains(&format!("  {name}, {when}:")), "{said}");
        }
        assert!(
            said.contains("listens on 8080 (the agent's proxy)"),
            "{said}"
        );
    }
}

#[test]
fn a_bundle_that_could_not_begin_is_refused_with_every_line_that_is_wrong() {
    let daemons =
        "daemons:\n  a: {exec: [a], after: [b]}\n  b: {exec: [/b], after: [a], listen: [80]}\n";
    let answer = init_in(
        Path::new("/"),
        &["check", "-"],
        format!("slug: tried\nbottle: {{}}\n{daemons}").as_bytes(),
    );
    assert_eq!(answer.status.code(), Some(65));
    let told = err(&answer);
    let wrong: Vec<&str> = told
        .lines()
        .filter(|line| !line.starts_with("hint: "))
        .collect();
    assert_eq!(
        wrong,
        [
            "<stdin>:4: daemons.a.exec[0]: \"a\" is not an absolute path",
            "<stdin>:4: daemons.a.after[0]: none of these could begin: a after b after a",
            "<stdin>:5: daemons.b.listen[0]: 80 is a privileged port, which a daemon may not bind: none is root",
        ]
    );
}

#[test]
fn what_is_wrong_with_the_roots_is_told_in_both_forms_whatever_is_wrong_with_the_manifest() {
    let scratch = ScratchDir::new().unwrap();
    fs::create_dir(scratch.join("trust")).unwrap();
    fs::write(scratch.join("m.yaml"), "slug: A\nbottle: {}\n").unwrap();
    for (file, text) in [("a.pem", "nothing"), ("README", "passed over")] {
        fs::write(scratch.join("trust").join(file), text).unwrap();
        let said = err(&init_in(scratch.path(), &["check", "m.yaml"], b""));
        let json = init_in(scratch.path(), &["check", "m.yaml", "--json"], b"");
        let told: Value = serde_json::from_slice(&json.stdout).unwrap();
        let of_roots = |list: &str| {
            let list = told[list].as_array().unwrap().iter();
            let mut roots = list.filter(|it| it["field"] == "trust");
            roots
                .next()
                .map(|it| it["message"].as_str().unwrap().to_owned())
        };
        let (error, warning) = (of_roots("errors"), of_roots("warnings"));
        assert_eq!(
            (error.is_some(), warning.is_some()),
            (file == "a.pem", file == "README")
        );
        let warning = warning.map(|warning| format!("warning: {warning}"));
        let line = error.or(warning).unwrap();
        assert!(
            said.contains("m.yaml:1: slug: \"A\" is not a slug"),
            "{said}"
        );
        assert!(said.contains(&format!("\n{line}\n")), "{said}");
        fs::remove_file(scratch.join("trust").join(file)).unwrap();
    }
}

#[test]
fn what_stands_instead_of_a_route_is_said_once() {
    let manifest = "slug: a\nbottle: {egress: {routes: [&x {host: a.example}, *x, [b]]}}\n";
    let said = err(&init_in(
        Path::new("/"),
        &["check", "-"],
        manifest.as_bytes(),
    ));
    assert!(
        said.contains("routes[1]: aliases") && said.contains("routes[2]: a list"),
        "{said}"
    );
    assert!(!said.contains("passed over"), "{said}");
}

#[test]
fn checks_a_manifest_from_a_file_and_from_standard_input() {
    let scratch = ScratchDir::new().unwrap();
    fs::write(scratch.join("m.yaml"), GOOD).unwrap();
    let file = init_in(scratch.path(), &["check", "--manifest", "m.yaml"], b"");
    assert_eq!(
        (file.status.code(), out(&file).as_str()),
        (Some(0), "m.yaml: valid; slug tried, 1 host(s) allowed\n")
    );
    let piped = init_in(
        scratch.path(),
        &["check", "--manifest", "-"],
        GOOD.as_bytes(),
    );
    assert_eq!(
        out(&piped),
        "<stdin>: valid; slug tried, 1 host(s) allowed\n"
    );
}

#[test]
fn reports_every_mistake_at_once_with_line_and_hint_and_exits_65() {
    let manifest = "version: 1\nslug: dev\nbottle:\n  egress:\n    routes:\n      - host: https://pypi.example/simple\nnetwork:\n  internal_cdr: 10.0.0.0/24\n";
    let output = init_in(
        Path::new("/"),
        &["check", "--manifest", "-"],
        manifest.as_bytes(),
    );
    assert_eq!(output.status.code(), Some(65));
    assert_eq!(
        err(&output),
        "<stdin>:6: bottle.egress.routes[0].host: \"https://pypi.example/simple\" is not a host name: it is a URL\n\
         hint: write \"pypi.example\"\n\
         <stdin>:8: network.internal_cdr: unknown key\n\
         hint: did you mean \"internal_cidr\"?\n"
    );
}

#[test]
fn reports_a_hundred_mistakes_and_counts_the_rest_once() {
    let manifest = |bad: usize| {
        let routes = "{host: 'a b'},".repeat(bad);
        format!("slug: tried\nbottle: {{egress: {{routes: [{routes}]}}}}\n")
    };
    for (bad, last) in [
        (
            100,
            "<stdin>:2: bottle.egress.routes[99].host: \"a b\" is not a host name: it has a space",
        ),
        (101, "<stdin>: … and 1 more"),
        (250, "<stdin>: … and 150 more"),
    ] {
        let answer = init_in(
            Path::new("/"),
            &["check", "--manifest", "-"],
            manifest(bad).as_bytes(),
        );
        assert_eq!(answer.status.code(), Some(65));
        let told = err(&answer);
        assert_eq!(told.lines().count(), bad.min(101), "{told}");
        assert_eq!(told.lines().last(), Some(last));
    }
}

#[test]
fn takes_unknown_keys_of_the_bottle_for_errors_only_when_strict() {
    let manifest = "version: 1\nslug: dev\nbottle: {colour: green}\n";
    let lenient = init_in(
        Path::new("/"),
        &["check", "--manifest", "-"],
        manifest.as_bytes(),
    );
    assert_eq!(lenient.status.code(), Some(0), "{}", err(&lenient));
    assert!(
        out(&lenient).starts_with("warning: <stdin>:3: bottle.colour"),
        "{}",
        out(&lenient)
    );
    let strict = init_in(
        Path::new("/"),
        &["check", "--strict", "--manifest", "-"],
        manifest.as_bytes(),
    );
    assert_eq!(strict.status.code(), Some(65));
}

#[test]
fn notes_what_known_hosts_would_meet_and_fails_nothing_for_it() {
    let manifest =
        "version: 1\nslug: dev\nbottle:\n  egress:\n    routes:\n      - host: pypi.org\n";
    let wanted = "note: <stdin>:6: bottle.egress.routes[0].host: \"pypi.org\" serves packages: scanned, what it \
                  sends takes seconds a megabyte and is refused above 5 MiB; more than 60 requests a minute are \
                  refused\n\
                  hint: under pipelock: write passthrough: [pypi.org] and write requests_per_minute: 600; what is \
                  passed through is not scanned\n\
                  note: <stdin>:6: bottle.egress.routes[0].host: \"pypi.org\" is allowed without \
                  files.pythonhosted.org, where pip and uv fetch every file\n\
                  hint: add below bottle.egress.routes: - host: files.pythonhosted.org\n\
                  <stdin>: valid; slug dev, 1 host(s) allowed\n";
    for arguments in [
        &["check", "--manifest", "-"][..],
        &["check", "--strict", "--manifest", "-"],
    ] {
        let output = init_in(Path::new("/"), arguments, manifest.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert_eq!(out(&output), wanted);
    }
    // A start says how many there are, and does not call them warnings.
    let (output, result) = Laptop::new(manifest).run(&[]);
    let console = err(&output);
    let told: Vec<&str> = console
        .lines()
        .filter(|line| line.contains("note"))
        .collect();
    assert_eq!(told.len(), 1, "{console}");
    assert!(
        told[0].ends_with(
            "2 note(s) about the manifest: sidecar-init check --manifest FILE prints them"
        ),
        "{console}"
    );
    let warnings = result["warnings"].to_string();
    assert!(!warnings.contains("m.yaml"), "{warnings}");
}

#[test]
fn renders_with_the_usual_paths_and_exits_66_where_there_is_nothing_to_render() {
    let rendered = init_in(
        Path::new("/"),
        &["render", "--manifest", "-"],
        GOOD.as_bytes(),
    );
    let text = out(&rendered);
    assert!(
        text.starts_with(
            "version: 1\nmode: strict\nenforce: true\n\napi_allowlist:\n  - \"a.example\"\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("  ca_key: \"/etc/pipelock-ca-key.pem\"\n"),
        "{text}"
    );
    let missing = init(&["render", "--manifest", "/nowhere/manifest.yaml"]);
    assert_eq!(missing.status.code(), Some(66));
    assert_eq!(
        err(&missing),
        "sidecar-init: cannot read /nowhere/manifest.yaml: No such file or directory\n"
    );
}

#[test]
fn generates_a_ca_then_checks_it_then_refuses_half_of_it() {
    let scratch = ScratchDir::new().unwrap();
    let ca = |words: &[&str]| {
        let arguments = [&["ca", "--cert", "ca.pem", "--key", "key.pem"], words].concat();
        init_in(scratch.path(), &arguments, b"")
    };
    let made = ca(&[]);
    assert!(
        out(&made).starts_with("generated: O=Pipelock, CN=Pipelock CA, SHA-256 "),
        "{}",
        err(&made)
    );
    let permissions = |name: &str| {
        fs::metadata(scratch.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        (permissions("ca.pem"), permissions("key.pem")),
        (0o644, 0o600)
    );
    let checked = ca(&[]);
    assert_eq!(
        out(&checked).replace("usable:", "generated:"),
        out(&made),
        "the same pair is kept"
    );
    fs::remove_file(scratch.join("key.pem")).unwrap();
    let half = ca(&[]);
    assert_eq!(half.status.code(), Some(78));
    assert!(
        err(&half).contains("cannot use half a CA pair: ca.pem is there and key.pem is not"),
        "{}",
        err(&half)
    );
}

/// A run directory, a manifest and where everything goes; nothing listens on port 1.
struct Laptop(ScratchDir);

impl Laptop {
    fn new(manifest: &str) -> Self {
        let scratch = ScratchDir::new().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(scratch.join("m.yaml"), manifest).unwrap();
        Self(scratch)
    }

    fn run(&self, more: &[&str]) -> (Output, Value) {
        let usual = [
            "run",
            "--manifest",
            "m.yaml",
            "--run-dir",
            "run",
            "--cert",
            "ca.pem",
            "--key",
            "key.pem",
            "--daemon",
            "/bin/false",
        ];
        let output = init_in(self.0.path(), &[&usual, more].concat(), b"");
        let console = err(&output);
        let last = console.lines().last().unwrap();
        let json = last.strip_prefix("sidecar-init: result ").expect(&console);
        (output, serde_json::from_str(json).unwrap())
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .expect("openssl is needed for this test");
        assert!(output.status.success(), "{}", err(&output));
    }
}

/// The failure as the console, the exit code and the status tell it.
#[track_caller]
fn assert_failed(run: &(Output, Value), laptop: &Laptop, stage: &str, code: i32, says: &str) {
    let (output, result) = run;
    assert_eq!(output.status.code(), Some(code), "{result}");
    assert_eq!(result["exit_code"], code);
    assert_eq!(result["outcome"], format!("failed at {stage}"), "{result}");
    let error = result["error"].as_str().unwrap();
    assert!(error.contains(says), "{error}");
    let status = fs::read(laptop.0.join("run/status.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&status).unwrap(), *result);
    let half_written = fs::read_dir(laptop.0.join("run")).unwrap().any(|entry| {
        entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .ends_with(".new")
    });
    assert!(!half_written);
}

#[test]
fn ends_with_the_code_and_the_stage_of_what_is_wrong() {
    let laptop = Laptop::new("version: 1\nslug: Upper\nbottle: {}\n");
    assert_failed(&laptop.run(&[]), &laptop, "manifest", 65, "m.yaml:2: slug");

    let laptop = Laptop::new(GOOD);
    assert_failed(
        &laptop.run(&["--manifest", "none.yaml"]),
        &laptop,
        "manifest",
        66,
        "none.yaml: No such file",
    );
    assert_failed(
        &laptop.run(&["--daemon", "/nowhere"]),
        &laptop,
        "spawn",
        127,
        "cannot execute /nowhere: No such file",
    );
    assert_failed(
        &laptop.run(&["--daemon", "/etc/passwd"]),
        &laptop,
        "spawn",
        126,
        "cannot execute /etc/passwd: Permission denied",
    );
    assert_failed(
        &laptop.run(&[]),
        &laptop,
        "ready",
        69,
        "giving up after repeated failures: pipelock exited with code 1",
    );
}

#[test]
fn stops_at_a_ca_pair_that_pipelock_could_not_use_and_never_overwrites_it() {
    let laptop = Laptop::new(GOOD);
    laptop.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pkcs8.pem -out ca.pem -subj /CN=own -addext keyUsage=critical,keyCertSign");
    assert_failed(&laptop.run(&[]), &laptop, "ca", 78, "key.pem is not");

    fs::copy(laptop.0.join("pkcs8.pem"), laptop.0.join("key.pem")).unwrap();
    fs::set_permissions(laptop.0.join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_failed(&laptop.run(&[]), &laptop, "ca", 78, "its mode is 0644");

    // As root the daemon is somebody else, who has to be able to read the key.
    let owner = if nix::unistd::geteuid().is_root() {
        65534
    } else {
        nix::unistd::geteuid().as_raw()
    };
    fs::set_permissions(laptop.0.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(laptop.0.join("key.pem"), Some(owner), None).unwrap();
    assert_failed(&laptop.run(&[]), &laptop, "ca", 78, "PKCS#8");

    laptop.openssl("ecparam -name prime256v1 -genkey -noout -out key.pem");
    assert_failed(
        &laptop.run(&[]),
        &laptop,
        "ca",
        78,
        "the key does not match the certificate",
    );

    let before = fs::read(laptop.0.join("key.pem")).unwrap();
    laptop.openssl("ec -in pkcs8.pem -out key.pem");
    let usable = fs::read(laptop.0.join("key.pem")).unwrap();
    assert_ne!(before, usable);
    assert_failed(&laptop.run(&[]), &laptop, "ready", 69, "exited with code 1");
    assert_eq!(fs::read(laptop.0.join("key.pem")).unwrap(), usable);
}

#[test]
fn says_what_cannot_be_written() {
    let laptop = Laptop::new(GOOD);
    fs::write(laptop.0.join("file"), "").unwrap();
    let (output, result) = laptop.run(&["--run-dir", "file"]);
    assert_eq!(output.status.code(), Some(73), "{result}");
    assert_eq!(result["outcome"], "failed at mounts");
    let (output, result) = laptop.run(&["--cert", "nowhere/ca.pem"]);
    assert_eq!(output.status.code(), Some(73), "{result}");
    assert_eq!(result["outcome"], "failed at ca");
}

#[test]
fn replaces_what_an_earlier_boot_left_in_the_export() {
    let laptop = Laptop::new("nothing: good\n");
    fs::create_dir_all(laptop.0.join("run/export")).unwrap();
    fs::write(
        laptop.0.join("run/export/pipelock-ca.pem"),
        "an old certificate",
    )
    .unwrap();
    let run = laptop.run(&[]);
    assert_failed(&run, &laptop, "manifest", 65, "m.yaml");
    assert!(!laptop.0.join("run/export/pipelock-ca.pem").exists());
    let exported: Value =
        serde_json::from_slice(&fs::read(laptop.0.join("run/export/status.json")).unwrap())
            .unwrap();
    assert_eq!(exported, run.1);
}

#[test]
fn tells_a_probe_and_a_person_that_nothing_runs() {
    let probe = init(&["healthcheck", "--run-dir", "/nowhere"]);
    assert_eq!(probe.status.code(), Some(1));
    let person = init(&["status", "--run-dir", "/nowhere"]);
    assert_eq!(person.status.code(), Some(69));
    assert!(
        err(&person).contains("hint: no sidecar-init runs with this run directory"),
        "{}",
        err(&person)
    );
}

#[test]
fn the_man_page_says_what_help_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(root.join("scripts/man"))
        .arg(env!("CARGO_BIN_EXE_sidecar-init"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let page = fs::read_to_string(root.join("docs/sidecar-init.1")).unwrap();
    assert_eq!(
        String::from_utf8(made.stdout).unwrap(),
        page,
        "renew it: scripts/man --renew"
    );
    for word in [
        "\\-\\-svg FILE",
        "NOTIFY_SOCKET",
        "USR1",
        "\n.SH EXIT CODES\n",
    ] {
        assert!(page.contains(word), "{word}");
    }
}

#[test]
fn the_documentation_has_the_variables_and_exit_codes_of_help() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let help = out(&init(&["--help"]));
    for (section, name) in [("environment", "SIDECAR_LOG"), ("exit codes", "126")] {
        let made = Command::new(root.join("scripts/man"))
            .args(["--table", section, env!("CARGO_BIN_EXE_sidecar-init")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let table = String::from_utf8(made.stdout).unwrap();
        assert!(table.contains(name), "{table}");
        let marked = format!("<!-- made by scripts/man: {section} -->\n{table}\n");
        assert!(
            document.contains(&marked),
            "docs/operations.md has another table\nhint: scripts/man --renew\n{table}"
        );
        // A row for each entry: none was lost on the way.
        let entries = help
            .lines()
            .skip_while(|line| *line != format!("{section}:"))
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter(|line| !line.starts_with("   "));
        assert_eq!(table.lines().count() - 2, entries.count(), "{table}");
    }
}
