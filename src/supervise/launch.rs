//! What a start needs before it can come about, and why it did not. Touches the file system:
//! the configuration and the extra roots in their places; of another daemon than pipelock its
//! directory, what it trusts, and the socket on which it says that it is ready.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;

use super::Context;
use super::notice::Notice;
use crate::boot::protect;
use crate::bottle::credentials;
use crate::bottle::names::Names;
use crate::ca;
use crate::daemon::pipelock::CONFIG;
use crate::environment;
use crate::exit::{ExitCode, StartError};
use crate::policy::daemons::{Daemon, Ready, kept_from};
use crate::sandbox::cgroup::{Group, GroupError, Overpromised, Shares};
use crate::sandbox::enter::{Program, SpawnError};
use crate::sandbox::landlock::Grants;
use crate::sandbox::seccomp::Profile;
use crate::sandbox::{self, Incomplete, PrepareError, Prepared, Sandbox, cgroup, landlock};
use crate::status::export::{self, Content};
use crate::status::teller;
use crate::sys::errand::{self, Errand};
use crate::sys::files::{Access, FileError, Room, as_user, install};
use crate::sys::memory;
use crate::sys::process;
use crate::sys::watch;

/// Why a start did not come about.
#[derive(Debug)]
pub(super) enum LaunchError {
    /// What the daemon reads could not be put in its place.
    File(FileError),
    /// The CA pair could not be put where the daemon reads it.
    Pair(StartError),
    /// Its command line cannot be one.
    Command(PathBuf, io::Error),
    /// Its sandbox could not be made.
    Sandbox(PrepareError),
    /// Its sandbox lacks something that is insisted on.
    Incomplete(Incomplete),
    /// It could not be forked.
    Spawn(SpawnError),
    /// Its control group could not be made.
    Group(GroupError),
    /// There is not the memory that it was promised.
    Memory(Overpromised),
    /// It is to read what no daemon may: a secret, or what holds others' files.
    Kept {
        path: PathBuf,
        /// What it leads to, where that is another path.
        real: PathBuf,
        kept: PathBuf,
    },
    /// There is no socket on which it could say that it is ready.
    Notice(PathBuf, io::Error),
    /// What it was to be given cannot be.
    Credentials(String),
}

impl LaunchError {
    /// How the program ends whose daemon cannot be started for this.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Spawn(error) => error.exit_code(),
            Self::File(error) if is_shortage(error) => ExitCode::OperatingSystem,
            Self::Pair(error) if is_shortage(error) => ExitCode::OperatingSystem,
            Self::Sandbox(PrepareError::Landlock(error)) if is_shortage(error) => {
                ExitCode::OperatingSystem
            }
            Self::Sandbox(PrepareError::Group(error)) | Self::Group(error)
                if is_shortage(error) =>
            {
                ExitCode::OperatingSystem
            }
            _ => ExitCode::DaemonUnavailable,
        }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Pair(error) => error.fmt(f),
            Self::Command(program, error) => {
                write!(f, "cannot start {}: {error}", program.display())
            }
            Self::Sandbox(error) => error.fmt(f),
            Self::Incomplete(error) => error.fmt(f),
            Self::Spawn(error) => error.fmt(f),
            Self::Group(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Kept { path, real, kept } => {
                write!(f, "cannot let a daemon read {}", path.display())?;
                if real != path {
                    write!(f, ", which is {}", real.display())?;
                }
                write!(
                    f,
                    ": {} is for no daemon\nhint: take it out of its files",
                    kept.display()
                )
            }
            Self::Notice(path, error) => {
                write!(f, "cannot listen on {}: {error}", path.display())
            }
            Self::Credentials(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for LaunchError {}

/// Whether what is at the bottom of it is a shortage of the machine's.
fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let refused = error.downcast_ref::<io::Error>();
        if let Some(raw) = refused.and_then(io::Error::raw_os_error) {
            return process::is_shortage(Errno::from_raw(raw));
        }
        next = error.source();
    }
    false
}

