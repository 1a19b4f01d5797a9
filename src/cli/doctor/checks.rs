//! The parts, in the order in which they are told.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access, statfs};

use super::programs;
use super::{Check, Health};
use crate::disk::Engine;
use crate::guest::{self, GuestfsPresence};
use crate::libvirt::{self, LibvirtPresence};
use crate::model::config::Settings;
use crate::model::error::Kind;
use crate::model::units::human_size;
use crate::pipeline::hooks;
use crate::service::network::NetworkMonitor;
use crate::sys::fs::free_bytes;
use crate::sys::kvm;
use crate::sys::process::{Launcher, find_program};
use crate::sys::users;
use crate::vsphere::vddk::Library;

type Part = fn(&Settings) -> Check;

/// Every part by the name that scripts know.
pub(super) const ALL: [(&str, Part); 14] = [
    ("kvm", kvm),
    ("qemu-img", qemu_img),
    ("qemu-system", qemu_system),
    ("libguestfs", libguestfs),
    ("libvirt", libvirt),
    ("ovmf", ovmf),
    ("swtpm", swtpm),
    ("ssh", ssh),
    ("virt-v2v", virt_v2v),
    ("nbdkit-vddk", nbdkit_vddk),
    ("python", python),
    ("state-dir", state_dir),
    ("disk-space", disk_space),
    ("network", network),
];

/// The oldest QEMU whose qcow2 knows zstd.
const OLDEST_QEMU: (u32, u32) = (5, 1);

/// Where distributions put UEFI firmware for guests.
const OVMF: [&str; 6] = [
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    "/usr/share/qemu/ovmf-x86_64-code.bin",
    "/usr/share/edk2-ovmf/x64/OVMF_CODE.fd",
];

/// What libvirt needs of swtpm beside the emulator itself.
const SWTPM_TOOLS: [&str; 2] = ["swtpm_setup", "swtpm_ioctl"];

const QEMU_SYSTEM: [&str; 2] = ["qemu-system-x86_64", "qemu-kvm"];

/// `f_type` of NFS and SMB file systems: SQLite's log needs a local one.
const NETWORK_FILE_SYSTEMS: [u64; 4] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x517b];

/// Below this much free space nothing reasonable can be converted.
const LITTLE_SPACE_BYTES: u64 = 1 << 30;

/// What does not work without a part.
pub(super) fn disables(check: &Check) -> Option<&'static str> {
    Some(match check.name {
        "kvm" => "guests run under emulation (TCG): several times slower, with the same result",
        "qemu-img" => "every conversion",
        "qemu-system" => "opening guests, and boot tests; `profile: none` converts disks as they are",
        "libguestfs" => "looking into guests and repairing them; `profile: none` converts disks as they are",
        "libvirt" => "handing machines over, and `hyper2kvm libvirt`; results are files",
        "ovmf" => "boot tests of UEFI guests",
        "swtpm" => "boot tests of guests with a TPM, and running such guests with libvirt",
        "ssh" => "reading disks from ESXi hosts over SSH; other transports work without it",
        "virt-v2v" => "`pipeline.fix.engine: virt-v2v`, and `auto` for guests that only it can repair",
        "nbdkit-vddk" => "`transport: vddk` of vSphere; HTTPS and exports work without it",
        "python" => "hooks of type python; scripts and requests work without it",
        "state-dir" => "the service; `convert` works without it",
        "disk-space" => "jobs wait until there is room",
        "network" => "jobs wait while the network is down (see `network_monitor`)",
        _ => return None,
    })
}

fn install(debian: &str, rhel: &str) -> String {
    format!("install it: `apt-get install {debian}` (Debian), `dnf install {rhel}` (RHEL)")
}

