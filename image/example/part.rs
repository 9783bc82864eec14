//! The programs of the example bundle, in one file and without a library: an egress that passes
//! everything on to pipelock, and pages in the place of a git-gate and of whom an agent asks for
//! approvals. They show how a bundle is put together and are nothing more.
//!
//! ```text
//! part egress PORT PIPELOCK
//! part page PORT TEXT
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

/// Longer than any request's head here.
const LONGEST_HEAD: u64 = 64 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let serve: fn(&TcpStream, &str) -> io::Result<()> = match arguments.first().map(String::as_str)
    {
        Some("egress") => pass_on,
        Some("page") => answer,
        _ => return ExitCode::from(64),
    };
    let [_, port, rest] = arguments.as_slice() else {
        return ExitCode::from(64);
    };
    let port = port.parse().unwrap_or_default();
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(listener) => {
            for stream in listener.incoming().flatten() {
                let rest = rest.clone();
                // A client that goes away in the middle is its own affair.
                thread::spawn(move || serve(&stream, &rest));
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cannot listen on {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The lines of a request before its body, each with its end.
fn head(from: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut from = from.take(LONGEST_HEAD);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim().is_empty() {
            return Ok(lines);
        }
        lines.push(line);
    }
}

/// Hands a request to pipelock, which decides, and says of a plain one by whom it came.
fn pass_on(client: &TcpStream, pipelock: &str) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut request = head(&mut reader)?;
    let line = request
        .first()
        .map(|line| line.trim().to_owned())
        .unwrap_or_default();
    println!("{line}");
    if !line.starts_with("CONNECT ") {
        // One a connection, so that none passes unread behind it.
        request.push("X-Passed: egress\r\nConnection: close\r\n".to_owned());
    }
    let Ok(upstream) = TcpStream::connect(pipelock) else {
        return reply(client, "502 Bad Gateway", "egress: pipelock is not there");
    };
    (&upstream).write_all(format!("{}\r\n", request.concat()).as_bytes())?;
    (&upstream).write_all(reader.buffer())?;
    let (from, to) = (client.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || carry(&from, &to));
    carry(&upstream, client);
    Ok(())
}

fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    let end = match io::copy(&mut from, &mut to) {
        Ok(_) => Shutdown::Write,
        Err(_) => Shutdown::Both,
    };
    // Fails where the other end is gone already.
    let _ = to.shutdown(end);
}

fn answer(client: &TcpStream, text: &str) -> io::Result<()> {
    head(&mut BufReader::new(client))?;
    reply(client, "200 OK", text)
}

fn reply(mut client: &TcpStream, status: &str, text: &str) -> io::Result<()> {
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1
    )
}
