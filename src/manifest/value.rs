//! A key's value: what the schema may ask for, and what is said where something else stands.

use super::problem::{MAX_REPORTED, Position, Rejection, quoted};
use super::reader::{Node, Reader};
use super::scalar::{Kind, Scalar};
use super::section::{Name, Section};
use super::suggest::nearest;
use super::wanted::{Element, Wanted};

/// The most entries that a list of single values may have: `a,` is two bytes of text and
/// sixty of memory, more than [`super::SHARE_OF_MEMORY`] reckons with.
const MAX_LISTED: usize = 4096;

/// And so many mappings, where each is worth more than its few bytes of text.
const MAX_GRANTS: usize = 1024;
/// The most daemons beside pipelock, each with lists of its own.
pub const MAX_DAEMONS: usize = 8;

/// The most variables of one daemon.
const MAX_VARIABLES: usize = 64;

/// The most entries of a list of these.
const fn most(element: Element) -> usize {
    match element {
        Element::Address | Element::Host | Element::Route => MAX_LISTED,
        Element::Grant => MAX_GRANTS,
        Element::Argument => 256,
        Element::Port | Element::File => 64,
        // And pipelock.
        Element::Daemon => MAX_DAEMONS + 1,
    }
}

/// A key, and how its value gets into its field.
pub(super) type Key<T> = (&'static str, fn(&mut T, Value<'_, '_>));

/// What is read from a mapping with known keys.
pub(super) trait Mapping: Default + 'static {
    /// All keys that are known there.
    const KEYS: &'static [Key<Self>];

    /// The names of the keys.
    fn names() -> impl Iterator<Item = &'static str> {
        Self::KEYS.iter().map(|(name, _)| *name)
    }
}

/// What is said by a word, or in more than one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WordOr<T> {
    /// One value; a null is one as well.
    Word(Scalar),
    /// A mapping with known keys, and where it starts.
    Mapping(Position, T),
}

/// The value of a key, not yet read. Whichever way it is read, what is of another shape is
/// reported and passed over, and nothing in its place is as if the key were not there.
pub(super) struct Value<'r, 'a> {
    reader: &'r mut Reader<'a>,
    section: Section,
    key: &'r str,
}

impl<'r, 'a> Value<'r, 'a> {
    pub(super) fn of(reader: &'r mut Reader<'a>, section: Section, key: &'r str) -> Self {
        Self {
            reader,
            section,
            key,
        }
    }

    /// Passes over it.
    pub(super) fn skip(self) {
        self.reader.skip();
    }

    /// One value; a null is one as well.
    pub(super) fn scalar(mut self) -> Option<Scalar> {
        match self.reader.item()? {
            Node::Scalar(scalar) => Some(scalar),
            node => {
                self.refuse(&node, Shape::Value);
                None
            }
        }
    }

    /// As [`Self::scalar`], for a key that is rare among many.
    pub(super) fn boxed_scalar(self) -> Option<Box<Scalar>> {
        self.scalar().map(Box::new)
    }

    /// A section with known keys, if it is there.
    pub(super) fn mapping<T: Mapping>(mut self, section: Section) -> Option<T> {
        self.enter(Shape::Mapping)
            .then(|| self.reader.mapping(section))
    }

    /// A section with known keys.
    pub(super) fn section<T: Mapping>(self, section: Section) -> T {
        self.mapping(section).unwrap_or_default()
    }

    /// One value, or a mapping with known keys that is this section of a daemon.
    pub(super) fn word_or<T: Mapping>(mut self, section: fn(Name) -> Section) -> Option<WordOr<T>> {
        match self.reader.item()? {
            Node::Scalar(scalar) => Some(WordOr::Word(scalar)),
            Node::Mapping(at) => {
                let section = section(self.daemon());
                Some(WordOr::Mapping(at, self.reader.mapping(section)))
            }
            node => {
                self.refuse(&node, Shape::Either);
                None
            }
        }
    }

