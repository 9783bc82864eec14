//! What a daemon may be: decided before the fork, applied between fork and exec,
//! read back from `/proc`. Touches the kernel.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod descriptors;
pub mod enter;
pub mod landlock;
pub mod seccomp;
mod unexecuted;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, setsid, write};

use crate::sys::confine::{enter_landlock, has_filters};
use crate::sys::credentials;
use crate::sys::executable;
use crate::sys::files::read_kernel_file;
use crate::sys::process::sees_processes;
use crate::sys::reaper;
use cgroup::{Group, GroupError};
use landlock::{Grants, LandlockError};
use seccomp::{FilterError, Filters, Profile};

/// pipelock's user and group, "nobody" on every Linux. The users of the other daemons are
/// counted down from here.
pub const DAEMON_ID: u32 = 65534;

/// What the init itself is allowed to do to its child, and the kernel able to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// May become the daemon's user: effective `CAP_SETUID` and `CAP_SETGID`, in a user
    /// namespace that knows that user and lets groups be set.
    pub set_identity: bool,
    /// What can become of the bounding set.
    pub bounding: Bounding,
    /// The init's own user, the daemon's where it cannot be changed.
    pub own_uid: u32,
    /// The init's own group.
    pub own_gid: u32,
    /// The version of the kernel's Landlock; 0 where there is none.
    pub landlock: u32,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// Filters the init itself is under, where the kernel counts them (Linux 5.9).
    pub own_filters: Option<usize>,
}

/// The capability bounding set: what any process below may ever gain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounding {
    /// It can be emptied: effective `CAP_SETPCAP`.
    Droppable,
    /// It is empty already: `--cap-drop=all` of a container engine.
    Empty,
    /// It has to stay as it is.
    Kept,
}

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;

impl Privileges {
    /// Reads them from the kernel.
    #[must_use]
    pub fn of_this_process() -> Self {
        let effective = credentials::effective_capabilities();
        let has = |capability: u32| effective & (1_u64 << capability) != 0;
        let own = read_kernel_file("/proc/self/status").unwrap_or_default();
        Self {
            set_identity: has(CAP_SETUID) && has(CAP_SETGID) && id_exists(DAEMON_ID),
            bounding: if field(&own, "CapBnd").is_some_and(|set| set == NO_CAPABILITIES) {
                Bounding::Empty
            } else if has(CAP_SETPCAP) {
                Bounding::Droppable
            } else {
                Bounding::Kept
            },
            own_uid: nix::unistd::geteuid().as_raw(),
            own_gid: nix::unistd::getegid().as_raw(),
            landlock: landlock::level(),
            seccomp: has_filters(),
            own_filters: field(&own, FILTERS).and_then(|count| count.parse().ok()),
        }
    }
}

/// An empty set in `/proc/<pid>/status`.
const NO_CAPABILITIES: &str = "0000000000000000";
/// How many filters a process is under, in `/proc/<pid>/status`.
const FILTERS: &str = "Seccomp_filters";
/// Whether this user namespace has this id, as user and as group, and lets groups be
/// dropped (`user_namespaces(7)`). A rootless container may have one user only.
fn id_exists(id: u32) -> bool {
    let read = |name: &str| read_kernel_file(format!("/proc/self/{name}"));
    // Without /proc nothing is known, and a root that lacks it is most likely a real one.
    let mapped = |name: &str| read(name).map_or(true, |map| maps(&map, id));
    mapped("uid_map")
        && mapped("gid_map")
        && read("setgroups").map_or(true, |word| word.trim() != "deny")
}

/// Whether a `uid_map` (lines of first id inside, first id outside, count) has `id` inside.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => {
                (first..first.saturating_add(count)).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// What a daemon gets, and what it could not be given.
