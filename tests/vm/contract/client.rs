//! The clients: curl, OpenSSL's `s_client` and Python's `ssl` in strict mode.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A curl command line in the making.
pub struct Curl(Command);

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    /// The proxy's answer to CONNECT; 0 where there was none.
    pub connect_status: u64,
    /// The answer through the tunnel, or to a plain request; 0 where there was none.
    pub status: u64,
    /// `1.1` or `2`.
    pub version: String,
    pub body: Vec<u8>,
    /// curl's exit code.
    pub exit: u64,
    pub error: String,
}

impl Answer {
    fn new(report: &Value, body: Vec<u8>) -> Self {
        let number = |key: &str| report[key].as_u64().unwrap();
        Self {
            connect_status: number("http_connect"),
            status: number("http_code"),
            version: report["http_version"].as_str().unwrap().to_owned(),
            body,
            exit: number("exitcode"),
            error: report["errormsg"].to_string(),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }

    /// That it is 200 with this body.
    pub fn assert_ok(&self, body: &str) {
        assert_eq!((self.status, self.text().as_str()), (200, body), "{self:?}");
    }

    /// That it is a refusal with these words.
    pub fn assert_refused(&self, words: &str) {
        assert_eq!(
            (self.status, self.text().as_str()),
            (403, words),
            "{self:?}"
        );
    }
}

impl Curl {
    /// Without a proxy.
    pub fn direct() -> Self {
        let mut command = Command::new("curl");
        // The report as JSON, one line a transfer, apart from the bodies.
        command
            .args([
                "--disable",
                "--silent",
                "--no-progress-meter",
                "--max-time",
                "120",
            ])
            .args(["--write-out", "%{stderr}%{json}\\n"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        Self(command)
    }

    pub fn through(proxy: SocketAddr) -> Self {
        Self::direct()
            .arg("--proxy")
            .arg(&format!("http://{proxy}"))
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.0.arg(argument);
        self
    }

    pub fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.0.args(arguments);
        self
    }

    /// Trust the roots in this file, and no others.
    pub fn trust(self, roots: &Path) -> Self {
        self.args(["--cacert", roots.to_str().unwrap(), "--capath", "/dev/null"])
    }

    pub fn header(self, header: &str) -> Self {
        self.args(["--header", header])
    }

    pub fn get(self, url: &str) -> Answer {
        self.finish(url, None)
    }

    /// POST, as a form's bytes but without a form's type.
    pub fn post(self, url: &str, body: &[u8]) -> Answer {
        self.header("Content-Type: text/plain")
            .header("Expect:")
            .args(["--data-binary", "@-"])
            .finish(url, Some(body))
    }

    fn finish(self, url: &str, input: Option<&[u8]>) -> Answer {
        let output = self.output(url, input);
        let report = String::from_utf8(output.stderr).unwrap();
        let report = serde_json::from_str(&report).unwrap_or_else(|_| panic!("{report}"));
        Answer::new(&report, output.stdout)
    }

    /// Several transfers by curl's own globbing of the URL; their reports, bodies thrown away.
    pub fn get_all(self, url: &str) -> Vec<Answer> {
        let output = self.args(["--output", "/dev/null"]).output(url, None);
        let reports = String::from_utf8(output.stderr).unwrap();
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        let reports = reports.lines().map(parse);
        reports
            .map(|r: Value| Answer::new(&r, Vec::new()))
            .collect()
    }

    fn output(mut self, url: &str, input: Option<&[u8]>) -> Output {
        self.0.arg(url);
        output(self.0, input.unwrap_or_default())
    }

    /// The SHA-256 of the body, by coreutils, for bodies that fill no memory.
    pub fn get_sha256(mut self, url: &str) -> String {
        let curl = self.0.arg(url).stdout(Stdio::piped());
        let mut curl = curl.stderr(Stdio::null()).spawn().unwrap();
        let hash = Command::new("sha256sum")
            .stdin(curl.stdout.take().unwrap())
            .output()
            .unwrap();
        assert!(curl.wait().unwrap().success());
        String::from_utf8(hash.stdout).unwrap()[..64].to_owned()
    }

    /// Starts, for a test that ends it before it is done.
    pub fn start(mut self, url: &str) -> Child {
        let command = self.0.arg("--no-buffer").arg(url);
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::null());
        piped.spawn().unwrap()
    }
}

/// Runs a command with a text for its standard input.
fn output(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // A client that is refused early does not read on.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// What a TLS server behind the proxy shows, as `s_client` prints it: certificate,
/// issuer, and whether `roots` verify it by RFC 5280's letter.
pub fn s_client(proxy: SocketAddr, host: &str, port: u16, roots: &Path) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-x509_strict", "-no-CApath", "-no-CAstore"])
        .args(["-proxy", &proxy.to_string()])
        .args(["-connect", &format!("{host}:{port}")])
        .args(["-servername", host, "-verify_hostname", host])
        .arg("-CAfile")
        .arg(roots);
    let printed = output(command, b"");
    format!(
        "{}{}",
        String::from_utf8_lossy(&printed.stdout),
        String::from_utf8_lossy(&printed.stderr)
    )
}

/// A certificate, from the first PEM block of a text, as `openssl x509 -text` prints it.
pub fn describe_certificate(pem: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-text"]);
    let printed = output(command, pem.as_bytes());
    assert!(printed.status.success(), "{pem}");
    String::from_utf8(printed.stdout).unwrap()
}

/// GETs a URL with Python's `ssl`, told to hold certificates to RFC 5280; the status and body.
pub fn python_get_strictly(proxy: SocketAddr, url: &str, roots: &Path) -> String {
    const SCRIPT: &str = "
import http.client, ssl, sys, urllib.parse
proxy, url, roots = sys.argv[1:]
context = ssl.create_default_context(cafile=roots)
context.verify_flags |= ssl.VERIFY_X509_STRICT
url = urllib.parse.urlsplit(url)
client = http.client.HTTPSConnection(proxy, context=context, timeout=60)
client.set_tunnel(url.hostname, url.port)
client.request('GET', url.path)
answer = client.getresponse()
print(answer.status, answer.read().decode())
";
    let mut command = Command::new("python3");
    command
        .args(["-I", "-c", SCRIPT, &proxy.to_string(), url])
        .arg(roots);
    let printed = output(command, b"");
    let said = String::from_utf8_lossy(&printed.stdout).trim().to_owned();
    assert!(
        printed.status.success(),
        "{said} {}",
        String::from_utf8_lossy(&printed.stderr)
    );
    said
}
