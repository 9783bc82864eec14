//! A grant in words, by the clock of whoever reads them. Pure.

use crate::policy::grants;
use crate::status::Granted;

/// Whether it is allowed and how long, for a line that says before that it is about what is
/// granted. `now` is in seconds since 1970.
pub(super) fn in_words(grant: &Granted, now: u64) -> String {
    let (host, until) = (&grant.host, &grant.until);
    let end = grants::time(until, now).ok();
    let left = end.and_then(|end| end.checked_sub(now));
    let left = left.filter(|left| *left > 0);
    let ago = end.and_then(|end| now.checked_sub(end));
    match (grant.in_force, left, ago) {
        (true, left, _) => {
            let unscanned = if grant.passthrough {
                "; not scanned"
            } else {
                ""
            };
            // A status that nobody writes any more has ends that are over.
            let left = left.map_or_else(String::new, |left| format!(", ends in {}", span(left)));
            format!("{host}{left}, until {until}{unscanned}")
        }
        (false, Some(_), _) => {
            format!("{host} no more: {until} had come before the clock was set back")
        }
        (false, None, Some(ago)) => format!("{host} no more: ended {} ago, at {until}", span(ago)),
        (false, None, None) => format!("{host} no more: ended at {until}"),
    }
}

/// So many seconds, as people say it: of what is left nothing is rounded up.
pub(super) fn span(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |large: u64, unit: &str, small: u64, part: &str| match (seconds % large) / small {
        0 => format!("{} {unit}", seconds / large),
        rest => format!("{} {unit} {rest} {part}", seconds / large),
    };
    match seconds {
        ..120 => format!("{seconds} s"),
        120..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => two(HOUR, "h", MINUTE, "min"),
        _ => two(DAY, "d", HOUR, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_long_in_the_units_that_people_use() {
        for (seconds, wanted) in [
            (0, "0 s"),
            (1, "1 s"),
            (119, "119 s"),
            (120, "2 min"),
            (779, "12 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (7860, "2 h 11 min"),
            (86_399, "23 h 59 min"),
            (86_400, "1 d"),
            (31_622_399, "365 d 23 h"),
        ] {
            assert_eq!(span(seconds), wanted);
        }
    }

    #[test]
    fn says_until_when_and_since_when_not() {
        const NOW: u64 = 1_795_694_400;
        let grant = |until: &str, in_force, passthrough| Granted {
            host: "a.example".to_owned(),
            until: until.to_owned(),
            passthrough,
            in_force,
        };
        let (soon, ago) = ("2026-11-26T12:12:30Z", "2026-11-26T11:55:00Z");
        for (grant, wanted) in [
            (
                grant(soon, true, false),
                "a.example, ends in 12 min, until 2026-11-26T12:12:30Z",
            ),
            (
                grant(soon, true, true),
                "a.example, ends in 12 min, until 2026-11-26T12:12:30Z; not scanned",
            ),
            (
                grant(ago, false, true),
                "a.example no more: ended 5 min ago, at 2026-11-26T11:55:00Z",
            ),
            (
                grant(soon, false, false),
                "a.example no more: 2026-11-26T12:12:30Z had come before the clock was set back",
            ),
            // Of a status that is old, or somebody else's.
            (
                grant(ago, true, false),
                "a.example, until 2026-11-26T11:55:00Z",
            ),
            (grant("x", false, false), "a.example no more: ended at x"),
            (grant("x", true, false), "a.example, until x"),
        ] {
            assert_eq!(in_words(&grant, NOW), wanted);
        }
    }
}
