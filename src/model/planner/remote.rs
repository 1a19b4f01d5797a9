//! A VM that only its vCenter knows: what a manifest may say of it, and its plan once it was asked.
//!
//! At acceptance nobody is asked, because whoever would be may be away, refuse the login or be slow: the plan says who is to be asked and for
//! what, and has no disks. [`describe`] makes it again by the answer, with all that the manifest is held against. What is not here: asking.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::check::{self, Looks, refuse_fixed, unsupported};
use super::effective::{DEFAULT, Effective, MANIFEST, SOURCE, forget_other_unit, is_written, layers};
use super::{Submission, VmSubmission, build, hex, mapping, power, snapshots, warm};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::{Facts, FoundDisk, SourceNote};
use crate::model::job::Stage;
use crate::model::manifest::values::{Line, Secret};
use crate::model::manifest::{Manifest, VsphereMode, VsphereSource, VsphereTransport};
use crate::model::parse::{Node, Tree, merge};
use crate::model::plan::{Plan, PlannedStage, Preflight};
use crate::model::redaction::REDACTED;
use crate::model::remote::{
    Asked, CONNECTIONS, Description, Draft, HTTPS_PORT, PlannedLogin, PlannedRemote, WantedVm, streams_note,
};
use crate::model::thumbprint::Thumbprint;

/// In `credentials.allowed_env`: any variable.
const ANY_VARIABLE: &str = "*";

/// What a manifest wants a server's API to be asked for; none where it names disks.
pub(super) fn asked_for(manifest: &Manifest) -> Option<&VsphereSource> {
    let source = manifest.source.as_ref().filter(|_| manifest.disks.is_none())?;
    source.vsphere.as_deref()
}

/// Whether a manifest wants a server, or a host's shell, to be asked; not where it names disks.
pub(super) fn is_asked_for(manifest: &Manifest) -> bool {
    let source = manifest.source.as_ref().filter(|_| manifest.disks.is_none());
    source.is_some_and(|source| source.vsphere.is_some() || source.esxi.is_some())
}

/// What a submission keeps of that.
pub(super) fn to_be_asked(effective: &Effective) -> Option<Asked> {
    if !is_asked_for(&effective.manifest) {
        return None;
    }
    let selecting = effective.selecting.clone().map(Box::new);
    // What is mapped for all that are selected need not be for each of them.
    let own_entries = if selecting.is_some() { Vec::new() } else { mapping::own_entries(&effective.tree) };
    Some(Asked { own_entries, found: None, selecting, looks_first: looks_first(effective) })
}

/// The password that a manifest holds for it. Whoever drops a copy that was kept has none in it.
pub(super) fn password(effective: &Effective) -> Result<Option<Secret>> {
    let Some(password) = asked_for(&effective.manifest).and_then(|vsphere| vsphere.password.as_ref()) else {
        return Ok(None);
    };
    let why = match password.reveal() {
        "" => "it is empty",
        REDACTED => "it was taken out of this copy",
        text if text.contains(['\n', '\r']) => "it has several lines",
        _ => return Ok(Some(password.clone())),
    };
    Err(effective
        .tree
        .error(Kind::Manifest, "source.vsphere.password", why)
        .advice("write the account's password, or name a stored credential instead"))
}

/// Whether somebody has said `preflight: full`, which holds by default and then means less.
fn looks_first(effective: &Effective) -> bool {
    let is_full = |node: &&Node| node.text() == Some(Preflight::Full.name());
    let level = effective.tree.node("preflight.level").or_else(|| effective.tree.node("preflight"));
    level.filter(is_full).is_some_and(|node| is_written(&effective.tree, node.layer))
}