#[derive(Debug, Clone)]
pub struct Sandbox {
    profile: Profile,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    change_identity: bool,
    bounding: Bounding,
    /// The Landlock version whose rules it lives under; 0 for none.
    pub landlock: u32,
    /// Its system calls are filtered.
    pub seccomp: bool,
    own_filters: Option<usize>,
    /// Its control group: machine mode's; elsewhere that is the runtime's job.
    pub group: Option<Group>,
    /// Sentences for the status: what the init was not privileged enough to do, and
    /// the kernel not able to. [`Sandbox::missing_for`] adds what a program costs.
    pub missing: Vec<String>,
}

/// What was made before the fork, for the child to enter.
#[derive(Debug)]
pub struct Prepared {
    rules: Option<OwnedFd>,
    filters: Option<Filters>,
    group: Option<OwnedFd>,
    /// Sentences: what this start does not have. The program is judged once for this and
    /// for the rules, because it may be another one at the next start.
    pub missing: Vec<String>,
}

/// What has to exist before the fork and could not be made.
#[derive(Debug)]
pub enum PrepareError {
    /// The rules for files and ports.
    Landlock(LandlockError),
    /// The filter of system calls.
    Filters(FilterError),
    /// The way into the control group.
    Group(GroupError),
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Landlock(error) => error.fmt(f),
            Self::Filters(error) => error.fmt(f),
            Self::Group(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PrepareError {}

impl From<LandlockError> for PrepareError {
    fn from(error: LandlockError) -> Self {
        Self::Landlock(error)
    }
}

impl From<FilterError> for PrepareError {
    fn from(error: FilterError) -> Self {
        Self::Filters(error)
    }
}

impl From<GroupError> for PrepareError {
    fn from(error: GroupError) -> Self {
        Self::Group(error)
    }
}

/// A sandbox of which something is missing that is insisted on.
#[derive(Debug)]
pub struct Incomplete(Vec<String>);

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot start the daemon without its whole sandbox: {}\nhint: without --require-sandbox, or in a \
             machine with sidecar.require-sandbox=no on its kernel command line, it starts all the same",
            self.0.join("; ")
        )
    }
}

impl std::error::Error for Incomplete {}

/// What a companion has in common with the daemons that have its user, where it cannot have
/// one of its own: the rest Landlock keeps apart, or is said to be missing by itself.
const SHARED: &str = "it may change the modes of their files and use their local sockets, and pipelock may read \
                      its directory and credentials";

impl Sandbox {
    /// The tightest sandbox that these privileges allow to pipelock.
    #[must_use]
    pub fn plan(privileges: Privileges) -> Self {
        let mut missing = Vec::new();
        if !privileges.set_identity && privileges.own_uid == 0 {
            missing.push(
                "the daemon runs as root: changing user needs CAP_SETUID and CAP_SETGID, \
                 and a user namespace in which uid and gid 65534 exist"
                    .to_owned(),
            );
        } else if !privileges.set_identity && privileges.own_uid != DAEMON_ID {
            missing.push(format!(
                "the daemon runs as uid {}, like the init: changing user needs CAP_SETUID and CAP_SETGID",
                privileges.own_uid
            ));
        }
        if privileges.bounding == Bounding::Kept {
            missing.push(UNBOUNDED.to_owned());
        }
        missing.extend(unrestricted(privileges.landlock));
        if !privileges.seccomp {
            missing.push(UNFILTERED.to_owned());
        }
        Self {
            profile: Profile::Pipelock,
            uid: if privileges.set_identity {
                DAEMON_ID
            } else {
                privileges.own_uid
            },
            gid: if privileges.set_identity {
                DAEMON_ID
            } else {
                privileges.own_gid
            },
            change_identity: privileges.set_identity,
            bounding: privileges.bounding,
            landlock: privileges.landlock,
            seccomp: privileges.seccomp,
            own_filters: privileges.own_filters,
            group: None,
            missing,
        }
    }

