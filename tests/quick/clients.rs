//! Clients that know nothing but `client.env`, through the real binary and a real
//! daemon: `PIPELOCK_BIN`, else the stand-in. Each in a mount namespace in which the
//! export is where that file says.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use microvm::ScratchDir;
use serde_json::Value;

use crate::support::interception::{Bed, INTERCEPTED, PASSTHROUGH, in_namespace, shell};
use crate::support::tools::{is_here, path};

/// Puts a Python package and a crate into `www`, each where its client looks for it.
const PACKAGES: &str = r#"
import gzip, hashlib, io, json, os, tarfile, zipfile
os.makedirs("www/simple/nothing")
with zipfile.ZipFile("www/simple/nothing/nothing-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("nothing/__init__.py", "")
    wheel.writestr("nothing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
    wheel.writestr("nothing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("nothing-1.0.dist-info/RECORD", "nothing/__init__.py,,\nnothing-1.0.dist-info/RECORD,,\n")
with open("www/simple/nothing/index.html", "w") as index:
    index.write("<!DOCTYPE html><a href=\"nothing-1.0-py3-none-any.whl\">nothing-1.0-py3-none-any.whl</a>")

tar = io.BytesIO()
with tarfile.open(fileobj=tar, mode="w") as crate:
    for name, text in [
        ("Cargo.toml", "[package]\nname = \"conf\"\nversion = \"1.0.0\"\nedition = \"2021\"\n"),
        ("src/lib.rs", "pub fn page() {}\n"),
    ]:
        entry = tarfile.TarInfo("conf-1.0.0/" + name)
        entry.size = len(text)
        crate.addfile(entry, io.BytesIO(text.encode()))
crate = gzip.compress(tar.getvalue())
os.makedirs("www/dl/conf/1.0.0")
with open("www/dl/conf/1.0.0/download", "wb") as file:
    file.write(crate)
os.makedirs("www/index/co/nf")
with open("www/index/co/nf/conf", "w") as file:
    json.dump({"name": "conf", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False,
               "cksum": hashlib.sha256(crate).hexdigest()}, file)
"#;

/// A bed whose upstream serves a git repository, a Python package index and a crate too.
fn bed() -> Bed {
    let bed = Bed::start();
    shell(
        bed.scratch.path(),
        &format!(
            "git init -q work
             git -C work -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m first
             git clone -q --bare work www/work.git
             git -C www/work.git update-server-info
             python3 -c '{PACKAGES}'"
        ),
    );
    bed
}

impl Bed {
    /// Runs `script` as an agent would: the export mounted where the documentation says,
    /// its variables read, nothing else known. `$U` is the upstream's authority.
    fn client(&self, host: &str, script: &str) -> (bool, String) {
        let preparation = "mount -t tmpfs none /run; mkdir /run/sidecar-export; \
                           mount --bind \"$1/run/export\" /run/sidecar-export; cd \"$2\"; \
                           set -a; . /run/sidecar-export/client.env; ";
        let home = ScratchDir::new().unwrap();
        // The toolchain's own: the one in PATH may be a chooser that needs its own home.
        let cargo = Path::new(env!("CARGO"));
        let output = in_namespace(
            &format!("{preparation}{script}"),
            &[self.scratch.path(), home.path()],
        )
        .env_clear()
        .env("PATH", path())
        .env("HOME", home.path())
        .env("CARGO", cargo)
        .env("RUSTC", cargo.with_file_name("rustc"))
        .env("U", format!("{host}:{}", self.port))
        .output()
        .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), said)
    }
}

/// A client, how it is asked whether it works here, and what it does.
const CLIENTS: [(&str, &str, &str); 11] = [
    ("curl", "curl --version", "curl -sS --fail https://$U/page"),
    ("git", "git --version", "git clone -q https://$U/work.git clone && git -C clone log -1 --format='the page %s'"),
    (
        "Ruby",
        "ruby --version",
        "ruby -rnet/http -e 'puts Net::HTTP.get(URI(\"https://#{ENV[\"U\"]}/page\"))'",
    ),
    // Knows no variable for the CA: what docs/clients.md says comes first.
    ("wget", "wget --version", "{documented}; wget -q -O - https://$U/page"),
    (
        "Python, strict",
        "python3 -c 'import ssl'",
        "python3 -c '
import os, ssl, urllib.request
context = ssl.create_default_context()
context.verify_flags |= ssl.VERIFY_X509_STRICT
opener = urllib.request.build_opener(urllib.request.ProxyHandler(), urllib.request.HTTPSHandler(context=context))
print(opener.open(\"https://\" + os.environ[\"U\"] + \"/page\").read().decode())'",
    ),
    (
        "openssl",
        "openssl version",
        "printf 'GET /page HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n' \"$U\" | openssl s_client -quiet -verify_return_error -x509_strict \
           -proxy \"${HTTPS_PROXY#http://}\" -connect \"$U\" -servername \"${U%:*}\"",
    ),
    (
        "Node",
        // Older ones know no proxy variables at all.
        "node -e 'const [a, b] = process.versions.node.split(\".\").map(Number); process.exit(a > 24 || a == 24 || (a == 22 && b >= 21) ? 0 : 1)'",
        "node -e 'fetch(`https://${process.env.U}/page`).then(r => r.text()).then(console.log)'",
    ),
    (
        "Node's TLS",
        "node --version",
        "node -e '
const net = require(\"net\"), tls = require(\"tls\"), u = process.env.U, proxy = new URL(process.env.HTTPS_PROXY);
const socket = net.connect(proxy.port, proxy.hostname, () => socket.write(`CONNECT ${u} HTTP/1.1\\r\\nHost: ${u}\\r\\n\\r\\n`));
socket.once(\"data\", () => { const secure = tls.connect({socket, servername: u.split(\":\")[0]}, () => {
  secure.write(`GET /page HTTP/1.0\\r\\nHost: ${u}\\r\\n\\r\\n`); });
  secure.on(\"data\", data => process.stdout.write(data)); secure.on(\"end\", () => process.exit(0)); });'",
    ),
    (
        "Deno",
        "deno --version",
        "deno eval 'console.log(await (await fetch(`https://${Deno.env.get(\"U\")}/page`)).text())'",
    ),
    (
        "pip",
        "python3 -m pip --version",
        "python3 -m pip download -q --no-cache-dir --disable-pip-version-check --index-url https://$U/simple nothing && \
           ls nothing-1.0-py3-none-any.whl && echo the page",
    ),
    (
        "cargo",
        "\"$CARGO\" --version",
        "mkdir -p src .cargo; touch src/lib.rs
printf '[package]\\nname=\"p\"\\nversion=\"0.1.0\"\\nedition=\"2021\"\\n[dependencies]\\nconf={version=\"1\",registry=\"r\"}\\n' > Cargo.toml
printf '[registries.r]\\nindex=\"sparse+https://%s/index/\"\\n' \"$U\" > .cargo/config.toml
\"$CARGO\" fetch && ls \"$HOME\"/.cargo/registry/src/*/conf-1.0.0/src/lib.rs && echo the page",
    ),
];

/// What docs/clients.md has a shell do, first thing below a heading.
fn documented(heading: &str) -> &'static str {
    let document = include_str!("../../docs/clients.md");
    let (_, section) = document.split_once(heading).expect(heading);
    let (_, block) = section.split_once("```sh\n").expect(heading);
    block.split("\n```").next().unwrap()
}

/// Those that are here; the others are named.
fn clients() -> Vec<(&'static str, String)> {
    CLIENTS
        .into_iter()
        .filter_map(|(name, probe, script)| {
            let works = is_here(probe);
            if !works {
                // Not eprintln: the harness hides that of a test that passes.
                let _ = writeln!(std::io::stderr(), "NOT CHECKED: {name}, which is not here");
            }
            works.then(|| {
                (
                    name,
                    script.replace("{documented}", documented("## curl and wget")),
                )
            })
        })
        .collect()
}

#[test]
fn every_client_works_with_the_variables_alone_whether_intercepted_or_not() {
    let bed = bed();
    let mut tried = 0;
    for (name, script) in clients() {
        for host in [INTERCEPTED, PASSTHROUGH] {
            // Where cargo is to look for crates.
            fs::write(
                bed.scratch.join("www/index/config.json"),
                format!("{{\"dl\":\"https://{host}:{}/dl\"}}", bed.port),
            )
            .unwrap();
            let (_, said) = bed.client(host, &script);
            assert!(
                said.contains("the page"),
                "{name}, {host}: {said}\n{}",
                bed.log()
            );
            tried += 1;
        }
    }
    assert!(tried >= 8, "curl, git, Python and openssl at least");
    // They were intercepted, and the other host was not.
    let issuer = "printf '' | openssl s_client -proxy \"${HTTPS_PROXY#http://}\" -connect \"$U\" -servername \"${U%:*}\" 2>&1 | grep issuer";
    assert!(bed.client(INTERCEPTED, issuer).1.contains("Pipelock CA"));
    assert!(bed.client(PASSTHROUGH, issuer).1.contains("upstream-root"));
}

/// Java reads no variable, and has a trust store of its own form.
#[test]
fn java_works_as_documented() {
    const PROGRAM: &str = r#"
import java.net.*;
import java.net.http.*;
public class T {
    public static void main(String[] arguments) throws Exception {
        URI page = URI.create("https://" + System.getenv("U") + "/page");
        System.out.print("old: " + new String(page.toURL().openStream().readAllBytes()));
        HttpRequest request = HttpRequest.newBuilder(page).build();
        System.out.print("new: " + HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"#;
    if !is_here("java -version && javac -version && keytool -help") {
        let _ = writeln!(std::io::stderr(), "NOT CHECKED: Java, which is not here");
        return;
    }
    let bed = Bed::start();
    let script = format!(
        "printf '%s' '{PROGRAM}' > T.java\n{}\njava T.java",
        documented("## Java")
    );
    // The root of the host that is passed through is a test's, and not in Java's own store.
    let (_, said) = bed.client(INTERCEPTED, &script);
    assert!(
        said.contains("old: the page\nnew: the page\n"),
        "{said}\n{}",
        bed.log()
    );
}

#[test]
fn a_client_without_the_ca_is_told_from_a_refused_host() {
    let bed = Bed::start();
    let (works, said) = bed.client(
        INTERCEPTED,
        "unset CURL_CA_BUNDLE SSL_CERT_FILE; curl -sS https://$U/page",
    );
    assert!(!works, "{said}");
    let (works, refused) = bed.client("elsewhere.test", "curl -sS https://$U/page");
    assert!(!works && refused.contains("403"), "{refused}");
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let text = fs::read_to_string(bed.scratch.join("run/export/denials.json")).unwrap();
        let denials: Value = serde_json::from_str(&text).unwrap();
        let reason = |host: &str| {
            let all = denials["denials"].as_array().unwrap();
            let found = all.iter().find(|denial| denial["host"] == host);
            found.map(|denial| denial["reason"].as_str().unwrap().to_owned())
        };
        if reason(INTERCEPTED).as_deref() == Some("the client does not trust the CA")
            && reason("elsewhere.test").as_deref() == Some("domain not in allowlist")
        {
            break;
        }
        assert!(Instant::now() < end, "{text}\n{}", bed.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}
