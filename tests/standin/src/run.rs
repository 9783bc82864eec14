//! `pipelock run`: from the arguments to the last event.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hudsucker::Proxy;
use signal_hook::consts::{SIGUSR1, SIGUSR2};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Run;
use crate::config::{self, Config, go_words};
use crate::events::{self, Context};
use crate::faults::Faults;
use crate::proxy::Gate;
use crate::reload::Reloader;
use crate::state::Shared;
use crate::upstream::Connector;
use crate::{VERSION, ca};

/// pipelock compiles its patterns before it hears signals and listens; 40 ms on
/// the machines it was measured on. An init must be tried against that window.
const BALLAST: Duration = Duration::from_millis(40);

/// Runs the daemon; the code is the process's.
pub fn run(program: &str, arguments: &Run) -> ExitCode {
    let faults = match Faults::beside(program) {
        Ok(faults) => faults,
        Err(e) => {
            eprintln!("stand-in: {e}");
            return ExitCode::from(3);
        }
    };
    eprintln!("stand-in for pipelock {VERSION}: for tests, not a security product");
    // Go's runtime takes these two from the first moment, heard or not.
    for signal in [SIGUSR1, SIGUSR2] {
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
    faults.before_start();
    match prepared(arguments, faults) {
        Ok(shared) => start(program, arguments, Arc::new(shared)),
        Err(cause) => {
            eprintln!("{cause}");
            ExitCode::FAILURE
        }
    }
}

fn prepared(arguments: &Run, faults: Faults) -> Result<Shared, String> {
    let mut config = match &arguments.config {
        Some(path) => config::load(path).map_err(|e| format!("loading config: {e}"))?,
        None => Config::default(),
    };
    if let Some(mode) = &arguments.mode {
        mode.clone_into(&mut config.mode);
    }
    if let Some(listen) = &arguments.listen {
        listen.clone_into(&mut config.listen);
    }
    warn_of_exposure(&config.listen);
    config.validate().map_err(|e| e.to_string())?;
    let authority = ca::load(&config).map_err(|e| e.to_string())?;
    Ok(Shared::new(config, authority, faults))
}

/// The address without its port, where there is a port.
fn host_of(listen: &str) -> Option<&str> {
    let (host, _) = listen.rsplit_once(':')?;
    Some(host.trim_matches(['[', ']']))
}

fn is_loopback(host: &str) -> bool {
    host.parse::<std::net::IpAddr>()
        .map_or(!host.is_empty(), |a| a.is_loopback())
}

/// By what pipelock goes: Docker's file, the kubelet's variable, the group of PID 1.
fn is_containerized() -> bool {
    let runtimes = ["docker", "containerd", "podman", "cri-o"];
    std::path::Path::new("/.dockerenv").exists()
        || std::env::var("KUBERNETES_SERVICE_HOST").is_ok_and(|host| !host.is_empty())
        || std::fs::read_to_string("/proc/1/cgroup")
            .is_ok_and(|groups| runtimes.iter().any(|name| groups.contains(name)))
}

fn warn_of_exposure(listen: &str) {
    let Some(host) = host_of(listen) else { return };
    let warn =
        |message| eprintln!("WARNING: fetch_proxy.listen: listen address {listen} {message}");
    if !host.is_empty() && !is_loopback(host) {
        warn("is not loopback - proxy endpoints (/metrics, /stats) will be exposed to the network");
    }
    if matches!(host, "" | "0.0.0.0" | "::") {
        warn("binds to all interfaces - consider using 127.0.0.1 for local-only access");
    }
}

fn start(program: &str, arguments: &Run, shared: Arc<Shared>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("stand-in: cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(program, arguments, shared)) {
        Ok(never) => match never {},
        Err(cause) => {
            eprintln!("{cause}");
            // Not by dropping the runtime: it would wait for blocked writers.
            std::process::exit(1)
        }
    }
}

async fn serve(
    program: &str,
    arguments: &Run,
    shared: Arc<Shared>,
) -> Result<std::convert::Infallible, String> {
    tokio::time::sleep(BALLAST).await;
    hear_signals(&shared).map_err(|e| go_words(&e))?;
    if let Some(path) = &arguments.config {
        match Reloader::start(path, arguments.listen.clone()) {
            Ok(reloader) => {
                tokio::spawn(reloader.run(Arc::clone(&shared)));
            }
            Err(cause) => {
                let about = Context {
                    method: "CONFIG_RELOAD".to_owned(),
                    resource: path.clone(),
                    ..Context::default()
                };
                events::error(&about, &cause).send("request error").await;
            }
        }
    }
    let config = shared.runtime().config.clone();
    announce(arguments, &config);
    let host = host_of(&config.listen);
    if host.is_some_and(|h| !is_loopback(h) && h != "localhost") {
        let about = Context {
            method: "STARTUP".to_owned(),
            resource: config.listen.clone(),
            ..Context::default()
        };
        let exposed = "listen address is not loopback — /metrics and /stats endpoints are \
                       exposed to the network";
        events::anomaly(&about, "", exposed, 0.5)
            .send("anomaly detected")
            .await;
    }
    if !shared.faults.no_startup_event {
        let said = said_hash(&shared.faults, &config.hash);
        events::startup(&config.listen, &config.mode, &said)
            .send("pipelock started")
            .await;
    }
    if shared.faults.never_bind {
        shared.faults.after_bind(program);
        return Ok(std::future::pending().await);
    }
    let listener = bind(&config.listen).await?;
    shared.faults.after_bind(program);
    let proxy = Proxy::builder()
        .with_listener(listener)
        .with_ca(ca::Unasked)
        .with_http_connector(Connector(Arc::clone(&shared)))
        .with_http_handler(Gate::new(shared))
        .build()
        .map_err(|e| format!("proxy error: {e}"))?;
    proxy
        .start()
        .await
        .map_err(|e| format!("proxy error: {e}"))?;
    Ok(std::future::pending().await)
}

async fn bind(listen: &str) -> Result<TcpListener, String> {
    let Some(host) = host_of(listen) else {
        return Err(format!(
            "proxy error: listen tcp: address {listen}: missing port in address"
        ));
    };
    let port = listen.rsplit_once(':').map_or("", |(_, port)| port);
    let address = match host {
        "" | "0.0.0.0" | "::" if has_both_families().await => format!("[::]:{port}"),
        "" | "0.0.0.0" | "::" => format!("0.0.0.0:{port}"),
        _ => listen.to_owned(),
    };
    TcpListener::bind(&address)
        .await
        .map_err(|e| format!("proxy error: listen tcp {listen}: {}", go_words(&e)))
}

/// As Go finds it out: whether a socket of IPv6 can be bound to an
/// address of IPv4.
async fn has_both_families() -> bool {
    TcpListener::bind("[::ffff:127.0.0.1]:0").await.is_ok()
}

/// The hash the events carry.
pub fn said_hash(faults: &Faults, hash: &str) -> String {
    if faults.wrong_hash {
        "0".repeat(64)
    } else {
        hash.to_owned()
    }
}

fn announce(arguments: &Run, config: &Config) {
    let listen = &config.listen;
    if !is_containerized() {
        eprintln!(
            "WARNING: running outside a container - consider using Docker/Podman for network isolation"
        );
    }
    eprintln!("Pipelock v{VERSION} starting");
    eprintln!("  Mode:   {}", config.mode);
    eprintln!("  Listen: {listen}");
    eprintln!("  Fetch:  http://{listen}/fetch?url=<url>");
    eprintln!("  Health: http://{listen}/health");
    eprintln!("  Stats:  http://{listen}/stats");
    if config.forward_proxy {
        eprintln!("  Proxy:  HTTP/HTTPS forward proxy enabled (CONNECT + absolute-URI)");
    }
    if let Some(path) = &arguments.config {
        eprintln!("  Config: {path} (hot-reload enabled, SIGHUP to reload)");
    }
}

fn hear_signals(shared: &Arc<Shared>) -> std::io::Result<()> {
    let mut toggle = signal(SignalKind::user_defined1())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = toggle.recv() => {
                    let was = shared.kill_signal.fetch_xor(true, Ordering::SeqCst);
                    let now = if was { "DEACTIVATED" } else { "ACTIVATED" };
                    eprintln!("pipelock: kill switch {now} via SIGUSR1");
                }
                Some(()) = terminate.recv() => stop(&shared).await,
                Some(()) = interrupt.recv() => stop(&shared).await,
                Some(()) = quit.recv() => {
                    eprintln!("SIGQUIT: quit\nPC=0x0 m=0 sigcode=0\n");
                    for number in 1..=60 {
                        eprintln!("goroutine {number} [select]:\nstandin.wait(...)\n");
                    }
                    std::process::exit(2);
                }
            }
        }
    });
    Ok(())
}

async fn stop(shared: &Shared) {
    if shared.faults.ignore_term {
        return;
    }
    events::shutdown().send("pipelock stopping").await;
    eprintln!("\nPipelock stopped.");
    std::process::exit(0);
}
