//! What a changed manifest does to the daemons that run.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::machine::{Change, Event, Phase};
use super::unit::Unit;
use crate::bottle::looker::News;
use crate::bottle::{self, Desired};
use crate::daemon::pipelock::reload::{self, Plan};
use crate::status::While;

/// When the daemon may be restarted for files that were replaced: at once, and again after a
/// pause that doubles each time. Somebody may put the same there again and again, as a DHCP
/// client does.
#[derive(Debug)]
pub(super) struct Pace {
    next: Instant,
    pause: Duration,
}

impl Pace {
    const FIRST: Duration = Duration::from_secs(4);
    /// And so long after a pause it begins anew.
    const LONGEST: Duration = Duration::from_secs(60);

    pub(super) fn begin(now: Instant) -> Self {
        Self {
            next: now,
            pause: Self::FIRST,
        }
    }

    fn allows(&self, now: Instant) -> bool {
        now >= self.next
    }

    fn note(&mut self, now: Instant) {
        if now >= self.next + Self::LONGEST {
            self.pause = Self::FIRST;
        }
        self.next = now + self.pause;
        self.pause = Self::LONGEST.min(self.pause * 2);
    }
}

impl Supervisor<'_> {
    /// Hears what there is to know of the manifest.
    pub(super) fn hear_of_manifest(&mut self, news: News) {
        match news {
            News::Looked => {}
            News::Names(names) => self.names = Some(names),
            News::Read(read) => self.hear_all(&read),
            News::Answer(read) => {
                self.hear_all(&read);
                self.reporter.reload_answered();
            }
            News::Silent(since) => {
                self.changed = true;
                let manifest = &self.setup.bottle.manifest;
                self.reporter.manifest_is_silent(manifest, since);
            }
            News::Unsent(since, errno) => {
                self.changed = true;
                let manifest = &self.setup.bottle.manifest;
                self.reporter.manifest_is_unwatched(manifest, since, errno);
            }
            News::Answers => self.reporter.manifest_answers(),
        }
    }

    /// Restarts who was granted files that resolve names and cannot read those that stand in
    /// their places.
    pub(super) fn grant_names(&mut self, now: Instant) {
        let Some(names) = self.names.filter(|_| self.pace.allows(now)) else {
            return;
        };
        if let Some(file) = self.roster.firewall.misses(&names) {
            log::warn!(
                "{file} is not the file that was there when pipelock started, which is the one it may read: \
                 restarting it"
            );
            let change = Change::Restart { revokes: false };
            self.roster.firewall.push(Event::ConfigChanged(change));
            self.pace.note(now);
        }
    }

    fn hear_all(&mut self, all: &[u8]) {
        let (pair, credentials, read) = bottle::without_marks(all);
        self.hear_of_pair(pair);
        self.roster.hear_of_credentials(credentials);
        self.follow(read);
    }

    /// Follows the manifest that was read; one that cannot be used leaves the old one in force.
    /// Roots beside it that cannot be used keep nothing back that it revokes.
    fn follow(&mut self, read: &[u8]) {
        self.changed = true;
        let judged = self.setup.bottle.judge(read);
        let which = bottle::which_manifest(read);
        self.reporter.manifest_known(which, judged.is_ok());
        let (mut new, warnings) = match judged {
            Ok(judged) => judged,
            Err(error) => return self.reporter.manifest_refused(error.to_string()),
        };
        self.users.keep(&mut new.policy.daemons);
        match new.bad_roots.take() {
            None => self.reporter.manifest_read(warnings, new.untold),
            Some(why) => {
                new.trust.clone_from(&self.desired.trust);
                self.reporter.roots_refused(warnings, new.untold, &why);
            }
        }
        self.judge_grants(&mut new);
        if new.policy == self.desired.policy && new.trust == self.desired.trust {
            log::debug!("the manifest asks for the same as before");
            return;
        }
        let unwritten = (self.setup.apply)(&new).err();
        let unwritten = unwritten.map(|error| error.to_string());
        self.reporter.warn_while(&While::Names, unwritten);
        new.count_notes();
        self.adopt(new);
    }

    /// Has the daemon run on this from now on.
    pub(super) fn adopt(&mut self, new: Desired) {
        if new.policy.agent_proxy().is_none() {
            self.pair.trust_for_agents(None);
        }
        let (certificate, agents) = self.pair.trusted();
        self.reporter
            .export((self.setup.clients)(&new, certificate, agents));
        let mut plan = reload::plan(&self.desired.policy, &new.policy);
        if new.trust != self.desired.trust && matches!(plan, Plan::Nothing | Plan::Reload) {
            plan = Plan::RESTART;
        }
        let generation = self.take_up(new);
        self.carry_out(plan, generation);
    }

    /// From now on this is wanted; its generation.
    fn take_up(&mut self, mut new: Desired) -> u64 {
        self.name_pair(&mut new);
        self.roster.follow(&new.policy);
        let generation = self.reporter.config_wanted(&new.config_sha256);
        self.reporter.follow(&new.policy);
        self.desired = new;
        generation
    }

    fn carry_out(&mut self, plan: Plan, generation: u64) {
        match plan {
            Plan::Nothing => {
                log::info!("generation {generation}: the daemon's configuration is unchanged");
                let (roster, mut around) = self.parts();
                roster.firewall.keep(generation, &mut around);
            }
            Plan::Reload => {
                let next = self.what_follows("reloading pipelock");
                log::info!("generation {generation}: the allowlist changed; {next}");
                let change = Event::ConfigChanged(Change::Grow);
                self.roster.firewall.push(change);
            }
            Plan::Restart { revoked, scanned } => {
                let revokes = !revoked.is_empty() || !scanned.is_empty();
                if revokes {
                    self.revoke(generation, revoked, scanned);
                }
                log::info!(
                    "generation {generation}: {}",
                    self.what_follows("restarting pipelock")
                );
                let change = Event::ConfigChanged(Change::Restart { revokes });
                self.roster.firewall.push(change);
            }
        }
    }

    /// What comes of a change: `this`, where there is a daemon to do it to.
    pub(super) fn what_follows(&self, this: &'static str) -> &'static str {
        if self.reporter.status().halted || self.roster.firewall.phase() == Phase::Halted {
            "for when pipelock is resumed"
        } else if self.roster.firewall.pid().is_some() {
            this
        } else {
            "for pipelock's next start"
        }
    }

    fn revoke(&mut self, generation: u64, revoked: Vec<String>, scanned: Vec<String>) {
        for (hosts, what) in [
            (&revoked, "revoked"),
            (&scanned, "no longer passed through unscanned"),
        ] {
            if !hosts.is_empty() {
                log::info!("generation {generation}: {} {what}", some_of(hosts));
            }
        }
        let nobody_runs = self.roster.firewall.pid().is_none();
        self.reporter
            .revoked(generation, revoked, scanned, nobody_runs);
    }
}

/// The first hosts of many.
fn some_of(hosts: &[String]) -> String {
    const SOME: usize = 20;
    let some = hosts.get(..SOME).unwrap_or(hosts).join(", ");
    match hosts.len().saturating_sub(SOME) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_for_files_that_are_replaced_have_ever_longer_pauses_and_begin_anew() {
        let begin = Instant::now();
        let mut pace = Pace::begin(begin);
        let mut now = begin;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let asked = now;
            while !pace.allows(now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - asked).as_secs());
            pace.note(now);
        }
        assert_eq!(pauses, [0, 4, 8, 16, 32, 60, 60]);
        now += Pace::LONGEST * 2;
        pace.note(now);
        assert!(!pace.allows(now + Duration::from_secs(3)));
        assert!(pace.allows(now + Duration::from_secs(4)));
    }
}
