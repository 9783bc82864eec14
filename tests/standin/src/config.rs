//! pipelock's configuration: strict decoding, defaults, validation, and what a
//! hot reload may not loosen. Touches the kernel only to look at the CA files.

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::yaml::{self, Node, Value};

/// How many patterns pipelock 2.3.0 has of its own; `/health` counts them.
const DEFAULT_DLP_PATTERNS: usize = 48;

/// A configuration with its defaults, as the running daemon uses it.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub struct Config {
    /// strict, balanced or audit.
    pub mode: String,
    /// Whether findings block.
    pub enforce: bool,
    /// Whether refusals shall carry `X-Pipelock-Hint`; accepted, and not done here.
    pub explain_blocks: bool,
    /// Hosts that may be reached; enforced in strict mode only.
    pub api_allowlist: Vec<String>,
    /// `host:port` to listen on.
    pub listen: String,
    /// Requests a minute for each registrable domain; 0 is unlimited.
    pub max_requests_per_minute: usize,
    /// Longest URL, in bytes.
    pub max_url_length: usize,
    /// Largest response over plain HTTP, in MiB; the rest of a larger one is cut off.
    pub max_response_mb: usize,
    /// Hosts refused outside strict mode.
    pub blocklist: Vec<String>,
    /// Whether CONNECT and absolute-form requests are served.
    pub forward_proxy: bool,
    /// Seconds after which a tunnel ends, whatever it does.
    pub max_tunnel_seconds: u64,
    /// Seconds without a byte after which a tunnel ends.
    pub idle_timeout_seconds: u64,
    /// Whether the `ClientHello` must name the CONNECT target.
    pub sni_verification: bool,
    /// What `/health` says of WebSocket proxying; the stand-in has none.
    pub websocket_proxy: bool,
    /// How many patterns `/health` counts.
    pub dlp_patterns: usize,
    /// `dlp.include_defaults`, for the reload's judgement.
    pub dlp_include_defaults: bool,
    /// Whether the environment's secrets are looked for.
    pub scan_env: bool,
    /// What `/health` says of response scanning.
    pub response_scanning: bool,
    /// What `/health` says of git protection.
    pub git_protection: bool,
    /// Whether request bodies are scanned.
    pub body_scanning: bool,
    /// block or warn.
    pub body_action: String,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Whether headers are scanned.
    pub scan_headers: bool,
    /// sensitive or all.
    pub header_mode: String,
    /// Headers scanned in sensitive mode.
    pub sensitive_headers: Vec<String>,
    /// Headers not scanned in mode all.
    pub ignore_headers: Vec<String>,
    /// Whether seed phrases are looked for.
    pub seed_phrase: bool,
    /// Shortest seed phrase, in words.
    pub seed_min_words: usize,
    /// Whether a seed phrase's checksum must hold.
    pub seed_checksum: bool,
    /// Whether tunnels are opened.
    pub tls_interception: bool,
    /// The CA's certificate.
    pub ca_cert: PathBuf,
    /// The CA's key.
    pub ca_key: PathBuf,
    /// Largest response of an intercepted host, in bytes.
    pub max_response_bytes: usize,
    /// Hosts whose tunnels stay closed.
    pub passthrough: Vec<String>,
    /// Ranges the SSRF guard treats as internal.
    pub internal: Vec<Cidr>,
    /// Ranges it lets through all the same.
    pub ssrf_allow: Vec<Cidr>,
    /// Names it lets resolve to internal addresses.
    pub trusted_domains: Vec<String>,
    /// Whether the kill switch is on from the start.
    pub kill_switch: bool,
    /// What refused clients are told.
    pub kill_switch_message: String,
    /// Whether allowed traffic is logged.
    pub include_allowed: bool,
    /// Whether refusals are logged.
    pub include_blocked: bool,
    /// SHA-256 of the file's bytes in hex, or `defaults`.
    pub hash: String,
}

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u128,
    bits: u32,
    v4: bool,
}

/// Why a configuration is not one.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Read(String, std::io::Error),
    /// Not YAML, or more than one document.
    Yaml(String, yaml::Error),
    /// Keys and types that do not fit, all of them.
    Fields(String, Vec<String>),
    /// Values that do not make sense.
    Invalid(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, e) => write!(f, "reading config {path}: open {path}: {}", go_words(e)),
            Self::Yaml(path, e) => write!(f, "parsing config {path}: {e}"),
            Self::Fields(path, lines) => {
                write!(f, "parsing config {path}: yaml: unmarshal errors:")?;
                lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
            Self::Invalid(cause) => write!(f, "invalid config: {cause}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, e) => Some(e),
            Self::Yaml(_, e) => Some(e),
            Self::Fields(..) | Self::Invalid(_) => None,
        }
    }
}

