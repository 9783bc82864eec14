//! Has a status read where a file system that does not answer stops nobody else.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::status::FILE;
use crate::status::denials::{self, Tally};
use crate::status::told::{StatusError, StatusFile};
use crate::sys::claim::Life;
use crate::sys::errand;

/// A machine that is busy answers within this.
const LEAST: Duration = Duration::from_secs(1);
/// Nobody waits for longer.
const MOST: Duration = Duration::from_hours(24 * 365);

/// How what is brought begins: with a failure, or with the life of the init and for how many
/// seconds nobody heard of it, then the status as a part; the denials are the rest.
const FAILED: u8 = b'e';
const UNKNOWN: u8 = b'u';
const GONE: u8 = b'g';
const HANGS: u8 = b'h';

/// How long somebody wants to wait.
pub struct Patience {
    begun: Instant,
    wanted: Duration,
}

impl Patience {
    /// For a command that begins now.
    pub fn of(seconds: u64) -> Self {
        Self {
            begun: Instant::now(),
            wanted: Duration::from_secs(seconds),
        }
    }

    /// Whether there is none left.
    pub fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.wanted
    }

    /// The status in a run directory or an export, and the denials beside it.
    pub fn read(&self, directory: &Path) -> Result<(StatusFile, Option<Tally>), StatusError> {
        // One that begins near the end of its time is given what a machine needs all the same.
        let left = self.wanted.saturating_sub(self.begun.elapsed()).max(LEAST);
        let unread = |why: String| StatusError::Unread(directory.join(FILE), why);
        let mut errand = errand::send(&[], || match bring(directory) {
            Ok(brought) => brought,
            Err(error) => [&[FAILED], error.to_string().as_bytes()].concat(),
        })
        .map_err(|errno| unread(format!("cannot fork: {}", errno.desc())))?;
        let Some(brought) = errand.wait(left.min(MOST)) else {
            errand.kill();
            let waited = self.begun.elapsed().as_secs();
            return Err(unread(format!(
                "its file system has not answered within {waited} s"
            )));
        };
        let brought = brought.unwrap_or_default();
        if let Some((&FAILED, why)) = brought.split_first() {
            return Err(StatusError::Told(String::from_utf8_lossy(why).into_owned()));
        }
        let (life, status, denials) =
            parts(&brought).ok_or_else(|| unread("whoever read it was killed".to_owned()))?;
        let file = StatusFile::judge(directory, status, life)?;
        Ok((file, denials::parse(denials)))
    }
}

/// The errand: the bytes, whatever they say.
fn bring(directory: &Path) -> Result<Vec<u8>, StatusError> {
    let found = StatusFile::bytes(directory)?;
    let (life, silent) = match found.life {
        None | Some(Life::Lives) => (UNKNOWN, 0),
        Some(Life::Gone) => (GONE, 0),
        Some(Life::Hangs(silent)) => (HANGS, silent.as_secs()),
    };
    let mut brought = vec![life];
    brought.extend(silent.to_le_bytes());
    errand::add_part(&mut brought, &found.status);
    brought.extend(found.denials);
    Ok(brought)
}

/// Of what was brought: what is known of the init's life, the status and the denials.
fn parts(brought: &[u8]) -> Option<(Option<Life>, &[u8], &[u8])> {
    let (life, rest) = brought.split_first()?;
    let (silent, rest) = rest.split_first_chunk()?;
    let (status, denials) = errand::first_part(rest)?;
    let life = match *life {
        GONE => Some(Life::Gone),
        HANGS => Some(Life::Hangs(Duration::from_secs(u64::from_le_bytes(
            *silent,
        )))),
        _ => None,
    };
    Some((life, status, denials))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_is_brought_is_nothing() {
        let mut brought = vec![HANGS];
        brought.extend(12_u64.to_le_bytes());
        brought.extend(2_u64.to_le_bytes());
        brought.extend(b"{}[]");
        let whole = parts(&brought).unwrap();
        let life = Some(Life::Hangs(Duration::from_secs(12)));
        assert_eq!(whole, (life, &b"{}"[..], &b"[]"[..]));
        for length in 0..19 {
            assert_eq!(parts(&brought[..length]), None, "{length}");
        }
    }
}
