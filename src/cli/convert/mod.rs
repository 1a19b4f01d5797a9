//! `convert`: one-shot conversion without a daemon, a state directory or root.
//!
//! The same worker processes as the service's do the work; this file asks for them, shows how they
//! get on and tells how they ended. What is not here: any decision about a migration (the planner
//! takes those) and any memory beyond the journals beside the results.

mod again;
mod batch;
mod ending;
mod inputs;
mod running;

use std::path::{Path, PathBuf};

use super::plan;
use super::price::Price;
use super::table::printable;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::Rate;
use crate::model::plan::{OutputFormat, Plan};
use crate::model::planner::VmOrigins;
use crate::pipeline::checkpoint;
use crate::pipeline::publish::Names;
use crate::sys::dir::Dir;
use inputs::{Understood, Work};

pub(super) use inputs::MachineDisks;
pub(super) use running::usual_at_a_time;

/// Arguments of `convert`.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ConvertArgs {
    /// Manifests or batches (YAML or JSON), disks, appliances (OVA, OVF), VMX files, libvirt domains (their XML, or
    /// libvirt://NAME), VMs of a vCenter or ESXi host (vsphere://CREDENTIAL-OR-HOST/PATH,
    /// esxi://CREDENTIAL-OR-HOST/FILE), or directories of disks
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,
    /// Where the results go; of several VMs each in a directory of its own there
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Format of the results: qcow2, raw, vmdk, vhd or vdi
    #[arg(long, value_name = "FORMAT", value_parser = format_named)]
    to: Option<OutputFormat>,
    /// Profile that the conversion is based on
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// Only move bytes: no guest is opened or booted
    #[arg(long)]
    no_fix: bool,
    /// Do not try whether the result boots
    #[arg(long)]
    no_boot_test: bool,
    /// Pack the results
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "best",
          value_parser = ["best", "zstd", "zlib"])]
    compress: Option<String>,
    /// Make a disk larger, with what is in it: by (+10GiB) or to (50GiB) a size; of several disks, name the one by its id
    #[arg(long, value_name = "[DISK=]SIZE")]
    resize: Vec<String>,
    /// Take disks with all that they stand on (snapshots, checkpoints), which has to lie beside them
    #[arg(long)]
    backing_chain: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Go on from what an interrupted conversion left
    #[arg(long)]
    resume: bool,
    /// How many VMs are converted at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: Option<u32>,
    /// Read sources no faster than this, all together: 64KiB/s or more, as 50MiB/s
    #[arg(long, value_name = "RATE", value_parser = rate_named)]
    bandwidth: Option<Rate>,
    /// Convert the others when one fails (this is what happens anyway)
    #[arg(long, conflicts_with = "fail_fast")]
    continue_on_error: bool,
    /// Begin no other VM once one has failed
    #[arg(long)]
    fail_fast: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Converts what it is given, here and now.
pub(super) fn run(args: &ConvertArgs, ui: &Ui) -> Result<Exit, Failure> {
    let understood = inputs::understand(args)?;
    for note in &understood.notes {
        ui.note(&printable(note));
    }
    if args.dry_run {
        return tell_plans(&understood, args, ui);
    }
    if let Some(vm) =
        understood.refused.first().filter(|_| understood.fail_fast || understood.works.is_empty())
    {
        return Err(vm.error.clone().into());
    }
    for work in &understood.works {
        refuse_unfinished(work, args)?;
        refuse_taken_names(work)?;
        for warning in &work.order.plan.warnings {
            ui.note(&format!("{}: {warning}", work.order.plan.vm_id));
        }
    }
    let ended = running::convert(understood, args, ui)?;
    ending::tell(&ended, &inputs::base_directory(args)?, ui)
}

/// Converts the disks of one machine, repaired and not started.
pub(super) fn repaired_copy(
    machine: &MachineDisks<'_>,
    output: &Path,
    resume: bool,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let args = ConvertArgs {
        inputs: machine.disks.to_vec(),
        output: Some(output.to_owned()),
        no_boot_test: true,
        resume,
        ..ConvertArgs::default()
    };
    let work = inputs::of_machine(machine, &args)?;
    refuse_unfinished(&work, &args)?;
    refuse_taken_names(&work)?;
    let understood = Understood {
        works: vec![work],
        refused: Vec::new(),
        parallel_limit: None,
        fail_fast: false,
        notes: Vec::new(),
    };
    let ended = running::convert(understood, &args, ui)?;
    ending::tell_fixes(&ended, ui);
    ending::tell(&ended, output, ui)
}

/// What converting a disk or an appliance without any option would do, and where its values come from; `None` if the input is a
/// manifest.
pub(super) fn plans_of(input: &Path, state: &StateArgs) -> Result<Option<(Vec<Plan>, Vec<VmOrigins>)>> {
    let args = ConvertArgs { inputs: vec![input.to_owned()], state: state.clone(), ..ConvertArgs::default() };
    let Some(origins) = inputs::origins_of(input, &args)? else { return Ok(None) };
    let plans = inputs::understand(&args)?.works.into_iter().map(|work| work.order.plan).collect();
    Ok(Some((plans, origins)))
}

fn tell_plans(understood: &Understood, args: &ConvertArgs, ui: &Ui) -> Result<Exit, Failure> {
    let plans: Vec<_> =
        understood.works.iter().map(|work| work.order.plan.clone().without_secrets()).collect();
    let mut price = None;
    if plans.len() > 1 {
        let settings = args.state.settings_or_defaults()?;
        price = Some(Price::of(&plans, args.parallel.or(understood.parallel_limit), &settings));
    }
    if ui.json {
        ui.print_json(&plan::PlanDocument { plans, origins: None, price, window: None })?;
    } else {
        let mut texts: Vec<String> = plans.iter().map(|plan| plan::describe(plan, ui.color)).collect();
        texts.extend(price.map(|price| price.describe()));
        ui.print(&texts.join("\n"))?;
    }
    plan::tell_refused(&understood.refused, ui)
}

/// Finished disks of an interrupted conversion are neither thrown away nor taken for granted.
fn refuse_unfinished(work: &Work, args: &ConvertArgs) -> Result<()> {
    if args.resume || !checkpoint::is_worth_resuming(&work.order.plan) {
        return Ok(());
    }
    let plan = &work.order.plan;
    Err(Error::new(
        Kind::Exists,
        format!("an unfinished conversion of {} lies in {}", plan.vm_id, plan.output.directory.display()),
    )
    .output(&plan.output.directory)
    .advice(format!("go on with `{}`, or choose another directory", again::resume_line())))
}

/// What is there already is said before any worker starts.
fn refuse_taken_names(work: &Work) -> Result<()> {
    let plan = &work.order.plan;
    match Dir::open(&plan.output.directory) {
        Ok(dir) if !checkpoint::is_worth_resuming(plan) => Names::choose_in(plan, &dir).map(drop),
        // Half published already, or not there: the worker sees what is to be done.
        _ => Ok(()),
    }
}

fn rate_named(text: &str) -> std::result::Result<Rate, String> {
    Rate::parse(text).map_err(|_| "a rate is 64KiB/s or more, as 50MiB/s, or `unlimited`".to_owned())
}

fn format_named(name: &str) -> std::result::Result<OutputFormat, String> {
    OutputFormat::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
        let known: Vec<&str> = OutputFormat::ALL.into_iter().map(OutputFormat::name).collect();
        format!("the formats are {}", known.join(", "))
    })
}
