//! The clients, what each does at a size that people have, and what the firewall makes of it
//! where it opens the connection.

/// What comes of a case through a host that is opened.
pub enum Opened {
    /// Refused: `denials.json` says what that means in these words, and advises that, where
    /// `HOST` is the host.
    Refused(&'static str, &'static str),
    /// It works; maybe late.
    Works,
    /// It fails, nothing was refused, and the client says this.
    Fails(&'static str),
}

pub struct Case {
    pub client: &'static str,
    pub what: &'static str,
    /// Whether the client is here.
    pub probe: &'static str,
    /// The first label of its host.
    pub service: &'static str,
    pub script: String,
    /// Where it is something else through a host that is opened.
    pub opened_script: Option<String>,
    pub opened: Opened,
}

/// A case of a client that is here, refused for the size of an answer.
fn case(
    client: &'static str,
    what: &'static str,
    service: &'static str,
    script: impl Into<String>,
) -> Case {
    Case {
        client,
        what,
        probe: "true",
        service,
        script: script.into(),
        opened_script: None,
        opened: Opened::Refused("the response is larger than pipelock scans", PASS_THROUGH),
    }
}

/// What most advice is.
const PASS_THROUGH: &str = "under pipelock: add HOST to passthrough; then nothing";

/// A Node that knows proxy variables: older ones know none at all.
const NODE: &str = "node -e 'const [a, b] = process.versions.node.split(\".\").map(Number); \
    process.exit(a > 24 || a == 24 || (a == 22 && b >= 21) ? 0 : 1)'";

/// Without the system's configuration, packages or user: all of it below the home.
fn apt(scheme: &str, package: &str) -> String {
    format!(
        "mkdir -p apt/lists/partial apt/archives/partial
printf 'deb [trusted=yes] {scheme}://apt.%s/apt ./\\n' \"$D\" > apt/sources.list
apt_get() {{
  apt-get -q -o Acquire::https::CAInfo=\"$SSL_CERT_FILE\" -o Acquire::Retries=0 -o Acquire::http::Timeout=300 -o APT::Sandbox::User=root \
    -o Dir::Etc::SourceList=\"$HOME/apt/sources.list\" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists=\"$HOME/apt/lists\" -o Dir::State::status=/dev/null -o Dir::Cache=\"$HOME/apt\" \"$@\"
}}
apt_get update && apt_get download {package} && same $SUM_{package}_deb {package}_1.0_all.deb"
    )
}

/// Reads a stream of events; the first has to be here before the server sends the second.
fn stream(kind: &str) -> String {
    format!(
        "python3 \"$T/stream.py\" https://stream.$D/events/600/10/$RUN/{kind} https://stream.$D/seen/$RUN"
    )
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "curl",
            "download of 20 MB",
            "files",
            "curl -sS --fail -o file https://files.$D/file && same $SUM_file file",
        ),
        Case {
            opened: Opened::Works,
            ..case(
                "curl",
                "download of 1 MB",
                "files",
                "curl -sS --fail -o file https://files.$D/large && same $SUM_large file",
            )
        },
        Case {
            opened: Opened::Refused("the request is larger than pipelock scans", PASS_THROUGH),
            ..case(
                "curl",
                "upload of 20 MB",
                "files",
                "curl -sS --fail -T \"$W/file\" https://files.$D/upload | grep $SUM_file",
            )
        },
        Case {
            opened: Opened::Refused("the request says it is a form and is none", PASS_THROUGH),
            ..case(
                "curl",
                "300 KB sent as the form they are not",
                "files",
                "curl -sS --fail --data-binary \"@$W/small\" https://files.$D/upload | grep $SUM_small",
            )
        },
        Case {
            probe: "npm --version",
            ..case(
                "npm",
                "packument of 3 MB, tarball of 12 MB",
                "npm",
                "npm install --registry https://npm.$D/ heavy && same $SUM_npm node_modules/heavy/data",
            )
        },
        Case {
            probe: "python3 -m pip --version",
            ..case(
                "pip",
                "wheel of 40 MB",
                "pypi",
                "python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target place \
                   --index-url https://pypi.$D/simple heavy && same $SUM_wheel place/heavy/data",
            )
        },
        Case {
            probe: "uv --version",
            ..case(
                "uv",
                "wheel of 40 MB",
                "pypi",
                "uv pip install -q --no-cache --python-preference only-system --target place \
                   --default-index https://pypi.$D/simple heavy && same $SUM_wheel place/heavy/data",
            )
        },
        Case {
            probe: "\"$CARGO\" --version",
            ..case(
                "cargo",
                "crate of 9 MB",
                "crates",
                "mkdir -p src .cargo; touch src/lib.rs
printf '[package]\\nname=\"p\"\\nversion=\"0.1.0\"\\nedition=\"2021\"\\n[dependencies]\\nheavy={version=\"1\",registry=\"r\"}\\n' > Cargo.toml
printf '[registries.r]\\nindex=\"sparse+https://crates.%s/index/\"\\n' \"$D\" > .cargo/config.toml
\"$CARGO\" fetch -q && same $SUM_crate \"$HOME\"/.cargo/registry/src/*/heavy-1.0.0/data",
            )
        },
        Case {
            probe: "go version",
            ..case(
                "go",
                "module of 12 MB",
                "modules",
                // Its cache is read-only otherwise, and cannot be removed with the home.
                "export GOPROXY=https://modules.$D/modules GOSUMDB=off GOTOOLCHAIN=local GOFLAGS=-modcacherw
go mod download example.test/heavy@v1.0.0 && same $SUM_module go/pkg/mod/example.test/heavy@v1.0.0/data",
            )
        },
        case(
            "git",
            "clone of 50 MB",
            "git",
            "git clone -q https://git.$D/git/heavy.git work && cat work/?? > all && same $SUM_repository all",
        ),
        Case {
            opened: Opened::Refused("the request is compressed", PASS_THROUGH),
            ..case(
                "git",
                "fetch of 600 branches",
                "git",
                "git init -q work && cd work && git fetch -q https://git.$D/git/many.git 'refs/heads/*:refs/heads/*' && \
                   [ \"$(git branch --list | wc -l)\" = 600 ]",
            )
        },
        Case {
            opened: Opened::Refused("the request is larger than pipelock scans", PASS_THROUGH),
            ..case(
                "git",
                "push of 50 MB",
                "git",
                "git --git-dir \"$W/git/heavy.git\" push -q https://git.$D/git/push-$RUN.git main && \
                   git --git-dir \"$W/git/push-$RUN.git\" rev-parse --verify main",
            )
        },
        Case {
            probe: "apt-get --version && dpkg-deb --version",
            ..case("apt, https", "package of 12 MB", "apt", apt("https", "heavy"))
        },
        Case {
            // Never opened, so never passed through either: it is held whole, and cut.
            probe: "apt-get --version && dpkg-deb --version",
            opened_script: Some(apt("http", "heavy")),
            opened: Opened::Refused("was cut at the limit", "ask for it over https"),
            ..case("apt, http", "package of 200 KB; of 12 MB", "apt", apt("http", "light"))
        },
        Case {
            probe: "docker-registry --version && skopeo --version",
            ..case(
                "skopeo",
                "layer of 60 MB",
                "registry",
                "skopeo copy --insecure-policy -q docker://registry.$D/image:1 dir:image && \
                   for file in image/*; do [ \"$(wc -c < $file)\" -lt 60000000 ] || tar -xOf $file data > layer; done && \
                   same $SUM_layer layer",
            )
        },
        Case {
            opened: Opened::Works,
            ..case("Python", "stream of 600 events", "stream", stream("words"))
        },
        Case {
            opened_script: Some(stream("phrase")),
            opened: Opened::Refused("an event read like an order to a model", PASS_THROUGH),
            ..case("Python", "stream of events, one like an instruction", "stream", stream("phrase"))
        },
        Case {
            opened: Opened::Fails("the first event came with the last"),
            ..case("Python", "stream of JSON lines", "stream", stream("lines"))
        },
        Case {
            probe: NODE,
            ..case(
                "Node",
                "fetch of 20 MB",
                "files",
                "node -e '
fetch(`https://files.${process.env.D}/file`).then(async answer => {
  if (!answer.ok) { console.log(answer.status, await answer.text()); process.exit(1); }
  require(\"fs\").writeFileSync(\"file\", Buffer.from(await answer.arrayBuffer()));
})' && same $SUM_file file",
            )
        },
        Case {
            probe: NODE,
            opened: Opened::Fails("no WebSocket"),
            ..case("Node", "WebSocket, 20 echoes of 1 MB", "socket", "node \"$T/socket.js\" wss://socket.$D/socket")
        },
    ]
}
