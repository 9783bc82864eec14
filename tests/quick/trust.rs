//! What people put into `trust/`: every root in it reaches pipelock and the clients, or is
//! refused or passed over with its name.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::support::interception::shell;
use crate::support::{Bed, Console, Init, Place, skipped};

/// With an empty `trust/`, and two roots beside it.
fn bed() -> Bed {
    let bed = Bed::new().with_export().with_any_daemon();
    fs::create_dir(bed.path("trust")).unwrap();
    for name in ["one", "two"] {
        shell(
            &bed.path(""),
            &format!(
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                 -subj /CN={name} -keyout key -out {name} 2>&1"
            ),
        );
    }
    bed
}

fn check(bed: &Bed) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sidecar-init"))
        .args(["check", "--manifest"])
        .arg(bed.manifest())
        .output()
        .unwrap();
    let mut said = output.stdout.clone();
    said.extend(&output.stderr);
    let said = String::from_utf8(said).unwrap();
    (output, said)
}

fn count(text: &str) -> usize {
    text.matches("-----BEGIN CERTIFICATE-----").count()
}

/// What makes a file of the two roots, and what is said of it.
const UNREADABLE: [(&str, &str); 16] = [
    (
        "head -5 one; cat two",
        "line 1: its PEM block is cut short or not base64",
    ),
    (
        "cat two; head -5 one",
        ": its PEM block is cut short or not base64",
    ),
    (
        "sed '3s/./!/' one; cat two",
        "line 1: its PEM block is cut short or not base64",
    ),
    (
        "sed 's/-----BEGIN/----BEGIN/' one; cat two",
        "line 1: its PEM block is cut short",
    ),
    (
        r"printf '\357\273\277'; cat one two",
        "line 1: a byte order mark stands before",
    ),
    (
        r"cat one two | tr '\n' '\r'",
        "line 1: its lines end in carriage returns alone",
    ),
    ("cat two; sed 's/^/  /' one", ": its PEM block is indented"),
    (
        "cat two; sed 's/^/> /' one",
        r#": something stands before "-----BEGIN " in its line"#,
    ),
    ("iconv -f UTF-8 -t UTF-16 one", "the file is UTF-16"),
    (
        "openssl x509 -in one -outform DER",
        "the file is not PEM but DER",
    ),
    (
        "openssl x509 -in one -trustout -addtrust serverAuth",
        "line 1: its PEM block is labelled TRUSTED CERTIFICATE",
    ),
    (
        "sed 's/CERT/X509 CERT/' one",
        "line 1: its PEM block is labelled X509 CERTIFICATE",
    ),
    (
        "openssl crl2pkcs7 -nocrl -certfile one",
        "line 1: its PEM block is labelled PKCS7",
    ),
    (
        "cat two; echo -----BEGIN CERTIFICATE-----; echo MAgwADAAAwIAAA==; echo -----END CERTIFICATE-----",
        ": its PEM block is not an X.509 certificate",
    ),
    ("cat one key", "it holds a private key"),
    ("cat /dev/null", "it holds no certificate"),
];

#[test]
fn a_file_of_which_a_root_would_be_lost_is_refused_with_its_name_and_the_line() {
    let bed = bed();
    let mut followed = 0;
    for (recipe, says) in UNREADABLE {
        let file = shell(&bed.path(""), recipe);
        fs::write(bed.path("trust/b.pem"), file).unwrap();
        fs::copy(bed.path("two"), bed.path("trust/a.pem")).unwrap();
        let (output, said) = check(&bed);
        assert_eq!(output.status.code(), Some(65), "{recipe}: {said}");
        let path = bed.path("trust/b.pem");
        let begin = format!("cannot use {}: ", path.display());
        assert!(
            said.contains(&begin) && said.contains(says),
            "{recipe}: {said}"
        );
        // A command that is advised makes a file that is taken.
        let hints = said.lines().filter_map(|line| line.split_once("hint: "));
        for (_, hint) in hints.filter(|(_, hint)| hint.contains("new.pem")) {
            for old in ["old.pem", "old.crt"] {
                fs::copy(&path, bed.path(old)).unwrap();
            }
            shell(&bed.path(""), hint);
            fs::copy(bed.path("new.pem"), &path).unwrap();
            let (output, said) = check(&bed);
            assert!(output.status.success(), "{hint}: {said}");
            followed += 1;
        }
    }
    assert_eq!(followed, 8);
}

