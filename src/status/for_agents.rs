//! `for-agents.md`: what somebody who works behind the proxy, and knows nothing of it, can read
//! there: what is allowed, what an answer means, and what to ask for. Pure.
//!
//! It is written for a reader that nobody else is sure to have vetted the words for, so nothing
//! is in it but fixed words and what [`crate::policy`] has judged: host names, numbers and the
//! slug, none of which can hold a character that Markdown or a model would read as more than that.

use std::fmt::Write as _;

use super::schema::{State, Word};
use crate::ca::rfc3339;
use crate::daemon::pipelock::refusals::{
    DEFAULT_PLAIN_LIMIT_MIB, DEFAULT_REQUESTS_PER_MINUTE, DEFAULT_SCAN_LIMIT_MIB,
};
use crate::policy::matching::{allows_entry, passes_entry};
use crate::policy::{MAX_REQUESTS_PER_MINUTE, MAX_SCAN_LIMIT_MIB, Policy};

/// Of each list so many hosts are named: the page is one that is read whole.
const MOST_HOSTS: usize = 200;
/// And so many of those that were allowed for a time: the newest.
const MOST_ENDED: usize = 10;
/// pipelock's own, where the manifest has none (`forward_proxy`, measured with 2.3.0).
const DEFAULT_TUNNEL_SECONDS: u32 = 300;
const DEFAULT_IDLE_SECONDS: u32 = 120;

/// How the page begins: what is true of the proxy at `now`, RFC 3339. It is written anew when that
/// changes; who finds it out of date finds the proxy silent.
#[must_use]
pub fn head(state: &Word<State>, now: &str) -> String {
    let words = match state {
        Word::Known(State::Ready) => {
            "up. What is listed below is allowed; everything else is refused."
        }
        Word::Known(State::Reloading) => {
            "up. The list below has just changed: what is new in it is allowed within seconds; everything that \
             is not listed is refused."
        }
        Word::Known(State::Starting | State::Waiting | State::Backoff) => {
            "being started. Nothing gets through yet, whatever is listed below: connections to the proxy fail. \
             Wait some seconds, and read this again."
        }
        Word::Known(State::Draining) => {
            "about to be restarted or ended. What is under way may go on for a while; everything new is refused \
             (403), whatever is listed below. Wait, and read this again."
        }
        Word::Known(State::Halted) => {
            "halted by a human. Nothing is to get through, whatever is listed below: connections to the proxy \
             fail. It stays so until a human resumes it (`sidecar-init resume`); waiting and retrying change \
             nothing. Stop, and say so to your human."
        }
        Word::Known(State::Stopping) => {
            "being ended or restarted. Nothing gets through, whatever is listed below. Wait some seconds, and \
             read this again."
        }
        Word::Known(State::Stopped | State::Failed) => {
            "ended. Nothing gets through, whatever is listed below, until a human starts it again. Stop, and say \
             so to your human."
        }
        Word::Other(_) => "not known. What is listed below may be allowed.",
    };
    format!(
        "# Your way to the network: what is allowed, and what to do when something is not\n\n\
         **State at {now} (by the proxy's clock): {words}**\n\n"
    )
}

/// The rest of the page, of a manifest; `proxy` is the URL of the proxy, `directory` where its
/// reader finds the export.
#[must_use]
pub fn page(policy: &Policy, proxy: &str, directory: &str) -> String {
    let mut text = introduction(policy, proxy, directory);
    hosts(&mut text, policy);
    answers(&mut text, policy, directory);
    limits(&mut text, policy);
    to_ask(&mut text, policy);
    text.push_str(NO_WAY_AROUND);
    text
}

fn introduction(policy: &Policy, proxy: &str, directory: &str) -> String {
    format!(
        "You work in a bottle, `{}`: a machine whose way to the network is the HTTP proxy `{proxy}`. That proxy is \
         a firewall. It refuses every host that is not listed here, looks for secrets in what you send, \
         and holds back what it cannot judge. A human who is not in this machine decides what is allowed; this \
         page is written anew whenever that changes (`{directory}/{}`, named by `SIDECAR_FOR_AGENTS`).\n\n\
         The variables `HTTP_PROXY`, `HTTPS_PROXY` and those that name `{directory}/{}` make your tools use it. \
         Are they not set? `set -a; . {directory}/{}; set +a`. Host names are resolved by the proxy, not here. \
         SSH, UDP and ping do not pass: of git use the `https://` address.\n\n",
        policy.slug,
        super::exported::AGENTS,
        super::exported::BUNDLE,
        super::exported::ENVIRONMENT,
    )
}

