//! The bundle's other daemons: what each is to run, when, with which rights, and what differs
//! between two manifests. Pure.

mod credential;
mod judging;
mod order;
mod values;
mod words;

use std::path::{Path, PathBuf};

use crate::environment;
use crate::manifest::{Element, Kind, Name, Position, Scalar};
pub use words::{Shown, in_words, shown};

/// The daemon that is built in: what the others are after, unless they say otherwise.
pub const PIPELOCK: &str = "pipelock";

/// The user of the first daemon of a manifest; those of the others are below it.
pub const FIRST_USER: u32 = 65533;

/// The last of the users that are given to daemons, by turns where a boot has seen more names.
pub const LAST_USER: u32 = FIRST_USER - 63;

/// What a machine needs besides what its daemons may have, in MiB: the whole bundle boots and
/// serves in 72 (docs/benchmarks.md), of which the kernel has some before anybody counts.
pub const NEEDED_MIB: u64 = 64;

/// The least memory that a daemon can be given, in MiB: less is lost before its first line.
const LEAST_MIB: u32 = 4;

/// Names that are not to be had, and whose they are.
const TAKEN: &[(&str, &str)] = &[
    ("client", "the name of the directory of what daemons trust"),
    ("credentials", "the name of the directory of secrets"),
    (
        "export",
        "the name of the directory that the host is told in",
    ),
    ("localhost", "the machine's name for itself"),
    ("lock", "the name of the init's lock"),
    (
        "notify",
        "the name of the directory of the sockets by which daemons say that they are ready",
    ),
    ("sidecar-init", "the init's own name"),
];

/// The variables that every daemon is given, by sd_notify(3) and systemd.exec(5).
pub const ALWAYS_SET: &[&str] = &[
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Where, unless the command line says otherwise, things are that no daemon may read by `files`.
pub const KEPT: &[&str] = &[
    "/run/sidecar",
    "/etc/sidecar",
    "/etc/pipelock-ca-key.pem",
    "/var/lib/sidecar",
    // `/var/run` is another name of `/run`.
    "/var/run/sidecar",
];

/// One of the bundle's other daemons, as its manifest wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// A label of a host name, of at most 32 characters, unique and not [`PIPELOCK`].
    pub name: String,
    /// The program, an absolute path without `..`, then its arguments, without NUL.
    pub exec: Vec<String>,
    /// Ports it may bind, from 1024 on; no other daemon's, and not pipelock's.
    pub listen: Vec<u16>,
    /// Ports it may connect to; pipelock's own among them where that is its proxy.
    pub connect: Vec<u16>,
    /// When it is ready.
    pub ready: Ready,
    /// The agent's proxy is this port, one of `listen`. One daemon at most has it, and that is
    /// essential; pipelock listens on the loopback alone then.
    pub agent_proxy: Option<u16>,
    /// What agents trust for it, below its own directory: a relative path without `..`.
    pub agent_ca: Option<PathBuf>,
    /// More of its environment: no name twice, and none of those that the init sets.
    pub env: Vec<(String, String)>,
    /// What it reads besides its program and libraries: absolute paths, apart from [`KEPT`].
    pub files: Vec<PathBuf>,
    /// The most memory it may have, in MiB.
    pub memory_mib: Option<u32>,
    /// The names of those that are ready before it begins; [`PIPELOCK`] may be one. No circle.
    pub after: Vec<String>,
    /// Whether the bundle ends when it cannot live.
    pub essential: bool,
    /// Whether it is given pipelock as its proxy, and trust in its CA.
    pub proxy: bool,
    /// The user it runs as, which no other has; see [`Users`].
    pub user: u32,
}

/// When a daemon is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ready {
    /// When its program runs.
    #[default]
    Exec,
    /// When this port, one of its own, takes connections.
    Tcp(u16),
    /// When a request over HTTP is answered well.
    Http {
        /// One of its own ports.
        port: u16,
        /// The path, which starts with a slash and has neither blanks nor control characters.
        path: String,
    },
    /// When it says so to its `NOTIFY_SOCKET`, sd_notify(3).
    Notify,
}

/// Whether a daemon is given this variable for pipelock, its proxy, unless `proxy: false`: what
/// clients are given for theirs.
#[must_use]
pub fn is_set_for_the_proxy(variable: &str) -> bool {
    let given = environment::of_clients("", "");
    given.iter().any(|(name, _)| name == variable)
}

/// Whether the init sets this variable for a daemon, so that its manifest cannot.
#[must_use]
pub fn is_set_by_the_init(variable: &str, proxy: bool) -> bool {
    ALWAYS_SET.contains(&variable) || proxy && is_set_for_the_proxy(variable)
}