/// The start ends, and a running one keeps what it has.
#[test]
fn a_root_that_cannot_be_read_is_no_root_that_is_left_out() {
    let bed = bed();
    fs::write(
        bed.path("trust/b.pem"),
        shell(&bed.path(""), "cat two; head -5 one"),
    )
    .unwrap();
    let end = bed.start(Place::Child).wait_end();
    assert_eq!(end.code, 65);
    assert!(
        end.error().contains("trust/b.pem: line "),
        "{}",
        end.error()
    );
    fs::copy(end.bed.path("two"), end.bed.path("trust/b.pem")).unwrap();
    let mut init = end.bed.start(Place::Child);
    init.wait_ready();
    let export = init.bed.path("run/export/ca-bundle.pem");
    let before = fs::read_to_string(&export).unwrap();
    fs::write(
        init.bed.path("trust/c.pem"),
        shell(&init.bed.path(""), "head -5 one"),
    )
    .unwrap();
    init.signal(Signal::SIGHUP);
    init.wait_for("it is told", |status| {
        let error = status["manifest_error"].as_str().unwrap_or_default();
        error.contains("trust/c.pem: line 1: its PEM block is cut short")
    });
    assert_eq!(fs::read_to_string(export).unwrap(), before);
    init.stop();
}

#[test]
fn roots_that_cannot_be_read_keep_no_revocation_back() {
    let bed = bed();
    bed.allow(&["a.example", "b.example"]);
    fs::copy(bed.path("one"), bed.path("trust/one.pem")).unwrap();
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    let roots = |init: &Init| fs::read_to_string(init.bed.path("run/upstream-roots.pem")).unwrap();
    let before = roots(&init);
    fs::write(init.bed.path("trust/bad.pem"), "nothing").unwrap();
    init.bed.allow(&["a.example"]);
    let status = init.wait_applied(2);
    assert_eq!(status["revocation"]["hosts"][0], "b.example");
    let error = status["manifest_error"].as_str().unwrap();
    assert!(
        error.contains("trust/bad.pem: it holds no certificate")
            && error
                .ends_with("the manifest itself is taken up, with the roots that were read before"),
        "{error}"
    );
    assert_eq!(roots(&init), before);
    // Once for all the looks at it.
    init.signal(Signal::SIGHUP);
    fs::copy(init.bed.path("two"), init.bed.path("trust/bad.pem")).unwrap();
    init.wait_for("it is mended", |status| status["manifest_error"].is_null());
    init.wait_until("the root is there", |init| {
        (count(&roots(init)) == count(&before) + 1).then_some(())
    });
    assert_eq!(
        init.console()
            .matches("the changed files of trust/ are not used")
            .count(),
        1
    );
    init.stop();
}

#[test]
fn a_reload_without_its_roots_is_answered_once_the_manifest_is_in_force() {
    let keys = "grace_seconds: 1, probe_seconds: 1, drain_seconds: 2";
    let bed = Bed::new().with_supervisor(keys).with_faults("tunnels 1");
    fs::create_dir(bed.path("trust")).unwrap();
    let mut init = bed.start(Place::Child);
    init.wait_ready();
    fs::write(init.bed.path("trust/bad.pem"), "nothing").unwrap();
    let text = init.bed.manifest_text(&["a.example"], "");
    let limited = "pipelock:\n  requests_per_minute: 700\n";
    let text = text.replace("pipelock:\n", limited);
    assert!(text.contains(limited), "{text}");
    init.bed.replace_manifest(&text);
    let output = init.bed.run(&["reload"]);
    let config = init.status()["config"].clone();
    let shown = String::from_utf8(init.bed.run(&["status"]).stdout).unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(65), "{why}");
    assert_eq!(config["generation"], 2, "{why}");
    assert_eq!(config["applied_generation"], 2, "{why}");
    assert_eq!(config["roots_refused"], true);
    let ends = "bad.pem: it holds no certificate";
    assert!(why.contains(ends), "{why}");
    let ends = "the manifest itself is taken up, with the roots that were read before\n  generation 2 is in force\n";
    assert!(why.ends_with(ends), "{why}");
    assert!(
        shown.contains("  manifest     cannot use /") && !shown.contains("is not used"),
        "{shown}"
    );
    fs::remove_file(init.bed.path("trust/bad.pem")).unwrap();
    init.wait_for("it is mended", |status| {
        status["manifest_error"].is_null() && status["config"]["roots_refused"] == false
    });
    init.stop();
}

