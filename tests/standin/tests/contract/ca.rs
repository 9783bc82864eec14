use std::io::Write;

use rcgen::{CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bed::{Bed, Ca, Echo, Rendered, last_words, sec1_pem, wait_for};

#[track_caller]
fn refuses(bed: &Bed, words: &str) {
    let output = bed.refused(&bed.render(&Rendered::default()));
    assert_eq!(output.status.code(), Some(1));
    let said = last_words(&output);
    assert!(said.contains(words), "said {said:?}, not {words:?}");
}

#[track_caller]
fn starts(bed: &Bed) {
    let daemon = bed.start(&Rendered::default());
    assert_eq!(daemon.health()["tls_interception_enabled"], true);
}

#[test]
fn reads_a_key_only_as_sec1_with_its_curve() {
    let bed = Bed::new();
    bed.write("ca-key.pem", &bed.ca.key.serialize_pem(), 0o600);
    refuses(
        &bed,
        "load TLS CA: parse CA key: x509: failed to parse private key (use ParsePKCS8PrivateKey instead",
    );
    // SEQUENCE { 1, OCTET STRING of 32 }: an EC key that does not say on what curve.
    let mut bare = vec![0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20];
    bare.extend([7; 32]);
    let bare = pem::encode(&pem::Pem::new("EC PRIVATE KEY", bare));
    bed.write("ca-key.pem", &bare, 0o600);
    refuses(
        &bed,
        "load TLS CA: parse CA key: x509: unknown elliptic curve",
    );
    bed.write("ca-key.pem", "hello\n", 0o600);
    refuses(&bed, "load TLS CA: no PEM block in CA key file");
    bed.write("ca-key.pem", &bed.ca.sec1(), 0o600);
    starts(&bed);
}

#[test]
fn refuses_a_key_others_may_read_or_anybody_may_run() {
    let bed = Bed::new();
    for mode in [0o400, 0o440, 0o600, 0o640] {
        bed.write("ca-key.pem", &bed.ca.sec1(), mode);
        starts(&bed);
    }
    for mode in [0o644, 0o660, 0o700, 0o610, 0o604] {
        bed.write("ca-key.pem", &bed.ca.sec1(), mode);
        let key = bed.path("ca-key.pem").display().to_string();
        refuses(
            &bed,
            &format!(
                "loading config: invalid config: CA key {key} is too permissive \
                 (mode {mode:04o}): restrict to 0600 or 0640"
            ),
        );
    }
}

#[test]
fn refuses_a_certificate_that_may_not_sign_or_is_of_another_key() {
    let bed = Bed::new();
    let reissued = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = bed.ca.params.clone();
        change(&mut params);
        params.self_signed(&bed.ca.key).unwrap().pem()
    };
    bed.write(
        "ca.pem",
        &reissued(&|p| p.is_ca = IsCa::ExplicitNoCa),
        0o644,
    );
    refuses(&bed, "load TLS CA: certificate is not a CA");
    bed.write(
        "ca.pem",
        &reissued(&|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]),
        0o644,
    );
    refuses(&bed, "load TLS CA: CA certificate missing KeyUsageCertSign");
    bed.write("ca.pem", &reissued(&|p| p.key_usages.clear()), 0o644);
    refuses(&bed, "load TLS CA: CA certificate missing KeyUsageCertSign");
    bed.write("ca.pem", "hello\n", 0o644);
    refuses(&bed, "load TLS CA: no PEM block in CA cert file");
    bed.write("ca.pem", &bed.ca.pem, 0o644);
    bed.write(
        "ca-key.pem",
        &sec1_pem(&KeyPair::generate().unwrap()),
        0o600,
    );
    refuses(&bed, "load TLS CA: CA key does not match certificate");
}

#[test]
fn names_a_file_of_the_pair_that_is_missing() {
    let bed = Bed::new();
    for (file, what) in [("ca.pem", "cert"), ("ca-key.pem", "key")] {
        let text = std::fs::read_to_string(bed.path(file)).unwrap();
        std::fs::remove_file(bed.path(file)).unwrap();
        let path = bed.path(file).display().to_string();
        refuses(
            &bed,
            &format!(
                "CA {what} not found at {path} (run 'pipelock tls init'): \
                 stat {path}: no such file or directory"
            ),
        );
        bed.write(file, &text, 0o600);
    }
}

