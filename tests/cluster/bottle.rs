//! A bottle in the cluster, made as docs/kubernetes.md says, and what is asked of it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use microvm::ScratchDir;
use nix::unistd::Pid;
use serde_json::Value;

pub use crate::said::{both, say};

/// Longer than anything here takes on a busy machine: the kubelet's period is a minute or two.
pub const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);
const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/image/kubernetes");
/// The manifest most bottles have. Passed through: what it is about here are packets.
pub const MANIFEST: &str = "version: 1
slug: @
bottle:
  egress:
    routes:
      - host: internet.test
pipelock:
  passthrough: [internet.test]
";

/// The cluster, for one test at a time: some measure, one drains the node. Without one says so, aloud.
pub fn cluster() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if std::env::var_os("SIDECAR_CLUSTER").is_some() {
        return Some(TURN.lock().unwrap_or_else(PoisonError::into_inner));
    }
    say("NOT CHECKED: bottles on a cluster: there is none here; scripts/cluster test brings one");
    None
}

pub fn try_kubectl(arguments: &[&str]) -> Output {
    Command::new("kubectl").args(arguments).output().unwrap()
}

/// What it prints; anything but success is a failure of the test.
pub fn kubectl(arguments: &[&str]) -> String {
    let output = try_kubectl(arguments);
    assert!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        both(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn object(arguments: &[&str]) -> Value {
    let mut all = vec!["get", "-o", "json"];
    all.extend(arguments);
    serde_json::from_str(&kubectl(&all)).unwrap()
}

/// Waits until `look` has something, and says how long that took.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> (T, Duration) {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return (found, began.elapsed());
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        sleep(LOOK);
    }
}

/// A bottle; on drop its namespace goes, not waited for.
pub struct Bottle {
    _scratch: ScratchDir,
    objects: PathBuf,
    slug: String,
    pub namespace: String,
}

impl Bottle {
    /// One that is applied, with both Pods ready. `@` in the manifest is its slug.
    pub fn start(slug: &str, manifest: &str) -> Self {
        let bottle = Self::make(slug, manifest);
        bottle.apply();
        bottle.wait_ready();
        bottle
    }

    /// Its directory alone.
    pub fn make(slug: &str, manifest: &str) -> Self {
        Self::make_of(slug, manifest, |text| text)
    }

    /// The same, with what is common to all bottles edited.
    pub fn make_of(slug: &str, manifest: &str, edit: impl Fn(String) -> String) -> Self {
        let scratch = ScratchDir::new().unwrap();
        let objects = scratch.join("bottles");
        let copied = Command::new("cp")
            .arg("-r")
            .arg(OBJECTS)
            .arg(&objects)
            .status();
        assert!(copied.unwrap().success());
        let file = objects.join("bottle/kustomization.yaml");
        let text = fs::read_to_string(&file)
            .unwrap()
            .replace("registry.example/sidecar-init", "localhost/sidecar-init")
            .replace("registry.example/my-agent", "localhost/agent");
        let text = edit(text);
        // What an agent may not do without root, but may be allowed to: else ICMP is not tried.
        let patched = format!(
            "{text}patches:
  - target: {{kind: Deployment, name: agent}}
    patch: |-
      - op: add
        path: /spec/template/spec/securityContext/sysctls
        value: [{{name: net.ipv4.ping_group_range, value: '0 2147483647'}}]
      - op: add
        path: /spec/template/spec/terminationGracePeriodSeconds
        value: 1
"
        );
        assert!(patched.contains("localhost/agent"));
        fs::write(&file, patched).unwrap();
        let bottle = Self {
            _scratch: scratch,
            objects,
            slug: slug.to_owned(),
            namespace: format!("bottle-{slug}"),
        };
        bottle.write(manifest);
        bottle
    }

    /// The manifest in its directory is this one.
    pub fn write(&self, manifest: &str) {
        let file = self.objects.join("new.yaml");
        fs::write(&file, manifest.replace('@', &self.slug)).unwrap();
        let made = Command::new(self.objects.join("new-bottle"))
            .env("SIDECAR_INIT", env!("CARGO_BIN_EXE_sidecar-init"))
            .arg(&self.slug)
            .arg(&file)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", both(&made));
    }

    pub fn directory(&self) -> PathBuf {
        self.objects.join(&self.slug)
    }

    pub fn apply(&self) -> String {
        kubectl(&["apply", "-k", path(&self.directory())])
    }

