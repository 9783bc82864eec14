//! Every command of the operator's day, by exec in a container and from the host on its export:
//! each works there, or says why it cannot.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::ENGINES;
use crate::support::init_program;
use crate::support::podman::{Engine, IMAGE, engine_of};
use crate::support::said::both;

const NAME: &str = "day";
const INSIDE: &str = "/sbin/sidecar-init";
const MANIFEST: &str = "bottle: {egress: {routes: [{host: a.example}]}}\n";
const READY: &str = "ready; what is not allowed is refused";
const HALTED: &str = "halted; nothing gets through until it is resumed";
/// Of the commands that signal, on an export.
const NOBODY: &str = "give --run-dir the run directory itself";

/// What is asked, its code, and words of its answer.
type Row = (&'static str, i32, &'static str);

/// As it is typed behind `docker exec`.
const BY_EXEC: [Row; 22] = [
    ("check", 0, ""),
    ("check --json", 0, ""),
    ("render", 0, "api_allowlist"),
    ("import -", 0, "- host: listed.example"),
    ("status", 0, "1 × refused.example: not in the allowlist"),
    ("status", 0, "sidecar-init grant refused.example"),
    ("status --check", 0, READY),
    ("status --json", 0, "\"state\":\"ready\""),
    ("status --wait-generation 1", 0, READY),
    ("healthcheck", 0, ""),
    ("grant g.example --dry-run", 0, "+"),
    (
        "grant g.example --for 30m",
        0,
        "granted: g.example, ends in",
    ),
    ("status", 0, "granted      g.example, ends in"),
    ("grant --revoke g.example", 0, "g.example was revoked at"),
    ("halt", 0, HALTED),
    ("status --check", 1, HALTED),
    ("healthcheck", 1, "halted"),
    ("resume", 0, READY),
    ("reload", 0, "the manifest asks for the same as before"),
    ("status --check", 0, READY),
    ("watch", 124, "refused   1 × refused.example"),
    ("watch --json", 124, "\"event\":\"refused\""),
];

/// As it is typed on the host, beside the two directories.
const ON_THE_EXPORT: [Row; 15] = [
    ("check sidecar/manifest.yaml", 0, ""),
    (
        "status --run-dir export",
        0,
        "1 × refused.example: not in the allowlist",
    ),
    ("status --check --run-dir export", 0, READY),
    ("status --wait-generation 1 --run-dir export", 0, READY),
    ("healthcheck --run-dir export", 0, ""),
    (
        "grant g.example --dry-run --manifest sidecar/manifest.yaml --export export",
        0,
        "+",
    ),
    (
        "grant g.example --for 30m --manifest sidecar/manifest.yaml --export export",
        0,
        "granted: g.example, ends in",
    ),
    (
        "grant --revoke g.example --manifest sidecar/manifest.yaml --export export",
        0,
        "g.example was revoked at",
    ),
    (
        "watch --run-dir export",
        124,
        "refused   1 × refused.example",
    ),
    (
        "watch --json --run-dir export",
        124,
        "\"event\":\"refused\"",
    ),
    ("halt --run-dir export", 69, NOBODY),
    ("resume --run-dir export", 69, NOBODY),
    ("reload --run-dir export", 69, NOBODY),
    ("stop --run-dir export", 69, NOBODY),
    ("status --check --run-dir export", 0, READY),
];

/// So long somebody watches.
const WATCHED: &[&str] = &["timeout", "2"];

fn asked(mut command: Command) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"listed.example\n");
    child.wait_with_output().unwrap()
}

fn by_exec(engine: &Engine, line: &str) -> Output {
    let words: Vec<&str> = line.split(' ').collect();
    // Who listens to what is typed may miss the end of what is printed.
    let typed: &[&str] = match words.first() {
        Some(&"import") => &["--interactive"],
        _ => &[],
    };
    let exec = [&[engine.program, "exec"], typed, &[NAME, INSIDE]].concat();
    let all = match words.first() {
        Some(&"watch") => [WATCHED, exec.as_slice()].concat(),
        _ => exec,
    };
    let mut command = engine.command(all[0]);
    command.args(&all[1..]).args(words);
    asked(command)
}

fn on_the_host(directory: &Path, line: &str) -> Output {
    let program = init_program();
    let words: Vec<&str> = line.split(' ').collect();
    let all = match words.first() {
        Some(&"watch") => [WATCHED, &[program]].concat(),
        _ => vec![program],
    };
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).args(words).current_dir(directory);
    asked(command)
}

/// Those rows whose answer is another.
fn others(rows: &[Row], ask: impl Fn(&str) -> Output) -> Vec<String> {
    let mut others = Vec::new();
    for (line, code, words) in rows {
        let output = ask(line);
        let said = both(&output);
        if output.status.code() != Some(*code) || !said.contains(words) {
            others.push(format!("{line}: {}: {said}", output.status));
        }
    }
    others
}

fn begin(engine: &Engine, mode: &str) -> std::path::PathBuf {
    let bottle = engine.bottle(NAME, MANIFEST);
    let manifest = format!("{}:/etc/sidecar:{mode}", bottle.join("sidecar").display());
    let export = format!("{}:/run/sidecar/export", bottle.join("export").display());
    engine.run(&[
        "run",
        "--detach",
        "--network=host",
        "--name",
        NAME,
        "--volume",
        &manifest,
        "--volume",
        &export,
        IMAGE,
    ]);
    engine.wait_healthy(NAME);
    bottle
}

fn assert_the_day_works(engine: &Engine) {
    let bottle = begin(engine, "rw");
    let refused = "curl -s -o refused -x http://127.0.0.1:8888 http://refused.example/";
    engine.shell(&bottle, refused);
    engine.wait_until(NAME, "it is told", || {
        let said = both(&by_exec(engine, "status"));
        said.contains("refused.example").then_some(())
    });
    let others_inside = others(&BY_EXEC, |line| by_exec(engine, line));
    assert!(others_inside.is_empty(), "{others_inside:#?}");
    let others_outside = others(&ON_THE_EXPORT, |line| on_the_host(&bottle, line));
    assert!(others_outside.is_empty(), "{others_outside:#?}");
    let stopped = by_exec(engine, "stop");
    // Whoever asks inside is ended like everything else there: by the init, or with it.
    let ended = [Some(0), Some(137), Some(143)].contains(&stopped.status.code());
    assert!(ended, "{stopped:?}");
    assert_eq!(engine.wait_end(NAME), 0, "{}", engine.logs(NAME));
    engine.run(&["rm", "--force", NAME]);

    // Where the manifest cannot be written it is said, and nothing is changed.
    let bottle = begin(engine, "ro");
    let before = std::fs::read(bottle.join("sidecar/manifest.yaml")).unwrap();
    let output = by_exec(engine, "grant g.example --for 30m");
    let said = both(&output);
    assert_eq!(output.status.code(), Some(73), "{said}");
    assert!(
        said.to_lowercase().contains("read-only file system"),
        "{said}"
    );
    assert!(said.contains("hint: "), "{said}");
    let after = std::fs::read(bottle.join("sidecar/manifest.yaml")).unwrap();
    assert_eq!(before, after);
    engine.run(&["rm", "--force", NAME]);
}

#[test]
fn the_operators_day_works_by_exec_and_on_the_export_or_says_why_not() {
    for program in ENGINES {
        if let Some(engine) = engine_of(program) {
            assert_the_day_works(&engine);
        }
    }
}
