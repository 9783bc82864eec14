//! Everything that is read, in one place: the manifest and the extra roots beside it, made
//! into what each daemon is to run on. It is read where a share that hangs stops nobody else,
//! and judged by PID 1. Touches the file system.
#![forbid(unsafe_code)]

pub mod alone;
pub mod credentials;
pub mod looker;
pub mod names;
pub mod trust;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use self::trust::Extra;
use crate::boot::clock;
use crate::boot::mode::Mode;
use crate::ca::authority::{self, Files};
use crate::ca::rfc3339_to_the_nanosecond;
use crate::daemon::pipelock::render;
use crate::exit::{ExitCode, StartError};
use crate::manifest;
use crate::policy::daemons::Daemon;
use crate::policy::{self, Policy};
use crate::sys::errand;
use crate::sys::files::read_bounded_dated;
use crate::sys::memory;

/// Where a bottle is read, and for where it is judged.
pub struct Bottle {
    /// The manifest.
    pub manifest: PathBuf,
    /// What the host gives each daemon alone, beside the manifest.
    pub credentials: PathBuf,
    /// Extra roots, beside it too.
    trust: PathBuf,
    /// The CA pair, as the daemon is to find it.
    pub pair: Files,
    /// What this is.
    mode: Mode,
    /// It is for the shells of whoever started it by hand.
    of_this_host: bool,
}

/// A configuration as the daemon is to run it.
#[derive(Debug, Clone)]
pub struct Desired {
    /// What the manifest asks for.
    pub policy: Policy,
    /// The rendered configuration.
    pub config: String,
    /// Its SHA-256, as the daemon will report it.
    pub config_sha256: String,
    /// The deny-all configuration for draining.
    pub deny_all: String,
    /// Its SHA-256.
    pub deny_all_sha256: String,
    /// Extra roots for upstream connections, installed where
    /// [`crate::supervise::Setup::trust_bundle`] says.
    pub trust: Option<Rc<[u8]>>,
    /// Why there are none of those although there are files of them.
    pub bad_roots: Option<String>,
    /// How much `check` has to note about the manifest.
    pub notes: usize,
    /// How many warnings of it are counted, and not among those that are told.
    pub untold: usize,
}

impl Desired {
    /// Renders the configuration so that the daemon reads the CA pair there.
    pub fn find_ca_at(&mut self, cert: &Path, key: &Path) {
        let (cert, key) = (cert.to_string_lossy(), key.to_string_lossy());
        self.config = render::render(&self.policy, &cert, &key);
        self.config_sha256 = render::config_hash(&self.config);
        self.deny_all = render::render_deny_all(&self.policy, &cert, &key);
        self.deny_all_sha256 = render::config_hash(&self.deny_all);
    }

    /// Itself, where its extra roots can be used: a start goes on with no others.
    pub fn with_its_roots(mut self) -> Result<Self, StartError> {
        match self.bad_roots.take() {
            None => Ok(self),
            Some(why) => Err(StartError::new(ExitCode::ManifestInvalid, why)),
        }
    }

    /// Says how many notes there are: once for each manifest that is taken up.
    pub fn count_notes(&self) {
        if self.notes > 0 {
            log::info!(
                "{} note(s) about the manifest: sidecar-init check --manifest FILE prints them",
                self.notes
            );
        }
    }
}

/// How what was read begins: a failure, no extra roots, roots, or what is wrong with them.
const FAILED: u8 = b'e';
const NO_ROOTS: u8 = b'n';
const ROOTS: u8 = b'r';
const BAD_ROOTS: u8 = b'b';

/// That the manifest cannot be had, as [`Bottle::read`] would say it.
#[must_use]
pub fn unreadable(why: &str) -> Vec<u8> {
    with_marks("", &[], &failure(why))
}

fn failure(why: &str) -> Vec<u8> {
    [&[FAILED], why.as_bytes()].concat()
}

