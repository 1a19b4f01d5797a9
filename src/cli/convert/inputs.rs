//! From what a person names to work orders: manifests, or disks as if a manifest had named them.
//!
//! Options count as if the manifest said so: they are put into it before it is planned, so that the
//! planner checks them like everything else. What is not here: what a manifest means.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ConvertArgs, batch};
use crate::cli::given::{
    Given, absolute, bare_disk, describer, disk_entry, document_of_disk, document_of_disks,
    document_of_machine, is_elsewhere, refuse_what_comes_later,
};
use crate::cli::input::Input;
use crate::cli::remote;
use crate::disk::Control;
use crate::model::acts::Acts;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::values::Mac;
use crate::model::parse;
use crate::model::plan::{Plan, SourceFormat};
use crate::model::planner::{BatchName, RefusedVm, Submission, VmOrigins};
use crate::model::protocol::{RemoteLimits, WorkLimits, WorkOrder};
use crate::model::units::safe_id;
use crate::pipeline::described;

/// What is needed while it runs lies here, beside the results; gone when all went well.
pub(super) const SCRATCH: &str = ".hyper2kvm";

/// One VM to convert.
pub(super) struct Work {
    /// What it was made from, as the person named it.
    pub(super) given: PathBuf,
    /// What the worker is told.
    pub(super) order: WorkOrder,
    /// Its part of the scratch directory.
    pub(super) scratch: PathBuf,
}

impl Work {
    /// What the worker says beside its events.
    pub(super) fn log(&self) -> PathBuf {
        self.scratch.join(format!("{}.log", self.order.plan.vm_id))
    }
}

/// All that is to be done.
pub(super) struct Understood {
    /// The VMs, the most urgent first.
    pub(super) works: Vec<Work>,
    /// VMs of batches that cannot run as they are written.
    pub(super) refused: Vec<RefusedVm>,
    /// How many may run at a time, if batches say so: the least of them.
    pub(super) parallel_limit: Option<u32>,
    /// Whether none begins any more once one has failed.
    pub(super) fail_fast: bool,
    /// What a person should know before anything is done.
    pub(super) notes: Vec<String>,
}

/// Understands all inputs, or says what is wrong with the first that cannot be.
pub(super) fn understand(args: &ConvertArgs) -> Result<Understood> {
    let base = base_directory(args)?;
    let items = items(&args.inputs, &settings(&base, args)?)?;
    let several = items.len() > 1;
    let mut all = Understood {
        works: Vec::new(),
        refused: Vec::new(),
        parallel_limit: None,
        fail_fast: args.fail_fast,
        notes: Vec::new(),
    };
    for (input, item) in &items {
        match item {
            Item::Batch(file, document) => batch::add(input, (file, document), args, &base, &mut all)?,
            _ => all.works.push(one(input, item, args, &base, several)?),
        }
    }
    all.works.sort_by_key(|work| work.order.plan.priority);
    batch::refuse_what_is_there_twice(&all.works)?;
    Ok(all)
}

/// One machine of what was named.
enum Item {
    Manifest,
    Batch(Input, Value),
    Disk(SourceFormat),
    Machine(Box<Facts>),
    Elsewhere(Box<Value>, String),
}

fn items<'i>(inputs: &'i [PathBuf], settings: &Settings) -> Result<Vec<(&'i Path, Item)>> {
    let mut items = Vec::new();
    for input in inputs {
        match Given::anywhere(input, settings)? {
            Given::Elsewhere(document, filename) => {
                items.push((input.as_path(), Item::Elsewhere(document, filename)));
            }
            Given::Manifest => items.push((input.as_path(), manifest(input)?)),
            Given::Disk(format) => items.push((input.as_path(), Item::Disk(format))),
            Given::Machines(machines) => {
                let each = |facts| (input.as_path(), Item::Machine(Box::new(facts)));
                items.extend(machines.into_iter().map(each));
            }
        }
    }
    Ok(items)
}