    /// Any names, each with a section of known keys, in the order of the file.
    pub(super) fn named<T: Mapping>(mut self, section: fn(Name) -> Section) -> Vec<(Scalar, T)> {
        let mut named: Vec<(Scalar, T)> = Vec::new();
        if !self.enter(Shape::Mapping) {
            return named;
        }
        let mut is_told = false;
        while let Some(name) = self.reader.key(Section::Daemons) {
            let field = || Section::Daemons.key(&name.text);
            if &*name.text == "<<" {
                self.reader.unknown_key(Section::Daemons, &name, || None);
            } else if named.iter().any(|(known, _)| known.text == name.text) {
                self.reader.problem(name.at, field, twice);
            } else if named.len() < MAX_DAEMONS {
                let section = section(Name::of(&name.text));
                let value = Value::of(self.reader, Section::Daemons, &name.text);
                let read = value.section(section);
                named.push((name, read));
                continue;
            } else if !is_told {
                is_told = true;
                self.reader.problem(name.at, field, || {
                    Rejection::new(format!(
                        "at most {MAX_DAEMONS} daemons run beside pipelock, and here are more"
                    ))
                });
            }
            self.reader.skip();
        }
        named
    }

    /// The names and values of a daemon's environment, in the order of the file.
    pub(super) fn variables(mut self) -> Vec<(Scalar, Scalar)> {
        let section = Section::Variables(self.daemon());
        let mut variables = Vec::new();
        if !self.enter(Shape::Mapping) {
            return variables;
        }
        let mut index = 0;
        while let Some(name) = self.reader.key(section) {
            if index < MAX_VARIABLES {
                let value = Value::of(self.reader, section, &name.text).scalar();
                variables.extend(value.map(|value| (name, value)));
            } else {
                if index == MAX_VARIABLES {
                    let field = || section.key(&name.text);
                    self.reader.problem(name.at, field, || {
                        Rejection::new(format!(
                            "a daemon may have {MAX_VARIABLES} variables, and here are more"
                        ))
                    });
                }
                self.reader.skip();
            }
            index += 1;
        }
        variables
    }

    /// The name of the daemon whose key this is.
    fn daemon(&self) -> Name {
        match self.section {
            Section::Daemon(name) => name,
            _ => Name::of(""),
        }
    }

    /// A list of mappings with known keys, each with where it starts.
    pub(super) fn mappings<T: Mapping>(
        mut self,
        section: fn(usize) -> Section,
        element: Element,
    ) -> Vec<(Position, T)> {
        let mut mappings = Vec::new();
        if !self.enter(Shape::List(element)) {
            return mappings;
        }
        let most = match element {
            Element::Grant => MAX_GRANTS,
            _ => usize::MAX,
        };
        let mut index = 0;
        while let Some(node) = self.reader.item() {
            let section = section(index);
            match node {
                node if index > most => self.reader.leave(&node),
                node if index == most => {
                    let too_many = |_: &_| too_many(most);
                    self.reader.refuse(&node, || section.path(), None, too_many);
                }
                Node::Mapping(at) => mappings.push((at, self.reader.mapping(section))),
                node => {
                    let wanted = Some(Wanted::Mapping(element));
                    let why = |node: &_| no_mapping(node, element);
                    self.reader.refuse(&node, || section.path(), wanted, why);
                    mappings.push(Default::default());
                }
            }
            index += 1;
        }
        mappings
    }

    /// Any names with one value each, in the order of the file.
    pub(super) fn pairs(mut self, section: Section) -> Vec<(Scalar, Scalar)> {
        let mut pairs = Vec::new();
        if !self.enter(Shape::Mapping) {
            return pairs;
        }
        while let Some(name) = self.reader.key(section) {
            if let Some(value) = Value::of(self.reader, section, &name.text).scalar() {
                pairs.push((name, value));
            }
        }
        pairs
    }

    /// A list of single values, at most so [`most`]; another entry is reported as none.
    pub(super) fn list(self, element: Element) -> Vec<Scalar> {
        self.list_or_none(element).unwrap_or_default()
    }

    /// As [`Self::list`], where an empty one says something else than none.
    pub(super) fn list_or_none(mut self, element: Element) -> Option<Vec<Scalar>> {
        self.enter(Shape::List(element))
            .then(|| self.entries(element))
    }

