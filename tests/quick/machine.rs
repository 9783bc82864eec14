//! The state machine of supervision under fire: each transition in a sentence, and
//! random histories of a small world in which no order of events may break a promise.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use sidecar_init::exit::ExitCode;
use sidecar_init::supervise::backoff::WINDOW;
use sidecar_init::supervise::machine::{
    ABANDON, AT_WORK, Action, Answer, Change, DRAIN_INTERVAL, Event, Failure, LONGEST_SILENCE,
    MISSES, Machine, Outcome, PATIENCE, PATIENCE_WITH_WORK, Phase, RELOAD_DEADLINE, SHORT_GRACE,
    START_DEADLINE, Silence, Timing,
};
use sidecar_init::sys::reaper::ExitReason;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const GRACE: Duration = Duration::from_secs(8);
const DRAIN: Duration = Duration::from_secs(20);
const PROBE: Duration = Duration::from_secs(5);
const CRASH: ExitReason = ExitReason::Code(1);
const REVOKE: Change = Change::Restart { revokes: true };
const REPLACE: Change = Change::Restart { revokes: false };

const TIMING: Timing = Timing {
    grace: GRACE,
    drain: Duration::ZERO,
    probe: PROBE,
};
const DRAINING: Timing = Timing {
    drain: DRAIN,
    ..TIMING
};

/// A machine and the time it lives in.
struct Bench {
    machine: Machine,
    now: Instant,
}

impl Bench {
    fn new(timing: Timing) -> Self {
        Self {
            machine: Machine::new(timing),
            now: Instant::now(),
        }
    }

    fn starting(timing: Timing) -> Self {
        let mut bench = Self::new(timing);
        assert_eq!(bench.step(Event::Begin), [Action::Spawn]);
        bench
    }

    fn ready(timing: Timing) -> Self {
        let mut bench = Self::starting(timing);
        bench.become_ready();
        bench
    }

    fn draining() -> Self {
        let mut bench = Self::ready(DRAINING);
        assert_eq!(bench.step(Event::StopAsked), [Action::InstallDenyAll]);
        assert_eq!(bench.machine.phase(), Phase::Draining);
        bench
    }

    fn become_ready(&mut self) {
        assert_eq!(self.step(Event::Confined), []);
        assert_eq!(self.step(Event::Announced), [Action::ProbeFitness]);
        assert_eq!(
            self.step(Event::Answered(Answer::Fit)),
            [Action::AnnounceReady]
        );
        assert_eq!(self.machine.phase(), Phase::Ready);
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        self.machine.step(event, self.now)
    }

    /// Lets the next deadline pass; how long that took, and what came of it.
    fn tick(&mut self) -> (Duration, Vec<Action>) {
        let deadline = self.machine.deadline().expect("something is due");
        let waited = deadline.saturating_duration_since(self.now);
        self.now = self.now.max(deadline);
        (waited, self.step(Event::Tick))
    }

    /// Lets deadlines pass until one brings an action other than a probe.
    fn tick_until_it_acts(&mut self) -> (Duration, Vec<Action>) {
        let begin = self.now;
        for _ in 0..10_000 {
            let (_, actions) = self.tick();
            if actions
                .iter()
                .any(|action| !matches!(action, Action::ProbeFitness | Action::ProbeLiveness(_)))
            {
                return (self.now - begin, actions);
            }
        }
        panic!("nothing happens in {:?}", self.machine.phase());
    }

    fn exit(&mut self) -> Vec<Action> {
        self.step(Event::Exited(CRASH))
    }
}

// Becoming ready.

#[test]
fn is_ready_only_when_confined_announced_and_fit_in_any_order() {
    let events = [
        Event::Confined,
        Event::Announced,
        Event::Answered(Answer::Fit),
    ];
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut bench = Bench::starting(TIMING);
        for (nth, index) in order.into_iter().enumerate() {
            let actions = bench.step(events[index].clone());
            assert_eq!(
                actions.contains(&Action::AnnounceReady),
                nth == 2,
                "{order:?} {nth}"
            );
        }
    }
}

#[test]
fn health_without_a_refused_canary_does_not_make_ready() {
    let mut bench = Bench::starting(TIMING);
    bench.step(Event::Confined);
    bench.step(Event::Announced);
    assert_eq!(bench.step(Event::Answered(Answer::Alive)), []);
    assert_eq!(bench.machine.phase(), Phase::Starting);
}

#[test]
fn asks_again_until_the_start_deadline_and_then_replaces_the_daemon() {
    let mut bench = Bench::starting(TIMING);
    let begin = bench.now;
    let mut told = 0;
    while bench.machine.phase() == Phase::Starting {
        let (_, actions) = bench.tick();
        if actions == [Action::ProbeFitness] {
            bench.step(Event::Answered(Answer::Silent(Silence::because(
                "Connection refused",
            ))));
        } else if actions.is_empty() {
            told += 1;
            assert_eq!(bench.now - begin, told * 10 * SECOND);
        } else {
            assert_eq!(actions, [Action::Terminate]);
        }
    }
    // Why it is not ready, every ten seconds until then.
    assert_eq!(told, 2);
    assert_eq!(bench.now - begin, START_DEADLINE);
    assert_eq!(bench.exit(), [Action::Spawn]);
    assert_eq!(
        bench.machine.last_failure(),
        Some(&Failure::NotReady(
            START_DEADLINE,
            "Connection refused".to_owned()
        ))
    );
}

#[test]
fn gives_up_on_a_daemon_that_is_never_ready_five_times() {
    let mut bench = Bench::starting(TIMING);
    for _ in 0..4 {
        assert_eq!(bench.tick_until_it_acts().1, [Action::Terminate]);
        let mut actions = bench.exit();
        if actions.is_empty() {
            actions = bench.tick().1;
        }
        assert_eq!(actions, [Action::Spawn]);
    }
    bench.tick_until_it_acts();
    let actions = bench.exit();
    assert!(
        matches!(
            actions.as_slice(),
            [Action::Finish(Outcome::GaveUp(Failure::NotReady(..)))]
        ),
        "{actions:?}"
    );
    assert_eq!(bench.machine.failures(), 5);
}

