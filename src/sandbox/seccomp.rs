//! Which system calls a daemon may not make. Compiled before the fork, installed
//! last before the exec. Touches the kernel.
//!
//! A list of what is denied, not of what is allowed: the Go runtime's own calls change
//! with every release, and a firewall that dies of one is no firewall. What stands here
//! is what a forward proxy, or any daemon, never needs and an intruder would start with.

use std::collections::BTreeMap;
use std::fmt;
use std::num::TryFromIntError;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Compare,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule, TargetArch, sock_filter,
};

use crate::sys::confine::install_filter;

/// Since Linux 6.6, the same number everywhere, as all that are as new; the C library's
/// headers lack them.
const FCHMODAT2: libc::c_long = 452;
/// Linux 6.13.
const SETXATTRAT: libc::c_long = 463;
/// Linux 6.13.
const REMOVEXATTRAT: libc::c_long = 466;
/// Linux 6.17.
const FILE_SETATTR: libc::c_long = 469;

/// Which filters a daemon gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// pipelock's: a static proxy that changes no file and speaks TCP and UDP.
    Pipelock,
    /// Any other daemon's, which may write below its own directory, start programs and use
    /// local sockets. Landlock's rules for the ports it may connect to are kept whole: no
    /// protocol and no flag goes around them.
    General {
        /// It may use UDP, whose ports Landlock does not know: all of them, to any address.
        udp: bool,
    },
}

impl Profile {
    /// For a daemon that may connect to these TCP ports. Who may ask a name server over TCP
    /// is taken to mean UDP as well.
    #[must_use]
    pub fn general(connect: &[u16]) -> Self {
        const DNS: u16 = 53;
        Self::General {
            udp: connect.contains(&DNS),
        }
    }

    /// What it denies beside what all do.
    fn denied(self) -> [&'static [libc::c_long]; 2] {
        match self {
            Self::Pipelock => [DENIED_TO_PIPELOCK, DENIED_TO_PIPELOCK_BY_ARCHITECTURE],
            Self::General { .. } => [DENIED_TO_OTHERS, &[]],
        }
    }
}

/// Refused with `EPERM`, whatever their arguments.
const DENIED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    // Kernel interfaces with a history.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_personality,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // What Landlock leaves open of writing: attributes.
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    // Files behind the back of paths, and programs behind the back of files: Landlock
    // sees neither a handle nor a memfd.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_execveat,
];

/// The same, where only x86 has them, or has another number.
#[cfg(target_arch = "x86_64")]
const DENIED_BY_ARCHITECTURE: &[libc::c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
];
/// kexec_file_load(2), which musl's headers lack (the kernel's asm-generic/unistd.h).
#[cfg(not(target_arch = "x86_64"))]
const DENIED_BY_ARCHITECTURE: &[libc::c_long] = &[294];

/// To pipelock, which writes nothing: what else Landlock leaves open of writing, modes,
/// owners and times. Git, Python and others set these of their own files; whose are not
/// their own, the kernel tells by the user.
const DENIED_TO_PIPELOCK: &[libc::c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
];
#[cfg(target_arch = "x86_64")]
const DENIED_TO_PIPELOCK_BY_ARCHITECTURE: &[libc::c_long] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_TO_PIPELOCK_BY_ARCHITECTURE: &[libc::c_long] = &[];

/// To the other daemons.
const DENIED_TO_OTHERS: &[libc::c_long] = &[
    // Attributes by their newer calls.
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
    // Memory and queues that no file stands for: they outlive their maker and the control
    // group they are counted to, and belong to whoever has the same user.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
];

/// Every flag of clone(2) that makes a namespace.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// What could not be compiled: a defect of this program.
#[derive(Debug)]
pub enum FilterError {
    /// The library refused the rules about arguments.
    Rules(BackendError),
    /// There are more numbers than one jump reaches over, or one that is none.
    TooLong,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("internal error: cannot compile the system call filter: ")?;
        match self {
            Self::Rules(error) => write!(f, "{error}"),
            Self::TooLong => f.write_str("its list of numbers is too long"),
        }
    }
}

impl std::error::Error for FilterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rules(error) => Some(error),
            Self::TooLong => None,
        }
    }
}

