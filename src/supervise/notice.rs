//! Where a daemon says that it is ready, as service managers have it (sd_notify(3)). Touches
//! the kernel: a datagram socket for each, in a directory that is only its own to enter.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Of what it says so much is read; more is no notice.
const LONGEST: usize = 4096;
/// Read before the loop looks at anything else.
const MOST_AT_ONCE: usize = 16;

/// One daemon's.
#[derive(Debug)]
pub(super) struct Notice {
    socket: UnixDatagram,
    path: PathBuf,
    ready: bool,
}

impl Notice {
    /// A socket at `path`, whatever was there.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            ready: false,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has said so.
    pub(super) fn was_ready(&self) -> bool {
        self.ready
    }

    /// Hears what was said; whether it says that it is ready since now.
    pub(super) fn is_ready(&mut self) -> bool {
        let mut buffer = [0; LONGEST];
        for _ in 0..MOST_AT_ONCE {
            let Ok(count) = self.socket.recv(&mut buffer) else {
                return false;
            };
            let said = buffer.get(..count).unwrap_or_default();
            if says_ready(said) && !std::mem::replace(&mut self.ready, true) {
                return true;
            }
        }
        false
    }
}

impl AsFd for Notice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn says_ready(said: &[u8]) -> bool {
    said.split(|byte| *byte == b'\n')
        .any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_one_line_of_many_for_ready_and_nothing_that_looks_like_it() {
        for (said, ready) in [
            (&b"READY=1"[..], true),
            (b"STATUS=up\nREADY=1\nMAINPID=3\n", true),
            (b"READY=0", false),
            (b"XREADY=1", false),
            (b"READY=1 ", false),
            (b"", false),
        ] {
            assert_eq!(says_ready(said), ready, "{said:?}");
        }
    }

    #[test]
    fn hears_that_it_is_ready_once() {
        let path = std::env::temp_dir().join(format!("sidecar-notice-{}", std::process::id()));
        let mut notice = Notice::listen(&path).unwrap();
        assert!(!notice.is_ready());
        let client = UnixDatagram::unbound().unwrap();
        for _ in 0..3 {
            client.send_to(b"READY=1\n", notice.path()).unwrap();
        }
        assert!(notice.is_ready() && notice.was_ready());
        assert!(!notice.is_ready());
        std::fs::remove_file(&path).unwrap();
    }
}
