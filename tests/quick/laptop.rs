//! A sidecar that somebody starts by hand, in one line: what it makes for itself, what it says
//! to a person, and what comes of the lines that it gives to paste.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use microvm::ScratchDir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Bed, Console, Init, Place, init_program, own_address, pipelock};

/// Behind this come the lines to paste.
const INVITATION: &str =
    "sidecar-init: paste this into another shell, and what it starts goes through pipelock:\n";

/// A bottle with this, listening where no other test does.
fn laptop(bottle: &str, run_dir: &str) -> Bed {
    let bed = Bed::new().in_one_line(run_dir);
    let manifest = format!(
        "slug: laptop\nbottle: {bottle}\npipelock: {{listen: \"{}\"}}\n",
        bed.address
    );
    fs::write(bed.manifest(), manifest).unwrap();
    bed
}

/// The lines to paste, once they are there.
fn invited(init: &mut Init) -> String {
    init.wait_until("it says what to paste", |init| {
        let console = init.console().replace('\r', "");
        let (_, after) = console.split_once(INVITATION)?;
        let is_theirs = |line: &&str| line.starts_with("  ");
        let lines: Vec<&str> = after.lines().take_while(is_theirs).collect();
        (lines.len() == 2 && after.contains(lines[1])).then(|| lines.join("\n"))
    })
}

/// Pasted into a shell that has nothing of this one: what curl says of it.
fn pasted(lines: &str, place: &Path) -> String {
    let output = Command::new("sh")
        .args(["-c", lines])
        .current_dir(place)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_manifest_that_would_be_overwritten_is_refused_before_anything_is_touched() {
    for (name, link) in [
        ("pipelock.yaml", None),
        ("status.json", None),
        ("denials.json", None),
        ("lock", None),
        ("export/status.json", None),
        ("credentials/manifest.yaml", None),
        ("report.json", Some("link.yaml")),
    ] {
        let mut bed = Bed::new();
        let (run, manifest) = (bed.path("run"), bed.path("run").join(name));
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        fs::rename(bed.manifest(), &manifest).unwrap();
        let text = fs::read_to_string(&manifest).unwrap();
        let mut named = manifest.clone();
        if let Some(link) = link {
            named = bed.path(link);
            std::os::unix::fs::symlink(&manifest, &named).unwrap();
        }
        bed = bed.with_argument(&format!("--manifest={}", named.display()));
        let end = bed.start(Place::Child).without_status().wait_end();
        let said = end.console_text();
        assert_eq!(end.code, 64, "{name}: {said}");
        let words = "sidecar-init has files of its own there";
        assert!(said.contains(words), "{name}: {said}");
        assert_eq!(fs::read_to_string(&manifest).unwrap(), text, "{name}");
        // Nothing else came, on any level.
        assert_eq!(fs::read_dir(&run).unwrap().count(), 1, "{name}");
        let inner = fs::read_dir(manifest.parent().unwrap()).unwrap();
        assert_eq!(inner.count(), 1, "{name}");
    }
    // What is the host's beside it would be erased as well.
    let bed = Bed::new();
    fs::create_dir_all(bed.path("run/credentials/a")).unwrap();
    fs::write(bed.path("run/credentials/a/key"), "secret").unwrap();
    fs::rename(bed.manifest(), bed.path("run/manifest.yaml")).unwrap();
    let named = format!("--manifest={}", bed.path("run/manifest.yaml").display());
    let end = bed
        .with_argument(&named)
        .start(Place::Child)
        .without_status()
        .wait_end();
    assert_eq!(end.code, 64, "{}", end.console_text());
    assert!(end.bed.path("run/credentials/a/key").exists());
    // And any other name in the run directory is nobody's.
    fs::remove_dir_all(end.bed.path("run/credentials")).unwrap();
    let bed = Bed::new();
    fs::create_dir(bed.path("run")).unwrap();
    fs::rename(bed.manifest(), bed.path("run/manifest.yaml")).unwrap();
    let named = format!("--manifest={}", bed.path("run/manifest.yaml").display());
    let mut init = bed.with_argument(&named).start(Place::Child);
    init.wait_ready();
    assert_eq!(init.stop().0.code, 0);
}

#[test]
fn one_line_makes_what_it_needs_and_says_what_to_paste() {
    // A name that means something to a shell is no other case.
    for run_dir in ["run", "my $run's", "a\u{1b}[31m\nb"] {
        let bed = laptop("{}", run_dir);
        pipelock::copy_into(&bed.path(""));
        let mut init = bed.start(Place::Child);
        let lines = invited(&mut init);
        assert!(!lines.contains('\u{1b}'), "{lines:?}");
        assert!(lines.ends_with("\n  curl https://example.com/"), "{lines}");
        let refused = pasted(&lines, Path::new("/"));
        assert!(refused.contains("403"), "{lines}\n{refused}");
        let run = init.bed.path(run_dir);
        for name in ["ca.pem", "ca-key.pem", "export/pipelock-ca.pem"] {
            assert!(run.join(name).exists(), "{name}");
        }
        // No word of a place where nobody mounts it.
        for name in ["client.env", "for-agents.md"] {
            let text = fs::read_to_string(run.join("export").join(name)).unwrap();
            assert!(!text.contains("/run/sidecar-export"), "{name}: {text}");
        }
        let bundle = fs::read_to_string(run.join("export/ca-bundle.pem")).unwrap();
        let ca = fs::read_to_string(run.join("ca.pem")).unwrap();
        assert!(bundle.contains(ca.trim()), "it is the one that is served");
        init.signal(Signal::SIGTERM);
        let _ = init.without_status().wait_end();
    }
}

#[test]
fn a_second_run_in_the_same_directory_keeps_its_ca_and_names_an_allowed_host() {
    let mut bed = laptop(
        "{egress: {routes: [{host: \"*.b.example\"}, {host: c.example}]}}",
        "run",
    );
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut init = bed.start(Place::Child);
        let status = init.wait_ready();
        seen.push(status["ca"]["fingerprint_sha256"].clone());
        assert!(invited(&mut init).ends_with("  curl https://c.example/"));
        bed = init.stop().0.bed;
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].is_string(), "{seen:?}");
}

