use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::bed::{Bed, Daemon, Rendered, binary, free_port, sha256, tests_standin, wait_for};

#[test]
fn says_startup_with_the_files_hash_before_it_listens() {
    let bed = Bed::new();
    bed.install(&bed.render(&Rendered::default()));
    let port = free_port();
    let occupied = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut daemon = Daemon::spawn(bed.command(&binary()), port);
    let startup = daemon.event("startup", |_| true);
    let bytes = std::fs::read(bed.path("pipelock.yaml")).unwrap();
    let hash = sha256(bytes);
    let fields: Vec<&str> = startup
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let wanted = [
        "level",
        "component",
        "event",
        "listen",
        "mode",
        "version",
        "config_hash",
        "time",
        "message",
    ];
    assert_eq!(fields, wanted);
    assert_eq!(startup["config_hash"], hash);
    assert_eq!(startup["version"], "2.3.0");
    assert_eq!(startup["mode"], "strict");
    assert_eq!(startup["listen"], format!("127.0.0.1:{port}"));
    assert_eq!(daemon.wait().code(), Some(1));
    daemon.says(&format!(
        "proxy error: listen tcp 127.0.0.1:{port}: bind: address already in use"
    ));
    drop(occupied);
}

#[test]
fn health_has_these_fields_and_no_others() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    let answer = daemon.get("/health");
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    let health = daemon.health();
    let fields: Vec<&str> = health
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let wanted = [
        "status",
        "version",
        "mode",
        "uptime_seconds",
        "dlp_patterns",
        "response_scan_enabled",
        "git_protection_enabled",
        "rate_limit_enabled",
        "forward_proxy_enabled",
        "websocket_proxy_enabled",
        "request_body_scan_enabled",
        "tls_interception_enabled",
        "kill_switch_active",
    ];
    assert_eq!(fields, wanted);
    let yes = [
        "response_scan_enabled",
        "rate_limit_enabled",
        "forward_proxy_enabled",
        "request_body_scan_enabled",
        "tls_interception_enabled",
    ];
    for field in wanted
        .iter()
        .filter(|f| f.ends_with("_enabled") || f.ends_with("_active"))
    {
        assert_eq!(health[field], yes.contains(field), "{field}");
    }
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["version"], "2.3.0");
    assert_eq!(health["mode"], "strict");
    assert_eq!(health["dlp_patterns"], 48);
    assert!(health["uptime_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn serves_metrics_and_stats_on_the_same_port() {
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    let metrics = daemon.get("/metrics").body;
    for line in [
        "# TYPE pipelock_active_tunnels gauge",
        "pipelock_active_tunnels 0",
        "pipelock_info{version=\"2.3.0\"} 1",
        "pipelock_kill_switch_active{source=\"signal\"} 0",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "no line {line:?} in {metrics}"
        );
    }
    let stats: serde_json::Value = serde_json::from_str(&daemon.get("/stats").body).unwrap();
    assert_eq!(stats["requests"]["total"], 0);
    assert_eq!(stats["tunnels"], 0);
    daemon.get("/nowhere").refuses(404, "404 page not found");
}

#[test]
fn warns_when_everybody_can_reach_it() {
    let bed = Bed::new();
    bed.install(&bed.render(&Rendered::default()));
    let port = free_port();
    let mut command = bed.command(&binary());
    command.arg("--listen").arg(format!("0.0.0.0:{port}"));
    // Spawned apart: the bed's daemons listen on loopback only.
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the port", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let first = String::from_utf8(output.stdout).unwrap();
    let first: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert_eq!(first["event"], "anomaly");
    assert_eq!(first["method"], "STARTUP");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("WARNING: fetch_proxy.listen: listen address 0.0.0.0"),
        "{said}"
    );
}

#[test]
fn the_command_lines_listen_overrides_the_files() {
    let bed = Bed::new();
    let elsewhere = format!("\nfetch_proxy:\n  listen: \"127.0.0.1:{}\"\n", free_port());
    let daemon = bed.start(&Rendered {
        more: elsewhere,
        ..Rendered::default()
    });
    assert_eq!(daemon.health()["mode"], "strict");
}

#[test]
fn runs_as_nobody_with_no_environment_and_writes_no_file() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can become nobody");
        return;
    }
    let bed = Bed::new();
    bed.install(&bed.render(&Rendered::default()));
    for file in ["pipelock.yaml", "ca-key.pem"] {
        std::os::unix::fs::chown(bed.path(file), Some(65534), Some(65534)).unwrap();
        std::fs::set_permissions(bed.path(file), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let program = bed.path("pipelock");
    std::fs::copy(binary(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let files = || {
        let mut names: Vec<_> = std::fs::read_dir(bed.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = files();
    let mut command = bed.command(&program);
    command.env_clear().uid(65534).gid(65534);
    let mut daemon = Daemon::spawn(command, free_port());
    daemon.wait_until_healthy();
    daemon.connect("canary.invalid:443", "").0.refuses(
        403,
        "CONNECT blocked: domain not in allowlist: canary.invalid",
    );
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(files(), before);
}

#[test]
fn the_stand_in_says_what_it_is() {
    if !tests_standin() {
        eprintln!("skipped: pipelock is no stand-in");
        return;
    }
    let bed = Bed::new();
    let daemon = bed.start(&Rendered::default());
    daemon.says("stand-in for pipelock 2.3.0: for tests, not a security product");
}
