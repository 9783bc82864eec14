//! CONNECT: judged, dialled, answered, then either relayed untouched or opened.
//! hudsucker would take tunnels over itself, but has no hook for what ends them:
//! a wrong SNI, a failed handshake, the idle timeout, the last deadline.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use hudsucker::Body;
use hudsucker::hyper::ext::ReasonPhrase;
use hudsucker::hyper::upgrade::OnUpgrade;
use hudsucker::hyper::{Request, Response, StatusCode};
use hudsucker::hyper_util::rt::TokioIo;
use hudsucker::rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::events::{self, Context};
use crate::proxy::{blocks, secret_header, send, status_of, text};
use crate::state::{Runtime, Shared};
use crate::{guard, intercept};

/// How long a client may take to say the first byte.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
const HANDSHAKE: u8 = 0x16;
const RECORD_HEADER: usize = 5;
const LONGEST_RECORD: usize = 16384 + RECORD_HEADER;
const BUFFER: usize = 32 * 1024;

/// The client's side of a tunnel: hyper's upgraded connection, with what was
/// read of it already.
pub type ClientStream = Prefixed<TokioIo<hudsucker::hyper::upgrade::Upgraded>>;

/// A tunnel that was granted.
pub struct Tunnel {
    /// The daemon.
    pub shared: Arc<Shared>,
    /// The configuration when it was granted; a reload does not reach it.
    pub runtime: Arc<Runtime>,
    /// For its events.
    pub context: Context,
    /// The host CONNECT named.
    pub host: String,
    /// The port it named.
    pub port: u16,
    /// When it ends, whatever it does.
    pub deadline: Instant,
    started: Instant,
}

/// Answers a CONNECT.
pub async fn connect(
    shared: &Arc<Shared>,
    client_ip: String,
    mut req: Request<Body>,
) -> Response<Body> {
    let started = Instant::now();
    let Some(authority) = req.uri().authority() else {
        return text(StatusCode::BAD_REQUEST, "missing target host");
    };
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(443);
    let bracketed = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let context = Context {
        method: "CONNECT".to_owned(),
        target: format!("{bracketed}:{port}"),
        client_ip,
        request_id: shared.next_request_id(),
        ..Context::default()
    };
    let runtime = shared.runtime();
    if shared.faults.allow_everything {
        let dialled = guard::dial(&runtime.config, &host, port).await;
        let upgrade = hudsucker::hyper::upgrade::on(&mut req);
        if let Ok(upstream) = dialled {
            tokio::spawn(relay_unjudged(upgrade, upstream));
        }
        return established();
    }
    if let Err(refusal) = judge(&runtime, &context, &host, &req).await {
        shared
            .counters
            .tunnels_blocked
            .fetch_add(1, Ordering::Relaxed);
        return refusal;
    }
    let deadline = started + Duration::from_secs(runtime.config.max_tunnel_seconds);
    let dialled =
        tokio::time::timeout_at(deadline, guard::dial(&runtime.config, &host, port)).await;
    let upstream = match dialled.unwrap_or_else(|_| Err("i/o timeout".to_owned())) {
        Ok(upstream) => upstream,
        Err(cause) => {
            events::error(&context, &cause).send("request error").await;
            return text(StatusCode::BAD_GATEWAY, "tunnel dial failed");
        }
    };
    let upgrade = hudsucker::hyper::upgrade::on(&mut req);
    let shared = Arc::clone(shared);
    let tunnel = Tunnel {
        shared,
        runtime,
        context,
        host,
        port,
        deadline,
        started,
    };
    tokio::spawn(tunnel.carry(upgrade, upstream));
    established()
}

fn established() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let phrase = ReasonPhrase::from_static(b"Connection Established");
    response.extensions_mut().insert(phrase);
    response
}

async fn judge(
    runtime: &Runtime,
    context: &Context,
    host: &str,
    req: &Request<Body>,
) -> Result<(), Response<Body>> {
    let config = &runtime.config;
    let bracketed = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let verdict = guard::judge(runtime, host, &format!("https://{bracketed}/")).await;
    if let Some((name, pattern)) = secret_header(config, req.headers()) {
        events::header_dlp(context, &name, &config.body_action, &pattern)
            .send("request header DLP scan hit")
            .await;
        if blocks(config) {
            return Err(text(
                StatusCode::FORBIDDEN,
                "CONNECT blocked: header DLP match",
            ));
        }
    }
    let Err(refusal) = verdict else {
        return Ok(());
    };
    if config.enforce {
        send(
            config,
            events::blocked(context, refusal.scanner, &refusal.reason),
        )
        .await;
        return Err(text(
            status_of(&refusal),
            &format!("CONNECT blocked: {}", refusal.reason),
        ));
    }
    events::anomaly(context, refusal.scanner, &refusal.reason, 1.0)
        .send("anomaly detected")
        .await;
    Ok(())
}

async fn relay_unjudged(upgrade: OnUpgrade, mut upstream: TcpStream) {
    if let Ok(upgraded) = upgrade.await {
        let mut client = TokioIo::new(upgraded);
        let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
    }
}

