//! A manifest as a document: its fields, and everything that is wrong with how they are written.

use saphyr_parser::Event;

use super::events::Events;
use super::problem::{Problems, Rejection};
use super::reader::Reader;
use super::schema::{Manifest, is_key, section_with};
use super::section::Section;
use super::text::decode;
use super::value::Value;
use super::wanted::Advise;

/// What reading a manifest found.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The fields that could be read.
    pub manifest: Manifest,
    /// Errors of encoding, syntax and shape.
    pub problems: Problems,
    /// Keys below `bottle` that are not ours: warnings, or errors when strict.
    pub foreign: Problems,
    /// Whether the end was reached. If not, a missing field is no problem of its
    /// own.
    pub complete: bool,
}

/// Reads a manifest: YAML 1.2, or JSON. Never fails: what is wrong is in
/// [`Reading::problems`], with the hints that `advise` gives.
#[must_use]
pub fn parse(bytes: &[u8], advise: Advise) -> Reading {
    let text = match decode(bytes) {
        Ok(text) => text,
        Err(problem) => {
            let mut reading = Reading::default();
            reading.problems.add(|| problem);
            return reading;
        }
    };
    let mut reader = Reader {
        events: Events::of_long(text),
        problems: Problems::default(),
        foreign: Problems::default(),
        section_with,
        is_key,
        advise,
    };
    let manifest = document(&mut reader).unwrap_or_default();
    Reading {
        manifest,
        complete: !reader.events.have_ended(),
        problems: reader.problems,
        foreign: reader.foreign,
    }
}

fn document(reader: &mut Reader) -> Option<Manifest> {
    // The stream's start, then a document or the stream's end.
    reader.next();
    if !matches!(reader.next()?.0, Event::DocumentStart(_)) {
        return empty(reader);
    }
    let document = Value::of(reader, Section::Manifest, "");
    let Some(manifest) = document.mapping(Section::Manifest) else {
        return empty(reader);
    };
    reader.next();
    if let Some((Event::DocumentStart(_), at)) = reader.next() {
        reader.problem(at, String::new, || {
            Rejection::new("a second document starts here; a manifest is one document")
        });
    }
    Some(manifest)
}

