//! Boots the bundle in QEMU for the tests and for `scripts/run`: shares, disks, a network
//! segment, the console as text; and ends all of it, whatever happens to the caller.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use microvm::{BOOT_DEADLINE, Bundle, Machine};
//!
//! let bundle = Bundle::from_target()?;
//! let machine = Machine::builder(&bundle)
//!     .manifest_dir("tests/fixtures/minimal")
//!     .forward(8888)
//!     .boot()?;
//! machine.wait_for_line("stage ready", BOOT_DEADLINE)?;
//! let proxy = machine.forwarded(8888)?;
//! # Ok(())
//! # }
//! ```

mod bundle;
mod console;
mod disk;
mod error;
mod http;
mod machine;
mod process;
mod qmp;
mod resolver;
mod running;
mod scratch;
mod share;
mod status;
mod upstream;
mod vsock;

use std::time::Duration;

pub use bundle::{Arch, Bundle, shipped_init};
pub use disk::{FileSystem, make_disk, make_empty_disk};
pub use error::Error;
pub use http::{Response, connect_through, get, get_through};
pub use machine::{Machine, MachineBuilder, accelerator};
pub use resolver::{Query, RESOLVER_ADDRESS};
pub use running::{Ending, Running};
pub use scratch::ScratchDir;
pub use status::{read_status, wait_for_status};
pub use upstream::Upstream;
pub use vsock::vsock_device;

/// Long enough for an emulated boot on a busy two-core machine; a boot takes 2 to 6 s.
pub const BOOT_DEADLINE: Duration = Duration::from_mins(2);

/// The guest's address on the network segment.
pub const GUEST_ADDRESS: &str = "10.0.2.15";

/// Where the guest finds the host's loopback.
pub const HOST_ADDRESS: &str = "10.0.2.2";
