//! The story: mode, mounts, clock, manifest, network, configuration, CA, daemon,
//! the end. Touches the kernel only through the modules it names.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::libc;
use nix::poll::{PollFd, PollFlags};

use crate::boot::clock::{self, Plausibility};
use crate::boot::cmdline::{Arguments, Source};
use crate::boot::mode::{self, Mode};
use crate::boot::{mounts, network, protect};
use crate::bottle::looker::{Looker, News};
use crate::bottle::{self, Desired, trust};
use crate::ca::authority;
use crate::ca::custody::{self, Making};
use crate::cli::Paths;
use crate::environment;
use crate::exit::{ExitCode, StartError};
use crate::sandbox::cgroup::{self, Group};
use crate::sandbox::{Privileges, Sandbox, insist_on};
use crate::shutdown;
use crate::status::export;
use crate::status::{self, Reporter, Stage};
use crate::supervise::machine::{Failure, Outcome};
use crate::supervise::{Setup, supervise};
use crate::sys::claim::{self, Claim, ClaimError};
use crate::sys::console::{self, init_logging};
use crate::sys::errand;
use crate::sys::files::{Access, FileError, Room, ensure_directory, kept_from, read_kernel_file};
use crate::sys::memory;
use crate::sys::processes::sees_processes;
use crate::sys::reaper;
use crate::sys::signals::{Signals, wait};

/// How starting and supervising went.
enum Ending {
    Stopped,
    Failed(StartError),
}

/// Runs until the end of the daemon, and of the machine where there is one.
pub fn run(paths: &Paths) -> ! {
    let paths = &paths.absolute();
    let started = Instant::now();
    // First: what is sent before ends a process that is not PID 1 without a result.
    let signals = Signals::install();
    let mode = mode::detect();
    console::reopen();
    let arguments = match mode {
        Mode::Machine => read_kernel_file("/proc/cmdline")
            .map(|text| Arguments::parse(&text))
            .unwrap_or_default(),
        Mode::Container | Mode::Child => Arguments::default(),
    };
    let filter = arguments.log.clone().or_else(|| environment::LOG.text());
    init_logging(filter.as_deref());
    let mut reporter = Reporter::new(started, boot_id());
    reporter.set_mode(mode);
    record_panics(mode);
    if let Err(errno) = protect::close_memory() {
        reporter.warn(format!(
            "cannot close this process's memory to others: {}",
            errno.desc()
        ));
    }
    log::info!("version {}, {}", env!("CARGO_PKG_VERSION"), mode.as_str());
    for problem in &arguments.problems {
        reporter.warn(problem.clone());
    }
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            // For the places where a status is read; why they cannot be had is less than why
            // there is nothing to tell of.
            let _ = mount_all(mode, &arguments, paths, &mut reporter);
            conclude(
                &mut reporter,
                Ending::Failed(StartError::new(
                    ExitCode::OperatingSystem,
                    format!("cannot install signal handlers: {error}"),
                )),
            );
            shutdown::end(Some(mode), ExitCode::OperatingSystem.number());
        }
    };
    let ending = match start(mode, &arguments, paths, &mut signals, &mut reporter) {
        Ok(ending) => ending,
        Err(error) => Ending::Failed(error),
    };
    reporter.ending();
    reporter.status.reaped += shutdown::end_everything(mode, &signals);
    let code = conclude(&mut reporter, ending);
    shutdown::end(Some(mode), code.number())
}

/// Records the result where the host reads it, and says it on the console.
fn conclude(reporter: &mut Reporter, ending: Ending) -> ExitCode {
    let (code, error) = match ending {
        Ending::Stopped => (ExitCode::Success, None),
        Ending::Failed(error) => {
            log::error!("{}", error.text);
            (error.code, Some(error.text))
        }
    };
    reporter.conclude(code, error);
    code
}

