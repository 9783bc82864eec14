//! Whether a value is a credential, as far as it shows. Pure.
//!
//! A false alarm teaches to overlook the right one: what is told is told by its own form, or by
//! a name that says what it is and a value that could be one.

/// How credentials of known kinds begin, the fewest characters behind that, and whose they are.
#[rustfmt::skip]
const BEGINNINGS: &[(&str, usize, &str)] = &[
    ("ghp_", 30, "a GitHub token"),
    ("gho_", 30, "a GitHub token"),
    ("ghu_", 30, "a GitHub token"),
    ("ghs_", 30, "a GitHub token"),
    ("github_pat_", 30, "a GitHub token"),
    ("glpat-", 16, "a GitLab token"),
    ("sk-", 20, "a model's API key"),
    ("AIza", 30, "a Google API key"),
    ("AKIA", 16, "an AWS access key"),
    ("ASIA", 16, "an AWS access key"),
    ("xoxb-", 16, "a Slack token"),
    ("xoxp-", 16, "a Slack token"),
    ("npm_", 30, "an npm token"),
    ("pypi-", 50, "a PyPI token"),
    ("hf_", 30, "a Hugging Face token"),
];

/// Last words of the names of variables that hold one.
const NAMES: &[&str] = &[
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "APIKEY",
    "API_KEY",
    "SECRET_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
];

/// The fewest characters that a credential has which is known by its variable's name alone.
const LEAST: usize = 8;

/// What kind of credential stands in a text, if its form says so.
pub(super) fn found_in(text: &str) -> Option<&'static str> {
    if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
        return Some("a private key");
    }
    // As the value of an option as well: `--token=…`, `Authorization: Bearer …`.
    let mut words = text.split(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | ';'));
    words.find_map(|word| {
        let usual = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let known = BEGINNINGS.iter().find(|(begins, least, _)| {
            let rest = word.strip_prefix(begins);
            rest.is_some_and(|rest| rest.len() >= *least && rest.chars().all(usual))
        });
        known
            .map(|(_, _, what)| *what)
            .or_else(|| is_signed(word).then_some("a signed token"))
            .or_else(|| has_password(word).then_some("an address with a password"))
    })
}

/// The same for a variable's value, which its name may say something of.
pub(super) fn in_variable(name: &str, value: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    let says_so = || {
        NAMES.iter().any(|word| {
            let before = upper.strip_suffix(word);
            before.is_some_and(|before| before.is_empty() || before.ends_with('_'))
        })
    };
    let could_be = || {
        value.len() >= LEAST
            && !value.starts_with(['/', '.', '~', '$'])
            && !value.contains("://")
            && !value.contains(char::is_whitespace)
    };
    found_in(value).or_else(|| (could_be() && says_so()).then_some("a secret"))
}

/// RFC 7519: a header and a payload that are JSON, and a signature.
fn is_signed(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let [header, payload, signature] = &parts[..] else {
        return false;
    };
    header.starts_with("eyJ") && payload.starts_with("eyJ") && signature.len() >= 16
}

/// `scheme://user:password@host`
fn has_password(word: &str) -> bool {
    let Some((_, rest)) = word.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let password = user.and_then(|user| user.split_once(':'));
    password.is_some_and(|(_, password)| !password.is_empty() && !password.starts_with('$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_credential_is_told_and_nothing_else() {
        let long = "a1B2".repeat(12);
        for (name, value, wanted) in [
            ("X", format!("ghp_{long}"), Some("a GitHub token")),
            ("X", format!("--token=ghp_{long}"), Some("a GitHub token")),
            (
                "X",
                format!("Bearer sk-ant-{long}"),
                Some("a model's API key"),
            ),
            (
                "X",
                format!("eyJ{long}.eyJ{long}.{long}"),
                Some("a signed token"),
            ),
            (
                "X",
                "-----BEGIN EC PRIVATE KEY-----\nx".to_owned(),
                Some("a private key"),
            ),
            (
                "DATABASE_URL",
                "postgres://app:hunter2@db/app".to_owned(),
                Some("an address with a password"),
            ),
            ("GIT_TOKEN", long.clone(), Some("a secret")),
            ("token", long.clone(), Some("a secret")),
            ("OPENAI_API_KEY", long.clone(), Some("a secret")),
            // Names of files, addresses, switches, and words that only begin so.
            (
                "GIT_TOKEN",
                "/run/sidecar/x/credentials/token".to_owned(),
                None,
            ),
            ("GIT_TOKEN", "$CREDENTIALS_DIRECTORY/token".to_owned(), None),
            ("GIT_TOKEN_FILE", long.clone(), None),
            (
                "TOKENIZERS_PARALLELISM",
                "disabled-by-default".to_owned(),
                None,
            ),
            ("MAX_TOKENS", "1000000000".to_owned(), None),
            ("TOKEN", "off".to_owned(), None),
            ("MONKEY", long.clone(), None),
            ("PUBLIC_KEY", long.clone(), None),
            ("SECRET", "https://vault.example/v1/secret".to_owned(), None),
            ("X", long.clone(), None),
            ("X", "sk-learn".to_owned(), None),
            ("X", "hf_transfer".to_owned(), None),
            ("X", "http://127.0.0.1:8888".to_owned(), None),
            ("X", "ssh://git@git.example/x".to_owned(), None),
            ("X", "-----BEGIN CERTIFICATE-----".to_owned(), None),
            ("X", String::new(), None),
        ] {
            assert_eq!(in_variable(name, &value), wanted, "{name} {value}");
        }
    }
}
