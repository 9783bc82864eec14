//! What is wrong with a manifest, and how it is said: position, field, value,
//! hint. Nothing of a hostile manifest reaches a terminal or a log unescaped.

use std::fmt::{self, Display, Write as _};

/// How many problems of one manifest are reported one by one.
pub const MAX_REPORTED: usize = 100;

/// How many characters of a rejected value are shown.
const MAX_SHOWN: usize = 64;

/// One thing wrong with a manifest, ready to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the manifest, from 1; `None` where something is missing.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// Path of the field, such as `bottle.egress.routes[2].host`; empty for the
    /// manifest as a whole.
    pub field: String,
    /// What is wrong, with the rejected value quoted.
    pub message: String,
    /// What to write instead, where that can be told.
    pub hint: Option<String>,
}

impl Problem {
    /// The problem as lines of text: `FILE:LINE: FIELD: MESSAGE`, then the hint.
    /// There is no line feed at the end.
    #[must_use]
    pub fn display<'a>(&'a self, file: &'a str) -> impl Display + 'a {
        Shown {
            problem: self,
            file,
        }
    }
}

struct Shown<'a> {
    problem: &'a Problem,
    file: &'a str,
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file)?;
        if let Some(line) = self.problem.line {
            write!(f, ":{line}")?;
        }
        if !self.problem.field.is_empty() {
            write!(f, ": {}", self.problem.field)?;
        }
        write!(f, ": {}", self.problem.message)?;
        if let Some(hint) = &self.problem.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// A place in the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// A message with its optional hint, not yet tied to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ties the refusal to a place.
    #[must_use]
    pub fn at(self, at: Option<Position>, field: String) -> Problem {
        Problem {
            line: at.map(|at| at.line as usize),
            column: at.map(|at| at.column as usize),
            field,
            message: self.message,
            hint: self.hint,
        }
    }
}

/// All problems, each on its line with its hint below, and how many were left out.
#[must_use]
pub fn join_problems(problems: &[Problem], name: &str) -> String {
    let mut lines: Vec<String> = problems
        .iter()
        .take(MAX_REPORTED)
        .map(|problem| problem.display(name).to_string())
        .collect();
    if let Some(more) = problems
        .len()
        .checked_sub(MAX_REPORTED)
        .filter(|more| *more > 0)
    {
        lines.push(format!("… and {more} more"));
    }
    lines.join("\n")
}

/// Problems as they are found; past the first [`MAX_REPORTED`] only their number,
/// so that a manifest cannot make the report larger than itself.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    kept: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// Adds one. The text is made only if it will be shown.
    pub fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.kept.len() < MAX_REPORTED {
            self.kept.push(problem());
        } else {
            self.more += 1;
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether one of them is about this field.
    #[must_use]
    pub fn names(&self, field: &str) -> bool {
        self.kept.iter().any(|problem| problem.field == field)
    }

    /// Takes over the others.
    pub fn append(&mut self, others: Self) {
        self.kept.extend(others.kept);
        self.more += others.more;
    }

    /// In the order of the file, what is missing first; the number of those not
    /// shown last.
    #[must_use]
    pub fn into_sorted(mut self) -> Vec<Problem> {
        // A few hundred at most: not worth 5 KiB of the standard library's stable sort.
        let mut sorted: Vec<Problem> = Vec::with_capacity(self.kept.len());
        for problem in self.kept {
            let place = (problem.line, problem.column);
            let at = sorted.partition_point(|other| (other.line, other.column) <= place);
            sorted.insert(at, problem);
        }
        if sorted.len() > MAX_REPORTED {
            self.more += sorted.len() - MAX_REPORTED;
            sorted.truncate(MAX_REPORTED);
        }
        if self.more > 0 {
            let more = self.more;
            sorted.push(Refusal::new(format!("… and {more} more")).at(None, String::new()));
        }
        sorted
    }
}

/// The value in double quotes, escaped and shortened: fit for a log line.
#[must_use]
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", escaped(value))
}

/// As [`quoted`], without the quotes.
#[must_use]
pub fn escaped(value: &str) -> String {
    let mut out = String::new();
    for (shown, c) in value.chars().enumerate() {
        if shown == MAX_SHOWN {
            out.push('…');
            break;
        }
        match c {
            '\'' => out.push('\''),
            _ => {
                // Cannot fail: writing to a String.
                let _ = write!(out, "{}", c.escape_debug());
            }
        }
    }
    out
}