fn kvm(_: &Settings) -> Check {
    let probe = kvm::probe(&Launcher::this_program());
    if probe.works {
        return Check::new("kvm", Health::Ok, probe.detail);
    }
    if probe.present {
        return Check::new(
            "kvm",
            Health::Degraded,
            format!("/dev/kvm is present but does not work, so TCG is used: {}", probe.detail),
        )
        .advice("on a VM: switch on nested virtualisation; else check the kernel's log (`dmesg | grep kvm`) and who may open /dev/kvm");
    }
    Check::new("kvm", Health::Degraded, format!("there is no /dev/kvm, so TCG is used: {}", probe.detail))
        .advice("switch on virtualisation in the firmware, and load the kernel module (`modprobe kvm_intel` or `kvm_amd`)")
}

fn qemu_img(_: &Settings) -> Check {
    match Engine::find(Launcher::this_program()) {
        Ok(engine) => {
            let mut place = engine.qemu_img.display().to_string();
            if engine.storage_daemon.is_none() {
                place.push_str(
                    ", no qemu-storage-daemon beside it: copies that need it start over when they are cut",
                );
            }
            let check = if is_old(&engine.version) {
                Check::new("qemu-img", Health::Degraded, format!("{place} cannot compress with zstd"))
                    .advice("use QEMU 5.1 or newer")
            } else {
                Check::new("qemu-img", Health::Ok, place)
            };
            check.version(Some(engine.version))
        }
        Err(error) => {
            let missing = find_program("qemu-img").is_none() && error.kind() == Kind::Unsupported;
            let status = if missing { Health::Missing } else { Health::Broken };
            Check::new("qemu-img", status, error.details().cause.clone())
                .advice(install("qemu-utils", "qemu-img"))
        }
    }
}

/// Whether this is older than what every format needs. An unreadable version is not.
fn is_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|word| word.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST_QEMU,
        _ => false,
    }
}

fn qemu_system(_: &Settings) -> Check {
    programs::check("qemu-system", &QEMU_SYSTEM, &["--version"], &install("qemu-system-x86", "qemu-kvm"))
}

fn libguestfs(_: &Settings) -> Check {
    let package = install("libguestfs0 linux-image-amd64", "libguestfs");
    match guest::presence() {
        GuestfsPresence::Found { version } => {
            Check::new("libguestfs", Health::Ok, "the library is there; its appliance is not started here")
                .version(Some(version))
        }
        GuestfsPresence::Missing { why } => Check::new("libguestfs", Health::Missing, why).advice(package),
        GuestfsPresence::Broken { why } => Check::new("libguestfs", Health::Broken, why).advice(package),
        GuestfsPresence::NotBuilt => not_built("libguestfs", "guestfs"),
    }
}

/// The configured one, which is asked whether it answers.
fn libvirt(settings: &Settings) -> Check {
    let uri = settings.libvirt.uri.clone();
    let within = Duration::from_secs_f64(settings.libvirt.timeout_s);
    // libvirt may block for as long as it likes; the thread then ends with the program.
    let (answer, answered) = mpsc::channel();
    let (asked, asked_uri) = (Instant::now(), uri.clone());
    std::thread::spawn(move || answer.send(libvirt::presence(&asked_uri)));
    let package = install("libvirt-daemon-system", "libvirt");
    match answered.recv_timeout(within) {
        Ok(LibvirtPresence::Answers { version, driver }) => {
            let took = asked.elapsed().as_millis();
            Check::new("libvirt", Health::Ok, format!("{driver} at {uri}, answered in {took} ms"))
                .version(Some(version))
        }
        Ok(LibvirtPresence::Silent { why }) => Check::new("libvirt", Health::Missing, why)
            .advice(format!("{package}, then `systemctl start libvirtd`; or mend `libvirt.uri`")),
        Ok(LibvirtPresence::NotBuilt) => not_built("libvirt", "libvirt"),
        Err(_) => {
            let words = format!("{uri} did not answer for {:.0} s", within.as_secs_f64());
            Check::new("libvirt", Health::Broken, words).advice("restart it: `systemctl restart libvirtd`")
        }
    }
}

fn not_built(name: &'static str, feature: &str) -> Check {
    Check::new(name, Health::Missing, format!("this build was made without the feature `{feature}`"))
        .advice(format!("use a build that has it (`cargo build --features {feature}`)"))
}

