//! What somebody wrote for a host, as a route has it, and what a route cannot say of it.

use std::net::IpAddr;

use crate::manifest::quoted;
use crate::policy;

use super::said::Said;

/// What `*.name` stands for where it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stars {
    /// The name and all below it, as here.
    WithName,
    /// What is below it.
    Below,
    /// What is one label below it.
    OneLabel,
}

/// A host, and what is lost of how it was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meant {
    /// In the one form that a manifest has.
    pub(super) host: String,
    pub(super) said: Vec<Said>,
    /// Whether it was of a part of the host: a port, a path.
    pub(super) is_part: bool,
}

const EVERY_PORT: &str = "every port of an allowed host is allowed";
const EVERY_PATH: &str = "a host is allowed with all its paths";
const NO_PORT: &str = "what is behind its colon is no port";

/// The host that is meant; else why it is none.
#[inline(never)]
pub(super) fn meant(text: &str, stars: Stars) -> Result<Meant, String> {
    let text = text.trim();
    let mut said = Vec::new();
    let mut is_part = false;
    let mut rest = text;
    let with_scheme = text.split_once("://");
    if let Some((scheme, behind)) = with_scheme {
        if !scheme.eq_ignore_ascii_case("https") {
            said.push(Said::lost(
                format!("the scheme {}", quoted(scheme)),
                EVERY_PORT,
            ));
        }
        rest = behind;
    }
    if is_network(rest) {
        return Err("it is a network, and hosts are allowed one by one".to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let path_end = tail.find(['?', '#']).unwrap_or(tail.len());
    let path = tail.get(..path_end).unwrap_or_default();
    if !matches!(path, "" | "/" | "/*" | "/**") {
        said.push(Said::lost(format!("the path {}", quoted(path)), EVERY_PATH));
        is_part = true;
    }
    if path_end < tail.len() {
        // It may hold what is nobody's business.
        said.push(Said::lost("what is behind the path", EVERY_PATH));
        is_part = true;
    }
    let mut name = authority;
    if let Some((user, behind)) = authority.rsplit_once('@') {
        if with_scheme.is_none() && user.contains(':') {
            return Err(NO_PORT.to_owned());
        }
        said.push(Said::lost(
            "the user name",
            "a host is allowed for everybody",
        ));
        name = behind;
    }
    if name.ends_with(':') && !name.contains("::") {
        return Err("it ends in a colon".to_owned());
    }
    let (name, port) = split_port(name);
    if !matches!(port, "" | "*" | "443") {
        said.push(Said::lost(format!("the port {}", quoted(port)), EVERY_PORT));
        is_part = true;
    }
    let name = wildcard(name, stars, &mut said);
    let host = match policy::normalize(&name) {
        Ok(host) => host,
        Err(refusal) => {
            let a_labels = policy::meant(&name).filter(|_| !name.is_ascii());
            a_labels.ok_or_else(|| cause(&refusal.message, &name))?
        }
    };
    let is_digit = |c: char| c.is_ascii_digit() || matches!(c, '-' | ',' | '*');
    if !port.chars().all(is_digit) {
        return Err(NO_PORT.to_owned());
    }
    // Around a URL, there is more than that.
    if text.contains(char::is_whitespace) {
        return Err("it has a space".to_owned());
    }
    if host.parse::<IpAddr>().is_ok() {
        said.push(Said::Note(
            "an address: requests that name it are allowed, names that lead to it are not"
                .to_owned(),
        ));
    }
    Ok(Meant {
        host,
        said,
        is_part,
    })
}

/// The name with the wildcard that a route has for its own.
fn wildcard(name: &str, stars: Stars, said: &mut Vec<Said>) -> String {
    let lower = |base: &str| {
        let base = base.to_ascii_lowercase();
        base.strip_suffix('.').unwrap_or(&base).to_owned()
    };
    if let Some(base) = name.strip_prefix("**.") {
        said.push(Said::Apex(lower(base)));
        return format!("*.{base}");
    }
    // A dot before a domain is Squid's for it and all below it.
    if let Some(base) = name.strip_prefix('.') {
        return format!("*.{base}");
    }
    if let Some(base) = name.strip_prefix("*.") {
        match stars {
            Stars::WithName => {}
            Stars::Below => said.push(Said::Apex(lower(base))),
            Stars::OneLabel => said.push(Said::Depth(lower(base))),
        }
    }
    name.to_owned()
}

/// Host and port; without one, an empty one.
fn split_port(text: &str) -> (&str, &str) {
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|it| it.split_once(']')) {
        return (address, rest.strip_prefix(':').unwrap_or(rest));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port),
        _ => (text, ""),
    }
}