    /// The tightest sandbox that the same privileges, those of pipelock's sandbox, allow to
    /// another daemon: a user and a group of its own, of the same number, and a control
    /// group of its own. Looks whether that user exists here.
    #[must_use]
    pub fn companion(&self, user: u32, group: Option<Group>, profile: Profile) -> Self {
        let exists = self.change_identity && id_exists(user);
        self.companion_as(exists.then_some(user), user, group, profile)
    }

    /// `own`: the wanted user, where it can be had.
    fn companion_as(
        &self,
        own: Option<u32>,
        wanted: u32,
        group: Option<Group>,
        profile: Profile,
    ) -> Self {
        let mut missing = Vec::new();
        match own {
            Some(_) => {}
            None if self.change_identity => missing.push(format!(
                "the daemon runs as uid {}, like pipelock: uid and gid {wanted} do not exist in this user \
                 namespace; {SHARED}",
                self.uid
            )),
            None if self.uid == 0 => missing.push(format!(
                "the daemon runs as root, like the init and pipelock: changing user needs CAP_SETUID and \
                 CAP_SETGID, and a user namespace in which uid and gid {wanted} exist; {SHARED}"
            )),
            None => missing.push(format!(
                "the daemon runs as uid {}, like the init and pipelock: changing user needs CAP_SETUID and \
                 CAP_SETGID; {SHARED}",
                self.uid
            )),
        }
        if self.bounding == Bounding::Kept {
            missing.push(UNBOUNDED.to_owned());
        }
        missing.extend(unrestricted_companion(self.landlock));
        if !self.seccomp {
            missing.push(UNFILTERED.to_owned());
        }
        Self {
            profile,
            uid: own.unwrap_or(self.uid),
            gid: own.unwrap_or(self.gid),
            group,
            missing,
            ..self.clone()
        }
    }

    /// What a daemon of this program does not have: a pipelock that is not static runs others.
    #[must_use]
    pub fn missing_for(&self, program: &Path) -> Vec<String> {
        self.missing_with(program, executable::is_static(program))
    }

    fn missing_with(&self, program: &Path, alone: bool) -> Vec<String> {
        let mut missing = self.missing.clone();
        // Of an interpreter, which a companion may well be, that is what it is.
        let is_pipelock = self.profile == Profile::Pipelock;
        if is_pipelock && self.landlock >= landlock::FILES && !alone {
            missing.push(format!(
                "the daemon may read and execute everything in /usr and /lib: {} is not a static program",
                program.display()
            ));
        }
        missing
    }

    /// Makes everything that has to exist before the fork.
    pub fn prepare(&self, grants: &Grants) -> Result<Prepared, PrepareError> {
        let is_alone = |program: &PathBuf| program.is_file() && executable::is_static(program);
        let alone = executable::is_static(&grants.program) && grants.execute.iter().all(is_alone);
        let rules = if self.landlock >= landlock::FILES {
            landlock::rules(grants, alone, self.profile)?
        } else {
            None
        };
        let filters = if self.seccomp {
            Some(Filters::compile(self.profile)?)
        } else {
            None
        };
        let group = match &self.group {
            Some(group) => Some(group.entrance()?),
            None => None,
        };
        Ok(Prepared {
            rules,
            filters,
            group,
            missing: self.missing_with(&grants.program, alone),
        })
    }

    /// The owner for files the daemon alone may read; `None` where the init cannot
    /// give files away and the daemon is the same user anyway.
    #[must_use]
    pub fn file_owner(&self) -> Option<(u32, u32)> {
        self.change_identity.then_some((self.uid, self.gid))
    }