/// The one of these places that would be read with `path`: what it is, is in, or holds.
pub fn kept_from<'a>(path: &Path, places: impl IntoIterator<Item = &'a Path>) -> Option<&'a Path> {
    let mut places = places.into_iter();
    places.find(|place| path.starts_with(place) || place.starts_with(path))
}

/// How many MiB are lacking for what the daemons may have and [`NEEDED_MIB`], on a machine
/// with so many bytes.
#[must_use]
pub fn lacking_mib(daemons: &[Daemon], memory: u64) -> Option<u64> {
    let claimed: u64 = daemons
        .iter()
        .filter_map(|daemon| daemon.memory_mib)
        .map(u64::from)
        .sum();
    let there = memory >> 20;
    // Who asks for nothing is given what there is.
    (claimed > 0)
        .then(|| (claimed + NEEDED_MIB).checked_sub(there))
        .flatten()
        .filter(|lacking| *lacking > 0)
}

/// Which names have had which users since the boot. A name keeps its user, so that a daemon
/// that is added or taken away restarts no other; a name that is new gets a user that nobody
/// has had, while there are such, so that what a former daemon left is nobody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users {
    /// What was used last is last.
    given: Vec<(String, u32)>,
}

impl Users {
    /// Gives each daemon its user. The first time those are the manifest's own, in the order of
    /// its file.
    pub fn keep(&mut self, daemons: &mut [Daemon]) {
        // By the users that were given by its place in the file, a new one gets the next.
        let mut order: Vec<usize> = (0..daemons.len()).collect();
        order.sort_unstable_by_key(|index| daemons.get(*index).map(|daemon| !daemon.user));
        let names: Vec<String> = daemons.iter().map(|daemon| daemon.name.clone()).collect();
        for index in order {
            if let Some(daemon) = daemons.get_mut(index) {
                daemon.user = self.of(&daemon.name, &names);
            }
        }
    }

    /// The user of `name`, where `names` are all that have one now.
    fn of(&mut self, name: &str, names: &[String]) -> u32 {
        let own = self.given.iter().position(|(known, _)| known == name);
        let is_free = |user: &u32| self.given.iter().all(|(_, given)| given != user);
        let user = if let Some(own) = own {
            self.given.remove(own).1
        } else if let Some(free) = (LAST_USER..=FIRST_USER).rev().find(is_free) {
            free
        } else {
            let idle = |(known, _): &(String, u32)| !names.contains(known);
            let oldest = self.given.iter().position(idle).unwrap_or_default();
            self.given.remove(oldest).1
        };
        self.given.push((name.to_owned(), user));
        user
    }
}

/// What to write in a list of these instead of a text that stands in its place.
pub(super) fn listed(element: Element, word: &str) -> Option<String> {
    match element {
        Element::Port => {
            let port = word.parse::<u16>().ok().filter(|port| *port > 0)?;
            Some(port.to_string())
        }
        Element::File => word.starts_with('/').then(|| in_yaml(word))?,
        Element::Daemon => is_label(word).then(|| word.to_owned()),
        _ => in_yaml(word),
    }
}

/// What to write instead of an alias that was meant for a text.
pub(super) fn in_quotes(text: &str) -> Option<String> {
    is_plain(text).then(|| format!("put it in quotes: \"{text}\""))
}

/// A text as an entry of a list in brackets; none where it would have to be escaped.
fn in_yaml(text: &str) -> Option<String> {
    let unquoted = Scalar {
        text: text.into(),
        plain: true,
        at: Position::default(),
    };
    let usual = |c: char| c.is_ascii_alphanumeric() || "_./=+-".contains(c);
    let starts = |c: char| c.is_ascii_alphanumeric() || c == '/';
    // One hyphen by itself, or with a blank behind it, would begin a list.
    let begins = text.trim_start_matches('-').starts_with(starts);
    let is_word = begins && text.chars().all(usual) && unquoted.kind() == Kind::Text;
    if is_word {
        Some(text.to_owned())
    } else {
        is_plain(text).then(|| format!("\"{text}\""))
    }
}

/// Whether a text stands in double quotes as it is.
fn is_plain(text: &str) -> bool {
    !text.contains(['"', '\'', '\\']) && !text.chars().any(char::is_control)
}