/// All of it.
pub(super) struct Launch {
    pub(super) command: Program,
    pub(super) prepared: Prepared,
    /// The files that resolve names, where only those that are there now are granted.
    pub(super) names: Option<Names>,
}

/// The wanted configuration, in its place. As little is written as is needed: the disk may
/// have filled up since.
pub(super) fn install_config(around: &Context) -> Result<(), FileError> {
    let config = around.desired.config.as_bytes();
    let room = around.setup.custody.run;
    room.install(CONFIG, config, config_access(around))
}

/// Whether it is there as it was put there: the file is the daemon's.
pub(super) fn is_config_installed(around: &Context) -> bool {
    let config = around.desired.config.as_bytes();
    let room = around.setup.custody.run;
    room.is_installed(CONFIG, config, config_access(around))
}

/// Who may read the configuration.
pub(super) fn config_access(around: &Context) -> Access {
    Access::private(around.setup.sandbox.file_owner())
}

/// Everything that is made before the fork; of the sandbox what it lacks is told, as this
/// start finds it: the program may be another one by now.
pub(super) fn prepare(around: &mut Context) -> Result<Launch, LaunchError> {
    let setup = around.setup;
    let command = command(around)?;
    // Before the rules: what is replaced in between is granted, and then found to be another.
    let names = (setup.sandbox.landlock >= landlock::FILES).then(Names::now);
    let prepared = setup
        .sandbox
        .prepare(&setup.grants(around.desired.policy.listen))
        .map_err(LaunchError::Sandbox)?;
    around.reporter.tell_missing(&prepared.missing);
    if setup.require_sandbox {
        sandbox::insist_on(&prepared.missing).map_err(LaunchError::Incomplete)?;
    }
    Ok(Launch {
        command,
        prepared,
        names,
    })
}

/// The daemon's command line and environment, with the files that these name in their places.
fn command(around: &Context) -> Result<Program, LaunchError> {
    let setup = around.setup;
    let own = setup.sandbox.group.as_ref().map(cgroup::Group::limit);
    let mut environment: Vec<String> = memory::go_memory_limit(own)
        .into_iter()
        .map(|limit| format!("GOMEMLIMIT={limit}"))
        .collect();
    if let Some(roots) = &around.desired.trust {
        install(setup.trust_bundle, roots, Access::PUBLIC).map_err(LaunchError::File)?;
        environment.push(format!("SSL_CERT_FILE={}", setup.trust_bundle.display()));
    }
    let listen = around.desired.policy.listen.to_string();
    let config = setup.config.to_string_lossy();
    let arguments = ["run", "--config", &config, "--listen", &listen];
    Program::new(setup.daemon, &arguments, &environment)
        .map_err(|error| LaunchError::Command(setup.daemon.to_owned(), error))
}

/// Of the bundle's directories, what its daemons trust, and their sockets for [`Notice`].
const CLIENT: &str = "client";
const NOTIFY: &str = "notify";
/// Everybody may look inside, and read what each file allows.
const OPEN: Access = Access {
    mode: 0o755,
    owner: None,
};
/// Programs are looked for here, and by no other daemon's word.
const SEARCHED: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All of it, for a daemon that is not pipelock.
pub(super) struct ForCompanion {
    pub(super) command: Program,
    pub(super) prepared: Prepared,
    pub(super) sandbox: Sandbox,
    /// Where it says that it is ready, where it is to.
    pub(super) notice: Option<Notice>,
}

