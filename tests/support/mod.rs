//! What integration tests share: the real init as a child process in a temporary
//! directory, or as PID 1 of a PID namespace, with a daemon that breaks on request.
//! Everything is waited for by what it does, and ended on drop.

#[allow(dead_code, reason = "for the tests of the whole bundle")]
pub mod chain;
pub mod fixture;
pub mod hostile;
pub mod interception;
pub mod intruder;
pub mod line;
pub mod pipelock;
pub mod podman;
pub mod random;
pub mod said;
#[allow(dead_code, reason = "for the tests that work with much")]
pub mod servers;
pub mod share;
pub mod tools;
pub mod tunnels;
#[allow(dead_code, reason = "for the tests in machines")]
pub mod upstream;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Nothing here takes as long on a machine that is not broken.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(3);

/// The init under test: cargo's, or the one `SIDECAR_INIT_BIN` names.
pub fn init_program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        std::env::var("SIDECAR_INIT_BIN")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_sidecar-init").to_owned())
    })
}

/// As the status names a manifest or a configuration.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says aloud what is not tested: the harness hides the output of a test that passes.
pub fn skipped(what: &str, why: &str) {
    said::say(&format!("NOT CHECKED: {what}: {why}"));
}

/// A loopback address that no other test has: no port is ever fought over. 127/8 is large;
/// eleven bits of it are for the tests of a process, thirteen for the process.
pub fn own_address() -> Ipv4Addr {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    assert!(number < 0x7ff, "no test needs so many");
    let [_, host @ ..] = ((std::process::id() << 11) | number).to_be_bytes();
    Ipv4Addr::new(127, host[0], host[1], host[2])
}

/// Where the init runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// As an ordinary process.
    Child,
    /// As PID 1 of a PID namespace.
    Namespace,
}

/// What becomes of the init's standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// Read as fast as it comes.
    Read,
    /// Read as fast as it comes, and forgotten.
    Drained,
    /// A pipe that nobody reads until [`Init::read_console`].
    Stuck,
    /// A device that takes nothing.
    FullDisk,
    /// A socket that nobody reads.
    StuckSocket,
    /// A terminal, read as fast as it comes, for both streams and for typing on; the result is
    /// JSON all the same.
    Terminal,
    /// The same, for a person.
    Person,
}

/// A directory with a manifest and a daemon; gone with its owner.
pub struct Bed {
    directory: PathBuf,
    /// Where the daemon listens.
    pub address: String,
    supervisor: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    init: PathBuf,
    /// Started with a run directory of this name alone, and with relative paths.
    one_line: Option<String>,
}

