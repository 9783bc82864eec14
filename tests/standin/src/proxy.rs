//! The proxy port: hudsucker accepts and forwards, this handler decides. CONNECT
//! goes to `tunnel`, origin-form to `health`, absolute-form is judged here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hudsucker::hyper::body::Bytes;
use hudsucker::hyper::header::{self, HeaderMap, HeaderValue};
use hudsucker::hyper::{Method, Request, Response, StatusCode, http::request::Parts};
use hudsucker::hyper_util::client::legacy;
use hudsucker::{Body, HttpContext, HttpHandler, RequestOrResponse};

use crate::body::scanned_body;
use crate::config::Config;
use crate::events::{self, Context};
use crate::response::{Way, incoming};
use crate::state::{Runtime, Shared};
use crate::upstream::root_cause;
use crate::{dlp, guard, health, tunnel};

/// Headers that end at each hop (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// hudsucker's handler; one clone serves one request.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
    forwarded: Option<(Context, Instant)>,
}

impl Gate {
    /// A handler for the daemon's state.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            forwarded: None,
        }
    }

    async fn forward(&mut self, client_ip: String, req: Request<Body>) -> RequestOrResponse {
        let started = Instant::now();
        let context = Context {
            method: req.method().to_string(),
            url: req.uri().to_string(),
            client_ip,
            request_id: self.shared.next_request_id(),
            ..Context::default()
        };
        match self.judge_plain(&context, req).await {
            Ok(req) => {
                self.forwarded = Some((context, started));
                req.into()
            }
            Err(refusal) => {
                self.shared.counters.blocked.fetch_add(1, Ordering::Relaxed);
                refusal.into()
            }
        }
    }

    async fn judge_plain(
        &self,
        context: &Context,
        req: Request<Body>,
    ) -> Result<Request<Body>, Response<Body>> {
        let runtime = self.shared.runtime();
        let config = &runtime.config;
        let host = req
            .uri()
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        if let Err(refusal) = guard::judge(&runtime, &host, &context.url).await {
            let event = events::blocked(context, refusal.scanner, &refusal.reason);
            if config.enforce && !self.shared.faults.allow_everything {
                send(config, event).await;
                let status = status_of(&refusal);
                return Err(text(status, &format!("blocked: {}", refusal.reason)));
            }
            events::anomaly(context, refusal.scanner, &refusal.reason, 1.0)
                .send("anomaly detected")
                .await;
        }
        let (parts, body) = req.into_parts();
        let body = match scanned_body(config, &parts.headers, body).await {
            Ok(body) => body,
            Err(finding) => {
                if let Some(pattern) = &finding.pattern {
                    events::body_dlp(context, &config.body_action, pattern)
                        .send("request body DLP scan hit")
                        .await;
                } else {
                    send(
                        config,
                        events::blocked(context, "body_dlp", &finding.reason),
                    )
                    .await;
                }
                match finding.body {
                    Some(body) if !blocks(config) => body,
                    _ => {
                        let words = format!("blocked: {}", finding.reason);
                        return Err(text(StatusCode::FORBIDDEN, &words));
                    }
                }
            }
        };
        if let Some((name, pattern)) = secret_header(config, &parts.headers) {
            events::header_dlp(context, &name, &config.body_action, &pattern)
                .send("request header DLP scan hit")
                .await;
            if blocks(config) {
                let words = "blocked: request header contains secret";
                return Err(text(StatusCode::FORBIDDEN, words));
            }
        }
        Ok(outgoing(parts, body))
    }
}

impl HttpHandler for Gate {
    async fn handle_request(&mut self, ctx: &HttpContext, req: Request<Body>) -> RequestOrResponse {
        let client_ip = ctx.client_addr.ip().to_canonical().to_string();
        let exempt = matches!(req.uri().path(), "/health" | "/metrics");
        if let Some(source) = self.shared.killed_by().filter(|_| !exempt) {
            let message = self.shared.runtime().config.kill_switch_message.clone();
            let endpoint = if req.method() == Method::CONNECT {
                ""
            } else {
                req.uri().path()
            };
            events::kill_switch_deny(endpoint, source, &message, &client_ip)
                .send("kill switch denied request")
                .await;
            let body = serde_json::json!({"error": "kill_switch_active", "message": message});
            return json(StatusCode::SERVICE_UNAVAILABLE, &body).into();
        }
        let forwards = self.shared.runtime().config.forward_proxy;
        if req.method() == Method::CONNECT {
            if !forwards {
                return text(StatusCode::METHOD_NOT_ALLOWED, "CONNECT not supported").into();
            }
            return tunnel::connect(&self.shared, client_ip, req).await.into();
        }
        if req.uri().scheme().is_some() && req.uri().host().is_some() {
            if !forwards {
                return text(StatusCode::METHOD_NOT_ALLOWED, "forward proxy not enabled").into();
            }
            return self.forward(client_ip, req).await;
        }
        health::serve(&self.shared, req.uri().path()).await.into()
    }

