//! The container image: the same bytes every time, the same files as the machine's root, and
//! what a container engine reads from it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use microvm::{Arch, ScratchDir};
use serde_json::{Value, json};

const ARCHS: [(Arch, &str); 2] = [(Arch::X86_64, "amd64"), (Arch::Aarch64, "arm64")];

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a command prints, without the last newline.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.trim_end().to_owned()
}

/// One of the programs that make images, run with a umask. `PIPELOCK_BIN` is a program for
/// this machine, and says nothing of the other architecture.
fn image_program(name: &str, umask: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask \"$0\"; exec \"$@\"", umask])
        .arg(checkout().join("image").join(name))
        .env_remove("SIDECAR_INIT_BIN");
    if let Some(named) = std::env::var_os("PIPELOCK_BIN") {
        let variable = format!("PIPELOCK_BIN_{}", Arch::host().name().to_uppercase());
        command.env_remove("PIPELOCK_BIN").env(variable, named);
    }
    command
}

/// Both architectures' names, to build an image for.
fn names() -> [&'static str; 2] {
    ARCHS.map(|(arch, _)| arch.name())
}

/// The image, taken apart by a tool that is not ours.
struct Image {
    scratch: ScratchDir,
    digest: String,
    list: Value,
}

impl Image {
    fn build() -> Self {
        let scratch = ScratchDir::new().unwrap();
        let mut build = image_program("oci", "022");
        let digest = output_of(build.args(names()).arg("--output").arg(scratch.path()));
        let archive = format!("oci-archive:{}", scratch.join("sidecar-init.tar").display());
        let blobs = format!("dir:{}", scratch.join("blobs").display());
        output_of(Command::new("skopeo").args(["copy", "--quiet", "--all", &archive, &blobs]));
        let list = fs::read(scratch.join("blobs/manifest.json")).unwrap();
        let list = serde_json::from_slice(&list).unwrap();
        Self {
            scratch,
            digest,
            list,
        }
    }

    fn blob(&self, digest: &Value, suffix: &str) -> PathBuf {
        let name = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        self.scratch.join("blobs").join(format!("{name}{suffix}"))
    }

    fn json(&self, digest: &Value, suffix: &str) -> Value {
        serde_json::from_slice(&fs::read(self.blob(digest, suffix)).unwrap()).unwrap()
    }

    fn manifest(&self, container_arch: &str) -> Value {
        let manifests = self.list["manifests"].as_array().unwrap();
        let entry = manifests
            .iter()
            .find(|entry| entry["platform"]["architecture"] == container_arch)
            .unwrap_or_else(|| panic!("no {container_arch} in {}", self.list));
        assert_eq!(entry["platform"]["os"], "linux");
        self.json(&entry["digest"], ".manifest.json")
    }

    fn config(&self, container_arch: &str) -> Value {
        let manifest = self.manifest(container_arch);
        let config = self.json(&manifest["config"]["digest"], "");
        assert_eq!(config["architecture"], container_arch);
        config
    }
}

/// Of every path below a directory the mode, and what it holds or where it points.
fn entries(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let contents = if metadata.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(directory).unwrap().to_owned();
        found.insert(name, (metadata.permissions().mode(), contents));
    }
    found
}

#[test]
fn is_the_same_whenever_and_wherever_it_is_built() {
    let first = Image::build();
    let scratch = ScratchDir::new().unwrap();
    let again = output_of(
        image_program("oci", "077")
            .args(names().iter().rev())
            .arg("--output")
            .arg(scratch.path())
            .env("TMPDIR", scratch.path())
            .env("TZ", "Asia/Tokyo")
            .env("LC_ALL", "C.UTF-8"),
    );
    assert_eq!(first.digest, again);
    let archive = |scratch: &ScratchDir| fs::read(scratch.join("sidecar-init.tar")).unwrap();
    assert!(
        archive(&first.scratch) == archive(&scratch),
        "the archives differ"
    );
    let written = fs::read_to_string(scratch.join("digest")).unwrap();
    assert_eq!(written, format!("{again}\n"));
}

