//! How a start went, stage by stage: as a waterfall in the terminal, and as a picture.
//! Pure.

use crate::plain;
use crate::status::{Outcome, State, Status, Word};

/// A year in microseconds: no start takes as long, and sums of two are still numbers.
const LONGEST_STAGE: u64 = 31_536_000_000_000;
/// Of a stage's name, in bytes.
const LONGEST_NAME: usize = 32;

/// Of each stage its name, when it was entered and how long it took, in microseconds.
pub(super) fn stages(status: &Status) -> Vec<(String, u64, u64)> {
    let short = |us: u64| us.min(LONGEST_STAGE);
    let stages = status.stages.iter().map(|time| {
        let name = time.stage.to_string();
        let name = plain::shortened(&name, LONGEST_NAME).to_owned();
        (name, short(time.at_us), short(time.took_us.unwrap_or(0)))
    });
    stages.collect()
}

/// What is true of each of the same that was not ready yet.
fn unready(status: &Status) -> Vec<Option<&'static str>> {
    let began = status.daemons.iter().filter(|it| it.began_us.is_some());
    let what = began.map(|daemon| match (&daemon.took_us, &daemon.state) {
        (Some(_), _) => None,
        (None, Word::Known(State::Failed)) => Some("failed"),
        (None, Word::Known(State::Stopped)) => Some("stopped"),
        (None, _) => Some("not over"),
    });
    what.collect()
}

/// The same of the bundle's other daemons, each from its first start until it was ready.
fn others(status: &Status) -> Vec<(String, u64, u64)> {
    let daemons = status.daemons.iter().filter_map(|daemon| {
        let name = plain::shortened(&daemon.name, LONGEST_NAME).to_owned();
        let began = daemon.began_us?.min(LONGEST_STAGE);
        Some((name, began, daemon.took_us.unwrap_or(0).min(LONGEST_STAGE)))
    });
    daemons.collect()
}

/// Microseconds from the execution of the init to the end of the last stage.
fn end(stages: &[(String, u64, u64)]) -> u64 {
    let ends = stages.iter().map(|(_, at, took)| at + took);
    ends.max().unwrap_or(0).max(1)
}

/// A time in the unit that people have for its size.
fn in_words(us: u64) -> String {
    let rounded = |unit: u64| (us + unit / 2) / unit;
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..9_950 => format!("{}.{} ms", rounded(100) / 10, rounded(100) % 10),
        9_950..999_500 => format!("{} ms", rounded(1_000)),
        999_500..99_995_000 => {
            format!("{}.{:02} s", rounded(10_000) / 100, rounded(10_000) % 100)
        }
        _ => format!("{} s", rounded(1_000_000)),
    }
}

/// What is true of the stage that was entered last, where the start is not over with it.
fn unfinished(status: &Status) -> Option<&'static str> {
    let Word::Known(outcome) = &status.outcome else {
        return None;
    };
    let lasts = status.stages.last().is_some_and(|it| it.took_us.is_none());
    match (outcome, &status.state) {
        (Outcome::FailedAt(_), Word::Known(State::Failed)) => Some("failed"),
        (_, Word::Known(State::Stopped)) if lasts => Some("stopped"),
        (Outcome::FailedAt(_), _) => Some("not over"),
        (Outcome::Running | Outcome::Stopped | Outcome::Failed, _) => None,
    }
}

/// How the start went, in a line.
fn headline(status: &Status, stages: &[(String, u64, u64)]) -> String {
    let stage = stages.last().map_or("", |(stage, _, _)| stage);
    let time = in_words(end(stages));
    match unfinished(status) {
        Some(what) => format!("{what} at {stage} after {time}"),
        None => format!("{stage} in {time}"),
    }
}

/// For a terminal.
#[must_use]
pub fn waterfall(status: &Status) -> String {
    const WIDTH: u64 = 40;
    let stages = stages(status);
    let others = others(status);
    let ended = ended(status, stages.len());
    let end = end(&stages).max(end(&others));
    let mut text = String::new();
    for ((stage, at, took), what) in stages.iter().chain(&others).zip(ended) {
        let columns = |us: u64| usize::try_from(us).unwrap_or(0);
        let before = columns(at * WIDTH / end);
        let length = columns((took * WIDTH).div_ceil(end)).max(1);
        text.push_str(&format!(
            "  {:<9} {:>9}  {}{}{}\n",
            stage,
            in_words(*took),
            " ".repeat(before),
            "▇".repeat(length),
            in_a_row(what)
        ));
    }
    text
}

/// What is true of each row's time where it was not over: of the last stage, and of daemons.
fn ended(status: &Status, stages: usize) -> Vec<Option<&'static str>> {
    let before = std::iter::repeat_n(None, stages.saturating_sub(1));
    let last = (stages > 0).then(|| unfinished(status));
    before.chain(last).chain(unready(status)).collect()
}

fn in_a_row(what: Option<&str>) -> String {
    what.map_or_else(String::new, |what| format!(" {what}"))
}

