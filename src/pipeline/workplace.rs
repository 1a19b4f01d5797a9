//! Where one VM is worked on: the result directory held open, the private directory, the lock.
//!
//! Everything that has to happen before the sandbox closes is here: making directories, finding the
//! group's number, and saying what the sandbox has to leave open. What is not here: the work.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::boot_test::Place;
use super::checkpoint::{Checkpoint, lock_name};
use super::directories::{self, Directories, Others};
use super::guest_child::{GuestPlace, KVM_DEVICE};
use super::host_lock::HostFence;
use super::launch::appliance_log;
use super::patience::patience;
use super::remote::Access;
use super::users;
use super::{hooks, keys};
use crate::disk::Fence as _;
use crate::disk::serves_in;
use crate::libvirt;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::BootMethod;
use crate::model::plan::{OnExists, PlannedDisk, SourceFormat};
use crate::model::protocol::WorkOrder;
use crate::model::units::is_id;
use crate::sys::dir::{Dir, Guard, LockFile};
use crate::sys::process::Launcher;
use crate::sys::sandbox::Rules;
use crate::sys::users::group_id;
use crate::vsphere::vddk::Library;

/// A worker that was just killed may hold its lock a little longer than its service lived.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How often the lock is tried meanwhile.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);
/// How libvirt's library is set up.
const LIBVIRT_CLIENT: &str = "/etc/libvirt";
/// Working files are nobody else's business.
const PRIVATE_MODE: u32 = 0o700;

/// The directories of one VM.
#[derive(Debug)]
pub(super) struct Workplace {
    /// Where results go, and all that is known of the work.
    pub(super) results: Dir,
    /// Other directories of results: of this plan, and those in which an earlier one left something.
    others: Others,
    /// The results' group.
    pub(super) group: Option<u32>,
    /// What the guest work needs, if there is any.
    pub(super) guest: Option<GuestPlace>,
    /// The keys that the plan names, in its order; read before the sandbox closes, which does not know their files.
    pub(super) passphrases: Vec<String>,
    /// How the source is asked for and read, if it is remote; read before the sandbox closes likewise.
    pub(super) access: Option<Access>,
    /// Who runs the hooks, if there are any; started before the sandbox closes, which would confine them.
    pub(super) hooks: Option<Arc<hooks::Host>>,
    /// Why a hook cannot be run, looked at where its file can be seen. It is of interest only if there is work to do.
    pub(super) unfit: Option<Error>,
    /// What the guest says when it is tried.
    pub(super) console: Option<PathBuf>,
    /// What it shows then.
    pub(super) screenshot: Option<PathBuf>,
    /// Where libvirt's QEMU finds the test, if it is to run it.
    pub(super) tried_in: Option<Arc<Place>>,
    /// What says that no other host works here.
    pub(super) fence: Option<Arc<HostFence>>,
    tries: bool,
    private: PathBuf,
}

impl Workplace {
    /// Makes and checks everything that the work needs to be there.
    pub(super) fn prepare(order: &WorkOrder, launcher: &Launcher) -> Result<Workplace> {
        let output = &order.plan.output;
        refuse_unsafe_names(order)?;
        let roots = &order.limits.write_roots;
        within_roots(&output.directory, roots)?;
        let fence = order.limits.lock.clone().map(HostFence::of);
        fence.as_ref().map_or(Ok(()), |fence| fence.check())?;
        let guard = || fence.as_ref().map(HostFence::guard);
        let patient = |dir: Dir| dir.patient(patience(order.limits.retries.files));
        let results = patient(directories::make(&output.directory, roots, guard())?);
        for disk in &order.plan.disks {
            if let (Some(pool), Some(directory)) = (order.plan.made_in(disk), disk.elsewhere()) {
                directories::in_a_pool(pool, directory)?;
            }
        }
        let mut others = left_elsewhere(&results, order, &guard)?;
        for directory in order.plan.directories_elsewhere() {
            // What is done in them is decided under the lock of the VM's own directory, so that is what they ask.
            others.insert(directory.to_owned(), patient(directories::make(directory, roots, guard())?));
        }
        let group = output.group.as_deref().map(group_number).transpose()?;
        let private = order.limits.work_dir.clone();
        Dir::create_all(&private, PRIVATE_MODE)
            .map_err(|error| Error::io(Kind::Output, "make the working directory", &private, &error))?;
        let opens_guest = order.plan.opens_guest();
        let log = order.limits.log.as_deref();
        let guest = opens_guest.then(|| GuestPlace::prepare(&private, log.map(appliance_log))).transpose()?;
        let tries = order.plan.runs(Stage::BootTest);
        let kept = |suffix: &str| {
            log.filter(|_| tries)
                .map(|log| log.with_extension(suffix))
                .map(|path| made(&path).map(|()| path))
                .transpose()
        };
        let through_libvirt = tries && order.plan.boot_test.method == BootMethod::Libvirt;
        let tried_in = through_libvirt.then(|| Place::make(&private).map(Arc::new)).transpose()?;
        let (console, screenshot) = (kept("console.txt")?, kept("screen.png")?);
        let named = order.plan.guest.keys.iter().filter(|_| opens_guest || tries);
        let passphrases = named.map(|key| keys::planned(&key.source)).collect::<Result<_>>()?;
        let access = order.plan.remote.as_ref().map(|remote| Access::read(remote)).transpose()?;
        let unfit = hooks::check(&order.plan, &order.limits.hook_roots).err();
        let wanted = !order.plan.hooks.is_empty() || !order.limits.preflight.validators.is_empty();
        let hooks = wanted.then(|| hooks::Host::start(launcher.stub()).map(Arc::new)).transpose()?;
        Ok(Workplace {
            results,
            others,
            group,
            guest,
            passphrases,
            access,
            hooks,
            unfit,
            console,
            screenshot,
            tried_in,
            fence,
            tries,
            private,
        })
    }

