//! The operator's loop through a machine, as `docs/loop.md` shows it: what an agent is refused,
//! what `watch` says of it, a grant of a minute, and its end. `RENEW_TRANSCRIPT=1` writes the
//! page's transcript anew.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use microvm::{
    BOOT_DEADLINE, Bundle, GUEST_ADDRESS, HOST_ADDRESS, Machine, RESOLVER_ADDRESS, Running,
    ScratchDir, connect_through, wait_for_status,
};
use sidecar_init::policy::grants::time;

use crate::support::init_program;
use crate::support::interception::{certify, shell};
use crate::support::servers::Servers;
use crate::support::tools::is_here;
use crate::work::client;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/loop.md");
const HOST: &str = "git.example.org";
/// From an end to when an open tunnel is gone.
const WITHIN: Duration = Duration::from_secs(5);

/// Ended on drop.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was typed and what came, with what differs from run to run taken out.
struct Transcript {
    text: String,
    port: String,
    /// Where it is typed.
    directory: String,
}

impl Transcript {
    fn typed(&mut self, line: &str) {
        self.text += &format!("$ {line}\n");
    }

    fn came(&mut self, lines: &str) {
        let lines = lines.replace(&self.directory, "$PWD");
        for line in lines.lines() {
            let words = if self.port.is_empty() {
                line.to_owned()
            } else {
                line.replace(&self.port, "")
            };
            let words = words.split(' ').map(|word| {
                let end = word.trim_end_matches([';', ',']).len();
                let (time, rest) = word.split_at(end);
                let is_time = time.len() >= 20 && time.starts_with("20") && time.contains('T');
                if is_time {
                    format!("TIME{rest}")
                } else {
                    word.to_owned()
                }
            });
            self.text += &words.collect::<Vec<_>>().join(" ");
            self.text += "\n";
        }
    }
}

/// The list that somebody has.
const LIST: &str = "# packages\nhttps://packages.example.org/simple\n";

