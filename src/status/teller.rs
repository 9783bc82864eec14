//! Tells the host, in its export, what there is to tell. The export is another's file
//! system, and that one may stop answering for ever; so every touch of it is an errand's:
//! one at a time, with the newest content of each name, given up after a while and sent
//! again. Touches the kernel through [`crate::sys::errand`].

use std::borrow::Cow;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::boot::clock;
use crate::ca::{self, NoRoots};
use crate::status::export::{self, Content};
use crate::status::{self, denials, metrics, report};
use crate::sys::errand::{self, Errand};
use crate::sys::files::{Access, FileError, Mark, Room};

/// The export has this long to take what it is told.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// What could not be told is told again after so long, and after twice as long the next
/// time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Where there is nothing to tell, somebody looks this often whether what was told is still
/// there. A fork, and two wake-ups.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The files of an export, in the order they are written. Whoever finds the certificate
/// finds the others beside it, and whoever reads "ready" finds them all.
pub const NAMES: [&str; 8] = [
    export::BUNDLE,
    export::ENVIRONMENT,
    export::AGENTS,
    export::CA,
    denials::FILE,
    report::FILE,
    metrics::FILE,
    status::FILE,
];

/// For each of [`NAMES`] what it is to be, where that is still to be told.
type Untold = [Option<Content>; NAMES.len()];

/// Keeps an export as it should be.
#[derive(Debug)]
pub struct Teller {
    parent: Room,
    name: &'static str,
    room: Room,
    news: Untold,
    /// What each of [`NAMES`] is to be.
    current: [Content; NAMES.len()],
    /// What each of them was told to be and became, where that is known.
    told: [Option<Content>; NAMES.len()],
    look_at: Instant,
    /// Each of [`NAMES`] as it was last found to be what it is to be.
    seen: [Option<Mark>; NAMES.len()],
    /// Nobody has come back yet, so an earlier boot's status may be there.
    fresh: bool,
    /// How many times another directory took its place.
    moves: u64,
    /// Somebody was killed, and may have left half a file behind.
    littered: bool,
    /// That directories are in the way, as was found when last looked.
    stays: Option<String>,
    /// That the bundle has no public roots, as it was written last.
    rootless: Option<String>,
    /// Somebody was waited for in vain, and is still away.
    late: bool,
    away: Option<Away>,
    pause: Duration,
    next: Option<Instant>,
    problem: Option<String>,
    /// When it was first asked in vain, in seconds since 1970.
    silent_since: Option<u64>,
}

/// Somebody who is telling.
#[derive(Debug)]
struct Away {
    errand: Errand,
    carries: Untold,
    /// When it is given up; `None` once it was.
    until: Option<Instant>,
}

impl Teller {
    /// Keeps the export in `parent`; whatever an earlier boot left there goes.
    pub fn new(parent: &Room, name: &'static str, room: Room) -> std::io::Result<Self> {
        Ok(Self {
            parent: parent.try_clone()?,
            name,
            room,
            news: std::array::from_fn(|_| Some(Content::Gone)),
            current: std::array::from_fn(|_| Content::Gone),
            told: [const { None }; NAMES.len()],
            look_at: Instant::now() + LOOK_EVERY,
            seen: [None; NAMES.len()],
            fresh: true,
            moves: 0,
            littered: true,
            stays: None,
            rootless: None,
            late: false,
            away: None,
            pause: FIRST_PAUSE,
            next: None,
            problem: None,
            silent_since: None,
        })
    }

    /// Will tell this, as soon as that can be.
    pub fn tell(&mut self, name: &str, content: Content) {
        let mut places = self.news.iter_mut().zip(&mut self.current).zip(NAMES);
        if let Some(((news, current), _)) = places.find(|it| it.1 == name) {
            *news = Some(content.clone());
            *current = content;
        }
    }

    /// Sends somebody to look, where it is time and nobody is away.
    pub fn look(&mut self, now: Instant) {
        if self.away.is_none() && !self.has_news() && now >= self.look_at {
            self.send(now);
        }
    }

