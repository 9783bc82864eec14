//! One booted sidecar for all the cases of a bottle, with an upstream to reach.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use microvm::{
    BOOT_DEADLINE, Bundle, GUEST_ADDRESS, HOST_ADDRESS, Machine, MachineBuilder, RESOLVER_ADDRESS,
    Response, Running, ScratchDir, connect_through, get, get_through, wait_for_status,
};
use serde_json::Value;

use super::client::{Answer, Curl};
pub use crate::support::upstream::wait_until;
use crate::support::upstream::{self, PATIENCE, Upstream};

pub const PROXY_PORT: u16 = 8888;

/// The network part of a manifest that leads to the upstream, and nothing more.
pub fn network(more: &str) -> String {
    format!(
        "network:
  address: {GUEST_ADDRESS}/24
  gateway: {HOST_ADDRESS}
  dns: [{RESOLVER_ADDRESS}]
{more}"
    )
}

/// Put together so that no scanner of sources takes it for a key.
pub fn access_id() -> String {
    ["AKIA", "IOSFODNN7", "EXAMPLE"].concat()
}

/// Twelve words of the BIP-39 list whose checksum is right.
pub fn seed_phrase() -> String {
    format!("{} about", ["abandon"; 11].join(" "))
}

/// What a machine is booted with.
pub struct Bottle {
    pub manifest: String,
    /// Whether the upstream's root lies in `trust/` beside the manifest.
    pub trust: bool,
}

/// A machine that several cases share: booted by the first, ended after the last. A run
/// of only some of them ends it with the process.
pub struct Shared {
    bottle: fn() -> Bottle,
    cases_left: AtomicUsize,
    sidecar: Mutex<Option<Result<Arc<Sidecar>, ()>>>,
}

impl Shared {
    pub const fn new(bottle: fn() -> Bottle, cases: usize) -> Self {
        Self {
            bottle,
            cases_left: AtomicUsize::new(cases),
            sidecar: Mutex::new(None),
        }
    }

    pub fn run(&self, case: fn(&Sidecar)) {
        let _leaver = Leaver(self);
        let sidecar = {
            // Poisoned by the case whose boot failed: the others shall not wait for theirs.
            let mut slot = self.lock();
            if slot.is_none() {
                *slot = Some(Err(()));
                *slot = Some(Ok(Arc::new(Sidecar::boot((self.bottle)()))));
            }
            slot.clone()
        };
        match sidecar {
            Some(Ok(sidecar)) => case(&sidecar),
            _ => panic!("the sidecar did not boot for another case"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Result<Arc<Sidecar>, ()>>> {
        self.sidecar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a case as done however it ends.
struct Leaver<'a>(&'a Shared);

impl Drop for Leaver<'_> {
    fn drop(&mut self) {
        if self.0.cases_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.lock().take();
        }
    }
}

/// The cases of a bottle as tests. One that is written and not listed is dead code.
macro_rules! cases {
    ($bottle:ident: $($case:ident),+ $(,)?) => {
        static SHARED: $crate::contract::bed::Shared =
            $crate::contract::bed::Shared::new($bottle, [$(stringify!($case)),+].len());

        mod case {
            $(#[test]
            fn $case() {
                super::SHARED.run(super::$case);
            })+
        }
    };
}
pub(crate) use cases;

/// A sidecar that is ready.
pub struct Sidecar {
    running: Running,
    pub upstream: Upstream,
    scratch: ScratchDir,
    pub proxy: SocketAddr,
}

impl Sidecar {
    pub fn boot(bottle: Bottle) -> Self {
        let (machine, scratch, upstream) = prepare(bottle);
        let running = machine.boot().unwrap();
        let status = wait_for_status(
            &scratch.join("export"),
            |status| status["state"] == "ready" || status["exit_code"].is_number(),
            BOOT_DEADLINE,
        )
        .unwrap_or_else(|error| panic!("{error}\n{}", running.console()));
        assert_eq!(status["state"], "ready", "{status}\n{}", running.console());
        // Whatever a case shows, it shows of a daemon in its whole sandbox.
        let daemon = &status["daemon"];
        assert_eq!(daemon["sandbox_verified"], true, "{status}");
        assert_eq!(daemon["sandbox_missing"], Value::Array(vec![]), "{status}");
        Self {
            proxy: running.forwarded(PROXY_PORT).unwrap(),
            running,
            upstream,
            scratch,
        }
    }

    /// The CA that the init generated and exported.
    pub fn ca(&self) -> PathBuf {
        self.scratch.join("export/pipelock-ca.pem")
    }

    pub fn write_manifest(&self, manifest: &str) {
        let path = self.scratch.join("manifest/manifest.yaml");
        let new = self.scratch.join("manifest/new");
        fs::write(&new, manifest).unwrap();
        fs::rename(new, path).unwrap();
    }

    pub fn wait_for_status(&self, accepts: impl FnMut(&Value) -> bool) -> Value {
        wait_for_status(&self.scratch.join("export"), accepts, PATIENCE).unwrap()
    }

    /// Waits until the daemon has taken over a manifest: the first is generation 1.
    pub fn wait_for_generation(&self, generation: u64) {
        self.wait_for_status(|status| {
            status["config"]["applied_generation"] == generation && status["state"] == "ready"
        });
    }

    /// The URL of a path at the upstream, by one of its names.
    pub fn https(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.upstream.https)
    }

    pub fn http(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.upstream.http)
    }

