//! What the host gives a daemon alone: there when it starts, followed when it changes, gone with
//! it, and nowhere else.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::share::{Host, Share};
use crate::support::{Bed, Init, Place, example, skipped};

const USER: u32 = 65533;

/// A run directory on memory.
struct Memory(PathBuf);

impl Memory {
    fn mount(bed: &Bed) -> Option<Self> {
        let at = bed.path("run");
        fs::create_dir_all(&at).unwrap();
        let none = None::<&str>;
        if mount(Some("run"), &at, Some("tmpfs"), MsFlags::empty(), none).is_err() {
            skipped("credentials", "no tmpfs can be mounted");
            return None;
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self(at))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        // Where its bed was removed first, all but this.
        let bed = self.0.parent().unwrap();
        if !bed.join("manifest.yaml").exists() {
            let _ = fs::remove_dir_all(bed);
        }
    }
}

/// Says what it sees of its credentials, each time that it sees something else; and of itself
/// what it can. Never what they are.
const READER: &str = r#"
echo "at ${CREDENTIALS_DIRECTORY:-nowhere}"
last=
while :; do
    if [ -n "$CREDENTIALS_DIRECTORY" ] && cd "$CREDENTIALS_DIRECTORY" 2>/dev/null; then
        now="has $(stat -c '%n %a %u:%g' . * 2>&1 | tr '\n' ' ')$(cat a b 2>&1 | sha256sum)"
        cd /
    else
        now="has none"
    fi
    [ "$now" = "$last" ] || echo "$now"
    last=$now
    sleep 0.05
done
"#;

/// Tries to read another's.
const THIEF: &str = r#"
cat "$1/credentials/egress/a" "$1/credentials/egress.d/1/a"
ls "$1/credentials/egress.d" "$1/credentials/egress"
echo "tried everything"
sleep 1000
"#;

struct Sets {
    all: PathBuf,
    round: u32,
}

impl Sets {
    fn of(bed: &Bed) -> Self {
        let all = bed.path("credentials/egress");
        fs::create_dir_all(&all).unwrap();
        Self { all, round: 0 }
    }

    /// Gives another one, at once, as Kubernetes does; its secret, and the hash of all of it.
    fn give(&mut self) -> (String, String) {
        self.round += 1;
        let data = format!("..{}", self.round);
        fs::create_dir_all(self.all.join(&data)).unwrap();
        let secret = format!("hidden-{}-{}", std::process::id(), self.round);
        for name in ["a", "b"] {
            fs::write(self.all.join(&data).join(name), &secret).unwrap();
            let _ = symlink(Path::new("..data").join(name), self.all.join(name));
        }
        symlink(&data, self.all.join("..new")).unwrap();
        fs::rename(self.all.join("..new"), self.all.join("..data")).unwrap();
        let text = Command::new("sh")
            .args(["-c", "printf %s%s \"$1\" \"$1\" | sha256sum", "-", &secret])
            .output()
            .unwrap();
        (
            secret,
            String::from_utf8(text.stdout).unwrap().trim().to_owned(),
        )
    }

    fn take_away(&self) {
        fs::remove_dir_all(&self.all).unwrap();
    }
}

fn script(bed: &Bed, name: &str, text: &str) -> String {
    let path = bed.path(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn daemons(bed: &Bed) -> String {
    let egress = script(bed, "egress.sh", READER);
    format!(
        "daemons:\n  egress:\n    exec: [/bin/sh, {egress}]\n    files: [{egress}]\n    proxy: false\n    essential: false\n"
    )
}

fn daemon(status: &Value, name: &str) -> Value {
    let mut daemons = status["daemons"].as_array().into_iter().flatten();
    daemons
        .find(|it| it["name"] == name)
        .cloned()
        .unwrap_or_default()
}

fn wait_says(init: &mut Init, what: &str) {
    let wanted = format!("egress: {what}");
    init.wait_until(&wanted, |init| {
        init.output().contains(&wanted).then_some(())
    });
}

fn can_be_tried() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skipped("credentials", "nobody but root mounts a file system");
    }
    is_root
}

/// Whether any file below has one of these.
fn found_below(directory: &Path, but: &Path, secrets: &[String]) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if path == but {
            continue;
        }
        if kind.is_dir() {
            if let Some(found) = found_below(&path, but, secrets) {
                return Some(found);
            }
        } else if kind.is_file() && holds(&fs::read(&path).unwrap_or_default(), secrets) {
            return Some(path);
        }
    }
    None
}

fn holds(bytes: &[u8], secrets: &[String]) -> bool {
    let mut secrets = secrets.iter().map(String::as_bytes);
    secrets.any(|secret| memchr::memmem::find(bytes, secret).is_some())
}

