//! Manifest to policy: every value judged and normalized, every problem found.
//! Pure.
#![forbid(unsafe_code)]

pub mod daemons;
pub mod grants;
mod host;
mod known;
pub mod matching;
mod network;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use daemons::Daemon;
use grants::{Grant, Lasting, as_passed};
use known::Known;

pub use crate::manifest::Problem;
use crate::manifest::{
    self, Bottle, Element, Kind, Manifest, Position, Problems, Reading, Rejection, Route, Scalar,
    Section, Wanted, quoted,
};
pub use host::CANARY_HOST;
pub(crate) use host::{meant, normalize};
pub(crate) use network::cidr;

/// The host of the supervise sidecar, allowed where a bottle asks for it (seed).
const SUPERVISE_HOST: &str = "supervise";

/// The model's own API: never intercepted, and with it as a route seed phrase
/// detection goes off, because conversations trip it (seed).
pub(crate) const MODEL_HOST: &str = "api.anthropic.com";

/// The most requests a minute for each registrable domain.
pub(crate) const MAX_REQUESTS_PER_MINUTE: u32 = 1_000_000;

/// The largest scan limit, in MiB. pipelock holds a body whole and scans less than half a
/// megabyte a second (measured): this much takes it ten minutes.
pub(crate) const MAX_SCAN_LIMIT_MIB: u32 = 256;

/// The longest that a tunnel may be open or idle, in seconds.
const MONTH: u32 = 30 * 24 * 3600;

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8888);

/// The longest slug: it becomes a host name's label (RFC 1035).
const MAX_SLUG: usize = 63;

/// resolv.conf(5), `MAXNS`: a resolver reads no more.
const MAX_DNS: usize = 3;

/// All that a manifest decides, valid and in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Name of the agent's resources.
    pub slug: String,
    /// What pipelock may reach: the routed hosts, where asked for `supervise`, and what is
    /// granted. In byte order, each once.
    pub allowlist: Vec<String>,
    /// Whether pipelock looks for seed phrases.
    pub seed_phrase_detection: bool,
    /// Hosts whose TLS pipelock does not open, and so does not scan, as it reads them:
    /// `*.name` does not stand for `name`. In byte order, each once.
    pub passthrough: Vec<String>,
    /// What is allowed until a time, in the order of the manifest, over or not. What of it is
    /// in force is in the two lists.
    pub grants: Vec<Grant>,
    /// Those lists without the grants, where there are any.
    lasting: Option<Box<Lasting>>,
    /// The one CIDR pipelock's SSRF guard lets through.
    pub internal_cidr: Option<String>,
    /// Limits of pipelock that are set only when the manifest sets them.
    pub tuning: Tuning,
    /// Where pipelock listens.
    pub listen: SocketAddr,
    /// The bundle's other daemons, in the order in which they begin.
    pub daemons: Vec<Daemon>,
    /// Names and addresses.
    pub network: Network,
    /// The supervisor's times.
    pub supervisor: Supervision,
}

/// Limits of pipelock; `None` leaves pipelock's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Requests a minute for each registrable domain.
    pub requests_per_minute: Option<u32>,
    /// After so many seconds a tunnel is cut.
    pub max_tunnel_seconds: Option<u32>,
    /// After so many idle seconds a tunnel is cut.
    pub idle_timeout_seconds: Option<u32>,
    /// The largest body that is scanned, either way, in MiB; a larger one is refused.
    pub scan_limit_mib: Option<u32>,
}

/// Names and addresses; all but the names are for machine mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Name of the internal network, informational.
    pub internal: Option<String>,
    /// Name of the egress network, informational.
    pub egress: Option<String>,
    /// Further entries of `/etc/hosts`, in the manifest's order.
    pub hosts: Vec<(String, IpAddr)>,
    /// The interface's address and prefix length.
    pub address: Option<(IpAddr, u8)>,
    /// The default route's gateway.
    pub gateway: Option<IpAddr>,
    /// Name servers, at most three.
    pub dns: Vec<IpAddr>,
}

