//! What the start and supervision tell the reporter, a method for each fact.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use nix::errno::Errno;

use super::{Reporter, While};
use crate::boot::clock::{self, Plausibility};
use crate::boot::mode::Mode;
use crate::ca::rfc3339;
use crate::daemon::pipelock::TESTED_VERSION;
use crate::daemon::pipelock::refusal::Refusal;
use crate::daemon::pipelock::refusals::InForce;
use crate::daemon::pipelock::said::Said;
use crate::exit::StartError;
use crate::policy::Policy;
use crate::policy::daemons::Daemon;
use crate::policy::grants::{Grant, TOLD_FOR};
use crate::status::schema::{
    Ca, Companion, Granted, LastExit, Port, Revocation, State, Validity, Word,
};
use crate::sys::connections;

/// Of the manifest.
impl Reporter {
    /// Notes what of the manifest the status tells.
    pub fn follow(&mut self, policy: &Policy) {
        self.status.slug = Some(policy.slug.clone());
        self.status.listen = Some(policy.listen.to_string());
        self.status.hosts_allowed = policy.allowlist.len() as u64;
        self.status.grants = granted(policy, clock::now());
        self.status.grants_more = 0;
        self.status.not_scanned = policy.not_scanned();
        self.status.not_scanned_more = 0;
        self.status.scan_limit_mib = policy.tuning.scan_limit_mib;
        let place = match self.status.mode {
            Some(Word::Known(mode)) => mode,
            _ => Mode::Machine,
        };
        self.denials.judge_by(InForce::of(policy, place));
    }

    /// A configuration of this hash is wanted from now on; its generation.
    pub fn config_wanted(&mut self, sha256: &str) -> u64 {
        let config = &mut self.status.config;
        config.generation += 1;
        config.desired_sha256 = Some(sha256.to_owned());
        config.generation
    }

    /// The configuration that is wanted has this hash by now: it names files elsewhere.
    pub fn config_reworded(&mut self, sha256: &str) {
        self.status.config.desired_sha256 = Some(sha256.to_owned());
    }

    /// The manifest was waited for, and is there; what is wrong with it is for who judges it.
    pub fn manifest_arrived(&mut self) {
        self.manifest_wrong(None, false);
    }

    /// The manifest was read, and can be used. It has these warnings, and so many that are
    /// told nowhere.
    pub fn manifest_read(&mut self, warnings: Vec<String>, untold: usize) {
        self.manifest_wrong(None, false);
        self.warn_of_manifest(warnings, untold);
    }

    /// The manifest was read, and can be used, but not the roots beside it; the same reason is
    /// logged once.
    pub fn roots_refused(&mut self, warnings: Vec<String>, untold: usize, why: &str) {
        let refused =
            format!("{why}\nthe manifest itself is taken up, with the roots that were read before");
        let is_news = self.status.manifest_error.as_ref() != Some(&refused);
        self.manifest_read(warnings, untold);
        if is_news {
            log::error!("the changed files of trust/ are not used:\n{refused}");
        }
        self.manifest_wrong(Some(refused), true);
    }

    /// The manifest was read, and cannot be used; the same reason is logged once.
    pub fn manifest_refused(&mut self, why: String) {
        if self.status.manifest_error.as_ref() != Some(&why) {
            log::error!("the changed manifest is not used, the old one stays in force:\n{why}");
        }
        self.manifest_wrong(Some(why), false);
    }

    /// This is wrong with the manifest, or with the roots beside it alone.
    fn manifest_wrong(&mut self, why: Option<String>, roots_alone: bool) {
        self.status.manifest_error = why;
        self.status.config.roots_refused = roots_alone;
    }

    /// The manifest that was read has this SHA-256 and was changed last then, and is used or not.
    pub fn manifest_known(&mut self, which: Option<(String, String)>, is_used: bool) {
        let config = &mut self.status.config;
        let (sha256, modified) = which.unzip();
        config.manifest_modified = modified;
        if is_used {
            config.manifest_sha256 = sha256;
            config.refused_sha256 = None;
        } else {
            config.refused_sha256 = sha256;
        }
    }

