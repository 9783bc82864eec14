//! Describing a machine, and starting it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::console::Console;
use crate::process::{bound_command, find_program, start};
use crate::qmp::Monitor;
use crate::resolver::{Port, Resolver};
use crate::running::{Parts, in_words};
use crate::share::Share;
use crate::vsock::Vsock;
use crate::{
    Arch, Bundle, Error, FileSystem, GUEST_ADDRESS, HOST_ADDRESS, RESOLVER_ADDRESS, Running,
    ScratchDir,
};

/// The network segment's own resolver, which asks the host's.
const SLIRP_RESOLVER: &str = "10.0.2.3";

/// Where a machine's description starts.
#[derive(Debug)]
pub struct Machine;

impl Machine {
    /// A machine that boots the bundle's root, with 256 MiB, one processor, a random number
    /// device and one network card, addressed by the kernel's `ip=` argument.
    pub fn builder(bundle: &Bundle) -> MachineBuilder {
        MachineBuilder {
            bundle: bundle.clone(),
            shares: Vec::new(),
            disks: Vec::new(),
            kernel_args: Vec::new(),
            memory_mib: 256,
            processors: 1,
            rtc_base: None,
            devices: vec!["virtio-rng-device"],
            processor: "max",
            address_by_kernel_arg: true,
            forwards: Vec::new(),
            names: None,
            vsock: None,
            echo: false,
        }
    }
}

#[derive(Clone, Debug)]
struct Disk {
    path: PathBuf,
    writable: bool,
    /// The kernel argument that tells the init of it: `sidecar.mount` or `sidecar.state`.
    argument: &'static str,
    kind: FileSystem,
}

/// A machine that is not started yet.
#[derive(Clone, Debug)]
#[must_use = "a machine starts at boot()"]
pub struct MachineBuilder {
    bundle: Bundle,
    shares: Vec<(&'static str, PathBuf)>,
    disks: Vec<Disk>,
    kernel_args: Vec<String>,
    memory_mib: u32,
    processors: u32,
    rtc_base: Option<String>,
    devices: Vec<&'static str>,
    processor: &'static str,
    address_by_kernel_arg: bool,
    forwards: Vec<u16>,
    names: Option<Vec<(String, std::net::Ipv4Addr)>>,
    vsock: Option<PathBuf>,
    echo: bool,
}

impl MachineBuilder {
    /// Share a host directory as the virtiofs tag `sidecar`, where the init looks for
    /// `manifest.yaml` when it is told nothing else.
    pub fn manifest_dir(self, directory: impl AsRef<Path>) -> Self {
        self.share("sidecar", directory)
    }

    /// Share a writable host directory as the virtiofs tag `export`, and tell the init.
    pub fn export_dir(self, directory: impl AsRef<Path>) -> Self {
        self.share("export", directory)
            .kernel_arg("sidecar.export=virtiofs:export")
    }

    /// Share a host directory under any tag.
    pub fn share(mut self, tag: &'static str, directory: impl AsRef<Path>) -> Self {
        self.shares.push((tag, directory.as_ref().to_owned()));
        self
    }

    /// Attach a read-only disk with the manifest, and tell the init; see [`crate::make_disk`].
    pub fn manifest_disk(mut self, kind: FileSystem, image: impl AsRef<Path>) -> Self {
        let path = image.as_ref().to_owned();
        self.disks.push(Disk {
            path,
            writable: false,
            argument: "sidecar.mount",
            kind,
        });
        self
    }

    /// Attach a writable ext4 disk that outlives the machine, and tell the init; see
    /// [`crate::make_empty_disk`].
    pub fn state_disk(mut self, image: impl AsRef<Path>) -> Self {
        let path = image.as_ref().to_owned();
        let kind = FileSystem::Ext4;
        self.disks.push(Disk {
            path,
            writable: true,
            argument: "sidecar.state",
            kind,
        });
        self
    }

