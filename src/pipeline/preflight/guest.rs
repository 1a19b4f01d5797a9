//! The guest: whether what is to be done inside can be done, and whether it will start.
//!
//! Judged from what was seen when the guest was opened: in a job by the guest work that goes on beside the copy, so that no appliance is started twice.
//! Where the guest is to be repaired, that work refuses by itself what it must not write to; the same rules are told here without a repair,
//! where they are a warning as a rule.

use crate::guest::inspect::Condition;
use crate::guest::{ready, virt_v2v};
use crate::model::error::{Error, Kind};
use crate::model::guest::{GuestFirmware, GuestIdentity, GuestType};
use crate::model::job::Stage;
use crate::model::machine::{DiskBus, Firmware};
use crate::model::manifest::{FixEngine, OnNoOs, OnUnsupportedGuest};
use crate::model::plan::Plan;
use crate::model::validation::{Findings, Rule, Severity};

/// Names that systems give themselves when nobody gave them one.
const NO_NAMES: [&str; 4] = ["", "localhost", "localhost.localdomain", "(none)"];

/// What was seen of a guest.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Who it is, if there is one.
    pub identity: Option<GuestIdentity>,
    /// In what state its disks are.
    pub condition: Condition,
    /// Why more cannot be told.
    pub error: Option<Error>,
}

/// Judges a guest by what was seen of it.
pub(in crate::pipeline) fn judge(plan: &Plan, seen: &Seen, findings: &mut Findings) {
    let mut judge = Judge { plan, repairs: plan.runs(Stage::Fix), findings };
    if let Some(error) = &seen.error {
        judge.cannot_be_opened(error);
    }
    judge.condition(&seen.condition);
    if let Some(identity) = &seen.identity {
        judge.identity(identity);
    }
}

struct Judge<'a, 'f> {
    plan: &'a Plan,
    /// Whether anything is to be written into it.
    repairs: bool,
    findings: &'f mut Findings,
}

impl Judge<'_, '_> {
    /// As bad as the rule says where the guest is repaired, and else good to know.
    fn matters(&mut self, rule: &str, matters: bool, about: Option<&str>, error: Error) {
        let severity = Rule::named(rule).map_or(Severity::Error, |rule| rule.severity);
        let severity = if matters { severity } else { severity.min(Severity::Warning) };
        self.findings.at(severity, rule, about, error);
    }

    fn cannot_be_opened(&mut self, error: &Error) {
        let rule = error.details().rule.clone().unwrap_or_else(|| "guest.file_system".to_owned());
        let fix = &self.plan.guest.fix;
        let is_allowed = error.details().place.field.as_deref() == Some("pipeline.fix.on_no_os")
            && fix.on_no_os == OnNoOs::Skip;
        self.matters(&rule, self.repairs && !is_allowed, None, error.clone());
    }

    fn condition(&mut self, condition: &Condition) {
        let told = |cause: String, advice: &str| Error::new(Kind::Guest, cause).advice(advice);
        let awake = "start the source machine, shut it down completely (in Windows `shutdown /s /f /t 0`, fast startup off), and convert it then";
        for device in &condition.asleep {
            let error = told(format!("the guest sleeps: its memory lies in {device}"), awake);
            self.matters("guest.hibernated", self.repairs, Some(device), error);
        }
        for device in &condition.unclean {
            let error = told(format!("the Windows on {device} was not shut down cleanly"), awake);
            self.matters("guest.unclean", self.repairs, Some(device), error);
        }
        // A system was found without them: what is locked holds something else.
        for volume in &condition.locked {
            let error = told(
                format!("{volume} is encrypted (LUKS), and no key opens it"),
                "give its passphrase if anything in it is to be repaired: `luks: [{uuid: …, key_file: …}]`",
            );
            self.matters("guest.encrypted", false, Some(volume), error);
        }
        for volume in &condition.bitlocker {
            let error = told(
                format!("{volume} is encrypted with BitLocker"),
                "decrypt it in the source machine (`manage-bde -off`): suspending it is not enough",
            );
            self.matters("guest.bitlocker", false, Some(volume), error);
        }
        for (device, why) in &condition.unreadable {
            let error = told(
                format!("the file system on {device} cannot be opened: {why}"),
                "see whether it is one that this host's appliance knows, and check it in the source machine",
            );
            self.matters("guest.file_system", false, Some(device), error);
        }
    }

