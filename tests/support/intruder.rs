//! Compiles the intruder (`tests/fixtures/intruder.rs`) and reads what it says.

use std::collections::BTreeMap;
use std::path::Path;

use super::fixture;

/// What an intruder is to attack besides what it finds by itself.
pub struct Targets<'a> {
    /// The manifest.
    pub manifest: &'a str,
    /// A program that is not the daemon.
    pub other_program: &'a str,
    /// What it exhausts at the end: `memory`, `processes`, `itself` (it is killed), or nothing.
    pub last: &'a str,
}

/// Compiles it to `program`.
pub fn compile(targets: &Targets, program: &Path) {
    let variables = [
        ("INTRUDER_MANIFEST", targets.manifest),
        ("INTRUDER_OTHER_PROGRAM", targets.other_program),
        ("INTRUDER_LAST", targets.last),
    ];
    fixture::compile("intruder", &variables, program);
}

/// What the kernel answered to each attempt.
pub fn answers(output: &str) -> BTreeMap<String, String> {
    output
        .lines()
        .filter_map(|line| {
            let (_, said) = line.split_once("intruder: ")?;
            let (attempt, answer) = said.split_once(": ")?;
            Some((attempt.to_owned(), answer.trim().to_owned()))
        })
        .collect()
}

const DONE: &str = "done";
const EPERM: &str = "1";
const EACCES: &str = "13";
const ENOTTY: &str = "25";
const ENOSYS: &str = "38";

/// What must come of an attempt, and the mechanism that alone decides it: everything
/// else (owner, mode, capability, mount flag) would have let it through, or answered
/// with another errno.
pub const EXPECTED: &[(&str, &str, &str)] = &[
    ("read its configuration", DONE, "granted"),
    ("open a TCP socket", DONE, "granted"),
    ("open a UDP socket", DONE, "granted"),
    ("bind its port", DONE, "granted"),
    ("limit itself", DONE, "granted: Go raises its own limit"),
    ("pair local streams", DONE, "granted: they reach each other"),
    (
        "let a pipe signal the init",
        DONE,
        "Landlock's scope, and its user: it is asked for, and not sent",
    ),
    ("create /tmp", EACCES, "Landlock"),
    ("mkdir /tmp", EACCES, "Landlock"),
    ("symlink /tmp", EACCES, "Landlock"),
    ("create /dev/shm", EACCES, "Landlock"),
    ("create /", EACCES, "the owner of / and Landlock"),
    (
        "write its configuration",
        EACCES,
        "Landlock: the file is its own",
    ),
    (
        "truncate its configuration",
        EACCES,
        "Landlock: the file is its own",
    ),
    (
        "remove its configuration",
        EACCES,
        "Landlock and the directory's owner",
    ),
    (
        "chmod its configuration",
        EPERM,
        "seccomp: the file is its own",
    ),
    ("write its program", EACCES, "Landlock and the file's owner"),
    ("write /dev/null", EACCES, "Landlock: everybody else may"),
    ("read the manifest", EACCES, "Landlock: everybody else may"),
    ("read /etc/passwd", EACCES, "Landlock: everybody else may"),
    (
        "read the init's status",
        EACCES,
        "Landlock: everybody else may",
    ),
    (
        "read the init's environment",
        EACCES,
        "Landlock, and the init is not dumpable",
    ),
    (
        "open the init's memory",
        EACCES,
        "Landlock, and the init is not dumpable",
    ),
    ("open the terminal", EACCES, "Landlock: everybody else may"),
    ("type on the console", ENOTTY, "its output is a pipe"),
    ("signal the init", EPERM, "Landlock's scope, and its user"),
    (
        "signal the init by a pidfd",
        EPERM,
        "Landlock's scope, and its user",
    ),
    (
        "take the init's descriptors",
        EPERM,
        "seccomp, and the init is not dumpable",
    ),
    (
        "limit the init",
        EPERM,
        "seccomp: its own user may otherwise",
    ),
    (
        "slow the init down",
        EPERM,
        "seccomp: its own user may otherwise",
    ),
    ("ptrace the init", EPERM, "seccomp, Landlock, and its user"),
    ("be ptraced", EPERM, "seccomp: always permitted otherwise"),
    (
        "read the init's memory",
        EPERM,
        "seccomp: no more than a zero otherwise",
    ),
    ("mount", EPERM, "seccomp, and no capability"),
    ("make a user namespace", EPERM, "seccomp"),
    ("clone into a namespace", "code 1", "seccomp"),
    ("open a perf event", EPERM, "seccomp: EFAULT otherwise"),
    ("use bpf", EPERM, "seccomp: EINVAL otherwise"),
    ("add a key", EPERM, "seccomp: EFAULT otherwise"),
    ("read a key", EPERM, "seccomp: EOPNOTSUPP otherwise"),
    ("set up io_uring", EPERM, "seccomp: EFAULT otherwise"),
    ("watch every file", EPERM, "seccomp, and no capability"),
    ("handle page faults", EPERM, "seccomp: EINVAL otherwise"),
    ("join a namespace", EPERM, "seccomp: EBADF otherwise"),
    ("execute a descriptor", EPERM, "seccomp: EFAULT otherwise"),
    (
        "open a file by its handle",
        EPERM,
        "seccomp, and no capability",
    ),
    (
        "change what a program sees",
        EPERM,
        "seccomp: permitted otherwise",
    ),
    (
        "clone by the newer call",
        ENOSYS,
        "seccomp: EINVAL otherwise",
    ),
    ("open a raw socket", EPERM, "seccomp, and no capability"),
    ("open a ping socket", EPERM, "seccomp: EACCES otherwise"),
    ("open a packet socket", EPERM, "seccomp, and no capability"),
    (
        "open a netlink socket",
        EPERM,
        "seccomp: permitted otherwise",
    ),
    ("open a local socket", EPERM, "seccomp: permitted otherwise"),
    ("open a vsock", EPERM, "seccomp: permitted otherwise"),
    (
        "pair local datagrams",
        EPERM,
        "seccomp: either would send to any local socket",
    ),
    (
        "pair raw local sockets",
        EPERM,
        "seccomp: datagram sockets by another name",
    ),
    (
        "open an MPTCP socket",
        EPERM,
        "seccomp: Landlock does not see its ports",
    ),
    ("bind another port", EACCES, "Landlock"),
    ("execute another program", "code 13", "Landlock"),
    (
        "make a program in memory",
        EPERM,
        "seccomp: permitted otherwise",
    ),
    ("become root", EPERM, "no capability"),
    (
        "execute its own setuid file",
        "code 7",
        "no_new_privs: it runs, but not as root",
    ),
    ("raise a capability", EPERM, "empty capability sets"),
];

