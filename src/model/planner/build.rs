//! The plan of one VM, spelled out from its effective manifest. Decides nothing that could still be refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Submission, VmSubmission, mapping, stem};
use crate::model::config::Settings;
use crate::model::error::Result;
use crate::model::job::Stage;
use crate::model::machine::{Firmware, Machine};
use crate::model::manifest::{Compress, Disk, Manifest, PreflightChoice, Source};
use crate::model::parse::{Node, Tree, Value};
use crate::model::placement::Placement;
use crate::model::plan::{
    Compression, InputManifest, OnExists, OutputFormat, Plan, PlannedDisk, PlannedGuest, PlannedOutput,
    PlannedStage, Preallocation,
};
use crate::model::units::safe_id;

/// A disk without a hint boots after all that have one.
const LAST_TO_BOOT: u32 = 999;

/// The plan of one VM.
pub(super) fn plan(
    submission: &Submission,
    vm: &VmSubmission,
    manifest: &Manifest,
    tree: &Tree,
    batch_id: &str,
    vm_suffix: &str,
    settings: &Settings,
) -> Result<Plan> {
    let profile = manifest.profile.as_ref().map_or(super::effective::BASE_PROFILE, |name| name.as_str());
    let stages = stages(tree, profile, &vm.profile_says);
    let lacking: Vec<Stage> = Stage::ALL.into_iter().filter(|stage| lacks(tree, *stage)).collect();
    let root = submission.output_directory.clone().unwrap_or_else(|| settings.output_dir.join(batch_id));
    let remote = super::remote::planned(manifest, (submission, vm), (batch_id, vm_suffix), &root, settings);
    let output = output(manifest, tree, &vm.vm_id, vm_suffix, &root);
    let mut warnings = warnings(manifest, &output);
    if !lacking.is_empty() {
        let names: Vec<&str> = lacking.iter().map(|stage| stage.name()).collect();
        warnings.insert(
            0,
            format!(
                "this version of hyper2kvm lacks stages that the profile {profile} asks for: {}; the guest is converted as it is and may not boot without virtio drivers",
                names.join(", ")
            ),
        );
    }
    warnings.extend(super::firmware::warnings(manifest));
    warnings.extend(super::growth::warnings(tree, manifest));
    warnings.extend(super::handover::warnings(tree, manifest));
    warnings.extend(super::snapshots::warning(manifest));
    warnings.extend(vm.warnings.iter().cloned());
    let name = vm_name(manifest, &submission.filename);
    let mut disks = disks(manifest.disks.as_deref().unwrap_or_default());
    let rerun = suffix(output.on_exists, vm_suffix);
    let id = format!("{}{rerun}", vm.vm_id);
    mapping::disks::place_all(manifest, &output, &id, &mut disks);
    let made_in = super::pool::place(manifest, vm.pool_directory.as_deref(), &id, &mut disks);
    let images =
        disks.iter().map(|disk| (disk.id.clone(), disk.result_in(&output), disk.format_in(&output).into()));
    let called = super::handover::name(tree, manifest).unwrap_or_else(|| name.clone());
    let mut machine = Machine::of_manifest(&called, manifest, images);
    let mut guest = super::guest::planned(manifest, settings);
    mapping::disks::apply(manifest, &mut machine);
    mapping::networks::apply(manifest, &mut machine);
    mapping::macs::apply(manifest, (batch_id, &vm.vm_id), &mut machine, &mut guest.nics);
    warnings.extend(mapping::networks::warnings(manifest, &machine));
    warnings.extend(mapping::macs::warnings(manifest));
    let format = disks.first().map_or(output.format, |disk| disk.format_in(&output));
    let known = known(submission, &name, vm, batch_id, &disks, format, &machine);
    let hooks = super::hooks::planned(tree, manifest, &known)?;
    warnings.extend(super::hooks::warnings(tree, manifest));
    let libvirt = super::handover::planned(tree, manifest, &settings.libvirt.uri, &called, (&disks, made_in));
    let note = super::remote::note(remote.as_ref(), &stages);
    let notes = vm.notes.iter().cloned().chain(note).collect();
    Ok(Plan {
        vm_id: vm.vm_id.clone(),
        name,
        profile: profile.to_owned(),
        stages,
        disks,
        needs_network: remote.is_some(),
        remote: remote.map(Box::new),
        machine: Some(machine),
        guest: PlannedGuest { setup: vm.setup.clone(), ..guest },
        boot_test: super::guest::boot_test(manifest, settings)?,
        hooks,
        libvirt,
        output,
        preflight: manifest.preflight.as_ref().and_then(|choice| choice.level).unwrap_or_default(),
        rules: manifest.preflight.as_ref().map(PreflightChoice::weights).unwrap_or_default(),
        notes,
        lacking,
        warnings,
        priority: manifest.priority.map_or(0, |priority| priority.get()),
        depends_on: manifest.depends_on.iter().flatten().map(|id| id.as_str().to_owned()).collect(),
        content_sha256: vm.content_sha256.clone(),
        input: input(submission, vm, manifest, tree),
    })
}

