//! Edits the grants in a manifest's text, where everything else stays as it was written:
//! comments, order, indentation, quotes, line ends. Pure.
//!
//! Where things stand is what the parser's marks say. What was made is read again, and has to be
//! the same events but for the one grant: what cannot be edited so is not edited.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, ScalarStyle};

use super::events::{Events, UNKNOWN};
use super::scalar::{Kind, Scalar};
use super::text::decode;
use super::{MAX_BYTES, Position};

/// The key of the list.
const KEY: &str = "grants";

/// A grant as it is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// The host, in its one form.
    pub host: &'a str,
    /// Until when, RFC 3339.
    pub until: &'a str,
    /// Whether it is not to be scanned either. One that is there already is left as it is
    /// where this is false.
    pub passthrough: bool,
}

impl Grant<'_> {
    /// As an entry of a list between braces, in the one form that everybody can paste.
    #[must_use]
    pub fn line(&self) -> String {
        Style::default().between_braces(self)
    }
}

/// What is to become of a host's grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// It is granted so: added, or its end is moved.
    Grant(Grant<'a>),
    /// It is granted no more.
    Revoke,
}

/// The manifest with the change made. Which entries of the list are of the host, `is_meant`
/// says of theirs; a list without one is left as it is by [`Change::Revoke`].
///
/// `None` where the text cannot be read, or is written in a way that is not edited.
#[must_use]
pub fn edited(bytes: &[u8], change: Change, is_meant: &dyn Fn(&str) -> bool) -> Option<Vec<u8>> {
    let text = decode(bytes).ok()?;
    let mark = bytes.get(..bytes.len() - text.len())?;
    let page = Page::read(text)?;
    let edits = page.edits(change, is_meant)?;
    if page.is_open && edits.iter().any(|(range, _)| range.start == text.len()) {
        return None;
    }
    let after = apply(text, edits)?;
    let is_so = after.len() + mark.len() <= MAX_BYTES
        && Page::read(&after)?.told() == wanted(page.told(), change, is_meant)
        && Others::of(text).eq(Others::of(&after));
    is_so.then(|| [mark, after.as_bytes()].concat())
}

/// A grant as it is told: its keys and their values.
type Told = Vec<(String, String)>;

/// What the list has to be after the change.
fn wanted(mut told: Vec<Told>, change: Change, is_meant: &dyn Fn(&str) -> bool) -> Vec<Told> {
    let is = |grant: &Told| {
        grant
            .iter()
            .any(|(key, host)| key == "host" && is_meant(host))
    };
    let Change::Grant(new) = change else {
        told.retain(|grant| !is(grant));
        return told;
    };
    let passthrough = new.passthrough.then_some(("passthrough", "true"));
    if !told.iter().any(is) {
        let all = [("host", new.host), ("until", new.until)].into_iter();
        let all = all.chain(passthrough);
        told.push(all.map(|(key, value)| (key.into(), value.into())).collect());
        return told;
    }
    for grant in told.iter_mut().filter(|grant| is(grant)) {
        for (key, value) in [("until", new.until)].into_iter().chain(passthrough) {
            match grant.iter_mut().find(|(known, _)| known == key) {
                Some((_, known)) => *known = value.to_owned(),
                None => grant.push((key.to_owned(), value.to_owned())),
            }
        }
    }
    told
}

/// Something to be written in the place of something.
type Edit = (Range<usize>, String);

fn put_in_order(edits: &mut [Edit]) {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
}

fn apply(text: &str, mut edits: Vec<Edit>) -> Option<String> {
    put_in_order(&mut edits);
    let mut after = String::with_capacity(text.len() + 256);
    let mut done = 0;
    for (range, new) in edits {
        after.push_str(text.get(done..range.start)?);
        after.push_str(&new);
        done = range.end;
    }
    after.push_str(text.get(done..)?);
    Some(after)
}

/// Behind blanks, line ends and comments.
fn next_token(text: &str, from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let token = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        at += rest.len() - token.len();
        if !token.starts_with('#') {
            return at;
        }
        at += token.find('\n').unwrap_or(token.len());
    }
}

/// Behind the anchor and the tag of a node, and what is before and behind them.
fn past_properties(text: &str, from: usize) -> usize {
    let mut at = next_token(text, from);
    loop {
        let rest = text.get(at..).unwrap_or_default();
        if !rest.starts_with(['&', '!']) {
            return at;
        }
        let word = rest.find([' ', '\t', '\r', '\n']).unwrap_or(rest.len());
        at = next_token(text, at + word);
    }
}

/// A node of the document, and where it stands.
#[derive(Debug)]
struct Node {
    span: Range<usize>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Scalar(Scalar),
    /// With where the first bracket ends, where there are any.
    List(Begin, Vec<Node>),
    Mapping(Begin, Vec<(Node, Node)>),
    /// An alias, or what is deeper than a grant has it.
    Other,
}

/// How a collection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// With a bracket, which ends there.
    Flow(usize),
    /// By its indentation.
    Block,
}

impl Node {
    fn scalar(&self) -> Option<&Scalar> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        self.scalar().map(|scalar| &*scalar.text)
    }

    /// The key and the value of this name in a mapping.
    fn entry(&self, name: &str) -> Option<&(Node, Node)> {
        match &self.content {
            Content::Mapping(_, entries) => {
                entries.iter().find(|(key, _)| key.text() == Some(name))
            }
            _ => None,
        }
    }

    fn told(&self) -> Told {
        let text = |node: &Self| node.text().unwrap_or("\0").to_owned();
        match &self.content {
            Content::Mapping(_, entries) => {
                let entries = entries.iter();
                entries
                    .map(|(key, value)| (text(key), text(value)))
                    .collect()
            }
            _ => vec![(text(self), String::new())],
        }
    }
}

/// Reads nodes with their places.
struct Walk<'a> {
    text: &'a str,
    events: Events<'a>,
    /// Where what is written of the document ends, so far.
    reached: usize,
    /// Whether the last value so far is a block scalar, of which the line feed is a part.
    ends_in_block: bool,
}

impl<'a> Walk<'a> {
    fn next(&mut self) -> Option<(Event<'a>, Range<usize>)> {
        let (event, _) = self.events.next()?.ok()?;
        if let Event::Scalar(_, style, ..) = &event {
            self.ends_in_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        }
        Some((event, self.events.span()))
    }