fn is_label(text: &str) -> bool {
    let usual = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=Name::LONGEST).contains(&text.len()) && text.bytes().all(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemons(text: &str) -> Vec<Daemon> {
        let text = format!("slug: x\nbottle: {{}}\ndaemons:\n{text}");
        let read = crate::policy::read(text.as_bytes(), true, 0);
        read.unwrap_or_else(|refused| panic!("{}", refused.in_words("m")))
            .policy
            .daemons
    }

    const THREE: &str = "  a: {exec: [/a]}\n  b: {exec: [/b], after: [c]}\n  c: {exec: [/c]}\n";

    #[test]
    fn nobody_has_a_name_that_stands_in_the_run_directory() {
        for name in [
            crate::status::export::DIRECTORY,
            crate::sys::claim::FILE,
            crate::daemon::pipelock::said::OUR_PREFIX.trim_end_matches(':'),
        ] {
            assert!(TAKEN.iter().any(|(taken, _)| *taken == name), "{name}");
        }
        // What else stands there has a dot in its name, which a label has not.
        for name in [
            crate::status::schema::FILE,
            crate::status::report::FILE,
            crate::status::denials::FILE,
            crate::status::metrics::FILE,
            crate::daemon::pipelock::CONFIG,
        ] {
            assert!(name.contains('.'), "{name}");
        }
    }

    #[test]
    fn a_manifest_that_changes_leaves_the_daemons_that_it_does_not_mean_as_they_are() {
        let old = daemons(THREE);
        let same = |text: &str| {
            let mut users = Users::default();
            users.keep(&mut old.clone());
            let mut new = daemons(text);
            users.keep(&mut new);
            let same = new.iter().filter(|it| old.contains(it));
            let names: Vec<&str> = same.map(|it| it.name.as_str()).collect();
            names.join(" ")
        };
        for (text, wanted) in [
            (THREE, "a c b"),
            // One that comes before them in the file takes nobody's user.
            (&*format!("  n: {{exec: [/n]}}\n{THREE}"), "a c b"),
            ("  b: {exec: [/b], after: [c]}\n  c: {exec: [/c]}\n", "c b"),
            ("  a: {exec: [/a, x]}\n", ""),
            (
                "  a: {exec: [/a]}\n  b: {exec: [/b], after: [a, c]}\n  c: {exec: [/c]}\n",
                "a c",
            ),
            ("  z: {exec: [/a]}\n", ""),
        ] {
            assert_eq!(same(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_name_keeps_its_user_and_no_two_have_one() {
        let mut users = Users::default();
        let mut first = daemons(THREE);
        let as_written = first.clone();
        users.keep(&mut first);
        assert_eq!(first, as_written);
        let user = |all: &[Daemon], name: &str| {
            let found = all.iter().find(|daemon| daemon.name == name);
            found.unwrap().user
        };
        // The last of them goes, and a new one does not get what it left behind.
        let mut next = daemons("  n: {exec: [/n]}\n  a: {exec: [/a]}\n");
        users.keep(&mut next);
        assert_eq!((user(&next, "a"), user(&next, "n")), (65533, 65530));
        let mut back = daemons(THREE);
        users.keep(&mut back);
        assert_eq!(back, first);
        // More names than users: those that rest longest are asked first.
        for turn in 0..1000 {
            let text: String = (0..8)
                .map(|n| format!("  d{}: {{exec: [/x]}}\n", turn * 3 + n))
                .collect();
            let before = users.clone();
            let mut all = daemons(&text);
            users.keep(&mut all);
            let mut given: Vec<u32> = all.iter().map(|daemon| daemon.user).collect();
            given.sort_unstable();
            given.dedup();
            assert_eq!(given.len(), 8, "{text}");
            let range = LAST_USER..=FIRST_USER;
            assert!(given.iter().all(|user| range.contains(user)));
            for daemon in &all {
                let known = before.given.iter().find(|(name, _)| *name == daemon.name);
                assert!(known.is_none_or(|(_, user)| *user == daemon.user));
            }
        }
        assert_eq!(users.given.len(), 64);
    }

    #[test]
    fn nothing_is_read_that_is_a_secret_is_in_one_or_holds_one() {
        let places = || KEPT.iter().map(Path::new);
        for (path, kept) in [
            ("/usr/lib/python3", None),
            ("/etc/ssl/certs", None),
            ("/etc/pipelock-ca.pem", None),
            ("/etc/sidecarx", None),
            ("/etc", Some("/etc/sidecar")),
            ("/", Some("/run/sidecar")),
            ("/run", Some("/run/sidecar")),
            ("/run/sidecar/status.json", Some("/run/sidecar")),
            ("/var", Some("/var/lib/sidecar")),
            ("/var/run", Some("/var/run/sidecar")),
            ("/var/run/sidecar/x", Some("/var/run/sidecar")),
            ("/var/runner", None),
            ("/etc/pipelock-ca-key.pem", Some("/etc/pipelock-ca-key.pem")),
        ] {
            let found = kept_from(Path::new(path), places());
            assert_eq!(found, kept.map(Path::new), "{path}");
        }
    }
}
