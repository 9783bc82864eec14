//! That the agent cannot go around pipelock: everything it could reach is tried with packets.

use std::process::Command;

use serde_json::Value;

use crate::bottle::{Bottle, MANIFEST, both, cluster, kubectl, object, say};

const ATTEMPTS: &str = include_str!("attempts.py");

/// Name, kind, address, port.
type Attempt = (String, &'static str, String, u16);

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

/// The addresses of a Pod, IPv4 first.
fn addresses(pod: &Value) -> Vec<String> {
    pod["status"]["podIPs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| text(&each["ip"]))
        .collect()
}

/// Whatever could be reached from a Pod of `bottle`, but pipelock's port.
fn elsewhere(bottle: &Bottle, other: &Bottle) -> Vec<Attempt> {
    let own = addresses(&bottle.pod("pipelock"));
    let other_pipelock = addresses(&other.pod("pipelock"));
    let other_agent = addresses(&other.pod("agent"));
    let service = object(&["--namespace", &other.namespace, "service", "pipelock"]);
    let names = object(&["--namespace", "kube-system", "pod", "names"]);
    let gateway = gateway(bottle);
    let mut all: Vec<Attempt> = Vec::new();
    let mut add = |name: &str, kind: &'static str, address: &str, port: u16| {
        all.push((format!("{name}, {kind}"), kind, address.to_owned(), port));
    };
    for (name, address) in [
        ("a public server", "198.51.100.10"),
        ("a public server, IPv6", "2001:db8::10"),
        ("a neighbour of the node", "10.10.0.2"),
        ("a neighbour of the node, IPv6", "fd00:10:10::2"),
        ("the metadata address", "169.254.169.254"),
    ] {
        for (kind, port) in [("tcp", 80), ("udp", 9999), ("icmp", 0)] {
            add(name, kind, address, port);
        }
    }
    add("a public server's TLS", "tcp", "198.51.100.10", 443);
    add("a public resolver", "udp", "198.51.100.10", 53);
    add("a public resolver", "tcp", "198.51.100.10", 53);
    for (name, address) in [
        ("the node", "10.10.0.1"),
        ("the node, IPv6", "fd00:10:10::1"),
        ("the node, IPv6 of the link", &gateway),
    ] {
        add(&format!("the kubelet at {name}"), "tcp", address, 10250);
        add(&format!("the API server at {name}"), "tcp", address, 6443);
        add(name, "icmp", address, 0);
    }
    add("the API server's Service", "tcp", "10.96.0.1", 443);
    add("the cluster's resolver", "dns", "10.96.0.10", 53);
    add("the cluster's resolver", "dns-tcp", "10.96.0.10", 53);
    for address in addresses(&names) {
        add(
            &format!("the resolver's Pod {address}"),
            "dns",
            &address,
            53,
        );
    }
    add(
        "another bottle's Service",
        "tcp",
        &text(&service["spec"]["clusterIP"]),
        8888,
    );
    for address in &other_pipelock {
        add(
            &format!("another bottle's pipelock {address}"),
            "tcp",
            address,
            8888,
        );
        add(
            &format!("another bottle's pipelock {address}"),
            "icmp",
            address,
            0,
        );
    }
    for address in &other_agent {
        add(
            &format!("another bottle's agent {address}"),
            "icmp",
            address,
            0,
        );
    }
    for address in &own {
        add(&format!("pipelock's Pod {address}"), "icmp", address, 0);
    }
    all
}

/// The address that the node's end of the agent's link gives itself, and the agent's name of the link.
fn gateway(bottle: &Bottle) -> String {
    let said = bottle.agent(&["cat", "/sys/class/net/eth0/iflink"]);
    let index = format!("\"ifindex\":{},", both(&said).trim());
    let links = Command::new("ip")
        .args(["-6", "-json", "address"])
        .output()
        .unwrap();
    let links: Value = serde_json::from_slice(&links.stdout).unwrap();
    let link = links
        .as_array()
        .unwrap()
        .iter()
        .find(|link| format!("\"ifindex\":{},", link["ifindex"]) == index);
    let link = link.unwrap_or_else(|| panic!("{index} {links}"));
    let own = &link["addr_info"].as_array().unwrap()[0];
    assert_eq!(own["scope"], "link", "{link}");
    format!("{}%eth0", text(&own["local"]))
}

/// What came of each from the agent's Pod.
fn tried(bottle: &Bottle, attempts: &[Attempt]) -> Vec<(String, String)> {
    let list = serde_json::to_string(attempts).unwrap();
    let said = bottle.agent(&["python3", "-c", ATTEMPTS, &list]);
    let results: Value =
        serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{}", both(&said)));
    attempts
        .iter()
        .map(|(name, ..)| (name.clone(), text(&results[name])))
        .collect()
}

#[test]
fn the_agent_reaches_pipelock_s_port_and_nothing_else_until_the_policies_are_gone() {
    let Some(_turn) = cluster() else { return };
    let bottle = Bottle::start("packets", MANIFEST);
    let other = Bottle::start("neighbour", MANIFEST);
    let attempts = elsewhere(&bottle, &other);

    let results = tried(&bottle, &attempts);
    for (name, result) in &results {
        say(&format!("  {name}: {result}"));
    }
    let through: Vec<_> = results
        .iter()
        .filter(|(_, result)| result.starts_with("answered") || result.starts_with("NOT TRIED"))
        .collect();
    assert!(through.is_empty(), "{through:#?}");
    assert_eq!(bottle.request("https://internet.test/"), 200);
    assert_eq!(bottle.request("https://other.test/"), 403);
    for address in addresses(&bottle.pod("pipelock")) {
        let proxy = vec![("pipelock".to_owned(), "tcp", address, 8888)];
        let [(_, result)] = &tried(&bottle, &proxy)[..] else {
            panic!()
        };
        assert!(result.starts_with("answered"), "{result}");
    }

    // Without the policies the very same attempts arrive: the test can fail.
    for namespace in [&bottle.namespace, &other.namespace] {
        kubectl(&["--namespace", namespace, "delete", "networkpolicy", "--all"]);
    }
    let mut silent = Vec::new();
    let (..) = crate::bottle::wait_for("packets arrive without the policies", || {
        silent = tried(&bottle, &attempts)
            .into_iter()
            // There is no IPv6 in a Pod, with policies or without.
            .filter(|(name, result)| !result.starts_with("answered") && !name.contains("IPv6"))
            .collect();
        say(&format!("  without the policies, still silent: {silent:?}"));
        silent.is_empty().then_some(())
    });
}