    /// What is wrong with the export now, in words.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Whether it is another directory by now than at first, or a mount on that.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.moves > 0
    }

    /// What is in its way, in words.
    #[must_use]
    pub fn in_its_way(&self) -> Option<&str> {
        self.stays.as_deref()
    }

    /// That its bundle has no public roots, and why.
    #[must_use]
    pub fn lacks_roots(&self) -> Option<&str> {
        self.rootless.as_deref()
    }

    /// Whether it was waited for in vain, and has not answered since.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// Whether this child is one of ours.
    #[must_use]
    pub fn sent(&self, pid: i32) -> bool {
        self.away.as_ref().is_some_and(|it| it.errand.pid() == pid)
    }

    /// Readable when somebody has come back.
    #[must_use]
    pub fn errand(&self) -> Option<&Errand> {
        self.away.as_ref().map(|away| &away.errand)
    }

    /// When [`Teller::advance`] has something to do that no descriptor shows.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.away {
            Some(away) => away.until,
            None => self.has_news().then(|| self.next.unwrap_or(now)),
        }
    }

    /// Hears who has come back, gives up who has not, sends the next. Never waits. What it
    /// returns should be known to whoever reads the status.
    pub fn advance(&mut self, now: Instant) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(mut away) = self.away.take() {
            if let Some(answer) = away.errand.listen() {
                warnings = self.came_back(away, answer, now);
            } else {
                if away.until.is_some_and(|until| now >= until) {
                    away.errand.kill();
                    away.until = None;
                    let asked = clock::now().saturating_sub(PATIENCE.as_secs());
                    let since = *self.silent_since.get_or_insert(asked);
                    self.problem = Some(format!(
                        "the export has not answered since {}, and what it says is older",
                        ca::rfc3339(since)
                    ));
                }
                self.away = Some(away);
            }
        }
        if self.away.is_none() && self.has_news() && self.next.is_none_or(|next| now >= next) {
            self.send(now);
        }
        warnings
    }

    /// Tells what there is to tell, or waits no longer than `patience`.
    pub fn finish(&mut self, patience: Duration) -> Vec<String> {
        let end = Instant::now() + patience;
        self.next = None;
        let mut warnings = self.advance(Instant::now());
        while let Some(away) = &mut self.away {
            let left = end.saturating_duration_since(Instant::now());
            let Some(answer) = away.errand.wait(left) else {
                self.late = true;
                break;
            };
            if let Some(away) = self.away.take() {
                warnings.extend(self.came_back(away, answer, Instant::now()));
            }
            // What has come up meanwhile; what failed has its pause.
            warnings.extend(self.advance(Instant::now()));
        }
        warnings
    }

    /// Takes up again what somebody carried who was ended by this program itself, with
    /// everything else: nothing is wrong with the export. Warnings as of
    /// [`Teller::advance`].
    pub fn recall(&mut self) -> Vec<String> {
        let Some(mut away) = self.away.take() else {
            return Vec::new();
        };
        match away.errand.listen() {
            Some(None) => {
                self.littered = true;
                self.take_up(away.carries, |_| true);
                self.next = None;
            }
            Some(answer) => return self.came_back(away, answer, Instant::now()),
            None => self.away = Some(away),
        }
        Vec::new()
    }

    fn has_news(&self) -> bool {
        self.news.iter().any(Option::is_some)
    }

    fn send(&mut self, now: Instant) {
        // What cannot be told again and again keeps nobody from looking after the rest.
        let looks = now >= self.look_at;
        if looks {
            self.look_at = now + LOOK_EVERY;
        }
        let carries = std::mem::take(&mut self.news);
        let (room, fresh, told) = (&self.room, self.fresh, &self.told);
        let sweeps = self.littered || looks && self.stays.is_some();
        let (parent, name, current, seen) = (&self.parent, self.name, &self.current, &self.seen);
        let keep = [parent, room].map(|room| room.descriptor().as_raw_fd());
        let sent = errand::send(&keep, || {
            // First: its space may be all that is missing.
            let stay = sweeps.then(|| room.sweep());
            let mut answer = tell(room, &carries, told, fresh);
            if let Some(stay) = stay {
                let stays = (stay > 0).then(|| in_the_way("the export", stay));
                answer.extend(format!("d{}\0", stays.unwrap_or_default()).bytes());
            }
            if parent.identity(name) != room.identity("") {
                answer.extend(b"m\0");
            } else if looks {
                let is_told = |place: usize| carries.get(place).is_some_and(Option::is_some);
                answer.extend(changed(room, current, seen, &is_told));
            } else {
                answer.extend(lost(room, current));
            }
            answer
        });
        for (told, _) in self
            .told
            .iter_mut()
            .zip(&carries)
            .filter(|it| it.1.is_some())
        {
            *told = None;
        }
        match sent {
            Ok(errand) => {
                self.away = Some(Away {
                    errand,
                    carries,
                    until: Some(now + PATIENCE),
                });
            }
            Err(errno) => {
                let why = format!("cannot fork: {}", errno.desc());
                self.failed(carries, |_| true, &why, now);
            }
        }
    }

    fn came_back(&mut self, away: Away, answer: Option<Vec<u8>>, now: Instant) -> Vec<String> {
        let Some(answer) = answer else {
            self.littered = true;
            let before = self.problem.take();
            self.failed(away.carries, |_| true, "its writer was killed", now);
            if self.silent_since.is_some() {
                self.problem = before;
            }
            return Vec::new();
        };
        self.silent_since = None;
        self.late = false;
        self.fresh = false;
        self.littered = false;
        let (mut warnings, mut failures, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let (mut moved, mut lost, mut hint) = (false, Vec::new(), None);
        let answer = String::from_utf8_lossy(&answer);
        for part in answer.split_terminator('\0') {
            match (part.get(..1), part.get(1..)) {
                (Some("w"), Some(text)) => warnings.push(text.to_owned()),
                (Some("d"), text) => {
                    self.stays = text.filter(|it| !it.is_empty()).map(str::to_owned);
                }
                (Some("r"), text) => {
                    self.rootless = text.filter(|it| !it.is_empty()).map(str::to_owned);
                }
                (Some("m"), _) => moved = true,
                (Some("h"), Some(text)) => hint = Some(text),
                (Some("l"), Some(place)) => lost.extend(place.parse::<usize>()),
                (Some("s"), Some(text)) => self.found_as_told(text),
                (Some(place), Some(text)) => {
                    refused.extend(place.parse::<usize>());
                    failures.push(text.to_owned());
                }
                _ => {}
            }
        }
        for (place, told) in self.told.iter_mut().enumerate() {
            let carried = away.carries.get(place).and_then(Option::as_ref);
            if moved || lost.contains(&place) {
                *told = None;
            } else if carried.is_some() && !refused.contains(&place) {
                *told = carried.cloned();
            }
        }
        if refused.is_empty() {
            self.problem = None;
            self.pause = FIRST_PAUSE;
            self.next = None;
        } else {
            let mut why = failures.join("; ");
            if let Some(hint) = hint {
                why += &format!(": {hint}");
            }
            lost.retain(|place| !refused.contains(place));
            self.failed(away.carries, |place| refused.contains(&place), &why, now);
        }
        let current = self.current.clone().map(Some);
        self.take_up(current, |place| moved || lost.contains(&place));
        if moved {
            self.follow(now);
        }
        warnings
    }

    /// A place, and the mark by which it is known from now on.
    fn found_as_told(&mut self, text: &str) {
        let mut numbers = text.split(',').map(str::parse::<i64>);
        let place = numbers.next().and_then(Result::ok);
        let seen = place
            .and_then(|place| usize::try_from(place).ok())
            .and_then(|place| self.seen.get_mut(place));
        let mark: Vec<i64> = numbers.map_while(Result::ok).collect();
        if let (Some(seen), Ok(mark)) = (seen, mark.try_into()) {
            *seen = Some(mark);
        }
    }

    /// Somebody put another directory, or a mount, where the export was.
    fn follow(&mut self, now: Instant) {
        let problem = match self.parent.enter(self.name) {
            Ok(Some(room)) => {
                self.room = room;
                self.moves += 1;
                self.fresh = true;
                self.littered = true;
                self.next = None;
                return;
            }
            Ok(None) => "the export is not there any more".to_owned(),
            Err(error) => format!("the export is not up to date: {error}"),
        };
        self.problem = Some(problem);
        self.next = Some(now + LONGEST_PAUSE);
    }

    /// What was not told is told again, where nothing newer is.
    fn take_up(&mut self, carries: Untold, is_untold: impl Fn(usize) -> bool) {
        for ((place, old), new) in carries.into_iter().enumerate().zip(&mut self.news) {
            if new.is_none() && is_untold(place) {
                *new = old;
            }
        }
    }

    /// Notes why, and when to try again.
    fn failed(
        &mut self,
        carries: Untold,
        is_refused: impl Fn(usize) -> bool,
        why: &str,
        now: Instant,
    ) {
        self.take_up(carries, is_refused);
        self.problem = Some(format!("the export is not up to date: {why}"));
        self.next = Some(now + self.pause);
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
        // Somebody may have made the directory anew.
        if let Ok(Some(room)) = self.parent.enter(self.name) {
            self.room = room;
        }
    }
}

