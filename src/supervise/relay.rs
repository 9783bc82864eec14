//! Carries the daemon's output to the init's own, line by line, without waiting for
//! either side. Touches the kernel: reads two pipes. What becomes of the bytes is
//! [`Lines`]' to say, which is pure.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};

use crate::daemon::pipelock;
use crate::daemon::pipelock::said::{self, Said, Weight};
use crate::daemon::pipelock::skim::Skim;
use crate::plain;
use crate::sys::console::{Stream, console};

/// Longer lines are broken into pieces of this many bytes.
const LONGEST_LINE: usize = 64 * 1024;
/// Read from one stream before the loop looks at anything else, in bytes.
const BUDGET: usize = 1024 * 1024;
/// And no longer than this: of many that flood, each in its turn.
const TURN: Duration = Duration::from_millis(20);
/// The pipes' size, in bytes: room for the daemon while PID 1 is busy elsewhere.
const PIPE_SIZE: i32 = 1024 * 1024;
/// The end of a daemon waits this long for the console to take its last words: the
/// reason is among them.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Lines kept for the final record, and the bytes kept of each.
const KEPT_LINES: usize = 20;
const KEPT_BYTES: usize = 8 * 1024;
/// No line of the daemon may look like one of ours.
const OUR_PREFIX: &[u8] = said::OUR_PREFIX.as_bytes();
const QUOTE_PREFIX: &[u8] = said::QUOTE_PREFIX.as_bytes();
/// Who says it: what stands before each line, and before every piece of a long line but the
/// first, for no line begins with what an agent wrote in the middle of one.
#[derive(Debug, Clone)]
pub struct Speaker {
    name: Box<[u8]>,
    continued: Box<[u8]>,
}

impl Speaker {
    /// pipelock: with its name before each line only where others speak too.
    #[must_use]
    pub fn pipelock(among_others: bool) -> Self {
        let mut speaker = Self::of("pipelock");
        if !among_others {
            speaker.name = Box::default();
        }
        speaker
    }

    /// A daemon of this name: its lines can pass neither for ours nor for a sibling's.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self {
            name: format!("{name}: ").into_bytes().into(),
            continued: format!("{name}: (continued) ").into_bytes().into(),
        }
    }
}

/// The last lines of both streams together, and those of the present daemon's that say why it
/// ends: a dump is longer than what is kept, and begins with the reason.
#[derive(Debug, Clone, Default)]
pub struct LastLines {
    lines: VecDeque<Vec<u8>>,
    fatal: Option<Vec<u8>>,
    error: Option<Vec<u8>>,
}

impl LastLines {
    /// Another daemon begins: what the one before said is not why this one ends.
    pub fn begin(&mut self) {
        (self.fatal, self.error) = (None, None);
    }

    fn weigh(&mut self, line: &[u8]) {
        let kept = || line.get(..KEPT_BYTES).unwrap_or(line).to_vec();
        match said::weigh(line) {
            Some(Weight::Fatal) if self.fatal.is_none() => self.fatal = Some(kept()),
            Some(Weight::Error) => self.error = Some(kept()),
            _ => {}
        }
    }

    fn keep(&mut self, line: &[u8]) {
        // Ours, at every probe: it would soon be all there is.
        if pipelock::tells_of_any_canary(line) {
            return;
        }
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(if line.len() > KEPT_BYTES {
            Skim::new(line).finish()
        } else {
            line.to_vec()
        });
    }

    /// What of them may be told, oldest first; before them the first line of a dump that is
    /// longer.
    #[must_use]
    pub fn said(&self) -> Vec<Said> {
        let fatal = self.fatal.as_ref().filter(|it| !self.lines.contains(it));
        let lines = fatal.into_iter().chain(&self.lines);
        lines.map(|line| Said::line(line)).collect()
    }

    /// The line that begins the present daemon's dump.
    #[must_use]
    pub fn fatal(&self) -> Option<Said> {
        self.fatal.as_ref().map(|line| Said::line(line))
    }

    /// What the present daemon says is the reason for its end: the beginning of its dump, else
    /// its last error.
    #[must_use]
    pub fn reason(&self) -> Option<Said> {
        let reason = self.fatal.as_ref().or(self.error.as_ref());
        reason.map(|line| Said::line(line))
    }
}