    /// The daemon's user and group.
    #[must_use]
    pub fn user(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Applies it to the calling process. Only for the child between fork and exec:
    /// calls nothing that allocates or locks.
    pub(super) fn apply(&self, prepared: &Prepared) -> Result<(), (Step, Errno)> {
        let at = |step| move |errno| (step, errno);
        // ESRCH and EPERM cannot be: a forked child leads no process group.
        let _ = setsid();
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
        if let Some(group) = &prepared.group {
            // "0" is the writer itself (cgroup v2, cgroup.procs).
            write(group, b"0").map_err(at(Step::ControlGroup))?;
            // PID 1's own -1000 is inherited. Raised while still privileged, so that
            // the daemon cannot lower it again (proc_pid_oom_score_adj(5)).
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            open(c"/proc/self/oom_score_adj", flags, Mode::empty())
                .and_then(|score| write(score, b"0"))
                .map_err(at(Step::OomScore))?;
        }
        // All it may have: what it runs out of first, if its clients hold connections. A
        // refusal leaves it as it was.
        if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        }
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(at(Step::CoreSize))?;
        chdir(c"/").map_err(at(Step::WorkingDirectory))?;
        if self.bounding == Bounding::Droppable {
            credentials::drop_bounding().map_err(at(Step::BoundingSet))?;
        }
        credentials::drop_ambient();
        if self.change_identity {
            credentials::drop_groups().map_err(at(Step::Groups))?;
            credentials::become_group(self.gid).map_err(at(Step::Group))?;
            credentials::become_user(self.uid).map_err(at(Step::User))?;
        }
        credentials::drop_capabilities().map_err(at(Step::Capabilities))?;
        set_no_new_privs().map_err(at(Step::NoNewPrivileges))?;
        if let Some(rules) = &prepared.rules {
            enter_landlock(rules.as_fd()).map_err(at(Step::Landlock))?;
        }
        // Last, for it denies some of what stands above.
        if let Some(filters) = &prepared.filters {
            filters.install().map_err(at(Step::SystemCalls))?;
        }
        Ok(())
    }

    /// What can be seen of `pid` from outside: [`Sandbox::compare`], whether the kernel
    /// counts it to its control group, and what it inherited.
    #[must_use]
    pub fn read_back(&self, pid: i32) -> Seen {
        if let Err(why) = sees_processes() {
            return Seen::Nothing(why.to_string());
        }
        let status = match read_kernel_file(format!("/proc/{pid}/status")) {
            Ok(status) => status,
            Err(_) if reaper::has_ended(pid) => return Seen::Ended,
            Err(error) => return Seen::Nothing(format!("/proc does not show it: {error}")),
        };
        let mut holes = self
            .compare(&status)
            .err()
            .map_or_else(Vec::new, |mismatch| mismatch.0);
        if self.group.as_ref().is_some_and(|group| !group.holds(pid)) {
            holes.push("it is outside its control group".to_owned());
        }
        // Unlike the above, a right that a container's root does not have: there the child's
        // own word counts, which executes nothing before it has closed everything.
        holes.extend(descriptors::inherited_by(pid).unwrap_or_default());
        if holes.is_empty() {
            Seen::Confined
        } else {
            Seen::Holes(Mismatch(holes))
        }
    }

    /// Compares `/proc/<pid>/status`, as text, with what was applied. All
    /// differences are named.
    pub fn compare(&self, proc_status: &str) -> Result<(), Mismatch> {
        let mut differences = Vec::new();
        let mut expect = |name: &str, wanted: &str| {
            let found = field(proc_status, name);
            if found.as_deref() != Some(wanted) {
                differences.push(format!(
                    "{name} is {} instead of {wanted:?}",
                    found.map_or_else(|| "missing".to_owned(), |value| format!("{value:?}"))
                ));
            }
        };
        let four = |id: u32| format!("{id} {id} {id} {id}");
        expect("Uid", &four(self.uid));
        expect("Gid", &four(self.gid));
        if self.change_identity {
            expect("Groups", "");
        }
        expect("NoNewPrivs", "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            expect(set, NO_CAPABILITIES);
        }
        if self.bounding != Bounding::Kept {
            expect("CapBnd", NO_CAPABILITIES);
        }
        // SigBlk is left out: from the exec on the mask is the daemon's own, and Go and
        // the C library block everything while they make a thread or a process.
        if self.seccomp {
            expect("Seccomp", "2");
            let count = field(proc_status, FILTERS).and_then(|count| count.parse::<usize>().ok());
            // Where the init is under a filter itself, the mode alone proves nothing.
            if let (Some(own), Some(count)) = (self.own_filters, count)
                && count <= own
            {
                differences.push(format!("{FILTERS} is {count} instead of more than {own}"));
            }
        }
        if differences.is_empty() {
            Ok(())
        } else {
            Err(Mismatch(differences))
        }
    }
}

