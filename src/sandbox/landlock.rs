//! What a daemon may open, execute, bind, connect to and signal, by Landlock. The rules are
//! made before the fork; the child only enters them. Touches the kernel.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use super::seccomp::Profile;
use crate::ca::public;
use crate::sys::confine::landlock_version;

/// The newest interface this was tested on (Linux 6.15). A newer kernel applies these
/// rules too; an older one as many of them as it knows.
const TESTED: ABI = ABI::V7;
/// Rules for files and directories (Linux 5.13).
pub const FILES: u32 = 1;
/// Rules for ports (Linux 6.7).
pub const PORTS: u32 = 4;
/// Signals and abstract sockets stay inside (Linux 6.12).
pub const SCOPES: u32 = 6;

/// What resolving a name and checking a server's certificate may open, where it is
/// there: Go's own list (net/conf.go), and what the links in the places of the public roots
/// point at.
const SYSTEM: [&str; 15] = [
    "/dev/null",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates/extracted",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
    // How many connections may wait to be accepted: 128 where it cannot be read.
    "/proc/sys/net/core/somaxconn",
    "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
];

/// Where the interpreter and the libraries of a program that is not static are.
pub const PROGRAMS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr"];

/// What else ordinary programs open and are the worse without: where random numbers, the
/// names of users, and the number of processors come from, and what OpenSSL and git, where it
/// is there, do not start without. Of `/proc` what is the machine's alone: everything below a
/// process's number, its own too, is left out, for a rule for one would have to be made by
/// the process itself, and lasts no longer than the kernel's cache.
const ORDINARY: [&str; 16] = [
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/etc/passwd",
    "/etc/group",
    "/etc/gai.conf",
    "/etc/gitconfig",
    "/etc/ld.so.cache",
    "/etc/mime.types",
    "/etc/ssl/openssl.cnf",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/version",
    "/proc/sys/kernel",
    "/sys/devices/system/cpu",
];

/// What a daemon is granted; everything else is denied.
#[derive(Debug, Clone)]
pub struct Grants {
    /// Executed and read: the daemon.
    pub program: PathBuf,
    /// Read: files, and directories with everything below. A file is the one that is
    /// there now; where files are replaced by renaming, the directory is granted.
    pub read: Vec<PathBuf>,
    /// Read and executed: programs that it starts, and directories of such.
    pub execute: Vec<PathBuf>,
    /// Its own directories: everything below is read, written, made, renamed and removed, and
    /// not executed, so that no program gets there that the image does not have. Devices
    /// cannot be made.
    pub write: Vec<PathBuf>,
    /// The TCP ports it may bind by their numbers. 0 is any that the kernel chooses: it comes
    /// with the others for a companion, for the reason that [`Grants::proxy`] has.
    pub bind: Vec<u16>,
    /// The TCP ports, of any address, it may connect to; `None` is all of them.
    pub connect: Option<Vec<u16>>,
}

impl Grants {
    /// A proxy's, as pipelock is one: it reads these, listens there and connects to
    /// everywhere. Who listens on every address may bind a port of the kernel's choice as
    /// well: Go finds out by that whether there is IPv6.
    #[must_use]
    pub fn proxy(program: PathBuf, read: Vec<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            program,
            read,
            execute: Vec::new(),
            write: Vec::new(),
            bind: ports(listen).collect(),
            connect: None,
        }
    }
}

/// Rules that could not be made.
#[derive(Debug)]
pub struct LandlockError(RulesetError);

impl fmt::Display for LandlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot make the daemon's Landlock rules: {}", self.0)
    }
}

impl std::error::Error for LandlockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl From<RulesetError> for LandlockError {
    fn from(error: RulesetError) -> Self {
        Self(error)
    }
}

/// The interface's version in this kernel, as far as it is used here; 0 where there is
/// none, or none enabled.
#[must_use]
pub fn level() -> u32 {
    landlock_version().min(TESTED as u32)
}