/// That directories stay which are named like temporary files.
#[must_use]
pub fn in_the_way(place: &str, count: usize) -> String {
    format!(
        "{place} has {count} directories that are named like temporary files of sidecar-init's and are not empty: \
         they stay\nhint: whoever made them can remove them: .sidecar-init-*"
    )
}

/// What is not where it was told: an `l` and its place for each name that is gone.
fn lost(room: &Room, current: &[Content; NAMES.len()]) -> Vec<u8> {
    let mut answer = String::new();
    for (place, (content, name)) in current.iter().zip(NAMES).enumerate() {
        if !matches!(content, Content::Gone) && room.identity(name).is_none() {
            answer += &format!("l{place}\0");
        }
    }
    answer.into_bytes()
}

/// What is not as it was told: an `l` and its place for each name that is gone, is there and
/// should not be, or has another content, of which a `w` warns. What is as it was told has an
/// `s` with its place and mark, where that is not the one that is known: as long as it stays
/// the same, nobody reads that file again. Those that are being told are judged the next time.
fn changed(
    room: &Room,
    current: &[Content; NAMES.len()],
    seen: &[Option<Mark>; NAMES.len()],
    is_told: &dyn Fn(usize) -> bool,
) -> Vec<u8> {
    let mut answer = String::new();
    for (place, ((content, name), seen)) in current.iter().zip(NAMES).zip(seen).enumerate() {
        if is_told(place) {
            continue;
        }
        // Before it is read: what is changed meanwhile has another the next time.
        let mark = room.mark(name);
        let is_to_be = !matches!(content, Content::Gone);
        let Some(mark) = mark.filter(|_| is_to_be) else {
            if mark.is_some() || is_to_be {
                answer += &format!("l{place}\0");
            }
            continue;
        };
        if *seen == Some(mark) {
            continue;
        }
        if is_there(room, name, content) {
            let mark = mark.map(|number| number.to_string()).join(",");
            answer += &format!("s{place},{mark}\0");
        } else {
            answer += &format!("l{place}\0{}", changed_by_another(name));
        }
    }
    answer.into_bytes()
}

