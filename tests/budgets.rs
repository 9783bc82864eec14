//! What the shipped program may cost while it does nothing but watch: memory and
//! wake-ups, which do not depend on the machine's mood. Its size is judged in `binary.rs`;
//! whatever is timed, in `scripts/bench`.
#![allow(
    clippy::unwrap_used,
    reason = "the functions around the tests fail them by panicking"
)]

mod support;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use microvm::{Arch, shipped_init};

use support::{Bed, Init, Place, proc_field};

/// In bytes, with every page that is mapped, shared ones included.
const RESIDENT: u64 = 1536 * 1024;
/// In bytes: pages that were written, and are nobody else's.
const PRIVATE: u64 = 300 * 1024;

/// The shipped init with a daemon of ours, ready and left alone.
fn idle(supervisor: &str) -> Init {
    let program = shipped_init(Arch::host()).unwrap();
    assert!(
        program.exists(),
        "{} is not built\nhint: scripts/test builds it",
        program.display()
    );
    let bed = Bed::new().with_supervisor(supervisor).with_init(program);
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    init
}

/// A field of `/proc/<pid>/smaps_rollup`, in bytes.
fn mapped(pid: i32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.unwrap().trim_start_matches(':').trim();
    1024 * kib.trim_end_matches("kB").trim().parse::<u64>().unwrap()
}

#[test]
fn takes_no_more_memory_than_it_may() {
    let init = idle("grace_seconds: 1");
    for (field, allowed) in [("Rss", RESIDENT), ("Private_Dirty", PRIVATE)] {
        let measured = mapped(init.pid(), field);
        println!("{field}: {measured} bytes of {allowed}");
        assert!(
            measured <= allowed,
            "{field}: {measured} bytes, {allowed} allowed"
        );
    }
}

#[test]
fn runs_in_one_thread() {
    let init = idle("grace_seconds: 1");
    assert_eq!(proc_field(init.pid(), "Threads").as_deref(), Some("1"));
}

/// Ten seconds see five looks at the manifest and, with one probe an hour, none of those;
/// each look may come with a second wake-up. A loop that polls, or a
/// timer that was forgotten, wakes a hundred times.
#[test]
fn sleeps_but_for_its_looks_at_the_manifest() {
    const WATCHED: Duration = Duration::from_secs(10);
    const ALLOWED: u64 = 10;
    let init = idle("grace_seconds: 1, probe_seconds: 3600");
    let wakeups = || {
        let count = proc_field(init.pid(), "voluntary_ctxt_switches").unwrap();
        count.parse::<u64>().unwrap()
    };
    // What readiness brought with it is over once a second goes by with a look at most.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let before = wakeups();
        thread::sleep(Duration::from_secs(1));
        if wakeups() - before <= 1 {
            break;
        }
        assert!(Instant::now() < end, "it does not come to rest");
    }
    let before = wakeups();
    thread::sleep(WATCHED);
    let counted = wakeups() - before;
    println!("{counted} wake-ups in {} s", WATCHED.as_secs());
    assert!(
        counted <= ALLOWED,
        "{counted} wake-ups in {} s, {ALLOWED} allowed",
        WATCHED.as_secs()
    );
    assert!(counted >= 3, "it does not look at the manifest any more");
}
