//! The CA: what is generated satisfies OpenSSL, and what cannot serve pipelock is refused
//! with the reason. Fixtures are made by `openssl` in a temporary directory; no key is
//! committed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use sidecar_init::ca::{
    CaError, CertificateProblem, Curve, ENTROPY_BYTES, Facts, KeyProblem, Pair, Warning, check,
    generate, rfc3339,
};

const DAY: u64 = 86_400;
const TEN_YEARS: u64 = 3_650 * DAY;
/// 2026-01-02T03:04:05Z
const NEW_YEAR_2026: u64 = 1_767_323_045;

const AUTHORITY: &str = "basicConstraints = critical, CA:TRUE, pathlen:0\n\
                         keyUsage = critical, keyCertSign, cRLSign\n\
                         subjectKeyIdentifier = hash\n";

/// A directory of files made by `openssl`, gone when the test ends.
struct Workshop(PathBuf);

impl Workshop {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "sidecar-ca-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Runs `openssl` on words separated by blanks, and returns what it printed.
    fn openssl(&self, arguments: &str) -> String {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.0)
            .output()
            .expect("this test needs the program openssl (Debian: apt-get install openssl)");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "openssl {arguments}: {}",
            text(&output.stderr)
        );
        text(&output.stdout) + &text(&output.stderr)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), contents).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }

    fn write_pair(&self, pair: &Pair) {
        self.write("ca.pem", &pair.cert_pem);
        self.write("key.pem", pair.key_pem.as_bytes());
    }

    /// An EC key in `key.pem`, SEC1.
    fn make_key(&self, curve: &str) {
        self.openssl(&format!(
            "ecparam -name {curve} -genkey -noout -out key.pem"
        ));
    }

    /// A certificate of `key.pem` in `ca.pem`, signed by itself.
    fn certify(&self, extensions: &str) {
        self.write(
            "req.cnf",
            format!(
                "[req]\nprompt = no\nutf8 = yes\ndistinguished_name = dn\nx509_extensions = ext\n\
                 [dn]\nO = Example\nCN = Own CA\n[ext]\n{extensions}"
            ),
        );
        self.openssl("req -x509 -new -config req.cnf -key key.pem -days 30 -out ca.pem");
    }

    fn authority(curve: &str) -> Self {
        let workshop = Self::new();
        workshop.make_key(curve);
        workshop.certify(AUTHORITY);
        workshop
    }

    /// `ca.pem` and `key.pem`, judged by this machine's clock.
    fn check(&self) -> Result<Facts, CaError> {
        check(&self.read("ca.pem"), &self.read("key.pem"), clock())
    }

    /// The error that `ca.pem` and `key.pem` earn, and its text, which holds no key.
    fn refusal(&self) -> (CaError, String) {
        refusal(&self.read("ca.pem"), &self.read("key.pem"), clock())
    }

    /// A SEC1 key in `key.pem` from its parts in hexadecimal; without a curve, bare.
    fn assemble_key(&self, secret: &str, curve: Option<&str>, public: Option<&str>) {
        let mut recipe = format!(
            "asn1 = SEQUENCE:key\n[key]\nversion = INTEGER:1\n\
             secret = FORMAT:HEX,OCTETSTRING:{secret}\n"
        );
        if let Some(curve) = curve {
            writeln!(recipe, "curve = EXPLICIT:0,OID:{curve}").unwrap();
        }
        if let Some(public) = public {
            writeln!(recipe, "public = EXPLICIT:1,FORMAT:HEX,BITSTRING:{public}").unwrap();
        }
        self.write("key.cnf", recipe);
        self.openssl("asn1parse -noout -genconf key.cnf -out der");
        let base64 = self.openssl("base64 -in der");
        self.write(
            "key.pem",
            format!("-----BEGIN EC PRIVATE KEY-----\n{base64}-----END EC PRIVATE KEY-----\n"),
        );
    }

    /// The secret and the public point of `key.pem` in hexadecimal.
    fn key_parts(&self) -> (String, String) {
        let text = self.openssl("ec -in key.pem -noout -text");
        let part = |from: &str, to: &str| {
            let (_, rest) = text.split_once(from).unwrap();
            let digits = rest.split_once(to).unwrap().0;
            digits.chars().filter(char::is_ascii_hexdigit).collect()
        };
        (part("priv:", "pub:"), part("pub:", "ASN1"))
    }

    /// Puts bytes behind the DER within the PEM block of a file.
    fn append_to_der(&self, name: &str, label: &str) {
        let pem = String::from_utf8(self.read(name)).unwrap();
        let base64: String = pem.lines().filter(|line| !line.contains("-----")).collect();
        self.write("base64", base64 + "\n");
        self.openssl("base64 -d -A -in base64 -out der");
        let mut der = self.read("der");
        der.extend(b"garbage");
        self.write("der", der);
        let base64 = self.openssl("base64 -in der");
        self.write(
            name,
            format!("-----BEGIN {label}-----\n{base64}-----END {label}-----\n"),
        );
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Entropy that a human can tell apart and a curve accepts.
fn entropy(seed: u8) -> [u8; ENTROPY_BYTES] {
    std::array::from_fn(|i| seed ^ u8::try_from(i % 251).unwrap().wrapping_mul(37))
}

fn generated(now: u64) -> Pair {
    generate(&entropy(1), now).unwrap()
}

fn refusal(cert: &[u8], key: &[u8], now: u64) -> (CaError, String) {
    let error = check(cert, key, now).expect_err("the pair should be refused");
    let text = error.to_string();
    assert!(
        text.starts_with("cannot use CA ") && !text.ends_with('.'),
        "{text}"
    );
    assert_no_key_in(&text, key);
    assert_no_key_in(&format!("{error:?}"), key);
    (error, text)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// No twelve characters of the key's base64, no eight bytes of it in hexadecimal, no
/// six of them as a list of numbers.
fn assert_no_key_in(text: &str, key_file: &[u8]) {
    let key_file = String::from_utf8_lossy(key_file);
    for line in key_file.lines().filter(|line| !line.contains("--")) {
        for window in line.as_bytes().windows(12) {
            let window = std::str::from_utf8(window).unwrap_or("\0");
            assert!(!text.contains(window), "key bytes in {text:?}");
        }
    }
    let workshop = Workshop::new();
    let base64: String = key_file
        .lines()
        .filter(|line| !line.contains("--") && !line.contains(':'))
        .collect();
    workshop.write("base64", base64 + "\n");
    workshop.openssl("base64 -d -A -in base64 -out der");
    let der = workshop.read("der");
    let lower = text.to_lowercase();
    for window in der.windows(8) {
        let hex = hexadecimal(window);
        assert!(!lower.contains(&hex), "key bytes in {text:?}");
        let list = format!("{:?}", &window[..6]);
        assert!(
            !text.contains(&list[1..list.len() - 1]),
            "key bytes in {text:?}"
        );
    }
}

#[test]
fn has_the_shape_of_pipelocks_own_ca() {
    let workshop = Workshop::new();
    workshop.write_pair(&generated(NEW_YEAR_2026));
    let text = workshop.openssl("x509 -in ca.pem -noout -text");
    for line in [
        "Version: 3 (0x2)",
        "Signature Algorithm: ecdsa-with-SHA256",
        "Issuer: O = Pipelock, CN = Pipelock CA",
        "Subject: O = Pipelock, CN = Pipelock CA",
        "Not Before: Jan  1 03:04:05 2026 GMT",
        "Not After : Dec 31 03:04:05 2035 GMT",
        "NIST CURVE: P-256",
        "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign\n",
        "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0\n",
        "X509v3 Subject Key Identifier: \n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let structure = workshop.openssl("asn1parse -in ca.pem");
    assert_eq!(
        structure.matches("PRINTABLESTRING   :Pipelock\n").count(),
        2
    );
    assert_eq!(
        structure
            .matches("PRINTABLESTRING   :Pipelock CA\n")
            .count(),
        2
    );
}

#[test]
fn states_the_facts_that_openssl_reads() {
    let workshop = Workshop::new();
    let pair = generated(NEW_YEAR_2026);
    workshop.write_pair(&pair);
    let fingerprint = workshop.openssl("x509 -in ca.pem -noout -fingerprint -sha256");
    let fingerprint = fingerprint.trim().rsplit('=').next().unwrap();
    assert_eq!(
        pair.facts,
        Facts {
            fingerprint_sha256: fingerprint.replace(':', "").to_lowercase(),
            subject: "O=Pipelock, CN=Pipelock CA".to_owned(),
            not_before: NEW_YEAR_2026 - DAY,
            not_after: NEW_YEAR_2026 + TEN_YEARS,
            curve: Curve::P256,
            warnings: vec![],
            certificate_pem: pair.cert_pem.clone(),
        }
    );
}

#[test]
fn signs_a_leaf_that_openssl_verifies_strictly() {
    let workshop = Workshop::new();
    workshop.write_pair(&generated(clock()));
    workshop.write(
        "leaf.cnf",
        "subjectAltName = DNS:example.com\nauthorityKeyIdentifier = keyid\n\
         subjectKeyIdentifier = hash\nkeyUsage = critical, digitalSignature\n\
         extendedKeyUsage = serverAuth\n",
    );
    workshop.openssl("ecparam -name prime256v1 -genkey -noout -out leaf-key.pem");
    workshop.openssl("req -new -key leaf-key.pem -subj /CN=example.com -out leaf.csr");
    workshop.openssl(
        "x509 -req -in leaf.csr -CA ca.pem -CAkey key.pem -set_serial 7 -days 1 \
         -extfile leaf.cnf -out leaf.pem",
    );
    let verdict = workshop.openssl(
        "verify -x509_strict -purpose sslserver -verify_hostname example.com -CAfile ca.pem leaf.pem",
    );
    assert_eq!(verdict.trim(), "leaf.pem: OK");
    assert!(
        workshop
            .openssl("verify -x509_strict -check_ss_sig -CAfile ca.pem ca.pem")
            .contains("ca.pem: OK")
    );
}

#[test]
fn writes_a_sec1_key_that_names_its_curve() {
    let workshop = Workshop::new();
    let pair = generated(NEW_YEAR_2026);
    workshop.write_pair(&pair);
    assert!(pair.key_pem.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
    assert!(pair.key_pem.ends_with("-----END EC PRIVATE KEY-----\n"));
    assert!(
        workshop
            .openssl("ec -in key.pem -noout -text")
            .contains("ASN1 OID: prime256v1")
    );
    // ECPrivateKey: version 1, 32 bytes, [0] curve, [1] public key (RFC 5915).
    let structure: Vec<String> = workshop
        .openssl("asn1parse -in key.pem")
        .lines()
        .map(|line| line.split_once(" l=").unwrap().1.trim_start().to_owned())
        .collect();
    let starts = [
        "119 cons: SEQUENCE",
        "1 prim: INTEGER           :01",
        "32 prim: OCTET STRING",
        "10 cons: cont [ 0 ]",
        "8 prim: OBJECT            :prime256v1",
        "68 cons: cont [ 1 ]",
        "66 prim: BIT STRING",
    ];
    assert_eq!(structure.len(), starts.len());
    for (line, start) in structure.iter().zip(starts) {
        assert!(line.starts_with(start), "{start:?}");
    }
}

#[test]
fn is_the_same_for_the_same_entropy_and_time_alone() {
    let (one, same) = (generated(NEW_YEAR_2026), generated(NEW_YEAR_2026));
    assert_eq!(one.cert_pem, same.cert_pem);
    assert_eq!(*one.key_pem, *same.key_pem);
    let later = generated(NEW_YEAR_2026 + 1);
    assert_ne!(one.cert_pem, later.cert_pem);
    let other = generate(&entropy(2), NEW_YEAR_2026).unwrap();
    assert_ne!(*one.key_pem, *other.key_pem);
}

#[test]
fn takes_the_next_candidate_where_entropy_is_no_scalar() {
    // Zero and everything from the order of the group upwards are no private keys.
    let order_of_p256 = [
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
        0x25, 0x51,
    ];
    let mut last_is_valid = [0_u8; ENTROPY_BYTES];
    last_is_valid[48..80].fill(0xff);
    last_is_valid[80..112].copy_from_slice(&order_of_p256);
    last_is_valid[112..].fill(0x11);
    let mut first_is_valid = last_is_valid;
    first_is_valid[16..48].fill(0x11);
    assert_eq!(
        *generate(&last_is_valid, NEW_YEAR_2026).unwrap().key_pem,
        *generate(&first_is_valid, NEW_YEAR_2026).unwrap().key_pem
    );
}

#[test]
fn refuses_entropy_that_was_never_filled_in() {
    for byte in [0x00, 0xff] {
        let error = generate(&[byte; ENTROPY_BYTES], NEW_YEAR_2026).unwrap_err();
        assert!(matches!(error, CaError::Entropy));
        assert_eq!(
            error.to_string(),
            "cannot generate CA key: the entropy is not random"
        );
    }
}

#[test]
fn writes_dates_from_2050_on_as_generalized_time() {
    let workshop = Workshop::new();
    for (now, before, after) in [
        // 2045-01-01
        (
            2_366_841_600,
            "UTCTIME           :441231000000Z",
            "GENERALIZEDTIME   :20541230000000Z",
        ),
        // 2200-01-01
        (
            7_258_118_400,
            "GENERALIZEDTIME   :21991231000000Z",
            "GENERALIZEDTIME   :22091230000000Z",
        ),
    ] {
        let pair = generated(now);
        assert_eq!(pair.facts.not_after, now + TEN_YEARS);
        workshop.write_pair(&pair);
        let structure = workshop.openssl("asn1parse -in ca.pem");
        assert!(structure.contains(before), "{structure}");
        assert!(structure.contains(after), "{structure}");
    }
}

#[test]
fn refuses_a_clock_that_no_certificate_can_express() {
    let last = 253_402_300_799 - TEN_YEARS;
    assert_eq!(
        rfc3339(generated(last).facts.not_after),
        "9999-12-31T23:59:59Z"
    );
    assert_eq!(
        rfc3339(generated(DAY).facts.not_before),
        "1970-01-01T00:00:00Z"
    );
    for now in [0, DAY - 1, last + 1, u64::MAX] {
        let error = generate(&entropy(1), now).unwrap_err();
        assert!(matches!(error, CaError::Clock { now: said } if said == now));
        assert!(error.to_string().contains("hint: set the clock"));
    }
}

#[test]
fn never_shows_the_key_in_debug_output() {
    let pair = generated(NEW_YEAR_2026);
    let text = format!("{pair:?} {pair:#?}");
    assert!(text.contains("BEGIN CERTIFICATE") && text.contains("fingerprint_sha256"));
    assert!(!text.contains("PRIVATE KEY"));
    // The public half is in both files; what must not show is the secret.
    let hex = hexadecimal(&entropy(1)[16..48]);
    assert!(!text.contains(&hex[..16]));
    let first_line = pair.key_pem.lines().nth(1).unwrap();
    for window in first_line.as_bytes()[..48].windows(12) {
        assert!(!text.contains(std::str::from_utf8(window).unwrap()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn makes_a_usable_pair_with_a_positive_serial_from_any_entropy(
        serial in any::<[u8; 16]>(),
        secret in any::<[u8; 32]>().prop_filter("a scalar", |s| s[0] != 0xff && *s != [0; 32]),
        now in DAY..200_000_000_000_u64,
    ) {
        let mut entropy = [0; ENTROPY_BYTES];
        entropy[..16].copy_from_slice(&serial);
        entropy[16..48].copy_from_slice(&secret);
        let pair = generate(&entropy, now).unwrap();
        let facts = check(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes(), now).unwrap();
        prop_assert_eq!(&facts, &pair.facts);

        // 0x30 0x82 …, 0x30 0x82 …, [0] version, then the serial: INTEGER of 16 bytes.
        let base64: String = pair.cert_pem.lines().filter(|l| !l.contains('-')).collect();
        let head = decode_base64(&base64[..60]);
        prop_assert_eq!(&head[8..15], &[0xa0, 3, 2, 1, 2, 2, 16]);
        prop_assert!((0x40..0x80).contains(&head[15]));
        prop_assert_eq!(head[15] & 0x3f, serial[0] & 0x3f);
        prop_assert_eq!(&head[16..31], &serial[1..]);
    }

    #[test]
    fn judges_any_bytes_without_panicking(
        cert in proptest::collection::vec(any::<u8>(), 0..400),
        key in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(check(&cert, &key, NEW_YEAR_2026).is_err());
    }

    #[test]
    fn judges_damaged_pairs_without_panicking(
        at in 0_usize..600,
        byte in any::<u8>(),
        length in 0_usize..620,
    ) {
        let pair = generate(&entropy(1), NEW_YEAR_2026).unwrap();
        let damage = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes.truncate(length);
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
            bytes
        };
        let _ = check(&damage(&pair.cert_pem), pair.key_pem.as_bytes(), NEW_YEAR_2026);
        let _ = check(pair.cert_pem.as_bytes(), &damage(&pair.key_pem), NEW_YEAR_2026);
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |byte: &u8| DIGITS.iter().position(|digit| digit == byte).unwrap();
    text.as_bytes()
        .chunks(4)
        .flat_map(|group| {
            let bits = group.iter().fold(0, |bits, byte| bits << 6 | value(byte));
            [bits >> 16, bits >> 8, bits].map(|byte| u8::try_from(byte & 0xff).unwrap())
        })
        .collect()
}

#[test]
fn accepts_a_pair_of_openssl_on_every_curve_pipelock_reads() {
    for (name, curve) in [
        ("secp224r1", Curve::P224),
        ("prime256v1", Curve::P256),
        ("secp384r1", Curve::P384),
        ("secp521r1", Curve::P521),
    ] {
        let facts = Workshop::authority(name).check().unwrap();
        assert_eq!(facts.curve, curve);
        assert_eq!(facts.subject, "O=Example, CN=Own CA");
    }
}

#[test]
fn reads_the_first_block_among_text_as_pipelock_does() {
    let workshop = Workshop::authority("prime256v1");
    let text = workshop.openssl("x509 -in ca.pem -text");
    workshop.write("ca.pem", text.replace('\n', "\r\n"));
    let key = workshop.read("key.pem");
    workshop.write(
        "key.pem",
        [b"Bag Attributes\n", key.as_slice(), b"-----BEGIN "].concat(),
    );
    assert_eq!(workshop.check().unwrap().warnings, vec![]);
}

#[test]
fn warns_where_more_certificates_follow() {
    let workshop = Workshop::authority("prime256v1");
    let cert = workshop.read("ca.pem");
    workshop.write("ca.pem", [cert.as_slice(), cert.as_slice()].concat());
    assert_eq!(
        workshop.check().unwrap().warnings,
        vec![Warning::MoreInCertificateFile]
    );
}

#[test]
fn refuses_a_key_in_the_certificate_file() {
    let workshop = Workshop::authority("prime256v1");
    let (cert, key) = (workshop.read("ca.pem"), workshop.read("key.pem"));
    workshop.write("ca.pem", [cert.as_slice(), key.as_slice()].concat());
    let error = workshop.check().unwrap_err().to_string();
    assert!(
        error.starts_with("cannot use CA certificate: its file holds a private key as well"),
        "{error}"
    );
}

#[test]
fn hands_on_the_one_certificate_and_nothing_around_it() {
    let workshop = Workshop::authority("prime256v1");
    let cert = workshop.read("ca.pem");
    let around = [b"password: s3cret\n", cert.as_slice(), cert.as_slice()].concat();
    workshop.write("ca.pem", around);
    let facts = workshop.check().unwrap();
    assert_eq!(facts.certificate_pem.as_bytes(), cert);
}

#[test]
fn warns_of_a_ca_without_subject_key_identifier() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    workshop.certify(
        "basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n\
         subjectKeyIdentifier = none\nauthorityKeyIdentifier = none\n",
    );
    let facts = workshop.check().unwrap();
    assert_eq!(facts.warnings, vec![Warning::NoSubjectKeyIdentifier]);
    assert!(facts.warnings[0].to_string().contains("Python 3.13"));
}

#[test]
fn refuses_pkcs8_with_a_hint_that_works() {
    let workshop = Workshop::authority("prime256v1");
    workshop.openssl("pkcs8 -topk8 -nocrypt -in key.pem -out p8.pem");
    fs::rename(workshop.0.join("p8.pem"), workshop.0.join("key.pem")).unwrap();
    let (error, text) = workshop.refusal();
    assert!(matches!(error, CaError::Key(KeyProblem::Pkcs8)));
    follow_hint(&workshop, &text, "");
}

#[test]
fn refuses_an_encrypted_key_with_a_hint_that_works() {
    let workshop = Workshop::authority("prime256v1");
    let plain = workshop.read("key.pem");
    for how in [
        "pkcs8 -topk8 -v2 aes-256-cbc -passout pass:word -in key.pem -out out.pem",
        "ec -aes-256-cbc -passout pass:word -in key.pem -out out.pem",
    ] {
        workshop.write("key.pem", &plain);
        workshop.openssl(how);
        workshop.write("key.pem", workshop.read("out.pem"));
        let (error, text) = workshop.refusal();
        assert!(matches!(error, CaError::Key(KeyProblem::Encrypted)));
        follow_hint(&workshop, &text, " -passin pass:word");
    }
}

#[test]
fn refuses_a_key_behind_its_parameters_with_a_hint_that_works() {
    let workshop = Workshop::authority("prime256v1");
    let parameters = workshop.openssl("ecparam -name prime256v1");
    let key = workshop.read("key.pem");
    workshop.write("key.pem", [parameters.as_bytes(), &key].concat());
    let (error, text) = workshop.refusal();
    assert!(matches!(error, CaError::Key(KeyProblem::IsParameters)));
    follow_hint(&workshop, &text, "");
}

#[test]
fn refuses_explicit_curve_parameters_with_a_hint_that_works() {
    let workshop = Workshop::authority("prime256v1");
    workshop.openssl("ec -in key.pem -param_enc explicit -out out.pem");
    workshop.write("key.pem", workshop.read("out.pem"));
    let (error, text) = workshop.refusal();
    assert!(matches!(error, CaError::Key(KeyProblem::ExplicitCurve)));
    follow_hint(&workshop, &text, "");
}

/// Runs the `openssl` command of the hint, after which the pair is good.
fn follow_hint(workshop: &Workshop, text: &str, more: &str) {
    let hint = text.split_once("hint: openssl ").expect(text).1;
    workshop.openssl(&format!("{hint}{more}"));
    workshop.write("key.pem", workshop.read("sec1.pem"));
    workshop.check().unwrap();
}

#[test]
fn refuses_keys_of_other_kinds_by_name() {
    let workshop = Workshop::authority("prime256v1");
    for (how, name) in [
        ("genrsa -traditional -out key.pem 2048", "RSA"),
        ("genrsa -out key.pem 2048", "RSA"),
        ("genpkey -algorithm ed25519 -out key.pem", "Ed25519"),
        (
            "ecparam -name secp256k1 -genkey -noout -out key.pem",
            "secp256k1",
        ),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out key.pem",
            "secp256k1",
        ),
        (
            "ecparam -name brainpoolP256r1 -genkey -noout -out key.pem",
            "1.3.36.3.3.2.8.1.1.7",
        ),
    ] {
        workshop.openssl(how);
        let (error, text) = workshop.refusal();
        assert!(
            matches!(
                error,
                CaError::Key(KeyProblem::Algorithm(_) | KeyProblem::Curve(_))
            ),
            "{how}: {text}"
        );
        assert!(text.contains(name), "{text}");
        assert!(text.contains("accepted are"), "{text}");
    }
}

#[test]
fn refuses_certificates_of_other_keys_by_name() {
    let workshop = Workshop::new();
    for (how, name) in [
        ("genrsa -out key.pem 2048", "is RSA;"),
        ("genpkey -algorithm ed25519 -out key.pem", "is Ed25519;"),
        (
            "ecparam -name secp256k1 -genkey -noout -out key.pem",
            "is on secp256k1;",
        ),
    ] {
        workshop.openssl(how);
        workshop.certify(AUTHORITY);
        let (error, text) = workshop.refusal();
        assert!(matches!(
            error,
            CaError::Certificate(CertificateProblem::PublicKey(_))
        ));
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn says_when_certificate_and_key_are_swapped() {
    let workshop = Workshop::authority("prime256v1");
    let (cert, key) = (workshop.read("ca.pem"), workshop.read("key.pem"));
    let error = check(&key, &cert, clock()).unwrap_err();
    assert!(matches!(
        error,
        CaError::Certificate(CertificateProblem::IsKey)
    ));
    assert!(error.to_string().contains("may be swapped"));
    assert_no_key_in(&format!("{error} {error:?}"), &key);
    let (error, text) = refusal(&cert, &cert, clock());
    assert!(matches!(error, CaError::Key(KeyProblem::IsCertificate)));
    assert!(text.contains("may be swapped"));
}

#[test]
fn refuses_a_leaf() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    for constraints in ["", "basicConstraints = CA:FALSE\n"] {
        workshop.certify(&format!(
            "{constraints}keyUsage = critical, digitalSignature, keyCertSign\n\
             subjectAltName = DNS:example.com\n"
        ));
        let (error, text) = workshop.refusal();
        assert!(matches!(
            error,
            CaError::Certificate(CertificateProblem::NotAuthority)
        ));
        assert!(text.contains("it is a leaf"));
    }
}

#[test]
fn refuses_a_ca_that_may_not_sign_or_does_not_say() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    for usage in ["", "keyUsage = critical, cRLSign, digitalSignature\n"] {
        workshop.certify(&format!("basicConstraints = critical, CA:TRUE\n{usage}"));
        let (error, text) = workshop.refusal();
        assert!(matches!(
            error,
            CaError::Certificate(CertificateProblem::MayNotSign)
        ));
        assert!(text.contains("keyCertSign"));
    }
}

#[test]
fn refuses_a_certificate_of_version_1() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    workshop.openssl("req -new -key key.pem -subj /CN=old -out old.csr");
    workshop.openssl("x509 -req -in old.csr -signkey key.pem -days 30 -out ca.pem");
    // Later releases of OpenSSL write version 3 here; then it is a leaf.
    let (error, _) = workshop.refusal();
    assert!(matches!(
        error,
        CaError::Certificate(CertificateProblem::Version | CertificateProblem::NotAuthority)
    ));
}

#[test]
fn refuses_a_key_of_another_pair_on_every_curve() {
    for curve in ["secp224r1", "prime256v1", "secp384r1", "secp521r1"] {
        let workshop = Workshop::authority(curve);
        workshop.make_key(curve);
        let (error, text) = workshop.refusal();
        assert!(matches!(error, CaError::Mismatch));
        assert!(text.contains("does not match the certificate"));
    }
    let workshop = Workshop::authority("secp384r1");
    workshop.make_key("prime256v1");
    assert!(matches!(workshop.refusal().0, CaError::Mismatch));
}

#[test]
fn is_valid_from_its_first_second_to_its_last() {
    let pair = generated(NEW_YEAR_2026);
    let (cert, key) = (pair.cert_pem.as_bytes(), pair.key_pem.as_bytes());
    let (first, last) = (pair.facts.not_before, pair.facts.not_after);
    assert!(check(cert, key, first).is_ok());
    assert!(check(cert, key, last).is_ok());

    let (error, text) = refusal(cert, key, first - 1);
    assert!(matches!(
        error,
        CaError::Certificate(CertificateProblem::NotYetValid { .. })
    ));
    assert!(
        text.contains(
            "not valid before 2026-01-01T03:04:05Z, and the clock says 2026-01-01T03:04:04Z\nhint:"
        ),
        "{text}"
    );
    let (error, text) = refusal(cert, key, last + 1);
    assert!(matches!(
        error,
        CaError::Certificate(CertificateProblem::Expired { .. })
    ));
    assert!(
        text.contains(
            "expired at 2035-12-31T03:04:05Z, and the clock says 2035-12-31T03:04:06Z\nhint:"
        ),
        "{text}"
    );
}

#[test]
fn refuses_files_without_a_pem_block() {
    let pair = generated(NEW_YEAR_2026);
    let (cert, key) = (pair.cert_pem.as_bytes(), pair.key_pem.as_bytes());
    for (file, cause) in [
        (&b""[..], "the file is empty"),
        (b" \r\n", "the file is empty"),
        (b"\x30\x82\x01\x00", "the file is not PEM"),
        (
            b"-----BEGIN CERTIFICATE-----\nMIIB",
            "cut short or not base64",
        ),
        (
            b"-----BEGIN X-----\nAB$=\n-----END X-----\n",
            "cut short or not base64",
        ),
    ] {
        let error = check(file, key, NEW_YEAR_2026).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot use CA certificate: "), "{text}");
        assert!(text.contains(cause), "{text}");
        let text = check(cert, file, NEW_YEAR_2026).unwrap_err().to_string();
        assert!(text.starts_with("cannot use CA key: "), "{text}");
        assert!(text.contains(cause), "{text}");
    }
}

#[test]
fn says_what_a_file_is_that_pem_is_not_found_in_with_a_hint_that_works() {
    let shell = |workshop: &Workshop, script: &str| {
        let status = Command::new("sh")
            .args(["-euc", script])
            .current_dir(&workshop.0)
            .status();
        assert!(status.unwrap().success(), "{script}");
    };
    for (recipe, says) in [
        (
            r"(printf '\357\273\277'; cat good)",
            "a byte order mark stands before",
        ),
        ("iconv -f UTF-8 -t UTF-16 good", "the file is UTF-16"),
        (
            r"tr '\n' '\r' < good",
            "its lines end in carriage returns alone",
        ),
        ("sed 's/^/   /' good", "its PEM block is indented"),
        (
            "openssl base64 -d -A -in base64",
            "the file is not PEM but DER",
        ),
    ] {
        for name in ["ca.pem", "key.pem"] {
            let workshop = Workshop::authority("prime256v1");
            workshop.write("good", workshop.read(name));
            shell(
                &workshop,
                "grep -v -- ----- good | tr -d '\\n' > base64; echo >> base64",
            );
            shell(&workshop, &format!("{recipe} > old.pem; cp old.pem {name}"));
            let error = workshop.check().unwrap_err().to_string();
            assert!(error.contains(says), "{recipe}: {error}");
            assert_eq!(error.contains("DER"), says.contains("DER"), "{error}");
            let (_, hint) = error.split_once("hint: ").expect(&error);
            for other in ["ca.der", "key.der"] {
                fs::copy(workshop.0.join("old.pem"), workshop.0.join(other)).unwrap();
            }
            let command = hint.find("openssl ").map_or(hint, |at| &hint[at..]);
            shell(&workshop, &command.replace("new.pem", name));
            if workshop.0.join("sec1.pem").exists() {
                workshop.write("key.pem", workshop.read("sec1.pem"));
            }
            workshop.check().unwrap();
        }
    }
}

#[test]
fn tells_certificate_and_key_in_one_file_from_swapped_ones() {
    let workshop = Workshop::authority("prime256v1");
    let (cert, key) = (workshop.read("ca.pem"), workshop.read("key.pem"));
    // The key first, in the certificate's file.
    workshop.write("both.pem", [key.as_slice(), &cert].concat());
    workshop.write("ca.pem", workshop.read("both.pem"));
    let (error, text) = workshop.refusal();
    assert!(matches!(
        error,
        CaError::Certificate(CertificateProblem::HoldsKey)
    ));
    assert!(!text.contains("swapped"));
    workshop.openssl(text.split_once("hint: openssl ").expect(&text).1);
    workshop.check().unwrap();
    // The certificate first, in the key's file.
    workshop.write("key.pem", [cert.as_slice(), &key].concat());
    let (error, text) = workshop.refusal();
    assert!(matches!(error, CaError::Key(KeyProblem::BehindCertificate)));
    assert!(!text.contains("swapped"));
    follow_hint(&workshop, &text, "");
}

#[test]
fn a_pair_that_does_not_match_for_a_block_that_is_not_found_is_told_that() {
    let workshop = Workshop::authority("prime256v1");
    let (cert, key) = (workshop.read("ca.pem"), workshop.read("key.pem"));
    workshop.make_key("prime256v1");
    workshop.certify(AUTHORITY);
    let root = workshop.read("ca.pem");
    let with_mark = ["\u{feff}".as_bytes(), &cert, &root].concat();
    let (_, text) = refusal(&with_mark, &key, clock());
    assert!(text.contains("a byte order mark stands before"), "{text}");
    assert!(matches!(refusal(&root, &key, clock()).0, CaError::Mismatch));
}

// What clients take of what a CA signs. Seen with curl, Python 3.6 to 3.13, Node 20 and Go
// behind pipelock 2.3.0; here OpenSSL alone is asked.

/// What is said of a CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Every client takes it.
    Good,
    /// Some do not: a warning with these words.
    Costs(&'static str),
    /// None does, or pipelock does not: refused with these words.
    Refused(&'static str),
}

/// Extensions besides a good CA's, and what is said.
const EXTENSIONS: [(&str, Verdict); 19] = [
    ("extendedKeyUsage = serverAuth", Verdict::Good),
    ("extendedKeyUsage = clientAuth, serverAuth", Verdict::Good),
    (
        "extendedKeyUsage = clientAuth",
        Verdict::Refused("does not name serverAuth"),
    ),
    (
        "extendedKeyUsage = critical, codeSigning",
        Verdict::Refused("does not name serverAuth"),
    ),
    (
        "extendedKeyUsage = anyExtendedKeyUsage",
        Verdict::Refused("does not name serverAuth"),
    ),
    (
        "extendedKeyUsage = 1.3.6.1.4.1.99999.1",
        Verdict::Refused("does not name serverAuth"),
    ),
    (
        "1.3.6.1.4.1.99999.7 = critical, ASN1:UTF8String:x",
        Verdict::Refused("its extension 1.3.6.1.4.1.99999.7 is critical, and"),
    ),
    ("1.3.6.1.4.1.99999.7 = ASN1:UTF8String:x", Verdict::Good),
    ("certificatePolicies = critical, 1.2.3.4", Verdict::Good),
    (
        "policyConstraints = critical, requireExplicitPolicy:0",
        Verdict::Good,
    ),
    ("inhibitAnyPolicy = critical, 0", Verdict::Good),
    (
        "crlDistributionPoints = critical, URI:http://x.test/c",
        Verdict::Good,
    ),
    ("subjectAltName = critical, DNS:x.test", Verdict::Good),
    (
        "nameConstraints = critical, permitted;DNS:corp.example",
        Verdict::Costs("(permitted: corp.example)"),
    ),
    (
        "nameConstraints = excluded;DNS:example.com, excluded;DNS:.test",
        Verdict::Costs("(excluded: example.com, .test)"),
    ),
    (
        "nameConstraints = critical, permitted;IP:10.0.0.0/255.0.0.0",
        Verdict::Costs("(permitted: addresses)"),
    ),
    (
        "nameConstraints = critical, permitted;email:corp.example",
        Verdict::Good,
    ),
    // What Go refuses, and so pipelock.
    (
        "authorityInfoAccess = critical, OCSP;URI:http://x.test/c",
        Verdict::Refused("authority information access is marked critical"),
    ),
    (
        "authorityKeyIdentifier = critical, keyid:always",
        Verdict::Refused("authority key identifier is marked critical"),
    ),
];

/// What `openssl verify` says of a leaf for example.com that this CA signs.
fn verified(workshop: &Workshop, roots: &str, more: &str) -> bool {
    workshop.write(
        "leaf.cnf",
        "subjectAltName = DNS:example.com\nauthorityKeyIdentifier = keyid\n\
         keyUsage = critical, digitalSignature\nextendedKeyUsage = serverAuth\n",
    );
    workshop.openssl("ecparam -name prime256v1 -genkey -noout -out leaf-key.pem");
    workshop.openssl("req -new -key leaf-key.pem -subj /CN=example.com -out leaf.csr");
    workshop.openssl(
        "x509 -req -in leaf.csr -CA ca.pem -CAkey key.pem -set_serial 7 -days 1 \
         -extfile leaf.cnf -out leaf.pem",
    );
    let arguments = format!("verify {more} -purpose sslserver -CAfile {roots} leaf.pem");
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(&workshop.0)
        .output();
    output.unwrap().status.success()
}

#[test]
fn says_of_a_ca_what_its_clients_will() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    for (extensions, verdict) in EXTENSIONS {
        workshop.certify(&format!("{AUTHORITY}{extensions}\n"));
        let said = workshop.check();
        match verdict {
            Verdict::Good => {
                assert_eq!(said.unwrap().warnings, vec![], "{extensions}");
                assert!(
                    verified(&workshop, "ca.pem", "-x509_strict"),
                    "{extensions}"
                );
            }
            Verdict::Costs(words) => {
                let warnings = said.unwrap().warnings;
                let told = warnings[0].to_string();
                assert!(
                    warnings.len() == 1 && told.contains(words),
                    "{extensions}: {told}"
                );
                let takes = verified(&workshop, "ca.pem", "-x509_strict");
                assert_eq!(takes, words.contains("addresses"), "{extensions}");
            }
            Verdict::Refused(words) => {
                let (_, text) = workshop.refusal();
                assert!(text.contains(words), "{extensions}: {text}");
                let goes_own_way = words.contains("marked critical");
                let takes = verified(&workshop, "ca.pem", "");
                assert!(goes_own_way || !takes, "{extensions}: OpenSSL takes it");
            }
        }
    }
}

#[test]
fn takes_any_length_of_a_path_that_go_takes() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    for length in ["0", "127", "255", "256", "65536", "9223372036854775807"] {
        workshop.certify(&AUTHORITY.replace("pathlen:0", &format!("pathlen:{length}")));
        assert_eq!(workshop.check().unwrap().warnings, vec![], "{length}");
    }
    for length in ["-1", "9223372036854775808", "18446744073709551616"] {
        workshop.certify(&AUTHORITY.replace("pathlen:0", &format!("pathlen:{length}")));
        assert!(matches!(
            workshop.refusal().0,
            CaError::Certificate(CertificateProblem::Malformed(_))
        ));
    }
}

#[test]
fn warns_of_basic_constraints_that_are_not_critical() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    workshop.certify(&AUTHORITY.replace("critical, CA:TRUE", "CA:TRUE"));
    let warnings = workshop.check().unwrap().warnings;
    assert_eq!(warnings, vec![Warning::ConstraintsNotCritical]);
    assert!(verified(&workshop, "ca.pem", ""));
    assert!(!verified(&workshop, "ca.pem", "-x509_strict"));
}

#[test]
fn warns_of_an_intermediate_that_its_clients_lack_the_root_of() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    workshop.certify(&AUTHORITY.replace(", pathlen:0", ""));
    workshop.openssl("x509 -in ca.pem -out root.pem");
    workshop.openssl("ec -in key.pem -out root-key.pem");
    workshop.make_key("prime256v1");
    workshop.openssl("req -new -key key.pem -subj /CN=intermediate -out ca.csr");
    workshop.write(
        "ext",
        format!("{AUTHORITY}authorityKeyIdentifier = keyid\n"),
    );
    let issue = "x509 -req -in ca.csr -CA root.pem -CAkey root-key.pem -set_serial 7 -days 30 -extfile ext -out ca.pem";
    workshop.openssl(issue);
    let warnings = workshop.check().unwrap().warnings;
    let issuer = "O=Example, CN=Own CA".to_owned();
    assert_eq!(warnings, vec![Warning::Intermediate(issuer.clone())]);
    assert!(!verified(&workshop, "ca.pem", ""));
    // As curl, Go and Python 3.13 do; and with the root, as the warning says, all of them.
    assert!(verified(&workshop, "ca.pem", "-partial_chain -x509_strict"));
    let both = [workshop.read("root.pem"), workshop.read("ca.pem")].concat();
    workshop.write("bundle.pem", both);
    assert!(verified(&workshop, "bundle.pem", "-x509_strict"));
    // One by another key of the same name is none either.
    workshop.write(
        "name.cnf",
        "[req]\nprompt = no\nutf8 = yes\ndistinguished_name = dn\n[dn]\nO = Example\nCN = Own CA\n",
    );
    workshop.openssl("req -new -key key.pem -config name.cnf -out ca.csr");
    workshop.openssl(issue);
    let warnings = workshop.check().unwrap().warnings;
    assert_eq!(warnings, vec![Warning::Intermediate(issuer)]);
    assert!(!verified(&workshop, "ca.pem", ""));
}

#[test]
fn refuses_garbage_behind_the_der() {
    let workshop = Workshop::authority("prime256v1");
    let cert = workshop.read("ca.pem");
    workshop.append_to_der("ca.pem", "CERTIFICATE");
    assert!(matches!(
        workshop.refusal().0,
        CaError::Certificate(CertificateProblem::TrailingData)
    ));
    workshop.write("ca.pem", cert);
    workshop.append_to_der("key.pem", "EC PRIVATE KEY");
    assert!(matches!(
        workshop.refusal().0,
        CaError::Key(KeyProblem::TrailingData)
    ));
}

#[test]
fn names_requests_and_trusted_certificates() {
    let workshop = Workshop::authority("prime256v1");
    let cert = workshop.read("ca.pem");
    workshop.openssl("x509 -in ca.pem -addtrust serverAuth -trustout -out out.pem");
    workshop.write("ca.pem", workshop.read("out.pem"));
    assert!(matches!(
        workshop.refusal().0,
        CaError::Certificate(CertificateProblem::IsTrusted)
    ));
    workshop.openssl("req -new -key key.pem -subj /CN=x -out ca.pem");
    assert!(matches!(
        workshop.refusal().0,
        CaError::Certificate(CertificateProblem::IsRequest)
    ));
    workshop.write("ca.pem", cert);
    workshop.openssl("ec -in key.pem -pubout -out out.pem");
    workshop.write("key.pem", workshop.read("out.pem"));
    assert!(matches!(
        workshop.refusal().0,
        CaError::Key(KeyProblem::IsPublicKey)
    ));
}

#[test]
fn refuses_sec1_without_its_curve() {
    let workshop = Workshop::authority("prime256v1");
    workshop.assemble_key(&"11".repeat(32), None, None);
    let (error, text) = workshop.refusal();
    assert!(matches!(error, CaError::Key(KeyProblem::NoCurve)));
    assert!(text.contains("does not name its curve"));
}

const CURVES: [(&str, usize); 4] = [
    ("secp224r1", 28),
    ("prime256v1", 32),
    ("secp384r1", 48),
    ("secp521r1", 66),
];

#[test]
fn derives_the_public_key_and_ignores_the_one_in_the_file() {
    for (curve, _) in CURVES {
        let workshop = Workshop::authority(curve);
        let (secret, public) = workshop.key_parts();
        workshop.make_key(curve);
        let (other_secret, other_public) = workshop.key_parts();

        workshop.assemble_key(&secret, Some(curve), Some(&other_public));
        workshop.check().unwrap();
        workshop.assemble_key(&secret, Some(curve), None);
        workshop.check().unwrap();
        workshop.assemble_key(&other_secret, Some(curve), Some(&public));
        assert!(matches!(workshop.refusal().0, CaError::Mismatch));
    }
}

#[test]
fn takes_secrets_with_more_and_fewer_leading_zeros_as_go_does() {
    for (curve, size) in CURVES {
        let workshop = Workshop::new();
        workshop.assemble_key(&format!("{:0>1$}", "5eed", size * 2), Some(curve), None);
        workshop.certify(AUTHORITY);
        for secret in ["5eed".to_owned(), format!("{:0>1$}", "5eed", size * 2 + 6)] {
            workshop.assemble_key(&secret, Some(curve), None);
            workshop.check().unwrap();
        }
    }
}

#[test]
fn refuses_secrets_out_of_range() {
    for (curve, size) in CURVES {
        let workshop = Workshop::authority(curve);
        for secret in [
            "00".repeat(size),
            "ff".repeat(size),
            order_of(&workshop, curve),
            "11".repeat(size + 1),
        ] {
            workshop.assemble_key(&secret, Some(curve), None);
            let (error, text) = workshop.refusal();
            assert!(
                matches!(error, CaError::Key(KeyProblem::Scalar(_))),
                "{text}"
            );
        }
    }
}

fn order_of(workshop: &Workshop, curve: &str) -> String {
    let text = workshop.openssl(&format!(
        "ecparam -name {curve} -param_enc explicit -text -noout"
    ));
    let (_, rest) = text.split_once("Order:").unwrap();
    let digits = rest.split_once("Cofactor:").unwrap().0;
    digits.chars().filter(char::is_ascii_hexdigit).collect()
}

#[test]
fn agrees_with_openssl_on_many_public_keys() {
    let workshop = Workshop::new();
    for (curve, _) in CURVES {
        for _ in 0..8 {
            workshop.make_key(curve);
            workshop.certify(AUTHORITY);
            workshop.check().unwrap();
        }
    }
}

#[test]
fn refuses_names_with_characters_their_type_excludes_as_go_does() {
    let workshop = Workshop::new();
    let pair = generated(NEW_YEAR_2026);
    workshop.write_pair(&pair);
    workshop.openssl("x509 -in ca.pem -outform DER -out der");
    let der = workshop.read("der");
    let places: Vec<usize> = (0..der.len() - 11)
        .filter(|&at| &der[at..at + 11] == b"Pipelock CA")
        .collect();
    assert_eq!(places.len(), 2, "issuer and subject");
    for place in places {
        let mut der = der.clone();
        der[place + 8] = b'@';
        workshop.write("der", der);
        let base64 = workshop.openssl("base64 -in der");
        let cert = format!("-----BEGIN CERTIFICATE-----\n{base64}-----END CERTIFICATE-----\n");
        let (error, _) = refusal(cert.as_bytes(), pair.key_pem.as_bytes(), NEW_YEAR_2026);
        assert!(matches!(
            error,
            CaError::Certificate(CertificateProblem::Malformed(_))
        ));
    }
}

#[test]
fn shows_names_of_every_string_type_in_one_line() {
    let workshop = Workshop::new();
    workshop.make_key("prime256v1");
    for (mask, name, shown) in [
        ("utf8only", "Zürich", "Zürich"),
        ("MASK:0x800", "Zürich", "Zürich"),
        ("MASK:0x4", "Zürich", "Zürich"),
        ("utf8only", "a\\nb", "a\\nb"),
        ("utf8only", "O\\'Reilly", "O'Reilly"),
    ] {
        workshop.write(
            "req.cnf",
            format!(
                "[req]\nprompt = no\nutf8 = yes\nstring_mask = {mask}\ndistinguished_name = dn\n\
                 x509_extensions = ext\n[dn]\nC = CH\nCN = {name}\n[ext]\n{AUTHORITY}"
            ),
        );
        workshop.openssl("req -x509 -new -config req.cnf -key key.pem -days 30 -out ca.pem");
        let subject = workshop.check().unwrap().subject;
        assert_eq!(subject, format!("C=CH, CN={shown}"));
    }
}