/// The part of an answer that warns of it.
fn changed_by_another(name: &str) -> String {
    format!("wsomebody else changed {name} in the export; it was put back\0")
}

fn is_there(room: &Room, name: &str, content: &Content) -> bool {
    bytes_of(content).is_some_and(|(wanted, _)| {
        let found = room.read(name, wanted.len());
        found.is_ok_and(|found| found == *wanted)
    })
}

/// What is to stand in a file that is to be there; and why there are no public roots in it,
/// where those belong.
#[must_use]
pub fn bytes_of(content: &Content) -> Option<(Cow<'_, [u8]>, Option<NoRoots>)> {
    let (trust, ca) = match content {
        Content::Gone => return None,
        Content::Text(text) => return Some((text.as_bytes().into(), None)),
        Content::Bundle { trust, ca } => (trust, ca),
    };
    let (mut bundle, none) = match trust {
        Some(trust) => (trust.to_vec(), None),
        None => match ca::public_roots() {
            Ok(roots) => (roots.into_bytes(), None),
            Err(none) => (Vec::new(), Some(none)),
        },
    };
    bundle.extend_from_slice(ca.as_bytes());
    Some((bundle.into(), none))
}

/// The errand: everything is tried, whatever fails before. The answer has a part for each
/// failure, the number of the name before it, for each warning, and for a hint. What was `told` before
/// and is not there as it was, somebody else has changed: nobody could tell once it is written over.
fn tell(room: &Room, news: &Untold, told: &Untold, fresh: bool) -> Vec<u8> {
    let (mut answer, mut is_denied) = (String::new(), false);
    let with_names = || news.iter().zip(NAMES).enumerate();
    if fresh {
        // First of all: nobody may read an old certificate beside a new boot id, or an old
        // "ready" beside nothing.
        let _ = room.remove(status::FILE);
    }
    for (place, (content, name)) in with_names() {
        if matches!(content, Some(Content::Gone))
            && let Err(error) = room.remove(name)
        {
            answer += &format!("{place}{error}\0");
        }
    }
    for (place, (content, name)) in with_names() {
        let Some((bytes, none)) = content.as_ref().and_then(bytes_of) else {
            continue;
        };
        if matches!(content, Some(Content::Bundle { .. })) {
            let none = none.map(|none| {
                format!("{name} holds no public roots, so clients cannot check passthrough hosts: {none}")
            });
            answer += &format!("r{}\0", none.unwrap_or_default());
        }
        let before = told.get(place).and_then(Option::as_ref);
        if let Some(before) = before.filter(|it| !matches!(it, Content::Gone))
            && room.identity(name).is_some()
            && !is_there(room, name, before)
        {
            answer += &changed_by_another(name);
        }
        let written = write(room, name, &bytes);
        if let Err(error) = written {
            is_denied |= error.kind() == ErrorKind::PermissionDenied;
            answer += &format!("{place}{error}\0");
        }
    }
    if is_denied {
        let own = nix::unistd::geteuid();
        answer += &format!("h{}\nhint: chown {own} it on the host\0", room.whose());
    }
    answer.into_bytes()
}

