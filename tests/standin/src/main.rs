//! A stand-in for pipelock 2.3.0, for the tests of sidecar-init: it behaves the
//! same wherever the init could tell the difference. Not a security product.

mod body;
mod ca;
mod cli;
mod config;
mod dlp;
mod events;
mod faults;
mod guard;
mod health;
mod intercept;
mod proxy;
mod reload;
mod response;
mod run;
mod state;
mod tunnel;
mod upstream;
mod yaml;

use std::process::ExitCode;

use cli::Command;

/// The version it stands in for.
pub const VERSION: &str = "2.3.0";

const HELP: &str = "\
Stand-in for pipelock 2.3.0, for tests. Not a security product.

Usage:
  pipelock run [-c|--config FILE] [-l|--listen ADDRESS] [-m|--mode MODE]
  pipelock check [-c|--config FILE]
  pipelock version | --version
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_else(|| "pipelock".to_owned());
    let arguments: Vec<String> = arguments.collect();
    if let Some((faults::LINGER, rest)) = arguments.split_first().map(|(a, r)| (a.as_str(), r)) {
        faults::linger(&program, rest);
    }
    match cli::parse(&arguments) {
        Ok(Command::Run(options)) => return run::run(&program, &options),
        Ok(Command::Check(path)) => return check(path.as_deref()),
        Ok(Command::Version) => {
            // On stderr, as pipelock's own; --version goes to stdout.
            eprintln!("pipelock version {VERSION} (stand-in)\n  for tests, not a security product");
        }
        Ok(Command::VersionFlag) => println!("pipelock version {VERSION} (stand-in)"),
        Ok(Command::Help) => print!("{HELP}"),
        Err(cause) => {
            eprintln!("{cause}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Judges a file as `run` would, but for the CA: whether that is any good only
/// `run` finds out.
fn check(path: Option<&str>) -> ExitCode {
    let config = match path {
        None => {
            eprintln!("Using default config (no --config specified)");
            Ok(config::Config::default())
        }
        Some(path) => config::load(path),
    };
    match config {
        Ok(config) => {
            eprintln!("Config validation: OK");
            eprintln!("  Mode:           {}", config.mode);
            eprintln!("  Listen:         {}", config.listen);
            eprintln!("  API allowlist:  {} domains", config.api_allowlist.len());
            eprintln!("  DLP patterns:   {} rules", config.dlp_patterns);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
