//! What a relay owes the daemon: whoever reads its output can stall or kill it.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Answer, Bed, Rendered, binary, free_port, wait_for};

/// A daemon whose standard output nobody reads; killed when dropped.
struct Unread {
    child: Child,
    port: u16,
}

impl Unread {
    fn start(bed: &Bed) -> Self {
        bed.install(&bed.render(&Rendered::default()));
        let port = free_port();
        let mut command: Command = bed.command(&binary());
        command.arg("--listen").arg(format!("127.0.0.1:{port}"));
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let unread = Self { child, port };
        wait_for("/health", || {
            unread.ask("GET /health").filter(|a| a.status() == 200)
        });
        unread
    }

    /// An answer, unless there is none within a second.
    fn ask(&self, what: &str) -> Option<Answer> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let request = format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        (!answer.is_empty()).then(|| Answer::read(&mut answer.as_slice()))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_unread_pipe_stalls_refusals_and_term_but_not_health() {
    let bed = Bed::new();
    let mut daemon = Unread::start(&bed);
    let refused = "GET http://canary.invalid/";
    let stalled = (0..2000).any(|_| daemon.ask(refused).is_none());
    assert!(stalled, "2000 lines went into a pipe nobody reads");
    assert_eq!(daemon.ask("GET /health").map(|a| a.status()), Some(200));
    daemon.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        daemon.child.try_wait().unwrap().is_none(),
        "it ended all the same"
    );
}

#[test]
fn a_reader_that_goes_away_kills_it_with_the_next_line() {
    let bed = Bed::new();
    let mut daemon = Unread::start(&bed);
    drop(daemon.child.stdout.take());
    daemon.ask("GET http://canary.invalid/");
    let status = wait_for("its end", || daemon.child.try_wait().unwrap());
    assert_eq!(status.signal(), Some(Signal::SIGPIPE as i32));
}
