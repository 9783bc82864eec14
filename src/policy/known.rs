//! What people list, and what pipelock does to it at the sizes they have: hosts that are
//! known by a label of their name, so that a company's own mirror is known as well. Pure.
//!
//! Nothing here decides anything: a note is for the manifest's owner, and fails nothing.

use std::collections::BTreeSet;

use super::{Policy, in_yaml, matching, one_more_passed};
use crate::manifest::{Position, Problems, Rejection, Section, quoted};

/// So many routes of one manifest are looked at: a reload with a hundred thousand hosts must
/// not wait for notes, of which nobody reads more than a few.
const MOST: usize = 4096;

/// The largest body pipelock 2.3.0 scans, in MiB, where the manifest sets no limit.
const SCAN_LIMIT_MIB: u32 = 5;

/// What a host is there for, and with it what scanning does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Packages of a language.
    Packages,
    /// Container images.
    Images,
    /// A model's API.
    Models,
    /// Git repositories.
    Git,
    /// Packages of an operating system, often over plain HTTP.
    System,
    /// Where downloads are sent on to.
    Downloads,
}

use Use::{Downloads, Git, Images, Models, Packages, System};

/// Domains, with all below them, for what no word says, where a label `*` is any one. The first
/// that fits counts, before [`WORDS`].
const DOMAINS: &[(&str, Use)] = &[
    ("codeload.github.com", Downloads),
    ("githubusercontent.com", Downloads),
    ("production.cloudflare.docker.com", Downloads),
    ("production.cloudfront.docker.com", Downloads),
    ("download.docker.com", Downloads),
    ("static.rust-lang.org", Downloads),
    ("sh.rustup.rs", Downloads),
    ("nodejs.org", Downloads),
    ("releases.hashicorp.com", Downloads),
    ("storage.googleapis.com", Downloads),
    ("s3.amazonaws.com", Downloads),
    ("s3.*.amazonaws.com", Downloads),
    ("s3.dualstack.*.amazonaws.com", Downloads),
    ("sourceforge.net", Downloads),
    ("bootstrap.pypa.io", Downloads),
    ("astral.sh", Downloads),
    ("bun.sh", Downloads),
    ("dl.deno.land", Downloads),
    ("deno.land", Packages),
    ("esm.sh", Packages),
    ("unpkg.com", Packages),
    ("cache.nixos.org", Packages),
    ("proxy.golang.org", Packages),
    ("sum.golang.org", Packages),
    ("jsr.io", Packages),
    ("hex.pm", Packages),
    ("pub.dev", Packages),
    ("pkgs.dev.azure.com", Packages),
    ("dev.azure.com", Git),
    ("x.ai", Models),
    ("api.together.xyz", Models),
    ("api.perplexity.ai", Models),
    ("api.fireworks.ai", Models),
];

/// Words that say what a host is for: a label of its name, or a part of one between hyphens,
/// alone or with a number or one of [`ENDINGS`] behind it. The first line that fits counts.
/// After the default allowlists of Claude Code on the web and of Codex, and the names companies
/// give their mirrors.
#[rustfmt::skip]
const WORDS: &[(Use, &[&str])] = &[
    (Packages, &[
        "npm", "npmjs", "yarnpkg", "verdaccio", "pypi", "pythonhosted", "devpi", "conda", "anaconda", "crates",
        "goproxy", "maven", "maven2", "gradle", "sonatype", "nuget", "rubygems", "packagist", "hackage", "cpan",
        "metacpan", "cocoapods", "artifactory", "nexus", "packages", "pkgs",
    ]),
    (Images, &[
        "docker", "ghcr", "gcr", "quay", "ecr", "mcr", "azurecr", "nvcr", "harbor", "registry",
    ]),
    (Models, &[
        "anthropic", "openai", "chatgpt", "generativelanguage", "aiplatform", "cloudcode", "bedrock",
        "githubcopilot", "openrouter", "mistral", "groq", "deepseek", "cohere", "ollama", "vllm", "litellm", "llm",
    ]),
    (Downloads, &[
        "huggingface", "hf", "xethub", "cloudfront", "azureedge", "cdn", "dl", "download", "downloads",
    ]),
    (Git, &[
        "git", "github", "gitlab", "gitea", "forgejo", "codeberg", "bitbucket", "gerrit",
    ]),
    (System, &[
        "mirror", "mirrors", "debian", "ubuntu", "launchpad", "alpinelinux", "fedoraproject", "centos",
        "rockylinux", "almalinux", "archlinux", "opensuse", "apt", "yum",
    ]),
];