/// The remote part of a plan; none where the disks are here.
pub(super) fn planned(
    manifest: &Manifest,
    (submission, vm): (&Submission, &VmSubmission),
    (batch_id, suffix): (&str, &str),
    root: &Path,
    settings: &Settings,
) -> Option<PlannedRemote> {
    let asked = vm.asked.as_ref()?;
    let (found, selecting) = (asked.found.clone(), asked.selecting.clone());
    let source = manifest.source.as_ref()?;
    let text = |line: &Option<Line>| line.as_ref().map(|line| line.as_str().to_owned());
    let whole = |number: Option<i64>| number.and_then(|number| u16::try_from(number).ok());
    let draft = found.is_none().then(|| {
        let submission = Submission {
            vms: vec![vm.clone()],
            output_directory: Some(root.to_owned()),
            ..submission.clone_without_vms()
        };
        Box::new(Draft { submission, batch_id: batch_id.to_owned(), suffix: suffix.to_owned() })
    });
    if let Some(esxi) = &source.esxi {
        let planned = super::esxi::planned(esxi, &settings.credentials)?;
        return Some(PlannedRemote { looks_first: asked.looks_first, found, draft, ..planned });
    }
    let vsphere = source.vsphere.as_deref()?;
    let mode = vsphere.mode.unwrap_or(VsphereMode::Cold);
    Some(PlannedRemote {
        host: vsphere.host.as_ref().map(|host| host.as_str().to_owned()),
        port: whole(vsphere.port.map(|port| port.get())).unwrap_or(HTTPS_PORT),
        login: login(vsphere, settings, batch_id)?,
        thumbprint: vsphere.thumbprint.as_ref().and_then(|text| Thumbprint::parse(text.as_str()).ok()),
        vm: selecting.map(WantedVm::Selected).or_else(|| wanted(vsphere))?,
        datacenter: text(&vsphere.datacenter),
        datastore: text(&vsphere.datastore),
        folder: text(&vsphere.folder),
        mode,
        transport: transport(vsphere.transport, mode),
        ways: Vec::new(),
        connections: whole(vsphere.connections.map(|number| number.get())).map_or(CONNECTIONS, u32::from),
        looks_first: asked.looks_first,
        shutdown: power::shutdown(vsphere),
        after: power::after(vsphere),
        snapshot: snapshots::planned(vsphere),
        isolated: vsphere.mode == Some(VsphereMode::Clone) && manifest.allow_live_clone != Some(true),
        warm: warm::planned(vsphere),
        found,
        draft,
    })
}

/// What a person should know of a plan with such a source, if anything.
pub(super) fn note(remote: Option<&PlannedRemote>, stages: &[PlannedStage]) -> Option<SourceNote> {
    let opens =
        |planned: &PlannedStage| planned.enabled && matches!(planned.stage, Stage::Inspect | Stage::Fix);
    let opens_guest = stages.iter().any(opens);
    let remote = remote.filter(|remote| remote.looks_first && opens_guest)?;
    (remote.transport == VsphereTransport::Nfc).then(streams_note)
}

/// Which VM; none where it is not said, which is refused elsewhere.
fn wanted(vsphere: &VsphereSource) -> Option<WantedVm> {
    let text = |line: &Line| line.as_str().to_owned();
    let name = vsphere.vm_name.as_ref().map(text).map(WantedVm::Name);
    let uuid = || vsphere.vm_uuid.as_ref().map(|uuid| WantedVm::Uuid(uuid.as_str().to_owned()));
    let path = || vsphere.vm_path.as_ref().map(text).map(WantedVm::Path);
    name.or_else(uuid).or_else(path).or_else(|| vsphere.moref.as_ref().map(text).map(WantedVm::Moref))
}

/// What has changed is known of files.
fn transport(said: Option<VsphereTransport>, mode: VsphereMode) -> VsphereTransport {
    match (said.unwrap_or(VsphereTransport::Auto), mode) {
        (VsphereTransport::Auto, VsphereMode::Warm) => VsphereTransport::Https,
        (said, _) => said,
    }
}

/// Where the login is; none where that is not said, which is refused elsewhere.
fn login(vsphere: &VsphereSource, settings: &Settings, batch_id: &str) -> Option<PlannedLogin> {
    if let Some(name) = &vsphere.credential {
        return Some(PlannedLogin::Credential(settings.credentials.stored(name.as_str())));
    }
    let username = vsphere.username.as_ref()?.as_str().to_owned();
    if vsphere.password.is_some() {
        let port = vsphere.port.map_or(i64::from(HTTPS_PORT), |port| port.get());
        let account = format!("{}:{port} {username}", vsphere.host.as_ref()?.as_str());
        // A user's name may be anything, and a file's may not.
        let file = settings.layout().kept_password(batch_id, &hex(&Sha256::digest(account)));
        return Some(PlannedLogin::KeptPassword { username, file });
    }
    match (&vsphere.password_file, &vsphere.password_env) {
        (Some(file), _) => Some(PlannedLogin::PasswordFile { username, file: PathBuf::from(file.as_str()) }),
        (None, Some(variable)) => {
            Some(PlannedLogin::PasswordEnv { username, variable: variable.as_str().to_owned() })
        }
        (None, None) => None,
    }
}

