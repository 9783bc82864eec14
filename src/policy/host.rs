//! What a host in the allowlist may look like, and what it is normalized to.
//! Pure.
//!
//! pipelock loads any string and compares it with the host of a request; what it
//! could never match, and what could leave its quotes in YAML, is refused here.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::manifest::{Rejection, quoted};

/// RFC 1035, section 2.3.4.
const MAX_LABEL: usize = 63;
/// The same, in presentation form without the final dot.
const MAX_NAME: usize = 253;

/// The host that the init asks the daemon for, to see it refused: no manifest can allow it.
/// `.invalid` never resolves (RFC 2606).
pub const CANARY_HOST: &str = "canary.invalid";

/// A route's host in the one form that is rendered: lower case, without a final
/// dot. DNS names, `*.` before them, and IP literals are accepted.
pub fn normalize(text: &str) -> Result<String, Rejection> {
    judge(text).map_err(|refusal| match (&refusal.hint, meant(text)) {
        (Some(_), _) => refusal,
        (None, Some(host)) => refusal.hint(format!("write \"{host}\"")),
        (None, None) => match Foreign::found_in(text) {
            Some(Foreign::Port) => refusal.hint("write the name alone; every port is allowed"),
            Some(Foreign::Network) => refusal.hint(
                "name each host; a private network that hosts may be in is network.internal_cidr",
            ),
            None if !text.is_ascii() => {
                refusal.hint("write its A-label, the form that starts with \"xn--\"")
            }
            _ => refusal,
        },
    })
}

/// The host that was meant with what is none, where that can be told without a guess; of a
/// host its one form.
pub fn meant(text: &str) -> Option<String> {
    let accept = |text: &str| judge(text).ok();
    if let Some(host) = accept(text) {
        return Some(host);
    }
    if Foreign::found_in(text).is_none() && !text.is_ascii() {
        return to_a_labels(text);
    }
    let trimmed = text.trim_matches(is_around);
    // The key again, as where the blank behind it is missing.
    let key = ["host:", "Host:"];
    let value = key.into_iter().find_map(|key| trimmed.strip_prefix(key));
    value
        .and_then(|value| accept(host_inside(value)?))
        .or_else(|| {
            let inside = host_inside(trimmed)?;
            if let Ok(address) = inside.parse::<IpAddr>() {
                return accept(&address.to_canonical().to_string());
            }
            // A dot before a domain is Squid's for it and all below it.
            let squid = || accept(&format!("*{}", inside.strip_prefix('.').map(|_| inside)?));
            accept(inside.trim_end_matches('.')).or_else(squid)
        })
}

/// As [`normalize`], without a hint where [`meant`] has one.
fn judge(text: &str) -> Result<String, Rejection> {
    if text.contains(':')
        && let Ok(address) = text.parse::<Ipv6Addr>()
    {
        return ipv6(text, address);
    }
    characters(text)?;
    let mut lower = text.to_ascii_lowercase();
    if lower.ends_with('.') {
        lower.pop();
    }
    let name = lower.as_str();
    let base = match name.strip_prefix("*.") {
        Some(base) => {
            if base.parse::<Ipv4Addr>().is_ok() {
                return Err(refuse(text, "a wildcard cannot stand before an IP address"));
            }
            base
        }
        None => name,
    };
    if name.parse::<Ipv4Addr>().is_ok() {
        return Ok(lower);
    }
    if name == "*" || base.is_empty() && name.starts_with('*') {
        return Err(refuse(
            text,
            "a bare wildcard would have to allow every host, and matches none",
        )
        .hint("name each host, or a domain as \"*.domain.example\""));
    }
    if base.contains('*') {
        return Err(
            refuse(text, "a wildcard is only read as the whole first label")
                .hint("write \"*.\" and the domain"),
        );
    }
    if name == CANARY_HOST || ["invalid", CANARY_HOST].contains(&base) && name != base {
        let stands_for = if name == base {
            String::new()
        } else {
            format!(" stands for {CANARY_HOST}, which")
        };
        return Err(Rejection::new(format!(
            "{}{stands_for} is reserved for the init's own proof: pipelock has to refuse it",
            quoted(text)
        ))
        .hint("remove the entry: names below \".invalid\" never resolve (RFC 2606)"));
    }
    labels(text, base)?;
    if name.len() > MAX_NAME {
        let length = name.len();
        return Err(refuse(
            text,
            format!("it has {length} characters, more than {MAX_NAME}"),
        ));
    }
    Ok(lower)
}

