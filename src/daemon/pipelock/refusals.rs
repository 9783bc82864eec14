//! Every way in which pipelock refuses, cuts or fails a request with the configuration we
//! render: how it is recognised, what it is called to a person, and which key of the
//! manifest changes it. Pure.
//!
//! Read in pipelock 2.3.0's source and provoked one by one (`tests/quick/refusals.rs`). What needs
//! a section that we do not render is not here, and is told in pipelock's own words if it
//! comes all the same: budgets, airlock, sessions, cross-request detection, address
//! protection, redaction, A2A, browser shield, mediation envelope, WebSocket proxying. Its
//! blocklist does not judge in strict mode; an injection outside an event stream is let by
//! with a warning, as `response_scanning.action` says; images lose their metadata, silently.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::boot::mode::Mode;
use crate::ca::rfc3339;
use crate::policy::grants::Grant;
use crate::policy::matching::{allows, allows_entry, passes_entry};
use crate::policy::{MAX_REQUESTS_PER_MINUTE, Policy, in_yaml, one_more_passed, route_for};

/// pipelock's own limits, where the manifest sets none.
pub(crate) const DEFAULT_SCAN_LIMIT_MIB: u32 = 5;
/// Of a response over plain HTTP.
pub(crate) const DEFAULT_PLAIN_LIMIT_MIB: u32 = 10;
pub(crate) const DEFAULT_REQUESTS_PER_MINUTE: u32 = 60;

/// What was refused, cut, or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The host is not in the allowlist.
    NotAllowed,
    /// Its name has no address.
    Unresolved,
    /// Its address is a private one.
    PrivateAddress,
    /// More requests in a minute than the limit.
    TooManyRequests,
    /// A key, or what looks like one, in the host's name.
    SecretInName,
    /// The same in the URL.
    SecretInUrl,
    /// The same in a request's body.
    SecretInBody,
    /// The same in a request's header.
    SecretInHeader,
    /// The same in a header of the request for a tunnel.
    SecretForProxy,
    /// A part of the URL that looks random.
    RandomUrl,
    /// A part of the name that looks random.
    RandomName,
    /// A URL longer than the limit.
    LongUrl,
    /// A URL with a line end or `..` in it.
    OddUrl,
    /// A request body above the limit.
    RequestTooLarge,
    /// A compressed request body.
    RequestCompressed,
    /// A form, JSON or multipart body that is none.
    RequestUnreadable,
    /// A request body that did not come to its end.
    RequestBrokenOff,
    /// A response above the limit.
    ResponseTooLarge,
    /// A compressed response.
    ResponseCompressed,
    /// Video, audio, or an image that is not let by.
    Media,
    /// An event in a stream that was refused: the stream ended there.
    StreamCut,
    /// A response over plain HTTP that was cut at the limit.
    ResponseCut,
    /// A client without our CA.
    CaNotTrusted,
    /// A TLS handshake that failed otherwise.
    HandshakeFailed,
    /// A tunnel whose TLS names another host, none, or that said nothing.
    WrongName,
    /// A request for another host inside a tunnel.
    WrongHost,
    /// pipelock's own kill switch.
    KillSwitch,
    /// A server whose certificate pipelock does not trust.
    UpstreamNotTrusted,
    /// A server that could not be reached or broke off.
    UpstreamFailed,
}

impl Kind {
    /// What happened to the request.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::StreamCut | Self::ResponseCut => "cut",
            Self::UpstreamNotTrusted | Self::UpstreamFailed | Self::RequestBrokenOff => "failed",
            _ => "refused",
        }
    }
}

/// What changes a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// A route.
    Route,
    /// A resolver, or an address.
    Resolver,
    /// A network that may be reached although it is private.
    InternalCidr,
    /// `pipelock.requests_per_minute`.
    Rate,
    /// `pipelock.passthrough`, for a host that is opened.
    Passthrough,
    /// Passthrough, or else `pipelock.scan_limit_mib`.
    ScanLimit,
    /// The client can do this, or else passthrough.
    Client(&'static str),
    /// No key of the manifest, but this.
    Otherwise(&'static str),
    /// None, because of this.
    None(&'static str),
}

/// Where a refusal came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Anywhere.
    Any,
    /// At the request for a tunnel.
    Tunnel,
    /// At a request with a URL.
    Request,
}

/// What of a reason is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// What it is recognised by.
    Begin,
    /// That, and the names of pipelock's patterns behind it.
    Names,
    /// Other words.
    As(&'static str),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What it is.
    pub kind: Kind,
    /// pipelock's names of what refuses it; for events without one, the event's.
    scanners: &'static [&'static str],
    at: At,
    /// How pipelock's reason begins.
    begins: &'static str,
    told: Told,
    /// For a person: the end of "2 × a.example: …".
    pub words: &'static str,
    /// What changes it.
    pub remedy: Remedy,
}

