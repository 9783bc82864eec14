//! The JSON lines on standard output, with pipelock's fields in pipelock's
//! order. Writing them can block: a reader that stops reading stalls whoever logs.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::response::Way;

/// Serializes writers. Held while a write blocks, as in pipelock.
static WRITER: Mutex<()> = Mutex::new(());

/// Who asked for what: the fields most events share.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// HTTP method, or the operation's name.
    pub method: String,
    /// Full URL of a plain or intercepted request.
    pub url: String,
    /// `host:port` of a tunnel.
    pub target: String,
    /// File or address an operation is about.
    pub resource: String,
    /// The client's address.
    pub client_ip: String,
    /// `req-N`.
    pub request_id: String,
}

/// An event under construction.
#[must_use]
pub struct Event(Map<String, Value>);

impl Event {
    /// Starts an event.
    pub fn new(level: &str, event: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("level".to_owned(), level.into());
        fields.insert("component".to_owned(), "pipelock".into());
        fields.insert("event".to_owned(), event.into());
        Self(fields)
    }

    /// Adds a field.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a field unless its text is empty.
    fn some(self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            self
        } else {
            self.with(name, value)
        }
    }

    /// Adds what is asked for.
    fn subject(self, context: &Context) -> Self {
        (self.with("method", context.method.as_str()))
            .some("url", &context.url)
            .some("target", &context.target)
            .some("resource", &context.resource)
    }

    /// Adds who asks.
    fn client(self, context: &Context) -> Self {
        self.some("client_ip", &context.client_ip)
            .some("request_id", &context.request_id)
    }

    fn agent(self, context: &Context) -> Self {
        if context.client_ip.is_empty() {
            self
        } else {
            self.with("agent", "anonymous")
        }
    }

    /// Writes the line from a thread that may block.
    pub async fn send(self, message: &'static str) {
        let _ = tokio::task::spawn_blocking(move || self.write(message)).await;
    }

    /// Writes the line; blocks while standard output does.
    pub fn write(self, message: &str) {
        let event = self.with("time", now()).with("message", message);
        let mut line = Value::Object(event.0).to_string();
        line.push('\n');
        write_raw(line.as_bytes());
    }
}

/// Writes bytes as they are. A reader that went away ends the process by
/// SIGPIPE, as Go's runtime has it for standard output.
pub fn write_raw(bytes: &[u8]) {
    let _guard = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = std::io::stdout();
    if let Err(e) = out.write_all(bytes).and_then(|()| out.flush())
        && e.kind() == std::io::ErrorKind::BrokenPipe
    {
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    }
}

/// Seconds resolution, UTC, RFC 3339.
fn now() -> String {
    let t = OffsetDateTime::now_utc();
    let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// The MITRE technique pipelock files a scanner under.
fn technique(scanner: &str) -> &'static str {
    match scanner {
        "allowlist" | "blocklist" => "T1071.001",
        "ssrf" => "T1046",
        "ratelimit" => "T1030",
        "core_dlp" | "dlp" | "body_dlp" | "header_dlp" | "entropy" | "subdomain_entropy"
        | "length" => "T1048",
        "crlf_injection" => "T1190",
        "path_traversal" => "T1083",
        "response_scan" => "T1059",
        "tls_response_blocked" => "T1659",
        "tls_intercept" => "T1557",
        "tls_authority_mismatch" => "T1090.004",
        "tls_handshake_error" => "T1573",
        _ => "",
    }
}

/// A refusal.
pub fn blocked(context: &Context, scanner: &str, reason: &str) -> Event {
    let mut context = context.clone();
    // What these scanners found is in the URL or beside it; core_dlp's is not
    // withheld in 2.3.0, so that the secret stands in the log.
    if matches!(scanner, "body_dlp" | "header_dlp" | "dlp") {
        context.url = withheld(&context.url);
    }
    Event::new("warn", "blocked")
        .subject(&context)
        .client(&context)
        .with("scanner", scanner)
        .with("reason", reason)
        .agent(&context)
        .some("mitre_technique", technique(scanner))
}

/// The URL less everything after its host.
fn withheld(url: &str) -> String {
    let host = url.split_once("://").map(|(scheme, rest)| {
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        format!("{scheme}://{host}/[redacted]")
    });
    host.unwrap_or_default()
}