impl Network {
    /// The keys of it that a machine's init alone obeys. An address is told to the clients
    /// anywhere.
    #[must_use]
    pub fn for_a_machine(&self) -> Vec<&'static str> {
        [
            (!self.hosts.is_empty(), "network.hosts"),
            (self.gateway.is_some(), "network.gateway"),
            (!self.dns.is_empty(), "network.dns"),
        ]
        .into_iter()
        .filter_map(|(is_set, key)| is_set.then_some(key))
        .collect()
    }
}

/// The supervisor's times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervision {
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// How long a wanted stop waits for open tunnels.
    pub drain: Duration,
    /// Between two liveness probes.
    pub probe: Duration,
}

/// A policy, and what its manifest's owner should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The policy.
    pub policy: Policy,
    /// What was passed over.
    pub warnings: Vec<Problem>,
    /// How many warnings there are, told one by one or not.
    pub warned: usize,
    /// What known hosts among the routes would meet, and the keys that help; no fault of
    /// the manifest's.
    pub notes: Vec<Problem>,
    /// How many notes there are, told one by one or not.
    pub noted: usize,
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// All that is wrong with it, in the order of the file; see [`manifest::MAX_REPORTED`].
    pub problems: Vec<Problem>,
    /// What would be passed over if it were valid: a mistake too, more often than not.
    pub warnings: Vec<Problem>,
}

impl Refused {
    /// Each on its line with its hint below, the warnings last.
    #[must_use]
    pub fn in_words(&self, name: &str) -> String {
        let mut words = manifest::join_problems(&self.problems, name);
        for warning in &self.warnings {
            words.push_str(&format!("\nwarning: {}", warning.display(name)));
        }
        words
    }
}

/// Reads and judges a manifest.
///
/// `strict` makes errors of the warnings about unknown keys below `bottle`. `now` is the time of
/// day, in seconds since 1970: of it depends which grants are in force.
///
/// # Errors
/// All problems, in the order of the file; see [`manifest::MAX_REPORTED`]. None of them comes
/// about by time that passes.
pub fn read(bytes: &[u8], strict: bool, now: u64) -> Result<Judgement, Refused> {
    read_within(bytes, strict, now, || None)
}

/// As [`read`], for a machine with so many bytes of memory, asked for where daemons were promised
/// some: it must fit into that.
///
/// # Errors
/// As [`read`].
pub fn read_within(
    bytes: &[u8],
    strict: bool,
    now: u64,
    memory: impl Fn() -> Option<u64> + 'static,
) -> Result<Judgement, Refused> {
    let Reading {
        manifest,
        problems,
        foreign,
        complete,
    } = manifest::parse(bytes, advise);
    let mut judge = Judge {
        now,
        memory: Box::new(memory),
        complete,
        problems,
        warnings: Problems::default(),
        notes: Problems::default(),
        known: Known::default(),
    };
    let policy = judge.manifest(manifest);
    let Judge {
        mut problems,
        mut warnings,
        notes: of_lists,
        known,
        ..
    } = judge;
    if strict {
        problems.append(foreign);
    } else {
        warnings.append(foreign);
    }
    match policy {
        Some(policy) if problems.is_empty() => {
            let mut notes = known.notes(&policy);
            notes.append(of_lists);
            Ok(Judgement {
                noted: notes.count(),
                notes: notes.into_sorted(),
                policy,
                warned: warnings.count(),
                warnings: warnings.into_sorted(),
            })
        }
        _ => Err(Refused {
            problems: problems.into_sorted(),
            warnings: warnings.into_sorted(),
        }),
    }
}

struct Judge {
    /// In seconds since 1970.
    now: u64,
    /// Says the machine's memory in bytes, where it is known.
    memory: Box<dyn Fn() -> Option<u64>>,
    /// Whether what is missing is missing, and not merely unread.
    complete: bool,
    problems: Problems,
    warnings: Problems,
    /// Those that are not about known hosts.
    notes: Problems,
    known: Known,
}

impl Policy {
    /// The port of the daemon that is the agent's proxy, where that is not pipelock.
    #[must_use]
    pub fn agent_proxy(&self) -> Option<u16> {
        self.daemons.iter().find_map(|daemon| daemon.agent_proxy)
    }

