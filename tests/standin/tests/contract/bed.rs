//! A test's bed: certificates, a configuration, the daemon, upstreams, clients.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hudsucker::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use hudsucker::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("PIPELOCK_BIN").map_or_else(standin, PathBuf::from)
}

/// The stand-in, whatever is under test.
pub fn standin() -> PathBuf {
    env!("CARGO_BIN_EXE_pipelock").into()
}

/// Whether the stand-in is what is tested.
pub fn tests_standin() -> bool {
    std::env::var_os("PIPELOCK_BIN").is_none()
}

/// Waits until `found` finds something; panics after ten seconds.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(it) = found() {
            return it;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A CA and its key.
pub struct Ca {
    pub pem: String,
    pub key: KeyPair,
    pub params: CertificateParams,
}

impl Ca {
    pub fn new(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self::from_params(params, key)
    }

    pub fn from_params(params: CertificateParams, key: KeyPair) -> Self {
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, key, params }
    }

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from(pem::parse(&self.pem).unwrap().into_contents())
    }

    /// The key as SEC1 with its curve: the only form pipelock reads.
    pub fn sec1(&self) -> String {
        sec1_pem(&self.key)
    }

    fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![leaf.der().clone()];
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, private);
        Arc::new(config.unwrap())
    }
}

/// Rewrites a PKCS#8 key as SEC1 with named curve.
pub fn sec1_pem(key: &KeyPair) -> String {
    let mut child = Command::new("openssl")
        .args(["ec", "-inform", "PEM", "-outform", "PEM"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need openssl to write SEC1 keys");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(key.serialize_pem().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let pem = String::from_utf8(output.stdout).unwrap();
    assert!(
        pem.contains("BEGIN EC PRIVATE KEY"),
        "openssl wrote no SEC1 key: {pem}"
    );
    pem
}

/// What a rendered configuration says, with what a test changes.
pub struct Rendered {
    pub allow: Vec<String>,
    pub passthrough: Vec<String>,
    pub ssrf: Vec<String>,
    pub seed_phrase: bool,
    pub tls: bool,
    pub forward: bool,
    pub forward_more: String,
    pub more: String,
}

impl Default for Rendered {
    fn default() -> Self {
        let list = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect();
        Self {
            allow: list(&["localhost", "127.0.0.1", "api.anthropic.com"]),
            passthrough: list(&["api.anthropic.com"]),
            ssrf: list(&["127.0.0.0/8", "::1/128"]),
            seed_phrase: true,
            tls: true,
            forward: true,
            forward_more: String::new(),
            more: String::new(),
        }
    }
}

/// Files of one test, gone with it.
pub struct Bed {
    pub dir: TempDir,
    pub ca: Ca,
    pub upstream: Ca,
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let ca = Ca::new("Pipelock CA", &rcgen::PKCS_ECDSA_P256_SHA256);
        let upstream = Ca::new("Upstream CA", &rcgen::PKCS_ECDSA_P256_SHA256);
        let bed = Self { dir, ca, upstream };
        bed.write("ca.pem", &bed.ca.pem, 0o644);
        bed.write("ca-key.pem", &bed.ca.sec1(), 0o600);
        bed.write("upstream.pem", &bed.upstream.pem, 0o644);
        bed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Replaces the configuration as an init does: whole, by rename.
    pub fn install(&self, text: &str) {
        let temporary = self.path(".pipelock.yaml.new");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.path("pipelock.yaml")).unwrap();
    }

    pub fn render(&self, r: &Rendered) -> String {
        let mut text = "version: 1\nmode: strict\nenforce: true\n\napi_allowlist:\n".to_owned();
        let item = |text: &mut String, indent: &str, what: &str| {
            writeln!(text, "{indent}- \"{what}\"").unwrap();
        };
        r.allow.iter().for_each(|host| item(&mut text, "  ", host));
        if !r.seed_phrase {
            text += "\nseed_phrase_detection:\n  enabled: false\n";
        }
        writeln!(
            text,
            "\nforward_proxy:\n  enabled: {}\n{}",
            r.forward, r.forward_more
        )
        .unwrap();
        text += "dlp:\n  include_defaults: true\n  scan_env: true\n\nrequest_body_scanning:\n";
        text += "  action: \"block\"\n  scan_headers: true\n  header_mode: \"all\"\n";
        let path = |name| self.path(name).display().to_string();
        let (cert, key) = (path("ca.pem"), path("ca-key.pem"));
        writeln!(
            text,
            "\ntls_interception:\n  enabled: {}\n  ca_cert: \"{cert}\"\n  ca_key: \"{key}\"",
            r.tls
        )
        .unwrap();
        if !r.passthrough.is_empty() {
            text += "  passthrough_domains:\n";
            r.passthrough
                .iter()
                .for_each(|host| item(&mut text, "    ", host));
        }
        if !r.ssrf.is_empty() {
            text += "\nssrf:\n  ip_allowlist:\n";
            r.ssrf
                .iter()
                .for_each(|range| item(&mut text, "    ", range));
        }
        text + &r.more
    }

    /// Starts the daemon with a rendered configuration and waits until it is healthy.
    pub fn start(&self, rendered: &Rendered) -> Daemon {
        self.install(&self.render(rendered));
        let daemon = self.spawn();
        daemon.wait_until_healthy();
        daemon
    }

    /// Starts the daemon with the configuration that is there.
    pub fn spawn(&self) -> Daemon {
        Daemon::spawn(self.command(&binary()), free_port())
    }

    /// `run` with the bed's configuration, but for `--listen`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir("/");
        command.env("SSL_CERT_FILE", self.path("upstream.pem"));
        command
            .arg("run")
            .arg("--config")
            .arg(self.path("pipelock.yaml"));
        command
    }

    /// Runs a configuration that is expected to be refused.
    pub fn refused(&self, text: &str) -> Output {
        self.install(text);
        let listen = format!("127.0.0.1:{}", free_port());
        let child = self
            .command(&binary())
            .args(["--listen", &listen])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.wait_with_output_within(PATIENCE)
    }
}