fn ovmf(_: &Settings) -> Check {
    match OVMF.iter().find(|path| Path::new(path).is_file()) {
        Some(path) => Check::new("ovmf", Health::Ok, *path),
        None => Check::new("ovmf", Health::Missing, "not found").advice(install("ovmf", "edk2-ovmf")),
    }
}

/// libvirt makes a TPM, and looks after it, with the other two.
fn swtpm(_: &Settings) -> Check {
    let package = install("swtpm swtpm-tools", "swtpm swtpm-tools");
    let check = programs::check("swtpm", &["swtpm"], &["--version"], &package);
    if check.status != Health::Ok {
        return check;
    }
    let place = check.detail.clone().unwrap_or_default();
    let lacking: Vec<&str> = SWTPM_TOOLS.into_iter().filter(|name| find_program(name).is_none()).collect();
    if lacking.is_empty() {
        return Check { detail: Some(format!("{place}, with {}", SWTPM_TOOLS.join(" and "))), ..check };
    }
    let lacking = lacking.join(" and ");
    let detail = format!("{place}, without {lacking}: libvirt starts no guest that has a TPM");
    Check { status: Health::Degraded, detail: Some(detail), ..check }.advice(package)
}

fn ssh(_: &Settings) -> Check {
    programs::check("ssh", &["ssh"], &["-V"], &install("openssh-client", "openssh-clients"))
}

fn virt_v2v(_: &Settings) -> Check {
    programs::check("virt-v2v", &["virt-v2v-in-place"], &["--version"], &install("virt-v2v", "virt-v2v"))
}

fn python(_: &Settings) -> Check {
    let found = hooks::interpreter().map(|path| path.to_string_lossy().into_owned());
    let candidates: Vec<&str> = found.iter().map(String::as_str).collect();
    programs::check("python", &candidates, &["--version"], &install("python3", "python3"))
}

/// The program, its plugin, and VMware's library where the configuration says that it is; those that a credential names are looked at by
/// the jobs that use it.
fn nbdkit_vddk(settings: &Settings) -> Check {
    let package = "install it: `dnf install nbdkit nbdkit-vddk-plugin` (RHEL); Debian's nbdkit comes without this plugin";
    let check = programs::check("nbdkit-vddk", &["nbdkit"], &["vddk", "--version"], package);
    if check.status == Health::Broken {
        // nbdkit is there and has no such plugin.
        return Check::new("nbdkit-vddk", Health::Missing, "nbdkit has no plugin `vddk`").advice(package);
    }
    if check.status != Health::Ok || settings.vddk.libdir.is_none() {
        return check;
    }
    match Library::look(settings.vddk.libdir.as_deref()) {
        Ok(library) => {
            let place = check.detail.clone().unwrap_or_default();
            let detail = format!(
                "{place}, with version {} of the library in {}",
                library.version,
                library.libdir.display()
            );
            Check { detail: Some(detail), ..check }
        }
        Err(error) => {
            let advice = error.details().advice.clone().unwrap_or_default();
            let broken = Check::new("nbdkit-vddk", Health::Broken, error.details().cause.clone());
            Check { version: check.version, ..broken.advice(advice) }
        }
    }
}

fn state_dir(settings: &Settings) -> Check {
    let path = &settings.state_dir;
    let shown = path.display();
    let broken =
        |detail: String, advice: &str| Check::new("state-dir", Health::Broken, detail).advice(advice);
    let choose = "choose a directory on a local file system with --state-dir or `state_dir`";
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return broken(format!("{shown} is no directory"), choose),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = existing_ancestor(path);
            return match access(&parent, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => {
                    Check::new("state-dir", Health::Ok, format!("{shown} will be made at the first start"))
                }
                Err(_) => Check::new("state-dir", Health::Missing, format!("{shown} is not there"))
                    .advice(format!("install the package, run as root, or {choose}")),
            };
        }
        Err(error) => return someone_elses(path, &error.to_string()),
    };
    if statfs(path).is_ok_and(|found| NETWORK_FILE_SYSTEMS.contains(&(found.f_type as u64 & 0xffff_ffff))) {
        return broken(format!("{shown} is on a network file system"), choose);
    }
    match access(path, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Check::new("state-dir", Health::Ok, shown.to_string()),
        Err(error) if metadata.uid() != users::effective_uid() => someone_elses(path, &error.to_string()),
        Err(error) => broken(format!("{shown} cannot be written to: {error}"), "mend its mode, or its mount"),
    }
}