/// What a company's own name for it may have behind one of [`WORDS`].
const ENDINGS: &[&str] = &["mirror", "proxy", "cache", "registry", "repo", "hub"];

/// First labels of what is a web site, an account or a measurement of a known host.
const SITES: &[&str] = &[
    "auth",
    "blog",
    "community",
    "console",
    "docs",
    "forum",
    "help",
    "learn",
    "login",
    "platform",
    "statsig",
    "status",
    "support",
    "telemetry",
    "www",
];

/// Domains of everybody's web sites and of links to them, and not of the host's own service.
const PAGES: &[&str] = &["github.io", "gitlab.io", "git.io"];

/// A host, what its client asks besides, and for what.
const COMPANIONS: &[(&str, &[&str], &str)] = &[
    (
        "pypi.org",
        &["files.pythonhosted.org"],
        "where pip and uv fetch every file",
    ),
    (
        "crates.io",
        &["index.crates.io", "static.crates.io"],
        "where cargo looks crates up and fetches them",
    ),
    (
        "index.crates.io",
        &["static.crates.io"],
        "where cargo fetches every crate",
    ),
    (
        "proxy.golang.org",
        &["sum.golang.org", "storage.googleapis.com"],
        "where go checks modules and is sent for large ones",
    ),
    (
        "github.com",
        &[
            "codeload.github.com",
            "objects.githubusercontent.com",
            "raw.githubusercontent.com",
            "release-assets.githubusercontent.com",
        ],
        "where archives, files and releases come from; git alone does not need them",
    ),
    (
        "docker.io",
        &[
            "auth.docker.io",
            "registry-1.docker.io",
            "production.cloudflare.docker.com",
        ],
        "which every pull of an image asks",
    ),
    (
        "registry-1.docker.io",
        &["auth.docker.io", "production.cloudflare.docker.com"],
        "which every pull of an image asks",
    ),
    (
        "ghcr.io",
        &["pkg-containers.githubusercontent.com"],
        "where the layers of its images come from",
    ),
    (
        "quay.io",
        &["*.quay.io"],
        "where the layers of its images come from",
    ),
    (
        "mcr.microsoft.com",
        &["*.data.mcr.microsoft.com"],
        "where the layers of its images come from",
    ),
    (
        "rubygems.org",
        &["index.rubygems.org"],
        "where Bundler looks gems up",
    ),
    (
        "plugins.gradle.org",
        &["plugins-artifacts.gradle.org"],
        "where Gradle is sent for plugins",
    ),
    (
        "huggingface.co",
        &["*.hf.co"],
        "where files of models and data sets come from",
    ),
    (
        "archive.ubuntu.com",
        &["security.ubuntu.com"],
        "which apt asks too",
    ),
];

/// A route's host that may need a note.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// Where it stands.
    pub at: Position,
    /// The field it stands in.
    pub section: Section,
    /// The host in its one form.
    pub host: String,
}

/// The known hosts among a manifest's routes, in its order, and the notes about them.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    listed: Vec<Listed>,
    looked_at: usize,
}

impl Known {
    /// Remembers a host, if there may be something to say about it.
    pub(super) fn look_at(&mut self, host: &str, at: Position, section: Section) {
        self.looked_at += 1;
        // Whoever has a companion is known too.
        if self.looked_at <= MOST && (usage(host).is_some() || is_wide(host)) {
            self.listed.push(Listed {
                at,
                section,
                host: host.to_owned(),
            });
        }
    }

    /// What the manifest does not already answer.
    pub(super) fn notes(&self, policy: &Policy) -> Problems {
        let mut notes = Problems::default();
        let mut seen = BTreeSet::new();
        // With what the notes before have passed through: the key may be written once.
        let mut passthrough = policy.lasting().1.to_vec();
        for Listed { at, section, host } in &self.listed {
            if !seen.insert(host) {
                continue;
            }
            let granted = matches!(section, Section::Grant(_));
            let passed = if granted {
                &policy.passthrough
            } else {
                policy.lasting().1
            };
            let scanned = !matching::passes_entry(passed, host);
            let listed = (!granted).then_some(&passthrough[..]);
            let note = usage(host).and_then(|usage| advice(host, usage, scanned, policy, listed));
            if scanned && note.is_some() && !granted {
                passthrough.push(host.clone());
            }
            let wide = is_wide(host).then(|| wide(host));
            let lacking = lacking(host, &policy.allowlist, granted);
            for refusal in wide.into_iter().chain(note).chain(lacking) {
                notes.add(|| refusal.at(Some(*at), section.key("host")));
            }
        }
        notes
    }
}