    /// Add an argument to the kernel's command line.
    pub fn kernel_arg(mut self, argument: impl Into<String>) -> Self {
        self.kernel_args.push(argument.into());
        self
    }

    /// The guest's memory, in MiB.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// The number of processors.
    pub fn processors(mut self, count: u32) -> Self {
        self.processors = count;
        self
    }

    /// The clock at power-on, UTC, as `2001-02-03T04:05:06`.
    pub fn rtc_base(mut self, time: impl Into<String>) -> Self {
        self.rtc_base = Some(time.into());
        self
    }

    /// Leave out the random number device, and the processor's own random numbers where it
    /// has any: the kernel has to gather what it needs.
    pub fn no_entropy(mut self) -> Self {
        self.devices.retain(|device| *device != "virtio-rng-device");
        self.processor = "max,-rdrand,-rdseed";
        self
    }

    /// Attach a keyboard, for [`Running::control_alt_delete`]: the one way to send PID 1 a
    /// signal from outside.
    pub fn keyboard(mut self) -> Self {
        self.devices.push("virtio-keyboard-device");
        self
    }

    /// Leave addressing to the manifest's `network:`: no `ip=` argument.
    pub fn no_ip_argument(mut self) -> Self {
        self.address_by_kernel_arg = false;
        self
    }

    /// Make a TCP port of the guest reachable on the host's loopback;
    /// [`Running::forwarded`] says where.
    pub fn forward(mut self, guest_port: u16) -> Self {
        self.forwards.push(guest_port);
        self
    }

    /// Put a resolver on the guest's network, at [`RESOLVER_ADDRESS`], that knows these
    /// names and no other, and records what it is asked; [`Running::dns_queries`].
    pub fn resolver<'a>(
        mut self,
        names: impl IntoIterator<Item = (&'a str, std::net::Ipv4Addr)>,
    ) -> Self {
        let names = names
            .into_iter()
            .map(|(name, address)| (name.to_lowercase(), address));
        self.names = Some(names.collect());
        self
    }

    /// Attach a vsock: what the guest connects to at port N of CID 2 (the host) arrives at
    /// the Unix socket `PREFIX_N`. Needs [`crate::vsock_device`].
    pub fn vsock(mut self, prefix: impl AsRef<Path>) -> Self {
        self.vsock = Some(prefix.as_ref().to_owned());
        self
    }

    /// Start from another root filesystem than the bundle's: an erofs or ext4 image.
    pub fn root_override(mut self, image: impl AsRef<Path>) -> Self {
        image.as_ref().clone_into(&mut self.bundle.root);
        self
    }

    /// Copy the console to standard error while it is captured.
    pub fn echo_console(mut self) -> Self {
        self.echo = true;
        self
    }

    /// Start the shares and the machine, and return when QEMU has taken up everything
    /// and the guest runs.
    pub fn boot(self) -> Result<Running, Error> {
        let (program, package) = match self.bundle.arch {
            Arch::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Arch::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        };
        let program_path = find_program(program).ok_or(Error::NoProgram { program, package })?;
        let scratch = ScratchDir::new()?;
        let shares = self
            .shares
            .iter()
            .map(|(tag, directory)| Share::start(tag, directory, &scratch))
            .collect::<Result<Vec<_>, _>>()?;
        let resolver = match &self.names {
            Some(names) => Some(Resolver::start(&scratch, names.clone())?),
            None => None,
        };
        let vsock = match &self.vsock {
            Some(prefix) => Some(Vsock::start(prefix, &scratch)?),
            None => None,
        };
        let monitor_socket = scratch.join("qmp.sock");
        let monitor = Monitor::listen(&monitor_socket)?;

        let mut command = bound_command(program_path);
        self.add_machine(&mut command);
        add_console_and_monitor(&mut command, &monitor_socket);
        self.add_disks(&mut command);
        for share in &shares {
            add_share(&mut command, share);
        }
        if let Some(vsock) = &vsock {
            add_vsock(&mut command, vsock);
        }
        self.add_network(&mut command, resolver.as_ref());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());