/// A manifest or a batch.
fn manifest(input: &Path) -> Result<Item> {
    let file = Input::read(input)?;
    let document = parse::parse(&file.bytes, &file.filename).map_err(|error| error.file(&file.given))?;
    let document = document.root.canonical();
    Ok(if batch::is_batch(&document) { Item::Batch(file, document) } else { Item::Manifest })
}

/// The disks of one machine, in its order, as somebody names them without a manifest.
pub(in crate::cli) struct MachineDisks<'a> {
    /// The disks.
    pub(in crate::cli) disks: &'a [PathBuf],
    /// Who repairs the guest, as a manifest says it.
    pub(in crate::cli) engine: &'a str,
    /// Files with the keys of encrypted volumes.
    pub(in crate::cli) key_files: &'a [PathBuf],
    /// The MAC addresses of its network cards, in order.
    pub(in crate::cli) macs: &'a [Mac],
}

/// One VM of these disks.
pub(super) fn of_machine(machine: &MachineDisks<'_>, args: &ConvertArgs) -> Result<Work> {
    let base = base_directory(args)?;
    let Some(first) = machine.disks.first() else {
        return Err(Error::new(Kind::Manifest, "no disk is named").advice("name the disks of one machine"));
    };
    let mut disks = Vec::new();
    for disk in machine.disks {
        refuse_what_comes_later(disk)?;
        refuse_its_own_source(disk, args, &base, false)?;
        let format = bare_disk(disk)?.ok_or_else(|| {
            Error::new(Kind::Source, "it is no disk")
                .source(disk.display().to_string())
                .advice("name disk images")
        })?;
        disks.push(disk_entry(disk, format)?);
    }
    let (mut document, filename) = document_of_disks(first, &disks)?;
    let key = |path: &PathBuf| Ok(json!({ "key_file": absolute(path)? }));
    let nic = |(number, mac): (usize, &Mac)| json!({ "id": format!("nic{number}"), "mac": mac.as_str() });
    put(&mut document, &["pipeline", "fix", "engine"], json!(machine.engine));
    put(&mut document, &["luks"], machine.key_files.iter().map(key).collect::<Result<Value>>()?);
    put(&mut document, &["nics"], machine.macs.iter().enumerate().map(nic).collect());
    let planned = plan_document(document, &filename, &base, args, &base, false)
        .map_err(|error| error.without_file(&filename))?;
    work(first, planned, &base, false, true)
}

/// Where the values come from by which a disk or an appliance would be converted; `None` if the input is neither.
pub(super) fn origins_of(input: &Path, args: &ConvertArgs) -> Result<Option<Vec<VmOrigins>>> {
    if !remote::is_meant(input) {
        refuse_what_comes_later(input)?;
    }
    // What is not there or empty is told as of a manifest.
    let is_there = |metadata: fs::Metadata| metadata.is_dir() || metadata.is_file() && metadata.len() > 0;
    if !is_elsewhere(input) && !fs::metadata(input).is_ok_and(is_there) {
        return Ok(None);
    }
    let base = base_directory(args)?;
    let settings = settings(&base, args)?;
    let (word, documents) = match Given::anywhere(input, &settings)? {
        Given::Manifest => return Ok(None),
        Given::Disk(format) => ("disk", vec![document_of_disk(input, format)?]),
        Given::Machines(machines) => (describer(input), machines.iter().map(document_of_machine).collect()),
        Given::Elsewhere(document, filename) => (describer(input), vec![(*document, filename)]),
    };
    let several = documents.len() > 1;
    let mut all = Vec::new();
    for (document, filename) in documents {
        let (document, _) = with_options(document, args, &base, several)?;
        let vms = described::origins(document.to_string().as_bytes(), &filename, &base, &settings);
        all.extend(vms.map_err(|error| error.without_file(&filename))?);
    }
    for value in all.iter_mut().flat_map(|vm| &mut vm.values) {
        // The manifest is one that nobody wrote.
        if value.origin.starts_with("manifest") {
            value.origin = word.to_owned();
        }
    }
    Ok(Some(all))
}