/// Sends somebody for what the host gives a daemon.
pub(super) fn fetch_credentials(wanted: &Daemon, around: &Context) -> Result<Errand, LaunchError> {
    let setup = around.setup;
    let profile = Profile::general(&[]);
    let sandbox = setup.sandbox.companion(wanted.user, None, profile);
    let order = credentials::Order {
        manifest: &setup.bottle.manifest,
        name: &wanted.name,
        run_dir: setup.custody.run.path(),
        owner: sandbox.file_owner(),
    };
    errand::send(&[], || credentials::place(&order)).map_err(|errno| {
        let path = setup.bottle.credentials.join(&wanted.name);
        LaunchError::File(FileError::new("fork to read", &path, errno.into()))
    })
}

/// Where a daemon's credentials are, in this run directory.
pub(super) fn credentials_of(name: &str, around: &Context) -> credentials::Place {
    credentials::Place::of(name, around.setup.custody.run.path())
}

/// Everything that is made before the fork of a daemon that is not pipelock; whether it was
/// `given` credentials.
pub(super) fn prepare_companion(
    wanted: &Daemon,
    given: bool,
    around: &mut Context,
) -> Result<ForCompanion, LaunchError> {
    let run = around.setup.custody.run;
    keep_secrets(wanted, around)?;
    let sandbox = companions_sandbox(wanted, around)?;
    let owner = sandbox.file_owner();
    let private = Access { mode: 0o700, owner };
    let private = run.make(&wanted.name, private).map_err(LaunchError::File)?;
    let notice = match wanted.ready {
        Ready::Notify => Some(listen_for_notice(&wanted.name, run, owner)?),
        Ready::Exec | Ready::Tcp(_) | Ready::Http { .. } => None,
    };
    let client = if wanted.proxy {
        Some(install_trust(run, around)?)
    } else {
        None
    };
    let credentials = given.then(|| credentials_of(&wanted.name, around));
    if given {
        protect::leave_cores_empty();
    }
    let environment = variables(
        wanted,
        private.path(),
        notice.as_ref().map(Notice::path),
        credentials.as_ref().map(|it| it.directory.as_path()),
        client
            .as_ref()
            .map(|it| (it, around.desired.policy.listen.port())),
    );
    let (program, arguments) = wanted.exec.split_first().unzip();
    let program = program.map(PathBuf::from).unwrap_or_default();
    let arguments = arguments.unwrap_or_default().iter();
    let arguments: Vec<&str> = arguments.map(String::as_str).collect();
    let client = client.map(|it| it.path().to_owned());
    let grants = Grants {
        program: program.clone(),
        read: credentials
            .map(|it| it.granted)
            .into_iter()
            .chain(client)
            .collect(),
        execute: wanted.files.clone(),
        write: vec![private.path().to_owned()],
        bind: wanted.listen.clone(),
        connect: Some(wanted.connect.clone()),
    };
    let command = Program::new(&program, &arguments, &environment)
        .map_err(|error| LaunchError::Command(program, error))?;
    let prepared = sandbox.prepare(&grants).map_err(LaunchError::Sandbox)?;
    if around.setup.require_sandbox {
        sandbox::insist_on(&prepared.missing).map_err(LaunchError::Incomplete)?;
    }
    Ok(ForCompanion {
        command,
        prepared,
        sandbox,
        notice,
    })
}

/// Its environment: where its own things are, and, where pipelock is its proxy, what a client
/// is told, with the directory that is in and the proxy's port.
fn variables(
    wanted: &Daemon,
    private: &Path,
    notice: Option<&Path>,
    credentials: Option<&Path>,
    proxy: Option<(&Room, u16)>,
) -> Vec<String> {
    let mut variables = vec![format!("PATH={SEARCHED}")];
    let paths = [
        ("HOME", Some(private)),
        ("TMPDIR", Some(private)),
        ("RUNTIME_DIRECTORY", Some(private)),
        ("NOTIFY_SOCKET", notice),
        ("CREDENTIALS_DIRECTORY", credentials),
    ];
    for (name, path) in paths {
        variables.extend(path.map(|path| format!("{name}={}", path.display())));
    }
    if let Some((client, port)) = proxy {
        let bundle = client.path().join(export::BUNDLE);
        let address = format!("http://127.0.0.1:{port}");
        let told = environment::of_clients(&address, &bundle.to_string_lossy());
        variables.extend(told.iter().map(|(name, value)| format!("{name}={value}")));
    }
    for (name, value) in &wanted.env {
        // Its own word wins over the ones above that are no promise: HOME, PATH, TMPDIR.
        variables.retain(|it| it.split_once('=').is_none_or(|(known, _)| known != name));
        variables.push(format!("{name}={value}"));
    }
    variables
}