#[test]
fn waits_longer_for_one_that_is_given_more_time_and_gives_that_up_after_five_times_as_well() {
    let within = 4 * START_DEADLINE;
    let mut bench = Bench::new(TIMING);
    bench.machine = bench.machine.patient(within, 50 * MILLISECOND);
    assert_eq!(bench.step(Event::Begin), [Action::Spawn]);
    for failures in 1..=5 {
        let begin = bench.now;
        while bench.machine.phase() == Phase::Starting {
            // Ten seconds are long for a start: from then on it is told why.
            let told = bench.now - begin >= 10 * SECOND;
            let why = told.then_some("not ready: Connection refused");
            assert_eq!(bench.machine.trouble(), why, "{:?}", bench.now - begin);
            let (_, actions) = bench.tick();
            if actions == [Action::ProbeFitness] {
                let silence = Silence::because("Connection refused");
                bench.step(Event::Answered(Answer::Silent(silence)));
            }
        }
        assert_eq!(bench.machine.trouble(), None);
        assert_eq!(bench.now - begin, within);
        let mut actions = bench.exit();
        let why = Failure::NotReady(within, "Connection refused".to_owned());
        assert_eq!(bench.machine.last_failure(), Some(&why));
        assert_eq!(bench.machine.failures(), failures);
        if failures == 5 {
            assert_eq!(actions, [Action::Finish(Outcome::GaveUp(why))]);
            return;
        }
        if actions.is_empty() {
            actions = bench.tick().1;
        }
        assert_eq!(actions, [Action::Spawn]);
    }
}

#[test]
fn gives_up_on_a_daemon_that_answers_the_canary_wrongly_five_times() {
    let mut bench = Bench::starting(TIMING);
    let unfit = || Event::Answered(Answer::Unfit("it lets the canary out".to_owned()));
    for _ in 0..4 {
        assert_eq!(bench.step(unfit()), [Action::Kill]);
        let mut actions = bench.exit();
        if actions.is_empty() {
            assert_eq!(bench.machine.phase(), Phase::Backoff);
            actions = bench.tick().1;
        }
        assert_eq!(actions, [Action::Spawn]);
    }
    bench.step(unfit());
    assert_eq!(
        bench.exit(),
        [Action::Finish(Outcome::GaveUp(Failure::Unfit(
            "it lets the canary out".to_owned()
        )))]
    );
}

#[test]
fn a_daemon_that_contradicts_what_it_was_told_is_a_failure() {
    for mut bench in [Bench::starting(TIMING), Bench::ready(TIMING)] {
        assert_eq!(
            bench.step(Event::Unfit("another configuration".to_owned())),
            [Action::Kill]
        );
        assert_eq!(bench.exit(), [Action::Spawn]);
        assert_eq!(bench.machine.failures(), 1);
    }
}

#[test]
fn a_spawn_that_fails_is_a_failure_and_ends_in_giving_up() {
    let mut bench = Bench::starting(TIMING);
    let failed = || Event::SpawnFailed(ExitCode::NotFound, "cannot execute it".to_owned());
    let mut delays = Vec::new();
    assert_eq!(bench.step(failed()), [Action::Spawn]);
    for _ in 0..3 {
        assert_eq!(bench.step(failed()), []);
        let (waited, actions) = bench.tick();
        delays.push(waited.as_millis());
        assert_eq!(actions, [Action::Spawn]);
    }
    assert_eq!(delays, [100, 200, 400]);
    assert_eq!(
        bench.step(failed()),
        [Action::Finish(Outcome::GaveUp(Failure::Spawn(
            ExitCode::NotFound,
            "cannot execute it".to_owned()
        )))]
    );
}

// Living and dying.

#[test]
fn starts_a_crashed_daemon_again_at_once() {
    let mut bench = Bench::ready(TIMING);
    assert_eq!(bench.exit(), [Action::Spawn]);
}

#[test]
fn probes_a_ready_daemon_at_the_interval_and_replaces_it_after_three_misses() {
    let mut bench = Bench::ready(TIMING);
    for miss in 1..=MISSES {
        assert_eq!(bench.tick(), (PROBE, vec![Action::ProbeLiveness(PATIENCE)]));
        let actions = bench.step(Event::Answered(Answer::Silent(Silence::because("late"))));
        assert_eq!(
            actions == [Action::Terminate],
            miss == MISSES,
            "miss {miss}: {actions:?}"
        );
    }
    assert_eq!(bench.tick(), (SHORT_GRACE, vec![Action::Kill]));
    assert_eq!(bench.exit(), [Action::Spawn]);
    assert_eq!(
        bench.machine.last_failure(),
        Some(&Failure::Unresponsive("late".to_owned()))
    );
}

#[test]
fn one_answer_forgives_the_misses_before_it() {
    let mut bench = Bench::ready(TIMING);
    for _ in 0..10 {
        for _ in 1..MISSES {
            bench.tick();
            assert_eq!(
                bench.step(Event::Answered(Answer::Silent(Silence::default()))),
                []
            );
        }
        bench.tick();
        assert_eq!(bench.step(Event::Answered(Answer::Alive)), []);
    }
    assert_eq!(bench.machine.phase(), Phase::Ready);
}

// Busy, overloaded, unwell.

/// A missed probe of a daemon that has used so much processor time, if anybody tells.
fn silent(used: Option<Duration>) -> Event {
    Event::Answered(Answer::Silent(Silence {
        used,
        ..Silence::because("late")
    }))
}

impl Bench {
    /// Lets a probe be asked and missed; the time until the next one, and what came of it.
    fn miss(&mut self, used: Option<Duration>) -> Vec<Action> {
        self.miss_after(|_| used)
    }

    /// The same; what it has used may follow from the time it was waited for.
    fn miss_after(&mut self, used: impl FnOnce(Instant) -> Option<Duration>) -> Vec<Action> {
        let (_, actions) = self.tick();
        let [Action::ProbeLiveness(patience)] = actions.as_slice() else {
            panic!("no probe: {actions:?}");
        };
        self.now += *patience;
        self.step(silent(used(self.now)))
    }
}

