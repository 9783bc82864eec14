//! The leaf certificates pipelock has made, against a clock that was set. Pure.
//!
//! pipelock 2.3.0 dates a leaf from an hour before its making to a day after it, and hands
//! the same one out for a day by the *monotonic* clock: it does not notice a clock that was
//! set, and goes on serving what its clients take for expired or not yet valid.

/// A leaf is dated from this long before it was made, in milliseconds.
const BACKDATED: i64 = 60 * 60 * 1000;

/// How far the clock may have moved unnoticed, in milliseconds: what a client that is as
/// far off itself would meet anyway.
const TOLERATED: i64 = 60 * 1000;

/// Where the clock has stood since the cache of leaves began, against the monotonic clock
/// and the beginning, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaves {
    now: i64,
    earliest: i64,
    latest: i64,
}

impl Leaves {
    /// The clock was set by so many milliseconds.
    pub fn stepped(&mut self, by: i64) {
        self.now = self.now.saturating_add(by);
        self.earliest = self.earliest.min(self.now);
        self.latest = self.latest.max(self.now);
    }

    /// Whether a leaf from then would be refused by a client whose clock is right now:
    /// at once if the clock went back by more than leaves are backdated, before the cache
    /// lets go of it if the clock went ahead.
    #[must_use]
    pub fn suffer(&self) -> bool {
        let ahead = self.now.saturating_sub(self.earliest);
        let back = self.latest.saturating_sub(self.now);
        ahead > TOLERATED || back > BACKDATED - TOLERATED
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60 * 1000;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

    fn suffer(steps: &[i64]) -> bool {
        let mut leaves = Leaves::default();
        for by in steps {
            leaves.stepped(*by);
        }
        leaves.suffer()
    }

    #[test]
    fn suffer_from_any_step_ahead_and_from_one_back_by_an_hour() {
        assert!(!suffer(&[]));
        assert!(!suffer(&[MINUTE]));
        assert!(suffer(&[MINUTE + 1]));
        assert!(suffer(&[DAY]));
        assert!(!suffer(&[-59 * MINUTE]));
        assert!(suffer(&[-59 * MINUTE - 1]));
        assert!(suffer(&[-HOUR]));
        assert!(suffer(&[-DAY]));
    }

    #[test]
    fn suffer_from_small_steps_that_add_up() {
        assert!(!suffer(&[-40 * MINUTE]));
        assert!(suffer(&[-40 * MINUTE, -40 * MINUTE]));
        assert!(suffer(&[MINUTE, MINUTE]));
        // Back where it was, but leaves may have been made meanwhile.
        assert!(suffer(&[-30 * MINUTE, 30 * MINUTE]));
        assert!(suffer(&[i64::MAX, i64::MIN, i64::MIN, i64::MAX]));
    }

    proptest! {
        /// Where nothing suffers, every leaf that may be in the cache is good, but for
        /// what is tolerated, from now until the cache lets go of it.
        #[test]
        fn are_good_until_the_cache_lets_go_of_them(
            // Where the clock stands now, against the beginning: as far off as is borne.
            now in -59 * MINUTE..=MINUTE,
            // Where it stood before, against now, and for how long.
            stood in proptest::collection::vec((-MINUTE..=59 * MINUTE, 0..HOUR), 0..6),
            made_after in 0_usize..7,
        ) {
            let stood = stood.iter().map(|(ahead, wait)| (now + ahead, *wait));
            // (monotonic time, offset of the clock) after each step.
            let mut history = vec![(0, 0)];
            let mut leaves = Leaves::default();
            for (offset, wait) in stood.chain([(now, HOUR)]) {
                let (time, before) = history[history.len() - 1];
                history.push((time + wait, offset));
                leaves.stepped(offset - before);
            }
            prop_assert!(!leaves.suffer());
            let (time, offset) = history[history.len() - 1];
            let (made, made_offset) = history[made_after.min(history.len() - 1)];
            let (not_before, not_after) = (made + made_offset - HOUR, made + made_offset + DAY);
            let forgotten = made + DAY;
            prop_assert!(time + offset >= not_before + MINUTE);
            prop_assert!(forgotten + offset <= not_after + MINUTE);
        }
    }
}