    fn identity(&mut self, identity: &GuestIdentity) {
        if let Some(error) = ready::foreign(identity) {
            self.matters("guest.architecture", self.repairs || self.plan.runs(Stage::BootTest), None, error);
        }
        let engine = self.engine(identity);
        if self.repairs && engine.is_none() {
            let is_allowed = self.plan.guest.fix.on_unsupported_guest == OnUnsupportedGuest::Emulated;
            let name = identity.os_pretty.as_deref().unwrap_or("the system");
            let error = Error::new(Kind::Unsupported, format!("this version cannot repair {name}"))
                .field("pipeline.fix.on_unsupported_guest")
                .advice("`on_unsupported_guest: emulated` converts it as it is, for SATA and e1000e; `engine: auto` lets virt-v2v repair it");
            self.matters("guest.unsupported", !is_allowed, None, error);
        }
        for mount in &identity.mounts {
            let (Some(engine), Some(free)) = (engine.filter(|_| self.repairs), mount.free_bytes) else {
                continue;
            };
            if let Some(error) = ready::no_room(engine, &mount.path, &mount.spec, free, None) {
                self.matters("guest.space", true, Some(&mount.path), error);
            }
        }
        self.firmware(identity);
        self.drivers(identity);
        let hostname = identity.hostname.as_deref().unwrap_or_default();
        if NO_NAMES.contains(&hostname) {
            let error = Error::new(Kind::Guest, format!("the guest has no name of its own (`{hostname}`)"));
            self.matters(
                "guest.hostname",
                false,
                None,
                error.advice("`configuration.hostname` gives it one"),
            );
        }
    }

    /// Who repairs it; nobody, if it is one that nobody here can repair.
    fn engine(&self, identity: &GuestIdentity) -> Option<FixEngine> {
        match (self.plan.guest.fix.engine, identity.kind) {
            (FixEngine::VirtV2v, _) => Some(FixEngine::VirtV2v),
            (FixEngine::Native | FixEngine::Auto, GuestType::Linux) => Some(FixEngine::Native),
            (FixEngine::Auto, _) if virt_v2v::check_host().is_ok() => Some(FixEngine::VirtV2v),
            (FixEngine::Native | FixEngine::Auto, _) => None,
        }
    }

    fn firmware(&mut self, identity: &GuestIdentity) {
        let said = self.plan.machine.as_ref().and_then(|machine| machine.firmware);
        let other = match (said, identity.firmware) {
            (Some(Firmware::Bios), GuestFirmware::Uefi) => "UEFI",
            (Some(Firmware::Uefi), GuestFirmware::Bios) => "BIOS",
            _ => return,
        };
        let error = Error::new(Kind::Guest, format!("the guest is set up to be started by {other}"))
            .advice("leave `vm.firmware` out, or see whether it is the right disk");
        self.matters("guest.firmware", true, Some("vm.firmware"), error);
    }

