//! `microvm`: boots the bundle with a manifest and shows it working; `scripts/run` starts it.

mod mirror;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use microvm::{
    Arch, BOOT_DEADLINE, Bundle, Error, Machine, Response, Running, ScratchDir, Upstream,
    connect_through, get, get_through, read_status,
};
use serde_json::Value;

use mirror::Mirror;

/// The agent's proxy in the guest, unless the manifest has another: pipelock itself.
const PROXY_PORT: u16 = 8888;

/// The name that the example manifest gives the host.
const UPSTREAM_NAME: &str = "upstream.test";

/// Whom an agent asks for approvals in the example's bundle.
const SUPERVISE: &str = "http://supervise:9000/";

/// A name no manifest should allow: `.invalid` never exists (RFC 6761).
const DENIED_AUTHORITY: &str = "not-in-the-manifest.invalid:443";

/// How often the exported status, and the manifest, are looked at.
const LOOK: Duration = Duration::from_millis(100);

const USAGE: &str = "\
usage: microvm [--arch ARCH] [--manifest FILE] [--once] [--console] [--svg FILE]

Boots target/bundle/ARCH with FILE (default: image/example/manifest.yaml) and the trust/
beside it, shows each stage and what the proxy answers, and stays until ^C. Until then the
machine follows what is changed in FILE and trust/.

  --arch      x86_64 or aarch64 (default: this machine's)
  --once      ask for one allowed and one denied thing, end with 0 if both are right
  --console   show the machine's console as well
  --svg       draw the start into FILE, by the sidecar-init of this machine's architecture
";

/// What to show.
#[derive(Debug)]
struct Options {
    arch: Option<String>,
    manifest: Option<PathBuf>,
    once: bool,
    console: bool,
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(argument) => {
            eprint!("cannot understand \"{}\"\n{USAGE}", argument.display());
            return ExitCode::from(64);
        }
    };
    match show(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(
    mut arguments: impl Iterator<Item = std::ffi::OsString>,
) -> Result<Option<Options>, std::ffi::OsString> {
    let mut options = Options {
        arch: None,
        manifest: None,
        once: false,
        console: false,
        svg: None,
    };
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--arch") => {
                let name = arguments.next().ok_or(argument)?;
                options.arch = Some(name.to_string_lossy().into_owned());
            }
            Some("--manifest") => {
                options.manifest = Some(arguments.next().ok_or(argument)?.into());
            }
            Some("--svg") => options.svg = Some(arguments.next().ok_or(argument)?.into()),
            Some("--once") => options.once = true,
            Some("--console") => options.console = true,
            Some("--help" | "-h") => return Ok(None),
            _ => return Err(argument),
        }
    }
    Ok(Some(options))
}