/// An operating system error in the words of pipelock's runtime.
pub fn go_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "bind: cannot assign requested address".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string().to_lowercase(),
    }
}

impl Default for Config {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let internal = [
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "224.0.0.0/4",
            "::1/128",
            "fc00::/7",
            "fe80::/10",
            "ff00::/8",
        ];
        Self {
            mode: "balanced".to_owned(),
            enforce: true,
            explain_blocks: false,
            api_allowlist: Vec::new(),
            listen: "127.0.0.1:8888".to_owned(),
            max_requests_per_minute: 60,
            max_url_length: 2048,
            max_response_mb: 10,
            blocklist: Vec::new(),
            forward_proxy: false,
            max_tunnel_seconds: 300,
            idle_timeout_seconds: 120,
            sni_verification: true,
            websocket_proxy: false,
            dlp_patterns: DEFAULT_DLP_PATTERNS,
            dlp_include_defaults: true,
            scan_env: false,
            response_scanning: true,
            git_protection: false,
            body_scanning: true,
            body_action: "warn".to_owned(),
            max_body_bytes: 5 * 1024 * 1024,
            scan_headers: true,
            header_mode: "sensitive".to_owned(),
            sensitive_headers: names(&[
                "Authorization",
                "Cookie",
                "X-Api-Key",
                "X-Token",
                "Proxy-Authorization",
                "X-Goog-Api-Key",
            ]),
            ignore_headers: Vec::new(),
            seed_phrase: true,
            seed_min_words: 12,
            seed_checksum: true,
            tls_interception: false,
            ca_cert: PathBuf::new(),
            ca_key: PathBuf::new(),
            max_response_bytes: 5 * 1024 * 1024,
            passthrough: Vec::new(),
            internal: internal
                .iter()
                .filter_map(|c| Cidr::parse(c).ok())
                .collect(),
            ssrf_allow: Vec::new(),
            trusted_domains: Vec::new(),
            kill_switch: false,
            kill_switch_message: "Emergency deny-all active".to_owned(),
            include_allowed: true,
            include_blocked: true,
            hash: "defaults".to_owned(),
        }
    }
}

/// Reads, decodes and validates a configuration file.
pub fn load(path: &str) -> Result<Config, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::Read(path.to_owned(), e))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        let cause = yaml::Error::Syntax(1, "invalid leading UTF-8 octet".to_owned());
        Error::Yaml(path.to_owned(), cause)
    })?;
    let directory = Path::new(path).parent().unwrap_or(Path::new("."));
    let config = decode(&text, path, directory)?;
    config.validate()?;
    Ok(config)
}

/// The SHA-256 of `bytes`, in hex.
pub fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn decode(text: &str, path: &str, directory: &Path) -> Result<Config, Error> {
    let root = yaml::parse(text).map_err(|e| Error::Yaml(path.to_owned(), e))?;
    let mut config = Config {
        hash: hash(text.as_bytes()),
        ..Config::default()
    };
    let mut decoder = Decoder::default();
    if let Some(root) = root {
        decoder.config(&root, &mut config);
    }
    if !decoder.problems.is_empty() {
        return Err(Error::Fields(path.to_owned(), decoder.problems));
    }
    if let Some(cause) = decoder.invalid {
        return Err(Error::Invalid(cause));
    }
    for file in [&mut config.ca_cert, &mut config.ca_key] {
        if file.as_os_str() != "" && file.is_relative() {
            *file = directory.join(&*file);
        }
    }
    Ok(config)
}

impl Config {
    /// Judges values that fit their types; one cause at a time, as pipelock does.
    pub fn validate(&self) -> Result<(), Error> {
        let invalid = |cause: String| Err(Error::Invalid(cause));
        match self.mode.as_str() {
            "strict" | "balanced" | "audit" => {}
            other => {
                return invalid(format!(
                    "invalid mode \"{other}\": must be strict, balanced, or audit"
                ));
            }
        }
        if self.mode == "strict" && self.api_allowlist.is_empty() {
            return invalid("strict mode requires at least one domain in api_allowlist".to_owned());
        }
        if !matches!(self.body_action.as_str(), "warn" | "block") {
            return invalid(format!(
                "invalid request_body_scanning.action \"{}\": must be warn or block",
                self.body_action
            ));
        }
        if !matches!(self.header_mode.as_str(), "sensitive" | "all") {
            return invalid(format!(
                "invalid request_body_scanning.header_mode \"{}\": must be sensitive or all",
                self.header_mode
            ));
        }
        self.check_ca_files().map_err(Error::Invalid)
    }