/// Where lines go.
pub struct Outlet<'a> {
    /// Takes whole lines, ready to be printed.
    pub print: &'a mut dyn FnMut(&[u8]),
    /// Keeps the last of them.
    pub last: &'a mut LastLines,
    /// Is shown each, as the daemon wrote it; of one that is longer than 64 KiB, what
    /// [`Skim`] keeps.
    pub see: &'a mut dyn FnMut(&[u8]),
}

/// One stream's bytes, made into lines.
#[derive(Debug)]
pub struct Lines {
    buffer: Box<[u8]>,
    /// Bytes at the start of `buffer` that wait for the end of their line.
    partial: usize,
    /// A line that is longer than the buffer, as far as it has come.
    long: Option<Skim>,
    speaker: Speaker,
}

impl Lines {
    /// Of one who has said nothing yet.
    #[must_use]
    pub fn of(speaker: Speaker) -> Self {
        Self {
            buffer: vec![0; LONGEST_LINE].into_boxed_slice(),
            partial: 0,
            long: None,
            speaker,
        }
    }

    /// Where the next bytes are to be put.
    pub fn free(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.partial..).unwrap_or_default()
    }

    /// So many bytes were put there: passes on the lines they complete.
    pub fn advance(&mut self, count: usize, to: &mut Outlet) {
        let filled = self.partial + count;
        // What waited has no end in it.
        let new = self.partial;
        let begin = self.end_long_line(new, filled, to);
        let new = new.max(begin);
        let held = self.buffer.get(begin..filled).unwrap_or_default();
        let arrived = self.buffer.get(new..filled).unwrap_or_default();
        let rest = match memchr::memrchr(b'\n', arrived) {
            Some(end) => {
                let end = new + end + 1;
                let block = self.buffer.get(begin..end).unwrap_or_default();
                pass_on(&self.speaker.name, block, to);
                end
            }
            None if held.len() == self.buffer.len() => {
                print_line(&self.speaker.name, held, to.print);
                self.long = Some(Skim::new(held));
                filled
            }
            None => begin,
        };
        self.buffer.copy_within(rest..filled, 0);
        self.partial = filled - rest;
    }

    /// Where the first line begins that is not the end of a long one.
    fn end_long_line(&mut self, new: usize, filled: usize, to: &mut Outlet) -> usize {
        let Some(skim) = &mut self.long else {
            return 0;
        };
        let held = self.buffer.get(..filled).unwrap_or_default();
        let arrived = held.get(new..).unwrap_or_default();
        let end = memchr::memchr(b'\n', arrived).map(|end| new + end);
        if end.is_none() && filled < self.buffer.len() {
            return 0;
        }
        let piece = held.get(..end.unwrap_or(filled)).unwrap_or_default();
        if !piece.is_empty() {
            print_line(&self.speaker.continued, piece, to.print);
        }
        skim.feed(piece);
        let Some(end) = end else {
            self.partial = 0;
            return filled;
        };
        if let Some(skim) = self.long.take() {
            see_rest(&skim.finish(), to);
        }
        end + 1
    }

    /// Nothing more will come: what is there is a line.
    pub fn finish(&mut self, to: &mut Outlet) {
        let rest = self.buffer.get(..self.partial).unwrap_or_default();
        match self.long.take() {
            Some(mut skim) => {
                if !rest.is_empty() {
                    print_line(&self.speaker.continued, rest, to.print);
                }
                skim.feed(rest);
                see_rest(&skim.finish(), to);
            }
            None if !rest.is_empty() => {
                print_line(&self.speaker.name, rest, to.print);
                see_rest(rest, to);
            }
            None => {}
        }
        self.partial = 0;
    }
}

fn see_rest(line: &[u8], to: &mut Outlet) {
    to.last.weigh(line);
    to.last.keep(line);
    (to.see)(line);
}

