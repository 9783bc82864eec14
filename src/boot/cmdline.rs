//! The kernel's command line, as far as it speaks to the init. Pure.

use std::fmt;

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

/// What the command line asks of the init.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `sidecar.mount=`: where the manifest is.
    pub mount: Option<Source>,
    /// `sidecar.export=`: where the host wants to read.
    pub export: Option<Source>,
    /// `sidecar.state=`: where the CA outlives a boot.
    pub state: Option<Source>,
    /// `sidecar.log=`: the log's filter.
    pub log: Option<String>,
    /// `sidecar.…` arguments that are not understood, each a sentence.
    pub problems: Vec<String>,
}

const KINDS: [&str; 4] = ["virtiofs", "ext4", "erofs", "9p"];

impl Arguments {
    /// Reads the text of `/proc/cmdline`. Everything that does not start with
    /// `sidecar.` is the kernel's or somebody else's.
    #[must_use]
    pub fn parse(cmdline: &str) -> Self {
        let mut arguments = Self::default();
        for word in cmdline.split_whitespace() {
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
                _ => {
                    arguments.problems.push(format!(
                        "{word:?} is not a kernel argument of sidecar-init; there are \
                         sidecar.mount, sidecar.export, sidecar.state and sidecar.log"
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