/// What a host is there for, if its name says so.
pub(super) fn usage(host: &str) -> Option<Use> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let first = name.split('.').next().unwrap_or_default();
    if SITES.contains(&first) || PAGES.iter().any(|domain| matching::is_in(name, domain)) {
        return None;
    }
    let domain = DOMAINS
        .iter()
        .find(|(domain, _)| matching::is_in(name, domain));
    let usage = match domain {
        Some((_, usage)) => *usage,
        None => by_words(name)?,
    };
    // Small answers, and the way out that is worth scanning most.
    let is_api = matches!(first, "api" | "gist") && usage == Git;
    (!is_api).then_some(usage)
}

/// The use in the first line of [`WORDS`] that has a word of the name.
fn by_words(name: &str) -> Option<Use> {
    let line_of = |part: &str| {
        WORDS
            .iter()
            .position(|(_, words)| words.iter().any(|word| is_word(part, word)))
    };
    let first = name.split(['.', '-']).filter_map(line_of).min()?;
    WORDS.get(first).map(|(usage, _)| *usage)
}

fn is_word(part: &str, word: &str) -> bool {
    part.strip_prefix(word)
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()) || ENDINGS.contains(&rest))
}

/// Names without a dot that people have for their own domains, where nobody else has any
/// (RFC 2606, RFC 6761, RFC 6762, ICANN's `internal`).
const OWN_DOMAINS: &[&str] = &[
    "internal",
    "local",
    "localhost",
    "lan",
    "corp",
    "home",
    "intranet",
    "private",
    "test",
    "example",
    "invalid",
];

/// Second labels below a country's domain that are no single owner's.
const SECOND_LABELS: &[&str] = &["ac", "co", "com", "edu", "gov", "net", "org"];

/// Whether a wildcard stands for all that a registry gives away, such as `*.com`.
fn is_wide(host: &str) -> bool {
    let labels = host
        .strip_prefix("*.")
        .map(|base| base.split('.').collect::<Vec<_>>());
    match labels.as_deref() {
        Some([top]) => !OWN_DOMAINS.contains(top),
        Some([second, top]) => top.len() == 2 && SECOND_LABELS.contains(second),
        _ => false,
    }
}

/// The note about such a wildcard.
fn wide(host: &str) -> Rejection {
    let base = host.strip_prefix("*.").unwrap_or(host);
    Rejection::new(format!(
        "{} allows every host below {base}, whosever it is",
        quoted(host)
    ))
    .hint("name the domains that are meant")
}

fn companions(host: &str) -> Option<(&'static [&'static str], &'static str)> {
    COMPANIONS
        .iter()
        .find(|(name, _, _)| *name == host)
        .map(|(_, needed, why)| (*needed, *why))
}

