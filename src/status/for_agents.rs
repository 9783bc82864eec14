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
use crate::policy::matching::passes_entry;
use crate::policy::{MAX_REQUESTS_PER_MINUTE, MAX_SCAN_LIMIT_MIB, Policy};

/// Of each list so many hosts are named: the page is one that is read whole.
const MOST_HOSTS: usize = 200;
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
    answers(&mut text, policy);
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
        super::export::AGENTS,
        super::export::BUNDLE,
        super::export::ENVIRONMENT,
    )
}

fn hosts(text: &mut String, policy: &Policy) {
    let count = policy.allowlist.len();
    let _ = writeln!(text, "## Hosts that are allowed: {count}\n");
    if count == 0 {
        text.push_str("None: every request is refused.\n\n");
        return;
    }
    text.push_str(
        "On every port. `*.name` stands for `name` and for every name below it. `not scanned`: the proxy does \
         not look into what goes there over https, and its limits of size do not apply.\n\n```text\n",
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
}

/// What a client sees, what that means, and what to do. The words are pipelock's, whatever is
/// before and behind them.
fn answers(text: &mut String, policy: &Policy) {
    let (scan, plain) = scan_limits(policy);
    let per_minute = per_minute(policy);
    let _ = write!(
        text,
        "## When a request fails\n\n\
         The proxy's own answers are short plain text that begins with `blocked:` or `CONNECT blocked:`, or is \
         one of those below. Any other 4xx or 5xx is the server's: then the proxy let you through. Over https most \
         tools show the number alone (curl: `CONNECT tunnel failed, response 403`). For the words ask once more \
         over http, `curl -sS http://HOST/`, or read `denials.json` beside this page, where it is: it has every \
         refusal with what it means.\n\n\
         | you see | it means | do |\n|---|---|---|\n\
         | 403 `domain not in allowlist: HOST` | HOST is not allowed | ask for it (1); often it is another host than you meant, of a redirect or a download |\n\
         | 403 `SSRF check failed` | HOST is allowed, and the proxy cannot resolve its name | is it spelled right? it may be for a moment; else say so to your human |\n\
         | 403 `SSRF blocked`, `resolves to internal IP` | HOST is allowed, and at a private address | ask (6) |\n\
         | 403 `contains secret`, `DLP match`, `high entropy` | what you sent, a URL, header, body or name, looks like a key | if it is one: do not send it, in no form. If it is none: ask (2) |\n\
         | 403 `request body exceeds max_body_bytes`, `response too large for scanning` | larger than {scan} MiB | ask for a part of it, or for (2), or for (3) |\n\
         | 403 `compressed … cannot be scanned`, `request body uses Content-Encoding` | it is compressed, and cannot be looked into | send it as it is; else ask (2) |\n\
         | 403 `invalid application/x-www-form-urlencoded body`, `invalid JSON body` | the body is not what its Content-Type says | say what it is: `-H 'Content-Type: application/octet-stream'` |\n\
         | 403 `media_policy` | video, audio, or an image that is no small PNG or JPEG | do without, or ask (2) |\n\
         | 403 `authority mismatch` | a request for one host inside a tunnel to another | open a tunnel for each host |\n\
         | 429 `rate limit exceeded` | more than {per_minute} requests in a minute for one domain; a tunnel counts as one, and each request in it too | wait a minute, go slower; for many packages ask (2) or (4) |\n\
         | 502 `tunnel dial failed`, `upstream error`, `forward proxy fetch failed` | HOST is allowed; it did not answer, broke off, or its certificate is not trusted | no refusal: try again later; with a certificate of its own ask (7) |\n\
         | 503 `too many active tunnels` | too many connections at once | close some |\n\
         | 503 `kill_switch_active` | a human switched everything off | stop, and say so to your human |\n\
         | a certificate by `Pipelock CA` is not trusted, `unable to get local issuer certificate` | your tool does not know the proxy's own authority, by which it looks into https | give it the file that `SSL_CERT_FILE` names; never switch the check off |\n\
         | an event stream ends in its middle | an event read like an order to a model, or like a key | ask (2) |\n\
         | over http, a file ends at {plain} MiB without an error | that is the limit there | use https, or ask (3) |\n\
         | an answer comes late, all at once | it is held back until it is scanned, less than half a megabyte a second | wait; for much ask (2) |\n\
         | the connection to the proxy is refused, or times out | it is not up: see the state above | wait some seconds; then say so to your human |\n\
         | `Could not resolve host`, `Network is unreachable` | your tool does not use the proxy | give it the variables above |\n\n"
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

1. a host: for a while `sidecar-init grant HOST --for 30m`, which they run where the manifest is; for good \
the line `- host: HOST` below `bottle: egress: routes:`
2. a host that is not to be scanned: below `pipelock:` HOST in the list `passthrough: [HOST]`. It is for \
what is large, fast or public, as package registries are; nothing that goes there is looked at then
3. larger bodies: below `pipelock:` `scan_limit_mib: {larger}`
4. more requests: below `pipelock:` `requests_per_minute: {more}`
5. longer tunnels: below `pipelock:` `max_tunnel_seconds: 3600` and `idle_timeout_seconds: 600`
6. a host at a private address: below `network:` `internal_cidr: ADDRESS/32`
7. a server with a certificate of its own: its root as `trust/NAME.pem` beside the manifest

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
        policy.end_grants(|_| true);
        assert_eq!(listed(&whole(&policy)), ["a.example"]);
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
