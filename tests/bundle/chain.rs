//! An agent's requests through egress and pipelock, its clones and pushes through the gate, its
//! questions to whom it asks for approvals.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::bed::{ADDRESS, Bed};
use crate::support::chain::{
    BOTTLE, EGRESS, GATE, INJECTED, OTHER, REVOKED, SECRET, SUPERVISE, TOKEN, egress, others,
    small_egress, write_token,
};
use crate::support::said::both;
use crate::support::skipped;

/// curl's words for who signed the certificate it was shown.
const BY_EGRESS: &str = "issuer: CN=mitmproxy; O=mitmproxy";

fn is_here(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skipped("the bundle's chain", &format!("{program} is not here"));
    }
    found
}

fn three(parts: &str, run: &str) -> String {
    egress(parts, run) + &others(parts)
}

/// What the agent is answered through its proxy, whose CA it trusts: the status, and all that
/// curl has to say.
fn ask(bed: &Bed, url: &str, arguments: &str) -> (String, String) {
    let output = bed
        .inside(&format!(
            "curl -sSv --max-time 60 --proxy http://{ADDRESS}:{EGRESS} --cacert \"$W/run/egress/ca/mitmproxy-ca-cert.pem\" \
             --write-out '\\n%{{http_code}}' {arguments} {url}"
        ))
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = answer.rsplit_once('\n').unwrap_or_default();
    let said = format!("{}{body}", String::from_utf8_lossy(&output.stderr));
    (status.to_owned(), said)
}

#[test]
fn a_request_passes_the_chain_with_a_token_and_what_pipelock_refuses_is_refused() {
    if !is_here("mitmdump") {
        return;
    }
    let mut bed = Bed::start(BOTTLE, &three);
    bed.wait_ready();
    // Each began when what it is after was ready.
    let log = bed.log();
    let at = |line: &str| {
        log.find(line)
            .unwrap_or_else(|| panic!("no {line:?} in {log}"))
    };
    let order = [
        "ready: pipelock",
        "ready: egress",
        "ready: git-gate",
        "ready: supervise",
    ]
    .map(at);
    assert!(order.is_sorted(), "{order:?}\n{log}");

    let (status, said) = ask(&bed, &format!("https://{INJECTED}/page"), "");
    assert_eq!(status, "200", "{said}\n{}", bed.log());
    assert!(
        said.contains(BY_EGRESS) && said.ends_with("the page\n"),
        "{said}"
    );
    assert!(!said.contains(TOKEN), "the agent has it: {said}");
    let token = Value::from(format!("Bearer {TOKEN}"));
    assert_eq!(bed.upstream.authorizations(INJECTED, "/page", 1), [token]);
    // The token is for one host, also where the request says that it is for that.
    let (status, said) = ask(&bed, &format!("https://{OTHER}/page"), "");
    assert_eq!(status, "200", "{said}");
    let (_, said) = ask(
        &bed,
        &format!("https://{OTHER}/as"),
        &format!("-H 'Host: {INJECTED}'"),
    );
    assert_eq!(
        bed.upstream.authorizations(OTHER, "/page", 1),
        [Value::Null]
    );
    let leaked = bed.upstream.authorizations(INJECTED, "/as", 0);
    assert!(leaked.iter().all(Value::is_null), "{leaked:?} {said}");

    // A secret in a body, and a host that is not allowed, by pipelock's word; over TLS the
    // refusal is of egress's CONNECT, which mitmproxy reports in its own way.
    for (url, arguments, wanted, words) in [
        (
            format!("https://{INJECTED}/secret"),
            format!("--data-binary {SECRET}"),
            "403",
            "AWS Access ID",
        ),
        (
            "http://elsewhere.test/".to_owned(),
            String::new(),
            "403",
            "domain not in allowlist",
        ),
        (
            "https://elsewhere.test/".to_owned(),
            String::new(),
            "502",
            "403 Forbidden",
        ),
    ] {
        let (status, said) = ask(&bed, &url, &arguments);
        assert_eq!(status, wanted, "{url}: {said}\n{}", bed.log());
        assert!(said.contains(words), "{url}: {said}");
    }
    // What pipelock knows for a secret it refuses whoever put it there.
    let secret = SECRET.trim_start_matches("key=");
    write_token(&bed.scratch.join("host"), secret);
    bed.wait_for("the token that was replaced is refused", |bed| {
        let (status, said) = ask(bed, &format!("https://{INJECTED}/known"), "");
        let refused = said.contains("request header contains secret");
        (status == "403" && refused).then_some(())
    });
    assert!(
        bed.upstream
            .authorizations(INJECTED, "/secret", 0)
            .is_empty()
    );
    // Around egress there is nothing: pipelock is not where the agent is.
    let around = bed
        .inside(&format!(
            "curl -sS -x http://{ADDRESS}:8888 http://{OTHER}/"
        ))
        .output()
        .unwrap();
    assert!(both(&around).contains("Failed to connect"), "{around:?}");
    // The token is in nothing that the host is told or that is logged.
    for file in ["log", "export/status.json", "export/denials.json"] {
        let text = fs::read_to_string(bed.scratch.join(file)).unwrap();
        assert!(!text.contains(TOKEN), "{file}: {text}");
    }
}

