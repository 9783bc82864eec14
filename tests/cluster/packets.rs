//! That nobody goes around pipelock: everything that could be reached is tried with packets, from
//! the agent's Pod and from pipelock's, and what stopped each is read from the counters of the
//! node's packet rules.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::unistd::Pid;
use serde_json::Value;

use crate::bottle::{Bottle, MANIFEST, both, cluster, kubectl, object, say, wait_for};

const ATTEMPTS: &str = include_str!("attempts.py");

/// Name, kind, address, port.
pub type Attempt = (String, &'static str, String, u16);

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

/// The address of a Pod.
pub fn address(pod: &Value) -> String {
    text(&pod["status"]["podIP"])
}

/// Everything that a Pod of `bottle` could reach, but the other Pod's ports; `links` is the
/// process that the Pod's network is of.
pub fn elsewhere(bottle: &Bottle, other: &Bottle, links: Pid) -> Vec<Attempt> {
    let service = object(&["--namespace", &other.namespace, "service", "pipelock"]);
    let names = address(&object(&["--namespace", "kube-system", "pod", "names"]));
    let gateway = gateway(links);
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
    for kind in ["dns", "dns-tcp"] {
        add("the cluster's resolver", kind, "10.96.0.10", 53);
        add("the resolver's Pod", kind, &names, 53);
    }
    let service = text(&service["spec"]["clusterIP"]);
    add("another bottle's Service", "tcp", &service, 8888);
    let [pipelock, agent] = ["pipelock", "agent"].map(|name| address(&other.pod(name)));
    add("another bottle's pipelock", "tcp", &pipelock, 8888);
    add("another bottle's pipelock", "icmp", &pipelock, 0);
    add("another bottle's agent", "icmp", &agent, 0);
    for component in ["pipelock", "agent"] {
        let pod = bottle.pod(component);
        if crate::bottle::is_in(&pod, links) {
            continue;
        }
        let name = format!("the bottle's own {component}'s Pod");
        add(&name, "icmp", &address(&pod), 0);
    }
    all
}

/// The address of IPv6 that the node's end of a Pod's link gives itself, with the Pod's name of the link.
fn gateway(of: Pid) -> String {
    let said = |command: &mut Command| -> Value {
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", both(&output)))
    };
    let own = said(inside(of).args(["ip", "-json", "link", "show", "eth0"]));
    let links = said(Command::new("ip").args(["-6", "-json", "address"]));
    let link = links.as_array().unwrap().iter();
    let link = link
        .clone()
        .find(|link| link["ifindex"] == own[0]["link_index"]);
    let link = link.unwrap_or_else(|| panic!("{own} {links}"));
    let address = &link["addr_info"].as_array().unwrap()[0];
    assert_eq!(address["scope"], "link", "{link}");
    format!("{}%eth0", text(&address["local"]))
}

/// A command on the node, in the network that this process is in.
fn inside(pid: Pid) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net"));
    command
}

/// Whoever tries one attempt after the other.
pub struct Trier {
    running: Child,
    lines: BufReader<ChildStdout>,
}

impl Trier {
    /// In the agent's container.
    pub fn agent(bottle: &Bottle) -> Self {
        let mut command = Command::new("kubectl");
        command.args(["--namespace", &bottle.namespace, "exec", "-i"]);
        command.args(["deployment/agent", "-c", "agent", "--"]);
        Self::begin(command.args(["python3", "-c", ATTEMPTS]))
    }

    /// In the network of the Pod that this process is in; there is no Python in pipelock's.
    pub fn network_of(pid: Pid) -> Self {
        let script = "sysctl -qw net.ipv4.ping_group_range='0 2147483647'; exec python3 -c \"$0\"";
        Self::begin(inside(pid).args(["sh", "-euc", script, ATTEMPTS]))
    }

    fn begin(command: &mut Command) -> Self {
        let mut running = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(running.stdout.take().unwrap());
        Self { running, lines }
    }

    fn tries(&mut self, attempt: &Attempt) -> String {
        let to = self.running.stdin.as_mut().unwrap();
        writeln!(to, "{}", serde_json::to_string(attempt).unwrap()).unwrap();
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it ended at {attempt:?}");
        line.trim_end().to_owned()
    }