#[test]
fn a_root_that_serves_nobody_for_what_is_in_it_is_told() {
    let bed = bed();
    let make = |extension: &str, name: &str| {
        shell(
            &bed.path(""),
            &format!(
                "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} \
                 -addext {extension} -keyout rsa.key -out trust/{name}.pem 2>&1"
            ),
        );
    };
    make("extendedKeyUsage=clientAuth", "client");
    make("1.3.6.1.4.1.99999.7=critical,ASN1:NULL", "unknown");
    make("extendedKeyUsage=serverAuth", "good");
    let (output, said) = check(&bed);
    assert!(output.status.success(), "{said}");
    for words in [
        "trust/client.pem: CN=client: its extended key usage does not name serverAuth",
        "trust/unknown.pem: CN=unknown: its extension 1.3.6.1.4.1.99999.7 is critical",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("CN=good"), "{said}");
}

#[test]
fn what_editors_and_systems_leave_in_trust_stops_neither_start_nor_revocation() {
    let bed = bed();
    fs::copy(bed.path("one"), bed.path("trust/one.pem")).unwrap();
    // Emacs's lock, a Mac's other half of a file, vi's copy, what Kubernetes swaps.
    symlink("somebody@host.1:2", bed.path("trust/.#one.pem")).unwrap();
    for name in ["._one.pem", ".one.pem.swp", ".pem"] {
        fs::write(bed.path("trust").join(name), b"\0\x05\x16\x07").unwrap();
    }
    fs::create_dir(bed.path("trust/..data")).unwrap();
    // And what is said to be passed over: a directory, as Docker makes one of a file to be
    // mounted that is not there.
    fs::create_dir_all(bed.path("trust/old.pem/deep")).unwrap();
    for name in ["README", "one.pem.bak", "odd\nname"] {
        fs::write(bed.path("trust").join(name), "x").unwrap();
    }
    bed.allow(&["a.example", "b.example"]);
    let mut init = bed.start(Place::Child);
    let status = init.wait_ready();
    let warnings = status["warnings"].to_string();
    assert!(
        warnings.contains(
            "trust: passed over: README, odd\\\\nname, old.pem/, one.pem.bak; roots are read"
        ),
        "{warnings}"
    );
    assert!(!warnings.contains("one.pem.swp") && !warnings.contains("._one"));
    let upstream = fs::read_to_string(init.bed.path("run/upstream-roots.pem")).unwrap();
    let one = fs::read_to_string(init.bed.path("one")).unwrap();
    assert!(upstream.contains(&one));
    init.bed.allow(&["a.example"]);
    let status = init.wait_applied(2);
    assert_eq!(status["revocation"]["hosts"][0], "b.example");
    // It goes with what it was about.
    fs::remove_dir_all(init.bed.path("trust/old.pem")).unwrap();
    for name in ["README", "one.pem.bak", "odd\nname"] {
        fs::remove_file(init.bed.path("trust").join(name)).unwrap();
    }
    init.signal(Signal::SIGHUP);
    init.wait_for("nothing is passed over", |status| {
        !status["warnings"].to_string().contains("passed over")
    });
    init.stop();
}

#[test]
fn roots_are_read_of_files_by_any_name_they_have_elsewhere() {
    let bed = bed();
    for name in ["a.crt", "B.PEM", "c.cer"] {
        fs::copy(bed.path("one"), bed.path("trust").join(name)).unwrap();
    }
    let mut init = bed.start(Place::Child);
    let status = init.wait_ready();
    assert!(
        !status["warnings"].to_string().contains("passed over"),
        "{status}"
    );
    let one = fs::read_to_string(init.bed.path("one")).unwrap();
    for place in ["run/upstream-roots.pem", "run/export/ca-bundle.pem"] {
        let text = fs::read_to_string(init.bed.path(place)).unwrap();
        assert_eq!(text.matches(&one).count(), 3, "{place}");
    }
    init.stop();
}

