//! Permissions that end by themselves: what is written of one, and what a policy is while some
//! of them are in force. Pure: what time it is, is told.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use x509_cert::der::DateTime;

use super::{Judge, MODEL_HOST, Policy, judge_bool, matching, text};
use crate::boot::clock::BUILD_EPOCH;
use crate::ca::rfc3339;
use crate::manifest::{self, Position, Rejection, Scalar, Section, quoted};

/// The longest that a host is granted, in seconds from now: a year. What is to last is a route.
pub const LONGEST: u64 = 366 * 86_400;

/// One that is over is told of for so many seconds more: a day.
pub const TOLD_FOR: u64 = 86_400;

/// A host that is allowed until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The host, in the one form a route has.
    pub host: String,
    /// When it ends, in seconds since 1970: at that second it is over.
    pub until: u64,
    /// Whether its host is passed through, unscanned, as long.
    pub passthrough: bool,
    /// Whether it is in force, and so in the policy's lists.
    pub in_force: bool,
}

impl Grant {
    /// The order in which grants are told: what ends next comes first, and behind all that are in
    /// force what ended last.
    #[must_use]
    pub fn as_told(one: &&Self, other: &&Self) -> Ordering {
        let (next, last) = (one.until.cmp(&other.until), other.until.cmp(&one.until));
        let by_end = if one.in_force { next } else { last };
        let by_force = other.in_force.cmp(&one.in_force);
        by_force
            .then(by_end)
            .then_with(|| one.host.cmp(&other.host))
    }

    /// Whether it is to be in force at this time, in seconds since 1970. A clock from before
    /// this program was built is wrong, and whatever ends by it would not end: nothing is.
    #[must_use]
    pub fn holds_at(&self, now: u64) -> bool {
        (BUILD_EPOCH..self.until).contains(&now)
    }
}

/// What is allowed, and passed through, without an end: a policy's lists without its grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lasting {
    pub(super) allowlist: Vec<String>,
    pub(super) passthrough: Vec<String>,
}

impl Policy {
    /// Ends those of its grants that are in force and for which `is_over` holds; how many.
    /// Nothing puts one in force again.
    pub fn end_grants(&mut self, is_over: impl Fn(&Grant) -> bool) -> usize {
        let mut ended = 0;
        for grant in &mut self.grants {
            if grant.in_force && is_over(grant) {
                grant.in_force = false;
                ended += 1;
            }
        }
        if ended > 0 {
            self.allow_granted();
        }
        ended
    }

    /// The hosts that are allowed, and those passed through, without an end.
    #[must_use]
    pub fn lasting(&self) -> (&[String], &[String]) {
        match &self.lasting {
            Some(lasting) => (&lasting.allowlist, &lasting.passthrough),
            None => (&self.allowlist, &self.passthrough),
        }
    }

    /// When the next of its grants ends, in seconds since 1970; `None` where none is in force.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        let in_force = self.grants.iter().filter(|grant| grant.in_force);
        in_force.map(|grant| grant.until).min()
    }

    /// When what an entry of the allowlist stands for is allowed no longer, in seconds since
    /// 1970; `None` where that has no end.
    #[must_use]
    pub fn allowed_until(&self, entry: &str) -> Option<u64> {
        let lasts = |it: &Lasting| matching::allows_entry(&it.allowlist, entry);
        self.until(entry, lasts, |_| true)
    }

    /// When what an entry stands for is passed through no longer; `None` where that has no end.
    #[must_use]
    pub fn passed_until(&self, entry: &str) -> Option<u64> {
        let lasts = |it: &Lasting| matching::passes_entry(&it.passthrough, entry);
        self.until(entry, lasts, |grant| grant.passthrough)
    }

    fn until(
        &self,
        entry: &str,
        lasts: impl Fn(&Lasting) -> bool,
        is_one: impl Fn(&Grant) -> bool,
    ) -> Option<u64> {
        if lasts(self.lasting.as_ref()?) {
            return None;
        }
        let granted = |grant: &&Grant| {
            let of_it = std::slice::from_ref(&grant.host);
            grant.in_force && is_one(grant) && matching::allows_entry(of_it, entry)
        };
        let grants = self.grants.iter().filter(granted);
        grants.map(|grant| grant.until).max()
    }

    /// Makes its lists those of what lasts and of the grants in force.
    pub(super) fn allow_granted(&mut self) {
        let Some(lasting) = &self.lasting else {
            return;
        };
        let Lasting {
            mut allowlist,
            mut passthrough,
        } = Lasting::clone(lasting);
        for grant in self.grants.iter().filter(|grant| grant.in_force) {
            if !matching::allows_entry(&lasting.allowlist, &grant.host) {
                allowlist.push(grant.host.clone());
            }
            if grant.passthrough {
                passthrough.extend(as_passed(&grant.host));
            }
        }
        for list in [&mut allowlist, &mut passthrough] {
            list.sort_unstable();
            list.dedup();
        }
        self.seed_phrase_detection = !allowlist.iter().any(|host| host == MODEL_HOST);
        self.allowlist = allowlist;
        self.passthrough = passthrough;
    }
}

