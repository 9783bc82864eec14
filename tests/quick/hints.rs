//! What is told to be written is accepted once it is written: mistakes are made in a good
//! manifest, and every hint about them is followed to the letter.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sidecar_init::policy::{self, Problem};

/// Each value on a line of its own.
const GOOD: &str = "version: 1
slug: dev-agent
bottle:
  supervise: true
  egress:
    routes:
    - host: a.example
    - host: \"*.b.example\"
    - host: npm.corp.example
    - Host: 192.0.2.7
  git: []
network:
  internal: inner
  internal_cidr: 100.96.1.0/24
  hosts:
    supervise: 100.96.1.2
  address: 10.0.2.15/24
  gateway: 10.0.2.2
  dns:
  - 10.0.2.3
pipelock:
  listen: 0.0.0.0:8888
  passthrough:
  - a.example
  scan_limit_mib: 5
  requests_per_minute: 600
supervisor:
  grace_seconds: 8
grants:
- host: pypi-mirror.corp.example
  until: 2026-12-01T18:00:00Z
- host: wheels.example
  until: 2026-12-01T19:00:00+01:00
  passthrough: true
";

/// 2026-11-26T12:00:00Z
const NOW: u64 = 1_795_694_400;

/// What people write.
const VALUES: &[&str] = &[
    "a.example",
    "*.b.example",
    "*.corp.example",
    "*",
    ".corp.example",
    "10.0.0.1",
    "10.0.2.0",
    "10.0.0.0",
    "0.0.0.0",
    "224.0.0.1",
    "2001:db8::1",
    "2001:db8:0::1",
    "fd00::",
    "::1",
    "::ffff:10.0.0.1",
    "b\u{fc}cher.example",
    "API.Example",
    "null",
    "1e3",
    "0o17",
    "600",
    "8s",
    "8",
    "007",
    "0",
    "99999999999",
    "hours",
    "Dev_Agent",
    "1_2",
    "yes",
    "off",
    "true",
    "localhost:8888",
    "a.b.c.d.e.f.g.example",
    "2026-12-01T18:00:00",
    "2026-12-01 18:00:00+01:00",
    "2026-12-01T18:00+0100",
    "2026-12-01",
    "2026-02-30T00:00:00Z",
    "2062-12-01T18:00:00Z",
    "2020-12-01T18:00:00Z",
    "30m",
    "18:00",
    "canary.invalid",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy.example",
    "",
];

/// And around it; `@` stands for it.
const AROUND: &[&str] = &[
    "@",
    "@",
    "@",
    "\"@\"",
    "'@'",
    "https://@/x",
    "@:443",
    ".@",
    "*@",
    "*.@",
    "host:@",
    "@.",
    "@..",
    "@/8",
    "@/32",
    "@/128",
    "@, @",
    "@ @",
    "[@]",
    "[@]:80",
    "{a: @}",
    "@s",
    "00@",
    "-@",
    "!t @",
    "&x @",
    "*@:443",
    "@ # c",
    "u@@",
    "@%eth0",
    "\" @ \"",
    "\"@:1\"",
    "- @",
    "@: x",
];

const KEYS: &[&str] = &[
    "port",
    "ports",
    "hots",
    "host",
    "Host",
    "listen",
    "routes",
    "slugs",
    "botle",
    "passtrough",
    "internal-cidr",
    "dsn",
    "grace",
    "supervize",
    "path",
    "xyzzy",
    "<<",
    "scan_limit",
    "networks",
    "until",
    "untill",
    "grant",
];

