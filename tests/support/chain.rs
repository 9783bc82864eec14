//! The bundle's real parts and the server behind them: mitmproxy as egress with an add-on that
//! injects a token, a gate for git, a service that is asked for approvals.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::interception::Running;

/// Its requests are given the token.
pub const INJECTED: &str = "api.test";
/// Its are not.
pub const OTHER: &str = "other.test";
/// What the agent does not have. Words, so that nothing takes it for a secret on the way.
pub const TOKEN: &str = "the-token-of-the-bundle";
/// A body that pipelock refuses.
pub const SECRET: &str = "key=AKIAIOSFODNN7EXAMPLE";

/// The agent's proxy, the gate, and whom it asks for approvals.
pub const EGRESS: u16 = 8080;
pub const GATE: u16 = 9418;
pub const SUPERVISE: u16 = 9000;

/// A manifest's bottle: these two, and whom the agent asks for approvals.
pub const BOTTLE: &str =
    "{supervise: true, egress: {routes: [{host: api.test}, {host: other.test}]}}";
/// Without the first of the two, and without supervise.
pub const REVOKED: &str = "{egress: {routes: [{host: other.test}]}}";

/// What `scripts/test` makes of Debian's packages: mitmproxy, Python and git in a tree.
pub const DEBIAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bundle/debian");

/// Where the parts' programs are in the checkout: a tree for `image/build --with`.
pub const PARTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/parts");
/// Where they are below it.
pub const PLACE: &str = "/usr/lib/bundle-parts";

/// mitmproxy, with the programs in `parts` and the run directory `run`.
pub fn egress(parts: &str, run: &str) -> String {
    format!(
        "  egress:
    exec: [/usr/bin/mitmdump, --mode, \"upstream:http://127.0.0.1:8888\", --listen-port, \"{EGRESS}\",
           --set, confdir={run}/egress/ca, --set, ssl_verify_upstream_trusted_ca={run}/client/ca-bundle.pem,
           --scripts, {parts}/inject.py]
    listen: [{EGRESS}]
    ready: {{tcp: {EGRESS}}}
    agent_proxy: {EGRESS}
    agent_ca: ca/mitmproxy-ca-cert.pem
    env: {{INJECT_FOR: {INJECTED}}}
    files: [{parts}]
"
    )
}

/// The same in a few lines of Python, which is there at once. It opens no TLS, so that it injects
/// into plain requests alone.
pub fn small_egress(parts: &str) -> String {
    format!(
        "  egress:
    exec: [/usr/bin/python3, {parts}/egress.py, \"{EGRESS}\"]
    listen: [{EGRESS}]
    ready: {{tcp: {EGRESS}}}
    agent_proxy: {EGRESS}
    env: {{INJECT_FOR: {INJECTED}}}
    files: [{parts}]
"
    )
}

/// The two that Python runs; the gate begins when egress is ready.
pub fn others(parts: &str) -> String {
    format!(
        "  git-gate:
    exec: [/usr/bin/python3, {parts}/git_gate.py, \"{GATE}\"]
    listen: [{GATE}]
    ready: {{http: {GATE}/health}}
    files: [{parts}]
    after: [egress]
    essential: false
  supervise:
    exec: [/usr/bin/python3, {parts}/supervise.py, \"{SUPERVISE}\"]
    listen: [{SUPERVISE}]
    ready: {{http: {SUPERVISE}/health}}
    files: [{parts}]
    after: [git-gate]
    essential: false
"
    )
}

/// Puts egress's token beside the manifest in a directory.
pub fn write_token(directory: &Path, token: &str) {
    let place = directory.join("credentials/egress");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("new"), token).unwrap();
    fs::rename(place.join("new"), place.join("token")).unwrap();
}

/// The server behind it all, ended on drop.
pub struct Upstream {
    process: Running,
    pub port: u16,
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Upstream {
    /// Serves `directory`'s certificate at an address; `shell` is what leads to `sh`, and
    /// `before` what is done there first.
    pub fn start(
        mut shell: Command,
        before: &str,
        directory: &Path,
        (address, port): (&str, u16),
    ) -> Self {
        let program = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/support/chain_upstream.py"
        );
        let script = format!("{before}\nexec python3 {program} \"$0\" {address} {port}");
        let mut process = shell
            .args(["sh", "-euc", &script])
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let process = Running(process);
        let port = lines.next().expect("it says above why not").unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seeing = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                seeing
                    .lock()
                    .unwrap()
                    .push(serde_json::from_str(&line).unwrap());
            }
        });
        Self {
            process,
            port: port.parse().unwrap(),
            seen,
        }
    }

    /// The process itself, in whatever namespaces it is.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// With what authorization each request for a path of a host came. It prints a request
    /// before it answers, and is read meanwhile: what was answered is waited for.
    pub fn authorizations(&self, host: &str, path: &str, wanted: usize) -> Vec<Value> {
        let end = std::time::Instant::now() + super::PATIENCE;
        loop {
            let found: Vec<Value> = self
                .seen
                .lock()
                .unwrap()
                .iter()
                .filter(|it| it[0] == host && it[1] == path)
                .map(|it| it[2].clone())
                .collect();
            if found.len() >= wanted {
                return found;
            }
            assert!(std::time::Instant::now() < end, "{host}{path}: {found:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