        let mut qemu = start(command).map_err(Error::io(format!("start {program}")))?;
        let gone = || Error::Start {
            qemu: "internal error: its console is not piped".into(),
        };
        let console = Console::capture(qemu.0.stdout.take().ok_or_else(gone)?, self.echo);
        let complaints = Console::capture(qemu.0.stderr.take().ok_or_else(gone)?, false);
        // QEMU that ends before it connects would leave the listener waiting.
        let ending = console.clone();
        let socket = monitor_socket.clone();
        thread::spawn(move || {
            while !ending.wait_end(std::time::Duration::from_hours(1)) {}
            Monitor::give_up(&socket);
        });
        if monitor.wait_ready().is_err() {
            if console.wait_end(std::time::Duration::from_secs(2)) {
                let _ = qemu.0.wait();
            }
            let qemu = in_words(&mut qemu, &complaints);
            return Err(Error::Start { qemu });
        }
        Running::new(Parts {
            qemu,
            console,
            complaints,
            monitor,
            resolver,
            shares,
            vsock,
            scratch,
        })
    }

    fn add_machine(&self, command: &mut Command) {
        let accelerator = accelerator(self.bundle.arch);
        match self.bundle.arch {
            Arch::X86_64 => command
                .args([
                    "-M",
                    "microvm,acpi=off,rtc=on,pit=on,pic=on,memory-backend=ram",
                ])
                .args(["-cpu", self.processor]),
            Arch::Aarch64 if accelerator == "kvm" => {
                command.args(["-M", "virt,memory-backend=ram", "-cpu", "host"])
            }
            Arch::Aarch64 => command.args(["-M", "virt,memory-backend=ram", "-cpu", "cortex-a72"]),
        };
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .args(["-accel", accelerator])
            .args(["-smp", &self.processors.to_string()])
            .args(["-m", &self.memory_mib.to_string()])
            // Shared, because virtiofsd reads the guest's memory.
            .args([
                "-object",
                &format!(
                    "memory-backend-memfd,id=ram,size={}M,share=on",
                    self.memory_mib
                ),
            ])
            .arg("-kernel")
            .arg(&self.bundle.kernel)
            .args(["-append", &self.kernel_command_line()]);
        if let Some(base) = &self.rtc_base {
            command.args(["-rtc", &format!("base={base}")]);
        }
        for device in &self.devices {
            command.args(["-device", device]);
        }
    }

    /// `reboot=t`: with no i8042 in the machine the default way hangs. Never a `--` in it:
    /// QEMU appends the x86 machine's devices.
    fn kernel_command_line(&self) -> String {
        let mut arguments: Vec<String> = [
            "console=hvc0",
            "root=/dev/vda",
            "ro",
            "reboot=t",
            "panic=-1",
            "loglevel=5",
        ]
        .into_iter()
        .map(str::to_owned)
        .collect();
        arguments.push("init=/sbin/sidecar-init".into());
        if self.address_by_kernel_arg {
            let resolver = if self.names.is_some() {
                RESOLVER_ADDRESS
            } else {
                SLIRP_RESOLVER
            };
            arguments.push(format!(
                "ip={GUEST_ADDRESS}::{HOST_ADDRESS}:255.255.255.0:pipelock:eth0:off:{resolver}"
            ));
        }
        for (disk, letter) in self.disks.iter().zip('b'..='z') {
            arguments.push(format!(
                "{}={}:/dev/vd{letter}",
                disk.argument,
                disk.kind.name()
            ));
        }
        arguments.extend(self.kernel_args.iter().cloned());
        arguments.join(" ")
    }

