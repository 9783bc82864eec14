//! `grant`: allows a host for a time, or no longer, by an edit of the manifest, and returns when
//! the sidecar's status says that this very manifest is in force. Touches files.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::difference::difference;
use super::patience::Patience;
use super::status::condition;
use super::{LOOK_INTERVAL, below, granted, missing, print, print_done};
use crate::boot::clock;
use crate::bottle::alone;
use crate::ca::{rfc3339, rfc3339_to_the_nanosecond};
use crate::cli::{End, GrantOptions};
use crate::daemon::pipelock::reload::{self, Plan};
use crate::daemon::pipelock::render;
use crate::exit::{ExitCode, StartError};
use crate::manifest::edit::{self, Change, edited};
use crate::manifest::{self, MAX_BYTES, quoted};
use crate::plain;
use crate::policy::{self, Policy, grants, matching};
use crate::status::told::{Condition, StatusError, StatusFile};
use crate::status::{Config, Granted, State, Status, Word};
use crate::sys::files::{EditLock, FileError, Original, Replaced, Room};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    /// In the one form a grant has.
    host: String,
    /// Until when, in seconds since 1970; `None` takes it back.
    until: Option<u64>,
    passthrough: bool,
}

/// Why it is not so: the code, and words.
type Refusal = (ExitCode, String);

/// Grants a host, or takes its grant back, and waits until that is so.
pub fn grant(options: &GrantOptions) -> Result<(), StartError> {
    let said = work(options).map_err(|(code, why)| StartError::new(code, below(&why, "  ")))?;
    if options.dry_run {
        return print(&said);
    }
    print_done(&said);
    Ok(())
}

