//! The names of a VM's results, and those that they have until they are published.
//!
//! What is not here: how names are given, and what lies under them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::directories::{Directories, open_others};
use super::hooks::ledger_name;
use super::publish::{exists, failed, replaceable};
use crate::model::error::Result;
use crate::model::job::Stage;
use crate::model::plan::{OnExists, OutputFormat, Plan, PlannedDisk, Preallocation};
use crate::sys::dir::Dir;

/// The report's name.
const REPORT: &str = "report.json";
/// Those of its pages: Markdown, plain text.
const PAGES: [&str; 2] = ["report.md", "report.txt"];
/// How the journal of a copy ends, …
const COPY_JOURNAL: &str = ".journal";
/// … and what it becomes when the copy is finished.
const EXTENTS: &str = ".extents";
/// The name of what libvirt is told.
const DOMAIN: &str = "domain.xml";
/// A suffix beyond this means that something counts wrongly.
const MOST_SUFFIXES: u32 = 10_000;

/// What the names of a disk's partial results begin with. In a directory where other VMs' disks lie too a mark says whose they are.
fn begin_of_names(plan: &Plan, disk: &PlannedDisk, mark: &str) -> String {
    let format = plan.format_of(disk).name();
    match disk.elsewhere() {
        None => format!(".{}.{format}", disk.id),
        Some(_) => format!(".{}.{mark}.{format}", disk.id),
    }
}

/// The name of a disk's result until it is published.
#[must_use]
pub fn partial_name(plan: &Plan, disk: &PlannedDisk, mark: &str) -> String {
    format!("{}.partial", begin_of_names(plan, disk, mark))
}

/// The name of what is known beside a disk's result of how far its copy is.
#[must_use]
pub fn copy_journal_name(plan: &Plan, disk: &PlannedDisk, mark: &str) -> String {
    format!("{}{COPY_JOURNAL}", begin_of_names(plan, disk, mark))
}

/// The name of what was a copy's journal, once the copy is finished: what the result is held against. Nothing is gone on from by it, so what
/// is changed in the result afterwards is never taken for a copy's work.
#[must_use]
pub fn extents_name(plan: &Plan, disk: &PlannedDisk, mark: &str) -> String {
    format!("{}{EXTENTS}", begin_of_names(plan, disk, mark))
}

/// All names that the copy of one disk has, from its beginning until it is published.
pub(super) fn copy_names(plan: &Plan, disk: &PlannedDisk, mark: &str) -> [String; 3] {
    [partial_name(plan, disk, mark), copy_journal_name(plan, disk, mark), extents_name(plan, disk, mark)]
}

/// The name of the overlay that holds what is repaired on a disk, until its result does.
#[must_use]
pub fn overlay_name(disk_id: &str) -> String {
    // No format is called so: it cannot be the name of a partial result.
    format!(".{disk_id}.overlay.partial")
}

/// The name of the empty overlay through which the source of a disk that grows is seen with room behind it.
#[must_use]
pub fn grown_name(disk_id: &str) -> String {
    format!(".{disk_id}.grown.partial")
}

/// The name of what was fetched of a disk elsewhere.
pub(super) fn fetched_name(disk_id: &str) -> String {
    format!(".{disk_id}.fetched.partial")
}

/// The name of what is known of how far that is.
pub(super) fn fetch_journal_name(disk_id: &str) -> String {
    format!(".{disk_id}.fetched{COPY_JOURNAL}")
}

/// Whether a disk elsewhere has to be fetched whole before its result is written: where that cannot be changed later and the guest is opened,
/// where QEMU writes it, which does not go on with what was cut, and where it changes while it is copied.
pub(super) fn fetches(plan: &Plan, disk: &PlannedDisk) -> bool {
    let is_stream = plan.opens_guest() && plan.copying_stage() == Stage::Convert;
    let is_qemus =
        plan.preallocation_of(disk) != Preallocation::Off && plan.format_of(disk) != OutputFormat::Raw;
    is_stream || is_qemus || plan.warm().is_some()
}

/// All names that a VM's unfinished work has in its own directory.
#[must_use]
pub fn partial_names(plan: &Plan) -> Vec<String> {
    let here = plan.disks.iter().filter(|disk| disk.elsewhere().is_none());
    let copies = here.flat_map(|disk| copy_names(plan, disk, ""));
    let overlays = plan.disks.iter().filter(|_| plan.opens_guest()).map(|disk| overlay_name(&disk.id));
    let grown = plan.disks.iter().filter(|disk| disk.resize.is_some()).map(|disk| grown_name(&disk.id));
    let fetched = plan.disks.iter().filter(|disk| fetches(plan, disk));
    let fetched = fetched.flat_map(|disk| [fetched_name(&disk.id), fetch_journal_name(&disk.id)]);
    let hooks = (!plan.hooks.is_empty()).then(|| ledger_name(&plan.vm_id));
    copies.chain(overlays).chain(grown).chain(fetched).chain(hooks).collect()
}

