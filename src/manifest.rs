//! The manifest's schema: bytes to typed fields, each with its position. Pure.
//!
//! The document is read as a stream of parser events against the schema, and
//! only what the schema names is kept: memory follows the hosts, depth costs
//! nothing, and every problem of shape is found in one pass.

mod problem;

use std::cell::Cell;

use saphyr_parser::{BufferedInput, Event, Marker, Parser, ScalarStyle, ScanError};

pub use problem::{
    MAX_REPORTED, Position, Problem, Problems, Refusal, escaped, join_problems, quoted,
};

/// The largest manifest that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A manifest is judged in up to eighteen times its size of memory: `{}` as a route is
/// three bytes of text. A machine whose PID 1 runs out of memory is lost, so somewhat more
/// than half of what is available is all that may be needed.
const SHARE_OF_MEMORY: u64 = 32;

/// What may be read however little memory is available: some thousand hosts, so that no
/// shortage, which a daemon may bring about, keeps one of them from being revoked.
const ALWAYS_READ: usize = 128 * 1024;

/// How many characters the parser may take in without giving an event. It keeps
/// all tokens of a flow collection that might yet turn out to be a mapping's key,
/// a hundred bytes for each; this bounds them.
const MAX_LOOKAHEAD: usize = 256 * 1024;

/// How deeply a value may be nested. The parser's own limit for brackets; it has
/// none for indentation, and remembers every level.
const MAX_DEPTH: usize = 255;

/// The most entries that a list of single values may have: `a,` is two bytes of text and
/// sixty of memory, more than [`SHARE_OF_MEMORY`] reckons with.
const MAX_LISTED: usize = 4096;

/// The largest manifest that is read, in bytes, where so much memory is available, or
/// where nobody says how much.
#[must_use]
pub fn largest(available: Option<u64>) -> usize {
    let share = available.map_or(u64::MAX, |bytes| bytes / SHARE_OF_MEMORY);
    usize::try_from(share)
        .unwrap_or(MAX_BYTES)
        .clamp(ALWAYS_READ, MAX_BYTES)
}

/// A scalar as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// The text, without quotes and escapes.
    pub text: Box<str>,
    /// Whether it stood there without quotes, so that YAML gives it a type.
    pub plain: bool,
    /// Where it starts.
    pub at: Position,
}

/// The type YAML 1.2's core schema gives a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer; `None` where it does not fit.
    Integer(Option<i64>),
    /// A number with a fraction or an exponent, infinity, not a number.
    Float,
    /// Everything else.
    Text,
}

impl Scalar {
    /// The scalar's type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if !self.plain {
            return Kind::Text;
        }
        match &*self.text {
            "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
            "true" | "True" | "TRUE" => Kind::Bool(true),
            "false" | "False" | "FALSE" => Kind::Bool(false),
            text => number(text),
        }
    }
}

fn number(text: &str) -> Kind {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = digits.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return Kind::Integer(i64::from_str_radix(digits, radix).ok());
        }
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        // Octal in YAML 1.1, decimal in 1.2: ambiguous, so no number here.
        if digits.len() > 1 && digits.starts_with('0') {
            return Kind::Text;
        }
        return Kind::Integer(
            digits
                .parse::<i64>()
                .ok()
                .map(|n| if negative { -n } else { n }),
        );
    }
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Kind::Float;
    }
    if is_decimal(digits) {
        return Kind::Float;
    }
    Kind::Text
}

/// A number with a fraction or an exponent, without its sign. `parse::<f64>` would
/// say the same, and bring 17 KiB of tables to know a value nobody wants.
fn is_decimal(text: &str) -> bool {
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    (!whole.is_empty() || !fraction.is_empty())
        && all_digits(whole)
        && all_digits(fraction)
        && !exponent.is_empty()
        && all_digits(exponent)
}

/// The sections of a manifest, as the places of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The top level.
    Manifest,
    /// `bottle`
    Bottle,
    /// `bottle.egress`
    Egress,
    /// `bottle.egress.routes[N]`, N from 0.
    Route(usize),
    /// `network`
    Network,
    /// `network.hosts`
    Hosts,
    /// `pipelock`
    Pipelock,
    /// `supervisor`
    Supervisor,
}