const fn row(
    kind: Kind,
    scanners: &'static [&'static str],
    begins: &'static str,
    words: &'static str,
    remedy: Remedy,
) -> Row {
    Row {
        kind,
        scanners,
        at: At::Any,
        begins,
        told: Told::Begin,
        words,
        remedy,
    }
}

const fn at(at: At, row: Row) -> Row {
    Row { at, ..row }
}

const fn told(told: Told, row: Row) -> Row {
    Row { told, ..row }
}

const NO_SECRETS: Remedy =
    Remedy::None("keys are looked for in every name, whatever the manifest says");
const CLIENT: Remedy = Remedy::None("the client did that");
const NO_FORM: Remedy = Remedy::Client(
    "give it the Content-Type of what it is, as in curl -H 'Content-Type: application/octet-stream'",
);
const NO_JSON: Remedy = Remedy::Client("give it the Content-Type of what it is");
const SERVER: Remedy = Remedy::None("pipelock let the request by; the server failed it");

/// The table. The first row that fits is the one.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row(Kind::NotAllowed, &["allowlist"], "domain not in allowlist", "not in the allowlist", Remedy::Route),
    row(Kind::Unresolved, &["ssrf"], "SSRF check failed", "its name could not be resolved", Remedy::Resolver),
    row(Kind::PrivateAddress, &["ssrf"], "SSRF blocked", "it is at a private address", Remedy::InternalCidr),
    row(Kind::PrivateAddress, &["core_ssrf"], "core SSRF", "it is at a private address", Remedy::InternalCidr),
    row(Kind::TooManyRequests, &["ratelimit"], "rate limit exceeded", "too many requests in a minute", Remedy::Rate),
    row(Kind::LongUrl, &["length"], "URL length", "the URL is longer than pipelock scans", Remedy::Passthrough),
    row(Kind::RandomUrl, &["entropy"], "high entropy path segment", "a part of the URL's path looks random, as keys do", Remedy::Passthrough),
    row(Kind::RandomUrl, &["entropy"], "high entropy query key", "a name in the URL's query looks random, as keys do", Remedy::Passthrough),
    row(Kind::RandomUrl, &["entropy"], "high entropy query param", "a value in the URL's query looks random, as keys do", Remedy::Passthrough),
    row(Kind::RandomName, &["subdomain_entropy"], "high entropy subdomain label", "a part of the name looks random, as keys do", NO_SECRETS),
    row(Kind::OddUrl, &["crlf_injection"], "CRLF injection sequence in URL", "there is a line end in the URL", Remedy::Passthrough),
    row(Kind::OddUrl, &["crlf_injection"], "double-encoded CR", "there is a line end in the URL", Remedy::Passthrough),
    row(Kind::OddUrl, &["crlf_injection"], "encoded CR or LF in URL", "there is a line end in the URL", Remedy::Passthrough),
    row(Kind::OddUrl, &["path_traversal"], "path traversal sequence in URL", "there is .. in the URL's path", Remedy::Passthrough),
    row(Kind::OddUrl, &["path_traversal"], "double-encoded path traversal in URL", "there is .. in the URL's path", Remedy::Passthrough),
    at(At::Tunnel, told(Told::Names, row(Kind::SecretInName, &["core_dlp", "dlp"], "", "the name looks as if it carried a key", NO_SECRETS))),
    at(At::Request, told(Told::Names, row(Kind::SecretInUrl, &["core_dlp", "dlp"], "", "the URL looks as if it carried a key", Remedy::Passthrough))),
    told(Told::Names, row(Kind::SecretInBody, &["body_dlp"], "request body contains secret", "the request looked as if it carried a key", Remedy::Passthrough)),
    at(At::Tunnel, row(Kind::SecretForProxy, &["header_dlp"], "request header contains secret", "a header for the proxy itself looked as if it carried a key", Remedy::None("no proxy needs a key here"))),
    row(Kind::SecretInHeader, &["header_dlp"], "request header contains secret", "a header looked as if it carried a key", Remedy::Passthrough),
    row(Kind::RequestTooLarge, &["body_dlp"], "request body exceeds max_body_bytes", "the request is larger than pipelock scans", Remedy::ScanLimit),
    row(Kind::RequestCompressed, &["body_dlp"], "request body uses Content-Encoding", "the request is compressed, and cannot be scanned", Remedy::Passthrough),
    row(Kind::RequestUnreadable, &["body_dlp"], "invalid application/x-www-form-urlencoded body", "the request says it is a form and is none (curl --data-binary says so unless it is given a Content-Type)", NO_FORM),
    row(Kind::RequestUnreadable, &["body_dlp"], "invalid JSON body", "the request says it is JSON and is none", NO_JSON),
    row(Kind::RequestBrokenOff, &["body_dlp"], "error reading", "the request broke off", CLIENT),
    row(Kind::RequestUnreadable, &["body_dlp"], "multipart", "the request's parts could not be taken apart, or are more than 100", Remedy::Passthrough),
    row(Kind::ResponseTooLarge, &["tls_response_blocked"], "response too large for scanning", "the response is larger than pipelock scans", Remedy::ScanLimit),
    row(Kind::ResponseCompressed, &["tls_response_blocked", "response_scan"], "compressed response cannot be scanned", "the server compressed the response although it was not asked to, and so it cannot be scanned", Remedy::Passthrough),
    row(Kind::ResponseCompressed, &["sse_stream"], "compressed sse_stream response cannot be scanned", "the server compressed the stream although it was not asked to, and so it cannot be scanned", Remedy::Passthrough),
    row(Kind::Media, &["media_policy"], "media_policy: video stripped", "it is video, which pipelock lets nobody see", Remedy::Passthrough),
    row(Kind::Media, &["media_policy"], "media_policy: audio stripped", "it is audio, which pipelock lets nobody hear", Remedy::Passthrough),
    row(Kind::Media, &["media_policy"], "media_policy: image type", "it is an image that is neither PNG nor JPEG", Remedy::Passthrough),
    row(Kind::Media, &["media_policy"], "media_policy: image size", "it is an image of more than 5 MiB", Remedy::Passthrough),
    row(Kind::Media, &["media_policy"], "media_policy: image parse error", "it is an image that is not whole, or has something behind its end", Remedy::Passthrough),
    told(Told::Names, row(Kind::StreamCut, &["sse_stream"], "sse stream finding: injection", "the stream was ended where an event read like an order to a model", Remedy::Passthrough)),
    told(Told::Names, row(Kind::StreamCut, &["sse_stream"], "sse stream finding: dlp", "the stream was ended where an event looked as if it carried a key", Remedy::Passthrough)),
    row(Kind::StreamCut, &["sse_stream"], "sse stream finding: sse event exceeds max_event_bytes", "the stream was ended before an event of more than 64 KiB", Remedy::Passthrough),
    row(Kind::StreamCut, &["sse_stream"], "sse stream finding: sse event contains invalid UTF-8", "the stream was ended before an event that is no text", Remedy::Passthrough),
    row(Kind::UpstreamFailed, &["sse_stream"], "sse stream read", "the server broke the stream off", SERVER),
    told(Told::As("response cut at the limit"), row(Kind::ResponseCut, &["forward_http"], "", "the response over plain HTTP was cut at the limit, without an error", Remedy::ScanLimit)),
    told(Told::As("the client does not trust the CA"), row(Kind::CaNotTrusted, &["tls_handshake_error"], "", "the client does not trust the CA", Remedy::Otherwise("the client needs client.env and ca-bundle.pem from the export directory"))),
    told(Told::As("the TLS handshake failed"), row(Kind::HandshakeFailed, &["tls_handshake_error"], "", "the TLS handshake failed", Remedy::Otherwise("the client needs client.env and ca-bundle.pem from the export directory"))),
    // Another host's, none, or no TLS at all.
    told(Told::As("no TLS handshake that names this host"), row(Kind::WrongName, &["sni_mismatch"], "", "the tunnel had no TLS handshake that names this host", CLIENT)),
    row(Kind::WrongHost, &["tls_authority_mismatch"], "authority mismatch", "asked for inside a tunnel to another host", CLIENT),
    told(Told::As("pipelock's kill switch is on"), row(Kind::KillSwitch, &["kill_switch"], "", "pipelock's kill switch is on", Remedy::None("somebody sent pipelock a SIGUSR1; its restart ends it"))),
    told(Told::As("the server's certificate is not trusted"), row(Kind::UpstreamNotTrusted, &["upstream"], "", "the server's certificate is not trusted", Remedy::Otherwise("is it yours? put its root into trust/NAME.pem beside the manifest"))),
    told(Told::As("the server could not be reached, or broke off"), row(Kind::UpstreamFailed, &["upstream"], "", "the server could not be reached, or broke off", SERVER)),
];