    /// The rest of the list that was entered.
    fn entries(&mut self, element: Element) -> Vec<Scalar> {
        let mut scalars = Vec::new();
        let most = most(element);
        let wanted = match element {
            Element::Address => "an IP address",
            Element::Host => "a host name",
            Element::Route => "a mapping with a host",
            Element::Grant => "a mapping with a host and a time",
            Element::Argument => "an argument",
            Element::Port => "a port",
            Element::File => "a path",
            Element::Daemon => "a daemon's name",
        };
        let mut index = 0;
        while let Some(node) = self.reader.item() {
            let field = || format!("{}[{index}]", self.section.key(self.key));
            match node {
                Node::Scalar(scalar) if index < most => scalars.push(scalar),
                Node::Scalar(_) if index > most => {}
                node => self
                    .reader
                    .refuse(
                        &node,
                        field,
                        Some(Wanted::Quoted(element)),
                        |node| match node {
                            Node::Scalar(_) => too_many(most),
                            _ => Rejection::new(format!("not {wanted}")),
                        },
                    ),
            }
            index += 1;
        }
        scalars
    }

    /// Whether what is wanted stands here; if so, it is entered.
    fn enter(&mut self, wanted: Shape) -> bool {
        match (self.reader.item(), wanted) {
            (Some(Node::Mapping(_)), Shape::Mapping)
            | (Some(Node::Sequence(_)), Shape::List(_)) => true,
            (Some(node), _) => {
                self.refuse(&node, wanted);
                false
            }
            (None, _) => false,
        }
    }

    /// Reports what stands here instead, unless it is nothing.
    fn refuse(&mut self, node: &Node, wanted: Shape) {
        if !matches!(node, Node::Scalar(scalar) if scalar.kind() == Kind::Null) {
            let field = || self.section.key(self.key);
            let is_host = matches!(self.section, Section::Route(_));
            let text = match wanted {
                Shape::List(element) => Some(Wanted::List(element)),
                Shape::Value => is_host.then_some(Wanted::Quoted(Element::Host)),
                Shape::Mapping | Shape::Either => None,
            };
            self.reader
                .refuse(node, field, text, |node| misplaced(node, wanted));
        }
    }
}

/// Mappings with known keys, as the schema names them.
impl Reader<'_> {
    /// The rest of the mapping that was entered. Unknown and repeated keys are reported and
    /// skipped with their values.
    pub(super) fn mapping<T: Mapping>(&mut self, section: Section) -> T {
        let mut read = T::default();
        let mut seen = 0_u32;
        let mut unknown = Vec::new();
        while let Some(key) = self.key(section) {
            let known = T::KEYS.iter().zip(0_u32..);
            let found = known.into_iter().find(|((name, _), _)| **name == *key.text);
            let Some(((name, into), place)) = found else {
                unknown.push(key);
                // What was meant may still come; more than these are only counted.
                if unknown.len() > MAX_REPORTED {
                    self.unknown_keys::<T>(section, &std::mem::take(&mut unknown), seen);
                }
                self.skip();
                continue;
            };
            let bit = 1 << place;
            if seen & bit != 0 {
                self.problem(key.at, || section.key(name), twice);
                self.skip();
                continue;
            }
            seen |= bit;
            into(&mut read, Value::of(self, section, name));
        }
        self.unknown_keys::<T>(section, &unknown, seen);
        read
    }

    /// Reports keys that are none, each with the nearest that is one. `seen` has a bit for
    /// every one that is there.
    fn unknown_keys<T: Mapping>(&mut self, section: Section, keys: &[Scalar], seen: u32) {
        for key in keys {
            self.unknown_key(section, key, || {
                let near = nearest(&key.text, T::names())?;
                let place = T::names().position(|name| name == near)?;
                Some((near, seen >> place & 1 == 1))
            });
        }
    }

    /// The next key of the mapping that was entered; what is no key is skipped with its value.
    pub(super) fn key(&mut self, section: Section) -> Option<Scalar> {
        loop {
            match self.item()? {
                Node::Scalar(key) => return Some(key),
                node => {
                    let no_key =
                        |_: &_| Rejection::new("a list or mapping stands where a key is wanted");
                    self.refuse(&node, || section.path(), None, no_key);
                    self.skip();
                }
            }
        }
    }

    fn unknown_key(
        &mut self,
        section: Section,
        key: &Scalar,
        near: impl FnOnce() -> Option<(&'static str, bool)>,
    ) {
        let section_with = self.section_with;
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
                unknown(section, &key.text, near(), section_with)
            };
            refusal.at(Some(key.at), field)
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Value,
    Mapping,
    /// A value or a mapping.
    Either,
    List(Element),
}

