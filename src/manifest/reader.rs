//! Events to the schema's fields. Reports what does not fit, passes over it, and never stops
//! before the end of what the parser can read.

use saphyr_parser::{Event, ScalarStyle};

use super::events::{Events, MAX_DEPTH, too_deep};
use super::problem::{Position, Problems, Rejection, quoted};
use super::scalar::Scalar;
use super::schema::{Manifest, Mapping, Section};
use super::suggest::nearest;
use super::text::decode;
use super::value::Value;

/// What reading a manifest found.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The fields that could be read.
    pub manifest: Manifest,
    /// Errors of encoding, syntax and shape.
    pub problems: Problems,
    /// Keys below `bottle` that are not ours: warnings, or errors when strict.
    pub foreign: Problems,
    /// Whether the end was reached. If not, a missing field is no problem of its
    /// own.
    pub complete: bool,
}

/// Reads a manifest: YAML 1.2, or JSON. Never fails: what is wrong is in
/// [`Reading::problems`].
#[must_use]
pub fn parse(bytes: &[u8]) -> Reading {
    let text = match decode(bytes) {
        Ok(text) => text,
        Err(problem) => {
            let mut reading = Reading::default();
            reading.problems.add(|| problem);
            return reading;
        }
    };
    let mut reader = Reader {
        events: Events::of(text),
        problems: Problems::default(),
        foreign: Problems::default(),
    };
    let manifest = reader.document().unwrap_or_default();
    Reading {
        manifest,
        complete: !reader.events.have_ended(),
        problems: reader.problems,
        foreign: reader.foreign,
    }
}

/// A node of the document, entered but not read.
pub(super) enum Node {
    Scalar(Scalar),
    Sequence(Position),
    Mapping(Position),
    /// An alias or a tagged node, passed over already.
    Refused(Position, Rejection),
}

impl Node {
    fn at(&self) -> Position {
        match self {
            Self::Scalar(scalar) => scalar.at,
            Self::Sequence(at) | Self::Mapping(at) | Self::Refused(at, _) => *at,
        }
    }
}

/// After a syntax error it only sees ends, so that every loop returns.
pub(super) struct Reader<'a> {
    events: Events<'a>,
    problems: Problems,
    foreign: Problems,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Option<Manifest> {
        // The stream's start, then a document or the stream's end.
        self.next();
        if !matches!(self.next()?.0, Event::DocumentStart(_)) {
            return self.empty();
        }
        let document = Value::of(self, Section::Manifest, "");
        let Some(manifest) = document.mapping(Section::Manifest) else {
            return self.empty();
        };
        self.next();
        if let Some((Event::DocumentStart(_), at)) = self.next() {
            self.problem(at, String::new, || {
                Rejection::new("a second document starts here; a manifest is one document")
            });
        }
        Some(manifest)
    }

    /// Says that there is nothing, unless what is there instead was refused.
    fn empty(&mut self) -> Option<Manifest> {
        self.events.end();
        if self.problems.is_empty() {
            let refusal =
                Rejection::new("the manifest is empty").hint("slug and bottle are required");
            self.problems.add(|| refusal.at(None, String::new()));
        }
        None
    }

    /// The rest of the mapping that was entered. Unknown and repeated keys are reported and
    /// skipped with their values.
    pub(super) fn mapping<T: Mapping>(&mut self, section: Section) -> T {
        let mut read = T::default();
        let mut seen = 0_u32;
        while let Some(key) = self.key(section) {
            let known = T::KEYS.iter().zip(0_u32..);
            let found = known.into_iter().find(|((name, _), _)| **name == *key.text);
            let Some(((name, into), place)) = found else {
                self.unknown_key(section, &key, || nearest(&key.text, T::names()));
                self.skip();
                continue;
            };
            let bit = 1 << place;
            if seen & bit != 0 {
                let twice = || Rejection::new("the key is there twice; each may be written once");
                self.problem(key.at, || section.key(name), twice);
                self.skip();
                continue;
            }
            seen |= bit;
            into(&mut read, Value::of(self, section, name));
        }
        read
    }

    /// The next key of the mapping that was entered; what is no key is skipped with its value.
    pub(super) fn key(&mut self, section: Section) -> Option<Scalar> {
        loop {
            match self.item()? {
                Node::Scalar(key) => return Some(key),
                node => {
                    let no_key =
                        |_: &_| Rejection::new("a list or mapping stands where a key is wanted");
                    self.refuse(node, || section.path(), no_key);
                    self.skip();
                }
            }
        }
    }

    fn unknown_key(
        &mut self,
        section: Section,
        key: &Scalar,
        near: impl FnOnce() -> Option<&'static str>,
    ) {
        let is_merge = &*key.text == "<<";
        // A merge key could bring a host in: never to be passed over.
        let problems = if section.is_bottle() && !is_merge {
            &mut self.foreign
        } else {
            &mut self.problems
        };
        problems.add(|| {
            let field = match (section, &*key.text) {
                (Section::Manifest, "") => quoted(""),
                (_, text) => section.key(text),
            };
            let refusal = if is_merge {
                Rejection::new("merge keys are not read").hint("write the keys out")
            } else {
                unknown(section, &key.text, near())
            };
            refusal.at(Some(key.at), field)
        });
    }

    /// Reports a node that is not what is wanted there, and passes over what is in it. An
    /// alias or a tag says itself what is wrong.
    pub(super) fn refuse(
        &mut self,
        node: Node,
        field: impl FnOnce() -> String,
        why: impl FnOnce(&Node) -> Rejection,
    ) {
        let entered = matches!(node, Node::Sequence(_) | Node::Mapping(_));
        self.problem(node.at(), field, || match node {
            Node::Refused(_, refusal) => refusal,
            node => why(&node),
        });
        if entered {
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
            Event::Alias(_) => {
                let refusal = Rejection::new("aliases (*name) are not read");
                return Some(Node::Refused(at, refusal.hint("write the value out")));
            }
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
        let refusal = Rejection::new(format!("the tag {} is not read", quoted(&tag)));
        Some(Node::Refused(
            at,
            refusal.hint("remove it; a quoted value is text"),
        ))
    }

    /// Passes over the next node, whatever it is.
    pub(super) fn skip(&mut self) {
        if let Some((Event::SequenceStart(..) | Event::MappingStart(..), _)) = self.next() {
            self.skip_inside();
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
                Some(_) => {}
                None => return,
            }
        }
    }

    /// The next event; `None` once the text could not be read on.
    fn next(&mut self) -> Option<(Event<'a>, Position)> {
        match self.events.next()? {
            Ok(event) => Some(event),
            Err(problem) => {
                self.problems.add(|| problem);
                None
            }
        }
    }

    fn problem(
        &mut self,
        at: Position,
        field: impl FnOnce() -> String,
        refusal: impl FnOnce() -> Rejection,
    ) {
        self.problems.add(|| refusal().at(Some(at), field()));
    }
}

