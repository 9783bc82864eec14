//! An agent's work through a machine, on the manifest that the image's example is: npm, pip and
//! git with nothing but `client.env`, at sizes that people have.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use microvm::{
    BOOT_DEADLINE, Bundle, HOST_ADDRESS, Machine, RESOLVER_ADDRESS, ScratchDir, wait_for_status,
};

use crate::support::interception::{certify, in_namespace, shell};
use crate::support::servers::Servers;
use crate::support::tools::{is_here, path};

/// The resolver that the example names is the internet's, which no test has.
const EXAMPLES_RESOLVER: &str = "10.0.2.3";

/// A client, its host in the manifest, how it is asked whether it is here, and what it does;
/// `$U` is that host with the port on which the servers listen here.
const CLIENTS: [(&str, &str, &str, &str); 3] = [
    (
        "npm",
        "registry.npmjs.org",
        "npm --version",
        "npm install --registry https://$U/ heavy && same $SUM_npm node_modules/heavy/data",
    ),
    (
        "pip",
        "pypi.org",
        "python3 -m pip --version",
        "python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target place \
           --index-url https://$U/simple heavy && same $SUM_wheel place/heavy/data",
    ),
    (
        "git",
        "github.com",
        "git --version",
        "git clone -q https://$U/git/heavy.git work && cat work/?? > all && same $SUM_repository all",
    ),
];

/// The image's example, with a resolver that knows its hosts.
fn manifest() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/image/example/manifest.yaml");
    let example = fs::read_to_string(path).unwrap();
    assert!(example.contains(EXAMPLES_RESOLVER), "{example}");
    example.replace(EXAMPLES_RESOLVER, RESOLVER_ADDRESS)
}

/// Runs `script` as an agent beside the machine would, whose proxy is the forwarded port.
pub(crate) fn client(
    scratch: &ScratchDir,
    servers: &Servers,
    proxy: SocketAddr,
    host: &str,
    script: &str,
) -> (bool, String) {
    let mut preparation = "mount -t tmpfs none /run; mkdir /run/sidecar-export
        mount --bind \"$1/export\" /run/sidecar-export; cd \"$2\"
        set -a; . /run/sidecar-export/client.env; set +a
        same() { printf '%s  %s\\n' \"$1\" \"$2\" | sha256sum --check --quiet; }\n"
        .to_owned();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        writeln!(preparation, "export {name}=http://{proxy}").unwrap();
    }
    let home = ScratchDir::new().unwrap();
    let output = in_namespace(
        &format!("{preparation}{script}"),
        &[scratch.path(), home.path()],
    )
    .env_clear()
    .envs(servers.sums.iter().cloned())
    .env("PATH", path())
    .env("HOME", home.path())
    .env("U", format!("{host}:{}", servers.https))
    .output()
    .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn an_install_and_a_clone_get_through_the_machine_of_the_example() {
    let scratch = ScratchDir::new().unwrap();
    shell(scratch.path(), "mkdir -p manifest/trust export");
    let hosts: Vec<&str> = CLIENTS.iter().map(|(_, host, ..)| *host).collect();
    certify(scratch.path(), &hosts);
    shell(scratch.path(), "cp root.pem manifest/trust/");
    fs::write(scratch.join("manifest/manifest.yaml"), manifest()).unwrap();
    let servers = Servers::start(
        Command::new("env"),
        "exec python3 \"$2\" \"$1\" 0 0",
        scratch.path(),
    );

    let upstream = HOST_ADDRESS.parse().unwrap();
    let running = Machine::builder(&Bundle::from_target().unwrap())
        .no_ip_argument()
        .export_dir(scratch.join("export"))
        .manifest_dir(scratch.join("manifest"))
        .resolver(hosts.iter().map(|host| (*host, upstream)))
        .forward(8888)
        .boot()
        .unwrap();
    let status = wait_for_status(
        &scratch.join("export"),
        |status| status["state"] == "ready" || status["exit_code"].is_number(),
        BOOT_DEADLINE,
    )
    .unwrap();
    assert_eq!(status["state"], "ready", "{status}\n{}", running.console());
    let proxy = running.forwarded(8888).unwrap();
    for (name, host, probe, script) in CLIENTS {
        // Not eprintln: the harness hides that of a test that passes.
        let say = |line: String| drop(writeln!(std::io::stderr(), "{line}"));
        if !is_here(probe) {
            say(format!(
                "NOT CHECKED: {name} through the machine: it is not here"
            ));
            continue;
        }
        let began = Instant::now();
        let (works, said) = client(&scratch, &servers, proxy, host, script);
        assert!(works, "{name}: {said}\n{}", running.console());
        say(format!(
            "{name} through the machine: {:.1} s",
            began.elapsed().as_secs_f64()
        ));
    }
}
