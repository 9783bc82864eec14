//! The allowlists that people have elsewhere, as a manifest: text in, text out. Pure.
//!
//! Each format has a file, which finds what is allowed and denied there, each with its line.
//! [`plan`] makes routes of that, [`write`] a manifest. Nothing becomes wider without a word:
//! what a manifest cannot say is a comment where it would stand.
#![forbid(unsafe_code)]

mod found;
mod host;
mod list;
mod opensandbox;
mod openshell;
mod pipelock;
mod place;
mod plan;
mod said;
mod settings;
mod smolvm;
mod squid;
mod tree;
mod workflow;
mod write;

use std::error::Error;
use std::fmt;

use serde_yaml::Value;

use crate::manifest::{MAX_BYTES, escaped};
use crate::policy;

use found::Found;
use plan::Plan;

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// pipelock's own configuration.
    Pipelock,
    /// A host or URL a line, or a YAML or JSON list of them.
    List,
    /// Squid's `acl` and `http_access` lines.
    Squid,
    /// Claude Code's `settings.json`.
    ClaudeCode,
    /// The settings of Anthropic's sandbox-runtime.
    SandboxRuntime,
    /// NVIDIA OpenShell's policies.
    OpenShell,
    /// OpenSandbox's egress rules.
    OpenSandbox,
    /// A workflow of GitHub's with StepSecurity's harden-runner.
    HardenRunner,
    /// smolvm's flags, or a Smolfile.
    Smolvm,
}

impl Kind {
    /// All there are, in the order in which they are looked for.
    pub const ALL: [Self; 9] = [
        Self::Pipelock,
        Self::OpenShell,
        Self::OpenSandbox,
        Self::ClaudeCode,
        Self::SandboxRuntime,
        Self::HardenRunner,
        Self::Squid,
        Self::Smolvm,
        Self::List,
    ];

    /// Its name as an option's value, what it is, and what it is known by.
    const fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Pipelock => ("pipelock", "a pipelock configuration", "api_allowlist"),
            Self::List => ("list", "a list", "a host or URL a line"),
            Self::Squid => ("squid", "a configuration of Squid", "acl NAME dstdomain …"),
            Self::ClaudeCode => (
                "claude-code",
                "settings of Claude Code",
                "sandbox.network, WebFetch(domain:…)",
            ),
            Self::SandboxRuntime => (
                "sandbox-runtime",
                "settings of sandbox-runtime",
                "network.allowedDomains",
            ),
            Self::OpenShell => ("openshell", "a policy of OpenShell", "network_policies"),
            Self::OpenSandbox => (
                "opensandbox",
                "egress rules of OpenSandbox",
                "egress with action and target",
            ),
            Self::HardenRunner => (
                "harden-runner",
                "a workflow with harden-runner",
                "allowed-endpoints",
            ),
            Self::Smolvm => (
                "smolvm",
                "flags or a Smolfile of smolvm",
                "--allow-host, allow_hosts",
            ),
        }
    }

    /// Its name as an option's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What it is.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.row().1
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether a document is one of these.
    fn is(self, tree: &Value) -> bool {
        match self {
            Self::Pipelock => pipelock::is(tree),
            Self::OpenShell => openshell::is(tree),
            Self::OpenSandbox => opensandbox::is(tree),
            Self::ClaudeCode => settings::is_claude_code(tree),
            Self::SandboxRuntime => settings::is_sandbox_runtime(tree),
            Self::HardenRunner => workflow::is(tree),
            Self::List => tree.is_sequence(),
            Self::Squid | Self::Smolvm => false,
        }
    }

    /// Whether it is a document of YAML or JSON alone.
    fn is_document(self) -> bool {
        !matches!(self, Self::List | Self::Squid | Self::Smolvm)
    }

    /// Its keys that deny by their names and that are read, or are of no hosts; of sections too.
    fn denials(self) -> &'static str {
        match self {
            Self::Pipelock => {
                "fetch_proxy.monitoring.blocklist \
                fetch_proxy.monitoring.subdomain_entropy_exclusions explain_blocks \
                git_protection.blocked_commands logging.include_blocked \
                adaptive_enforcement.levels.*.block_all"
            }
            Self::OpenShell => {
                "network_policies.*.endpoints.deny_rules filesystem_policy landlock process"
            }
            Self::ClaudeCode => {
                "sandbox.network.deniedDomains sandbox.excludedCommands sandbox.filesystem \
                permissions.deny disallowedTools deniedMcpServers blockedMarketplaces"
            }
            Self::SandboxRuntime => "network.deniedDomains excludedCommands filesystem",
            Self::HardenRunner => "on jobs.*.strategy",
            _ => "",
        }
    }

    fn read(self, tree: &Value, text: &str) -> Found {
        match self {
            Self::Pipelock => pipelock::read(tree, text),
            Self::OpenShell => openshell::read(tree, text),
            Self::OpenSandbox => opensandbox::read(tree, text),
            Self::ClaudeCode => settings::read_claude_code(tree, text),
            Self::SandboxRuntime => settings::read_sandbox_runtime(tree, text),
            Self::HardenRunner => workflow::read(tree, text),
            Self::List if tree.is_sequence() => list::read_tree(tree, text),
            Self::List => list::read(text),
            Self::Squid => squid::read(text),
            Self::Smolvm => smolvm::read(text),
        }
    }
}

/// A file to import.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name in messages and comments.
    pub name: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// What became of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The manifest; it passes [`policy::read`].
    pub manifest: String,
    /// How many hosts it allows.
    pub allowed: usize,
    /// How many times its comments say that something was not carried over.
    pub left: usize,
}