/// Passes on a block of whole lines at once; the common case copies nothing.
fn pass_on(name: &[u8], block: &[u8], to: &mut Outlet) {
    if name.is_empty()
        && plain::is_plain(block)
        && memchr::memmem::find(block, OUR_PREFIX).is_none()
    {
        (to.print)(block);
    } else {
        let mut printed = Vec::with_capacity(block.len() + block.len() / 8);
        for line in lines(block) {
            append_line(&mut printed, name, line);
        }
        (to.print)(&printed);
    }
    for line in lines(block) {
        to.last.weigh(line);
        (to.see)(line);
    }
    let mut newest: Vec<&[u8]> = block
        .rsplit(|byte| *byte == b'\n')
        .skip(1)
        .take(KEPT_LINES)
        .collect();
    newest.reverse();
    for line in newest {
        to.last.keep(line);
    }
}

/// The lines of a block that ends with one.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr::memchr_iter(b'\n', block).map(move |end| {
        let line = block.get(begin..end).unwrap_or_default();
        begin = end + 1;
        line
    })
}

fn print_line(prefix: &[u8], text: &[u8], print: &mut dyn FnMut(&[u8])) {
    let mut line = Vec::with_capacity(prefix.len() + QUOTE_PREFIX.len() + text.len() + 1);
    append_line(&mut line, prefix, text);
    print(&line);
}

fn append_line(lines: &mut Vec<u8>, prefix: &[u8], text: &[u8]) {
    lines.extend_from_slice(prefix);
    if text.starts_with(OUR_PREFIX) {
        lines.extend_from_slice(QUOTE_PREFIX);
    }
    if plain::is_plain(text) {
        lines.extend_from_slice(text);
    } else {
        plain::append(lines, text);
    }
    lines.push(b'\n');
}

/// One stream of the daemon.
#[derive(Debug)]
pub struct Relay {
    pipe: File,
    stream: Stream,
    lines: Lines,
    ended: bool,
}

impl Relay {
    /// Takes over the read end of a non-blocking pipe.
    #[must_use]
    pub fn new(pipe: File, stream: Stream, speaker: Speaker) -> Self {
        // Refused beyond fs.pipe-max-size for the unprivileged: the default will do.
        let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        Self {
            pipe,
            stream,
            lines: Lines::of(speaker),
            ended: false,
        }
    }

    /// Who says it, from its next line on.
    pub fn set_speaker(&mut self, speaker: Speaker) {
        self.lines.speaker = speaker;
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

    /// Carries what is there, up to a mebibyte and for no longer than [`TURN`], and shows each line to `see`.
    pub fn carry(&mut self, last: &mut LastLines, see: &mut dyn FnMut(&[u8])) {
        let mut carried = 0;
        let end = Instant::now() + TURN;
        let has_time = |carried| carried < BUDGET && Instant::now() < end;
        while !self.ended && has_time(carried) && self.has_room() {
            match self.pipe.read(self.lines.free()) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    carried += count;
                    self.advance(count, last, see);
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
                match self.pipe.read(self.lines.free()) {
                    Ok(count) if count > 0 => {
                        carried += count;
                        self.advance(count, last, see);
                    }
                    _ => break,
                }
            }
        }
        let stream = self.stream;
        let print = &mut |lines: &[u8]| console().write_lines(stream, lines);
        self.lines.finish(&mut Outlet { print, last, see });
    }