    /// The next node, read so deep; `None` at the end of what was entered.
    fn node(&mut self, depth: usize) -> Option<Node> {
        let (event, span) = self.next()?;
        let start = span.start;
        let begin = self.begin(&span);
        let content = match event {
            Event::Scalar(text, style, ..) => {
                let scalar = Scalar {
                    text: text.into(),
                    plain: style == ScalarStyle::Plain,
                    at: Position::default(),
                };
                let span = self.written(span, &scalar);
                self.reached = self.reached.max(span.end);
                let content = Content::Scalar(scalar);
                return Some(Node { span, content });
            }
            Event::Alias(_) => {
                self.reached = span.end;
                let content = Content::Other;
                return Some(Node { span, content });
            }
            Event::SequenceStart(..) if depth > 0 => {
                let items = std::iter::from_fn(|| self.node(depth - 1)).collect();
                Content::List(begin, items)
            }
            Event::MappingStart(..) if depth > 0 => {
                let mut entries = Vec::new();
                while let Some(key) = self.node(depth - 1) {
                    entries.push((key, self.node(depth - 1)?));
                }
                Content::Mapping(begin, entries)
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                let mut open = 1_usize;
                while open > 0 {
                    let (event, span) = self.next()?;
                    match event {
                        Event::SequenceStart(..) | Event::MappingStart(..) => open += 1,
                        Event::SequenceEnd | Event::MappingEnd => {
                            open -= 1;
                            self.close(&span);
                        }
                        Event::Scalar(text, ..) if text.is_empty() => {}
                        _ => self.reached = self.written_end(span.end),
                    }
                }
                Content::Other
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close(&span);
                return None;
            }
            _ => return None,
        };
        let span = start..self.reached.max(start);
        Some(Node { span, content })
    }

    /// What begins with an event of this span: it begins with the anchor and the tag, and ends
    /// with what follows on a bracket.
    fn begin(&self, span: &Range<usize>) -> Begin {
        let at = past_properties(self.text, span.start);
        match self.text.as_bytes().get(at) {
            Some(b'[' | b'{') if at < span.end => Begin::Flow(at + 1),
            _ => Begin::Block,
        }
    }

    /// What ended with an event of this span, which of a mapping is the last comma's.
    fn close(&mut self, span: &Range<usize>) {
        let byte = |at: usize| self.text.as_bytes().get(at).copied();
        let at = match byte(span.start) {
            Some(b',') => next_token(self.text, span.start + 1),
            _ => span.start,
        };
        if !span.is_empty() && matches!(byte(at), Some(b']' | b'}')) {
            self.reached = at + 1;
        }
    }

    /// Where a value is written; for one that is not, the parser has the mark of what it saw instead.
    fn written(&self, span: Range<usize>, scalar: &Scalar) -> Range<usize> {
        match self.text.as_bytes().get(span.start) {
            _ if !(scalar.plain && scalar.text.is_empty()) => {
                span.start..self.written_end(span.end).max(span.start)
            }
            Some(b'&' | b'!') => span,
            Some(b':') => span.start + 1..span.start + 1,
            _ => span.start..span.start,
        }
    }

    /// A block scalar's end is the beginning of what follows.
    fn written_end(&self, end: usize) -> usize {
        let before = self.text.get(..end).unwrap_or_default();
        before.trim_end_matches([' ', '\t', '\r', '\n']).len()
    }
}

/// A manifest as it is written.
struct Page<'a> {
    text: &'a str,
    begin: Begin,
    /// The first and the last key, and the last one's value.
    first: Range<usize>,
    last: (Range<usize>, Range<usize>),
    /// The key and the value of [`KEY`].
    grants: Option<(Node, Node)>,
    /// Where the document ends.
    end: usize,
    /// What is written behind that becomes a part of the last value.
    is_open: bool,
}

impl<'a> Page<'a> {
    /// `None` for what is no mapping of at least one key, alone and without a fault.
    fn read(text: &'a str) -> Option<Self> {
        let mut walk = Walk {
            text,
            events: Events::of(text),
            reached: 0,
            ends_in_block: false,
        };
        walk.next()?;
        let (Event::DocumentStart(_), _) = walk.next()? else {
            return None;
        };
        let (Event::MappingStart(..), span) = walk.next()? else {
            return None;
        };
        let begin = walk.begin(&span);
        let (mut first, mut last, mut grants) = (None, None, None);
        while let Some(key) = walk.node(0) {
            let is_ours = key.text() == Some(KEY);
            let value = walk.node(if is_ours { 2 } else { 0 })?;
            first = first.or(Some(key.span.clone()));
            last = Some((key.span.clone(), value.span.clone()));
            if is_ours && grants.replace((key, value)).is_some() {
                return None;
            }
        }
        let (Event::DocumentEnd, span) = walk.next()? else {
            return None;
        };
        let (Event::StreamEnd, _) = walk.next()? else {
            return None;
        };
        let explicit = text.get(span.start..)?.starts_with("...");
        Some(Self {
            text,
            begin,
            first: first?,
            last: last?,
            grants,
            end: if explicit { span.start } else { text.len() },
            is_open: walk.ends_in_block && !text.ends_with('\n'),
        })
    }

    fn told(&self) -> Vec<Told> {
        match &self.grants {
            Some((_, value)) => match &value.content {
                Content::List(_, items) => items.iter().map(Node::told).collect(),
                Content::Scalar(scalar) if scalar.kind() == Kind::Null => Vec::new(),
                _ => vec![value.told()],
            },
            None => Vec::new(),
        }
    }

    fn edits(&self, change: Change, is_meant: &dyn Fn(&str) -> bool) -> Option<Vec<Edit>> {
        let Some((key, value)) = &self.grants else {
            return match change {
                Change::Grant(grant) => self.with_key(&grant),
                Change::Revoke => Some(Vec::new()),
            };
        };
        let (begin, items) = match &value.content {
            Content::List(begin, items) => (*begin, items),
            Content::Scalar(scalar) if scalar.kind() == Kind::Null => {
                return match change {
                    Change::Grant(grant) => self.with_list(&grant, key, value),
                    Change::Revoke => Some(Vec::new()),
                };
            }
            _ => return None,
        };
        let host = |item: &Node| {
            item.entry("host")
                .and_then(|(_, host)| host.text())
                .map(is_meant)
        };
        let mut meant = Vec::new();
        for (index, item) in items.iter().enumerate() {
            if host(item) == Some(true) {
                meant.push(index);
            }
        }
        match change {
            Change::Grant(grant) if meant.is_empty() => match begin {
                Begin::Flow(open) => {
                    let style = self.style(key, items.last());
                    let new = style.between_braces(&grant);
                    let close = value.span.end.checked_sub(1)?;
                    Some(self.with_flow(open, close, items, &new, style.blank))
                }
                Begin::Block => self.with_lines(&grant, key, value, items),
            },
            Change::Grant(grant) => {
                let all = meant.iter().filter_map(|index| items.get(*index));
                let edits: Option<Vec<_>> = all.map(|item| self.moved(item, &grant)).collect();
                Some(edits?.concat())
            }
            Change::Revoke => match begin {
                Begin::Flow(open) => {
                    let mut edits = self.without_flow(open, items, &meant)?;
                    if meant.len() == items.len() {
                        let close = value.span.end.checked_sub(1)?;
                        edits.extend(self.bracket_alone(key, open, close));
                    }
                    Some(edits)
                }
                Begin::Block => {
                    let lines = meant
                        .iter()
                        .map(|index| self.without_lines(key, items, *index));
                    lines.collect()
                }
            },
        }
    }

    // What is there, by its bytes.

    fn line_start(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or_default();
        before.rfind('\n').map_or(0, |end| end + 1)
    }

