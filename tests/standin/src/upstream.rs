//! Connections to upstreams: guarded dialling, and TLS that trusts what
//! `SSL_CERT_FILE` or the system's bundle says.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hudsucker::hyper::{Uri, rt};
use hudsucker::hyper_util::client::legacy::connect::{Connected, Connection};
use hudsucker::hyper_util::rt::TokioIo;
use hudsucker::rustls::pki_types::pem::PemObject;
use hudsucker::rustls::pki_types::{CertificateDer, ServerName};
use hudsucker::rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::guard;
use crate::state::Shared;

const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Read besides the bundle, whichever that is, unless `SSL_CERT_DIR` names others.
const SYSTEM_DIRECTORY: &str = "/etc/ssl/certs";

/// Opens connections for hyper's clients.
#[derive(Clone)]
pub struct Connector(pub Arc<Shared>);

/// A connection to an upstream.
pub struct Upstream {
    io: TokioIo<Box<dyn Io>>,
    http2: bool,
}

/// Both directions of a byte stream.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why a connection could not be opened, in pipelock's words.
#[derive(Debug)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl tower_service::Service<Uri> for Connector {
    type Response = Upstream;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Upstream, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(open(Arc::clone(&self.0), uri))
    }
}

async fn open(shared: Arc<Shared>, uri: Uri) -> Result<Upstream, Error> {
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let tcp = guard::dial(&shared.runtime().config, &host, port)
        .await
        .map_err(Error)?;
    if !https {
        return Ok(Upstream {
            io: TokioIo::new(Box::new(tcp)),
            http2: false,
        });
    }
    let name = ServerName::try_from(host.clone()).map_err(|e| Error(e.to_string()))?;
    let config = shared.upstream_tls.get_or_init(|| Arc::new(trust()));
    let tls = TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await;
    let tls = tls.map_err(|e| Error(verification_words(&e, &host)))?;
    let multiplexed = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(Box::new(tls) as Box<dyn Io>);
    Ok(Upstream {
        io,
        http2: multiplexed,
    })
}

/// The roots Go would find: one bundle, and the system's directory besides.
fn trust() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let bundle = std::env::var("SSL_CERT_FILE").unwrap_or_else(|_| SYSTEM_BUNDLE.to_owned());
    let directories = std::env::var("SSL_CERT_DIR").unwrap_or_else(|_| SYSTEM_DIRECTORY.to_owned());
    let mut files = vec![bundle.into()];
    for directory in directories.split(':') {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        files.extend(entries.map(|e| e.path()));
    }
    for file in files {
        let found = CertificateDer::pem_file_iter(&file)
            .into_iter()
            .flatten()
            .flatten();
        roots.add_parsable_certificates(found);
    }
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn verification_words(error: &std::io::Error, host: &str) -> String {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<TlsError>());
    let cause = match tls {
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!("x509: certificate is not valid for any names, but wanted to match {host}"),
        Some(TlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "x509: certificate has expired or is not yet valid".to_owned(),
        Some(TlsError::InvalidMessage(_)) => {
            return "tls: first record does not look like a TLS handshake".to_owned();
        }
        _ => return error.to_string(),
    };
    format!("tls: failed to verify certificate: {cause}")
}

impl Connection for Upstream {
    fn connected(&self) -> Connected {
        if self.http2 {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl rt::Read for Upstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl rt::Write for Upstream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The innermost cause of an error, which says what went wrong.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