fn hosts(text: &mut String, policy: &Policy) {
    let count = policy.allowlist.len();
    let _ = writeln!(text, "## Hosts that are allowed: {count}\n");
    if count == 0 {
        text.push_str("None: every request is refused.\n\n");
        ended(text, policy);
        return;
    }
    text.push_str(
        "On every port. `*.name` stands for `name` and for every name below it. `not scanned`: over https the \
         proxy passes on what goes there unread, of any size, and would not stop a secret either. `until` is \
         in UTC, by the proxy's clock; from then on the host is refused like any other, and what is open \
         there is cut.\n\n```text\n",
    );
    let until =
        |at: Option<u64>| at.map_or_else(String::new, |at| format!(" until {}", rfc3339(at)));
    let mut line = |host: &str, notes: &[String]| {
        let _ = match notes.join(",") {
            notes if notes.is_empty() => writeln!(text, "{host}"),
            notes => writeln!(text, "{host:<40}{notes}"),
        };
    };
    let not_scanned = |host: &str| format!(" not scanned{}", until(policy.passed_until(host)));
    for host in policy.allowlist.iter().take(MOST_HOSTS) {
        let end = until(policy.allowed_until(host));
        let mut notes = Vec::from_iter((!end.is_empty()).then(|| format!(" allowed{end}")));
        if passes_entry(&policy.passthrough, host) {
            notes.push(not_scanned(host));
        }
        line(host, &notes);
    }
    // Those that a wildcard above allows.
    let is_below = |host: &&String| policy.allowlist.binary_search(host).is_err();
    for host in policy
        .not_scanned()
        .iter()
        .filter(is_below)
        .take(MOST_HOSTS)
    {
        line(host, &[not_scanned(host)]);
    }
    text.push_str("```\n\n");
    let more = count.saturating_sub(MOST_HOSTS);
    if more > 0 {
        let _ = writeln!(
            text,
            "And {more} more, for which there is no room here: ask for one, and see whether it is refused.\n"
        );
    }
    ended(text, policy);
}

/// What was allowed and is no more, the last first: whoever is refused there has done nothing wrong.
fn ended(text: &mut String, policy: &Policy) {
    let mut over: Vec<_> = policy
        .grants
        .iter()
        .filter(|grant| !grant.in_force && !allows_entry(&policy.allowlist, &grant.host))
        .collect();
    if over.is_empty() {
        return;
    }
    over.sort_unstable_by(crate::policy::grants::Grant::as_told);
    let told: Vec<String> = over
        .iter()
        .take(MOST_ENDED)
        .map(|grant| format!("`{}` until {}", grant.host, rfc3339(grant.until)))
        .collect();
    let _ = writeln!(
        text,
        "Allowed for a time that is over, and refused now: {}. For more time ask (1).\n",
        told.join(", ")
    );
}

