//! Notices when somebody sets the time of day: the machine slept, or a clock was put right.
//! Touches the kernel: timerfd.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A smaller change is not worth a word: who keeps a clock right makes them all the time.
const SMALLEST: i64 = 1000;

/// A timer that never expires and is cancelled whenever the clock is set
/// (`timerfd_create(2)`, `TFD_TIMER_CANCEL_ON_SET`), and both clocks as last seen.
#[derive(Debug)]
pub struct Steps {
    timer: TimerFd,
    last: (SystemTime, Instant),
}

impl Steps {
    /// Watches from now on.
    pub fn watch() -> Result<Self, Errno> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        // 2242: later than any clock a start accepts.
        let never = Expiration::OneShot(TimeSpec::from_duration(Duration::from_secs(1 << 33)));
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(never, flags)?;
        Ok(Self {
            timer,
            last: (SystemTime::now(), Instant::now()),
        })
    }

    /// By how many milliseconds the clock was set since the last call; `None` if it was
    /// not, or by less than a second.
    pub fn take(&mut self) -> Option<i64> {
        // Success is its cancellation, after which it goes on watching. EAGAIN: nothing
        // happened.
        self.timer.wait().ok()?;
        let now = (SystemTime::now(), Instant::now());
        let by = between(self.last, now);
        self.last = now;
        (by.saturating_abs() >= SMALLEST).then_some(by)
    }
}

impl AsFd for Steps {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// How far the time of day moved beyond what really passed, in milliseconds.
fn between(before: (SystemTime, Instant), after: (SystemTime, Instant)) -> i64 {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let moved = match after.0.duration_since(before.0) {
        Ok(ahead) => millis(ahead),
        Err(back) => -millis(back.duration()),
    };
    moved.saturating_sub(millis(after.1.duration_since(before.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_passed_from_what_was_set() {
        let (day, second) = (Duration::from_hours(24), Duration::from_secs(1));
        let before = (SystemTime::now(), Instant::now());
        let later = before.1 + second;
        assert_eq!(between(before, (before.0 + second, later)), 0);
        assert_eq!(
            between(before, (before.0 + second + day, later)),
            86_400_000
        );
        assert_eq!(
            between(before, (before.0 + second - day, later)),
            -86_400_000
        );
    }

    #[test]
    fn sees_no_step_where_nobody_took_one() {
        assert_eq!(Steps::watch().unwrap().take(), None);
    }
}
