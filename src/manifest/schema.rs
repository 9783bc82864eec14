//! What a manifest may say: its sections, their keys, and the fields they are read into.

use super::problem::Position;
use super::scalar::Scalar;
use super::section::Section;
use super::value::{Key, Mapping, WordOr};
use super::wanted::Element;

/// A struct whose fields are the keys of a mapping: name, type, and the method of [`Value`]
/// that reads it.
macro_rules! mapping {
    ($(#[$about:meta])* $name:ident {
        $($(#[$doc:meta])* $key:ident: $type:ty = $read:ident($($argument:expr),*),)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[allow(missing_docs, reason = "docs/manifest.md describes every key")]
        pub struct $name {
            $($(#[$doc])* pub $key: $type,)+
        }

        impl Mapping for $name {
            const KEYS: &'static [Key<Self>] = &[
                $((stringify!($key), |it, value| it.$key = value.$read($($argument),*)),)+
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
        /// In the order of the file, with where each starts; as the routes.
        grants: Vec<(Position, Grant)> = mappings(Section::Grant, Element::Grant),
        /// Names and keys in the order of the file.
        daemons: Vec<(Scalar, Daemon)> = named(Section::Daemon),
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
        routes: Vec<(Position, Route)> = mappings(Section::Route, Element::Route),
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
        dns: Vec<Scalar> = list(Element::Address),
    }
}

mapping! {
    /// `pipelock`
    Pipelock {
        listen: Option<Scalar> = scalar(),
        /// In the order of the file.
        passthrough: Vec<Scalar> = list(Element::Host),
        scan_limit_mib: Option<Scalar> = scalar(),
        requests_per_minute: Option<Scalar> = scalar(),
        max_tunnel_seconds: Option<Scalar> = scalar(),
        idle_timeout_seconds: Option<Scalar> = scalar(),
    }
}

mapping! {
    /// One entry of `grants`.
    Grant {
        host: Option<Scalar> = scalar(),
        until: Option<Scalar> = scalar(),
        passthrough: Option<Scalar> = scalar(),
    }
}

mapping! {
    /// One of `daemons`.
    Daemon {
        exec: Vec<Scalar> = list(Element::Argument),
        listen: Vec<Scalar> = list(Element::Port),
        connect: Vec<Scalar> = list(Element::Port),
        ready: Option<WordOr<Probe>> = word_or(Section::Ready),
        agent_proxy: Option<Scalar> = scalar(),
        agent_ca: Option<Scalar> = scalar(),
        /// Names and values in the order of the file.
        env: Vec<(Scalar, Scalar)> = variables(),
        files: Vec<Scalar> = list(Element::File),
        memory_mib: Option<Scalar> = scalar(),
        /// An empty one is after nothing, none is after pipelock.
        after: Option<Vec<Scalar>> = list_or_none(Element::Daemon),
        essential: Option<Scalar> = scalar(),
        proxy: Option<Scalar> = scalar(),
    }
}

mapping! {
    /// A daemon's `ready`, where it is no word.
    Probe {
        tcp: Option<Scalar> = scalar(),
        http: Option<Scalar> = scalar(),
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

/// The section below the top level that has this key.
pub(super) fn section_with(key: &str) -> Option<Section> {
    fn has<T: Mapping>(key: &str) -> bool {
        T::names().any(|name| name == key)
    }
    [
        (Section::Bottle, has::<Bottle>(key)),
        (Section::Egress, has::<Egress>(key)),
        (Section::Network, has::<Network>(key)),
        (Section::Pipelock, has::<Pipelock>(key)),
        (Section::Supervisor, has::<Supervisor>(key)),
    ]
    .into_iter()
    .find_map(|(section, has)| has.then_some(section))
}

/// Whether this is a key, of whichever section.
pub(super) fn is_key(text: &str) -> bool {
    let more = Manifest::names()
        .chain(Route::names())
        .chain(Grant::names())
        .chain(Daemon::names());
    more.into_iter().any(|name| name == text) || section_with(text).is_some()
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
grants:
- host: host
  until: until
  passthrough: passthrough
daemons:
  daemons:
    exec: [exec]
    listen: [listen]
    connect: [connect]
    ready:
      tcp: tcp
      http: http
    agent_proxy: agent_proxy
    agent_ca: agent_ca
    env:
      env: value
    files: [files]
    memory_mib: memory_mib
    after: [after]
    essential: essential
    proxy: proxy
supervisor:
  grace_seconds: grace_seconds
  drain_seconds: drain_seconds
  probe_seconds: probe_seconds
";

    #[test]
    fn every_key_is_read_into_its_own_field() {
        let reading = parse(EVERY_KEY.as_bytes(), |_, _| None);
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
            "grants",
            "supervisor",
            "egress",
            "routes",
            "git",
            "ready",
        ];
        let known = Manifest::names()
            .chain(Bottle::names())
            .chain(Egress::names())
            .chain(Route::names())
            .chain(Network::names())
            .chain(Pipelock::names())
            .chain(Grant::names())
            .chain(Daemon::names())
            .chain(Probe::names())
            .chain(Supervisor::names());
        assert_eq!(known.count(), fields + others.len());
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
            assert_eq!(section_with(key), section, "{key}");
        }
    }
}