/// What stands in the list of passthrough for a host: in the allowlist `*.name` stands for
/// `name` too, and who writes it means both.
pub fn as_passed(host: &str) -> impl Iterator<Item = String> {
    let apex = host.strip_prefix("*.").map(str::to_owned);
    apex.into_iter().chain([host.to_owned()])
}

impl Judge {
    /// The grants that can be read, in the order of the file; which of them are in force.
    pub(super) fn grants(
        &mut self,
        given: &[(Position, manifest::Grant)],
        lasting: &Lasting,
    ) -> Vec<Grant> {
        let mut grants = Vec::with_capacity(given.len());
        let mut seen = BTreeSet::new();
        for (index, (at, given)) in given.iter().enumerate() {
            let section = Section::Grant(index);
            let now = self.now;
            let host = self.host(section, "host", given.host.as_ref());
            if host.is_none() && self.is_whole(section, given) {
                self.refuse(Some(*at), section.key("host"), || {
                    Rejection::new("required, and not there")
                        .hint("write its host, or remove the grant")
                });
            }
            let given_until = given.until.as_ref();
            if given_until.is_none_or(is_null) && self.is_whole(section, given) {
                self.refuse(Some(*at), section.key("until"), || {
                    Rejection::new("required, and not there").hint(example(now))
                });
            }
            let until = self.judge(section, "until", given_until, |scalar| {
                let until = time(
                    text(scalar, "time").map_err(|it| it.hint(example(now)))?,
                    now,
                )?;
                no_later(until, &scalar.text, now)
            });
            let passthrough = self
                .judge(
                    section,
                    "passthrough",
                    given.passthrough.as_ref(),
                    judge_bool,
                )
                .unwrap_or(false);
            let (Some(Ok(host)), Some(until)) = (host, until) else {
                continue;
            };
            let host_at = given.host.as_ref().map_or(*at, |scalar| scalar.at);
            if !seen.insert(host.clone()) {
                self.refuse(Some(host_at), section.key("host"), || {
                    Rejection::new(format!("{} is granted twice", quoted(&host)))
                        .hint("keep one of the two")
                });
                continue;
            }
            let mut grant = Grant {
                host,
                until,
                passthrough,
                in_force: false,
            };
            grant.in_force = grant.holds_at(now);
            if grant.in_force {
                self.known.look_at(&grant.host, host_at, section);
            }
            if now >= until {
                let until_at = given_until.map(|scalar| scalar.at);
                self.notes.add(|| {
                    Rejection::new(format!(
                        "the grant of {} ended at {}, and is passed over",
                        quoted(&grant.host),
                        rfc3339(until)
                    ))
                    .hint("remove it, or write another time")
                    .at(until_at, section.key("until"))
                });
            } else if changes_nothing(&grant, lasting) {
                self.warnings.add(|| {
                    Rejection::new(format!(
                        "{} is allowed without an end, so this grant changes nothing and its end takes nothing away",
                        quoted(&grant.host)
                    ))
                    .hint("remove the grant; or remove what allows it below bottle, if it is to end")
                    .at(Some(host_at), section.key("host"))
                });
            }
            grants.push(grant);
        }
        grants
    }

