//! What there is to know that stops nothing, each for as long as it is true. Pure.

use crate::status::schema::MOST_SENTENCES;

/// What may come to its end while the init runs. Told in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum While {
    /// The daemon calls itself another version than the tested one: until another says otherwise.
    Version,
    /// The export is not as it should be: until it is.
    Export,
    /// The export was not mounted in time: until something is mounted there.
    Unmounted,
    /// Nobody is told in an export that was to be there: until there is one.
    NoExport,
    /// The bundle in the export has no public roots: until one is written that has.
    NoRoots,
    /// Directories in the export, and in the run directory, are in the way: until they are gone.
    InTheWay(&'static str),
    /// A file of the run directory could not be written: until it is.
    Unwritten(&'static str),
    /// pipelock's configuration could not be put in its place: until it is.
    Config,
    /// What the certificate of the CA in force costs: until another is.
    Ca,
    /// The CA's time is over or nearly so, or has not begun: until that is another answer.
    Validity,
    /// The CA pair on disk is not in force: until it can be.
    RefusedCa,
    /// What the manifest says of names is not written: until that of a manifest is.
    Names,
    /// The clock is wrong, or nothing tells it the time: until somebody sets it.
    Clock,
    /// What a daemon's sandbox lacks: until one lacks it no more.
    Sandbox,
    /// The sandbox of the daemon of this name could not be read back: until it is.
    ReadBack(String),
    /// The daemon of this name has not what the host gives it now: until it has.
    Credentials(String),
}

/// All warnings.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    /// Of the manifest in force.
    pub(super) manifest: Vec<String>,
    /// How many it has besides, of which the log has none either.
    pub(super) untold: usize,
    passing: Vec<(While, String)>,
    /// What is true to the end: of this start, or because it has happened.
    lasting: Vec<String>,
    /// Those beyond [`MOST_SENTENCES`].
    more: u64,
}

impl Warnings {
    /// What is so now, in place of what was so before; those that are new, and whether there is
    /// any change.
    pub(super) fn set(&mut self, of: &While, now: Vec<String>) -> (Vec<String>, bool) {
        let before = self.passing.iter().filter(|(other, _)| other == of);
        let before: Vec<&String> = before.map(|(_, text)| text).collect();
        if before.iter().copied().eq(&now) {
            return (Vec::new(), false);
        }
        let is_new = |text: &&String| !before.contains(text);
        let new = now.iter().filter(is_new).cloned().collect();
        self.passing.retain(|(other, _)| other != of);
        let at = self.passing.partition_point(|(other, _)| other < of);
        let now = now.into_iter().map(|text| (of.clone(), text));
        self.passing.splice(at..at, now);
        (new, true)
    }

    /// Whether something of this is told.
    pub(super) fn has(&self, of: &While) -> bool {
        self.passing.iter().any(|(other, _)| other == of)
    }

    /// Adds what is true to the end; whether that is new.
    pub(super) fn add(&mut self, warning: String) -> bool {
        if self.lasting.contains(&warning) {
            return false;
        }
        if self.lasting.len() < MOST_SENTENCES {
            self.lasting.push(warning);
        } else {
            self.more += 1;
        }
        true
    }

    /// As they are told: the manifest's first, and how many are not told.
    pub(super) fn all(&self) -> Vec<String> {
        let mut all = self.manifest.clone();
        let more = all.len().saturating_sub(MOST_SENTENCES);
        all.truncate(MOST_SENTENCES);
        let passing = self.passing.iter().map(|(_, text)| text);
        all.extend(passing.chain(&self.lasting).cloned());
        let more = self.more + (more + self.untold) as u64;
        if more > 0 {
            let them = if self.untold > 0 {
                "the first of them"
            } else {
                "them"
            };
            all.push(format!("… and {more} more warnings; the log has {them}"));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_for_as_long_as_it_is_so_and_in_one_order() {
        let mut warnings = Warnings::default();
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        assert!(warnings.add("lasting".to_owned()));
        assert!(!warnings.add("lasting".to_owned()));
        let set = warnings.set(&While::Sandbox, texts(&["a hole", "another"]));
        assert_eq!(set, (texts(&["a hole", "another"]), true));
        let set = warnings.set(&While::Export, texts(&["late"]));
        assert_eq!(set, (texts(&["late"]), true));
        assert_eq!(warnings.all(), ["late", "a hole", "another", "lasting"]);
        let set = warnings.set(&While::Sandbox, texts(&["another", "a third"]));
        assert_eq!(set, (texts(&["a third"]), true));
        let set = warnings.set(&While::Sandbox, texts(&["another", "a third"]));
        assert_eq!(set, (Vec::new(), false));
        assert_eq!(warnings.set(&While::Export, Vec::new()), (Vec::new(), true));
        assert!(!warnings.has(&While::Export) && warnings.has(&While::Sandbox));
        assert_eq!(warnings.all(), ["another", "a third", "lasting"]);
        // One file, or directory, is not the other.
        for name in ["one", "other"] {
            warnings.set(&While::Unwritten(name), texts(&[name]));
        }
        warnings.set(&While::Unwritten("one"), Vec::new());
        assert_eq!(warnings.all()[0], "other");
    }
}