impl Tunnel {
    async fn carry(self, upgrade: OnUpgrade, upstream: TcpStream) {
        let Ok(upgraded) = upgrade.await else { return };
        let mut client = TokioIo::new(upgraded);
        let mut prefix = Vec::new();
        let config = &self.runtime.config;
        if config.sni_verification
            && let Err((category, sni)) = hello(&mut client, &mut prefix, &self.host).await
        {
            events::sni_mismatch(&self.context, &self.host, &sni, category)
                .send("SNI verification failed")
                .await;
            return;
        }
        let client = Prefixed {
            prefix,
            inner: client,
        };
        if config.tls_interception && !guard::passes_through(&self.host, &config.passthrough) {
            drop(upstream);
            intercept::serve(Arc::new(self), client).await;
        } else {
            self.relay(client, upstream).await;
        }
    }

    async fn relay(self, client: ClientStream, upstream: TcpStream) {
        let counters = &self.shared.counters;
        counters.active_tunnels.fetch_add(1, Ordering::SeqCst);
        if self.runtime.config.include_allowed {
            events::tunnel_open(&self.context)
                .send("tunnel opened")
                .await;
        }
        let (client_read, client_write) = tokio::io::split(client);
        let (upstream_read, upstream_write) = upstream.into_split();
        let (sent, received) = tokio::join!(
            self.pump(client_read, upstream_write),
            self.pump(upstream_read, client_write),
        );
        let bytes = sent + received;
        counters.active_tunnels.fetch_sub(1, Ordering::SeqCst);
        counters.tunnels.fetch_add(1, Ordering::Relaxed);
        counters.tunnel_bytes.fetch_add(bytes, Ordering::Relaxed);
        counters.allowed.fetch_add(1, Ordering::Relaxed);
        if self.runtime.config.include_allowed {
            let milliseconds = self.started.elapsed().as_secs_f64() * 1000.0;
            events::tunnel_close(&self.context, bytes, milliseconds)
                .send("tunnel closed")
                .await;
        }
    }

    /// Copies one direction until it ends, falls idle, runs out of time, or the
    /// kill switch is on.
    async fn pump(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> u64 {
        let idle = Duration::from_secs(self.runtime.config.idle_timeout_seconds);
        let mut buffer = vec![0; BUFFER];
        let mut total = 0;
        loop {
            let until = self.deadline.min(Instant::now() + idle);
            let read = tokio::time::timeout_at(until, from.read(&mut buffer)).await;
            let Ok(Ok(length @ 1..)) = read else { break };
            let chunk = buffer.get(..length).unwrap_or_default();
            if self.shared.killed_by().is_some() || to.write_all(chunk).await.is_err() {
                break;
            }
            total += chunk.len() as u64;
        }
        let _ = to.shutdown().await;
        total
    }
}

/// Reads the first TLS record, if it is one, and compares its SNI with the host.
/// The error is pipelock's category and the name that was sent.
async fn hello(
    client: &mut (impl AsyncRead + Unpin),
    prefix: &mut Vec<u8>,
    host: &str,
) -> Result<(), (&'static str, String)> {
    let first = tokio::time::timeout(HELLO_WITHIN, read_record(client, prefix)).await;
    if prefix.is_empty() {
        return Err(("timeout", String::new()));
    }
    if prefix.first() != Some(&HANDSHAKE) {
        return Ok(());
    }
    let malformed = || ("malformed_tls", String::new());
    if !matches!(first, Ok(Ok(()))) {
        return Err(malformed());
    }
    let mut acceptor = Acceptor::default();
    acceptor
        .read_tls(&mut prefix.as_slice())
        .map_err(|_| malformed())?;
    // `Ok(None)` is a hello in several records: pipelock looks at the first alone.
    let Ok(Some(accepted)) = acceptor.accept() else {
        return Err(malformed());
    };
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_lowercase();
    match accepted.client_hello().server_name() {
        Some(sni) if plain(sni) != plain(host) => Err(("mismatch", sni.to_owned())),
        _ => Ok(()),
    }
}

async fn read_record(
    client: &mut (impl AsyncRead + Unpin),
    prefix: &mut Vec<u8>,
) -> io::Result<()> {
    loop {
        let wanted = match prefix.as_slice() {
            [] => 1,
            [HANDSHAKE, _, _, high, low, ..] => {
                let length = usize::from(*high) * 256 + usize::from(*low);
                (length + RECORD_HEADER).min(LONGEST_RECORD)
            }
            [HANDSHAKE, ..] => RECORD_HEADER,
            _ => return Ok(()),
        };
        if prefix.len() >= wanted {
            return Ok(());
        }
        if client.read_buf(prefix).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A stream whose first bytes were read already.
pub struct Prefixed<S> {
    prefix: Vec<u8>,
    inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        let rest = self.prefix.split_off(length);
        buf.put_slice(&self.prefix);
        self.prefix = rest;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
