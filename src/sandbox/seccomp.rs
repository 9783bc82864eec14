//! Which system calls the daemon may not make. Compiled before the fork, installed
//! last before the exec. Touches the kernel.
//!
//! A list of what is denied, not of what is allowed: the Go runtime's own calls change
//! with every release, and a firewall that dies of one is no firewall. What stands here
//! is what a forward proxy never needs and an intruder would start with.

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

/// Since Linux 6.6, the same number everywhere; the C library's headers lack it.
const FCHMODAT2: libc::c_long = 452;

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
    // What Landlock leaves open of writing: modes, owners, times and attributes.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
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
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
];
/// kexec_file_load(2), which musl's headers lack (the kernel's asm-generic/unistd.h).
#[cfg(not(target_arch = "x86_64"))]
const DENIED_BY_ARCHITECTURE: &[libc::c_long] = &[294];

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
    pub fn compile() -> Result<Self, FilterError> {
        let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
        let by_arguments = BTreeMap::from([
            (libc::SYS_socket, foreign_sockets()?),
            (libc::SYS_socketpair, addressable_pairs()?),
            (libc::SYS_prlimit64, limits_of_others()?),
            (libc::SYS_clone, namespaces()?),
        ]);
        let by_arguments = SeccompFilter::new(
            by_arguments,
            SeccompAction::Allow,
            SeccompAction::Errno((Errno::EPERM as i32).unsigned_abs()),
            architecture,
        )?;
        Ok(Self(vec![by_arguments.try_into()?, by_number()?]))
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

/// Everything but TCP and UDP over IP: raw and packet sockets, netlink, vsock to the
/// host, local sockets, and MPTCP, whose ports Landlock does not see.
fn foreign_sockets() -> Result<Vec<Rule>, BackendError> {
    let none_of = |argument: u8, accepted: &[i32]| -> Result<Rule, BackendError> {
        Rule::new(
            accepted
                .iter()
                .map(|value| word(argument, Compare::Ne, *value))
                .collect::<Result<_, _>>()?,
        )
    };
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
fn by_number() -> Result<BpfProgram, FilterError> {
    let mut refused: Vec<(u32, Errno)> = DENIED
        .iter()
        .chain(DENIED_BY_ARCHITECTURE)
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

    #[test]
    fn compiles_to_what_the_kernel_takes() {
        let filters = Filters::compile().unwrap();
        assert_eq!(filters.count(), 2);
        for program in &filters.0 {
            assert!(program.len() < 4096, "{}", program.len());
        }
    }

    #[test]
    fn denies_no_call_twice() {
        let mut numbers: Vec<_> = DENIED.iter().chain(DENIED_BY_ARCHITECTURE).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
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
        let program = by_number().unwrap();
        for number in 0..1024_i32 {
            let listed = DENIED
                .iter()
                .chain(DENIED_BY_ARCHITECTURE)
                .any(|denied| *denied == libc::c_long::from(number));
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
        let program = by_number().unwrap();
        assert!(program.len() < 512, "{}", program.len());
        assert!(tree(&[]).unwrap().len() == 1);
    }
}
