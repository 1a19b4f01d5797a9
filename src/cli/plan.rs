//! `plan`: what the service would do with a manifest, or `convert` with a disk or an appliance, and why; touching nothing.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::input::Input;
use super::price::Price;
use super::table::{Paint, Table, cell, printable};
use super::{Exit, Failure, StateArgs, Ui, convert, handed, mapped};
use crate::disk::Control;
use crate::model::config::Settings;
use crate::model::error::Error;
use crate::model::hook::HookCall;
use crate::model::machine::{Firmware, Machine};
use crate::model::plan::{Plan, PlannedGrowth, PlannedNic};
use crate::model::planner::{RefusedVm, VmOrigins, done_to_its_source};
use crate::model::units::human_size;
use crate::model::window::Window;
use crate::pipeline::described;
use crate::service::preflight;
use crate::sys::time::now_epoch;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// A manifest or a batch, as YAML or JSON, a disk, an appliance, a VMX, a libvirt domain (its XML, or libvirt://NAME), a
    /// VM of a vCenter or ESXi host (vsphere://CREDENTIAL-OR-HOST/PATH, esxi://CREDENTIAL-OR-HOST/FILE), or
    /// a directory of disks
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    /// Also show where each value comes from
    #[arg(long)]
    origins: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// `--json`
#[derive(Serialize)]
pub(super) struct PlanDocument {
    pub(super) plans: Vec<Plan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origins: Option<Vec<VmOrigins>>,
    /// Of several VMs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) price: Option<Price>,
    /// Of a batch that works in it only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<Box<Window>>,
}

/// Prints it.
pub(super) fn run(args: &PlanArgs, ui: &Ui) -> Result<Exit, Failure> {
    let settings = args.state.settings_or_defaults()?;
    let Planned { plans, origins, refused, at_a_time, window } =
        match convert::plans_of(&args.input, &args.state)? {
            Some((plans, origins)) => {
                Planned { plans, origins: args.origins.then_some(origins), ..Planned::default() }
            }
            None => of_manifest(args, &settings)?,
        };
    let price = (plans.len() > 1).then(|| Price::of(&plans, at_a_time, &settings));
    if ui.json {
        let plans = plans.into_iter().map(Plan::without_secrets).collect();
        ui.print_json(&PlanDocument { plans, origins, price, window })?;
        return tell_refused(&refused, ui);
    }
    for plan in &plans {
        ui.print(&describe(plan, ui.color))?;
    }
    for vm in origins.iter().flatten() {
        ui.print(&describe_origins(vm, ui.color))?;
    }
    if let Some(window) = window {
        ui.print(&format!("\nwindow\n  {}\n", window.in_words(now_epoch())))?;
    }
    if let Some(price) = price {
        ui.print(&format!("\n{}", price.describe()))?;
    }
    tell_refused(&refused, ui)
}

/// What an input comes to.
#[derive(Default)]
struct Planned {
    plans: Vec<Plan>,
    origins: Option<Vec<VmOrigins>>,
    refused: Vec<RefusedVm>,
    at_a_time: Option<u32>,
    window: Option<Box<Window>>,
}

fn of_manifest(args: &PlanArgs, settings: &Settings) -> Result<Planned, Failure> {
    let Input { bytes, filename, base_directory, .. } = &Input::read(&args.input)?;
    let submission = described::submission(bytes, filename, base_directory, settings)?;
    let control = Control::new();
    let submission = described::selected(&submission, settings, &control)?;
    let (mut plans, mut refused, several) =
        (Vec::new(), submission.refused.clone(), submission.vms.len() > 1);
    for plan in preflight::plans(&submission, settings)? {
        let vm_id = plan.vm_id.clone();
        match described::completed(plan, settings, &control) {
            Ok(plan) => plans.push(plan),
            Err(error) if several => refused.push(RefusedVm { vm_id, error }),
            Err(error) => return Err(error.into()),
        }
    }
    let origins =
        args.origins.then(|| described::origins(bytes, filename, base_directory, settings)).transpose()?;
    let at_a_time = submission.parallel_limit.map(|limit| limit.min(settings.max_concurrent_jobs));
    Ok(Planned { plans, origins, refused, at_a_time, window: submission.window })
}

/// VMs of a batch that cannot run as they are written: the plans of the others are no less true.
pub(super) fn tell_refused(refused: &[RefusedVm], ui: &Ui) -> Result<Exit, Failure> {
    let Some(first) = refused.first() else { return Ok(Exit::Done) };
    for vm in refused {
        ui.note(&printable(&format!("{}: {}", vm.vm_id, vm.error)));
    }
    let cause = format!("{} of its VMs cannot run; the first is {}", refused.len(), first.vm_id);
    Err(Error::new(first.error.kind(), cause).advice("mend what is said of each").into())
}