    /// The hosts that are allowed and not scanned, as a manifest would write them.
    #[must_use]
    pub fn not_scanned(&self) -> Vec<String> {
        let wildcard = |host: &String| {
            let wildcard = format!("*.{host}");
            self.passthrough.binary_search(&wildcard).is_ok()
        };
        self.passthrough
            .iter()
            .filter(|host| matching::allows_entry(&self.allowlist, host) && !wildcard(host))
            .cloned()
            .collect()
    }
}

impl Judge {
    /// A policy from what is valid; `None` where a required field is not.
    fn manifest(&mut self, manifest: Manifest) -> Option<Policy> {
        let Manifest {
            version,
            slug,
            bottle,
            network,
            pipelock,
            grants,
            daemons,
            supervisor,
        } = manifest;
        let top = Section::Manifest;
        self.judge(top, "version", version.as_ref(), judge_version);
        let slug = self.required(top, "slug", slug.as_ref(), judge_slug);
        if bottle.is_none() && self.complete {
            self.missing(
                "bottle",
                "write \"bottle: {}\" for one that may reach nothing",
            );
        }
        let Bottle {
            supervise, egress, ..
        } = bottle.unwrap_or_default();
        let supervise = self
            .judge(Section::Bottle, "supervise", supervise.as_ref(), judge_bool)
            .unwrap_or(false);
        let mut allowlist = self.routes(egress.routes);
        let seed_phrase_detection = !allowlist.iter().any(|host| host == MODEL_HOST);
        if supervise
            && let Err(place) = allowlist.binary_search_by(|h| h.as_str().cmp(SUPERVISE_HOST))
        {
            allowlist.insert(place, SUPERVISE_HOST.to_owned());
        }
        let passthrough = self.passthrough(&pipelock.passthrough, &allowlist, &grants);
        let lasting = Lasting {
            allowlist,
            passthrough,
        };
        let grants = self.grants(&grants, &lasting);
        let internal_cidr = self.internal_cidr(&network);
        let listen = self.listen(pipelock.listen.as_ref());
        let tuning = self.tuning(&pipelock);
        let daemons = self.daemons(&daemons, listen);
        let network = self.network(&network);
        let supervisor = self.supervisor(&supervisor);
        let mut policy = Policy {
            slug: slug?,
            seed_phrase_detection,
            allowlist: Vec::new(),
            passthrough: Vec::new(),
            grants,
            lasting: None,
            internal_cidr,
            tuning,
            listen,
            daemons,
            network,
            supervisor,
        };
        if policy.grants.is_empty() {
            policy.allowlist = lasting.allowlist;
            policy.passthrough = lasting.passthrough;
        } else {
            policy.lasting = Some(Box::new(lasting));
            policy.allow_granted();
        }
        Some(policy)
    }

