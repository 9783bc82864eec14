//! Responses: held whole and judged before their first byte goes on, all but event
//! streams, which are judged event by event. The words are pipelock's; it looks longer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context as TaskContext, Poll};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hudsucker::Body;
use hudsucker::hyper::body::{Body as HttpBody, Bytes, Frame};
use hudsucker::hyper::header::{self, HeaderMap};
use hudsucker::hyper::{Response, StatusCode};
use regex::Regex;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::dlp;
use crate::events::{self, Context};
use crate::proxy::{is_compressed, named, send, strip_hop_by_hop, text};
use crate::upstream::root_cause;

/// Largest event of a stream, and largest image.
const LARGEST_EVENT: usize = 64 * 1024;
const LARGEST_IMAGE: usize = 5 * 1024 * 1024;

/// Some of pipelock's patterns for what tries to give a model orders.
static INJECTIONS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let written = [
        (
            "Prompt Injection",
            r"(?i)(ignore|disregard|forget)\s+(all\s+)?(previous|prior|above)\s+(instructions|rules)",
        ),
        ("System Override", r"(?im)^\s*system\s*:"),
        (
            "Behavior Override",
            r"(?i)from\s+now\s+on\s+(you\s+)?(will|must|should|shall)\s+",
        ),
    ];
    let compiled = written
        .into_iter()
        .map(|(name, text)| Some((name, Regex::new(text).ok()?)));
    compiled.flatten().collect()
});

/// How a response came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over plain HTTP.
    Plain,
    /// In a tunnel that was opened.
    Intercepted,
}

/// A response as it is handed back, with its length where it was read whole.
pub async fn incoming(
    config: &Config,
    context: &Context,
    res: Response<Body>,
    way: Way,
) -> (Response<Body>, u64) {
    match judged(config, context, res, way).await {
        Ok(answer) => answer,
        Err((scanner, reason)) => {
            if let Some(scanner) = scanner {
                send(config, events::blocked(context, scanner, &reason)).await;
            }
            let words = format!("blocked: {reason}");
            (text(StatusCode::FORBIDDEN, &words), 0)
        }
    }
}

/// What refuses it, and why; nothing refuses what is no more than unreadable.
type Refusal = (Option<&'static str>, String);

async fn judged(
    config: &Config,
    context: &Context,
    res: Response<Body>,
    way: Way,
) -> Result<(Response<Body>, u64), Refusal> {
    let (mut parts, body) = res.into_parts();
    let media_type = named(&parts.headers, &header::CONTENT_TYPE).to_lowercase();
    let streams = media_type.trim().starts_with("text/event-stream") && config.response_scanning;
    if is_compressed(named(&parts.headers, &header::CONTENT_ENCODING)) {
        let (scanner, what) = match way {
            Way::Intercepted => ("tls_response_blocked", "response"),
            Way::Plain if streams => ("sse_stream", "sse_stream response"),
            Way::Plain => ("response_scan", "response"),
        };
        return Err((
            Some(scanner),
            format!("compressed {what} cannot be scanned"),
        ));
    }
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::CONTENT_LENGTH);
    if streams {
        let body = stream(config.clone(), context.clone(), body);
        return Ok((Response::from_parts(parts, body), 0));
    }
    let limit = match way {
        Way::Intercepted => config.max_response_bytes,
        Way::Plain => config.max_response_mb * 1024 * 1024,
    };
    let bytes = match way {
        // Cut, without a word.
        Way::Plain => first_bytes(body, limit).await,
        Way::Intercepted => match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                let reason = "response too large for scanning".to_owned();
                return Err((Some("tls_response_blocked"), reason));
            }
            Err(error) => Err(root_cause(error.as_ref())),
        },
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(cause) => {
            events::error(context, &cause).send("request error").await;
            return Err((None, "response read error".to_owned()));
        }
    };
    if let Some((kind, refused)) = media(&parts.headers, &bytes) {
        let reason = refused.as_deref();
        events::media_exposure(context, way, &kind, bytes.len(), reason)
            .send(match reason {
                Some(_) => "media response blocked by policy",
                None => "media response reached agent",
            })
            .await;
        if let Some(reason) = refused {
            return Err((Some("media_policy"), reason));
        }
    }
    let length = bytes.len() as u64;
    Ok((
        Response::from_parts(parts, Body::from(Full::new(bytes))),
        length,
    ))
}

async fn first_bytes(mut body: Body, limit: usize) -> Result<Bytes, String> {
    let mut read = Vec::new();
    while read.len() < limit {
        match body.frame().await {
            None => break,
            Some(Err(error)) => return Err(root_cause(&error)),
            Some(Ok(frame)) => read.extend(frame.into_data().unwrap_or_default()),
        }
    }
    read.truncate(limit);
    Ok(read.into())
}