#[derive(Clone, Debug)]
enum Mistake {
    /// Another value on this line.
    Value(usize, String),
    /// Another value in the place of this line's and of all below it.
    Flat(usize, String),
    /// Another entry of a list.
    Entry(usize, String),
    /// No blank behind the colon.
    Blank(usize),
    /// Another key.
    Key(usize, &'static str),
    /// A letter less in the key.
    Letter(usize),
    /// A key more.
    More(usize, &'static str, String),
    /// A line less, with all below it.
    Less(usize),
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// How many lines from this one on belong to it.
fn extent(lines: &[String], first: usize) -> usize {
    let level = indentation(&lines[first]);
    let is_entry = lines[first].trim_start().starts_with("- ");
    let below = lines[first + 1..].iter().take_while(|line| {
        // The entries of a list may stand as far left as its key.
        let entry = !is_entry && indentation(line) == level && line.trim_start().starts_with("- ");
        indentation(line) > level || entry
    });
    1 + below.count()
}

fn make(text: &str, mistake: &Mistake) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = lines.len();
    let key_of = |line: &str| line.split_once(':').map(|(key, _)| key.to_owned());
    match mistake {
        Mistake::Value(at, value) => {
            let line = &mut lines[at % count];
            if let Some(key) = key_of(line) {
                *line = format!("{key}: {value}");
            } else if let Some((before, _)) = line.split_once("- ") {
                *line = format!("{before}- {value}");
            }
        }
        Mistake::Flat(at, value) => {
            let at = at % count;
            if let Some(key) = key_of(&lines[at]) {
                let extent = extent(&lines, at);
                lines.splice(at..at + extent, [format!("{key}: {value}")]);
            }
        }
        Mistake::Entry(at, value) => {
            let line = &mut lines[at % count];
            if let Some((before, _)) = line.split_once("- ") {
                *line = format!("{before}- {value}").trim_end().to_owned();
            }
        }
        Mistake::Blank(at) => lines[at % count] = lines[at % count].replacen(": ", ":", 1),
        Mistake::Key(at, key) => {
            let line = &mut lines[at % count];
            if let Some((old, value)) = line.clone().split_once(':') {
                let before: String = old.chars().take_while(|c| " -".contains(*c)).collect();
                *line = format!("{before}{key}:{value}");
            }
        }
        Mistake::Letter(at) => {
            let line = &mut lines[at % count];
            if let Some((old, value)) = line.clone().split_once(':') {
                let shorter = &old[..old.len() - 1];
                *line = format!("{shorter}:{value}");
            }
        }
        Mistake::More(at, key, value) => {
            let at = at % count;
            let line = &lines[at];
            let level = indentation(line)
                + if line.trim_start().starts_with("- ") {
                    2
                } else {
                    0
                };
            lines.insert(at + 1, format!("{}{key}: {value}", " ".repeat(level)));
        }
        Mistake::Less(at) => {
            let at = at % count;
            let extent = extent(&lines, at);
            lines.drain(at..at + extent);
        }
    }
    lines.join("\n") + "\n"
}

/// What is prose, and for a person to follow.
const PROSE: &[&str] = &[
    "keep one of them",
    "keep one of the two",
    "write its host",
    "remove it, or write another time",
    "grant as long: ",
    "name each host",
    "name the domains that are meant",
    "remove it; a quoted value is text",
    "remove the entry",
    "save the file as UTF-8",
    "slug and bottle are required",
    "write \"*.\" and the domain",
    "write \"NAME: ADDRESS\"",
    "write a list: ",
    "write a blank behind the colon",
    "write a port from",
    "write an address of the machine's own",
    "write another address of the network",
    "write its keys without",
    "write four numbers",
    "write it as IPv4, starting",
    "write its A-label",
    "write the internal network alone",
    "write the keys out",
    "write the name alone; every port is allowed",
    "write the value out",
    "a value that begins with",
    "a value with \": \" in it",
    "close the quote",
    "indent with blanks",
];

enum Followed {
    /// The manifest as it is then, and the form of the hint.
    Text(String, &'static str),
    Prose,
}

/// The characters of the value that begins there: to its closing quote, else to the end of
/// the line or, within brackets, of the entry.
fn value_at(line: &str, start: usize) -> usize {
    let rest = &line[start..];
    if let Some(quote) = rest.chars().next().filter(|c| "\"'".contains(*c)) {
        return rest[1..].find(quote).map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with('*') {
        let ends = |c: char| c.is_whitespace() || ",[]{}".contains(c);
        return rest.find(ends).unwrap_or(rest.len());
    }
    let in_brackets = line[..start].contains(['[', '{']);
    let brackets = rest.find([',', ']', '}']).filter(|_| in_brackets);
    let ends = [brackets, rest.find(" #"), rest.find(": ")];
    let end = ends.into_iter().flatten().min().unwrap_or(rest.len());
    rest[..end].trim_end().len()
}

/// The text with something else at the problem's place.
fn replaced(text: &str, problem: &Problem, new: impl FnOnce(&str) -> String) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = &mut lines[problem.line.unwrap() - 1];
    let column = problem.column.unwrap() - 1;
    let start = line
        .char_indices()
        .nth(column)
        .map_or(line.len(), |(start, _)| start);
    // An anchor is no part of the value.
    let anchor = line[start..].strip_prefix("&x ").map_or(0, |_| 3);
    let start = start + anchor;
    let length = value_at(line, start);
    let new = new(&line[start..start + length]);
    line.replace_range(start..start + length, &new);
    lines.join("\n") + "\n"
}

/// The text with a top-level key set.
fn with_key(text: &str, key: &str, line: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some(at) = lines
        .iter()
        .position(|it| it.starts_with(&format!("{key}:")))
    {
        let extent = extent(&lines, at);
        lines.drain(at..at + extent);
    }
    lines.push(line.to_owned());
    lines.join("\n") + "\n"
}

/// The text with lines behind the first that is this one; `None` where there is none.
fn with_lines_below(text: &str, below: &str, new: &str) -> Option<String> {
    let (before, after) = text.split_once(&format!("{below}\n"))?;
    Some(format!("{before}{below}\n{new}{after}"))
}

#[allow(
    clippy::too_many_lines,
    reason = "a table of the forms that hints have"
)]
fn follow(text: &str, problem: &Problem, hint: &str) -> Followed {
    let quoted = |behind: &str| hint.strip_prefix(behind)?.strip_suffix('"');
    let then = |form, text: Option<String>| {
        text.map_or(Followed::Prose, |text| Followed::Text(text, form))
    };
    if PROSE.iter().any(|prose| hint.starts_with(prose))
        || hint.ends_with("? that is there already")
    {
        return Followed::Prose;
    }
    if hint == "write \"slug: NAME\", the agent's name" {
        return then("slug", Some(with_key(text, "slug", "slug: name")));
    }
    if hint.starts_with("write \"bottle: {}\" for one") {
        return then("bottle", Some(with_key(text, "bottle", "bottle: {}")));
    }
    if hint == "write \"- host: name.example\", or remove the entry" {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let line = &mut lines[problem.line.unwrap() - 1];
        *line = format!("{}- host: name.example", " ".repeat(indentation(line)));
        return then("an entry", Some(lines.join("\n") + "\n"));
    }
    if let Some(entry) = quoted("write \"- ") {
        return then(
            "an entry",
            Some(replaced(text, problem, |_| entry.to_owned())),
        );
    }
    if let Some(both) = hint
        .strip_prefix("write \"")
        .filter(|it| it.contains("\" here, and add below bottle.egress.routes: "))
    {
        let (value, entry) = both
            .split_once("\" here, and add below bottle.egress.routes: ")
            .unwrap();
        let text = replaced(text, problem, |_| format!("\"{value}\""));
        return then(
            "a value and its route",
            with_lines_below(&text, "  egress:\n    routes:", &format!("    {entry}\n"))
                .filter(|text| text.contains("\nbottle:\n")),
        );
    }
    if let Some(value) = quoted("put it in quotes: \"") {
        return then(
            "in quotes",
            Some(replaced(text, problem, |_| format!("\"{value}\""))),
        );
    }
    if let Some(value) = quoted("add the prefix length, such as \"") {
        return then(
            "a prefix",
            Some(replaced(text, problem, |_| value.to_owned())),
        );
    }
    if let Some(value) = quoted("write \"") {
        let is_pair = value
            .split_once(": ")
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_'));
        return if is_pair {
            then(
                "a blank",
                Some(replaced(text, problem, |_| value.to_owned())),
            )
        } else {
            then(
                "a value",
                Some(replaced(text, problem, |_| format!("\"{value}\""))),
            )
        };
    }
    if hint.starts_with("write [") {
        let list = hint.strip_prefix("write ").unwrap();
        return then("a list", Some(replaced(text, problem, |_| list.to_owned())));
    }
    if let Some(word) = hint
        .strip_prefix("write ")
        .and_then(|it| it.strip_suffix(", without quotes"))
    {
        return then("a word", Some(replaced(text, problem, |_| word.to_owned())));
    }
    let bare = |value: &str| value.trim_matches(['"', '\'']).to_owned();
    if hint == "write it without quotes and leading zeros" {
        let number = |value: &str| bare(value).parse::<u64>().unwrap().to_string();
        return then("a number", Some(replaced(text, problem, number)));
    }
    if hint == "write the number without a unit" {
        let number = |value: &str| {
            bare(value)
                .trim_end_matches('s')
                .parse::<u64>()
                .unwrap()
                .to_string()
        };
        return then("no unit", Some(replaced(text, problem, number)));
    }
    if let Some(entries) = hint.strip_prefix("add below bottle.egress.routes: ") {
        let entries: String = entries
            .split(", ")
            .map(|entry| format!("    {entry}\n"))
            .collect();
        return then(
            "a route",
            with_lines_below(
                text,
                "  egress:
    routes:",
                &entries,
            )
            .filter(|text| {
                text.contains(
                    "
bottle:
",
                )
            }),
        );
    }
    if let Some(hosts) = hint.strip_prefix("list the single hosts in pipelock.passthrough: ") {
        let hosts = hosts.split(", and ").next().unwrap();
        let line = text.lines().nth(problem.line.unwrap() - 1).unwrap();
        let separate = if line.contains('[') { ", " } else { "\n  - " };
        let hosts = hosts.replace(", ", separate);
        return then("single hosts", Some(replaced(text, problem, |_| hosts)));
    }
    if let Some(key) = hint
        .strip_prefix("did you mean \"")
        .and_then(|it| it.strip_suffix("\"?"))
    {
        // Of another section: it is moved with what is below it.
        if key.contains('.') {
            return Followed::Prose;
        }
        let line = text.lines().nth(problem.line.unwrap() - 1).unwrap();
        let start = line
            .char_indices()
            .nth(problem.column.unwrap() - 1)
            .unwrap()
            .0;
        let rest = &line[start..];
        let end = rest.find(": ").or_else(|| rest.rfind(':')).unwrap();
        let renamed = format!("{}{key}{}", &line[..start], &rest[end..]);
        let mut lines: Vec<&str> = text.lines().collect();
        lines[problem.line.unwrap() - 1] = &renamed;
        return then("a key", Some(lines.join("\n") + "\n"));
    }
    if hint.starts_with("remove it; ") {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = problem.line.unwrap() - 1;
        if lines[at].trim_start().starts_with("- ") {
            return Followed::Prose;
        }
        let extent = extent(&lines, at);
        lines.drain(at..at + extent);
        return then("removed", Some(lines.join("\n") + "\n"));
    }
    if let Some(time) = time_in(hint) {
        let is_missing = problem.message == "required, and not there";
        return if is_missing {
            then("a time", in_grant(text, problem, &format!("until: {time}")))
        } else {
            then("another time", Some(replaced(text, problem, |_| time)))
        };
    }
    if let Some((first, _)) = hint.split_once("in its grant: write passthrough: true") {
        let Some(with) = in_grant(text, problem, "passthrough: true") else {
            return Followed::Prose;
        };
        let first = first.trim_end_matches("; ");
        return if first.is_empty() {
            Followed::Text(with, "in its grant")
        } else {
            follow(&with, problem, first)
        };
    }
    if let Some(keys) = hint.strip_prefix("under pipelock: ") {
        let mut text = text.to_owned();
        let keys = keys.split("; ").next().unwrap();
        for part in keys.split(" and ") {
            let Some(next) = under_pipelock(&text, part) else {
                return Followed::Prose;
            };
            text = next;
        }
        return Followed::Text(text, "under pipelock");
    }
    if hint.starts_with("write one address and a port, as in ") {
        return Followed::Prose;
    }
    unreachable!("a hint of no known form: {hint:?} in\n{text}");
}

/// The time that a hint tells to write, in its quotes.
fn time_in(hint: &str) -> Option<String> {
    let (time, behind) = hint.strip_prefix("write \"")?.split_once('"')?;
    let is_told = [
        ", with the time",
        " if that is UTC",
        ", which is ",
        " at the latest",
    ];
    let is_time = time.starts_with("20") && time.contains('T');
    (is_time && (behind.is_empty() || is_told.iter().any(|it| behind.starts_with(it))))
        .then(|| format!("\"{time}\""))
}

/// The text with a key in the grant that the problem is about, in block style; `None` where
/// that is written otherwise.
fn in_grant(text: &str, problem: &Problem, pair: &str) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut at = problem.line? - 1;
    while !lines.get(at)?.trim_start().starts_with("- ") {
        at = at.checked_sub(1)?;
    }
    if lines[at].contains(['{', '[', '#', '!', '&']) || !lines[at].contains(": ") {
        return None;
    }
    let level = " ".repeat(indentation(&lines[at]) + 2);
    lines.insert(at + 1, format!("{level}{pair}"));
    Some(lines.join("\n") + "\n")
}

