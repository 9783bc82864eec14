//! What the host gives each of the bundle's other daemons alone: the files of
//! `credentials/NAME/` beside the manifest, copied to memory in the run directory. Whoever
//! copies them is sent for that: a share may not answer, and PID 1 holds no secret. Touches
//! the file system.
//!
//! A set is written beside the one before and takes its name by one rename: who opens
//! `credentials/NAME` in the run directory has one set or the other. That name is a link, for
//! what Landlock grants is a directory and not its name: the one that the sets lie in stays.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown, symlink,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use zeroize::Zeroizing;

use crate::manifest::nearest;
use crate::plain;
use crate::policy::daemons::{Daemon, PIPELOCK};
use crate::sys::errand;
use crate::sys::files::{Access, FileError, Room};
use crate::sys::watch;

/// Of the manifest's directory and of the run directory.
pub const DIRECTORY: &str = "credentials";
/// The most files that one daemon is given, and their bytes: systemd's own limit.
const MOST_FILES: usize = 128;
const MOST_BYTES: usize = 1 << 20;
/// The most entries that are looked at: editors and Kubernetes leave some of their own.
const MOST_ENTRIES: usize = 2 * MOST_FILES;
/// What changes while it is read is read again so often, with pauses: a host replaces a file
/// at a time.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// linux/magic.h; nix has the other one's alone.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
/// Everybody may pass, and nobody may look who is there.
const PASSED: Access = Access {
    mode: 0o711,
    owner: None,
};

/// Where the host puts them.
#[must_use]
pub fn directory(manifest: &Path) -> PathBuf {
    manifest.with_file_name(DIRECTORY)
}

/// Where a daemon finds its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// For `CREDENTIALS_DIRECTORY`: another directory after each change.
    pub directory: PathBuf,
    /// For the sandbox: what all of those lie in.
    pub granted: PathBuf,
}

impl Place {
    /// That of the daemon of this name.
    #[must_use]
    pub fn of(name: &str, run_dir: &Path) -> Self {
        let all = run_dir.join(DIRECTORY);
        Self {
            directory: all.join(name),
            granted: all.join(kept_in(name)),
        }
    }

    /// Takes away what there is now; the place stays.
    fn empty(&self) {
        let _ = fs::remove_file(&self.directory);
        for set in entries(&self.granted) {
            erase(&set);
        }
    }

    /// Takes it away, once its daemon is gone.
    pub fn remove(&self) {
        self.empty();
        let _ = fs::remove_dir(&self.granted);
    }
}

/// No daemon's name has a dot.
fn kept_in(name: &str) -> String {
    format!("{name}.d")
}

/// While it lives, credentials may be in this run directory: none are before it, not those of an
/// init that was killed either, and none are after it.
pub struct Held<'a>(&'a Path);

impl<'a> Held<'a> {
    /// In the directory at `run_dir`.
    #[must_use]
    pub fn begin(run_dir: &'a Path) -> Self {
        let held = Self(run_dir);
        held.erase();
        held
    }