#[test]
fn a_host_that_is_revoked_is_cut_through_egress_and_supervise_with_its_switch() {
    if !is_here("mitmdump") {
        return;
    }
    let mut bed = Bed::start(BOTTLE, &three);
    let before = bed.wait_ready();
    let question = format!("http://supervise:{SUPERVISE}/approvals");
    let (status, said) = ask(&bed, &question, "--data-binary may-i");
    assert_eq!(status, "202", "{said}\n{}", bed.log());
    let mut stream = bed.inside(&format!(
        "exec curl -sS -N --proxy http://{ADDRESS}:{EGRESS} --cacert \"$W/run/egress/ca/mitmproxy-ca-cert.pem\" \
         https://{INJECTED}/events > \"$W/events\""
    ));
    let mut stream = stream.spawn().unwrap();
    let events = |bed: &Bed| {
        fs::read(bed.scratch.join("events"))
            .unwrap_or_default()
            .len()
    };
    bed.wait_for("the stream streams", |bed| (events(bed) > 60).then_some(()));
    assert!(stream.try_wait().unwrap().is_none());

    // The one that stays is reached as before; what was the same daemon is the same process.
    bed.write_manifest(REVOKED);
    bed.wait_for("the stream ends", |_| stream.try_wait().unwrap());
    let after = bed.wait_for("the revocation is in force", |bed| {
        let status = bed.status();
        (status["state"] == "ready" && status["config"]["applied_generation"] == 2)
            .then_some(status)
    });
    let (status, said) = ask(&bed, &format!("https://{INJECTED}/again"), "");
    assert_eq!(status, "502", "{said}\n{}", bed.log());
    assert!(
        bed.upstream
            .authorizations(INJECTED, "/again", 0)
            .is_empty()
    );
    let (status, said) = ask(&bed, &question, "--data-binary may-i");
    assert_eq!(status, "403", "{said}\n{}", bed.log());
    assert!(
        said.contains("domain not in allowlist: supervise"),
        "{said}"
    );
    let (status, said) = ask(&bed, &format!("https://{OTHER}/page"), "");
    assert_eq!(status, "200", "{said}\n{}", bed.log());
    let pids = |status: &Value| -> Vec<Value> {
        let daemons = status["daemons"].as_array().unwrap();
        daemons.iter().map(|it| it["pid"].clone()).collect()
    };
    assert_eq!(pids(&before), pids(&after));
    assert_ne!(before["daemon"]["pid"], after["daemon"]["pid"]);
}

