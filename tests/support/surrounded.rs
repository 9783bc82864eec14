//! Becomes a program in surroundings that are worse than usual: `surrounded WORD… --
//! PROGRAM ARGUMENT…`. A word is `refuse:CALL=ERRNO` (a system call, by name, and the
//! number it fails with; 0 is a lie; `socket6` are the sockets of IPv6), `close:FD`, `leak:FD` (a file without close-on-exec),
//! `limit:FDS` (how many descriptors there may be, soft and hard), or `cgroup:DIRECTORY`
//! (of version 1 or 2).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "for tests"
)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::IntoRawFd;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

#[allow(unsafe_code)]
fn main() {
    let mut words = std::env::args().skip(1);
    let mut filters = Vec::new();
    let mut closed = Vec::new();
    for word in words.by_ref().take_while(|word| word != "--") {
        let (what, value) = word.split_once(':').expect("WHAT:VALUE");
        match what {
            "refuse" => filters.push(filter(value)),
            // Once nothing can fail any more.
            "close" => closed.push(value.parse().expect("a number")),
            "leak" => leak(value.parse().expect("a number")),
            "limit" => {
                let most = value.parse().expect("a number");
                let limit = libc::rlimit {
                    rlim_cur: most,
                    rlim_max: most,
                };
                // SAFETY: a pointer to a local value.
                let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
                assert_eq!(set, 0);
            }
            "cgroup" => std::fs::write(format!("{value}/cgroup.procs"), "0").expect("enter it"),
            _ => panic!("{word}"),
        }
    }
    let program: Vec<CString> = words.map(|word| CString::new(word).unwrap()).collect();
    for filter in &filters {
        apply_filter(filter).expect("a filter");
    }
    for number in closed {
        // SAFETY: a number.
        unsafe { libc::close(number) };
    }
    // The standard library's way changes dispositions, which may be refused by now.
    let Err(errno) = nix::unistd::execvp(program.first().expect("a program"), &program);
    panic!("{errno}");
}

fn filter(value: &str) -> BpfProgram {
    let (call, errno) = value.split_once('=').expect("CALL=ERRNO");
    let numbers: &[libc::c_long] = match call {
        "close_range" => &[libc::SYS_close_range],
        "kcmp" => &[libc::SYS_kcmp],
        "fcntl" => &[libc::SYS_fcntl],
        "rt_sigaction" => &[libc::SYS_rt_sigaction],
        #[cfg(target_arch = "x86_64")]
        "poll" => &[libc::SYS_poll],
        "ppoll" => &[libc::SYS_ppoll],
        "socket6" => &[libc::SYS_socket],
        _ => panic!("{call}"),
    };
    // Of a call without rules every one is meant.
    let rules = if call == "socket6" {
        let family = libc::AF_INET6.try_into().expect("a number");
        let is_v6 = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family);
        vec![SeccompRule::new(vec![is_v6.unwrap()]).unwrap()]
    } else {
        vec![]
    };
    let rules: BTreeMap<_, _> = numbers
        .iter()
        .map(|number| (*number, rules.clone()))
        .collect();
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.parse().expect("a number")),
        std::env::consts::ARCH.try_into().expect("an architecture"),
    )
    .expect("a filter")
    .try_into()
    .expect("a program")
}

/// A file of its own, which is no pipe and no socket, at this number.
#[allow(unsafe_code)]
fn leak(number: i32) {
    let file = std::fs::File::open("/etc/passwd")
        .expect("a file")
        .into_raw_fd();
    // SAFETY: numbers.
    assert_eq!(unsafe { libc::dup2(file, number) }, number);
}