    /// Somebody asks for a stop, a reload, a halt or a resume.
    pub fn asked(&mut self) {
        self.status.requests += 1;
    }

    /// Whoever asked for the manifest to be read again has been answered.
    pub fn reload_answered(&mut self) {
        self.status.config.reloads += 1;
    }

    /// Nothing is heard of the manifest since, in seconds since 1970.
    pub fn manifest_is_silent(&mut self, manifest: &Path, since: u64) {
        let since = rfc3339(since);
        let why = format!(
            "cannot read {}: its file system has not answered since {since}",
            manifest.display()
        );
        log::error!("{why}");
        self.manifest_wrong(Some(why), false);
    }

    /// Nobody has looked at the manifest since, in seconds since 1970, for nobody could be sent.
    pub fn manifest_is_unwatched(&mut self, manifest: &Path, since: u64, errno: Errno) {
        let since = rfc3339(since);
        let why = format!(
            "cannot read {}: nobody could be sent to look since {since}: {}",
            manifest.display(),
            errno.desc()
        );
        log::error!("{why}");
        self.manifest_wrong(Some(why), false);
    }

    /// What is wrong with the manifest is known once it is read.
    pub fn manifest_answers(&mut self) {
        log::info!("the manifest's file system answers again");
    }

    /// This generation took these hosts away, and has those scanned that were passed through.
    /// Over when no daemon that allowed them is left; `over`: there is none.
    pub fn revoked(
        &mut self,
        generation: u64,
        hosts: Vec<String>,
        scanned: Vec<String>,
        over: bool,
    ) {
        self.status.revocation = Some(Revocation {
            generation,
            hosts,
            scanned,
            done_at: over.then(now),
            ..Revocation::default()
        });
    }
}

/// Of what surrounds the daemon.
impl Reporter {
    /// This CA is served from now on; what its certificate costs.
    pub fn ca_installed(&mut self, ca: Ca, warnings: Vec<String>) {
        log::info!("CA {}, SHA-256 {}", ca.source, ca.fingerprint_sha256);
        self.status.ca = Some(ca);
        self.warn_while(&While::Ca, warnings);
        self.look_at_validity();
    }

    /// The pair on disk was judged, and cannot be served; the one in force stays.
    pub fn ca_refused(&mut self, why: &StartError) {
        let refused = format!("the changed CA pair is not used, the old one stays in force: {why}");
        let (new, _) = self.warnings.set(&While::RefusedCa, vec![refused]);
        for refused in new {
            log::error!("{refused}");
        }
        self.status.warnings = self.warnings.all();
    }

    /// The pair on disk was judged, and can be served.
    pub fn ca_accepted(&mut self) {
        self.over(&While::RefusedCa);
    }

    /// Whether the CA's time is over, or nearly so, is another answer now than before.
    pub fn look_at_validity(&mut self) -> bool {
        let ca = self.status.ca.as_ref();
        let validity = ca.map_or(Validity::Valid, |ca| ca.validity(clock::now()));
        let trouble = ca.and_then(|ca| ca.trouble(validity));
        if !self.warn_while(&While::Validity, trouble) {
            return false;
        }
        let over = matches!(validity, Validity::Ended | Validity::NotBegun);
        self.denials.ca_is_over(over);
        true
    }

    /// Under what the daemon will live: the version of Landlock's rules, whether its system
    /// calls are filtered, and whether it has a control group.
    pub fn sandbox_planned(&mut self, landlock: u32, seccomp: bool, cgroup: bool) {
        let daemon = &mut self.status.daemon;
        daemon.landlock = landlock;
        daemon.seccomp = seccomp;
        daemon.cgroup = cgroup;
    }

    /// Tells what the daemon's sandbox is without, from now on; each sentence is a warning
    /// for as long.
    pub fn tell_missing(&mut self, missing: &[String]) {
        self.status.daemon.sandbox_missing = missing.to_vec();
        self.warn_while(&While::Sandbox, missing.to_vec());
    }

