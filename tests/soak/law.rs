//! What may be reached when, by what was put beside the init and by nothing it says. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Within this a host that was removed, or whose grant is over, is out of reach.
pub const LIMIT: Duration = Duration::from_secs(5);

/// The names a manifest allows, each without an end or until a time.
pub type Allows = BTreeMap<String, Option<Instant>>;

/// From when on a name may not be reached.
#[derive(Clone, Copy)]
struct Bound {
    over: Instant,
    /// When that was put beside the init.
    decided: Instant,
    granted: bool,
}

/// For how long a name has had to be out of reach, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    pub by: Duration,
    /// Its grant is over; otherwise it was removed.
    pub granted: bool,
}

/// All names there are. One without a bound may be reached.
pub struct Law {
    bounds: HashMap<String, Option<Bound>>,
}

impl Law {
    /// Nothing was ever allowed.
    pub fn new(names: &[String], now: Instant) -> Self {
        let nothing = Some(Bound {
            over: now,
            decided: now,
            granted: false,
        });
        Self {
            bounds: names.iter().map(|name| (name.clone(), nothing)).collect(),
        }
    }

    /// A manifest is about to be put there: what it allows may be reached from now on.
    pub fn announce(&mut self, allows: &Allows) {
        for (name, until) in allows {
            let Some(bound) = self.bounds.get_mut(name) else {
                continue;
            };
            match (until, bound.as_mut()) {
                (Some(until), Some(bound)) => bound.over = bound.over.max(*until),
                _ => *bound = None,
            }
        }
    }

    /// It is there: what it does not allow is to be out of reach.
    pub fn put(&mut self, allows: &Allows, now: Instant) {
        for (name, bound) in &mut self.bounds {
            let (over, granted) = match allows.get(name) {
                Some(None) => continue,
                Some(Some(until)) => (*until, true),
                None => (now, false),
            };
            let same = |it: &Bound| it.over == over && it.granted == granted;
            let stays = match (allows.get(name), bound.as_ref()) {
                (_, None) => false,
                (None, Some(it)) => it.over <= now,
                (_, Some(it)) => same(it),
            };
            if !stays {
                *bound = Some(Bound {
                    over,
                    decided: now,
                    granted,
                });
            }
        }
    }

    /// Something that cannot be used is there instead. What was there for less than the limit
    /// may never have been read: nothing that it took away has to be gone.
    pub fn spoil(&mut self, now: Instant) {
        for bound in self.bounds.values_mut() {
            if bound.is_some_and(|it| now < it.decided + LIMIT) {
                *bound = None;
            }
        }
    }

    /// For how long a name has had to be out of reach at a time, if at all.
    pub fn late(&self, name: &str, at: Instant) -> Option<Late> {
        let bound = (*self.bounds.get(name)?)?;
        Some(Late {
            by: at.checked_duration_since(bound.over.max(bound.decided))?,
            granted: bound.granted,
        })
    }
}

/// What PID 1 holds when all is quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub resident_kb: u64,
    pub descriptors: u64,
    pub children: u64,
    /// Beside pipelock.
    pub daemons: u64,
}

/// Of samples with the same daemons, the first few that the others are compared with.
const FIRST: usize = 3;
/// What memory may vary by.
const SLACK_KB: u64 = 512;
/// What comes and goes: a question under way, somebody who writes the export.
const UNDER_WAY: u64 = 3;
const ERRANDS: u64 = 1;
/// By what the middle of the last quarter may be above that of the second.
const DRIFT_KB: u64 = 128;
/// Fewer have no quarters worth the name.
const ENOUGH: usize = 24;