impl Section {
    /// The section's own path.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::Manifest => String::new(),
            Self::Bottle => "bottle".into(),
            Self::Egress => "bottle.egress".into(),
            Self::Route(n) => format!("bottle.egress.routes[{n}]"),
            Self::Network => "network".into(),
            Self::Hosts => "network.hosts".into(),
            Self::Pipelock => "pipelock".into(),
            Self::Supervisor => "supervisor".into(),
        }
    }

    /// The path of a key in the section.
    #[must_use]
    pub fn key(self, key: &str) -> String {
        match self {
            // The document itself.
            Self::Manifest if key.is_empty() => String::new(),
            Self::Manifest => shown_key(key),
            _ => format!("{}.{}", self.path(), shown_key(key)),
        }
    }

    fn known(self) -> &'static [&'static str] {
        match self {
            Self::Manifest => &[
                "version",
                "slug",
                "bottle",
                "network",
                "pipelock",
                "supervisor",
            ],
            // `git` is the git gate's; the rest of a bottle is unknown here.
            Self::Bottle => &["supervise", "egress", "git"],
            Self::Egress => &["routes"],
            Self::Route(_) => &["host", "Host"],
            Self::Network => &[
                "internal",
                "internal_cidr",
                "egress",
                "hosts",
                "address",
                "gateway",
                "dns",
            ],
            Self::Hosts => &[],
            Self::Pipelock => &[
                "listen",
                "passthrough",
                "scan_limit_mib",
                "requests_per_minute",
                "max_tunnel_seconds",
                "idle_timeout_seconds",
            ],
            Self::Supervisor => &["grace_seconds", "drain_seconds", "probe_seconds"],
        }
    }

    /// Whether the section is written for the host's tool rather than for us.
    fn is_bottle(self) -> bool {
        matches!(self, Self::Bottle | Self::Egress | Self::Route(_))
    }
}

/// A key as part of a path: in quotes if it could be taken for something else.
fn shown_key(key: &str) -> String {
    let usual = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'<');
    if !key.is_empty() && key.bytes().all(usual) {
        escaped(key)
    } else {
        quoted(key)
    }
}

/// A manifest's fields as written; nothing in them has been judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "docs/manifest.md describes every key")]
pub struct Manifest {
    pub version: Option<Scalar>,
    pub slug: Option<Scalar>,
    /// Whether there is a bottle, be it an empty one.
    pub has_bottle: bool,
    pub supervise: Option<Scalar>,
    pub routes: Vec<Route>,
    pub network: Network,
    pub pipelock: Pipelock,
    pub supervisor: Supervisor,
}

/// One entry of `bottle.egress.routes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Where the entry starts.
    pub at: Position,
    /// `host`
    pub host: Option<Scalar>,
    /// `Host`, the bottle's older spelling; boxed, as it is rare.
    pub capital_host: Option<Box<Scalar>>,
}

/// `network`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "docs/manifest.md describes every key")]
pub struct Network {
    pub internal: Option<Scalar>,
    pub internal_cidr: Option<Scalar>,
    pub egress: Option<Scalar>,
    /// Names and addresses in the order of the file.
    pub hosts: Vec<(Scalar, Scalar)>,
    pub address: Option<Scalar>,
    pub gateway: Option<Scalar>,
    pub dns: Vec<Scalar>,
}

/// `pipelock`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "docs/manifest.md describes every key")]
pub struct Pipelock {
    pub listen: Option<Scalar>,
    /// In the order of the file.
    pub passthrough: Vec<Scalar>,
    pub scan_limit_mib: Option<Scalar>,
    pub requests_per_minute: Option<Scalar>,
    pub max_tunnel_seconds: Option<Scalar>,
    pub idle_timeout_seconds: Option<Scalar>,
}