    /// curl through the proxy, trusting the sidecar's CA alone.
    pub fn curl(&self) -> Curl {
        Curl::through(self.proxy).trust(&self.ca())
    }

    /// An intercepted GET by any HTTP version.
    pub fn get(&self, host: &str, path: &str) -> Answer {
        self.curl().get(&self.https(host, path))
    }

    /// What a proxied plain GET is answered.
    pub fn forward(&self, host: &str, path: &str) -> Response {
        get_through(self.proxy, &self.http(host, path)).unwrap()
    }

    /// What a CONNECT is answered. The tunnel is closed at once.
    pub fn connect(&self, authority: &str) -> Response {
        connect_through(self.proxy, authority).unwrap().0
    }

    /// That neither a tunnel nor a plain request gets to a host, for the allowlist's sake.
    pub fn assert_not_allowed(&self, host: &str) {
        let path = format!("/refused/{host}");
        let words = format!("blocked: domain not in allowlist: {}", host.to_lowercase());
        let tunnel = self.connect(&format!("{host}:{}", self.upstream.https));
        assert_eq!(tunnel.status, 403, "{host}: {tunnel:?}");
        assert_eq!(tunnel.body.trim_end(), format!("CONNECT {words}"));
        let plain = self.forward(host, &path);
        assert_eq!(plain.status, 403, "{host}: {plain:?}");
        assert_eq!(plain.body.trim_end(), words);
        let client = self.get(host, &path);
        assert_eq!((client.connect_status, client.status), (403, 0), "{host}");
        self.upstream.assert_untouched(&path);
    }

    /// That so many requests, each over its own connection, are served together: the upstream
    /// answers none before all are there. They come one after another, because QEMU listens
    /// for its forwarded ports with a backlog of one and loses connections of a burst.
    pub fn assert_serves_at_once(&self, count: usize, host: &str, curl: impl Fn() -> Curl) {
        let path = format!("/meet/{count}");
        let arrived = || {
            let requests = self.upstream.requests();
            requests.iter().filter(|r| r["path"] == path).count()
        };
        let url = self.https(host, &path);
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let clients: Vec<_> = (1..=count)
                .map(|number| {
                    let curl = curl().args(["--http1.1", "--max-time", "600"]);
                    let client = scope.spawn(|| curl.get(&url));
                    wait_until("a connection", || {
                        (arrived() >= number || client.is_finished()).then_some(())
                    });
                    client
                })
                .collect();
            let answers = clients.into_iter().map(|client| client.join().unwrap());
            answers.collect()
        });
        for answer in answers {
            answer.assert_ok("hello from upstream");
        }
    }

    /// The names the guest has asked its resolver for.
    pub fn names_asked(&self) -> Vec<String> {
        let queries = self.running.dns_queries();
        queries.into_iter().map(|query| query.name).collect()
    }

    /// `pipelock_active_tunnels` on `/metrics`.
    pub fn active_tunnels(&self) -> u32 {
        let metrics = get(self.proxy, "/metrics").unwrap().body;
        let count = metrics
            .lines()
            .find_map(|line| line.strip_prefix("pipelock_active_tunnels "));
        count.unwrap().parse().unwrap()
    }
}

/// A bottle's directories and upstream, and the machine that would boot from them.
pub fn prepare(bottle: Bottle) -> (MachineBuilder, ScratchDir, Upstream) {
    let scratch = ScratchDir::new().unwrap();
    for directory in ["manifest", "export", "upstream"] {
        fs::create_dir(scratch.join(directory)).unwrap();
    }
    fs::write(scratch.join("manifest/manifest.yaml"), bottle.manifest).unwrap();
    let upstream = Upstream::start(&scratch.join("upstream"));
    if bottle.trust {
        fs::create_dir(scratch.join("manifest/trust")).unwrap();
        let delivered = scratch.join("manifest/trust/upstream.pem");
        fs::copy(&upstream.root, delivered).unwrap();
    }
    let host: Ipv4Addr = HOST_ADDRESS.parse().unwrap();
    let names = upstream::NAMES.into_iter().map(|name| (name, host));
    let machine = Machine::builder(&Bundle::from_target().unwrap())
        .no_ip_argument()
        .resolver(names)
        .manifest_dir(scratch.join("manifest"))
        .export_dir(scratch.join("export"))
        .forward(PROXY_PORT);
    (machine, scratch, upstream)
}