/// `-o DIR`, or where the person is. Their own symbolic links are followed here, once.
pub(super) fn base_directory(args: &ConvertArgs) -> Result<PathBuf> {
    let given = args.output.as_deref().unwrap_or(Path::new("."));
    let absolute =
        std::path::absolute(given).map_err(|error| Error::io(Kind::Output, "resolve", given, &error))?;
    Ok(fs::canonicalize(&absolute).unwrap_or(absolute))
}

fn one(input: &Path, item: &Item, args: &ConvertArgs, base: &Path, several: bool) -> Result<Work> {
    let planned = match item {
        Item::Machine(facts) => {
            let (document, filename) = document_of_machine(facts);
            let planned = plan_document(document, &filename, base, args, base, several);
            let mut work =
                work(input, planned.map_err(|error| error.without_file(&filename))?, base, several, false)?;
            work.order.plan.warnings.extend(facts.warnings.iter().cloned());
            work.order.plan.notes.extend(facts.notes.iter().cloned());
            return Ok(work);
        }
        Item::Elsewhere(document, filename) => {
            plan_document((**document).clone(), filename, base, args, base, several)
                .map_err(|error| error.without_file(filename))?
        }
        Item::Disk(format) => {
            let (document, filename) = document_of_disk(input, *format)?;
            refuse_its_own_source(input, args, base, several)?;
            plan_document(document, &filename, base, args, base, several)
                .map_err(|error| error.without_file(&filename))?
        }
        Item::Manifest | Item::Batch(..) => {
            let file = Input::read(input)?;
            let document = parse::parse(&file.bytes, &file.filename)?.root.canonical();
            match plan_document(document, &file.filename, &file.base_directory, args, base, several) {
                Ok(planned) => planned,
                Err(merged) => {
                    // The file as it was written knows its lines: what is wrong in it is better told from there.
                    let settings = settings(base, args)?;
                    let written =
                        described::submission(&file.bytes, &file.filename, &file.base_directory, &settings);
                    return Err(written.err().unwrap_or(merged).file_as(&file.filename, &file.given));
                }
            }
        }
    };
    work(input, planned, base, several, matches!(item, Item::Disk(_)))
}

/// What the worker is told of one planned VM.
fn work(
    given: &Path,
    (submission, settings, named): (Submission, Settings, bool),
    base: &Path,
    several: bool,
    disks_alone: bool,
) -> Result<Work> {
    let batch_id = name_of(&submission);
    let mut plans = submission.plans(&batch_id, "", &settings)?;
    let mut plan = match (plans.pop(), plans.is_empty()) {
        (Some(plan), true) => described::completed(plan, &settings, &Control::new())?,
        _ => return Err(Error::internal("a manifest is of one VM")),
    };
    // A disk alone becomes a disk alone.
    plan.output.domain &= !disks_alone;
    Ok(of_plan(given, plan, (&batch_id, &settings), base, (named, several)))
}

pub(super) fn name_of(submission: &Submission) -> String {
    match &submission.name {
        BatchName::Named(name) | BatchName::Stem(name) => name.clone(),
    }
}

/// The work of a plan. `named`: its directory is the manifest's; else it is `base`, or of several VMs one below that.
pub(super) fn of_plan(
    given: &Path,
    mut plan: Plan,
    (batch_id, settings): (&str, &Settings),
    base: &Path,
    (named, several): (bool, bool),
) -> Work {
    settle_directory(&mut plan, base, named, several);
    let beside = if named { plan.output.directory.clone() } else { base.to_owned() };
    let scratch = beside.join(SCRATCH);
    let work_dir = scratch.join(&plan.vm_id);
    Work {
        given: given.to_owned(),
        scratch,
        order: WorkOrder {
            job_id: 0,
            batch_id: batch_id.to_owned(),
            attempt: 1,
            plan,
            limits: WorkLimits {
                hook_roots: settings.hooks.allowed_dirs.clone(),
                preflight: settings.preflight.clone(),
                remote: RemoteLimits::of(settings),
                ..WorkLimits::unbound(work_dir, settings.stall_timeout_s)
            },
            acts: Acts::default(),
            settle: None,
            cuts_over: false,
        },
    }
}

