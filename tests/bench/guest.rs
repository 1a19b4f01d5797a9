//! What a whole conversion of a guest takes, repairs included, against virt-v2v on the same guest.
//!
//! VMDK in, QCOW2 that boots out; both emulate their appliance. Neither's result is started here: virt-v2v never starts one. Ours is
//! compared with its source, which virt-v2v does not do, and that time stays in.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::figures::{Figures, median};
use crate::support::guests::Guest;

const GUEST: &str = "bookworm-bios";
const ROUNDS: usize = 3;

/// In turns, so that both meet the same machine.
pub fn measure(figures: &mut Figures) {
    let source = Guest::build(GUEST).disks.remove(0);
    let scratch =
        tempfile::Builder::new().prefix("h2k-bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Once without a clock: both use the same appliance, which is built and cached by the first use.
    ours(&source, scratch.path());
    let (mut peers, mut whole, mut repairs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let peer_s = peer(&source, scratch.path());
        let (whole_s, repair_s) = ours(&source, scratch.path());
        eprintln!(
            "  round {round}: virt-v2v {peer_s:.1} s, hyper2kvm {whole_s:.1} s, its repairs {repair_s:.1} s"
        );
        peers.push(peer_s);
        whole.push(whole_s);
        repairs.push(repair_s);
    }
    let (peer, whole) = (median(&peers), median(&whole));
    figures.at_least("a guest converted and repaired, virt-v2v's time over ours", peer / whole, 3.0, "×");
    figures.at_most(
        "repairs after launch and inspection, an initial RAM disk appended to",
        median(&repairs),
        3.0,
        "s",
    );
    figures.note("`virt-v2v -i disk -o local -of qcow2`, median", format!("{peer:.1} s"));
    figures.note("`hyper2kvm convert` without its boot test, median", format!("{whole:.1} s"));
    figures.note("the guest", format!("{GUEST} of docs/guests.md, both appliances emulated"));
}

fn peer(source: &Path, scratch: &Path) -> f64 {
    let results = scratch.join("peer");
    fs::create_dir(&results).unwrap();
    let begun = Instant::now();
    let done = Command::new("virt-v2v")
        .args(["-i", "disk", "-o", "local", "-of", "qcow2", "-os"])
        .arg(&results)
        .arg(source)
        .env("LIBGUESTFS_BACKEND", "direct")
        .env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
        .stdin(Stdio::null())
        .output()
        .expect("virt-v2v is installed by set-up");
    let took = begun.elapsed().as_secs_f64();
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    fs::remove_dir_all(&results).unwrap();
    took
}

/// The wall time, and what of it the repairs took after the guest was open and known.
fn ours(source: &Path, scratch: &Path) -> (f64, f64) {
    let results = scratch.join("ours");
    fs::create_dir(&results).unwrap();
    let begun = Instant::now();
    let done = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .args(["convert", "--no-boot-test", "--json", "-v", "-o"])
        .arg(&results)
        .arg(source)
        .env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let took = begun.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&done.stdout).expect("convert --json prints the report");
    let repairs = report["pipeline"]["stages"]["fix"]["result"]["seconds"].as_f64().expect("it was repaired");
    fs::remove_dir_all(&results).unwrap();
    (took, repairs)
}
