//! As much of an HTTP/1.1 client as asking a proxy takes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Error;

/// A proxy may wait for its upstream's resolver.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);

/// An answer: status and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The head's lines after the first.
    pub headers: String,
    /// The body, as text.
    pub body: String,
}

/// Ask a server for a path.
pub fn get(server: SocketAddr, path: &str) -> Result<Response, Error> {
    let (response, _) = ask(server, "GET", path, &server.to_string(), true)?;
    Ok(response)
}

/// Ask a proxy for an `http://` URL, as a client with `http_proxy` set does.
pub fn get_through(proxy: SocketAddr, url: &str) -> Result<Response, Error> {
    let authority = url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap_or_default();
    let (response, _) = ask(proxy, "GET", url, authority, true)?;
    Ok(response)
}

/// Ask a proxy for a tunnel to `host:port`. The stream is the tunnel if the status is 200.
pub fn connect_through(proxy: SocketAddr, authority: &str) -> Result<(Response, TcpStream), Error> {
    ask(proxy, "CONNECT", authority, authority, false)
}

fn ask(
    server: SocketAddr,
    method: &str,
    target: &str,
    host: &str,
    close: bool,
) -> Result<(Response, TcpStream), Error> {
    let attempt = || format!("{method} {target} at {server}");
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_DEADLINE)
        .map_err(Error::io(format!("connect to {server}")))?;
    let connection = if close { "Connection: close\r\n" } else { "" };
    stream
        .set_read_timeout(Some(ANSWER_DEADLINE))
        .and_then(|()| {
            write!(
                stream,
                "{method} {target} HTTP/1.1\r\nHost: {host}\r\n{connection}\r\n"
            )
        })
        .map_err(Error::io(attempt()))?;

    // Byte by byte up to the empty line: what follows may belong to the tunnel.
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream
            .read(&mut byte)
            .map_err(in_words)
            .map_err(Error::io(attempt()))?
            == 0
        {
            break;
        }
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (first, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| Error::NotHttp {
            answer: head.clone(),
        })?;
    let mut body = Vec::new();
    if method != "CONNECT" || status != 200 {
        read_body(&mut stream, headers, &mut body)
            .map_err(in_words)
            .map_err(Error::io(attempt()))?;
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok((
        Response {
            status,
            headers: headers.to_owned(),
            body,
        },
        stream,
    ))
}

/// A read that times out says EAGAIN (socket(7), `SO_RCVTIMEO`), which tells nobody anything.
fn in_words(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        let words = format!("no answer within {} s", ANSWER_DEADLINE.as_secs());
        return io::Error::new(io::ErrorKind::TimedOut, words);
    }
    error
}

/// By its length if it has one, else to the end of the stream.
fn read_body(stream: &mut TcpStream, headers: &str, body: &mut Vec<u8>) -> io::Result<()> {
    let length = headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<u64>().ok())?
    });
    match length {
        Some(length) => stream.take(length).read_to_end(body),
        None => stream.read_to_end(body),
    }
    .map(drop)
}