/// What a client sees, what that means, and what to do. The words are pipelock's, whatever is
/// before and behind them. What is met most often comes first.
fn answers(text: &mut String, policy: &Policy, directory: &str) {
    let (scan, plain) = scan_limits(policy);
    let per_minute = per_minute(policy);
    let denials = super::denials::FILE;
    // Another in front of it has words of its own: mitmproxy's are these.
    let others = match policy.agent_proxy() {
        None => "",
        Some(_) => {
            "Between you and the firewall is another proxy, which has words of its own for what the firewall \
             refused: an answer that quotes `403 Forbidden`, such as 502 `refused HTTP CONNECT request: 403 \
             Forbidden`, is a refusal, most often of a HOST that is not allowed, and so is a 502 of that proxy's \
             when nothing is up behind it. "
        }
    };
    let _ = write!(
        text,
        "## When a request fails\n\n\
         The proxy's own answers are short plain text that begins with `blocked:` or `CONNECT blocked:`, or is \
         one of those below. {others}Any other 4xx or 5xx is the server's: then the proxy let you through. Over https most \
         tools show the number alone. `{directory}/{denials}` has every refusal with its `host` and what it means, \
         some seconds later; or ask once more over http, `curl -sS http://HOST/`, for the words.\n\n\
         HOST is the name between `//` and the next `/` of the URL that failed (git: `unable to access \
         'https://HOST/…'`; npm: `GET https://HOST/…`). pip says `Tunnel connection failed: 403` without the \
         name: it is in that file.\n\n\
         | you see | it means | do |\n|---|---|---|\n\
         | 403 `domain not in allowlist: HOST`, `CONNECT tunnel failed, response 403` | HOST is not allowed, or no more | ask for it (1); often it is another host than you meant, of a redirect or a download |\n\
         | `Could not resolve host`, `Network is unreachable` | your tool does not use the proxy | give it the variables above |\n\
         | a certificate by `Pipelock CA` is not trusted, `unable to get local issuer certificate` | your tool does not know the proxy's own authority, by which it looks into https | give it the file that `SSL_CERT_FILE` names; never switch the check off |\n\
         | the connection to the proxy is refused, or times out | it is not up | read the state at the top again. Halted or ended: stop, and say so to your human. Any other: wait ten seconds and try again, three times; then say so too |\n\
         | 403 `contains secret`, `DLP match`, `high entropy` | what you sent, a URL, header, body or name, looks like a key | a real key: do not send it, in no form, and tell your human; if it is meant for that very host, they may allow (2). A made-up one, as in a test: leave it out, or ask (2) |\n\
         | 429 `rate limit exceeded` | more than {per_minute} requests in a minute for one domain; a tunnel counts as one, and each request in it too | wait a minute, go slower; for many packages ask (2) or (4) |\n\
         | 403 `response too large for scanning` | what you fetch is larger than {scan} MiB | fetch less at once (`git clone --depth 1`), or ask (2) or (3) |\n\
         | 403 `request body exceeds max_body_bytes` | what you send is larger than {scan} MiB | send it in smaller pieces where its server takes them (fewer commits to a push), or ask (2) or (3) |\n\
         | over http, a file ends at {plain} MiB without an error | that is the limit there: the file is not whole | for https the limit is {scan} MiB: ask (2), and fetch it over https then, or ask (3) |\n\
         | 403 `SSRF check failed` | HOST is allowed, and the proxy cannot resolve its name | is it spelled right? it may be for a moment; else say so to your human |\n\
         | 403 `SSRF blocked`, `resolves to internal IP` | HOST is allowed, and at a private address | ask (6) |\n\
         | 403 `compressed … cannot be scanned`, `request body uses Content-Encoding` | it is compressed, and cannot be looked into | send it as it is; else ask (2) |\n\
         | 403 `invalid application/x-www-form-urlencoded body`, `invalid JSON body` | the body is not what its Content-Type says | say what it is: `-H 'Content-Type: application/octet-stream'` |\n\
         | 403 `media_policy` | video, audio, or an image that is no small PNG or JPEG | do without, or ask (2) |\n\
         | 403 `authority mismatch` | a request for one host inside a tunnel to another | open a tunnel for each host |\n\
         | 502 `tunnel dial failed`, `upstream error`, `forward proxy fetch failed` | HOST is allowed; it did not answer, broke off, or its certificate is not trusted | no refusal: try again later; with a certificate of its own ask (7) |\n\
         | 503 `too many active tunnels` | too many connections at once | close some |\n\
         | 503 `kill_switch_active` | a human switched everything off | stop, and say so to your human |\n\
         | an event stream ends in its middle | an event read like an order to a model, or like a key | ask (2) |\n\
         | an answer comes late, all at once | it is held back until it is scanned, less than half a megabyte a second | wait; for much ask (2) |\n\n"
    );
}

fn limits(text: &mut String, policy: &Policy) {
    let (scan, plain) = scan_limits(policy);
    let tuning = &policy.tuning;
    let per_minute = per_minute(policy);
    let tunnel = tuning.max_tunnel_seconds.unwrap_or(DEFAULT_TUNNEL_SECONDS);
    let idle = tuning.idle_timeout_seconds.unwrap_or(DEFAULT_IDLE_SECONDS);
    let _ = write!(
        text,
        "## Limits\n\n\
         - a body, either way, of a host that is scanned: {scan} MiB; over http, of an answer, {plain} MiB\n\
         - requests for one domain: {per_minute} a minute\n\
         - a tunnel (every https connection is one): {tunnel} s, and {idle} s without a byte; then open another\n\n"
    );
}

