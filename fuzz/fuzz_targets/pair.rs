//! A CA pair somebody provided: two files of any bytes, split at the first NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar_init::ca;

fuzz_target!(|bytes: &[u8]| {
    let mut halves = bytes.splitn(2, |byte| *byte == 0);
    let cert = halves.next().unwrap_or_default();
    let key = halves.next().unwrap_or_default();
    if let Err(error) = ca::check(cert, key, 1_800_000_000) {
        assert!(!error.to_string().is_empty());
    }
});
