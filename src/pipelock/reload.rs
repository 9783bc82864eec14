//! Decides how a changed policy reaches a running pipelock. Pure.

use crate::policy::Policy;

/// What a changed manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The daemon's configuration is the same.
    Nothing,
    /// Only hosts were added: strict mode accepts that by reload (PIPELOCK.md).
    Reload,
    /// Anything else: strict mode refuses it, or, for a removed host, a reload would
    /// leave the tunnels to it open.
    Restart {
        /// Hosts that were allowed and no longer are.
        revoked: Vec<String>,
    },
}

/// Compares two policies.
#[must_use]
pub fn plan(old: &Policy, new: &Policy) -> Plan {
    // Both are sorted: that is how they are rendered.
    let revoked: Vec<String> = old
        .allowlist
        .iter()
        .filter(|host| new.allowlist.binary_search(host).is_err())
        .cloned()
        .collect();
    let same_but_hosts = old.seed_phrase_detection == new.seed_phrase_detection
        && old.passthrough == new.passthrough
        && old.internal_cidr == new.internal_cidr
        && old.tuning == new.tuning
        && old.listen == new.listen;
    if !same_but_hosts || !revoked.is_empty() {
        return Plan::Restart { revoked };
    }
    if old.allowlist == new.allowlist {
        Plan::Nothing
    } else {
        Plan::Reload
    }
}