    fn add_disks(&self, command: &mut Command) {
        let root = std::iter::once((self.bundle.root.as_path(), false));
        let others = self
            .disks
            .iter()
            .map(|disk| (disk.path.as_path(), disk.writable));
        let disks: Vec<_> = root.chain(others).enumerate().collect();
        let add = |(number, (path, writable)): (usize, (&Path, bool))| {
            let read_only = if writable { "off" } else { "on" };
            command
                .arg("-drive")
                .arg(format!(
                    "id=disk{number},file={},format=raw,if=none,readonly={read_only}",
                    option(path)
                ))
                .args(["-device", &format!("virtio-blk-device,drive=disk{number}")]);
        };
        // Linux names the disks in the order in which it meets their devices: on `microvm`
        // that of QEMU's arguments, on `virt` the reverse.
        match self.bundle.arch {
            Arch::X86_64 => disks.into_iter().for_each(add),
            Arch::Aarch64 => disks.into_iter().rev().for_each(add),
        }
    }

    /// A user-mode network card. Not restricted: `restrict=on` would also cut the guest off
    /// from the host's loopback, where the upstream servers of the tests are.
    fn add_network(&self, command: &mut Command, resolver: Option<&Resolver>) {
        // Port 0: the kernel picks a free one, and nobody can take it in between.
        let forward = |port| format!(",hostfwd=tcp:127.0.0.1:0-:{port}");
        let forwards: String = self.forwards.iter().map(forward).collect();
        command.args(["-netdev", &format!("user,id=user{forwards}")]);
        if let Some(resolver) = resolver {
            // The resolver is the wire: card, resolver, user-mode network.
            let end = |id: &str, port: &Port| {
                format!(
                    "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    option(&port.peer),
                    option(&port.socket)
                )
            };
            command
                .args(["-netdev", &end("card", &resolver.card)])
                .args(["-device", "virtio-net-device,netdev=card"])
                .args(["-netdev", &end("wire", &resolver.network)])
                .args(["-netdev", "hubport,id=port0,hubid=0,netdev=user"])
                .args(["-netdev", "hubport,id=port1,hubid=0,netdev=wire"]);
        } else {
            command.args(["-device", "virtio-net-device,netdev=user"]);
        }
    }
}

fn add_console_and_monitor(command: &mut Command, monitor: &Path) {
    command
        .args(["-device", "virtio-serial-device"])
        .args(["-chardev", "stdio,id=console,signal=off"])
        .args(["-device", "virtconsole,chardev=console"])
        .args([
            "-chardev",
            &format!("socket,id=qmp,path={}", option(monitor)),
        ])
        .args(["-mon", "chardev=qmp,mode=control"]);
}

fn add_share(command: &mut Command, share: &Share) {
    let tag = share.tag;
    command
        .args([
            "-chardev",
            &format!("socket,id=share-{tag},path={}", option(&share.socket)),
        ])
        .args([
            "-device",
            &format!("vhost-user-fs-device,chardev=share-{tag},tag={tag}"),
        ]);
}

fn add_vsock(command: &mut Command, vsock: &Vsock) {
    command
        .args([
            "-chardev",
            &format!("socket,id=vsock,path={}", option(&vsock.socket)),
        ])
        .args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
}

/// A path inside a QEMU option, where a comma is written twice.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// What QEMU runs guests of this architecture by: `kvm`, or `tcg`, which is emulation.
#[must_use]
pub fn accelerator(arch: Arch) -> &'static str {
    if kvm_works(arch) { "kvm" } else { "tcg" }
}

/// Whether the kernel can really run guests of this architecture: `/dev/kvm` opens on
/// machines whose processor then refuses every guest.
fn kvm_works(arch: Arch) -> bool {
    let opens = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
    };
    let processor_can = || match arch {
        Arch::X86_64 => std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| {
            info.split_whitespace()
                .any(|word| word == "vmx" || word == "svm")
        }),
        // The hypervisor extension has no flag there; /dev/kvm exists only with it.
        Arch::Aarch64 => true,
    };
    arch == Arch::host() && processor_can() && opens()
}
