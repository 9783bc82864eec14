//! How machines start and end, whatever the bundle's init does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use microvm::{
    BOOT_DEADLINE, Bundle, Ending, Error, FileSystem, Machine, ScratchDir, make_disk,
    make_empty_disk,
};

/// A root filesystem without any program: its kernel gives up after the root is mounted.
fn root_without_init(scratch: &ScratchDir) -> Result<PathBuf, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(scratch.join("root/dev"))?;
    let image = scratch.join("root.erofs");
    make_disk(FileSystem::Erofs, &scratch.join("root"), &image)?;
    Ok(image)
}

fn is_alive(pid: u32) -> bool {
    // A zombie has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOOT_DEADLINE;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what}: not within {BOOT_DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn tells_a_kernel_that_gave_up_from_a_machine_that_was_reset() {
    let scratch = ScratchDir::new().unwrap();
    let machine = Machine::builder(&Bundle::from_target().unwrap())
        .root_override(root_without_init(&scratch).unwrap())
        .boot()
        .unwrap();
    match machine.wait_end(BOOT_DEADLINE).unwrap() {
        Ending::Crash(words) => assert!(words.contains("Kernel panic"), "{words}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_the_disks_in_the_order_in_which_they_were_attached() {
    let scratch = ScratchDir::new().unwrap();
    let (manifest, state) = (scratch.join("manifest.img"), scratch.join("state.img"));
    std::fs::create_dir(scratch.join("manifest")).unwrap();
    make_disk(FileSystem::Erofs, &scratch.join("manifest"), &manifest).unwrap();
    make_empty_disk(&state).unwrap();
    let sectors = |image: &Path| std::fs::metadata(image).unwrap().len() / 512;
    assert_ne!(sectors(&manifest), sectors(&state));

    let machine = Machine::builder(&Bundle::from_target().unwrap())
        .root_override(root_without_init(&scratch).unwrap())
        .manifest_disk(FileSystem::Erofs, &manifest)
        .state_disk(&state)
        .kernel_arg("loglevel=7")
        .boot()
        .unwrap();
    for (name, image) in [("vdb", &manifest), ("vdc", &state)] {
        let line = format!("[{name}] {} 512-byte logical blocks", sectors(image));
        machine.wait_for_line(&line, BOOT_DEADLINE).unwrap();
    }
}

#[test]
fn shows_the_console_s_end_when_a_line_never_comes() {
    let scratch = ScratchDir::new().unwrap();
    let machine = Machine::builder(&Bundle::from_target().unwrap())
        .root_override(root_without_init(&scratch).unwrap())
        .boot()
        .unwrap();
    let error = machine
        .wait_for_line("no kernel says this", BOOT_DEADLINE)
        .unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    assert!(error.to_string().contains("Kernel panic"), "{error}");
}

#[test]
fn passes_on_what_qemu_says_when_it_cannot_start() {
    let error = Machine::builder(&Bundle::from_target().unwrap())
        .root_override("/nonexistent/root.erofs")
        .boot()
        .unwrap_err();
    let words = error.to_string();
    assert!(words.contains("/nonexistent/root.erofs"), "{words}");
    let status = "cannot start the machine: QEMU has ended (exit status: 1), and says: ";
    assert!(words.starts_with(status), "{words}");
}

#[test]
fn tells_how_qemu_ended_where_the_guest_has_said_nothing() {
    let machine = Machine::builder(&Bundle::from_target().unwrap())
        .boot()
        .unwrap();
    assert!(machine.qemu_in_words().starts_with("QEMU runs"));
    let killed = Command::new("kill")
        .args(["-KILL", &machine.pid().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    machine.wait_end(BOOT_DEADLINE).unwrap();
    let words = machine.qemu_in_words();
    assert!(
        words.starts_with("QEMU has ended (signal: 9 (SIGKILL))"),
        "{words}"
    );
}

#[test]
fn ends_qemu_when_the_machine_is_dropped() {
    let machine = Machine::builder(&Bundle::from_target().unwrap())
        .boot()
        .unwrap();
    let pid = machine.pid();
    assert!(is_alive(pid));
    drop(machine);
    assert!(!is_alive(pid));
}

#[test]
fn ends_qemu_when_the_test_panics() {
    let bundle = Bundle::from_target().unwrap();
    let (tell, pid) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let machine = Machine::builder(&bundle).boot().unwrap();
        tell.send(machine.pid()).unwrap();
        panic!("on purpose: the machine must go with it");
    });
    let pid = pid.recv().unwrap();
    assert!(test.join().is_err());
    assert!(!is_alive(pid));
}

#[test]
fn keeps_a_machine_whose_starting_thread_has_ended() {
    let bundle = Bundle::from_target().unwrap();
    let start = || Machine::builder(&bundle).boot().unwrap();
    let machine = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    machine.qmp("query-status", &serde_json::json!({})).unwrap();
}

#[test]
fn leaves_no_process_when_its_owner_is_killed() {
    // The owner puts everything below this directory, so its path is in their arguments.
    let scratch = ScratchDir::new().unwrap();
    let marker = scratch.path().to_str().unwrap();
    let descendants = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                std::fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
            })
            .count()
    };
    let mut owner = Command::new(env!("CARGO_BIN_EXE_microvm"))
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // QEMU and two virtiofsd.
    wait_until("the machine starts", || descendants() >= 3);
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the machine ends", || descendants() == 0);
}
