//! What a client of the proxy needs, in the export directory: the CA, the public roots
//! with it, and the variables that make its tools use both. Pure.

use std::net::IpAddr;
use std::rc::Rc;

use super::for_agents;
use crate::policy::Policy;

/// Where the export is, in the run directory.
pub const DIRECTORY: &str = "export";

/// The CA certificate alone.
pub const CA: &str = "pipelock-ca.pem";
/// The public roots, the manifest's extra ones, and the CA: an intercepted host shows a
/// certificate of the CA, a passthrough host one of the others.
pub const BUNDLE: &str = "ca-bundle.pem";
/// The variables.
pub const ENVIRONMENT: &str = "client.env";
/// What an agent is told of all this; its first lines are the state's, and the reporter's.
pub const AGENTS: &str = "for-agents.md";
/// The variable that says where that is.
const AGENTS_VARIABLE: &str = "SIDECAR_FOR_AGENTS";
/// Where a client is to mount the export: a file of variables can hold no relative path.
pub const CLIENT_DIRECTORY: &str = "/run/sidecar-export";
/// The proxy's name where no address is known.
const PROXY_NAME: &str = crate::boot::network::HOSTNAME;

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
/// extra ones; `address` is the machine's own, where the manifest has none.
#[must_use]
pub fn clients(
    ca: &Rc<str>,
    trust: Option<&Rc<[u8]>>,
    policy: &Policy,
    address: Option<IpAddr>,
) -> [(&'static str, Content); 4] {
    let bundle = Content::Bundle {
        trust: trust.cloned(),
        ca: Rc::clone(ca),
    };
    let proxy = proxy_url(policy, address);
    let environment = environment(&proxy);
    let page = for_agents::page(policy, &proxy, CLIENT_DIRECTORY);
    [
        (BUNDLE, bundle),
        (ENVIRONMENT, Content::Text(environment.into())),
        (AGENTS, Content::Text(page.into())),
        (CA, Content::Text(Rc::clone(ca))),
    ]
}

/// Where clients reach the proxy: the address it listens on; if that is every address,
/// the manifest's or the machine's own, else the machine's name.
fn proxy_url(policy: &Policy, address: Option<IpAddr>) -> String {
    let listen = policy.listen;
    let ip = Some(listen.ip())
        .filter(|ip| !ip.is_unspecified())
        .or(policy.network.address.map(|(ip, _)| ip))
        .or(address);
    let host = match ip {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        None => PROXY_NAME.to_owned(),
    };
    format!("http://{host}:{}", listen.port())
}

/// `NAME=value` in lines, without quotes or `export`: what `docker --env-file` and
/// systemd's `EnvironmentFile=` take as it is, and a shell after `set -a`. No value
/// holds anything that one of them would expand.
fn environment(proxy: &str) -> String {
    let bundle = format!("{CLIENT_DIRECTORY}/{BUNDLE}");
    let mut text = String::new();
    let mut put = |name: &str, value: &str| text.push_str(&format!("{name}={value}\n"));
    for (name, value) in [
        ("HTTP_PROXY", proxy),
        ("HTTPS_PROXY", proxy),
        ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ] {
        put(name, value);
        put(&name.to_ascii_lowercase(), value);
    }
    // Without it Node ignores the four above (since 24.0 and 22.21).
    put("NODE_USE_ENV_PROXY", "1");
    // Yarn from 2 on ignores them, and ends at a variable of this form that it does not know.
    put("YARN_HTTP_PROXY", proxy);
    put("YARN_HTTPS_PROXY", proxy);
    put(AGENTS_VARIABLE, &format!("{CLIENT_DIRECTORY}/{AGENTS}"));
    for name in [
        "NODE_EXTRA_CA_CERTS",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "CARGO_HTTP_CAINFO",
        "PIP_CERT",
        "DENO_CERT",
        // Wins over the `cafile` of a machine's npmrc, which wins over NODE_EXTRA_CA_CERTS.
        "npm_config_cafile",
        "AWS_CA_BUNDLE",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "HTTPLIB2_CA_CERTS",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "HEX_CACERTS_PATH",
        // Set by Nix's own profile, and wins over SSL_CERT_FILE there.
        "NIX_SSL_CERT_FILE",
    ] {
        put(name, &bundle);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
                "pipelock: {listen: \"127.0.0.1:3128\"}\nnetwork: {address: 10.0.2.15/24}\n",
                own,
                "http://127.0.0.1:3128",
            ),
        ] {
            assert_eq!(proxy_url(&policy(more), address), wanted, "{more}");
        }
    }

    #[test]
    fn holds_nothing_that_a_shell_or_docker_would_change() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_=/:.,-[]".contains(c);
        for line in environment("http://[fd00::2]:8888").lines() {
            assert!(line.chars().all(plain), "{line}");
            assert!(
                line.split_once('=')
                    .is_some_and(|(_, value)| !value.is_empty()),
                "{line}"
            );
        }
    }
}