    fn erase(&self) {
        let all = self.0.join(DIRECTORY);
        for place in entries(&all) {
            for set in entries(&place) {
                erase(&set);
            }
        }
        let _ = fs::remove_dir_all(all);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.erase();
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    // Never through a link.
    let is_directory = fs::symlink_metadata(directory).is_ok_and(|it| it.is_dir());
    let entries = is_directory.then(|| fs::read_dir(directory).ok()).flatten();
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// A set is not even its owner's to write in. It is taken back first, for a root without
/// `CAP_FOWNER` and `CAP_DAC_OVERRIDE`.
fn erase(set: &Path) {
    if fs::symlink_metadata(set).is_ok_and(|it| it.is_dir()) {
        let (own, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let _ = lchown(set, Some(own.as_raw()), Some(group.as_raw()));
        let _ = fs::set_permissions(set, Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(set);
    }
}

/// The names of those who are given something, fit to be printed.
#[must_use]
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    let mut names: Vec<String> = names
        .filter(|name| !is_hidden(name))
        .take(MOST_ENTRIES)
        .map(|name| plain::line_of(name.as_bytes()))
        .collect();
    names.sort_unstable();
    names
}

/// Editors' copies, and the directories that Kubernetes swaps.
fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// What is told of `names` that no daemon has.
pub fn strangers<'a>(
    names: impl Iterator<Item = &'a str>,
    daemons: &[Daemon],
) -> impl Iterator<Item = String> {
    let is_known = |name: &&str| daemons.iter().any(|daemon| daemon.name == *name);
    names.filter(move |name| !is_known(name)).map(|name| {
        let known = daemons.iter().map(|daemon| daemon.name.as_str());
        let why = match nearest(name, known) {
            _ if name == PIPELOCK => "pipelock is given none".to_owned(),
            Some(near) => format!("no daemon has that name; did you mean {near}?"),
            None => "no daemon has that name".to_owned(),
        };
        format!("nobody is given {DIRECTORY}/{name}: {why}")
    })
}

/// What tells whether a daemon's files are those that were seen before; `None` where there is
/// nothing of its name.
type Mark = Option<u64>;

fn mark(directory: &Path, name: &str) -> Mark {
    let marks = watch::marks(&directory.join(name));
    let mut hasher = DefaultHasher::new();
    marks.hash(&mut hasher);
    (!marks.is_empty()).then(|| hasher.finish())
}

/// The marks of all that is there, for [`Seen::from_bytes`].
#[must_use]
pub fn marks(directory: &Path) -> Vec<u8> {
    let mut said = Vec::new();
    for name in names(directory) {
        if let Some(mark) = mark(directory, &name) {
            errand::add_part(&mut said, name.as_bytes());
            said.extend(mark.to_le_bytes());
        }
    }
    said
}

/// The marks that were seen last, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen(BTreeMap<String, u64>);

impl Seen {
    /// What [`marks`] said; as much of it as can be understood.
    #[must_use]
    pub fn from_bytes(mut said: &[u8]) -> Self {
        let mut seen = BTreeMap::new();
        while let Some((name, rest)) = errand::first_part(said)
            && let Some((mark, rest)) = rest.split_first_chunk()
        {
            let name = String::from_utf8_lossy(name).into_owned();
            seen.insert(name, u64::from_le_bytes(*mark));
            said = rest;
        }
        Self(seen)
    }

    /// That of this daemon.
    #[must_use]
    pub fn of(&self, name: &str) -> Mark {
        self.0.get(name).copied()
    }
}

/// What is to be copied, where from and for whom.
#[derive(Debug)]
pub struct Order<'a> {
    /// The manifest's path.
    pub manifest: &'a Path,
    /// The daemon's name.
    pub name: &'a str,
    /// The run directory's path.
    pub run_dir: &'a Path,
    /// The daemon's user and group, where files can be given to it.
    pub owner: Option<(u32, u32)>,
}

/// What was found, and is in its place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing is there, and what was there before is gone.
    Nothing,
    /// These; the mark of what was read.
    Files(u64),
}

/// How [`place`] answers.
const NOTHING: u8 = b'n';
const FILES: u8 = b'f';
const FAILED: u8 = b'e';

/// Copies what there is: the errand, whose answer is for [`answer`].
#[must_use]
pub fn place(order: &Order) -> Vec<u8> {
    match order.carry_out() {
        Ok(Found::Nothing) => vec![NOTHING],
        Ok(Found::Files(mark)) => [&[FILES][..], &mark.to_le_bytes()].concat(),
        Err(why) => [&[FAILED], why.as_bytes()].concat(),
    }
}

/// What [`place`] said; `None` where it was cut off. Why not is a sentence, with a hint where
/// the reader can act.
pub fn answer(said: Option<&[u8]>) -> Result<Found, String> {
    let said = said.and_then(<[u8]>::split_first);
    match said {
        Some((&NOTHING, [])) => Ok(Found::Nothing),
        Some((&FILES, mark)) if let Ok(mark) = mark.try_into() => {
            Ok(Found::Files(u64::from_le_bytes(mark)))
        }
        Some((&FAILED, why)) => Err(String::from_utf8_lossy(why).into_owned()),
        _ => Err("the process that copies credentials is lost".to_owned()),
    }
}

/// The files that were read.
type Set = Vec<(OsString, Zeroizing<Vec<u8>>)>;