/// Something worth noting that was let through.
pub fn anomaly(context: &Context, scanner: &str, reason: &str, score: f64) -> Event {
    let score = if score == 0.0 {
        Value::from(0)
    } else {
        Value::from(score)
    };
    Event::new("warn", "anomaly")
        .subject(context)
        .client(context)
        .agent(context)
        .some("scanner", scanner)
        .some("mitre_technique", technique(scanner))
        .with("reason", reason)
        .with("score", score)
}

/// A failure of pipelock's own or of an upstream.
pub fn error(context: &Context, cause: &str) -> Event {
    Event::new("error", "error")
        .subject(context)
        .client(context)
        .agent(context)
        .with("error", cause)
}

/// An image, sound or film that came, and whether it went on.
pub fn media_exposure(
    context: &Context,
    way: Way,
    kind: &str,
    bytes: usize,
    refused: Option<&str>,
) -> Event {
    let transport = match way {
        Way::Plain => "forward",
        Way::Intercepted => "connect",
    };
    Event::new("warn", "media_exposure")
        .subject(context)
        .client(context)
        .agent(context)
        .with("transport", transport)
        .with("content_type", kind)
        .with("size_bytes", bytes)
        .with("blocked", refused.is_some())
        .some("block_reason", refused.unwrap_or_default())
}

/// A secret in a plain request's body.
pub fn body_dlp(context: &Context, action: &str, pattern: &str) -> Event {
    Event::new("warn", "body_dlp")
        .subject(context)
        .with("action", action)
        .client(context)
        .agent(context)
        .with("match_count", 1)
        .with("patterns", vec![pattern])
        .with("mitre_technique", technique("dlp"))
}

/// A secret in a request's headers.
pub fn header_dlp(context: &Context, header: &str, action: &str, pattern: &str) -> Event {
    Event::new("warn", "header_dlp")
        .subject(context)
        .with("header", header)
        .with("action", action)
        .client(context)
        .agent(context)
        .with("patterns", vec![pattern])
        .with("mitre_technique", technique("dlp"))
}

/// A `ClientHello` that names another host than CONNECT did, or none in time.
pub fn sni_mismatch(context: &Context, connect_host: &str, sni: &str, category: &str) -> Event {
    Event::new("warn", "sni_mismatch")
        .with("connect_host", connect_host)
        .with("sni_host", sni)
        .client(context)
        .agent(context)
        .with("category", category)
        .with("mitre_technique", "T1090.004")
}

/// A request the kill switch refused.
pub fn kill_switch_deny(endpoint: &str, source: &str, message: &str, client_ip: &str) -> Event {
    Event::new("info", "kill_switch_deny")
        .with("transport", "http")
        .with("endpoint", endpoint)
        .with("source", source)
        .with("deny_message", message)
        .with("client_ip", client_ip)
}

/// A raw tunnel's beginning.
pub fn tunnel_open(context: &Context) -> Event {
    Event::new("info", "tunnel_open")
        .some("target", &context.target)
        .client(context)
        .agent(context)
}

/// A raw tunnel's end.
pub fn tunnel_close(context: &Context, bytes: u64, milliseconds: f64) -> Event {
    Event::new("info", "tunnel_close")
        .some("target", &context.target)
        .client(context)
        .agent(context)
        .with("total_bytes", bytes)
        .with("duration_ms", milliseconds)
}

/// A plain request that was served.
pub fn forward_http(context: &Context, status: u16, bytes: u64, milliseconds: f64) -> Event {
    Event::new("info", "forward_http")
        .subject(context)
        .client(context)
        .agent(context)
        .with("status_code", status)
        .with("size_bytes", bytes)
        .with("duration_ms", milliseconds)
}

/// A reload that was taken over.
pub fn config_reload(mode: &str, hash: &str) -> Event {
    Event::new("info", "config_reload")
        .with("status", "success")
        .with("detail", format!("mode={mode}"))
        .with("config_hash", hash)
}

/// The start, before the port is bound.
pub fn startup(listen: &str, mode: &str, hash: &str) -> Event {
    Event::new("info", "startup")
        .with("listen", listen)
        .with("mode", mode)
        .with("version", crate::VERSION)
        .with("config_hash", hash)
}

/// The end.
pub fn shutdown() -> Event {
    Event::new("info", "shutdown").with("reason", "signal received")
}