#[test]
fn a_laptop_that_listens_everywhere_is_warned_for_as_long_as_it_does() {
    let mut init = laptop("{}", "run").start(Place::Child);
    let status = init.wait_ready();
    let port = {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        free.local_addr().unwrap().port()
    };
    let is_warned = |status: &Value| {
        let warnings = status["warnings"].as_array().unwrap();
        let is_it = |it: &Value| it.as_str().unwrap().contains("whoever reaches this host");
        warnings.iter().any(is_it)
    };
    assert!(!is_warned(&status));
    let before = fs::read_to_string(init.bed.manifest()).unwrap();
    let everywhere = before.replace(&init.bed.address, &format!("0.0.0.0:{port}"));
    init.bed.replace_manifest(&everywhere);
    init.wait_for("it is warned", |status| {
        status["config"]["applied_generation"] == 2 && is_warned(status)
    });
    init.bed.replace_manifest(&before);
    init.wait_for("it is warned no more", |status| {
        status["config"]["applied_generation"] == 3 && !is_warned(status)
    });
}

#[test]
fn whoever_names_a_file_of_the_pair_is_told_nothing_to_paste_and_given_no_export() {
    let mut init = Bed::new().start(Place::Child);
    init.wait_ready();
    let (end, _) = init.stop();
    assert!(
        !end.console_text().contains("paste this"),
        "{}",
        end.console_text()
    );
    assert!(!end.bed.path("run/export").exists());
}

#[test]
fn is_warned_of_a_port_that_others_reach_too() {
    let bed = Bed::new().in_one_line("run");
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let manifest =
        format!("slug: laptop\nbottle: {{}}\npipelock: {{listen: \"0.0.0.0:{port}\"}}\n");
    fs::write(bed.manifest(), manifest).unwrap();
    let mut init = bed.start(Place::Child);
    invited(&mut init);
    let environment = fs::read_to_string(init.bed.path("run/export/client.env")).unwrap();
    let proxy = format!("HTTPS_PROXY=http://127.0.0.1:{port}\n");
    assert!(environment.contains(&proxy), "{environment}");
    let warning =
        format!("pipelock.listen: 127.0.0.1:{port} into the manifest, which keeps it to this host");
    assert!(init.console().contains(&warning), "{}", init.console());
}

#[test]
fn a_directory_of_somebodys_that_has_the_locks_name_is_left_where_it_is() {
    let bed = laptop("{}", "run");
    fs::create_dir_all(bed.path("run/lock/theirs")).unwrap();
    let end = bed.start(Place::Child).without_status().wait_end();
    let console = end.console_text();
    assert_eq!(end.code, 73, "{console}");
    assert!(
        console.contains("run/lock: it is a directory, and there is something in it\n")
            && console.contains("hint: name a directory of its own with --run-dir"),
        "{console}"
    );
    assert!(end.bed.path("run/lock/theirs").exists());
}

#[test]
fn a_person_reads_a_sentence_at_the_end_and_whoever_asks_for_it_json() {
    let mut init = laptop("{}", "run").start_on(Place::Child, Console::Person);
    invited(&mut init);
    init.signal(Signal::SIGINT);
    let (code, shown) = init.wait_end_in_words();
    assert_eq!(code, 0);
    let last = "\nsidecar-init: stopped, as it was asked to; nothing gets through\n";
    assert!(shown.ends_with(last), "{shown}");
    assert!(!shown.contains("result {"), "{shown}");
    // A terminal that another program reads.
    let mut init = laptop("{}", "run").start_on(Place::Child, Console::Terminal);
    invited(&mut init);
    let (end, _) = init.stop();
    assert_eq!(end.result["state"], "stopped");
}