/// A directory that belongs to the service's user says nothing to anybody else.
fn someone_elses(path: &Path, why: &str) -> Check {
    let detail = format!("{} belongs to another user: {why}", path.display());
    Check::new("state-dir", Health::Degraded, detail)
        .advice("run `doctor` as root or as the service's user (`sudo -u hyper2kvm hyper2kvm doctor`)")
}

fn disk_space(settings: &Settings) -> Check {
    let place = existing_ancestor(&settings.output_dir);
    let shown = place.display();
    match free_bytes(&place) {
        Err(error) => Check::new("disk-space", Health::Broken, format!("{shown}: {error}"))
            .advice("mend the file system, or choose another `output_dir`"),
        Ok(space) => {
            let reserve = settings.limits.disk_reserve_bytes.unwrap_or_else(|| default_reserve(space.total));
            let detail = format!(
                "{} free of {} at {shown}, {} of it reserved",
                human_size(space.free),
                human_size(space.total),
                human_size(reserve)
            );
            if space.free < reserve.max(LITTLE_SPACE_BYTES) {
                Check::new("disk-space", Health::Degraded, detail)
                    .advice("free some space, choose another `output_dir`, or lower `limits.disk_reserve`")
            } else {
                Check::new("disk-space", Health::Ok, detail)
            }
        }
    }
}

/// The larger of 5 % and 20 GiB, at most a tenth of the file system.
fn default_reserve(total: u64) -> u64 {
    (total / 20).max(20 << 30).min(total / 10)
}

fn network(settings: &Settings) -> Check {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Check::new("network", Health::Broken, error.to_string()),
    };
    let state = runtime.block_on(async {
        let monitor = NetworkMonitor::start(&settings.network_monitor).await;
        monitor.state().borrow().clone()
    });
    let check = if state.is_down() {
        Check::new("network", Health::Degraded, state.detail()).advice("bring the interface up (`ip link`)")
    } else {
        Check::new("network", Health::Ok, state.detail())
    };
    if state.missing_required.is_empty() {
        return check;
    }
    let names = state.missing_required.join(", ");
    Check::new("network", Health::Degraded, format!("required interfaces that are not here: {names}"))
        .advice("mend `network_monitor.required_interfaces`")
}

fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_told_apart_from_new_and_unreadable_ones() {
        assert!(is_old("4.2.1"));
        assert!(is_old("5.0.0"));
        assert!(!is_old("5.1.0"));
        assert!(!is_old("10.0.2"));
        assert!(!is_old("git"));
    }

    #[test]
    fn a_state_directory_is_judged_by_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &Path| state_dir(&Settings::defaults(path, 1)).status;
        assert_eq!(at(dir.path()), Health::Ok);
        assert_eq!(at(&dir.path().join("not/yet")), Health::Ok);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(at(&file), Health::Broken);
    }

    #[test]
    fn the_reserve_is_a_tenth_of_a_small_file_system_and_five_percent_of_a_large_one() {
        assert_eq!(default_reserve(100 << 30), 10 << 30);
        assert_eq!(default_reserve(300 << 30), 20 << 30);
        assert_eq!(default_reserve(1000 << 30), 50 << 30);
    }

    #[test]
    fn every_part_says_what_it_disables() {
        for (name, _) in ALL {
            assert!(disables(&Check::new(name, Health::Missing, "")).is_some(), "{name}");
        }
    }
}
