//! A panic, which is a defect of this program, as a result that the host reads.

use crate::boot::mode::Mode;
use crate::exit::ExitCode;
use crate::shutdown;
use crate::status;
use crate::sys::console;
use crate::sys::fork;

/// A panic is a defect; PID 1 may not die of it before it has said so, because the
/// kernel would panic too and the host would learn nothing. A person at a terminal has read
/// the error, which is what there is to say `in_words`.
pub(super) fn record(mode: Mode, in_words: bool) {
    let own = std::process::id();
    std::panic::set_hook(Box::new(move |panic| {
        // A child's is nobody's end but its own.
        if std::process::id() != own {
            fork::end(1);
        }
        let place = panic
            .location()
            .map_or_else(String::new, ToString::to_string);
        let error = format!("internal error: {} at {place}", panic_message(panic));
        log::error!("{error}");
        let result = status::record_internal_error(&error);
        let last = if in_words && console::is_terminal() {
            format!("ended, with code 70: {}", ExitCode::Internal.means())
        } else {
            format!("result {result}")
        };
        let line = format!("sidecar-init: {last}\n");
        console::console().write_lines(console::Stream::Error, line.as_bytes());
        shutdown::end(Some(mode), ExitCode::Internal.number());
    }));
}

fn panic_message<'a>(panic: &'a std::panic::PanicHookInfo<'a>) -> &'a str {
    let payload = panic.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use serde_json::Value;

    use super::*;
    use crate::status::Reporter;
    use crate::sys::console::init_logging;
    use crate::sys::files::Room;

    const DIRECTORY: &str = "SIDECAR_PANICS_IN";
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Not a test: what the one below executes.
    #[test]
    fn panics_where_it_is_told_to() {
        let Some(directory) = std::env::var_os(DIRECTORY) else {
            return;
        };
        init_logging(None);
        let mut reporter = Reporter::new(Instant::now(), "a boot".to_owned());
        record(Mode::Child, true);
        let room = Room::open(Path::new(&directory)).unwrap();
        reporter.tell_in(&room, None).unwrap();
        reporter.finish_stages();
        reporter.state_reached(status::State::Ready, false);
        assert!(reporter.tell_export());
        let numbers = Path::new(&directory).join("export/metrics.prom");
        let end = Instant::now() + PATIENCE;
        while !numbers.is_file() {
            assert!(Instant::now() < end, "nobody tells the export");
            reporter.tick(Instant::now());
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("of all things");
    }

    #[test]
    fn a_panic_takes_back_what_the_status_said() {
        let directory = std::env::temp_dir().join(format!("sidecar-panic-{}", std::process::id()));
        fs::create_dir_all(directory.join("export")).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "story::panics::tests::panics_where_it_is_told_to",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory)
            .output()
            .unwrap();
        let told = fs::read(directory.join(status::FILE)).unwrap();
        // Told by a process of its own, which is not waited for for ever.
        let numbers = directory.join("export/metrics.prom");
        let end = Instant::now() + PATIENCE;
        while numbers.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let numbers = numbers.exists();
        let exported = fs::read(directory.join("export/status.json"));
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(output.status.code(), Some(70), "{output:?}");
        assert_eq!(exported.unwrap(), told);
        assert!(!numbers, "they say that it is ready");
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["state"], "failed");
        assert_eq!(told["outcome"], "failed");
        assert_eq!(told["exit_code"], 70);
        let error = told["error"].as_str().unwrap();
        assert!(
            error.starts_with("internal error: of all things at src/story/panics.rs:"),
            "{error}"
        );
        let console = String::from_utf8(output.stderr).unwrap();
        let last = console.lines().last().unwrap();
        let result = last.strip_prefix("sidecar-init: result ").expect(&console);
        assert_eq!(serde_json::from_str::<Value>(result).unwrap(), told);
    }
}