#[test]
fn work_never_restarts_it_and_an_answer_forgives_it_all() {
    let mut bench = Bench::ready(TIMING);
    let begin = bench.now;
    assert_eq!(bench.miss(Some(SECOND)), []);
    let first = bench.now;
    while bench.now - begin + 40 * SECOND < LONGEST_SILENCE {
        // A fiftieth of a processor is enough: the machine may have others to serve.
        let used = |now: Instant| SECOND + (now - first) / AT_WORK;
        assert_eq!(bench.miss_after(|now| Some(used(now))), []);
        let used = used(bench.now);
        let trouble = bench.machine.trouble().unwrap();
        let silent = (bench.now - first).as_secs();
        let words = format!(
            "busy: has not answered its probe for {silent} s, while it used {} s of processor time",
            used.saturating_sub(SECOND).as_secs()
        );
        assert_eq!(trouble, words);
    }
    bench.tick();
    assert_eq!(bench.step(Event::Answered(Answer::Alive)), []);
    assert_eq!(bench.machine.trouble(), None);
    assert_eq!(bench.machine.failures(), 0);
}

#[test]
fn waits_longer_for_an_answer_only_while_it_works() {
    let mut bench = Bench::ready(TIMING);
    let patience = |bench: &mut Bench| match bench.tick().1.as_slice() {
        [Action::ProbeLiveness(patience)] => *patience,
        other => panic!("{other:?}"),
    };
    assert_eq!(patience(&mut bench), PATIENCE);
    bench.step(silent(Some(SECOND)));
    assert_eq!(patience(&mut bench), PATIENCE);
    bench.step(silent(Some(3 * SECOND)));
    assert_eq!(patience(&mut bench), PATIENCE_WITH_WORK);
    bench.step(silent(Some(3 * SECOND)));
    assert_eq!(patience(&mut bench), PATIENCE);
}

#[test]
fn a_wedge_is_found_after_three_misses_whatever_it_did_before() {
    for used in [None, Some(Duration::ZERO), Some(9 * SECOND)] {
        let mut bench = Bench::ready(TIMING);
        for miss in 1..=MISSES {
            let restarts = bench.miss(used) == [Action::Terminate];
            assert_eq!(restarts, miss == MISSES, "{used:?}");
        }
        let late = Failure::Unresponsive("late".to_owned());
        assert_eq!(bench.machine.brought_down_for(), Some(&late));
    }
    let mut bench = Bench::ready(TIMING);
    for used in [1, 5, 9] {
        assert_eq!(bench.miss(Some(used * SECOND)), []);
    }
    // What Go's own housekeeping takes is no work.
    let idle = |miss: u8| Some(9 * SECOND + u32::from(miss) * 10 * MILLISECOND);
    for miss in 1..=MISSES {
        let restarts = bench.miss(idle(miss)) == [Action::Terminate];
        assert_eq!(restarts, miss == MISSES);
    }
}

#[test]
fn one_that_spins_and_never_answers_ends_some_day_and_no_sooner() {
    let mut bench = Bench::ready(TIMING);
    assert_eq!(bench.miss(Some(SECOND)), []);
    let first = bench.now;
    loop {
        let actions = bench.miss(Some(bench.now - first + 2 * SECOND));
        if actions == [Action::Terminate] {
            break;
        }
        assert_eq!(actions, []);
        assert!(bench.now - first < LONGEST_SILENCE);
    }
    assert!(bench.now - first < LONGEST_SILENCE + PROBE + PATIENCE_WITH_WORK);
    let failure = bench.machine.brought_down_for().unwrap().of("pipelock");
    assert!(
        failure.starts_with("pipelock answered nothing for 3"),
        "{failure}"
    );
    // Once in five minutes: no crash loop is made of that.
    assert_eq!(bench.exit(), [Action::Spawn]);
}

#[test]
fn overload_restarts_it_as_often_as_it_comes_and_never_ends_the_machine() {
    let overloaded = || {
        Event::Answered(Answer::Silent(Silence {
            overload: Some("its 64 descriptors are in use".to_owned()),
            ..Silence::because("late")
        }))
    };
    let starved = || Event::OutOfMemory(ExitReason::Signal(9), "its limit is 96 MiB".to_owned());
    let mut bench = Bench::ready(Timing {
        probe: SECOND,
        ..TIMING
    });
    for round in 0..40 {
        if round % 2 == 0 {
            for miss in 1..=MISSES {
                bench.tick();
                let restarts = bench.step(overloaded()) == [Action::Terminate];
                assert_eq!(restarts, miss == MISSES);
                if !restarts {
                    let trouble = bench.machine.trouble();
                    assert_eq!(trouble, Some("overloaded: its 64 descriptors are in use"));
                }
            }
            bench.exit();
        } else {
            bench.step(starved());
        }
        if bench.machine.phase() == Phase::Backoff {
            assert!(bench.tick().0 <= 10 * SECOND);
        }
        bench.become_ready();
    }
    assert_eq!(bench.machine.failures(), 40);
}

#[test]
fn a_flood_that_lasts_through_every_start_is_no_crash_loop_either() {
    let mut bench = Bench::starting(TIMING);
    for _ in 0..20 {
        bench.tick();
        let flooded = Silence {
            late: true,
            overload: Some("its 64 descriptors are in use".to_owned()),
            ..Silence::because("late")
        };
        bench.step(Event::Answered(Answer::Silent(flooded)));
        assert_eq!(bench.tick_until_it_acts().1, [Action::Terminate]);
        bench.exit();
        if bench.machine.phase() == Phase::Backoff {
            bench.tick();
        }
        assert_eq!(bench.machine.phase(), Phase::Starting);
    }
}

#[test]
fn one_that_starves_before_it_is_ready_is_in_a_crash_loop() {
    let mut bench = Bench::starting(TIMING);
    let starved = || Event::OutOfMemory(ExitReason::Signal(9), "its limit is 9 MiB".to_owned());
    for _ in 0..4 {
        bench.step(starved());
        if bench.machine.phase() == Phase::Backoff {
            bench.tick();
        }
    }
    let actions = bench.step(starved());
    let [Action::Finish(Outcome::GaveUp(failure))] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(
        failure.of("pipelock"),
        "pipelock was killed by signal 9 (SIGKILL): out of memory, its limit is 9 MiB"
    );
}

