//! Where in a text something stands that a reader of YAML found: it keeps no lines and no
//! comments.

/// After so many values that stand nowhere as they were read no more are looked for: a search
/// goes through the rest of the text.
const MOST_MISSES: usize = 64;

/// The line of something, and the comments that belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: Option<usize>,
    /// Comments on the lines right above.
    pub(super) above: Vec<String>,
    /// A comment behind it.
    pub(super) beside: Option<String>,
}

impl Place {
    pub(super) fn line(line: usize) -> Self {
        Self {
            line: Some(line),
            ..Self::default()
        }
    }
}

/// The lines of a text, gone through from the first to the last.
pub(super) struct Lines<'a> {
    all: Vec<&'a str>,
    /// The line that is looked at, from 0, and how many bytes of it were.
    at: usize,
    behind: usize,
    /// The line whose comments were taken already.
    commented: Option<usize>,
    misses: usize,
    has_comments: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self {
            all: text.lines().collect(),
            at: 0,
            behind: 0,
            commented: None,
            misses: 0,
            // JSON has none.
            has_comments: !text.trim_start().starts_with(['{', '[']),
        }
    }

    /// From the first line to behind these keys, one below the other.
    #[inline(never)]
    pub(super) fn enter(&mut self, keys: &[&str]) {
        (self.at, self.behind) = (0, 0);
        for key in keys {
            self.key(key);
        }
    }

    /// On to behind this key; its line, where it is found.
    #[inline(never)]
    pub(super) fn key(&mut self, key: &str) -> Option<usize> {
        let (line, end) = self.find(key, |rest| {
            rest.trim_start_matches(['"', '\''])
                .trim_start()
                .starts_with(':')
        })?;
        (self.at, self.behind) = (line, end);
        Some(line + 1)
    }

    /// On to behind this value.
    #[inline(never)]
    pub(super) fn value(&mut self, value: &str) -> Place {
        let Some((line, end)) = self.find(value, |_| true) else {
            return Place::default();
        };
        (self.at, self.behind) = (line, end);
        let mut place = Place::line(line + 1);
        if self.has_comments && self.commented != Some(line) {
            self.commented = Some(line);
            let whole = self.all.get(line).copied().unwrap_or_default();
            let rest = whole.get(end..).unwrap_or_default();
            place.beside = split_comment(rest).1.map(str::to_owned);
            let above = self.all.get(..line).unwrap_or_default().iter().rev();
            let above = above.map_while(|line| line.trim_start().strip_prefix('#'));
            place.above = above.map(|comment| comment.trim().to_owned()).collect();
            place.above.reverse();
        }
        place
    }

    /// The next line with this word of which `fits` takes what is behind it, and where the word
    /// ends there.
    #[inline(never)]
    fn find(&mut self, word: &str, fits: fn(&str) -> bool) -> Option<(usize, usize)> {
        if word.is_empty() || self.misses > MOST_MISSES {
            return None;
        }
        let lines = self.all.iter().enumerate().skip(self.at);
        let found = lines.into_iter().find_map(|(index, line)| {
            let from = if index == self.at { self.behind } else { 0 };
            let end = if line.trim_start().starts_with('#') && self.has_comments {
                None
            } else {
                end_of_word(line, from, word, fits)
            };
            Some((index, end?))
        });
        if found.is_none() {
            self.misses += 1;
        }
        found
    }
}

/// Where a word ends that stands there by itself.
fn end_of_word(line: &str, from: usize, word: &str, fits: fn(&str) -> bool) -> Option<usize> {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
    let rest = line.get(from..)?;
    rest.match_indices(word).find_map(|(at, _)| {
        let (start, end) = (from + at, from + at + word.len());
        let before = line.get(..start)?.chars().next_back();
        let behind = line.get(end..)?;
        let stands_alone = !before.is_some_and(part) && !behind.starts_with(part);
        (stands_alone && fits(behind)).then_some(end)
    })
}

/// A line without its comment, and that: it begins the line, or has a blank before it.
#[inline(never)]
pub(super) fn split_comment(line: &str) -> (&str, Option<&str>) {
    let mut blank = true;
    for (at, c) in line.char_indices() {
        if c == '#' && blank {
            let (code, comment) = line.split_at_checked(at).unwrap_or((line, ""));
            let comment = comment.strip_prefix('#').unwrap_or(comment).trim();
            return (code, Some(comment).filter(|comment| !comment.is_empty()));
        }
        blank = c.is_whitespace();
    }
    (line, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_behind_its_key_with_its_comments() {
        let text = "# a.example\nother:\n- a.example\nlist:\n# one\n# two\n- \"a.example\" # here\n- aa.example\n- b.example: 1\n";
        let mut lines = Lines::of(text);
        lines.enter(&["list"]);
        let place = lines.value("a.example");
        assert_eq!(place.line, Some(7));
        assert_eq!(place.above, ["one", "two"]);
        assert_eq!(place.beside.as_deref(), Some("here"));
        assert_eq!(lines.value("a.example").line, None);
        assert_eq!(lines.value("b.example").line, Some(9));
        lines.enter(&["other"]);
        assert_eq!(lines.value("a.example").line, Some(3));
    }

    #[test]
    fn a_comment_has_a_blank_before_it() {
        for (line, code, comment) in [
            ("a # b", "a ", Some("b")),
            ("# b", "", Some("b")),
            ("a#b", "a#b", None),
            ("a #", "a ", None),
            ("", "", None),
        ] {
            assert_eq!(split_comment(line), (code, comment), "{line}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_looked_for_forever() {
        let mut lines = Lines::of("a\n");
        for _ in 0..=MOST_MISSES {
            assert_eq!(lines.value("b"), Place::default());
        }
        assert_eq!(lines.value("a"), Place::default());
    }
}
