//! Child processes that never outlive this one.
//!
//! `setpriv --pdeathsig` asks the kernel to kill the child with its parent, so that even
//! a test runner that gets SIGKILL leaves nothing. The kernel means the parent *thread*
//! (prctl(2), `PR_SET_PDEATHSIG`): a test's own thread may end before the machine it
//! shares with others, so one thread that lives as long as the process starts them all.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

type Order = (Command, Sender<io::Result<Child>>);

static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();

/// A command that will be killed with this process; give it to [`start`].
pub(crate) fn bound_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Start a command from the thread that never ends.
pub(crate) fn start(command: Command) -> io::Result<Bound> {
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The asker may have died of a panic; then the child is killed again.
                if let Err(unwanted) = answer.send(command.spawn())
                    && let Ok(child) = unwanted.0
                {
                    drop(Bound(child));
                }
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    let gone = || io::Error::other("internal error: the starter thread has ended");
    starter
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?.map(Bound)
}

/// A child that is killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Bound(pub(crate) Child);

impl Drop for Bound {
    fn drop(&mut self) {
        // Both fail only when it is dead and reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program can be found, in `PATH` or in the system directories that an
/// ordinary user's `PATH` lacks.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
