//! The drawing of the state machine in the documentation is the machine's own.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use sidecar_init::exit::ExitCode;
use sidecar_init::supervise::machine::{Answer, Change, Event, Machine, Phase, Silence, Timing};
use sidecar_init::sys::reaper::ExitReason;

use crate::support::random::Random;

fn any_event(random: &mut Random) -> Event {
    let events = [
        Event::StopAsked,
        Event::HaltAsked,
        Event::ResumeAsked,
        Event::ConfigChanged(Change::Grow),
        Event::ConfigChanged(Change::Restart { revokes: false }),
        Event::ConfigChanged(Change::Restart { revokes: true }),
        Event::SpawnFailed(ExitCode::NotFound, "no such file".to_owned()),
        Event::Confined,
        Event::Announced,
        Event::ReloadAcknowledged,
        Event::DenyAllAcknowledged,
        Event::ReloadRefused,
        Event::Unfit("another configuration".to_owned()),
        Event::Answered(Answer::Fit),
        Event::Answered(Answer::Alive),
        Event::Answered(Answer::Silent(Silence::because("refused"))),
        Event::Answered(Answer::Sick("a part of it is wedged".to_owned())),
        Event::Answered(Answer::Unfit("allows everything".to_owned())),
        Event::Answered(Answer::Tunnels(0)),
        Event::Answered(Answer::Tunnels(2)),
        Event::Exited(ExitReason::Code(1)),
        Event::OutOfMemory(ExitReason::Signal(9), "its limit".to_owned()),
        Event::Tick,
    ];
    let chosen = random.below(events.len());
    events.into_iter().nth(chosen).unwrap_or(Event::Tick)
}

/// Every change of phase in a great many random histories.
fn transitions_that_happen() -> BTreeSet<(&'static str, &'static str)> {
    let mut random = Random::of(0x5eed_5eed_5eed_5eed);
    let mut seen = BTreeSet::new();
    for history in 0..40_000 {
        let drain = if history % 2 == 0 { 30 } else { 0 };
        let mut machine = Machine::new(Timing {
            grace: Duration::from_secs(8),
            drain: Duration::from_secs(drain),
            probe: Duration::from_secs(5),
        });
        let mut now = Instant::now();
        let mut from = machine.phase();
        // Most histories begin at the beginning, half of them with a daemon that is ready.
        let mut prelude = VecDeque::new();
        if history % 16 != 0 {
            prelude.push_back(Event::Begin);
        }
        let becomes_ready = [
            Event::Confined,
            Event::Announced,
            Event::Answered(Answer::Fit),
        ];
        // And some with one that has failed so often that once more is a crash loop.
        for _ in 0..if history % 8 == 7 { 4 } else { 0 } {
            prelude.extend(becomes_ready.clone());
            prelude.extend([Event::Exited(ExitReason::Code(1)), Event::Tick]);
        }
        if history % 4 >= 2 {
            prelude.extend(becomes_ready);
        }
        for _ in 0..40 {
            let event = if let Some(event) = prelude.pop_front() {
                now += Duration::from_secs(1);
                event
            } else {
                let pauses = [0, 10, 300, 9_000, 31_000];
                let pause = pauses.get(random.below(pauses.len())).unwrap_or(&0);
                now += Duration::from_millis(*pause);
                any_event(&mut random)
            };
            machine.step(event, now);
            let to = machine.phase();
            if from != to {
                seen.insert((from.as_str(), to.as_str()));
            }
            from = to;
            if from == Phase::Ended {
                break;
            }
        }
    }
    seen
}

/// The arrows `from --> to` of the drawing.
fn transitions_that_are_drawn(page: &str) -> BTreeSet<(&str, &str)> {
    page.lines()
        .filter_map(|line| {
            let (from, rest) = line.trim().split_once(" --> ")?;
            let to = rest.split(':').next()?.trim();
            (from != "[*]" && to != "[*]").then_some((from, to))
        })
        .collect()
}

#[test]
fn draws_exactly_the_transitions_that_happen() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/architecture.md"))
            .unwrap();
    let (drawn, happen) = (transitions_that_are_drawn(&page), transitions_that_happen());
    let missing: Vec<_> = happen.difference(&drawn).collect();
    let invented: Vec<_> = drawn.difference(&happen).collect();
    assert!(
        missing.is_empty(),
        "docs/architecture.md does not draw {missing:?}"
    );
    assert!(
        invented.is_empty(),
        "docs/architecture.md draws what never happens: {invented:?}"
    );
}
