//! How a start went, stage by stage: as a waterfall in the terminal, and as a picture.
//! Pure.

use crate::plain;
use crate::status::Told;

/// Microseconds from the execution of the init to the end of the last stage.
fn end(stages: &[(&str, u64, u64)]) -> u64 {
    let ends = stages.iter().map(|(_, at, took)| at + took);
    ends.max().unwrap_or(0).max(1)
}

/// For a terminal.
#[must_use]
pub fn waterfall(status: &Told) -> String {
    const WIDTH: u64 = 40;
    let stages = status.stages();
    let end = end(&stages);
    let mut text = String::new();
    for (stage, at, took) in stages {
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
pub fn svg(status: &Told) -> String {
    const ROW: u64 = 22;
    const LEFT: u64 = 90;
    const WIDTH: u64 = 480;
    let stages = status.stages();
    let end = end(&stages);
    let height = ROW * (stages.len() as u64 + 1) + 8;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {height}\" font-family=\"monospace\" \
         font-size=\"13\" fill=\"#777\">\n<title>Start of sidecar-init, by stage</title>\n\
         <text x=\"8\" y=\"16\">{}: {} in {} ms</text>\n",
        plain::markup(status.text("/slug").unwrap_or("sidecar-init")),
        plain::markup(stages.last().map_or("", |(stage, _, _)| *stage)),
        end / 1000
    );
    let mut y = ROW;
    for (stage, at, took) in stages {
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