    /// What came of it, and the rules that stopped a packet or let one pass meanwhile.
    pub fn counted(&mut self, attempt: &Attempt) -> Tried {
        let mut times = 0;
        loop {
            let before = Rules::count();
            let result = self.tries(attempt);
            let rules = Rules::count().risen_since(&before);
            times += 1;
            let tried = Tried {
                name: attempt.0.clone(),
                result,
                rules,
            };
            // Now and then the rules are written anew, which begin at none.
            if !tried.rules.is_empty() || tried.is_unsent() || times == 3 {
                return tried;
            }
        }
    }
}

impl Drop for Trier {
    fn drop(&mut self) {
        drop(self.running.stdin.take());
        let _ = self.running.wait();
    }
}

/// One attempt, and what the node's packet rules made of it.
#[derive(Debug)]
pub struct Tried {
    pub name: String,
    pub result: String,
    rules: Vec<String>,
}

impl Tried {
    pub fn is_answered(&self) -> bool {
        self.result.starts_with("answered")
    }

    /// No packet left the Pod, for want of an address or a route.
    fn is_unsent(&self) -> bool {
        self.result.contains("Network is unreachable")
            || self.result.contains("Cannot assign requested address")
    }

    /// Whether a rule that rejects packets of this namespace's counted it.
    pub fn is_rejected(&self, namespaces: &[&str]) -> bool {
        self.rules.iter().any(|rule| {
            let of = |namespace: &&str| rule.ends_with(&format!("namespace: {namespace}"));
            rule.starts_with("REJECT: rule to REJECT traffic") && namespaces.iter().any(of)
        })
    }

    /// Whether a rule made of this policy let it pass.
    fn is_passed_by(&self, policy: &str, namespace: &str) -> bool {
        let policies = [
            format!("policy name {policy} namespace {namespace}"),
            format!("policy name: {policy} namespace {namespace}"),
        ];
        self.rules.iter().any(|rule| {
            rule.starts_with("RETURN: ") && policies.iter().any(|policy| rule.ends_with(policy))
        })
    }

    /// A row of a table.
    fn row(&self) -> String {
        let rules = match &self.rules[..] {
            [] if self.is_unsent() => "none: no packet left the Pod".to_owned(),
            rules => rules.join("; "),
        };
        format!("| {} | {} | {rules} |", self.name, self.result)
    }
}

/// What each rule of the node's filter table that ends a packet's way has counted, by its verdict
/// and comment: the names of kube-router's chains change.
struct Rules(BTreeMap<String, u64>);

impl Rules {
    fn count() -> Self {
        let mut all = BTreeMap::new();
        for program in ["iptables-save", "ip6tables-save"] {
            let said = Command::new(program)
                .args(["-c", "-t", "filter"])
                .output()
                .unwrap();
            assert!(said.status.success(), "{}", both(&said));
            for line in String::from_utf8_lossy(&said.stdout).lines() {
                if let Some((rule, packets)) = Self::read(line) {
                    *all.entry(rule).or_default() += packets;
                }
            }
        }
        Self(all)
    }

    /// `[PACKETS:BYTES] -A CHAIN … --comment "…" … -j TARGET …`
    fn read(line: &str) -> Option<(String, u64)> {
        let (packets, rest) = line.strip_prefix('[')?.split_once(':')?;
        let (_, rest) = rest.split_once("] -A ")?;
        let (chain, _) = rest.split_once(' ')?;
        let (_, target) = rest.rsplit_once(" -j ")?;
        let target = target.split(' ').next()?;
        let (_, comment) = rest.split_once("--comment \"")?;
        let (comment, _) = comment.split_once('"')?;
        let passes = target == "RETURN" && chain.starts_with("KUBE-NWPLCY-");
        let ends = passes || matches!(target, "REJECT" | "DROP");
        ends.then(|| (format!("{target}: {comment}"), packets.parse().unwrap()))
    }

    fn risen_since(&self, before: &Self) -> Vec<String> {
        let counted = |rules: &Self, rule: &str| rules.0.get(rule).copied().unwrap_or(0);
        let rules = self.0.keys();
        rules
            .filter(|rule| counted(self, rule) > counted(before, rule))
            .cloned()
            .collect()
    }
}