/// What somebody denied.
pub(super) enum Denied {
    /// A host, a domain, or a part of one.
    Host(Meant),
    /// It is not written as the format has it: what it may name.
    Names(Vec<String>),
    /// A network.
    Addresses,
    /// Nothing that names a host is in it.
    Unknown,
}

/// What is denied by a text, which is as much as it may be.
#[inline(never)]
pub(super) fn denied(text: &str, stars: Stars) -> Denied {
    if is_of_addresses(text.trim()) {
        return Denied::Addresses;
    }
    if let Ok(meant) = meant(text, stars) {
        return Denied::Host(meant);
    }
    // A name with a part of itself elsewhere, or a pattern; a network among other things.
    let mut words = text.split_whitespace();
    if text.contains('\\') || words.any(|word| is_of_addresses(word.trim_matches(['"', '\'', ','])))
    {
        return Denied::Unknown;
    }
    let mut names = Vec::new();
    let between = |c: char| !c.is_alphanumeric() && !matches!(c, '.' | '-' | '_' | '*');
    for word in text.split(between) {
        let is_pattern = word.contains('*');
        let name = match meant(word, stars) {
            Ok(meant) => Some(meant.host),
            Err(_) => region(word),
        };
        match name {
            None if is_pattern => return Denied::Unknown,
            // Of one label is what stands around a name.
            Some(name) if is_pattern || name.contains('.') => names.push(name),
            _ => {}
        }
    }
    if names.is_empty() {
        Denied::Unknown
    } else {
        Denied::Names(names)
    }
}

/// Whether a denial names a host, a network or a pattern: something of more than one label.
#[inline(never)]
pub(super) fn has_hosts(text: &str) -> bool {
    match denied(text, Stars::WithName) {
        Denied::Host(meant) => meant.host.contains(['.', ':']),
        Denied::Names(_) | Denied::Addresses => true,
        Denied::Unknown => text.contains('*'),
    }
}

/// Whether it is an address, or a network of them.
pub(super) fn is_address(text: &str) -> bool {
    let text = text.trim();
    is_of_addresses(text) || text.parse::<IpAddr>().is_ok()
}

/// Whether it is a network, however it is written: an address with something behind a `/`, or a
/// range.
fn is_of_addresses(text: &str) -> bool {
    let text = text.split_once("://").map_or(text, |(_, behind)| behind);
    let of = |text: &str| {
        let inside = text.strip_prefix('[').unwrap_or(text);
        let (name, _) = split_port(text);
        let names = [inside.trim_end_matches(']'), name];
        names.iter().any(|name| name.parse::<IpAddr>().is_ok())
    };
    let behind = |sign| {
        let parts = text.split_once(sign);
        parts.is_some_and(|(address, behind)| of(address) && !behind.is_empty())
    };
    behind('/') || behind('-')
}

/// Whether it is a CIDR, of one address too: that is no name that a client asks for.
fn is_network(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<IpAddr>().is_ok() && prefix.parse::<u8>().is_ok()
    })
}

/// Why a name is none, without the name.
fn cause(message: &str, name: &str) -> String {
    let quoted = quoted(name);
    let of_names = message
        .strip_prefix(&quoted)
        .and_then(|rest| rest.strip_prefix(" is not a host name: "));
    of_names.unwrap_or(message).to_owned()
}

/// The smallest domain that all of what a pattern covers is in, as a wildcard; `None` where that
/// is every name there is.
pub(super) fn region(pattern: &str) -> Option<String> {
    let (name, _) = split_port(pattern);
    let (_, behind) = name.rsplit_once('*')?;
    // What is left of the label that the last star is in may begin any label.
    let (_, domain) = behind.split_once('.')?;
    policy::normalize(&format!("*.{domain}")).ok()
}

