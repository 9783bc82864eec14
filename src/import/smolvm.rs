//! smolvm's flags in a script (`--allow-host NAME`, `--allow-cidr CIDR`), and the lists of a
//! Smolfile. An allowed host stands for all below it too (its network's DNS filter), which is
//! not carried over.

use super::found::{Entry, Found, Item, Said};
use super::host::{self, Stars};
use super::place::{Place, split_comment};
use super::tree;

const NETWORK: &str = "it is a network, and hosts are allowed one by one";

const FLAGS: [(&str, bool); 2] = [("--allow-host", true), ("--allow-cidr", false)];
/// What may stand before a command.
const BEFORE: &str = "sudo exec env command nohup time then do else if while until ! {";
/// Its flags with a value in the next word (its `machine run` and `machine create`): the first
/// word behind those and the subcommand begins what is run within.
const VALUED: &str = "-I --image -n --name -e --env -w --workdir -v --volume -p --port --dns \
    --network --net-backend --gpu-vram --cpus --mem --storage --overlay -s --smolfile --timeout \
    --oci-platform --from --label --secret-env --secret-file --max-image-size";

pub(super) fn is(text: &str) -> bool {
    let mut lines = text.lines().map(|line| split_comment(line).0);
    lines.any(|code| FLAGS.iter().any(|(flag, _)| code.contains(flag)) || list(code).is_some())
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
    let code = |line| split_comment(line).0;
    if text.lines().any(|line| list(code(line)).is_some()) {
        smolfile(text)
    } else {
        script(text)
    }
}

/// The lists of a Smolfile: those of `[network]`, which has no other keys.
fn smolfile(text: &str) -> Found {
    let mut found = Found::default();
    let mut section = String::new();
    let mut refused = None;
    // Within a list: whether hosts are listed there. Within a text of several lines.
    let mut within: Option<bool> = None;
    let mut is_text = false;
    for (index, line) in text.lines().enumerate() {
        let (code, comment) = uncommented(line);
        let marks = code.as_bytes().windows(3);
        let marks = marks.filter(|it| *it == b"\"\"\"" || *it == b"'''").count();
        if is_text || marks % 2 == 1 {
            is_text ^= marks % 2 == 1;
            continue;
        }
        let mut place = Place {
            beside: comment.map(str::to_owned),
            ..Place::line(index + 1)
        };
        let trimmed = code.trim();
        if within.is_none() && trimmed.starts_with('[') {
            let blank = |c: char| c.is_whitespace() || matches!(c, '[' | ']' | '"' | '\'');
            section = trimmed.trim_matches(blank).to_owned();
            if section != "network" && section.starts_with("network") {
                refused.get_or_insert_with(|| tree::stranger(&section));
            }
            continue;
        }
        let started = list(code);
        if within.is_none()
            && started.is_none()
            && let Some((key, _)) = code.split_once('=')
            && (section == "network" || section.is_empty() && key.trim().starts_with("network"))
        {
            refused.get_or_insert_with(|| tree::stranger(key.trim()));
        }
        let Some(of_hosts) = started.map(|(of_hosts, _)| of_hosts).or(within) else {
            continue;
        };
        let rest = started.map_or(code, |(_, rest)| rest);
        let (inside, ends) = match rest.split_once(']') {
            Some((inside, _)) => (inside, true),
            None => (rest, false),
        };
        within = Some(of_hosts).filter(|_| !ends);
        // What is between two quotes is every other part.
        for value in inside.split(['"', '\'']).skip(1).step_by(2) {
            let place = std::mem::replace(&mut place, Place::line(index + 1));
            if section == "network" {
                put(&mut found, value, of_hosts, place);
            } else {
                found.leave(value, &place, "it is not in [network]");
            }
        }
    }
    found.refuse(refused);
    found
}

/// A line of TOML without its comment, and that.
fn uncommented(line: &str) -> (&str, Option<&str>) {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(begun), _) if begun == c => quote = None,
            (None, '#') => {
                let (code, comment) = line.split_at_checked(at).unwrap_or((line, ""));
                return (code, split_comment(comment).1);
            }
            _ => {}
        }
    }
    (line, None)
}

