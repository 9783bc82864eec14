//! A cursor over the document's nodes: enters them or passes over them, and collects what is
//! wrong.

use saphyr_parser::{Event, ScalarStyle};

use super::events::{Events, MAX_DEPTH, UNKNOWN, too_deep, unknown_alias};
use super::problem::{Position, Problem, Problems, Rejection, quoted};
use super::scalar::Scalar;
use super::section::Section;
use super::wanted::{Advise, Wanted};

/// A node of the document, entered but not read.
pub(super) enum Node {
    Scalar(Scalar),
    Sequence(Position),
    Mapping(Position),
    /// An alias.
    Alias(Position),
    /// A node with this tag, passed over already.
    Tagged(Position, String),
}

impl Node {
    fn at(&self) -> Position {
        match self {
            Self::Scalar(scalar) => scalar.at,
            Self::Sequence(at) | Self::Mapping(at) | Self::Alias(at) | Self::Tagged(at, _) => *at,
        }
    }
}

/// After a syntax error it only sees ends, so that every loop returns.
pub(super) struct Reader<'a> {
    pub(super) events: Events<'a>,
    /// Errors of syntax and shape.
    pub(super) problems: Problems,
    /// Keys below `bottle` that are not ours.
    pub(super) foreign: Problems,
    /// The section that has a key: the schema's answer, for who wrote it in another.
    pub(super) section_with: fn(&str) -> Option<Section>,
    /// Whether it is one of any section: the schema's answer.
    pub(super) is_key: fn(&str) -> bool,
    /// What to write instead of what stands in a wrong shape.
    pub(super) advise: Advise,
}

impl<'a> Reader<'a> {
    /// Reports a node that is not what is `wanted` there, and passes over what is in it. An
    /// alias or a tag says itself what is wrong.
    pub(super) fn refuse(
        &mut self,
        node: &Node,
        field: impl FnOnce() -> String,
        wanted: Option<Wanted>,
        why: impl FnOnce(&Node) -> Rejection,
    ) {
        let (events, is_key) = (&self.events, self.is_key);
        let advise = |text: &str| (self.advise)(wanted?, text);
        self.problems.add(|| {
            let refusal = match node {
                Node::Alias(at) => {
                    let word = events.word(*at);
                    alias(word, advise(word))
                }
                Node::Tagged(_, tag) => {
                    Rejection::new(format!("the tag {} is not read", quoted(tag)))
                        .hint("remove it; a quoted value is text")
                }
                Node::Scalar(scalar) => {
                    let mut refusal = why(node);
                    let hint = match wanted {
                        Some(Wanted::List(_) | Wanted::Mapping(_)) => advise(&scalar.text),
                        // One more of what is there already.
                        Some(Wanted::Quoted(_)) => None,
                        None => missing_blank(events.rest_of_line(scalar.at), is_key)
                            .and_then(|(_, missing)| missing.hint),
                    };
                    refusal.hint = refusal.hint.or(hint);
                    refusal
                }
                node => why(node),
            };
            refusal.at(Some(node.at()), field())
        });
        self.leave(node);
    }

    /// Passes over what is in a node that was entered.
    pub(super) fn leave(&mut self, node: &Node) {
        if matches!(node, Node::Sequence(_) | Node::Mapping(_)) {
            self.skip_inside();
        }
    }

    /// The next node; `None` at the end of the collection that was entered.
    pub(super) fn item(&mut self) -> Option<Node> {
        let (event, at) = self.next()?;
        let (node, tag) = match event {
            Event::Scalar(text, style, _, tag) => {
                let scalar = Scalar {
                    text: text.into(),
                    plain: style == ScalarStyle::Plain,
                    at,
                };
                (Node::Scalar(scalar), tag)
            }
            Event::SequenceStart(_, tag) => (Node::Sequence(at), tag),
            Event::MappingStart(_, tag) => (Node::Mapping(at), tag),
            Event::Alias(_) => return Some(Node::Alias(at)),
            _ => return None,
        };
        let Some(tag) = tag else {
            return Some(node);
        };
        if !matches!(node, Node::Scalar(_)) {
            self.skip_inside();
        }
        let tag = if tag.is_yaml_core_schema() {
            format!("!!{}", tag.suffix)
        } else {
            format!("{}{}", tag.handle, tag.suffix)
        };
        Some(Node::Tagged(at, tag))
    }