    /// The clock was set by so many seconds. What it dates for others is the CA's validity.
    pub fn clock_stepped(&mut self, by_seconds: i64) {
        let to = now();
        let way = if by_seconds < 0 { "back" } else { "ahead" };
        let seconds = by_seconds.unsigned_abs();
        log::warn!("the clock was set {way} by {seconds} s, to {to}");
        if clock::judge(clock::now()) == Plausibility::Plausible {
            self.over(&While::Clock);
        }
        self.look_at_validity();
        self.status.clock_steps += 1;
        self.status.last_clock_step = by_seconds;
    }

    /// So many children were reaped.
    pub fn reaped(&mut self, children: u64) {
        self.status.reaped += children;
    }
}

/// Of the daemon.
impl Reporter {
    /// One is about to be kept running that listens here; what it refuses is counted.
    pub fn supervision_began(&mut self, listen: SocketAddr) {
        self.served = Some(listen);
        self.denials.begin();
    }

    /// It was started, for so many times after the first.
    pub fn daemon_started(&mut self, pid: i32, uid: u32, listen: SocketAddr, restarts: u64) {
        self.served = Some(listen);
        let status = &mut self.status;
        status.restarts = restarts;
        status.daemon.pid = Some(pid);
        status.daemon.uid = Some(uid);
    }

    /// Why it ended, in its words, where it said so.
    pub fn daemon_said_why(&mut self, reason: Option<Said>) {
        self.said_reason = reason;
    }

    /// No process of it is left, and these were its last lines.
    pub fn daemon_ended(&mut self, last_lines: Vec<Said>) {
        let status = &mut self.status;
        status.last_lines = last_lines;
        status.daemon.pid = None;
        status.daemon.sandbox_verified = false;
        status.daemon.working_since = None;
        status.config.applied_sha256 = None;
        if let Some(revocation) = status.revocation.as_mut().filter(|r| r.done_at.is_none()) {
            revocation.done_at = Some(now());
        }
    }

    /// It had run, and ended in this way: its exit code, or 128 and the signal.
    pub fn daemon_exited(&mut self, code: i32, text: String) {
        let at = now();
        self.status.last_exit = Some(LastExit { code, text, at });
    }

    /// Its sandbox was read back and found as asked for.
    pub fn sandbox_verified(&mut self) {
        self.status.daemon.sandbox_verified = true;
    }

    /// It says that it runs on the configuration of this hash; `None` where that is not one
    /// of ours.
    pub fn config_reported(&mut self, sha256: Option<String>) {
        self.status.config.applied_sha256 = sha256;
    }

    /// It took over this generation, and was proved.
    pub fn config_applied(&mut self, generation: u64) {
        self.status.config.applied_generation = generation;
    }

    /// It refused a request.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.denials.count(refusal, clock::now());
    }

    /// What the daemon calls its version. One that is not the tested one is a warning, in
    /// the log once: a daemon may call itself something else each time.
    pub fn note_version(&mut self, version: String) {
        let daemon = &mut self.status.daemon;
        if daemon.version.as_ref() == Some(&version) {
            return;
        }
        let tested = version == TESTED_VERSION;
        let warning =
            format!("pipelock is version {version}; sidecar-init was tested with {TESTED_VERSION}");
        let known = daemon.version_tested == Some(false);
        daemon.version = Some(version);
        daemon.version_tested = Some(tested);
        if !tested && !known {
            log::warn!("{warning}");
        }
        let warning = (!tested).then_some(warning).into_iter().collect();
        self.warnings.set(&While::Version, warning);
        self.status.warnings = self.warnings.all();
    }

    /// It has been at work since then, or is not; whether that is news.
    pub fn daemon_works(&mut self, since: Option<String>) -> bool {
        let told = &mut self.status.daemon.working_since;
        let news = *told != since;
        *told = since;
        news
    }

    /// It does not answer as it should, or does; whether that is news.
    pub fn daemon_troubled(&mut self, trouble: Option<&str>) -> bool {
        let told = &mut self.status.daemon.trouble;
        let news = told.as_deref() != trouble;
        if news {
            *told = trouble.map(str::to_owned);
        }
        news
    }

    /// What its supervision is at, and whether a halt is in force.
    pub fn state_reached(&mut self, state: State, halted: bool) {
        self.status.state = state.into();
        self.status.halted = halted;
        let serves = matches!(state, State::Ready | State::Reloading);
        let since = self.status.ready_since.take().filter(|_| serves);
        self.status.ready_since = since.or_else(|| serves.then(|| rfc3339(clock::now())));
    }

    /// It has failed so many times, the last time for this.
    pub fn daemon_failed(&mut self, times: u64, last: Option<String>) {
        self.status.failures = times;
        self.status.error = last;
    }

    /// Looks at pipelock's port and at those of the others; one that is not closed, pipelock's
    /// before all, and that where all are.
    pub(super) fn look_at_ways_in(&self) -> Option<Port> {
        let own = look_at(self.served?);
        let others = self.status.daemons.iter().flat_map(|it| &it.listen);
        let ports = others.map(|port| {
            let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
            told(listen, connections::look_at_port_anywhere(listen))
        });
        let is_open = |port: &Port| port.closed != Some(true);
        if is_open(&own) {
            return Some(own);
        }
        Some(ports.into_iter().find(is_open).unwrap_or(own))
    }

    /// While `halted`: whether nothing gets through is for the port to say, for a process
    /// that left the daemon's session may have it still. Whether there is news.
    pub fn look_at_port(&mut self, halted: bool) -> bool {
        let port = if halted { self.look_at_ways_in() } else { None };
        if port == self.status.port {
            return false;
        }
        if let Some(port) = &port {
            let words = port.in_words();
            match port.closed {
                Some(true) => log::warn!("halted; {words} until it is resumed"),
                _ => log::error!("halted, {words}"),
            }
        }
        self.status.port = port;
        true
    }
}