#[test]
fn one_that_says_it_is_not_well_is_told_and_replaced_if_it_stays_so() {
    let sick = || Event::Answered(Answer::Sick("/health answered 503".to_owned()));
    let mut bench = Bench::ready(TIMING);
    for _ in 0..5 {
        bench.tick();
        assert_eq!(bench.step(sick()), []);
        let trouble = bench.machine.trouble();
        assert_eq!(trouble, Some("not well: /health answered 503"));
        bench.tick();
        assert_eq!(bench.step(Event::Answered(Answer::Alive)), []);
    }
    for miss in 1..=MISSES {
        bench.tick();
        assert_eq!(bench.step(sick()) == [Action::Terminate], miss == MISSES);
    }
    let mut starting = Bench::starting(TIMING);
    assert_eq!(starting.step(sick()), []);
    starting.become_ready();
}

#[test]
fn one_that_is_no_firewall_has_no_grace_in_any_state() {
    let unfit = || Event::Unfit("a configuration nobody gave it".to_owned());
    let mut stopping = Bench::ready(TIMING);
    stopping.step(Event::StopAsked);
    for mut bench in [
        Bench::starting(TIMING),
        Bench::ready(TIMING),
        Bench::draining(),
        stopping,
    ] {
        assert_eq!(bench.step(unfit()), [Action::Kill]);
        assert_eq!(bench.step(unfit()), []);
    }
    // And a stop still ends without it.
    let mut stuck = Bench::draining();
    stuck.step(unfit());
    assert_eq!(
        stuck.tick(),
        (ABANDON, vec![Action::Finish(Outcome::Stopped)])
    );
}

// Stopping.

#[test]
fn stops_at_once_where_no_daemon_runs() {
    let mut idle = Bench::new(TIMING);
    assert_eq!(
        idle.step(Event::StopAsked),
        [Action::Finish(Outcome::Stopped)]
    );
    let mut waiting = Bench::ready(TIMING);
    waiting.exit();
    waiting.exit();
    assert_eq!(waiting.machine.phase(), Phase::Backoff);
    assert_eq!(
        waiting.step(Event::StopAsked),
        [Action::Finish(Outcome::Stopped)]
    );
    let mut halted = Bench::ready(TIMING);
    halted.step(Event::HaltAsked);
    halted.exit();
    assert_eq!(
        halted.step(Event::StopAsked),
        [Action::Finish(Outcome::Stopped)]
    );
    for mut ended in [idle, waiting, halted] {
        assert_eq!(ended.step(Event::StopAsked), []);
        assert_eq!(ended.step(Event::ResumeAsked), []);
        assert_eq!(ended.machine.deadline(), None);
    }
}

#[test]
fn kills_a_daemon_that_ignores_the_stop_after_the_grace_period() {
    for mut bench in [Bench::starting(TIMING), Bench::ready(TIMING)] {
        assert_eq!(bench.step(Event::StopAsked), [Action::Terminate]);
        assert_eq!(bench.tick(), (GRACE, vec![Action::Kill]));
        assert_eq!(bench.exit(), [Action::Finish(Outcome::Stopped)]);
    }
}

#[test]
fn ends_without_a_daemon_that_even_sigkill_does_not_end() {
    let mut bench = Bench::ready(TIMING);
    bench.step(Event::StopAsked);
    assert_eq!(bench.tick(), (GRACE, vec![Action::Kill]));
    assert_eq!(
        bench.tick(),
        (ABANDON, vec![Action::Finish(Outcome::Stopped)])
    );
    let mut halted = Bench::ready(TIMING);
    assert_eq!(halted.step(Event::HaltAsked), [Action::Kill]);
    assert_eq!(halted.machine.deadline(), None, "a halt waits for it");
    halted.step(Event::StopAsked);
    assert_eq!(
        halted.tick(),
        (ABANDON, vec![Action::Finish(Outcome::Stopped)])
    );
}

#[test]
fn a_failure_on_the_way_down_does_not_start_anything() {
    let mut bench = Bench::ready(TIMING);
    bench.step(Event::Unfit("hole".to_owned()));
    assert_eq!(bench.step(Event::StopAsked), []);
    assert_eq!(bench.exit(), [Action::Finish(Outcome::Stopped)]);
}

// Halting.

#[test]
fn a_halt_kills_at_once_and_keeps_it_down_until_resumed() {
    let starting = Bench::starting(TIMING);
    let ready = Bench::ready(DRAINING);
    let mut draining = Bench::ready(DRAINING);
    assert_eq!(
        draining.step(Event::ConfigChanged(REPLACE)),
        [Action::InstallDenyAll]
    );
    let mut stopping = Bench::ready(TIMING);
    assert_eq!(
        stopping.step(Event::ConfigChanged(REPLACE)),
        [Action::Terminate]
    );
    for mut bench in [starting, ready, draining, stopping] {
        assert_eq!(bench.step(Event::HaltAsked), [Action::Kill]);
        assert_eq!(bench.exit(), []);
        assert_eq!(bench.machine.phase(), Phase::Halted);
        for event in [
            Event::Tick,
            Event::HaltAsked,
            Event::ConfigChanged(REVOKE),
            Event::ConfigChanged(Change::Grow),
            Event::Announced,
            Event::Exited(CRASH),
        ] {
            assert_eq!(bench.step(event.clone()), [], "{event:?}");
        }
        assert_eq!(bench.machine.deadline(), None);
        assert_eq!(bench.step(Event::ResumeAsked), [Action::Spawn]);
    }
}