fn unknown(section: Section, key: &str, near: Option<&str>) -> Rejection {
    let refusal = Rejection::new(if section.is_bottle() {
        "not a key that is read here"
    } else {
        "unknown key"
    });
    let elsewhere = || {
        let right = Section::with(key).filter(|_| section == Section::Manifest)?;
        Some(right.key(key))
    };
    match near.map(str::to_owned).or_else(elsewhere) {
        Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::Supervisor;
    use super::*;

    /// What is wrong with a manifest of these lines, each with its line.
    fn problems(text: &str) -> Vec<String> {
        let Reading {
            mut problems,
            foreign,
            ..
        } = parse(text.as_bytes());
        problems.append(foreign);
        let shown = |problem: &super::super::Problem| problem.display("m").to_string();
        problems.into_sorted().iter().map(shown).collect()
    }

    #[test]
    fn whatever_is_wrong_the_rest_is_read() {
        let text = "slug: [a, {b: [c]}]\nversion: !t {x: [y]}\n[q]: {x: 1}\n&k key: [1]\nbottle:\n  egress:\n    \
                    routes:\n    - [[a]]\n    - !t {host: x}\n    - host: {a: b}\n    - host: found\nnetwork: [1, \
                    [2]]\npipelock:\n  <<: {a: 1}\n  listen: 1\n  listen: [2]\n  passthrough: [[a], b, {c: d}]\n\
                    supervisor: word\n";
        assert_eq!(
            problems(text),
            [
                "m:1: slug: a list stands where one value is wanted",
                "m:2: version: the tag \"!t\" is not read\nhint: remove it; a quoted value is text",
                "m:3: a list or mapping stands where a key is wanted",
                "m:4: key: unknown key",
                "m:8: bottle.egress.routes[0]: a list is not a mapping with a host",
                "m:9: bottle.egress.routes[1]: the tag \"!t\" is not read\nhint: remove it; a quoted value is text",
                "m:10: bottle.egress.routes[2].host: a mapping stands where one value is wanted",
                "m:12: network: a list stands where a mapping is wanted",
                "m:14: pipelock.<<: merge keys are not read\nhint: write the keys out",
                "m:16: pipelock.listen: the key is there twice; each may be written once",
                "m:17: pipelock.passthrough[0]: not a host name",
                "m:17: pipelock.passthrough[2]: not a host name",
                "m:18: supervisor: \"word\" stands where a mapping is wanted",
            ]
        );
        let Reading {
            manifest, complete, ..
        } = parse(text.as_bytes());
        assert!(complete);
        let text = |scalar: &Scalar| scalar.text.to_string();
        let hosts = manifest.bottle.unwrap().egress.routes;
        let hosts: Vec<_> = hosts
            .iter()
            .map(|(_, route)| route.host.as_ref().map(text))
            .collect();
        assert_eq!(hosts, [None, None, None, Some("found".to_owned())]);
        assert_eq!(
            manifest.pipelock.listen.as_ref().map(text).as_deref(),
            Some("1")
        );
        let passed: Vec<_> = manifest.pipelock.passthrough.iter().map(text).collect();
        assert_eq!(passed, ["b"]);
    }

    #[test]
    fn each_key_may_be_there_once() {
        let all: String = Supervisor::names()
            .map(|key| format!("  {key}: 1\n"))
            .collect();
        assert_eq!(problems(&format!("supervisor:\n{all}")), [""; 0]);
        for key in Supervisor::names() {
            let once_more = format!("supervisor:\n{all}  {key}: [2]\n");
            let wanted =
                format!("m:5: supervisor.{key}: the key is there twice; each may be written once");
            assert_eq!(problems(&once_more), [wanted]);
        }
    }

    #[test]
    fn what_is_unknown_below_bottle_is_not_ours_to_judge_unless_it_merges() {
        let reading = parse(b"x: 1\n<<: {}\nbottle: {y: 1, <<: {}}\n");
        let fields = |problems: Problems| -> Vec<String> {
            let problems = problems.into_sorted().into_iter();
            problems.map(|problem| problem.field).collect()
        };
        assert_eq!(fields(reading.problems), ["x", "<<", "bottle.<<"]);
        assert_eq!(fields(reading.foreign), ["bottle.y"]);
    }

    #[test]
    fn an_unknown_key_is_told_what_was_meant() {
        for (section, key, near, message, hint) in [
            (Section::Manifest, "x", None, "unknown key", None),
            (
                Section::Manifest,
                "x",
                Some("slug"),
                "unknown key",
                Some("slug"),
            ),
            (
                Section::Manifest,
                "listen",
                None,
                "unknown key",
                Some("pipelock.listen"),
            ),
            (
                Section::Manifest,
                "listen",
                Some("slug"),
                "unknown key",
                Some("slug"),
            ),
            (Section::Network, "listen", None, "unknown key", None),
            (
                Section::Route(0),
                "listen",
                None,
                "not a key that is read here",
                None,
            ),
            (
                Section::Bottle,
                "x",
                Some("git"),
                "not a key that is read here",
                Some("git"),
            ),
        ] {
            let refusal = unknown(section, key, near);
            assert_eq!(refusal.message, message);
            let hint = hint.map(|hint| format!("did you mean \"{hint}\"?"));
            assert_eq!(refusal.hint, hint, "{section:?} {key}");
        }
    }

    #[test]
    fn an_empty_document_is_none_and_one_that_is_refused_is_not_empty_too() {
        let empty = "m: the manifest is empty\nhint: slug and bottle are required";
        for (text, wanted) in [
            ("", empty),
            ("# c\n", empty),
            ("---\n", empty),
            ("~", empty),
            ("word", "m:1: \"word\" stands where a mapping is wanted"),
            ("[a]", "m:1: a list stands where a mapping is wanted"),
            (
                "!t {}",
                "m:1: the tag \"!t\" is not read\nhint: remove it; a quoted value is text",
            ),
        ] {
            assert_eq!(problems(text), [wanted], "{text:?}");
            assert!(!parse(text.as_bytes()).complete, "{text:?}");
        }
        assert!(parse(b"{}").complete);
    }

    #[test]
    fn what_is_passed_over_may_be_nested_so_deeply_and_no_deeper() {
        let nested = |levels| format!("bottle:\n  git:\n    {}x\n", "- ".repeat(levels));
        assert_eq!(problems(&nested(MAX_DEPTH)), [""; 0]);
        assert_eq!(
            problems(&nested(MAX_DEPTH + 1)),
            ["m:3: nested deeper than 255 levels"]
        );
        assert!(!parse(nested(MAX_DEPTH + 1).as_bytes()).complete);
    }
}