fn twice() -> Rejection {
    Rejection::new("the key is there twice; each may be written once")
}

fn misplaced(node: &Node, wanted: Shape) -> Rejection {
    let wanted_there = match wanted {
        Shape::Value => "one value",
        Shape::Mapping => "a mapping",
        Shape::Either => "a word or a mapping",
        Shape::List(_) => "a list",
    };
    let stands =
        |what: &str| Rejection::new(format!("{what} stands where {wanted_there} is wanted"));
    match node {
        Node::Scalar(scalar) => stands(&quoted(&scalar.text)),
        Node::Sequence(_) if wanted == Shape::Mapping => {
            stands("a list").hint("write its keys without \"- \" and brackets")
        }
        Node::Sequence(_) => stands("a list"),
        Node::Mapping(_) => match wanted {
            Shape::List(element) => stands("a mapping").hint(match element {
                Element::Route => "write a list: \"- host: NAME\" for each route",
                Element::Grant => "write a list: \"- {host: NAME, until: TIME}\" for each grant",
                Element::Host
                | Element::Address
                | Element::Argument
                | Element::Port
                | Element::File
                | Element::Daemon => "write a list: \"- VALUE\" for each entry",
            }),
            _ => stands("a mapping"),
        },
        // Those say what is wrong themselves.
        Node::Alias(_) | Node::Tagged(..) => stands("something else"),
    }
}

fn too_many(most: usize) -> Rejection {
    Rejection::new(format!("a list may have {most} entries, and here are more"))
}

/// Why an entry of a list of mappings is none.
fn no_mapping(node: &Node, element: Element) -> Rejection {
    let (what, has, write) = match element {
        Element::Grant => (
            "a grant",
            "a mapping with a host and a time",
            "write its host and until, or remove the entry",
        ),
        _ => (
            "a route",
            "a mapping with a host",
            "write \"- host: name.example\", or remove the entry",
        ),
    };
    match node {
        Node::Scalar(scalar) if scalar.kind() == Kind::Null => {
            Rejection::new(format!("an empty entry; {what} is {has}")).hint(write)
        }
        Node::Scalar(scalar) => Rejection::new(format!("{} is not {has}", quoted(&scalar.text))),
        _ => Rejection::new(format!("a list is not {has}")),
    }
}

/// Keys that people write in a route, and what to do about them.
const NO_KEYS_OF_ROUTES: [(&[&str], &str); 2] = [
    (&["port", "ports"], "remove it; every port is allowed"),
    (
        &["scheme", "protocol", "path", "paths", "method", "methods"],
        "remove it; a host is allowed with all that is there",
    ),
];