/// What stood there goes where it cannot be replaced: what is no longer true is worse than
/// nothing, and its space may be all that was missing.
pub fn write(room: &Room, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    room.publish(name, bytes, Access::PUBLIC).or_else(|_| {
        let _ = room.remove(name);
        room.publish(name, bytes, Access::PUBLIC)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::rc::Rc;

    /// An export in which `client.env` is to have this text, `report.json` is not to be, and
    /// of the others nobody knows.
    struct Bench {
        directory: PathBuf,
        teller: Teller,
    }

    const TEXT: &str = "HTTPS_PROXY=http://pipelock:8888\n";

    impl Bench {
        fn new() -> Self {
            let own = format!("sidecar-teller-{}", std::process::id());
            let directory = std::env::temp_dir().join(own);
            fs::create_dir_all(directory.join("export")).unwrap();
            let parent = Room::open(&directory).unwrap();
            let room = parent.enter("export").unwrap().unwrap();
            let mut teller = Teller::new(&parent, "export", room).unwrap();
            teller.tell(export::ENVIRONMENT, Content::Text(Rc::from(TEXT)));
            let told = teller.finish(Duration::from_secs(60));
            assert_eq!(told, Vec::<String>::new());
            Self { directory, teller }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.join("export").join(name)
        }

        /// What somebody finds who looks now, taken up as from who comes back.
        fn look(&mut self) -> String {
            let Teller {
                room,
                current,
                seen,
                ..
            } = &self.teller;
            let found = String::from_utf8(changed(room, current, seen, &|_| false)).unwrap();
            for part in found.split_terminator('\0') {
                if let Some(text) = part.strip_prefix('s') {
                    self.teller.found_as_told(text);
                }
            }
            found
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    #[test]
    fn reads_a_file_again_only_where_it_is_not_the_one_that_was_found_as_told() {
        let mut bench = Bench::new();
        let (own, alien) = (bench.path(export::ENVIRONMENT), bench.path(report::FILE));
        let place = NAMES
            .iter()
            .position(|it| *it == export::ENVIRONMENT)
            .unwrap();
        let first = bench.look();
        assert!(first.starts_with(&format!("s{place},")), "{first}");
        assert_eq!(bench.look(), "", "it is the same file");

        // Another with the same content is as good.
        fs::write(own.with_extension("new"), TEXT).unwrap();
        fs::rename(own.with_extension("new"), &own).unwrap();
        let other = bench.look();
        assert!(
            other.starts_with(&format!("s{place},")) && other != first,
            "{other}"
        );
        assert_eq!(bench.look(), "");

        // Of the same length, and made to look as old.
        let modified = fs::metadata(&own).unwrap().modified().unwrap();
        fs::write(&own, TEXT.replace("pipelock", "elsewher")).unwrap();
        let file = File::options().write(true).open(&own).unwrap();
        file.set_modified(modified).unwrap();
        let found = bench.look();
        let said = "wsomebody else changed client.env in the export; it was put back\0";
        assert_eq!(found, format!("l{place}\0{said}"));

        fs::remove_file(&own).unwrap();
        assert_eq!(bench.look(), format!("l{place}\0"));
        fs::write(&own, TEXT).unwrap();
        fs::write(alien, "{}").unwrap();
        let place = NAMES.iter().position(|it| *it == report::FILE).unwrap();
        assert!(bench.look().contains(&format!("l{place}\0")));
    }
}