/// Takes the stages one by one. A stop that is asked for meanwhile ends it between two.
fn start(
    mode: Mode,
    arguments: &Arguments,
    paths: &Paths,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Result<Ending, StartError> {
    reporter.enter(Stage::Mounts);
    let run_room = mount_all(mode, arguments, paths, reporter)?;
    reporter.enter(Stage::Clock);
    let lifted = floor_clock(mode, reporter)?;
    reporter.enter(Stage::Manifest);
    let is_mounted = Cell::new(mode != Mode::Machine);
    let read = || {
        if !is_mounted.get()
            && let Err(error) = mount_manifest(arguments, &paths.manifest)
        {
            return bottle::failure(&error.to_string());
        }
        bottle::read(paths)
    };
    let watched = vec![paths.manifest.clone(), trust::directory(&paths.manifest)];
    let mut looker = Looker::send(watched, &read).map_err(|errno| {
        StartError::new(
            ExitCode::OperatingSystem,
            format!("cannot fork for the manifest: {}", errno.desc()),
        )
    })?;
    let Some(Begun {
        read: found,
        sandbox,
        making,
    }) = begin(paths, lifted, &mut looker, signals, reporter)?
    else {
        return Ok(Ending::Stopped);
    };
    is_mounted.set(true);
    let (desired, warnings) = bottle::judge(paths, &found).map_err(|problem| *problem)?;
    drop(found);
    reporter.warn_of_manifest(warnings);
    reporter.follow(&desired.policy);
    desired.count_notes();
    reporter.enter(Stage::Network);
    if mode == Mode::Machine {
        network::prepare()
            .and_then(|()| network::configure(&desired.policy.network, arguments.ip.as_ref()))
            .map_err(|error| StartError::new(ExitCode::OperatingSystem, error))?;
    }
    reporter.enter(Stage::Config);
    let sandbox = complete_sandbox(sandbox, mode, paths, reporter);
    run_room
        .install(
            status::CONFIG,
            desired.config.as_bytes(),
            Access::private(sandbox.file_owner()),
        )
        .map_err(cannot_write)?;
    reporter.enter(Stage::Ca);
    let Some((ca, certificate)) = making?.finish(signals)? else {
        return Ok(Ending::Stopped);
    };
    log::info!("CA {}, SHA-256 {}", ca.source, ca.fingerprint_sha256);
    let certificate: Rc<str> = certificate.into();
    let clients = |desired: &Desired| {
        let address = arguments.ip.as_ref().map(|ip| ip.address.0);
        export::clients(
            &certificate,
            desired.trust.as_ref(),
            &desired.policy,
            address,
        )
    };
    reporter.export(clients(&desired));
    reporter.finish_export();
    reporter.status.ca = Some(ca);
    if signals.stop_asked() {
        return Ok(Ending::Stopped);
    }
    reporter.enter(Stage::Spawn);
    let require_sandbox =
        paths.require_sandbox || (mode == Mode::Machine && !arguments.tolerate_holes);
    if require_sandbox {
        insist_on_sandbox(reporter)?;
    }
    let apply = |desired: &Desired| match mode {
        Mode::Machine => network::write_names(&desired.policy.network, arguments.ip.as_ref())
            .map_err(|error| error.to_string()),
        Mode::Container | Mode::Child => Ok(()),
    };
    let setup = Setup {
        daemon: &paths.daemon,
        config: &config_path(paths),
        run_room: &run_room,
        trust_bundle: &trust::bundle_path(&paths.run_dir),
        manifest: &paths.manifest,
        judge: &|read| bottle::judge(paths, read).map_err(|error| error.text),
        apply: &apply,
        clients: &clients,
        sandbox,
        require_sandbox,
        readable: vec![paths.cert.clone(), paths.key.clone()],
    };
    supervise_until_the_end(mode, &setup, desired, looker, signals, reporter)
}

/// What was read, and what was begun meanwhile.
struct Begun {
    read: Vec<u8>,
    sandbox: Sandbox,
    making: Result<Making, StartError>,
}

/// Waits for the manifest, and for the clock, where `sets_clock`; `None` where a stop was
/// asked for before. The CA is begun as early as can be.
fn begin(
    paths: &Paths,
    sets_clock: bool,
    looker: &mut Looker,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Result<Option<Begun>, StartError> {
    let mut read = None;
    if sets_clock {
        // By the dates of what is mounted by then.
        read = await_manifest(looker, &paths.manifest, signals, reporter);
        if read.is_none() {
            return Ok(None);
        }
        set_clock_by_the_hosts(paths, reporter)?;
    }
    // Now, although its stage comes later: it waits for nothing that is read before it.
    let sandbox = Sandbox::plan(Privileges::of_this_process());
    let making = custody::begin(paths, sandbox.file_owner());
    let read = read.or_else(|| await_manifest(looker, &paths.manifest, signals, reporter));
    Ok(read.map(|read| Begun {
        read,
        sandbox,
        making,
    }))
}

/// What the looker reads first; `None` where a stop was asked for before. Whoever waits for
/// a share that hangs says so, and goes on living.
fn await_manifest(
    looker: &mut Looker,
    manifest: &Path,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Option<Vec<u8>> {
    loop {
        let now = Instant::now();
        for news in looker.advance(now) {
            match news {
                News::Looked => {}
                News::Silent(since) => {
                    reporter.manifest_is_silent(manifest, since);
                    reporter.publish();
                }
                News::Answers => reporter.manifest_answers(),
                News::Read(read) => {
                    reporter.status.manifest_error = None;
                    return Some(read);
                }
            }
        }
        if signals.stop_asked() {
            return None;
        }
        reporter.tick(now);
        let deadlines = [looker.deadline(), reporter.deadline(now)];
        let deadline = deadlines.into_iter().flatten().min();
        let mut waiting: Vec<PollFd> = [looker.as_fd(), reporter.as_fd(), Some(signals.as_fd())]
            .into_iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
        wait(&mut waiting, left);
    }
}

/// What is not known to be in the daemon's sandbox is a failure.
fn insist_on_sandbox(reporter: &Reporter) -> Result<(), StartError> {
    let mut missing = reporter.status.daemon.sandbox_missing.clone();
    missing.extend(
        sees_processes()
            .err()
            .map(|why| format!("it could not be read back: {why}")),
    );
    insist_on(&missing).map_err(|text| StartError::new(ExitCode::OperatingSystem, text))
}

/// Adds what the daemon and the machine decide about its sandbox; what cannot be had is a
/// warning and in the status.
fn complete_sandbox(
    mut sandbox: Sandbox,
    mode: Mode,
    paths: &Paths,
    reporter: &mut Reporter,
) -> Sandbox {
    if mode == Mode::Machine {
        if let Err(problem) = protect::survive_memory_shortage() {
            reporter.warn(problem);
        }
        let total = memory::machine_total().unwrap_or(u64::MAX);
        let available = memory::available().unwrap_or(u64::MAX);
        match Group::create(Path::new(cgroup::ROOT), total, available) {
            Ok(group) => {
                log::debug!(
                    "of {} MiB of memory {} can be had; pipelock gets {}",
                    total >> 20,
                    available >> 20,
                    group.limit() >> 20
                );
                sandbox.group = Some(group);
            }
            Err(error) => sandbox.missing.push(error.to_string()),
        }
    }
    reporter.tell_missing(&sandbox.missing_for(&paths.daemon));
    if let Some(user) = sandbox.file_owner()
        && let Some((directory, mode)) = kept_from(&paths.run_dir, user)
    {
        reporter.warn(format!(
            "pipelock cannot read its configuration: it runs as {}:{}, and the mode of {} is {mode:04o}\nhint: \
             chmod o+rx {}",
            user.0,
            user.1,
            directory.display(),
            directory.display()
        ));
    }
    let daemon = &mut reporter.status.daemon;
    daemon.landlock = sandbox.landlock;
    daemon.seccomp = sandbox.seccomp;
    daemon.cgroup = sandbox.group.is_some();
    sandbox
}

fn supervise_until_the_end(
    mode: Mode,
    setup: &Setup,
    desired: Desired,
    looker: Looker,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Result<Ending, StartError> {
    if mode == Mode::Child {
        reaper::adopt_orphans().map_err(|errno| {
            StartError::new(
                ExitCode::OperatingSystem,
                format!("cannot become the reaper of orphans: {}", errno.desc()),
            )
        })?;
    }
    Ok(match supervise(setup, desired, looker, signals, reporter) {
        Outcome::Stopped => Ending::Stopped,
        Outcome::GaveUp(failure) => Ending::Failed(given_up(&failure, &reporter.status)),
    })
}

fn given_up(failure: &Failure, status: &status::Status) -> StartError {
    let code = match failure {
        Failure::Spawn(libc::ENOENT, _) => ExitCode::NotFound,
        Failure::Spawn(libc::EACCES | libc::ENOEXEC, _) => ExitCode::NotExecutable,
        _ => ExitCode::DaemonUnavailable,
    };
    let said = match (failure, status.last_lines.last()) {
        (Failure::Exited(_) | Failure::OutOfMemory(..), Some(line)) => {
            format!("; its last line: {line}")
        }
        _ => String::new(),
    };
    StartError::new(
        code,
        format!("giving up after repeated failures: {failure}{said}"),
    )
}

/// Kernel file systems, the state volume, the export, the run directory.
fn mount_all(
    mode: Mode,
    arguments: &Arguments,
    paths: &Paths,
    reporter: &mut Reporter,
) -> Result<Room, StartError> {
    let os_error = |error: mounts::MountError| StartError::new(ExitCode::OperatingSystem, error);
    if mode == Mode::Machine {
        for warning in mounts::mount_kernel_file_systems().map_err(os_error)? {
            reporter.warn(warning.to_string());
        }
        console::reopen();
        if let Err(errno) = shutdown::ask_before_reset() {
            reporter.warn(format!(
                "Ctrl-Alt-Del will reset this machine at once: {}",
                errno.desc()
            ));
        }
    }
    ensure_directory(&paths.run_dir).map_err(cannot_write)?;
    let room = Room::open(&paths.run_dir).map_err(cannot_write)?;
    let claim = claim_run_directory(&paths.run_dir, &room, reporter)?;
    reporter.tell_in(&room, claim).map_err(cannot_write)?;
    if mode == Mode::Machine {
        if let Some(state) = &arguments.state {
            mounts::mount_source(state, Path::new(authority::STATE_DIRECTORY), true)
                .map_err(os_error)?;
        }
        if let Some(export) = &arguments.export {
            mounts::mount_source(export, &paths.run_dir.join(EXPORT), true).map_err(os_error)?;
        }
    }
    // The firewall serves its agent, whether the host can be told or not.
    match room.enter(EXPORT) {
        Ok(None) => log::info!(
            "no {}: nobody is given client.env and the CA",
            paths.run_dir.join(EXPORT).display()
        ),
        Ok(Some(export)) => reporter.tell_export(&room, EXPORT, export),
        Err(error) => reporter.warn(format!("the host is told nothing in the export: {error}")),
    }
    Ok(room)
}

/// Two inits would overwrite each other's configuration and status.
fn claim_run_directory(
    run_dir: &Path,
    room: &Room,
    reporter: &mut Reporter,
) -> Result<Option<Claim>, StartError> {
    match claim::claim(run_dir, room) {
        Ok(claim) => Ok(Some(claim)),
        // What cannot be locked can be served from all the same; probes then go by the
        // status alone.
        Err(ClaimError::Unlocked(error)) => {
            reporter.warn(error.to_string());
            Ok(None)
        }
        Err(ClaimError::Taken(directory)) => Err(StartError::new(
            ExitCode::CannotWrite,
            format!(
                "cannot use {}: another sidecar-init runs with it\nhint: end that one, or name another \
                     directory with --run-dir",
                directory.display()
            ),
        )),
    }
}

const EXPORT: &str = "export";

fn config_path(paths: &Paths) -> PathBuf {
    paths.run_dir.join(status::CONFIG)
}

fn cannot_write(error: FileError) -> StartError {
    StartError::new(ExitCode::CannotWrite, error)
}

/// True where the clock is only known not to be earlier than what it was set to.
fn floor_clock(mode: Mode, reporter: &mut Reporter) -> Result<bool, StartError> {
    match clock::judge(clock::now()) {
        Plausibility::Plausible => Ok(false),
        Plausibility::TooLate(now) => Err(StartError::new(
            ExitCode::OperatingSystem,
            clock::ClockError::TooLate(now),
        )),
        Plausibility::TooEarly(now) => {
            let says = crate::ca::rfc3339(now);
            if mode != Mode::Machine {
                reporter.warn(format!(
                    "the clock says {says}, before this program was built; clients may refuse the CA"
                ));
                return Ok(false);
            }
            set_clock(clock::BUILD_EPOCH)?;
            reporter.warn(format!(
                "the clock said {says}; set to {}, when this program was built",
                crate::ca::rfc3339(clock::BUILD_EPOCH)
            ));
            Ok(true)
        }
    }
}

fn set_clock(seconds: u64) -> Result<(), StartError> {
    clock::set(seconds).map_err(|error| StartError::new(ExitCode::OperatingSystem, error))
}

/// When a file was written, in seconds since 1970. The share may not answer.
fn written_at(file: &Path) -> Option<u64> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let ask = || -> Option<u64> {
        let modified = std::fs::symlink_metadata(file).ok()?.modified().ok()?;
        Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    let mut errand = errand::send(&[], || {
        ask().map_or_else(Vec::new, |at| at.to_string().into())
    });
    let answer = errand.as_mut().ok()?.wait(PATIENCE)??;
    std::str::from_utf8(&answer).ok()?.parse().ok()
}

/// A share's files are dated by the host, and its clock is the better one: the status was
/// written this moment, the manifest some time before.
fn set_clock_by_the_hosts(paths: &Paths, reporter: &mut Reporter) -> Result<(), StartError> {
    let export = paths.run_dir.join(EXPORT).join(status::FILE);
    let written = [&paths.manifest, &export]
        .into_iter()
        .filter_map(|file| written_at(file));
    match clock::better(clock::now(), written) {
        Some(time) => {
            set_clock(time)?;
            let time = crate::ca::rfc3339(time);
            log::info!("the clock was set on to {time}, by the dates of the host's files");
        }
        None => reporter.warn(
            "nothing tells this machine the time: the certificates pipelock makes are good for a day from when \
             this program was built; give it a real-time clock, or an export on a share"
                .to_owned(),
        ),
    }
    Ok(())
}

/// Mounts the manifest's directory where nothing has brought it: machine mode only, and by
/// whoever reads it, for a share that hangs may not answer this either.
fn mount_manifest(arguments: &Arguments, manifest: &Path) -> Result<(), mounts::MountError> {
    let default = Source {
        kind: "virtiofs".to_owned(),
        device: "sidecar".to_owned(),
    };
    let source = match &arguments.mount {
        Some(source) => source,
        None if manifest.exists() => return Ok(()),
        None => &default,
    };
    let directory = manifest.parent().unwrap_or(Path::new("/"));
    mounts::mount_source(source, directory, false)
}

/// A random identifier (RFC 9562, version 4) for this start. It is no secret, so an
/// unseeded generator serves too: nothing may wait this early.
#[allow(unsafe_code)]
fn boot_id() -> String {
    let mut bytes = [0_u8; 16];
    // SAFETY: the buffer is ours and as long as said.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_INSECURE) };
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf << 76) | (4 << 76);
    let number = number & !(0b11 << 62) | (0b10 << 62);
    let hex = format!("{number:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}

/// A panic is a defect; PID 1 may not die of it before it has said so, because the
/// kernel would panic too and the host would learn nothing.
fn record_panics(mode: Mode) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic
            .location()
            .map_or_else(String::new, ToString::to_string);
        let error = format!("internal error: {} at {place}", panic_message(panic));
        log::error!("{error}");
        let line = format!(
            "sidecar-init: result {}\n",
            status::record_internal_error(&error)
        );
        console::console().write_lines(console::Stream::Error, line.as_bytes());
        shutdown::end(Some(mode), ExitCode::Internal.number());
    }));
}

fn panic_message<'a>(panic: &'a std::panic::PanicHookInfo<'a>) -> &'a str {
    let payload = panic.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use serde_json::Value;

    use super::*;

    const DIRECTORY: &str = "SIDECAR_PANICS_IN";

    /// Not a test: what the one below executes.
    #[test]
    fn panics_where_it_is_told_to() {
        let Some(directory) = std::env::var_os(DIRECTORY) else {
            return;
        };
        init_logging(None);
        let mut reporter = Reporter::new(Instant::now(), boot_id());
        record_panics(Mode::Child);
        let room = Room::open(Path::new(&directory)).unwrap();
        reporter.tell_in(&room, None).unwrap();
        reporter.finish_stages();
        reporter.status.state = status::State::Ready.into();
        reporter.publish();
        panic!("of all things");
    }

    #[test]
    fn a_panic_takes_back_what_the_status_said() {
        let directory = std::env::temp_dir().join(format!("sidecar-panic-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "story::tests::panics_where_it_is_told_to"])
            .args(["--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory)
            .output()
            .unwrap();
        let told = fs::read(directory.join(status::FILE)).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(output.status.code(), Some(70), "{output:?}");
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["state"], "failed");
        assert_eq!(told["outcome"], "failed");
        assert_eq!(told["exit_code"], 70);
        let error = told["error"].as_str().unwrap();
        assert!(
            error.starts_with("internal error: of all things at src/story.rs:"),
            "{error}"
        );
        let console = String::from_utf8(output.stderr).unwrap();
        let last = console.lines().last().unwrap();
        let result = last.strip_prefix("sidecar-init: result ").expect(&console);
        assert_eq!(serde_json::from_str::<Value>(result).unwrap(), told);
    }
}