    /// The valid hosts, in byte order, each once.
    fn routes(&mut self, routes: Vec<(Position, Route)>) -> Vec<String> {
        let mut hosts = Vec::with_capacity(routes.len());
        for (index, (at, route)) in routes.into_iter().enumerate() {
            let section = Section::Route(index);
            let host = self.host(section, "host", route.host.as_ref());
            let capital = self.host(section, "Host", route.Host.as_deref());
            match (host, capital) {
                (Some(Ok(host)), Some(Ok(capital))) if host != capital => {
                    self.refuse(Some(at), section.path(), || {
                        Rejection::new(format!(
                            "host is {} and Host is {}",
                            quoted(&host),
                            quoted(&capital)
                        ))
                        .hint("keep one of them")
                    });
                }
                (Some(Ok(host)), _) | (None, Some(Ok(host))) => {
                    let given = route.host.as_ref().or(route.Host.as_deref());
                    let at = given.map_or(at, |scalar| scalar.at);
                    self.known.look_at(&host, at, section);
                    hosts.push(host);
                }
                (Some(Err(())), _) | (_, Some(Err(()))) => {}
                // What stands there instead of a route was refused.
                (None, None) if at == Position::default() => {}
                (None, None) => self.warnings.add(|| {
                    Rejection::new("the route has no host, and is passed over")
                        .at(Some(at), section.path())
                }),
            }
        }
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// `None` for an empty or missing host, as the seed has it.
    fn host(
        &mut self,
        section: Section,
        key: &str,
        scalar: Option<&Scalar>,
    ) -> Option<Result<String, ()>> {
        let scalar = scalar.filter(|s| !s.text.is_empty() && s.kind() != Kind::Null)?;
        let judged = text_or_quotes(scalar, "host name", |text| host::normalize(text).is_ok())
            .and_then(host::normalize);
        Some(judged.map_err(|refusal| self.refuse(Some(scalar.at), section.key(key), || refusal)))
    }

    /// The model's host and those of the manifest, as pipelock reads them.
    fn passthrough(
        &mut self,
        given: &[Scalar],
        allowlist: &[String],
        grants: &[(Position, manifest::Grant)],
    ) -> Vec<String> {
        // What ends with a grant is written there.
        let is_granted = |host: &str| {
            let mut granted = grants.iter().filter_map(|(_, grant)| grant.host.as_ref());
            granted.any(|it| host::normalize(&it.text).is_ok_and(|it| it == host))
        };
        let mut hosts = vec![MODEL_HOST.to_owned()];
        for (index, scalar) in given.iter().enumerate() {
            let judged = text_or_quotes(scalar, "host name", |text| host::normalize(text).is_ok())
                .and_then(host::normalize);
            let field = || format!("{}[{index}]", Section::Pipelock.key("passthrough"));
            match judged {
                Ok(host) if !matching::allows_entry(allowlist, &host) => {
                    self.refuse(Some(scalar.at), field(), || {
                        if is_granted(&host) {
                            return only_granted(&host);
                        }
                        not_routed(&host, allowlist)
                    });
                }
                Ok(host) => {
                    hosts.extend(as_passed(&host));
                }
                Err(refusal) => self.refuse(Some(scalar.at), field(), || {
                    with_its_route(refusal, &scalar.text, allowlist)
                }),
            }
        }
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    fn internal_cidr(&mut self, network: &manifest::Network) -> Option<String> {
        // The seed takes an empty string for "none".
        let given = network
            .internal_cidr
            .as_ref()
            .filter(|s| !s.text.is_empty());
        self.judge(Section::Network, "internal_cidr", given, |s| {
            network::cidr(text(s, "CIDR")?)
        })
    }

    fn listen(&mut self, given: Option<&Scalar>) -> SocketAddr {
        let listen = self.judge(Section::Pipelock, "listen", given, |s| {
            network::listen(&s.text)
        });
        if let (Some(listen), Some(scalar)) = (listen, given)
            && listen.port() < 1024
        {
            self.warnings.add(|| {
                Rejection::new(format!(
                    "{} is a privileged port: the daemon, which is not root, may be refused it",
                    listen.port()
                ))
                .hint("write a port from 1024 on")
                .at(Some(scalar.at), Section::Pipelock.key("listen"))
            });
        }
        listen.unwrap_or(DEFAULT_LISTEN)
    }

    fn tuning(&mut self, given: &manifest::Pipelock) -> Tuning {
        let mut number = |key, scalar: &Option<Scalar>, max| {
            self.judge(Section::Pipelock, key, scalar.as_ref(), |s| {
                integer(s, 1, max)
            })
        };
        Tuning {
            requests_per_minute: number(
                "requests_per_minute",
                &given.requests_per_minute,
                MAX_REQUESTS_PER_MINUTE,
            ),
            max_tunnel_seconds: number("max_tunnel_seconds", &given.max_tunnel_seconds, MONTH),
            idle_timeout_seconds: number(
                "idle_timeout_seconds",
                &given.idle_timeout_seconds,
                MONTH,
            ),
            scan_limit_mib: number("scan_limit_mib", &given.scan_limit_mib, MAX_SCAN_LIMIT_MIB),
        }
    }

    fn supervisor(&mut self, given: &manifest::Supervisor) -> Supervision {
        let mut seconds = |key, scalar: &Option<Scalar>, min, max, default| {
            let judged = self.judge(Section::Supervisor, key, scalar.as_ref(), |s| {
                integer(s, min, max)
            });
            Duration::from_secs(judged.unwrap_or(default).into())
        };
        Supervision {
            grace: seconds("grace_seconds", &given.grace_seconds, 1, 600, 8),
            drain: seconds("drain_seconds", &given.drain_seconds, 0, 3600, 0),
            probe: seconds("probe_seconds", &given.probe_seconds, 1, 3600, 5),
        }
    }

    fn network(&mut self, given: &manifest::Network) -> Network {
        let section = Section::Network;
        let internal = self.judge(section, "internal", given.internal.as_ref(), network_name);
        let egress = self.judge(section, "egress", given.egress.as_ref(), network_name);
        let address = self.judge(section, "address", given.address.as_ref(), |s| {
            network::interface(text(s, "address")?)
        });
        let gateway = self.judge(section, "gateway", given.gateway.as_ref(), |s| {
            let gateway = text(s, "IP address")?;
            let Some(own) = address else {
                return network::address(gateway);
            };
            network::address(gateway)
                .map_err(|refusal| match network::meant_address(gateway) {
                    // What would be refused in its turn is not told to be written.
                    Some(meant) if reachable(meant, own).is_err() => refusal.hint(format!(
                        "write another address of the network of {}/{}",
                        own.0, own.1
                    )),
                    _ => refusal,
                })
                .and_then(|gateway| reachable(gateway, own))
        });
        Network {
            internal,
            egress,
            hosts: self.hosts(&given.hosts),
            address,
            gateway,
            dns: self.dns(&given.dns),
        }
    }

    fn hosts(&mut self, given: &[(Scalar, Scalar)]) -> Vec<(String, IpAddr)> {
        let mut seen = BTreeSet::new();
        let mut hosts = Vec::with_capacity(given.len());
        for (name, value) in given {
            let field = || Section::Hosts.key(&name.text);
            let judged = host::host_name(&name.text).and_then(|name| match name.as_str() {
                "localhost" => Err(Rejection::new("localhost is always 127.0.0.1")),
                _ => Ok(name),
            });
            let judged = match judged {
                Ok(name) if seen.contains(&name) => Err(Rejection::new(format!(
                    "the name {} is there twice",
                    quoted(&name)
                ))),
                judged => judged,
            };
            let address = text(value, "IP address").and_then(network::address);
            match (judged, address) {
                (Ok(name), Ok(address)) => {
                    seen.insert(name.clone());
                    hosts.push((name, address));
                }
                (judged, address) => {
                    if let Err(refusal) = judged {
                        self.refuse(Some(name.at), field(), || refusal);
                    }
                    if let Err(refusal) = address {
                        self.refuse(Some(value.at), field(), || refusal);
                    }
                }
            }
        }
        hosts
    }

    fn dns(&mut self, given: &[Scalar]) -> Vec<IpAddr> {
        let mut servers = Vec::new();
        for (index, scalar) in given.iter().enumerate() {
            let field = || format!("network.dns[{index}]");
            if index == MAX_DNS {
                self.refuse(Some(scalar.at), field(), || {
                    Rejection::new(format!(
                        "a resolver reads {MAX_DNS} name servers, and here are {}",
                        given.len()
                    ))
                });
                break;
            }
            match text(scalar, "IP address").and_then(network::address) {
                Ok(server) => servers.push(server),
                Err(refusal) => self.refuse(Some(scalar.at), field(), || refusal),
            }
        }
        servers
    }

    fn required<T>(
        &mut self,
        section: Section,
        key: &'static str,
        scalar: Option<&Scalar>,
        rule: impl FnOnce(&Scalar) -> Result<T, Rejection>,
    ) -> Option<T> {
        let given = scalar.filter(|s| s.kind() != Kind::Null);
        if given.is_none() && self.complete {
            self.missing(key, "write \"slug: NAME\", the agent's name");
        }
        self.judge(section, key, given, rule)
    }

    fn missing(&mut self, field: &str, hint: &str) {
        // What is there in a wrong shape was reported as that.
        if !self.problems.names(field) {
            self.refuse(None, field.to_owned(), || {
                Rejection::new("required, and not there").hint(hint)
            });
        }
    }

    /// The rule's result for a field that is there; YAML's null is not there.
    fn judge<T>(
        &mut self,
        section: Section,
        key: &str,
        scalar: Option<&Scalar>,
        rule: impl FnOnce(&Scalar) -> Result<T, Rejection>,
    ) -> Option<T> {
        let scalar = scalar.filter(|s| s.kind() != Kind::Null)?;
        match rule(scalar) {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.refuse(Some(scalar.at), section.key(key), || refusal);
                None
            }
        }
    }

    fn refuse(&mut self, at: Option<Position>, field: String, refusal: impl FnOnce() -> Rejection) {
        self.problems.add(|| refusal().at(at, field));
    }
}

/// Why a host that is allowed for a time cannot be passed through without an end.
fn only_granted(host: &str) -> Rejection {
    Rejection::new(format!(
        "{} is allowed by a grant alone, and passed through no longer than that",
        quoted(host)
    ))
    .hint("remove the entry; in its grant: write passthrough: true")
}

/// Why a host that the routes do not allow cannot be passed through, and what can be: a wildcard
/// is no reason for a route to allow more than it does.
fn not_routed(host: &str, allowlist: &[String]) -> Rejection {
    const NAMED: usize = 8;
    let is_part = |entry: &&String| {
        host.strip_prefix("*.")
            .is_some_and(|domain| matching::is_in(entry, domain))
    };
    let mut parts = allowlist.iter().filter(is_part);
    let named: Vec<String> = parts
        .by_ref()
        .take(NAMED)
        .map(|part| in_yaml(part))
        .collect();
    if named.is_empty() {
        return Rejection::new(format!(
            "{} is not allowed by any route, so nothing could be passed through to it",
            quoted(host)
        ))
        .hint(format!(
            "add below bottle.egress.routes: - host: {}",
            in_yaml(host)
        ));
    }
    let more = match parts.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Rejection::new(format!(
        "{} is wider than the routes, which allow only some of its hosts",
        quoted(host)
    ))
    .hint(format!(
        "list the single hosts in pipelock.passthrough: {}{more}",
        named.join(", ")
    ))
}

/// A refusal whose hint is all there is to do, where the host that was meant has no route either.
fn with_its_route(refusal: Rejection, text: &str, allowlist: &[String]) -> Rejection {
    let Some(host) = host::meant(text).filter(|host| !matching::allows_entry(allowlist, host))
    else {
        return refusal;
    };
    match not_routed(&host, allowlist).hint {
        Some(add) if add.starts_with("add ") => {
            refusal.hint(format!("write \"{host}\" here, and {add}"))
        }
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

/// What to write below `pipelock` so that a normalized host is passed through besides those that are.
/// A second `passthrough` there would be refused, and one in the first's place would scan
/// again what that names.
pub(crate) fn one_more_passed(passthrough: &[String], host: &str) -> String {
    let host = in_yaml(host);
    // The model's host is there without being written.
    if passthrough.iter().any(|known| known != MODEL_HOST) {
        format!("add {host} to passthrough")
    } else {
        format!("write passthrough: [{host}]")
    }
}

/// A normalized host as YAML reads it for text.
pub(crate) fn in_yaml(host: &str) -> String {
    let unquoted = Scalar {
        text: host.into(),
        plain: true,
        at: Position::default(),
    };
    if host.starts_with('*') || host.contains(':') || unquoted.kind() != Kind::Text {
        format!("\"{host}\"")
    } else {
        host.to_owned()
    }
}

/// What to write instead of what stands in a wrong shape: something that is accepted there.
fn advise(wanted: Wanted, text: &str) -> Option<String> {
    const LISTED: usize = 8;
    let host = |text: &str| host::meant(text).map(|host| in_yaml(&host));
    match wanted {
        Wanted::List(element) => {
            let comma = element != Element::Argument;
            let separate = |c: char| c.is_whitespace() || comma && c == ',';
            let parts = text.split(separate).filter(|part| !part.is_empty());
            let parts: Option<Vec<String>> = parts
                .map(|part| match element {
                    Element::Address => {
                        let address = network::address(part).ok()?;
                        Some(in_yaml(&address.to_string()))
                    }
                    Element::Host => host(part),
                    Element::Route => Some(format!("{{host: {}}}", host(part)?)),
                    // Until when is nobody's guess.
                    Element::Grant => None,
                    Element::Argument | Element::Port | Element::File | Element::Daemon => {
                        daemons::listed(element, part)
                    }
                })
                .collect();
            let most = if element == Element::Address {
                MAX_DNS
            } else {
                LISTED
            };
            let parts = parts.filter(|parts| (1..=most).contains(&parts.len()))?;
            if element == Element::Argument {
                // A program that is no path would be refused in its place too.
                parts.first().filter(|program| program.starts_with('/'))?;
            }
            Some(format!("write [{}]", parts.join(", ")))
        }
        // Within the hint's own quotes.
        Wanted::Mapping(Element::Grant) | Wanted::Quoted(Element::Grant) => None,
        Wanted::Mapping(_) | Wanted::Quoted(Element::Route) => Some(format!(
            "write \"- host: {}\"",
            host(text)?.replace('"', "'")
        )),
        Wanted::Quoted(Element::Host) => {
            let host = host::meant(text)?;
            Some(if host == text {
                format!("put it in quotes: \"{host}\"")
            } else {
                format!("write \"{host}\"")
            })
        }
        Wanted::Quoted(Element::Argument | Element::File) => daemons::in_quotes(text),
        Wanted::Quoted(Element::Address | Element::Port | Element::Daemon) => None,
    }
}

/// What stands in a route for a host that a client asked for, as YAML has it; else why no line
/// of a manifest can allow it. pipelock compares hosts as their clients write them.
pub(crate) fn route_for(asked: &str) -> Result<String, String> {
    host::normalize(asked)
        .map(|host| in_yaml(&host))
        .map_err(|refusal| match asked.parse::<IpAddr>() {
            Ok(address) => format!(
                "{}; the client has to ask for {}",
                refusal.message,
                address.to_canonical()
            ),
            Err(_) => refusal.message,
        })
}

/// The text of a scalar that YAML does not take for something else.
fn text<'a>(scalar: &'a Scalar, wanted: &str) -> Result<&'a str, Rejection> {
    let what = match scalar.kind() {
        Kind::Text => return Ok(&scalar.text),
        Kind::Null => "nothing",
        Kind::Bool(_) => "a boolean",
        Kind::Integer(_) | Kind::Float => "a number",
    };
    let article = if wanted.starts_with(['a', 'I']) {
        "an"
    } else {
        "a"
    };
    Err(Rejection::new(format!(
        "{} is {what}, not {article} {wanted}",
        quoted(&scalar.text)
    )))
}

/// As [`text`], with a hint where quotes would make the value a valid one.
fn text_or_quotes<'a>(
    scalar: &'a Scalar,
    wanted: &str,
    valid: impl FnOnce(&str) -> bool,
) -> Result<&'a str, Rejection> {
    text(scalar, wanted).map_err(|refusal| {
        if valid(&scalar.text) {
            refusal.hint(format!("put it in quotes: \"{}\"", scalar.text))
        } else {
            refusal
        }
    })
}