#[test]
fn wanted_restarts_are_no_news_about_a_daemons_health() {
    for timing in [TIMING, DRAINING] {
        let mut bench = Bench::ready(timing);
        for _ in 0..3 {
            assert_eq!(
                bench.exit(),
                [Action::Spawn],
                "the last failure is minutes ago"
            );
            bench.become_ready();
            for _ in 0..30 {
                bench.now += Duration::from_secs(4);
                bench.step(Event::ConfigChanged(Change::Restart { revokes: false }));
                assert_eq!(bench.exit(), [Action::Spawn]);
                bench.become_ready();
            }
        }
        // What has just failed waits, whatever is wanted meanwhile.
        assert_eq!(bench.exit(), [Action::Spawn]);
        bench.become_ready();
        bench.step(Event::ConfigChanged(Change::Restart { revokes: false }));
        assert_eq!(bench.exit(), [Action::Spawn]);
        bench.become_ready();
        assert_eq!(bench.exit(), []);
        assert_eq!(bench.machine.phase(), Phase::Backoff);
    }
}

#[test]
fn a_halt_during_backoff_cancels_the_next_start() {
    let mut bench = Bench::ready(TIMING);
    bench.exit();
    bench.exit();
    assert_eq!(bench.machine.phase(), Phase::Backoff);
    assert_eq!(bench.step(Event::HaltAsked), []);
    assert_eq!(bench.machine.deadline(), None);
    bench.now += 60 * SECOND;
    assert_eq!(bench.step(Event::Tick), []);
    assert_eq!(bench.step(Event::ResumeAsked), [Action::Spawn]);
}

#[test]
fn a_halt_before_the_beginning_lets_nothing_start() {
    let mut bench = Bench::new(TIMING);
    bench.step(Event::HaltAsked);
    assert_eq!(bench.step(Event::Begin), []);
    assert_eq!(bench.machine.phase(), Phase::Halted);
}

#[test]
fn a_resume_while_the_halted_daemon_still_dies_starts_the_next_one() {
    let mut bench = Bench::ready(TIMING);
    bench.step(Event::HaltAsked);
    assert_eq!(bench.step(Event::ResumeAsked), []);
    assert_eq!(bench.exit(), [Action::Spawn]);
}

#[test]
fn a_halt_cannot_undo_a_stop() {
    let mut bench = Bench::ready(TIMING);
    bench.step(Event::StopAsked);
    assert_eq!(bench.step(Event::HaltAsked), [Action::Kill]);
    assert_eq!(bench.step(Event::HaltAsked), [], "it is killed already");
    assert_eq!(bench.step(Event::ResumeAsked), []);
    assert_eq!(bench.exit(), [Action::Finish(Outcome::Stopped)]);
}

#[test]
fn a_halt_waits_neither_for_the_drain_nor_for_the_grace_of_a_stop() {
    let mut draining = Bench::ready(DRAINING);
    assert_eq!(draining.step(Event::StopAsked), [Action::InstallDenyAll]);
    assert_eq!(draining.step(Event::HaltAsked), [Action::Kill]);
    assert_eq!(draining.machine.phase(), Phase::Stopping);
    assert_eq!(draining.exit(), [Action::Finish(Outcome::Stopped)]);
}

// Another configuration.

#[test]
fn a_reload_counts_when_it_is_acknowledged_and_the_canary_is_refused_again() {
    let mut bench = Bench::ready(TIMING);
    assert_eq!(
        bench.step(Event::ConfigChanged(Change::Grow)),
        [Action::InstallConfig]
    );
    assert!(bench.machine.is_reloading());
    assert_eq!(
        bench.step(Event::Answered(Answer::Fit)),
        [],
        "not acknowledged yet"
    );
    assert_eq!(
        bench.step(Event::ReloadAcknowledged),
        [Action::ProbeFitness]
    );
    assert_eq!(
        bench.step(Event::Answered(Answer::Alive)),
        [],
        "health is no refusal"
    );
    assert!(bench.machine.is_reloading());
    assert_eq!(
        bench.step(Event::Answered(Answer::Fit)),
        [Action::AnnounceReady]
    );
    assert!(!bench.machine.is_reloading());
}

#[test]
fn a_reload_nobody_acknowledges_restarts_the_daemon_without_blame() {
    let mut bench = Bench::ready(TIMING);
    bench.step(Event::ConfigChanged(Change::Grow));
    assert_eq!(
        bench.tick_until_it_acts(),
        (RELOAD_DEADLINE, vec![Action::Terminate])
    );
    assert_eq!(bench.exit(), [Action::Spawn]);
    assert_eq!(bench.machine.failures(), 0);
}

#[test]
fn a_refused_reload_restarts_the_daemon() {
    let mut bench = Bench::ready(TIMING);
    assert_eq!(
        bench.step(Event::ReloadRefused),
        [],
        "none was asked for here"
    );
    bench.step(Event::ConfigChanged(Change::Grow));
    assert_eq!(bench.step(Event::ReloadRefused), [Action::Terminate]);
    assert_eq!(bench.exit(), [Action::Spawn]);
}

#[test]
fn a_second_change_during_a_reload_starts_its_deadline_anew() {
    let mut bench = Bench::ready(TIMING);
    bench.step(Event::ConfigChanged(Change::Grow));
    bench.now += SECOND;
    assert_eq!(
        bench.step(Event::ConfigChanged(Change::Grow)),
        [Action::InstallConfig]
    );
    assert_eq!(bench.tick_until_it_acts().0, RELOAD_DEADLINE);
}

#[test]
fn a_daemon_that_lets_the_canary_out_after_a_reload_is_a_failure() {
    let mut bench = Bench::ready(TIMING);
    bench.step(Event::ConfigChanged(Change::Grow));
    bench.step(Event::ReloadAcknowledged);
    assert_eq!(
        bench.step(Event::Answered(Answer::Unfit("200".to_owned()))),
        [Action::Kill]
    );
    bench.exit();
    assert_eq!(bench.machine.failures(), 1);
}

#[test]
fn never_asks_a_starting_daemon_to_reload() {
    for change in [Change::Grow, REPLACE, REVOKE] {
        let mut bench = Bench::starting(DRAINING);
        assert_eq!(
            bench.step(Event::ConfigChanged(change)),
            [Action::Terminate],
            "{change:?}"
        );
        assert_eq!(bench.exit(), [Action::Spawn]);
        assert_eq!(bench.machine.failures(), 0);
    }
}