/// What hooks may name.
fn known(
    submission: &Submission,
    name: &str,
    vm: &VmSubmission,
    batch_id: &str,
    disks: &[PlannedDisk],
    format: OutputFormat,
    machine: &Machine,
) -> super::hooks::Known {
    let text = |path: Option<&Path>| path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let boot = disks.first().map(|disk| disk.source.as_path());
    let filename = boot.and_then(Path::file_name).map(Path::new);
    let own = submission.base_directory.join(&submission.filename);
    let manifest = vm.manifest_path.as_deref().unwrap_or(&own);
    super::hooks::Known::from([
        ("vm_name", name.to_owned()),
        ("vm_id", vm.vm_id.clone()),
        ("batch_id", batch_id.to_owned()),
        ("source_path", text(boot)),
        ("source_dir", text(boot.and_then(Path::parent))),
        ("source_filename", text(filename)),
        ("output_format", format.name().to_owned()),
        ("firmware", machine.firmware.map_or("auto", Firmware::name).to_owned()),
        ("manifest_path", text(Some(manifest))),
    ])
}

/// What the VM is called: by its manifest, at its source, or like the file.
fn vm_name(manifest: &Manifest, filename: &str) -> String {
    let at_source = || manifest.source.as_ref().and_then(Source::name_there);
    let name = manifest.name.as_ref().map(|name| name.as_str()).or_else(at_source);
    name.map_or_else(|| stem(filename), str::to_owned)
}

/// The VM's id: its name, made safe.
pub(super) fn vm_id(manifest: &Manifest, filename: &str) -> String {
    safe_id(&vm_name(manifest, filename))
}

/// Where the manifest speaks of a stage; empty for those of which it does not.
pub(super) fn section(stage: Stage) -> &'static str {
    match stage {
        Stage::Load | Stage::Extraction => "",
        Stage::Inspect => "pipeline.inspect",
        Stage::Fix => "pipeline.fix",
        Stage::Convert => "pipeline.convert",
        Stage::Validate => "pipeline.validate",
        Stage::BootTest => "pipeline.boot_test",
        Stage::Libvirt => "libvirt_integration",
    }
}

/// Whether the effective manifest wants a stage.
pub(super) fn is_on(tree: &Tree, stage: Stage) -> bool {
    match section(stage) {
        "" => true,
        section => enabled(&tree.root, section) == Some(true),
    }
}

pub(super) fn enabled(root: &Node, section: &str) -> Option<bool> {
    let node = section.split('.').try_fold(root, |node, key| node.get(key))?.get("enabled")?;
    match node.value {
        Value::Bool(on) => Some(on),
        _ => None,
    }
}

fn lacks(tree: &Tree, stage: Stage) -> bool {
    is_on(tree, stage) && !Stage::BUILT.contains(&stage)
}

fn stages(tree: &Tree, profile: &str, says: &BTreeMap<Stage, bool>) -> Vec<PlannedStage> {
    let planned = Stage::ALL.into_iter().map(|stage| {
        let on = is_on(tree, stage);
        let reason = match (section(stage), says.get(&stage)) {
            ("", _) => "always runs".to_owned(),
            _ if lacks(tree, stage) => {
                format!("the profile {profile} asks for it, but this version cannot do it")
            }
            (_, Some(wanted)) if *wanted == on => {
                format!("the profile {profile} switches it {}", if on { "on" } else { "off" })
            }
            (_, None) if !on => "nothing asks for it".to_owned(),
            _ => format!("the manifest switches it {}", if on { "on" } else { "off" }),
        };
        PlannedStage { stage, enabled: on && Stage::BUILT.contains(&stage), reason }
    });
    planned.collect()
}

/// Lowest boots; of equals, the first.
pub(super) fn boots_at(disk: &Disk) -> u32 {
    disk.boot_order_hint.and_then(|hint| u32::try_from(hint.get()).ok()).unwrap_or(LAST_TO_BOOT)
}

/// What a rerun's results are told by from those that are there; nothing where they take their place.
fn suffix(on_exists: OnExists, vm_suffix: &str) -> &str {
    if on_exists == OnExists::Replace { "" } else { vm_suffix }
}

fn disks(disks: &[Disk]) -> Vec<PlannedDisk> {
    let mut planned: Vec<PlannedDisk> = disks
        .iter()
        .map(|disk| PlannedDisk {
            id: disk.id.as_str().to_owned(),
            source: PathBuf::from(disk.local_path.as_str()),
            source_format: disk.source_format,
            member: disk.member.as_ref().map(|member| member.as_str().to_owned()),
            packing: disk.compression,
            piece_checksums: disk
                .piece_checksums
                .iter()
                .flatten()
                .map(|checksum| checksum.as_str().to_owned())
                .collect(),
            checksum: disk.checksum.as_ref().map(|checksum| checksum.as_str().to_owned()),
            bytes: disk.bytes.map(|bytes| bytes.get().unsigned_abs()),
            backing_chain: disk.backing_chain.unwrap_or(false),
            allowed_paths: disk
                .allowed_paths
                .iter()
                .flatten()
                .map(|path| PathBuf::from(path.as_str()))
                .collect(),
            boot_order_hint: boots_at(disk),
            resize: disk.resize.as_ref().and_then(super::growth::planned),
            placement: Placement::default(),
        })
        .collect();
    planned.sort_by_key(|disk| disk.boot_order_hint);
    planned
}

