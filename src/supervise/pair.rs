//! Which CA pair is served, and what becomes of one that changes on disk: it is judged beside
//! the one in force, and takes its place at the next start. Until then, and where it cannot be
//! used, whoever reads the pair anew reads a copy of the one in force.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Instant;

use super::launch::Trusted;
use super::machine::{Change, Event};
use super::unit::Unit;
use super::{Context, Supervisor};
use crate::bottle::Desired;
use crate::ca::authority;
use crate::ca::custody::{Judging, Kept};
use crate::exit::StartError;

/// The pair in force, and the one that is to follow it.
#[derive(Debug)]
pub struct Pair {
    in_force: Kept,
    certificate: Rc<str>,
    /// What agents trust besides, of the daemon that is their proxy.
    agents: Option<Rc<str>>,
    /// What the other daemons trust, in the place where they find it.
    pub(super) installed: Option<Trusted>,
    /// The configuration names it where it is put back, not where it was provided.
    put_back: bool,
    /// What was put back is another.
    is_stale: bool,
    /// The marks of the files that were judged last, and of those that were seen last.
    judged: String,
    seen: String,
    judging: Option<Judging>,
    /// Judged to be good, and not in force yet.
    next: Option<Kept>,
}

impl Pair {
    /// The one that the start has put in its place.
    #[must_use]
    pub fn new(kept: Kept, certificate: Rc<str>) -> Self {
        let marks = &kept.placed.marks;
        Self {
            certificate,
            agents: None,
            installed: None,
            put_back: false,
            is_stale: false,
            seen: marks.clone(),
            judged: marks.clone(),
            judging: None,
            next: None,
            in_force: kept,
        }
    }

    /// The certificate in force.
    pub(super) fn certificate(&self) -> &Rc<str> {
        &self.certificate
    }

    /// The same, and what agents trust besides.
    pub(super) fn trusted(&self) -> (&Rc<str>, Option<&Rc<str>>) {
        (&self.certificate, self.agents.as_ref())
    }

    /// Agents trust this besides from now on; whether that is news.
    pub(super) fn trust_for_agents(&mut self, certificates: Option<Rc<str>>) -> bool {
        let news = self.agents != certificates;
        self.agents = certificates;
        news
    }

    /// The process of the one who judges, until it is known to have ended.
    pub(super) fn pid(&self) -> Option<i32> {
        self.judging.as_ref().map(Judging::pid)
    }

    /// Readable when it was judged.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.judging.as_ref().map(Judging::as_fd)
    }

    /// When it is to be advanced although nobody has come back.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.judging.as_ref().and_then(Judging::deadline)
    }
}

impl Supervisor<'_> {
    /// The pair's files have these marks now; none where they could not be looked at.
    pub(super) fn hear_of_pair(&mut self, marks: &[u8]) {
        if !marks.is_empty() {
            self.pair.seen = String::from_utf8_lossy(marks).into_owned();
        }
    }

    /// Has a changed pair judged, and follows what was found.
    pub(super) fn look_after_pair(&mut self, now: Instant) {
        if let Some(judging) = &mut self.pair.judging
            && let Some(judged) = judging.advance(now)
        {
            self.pair.judging = None;
            self.changed = true;
            match judged {
                Ok(kept) => self.follow_pair(kept),
                Err(error) => self.reporter.ca_refused(&error),
            }
        }
        if self.pair.judging.is_none() && self.pair.seen != self.pair.judged {
            match self.setup.custody.judge_again(now) {
                Ok(judging) => {
                    self.pair.judged.clone_from(&self.pair.seen);
                    self.pair.judging = Some(judging);
                }
                // Tried again at the next look.
                Err(error) => log::warn!("nobody judges the changed CA pair: {error}"),
            }
        }
    }

    fn follow_pair(&mut self, kept: Kept) {
        self.reporter.ca_accepted();
        let sha256 = &kept.placed.ca.fingerprint_sha256;
        if self.pair.in_force.placed.ca.fingerprint_sha256 == *sha256 {
            log::debug!("the CA pair is the same as before");
            self.pair.next = None;
            self.pair.in_force.placed.marks = kept.placed.marks;
            return;
        }
        let next = self.what_follows("restarting pipelock");
        log::info!("the CA pair changed, SHA-256 {sha256}; {next}");
        self.pair.next = Some(kept);
        let change = Change::Restart { revokes: false };
        self.roster.firewall.push(Event::ConfigChanged(change));
    }

    /// Has a configuration that was judged name the pair where it is read now.
    pub(super) fn name_pair(&self, new: &mut Desired) {
        if self.pair.put_back {
            let [cert, key] = authority::put_back_at(self.setup.custody.run.path());
            new.find_ca_at(&cert, &key);
        }
    }
}

/// Before a daemon starts: the pair that was judged last is in force from now on, and its
/// clients are told.
pub(super) fn take_up(around: &mut Context) -> Result<(), StartError> {
    if let Some(next) = around.pair.next.take() {
        let placed = &next.placed;
        around.pair.certificate = placed.certificate.as_str().into();
        tell_clients(around);
        let (ca, warnings) = (placed.ca.clone(), placed.warnings.clone());
        around.reporter.ca_installed(ca, warnings);
        around.pair.in_force = next;
        around.pair.is_stale = true;
    }
    settle(around)
}

/// Tells clients what they are to trust by now.
pub(super) fn tell_clients(around: &mut Context) {
    let (certificate, agents) = around.pair.trusted();
    let clients = (around.setup.clients)(around.desired, certificate, agents);
    around.reporter.export(clients);
}

/// Before a daemon reads the pair: has it find the one in force, where it was provided or, if
/// something else lies there by now, where it is put back.
pub(super) fn settle(around: &mut Context) -> Result<(), StartError> {
    let custody = around.setup.custody;
    let given = custody.files;
    let (changed, before) = (is_changed(around), around.pair.put_back);
    if changed && (!before || around.pair.is_stale) {
        custody.put_back(&around.pair.in_force.copy)?;
        around.pair.is_stale = false;
    }
    if changed == before {
        return Ok(());
    }
    let [cert, key] = if changed {
        authority::put_back_at(custody.run.path())
    } else {
        authority::forget(custody.run);
        [given.cert.clone(), given.key.clone()]
    };
    around.pair.put_back = changed;
    around.desired.find_ca_at(&cert, &key);
    around
        .reporter
        .config_reworded(&around.desired.config_sha256);
    Ok(())
}

/// Whether a daemon that has just read the pair may have read another than the one in force.
pub(super) fn may_be_another(around: &Context) -> bool {
    !around.pair.put_back && is_changed(around)
}

/// Whether what lies where the pair was provided is not the pair in force.
fn is_changed(around: &Context) -> bool {
    around.setup.custody.marks() != around.pair.in_force.placed.marks
}