impl Bed {
    /// A bottle that may reach `a.example`, a short grace period, and a daemon without faults.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let directory = std::env::temp_dir().join(format!("sidecar-init-{process}-{number}"));
        fs::create_dir(&directory).unwrap();
        // Not fs::copy: whatever another test forks meanwhile would hold the file open for
        // writing, and such a file cannot be executed.
        let copied = Command::new("cp")
            .arg(breaking_daemon())
            .arg(directory.join("pipelock"))
            .status();
        assert!(copied.unwrap().success());
        let bed = Self {
            directory,
            address: format!("{}:8888", own_address()),
            supervisor: "grace_seconds: 1, probe_seconds: 1".to_owned(),
            environment: Vec::new(),
            arguments: Vec::new(),
            init: init_program().into(),
            one_line: None,
        };
        bed.allow(&["a.example"]);
        bed
    }

    /// With these keys of the manifest's `supervisor`.
    pub fn with_supervisor(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.supervisor);
        self.allow(&["a.example"]);
        self
    }

    /// With the pipelock that `PIPELOCK_BIN` names, where it names one: for what is done to
    /// the init, whatever daemon it has.
    pub fn with_any_daemon(self) -> Self {
        if let Some(program) = std::env::var_os("PIPELOCK_BIN") {
            let copied = Command::new("cp")
                .arg(program)
                .arg(self.path("pipelock"))
                .status();
            assert!(copied.unwrap().success());
        }
        self
    }

    /// Started where it is, by a line that names the run directory, the daemon and the manifest.
    pub fn in_one_line(mut self, run_dir: &str) -> Self {
        self.one_line = Some(run_dir.to_owned());
        self
    }

    /// With this program as the init.
    pub fn with_init(mut self, program: PathBuf) -> Self {
        self.init = program;
        self
    }

    /// With this variable in the init's environment.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this argument for the init, after all others.
    pub fn with_argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With a directory for the host to read, empty.
    pub fn with_export(self) -> Self {
        fs::create_dir_all(self.path("run/export")).unwrap();
        self
    }

    /// With a daemon that says these lines once it listens.
    pub fn with_lines(self, lines: &str) -> Self {
        fs::create_dir_all(self.path("run")).unwrap();
        fs::write(self.path("run/lines"), lines).unwrap();
        self
    }

    /// Where the daemon listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// With a daemon that breaks like this from its start.
    pub fn with_faults(self, faults: &str) -> Self {
        self.break_daemon(faults);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn manifest(&self) -> PathBuf {
        self.path("manifest.yaml")
    }

    /// The text of a manifest that allows these hosts.
    pub fn manifest_text(&self, hosts: &[&str], more: &str) -> String {
        let mut routes = String::new();
        for host in hosts {
            routes += "      - host: ";
            routes += host;
            routes += "\n";
        }
        format!(
            "version: 1\nslug: bed\nbottle:\n  egress:\n    routes:\n{routes}pipelock:\n  listen: \"{}\"\nsupervisor: {{{}}}\n{more}",
            self.address, self.supervisor
        )
    }

    /// Replaces the manifest by rename: these hosts are allowed.
    pub fn allow(&self, hosts: &[&str]) {
        self.replace_manifest(&self.manifest_text(hosts, ""));
    }

    pub fn replace_manifest(&self, text: &str) {
        let new = self.path("manifest.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.manifest()).unwrap();
    }

    /// Changes how the daemon breaks, from its next look on.
    pub fn break_daemon(&self, faults: &str) {
        // Beside its configuration: the sandbox lets it read nothing else.
        fs::create_dir_all(self.path("run")).unwrap();
        let new = self.path("faults.new");
        fs::write(&new, faults).unwrap();
        fs::rename(new, self.path("run/faults")).unwrap();
    }

    /// Starts the init.
    pub fn start(self, place: Place) -> Init {
        self.start_on(place, Console::Read)
    }

    pub fn start_on(self, place: Place, console: Console) -> Init {
        self.start_under(place, console, &[])
    }

    /// Starts the init by a program that executes what follows its own arguments, in the
    /// same process.
    pub fn start_under(self, place: Place, console: Console, program: &[&str]) -> Init {
        let mut line: Vec<&str> = match place {
            Place::Child => vec![],
            Place::Namespace => {
                let arguments = namespace_arguments().expect("checked by the test");
                [&["unshare"], arguments].concat()
            }
        };
        line.extend(program);
        line.push(self.init.to_str().expect("a path in UTF-8"));
        let mut command = Command::new(line[0]);
        command.args(&line[1..]);
        let run_dir = self.path("run");
        let is_terminal = matches!(console, Console::Terminal | Console::Person);
        let terminal = is_terminal.then(open_terminal);
        let line_of = |terminal: &(File, File)| Stdio::from(terminal.1.try_clone().unwrap());
        let socket = std::os::unix::net::UnixStream::pair().unwrap();
        command.arg("run");
        match &self.one_line {
            Some(run_dir) => command
                .current_dir(&self.directory)
                .args(["--run-dir", run_dir, "--daemon", "./pipelock"])
                .args(["--manifest", "manifest.yaml"]),
            None => command
                .args(["--manifest".into(), self.manifest()])
                .args(["--daemon".into(), self.path("pipelock")])
                .args(["--run-dir".into(), run_dir.clone()])
                .args(["--cert".into(), run_dir.join("ca.crt")])
                .args(["--key".into(), run_dir.join("ca.key")]),
        };
        if console == Console::Terminal {
            command.arg("--json");
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(terminal.as_ref().map_or_else(Stdio::piped, line_of))
            .stderr(match console {
                Console::Terminal | Console::Person => terminal.as_ref().map(line_of).unwrap(),
                Console::FullDisk => File::options()
                    .write(true)
                    .open("/dev/full")
                    .unwrap()
                    .into(),
                Console::StuckSocket => std::os::fd::OwnedFd::from(socket.0).into(),
                Console::Read | Console::Drained | Console::Stuck => Stdio::piped(),
            });
        let mut child = command.spawn().expect("start the init");
        // It holds the line's other descriptors, and with them the line open.
        drop(command);
        let keyboard = terminal.map(|(keyboard, _)| keyboard);
        let screen = keyboard.as_ref().map(|it| it.try_clone().unwrap());
        let output = match child.stdout.take() {
            Some(pipe) => Transcript::of(pipe),
            None => Transcript::of(std::io::empty()),
        };
        let mut init = Init {
            bed: self,
            place,
            child,
            output,
            console: screen.map(Transcript::of),
            keyboard,
            _unread: socket.1,
            ended: false,
            mounts: false,
            reports: true,
        };
        match console {
            Console::Read => init.read_console(),
            Console::Drained => {
                let mut pipe = init.child.stderr.take().unwrap();
                thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink()));
            }
            Console::Stuck
            | Console::StuckSocket
            | Console::FullDisk
            | Console::Terminal
            | Console::Person => {}
        }
        init
    }

    /// Runs `sidecar-init` with these arguments and this bed's run directory.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(init_program())
            .args(arguments)
            .arg("--run-dir")
            .arg(self.path("run"))
            .output()
            .unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Bytes that a thread reads until the writer ends.
struct Transcript {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: thread::JoinHandle<()>,
}

impl Transcript {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok(count) = source.read(&mut buffer) {
                if count == 0 {
                    break;
                }
                shared.lock().unwrap().extend(&buffer[..count]);
            }
        });
        Self { bytes, reader }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

