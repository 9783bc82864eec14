//! Arguments, dispatch, the only exit.
//!
//! `main` is C's: what Rust's runtime does before its own aborts PID 1 without a word
//! where standard streams are closed and `/dev/null` is missing, or where a filter around
//! us refuses poll(2) or sigaction(2).
#![no_main]

// Where `build.rs` leaves the unwind tables out.
#[cfg(all(panic = "abort", target_env = "musl"))]
mod no_unwind;

use std::ffi::{CStr, OsString, c_char, c_int};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;

use nix::libc;
use sidecar_init::boot::mode::{self, Mode};
use sidecar_init::cli::{self, Command};
use sidecar_init::command;
use sidecar_init::exit::ExitCode;
use sidecar_init::plain;
use sidecar_init::story;
use sidecar_init::sys::console;
use sidecar_init::sys::signals::{self, Disposition};

/// The C library's entry.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    console::open_standard_streams();
    // What cannot be ignored ends us as it ends anybody.
    let _ = signals::dispose(libc::SIGPIPE, Disposition::Ignored);
    let arguments = (1..usize::try_from(count).unwrap_or(0)).map(|index| {
        // SAFETY: C's contract: so many pointers to strings that live as long as we do.
        let word = unsafe { CStr::from_ptr(*words.add(index)) };
        OsString::from_vec(word.to_bytes().to_vec())
    });
    // Not `return`: the exit writes out what was printed.
    std::process::exit(obey(arguments.collect()).into())
}

/// Does what the arguments say; the exit code.
fn obey(arguments: Vec<OsString>) -> u8 {
    let command = match cli::parse(arguments) {
        Ok(command @ Command::Run(_)) => command,
        // A kernel hands every word of its command line it does not understand to init, and
        // one that is a command of ours would end the machine.
        _ if mode::detect() == Mode::Machine => Command::Run(cli::RunOptions::default()),
        Ok(command) => command,
        Err(error) => return fail(ExitCode::Usage, &error.to_string()),
    };
    let result = match command {
        Command::Run(options) => story::run(&options),
        Command::Check {
            manifest,
            strict,
            json: true,
        } => command::check_as_json(&manifest, strict),
        Command::Check {
            manifest, strict, ..
        } => command::check(&manifest, strict),
        Command::Render(paths) => command::render_config(&paths),
        Command::Ca(paths) => command::generate_or_check_ca(&paths),
        Command::Status(options) => command::print_status(&options),
        Command::Healthcheck {
            run_dir,
            timeout_seconds,
            daemon,
        } => command::healthcheck(&run_dir, daemon.as_deref(), timeout_seconds),
        Command::Import(options) => command::import(&options),
        Command::Watch(options) => command::watch(&options),
        Command::Grant(options) => command::grant(&options),
        Command::Control(options) => command::control(&options),
        Command::Help => command::print_as_it_is(&cli::help()),
        Command::Version => command::print_as_it_is(&cli::version()),
    };
    match result {
        Ok(()) => ExitCode::Success.number(),
        Err(error) => fail(error.code, &error.to_string()),
    }
}

fn fail(code: ExitCode, text: &str) -> u8 {
    // Problems of a manifest name their file and line already.
    let prefix = if code == ExitCode::ManifestInvalid {
        ""
    } else {
        "sidecar-init: "
    };
    // Whatever it cannot be written for, the code says what is so.
    let _ = writeln!(io::stderr(), "{prefix}{}", plain::lines(text));
    code.number()
}