    /// Where the line ends, without what ends it.
    fn line_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default();
        at + line.strip_suffix('\r').unwrap_or(line).len()
    }

    /// Where the next line begins; the end of the text, where there is none.
    fn next_line(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        rest.find('\n').map_or(self.text.len(), |end| at + end + 1)
    }

    /// What ends the line there, or the first line where the text ends.
    fn line_feed(&self, at: usize) -> &'static str {
        let ends = |from: usize| {
            let rest = self.text.get(from..).unwrap_or_default();
            let end = rest.find('\n')?;
            Some(rest.get(..end).unwrap_or_default().ends_with('\r'))
        };
        match ends(at).or_else(|| ends(0)) {
            Some(true) => "\r\n",
            _ => "\n",
        }
    }

    /// What stands before it on its line, where those are blanks alone.
    fn indentation(&self, at: usize) -> Option<&'a str> {
        let before = self.text.get(self.line_start(at)..at)?;
        before.bytes().all(|it| it == b' ').then_some(before)
    }

    /// Whether nothing follows there on the line, but a comment.
    fn is_last_on_line(&self, at: usize) -> bool {
        let rest = self.text.get(at..self.line_end(at)).unwrap_or_default();
        let rest = rest.trim_start_matches([' ', '\t']);
        rest.is_empty() || rest.starts_with('#')
    }

    /// Where the comma behind an entry ends, where there is one.
    fn comma(&self, from: usize) -> Option<usize> {
        let at = next_token(self.text, from);
        self.text.get(at..)?.starts_with(',').then_some(at + 1)
    }

    fn quote(&self, node: &Node) -> &'static str {
        self.quote_at(node.span.start)
    }

    fn quote_at(&self, at: usize) -> &'static str {
        match self.text.as_bytes().get(at) {
            Some(b'"') => "\"",
            Some(b'\'') => "'",
            _ => "",
        }
    }

    /// How what is between braces is written here, by the last grant and the keys around.
    fn style(&self, key: &Node, sibling: Option<&Node>) -> Style<'a> {
        self.style_at(key.span.start, sibling)
    }

    fn style_at(&self, key: usize, sibling: Option<&Node>) -> Style<'a> {
        let flow = matches!(self.begin, Begin::Flow(_));
        let mut style = Style::default();
        if flow && self.quote_at(key) == "\"" {
            style = Style::JSON;
            let (key, value) = &self.last;
            if self.text.get(key.end..value.start) == Some(":") {
                style = Style::MINIFIED;
            }
        }
        let Some(sibling) = sibling else {
            return style;
        };
        if let Content::Mapping(begin, entries) = &sibling.content
            && let Some((key, value)) = entries.first()
        {
            style.key = self.quote(key);
            let is_tight = self.text.get(key.span.end..value.span.start) == Some(":");
            style.blank = if is_tight { "" } else { " " };
            let inner = match begin {
                Begin::Flow(open) => self.text.get(*open..key.span.start),
                Begin::Block => None,
            };
            let blank = |inner: &&str| inner.bytes().all(|it| it == b' ');
            style.inner = inner.filter(blank).unwrap_or_default();
        }
        for (name, quote) in [("host", &mut style.host), ("until", &mut style.until)] {
            if let Some((_, value)) = sibling.entry(name) {
                *quote = self.quote(value);
            }
        }
        style
    }

    // A grant more.

    /// The key is not there.
    fn with_key(&self, grant: &Grant) -> Option<Vec<Edit>> {
        let style = self.style_at(self.first.start, None);
        match self.begin {
            Begin::Flow(open) => {
                let new = format!(
                    "{key}:{blank}[{grant}]",
                    key = style.key(KEY),
                    blank = style.blank,
                    grant = style.between_braces(grant)
                );
                let (key, value) = &self.last;
                let entry = Node {
                    span: key.start..value.end,
                    content: Content::Other,
                };
                let close = next_token(self.text, self.comma(value.end).unwrap_or(value.end));
                Some(self.with_flow(open, close, &[entry], &new, style.blank))
            }
            Begin::Block => {
                let indent = self.indentation(self.first.start)?;
                let feed = self.line_feed(self.last.1.end);
                let line = style.between_braces(grant);
                let new = format!("{indent}{KEY}:{feed}{indent}  - {line}");
                if self.is_open {
                    let key = self.last.0.start;
                    self.indentation(key)?;
                    let at = self.line_start(key);
                    return Some(vec![(at..at, format!("{new}{feed}"))]);
                }
                let before = self.text.get(..self.end)?;
                Some(vec![if before.ends_with('\n') {
                    (self.end..self.end, format!("{new}{feed}"))
                } else {
                    (self.end..self.end, format!("{feed}{new}"))
                }])
            }
        }
    }

    /// The key is there without a value.
    fn with_list(&self, grant: &Grant, key: &Node, value: &Node) -> Option<Vec<Edit>> {
        let style = self.style(key, None);
        let line = style.between_braces(grant);
        let nothing = value.text() == Some("");
        let at = value.span.end;
        if !nothing {
            return Some(vec![(value.span.clone(), format!("[{line}]"))]);
        }
        match self.begin {
            Begin::Flow(_) => {
                // What is read as a value has a blank before it.
                let is_apart = self.text.get(..at)?.ends_with(' ');
                let blank = if is_apart { "" } else { " " };
                Some(vec![(at..at, format!("{blank}[{line}]"))])
            }
            Begin::Block => {
                let indent = self.indentation(key.span.start)?;
                Some(vec![self.line_below(
                    at,
                    &format!("{indent}  - {line}"),
                    &[],
                )])
            }
        }
    }

    /// A line, and more, below the one that is there.
    fn line_below(&self, at: usize, line: &str, more: &[String]) -> Edit {
        let feed = self.line_feed(at);
        let mut new = line.to_owned();
        for line in more {
            new.push_str(feed);
            new.push_str(line);
        }
        let end = self.line_end(at);
        let next = self.next_line(at);
        if next > end {
            (next..next, format!("{new}{feed}"))
        } else {
            (end..end, format!("{feed}{new}"))
        }
    }

    /// The list has lines of its own.
    fn with_lines(
        &self,
        grant: &Grant,
        key: &Node,
        value: &Node,
        items: &[Node],
    ) -> Option<Vec<Edit>> {
        let (last, index) = (items.last()?, items.len() - 1);
        let dash = self.dash(key, items, index)?;
        let indent = self.indentation(dash)?;
        let style = self.style(key, Some(last));
        let first = match &last.content {
            Content::Mapping(Begin::Block, entries) => entries.first(),
            _ => None,
        };
        let start = first.map_or(last.span.start, |(key, _)| key.span.start);
        let gap = self.text.get(dash + 1..start).unwrap_or_default();
        let is_gap = !gap.is_empty() && gap.bytes().all(|it| it == b' ');
        let gap = if is_gap { gap } else { " " };
        if first.is_none() {
            let line = format!("{indent}-{gap}{}", style.between_braces(grant));
            return Some(vec![self.line_below(value.span.end, &line, &[])]);
        }
        let below = format!("{indent} {gap}");
        let mut lines = style.entries(grant).into_iter();
        let line = format!("{indent}-{gap}{}", lines.next()?);
        let more: Vec<String> = lines.map(|line| format!("{below}{line}")).collect();
        Some(vec![self.line_below(value.span.end, &line, &more)])
    }

    /// Behind the last of some entries between brackets, of which the last begins at `close`.
    fn with_flow(
        &self,
        open: usize,
        close: usize,
        entries: &[Node],
        new: &str,
        blank: &str,
    ) -> Vec<Edit> {
        let Some(last) = entries.last() else {
            return vec![(open..open, new.to_owned())];
        };
        let comma = self.comma(last.span.end);
        let end = comma.unwrap_or(last.span.end);
        let mut edits = Vec::new();
        if comma.is_none() {
            edits.push((end..end, ",".to_owned()));
        }
        let trailing = if comma.is_some() { "," } else { "" };
        match self.indentation(last.span.start) {
            // Each has a line of its own, and so has the bracket.
            Some(indent) if self.is_last_on_line(end) && self.line_end(end) < close => {
                let feed = self.line_feed(end);
                let at = self.line_end(end);
                edits.push((at..at, format!("{feed}{indent}{new}{trailing}")));
            }
            _ => {
                edits.push((end..end, format!("{blank}{new}{trailing}")));
            }
        }
        edits
    }

    /// An end that is another.
    fn moved(&self, item: &Node, grant: &Grant) -> Option<Vec<Edit>> {
        let (_, until) = item.entry("until")?;
        let mut edits = Vec::new();
        if until.text()? != grant.until {
            let new = written(grant.until, self.quote(until));
            edits.push((until.span.clone(), new));
        }
        if !grant.passthrough {
            return Some(edits);
        }
        let style = self.style(item, Some(item));
        match (item.entry("passthrough"), &item.content) {
            (Some((_, known)), _) => {
                let scalar = known.scalar()?;
                match scalar.kind() {
                    Kind::Bool(true) => {}
                    _ if scalar.text.is_empty() && scalar.plain => {
                        edits.push((known.span.end..known.span.end, " true".to_owned()));
                    }
                    _ => edits.push((known.span.clone(), "true".to_owned())),
                }
            }
            (None, Content::Mapping(Begin::Flow(open), entries)) => {
                let pairs = entries.iter().map(|(key, value)| Node {
                    span: key.span.start..value.span.end,
                    content: Content::Other,
                });
                let pairs: Vec<Node> = pairs.collect();
                let new = style.pair("passthrough", "true");
                let close = item.span.end.checked_sub(1)?;
                edits.extend(self.with_flow(*open, close, &pairs, &new, style.blank));
            }
            (None, Content::Mapping(Begin::Block, entries)) => {
                let (key, _) = entries.first()?;
                let before = self
                    .text
                    .get(self.line_start(key.span.start)..key.span.start)?;
                let indent = " ".repeat(before.chars().count());
                let line = format!("{indent}{}", style.pair("passthrough", "true"));
                edits.push(self.line_below(item.span.end, &line, &[]));
            }
            _ => return None,
        }
        Some(edits)
    }

    // A grant less.

    /// The dash before an item of a list.
    fn dash(&self, key: &Node, items: &[Node], index: usize) -> Option<usize> {
        let at = if let Some(before) = index.checked_sub(1) {
            next_token(self.text, items.get(before)?.span.end)
        } else {
            let colon = next_token(self.text, key.span.end);
            let rest = self.text.get(colon..)?.strip_prefix(':')?;
            past_properties(self.text, self.text.len() - rest.len())
        };
        self.text.get(at..)?.starts_with('-').then_some(at)
    }

    fn without_lines(&self, key: &Node, items: &[Node], index: usize) -> Option<Edit> {
        let dash = self.dash(key, items, index)?;
        self.indentation(dash)?;
        let end = items.get(index)?.span.end;
        self.is_last_on_line(end)
            .then(|| self.without_line(dash, end))
    }

    /// The lines from one to the other, with what ends them.
    fn without_line(&self, from: usize, to: usize) -> Edit {
        let (start, next) = (self.line_start(from), self.next_line(to));
        if next > self.line_end(to) {
            return (start..next, String::new());
        }
        // The last has no end: nor will the one before it.
        let before = start.checked_sub(1).map_or(0, |at| {
            let text = self.text.get(..at).unwrap_or_default();
            text.strip_suffix('\r').unwrap_or(text).len()
        });
        (before..next, String::new())
    }

    /// What a closing bracket needs where nothing is left before it: on a line of its own it has to
    /// stand further in than the key, to which an entry is the only exception.
    fn bracket_alone(&self, key: &Node, open: usize, close: usize) -> Option<Edit> {
        let stands = self.indentation(close)?.len();
        let least = self.indentation(key.span.start)?.len() + 1;
        let in_block = matches!(self.begin, Begin::Block);
        let own = in_block && self.line_start(close) > open && stands < least;
        own.then(|| (close..close, " ".repeat(least + 1 - stands)))
    }

    fn without_flow(&self, open: usize, items: &[Node], meant: &[usize]) -> Option<Vec<Edit>> {
        let mut edits = Vec::new();
        // Behind the last of those that stay a comma stays where one was behind the last of all.
        let stays = (0..items.len()).rev().find(|index| !meant.contains(index));
        let trailing = items.last().and_then(|last| self.comma(last.span.end));
        if let Some(stays) = stays
            && stays + 1 < items.len()
            && trailing.is_none()
        {
            let comma = self.comma(items.get(stays)?.span.end)?;
            edits.push((comma - 1..comma, String::new()));
        }
        for index in meant {
            let item = items.get(*index)?;
            let (start, end) = (item.span.start, item.span.end);
            let after = self.comma(end).unwrap_or(end);
            let own = self.indentation(start).is_some() && self.is_last_on_line(after);
            if own && self.line_end(after) < self.text.len() {
                edits.push(self.without_line(start, after));
                continue;
            }
            let rest = self.text.get(after..)?;
            let blanks = rest.len() - rest.trim_start_matches(' ').len();
            let is_first = index.checked_sub(1).and_then(|it| items.get(it)).is_none();
            let before = self.text.get(..start)?.trim_end_matches(' ').len();
            if *index + 1 < items.len() {
                // What follows takes its place, with the blank before that.
                edits.push((start..after + blanks, String::new()));
            } else if is_first {
                edits.push((start.max(open)..after, String::new()));
            } else {
                edits.push((before..after, String::new()));
            }
        }
        Some(merged(edits))
    }
}

