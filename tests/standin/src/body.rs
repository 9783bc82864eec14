//! Request bodies: how they are read, what of them is looked into, and which cannot be.
//! The words are pipelock's.

use http_body_util::BodyExt;
use hudsucker::Body;
use hudsucker::hyper::body::Bytes;
use hudsucker::hyper::header::{self, HeaderMap};

use crate::config::Config;
use crate::dlp;
use crate::proxy::{is_compressed, named};

const MOST_PARTS: usize = 100;
const LONGEST_FILENAME: usize = 256;

/// What is wrong with a body.
pub struct Finding {
    /// The words for the client and the log.
    pub reason: String,
    /// The pattern, if it is a secret; else the body could not be looked into.
    pub pattern: Option<String>,
    /// The body, where it could be sent on all the same.
    pub body: Option<Bytes>,
}

impl Finding {
    fn unreadable(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            pattern: None,
            body: None,
        }
    }
}

/// Reads a body and looks for secrets in it.
pub async fn scanned_body(
    config: &Config,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, Finding> {
    let limit = if config.body_scanning {
        config.max_body_bytes
    } else {
        usize::MAX
    };
    let encoding = named(headers, &header::CONTENT_ENCODING);
    let has_body = !hudsucker::hyper::body::Body::is_end_stream(&body);
    // To its end even where it is refused: over HTTP/2 a client takes an answer that comes
    // before its last word for a broken stream.
    let bytes = read(body, limit).await;
    if config.body_scanning && has_body && is_compressed(encoding) {
        return Err(Finding::unreadable(format!(
            "request body uses Content-Encoding \"{encoding}\"; \
             compressed bodies cannot be scanned for secrets"
        )));
    }
    let bytes = bytes.map_err(Finding::unreadable)?;
    if !config.body_scanning || bytes.is_empty() {
        return Ok(bytes);
    }
    let media_type = named(headers, &header::CONTENT_TYPE);
    let essence = media_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_lowercase();
    let is_json = essence == "application/json" || essence.ends_with("+json");
    if is_json && serde_json::from_slice::<serde_json::Value>(&bytes).is_err() {
        return Err(Finding::unreadable("invalid JSON body"));
    }
    if essence == "multipart/form-data" {
        judge_multipart(media_type, &bytes).map_err(Finding::unreadable)?;
    }
    let content = String::from_utf8_lossy(&bytes);
    let found = if essence == "application/x-www-form-urlencoded" {
        if !is_form(&bytes) {
            return Err(Finding::unreadable(
                "invalid application/x-www-form-urlencoded body",
            ));
        }
        dlp::secret_in_url(&content.replace('+', " "), config)
    } else {
        dlp::secret_in(&content, config)
    };
    match found {
        None => Ok(bytes),
        Some(pattern) => Err(Finding {
            reason: format!("request body contains secret: {pattern}"),
            pattern: Some(pattern),
            body: Some(bytes),
        }),
    }
}

/// A body up to the limit; beyond it is dropped, and the error.
async fn read(mut body: Body, limit: usize) -> Result<Bytes, String> {
    let mut read = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| format!("error reading request body: {e}"))?;
        let data = frame.into_data().unwrap_or_default();
        length += data.len();
        if length <= limit {
            read.extend(data);
        }
    }
    if length > limit {
        return Err(format!("request body exceeds max_body_bytes ({limit})"));
    }
    Ok(read.into())
}

/// Whether Go would read it as a form: every `%` with two digits, and no `;`.
fn is_form(bytes: &[u8]) -> bool {
    let mut parts = bytes.split(|byte| *byte == b'%');
    let first = parts.next().unwrap_or_default();
    !first.contains(&b';')
        && parts.all(|part| {
            let digits = part.get(..2);
            digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)) && !part.contains(&b';')
        })
}

fn judge_multipart(media_type: &str, bytes: &[u8]) -> Result<(), String> {
    let parameter = |name: &str, text: &str| {
        let at = text.to_ascii_lowercase().find(&format!("{name}="))?;
        let value = text.get(at + name.len() + 1..)?;
        let value = value.split([';', '\r', '\n']).next().unwrap_or_default();
        Some(value.trim().trim_matches('"').to_owned())
    };
    let boundary = parameter("boundary", media_type).unwrap_or_default();
    if boundary.is_empty() {
        return Err("multipart/form-data missing boundary".to_owned());
    }
    let text = String::from_utf8_lossy(bytes);
    let delimiter = format!("--{boundary}");
    let mut parts = text.split(&delimiter);
    parts.next();
    for (number, part) in parts.enumerate() {
        if part.starts_with("--") {
            return Ok(());
        }
        if number >= MOST_PARTS {
            return Err(format!("multipart body exceeds {MOST_PARTS} parts limit"));
        }
        let head = part.split("\r\n\r\n").next().unwrap_or_default();
        if parameter("filename", head).is_some_and(|name| name.len() > LONGEST_FILENAME) {
            return Err(format!(
                "multipart filename exceeds {LONGEST_FILENAME} bytes"
            ));
        }
    }
    Err("multipart parse error: multipart: NextPart: EOF".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{is_form, judge_multipart};

    #[test]
    fn a_form_has_every_percent_sign_followed_by_digits_and_no_semicolon() {
        assert!(is_form(b"a=b&c=%20d%ff\xff"));
        for body in [&b"a=%2"[..], b"a=%zz", b"a=b;c=d", b"%20;", b"a=%"] {
            assert!(!is_form(body), "{body:?}");
        }
    }

    #[test]
    fn a_multipart_body_ends_with_its_boundary() {
        let form = "multipart/form-data; boundary=x";
        let whole = b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n";
        assert_eq!(judge_multipart(form, whole), Ok(()));
        assert!(judge_multipart(form, &whole[..40]).is_err());
        assert!(judge_multipart("multipart/form-data", whole).is_err());
    }
}