/// Whether the memory of this process has one of these.
fn remembers(pid: i32, secrets: &[String]) -> bool {
    let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut looked_at = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|it| u64::from_str_radix(it, 16).unwrap());
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(from)).unwrap();
        if Read::by_ref(&mut memory)
            .take(to - from)
            .read_to_end(&mut bytes)
            .is_ok()
        {
            looked_at += bytes.len();
        }
        if holds(&bytes, secrets) {
            return true;
        }
    }
    assert!(looked_at > 10_000, "the memory of {pid} can be looked at");
    false
}

/// A daemon that has credentials, and a sibling that tried to read them.
struct Given {
    init: Init,
    sets: Sets,
    /// All that it was given so far, and the hash of what it has.
    secrets: Vec<String>,
    hash: String,
    run: PathBuf,
    at: PathBuf,
    pid: i32,
    // Last, for the others lie in it.
    _memory: Memory,
}

impl Given {
    fn begin() -> Option<Self> {
        if !can_be_tried() {
            return None;
        }
        let bed = Bed::new();
        let memory = Memory::mount(&bed)?;
        let bed = bed.with_export();
        let (run, at) = (bed.path("run"), bed.path("run/credentials/egress"));
        let mut sets = Sets::of(&bed);
        let (secret, hash) = sets.give();
        let thief = script(&bed, "thief.sh", THIEF);
        let more = format!(
            "{}  thief:\n    exec: [/bin/sh, {thief}, {run}]\n    files: [{thief}]\n    after: [egress]\n    proxy: false\n    essential: false\n",
            daemons(&bed),
            run = run.display()
        );
        bed.replace_manifest(&bed.manifest_text(&["a.example"], &more));
        let mut init = bed.start(Place::Child);
        wait_says(&mut init, &format!("at {}", at.display()));
        let shown =
            format!("has . 500 {USER}:{USER} a 400 {USER}:{USER} b 400 {USER}:{USER} {hash}");
        wait_says(&mut init, &shown);
        init.wait_until("the thief has tried", |init| {
            let tried = init.output().contains("thief: tried everything");
            tried.then_some(())
        });
        let before = daemon(&init.wait_ready(), "egress");
        assert_eq!(before["sandbox_verified"], true, "{before}");
        Some(Self {
            init,
            sets,
            secrets: vec![secret],
            hash,
            run,
            at,
            pid: i32::try_from(before["pid"].as_i64().unwrap()).unwrap(),
            _memory: memory,
        })
    }

    /// It is given another set, and sees it.
    fn give(&mut self) {
        let (secret, hash) = self.sets.give();
        self.secrets.push(secret);
        self.init.wait_until("it has another set", |init| {
            init.output().contains(&hash).then_some(())
        });
        self.hash = hash;
    }

    fn has(&self, secrets: &[String]) -> bool {
        holds(&fs::read(self.at.join("a")).unwrap(), secrets)
    }

    /// Nobody but the daemon has any of it.
    fn are_hidden(&self) {
        for pid in [self.init.pid(), self.init.daemon(), self.pid] {
            for name in ["environ", "cmdline"] {
                let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap();
                assert!(!holds(&bytes, &self.secrets), "{name} of {pid}");
            }
        }
        assert!(!remembers(self.init.pid(), &self.secrets));
        let but = self.run.join("credentials");
        assert_eq!(found_below(&self.run, &but, &self.secrets), None);
        assert!(!holds(self.init.console().as_bytes(), &self.secrets));
        assert!(!holds(self.init.output().as_bytes(), &self.secrets));
    }
}