/// A running init.
pub struct Init {
    pub bed: Bed,
    place: Place,
    child: Child,
    output: Transcript,
    console: Option<Transcript>,
    /// What is typed on its terminal, where it has one.
    keyboard: Option<File>,
    /// The other end of its console, where that is a socket.
    _unread: std::os::unix::net::UnixStream,
    ended: bool,
    /// Its file systems are not the test's.
    mounts: bool,
    /// Its status can be read.
    reports: bool,
}

/// How an init ended.
pub struct End {
    pub code: i32,
    /// From the console's last line; `Null` where nobody could read it.
    pub result: Value,
    /// Everything on standard error.
    pub console: Vec<u8>,
    /// Everything on standard output.
    pub output: Vec<u8>,
    pub bed: Bed,
}

impl End {
    pub fn console_text(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }

    pub fn error(&self) -> &str {
        self.result["error"].as_str().unwrap_or_default()
    }
}

impl Init {
    /// Begins to read standard error.
    pub fn read_console(&mut self) {
        if let Some(pipe) = self.child.stderr.take() {
            self.console = Some(Transcript::of(pipe));
        }
    }

    pub fn type_on_terminal(&self, keys: &[u8]) {
        let mut keyboard = self.keyboard.as_ref().expect("it has a terminal");
        keyboard.write_all(keys).unwrap();
    }