/// `--require-sandbox`: no daemon at all rather than one that is without these.
pub fn insist_on(missing: &[String]) -> Result<(), Incomplete> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(Incomplete(missing.to_owned()))
}

const UNBOUNDED: &str =
    "the capability bounding set is left as it was: emptying it needs CAP_SETPCAP";
const UNFILTERED: &str =
    "the daemon's system calls are not filtered: this kernel has no seccomp filters";
const UNGRANTED: &str = "the daemon's files and ports are not restricted: this kernel has no Landlock, or does not \
                         enable it";

/// What this version of Landlock leaves open to pipelock, in sentences.
fn unrestricted(level: u32) -> Vec<String> {
    let mut open = Vec::new();
    if level < landlock::FILES {
        open.push(UNGRANTED.to_owned());
        return open;
    }
    if level < landlock::PORTS {
        open.push(format!(
            "the daemon may bind any port: this kernel's Landlock is version {level}, ports need {}",
            landlock::PORTS
        ));
    }
    if level < landlock::SCOPES {
        open.push(format!(
            "the daemon may signal every process of its own user: this kernel's Landlock is version {level}, \
             which takes {}",
            landlock::SCOPES
        ));
    }
    open
}

/// The same of another daemon, which has ports to connect to and local sockets besides.
fn unrestricted_companion(level: u32) -> Vec<String> {
    if level < landlock::FILES {
        return vec![UNGRANTED.to_owned()];
    }
    let lacks = |needed: u32, may: &str| {
        (level < needed).then(|| {
            format!("the daemon may {may}: this kernel's Landlock is version {level}, which takes {needed}")
        })
    };
    lacks(landlock::PORTS, "bind and connect to any TCP port")
        .into_iter()
        .chain(lacks(
            landlock::SCOPES,
            "signal every process of its own user and connect to every abstract socket",
        ))
        .collect()
}

/// The value of a field of `/proc/<pid>/status`, its blanks folded.
fn field(status: &str, name: &str) -> Option<String> {
    status.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

/// What a look at the daemon found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Its sandbox as it was asked for.
    Confined,
    /// Another one.
    Holes(Mismatch),
    /// Nothing, for this reason.
    Nothing(String),
    /// It has ended; its exit says more.
    Ended,
}

/// A sandbox that does not read back as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch(Vec<String>);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the daemon's sandbox has a hole: {}", self.0.join(", "))
    }
}

impl std::error::Error for Mismatch {}

/// A step between fork and exec, as the child reports it: one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Standard input, output and error.
    Descriptors = 1,
    /// Signal mask and dispositions.
    Signals,
    /// The control group.
    ControlGroup,
    /// /proc/self/oom_score_adj.
    OomScore,
    /// `RLIMIT_CORE`.
    CoreSize,
    /// chdir to /.
    WorkingDirectory,
    /// The capability bounding set.
    BoundingSet,
    /// Supplementary groups.
    Groups,
    /// Group id.
    Group,
    /// User id.
    User,
    /// The remaining capability sets.
    Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// landlock_restrict_self.
    Landlock,
    /// The seccomp filters.
    SystemCalls,
    /// The exec itself.
    Exec,
    /// Descriptors that are nothing of its own.
    Inheritance,
    /// /dev/null, before the fork.
    StandardInput,
}

