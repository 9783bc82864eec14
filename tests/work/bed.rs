//! A network of its own in which the clients, the firewall and what they work with have real
//! names and ports: `servers.py`, Debian's docker-registry, the init with its daemon, and that
//! daemon once more alone, on the configuration that the init has rendered.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use microvm::ScratchDir;
use serde_json::Value;

use crate::support::interception::{Running, certify, shell};
use crate::support::pipelock;
use crate::support::servers::Servers;
use crate::support::tools::{is_here, path};

/// Every service has a name in each: passed through, and opened by the firewall.
pub const PASSED: &str = "passed.test";
pub const OPENED: &str = "opened.test";
const SERVICES: [&str; 9] = [
    "npm", "pypi", "crates", "modules", "git", "apt", "files", "stream", "socket",
];
const REGISTRY: &str = "registry";
/// Where the daemon listens that has no init.
const ALONE: &str = "http://127.0.0.2:8888";
const PATIENCE: Duration = Duration::from_secs(60);

/// Which of the two daemons a client is to use.
#[derive(Clone, Copy)]
pub enum Daemon {
    Ours,
    Alone,
}

/// What a client did.
pub struct Done {
    pub works: bool,
    pub said: String,
    pub took: Duration,
}

pub struct Bed {
    pub scratch: ScratchDir,
    /// What else runs there.
    daemons: Vec<Running>,
    /// The process whose namespaces everything here lives in.
    servers: Servers,
}

