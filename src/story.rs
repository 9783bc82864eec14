//! The story of a run: mode, mounts, clock, manifest, network, configuration, CA, daemons,
//! the end. A stage that takes more than a few lines has a file beside this one. The CA is
//! begun as soon as the manifest is waited for, and waited for at its own stage.
#![forbid(unsafe_code)]

mod clock;
mod confining;
mod ending;
mod panics;
mod places;
mod reading;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::boot::cmdline::Arguments;
use crate::boot::mode::{self, Mode};
use crate::boot::{network, protect};
use crate::bottle::credentials::Held;
use crate::bottle::looker::Looker;
use crate::bottle::{Bottle, Desired, trust};
use crate::ca::authority::{self, Custody};
use crate::cli::{Paths, RunOptions};
use crate::daemon::pipelock;
use crate::environment::LogFilter;
use crate::exit::{ExitCode, StartError};
use crate::policy::Policy;
use crate::shutdown;
use crate::status::export::{self, Place};
use crate::status::{Reporter, Stage};
use crate::supervise::{Pair, Setup};
use crate::sys::console::{self, init_logging};
use crate::sys::random;
use crate::sys::signals::Signals;
use ending::{Ending, conclude, supervise_until_the_end};
use places::{Clients, mount_all};
use reading::{Begun, begin, judge, read_mounted};

/// Runs until the end of the daemon, and of the machine where there is one.
pub fn run(options: &RunOptions) -> ! {
    let started = Instant::now();
    // First: what is sent before ends a process that is not PID 1 without a result.
    let signals = Signals::install();
    let mode = mode::detect();
    let (paths, clients) = places::settle(options, mode);
    console::reopen();
    let arguments = Arguments::of(mode);
    let filter = LogFilter::of(arguments.log.as_deref());
    let filter = filter.as_ref().map(LogFilter::judge).transpose();
    init_logging(filter.as_ref().ok().copied().flatten());
    let mut reporter = Reporter::new(started, boot_id());
    reporter.set_mode(mode);
    let words_for = (mode == Mode::Child && !options.json).then(|| paths.run_dir.clone());
    panics::record(mode, words_for.is_some());
    if let Err(errno) = protect::close_memory() {
        reporter.warn(format!(
            "cannot close this process's memory to others: {}",
            errno.desc()
        ));
    }
    log::info!("version {}, {}", env!("CARGO_PKG_VERSION"), mode.as_str());
    for problem in arguments.problems.iter().chain(filter.as_ref().err()) {
        reporter.warn(problem.clone());
    }
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            // For the places where a status is read; why they cannot be had is less than why
            // there is nothing to tell of.
            let _ = mount_all(mode, &arguments, &paths, clients, None, &mut reporter);
            // Nobody else may be had to write the result.
            console::console().flush_within(Duration::ZERO);
            conclude(
                &mut reporter,
                Ending::Failed(StartError::system(format!(
                    "cannot install signal handlers: {error}"
                ))),
                words_for.as_deref(),
            );
            shutdown::end(Some(mode), ExitCode::OperatingSystem.number());
        }
    };
    let ending = match start(
        mode,
        &arguments,
        paths,
        clients,
        &mut signals,
        &mut reporter,
    ) {
        Ok(ending) => ending,
        Err(error) => Ending::Failed(places::advise(error, options, mode)),
    };
    reporter.ending();
    reporter.reaped(shutdown::end_everything(mode, &signals));
    let code = conclude(&mut reporter, ending, words_for.as_deref());
    shutdown::end(Some(mode), code.number())
}