    /// Whether what is missing of a grant is missing, and was not refused as it stands there.
    fn is_whole(&self, section: Section, given: &manifest::Grant) -> bool {
        let refused = ["host", "until"].map(|key| self.problems.names(&section.key(key)));
        let unread = self.problems.names(&section.path());
        let empty = *given == manifest::Grant::default();
        self.complete && !(empty && unread) && !refused.contains(&true)
    }
}

fn is_null(scalar: &Scalar) -> bool {
    scalar.kind() == manifest::Kind::Null
}

fn changes_nothing(grant: &Grant, lasting: &Lasting) -> bool {
    let passes =
        as_passed(&grant.host).all(|host| matching::passes_entry(&lasting.passthrough, &host));
    matching::allows_entry(&lasting.allowlist, &grant.host) && (!grant.passthrough || passes)
}

/// The time, unless it is so late that it was not meant or is no end.
fn no_later(until: u64, given: &str, now: u64) -> Result<u64, Rejection> {
    // By no clock that is known to be wrong: a manifest that is right revokes by that one too.
    let now = now.max(BUILD_EPOCH);
    let latest = now + LONGEST;
    if until <= latest {
        return Ok(until);
    }
    Err(Rejection::new(format!(
        "{} is more than a year from now, which is {} here",
        quoted(given),
        rfc3339(now)
    ))
    .hint(format!(
        "write \"{}\" at the latest; a host that is to stay allowed is a route",
        rfc3339(latest)
    )))
}

/// How a time is written.
fn example(now: u64) -> String {
    let hour = now.max(BUILD_EPOCH) / 3600 + 2;
    format!(
        "write \"{}\", with the time that is meant",
        rfc3339(hour * 3600)
    )
}

/// The parts of a time as people write one.
struct Written<'a> {
    year: u16,
    month: u8,
    day: u8,
    /// Hours, minutes, and seconds where they are written.
    clock: Option<(u8, u8, Option<u8>)>,
    /// From UTC, where it is written: ahead of it, hours, minutes.
    offset: Option<(bool, u8, u8)>,
    /// As RFC 3339 has it.
    offset_text: String,
    text: &'a str,
}

impl<'a> Written<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let mut date = date.split('-');
        let (year, month, day) = (date.next()?, date.next()?, date.next()?);
        let mut written = Self {
            year: number(year, 4)?,
            month: number(month, 2)?,
            day: number(day, 2)?,
            clock: None,
            offset: None,
            offset_text: "Z".to_owned(),
            text,
        };
        if date.next().is_some() {
            return None;
        }
        if rest.is_empty() {
            return Some(written);
        }
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let (clock, offset) = rest.split_at(rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len()));
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let mut parts = clock.split(':');
        let (hours, minutes) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
        let seconds = parts.next().map(|seconds| number(seconds, 2));
        let is_fraction = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
        if parts.next().is_some() || seconds == Some(None) || !is_fraction {
            return None;
        }
        written.clock = Some((hours, minutes, seconds.flatten()));
        if let Some(offset) = offset.strip_prefix(['+', '-']) {
            let (hours, minutes) = offset.split_at_checked(2)?;
            let minutes = minutes.strip_prefix(':').unwrap_or(minutes);
            let minutes = if minutes.is_empty() { "00" } else { minutes };
            let ahead = !rest.contains('-');
            written.offset = Some((ahead, number(hours, 2)?, number(minutes, 2)?));
            let sign = if ahead { '+' } else { '-' };
            written.offset_text = format!("{sign}{hours}:{minutes}");
        } else if matches!(offset, "Z" | "z") {
            written.offset = Some((true, 0, 0));
        } else if !offset.is_empty() {
            return None;
        }
        Some(written)
    }

    /// The seconds since 1970, with the parts that are missing as [`Self::whole`] has them;
    /// `None` where there is no such day or time of day.
    fn seconds(&self) -> Option<u64> {
        let (hours, minutes, seconds) = self.clock.unwrap_or((23, 59, Some(59)));
        let seconds = seconds.unwrap_or(0);
        let time = DateTime::new(self.year, self.month, self.day, hours, minutes, seconds).ok()?;
        let at = i64::try_from(time.unix_duration().as_secs()).ok()?;
        let (ahead, hours, minutes) = self.offset.unwrap_or((true, 0, 0));
        if hours > 23 || minutes > 59 {
            return None;
        }
        let offset = i64::from(hours) * 3600 + i64::from(minutes) * 60;
        let at = if ahead { at - offset } else { at + offset };
        // Before 1970 is over as well.
        Some(u64::try_from(at).unwrap_or(0))
    }

    /// All of it, as it is to be written.
    fn whole(&self) -> String {
        let date = self.text.get(..10).unwrap_or_default();
        let (hours, minutes, seconds) = self.clock.unwrap_or((23, 59, Some(59)));
        let seconds = seconds.unwrap_or(0);
        let offset = &self.offset_text;
        format!("{date}T{hours:02}:{minutes:02}:{seconds:02}{offset}")
    }
}

