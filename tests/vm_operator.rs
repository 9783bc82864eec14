//! What the host reads from the export of a machine that it cannot look into.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use microvm::{
    BOOT_DEADLINE, Bundle, Ending, GUEST_ADDRESS, HOST_ADDRESS, Machine, MachineBuilder,
    ScratchDir, connect_through, get_through, read_status, wait_for_status,
};
use serde_json::Value;

const PORT: u16 = 8888;
const SECRET: &str = "AKIAIOSFODNN7EXAMPLE";

struct Bed {
    bundle: Bundle,
    scratch: ScratchDir,
}

impl Bed {
    fn new(bottle: &str) -> Self {
        let bed = Self {
            bundle: Bundle::from_target().unwrap(),
            scratch: ScratchDir::new().unwrap(),
        };
        for directory in ["manifest", "export"] {
            fs::create_dir(bed.scratch.join(directory)).unwrap();
        }
        fs::write(
            bed.scratch.join("manifest/manifest.yaml"),
            format!(
                "version: 1\nslug: told\n{bottle}\nnetwork:\n  internal_cidr: 10.0.2.0/24\n  \
                 hosts: {{upstream.test: {HOST_ADDRESS}}}\n  address: {GUEST_ADDRESS}/24\n  gateway: {HOST_ADDRESS}\n"
            ),
        )
        .unwrap();
        bed
    }

    fn export(&self, name: &str) -> PathBuf {
        self.scratch.join("export").join(name)
    }

    fn machine(&self) -> MachineBuilder {
        Machine::builder(&self.bundle)
            .no_ip_argument()
            .export_dir(self.scratch.join("export"))
            .manifest_dir(self.scratch.join("manifest"))
            .forward(PORT)
            .keyboard()
    }

    fn wait_ready(&self) -> Value {
        let status = wait_for_status(
            &self.scratch.join("export"),
            |status| status["state"] == "ready" || status["exit_code"].is_number(),
            BOOT_DEADLINE,
        );
        let status = status.unwrap();
        assert_eq!(status["state"], "ready", "{status}");
        status
    }
}

#[test]
fn the_export_answers_for_clients_and_refusals_and_a_deaf_listener_harms_nobody() {
    let bed = Bed::new("bottle: {egress: {routes: [{host: upstream.test}]}}");
    for name in [
        "pipelock-ca.pem",
        "ca-bundle.pem",
        "client.env",
        "denials.json",
        "report.json",
    ] {
        fs::write(bed.export(name), "stale").unwrap();
    }
    let running = bed
        .machine()
        .kernel_arg("NOTIFY_SOCKET=vsock-stream:1:9999")
        .boot()
        .unwrap();
    let status = bed.wait_ready();

    let text = fs::read_to_string(bed.export("client.env")).unwrap();
    let proxy = format!("http_proxy=http://{GUEST_ADDRESS}:{PORT}\n");
    assert!(text.contains(&proxy), "{text}");
    let ca = fs::read_to_string(bed.export("pipelock-ca.pem")).unwrap();
    let bundle = fs::read_to_string(bed.export("ca-bundle.pem")).unwrap();
    assert!(bundle.ends_with(&ca) && ca.contains("BEGIN CERTIFICATE"));
    assert!(
        bundle.matches("BEGIN CERTIFICATE").count() > 50,
        "the image's public roots"
    );
    assert!(!bed.export("report.json").exists());

    let proxy = running.forwarded(PORT).unwrap();
    for _ in 0..3 {
        let (answer, _) = connect_through(proxy, "elsewhere.test:443").unwrap();
        assert_eq!(answer.status, 403);
    }
    let answer = get_through(proxy, &format!("http://upstream.test/?key={SECRET}")).unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    let end = Instant::now() + BOOT_DEADLINE;
    let denials = loop {
        let text = fs::read_to_string(bed.export("denials.json")).unwrap_or_default();
        let denials: Value = serde_json::from_str(&text).unwrap_or_default();
        if denials["total"] == 4 {
            assert!(!text.contains(SECRET), "{text}");
            break denials;
        }
        assert!(Instant::now() < end, "{text}\n{}", running.console());
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(denials["boot_id"], status["boot_id"]);
    assert_eq!(denials["denials"][0]["host"], "elsewhere.test");
    assert_eq!(denials["denials"][0]["count"], 3);
    assert_eq!(denials["denials"][1]["host"], "upstream.test");

    // The kernel hands it to its init; nobody listens there.
    let console = running.console();
    assert_eq!(
        console.matches("cannot notify NOTIFY_SOCKET").count(),
        1,
        "{console}"
    );
    running.control_alt_delete().unwrap();
    assert_eq!(
        running.wait_for_result(BOOT_DEADLINE).unwrap()["exit_code"],
        0
    );
    assert_eq!(running.wait_end(BOOT_DEADLINE).unwrap(), Ending::Reset);
}

#[test]
fn a_failed_start_leaves_a_report_with_the_kernels_view() {
    let bed = Bed::new("botle: {}");
    let running = bed.machine().boot().unwrap();
    let result = running.wait_for_result(BOOT_DEADLINE).unwrap();
    assert_eq!(result["exit_code"], 65, "{result}");
    running.wait_end(BOOT_DEADLINE).unwrap();
    let text = fs::read_to_string(bed.export("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["status"]["boot_id"], result["boot_id"]);
    assert_eq!(
        report["status"],
        read_status(&bed.scratch.join("export")).unwrap()
    );
    assert_eq!(
        report["kernel"],
        Value::Array(vec![]),
        "nothing was killed: {text}"
    );
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    assert!(!bed.export("client.env").exists());
}