#[test]
fn a_daemon_alone_can_read_its_credentials() {
    let Some(given) = Given::begin() else {
        return;
    };
    let console = given.init.console();
    assert_eq!(console.matches("Permission denied").count(), 4, "{console}");
    let token = given.at.join("a");
    // The user alone: pipelock's, and a sibling's, in no sandbox at all.
    for user in [65534, USER - 1] {
        let read = Command::new("/bin/cat")
            .arg(&token)
            .uid(user)
            .gid(user)
            .output();
        let said = String::from_utf8(read.unwrap().stderr).unwrap();
        assert!(said.contains("Permission denied"), "{user}: {said}");
    }
    // Landlock alone: the same user, in a sandbox like its own without that grant.
    let confined = |option: &[&str]| {
        let mut command = Command::new(example("companion", "companion.rs"));
        command.args(["user", &USER.to_string()]).args(option);
        let output = command
            .args(["--", "/bin/cat"])
            .arg(&token)
            .output()
            .unwrap();
        holds(&output.stdout, &given.secrets)
    };
    assert!(!confined(&[]));
    assert!(confined(&["without", "landlock"]));
    assert!(confined(&[
        "read",
        given.at.with_extension("d").to_str().unwrap()
    ]));

    // Nothing of it in a core, wherever that would go.
    let pid = given.pid;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    assert!(cores.unwrap().contains(" 0 "), "{limits}");
    let filter = fs::read_to_string(format!("/proc/{pid}/coredump_filter")).unwrap();
    assert_eq!(filter.trim().trim_matches('0'), "", "{filter}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(holds(&environment, &["CREDENTIALS_DIRECTORY=".to_owned()]));
    given.are_hidden();
}

#[test]
fn what_a_daemon_is_given_is_replaced_and_taken_away_while_it_runs() {
    let Some(mut given) = Given::begin() else {
        return;
    };
    let before = daemon(&given.init.status(), "egress");
    given.give();
    assert!(given.has(&given.secrets[1..]) && !given.has(&given.secrets[..1]));
    given.sets.take_away();
    wait_says(&mut given.init, "has none");
    assert_eq!(found_below(&given.run, Path::new(""), &given.secrets), None);
    given.give();
    let now = daemon(&given.init.status(), "egress");
    assert_eq!((&now["pid"], &now["restarts"]), (&before["pid"], &0.into()));
    given.are_hidden();

    // What cannot be used takes nothing away, and is a warning for as long.
    let unusable = given.sets.all.join("c");
    nix::unistd::mkfifo(&unusable, Mode::S_IRWXU).unwrap();
    let has_warning = |status: &Value| {
        let said = "egress keeps the credentials that it has: cannot read ";
        status["warnings"].to_string().contains(said)
    };
    given.init.wait_for("it is refused", has_warning);
    assert!(given.has(&given.secrets[2..]));
    fs::remove_file(unusable).unwrap();
    let is_over = |status: &Value| !has_warning(status);
    given.init.wait_for("it is not any more", is_over);

    // Gone with the daemon; another start is given them anew.
    kill(Pid::from_raw(given.pid), Signal::SIGKILL).unwrap();
    let again = |status: &Value| daemon(status, "egress")["restarts"] == 1;
    given.init.wait_for("it runs again", again);
    let hash = given.hash.clone();
    given.init.wait_until("it has them again", |init| {
        (init.output().matches(&hash).count() == 2).then_some(())
    });
    let bed = &given.init.bed;
    bed.replace_manifest(&bed.manifest_text(&["a.example"], ""));
    let is_gone = |status: &Value| daemon(status, "egress").is_null();
    given.init.wait_for("it is gone", is_gone);
    given.init.wait_until("with all that was its own", |_| {
        let is_there = given.at.exists() || given.at.with_extension("d").exists();
        (!is_there).then_some(())
    });
    let (end, _) = given.init.stop();
    assert!(!given.run.join("credentials").exists());
    assert!(!holds(&end.console, &given.secrets));
    assert!(!holds(&end.output, &given.secrets));
    assert_eq!(found_below(&given.run, Path::new(""), &given.secrets), None);
}

#[test]
fn credentials_are_gone_with_the_init_and_at_the_next_start_of_one_that_was_killed() {
    if !can_be_tried() {
        return;
    }
    let bed = Bed::new();
    let Some(_memory) = Memory::mount(&bed) else {
        return;
    };
    let run = bed.path("run");
    let mut sets = Sets::of(&bed);
    let (secret, hash) = sets.give();
    let secrets = [secret];
    bed.replace_manifest(&bed.manifest_text(&["a.example"], &daemons(&bed)));
    let mut init = bed.start(Place::Child);
    init.wait_until("it has them", |init| {
        init.output().contains(&hash).then_some(())
    });
    let (end, _) = init.stop();
    assert_eq!(found_below(&run, Path::new(""), &secrets), None);

    let mut init = end.bed.start(Place::Child);
    init.wait_until("it has them", |init| {
        init.output().contains(&hash).then_some(())
    });
    let bed = init.kill();
    sets.take_away();
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    wait_says(&mut init, "at nowhere");
    assert_eq!(found_below(&run, Path::new(""), &secrets), None);

    // One that is given some later is started with them.
    let (_, hash) = sets.give();
    init.wait_until("it has them", |init| {
        init.output().contains(&hash).then_some(())
    });
    let console = init.console();
    let said = "restarting egress: it is given credentials, and had none";
    assert_eq!(console.matches(said).count(), 1, "{console}");
    assert_eq!(daemon(&init.status(), "egress")["failures"], 0);
}

#[test]
fn a_daemon_is_not_started_without_what_it_was_to_be_given() {
    if !can_be_tried() {
        return;
    }
    let bed = Bed::new();
    let Some(memory) = Memory::mount(&bed) else {
        return;
    };
    let mut sets = Sets::of(&bed);
    let (_, hash) = sets.give();
    nix::unistd::mkfifo(&sets.all.join("c"), Mode::S_IRWXU).unwrap();
    fs::create_dir(bed.path("credentials/egres")).unwrap();
    bed.replace_manifest(&bed.manifest_text(&["a.example"], &daemons(&bed)));
    let mut init = bed.start(Place::Child);
    let failed = |status: &Value| {
        daemon(status, "egress")["error"]
            .as_str()
            .map(str::to_owned)
    };
    let status = init.wait_for("it fails", |status| failed(status).is_some());
    let why = failed(&status).unwrap();
    assert!(
        why.contains("/credentials/egress/c: it is no regular file\nhint: put a file there"),
        "{why}"
    );
    let warnings = status["warnings"].to_string();
    let stranger =
        "nobody is given credentials/egres: no daemon has that name; did you mean egress?";
    assert!(warnings.contains(stranger), "{warnings}");
    assert!(!init.output().contains("egress: "), "{}", init.output());
    assert!(!init.bed.path("run/credentials/egress").exists());
    // Its host mends that, and its next start is given them.
    fs::remove_file(sets.all.join("c")).unwrap();
    fs::remove_dir(init.bed.path("credentials/egres")).unwrap();
    init.wait_until("it has them", |init| {
        init.output().contains(&hash).then_some(())
    });
    init.wait_for("nothing is left to say", |status| {
        !status["warnings"].to_string().contains("credentials")
    });
    let (end, _) = init.stop();

    // On a disk they would outlive it.
    drop(memory);
    let run = end.bed.path("run");
    let mut init = end.bed.start(Place::Child);
    let status = init.wait_for("it fails", |status| failed(status).is_some());
    let why = failed(&status).unwrap();
    let begins = format!(
        "cannot keep the credentials of egress in {}: it is not on memory",
        run.display()
    );
    assert!(
        why.starts_with(&begins) && why.contains("\nhint: have a tmpfs there"),
        "{why}"
    );
    let secret = [format!("hidden-{}", std::process::id())];
    assert_eq!(found_below(&run, Path::new(""), &secret), None);
    init.stop();
}

#[test]
fn a_share_that_does_not_answer_holds_back_a_start_and_nothing_else() {
    if !can_be_tried() {
        return;
    }
    for host in [Host::Deaf, Host::Mute] {
        let bed = Bed::new();
        for name in ["host", "share"] {
            fs::create_dir(bed.path(name)).unwrap();
        }
        let more = daemons(&bed).replace("proxy: false", "listen: [9555]\n    proxy: false");
        let text = bed.manifest_text(&["a.example"], &more);
        fs::write(bed.path("host/manifest.yaml"), text).unwrap();
        let Some(share) = Share::mount(&bed.path("host"), &bed.path("share")) else {
            skipped("a share that hangs", "no FUSE file system can be mounted");
            return;
        };
        let manifest = bed.path("share/manifest.yaml");
        let bed = bed.with_argument(&format!("--manifest={}", manifest.display()));
        let mut init = bed.start(Place::Child);
        let share = share;
        let runs = |status: &Value| daemon(status, "egress")["state"] == "ready";
        let status = init.wait_for("it runs", runs);
        share.becomes(host);
        let pid = daemon(&status, "egress")["pid"].as_i64().unwrap();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
        let waits = |status: &Value| {
            let it = daemon(status, "egress");
            it["state"] == "starting" && it["pid"].is_null() && it["failures"] == 1
        };
        init.wait_for("its start waits", waits);
        assert_eq!(init.status()["state"], "ready");
        // A halt and a resume find nobody to end, and begin anew.
        init.signal(Signal::SIGUSR1);
        init.wait_for("it is halted", |status| {
            daemon(status, "egress")["state"] == "halted"
        });
        init.signal(Signal::SIGUSR2);
        init.wait_for("its start waits again", waits);
        share.becomes(Host::Answers);
        let status = init.wait_for("it runs again", runs);
        assert_eq!(daemon(&status, "egress")["failures"], 1, "{status}");

        share.becomes(host);
        let pid = daemon(&status, "egress")["pid"].as_i64().unwrap();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
        init.wait_for("its start waits", |status| {
            let it = daemon(status, "egress");
            it["state"] == "starting" && it["pid"].is_null()
        });
        let (end, took) = init.stop();
        assert_eq!(end.code, 0);
        assert!(took < Duration::from_secs(8), "{took:?}");
        drop((share, end));
    }
}