impl Step {
    const ALL: [Self; 17] = [
        Self::Descriptors,
        Self::Signals,
        Self::ControlGroup,
        Self::OomScore,
        Self::CoreSize,
        Self::WorkingDirectory,
        Self::BoundingSet,
        Self::Groups,
        Self::Group,
        Self::User,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::SystemCalls,
        Self::Exec,
        Self::Inheritance,
        Self::StandardInput,
    ];

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u8 == byte)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "connect the standard descriptors of",
            Self::Signals => "reset the signals of",
            Self::ControlGroup => "limit the memory of",
            Self::OomScore => "expose to the OOM killer",
            Self::CoreSize => "forbid core dumps of",
            Self::WorkingDirectory => "change the working directory of",
            Self::BoundingSet => "empty the capability bounding set of",
            Self::Groups => "drop the supplementary groups of",
            Self::Group => "change the group of",
            Self::User => "change the user of",
            Self::Capabilities => "drop the capabilities of",
            Self::NoNewPrivileges => "forbid new privileges to",
            Self::Landlock => "restrict the files of",
            Self::SystemCalls => "filter the system calls of",
            Self::Exec => "execute",
            Self::Inheritance => "keep this process's open files from",
            Self::StandardInput => "open /dev/null as the input of",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Privileges = Privileges {
        set_identity: true,
        bounding: Bounding::Droppable,
        own_uid: 0,
        own_gid: 0,
        landlock: 7,
        seccomp: true,
        own_filters: Some(0),
    };
    const CONFINED: &str = "Name:\tpipelock\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nGroups:\t \nSigBlk:\tfffffffe7ffbfeff\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn accepts_a_sandbox_that_reads_back_as_asked() {
        assert_eq!(Sandbox::plan(ROOT).compare(CONFINED), Ok(()));
    }

    #[test]
    fn names_every_hole() {
        let holes = CONFINED
            .replace("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000400")
            .replace("NoNewPrivs:\t1\n", "");
        let mismatch = Sandbox::plan(ROOT).compare(&holes).unwrap_err();
        assert_eq!(
            mismatch.to_string(),
            "the daemon's sandbox has a hole: NoNewPrivs is missing instead of \"1\", \
             CapBnd is \"0000000000000400\" instead of \"0000000000000000\""
        );
    }

    #[test]
    fn finds_the_daemons_user_in_a_map_of_users() {
        for (map, found) in [
            ("         0          0 4294967295\n", true),
            ("         0       1000          1\n", false),
            (
                "         0       1000          1\n         1     100000      65536\n",
                true,
            ),
            ("         0     100000      65534\n", false),
            ("", false),
        ] {
            assert_eq!(maps(map, DAEMON_ID), found, "{map:?}");
        }
    }

    #[test]
    fn says_what_an_unprivileged_init_could_not_do() {
        let user = Privileges {
            set_identity: false,
            bounding: Bounding::Kept,
            own_uid: 1000,
            own_gid: 1000,
            landlock: 3,
            seccomp: false,
            own_filters: None,
        };
        let sandbox = Sandbox::plan(user);
        assert_eq!((sandbox.uid, sandbox.file_owner()), (1000, None));
        assert_eq!(sandbox.missing.len(), 5, "{:?}", sandbox.missing);
        // With nothing left to take away, that is no hole; but it is read back.
        let emptied = Privileges {
            bounding: Bounding::Empty,
            ..user
        };
        let sandbox = Sandbox::plan(emptied);
        assert_eq!(sandbox.missing.len(), 4, "{:?}", sandbox.missing);
        let holes = CONFINED.replace("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000400");
        let mismatch = sandbox.compare(&holes).unwrap_err().to_string();
        assert!(
            mismatch.contains("CapBnd is \"0000000000000400\""),
            "{mismatch}"
        );
    }

    #[test]
    fn a_companion_has_a_user_of_its_own_and_is_read_back_as_it() {
        let pipelock = Sandbox::plan(ROOT);
        let profile = Profile::General { udp: false };
        let companion = pipelock.companion_as(Some(65533), 65533, None, profile);
        assert_eq!(companion.user(), (65533, 65533));
        assert_eq!(companion.file_owner(), Some((65533, 65533)));
        assert_eq!(companion.missing, Vec::<String>::new());
        let status = CONFINED.replace("65534", "65533");
        assert_eq!(companion.compare(&status), Ok(()));
        let wanted = "the daemon's sandbox has a hole: Uid is \"65533 65533 65533 65533\" instead of \"65534 65534 \
                      65534 65534\", Gid is \"65533 65533 65533 65533\" instead of \"65534 65534 65534 65534\"";
        let mismatch = pipelock.compare(&status).unwrap_err().to_string();
        assert_eq!(mismatch, wanted, "each by its own values");
        let mismatch = companion.compare(CONFINED).unwrap_err().to_string();
        assert!(mismatch.contains("Uid is \"65534"), "{mismatch}");
        for (there, hole) in [
            ("Groups:\t ", "Groups:\t65534 "),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000000001"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Seccomp_filters:\t3", "Seccomp_filters:\t0"),
        ] {
            assert!(status.contains(there), "{there:?}");
            assert!(
                companion.compare(&status.replace(there, hole)).is_err(),
                "{hole:?}"
            );
        }
    }

    #[test]
    fn a_companion_without_a_user_of_its_own_says_what_that_leaves_open() {
        let profile = Profile::General { udp: true };
        let of = |privileges: Privileges| {
            Sandbox::plan(privileges).companion_as(None, 65533, None, profile)
        };
        // A user namespace that ends before its user: pipelock's, never root.
        let small = of(ROOT);
        assert_eq!(small.user(), (DAEMON_ID, DAEMON_ID));
        let begins = |sandbox: &Sandbox, with: &str| {
            let [sentence, ..] = sandbox.missing.as_slice() else {
                return false;
            };
            sentence.starts_with(with) && sentence.ends_with(SHARED)
        };
        assert!(
            begins(
                &small,
                "the daemon runs as uid 65534, like pipelock: uid and gid 65533 do not exist"
            ),
            "{:?}",
            small.missing
        );
        let unprivileged = Privileges {
            set_identity: false,
            bounding: Bounding::Empty,
            own_uid: DAEMON_ID,
            own_gid: DAEMON_ID,
            ..ROOT
        };
        // pipelock's user itself: pipelock lacks nothing, the others do.
        assert_eq!(Sandbox::plan(unprivileged).missing, Vec::<String>::new());
        let same = of(unprivileged);
        assert_eq!((same.uid, same.file_owner()), (DAEMON_ID, None));
        assert_eq!(same.missing.len(), 1, "{:?}", same.missing);
        assert!(begins(
            &same,
            "the daemon runs as uid 65534, like the init and pipelock: changing user"
        ));
        let root = Privileges {
            own_uid: 0,
            own_gid: 0,
            ..unprivileged
        };
        assert!(begins(
            &of(root),
            "the daemon runs as root, like the init and pipelock: "
        ));
        let old = Privileges {
            landlock: 3,
            seccomp: false,
            bounding: Bounding::Kept,
            ..unprivileged
        };
        let missing = of(old).missing;
        assert_eq!(missing.len(), 5, "{missing:?}");
        assert!(
            missing.contains(
                &"the daemon may bind and connect to any TCP port: this kernel's Landlock is version 3, which takes 4"
                    .to_owned()
            ),
            "{missing:?}"
        );
    }

    #[test]
    fn takes_no_filter_of_the_inits_own_for_the_daemons() {
        let inside = Privileges {
            own_filters: Some(3),
            ..ROOT
        };
        let mismatch = Sandbox::plan(inside).compare(CONFINED).unwrap_err();
        assert!(
            mismatch
                .to_string()
                .ends_with("Seccomp_filters is 3 instead of more than 3"),
            "{mismatch}"
        );
    }

    #[test]
    fn reads_every_step_back_from_its_byte() {
        for step in Step::ALL {
            assert_eq!(Step::from_byte(step as u8), Some(step));
        }
        assert_eq!(Step::from_byte(0), None);
    }
}
