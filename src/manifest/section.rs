//! The sections of a manifest, as the places of its fields.

use std::fmt;

use super::problem::{escaped, quoted};

/// The sections of a manifest, as the places of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The top level.
    Manifest,
    /// `bottle`
    Bottle,
    /// `bottle.egress`
    Egress,
    /// `bottle.egress.routes[N]`, N from 0.
    Route(usize),
    /// `network`
    Network,
    /// `network.hosts`
    Hosts,
    /// `pipelock`
    Pipelock,
    /// `grants[N]`, N from 0.
    Grant(usize),
    /// `daemons`
    Daemons,
    /// `daemons.NAME`
    Daemon(Name),
    /// `daemons.NAME.ready`
    Ready(Name),
    /// `daemons.NAME.env`
    Variables(Name),
    /// `supervisor`
    Supervisor,
}

/// The name of a daemon as a path has it, or as much of one that is too long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; Self::LONGEST],
    length: u8,
}

impl Name {
    /// The most bytes that a daemon's name may have.
    pub const LONGEST: usize = 32;

    /// The name in a path.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut name = Self {
            bytes: [0; Self::LONGEST],
            length: 0,
        };
        let kept = text.floor_char_boundary(Self::LONGEST);
        for (place, byte) in name.bytes.iter_mut().zip(text.bytes()).take(kept) {
            *place = byte;
            name.length += 1;
        }
        name
    }

    fn text(&self) -> &str {
        let kept = self.bytes.get(..self.length.into());
        std::str::from_utf8(kept.unwrap_or_default()).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

impl Section {
    /// The section's own path.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::Manifest => String::new(),
            Self::Bottle => "bottle".into(),
            Self::Egress => "bottle.egress".into(),
            Self::Route(n) => format!("bottle.egress.routes[{n}]"),
            Self::Network => "network".into(),
            Self::Hosts => "network.hosts".into(),
            Self::Pipelock => "pipelock".into(),
            Self::Grant(n) => format!("grants[{n}]"),
            Self::Daemons => "daemons".into(),
            Self::Daemon(name) => Self::Daemons.key(name.text()),
            Self::Ready(name) => Self::Daemon(name).key("ready"),
            Self::Variables(name) => Self::Daemon(name).key("env"),
            Self::Supervisor => "supervisor".into(),
        }
    }

    /// The path of a key in the section.
    #[must_use]
    pub fn key(self, key: &str) -> String {
        match self {
            // The document itself.
            Self::Manifest if key.is_empty() => String::new(),
            Self::Manifest => shown_key(key),
            _ => format!("{}.{}", self.path(), shown_key(key)),
        }
    }

    /// Whether the section is written for the host's tool rather than for us.
    pub(super) fn is_bottle(self) -> bool {
        matches!(self, Self::Bottle | Self::Egress | Self::Route(_))
    }
}

/// A key as part of a path: in quotes if it could be taken for something else.
fn shown_key(key: &str) -> String {
    let usual = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'<');
    if !key.is_empty() && key.bytes().all(usual) {
        escaped(key)
    } else {
        quoted(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_section_and_key_and_quotes_what_could_be_a_path() {
        for (section, key, path) in [
            (Section::Manifest, "", ""),
            (Section::Manifest, "slug", "slug"),
            (Section::Manifest, "a.b", "\"a.b\""),
            (Section::Bottle, "egress", "bottle.egress"),
            (Section::Egress, "routes", "bottle.egress.routes"),
            (Section::Route(7), "host", "bottle.egress.routes[7].host"),
            (Section::Grant(3), "until", "grants[3].until"),
            (Section::Network, "dns", "network.dns"),
            (Section::Hosts, "", "network.hosts.\"\""),
            (Section::Hosts, "a_b-c<", "network.hosts.a_b-c<"),
            (Section::Hosts, "a b", "network.hosts.\"a b\""),
            (Section::Hosts, "\u{fc}", "network.hosts.\"\u{fc}\""),
            (Section::Pipelock, "\u{1b}", "pipelock.\"\\u{1b}\""),
            (Section::Daemons, "git-gate", "daemons.git-gate"),
            (
                Section::Daemon(Name::of("git-gate")),
                "exec",
                "daemons.git-gate.exec",
            ),
            (
                Section::Ready(Name::of("a b")),
                "tcp",
                "daemons.\"a b\".ready.tcp",
            ),
            (
                Section::Variables(Name::of(&"\u{fc}".repeat(17))),
                "A",
                "daemons.\"üüüüüüüüüüüüüüüü\".env.A",
            ),
            (
                Section::Supervisor,
                "drain_seconds",
                "supervisor.drain_seconds",
            ),
        ] {
            assert_eq!(section.key(key), path);
        }
    }
}
