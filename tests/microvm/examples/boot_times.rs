//! Boots a bundle once and prints how long each part took, as one line of JSON, for
//! `scripts/bench`: to the kernel's word that it runs init, to the line that says ready,
//! and from Ctrl-Alt-Del to the end.
//!
//!     boot_times DIRECTORY READY_LINE [--init PATH] [--memory MIB] [--manifest DIRECTORY]

use std::error::Error;
use std::time::{Duration, Instant};

use microvm::{Arch, Bundle, Ending, Machine, accelerator, connect_through};
use serde_json::json;

const PORT: u16 = 8888;
/// A machine with too little memory may hang instead of ending.
const DEADLINE: Duration = Duration::from_secs(15);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or(format!("{what} is missing"));
    let bundle = Bundle::in_directory(Arch::host(), next("DIRECTORY")?)?;
    let ready_line = next("READY_LINE")?;
    // The kernel tells that it runs init at this level.
    let mut builder = Machine::builder(&bundle)
        .kernel_arg("loglevel=7")
        .kernel_arg("printk.time=1")
        .keyboard()
        .forward(PORT);
    while let Ok(option) = next("") {
        let value = next(&option)?;
        builder = match option.as_str() {
            "--init" => builder.kernel_arg(format!("init={value}")),
            "--memory" => builder.memory_mib(value.parse()?),
            "--manifest" => builder.manifest_dir(value),
            _ => return Err(format!("cannot understand {option:?}").into()),
        };
    }

    let started = Instant::now();
    let machine = builder.boot()?;
    let line = machine.wait_for_line("as init process", DEADLINE)?;
    let running = Instant::now();
    machine.wait_for_line(&ready_line, DEADLINE)?;
    let ready = Instant::now();
    let proxy = machine.forwarded(PORT)?;
    let (denied, _) = connect_through(proxy, "elsewhere.test:443")?;
    let asked = Instant::now();
    machine.control_alt_delete()?;
    let ending = machine.wait_end(DEADLINE)?;
    let ended = Instant::now();

    let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1000.0;
    println!(
        "{}",
        json!({
            "kernel_to_init": seconds_of_kernel(&line).map(|seconds| seconds * 1000.0),
            "qemu_to_init": milliseconds(started, running),
            "init_to_ready": milliseconds(running, ready),
            "stop_to_end": milliseconds(asked, ended),
            "accelerator": accelerator(Arch::host()),
            "refuses": denied.status == 403,
            "ends_well": ending == Ending::Reset,
        })
    );
    Ok(())
}

/// The kernel's own time of a line: `[    0.512345] Run /sbin/init as init process`.
fn seconds_of_kernel(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once('[')?;
    let (time, _) = rest.split_once(']')?;
    time.trim().parse().ok()
}
