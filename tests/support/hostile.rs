//! Reads what the hostile daemon says (`tests/fixtures/hostile.rs`), and knows what must come
//! of each attempt and which mechanisms, each by itself, see to it.

use std::collections::BTreeMap;

use serde_json::Value;

/// What the kernel answered to each attempt.
pub type Answers = BTreeMap<String, String>;

/// The lines of JSON among what it, or an init before each line of its, has printed.
pub fn read_answers(output: &str) -> Answers {
    output
        .lines()
        .filter_map(|line| {
            let said: Value = serde_json::from_str(line.get(line.find('{')?..)?).ok()?;
            let text = |key: &str| said[key].as_str().map(str::to_owned);
            Some((text("attempt")?, text("answer")?))
        })
        .collect()
}

/// What can be left out of a sandbox, and what cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// A user of its own: owners and modes of files, signals, `/proc`.
    User,
    /// Landlock: files, TCP ports, and the scopes of signals, tracing and abstract sockets.
    Landlock,
    /// The filter of system calls.
    Seccomp,
    /// What an ordinary user without capabilities may not do anyway.
    Kernel,
}

use Mechanism::{Kernel, Landlock, Seccomp, User};

const DONE: &str = "done";
const EPERM: &str = "1";
const EACCES: &str = "13";