/// What `import` makes of the list; the machine's network is the test's.
fn imported(directory: &Path) -> (String, String) {
    fs::write(directory.join("list.txt"), LIST).unwrap();
    let output = Command::new(init_program())
        .args(["import", "list.txt"])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let manifest = String::from_utf8(output.stdout).unwrap();
    let network = format!(
        "network: {{address: {GUEST_ADDRESS}/24, gateway: {HOST_ADDRESS}, dns: [{RESOLVER_ADDRESS}], internal_cidr: 10.0.2.0/24}}\n"
    );
    (manifest.clone(), manifest + &network)
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// This second since 1970 as a status has it.
fn written(second: u64) -> String {
    let date = Command::new("date")
        .args([
            "--utc",
            "--date",
            &format!("@{second}"),
            "+%Y-%m-%dT%H:%M:%SZ",
        ])
        .output()
        .unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

/// A server that gives back what it is sent; its port.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(count) = stream.read(&mut bytes) {
                    if count == 0 || stream.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

/// Whether it is open still: nothing has come, and neither has its end.
fn is_open(tunnel: &mut TcpStream) -> bool {
    tunnel
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let read = tunnel.read(&mut [0; 64]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// What is read of somebody who watches, piece by piece.
struct Watched {
    _process: Watching,
    log: PathBuf,
    shown: usize,
}

impl Watched {
    fn begin(scratch: &ScratchDir) -> Self {
        let log = scratch.join("watched");
        let process = Command::new(init_program())
            .args(["watch", "--run-dir"])
            .arg(scratch.join("export"))
            .stdout(fs::File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            _process: Watching(process),
            log,
            shown: 0,
        }
    }

    /// What has come since, once this has.
    fn until(&mut self, wanted: &str) -> String {
        let end = Instant::now() + BOOT_DEADLINE;
        loop {
            let text = fs::read_to_string(&self.log).unwrap();
            let news = &text[self.shown..];
            if news.contains(wanted) && news.ends_with('\n') {
                let news = news.to_owned();
                self.shown = text.len();
                return about_what_is_allowed(&news);
            }
            assert!(Instant::now() < end, "{wanted}: {text}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Of what `watch` tells, the lines that no mood of the machine changes: not how often it looked
/// while a daemon started.
fn about_what_is_allowed(lines: &str) -> String {
    let told = lines.lines().filter(|line| {
        let word = line.split_whitespace().nth(1);
        line.starts_with(' ') || matches!(word, Some("manifest" | "refused" | "revoked"))
    });
    told.map(|line| format!("{line}\n")).collect()
}

/// A machine with its directories, and a server of git's beside it.
struct Bed {
    scratch: ScratchDir,
    servers: Servers,
    running: Running,
    proxy: SocketAddr,
}

impl Bed {
    fn boot(scratch: ScratchDir, manifest: &str) -> Self {
        shell(scratch.path(), "mkdir -p manifest/trust export");
        certify(scratch.path(), &[HOST]);
        shell(scratch.path(), "cp root.pem manifest/trust/");
        write(&scratch, manifest);
        let servers = Servers::start(
            Command::new("env"),
            "exec python3 \"$2\" \"$1\" 0 0",
            scratch.path(),
        );
        shell(scratch.path(), "git init -q --bare git/notes.git");
        let upstream: Ipv4Addr = HOST_ADDRESS.parse().unwrap();
        let running = Machine::builder(&Bundle::from_target().unwrap())
            .no_ip_argument()
            .export_dir(scratch.join("export"))
            .manifest_dir(scratch.join("manifest"))
            .resolver([(HOST, upstream)])
            .forward(8888)
            .boot()
            .unwrap();
        let proxy = running.forwarded(8888).unwrap();
        let bed = Self {
            scratch,
            servers,
            running,
            proxy,
        };
        bed.wait_ready(1);
        bed
    }

    fn wait_ready(&self, generation: u64) -> Value {
        let status = wait_for_status(
            &self.scratch.join("export"),
            |status| {
                status["exit_code"].is_number()
                    || status["state"] == "ready"
                        && status["config"]["applied_generation"] == generation
            },
            BOOT_DEADLINE,
        )
        .unwrap();
        assert_eq!(status["state"], "ready", "{}", self.running.console());
        status
    }

    /// An agent's clone; what git says goes on the page.
    fn clones(&self, page: &mut Transcript) -> bool {
        let asked = "git clone https://$U/git/notes.git 2>&1";
        let (works, said) = client(&self.scratch, &self.servers, self.proxy, HOST, asked);
        page.typed(&format!("git clone https://{HOST}/git/notes.git"));
        page.came(&said);
        works
    }

    /// A grant of a minute, by the command; its end, in seconds since 1970.
    fn grants(&self, page: &mut Transcript) -> u64 {
        let options = "--for 1m --passthrough --manifest sidecar/manifest.yaml --export export";
        page.typed(&format!("sidecar-init grant {HOST} {options}"));
        let manifest = self.scratch.join("manifest/manifest.yaml");
        let output = Command::new(init_program())
            .args(["grant", HOST, "--for", "1m", "--passthrough", "--manifest"])
            .arg(&manifest)
            .arg("--export")
            .arg(self.scratch.join("export"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        // How long that took differs.
        let (before, left) = said.split_once("ends in ").unwrap();
        let (_, after) = left.split_once(',').unwrap();
        page.came(&format!("{before}ends in 1 min,{after}"));
        let text = fs::read_to_string(&manifest).unwrap();
        let (_, end) = text.split_once("until: ").unwrap();
        let end = end.split(['\n', ',', '}']).next().unwrap();
        time(end.trim().trim_matches('"'), seconds()).unwrap()
    }

    /// A tunnel to a host that is passed through, proved by what comes back.
    fn open_tunnel(&self) -> TcpStream {
        let authority = format!("{HOST}:{}", echo());
        let (answer, mut tunnel) = connect_through(self.proxy, &authority).unwrap();
        assert_eq!(answer.status, 200);
        tunnel.write_all(b"here").unwrap();
        let mut echoed = [0; 4];
        tunnel.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"here");
        tunnel
    }
}

/// Replaces the manifest by rename.
fn write(scratch: &ScratchDir, manifest: &str) {
    let new = scratch.join("manifest/new");
    fs::write(&new, manifest).unwrap();
    fs::rename(new, scratch.join("manifest/manifest.yaml")).unwrap();
}

/// Holds what came against the page, or puts it there.
fn compare(page: &Transcript) {
    let document = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = document.split_once("```console\n").unwrap();
    let (told, after) = rest.split_once("```").unwrap();
    if std::env::var_os("RENEW_TRANSCRIPT").is_some() {
        fs::write(PAGE, format!("{before}```console\n{}```{after}", page.text)).unwrap();
        return;
    }
    assert_eq!(page.text, told, "hint: RENEW_TRANSCRIPT=1 writes it anew");
}

#[test]
fn the_loop_of_the_page_is_what_comes() {
    if !is_here("git --version") {
        // Not eprintln: the harness hides that of a test that passes.
        let _ = writeln!(
            std::io::stderr(),
            "NOT CHECKED: the operator's loop: there is no git"
        );
        return;
    }
    let scratch = ScratchDir::new().unwrap();
    let mut page = Transcript {
        text: String::new(),
        port: String::new(),
        directory: scratch.path().to_str().unwrap().to_owned(),
    };
    let (told, manifest) = imported(scratch.path());
    page.typed("cat list.txt");
    page.came(LIST);
    page.typed("sidecar-init import list.txt | tee sidecar/manifest.yaml");
    page.came(&told);
    let bed = Bed::boot(scratch, &manifest);
    page.port = format!(":{}", bed.servers.https);
    let mut watched = Watched::begin(&bed.scratch);

    assert!(!bed.clones(&mut page));
    page.typed("sidecar-init watch --run-dir export");
    page.came(&watched.until(HOST));

    let until = bed.grants(&mut page);
    bed.wait_ready(2);
    assert!(bed.clones(&mut page), "{}", page.text);
    let mut tunnel = bed.open_tunnel();

    while seconds() < until - 2 {
        assert!(is_open(&mut tunnel), "before its time");
        thread::sleep(Duration::from_millis(100));
    }
    while is_open(&mut tunnel) {
        let late = seconds().saturating_sub(until);
        assert!(late <= BOOT_DEADLINE.as_secs(), "{}", bed.running.console());
    }
    // By the machine's own clock, which falls behind this one's where the processor is emulated.
    let status = bed.wait_ready(3);
    let done = status["revocation"]["done_at"].as_str().unwrap();
    assert!(
        done >= &*written(until) && done <= &*written(until + WITHIN.as_secs()),
        "{status:#}"
    );
    assert!(!bed.clones(&mut page));
    page.typed("sidecar-init watch --run-dir export");
    page.came(&watched.until("generation 3"));
    compare(&page);
}