/// What of a policy's grants is told at this time, in seconds since 1970.
fn granted(policy: &Policy, now: u64) -> Vec<Granted> {
    let is_told = |grant: &&Grant| grant.in_force || now < grant.until.saturating_add(TOLD_FOR);
    let mut told: Vec<&Grant> = policy.grants.iter().filter(is_told).collect();
    told.sort_unstable_by(Grant::as_told);
    told.into_iter().map(Granted::of).collect()
}

/// Of the bundle's other daemons.
impl Reporter {
    /// These are the ones there are, in this order.
    pub fn companions_are(&mut self, names: &[&str]) {
        let daemons = &mut self.status.daemons;
        if daemons.len() == names.len()
            && daemons.iter().zip(names).all(|(it, name)| it.name == *name)
        {
            return;
        }
        let mut before = std::mem::take(daemons);
        *daemons = names
            .iter()
            .map(|name| {
                let known = before.iter_mut().find(|it| it.name == *name);
                let new = || Companion {
                    name: (*name).to_owned(),
                    state: State::Waiting.into(),
                    ..Companion::default()
                };
                known.map_or_else(new, std::mem::take)
            })
            .collect();
    }

    /// What is told of this one, where there is such a one.
    fn companion(&mut self, name: &str) -> Option<&mut Companion> {
        self.status.daemons.iter_mut().find(|it| it.name == name)
    }

    /// It is as this policy wants it.
    pub fn companion_is_wanted(&mut self, wanted: &Daemon) {
        if let Some(told) = self.companion(&wanted.name) {
            told.essential = wanted.essential;
            told.listen.clone_from(&wanted.listen);
            told.agent_proxy = wanted.agent_proxy;
        }
    }

    /// It goes, and the bundle ends no more where it cannot live.
    pub fn companion_leaves(&mut self, name: &str) {
        if let Some(told) = self.companion(name) {
            told.essential = false;
        }
    }

    /// It was started, for so many times after the first.
    pub fn companion_started(
        &mut self,
        name: &str,
        (pid, uid): (i32, u32),
        cgroup: bool,
        restarts: u64,
    ) {
        let now = self.elapsed_us();
        if let Some(told) = self.companion(name) {
            (told.pid, told.uid, told.cgroup) = (Some(pid), Some(uid), cgroup);
            told.restarts = restarts;
            told.began_us.get_or_insert(now);
        }
    }

    /// What its sandbox is without, as this start found it; news are logged.
    pub fn tell_companions_missing(&mut self, name: &str, missing: &[String]) {
        let Some(told) = self.companion(name) else {
            return;
        };
        let before = std::mem::replace(&mut told.sandbox_missing, missing.to_vec());
        for sentence in missing.iter().filter(|it| !before.contains(it)) {
            log::warn!("{name}: {sentence}");
        }
    }