/// Puts before what was read what tells whether the CA pair is the one that was seen before,
/// and whether the daemons' [`credentials`] are.
fn with_marks(pair: &str, credentials: &[u8], read: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    errand::add_part(&mut all, pair.as_bytes());
    errand::add_part(&mut all, credentials);
    all.extend(read);
    all
}

/// The marks of the CA pair, those of the credentials, and what [`Bottle::judge`] takes.
#[must_use]
pub fn without_marks(all: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (pair, rest) = errand::first_part(all).unwrap_or_default();
    let (credentials, read) = errand::first_part(rest).unwrap_or_default();
    (pair, credentials, read)
}

impl Bottle {
    /// That of this manifest.
    #[must_use]
    pub fn of(
        manifest: PathBuf,
        [cert, key]: [PathBuf; 2],
        mode: Mode,
        of_this_host: bool,
    ) -> Self {
        Self {
            credentials: credentials::directory(&manifest),
            trust: trust::directory(&manifest),
            manifest,
            pair: Files { cert, key },
            mode,
            of_this_host,
        }
    }

    /// What is looked at, to be read again when it changes.
    #[must_use]
    pub fn watched(&self) -> Vec<PathBuf> {
        let Files { cert, key } = &self.pair;
        [&self.manifest, &self.trust, &self.credentials, cert, key]
            .map(PathBuf::clone)
            .into()
    }

    /// Reads the manifest and what is beside it, and looks at the CA pair.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        // Before they are read: what changes meanwhile has other marks.
        let credentials = credentials::marks(&self.credentials);
        with_marks(
            &authority::marks(&self.pair),
            &credentials,
            &self.read_beside(),
        )
    }

    /// Reads the manifest, and the roots beside it, for [`Bottle::judge`].
    fn read_beside(&self) -> Vec<u8> {
        let available = memory::available();
        let limit = manifest::largest(available);
        let (manifest, modified) = match read_bounded_dated(&self.manifest, limit) {
            Ok(read) => read,
            Err(error) => {
                let why = match available {
                    Some(available) if error.is_too_large() && limit < manifest::MAX_BYTES => {
                        short_of_memory(available)
                    }
                    _ => String::new(),
                };
                return failure(&format!("{error}{why}"));
            }
        };
        let (kind, roots, warnings) = match trust::bundle(&self.trust, limit) {
            Ok(Extra { roots, warnings }) => match roots {
                None => (NO_ROOTS, String::new(), warnings),
                Some(roots) => (ROOTS, roots, warnings),
            },
            Err(why) => (BAD_ROOTS, why.to_string(), Vec::new()),
        };
        // Whatever is followed when it is replaced.
        let followed = [&self.manifest, &self.pair.cert, &self.pair.key].into_iter();
        let mut about_files: Vec<String> = followed.filter_map(|it| alone::warning(it)).collect();
        about_files.extend(warnings);
        let mut read = vec![kind];
        errand::add_part(&mut read, roots.as_bytes());
        errand::add_part(&mut read, about_files.join("\0").as_bytes());
        let given = credentials::names(&self.credentials);
        errand::add_part(&mut read, given.join("\0").as_bytes());
        errand::add_part(&mut read, render::hash(&manifest).as_bytes());
        let modified = rfc3339_to_the_nanosecond(modified);
        errand::add_part(&mut read, modified.as_bytes());
        read.extend(manifest);
        read
    }

    /// Judges what was read; the warnings are the manifest's.
    pub fn judge(&self, read: &[u8]) -> Result<(Desired, Vec<String>), Box<StartError>> {
        let mode = self.mode;
        let failed = |code, text: String| Box::new(StartError::new(code, text));
        let invalid = |text: String| failed(ExitCode::ManifestInvalid, text);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let Parts {
            kind,
            roots,
            warnings: about_files,
            given,
            manifest: bytes,
            ..
        } = parts(read).ok_or_else(|| {
            let text = "internal error: the manifest's reader said what nobody says";
            failed(ExitCode::Internal, text.to_owned())
        })?;
        if kind == FAILED {
            return Err(failed(ExitCode::ManifestMissing, text(roots)));
        }
        let name = self
            .manifest
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let now = clock::now();
        let judged = policy::read_within(bytes, false, now, move || match mode {
            Mode::Machine => memory::machine_total(),
            Mode::Container | Mode::Child => None,
        });
        let judgement = judged.map_err(|refused| invalid(refused.in_words(&name)))?;
        let mut warnings: Vec<String> = judgement
            .warnings
            .iter()
            // Behind them is how many there are besides.
            .take(manifest::MAX_REPORTED)
            .map(|warning| warning.display(&name).to_string())
            .collect();
        let untold = judgement.warned.saturating_sub(warnings.len());
        if judgement.policy.allowlist.is_empty() {
            warnings.push("the bottle allows no host: every request will be denied".to_owned());
        }
        let each = |joined: &[u8]| -> Vec<String> {
            let each = joined.split(|byte| *byte == 0);
            each.filter(|it| !it.is_empty()).map(text).collect()
        };
        warnings.extend(each(about_files));
        let given = each(given);
        let given = given.iter().map(String::as_str);
        warnings.extend(credentials::strangers(given, &judgement.policy.daemons));
        warnings.extend(out_of_place(&judgement.policy.network, mode));
        warnings.extend(unlimited(&judgement.policy.daemons, mode));
        warnings.extend(out_of_reach(&judgement.policy, mode));
        warnings.extend(in_reach(&judgement.policy, self.of_this_host));
        let trust = (kind == ROOTS).then(|| roots.into());
        let bad_roots = (kind == BAD_ROOTS).then(|| text(roots));
        let mut desired = Desired {
            config: String::new(),
            config_sha256: String::new(),
            deny_all: String::new(),
            deny_all_sha256: String::new(),
            notes: judgement.noted,
            untold,
            policy: judgement.policy,
            trust,
            bad_roots,
        };
        desired.find_ca_at(&self.pair.cert, &self.pair.key);
        Ok((desired, warnings))
    }
}