trait WaitWithin {
    fn wait_with_output_within(self, limit: Duration) -> Output;
}

impl WaitWithin for Child {
    fn wait_with_output_within(mut self, limit: Duration) -> Output {
        let until = Instant::now() + limit;
        while self.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                self.kill().unwrap();
                let output = self.wait_with_output().unwrap();
                panic!("still runs: {}", String::from_utf8_lossy(&output.stderr));
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.wait_with_output().unwrap()
    }
}

/// The last line of what a refused start said.
pub fn last_words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr)
        .trim_end()
        .to_owned()
}

/// A port nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The SHA-256 of a text, as `config_hash` has it.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

type Lines = Arc<Mutex<Vec<String>>>;

/// A running daemon; killed when dropped.
pub struct Daemon {
    pub child: Child,
    pub port: u16,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Daemon {
    pub fn spawn(mut command: Command, port: u16) -> Self {
        command.arg("--listen").arg(format!("127.0.0.1:{port}"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Self {
            child,
            port,
            stdout,
            stderr,
        }
    }

    pub fn wait_until_healthy(&self) {
        wait_for("/health", || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            stream
                .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the daemon's end", || self.child.try_wait().unwrap())
    }

    pub fn events(&self) -> Vec<Value> {
        let lines = self.stdout.lock().unwrap();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for an event of a kind that fits.
    pub fn event(&self, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("event {kind}"), || {
            self.events()
                .into_iter()
                .find(|e| e["event"] == kind && fits(e))
        })
    }

    pub fn count(&self, kind: &str) -> usize {
        self.events().iter().filter(|e| e["event"] == kind).count()
    }

    /// Waits for a line on stderr.
    pub fn says(&self, words: &str) -> String {
        wait_for(words, || {
            let lines = self.stderr.lock().unwrap();
            lines.iter().find(|l| l.contains(words)).cloned()
        })
    }

    pub fn connection(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request as it is and reads the answer to its end.
    pub fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connection();
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(&mut BufReader::new(stream))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
    }

    pub fn health(&self) -> Value {
        serde_json::from_str(&self.get("/health").body).unwrap()
    }

    /// A plain request through the proxy.
    pub fn forward(&self, url: &str, headers: &str, body: &str) -> Answer {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let host = url.split('/').nth(2).unwrap();
        let length = body.len();
        self.ask(&format!(
            "{method} {url} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        ))
    }

    /// Asks for a tunnel; the answer, and the tunnel if it was granted.
    pub fn connect(&self, target: &str, headers: &str) -> (Answer, Option<TcpStream>) {
        let mut stream = self.connection();
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        // Byte by byte: what follows the head belongs to the tunnel.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                other => panic!("no answer to CONNECT {target}: {other:?} after {head:?}"),
            }
        }
        let head = String::from_utf8(head).unwrap();
        if head.starts_with("HTTP/1.1 200") {
            return (
                Answer {
                    head,
                    body: String::new(),
                },
                Some(stream),
            );
        }
        let answer = Answer::after_head(head, &mut BufReader::new(stream));
        (answer, None)
    }

    /// Opens TLS through a tunnel.
    pub fn tls(&self, host: &str, port: u16, trust: &Ca) -> io::Result<TlsStream> {
        self.tls_as(host, host, port, trust, &[])
    }

    pub fn tls_as(
        &self,
        host: &str,
        sni: &str,
        port: u16,
        trust: &Ca,
        alpn: &[&str],
    ) -> io::Result<TlsStream> {
        let (answer, tunnel) = self.connect(&format!("{host}:{port}"), "");
        let tunnel = tunnel.unwrap_or_else(|| panic!("no tunnel to {host}: {answer:?}"));
        handshake(tunnel, sni, trust, alpn)
    }

    /// A request in an intercepted tunnel of its own.
    pub fn secure(&self, bed: &Bed, port: u16, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.tls("localhost", port, &bed.ca).unwrap();
        let method = if body.is_empty() { "GET" } else { "POST" };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(&mut BufReader::new(stream))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("stdout: {:#?}", self.stdout.lock().unwrap());
            eprintln!("stderr: {:#?}", self.stderr.lock().unwrap());
        }
    }
}

fn collect(from: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let into = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            into.lock()
                .unwrap()
                .push(String::from_utf8_lossy(&line).into_owned());
        }
    });
    lines
}

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Opens TLS over a stream, trusting one CA.
pub fn handshake(
    mut tcp: TcpStream,
    sni: &str,
    trust: &Ca,
    alpn: &[&str],
) -> io::Result<TlsStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trust.der()).unwrap();
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    while client.is_handshaking() {
        client.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(client, tcp))
}