fn output(
    manifest: &Manifest,
    tree: &Tree,
    vm_id: &str,
    vm_suffix: &str,
    batch_directory: &Path,
) -> PlannedOutput {
    let output = manifest.output.as_ref();
    let format = mapping::disks::format(manifest);
    let on_exists = output.and_then(|output| output.on_exists).unwrap_or_default();
    let suffix = suffix(on_exists, vm_suffix);
    let named = output.and_then(|output| output.directory.as_ref());
    let directory = match named {
        Some(directory) if suffix.is_empty() => PathBuf::from(directory.as_str()),
        Some(directory) => Path::new(directory.as_str()).join(format!("{vm_id}{suffix}")),
        None => batch_directory.join(format!("{vm_id}{suffix}")),
    };
    let validate = manifest.pipeline.as_ref().and_then(|pipeline| pipeline.validate.as_ref());
    let report = manifest.options.as_ref().and_then(|options| options.report.as_ref());
    PlannedOutput {
        directory,
        format,
        compress: compression(output.and_then(|output| output.compress), format).unwrap_or_default(),
        compress_level: output
            .and_then(|output| output.compress_level)
            .and_then(|level| u8::try_from(level.get()).ok()),
        preallocation: mapping::disks::preallocation(manifest),
        group: output.and_then(|output| output.group.as_ref()).map(|group| group.as_str().to_owned()),
        mode: output.and_then(|output| output.mode).map(|mode| mode.0),
        on_exists,
        report: report.and_then(|report| report.enabled).unwrap_or(true),
        domain: true,
        check_image_integrity: is_on(tree, Stage::Validate)
            && validate.and_then(|validate| validate.check_image_integrity).unwrap_or(true),
        read_back: is_on(tree, Stage::Validate)
            && validate.and_then(|validate| validate.read_back).unwrap_or(false),
    }
}

/// How a format is packed when this is asked for; `None` if it cannot be.
pub(super) fn compression(asked: Option<Compress>, format: OutputFormat) -> Option<Compression> {
    match (asked.unwrap_or(Compress::With(Compression::None)), format) {
        (Compress::With(Compression::None), _) => Some(Compression::None),
        (Compress::Best | Compress::With(Compression::Zstd), OutputFormat::Qcow2) => Some(Compression::Zstd),
        (Compress::With(Compression::Zlib), OutputFormat::Qcow2 | OutputFormat::Vmdk)
        | (Compress::Best, OutputFormat::Vmdk) => Some(Compression::Zlib),
        (Compress::With(Compression::Zstd), OutputFormat::Vmdk)
        | (_, OutputFormat::Raw | OutputFormat::Vhd | OutputFormat::Vdi) => None,
    }
}

/// As in manifests.
pub(super) fn preallocation_name(choice: Preallocation) -> &'static str {
    match choice {
        Preallocation::Off => "off",
        Preallocation::Metadata => "metadata",
        Preallocation::Falloc => "falloc",
        Preallocation::Full => "full",
    }
}

fn warnings(manifest: &Manifest, output: &PlannedOutput) -> Vec<String> {
    let mut warnings = Vec::new();
    if output.compress_level.is_some() && output.compress == Compression::None {
        warnings.push("output.compress_level has no effect: nothing is compressed".to_owned());
    }
    if manifest.options.as_ref().is_some_and(|options| options.verbose.is_some()) {
        warnings.push(
            "options.verbose has no effect: how much is logged is set by `verbose` in the configuration"
                .to_owned(),
        );
    }
    for warning in manifest.warnings.iter().flatten() {
        let stage = warning.stage.as_ref().map_or("manifest", |stage| stage.as_str());
        warnings.push(format!("from the manifest ({stage}): {}", warning.message));
    }
    warnings
}

fn input(submission: &Submission, vm: &VmSubmission, manifest: &Manifest, tree: &Tree) -> InputManifest {
    let source = manifest.source.as_ref();
    let text =
        |line: Option<&crate::model::manifest::values::Line>| line.map(|line| line.as_str().to_owned());
    InputManifest {
        path: Some(match &vm.manifest_path {
            Some(path) => path.to_string_lossy().into_owned(),
            None => submission.filename.clone(),
        }),
        manifest_version: manifest
            .manifest_version
            .as_ref()
            .map_or("1.0", |version| version.as_str())
            .to_owned(),
        source_provider: text(source.and_then(|source| source.provider.as_ref())),
        source_vm_id: text(source.and_then(|source| source.vm_id.as_ref())),
        source_vm_name: source.and_then(Source::name_there).map(str::to_owned),
        notes: manifest.notes.clone().unwrap_or_default(),
        metadata: tree.node("metadata").map(Node::canonical),
    }
}
