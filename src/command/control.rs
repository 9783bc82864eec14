//! `halt`, `resume`, `reload`, `stop`: what the signals ask for, of the init that has a run
//! directory, and the wait until it is so. Touches the kernel: a signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::patience::Patience;
use super::status::condition;
use super::{below, print_done};
use crate::cli::ControlOptions;
use crate::exit::{ExitCode, StartError};
use crate::status::told::{Condition, StatusError, StatusFile};
use crate::status::{State, Word};
use crate::sys::claim::{self, Holder, Life, Seen};
use crate::sys::files::Room;
use crate::sys::process::pid_namespace;
use crate::sys::signals::{Request, TABLE, note_sigterm};

/// Asks the init with this run directory, and waits until it is as asked for; what is true
/// then is printed.
pub fn control(options: &ControlOptions) -> Result<(), StartError> {
    let unavailable = |why: String| StartError::new(ExitCode::DaemonUnavailable, below(&why, "  "));
    let patience = Patience::of(options.timeout_seconds);
    let read = || patience.read(&options.run_dir).map(|(file, _)| file);
    let before = loop {
        match read() {
            Ok(before) => break before,
            Err(StatusError::NotYet(_)) if !patience.is_over() => {
                std::thread::sleep(super::LOOK_INTERVAL);
            }
            Err(error) => return Err(unavailable(ask_unread(options, &error)?)),
        }
    };
    if let Some(so) = outcome(options.request, &before, None) {
        return say(so.map_err(|(code, why)| {
            let hint = "hint: no sidecar-init runs with this run directory any more; name another with --run-dir";
            (code, format!("{}: {why}\n{hint}", options.run_dir.display()))
        }));
    }
    let holder = reachable(before.claim).map_err(|why| {
        unavailable(format!(
            "cannot {} what runs with {}: {why}",
            verb(options.request),
            options.run_dir.display()
        ))
    })?;
    // Whoever ends a container ends everybody in it, and this command as well.
    let told_to_end = match options.request {
        Request::Stop => note_sigterm().ok(),
        _ => None,
    };
    send(options.request, holder)?;
    loop {
        let now = read();
        let is_told = |it: &Arc<AtomicBool>| it.load(Ordering::Relaxed);
        if told_to_end.as_ref().is_some_and(is_told) {
            // By itself: whom it sends to read is ended as well.
            let now = StatusFile::bytes(&options.run_dir)
                .and_then(|found| StatusFile::judge(&options.run_dir, &found));
            let now = now.map_err(|error| unavailable(error.to_string()))?;
            return say(ended_with(&now));
        }
        let now = now.map_err(|error| unavailable(error.to_string()))?;
        if let Some(so) = outcome(options.request, &now, Some(&before)) {
            return say(so);
        }
        if patience.is_over() {
            return Err(unavailable(format!(
                "asked to {}, and it has not within {} s: {}",
                verb(options.request),
                options.timeout_seconds,
                condition(&now)
            )));
        }
        std::thread::sleep(super::LOOK_INTERVAL);
    }
}

/// What is said where the status cannot be read. A brake is put on all the same, by the lock alone.
fn ask_unread(options: &ControlOptions, error: &StatusError) -> Result<String, StartError> {
    let is_brake = matches!(options.request, Request::Halt | Request::Stop);
    // A file system that does not answer would stop this process as well.
    if is_brake
        && !matches!(error, StatusError::Unread(..))
        && let Ok(room) = Room::open(&options.run_dir)
        && let Ok(holder) = reachable(claim::look(&room, &mut Vec::new()))
    {
        send(options.request, holder)?;
        let verb = verb(options.request);
        return Ok(format!(
            "{error}\nasked to {verb} all the same: whether it has cannot be said"
        ));
    }
    Ok(error.to_string())
}

/// What came of it: words for standard output, or the failure.
type Outcome = Result<String, (ExitCode, String)>;