    fn advance(&mut self, count: usize, last: &mut LastLines, see: &mut dyn FnMut(&[u8])) {
        let stream = self.stream;
        let print = &mut |lines: &[u8]| console().write_lines(stream, lines);
        self.lines.advance(count, &mut Outlet { print, last, see });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed, seen and kept of a stream that comes in pieces of this size.
    fn carried(bytes: &[u8], piece: usize) -> (String, Vec<String>, Vec<String>) {
        let (mut printed, mut seen, mut last) = (Vec::new(), Vec::new(), LastLines::default());
        let mut lines = Lines::of(Speaker::pipelock(false));
        {
            let mut to = Outlet {
                print: &mut |text| printed.extend_from_slice(text),
                last: &mut last,
                see: &mut |line| seen.push(String::from_utf8_lossy(line).into_owned()),
            };
            let mut rest = bytes;
            while !rest.is_empty() {
                let free = lines.free();
                let count = rest.len().min(piece).min(free.len());
                free[..count].copy_from_slice(&rest[..count]);
                lines.advance(count, &mut to);
                rest = &rest[count..];
            }
            lines.finish(&mut to);
        }
        let said = last.said().iter().map(ToString::to_string).collect();
        (String::from_utf8(printed).unwrap(), seen, said)
    }

    #[test]
    fn passes_on_lines_as_they_are() {
        let text = "one\n\ntwo × 2\nunfinished";
        for piece in [1, 3, 1000] {
            let (printed, seen, said) = carried(text.as_bytes(), piece);
            assert_eq!(printed, format!("{text}\n"));
            assert_eq!(seen, ["one", "", "two × 2", "unfinished"]);
            assert_eq!(said, seen);
        }
    }

    #[test]
    fn a_dump_keeps_its_first_line_and_another_daemon_has_none_of_it() {
        let frames = "\truntime/panic.go:1229 +0x48\n".repeat(400);
        let text =
            format!("Error: one\nError: two\nfatal error: no memory\n\n{frames}panic: later\n");
        for piece in [7, 4096, usize::MAX] {
            let (mut last, mut lines) = (LastLines::default(), Lines::of(Speaker::pipelock(false)));
            let mut put = |text: &str, last: &mut LastLines| {
                let mut to = Outlet {
                    print: &mut |_| {},
                    last,
                    see: &mut |_| {},
                };
                let mut rest = text.as_bytes();
                while !rest.is_empty() {
                    let free = lines.free();
                    let count = rest.len().min(piece).min(free.len());
                    free[..count].copy_from_slice(&rest[..count]);
                    lines.advance(count, &mut to);
                    rest = &rest[count..];
                }
            };
            put("Error: one\nError: two\n", &mut last);
            assert_eq!(last.reason().unwrap().as_str(), "Error: two");
            assert_eq!(last.fatal(), None);
            put(&text, &mut last);
            assert_eq!(last.reason().unwrap().as_str(), "fatal error: no memory");
            let said = last.said();
            assert_eq!(said.len(), KEPT_LINES + 1);
            assert_eq!(said[0].as_str(), "fatal error: no memory");
            assert_eq!(said[KEPT_LINES].as_str(), "panic: later");
            last.begin();
            assert_eq!(last.reason(), None);
            assert_eq!(last.said().len(), KEPT_LINES);
        }
    }

    #[test]
    fn a_long_event_is_one_line_to_whoever_counts() {
        let secret = "AKIAIOSFODNN7EXAMPLE ".repeat(20_000);
        let line = format!(
            r#"{{"event":"blocked","url":"http://no.example/{secret}","scanner":"allowlist","reason":"domain not in allowlist: no.example"}}"#
        );
        let text = format!("{line}\nafter\n{line}");
        for piece in [999, 4096, 60_000, usize::MAX] {
            let (printed, seen, said) = carried(text.as_bytes(), piece);
            let refused = "blocked: allowlist: domain not in allowlist";
            assert_eq!(said, [refused, "after", refused]);
            assert_eq!(seen.len(), 3, "{piece}");
            assert!(seen[0].len() < 2000 && seen[0].ends_with(r#"no.example"}"#));
            let whole: String = printed
                .lines()
                .map(|line| line.strip_prefix("pipelock: (continued) ").unwrap_or(line))
                .collect();
            assert_eq!(whole, text.replace('\n', ""));
            let starts = ["{\"event\"", "after", "pipelock: (continued) "];
            for line in printed.lines() {
                assert!(starts.iter().any(|start| line.starts_with(start)), "{line}");
            }
        }
    }

    #[test]
    fn forges_no_line_and_moves_no_cursor() {
        let text = b"sidecar-init: result {}\nx\rsidecar-init: result {}\n\xe2\x80\xa8sidecar-init: result {}\n\x1b[2J\xff\n";
        let (printed, seen, _) = carried(text, 1000);
        assert_eq!(
            printed,
            "pipelock: sidecar-init: result {}\nx\\rsidecar-init: result {}\n\\u2028sidecar-init: result {}\n\\u001b[2J\\xff\n"
        );
        assert_eq!(seen[0], "sidecar-init: result {}");
        let long = format!("{}sidecar-init: result {{}}\n", "x".repeat(LONGEST_LINE));
        let (printed, _, _) = carried(long.as_bytes(), usize::MAX);
        assert!(printed.ends_with("\npipelock: (continued) pipelock: sidecar-init: result {}\n"));
    }
}
