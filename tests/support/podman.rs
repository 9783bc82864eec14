//! A container engine of a test's own: podman, or Docker's, in a PID, mount and network
//! namespace, with its own storage and networks. Nothing of it is left when the test ends,
//! however it ends, and nothing in it reaches anything outside.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use microvm::ScratchDir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use super::said::both;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// PID 1 of the namespaces. It ignores SIGCHLD, so that the kernel reaps what podman
/// leaves; whatever of the host's podman could be met is hidden.
const HOLDER: &str = "
ip link set lo up
mount -t tmpfs none /run
mount -t tmpfs none /dev/shm
trap '' CHLD
echo up
exec sleep infinity";

/// runc and cgroupfs work without a service manager and on both kinds of control groups;
/// the limits are ones that any user may set.
const ENGINE: &str = r#"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "@/networks"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
"#;

const STORAGE: &str = r#"
[storage]
driver = "overlay"
graphroot = "@/storage"
runroot = "@/running"
"#;

/// What the archive of `image/oci` is called once it is loaded.
pub const IMAGE: &str = concat!("localhost/sidecar-init:", env!("CARGO_PKG_VERSION"));

/// What an agent is here: a shell, curl, and the public roots.
const AGENT_PROGRAMS: [&str; 5] = ["sh", "cat", "curl", "grep", "sleep"];

/// What podman takes; `scripts/common.sh` installs it.
const PODMAN: &[&str] = &["podman", "runc", "netavark", "aardvark-dns"];
/// What Docker takes.
const DOCKER: &[&str] = &["dockerd", "docker", "containerd", "runc", "iptables"];

/// The engine, ended on drop with every container.
pub struct Engine {
    pub scratch: ScratchDir,
    /// What its commands begin with: `podman` or `docker`.
    pub program: &'static str,
    holder: Child,
    /// PID 1 of its namespaces, as seen from here.
    inside: i32,
    /// Docker's, which podman has none of.
    daemon: Option<Child>,
}

impl Engine {
    /// An engine with the image under test as [`IMAGE`], or why there can be none here.
    pub fn start(program: &'static str) -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err(format!("containers of {program}, for want of root"));
        }
        let own = if program == "podman" { PODMAN } else { DOCKER };
        let mut needed = own.iter().chain(&["nsenter", "ip"]);
        if let Some(missing) = needed.find(|program| !is_here(program)) {
            return Err(format!(
                "containers of {program}: {missing} is not here, and scripts/test installs it"
            ));
        }
        let scratch = ScratchDir::new().unwrap();
        let here = scratch.path().to_str().unwrap();
        for (name, text) in [("containers.conf", ENGINE), ("storage.conf", STORAGE)] {
            fs::write(scratch.join(name), text.replace('@', here)).unwrap();
        }
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--mount-proc"])
            .args(["--net", "--fork", "--kill-child", "sh", "-euc", HOLDER])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // unshare complains when its child is killed, which is how this ends.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "up\n", "the engine's namespaces");
        let pid = holder.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let mut engine = Self {
            scratch,
            program,
            holder,
            inside: children.trim().parse().unwrap(),
            daemon: None,
        };
        if program == "docker" {
            engine.daemon = Some(engine.start_daemon());
        }
        // As the README has it.
        engine.shell(
            Path::new(env!("CARGO_MANIFEST_DIR")),
            &format!("{program} load --input target/bundle/oci/sidecar-init.tar"),
        );
        Ok(engine)
    }

    /// Docker's daemon, which listens once this returns.
    fn start_daemon(&self) -> Child {
        let place = |name: &str| self.scratch.join(name).display().to_string();
        let mut daemon = self
            .command("dockerd")
            .args(["--bridge=none", "--storage-driver=vfs", "--host"])
            .arg(self.docker_host())
            .arg(format!("--data-root={}", place("data")))
            .arg(format!("--exec-root={}", place("exec")))
            .arg(format!("--pidfile={}", place("dockerd.pid")))
            .arg(format!("--cgroup-parent=/{}", self.control_group()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
        while said
            .last()
            .is_none_or(|line: &String| !line.contains("API listen on"))
        {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("{}", said.join("\n")));
            said.push(line.unwrap());
        }
        // Read on: a full pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        daemon
    }

    fn docker_host(&self) -> String {
        format!("unix://{}", self.scratch.join("docker.sock").display())
    }

    /// Of Docker's containers, below each mount of control groups.
    fn control_group(&self) -> String {
        format!("sidecar-init-docker-{}", self.holder.id())
    }

    /// A command in the engine's namespaces.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.inside.to_string()])
            .args(["--pid", "--mount", "--net", "--"])
            .arg(program)
            .stdin(Stdio::null())
            .env("CONTAINERS_CONF", self.scratch.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.scratch.join("storage.conf"))
            .env("DOCKER_HOST", self.docker_host())
            .env("HOME", self.scratch.path());
        command
    }

    /// What the engine does with these arguments.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(self.program).args(arguments).output().unwrap()
    }

    /// What the engine prints; it has to succeed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(
            output.status.success(),
            "{} {}: {}",
            self.program,
            arguments.join(" "),
            both(&output)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs a script as documentation prints it, in a directory.
    pub fn shell(&self, directory: &Path, script: &str) -> String {
        let output = self
            .command("sh")
            .args(["-euc", &format!("cd \"$0\"\n{script}")])
            .arg(directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}\n{}", both(&output));
        both(&output)
    }

    /// A new directory with a manifest that has these lines after `version` and `slug`.
    pub fn bottle(&self, name: &str, manifest: &str) -> PathBuf {
        let directory = self.scratch.join(name);
        for part in ["sidecar", "export"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        write_manifest(&directory, manifest);
        directory
    }

    /// The image `my-agent`, with what an agent needs to ask for a page.
    pub fn make_agent_image(&self) {
        let tree = self.scratch.join("agent");
        let copied = Command::new("sh")
            .args(["-euc", AGENT_TREE, "sh"])
            .arg(&tree)
            .args(AGENT_PROGRAMS)
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", both(&copied));
        let archive = self.scratch.join("agent.tar");
        let archive = archive.to_str().unwrap();
        self.run(&[
            "import",
            "--change",
            "CMD [\"sleep\", \"infinity\"]",
            archive,
            "my-agent",
        ]);
    }

    /// Everything a container has said.
    pub fn logs(&self, container: &str) -> String {
        both(&self.try_run(&["logs", container]))
    }

    /// The status that the container's own command prints; `Null` before there is one.
    pub fn status(&self, container: &str) -> Value {
        let asked = self.try_run(&["exec", container, "/sbin/sidecar-init", "status", "--json"]);
        serde_json::from_slice(&asked.stdout).unwrap_or(Value::Null)
    }

    /// Waits until the engine's own health check passes: Docker does them by itself, podman
    /// where somebody asks for one.
    pub fn wait_healthy(&self, container: &str) -> Value {
        self.wait_until(container, "it is healthy", || {
            let passes = if self.program == "podman" {
                let check = self.try_run(&["healthcheck", "run", container]);
                check.status.success()
            } else {
                self.inspect(container, "{{.State.Health.Status}}") == "healthy"
            };
            passes.then(|| self.status(container))
        })
    }

    /// Waits until a container has ended; its exit code.
    pub fn wait_end(&self, container: &str) -> i32 {
        self.wait_until(container, "it ends", || {
            let state = self.inspect(container, "{{.State.Status}} {{.State.ExitCode}}");
            state.strip_prefix("exited ")?.parse().ok()
        })
    }

    pub fn inspect(&self, container: &str, format: &str) -> String {
        self.run(&[
            "inspect",
            "--type",
            "container",
            "--format",
            format,
            container,
        ])
    }

    pub fn wait_until<T>(
        &self,
        container: &str,
        what: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{container}: waited in vain until {what}\n{}",
                self.logs(container)
            );
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The namespace ends with its PID 1, and everything in it before `unshare` returns.
        let _ = kill(Pid::from_raw(self.inside), Signal::SIGKILL);
        let _ = self.holder.wait();
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        let _ = daemon.wait();
        let name = self.control_group();
        for controller in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            remove_control_group(&controller.path().join(&name));
        }
        remove_control_group(&Path::new("/sys/fs/cgroup").join(&name));
    }
}

