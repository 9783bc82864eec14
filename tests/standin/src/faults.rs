//! Misbehaviour on demand, so that an init can be shown daemons that break in
//! every way. Chosen by a file beside the program, since an init that starts its
//! daemon properly passes neither environment nor arguments of a test's choosing.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::events;

/// The argument with which the program starts itself as a grandchild.
pub const LINGER: &str = "--standin-linger";

/// What this process shall do wrong. One line of the file each; the default is
/// nothing. Times are milliseconds.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct Faults {
    /// `allow-everything`: healthy, and refuses nothing.
    pub allow_everything: bool,
    /// `hang-health`: takes the request and never answers.
    pub hang_health: bool,
    /// `trickle-health`: answers a byte a second.
    pub trickle_health: bool,
    /// `huge-health`: answers ten megabytes.
    pub huge_health: bool,
    /// `garbage-health`: 200 with something that is no JSON.
    pub garbage_health: bool,
    /// `wrong-mode`: `/health` says balanced.
    pub wrong_mode: bool,
    /// `wrong-version`: `/health` says another version.
    pub wrong_version: bool,
    /// `wrong-hash`: `startup` and `config_reload` carry another hash.
    pub wrong_hash: bool,
    /// `never-bind`: says `startup` and never listens.
    pub never_bind: bool,
    /// `no-startup-event`: never says `startup`.
    pub no_startup_event: bool,
    /// `slow-start MS`: does nothing for so long first.
    pub slow_start: u64,
    /// `exit-at-start CODE`: before anything else.
    pub exit_at_start: Option<i32>,
    /// `exit-after MS CODE`: counted from the bind.
    pub exit_after: Option<(u64, i32)>,
    /// `hang-after MS`: from then on `/health` hangs.
    pub hang_after: Option<u64>,
    /// `die-by-signal N [MS]`: any number, real-time ones too.
    pub die_by_signal: Option<(i32, u64)>,
    /// `ignore-term`: TERM and INT do nothing.
    pub ignore_term: bool,
    /// `drop-reload`: neither HUP nor a new file is taken up.
    pub drop_reload: bool,
    /// `flood-stdout MB`: so many megabytes of lines a second.
    pub flood_stdout: Option<u64>,
    /// `long-line BYTES`: one line of so many bytes.
    pub long_line: Option<usize>,
    /// `binary-output`: every byte value, no UTF-8.
    pub binary_output: bool,
    /// `no-final-newline`: the last line on stderr is never ended.
    pub no_final_newline: bool,
    /// `leave-grandchild`: one that keeps stdout and stderr open for a minute.
    pub leave_grandchild: bool,
    /// `leave-grandchild-session`: the same in a session of its own.
    pub leave_grandchild_session: bool,
}

/// What comes before faults appended to the program.
const TRAILER: &str = "\n#faults\n";
/// As far from the program's end as faults are looked for, in bytes.
const TRAILER_REACH: u64 = 4096;

/// The text appended to the program, if there is any.
fn trailer(program: &str) -> Option<String> {
    let mut file = std::fs::File::open(program).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TRAILER_REACH)))
        .ok()?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).ok()?;
    let end = String::from_utf8_lossy(&end);
    Some(end.rsplit_once(TRAILER)?.1.to_owned())
}

impl Faults {
    /// Reads `<argv0>.faults`, else what stands behind [`TRAILER`] at the end of the
    /// program itself: a sandbox lets a daemon read nothing beside it. Neither is no faults.
    ///
    /// # Errors
    /// A line that names no fault, or a number that is none.
    pub fn beside(program: &str) -> Result<Self, String> {
        let path = PathBuf::from(format!("{program}.faults"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) => trailer(program).unwrap_or_default(),
        };
        Self::parse(&text).map_err(|e| format!("cannot read {}: {e}", path.display()))
    }