/// `near`: the nearest known key, and whether that is there already.
fn unknown(
    section: Section,
    key: &str,
    near: Option<(&str, bool)>,
    section_with: fn(&str) -> Option<Section>,
) -> Rejection {
    let refusal = Rejection::new(if section.is_bottle() {
        "not a key that is read here"
    } else {
        "unknown key"
    });
    if let Section::Route(_) = section {
        let mut known = NO_KEYS_OF_ROUTES.iter();
        if let Some((_, hint)) = known.find(|(keys, _)| keys.contains(&key)) {
            return refusal.hint(*hint);
        }
    }
    let elsewhere = || {
        let right = section_with(key)?;
        let belongs = section == Section::Manifest || section.is_bottle() && right.is_bottle();
        belongs.then(|| right.key(key))
    };
    let is_there = near.is_some_and(|(_, is_there)| is_there);
    match near.map(|(near, _)| near.to_owned()).or_else(elsewhere) {
        Some(near) if is_there => {
            refusal.hint(format!("did you mean \"{near}\"? that is there already"))
        }
        Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::section_with;
    use super::super::{Problem, parse};
    use super::*;

    /// Advises what stands there already.
    const ECHO: super::super::Advise = |_, text| Some(format!("{text}?"));

    fn problems(text: &str) -> Vec<String> {
        let shown = |problem: &Problem| problem.display("m").to_string();
        let problems = parse(text.as_bytes(), ECHO).problems.into_sorted();
        problems.iter().map(shown).collect()
    }

    #[test]
    fn what_stands_where_another_shape_is_wanted_is_said_and_nothing_is_no_fault() {
        for (value, where_one, where_mapping, where_list) in [
            (
                "x",
                "",
                "\"x\" stands where a mapping is wanted",
                "\"x\" stands where a list is wanted\nhint: x?",
            ),
            (
                "'~'",
                "",
                "\"~\" stands where a mapping is wanted",
                "\"~\" stands where a list is wanted\nhint: ~?",
            ),
            ("~", "", "", ""),
            ("", "", "", ""),
            (
                "[x]",
                "a list stands where one value is wanted",
                "a list stands where a mapping is wanted\nhint: write its keys without \"- \" and brackets",
                "",
            ),
            (
                "{}",
                "a mapping stands where one value is wanted",
                "",
                "a mapping stands where a list is wanted\nhint: write a list: \"- VALUE\" for each entry",
            ),
        ] {
            for (key, wanted) in [
                ("slug", where_one),
                ("network", where_mapping),
                ("network.hosts", where_mapping),
                ("network.dns", where_list),
                ("pipelock.passthrough", where_list),
            ] {
                let text = match key.split_once('.') {
                    Some((section, key)) => format!("{section}:\n  {key}: {value}\n"),
                    None => format!("\n{key}: {value}\n"),
                };
                let wanted = Some(wanted).filter(|wanted| !wanted.is_empty());
                let wanted: Vec<_> = wanted
                    .map(|w| format!("m:2: {key}: {w}"))
                    .into_iter()
                    .collect();
                assert_eq!(problems(&text), wanted, "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_route_is_told_how_to_write_one() {
        let manifest = |entry: &str| format!("bottle:\n  egress:\n    routes:\n    - {entry}\n");
        let empty = "an empty entry; a route is a mapping with a host\nhint: write \"- host: name.example\", or \
                     remove the entry";
        for (entry, wanted) in [
            ("", empty),
            ("~", empty),
            (
                "a.example",
                "\"a.example\" is not a mapping with a host\nhint: a.example?",
            ),
            ("''", "\"\" is not a mapping with a host\nhint: ?"),
            ("[x]", "a list is not a mapping with a host"),
        ] {
            let wanted = format!("m:4: bottle.egress.routes[0]: {wanted}");
            assert_eq!(problems(&manifest(entry)), [wanted], "{entry:?}");
        }
    }

    #[test]
    fn a_list_has_as_many_entries_as_are_allowed_and_says_once_that_there_are_more() {
        let listed = |count| format!("network: {{dns: [{}]}}", "a,".repeat(count));
        let kept = |count| {
            parse(listed(count).as_bytes(), ECHO)
                .manifest
                .network
                .dns
                .len()
        };
        assert_eq!(problems(&listed(MAX_LISTED)), [""; 0]);
        assert_eq!(kept(MAX_LISTED), MAX_LISTED);
        for more in [1, 2] {
            assert_eq!(
                problems(&listed(MAX_LISTED + more)),
                ["m:1: network.dns[4096]: a list may have 4096 entries, and here are more"]
            );
            assert_eq!(kept(MAX_LISTED + more), MAX_LISTED);
        }
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
            let refusal = unknown(section, key, near.map(|near| (near, false)), section_with);
            assert_eq!(refusal.message, message);
            let hint = hint.map(|hint| format!("did you mean \"{hint}\"?"));
            assert_eq!(refusal.hint, hint, "{section:?} {key}");
        }
        for (section, key, near, hint) in [
            (
                Section::Route(0),
                "hots",
                Some(("host", true)),
                Some("did you mean \"host\"? that is there already"),
            ),
            (
                Section::Route(0),
                "port",
                Some(("host", false)),
                Some("remove it; every port is allowed"),
            ),
            (
                Section::Route(0),
                "path",
                None,
                Some("remove it; a host is allowed with all that is there"),
            ),
            (Section::Egress, "port", None, None),
            (
                Section::Bottle,
                "routes",
                None,
                Some("did you mean \"bottle.egress.routes\"?"),
            ),
            (Section::Bottle, "listen", None, None),
        ] {
            let refusal = unknown(section, key, near, section_with);
            assert_eq!(refusal.hint.as_deref(), hint, "{section:?} {key}");
        }
    }
}