/// What has grown, in words.
pub fn growth(samples: &[Sample]) -> Option<String> {
    for daemons in 0..=8 {
        let alike: Vec<&Sample> = samples.iter().filter(|it| it.daemons == daemons).collect();
        let (first, rest) = alike.split_at(FIRST.min(alike.len()));
        let most = |of: fn(&Sample) -> u64| first.iter().map(|it| of(it)).max().unwrap_or(0);
        for sample in rest {
            for (what, before, now) in [
                (
                    "descriptors",
                    most(|it| it.descriptors) + UNDER_WAY,
                    sample.descriptors,
                ),
                (
                    "children",
                    most(|it| it.children) + ERRANDS,
                    sample.children,
                ),
                (
                    "KiB of memory",
                    most(|it| it.resident_kb) + SLACK_KB,
                    sample.resident_kb,
                ),
            ] {
                if now > before {
                    return Some(format!(
                        "with {daemons} daemons beside pipelock: {now} {what}, where {before} is the most"
                    ));
                }
            }
        }
    }
    if samples.len() >= ENOUGH {
        let quarter = samples.len() / 4;
        let middle = |part: &[Sample]| {
            let mut all: Vec<u64> = part.iter().map(|it| it.resident_kb).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        let (early, late) = (
            middle(&samples[quarter..2 * quarter]),
            middle(&samples[samples.len() - quarter..]),
        );
        if late > early + DRIFT_KB {
            return Some(format!(
                "memory drifts: {early} KiB in the second quarter, {late} KiB in the last"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn allowing(hosts: &[(&str, Option<Instant>)]) -> Allows {
        let hosts = hosts
            .iter()
            .map(|(name, until)| ((*name).to_owned(), *until));
        hosts.collect()
    }

    fn put(law: &mut Law, hosts: &[(&str, Option<Instant>)], now: Instant) {
        law.announce(&allowing(hosts));
        law.put(&allowing(hosts), now);
    }

    fn law(now: Instant) -> Law {
        Law::new(&["a".to_owned(), "b".to_owned()], now)
    }

    #[test]
    fn what_was_removed_is_late_from_then_on_until_it_is_announced_again() {
        let now = Instant::now();
        let mut law = law(now);
        assert!(law.late("a", now + SECOND).is_some(), "never allowed");
        put(&mut law, &[("a", None), ("b", None)], now + SECOND);
        assert_eq!(law.late("a", now + 99 * SECOND), None);
        put(&mut law, &[("b", None)], now + 10 * SECOND);
        // Another edit without it does not begin its time anew.
        put(&mut law, &[], now + 12 * SECOND);
        let late = |seconds| Late {
            by: seconds * SECOND,
            granted: false,
        };
        assert_eq!(law.late("a", now + 17 * SECOND), Some(late(7)));
        assert_eq!(law.late("b", now + 17 * SECOND), Some(late(5)));
        assert_eq!(law.late("a", now + 9 * SECOND), None, "sent before that");
        law.announce(&allowing(&[("a", None)]));
        assert_eq!(law.late("a", now + 17 * SECOND), None);
    }

    #[test]
    fn a_grant_is_over_at_its_time_and_its_removal_before_it() {
        let now = Instant::now();
        let mut law = law(now);
        let until = now + 20 * SECOND;
        put(&mut law, &[("a", Some(until))], now);
        assert_eq!(law.late("a", until.checked_sub(SECOND).unwrap()), None);
        let late = law.late("a", until + 6 * SECOND).unwrap();
        assert_eq!((late.by, late.granted), (6 * SECOND, true));
        // A longer one is announced, a shorter one put.
        put(&mut law, &[("a", Some(until + 9 * SECOND))], now + SECOND);
        assert_eq!(law.late("a", until + 6 * SECOND), None);
        put(&mut law, &[("a", Some(now + 5 * SECOND))], now + 2 * SECOND);
        assert!(law.late("a", now + 6 * SECOND).is_some());
        put(&mut law, &[], now + 3 * SECOND);
        let late = law.late("a", now + 4 * SECOND).unwrap();
        assert_eq!((late.by, late.granted), (SECOND, false));
    }

    #[test]
    fn what_was_spoilt_before_it_had_to_be_read_takes_nothing_away() {
        let now = Instant::now();
        let mut law = law(now.checked_sub(60 * SECOND).unwrap());
        put(&mut law, &[("a", None), ("b", None)], now);
        put(&mut law, &[("a", None)], now + SECOND);
        put(&mut law, &[], now + 4 * SECOND);
        law.spoil(now + 7 * SECOND);
        assert!(law.late("b", now + 20 * SECOND).is_some(), "it was read");
        assert_eq!(
            law.late("a", now + 20 * SECOND),
            None,
            "it may not have been"
        );
        put(&mut law, &[], now + 20 * SECOND);
        assert!(law.late("a", now + 21 * SECOND).is_some());
    }

    #[test]
    fn growth_is_told_of_descriptors_children_and_memory_and_of_a_slow_drift() {
        let flat = Sample {
            resident_kb: 2000,
            descriptors: 20,
            children: 3,
            daemons: 0,
        };
        let with = |change: fn(&mut Sample)| {
            let mut samples = vec![flat; 30];
            change(&mut samples[29]);
            growth(&samples)
        };
        assert_eq!(growth(&[]), None);
        assert_eq!(with(|_| ()), None);
        assert!(with(|it| it.descriptors += UNDER_WAY + 1).is_some());
        assert!(with(|it| it.children += ERRANDS + 1).is_some());
        assert!(with(|it| it.resident_kb += SLACK_KB + 1).is_some());
        // More daemons need more.
        assert_eq!(with(|it| (it.daemons, it.children) = (2, 5)), None);
        let drifting: Vec<Sample> = (0..60)
            .map(|number| Sample {
                resident_kb: 2000 + 5 * number,
                ..flat
            })
            .collect();
        assert!(growth(&drifting).unwrap().contains("drifts"));
    }
}
