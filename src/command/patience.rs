//! Has a status read where a file system that does not answer stops nobody else.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::status::FILE;
use crate::status::denials::{self, Tally};
use crate::status::told::{Bytes, StatusError, StatusFile};
use crate::sys::errand;

/// A machine that is busy answers within this.
const LEAST: Duration = Duration::from_secs(1);
/// Nobody waits for longer.
const MOST: Duration = Duration::from_hours(24 * 365);

/// How what is brought begins: with a failure, or with what the lock says, as JSON, and the
/// status, each as a part; the denials are the rest.
const FAILED: u8 = b'e';
const FOUND: u8 = b'f';

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
        let brought = match errand::send(&[], || bring_or_say(directory)) {
            // Nobody can be sent: a halt must not fail for that, and most file systems answer.
            Err(_) => Some(Some(bring_or_say(directory))),
            Ok(mut errand) => {
                let brought = errand.wait(left.min(MOST));
                if brought.is_none() {
                    errand.kill();
                }
                brought
            }
        };
        let Some(brought) = brought else {
            let waited = self.begun.elapsed().as_secs();
            return Err(unread(format!(
                "its file system has not answered within {waited} s"
            )));
        };
        let brought = brought.unwrap_or_default();
        if let Some((&FAILED, why)) = brought.split_first() {
            return Err(StatusError::Told(String::from_utf8_lossy(why).into_owned()));
        }
        let found =
            parts(&brought).ok_or_else(|| unread("whoever read it was killed".to_owned()))?;
        let file = StatusFile::judge(directory, &found)?;
        Ok((file, denials::parse(&found.denials)))
    }
}

/// The errand: the bytes, or why there are none.
#[inline(never)]
fn bring_or_say(directory: &Path) -> Vec<u8> {
    match bring(directory) {
        Ok(brought) => brought,
        Err(error) => [&[FAILED], error.to_string().as_bytes()].concat(),
    }
}

/// The bytes, whatever they say.
fn bring(directory: &Path) -> Result<Vec<u8>, StatusError> {
    let found = StatusFile::bytes(directory)?;
    let mut brought = vec![FOUND];
    // Numbers and words of our own: it cannot fail.
    let claim = serde_json::to_vec(&found.claim).unwrap_or_default();
    errand::add_part(&mut brought, &claim);
    errand::add_part(&mut brought, &found.status);
    brought.extend(found.denials);
    Ok(brought)
}

/// What was brought.
fn parts(brought: &[u8]) -> Option<Bytes> {
    let rest = brought.strip_prefix(&[FOUND])?;
    let (claim, rest) = errand::first_part(rest)?;
    let (status, denials) = errand::first_part(rest)?;
    Some(Bytes {
        status: status.to_vec(),
        denials: denials.to_vec(),
        claim: serde_json::from_slice(claim).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::claim::{Holder, Life, Seen};

    #[test]
    fn a_part_of_what_is_brought_is_nothing() {
        let claim = Seen {
            life: Some(Life::Hangs(Duration::from_secs(12))),
            holder: Some(Holder {
                pid: 7,
                namespace: 4_026_531_836,
                owner: 65534,
            }),
        };
        let mut brought = vec![FOUND];
        errand::add_part(&mut brought, &serde_json::to_vec(&claim).unwrap());
        errand::add_part(&mut brought, b"{}");
        let whole = brought.len();
        brought.extend(b"[]");
        let found = parts(&brought).unwrap();
        assert_eq!(
            (found.status, found.denials),
            (b"{}".to_vec(), b"[]".to_vec())
        );
        assert_eq!(found.claim, claim);
        for length in 0..whole {
            assert!(parts(&brought[..length]).is_none(), "{length}");
        }
    }
}