/// Takes the stages one by one. A stop that is asked for meanwhile ends it between two.
fn start(
    mode: Mode,
    arguments: &Arguments,
    paths: Paths,
    whose: Clients,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Result<Ending, StartError> {
    reporter.enter(Stage::Mounts);
    let run = &mount_all(mode, arguments, &paths, whose, Some(signals), reporter)?;
    let _secrets = (authority::Forgets(run), Held::begin(run.path()));
    let here = whose == Clients::OfThisHost;
    let bottle = &Bottle::of(paths.manifest, [paths.cert, paths.key], mode, here);
    reporter.enter(Stage::Clock);
    let lifted = clock::floor(mode, reporter)?;
    reporter.enter(Stage::Manifest);
    let watched = bottle.watched();
    let is_mounted = Cell::new(mode != Mode::Machine);
    let read = || read_mounted(bottle, is_mounted.get(), arguments);
    let mut looker = Looker::send(watched, run.path(), &read).map_err(|errno| {
        StartError::system(format!("cannot fork for the manifest: {}", errno.desc()))
    })?;
    let Some(Begun {
        read: found,
        sandbox,
        making,
    }) = begin(bottle, run, lifted, &mut looker, signals, reporter)?
    else {
        return Ok(Ending::Stopped);
    };
    is_mounted.set(true);
    let (desired, warnings) = judge(bottle, &found, reporter)?;
    let desired = desired.with_its_roots()?;
    drop(found);
    reporter.manifest_read(warnings, desired.untold);
    reporter.follow(&desired.policy);
    desired.count_notes();
    reporter.enter(Stage::Network);
    if mode == Mode::Machine {
        network::prepare()
            .and_then(|()| network::configure(&desired.policy.network, arguments.ip.as_ref()))
            .map_err(StartError::system)?;
    }
    reporter.enter(Stage::Config);
    let (sandbox, memory) = confining::complete(
        sandbox,
        mode,
        &paths.daemon,
        &desired.policy.daemons,
        reporter,
    )?;
    let owner = sandbox.file_owner();
    places::install_config(run, &desired, owner)?;
    reporter.enter(Stage::Ca);
    let Some(kept) = making?.finish(signals)? else {
        return Ok(Ending::Stopped);
    };
    let certificate: Rc<str> = kept.placed.certificate.as_str().into();
    let export_path = places::export_path(run);
    let clients = |desired: &Desired, certificate: &Rc<str>, agents: Option<&Rc<str>>| {
        let place = match whose {
            Clients::Elsewhere => Place::Elsewhere(arguments.ip.as_ref().map(|ip| ip.address.0)),
            Clients::OfThisHost => Place::Here(&export_path),
        };
        let trust = desired.trust.as_ref();
        export::clients(certificate, agents, trust, &desired.policy, place)
    };
    reporter.export(clients(&desired, &certificate, None));
    reporter.finish_export();
    let warnings = kept.placed.warnings.clone();
    reporter.ca_installed(kept.placed.ca.clone(), warnings);
    if signals.stop_asked() {
        return Ok(Ending::Stopped);
    }
    reporter.enter(Stage::Spawn);
    let custody = Custody::new(&bottle.pair, run, owner);
    confining::insist_on_ways(&sandbox, &paths.daemon, custody)?;
    let require_sandbox =
        paths.require_sandbox || (mode == Mode::Machine && !arguments.tolerate_holes);
    if require_sandbox {
        confining::insist(reporter)?;
    }
    let apply = |desired: &Desired| match mode {
        Mode::Machine => network::write_names(&desired.policy.network, arguments.ip.as_ref()),
        Mode::Container | Mode::Child => Ok(()),
    };
    let invite = |policy: &Policy| {
        if here {
            places::invite(&export_path, policy);
        }
    };
    let setup = Setup {
        daemon: &paths.daemon,
        config: &run.path().join(pipelock::CONFIG),
        trust_bundle: &trust::bundle_path(run.path()),
        bottle,
        apply: &apply,
        clients: &clients,
        invite: &invite,
        custody,
        sandbox,
        memory,
        require_sandbox,
    };
    let pair = Pair::new(kept, certificate);
    supervise_until_the_end(mode, &setup, desired, pair, looker, signals, reporter)
}

/// A random identifier (RFC 9562, version 4) for this start. It is no secret, so an
/// unseeded generator serves too: nothing may wait this early.
fn boot_id() -> String {
    let mut bytes = [0_u8; 16];
    random::fill_insecurely(&mut bytes);
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