/// All names that it has in other directories.
#[must_use]
pub fn partial_names_elsewhere(plan: &Plan, mark: &str) -> BTreeMap<PathBuf, Vec<String>> {
    let mut names = BTreeMap::<PathBuf, Vec<String>>::new();
    for (disk, directory) in plan.disks.iter().filter_map(|disk| Some((disk, disk.elsewhere()?))) {
        names.entry(directory.to_owned()).or_default().extend(copy_names(plan, disk, mark));
    }
    names
}

/// Whether a partial result may be called so: names of our own making, for a journal is a file that others may have written.
pub(super) fn is_partial_name(name: &str) -> bool {
    let is_ours = [".partial", COPY_JOURNAL, EXTENTS].iter().any(|end| name.ends_with(end));
    name.starts_with('.') && is_ours && !name.contains('/')
}

/// A name in one of a VM's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The directory, where it is not the VM's own.
    pub directory: Option<PathBuf>,
    /// The name in it.
    pub name: String,
}

/// The names that results get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// One per disk, in the plan's order.
    pub disks: Vec<Named>,
    /// What libvirt is told, if that is written.
    pub domain: Option<String>,
    /// The report, if one is written.
    pub report: Option<String>,
    /// Its pages, if one is written: Markdown, plain text.
    pub pages: Vec<String>,
}

impl Names {
    fn with_suffix(plan: &Plan, suffix: &str) -> Names {
        let result = |disk: &PlannedDisk| Named {
            directory: disk.elsewhere().map(Path::to_owned),
            name: format!("{}{suffix}.{}", disk.stem(), plan.format_of(disk).name()),
        };
        let suffixed = |name: &str| name.replace('.', &format!("{suffix}."));
        Names {
            disks: plan.disks.iter().map(result).collect(),
            domain: plan.output.domain.then(|| suffixed(DOMAIN)),
            report: plan.output.report.then(|| suffixed(REPORT)),
            pages: PAGES.into_iter().filter(|_| plan.output.report).map(suffixed).collect(),
        }
    }

    /// Each name, with the directory that it is in; those of directories that are not there are free.
    fn all<'n>(&'n self, dirs: Directories<'n>) -> impl Iterator<Item = (&'n Dir, &'n str)> {
        let disks = self.disks.iter();
        let disks = disks.filter_map(move |named| Some((dirs.at(named.directory.as_deref())?, &*named.name)));
        let own = self.domain.iter().chain(&self.report).chain(&self.pages);
        disks.chain(own.map(move |name| (dirs.main(), name.as_str())))
    }

    fn taken<'n>(&'n self, dirs: Directories<'n>) -> Result<Option<(&'n Dir, &'n str)>> {
        for (dir, name) in self.all(dirs) {
            if dir.entry(name).map_err(failed("look for", dir, name))?.is_some() {
                return Ok(Some((dir, name)));
            }
        }
        Ok(None)
    }

    /// The same for a plan of which nothing else is open.
    pub fn choose_in(plan: &Plan, dir: &Dir) -> Result<Names> {
        Names::choose(plan, Directories::new(dir, &open_others(plan)?))
    }

    /// Decides under which names the results may appear, as things are now.
    pub(super) fn choose(plan: &Plan, dirs: Directories<'_>) -> Result<Names> {
        let names = Names::with_suffix(plan, "");
        match plan.output.on_exists {
            OnExists::Refuse => match names.taken(dirs)? {
                Some((dir, name)) => Err(exists(dir, name)),
                None => Ok(names),
            },
            OnExists::Suffix => {
                for number in 2..MOST_SUFFIXES {
                    let candidate = match number {
                        2 if names.taken(dirs)?.is_none() => return Ok(names),
                        number => Names::with_suffix(plan, &format!("-{number}")),
                    };
                    if candidate.taken(dirs)?.is_none() {
                        return Ok(candidate);
                    }
                }
                Err(exists(dirs.main(), &names.disks[0].name))
            }
            OnExists::Replace => {
                for (dir, name) in names.all(dirs) {
                    replaceable(dir, name)?;
                }
                Ok(names)
            }
        }
    }
}