#[test]
fn a_root_that_nobody_takes_any_more_is_told_and_stops_nothing() {
    let bed = bed();
    shell(
        &bed.path(""),
        "openssl x509 -in one -signkey key -days -1 -out trust/old.pem 2>&1 || \
         openssl x509 -in two -signkey key -days -1 -out trust/old.pem 2>&1",
    );
    let mut init = bed.start(Place::Child);
    let status = init.wait_ready();
    let warnings = status["warnings"].to_string();
    assert!(
        warnings.contains("trust/old.pem: CN=") && warnings.contains(" expired at 20"),
        "{warnings}"
    );
    let bundle = fs::read_to_string(init.bed.path("run/export/ca-bundle.pem")).unwrap();
    assert!(count(&bundle) >= 2);
    init.stop();
}

#[test]
fn names_of_files_are_told_in_one_line() {
    let bed = bed();
    fs::write(bed.path("trust/a\nb.pem"), "x").unwrap();
    let (output, said) = check(&bed);
    assert_eq!(output.status.code(), Some(65));
    assert!(
        said.contains(r"trust/a\nb.pem: it holds no certificate"),
        "{said}"
    );
    fs::remove_file(bed.path("trust/a\nb.pem")).unwrap();
    symlink("gone", bed.path("trust/a\nb.pem")).unwrap();
    let (_, said) = check(&bed);
    assert!(said.contains(r"trust/a\nb.pem: No such file"), "{said}");
    fs::remove_file(bed.path("trust/a\nb.pem")).unwrap();
    // A directory that was meant and is not there.
    fs::remove_dir(bed.path("trust")).unwrap();
    assert!(check(&bed).0.status.success());
    symlink("gone", bed.path("trust")).unwrap();
    let (output, said) = check(&bed);
    assert_eq!(output.status.code(), Some(65), "{said}");
}

/// What the warning about an intermediate advises.
#[test]
fn an_intermediate_serves_who_wants_a_root_once_that_one_is_in_trust() {
    let bed = bed();
    shell(
        &bed.path(""),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=root -keyout root.key -out root.pem 2>&1
         openssl ecparam -name prime256v1 -genkey -noout -out run/ca.key; chmod 600 run/ca.key
         printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > ext
         openssl req -new -key run/ca.key -subj /CN=intermediate -out csr
         openssl x509 -req -in csr -CA root.pem -CAkey root.key -set_serial 5 -days 2 -extfile ext -out run/ca.crt 2>&1
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a.example -keyout leaf.key -out csr 2>&1
         openssl x509 -req -in csr -CA run/ca.crt -CAkey run/ca.key -set_serial 6 -days 1 -out leaf.pem 2>&1",
    );
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(bed.path("run/ca.key"), Some(65534), Some(65534)).unwrap();
    }
    let verified = |init: &Init| {
        Command::new("openssl")
            .args(["verify", "-no-CApath", "-no-CAstore", "-CAfile"])
            .args([
                init.bed.path("run/export/ca-bundle.pem"),
                init.bed.path("leaf.pem"),
            ])
            .output()
            .unwrap()
            .status
            .success()
    };
    let mut init = bed.start(Place::Child);
    let status = init.wait_ready();
    assert!(
        status["warnings"]
            .to_string()
            .contains("ca.crt: the CA certificate is no root"),
        "{status}"
    );
    assert!(!verified(&init));
    let console = init.console();
    assert!(
        console.contains("ca.crt: the CA certificate is no root, but issued by CN=root"),
        "{console}"
    );
    fs::copy(init.bed.path("root.pem"), init.bed.path("trust/root.pem")).unwrap();
    init.signal(Signal::SIGHUP);
    init.wait_until("clients have it", |init| verified(init).then_some(()));
    init.stop();
}

// The public roots.

/// With an `/etc` of its own that has nothing of the machine's but what resolves names, and
/// what `more` puts there. `$1` is the bed.
fn start_with_etc(bed: Bed, more: &str) -> Init {
    let directory = bed.path("");
    let script = format!(
        "cd \"$1\"; mkdir etc; mount -t tmpfs none etc; cp -a /etc/passwd /etc/group /etc/hosts etc
         {more}
         mount --bind etc /etc; shift; exec \"$@\""
    );
    let mut line = vec!["unshare", "--mount", "sh", "-ec", &script, "sh"];
    line.push(directory.to_str().unwrap());
    bed.start_under(Place::Child, Console::Read, &line)
}