/// Nobody reads the CA's key, the manifest, the credentials beside it or the run directory by
/// `files`, wherever the command line has put them, and whatever link leads there; where they
/// usually are the manifest's judge knows.
fn keep_secrets(wanted: &Daemon, around: &Context) -> Result<(), LaunchError> {
    let setup = around.setup;
    let run_dir = setup.custody.run.path();
    // Of the places this one alone is asked where it leads: the others may be on a share that does
    // not answer.
    let really = real(run_dir);
    let key = setup.custody.files.key.as_path();
    let places = [
        run_dir,
        &really,
        &setup.bottle.manifest,
        &setup.bottle.credentials,
        key,
    ];
    for path in &wanted.files {
        for shown in [path.clone(), real(path)] {
            if let Some(kept) = kept_from(&shown, places) {
                return Err(LaunchError::Kept {
                    path: path.clone(),
                    kept: kept.to_owned(),
                    real: shown,
                });
            }
        }
    }
    Ok(())
}

/// Where a path leads; where nobody tells, or nothing is there, it is taken at its word.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Its own user, control group and filter.
fn companions_sandbox(wanted: &Daemon, around: &Context) -> Result<Sandbox, LaunchError> {
    let setup = around.setup;
    let daemons = &around.desired.policy.daemons;
    let group = match (&setup.sandbox.group, setup.memory) {
        (Some(_), Some(whole)) => {
            let promised: Vec<_> = daemons.iter().map(|it| it.memory_mib).collect();
            let shares = Shares::divide(whole, &promised).map_err(LaunchError::Memory)?;
            let place = daemons.iter().position(|it| it.name == wanted.name);
            let share = place.and_then(|it| shares.companions.get(it).copied());
            let root = Path::new(cgroup::ROOT);
            let group = Group::companion(root, &wanted.name, share.unwrap_or_default());
            Some(group.map_err(LaunchError::Group)?)
        }
        _ => None,
    };
    let profile = Profile::general(&wanted.connect);
    Ok(setup.sandbox.companion(wanted.user, group, profile))
}

/// What daemons of this machine were given to trust, and the files of that as they were left.
#[derive(Debug, PartialEq)]
pub(super) struct Trusted {
    ca: Rc<str>,
    roots: Option<Rc<[u8]>>,
    files: Vec<Option<watch::Mark>>,
}

/// What a client of pipelock trusts, where the daemons of this machine find it: made anew
/// where that has changed, or its files have.
fn install_trust(run: &Room, around: &mut Context) -> Result<Room, LaunchError> {
    let client = run.make(CLIENT, OPEN).map_err(LaunchError::File)?;
    let ca = around.pair.certificate().clone();
    let trust = around.desired.trust.clone();
    let public = ca::public_roots_at();
    let marks = || {
        let own = [export::CA, export::BUNDLE].map(|name| client.path().join(name));
        let files = own.iter().map(PathBuf::as_path).chain(public);
        files.map(watch::mark).collect()
    };
    let mut now = Trusted {
        ca: ca.clone(),
        roots: trust.clone(),
        files: marks(),
    };
    // Where public roots are files of a directory, nobody looks at each of them.
    let is_known = trust.is_some() || public.is_some();
    if is_known
        && now.files.iter().all(Option::is_some)
        && around.pair.installed.as_ref() == Some(&now)
    {
        return Ok(client);
    }
    for (name, content) in [
        (export::CA, Content::Text(ca.clone())),
        (export::BUNDLE, Content::Bundle { trust, ca }),
    ] {
        let bytes = teller::bytes_of(&content).map(|(bytes, _)| bytes);
        let bytes = bytes.unwrap_or_default();
        if !client.is_installed(name, &bytes, Access::PUBLIC) {
            client
                .publish(name, &bytes, Access::PUBLIC)
                .map_err(LaunchError::File)?;
        }
    }
    now.files = marks();
    around.pair.installed = Some(now);
    Ok(client)
}

