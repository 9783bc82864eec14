//! A cursor over the document's nodes: enters them or passes over them, and collects what is
//! wrong.

use saphyr_parser::{Event, ScalarStyle};

use super::events::{Events, MAX_DEPTH, too_deep};
use super::problem::{Position, Problems, Rejection, quoted};
use super::scalar::Scalar;
use super::section::Section;

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
    pub(super) events: Events<'a>,
    /// Errors of syntax and shape.
    pub(super) problems: Problems,
    /// Keys below `bottle` that are not ours.
    pub(super) foreign: Problems,
    /// The section that has a key: the schema's answer, for who wrote it in another.
    pub(super) section_with: fn(&str) -> Option<Section>,
}

impl<'a> Reader<'a> {
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
    pub(super) fn next(&mut self) -> Option<(Event<'a>, Position)> {
        match self.events.next()? {
            Ok(event) => Some(event),
            Err(problem) => {
                self.problems.add(|| problem);
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