/// What pipelock logs as blocked although it was the client that went away.
const CLIENT_LEFT: [(&str, &str); 4] = [
    ("context", ""),
    ("sse_stream", "context canceled"),
    ("sse_stream", "sse stream write"),
    ("sse_stream", "sse stream read: context canceled"),
];

/// Whether this is no refusal: nobody was there any more to be refused.
#[must_use]
pub fn client_left(scanner: &str, reason: &str) -> bool {
    let mut known = CLIENT_LEFT.iter();
    known.any(|(left, begins)| *left == scanner && reason.starts_with(begins))
}

/// The row for a refusal; `None` for one that is not known.
#[must_use]
pub fn recognise(scanner: &str, reason: &str, tunnel: bool) -> Option<&'static Row> {
    TABLE.iter().find(|row| {
        let here = match row.at {
            At::Any => true,
            At::Tunnel => tunnel,
            At::Request => !tunnel,
        };
        here && row.scanners.contains(&scanner)
            && reason.starts_with(row.begins)
            && match row.kind {
                Kind::CaNotTrusted => is_distrust(reason),
                Kind::UpstreamNotTrusted => reason.contains("failed to verify certificate"),
                _ => true,
            }
    })
}

/// Whether a client ended the handshake because of the certificate. Its alert reaches Go
/// in words, or, from OpenSSL under TLS 1.3, as a record that cannot be decrypted
/// (measured with curl).
fn is_distrust(error: &str) -> bool {
    error.contains("certificate") || error.contains("bad record MAC")
}

