//! pipelock by its pinned image: a registry on the loopback holds one for both architectures,
//! and what is taken from it is the pinned one or nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use microvm::{Arch, ScratchDir};

const ARCHS: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];
const UNKNOWN: &str = "unknown";

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn standin(arch: Arch) -> PathBuf {
    checkout().join(format!(
        "tests/standin/target/{}-unknown-linux-musl/release/pipelock",
        arch.name()
    ))
}

/// What a command prints, without the last newline.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.trim_end().to_owned()
}

/// A registry and a lock file that names it; ended on drop.
struct Registry {
    process: Child,
    address: String,
    scratch: ScratchDir,
}

impl Registry {
    fn start() -> Self {
        let scratch = ScratchDir::new().unwrap();
        output_of(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ])
                .args(["-nodes", "-subj", "/CN=registry", "-days", "1"])
                .args(["-addext", "subjectAltName=IP:127.0.0.1"])
                .arg("-keyout")
                .arg(scratch.join("key.pem"))
                .arg("-out")
                .arg(scratch.join("certificate.pem")),
        );
        let configuration = scratch.join("registry.yml");
        let directory = scratch.path().display();
        fs::write(
            &configuration,
            format!(
                "version: 0.1
storage: {{filesystem: {{rootdirectory: {directory}/storage}}}}
http:
  addr: 127.0.0.1:0
  tls: {{certificate: {directory}/certificate.pem, key: {directory}/key.pem}}
"
            ),
        )
        .unwrap();
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "docker-registry", "serve"])
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                Some(rest.split(',').next()?.to_owned())
            })
            .expect("docker-registry says where it listens");
        // Read on: a full pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let registry = Self {
            process,
            address,
            scratch,
        };
        registry.lock("2.3.0", UNKNOWN);
        registry
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("SSL_CERT_FILE", self.scratch.join("certificate.pem"))
            .env("PIPELOCK_LOCK", self.lock_file())
            .env_remove("PIPELOCK_BIN")
            .env_remove("PIPELOCK_BIN_X86_64")
            .env_remove("PIPELOCK_BIN_AARCH64");
        command
    }

    fn repository(&self) -> String {
        format!("{}/pipelock", self.address)
    }

    fn lock_file(&self) -> PathBuf {
        self.scratch.join("pipelock.lock")
    }

    fn lock(&self, tag: &str, digest: &str) {
        let text = format!(
            "repository={}\ntag={tag}\ndigest={digest}\n",
            self.repository()
        );
        fs::write(self.lock_file(), text).unwrap();
    }

    fn locked(&self) -> String {
        fs::read_to_string(self.lock_file()).unwrap()
    }

    /// Put an image there that has the stand-in as its pipelock; its digest.
    ///
    /// The sidecar's own image will do: it has an executable of that name.
    fn push(&self, tag: &str, archs: &[Arch]) -> String {
        let directory = self.scratch.join(tag);
        let mut making = Command::new(checkout().join("image/oci"));
        making
            .args(archs.iter().map(|arch| arch.name()))
            .arg("--output")
            .arg(&directory)
            .env_remove("PIPELOCK_BIN")
            .env_remove("SIDECAR_INIT_BIN");
        for arch in archs {
            let variable = format!("PIPELOCK_BIN_{}", arch.name().to_uppercase());
            making.env(variable, standin(*arch));
        }
        let digest = output_of(&mut making);
        output_of(
            self.command("skopeo")
                .args(["copy", "--quiet", "--all"])
                .arg(format!(
                    "oci-archive:{}",
                    directory.join("sidecar-init.tar").display()
                ))
                .arg(format!("docker://{}:{tag}", self.repository())),
        );
        digest
    }

    /// Where it keeps a blob.
    fn stored(&self, digest: &str) -> PathBuf {
        let sum = digest.strip_prefix("sha256:").unwrap();
        self.scratch
            .join("storage/docker/registry/v2/blobs/sha256")
            .join(&sum[..2])
            .join(sum)
            .join("data")
    }

    fn choose(&self, arch: Arch, work: &ScratchDir) -> Output {
        let mut command = self.command(checkout().join("image/pipelock"));
        command.arg(arch.name()).arg(work.path()).output().unwrap()
    }

    fn assert_refuses(&self, arch: Arch, says: &str) {
        let work = ScratchDir::new().unwrap();
        let chosen = self.choose(arch, &work);
        let complaint = String::from_utf8_lossy(&chosen.stderr);
        assert!(!chosen.status.success(), "{complaint}");
        assert_eq!(chosen.stdout, b"", "it names a pipelock all the same");
        assert!(complaint.contains("cannot pull "), "{complaint}");
        assert!(complaint.contains(says), "{complaint}");
    }

    fn pin(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(checkout().join("scripts/pin-pipelock"));
        command.args(arguments).output().unwrap()
    }

    fn assert_pin_fails(&self, arguments: &[&str], says: &str) {
        let before = self.locked();
        let output = self.pin(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{complaint}");
        assert_eq!(output.stdout, b"");
        assert!(complaint.contains(says), "{complaint}");
        assert_eq!(self.locked(), before);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only when it is dead and reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn takes_each_architectures_program_from_the_pinned_image_and_no_other() {
    let registry = Registry::start();
    let digest = registry.push("2.3.0", &ARCHS);

    let pinned = registry.pin(&[]);
    let complaint = String::from_utf8_lossy(&pinned.stderr);
    assert!(pinned.status.success(), "{complaint}");
    assert_eq!(pinned.stdout, format!("{digest}\n").into_bytes());
    assert!(
        registry
            .locked()
            .ends_with(&format!("tag=2.3.0\ndigest={digest}\n")),
        "{}",
        registry.locked()
    );

    for arch in ARCHS {
        let work = ScratchDir::new().unwrap();
        let chosen = registry.choose(arch, &work);
        let said = String::from_utf8_lossy(&chosen.stderr);
        assert!(chosen.status.success(), "{said}");
        let program = String::from_utf8(chosen.stdout).unwrap();
        assert!(
            fs::read(program.trim_end()).unwrap() == fs::read(standin(arch)).unwrap(),
            "another program than {}'s",
            arch.name()
        );
        assert_eq!(
            fs::read_to_string(work.join("pipelock.origin"))
                .unwrap()
                .trim_end(),
            format!("{}@{digest}", registry.repository())
        );
    }

    // Well formed, and nothing of that name is there.
    registry.lock("2.3.0", &format!("sha256:{}", "0".repeat(64)));
    registry.assert_refuses(Arch::host(), "manifest unknown");

    // The right name, and the registry hands out something else.
    let stored = registry.stored(&digest);
    let mut index = fs::read(&stored).unwrap();
    index.push(b'\n');
    fs::write(stored, index).unwrap();
    registry.lock("2.3.0", &digest);
    registry.assert_refuses(Arch::host(), "does not match provided manifest digest");
}

#[test]
fn refuses_an_image_that_lacks_an_architecture() {
    let registry = Registry::start();
    let digest = registry.push("2.3.0", &[Arch::X86_64]);
    registry.assert_pin_fails(&[], "it has no image for linux/arm64");
    registry.lock("2.3.0", &digest);
    registry.assert_refuses(
        Arch::Aarch64,
        "no image found in manifest list for architecture arm64",
    );
}

#[test]
fn moves_no_pin_that_nobody_asked_it_to_move() {
    let registry = Registry::start();
    let digest = registry.push("2.3.0", &ARCHS);
    let earlier = format!("sha256:{}", "1".repeat(64));
    registry.lock("2.3.0", &earlier);
    registry.assert_pin_fails(&[], "a tag of a release should not move");
    assert!(registry.pin(&["--move"]).status.success());
    assert!(registry.locked().contains(&digest));
    // Pinned already: nothing to write, nothing to complain about.
    let again = registry.pin(&[]);
    assert!(again.status.success());
    assert_eq!(again.stdout, b"");
}

#[test]
fn changes_nothing_when_the_tag_or_the_registry_is_not_there() {
    let registry = Registry::start();
    registry.lock("9.9.9", UNKNOWN);
    registry.assert_pin_fails(&[], "cannot resolve ");
    registry.assert_pin_fails(&["--mvoe"], "cannot understand \"--mvoe\"");

    let mut registry = registry;
    registry.process.kill().unwrap();
    registry.process.wait().unwrap();
    registry.lock("2.3.0", UNKNOWN);
    registry.assert_pin_fails(&[], "connection refused");
    registry.lock("2.3.0", &format!("sha256:{}", "0".repeat(64)));
    registry.assert_refuses(Arch::host(), "connection refused");
}

#[test]
fn refuses_a_digest_that_is_none() {
    let registry = Registry::start();
    registry.lock("2.3.0", "sha256:abc");
    let work = ScratchDir::new().unwrap();
    let chosen = registry.choose(Arch::host(), &work);
    let complaint = String::from_utf8_lossy(&chosen.stderr);
    assert!(!chosen.status.success());
    assert!(
        complaint.contains("\"sha256:abc\" is not a digest"),
        "{complaint}"
    );
}
