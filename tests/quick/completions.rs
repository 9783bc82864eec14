//! What shells complete: made from `--help`, tried in a real bash, and no option offered to a
//! command that does not take it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use sidecar_init::cli;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn kept(file: &str) -> String {
    fs::read_to_string(root().join("completions").join(file)).unwrap()
}

/// What bash offers at the end of this line.
fn offered(line: &str) -> BTreeSet<String> {
    let script = r#"
        source completions/sidecar-init.bash
        read -ra COMP_WORDS <<<"$1"
        case $1 in *" ") COMP_WORDS+=("") ;; esac
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _sidecar_init
        [ ${#COMPREPLY[@]} = 0 ] || printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let bash = Command::new("bash")
        .args(["-euc", script, "bash", line])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(bash.status.success(), "{line}: {bash:?}");
    let out = String::from_utf8(bash.stdout).unwrap();
    out.lines().map(str::to_owned).collect()
}

#[test]
fn the_kept_completions_are_made_of_what_help_says() {
    for (shell, file) in [
        ("bash", "sidecar-init.bash"),
        ("zsh", "_sidecar-init"),
        ("fish", "sidecar-init.fish"),
    ] {
        let made = Command::new(root().join("scripts/completions"))
            .args([shell, env!("CARGO_BIN_EXE_sidecar-init")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let made = String::from_utf8(made.stdout).unwrap();
        assert_eq!(made, kept(file), "renew them: scripts/man --renew");
    }
}

#[test]
fn a_real_bash_completes_commands_options_values_and_files() {
    for (line, wanted) in [
        ("sidecar-init im", &["import"][..]),
        ("sidecar-init re", &["render", "resume", "reload"]),
        ("sidecar-init check --s", &["--strict"]),
        ("sidecar-init status --time", &["--timeout", "--timeline"]),
        (
            "sidecar-init import --from open",
            &["openshell", "opensandbox"],
        ),
        ("sidecar-init import --slug ", &[]),
        ("sidecar-init check Cargo.t", &["Cargo.toml"]),
        ("sidecar-init run --run-dir sr", &["src"]),
        ("sidecar-init check --manifest Cargo.t", &["Cargo.toml"]),
        ("sidecar-init --requ", &["--require-sandbox"]),
    ] {
        let wanted = wanted.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(offered(line), wanted, "{line}");
    }
}

#[test]
fn an_option_is_offered_to_the_commands_that_take_it() {
    let bash = kept("sidecar-init.bash");
    let commands = bash.split("local commands=\"").nth(1).unwrap();
    let commands: Vec<&str> = commands.split('"').next().unwrap().split(' ').collect();
    let options: BTreeSet<&str> = bash
        .lines()
        .skip(1)
        .flat_map(|line| line.split([' ', '"', ')']))
        .filter(|word| word.starts_with("--") && *word != "--")
        .filter(|word| !matches!(*word, "--help" | "--version"))
        .collect();
    assert!(
        commands.len() > 10 && options.len() > 10,
        "{commands:?} {options:?}"
    );
    for command in commands {
        let offered = offered(&format!("sidecar-init {command} --"));
        for option in &options {
            let takes_a_value = bash.contains(&format!("\n    {option}) "));
            let value = match *option {
                _ if !takes_a_value => None,
                "--from" => Some("list"),
                "--for" => Some("5m"),
                "--until" => Some("2030-01-31T18:00:00Z"),
                _ => Some("5"),
            };
            let words = [Some(command), Some(option), value].into_iter().flatten();
            let refused = match cli::parse(words.map(OsString::from)) {
                Ok(_) => false,
                Err(why) => why.to_string().contains("takes no --"),
            };
            assert_eq!(offered.contains(*option), !refused, "{command} {option}");
        }
    }
}

#[test]
fn the_other_shells_read_theirs_where_they_are_installed() {
    for (shell, arguments, file) in [
        ("zsh", &["-n"][..], "_sidecar-init"),
        ("fish", &["--no-execute"], "sidecar-init.fish"),
    ] {
        let path = root().join("completions").join(file);
        match Command::new(shell).args(arguments).arg(&path).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
            Err(_) => eprintln!("NOT CHECKED: completions for {shell}: it is not installed"),
        }
    }
}