impl Order<'_> {
    fn carry_out(&self) -> Result<Found, String> {
        let from = directory(self.manifest);
        for turn in 0..TRIES {
            if turn > 0 {
                std::thread::sleep(PAUSE);
            }
            // Its directories are read for that, which makes a share look at its host's side.
            let before = mark(&from, self.name);
            let set = self.read(&from);
            if mark(&from, self.name) != before {
                continue;
            }
            let place = Place::of(self.name, self.run_dir);
            let (Some(set), Some(mark)) = (set?, before) else {
                place.empty();
                return Ok(Found::Nothing);
            };
            self.put(&place, &set)?;
            return Ok(Found::Files(mark));
        }
        Err(format!(
            "cannot read {}: it changes while it is read",
            from.join(self.name).display()
        ))
    }

    /// What the host has there; `None` where there is nothing of that name.
    fn read(&self, from: &Path) -> Result<Option<Set>, String> {
        let whole = from.join(self.name);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let beside = match self.manifest.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let beside = open(beside, flags, Mode::empty()).map_err(|errno| refused(beside, errno))?;
        // Each a directory, or a link that stays where it is, as Kubernetes has them.
        let mut at = beside;
        for (name, path) in [(DIRECTORY, from), (self.name, &*whole)] {
            at = match open_below(&at, OsStr::new(name), flags) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) => return Err(refused(path, errno)),
            };
        }
        let mut listed =
            Dir::openat(&at, ".", flags, Mode::empty()).map_err(|errno| refused(&whole, errno))?;
        let mut set = Set::new();
        let mut left = MOST_BYTES;
        for (count, entry) in listed.iter().enumerate() {
            let entry = entry.map_err(|errno| refused(&whole, errno))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if count >= MOST_ENTRIES + 2 || set.len() > MOST_FILES {
                return Err(too_much(&whole, &format!("more than {MOST_FILES} files")));
            }
            if is_hidden(name) {
                continue;
            }
            let path = whole.join(name);
            let is_usual = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b':';
            if !name.as_bytes().iter().all(is_usual) {
                let why =
                    "its name has other characters than ASCII's without the colon\nhint: rename it";
                return Err(wrong(&path, why));
            }
            let file = open_below(&at, name, OFlag::O_RDONLY | NEVER_WAIT)
                .map_err(|errno| refused(&path, errno))?;
            let bytes = read_file(File::from(file), &path, left)?;
            let Some(less) = left.checked_sub(bytes.len()) else {
                return Err(too_much(&whole, "more than 1 MiB"));
            };
            left = less;
            set.push((name.to_owned(), bytes));
        }
        if set.len() > MOST_FILES {
            return Err(too_much(&whole, &format!("more than {MOST_FILES} files")));
        }
        Ok(Some(set))
    }

    /// Puts a set in its place, whole or not at all.
    fn put(&self, place: &Place, set: &Set) -> Result<(), String> {
        let told = |error: FileError| error.to_string();
        let all = Room::open(self.run_dir)
            .and_then(|run| run.make(DIRECTORY, PASSED))
            .map_err(told)?;
        insist_on_memory(self.name, all.path())?;
        let own = nix::unistd::geteuid().as_raw();
        let access = Access {
            mode: if self.owner.is_some() { 0o710 } else { 0o700 },
            owner: self.owner.map(|(_, group)| (own, group)),
        };
        all.make(&kept_in(self.name), access).map_err(told)?;
        let before = fs::read_link(&place.directory).ok();
        // Which of two it is now; the other one takes its turn.
        let is_first = before.is_some_and(|link| link.ends_with("1"));
        let turn = if is_first { "2" } else { "1" };
        let new = place.granted.join(turn);
        erase(&new);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| FileError::new("write", &path, error).to_string()
        };
        self.write(&new, set).map_err(|error| {
            erase(&new);
            failed(&new)(error)
        })?;
        let link = place.granted.join("link");
        let _ = fs::remove_file(&link);
        symlink(Path::new(&kept_in(self.name)).join(turn), &link)
            .and_then(|()| fs::rename(&link, &place.directory))
            .map_err(failed(&place.directory))?;
        for old in entries(&place.granted) {
            if old != new {
                erase(&old);
            }
        }
        Ok(())
    }

    fn write(&self, new: &Path, set: &Set) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(new)?;
        for (name, bytes) in set {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o400)
                .open(new.join(name))?;
            file.write_all(bytes)?;
            // Whatever the umask made of it. Before it is given away: a root without CAP_FOWNER
            // changes nothing that is another's.
            file.set_permissions(Permissions::from_mode(0o400))?;
            if let Some((user, group)) = self.owner {
                fchown(&file, Some(user), Some(group))?;
            }
        }
        fs::set_permissions(new, Permissions::from_mode(0o500))?;
        if let Some((user, group)) = self.owner {
            chown(new, Some(user), Some(group))?;
        }
        Ok(())
    }
}

