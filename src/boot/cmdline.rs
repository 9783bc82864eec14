//! The kernel's command line, as far as it speaks to the init. Touches `/proc/cmdline`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::mode::Mode;
use crate::sys::files::read_kernel_file;

/// A file system to mount: `virtiofs:TAG`, `ext4:/dev/vdb`, `erofs:/dev/vdb`, `9p:TAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file system's type.
    pub kind: String,
    /// Its tag or device.
    pub device: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.device)
    }
}

/// The static form of the kernel's `ip=` (Documentation/admin-guide/nfs/nfsroot.rst).
/// Kernels without `CONFIG_IP_PNP`, as libkrunfw's, leave it to the init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticAddress {
    /// The machine's own address and its prefix length.
    pub address: (IpAddr, u8),
    /// The default route.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

impl StaticAddress {
    /// `CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS0:DNS1`; `None` where
    /// it asks for no static address or cannot be read.
    fn parse(value: &str) -> Option<Self> {
        let mut fields = value.split(':');
        let mut field = || fields.next().unwrap_or_default();
        let (client, _server, gateway, netmask) = (field(), field(), field(), field());
        let (_hostname, _device, autoconf) = (field(), field(), field());
        let dns = [field(), field()];
        if !matches!(autoconf, "" | "off" | "none") {
            return None;
        }
        let client: Ipv4Addr = client.parse().ok()?;
        let mask = u32::from(
            netmask
                .parse::<Ipv4Addr>()
                .unwrap_or(Ipv4Addr::new(255, 255, 255, 0)),
        );
        let prefix = mask.leading_ones();
        let contiguous = mask.checked_shl(prefix).unwrap_or(0) == 0;
        let address = |text: &str| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        Some(Self {
            address: (
                IpAddr::V4(client),
                u8::try_from(prefix).ok().filter(|_| contiguous)?,
            ),
            gateway: address(gateway),
            dns: dns.into_iter().filter_map(address).collect(),
        })
    }
}

/// What the command line asks of the init.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `sidecar.mount=`: where the manifest is.
    pub mount: Option<Source>,
    /// `sidecar.export=`: where the host wants to read.
    pub export: Option<Source>,
    /// `sidecar.state=`: where the CA outlives a boot.
    pub state: Option<Source>,
    /// `ip=`: an address, where the manifest has none.
    pub ip: Option<StaticAddress>,
    /// `sidecar.log=`: the log's filter.
    pub log: Option<String>,
    /// `sidecar.require-sandbox=no`: start even where the kernel lacks a part of the
    /// daemon's sandbox. Without it that is a failed start.
    pub tolerate_holes: bool,
    /// `sidecar.…` arguments that are not understood, each a sentence.
    pub problems: Vec<String>,
}

const KINDS: [&str; 4] = ["virtiofs", "ext4", "erofs", "9p"];

impl Arguments {
    /// What it says where it speaks to this init: in a machine alone.
    #[must_use]
    pub fn of(mode: Mode) -> Self {
        let text = (mode == Mode::Machine).then(|| read_kernel_file("/proc/cmdline"));
        let text = text.and_then(Result::ok);
        text.map_or_else(Self::default, |text| Self::parse(&text))
    }

    /// Reads the text of `/proc/cmdline`. Everything that does not start with
    /// `sidecar.` is the kernel's or somebody else's.
    #[must_use]
    pub fn parse(cmdline: &str) -> Self {
        let mut arguments = Self::default();
        for word in cmdline.split_whitespace() {
            if let Some(value) = word.strip_prefix("ip=") {
                arguments.ip = StaticAddress::parse(value);
                continue;
            }
            let Some(rest) = word.strip_prefix("sidecar.") else {
                continue;
            };
            let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
            let place = match name {
                "mount" => &mut arguments.mount,
                "export" => &mut arguments.export,
                "state" => &mut arguments.state,
                "log" => {
                    arguments.log = Some(value.to_owned());
                    continue;
                }
                "require-sandbox" => {
                    match value {
                        "yes" => arguments.tolerate_holes = false,
                        "no" => arguments.tolerate_holes = true,
                        _ => arguments
                            .problems
                            .push(format!("{word:?} is neither yes nor no: it stays yes")),
                    }
                    continue;
                }
                _ => {
                    arguments.problems.push(format!(
                        "{word:?} is not a kernel argument of sidecar-init; there are \
                         sidecar.mount, sidecar.export, sidecar.state, sidecar.require-sandbox and sidecar.log"
                    ));
                    continue;
                }
            };
            match value.split_once(':') {
                Some((kind, device)) if KINDS.contains(&kind) && !device.is_empty() => {
                    *place = Some(Source {
                        kind: kind.to_owned(),
                        device: device.to_owned(),
                    });
                }
                _ => arguments.problems.push(format!(
                    "{word:?} names no file system: write sidecar.{name}=KIND:DEVICE with KIND one of {}",
                    KINDS.join(", ")
                )),
            }
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_its_own_arguments_and_leaves_the_rest() {
        let line = "console=hvc0 root=/dev/vda ro sidecar.mount=ext4:/dev/vdb sidecar.export=virtiofs:out sidecar.log=debug quiet virtio_mmio.device=512@0xfeb00e00:12\n";
        let arguments = Arguments::parse(line);
        assert_eq!(
            arguments.mount.as_ref().map(ToString::to_string).as_deref(),
            Some("ext4:/dev/vdb")
        );
        assert_eq!(
            arguments
                .export
                .as_ref()
                .map(ToString::to_string)
                .as_deref(),
            Some("virtiofs:out")
        );
        assert_eq!(arguments.log.as_deref(), Some("debug"));
        assert_eq!((arguments.state, arguments.problems.len()), (None, 0));
    }

    #[test]
    fn reads_a_static_address_as_the_kernel_would() {
        let ip = |text: &str| Arguments::parse(&format!("ip={text}")).ip;
        let full = ip("10.0.2.15::10.0.2.2:255.255.255.0:pipelock:eth0:off:10.0.2.3").unwrap();
        assert_eq!(full.address, ("10.0.2.15".parse().unwrap(), 24));
        assert_eq!(full.gateway, Some("10.0.2.2".parse().unwrap()));
        assert_eq!(full.dns, ["10.0.2.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(ip("192.168.0.9").unwrap().gateway, None);
        assert_eq!(ip("1.2.3.4:::255.255.255.255").unwrap().address.1, 32);
        assert_eq!(ip("1.2.3.4:::0.0.0.0").unwrap().address.1, 0);
        for not_static in ["dhcp", ":::::eth0:dhcp", "off", "", "1.2.3.4:::255.0.255.0"] {
            assert_eq!(ip(not_static), None, "{not_static}");
        }
    }

    #[test]
    fn says_what_it_does_not_understand() {
        let arguments = Arguments::parse(
            "sidecar.mount=/dev/vdb sidecar.export=nfs:x sidecar.exprot=9p:y sidecar.state=ext4:",
        );
        assert_eq!(arguments.problems.len(), 4, "{:?}", arguments.problems);
        assert_eq!(
            (arguments.mount, arguments.export, arguments.state),
            (None, None, None)
        );
    }
}
