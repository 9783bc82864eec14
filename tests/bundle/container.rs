//! The same in a container: Debian's mitmproxy, Python and git are a layer above the image, and
//! the container has no more rights than docs/containers.md gives it.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::chain::{
    BOTTLE, DEBIAN, EGRESS, GATE, INJECTED, OTHER, PARTS, PLACE, REVOKED, SECRET, SUPERVISE, TOKEN,
    Upstream, egress, others, write_token,
};
use crate::support::interception::{certify, shell};
use crate::support::podman::{Engine, IMAGE, engine, write_manifest};
use crate::support::said::both;
use crate::support::skipped;

const ADDRESS: &str = "10.9.0.2";
const UPSTREAM: &str = "10.9.0.3";
const NAME: &str = "chain";

/// The image with the layer, from the tree that scripts/test makes.
fn build_image(engine: &Engine) {
    let file = engine.scratch.join("Containerfile");
    std::fs::write(&file, format!("FROM {IMAGE}\nCOPY debian/ /\n")).unwrap();
    let context = Path::new(DEBIAN).parent().unwrap().to_str().unwrap();
    let file = file.to_str().unwrap();
    engine.run(&["build", "--quiet", "--tag", NAME, "--file", file, context]);
}

fn manifest(bottle: &str) -> String {
    format!(
        "bottle: {bottle}\nnetwork: {{internal_cidr: 10.9.0.0/24}}\n\
         pipelock: {{listen: \"127.0.0.1:8888\", requests_per_minute: 600}}\n\
         daemons:\n{}{}supervisor: {{grace_seconds: 2, probe_seconds: 1}}\n",
        egress(PLACE, "/run/sidecar"),
        others(PLACE)
    )
}

/// A shell where the agent is, beside the container.
fn agent(engine: &Engine, script: &str) -> Output {
    engine
        .command("sh")
        .args(["-euc", script])
        .env("W", engine.scratch.path())
        .env(
            "CURL",
            format!(
                "curl -sSv --max-time 60 --proxy http://{ADDRESS}:{EGRESS} --cacert {}/egress.pem",
                engine.scratch.path().display()
            ),
        )
        .output()
        .unwrap()
}

fn start(engine: &Engine, bottle: &Path) {
    let volume = format!("{}:/etc/sidecar:ro", bottle.join("sidecar").display());
    let parts = format!("{PARTS}{PLACE}:{PLACE}:ro");
    let hosts = [
        (INJECTED, UPSTREAM),
        (OTHER, UPSTREAM),
        ("supervise", ADDRESS),
    ]
    .map(|(name, address)| format!("--add-host={name}:{address}"));
    let mut run = vec!["run", "--detach", "--name", NAME, "--network=host"];
    run.extend(hosts.iter().map(String::as_str));
    run.extend([
        "--volume",
        &volume,
        "--volume",
        &parts,
        "--read-only",
        "--tmpfs=/run",
    ]);
    run.extend(["--security-opt=no-new-privileges", "--cap-drop=all"]);
    run.extend(["--cap-add=CHOWN", "--cap-add=KILL", "--cap-add=SETGID"]);
    run.extend(["--cap-add=SETPCAP", "--cap-add=SETUID", NAME]);
    engine.run(&run);
}

fn ready(status: &Value) -> bool {
    status["state"] == "ready"
}

fn assert_a_revocation_cuts(engine: &Engine, bottle: &Path, upstream: &Upstream) {
    // An open stream ends with the host's permission.
    let mut stream = engine
        .command("sh")
        .args([
            "-euc",
            "exec curl -sS -N --proxy \"$1\" --cacert \"$0/egress.pem\" \"$2\" > \"$0/events\"",
        ])
        .arg(engine.scratch.path())
        .args([
            format!("http://{ADDRESS}:{EGRESS}"),
            format!("https://{INJECTED}/events"),
        ])
        .spawn()
        .unwrap();
    engine.wait_until(NAME, "the stream streams", || {
        let events = std::fs::read(engine.scratch.join("events")).unwrap_or_default();
        (events.len() > 60).then_some(())
    });
    write_manifest(bottle, &manifest(REVOKED));
    engine.wait_until(NAME, "the stream ends", || stream.try_wait().unwrap());
    engine.wait_until(NAME, "it is in force", || {
        let status = engine.status(NAME);
        (ready(&status) && status["config"]["applied_generation"] == 2).then_some(())
    });
    for url in [
        format!("https://{INJECTED}/again"),
        format!("http://supervise:{SUPERVISE}/"),
    ] {
        let said = both(&agent(engine, &format!("$CURL {url}")));
        assert!(said.contains("403"), "{url}: {said}\n{}", engine.logs(NAME));
    }
    assert!(upstream.authorizations(INJECTED, "/again", 0).is_empty());
}