fn judge_version(scalar: &Scalar) -> Result<(), Rejection> {
    match scalar.kind() {
        Kind::Integer(Some(1)) => Ok(()),
        _ => Err(Rejection::new(format!(
            "{} is not a version this program reads",
            quoted(&scalar.text)
        ))
        .hint("write 1, without quotes")),
    }
}

/// The largest value of a limit of pipelock's, by its key.
pub(crate) fn most(key: &str) -> u32 {
    match key {
        "scan_limit_mib" => MAX_SCAN_LIMIT_MIB,
        "requests_per_minute" => MAX_REQUESTS_PER_MINUTE,
        _ => MONTH,
    }
}

/// A slug as YAML reads it for text.
pub(crate) fn slug(text: &str) -> Result<String, Rejection> {
    judge_slug(&Scalar {
        text: text.into(),
        plain: false,
        at: Position::default(),
    })
    .map(|slug| in_yaml(&slug))
}

fn judge_bool(scalar: &Scalar) -> Result<bool, Rejection> {
    if let Kind::Bool(value) = scalar.kind() {
        return Ok(value);
    }
    let refusal = Rejection::new(format!(
        "{} is neither true nor false",
        quoted(&scalar.text)
    ));
    Err(match &*scalar.text.to_ascii_lowercase() {
        "yes" | "on" | "y" | "true" | "1" => refusal.hint("write true, without quotes"),
        "no" | "off" | "n" | "false" | "0" => refusal.hint("write false, without quotes"),
        _ => refusal,
    })
}

