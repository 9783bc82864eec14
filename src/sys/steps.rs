//! Notices when somebody sets the time of day: the machine slept, or a clock was put right.
//! Touches the kernel: timerfd.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A smaller change is not worth a word: who keeps a clock right makes them all the time.
const SMALLEST: i64 = 1000;

/// A timer on the time of day that expires when it is told to, if ever, and is cancelled
/// whenever the clock is set (`timerfd_create(2)`, `TFD_TIMER_CANCEL_ON_SET`), and both clocks
/// as last seen. A machine that slept past its time finds it expired.
#[derive(Debug)]
pub struct Steps {
    timer: TimerFd,
    /// The clock was set while the timer was.
    missed: bool,
    last: (SystemTime, Instant),
}

impl Steps {
    /// Watches from now on.
    pub fn watch() -> Result<Self, Errno> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        let mut steps = Self {
            timer,
            missed: false,
            last: (SystemTime::now(), Instant::now()),
        };
        steps.wake_at(None)?;
        Ok(steps)
    }

    /// Is readable from that time of day on, in seconds since 1970, as well; `None`: never.
    pub fn wake_at(&mut self, at: Option<u64>) -> Result<(), Errno> {
        // 2242: later than any clock a start accepts. A second is the least there is: zero
        // would end the watch.
        let at = Duration::from_secs(at.unwrap_or(1 << 33).max(1));
        let at = Expiration::OneShot(TimeSpec::from_duration(at));
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        match self.timer.set(at, flags) {
            // It is set all the same, and nobody else hears of the step.
            Err(Errno::ECANCELED) => {
                self.missed = true;
                Ok(())
            }
            set => set,
        }
    }

    /// By how many milliseconds the clock was set since the last call; `None` if it was
    /// not, or by less than a second.
    pub fn take(&mut self) -> Option<i64> {
        // Success is its cancellation, after which it goes on watching, or its expiry. EAGAIN:
        // nothing happened.
        let missed = std::mem::take(&mut self.missed);
        if self.timer.wait().is_err() && !missed {
            return None;
        }
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
    use nix::poll::{PollFd, PollFlags, poll};

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
    fn is_readable_when_a_time_of_day_has_come_and_takes_that_for_no_step() {
        let readable = |steps: &Steps, patience: u16| {
            let mut waiting = [PollFd::new(steps.as_fd(), PollFlags::POLLIN)];
            poll(&mut waiting, patience).unwrap() == 1
        };
        let now = || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap().as_secs()
        };
        let mut steps = Steps::watch().unwrap();
        assert!(!readable(&steps, 0));
        let then = now() + 1;
        steps.wake_at(Some(then)).unwrap();
        assert!(readable(&steps, 10_000));
        assert!(now() >= then);
        assert_eq!(steps.take(), None);
        assert!(!readable(&steps, 0));
        // Already over.
        for over in [0, now() - 100] {
            steps.wake_at(Some(over)).unwrap();
            assert!(readable(&steps, 0), "{over}");
            assert_eq!(steps.take(), None);
        }
        steps.wake_at(None).unwrap();
        assert!(!readable(&steps, 1200));
    }

    #[test]
    fn sees_no_step_where_nobody_took_one() {
        assert_eq!(Steps::watch().unwrap().take(), None);
    }
}