/// A FIFO without a writer must not hang whoever reads, or a terminal become its own.
const NEVER_WAIT: OFlag = OFlag::O_NONBLOCK
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// Opens what `name` leads to, where that lies below `at`.
fn open_below(at: impl AsFd, name: &OsStr, flags: OFlag) -> Result<OwnedFd, Errno> {
    // Somebody may rename on the way again and again, but not for ever.
    const TRIES: usize = 8;
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(beneath);
    let mut opened = openat2(&at, name, how);
    for _ in 0..TRIES {
        match opened {
            Err(Errno::EAGAIN) => opened = openat2(&at, name, how),
            // Kernels before 5.6, gVisor, filters of old container runtimes: no links then.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                return openat(&at, name, flags | OFlag::O_NOFOLLOW, Mode::empty());
            }
            _ => break,
        }
    }
    opened
}

/// Reads a regular file; of one that is larger than `left` one byte more than that.
fn read_file(mut file: File, path: &Path, left: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error| FileError::new("read", path, error).to_string();
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        let why =
            "it is a directory\nhint: credentials are files, without directories of their own";
        return Err(wrong(path, why));
    }
    if !metadata.is_file() {
        return Err(wrong(path, "it is no regular file\nhint: put a file there"));
    }
    let most = left as u64 + 1;
    // Before it is filled, for what grows leaves copies behind.
    let expected = metadata.size().min(most).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(expected).unwrap_or_default(),
    ));
    Read::by_ref(&mut file)
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn insist_on_memory(name: &str, directory: &Path) -> Result<(), String> {
    let found = statfs(directory).map_err(|errno| refused(directory, errno))?;
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&found.filesystem_type()) {
        return Ok(());
    }
    let run_dir = directory.parent().unwrap_or(directory);
    let below = run_dir.parent().unwrap_or(run_dir);
    Err(format!(
        "cannot keep the credentials of {name} in {}: it is not on memory, and they would stay on its disk\n\
         hint: have a tmpfs there (a container: --tmpfs {}), or name a run directory on one with --run-dir \
         (below $XDG_RUNTIME_DIR or /dev/shm)",
        run_dir.display(),
        below.display()
    ))
}

fn refused(path: &Path, errno: Errno) -> String {
    match errno {
        Errno::EXDEV | Errno::ELOOP => wrong(
            path,
            "it is a link that leads out of its directory\nhint: put there what it leads to",
        ),
        Errno::ENOTDIR => wrong(
            path,
            "it is no directory\nhint: a daemon's credentials are the files of credentials/NAME beside the manifest",
        ),
        errno => FileError::new("read", path, errno.into()).to_string(),
    }
}

fn wrong(path: &Path, why: &str) -> String {
    FileError::new("read", path, io::Error::other(why)).to_string()
}