#[test]
fn a_person_reads_what_could_not_be_and_where_more_of_it_is() {
    let bed = laptop("{}", "run");
    fs::remove_file(bed.path("pipelock")).unwrap();
    let report = bed.path("run/report.json");
    let init = bed.start_on(Place::Child, Console::Person);
    let (code, shown) = init.wait_end_in_words();
    assert_eq!(code, 127);
    let last = format!(
        "\nsidecar-init: ended at the stage spawn, with code 127: the daemon is not there; nothing gets through. \
         All that is known is in {}\n",
        report.display()
    );
    assert!(shown.ends_with(&last), "{shown}");
    assert!(shown.contains("sidecar-init: error: giving up"), "{shown}");
}

#[test]
fn says_who_has_the_port_and_how_to_choose_another() {
    for console in [Console::Person, Console::Read] {
        let bed = laptop("{}", "run");
        let _taken = TcpListener::bind(&bed.address).unwrap();
        let hint = format!(
            "hint: {} is another's: pid {} (",
            bed.address,
            std::process::id()
        );
        let choice = "end that, or have pipelock listen elsewhere: the manifest's pipelock.listen";
        let init = bed.start_on(Place::Child, console);
        let said = if console == Console::Person {
            init.wait_end_in_words().1
        } else {
            init.wait_end().error().to_owned()
        };
        assert!(said.contains(&hint), "{said}");
        assert!(said.contains(choice), "{said}");
    }
}

#[test]
fn who_has_no_manifest_is_given_the_smallest_and_it_is_one() {
    if Path::new("/etc/sidecar/manifest.yaml").exists() {
        crate::support::skipped("a laptop without a manifest", "this machine has one");
        return;
    }
    let scratch = ScratchDir::new().unwrap();
    // What an agent may have written where the command is given is not taken for it.
    fs::write(scratch.join("manifest.yaml"), "slug: agent\nbottle: {}\n").unwrap();
    let run = |more: &[&str]| {
        Command::new(init_program())
            .args(["run", "--run-dir", "run", "--daemon", "/bin/false"])
            .args(more)
            .current_dir(scratch.path())
            .output()
            .unwrap()
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(66));
    let console = String::from_utf8(output.stderr).unwrap();
    let result = console.lines().last().unwrap();
    let result: Value =
        serde_json::from_str(result.strip_prefix("sidecar-init: result ").unwrap()).unwrap();
    let error = result["error"].as_str().unwrap();
    assert!(
        error.contains("hint: name one with --manifest FILE"),
        "{error}"
    );
    let smallest: Vec<&str> = error
        .lines()
        .filter_map(|it| it.strip_prefix("  "))
        .collect();
    assert_eq!(smallest.len(), 3, "{error}");
    fs::write(scratch.join("mine.yaml"), smallest.join("\n")).unwrap();
    let checked = Command::new(init_program())
        .args(["check", "--strict", "mine.yaml"])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    // One that was named is another matter.
    let output = run(&["--manifest", "none.yaml"]);
    assert_eq!(output.status.code(), Some(66));
    let console = String::from_utf8(output.stderr).unwrap();
    assert!(!console.contains("the smallest"), "{console}");
}

/// The first two blocks of the README, as they stand, but for the port and the last line of the
/// first, which stays in the foreground.
#[test]
fn the_readme_starts_with_lines_that_work() {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```sh\n").skip(1);
    let blocks: Vec<&str> = blocks.map(|it| it.split("```").next().unwrap()).collect();
    let address = format!("{}:8888", own_address());
    let first = blocks[0].replace("127.0.0.1:8888", &address);
    assert_ne!(first, blocks[0], "it listens on loopback");
    let scratch = ScratchDir::new().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    pipelock::copy_into(scratch.path());
    let programs = scratch.join("bin");
    fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink(init_program(), programs.join("sidecar-init")).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .current_dir(scratch.path())
            .env("PATH", &path);
        shell
    };
    // The shell becomes the init, which can then be stopped.
    let started = first.replace("\nsidecar-init run", "\nexec sidecar-init run");
    let mut init = shell(&started)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ready = "until sidecar-init healthcheck --run-dir run 2>&1; do sleep 0.1; done";
    let waited = shell(&format!("timeout 60 sh -c '{ready}'"))
        .output()
        .unwrap();
    let asked = shell(blocks[1]).output().unwrap();
    // It tells of a refusal within seconds, and a person takes as long to type the last line.
    let (_, last) = blocks[1].trim_end().rsplit_once('\n').unwrap();
    let (last, _) = last.split_once('#').unwrap();
    let looks = format!("until {last} | grep -A1 example.com; do sleep 0.1; done");
    let told = shell(&format!("timeout 60 sh -c '{looks}'"))
        .output()
        .unwrap();
    let _ = kill(
        Pid::from_raw(i32::try_from(init.id()).unwrap()),
        Signal::SIGTERM,
    );
    assert_eq!(init.wait().unwrap().code(), Some(0));
    assert!(waited.status.success(), "{waited:?}");
    let said = String::from_utf8([asked.stdout, asked.stderr].concat()).unwrap();
    assert!(said.contains("403"), "{said}");
    assert!(
        said.contains("laptop: ready; what is not allowed is refused"),
        "{said}"
    );
    let told = String::from_utf8(told.stdout).unwrap();
    let allows = "- host: example.com";
    assert!(
        told.contains(allows),
        "the line that would allow it: {told}"
    );
}