fn say(outcome: Outcome) -> Result<(), StartError> {
    let words = outcome.map_err(|(code, why)| StartError::new(code, below(&why, "  ")))?;
    print_done(&format!("{words}\n"));
    Ok(())
}

/// What `request` has come to by the newest status, if it has: `before` is the status from
/// before it was asked for, if it was. Pure.
fn outcome(request: Request, now: &StatusFile, before: Option<&StatusFile>) -> Option<Outcome> {
    let status = &now.status;
    let ended = || {
        let error = status.error.as_ref();
        let error = error.map_or_else(String::new, |error| format!(": {error}"));
        let why = format!("{}{error}", condition(now));
        Some(Err((ExitCode::DaemonUnavailable, why)))
    };
    let another = before.is_some_and(|before| before.status.boot_id != status.boot_id);
    // What was true before somebody else's request, that waits still, proves nothing.
    let heard = before.is_some_and(|before| status.requests > before.status.requests);
    match (&now.condition, request) {
        // Whoever else has the port may give it up: that is looked for all the time.
        (Condition::Told(Word::Known(State::Halted)), Request::Halt)
            if heard
                && status
                    .port
                    .as_ref()
                    .is_some_and(|port| port.closed == Some(true)) =>
        {
            Some(Ok(condition(now)))
        }
        (Condition::Told(Word::Known(State::Ready)), Request::Resume) if heard => {
            Some(Ok(condition(now)))
        }
        (Condition::Told(Word::Known(State::Stopped)), Request::Stop)
            if before.is_none() || now.claim.life == Some(Life::Gone) =>
        {
            Some(Ok(condition(now)))
        }
        (Condition::Told(Word::Known(State::Stopped)), Request::Stop) => None,
        (Condition::Told(Word::Known(State::Failed)) | Condition::Killed, Request::Stop)
            if before.is_none() =>
        {
            Some(Ok(condition(now)))
        }
        _ if another => Some(Err((
            ExitCode::DaemonUnavailable,
            "another start of sidecar-init has taken its place".to_owned(),
        ))),
        (Condition::Told(Word::Known(State::Stopped | State::Failed)) | Condition::Killed, _) => {
            ended()
        }
        (_, Request::Reload) => reloaded(now, before?),
        _ => None,
    }
}

/// What is true of a stop that ends who asked for it: the namespace goes with its PID 1, which
/// ends everybody else when no daemon is left. Pure.
fn ended_with(now: &StatusFile) -> Outcome {
    if now.is(State::Stopping) && now.status.daemon.pid.is_none() || now.is(State::Stopped) {
        return Ok(
            "stopping: no daemon is left, and this command ends with all the others".to_owned(),
        );
    }
    let why = format!("ended by SIGTERM before it was so: {}", condition(now));
    Err((ExitCode::DaemonUnavailable, why))
}

/// What became of the manifest that was asked to be read again.
fn reloaded(now: &StatusFile, before: &StatusFile) -> Option<Outcome> {
    let (config, last) = (&now.status.config, &before.status.config);
    if config.reloads == last.reloads {
        return None;
    }
    let error = now.status.manifest_error.as_ref();
    if let Some(error) = error.filter(|_| !config.roots_refused) {
        return Some(Err((
            ExitCode::ManifestInvalid,
            format!(
                "{error}\nthe manifest of generation {} stays",
                config.generation
            ),
        )));
    }
    let generation = config.generation;
    let settled = now.is(State::Ready) && config.applied_generation >= generation;
    let words = match (generation == last.generation, now.is(State::Halted)) {
        (_, true) => format!("generation {generation} is read, and in force once it is resumed"),
        (true, false) if settled => {
            format!("the manifest asks for the same as before: generation {generation} is in force")
        }
        (false, false) if settled => format!("generation {generation} is in force"),
        _ => return None,
    };
    // It says that of the roots, which are waited for no longer than the manifest.
    Some(match error {
        None => Ok(words),
        Some(error) => Err((ExitCode::ManifestInvalid, format!("{error}\n{words}"))),
    })
}