fn too_much(path: &Path, what: &str) -> String {
    wrong(
        path,
        &format!("it holds {what}, and a daemon is given {MOST_FILES} files and 1 MiB at most"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host's directory, and a run directory on memory.
    struct Bench(PathBuf);

    impl Bench {
        fn new(name: &str) -> Self {
            let own = format!("sidecar-credentials-{name}-{}", std::process::id());
            let bench = Self(Path::new("/dev/shm").join(own));
            fs::create_dir_all(bench.0.join("host/credentials/egress")).unwrap();
            fs::create_dir_all(bench.0.join("run")).unwrap();
            bench
        }

        fn from(&self, name: &str) -> PathBuf {
            self.0.join("host/credentials/egress").join(name)
        }

        fn place(&self) -> Place {
            Place::of("egress", &self.0.join("run"))
        }

        fn carry_out(&self) -> Result<Found, String> {
            let said = place(&Order {
                manifest: &self.0.join("host/manifest.yaml"),
                name: "egress",
                run_dir: &self.0.join("run"),
                owner: None,
            });
            answer(Some(&said))
        }

        fn refusal(&self) -> String {
            let before = fs::read_link(self.place().directory).ok();
            let why = self.carry_out().unwrap_err();
            assert_eq!(fs::read_link(self.place().directory).ok(), before, "{why}");
            why.replace(&*self.from("").to_string_lossy(), "E/")
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            drop(Held(&self.0.join("run")));
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_set_is_placed_replaced_and_taken_away() {
        let bench = Bench::new("placed");
        let place = bench.place();
        let read = |name: &str| fs::read_to_string(place.directory.join(name));
        fs::write(bench.from("a"), "one").unwrap();
        fs::write(bench.from(".a.swp"), "hidden").unwrap();
        let Found::Files(first) = bench.carry_out().unwrap() else {
            panic!("there are files");
        };
        assert_eq!(read("a").unwrap(), "one");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&place.directory), 0o500);
        assert_eq!(mode(&place.directory.join("a")), 0o400);
        assert_eq!(fs::read_dir(&place.directory).unwrap().count(), 1);
        let seen = || Seen::from_bytes(&marks(&bench.0.join("host/credentials")));
        assert_eq!(seen().of("egress"), Some(first));

        fs::remove_file(bench.from("a")).unwrap();
        fs::write(bench.from("b"), "two").unwrap();
        assert_ne!(seen().of("egress"), Some(first));
        assert!(matches!(bench.carry_out(), Ok(Found::Files(second)) if second != first));
        assert!(read("a").is_err());
        assert_eq!(read("b").unwrap(), "two");
        assert_eq!(fs::read_dir(&place.granted).unwrap().count(), 1);

        fs::remove_dir_all(bench.from("")).unwrap();
        assert_eq!(bench.carry_out(), Ok(Found::Nothing));
        assert_eq!(seen().of("egress"), None);
        assert!(!place.directory.exists());
        assert_eq!(fs::read_dir(&place.granted).unwrap().count(), 0);
        place.remove();
        assert!(!place.granted.exists());
    }

    #[test]
    fn whoever_reads_meanwhile_has_one_set_whole_or_the_other() {
        let bench = Bench::new("atomic");
        let fill = |round: usize| {
            for name in ["a", "b"] {
                fs::write(bench.from(name), round.to_string().repeat(9999)).unwrap();
            }
            bench.carry_out().unwrap();
        };
        fill(0);
        let directory = bench.place().directory;
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let over = || is_over.load(std::sync::atomic::Ordering::Relaxed);
        let whole = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut whole = 0;
                while !over() {
                    // One that was found may be gone before it is opened: who asks again has
                    // the other.
                    let opened = File::open(&directory).or_else(|_| File::open(&directory));
                    let Ok(set) = opened else {
                        continue;
                    };
                    let read = |name: &str| {
                        let opened = openat(&set, name, OFlag::O_RDONLY, Mode::empty())?;
                        let mut text = String::new();
                        File::from(opened).read_to_string(&mut text)?;
                        Ok::<_, io::Error>(text)
                    };
                    // A set that was replaced may be gone; it is never another one.
                    let (Ok(a), Ok(b)) = (read("a"), read("b")) else {
                        continue;
                    };
                    assert_eq!(a, b);
                    assert!(!a.is_empty() && a.len().is_multiple_of(9999));
                    whole += 1;
                }
                whole
            });
            for round in 1..300 {
                fill(round);
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert!(whole > 0);
    }

    #[test]
    fn a_link_is_followed_where_it_stays_inside_as_kubernetes_has_them() {
        // A volume of this daemon's, and one of all daemons', with the manifest or without.
        for (volume, visible) in [
            ("host/credentials/egress", "token"),
            ("host/credentials", "egress"),
            ("host", "credentials"),
        ] {
            let bench = Bench::new(&visible.replace('/', "-"));
            fs::remove_dir_all(bench.0.join("host")).unwrap();
            let volume = bench.0.join(volume);
            let fill = |data: &str, token: &str| {
                let whole = match visible {
                    "token" => PathBuf::from("token"),
                    "egress" => "egress/token".into(),
                    _ => "credentials/egress/token".into(),
                };
                let path = volume.join(data).join(whole);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, token).unwrap();
                symlink(data, volume.join("..new")).unwrap();
                fs::rename(volume.join("..new"), volume.join("..data")).unwrap();
            };
            fill("..1", "one");
            symlink(Path::new("..data").join(visible), volume.join(visible)).unwrap();
            let read = || fs::read_to_string(bench.place().directory.join("token")).unwrap();
            let before = bench.carry_out().unwrap();
            assert_eq!(read(), "one", "{visible}");
            fill("..2", "two");
            assert_ne!(bench.carry_out().unwrap(), before, "{visible}");
            assert_eq!(read(), "two", "{visible}");
        }
    }

    #[test]
    fn what_cannot_be_given_whole_is_not_given_and_says_why() {
        let bench = Bench::new("refused");
        let name = bench.from("x");
        let outside = bench.0.join("host/outside");
        fs::write(&outside, "another's").unwrap();
        for target in [&*outside, Path::new("../../outside"), Path::new("x")] {
            symlink(target, &name).unwrap();
            let why = bench.refusal();
            assert_eq!(
                why,
                "cannot read E/x: it is a link that leads out of its directory\nhint: put there what it leads to"
            );
            fs::remove_file(&name).unwrap();
        }
        nix::unistd::mkfifo(&name, Mode::S_IRWXU).unwrap();
        let why = bench.refusal();
        assert!(
            why.starts_with("cannot read E/x: it is no regular file\n"),
            "{why}"
        );
        fs::remove_file(&name).unwrap();
        fs::create_dir(&name).unwrap();
        let why = bench.refusal();
        assert!(
            why.starts_with("cannot read E/x: it is a directory\n"),
            "{why}"
        );
        fs::remove_dir(&name).unwrap();
        fs::write(bench.from("a:b"), "x").unwrap();
        let why = bench.refusal();
        assert!(why.starts_with("cannot read E/a:b: its name has "), "{why}");
        fs::remove_file(bench.from("a:b")).unwrap();

        fs::write(&name, vec![b'x'; MOST_BYTES]).unwrap();
        assert!(matches!(bench.carry_out(), Ok(Found::Files(_))));
        fs::write(bench.from("y"), "y").unwrap();
        let why = bench.refusal();
        assert!(why.contains("it holds more than 1 MiB"), "{why}");
        fs::remove_file(&name).unwrap();
        for number in 1..MOST_FILES {
            fs::write(bench.from(&number.to_string()), "").unwrap();
        }
        assert!(matches!(bench.carry_out(), Ok(Found::Files(_))));
        fs::write(&name, "").unwrap();
        let why = bench.refusal();
        assert!(why.contains("it holds more than 128 files"), "{why}");

        fs::remove_dir_all(bench.from("")).unwrap();
        fs::write(bench.0.join("host/credentials/egress"), "x").unwrap();
        let why = bench.refusal();
        assert!(why.contains("it is no directory\nhint: "), "{why}");
    }

    #[test]
    fn what_is_for_nobody_is_told_with_the_nearest_name() {
        let text = "slug: x\nbottle: {}\ndaemons: {egress: {exec: [/e]}}\n";
        let daemons = crate::policy::read(text.as_bytes(), true, 0).unwrap();
        let names = ["egress", "egres", "other", "pipelock"];
        let told: Vec<_> = strangers(names.into_iter(), &daemons.policy.daemons).collect();
        assert_eq!(
            told,
            [
                "nobody is given credentials/egres: no daemon has that name; did you mean egress?",
                "nobody is given credentials/other: no daemon has that name",
                "nobody is given credentials/pipelock: pipelock is given none",
            ]
        );
    }

    #[test]
    fn an_answer_that_was_cut_off_is_none() {
        for said in [None, Some(&b""[..]), Some(b"f123"), Some(b"nx"), Some(b"?")] {
            assert_eq!(
                answer(said),
                Err("the process that copies credentials is lost".to_owned())
            );
        }
    }
}