    /// Its sandbox was read back and found as asked for, or could not be.
    pub fn companion_verified(&mut self, name: &str, verified: bool) {
        if let Some(told) = self.companion(name) {
            told.sandbox_verified = verified;
        }
    }

    /// No process of it is left; these were its last lines, why it ended in its words, and how, where it had run:
    /// its exit code, or 128 and the signal, and that in words.
    pub fn companion_ended(
        &mut self,
        name: &str,
        last_lines: Vec<Said>,
        reason: Option<Said>,
        exit: Option<(i32, String)>,
    ) {
        let at = now();
        self.companions_said.retain(|(it, _)| it != name);
        self.companions_said.push((name.to_owned(), reason));
        if let Some(told) = self.companion(name) {
            told.pid = None;
            told.sandbox_verified = false;
            told.last_lines = last_lines;
            if let Some((code, text)) = exit {
                told.last_exit = Some(LastExit { code, text, at });
            }
        }
    }

    /// What its supervision is at, how often it has failed and why last, and what keeps it from
    /// answering; whether the latter is news.
    pub fn companion_reached(
        &mut self,
        name: &str,
        state: State,
        (failures, error): (u64, Option<String>),
        trouble: Option<&str>,
    ) -> bool {
        let elapsed = self.elapsed_us();
        let Some(told) = self.companion(name) else {
            return false;
        };
        told.state = state.into();
        if state == State::Ready && told.took_us.is_none() {
            let began = told.began_us.unwrap_or(elapsed);
            told.took_us = Some(elapsed.saturating_sub(began));
        }
        let since = told.ready_since.take().filter(|_| state == State::Ready);
        let serves = state == State::Ready;
        told.ready_since = since.or_else(|| serves.then(now));
        (told.failures, told.error) = (failures, error);
        let news = told.trouble.as_deref() != trouble;
        if news {
            told.trouble = trouble.map(str::to_owned);
        }
        news
    }

    /// What pipelock is at by itself, where it is not alone.
    pub fn pipelock_reached(&mut self, state: State) {
        let is_alone = self.status.daemons.is_empty();
        self.status.daemon.state = (!is_alone).then(|| state.into());
    }

    /// Why an essential one failed last, where one did; told where pipelock has not failed.
    pub fn companion_failed(&mut self, why: Option<String>) {
        if self.status.error.is_none() {
            self.status.error = why;
        }
    }
}

/// Looks at the port now, by connecting.
pub(super) fn look_at(listen: SocketAddr) -> Port {
    told(listen, connections::look_at_port(listen))
}

fn told(listen: SocketAddr, reach: connections::Reach) -> Port {
    let (closed, detail) = match reach {
        connections::Reach::Closed => (Some(true), None),
        connections::Reach::Open(holder) => (Some(false), holder),
        connections::Reach::Unknown(why) => (None, Some(why)),
    };
    Port {
        address: listen.to_string(),
        closed,
        detail,
    }
}

