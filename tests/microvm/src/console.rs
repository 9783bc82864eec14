//! The console as text: captured by a thread, waited on by the tests.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much of the console an error shows.
const TAIL_LINES: usize = 60;

#[derive(Debug, Default)]
struct Capture {
    bytes: Vec<u8>,
    ended: bool,
    held: bool,
}

/// Everything that was printed so far, and a way to wait for more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console(Arc<(Mutex<Capture>, Condvar)>);

/// Why a wait ended without its line.
pub(crate) enum NoLine {
    TimedOut,
    Ended,
}

impl Console {
    /// Capture a stream until it ends; with `echo`, on standard error too.
    pub(crate) fn capture(mut stream: impl Read + Send + 'static, echo: bool) -> Console {
        let console = Console::default();
        let writer = console.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                writer.wait_until_released();
                let read = match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                let bytes = buffer.get(..read).unwrap_or_default();
                if echo {
                    // A closed standard error must not end the capture.
                    let _ = std::io::Write::write_all(&mut std::io::stderr(), bytes);
                }
                writer
                    .lock()
                    .bytes
                    .extend(bytes.iter().filter(|byte| **byte != b'\r'));
                writer.0.1.notify_all();
            }
            writer.lock().ended = true;
            writer.0.1.notify_all();
        });
        console
    }

    /// Stop reading, or go on.
    pub(crate) fn hold(&self, held: bool) {
        self.lock().held = held;
        self.0.1.notify_all();
    }

    fn wait_until_released(&self) {
        let released = self.0.1.wait_while(self.lock(), |capture| capture.held);
        drop(released.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Capture> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    pub(crate) fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let start = lines.len().saturating_sub(TAIL_LINES);
        lines.get(start..).unwrap_or_default().join("\n")
    }

    /// How many bytes have been captured: a place to wait from.
    pub(crate) fn position(&self) -> usize {
        self.lock().bytes.len()
    }

    /// The first complete line after `from` that the predicate accepts, now or later.
    pub(crate) fn wait_for(
        &self,
        from: usize,
        mut accepts: impl FnMut(&str) -> bool,
        within: Duration,
    ) -> Result<String, NoLine> {
        let deadline = Instant::now() + within;
        let mut seen = from;
        let mut capture = self.lock();
        loop {
            while let Some(rest) = capture.bytes.get(seen..) {
                // The last line of an ended console may lack its newline.
                let length = match rest.iter().position(|byte| *byte == b'\n') {
                    Some(length) => length,
                    None if capture.ended && !rest.is_empty() => rest.len(),
                    None => break,
                };
                let line = String::from_utf8_lossy(rest.get(..length).unwrap_or_default());
                if accepts(&line) {
                    return Ok(line.into_owned());
                }
                seen += length + 1;
            }
            if capture.ended {
                return Err(NoLine::Ended);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(NoLine::TimedOut);
            };
            capture = self
                .0
                .1
                .wait_timeout(capture, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Wait for the stream's end; false when it did not come in time.
    pub(crate) fn wait_end(&self, within: Duration) -> bool {
        let (capture, _) = self
            .0
            .1
            .wait_timeout_while(self.lock(), within, |capture| !capture.ended)
            .unwrap_or_else(PoisonError::into_inner);
        capture.ended
    }
}