/// What puts the root `one` where Go looks for it, and nothing where it looks before.
const PLACES: [&str; 10] = [
    "mkdir -p etc/ssl/certs; cp one etc/ssl/certs/ca-certificates.crt",
    "mkdir -p etc/pki/tls/certs; cp one etc/pki/tls/certs/ca-bundle.crt",
    "mkdir -p etc/ssl; cp one etc/ssl/ca-bundle.pem",
    "mkdir -p etc/pki/tls; cp one etc/pki/tls/cacert.pem",
    "mkdir -p etc/pki/ca-trust/extracted/pem; cp one etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "mkdir -p etc/ssl; cp one etc/ssl/cert.pem",
    // Red Hat's links.
    "mkdir -p etc/pki/ca-trust/extracted/pem etc/pki/tls/certs etc/ssl
     cp one etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem
     ln -s ../../ca-trust/extracted/pem/tls-ca-bundle.pem etc/pki/tls/certs/ca-bundle.crt
     ln -s ../pki/tls/certs etc/ssl/certs",
    // Directories, with OpenSSL's names for the same file and a link out of it.
    "mkdir -p etc/ssl/certs; cp one etc/ssl/certs/one.pem; ln -s one.pem etc/ssl/certs/01234567.0",
    "mkdir -p etc/pki/tls/certs; ln -s \"$1/one\" etc/pki/tls/certs/one.crt; cp key etc/pki/tls/certs/",
    // One that is empty, as an update that failed leaves it.
    "mkdir -p etc/ssl/certs; : > etc/ssl/certs/ca-certificates.crt; cp one etc/ssl/cert.pem",
];

fn can_mount() -> bool {
    let can = nix::unistd::geteuid().is_root();
    if !can {
        skipped("where the public roots are", "only root can mount");
    }
    can
}

#[test]
fn finds_the_public_roots_wherever_go_does() {
    if !can_mount() {
        return;
    }
    for place in PLACES {
        let mut init = start_with_etc(bed(), place);
        let status = init.wait_ready();
        assert!(
            !status["warnings"].to_string().contains("public"),
            "{place}: {status}"
        );
        let one = fs::read_to_string(init.bed.path("one")).unwrap();
        let bundle = fs::read_to_string(init.bed.path("run/export/ca-bundle.pem")).unwrap();
        assert!(bundle.starts_with(&one), "{place}: {bundle}");
        assert_eq!(count(&bundle), 2, "{place}");
        // And beside extra ones, for both.
        fs::copy(init.bed.path("two"), init.bed.path("trust/two.pem")).unwrap();
        init.signal(Signal::SIGHUP);
        init.wait_applied(2);
        init.wait_until("the clients have it", |init| {
            let bundle = fs::read_to_string(init.bed.path("run/export/ca-bundle.pem")).ok()?;
            (bundle.starts_with(&one) && count(&bundle) == 3).then_some(())
        });
        let upstream = fs::read_to_string(init.bed.path("run/upstream-roots.pem")).unwrap();
        assert!(
            upstream.starts_with(&one) && count(&upstream) == 2,
            "{place}: {upstream}"
        );
        init.stop();
    }
}

#[test]
fn says_where_there_are_no_public_roots() {
    if !can_mount() {
        return;
    }
    let bed = bed();
    fs::copy(bed.path("two"), bed.path("trust/two.pem")).unwrap();
    let mut init = start_with_etc(bed, "mkdir -p etc/ssl/certs");
    let status = init.wait_ready();
    let warnings = status["warnings"].to_string();
    assert!(
        warnings.contains("trust has all the roots that pipelock and its clients know, and no public server is trusted"),
        "{warnings}"
    );
    fs::remove_file(init.bed.path("trust/two.pem")).unwrap();
    init.signal(Signal::SIGHUP);
    init.wait_for("it is told without them", |status| {
        status["warnings"]
            .to_string()
            .contains("ca-bundle.pem holds no public roots")
    });
    init.stop();
}