/// An answer, read as far as its length says or the connection lasts.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn read(from: &mut impl BufRead) -> Self {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(
                from.read_line(&mut head).unwrap() > 0,
                "cut off after {head:?}"
            );
        }
        Self::after_head(head, from)
    }

    fn after_head(head: String, from: &mut impl BufRead) -> Self {
        let mut body = Vec::new();
        let lower = head.to_lowercase();
        let length = lower
            .lines()
            .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
        let read = match length {
            Some(length) => from.take(length).read_to_end(&mut body),
            None => from.read_to_end(&mut body),
        };
        // A peer that closes TLS without saying so has still said all before it.
        if let Err(e) = read {
            assert!(e.kind() == io::ErrorKind::UnexpectedEof, "{e}");
        }
        Self {
            head,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub fn status(&self) -> u16 {
        self.head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|l| l.split_once(": "));
        lines
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Asserts a refusal in exactly these words.
    #[track_caller]
    pub fn refuses(&self, status: u16, words: &str) {
        assert_eq!(
            (self.status(), self.body.as_str()),
            (status, format!("{words}\n").as_str())
        );
        assert_eq!(
            self.header("Content-Type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(self.header("X-Content-Type-Options"), Some("nosniff"));
    }
}

/// An upstream that answers every request with what it received.
pub struct Echo {
    pub port: u16,
}

impl Echo {
    pub fn plain() -> Self {
        Self::serve(|stream| answer_one(BufReader::new(stream)))
    }

    pub fn tls(ca: &Ca) -> Self {
        let config = ca.server(&["localhost", "127.0.0.1", "api.anthropic.com"]);
        Self::serve(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            answer_one(BufReader::new(StreamOwned::new(connection, stream)));
        })
    }

    /// Answers every request with these bytes, over TLS where there is a CA.
    pub fn saying(ca: Option<&Ca>, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let config = ca.map(|ca| ca.server(&["localhost", "127.0.0.1"]));
        Self::serve(move |stream| match &config {
            None => say(BufReader::new(stream), &answer),
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                say(
                    BufReader::new(StreamOwned::new(connection, stream)),
                    &answer,
                );
            }
        })
    }

    /// Sends back every byte until the client is done.
    pub fn raw() -> Self {
        Self::serve(|mut stream| {
            let mut writer = stream.try_clone().unwrap();
            let _ = io::copy(&mut stream, &mut writer);
        })
    }

    pub fn serve(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().map(|a: SocketAddr| a.port()).unwrap();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answer = Arc::clone(&answer);
                thread::spawn(move || answer(stream));
            }
        });
        Self { port }
    }
}

fn say<S: Read + Write>(mut stream: BufReader<S>, answer: &[u8]) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match stream.read_line(&mut head) {
            Ok(1..) => {}
            _ => return,
        }
    }
    let stream = stream.get_mut();
    let _ = stream.write_all(answer).and_then(|()| stream.flush());
}

fn answer_one<S: Read + Write>(mut stream: BufReader<S>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match stream.read_line(&mut head) {
            Ok(1..) => {}
            _ => return,
        }
    }
    let lower = head.to_lowercase();
    let length = lower
        .lines()
        .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut body).is_err() {
        return;
    }
    let received = format!("{head}{}", String::from_utf8_lossy(&body));
    let length = received.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{received}"
    );
    let _ = stream.get_mut().write_all(answer.as_bytes());
    let _ = stream.get_mut().flush();
}
