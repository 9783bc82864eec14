//! Anything to a manifest: what comes out is valid, and allows no host that was not named.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar_init::import::{ImportError, Kind, Source, import};
use sidecar_init::policy;

fuzz_target!(|bytes: &[u8]| {
    // The first byte may say what it is.
    let (from, bytes) = match bytes.split_first() {
        Some((kind, rest)) if usize::from(*kind) < Kind::ALL.len() => (Kind::ALL.get(usize::from(*kind)), rest),
        _ => (None, bytes),
    };
    let source = Source { name: "fuzzed", bytes };
    let imported = match import(&[source], from.copied(), "a") {
        Ok(imported) => imported,
        Err(error @ ImportError::Defect(_)) => panic!("{error}"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let manifest = imported.manifest.as_bytes();
    let Ok(judgement) = policy::read(manifest, true, 0) else {
        panic!("{}", imported.manifest);
    };
    assert_eq!(judgement.policy.allowlist.len(), imported.allowed);
    // Escapes of YAML name hosts in other letters, and other alphabets in A-labels.
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    if text.is_ascii() && !text.contains('\\') {
        for host in &judgement.policy.allowlist {
            let base = host.strip_prefix("*.").unwrap_or(host);
            // A name may be folded over lines, an address written in another form.
            let is_there = text.contains(base) || base.contains(':') || text.contains("\n");
            assert!(is_there, "{host} is not in {text:?}");
        }
    }
});