    /// All directories of results.
    pub(super) fn dirs(&self) -> Directories<'_> {
        Directories::new(&self.results, &self.others)
    }

    /// A directory of this job's own.
    pub(super) fn private(&self) -> &Path {
        &self.private
    }

    /// Removes the private directory with all that is left in it.
    pub(super) fn clear(&self) {
        if let Err(error) = fs::remove_dir_all(&self.private)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // In the sandbox the directory itself cannot be removed, only what is in it: whoever started us does that.
            tracing::debug!(path = %self.private.display(), %error, "the working directory stays");
        }
    }

    /// Takes the VM's lock, so that never two workers write the same partial results.
    pub(super) fn lock(&self, vm_id: &str) -> Result<LockFile<'_>> {
        let name = lock_name(vm_id);
        let path = self.results.path().join(&name);
        if self.is_of_another_host(vm_id) {
            // Whoever holds it there writes nothing any more, and may never let go of it.
            self.results.remove(&name).map_err(|error| Error::io(Kind::Output, "remove", &path, &error))?;
        }
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.results.try_lock(&name) {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(LOCK_INTERVAL),
                Ok(None) => {
                    return Err(Error::new(
                        Kind::Output,
                        format!(
                            "another conversion of {vm_id} is at work in {}",
                            self.results.path().display()
                        ),
                    )
                    .output(path)
                    .advice("wait until it has ended, or choose another directory")
                    .transient());
                }
                Err(error) => return Err(Error::io(Kind::Output, "lock", &path, &error).output(&path)),
            }
        }
    }

    /// Whether the VM was last worked on by another host.
    fn is_of_another_host(&self, vm_id: &str) -> bool {
        let host = self.fence.as_ref().map(|fence| fence.host());
        let journal = Checkpoint::read(&self.results, vm_id).ok().flatten();
        journal.is_some_and(|journal| journal.is_of_another_host(host))
    }

    /// What the worker and everything below it may open.
    pub(super) fn rules(&self, order: &WorkOrder) -> Rules {
        // A child's counters tell whether it makes progress; its own sandbox does not let it read this.
        let mut read = vec![PathBuf::from("/proc")];
        match &self.access {
            Some(access) => read.extend(access.readable()),
            None => read.extend(order.plan.disks.iter().flat_map(readable_for)),
        }
        if order.plan.output.on_exists == OnExists::Replace {
            read.extend(users::readable());
        }
        if order.plan.libvirt.is_some() {
            read.extend(libvirt::needed());
        }
        // Each sign of life may come from a new file: it is found by its name.
        read.extend(order.limits.lock.iter().map(|lock| lock.directory.clone()));
        let mut write = vec![self.results.path().to_owned(), self.private.clone()];
        write.extend(self.others.keys().cloned());
        write.extend(
            order
                .plan
                .libvirt
                .as_ref()
                .filter(|told| told.overwrite_domain)
                .and_then(|_| libvirt::variables()),
        );
        // The same but for a working directory that lies deep.
        write.push(serves_in(&self.private));
        if let Some(guest) = &self.guest {
            let rules = guest.rules();
            read.extend(rules.read);
            write.extend(rules.write);
        }
        write.extend(self.console.iter().chain(&self.screenshot).cloned());
        if let Some(place) = &self.tried_in {
            write.push(place.path().to_owned());
            // libvirt's library looks there for what it is told to be asked by.
            read.extend(Some(PathBuf::from(LIBVIRT_CLIENT)).filter(|path| path.exists()));
        }
        // What libvirt is told depends on whether it works.
        let uses_kvm = self.tries || order.plan.libvirt.is_some();
        write.extend(Some(PathBuf::from(KVM_DEVICE)).filter(|device| uses_kvm && device.exists()));
        // The stub that every child starts as is this very program.
        let mut execute = vec![PathBuf::from("/proc/self/exe")];
        let library = self.access.as_ref().and_then(|access| access.library(&order.limits.remote).ok());
        execute.extend(library.iter().flat_map(Library::executable));
        Rules {
            read,
            write,
            execute,
            required: order.limits.sandbox_required,
            network: order.plan.needs_network,
        }
    }
}