impl From<BackendError> for FilterError {
    fn from(error: BackendError) -> Self {
        Self::Rules(error)
    }
}

/// The compiled filters. The kernel runs all of them and takes the strictest answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// For this machine's architecture; a call by another one's numbers is fatal.
    pub fn compile(profile: Profile) -> Result<Self, FilterError> {
        let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
        let mut by_arguments = BTreeMap::new();
        by_arguments.insert(libc::SYS_prlimit64, limits_of_others()?);
        by_arguments.insert(libc::SYS_clone, namespaces()?);
        by_arguments.extend(match profile {
            Profile::Pipelock => vec![
                (libc::SYS_socket, foreign_sockets()?),
                (libc::SYS_socketpair, addressable_pairs()?),
            ],
            Profile::General { udp } => vec![
                (libc::SYS_socket, unusual_sockets(udp)?),
                (libc::SYS_socketpair, vec![none_of(0, &[libc::AF_UNIX])?]),
                (libc::SYS_setsockopt, other_protocols()?),
                (libc::SYS_sendto, vec![connects_unseen(3)?]),
                (libc::SYS_sendmsg, vec![connects_unseen(2)?]),
                (libc::SYS_sendmmsg, vec![connects_unseen(3)?]),
            ],
        });
        let by_arguments = SeccompFilter::new(
            by_arguments,
            SeccompAction::Allow,
            SeccompAction::Errno((Errno::EPERM as i32).unsigned_abs()),
            architecture,
        )?;
        Ok(Self(vec![by_arguments.try_into()?, by_number(profile)?]))
    }

    /// How many the kernel will count.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Installs them in the calling process, for good. Needs no new privileges to be
    /// set. Only for the child between fork and exec: neither allocates nor locks.
    pub(super) fn install(&self) -> Result<(), Errno> {
        self.0.iter().try_for_each(|it| install_filter(it))
    }
}

fn word(argument: u8, compare: Compare, value: i32) -> Result<Condition, BackendError> {
    Condition::new(
        argument,
        Width::Dword,
        compare,
        u64::from(value.cast_unsigned()),
    )
}

fn masked(argument: u8, mask: i32, value: i32) -> Result<Rule, BackendError> {
    let mask = u64::from(mask.cast_unsigned());
    Rule::new(vec![word(argument, Compare::MaskedEq(mask), value)?])
}

fn none_of(argument: u8, accepted: &[i32]) -> Result<Rule, BackendError> {
    Rule::new(
        accepted
            .iter()
            .map(|value| word(argument, Compare::Ne, *value))
            .collect::<Result<_, _>>()?,
    )
}

/// Everything but TCP and UDP over IP: raw and packet sockets, netlink, vsock to the
/// host, local sockets, and MPTCP, whose ports Landlock does not see.
fn foreign_sockets() -> Result<Vec<Rule>, BackendError> {
    Ok(vec![
        none_of(0, &[libc::AF_INET, libc::AF_INET6])?,
        // Of the type's four bits only 1 (SOCK_STREAM) and 2 (SOCK_DGRAM) may be seen.
        masked(1, 0b1111, 0)?,
        masked(1, 0b0011, 0b0011)?,
        masked(1, 0b0100, 0b0100)?,
        masked(1, 0b1000, 0b1000)?,
        none_of(2, &[libc::IPPROTO_IP, libc::IPPROTO_TCP, libc::IPPROTO_UDP])?,
    ])
}

/// Every pair but one of streams: a local datagram socket that came in a pair sends to
/// any other, by a path that Landlock does not ask about. A stream stays with its peer.
fn addressable_pairs() -> Result<Vec<Rule>, BackendError> {
    Ok(vec![
        masked(1, 0b0001, 0)?,
        masked(1, 0b0010, 0b0010)?,
        masked(1, 0b0100, 0b0100)?,
        masked(1, 0b1000, 0b1000)?,
    ])
}

