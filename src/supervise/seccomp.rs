//! Which system calls the daemon may not make. Compiled before the fork, installed
//! last before the exec. Touches the kernel.
//!
//! A list of what is denied, not of what is allowed: the Go runtime's own calls change
//! with every release, and a firewall that dies of one is no firewall. What stands here
//! is what a forward proxy never needs and an intruder would start with.

use std::collections::BTreeMap;
use std::fmt;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Compare,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule, TargetArch, sock_filter,
};

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
pub struct FilterError(BackendError);

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "internal error: cannot compile the system call filter: {}",
            self.0
        )
    }
}

impl std::error::Error for FilterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl From<BackendError> for FilterError {
    fn from(error: BackendError) -> Self {
        Self(error)
    }
}

/// Whether this kernel filters system calls at all (`CONFIG_SECCOMP_FILTER`).
#[allow(unsafe_code)]
#[must_use]
pub fn is_available() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: reads one number of ours (seccomp(2), SECCOMP_GET_ACTION_AVAIL).
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        ) == 0
    }
}

/// The compiled filters. The kernel runs all of them and takes the strictest answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// For this machine's architecture; a call by another one's numbers is fatal.
    pub fn compile() -> Result<Self, FilterError> {
        let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
        let refuse = |rules: BTreeMap<i64, Vec<Rule>>, errno: Errno| {
            let errno = (errno as i32).unsigned_abs();
            SeccompFilter::new(
                rules,
                SeccompAction::Allow,
                SeccompAction::Errno(errno),
                architecture,
            )
            .and_then(BpfProgram::try_from)
        };
        let mut denied: BTreeMap<i64, Vec<Rule>> = DENIED
            .iter()
            .chain(DENIED_BY_ARCHITECTURE)
            .map(|number| (*number, Vec::new()))
            .collect();
        denied.insert(libc::SYS_socket, foreign_sockets()?);
        denied.insert(libc::SYS_socketpair, addressable_pairs()?);
        denied.insert(libc::SYS_prlimit64, limits_of_others()?);
        denied.insert(libc::SYS_clone, namespaces()?);
        // Its flags lie in memory, where no filter sees them; "not there" is the answer
        // every C library knows to fall back from to clone(2).
        let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let mut programs = vec![
            refuse(denied, Errno::EPERM)?,
            refuse(absent, Errno::ENOSYS)?,
        ];
        if cfg!(target_arch = "x86_64") {
            programs.push(x32());
        }
        Ok(Self(programs))
    }

    /// How many the kernel will count.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Installs them in the calling process, for good. Needs no new privileges to be
    /// set. Only for the child between fork and exec: neither allocates nor locks.
    #[allow(unsafe_code)]
    pub(super) fn install(&self) -> Result<(), Errno> {
        for program in &self.0 {
            let program = libc::sock_fprog {
                // The compiler refuses more than 4096 instructions.
                len: u16::try_from(program.len()).unwrap_or(u16::MAX),
                filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
            };
            // SAFETY: both structures have the kernel's layout, which copies them.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    0,
                    &raw const program,
                )
            };
            if result != 0 {
                return Err(Errno::last());
            }
        }
        Ok(())
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

/// Kills whoever makes a system call of the x32 ABI: the same architecture, other
/// numbers, which no list above would match.
fn x32() -> BpfProgram {
    /// `__X32_SYSCALL_BIT`, asm/unistd.h.
    const X32: u32 = 0x4000_0000;
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| sock_filter {
        // BPF codes are below 256.
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    vec![
        // The number is the first word of seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_KILL_PROCESS,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiles_to_what_the_kernel_takes() {
        let filters = Filters::compile().unwrap();
        assert_eq!(
            filters.count(),
            if cfg!(target_arch = "x86_64") { 3 } else { 2 }
        );
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
}