    pub fn wait_ready(&self) {
        for deployment in ["deployment/pipelock", "deployment/agent"] {
            let ready = try_kubectl(&[
                "--namespace",
                &self.namespace,
                "rollout",
                "status",
                deployment,
                "--timeout=90s",
            ]);
            assert!(
                ready.status.success(),
                "{}\n{}\n{}",
                both(&ready),
                self.kubectl(&["describe", "pods"]),
                both(&try_kubectl(&[
                    "--namespace",
                    &self.namespace,
                    "logs",
                    deployment
                ]))
            );
        }
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(arguments);
        kubectl(&all)
    }

    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(arguments);
        try_kubectl(&all)
    }

    /// The one Pod of a component that is not on its way out.
    pub fn pod(&self, component: &str) -> Value {
        let label = format!("app.kubernetes.io/component={component}");
        let pods = object(&["--namespace", &self.namespace, "pods", "-l", &label]);
        let mut there: Vec<&Value> = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|pod| pod["metadata"].get("deletionTimestamp").is_none())
            .collect();
        assert_eq!(there.len(), 1, "{pods}");
        there.pop().unwrap().clone()
    }

    /// Runs a command in the agent's Pod.
    pub fn agent(&self, command: &[&str]) -> Output {
        let mut all = vec!["exec", "deployment/agent", "-c", "agent", "--"];
        all.extend(command);
        self.try_kubectl(&all)
    }

    /// What a request of the agent through its proxy comes to: the status, 0 for none.
    pub fn request(&self, url: &str) -> u32 {
        let said = self.agent(&[
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-m",
            "5",
            "-w",
            "%{http_code} %{http_connect}",
            url,
        ]);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let codes: Vec<u32> = text
            .split(' ')
            .filter_map(|code| code.parse().ok())
            .collect();
        match codes[..] {
            [0, connect] => connect,
            [code, _] => code,
            _ => panic!("{}", both(&said)),
        }
    }

    /// The process of this name in the one Pod of a component.
    pub fn process(&self, component: &str, name: &str) -> Pid {
        process(&self.pod(component), name)
    }

    /// What the sidecar reports.
    pub fn status(&self) -> Value {
        let said = self.try_kubectl(&[
            "exec",
            "deployment/pipelock",
            "--",
            "/sbin/sidecar-init",
            "status",
            "--json",
        ]);
        serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{}", both(&said)))
    }
}

/// Whether this process is in the Pod's one container.
pub fn is_in(pod: &Value, pid: Pid) -> bool {
    let container = pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap();
    let container = container.rsplit('/').next().unwrap();
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|group| group.contains(container))
}

/// The process on the node that has this name and is in the Pod.
pub fn process(pod: &Value, name: &str) -> Pid {
    find_process(pod, name, "comm", |comm| comm.trim() == name)
}

/// The one with this in its arguments.
pub fn process_of(pod: &Value, argument: &str) -> Pid {
    find_process(pod, argument, "cmdline", |line| line.contains(argument))
}

fn find_process(pod: &Value, what: &str, file: &str, is_it: impl Fn(&str) -> bool) -> Pid {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let pid = Pid::from_raw(pid);
        (is_it(&text) && is_in(pod, pid)).then_some(pid)
    });
    let found: Vec<Pid> = all.collect();
    assert_eq!(found.len(), 1, "{what}: {found:?}");
    found[0]
}

/// What an agent saw while something was done to its bottle: requests one after the other, from
/// within its Pod, to a host that is allowed at first and to one that never is.
pub struct Watch {
    running: Child,
    lines: BufReader<ChildStdout>,
    first: String,
}

/// Each line: seconds when both were over, and what they came to (0: no answer).
const WATCH: &str = r#"
import sys, threading, time, urllib.request, urllib.error
stop = threading.Event()
def request(url):
    try:
        return urllib.request.urlopen(url, timeout=3).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
while not stop.is_set():
    codes = request("http://internet.test/"), request("http://other.test/")
    print(time.monotonic(), *codes, flush=True)
    time.sleep(0.05)
"#;

/// One look of it.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Seconds, on the node's clock that nobody sets.
    pub at: f64,
    pub allowed: u32,
    pub forbidden: u32,
}

impl Watch {
    pub fn begin(bottle: &Bottle) -> Self {
        let mut running = Command::new("kubectl")
            .args(["--namespace", &bottle.namespace, "exec", "-i"])
            .args([
                "deployment/agent",
                "-c",
                "agent",
                "--",
                "python3",
                "-c",
                WATCH,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap());
        // It has begun.
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        Self {
            running,
            lines,
            first,
        }
    }

    /// Ends it; nothing forbidden was answered with anything but a refusal.
    pub fn end(mut self) -> Vec<Seen> {
        drop(self.running.stdin.take());
        let mut text = self.first;
        self.lines.read_to_string(&mut text).unwrap();
        let _ = self.running.wait();
        let seen: Vec<Seen> = text
            .lines()
            .map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                Seen {
                    at: fields[0].parse().unwrap(),
                    allowed: fields[1].parse().unwrap(),
                    forbidden: fields[2].parse().unwrap(),
                }
            })
            .collect();
        assert!(!seen.is_empty(), "nothing was watched");
        assert!(
            seen.iter().all(|look| look.forbidden != 200),
            "the forbidden host answered: {seen:?}"
        );
        seen
    }
}

/// The longest time without an answer from the allowed host, in seconds.
pub fn longest_gap(seen: &[Seen]) -> f64 {
    let mut last = seen.first().map_or(0.0, |look| look.at);
    let mut longest = 0.0_f64;
    for look in seen {
        longest = longest.max(look.at - last);
        if look.allowed == 200 {
            last = look.at;
        }
    }
    longest
}

impl Drop for Bottle {
    fn drop(&mut self) {
        let _ = try_kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