/// Everything but local sockets, TCP over IP, UDP where it may, and of netlink the one
/// protocol that tells a C library, Go and Python which addresses there are. As for pipelock,
/// no protocol over IP whose ports Landlock does not see.
fn unusual_sockets(udp: bool) -> Result<Vec<Rule>, BackendError> {
    let of = |family: i32, condition: Condition| -> Result<Rule, BackendError> {
        Rule::new(vec![word(0, Compare::Eq, family)?, condition])
    };
    // As for pipelock; without UDP no SOCK_DGRAM either, whose bit two others share.
    let kinds = [
        (0b1111, 0),
        (0b0011, 0b0011),
        (0b0100, 0b0100),
        (0b1000, 0b1000),
    ];
    let datagrams = (!udp).then_some((0b0010, 0b0010));
    let mut rules = vec![
        none_of(
            0,
            &[
                libc::AF_UNIX,
                libc::AF_INET,
                libc::AF_INET6,
                libc::AF_NETLINK,
            ],
        )?,
        of(libc::AF_NETLINK, word(2, Compare::Ne, libc::NETLINK_ROUTE)?)?,
    ];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (mask, value) in kinds.into_iter().chain(datagrams) {
            rules.push(of(family, word(1, Compare::MaskedEq(mask), value)?)?);
        }
        rules.push(Rule::new(vec![
            word(0, Compare::Eq, family)?,
            word(2, Compare::Ne, libc::IPPROTO_IP)?,
            word(2, Compare::Ne, libc::IPPROTO_TCP)?,
            word(2, Compare::Ne, libc::IPPROTO_UDP)?,
        ])?);
    }
    Ok(rules)
}

/// A TCP socket that becomes one of another protocol (`TCP_ULP`): SMC connects by itself.
fn other_protocols() -> Result<Vec<Rule>, BackendError> {
    Ok(vec![Rule::new(vec![
        word(1, Compare::Eq, libc::IPPROTO_TCP)?,
        word(2, Compare::Eq, libc::TCP_ULP)?,
    ])?])
}

/// Sending that connects as well (tcp(7), Fast Open), which Landlock does not see.
fn connects_unseen(flags: u8) -> Result<Rule, BackendError> {
    masked(flags, libc::MSG_FASTOPEN, libc::MSG_FASTOPEN)
}

/// prlimit(2) on any process but the caller's own, by its zero.
fn limits_of_others() -> Result<Vec<Rule>, BackendError> {
    Ok(vec![Rule::new(vec![word(0, Compare::Ne, 0)?])?])
}

fn namespaces() -> Result<Vec<Rule>, BackendError> {
    NAMESPACES
        .into_iter()
        .map(|flag| masked(0, flag, flag))
        .collect()
}

/// Refuses what is refused whatever its arguments. A tree, because the kernel tries every
/// number there is when a filter is installed (`seccomp_cache_prepare`, kernel/seccomp.c),
/// and a list of all of them one by one made that the longest call of a start.
fn by_number(profile: Profile) -> Result<BpfProgram, FilterError> {
    let mut refused: Vec<(u32, Errno)> = DENIED
        .iter()
        .chain(DENIED_BY_ARCHITECTURE)
        .chain(profile.denied().into_iter().flatten())
        .map(|number| (*number, Errno::EPERM))
        // Its flags lie in memory, where no filter sees them; "not there" is the answer
        // every C library knows to fall back from to clone(2).
        .chain([(libc::SYS_clone3, Errno::ENOSYS)])
        .map(|(number, errno)| Ok((u32::try_from(number)?, errno)))
        .collect::<Result<_, _>>()
        .map_err(|_: TryFromIntError| FilterError::TooLong)?;
    refused.sort_unstable_by_key(|(number, _)| *number);
    // The number is the first word of seccomp_data.
    let mut program = vec![instruction(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        (0, 0),
        0,
    )];
    if cfg!(target_arch = "x86_64") {
        program.extend(x32());
    }
    program.extend(tree(&refused)?);
    Ok(program)
}

