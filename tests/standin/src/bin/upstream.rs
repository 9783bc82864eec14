//! The server behind the firewall, for tests: HTTP and HTTPS (HTTP/2 too) on loopback,
//! with a root certificate of its own, recording what reaches it.
//!
//! ```text
//! upstream DIRECTORY NAME...
//! ```
//!
//! Makes a root and a certificate for the names (host names, wildcards, IP addresses),
//! writes `DIRECTORY/root.pem` and prints its ports, then each request, as one JSON
//! object a line. Ends when its standard input does.
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | the request's body |
//! | `/bytes/N` | N bytes of a fixed pattern |
//! | `/drip/N` | N events, one every 250 ms |
//! | `/meet/N` | nothing until N requests are waiting for it |
//! | any other | `hello from upstream` |

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hudsucker::hyper::body::{Body, Bytes, Frame, Incoming};
use hudsucker::hyper::service::service_fn;
use hudsucker::hyper::{Request, Response, header};
use hudsucker::hyper_util::rt::{TokioExecutor, TokioIo};
use hudsucker::hyper_util::server::conn::auto;
use hudsucker::rustls::ServerConfig;
use hudsucker::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Interval;
use tokio_rustls::TlsAcceptor;

const HELLO: &str = "hello from upstream";
/// The pattern's period is prime, so that no lost or repeated block goes unnoticed.
const PERIOD: usize = 65521;
const DRIP_EVERY: Duration = Duration::from_millis(250);

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("upstream: {cause}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments
        .next()
        .ok_or("usage: upstream DIRECTORY NAME...")?;
    let tls = certify(Path::new(&directory), arguments.collect())?;
    let meeting = Arc::new(Meeting::default());

    let plain = TcpListener::bind("127.0.0.1:0").await?;
    let secure = TcpListener::bind("127.0.0.1:0").await?;
    say(&json!({"http": plain.local_addr()?.port(), "https": secure.local_addr()?.port()}));
    tokio::spawn(accept(plain, None, Arc::clone(&meeting)));
    tokio::spawn(accept(secure, Some(TlsAcceptor::from(tls)), meeting));
    // A thread: whoever started this holds the other end until it is done or dead.
    let parent = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    parent.await??;
    Ok(())
}

/// A root, written to the directory, and the server's certificate below it.
fn certify(directory: &Path, names: Vec<String>) -> Result<Arc<ServerConfig>, Failure> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.distinguished_name
        .push(DnType::CommonName, "Upstream Root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = root.self_signed(&root_key)?;
    std::fs::write(directory.join("root.pem"), certificate.pem())?;

    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name
        .push(DnType::CommonName, "Upstream Server");
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = leaf.signed_by(&key, &Issuer::new(root, root_key))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, meeting: Arc<Meeting>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, meeting) = (tls.clone(), Arc::clone(&meeting));
        tokio::spawn(async move {
            match tls {
                // A client that does not like the certificate goes away: its own affair.
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => converse(stream, "https", meeting).await,
                    Err(_) => say(&json!({"handshake": "failed"})),
                },
                None => converse::<TcpStream>(stream, "http", meeting).await,
            }
        });
    }
}

