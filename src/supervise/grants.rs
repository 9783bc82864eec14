//! The end of what is granted until a time: decided here, from memory, by the machine's clock as
//! it is at each turn of the loop. Whatever was granted is revoked as a removed host is.
//!
//! A timer on that clock wakes the loop (`Steps`), also where the machine slept past the end or
//! the clock was set past it. Without one the loop comes round every [`super::LOOK_EVERY`].

use std::collections::BTreeSet;

use super::Supervisor;
use crate::boot::clock;
use crate::bottle::Desired;
use crate::ca::rfc3339;
use crate::policy::Policy;
use crate::policy::grants::{Grant, TOLD_FOR};

/// So many ends are remembered: more than one manifest can have.
const MOST: usize = 4096;
/// So many grants of one manifest are logged one by one.
const LOGGED: usize = 20;

/// The grants whose end this run has seen, by their time and host. A clock that is set back
/// puts none of them in force again, nor does a manifest that names one with the same time.
#[derive(Debug, Default)]
pub(super) struct Ended {
    seen: BTreeSet<(u64, String)>,
    /// When the status is to forget one that it tells of.
    forget: Option<u64>,
    /// What the timer is set to.
    armed: Option<u64>,
}

impl Ended {
    fn note(&mut self, grant: &Grant) {
        self.seen.insert((grant.until, grant.host.clone()));
        if self.seen.len() > MOST {
            // The earliest: over by any clock but one that is far behind.
            self.seen.pop_first();
        }
    }

    fn has(&self, grant: &Grant) -> bool {
        // Most runs see no end.
        !self.seen.is_empty() && self.seen.contains(&(grant.until, grant.host.clone()))
    }

    /// Ends what this run has seen the end of, and remembers what is over by now; whether that
    /// changed the policy.
    fn judge(&mut self, policy: &mut Policy, now: u64) -> bool {
        for grant in policy.grants.iter().filter(|grant| now >= grant.until) {
            self.note(grant);
        }
        let changed = policy.end_grants(|grant| self.has(grant) || !grant.holds_at(now)) > 0;
        self.forget = next_to_forget(policy, now);
        changed
    }
}

/// When the next of those that are over has been told of for long enough.
fn next_to_forget(policy: &Policy, now: u64) -> Option<u64> {
    let over = policy.grants.iter().filter(|grant| !grant.in_force);
    let until = over.map(|grant| grant.until.saturating_add(TOLD_FOR));
    until.filter(|until| now < *until).min()
}

impl Supervisor<'_> {
    /// Takes up what the first manifest grants.
    pub(super) fn begin_grants(&mut self) {
        let Self { desired, ended, .. } = self;
        if desired.policy.grants.is_empty() {
            return;
        }
        let now = clock::now();
        // What has ended since it was judged is revoked by the first turn of the loop.
        let over = desired.policy.grants.iter().filter(|grant| !grant.in_force);
        over.filter(|grant| now >= grant.until)
            .for_each(|grant| ended.note(grant));
        ended.forget = next_to_forget(&desired.policy, now);
        tell(None, &desired.policy);
    }

    /// Judges what a changed manifest grants by what this run has seen the end of.
    pub(super) fn judge_grants(&mut self, new: &mut Desired) {
        if new.policy.grants.is_empty() {
            self.ended.forget = None;
            return;
        }
        if self.ended.judge(&mut new.policy, clock::now()) {
            self.render(new);
        }
        tell(Some(&self.desired.policy), &new.policy);
    }

    /// Revokes whatever was granted until now, and has the loop woken at the next end.
    pub(super) fn end_grants(&mut self) {
        let policy = &self.desired.policy;
        if policy.grants.is_empty() && self.ended.armed.is_none() {
            return;
        }
        let now = clock::now();
        let is_over = |grant: &Grant| grant.in_force && !grant.holds_at(now);
        if policy.grants.iter().any(is_over) {
            let mut new = self.desired.clone();
            for grant in new.policy.grants.iter().filter(|grant| is_over(grant)) {
                let (host, until) = (&grant.host, rfc3339(grant.until));
                if now >= grant.until {
                    log::info!("the grant of {host} ended at {until}");
                } else {
                    log::warn!(
                        "the grant of {host}, until {until}, ended: the clock says {}, before this program was built",
                        rfc3339(now)
                    );
                }
                self.ended.note(grant);
            }
            self.ended.judge(&mut new.policy, now);
            self.render(&mut new);
            self.changed = true;
            self.adopt(new);
        } else if self.ended.forget.is_some_and(|at| now >= at) {
            self.ended.forget = next_to_forget(policy, now);
            self.changed = true;
            self.reporter.follow(&self.desired.policy);
        }
        self.wake_at_the_next_end();
    }

    fn wake_at_the_next_end(&mut self) {
        let next = self.desired.policy.next_end();
        let next = next.into_iter().chain(self.ended.forget).min();
        if next == self.ended.armed {
            return;
        }
        self.ended.armed = next;
        if let Some(steps) = &mut self.steps
            && let Err(errno) = steps.wake_at(next)
        {
            log::warn!("no timer for the end of a grant: {}", errno.desc());
        }
    }

    fn render(&self, new: &mut Desired) {
        let pair = self.setup.custody.files;
        new.find_ca_at(&pair.cert, &pair.key);
    }
}