/// Whom to ask; or why it cannot be asked from here.
fn reachable(claim: Seen) -> Result<Holder, &'static str> {
    let holder = claim.holder.ok_or(
        "nobody is known to run with it\n\
         hint: give --run-dir the run directory itself: an export has no lock, and the lock is for its owner alone; \
         what runs in a container or machine is asked in there, as with docker exec",
    )?;
    if pid_namespace() != Some(holder.namespace) {
        return Err("it runs in another PID namespace\n\
             hint: run this command in its container or machine, as with docker exec, kubectl exec, \
             smolvm machine exec");
    }
    // A directory of somebody else's may name any process.
    if !holder.is_the_owners() {
        return Err("its lock names a process of another user than its own, which is not asked");
    }
    Ok(holder)
}

fn send(request: Request, holder: Holder) -> Result<(), StartError> {
    let number = TABLE.iter().find(|(_, means)| *means == request);
    let signal = number.and_then(|(number, _)| Signal::try_from(*number).ok());
    kill(Pid::from_raw(holder.pid), signal).map_err(|errno| {
        let hint = match errno {
            Errno::EPERM => "\nhint: run this as the user it runs as, or as root",
            _ => "",
        };
        StartError::system(format!(
            "cannot {} sidecar-init (pid {}): {}{hint}",
            verb(request),
            holder.pid,
            errno.desc()
        ))
    })
}