#[test]
fn tells_an_engine_how_to_run_it_and_everyone_what_it_is() {
    let image = Image::build();
    let archive = image.scratch.join("sidecar-init.tar");
    let seen = output_of(
        Command::new("skopeo")
            .args(["inspect", "--format", "{{.Digest}}"])
            .arg(format!("oci-archive:{}", archive.display())),
    );
    assert_eq!(seen, image.digest);

    let mut pipelocks = Vec::new();
    for (_, container_arch) in ARCHS {
        let manifest = image.manifest(container_arch);
        // The kind that keeps a health check, whoever reads it.
        assert_eq!(
            manifest["mediaType"],
            "application/vnd.docker.distribution.manifest.v2+json"
        );
        let config = image.config(container_arch);
        let run = &config["config"];
        assert_eq!(run["Entrypoint"], json!(["/sbin/sidecar-init"]));
        assert_eq!(run["Cmd"], Value::Null);
        assert_eq!(run["StopSignal"], "SIGTERM");
        assert_eq!(run["ExposedPorts"], json!({"8888/tcp": {}}));
        assert_eq!(
            run["Healthcheck"]["Test"],
            json!(["CMD", "/sbin/sidecar-init", "healthcheck"])
        );
        let label = |name: &str| {
            let label = &run["Labels"][format!("org.opencontainers.image.{name}")];
            label.as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(label("title"), "sidecar-init");
        assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(label("licenses"), "Apache-2.0");
        assert_eq!(label("created"), config["created"]);
        assert_eq!(label("source"), env!("CARGO_PKG_REPOSITORY"));
        let revision = label("revision");
        assert!(
            revision == "unknown" || revision.trim_end_matches("-modified").len() == 40,
            "{revision}"
        );
        pipelocks.push(run["Labels"]["sidecar-init.pipelock"].clone());
        // Nothing of the machine that built it.
        assert_eq!(run["Hostname"], Value::Null);
        assert_eq!(config["container"], Value::Null);
    }
    let known = |origin: &Value| {
        let origin = origin.as_str().unwrap();
        origin == "file" || origin == "stand-in" || origin.contains("@sha256:")
    };
    assert!(pipelocks.iter().all(known), "{pipelocks:?}");
}

#[test]
fn has_the_files_of_the_machines_root() {
    let image = Image::build();
    for (arch, container_arch) in ARCHS {
        let scratch = ScratchDir::new().unwrap();
        output_of(
            image_program("build", "022")
                .args([arch.name(), "--output"])
                .arg(scratch.join("bundle")),
        );
        let (root, layered) = (scratch.join("root"), scratch.join("layered"));
        output_of(
            Command::new("fsck.erofs")
                .arg(format!("--extract={}", root.display()))
                .arg(scratch.join("bundle/root.erofs")),
        );
        fs::create_dir(&layered).unwrap();
        let manifest = image.manifest(container_arch);
        for layer in manifest["layers"].as_array().unwrap() {
            let layer = image.blob(&layer["digest"], "");
            let listing = output_of(
                Command::new("tar")
                    .args(["--numeric-owner", "-tvf"])
                    .arg(&layer),
            );
            assert!(
                listing.lines().all(|line| line.contains(" 0/0 ")),
                "not root's: {listing}"
            );
            output_of(
                Command::new("tar")
                    .args(["--same-permissions", "-xf"])
                    .arg(&layer)
                    .arg("-C")
                    .arg(&layered),
            );
        }
        let mut expected = entries(&root);
        // A container's runtime brings these two.
        for name in ["etc/hosts", "etc/resolv.conf"] {
            assert!(expected.remove(Path::new(name)).is_some(), "{name}");
        }
        let layered = entries(&layered);
        let summary = |entries: &BTreeMap<PathBuf, (u32, Vec<u8>)>| -> Vec<String> {
            let line = |(path, (mode, contents)): (&PathBuf, &(u32, Vec<u8>))| {
                format!("{} {mode:o} {}", path.display(), contents.len())
            };
            entries.iter().map(line).collect()
        };
        assert_eq!(summary(&expected), summary(&layered));
        assert!(expected == layered, "the contents differ");
        // The modes of everything are the tree's, not the builder's.
        assert_eq!(layered[Path::new("tmp")].0 & 0o7777, 0o1777);
        assert_eq!(layered[Path::new("sbin/sidecar-init")].0 & 0o7777, 0o755);
    }
}

#[test]
fn refuses_one_init_for_two_architectures() {
    let scratch = ScratchDir::new().unwrap();
    let refused = image_program("oci", "022")
        .args(names())
        .arg("--output")
        .arg(scratch.path())
        .env("SIDECAR_INIT_BIN", "/bin/true")
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(complaint.contains("it is one program"), "{complaint}");
    assert!(!scratch.join("sidecar-init.tar").exists());
}