/// Every attempt, against what must come of it; all surprises at once.
pub fn assert_stopped(answers: &BTreeMap<String, String>, except: &[&str]) {
    let surprises: Vec<String> = EXPECTED
        .iter()
        .filter(|(attempt, _, _)| !except.contains(attempt))
        .filter_map(|(attempt, expected, mechanism)| {
            let answer = answers.get(*attempt).map_or("nothing", String::as_str);
            (answer != *expected)
                .then(|| format!("{attempt}: {answer} instead of {expected} ({mechanism})"))
        })
        .collect();
    assert!(surprises.is_empty(), "{surprises:#?}");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(answers["use the x32 numbers"], "signal 31", "seccomp kills");
        // SIGSEGV where the kernel has no such gate.
        let i386 = answers["use the i386 numbers"].as_str();
        assert!(["signal 31", "signal 11"].contains(&i386), "{i386}");
    }
    // Found by the list above, or reported by it: nothing is tried without a verdict.
    let listed = |attempt: &String| {
        EXPECTED.iter().any(|(name, _, _)| name == attempt)
            || ["create", "mkdir", "symlink"]
                .iter()
                .any(|verb| attempt.starts_with(verb) && answers[attempt] != DONE)
            || ["use the x32 numbers", "use the i386 numbers"].contains(&attempt.as_str())
            || ["processes", "memory"].contains(&attempt.as_str())
    };
    let unlisted: Vec<_> = answers.keys().filter(|attempt| !listed(attempt)).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}