fn verb(request: Request) -> &'static str {
    match request {
        Request::Halt => "halt",
        Request::Resume => "resume",
        Request::Reload => "reload",
        Request::Stop | Request::Reap => "stop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(fields: &str) -> StatusFile {
        StatusFile::parse(format!(r#"{{"schema":1,"boot_id":"one",{fields}}}"#).as_bytes()).unwrap()
    }

    const CLOSED: &str = r#""port":{"address":"127.0.0.1:8888","closed":true}"#;

    #[test]
    fn a_halt_and_a_resume_are_asked_for_whatever_is_true_and_are_so_once_they_were_heard() {
        let halted = |requests: u64| {
            file(&format!(
                r#""state":"halted","requests":{requests},{CLOSED}"#
            ))
        };
        let ready = |requests: u64| file(&format!(r#""state":"ready","requests":{requests}"#));
        for (request, now, words) in [
            (
                Request::Halt,
                &halted as &dyn Fn(u64) -> StatusFile,
                "halted; nothing gets through until it is resumed",
            ),
            (
                Request::Resume,
                &ready,
                "ready; what is not allowed is refused",
            ),
        ] {
            assert_eq!(outcome(request, &now(3), None), None);
            // Somebody else's may wait, and take it back.
            assert_eq!(outcome(request, &now(3), Some(&now(3))), None);
            let so = outcome(request, &now(4), Some(&now(3)));
            assert_eq!(so, Some(Ok(words.to_owned())));
        }
    }

    #[test]
    fn what_has_ended_is_not_asked_to() {
        for state in ["stopped", "failed"] {
            let ended = file(&format!(r#""state":"{state}",{CLOSED}"#));
            let words = format!("{state}; nothing gets through");
            assert_eq!(outcome(Request::Stop, &ended, None), Some(Ok(words)));
            for request in [Request::Halt, Request::Resume, Request::Reload] {
                assert!(outcome(request, &ended, None).unwrap().is_err());
            }
        }
        for state in ["ready", "halted", "starting"] {
            let lives = file(&format!(r#""state":"{state}",{CLOSED}"#));
            assert_eq!(outcome(Request::Stop, &lives, None), None);
            assert_eq!(outcome(Request::Reload, &lives, None), None);
        }
    }

    #[test]
    fn nothing_is_said_to_be_so_before_it_is() {
        let ready = file(r#""state":"ready""#);
        for (request, now) in [
            // The port is not judged yet.
            (Request::Halt, r#""state":"halted""#),
            (
                Request::Halt,
                r#""state":"halted","requests":1,"port":{"address":"127.0.0.1:8888","closed":false}"#,
            ),
            (
                Request::Halt,
                r#""state":"halted","requests":1,"port":{"address":"127.0.0.1:8888","closed":null}"#,
            ),
            (Request::Halt, r#""state":"stopping""#),
            (Request::Resume, r#""state":"starting""#),
            (Request::Stop, r#""state":"draining""#),
            // The status says so, and the process is still there.
            (Request::Stop, r#""state":"stopped""#),
            (Request::Reload, r#""state":"ready""#),
        ] {
            let found = outcome(request, &file(now), Some(&ready));
            assert_eq!(found, None, "{request:?} {now}");
        }
    }

    #[test]
    fn an_end_that_was_not_asked_for_is_a_failure() {
        let ready = file(r#""state":"ready""#);
        let failed = file(r#""state":"failed","error":"why""#);
        for request in [Request::Halt, Request::Resume, Request::Reload] {
            let (code, why) = outcome(request, &failed, Some(&ready))
                .unwrap()
                .unwrap_err();
            assert_eq!(code, ExitCode::DaemonUnavailable);
            assert_eq!(why, "failed; no pipelock was started: why");
        }
        let other =
            StatusFile::parse(br#"{"schema":1,"boot_id":"two","state":"starting"}"#).unwrap();
        let (_, why) = outcome(Request::Halt, &other, Some(&ready))
            .unwrap()
            .unwrap_err();
        assert!(why.starts_with("another start"), "{why}");
    }

    #[test]
    fn a_reload_is_over_when_it_was_answered_and_is_in_force() {
        let before =
            file(r#""state":"ready","config":{"generation":2,"applied_generation":2,"reloads":1}"#);
        let config = |fields: &str| format!(r#""config":{{"reloads":2,{fields}}}"#);
        let same = config(r#""generation":2,"applied_generation":2"#);
        let taken = config(r#""generation":3,"applied_generation":2"#);
        let newer = config(r#""generation":3,"applied_generation":3"#);
        for (state, config, wanted) in [
            (
                "ready",
                &same,
                Some(Ok(
                    "the manifest asks for the same as before: generation 2 is in force",
                )),
            ),
            ("reloading", &taken, None),
            ("ready", &taken, None),
            ("ready", &newer, Some(Ok("generation 3 is in force"))),
            (
                "halted",
                &taken,
                Some(Ok("generation 3 is read, and in force once it is resumed")),
            ),
        ] {
            let now = file(&format!(r#""state":"{state}",{config}"#));
            let found = outcome(Request::Reload, &now, Some(&before));
            assert_eq!(
                found,
                wanted.map(|words: Result<&str, _>| words.map(str::to_owned))
            );
        }
        // Of roots it is said once the manifest is in force.
        let rootless = |generations: &str| {
            let config = config(&format!(r#""roots_refused":true,{generations}"#));
            let now = file(&format!(
                r#""state":"ready","manifest_error":"x.pem: why",{config}"#
            ));
            outcome(Request::Reload, &now, Some(&before))
        };
        assert_eq!(rootless(r#""generation":3,"applied_generation":2"#), None);
        let why = "x.pem: why\ngeneration 3 is in force".to_owned();
        assert_eq!(
            rootless(r#""generation":3,"applied_generation":3"#),
            Some(Err((ExitCode::ManifestInvalid, why)))
        );
        let refused = file(&format!(
            r#""state":"ready","manifest_error":"m:1: why",{same}"#
        ));
        let found = outcome(Request::Reload, &refused, Some(&before)).unwrap();
        let why = "m:1: why\nthe manifest of generation 2 stays".to_owned();
        assert_eq!(found, Err((ExitCode::ManifestInvalid, why)));
    }
}
