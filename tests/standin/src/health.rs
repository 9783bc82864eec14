//! What the proxy port itself answers: `/health`, `/metrics`, `/stats`.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hudsucker::hyper::header::{CONTENT_TYPE, HeaderValue};
use hudsucker::hyper::{Response, StatusCode};
use hudsucker::{Body, Error, futures};
use serde_json::json;

use crate::VERSION;
use crate::proxy::{json as json_response, text};
use crate::state::Shared;

const HUGE: usize = 10 * 1024 * 1024;

/// Answers an origin-form request.
pub async fn serve(shared: &Shared, path: &str) -> Response<Body> {
    match path {
        "/health" => health(shared).await,
        "/metrics" => {
            let mut response = Response::new(Body::from(metrics(shared)));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/stats" => json_response(StatusCode::OK, &stats(shared)),
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

async fn health(shared: &Shared) -> Response<Body> {
    let faults = &shared.faults;
    let uptime = shared.started.elapsed();
    let hangs = faults
        .hang_after
        .is_some_and(|after| uptime >= Duration::from_millis(after));
    if faults.hang_health || hangs {
        return std::future::pending().await;
    }
    let config = &shared.runtime().config;
    let body = json!({
        "status": "healthy",
        "version": if faults.wrong_version { "9.9.9" } else { VERSION },
        "mode": if faults.wrong_mode { "balanced" } else { &config.mode },
        "uptime_seconds": uptime.as_secs_f64(),
        "dlp_patterns": config.dlp_patterns,
        "response_scan_enabled": config.response_scanning,
        "git_protection_enabled": config.git_protection,
        "rate_limit_enabled": config.max_requests_per_minute > 0,
        "forward_proxy_enabled": config.forward_proxy,
        "websocket_proxy_enabled": config.websocket_proxy,
        "request_body_scan_enabled": config.body_scanning,
        "tls_interception_enabled": config.tls_interception,
        "kill_switch_active": shared.killed_by().is_some(),
    });
    let mut response = json_response(StatusCode::OK, &body);
    if faults.garbage_health {
        *response.body_mut() = Body::from("healthy, believe me\n");
    } else if faults.huge_health {
        *response.body_mut() = Body::from(format!("{body}{}", " ".repeat(HUGE)));
    } else if faults.trickle_health {
        let bytes = format!("{body}\n").into_bytes();
        let trickle = futures::stream::unfold(bytes.into_iter(), |mut rest| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            rest.next().map(|byte| (Ok::<_, Error>(vec![byte]), rest))
        });
        *response.body_mut() = Body::from_stream(trickle);
    }
    response
}

fn metrics(shared: &Shared) -> String {
    let counters = &shared.counters;
    let signal = u8::from(shared.kill_signal.load(Ordering::SeqCst));
    let configured = u8::from(shared.runtime().config.kill_switch);
    let cached = shared.authority().map_or(0, |a| a.issued());
    let tunnels = counters.tunnels.load(Ordering::Relaxed);
    let refused = counters.tunnels_blocked.load(Ordering::Relaxed);
    let families = [
        (
            "active_tunnels",
            "gauge",
            "Current number of active CONNECT tunnels.",
            vec![(
                "",
                counters.active_tunnels.load(Ordering::SeqCst).to_string(),
            )],
        ),
        (
            "info",
            "gauge",
            "Pipelock build information.",
            vec![("{version=\"2.3.0\"}", "1".to_owned())],
        ),
        (
            "kill_switch_active",
            "gauge",
            "Kill switch state by source.",
            vec![
                ("{source=\"api\"}", "0".to_owned()),
                ("{source=\"config\"}", configured.to_string()),
                ("{source=\"sentinel\"}", "0".to_owned()),
                ("{source=\"signal\"}", signal.to_string()),
            ],
        ),
        (
            "sessions_active",
            "gauge",
            "Current number of active sessions.",
            vec![("", "0".to_owned())],
        ),
        (
            "tls_cert_cache_size",
            "gauge",
            "Current number of cached leaf certificates.",
            vec![("", cached.to_string())],
        ),
        (
            "tunnel_bytes_total",
            "counter",
            "Bytes carried by CONNECT tunnels.",
            vec![(
                "",
                counters.tunnel_bytes.load(Ordering::Relaxed).to_string(),
            )],
        ),
        (
            "tunnels_total",
            "counter",
            "CONNECT tunnels by result.",
            vec![
                ("{agent=\"\",result=\"blocked\"}", refused.to_string()),
                ("{agent=\"\",result=\"completed\"}", tunnels.to_string()),
            ],
        ),
    ];
    let mut out = String::new();
    for (name, kind, help, samples) in families {
        let _ = write!(
            out,
            "# HELP pipelock_{name} {help}\n# TYPE pipelock_{name} {kind}\n"
        );
        for (labels, value) in samples {
            let _ = writeln!(out, "pipelock_{name}{labels} {value}");
        }
    }
    out
}

#[allow(clippy::cast_precision_loss)]
fn stats(shared: &Shared) -> serde_json::Value {
    let counters = &shared.counters;
    let allowed = counters.allowed.load(Ordering::Relaxed);
    let blocked = counters.blocked.load(Ordering::Relaxed);
    let total = allowed + blocked;
    let rate = if total == 0 {
        json!(0)
    } else {
        json!(blocked as f64 / total as f64)
    };
    json!({
        "uptime_seconds": shared.started.elapsed().as_secs_f64(),
        "requests": {
            "total": total, "allowed": allowed, "blocked": blocked, "block_rate": rate,
        },
        "tunnels": counters.tunnels.load(Ordering::Relaxed),
        "websockets": 0,
        "top_blocked_domains": [],
        "top_scanners": [],
        "sessions": {"active": 0, "anomalies": 0, "escalations": 0, "top_anomalies": []},
        "cross_request_detection": {
            "entropy_tracker_active": false,
            "fragment_buffer_active": false,
            "fragment_buffer_bytes": 0,
        },
    })
}
