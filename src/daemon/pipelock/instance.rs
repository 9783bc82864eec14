//! What one running pipelock was given, and what its words about that mean. Pure.

use std::collections::VecDeque;

use super::events::Event;
use super::leaves::Leaves;
use super::said::Said;

/// Configurations it was given that it may still announce: a reload is over within seconds,
/// so these are more than it can be late.
const MOST_GIVEN: usize = 64;

/// One pipelock, from its start to its end.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The hash of the configuration that was in place when it started.
    started_with: String,
    /// The hashes of those it was given since.
    given: VecDeque<String>,
    /// Its configuration with nothing allowed. Not the wanted configuration's: a reload that
    /// changes anything but hosts is refused, and nothing would drain.
    deny_all: String,
    deny_all_sha256: String,
    /// The certificates it keeps.
    pub leaves: Leaves,
}

/// What a word of its means to whoever supervises it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It runs on the configuration of this SHA-256.
    RunsOn(String),
    /// It is about to listen, with the configuration it was started with.
    Announced,
    /// It took over the configuration that is wanted.
    Reloaded,
    /// It took over the one that denies everything.
    DeniesAll,
    /// It kept its configuration; why.
    Refused(Said),
    /// It runs on what nobody gave it, in a sentence.
    Unfit(String),
}

impl Instance {
    /// One that starts with the configuration of this hash.
    #[must_use]
    pub fn new(started_with: String, deny_all: String, deny_all_sha256: String) -> Self {
        Self {
            started_with,
            given: VecDeque::new(),
            deny_all,
            deny_all_sha256,
            leaves: Leaves::default(),
        }
    }

    /// It was given the configuration of this hash.
    pub fn give(&mut self, sha256: &str) {
        self.given.push_back(sha256.to_owned());
        if self.given.len() > MOST_GIVEN {
            self.given.pop_front();
        }
    }

    /// The configuration that drains it.
    #[must_use]
    pub fn deny_all(&self) -> &str {
        &self.deny_all
    }

    /// Whether this is the hash of the configuration that drains it.
    #[must_use]
    pub fn drains_on(&self, sha256: Option<&str>) -> bool {
        sha256 == Some(&self.deny_all_sha256)
    }

    fn was_given(&self, sha256: &str) -> bool {
        sha256 == self.started_with
            || sha256 == self.deny_all_sha256
            || self.given.iter().any(|given| given == sha256)
    }

    /// What it means that it says so, where the configuration of the hash `wanted` is wanted
    /// and stands in `file`.
    #[must_use]
    pub fn hear(&self, event: Event, wanted: &str, file: &str) -> Vec<Fact> {
        match event {
            Event::Startup { config_hash } if config_hash == self.started_with => {
                vec![Fact::RunsOn(config_hash), Fact::Announced]
            }
            Event::Startup { config_hash } => vec![Fact::Unfit(format!(
                "pipelock runs on another configuration: it reports the SHA-256 {config_hash}, the file written has {}",
                self.started_with
            ))],
            Event::Reloaded { config_hash } if !self.was_given(&config_hash) => {
                vec![Fact::Unfit(format!(
                    "pipelock runs on a configuration that it was not given: it reports the SHA-256 {config_hash}; \
                     somebody else changed {file}"
                ))]
            }
            Event::Reloaded { config_hash } => {
                let mut facts = Vec::new();
                // Both, for a bottle that allows nothing anyway.
                if config_hash == wanted {
                    facts.push(Fact::Reloaded);
                }
                if config_hash == self.deny_all_sha256 {
                    facts.push(Fact::DeniesAll);
                }
                facts.push(Fact::RunsOn(config_hash));
                facts
            }
            Event::ReloadRefused(why) => vec![Fact::Refused(why)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reloaded(hash: &str) -> Event {
        Event::Reloaded {
            config_hash: hash.to_owned(),
        }
    }

    fn instance() -> Instance {
        Instance::new("first".to_owned(), "nothing".to_owned(), "none".to_owned())
    }

    #[test]
    fn is_announced_only_with_what_it_was_started_with() {
        let started = |hash: &str| Event::Startup {
            config_hash: hash.to_owned(),
        };
        let runs_on = Fact::RunsOn("first".to_owned());
        assert_eq!(
            instance().hear(started("first"), "first", "f"),
            [runs_on, Fact::Announced]
        );
        for other in ["none", "wanted"] {
            let facts = instance().hear(started(other), "wanted", "f");
            assert!(matches!(facts.as_slice(), [Fact::Unfit(_)]), "{facts:?}");
        }
    }

    #[test]
    fn tells_a_reload_from_a_drain_and_from_what_nobody_gave_it() {
        let mut instance = instance();
        let facts = instance.hear(reloaded("second"), "second", "a file");
        let [Fact::Unfit(why)] = facts.as_slice() else {
            panic!("{facts:?}");
        };
        assert!(why.ends_with("somebody else changed a file"), "{why}");
        instance.give("second");
        let second = Fact::RunsOn("second".to_owned());
        assert_eq!(
            instance.hear(reloaded("second"), "second", "f"),
            [Fact::Reloaded, second.clone()]
        );
        // Late: another is wanted by now.
        assert_eq!(instance.hear(reloaded("second"), "third", "f"), [second]);
        let none = Fact::RunsOn("none".to_owned());
        assert_eq!(
            instance.hear(reloaded("none"), "second", "f"),
            [Fact::DeniesAll, none.clone()]
        );
        assert_eq!(
            instance.hear(reloaded("none"), "none", "f"),
            [Fact::Reloaded, Fact::DeniesAll, none]
        );
    }

    #[test]
    fn forgets_what_it_can_announce_no_more() {
        let mut instance = instance();
        for number in 0..=MOST_GIVEN {
            instance.give(&number.to_string());
        }
        let unfit = |hash: &str| {
            let facts = instance.hear(reloaded(hash), "wanted", "f");
            matches!(facts.as_slice(), [Fact::Unfit(_)])
        };
        assert!(unfit("0"));
        assert!(!unfit("1"));
    }
}