async fn converse<S>(stream: S, scheme: &'static str, meeting: Arc<Meeting>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, scheme, Arc::clone(&meeting)));
    // Ends in an error whenever the client is not polite, which is no news.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    scheme: &'static str,
    meeting: Arc<Meeting>,
) -> Result<Response<Reply>, Infallible> {
    let (parts, body) = request.into_parts();
    // Cut short: it is recorded with what came.
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let complete = body.is_ok();
    let body = body.unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    say(&json!({
        "scheme": scheme,
        "version": format!("{:?}", parts.version),
        "method": parts.method.as_str(),
        "path": path,
        "headers": headers,
        "complete": complete,
        "body_bytes": body.len(),
        "body_sha256": hex(&Sha256::digest(&body)),
    }));
    let mut segments = path.trim_start_matches('/').split('/');
    let (action, number) = (segments.next().unwrap_or_default(), segments.next());
    let number: usize = number.and_then(|n| n.parse().ok()).unwrap_or_default();
    let (kind, reply) = match action {
        "echo" => ("application/octet-stream", Content::Whole(Full::new(body))),
        "bytes" => (
            "application/octet-stream",
            Content::Pattern(Pattern::new(number)),
        ),
        "drip" => (
            "text/event-stream",
            Content::Drip(Drip {
                left: number,
                interval: tokio::time::interval(DRIP_EVERY),
            }),
        ),
        "meet" => {
            meeting.wait_for(number).await;
            ("text/plain", Content::Whole(Full::from(HELLO)))
        }
        _ => ("text/plain", Content::Whole(Full::from(HELLO))),
    };
    let reply = Reply {
        content: reply,
        path,
        ended: false,
    };
    let mut response = Response::new(reply);
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Requests that are only answered once all of them are here.
#[derive(Default)]
struct Meeting {
    waiting: AtomicUsize,
    complete: Notify,
}

impl Meeting {
    async fn wait_for(&self, number: usize) {
        let complete = self.complete.notified();
        tokio::pin!(complete);
        // Before counting: a notification in between must not be missed.
        complete.as_mut().enable();
        if self.waiting.fetch_add(1, Ordering::SeqCst) + 1 >= number {
            self.waiting.store(0, Ordering::SeqCst);
            self.complete.notify_waiters();
        } else {
            complete.await;
        }
    }
}

/// An answer's body; one that is dropped before its end is recorded as cut off.
struct Reply {
    content: Content,
    path: String,
    ended: bool,
}

enum Content {
    Whole(Full<Bytes>),
    Pattern(Pattern),
    Drip(Drip),
}

struct Pattern {
    block: Bytes,
    sent: usize,
    total: usize,
}

impl Pattern {
    fn new(total: usize) -> Self {
        // A byte that changes with its place, twice over so that every slice exists.
        let block: Vec<u8> = (0..2 * PERIOD)
            .map(|at| at % PERIOD)
            .map(|at| u8::try_from((at ^ (at >> 8)) & 0xff).unwrap_or_default())
            .collect();
        Self {
            block: block.into(),
            sent: 0,
            total,
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        let at = self.sent % PERIOD;
        let length = PERIOD.min(self.total - self.sent);
        self.sent += length;
        (length > 0).then(|| self.block.slice(at..at + length))
    }
}

struct Drip {
    left: usize,
    interval: Interval,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match &mut self.content {
            Content::Whole(body) => Pin::new(body).poll_frame(cx),
            Content::Pattern(pattern) => Poll::Ready(pattern.next().map(|b| Ok(Frame::data(b)))),
            Content::Drip(Drip { left: 0, .. }) => Poll::Ready(None),
            Content::Drip(drip) => drip.interval.poll_tick(cx).map(|_| {
                drip.left -= 1;
                Some(Ok(Frame::data(Bytes::from_static(b"data: tick\n\n"))))
            }),
        };
        self.ended = matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(body) => body.is_end_stream(),
            Content::Pattern(pattern) => pattern.sent == pattern.total,
            Content::Drip(drip) => drip.left == 0,
        }
    }

    fn size_hint(&self) -> hudsucker::hyper::body::SizeHint {
        match &self.content {
            Content::Whole(body) => body.size_hint(),
            Content::Pattern(pattern) => {
                hudsucker::hyper::body::SizeHint::with_exact((pattern.total - pattern.sent) as u64)
            }
            Content::Drip(_) => hudsucker::hyper::body::SizeHint::default(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.ended && !self.is_end_stream() {
            say(&json!({"cut_off": self.path}));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    digits.collect::<Vec<_>>().concat()
}

/// One line; nobody reads on when the test is over.
fn say(value: &serde_json::Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