/// A drop is readable by whoever may write into the drop directory: what it says must not decide which secret
/// is sent to which host, nor which programs are loaded.
pub(super) fn check_secrets(tree: &Tree, manifest: &Manifest, settings: &Settings) -> Result<()> {
    let Some(vsphere) = manifest.source.as_ref().and_then(|source| source.vsphere.as_deref()) else {
        return Ok(());
    };
    let credentials = &settings.credentials;
    let file = vsphere.password_file.as_ref().map(|file| Path::new(file.as_str()));
    let is_below = |file: &Path| credentials.allowed_dirs.iter().any(|dir| file.starts_with(dir));
    let variable = vsphere.password_env.as_ref().map(Line::as_str);
    let is_listed = |name: &str| credentials.allowed_env.iter().any(|one| one == name || one == ANY_VARIABLE);
    let secrets = [
        ("password", vsphere.password.is_some() && !credentials.allow_inline, "credentials.allow_inline"),
        ("password_file", file.is_some_and(|file| !is_below(file)), "credentials.allowed_dirs"),
        ("password_env", variable.is_some_and(|name| !is_listed(name)), "credentials.allowed_env"),
        ("password_credential", vsphere.password_credential.is_some(), "the configuration itself"),
    ];
    for (key, refused, permission) in secrets {
        if refused {
            return Err(tree
                .error(
                    Kind::Manifest,
                    &format!("source.vsphere.{key}"),
                    format!("a manifest may not hold `{key}` (only {permission} could allow it)"),
                )
                .advice("store the login as a credential and name it: `credential: <name>`"));
        }
    }
    let fixed = [
        ("vddk_libdir", vsphere.vddk_libdir.is_some()),
        ("identity", vsphere.identity.is_some()),
        ("known_hosts", vsphere.known_hosts.is_some()),
        ("ca_file", vsphere.ca_file.is_some()),
    ];
    refuse_fixed(tree, "vsphere", &fixed)?;
    if vsphere.verify_ssl == Some(false) {
        return Err(tree
            .error(
                Kind::Manifest,
                "source.vsphere.verify_ssl",
                "a manifest may not switch off the check of certificates",
            )
            .advice("say so in the stored credential, or give the certificate's `thumbprint`"));
    }
    Ok(())
}

/// What a vSphere source needs to be found, and what of it this version can do.
pub(super) fn check(tree: &Tree, vsphere: &VsphereSource, selects: bool) -> Result<()> {
    check_place(tree, vsphere, selects)?;
    check_login(tree, vsphere)?;
    if let Some(Err(why)) = vsphere.thumbprint.as_ref().map(|text| Thumbprint::parse(text.as_str())) {
        return Err(tree.error(Kind::Manifest, "source.vsphere.thumbprint", why).advice(
            "give the SHA-256 of the certificate: `openssl x509 -noout -fingerprint -sha256` prints it",
        ));
    }
    snapshots::check(tree, vsphere)?;
    warm::check(tree, vsphere)?;
    check_features(tree, vsphere)
}

/// A host, and one way to tell the VM; none where an entry of a batch selects them.
fn check_place(tree: &Tree, vsphere: &VsphereSource, selects: bool) -> Result<()> {
    if vsphere.host.is_none() && vsphere.credential.is_none() {
        return Err(tree
            .error(Kind::Manifest, "source.vsphere.host", "`host` or `credential` is required")
            .advice("name the vCenter or ESXi host, or a stored credential that does"));
    }
    let ways = [
        ("vm_name", vsphere.vm_name.is_some()),
        ("vm_uuid", vsphere.vm_uuid.is_some()),
        ("vm_path", vsphere.vm_path.is_some()),
        ("moref", vsphere.moref.is_some()),
    ];
    let mut given = ways.into_iter().filter_map(|(key, there)| there.then_some(key));
    match (given.next(), given.next()) {
        (None, _) if selects => Ok(()),
        (Some(key), _) if selects => Err(tree
            .error(
                Kind::Manifest,
                &format!("source.vsphere.{key}"),
                format!("`{key}` is of one VM, and `select` stands for several"),
            )
            .advice("keep one of them")),
        (Some(_), None) => Ok(()),
        (Some(first), Some(second)) => Err(tree
            .error(
                Kind::Manifest,
                &format!("source.vsphere.{second}"),
                format!("`{first}` already tells which VM"),
            )
            .advice("keep one of them")),
        (None, _) => Err(tree
            .error(Kind::Manifest, "source.vsphere.vm_name", "it is not said which VM")
            .advice("give one of `vm_name`, `vm_uuid`, `vm_path`, `moref`")),
    }
}

/// A stored credential, or an account with one place for its password.
fn check_login(tree: &Tree, vsphere: &VsphereSource) -> Result<()> {
    let own = [
        ("username", vsphere.username.is_some()),
        ("password", vsphere.password.is_some()),
        ("password_file", vsphere.password_file.is_some()),
        ("password_env", vsphere.password_env.is_some()),
    ];
    let said: Vec<&str> = own.into_iter().filter_map(|(key, there)| there.then_some(key)).collect();
    let wrong = |key: &str, cause: &str, advice: &str| {
        Err(tree.error(Kind::Manifest, &format!("source.vsphere.{key}"), cause).advice(advice))
    };
    match (vsphere.credential.is_some(), said.as_slice()) {
        (true, []) => Ok(()),
        (true, [key, ..]) => wrong(key, "`credential` already tells who logs in", "keep one of them"),
        (false, ["username", _]) => Ok(()),
        (false, ["username", _, key, ..]) => {
            wrong(key, "there are two places for one password", "keep one of them")
        }
        (false, _) => wrong(
            "credential",
            "it is not said who logs in",
            "name a stored credential, or a `username` with a `password_file` or a `password_env`",
        ),
    }
}

