//! Whether a request may go where it wants: allowlist, secrets in the URL,
//! internal addresses, rate. Resolves names, and only those the allowlist lets by.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Config, go_words};
use crate::dlp;
use crate::state::Runtime;

const WINDOW: Duration = Duration::from_mins(1);
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// Suffixes under which names are registered one label further left. pipelock
/// reads the public suffix list for this; a stand-in needs the shape of it.
const SECOND_LEVEL: [&str; 8] = [
    "co.uk", "org.uk", "ac.uk", "gov.uk", "com.au", "co.jp", "com.br", "co.nz",
];

/// Why a request is refused.
#[derive(Debug)]
pub struct Refusal {
    /// pipelock's name for the check that refused.
    pub scanner: &'static str,
    /// Its words.
    pub reason: String,
}

impl Refusal {
    fn new(scanner: &'static str, reason: String) -> Self {
        Self { scanner, reason }
    }

    /// Whether it is about how much, not about what.
    pub fn is_rate_limit(&self) -> bool {
        self.scanner == "ratelimit"
    }
}

/// Judges a URL and its host (no brackets, no port).
pub async fn judge(runtime: &Runtime, host: &str, url: &str) -> Result<(), Refusal> {
    let config = &runtime.config;
    let host = host.to_lowercase();
    judge_form(url)?;
    if config.enforces_allowlist() && !config.api_allowlist.iter().any(|p| matches(&host, p)) {
        return Err(Refusal::new(
            "allowlist",
            format!("domain not in allowlist: {host}"),
        ));
    }
    if let Some(pattern) = config.blocklist.iter().find(|p| matches(&host, p)) {
        let reason = format!("domain blocked: {host} matches {pattern}");
        return Err(Refusal::new("blocklist", reason));
    }
    if let Some(name) = dlp::secret_in_url(url, config) {
        return Err(Refusal::new(
            "core_dlp",
            format!("core DLP match: {name} (critical)"),
        ));
    }
    judge_entropy(&host, url)?;
    refuse_internal(config, &host).await?;
    if !runtime.limiter.admit(registrable(&host)) {
        return Err(Refusal::new(
            "ratelimit",
            format!("rate limit exceeded for {host}"),
        ));
    }
    if url.len() > config.max_url_length {
        let (length, most) = (url.len(), config.max_url_length);
        let reason = format!("URL length {length} exceeds maximum {most}");
        return Err(Refusal::new("length", reason));
    }
    Ok(())
}

/// What no URL may have in it, whoever it is for.
fn judge_form(url: &str) -> Result<(), Refusal> {
    let lower = url.to_lowercase();
    let injections = [
        ("%0d%0a", "CRLF injection sequence in URL"),
        (
            "%250d%250a",
            "double-encoded CRLF injection sequence in URL",
        ),
        ("%0a", "encoded CR or LF in URL"),
        ("%0d", "encoded CR or LF in URL"),
    ];
    if let Some((_, words)) = injections.iter().find(|(text, _)| lower.contains(text)) {
        return Err(Refusal::new("crlf_injection", (*words).to_owned()));
    }
    let path = lower.split(['?', '#']).next().unwrap_or_default();
    let plain = path
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/");
    if plain.contains("/../") || plain.ends_with("/..") {
        let words = "path traversal sequence in URL".to_owned();
        return Err(Refusal::new("path_traversal", words));
    }
    Ok(())
}

/// What looks as if it were no word of any language.
fn judge_entropy(host: &str, url: &str) -> Result<(), Refusal> {
    const MOST: f64 = 4.5;
    const MOST_IN_NAMES: f64 = 4.0;
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let path = address.split('/').skip(3);
    for segment in path.filter(|segment| segment.len() >= 20) {
        let entropy = dlp::entropy(segment);
        if entropy > MOST {
            let reason = format!("high entropy path segment ({entropy:.2} > {MOST:.2} threshold)");
            return Err(Refusal::new("entropy", reason));
        }
    }
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        for (what, text) in [("key", key), ("param", value)] {
            let entropy = dlp::entropy(text);
            if text.len() >= 20 && entropy > MOST {
                let reason = format!(
                    "high entropy query {what} \"{key}\" ({entropy:.2} > {MOST:.2} threshold)"
                );
                return Err(Refusal::new("entropy", reason));
            }
        }
    }
    if host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let mut labels: Vec<&str> = host.split('.').collect();
    labels.truncate(labels.len().saturating_sub(2));
    for label in labels.into_iter().filter(|label| label.len() >= 8) {
        let entropy = dlp::entropy(label);
        if entropy > MOST_IN_NAMES {
            let reason = format!(
                "high entropy subdomain label \"{label}\" ({entropy:.2} > {MOST_IN_NAMES:.2} threshold)"
            );
            return Err(Refusal::new("subdomain_entropy", reason));
        }
    }
    Ok(())
}