    pub fn console(&self) -> String {
        let bytes = self.console.as_ref().map(Transcript::so_far);
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.so_far()).into_owned()
    }

    /// It has mounts of its own: the status is read where it sees it, and is gone with it.
    pub fn with_own_mounts(mut self) -> Self {
        self.mounts = true;
        self.reports = false;
        self
    }

    /// It cannot write its status: only the console tells the result.
    pub fn without_status(mut self) -> Self {
        self.reports = false;
        self
    }

    /// A file of the bed, as the init sees it.
    pub fn seen_path(&self, name: &str) -> PathBuf {
        let path = self.bed.path(name);
        if !self.mounts {
            return path;
        }
        let root = PathBuf::from(format!("/proc/{}/root", self.pid()));
        root.join(path.strip_prefix("/").unwrap())
    }

    /// What it reports; `Null` before it reports anything.
    pub fn status(&self) -> Value {
        fs::read(self.seen_path("run/status.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(Value::Null)
    }

    /// Waits until the status is as wanted.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        self.wait_until(what, |init| {
            last = init.status();
            wanted(&last).then(|| last.clone())
        })
    }

    pub fn wait_until<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let over = self.child.try_wait().unwrap();
            assert!(
                over.is_none() && Instant::now() < end,
                "waited in vain until {what} (ended: {over:?})\nstatus: {:#}\nconsole:\n{}",
                self.status(),
                self.console()
            );
            thread::sleep(LOOK);
        }
    }

    /// Waits until it is ready with this many restarts behind it.
    pub fn wait_ready(&mut self) -> Value {
        let status = self.wait_for("it is ready", |status| status["state"] == "ready");
        // Whatever a test shows of this daemon, it shows of one in its sandbox.
        assert_eq!(status["daemon"]["sandbox_verified"], true, "{status}");
        assert_eq!(status["daemon"]["seccomp"], true, "{status}");
        status
    }

    pub fn wait_ready_after(&mut self, restarts: u64) -> Value {
        self.wait_for("it is ready again", |status| {
            status["state"] == "ready" && status["restarts"].as_u64() >= Some(restarts)
        })
    }

    pub fn wait_applied(&mut self, generation: u64) -> Value {
        self.wait_for("the generation is in force", |status| {
            status["state"] == "ready" && status["config"]["applied_generation"] == generation
        })
    }

    /// The init's process id, as the test sees it.
    pub fn pid(&self) -> i32 {
        let own = i32::try_from(self.child.id()).unwrap();
        match self.place {
            Place::Child => own,
            Place::Namespace => children(own).first().copied().unwrap_or(own),
        }
    }

    /// The daemon's process id, as the test sees it.
    pub fn daemon(&self) -> i32 {
        let status = self.status();
        let inside = status["daemon"]["pid"].as_i64();
        child_known_as(self.pid(), inside.expect("a daemon runs"))
            .expect("the daemon is a child of the init")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn kill_daemon(&self) {
        kill(Pid::from_raw(self.daemon()), Signal::SIGKILL).unwrap();
    }

    /// Kills it by a signal that it cannot answer; what is left is the next one's.
    pub fn kill(mut self) -> Bed {
        self.signal(Signal::SIGKILL);
        self.wait_killed();
        self.take_bed()
    }

    /// Stops it, and returns how it ended and how long that took.
    pub fn stop(self) -> (End, Duration) {
        let begin = Instant::now();
        self.signal(Signal::SIGTERM);
        let end = self.wait_end();
        (end, begin.elapsed())
    }

    fn take_bed(&mut self) -> Bed {
        std::mem::replace(
            &mut self.bed,
            Bed {
                directory: PathBuf::from("/nonexistent"),
                address: String::new(),
                supervisor: String::new(),
                environment: Vec::new(),
                arguments: Vec::new(),
                init: PathBuf::new(),
                one_line: None,
            },
        )
    }

    /// Waits for its end by a signal that it cannot answer.
    pub fn wait_killed(&mut self) {
        let exit = self.child.wait().unwrap();
        assert_eq!(exit.code(), None, "{exit:?}");
        self.ended = true;
    }

    /// Waits for its end without ever reading its console.
    pub fn wait_end_unread(mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(exit) = self.child.try_wait().unwrap() {
                self.ended = true;
                return exit.code().expect("an exit code");
            }
            thread::sleep(LOOK);
        }
        panic!("the init does not end\nstatus: {:#}", self.status());
    }

    /// Waits for its end, and for all that its terminal shows.
    pub fn wait_end_in_words(mut self) -> (i32, String) {
        let exit = self.child.wait().unwrap();
        self.ended = true;
        let shown = finish(self.console.as_mut().unwrap());
        let shown = String::from_utf8_lossy(&shown).replace('\r', "");
        (exit.code().expect("an exit code"), shown)
    }

    /// Waits for its end. The last console line must be the result, and tell the truth.
    pub fn wait_end(mut self) -> End {
        let deadline = Instant::now() + PATIENCE;
        let exit = loop {
            if let Some(exit) = self.child.try_wait().unwrap() {
                break exit;
            }
            assert!(
                Instant::now() < deadline,
                "the init does not end\nstatus: {:#}\nconsole:\n{}",
                self.status(),
                self.console()
            );
            thread::sleep(LOOK);
        };
        self.ended = true;
        let code = exit.code().expect("an exit code");
        self.read_console();
        let output = finish(&mut self.output);
        let console = self.console.as_mut().map(finish);
        let result = console.as_deref().map_or(Value::Null, last_line);
        if console.is_some() {
            assert_eq!(result["exit_code"], code, "{result:#}");
        }
        if self.reports {
            assert_eq!(self.status()["exit_code"], code);
        }
        let bed = self.take_bed();
        End {
            code,
            result,
            console: console.unwrap_or_default(),
            output,
            bed,
        }
    }
}

fn finish(transcript: &mut Transcript) -> Vec<u8> {
    // A process that outlived the init may hold the pipe; what the init wrote is there.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !transcript.reader.is_finished() && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    transcript.so_far()
}

fn last_line(console: &[u8]) -> Value {
    let text = String::from_utf8_lossy(console);
    let last = text.lines().last().unwrap_or_default();
    let json = last
        .strip_prefix("sidecar-init: result ")
        .unwrap_or_else(|| panic!("the last line is not the result: {last}"));
    serde_json::from_str(json).expect("the result is JSON")
}