#[test]
fn a_clone_and_a_push_pass_the_gate_and_only_where_it_lets_them() {
    if !is_here("git") {
        return;
    }
    let mut bed = Bed::start("{}", &|parts, _| {
        others(parts).replace("    after: [egress]\n", "")
    });
    bed.wait_ready();
    let url = format!("http://{ADDRESS}:{GATE}/work.git");
    bed.run(&format!(
        "cd \"$W\"; git clone -q {url} clone; cd clone; git config user.email a@localhost; git config user.name agent
         head -c 3000000 /dev/urandom > large; git add large; git commit -qm more; git push -q origin HEAD:agent/more
         git clone -q --branch agent/more {url} ../again; cmp large ../again/large"
    ));
    for (refused, words) in [
        (
            format!("git -C \"$W/clone\" push -q {url} HEAD:main"),
            "403",
        ),
        (
            format!("git clone -q {} \"$W/other\"", url.replace("work", "other")),
            "not found",
        ),
    ] {
        let output = bed.inside(&refused).output().unwrap();
        let said = both(&output);
        assert!(
            !output.status.success() && said.contains(words),
            "{refused}: {said}\n{}",
            bed.log()
        );
    }
}

#[test]
fn a_root_with_the_rights_of_a_container_starts_its_daemons_again_and_shows_agents_their_ca() {
    if !nix::unistd::geteuid().is_root() {
        skipped("a root with few capabilities", "it takes root");
        return;
    }
    // Those that docs/containers.md gives it: it may not look into what it has given away.
    let few = "setpriv --bounding-set=-all,+chown,+kill,+setgid,+setpcap,+setuid";
    let mut bed = Bed::start_under(few, BOTTLE, &|parts, _| {
        small_egress(parts)
            .replace(
                "[/usr/bin/python3, ",
                "[/bin/sh, -c, 'umask 077; mkdir -p \"$HOME/ca\"; cp \"$1/ca.pem\" \"$HOME/ca/\"; \
                 exec /usr/bin/python3 \"$1/egress.py\" \"$2\"', sh, ",
            )
            .replace("/egress.py,", ",")
            .replace("    env:", "    agent_ca: ca/ca.pem\n    env:")
            + "  notifies:
    exec: [/usr/bin/python3, -c, 'import os, socket, time; socket.socket(socket.AF_UNIX,
           socket.SOCK_DGRAM).sendto(b\"READY=1\", os.environ[\"NOTIFY_SOCKET\"]); time.sleep(600)']
    ready: notify
"
    });
    let status = bed.wait_ready();
    let root = fs::read_to_string(bed.scratch.join("parts/ca.pem")).unwrap();
    let bundle = bed.wait_for("agents are shown it", |bed| {
        let bundle = fs::read_to_string(bed.scratch.join("export/ca-bundle.pem")).ok()?;
        bundle.contains(root.trim()).then_some(bundle)
    });
    assert!(bundle.contains("BEGIN CERTIFICATE"), "{bundle}");
    // Its directory is there already the second time.
    for daemon in status["daemons"].as_array().unwrap() {
        bed.run(&format!("kill -KILL {}", daemon["pid"]));
    }
    bed.wait_for("all are ready again", |bed| {
        let status = bed.status();
        let daemons = status["daemons"].as_array()?;
        let again = |it: &Value| it["state"] == "ready" && it["restarts"] == 1;
        daemons.iter().all(again).then_some(())
    });
    // And it is gone with the daemon.
    bed.replace_daemons("  other: {exec: [/bin/sleep, '600']}\n");
    bed.write_manifest(BOTTLE);
    bed.wait_for("what was theirs is gone", |bed| {
        let left = bed.run("ls \"$W/run\" \"$W/run/credentials\"");
        (!left.contains("egress") && !left.contains("notifies")).then_some(())
    });
}

#[test]
fn a_daemon_that_the_bundle_goes_on_without_is_told_of_in_the_log() {
    let mut bed = Bed::start("{}", &|_, _| {
        "  broken: {exec: [/nonexistent], essential: false}\n".to_owned()
    });
    let said = bed.wait_for("it is told", |bed| {
        let log = bed.log();
        let line = log
            .lines()
            .find(|line| line.contains("broken cannot live"))?;
        Some(line.to_owned())
    });
    assert!(said.contains("the bundle goes on without it"), "{said}");
    assert!(said.contains("cannot execute /nonexistent"), "{said}");
    assert_eq!(bed.status()["state"], "ready");
}
