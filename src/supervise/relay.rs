//! Carries the daemon's output to the init's own, line by line, without waiting for
//! either side. Touches the kernel: reads two pipes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};

use crate::console::{Stream, console};

/// Longer lines are broken into pieces of this many bytes.
const LONGEST_LINE: usize = 64 * 1024;
/// Read from one stream before the loop looks at anything else, in bytes.
const BUDGET: usize = 1024 * 1024;
/// The pipes' size, in bytes: room for the daemon while PID 1 is busy elsewhere.
const PIPE_SIZE: i32 = 1024 * 1024;
/// The end of a daemon waits this long for the console to take its last words: the
/// reason is among them.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Lines kept for the final record, and the bytes kept of each.
const KEPT_LINES: usize = 20;
const KEPT_BYTES: usize = 8 * 1024;
/// No line of the daemon may look like one of ours.
const OUR_PREFIX: &[u8] = b"sidecar-init:";
const QUOTE_PREFIX: &[u8] = b"pipelock: ";

/// The last lines of both streams together.
#[derive(Debug, Clone, Default)]
pub struct LastLines(VecDeque<String>);

impl LastLines {
    fn keep(&mut self, line: &[u8]) {
        let text = line.get(..KEPT_BYTES).unwrap_or(line);
        if self.0.len() == KEPT_LINES {
            self.0.pop_front();
        }
        self.0.push_back(String::from_utf8_lossy(text).into_owned());
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// One stream of the daemon.
#[derive(Debug)]
pub struct Relay {
    pipe: File,
    stream: Stream,
    buffer: Box<[u8]>,
    /// Bytes at the start of `buffer` that wait for the end of their line.
    partial: usize,
    ended: bool,
}

impl Relay {
    /// Takes over the read end of a non-blocking pipe.
    #[must_use]
    pub fn new(pipe: File, stream: Stream) -> Self {
        // Refused beyond fs.pipe-max-size for the unprivileged: the default will do.
        let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        Self {
            pipe,
            stream,
            buffer: vec![0; LONGEST_LINE].into_boxed_slice(),
            partial: 0,
            ended: false,
        }
    }

    /// Readable when there is something to carry; `None` once the stream has ended.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.ended).then(|| self.pipe.as_fd())
    }

    /// Whether the console takes more; while it does not, the pipe holds what comes.
    #[must_use]
    pub fn has_room(&self) -> bool {
        console().takes_more(self.stream, Instant::now())
    }

    /// Carries what is there, up to a mebibyte, and shows each line to `see`.
    pub fn carry(&mut self, last: &mut LastLines, see: &mut dyn FnMut(&[u8])) {
        let mut carried = 0;
        while !self.ended && carried < BUDGET && self.has_room() {
            let free = self.buffer.get_mut(self.partial..).unwrap_or_default();
            match self.pipe.read(free) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    carried += count;
                    self.emit(self.partial + count, last, see);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.ended = true,
            }
        }
        if self.ended {
            self.finish(last, see);
        }
    }

    /// Carries what the pipe still holds after the daemon's end, without waiting for
    /// a grandchild that keeps the other end open.
    pub fn finish(&mut self, last: &mut LastLines, see: &mut dyn FnMut(&[u8])) {
        if !self.ended {
            self.ended = true;
            let mut carried = 0;
            let end = Instant::now() + LAST_WORDS;
            while carried < 2 * BUDGET {
                console().wait_for_room(self.stream, end);
                let free = self.buffer.get_mut(self.partial..).unwrap_or_default();
                match self.pipe.read(free) {
                    Ok(count) if count > 0 => {
                        carried += count;
                        self.emit(self.partial + count, last, see);
                    }
                    _ => break,
                }
            }
        }
        let rest = self.buffer.get(..self.partial).unwrap_or_default();
        if !rest.is_empty() {
            write_line(self.stream, rest, last, see);
            self.partial = 0;
        }
    }

    /// Passes on the whole lines among the first `filled` bytes and moves the rest to the front.
    fn emit(&mut self, filled: usize, last: &mut LastLines, see: &mut dyn FnMut(&[u8])) {
        let held = self.buffer.get(..filled).unwrap_or_default();
        match memchr::memrchr(b'\n', held) {
            Some(end) => {
                let lines = held.get(..=end).unwrap_or_default();
                write_lines(self.stream, lines, last, see);
                self.buffer.copy_within(end + 1..filled, 0);
                self.partial = filled - end - 1;
            }
            None if filled == self.buffer.len() => {
                write_line(self.stream, held, last, see);
                self.partial = 0;
            }
            None => self.partial = filled,
        }
    }
}

/// Writes a block of whole lines at once; the common case copies nothing.
fn write_lines(stream: Stream, block: &[u8], last: &mut LastLines, see: &mut dyn FnMut(&[u8])) {
    let forged = memchr::memmem::find(block, OUR_PREFIX).is_some();
    if !forged {
        console().write_lines(stream, block);
    }
    for line in block.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if forged {
            write_line(stream, text, last, see);
        } else {
            see(text);
        }
    }
    if !forged {
        let mut newest: Vec<&[u8]> = block
            .rsplit(|byte| *byte == b'\n')
            .skip(1)
            .take(KEPT_LINES)
            .collect();
        newest.reverse();
        for line in newest {
            last.keep(line);
        }
    }
}

fn write_line(stream: Stream, text: &[u8], last: &mut LastLines, see: &mut dyn FnMut(&[u8])) {
    let mut line = Vec::with_capacity(QUOTE_PREFIX.len() + text.len() + 1);
    if text.starts_with(OUR_PREFIX) {
        line.extend_from_slice(QUOTE_PREFIX);
    }
    line.extend_from_slice(text);
    line.push(b'\n');
    console().write_lines(stream, &line);
    last.keep(text);
    see(text);
}