/// What scanning and limits do to a host, and the keys that help; `None` where they are set.
/// `passthrough` is the list that it would be added to; a grant has a key for that itself.
fn advice(
    host: &str,
    usage: Use,
    scanned: bool,
    policy: &Policy,
    passthrough: Option<&[String]>,
) -> Option<Rejection> {
    let tuning = &policy.tuning;
    let (what, many_requests, long_tunnels) = match usage {
        Packages => ("serves packages", true, false),
        Images => ("serves container images", false, false),
        Models => ("is a model's API", false, true),
        Git => ("serves git repositories", false, false),
        System => ("serves an operating system's packages", true, false),
        Downloads => ("serves downloads", false, false),
    };
    let limit = tuning.scan_limit_mib.unwrap_or(SCAN_LIMIT_MIB);
    let mut troubles = Vec::new();
    let mut keys = Vec::new();
    let mut hints = Vec::new();
    let mut in_grant = "";
    if scanned {
        troubles.push(match usage {
            Models => format!(
                "scanned, {}an answer with words like instructions is cut off, and a request above {limit} MiB is \
                 refused",
                // Met with the first prompts of Claude Code, Codex and Gemini CLI.
                if policy.seed_phrase_detection {
                    "an agent's own prompt is refused as a seed phrase, "
                } else {
                    ""
                }
            ),
            Git => format!(
                "scanned, a clone or push takes seconds a megabyte and is refused above {limit} MiB, and so is what \
                 git compresses"
            ),
            Images | Downloads => format!(
                "scanned, what it sends takes seconds a megabyte and is refused above {limit} MiB, and an address \
                 with a signature in it is refused as a secret"
            ),
            Packages | System => format!(
                "scanned, what it sends takes seconds a megabyte and is refused above {limit} MiB"
            ),
        });
        if usage == System {
            troubles.push("over plain HTTP it is scanned in any case".to_owned());
        }
        match passthrough {
            Some(passthrough) => hints.push(one_more_passed(passthrough, host)),
            None => in_grant = "in its grant: write passthrough: true",
        }
    }
    if many_requests && tuning.requests_per_minute.is_none() {
        // A tunnel that is passed through counts as one; Yarn opens one for each package.
        let what = if scanned { "requests" } else { "connections" };
        troubles.push(format!("more than 60 {what} a minute are refused"));
        keys.push("requests_per_minute: 600");
    }
    if long_tunnels {
        if tuning.max_tunnel_seconds.is_none() {
            troubles.push("every connection ends after 300 s".to_owned());
            keys.push("max_tunnel_seconds: 3600");
        }
        if tuning.idle_timeout_seconds.is_none() {
            troubles.push("one on which the client only listens after 120 s".to_owned());
            keys.push("idle_timeout_seconds: 600");
        }
    }
    if !keys.is_empty() {
        hints.push(format!("write {}", keys.join(", ")));
    }
    let hint = match (in_grant, hints.join(" and ")) {
        ("", hints) if hints.is_empty() => return None,
        (in_grant, hints) if hints.is_empty() => in_grant.to_owned(),
        ("", hints) => format!("under pipelock: {hints}"),
        (in_grant, hints) => format!("under pipelock: {hints}; {in_grant}"),
    };
    let gives_up = match (scanned, usage) {
        (true, System) => "; what is passed through over https:// is not scanned",
        (true, _) => "; what is passed through is not scanned",
        (false, _) => "",
    };
    Some(
        Rejection::new(format!("{} {what}: {}", quoted(host), troubles.join("; ")))
            .hint(format!("{hint}{gives_up}")),
    )
}