impl Row {
    /// What of pipelock's reason may be told; `None` where it is the names of patterns that
    /// follow, for [`super::events`] to take out of it.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self.told {
            Told::Begin => Some(self.begins),
            Told::As(words) => Some(words),
            Told::Names => None,
        }
    }

    /// Whether plain HTTP needs another advice than the same refusal over TLS.
    #[must_use]
    pub fn minds_plain(&self) -> bool {
        let remedy = self.remedy;
        matches!(
            remedy,
            Remedy::Passthrough | Remedy::ScanLimit | Remedy::Client(_)
        )
    }

    /// What it means, with the names of the patterns that a told reason ends with.
    #[must_use]
    pub fn means(&self, reason: &str) -> String {
        match reason.rsplit_once(": ") {
            Some((_, names)) if self.told == Told::Names => format!("{}: {names}", self.words),
            _ => self.words.to_owned(),
        }
    }
}

/// What is said of a refusal that is not known, which is what pipelock said.
#[must_use]
pub fn means_unknown(scanner: &str, reason: &str) -> String {
    format!("pipelock says {reason:?} ({scanner})")
}

/// The limits a request met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    scan_mib: u32,
    plain_mib: u32,
    per_minute: u32,
    /// Of `network.internal_cidr` and of `network.dns`, to see that they changed.
    cidr: u64,
    dns: u64,
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// This host; after `*.` where labels before it are not told.
    Host(String),
    /// A host that is not told: it may be a secret, or pipelock names none.
    Untold,
    /// What no host can be.
    NoHost,
}

impl Asked {
    /// The host, where it is told.
    #[must_use]
    pub fn named(&self) -> Option<&str> {
        match self {
            Self::Host(host) => Some(host),
            Self::Untold | Self::NoHost => None,
        }
    }
}

/// What a request that was refused had met, besides the row of the table that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// What it asked for.
    pub host: Asked,
    /// Whether it was plain HTTP.
    pub plain: bool,
    /// The limits, the last time.
    pub limits: Limits,
    /// The private address it was refused for the last time, where that is known.
    pub address: Option<IpAddr>,
}

/// What of the manifest in force decides what is worth advising.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InForce {
    allowlist: Vec<String>,
    passthrough: Vec<String>,
    /// The two without what is granted for a time, where anything is.
    lasting: Option<Box<(Vec<String>, Vec<String>)>>,
    grants: Vec<Grant>,
    limits: Limits,
    /// Whether there is a `network.internal_cidr`, which is one network and no list.
    has_cidr: bool,
    /// Where the init runs: names are the manifest's to say in a machine alone.
    place: Option<Mode>,
}

