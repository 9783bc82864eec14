//! pipelock inside the daemon's sandbox, by itself: runs the program `CONFINED` names
//! with its own arguments. As `PIPELOCK_BIN` it takes the stand-in's contract suite into
//! the sandbox; as an unprivileged user, because that suite's files are its user's.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests")]

use std::path::{Path, PathBuf};

use sidecar_init::sandbox::enter::{Program, become_command};
use sidecar_init::sandbox::landlock::Grants;
use sidecar_init::sandbox::{Privileges, Sandbox};

fn main() {
    let program = PathBuf::from(std::env::var_os("CONFINED").expect("CONFINED names a program"));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // As the init does: the configuration's directory, which has the CA pair too here.
    // `--config FILE`, `--config=FILE`, `-c FILE`, `-cFILE`: the one path there is.
    let directory = arguments
        .iter()
        .find_map(|argument| argument.find('/').and_then(|at| argument.get(at..)))
        .and_then(|config| Path::new(config).parent())
        .unwrap_or(Path::new("/nonexistent"));
    let listen = arguments
        .iter()
        .skip_while(|argument| *argument != "--listen")
        .nth(1)
        .and_then(|address| {
            // Go's `:8888` is every address.
            let every = format!("0.0.0.0{address}");
            address.parse().or_else(|_| every.parse()).ok()
        });
    let environment: Vec<String> = std::env::vars()
        .filter(|(name, _)| name != "CONFINED")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let command = Program::new(&program, &arguments, &environment).unwrap();
    let sandbox = Sandbox::plan(Privileges::of_this_process());
    let listen = listen.unwrap_or(([127, 0, 0, 1], 8888).into());
    let grants = Grants::proxy(program, vec![directory.to_owned()], listen);
    let prepared = sandbox.prepare(&grants).unwrap();
    eprintln!("{}", become_command(&command, &sandbox, &prepared));
    std::process::exit(127);
}