/// What binds a person: permissions alone, and of the configuration what a manifest is read with: which profiles and stored
/// credentials there are, how long a server is waited for, whether sources may be shut down, where VMware's library is, which libvirt is meant, and what may be run for somebody else's manifest.
pub(super) fn settings(base: &Path, args: &ConvertArgs) -> Result<Settings> {
    let configured = args.state.settings_or_defaults().map_err(|failure| {
        failure.error.unwrap_or_else(|| Error::internal("the configuration is not known"))
    })?;
    let mut settings = Settings::defaults(base, cores()).for_a_person();
    settings.hooks = configured.hooks;
    settings.profiles_dir = configured.profiles_dir;
    settings.libvirt = configured.libvirt;
    settings.credentials.dir = configured.credentials.dir;
    settings.vc_connection = configured.vc_connection;
    settings.vddk = configured.vddk;
    settings.sources = configured.sources;
    Ok(settings)
}

/// A document with the options put into it; also says whether it names its directory itself.
fn with_options(
    mut document: Value,
    args: &ConvertArgs,
    base: &Path,
    several: bool,
) -> Result<(Value, bool)> {
    let named = args.output.is_none()
        && document.pointer("/output/directory").is_some_and(|directory| !directory.is_null());
    put_options(&mut document, args);
    for wanted in &args.resize {
        put_size(&mut document, wanted)?;
    }
    if !named && !several && document.is_object() {
        put(&mut document, &["output", "directory"], json!(base));
    }
    Ok((document, named))
}

/// Plans a document with the options put into it; also says whether it names its directory itself.
fn plan_document(
    document: Value,
    filename: &str,
    directory: &Path,
    args: &ConvertArgs,
    base: &Path,
    several: bool,
) -> Result<(Submission, Settings, bool)> {
    let (document, named) = with_options(document, args, base, several)?;
    let settings = settings(base, args)?;
    let submission = described::submission(document.to_string().as_bytes(), filename, directory, &settings)?;
    Ok((submission, settings, named))
}

pub(super) fn put_options(document: &mut Value, args: &ConvertArgs) {
    if !document.is_object() {
        return;
    }
    if let Some(profile) = &args.profile {
        put(document, &["profile"], json!(profile));
    }
    if let Some(format) = args.to {
        put(document, &["output", "format"], json!(format.name()));
    }
    if let Some(how) = &args.compress {
        let value = if how == "best" { json!(true) } else { json!(how) };
        put(document, &["output", "compress"], value);
    }
    if args.backing_chain {
        for disk in document["disks"].as_array_mut().into_iter().flatten() {
            put(disk, &["backing_chain"], json!(true));
        }
    }
    let mut off = Vec::new();
    if args.no_fix {
        off.extend(["inspect", "fix", "boot_test"]);
    }
    if args.no_boot_test {
        off.push("boot_test");
    }
    for stage in off {
        put(document, &["pipeline", stage], json!({ "enabled": false }));
    }
}

