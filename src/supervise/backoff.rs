//! When to try again, and when to give up. Pure: time is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The second restart waits this long; every later one twice as long as the one before.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// No restart waits longer than this.
pub const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Failures closer together than this are counted together, and health that lasts
/// as long forgets them.
pub const WINDOW: Duration = Duration::from_mins(1);
/// This many failures within [`WINDOW`], or in a row without once being ready, are a crash loop.
pub const CRASH_LOOP: usize = 5;

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start the daemon again, not before this moment.
    RestartAt(Instant),
    /// A crash loop: starting it again would only hide the reason.
    GiveUp,
}

/// Counts failures of the daemon.
#[derive(Debug, Clone, Default)]
pub struct RestartPolicy {
    recent: VecDeque<Instant>,
    since_health: u32,
    never_ready_in_a_row: usize,
    /// How long daemons had been ready since the last failure that were ended on purpose.
    healthy: Duration,
}

impl RestartPolicy {
    /// Judges a failure at `now` of a daemon that had been ready for `ready_for`
    /// (`None`: it never was).
    pub fn record_failure(&mut self, now: Instant, ready_for: Option<Duration>) -> Verdict {
        self.forget_after_health(ready_for);
        self.never_ready_in_a_row = match ready_for {
            Some(_) => 0,
            None => self.never_ready_in_a_row + 1,
        };
        self.recent
            .retain(|failed| now.saturating_duration_since(*failed) < WINDOW);
        self.recent.push_back(now);
        // A daemon that only times out fails too slowly for the window, so failures
        // in a row are counted as well.
        if self.recent.len() >= CRASH_LOOP || self.never_ready_in_a_row >= CRASH_LOOP {
            return Verdict::GiveUp;
        }
        Verdict::RestartAt(now + self.next_delay())
    }

    /// When to start a daemon again that had been ready and was asked for more than it
    /// could bear: later each time, like after any failure, but never no more.
    pub fn record_overload(&mut self, now: Instant, ready_for: Option<Duration>) -> Instant {
        self.forget_after_health(ready_for);
        self.never_ready_in_a_row = 0;
        now + self.next_delay()
    }

    /// A daemon that had been ready for so long was ended because that was wanted, which is no
    /// news about its health: the next one's counts on from there.
    pub fn record_health(&mut self, ready_for: Duration) {
        self.healthy = self.healthy.saturating_add(ready_for);
        self.never_ready_in_a_row = 0;
    }

    fn forget_after_health(&mut self, ready_for: Option<Duration>) {
        let before = std::mem::take(&mut self.healthy);
        if before.saturating_add(ready_for.unwrap_or_default()) >= WINDOW {
            *self = Self::default();
        }
    }

    fn next_delay(&mut self) -> Duration {
        let delay = delay_after(self.since_health);
        self.since_health = self.since_health.saturating_add(1);
        delay
    }
}

/// The delay after `failures` earlier ones: none, 100 ms, 200 ms, … 10 s.
fn delay_after(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    FIRST_DELAY
        .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
        .min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn restarts_at_once_then_doubles_up_to_ten_seconds() {
        let delays: Vec<u128> = (0..12).map(|n| delay_after(n).as_millis()).collect();
        assert_eq!(
            delays,
            [
                0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000
            ]
        );
        assert_eq!(delay_after(u32::MAX), LONGEST_DELAY);
    }

    #[test]
    fn gives_up_at_the_fifth_failure_within_a_minute() {
        let start = Instant::now();
        let mut policy = RestartPolicy::default();
        for n in 0..4 {
            let verdict = policy.record_failure(start + n * 14 * SECOND, Some(SECOND));
            assert!(matches!(verdict, Verdict::RestartAt(_)), "failure {n}");
        }
        let fifth = policy.record_failure(start + 56 * SECOND, Some(SECOND));
        assert_eq!(fifth, Verdict::GiveUp);
    }

    #[test]
    fn goes_on_when_failures_are_spread_out() {
        let mut now = Instant::now();
        let mut policy = RestartPolicy::default();
        for _ in 0..1000 {
            let verdict = policy.record_failure(now, Some(SECOND));
            assert!(matches!(verdict, Verdict::RestartAt(_)));
            now += 16 * SECOND;
        }
    }

    #[test]
    fn gives_up_on_a_daemon_that_is_never_ready_however_slowly_it_fails() {
        let mut now = Instant::now();
        let mut policy = RestartPolicy::default();
        for _ in 0..4 {
            assert!(matches!(
                policy.record_failure(now, None),
                Verdict::RestartAt(_)
            ));
            now += 100 * SECOND;
        }
        assert_eq!(policy.record_failure(now, None), Verdict::GiveUp);
    }

    #[test]
    fn a_minute_of_health_may_have_wanted_restarts_in_it_but_no_failure() {
        let start = Instant::now();
        let mut policy = RestartPolicy::default();
        // Each waits longer than the one before, for nothing else is heard.
        assert_eq!(
            policy.record_failure(start, Some(SECOND)),
            Verdict::RestartAt(start)
        );
        let second = start + 50 * SECOND;
        policy.record_health(49 * SECOND);
        let verdict = policy.record_failure(second, Some(SECOND));
        assert_eq!(verdict, Verdict::RestartAt(second + FIRST_DELAY));
        // What was before the failure is over with it.
        let third = second + 120 * SECOND;
        policy.record_health(40 * SECOND);
        let verdict = policy.record_failure(third, None);
        assert_eq!(verdict, Verdict::RestartAt(third + 2 * FIRST_DELAY));
        for ready_for in [None, Some(10 * SECOND)] {
            let later = third + 200 * SECOND;
            for _ in 0..25 {
                policy.record_health(4 * SECOND);
            }
            let verdict = policy.record_failure(later, ready_for);
            assert_eq!(verdict, Verdict::RestartAt(later), "{ready_for:?}");
        }
    }

    #[test]
    fn forgets_after_a_minute_of_health() {
        let now = Instant::now();
        let mut policy = RestartPolicy::default();
        for _ in 0..4 {
            policy.record_failure(now, None);
        }
        let later = now + 2 * WINDOW;
        assert_eq!(
            policy.record_failure(later, Some(WINDOW)),
            Verdict::RestartAt(later)
        );
    }
}