impl InForce {
    /// What a policy says of it, there.
    #[must_use]
    pub fn of(policy: &Policy, place: Mode) -> Self {
        let tuning = &policy.tuning;
        let scan = tuning.scan_limit_mib;
        Self {
            allowlist: policy.allowlist.clone(),
            passthrough: policy.passthrough.clone(),
            lasting: (!policy.grants.is_empty()).then(|| {
                let (allowlist, passthrough) = policy.lasting();
                Box::new((allowlist.to_vec(), passthrough.to_vec()))
            }),
            grants: policy.grants.clone(),
            limits: Limits {
                scan_mib: scan.unwrap_or(DEFAULT_SCAN_LIMIT_MIB),
                plain_mib: scan.unwrap_or(DEFAULT_PLAIN_LIMIT_MIB),
                per_minute: tuning
                    .requests_per_minute
                    .unwrap_or(DEFAULT_REQUESTS_PER_MINUTE),
                cidr: hash(&policy.internal_cidr),
                dns: hash(&policy.network.dns),
            },
            has_cidr: policy.internal_cidr.is_some(),
            place: Some(place),
        }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether the allowlist has the host.
    #[must_use]
    pub fn allows(&self, host: &str) -> bool {
        allows(&self.allowlist, host)
    }

    /// Whether a response over plain HTTP of so many bytes is one that was cut.
    #[must_use]
    pub fn cuts_at(&self, bytes: u64) -> bool {
        bytes == u64::from(self.limits.plain_mib) << 20
    }

    /// What the manifest passes through without an end.
    fn listed(&self) -> &[String] {
        let lasting = self.lasting.as_ref();
        lasting.map_or(&self.passthrough, |lasting| &lasting.1)
    }

    /// The grant of a host that nothing else allows: of those in force the one that ends last,
    /// else the one that has.
    fn granted(&self, host: &str) -> Option<&Grant> {
        let (allowlist, _) = &**self.lasting.as_ref()?;
        let grants = self.grants.iter();
        let of_host = grants.filter(|it| allows_entry(std::slice::from_ref(&it.host), host));
        of_host
            .max_by_key(|grant| (grant.in_force, grant.until))
            .filter(|_| !allows_entry(allowlist, host))
    }

    /// What to do if a request of this kind was wanted.
    #[must_use]
    pub fn advice(&self, row: &Row, met: &Met) -> Advice {
        let Met {
            ref host,
            plain,
            limits: then,
            address,
        } = *met;
        let named = host.named();
        let now = self.limits;
        let allowed = named.is_some_and(|host| allows_entry(&self.allowlist, host));
        let passed = named.is_some_and(|host| passes_entry(&self.passthrough, host));
        let granted = named.and_then(|host| self.granted(host));
        let passthrough = || {
            let key = match named.map(|host| (host, route_for(host))) {
                Some((_, Err(why))) => return Err(why),
                Some((_, Ok(_))) if granted.is_some() => {
                    "in its grant: write passthrough: true".to_owned()
                }
                Some((host, Ok(_))) => {
                    format!("under pipelock: {}", one_more_passed(self.listed(), host))
                }
                None => "name the host in pipelock.passthrough".to_owned(),
            };
            let what = match (plain, passed) {
                (false, _) => key,
                (true, false) => format!("ask for it over https, and {key}"),
                (true, true) => {
                    "ask for it over https, where the host is passed through".to_owned()
                }
            };
            Ok(format!("{what}; {GIVES_UP}"))
        };
        match row.remedy {
            Remedy::Route if allowed => Advice::Done(match granted {
                Some(grant) => format!("it is allowed since, until {}", rfc3339(grant.until)),
                None => "it is allowed since".to_owned(),
            }),
            Remedy::Route => match granted {
                Some(grant) => allowed_until(grant),
                None => route(host),
            },
            Remedy::Rate if now.per_minute > then.per_minute => Advice::Done(format!(
                "{} requests a minute are allowed since",
                now.per_minute
            )),
            Remedy::Rate if now.per_minute >= MAX_REQUESTS_PER_MINUTE => {
                Advice::None("requests_per_minute is the largest there is".into())
            }
            Remedy::Rate => Advice::Do(format!(
                "was it meant? under pipelock: write requests_per_minute: {}",
                now.per_minute
                    .saturating_mul(2)
                    .clamp(600, MAX_REQUESTS_PER_MINUTE)
            )),
            Remedy::Passthrough | Remedy::ScanLimit | Remedy::Client(_) if !plain && passed => {
                Advice::Done("the host is passed through, unscanned, since".to_owned())
            }
            Remedy::Passthrough | Remedy::ScanLimit | Remedy::Client(_)
                if named.is_some() && !allowed =>
            {
                Advice::Done("the host is no longer allowed".to_owned())
            }
            Remedy::ScanLimit
                if now.scan_mib > then.scan_mib || plain && now.plain_mib > then.plain_mib =>
            {
                Advice::Done(format!("the limit is {} MiB since", now.scan_mib))
            }
            Remedy::Passthrough => match passthrough() {
                Ok(key) => Advice::Do(format!("was it meant? {key}")),
                Err(why) => Advice::None(why.into()),
            },
            Remedy::Client(first) => Advice::Do(match passthrough() {
                Ok(key) => format!("was it meant? {first}; or {key}"),
                Err(_) => format!("was it meant? {first}"),
            }),
            Remedy::ScanLimit => {
                let limit = if plain { now.plain_mib } else { now.scan_mib };
                let more = limit
                    .saturating_mul(4)
                    .min(crate::policy::MAX_SCAN_LIMIT_MIB);
                // Second: what is worth asking for is mostly too large to be waited for.
                let raise =
                    (more > limit).then(|| format!("write scan_limit_mib: {more}, which {COSTS}"));
                match (passthrough(), raise) {
                    (Ok(key), None) => Advice::Do(format!("was it meant? {key}")),
                    (Ok(key), Some(raise)) => {
                        Advice::Do(format!("was it meant? {key}; or {raise}"))
                    }
                    (Err(_), Some(raise)) => {
                        Advice::Do(format!("was it meant? under pipelock: {raise}"))
                    }
                    (Err(why), None) => Advice::None(why.into()),
                }
            }
            Remedy::Resolver => self.resolver(now.dns != then.dns),
            Remedy::InternalCidr if now.cidr != then.cidr => {
                Advice::Done("network.internal_cidr was changed since".to_owned())
            }
            Remedy::InternalCidr => self.internal_cidr(address),
            Remedy::Otherwise(what) => Advice::Do(what.to_owned()),
            Remedy::None(why) => Advice::None(why.into()),
        }
    }

    /// What lets a private address be reached.
    fn internal_cidr(&self, address: Option<IpAddr>) -> Advice {
        Advice::Do(match (address, self.has_cidr) {
                (Some(address), false) => format!(
                    "was it meant? under network: write internal_cidr: {address}/{}",
                    if address.is_ipv4() { 32 } else { 128 }
                ),
                (Some(address), true) => format!(
                    "was it meant? network.internal_cidr, which is one network, has to hold {address} as well"
                ),
                (None, false) => {
                    "was it meant? its network has to be network.internal_cidr; the log has its address".to_owned()
                }
                (None, true) => {
                    "was it meant? network.internal_cidr, which is one network, has to hold its address as well; \
                     the log has that".to_owned()
                }
            })
    }

    /// What lets a name be resolved; `changed`: the manifest's servers are others since.
    fn resolver(&self, changed: bool) -> Advice {
        const MACHINE: &str = "network.dns and network.hosts are for a machine alone";
        match self.place {
            Some(Mode::Container) => Advice::Do(format!(
                "was it meant? the container's runtime has to let it be resolved, as docker run --dns and \
                 --add-host do: {MACHINE}"
            )),
            Some(Mode::Child) => Advice::Do(format!(
                "was it meant? this system's resolver has to know it: {MACHINE}"
            )),
            Some(Mode::Machine) | None if changed => {
                Advice::Done("network.dns was changed since".to_owned())
            }
            Some(Mode::Machine) | None => Advice::Do(
                "was it meant? name its server in network.dns, or itself with its address in network.hosts"
                    .to_owned(),
            ),
        }
    }
}

/// What to do about a host that was granted.
fn allowed_until(grant: &Grant) -> Advice {
    let unscanned = if grant.passthrough {
        " --passthrough"
    } else {
        ""
    };
    Advice::Do(format!(
        "it was allowed until {}. was it meant for longer? sidecar-init grant {}{unscanned}, or write another \
         time as the until of its grant: host: {}",
        rfc3339(grant.until),
        grant.host,
        in_yaml(&grant.host)
    ))
}

/// The route that allows what is not allowed.
fn route(asked: &Asked) -> Advice {
    let host = match asked {
        Asked::Host(host) => host,
        Asked::Untold => {
            let what = "was it meant? add it below bottle.egress.routes; the log has its name";
            return Advice::Do(what.to_owned());
        }
        Asked::NoHost => {
            return Advice::None("what was asked for is no host name; the log has it".into());
        }
    };
    if host == "invalid" || host.ends_with(".invalid") {
        return Advice::None("no name below .invalid ever resolves (RFC 2606)".into());
    }
    match route_for(host) {
        Ok(route) if host.starts_with("*.") => Advice::Do(format!(
            "was it meant? below bottle.egress.routes, with every name below it: - host: {route}"
        )),
        Ok(route) => Advice::Do(format!(
            "was it meant? add below bottle.egress.routes: - host: {route}"
        )),
        Err(why) => Advice::None(why.into()),
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What an advice asks that is to be decided.
pub const ASKS: &str = "was it meant";

/// What passing a host through gives up.
const GIVES_UP: &str = "then nothing that goes there or comes from there is scanned";

/// And what a larger limit costs.
const COSTS: &str =
    "scans it at less than half a megabyte a second and takes several times its size in memory";

/// What is to be done about a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// This, if the request was wanted.
    Do(String),
    /// Nothing more: the manifest was changed since.
    Done(String),
    /// Nothing in the manifest, because of this.
    None(Cow<'static, str>),
}

impl Advice {
    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Do(what) => what.clone(),
            Self::Done(what) => format!("nothing to do: {what}"),
            Self::None(why) => format!("no key of the manifest changes that: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_the_first_that_fits_what_it_begins_with() {
        for row in TABLE {
            let more = match row.kind {
                Kind::CaNotTrusted => "remote error: tls: bad certificate",
                Kind::UpstreamNotTrusted => "tls: failed to verify certificate: x509",
                _ => " and more",
            };
            let reason = format!("{}{more}", row.begins);
            for scanner in row.scanners {
                let tunnel = row.at == At::Tunnel;
                let found = recognise(scanner, &reason, tunnel).map(|found| found.words);
                assert_eq!(found, Some(row.words), "{scanner}: {reason}");
            }
            assert!(row.means("a: b").starts_with(row.words));
        }
    }

    #[test]
    fn a_resolver_is_the_manifest_s_in_a_machine_alone() {
        let policy = |dns: &str| {
            let text = format!("slug: a\nbottle: {{}}\nnetwork: {{dns: [{dns}]}}\n");
            crate::policy::read(text.as_bytes(), true, 0)
                .unwrap()
                .policy
        };
        let row = TABLE
            .iter()
            .find(|row| row.kind == Kind::Unresolved)
            .unwrap();
        let advice = |place, then: &str| {
            let then = InForce::of(&policy(then), place).limits();
            let now = InForce::of(&policy("10.0.0.1"), place);
            let met = Met {
                host: Asked::Host("a.example".to_owned()),
                plain: false,
                limits: then,
                address: None,
            };
            now.advice(row, &met).text()
        };
        assert_eq!(
            advice(Mode::Machine, "10.0.0.1"),
            "was it meant? name its server in network.dns, or itself with its address in network.hosts"
        );
        assert_eq!(
            advice(Mode::Machine, ""),
            "nothing to do: network.dns was changed since"
        );
        for (place, whose) in [
            (
                Mode::Container,
                "was it meant? the container's runtime has to",
            ),
            (Mode::Child, "was it meant? this system's resolver has to"),
        ] {
            for then in ["10.0.0.1", ""] {
                let said = advice(place, then);
                assert!(said.starts_with(whose), "{said}");
                assert!(said.ends_with("are for a machine alone"), "{said}");
            }
        }
    }

    #[test]
    fn calls_nothing_a_key_that_was_none() {
        let looked_for = ["contains secret", "DLP match", "dlp", "high entropy"];
        for row in TABLE {
            let is_one = row.begins.is_empty() && row.scanners.contains(&"dlp")
                || looked_for.iter().any(|words| row.begins.contains(words));
            assert_eq!(row.words.contains("key"), is_one, "{row:?}");
        }
    }
}
