//! What is wrong with a manifest, and how it is said: position, field, value,
//! hint. Nothing of a hostile manifest reaches a terminal or a log unescaped.

use std::fmt::{self, Display, Write as _};

use serde::Serialize;

/// How many problems of one manifest are reported one by one.
pub const MAX_REPORTED: usize = 100;

/// How many characters of a rejected value are shown.
const MAX_SHOWN: usize = 64;

/// One thing wrong with a manifest, ready to be printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

impl Position {
    /// The place at this line and column, or the last that can be told.
    #[must_use]
    pub fn new(line: usize, column: usize) -> Self {
        let small = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            line: small(line),
            column: small(column),
        }
    }
}

/// A message with its optional hint, not yet tied to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Rejection {
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
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| problem.display(name).to_string())
        .collect();
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

    /// How many there are, kept or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.kept.len() + self.more
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

    /// Whether one of them is about this field or one within it.
    #[must_use]
    pub fn begins_with(&self, field: &str) -> bool {
        let within = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        let rest = |problem: &Problem| problem.field.strip_prefix(field).is_some_and(within);
        self.kept.iter().any(rest)
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
        let mut sorted = self.kept;
        sorted.sort_by_key(|problem| (problem.line, problem.column));
        if sorted.len() > MAX_REPORTED {
            self.more += sorted.len() - MAX_REPORTED;
            sorted.truncate(MAX_REPORTED);
        }
        if self.more > 0 {
            let more = self.more;
            sorted.push(Rejection::new(format!("… and {more} more")).at(None, String::new()));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Problems on these lines; on line 0 something is missing.
    fn problems(lines: impl IntoIterator<Item = usize>) -> Problems {
        let mut problems = Problems::default();
        for (found, line) in lines.into_iter().enumerate() {
            let at = Some(Position::new(line, 1)).filter(|_| line > 0);
            problems.add(|| Rejection::new(format!("found {found}")).at(at, format!("key{line}")));
        }
        problems
    }

    fn shown(problems: Problems) -> Vec<String> {
        let text = join_problems(&problems.into_sorted(), "m");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn as_many_as_are_reported_are_all_there_and_one_more_is_counted() {
        let all = shown(problems(1..=MAX_REPORTED));
        assert_eq!(all.len(), MAX_REPORTED);
        assert!(all[MAX_REPORTED - 1].starts_with("m:100: "), "{all:?}");
        for more in [1, 2, 150] {
            let some = shown(problems(1..=MAX_REPORTED + more));
            assert_eq!(some.len(), MAX_REPORTED + 1);
            assert_eq!(some[..MAX_REPORTED], all);
            assert_eq!(some[MAX_REPORTED], format!("m: … and {more} more"));
        }
    }

    #[test]
    fn two_lists_have_one_limit_and_one_count() {
        for (a, b, more) in [(60, 40, 0), (60, 41, 1), (100, 100, 100), (130, 120, 150)] {
            let mut both = problems(1..=a);
            both.append(problems(1..=b));
            assert_eq!(both.count(), a + b);
            let shown = shown(both);
            assert_eq!(shown.len(), MAX_REPORTED + usize::from(more > 0));
            if more > 0 {
                assert_eq!(shown[MAX_REPORTED], format!("m: … and {more} more"));
            }
        }
    }

    #[test]
    fn what_is_missing_comes_first_and_then_the_order_of_the_file() {
        let mut all = problems([7, 0, 3, 7, 0]);
        all.add(|| Rejection::new("before").at(Some(Position::new(3, 0)), "key3".to_owned()));
        assert_eq!(
            shown(all),
            [
                "m: key0: found 1",
                "m: key0: found 4",
                "m:3: key3: before",
                "m:3: key3: found 2",
                "m:7: key7: found 0",
                "m:7: key7: found 3",
            ]
        );
        let some = problems([3]);
        assert!(some.names("key3") && !some.names("key") && !some.is_empty());
        assert!(Problems::default().is_empty());
    }

    #[test]
    fn no_text_is_made_for_what_is_only_counted() {
        let mut all = problems(1..=MAX_REPORTED);
        all.add(|| unreachable!());
        assert_eq!(all.into_sorted().len(), MAX_REPORTED + 1);
    }

    #[test]
    fn a_value_is_escaped_and_cut() {
        for (value, wanted) in [
            ("", ""),
            ("it's", "it's"),
            ("a\"b\\c", "a\\\"b\\\\c"),
            ("\u{1b}[2J\n\u{202e}", "\\u{1b}[2J\\n\\u{202e}"),
            (&"\u{fc}".repeat(MAX_SHOWN), &"\u{fc}".repeat(MAX_SHOWN)),
            (&"x".repeat(MAX_SHOWN + 1), &("x".repeat(MAX_SHOWN) + "…")),
        ] {
            assert_eq!(escaped(value), wanted);
            assert_eq!(quoted(value), format!("\"{wanted}\""));
        }
    }

    #[test]
    fn a_problem_says_file_line_field_and_hint_where_there_are_any() {
        let refusal = || Rejection::new("wrong");
        let at = Some(Position::new(2, 3));
        for (problem, wanted) in [
            (refusal().at(None, String::new()), "m: wrong"),
            (refusal().at(at, String::new()), "m:2: wrong"),
            (refusal().at(at, "a.b".into()), "m:2: a.b: wrong"),
            (
                refusal().hint("right").at(None, "a".into()),
                "m: a: wrong\nhint: right",
            ),
        ] {
            assert_eq!(problem.display("m").to_string(), wanted);
        }
        let far = Position::new(usize::MAX, usize::MAX);
        assert_eq!((far.line, far.column), (u32::MAX, u32::MAX));
    }
}