impl Bed {
    /// With these keys below `pipelock:`.
    pub fn start(tuning: &str) -> Self {
        let scratch = ScratchDir::new().unwrap();
        let directory = scratch.path();
        certify(directory, &[&format!("*.{PASSED}"), &format!("*.{OPENED}")]);
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for domain in [PASSED, OPENED] {
            for service in SERVICES {
                writeln!(hosts, "127.0.0.1 {service}.{domain}").unwrap();
            }
            writeln!(hosts, "127.0.0.3 {REGISTRY}.{domain}").unwrap();
        }
        fs::write(directory.join("hosts"), hosts).unwrap();
        fs::write(
            directory.join("registry.yaml"),
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/registry}}}}\n\
                 http:\n  addr: 127.0.0.3:443\n  tls: {{certificate: {0}/leaf.pem, key: {0}/leaf.key}}\n",
                directory.display()
            ),
        )
        .unwrap();
        fs::write(
            directory.join("manifest.yaml"),
            format!(
                "version: 1\nslug: work\nbottle: {{egress: {{routes: [{{host: \"*.{PASSED}\"}}, {{host: \"*.{OPENED}\"}}]}}}}\n\
                 network: {{internal_cidr: 127.0.0.0/8}}\n\
                 pipelock: {{listen: \"127.0.0.1:8888\", passthrough: [\"*.{PASSED}\"]{tuning}}}\n"
            ),
        )
        .unwrap();
        shell(
            directory,
            "mkdir -p trust run/export registry; cp root.pem trust/",
        );
        pipelock::copy_into(directory);

        let mut holder = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            holder.arg("-Ur");
        }
        // Not forked: what serves is the process that holds the namespaces.
        holder.args(["--net", "--mount"]);
        let servers = Servers::start(
            holder,
            "ip link set lo up; mount --bind \"$1/hosts\" /etc/hosts
             mount -t tmpfs none /run; mkdir /run/sidecar-export
             mount --bind \"$1/run/export\" /run/sidecar-export
             exec python3 \"$2\" \"$1\" 443 80",
            directory,
        );
        let mut bed = Self {
            daemons: Vec::new(),
            servers,
            scratch,
        };
        bed.start_registry();
        bed.start_init();
        bed.start_alone();
        bed
    }

    /// `sh -c script` in the bed's network; `$W` is its directory.
    fn inside(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.servers.pid()));
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
            .args(["--net", "--mount", "sh", "-euc", script])
            .env("W", self.scratch.path());
        command
    }

    /// Waits until a script in the bed's network succeeds.
    fn wait_for(&self, what: &str, script: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.inside(script).output().unwrap().status.success() {
            assert!(Instant::now() < end, "{what} did not come\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn daemon(&self, script: &str) -> Running {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.scratch.join("log"))
            .unwrap();
        let mut command = self.inside(script);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.spawn().unwrap())
    }

    /// With an image in it; where the registry is not here, its client says so.
    fn start_registry(&mut self) {
        if !is_here("docker-registry --version && skopeo --version") {
            return;
        }
        let registry = self.daemon("exec docker-registry serve \"$W/registry.yaml\"");
        self.daemons.push(registry);
        self.wait_for(
            "a registry with an image",
            &format!(
                "SSL_CERT_FILE=$W/root.pem skopeo copy --insecure-policy -q dir:$W/image docker://{REGISTRY}.{PASSED}/image:1"
            ),
        );
    }

    fn start_init(&mut self) {
        let script = format!(
            "cd \"$W\"; exec {} run --manifest manifest.yaml --daemon \"$W/pipelock\" --run-dir run \
             --cert run/ca.pem --key run/ca.key",
            env!("CARGO_BIN_EXE_sidecar-init")
        );
        let init = self.daemon(&script);
        self.daemons.push(init);
        self.wait_for(
            "a ready firewall",
            "grep -q '\"state\": *\"ready\"' \"$W/run/export/status.json\"",
        );
    }

    /// The daemon without its init, in a session of its own as with it: the kernel shares the
    /// processors out by session (`sched_autogroup_enabled`).
    fn start_alone(&mut self) {
        let address = ALONE.trim_start_matches("http://");
        let alone = self.daemon(&format!(
            "exec setsid \"$W/pipelock\" run --config \"$W/run/pipelock.yaml\" --listen {address} >/dev/null"
        ));
        self.daemons.push(alone);
        self.wait_for("pipelock alone", &format!("curl -sf {ALONE}/health"));
    }

    /// Runs `script` as an agent would: `client.env` read, nothing else known. `$D` is the
    /// domain, `$RUN` another number each time, `$SUM_…` what is served, and `same SUM FILE`
    /// compares.
    pub fn client(&self, daemon: Daemon, domain: &str, script: &str) -> Done {
        static RUN: AtomicU32 = AtomicU32::new(0);
        let mut preparation = "cd \"$HOME\"; set -a; . /run/sidecar-export/client.env; set +a\n\
            same() { printf '%s  %s\\n' \"$1\" \"$2\" | sha256sum --check --quiet; }\n"
            .to_owned();
        if matches!(daemon, Daemon::Alone) {
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
                writeln!(preparation, "export {name}={ALONE}").unwrap();
            }
        }
        let home = ScratchDir::new().unwrap();
        // The toolchain's own: the one in PATH may be a chooser that needs its own home.
        let cargo = Path::new(env!("CARGO"));
        let mut command = self.inside(&format!("{preparation}{script}"));
        command
            .env_clear()
            .envs(self.servers.sums.iter().cloned())
            .env("W", self.scratch.path())
            .env("T", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/work"))
            .env("PATH", path())
            .env("HOME", home.path())
            .env("CARGO", cargo)
            .env("RUSTC", cargo.with_file_name("rustc"))
            .env("D", domain)
            .env("RUN", RUN.fetch_add(1, Ordering::Relaxed).to_string());
        let began = Instant::now();
        let output = command.output().unwrap();
        let took = began.elapsed();
        Done {
            works: output.status.success(),
            said: format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            took,
        }
    }

    /// What `denials.json` says of a host, once there is a refusal whose meaning has `words`:
    /// that meaning, and the advice.
    pub fn told(&self, host: &str, words: &str) -> Result<(String, String), String> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(self.export("denials.json")).unwrap_or_default();
            let denials: Value = serde_json::from_str(&text).unwrap_or_default();
            let all = denials["denials"].as_array().cloned().unwrap_or_default();
            let word = |denial: &Value, name: &str| denial[name].as_str().map(str::to_owned);
            for denial in all.iter().filter(|denial| denial["host"] == host) {
                if let Some(means) = word(denial, "means").filter(|means| means.contains(words)) {
                    return Ok((means, word(denial, "advice").unwrap_or_default()));
                }
            }
            if Instant::now() > end {
                return Err(text);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `sidecar-init status` prints.
    pub fn status(&self) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_sidecar-init"))
            .args(["status", "--run-dir"])
            .arg(self.scratch.join("run"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn export(&self, name: &str) -> PathBuf {
        self.scratch.join("run/export").join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}
