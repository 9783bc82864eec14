//! What all of the daemon shares: the configuration in force, the kill switch,
//! the counters.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use hudsucker::rustls::ClientConfig;

use crate::ca::Authority;
use crate::config::Config;
use crate::faults::Faults;
use crate::guard::RateLimiter;

/// A configuration in force, and what was built from it.
pub struct Runtime {
    /// The configuration.
    pub config: Config,
    /// Requests counted since it came into force.
    pub limiter: RateLimiter,
}

/// The daemon's state.
pub struct Shared {
    runtime: RwLock<Arc<Runtime>>,
    authority: RwLock<Option<Arc<Authority>>>,
    /// What to do wrong.
    pub faults: Faults,
    /// When the process began to serve.
    pub started: Instant,
    /// Toggled by USR1.
    pub kill_signal: AtomicBool,
    /// Counters behind `/metrics` and `/stats`.
    pub counters: Counters,
    /// Trust in upstreams, built when first needed, as pipelock does.
    pub upstream_tls: OnceLock<Arc<ClientConfig>>,
    requests: AtomicU64,
}

/// What `/metrics` and `/stats` count.
#[derive(Default)]
pub struct Counters {
    /// Raw tunnels that are open. Intercepted ones are not counted.
    pub active_tunnels: AtomicI64,
    /// Raw tunnels that were opened and closed.
    pub tunnels: AtomicU64,
    /// Bytes they carried.
    pub tunnel_bytes: AtomicU64,
    /// Plain requests and raw tunnels that were served.
    pub allowed: AtomicU64,
    /// Plain requests that were refused.
    pub blocked: AtomicU64,
    /// CONNECTs that were refused.
    pub tunnels_blocked: AtomicU64,
}

impl Shared {
    /// State at start.
    pub fn new(config: Config, authority: Option<Arc<Authority>>, faults: Faults) -> Self {
        Self {
            runtime: RwLock::new(Arc::new(Runtime::new(config))),
            authority: RwLock::new(authority),
            faults,
            started: Instant::now(),
            kill_signal: AtomicBool::new(false),
            counters: Counters::default(),
            upstream_tls: OnceLock::new(),
            requests: AtomicU64::new(0),
        }
    }

    /// The configuration in force now. A tunnel keeps the one it began with.
    pub fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.runtime.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings a configuration into force.
    pub fn replace(&self, config: Config) {
        let runtime = Arc::new(Runtime::new(config));
        *self.runtime.write().unwrap_or_else(PoisonError::into_inner) = runtime;
    }

    /// The CA in force, if any.
    pub fn authority(&self) -> Option<Arc<Authority>> {
        self.authority
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Brings a CA into force.
    pub fn replace_authority(&self, authority: Option<Arc<Authority>>) {
        *self
            .authority
            .write()
            .unwrap_or_else(PoisonError::into_inner) = authority;
    }

    /// What switched all traffic off, if anything did.
    pub fn killed_by(&self) -> Option<&'static str> {
        if self.runtime().config.kill_switch {
            return Some("config");
        }
        self.kill_signal.load(Ordering::SeqCst).then_some("signal")
    }

    /// The next request's name.
    pub fn next_request_id(&self) -> String {
        format!("req-{}", self.requests.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Runtime {
    fn new(config: Config) -> Self {
        Self {
            limiter: RateLimiter::new(config.max_requests_per_minute),
            config,
        }
    }
}
