//! Secrets in text: a handful of pipelock's forty-eight patterns, and seed
//! phrases. Pure but for the environment, read once.

use std::sync::LazyLock;

use bip39::{Language, Mnemonic};
use regex::Regex;

use crate::config::Config;

/// What pipelock calls a seed phrase.
pub const SEED_PHRASE: &str = "BIP-39 Seed Phrase";

static PATTERNS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let written = [
        (
            "AWS Access ID",
            r"(?i)(?:A3T|A[GINS]PA|A(?:KI|SI|ID|RO|NV)A)[A-Z0-9]{16,}",
        ),
        ("Anthropic API Key", r"(?i)sk-ant-[\w-]{10,}"),
        ("OpenAI API Key", r"(?i)sk-proj-[\w-]{10,}"),
        ("GitHub Token", r"(?i)gh[oprsu]_\w{36,}"),
        ("npm Token", r"(?i)npm_[a-z0-9]{36,}"),
        (
            "Private Key Header",
            r"(?i)-----BEGIN\s+(?:(?:RSA|EC|DSA|OPENSSH)\s+)?PRIVATE\s+KEY-----",
        ),
    ];
    let compiled = written
        .into_iter()
        .map(|(name, text)| Some((name, Regex::new(text).ok()?)));
    compiled.flatten().collect()
});

/// Values of the environment that pipelock's `scan_env` takes for secrets.
static ENVIRONMENT: LazyLock<Vec<String>> = LazyLock::new(|| {
    let values = std::env::vars().map(|(_, value)| value);
    values
        .filter(|value| value.len() >= 16 && entropy(value) > 3.0)
        .collect()
});

/// The name of the first secret in a text.
pub fn secret_in(text: &str, config: &Config) -> Option<String> {
    let text = without_invisible(text);
    if let Some((name, _)) = PATTERNS.iter().find(|(_, pattern)| pattern.is_match(&text)) {
        return Some((*name).to_owned());
    }
    if config.scan_env
        && ENVIRONMENT
            .iter()
            .any(|value| text.contains(value.as_str()))
    {
        return Some("Environment Variable Leak".to_owned());
    }
    (config.seed_phrase && has_seed_phrase(&text, config)).then(|| SEED_PHRASE.to_owned())
}

/// The credential in a URL, if any; seed phrases are looked for too.
pub fn secret_in_url(url: &str, config: &Config) -> Option<String> {
    let mut decoded = url.to_owned();
    // Each round undoes one layer of percent-encoding; no change ends it.
    for _ in 0..8 {
        let next = percent_decoded(&decoded);
        if next == decoded {
            break;
        }
        decoded = next;
    }
    [url, &decoded]
        .into_iter()
        .find_map(|text| secret_in(text, config))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if first == b'%' => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Control and zero-width characters are how a key is split to get past.
fn without_invisible(text: &str) -> String {
    let visible =
        |c: &char| (!c.is_control() || c.is_whitespace()) && !matches!(c, '\u{200b}'..='\u{200f}');
    text.chars().filter(visible).collect()
}

/// Whether words of the English list in a row make a mnemonic.
fn has_seed_phrase(text: &str, config: &Config) -> bool {
    let list = Language::English.word_list();
    let words = text
        .split(|c: char| !c.is_alphabetic())
        .filter(|w| !w.is_empty());
    let mut run: Vec<String> = Vec::new();
    let judge = |run: &[String]| {
        [12, 15, 18, 21, 24]
            .into_iter()
            .filter(|n| *n >= config.seed_min_words)
            .any(|n| {
                run.windows(n).any(|words| {
                    !config.seed_checksum
                        || Mnemonic::parse_in_normalized(Language::English, &words.join(" "))
                            .is_ok()
                })
            })
    };
    for word in words {
        let word = word.to_lowercase();
        if list.contains(&word.as_str()) {
            run.push(word);
        } else {
            if judge(&run) {
                return true;
            }
            run.clear();
        }
    }
    judge(&run)
}

/// Shannon entropy, in bits a character.
#[allow(clippy::cast_precision_loss)]
pub fn entropy(text: &str) -> f64 {
    let mut counts = std::collections::HashMap::new();
    for c in text.chars() {
        *counts.entry(c).or_insert(0_usize) += 1;
    }
    let total = text.chars().count() as f64;
    counts
        .values()
        .map(|n| *n as f64 / total)
        .map(|p| -p * p.log2())
        .sum()
}