/// The text with what a note says of the section, in block style; `None` where that is written
/// otherwise.
fn under_pipelock(text: &str, part: &str) -> Option<String> {
    let section = "pipelock:";
    let is_other = |line: &str| line.starts_with(section) && line != section;
    if text.lines().any(is_other) {
        return None;
    }
    if let Some(host) = part
        .strip_prefix("add ")
        .and_then(|it| it.strip_suffix(" to passthrough"))
    {
        return with_lines_below(text, "  passthrough:", &format!("  - {host}\n")).or_else(|| {
            text.contains("  passthrough: [")
                .then(|| text.replacen("  passthrough: [", &format!("  passthrough: [{host}, "), 1))
        });
    }
    let mut text = text.to_owned();
    for pair in part.strip_prefix("write ").unwrap().split(", ") {
        let (key, _) = pair.split_once(':').unwrap();
        if text.contains(&format!("\n  {key}:")) {
            return None;
        }
        text = with_lines_below(&text, section, &format!("  {pair}\n"))
            .unwrap_or_else(|| format!("{text}{section}\n  {pair}\n"));
    }
    Some(text)
}

/// Problems about a value that is one, but not here.
const ELSEWHERE: &[&str] = &[
    "is not allowed by any route",
    "is wider than the routes",
    "is there twice",
    "and here are more",
    "is not in the network of",
    "is the machine's own address",
    "localhost is always",
    "a resolver reads",
    "is reserved for the init's own proof",
];