/// `supervisor`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "docs/manifest.md describes every key")]
pub struct Supervisor {
    pub grace_seconds: Option<Scalar>,
    pub drain_seconds: Option<Scalar>,
    pub probe_seconds: Option<Scalar>,
}

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
    // A flow collection at the very start may yet be a key, and the parser would
    // hold all of a JSON manifest in tokens; right after `---` it cannot be one.
    let (prefix, skipped) = match start_of_collection(text) {
        Some(start) => ("--- ", start),
        None => ("", 0),
    };
    let (before, text) = text.split_at_checked(skipped).unwrap_or(("", text));
    let taken = Cell::new(0);
    let source = Source {
        chars: prefix.chars().chain(text.chars()),
        taken: &taken,
    };
    let last_line = before.rsplit('\n').next().unwrap_or_default();
    let mut reader = Reader {
        events: Parser::new_from_iter(source),
        taken: &taken,
        lines_before: small(before.matches('\n').count()),
        columns_before: small(last_line.chars().count()),
        columns_added: small(prefix.len()),
        last: Marker::new(0, 1, 0),
        ended: false,
        reading: Reading::default(),
    };
    reader.document();
    reader.reading.complete = !reader.ended;
    reader.reading
}

/// UTF-8 without control characters, with its byte order mark removed.
fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    if bytes.len() > MAX_BYTES {
        return Err(Refusal::new(format!(
            "{} bytes are more than the {MAX_BYTES} a manifest may have",
            bytes.len()
        ))
        .at(None, String::new()));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let at = |offset: usize| {
        let before = bytes.get(..offset).unwrap_or_default();
        let start = before
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |n| n + 1);
        let line = before.split(|&b| b == b'\n').count();
        let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default())
            .chars()
            .count()
            + 1;
        Some(Position {
            line: small(line),
            column: small(column),
        })
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        let byte = bytes.get(offset).copied().unwrap_or_default();
        let refusal = Refusal::new(format!("byte 0x{byte:02x} at offset {offset} is not UTF-8"));
        match bytes {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => refusal.hint("save the file as UTF-8"),
            _ => refusal,
        }
        .at(at(offset), String::new())
    })?;
    let control = |b: &u8| (*b < b' ' && !matches!(b, b'\t' | b'\n' | b'\r')) || *b == 0x7f;
    if let Some(offset) = bytes.iter().position(control) {
        let byte = bytes.get(offset).copied().unwrap_or_default();
        return Err(Refusal::new(format!(
            "control character 0x{byte:02x} at offset {offset}; only tab, line feed and carriage return are allowed"
        ))
        .at(at(offset), String::new()));
    }
    Ok(text)
}

/// Where the document starts, if that is with a flow collection: JSON, usually.
fn start_of_collection(text: &str) -> Option<usize> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        if !rest.starts_with('#') {
            break;
        }
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    let found = rest.starts_with(['{', '[']);
    found.then(|| text.len() - rest.len())
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The characters of a manifest; ends early when the parser takes too many of
/// them for one event.
struct Source<'a, I> {
    chars: I,
    taken: &'a Cell<usize>,
}

impl<I: Iterator<Item = char>> Iterator for Source<'_, I> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let taken = self.taken.get();
        if taken > MAX_LOOKAHEAD {
            return None;
        }
        self.taken.set(taken + 1);
        self.chars.next()
    }
}

/// A node of the document, entered but not read.
enum Node {
    Scalar(Scalar),
    Sequence(Position),
    Mapping(Position),
    /// An alias or a tagged node, passed over already.
    Refused(Position, Refusal),
}

/// Reads events against the schema. After a syntax error it only sees ends, so
/// that every loop returns.
struct Reader<'a, I: Iterator<Item = char>> {
    events: Parser<'a, BufferedInput<I>>,
    taken: &'a Cell<usize>,
    /// What was passed over before the parser's first line, and put into it.
    lines_before: u32,
    columns_before: u32,
    columns_added: u32,
    /// Where the latest event was.
    last: Marker,
    ended: bool,
    reading: Reading,
}