fn now() -> String {
    rfc3339(clock::now())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn reporter() -> Reporter {
        Reporter::new(Instant::now(), String::new())
    }

    #[test]
    fn what_is_granted_is_told_by_its_end_and_what_is_over_for_a_day() {
        let now = 1_795_694_400;
        let at =
            |host: &str, until: u64| format!("{{host: {host}, until: \"{}\"}},", rfc3339(until));
        let grants = [
            at("over.example", now),
            at("later.example", now + 20),
            at("long.example", now - TOLD_FOR),
            at("soon.example", now + 10),
            at("before.example", now - TOLD_FOR + 1),
        ];
        let text = format!("slug: a\nbottle: {{}}\ngrants: [{}]\n", grants.concat());
        let judged = crate::policy::read(text.as_bytes(), true, now).unwrap();
        let told = granted(&judged.policy, now);
        let told: Vec<_> = told
            .iter()
            .map(|it| (it.host.as_str(), it.in_force))
            .collect();
        let wanted = [
            ("soon.example", true),
            ("later.example", true),
            ("over.example", false),
            ("before.example", false),
        ];
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_revocation_is_over_when_the_daemon_that_allowed_is_gone() {
        let mut reporter = reporter();
        assert_eq!(reporter.config_wanted("a"), 1);
        assert_eq!(reporter.config_wanted("b"), 2);
        let done = |reporter: &Reporter| {
            let revocation = reporter.status().revocation.as_ref().unwrap();
            revocation.done_at.clone()
        };
        reporter.revoked(2, vec!["a.example".to_owned()], Vec::new(), true);
        assert!(done(&reporter).is_some());
        reporter.revoked(3, vec!["b.example".to_owned()], Vec::new(), false);
        assert_eq!(done(&reporter), None);
        reporter.daemon_ended(Vec::new());
        let at = done(&reporter);
        assert!(at.is_some());
        // The end of another daemon is another day's.
        if let Some(revocation) = &mut reporter.status.revocation {
            revocation.done_at = Some("then".to_owned());
        }
        reporter.daemon_ended(Vec::new());
        assert_eq!(done(&reporter).as_deref(), Some("then"));
    }

    #[test]
    fn says_what_is_news_and_forgets_with_the_daemon_what_was_its_own() {
        let mut reporter = reporter();
        let listen = "127.0.0.1:8888".parse().unwrap();
        reporter.daemon_started(7, 65534, listen, 2);
        reporter.sandbox_verified();
        reporter.config_reported(Some("hash".to_owned()));
        for news in [true, false] {
            assert_eq!(reporter.daemon_works(Some("since".to_owned())), news);
            assert_eq!(reporter.daemon_troubled(Some("busy")), news);
        }
        assert!(reporter.daemon_troubled(None) && !reporter.daemon_troubled(None));
        let daemon = &reporter.status().daemon;
        assert_eq!((daemon.pid, daemon.uid), (Some(7), Some(65534)));
        assert!(daemon.sandbox_verified);
        assert_eq!(reporter.status().restarts, 2);
        reporter.daemon_ended(vec![Said::words("the end")]);
        let status = reporter.status();
        assert_eq!((status.daemon.pid, status.daemon.uid), (None, Some(65534)));
        assert!(!status.daemon.sandbox_verified);
        assert_eq!(status.daemon.working_since, None);
        assert_eq!(status.config.applied_sha256, None);
        assert_eq!(status.last_lines.len(), 1);
    }

    #[test]
    fn a_reason_that_a_manifest_is_not_used_goes_with_the_next_that_is() {
        let mut reporter = reporter();
        reporter.manifest_refused("line 1".to_owned());
        assert_eq!(reporter.status().manifest_error.as_deref(), Some("line 1"));
        reporter.manifest_read(vec!["a note".to_owned()], 0);
        assert_eq!(reporter.status().manifest_error, None);
        assert_eq!(reporter.status().warnings, ["a note"]);
    }

    #[test]
    fn a_clock_outside_of_the_ca_s_validity_is_a_warning() {
        let mut reporter = reporter();
        let ca = |from: &str, to: &str| Ca {
            not_before: from.to_owned(),
            not_after: to.to_owned(),
            ..Ca::default()
        };
        let good = || ca("2000-01-01T00:00:00Z", "9999-01-01T00:00:00Z");
        reporter.ca_installed(good(), Vec::new());
        reporter.clock_stepped(-3);
        assert_eq!(reporter.status().warnings.len(), 0);
        for (from, to, says) in [
            ("2000", "2001", "expired at 2001"),
            ("9998", "9999", "before 9998"),
        ] {
            // As it is once the clock has been set: nothing else happens.
            reporter.status.ca = Some(ca(from, to));
            reporter.clock_stepped(3);
            let warnings = &reporter.status().warnings;
            assert!(
                warnings.len() == 1 && warnings[0].contains(says),
                "{warnings:?}"
            );
        }
        let status = reporter.status();
        assert_eq!((status.clock_steps, status.last_clock_step), (3, 3));
        reporter.ca_installed(good(), Vec::new());
        assert_eq!(reporter.status().warnings.len(), 0);
    }
}