fn judge_slug(scalar: &Scalar) -> Result<String, Rejection> {
    label(scalar, "a slug", MAX_SLUG)
}

/// A label of a host name: what it is for, and the most characters.
fn label(scalar: &Scalar, what: &str, most: usize) -> Result<String, Rejection> {
    let text = &*scalar.text;
    let refuse = |cause: &str| Rejection::new(format!("{} is not {what}: {cause}", quoted(text)));
    let sound = |s: &str| {
        s.len() <= most
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-')
            && !s.is_empty()
    };
    if sound(text) {
        return match scalar.kind() {
            Kind::Text => Ok(text.to_owned()),
            _ => Err(refuse("YAML takes it for a number or a boolean")
                .hint(format!("put it in quotes: \"{text}\""))),
        };
    }
    let refusal = refuse(&format!(
        "it takes lower-case letters, digits and hyphens between them, at most {most}"
    ));
    let near: String = text
        .chars()
        .take(most)
        .map(|c| match c {
            'a'..='z' | '0'..='9' => c,
            'A'..='Z' => c.to_ascii_lowercase(),
            _ => '-',
        })
        .collect();
    let near = near.trim_matches('-');
    Err(if sound(near) {
        refusal.hint(format!("write \"{near}\""))
    } else {
        refusal
    })
}