/// What follows on "larger than so many bytes".
fn short_of_memory(available: u64) -> String {
    format!(
        ", the most that {} MiB of available memory allow\nhint: judging a manifest takes up to 18 times its \
         size: give the machine more memory, or write a shorter one",
        available >> 20
    )
}

/// What was read beside the marks.
#[derive(Default)]
struct Parts<'a> {
    kind: u8,
    /// Or why there are none, or no manifest.
    roots: &'a [u8],
    /// About the files, each ended by a zero but the last.
    warnings: &'a [u8],
    /// The names of those who are given credentials, in the same way.
    given: &'a [u8],
    /// The manifest's SHA-256, and when it was changed last.
    sha256: &'a [u8],
    modified: &'a [u8],
    manifest: &'a [u8],
}

fn parts(read: &[u8]) -> Option<Parts<'_>> {
    let (&kind, rest) = read.split_first()?;
    if kind == FAILED {
        return Some(Parts {
            kind,
            roots: rest,
            ..Parts::default()
        });
    }
    let (roots, rest) = errand::first_part(rest)?;
    let (warnings, rest) = errand::first_part(rest)?;
    let (given, rest) = errand::first_part(rest)?;
    let (sha256, rest) = errand::first_part(rest)?;
    let (modified, manifest) = errand::first_part(rest)?;
    Some(Parts {
        kind,
        roots,
        warnings,
        given,
        sha256,
        modified,
        manifest,
    })
}

/// The SHA-256 of the manifest that was read, and when it was changed last, where it was read.
#[must_use]
pub fn which_manifest(read: &[u8]) -> Option<(String, String)> {
    let Parts {
        sha256, modified, ..
    } = parts(read)?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (!sha256.is_empty()).then(|| (text(sha256), text(modified)))
}

