//! Which hosts an entry of a list stands for, as pipelock compares them
//! (`scanner.MatchDomain`, `proxy.isPassthrough`). Pure.
//!
//! Lists are in byte order and entries normalized, as a [`super::Policy`] has them; what
//! is asked costs one search for each label of a name, however long the list is.

/// Whether the allowlist lets `host` through: as it is written there, or at or below
/// `*.name`. In any case, and with one trailing dot or without.
#[must_use]
pub fn allows(allowlist: &[String], host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    contains(allowlist, &host) || allows_all_below(allowlist, &host)
}

/// Whether the allowlist lets through whatever `entry` stands for.
#[must_use]
pub fn allows_entry(allowlist: &[String], entry: &str) -> bool {
    match entry.strip_prefix("*.") {
        Some(domain) => allows_all_below(allowlist, domain),
        None => allows(allowlist, entry),
    }
}

/// Whether pipelock passes through, unopened, whatever `entry` stands for: in this list
/// `*.name` does not stand for `name`.
#[must_use]
pub fn passes_entry(passthrough: &[String], entry: &str) -> bool {
    let parent = |name: &str| name.split_once('.').map(|(_, parent)| parent.to_owned());
    match entry.strip_prefix("*.") {
        Some(domain) => allows_all_below(passthrough, domain),
        None => {
            contains(passthrough, entry)
                || parent(entry).is_some_and(|parent| allows_all_below(passthrough, &parent))
        }
    }
}

/// Whether the name is the domain or below it. A label `*` of the domain stands for any one.
#[must_use]
pub fn is_in(name: &str, domain: &str) -> bool {
    // Nearly every domain that a name is asked for ends otherwise.
    let end = domain.rsplit_once('*').map_or(domain, |(_, end)| end);
    if !name.ends_with(end) {
        return false;
    }
    let mut labels = name.rsplit('.');
    domain.rsplit('.').all(|wanted| {
        labels
            .next()
            .is_some_and(|label| wanted == "*" || wanted == label)
    })
}

/// Whether there is a `*.` before the name or before one that it is below.
fn allows_all_below(list: &[String], name: &str) -> bool {
    let mut wildcard = String::with_capacity(name.len() + 2);
    let mut rest = Some(name);
    while let Some(name) = rest {
        wildcard.clear();
        wildcard.push_str("*.");
        wildcard.push_str(name);
        if contains(list, &wildcard) {
            return true;
        }
        rest = name.split_once('.').map(|(_, parent)| parent);
    }
    false
}

fn contains(list: &[String], entry: &str) -> bool {
    list.binary_search_by(|known| known.as_str().cmp(entry))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        let mut list: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        list.sort();
        list
    }

    #[test]
    fn allows_what_pipelock_allows() {
        let allowlist = list(&["a.example", "*.wild.example", "10.0.0.1", "2001:db8::1"]);
        for host in [
            "a.example",
            "A.Example.",
            "wild.example",
            "x.wild.example",
            "x.y.WILD.example.",
            "10.0.0.1",
            "2001:db8::1",
        ] {
            assert!(allows(&allowlist, host), "{host}");
        }
        for host in [
            "b.a.example",
            "example",
            "xwild.example",
            "a.example..",
            "10.0.0.10",
            "",
        ] {
            assert!(!allows(&allowlist, host), "{host}");
        }
    }

    #[test]
    fn an_entry_is_allowed_where_all_it_stands_for_is() {
        let allowlist = list(&["a.example", "*.wild.example"]);
        for entry in [
            "a.example",
            "wild.example",
            "*.wild.example",
            "*.x.wild.example",
        ] {
            assert!(allows_entry(&allowlist, entry), "{entry}");
        }
        for entry in ["*.a.example", "*.example", "example"] {
            assert!(!allows_entry(&allowlist, entry), "{entry}");
        }
    }

    #[test]
    fn a_name_is_in_a_domain_label_by_label() {
        for (name, domain) in [
            ("a.example", "a.example"),
            ("b.a.example", "a.example"),
            ("*.a.example", "a.example"),
            ("s3.eu.a.example", "s3.*.a.example"),
            ("x.y.s3.eu.a.example", "s3.*.a.example"),
        ] {
            assert!(is_in(name, domain), "{name}");
        }
        for (name, domain) in [
            ("example", "a.example"),
            ("xa.example", "a.example"),
            ("a.example.org", "a.example"),
            ("s3.a.example", "s3.*.a.example"),
            ("s3.eu.west.a.example", "s3.*.a.example"),
        ] {
            assert!(!is_in(name, domain), "{name}");
        }
    }

    #[test]
    fn a_wildcard_of_passthrough_leaves_its_apex_out() {
        let passthrough = list(&["a.example", "*.wild.example"]);
        for entry in [
            "a.example",
            "x.wild.example",
            "*.wild.example",
            "*.x.wild.example",
        ] {
            assert!(passes_entry(&passthrough, entry), "{entry}");
        }
        for entry in ["wild.example", "*.a.example", "b.example", "*.example"] {
            assert!(!passes_entry(&passthrough, entry), "{entry}");
        }
    }
}
