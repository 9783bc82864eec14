//! What differs between two texts, as `diff -u` shows it: one place, with three lines around.
//! Pure.

/// So many lines before and behind.
const AROUND: usize = 3;

/// The lines that differ, with the name of the file; nothing where none do.
pub(super) fn difference(name: &str, before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (lines(before), lines(after));
    let pairs = old.iter().zip(&new);
    let same = pairs.take_while(|(one, other)| one == other).count();
    let most = old.len().min(new.len()) - same;
    let pairs = old.iter().rev().zip(new.iter().rev());
    let end = pairs
        .take(most)
        .take_while(|(one, other)| one == other)
        .count();
    let from = same.saturating_sub(AROUND);
    let behind = end.min(AROUND);
    let mut text = format!(
        "--- {name}\n+++ {name}\n@@ -{} +{} @@\n",
        place(from, old.len() - end + behind - from),
        place(from, new.len() - end + behind - from)
    );
    let mut put = |mark: char, lines: &[&str], from: usize, to: usize| {
        for line in lines.get(from..to).unwrap_or_default() {
            text.push(mark);
            match line.strip_suffix('\n') {
                Some(whole) => text.push_str(&format!("{}\n", whole.trim_end_matches('\r'))),
                None => text.push_str(&format!("{line}\n\\ no line feed at the end\n")),
            }
        }
    };
    put(' ', &old, from, same);
    put('-', &old, same, old.len() - end);
    put('+', &new, same, new.len() - end);
    put(' ', &old, old.len() - end, old.len() - end + behind);
    text
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn place(from: usize, count: usize) -> String {
    let begins = if count == 0 { from } else { from + 1 };
    format!("{begins},{count}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_differs_with_three_lines_around() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n";
        for (before, after, wanted) in [
            (before, before, ""),
            (
                before,
                "1\n2\n3\n4\nx\n5\n6\n7\n8\n",
                "--- m\n+++ m\n@@ -2,6 +2,7 @@\n 2\n 3\n 4\n+x\n 5\n 6\n 7\n",
            ),
            (
                before,
                "1\n2\n3\n4\n6\n7\n8\n",
                "--- m\n+++ m\n@@ -2,7 +2,6 @@\n 2\n 3\n 4\n-5\n 6\n 7\n 8\n",
            ),
            (
                "1\n1\n1\n",
                "1\n1\n",
                "--- m\n+++ m\n@@ -1,3 +1,2 @@\n 1\n 1\n-1\n",
            ),
            (
                "a",
                "a\r\nb",
                "--- m\n+++ m\n@@ -1,1 +1,2 @@\n-a\n\\ no line feed at the end\n+a\n+b\n\\ no line feed at the end\n",
            ),
            ("", "a\n", "--- m\n+++ m\n@@ -0,0 +1,1 @@\n+a\n"),
        ] {
            assert_eq!(difference("m", before, after), wanted);
        }
    }
}
