//! What `watch` shows on a terminal: one picture of what is true now, drawn anew when that
//! changes. The picture is a pure function of a look; only [`Screen`] touches the terminal.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::granted;
use super::happening::{Happening, Look};
use super::status::{condition, hosts};
use crate::environment;
use crate::plain;
use crate::policy::grants;
use crate::status::denials::{self, Denial, Tally};
use crate::status::told::{Condition, StatusFile};
use crate::status::{State, Word};
use crate::sys::terminal::Terminal;

/// Its own page, which leaves what was there before as it was; no cursor, and lines that are
/// too long end at the edge.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";
/// To the first place of the first line.
const HOME: &str = "\u{1b}[H";
/// What is behind and below that.
const CLEAR_LINE: &str = "\u{1b}[K";
const CLEAR_BELOW: &str = "\u{1b}[J";
/// A terminal of which nobody says how large it is.
const USUAL_SIZE: (usize, usize) = (24, 80);
/// A terminal that takes nothing any more is left as it is.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// Of what happened so much is kept in view.
const MOST_EVENTS: usize = 6;
/// Before the value of a line.
const NAME: usize = 14;

/// A line, and the colour it has on a terminal that is to have colours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    text: String,
    colour: Option<Colour>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Red,
    Yellow,
    Green,
    Bold,
}

impl Colour {
    /// Of an event of this kind.
    pub(super) fn of(kind: &str) -> Option<Self> {
        match kind {
            "refused" | "cut" | "error" | "nothing" => Some(Self::Red),
            "warning" | "revoked" | "daemon" => Some(Self::Yellow),
            "state" | "started" | "manifest" | "grant" => Some(Self::Green),
            _ => None,
        }
    }

    /// What switches it on; [`Self::OFF`] ends it.
    pub(super) fn on(self) -> &'static str {
        match self {
            Self::Red => "\u{1b}[31m",
            Self::Yellow => "\u{1b}[33m",
            Self::Green => "\u{1b}[32m",
            Self::Bold => "\u{1b}[1m",
        }
    }

    pub(super) const OFF: &str = "\u{1b}[0m";
}

/// Whether standard output can be drawn on.
pub(super) fn can_draw() -> bool {
    io::stdout().is_terminal() && environment::TERM.value().is_none_or(|term| term != "dumb")
}

/// The terminal while it is drawn on; as it was before once this is dropped.
pub(super) struct Screen {
    terminal: Option<Terminal>,
    colours: bool,
    shown: String,
}