/// In MiB: of what is scanned, and of an answer over plain HTTP.
fn scan_limits(policy: &Policy) -> (u32, u32) {
    let limit = policy.tuning.scan_limit_mib;
    (
        limit.unwrap_or(DEFAULT_SCAN_LIMIT_MIB),
        limit.unwrap_or(DEFAULT_PLAIN_LIMIT_MIB),
    )
}

fn per_minute(policy: &Policy) -> u32 {
    let limit = policy.tuning.requests_per_minute;
    limit.unwrap_or(DEFAULT_REQUESTS_PER_MINUTE)
}

fn to_ask(text: &mut String, policy: &Policy) {
    let (scan, _) = scan_limits(policy);
    let larger = scan.saturating_mul(4).min(MAX_SCAN_LIMIT_MIB);
    let more = per_minute(policy).saturating_mul(2);
    let more = more.clamp(600, MAX_REQUESTS_PER_MINUTE);
    let _ = write!(
        text,
        "\
## What to ask your human for

Say what you were doing, what you saw, and the line; they decide. It goes into the bottle's manifest, which \
is not in this machine, and is in force seconds later; this page changes then. Open connections may end. Ask \
for the one host you need, by its whole name.

1. a host: for a while `sidecar-init grant HOST --for 30m`, which they run where the manifest is, and again for \
more time; for good a route
2. a host that is not to be scanned. It is for what is large, fast or public, as package registries are; \
nothing that goes there is looked at then. It has to be allowed as well (1)
3. larger bodies: `scan_limit_mib: {larger}`
4. more requests: `requests_per_minute: {more}`
5. longer tunnels
6. a host at a private address
7. a server with a certificate of its own: its root as `trust/NAME.pem` beside the manifest

Each line stands in the manifest like this, beside what is there already:

```yaml
bottle:
  egress:
    routes:
      - host: HOST                # (1) for good
grants:
  - {{host: HOST, until: TIME}}     # (1) for a while, as 2026-01-31T18:00:00Z; a later TIME is more time
pipelock:
  passthrough: [HOST]             # (2)
  scan_limit_mib: {larger:<14}  # (3)
  requests_per_minute: {more:<9}  # (4)
  max_tunnel_seconds: 3600        # (5)
  idle_timeout_seconds: 600       # (5)
network:
  internal_cidr: ADDRESS/32       # (6)
```

"
    );
}

const NO_WAY_AROUND: &str = "\
## There is no way around it