impl<'a, I: Iterator<Item = char> + 'a> Reader<'a, I> {
    fn document(&mut self) {
        // The stream's start, then a document or the stream's end.
        self.next();
        match self.next() {
            Some((Event::DocumentStart(_), _)) => {}
            Some(_) => {
                self.problem(None, String::new, empty_manifest);
                self.ended = true;
                return;
            }
            None => return,
        }
        if !self.enter_mapping(Section::Manifest, "") {
            if self.reading.problems.is_empty() {
                self.problem(None, String::new, empty_manifest);
            }
            self.ended = true;
            return;
        }
        self.manifest();
        self.next();
        if let Some((Event::DocumentStart(_), at)) = self.next() {
            self.problem(Some(at), String::new, || {
                Refusal::new("a second document starts here; a manifest is one document")
            });
        }
    }

    fn manifest(&mut self) {
        let section = Section::Manifest;
        let mut seen = 0;
        while let Some(key) = self.key(section, &mut seen) {
            match key {
                "version" => self.reading.manifest.version = self.scalar(section, key),
                "slug" => self.reading.manifest.slug = self.scalar(section, key),
                "bottle" => {
                    if self.enter_mapping(section, key) {
                        self.reading.manifest.has_bottle = true;
                        self.bottle();
                    }
                }
                "network" => {
                    if self.enter_mapping(section, key) {
                        self.network();
                    }
                }
                "pipelock" => {
                    if self.enter_mapping(section, key) {
                        self.pipelock();
                    }
                }
                _ => {
                    if self.enter_mapping(section, key) {
                        self.supervisor();
                    }
                }
            }
        }
    }

    fn bottle(&mut self) {
        let section = Section::Bottle;
        let mut seen = 0;
        while let Some(key) = self.key(section, &mut seen) {
            match key {
                "supervise" => self.reading.manifest.supervise = self.scalar(section, key),
                "egress" => {
                    if self.enter_mapping(section, key) {
                        self.egress();
                    }
                }
                _ => self.skip(),
            }
        }
    }

    fn egress(&mut self) {
        let mut seen = 0;
        while let Some(key) = self.key(Section::Egress, &mut seen) {
            if self.enter_sequence(Section::Egress, key) {
                let mut index = 0;
                while let Some(node) = self.item() {
                    self.route(index, node);
                    index += 1;
                }
            }
        }
    }

    fn route(&mut self, index: usize, node: Node) {
        let section = Section::Route(index);
        // In its place even where it is none: the others are counted by it.
        let place = self.reading.manifest.routes.len();
        self.reading.manifest.routes.push(Route::default());
        let at = match node {
            Node::Mapping(at) => at,
            Node::Refused(at, refusal) => {
                self.problem(Some(at), || section.path(), || refusal);
                return;
            }
            Node::Scalar(scalar) => {
                self.problem(
                    Some(scalar.at),
                    || section.path(),
                    || {
                        let shown = quoted(&scalar.text);
                        let refusal = Refusal::new(format!("{shown} is not a mapping with a host"));
                        match scalar.kind() {
                            Kind::Null => {
                                Refusal::new("an empty entry; a route is a mapping with a host")
                                    .hint("write \"- host: name.example\", or remove the entry")
                            }
                            _ => {
                                refusal.hint(format!("write \"- host: {}\"", escaped(&scalar.text)))
                            }
                        }
                    },
                );
                return;
            }
            Node::Sequence(at) => {
                self.problem(
                    Some(at),
                    || section.path(),
                    || Refusal::new("a list is not a mapping with a host"),
                );
                self.skip_inside();
                return;
            }
        };
        let mut route = Route {
            at,
            ..Route::default()
        };
        let mut seen = 0;
        while let Some(key) = self.key(section, &mut seen) {
            let scalar = self.scalar(section, key);
            match key {
                "host" => route.host = scalar,
                _ => route.capital_host = scalar.map(Box::new),
            }
        }
        if let Some(place) = self.reading.manifest.routes.get_mut(place) {
            *place = route;
        }
    }

    fn network(&mut self) {
        let section = Section::Network;
        let mut seen = 0;
        while let Some(key) = self.key(section, &mut seen) {
            match key {
                "hosts" => {
                    if self.enter_mapping(section, key) {
                        self.hosts();
                    }
                }
                "dns" => self.reading.manifest.network.dns = self.list(section, key, "IP address"),
                _ => {
                    let scalar = self.scalar(section, key);
                    let network = &mut self.reading.manifest.network;
                    match key {
                        "internal" => network.internal = scalar,
                        "internal_cidr" => network.internal_cidr = scalar,
                        "egress" => network.egress = scalar,
                        "address" => network.address = scalar,
                        _ => network.gateway = scalar,
                    }
                }
            }
        }
    }

    fn hosts(&mut self) {
        loop {
            match self.item() {
                Some(Node::Scalar(name)) => {
                    if let Some(address) = self.scalar(Section::Hosts, &name.text) {
                        self.reading.manifest.network.hosts.push((name, address));
                    }
                }
                Some(node) => {
                    self.refuse_key(Section::Hosts, node);
                    self.skip();
                }
                None => return,
            }
        }
    }

    /// The scalars of the list that is the value of `key`, at most [`MAX_LISTED`]; an entry
    /// that is no `wanted` is reported.
    fn list(&mut self, section: Section, key: &str, wanted: &str) -> Vec<Scalar> {
        let mut scalars = Vec::new();
        if !self.enter_sequence(section, key) {
            return scalars;
        }
        let mut index = 0;
        while let Some(node) = self.item() {
            let field = || format!("{}[{index}]", section.key(key));
            match node {
                Node::Scalar(scalar) if index < MAX_LISTED => scalars.push(scalar),
                Node::Scalar(scalar) if index == MAX_LISTED => {
                    self.problem(Some(scalar.at), field, || {
                        Refusal::new(format!(
                            "a list may have {MAX_LISTED} entries, and here are more"
                        ))
                    });
                }
                Node::Scalar(_) => {}
                Node::Refused(at, refusal) => self.problem(Some(at), field, || refusal),
                Node::Sequence(at) | Node::Mapping(at) => {
                    let article = if wanted.starts_with('I') { "an" } else { "a" };
                    self.problem(Some(at), field, || {
                        Refusal::new(format!("not {article} {wanted}"))
                    });
                    self.skip_inside();
                }
            }
            index += 1;
        }
        scalars
    }

    fn pipelock(&mut self) {
        let section = Section::Pipelock;
        let mut seen = 0;
        while let Some(key) = self.key(section, &mut seen) {
            if key == "passthrough" {
                let hosts = self.list(section, key, "host name");
                self.reading.manifest.pipelock.passthrough = hosts;
                continue;
            }
            let scalar = self.scalar(section, key);
            let pipelock = &mut self.reading.manifest.pipelock;
            match key {
                "listen" => pipelock.listen = scalar,
                "scan_limit_mib" => pipelock.scan_limit_mib = scalar,
                "requests_per_minute" => pipelock.requests_per_minute = scalar,
                "max_tunnel_seconds" => pipelock.max_tunnel_seconds = scalar,
                _ => pipelock.idle_timeout_seconds = scalar,
            }
        }
    }

    fn supervisor(&mut self) {
        let section = Section::Supervisor;
        let mut seen = 0;
        while let Some(key) = self.key(section, &mut seen) {
            let scalar = self.scalar(section, key);
            let supervisor = &mut self.reading.manifest.supervisor;
            match key {
                "grace_seconds" => supervisor.grace_seconds = scalar,
                "drain_seconds" => supervisor.drain_seconds = scalar,
                _ => supervisor.probe_seconds = scalar,
            }
        }
    }

    /// The next known key of the mapping that was entered; `None` at its end.
    /// Unknown and repeated keys are reported and skipped with their values.
    fn key(&mut self, section: Section, seen: &mut u32) -> Option<&'static str> {
        loop {
            let scalar = match self.item()? {
                Node::Scalar(scalar) => scalar,
                node => {
                    self.refuse_key(section, node);
                    self.skip();
                    continue;
                }
            };
            let known = section.known();
            let Some(index) = known.iter().position(|key| **key == *scalar.text) else {
                self.unknown_key(section, &scalar);
                self.skip();
                continue;
            };
            let bit = 1 << index;
            if *seen & bit != 0 {
                self.problem(
                    Some(scalar.at),
                    || section.key(&scalar.text),
                    || Refusal::new("the key is there twice; each may be written once"),
                );
                self.skip();
                continue;
            }
            *seen |= bit;
            return known.get(index).copied();
        }
    }

    fn refuse_key(&mut self, section: Section, node: Node) {
        match node {
            Node::Sequence(at) | Node::Mapping(at) => {
                self.problem(
                    Some(at),
                    || section.path(),
                    || Refusal::new("a list or mapping stands where a key is wanted"),
                );
                self.skip_inside();
            }
            Node::Refused(at, refusal) => {
                self.problem(Some(at), || section.path(), || refusal);
            }
            Node::Scalar(_) => {}
        }
    }

    fn unknown_key(&mut self, section: Section, key: &Scalar) {
        let problem = || {
            let refusal = if &*key.text == "<<" {
                Refusal::new("merge keys are not read").hint("write the keys out")
            } else {
                let refusal = Refusal::new(if section.is_bottle() {
                    "not a key that is read here"
                } else {
                    "unknown key"
                });
                let near = nearest(&key.text, section.known());
                let elsewhere = || section_of(&key.text).filter(|_| section == Section::Manifest);
                match near {
                    Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
                    None => match elsewhere() {
                        Some(path) => refusal.hint(format!("did you mean \"{path}\"?")),
                        None => refusal,
                    },
                }
            };
            let field = match (section, &*key.text) {
                (Section::Manifest, "") => quoted(""),
                (_, text) => section.key(text),
            };
            refusal.at(Some(key.at), field)
        };
        // A merge key could bring a host in: never to be passed over.
        if section.is_bottle() && &*key.text != "<<" {
            self.reading.foreign.add(problem);
        } else {
            self.reading.problems.add(problem);
        }
    }

    /// The value of `key`, which must be a scalar.
    fn scalar(&mut self, section: Section, key: &str) -> Option<Scalar> {
        match self.item()? {
            Node::Scalar(scalar) => Some(scalar),
            Node::Refused(at, refusal) => {
                self.problem(Some(at), || section.key(key), || refusal);
                None
            }
            Node::Sequence(at) => {
                self.wrong_shape(at, section, key, "a list stands where one value is wanted");
                None
            }
            Node::Mapping(at) => {
                self.wrong_shape(
                    at,
                    section,
                    key,
                    "a mapping stands where one value is wanted",
                );
                None
            }
        }
    }

    /// Enters the mapping that is the value of `key`; false for nothing, and for
    /// anything else, which is reported.
    fn enter_mapping(&mut self, section: Section, key: &str) -> bool {
        match self.item() {
            Some(Node::Mapping(_)) => return true,
            Some(Node::Sequence(at)) => {
                self.wrong_shape(at, section, key, "a list stands where a mapping is wanted");
            }
            Some(Node::Scalar(scalar)) if scalar.kind() != Kind::Null => {
                self.problem(
                    Some(scalar.at),
                    || section.key(key),
                    || {
                        Refusal::new(format!(
                            "{} stands where a mapping is wanted",
                            quoted(&scalar.text)
                        ))
                    },
                );
            }
            Some(Node::Refused(at, refusal)) => {
                self.problem(Some(at), || section.key(key), || refusal);
            }
            Some(Node::Scalar(_)) | None => {}
        }
        false
    }

    /// As [`Self::enter_mapping`], for a list.
    fn enter_sequence(&mut self, section: Section, key: &str) -> bool {
        match self.item() {
            Some(Node::Sequence(_)) => return true,
            Some(Node::Mapping(at)) => {
                self.wrong_shape(at, section, key, "a mapping stands where a list is wanted");
            }
            Some(Node::Scalar(scalar)) if scalar.kind() != Kind::Null => {
                self.problem(
                    Some(scalar.at),
                    || section.key(key),
                    || {
                        Refusal::new(format!(
                            "{} stands where a list is wanted",
                            quoted(&scalar.text)
                        ))
                        .hint(format!("write [{}]", escaped(&scalar.text)))
                    },
                );
            }
            Some(Node::Refused(at, refusal)) => {
                self.problem(Some(at), || section.key(key), || refusal);
            }
            Some(Node::Scalar(_)) | None => {}
        }
        false
    }

    fn wrong_shape(&mut self, at: Position, section: Section, key: &str, message: &str) {
        self.problem(Some(at), || section.key(key), || Refusal::new(message));
        self.skip_inside();
    }

    /// The next node; `None` at the end of the collection that was entered.
    fn item(&mut self) -> Option<Node> {
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
                let refusal = Refusal::new("aliases (*name) are not read");
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
        let refusal = Refusal::new(format!("the tag {} is not read", quoted(&tag)));
        Some(Node::Refused(
            at,
            refusal.hint("remove it; a quoted value is text"),
        ))
    }

    /// Passes over the next node, whatever it is.
    fn skip(&mut self) {
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
                        self.problem(Some(at), String::new, too_deep);
                        self.ended = true;
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
        if self.ended {
            return None;
        }
        let event = self.events.next_event();
        // Past the limit the parser saw an end that is not there: no event counts.
        let too_long = self.taken.replace(0) > MAX_LOOKAHEAD;
        let (at, refusal) = match event {
            Some(_) if too_long => (self.last, too_long_for_one_event()),
            Some(Ok((event, span))) => {
                self.last = span.start;
                return Some((event, self.position(span.start)));
            }
            Some(Err(error)) => (*error.marker(), syntax(&error)),
            None => {
                self.ended = true;
                return None;
            }
        };
        self.ended = true;
        let at = self.position(at);
        self.problem(Some(at), String::new, || refusal);
        None
    }

    fn position(&self, at: Marker) -> Position {
        let mut column = small(at.col() + 1);
        if at.line() == 1 {
            column = (column + self.columns_before)
                .saturating_sub(self.columns_added)
                .max(1);
        }
        Position {
            line: small(at.line()).saturating_add(self.lines_before),
            column,
        }
    }

    fn problem(
        &mut self,
        at: Option<Position>,
        field: impl FnOnce() -> String,
        refusal: impl FnOnce() -> Refusal,
    ) {
        self.reading.problems.add(|| refusal().at(at, field()));
    }
}