    fn drivers(&mut self, identity: &GuestIdentity) {
        let needs = |machine: &crate::model::machine::Machine| {
            machine.disks.iter().any(|disk| !matches!(disk.bus, DiskBus::Sata | DiskBus::Ide))
        };
        let is_needed = self.plan.output.domain && self.plan.machine.as_ref().is_some_and(needs);
        let lacks = |kernel: &crate::model::guest::GuestKernel| {
            kernel.default && (!kernel.virtio || kernel.initramfs_virtio == Some(false))
        };
        if !self.repairs && is_needed && identity.kernels.iter().any(lacks) {
            let error = Error::new(Kind::Guest, "the guest has no drivers for virtio, and is not repaired")
                .advice("switch `pipeline.fix` on, or give it disks that it knows: `vm.disk_bus: sata`");
            self.matters("guest.virtio", true, None, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::guest::{GuestKernel, GuestMount};
    use crate::model::validation::Weights;
    use crate::pipeline::preflight::tests::plan;

    fn judged(stages: &[Stage], change: impl FnOnce(&mut Plan), seen: &Seen) -> Vec<(String, Severity)> {
        let mut plan = plan(stages);
        change(&mut plan);
        let mut findings = Findings::new(Weights::new());
        judge(&plan, seen, &mut findings);
        findings.told().map(|finding| (finding.rule.clone(), finding.severity)).collect()
    }

    fn linux() -> GuestIdentity {
        GuestIdentity {
            kind: GuestType::Linux,
            architecture: Some("x86_64".to_owned()),
            firmware: GuestFirmware::Bios,
            hostname: Some("web".to_owned()),
            kernels: vec![GuestKernel {
                virtio: true,
                initramfs_virtio: Some(true),
                default: true,
                ..GuestKernel::default()
            }],
            mounts: vec![GuestMount {
                path: "/".to_owned(),
                free_bytes: Some(1 << 30),
                ..GuestMount::default()
            }],
            ..GuestIdentity::default()
        }
    }

    const LOOKS: [Stage; 1] = [Stage::Inspect];
    const REPAIRS: [Stage; 2] = [Stage::Inspect, Stage::Fix];

    #[test]
    fn a_guest_that_is_well_is_told_nothing_of() {
        let seen = Seen { identity: Some(linux()), ..Seen::default() };
        assert_eq!(judged(&REPAIRS, |_| {}, &seen), []);
        assert_eq!(judged(&LOOKS, |_| {}, &seen), []);
    }

    #[test]
    fn what_a_repair_must_not_touch_fails_it_and_is_a_warning_where_nothing_is_repaired() {
        let condition = Condition {
            asleep: vec!["/dev/sda2".to_owned()],
            unclean: vec!["/dev/sda3".to_owned()],
            ..Condition::default()
        };
        let seen = Seen { identity: Some(linux()), condition, error: None };
        let of = |severity| ["guest.hibernated", "guest.unclean"].map(|rule| (rule.to_owned(), severity));
        assert_eq!(judged(&REPAIRS, |_| {}, &seen), of(Severity::Error));
        assert_eq!(judged(&LOOKS, |_| {}, &seen), of(Severity::Warning));
    }

    #[test]
    fn what_is_beside_the_system_is_only_told() {
        let condition = Condition {
            locked: vec!["/dev/sdb".to_owned()],
            bitlocker: vec!["/dev/sdc".to_owned()],
            unreadable: vec![("/dev/sdd".to_owned(), "wrong fs type".to_owned())],
            ..Condition::default()
        };
        let seen = Seen { identity: Some(linux()), condition, error: None };
        let rules = ["guest.encrypted", "guest.bitlocker", "guest.file_system"];
        assert_eq!(judged(&REPAIRS, |_| {}, &seen), rules.map(|rule| (rule.to_owned(), Severity::Warning)));
    }

    #[test]
    fn a_disk_without_a_system_is_an_error_unless_the_manifest_allows_that() {
        let error = Error::new(Kind::Guest, "no operating system was found")
            .rule("guest.no_system")
            .field("pipeline.fix.on_no_os");
        let seen = Seen { error: Some(error), ..Seen::default() };
        let of = |severity| [("guest.no_system".to_owned(), severity)];
        assert_eq!(judged(&REPAIRS, |_| {}, &seen), of(Severity::Error));
        let skip = |plan: &mut Plan| plan.guest.fix.on_no_os = OnNoOs::Skip;
        assert_eq!(judged(&REPAIRS, skip, &seen), of(Severity::Warning));
    }

    #[test]
    fn a_guest_for_another_machine_than_the_one_to_come_is_told() {
        let one = |rule: &str, severity| vec![(rule.to_owned(), severity)];
        let arm = GuestIdentity { architecture: Some("aarch64".to_owned()), ..linux() };
        let seen = Seen { identity: Some(arm), ..Seen::default() };
        assert_eq!(judged(&REPAIRS, |_| {}, &seen), one("guest.architecture", Severity::Error));
        assert_eq!(judged(&LOOKS, |_| {}, &seen), one("guest.architecture", Severity::Warning));
        let uefi = GuestIdentity { firmware: GuestFirmware::Uefi, ..linux() };
        let seen = Seen { identity: Some(uefi), ..Seen::default() };
        let bios = |plan: &mut Plan| plan.machine.as_mut().unwrap().firmware = Some(Firmware::Bios);
        assert_eq!(judged(&REPAIRS, bios, &seen), one("guest.firmware", Severity::Warning));
        let old = GuestKernel { default: true, ..GuestKernel::default() };
        let seen =
            Seen { identity: Some(GuestIdentity { kernels: vec![old], ..linux() }), ..Seen::default() };
        assert_eq!(judged(&REPAIRS, |_| {}, &seen), []);
        assert_eq!(judged(&LOOKS, |_| {}, &seen), one("guest.virtio", Severity::Warning));
        let nameless = GuestIdentity { hostname: Some("localhost".to_owned()), ..linux() };
        let seen = Seen { identity: Some(nameless), ..Seen::default() };
        assert_eq!(judged(&LOOKS, |_| {}, &seen), one("guest.hostname", Severity::Info));
    }

    #[test]
    fn the_room_that_is_asked_for_is_that_of_whoever_repairs() {
        let mount = |path: &str, mib: u64| GuestMount {
            path: path.to_owned(),
            free_bytes: Some(mib << 20),
            ..GuestMount::default()
        };
        let with = |mounts: Vec<GuestMount>| Seen {
            identity: Some(GuestIdentity { mounts, ..linux() }),
            ..Seen::default()
        };
        let full = [("guest.space".to_owned(), Severity::Error)];
        let by_virt_v2v = |plan: &mut Plan| plan.guest.fix.engine = FixEngine::VirtV2v;
        assert_eq!(judged(&REPAIRS, |_| {}, &with(vec![mount("/", 7)])), full);
        assert_eq!(judged(&REPAIRS, |_| {}, &with(vec![mount("/", 9), mount("/boot", 5)])), []);
        assert_eq!(judged(&REPAIRS, by_virt_v2v, &with(vec![mount("/", 99)])), full);
        assert_eq!(judged(&REPAIRS, by_virt_v2v, &with(vec![mount("/", 101), mount("/boot", 49)])), full);
        assert_eq!(judged(&LOOKS, |_| {}, &with(vec![mount("/", 1)])), [], "nothing is written");
    }

    #[test]
    fn a_windows_is_refused_unless_it_is_to_be_converted_as_it_is() {
        let windows = GuestIdentity { kind: GuestType::Windows, kernels: Vec::new(), ..linux() };
        let seen = Seen { identity: Some(windows), ..Seen::default() };
        let of = |severity| [("guest.unsupported".to_owned(), severity)];
        assert_eq!(judged(&REPAIRS, |_| {}, &seen), of(Severity::Error));
        let emulated = |plan: &mut Plan| plan.guest.fix.on_unsupported_guest = OnUnsupportedGuest::Emulated;
        assert_eq!(judged(&REPAIRS, emulated, &seen), of(Severity::Warning));
        assert_eq!(judged(&LOOKS, |_| {}, &seen), []);
    }
}