/// Why there is no manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// A file in which nothing is known, or that cannot be read as what it is.
    Unknown(String),
    /// The name that was asked for is none.
    Slug(String),
    /// A manifest that was made and would be refused: a defect.
    Defect(String),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(why) | Self::Slug(why) => f.write_str(why),
            Self::Defect(why) => write!(f, "internal error: the manifest is invalid: {why}"),
        }
    }
}

impl Error for ImportError {}

/// The manifest for an agent of this name that allows what the files allow, in their order.
pub fn import(sources: &[Source], from: Option<Kind>, slug: &str) -> Result<Imported, ImportError> {
    let slug = policy::slug(slug).map_err(|refusal| {
        let hint = refusal.hint.map(|hint| format!("\nhint: {hint}"));
        ImportError::Slug(refusal.message + &hint.unwrap_or_default())
    })?;
    let mut found = Vec::with_capacity(sources.len());
    for source in sources {
        found.push(read(source, from)?);
    }
    let several = sources.len() > 1;
    let mut plan = Plan::default();
    let stops = sources.iter().zip(&found).find_map(|(source, (_, found))| {
        let why = found.stops.as_ref().filter(|_| several)?;
        Some(format!("{why} ({})", escaped(source.name)))
    });
    if let Some(why) = &stops {
        plan.heading(format!("nothing is carried over, because {why}"));
    }
    let rules = |(kind, found): &(Kind, Found)| *kind == Kind::Squid && !found.has_no_rules;
    let has_rules = found.iter().any(rules);
    for (source, (kind, mut found)) in sources.iter().zip(found) {
        if has_rules && found.has_no_rules {
            let why =
                "no http_access line of its own file allows it, and another file has such lines";
            found.refuse(Some(why.to_owned()));
        }
        found.refuse(stops.clone());
        let file = several.then(|| escaped(source.name));
        plan.heading(format!(
            "Imported from {} ({}).",
            kind.title(),
            escaped(source.name)
        ));
        plan.add(found, file);
    }
    let plan = plan.finish();
    let manifest = write::manifest(&slug, &plan);
    if manifest.len() > MAX_BYTES {
        return Err(ImportError::Unknown(format!(
            "the manifest would have {} bytes, more than the {MAX_BYTES} that are read",
            manifest.len()
        )));
    }
    match policy::read(manifest.as_bytes(), true, 0) {
        Ok(judgement) => Ok(Imported {
            allowed: judgement.policy.allowlist.len(),
            left: plan.left,
            manifest,
        }),
        Err(refused) => Err(ImportError::Defect(refused.in_words("manifest"))),
    }
}

/// What kind of file it is, if one that is read.
#[must_use]
pub fn known(source: &Source) -> Option<Kind> {
    let (kind, _) = read(source, None).ok()?;
    // A word is as much of a host as it is of anything.
    (kind != Kind::List || source.bytes.contains(&b'.')).then_some(kind)
}

/// What is found in a file, and what kind of file it is.
fn read(source: &Source, from: Option<Kind>) -> Result<(Kind, Found), ImportError> {
    let name = escaped(source.name);
    let unknown = |why: &str| ImportError::Unknown(format!("{name}: {why}"));
    let bytes = source.bytes;
    if bytes.len() > MAX_BYTES {
        return Err(unknown(&format!("more than {MAX_BYTES} bytes")));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes)
        .map_err(|_| unknown("it is not UTF-8\nhint: save the file as UTF-8"))?;
    let tree = tree::parse(text);
    let kind = match (from, &tree) {
        (Some(kind), _) => Some(kind),
        (None, Ok(tree)) if tree.is_mapping() || tree.is_sequence() => {
            Kind::ALL.into_iter().find(|kind| kind.is(tree))
        }
        (None, Err(why)) if tree::is_meant(text) => return Err(unknown(why)),
        (None, _) if squid::is(text) => Some(Kind::Squid),
        (None, _) if smolvm::is(text) => Some(Kind::Smolvm),
        (None, _) => Some(Kind::List),
    };
    let is_manifest = matches!(&tree, Ok(tree) if tree::get(tree, &["bottle"]).is_some());
    let (why, hint) = match (text.trim(), is_manifest) {
        ("", _) => (": it is empty", ""),
        (_, true) => (
            ": it is a manifest already",
            "sidecar-init check judges it, and more hosts go below its bottle.egress.routes; ",
        ),
        (_, false) => ("", ""),
    };
    let nothing = || {
        unknown(&format!(
            "nothing in it is an allowlist that is known{why}\nhint: {hint}looked for {}; --from says which it is",
            looked_for()
        ))
    };
    let kind = kind.ok_or_else(nothing)?;
    let tree = match tree {
        Ok(tree) => tree,
        Err(why) if kind.is_document() => return Err(unknown(&why)),
        Err(_) => Value::Null,
    };
    let mut found = kind.read(&tree, text);
    tree::denials(&tree, kind.denials(), text, &mut found);
    // Prose is no list, and neither is one of which most is something else.
    let (hosts, others) = found.hosts();
    let is_one = match kind {
        // Its rules may come to nothing.
        Kind::Squid if squid::has_names(text) => true,
        Kind::List | Kind::Squid | Kind::Smolvm => {
            hosts > 0 && (hosts >= others || from.is_some() || kind != Kind::List)
        }
        kind => kind.is(&tree),
    };
    if !is_one {
        return Err(nothing());
    }
    Ok((kind, found))
}

/// What tells the formats.
fn looked_for() -> String {
    let each = Kind::ALL.map(|kind| {
        let (name, _, known_by) = kind.row();
        format!("{name} ({known_by})")
    });
    each.join(", ")
}

#[cfg(test)]
mod narrowed;
#[cfg(test)]
mod tests;