/// The same as SVG, in text alone: no script, no font of its own, light or dark.
#[must_use]
pub fn svg(status: &Status) -> String {
    const ROW: u64 = 22;
    const LEFT: u64 = 90;
    const WIDTH: u64 = 480;
    let stages = stages(status);
    let others = others(status);
    let ended = ended(status, stages.len());
    let end = end(&stages).max(end(&others));
    let height = ROW * ((stages.len() + others.len()) as u64 + 1) + 8;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {height}\" font-family=\"monospace\" \
         font-size=\"13\" fill=\"#777\">\n<title>Start of sidecar-init, by stage</title>\n\
         <text x=\"8\" y=\"16\">{}: {}</text>\n",
        plain::markup(status.slug.as_deref().unwrap_or("sidecar-init")),
        plain::markup(&headline(status, &stages)),
    );
    let mut y = ROW;
    let rows = stages.iter().chain(&others).zip(ended);
    for (index, ((stage, at, took), what)) in rows.enumerate() {
        let colour = match what {
            Some("failed") => "#c43b3b",
            _ if index < stages.len() => "#3b82c4",
            // A daemon is no stage: they run side by side.
            _ => "#3b9c6e",
        };
        let x = LEFT + at * WIDTH / end;
        let width = (took * WIDTH / end).max(2);
        let baseline = y + 16;
        let after = x + width + 6;
        text.push_str(&format!(
            "<text x=\"8\" y=\"{baseline}\">{}</text><rect x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"14\" \
             fill=\"{colour}\"/><text x=\"{after}\" y=\"{baseline}\">{}{}</text>\n",
            plain::markup(stage),
            y + 5,
            in_words(*took),
            in_a_row(what)
        ));
        y += ROW;
    }
    text.push_str("</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Stage;
    use crate::status::schema::{Companion, StageTime};

    /// A start that took 12 ms to its last stage, and is there since.
    fn start(outcome: Outcome, state: State, took_us: Option<u64>) -> Status {
        let time = |stage: Stage, at_us, took_us| StageTime {
            stage: stage.into(),
            at_us,
            took_us,
        };
        Status {
            slug: Some("a".to_owned()),
            state: state.into(),
            outcome: outcome.into(),
            stages: vec![
                time(Stage::Mode, 0, Some(12_000)),
                time(Stage::Ready, 12_000, took_us),
            ],
            ..Status::default()
        }
    }

    #[test]
    fn only_a_start_that_came_to_its_end_is_drawn_as_one_that_is_ready() {
        let failed = Outcome::FailedAt(Stage::Ready);
        let long = Some(4_988_000);
        for (outcome, state, took, wanted) in [
            (Outcome::Running, State::Ready, long, "ready in 5.00 s"),
            (Outcome::Failed, State::Failed, long, "ready in 5.00 s"),
            (Outcome::Stopped, State::Stopped, long, "ready in 5.00 s"),
            (failed, State::Failed, long, "failed at ready after 5.00 s"),
            (failed, State::Failed, None, "failed at ready after 12 ms"),
            (
                failed,
                State::Starting,
                None,
                "not over at ready after 12 ms",
            ),
            (
                failed,
                State::Backoff,
                None,
                "not over at ready after 12 ms",
            ),
            (
                Outcome::Stopped,
                State::Stopped,
                None,
                "stopped at ready after 12 ms",
            ),
        ] {
            let status = start(outcome, state, took);
            let picture = svg(&status);
            assert!(
                picture.contains(&format!("<text x=\"8\" y=\"16\">a: {wanted}</text>")),
                "{picture}"
            );
            let red = wanted.starts_with("failed");
            assert_eq!(picture.contains("#c43b3b"), red, "{picture}");
            // The stage's own row and line say the same.
            let ended = wanted.split(" at ").next().filter(|what| *what != wanted);
            let waterfall = waterfall(&status);
            for drawn in [&picture, &waterfall] {
                let end = ended.is_none_or(|what| {
                    drawn.matches(what).count() > usize::from(drawn == &picture)
                });
                assert!(end, "{wanted}: {drawn}");
            }
        }
    }

    #[test]
    fn a_daemon_that_was_never_ready_is_drawn_as_one() {
        let companion = |name: &str, state: State, took_us| Companion {
            name: name.to_owned(),
            state: state.into(),
            began_us: Some(13_000),
            took_us,
            ..Companion::default()
        };
        let mut status = start(Outcome::FailedAt(Stage::Ready), State::Failed, Some(1));
        status.daemons = vec![
            companion("well", State::Stopped, Some(1_000)),
            companion("broken", State::Failed, None),
            companion("late", State::Starting, None),
        ];
        let (drawn, words) = (svg(&status), waterfall(&status));
        for (name, what) in [
            ("well", None),
            ("broken", Some("failed")),
            ("late", Some("not over")),
        ] {
            let row = |text: &str| -> String {
                let mut lines = text.lines();
                lines.find(|it| it.contains(name)).unwrap().to_owned()
            };
            let (drawn, words) = (row(&drawn), row(&words));
            assert_eq!(drawn.contains("#c43b3b"), what == Some("failed"), "{drawn}");
            let ends = what.map_or_else(|| "▇".to_owned(), |what| format!("▇ {what}"));
            assert!(words.ends_with(&ends), "{words}");
            assert!(what.is_none_or(|what| drawn.contains(what)), "{drawn}");
        }
    }

    #[test]
    fn a_time_is_told_in_the_unit_of_its_size() {
        for (us, wanted) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1.0 ms"),
            (8_001, "8.0 ms"),
            (9_949, "9.9 ms"),
            (9_950, "10 ms"),
            (60_003, "60 ms"),
            (999_499, "999 ms"),
            (999_500, "1.00 s"),
            (1_560_098, "1.56 s"),
            (99_994_999, "99.99 s"),
            (99_995_000, "100 s"),
            (LONGEST_STAGE, "31536000 s"),
        ] {
            assert_eq!(in_words(us), wanted, "{us}");
        }
    }
}
