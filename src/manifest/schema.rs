//! What a manifest may say: its sections, their keys, and the fields they are read into.

use super::problem::{Position, escaped, quoted};
use super::scalar::Scalar;
use super::value::Value;

/// A key, and how its value gets into its field.
pub(super) type Key<T> = (&'static str, fn(&mut T, Value<'_, '_>));

/// What is read from a mapping with known keys.
pub(super) trait Mapping: Default + 'static {
    /// All keys that are known there.
    const KEYS: &'static [Key<Self>];

    /// The names of the keys.
    fn names() -> impl Iterator<Item = &'static str> {
        Self::KEYS.iter().map(|(name, _)| *name)
    }
}

/// A struct whose fields are the keys of a mapping: name, type, and the method of [`Value`]
/// that reads it.
macro_rules! mapping {
    ($(#[$about:meta])* $name:ident {
        $($(#[$doc:meta])* $key:ident: $type:ty = $read:ident($($argument:expr)?),)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[allow(missing_docs, reason = "docs/manifest.md describes every key")]
        pub struct $name {
            $($(#[$doc])* pub $key: $type,)+
        }

        impl Mapping for $name {
            const KEYS: &'static [Key<Self>] = &[
                $((stringify!($key), |it, value| it.$key = value.$read($($argument)?)),)+
            ];
        }
    };
}

mapping! {
    /// A manifest's fields as written; nothing in them has been judged.
    Manifest {
        version: Option<Scalar> = scalar(),
        slug: Option<Scalar> = scalar(),
        bottle: Option<Bottle> = mapping(Section::Bottle),
        network: Network = section(Section::Network),
        pipelock: Pipelock = section(Section::Pipelock),
        supervisor: Supervisor = section(Section::Supervisor),
    }
}

mapping! {
    /// `bottle`: the host's tool reads it too, so what is unknown here may be known there.
    Bottle {
        supervise: Option<Scalar> = scalar(),
        egress: Egress = section(Section::Egress),
        /// The git gate's.
        git: () = skip(),
    }
}

mapping! {
    /// `bottle.egress`
    Egress {
        /// In the order of the file, with where each starts. What is no route is an empty
        /// one in its place: the others are counted by it.
        routes: Vec<(Position, Route)> = mappings(Section::Route),
    }
}

mapping! {
    /// One entry of `bottle.egress.routes`.
    #[allow(non_snake_case, reason = "a key is written so")]
    Route {
        host: Option<Scalar> = scalar(),
        /// The bottle's older spelling; boxed, as it is rare.
        Host: Option<Box<Scalar>> = boxed_scalar(),
    }
}

mapping! {
    /// `network`
    Network {
        internal: Option<Scalar> = scalar(),
        internal_cidr: Option<Scalar> = scalar(),
        egress: Option<Scalar> = scalar(),
        /// Names and addresses in the order of the file.
        hosts: Vec<(Scalar, Scalar)> = pairs(Section::Hosts),
        address: Option<Scalar> = scalar(),
        gateway: Option<Scalar> = scalar(),
        dns: Vec<Scalar> = list("an IP address"),
    }
}

mapping! {
    /// `pipelock`
    Pipelock {
        listen: Option<Scalar> = scalar(),
        /// In the order of the file.
        passthrough: Vec<Scalar> = list("a host name"),
        scan_limit_mib: Option<Scalar> = scalar(),
        requests_per_minute: Option<Scalar> = scalar(),
        max_tunnel_seconds: Option<Scalar> = scalar(),
        idle_timeout_seconds: Option<Scalar> = scalar(),
    }
}

mapping! {
    /// `supervisor`
    Supervisor {
        grace_seconds: Option<Scalar> = scalar(),
        drain_seconds: Option<Scalar> = scalar(),
        probe_seconds: Option<Scalar> = scalar(),
    }
}

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
    /// `supervisor`
    Supervisor,
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

    /// The section below the top level that has this key.
    pub(super) fn with(key: &str) -> Option<Self> {
        fn has<T: Mapping>(key: &str) -> bool {
            T::names().any(|name| name == key)
        }
        [
            (Self::Bottle, has::<Bottle>(key)),
            (Self::Egress, has::<Egress>(key)),
            (Self::Network, has::<Network>(key)),
            (Self::Pipelock, has::<Pipelock>(key)),
            (Self::Supervisor, has::<Supervisor>(key)),
        ]
        .into_iter()
        .find_map(|(section, has)| has.then_some(section))
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
    use super::super::parse;
    use super::*;

    /// Every key, with its field's name for a value.
    const EVERY_KEY: &str = "
version: version
slug: slug
bottle:
  supervise: supervise
  git: [passed over]
  egress:
    routes:
    - host: host
      Host: Host
network:
  internal: internal
  internal_cidr: internal_cidr
  egress: egress
  hosts:
    hosts: value
  address: address
  gateway: gateway
  dns: [dns]
pipelock:
  listen: listen
  passthrough: [passthrough]
  scan_limit_mib: scan_limit_mib
  requests_per_minute: requests_per_minute
  max_tunnel_seconds: max_tunnel_seconds
  idle_timeout_seconds: idle_timeout_seconds
supervisor:
  grace_seconds: grace_seconds
  drain_seconds: drain_seconds
  probe_seconds: probe_seconds
";

    #[test]
    fn every_key_is_read_into_its_own_field() {
        let reading = parse(EVERY_KEY.as_bytes());
        assert!(reading.problems.is_empty(), "{:?}", reading.problems);
        assert!(reading.foreign.is_empty(), "{:?}", reading.foreign);
        let shown = format!("{:?}", reading.manifest);
        assert!(!shown.contains("None"), "a field without a key: {shown}");
        assert!(!shown.contains("[]"), "a field without a key: {shown}");
        let mut fields = 0;
        for (before, _) in shown.match_indices("Scalar { text: \"") {
            // `field: Some(Scalar { text: "field"`, `field: [Scalar …`, `field: [(Scalar …`
            let field = shown[..before].rsplit([' ', ',']).nth(1).unwrap();
            let text = shown[before..].split('"').nth(1).unwrap();
            if text != "value" {
                assert_eq!(field, format!("{text}:"), "{shown}");
                fields += 1;
            }
        }
        // Those with a section for a value, and the one that is passed over.
        let others = [
            "bottle",
            "network",
            "pipelock",
            "supervisor",
            "egress",
            "routes",
            "git",
        ];
        let known = Manifest::names()
            .chain(Bottle::names())
            .chain(Egress::names())
            .chain(Route::names())
            .chain(Network::names())
            .chain(Pipelock::names())
            .chain(Supervisor::names());
        assert_eq!(known.count(), fields + others.len());
    }

    #[test]
    fn a_path_names_section_and_key_and_quotes_what_could_be_a_path() {
        for (section, key, path) in [
            (Section::Manifest, "", ""),
            (Section::Manifest, "slug", "slug"),
            (Section::Manifest, "a.b", "\"a.b\""),
            (Section::Bottle, "egress", "bottle.egress"),
            (Section::Egress, "routes", "bottle.egress.routes"),
            (Section::Route(7), "host", "bottle.egress.routes[7].host"),
            (Section::Network, "dns", "network.dns"),
            (Section::Hosts, "", "network.hosts.\"\""),
            (Section::Hosts, "a_b-c<", "network.hosts.a_b-c<"),
            (Section::Hosts, "a b", "network.hosts.\"a b\""),
            (Section::Hosts, "\u{fc}", "network.hosts.\"\u{fc}\""),
            (Section::Pipelock, "\u{1b}", "pipelock.\"\\u{1b}\""),
            (
                Section::Supervisor,
                "drain_seconds",
                "supervisor.drain_seconds",
            ),
        ] {
            assert_eq!(section.key(key), path);
        }
    }

    #[test]
    fn a_key_is_looked_for_in_every_section() {
        for (key, section) in [
            ("supervise", Some(Section::Bottle)),
            ("routes", Some(Section::Egress)),
            // In two; the first.
            ("egress", Some(Section::Bottle)),
            ("dns", Some(Section::Network)),
            ("listen", Some(Section::Pipelock)),
            ("drain_seconds", Some(Section::Supervisor)),
            // A route has no place that could be named.
            ("host", None),
            ("slug", None),
            ("xyzzy", None),
        ] {
            assert_eq!(Section::with(key), section, "{key}");
        }
    }
}
