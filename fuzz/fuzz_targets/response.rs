//! The daemon's answers, however they arrive: what is read at once and what is read byte
//! by byte are the same, and only a whole and proper one counts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar_init::pipelock::http::Response;
use sidecar_init::pipelock::{health, judge_canary, open_tunnels};

fuzz_target!(|bytes: &[u8]| {
    for connect in [false, true] {
        let whole = Response::parse(bytes, true, connect);
        if let Ok(Some(response)) = &whole {
            assert!(response.body.len() <= bytes.len());
            let healthy = health::judge(response);
            if let Ok(version) = healthy {
                assert_eq!(response.status, 200);
                assert!(version.len() <= 64 && version.is_ascii());
            }
            if judge_canary(response).is_ok() {
                assert_eq!(response.status, 403);
            }
            let _ = open_tunnels(response);
        }
        // As it comes in: once there is an answer it stays that answer.
        let mut first = None;
        for end in 0..=bytes.len().min(512) {
            match Response::parse(&bytes[..end], false, connect) {
                Ok(Some(response)) => match &first {
                    None => first = Some(response),
                    // What has no length grows until the end.
                    Some(known) => assert!(known == &response || response.body.starts_with(&known.body)),
                },
                Ok(None) => assert!(first.is_none(), "an answer that was there is gone"),
                Err(_) => break,
            }
        }
    }
    // As a body alone: most inputs never get past the head otherwise.
    let body = Response {
        status: 200,
        body: bytes.to_vec(),
    };
    let _ = (health::judge(&body), open_tunnels(&body));
});
