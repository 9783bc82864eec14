//! As much of HTTP/1.1 as the daemon's own short answers need. Pure.

use std::fmt;

/// A response that has arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body, decoded from its transfer coding.
    pub body: Vec<u8>,
}

/// What an answer is, where it is no HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHttp {
    /// Its first line, or its head.
    Head,
    /// The length it gives.
    Length,
    /// One of its chunks.
    Chunk,
}

impl fmt::Display for NotHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "its answer is not HTTP",
            Self::Length => "its answer has a bad content-length",
            Self::Chunk => "its answer has a bad chunk",
        })
    }
}

impl std::error::Error for NotHttp {}

impl Response {
    /// Reads a response from what has been `received`; `ended`: nothing more will
    /// come; `connect`: it answers a CONNECT, whose 200 has no body. `None` while it
    /// is incomplete, an error when it is not HTTP.
    pub fn parse(received: &[u8], ended: bool, connect: bool) -> Result<Option<Self>, NotHttp> {
        let Some(head_end) = memchr::memmem::find(received, b"\r\n\r\n") else {
            let start = received.get(..5.min(received.len())).unwrap_or_default();
            if !b"HTTP/".starts_with(start) {
                return Err(NotHttp::Head);
            }
            return Ok(None);
        };
        let head = received.get(..head_end).unwrap_or_default();
        let body = received.get(head_end + 4..).unwrap_or_default();
        let head = std::str::from_utf8(head).map_err(|_| NotHttp::Head)?;
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1."))
            .and_then(|line| line.get(2..5))
            .and_then(|code| code.parse().ok())
            .ok_or(NotHttp::Head)?;
        let mut length = None;
        let mut chunked = false;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                let value = value.trim().parse::<usize>();
                length = Some(value.map_err(|_| NotHttp::Length)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.trim().eq_ignore_ascii_case("chunked");
            }
        }
        let body = match (chunked, length) {
            (true, _) => decode_chunks(body)?,
            (false, Some(length)) => body.get(..length).map(<[u8]>::to_vec),
            (false, None) => (ended || (connect && status == 200)).then(|| body.to_vec()),
        };
        Ok(body.map(|body| Self { status, body }))
    }
}

fn decode_chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, NotHttp> {
    let mut body = Vec::new();
    loop {
        let Some(end) = memchr::memmem::find(rest, b"\r\n") else {
            return Ok(None);
        };
        let size = rest
            .get(..end)
            .and_then(|line| std::str::from_utf8(line).ok());
        let size = size.ok_or(NotHttp::Chunk)?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| NotHttp::Chunk)?;
        rest = rest.get(end + 2..).unwrap_or_default();
        if size == 0 {
            return Ok(Some(body));
        }
        let after = size.checked_add(2).ok_or(NotHttp::Chunk)?;
        let (Some(chunk), Some(next)) = (rest.get(..size), rest.get(after..)) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, ended: bool) -> Result<Option<Response>, NotHttp> {
        Response::parse(text.as_bytes(), ended, false)
    }

    #[test]
    fn waits_for_the_whole_body() {
        let whole = "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut], false), Ok(None), "{cut}");
        }
        let response = parse(whole, false).unwrap().unwrap();
        assert_eq!(
            (response.status, response.body.as_slice()),
            (403, &b"hello"[..])
        );
    }

    #[test]
    fn decodes_chunks_and_never_takes_a_part_for_the_whole() {
        let whole = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        for cut in 0..whole.len() - 2 {
            assert_eq!(parse(&whole[..cut], false), Ok(None), "{cut}");
        }
        assert_eq!(parse(whole, false).unwrap().unwrap().body, b"abcde");
    }

    #[test]
    fn takes_an_opened_tunnel_for_an_answer() {
        let opened = b"HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(Response::parse(opened, false, false), Ok(None));
        assert_eq!(
            Response::parse(opened, false, true)
                .unwrap()
                .unwrap()
                .status,
            200
        );
    }

    #[test]
    fn refuses_what_is_not_http_as_soon_as_that_is_clear() {
        for garbage in [
            "SSH-2.0-x",
            "HTTQ",
            "\0",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 x\r\n\r\n",
        ] {
            assert!(parse(garbage, false).is_err(), "{garbage:?}");
        }
        let bad = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx";
        assert!(parse(bad, false).is_err());
    }
}