/// Boot, look, ask, stay; whether everything was as it should be.
fn show(options: &Options) -> Result<bool, Error> {
    let bundle = match &options.arch {
        Some(name) => Bundle::for_arch(Arch::named(name)?)?,
        None => Bundle::from_target()?,
    };
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/example");
    let manifest = options
        .manifest
        .clone()
        .unwrap_or_else(|| examples.join("manifest.yaml"));
    let example = is_in(&manifest, &examples);
    let egress = agent_proxy(&std::fs::read_to_string(&manifest).unwrap_or_default());
    let port = egress.unwrap_or(PROXY_PORT);
    let shared = ScratchDir::new()?;
    let export = ScratchDir::new()?;
    let mut mirror = Mirror::of(&manifest, shared.path())?;
    let upstream = Upstream::start("You reached the upstream, through pipelock.\n")?;

    let mut builder = Machine::builder(&bundle)
        .manifest_dir(shared.path())
        .export_dir(export.path())
        .forward(port);
    if options.console {
        builder = builder.echo_console();
    }
    let started = Instant::now();
    let machine = builder.boot()?;
    say(started, "QEMU runs; the guest's kernel is starting");
    let Some(status) = watch_start(&machine, export.path(), started)? else {
        println!("\nThe sidecar did not start.");
        tell_end(&machine);
        return Ok(false);
    };

    if let Some(file) = &options.svg {
        draw_start(export.path(), file)?;
    }
    let proxy = machine.forwarded(port)?;
    // Another proxy has no health to tell; that it refused the canary is in the status.
    let health = match egress {
        None => Some(ask_health(proxy, &status)?),
        Some(_) => None,
    };
    let fingerprint = status
        .pointer("/ca/fingerprint_sha256")
        .and_then(Value::as_str);
    println!();
    if let Some(health) = &health {
        println!("health       {}", health.body.trim());
    }
    println!(
        "CA           SHA-256 {}",
        fingerprint.unwrap_or("(not in the status)")
    );
    println!("export       {}", export.path().display());
    println!(
        "manifest     {}   (edit it: the machine follows)",
        manifest.canonicalize().unwrap_or(manifest).display()
    );
    let url = format!("http://{UPSTREAM_NAME}:{}/", upstream.port());
    println!("\nTry it:");
    if example {
        println!("  curl --proxy http://{proxy} {url}");
        if egress.is_some() {
            println!("  curl --proxy http://{proxy} {SUPERVISE}");
        }
    }
    println!("  curl --proxy http://{proxy} https://{DENIED_AUTHORITY}/");
    // Its TLS is not opened, so that its own root is wanted; and it is asked by its name.
    let bundle = export.join("ca-bundle.pem");
    if example && egress.is_none() && has_public_roots(&bundle) {
        println!(
            "  curl --proxy http://{proxy} --cacert {} https://api.anthropic.com/   (with internet)",
            bundle.display()
        );
    }

    if options.once {
        println!();
        let mut right = health.is_none_or(|health| health.status == 200);
        right &= ask_once(proxy, example.then_some(upstream.port()), egress.is_some())?;
        return Ok(right);
    }

    println!("\nThe machine stays until ^C.");
    // Until ^C ends this process, and the kernel everything it started.
    let ending = loop {
        match machine.wait_end(LOOK) {
            Ok(ending) => break ending,
            Err(Error::Timeout { .. }) => {}
            Err(error) => return Err(error),
        }
        if mirror.refresh()? {
            say(
                started,
                "the manifest or trust/ was changed; the machine sees it within a minute",
            );
        }
    };
    println!("The machine ended by itself: {ending:?}");
    tell_end(&machine);
    Ok(false)
}

/// Shows what the guest said last, or where that is nothing what QEMU did.
fn tell_end(machine: &Running) {
    let console = last_lines(&machine.console(), 30);
    if !console.trim().is_empty() {
        println!("Its console ends with:\n\n{console}\n");
    }
    // The last word is why it ended, where it said so.
    match machine.wait_for_result(Duration::ZERO) {
        Ok(result) => println!("{}", outcome(&result)),
        Err(_) => println!("{}", machine.qemu_in_words()),
    }
}

/// What a result says, in a line or a few.
fn outcome(result: &Value) -> String {
    let word = |name: &str| result.get(name).and_then(Value::as_str);
    let outcome = word("outcome").unwrap_or("ended");
    match word("error") {
        Some(error) => format!("The sidecar {outcome}: {error}"),
        None => format!("The sidecar {outcome}."),
    }
}

