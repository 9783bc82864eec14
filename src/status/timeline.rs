//! How a start went, stage by stage: as a waterfall in the terminal, and as a picture.
//! Pure.

use crate::plain;
use crate::status::Status;

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

/// Microseconds from the execution of the init to the end of the last stage.
fn end(stages: &[(String, u64, u64)]) -> u64 {
    let ends = stages.iter().map(|(_, at, took)| at + took);
    ends.max().unwrap_or(0).max(1)
}

/// For a terminal.
#[must_use]
pub fn waterfall(status: &Status) -> String {
    const WIDTH: u64 = 40;
    let stages = stages(status);
    let end = end(&stages);
    let mut text = String::new();
    for (stage, at, took) in &stages {
        let columns = |us: u64| usize::try_from(us).unwrap_or(0);
        let before = columns(at * WIDTH / end);
        let length = columns((took * WIDTH).div_ceil(end)).max(1);
        text.push_str(&format!(
            "  {:<9} {took:>9} µs  {}{}\n",
            stage,
            " ".repeat(before),
            "▇".repeat(length)
        ));
    }
    text
}

/// The same as SVG, in text alone: no script, no font of its own, light or dark.
#[must_use]
pub fn svg(status: &Status) -> String {
    const ROW: u64 = 22;
    const LEFT: u64 = 90;
    const WIDTH: u64 = 480;
    let stages = stages(status);
    let end = end(&stages);
    let height = ROW * (stages.len() as u64 + 1) + 8;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {height}\" font-family=\"monospace\" \
         font-size=\"13\" fill=\"#777\">\n<title>Start of sidecar-init, by stage</title>\n\
         <text x=\"8\" y=\"16\">{}: {} in {} ms</text>\n",
        plain::markup(status.slug.as_deref().unwrap_or("sidecar-init")),
        plain::markup(stages.last().map_or("", |(stage, _, _)| stage)),
        end / 1000
    );
    let mut y = ROW;
    for (stage, at, took) in &stages {
        let x = LEFT + at * WIDTH / end;
        let width = (took * WIDTH / end).max(2);
        let baseline = y + 16;
        let after = x + width + 6;
        text.push_str(&format!(
            "<text x=\"8\" y=\"{baseline}\">{}</text><rect x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"14\" \
             fill=\"#3b82c4\"/><text x=\"{after}\" y=\"{baseline}\">{took} µs</text>\n",
            plain::markup(stage),
            y + 5
        ));
        y += ROW;
    }
    text.push_str("</svg>\n");
    text
}