#[test]
fn a_revocation_never_drains_and_gives_little_grace() {
    let mut bench = Bench::ready(DRAINING);
    assert_eq!(
        bench.step(Event::ConfigChanged(REVOKE)),
        [Action::Terminate]
    );
    assert_eq!(bench.tick(), (SHORT_GRACE, vec![Action::Kill]));
}

#[test]
fn a_revocation_cuts_a_drain_short() {
    let mut bench = Bench::draining();
    assert_eq!(
        bench.step(Event::ConfigChanged(REVOKE)),
        [Action::Terminate]
    );
    assert_eq!(bench.tick(), (SHORT_GRACE, vec![Action::Kill]));
    assert_eq!(bench.exit(), [Action::Finish(Outcome::Stopped)]);
}

#[test]
fn a_revocation_shortens_a_grace_period_and_never_lengthens_one() {
    let mut bench = Bench::ready(TIMING);
    bench.step(Event::StopAsked);
    assert_eq!(bench.step(Event::ConfigChanged(REVOKE)), []);
    bench.now += SHORT_GRACE / 2;
    assert_eq!(bench.step(Event::ConfigChanged(REVOKE)), []);
    assert_eq!(bench.tick(), (SHORT_GRACE / 2, vec![Action::Kill]));
}

// Draining.

#[test]
fn drains_until_no_tunnel_is_open() {
    let mut bench = Bench::draining();
    assert_eq!(
        bench.step(Event::Answered(Answer::Alive)),
        [],
        "an answer from before the drain"
    );
    assert_eq!(
        bench.step(Event::DenyAllAcknowledged),
        [Action::CountTunnels]
    );
    for open in [2, 1] {
        assert_eq!(bench.step(Event::Answered(Answer::Tunnels(open))), []);
        assert_eq!(bench.tick(), (DRAIN_INTERVAL, vec![Action::CountTunnels]));
    }
    assert_eq!(
        bench.step(Event::Answered(Answer::Silent(Silence::because("late")))),
        []
    );
    assert_eq!(bench.tick(), (DRAIN_INTERVAL, vec![Action::CountTunnels]));
    assert_eq!(
        bench.step(Event::Answered(Answer::Tunnels(0))),
        [Action::Terminate]
    );
}

#[test]
fn counts_no_tunnels_before_new_ones_are_refused() {
    let mut bench = Bench::draining();
    bench.step(Event::Answered(Answer::Alive));
    assert_eq!(bench.tick(), (DRAIN, vec![Action::Terminate]));
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let mut bench = Bench::draining();
    let begin = bench.now;
    bench.step(Event::DenyAllAcknowledged);
    loop {
        bench.step(Event::Answered(Answer::Tunnels(1)));
        let (_, actions) = bench.tick();
        if actions == [Action::Terminate] {
            break;
        }
        assert_eq!(actions, [Action::CountTunnels]);
    }
    assert_eq!(bench.now - begin, DRAIN);
}

#[test]
fn a_second_stop_cuts_a_drain_short() {
    let mut bench = Bench::draining();
    assert_eq!(bench.step(Event::StopAsked), [Action::Terminate]);
    assert_eq!(bench.step(Event::StopAsked), []);
}

#[test]
fn a_stop_during_the_drain_of_a_restart_ends_instead() {
    let mut bench = Bench::ready(DRAINING);
    bench.step(Event::ConfigChanged(REPLACE));
    assert_eq!(bench.step(Event::StopAsked), []);
    bench.step(Event::DenyAllAcknowledged);
    bench.step(Event::Answered(Answer::Tunnels(0)));
    assert_eq!(bench.exit(), [Action::Finish(Outcome::Stopped)]);
}

#[test]
fn a_daemon_that_dies_while_draining_has_drained() {
    let mut stop = Bench::draining();
    assert_eq!(stop.exit(), [Action::Finish(Outcome::Stopped)]);
    let mut restart = Bench::ready(DRAINING);
    restart.step(Event::ConfigChanged(REPLACE));
    assert_eq!(restart.exit(), [Action::Spawn]);
    assert_eq!(restart.machine.failures(), 0);
}

// Random histories.

/// What happens next in a random history.
#[derive(Debug, Clone)]
enum Happening {
    /// Time passes, deadline by deadline, in milliseconds.
    Wait(u64),
    /// Time passes until the next deadline.
    UntilDeadline,
    Stop,
    Halt,
    Resume,
    Change(Change),
    /// The daemon, if there is one, ends.
    Exit(ExitReason),
    /// The daemon, if there is one, starves.
    Starve,
    /// The next start fails.
    NextSpawnFails,
    /// The question under way, if there is one, is answered well, not at all, or badly.
    AnswerWell(u64),
    AnswerNot(Silence),
    AnswerSick,
    AnswerBadly,
    /// The daemon, if there is one, says these.
    Proves,
    Confined,
    Announced,
    Acknowledges,
    AcknowledgesDenyAll,
    Refuses,
    Contradicts,
    /// An event that nothing in the world explains.
    Spurious(Event),
}

/// Whatever may be seen of a daemon that does not answer.
fn silence() -> impl Strategy<Value = Silence> {
    let used = proptest::option::of((0_u64..600_000).prop_map(Duration::from_millis));
    let overload = proptest::option::of(Just("its descriptors are in use".to_owned()));
    (used, overload).prop_map(|(used, overload)| Silence {
        why: "silent".to_owned(),
        late: true,
        used,
        overload,
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Fit),
        Just(Answer::Alive),
        silence().prop_map(Answer::Silent),
        Just(Answer::Sick("sick".to_owned())),
        Just(Answer::Unfit("unfit".to_owned())),
        (0_u64..3).prop_map(Answer::Tunnels),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![Just(Change::Grow), Just(REPLACE), Just(REVOKE)]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_u64..4_000).prop_map(Happening::Wait),
        1 => (20_000_u64..130_000).prop_map(Happening::Wait),
        6 => Just(Happening::UntilDeadline),
        1 => Just(Happening::Stop),
        2 => Just(Happening::Halt),
        2 => Just(Happening::Resume),
        3 => change().prop_map(Happening::Change),
        4 => prop_oneof![
            (0..256).prop_map(ExitReason::Code),
            (1..65).prop_map(ExitReason::Signal)
        ].prop_map(Happening::Exit),
        1 => Just(Happening::Starve),
        1 => Just(Happening::NextSpawnFails),
        5 => (0_u64..3).prop_map(Happening::AnswerWell),
        3 => silence().prop_map(Happening::AnswerNot),
        1 => Just(Happening::AnswerSick),
        1 => Just(Happening::AnswerBadly),
        6 => Just(Happening::Proves),
        1 => Just(Happening::Confined),
        1 => Just(Happening::Announced),
        3 => Just(Happening::Acknowledges),
        3 => Just(Happening::AcknowledgesDenyAll),
        1 => Just(Happening::Refuses),
        1 => Just(Happening::Contradicts),
        1 => answer().prop_map(|answer| Happening::Spurious(Event::Answered(answer))),
        1 => prop_oneof![
            Just(Event::Begin), Just(Event::Tick), Just(Event::ReloadAcknowledged),
            Just(Event::DenyAllAcknowledged), Just(Event::ReloadRefused), Just(Event::Announced),
            Just(Event::Confined), Just(Event::Unfit("spurious".to_owned())),
        ].prop_map(Happening::Spurious),
    ]
}

