//! The unit for systemd: what systemd says of it, and whether it says what the program means.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use microvm::ScratchDir;
use sidecar_init::cli::{self, Command as Asked, Paths, RunOptions};
use sidecar_init::exit::ExitCode;

use crate::support::{init_program, skipped};

const UNIT: &str = include_str!("../../image/systemd/sidecar-init.service");
const INSTALLED: &str = "/usr/local/sbin/sidecar-init";

/// What follows `NAME=` in the unit, its continued lines put together.
fn setting(name: &str) -> String {
    let joined = UNIT.replace("\\\n", " ");
    let mut found = joined
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = found.next().expect(name);
    assert_eq!(found.next(), None, "{name} is there twice");
    value.to_owned()
}

/// What `systemd-analyze verify` says of a unit, nothing where nothing is wrong with it.
fn verified(unit: &str) -> String {
    let scratch = ScratchDir::new().unwrap();
    let file = scratch.join("sidecar-init.service");
    // Whether a program is there is judged, too.
    fs::write(&file, unit.replace(INSTALLED, init_program())).unwrap();
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Of units that this machine has.
    let of_ours = said.lines().filter(|line| line.contains("sidecar-init"));
    of_ours.collect::<Vec<_>>().join("\n")
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        skipped("the unit for systemd", "there is no systemd-analyze");
        return;
    }
    assert_eq!(verified(UNIT), "");
    // It looks.
    let wrong = UNIT.replace("WatchdogSec=30", "WatchdogSecond=30");
    assert!(verified(&wrong).contains("WatchdogSecond"));
}

#[test]
fn the_unit_gives_arguments_that_the_program_takes() {
    let words = |line: String| {
        let mut words = line
            .split_whitespace()
            .map(OsString::from)
            .collect::<Vec<_>>();
        assert_eq!(words.remove(0), INSTALLED);
        cli::parse(words).unwrap()
    };
    let started = Asked::Run(RunOptions {
        paths: Paths {
            daemon: "/usr/local/bin/pipelock".into(),
            ..Paths::default()
        },
        below_run_dir: true,
        ..RunOptions::default()
    });
    assert_eq!(words(setting("ExecStart")), started);
    let Asked::Control(reload) = words(setting("ExecReload")) else {
        unreachable!("it reloads");
    };
    assert_eq!(reload.run_dir, Paths::default().run_dir);
    // The directories that it takes are made before it starts.
    assert_eq!(setting("RuntimeDirectory"), "sidecar");
    assert_eq!(setting("StateDirectory"), "sidecar");
}

#[test]
fn the_unit_is_not_started_again_for_what_no_start_would_mend() {
    let never = [
        ExitCode::Usage,
        ExitCode::ManifestInvalid,
        ExitCode::ManifestMissing,
        ExitCode::CaUnusable,
        ExitCode::NotExecutable,
        ExitCode::NotFound,
    ];
    let never: Vec<String> = never.map(|code| code.number().to_string()).into();
    assert_eq!(setting("RestartPreventExitStatus"), never.join(" "));
}

#[test]
fn the_page_about_systemd_speaks_of_every_line_that_hardens() {
    let page = include_str!("../../docs/systemd.md");
    let lines = UNIT.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.split_once('=')).map(|it| it.0);
    let hardens = [
        "Private",
        "Protect",
        "Restrict",
        "SystemCall",
        "Memory",
        "Capability",
    ];
    let mut count = 0;
    for name in names.filter(|name| hardens.iter().any(|it| name.starts_with(it))) {
        assert!(page.contains(&format!("`{name}")), "{name}");
        count += 1;
    }
    assert!(count > 15, "{count}");
}
