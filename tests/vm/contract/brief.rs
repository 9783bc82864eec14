//! A bottle with short tunnels and pipelock's own rate limit.

use std::time::{Duration, Instant};

use super::bed::{Bottle, Sidecar, cases, network};
use super::client::Curl;

const TUNNEL_LIFE: Duration = Duration::from_secs(3);

fn bottle() -> Bottle {
    let network = network("  internal_cidr: 10.0.2.2/32\n");
    let life = TUNNEL_LIFE.as_secs();
    Bottle {
        manifest: format!(
            "version: 1
slug: brief
bottle:
  egress:
    routes:
      - host: limited.test
      - host: brief.test
      - host: api.anthropic.com
{network}pipelock:
  max_tunnel_seconds: {life}
  idle_timeout_seconds: 1
"
        ),
        trust: true,
    }
}

cases!(bottle:
    refuses_the_sixty_first_request_in_a_minute,
    ends_an_intercepted_stream_when_its_time_is_up,
    ends_a_tunnel_once_one_direction_is_idle,
    ends_an_idle_tunnel_before_that,
);

fn refuses_the_sixty_first_request_in_a_minute(sidecar: &Sidecar) {
    let answers = sidecar
        .curl()
        .get_all(&sidecar.http("limited.test", "/many/[1-70]"));
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses[..60], [200; 60]);
    // Its window slides: on a slow machine the first ones may be forgotten by the last.
    assert_eq!(statuses[60], 429, "{statuses:?}");
}

/// What came of a stream that would take ten seconds, and how long it lasted.
fn stream(curl: Curl, url: &str) -> (usize, u64, Duration) {
    let since = Instant::now();
    let answer = curl.get(url);
    assert_eq!(answer.status, 200, "{answer:?}");
    let ticks = answer.text().matches("data: tick").count();
    (ticks, answer.exit, since.elapsed())
}

fn assert_cut((ticks, exit, lasted): (usize, u64, Duration)) {
    assert!(
        (1..40).contains(&ticks),
        "{ticks} events came in {lasted:?}"
    );
    assert_ne!(exit, 0, "curl saw nothing wrong");
    // Two clocks: the guest's cuts it, the host's measures.
    assert!(lasted + Duration::from_secs(1) >= TUNNEL_LIFE, "{lasted:?}");
}

fn ends_an_intercepted_stream_when_its_time_is_up(sidecar: &Sidecar) {
    let url = sidecar.https("brief.test", "/drip/40");
    assert_cut(stream(sidecar.curl(), &url));
}

fn ends_a_tunnel_once_one_direction_is_idle(sidecar: &Sidecar) {
    // pipelock counts each direction by itself: a client that only listens is idle,
    // however much it is sent, and its half of the tunnel is closed to the upstream.
    let curl = Curl::through(sidecar.proxy).trust(&sidecar.upstream.root);
    let url = sidecar.https("api.anthropic.com", "/drip/40");
    let (ticks, exit, lasted) = stream(curl.arg("--http1.1"), &url);
    assert!((1..12).contains(&ticks), "{ticks} events came");
    assert_ne!(exit, 0, "curl saw nothing wrong");
    assert!(lasted < TUNNEL_LIFE, "{lasted:?}");
}

fn ends_an_idle_tunnel_before_that(sidecar: &Sidecar) {
    let curl = Curl::through(sidecar.proxy).trust(&sidecar.upstream.root);
    // Answered when a second request comes, which never does.
    let since = Instant::now();
    let answer = curl.get(&sidecar.https("api.anthropic.com", "/meet/1000"));
    let lasted = since.elapsed();
    assert_eq!(
        (answer.connect_status, answer.status),
        (200, 0),
        "{answer:?}"
    );
    assert!(lasted < TUNNEL_LIFE, "it lasted {lasted:?}");
    sidecar.upstream.request("/meet/1000");
}