/// Logs what is granted from now on, and what is passed over.
fn tell(before: Option<&Policy>, policy: &Policy) {
    let before = before.map_or(&[][..], |policy| &policy.grants);
    let news = policy.grants.iter().filter(|grant| !before.contains(grant));
    let mut more = 0;
    for (index, grant) in news.enumerate() {
        let (host, until) = (&grant.host, rfc3339(grant.until));
        let unscanned = if grant.passthrough {
            ", passed through unscanned"
        } else {
            ""
        };
        match (index < LOGGED, grant.in_force) {
            (true, true) => log::info!("{host} is granted until {until}{unscanned}"),
            (true, false) => log::info!("the grant of {host} is passed over: it ended at {until}"),
            (false, _) => more += 1,
        }
    }
    if more > 0 {
        log::info!("and {more} more grants");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy;

    /// 2026-11-26T12:00:00Z
    const NOW: u64 = 1_795_694_400;

    fn judged(grants: &[(&str, u64)], now: u64) -> Policy {
        let grants: String = grants
            .iter()
            .map(|(host, until)| format!("- {{host: {host}, until: \"{}\"}}\n", rfc3339(*until)))
            .collect();
        let text = format!("slug: a\nbottle: {{}}\ngrants:\n{grants}");
        policy::read(text.as_bytes(), true, now).unwrap().policy
    }

    #[test]
    fn what_was_seen_to_end_stays_so_whatever_the_clock_says_then() {
        let mut ended = Ended::default();
        let mut policy = judged(&[("a.example", NOW + 10), ("b.example", NOW + 20)], NOW);
        assert!(!ended.judge(&mut policy, NOW + 9));
        assert_eq!(policy.allowlist, ["a.example", "b.example"]);
        assert!(ended.judge(&mut policy, NOW + 10));
        assert_eq!(policy.allowlist, ["b.example"]);
        // The clock is set back, and the manifest is read again.
        let mut again = judged(&[("a.example", NOW + 10), ("b.example", NOW + 20)], NOW);
        assert_eq!(again.allowlist, ["a.example", "b.example"]);
        assert!(ended.judge(&mut again, NOW));
        assert_eq!(again.allowlist, ["b.example"]);
        // Another time is another decision.
        let mut anew = judged(&[("a.example", NOW + 11)], NOW);
        assert!(!ended.judge(&mut anew, NOW));
        assert_eq!(anew.allowlist, ["a.example"]);
        // One that was over when it was read has been seen to be.
        let mut late = judged(&[("c.example", NOW)], NOW + 5);
        assert!(!ended.judge(&mut late, NOW + 5));
        let mut back = judged(&[("c.example", NOW)], NOW - 5);
        assert!(ended.judge(&mut back, NOW - 5));
        assert!(back.allowlist.is_empty());
    }

    #[test]
    fn a_clock_that_is_known_to_be_wrong_ends_everything() {
        let mut ended = Ended::default();
        let mut policy = judged(&[("a.example", NOW + 10)], NOW);
        assert!(ended.judge(&mut policy, 0));
        assert!(policy.allowlist.is_empty());
    }

    #[test]
    fn what_is_over_is_told_of_for_a_day() {
        let mut ended = Ended::default();
        let mut policy = judged(&[("a.example", NOW + 10), ("b.example", NOW + 20)], NOW);
        ended.judge(&mut policy, NOW);
        assert_eq!(ended.forget, None);
        ended.judge(&mut policy, NOW + 15);
        assert_eq!(ended.forget, Some(NOW + 10 + TOLD_FOR));
        assert_eq!(next_to_forget(&policy, NOW + 10 + TOLD_FOR), None);
    }

    #[test]
    fn more_ends_than_are_remembered_are_the_latest() {
        let mut ended = Ended::default();
        let grant = |until: u64| Grant {
            host: "a.example".to_owned(),
            until,
            passthrough: false,
            in_force: false,
        };
        for until in 0..=MOST as u64 {
            ended.note(&grant(until));
        }
        assert_eq!(ended.seen.len(), MOST);
        assert!(!ended.has(&grant(0)));
        assert!(ended.has(&grant(1)) && ended.has(&grant(MOST as u64)));
    }

    proptest! {
        /// However the clock is set and the manifest read again: what was over once is never in
        /// force again, and what is in force is not over by the clock of that moment.
        #[test]
        fn nothing_outlives_its_end_or_comes_back(
            ends in proptest::collection::vec(1_u64..40, 1..6),
            clocks in proptest::collection::vec((0_u64..60, any::<bool>()), 1..40),
        ) {
            let hosts: Vec<String> = (0..ends.len()).map(|n| format!("h{n}.example")).collect();
            let grants: Vec<(&str, u64)> = hosts.iter().map(String::as_str).zip(ends.iter().map(|end| NOW + end)).collect();
            let mut ended = Ended::default();
            let mut policy = judged(&grants, NOW);
            let mut over = vec![false; grants.len()];
            for (clock, read_again) in clocks {
                let now = NOW + clock;
                if read_again {
                    policy = judged(&grants, now);
                }
                ended.judge(&mut policy, now);
                for (at, grant) in policy.grants.iter().enumerate() {
                    over[at] |= now >= grant.until;
                    prop_assert_eq!(grant.in_force, !over[at], "{:?} at {}", grant, clock);
                    prop_assert_eq!(policy.allowlist.contains(&grant.host), !over[at]);
                }
            }
        }
    }
}
