//! The allowlists people have, through the real command: what comes out is what is kept beside
//! each sample, and a manifest that `check` accepts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use microvm::ScratchDir;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/imports")
}

fn run(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidecar-init"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_sample_becomes_the_manifest_that_is_kept_beside_it_and_check_accepts_it() {
    let mut names: Vec<String> = fs::read_dir(samples())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".manifest.yaml"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 11, "{names:?}");
    for name in names {
        let imported = run(&samples(), &["import", &name], "");
        assert_eq!(
            imported.status.code(),
            Some(0),
            "{name}: {}",
            text(&imported.stderr)
        );
        let manifest = text(&imported.stdout);
        let kept = samples().join(format!("{name}.manifest.yaml"));
        if std::env::var_os("SIDECAR_KEEP_IMPORTS").is_some() {
            fs::write(&kept, &manifest).unwrap();
        }
        assert_eq!(
            manifest,
            fs::read_to_string(&kept).unwrap_or_default(),
            "{name}: SIDECAR_KEEP_IMPORTS=1 keeps what comes out now"
        );
        let check = run(&samples(), &["check", "--strict", "-"], &manifest);
        assert_eq!(
            check.status.code(),
            Some(0),
            "{name}: {}",
            text(&check.stderr)
        );
        // A second time it is a manifest, and no list.
        let again = run(&samples(), &["import", "-"], &manifest);
        assert_eq!(again.status.code(), Some(65), "{name}");
    }
}

#[test]
fn several_files_make_one_manifest_whose_comments_name_them() {
    let scratch = ScratchDir::new().unwrap();
    fs::write(scratch.join("a.txt"), "a.example\nb.example:8443\n").unwrap();
    fs::write(scratch.join("b.json"), "[\"A.example\", \"c.example\"]\n").unwrap();
    let line = ["import", "a.txt", "-", "b.json", "--slug", "agent-7"];
    let imported = run(scratch.path(), &line, "d.example\n");
    assert_eq!(
        text(&imported.stdout),
        "# Imported from a list (a.txt).\n# Imported from a list (<stdin>).\n# Imported from a list (b.json).\n\
         # A host is allowed with all its ports, paths and methods.\nversion: 1\nslug: agent-7\nbottle:\n  egress:\n    \
         routes:\n      - host: a.example\n      # not carried over: the port \"8443\" (a.txt, line 2), because every port \
         of an allowed host is allowed\n      - host: b.example\n      - host: d.example\n      - host: c.example\n"
    );
    assert_eq!(
        text(&imported.stderr),
        "sidecar-init: 4 host(s) allowed; 1 not carried over or not whole, see the comments\n"
    );
}

#[test]
fn what_cannot_be_imported_is_said_with_its_exit_code_and_prints_no_manifest() {
    let scratch = ScratchDir::new().unwrap();
    fs::write(scratch.join("prose"), "Dear all,\nthe hosts are below.\n").unwrap();
    fs::write(scratch.join("list"), "a.example\n").unwrap();
    fs::write(scratch.join("nothing"), "\n").unwrap();
    let manifest = "slug: a\nbottle: {egress: {routes: [{host: a.example}]}}\n";
    fs::write(scratch.join("manifest.yaml"), manifest).unwrap();
    for (line, code, said) in [
        (&["import", "gone"][..], 66, "gone"),
        (&["import", "/dev/zero"], 66, "/dev/zero"),
        (
            &["import", "prose"],
            65,
            "prose: nothing in it is an allowlist that is known\nhint: looked for ",
        ),
        (
            &["import", "nothing"],
            65,
            "nothing: nothing in it is an allowlist that is known: it is empty\n",
        ),
        (
            &["import", "manifest.yaml"],
            65,
            "an allowlist that is known: it is a manifest already\nhint: sidecar-init check judges it",
        ),
        (
            &["import", "list", "--from", "openshell"],
            65,
            "list: nothing in it",
        ),
        (
            &["import", "list", "--slug", "A b"],
            64,
            "\"A b\" is not a slug",
        ),
        (&["import"], 64, "import needs a FILE"),
    ] {
        let output = run(scratch.path(), line, "");
        assert_eq!(output.status.code(), Some(code), "{line:?}");
        assert_eq!(text(&output.stdout), "", "{line:?}");
        assert!(
            text(&output.stderr).contains(said),
            "{line:?}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn check_of_a_list_says_that_import_makes_a_manifest_of_it() {
    let scratch = ScratchDir::new().unwrap();
    for (name, input, hint) in [
        ("list", "a.example\nb.example\n", "a list"),
        ("list.yaml", "- a.example\n", "a list"),
        (
            "squid.conf",
            "acl l dstdomain a.example\n",
            "a configuration of Squid",
        ),
        (
            "p.yaml",
            "api_allowlist: [a.example]\n",
            "a pipelock configuration",
        ),
    ] {
        fs::write(scratch.join(name), input).unwrap();
        let hint = format!("it looks like {hint}: sidecar-init import makes a manifest of it");
        let check = run(scratch.path(), &["check", name], "");
        assert_eq!(check.status.code(), Some(65), "{name}");
        let said = text(&check.stderr);
        assert!(said.contains(&format!("hint: {hint}\n")), "{name}: {said}");
        let check = run(scratch.path(), &["check", "--json", name], "");
        let said = text(&check.stdout);
        assert!(
            said.contains(&format!("\"hint\":\"{hint}\"")),
            "{name}: {said}"
        );
    }
    // What is meant for a manifest is told what is wrong with it, and nothing else.
    for input in [
        "slug: a\n",
        "slug: a\nbottle: {egress: {routes: [a.example]}}\n",
        "- a\n",
        "",
    ] {
        let check = run(scratch.path(), &["check", "-"], input);
        assert!(!text(&check.stderr).contains("import"), "{input}");
    }
}
