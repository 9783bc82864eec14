//! A program in the sandbox of one of the bundle's daemons, by itself: the library's own
//! sandbox around whatever a test wants in it, with a mechanism left out where the test asks
//! what that one is for.
//!
//! `companion [OPTION VALUE]... -- PROGRAM ARGUMENT...`, where OPTION is `user` (a
//! companion's; without it the sandbox is pipelock's), `read`, `execute`, `write`, `bind`,
//! `connect`, `env` (NAME=VALUE) or `without` (`landlock` or `seccomp`). What the sandbox
//! lacks is said on standard error, a line `missing: SENTENCE` each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "for tests"
)]

use std::path::PathBuf;

use sidecar_init::sandbox::enter::{Program, become_command};
use sidecar_init::sandbox::landlock::Grants;
use sidecar_init::sandbox::seccomp::Profile;
use sidecar_init::sandbox::{Privileges, Sandbox};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut privileges = Privileges::of_this_process();
    let (mut user, mut connect, mut environment) = (None, Vec::new(), Vec::new());
    let mut grants = Grants {
        program: PathBuf::new(),
        read: Vec::new(),
        execute: Vec::new(),
        write: Vec::new(),
        bind: Vec::new(),
        connect: None,
    };
    while let Some(option) = arguments.next().filter(|it| it != "--") {
        let value = arguments.next().expect("each option has a value");
        let number = || value.parse().expect("a port");
        match option.as_str() {
            "user" => user = Some(value.parse().expect("a user")),
            "read" => grants.read.push(value.into()),
            "execute" => grants.execute.push(value.into()),
            "write" => grants.write.push(value.into()),
            "bind" => grants.bind.push(number()),
            "connect" => connect.push(number()),
            "env" => environment.push(value),
            "without" if value == "landlock" => privileges.landlock = 0,
            "without" if value == "seccomp" => privileges.seccomp = false,
            _ => panic!("no option: {option} {value}"),
        }
    }
    let words: Vec<String> = arguments.collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (program, rest) = words.split_first().expect("a program");
    grants.program = program.into();
    let mut sandbox = Sandbox::plan(privileges);
    if let Some(user) = user {
        sandbox = sandbox.companion(user, None, Profile::general(&connect));
        grants.connect = Some(connect);
    }
    let command = Program::new(&grants.program, rest, &environment).unwrap();
    let prepared = sandbox.prepare(&grants).unwrap();
    for sentence in &prepared.missing {
        eprintln!("missing: {sentence}");
    }
    eprintln!("{}", become_command(&command, &sandbox, &prepared));
    std::process::exit(127);
}