/// Says that there is nothing, unless what is there instead was refused.
fn empty(reader: &mut Reader) -> Option<Manifest> {
    reader.events.end();
    if reader.problems.is_empty() {
        let refusal = Rejection::new("the manifest is empty").hint("slug and bottle are required");
        reader.problems.add(|| refusal.at(None, String::new()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::events::MAX_DEPTH;
    use super::super::scalar::Scalar;
    use super::super::schema::Supervisor;
    use super::super::value::Mapping;
    use super::*;

    /// What is wrong with a manifest of these lines, each with its line.
    fn problems(text: &str) -> Vec<String> {
        let Reading {
            mut problems,
            foreign,
            ..
        } = parse(text.as_bytes(), |_, _| None);
        problems.append(foreign);
        let shown = |problem: &super::super::Problem| problem.display("m").to_string();
        problems.into_sorted().iter().map(shown).collect()
    }

    #[test]
    fn whatever_is_wrong_the_rest_is_read() {
        let text = "slug: [a, {b: [c]}]\nversion: !t {x: [y]}\n[q]: {x: 1}\n&k key: [1]\nbottle:\n  egress:\n    \
                    routes:\n    - [[a]]\n    - !t {host: x}\n    - host: {a: b}\n    - host: found\nnetwork: [1, \
                    [2]]\npipelock:\n  <<: {a: 1}\n  listen: 1\n  listen: [2]\n  passthrough: [[a], b, {c: d}]\n\
                    supervisor: word\n";
        assert_eq!(
            problems(text),
            [
                "m:1: slug: a list stands where one value is wanted",
                "m:2: version: the tag \"!t\" is not read\nhint: remove it; a quoted value is text",
                "m:3: a list or mapping stands where a key is wanted",
                "m:4: key: unknown key",
                "m:8: bottle.egress.routes[0]: a list is not a mapping with a host",
                "m:9: bottle.egress.routes[1]: the tag \"!t\" is not read\nhint: remove it; a quoted value is text",
                "m:10: bottle.egress.routes[2].host: a mapping stands where one value is wanted",
                "m:12: network: a list stands where a mapping is wanted\nhint: write its keys without \"- \" and brackets",
                "m:14: pipelock.<<: merge keys are not read\nhint: write the keys out",
                "m:16: pipelock.listen: the key is there twice; each may be written once",
                "m:17: pipelock.passthrough[0]: not a host name",
                "m:17: pipelock.passthrough[2]: not a host name",
                "m:18: supervisor: \"word\" stands where a mapping is wanted",
            ]
        );
        let Reading {
            manifest, complete, ..
        } = parse(text.as_bytes(), |_, _| None);
        assert!(complete);
        let text = |scalar: &Scalar| scalar.text.to_string();
        let hosts = manifest.bottle.unwrap().egress.routes;
        let hosts: Vec<_> = hosts
            .iter()
            .map(|(_, route)| route.host.as_ref().map(text))
            .collect();
        assert_eq!(hosts, [None, None, None, Some("found".to_owned())]);
        assert_eq!(
            manifest.pipelock.listen.as_ref().map(text).as_deref(),
            Some("1")
        );
        let passed: Vec<_> = manifest.pipelock.passthrough.iter().map(text).collect();
        assert_eq!(passed, ["b"]);
    }

    #[test]
    fn each_key_may_be_there_once() {
        let all: String = Supervisor::names()
            .map(|key| format!("  {key}: 1\n"))
            .collect();
        assert_eq!(problems(&format!("supervisor:\n{all}")), [""; 0]);
        for key in Supervisor::names() {
            let once_more = format!("supervisor:\n{all}  {key}: [2]\n");
            let wanted =
                format!("m:5: supervisor.{key}: the key is there twice; each may be written once");
            assert_eq!(problems(&once_more), [wanted]);
        }
    }

    #[test]
    fn what_is_unknown_below_bottle_is_not_ours_to_judge_unless_it_merges() {
        let reading = parse(b"x: 1\n<<: {}\nbottle: {y: 1, <<: {}}\n", |_, _| None);
        let fields = |problems: Problems| -> Vec<String> {
            let problems = problems.into_sorted().into_iter();
            problems.map(|problem| problem.field).collect()
        };
        assert_eq!(fields(reading.problems), ["x", "<<", "bottle.<<"]);
        assert_eq!(fields(reading.foreign), ["bottle.y"]);
    }

    #[test]
    fn an_empty_document_is_none_and_one_that_is_refused_is_not_empty_too() {
        let empty = "m: the manifest is empty\nhint: slug and bottle are required";
        for (text, wanted) in [
            ("", empty),
            ("# c\n", empty),
            ("---\n", empty),
            ("~", empty),
            ("word", "m:1: \"word\" stands where a mapping is wanted"),
            (
                "[a]",
                "m:1: a list stands where a mapping is wanted\nhint: write its keys without \"- \" and brackets",
            ),
            (
                "!t {}",
                "m:1: the tag \"!t\" is not read\nhint: remove it; a quoted value is text",
            ),
        ] {
            assert_eq!(problems(text), [wanted], "{text:?}");
            assert!(!parse(text.as_bytes(), |_, _| None).complete, "{text:?}");
        }
        assert!(parse(b"{}", |_, _| None).complete);
    }

    #[test]
    fn what_is_passed_over_may_be_nested_so_deeply_and_no_deeper() {
        let nested = |levels| format!("bottle:\n  git:\n    {}x\n", "- ".repeat(levels));
        assert_eq!(problems(&nested(MAX_DEPTH)), [""; 0]);
        assert_eq!(
            problems(&nested(MAX_DEPTH + 1)),
            ["m:3: nested deeper than 255 levels"]
        );
        assert!(!parse(nested(MAX_DEPTH + 1).as_bytes(), |_, _| None).complete);
    }
}