/// Asks for what the example allows, by this port of the upstream, and for what nobody does;
/// whether every answer was right. With another proxy before pipelock both are seen to be
/// passed, and whom an agent asks for approvals is reached.
fn ask_once(proxy: SocketAddr, upstream: Option<u16>, has_egress: bool) -> Result<bool, Error> {
    let mut right = true;
    if let Some(port) = upstream {
        let authority = format!("{UPSTREAM_NAME}:{port}");
        let (tunnel, _) = connect_through(proxy, &authority)?;
        right &= verdict(&format!("CONNECT {authority}"), &tunnel, 200);
        let url = format!("http://{authority}/");
        let page = get_through(proxy, &url)?;
        right &= verdict(&format!("GET {url}"), &page, 200);
        if has_egress {
            if !page.body.to_ascii_lowercase().contains("x-passed: egress") {
                println!(" WRONG  GET {url}: it did not come by egress");
                right = false;
            }
            let asked = get_through(proxy, SUPERVISE)?;
            right &= verdict(&format!("GET {SUPERVISE}"), &asked, 200);
        }
    } else {
        println!("        (your own manifest: no name is known to be allowed, none is asked)");
    }
    let (denied, _) = connect_through(proxy, DENIED_AUTHORITY)?;
    right &= verdict(&format!("CONNECT {DENIED_AUTHORITY}"), &denied, 403);
    Ok(right)
}

fn is_in(file: &Path, directory: &Path) -> bool {
    let parent = file.canonicalize();
    let parent = parent.ok().and_then(|it| it.parent().map(Path::to_owned));
    parent.is_some() && parent == directory.canonicalize().ok()
}

/// pipelock's health; what is amiss where it cannot be asked from here, and the status knows why.
fn ask_health(proxy: SocketAddr, status: &Value) -> Result<Response, Error> {
    get(proxy, "/health").inspect_err(|_| {
        if is_loopback(status) {
            eprintln!(
                "\nIn the machine pipelock listens on {}, where nobody outside of it gets: leave pipelock.listen \
                 out of the manifest, or have one of its daemons be the agent_proxy.",
                listen(status)
            );
        }
    })
}

/// Where the status says that pipelock listens.
fn listen(status: &Value) -> &str {
    let listen = status.get("listen").and_then(Value::as_str);
    listen.unwrap_or_default()
}

fn is_loopback(status: &Value) -> bool {
    let address = listen(status).parse::<SocketAddr>();
    address.is_ok_and(|address| address.ip().is_loopback())
}

/// The port that a manifest has as `agent_proxy`, written as a line of its own or in braces.
fn agent_proxy(manifest: &str) -> Option<u16> {
    let lines = manifest
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let mut values = lines.filter_map(|line| line.split_once("agent_proxy:"));
    let (_, value) = values.next()?;
    let digits = |c: char| c.is_ascii_digit();
    value.trim().split(|c| !digits(c)).next()?.parse().ok()
}

/// Whether there are more certificates than the machine's own.
fn has_public_roots(bundle: &Path) -> bool {
    let text = std::fs::read_to_string(bundle).unwrap_or_default();
    text.matches("-----BEGIN CERTIFICATE-----").count() > 1
}

/// Have the exported status drawn, as an operator on the host would.
fn draw_start(export: &Path, file: &Path) -> Result<(), Error> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(
        "../../target/{}-unknown-linux-musl/release/sidecar-init",
        std::env::consts::ARCH
    ));
    let drawn = Command::new(&program)
        .arg("status")
        .arg("--run-dir")
        .arg(export)
        .arg("--svg")
        .arg(file)
        .output()
        .map_err(|source| Error::Io {
            attempt: format!("run {}", program.display()),
            source,
        })?;
    if drawn.status.success() {
        return Ok(());
    }
    Err(Error::Program {
        program: "sidecar-init status --svg",
        output: String::from_utf8_lossy(&drawn.stderr).into_owned(),
    })
}