    /// Passes over the next node, whatever it is.
    pub(super) fn skip(&mut self) {
        match self.next() {
            Some((Event::SequenceStart(..) | Event::MappingStart(..), _)) => self.skip_inside(),
            Some((Event::Alias(UNKNOWN), at)) => self.problem(at, String::new, unknown_alias),
            _ => {}
        }
    }

    /// Passes over the rest of the collection that was entered.
    fn skip_inside(&mut self) {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.next() {
                Some((Event::SequenceStart(..) | Event::MappingStart(..), at)) => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        self.problem(at, String::new, too_deep);
                        self.events.end();
                        return;
                    }
                }
                Some((Event::SequenceEnd | Event::MappingEnd, _)) => depth -= 1,
                Some((Event::Alias(UNKNOWN), at)) => self.problem(at, String::new, unknown_alias),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// The next event; `None` once the text could not be read on.
    pub(super) fn next(&mut self) -> Option<(Event<'a>, Position)> {
        match self.events.next()? {
            Ok(event) => Some(event),
            Err(problem) => {
                let (events, is_key) = (&self.events, self.is_key);
                self.problems.add(|| explained(events, is_key, problem));
                None
            }
        }
    }

    pub(super) fn problem(
        &mut self,
        at: Position,
        field: impl FnOnce() -> String,
        refusal: impl FnOnce() -> Rejection,
    ) {
        self.problems.add(|| refusal().at(Some(at), field()));
    }
}

/// Why an alias is refused. One that would be what is wanted if it stood in quotes was not
/// meant for one.
fn alias(word: &str, hint: Option<String>) -> Rejection {
    match hint {
        Some(hint) => Rejection::new(format!(
            "{} is an alias to YAML, because it begins with \"*\" and stands without quotes",
            quoted(word)
        ))
        .hint(hint),
        None => Rejection::new("aliases (*name) are not read").hint("write the value out"),
    }
}

/// A key of ours with something right behind its colon, where a line begins with it: the
/// characters before it, what is wrong, and what to write.
fn missing_blank(line: &str, is_key: fn(&str) -> bool) -> Option<(usize, Rejection)> {
    let trimmed = line.trim_start_matches([' ', '-']);
    let (key, rest) = trimmed.split_once(':')?;
    let rest = rest.split(" #").next().unwrap_or_default().trim_end();
    let starts = |c: char| c.is_ascii_alphanumeric() || c == '[';
    let sound = |c: char| c != '"' && c != '\\' && !c.is_control();
    if !is_key(key) || !rest.starts_with(starts) || !rest.chars().all(sound) {
        return None;
    }
    let before = line.chars().count() - trimmed.chars().count();
    let refusal = Rejection::new(format!("a blank is missing behind \"{key}:\""));
    Some((before, refusal.hint(format!("write \"{key}: {rest}\""))))
}

/// A syntax error, or what brought it about: the parser meets it at the next key or later.
fn explained(events: &Events, is_key: fn(&str) -> bool, problem: Problem) -> Problem {
    const LINES: usize = 3;
    let last = problem.line.unwrap_or_default();
    let lines = (1..=last).rev().take(LINES);
    let found = lines
        .into_iter()
        .find_map(|line| Some((line, missing_blank(events.line(line), is_key)?)));
    match found {
        Some((line, (before, refusal))) => {
            let at = Position::new(line, before + 1);
            refusal.at(Some(at), String::new())
        }
        None => problem,
    }
}
