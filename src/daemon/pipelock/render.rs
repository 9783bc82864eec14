//! Policy to `pipelock.yaml`: a fixed shape, written by hand, so that its bytes
//! are decided here and nowhere else. Pure.

use std::fmt::{Display, Write as _};

use sha2::{Digest, Sha256};

use crate::policy::Policy;

/// The only entry of an allowlist that allows nothing: pipelock refuses an empty
/// list in strict mode, and `.invalid` never resolves (RFC 6761).
pub const DENY_ALL: &str = "deny-all.invalid";

/// The configuration for `policy`, with the CA at the two given paths.
#[must_use]
pub fn render(policy: &Policy, ca_cert: &str, ca_key: &str) -> String {
    render_with(policy, &policy.allowlist, ca_cert, ca_key)
}

/// The same configuration with nothing allowed. In strict mode pipelock accepts a
/// reload that only shrinks the allowlist, so this stops new connections while
/// open tunnels drain.
#[must_use]
pub fn render_deny_all(policy: &Policy, ca_cert: &str, ca_key: &str) -> String {
    render_with(policy, &[], ca_cert, ca_key)
}

/// The hash by which pipelock names a configuration in its `startup` and
/// `config_reload` lines: lower-case hexadecimal SHA-256 of the file's bytes.
#[must_use]
pub fn config_hash(config: &str) -> String {
    hash(config.as_bytes())
}

/// The SHA-256 of these bytes, in lower-case hexadecimal.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    let mut hash = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        put(&mut hash, format_args!("{byte:02x}"));
    }
    hash
}

fn render_with(policy: &Policy, allowlist: &[String], ca_cert: &str, ca_key: &str) -> String {
    let size: usize = allowlist.iter().map(|host| host.len() + 7).sum();
    let mut out = String::with_capacity(size + 1024);
    out.push_str("version: 1\nmode: strict\nenforce: true\n");

    out.push_str("\napi_allowlist:\n");
    for host in allowlist {
        put(&mut out, format_args!("  - \"{host}\"\n"));
    }
    if allowlist.is_empty() {
        put(&mut out, format_args!("  - \"{DENY_ALL}\"\n"));
    }

    if !policy.seed_phrase_detection {
        out.push_str("\nseed_phrase_detection:\n  enabled: false\n");
    }

    let tuning = &policy.tuning;
    out.push_str("\nforward_proxy:\n  enabled: true\n");
    put_if_set(&mut out, "  max_tunnel_seconds", tuning.max_tunnel_seconds);
    put_if_set(
        &mut out,
        "  idle_timeout_seconds",
        tuning.idle_timeout_seconds,
    );
    if tuning.requests_per_minute.is_some() || tuning.scan_limit_mib.is_some() {
        out.push_str("\nfetch_proxy:\n");
        put_if_set(&mut out, "  max_response_mb", tuning.scan_limit_mib);
    }
    if tuning.requests_per_minute.is_some() {
        out.push_str("  monitoring:\n");
        put_if_set(
            &mut out,
            "    max_requests_per_minute",
            tuning.requests_per_minute,
        );
    }

    out.push_str("\ndlp:\n  include_defaults: true\n  scan_env: true\n");
    out.push_str(
        "\nrequest_body_scanning:\n  action: \"block\"\n  scan_headers: true\n  header_mode: \"all\"\n",
    );
    // A megabyte is 2^20 bytes to pipelock, too.
    let scan_limit = tuning.scan_limit_mib.map(|mib| mib << 20);
    put_if_set(&mut out, "  max_body_bytes", scan_limit);

    out.push_str("\ntls_interception:\n  enabled: true\n");
    put(
        &mut out,
        format_args!("  ca_cert: \"{}\"\n", escape(ca_cert)),
    );
    put(&mut out, format_args!("  ca_key: \"{}\"\n", escape(ca_key)));
    put_if_set(&mut out, "  max_response_bytes", scan_limit);
    if !policy.passthrough.is_empty() {
        out.push_str("  passthrough_domains:\n");
        for host in &policy.passthrough {
            put(&mut out, format_args!("    - \"{host}\"\n"));
        }
    }

    if let Some(cidr) = &policy.internal_cidr {
        put(
            &mut out,
            format_args!("\nssrf:\n  ip_allowlist:\n    - \"{cidr}\"\n"),
        );
    }
    out
}

fn put_if_set(out: &mut String, key: &str, value: Option<u32>) {
    if let Some(value) = value {
        put(out, format_args!("{key}: {value}\n"));
    }
}

fn put(out: &mut String, text: impl Display) {
    // Cannot fail: writing to a String.
    let _ = write!(out, "{text}");
}

/// A path inside a double-quoted YAML scalar. Hosts and CIDRs need no escaping:
/// `policy` admits no character that has a meaning there.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            _ if c.is_control() => put(&mut out, format_args!("\\x{:02x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out
}