Another port, another name or the address of the same host, a mirror, a tunnel in a tunnel, another \
encoding, a secret in parts: all of it meets the same judge, and every refusal is counted and shown to your \
human. What is allowed is not yours to change; the files beside this page are copies. If you find a \
way that does not lead through the proxy, it is a fault of the set-up: do not use it, report it. What is \
refused is worth one question, not many attempts.
";

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-26T08:00:00Z.
    const NOW: u64 = 1_795_680_000;

    fn policy(routes: &[String], more: &str) -> Policy {
        let routes: String = routes
            .iter()
            .map(|host| format!("      - host: \"{host}\"\n"))
            .collect();
        let routes = if routes.is_empty() {
            " []\n".to_owned()
        } else {
            format!("\n{routes}")
        };
        let text =
            format!("version: 1\nslug: dev-agent\nbottle:\n  egress:\n    routes:{routes}{more}");
        crate::policy::read(text.as_bytes(), true, NOW)
            .unwrap()
            .policy
    }

    fn whole(policy: &Policy) -> String {
        head(&State::Ready.into(), "now") + &page(policy, "http://192.0.2.1:8888", "/export")
    }

    /// The lines between the fences.
    fn listed(page: &str) -> Vec<&str> {
        let inside = page.split("```").nth(1).unwrap();
        inside.lines().skip(1).collect()
    }

    #[test]
    fn names_what_is_allowed_and_of_it_what_is_not_scanned() {
        let hosts = ["b.example", "*.a.example", "2001:db8::1"].map(str::to_owned);
        let more = "pipelock: {passthrough: [b.example, x.a.example], scan_limit_mib: 7, requests_per_minute: 90, \
                    max_tunnel_seconds: 77, idle_timeout_seconds: 66}\n";
        let page = whole(&policy(&hosts, more));
        let columns = |line: &&str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            listed(&page).iter().map(columns).collect::<Vec<_>>(),
            [
                "*.a.example",
                "2001:db8::1",
                "b.example not scanned",
                "x.a.example not scanned"
            ]
        );
        for words in [
            "larger than 7 MiB",
            "ends at 7 MiB",
            "more than 90 requests",
            "90 a minute",
            "77 s, and 66 s",
            "`scan_limit_mib: 28`",
            "`requests_per_minute: 600`",
            "`http://192.0.2.1:8888`",
            "allowed: 3\n",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
        let page = whole(&policy(&[], ""));
        assert!(page.contains("None: every request is refused."), "{page}");
        for words in [
            "larger than 5 MiB",
            "ends at 10 MiB",
            "60 a minute",
            "300 s, and 120 s",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
    }

    #[test]
    fn a_refusal_in_the_words_of_a_proxy_before_it_is_told_as_one_where_there_is_such() {
        let quotes = "refused HTTP CONNECT request: 403 Forbidden";
        assert!(!whole(&policy(&[], "")).contains(quotes));
        let egress = "pipelock: {listen: \"127.0.0.1:8888\"}\ndaemons:\n  \
                      egress: {exec: [/bin/a], listen: [8080], ready: {tcp: 8080}, agent_proxy: 8080}\n";
        let page = whole(&policy(&[], egress));
        let told = page.find(quotes).unwrap();
        assert!(told < page.find("Any other 4xx or 5xx").unwrap(), "{page}");
    }

    #[test]
    fn says_until_when_what_is_granted_is_so() {
        let grants = "grants:\n  - {host: g.example, until: 2026-11-26T09:00:00Z}\n  \
                      - {host: p.example, until: 2026-11-26T10:00:00+00:00, passthrough: true}\n  \
                      - {host: a.example, until: 2026-11-26T11:00:00Z, passthrough: true}\n  \
                      - {host: over.example, until: 2026-11-26T07:00:00Z}\n";
        let mut policy = policy(&["a.example".to_owned()], grants);
        let columns = |line: &&str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let page = whole(&policy);
        assert_eq!(
            listed(&page).iter().map(columns).collect::<Vec<_>>(),
            [
                "a.example not scanned until 2026-11-26T11:00:00Z",
                "g.example allowed until 2026-11-26T09:00:00Z",
                "p.example allowed until 2026-11-26T10:00:00Z, not scanned until 2026-11-26T10:00:00Z",
            ]
        );
        let over =
            "and refused now: `over.example` until 2026-11-26T07:00:00Z. For more time ask (1).";
        assert!(page.contains(over), "{page}");
        policy.end_grants(|_| true);
        let page = whole(&policy);
        assert_eq!(listed(&page), ["a.example"]);
        // Not what is allowed all the same.
        let over = "and refused now: `p.example` until 2026-11-26T10:00:00Z, `g.example` until \
                    2026-11-26T09:00:00Z, `over.example` until 2026-11-26T07:00:00Z.";
        assert!(page.contains(over), "{page}");
    }

    #[test]
    fn what_is_to_be_asked_for_stands_as_it_does_in_a_manifest() {
        let page = whole(&policy(&[], ""));
        let (_, rest) = page.split_once("```yaml\n").unwrap();
        let (lines, _) = rest.split_once("```").unwrap();
        let lines = lines
            .replacen("HOST", "route.example", 1)
            .replacen("{host: HOST", "{host: granted.example", 1)
            .replacen("TIME", "2026-11-26T09:00:00Z", 1)
            .replacen("HOST", "route.example", 1)
            .replacen("ADDRESS", "10.1.2.3", 1);
        let manifest = format!("version: 1\nslug: dev-agent\n{lines}");
        let judged = crate::policy::read(manifest.as_bytes(), true, NOW).unwrap();
        assert_eq!(judged.warned, 0, "{:?}", judged.warnings);
        let policy = judged.policy;
        assert_eq!(policy.allowlist, ["granted.example", "route.example"]);
        assert!(passes_entry(&policy.passthrough, "route.example"));
        assert_eq!(policy.internal_cidr.as_deref(), Some("10.1.2.3/32"));
        assert_eq!(
            policy.tuning.scan_limit_mib,
            Some(4 * DEFAULT_SCAN_LIMIT_MIB)
        );
        assert_eq!(policy.tuning.requests_per_minute, Some(600));
        assert_eq!(policy.tuning.max_tunnel_seconds, Some(3600));
        assert_eq!(policy.tuning.idle_timeout_seconds, Some(600));
        // Each number that a row says to ask for is one of these.
        let asked = |text: &str| -> std::collections::BTreeSet<char> {
            let after = text.split(|c: char| c != '(' && !c.is_ascii_digit() && c != ')');
            let one = after.filter_map(|it| it.strip_prefix('(')?.strip_suffix(')')?.parse().ok());
            one.collect()
        };
        let (rows, _) = page.split_once("## What to ask").unwrap();
        assert_eq!(asked(rows), "123467".chars().collect());
    }

    #[test]
    fn no_word_sends_its_reader_from_a_limit_into_a_smaller_one() {
        let page = whole(&policy(&[], ""));
        let row = page.lines().find(|line| line.contains("ends at 10 MiB"));
        let row = row.unwrap();
        assert!(
            row.contains("for https the limit is 5 MiB: ask (2)"),
            "{row}"
        );
        // Where to stop and where to wait is one thing, told once.
        let silent = page
            .lines()
            .find(|line| line.contains("is refused, or times out"));
        let silent = silent.unwrap();
        assert!(silent.contains("Halted or ended: stop"), "{silent}");
        assert!(silent.contains("Any other: wait ten seconds"), "{silent}");
        assert!(page.contains("`/export/denials.json`"), "{page}");
        // What is met most often is read first.
        let rows: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("| "))
            .skip(1)
            .collect();
        for (row, seen) in rows.iter().zip([
            "domain not in allowlist",
            "Could not resolve host",
            "Pipelock CA",
            "the connection to the proxy",
            "contains secret",
        ]) {
            assert!(row.split(" | ").next().unwrap().contains(seen), "{row}");
        }
    }

    #[test]
    fn is_bounded_however_many_hosts_there_are_and_however_long_their_names() {
        let label = "x".repeat(63);
        let hosts: Vec<String> = (0..5000)
            .map(|number| format!("h{number}.{label}.{label}.{label}.example"))
            .collect();
        let below: Vec<String> = (0..300).map(|it| format!("p{it}.a.example")).collect();
        let pass = below.join(", ");
        let hosts = [hosts, vec!["*.a.example".to_owned()]].concat();
        let page = whole(&policy(
            &hosts,
            &format!("pipelock: {{passthrough: [{pass}]}}\n"),
        ));
        assert!(page.len() < 128 * 1024, "{}", page.len());
        assert_eq!(listed(&page).len(), 2 * MOST_HOSTS);
        assert!(page.contains("And 4801 more, for which"), "{page}");
    }

    #[test]
    fn nothing_of_a_manifest_is_more_than_a_word_in_it() {
        let hosts = ["*.a.example", "xn--bcher-kva.example", "192.0.2.7"].map(str::to_owned);
        let page = whole(&policy(&hosts, ""));
        for line in listed(&page) {
            let host = line.split_whitespace().next().unwrap();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-.*:".contains(c);
            assert!(host.chars().all(plain), "{line}");
        }
        // What else a manifest has is not its reader's.
        let more = "network: {internal_cidr: 100.96.1.0/24, dns: [10.99.0.3], gateway: 10.99.0.2, \
                    hosts: {db.example: 10.99.0.9}, internal: inner, egress: outer}\n";
        let page = whole(&policy(&hosts, more));
        for not_theirs in ["100.96", "10.99.", "db.example", "inner", "outer"] {
            assert!(!page.contains(not_theirs), "{not_theirs}");
        }
    }

    #[test]
    fn says_that_something_gets_through_only_where_it_does() {
        for state in [
            State::Starting,
            State::Backoff,
            State::Halted,
            State::Stopping,
            State::Stopped,
            State::Failed,
        ] {
            let head = head(&state.into(), "now");
            assert!(head.contains("whatever is listed below"), "{head}");
            assert!(!head.contains(": up"), "{head}");
        }
        assert!(
            head(&State::Ready.into(), "now").contains("State at now (by the proxy's clock): up.")
        );
    }
}
