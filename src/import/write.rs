//! The manifest, line by line. Values are in their one form already; comments are whatever
//! somebody wrote, and end where their line does.

use crate::plain;

use super::plan::{Block, Plan};

/// The longest comment.
const LONGEST: usize = 400;
/// So many bytes of comments may follow one another without a value: a reader of manifests takes
/// in twice as many characters in search of one.
const MOST_AT_ONCE: usize = 128 * 1024;

/// What is said of one line, in bytes, is written whole: as much as a reader still takes in.
const MOST_BESIDE: usize = 96 * 1024;

/// Whether all that is said of a line is written.
pub(super) fn is_told(block: &Block) -> bool {
    let bytes = block.above.iter().map(|comment| fit(comment).len() + 16);
    bytes.sum::<usize>() <= MOST_BESIDE
}

/// The manifest of an agent of this name, as YAML has it.
pub(super) fn manifest(slug: &str, plan: &Plan) -> String {
    let mut page = Page::default();
    for line in &plan.head {
        page.comment("", line);
    }
    page.comment(
        "",
        "A host is allowed with all its ports, paths and methods.",
    );
    page.line("version: 1");
    page.line(&format!("slug: {slug}"));
    page.line("bottle:");
    page.line("  egress:");
    let has = |blocks: &[Block]| blocks.iter().any(|block| block.value.is_some());
    page.line(if has(&plan.routes) {
        "    routes:"
    } else {
        "    routes: []"
    });
    page.blocks("      ", &plan.routes);
    page.section("network:", has(&plan.networks), "  ", &plan.networks);
    let tuned = has(&plan.tuning) || has(&plan.passthrough);
    if tuned {
        page.line("pipelock:");
    }
    if has(&plan.passthrough) {
        page.comment("  ", "Not opened, and not scanned.");
        page.line("  passthrough:");
    }
    page.blocks(if tuned { "    " } else { "" }, &plan.passthrough);
    page.blocks(if tuned { "  " } else { "" }, &plan.tuning);
    page.finish()
}

#[derive(Default)]
struct Page {
    text: String,
    /// How many bytes of comments there are since the last value, and how many were left out.
    run: usize,
    left_out: usize,
}

impl Page {
    fn section(&mut self, key: &str, is_there: bool, indent: &str, blocks: &[Block]) {
        if is_there {
            self.line(key);
        }
        self.blocks(if is_there { indent } else { "" }, blocks);
    }

    fn blocks(&mut self, indent: &str, blocks: &[Block]) {
        for block in blocks {
            // What is said of a value is never left out for what is said of others.
            let is_kept = block.value.is_some() && is_told(block);
            for comment in &block.above {
                if is_kept {
                    self.text.push_str(&format!("{indent}# {}\n", fit(comment)));
                } else {
                    self.comment(indent, comment);
                }
            }
            match (&block.value, &block.beside) {
                (Some(value), Some(beside)) => {
                    let beside = fit(beside);
                    self.line(&format!("{indent}{value}  # {beside}"));
                }
                (Some(value), None) => self.line(&format!("{indent}{value}")),
                (None, Some(beside)) => self.comment(indent, beside),
                (None, None) => {}
            }
        }
    }

    fn line(&mut self, line: &str) {
        self.end_run();
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn comment(&mut self, indent: &str, comment: &str) {
        let line = format!("{indent}# {}\n", fit(comment));
        self.run += line.len();
        if self.run > MOST_AT_ONCE {
            self.left_out += 1;
        } else {
            self.text.push_str(&line);
        }
    }

    fn end_run(&mut self) {
        if self.left_out > 0 {
            self.text
                .push_str(&format!("# … and {} more\n", self.left_out));
        }
        (self.run, self.left_out) = (0, 0);
    }

    fn finish(mut self) -> String {
        self.end_run();
        self.text
    }
}

/// A comment as one line that a terminal may show.
fn fit(comment: &str) -> String {
    let line = plain::line(comment.trim());
    let short = plain::shortened(&line, LONGEST);
    if short.len() < line.len() {
        format!("{short}…")
    } else {
        line
    }
}
