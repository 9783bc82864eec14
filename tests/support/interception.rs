//! A real daemon that opens TLS, with an HTTPS upstream of the test's own: both in a mount
//! namespace where the upstream's hosts are loopback.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use microvm::ScratchDir;
use serde_json::Value;

use super::{own_address, pipelock};

/// Opened by pipelock, and not.
pub const INTERCEPTED: &str = "upstream.test";
pub const PASSTHROUGH: &str = "api.anthropic.com";
/// Serves `www` with its own certificate, and takes what is sent to it.
const UPSTREAM: &str = r#"
import functools, http.server, ssl, sys
directory, = sys.argv[1:]
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
handler = functools.partial(Handler, directory=directory + "/www")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory + "/leaf.pem", directory + "/leaf.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// Runs a shell in a directory; what it printed.
pub fn shell(directory: &Path, script: &str) -> Vec<u8> {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    output.stdout
}

/// Puts `root.pem`, and `leaf.pem` and `leaf.key` below it for the names, into a directory.
pub fn certify(directory: &Path, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
    shell(
        directory,
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=upstream-root \
               -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout root.key -out root.pem
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=upstream -keyout leaf.key -out leaf.csr
             printf 'subjectAltName={}\\nauthorityKeyIdentifier=keyid\\nkeyUsage=digitalSignature\\nextendedKeyUsage=serverAuth\\n' > leaf.ext
             openssl x509 -req -in leaf.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile leaf.ext -out leaf.pem",
            names.join(",")
        ),
    );
}

/// A process that ends with its owner.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // unshare ignores SIGTERM; its end brings its child one.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `sh -c script` in a mount namespace of its own; `$1` and on are `arguments`.
pub fn in_namespace(script: &str, arguments: &[&Path]) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("-Ur");
    }
    command
        .args([
            "--mount",
            "--kill-child=SIGTERM",
            "sh",
            "-euc",
            script,
            "sh",
        ])
        .args(arguments);
    command
}

/// The init, the daemon, and the upstream that both hosts are.
pub struct Bed {
    pub scratch: ScratchDir,
    /// The upstream's.
    pub port: u16,
    /// All ports it says it has, that one first.
    pub ports: Vec<u16>,
    /// The proxy's, on port 8888: one of 127/8 that no other bed has.
    pub address: String,
    _upstream: Running,
    _init: Running,
}

impl Bed {
    pub fn start() -> Self {
        Self::serving(UPSTREAM, &[], "requests_per_minute: 600")
    }

    /// With this upstream (Python, given the directory of its certificate, which prints its
    /// ports), these routes more, each with the address of its name where it has one, and
    /// this below `pipelock` in the manifest.
    pub fn serving(upstream: &str, routes: &[(&str, &str)], pipelock: &str) -> Self {
        let scratch = ScratchDir::new().unwrap();
        let directory = scratch.path();
        certify(directory, &[INTERCEPTED, PASSTHROUGH]);
        shell(
            directory,
            &format!(
                "mkdir -p trust run/export www
                 cp root.pem trust/
                 echo the page > www/page
                 printf '127.0.0.1 localhost {INTERCEPTED} {PASSTHROUGH}\\n' > hosts"
            ),
        );
        let mut hosts = fs::read_to_string(directory.join("hosts")).unwrap();
        let mut allowed = format!("{{host: {INTERCEPTED}}}, {{host: {PASSTHROUGH}}}");
        for (host, address) in routes {
            allowed += &format!(", {{host: \"{host}\"}}");
            if !address.is_empty() {
                hosts += &format!("{address} {host}\n");
            }
        }
        fs::write(directory.join("hosts"), hosts).unwrap();
        let mut upstream = Command::new("python3")
            .args(["-c", upstream])
            .arg(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(upstream.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let upstream = Running(upstream);
        let ports: Vec<u16> = line
            .split_whitespace()
            .map(|port| port.parse().unwrap())
            .collect();
        let address = own_address().to_string();
        fs::write(
            directory.join("manifest.yaml"),
            format!(
                "version: 1\nslug: clients\nbottle: {{egress: {{routes: [{allowed}]}}}}\n\
                 network: {{internal_cidr: 127.0.0.0/8}}\npipelock: {{listen: \"{address}:8888\", {pipelock}}}\n"
            ),
        )
        .unwrap();
        pipelock::copy_into(directory);
        let log = fs::File::create(directory.join("log")).unwrap();
        let mut init = in_namespace(
            "mount --bind \"$1/hosts\" /etc/hosts; cd \"$1\"; exec \"$2\" run --manifest manifest.yaml \
             --daemon \"$3\" --run-dir run --cert run/ca.pem --key run/ca.key",
            &[
                directory,
                Path::new(env!("CARGO_BIN_EXE_sidecar-init")),
                &directory.join("pipelock"),
            ],
        );
        let init = Running(
            init.stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let status = fs::read(directory.join("run/export/status.json")).unwrap_or_default();
            let status: Value = serde_json::from_slice(&status).unwrap_or_default();
            if status["state"] == "ready" {
                break;
            }
            let log = fs::read_to_string(directory.join("log")).unwrap();
            assert!(Instant::now() < end, "never ready: {status}\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self {
            scratch,
            address,
            port: ports[0],
            ports,
            _upstream: upstream,
            _init: init,
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap()
    }
}