#[test]
fn the_chain_works_in_a_container_with_the_rights_that_it_is_documented_with() {
    let Some(engine) = engine() else { return };
    if !Path::new(DEBIAN).join("usr/bin/mitmdump").exists() {
        skipped(
            "the bundle's chain in a container",
            "scripts/test unpacks mitmproxy for it",
        );
        return;
    }
    build_image(&engine);
    let bottle = engine.bottle(NAME, &manifest(BOTTLE));
    write_token(&bottle.join("sidecar"), TOKEN);
    certify(engine.scratch.path(), &[INJECTED, OTHER]);
    shell(
        &bottle,
        "mkdir sidecar/trust; cp ../root.pem sidecar/trust/",
    );
    let upstream = Upstream::start(
        engine.command("env"),
        &format!("ip address add {ADDRESS}/32 dev lo; ip address add {UPSTREAM}/32 dev lo"),
        engine.scratch.path(),
        (UPSTREAM, 443),
    );
    start(&engine, &bottle);
    let status = engine.wait_until(NAME, "all are ready", || {
        let status = engine.status(NAME);
        let daemons = status["daemons"].as_array()?;
        (ready(&status) && daemons.iter().all(ready)).then_some(status)
    });
    for (daemon, user) in status["daemons"]
        .as_array()
        .unwrap()
        .iter()
        .zip([65533, 65532, 65531])
    {
        assert_eq!(daemon["sandbox_verified"], true, "{daemon}");
        assert_eq!(
            daemon["sandbox_missing"].as_array().unwrap().len(),
            0,
            "{daemon}"
        );
        assert_eq!(daemon["uid"], user, "{daemon}");
    }
    let pid = engine.inspect(NAME, "{{.State.Pid}}");
    let certificate = format!("/proc/{pid}/root/run/sidecar/egress/ca/mitmproxy-ca-cert.pem");
    agent(&engine, &format!("cat {certificate} > \"$W/egress.pem\""));

    for (script, words) in [
        (format!("$CURL https://{INJECTED}/page"), "the page"),
        (format!("$CURL https://{OTHER}/page"), "the page"),
        (
            format!("$CURL https://{INJECTED}/secret --data-binary {SECRET}"),
            "AWS Access ID",
        ),
        (
            "$CURL http://elsewhere.test/".to_owned(),
            "domain not in allowlist",
        ),
        (
            format!("$CURL http://supervise:{SUPERVISE}/approvals -d may-i"),
            "somebody will look",
        ),
        (
            format!(
                "git clone -q http://{ADDRESS}:{GATE}/work.git \"$W/work\"; git -C \"$W/work\" push origin HEAD:agent/x"
            ),
            "HEAD -> agent/x",
        ),
    ] {
        let said = both(&agent(&engine, &script));
        assert!(
            said.contains(words),
            "{script}: {said}\n{}",
            engine.logs(NAME)
        );
        assert!(!said.contains(TOKEN), "{script}: {said}");
    }
    let token = Value::from(format!("Bearer {TOKEN}"));
    assert_eq!(upstream.authorizations(INJECTED, "/page", 1), [token]);
    assert_eq!(upstream.authorizations(OTHER, "/page", 1), [Value::Null]);
    assert!(upstream.authorizations(INJECTED, "/secret", 0).is_empty());

    assert_a_revocation_cuts(&engine, &bottle, &upstream);
    engine.run(&["stop", NAME]);
    assert_eq!(engine.wait_end(NAME), 0, "{}", engine.logs(NAME));
}