/// Tries each and prints the table; each is stopped, by a rule of one of these namespaces, but
/// for those that `passes` names, which are answered by the policy named.
pub fn assert_stopped(
    mut from: Trier,
    attempts: &[Attempt],
    namespaces: [&str; 2],
    passes: &dyn Fn(&str) -> Option<&'static str>,
) {
    say("  | what | what came of it | the packet rule that counted it |\n  |---|---|---|");
    let mut wrong = Vec::new();
    for attempt in attempts {
        let tried = from.counted(attempt);
        say(&format!("  {}", tried.row()));
        let is_right = match passes(&tried.name) {
            Some(policy) => tried.is_answered() && tried.is_passed_by(policy, namespaces[0]),
            None if tried.name.contains("IPv6") => tried.is_unsent() && tried.rules.is_empty(),
            None => !tried.is_answered() && tried.is_rejected(&namespaces),
        };
        if !is_right {
            wrong.push(tried);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Without the policies the very same attempts arrive: what stopped them was these.
fn assert_all_answered(mut from: impl FnMut() -> Trier, attempts: &[Attempt]) {
    let mut silent: Vec<&Attempt> = attempts
        .iter()
        // There is no IPv6 in a Pod, with policies or without.
        .filter(|(name, ..)| !name.contains("IPv6"))
        .collect();
    wait_for("packets arrive without the policies", || {
        let mut trier = from();
        silent.retain(|attempt| !trier.tries(attempt).starts_with("answered"));
        if !silent.is_empty() {
            say(&format!("  without the policies, still silent: {silent:?}"));
        }
        silent.is_empty().then_some(())
    });
}

/// What pipelock needs, by the policy that lets it pass.
pub fn needed(name: &str) -> Option<&'static str> {
    let asks = name.contains("resolver") && name.contains("dns");
    let connects = name.starts_with("a public") && name.ends_with("tcp");
    (asks || connects && !name.contains("IPv6")).then_some("pipelock")
}

fn remove_policies(bottles: [&Bottle; 2]) {
    for bottle in bottles {
        let namespace = &bottle.namespace;
        kubectl(&["--namespace", namespace, "delete", "networkpolicy", "--all"]);
    }
}

#[test]
fn the_agent_reaches_pipelock_s_port_and_nothing_else_until_the_policies_are_gone() {
    let Some(_turn) = cluster() else { return };
    let bottle = Bottle::start("packets", MANIFEST);
    let other = Bottle::start("neighbour", MANIFEST);
    let mut attempts = elsewhere(&bottle, &other, bottle.process("agent", "sleep"));
    let own = address(&bottle.pod("pipelock"));
    attempts.push(("pipelock's port".to_owned(), "tcp", own, 8888));

    let namespaces = [&*bottle.namespace, &*other.namespace];
    assert_stopped(Trier::agent(&bottle), &attempts, namespaces, &|name| {
        (name == "pipelock's port").then_some("agent")
    });
    assert_eq!(bottle.request("https://internet.test/"), 200);
    assert_eq!(bottle.request("https://other.test/"), 403);

    remove_policies([&bottle, &other]);
    assert_all_answered(|| Trier::agent(&bottle), &attempts);
}

#[test]
fn pipelock_reaches_the_resolver_and_public_servers_and_nothing_else_of_the_cluster() {
    let Some(_turn) = cluster() else { return };
    let bottle = Bottle::start("inside", MANIFEST);
    let other = Bottle::start("beside", MANIFEST);
    let pipelock = bottle.process("pipelock", "pipelock");
    let attempts = elsewhere(&bottle, &other, pipelock);
    let namespaces = [&*bottle.namespace, &*other.namespace];
    let from = Trier::network_of(pipelock);
    assert_stopped(from, &attempts, namespaces, &needed);
    // What the kubelet asks is asked in the Pod, and the node itself reaches each Pod.
    let pod = bottle.pod("pipelock");
    let probe = &pod["spec"]["containers"][0]["readinessProbe"];
    assert!(probe["exec"].is_object(), "{probe}");
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], true);
    TcpStream::connect((address(&pod), 8888)).unwrap();

    remove_policies([&bottle, &other]);
    assert_all_answered(|| Trier::network_of(pipelock), &attempts);
}