/// A container network's name, in Docker's form.
fn network_name(scalar: &Scalar) -> Result<String, Rejection> {
    let sound = |name: &str| {
        (1..=128).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    let name = text_or_quotes(scalar, "network name", sound)?;
    if sound(name) {
        Ok(name.to_owned())
    } else {
        Err(Rejection::new(format!(
            "{} is not a network name: it takes letters, digits, \"_\", \".\" and \"-\" after a letter or digit, at most 128",
            quoted(name)
        )))
    }
}

fn integer(scalar: &Scalar, min: u32, max: u32) -> Result<u32, Rejection> {
    let shown = quoted(&scalar.text);
    let range = format!("an integer from {min} to {max}");
    let kind = scalar.kind();
    if let Kind::Integer(Some(value)) = kind
        && let Ok(value) = u32::try_from(value)
        && (min..=max).contains(&value)
    {
        return Ok(value);
    }
    let refusal = Rejection::new(format!("{shown} is not {range}"));
    let is_in_range = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit())
            && text.parse().is_ok_and(|n: u32| (min..=max).contains(&n))
    };
    Err(match kind {
        Kind::Text if is_in_range(&scalar.text) => {
            refusal.hint("write it without quotes and leading zeros")
        }
        Kind::Text if scalar.text.strip_suffix('s').is_some_and(is_in_range) => {
            refusal.hint("write the number without a unit")
        }
        _ => refusal,
    })
}

/// The gateway, if a host at `address` can reach it without one.
fn reachable(gateway: IpAddr, address: network::Prefixed) -> Result<IpAddr, Rejection> {
    let (own, prefix) = address;
    let link_local =
        matches!((gateway, own), (IpAddr::V6(v6), IpAddr::V6(_)) if v6.is_unicast_link_local());
    if gateway == own {
        return Err(Rejection::new(format!(
            "\"{gateway}\" is the machine's own address"
        )));
    }
    if !link_local && !network::on_link(address, gateway) {
        return Err(Rejection::new(format!(
            "\"{gateway}\" is not in the network of {own}/{prefix}, so nothing leads to it"
        )));
    }
    Ok(gateway)
}