/// Show each stage as the exported status tells of it. The status when the sidecar is ready,
/// nothing if it gave up.
fn watch_start(machine: &Running, export: &Path, started: Instant) -> Result<Option<Value>, Error> {
    let mut shown = 0;
    let mut ready = Vec::new();
    loop {
        // Absent until the guest has mounted the export.
        let status = read_status(export).unwrap_or_default();
        let stages = status.get("stages").and_then(Value::as_array);
        for stage in stages.into_iter().flatten().skip(shown) {
            let name = stage
                .get("stage")
                .and_then(Value::as_str)
                .unwrap_or_default();
            say(started, &in_plain_words(name));
            shown += 1;
        }
        for daemon in status
            .get("daemons")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let word = |name: &str| daemon.get(name).and_then(Value::as_str).unwrap_or_default();
            let name = word("name").to_owned();
            if word("state") == "ready" && !ready.contains(&name) {
                say(started, &format!("{name}: ready, in its sandbox"));
                ready.push(name);
            }
        }
        if status.get("state").and_then(Value::as_str) == Some("ready") {
            say(started, "ready: the proxy serves, and refused the canary");
            return Ok(Some(status));
        }
        // The pause between two looks ends early when the machine gives up.
        match machine.wait_for_result(LOOK) {
            Ok(_) | Err(Error::Ended { .. } | Error::Json { .. }) => return Ok(None),
            Err(Error::Timeout { .. }) if started.elapsed() < BOOT_DEADLINE => {}
            Err(error) => return Err(error),
        }
    }
}

fn in_plain_words(stage: &str) -> String {
    let words = match stage {
        "mode" => "finding out where it runs",
        "mounts" => "mounting kernel file systems and the host's shares",
        "clock" => "checking the clock",
        "network" => "addressing the network",
        "manifest" => "reading the manifest",
        "ca" => "making or checking the CA",
        "config" => "writing pipelock.yaml",
        "spawn" => "starting pipelock in its sandbox",
        "ready" => "asking it for its health, and to refuse a canary",
        other => return format!("stage {other}"),
    };
    format!("{stage}: {words}")
}

fn say(started: Instant, what: &str) {
    println!("{:6.2} s  {what}", started.elapsed().as_secs_f32());
}

fn verdict(request: &str, response: &Response, wanted: u16) -> bool {
    let right = response.status == wanted;
    let mut line = format!(
        "{}  {request}: {}, as it should be",
        if right { "  ok  " } else { " WRONG" },
        response.status
    );
    if !right {
        line = line.replace("as it should be", &format!("not {wanted}"));
    }
    if !response.body.trim().is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(line, " ({})", response.body.trim());
    }
    println!("{line}");
    right
}

/// The last lines, none of them longer than a person reads.
fn last_lines(text: &str, count: usize) -> String {
    const LONGEST: usize = 400;
    let cut = |line: &str| match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", line.split_at(end).0),
        None => line.to_owned(),
    };
    let lines: Vec<String> = text.lines().map(cut).collect();
    lines
        .get(lines.len().saturating_sub(count)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{agent_proxy, is_loopback, last_lines, outcome};

    #[test]
    fn says_why_it_ended_in_a_sentence_and_cuts_what_nobody_reads() {
        let failed = json!({"outcome": "failed at ready", "error": "egress: no such file"});
        assert_eq!(
            outcome(&failed),
            "The sidecar failed at ready: egress: no such file"
        );
        let stopped = json!({"outcome": "stopped", "error": null});
        assert_eq!(outcome(&stopped), "The sidecar stopped.");
        let long = format!("one\ntwo\n{}", "ä".repeat(401));
        assert_eq!(last_lines(&long, 2), format!("two\n{}…", "ä".repeat(400)));
    }

    #[test]
    fn knows_a_proxy_that_nobody_outside_of_the_machine_reaches() {
        for (listen, wanted) in [
            ("127.0.0.1:8888", true),
            ("[::1]:8888", true),
            ("0.0.0.0:8888", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(&json!({"listen": listen})), wanted, "{listen}");
        }
    }

    #[test]
    fn finds_the_port_of_the_agents_proxy_however_it_is_written() {
        for (manifest, port) in [
            ("a: 1\n    agent_proxy: 8080  # the agent's\n", Some(8080)),
            (
                "  egress: {listen: [8080], agent_proxy: 8080, ready: {tcp: 8080}}\n",
                Some(8080),
            ),
            ("# agent_proxy: 1\n  x: 2\n", None),
            ("", None),
        ] {
            assert_eq!(agent_proxy(manifest), port, "{manifest}");
        }
    }
}
