//! What tests say, and what the programs have said that they ran.

use std::io::Write;
use std::process::Output;

/// A line that the harness does not hide, as it does with what a test prints that passes.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What a program printed, on both streams.
pub fn both(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&said).into_owned()
}
