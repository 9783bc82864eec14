//! A web server on the host's loopback, for the guest to reach as an upstream.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::Error;

/// A server that answers every request with one text, and by whom the request came where it
/// says so; ended on drop.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    served: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
}

impl Upstream {
    /// Serve `body` on a free port of the loopback.
    pub fn start(body: &str) -> Result<Upstream, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(Error::io("listen on loopback"))?;
        let address = listener
            .local_addr()
            .map_err(Error::io("listen on loopback"))?;
        let served = Arc::new(AtomicUsize::new(0));
        let ending = Arc::new(AtomicBool::new(false));
        let upstream = Upstream {
            address,
            served: Arc::clone(&served),
            ending: Arc::clone(&ending),
        };
        let body = body.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (body, served) = (body.clone(), Arc::clone(&served));
                // A client that goes away in the middle is its own affair.
                std::thread::spawn(move || serve(stream, &body, &served).ok());
            }
        });
        Ok(upstream)
    }

    /// Its port, the same on the host's loopback and at [`crate::HOST_ADDRESS`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many requests it has answered.
    #[must_use]
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // Wakes the accept.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, body: &str, served: &AtomicUsize) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut requested = false;
    let mut body = body.to_owned();
    for line in &mut lines {
        let line = line?;
        if line.is_empty() {
            requested = true;
            break;
        }
        if line.to_ascii_lowercase().starts_with("x-passed:") {
            body += &line;
            body.push('\n');
        }
    }
    if requested {
        served.fetch_add(1, Ordering::Relaxed);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}
