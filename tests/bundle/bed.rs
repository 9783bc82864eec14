//! A network of its own, in which the machine of the bundle has one address and the servers
//! behind it another; the init runs there as a process.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use microvm::ScratchDir;
use serde_json::Value;

use crate::support::chain::{INJECTED, OTHER, PARTS, PLACE, TOKEN, Upstream, write_token};
use crate::support::interception::{Running, certify, shell};
use crate::support::pipelock;
use crate::support::said::both;

/// The bundle's own, where the agent reaches it.
pub const ADDRESS: &str = "10.9.0.2";
const UPSTREAM: &str = "10.9.0.3";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Bed {
    pub scratch: ScratchDir,
    init: Running,
    /// Its process holds the namespaces.
    pub upstream: Upstream,
}

impl Bed {
    /// With these entries of `daemons`, which `@` is the directory of the programs in.
    pub fn start(bottle: &str, daemons: &dyn Fn(&str, &str) -> String) -> Self {
        Self::start_under("", bottle, daemons)
    }

    /// The same, the init started by this program.
    pub fn start_under(
        program: &str,
        bottle: &str,
        daemons: &dyn Fn(&str, &str) -> String,
    ) -> Self {
        let scratch = ScratchDir::new().unwrap();
        let directory = scratch.path();
        // Other users than this one are to look in.
        shell(
            directory,
            &format!(
                "chmod 755 .; mkdir -p host/trust run export parts; cp {PARTS}{PLACE}/* parts/
                 printf '127.0.0.1 localhost\\n{ADDRESS} supervise\\n{UPSTREAM} {INJECTED} {OTHER}\\n' > hosts"
            ),
        );
        write_token(&scratch.join("host"), TOKEN);
        certify(directory, &[INJECTED, OTHER]);
        shell(
            directory,
            "cp root.pem host/trust/; cp root.pem parts/ca.pem",
        );
        pipelock::copy_into(directory);
        let mut holder = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            holder.arg("-Ur");
        }
        holder.args(["--net", "--mount"]);
        let upstream = Upstream::start(
            holder,
            &format!(
                "ip link set lo up; ip address add {ADDRESS}/32 dev lo; ip address add {UPSTREAM}/32 dev lo
                 mount --bind \"$0/hosts\" /etc/hosts; mount -t tmpfs none \"$0/run\"
                 mkdir \"$0/run/export\"; mount --bind \"$0/export\" \"$0/run/export\""
            ),
            directory,
            (UPSTREAM, 443),
        );
        let text = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
        let parts = daemons(&text("parts"), &text("run"));
        fs::write(scratch.join("daemons"), parts).unwrap();
        let log = fs::File::create(scratch.join("log")).unwrap();
        let mut bed = Self {
            init: Running(Command::new("true").spawn().unwrap()),
            upstream,
            scratch,
        };
        bed.write_manifest(bottle);
        let mut init = bed.inside(&format!(
            "cd \"$W\"; exec {program} {} run --manifest host/manifest.yaml --daemon \"$W/pipelock\" --run-dir \"$W/run\" \
             --cert run/ca.pem --key run/ca.key",
            env!("CARGO_BIN_EXE_sidecar-init")
        ));
        init.stdout(log.try_clone().unwrap()).stderr(log);
        bed.init = Running(init.spawn().unwrap());
        bed
    }

    /// The daemons of the next manifest.
    pub fn replace_daemons(&self, daemons: &str) {
        fs::write(self.scratch.join("daemons"), daemons).unwrap();
    }

    /// Replaces the manifest: this bottle, and the daemons of before.
    pub fn write_manifest(&self, bottle: &str) {
        let daemons = fs::read_to_string(self.scratch.join("daemons")).unwrap();
        let text = format!(
            "version: 1\nslug: chain\nbottle: {bottle}\nnetwork: {{internal_cidr: 10.9.0.0/24}}\n\
             pipelock: {{listen: \"127.0.0.1:8888\", requests_per_minute: 600}}\n\
             daemons:\n{daemons}supervisor: {{grace_seconds: 2, probe_seconds: 1}}\n"
        );
        fs::write(self.scratch.join("new"), text).unwrap();
        fs::rename(
            self.scratch.join("new"),
            self.scratch.join("host/manifest.yaml"),
        )
        .unwrap();
    }

    /// `sh -c script` in the bed's network; `$W` is its directory, `$HOME` as well.
    pub fn inside(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.upstream.pid()));
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
            .args(["--net", "--mount", "sh", "-euc", script])
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("HOME", self.scratch.path())
            .env("W", self.scratch.path())
            .stdin(Stdio::null());
        command
    }

    /// What a script does that has to succeed.
    pub fn run(&self, script: &str) -> String {
        let output = self.inside(script).output().unwrap();
        assert!(
            output.status.success(),
            "{script}\n{}\n{}",
            both(&output),
            self.log()
        );
        both(&output)
    }

    pub fn status(&self) -> Value {
        let read = fs::read(self.scratch.join("export/status.json"));
        serde_json::from_slice(&read.unwrap_or_default()).unwrap_or_default()
    }

    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let over = self.init.0.try_wait().unwrap();
            assert!(
                over.is_none() && Instant::now() < end,
                "waited in vain until {what} (ended: {over:?})\n{:#}\n{}",
                self.status(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until every daemon is ready, each in a sandbox that was read back.
    pub fn wait_ready(&mut self) -> Value {
        let status = self.wait_for("all are ready", |bed| {
            let status = bed.status();
            let daemons = status["daemons"].as_array()?;
            let ready = |daemon: &Value| daemon["state"] == "ready";
            (ready(&status) && daemons.iter().all(ready)).then_some(status)
        });
        for daemon in status["daemons"].as_array().unwrap() {
            assert_eq!(daemon["sandbox_verified"], true, "{daemon}");
        }
        status
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}
