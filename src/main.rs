//! Arguments, dispatch, the only exit.

// Where `build.rs` leaves the unwind tables out.
#[cfg(all(panic = "abort", target_env = "musl"))]
mod no_unwind;

use std::process::ExitCode as ProcessExit;

use sidecar_init::boot::mode::{self, Mode};
use sidecar_init::cli::{self, Command};
use sidecar_init::exit::ExitCode;
use sidecar_init::run;

fn main() -> ProcessExit {
    // A kernel hands every word of its command line it does not understand to init.
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let command = match cli::parse(arguments) {
        Ok(command) => command,
        Err(_) if mode::detect() == Mode::Machine => Command::Run(cli::Paths::default()),
        Err(error) => return fail(ExitCode::Usage, &error.to_string()),
    };
    let result = match command {
        Command::Run(paths) => run::run(&paths),
        Command::Check { manifest, strict } => run::check(&manifest, strict),
        Command::Render(paths) => run::render_config(&paths),
        Command::Ca(paths) => run::generate_or_check_ca(&paths),
        Command::Status(options) => run::print_status(&options),
        Command::Healthcheck { run_dir } => run::healthcheck(&run_dir),
        Command::Help => {
            print!("{}", cli::HELP);
            Ok(())
        }
        Command::Version => {
            print!("{}", cli::version());
            Ok(())
        }
    };
    match result {
        Ok(()) => ProcessExit::SUCCESS,
        Err(error) => fail(error.code, &error.text),
    }
}

fn fail(code: ExitCode, text: &str) -> ProcessExit {
    // Problems of a manifest name their file and line already.
    let prefix = if code == ExitCode::ManifestInvalid {
        ""
    } else {
        "sidecar-init: "
    };
    eprintln!("{prefix}{text}");
    ProcessExit::from(code.number())
}