/// One VM's plan, for a person.
pub(super) fn describe(plan: &Plan, color: bool) -> String {
    let mut text = format!("{} (profile {})\n\nstages\n", printable(&plan.name), printable(&plan.profile));
    for planned in &plan.stages {
        let (word, paint) = if planned.enabled { ("run", Paint::Good) } else { ("off", Paint::Faint) };
        let word = paint.on(word, color);
        let _ = writeln!(text, "  {word}  {:<11} {}", planned.stage.name(), printable(&planned.reason));
    }
    if let Some(machine) = &plan.machine {
        let _ = writeln!(text, "\nmachine\n  {}", printable(&made_of(machine)));
    }
    if let Some(remote) = &plan.remote {
        let login = remote.login.file().map(|file| format!(", logging in by {}", file.display()));
        let who = format!("{}{}", remote.shown(), login.unwrap_or_default());
        let _ = writeln!(text, "\nsource\n  {}", printable(&who));
        for how in remote.ways_shown() {
            let _ = writeln!(text, "  {}", printable(&how));
        }
        if let Some(warm) = &remote.warm {
            let _ = writeln!(text, "  {}", warm.in_words());
        }
        for line in done_to_its_source(plan) {
            let _ = writeln!(text, "  {}", printable(&line));
        }
    }
    let _ = writeln!(text, "\ndisks");
    for disk in &plan.disks {
        let member = disk.member.as_ref().map(|member| format!(":{member}")).unwrap_or_default();
        let source = printable(&format!("{}{member}", disk.source.to_string_lossy()));
        let _ = writeln!(text, "  {source} ({})", disk.source_format.name());
        let _ = writeln!(text, "    -> {}", printable(&plan.result_path(disk).to_string_lossy()));
        if let Some(growth) = disk.resize {
            let _ = writeln!(text, "       {}", growing(growth, plan.grows_content()));
        }
        for note in mapped::disk(plan, disk) {
            let _ = writeln!(text, "       {note}");
        }
    }
    text.push_str(&mapped::cards(plan));
    text.push_str(&addresses(&plan.guest.nics));
    text.push_str(&hooks(plan));
    text.push_str(&handed::over(plan));
    if !plan.lacking.is_empty() {
        let lacking: Vec<&str> = plan.lacking.iter().map(|stage| stage.name()).collect();
        let _ = writeln!(text, "\nthis version lacks: {}", lacking.join(", "));
    }
    for warning in &plan.warnings {
        let word = Paint::Attention.on("warning", color);
        let _ = writeln!(text, "{word}: {}", printable(warning));
    }
    text
}

fn made_of(machine: &Machine) -> String {
    let mut parts = vec![
        format!("{} processors, {}", machine.vcpus, human_size(machine.memory_mib << 20)),
        machine.firmware.map_or("started as its disk is set up for", Firmware::name).to_owned(),
    ];
    parts.extend(machine.secure_boot.then(|| "secure boot".to_owned()));
    parts.extend(machine.tpm.then(|| "a TPM".to_owned()));
    let cards = machine.nics.iter().map(|nic| nic.mac.clone().unwrap_or_else(|| "a card".to_owned()));
    parts.extend(cards);
    parts.join(", ")
}

fn growing(growth: PlannedGrowth, with_content: bool) -> String {
    let how_far = match growth {
        PlannedGrowth::By(bytes) => format!("by {}", human_size(bytes)),
        PlannedGrowth::To(bytes) => format!("to {}", human_size(bytes)),
    };
    let what = if with_content { ", with its last partition and what is in that" } else { ", alone" };
    format!("grows {how_far}{what}")
}

/// What network cards are given inside the guest; nothing where none is.
fn addresses(nics: &[PlannedNic]) -> String {
    let mut text = String::new();
    for (number, nic) in nics.iter().enumerate().filter(|(_, nic)| !nic.addresses.is_empty()) {
        let mac = nic.mac.as_deref().map(|mac| format!(" ({mac})")).unwrap_or_default();
        let _ = write!(text, "  card {}{mac}: {}", number + 1, nic.addresses.join(", "));
        if let Some(gateway) = &nic.gateway {
            let _ = write!(text, ", gateway {gateway}");
        }
        if !nic.dns.is_empty() {
            let _ = write!(text, ", name servers {}", nic.dns.join(", "));
        }
        text.push('\n');
    }
    if text.is_empty() { text } else { format!("\naddresses in the guest\n{text}") }
}

/// What is run when and with what, as far as that is known by now; nothing where nothing is.
fn hooks(plan: &Plan) -> String {
    let mut text = String::new();
    for hook in &plan.hooks {
        let off = hook.stage.of().is_some_and(|stage| !plan.runs(stage));
        let what = match &hook.call {
            HookCall::Script { path, args, .. } => {
                let args = args.iter().map(|arg| format!(" {}", quoted(&arg.to_string())));
                format!("{}{}", path.display(), args.collect::<String>())
            }
            HookCall::Python { module, function, args } => {
                let args: Vec<&str> = args.keys().map(String::as_str).collect();
                format!("{}: {function}({})", module.display(), args.join(", "))
            }
            HookCall::Http { url, method, .. } => format!("{method} {url}"),
        };
        let mut notes = vec![format!("at most {} s", hook.timeout_s)];
        notes.extend(
            (hook.retry.max_retries > 0)
                .then(|| format!("tried again up to {} times", hook.retry.max_retries)),
        );
        notes.extend(hook.beside.then(|| "beside the next stage".to_owned()));
        notes.extend(hook.continue_on_error.then(|| "its failure is a warning".to_owned()));
        notes.extend(off.then(|| "will not run: its stage is off".to_owned()));
        let kind = hook.call.hook_type().name();
        let _ = writeln!(text, "  {:<15} {}", hook.stage.name(), printable(&format!("{kind} {}", hook.name)));
        let _ = writeln!(text, "    {}", printable(&what));
        let _ = writeln!(text, "    {}", notes.join(", "));
    }
    if text.is_empty() { text } else { format!("\nhooks\n{text}") }
}

/// An argument as it is told apart from the next.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.to_owned(),
        false => format!("'{argument}'"),
    }
}

fn describe_origins(vm: &VmOrigins, color: bool) -> String {
    let mut table = Table::new(&["VALUE OF", "IS", "FROM"]);
    for value in &vm.values {
        table.row([cell(&value.field), cell(value.value.to_string()), cell(&value.origin)]);
    }
    format!("\n{}\n{}", printable(&vm.vm_id), table.render(color))
}