    /// That the CA's files are there and the key is not for everybody. Whether
    /// they are any good is for `ca::load`, at start: `check` never asks.
    fn check_ca_files(&self) -> Result<(), String> {
        if !self.tls_interception {
            return Ok(());
        }
        if self.ca_cert.as_os_str().is_empty() || self.ca_key.as_os_str().is_empty() {
            return Err("tls_interception: resolve CA path: $HOME is not defined \
                        (set ca_cert and ca_key explicitly)"
                .to_owned());
        }
        let missing = |what: &str, path: &Path, e: &std::io::Error| {
            let path = path.display();
            let cause = go_words(e);
            format!("CA {what} not found at {path} (run 'pipelock tls init'): stat {path}: {cause}")
        };
        std::fs::metadata(&self.ca_cert).map_err(|e| missing("cert", &self.ca_cert, &e))?;
        let key = std::fs::metadata(&self.ca_key).map_err(|e| missing("key", &self.ca_key, &e))?;
        let mode = key.permissions().mode() & 0o777;
        if mode & 0o137 != 0 {
            return Err(format!(
                "CA key {} is too permissive (mode {mode:04o}): restrict to 0600 or 0640",
                self.ca_key.display()
            ));
        }
        Ok(())
    }

    /// Whether the allowlist is in force.
    pub fn enforces_allowlist(&self) -> bool {
        self.mode == "strict"
    }

    /// What `updated` would loosen, as (field, message).
    #[allow(clippy::too_many_lines)]
    pub fn downgrades(&self, updated: &Self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let rank = |mode: &str| match mode {
            "strict" => 3,
            "balanced" => 2,
            _ => 1,
        };
        if rank(&updated.mode) < rank(&self.mode) {
            let message = format!("mode downgraded from {} to {}", self.mode, updated.mode);
            found.push(("mode", message));
        }
        let mut switched_off = |field, old: bool, new: bool, message: &str| {
            if old && !new {
                found.push((field, message.to_owned()));
            }
        };
        switched_off(
            "dlp.include_defaults",
            self.dlp_include_defaults,
            updated.dlp_include_defaults,
            "DLP include_defaults disabled — new default patterns will not be merged on future upgrades",
        );
        switched_off(
            "internal",
            !self.internal.is_empty(),
            !updated.internal.is_empty(),
            "internal CIDR list emptied — SSRF protection disabled",
        );
        switched_off(
            "enforce",
            self.enforce,
            updated.enforce,
            "enforcement disabled — switching to detect-only mode",
        );
        switched_off(
            "response_scanning.enabled",
            self.response_scanning,
            updated.response_scanning,
            "response scanning disabled",
        );
        switched_off(
            "forward_proxy.enabled",
            self.forward_proxy,
            updated.forward_proxy,
            "forward proxy disabled",
        );
        switched_off(
            "tls_interception.enabled",
            self.tls_interception,
            updated.tls_interception,
            "TLS interception disabled — CONNECT tunnel body/header scanning lost",
        );
        if self.tls_interception && updated.tls_interception {
            let added = added(&self.passthrough, &updated.passthrough);
            if !added.is_empty() {
                found.push((
                    "tls_interception.passthrough_domains",
                    format!(
                        "passthrough domains added: {} — these CONNECT tunnels now bypass body scanning",
                        added.join(", ")
                    ),
                ));
            }
        }
        let trusted = added(&self.trusted_domains, &updated.trusted_domains);
        if !trusted.is_empty() {
            found.push((
                "trusted_domains",
                format!(
                    "trusted domains added: {} — SSRF internal-IP check bypassed for these hosts",
                    trusted.join(", ")
                ),
            ));
        }
        let wider: Vec<String> = (updated.ssrf_allow.iter())
            .filter(|new| !self.ssrf_allow.iter().any(|old| old.covers(new)))
            .map(ToString::to_string)
            .collect();
        if !wider.is_empty() {
            found.push((
                "ssrf.ip_allowlist",
                format!(
                    "SSRF IP allowlist expanded: {} — SSRF check bypassed for these IP ranges",
                    wider.join(", ")
                ),
            ));
        }
        let mut switched_off = |field, old: bool, new: bool, message: &str| {
            if old && !new {
                found.push((field, message.to_owned()));
            }
        };
        switched_off(
            "request_body_scanning.enabled",
            self.body_scanning,
            updated.body_scanning,
            "request body scanning disabled",
        );
        switched_off(
            "seed_phrase_detection.enabled",
            self.seed_phrase,
            updated.seed_phrase,
            "seed phrase detection disabled",
        );
        found
    }
}