    /// Parses the file's lines; empty ones and comments (`#`) are skipped.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            faults
                .take(line)
                .ok_or_else(|| format!("\"{line}\" is not a fault the README lists"))?;
        }
        Ok(faults)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let mut next = || words.next().map(str::parse::<u64>).transpose().ok();
        let first = next()?;
        let second = next()?;
        let code = |n: u64| i32::try_from(n).ok();
        match name {
            "allow-everything" => self.allow_everything = true,
            "hang-health" => self.hang_health = true,
            "trickle-health" => self.trickle_health = true,
            "huge-health" => self.huge_health = true,
            "garbage-health" => self.garbage_health = true,
            "wrong-mode" => self.wrong_mode = true,
            "wrong-version" => self.wrong_version = true,
            "wrong-hash" => self.wrong_hash = true,
            "never-bind" => self.never_bind = true,
            "no-startup-event" => self.no_startup_event = true,
            "slow-start" => self.slow_start = first?,
            "exit-at-start" => self.exit_at_start = Some(code(first?)?),
            "exit-after" => self.exit_after = Some((first?, code(second?)?)),
            "hang-after" => self.hang_after = Some(first?),
            "die-by-signal" => self.die_by_signal = Some((code(first?)?, second.unwrap_or(0))),
            "ignore-term" => self.ignore_term = true,
            "drop-reload" => self.drop_reload = true,
            "flood-stdout" => self.flood_stdout = Some(first?),
            "long-line" => self.long_line = Some(usize::try_from(first?).ok()?),
            "binary-output" => self.binary_output = true,
            "no-final-newline" => self.no_final_newline = true,
            "leave-grandchild" => self.leave_grandchild = true,
            "leave-grandchild-session" => self.leave_grandchild_session = true,
            _ => return None,
        }
        Some(())
    }

    /// What happens before the configuration is read.
    pub fn before_start(&self) {
        std::thread::sleep(Duration::from_millis(self.slow_start));
        if let Some(code) = self.exit_at_start {
            std::process::exit(code);
        }
    }

    /// What happens once the port is bound (or would be).
    pub fn after_bind(&self, program: &str) {
        if self.leave_grandchild || self.leave_grandchild_session {
            leave_grandchild(program, self.leave_grandchild_session);
        }
        if let Some(length) = self.long_line {
            let mut line = vec![b'x'; length];
            line.push(b'\n');
            events::write_raw(&line);
        }
        if self.binary_output {
            let mut bytes: Vec<u8> = (0..=u8::MAX).collect();
            bytes.push(b'\n');
            events::write_raw(&bytes);
        }
        if self.no_final_newline {
            eprint!("a line without an end");
        }
        if let Some(megabytes) = self.flood_stdout {
            std::thread::spawn(move || flood(megabytes));
        }
        if let Some((after, code)) = self.exit_after {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(after));
                std::process::exit(code);
            });
        }
        if let Some((signal, after)) = self.die_by_signal {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(after));
                // Handlers of ours would catch it: first the default again.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
                let _ = signal_hook::low_level::raise(signal);
            });
        }
    }
}

fn flood(megabytes: u64) {
    let line = format!(
        "{{\"event\":\"flood\",\"filler\":\"{}\"}}\n",
        "f".repeat(220)
    );
    let lines = megabytes.saturating_mul(1_000_000) / 10 / line.len() as u64;
    let batch = line.repeat(usize::try_from(lines.max(1)).unwrap_or(1));
    loop {
        let next = Instant::now() + Duration::from_millis(100);
        events::write_raw(batch.as_bytes());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Starts the program twice over, so that the second outlives the first and is
/// handed to whoever reaps orphans.
fn leave_grandchild(program: &str, own_session: bool) {
    let session = if own_session { "session" } else { "group" };
    let child = Command::new(program)
        .args([LINGER, "parent", session])
        .stdin(Stdio::null())
        .spawn();
    match child {
        Ok(mut child) => {
            let _ = child.wait();
        }
        Err(e) => eprintln!("stand-in: cannot leave a grandchild: {e}"),
    }
}

/// The grandchild's two lives.
pub fn linger(program: &str, arguments: &[String]) -> ! {
    let role = arguments.first().map_or("", String::as_str);
    let session = arguments.get(1).map_or("", String::as_str);
    if role == "parent" {
        let _ = Command::new(program)
            .args([LINGER, "child", session])
            .stdin(Stdio::null())
            .spawn();
        std::process::exit(0);
    }
    if session == "session" {
        let _ = nix::unistd::setsid();
    }
    std::thread::sleep(Duration::from_mins(1));
    std::process::exit(0)
}

#[cfg(test)]
mod tests {
    use super::Faults;

    #[test]
    fn reads_one_fault_a_line_with_its_numbers() {
        let faults =
            Faults::parse("# none\n\nallow-everything\nexit-after 250 7\ndie-by-signal 36\n");
        let faults = faults.unwrap();
        assert!(faults.allow_everything);
        assert_eq!(faults.exit_after, Some((250, 7)));
        assert_eq!(faults.die_by_signal, Some((36, 0)));
    }

    #[test]
    fn refuses_a_fault_it_does_not_know_and_a_number_left_out() {
        assert!(Faults::parse("alow-everything").is_err());
        assert!(Faults::parse("exit-after 250").is_err());
        assert!(Faults::parse("slow-start soon").is_err());
    }
}