fn any_timing() -> impl Strategy<Value = Timing> {
    (
        prop_oneof![Just(0_u64), 1..10_000_u64],
        prop_oneof![Just(0_u64), 1..30_000_u64],
        1_000..60_000_u64,
    )
        .prop_map(|(grace, drain, probe)| Timing {
            grace: Duration::from_millis(grace),
            drain: Duration::from_millis(drain),
            probe: Duration::from_millis(probe),
        })
}

/// The daemon and the kernel, as far as the machine can tell, and every promise.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact about the world"
)]
struct World {
    machine: Machine,
    timing: Timing,
    now: Instant,
    daemon: bool,
    spawn_fails: bool,
    spawn_failure_due: bool,
    question: Option<Action>,
    terminated_at: Option<Instant>,
    killed_at: Option<Instant>,
    stop_asked_at: Option<Instant>,
    halted: bool,
    proved: [bool; 3],
    ready_since: Option<Instant>,
    was_ready: bool,
    /// In all since the last failure, and whether that was a window of it.
    healthy: Duration,
    long_health: bool,
    last_delay: Duration,
    finished: bool,
}

impl World {
    fn new(timing: Timing) -> Self {
        Self {
            machine: Machine::new(timing),
            timing,
            now: Instant::now(),
            daemon: false,
            spawn_fails: false,
            spawn_failure_due: false,
            question: None,
            terminated_at: None,
            killed_at: None,
            stop_asked_at: None,
            halted: false,
            proved: [false; 3],
            ready_since: None,
            was_ready: false,
            healthy: Duration::ZERO,
            long_health: false,
            last_delay: Duration::ZERO,
            finished: false,
        }
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        match &event {
            Event::StopAsked => {
                self.stop_asked_at.get_or_insert(self.now);
            }
            Event::HaltAsked if self.stop_asked_at.is_none() => self.halted = true,
            Event::ResumeAsked => self.halted = false,
            Event::Confined => self.proved[0] = true,
            Event::Announced => self.proved[1] = true,
            Event::Answered(Answer::Fit) => self.proved[2] = true,
            Event::Exited(_) | Event::OutOfMemory(..) => {
                assert!(self.daemon);
                self.daemon = false;
                self.terminated_at = None;
                self.killed_at = None;
            }
            _ => {}
        }
        if matches!(event, Event::Answered(_)) {
            self.question = None;
        }
        let failures = self.machine.failures();
        let actions = self.machine.step(event, self.now);
        for action in &actions {
            self.check(action);
        }
        if self.machine.phase() != Phase::Ready
            && let Some(since) = self.ready_since.take()
        {
            // Over restarts that were wanted too: those are no news about health.
            self.healthy += self.now - since;
            self.long_health |= self.healthy >= WINDOW;
        }
        if self.machine.failures() > failures && !self.finished && !self.halted {
            let delay = if actions.contains(&Action::Spawn) {
                Duration::ZERO
            } else {
                assert_eq!(self.machine.phase(), Phase::Backoff);
                self.machine.deadline().unwrap() - self.now
            };
            assert!(
                delay >= self.last_delay || self.long_health,
                "the backoff shrank from {:?} to {delay:?}",
                self.last_delay
            );
            assert!(delay <= 10 * SECOND);
            self.last_delay = delay;
            self.long_health = false;
            self.healthy = Duration::ZERO;
        }
        assert_eq!(self.finished, self.machine.phase() == Phase::Ended);
        assert_eq!(
            self.machine.is_halted(),
            self.halted,
            "{:?}",
            self.machine.phase()
        );
        actions
    }

    fn check(&mut self, action: &Action) {
        assert!(!self.finished, "{action:?} after the end");
        match action {
            Action::Spawn => {
                assert!(
                    !self.daemon && !self.spawn_failure_due,
                    "a daemon beside another"
                );
                assert!(self.stop_asked_at.is_none(), "a start after a stop");
                assert!(!self.halted, "a start while halted");
                self.daemon = !self.spawn_fails;
                self.spawn_failure_due = std::mem::take(&mut self.spawn_fails);
                self.proved = [false; 3];
                self.was_ready = false;
                self.question = None;
                self.killed_at = None;
                self.terminated_at = None;
            }
            Action::Terminate => {
                assert!(self.daemon || self.spawn_failure_due);
                assert!(self.terminated_at.is_none() && self.killed_at.is_none());
                self.terminated_at = Some(self.now);
            }
            Action::Kill => {
                assert!(self.daemon || self.spawn_failure_due);
                self.killed_at = Some(self.now);
            }
            Action::ProbeFitness | Action::ProbeLiveness(_) | Action::CountTunnels => {
                self.question = Some(action.clone());
                if *action == Action::ProbeFitness && self.was_ready {
                    // After a reload the canary has to be refused anew.
                    self.proved[2] = false;
                }
            }
            Action::InstallConfig | Action::InstallDenyAll => {
                assert!(self.daemon && self.was_ready, "a reload before readiness");
                assert!(self.terminated_at.is_none() && self.killed_at.is_none());
            }
            Action::AnnounceReady => {
                assert!(self.daemon && !self.halted && self.stop_asked_at.is_none());
                assert_eq!(self.proved, [true; 3], "ready without proof");
                self.was_ready = true;
                self.ready_since.get_or_insert(self.now);
            }
            Action::Finish(outcome) => {
                self.finished = true;
                if *outcome == Outcome::Stopped {
                    assert!(self.stop_asked_at.is_some());
                }
                let abandoned = self
                    .killed_at
                    .is_some_and(|killed| self.now >= killed + ABANDON);
                assert!(!self.daemon || abandoned, "an end beside a daemon");
            }
        }
    }