fn listen_for_notice(
    name: &str,
    run: &Room,
    owner: Option<(u32, u32)>,
) -> Result<Notice, LaunchError> {
    let open = Access {
        mode: 0o711,
        owner: None,
    };
    let directory = run.make(NOTIFY, open).map_err(LaunchError::File)?;
    let path = directory.path().join(name);
    // Nobody else writes in the directory.
    Notice::listen(&path)
        .and_then(|notice| {
            // Before it is given away: without CAP_FOWNER nobody changes what is another's.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            if let Some((uid, gid)) = owner {
                chown(&path, Some(uid), Some(gid))?;
            }
            Ok(notice)
        })
        .map_err(|error| LaunchError::Notice(path, error))
}

/// The certificates that agents are to trust for this daemon, in a file below its directory,
/// where it may have put anything: no link is followed on the way, and what is no certificate
/// is left out.
pub(super) fn agents_ca(
    name: &str,
    path: &Path,
    owner: Option<(u32, u32)>,
    around: &Context,
) -> Result<String, String> {
    as_user(owner, || read_agents_ca(name, path, around))
}

fn read_agents_ca(name: &str, path: &Path, around: &Context) -> Result<String, String> {
    const LONGEST: usize = 64 * 1024;
    let failed = |why: String| format!("agents are to trust {}: {why}", path.display());
    let missing = || failed(format!("{name} has not put it into its directory"));
    let mut names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
    let file = names.pop().ok_or_else(missing)?;
    let mut room = around.setup.custody.run.enter(name);
    for next in names {
        room = match room {
            Ok(Some(room)) => room.enter(next),
            other => other,
        };
    }
    let room = room.map_err(|error| failed(error.to_string()))?;
    let read = room.ok_or_else(missing)?.read(file, LONGEST);
    let read = read.map_err(|error| {
        if error.is_missing() {
            missing()
        } else {
            failed(error.to_string())
        }
    })?;
    let found = ca::roots(&read).pem;
    if found.is_empty() {
        return Err(failed("there is no certificate in it".to_owned()));
    }
    Ok(found)
}

/// Takes away what was a daemon's that is gone for good, by somebody who has the time: it may
/// have left a million files.
pub(super) fn clear_away(
    name: &str,
    group: Option<Group>,
    run_dir: &Path,
) -> Result<Errand, Errno> {
    let paths = [run_dir.join(name), run_dir.join(NOTIFY).join(name)];
    errand::send_to_finish(&[], move || {
        let [directory, socket] = paths;
        // What stays is in a place that the next of its name is given anyway.
        let owner = std::fs::symlink_metadata(&directory).map(|it| (it.uid(), it.gid()));
        as_user(owner.ok(), || {
            for entry in std::fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = entry.path();
                let is_directory = entry.file_type().is_ok_and(|it| it.is_dir());
                let _ = if is_directory {
                    std::fs::remove_dir_all(path)
                } else {
                    std::fs::remove_file(path)
                };
            }
        });
        let _ = std::fs::remove_dir(&directory).or_else(|_| std::fs::remove_dir_all(&directory));
        let _ = std::fs::remove_file(socket);
        if let Some(group) = group {
            remove_group(&group);
        }
        Vec::new()
    })
}

/// Once those who were killed in it are gone.
fn remove_group(group: &Group) {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..TRIES {
        if group.clone().remove().is_ok() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
