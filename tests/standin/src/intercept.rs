//! Tunnels that are opened: TLS ended with a leaf of our CA, every request in
//! them judged, then sent on over TLS of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hudsucker::Body;
use hudsucker::hyper::body::Incoming;
use hudsucker::hyper::http::uri::{PathAndQuery, Scheme};
use hudsucker::hyper::service::service_fn;
use hudsucker::hyper::{Request, Response, StatusCode, Uri, header};
use hudsucker::hyper_util::client::legacy::Client;
use hudsucker::hyper_util::rt::{TokioExecutor, TokioIo};
use hudsucker::hyper_util::server::conn::auto;
use tokio_rustls::TlsAcceptor;

use crate::body::scanned_body;
use crate::events::{self, Context};
use crate::guard;
use crate::proxy::{blocks, outgoing, secret_header, send, status_of, text};
use crate::response::{Way, incoming};
use crate::tunnel::{ClientStream, Tunnel};
use crate::upstream::{Connector, root_cause};

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(30);

type Upstreams = Client<Connector, Body>;

/// Serves the requests of a tunnel until it ends or its time is up.
pub async fn serve(tunnel: Arc<Tunnel>, client: ClientStream) {
    let Some(authority) = tunnel.shared.authority() else {
        events::error(
            &tunnel.context,
            "TLS interception enabled but cert cache unavailable",
        )
        .send("request error")
        .await;
        return;
    };
    events::anomaly(
        &tunnel.context,
        "tls_intercept",
        "TLS MITM interception active",
        0.0,
    )
    .send("anomaly detected")
    .await;
    let config = match authority.server_config(&tunnel.host) {
        Ok(config) => config,
        Err(cause) => {
            events::error(&tunnel.context, &cause)
                .send("request error")
                .await;
            return;
        }
    };
    let handshake = TlsAcceptor::from(config).accept(client);
    let until = tunnel
        .deadline
        .min(tokio::time::Instant::now() + HANDSHAKE_WITHIN);
    let stream = match tokio::time::timeout_at(until, handshake).await {
        Ok(Ok(stream)) => stream,
        failed => {
            let cause = match failed {
                Ok(Err(e)) => alert_words(&e),
                _ => "i/o timeout".to_owned(),
            };
            events::blocked(&tunnel.context, "tls_handshake_error", &cause)
                .send("request blocked")
                .await;
            events::error(&tunnel.context, &format!("client TLS handshake: {cause}"))
                .send("request error")
                .await;
            return;
        }
    };
    let upstreams: Upstreams = Client::builder(TokioExecutor::new())
        .http1_title_case_headers(true)
        .build(Connector(Arc::clone(&tunnel.shared)));
    let deadline = tunnel.deadline;
    let service = service_fn(move |req| {
        let (tunnel, upstreams) = (Arc::clone(&tunnel), upstreams.clone());
        async move { Ok::<_, Infallible>(answer(&tunnel, &upstreams, req).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    // pipelock 2.3.0 ends an HTTP/1.1 connection after its first response.
    server.http1().title_case_headers(true).keep_alive(false);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout_at(deadline, connection).await;
}

/// A failed handshake, in Go's words where a client is most likely to cause them.
fn alert_words(error: &std::io::Error) -> String {
    use hudsucker::rustls::{AlertDescription, Error};
    match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(AlertDescription::UnknownCA)) => {
            "remote error: tls: unknown certificate authority".to_owned()
        }
        Some(Error::AlertReceived(AlertDescription::BadCertificate)) => {
            "remote error: tls: bad certificate".to_owned()
        }
        Some(Error::InvalidMessage(_)) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        _ if error.kind() == std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => error.to_string(),
    }
}

async fn answer(tunnel: &Tunnel, upstreams: &Upstreams, req: Request<Incoming>) -> Response<Body> {
    match judged(tunnel, req.map(Body::from)).await {
        Ok((context, req)) => match upstreams.request(req).await {
            Ok(res) => {
                let config = &tunnel.runtime.config;
                let res = res.map(Body::from);
                incoming(config, &context, res, Way::Intercepted).await.0
            }
            Err(e) => {
                events::error(&context, &root_cause(&e))
                    .send("request error")
                    .await;
                text(StatusCode::BAD_GATEWAY, "upstream error")
            }
        },
        Err(refusal) => refusal,
    }
}

async fn judged(
    tunnel: &Tunnel,
    req: Request<Body>,
) -> Result<(Context, Request<Body>), Response<Body>> {
    let config = &tunnel.runtime.config;
    let forbidden = |words: &str| text(StatusCode::FORBIDDEN, words);
    if tunnel.shared.killed_by().is_some() {
        return Err(text(StatusCode::SERVICE_UNAVAILABLE, "kill switch active"));
    }
    let target = &tunnel.context.target;
    let path = req
        .uri()
        .path_and_query()
        .map_or("/", PathAndQuery::as_str)
        .to_owned();
    let mut context = Context {
        method: req.method().to_string(),
        url: format!("https://{target}{path}"),
        target: String::new(),
        ..tunnel.context.clone()
    };
    let named = req
        .uri()
        .authority()
        .map(|a| a.as_str().to_owned())
        .or_else(|| {
            req.headers()
                .get(header::HOST)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        });
    let named = named.unwrap_or_default();
    if !same_authority(&named, &tunnel.host, tunnel.port) {
        let mismatch = format!("authority mismatch: {named} vs {target}");
        let with_port = if port_of(&named).is_some() {
            named
        } else {
            format!("{named}:443")
        };
        context.url = format!("https://{with_port}{path}");
        send(
            config,
            events::blocked(&context, "tls_authority_mismatch", &mismatch),
        )
        .await;
        return Err(forbidden("authority mismatch: blocked"));
    }
    if let Err(refusal) = guard::judge(&tunnel.runtime, &tunnel.host, &context.url).await
        && !refusal.is_rate_limit()
        && config.enforce
    {
        // Requests in a tunnel count towards the rate, but only CONNECT is refused for it.
        send(
            config,
            events::blocked(&context, refusal.scanner, &refusal.reason),
        )
        .await;
        return Err(text(
            status_of(&refusal),
            &format!("blocked: {}", refusal.reason),
        ));
    }
    let (mut parts, body) = req.into_parts();
    parts.headers.remove(header::ACCEPT_ENCODING);
    let body = match scanned_body(config, &parts.headers, body).await {
        Ok(body) => body,
        Err(finding) => match finding.body {
            Some(body) if !blocks(config) => {
                events::anomaly(&context, "body_dlp", &finding.reason, 0.8)
                    .send("anomaly detected")
                    .await;
                body
            }
            _ => {
                send(
                    config,
                    events::blocked(&context, "body_dlp", &finding.reason),
                )
                .await;
                return Err(forbidden(&format!("blocked: {}", finding.reason)));
            }
        },
    };
    if secret_header(config, &parts.headers).is_some() {
        let reason = "request header contains secret";
        if blocks(config) {
            send(config, events::blocked(&context, "header_dlp", reason)).await;
            return Err(forbidden(&format!("blocked: {reason}")));
        }
        events::anomaly(&context, "header_dlp", reason, 0.8)
            .send("anomaly detected")
            .await;
    }
    let uri = Uri::builder()
        .scheme(Scheme::HTTPS)
        .authority(target.as_str())
        .path_and_query(path);
    parts.uri = uri
        .build()
        .map_err(|_| text(StatusCode::BAD_REQUEST, "400 Bad Request"))?;
    Ok((context, outgoing(parts, body)))
}

fn port_of(authority: &str) -> Option<&str> {
    let after_brackets = authority.rsplit(']').next().unwrap_or(authority);
    after_brackets.rsplit_once(':').map(|(_, port)| port)
}

fn same_authority(named: &str, host: &str, port: u16) -> bool {
    let named_port = port_of(named).unwrap_or("443");
    let named_host = named
        .strip_suffix(&format!(":{named_port}"))
        .unwrap_or(named);
    named_host
        .trim_matches(['[', ']'])
        .eq_ignore_ascii_case(host)
        && named_port == port.to_string()
}