/// A name for `/etc/hosts`: as a route's host, but neither wildcard nor address.
pub fn host_name(text: &str) -> Result<String, Rejection> {
    let name = judge(text).map_err(|refusal| {
        let name = meant(text).filter(|name| !name.starts_with('*') && !is_address(name));
        match (&refusal.hint, name) {
            (None, Some(name)) => refusal.hint(format!("write \"{name}\"")),
            _ => refusal,
        }
    })?;
    if name.starts_with('*') {
        return Err(refuse(text, "a hosts entry cannot have a wildcard"));
    }
    if is_address(&name) {
        return Err(refuse(text, "it is an IP address").hint("write \"NAME: ADDRESS\""));
    }
    Ok(name)
}

/// Whether a normalized host is an IP literal.
pub fn is_address(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

fn refuse(text: &str, cause: impl Display) -> Rejection {
    Rejection::new(format!("{} is not a host name: {cause}", quoted(text)))
}

/// pipelock compares addresses as text, so only the text every client writes
/// (RFC 5952) can match.
fn ipv6(text: &str, address: Ipv6Addr) -> Result<String, Rejection> {
    if let Some(v4) = address.to_ipv4_mapped() {
        return Err(
            refuse(text, "it is an IPv4 address in IPv6 form").hint(format!("write \"{v4}\""))
        );
    }
    let lower = text.to_ascii_lowercase();
    let canonical = address.to_string();
    if lower != canonical {
        return Err(refuse(
            text,
            "pipelock compares addresses as text, and this is not the shortest form (RFC 5952)",
        )
        .hint(format!("write \"{canonical}\"")));
    }
    Ok(canonical)
}

/// What no host name has, the most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Foreign {
    ControlCharacter,
    Url,
    Space,
    Quote,
    Backslash,
    UserName,
    Network,
    Path,
    PercentSign,
    BracketsOrPort,
    Port,
}

impl Foreign {
    fn found_in(text: &str) -> Option<Self> {
        // Of a hundred thousand hosts, nearly all.
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        if text.bytes().all(usual) {
            return None;
        }
        let has = |any: &[char]| text.contains(any);
        [
            (text.chars().any(char::is_control), Self::ControlCharacter),
            (text.contains("://"), Self::Url),
            (text.chars().any(char::is_whitespace), Self::Space),
            (has(&['"', '\'', '`']), Self::Quote),
            (has(&['\\']), Self::Backslash),
            (has(&['@']), Self::UserName),
            (network(text).is_some(), Self::Network),
            (has(&['/', '?', '#']), Self::Path),
            (has(&['%']), Self::PercentSign),
            (has(&['[', ']']) && has(&[':']), Self::BracketsOrPort),
            (has(&[':']), Self::Port),
        ]
        .into_iter()
        .find_map(|(found, what)| found.then_some(what))
    }
}

impl Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlCharacter => "it has a control character",
            Self::Url => "it is a URL",
            Self::Space => "it has a space",
            Self::Quote => "it has a quote",
            Self::Backslash => "it has a backslash",
            Self::UserName => "it has a user name",
            Self::Network => "it is a network, and hosts are allowed one by one",
            Self::Path => "it has a path",
            Self::PercentSign => "it has a zone or a percent sign",
            Self::BracketsOrPort => "it has brackets or a port",
            Self::Port => "it has a port",
        })
    }
}

