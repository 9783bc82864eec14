//! The server behind the firewall: `tests/standin/src/bin/upstream.rs`, started and listened to.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use microvm::Arch;
use serde_json::Value;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Every name the guest's resolver knows; all of them are the upstream's.
pub const NAMES: [&str; 13] = [
    "upstream.test",
    "capitals.test",
    "wild.test",
    "a.wild.test",
    "b.a.wild.test",
    "notwild.test",
    "denied.test",
    "limited.test",
    "brief.test",
    "late.test",
    "api.anthropic.com",
    "console.api.anthropic.com",
    "deny-all.invalid",
];

/// A running upstream, ended on drop.
pub struct Upstream {
    child: Child,
    pub http: u16,
    pub https: u16,
    /// Its own root certificate.
    pub root: PathBuf,
    records: Arc<Mutex<Vec<Value>>>,
}

impl Upstream {
    pub fn start(directory: &Path) -> Self {
        let program = program(Arch::host(), "upstream");
        let mut child = Command::new(&program)
            .arg(directory)
            .args(NAMES)
            .args(["supervise", microvm::HOST_ADDRESS, "127.0.0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ports: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let port = |scheme: &str| u16::try_from(ports[scheme].as_u64().unwrap()).unwrap();
        let records = Arc::new(Mutex::new(Vec::new()));
        let recording = Arc::clone(&records);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let record = serde_json::from_str(&line).unwrap();
                recording.lock().unwrap().push(record);
            }
        });
        Self {
            child,
            http: port("http"),
            https: port("https"),
            root: directory.join("root.pem"),
            records,
        }
    }

    /// The URL of a path, from the host itself.
    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.https)
    }

    /// Every request that has reached it.
    pub fn requests(&self) -> Vec<Value> {
        let records = self.records.lock().unwrap();
        let requests = records.iter().filter(|record| record["method"].is_string());
        requests.cloned().collect()
    }

    /// The request for a path that only one was sent to; it has been sent.
    pub fn request(&self, path: &str) -> Value {
        wait_until(&format!("a request for {path}"), || {
            self.requests().into_iter().find(|r| r["path"] == path)
        })
    }

    /// That nothing was asked of a path.
    pub fn assert_untouched(&self, path: &str) {
        let requests = self.requests();
        let reached = requests.iter().find(|r| r["path"] == path);
        assert_eq!(reached, None, "it reached the upstream");
    }

    /// Waits until it has seen an answer of its own dropped before its end.
    pub fn wait_for_cut_off(&self, path: &str) {
        wait_until(&format!("the cut-off of {path}"), || {
            let records = self.records.lock().unwrap();
            records.iter().any(|r| r["cut_off"] == path).then_some(())
        });
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Both fail only when it is dead and reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of the stand-in's crate, as built for an architecture.
pub fn program(arch: Arch, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(
        "tests/standin/target/{}-unknown-linux-musl/release/{name}",
        arch.name()
    ));
    assert!(
        path.is_file(),
        "cannot find {}\nhint: scripts/test builds it; or (cd tests/standin && cargo build \
         --release --target {}-unknown-linux-musl)",
        path.display(),
        arch.name()
    );
    path
}

/// Asks until there is an answer, for as long as that may take.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}