    fn keep_promises_about_time(&self) {
        if let (Some(asked), false) = (self.terminated_at, self.killed_at.is_some()) {
            assert!(
                self.now <= asked + self.timing.grace,
                "SIGTERM without SIGKILL"
            );
        }
        if let (Some(asked), false) = (self.stop_asked_at, self.finished) {
            let bound = self.timing.drain + self.timing.grace + 2 * SECOND;
            assert!(self.now <= asked + bound, "a stop that takes too long");
        }
    }

    fn deliver_spawn_failure(&mut self) {
        while std::mem::take(&mut self.spawn_failure_due) {
            self.terminated_at = None;
            self.killed_at = None;
            self.feed(Event::SpawnFailed(
                ExitCode::NotFound,
                "cannot execute it".to_owned(),
            ));
        }
    }

    /// Lets time pass to `until`, with a tick at every deadline on the way.
    fn pass(&mut self, until: Instant) {
        self.deliver_spawn_failure();
        let mut ticks = 0;
        while let Some(deadline) = self.machine.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(deadline);
            let actions = self.feed(Event::Tick);
            assert!(
                !actions.is_empty() || self.machine.deadline().is_none_or(|next| next > self.now),
                "the loop would spin in {:?}",
                self.machine.phase()
            );
            self.deliver_spawn_failure();
            self.keep_promises_about_time();
            ticks += 1;
            assert!(ticks < 10_000, "the loop spins");
        }
        self.now = self.now.max(until);
        self.keep_promises_about_time();
    }

    fn live(&mut self, happening: Happening) {
        if !matches!(happening, Happening::Spurious(_) | Happening::Stop) {
            self.deliver_spawn_failure();
        }
        let said = |event: Event| Some(event).filter(|_| self.daemon);
        let event = match happening {
            Happening::Wait(ms) => {
                self.pass(self.now + Duration::from_millis(ms));
                None
            }
            Happening::UntilDeadline => {
                if let Some(deadline) = self.machine.deadline() {
                    self.pass(deadline);
                }
                None
            }
            Happening::Stop => Some(Event::StopAsked),
            Happening::Halt => Some(Event::HaltAsked),
            Happening::Resume => Some(Event::ResumeAsked),
            Happening::Change(change) => Some(Event::ConfigChanged(change)),
            Happening::Exit(reason) => said(Event::Exited(reason)),
            Happening::Starve => said(Event::OutOfMemory(
                ExitReason::Signal(9),
                "its limit".to_owned(),
            )),
            Happening::NextSpawnFails => {
                self.spawn_fails = true;
                None
            }
            Happening::AnswerWell(open) => self.question.clone().map(|question| {
                Event::Answered(match question {
                    Action::ProbeFitness => Answer::Fit,
                    Action::ProbeLiveness(_) => Answer::Alive,
                    _ => Answer::Tunnels(open),
                })
            }),
            Happening::AnswerNot(silence) => self
                .question
                .clone()
                .map(|_| Event::Answered(Answer::Silent(silence))),
            Happening::AnswerSick => self
                .question
                .clone()
                .map(|_| Event::Answered(Answer::Sick("sick".to_owned()))),
            Happening::AnswerBadly => self
                .question
                .clone()
                .map(|_| Event::Answered(Answer::Unfit("unfit".to_owned()))),
            Happening::Proves if self.daemon => {
                self.feed(Event::Confined);
                self.feed(Event::Announced);
                self.question
                    .clone()
                    .filter(|question| *question == Action::ProbeFitness)
                    .map(|_| Event::Answered(Answer::Fit))
            }
            Happening::Proves => None,
            Happening::Confined => said(Event::Confined),
            Happening::Announced => said(Event::Announced),
            Happening::Acknowledges => said(Event::ReloadAcknowledged),
            Happening::AcknowledgesDenyAll => said(Event::DenyAllAcknowledged),
            Happening::Refuses => said(Event::ReloadRefused),
            Happening::Contradicts => said(Event::Unfit("contradiction".to_owned())),
            Happening::Spurious(event) => Some(event),
        };
        if let Some(event) = event {
            self.feed(event);
        }
        self.keep_promises_about_time();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keeps_every_promise_in_any_history(
        timing in any_timing(),
        history in proptest::collection::vec(happening(), 1..120),
        dies_when_killed in any::<bool>(),
    ) {
        let mut world = World::new(timing);
        world.feed(Event::Begin);
        for happening in history {
            world.live(happening);
        }
        // The end: nothing more happens but a stop and what the kernel makes of it.
        world.deliver_spawn_failure();
        world.feed(Event::StopAsked);
        let asked = world.now;
        let mut ticks = 0;
        while !world.finished {
            if dies_when_killed && world.daemon && world.killed_at.is_some() {
                world.feed(Event::Exited(ExitReason::Signal(9)));
                continue;
            }
            let deadline = world.machine.deadline();
            prop_assert!(deadline.is_some(), "nothing will ever end it: {:?}", world.machine.phase());
            world.pass(deadline.unwrap_or(world.now));
            ticks += 1;
            prop_assert!(ticks < 10_000);
        }
        prop_assert!(world.now - asked <= timing.drain + timing.grace + 2 * SECOND);
        prop_assert!(world.finished && world.machine.deadline().is_none());
        world.now += MILLISECOND;
        for event in [Event::Begin, Event::Tick, Event::ResumeAsked, Event::StopAsked] {
            prop_assert_eq!(world.feed(event), vec![]);
        }
    }
}
