//! YAML text to a tree whose nodes know their lines, because pipelock names
//! the line of every bad key. Pure.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// A node and the line it starts on, counted from 1.
#[derive(Clone, Debug)]
pub struct Node {
    /// Line of the node's first character.
    pub line: usize,
    /// What the node holds.
    pub value: Value,
}

/// The three kinds of YAML node.
#[derive(Clone, Debug)]
pub enum Value {
    /// Text, and whether it was written without quotes.
    Scalar(String, bool),
    /// A sequence.
    Seq(Vec<Node>),
    /// A mapping, duplicates included, in the file's order.
    Map(Vec<(Node, Node)>),
}

/// Why the text is not one YAML document.
#[derive(Debug)]
pub enum Error {
    /// Not YAML, with the parser's position and words.
    Syntax(usize, String),
    /// More than one document.
    Documents,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(line, info) => write!(f, "yaml: line {line}: {info}"),
            Self::Documents => f.write_str(
                "multiple YAML documents not supported (pipelock config must be a single document)",
            ),
        }
    }
}

impl std::error::Error for Error {}

impl Node {
    /// The tag YAML's core schema resolves the node to, and its short text, as
    /// pipelock's decoder prints them.
    pub fn described(&self) -> String {
        match &self.value {
            Value::Seq(_) => "!!seq".to_owned(),
            Value::Map(_) => "!!map".to_owned(),
            Value::Scalar(text, plain) => {
                let tag = if *plain { resolved_tag(text) } else { "!!str" };
                let short = if text.chars().count() > 10 {
                    let head: String = text.chars().take(7).collect();
                    format!("{head}...")
                } else {
                    text.clone()
                };
                format!("{tag} `{short}`")
            }
        }
    }

    /// Whether this is YAML's null.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(text, true) if resolved_tag(text) == "!!null")
    }
}

/// The core schema's tag for an unquoted scalar.
fn resolved_tag(text: &str) -> &'static str {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => "!!null",
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => "!!bool",
        _ if text.parse::<i64>().is_ok() => "!!int",
        _ if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
            && text.parse::<f64>().is_ok() =>
        {
            "!!float"
        }
        _ => "!!str",
    }
}

/// Parses one document. `None` is an empty or comment-only file.
pub fn parse(text: &str) -> Result<Option<Node>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| Error::Syntax(e.marker().line(), e.info().to_owned()))?;
        builder.take(event, span.start.line())?;
    }
    Ok(builder.root)
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    documents: usize,
    /// Open collections, each with its anchor (0 is none).
    open: Vec<(usize, Node)>,
    /// Keys that wait for their value, one for each open mapping.
    keys: Vec<Option<Node>>,
    anchors: HashMap<usize, Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Error> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Error::Documents);
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let value = Value::Scalar(text.into_owned(), plain);
                self.close(anchor, Node { line, value });
            }
            Event::SequenceStart(anchor, _) => {
                let value = Value::Seq(Vec::new());
                self.open.push((anchor, Node { line, value }));
                self.keys.push(None);
            }
            Event::MappingStart(anchor, _) => {
                let value = Value::Map(Vec::new());
                self.open.push((anchor, Node { line, value }));
                self.keys.push(None);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.keys.pop();
                if let Some((anchor, node)) = self.open.pop() {
                    self.close(anchor, node);
                }
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).cloned();
                let target = target.ok_or_else(|| {
                    Error::Syntax(line, "anchor value contains itself".to_owned())
                })?;
                self.close(0, target);
            }
            _ => {}
        }
        Ok(())
    }

    /// Hands a finished node to the collection it is in.
    fn close(&mut self, anchor: usize, node: Node) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some((_, parent)) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match (&mut parent.value, self.keys.last_mut()) {
            (Value::Map(entries), Some(waiting)) => match waiting.take() {
                Some(key) => entries.push((key, node)),
                None => *waiting = Some(node),
            },
            (Value::Seq(items), _) => items.push(node),
            _ => {}
        }
    }
}
