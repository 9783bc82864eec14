//! What a file says, before anything is made of it.

use crate::manifest::quoted;

use super::host::{self, Stars};
use super::place::Place;
pub(super) use super::said::Said;

/// What is in one file, in its order.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// About the file as a whole.
    pub(super) head: Vec<Said>,
    pub(super) routes: Vec<Item>,
    /// Networks that are reached although they are private.
    pub(super) networks: Vec<Entry>,
    pub(super) passthrough: Vec<Entry>,
    /// Keys of `pipelock` with their values.
    pub(super) tuning: Vec<(&'static str, u64, Option<usize>)>,
    /// Whether the first rule that fits decides; otherwise a denial does, wherever it stands.
    pub(super) first_decides: bool,
    /// What denies something that no name can be told of.
    pub(super) unread: Vec<String>,
    /// Why nothing is allowed of any file that is imported with this one.
    pub(super) stops: Option<String>,
    /// Whether it has lists, and another file may have what is made of them.
    pub(super) has_no_rules: bool,
    /// Whether the model's host is scanned there.
    pub(super) scans_the_model: bool,
}

#[derive(Debug)]
pub(super) enum Item {
    Allow(Entry),
    Deny(Entry),
    Said(Said),
}

/// A host as it is written.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) place: Place,
    pub(super) stars: Stars,
    /// What is not carried over of it, besides what its text says.
    pub(super) said: Vec<Said>,
    /// Why it is not carried over at all, whatever its text says.
    pub(super) refused: Option<String>,
}

impl Entry {
    #[inline(never)]
    pub(super) fn new(text: &str, place: Place, stars: Stars) -> Self {
        Self {
            text: text.to_owned(),
            place,
            stars,
            said: Vec::new(),
            refused: None,
        }
    }
}

impl Found {
    #[inline(never)]
    pub(super) fn deny(&mut self, text: &str, place: Place, stars: Stars) {
        let entry = Entry::new(text, place, stars);
        self.routes.push(Item::Deny(entry));
    }

    /// Of all that is found to be allowed nothing is carried over, where there is a reason.
    pub(super) fn refuse(&mut self, why: Option<String>) {
        let Some(why) = why else { return };
        for item in &mut self.routes {
            if let Item::Allow(entry) = item {
                entry.refused.get_or_insert_with(|| why.clone());
            }
        }
    }

    /// An entry that is not carried over.
    #[inline(never)]
    pub(super) fn leave(&mut self, text: &str, place: &Place, why: &str) {
        for comment in &place.above {
            let comment = Said::Comment(comment.clone());
            self.routes.push(Item::Said(comment));
        }
        let said = Said::lost(quoted(&host::shown(text)), why).at(place.line);
        self.routes.push(Item::Said(said));
        let beside = place.beside.iter().cloned().map(Said::Comment);
        self.routes.extend(beside.map(Item::Said));
    }

    /// How many entries are hosts, and how many are not.
    pub(super) fn hosts(&self) -> (usize, usize) {
        let mut counts = (0, 0);
        for item in &self.routes {
            let is_host = match item {
                Item::Allow(entry) | Item::Deny(entry) => {
                    host::meant(&entry.text, entry.stars).is_ok()
                }
                Item::Said(Said::Lost { .. }) => false,
                Item::Said(_) => continue,
            };
            let count = if is_host {
                &mut counts.0
            } else {
                &mut counts.1
            };
            *count += 1;
        }
        counts
    }
}