/// Where two take away the same it is taken away once.
fn merged(mut edits: Vec<Edit>) -> Vec<Edit> {
    put_in_order(&mut edits);
    let mut all: Vec<Edit> = Vec::with_capacity(edits.len());
    for (range, new) in edits {
        match all.last_mut() {
            Some((last, _)) if range.start < last.end => last.end = last.end.max(range.end),
            _ => all.push((range, new)),
        }
    }
    all
}

/// How a grant is written.
#[derive(Clone, Copy, Debug)]
struct Style<'a> {
    /// The quotes of keys, of the host, and of its end.
    key: &'static str,
    host: &'static str,
    until: &'static str,
    /// Behind a colon and a comma.
    blank: &'static str,
    /// Inside of braces.
    inner: &'a str,
}

impl Default for Style<'_> {
    fn default() -> Self {
        Self {
            key: "",
            host: "",
            until: "",
            blank: " ",
            inner: "",
        }
    }
}

impl Style<'_> {
    const JSON: Self = Self {
        key: "\"",
        host: "\"",
        until: "\"",
        blank: " ",
        inner: "",
    };
    const MINIFIED: Self = Self {
        blank: "",
        ..Self::JSON
    };

    fn key(&self, key: &str) -> String {
        format!("{quote}{key}{quote}", quote = self.key)
    }

    fn pair(&self, key: &str, value: &str) -> String {
        format!("{}:{}{value}", self.key(key), self.blank)
    }

    fn entries(&self, grant: &Grant) -> Vec<String> {
        let mut entries = vec![
            self.pair("host", &written(grant.host, self.host)),
            self.pair("until", &written(grant.until, self.until)),
        ];
        if grant.passthrough {
            entries.push(self.pair("passthrough", "true"));
        }
        entries
    }

    fn between_braces(&self, grant: &Grant) -> String {
        let entries = self.entries(grant).join(&format!(",{}", self.blank));
        format!("{{{inner}{entries}{inner}}}", inner = self.inner)
    }
}

