//! What has to be said of a list that is carried over. Touches nothing.

/// What has to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is not carried over, for a reason.
    Lost {
        what: String,
        line: Option<usize>,
        why: String,
    },
    /// A wildcard before this domain did not stand for the domain itself, there.
    Apex(String),
    /// Nor for more than one label before it.
    Depth(String),
    /// As it is.
    Note(String),
    /// Of the source's own, in front of what follows.
    Comment(String),
}

impl Said {
    pub(super) fn lost(what: impl AsRef<str>, why: impl AsRef<str>) -> Self {
        Self::lost_text(what.as_ref(), why.as_ref())
    }

    #[inline(never)]
    fn lost_text(what: &str, why: &str) -> Self {
        Self::Lost {
            what: what.to_owned(),
            line: None,
            why: why.to_owned(),
        }
    }

    #[inline(never)]
    pub(super) fn at(self, place: Option<usize>) -> Self {
        match self {
            Self::Lost { what, why, .. } => Self::Lost {
                what,
                line: place,
                why,
            },
            said => said,
        }
    }
}
