//! What clients work with: `servers.py`, started and listened to.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::interception::Running;

/// A running `servers.py`, ended on drop.
pub struct Servers {
    process: Running,
    /// The port of HTTPS.
    pub https: u16,
    /// `SUM_NAME` and the SHA-256 of what is served under it.
    pub sums: Vec<(String, String)>,
}

impl Servers {
    /// Runs `script` with `directory`, which has the certificate, as `$1`, and `servers.py` as
    /// `$2`: it is to become that. `shell` is what leads to `sh`.
    pub fn start(mut shell: Command, script: &str, directory: &Path) -> Self {
        let mut process = shell
            .args(["sh", "-euc", script, "sh"])
            .arg(directory)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/support/servers.py"
            ))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let process = Running(process);
        let made: Value = serde_json::from_str(&line).expect("servers.py says above why not");
        let sums = made["sums"].as_object().unwrap().iter();
        let sums =
            sums.map(|(name, sum)| (format!("SUM_{name}"), sum.as_str().unwrap().to_owned()));
        Self {
            https: u16::try_from(made["https"].as_u64().unwrap()).unwrap(),
            sums: sums.collect(),
            process,
        }
    }

    /// The process itself, in whatever namespaces it is.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}
