//! The sandbox of the bundle's other daemons, tried from inside by one that turned hostile;
//! with one mechanism after the other left out, so that it is known which of them holds what.
//! It takes root, and says so.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr as LocalAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use microvm::ScratchDir;
use sidecar_init::sandbox::seccomp::Profile;
use sidecar_init::sandbox::{Privileges, Sandbox, Seen};

use crate::support::hostile::{Answers, Mechanism, assert_held, read_answers};
use crate::support::{Bed as InitsBed, Place, example, fixture, own_address, skipped};

/// Who the daemons are: the init, pipelock, the hostile one, its sibling.
#[derive(Debug, Clone, Copy)]
struct Users {
    init: u32,
    pipelock: u32,
    hostile: u32,
    sibling: u32,
}

const OWN_EACH: Users = Users {
    init: 0,
    pipelock: 65534,
    hostile: 65533,
    sibling: 65532,
};
/// Where the init may not change users.
const ONE_FOR_ALL: Users = Users {
    init: 4242,
    pipelock: 4242,
    hostile: 4242,
    sibling: 4242,
};

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("the companions' sandbox", "it takes root");
    }
    root
}

fn companion() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = example("companion", "companion.rs");
        built.to_str().unwrap().to_owned()
    })
}

fn hostile() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
        fixture::compile("hostile", &[], &program);
        program
    })
}