/// What `new` has and `old` had not, whatever the case.
fn added(old: &[String], new: &[String]) -> Vec<String> {
    let known = |host: &&String| !old.iter().any(|o| o.eq_ignore_ascii_case(host));
    new.iter().filter(known).cloned().collect()
}

impl Cidr {
    /// Parses a range; the error is pipelock's, less the field's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid CIDR address: {text}");
        let (address, bits) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits: u32 = bits.parse().map_err(|_| bad())?;
        let v4 = address.is_ipv4();
        if bits > if v4 { 32 } else { 128 } {
            return Err(bad());
        }
        let offset = if v4 { 96 } else { 0 };
        Ok(Self {
            base: number(address),
            bits: bits + offset,
            v4,
        })
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - self.bits).unwrap_or(0)
    }

    /// Whether the address is in the range. A mapped IPv4 address counts as IPv4.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.v4 && number(address) & self.mask() == self.base & self.mask()
    }

    /// Whether every address of `other` is in this range.
    pub fn covers(self, other: &Self) -> bool {
        self.v4 == other.v4
            && self.bits <= other.bits
            && other.base & self.mask() == self.base & self.mask()
    }

    fn has_host_bits(self) -> bool {
        self.base & !self.mask() != 0
    }

    fn network(self) -> Self {
        Self {
            base: self.base & self.mask(),
            ..self
        }
    }

    fn prefix(self) -> u32 {
        self.bits - if self.v4 { 96 } else { 0 }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = std::net::Ipv6Addr::from(self.base);
        match address.to_ipv4_mapped() {
            Some(v4) if self.v4 => write!(f, "{v4}/{}", self.prefix()),
            _ => write!(f, "{address}/{}", self.prefix()),
        }
    }
}

/// The address as a number, IPv4 in its mapped form.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Collects every misfit of a document, in the decoder's words.
#[derive(Default)]
struct Decoder {
    problems: Vec<String>,
    /// The first value that fits its type and is still not allowed.
    invalid: Option<String>,
}

/// One section's keys: tells whether it knows the key, and takes the value.
type Section<'a> = dyn FnMut(&mut Decoder, &str, &Node) -> bool + 'a;

impl Decoder {
    fn section(&mut self, node: &Node, type_name: &str, known: &mut Section<'_>) {
        if node.is_null() {
            return;
        }
        let Value::Map(entries) = &node.value else {
            self.misfit(node, &format!("config.{type_name}"));
            return;
        };
        if self.has_duplicates(entries) {
            return;
        }
        for (key, value) in entries {
            let Value::Scalar(name, _) = &key.value else {
                self.misfit(key, "string");
                continue;
            };
            if !known(self, name, value) {
                self.problems.push(format!(
                    "line {}: field {name} not found in type config.{type_name}",
                    key.line
                ));
            }
        }
    }

    /// Reports keys written twice; such a mapping is not decoded at all.
    fn has_duplicates(&mut self, entries: &[(Node, Node)]) -> bool {
        let before = self.problems.len();
        let mut seen: Vec<(&str, usize)> = Vec::new();
        for (key, _) in entries {
            let Value::Scalar(name, _) = &key.value else {
                continue;
            };
            match seen.iter().find(|(known, _)| known == name) {
                Some((_, first)) => self.problems.push(format!(
                    "line {}: mapping key \"{name}\" already defined at line {first}",
                    key.line
                )),
                None => seen.push((name, key.line)),
            }
        }
        self.problems.len() > before
    }

    fn misfit(&mut self, node: &Node, wanted: &str) {
        let described = node.described();
        self.problems.push(format!(
            "line {}: cannot unmarshal {described} into {wanted}",
            node.line
        ));
    }

    fn text(&mut self, node: &Node, into: &mut String) -> bool {
        match &node.value {
            _ if node.is_null() => {}
            // An empty string is an unset one: the default stays.
            Value::Scalar(text, _) if text.is_empty() => {}
            Value::Scalar(text, _) => text.clone_into(into),
            _ => self.misfit(node, "string"),
        }
        true
    }

