//! What a client of the proxy needs, in the export directory: the CA, the public roots
//! with it, and the variables that make its tools use both. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::rc::Rc;

pub use super::exported::{AGENTS, BUNDLE, CA, ENVIRONMENT};
use super::for_agents;
use crate::environment;
use crate::plain;
use crate::policy::Policy;

/// Where the export is, in the run directory.
pub const DIRECTORY: &str = "export";

/// The variable that says where [`AGENTS`] is.
const AGENTS_VARIABLE: &str = "SIDECAR_FOR_AGENTS";
/// Where a client is to mount the export: a file of variables can hold no relative path.
pub const CLIENT_DIRECTORY: &str = "/run/sidecar-export";
/// The proxy's name where no address is known.
const PROXY_NAME: &str = crate::boot::network::HOSTNAME;

/// Where the clients are.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In another machine or container, where the export is mounted at [`CLIENT_DIRECTORY`]. This
    /// one's own address, where the manifest has none.
    Elsewhere(Option<IpAddr>),
    /// On this host, where the export is this directory.
    Here(&'a Path),
}

/// What a file is to be.
#[derive(Debug, Clone)]
pub enum Content {
    /// Not there.
    Gone,
    /// This text.
    Text(Rc<str>),
    /// The public roots, or these in their place, and the certificate of the CA.
    Bundle {
        /// Public and extra roots together, where there are extra ones.
        trust: Option<Rc<[u8]>>,
        /// The CA's certificate.
        ca: Rc<str>,
    },
}

