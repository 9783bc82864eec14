//! What is wanted where something else stands, for whoever knows what a manifest means to say
//! what to write instead: this room knows shapes alone.

/// What a value is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// An IP address.
    Address,
    /// A host.
    Host,
    /// A mapping with a host.
    Route,
    /// A mapping with a host and a time.
    Grant,
    /// An argument of a command line.
    Argument,
    /// A port.
    Port,
    /// A file or directory.
    File,
    /// The name of a daemon.
    Daemon,
}

/// What is wanted where a text stands that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A list of these; the text is one of them, or some between commas or blanks.
    List(Element),
    /// A mapping in a list of them.
    Mapping(Element),
    /// One of these; the text is one that YAML takes for an alias, without quotes.
    Quoted(Element),
}

/// What to write instead of a text, as a hint says it; `None` where that cannot be told.
pub type Advise = fn(Wanted, &str) -> Option<String>;