/// The story: what is wanted, whether somebody is there to take it up, the edit, the wait.
fn work(options: &GrantOptions) -> Result<String, Refusal> {
    let now = clock::now();
    let wish = Wish::of(options, now)?;
    let place = Place::of(&options.manifest)?;
    if options.dry_run {
        let (bytes, _) = place.read()?;
        let edit = plan(&bytes, &wish, now, &place.shown)?;
        if let Some(words) = edit.nothing {
            return Ok(format!("{words}\n"));
        }
        // Beside the difference, which is to be a patch and no more.
        if !edit.more.is_empty() {
            let _ = writeln!(std::io::stderr(), "{}", edit.more.trim_start());
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        return Ok(difference(&place.shown, &text(&bytes), &text(&edit.bytes)));
    }
    let patience = Patience::of(options.timeout_seconds);
    let read = || patience.read(&options.run_dir).map(|(file, _)| file);
    let before = read();
    let nobody = absence(&before);
    // What nobody can prove is not allowed; what is to end ends all the same.
    if let Some(why) = &nobody
        && wish.until.is_some()
    {
        let why = format!("{why}\nnothing was changed");
        return Err((ExitCode::DaemonUnavailable, why));
    }
    let edit = place.edit(&wish, &patience)?;
    if let Some(why) = nobody {
        let done = edit
            .nothing
            .unwrap_or(format!("{} was changed", place.shown));
        let why = format!("{done}, and nobody is there to take it up: {why}");
        return Err((ExitCode::DaemonUnavailable, why));
    }
    let before = before.map_or_else(|_| Before::default(), |file| Before::of(&file.status));
    let mut wait = Wait::of(&wish, &edit, before);
    loop {
        wait.look_at(&place)?;
        let found = read();
        if let Ok(file) = &found
            && let Some(outcome) = wait.outcome(file)
        {
            return outcome.map(|words| format!("{words}{}\n", edit.more));
        }
        if patience.is_over() {
            return Err(wait.too_long(&found, options.timeout_seconds, &place.shown));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

impl Wish {
    fn of(options: &GrantOptions, now: u64) -> Result<Self, Refusal> {
        let usage = |rejection: manifest::Rejection| {
            let hint = rejection.hint.map(|hint| format!("\nhint: {hint}"));
            let why = format!("{}{}", rejection.message, hint.unwrap_or_default());
            (ExitCode::Usage, why)
        };
        let host = policy::normalize(&options.host).map_err(usage)?;
        let until = match &options.end {
            None => None,
            Some(End::After(seconds)) => Some(now.saturating_add(*seconds)),
            Some(End::At(text)) => {
                let until = grants::time(text, now).map_err(usage)?;
                if until <= now {
                    let why = format!(
                        "{} is over: it is {} here\nhint: --for 30m is half an hour from now",
                        quoted(text),
                        rfc3339(now)
                    );
                    return Err((ExitCode::Usage, why));
                }
                Some(until)
            }
        };
        Ok(Self {
            host,
            until,
            passthrough: options.passthrough,
        })
    }

    /// Whether a manifest that is valid has it.
    fn is_in(&self, policy: &Policy) -> bool {
        let mut grants = policy.grants.iter();
        match self.until {
            None => grants.all(|grant| grant.host != self.host),
            Some(until) => grants.any(|grant| {
                grant.host == self.host
                    && grant.until == until
                    && (grant.passthrough || !self.passthrough)
            }),
        }
    }

    /// What a person has to write, where it cannot be written here.
    fn by_hand(&self) -> String {
        match self.until {
            Some(until) => {
                let until = rfc3339(until);
                let grant = edit::Grant {
                    host: &self.host,
                    until: &until,
                    passthrough: self.passthrough,
                };
                format!(
                    "the list grants of the manifest has to have, in place of one of that host:\n  - {}",
                    grant.line()
                )
            }
            None => format!(
                "the entry of {} has to go from the list grants of the manifest",
                self.host
            ),
        }
    }
}

/// What is to be done to a manifest.
#[derive(Debug, Default, PartialEq, Eq)]
struct Edit {
    /// That nothing is, and why: what is wanted is so already. It is to be in force all the same.
    nothing: Option<String>,
    bytes: Vec<u8>,
    /// The SHA-256 of those.
    sha256: String,
    /// Whether something is reached no more, or scanned again: pipelock is restarted for it.
    revokes: bool,
    /// What else there is to know, as lines that begin with a line feed.
    more: String,
}

impl Edit {
    fn nothing(bytes: &[u8], words: String) -> Self {
        Self {
            nothing: Some(words),
            sha256: render::hash(bytes),
            ..Self::default()
        }
    }
}

/// What the wish makes of a manifest of this name; it is judged before and after. Pure.
fn plan(bytes: &[u8], wish: &Wish, now: u64, name: &str) -> Result<Edit, Refusal> {
    let invalid = |refused: policy::Refused, then: &str| {
        let why = format!("{}\n{then}", refused.in_words(name));
        (ExitCode::ManifestInvalid, why)
    };
    let judged = policy::read(bytes, false, now)
        .map_err(|it| invalid(it, "it was so before, and nothing was changed"))?;
    let (policy, noted) = (judged.policy, judged.notes);
    let host = &wish.host;
    let (allowlist, passthrough) = policy.lasting();
    let routed = matching::allows_entry(allowlist, host);
    let granted = policy.grants.iter().any(|grant| grant.host == *host);
    let until = wish.until.map(rfc3339);
    let change = match &until {
        Some(until) => {
            let passed = policy::grants::as_passed(host)
                .all(|host| matching::passes_entry(passthrough, &host));
            if routed && !granted && (passed || !wish.passthrough) {
                let words = format!(
                    "{host} is allowed already, and without an end{}: nothing was changed",
                    by_route(bytes, host, name)
                );
                return Ok(Edit::nothing(bytes, words));
            }
            Change::Grant(edit::Grant {
                host,
                until,
                passthrough: wish.passthrough,
            })
        }
        None if !granted => return not_granted(bytes, &policy, routed, host, name),
        None => Change::Revoke,
    };
    let is_meant = |text: &str| policy::normalize(text).is_ok_and(|it| it == *host);
    let Some(after) = edited(bytes, change, &is_meant) else {
        let why = format!(
            "{name} is written in a way that is not edited here, and nothing was changed\nhint: {}",
            wish.by_hand()
        );
        return Err((ExitCode::ManifestInvalid, why));
    };
    let judged = policy::read(&after, false, now)
        .map_err(|it| invalid(it, "that is how it would read; nothing was changed"))?;
    if !wish.is_in(&judged.policy) {
        let why = "internal error: the edit of the manifest is not what was asked for".to_owned();
        return Err((ExitCode::Internal, why));
    }
    let revokes = match reload::plan(&policy, &judged.policy) {
        Plan::Restart { revoked, scanned } => !revoked.is_empty() || !scanned.is_empty(),
        Plan::Nothing | Plan::Reload => false,
    };
    let still = wish.until.is_none() && matching::allows_entry(&judged.policy.allowlist, host);
    let mut more = String::new();
    if still {
        more = format!(
            "\n{host} stays allowed{}",
            by_anything(bytes, &judged.policy, host, name)
        );
    }
    for note in &judged.notes {
        if noted.iter().all(|known| known.message != note.message) {
            more += &format!("\nnote: {}", note.display(name));
        }
    }
    Ok(Edit {
        nothing: None,
        sha256: render::hash(&after),
        bytes: after,
        revokes,
        more,
    })
}

/// What is said of a host whose grant is to be taken back, and that has none.
fn not_granted(
    bytes: &[u8],
    policy: &Policy,
    routed: bool,
    host: &str,
    name: &str,
) -> Result<Edit, Refusal> {
    if !matching::allows_entry(&policy.allowlist, host) {
        let words = format!("{host} is not granted, nor allowed otherwise: nothing was changed");
        return Ok(Edit::nothing(bytes, words));
    }
    let hint = if routed {
        "take away that line: what is allowed without an end is nobody's grant"
    } else {
        "take back that grant: sidecar-init grant --revoke with its host"
    };
    let by = by_anything(bytes, policy, host, name);
    let why = format!("{host} is not granted, and allowed{by}: nothing was changed\nhint: {hint}");
    Err((ExitCode::ManifestInvalid, why))
}

/// Where the manifest allows a host without an end: words that go on a sentence.
fn by_route(bytes: &[u8], host: &str, name: &str) -> String {
    let read = manifest::parse(bytes, |_, _| None).manifest;
    let routes = read.bottle.unwrap_or_default().egress.routes;
    let scalars = routes
        .into_iter()
        .filter_map(|(_, route)| route.host.or(route.Host.map(|scalar| *scalar)));
    let mut allows = scalars.filter(|scalar| {
        policy::normalize(&scalar.text).is_ok_and(|it| matching::allows_entry(&[it], host))
    });
    match allows.next() {
        Some(scalar) => format!(", by {name}:{}: {}", scalar.at.line, quoted(&scalar.text)),
        None => ", by bottle.supervise".to_owned(),
    }
}

/// The same, also of what another grant allows.
fn by_anything(bytes: &[u8], policy: &Policy, host: &str, name: &str) -> String {
    let mut others = policy
        .grants
        .iter()
        .filter(|grant| grant.in_force && grant.host != host);
    let other =
        others.find(|grant| matching::allows_entry(std::slice::from_ref(&grant.host), host));
    let (lasting, _) = policy.lasting();
    match other.filter(|_| !matching::allows_entry(lasting, host)) {
        Some(grant) => format!(
            ", by the grant of {}, until {}",
            grant.host,
            rfc3339(grant.until)
        ),
        None => by_route(bytes, host, name),
    }
}

/// The manifest's place, where it can be replaced.
struct Place {
    path: PathBuf,
    room: Room,
    name: String,
    /// For words.
    shown: String,
}

impl Place {
    fn of(path: &Path) -> Result<Self, Refusal> {
        let shown = plain::line_of(path.as_os_str().as_encoded_bytes());
        let refused = |code, why: &str| Err((code, format!("cannot edit {shown}: {why}")));
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return refused(ExitCode::Usage, "it is no file's name");
        };
        if path == Path::new("-") {
            let why = "standard input is not kept anywhere; give --manifest a file";
            return refused(ExitCode::Usage, why);
        }
        if let Ok(target) = fs::read_link(path) {
            let why = format!(
                "it is a link to {}, which somebody else puts there (Kubernetes a ConfigMap's ..data)\n\
                 hint: edit it where it comes from, as with kubectl edit configmap; or give --manifest the \
                 file itself",
                plain::line_of(target.as_os_str().as_encoded_bytes())
            );
            return refused(ExitCode::CannotWrite, &why);
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        let room = Room::open(directory)
            .map_err(|error| (ExitCode::ManifestMissing, missing(path, &error)))?;
        Ok(Self {
            path: path.to_owned(),
            room,
            name: name.to_owned(),
            shown,
        })
    }

    fn read(&self) -> Result<(Vec<u8>, Original), Refusal> {
        let missing = |error: FileError| (ExitCode::ManifestMissing, error.to_string());
        self.room
            .read_to_edit(&self.name, MAX_BYTES)
            .map_err(missing)
    }

    /// Until it is dropped no other `grant` edits this file.
    fn lock(
        &self,
        original: &Original,
        wish: &Wish,
        patience: &Patience,
    ) -> Result<EditLock<'_>, Refusal> {
        loop {
            match self.room.lock_to_edit(&self.name, original) {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) if patience.is_over() => {
                    let why = format!("another edits {}, and has not come to an end", self.shown);
                    return Err((ExitCode::NotInForce, why));
                }
                Ok(None) => std::thread::sleep(LOOK_INTERVAL),
                Err(error) => return Err(Self::unwritten(&error, wish)),
            }
        }
    }

    /// Makes the change, judged, in place of what is there.
    fn edit(&self, wish: &Wish, patience: &Patience) -> Result<Edit, Refusal> {
        // Whoever edits it by hand meanwhile does not do so for ever.
        const TRIES: usize = 9;
        // Whoever else waits for it may go on while the sidecar is waited for.
        let mut lock = None;
        for _ in 0..TRIES {
            let (bytes, original) = self.read()?;
            let mut edit = plan(&bytes, wish, clock::now(), &self.shown)?;
            if edit.nothing.is_some() || edit.bytes == bytes {
                return Ok(edit);
            }
            // A mount of the file, not of its name: nothing can take its place.
            if let Some(why) = alone::warning(&self.path) {
                let why = format!("{why}\nor on the host: {}", wish.by_hand());
                return Err((ExitCode::CannotWrite, why));
            }
            // What is there once nobody else edits it is another, maybe.
            if lock.is_none() {
                lock = Some(self.lock(&original, wish, patience)?);
                continue;
            }
            match self.room.replace(&self.name, &edit.bytes, &original) {
                Ok(Replaced::Done(unsure)) => {
                    if let Some(errno) = unsure {
                        let (shown, why) = (&self.shown, errno.desc());
                        edit.more += &format!(
                            "\nnote: after a loss of power {shown} may be the old one again: {why}"
                        );
                    }
                    return Ok(edit);
                }
                Ok(Replaced::Changed) => {}
                Err(error) => return Err(Self::unwritten(&error, wish)),
            }
        }
        let why = format!("{} is changed by somebody else again and again", self.shown);
        Err((ExitCode::CannotWrite, why))
    }

    fn unwritten(error: &FileError, wish: &Wish) -> Refusal {
        use std::io::ErrorKind;
        let hint = match error.kind() {
            ErrorKind::ReadOnlyFilesystem => format!(
                "it is mounted read-only here: edit it where it comes from, with sidecar-init grant \
                 --manifest FILE --export DIR on the host, or by hand: {}",
                wish.by_hand()
            ),
            ErrorKind::PermissionDenied => {
                "run this as the manifest's owner, or as root".to_owned()
            }
            ErrorKind::IsADirectory => {
                "nothing was changed; whoever put that directory there can remove it".to_owned()
            }
            _ => "nothing was changed".to_owned(),
        };
        (ExitCode::CannotWrite, format!("{error}\nhint: {hint}"))
    }
}

/// Why nobody is there to take a manifest up.
fn absence(found: &Result<StatusFile, StatusError>) -> Option<String> {
    match found {
        Err(error) => Some(error.to_string()),
        Ok(file) => match &file.condition {
            Condition::Killed
            | Condition::Hung
            | Condition::Told(Word::Known(State::Stopped | State::Stopping | State::Failed)) => {
                Some(condition(file))
            }
            Condition::Told(_) => None,
        },
    }
}

/// What the status said before anything was changed, which may have been true for long.
#[derive(Debug, Default)]
struct Before {
    /// The manifest that was used.
    sha256: Option<String>,
    /// The generation of a revocation that was over.
    revoked: Option<u64>,
}

impl Before {
    fn of(status: &Status) -> Self {
        let revoked = status.revocation.as_ref();
        let revoked = revoked.filter(|it| it.done_at.is_some());
        Self {
            sha256: status.config.manifest_sha256.clone(),
            revoked: revoked.map(|it| it.generation),
        }
    }
}

/// A manifest that stood in its place.
#[derive(Default)]
struct Known {
    /// Whether it has what is wanted.
    has: bool,
    /// When it had been changed, each time that it stood there. The bytes of a revocation may be those of
    /// an older manifest, which the sidecar may still be about to leave for one in between.
    modified: Vec<String>,
}

/// Waits until a manifest is in force.
struct Wait<'a> {
    wish: &'a Wish,
    edit: &'a Edit,
    before: Before,
    /// What was there since, by its SHA-256.
    known: HashMap<String, Known>,
    /// The generation that was the first to have it.
    taken: Option<u64>,
}

impl<'a> Wait<'a> {
    fn of(wish: &'a Wish, edit: &'a Edit, before: Before) -> Self {
        let written = Known {
            has: true,
            modified: Vec::new(),
        };
        Self {
            wish,
            edit,
            before,
            known: HashMap::from([(edit.sha256.clone(), written)]),
            taken: None,
        }
    }

    /// Whether what was read is a manifest that stood there since, and has what is wanted.
    fn is_so(&self, sha256: Option<&String>, config: &Config) -> bool {
        let known = sha256.and_then(|it| self.known.get(it));
        known.filter(|it| it.has).is_some_and(|known| {
            match &config.manifest_modified {
                Some(read) => known.modified.iter().any(|it| is_one_time(it, read)),
                // Of an older sidecar-init: what it used before proves nothing.
                None => sha256 != self.before.sha256.as_ref(),
            }
        })
    }

    /// Another may have been put there since, by whoever grants something else.
    fn look_at(&mut self, place: &Place) -> Result<(), Refusal> {
        // One that cannot be read is about to be replaced.
        let Ok((bytes, original)) = place.read() else {
            return Ok(());
        };
        let (wish, edit) = (self.wish, self.edit);
        let known = self.known.entry(render::hash(&bytes));
        let known = known.or_insert_with(|| {
            let now = clock::now();
            let has = if edit.nothing.is_some() {
                plan(&bytes, wish, now, &place.shown).is_ok_and(|it| it.nothing.is_some())
            } else {
                policy::read(&bytes, false, now).is_ok_and(|it| wish.is_in(&it.policy))
            };
            Known {
                has,
                ..Known::default()
            }
        });
        let modified = rfc3339_to_the_nanosecond(original.modified());
        if !known.modified.contains(&modified) {
            known.modified.push(modified);
        }
        if known.has {
            return Ok(());
        }
        let why = format!(
            "{} was changed once more since, by somebody else, and is not as was asked for any longer",
            place.shown
        );
        Err((ExitCode::NotInForce, why))
    }

    /// What came of it by this status, if anything has.
    fn outcome(&mut self, file: &StatusFile) -> Option<Result<String, Refusal>> {
        let (status, host) = (&file.status, &self.wish.host);
        let config = &status.config;
        if self.is_so(config.refused_sha256.as_ref(), config) {
            let why = status.manifest_error.as_deref().unwrap_or("it is not used");
            let why = format!("{why}\n{}, and the sidecar does not use it", self.done());
            return Some(Err((ExitCode::ManifestInvalid, why)));
        }
        let over = absence_of(file);
        if !self.is_so(config.manifest_sha256.as_ref(), config) {
            return over.map(|why| Err((ExitCode::DaemonUnavailable, self.done_but(&why))));
        }
        let generation = config.generation;
        let taken = *self.taken.get_or_insert(generation);
        let revocation = status.revocation.as_ref();
        let is_ours = |generation| generation >= taken && Some(generation) > self.before.revoked;
        let revocation = revocation.filter(|it| self.edit.revokes && is_ours(it.generation));
        if let (None, Some(done)) = (
            self.wish.until,
            revocation.and_then(|it| it.done_at.as_ref()),
        ) {
            return Some(Ok(format!(
                "{host} was revoked at {done}, with every tunnel: that is generation {generation}"
            )));
        }
        if let Some(why) = over {
            return Some(Err((ExitCode::DaemonUnavailable, self.done_but(&why))));
        }
        let is_applied = config.applied_generation >= generation;
        if let Some(words) = &self.edit.nothing {
            // What is not allowed needs nobody who serves.
            let is_idle = self.wish.until.is_none() || file.is(State::Ready);
            let settled = is_applied && is_idle || file.is(State::Halted);
            return settled.then(|| Ok(words.clone()));
        }
        let words = match self.in_words(status) {
            Ok(words) => words,
            Err(why) => return Some(Err((ExitCode::NotInForce, why))),
        };
        if file.is(State::Halted) {
            return Some(Ok(format!(
                "{words}: generation {generation} is read, and in force once it is resumed"
            )));
        }
        let settled = file.is(State::Ready) && is_applied;
        settled.then(|| {
            Ok(format!(
                "{words}: generation {generation} is in force, and the canary was refused again"
            ))
        })
    }

    /// What is so by this status; or why it is not, although that is what the manifest says.
    fn in_words(&self, status: &Status) -> Result<String, String> {
        let Some(until) = self.wish.until.map(rfc3339) else {
            return Ok(format!("{} is granted no more", self.wish.host));
        };
        // Of more grants than are told it may be one.
        let mut told = status.grants.iter();
        let told = told.find(|it| it.host == self.wish.host && it.until == until);
        let grant = told.cloned().unwrap_or(Granted {
            host: self.wish.host.clone(),
            until,
            passthrough: self.wish.passthrough,
            in_force: true,
        });
        let words = granted::in_words(&grant, clock::now());
        if grant.in_force {
            return Ok(format!("granted: {words}"));
        }
        Err(format!(
            "written, and over already by the clock of the machine: {words}\n\
             hint: its clock and the one here differ, or it was seen to end: give another time"
        ))
    }

    /// What was done, for a sentence that goes on.
    fn done(&self) -> &str {
        self.edit.nothing.as_deref().unwrap_or("written")
    }

    fn done_but(&self, why: &str) -> String {
        format!("{}, and nobody is there to take it up: {why}", self.done())
    }

    /// Why it is given up.
    fn too_long(
        &self,
        found: &Result<StatusFile, StatusError>,
        seconds: u64,
        shown: &str,
    ) -> Refusal {
        let why = match found {
            Err(error) => {
                return (
                    ExitCode::DaemonUnavailable,
                    self.done_but(&error.to_string()),
                );
            }
            Ok(file) if file.status.config.manifest_sha256.is_none() => {
                "its status does not say which manifest it uses".to_owned()
            }
            Ok(file) => {
                let config = &file.status.config;
                let condition = condition(file);
                if self.is_so(config.manifest_sha256.as_ref(), config) {
                    condition
                } else {
                    let stays = match self.edit.nothing {
                        None => " what was written stays there",
                        Some(_) => "",
                    };
                    format!(
                        "{condition}; it has not read that manifest\nhint: is {shown} the one it follows?{stays}"
                    )
                }
            }
        };
        let why = format!(
            "{}, and not in force within {seconds} s: {why}",
            self.done()
        );
        (ExitCode::NotInForce, why)
    }
}

/// Why nobody is there any more.
fn absence_of(file: &StatusFile) -> Option<String> {
    let gone = matches!(
        file.condition,
        Condition::Killed | Condition::Told(Word::Known(State::Stopped | State::Failed))
    );
    gone.then(|| condition(file))
}

/// Whether two times to the nanosecond are one, of which a share may have shortened one.
fn is_one_time(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(|it| it.trim_end_matches(['0', 'Z']));
    one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: &str = "2026-12-01T18:00:00Z";

    fn wish(until: Option<u64>) -> Wish {
        Wish {
            host: "b.example".to_owned(),
            until,
            passthrough: false,
        }
    }

    /// What comes of a manifest with the SHA-256 "new" by a status of these fields.
    fn outcome(wish: &Wish, revokes: bool, fields: &str) -> Option<Result<String, Refusal>> {
        let edit = Edit {
            bytes: Vec::new(),
            sha256: "new".to_owned(),
            revokes,
            ..Edit::default()
        };
        let status = format!(r#"{{"schema":1,"boot_id":"one",{fields}}}"#);
        let file = StatusFile::parse(status.as_bytes()).unwrap();
        Wait::of(wish, &edit, Before::default()).outcome(&file)
    }

    #[test]
    fn bytes_that_were_in_force_before_are_so_again_when_the_file_that_has_them_now_was_read() {
        let status = |revocation: &str, read_at: &str| {
            let text = format!(
                r#"{{"schema":2,"boot_id":"one","state":"ready",{revocation}"config":{{"generation":4,"applied_generation":4,"manifest_sha256":"new"{read_at}}}}}"#
            );
            StatusFile::parse(text.as_bytes()).unwrap()
        };
        let at = |time: &str| format!(r#","manifest_modified":"{time}""#);
        let (old, new) = (
            "2026-11-26T10:00:00.123456789Z",
            "2026-11-26T10:00:01.500000000Z",
        );
        let revoked = r#""revocation":{"generation":4,"hosts":["x"],"done_at":"long ago"},"#;
        let edit = Edit {
            sha256: "new".to_owned(),
            revokes: true,
            ..Edit::default()
        };
        let wish = wish(None);
        let before = Before::of(&status(revoked, &at(old)).status);
        let mut wait = Wait::of(&wish, &edit, before);
        let known = wait.known.get_mut("new").unwrap();
        known.modified.push(new.to_owned());
        assert_eq!(wait.outcome(&status(revoked, &at(old))), None);
        // Nor does one that does not say which file it was.
        assert_eq!(wait.outcome(&status(revoked, "")), None);
        let words = "b.example is granted no more: generation 4 is in force, and the canary was refused again";
        assert_eq!(
            wait.outcome(&status(revoked, &at(new))),
            Some(Ok(words.to_owned())),
            "an older revocation is none of this one"
        );
    }

    #[test]
    fn a_time_that_a_share_has_shortened_is_the_same() {
        let full = "2026-11-26T10:00:30.123456700Z";
        for (other, is_one) in [
            (full, true),
            ("2026-11-26T10:00:30.000000000Z", true),
            ("2026-11-26T10:00:30.123456000Z", true),
            ("2026-11-26T10:00:30.123457000Z", false),
            ("2026-11-26T10:00:03.000000000Z", false),
        ] {
            assert_eq!(is_one_time(full, other), is_one, "{other}");
            assert_eq!(is_one_time(other, full), is_one, "{other}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_manifest_that_was_not_read_or_is_not_proved() {
        let until = grants::time(UNTIL, 0).ok();
        for wish in [wish(until), wish(None)] {
            for fields in [
                r#""state":"ready","config":{"generation":2,"applied_generation":2}"#,
                r#""state":"ready","config":{"generation":2,"applied_generation":2,"manifest_sha256":"old"}"#,
                r#""state":"ready","config":{"generation":2,"applied_generation":2,"manifest_sha256":"old","refused_sha256":"other"}"#,
                r#""state":"ready","config":{"generation":3,"applied_generation":2,"manifest_sha256":"new"}"#,
                r#""state":"reloading","config":{"generation":3,"applied_generation":3,"manifest_sha256":"new"}"#,
                r#""state":"backoff","revocation":{"generation":2,"done_at":"t"},"config":{"generation":3,"applied_generation":2,"manifest_sha256":"new"}"#,
                r#""state":"backoff","revocation":{"generation":3},"config":{"generation":3,"applied_generation":2,"manifest_sha256":"new"}"#,
            ] {
                assert_eq!(outcome(&wish, true, fields), None, "{fields}");
            }
        }
    }

    #[test]
    fn what_came_of_it_has_a_code_of_its_own() {
        let until = grants::time(UNTIL, 0).ok();
        let code = |fields: &str| outcome(&wish(until), false, fields).unwrap().unwrap_err().0;
        for (fields, wanted) in [
            (
                r#""state":"ready","manifest_error":"why","config":{"generation":1,"manifest_sha256":"old","refused_sha256":"new"}"#,
                ExitCode::ManifestInvalid,
            ),
            (
                r#""state":"stopped","config":{"manifest_sha256":"old"}"#,
                ExitCode::DaemonUnavailable,
            ),
            (
                r#""state":"failed","config":{"manifest_sha256":"new"}"#,
                ExitCode::DaemonUnavailable,
            ),
            (
                r#""state":"ready","grants":[{"host":"b.example","until":"2026-12-01T18:00:00Z","in_force":false}],"config":{"generation":2,"applied_generation":2,"manifest_sha256":"new"}"#,
                ExitCode::NotInForce,
            ),
        ] {
            assert_eq!(code(fields), wanted, "{fields}");
        }
    }

    #[test]
    fn a_revocation_is_over_when_it_was_done_whatever_the_daemon_does_then() {
        let fields = r#""state":"backoff","revocation":{"generation":4,"hosts":["b.example"],"done_at":"t"},"config":{"generation":4,"applied_generation":2,"manifest_sha256":"new"}"#;
        let words = "b.example was revoked at t, with every tunnel: that is generation 4";
        assert_eq!(
            outcome(&wish(None), true, fields),
            Some(Ok(words.to_owned()))
        );
    }

    #[test]
    fn what_is_written_by_hand_can_be_pasted() {
        let until = grants::time(UNTIL, 0).ok();
        let line = "  - {host: b.example, until: 2026-12-01T18:00:00Z}";
        let by_hand = wish(until).by_hand();
        assert!(by_hand.ends_with(line), "{by_hand}");
        let text = format!("slug: a\nbottle: {{}}\ngrants:\n{line}\n");
        assert!(wish(until).is_in(&policy::read(text.as_bytes(), true, 0).unwrap().policy));
    }
}