/// What clients need. `trust` is the public and the extra roots together, where there are
/// extra ones; `agents` what they trust for the daemon that is their proxy, where one is.
#[must_use]
pub fn clients(
    ca: &Rc<str>,
    agents: Option<&Rc<str>>,
    trust: Option<&Rc<[u8]>>,
    policy: &Policy,
    place: Place,
) -> [(&'static str, Content); 4] {
    let bundle = Content::Bundle {
        trust: trust.cloned(),
        ca: match agents {
            None => Rc::clone(ca),
            Some(agents) => format!("{ca}{agents}").into(),
        },
    };
    let (proxy, directory) = match place {
        Place::Elsewhere(address) => (proxy_url(policy, address), CLIENT_DIRECTORY.to_owned()),
        Place::Here(export) => (
            proxy_url_here(policy),
            export.to_string_lossy().into_owned(),
        ),
    };
    let environment = environment(&proxy, &directory);
    let page = for_agents::page(policy, &proxy, &directory);
    [
        (BUNDLE, bundle),
        (ENVIRONMENT, Content::Text(environment.into())),
        (AGENTS, Content::Text(page.into())),
        (CA, Content::Text(Rc::clone(ca))),
    ]
}

/// Where clients reach the proxy: the address it listens on; if that is every address,
/// the manifest's or the machine's own, else the machine's name. Where another daemon is their
/// proxy, pipelock's is not for them, and on which that one listens nobody knows.
fn proxy_url(policy: &Policy, address: Option<IpAddr>) -> String {
    let listen = policy.listen.ip();
    let configured = policy.network.address.map(|(ip, _)| ip);
    let known = [
        Some(listen).filter(|ip| !ip.is_unspecified() && policy.agent_proxy().is_none()),
        configured,
        address,
    ];
    let mut usable = known.into_iter().flatten().filter(|ip| !needs_a_zone(*ip));
    url(policy, usable.next())
}

/// Whether an address means something on one link alone, which no client can be told here: what
/// this machine calls that link is not what theirs does (RFC 4007, 6).
fn needs_a_zone(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Where clients of this host reach it: what listens on every address does on loopback, too.
fn proxy_url_here(policy: &Policy) -> String {
    let listen = policy.listen.ip();
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    url(
        policy,
        Some(if listen.is_unspecified() {
            loopback
        } else {
            listen
        }),
    )
}

fn url(policy: &Policy, ip: Option<IpAddr>) -> String {
    let host = match ip {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        None => PROXY_NAME.to_owned(),
    };
    let port = policy.agent_proxy().unwrap_or(policy.listen.port());
    format!("http://{host}:{port}")
}

/// For a shell: as it is, if nothing in it means anything to one. What no line shows as it is, is
/// spelled out (printf(1)).
#[must_use]
pub fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if text.chars().all(is_plain) {
        return text.to_owned();
    }
    if plain::line(text) != text {
        let mut spelled = "\"$(printf '".to_owned();
        for byte in text.bytes() {
            spelled.push('\\');
            let digits = [byte >> 6, byte >> 3 & 7, byte & 7];
            spelled.extend(digits.map(|digit| char::from(b'0' + digit)));
        }
        return spelled + "')\"";
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What to paste into a shell on the host where the export is this directory: the variables,
/// and a request to try them with.
#[must_use]
pub fn invitation(export: &Path, policy: &Policy) -> String {
    let file = quoted(&export.join(ENVIRONMENT).to_string_lossy());
    let named = policy
        .allowlist
        .iter()
        .find(|host| !host.contains(['*', ':']));
    let host = named.map_or("example.com", String::as_str);
    format!("  set -a; . {file}; set +a\n  curl https://{host}/\n")
}

/// `NAME=value` in lines, without quotes or `export`: what `docker --env-file` and
/// systemd's `EnvironmentFile=` take as it is, and a shell after `set -a`. No value
/// holds anything that one of them would expand; the path of a `directory` on this host is quoted
/// for a shell where it has to be.
fn environment(proxy: &str, directory: &str) -> String {
    let [bundle, agents] = [BUNDLE, AGENTS].map(|name| quoted(&format!("{directory}/{name}")));
    let mut text = String::new();
    for (name, value) in environment::of_clients(proxy, &bundle) {
        text.push_str(&format!("{name}={value}\n"));
    }
    text.push_str(&format!("{AGENTS_VARIABLE}={agents}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::daemons::is_set_by_the_init;

    fn policy(more: &str) -> Policy {
        let text = format!("version: 1\nslug: x\nbottle: {{}}\n{more}");
        crate::policy::read(text.as_bytes(), true, 0)
            .unwrap()
            .policy
    }

    #[test]
    fn names_the_proxy_where_clients_reach_it() {
        let own = Some("192.0.2.9".parse().unwrap());
        for (more, address, wanted) in [
            ("", None, "http://pipelock:8888"),
            ("", own, "http://192.0.2.9:8888"),
            (
                "network: {address: 10.0.2.15/24}\n",
                own,
                "http://10.0.2.15:8888",
            ),
            (
                "network: {address: \"fd00::2/64\"}\n",
                None,
                "http://[fd00::2]:8888",
            ),
            (
                "network: {address: \"fe80::2/64\"}\n",
                own,
                "http://192.0.2.9:8888",
            ),
            (
                "network: {address: \"fe80::2/64\"}\n",
                None,
                "http://pipelock:8888",
            ),
            (
                "pipelock: {listen: \"127.0.0.1:3128\"}\nnetwork: {address: 10.0.2.15/24}\n",
                own,
                "http://127.0.0.1:3128",
            ),
        ] {
            assert_eq!(proxy_url(&policy(more), address), wanted, "{more}");
        }
    }

    #[test]
    fn clients_of_this_host_reach_what_listens_everywhere_on_loopback() {
        let network = "network: {address: 10.0.2.15/24}\n";
        assert_eq!(proxy_url_here(&policy(network)), "http://127.0.0.1:8888");
        let other = "pipelock: {listen: \"[::1]:3128\"}\n";
        assert_eq!(proxy_url_here(&policy(other)), "http://[::1]:3128");
    }

    #[test]
    fn is_quoted_for_a_shell_where_that_has_to_be() {
        assert_eq!(quoted("/home/me/run-1"), "/home/me/run-1");
        assert_eq!(quoted("/my $run's"), "'/my $run'\\''s'");
        assert_eq!(quoted("/\u{1b}\n"), r#""$(printf '\057\033\012')""#);
    }

    #[test]
    fn holds_what_no_daemon_that_is_given_the_same_may_set_itself() {
        let variables = environment::of_clients("http://pipelock:8888", "/bundle.pem");
        assert_eq!(variables.len(), 24);
        for (name, _) in &variables {
            assert!(is_set_by_the_init(name, true), "{name}");
            assert!(!is_set_by_the_init(name, false), "{name}");
        }
        assert!(!is_set_by_the_init("HOME", true));
    }

    #[test]
    fn holds_nothing_that_a_shell_or_docker_would_change() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_=/:.,-[]".contains(c);
        for line in environment("http://[fd00::2]:8888", CLIENT_DIRECTORY).lines() {
            assert!(line.chars().all(plain), "{line}");
            assert!(
                line.split_once('=')
                    .is_some_and(|(_, value)| !value.is_empty()),
                "{line}"
            );
        }
    }
}
