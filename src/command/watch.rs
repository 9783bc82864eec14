//! `watch`: what happens, as it happens, one line for each event; on a terminal a picture of what
//! is true.

use std::collections::VecDeque;
use std::io;

use super::happening::{Look, Watched, line};
use super::patience::Patience;
use super::screen::{self, Heard, Screen, picture};
use super::{LOOK_INTERVAL, places, rest, write};
use crate::boot::clock;
use crate::ca::rfc3339;
use crate::cli::WatchOptions;
use crate::exit::{ExitCode, StartError};

/// A file system that has not answered for so many seconds is said not to.
const LONGEST_READING: u64 = 5;
/// Of what happened so much is kept for a picture.
const KEPT: usize = 16;

/// Tells what happens until nobody reads it.
pub fn watch(options: &WatchOptions) -> Result<(), StartError> {
    if !options.json && screen::can_draw() {
        return draw(options).map_err(|error| {
            StartError::new(
                ExitCode::CannotWrite,
                format!("cannot draw on the terminal: {error}"),
            )
        });
    }
    let mut watched = Watched::at(places(&options.run_dir));
    loop {
        let now = look(options);
        let seconds = clock::now();
        let at = rfc3339(seconds);
        for event in watched.events(&now, seconds) {
            if !write(&line(options.json, &at, &event))? {
                return Ok(());
            }
        }
        watched.last = Some(now);
        if !rest(LOOK_INTERVAL * 5) {
            return Ok(());
        }
    }
}

/// Shows what is true until it is interrupted.
fn draw(options: &WatchOptions) -> io::Result<()> {
    let mut screen = Screen::open()?;
    let places = places(&options.run_dir);
    let mut watched = Watched::at(places.clone());
    let mut happened = VecDeque::new();
    loop {
        let now = look(options);
        let seconds = clock::now();
        for event in watched.events(&now, seconds) {
            // The picture has each of those once.
            if !matches!(event.kind, "refused" | "cut") {
                happened.push_back((rfc3339(seconds), event));
            }
        }
        while happened.len() > KEPT {
            happened.pop_front();
        }
        let shown = |size| picture(&now, &happened, &places, seconds, size);
        match screen.show(shown, LOOK_INTERVAL * 5)? {
            Heard::Nothing => watched.last = Some(now),
            Heard::End(signal) => return screen.end_by(signal),
        }
    }
}

fn look(options: &WatchOptions) -> Look {
    match Patience::of(LONGEST_READING).read(&options.run_dir) {
        Ok((file, denials)) => Look::Told(Box::new((file, denials))),
        Err(error) => Look::Nothing(error.to_string()),
    }
}
