//! Decides how a changed policy reaches a running pipelock. Pure.

use crate::policy::Policy;
use crate::policy::matching::{allows_entry, passes_entry};

/// What a changed manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The daemon's configuration is the same.
    Nothing,
    /// Only the allowlist changed, and nothing it allowed is refused now: strict mode
    /// accepts that by reload (PIPELOCK.md).
    Reload,
    /// Anything else: strict mode refuses it, or a reload would leave tunnels open that the
    /// new manifest does not allow.
    Restart {
        /// Entries of the allowlist that stood for a host which is allowed no more.
        revoked: Vec<String>,
        /// Entries of the passthrough that stood for a host which is still allowed, but
        /// scanned from now on: its tunnels were not.
        scanned: Vec<String>,
    },
}

impl Plan {
    /// A restart that takes nothing away.
    pub const RESTART: Self = Self::Restart {
        revoked: Vec::new(),
        scanned: Vec::new(),
    };
}

/// Compares two policies.
#[must_use]
pub fn plan(old: &Policy, new: &Policy) -> Plan {
    let revoked: Vec<String> = old
        .allowlist
        .iter()
        .filter(|entry| !allows_entry(&new.allowlist, entry))
        .cloned()
        .collect();
    let scanned: Vec<String> = old
        .not_scanned()
        .into_iter()
        .filter(|entry| allows_entry(&new.allowlist, entry))
        .filter(|entry| !passes_entry(&new.passthrough, entry))
        .collect();
    let same_but_hosts = old.seed_phrase_detection == new.seed_phrase_detection
        && old.passthrough == new.passthrough
        && old.internal_cidr == new.internal_cidr
        && old.tuning == new.tuning
        && old.listen == new.listen;
    if !same_but_hosts || !revoked.is_empty() {
        return Plan::Restart { revoked, scanned };
    }
    if old.allowlist == new.allowlist {
        Plan::Nothing
    } else {
        Plan::Reload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(routes: &[&str], pipelock: &str) -> Policy {
        let routes: String = routes
            .iter()
            .map(|host| format!("{{host: \"{host}\"}},"))
            .collect();
        let text = format!(
            "slug: a\nbottle: {{egress: {{routes: [{routes}]}}}}\npipelock: {{{pipelock}}}\n"
        );
        crate::policy::read(text.as_bytes(), true, 0)
            .unwrap()
            .policy
    }

    fn restart(revoked: &[&str], scanned: &[&str]) -> Plan {
        let list = |hosts: &[&str]| hosts.iter().map(|&host| host.to_owned()).collect();
        Plan::Restart {
            revoked: list(revoked),
            scanned: list(scanned),
        }
    }

    #[test]
    fn revokes_what_is_allowed_no_more_as_pipelock_matches() {
        for (old, new, wanted) in [
            (&["a.example"][..], &["a.example"][..], Plan::Nothing),
            (&["a.example"], &["a.example", "b.example"], Plan::Reload),
            (
                &["a.example", "b.example"],
                &["a.example"],
                restart(&["b.example"], &[]),
            ),
            (&["a.example"], &[], restart(&["a.example"], &[])),
            // The wildcard stands for its apex and for all below it.
            (
                &["localhost", "*.localhost"],
                &["*.localhost"],
                Plan::Reload,
            ),
            (
                &["a.x.example", "*.x.example"],
                &["*.x.example"],
                Plan::Reload,
            ),
            (&["*.a.x.example"], &["*.x.example"], Plan::Reload),
            (
                &["x.example", "*.x.example"],
                &["x.example"],
                restart(&["*.x.example"], &[]),
            ),
            (
                &["*.x.example"],
                &["x.example", "a.x.example"],
                restart(&["*.x.example"], &[]),
            ),
            (
                &["x.example"],
                &["*.y.x.example"],
                restart(&["x.example"], &[]),
            ),
        ] {
            assert_eq!(
                plan(&policy(old, ""), &policy(new, "")),
                wanted,
                "{old:?} {new:?}"
            );
        }
    }

    #[test]
    fn restarts_for_what_strict_mode_refuses_by_reload() {
        let hosts = &["a.example", "*.x.example"];
        let old = policy(hosts, "");
        for pipelock in [
            "passthrough: [a.example]",
            "scan_limit_mib: 20",
            "requests_per_minute: 600",
            "max_tunnel_seconds: 600",
            "idle_timeout_seconds: 600",
            "listen: \"127.0.0.1:9999\"",
        ] {
            let new = policy(hosts, pipelock);
            assert_eq!(plan(&old, &new), Plan::RESTART, "{pipelock}");
            assert_eq!(plan(&new, &new), Plan::Nothing, "{pipelock}");
        }
        let seed_phrases = policy(&["a.example", "*.x.example", "api.anthropic.com"], "");
        assert_eq!(plan(&old, &seed_phrases), Plan::RESTART);
    }

    #[test]
    fn each_field_of_a_policy_has_its_own_answer() {
        type Change = fn(&mut Policy);
        let old = policy(
            &["a.example", "*.x.example", "y.x.example"],
            "passthrough: [a.example]",
        );
        let cases: [(&str, Change, Plan); 16] = [
            ("nothing", |_| {}, Plan::Nothing),
            ("slug", |new| new.slug.push('b'), Plan::Nothing),
            (
                "network",
                |new| new.network.internal = Some("b".into()),
                Plan::Nothing,
            ),
            ("supervisor", |new| new.supervisor.grace *= 2, Plan::Nothing),
            (
                "a host more",
                |new| new.allowlist.push("z.example".into()),
                Plan::Reload,
            ),
            (
                "a host less that a wildcard stands for",
                |new| new.allowlist.retain(|host| host != "y.x.example"),
                Plan::Reload,
            ),
            (
                "a host less",
                |new| new.allowlist.retain(|host| host != "a.example"),
                restart(&["a.example"], &[]),
            ),
            (
                "a host for another",
                |new| new.allowlist = vec!["z.example".into()],
                restart(&["*.x.example", "a.example", "y.x.example"], &[]),
            ),
            (
                "seed phrases",
                |new| new.seed_phrase_detection ^= true,
                Plan::RESTART,
            ),
            (
                "internal network",
                |new| new.internal_cidr = Some("10.0.0.0/8".into()),
                Plan::RESTART,
            ),
            (
                "tuning",
                |new| new.tuning.scan_limit_mib = Some(20),
                Plan::RESTART,
            ),
            ("listen", |new| new.listen.set_port(9999), Plan::RESTART),
            (
                "passed through as well",
                |new| new.passthrough.push("y.x.example".into()),
                Plan::RESTART,
            ),
            (
                "passed through no more",
                |new| new.passthrough.retain(|host| host != "a.example"),
                restart(&[], &["a.example"]),
            ),
            (
                "passed through no more, and not allowed either",
                |new| {
                    new.passthrough.retain(|host| host != "a.example");
                    new.allowlist.retain(|host| host != "a.example");
                },
                restart(&["a.example"], &[]),
            ),
            (
                "a host less and another limit",
                |new| {
                    new.allowlist.retain(|host| host != "a.example");
                    new.tuning.requests_per_minute = Some(600);
                },
                restart(&["a.example"], &[]),
            ),
        ];
        for (what, change, wanted) in cases {
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(plan(&old, &new), wanted, "{what}");
        }
    }

    #[test]
    fn what_leaves_the_passthrough_is_told_unless_it_is_revoked_anyway() {
        let hosts = &["a.example", "*.x.example"];
        let old = policy(hosts, "passthrough: [a.example, \"*.x.example\"]");
        for (routes, pipelock, wanted) in [
            (
                &hosts[..],
                "passthrough: [a.example]",
                restart(&[], &["*.x.example"]),
            ),
            (
                hosts,
                "passthrough: [\"*.x.example\"]",
                restart(&[], &["a.example"]),
            ),
            (
                hosts,
                "passthrough: [a.example, y.x.example]",
                restart(&[], &["*.x.example"]),
            ),
            (
                &["*.x.example"],
                "passthrough: [\"*.x.example\"]",
                restart(&["a.example"], &[]),
            ),
            (
                &["*.x.example"],
                "",
                restart(&["a.example"], &["*.x.example"]),
            ),
        ] {
            assert_eq!(
                plan(&old, &policy(routes, pipelock)),
                wanted,
                "{routes:?} {pipelock}"
            );
        }
        // Still passed through, by the wildcard above it.
        let below = policy(hosts, "passthrough: [y.x.example]");
        let all = policy(hosts, "passthrough: [\"*.x.example\"]");
        assert_eq!(plan(&below, &all), Plan::RESTART);
    }

    /// pipelock's own rule for the allowlist.
    fn allowed(list: &[String], host: &str) -> bool {
        list.iter().any(|entry| match entry.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix) || host == &suffix[1..],
            None => host == entry,
        })
    }

    /// pipelock's own rule for what is not opened: a wildcard leaves its apex out.
    fn unopened(policy: &Policy, host: &str) -> bool {
        let passed = |entry: &String| match entry.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix),
            None => host == entry,
        };
        allowed(&policy.allowlist, host) && policy.passthrough.iter().any(passed)
    }

    /// What may stand before `x`: up to three of the labels that entries are made of, and one
    /// that none is.
    fn parts() -> Vec<String> {
        let mut parts = vec![String::new()];
        let mut longest = parts.clone();
        for _ in 0..3 {
            longest = longest
                .iter()
                .flat_map(|part| [format!("a.{part}"), format!("b.{part}")])
                .collect();
            parts.extend(longest.iter().cloned());
        }
        let below: Vec<String> = parts.iter().map(|part| format!("c.{part}")).collect();
        [parts, below].concat()
    }

    fn some_host(holds: impl Fn(&str) -> bool) -> bool {
        parts().iter().any(|part| holds(&format!("{part}x")))
    }

    type Listed = (
        Vec<String>,
        Vec<(proptest::sample::Index, Option<&'static str>)>,
    );

    /// Routes, and which of them are passed through: whole, or what is below `a.` alone.
    fn listed() -> impl proptest::strategy::Strategy<Value = Listed> {
        use proptest::prelude::{Just, any};
        let part = proptest::prop_oneof![Just(None), Just(Some("a.")), Just(Some("*.a."))];
        (
            proptest::collection::vec("(\\*\\.)?([ab]\\.){0,2}x", 0..4),
            proptest::collection::vec((any::<proptest::sample::Index>(), part), 0..3),
        )
    }

    fn policy_of((routes, passed): &Listed) -> Policy {
        let passed: Vec<String> = passed
            .iter()
            .filter(|_| !routes.is_empty())
            .map(|(index, part)| {
                let route = index.get(routes);
                match (route.strip_prefix("*."), part) {
                    (Some(domain), Some(part)) => format!("{part}{domain}"),
                    _ => route.clone(),
                }
            })
            .map(|host| format!("\"{host}\""))
            .collect();
        policy(
            &routes.iter().map(String::as_str).collect::<Vec<_>>(),
            &format!("passthrough: [{}]", passed.join(",")),
        )
    }

    proptest::proptest! {
        /// The plan is right about every host that can be asked for, by pipelock's own rules.
        #[test]
        fn no_host_that_lost_its_permission_keeps_its_daemon(old in listed(), new in listed()) {
            let (old, new) = (policy_of(&old), policy_of(&new));
            let plan = plan(&old, &new);
            let refused = some_host(|host| {
                allowed(&old.allowlist, host) && !allowed(&new.allowlist, host)
            });
            let opened = some_host(|host| {
                unopened(&old, host) && allowed(&new.allowlist, host) && !unopened(&new, host)
            });
            let (revoked, scanned) = match &plan {
                Plan::Restart { revoked, scanned } => (!revoked.is_empty(), !scanned.is_empty()),
                Plan::Nothing | Plan::Reload => (false, false),
            };
            proptest::prop_assert_eq!(refused, revoked, "{:?}", plan);
            // What is told as revoked as a whole is not told once more.
            proptest::prop_assert!(!scanned || opened, "{:?}", plan);
            proptest::prop_assert_eq!(refused || opened, revoked || scanned, "{:?}", plan);
            // Strict mode refuses any addition here by reload.
            if old.passthrough != new.passthrough {
                proptest::prop_assert!(matches!(plan, Plan::Restart { .. }), "{:?}", plan);
            }
        }
    }
}
