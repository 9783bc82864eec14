//! Whatever families of addresses a machine has: the proxy is ready, and clients reach it where
//! their variables say that it is. With pipelock itself, where one is named.

use std::fs;
use std::process::Command;

use crate::support::{self, Bed, Console, Init, Place, pipelock, skipped};

/// What a machine has, and how one comes to be so: commands in a network namespace of its own,
/// and a system call that its kernel does not have.
struct Families {
    what: &'static str,
    commands: &'static str,
    refused: Option<&'static str>,
    addresses: &'static [&'static str],
}

const V4: &str = "10.0.2.15/24";
const V6: &str = "fd00::2/64";

const MACHINES: [Families; 4] = [
    Families {
        what: "both families",
        commands: "ip address add 10.0.2.15/32 dev lo; ip address add fd00::2/128 dev lo",
        refused: None,
        addresses: &[V4, V6],
    },
    Families {
        what: "IPv6 alone beyond loopback",
        commands: "ip address add fd00::2/128 dev lo",
        refused: None,
        addresses: &[V6],
    },
    Families {
        what: "IPv6 disabled",
        commands: "ip address add 10.0.2.15/32 dev lo; sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
        refused: None,
        addresses: &[V4],
    },
    Families {
        what: "a kernel without IPv6",
        commands: "ip address add 10.0.2.15/32 dev lo",
        refused: Some("refuse:socket6=97"),
        addresses: &[V4],
    },
];

/// As a shell gets it from the file, asked in the namespace of `init`; the status of the answer.
fn ask_as_a_client(init: &Init) -> String {
    let variables = init.bed.path("run/export/client.env");
    let ask = "set -a; . \"$0\"; exec curl -s -o /dev/null -w '%{http_code} by %{remote_ip}' http://no.example/";
    let answer = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", init.pid()))
        .args(["sh", "-ec", ask])
        .arg(variables)
        .output()
        .unwrap();
    String::from_utf8(answer.stdout).unwrap()
}

#[test]
fn clients_reach_the_proxy_whatever_families_a_machine_has() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("families of addresses", "a network namespace needs root");
    }
    let surrounded = support::example("surrounded", "surrounded.rs");
    for machine in MACHINES {
        let listens = [None, Some("0.0.0.0:8888"), Some("[::]:8888")];
        let cases = listens.iter().flat_map(|listen| {
            let addresses = machine.addresses.iter();
            addresses.map(move |address| (listen, address))
        });
        for (listen, address) in cases {
            let what = format!("{}, listen {listen:?}, address {address}", machine.what);
            let bed = Bed::new().with_export();
            pipelock::copy_into(&bed.path(""));
            let listen = listen.map_or_else(String::new, |it| {
                format!("pipelock: {{listen: \"{it}\"}}\n")
            });
            bed.replace_manifest(&format!(
                "slug: bed\nbottle: {{}}\nnetwork: {{address: \"{address}\"}}\n{listen}"
            ));
            let commands = format!("ip link set lo up; {}; exec \"$@\"", machine.commands);
            let mut around = vec!["unshare", "--net", "sh", "-ec", &commands, "sh"];
            if let Some(refused) = machine.refused {
                around.extend([surrounded.to_str().unwrap(), refused, "--"]);
            }
            let mut init = bed.start_under(Place::Child, Console::Read, &around);
            println!("{what}");
            init.wait_ready();
            let answer = ask_as_a_client(&init);
            let own = address.split_once('/').unwrap().0;
            assert_eq!(answer, format!("403 by {own}"), "{what}");
            let (end, _) = init.stop();
            assert_eq!(end.result["port"]["closed"], true, "{what}");
            let _ = fs::remove_dir_all(end.bed.path("run"));
        }
    }
}