/// Keys whose feature does not exist yet.
fn check_features(tree: &Tree, vsphere: &VsphereSource) -> Result<()> {
    let refuse = |key: &str, what: &str, advice: &str| {
        Err(unsupported(tree, &format!("source.vsphere.{key}"), what).advice(advice))
    };
    if vsphere.mode == Some(VsphereMode::Clone) && vsphere.transport == Some(VsphereTransport::Ssh) {
        return refuse(
            "transport",
            "copies over `ssh` of VMs that run",
            "leave it out: a copy of a VM that runs comes over `https`, `nfc` or `vddk`",
        );
    }
    match vsphere.transport.unwrap_or(VsphereTransport::Auto) {
        VsphereTransport::Auto | VsphereTransport::Https | VsphereTransport::Nfc | VsphereTransport::Vddk => {
        }
        VsphereTransport::Ssh if vsphere.credential.is_some() => {}
        VsphereTransport::Ssh => {
            return Err(tree
                .error(
                    Kind::Manifest,
                    "source.vsphere.transport",
                    "`ssh` needs a key, which only a stored credential has",
                )
                .advice("name a `credential` with `identity` and `known_hosts`"));
        }
    }
    Ok(())
}

/// The plan again, by what its VM turned out to be.
pub fn describe(plan: &Plan, description: &Description, settings: &Settings) -> Result<Plan> {
    let missing = || Error::internal("a plan without its draft cannot be made again");
    let draft = plan.remote.as_ref().and_then(|remote| remote.draft.as_ref()).ok_or_else(missing)?;
    let written = draft.submission.vms.first().ok_or_else(missing)?;
    let facts = in_order(&description.facts);
    if facts.disks.is_empty() {
        return Err(Error::new(Kind::Source, format!("the VM {} has no disks", facts.plain_name()))
            .rule("source.no_disks")
            .advice("see whether it is the VM that is meant: `hyper2kvm vsphere disks` lists what it has"));
    }
    let tree = merged(written, &facts);
    let manifest: Manifest = tree.decode()?;
    let looks = Looks { in_batch: true, at_files: false, selects: false };
    if let Some(error) = check::all(&tree, &manifest, settings, looks).into_iter().next() {
        return Err(error);
    }
    let asked = Asked { found: Some(description.vm.clone()), ..written.asked.clone().unwrap_or_default() };
    let vm = VmSubmission {
        manifest: tree.root.canonical(),
        warnings: written.warnings.iter().chain(&facts.warnings).cloned().collect(),
        notes: written.notes.iter().chain(&facts.notes).cloned().collect(),
        asked: Some(asked),
        ..written.clone()
    };
    let of = (draft.batch_id.as_str(), draft.suffix.as_str());
    let mut described = build::plan(&draft.submission, &vm, &manifest, &tree, of.0, of.1, settings)?;
    if let Some(remote) = &mut described.remote {
        remote.draft = Some(draft.clone());
        remote.ways.clone_from(&description.ways);
    }
    Ok(described)
}

/// Its disks are called by their order there.
fn in_order(facts: &Facts) -> Facts {
    let called =
        |(number, disk): (usize, &FoundDisk)| FoundDisk { id: format!("disk-{number}"), ..disk.clone() };
    Facts { disks: facts.disks.iter().enumerate().map(called).collect(), ..facts.clone() }
}

/// What is known of the VM, below what was said of it. Nothing that holds by default is a fact, so it may lie above.
fn merged(written: &VmSubmission, facts: &Facts) -> Tree {
    let mut root = Node::from_json(&facts.document());
    root.set_layer(SOURCE);
    let mut said = Node::from_json(&written.manifest);
    said.set_layer(DEFAULT);
    for (mapping, key) in written.asked.iter().flat_map(|asked| &asked.own_entries) {
        let map = mapping.split('.').try_fold(&mut said, |node, step| node.get_mut(step));
        if let Some(entry) = map.and_then(|map| map.get_mut(key)) {
            entry.set_layer(MANIFEST);
        }
    }
    forget_other_unit(&mut root, &said);
    merge(&mut root, said);
    Tree { root, layers: layers((None, ""), None) }
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