/// What is told where keys of the manifest are for another place than this.
fn out_of_place(network: &policy::Network, mode: Mode) -> Option<String> {
    let keys = network.for_a_machine();
    let whose = match mode {
        Mode::Machine => return None,
        Mode::Container => {
            "a container has its names and routes from its runtime (docker run --dns and --add-host, \
             dnsConfig and hostAliases of a Pod)"
        }
        Mode::Child => "outside a machine the names and routes are the system's",
    };
    let does = if keys.len() == 1 { "does" } else { "do" };
    (!keys.is_empty()).then(|| format!("{} {does} nothing here: {whose}", keys.join(", ")))
}

/// What is told where a limit of memory is none: control groups are a machine's.
fn unlimited(daemons: &[Daemon], mode: Mode) -> Option<String> {
    let limited = daemons.iter().filter(|it| it.memory_mib.is_some());
    let keys: Vec<String> = limited
        .map(|it| format!("daemons.{}.memory_mib", it.name))
        .collect();
    let instead = match mode {
        Mode::Machine => return None,
        Mode::Container => "limit the container (docker run --memory, limits of a Pod)",
        Mode::Child => "limit whatever the init runs in (systemd's MemoryMax=)",
    };
    let does = if keys.len() == 1 { "does" } else { "do" };
    (!keys.is_empty()).then(|| {
        format!(
            "{} {does} nothing here: a daemon's memory is limited in a machine alone; {instead}",
            keys.join(", ")
        )
    })
}

/// What is told where others than this host's own agents get to the proxy of a run that is for
/// these alone.
fn in_reach(policy: &Policy, of_this_host: bool) -> Option<String> {
    (of_this_host && policy.listen.ip().is_unspecified()).then(|| {
        format!(
            "pipelock listens on every address, and whoever reaches this host can use it\nhint: write \
             pipelock.listen: 127.0.0.1:{} into the manifest, which keeps it to this host",
            policy.listen.port()
        )
    })
}

