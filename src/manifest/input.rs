//! The characters of a manifest as the parser takes them: straight from the text, counted, and
//! no more than so many for one event.

use std::cell::Cell;
use std::rc::Rc;

/// How many characters the parser may take in without giving an event. It keeps
/// all tokens of a flow collection that might yet turn out to be a mapping's key,
/// a hundred bytes for each; this bounds them.
pub(super) const MAX_LOOKAHEAD: usize = 256 * 1024;

/// The most that the parser looks ahead at once.
const AHEAD: usize = 16;

/// What is agreed with whoever reads the parser's events.
#[derive(Debug)]
pub(super) struct Agreed {
    /// Characters taken since the last event.
    taken: Cell<usize>,
    /// Where so many bytes are left, go on where only so many are.
    leap: Cell<Option<(usize, usize)>>,
}

impl Agreed {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            taken: Cell::new(0),
            leap: Cell::new(None),
        })
    }

    /// An event has come. Whether too much was taken for it.
    pub(super) fn is_too_much(&self) -> bool {
        self.taken.replace(0) > MAX_LOOKAHEAD
    }

    /// Where so many bytes are left, to go on where only so many are. It is not done where
    /// the parser is beyond that already.
    pub(super) fn leap(&self, from: usize, to: usize) {
        self.leap.set(Some((from, to)));
    }

    /// Whether that was done; from now on it will not be.
    pub(super) fn has_leapt(&self) -> bool {
        self.leap.take().is_none()
    }
}

/// What the parser has not passed over. Ends early when it takes too much for one event.
pub(super) struct Input<'a> {
    rest: &'a str,
    /// What comes after that.
    then: &'a str,
    /// So many characters from here were taken, those past the end among them.
    ahead: usize,
    agreed: Rc<Agreed>,
}

impl<'a> Input<'a> {
    pub(super) fn of(prefix: &'a str, text: &'a str, agreed: Rc<Agreed>) -> Self {
        let mut input = Self {
            rest: prefix,
            then: text,
            ahead: 0,
            agreed,
        };
        input.go_on();
        input
    }

    fn go_on(&mut self) {
        if self.rest.is_empty() {
            self.rest = std::mem::take(&mut self.then);
        }
    }

    /// The character there, whether it was taken or not.
    fn nth(&self, n: usize) -> Option<char> {
        match self.rest.as_bytes().get(..=n) {
            Some(bytes) if bytes.is_ascii() => bytes.last().map(|byte| char::from(*byte)),
            _ => self.rest.chars().chain(self.then.chars()).nth(n),
        }
    }

    fn take(&mut self, count: usize) {
        let taken = self.agreed.taken.get() + count;
        if taken > MAX_LOOKAHEAD {
            self.end_after(self.ahead + count - (taken - MAX_LOOKAHEAD - 1).min(count));
        }
        self.agreed.taken.set(taken.min(MAX_LOOKAHEAD + 1));
    }

    /// Nothing comes after so many characters.
    fn end_after(&mut self, count: usize) {
        let mut left = count;
        for part in [&mut self.rest, &mut self.then] {
            if let Some((end, _)) = part.char_indices().nth(left) {
                *part = part.get(..end).unwrap_or_default();
            }
            left -= left.min(part.chars().count());
        }
    }

    fn pass_over(&mut self) {
        let first = self.rest.chars().next();
        let length = first.map_or(0, char::len_utf8);
        self.rest = self.rest.get(length..).unwrap_or_default();
        self.go_on();
        // Asked at the ends of lines alone: no other place is leapt from.
        if first == Some('\n')
            && let Some((from, to)) = self.agreed.leap.get()
            && from == self.rest.len()
        {
            self.rest = self.rest.get(from - to..).unwrap_or_default();
            self.agreed.leap.set(None);
        }
    }
}

impl saphyr_parser::Input for Input<'_> {
    #[inline]
    fn lookahead(&mut self, count: usize) {
        if let Some(more) = count.checked_sub(self.ahead) {
            self.take(more);
            self.ahead = count;
        }
    }

    #[inline]
    fn buflen(&self) -> usize {
        self.ahead
    }

    #[inline]
    fn bufmaxlen(&self) -> usize {
        AHEAD
    }

    fn raw_read_ch(&mut self) -> char {
        self.take(1);
        let read = self.nth(0);
        self.pass_over();
        read.unwrap_or_default()
    }

    fn raw_read_non_breakz_ch(&mut self) -> Option<char> {
        self.take(1);
        let read = self.nth(0)?;
        if matches!(read, '\n' | '\r' | '\0' | '\u{feff}') {
            self.ahead += 1;
            return None;
        }
        self.pass_over();
        Some(read)
    }

    #[inline]
    fn skip(&mut self) {
        if let Some(ahead) = self.ahead.checked_sub(1) {
            self.ahead = ahead;
            self.pass_over();
        }
    }

    #[inline]
    fn skip_n(&mut self, count: usize) {
        for _ in 0..count {
            self.skip();
        }
    }

    #[inline]
    fn peek(&self) -> char {
        self.nth(0).unwrap_or_default()
    }

    #[inline]
    fn peek_nth(&self, n: usize) -> char {
        self.nth(n).unwrap_or_default()
    }

    #[inline]
    fn peek_opt(&self) -> Option<char> {
        self.nth(0)
    }
}