/// A value between these quotes, or between quotes where it needs them. None of those has a
/// character that would have to be escaped.
fn written(value: &str, quote: &str) -> String {
    let scalar = Scalar {
        text: value.into(),
        plain: true,
        at: Position::default(),
    };
    let begins = value
        .bytes()
        .next()
        .is_some_and(|it| it.is_ascii_alphanumeric());
    let ends = !value.ends_with(':') && !value.contains("::");
    let needs = scalar.kind() != Kind::Text || !begins || !ends;
    let quote = if quote.is_empty() && needs {
        "\""
    } else {
        quote
    };
    format!("{quote}{value}{quote}")
}

/// The events of a document but for the grants and their key.
struct Others<'a> {
    events: Events<'a>,
    /// How many collections are open.
    depth: usize,
    is_key: bool,
    /// The anchors that were passed, as they are numbered without those of the grants.
    anchors: HashMap<usize, usize>,
}

impl<'a> Others<'a> {
    fn of(text: &'a str) -> Self {
        Self {
            events: Events::of(text),
            depth: 0,
            is_key: false,
            anchors: HashMap::new(),
        }
    }

    fn number(&mut self, anchor: usize) -> usize {
        let next = self.anchors.len() + 1;
        match anchor {
            0 => 0,
            anchor => *self.anchors.entry(anchor).or_insert(next),
        }
    }

    /// Passes over a node.
    fn skip(&mut self) -> Option<()> {
        let mut open = 0_usize;
        loop {
            match self.events.next()?.ok()?.0 {
                Event::SequenceStart(..) | Event::MappingStart(..) => open += 1,
                Event::SequenceEnd | Event::MappingEnd => open = open.checked_sub(1)?,
                _ => {}
            }
            if open == 0 {
                return Some(());
            }
        }
    }
}