/// What has become of it while it waited.
pub(super) enum Heard {
    /// Nothing that ends it.
    Nothing,
    /// This signal is to end it.
    End(Signal),
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        let screen = Self {
            terminal: Some(Terminal::begin()?),
            colours: environment::NO_COLOR.value().is_none(),
            shown: String::new(),
        };
        screen.write_in_any_case(ENTER)?;
        Ok(screen)
    }

    /// Draws what is not shown yet, and then waits.
    pub(super) fn show(
        &mut self,
        picture: impl Fn((usize, usize)) -> Vec<Line>,
        patience: Duration,
    ) -> io::Result<Heard> {
        let Some(terminal) = &self.terminal else {
            return Ok(Heard::Nothing);
        };
        let size = Terminal::size().unwrap_or(USUAL_SIZE);
        let text = drawn(&picture(size), size, self.colours);
        let mut heard = None;
        if text != self.shown {
            heard = terminal.write(&text, None)?;
            // What a signal cut off is drawn again.
            self.shown = if heard.is_none() { text } else { String::new() };
        }
        if heard.is_none() {
            heard = terminal.hear(patience)?;
        }
        match heard {
            None => Ok(Heard::Nothing),
            Some(Signal::SIGWINCH) => {
                self.shown.clear();
                Ok(Heard::Nothing)
            }
            Some(Signal::SIGTSTP) => {
                self.write_in_any_case(LEAVE)?;
                terminal.suspend()?;
                self.write_in_any_case(ENTER)?;
                self.shown.clear();
                Ok(Heard::Nothing)
            }
            Some(signal) => Ok(Heard::End(signal)),
        }
    }

    /// Leaves the terminal as it was, and lets the signal do what it does.
    pub(super) fn end_by(mut self, signal: Signal) -> io::Result<()> {
        self.leave();
        match self.terminal.take() {
            Some(terminal) => terminal.end_by(signal),
            None => Ok(()),
        }
    }

    fn leave(&self) {
        // Nothing is left to be done where it is gone.
        let _ = self.write_in_any_case(LEAVE);
    }

    fn write_in_any_case(&self, text: &str) -> io::Result<()> {
        match &self.terminal {
            Some(terminal) => terminal.write(text, Some(LEAVE_PATIENCE)).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A picture as a terminal is told of it.
fn drawn(lines: &[Line], (rows, columns): (usize, usize), colours: bool) -> String {
    let mut text = HOME.to_owned();
    for (row, line) in lines.iter().take(rows).enumerate() {
        if row > 0 {
            text.push_str("\r\n");
        }
        let fits = cut(&line.text, columns);
        match line.colour.filter(|_| colours) {
            Some(colour) => text.push_str(&format!("{}{fits}{}", colour.on(), Colour::OFF)),
            None => text.push_str(&fits),
        }
        text.push_str(CLEAR_LINE);
    }
    text.push_str(CLEAR_BELOW);
    text
}

/// So many characters of it.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(columns.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// What is true at `now`, in seconds since 1970, in so many lines at most; `happened` are events
/// with their times, the newest last; `places` as of [`denials::command`]. Pure.
pub(super) fn picture(
    look: &Look,
    happened: &VecDeque<(String, Happening)>,
    places: &str,
    now: u64,
    (rows, columns): (usize, usize),
) -> Vec<Line> {
    let mut lines = match look {
        Look::Told(told) => of_status(&told.0, now),
        Look::Nothing(why) => vec![line("", why, Some(Colour::Red))],
    };
    let events: Vec<Line> = happened
        .iter()
        .rev()
        .take(MOST_EVENTS)
        .rev()
        .map(|(at, event)| {
            let text = plain::lines(event.text.lines().next().unwrap_or_default());
            let text = format!("  {at}  {:<9} {text}", event.kind);
            let colour = Colour::of(event.kind);
            Line { text, colour }
        })
        .collect();
    // A heading and an empty line before each of the two.
    let room = rows.saturating_sub(lines.len() + events.len() + 4);
    if let Look::Told(told) = look
        && let Some(tally) = &told.1
        && tally.boot_id == told.0.status.boot_id
        && tally.total > 0
    {
        lines.push(heading(""));
        lines.push(heading("refused, the last first"));
        lines.extend(of_denials(tally, places, now, (room, columns)));
    }
    if !events.is_empty() {
        lines.push(heading(""));
        lines.push(heading("what happened"));
        lines.extend(events);
    }
    lines
}

/// A command of the shell in lines of so many characters, where its words are no longer: each but
/// the last goes on in the next, so that it can be pasted as it stands.
fn continued(command: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut quoted = false;
    for word in command.split(' ') {
        let last = lines.last_mut().map(|line| (line.chars().count(), line));
        if let Some((length, line)) = last {
            // Within quotes a line's end would be one.
            let fits = quoted || length + word.chars().count() + " \\ ".len() <= columns;
            if fits || line.is_empty() {
                line.push_str(if line.is_empty() { "" } else { " " });
                line.push_str(word);
            } else {
                line.push_str(" \\");
                lines.push(format!("  {word}"));
            }
        }
        quoted ^= word.matches('\'').count() % 2 == 1;
    }
    lines
}

fn heading(text: &str) -> Line {
    Line {
        text: text.to_owned(),
        colour: Some(Colour::Bold).filter(|_| !text.is_empty()),
    }
}

/// The first line of a value, after its name.
fn line(name: &str, value: &str, colour: Option<Colour>) -> Line {
    let value = plain::lines(value.lines().next().unwrap_or_default());
    let text = format!("  {name:<NAME$}{value}");
    Line { text, colour }
}

fn of_status(file: &StatusFile, now: u64) -> Vec<Line> {
    let status = &file.status;
    let slug = status.slug.as_deref().unwrap_or("(no manifest yet)");
    let well = match &file.condition {
        Condition::Told(Word::Known(State::Ready)) => Colour::Green,
        Condition::Told(Word::Known(State::Failed | State::Halted | State::Stopped)) => Colour::Red,
        Condition::Told(_) => Colour::Yellow,
        Condition::Killed | Condition::Hung => Colour::Red,
    };
    let head = format!("{slug}: {}", condition(file));
    let text = plain::lines(head.lines().next().unwrap_or_default());
    let mut lines = vec![Line {
        text,
        colour: Some(well),
    }];
    if let Some(error) = &status.error {
        lines.push(line("error", error, Some(Colour::Red)));
    }
    if let Some(text) = status.manifest_in_words() {
        lines.push(line("manifest", &text, Some(Colour::Red)));
    }
    if let Some(listen) = &status.listen {
        lines.push(line("proxy", listen, None));
    }
    let config = &status.config;
    let allowed = format!(
        "{} allowed, by generation {} of the manifest",
        status.hosts_allowed, config.applied_generation
    );
    lines.push(line("hosts", &allowed, None));
    if !status.not_scanned.is_empty() {
        let named = hosts(&status.not_scanned, status.not_scanned_more);
        lines.push(line("not scanned", &named, None));
    }
    for grant in &status.grants {
        let colour = grant.in_force.then_some(Colour::Green);
        lines.push(line("granted", &granted::in_words(grant, now), colour));
    }
    if status.grants_more > 0 {
        let more = format!("and {} more", status.grants_more);
        lines.push(line("", &more, None));
    }
    for daemon in &status.daemons {
        lines.push(line(&daemon.name, &daemon.state.to_string(), None));
    }
    for warning in &status.warnings {
        lines.push(line("warning", warning, Some(Colour::Yellow)));
    }
    lines
}

/// Each once, with what would allow it: those that were seen last, as many as there is room for.
fn of_denials(tally: &Tally, places: &str, now: u64, (room, columns): (usize, usize)) -> Vec<Line> {
    let total = tally.total;
    let mut newest: Vec<&Denial> = tally.denials.iter().collect();
    newest.sort_unstable_by(|one, other| {
        let by_last = other.last_seen.cmp(&one.last_seen);
        by_last.then_with(|| other.first_seen.cmp(&one.first_seen))
    });
    // Two lines each, and one for those that are left out.
    let shown = (room.saturating_sub(1) / 2).max(1);
    let mut lines = Vec::new();
    for denial in newest.iter().take(shown) {
        let seen = grants::time(&denial.last_seen, now).ok();
        let ago = seen.and_then(|then| now.checked_sub(then));
        let ago = ago.map_or_else(String::new, |ago| format!(", {} ago", granted::span(ago)));
        let text = format!("{}{ago}", denials::explain(denial));
        lines.push(line(&denial.verb, &text, Some(Colour::Red)));
        match (denials::command(denial, places), &denial.advice) {
            (Some(command), _) => {
                let parts = continued(&command, columns.saturating_sub(NAME + 2));
                lines.extend(parts.iter().map(|part| line("", part, None)));
            }
            (None, Some(advice)) => lines.push(line("", advice, None)),
            (None, None) => {}
        }
    }
    let told = newest.iter().take(shown);
    let told = told.fold(0_u64, |sum, denial| sum.saturating_add(denial.count));
    let more = total.saturating_sub(told);
    if more > 0 {
        let text = format!("{more} more of {total}: see {}", denials::FILE);
        lines.push(line("", &text, None));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-26T12:00:00Z.
    const NOW: u64 = 1_795_694_400;

    fn look(hosts: u64) -> Look {
        let status = r#"{"schema":2,"boot_id":"one","slug":"dev","state":"ready","listen":"0.0.0.0:8888",
            "hosts_allowed":3,"config":{"generation":2,"applied_generation":2},"not_scanned":["p.example"],
            "grants":[{"host":"g.example","until":"2026-11-26T12:12:30Z","passthrough":false,"in_force":true}]}"#;
        let file = StatusFile::parse(status.as_bytes()).unwrap();
        let denials: Vec<_> = (0..hosts)
            .map(|it| {
                serde_json::json!({
                    "host": format!("h{it}.example"), "scanner": "allowlist", "reason": "x", "count": 2,
                    "verb": "refused", "means": "not in the allowlist", "kind": "not-allowed",
                    "advice": format!("was it meant? add - host: h{it}.example"),
                    "last_seen": format!("2026-11-26T11:59:{it:02}Z"),
                })
            })
            .collect();
        let tally = serde_json::json!({"boot_id": "one", "total": hosts * 2, "denials": denials});
        Look::Told(Box::new((
            file,
            denials::parse(tally.to_string().as_bytes()),
        )))
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_command_is_cut_nowhere_where_its_words_have_room() {
        let command =
            "sidecar-init grant a.example --manifest '/a b/m.yaml' --run-dir /run/sidecar";
        assert_eq!(continued(command, 100), [command]);
        let lines = continued(command, 40);
        let expected = [
            "sidecar-init grant a.example \\",
            "  --manifest '/a b/m.yaml' --run-dir \\",
            "  /run/sidecar",
        ];
        assert_eq!(lines, expected);
        // As a shell reads it.
        let joined = lines.join("\n").replace(" \\\n ", "");
        assert_eq!(joined, command);
        // A word that has no room is not broken.
        assert_eq!(
            continued("sidecar-init grant", 4),
            ["sidecar-init \\", "  grant"]
        );
    }

    #[test]
    fn shows_what_is_true_and_each_refusal_once_with_the_command_that_allows_it() {
        let event = Happening::new("state", "ready; what is not allowed is refused\nmore");
        let happened = VecDeque::from([("2026-11-26T11:59:00Z".to_owned(), event)]);
        let lines = picture(&look(2), &happened, "", NOW, (24, 80));
        assert_eq!(
            texts(&lines),
            [
                "dev: ready; what is not allowed is refused",
                "  proxy         0.0.0.0:8888",
                "  hosts         3 allowed, by generation 2 of the manifest",
                "  not scanned   p.example",
                "  granted       g.example, ends in 12 min, until 2026-11-26T12:12:30Z",
                "",
                "refused, the last first",
                "  refused       2 × h1.example: not in the allowlist, 59 s ago",
                "                sidecar-init grant h1.example",
                "  refused       2 × h0.example: not in the allowlist, 60 s ago",
                "                sidecar-init grant h0.example",
                "",
                "what happened",
                "  2026-11-26T11:59:00Z  state     ready; what is not allowed is refused",
            ]
        );
        let nothing = Look::Nothing("cannot read it\nhint: look".to_owned());
        let lines = picture(&nothing, &VecDeque::new(), "", NOW, (24, 80));
        assert_eq!(texts(&lines), ["                cannot read it"]);
        assert_eq!(lines[0].colour, Some(Colour::Red));
    }

    #[test]
    fn whatever_there_is_fits_the_terminal() {
        let event = Happening::new("state", "ready");
        let happened: VecDeque<_> = (0..99).map(|it| (it.to_string(), event.clone())).collect();
        for rows in [10, 24, 60] {
            let lines = picture(&look(50), &happened, "", NOW, (rows, 80));
            let fits = rows.max(5 + 4 + 3 + MOST_EVENTS);
            assert!(lines.len() <= fits, "{rows}: {:#?}", texts(&lines));
            let text = drawn(&lines, (rows, 20), false);
            assert!(text.matches("\r\n").count() < rows);
            for line in text.split("\r\n") {
                let line = line.trim_start_matches(HOME).trim_end_matches(CLEAR_BELOW);
                let line = line.trim_end_matches(CLEAR_LINE);
                assert!(line.chars().count() <= 20, "{line}");
                assert!(!line.contains('\u{1b}'), "{line:?}");
            }
        }
        let lines = picture(&look(50), &happened, "", NOW, (24, 80));
        let more = texts(&lines)
            .into_iter()
            .find(|line| line.contains(" more of 100"));
        assert!(
            more.is_some_and(|line| line.contains("see denials.json")),
            "{lines:#?}"
        );
        assert!(drawn(&lines, (24, 80), true).contains("\u{1b}[31m"));
    }
}