/// Attempts, the mechanisms of which one is enough to stop them, how the kernel says so, and
/// what it answers where none of these is there: that nothing else stops them, or another
/// word for what is not built into every kernel or not meant to succeed.
struct Row(
    &'static [Mechanism],
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const ROWS: &[Row] = &[
    // What it may.
    Row(
        &[],
        &[],
        &[DONE],
        &[
            "own: write a file",
            "own: read it",
            "own: change its mode",
            "own: change its time",
            "own: rename it",
            "own: make a directory",
            "own: move into it",
            "own: make a link",
            "own: make a pipe",
            "own: listen by a path",
            "own: connect to it",
            "own: listen by a name",
            "own: pair datagrams",
            "own: remove",
            "own: signal a child",
            "own: read its credentials",
            "own: random numbers",
            "own: write /dev/null",
            "bind its port",
            "connect to its port",
            "open a local stream",
            "open local datagrams",
            "open a socket that says which addresses there are",
            // It gets a port that nobody chose, which nobody is told of.
            "listen without having bound",
            "plant a program",
            "make it executable",
        ],
    ),
    // 7 is what the program ends with.
    Row(&[], &[], &["7"], &["execute a program it was granted"]),
    // Other daemons' files, and other processes.
    Row(
        &[User, Landlock],
        &[EACCES],
        &[DONE],
        &[
            "read a sibling's file",
            "write a sibling's file",
            "list a sibling's directory",
            "make a file in a sibling's directory",
            "rename a sibling's file away",
            "remove a sibling's file",
            "read a sibling's credentials",
            "read the CA key",
            "write the CA key",
            "read pipelock's configuration",
            "write the status",
            "make a file in the run directory",
            "sibling: read environ",
            "sibling: read maps",
            "sibling: read auxv",
            "sibling: open its memory",
            "sibling: list its descriptors",
            "sibling: open its descriptor 3",
            "sibling: see where its descriptor 3 leads",
            "sibling: see its directory",
            "init: read environ",
            "init: read maps",
            "init: read auxv",
            "init: open its memory",
            "init: list its descriptors",
            "init: open its descriptor 3",
            "init: see where its descriptor 3 leads",
            "init: see its directory",
        ],
    ),
    Row(
        &[User, Landlock],
        &[EPERM],
        &[DONE],
        &[
            "sibling: signal it",
            "sibling: signal it by a pidfd",
            "init: signal it",
            "init: signal it by a pidfd",
        ],
    ),
    Row(
        &[User, Landlock, Seccomp],
        &[EPERM],
        &[DONE],
        &[
            "sibling: trace it",
            "sibling: read its memory",
            "sibling: take its descriptor 0",
            "init: trace it",
            "init: read its memory",
            "init: take its descriptor 0",
        ],
    ),
    Row(
        &[User, Seccomp],
        &[EPERM],
        &[DONE],
        &[
            "sibling: ask its limits",
            "sibling: slow it down",
            "init: ask its limits",
            "init: slow it down",
        ],
    ),
    // Landlock knows no rule for these two: `sandbox_missing` says so of who has no user.
    Row(
        &[User],
        &[EACCES],
        &[DONE],
        &["connect to a sibling's socket by its path"],
    ),
    Row(
        &[User],
        &[EPERM],
        &[DONE],
        &["open a sibling's directory to all", "become its sibling"],
    ),
    // What every user may otherwise.
    Row(
        &[Landlock],
        &[EACCES],
        &[DONE],
        &[
            "read the manifest",
            "read the status",
            "make a file in /tmp",
            "make a file in /dev/shm",
            "make a file in /var/tmp",
            "sibling: read cmdline",
            "sibling: read status",
            "init: read cmdline",
            "init: read status",
            "bind a port that is not its own",
            "bind it on every address",
            "bind it over IPv6",
            "connect to a sibling's port",
            "connect to another port",
            "connect to another port as a mapped address",
            "connect to another port when it first sends",
        ],
    ),
    Row(
        &[Landlock],
        &[EACCES],
        &["7"],
        &[
            "execute what it planted",
            "execute a program it was not granted",
        ],
    ),
    Row(
        &[Landlock],
        &[EPERM],
        &[DONE],
        &[
            "sibling: connect to its abstract socket",
            "init: connect to its abstract socket",
        ],
    ),
    // Ways around Landlock's rules, and the kernel's other doors.
    Row(
        &[Seccomp],
        &[EPERM],
        &[DONE],
        &[
            "bind a UDP port",
            "send a datagram",
            "open a UDP socket",
            "open a UDP socket over IPv6",
            "connect to another port over MPTCP",
            "connect to another port by sending (sendto)",
            "connect to another port by sending (sendmsg)",
            "connect to another port by sending (sendmmsg)",
            "open an MPTCP socket",
            "open a vsock",
            "open a socket that hears of devices",
            "open a socket that lists sockets",
            "open a netfilter socket",
            "make a program in memory",
            "make a user namespace",
            "clone into a namespace",
            "change what a program sees",
            "share memory without a file",
        ],
    ),
    // ENODEV, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EAFNOSUPPORT; EACCES by a limit of groups.
    Row(
        &[Seccomp],
        &[EPERM],
        &["19", "93", "94", "97", EACCES, DONE],
        &[
            "open a ping socket",
            "open an SCTP socket",
            "open a sequenced SCTP socket",
            "open an SMC socket",
            "open a vsock of datagrams",
            "open a cipher's socket",
            "pair TIPC sockets",
        ],
    ),
    // ENOENT, EBADF, EFAULT, EINVAL, EOPNOTSUPP: what the arguments are worth, so that it was
    // about to be done.
    Row(
        &[Seccomp],
        &[EPERM],
        &["2", "9", "14", "22", "95"],
        &[
            "make a TCP socket one of SMC",
            "set an attribute",
            "set an attribute by the newer call",
            "open a file by its handle",
            "execute a descriptor",
            "open a perf event",
            "use bpf",
            "add a key",
            "read a key",
            "set up io_uring",
            "handle page faults",
            "join a namespace",
            "open a queue of messages",
            "set the clock",
        ],
    ),
    // ENOSYS: a C library falls back to clone(2), whose flags can be seen.
    Row(&[Seccomp], &["38"], &["22"], &["clone by the newer call"]),
    // No capability, and nothing of root's.
    Row(
        &[Kernel],
        &[EPERM],
        &[],
        &[
            "become root",
            "mount",
            "open a raw socket",
            "open a raw socket over IPv6",
            "open a packet socket",
            "watch every file",
        ],
    ),
    Row(
        &[Kernel],
        &[EACCES, EPERM],
        &[],
        &["make the memory's device", "make a disk's device"],
    ),
    // EROFS where the root is read-only.
    Row(&[Kernel], &[EACCES, "30"], &[], &["write its own program"]),
    // ENOENT where there is none.
    Row(
        &[Kernel],
        &[EACCES, "2"],
        &[],
        &["write /dev/mem", "write /dev/kmsg", "write /dev/vda"],
    ),
];

/// Every attempt against what must come of it in a sandbox without these mechanisms, all
/// surprises at once. `but`: what differs there, and how.
pub fn assert_held(answers: &Answers, without: &[Mechanism], but: &[(&str, &str)]) {
    let mut surprises = Vec::new();
    let mut tried = vec!["everything".to_owned()];
    for Row(by, stopped, otherwise, attempts) in ROWS {
        let held = by.iter().any(|mechanism| !without.contains(mechanism));
        for attempt in *attempts {
            tried.push((*attempt).to_owned());
            let answer = answers.get(*attempt).map_or("nothing", String::as_str);
            let differs = but.iter().find(|(name, _)| name == attempt);
            let expected = match differs {
                Some((_, answer)) => &[*answer][..],
                None if held => stopped,
                None => otherwise,
            };
            if !expected.contains(&answer) {
                surprises.push(format!(
                    "{attempt}: {answer} instead of {expected:?} ({by:?})"
                ));
            }
        }
    }
    assert!(surprises.is_empty(), "without {without:?}: {surprises:#?}");
    let unlisted: Vec<_> = answers.keys().filter(|it| !tried.contains(it)).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}