/// `SIZE`, of the only disk, or `DISK=SIZE`.
fn put_size(document: &mut Value, wanted: &str) -> Result<()> {
    let (id, size) = match wanted.split_once('=') {
        Some((id, size)) => (Some(id), size),
        None => (None, wanted),
    };
    // Without disks there is an error already, and it is not about sizes.
    let is_elsewhere = ["/source/vsphere", "/source/esxi"]
        .into_iter()
        .any(|provider| document.pointer(provider).is_some_and(|source| !source.is_null()));
    let Some(disks) = document.get_mut("disks").and_then(Value::as_array_mut) else {
        return match is_elsewhere {
            true => Err(Error::new(
                Kind::Unsupported,
                "disks that only a server knows do not grow while they are fetched",
            )
            .advice(
                "convert the VM first, then make its result larger: `hyper2kvm convert RESULT --resize SIZE`",
            )),
            false => Ok(()),
        };
    };
    let ids: Vec<String> = disks.iter().filter_map(|disk| disk["id"].as_str().map(str::to_owned)).collect();
    let disk = match id {
        Some(id) => disks.iter_mut().find(|disk| disk["id"] == id),
        None if disks.len() == 1 => disks.first_mut(),
        None => None,
    };
    match disk.and_then(Value::as_object_mut) {
        Some(disk) => {
            disk.insert("resize".to_owned(), json!(size));
            Ok(())
        }
        None => Err(Error::new(Kind::Manifest, format!("`--resize {wanted}` does not name one disk"))
            .allowed(ids)
            .advice("write `--resize DISK=SIZE` with the id of a disk")),
    }
}

/// Sets a value at a path, making the objects on the way; where something else is there, the planner says so.
pub(super) fn put(document: &mut Value, path: &[&str], value: Value) {
    let mut here = document;
    for key in path {
        let Value::Object(fields) = here else { return };
        here = fields.entry(*key).or_insert_with(|| json!({}));
        if here.is_null() {
            *here = json!({});
        }
    }
    *here = value;
}

/// Of several VMs each gets a directory of its own; links of the person's own directory are followed once.
fn settle_directory(plan: &mut Plan, base: &Path, named: bool, several: bool) {
    if !named && several {
        plan.output.directory = base.join(&plan.vm_id);
    }
    if let Ok(real) = fs::canonicalize(&plan.output.directory) {
        plan.output.directory = real;
    }
    for home in plan.disks.iter_mut().filter_map(|disk| disk.placement.home.as_mut()) {
        if let Ok(real) = fs::canonicalize(&home.directory) {
            home.directory = real;
        }
    }
}

/// `x.qcow2` converted to qcow2 beside itself: there is no name left for the result.
fn refuse_its_own_source(input: &Path, args: &ConvertArgs, base: &Path, several: bool) -> Result<()> {
    let id = safe_id(&input.file_stem().unwrap_or_default().to_string_lossy());
    let directory = if several { base.join(&id) } else { base.to_owned() };
    let result = directory.join(format!("{id}.{}", args.to.unwrap_or_default().name()));
    if fs::canonicalize(input).is_ok_and(|source| source == result) {
        return Err(Error::new(
            Kind::Exists,
            format!("the result would take the place of its source {}", result.display()),
        )
        .output(result)
        .advice("name another directory with `-o` or another format with `--to`"));
    }
    Ok(())
}

/// The machine's cores, for the default of how much is done at a time.
pub(super) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_put_where_a_manifest_would_say_them() {
        let mut document = json!({ "output": { "format": "raw", "group": "kvm" }, "pipeline": null });
        put(&mut document, &["output", "format"], json!("vdi"));
        put(&mut document, &["pipeline", "fix"], json!({ "enabled": false }));
        assert_eq!(
            document,
            json!({ "output": { "format": "vdi", "group": "kvm" }, "pipeline": { "fix": { "enabled": false } } })
        );
    }

    #[test]
    fn a_size_goes_to_the_disk_that_is_named_or_to_the_only_one() {
        let sized = |ids: &[&str], wanted: &str| {
            let disks: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
            let mut document = json!({ "disks": disks });
            put_size(&mut document, wanted).map(|()| document["disks"].to_string())
        };
        assert_eq!(sized(&["a"], "+1GiB").unwrap(), r#"[{"id":"a","resize":"+1GiB"}]"#);
        assert_eq!(sized(&["a", "b"], "b=5GiB").unwrap(), r#"[{"id":"a"},{"id":"b","resize":"5GiB"}]"#);
        for (ids, wanted) in [(&["a", "b"][..], "5GiB"), (&["a"], "c=5GiB")] {
            assert!(sized(ids, wanted).unwrap_err().to_string().contains("--resize"));
        }
    }
}