fn empty_manifest() -> Refusal {
    Refusal::new("the manifest is empty").hint("slug and bottle are required")
}

fn too_long_for_one_event() -> Refusal {
    Refusal::new(format!(
        "a value, comment or list entry after this is longer than {MAX_LOOKAHEAD} characters"
    ))
}

fn syntax(error: &ScanError) -> Refusal {
    match error.info() {
        "recursion limit exceeded" => too_deep(),
        info => Refusal::new(format!("not YAML: {}", escaped(info))),
    }
}

fn too_deep() -> Refusal {
    Refusal::new(format!("nested deeper than {MAX_DEPTH} levels"))
}

/// The known key nearest to a mistyped one, if it is near at all.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    // Longer ones are near to nothing, and distance costs the product of lengths.
    if key.len() > 40 {
        return None;
    }
    let folded = key.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| (distance(&folded, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Where a key of another section belongs.
fn section_of(key: &str) -> Option<String> {
    [
        Section::Bottle,
        Section::Egress,
        Section::Network,
        Section::Pipelock,
        Section::Supervisor,
    ]
    .into_iter()
    .find(|section| section.known().contains(&key))
    .map(|section| section.key(key))
}

/// Levenshtein's distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            *cell = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            left = *cell;
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{ALWAYS_READ, MAX_BYTES, is_decimal, largest};

    #[test]
    fn reads_as_much_as_the_memory_can_bear() {
        // Eighteen times that is 36 of 64 MiB.
        assert_eq!(largest(Some(64 << 20)), 2 << 20);
        assert_eq!(largest(Some(0)), ALWAYS_READ);
        assert_eq!(largest(Some(u64::MAX)), MAX_BYTES);
        assert_eq!(largest(None), MAX_BYTES);
    }

    #[test]
    fn takes_for_a_decimal_number_what_the_standard_library_does() {
        let mut texts = vec![String::new()];
        let mut decimal = 0;
        for _ in 0..6 {
            texts = texts
                .iter()
                .flat_map(|text| "07.eE+-x".chars().map(move |c| format!("{text}{c}")))
                .collect();
            for text in texts.iter().filter(|text| !text.starts_with(['+', '-'])) {
                assert_eq!(is_decimal(text), text.parse::<f64>().is_ok(), "{text:?}");
                decimal += usize::from(is_decimal(text));
            }
        }
        assert!(decimal > 1000, "{decimal}");
        assert!(!is_decimal(""));
    }
}
