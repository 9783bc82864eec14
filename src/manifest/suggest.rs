//! Did you mean: the known key nearest to a mistyped one.

/// The known key nearest to a mistyped one, if it is near at all.
#[must_use]
pub fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer ones are near to nothing, and distance costs the product of lengths.
    if key.len() > 40 {
        return None;
    }
    let folded = key.to_ascii_lowercase().replace('-', "_");
    // Cut short, or without its unit.
    let begins = |candidate: &str| folded.len() >= 4 && candidate.starts_with(&folded);
    known
        .map(|candidate| {
            let far = || distance(&folded, candidate);
            (if begins(candidate) { 1 } else { far() }, candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters to change, add, leave out or swap with their neighbour, in bytes (optimal
/// string alignment): two that are swapped are the likeliest slip.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut row = vec![0; b.len() + 1];
    let mut last_row = above.clone();
    let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or_default();
    for (i, x) in a.iter().enumerate() {
        let mut left = i + 1;
        row.fill(left);
        for (j, y) in b.iter().enumerate() {
            let mut least = (cell(&above, j) + usize::from(x != y))
                .min(cell(&above, j + 1) + 1)
                .min(left + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                least = least.min(cell(&last_row, j - 1) + 1);
            }
            if let Some(here) = row.get_mut(j + 1) {
                *here = least;
            }
            left = least;
        }
        // The one above becomes the one before it, and this one the one above.
        std::mem::swap(&mut last_row, &mut above);
        std::mem::swap(&mut above, &mut row);
    }
    cell(&above, b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_the_fewest_letters_to_change() {
        for (a, b, wanted) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "ab", 1),
            ("abc", "xabc", 1),
            ("ab", "ba", 1),
            ("abcd", "badc", 2),
            ("ca", "abc", 3),
            ("kitten", "sitting", 3),
            ("saturday", "sunday", 3),
        ] {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
            assert_eq!(distance(b, a), wanted, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_is_suggested_up_to_a_third_of_its_letters_away() {
        let known = ["host", "internal", "internal_cidr", "dns"];
        for (key, wanted) in [
            ("host", Some("host")),
            ("HOST", Some("host")),
            ("hots", Some("host")),
            ("hoxx", Some("host")),
            ("hxxx", None),
            ("internal-cidr", Some("internal_cidr")),
            ("internal_cid", Some("internal_cidr")),
            // Three of eight letters are near, four are not.
            ("xxxernal", Some("internal")),
            ("xxxxrnal", None),
            ("dnx", Some("dns")),
            ("inte", Some("internal")),
            ("int", None),
            ("dsn", Some("dns")),
            ("dxx", None),
            ("", None),
            (&"x".repeat(1_000_000), None),
        ] {
            assert_eq!(nearest(key, known.into_iter()), wanted, "{key:.20}");
        }
        // The first of two that are as near.
        assert_eq!(nearest("ac", ["ab", "ad"].into_iter()), Some("ab"));
    }
}