/// Follows every hint until there is none; which forms were met.
fn follow_all(mut text: String) -> Result<Vec<&'static str>, String> {
    let mut met = Vec::new();
    for _ in 0..24 {
        let (problems, is_valid) = match policy::read(text.as_bytes(), true, NOW) {
            Ok(judgement) => (judgement.notes, true),
            Err(refused) => (refused.problems, false),
        };
        let next = problems.iter().find_map(|problem| {
            match follow(&text, problem, problem.hint.as_deref()?) {
                Followed::Text(text, form) => Some((problem, text, form)),
                Followed::Prose => None,
            }
        });
        let Some((problem, followed, form)) = next else {
            return Ok(met);
        };
        met.push(form);
        let mut why = String::new();
        match policy::read(followed.as_bytes(), true, NOW) {
            Ok(judgement) => {
                if judgement.notes.contains(problem) {
                    why.push_str("the note is still there");
                }
            }
            Err(_) if is_valid => why.push_str("a note was followed, and it is no longer valid"),
            Err(after) => {
                for left in after.problems {
                    let same = left.message == problem.message
                        && left.field == problem.field
                        && (left.line == problem.line || form == "a route");
                    let there = !problem.field.is_empty()
                        && left.field == problem.field
                        && left.line == problem.line
                        && !ELSEWHERE.iter().any(|it| left.message.contains(it));
                    let value = !matches!(form, "a key" | "a blank" | "removed");
                    if same || there && value {
                        let _ = write!(why, "{}", left.display("after"));
                    }
                }
            }
        }
        if !why.is_empty() {
            return Err(format!(
                "{}\n--- in\n{text}--- followed\n{followed}--- {why}",
                problem.display("before")
            ));
        }
        text = followed;
    }
    Err(format!("it never ends:\n{text}"))
}

