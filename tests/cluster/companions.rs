//! The bundle's other daemons in pipelock's Pod: the agent reaches them and nothing else, its
//! requests pass through egress and pipelock, and without egress none passes.

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::bottle::{Bottle, MANIFEST, both, cluster, kubectl, path, process_of, say, wait_for};
use crate::packets::{Trier, address, assert_stopped, elsewhere};

const TOKEN: &str = "the-token-of-the-bundle";

/// With the programs of `tests/support/parts`, which are in the image localhost/bundle.
const BUNDLE: &str = r#"version: 1
slug: @
bottle: {egress: {routes: [{host: internet.test}]}}
pipelock: {listen: "127.0.0.1:8888", passthrough: [internet.test], requests_per_minute: 6000}
daemons:
  egress:
    exec: [/usr/bin/python3, /usr/lib/bundle-parts/egress.py, "8080"]
    listen: [8080]
    ready: {tcp: 8080}
    agent_proxy: 8080
    env: {INJECT_FOR: internet.test}
  git-gate:
    exec: [/usr/bin/python3, /usr/lib/bundle-parts/git_gate.py, "9418"]
    listen: [9418]
    ready: {http: 9418/health}
    after: [egress]
    proxy: false
    essential: false
  supervise:
    exec: [/usr/bin/python3, /usr/lib/bundle-parts/supervise.py, "9000"]
    listen: [9000]
    ready: {http: 9000/health}
    after: [git-gate]
    proxy: false
    essential: false
"#;

/// As docs/kubernetes.md says.
fn start() -> Bottle {
    let bottle = Bottle::make_of("bundle", BUNDLE, |text| {
        let edited = text.replace(
            "# components: [../components/kata]",
            "components: [../components/bundle]",
        );
        edited.replace(
            "newName: localhost/sidecar-init, newTag: \"0.1.0\"",
            "newName: localhost/bundle, newTag: \"1\"",
        )
    });
    let namespace = bottle.directory().join("namespace.yaml");
    kubectl(&["apply", "-f", path(&namespace)]);
    let token = format!("--from-literal=token={TOKEN}");
    bottle.kubectl(&["create", "secret", "generic", "egress-credentials", &token]);
    bottle.apply();
    bottle.wait_ready();
    bottle
}

/// What a script in the agent's container prints, on both streams.
fn agent(bottle: &Bottle, script: &str) -> String {
    both(&bottle.agent(&["sh", "-c", &format!("cd /tmp; {script}")]))
}

fn daemon(status: &Value, name: &str) -> Value {
    let daemons = status["daemons"].as_array().unwrap();
    let found = daemons.iter().find(|daemon| daemon["name"] == name);
    found.unwrap_or_else(|| panic!("{status}")).clone()
}

#[test]
fn of_a_bundle_the_agent_reaches_the_daemons_alone_and_without_egress_nothing_passes() {
    let Some(_turn) = cluster() else { return };
    let bottle = start();
    let other = Bottle::start("unbundled", MANIFEST);
    let status = bottle.status();
    assert_eq!(status["state"], "ready", "{status}");
    for name in ["egress", "git-gate", "supervise"] {
        let daemon = daemon(&status, name);
        say(&format!(
            "  {name}: user {}, missing {}",
            daemon["uid"], daemon["sandbox_missing"]
        ));
        assert_eq!(daemon["state"], "ready", "{daemon}");
        assert_eq!(daemon["sandbox_verified"], true, "{daemon}");
    }

    // The way through: the token is egress's, and pipelock judges.
    let page = agent(&bottle, "curl -s http://internet.test/");
    assert!(
        page.ends_with(&format!(" internet.test Bearer {TOKEN}\n")),
        "{page}"
    );
    assert_eq!(bottle.request("https://internet.test/"), 200);
    assert_eq!(bottle.request("http://other.test/"), 403);
    let variables = agent(&bottle, "env");
    assert!(!variables.contains(TOKEN), "{variables}");
    // The ways in beside it.
    let cloned = agent(
        &bottle,
        "git clone -q http://$PIPELOCK_SERVICE_HOST:9418/work.git && cd work && \
         git -c user.name=a -c user.email=a@localhost commit -q --allow-empty -m more && \
         git push origin HEAD:agent/x && git push origin HEAD:main",
    );
    assert!(
        cloned.contains("HEAD -> agent/x") && cloned.contains("error: 403"),
        "{cloned}"
    );
    let asked = agent(
        &bottle,
        "curl -s http://$PIPELOCK_SERVICE_HOST:9000/approvals -d may-i",
    );
    assert_eq!(asked, "somebody will look at it\n");

    // And no other, from either Pod.
    let namespaces = [&*bottle.namespace, &*other.namespace];
    let own = address(&bottle.pod("pipelock"));
    let mut attempts = elsewhere(&bottle, &other, bottle.process("agent", "sleep"));
    let pipelock_itself = ("pipelock itself".to_owned(), "tcp", own.clone(), 8888);
    attempts.push(pipelock_itself.clone());
    for (name, port) in [("egress", 8080), ("git-gate", 9418), ("supervise", 9000)] {
        attempts.push((name.to_owned(), "tcp", own.clone(), port));
    }
    assert_stopped(Trier::agent(&bottle), &attempts, namespaces, &|name| {
        ["egress", "git-gate", "supervise"]
            .contains(&name)
            .then_some("agent")
    });
    let pipelock = bottle.process("pipelock", "pipelock");
    let attempts = elsewhere(&bottle, &other, pipelock);
    let from = Trier::network_of(pipelock);
    assert_stopped(from, &attempts, namespaces, &crate::packets::needed);

    // Without egress: nobody starts it again while the init stands still.
    let pod = bottle.pod("pipelock");
    let init = bottle.process("pipelock", "sidecar-init");
    let egress = process_of(&pod, "egress.py");
    kill(init, Signal::SIGSTOP).unwrap();
    kill(egress, Signal::SIGKILL).unwrap();
    for url in ["http://internet.test/", "https://internet.test/"] {
        wait_for("nothing passes", || {
            (bottle.request(url) == 0).then_some(())
        });
    }
    let tried = Trier::agent(&bottle).counted(&pipelock_itself);
    assert!(tried.is_rejected(&namespaces), "{tried:?}");
    kill(init, Signal::SIGCONT).unwrap();
    wait_for("egress is back", || {
        let status = bottle.status();
        let restarts = daemon(&status, "egress")["restarts"].clone();
        (restarts == 1 && status["state"] == "ready").then_some(())
    });
    wait_for("requests pass", || {
        (bottle.request("https://internet.test/") == 200).then_some(())
    });
    assert_eq!(bottle.request("http://other.test/"), 403);
}