/// A process that ends with the test, and its output so far.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it says, until it says this.
    fn until(&mut self, attempt: &str) -> String {
        let mut said = String::new();
        loop {
            let before = said.len();
            let read = self.output.read_line(&mut said).unwrap();
            let line = &said[before..];
            if line.contains(&format!("\"{attempt}\"")) {
                return said;
            }
            assert!(read > 0, "it ended: {said}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A bundle's directories, with the daemons' users as owners, and ports for them.
struct Bed {
    scratch: ScratchDir,
    users: Users,
    address: Ipv4Addr,
    allowed: TcpListener,
    forbidden: TcpListener,
    /// Free when it was asked for: of the hostile daemon, of nobody, of its sibling.
    ports: [u16; 3],
    number: usize,
}

impl Bed {
    fn new(users: Users) -> Self {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let scratch = ScratchDir::new().unwrap();
        let address = own_address();
        let listen = || TcpListener::bind((address, 0)).unwrap();
        let free = [listen(), listen(), listen()].map(|it| it.local_addr().unwrap().port());
        let bed = Self {
            users,
            address,
            allowed: listen(),
            forbidden: listen(),
            ports: free,
            number: NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            scratch,
        };
        bed.own("", users.init, 0o755);
        for (name, owner, mode) in [
            ("run", users.init, 0o755),
            ("run/hostile", users.hostile, 0o700),
            ("run/sibling", users.sibling, 0o700),
            ("run/credentials", users.init, 0o755),
            ("run/credentials/hostile", users.hostile, 0o700),
            ("run/credentials/sibling", users.sibling, 0o700),
            ("init", users.init, 0o700),
        ] {
            fs::create_dir(bed.path(name)).unwrap();
            bed.own(name, owner, mode);
        }
        for (name, owner, mode) in [
            ("manifest.yaml", users.init, 0o644),
            ("run/status.json", users.init, 0o644),
            ("run/pipelock.yaml", users.pipelock, 0o600),
            ("run/key.pem", users.pipelock, 0o600),
            ("run/credentials/hostile/token", users.hostile, 0o400),
            ("run/credentials/sibling/token", users.sibling, 0o400),
        ] {
            fs::write(bed.path(name), name).unwrap();
            bed.own(name, owner, mode);
        }
        for name in ["hostile", "other", "granted"] {
            // Not fs::copy: whatever another test forks meanwhile would hold the file open for
            // writing, and such a file cannot be executed.
            let copied = Command::new("cp")
                .arg(hostile())
                .arg(bed.path(name))
                .status();
            assert!(copied.unwrap().success());
        }
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn own(&self, name: &str, owner: u32, mode: u32) {
        let path = self.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
    }

    fn name_of(&self, whom: &str) -> String {
        format!("sidecar-{}-{}-{whom}", std::process::id(), self.number)
    }

    /// A program as the init would start it that has these users.
    fn command(&self, words: &[String]) -> Command {
        let id = self.users.init.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.args(words);
        command
    }

    fn start(&self, words: &[String]) -> Running {
        let mut child = self
            .command(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Running { child, output }
    }

    /// What `companion` does with these options.
    fn confine(&self, options: &[(&str, String)], role: &str, told: &[(&str, String)]) -> Running {
        let mut words = vec![companion().to_owned()];
        for (option, value) in options {
            words.extend([(*option).to_owned(), value.clone()]);
        }
        words.extend(["--".to_owned(), self.text("hostile"), role.to_owned()]);
        words.extend(told.iter().map(|(key, value)| format!("{key}={value}")));
        self.start(&words)
    }

    /// Somebody to be attacked: the init, without a sandbox.
    fn init(&self) -> Running {
        let mut words = vec![self.text("hostile"), "stay".to_owned()];
        words.push(format!("directory={}", self.text("init")));
        words.push(format!("name={}", self.name_of("init")));
        let mut init = self.start(&words);
        init.until("everything");
        init
    }

    fn sibling(&self, without: &[Mechanism]) -> Running {
        let mut options = self.options(self.users.sibling, "sibling", without);
        options.push(("bind", self.ports[2].to_string()));
        let told = [
            ("directory", self.text("run/sibling")),
            ("name", self.name_of("sibling")),
            ("address", self.at(self.ports[2])),
        ];
        let mut sibling = self.confine(&options, "stay", &told);
        sibling.until("everything");
        sibling
    }

    fn options(&self, user: u32, name: &str, without: &[Mechanism]) -> Vec<(&'static str, String)> {
        let mut options = vec![
            ("user", user.to_string()),
            ("write", self.text(&format!("run/{name}"))),
            ("read", self.text(&format!("run/credentials/{name}"))),
        ];
        for mechanism in without {
            match mechanism {
                Mechanism::Landlock => options.push(("without", "landlock".to_owned())),
                Mechanism::Seccomp => options.push(("without", "seccomp".to_owned())),
                Mechanism::User | Mechanism::Kernel => {}
            }
        }
        options
    }

    fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }

    /// Everything the hostile daemon tries, with these options more.
    fn attack(&self, without: &[Mechanism], more: &[(&'static str, String)]) -> Answers {
        let mut options = self.options(self.users.hostile, "hostile", without);
        let allowed = self.allowed.local_addr().unwrap().port();
        options.extend([
            ("bind", self.ports[0].to_string()),
            ("connect", allowed.to_string()),
            ("execute", self.text("granted")),
        ]);
        options.extend_from_slice(more);
        self.attack_from(&options, without)
    }

    /// The same from a sandbox of these options; the sibling's is without these mechanisms.
    fn attack_from(&self, options: &[(&'static str, String)], without: &[Mechanism]) -> Answers {
        let init = self.init();
        let sibling = self.sibling(without);
        let told = [
            ("own", self.text("run/hostile")),
            ("theirs", self.text("run/sibling")),
            ("credentials", self.text("run/credentials/hostile/token")),
            (
                "their-credentials",
                self.text("run/credentials/sibling/token"),
            ),
            ("key", self.text("run/key.pem")),
            ("config", self.text("run/pipelock.yaml")),
            ("manifest", self.text("manifest.yaml")),
            ("status", self.text("run/status.json")),
            ("sibling", sibling.pid().to_string()),
            ("init", init.pid().to_string()),
            ("sibling-name", self.name_of("sibling")),
            ("init-name", self.name_of("init")),
            ("their-address", self.at(self.ports[2])),
            ("their-user", self.users.sibling.to_string()),
            ("own-port", self.at(self.ports[0])),
            ("other-port", self.at(self.ports[1])),
            ("allowed", self.allowed.local_addr().unwrap().to_string()),
            (
                "forbidden",
                self.forbidden.local_addr().unwrap().to_string(),
            ),
            ("other-program", self.text("other")),
            ("granted-program", self.text("granted")),
        ];
        let mut hostile = self.confine(options, "attack", &told);
        read_answers(&hostile.until("everything"))
    }
}

fn users(without: &[Mechanism]) -> Users {
    if without.contains(&Mechanism::User) {
        ONE_FOR_ALL
    } else {
        OWN_EACH
    }
}

#[test]
fn a_companion_that_turns_hostile_is_stopped_at_every_turn() {
    if !is_root() {
        return;
    }
    let answers = Bed::new(OWN_EACH).attack(&[], &[]);
    assert_held(&answers, &[], &[]);
}

#[test]
fn every_attempt_is_stopped_by_the_mechanisms_that_are_named_for_it_and_by_no_other() {
    if !is_root() {
        return;
    }
    let each = [Mechanism::User, Mechanism::Landlock, Mechanism::Seccomp];
    for bits in 1..8_u8 {
        let without: Vec<Mechanism> = (0..3)
            .filter(|bit| bits & (1 << bit) != 0)
            .map(|bit| each[bit])
            .collect();
        let answers = Bed::new(users(&without)).attack(&without, &[]);
        assert_held(&answers, &without, &[]);
    }
}

#[test]
fn a_companion_reads_back_as_itself_and_not_as_another() {
    if !is_root() {
        return;
    }
    let bed = Bed::new(OWN_EACH);
    let sibling = bed.sibling(&[]);
    let pid = i32::try_from(sibling.pid()).unwrap();
    let pipelock = Sandbox::plan(Privileges::of_this_process());
    let of = |user: u32| pipelock.companion(user, None, Profile::General { udp: false });
    assert_eq!(of(OWN_EACH.sibling).missing, Vec::<String>::new());
    assert_eq!(of(OWN_EACH.sibling).read_back(pid), Seen::Confined);
    for other in [of(OWN_EACH.hostile), pipelock.clone()] {
        let Seen::Holes(holes) = other.read_back(pid) else {
            panic!("it has not that user");
        };
        let holes = holes.to_string();
        assert!(
            holes.contains("Uid is") && holes.contains("Gid is"),
            "{holes}"
        );
    }
}

#[test]
fn a_name_servers_port_opens_udp_whole_and_nothing_else() {
    if !is_root() {
        return;
    }
    let opened = [
        "bind a UDP port",
        "send a datagram",
        "open a UDP socket",
        "open a UDP socket over IPv6",
    ];
    let answers = Bed::new(OWN_EACH).attack(&[], &[("connect", "53".to_owned())]);
    assert_held(&answers, &[], &opened.map(|it| (it, "done")));
}

#[test]
fn proc_where_it_is_granted_shows_command_lines_and_no_siblings_memory() {
    if !is_root() {
        return;
    }
    let shown = [
        ("sibling: read cmdline", "done"),
        ("sibling: read status", "done"),
        ("init: read cmdline", "done"),
        ("init: read status", "done"),
        // Their numbers alone, and only where there is one user for all.
        ("sibling: list its descriptors", "done"),
        ("init: list its descriptors", "done"),
    ];
    // With one user for all it is Landlock that lets nobody look into another's domain.
    for (without, shown) in [(vec![], &shown[..4]), (vec![Mechanism::User], &shown)] {
        let bed = Bed::new(users(&without));
        let answers = bed.attack(&without, &[("read", "/proc".to_owned())]);
        assert_held(&answers, &without, shown);
    }
}

/// Pipelock is granted its configuration's directory, in which the others have theirs.
#[test]
fn a_fallen_pipelock_reads_no_companions_directory_unless_they_have_one_user() {
    if !is_root() {
        return;
    }
    for (users, expected) in [(OWN_EACH, "13"), (ONE_FOR_ALL, "done")] {
        let bed = Bed::new(users);
        let options = [("read", bed.text("run"))];
        let answers = bed.attack_from(&options, &[]);
        for attempt in [
            "read a sibling's file",
            "list a sibling's directory",
            "read a sibling's credentials",
        ] {
            assert_eq!(answers[attempt], expected, "{attempt}, {users:?}");
        }
        for attempt in ["write a sibling's file", "remove a sibling's file"] {
            assert_eq!(answers[attempt], "13", "{attempt}, {users:?}");
        }
        let mode = "open a sibling's directory to all";
        assert_eq!(answers[mode], "1", "a filter, {users:?}");
        let sockets = "connect to a sibling's socket by its path";
        assert_eq!(answers[sockets], "1", "a filter, {users:?}");
    }
}

#[test]
fn says_of_a_companion_without_a_user_of_its_own_what_is_not_separated() {
    if !is_root() {
        return;
    }
    let bed = Bed::new(ONE_FOR_ALL);
    let words = [companion(), "user", "65533", "--", "/bin/true"];
    let words: Vec<String> = words.map(str::to_owned).into();
    let output = bed.command(&words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = "missing: the daemon runs as uid 4242, like the init and pipelock: changing user needs CAP_SETUID \
                  and CAP_SETGID; it may change the modes of their files and use their local sockets, and \
                  pipelock may read its directory and credentials\n";
    assert!(said.contains(wanted), "{said}");
}

/// A user namespace that has pipelock's user and no other daemon's, as some rootless
/// containers have.
#[test]
fn a_companion_whose_user_does_not_exist_is_pipelocks_and_says_so() {
    if !is_root() {
        return;
    }
    let bed = Bed::new(OWN_EACH);
    let mut inside = Command::new("unshare")
        .args(["--user", "sh", "-c", "read go; exec \"$@\"", "sh"])
        .args([companion(), "user", "65533", "--", "/bin/true"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(bed.scratch.path())
        .spawn()
        .unwrap();
    let pid = inside.id();
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    while fs::read_link(format!("/proc/{pid}/ns/user")).unwrap() == own {
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), "0 0 1\n65534 65534 1\n").unwrap();
    }
    inside.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = inside.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = "missing: the daemon runs as uid 65534, like pipelock: uid and gid 65533 do not exist in this user \
                  namespace; it may change the modes of their files and use their local sockets, and pipelock may \
                  read its directory and credentials\n";
    assert_eq!(said, wanted);
}

/// What an ordinary service does, in Python.
const SERVICE: &str = r"
import asyncio, multiprocessing.connection, os, pwd, shutil, socket, sqlite3, ssl, subprocess, tempfile
own, address, port = os.environ['HOME'], os.environ['ADDRESS'], int(os.environ['PORT'])
assert socket.getaddrinfo('localhost', 80) and os.cpu_count() and pwd.getpwall()
ssl.create_default_context()
with tempfile.NamedTemporaryFile() as file:
    file.write(b'x')
    file.flush()
    shutil.copy2(file.name, own + '/copy')
with sqlite3.connect(own + '/database') as database:
    database.execute('create table t (x)')
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
listener = multiprocessing.connection.Listener(own + '/socket')
async def answer(reader, writer):
    writer.write(await reader.readline())
    writer.close()
async def serve():
    server = await asyncio.start_server(answer, address, port)
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(b'heard\n')
    print((await reader.readline()).decode(), end='')
    child = await asyncio.create_subprocess_exec('/bin/sh', '-c', 'exit 7')
    assert await child.wait() == 7
asyncio.run(serve())
print('served')
";

/// A server of git's own, to which is pushed and from which is cloned.
const GIT: &str = r#"
set -e
cd "$HOME"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git init --quiet --bare --initial-branch=main hub.git
git init --quiet --initial-branch=main work
echo page >work/page
git -C work add page
git -C work commit --quiet --message=page
git daemon --reuseaddr --listen="$ADDRESS" --port="$PORT" --base-path="$HOME" --export-all --enable=receive-pack &
until git ls-remote "git://$ADDRESS:$PORT/hub.git" 2>/dev/null; do :; done
git -C work push --quiet "git://$ADDRESS:$PORT/hub.git" main
git clone --quiet "git://$ADDRESS:$PORT/hub.git" clone
cat clone/page
kill $!
echo served
"#;

#[test]
fn what_ordinary_services_need_a_companion_has() {
    if !is_root() {
        return;
    }
    for (program, option, script, said) in [
        ("/usr/bin/python3", "-c", SERVICE, "heard\nserved\n"),
        ("/bin/sh", "-c", GIT, "page\nserved\n"),
    ] {
        if script == GIT && !Path::new("/usr/bin/git").exists() || !Path::new(program).exists() {
            skipped("what an ordinary service needs", program);
            continue;
        }
        let bed = Bed::new(OWN_EACH);
        let (own, port) = (bed.text("run/hostile"), bed.ports[0].to_string());
        let mut words = vec![companion().to_owned()];
        let mut options = bed.options(OWN_EACH.hostile, "hostile", &[]);
        options.extend([("bind", port.clone()), ("connect", port.clone())]);
        for pair in [
            format!("HOME={own}"),
            format!("TMPDIR={own}"),
            "PATH=/usr/bin:/bin".to_owned(),
            format!("ADDRESS={}", bed.address),
            format!("PORT={port}"),
        ] {
            options.push(("env", pair));
        }
        for (option, value) in options {
            words.extend([option.to_owned(), value]);
        }
        words.extend(["--", program, option, script].map(str::to_owned));
        let output = bed.command(&words).output().unwrap();
        let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(out), said, "{program}: {err}");
    }
}

/// All of it once more through the init: what its manifest says is what they get.
#[test]
fn the_daemons_of_a_manifest_are_confined_as_it_says() {
    if !is_root() {
        return;
    }
    let bed = InitsBed::new();
    for name in ["hostile", "other", "granted"] {
        let copied = Command::new("cp")
            .arg(hostile())
            .arg(bed.path(name))
            .status();
        assert!(copied.unwrap().success());
    }
    let address = own_address();
    let listen = || TcpListener::bind((address, 0)).unwrap();
    let at = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
    let (allowed, forbidden) = (listen(), listen());
    let [own, theirs, nobodys] = [listen(), listen(), listen()].map(|free| at(&free));
    let name = |whom: &str| format!("sidecar-manifest-{}-{whom}", std::process::id());
    let _of_the_init = UnixListener::bind_addr(&by_name(&name("init"))).unwrap();
    let text = |name: &str| bed.path(name).to_str().unwrap().to_owned();
    let daemons = format!(
        "daemons:
  sibling:
    exec: [{program}, stay, directory={run}/sibling, name={sibling}, \"address={theirs}\"]
    listen: [{their_port}]
    proxy: false
  hostile:
    exec: [{program}, obey, \"address={own}\"]
    after: [sibling]
    listen: [{own_port}]
    connect: [{allowed_port}]
    files: [{granted}]
    proxy: false
",
        program = text("hostile"),
        run = text("run"),
        sibling = name("sibling"),
        their_port = port(&theirs),
        own_port = port(&own),
        allowed_port = port(&at(&allowed)),
        granted = text("granted"),
    );
    bed.replace_manifest(&bed.manifest_text(&["a.example"], &daemons));
    let told = [
        ("own", text("run/hostile")),
        ("theirs", text("run/sibling")),
        ("key", text("run/ca.key")),
        ("config", text("run/pipelock.yaml")),
        ("manifest", text("manifest.yaml")),
        ("status", text("run/status.json")),
        ("sibling-name", name("sibling")),
        ("init-name", name("init")),
        ("their-address", theirs),
        ("own-port", own.clone()),
        ("other-port", nobodys),
        ("allowed", at(&allowed)),
        ("forbidden", at(&forbidden)),
        ("other-program", text("other")),
        ("granted-program", text("granted")),
        // What each has in its own directory stands for its credentials.
        ("credentials", text("run/hostile/file")),
        ("their-credentials", text("run/sibling/secret")),
    ];
    let mut init = bed.start(Place::Child);
    let status = init.wait_for("both are confined", |status| {
        let daemons = status["daemons"].as_array();
        daemons.is_some_and(|all| {
            all.len() == 2 && all.iter().all(|it| it["sandbox_verified"] == true)
        })
    });
    let of = |name: &str| {
        let mut daemons = status["daemons"].as_array().unwrap().iter();
        daemons.find(|it| it["name"] == name).unwrap().clone()
    };
    for name in ["sibling", "hostile"] {
        assert_eq!(of(name)["sandbox_missing"], serde_json::json!([]), "{name}");
    }
    assert_ne!(of("sibling")["uid"], of("hostile")["uid"]);
    let mut order = "attack\n".to_owned();
    for (key, value) in told.into_iter().chain([
        ("sibling", of("sibling")["pid"].to_string()),
        ("their-user", of("sibling")["uid"].to_string()),
        ("init", init.pid().to_string()),
    ]) {
        order += &format!("{key}={value}\n");
    }
    let mut connected = init.wait_until("it obeys", |_| TcpStream::connect(&own).ok());
    connected.write_all(order.as_bytes()).unwrap();
    drop(connected);
    let output = init.wait_until("it tried everything", |init| {
        let said = init.output();
        // The sibling has said so before.
        (said.matches("\"everything\"").count() == 2).then_some(said)
    });
    assert_held(&read_answers(&output), &[], &[]);
}

fn by_name(name: &str) -> LocalAddress {
    LocalAddress::from_abstract_name(name).unwrap()
}