    async fn handle_response(&mut self, _: &HttpContext, res: Response<Body>) -> Response<Body> {
        let Some((context, started)) = self.forwarded.take() else {
            return res;
        };
        let runtime = self.shared.runtime();
        if let Some(refusal) = refused_redirect(&runtime, &context, &res).await {
            return refusal;
        }
        let (res, bytes) = incoming(&runtime.config, &context, res, Way::Plain).await;
        self.shared.counters.allowed.fetch_add(1, Ordering::Relaxed);
        if self.shared.runtime().config.include_allowed {
            let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
            events::forward_http(&context, res.status().as_u16(), bytes, milliseconds)
                .send("forward proxy request")
                .await;
        }
        res
    }

    async fn handle_error(&mut self, _: &HttpContext, error: legacy::Error) -> Response<Body> {
        if let Some((context, _)) = self.forwarded.take() {
            let method = context.method.get(..1).unwrap_or_default().to_owned()
                + &context.method.get(1..).unwrap_or_default().to_lowercase();
            let cause = format!("{method} \"{}\": {}", context.url, root_cause(&error));
            events::error(&context, &cause).send("request error").await;
        }
        text(StatusCode::BAD_GATEWAY, "forward proxy fetch failed")
    }
}

/// The refusal of a redirect to where nothing may go. pipelock follows the others itself;
/// here the client is told where to.
async fn refused_redirect(
    runtime: &Runtime,
    context: &Context,
    res: &Response<Body>,
) -> Option<Response<Body>> {
    if !res.status().is_redirection() {
        return None;
    }
    let to = named(res.headers(), &header::LOCATION);
    let uri: hudsucker::hyper::Uri = to.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let refusal = guard::judge(runtime, host, to).await.err()?;
    let (from, why) = (&context.url, &refusal.reason);
    let there = Context {
        url: to.to_owned(),
        ..context.clone()
    };
    let reason = format!("redirect from {from} blocked: {why}");
    send(
        &runtime.config,
        events::blocked(&there, refusal.scanner, &reason),
    )
    .await;
    let reason = format!("redirect blocked: {why}");
    send(
        &runtime.config,
        events::blocked(context, refusal.scanner, &reason),
    )
    .await;
    Some(text(StatusCode::FORBIDDEN, &format!("blocked: {reason}")))
}

/// Whether a finding in a body or header is refused.
pub fn blocks(config: &Config) -> bool {
    config.enforce && config.body_action == "block"
}

/// The status a refusal is answered with.
pub fn status_of(refusal: &guard::Refusal) -> StatusCode {
    if refusal.is_rate_limit() {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::FORBIDDEN
    }
}

/// Logs a refusal, unless refusals are not logged.
pub async fn send(config: &Config, event: events::Event) {
    if config.include_blocked {
        event.send("request blocked").await;
    }
}

/// The first header with a secret in it, and the secret's pattern.
pub fn secret_header(config: &Config, headers: &HeaderMap) -> Option<(String, String)> {
    if !config.body_scanning || !config.scan_headers {
        return None;
    }
    let listed = |list: &[String], name: &str| list.iter().any(|h| h.eq_ignore_ascii_case(name));
    let all = config.header_mode == "all";
    headers.iter().find_map(|(name, value)| {
        let name = name.as_str();
        // Go takes that one out of the headers.
        let scanned = if name == "host" {
            false
        } else if all {
            !listed(&config.ignore_headers, name)
        } else {
            listed(&config.sensitive_headers, name)
        };
        if !scanned {
            return None;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        let both = if all {
            format!("{name}\n{value}")
        } else {
            value.into_owned()
        };
        Some((canonical(name), dlp::secret_in(&both, config)?))
    })
}

/// A header's name as Go writes it.
fn canonical(name: &str) -> String {
    let word = |w: &str| {
        let mut letters = w.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

/// A header's text; empty where it is none.
pub fn named<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// Whether a body is encoded so that nothing can be found in it.
pub fn is_compressed(encoding: &str) -> bool {
    let plain = |e: &str| e.is_empty() || e.eq_ignore_ascii_case("identity");
    !encoding.split(',').map(str::trim).all(plain)
}

/// A request as it is sent on: this hop's headers gone, the body whole.
pub fn outgoing(mut parts: Parts, body: Bytes) -> Request<Body> {
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::HOST);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.version = hudsucker::hyper::Version::HTTP_11;
    let has_length =
        !body.is_empty() || matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    if has_length {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let body = if body.is_empty() {
        Body::empty()
    } else {
        Body::from(http_body_util::Full::new(body))
    };
    Request::from_parts(parts, body)
}

/// This hop's headers, and those the connection names, go.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|name| name.trim().to_lowercase()))
        .collect();
    for name in listed.iter().map(String::as_str).chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// An answer in words, as Go's `http.Error` writes it.
pub fn text(status: StatusCode, words: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{words}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// An answer in JSON, with Go's newline at its end.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