    fn flag(&mut self, node: &Node, into: &mut bool) -> bool {
        match &node.value {
            _ if node.is_null() => {}
            Value::Scalar(text, true) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" => *into = true,
                "false" | "no" | "off" | "n" => *into = false,
                _ => self.misfit(node, "bool"),
            },
            _ => self.misfit(node, "bool"),
        }
        true
    }

    /// A number. Null, 0 and negative ones leave the default: pipelock fills in
    /// its defaults before it validates, and takes those for unset.
    #[allow(clippy::cast_possible_truncation)]
    fn number(&mut self, node: &Node, into: &mut u64) -> bool {
        let Value::Scalar(text, true) = &node.value else {
            self.misfit(node, "int");
            return true;
        };
        if node.is_null() {
            return true;
        }
        let whole = text.parse::<i64>().ok().or_else(|| {
            let digits = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
            let float = text.parse::<f64>().ok().filter(|f| digits && f.is_finite());
            float.map(|f| f as i64)
        });
        match whole {
            None => self.misfit(node, "int"),
            Some(n) => *into = u64::try_from(n).ok().filter(|n| *n > 0).unwrap_or(*into),
        }
        true
    }

    fn count(&mut self, node: &Node, into: &mut usize) -> bool {
        let mut number = *into as u64;
        self.number(node, &mut number);
        *into = usize::try_from(number).unwrap_or(usize::MAX);
        true
    }

    fn list(&mut self, node: &Node, into: &mut Vec<String>) -> bool {
        match &node.value {
            _ if node.is_null() => {}
            Value::Seq(items) => {
                into.clear();
                for item in items {
                    let mut text = String::new();
                    self.text(item, &mut text);
                    into.push(text);
                }
            }
            _ => self.misfit(node, "[]string"),
        }
        true
    }

    fn ranges(&mut self, node: &Node, field: &str, into: &mut Vec<Cidr>) -> bool {
        let mut texts = Vec::new();
        self.list(node, &mut texts);
        let mut parsed = Vec::new();
        for text in texts {
            let cause = match Cidr::parse(&text) {
                Err(cause) => format!("invalid {field} CIDR \"{text}\": {cause}"),
                Ok(range) if field == "internal" => {
                    parsed.push(range);
                    continue;
                }
                Ok(range) if range.prefix() == 0 => format!(
                    "{field} CIDR \"{text}\" is a catch-all (/0) and would disable SSRF protection"
                ),
                Ok(range) if range.has_host_bits() => format!(
                    "{field} CIDR \"{text}\" has host bits set (did you mean \"{}\"?)",
                    range.network()
                ),
                Ok(range) => {
                    parsed.push(range);
                    continue;
                }
            };
            self.invalid.get_or_insert(cause);
        }
        *into = parsed;
        true
    }

    #[allow(clippy::too_many_lines)]
    fn config(&mut self, root: &Node, c: &mut Config) {
        self.section(root, "Config", &mut |d, key, node| match key {
            "version" => d.number(node, &mut 0),
            "mode" => d.text(node, &mut c.mode),
            "enforce" => d.flag(node, &mut c.enforce),
            "explain_blocks" => d.flag(node, &mut c.explain_blocks),
            "api_allowlist" => d.list(node, &mut c.api_allowlist),
            "trusted_domains" => d.list(node, &mut c.trusted_domains),
            "internal" => d.ranges(node, "internal", &mut c.internal),
            "fetch_proxy" => {
                d.section(node, "FetchProxy", &mut |d, key, node| match key {
                    "listen" => d.text(node, &mut c.listen),
                    "user_agent" => d.text(node, &mut String::new()),
                    "timeout_seconds" => d.number(node, &mut 0),
                    "max_response_mb" => d.count(node, &mut c.max_response_mb),
                    "monitoring" => {
                        d.monitoring(node, c);
                        true
                    }
                    _ => false,
                });
                true
            }
            "forward_proxy" => {
                d.section(node, "ForwardProxy", &mut |d, key, node| match key {
                    "enabled" => d.flag(node, &mut c.forward_proxy),
                    "max_tunnel_seconds" => d.number(node, &mut c.max_tunnel_seconds),
                    "idle_timeout_seconds" => d.number(node, &mut c.idle_timeout_seconds),
                    "sni_verification" => d.flag(node, &mut c.sni_verification),
                    "redirect_websocket_hosts" => d.list(node, &mut Vec::new()),
                    _ => false,
                });
                true
            }
            "dlp" => {
                d.section(node, "DLP", &mut |d, key, node| match key {
                    "include_defaults" => d.flag(node, &mut c.dlp_include_defaults),
                    "scan_env" => d.flag(node, &mut c.scan_env),
                    "secrets_file" => d.text(node, &mut String::new()),
                    "min_env_secret_length" => d.number(node, &mut 0),
                    _ => false,
                });
                true
            }
            "request_body_scanning" => {
                d.body_scanning(node, c);
                true
            }
            "seed_phrase_detection" => {
                d.section(node, "SeedPhraseDetection", &mut |d, key, node| match key {
                    "enabled" => d.flag(node, &mut c.seed_phrase),
                    "min_words" => d.count(node, &mut c.seed_min_words),
                    "verify_checksum" => d.flag(node, &mut c.seed_checksum),
                    _ => false,
                });
                true
            }
            "tls_interception" => {
                d.tls_interception(node, c);
                true
            }
            "ssrf" => {
                d.section(node, "SSRF", &mut |d, key, node| match key {
                    "ip_allowlist" => d.ranges(node, "ssrf.ip_allowlist", &mut c.ssrf_allow),
                    _ => false,
                });
                true
            }
            "response_scanning" => {
                d.section(node, "ResponseScanning", &mut |d, key, node| match key {
                    "enabled" => d.flag(node, &mut c.response_scanning),
                    "action" => d.text(node, &mut String::new()),
                    "exempt_domains" => d.list(node, &mut Vec::new()),
                    _ => false,
                });
                true
            }
            "kill_switch" => {
                d.section(node, "KillSwitch", &mut |d, key, node| match key {
                    "enabled" => d.flag(node, &mut c.kill_switch),
                    "message" => d.text(node, &mut c.kill_switch_message),
                    _ => false,
                });
                true
            }
            "git_protection" => {
                d.section(node, "GitProtection", &mut |d, key, node| match key {
                    "enabled" => d.flag(node, &mut c.git_protection),
                    _ => false,
                });
                true
            }
            "logging" => {
                d.section(node, "LoggingConfig", &mut |d, key, node| match key {
                    "format" | "output" | "file" => d.text(node, &mut String::new()),
                    "include_allowed" => d.flag(node, &mut c.include_allowed),
                    "include_blocked" => d.flag(node, &mut c.include_blocked),
                    _ => false,
                });
                true
            }
            _ => false,
        });
    }

    fn monitoring(&mut self, node: &Node, c: &mut Config) {
        self.section(node, "Monitoring", &mut |d, key, node| match key {
            "max_requests_per_minute" => d.count(node, &mut c.max_requests_per_minute),
            "max_url_length" => d.count(node, &mut c.max_url_length),
            "entropy_threshold" | "subdomain_entropy_threshold" | "max_data_per_minute" => {
                d.number(node, &mut 0)
            }
            "blocklist" => d.list(node, &mut c.blocklist),
            "subdomain_entropy_exclusions" => d.list(node, &mut Vec::new()),
            _ => false,
        });
    }

    fn body_scanning(&mut self, node: &Node, c: &mut Config) {
        self.section(node, "RequestBodyScanning", &mut |d, key, node| match key {
            "enabled" => d.flag(node, &mut c.body_scanning),
            "action" => d.text(node, &mut c.body_action),
            "max_body_bytes" => d.count(node, &mut c.max_body_bytes),
            "scan_headers" => d.flag(node, &mut c.scan_headers),
            "header_mode" => d.text(node, &mut c.header_mode),
            "sensitive_headers" => d.list(node, &mut c.sensitive_headers),
            "ignore_headers" => d.list(node, &mut c.ignore_headers),
            _ => false,
        });
    }

    fn tls_interception(&mut self, node: &Node, c: &mut Config) {
        let mut cert = String::new();
        let mut key_file = String::new();
        self.section(node, "TLSInterception", &mut |d, key, node| match key {
            "enabled" => d.flag(node, &mut c.tls_interception),
            "ca_cert" => d.text(node, &mut cert),
            "ca_key" => d.text(node, &mut key_file),
            "passthrough_domains" => d.list(node, &mut c.passthrough),
            "cert_ttl" => d.text(node, &mut String::new()),
            "cert_cache_size" => d.number(node, &mut 0),
            "max_response_bytes" => d.count(node, &mut c.max_response_bytes),
            _ => false,
        });
        c.ca_cert = cert.into();
        c.ca_key = key_file.into();
    }
}