async fn refuse_internal(config: &Config, host: &str) -> Result<(), Refusal> {
    if config.internal.is_empty() {
        return Ok(());
    }
    let addresses = resolve(host).await.map_err(|cause| {
        let reason = format!("SSRF check failed: DNS resolution error for {host}: {cause}");
        Refusal::new("ssrf", reason)
    })?;
    if config.trusted_domains.iter().any(|p| matches(host, p)) {
        return Ok(());
    }
    match addresses.into_iter().find(|a| is_refused(config, *a)) {
        Some(a) => {
            let reason = format!("SSRF blocked: {host} resolves to internal IP {a}");
            Err(Refusal::new("ssrf", reason))
        }
        None => Ok(()),
    }
}

fn is_refused(config: &Config, address: IpAddr) -> bool {
    let within = |ranges: &[crate::config::Cidr]| ranges.iter().any(|r| r.contains(address));
    within(&config.internal) && !within(&config.ssrf_allow)
}

/// A name's addresses; the error is in pipelock's words, less the resolver's address.
async fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let lookup = tokio::net::lookup_host((host, 0));
    match tokio::time::timeout(RESOLVE_WITHIN, lookup).await {
        Ok(Ok(found)) => Ok(found.map(|a| a.ip()).collect()),
        Ok(Err(_)) => Err(format!("lookup {host}: no such host")),
        Err(_) => Err(format!("lookup {host}: i/o timeout")),
    }
}

/// Connects to the first address of a host, none of which may be internal: the
/// second look, because a name can resolve differently now.
pub async fn dial(config: &Config, host: &str, port: u16) -> Result<tokio::net::TcpStream, String> {
    let addresses = resolve(&host.to_lowercase()).await?;
    if !config.trusted_domains.iter().any(|p| matches(host, p))
        && let Some(a) = addresses.iter().find(|a| is_refused(config, **a))
    {
        return Err(format!("SSRF blocked: {host} resolves to internal IP {a}"));
    }
    let first = addresses
        .first()
        .ok_or_else(|| format!("lookup {host}: no such host"))?;
    let address = SocketAddr::new(*first, port);
    let connected = tokio::net::TcpStream::connect(address).await;
    connected.map_err(|e| format!("dial tcp {address}: {}", go_words(&e)))
}

/// Whether a host fits an entry of the allowlist: case and one trailing dot do
/// not count, and `*.x` is also `x`. Addresses match exactly.
pub fn matches(host: &str, pattern: &str) -> bool {
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_lowercase();
    let (host, pattern) = (plain(host), plain(pattern));
    match pattern.strip_prefix("*.") {
        Some(base) if host.parse::<IpAddr>().is_err() => {
            host == base
                || host
                    .strip_suffix(base)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
        _ => host == pattern,
    }
}

/// Whether a tunnel stays closed: here `*.x` is not `x`.
pub fn passes_through(host: &str, domains: &[String]) -> bool {
    let host = host.to_lowercase();
    domains
        .iter()
        .map(|d| d.to_lowercase())
        .any(|pattern| match pattern.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') => host.ends_with(suffix),
            _ => host == pattern,
        })
}

/// The part of a name its owner registered; what is no name stays as it is.
fn registrable(host: &str) -> &str {
    if host.parse::<IpAddr>().is_ok() {
        return host;
    }
    let labels = if SECOND_LEVEL.iter().any(|s| host.ends_with(s)) {
        3
    } else {
        2
    };
    let start = host
        .rmatch_indices('.')
        .nth(labels - 1)
        .map_or(0, |(at, _)| at + 1);
    host.get(start..).unwrap_or(host)
}

/// Requests of the last minute, for each registrable domain.
pub struct RateLimiter {
    limit: usize,
    seen: Mutex<HashMap<String, VecDeque<Instant>>>,
}

impl RateLimiter {
    /// A limiter that has seen nothing.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: Mutex::default(),
        }
    }

    /// Counts a request, unless it is one too many.
    fn admit(&self, domain: &str) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let times = seen.entry(domain.to_owned()).or_default();
        while times.front().is_some_and(|t| t.elapsed() >= WINDOW) {
            times.pop_front();
        }
        if times.len() >= self.limit {
            return false;
        }
        times.push_back(Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{matches, passes_through, registrable};

    #[test]
    fn a_wildcard_allows_its_apex_but_does_not_pass_it_through() {
        assert!(matches("a.b.example.org", "*.example.org"));
        assert!(matches("EXAMPLE.org.", "*.example.org"));
        assert!(!matches("notexample.org", "*.example.org"));
        let domains = ["*.example.org".to_owned()];
        assert!(passes_through("a.example.org", &domains));
        assert!(!passes_through("example.org", &domains));
    }

    #[test]
    fn addresses_match_exactly() {
        assert!(matches("192.168.1.1", "192.168.1.1"));
        assert!(!matches("192.168.1.1", "*.168.1.1"));
    }

    #[test]
    fn subdomains_share_a_registrable_domain() {
        assert_eq!(registrable("a.b.example.org"), "example.org");
        assert_eq!(registrable("a.b.example.co.uk"), "example.co.uk");
        assert_eq!(registrable("localhost"), "localhost");
        assert_eq!(registrable("127.0.0.1"), "127.0.0.1");
    }
}