fn number<T: std::str::FromStr>(text: &str, digits: usize) -> Option<T> {
    let is_number = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The seconds since 1970 of a time as RFC 3339 writes one; what is behind a second is cut off.
///
/// # Errors
/// What it lacks, and what to write.
pub fn time(given: &str, now: u64) -> Result<u64, Rejection> {
    let refuse = |why: &str| Rejection::new(format!("{} {why}", quoted(given)));
    let no_time = || {
        refuse("is not a time: it takes a date, a time of day and an offset (RFC 3339)")
            .hint(from_now(given, now).unwrap_or_else(|| example(now)))
    };
    let written = Written::of(given).ok_or_else(no_time)?;
    let Some(seconds) = written.seconds() else {
        return Err(refuse(
            "is not a time: there is no such day, time of day or offset",
        ));
    };
    let whole = written.whole();
    if written.clock.is_none() {
        return Err(refuse("has no time of day and no offset").hint(format!(
            "write \"{whole}\", with the time of day and the offset that are meant"
        )));
    }
    if written.offset.is_none() {
        return Err(
            refuse("has no offset, so nobody can tell when that is").hint(format!(
                "write \"{whole}\" if that is UTC; else its offset in place of the Z, such as +02:00"
            )),
        );
    }
    let has_seconds = written
        .clock
        .is_some_and(|(_, _, seconds)| seconds.is_some());
    let offset_is_whole = given.ends_with(['Z', 'z']) || given.ends_with(&written.offset_text);
    if !has_seconds || !offset_is_whole {
        return Err(
            refuse("is not a time as RFC 3339 writes it").hint(format!("write \"{whole}\""))
        );
    }
    Ok(seconds)
}

/// What to write where a duration or a number of seconds since 1970 stands for a time.
fn from_now(given: &str, now: u64) -> Option<String> {
    let digits = given.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = number(digits, digits.len())?;
    let unit = match given.get(digits.len()..)? {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let until = now.checked_add(count.checked_mul(unit)?)?;
    let is_near = (now..=now + LONGEST).contains(&until);
    is_near.then(|| format!("write \"{}\", which is {given} from now", rfc3339(until)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::super::{Judgement, read};
    use super::*;

    /// 2026-11-26T12:00:00Z
    const NOW: u64 = 1_795_694_400;

    fn manifest(grants: &str) -> String {
        format!(
            "slug: a\nbottle: {{egress: {{routes: [{{host: a.example}}, {{host: \"*.wild.example\"}}]}}}}\n\
             pipelock: {{passthrough: [a.example]}}\ngrants:\n{grants}"
        )
    }

    fn judged(grants: &str) -> Judgement {
        read(manifest(grants).as_bytes(), true, NOW).unwrap()
    }

    fn refused(grants: &str) -> String {
        let refused = read(manifest(grants).as_bytes(), true, NOW).unwrap_err();
        refused.in_words("m")
    }

    fn shown(problems: &[crate::policy::Problem]) -> Vec<String> {
        let shown = problems.iter().map(|it| it.display("m").to_string());
        shown.collect()
    }

    #[test]
    fn a_time_is_read_as_rfc_3339_has_it() {
        assert_eq!(rfc3339(NOW), "2026-11-26T12:00:00Z");
        for (given, wanted) in [
            ("2026-11-26T12:00:00Z", NOW),
            ("2026-11-26t12:00:00z", NOW),
            ("2026-11-26 12:00:00Z", NOW),
            ("2026-11-26T12:00:00.999Z", NOW),
            ("2026-11-26T12:00:00-00:00", NOW),
            ("2026-11-26T14:00:00+02:00", NOW),
            ("2026-11-26T06:30:00-05:30", NOW),
            ("2026-11-27T00:00:00+12:00", NOW),
            ("1970-01-01T00:00:00+01:00", 0),
        ] {
            assert_eq!(time(given, NOW), Ok(wanted), "{given}");
        }
    }

    #[test]
    fn what_is_no_time_is_told_what_to_write() {
        let none = "is not a time: it takes a date, a time of day and an offset (RFC 3339)";
        let no_day = "is not a time: there is no such day, time of day or offset";
        let no_offset = "has no offset, so nobody can tell when that is";
        let other = "is not a time as RFC 3339 writes it";
        let anything = "\"2026-11-26T14:00:00Z\", with the time that is meant";
        let or = "if that is UTC; else its offset in place of the Z, such as +02:00";
        for (given, why, write) in [
            (
                "2026-11-26T18:00:00",
                no_offset,
                format!("\"2026-11-26T18:00:00Z\" {or}"),
            ),
            (
                "2026-11-26 18:00",
                no_offset,
                format!("\"2026-11-26T18:00:00Z\" {or}"),
            ),
            (
                "2026-11-26",
                "has no time of day and no offset",
                "\"2026-11-26T23:59:59Z\", with the time of day and the offset that are meant"
                    .into(),
            ),
            (
                "2026-11-26T18:00Z",
                other,
                "\"2026-11-26T18:00:00Z\"".into(),
            ),
            (
                "2026-11-26T18:00+0200",
                other,
                "\"2026-11-26T18:00:00+02:00\"".into(),
            ),
            (
                "2026-11-26T18:00:00-02",
                other,
                "\"2026-11-26T18:00:00-02:00\"".into(),
            ),
            (
                "30m",
                none,
                "\"2026-11-26T12:30:00Z\", which is 30m from now".into(),
            ),
            (
                "2h",
                none,
                "\"2026-11-26T14:00:00Z\", which is 2h from now".into(),
            ),
            ("900d", none, anything.into()),
            ("18:00", none, anything.into()),
            ("tomorrow", none, anything.into()),
            ("1795694400", none, anything.into()),
            ("26.11.2026 18:00", none, anything.into()),
            ("2026-11-26T18:00:00 Europe/Berlin", none, anything.into()),
            ("2026-11-26T18:00:00.Z", none, anything.into()),
            ("2026-11-26T18:00:00ZZ", none, anything.into()),
            ("2026-11-26T1\u{e9}:00:00Z", none, anything.into()),
            ("", none, anything.into()),
        ] {
            let refusal = time(given, NOW).unwrap_err();
            assert_eq!(
                refusal.message,
                format!("\"{given}\" {why}").replace('\u{e9}', "é")
            );
            let write = format!("write {write}");
            assert_eq!(refusal.hint.as_deref(), Some(write.as_str()), "{given}");
            // And that is accepted.
            let written = write.split('"').nth(1).unwrap();
            assert!(time(written, NOW).is_ok(), "{written}");
        }
        for given in [
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-11-26T24:00:00Z",
            "2026-11-26T12:00:60Z",
            "2026-11-26T12:00:00+24:00",
            "2026-11-26T12:00:00+01:60",
        ] {
            let refusal = time(given, NOW).unwrap_err();
            assert_eq!(refusal.message, format!("\"{given}\" {no_day}"));
        }
    }

    #[test]
    fn a_grant_allows_its_host_until_its_second_and_no_longer() {
        let grants = "- {host: B.example., until: 2026-11-26T12:00:01Z}\n- {host: c.example, until: \
                      2026-11-26T12:00:00Z}\n";
        for (now, in_force) in [
            (NOW - 1, [true, true]),
            (NOW, [true, false]),
            (NOW + 1, [false; 2]),
        ] {
            let policy = read(manifest(grants).as_bytes(), true, now).unwrap().policy;
            assert_eq!(
                policy
                    .grants
                    .iter()
                    .map(|it| it.in_force)
                    .collect::<Vec<_>>(),
                in_force
            );
            for (host, in_force) in ["b.example", "c.example"].iter().zip(in_force) {
                assert_eq!(
                    matching::allows(&policy.allowlist, host),
                    in_force,
                    "{host} at {now}"
                );
            }
            let next = in_force
                .iter()
                .rposition(|it| *it)
                .map(|at| [NOW + 1, NOW][at]);
            assert_eq!(policy.next_end(), next);
        }
        // By a clock that is known to be wrong nothing would end.
        for now in [0, BUILD_EPOCH - 1] {
            let policy = read(manifest(grants).as_bytes(), true, now).unwrap().policy;
            assert!(policy.grants.iter().all(|grant| !grant.in_force), "{now}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_grant_is_told_with_its_line_and_what_to_write() {
        for (grants, wanted) in [
            (
                "- {host: b.example}\n",
                "m:5: grants[0].until: required, and not there\n\
                 hint: write \"2026-11-26T14:00:00Z\", with the time that is meant",
            ),
            (
                "- {until: 2026-11-26T18:00:00Z}\n",
                "m:5: grants[0].host: required, and not there\n\
                 hint: write its host, or remove the grant",
            ),
            (
                "- {host: \"\", until: 2026-11-26T18:00:00Z}\n",
                "m:5: grants[0].host: required, and not there\n\
                 hint: write its host, or remove the grant",
            ),
            (
                "-\n",
                "m:5: grants[0]: an empty entry; a grant is a mapping with a host and a time\n\
                 hint: write its host and until, or remove the entry",
            ),
            (
                "- b.example\n",
                "m:5: grants[0]: \"b.example\" is not a mapping with a host and a time",
            ),
            (
                "- host: b.example\n  until: 2062-11-26T18:00:00Z\n",
                "m:6: grants[0].until: \"2062-11-26T18:00:00Z\" is more than a year from now, which is \
                 2026-11-26T12:00:00Z here\n\
                 hint: write \"2027-11-27T12:00:00Z\" at the latest; a host that is to stay allowed is a route",
            ),
            (
                "- host: b.example\n  until: 18\n",
                "m:6: grants[0].until: \"18\" is a number, not a time\n\
                 hint: write \"2026-11-26T14:00:00Z\", with the time that is meant",
            ),
            (
                "- {host: https://b.example/, until: 2026-11-26T18:00:00Z}\n",
                "m:5: grants[0].host: \"https://b.example/\" is not a host name: it is a URL\n\
                 hint: write \"b.example\"",
            ),
            (
                "- {host: b.example, until: 2026-11-26T18:00:00Z, passthrough: yes}\n",
                "m:5: grants[0].passthrough: \"yes\" is neither true nor false\n\
                 hint: write true, without quotes",
            ),
            (
                "- {host: b.example, untill: 2026-11-26T18:00:00Z}\n",
                "m:5: grants[0].until: required, and not there\n\
                 hint: write \"2026-11-26T14:00:00Z\", with the time that is meant\n\
                 m:5: grants[0].untill: unknown key\n\
                 hint: did you mean \"until\"?",
            ),
            (
                "- {host: b.example, until: 2026-11-26T18:00:00Z}\n- {host: B.example, until: 2020-01-01T00:00:00Z}\n",
                "m:6: grants[1].host: \"b.example\" is granted twice\n\
                 hint: keep one of the two",
            ),
            (
                "- {host: canary.invalid, until: 2026-11-26T18:00:00Z}\n",
                "m:5: grants[0].host: \"canary.invalid\" is reserved for the init's own proof: pipelock has to refuse \
                 it\nhint: remove the entry: names below \".invalid\" never resolve (RFC 2606)",
            ),
        ] {
            assert_eq!(refused(grants), wanted, "{grants}");
        }
    }

    #[test]
    fn more_grants_than_there_may_be_are_said_once_and_counted_by_nobody() {
        let grant = |n| format!("- {{host: h{n}.example, until: 2026-11-26T18:00:00Z}}\n");
        let grants: String = (0..1024).map(grant).collect();
        assert_eq!(judged(&grants).policy.grants.len(), 1024);
        let more = grants + &grant(2000) + &grant(2001) + "- [x]\n";
        assert_eq!(
            refused(&more),
            "m:1029: grants[1024]: a list may have 1024 entries, and here are more"
        );
    }

    #[test]
    fn a_manifest_becomes_invalid_by_no_time_that_passes() {
        let grants = "- {host: b.example, until: 2026-11-26T18:00:00Z, passthrough: true}\n";
        for later in [0, 6 * 3600, 86_400, 365 * 86_400, 30 * 366 * 86_400] {
            let judged = read(manifest(grants).as_bytes(), true, NOW + later);
            assert!(judged.is_ok(), "{later}");
        }
        let over = read(manifest(grants).as_bytes(), true, NOW + 86_400).unwrap();
        assert!(over.warnings.is_empty());
        assert_eq!(
            shown(&over.notes),
            [
                "m:5: grants[0].until: the grant of \"b.example\" ended at 2026-11-26T18:00:00Z, and is passed over\n\
              hint: remove it, or write another time"
            ]
        );
        assert_eq!(over.policy.allowlist, ["*.wild.example", "a.example"]);
        assert!(!over.policy.grants[0].in_force);
    }

    #[test]
    fn a_grant_of_what_is_allowed_anyway_is_a_warning_unless_it_passes_it_through() {
        let warned = |grant: &str| {
            let judged = judged(&format!("- {{{grant}, until: 2026-11-26T18:00:00Z}}\n"));
            // Nothing of it is lost: neither list changes at its end, but for what it passes.
            let mut after = judged.policy.clone();
            after.end_grants(|_| true);
            assert_eq!(after.allowlist, judged.policy.allowlist);
            (
                shown(&judged.warnings),
                after.passthrough != judged.policy.passthrough,
            )
        };
        for host in ["a.example", "x.wild.example", "wild.example"] {
            let (warnings, passes) = warned(&format!("host: {host}"));
            assert_eq!(
                warnings,
                [format!(
                    "m:5: grants[0].host: \"{host}\" is allowed without an end, so this grant changes nothing and its \
                     end takes nothing away\nhint: remove the grant; or remove what allows it below bottle, if it is \
                     to end"
                )]
            );
            assert!(!passes);
        }
        let (warnings, passes) = warned("host: x.wild.example, passthrough: true");
        assert!(warnings.is_empty() && passes, "{warnings:?}");
        // Passed through as well.
        assert_eq!(warned("host: a.example, passthrough: true").0.len(), 1);
    }

    #[test]
    fn what_a_grant_alone_allows_is_passed_through_by_the_grant_alone() {
        let grants = "- {host: b.example, until: 2026-11-26T18:00:00Z, passthrough: true}\n- {host: \"*.c.example\", \
                      until: 2026-11-26T18:00:00Z, passthrough: true}\n- {host: d.example, until: \
                      2026-11-26T18:00:00Z}\n";
        let policy = judged(grants).policy;
        let passed = [
            "*.c.example",
            "a.example",
            "api.anthropic.com",
            "b.example",
            "c.example",
        ];
        assert_eq!(policy.passthrough, passed);
        assert_eq!(
            policy.not_scanned(),
            ["*.c.example", "a.example", "b.example"]
        );
        let mut after = policy;
        assert_eq!(after.end_grants(|_| true), 3);
        assert_eq!(after.passthrough, ["a.example", "api.anthropic.com"]);
        assert_eq!(after.allowlist, ["*.wild.example", "a.example"]);
        let elsewhere = manifest(grants).replace("[a.example]", "[b.example]");
        for now in [NOW, NOW + 86_400] {
            let refused = read(elsewhere.as_bytes(), true, now).unwrap_err();
            assert_eq!(
                refused.in_words("m"),
                "m:3: pipelock.passthrough[0]: \"b.example\" is allowed by a grant alone, and passed through no \
                 longer than that\n\
                 hint: remove the entry; in its grant: write passthrough: true"
            );
        }
    }

    #[test]
    fn a_model_that_is_granted_is_spoken_to_as_one_that_is_routed() {
        let grants = "- {host: api.anthropic.com, until: 2026-11-26T18:00:00Z}\n";
        let mut policy = judged(grants).policy;
        assert!(!policy.seed_phrase_detection);
        policy.end_grants(|_| true);
        assert!(policy.seed_phrase_detection);
    }

    proptest! {
        #[test]
        fn a_time_is_the_same_at_any_offset(seconds in 86_400_u64..253_402_000_000, minutes in -1439_i64..=1439) {
            prop_assert_eq!(time(&rfc3339(seconds), NOW), Ok(seconds));
            let local = rfc3339(seconds.checked_add_signed(minutes * 60).unwrap());
            let sign = if minutes < 0 { '-' } else { '+' };
            let minutes = minutes.abs();
            let (hours, minutes) = (minutes / 60, minutes % 60);
            let given = local.replace('Z', &format!("{sign}{hours:02}:{minutes:02}"));
            prop_assert_eq!(time(&given, NOW), Ok(seconds), "{}", given);
        }

        /// Whatever ended in whatever order: what is left is what would be there if those in
        /// force were routes, and what is over had never been written.
        #[test]
        fn a_policy_is_what_lasts_and_what_is_in_force(
            written in subsequence(HOSTS.to_vec(), 0..=HOSTS.len()),
            routed in subsequence(HOSTS.to_vec(), 0..=HOSTS.len()),
            passed in any::<u16>(),
            ends in proptest::collection::vec(any::<u16>(), 0..4),
        ) {
            let passes = |host: &str| HOSTS.iter().position(|it| *it == host).is_some_and(|at| passed >> at & 1 == 1);
            let grants: String = written
                .iter()
                .map(|host| format!("- {{host: \"{host}\", until: 2026-11-26T18:00:00Z, passthrough: {}}}\n", passes(host)))
                .collect();
            let routes = |hosts: &[&str]| hosts.iter().map(|host| format!("{{host: \"{host}\"}},")).collect::<String>();
            let text = |routed: &[&str], passed: &[&str], grants: &str| format!(
                "slug: a\nbottle: {{egress: {{routes: [{}]}}}}\npipelock: {{passthrough: [{}]}}\ngrants:\n{grants}",
                routes(routed),
                passed.iter().map(|host| format!("\"{host}\",")).collect::<String>()
            );
            let mut policy = read(text(&routed, &[], &grants).as_bytes(), true, NOW).unwrap().policy;
            let mut left: Vec<&str> = written.clone();
            for end in ends.iter().map(Some).chain([None]) {
                let all = [&routed[..], &left[..]].concat();
                let through: Vec<&str> = left.iter().copied().filter(|host| passes(host)).collect();
                let wanted = read(text(&all, &through, "").as_bytes(), true, NOW).unwrap().policy;
                for host in PROBES {
                    let allowed = |policy: &Policy| matching::allows(&policy.allowlist, host);
                    let passed = |policy: &Policy| matching::passes_entry(&policy.passthrough, host);
                    prop_assert_eq!(allowed(&policy), allowed(&wanted), "{}", host);
                    prop_assert_eq!(passed(&policy), passed(&wanted), "{}", host);
                }
                prop_assert_eq!(policy.seed_phrase_detection, wanted.seed_phrase_detection);
                let Some(end) = end else { break };
                let ends = |host: &str| HOSTS.iter().position(|it| *it == host).is_some_and(|at| end >> at & 1 == 1);
                let before = left.len();
                left.retain(|host| !ends(host));
                prop_assert_eq!(policy.end_grants(|grant| ends(&grant.host)), before - left.len());
            }
        }
    }

    const HOSTS: [&str; 8] = [
        "a.example",
        "*.a.example",
        "b.a.example",
        "*.b.a.example",
        "c.example",
        "*.c.example",
        "api.anthropic.com",
        "10.0.0.1",
    ];

    const PROBES: [&str; 10] = [
        "a.example",
        "b.a.example",
        "x.a.example",
        "x.b.a.example",
        "c.example",
        "x.c.example",
        "api.anthropic.com",
        "10.0.0.1",
        "example",
        "*.a.example",
    ];
}