/// The text without what may be secret in it.
#[inline(never)]
pub(super) fn shown(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (rest, query) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let path = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(path).unwrap_or((rest, ""));
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => authority.to_owned(),
    };
    let query = if query.is_empty() { "" } else { "?…" };
    format!("{scheme}{authority}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_of(text: &str, stars: Stars) -> String {
        match meant(text, stars) {
            Ok(Meant { host, said, .. }) => {
                let said: Vec<String> = said
                    .iter()
                    .map(|said| match said {
                        Said::Lost { what, .. } => format!(" -{what}"),
                        Said::Apex(_) => " +apex".to_owned(),
                        Said::Depth(_) => " +depth".to_owned(),
                        Said::Note(_) => " !".to_owned(),
                        Said::Comment(_) => unreachable!(),
                    })
                    .collect();
                host + &said.concat()
            }
            Err(why) => format!("no: {why}"),
        }
    }

    #[test]
    fn a_host_is_what_a_client_asks_for_and_the_rest_is_said() {
        use Stars::{Below, OneLabel, WithName};
        for (text, stars, wanted) in [
            ("A.Example.", Below, "a.example"),
            (" a.example:443 ", Below, "a.example"),
            ("https://a.example/", Below, "a.example"),
            ("https://a.example/*", Below, "a.example"),
            ("a.example:*", Below, "a.example"),
            ("a.example:8443", Below, "a.example -the port \"8443\""),
            ("http://a.example", Below, "a.example -the scheme \"http\""),
            (
                "https://a.example/b/c",
                Below,
                "a.example -the path \"/b/c\"",
            ),
            (
                "https://u:p@a.example:1/b?c=d",
                Below,
                "a.example -the path \"/b\" -what is behind the path -the user name -the port \"1\"",
            ),
            ("*.a.example", WithName, "*.a.example"),
            ("*.a.example", Below, "*.a.example +apex"),
            ("*.a.example:443", OneLabel, "*.a.example +depth"),
            ("**.a.example", OneLabel, "*.a.example +apex"),
            (".a.example", Below, "*.a.example"),
            ("10.0.0.1", Below, "10.0.0.1 !"),
            ("[2001:db8::1]:443", Below, "2001:db8::1 !"),
            ("2001:db8::1", Below, "2001:db8::1 !"),
            ("b\u{fc}cher.example", Below, "xn--bcher-kva.example"),
            (
                "10.0.0.0/8",
                Below,
                "no: it is a network, and hosts are allowed one by one",
            ),
            (
                "10.0.0.1/32",
                Below,
                "no: it is a network, and hosts are allowed one by one",
            ),
            (
                "*",
                Below,
                "no: a bare wildcard would have to allow every host, and matches none",
            ),
            (
                "a*.example",
                Below,
                "no: a wildcard is only read as the whole first label",
            ),
            ("^a\\.example$", Below, "no: it has a backslash"),
            ("", Below, "no: it has an empty label"),
            ("a b", Below, "no: it has a space"),
            ("not https://a.example/ b", Below, "no: it has a space"),
            ("with:", Below, "no: it ends in a colon"),
            ("x\"\n- host: evil", Below, "no: it has a control character"),
            (
                "canary.invalid",
                Below,
                "no: \"canary.invalid\" is reserved for the init's own proof: pipelock has to refuse it",
            ),
        ] {
            assert_eq!(shown_of(text, stars), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_a_pattern_may_cover_is_a_domain_or_everything() {
        for (pattern, wanted) in [
            ("evil*.a.example", Some("*.a.example")),
            ("*.b*.a.example", Some("*.a.example")),
            ("a.*.example:443", Some("*.example")),
            ("*.a.example", Some("*.a.example")),
            ("*", None),
            ("*evil*", None),
            ("a.example", None),
        ] {
            assert_eq!(region(pattern).as_deref(), wanted, "{pattern}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        for (text, wanted) in [
            ("a.example/x", "a.example/x"),
            (
                "https://u:p@a.example/x?token=y#z",
                "https://…@a.example/x?…",
            ),
            ("u:p@a.example", "…@a.example"),
        ] {
            assert_eq!(shown(text), wanted, "{text}");
        }
    }
}