impl<'a> Iterator for Others<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            let (event, _) = self.events.next()?.ok()?;
            let is_at_top = self.depth == 1;
            let event = match event {
                Event::Scalar(text, ..) if is_at_top && self.is_key && text == KEY => {
                    self.skip()?;
                    continue;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    Event::Scalar(text, style, self.number(anchor), tag)
                }
                Event::SequenceStart(anchor, tag) => {
                    self.depth += 1;
                    return Some(Event::SequenceStart(self.number(anchor), tag));
                }
                Event::MappingStart(anchor, tag) => {
                    self.depth += 1;
                    self.is_key = self.is_key || self.depth == 1;
                    return Some(Event::MappingStart(self.number(anchor), tag));
                }
                // One of a grant's is another than one that is not there.
                Event::Alias(UNKNOWN) => event,
                Event::Alias(anchor) => {
                    Event::Alias(self.anchors.get(&anchor).copied().unwrap_or(usize::MAX))
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    self.depth = self.depth.saturating_sub(1);
                    event
                }
                event => return Some(event),
            };
            // A node of the top level ended: a key, or its value.
            if self.depth == 1 {
                self.is_key = !self.is_key;
            }
            return Some(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-25T12:00:00Z
    const NOON: u64 = 1_795_608_000;
    const UNTIL: &str = "2026-11-25T18:00:00Z";
    const LATER: &str = "2026-11-26T18:00:00Z";

    #[test]
    fn a_last_value_whose_line_feed_would_be_a_part_of_it_stays_as_it_is() {
        let line = format!("grants:\n  - {{host: b.example, until: {UNTIL}}}\n");
        for scalar in ["|", "|+", ">"] {
            let last = format!("bottle:\n  note: {scalar}\n    text");
            let text = format!("slug: a\n{last}");
            let after = grant(&text, "b.example", UNTIL).unwrap();
            assert_eq!(after, format!("slug: a\n{line}{last}"));
            let revoked = with(&after, "b.example", Change::Revoke).unwrap();
            assert_eq!(revoked, format!("slug: a\ngrants:\n{last}"));
            // With its end it may have what follows.
            let text = format!("{text}\n");
            let after = grant(&text, "b.example", UNTIL).unwrap();
            assert_eq!(after, format!("{text}{line}"));
        }
        let text = "slug: a\nbottle: {}\ngrants:\n- host: a.example\n  until: |\n    x";
        assert_eq!(grant(text, "b.example", UNTIL), None);
    }

    #[test]
    fn comments_between_the_first_line_and_the_last_of_an_entry_go_with_it() {
        let text = format!(
            "slug: a\nbottle: {{}}\ngrants:\n  # before\n  - host: b.example # why\n    # inside\n    until: {UNTIL} # then\n  # behind\n"
        );
        let revoked = with(&text, "b.example", Change::Revoke).unwrap();
        assert_eq!(
            revoked,
            "slug: a\nbottle: {}\ngrants:\n  # before\n  # behind\n"
        );
    }

    fn grant(text: &str, host: &str, until: &str) -> Option<String> {
        let change = Change::Grant(Grant {
            host,
            until,
            passthrough: false,
        });
        with(text, host, change)
    }

    fn revoke(text: &str, host: &str) -> Option<String> {
        with(text, host, Change::Revoke)
    }

    fn with(text: &str, host: &str, change: Change) -> Option<String> {
        let after = edited(text.as_bytes(), change, &|it| it == host)?;
        Some(String::from_utf8(after).unwrap())
    }

    #[test]
    fn a_grant_is_written_as_the_list_is_and_taken_out_again() {
        let flow = "{host: n.example, until: 2026-11-25T18:00:00Z}";
        let json = "{\"host\": \"n.example\", \"until\": \"2026-11-25T18:00:00Z\"}";
        for (before, wanted) in [
            // None yet.
            ("slug: a\ngrants:\n", format!("slug: a\ngrants:\n  - {flow}\n")),
            ("grants: # c\nslug: a", format!("grants: # c\n  - {flow}\nslug: a")),
            ("slug: a\ngrants:", format!("slug: a\ngrants:\n  - {flow}")),
            ("slug: a\r\ngrants:\r\n", format!("slug: a\r\ngrants:\r\n  - {flow}\r\n")),
            ("grants: [] # c\nslug: a\n", format!("grants: [{flow}] # c\nslug: a\n")),
            ("grants: [ ]\n", format!("grants: [{flow} ]\n")),
            ("{\"slug\": \"a\", \"grants\": []}", format!("{{\"slug\": \"a\", \"grants\": [{json}]}}")),
            // Lines.
            (
                "grants:\n  - {host: a, until: x} # c\n  # d\nslug: a\n",
                format!("grants:\n  - {{host: a, until: x}} # c\n  - {flow}\n  # d\nslug: a\n"),
            ),
            (
                "grants:\n- host: a # b\n  until: x # c\n\n# d\n",
                "grants:\n- host: a # b\n  until: x # c\n- host: n.example\n  until: 2026-11-25T18:00:00Z\n\n# d\n".to_owned(),
            ),
            (
                "grants:\n  -   \"host\": 'a'\n      until: \"x\"",
                "grants:\n  -   \"host\": 'a'\n      until: \"x\"\n  -   \"host\": 'n.example'\n      \"until\": \"2026-11-25T18:00:00Z\"".to_owned(),
            ),
            (
                "grants: &g\n  - &a { host: a, until: x }\nslug: a\n",
                format!("grants: &g\n  - &a {{ host: a, until: x }}\n  - {{ {} }}\nslug: a\n", &flow[1..flow.len() - 1]),
            ),
            // Brackets.
            ("grants: [{host: a, until: x}] # c\n", format!("grants: [{{host: a, until: x}}, {flow}] # c\n")),
            ("grants: [{host: a, until: x},]\n", format!("grants: [{{host: a, until: x}}, {flow},]\n")),
            (
                "grants: [\n  {host: a, until: x} # c\n]\n",
                format!("grants: [\n  {{host: a, until: x}}, # c\n  {flow}\n]\n"),
            ),
            (
                "grants: [\n  {host: a, until: x}, # c\n  # d\n]\n",
                format!("grants: [\n  {{host: a, until: x}}, # c\n  {flow},\n  # d\n]\n"),
            ),
            (
                "{\"grants\":[{\"host\":\"a\",\"until\":\"x\"}],\"slug\":\"a\"}",
                format!("{{\"grants\":[{{\"host\":\"a\",\"until\":\"x\"}},{}],\"slug\":\"a\"}}", json.replace(": ", ":").replace(", ", ",")),
            ),
        ] {
            let after = grant(before, "n.example", UNTIL);
            assert_eq!(after.as_deref(), Some(&*wanted), "{before}");
            assert_eq!(revoke(&wanted, "n.example").as_deref(), Some(before), "{wanted}");
        }
    }

    #[test]
    fn where_no_list_is_there_one_is_made_and_stays() {
        let flow = "{host: n.example, until: 2026-11-25T18:00:00Z}";
        let json = "{\"host\": \"n.example\", \"until\": \"2026-11-25T18:00:00Z\"}";
        let tight = json.replace(": ", ":").replace(", ", ",");
        for (before, wanted, left) in [
            (
                "slug: a\n",
                format!("slug: a\ngrants:\n  - {flow}\n"),
                "slug: a\ngrants:\n",
            ),
            (
                "slug: a # b\n\n# c",
                format!("slug: a # b\n\n# c\ngrants:\n  - {flow}"),
                "slug: a # b\n\n# c\ngrants:",
            ),
            (
                "---\r\n  slug: a\r\n... # end\r\n",
                format!("---\r\n  slug: a\r\n  grants:\r\n    - {flow}\r\n... # end\r\n"),
                "---\r\n  slug: a\r\n  grants:\r\n... # end\r\n",
            ),
            (
                "grants: ~ # c\n",
                format!("grants: [{flow}] # c\n"),
                "grants: [] # c\n",
            ),
            (
                "{slug: a}",
                format!("{{slug: a, grants: [{flow}]}}"),
                "{slug: a, grants: []}",
            ),
            (
                "{\"slug\":\"a\"}\n",
                format!("{{\"slug\":\"a\",\"grants\":[{tight}]}}\n"),
                "{\"slug\":\"a\",\"grants\":[]}\n",
            ),
            (
                "{\n  \"slug\": \"a\",\n  \"bottle\": {}\n}\n",
                format!(
                    "{{\n  \"slug\": \"a\",\n  \"bottle\": {{}},\n  \"grants\": [{json}]\n}}\n"
                ),
                "{\n  \"slug\": \"a\",\n  \"bottle\": {},\n  \"grants\": []\n}\n",
            ),
        ] {
            let after = grant(before, "n.example", UNTIL);
            assert_eq!(after.as_deref(), Some(&*wanted), "{before}");
            assert_eq!(
                revoke(&wanted, "n.example").as_deref(),
                Some(left),
                "{wanted}"
            );
        }
    }

    #[test]
    fn an_end_is_moved_where_it_stands() {
        for (before, wanted) in [
            (
                "grants:\n- host: a # c\n  until: 2026-11-25T18:00:00Z # d\n",
                "grants:\n- host: a # c\n  until: 2026-11-26T18:00:00Z # d\n",
            ),
            (
                "grants: [ {until: '2026-11-25T18:00:00Z', host: \"a\"} ]",
                "grants: [ {until: '2026-11-26T18:00:00Z', host: \"a\"} ]",
            ),
            (
                "{\"grants\":[{\"host\":\"a\",\"until\":\"x\"}]}",
                "{\"grants\":[{\"host\":\"a\",\"until\":\"2026-11-26T18:00:00Z\"}]}",
            ),
        ] {
            assert_eq!(grant(before, "a", LATER).as_deref(), Some(wanted));
        }
        let through = |text: &str| {
            let change = Change::Grant(Grant {
                host: "a",
                until: UNTIL,
                passthrough: true,
            });
            with(text, "a", change).unwrap()
        };
        for (before, wanted) in [
            (
                "grants:\n  - host: a\n    until: x # d\n    # e\n",
                "grants:\n  - host: a\n    until: 2026-11-25T18:00:00Z # d\n    passthrough: true\n    # e\n",
            ),
            (
                "grants:\n- {host: a, until: x, passthrough: false}\n",
                "grants:\n- {host: a, until: 2026-11-25T18:00:00Z, passthrough: true}\n",
            ),
            (
                "grants: [{host: a, until: x}]\n",
                "grants: [{host: a, until: 2026-11-25T18:00:00Z, passthrough: true}]\n",
            ),
            (
                "grants: []\n",
                "grants: [{host: a, until: 2026-11-25T18:00:00Z, passthrough: true}]\n",
            ),
        ] {
            assert_eq!(through(before), wanted);
            assert_eq!(through(wanted), wanted, "a second time changes nothing");
        }
    }

    #[test]
    fn what_is_not_understood_is_not_edited() {
        for text in [
            "",
            "~",
            "[a]",
            "grants: 1\n",
            "grants: {}\n",
            "grants: *a\n",
            "a: ]\n",
            "grants: []\ngrants: []\n",
            "a: 1\n---\nb: 1\n",
            // The end would be one more line of the text.
            "grants:\n- host: a\n  until: [x]\n",
        ] {
            assert_eq!(grant(text, "a", UNTIL), None, "{text:?}");
        }
        for (text, host) in [
            ("grants: []\n", "a"),
            ("slug: a\n", "a"),
            ("grants:\n- {host: a}\n", "b"),
        ] {
            assert_eq!(
                revoke(text, host).as_deref(),
                Some(text),
                "there is nothing to be taken out"
            );
        }
        assert_eq!(edited(b"\xff", Change::Revoke, &|_| true), None);
    }

    #[test]
    fn the_last_of_a_list_in_brackets_leaves_one_that_is_read() {
        let entry = "{host: a, until: 2026-11-27T00:00:00Z}";
        for (text, wanted) in [
            (format!("grants: [\n  {entry}\n]\n"), "grants: [\n  ]\n"),
            (
                format!("grants: [\n  {entry},\n  # c\n]\nslug: a\n"),
                "grants: [\n  # c\n  ]\nslug: a\n",
            ),
            (format!("  grants: [{entry}\n  ]\n"), "  grants: [\n    ]\n"),
            (format!("grants: [\n  {entry}\n  ]\n"), "grants: [\n  ]\n"),
            (
                format!("{{\"grants\": [\n{entry}\n]}}\n"),
                "{\"grants\": [\n]}\n",
            ),
        ] {
            assert_eq!(revoke(&text, "a").as_deref(), Some(wanted), "{text}");
            assert!(grant(wanted, "a", UNTIL).is_some(), "{wanted}");
        }
    }

    #[test]
    fn an_anchor_in_a_grant_that_goes_changes_no_other() {
        let text = "grants:\n- &x {host: a, until: x}\nbottle: {git: [&y 1, *y]}\n";
        let wanted = "grants:\nbottle: {git: [&y 1, *y]}\n";
        assert_eq!(revoke(text, "a").as_deref(), Some(wanted));
        let needed = "grants:\n- &x {host: a, until: x}\nbottle: {git: [*x]}\n";
        assert_eq!(revoke(needed, "a"), None, "something else is it");
    }

    #[test]
    fn hosts_are_quoted_where_yaml_needs_it() {
        for (host, wanted) in [
            ("a.example", "a.example"),
            ("*.example", "\"*.example\""),
            ("192.0.2.1", "192.0.2.1"),
            ("1.5", "\"1.5\""),
            ("true", "\"true\""),
            ("fd00::1", "\"fd00::1\""),
            ("_a.example", "\"_a.example\""),
        ] {
            let wanted = format!("grants: [{{host: {wanted}, until: {UNTIL}}}]\n");
            assert_eq!(grant("grants: []\n", host, UNTIL), Some(wanted));
        }
    }

    /// Writes manifests as people do.
    struct Pen(u64);

    /// What it wrote, and how.
    #[derive(Debug, Default)]
    struct Written {
        text: String,
        json: bool,
        /// Whether `grants` is there, with brackets or with nothing behind it.
        is_there: bool,
        hosts: Vec<String>,
    }

    impl Pen {
        fn below(&mut self, most: usize) -> usize {
            // xorshift64*
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
            usize::try_from(number).unwrap() % most
        }

        fn sometimes(&mut self) -> bool {
            self.below(3) == 0
        }

        fn one(&mut self, of: &[&str]) -> String {
            of[self.below(of.len())].to_owned()
        }

        fn comment(&mut self) -> String {
            self.one(&["", "", "", " # why", "  # \u{fc}ber, - {host: x}", " #"])
        }

        fn line_of_comment(&mut self, indent: &str) -> String {
            match self.below(5) {
                0 => "\n".to_owned(),
                1 => format!("{indent}# a line: [of, {{it}}]\n"),
                _ => String::new(),
            }
        }

        fn quoted(&mut self, text: &str) -> String {
            match self.below(4) {
                0 => format!("'{text}'"),
                1 => format!("\"{text}\""),
                _ if text.starts_with('*') => format!("\"{text}\""),
                _ => text.to_owned(),
            }
        }

        fn hosts(&mut self) -> Vec<String> {
            let count = self.below(4);
            (0..count).map(|it| format!("h{it}.example")).collect()
        }

        fn entries(&mut self, host: &str) -> Vec<(String, String)> {
            let until = self.one(&["2026-11-25T18:00:00Z", "2026-11-25T18:00:00+01:00"]);
            let mut entries = vec![
                ("host".to_owned(), self.quoted(host)),
                ("until".to_owned(), self.quoted(&until)),
            ];
            if self.sometimes() {
                entries.push(("passthrough".to_owned(), self.one(&["true", "false"])));
            }
            if self.sometimes() {
                entries.reverse();
            }
            entries
        }

        fn braces(&mut self, host: &str) -> String {
            let inner = self.one(&["", "", " "]);
            let entries = self.entries(host).into_iter();
            let entries: Vec<String> = entries.map(|(key, it)| format!("{key}: {it}")).collect();
            let comma = self.one(&["", "", ","]);
            format!("{{{inner}{}{comma}{inner}}}", entries.join(", "))
        }

        fn in_lines(&mut self, hosts: &[String]) -> String {
            let indent = self.one(&["", "  ", "    "]);
            let mut text = String::new();
            for host in hosts {
                text += &self.line_of_comment(&indent);
                let gap = self.one(&[" ", " ", "   "]);
                let anchor = self.one(&["", "", "&here "]);
                if self.sometimes() {
                    let (braces, comment) = (self.braces(host), self.comment());
                    text += &format!("{indent}-{gap}{anchor}{braces}{comment}\n");
                    continue;
                }
                let mut before = format!("{indent}-{gap}");
                let below = " ".repeat(before.len());
                for (key, value) in self.entries(host) {
                    let comment = self.comment();
                    text += &format!("{before}{key}: {value}{comment}\n");
                    before.clone_from(&below);
                }
            }
            text += &self.line_of_comment(&indent);
            text
        }

        fn in_brackets(&mut self, hosts: &[String]) -> String {
            let all: Vec<String> = hosts.iter().map(|host| self.braces(host)).collect();
            if self.sometimes() {
                let inner = self.one(&["", " "]);
                let comma = if all.is_empty() {
                    String::new()
                } else {
                    self.one(&["", ","])
                };
                return format!("[{inner}{}{comma}{inner}]", all.join(", "));
            }
            let mut text = "[\n".to_owned();
            let count = all.len();
            for (index, item) in all.into_iter().enumerate() {
                let comma = if index + 1 < count {
                    ",".to_owned()
                } else {
                    self.one(&["", ","])
                };
                let comment = self.comment();
                text += &self.line_of_comment("    ");
                text += &format!("    {item}{comma}{comment}\n");
            }
            text += &self.line_of_comment("  ");
            text + "  ]"
        }

        fn grants(&mut self, written: &mut Written) -> String {
            written.hosts = self.hosts();
            written.is_there = true;
            let comment = self.comment();
            match self.below(6) {
                0 => {
                    written.hosts.clear();
                    written.is_there = false;
                    self.one(&["", "", "grants: ~\n", "grants: null # none\n"])
                }
                1 => {
                    written.hosts.clear();
                    format!("grants:{comment}\n{}", self.line_of_comment("  "))
                }
                2 | 3 => format!(
                    "grants: {}{comment}\n",
                    self.in_brackets(&written.hosts.clone())
                ),
                _ => {
                    let anchor = self.one(&["", "", " &all"]);
                    let lines = self.in_lines(&written.hosts.clone());
                    format!("grants:{anchor}{comment}\n{lines}")
                }
            }
        }

        fn yaml(&mut self) -> Written {
            let mut written = Written::default();
            let mut sections = vec![
                self.one(&["version: 1\n", "version: 1 # the first\n", ""]),
                self.one(&["slug: dev\n", "slug: \"dev\"   # whose\n", "slug: &s dev\n"]),
                self.one(&[
                    "bottle: {}\n",
                    "bottle:\n  egress:\n    routes:\n      - host: r.example # why\n      # or\n      - {host: \"*.s.example\"}\n",
                    "bottle:\n  egress: {routes: [{host: r.example}, {Host: s.example}]}\n  git: [&g 1, *g]\n",
                    "bottle:\n    note: |\n      grants:\n        - {host: x}\n\n    egress:\n        routes:\n        - host: r.example\n",
                    "bottle:\n  note: >-\n    folded\n    # text\n\n",
                ]),
                self.one(&["", "pipelock: {listen: \"127.0.0.1:8888\"}\n", "pipelock:\n  requests_per_minute: 600\n"]),
                self.one(&["", "supervisor:\n  grace_seconds: 2 # short\n"]),
            ];
            let grants = self.grants(&mut written);
            let at = self.below(sections.len() + 1);
            sections.insert(at, grants);
            for section in sections.iter_mut().skip(1) {
                *section = self.line_of_comment("") + section;
            }
            let begin = self.one(&[
                "",
                "",
                "# manifest\n",
                "---\n",
                "--- # of mine\n",
                "%YAML 1.2\n---\n",
            ]);
            let end = self.one(&["", "", "# the end\n", "...\n", "\n\n", "... # over\n"]);
            written.text = format!("{begin}{}{end}", sections.concat());
            if self.sometimes() {
                written.text = written.text.trim_end_matches('\n').to_owned();
            }
            written
        }

        fn json(&mut self) -> Written {
            let mut written = Written {
                json: true,
                is_there: self.below(4) > 0,
                ..Written::default()
            };
            let mut all = serde_json::json!({"version": 1, "slug": "dev", "bottle": {"egress": {"routes": [{"host": "r.example"}]}}});
            if written.is_there {
                written.hosts = self.hosts();
                let grants = written
                    .hosts
                    .iter()
                    .map(|host| serde_json::json!({"host": host, "until": UNTIL}));
                all["grants"] = grants.collect();
            }
            written.text = match self.below(3) {
                0 => all.to_string(),
                1 => serde_json::to_string_pretty(&all).unwrap() + "\n",
                _ => serde_json::to_string_pretty(&all)
                    .unwrap()
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
            };
            written
        }

        fn manifest(&mut self) -> Written {
            let mut written = if self.sometimes() {
                self.json()
            } else {
                self.yaml()
            };
            if self.sometimes() {
                written.text = written.text.replace('\n', "\r\n");
            }
            if self.sometimes() {
                written.text.insert(0, '\u{feff}');
            }
            written
        }
    }

    /// How many lines of each are between those with which both begin and end.
    fn differ(one: &str, other: &str) -> (usize, usize) {
        let (mut one, mut other): (Vec<_>, Vec<_>) =
            (one.split('\n').collect(), other.split('\n').collect());
        while !one.is_empty() && one.first() == other.first() {
            one.remove(0);
            other.remove(0);
        }
        while !one.is_empty() && one.last() == other.last() {
            one.pop();
            other.pop();
        }
        (one.len(), other.len())
    }

    fn is_within(small: &str, large: &str) -> bool {
        let mut large = large.chars();
        small.chars().all(|it| large.any(|other| other == it))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn manifests_as_people_write_them_stay_as_they_are_but_for_what_is_meant(seed in 1..u64::MAX) {
            let written = Pen(seed).manifest();
            let Written { text: before, .. } = &written;
            prop_assert!(Page::read(decode(before.as_bytes()).unwrap()).is_some(), "{before}");
            let stays_json = |text: &str| {
                let text = text.trim_start_matches('\u{feff}');
                !written.json || serde_json::from_str::<serde_json::Value>(text).is_ok()
            };

            let after = grant(before, "new.example", UNTIL);
            let after = after.ok_or_else(|| TestCaseError::fail(before.clone()))?;
            // The line of the list, or of the entry that got a comma.
            prop_assert!(differ(before, &after).0 <= 1, "{before}\n=>\n{after}");
            if written.is_there {
                prop_assert!(is_within(before, &after), "{before}\n=>\n{after}");
            }
            prop_assert!(stays_json(&after), "{after}");
            let policy = |text: &str| {
                let judged = crate::policy::read(text.as_bytes(), false, NOON);
                judged.map(|it| it.policy).map_err(|it| TestCaseError::fail(it.in_words(text)))
            };
            let (judged, policy) = (policy(&after)?, policy(before)?);
            let (mut grants, mut allowlist) = (judged.grants, judged.allowlist);
            prop_assert!(grants.iter().any(|it| it.host == "new.example" && it.in_force));
            grants.retain(|it| it.host != "new.example");
            allowlist.retain(|it| it != "new.example");
            prop_assert_eq!((grants, allowlist), (policy.grants, policy.allowlist));
            prop_assert_eq!((judged.slug, judged.passthrough), (policy.slug, policy.passthrough));
            let again = grant(&after, "new.example", UNTIL);
            prop_assert_eq!(again.as_ref(), Some(&after));

            let back = revoke(&after, "new.example").ok_or_else(|| TestCaseError::fail(after.clone()))?;
            if written.is_there {
                prop_assert_eq!(&back, before);
            } else {
                prop_assert!(differ(before, &back).0 <= 1, "{before}\n=>\n{back}");
                let once_more = grant(&back, "new.example", UNTIL).unwrap();
                prop_assert_eq!(revoke(&once_more, "new.example"), Some(back));
            }

            for host in &written.hosts {
                let moved = grant(before, host, LATER).ok_or_else(|| TestCaseError::fail(before.clone()))?;
                prop_assert_eq!(differ(before, &moved), (1, 1), "{}\n=>\n{}", before, moved);
                let gone = revoke(before, host).ok_or_else(|| TestCaseError::fail(before.clone()))?;
                // Nothing comes to be there, but a line that lost its comma or its neighbour.
                let new = gone.split('\n').filter(|line| !before.split('\n').any(|it| it == *line));
                prop_assert!(new.count() <= 1, "{before}\n=>\n{gone}");
                prop_assert!(is_within(&gone, before), "{before}\n=>\n{gone}");
                prop_assert!(!gone.contains(host.as_str()), "{gone}");
                prop_assert!(stays_json(&gone), "{gone}");
                let others = written.hosts.iter().filter(|other| *other != host);
                for other in others {
                    prop_assert!(gone.contains(other.as_str()), "{gone}");
                }
            }
            // All of them, one after the other.
            let mut rest = before.clone();
            for host in &written.hosts {
                rest = revoke(&rest, host).ok_or_else(|| TestCaseError::fail(rest.clone()))?;
            }
            prop_assert!(grant(&rest, "new.example", UNTIL).is_some(), "{rest}");
        }
    }
}