#[test]
fn loads_a_ca_on_p384_and_serves_with_it() {
    let mut bed = Bed::new();
    bed.ca = Ca::new("Pipelock CA", &rcgen::PKCS_ECDSA_P384_SHA384);
    bed.write("ca.pem", &bed.ca.pem, 0o644);
    bed.write("ca-key.pem", &bed.ca.sec1(), 0o600);
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    assert_eq!(
        daemon.secure(&bed, upstream.port, "/", "", "").status(),
        200
    );
}

#[test]
fn issues_leaves_of_a_day_for_the_host_and_sends_nothing_else() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    let leaf_for = |host: &str| {
        let mut stream = daemon.tls(host, upstream.port, &bed.ca).unwrap();
        let chain = stream.conn.peer_certificates().unwrap().to_vec();
        assert_eq!(chain.len(), 1, "more than the leaf was sent");
        let _ = stream.flush();
        chain[0].clone()
    };
    let der = leaf_for("localhost");
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.issuer().to_string(), "CN=Pipelock CA");
    assert_eq!(leaf.subject().to_string(), "CN=localhost");
    let validity = leaf.validity();
    let (from, to) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    assert_eq!(to - from, 25 * 3600);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let age = i64::try_from(now).unwrap() - from;
    assert!((3590..3700).contains(&age), "valid since {age} s");
    assert_eq!(
        leaf.public_key().subject_public_key.data.len(),
        65,
        "not on P-256"
    );
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(names.as_slice(), [GeneralName::DNSName("localhost")]);
    assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
    assert!(
        leaf.extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .server_auth
    );
    let der = leaf_for("127.0.0.1");
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(names.as_slice(), [GeneralName::IPAddress(&[127, 0, 0, 1])]);
}

#[test]
fn names_the_authorities_key_only_where_the_ca_names_its_own() {
    let mut bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let has_key_identifier = |bed: &Bed| {
        let daemon = bed.start(&Rendered::default());
        let stream = daemon.tls("localhost", upstream.port, &bed.ca).unwrap();
        let der = stream.conn.peer_certificates().unwrap()[0].clone();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        leaf.extensions().iter().any(|e| {
            matches!(
                e.parsed_extension(),
                ParsedExtension::AuthorityKeyIdentifier(_)
            )
        })
    };
    assert!(has_key_identifier(&bed));
    // Made by openssl, because rcgen gives every CA a key identifier.
    let pem = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-new",
            "-subj",
            "/CN=Pipelock CA",
            "-days",
            "9",
            "-key",
        ])
        .arg(bed.path("ca-key.pem"))
        .args([
            "-addext",
            "subjectKeyIdentifier=none",
            "-addext",
            "authorityKeyIdentifier=none",
        ])
        .args([
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ])
        .output()
        .unwrap();
    bed.ca.pem = String::from_utf8(pem.stdout).unwrap();
    bed.write("ca.pem", &bed.ca.pem, 0o644);
    let der = bed.ca.der();
    let (_, own) = X509Certificate::from_der(&der).unwrap();
    let named = own.extensions().iter().any(|e| {
        matches!(
            e.parsed_extension(),
            ParsedExtension::SubjectKeyIdentifier(_)
        )
    });
    assert!(!named, "the CA still names its key");
    assert!(!has_key_identifier(&bed));
}

#[test]
fn offers_http_2_and_http_1_1() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    for (offered, wanted) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = daemon
            .tls_as("localhost", "localhost", upstream.port, &bed.ca, offered)
            .unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(wanted.as_bytes()));
    }
}

#[test]
fn keeps_the_old_ca_when_a_reload_finds_a_bad_one() {
    let bed = Bed::new();
    let upstream = Echo::tls(&bed.upstream);
    let daemon = bed.start(&Rendered::default());
    bed.write("ca-key.pem", &bed.ca.key.serialize_pem(), 0o600);
    let mut rendered = Rendered::default();
    rendered.allow.push("another.invalid".to_owned());
    bed.install(&bed.render(&rendered));
    daemon.event("config_reload", |e| e["status"] == "success");
    let failed = wait_for("the CA's error", || {
        let cause = |e: &serde_json::Value| e["error"].as_str().unwrap_or_default().to_owned();
        daemon
            .events()
            .iter()
            .map(cause)
            .find(|c| c.contains("TLS cert cache reload failed"))
    });
    assert!(
        failed.starts_with("TLS cert cache reload failed: load TLS CA: parse CA key: "),
        "{failed}"
    );
    assert_eq!(
        daemon.secure(&bed, upstream.port, "/", "", "").status(),
        200
    );
}