/// With those in it; the processes have ended.
fn remove_control_group(group: &Path) {
    for inner in fs::read_dir(group).into_iter().flatten().flatten() {
        if inner.path().is_dir() {
            remove_control_group(&inner.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Whether a program is in `PATH`, or where podman keeps its own.
fn is_here(program: &str) -> bool {
    let looked = format!("command -v {program} || test -x /usr/lib/podman/{program}");
    let found = Command::new("sh").args(["-c", &looked]).output();
    found.is_ok_and(|output| output.status.success())
}

/// Copies programs with their libraries, and the public roots, and packs them.
const AGENT_TREE: &str = r#"
tree=$1
shift
mkdir -p "$tree/bin" "$tree/tmp" "$tree/etc/ssl/certs"
for program; do
    program=$(command -v "$program")
    cp -L "$program" "$tree/bin/"
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$tree${library%/*}"
        cp -nL "$library" "$tree$library"
    done
done
chmod 1777 "$tree/tmp"
find /usr/share/ca-certificates/mozilla -name '*.crt' -exec awk 1 {} + >"$tree/etc/ssl/certs/ca-certificates.crt"
tar -C "$tree" -cf "$tree.tar" .
"#;

/// The manifest of a bottle's directory, replaced as a whole.
pub fn write_manifest(directory: &Path, manifest: &str) {
    let new = directory.join("sidecar/new");
    fs::write(&new, format!("version: 1\nslug: contained\n{manifest}")).unwrap();
    fs::rename(new, directory.join("sidecar/manifest.yaml")).unwrap();
}

/// podman, or a plain word that nothing is checked.
pub fn engine() -> Option<Engine> {
    engine_of("podman")
}

/// podman or docker, or a plain word that nothing is checked.
pub fn engine_of(program: &'static str) -> Option<Engine> {
    match Engine::start(program) {
        Ok(engine) => Some(engine),
        Err(why) => {
            // Not eprintln: the harness hides that of a test that passes.
            let _ = writeln!(std::io::stderr(), "NOT CHECKED: {why}");
            None
        }
    }
}

/// The last line of a log: the result.
pub fn result(log: &str) -> Value {
    let line = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("sidecar-init: result "))
        .unwrap_or_else(|| panic!("no result in:\n{log}"));
    serde_json::from_str(line).unwrap()
}