/// The directories in which an earlier attempt at this VM has left something, perhaps by another plan. One that is gone holds nothing.
fn left_elsewhere(results: &Dir, order: &WorkOrder, guard: &dyn Fn() -> Option<Guard>) -> Result<Others> {
    let mut left = Others::new();
    let Some(journal) = Checkpoint::read(results, &order.plan.vm_id)? else { return Ok(left) };
    for directory in journal.directories().into_iter().filter(|directory| directory.exists()) {
        let opened =
            within_roots(directory, &order.limits.write_roots).ok().and_then(|()| Dir::open(directory).ok());
        match opened {
            Some(dir) => _ = left.insert(directory.to_owned(), dir.guarded(guard())),
            None => {
                tracing::warn!(directory = %directory.display(), "what an earlier attempt left there stays");
            }
        }
    }
    Ok(left)
}

/// Makes a file that the sandbox then lets be written.
fn made(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::File::options().append(true).create(true).mode(0o640).open(path);
    file.map(drop).map_err(|error| Error::io(Kind::Output, "make", path, &error))
}

/// The source itself; where a format may consist of several files, also the directories in which they may lie.
fn readable_for(disk: &PlannedDisk) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let real = fs::canonicalize(&disk.source).unwrap_or_else(|_| disk.source.clone());
    let several = disk.backing_chain || disk.source_format == SourceFormat::Vmdk;
    match real.parent() {
        Some(parent) if several => paths.push(parent.to_owned()),
        _ => paths.push(real.clone()),
    }
    paths.extend(disk.allowed_paths.iter().cloned());
    // A path that is not there cannot be opened up; that it is missing is told by the stage that opens it.
    paths.retain(|path| path.exists());
    paths
}

/// Names become file names: what the model would never make is refused here once more.
fn refuse_unsafe_names(order: &WorkOrder) -> Result<()> {
    let plan = &order.plan;
    let mut seen = std::collections::BTreeSet::new();
    for id in plan.disks.iter().map(|disk| &disk.id).chain([&plan.vm_id]) {
        if !is_id(id) {
            return Err(Error::new(Kind::Manifest, format!("`{}` is not an id", id.escape_debug()))
                .advice("ids begin with a letter, a digit or `_` and hold only those, `.` and `-`"));
        }
    }
    if let Some(twice) = plan.disks.iter().find(|disk| !seen.insert(&disk.id)) {
        return Err(Error::new(Kind::Manifest, format!("two disks are called `{}`", twice.id))
            .advice("give every disk an id of its own"));
    }
    let homes = plan.disks.iter().filter_map(|disk| disk.placement.home.as_ref());
    if homes.clone().any(|home| home.stem.contains('/') || home.stem.starts_with('.')) {
        return Err(Error::internal("a work order gives a result a name that no result has"));
    }
    let all_absolute = homes.map(|home| &home.directory).all(|directory| directory.is_absolute());
    if !all_absolute || !plan.output.directory.is_absolute() || !order.limits.work_dir.is_absolute() {
        return Err(Error::internal("a work order names a relative directory"));
    }
    Ok(())
}

/// Whether a directory that may not exist yet lies below one of the roots, links resolved.
pub(crate) fn within_roots(directory: &Path, roots: &[PathBuf]) -> Result<()> {
    if roots.is_empty() {
        return Ok(());
    }
    let refused = |why: &str| {
        Error::new(Kind::Output, format!("{} {why}", directory.display()))
            .output(directory)
            .advice("choose a directory below one of `paths.write` of the configuration")
            .allowed(roots.iter().map(|root| root.display().to_string()))
    };
    if directory.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
        return Err(refused("holds `..`"));
    }
    let mut there = directory;
    while fs::symlink_metadata(there).is_err() {
        match there.parent() {
            Some(parent) => there = parent,
            None => return Err(refused("does not exist")),
        }
    }
    let real = fs::canonicalize(there)
        .map_err(|error| Error::io(Kind::Output, "resolve", there, &error).output(directory))?;
    let inside = roots.iter().any(|root| {
        fs::canonicalize(root).is_ok_and(|root| real.starts_with(&root))
            || (there != directory && directory.starts_with(root) && root.starts_with(&real))
    });
    if inside { Ok(()) } else { Err(refused("is not below a directory that results may be written to")) }
}

fn group_number(name: &str) -> Result<u32> {
    let found = group_id(name).map_err(|error| {
        Error::new(Kind::Output, format!("cannot look up the group `{name}`: {error}"))
            .advice("check /etc/group and the name services")
    })?;
    found.or_else(|| name.parse().ok()).ok_or_else(|| {
        Error::new(Kind::Output, format!("there is no group `{name}`"))
            .field("output.group")
            .advice("make the group, or leave `output.group` out")
    })
}
