//! pipelock behind another proxy that opens TLS itself: agent, mitmproxy, the real binary
//! with a real daemon (`PIPELOCK_BIN`, else the stand-in), an HTTPS upstream.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use microvm::ScratchDir;
use serde_json::Value;

use crate::support::interception::{Bed, INTERCEPTED, PASSTHROUGH, Running};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 8889;
/// Writes a line for each answer on the upstream leg: the host, the status, and who signed
/// the certificate there; or the host and why there was none.
const WITNESS: &str = r#"
import os
def say(*words):
    with open(os.environ["SEEN"], "a") as seen:
        print(*words, file=seen)
def response(flow):
    chain = flow.server_conn.certificate_list
    say(flow.request.host, flow.response.status_code, dict(chain[0].issuer)["CN"] if chain else "plain")
def error(flow):
    say(flow.request.host, flow.error.msg)
"#;

/// mitmproxy as the hop between an agent and pipelock.
struct Egress {
    _mitmdump: Running,
    bed: Bed,
    scratch: ScratchDir,
}

impl Egress {
    /// With what the export has for clients to trust, or not; nothing where mitmproxy is
    /// not here.
    fn start(trusting: bool) -> Option<Self> {
        let bed = Bed::start();
        let scratch = ScratchDir::new().unwrap();
        fs::write(scratch.join("witness.py"), WITNESS).unwrap();
        fs::write(scratch.join("seen"), "").unwrap();
        let bundle = bed.scratch.join("run/export/ca-bundle.pem");
        let trust = format!("ssl_verify_upstream_trusted_ca={}", bundle.display());
        let trust: &[&str] = if trusting { &["--set", &trust] } else { &[] };
        let log = fs::File::create(scratch.join("log")).unwrap();
        let mitmdump = Command::new("mitmdump")
            .arg("--mode")
            .arg(format!("upstream:http://{}:8888", bed.address))
            .arg("--listen-host")
            .arg(&bed.address)
            .arg("--listen-port")
            .arg(PORT.to_string())
            .arg("--set")
            .arg(format!("confdir={}", scratch.path().display()))
            .arg("--scripts")
            .arg(scratch.join("witness.py"))
            .args(trust)
            .env("SEEN", scratch.join("seen"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let mut mitmdump = match mitmdump {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Not eprintln: the harness hides that of a test that passes.
                let _ = writeln!(
                    std::io::stderr(),
                    "NOT CHECKED: behind an egress proxy: mitmdump is not here"
                );
                return None;
            }
            spawned => Running(spawned.unwrap()),
        };
        let said = || fs::read_to_string(scratch.join("log")).unwrap();
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((bed.address.as_str(), PORT)).is_err() {
            let ended = mitmdump.0.try_wait().unwrap();
            assert!(ended.is_none(), "mitmdump ended: {ended:?}\n{}", said());
            assert!(Instant::now() < end, "mitmdump is late:\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self {
            _mitmdump: mitmdump,
            bed,
            scratch,
        })
    }

    /// What an agent that knows mitmproxy and its CA alone is answered: the status, and all
    /// that curl has to say, which is also who signed the certificate it was shown.
    fn ask(&self, url: &str, arguments: &[&str]) -> (String, String) {
        let proxy = format!("http://{}:{PORT}", self.bed.address);
        let output = Command::new("curl")
            .args(["-sSv", "--max-time", "60", "--proxy", &proxy, "--cacert"])
            .arg(self.scratch.join("mitmproxy-ca-cert.pem"))
            .args(["--write-out", "\n%{http_code}"])
            .args(arguments)
            .arg(url)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .output()
            .unwrap();
        let answer = String::from_utf8_lossy(&output.stdout);
        let (body, status) = answer.rsplit_once('\n').unwrap();
        let said = format!("{}{body}", String::from_utf8_lossy(&output.stderr));
        (status.to_owned(), said)
    }

    /// The page at `host` over TLS, with `body` sent there if it is not empty.
    fn page(&self, host: &str, body: &str) -> (String, String) {
        let sent = ["--data-binary", body];
        let arguments: &[&str] = if body.is_empty() { &[] } else { &sent };
        self.ask(&format!("https://{host}:{}/page", self.bed.port), arguments)
    }

    /// The last the witness wrote, once it is `expected`.
    fn saw(&self, expected: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = fs::read_to_string(self.scratch.join("seen")).unwrap();
            if seen.lines().last() == Some(expected) {
                return;
            }
            assert!(Instant::now() < end, "{expected}: {seen}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// For a failure's message.
    fn logs(&self) -> String {
        let mitmproxy = fs::read_to_string(self.scratch.join("log")).unwrap();
        format!("mitmproxy:\n{mitmproxy}\ninit:\n{}", self.bed.log())
    }
}

/// curl's words for who signed the certificate it was shown.
const BY_MITMPROXY: &str = "issuer: CN=mitmproxy; O=mitmproxy";

#[test]
fn an_egress_proxy_that_trusts_the_export_passes_what_is_allowed_and_every_refusal() {
    let Some(egress) = Egress::start(true) else {
        return;
    };
    let (status, said) = egress.page(INTERCEPTED, "");
    assert_eq!(status, "200", "{said}\n{}", egress.logs());
    assert!(said.contains(BY_MITMPROXY), "{said}");
    assert!(said.ends_with("the page\n"), "{said}");
    egress.saw(&format!("{INTERCEPTED} 200 Pipelock CA"));
    // The bundle is good for hosts that pipelock does not open, too.
    let (status, said) = egress.page(PASSTHROUGH, "");
    assert_eq!(status, "200", "{said}\n{}", egress.logs());
    assert!(said.contains(BY_MITMPROXY), "{said}");
    egress.saw(&format!("{PASSTHROUGH} 200 upstream-root"));

    let (status, said) = egress.page(INTERCEPTED, "key=nothing");
    assert_eq!(status, "200", "{said}\n{}", egress.logs());
    egress.saw(&format!("{INTERCEPTED} 200 Pipelock CA"));
    let (status, said) = egress.page(INTERCEPTED, "key=AKIAIOSFODNN7EXAMPLE");
    assert_eq!(status, "403", "{said}\n{}", egress.logs());
    assert!(said.contains("AWS Access ID"), "{said}");
    egress.saw(&format!("{INTERCEPTED} 403 Pipelock CA"));

    let (status, said) = egress.ask("http://elsewhere.test/", &[]);
    assert_eq!(status, "403", "{said}\n{}", egress.logs());
    assert!(said.contains("domain not in allowlist"), "{said}");
    egress.saw("elsewhere.test 403 plain");
    // Over TLS the refusal is of mitmproxy's CONNECT, which it reports in its own way.
    let (status, said) = egress.page("elsewhere.test", "");
    let refusal = format!(
        "Upstream proxy {}:8888 refused HTTP CONNECT request: 403 Forbidden",
        egress.bed.address
    );
    assert_eq!(status, "502", "{said}\n{}", egress.logs());
    assert!(said.contains(&refusal), "{said}");
    egress.saw(&format!("elsewhere.test {refusal}"));
}

#[test]
fn an_egress_proxy_that_does_not_trust_the_ca_refuses_what_pipelock_opens() {
    let Some(egress) = Egress::start(false) else {
        return;
    };
    let (status, said) = egress.page(INTERCEPTED, "");
    assert_eq!(status, "502", "{said}\n{}", egress.logs());
    assert!(said.contains("Certificate verify failed"), "{said}");
    egress.saw(&format!(
        "{INTERCEPTED} Certificate verify failed: unable to get local issuer certificate"
    ));
    let (status, said) = egress.ask("http://elsewhere.test/", &[]);
    assert_eq!(status, "403", "{said}\n{}", egress.logs());
    // The operator is told of it.
    let end = Instant::now() + PATIENCE;
    loop {
        let path = egress.bed.scratch.join("run/export/denials.json");
        let denials: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let denials = denials["denials"].as_array().unwrap();
        if denials.iter().any(|denial| {
            denial["host"] == INTERCEPTED && denial["reason"] == "the TLS handshake failed"
        }) {
            break;
        }
        assert!(Instant::now() < end, "{denials:?}\n{}", egress.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