/// Refuses what cannot be in a host name.
fn characters(text: &str) -> Result<(), Rejection> {
    if let Some(foreign) = Foreign::found_in(text) {
        return Err(refuse(text, foreign));
    }
    if text.is_ascii() {
        return Ok(());
    }
    Err(refuse(
        text,
        "it is not ASCII, and names are compared as A-labels",
    ))
}

/// Blanks and quotes.
fn is_around(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`')
}

/// The address in a CIDR, and how many bits of it are free.
fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, prefix) = text.trim_matches(is_around).split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let width: u32 = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u32 = prefix.parse().ok()?;
    Some((address, width.checked_sub(prefix)?))
}

/// What is left of a URL, a `host:port`, or blanks and quotes, if it has no more than a
/// host's characters.
fn host_inside(text: &str) -> Option<&str> {
    let text = text.trim_matches(is_around);
    if network(text).is_some_and(|(_, others)| others > 0) {
        return None;
    }
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split(['/', '?', '#']).next()?;
    let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    let text = text.split('%').next()?;
    let host = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if text.matches(':').count() > 1 => text,
        None => text.split(':').next()?,
    };
    // Only what needs no further correction; otherwise one hint would follow another.
    let sound = host.parse::<Ipv6Addr>().is_ok()
        || !host.is_empty()
            && host
                .chars()
                .all(|c| is_name_character(c) || matches!(c, '.' | '*'));
    sound.then_some(host)
}

/// The underscore is no host name's character in RFC 1123, but names with it are
/// served (object stores, container networks), and pipelock compares them.
fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

fn labels(text: &str, name: &str) -> Result<(), Rejection> {
    if !are_usual(name) {
        each_label(text, name)?;
    }
    // What ends in a number is an address to every client, or nothing (WHATWG URL,
    // "ends in a number").
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) || is_number_to_go(last) {
        return Err(refuse(
            text,
            "it ends in a number, but is no IPv4 address in its usual form",
        )
        .hint("write four numbers from 0 to 255 without leading zeros"));
    }
    Ok(())
}

/// Whether no label needs a closer look: of a hundred thousand hosts nearly all.
fn are_usual(name: &str) -> bool {
    let mut before = b'.';
    let all = name.bytes().all(|byte| {
        let is_fine = byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'-') && before.is_ascii_alphanumeric();
        before = byte;
        is_fine
    });
    all && before.is_ascii_alphanumeric() && name.len() <= MAX_LABEL
}

fn each_label(text: &str, name: &str) -> Result<(), Rejection> {
    for label in name.split('.') {
        if label.is_empty() {
            return Err(refuse(text, "it has an empty label"));
        }
        if let Some(c) = label.chars().find(|&c| !is_name_character(c)) {
            return Err(refuse(
                text,
                format!(
                    "{} is not a letter, digit, hyphen or underscore",
                    quoted(&c.to_string())
                ),
            ));
        }
        if label.len() > MAX_LABEL {
            return Err(refuse(
                text,
                format!(
                    "a label has {} characters, more than {MAX_LABEL}",
                    label.len()
                ),
            ));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(refuse(text, "a label starts or ends with a hyphen"));
        }
    }
    Ok(())
}

/// Whether Go reads it as an integer (`strconv.ParseUint`, base 0), and pipelock as an address
/// with it (`scanner.parseAlternativeIP`), whatever the allowlist has.
fn is_number_to_go(label: &str) -> bool {
    let (digits, radix) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| Some((label.strip_prefix(prefix)?, radix)))
        .unwrap_or((label, 10));
    let are_digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_digit(radix));
    // One may stand before each group, where there is a prefix.
    let groups = if radix == 10 {
        digits
    } else {
        digits.strip_prefix('_').unwrap_or(digits)
    };
    groups.split('_').all(are_digits)
}

/// The A-label form of a name whose letters need nothing but lower case; `None`
/// where the full mapping of IDNA would be wanted.
fn to_a_labels(text: &str) -> Option<String> {
    let mut labels = Vec::new();
    for label in text.trim_end_matches('.').split('.') {
        let lower = label.to_lowercase();
        if lower.is_ascii() {
            labels.push(lower);
        } else if lower.chars().all(is_simple_letter) {
            labels.push(format!("xn--{}", punycode(&lower)?));
        } else {
            return None;
        }
    }
    judge(&labels.join(".")).ok()
}

/// Letters on which all versions of IDNA agree: composed, lower case, neither
/// compatibility forms nor deviations (sharp s, final sigma).
fn is_simple_letter(c: char) -> bool {
    c.is_ascii_lowercase()
        || c.is_ascii_digit()
        || c == '-'
        || matches!(c,
            '\u{e0}'..='\u{f6}' | '\u{f8}'..='\u{131}' | '\u{134}'..='\u{13e}'
            | '\u{142}'..='\u{148}' | '\u{14b}'..='\u{17e}'
            | '\u{3ac}'..='\u{3c1}' | '\u{3c3}'..='\u{3ce}' | '\u{430}'..='\u{45f}'
            | '\u{5d0}'..='\u{5ea}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}'
            | '\u{30fc}' | '\u{4e00}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7a3}')
}

/// Punycode (RFC 3492, section 6.3) of one label, without the `xn--`.
fn punycode(label: &str) -> Option<String> {
    const BASE: u32 = 36;
    const T_MIN: u32 = 1;
    const T_MAX: u32 = 26;
    let mut out: String = label.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(out.len()).ok()?;
    if basic > 0 {
        out.push('-');
    }
    let total = u32::try_from(label.chars().count()).ok()?;
    let (mut n, mut delta, mut bias, mut done) = (128_u32, 0_u32, 72_u32, basic);
    while done < total {
        let next = label.chars().map(u32::from).filter(|&c| c >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(done + 1)?)?;
        n = next;
        for c in label.chars().map(u32::from) {
            if c < n {
                delta = delta.checked_add(1)?;
            }
            if c != n {
                continue;
            }
            let (mut q, mut k) = (delta, BASE);
            loop {
                let t = k.saturating_sub(bias).clamp(T_MIN, T_MAX);
                if q < t {
                    break;
                }
                out.push(digit(t + (q - t) % (BASE - t))?);
                q = (q - t) / (BASE - t);
                k += BASE;
            }
            out.push(digit(q)?);
            // Adapt the bias (section 6.1).
            delta = if done == basic {
                delta / 700
            } else {
                delta / 2
            };
            delta += delta / (done + 1);
            let mut steps = 0;
            while delta > ((BASE - T_MIN) * T_MAX) / 2 {
                delta /= BASE - T_MIN;
                steps += BASE;
            }
            bias = steps + (BASE - T_MIN + 1) * delta / (delta + 38);
            delta = 0;
            done += 1;
        }
        delta = delta.checked_add(1)?;
        n += 1;
    }
    Some(out)
}

fn digit(value: u32) -> Option<char> {
    // 0–25 are letters, 26–35 digits.
    if value < 26 {
        char::from_u32(u32::from('a') + value)
    } else {
        char::from_u32(u32::from('0') + value - 26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(text: &str) -> String {
        let refusal = normalize(text).unwrap_err();
        let (_, cause) = refusal.message.split_once(" is not a host name: ").unwrap();
        cause.to_owned()
    }

    fn hint(text: &str) -> Option<String> {
        normalize(text).unwrap_err().hint
    }

    #[test]
    fn what_is_usual_has_nothing_wrong_in_any_label() {
        let mut names = vec![String::new()];
        let mut usual = 0;
        for _ in 0..6 {
            names = names
                .iter()
                .flat_map(|name| ["a", "0", ".", "-", "_", "*"].map(|more| format!("{name}{more}")))
                .collect();
            for name in names.iter().filter(|name| are_usual(name)) {
                assert_eq!(each_label(name, name), Ok(()), "{name}");
                usual += 1;
            }
        }
        assert!(usual > 500, "{usual}");
        for (length, is_usual) in [(63, true), (64, false)] {
            assert_eq!(are_usual(&"a".repeat(length)), is_usual);
        }
    }

    #[test]
    fn a_label_and_a_name_have_as_many_characters_as_the_dns_takes() {
        let label = |length: usize| "a".repeat(length);
        let name = |last| [label(63), label(63), label(63), label(last)].join(".");
        assert_eq!(normalize(&label(63)), Ok(label(63)));
        assert_eq!(cause(&label(64)), "a label has 64 characters, more than 63");
        let longest = name(61);
        assert_eq!(longest.len(), 253);
        assert_eq!(normalize(&longest), Ok(longest.clone()));
        // The final dot does not count.
        assert_eq!(normalize(&format!("{longest}.")), Ok(longest));
        assert_eq!(cause(&name(62)), "it has 254 characters, more than 253");
        // The wildcard does.
        let wild = format!("*.{}", name(59));
        assert_eq!(normalize(&wild), Ok(wild.clone()));
        let longer = format!("*.{}", name(60));
        assert_eq!(cause(&longer), "it has 254 characters, more than 253");
    }

    #[test]
    fn what_is_allowed_has_one_form() {
        for (text, wanted) in [
            ("a", "a"),
            ("A.B.", "a.b"),
            ("a-b_c.x0", "a-b_c.x0"),
            ("1.a", "1.a"),
            ("a.1b", "a.1b"),
            ("a.0xg", "a.0xg"),
            ("_a.b", "_a.b"),
            ("0o18", "0o18"),
            ("0b", "0b"),
            ("1_", "1_"),
            ("_1", "_1"),
            ("1e3", "1e3"),
            ("*.a", "*.a"),
            ("*.A.b.", "*.a.b"),
            ("10.0.0.1", "10.0.0.1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("a.invalid", "a.invalid"),
            ("*.a.invalid", "*.a.invalid"),
            ("a.canary.invalid", "a.canary.invalid"),
            ("invalid", "invalid"),
        ] {
            assert_eq!(normalize(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_not_allowed_has_a_cause() {
        let bare = "a bare wildcard would have to allow every host, and matches none";
        let part = "a wildcard is only read as the whole first label";
        let number = "it ends in a number, but is no IPv4 address in its usual form";
        let hyphen = "a label starts or ends with a hyphen";
        for (text, wanted) in [
            ("", "it has an empty label"),
            (".", "it has an empty label"),
            (".a", "it has an empty label"),
            ("a..b", "it has an empty label"),
            ("*", bare),
            ("*.", bare),
            ("**", part),
            ("*a", part),
            ("a.*", part),
            ("*.*.a", part),
            ("*.10.0.0.1", "a wildcard cannot stand before an IP address"),
            ("-a", hyphen),
            ("a-", hyphen),
            ("a.-", hyphen),
            ("a.1", number),
            ("a.0x1F", number),
            ("a.0x", number),
            ("0o17", number),
            ("0b_1", number),
            ("1_0", number),
            ("0x_1f", number),
            ("10.0.0.256", number),
            ("a$", "\"$\" is not a letter, digit, hyphen or underscore"),
            ("::ffff:10.0.0.1", "it is an IPv4 address in IPv6 form"),
        ] {
            assert_eq!(cause(text), wanted, "{text}");
        }
        for (text, stands_for) in [
            ("canary.invalid", ""),
            ("CANARY.invalid.", ""),
            ("*.invalid", " stands for canary.invalid, which"),
            ("*.canary.invalid", " stands for canary.invalid, which"),
        ] {
            assert_eq!(
                normalize(text).unwrap_err().message,
                format!(
                    "\"{text}\"{stands_for} is reserved for the init's own proof: pipelock has to refuse it"
                )
            );
        }
        assert_eq!(
            hint("2001:db8:0::1").as_deref(),
            Some("write \"2001:db8::1\"")
        );
    }

    #[test]
    fn the_most_telling_of_several_causes_is_named() {
        for (text, wanted) in [
            ("\u{1b}://\t", Some(Foreign::ControlCharacter)),
            ("a://b c", Some(Foreign::Url)),
            ("a \"@", Some(Foreign::Space)),
            ("'a\\", Some(Foreign::Quote)),
            ("`a@b", Some(Foreign::Quote)),
            ("\"a/", Some(Foreign::Quote)),
            ("a\\b@c", Some(Foreign::Backslash)),
            ("a@b/c", Some(Foreign::UserName)),
            ("a/b%", Some(Foreign::Path)),
            ("10.0.0.0/8", Some(Foreign::Network)),
            ("10.0.0.0/33", Some(Foreign::Path)),
            ("fd00::/8", Some(Foreign::Network)),
            ("a?b:1", Some(Foreign::Path)),
            ("a#b:1", Some(Foreign::Path)),
            ("a%b:1", Some(Foreign::PercentSign)),
            ("[a]:1", Some(Foreign::BracketsOrPort)),
            ("a]:1", Some(Foreign::BracketsOrPort)),
            ("a:1", Some(Foreign::Port)),
            ("[a]", None),
            ("a.b-c_*", None),
            ("\u{fc}", None),
        ] {
            assert_eq!(Foreign::found_in(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn the_host_inside_is_suggested_if_it_is_one_without_further_change() {
        for (text, wanted) in [
            ("https://u:p@A.example:1/x?y#z", Some("write \"a.example\"")),
            (" a.example\t", Some("write \"a.example\"")),
            ("'a.example'", Some("write \"a.example\"")),
            ("a.example:1", Some("write \"a.example\"")),
            ("*.a.example/", Some("write \"*.a.example\"")),
            ("[2001:db8::1]:1", Some("write \"2001:db8::1\"")),
            ("fe80::1%eth0", Some("write \"fe80::1\"")),
            ("https://", None),
            ("a b/c", None),
            (
                "10.1:80",
                Some("write the name alone; every port is allowed"),
            ),
            (":80", Some("write the name alone; every port is allowed")),
            ("10.1/8", None),
            ("b\u{fc}cher/x", None),
            (".corp.example", Some("write \"*.corp.example\"")),
            ("https://.corp.example/", Some("write \"*.corp.example\"")),
            ("a.example..", Some("write \"a.example\"")),
            ("host:a.example", Some("write \"a.example\"")),
            ("host: https://a.example/", Some("write \"a.example\"")),
            ("Host:a.example", Some("write \"a.example\"")),
            ("host:8080", Some("write \"host\"")),
            ("[2001:db8:0::1]:80", Some("write \"2001:db8::1\"")),
            ("10.0.0.1/32", Some("write \"10.0.0.1\"")),
            ("2001:db8::1/128", Some("write \"2001:db8::1\"")),
            (
                "10.0.0.0/8",
                Some(
                    "name each host; a private network that hosts may be in is network.internal_cidr",
                ),
            ),
            (
                "fd00::/8",
                Some(
                    "name each host; a private network that hosts may be in is network.internal_cidr",
                ),
            ),
            (".10.0.0.1", None),
            ("..corp.example", None),
            (".", None),
        ] {
            assert_eq!(hint(text).as_deref(), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_hosts_entry_is_a_name_alone() {
        assert_eq!(host_name("A.example.").as_deref(), Ok("a.example"));
        for text in ["*.a", "10.0.0.1", "::1", "a b"] {
            assert!(host_name(text).is_err(), "{text}");
        }
        // What is told to be written is one as well.
        for (text, wanted) in [
            ("a.example:1", Some("write \"a.example\"")),
            (".a.example", None),
            ("10.0.0.1:1", None),
        ] {
            assert_eq!(
                host_name(text).unwrap_err().hint.as_deref(),
                wanted,
                "{text}"
            );
        }
        assert!(is_address("10.0.0.1") && is_address("::1") && !is_address("a.example"));
    }

    #[test]
    fn writes_a_labels_as_the_idna_codec_does() {
        // Right-hand sides: str.encode("idna") of Python 3.
        for (name, a_label) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("münchen.example", "xn--mnchen-3ya.example"),
            ("пример.example", "xn--e1afmkfd.example"),
            ("例え.example", "xn--r8jz45g.example"),
            ("παράδειγμα.example", "xn--hxajbheg2az3al.example"),
            ("한국.example", "xn--3e0b707e.example"),
            ("a.ü.example", "a.xn--tda.example"),
            ("*.bücher.example", "*.xn--bcher-kva.example"),
        ] {
            assert_eq!(to_a_labels(name).as_deref(), Some(a_label), "{name}");
        }
    }

    #[test]
    fn writes_punycode_as_the_codec_does() {
        // Right-hand sides: str.encode("punycode") of Python 3.
        for (label, wanted) in [
            ("ü", "tda"),
            ("aü", "a-eha"),
            ("üb", "b-dha"),
            ("他们为什么不说中文", "ihqwcrb4cv8a8dqg056pqjye"),
            (
                "почемужеонинеговорятпорусски",
                "b1abfaaepdrnnbgefbadotcwatmq2g4l",
            ),
            (
                "세계의모든사람들이한국어를이해한다면얼마나좋을까",
                "989aomsvi5e83db1d2a355cv1e0vak1dwrv93d5xbh15a0dt30a5jpsd879ccm6fea98c",
            ),
            (
                "なぜみんな日本語を話してくれないのか",
                "n8jok5ay5dzabd5bym9f0cm5685rrjetr6pdxa",
            ),
            ("ü한", "tda0589h"),
            ("中ü龥", "tda5360byczc"),
            ("ÿa-힣0", "a-0-soa6585y"),
            ("żółćżółćżółć", "kdaaa2fbb22bcc68cdd"),
            ("àáâãäå中", "0cacdefg2069k"),
            ("한à한à한à", "0caaa5968sbab"),
        ] {
            assert_eq!(punycode(label).as_deref(), Some(wanted), "{label}");
        }
    }

    #[test]
    fn gives_no_a_label_where_versions_of_idna_differ() {
        for name in ["straße.example", "ａ.example", "a。example", "ﬁ.example"] {
            assert_eq!(to_a_labels(name), None, "{name}");
        }
    }

    #[test]
    fn a_simple_letter_is_one_on_which_all_agree() {
        for (first, last) in [
            ('-', '-'),
            ('0', '9'),
            ('a', 'z'),
            ('\u{e0}', '\u{f6}'),
            ('\u{f8}', '\u{131}'),
            ('\u{134}', '\u{13e}'),
            ('\u{142}', '\u{148}'),
            ('\u{14b}', '\u{17e}'),
            ('\u{3ac}', '\u{3c1}'),
            ('\u{3c3}', '\u{3ce}'),
            ('\u{430}', '\u{45f}'),
            ('\u{5d0}', '\u{5ea}'),
            ('\u{3041}', '\u{3096}'),
            ('\u{30a1}', '\u{30fa}'),
            ('\u{30fc}', '\u{30fc}'),
            ('\u{4e00}', '\u{9fa5}'),
            ('\u{ac00}', '\u{d7a3}'),
        ] {
            let beside = |c: char, by| char::from_u32(u32::from(c).wrapping_add_signed(by));
            assert!(is_simple_letter(first) && is_simple_letter(last), "{first}");
            assert!(!beside(first, -1).is_some_and(is_simple_letter), "{first}");
            assert!(!beside(last, 1).is_some_and(is_simple_letter), "{last}");
        }
    }

    #[test]
    fn normalizing_twice_changes_nothing() {
        for host in ["API.Example.", "*.X.example", "2001:DB8::1", "10.0.0.1."] {
            let once = normalize(host).unwrap();
            assert_eq!(normalize(&once).unwrap(), once);
        }
    }
}