fn any_value() -> impl Strategy<Value = String> {
    (select(VALUES), select(AROUND)).prop_map(|(value, around)| around.replace('@', value))
}

fn any_mistake() -> impl Strategy<Value = Mistake> {
    let line = 0_usize..33;
    prop_oneof![
        4 => (line.clone(), any_value()).prop_map(|(at, value)| Mistake::Value(at, value)),
        1 => (line.clone(), any_value()).prop_map(|(at, value)| Mistake::Flat(at, value)),
        2 => (line.clone(), any_value()).prop_map(|(at, value)| Mistake::Entry(at, value)),
        1 => line.clone().prop_map(Mistake::Blank),
        1 => (line.clone(), select(KEYS)).prop_map(|(at, key)| Mistake::Key(at, key)),
        1 => line.clone().prop_map(Mistake::Letter),
        1 => (line.clone(), select(KEYS), any_value()).prop_map(|(at, key, value)| Mistake::More(at, key, value)),
        1 => line.prop_map(Mistake::Less),
    ]
}

#[test]
fn what_is_told_to_be_written_is_accepted_once_it_is() {
    assert!(policy::read(GOOD.as_bytes(), true, NOW).is_ok());
    let mut forms: BTreeMap<&str, usize> = BTreeMap::new();
    let config = Config {
        cases: 6000,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let met = std::cell::RefCell::new(&mut forms);
    let mistakes = proptest::collection::vec(any_mistake(), 1..4);
    let result = runner.run(&mistakes, |mistakes| {
        let text = mistakes
            .iter()
            .fold(GOOD.to_owned(), |text, mistake| make(&text, mistake));
        for form in follow_all(text).map_err(TestCaseError::fail)? {
            *met.borrow_mut().entry(form).or_default() += 1;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    for form in [
        "a blank",
        "a key",
        "a list",
        "a number",
        "a prefix",
        "a time",
        "another time",
        "in its grant",
        "a route",
        "a value",
        "a word",
        "an entry",
        "bottle",
        "in quotes",
        "no unit",
        "removed",
        "single hosts",
        "a value and its route",
        "slug",
        "under pipelock",
    ] {
        assert!(forms.contains_key(form), "{form}: {forms:?}");
    }
}
