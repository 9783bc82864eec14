//! The daemon's answers, however they arrive: what is read at once and what is read byte
//! by byte are the same, only a whole and proper one counts, and what is said of another is
//! a line that any terminal may be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar_init::daemon::pipelock::health::Ailment;
use sidecar_init::daemon::pipelock::http::Response;
use sidecar_init::daemon::pipelock::{health, judge_canary, open_tunnels};
use sidecar_init::plain;

fuzz_target!(|bytes: &[u8]| {
    for connect in [false, true] {
        let whole = Response::parse(bytes, true, connect);
        if let Ok(Some(response)) = &whole {
            assert!(response.body.len() <= bytes.len());
            match health::judge(response) {
                Ok(version) => {
                    assert_eq!(response.status, 200);
                    assert!(version.len() <= 64 && version.is_ascii());
                }
                Err(Ailment::Sick(why) | Ailment::Unfit(why)) => assert_printable(&why),
            }
            match judge_canary(response) {
                Ok(()) => assert_eq!(response.status, 403),
                Err(why) => assert_printable(&why.to_string()),
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
    if let Err(Ailment::Sick(why) | Ailment::Unfit(why)) = health::judge(&body) {
        assert_printable(&why);
    }
    let _ = open_tunnels(&body);
    let refusal = Response {
        status: 403,
        ..body
    };
    if let Err(why) = judge_canary(&refusal) {
        assert_printable(&why.to_string());
    }
});

fn assert_printable(why: &str) {
    assert!(plain::line(why) == why && why.len() < 8192, "{why:?}");
}