/// What is told where no agent gets to its proxy. What shares a container's network has its
/// loopback as well, and so has a child's host; nobody shares a machine's.
fn out_of_reach(policy: &Policy, mode: Mode) -> Option<String> {
    let has_other = policy.daemons.iter().any(|it| it.agent_proxy.is_some());
    let listen = policy.listen;
    (mode == Mode::Machine && listen.ip().is_loopback() && !has_other).then(|| {
        format!(
            "pipelock listens on {listen}, this machine's own loopback, where no agent outside gets\nhint: leave \
             pipelock.listen out of the manifest, or have a daemon be the agent_proxy"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_machine_whose_proxy_nobody_reaches_says_so() {
        let policy = |more: &str| {
            let text = format!("slug: x\nbottle: {{}}\n{more}");
            policy::read(text.as_bytes(), true, 0).unwrap().policy
        };
        let alone = policy("pipelock: {listen: \"127.0.0.1:8888\"}\n");
        let said = out_of_reach(&alone, Mode::Machine).unwrap();
        assert!(
            said.contains("pipelock listens on 127.0.0.1:8888"),
            "{said}"
        );
        // What listens everywhere is what a machine needs, and what a laptop does not.
        let open = policy("");
        assert_eq!(in_reach(&open, false), None);
        assert_eq!(in_reach(&alone, true), None);
        let said = in_reach(&open, true).unwrap();
        assert!(said.contains("pipelock.listen: 127.0.0.1:8888"), "{said}");
        // Who shares a network reaches its loopback.
        assert_eq!(out_of_reach(&alone, Mode::Container), None);
        assert_eq!(out_of_reach(&alone, Mode::Child), None);
        assert_eq!(out_of_reach(&policy(""), Mode::Machine), None);
        let behind = policy(
            "pipelock: {listen: \"127.0.0.1:8888\"}\ndaemons: {a: {exec: [/bin/a], listen: [8080], \
             agent_proxy: 8080}}\n",
        );
        assert_eq!(out_of_reach(&behind, Mode::Machine), None);
    }

    #[test]
    fn a_key_that_does_nothing_here_is_said_to_do_nothing() {
        let network = |text: &str| {
            let text = format!("slug: a\nbottle: {{}}\nnetwork: {{{text}}}\n");
            policy::read(text.as_bytes(), true, 0)
                .unwrap()
                .policy
                .network
        };
        let dns = network("dns: [10.0.0.1]");
        assert_eq!(out_of_place(&dns, Mode::Machine), None);
        let all = network("dns: [10.0.0.1], gateway: 10.0.0.2, hosts: {a.example: 10.0.0.3}");
        for (mode, why) in [
            (Mode::Child, "outside a machine the names"),
            (
                Mode::Container,
                "a container has its names and routes from its runtime",
            ),
        ] {
            let said = out_of_place(&dns, mode).unwrap();
            let wanted = format!("network.dns does nothing here: {why}");
            assert!(said.starts_with(&wanted), "{said}");
            let said = out_of_place(&all, mode).unwrap();
            let keys = "network.hosts, network.gateway, network.dns do nothing here: ";
            assert!(said.starts_with(keys), "{said}");
            // What a container or a process obeys as well.
            let obeyed = "internal_cidr: 10.0.0.0/8, address: 10.0.0.4/8, internal: a, egress: b";
            assert_eq!(out_of_place(&network(obeyed), mode), None);
        }
    }

    #[test]
    fn memory_that_nothing_limits_here_is_said_not_to_be_limited() {
        let daemons = |text: &str| {
            let text = format!("slug: a\nbottle: {{}}\ndaemons: {{{text}}}\n");
            let judged = policy::read(text.as_bytes(), true, 0).unwrap();
            judged.policy.daemons
        };
        let one = daemons("a: {exec: [/bin/a], memory_mib: 16}, b: {exec: [/bin/b]}");
        assert_eq!(unlimited(&one, Mode::Machine), None);
        let said = unlimited(&one, Mode::Container).unwrap();
        let wanted = "daemons.a.memory_mib does nothing here: a daemon's memory is limited in a machine alone; \
                      limit the container ";
        assert!(said.starts_with(wanted), "{said}");
        let two =
            daemons("a: {exec: [/bin/a], memory_mib: 16}, b: {exec: [/bin/b], memory_mib: 4}");
        let said = unlimited(&two, Mode::Child).unwrap();
        let wanted = "daemons.a.memory_mib, daemons.b.memory_mib do nothing here: ";
        assert!(said.starts_with(wanted), "{said}");
        let none = daemons("a: {exec: [/bin/a]}");
        assert_eq!(unlimited(&none, Mode::Child), None);
    }

    #[test]
    fn what_is_read_is_judged_and_a_part_of_it_is_not() {
        let directory = std::env::temp_dir().join(format!("sidecar-read-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let [manifest, cert, key] =
            ["manifest.yaml", "ca.pem", "ca-key.pem"].map(|it| directory.join(it));
        let bottle = Bottle::of(manifest, [cert, key], Mode::Machine, false);
        let missing = bottle.judge(&bottle.read_beside()).unwrap_err();
        assert_eq!(missing.code, ExitCode::ManifestMissing);
        assert!(missing.to_string().starts_with("cannot read "), "{missing}");
        fs::write(
            &bottle.manifest,
            "version: 1\nslug: one\nbottle: {egress: {routes: []}}\n",
        )
        .unwrap();
        let whole = bottle.read_beside();
        assert_eq!(bottle.judge(&whole).unwrap().0.policy.slug, "one");
        for length in 0..=size_of::<u64>() {
            let part = bottle.judge(&whole[..length]).unwrap_err();
            assert_eq!(part.code, ExitCode::Internal, "{length}");
        }
        fs::create_dir(directory.join("trust")).unwrap();
        fs::write(directory.join("trust/a.pem"), "nothing").unwrap();
        let (bad, _) = bottle.judge(&bottle.read_beside()).unwrap();
        let bad = bad.with_its_roots().unwrap_err();
        assert_eq!(bad.code, ExitCode::ManifestInvalid);
        assert!(bad.to_string().contains("it holds no certificate"), "{bad}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
