//! smolvm's flags in a script (`--allow-host NAME`, `--allow-cidr CIDR`), and the lists of a
//! Smolfile. An allowed host stands for all below it too (its network's DNS filter), which is
//! not carried over.

use super::found::{Entry, Found, Item, Said};
use super::host::{self, Stars};
use super::place::{Place, split_comment};

const NETWORK: &str = "it is a network, and hosts are allowed one by one";

pub(super) fn is(text: &str) -> bool {
    let mut lines = text.lines().map(|line| split_comment(line).0);
    lines.any(|code| {
        code.contains("--allow-host") || code.contains("--allow-cidr") || list(code).is_some()
    })
}

/// Whether a list of a Smolfile begins here, of hosts or of networks, and what is behind its `=`.
fn list(code: &str) -> Option<(bool, &str)> {
    let (key, rest) = code.split_once('=')?;
    match key.trim() {
        "allow_hosts" => Some((true, rest)),
        "allow_cidrs" => Some((false, rest)),
        _ => None,
    }
}

pub(super) fn read(text: &str) -> Found {
    let mut found = Found::default();
    // Within a list of a Smolfile, or behind a flag: whether hosts are listed there.
    let mut within: Option<bool> = None;
    let mut flag: Option<bool> = None;
    for (index, line) in text.lines().enumerate() {
        let (code, comment) = split_comment(line);
        let mut place = Place {
            beside: comment.map(str::to_owned),
            ..Place::line(index + 1)
        };
        let mut put = |value: &str, of_hosts| {
            let place = std::mem::replace(&mut place, Place::line(index + 1));
            put(&mut found, value, of_hosts, place);
        };
        let started = list(code);
        if let Some(of_hosts) = started.map(|(of_hosts, _)| of_hosts).or(within) {
            let rest = started.map_or(code, |(_, rest)| rest);
            let (inside, ends) = match rest.split_once(']') {
                Some((inside, _)) => (inside, true),
                None => (rest, false),
            };
            within = Some(of_hosts).filter(|_| !ends);
            let quotes = |c: char| matches!(c, '"' | '\'');
            // What is between two quotes is every other part.
            for value in inside.split(quotes).skip(1).step_by(2) {
                put(value, of_hosts);
            }
            continue;
        }
        for word in code.split_whitespace() {
            let word = word.trim_matches(['"', '\'']);
            if word == "\\" {
                continue;
            }
            if let Some(of_hosts) = flag.take() {
                put(word, of_hosts);
                continue;
            }
            for (name, of_hosts) in [("--allow-host", true), ("--allow-cidr", false)] {
                match word.strip_prefix(name) {
                    Some("") => flag = Some(of_hosts),
                    Some(rest) => {
                        if let Some(value) = rest.strip_prefix('=') {
                            put(value.trim_matches(['"', '\'']), of_hosts);
                        }
                    }
                    None => {}
                }
            }
        }
    }
    found
}

fn put(found: &mut Found, value: &str, of_hosts: bool, place: Place) {
    if !of_hosts {
        found.leave(value, &place, NETWORK);
        return;
    }
    let mut entry = Entry::new(value, place, Stars::Below);
    let below = host::meant(value, Stars::Below);
    if let Ok(meant) = below
        && !meant.host.starts_with("*.")
        && meant.said.is_empty()
    {
        let why = "it is not named";
        let what = format!("what is below {}", meant.host);
        entry.said.push(Said::lost(what, why));
    }
    found.routes.push(Item::Allow(entry));
}