/// The flags of smolvm's own commands in a script.
fn script(text: &str) -> Found {
    let mut found = Found::default();
    let lines: Vec<&str> = text.lines().collect();
    let mut taken = vec![false; lines.len()];
    for command in commands(text) {
        for (line, value, of_hosts) in flags(&command) {
            let whole = lines.get(line).copied().unwrap_or_default();
            let is_first = taken
                .get_mut(line)
                .is_some_and(|it| !std::mem::replace(it, true));
            let comment = is_first.then(|| split_comment(whole).1).flatten();
            let place = Place {
                beside: comment.map(str::to_owned),
                ..Place::line(line + 1)
            };
            put(&mut found, value, of_hosts, place);
        }
    }
    for (index, (line, taken)) in lines.iter().zip(taken).enumerate() {
        let code = split_comment(line).0;
        if !taken && FLAGS.iter().any(|(flag, _)| code.contains(flag)) {
            let why = "it is no flag of a command of smolvm's";
            found.leave(code.trim(), &Place::line(index + 1), why);
        }
    }
    found
}

/// What a command gives to these flags, where it is smolvm's, each with its line.
fn flags(command: &[(usize, String)]) -> Vec<(usize, &str, bool)> {
    let before = |word: &str| word.contains('=') || tree::listed(BEFORE, word);
    let words = command.iter().map(|(line, word)| (*line, word.as_str()));
    let words = words.skip_while(|(_, word)| !word.starts_with('-') && before(word));
    let mut words = words.peekable();
    // A line of flags alone has no command.
    let is_smolvm = |word: &str| {
        let name = word.rsplit('/').next().unwrap_or_default();
        name.trim_matches(['$', '{', '}'])
            .eq_ignore_ascii_case("smolvm")
    };
    let mut left = match words.peek() {
        Some((_, word)) if word.starts_with("--allow-") => 0,
        // Itself, and what it is to do with what.
        Some((_, word)) if is_smolvm(word) => 3,
        _ => return Vec::new(),
    };
    let mut values = Vec::new();
    while let Some((line, word)) = words.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        if let Some((_, of_hosts)) = FLAGS.iter().find(|(flag, _)| *flag == name) {
            let value = value.map(|value| (line, value)).or_else(|| words.next());
            values.extend(value.map(|(line, value)| (line, value, *of_hosts)));
        } else if word == "--" || !word.starts_with('-') && left == 0 {
            // What is run within begins here.
            break;
        } else if !word.starts_with('-') {
            left -= 1;
            if left == 1 && word != "machine" {
                left = 0;
            }
        } else if tree::listed(VALUED, word) {
            words.next();
        }
    }
    values
}

/// A command's words with their lines from 0, without their quotes.
type Command = Vec<(usize, String)>;

/// The commands of a script.
fn commands(text: &str) -> Vec<Command> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    // What ends a text that is given to a command: that has no commands, or not ours.
    let mut ends: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(name) = ends {
            ends = Some(name).filter(|name| line.trim() != *name);
            continue;
        }
        let mut is_escaped = false;
        for c in line.chars() {
            let mut begins = false;
            if is_escaped {
                is_escaped = false;
            } else if c == '\\' && quote != Some('\'') {
                is_escaped = true;
                continue;
            } else if quote == Some(c) {
                quote = None;
                continue;
            } else if quote.is_none() {
                if c == '#' && word.is_none() {
                    break;
                }
                let is_last = matches!(c, ';' | '&' | '|' | '(' | ')' | '`');
                if is_last || c.is_whitespace() {
                    end(&mut commands, &mut word, index, is_last);
                    continue;
                }
                quote = Some(c).filter(|c| matches!(c, '"' | '\''));
                begins = quote.is_some();
            }
            let word = word.get_or_insert_default();
            if !begins {
                word.push(c);
            }
        }
        if quote.is_none() && !is_escaped {
            end(&mut commands, &mut word, index, true);
            let behind = line.split_once("<<").map(|(_, name)| name);
            let name = behind.filter(|name| !name.starts_with('<'));
            let blank = |c: char| c.is_whitespace() || matches!(c, '-' | '"' | '\'' | '\\');
            ends = name.and_then(|name| name.split(blank).find(|part| !part.is_empty()));
        }
    }
    end(&mut commands, &mut word, 0, true);
    commands
}

#[inline(never)]
fn end(commands: &mut Vec<Command>, word: &mut Option<String>, line: usize, is_last: bool) {
    if let (Some(command), Some(word)) = (commands.last_mut(), word.take()) {
        command.push((line, word));
    }
    if is_last {
        commands.push(Vec::new());
    }
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