/// Of an image, sound or film: what it is, and why it is refused, if it is.
fn media(headers: &HeaderMap, bytes: &Bytes) -> Option<(String, Option<String>)> {
    let declared = named(headers, &header::CONTENT_TYPE).to_lowercase();
    let declared = declared.split(';').next().unwrap_or_default().trim();
    let unspecific = matches!(declared, "" | "application/octet-stream");
    let kind = match sniffed(bytes) {
        Some(kind) if unspecific => kind,
        _ => declared,
    };
    let (class, format) = kind.split_once('/')?;
    let refused = match (class, format) {
        ("audio" | "video", _) => Some(format!("{class} stripped")),
        ("image", "png" | "jpeg") if bytes.len() > LARGEST_IMAGE => Some(format!(
            "image size {} exceeds limit {LARGEST_IMAGE}",
            bytes.len()
        )),
        ("image", "png") => {
            (!is_whole(bytes, b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")).then(|| parse_error("PNG"))
        }
        ("image", "jpeg") => {
            (!is_whole(bytes, b"\xff\xd8", b"\xff\xd9")).then(|| parse_error("JPEG"))
        }
        ("image", _) => Some(format!("image type \"{kind}\" not in allowed list")),
        _ => return None,
    };
    let refused = refused.map(|why| format!("media_policy: {why}"));
    Some((kind.to_owned(), refused))
}

fn parse_error(format: &str) -> String {
    format!("image parse error: media: invalid {format} structure")
}

fn is_whole(bytes: &[u8], begin: &[u8], end: &[u8]) -> bool {
    bytes.starts_with(begin) && bytes.ends_with(end)
}

/// Go looks at the first bytes of what is declared as nothing in particular.
fn sniffed(bytes: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if starts(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if starts(b"GIF87a") || starts(b"GIF89a") {
        Some("image/gif")
    } else if bytes.get(4..12) == Some(b"ftypmp42") {
        Some("video/mp4")
    } else if starts(b"\x1a\x45\xdf\xa3") {
        Some("video/webm")
    } else if starts(b"ID3") {
        Some("audio/mpeg")
    } else if starts(b"OggS\0") {
        Some("application/ogg")
    } else {
        None
    }
}

/// A stream of events that ends before the first one that is refused.
fn stream(config: Config, context: Context, mut body: Body) -> Body {
    let (events, queue) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut reader = EventReader::default();
        let refused = loop {
            match reader.next(&config) {
                Some(Ok(event)) => {
                    if events.send(event).await.is_err() {
                        break Some("sse stream write: http2: stream closed".to_owned());
                    }
                    continue;
                }
                Some(Err(finding)) => break Some(format!("sse stream finding: {finding}")),
                None => {}
            }
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = events.closed() => break Some("context canceled".to_owned()),
            };
            match frame {
                Some(Ok(frame)) => reader.pending.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => break Some(format!("sse stream read: {}", root_cause(&error))),
                None if reader.ended => break None,
                None => {
                    // An event without its empty line is one at the end.
                    reader.ended = true;
                    reader.pending.extend(b"\n\n");
                }
            }
        };
        if let Some(reason) = refused {
            send(&config, events::blocked(&context, "sse_stream", &reason)).await;
        }
    });
    Body::from(BoxBody::new(Queue(queue).map_err(|e| match e {})))
}

struct Queue(mpsc::Receiver<Bytes>);

impl HttpBody for Queue {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(cx);
        next.map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

/// Takes events out of what came, and writes them anew as pipelock does.
#[derive(Default)]
struct EventReader {
    pending: Vec<u8>,
    ended: bool,
    data: Option<Vec<u8>>,
    kind: String,
    id: String,
    retry: String,
}

impl EventReader {
    /// The next event that is whole, or what is wrong with it.
    fn next(&mut self, config: &Config) -> Option<Result<Bytes, String>> {
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.pending.drain(..=end).collect();
            line.pop();
            if line.ends_with(b"\r") {
                line.pop();
            }
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return Some(self.judged(config, &data));
                }
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (field, value) = line.split_at(colon.unwrap_or(line.len()));
            let value = value.strip_prefix(b":").unwrap_or(value);
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let words = || String::from_utf8_lossy(value).into_owned();
            match field {
                b"data" => {
                    let data = self.data.get_or_insert_default();
                    if !data.is_empty() {
                        data.push(b'\n');
                    }
                    data.extend(value);
                }
                b"event" => self.kind = words(),
                b"id" => self.id = words(),
                b"retry" => self.retry = words(),
                _ => {}
            }
        }
        None
    }

    fn judged(&mut self, config: &Config, data: &[u8]) -> Result<Bytes, String> {
        let (kind, retry) = (
            std::mem::take(&mut self.kind),
            std::mem::take(&mut self.retry),
        );
        if data.len() > LARGEST_EVENT {
            return Err(format!(
                "sse event exceeds max_event_bytes (size={}, limit={LARGEST_EVENT})",
                data.len()
            ));
        }
        let Ok(text) = std::str::from_utf8(data) else {
            return Err(format!(
                "sse event contains invalid UTF-8 (size={})",
                data.len()
            ));
        };
        if let Some((name, _)) = INJECTIONS.iter().find(|(_, regex)| regex.is_match(text)) {
            return Err(format!("injection: {name}"));
        }
        if let Some(name) = dlp::secret_in(text, config) {
            return Err(format!("dlp: {name}"));
        }
        let mut written = String::new();
        for (field, value) in [("event", kind), ("id", self.id.clone()), ("retry", retry)] {
            if !value.is_empty() {
                written.extend([field, ": ", &value, "\n"]);
            }
        }
        for line in text.split('\n') {
            written.extend(["data: ", line, "\n"]);
        }
        Ok((written + "\n").into())
    }
}