impl Drop for Init {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut everybody = vec![i32::try_from(self.child.id()).unwrap_or(i32::MAX)];
        let mut next = 0;
        while let Some(pid) = everybody.get(next) {
            everybody.extend(children(*pid));
            next += 1;
        }
        for pid in everybody {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// A terminal: what its user holds, and its line.
#[allow(unsafe_code)]
pub fn open_terminal() -> (File, File) {
    let (mut user, mut line) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: both are places for a descriptor; nothing else is asked for.
    let made =
        unsafe { nix::libc::openpty(&raw mut user, &raw mut line, none, none.cast(), none.cast()) };
    assert_eq!(made, 0, "openpty: {}", std::io::Error::last_os_error());
    [user, line]
        .map(|number| {
            // SAFETY: new, and nobody else's.
            let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(number) };
            let flag = nix::fcntl::FdFlag::FD_CLOEXEC;
            nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(flag)).unwrap();
            File::from(fd)
        })
        .into()
}

/// Connections that say nothing, made anew whenever they are closed; gone with their owner.
pub struct Flood {
    goes_on: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    pub fn of(count: usize, address: &str) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let (shared, address) = (Arc::clone(&goes_on), address.parse().unwrap());
        let thread = thread::spawn(move || {
            let mut open: Vec<TcpStream> = Vec::new();
            while shared.load(Ordering::Relaxed) {
                open.retain(|stream| {
                    let read = (&*stream).read(&mut [0; 64]);
                    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
                });
                while open.len() < count {
                    // The queue may be full, or nobody there.
                    match TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
                        Ok(stream) => {
                            stream.set_nonblocking(true).unwrap();
                            open.push(stream);
                        }
                        Err(_) => break,
                    }
                }
                thread::sleep(LOOK);
            }
        });
        Self {
            goes_on,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// The limit of open files of a process: soft, hard.
pub fn most_descriptors(pid: i32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut words = line.unwrap().split_whitespace().map(ToOwned::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The child of a process that calls itself that in its own PID namespace.
pub fn child_known_as(parent: i32, inside: i64) -> Option<i32> {
    children(parent).into_iter().find(|pid| {
        proc_field(*pid, "NSpid")
            .and_then(|pids| pids.split_whitespace().last()?.parse::<i64>().ok())
            == Some(inside)
    })
}

/// Of an init, those but the one who looks at its manifest for it.
pub fn others(pid: i32) -> Vec<i32> {
    let mut others = children(pid);
    others.retain(|child| !looks(*child));
    others
}

/// Of an init, the one who looks at its manifest for it.
pub fn looker(pid: i32) -> Option<i32> {
    children(pid).into_iter().find(|child| looks(*child))
}

fn looks(child: i32) -> bool {
    proc_field(child, "Name").as_deref() == Some("sidecar-looker")
}

/// A field of `/proc/<pid>/status`.
pub fn proc_field(pid: i32, name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()?
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix(name)?
                    .strip_prefix(':')?
                    .trim()
                    .to_owned(),
            )
        })
}

/// Processor time a process has used, in clock ticks (10 ms).
pub fn processor_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// How `unshare` makes a PID namespace here, or why it cannot.
pub fn namespace_arguments() -> Result<&'static [&'static str], String> {
    const ROOT: &[&str] = &["--pid", "--fork", "--mount-proc", "--kill-child"];
    const USER: &[&str] = &["-Ur", "--pid", "--fork", "--mount-proc", "--kill-child"];
    static WORKS: OnceLock<Result<&[&str], String>> = OnceLock::new();
    WORKS
        .get_or_init(|| {
            let mut reasons = Vec::new();
            for arguments in [ROOT, USER] {
                match Command::new("unshare").args(arguments).arg("true").output() {
                    Ok(output) if output.status.success() => return Ok(arguments),
                    Ok(output) => {
                        reasons.push(String::from_utf8_lossy(&output.stderr).into_owned());
                    }
                    Err(error) => reasons.push(error.to_string()),
                }
            }
            Err(reasons.join("; "))
        })
        .clone()
}

/// Both places, or the first and a plain word about what is not tested.
pub fn places() -> Vec<Place> {
    match namespace_arguments() {
        Ok(_) => vec![Place::Child, Place::Namespace],
        Err(why) => {
            // Not eprintln: the harness hides that of a test that passes.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: nothing is tested as PID 1, because no PID namespace can be made: {why}"
            );
            vec![Place::Child]
        }
    }
}

/// The daemon of `daemon.rs`.
fn breaking_daemon() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| example("breaking-daemon", "daemon.rs"))
}

/// An example of `Cargo.toml`, built if cargo has not built it with the tests.
pub fn example(name: &str, source: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(name);
    let source = format!("{}/tests/support/{source}", env!("CARGO_MANIFEST_DIR"));
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    if changed(&program) < changed(Path::new(&source)) {
        let mut build = Command::new(env!("CARGO"));
        build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--example", name]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "build {name}");
    }
    program
}