/// Halves the numbers until one is left to compare with.
fn tree(refused: &[(u32, Errno)]) -> Result<BpfProgram, FilterError> {
    let (below, from) = refused.split_at(refused.len() / 2);
    Ok(match (below, from) {
        ([], []) => vec![answer(libc::SECCOMP_RET_ALLOW)],
        ([], [(number, errno), ..]) => vec![
            instruction(JUMP_IF_EQUAL, (0, 1), *number),
            answer(libc::SECCOMP_RET_ERRNO | (*errno as i32).unsigned_abs()),
            answer(libc::SECCOMP_RET_ALLOW),
        ],
        (_, [(first, _), ..]) => {
            let below = tree(below)?;
            let over = u8::try_from(below.len()).map_err(|_| FilterError::TooLong)?;
            let mut program = vec![instruction(JUMP_IF_NOT_BELOW, (over, 0), *first)];
            program.extend(below);
            program.extend(tree(from)?);
            program
        }
        (_, []) => return Err(FilterError::TooLong),
    })
}

/// Kills whoever makes a system call of the x32 ABI: the same architecture, other
/// numbers, which no list here would match.
fn x32() -> [sock_filter; 2] {
    /// `__X32_SYSCALL_BIT`, asm/unistd.h.
    const X32: u32 = 0x4000_0000;
    [
        instruction(JUMP_IF_NOT_BELOW, (0, 1), X32),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_IF_NOT_BELOW: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;

/// `jumps` are the instructions to leave out where the comparison holds, and where not.
fn instruction(code: u32, jumps: (u8, u8), k: u32) -> sock_filter {
    sock_filter {
        // BPF codes are below 256.
        code: u16::try_from(code).unwrap_or_default(),
        jt: jumps.0,
        jf: jumps.1,
        k,
    }
}

fn answer(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, (0, 0), action)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILES: [Profile; 3] = [
        Profile::Pipelock,
        Profile::General { udp: false },
        Profile::General { udp: true },
    ];

    #[test]
    fn compiles_to_what_the_kernel_takes() {
        for profile in PROFILES {
            let filters = Filters::compile(profile).unwrap();
            assert_eq!(filters.count(), 2);
            for program in &filters.0 {
                assert!(program.len() < 4096, "{}", program.len());
            }
        }
    }

    fn denied(profile: Profile) -> Vec<libc::c_long> {
        let own = profile.denied().into_iter().flatten();
        DENIED
            .iter()
            .chain(DENIED_BY_ARCHITECTURE)
            .chain(own)
            .copied()
            .collect()
    }

    #[test]
    fn denies_no_call_twice() {
        for profile in PROFILES {
            let mut numbers = denied(profile);
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), all);
        }
    }

    #[test]
    fn who_may_ask_a_name_server_may_use_udp() {
        let udp = |connect: &[u16]| Profile::general(connect) == Profile::General { udp: true };
        assert!(udp(&[443, 53]));
        assert!(!udp(&[443, 5353]) && !udp(&[]));
    }

    /// What the kernel would answer to this number; panics where the program is not one.
    fn judge(program: &[sock_filter], number: u32) -> u32 {
        let mut at = 1;
        assert_eq!(
            u32::from(program[0].code),
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS
        );
        loop {
            let it = &program[at];
            let holds = match u32::from(it.code) {
                JUMP_IF_EQUAL => number == it.k,
                JUMP_IF_NOT_BELOW => number >= it.k,
                _ => return it.k,
            };
            at += 1 + usize::from(if holds { it.jt } else { it.jf });
        }
    }

    #[test]
    fn refuses_what_is_listed_and_nothing_else() {
        for profile in PROFILES {
            refuses_what_is_listed_for(profile);
        }
    }

    fn refuses_what_is_listed_for(profile: Profile) {
        let program = by_number(profile).unwrap();
        let denied = denied(profile);
        for number in 0..1024_i32 {
            let listed = denied.contains(&libc::c_long::from(number));
            let number = number.unsigned_abs();
            let wanted = if listed {
                libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()
            } else if libc::c_long::from(number) == libc::SYS_clone3 {
                libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            assert_eq!(judge(&program, number), wanted, "{number}");
        }
        #[cfg(target_arch = "x86_64")]
        for number in [0x4000_0000, 0x4000_0209, u32::MAX] {
            assert_eq!(judge(&program, number), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }

    /// Every number there is, when it is installed: no path is much longer than another.
    #[test]
    fn answers_after_a_few_comparisons() {
        for profile in PROFILES {
            let program = by_number(profile).unwrap();
            assert!(program.len() < 512, "{}", program.len());
        }
        assert!(tree(&[]).unwrap().len() == 1);
    }
}