/// The rules for `grants`; `None` where the kernel has no Landlock. A program that does
/// not run `alone` ([`crate::sys::executable::is_static`]) needs others, and so do the
/// daemons that are not pipelock.
pub fn rules(
    grants: &Grants,
    alone: bool,
    profile: Profile,
) -> Result<Option<OwnedFd>, LandlockError> {
    let ordinary = matches!(profile, Profile::General { .. });
    let ports: BitFlags<AccessNet> = match grants.connect {
        None => AccessNet::BindTcp.into(),
        Some(_) => AccessNet::BindTcp | AccessNet::ConnectTcp,
    };
    // Whether that is on every address nobody says of a companion.
    let chosen = (ordinary && !grants.bind.is_empty()).then_some(&0);
    let bound = grants.bind.iter().chain(chosen);
    let bound = bound.map(|port| (port, AccessNet::BindTcp));
    let connected = grants.connect.iter().flatten();
    let connected = connected.map(|port| (port, AccessNet::ConnectTcp));
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(TESTED))?
        .handle_access(ports)?
        .scope(Scope::from_all(TESTED))?
        .create()?
        .add_rules(
            bound
                .chain(connected)
                .map(|(port, access)| Ok::<_, RulesetError>(NetPort::new(*port, access))),
        )?;
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let execute = AccessFs::ReadFile | AccessFs::Execute;
    rules = grant(rules, &grants.program, execute)?;
    for path in &grants.read {
        rules = grant(rules, path, read)?;
    }
    for path in &grants.execute {
        rules = grant(rules, path, read | AccessFs::Execute)?;
    }
    for path in &grants.write {
        rules = grant(rules, path, own())?;
    }
    // A link among the files may lead anywhere: on Nix into its store.
    for path in SYSTEM
        .into_iter()
        .chain(public::FILES)
        .chain(public::DIRECTORIES)
        .chain(ORDINARY.into_iter().filter(|_| ordinary))
    {
        rules = grant(rules, Path::new(path), read)?;
    }
    if !alone {
        for path in PROGRAMS {
            rules = grant(rules, Path::new(path), read | AccessFs::Execute)?;
        }
    }
    if !alone || ordinary {
        rules = grant(
            rules,
            Path::new("/dev/null"),
            AccessFs::ReadFile | AccessFs::WriteFile,
        )?;
    }
    Ok(rules.into())
}

/// All that may be done below a directory of one's own.
fn own() -> BitFlags<AccessFs> {
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    AccessFs::from_all(TESTED) & !(devices | AccessFs::Execute)
}

/// What may be bound to listen there. Where that is every address, port 0 too, which is any
/// that the kernel chooses: Go finds out by it whether the machine has IPv6 (its
/// net/ipsock_posix.go, `ipStackCapabilities`), and listens on IPv4 alone where it may not.
/// That opens nothing: who listens without having bound gets such a port in any case.
fn ports(listen: SocketAddr) -> impl Iterator<Item = u16> {
    let probed = listen.ip().is_unspecified().then_some(0);
    [listen.port()].into_iter().chain(probed)
}

/// A path that is not there, or not to be reached, grants nothing.
fn grant(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(place) = PathFd::new(path) else {
        return Ok(rules);
    };
    // Of what only a directory has, the library leaves a file nothing.
    rules.add_rule(PathBeneath::new(place, access))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_rules_of_paths_that_are_there_and_paths_that_are_not() {
        let grants = Grants::proxy(
            "/proc/self/exe".into(),
            vec!["/nonexistent".into(), "/tmp".into()],
            "0.0.0.0:8888".parse().unwrap(),
        );
        let made = rules(&grants, true, Profile::Pipelock).unwrap();
        assert_eq!(made.is_some(), level() > 0);
        let other = Grants {
            execute: vec!["/nonexistent".into(), "/bin/sh".into()],
            write: vec!["/tmp".into(), "/nonexistent".into()],
            connect: Some(vec![8888]),
            ..grants
        };
        let made = rules(&other, false, Profile::General { udp: false }).unwrap();
        assert_eq!(made.is_some(), level() > 0);
    }

    #[test]
    fn only_who_listens_on_every_address_may_bind_a_port_of_the_kernels_choice() {
        let of = |listen: &str| ports(listen.parse().unwrap()).collect::<Vec<_>>();
        for every in ["0.0.0.0:8888", "[::]:8888"] {
            assert_eq!(of(every), [8888, 0], "{every}");
        }
        for one in ["127.0.0.1:8888", "[fd00::2]:8888"] {
            assert_eq!(of(one), [8888], "{one}");
        }
    }
}
