//! A clock that is not absurd, and entropy that is seeded, before a key is made.
//! Touches the kernel.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::sys::random;

/// No clock is earlier than this, in seconds since 1970: `SIDECAR_BUILD_EPOCH` or
/// `SOURCE_DATE_EPOCH` at build time, or the commit's time (`build.rs` finds them); or
/// 2026-11-01T00:00:00Z.
pub const BUILD_EPOCH: u64 = match option_env!("SIDECAR_BUILD_EPOCH") {
    Some(text) => parse_decimal(text),
    None => 1_793_491_200,
};

/// Nor later than this much after it: a CA dated from there would be refused by
/// every client whose clock is right.
const PLAUSIBLE: u64 = 20 * 366 * 86_400;

const fn parse_decimal(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic_at_build(),
    }
}

#[allow(clippy::panic)]
const fn panic_at_build() -> u64 {
    panic!("SIDECAR_BUILD_EPOCH is not a number of seconds")
}

/// What is to be thought of the time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plausibility {
    /// It can be right.
    Plausible,
    /// It is before this program was built; seconds since 1970.
    TooEarly(u64),
    /// It is decades after; seconds since 1970.
    TooLate(u64),
}

/// Judges a time of day, in seconds since 1970.
#[must_use]
pub fn judge(now: u64) -> Plausibility {
    if now < BUILD_EPOCH {
        Plausibility::TooEarly(now)
    } else if now > BUILD_EPOCH + PLAUSIBLE {
        Plausibility::TooLate(now)
    } else {
        Plausibility::Plausible
    }
}

/// The time of day in seconds since 1970; 0 before that.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Sets the clock, to seconds since 1970.
pub fn set(seconds: u64) -> Result<(), ClockError> {
    let time = TimeSpec::from_duration(Duration::from_secs(seconds));
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(ClockError::Set)
}

/// The better time for a clock that was before this program's build: the newest of the
/// moments at which, by somebody else's clock, files were written. `None` where none of
/// them is plausible and later than `now`.
#[must_use]
pub fn better(now: u64, written: impl IntoIterator<Item = u64>) -> Option<u64> {
    written
        .into_iter()
        .filter(|moment| *moment > now && judge(*moment) == Plausibility::Plausible)
        .max()
}

/// How long the kernel's random generator may take to be seeded.
pub const ENTROPY_DEADLINE: Duration = Duration::from_secs(30);

/// Random bytes from a seeded generator; waits for the seed, but not for ever. Only for a
/// process of its own ([`random::fill`]).
pub fn entropy<const N: usize>(deadline: Duration) -> Result<[u8; N], ClockError> {
    random::fill(deadline).map_err(|errno| match errno {
        Errno::EAGAIN => ClockError::Unseeded(deadline),
        errno => ClockError::Entropy(errno),
    })
}

/// A clock or a random generator that cannot be used.
#[derive(Debug)]
pub enum ClockError {
    /// The clock could not be set.
    Set(Errno),
    /// The time is decades in the future; seconds since 1970.
    TooLate(u64),
    /// The random generator was not seeded in time.
    Unseeded(Duration),
    /// The random generator failed.
    Entropy(Errno),
}

impl fmt::Display for ClockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(errno) => write!(f, "cannot set the clock: {}", errno.desc()),
            Self::TooLate(now) => write!(
                f,
                "cannot trust the clock: it says {}, decades after this program was built, and no client would accept a CA from then\nhint: set the machine's real-time clock",
                crate::ca::rfc3339(*now)
            ),
            Self::Unseeded(deadline) => write!(
                f,
                "cannot generate a key: the kernel's random generator was not seeded within {} s\nhint: give the machine a virtio-rng device",
                deadline.as_secs()
            ),
            Self::Entropy(errno) => write!(f, "cannot get random bytes: {}", errno.desc()),
        }
    }
}

impl std::error::Error for ClockError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_the_years() {
        assert_eq!(judge(0), Plausibility::TooEarly(0));
        assert_eq!(judge(BUILD_EPOCH), Plausibility::Plausible);
        assert_eq!(
            judge(BUILD_EPOCH + 10 * 365 * 86_400),
            Plausibility::Plausible
        );
        let in_2200 = 7_258_118_400;
        assert_eq!(judge(in_2200), Plausibility::TooLate(in_2200));
    }

    #[test]
    fn takes_the_newest_plausible_moment_and_goes_never_back() {
        let (day, never) = (86_400, u64::MAX);
        let at = |days: u64| BUILD_EPOCH + days * day;
        assert_eq!(better(at(0), [at(3), at(9), 0]), Some(at(9)));
        assert_eq!(better(at(0), [at(0), never]), None);
        assert_eq!(better(at(5), [at(3)]), None);
        assert_eq!(better(at(5), []), None);
    }

    #[test]
    fn delivers_random_bytes() {
        let one = entropy::<32>(ENTROPY_DEADLINE).unwrap();
        let other = entropy::<32>(ENTROPY_DEADLINE).unwrap();
        assert_ne!(one, other);
    }
}