/// The note about companions that no route allows.
fn lacking(host: &str, allowlist: &[String], granted: bool) -> Option<Rejection> {
    let (needed, why) = companions(host)?;
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .filter(|name| !matching::allows_entry(allowlist, name))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let entries = missing
        .iter()
        .map(|name| format!("- host: {}", in_yaml(name)));
    let entries = entries.collect::<Vec<_>>().join(", ");
    let hint = if granted {
        format!("grant as long: {}", missing.join(", "))
    } else {
        format!("add below bottle.egress.routes: {entries}")
    };
    Some(
        Rejection::new(format!(
            "{} is allowed without {}, {why}",
            quoted(host),
            missing.join(", ")
        ))
        .hint(hint),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_people_list_and_their_own_mirrors_of_it() {
        for (hosts, wanted) in [
            (
                "registry.npmjs.org *.npmjs.org npm.pkg.github.com registry.yarnpkg.com npm.corp.example \
                 npm-mirror.corp.example npmmirror.example npm2.corp.example pypi.org files.pythonhosted.org \
                 pypi-mirror.internal.example pypi.internal.example devpi.corp.example test.pypi.org \
                 conda.anaconda.org repo.anaconda.com index.crates.io static.crates.io crates.corp.example \
                 proxy.golang.org sum.golang.org goproxy.io goproxy.corp.example repo.maven.apache.org \
                 repo1.maven.org maven.pkg.github.com plugins.gradle.org central.sonatype.com api.nuget.org \
                 index.rubygems.org repo.packagist.org hackage.haskell.org fastapi.metacpan.org repo.hex.pm \
                 pub.dev cdn.cocoapods.org artifactory.corp.example nexus.corp.example packages.example.org \
                 pkgs.k8s.io pkgs.dev.azure.com deno.land esm.sh unpkg.com cache.nixos.org",
                Packages,
            ),
            (
                "registry-1.docker.io docker.io us-docker.pkg.dev docker-mirror.corp.example ghcr.io gcr.io \
                 mirror.gcr.io quay.io public.ecr.aws 123456789012.dkr.ecr.eu-west-1.amazonaws.com \
                 mcr.microsoft.com x.azurecr.io nvcr.io harbor.corp.example registry.k8s.io \
                 registry.gitlab.com registry.corp.example dockerhub.corp.example",
                Images,
            ),
            (
                "api.anthropic.com api.openai.com chatgpt.com x.openai.azure.com \
                 generativelanguage.googleapis.com us-central1-aiplatform.googleapis.com \
                 cloudcode-pa.googleapis.com bedrock-runtime.us-east-1.amazonaws.com api.githubcopilot.com \
                 openrouter.ai api.mistral.ai api.groq.com api.deepseek.com api.x.ai ollama.corp.example \
                 api.together.xyz api.perplexity.ai api.fireworks.ai \
                 llm-proxy.corp.example openai-proxy.corp.example",
                Models,
            ),
            (
                "github.com *.github.com gitlab.com gitlab.corp.example git.corp.example codeberg.org \
                 bitbucket.org gitea.corp.example github.corp.example dev.azure.com",
                Git,
            ),
            (
                "deb.debian.org security.debian.org archive.ubuntu.com ports.ubuntu.com ppa.launchpad.net \
                 mirror.corp.example mirrors.edge.kernel.org mirrors.fedoraproject.org \
                 apt.corp.example",
                System,
            ),
            (
                "codeload.github.com objects.githubusercontent.com raw.githubusercontent.com \
                 release-assets.githubusercontent.com production.cloudflare.docker.com \
                 download.docker.com static.rust-lang.org nodejs.org storage.googleapis.com huggingface.co \
                 cas-bridge.xethub.hf.co cdn.corp.example downloads.corp.example dl.k8s.io \
                 dl-cdn.alpinelinux.org bucket.s3.eu-west-1.amazonaws.com *.s3.us-east-1.amazonaws.com \
                 s3.eu-west-1.amazonaws.com a.bucket.s3.amazonaws.com b.s3.dualstack.eu-west-1.amazonaws.com \
                 sourceforge.net downloads.sourceforge.net bun.sh astral.sh bootstrap.pypa.io dl.deno.land \
                 cdn.playwright.dev playwright.azureedge.net",
                Downloads,
            ),
        ] {
            for host in hosts.split_whitespace() {
                assert_eq!(usage(host), Some(wanted), "{host}");
            }
        }
    }

    #[test]
    fn takes_no_look_alike_for_one() {
        for host in "pypidocs.example legit.example digital.example gitignore.example mirrorless.example \
                     dockerfile.example openair.example thegithub.example xnpm.example npmx.example \
                     cratesby.example registrydata.example debianish.example example.npmj.org \
                     golang.org pkg.go.dev go.dev example.com a.example supervise 192.0.2.7 2001:db8::1 \
                     docs.github.com docs.npmjs.com www.npmjs.com status.openai.com statsig.anthropic.com \
                     console.anthropic.com auth.docker.io api.github.com gist.github.com somebody.github.io \
                     notgithubusercontent.com fax.ai git.io together.example perplexity.example \
                     fireworks.example dev.azure.example azure.com s3.corp.example s3.eu.west.amazonaws.com \
                     ec2.eu-west-1.amazonaws.com s3.eu-west-1.amazonaws.com.example docs.astral.sh bash.sh \
                     nixos.org notunpkg.com playwright.dev"
            .split_whitespace()
        {
            assert_eq!(usage(host), None, "{host}");
        }
    }

    #[test]
    fn every_entry_can_be_met_and_is_written_as_it_is_compared() {
        for (domain, wanted) in DOMAINS {
            assert_eq!(usage(domain), Some(*wanted), "{domain}");
            assert_eq!(usage(&format!("a.{domain}")), Some(*wanted), "{domain}");
        }
        for (wanted, words) in WORDS {
            for word in *words {
                let host = format!("{word}.corp.example");
                assert_eq!(usage(&host), Some(*wanted), "{word}");
            }
        }
        for (host, needed, _) in COMPANIONS {
            assert!(usage(host).is_some(), "{host}");
            assert!(!needed.contains(host));
        }
    }

    /// The notes about a manifest with these hosts, allowed in one line each from line 6.
    fn notes(hosts: &[&str], more: &str) -> Vec<String> {
        let routes: String = hosts
            .iter()
            .map(|host| format!("      - host: \"{host}\"\n"))
            .collect();
        let text = format!("version: 1\nslug: x\nbottle:\n  egress:\n    routes:\n{routes}{more}");
        let judgement = crate::policy::read(text.as_bytes(), true, 0).unwrap();
        let shown = judgement
            .notes
            .iter()
            .map(|note| note.display("m").to_string());
        shown.collect()
    }

    #[test]
    fn a_note_says_what_happens_and_which_keys_help() {
        let [note] = &notes(&["npm.corp.example"], "")[..] else {
            panic!("one note");
        };
        assert_eq!(
            note,
            "m:6: bottle.egress.routes[0].host: \"npm.corp.example\" serves packages: scanned, what it sends \
             takes seconds a megabyte and is refused above 5 MiB; more than 60 requests a minute are refused\n\
             hint: under pipelock: write passthrough: [npm.corp.example] and write requests_per_minute: 600; what \
             is passed through is not scanned"
        );
        let set = "pipelock: {requests_per_minute: 600, max_tunnel_seconds: 3600, idle_timeout_seconds: 600}\n";
        let told = notes(&["*.npmjs.org"], set);
        assert!(
            told[0].ends_with(
                "hint: under pipelock: write passthrough: [\"*.npmjs.org\"]; what is passed through is not scanned"
            ),
            "{told:?}"
        );
        // What is passed through already stays so, and the key stands there once.
        let told = notes(
            &["npm.corp.example", "a.example"],
            "pipelock: {passthrough: [a.example]}\n",
        );
        assert!(
            told[0].ends_with(
                "hint: under pipelock: add npm.corp.example to passthrough and write requests_per_minute: 600; what \
                 is passed through is not scanned"
            ),
            "{told:?}"
        );
        for (hosts, seed_phrases) in [
            (&["api.openai.com"][..], true),
            (&["api.openai.com", "api.anthropic.com"], false),
        ] {
            let told = notes(hosts, set);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(
                told[0].contains("an answer with words like instructions is cut off"),
                "{told:?}"
            );
            assert_eq!(
                told[0].contains("as a seed phrase"),
                seed_phrases,
                "{told:?}"
            );
        }
        let told = notes(&["npm.a.example"], "pipelock: {scan_limit_mib: 32}\n");
        assert!(told[0].contains("is refused above 32 MiB"), "{told:?}");
        let told = notes(&["deb.debian.org"], set);
        assert!(
            told[0].contains("over plain HTTP it is scanned in any case\nhint: "),
            "{told:?}"
        );
        // Passed through from the start; its tunnels are cut all the same.
        let told = notes(&["api.anthropic.com"], "");
        assert!(
            told[0].ends_with(
                "is a model's API: every connection ends after 300 s; one on which the client only listens after \
                 120 s\nhint: under pipelock: write max_tunnel_seconds: 3600, idle_timeout_seconds: 600"
            ),
            "{told:?}"
        );
        assert_eq!(notes(&["api.anthropic.com"], set), [""; 0]);
    }

    #[test]
    fn a_wildcard_for_what_anybody_can_register_is_worth_a_note() {
        for host in ["*.com", "*.dev", "*.co.uk", "*.xn--p1ai"] {
            let base = host.strip_prefix("*.").unwrap();
            assert_eq!(
                notes(&[host], ""),
                [format!(
                    "m:6: bottle.egress.routes[0].host: \"{host}\" allows every host below {base}, whosever it is\n\
                     hint: name the domains that are meant"
                )]
            );
        }
        for host in [
            "*.internal",
            "*.corp",
            "*.a.com",
            "*.abc.uk",
            "*.corp.example",
            "com",
            "co.uk",
        ] {
            assert_eq!(notes(&[host], ""), [""; 0], "{host}");
        }
    }

    #[test]
    fn notes_can_be_followed_together() {
        let told = notes(&["npm.a.example", "*.npm.b.example", "npm.c.example"], "");
        let keys: Vec<&str> = told
            .iter()
            .filter_map(|note| note.split_once("under pipelock: ")?.1.split(" and ").next())
            .collect();
        assert_eq!(
            keys,
            [
                "write passthrough: [npm.a.example]",
                "add \"*.npm.b.example\" to passthrough",
                "add npm.c.example to passthrough"
            ]
        );
        let told = notes(&["docker.io"], "");
        assert!(
            told.iter().any(|note| note.ends_with(
                "hint: add below bottle.egress.routes: - host: auth.docker.io, - host: registry-1.docker.io, - host: \
                 production.cloudflare.docker.com"
            )),
            "{told:?}"
        );
    }

    #[test]
    fn a_host_that_is_passed_through_needs_no_note() {
        let passing = |hosts: &str| {
            format!("pipelock: {{passthrough: [{hosts}], requests_per_minute: 600}}\n")
        };
        for (host, passed) in [
            ("npm.a.example", "npm.a.example"),
            ("*.npmjs.org", "\"*.npmjs.org\""),
            ("gitlab.corp.example", "gitlab.corp.example"),
            ("quay.corp.example", "quay.corp.example"),
            ("mirror.a.example", "mirror.a.example"),
        ] {
            assert_eq!(notes(&[host], &passing(passed)), [""; 0], "{host}");
            assert_eq!(notes(&[host], "").len(), 1, "{host}");
        }
        let told = notes(
            &["npm.a.example"],
            "pipelock: {passthrough: [npm.a.example]}\n",
        );
        assert_eq!(
            told,
            [
                "m:6: bottle.egress.routes[0].host: \"npm.a.example\" serves packages: more than 60 connections a \
              minute are refused\nhint: under pipelock: write requests_per_minute: 600"
            ]
        );
        // One below the wildcard is, and the wildcard is not by one below it.
        let told = notes(
            &["*.npm.a.example", "b.npm.a.example"],
            &passing("b.npm.a.example"),
        );
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("m:6: "), "{told:?}");
    }

    #[test]
    fn a_missing_companion_is_named_until_a_route_allows_it() {
        let scanned = |note: &&String| !note.contains("is allowed without");
        let told = notes(&["registry-1.docker.io", "auth.docker.io"], "");
        assert_eq!(told.iter().filter(scanned).count(), 1, "{told:?}");
        assert!(
            told.iter().any(|note| note
                == "m:6: bottle.egress.routes[0].host: \"registry-1.docker.io\" is allowed without \
                    production.cloudflare.docker.com, which every pull of an image asks\n\
                    hint: add below bottle.egress.routes: - host: production.cloudflare.docker.com"),
            "{told:?}"
        );
        for (host, needed, why) in COMPANIONS {
            let mut hosts = vec![*host];
            assert!(
                notes(&hosts, "").iter().any(|note| note.contains(why)),
                "{host}"
            );
            hosts.extend(*needed);
            assert!(
                !notes(&hosts, "")
                    .iter()
                    .any(|note| note.contains(&format!("\"{host}\" is allowed without"))),
                "{host}"
            );
        }
        let told = notes(&["pypi.org", "*.pythonhosted.org"], "");
        assert!(told.iter().all(|note| scanned(&note)), "{told:?}");
    }

    #[test]
    fn one_host_has_its_note_once_and_many_are_cut_off() {
        assert_eq!(notes(&["npm.a.example", "NPM.a.example."], "").len(), 1);
        let hosts: Vec<String> = (0..150).map(|n| format!("npm.a{n}.example")).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let told = notes(&hosts, "");
        assert_eq!(told.len(), crate::manifest::MAX_REPORTED + 1);
        assert_eq!(told.last().unwrap(), "m: … and 50 more");
        // What a start says of them counts those as well.
        let routes: String = hosts
            .iter()
            .map(|host| format!("{{host: {host}}},"))
            .collect();
        let text = format!("slug: x\nbottle: {{egress: {{routes: [{routes}]}}}}\n");
        let judgement = crate::policy::read(text.as_bytes(), true, 0).unwrap();
        assert_eq!(judgement.noted, 150);
        let mut hosts = vec!["a.example"; MOST];
        hosts.push("npm.a.example");
        assert_eq!(notes(&hosts, ""), [""; 0]);
    }
}
