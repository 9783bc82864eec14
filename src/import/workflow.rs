//! Workflows of GitHub's whose steps use StepSecurity's harden-runner: `allowed-endpoints`, names
//! with their ports between blanks.

use serde_yaml::Value;

use crate::manifest::quoted;

use super::found::{Entry, Found, Item, Said};
use super::host::Stars;
use super::place::{Lines, Place, split_comment};
use super::tree;

const ACTION: &str = "step-security/harden-runner";
const ENDPOINTS: &str = "allowed-endpoints";
/// What a step is given (its `action.yml`).
const KNOWN: &str = "allowed-endpoints egress-policy token disable-telemetry disable-sudo \
    disable-sudo-and-containers disable-file-monitoring policy api-key use-policy-store \
    deploy-on-self-hosted-vm";

pub(super) fn is(tree: &Value) -> bool {
    !steps(tree).is_empty()
}

/// What each step that uses it is given, and under what conditions it runs.
fn steps(tree: &Value) -> Vec<(&Value, Vec<String>)> {
    let uses = |step: &Value| {
        let uses = step.get("uses").and_then(Value::as_str);
        let action = uses.and_then(|uses| uses.split('@').next());
        action.is_some_and(|action| action.eq_ignore_ascii_case(ACTION))
    };
    let condition = |of: &Value| of.get("if").and_then(tree::text);
    let mut steps = Vec::new();
    // A job stands before its steps.
    let mut of_job = None;
    for value in tree::all(tree) {
        if value.get("steps").is_some() {
            of_job = condition(value);
        }
        if let Some(with) = value.get("with").filter(|_| uses(value)) {
            let all = of_job.clone().into_iter().chain(condition(value));
            steps.push((with, all.collect()));
        }
    }
    steps
}

pub(super) fn read(tree: &Value, text: &str) -> Found {
    let mut found = Found::default();
    let mut lines = Lines::of(text);
    lines.enter(&[]);
    let steps = steps(tree);
    if steps.len() > 1 {
        let several = format!(
            "what {} steps may reach, each for itself, is taken together",
            steps.len()
        );
        found.head.push(Said::Note(several));
    }
    for (with, conditions) in steps {
        let stranger = tree::strangers(Some(with), &[KNOWN]);
        let field = |key| with.get(key).and_then(tree::text);
        if let Some(policy) = field("egress-policy").filter(|policy| policy != "block") {
            let what = format!("egress-policy: {}", quoted(&policy));
            let why = "what is not listed is refused here";
            found.head.push(Said::lost(what, why));
        }
        if field("policy").is_some() || field("use-policy-store").is_some() {
            let why = "what is in it stands in no file";
            found.head.push(Said::lost("the policy store", why));
        }
        let Some(endpoints) = field(ENDPOINTS) else {
            continue;
        };
        lines.key(ENDPOINTS);
        for (part, is_expression) in parts(&endpoints) {
            if is_expression {
                let place = lines.value(part);
                found.leave(part, &place, "it is an expression");
                continue;
            }
            for line in part.lines() {
                // It is none in there, but whoever wrote it meant one.
                let (line, comment) = split_comment(line);
                let words = line.split(|c: char| c.is_whitespace() || c == ',');
                for endpoint in words.filter(|word| !word.is_empty()) {
                    let place = lines.value(endpoint);
                    let mut entry = Entry::new(endpoint, place, Stars::Below);
                    entry.refused.clone_from(&stranger);
                    for condition in &conditions {
                        let what = format!("the condition {}", quoted(condition));
                        let why = "a host is allowed for everybody, at all times";
                        entry.said.push(Said::lost(what, why));
                    }
                    found.routes.push(Item::Allow(entry));
                }
                if let Some(comment) = comment {
                    found.leave(comment, &Place::default(), "it is behind a #");
                }
            }
        }
    }
    found
}

/// A text in parts that are expressions, with whatever touches them, and such that are not.
fn parts(text: &str) -> Vec<(&str, bool)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${{") {
        let before = rest.get(..start).unwrap_or_default();
        let word = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let (before, expression) = rest.split_at_checked(word).unwrap_or(("", rest));
        let end = expression.find("}}").map_or(expression.len(), |at| at + 2);
        let behind = expression.get(end..).unwrap_or_default();
        let end = end + behind.find(char::is_whitespace).unwrap_or(behind.len());
        let (expression, behind) = expression.split_at_checked(end).unwrap_or((expression, ""));
        parts.extend([(before, false), (expression, true)]);
        rest = behind;
    }
    parts.push((rest, false));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_one_part_with_what_touches_it() {
        assert_eq!(
            parts("a:1 ${{ b.c }}.d:443 e ${{ f"),
            [
                ("a:1 ", false),
                ("${{ b.c }}.d:443", true),
                (" e ", false),
                ("${{ f", true),
                ("", false),
            ]
        );
        assert_eq!(parts("a"), [("a", false)]);
    }
}
