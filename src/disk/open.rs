//! Opening a source: what must not be opened is refused here, before QEMU sees it.
//!
//! An image is a tree of files: the one that was named, the extents it names, what it stands on. Each
//! is found here, by our own reading of the image, held against the policy (where it may lie, what it
//! may be) and written down with its identity. QEMU is then given a tree of nodes with every driver
//! named, in a sandbox in which nothing but exactly these files can be opened.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::disk::control::Control;
use crate::disk::engine::Engine;
use crate::disk::facts::{FileIdentity, ImageFacts, LayerFile, SourceDisk};
use crate::disk::format::{Format, detect_in};
use crate::disk::glance::estimate_virtual_size;
use crate::disk::inspect::{self, ExtentFile, Parent, files_alike};
use crate::disk::node;
use crate::disk::window::{Place, Window};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;
use crate::sys::fs::{allocated_bytes, open_nofollow, parent_of};

/// Longer chains than this are a mistake or an attack; hypervisors stop at 32 themselves.
const MAX_CHAIN: usize = 32;

/// What a source may be made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenPolicy<'a> {
    /// Whether a chain of snapshots is allowed.
    pub backing_chain: bool,
    /// Directories other than the image's own in which its members may lie.
    pub allowed_paths: &'a [PathBuf],
    /// Every file has to lie below one of these; empty: bound only by permissions.
    pub read_roots: &'a [PathBuf],
}

/// Inspects a source and refuses what is hostile, broken, open elsewhere or not supported.
pub fn open_source(
    place: impl Into<Place>,
    declared: SourceFormat,
    policy: &OpenPolicy<'_>,
    engine: &Engine,
    control: &Control,
) -> Result<SourceDisk> {
    let place = place.into();
    let named = |error: Error| error.source(place.shown());
    let real = real_path(&place.path).map_err(named)?;
    let real_place = place.at(&real);
    let (opener, layers) = walk(&real_place, declared, policy, control).map_err(named)?;
    let Opener { files, allocated, extents, warnings, .. } = opener;
    let is_only_ours = layers.iter().any(|(_, _, layer)| layer.only_ours);
    let node = if is_only_ours { None } else { Some(stacked(&layers)?) };
    let virtual_size = match is_only_ours {
        true => estimate_virtual_size(real_place.clone(), declared),
        false => {
            let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
            // `info` never opens what an image stands on, and the size is the top image's.
            let top = node::standalone(declared, &layers[0].0)?;
            engine.virtual_size(&top, &paths, control)
        }
    }
    .map_err(named)?;
    if virtual_size == 0 {
        return Err(named(
            Error::new(Kind::Source, "the disk has no size")
                .rule("disk.corrupt")
                .advice("check where it comes from"),
        ));
    }
    let facts = ImageFacts {
        format: layers[0].2.format,
        subformat: layers[0].2.subformat.clone(),
        virtual_size,
        file_size: files
            .iter()
            .map(|file| file.part.as_ref().map_or(file.size, |part| part.bytes))
            .fold(0, u64::saturating_add),
        allocated_bytes: allocated,
        compressed: layers.iter().any(|(_, _, layer)| layer.compressed),
        extents,
        backing: layers.iter().skip(1).map(|(place, ..)| place.path.clone()).collect(),
    };
    let layers = layers
        .into_iter()
        .map(|(place, declared, layer)| LayerFile {
            place,
            declared,
            found: layer.format,
            extents: layer.extents,
        })
        .collect();
    Ok(SourceDisk {
        path: real,
        place: real_place,
        format: declared,
        facts,
        warnings,
        files,
        layers,
        node,
        own_files: 0,
        remote: None,
    })
}

/// Whether an image is whole, with all that it is made of, as far as their structure tells; an error of kind `source` if it is
/// not. `false`: nothing in it says where it ends. All its files lie in its directory. No child is started for this.
pub fn is_known_whole(place: impl Into<Place>, declared: SourceFormat) -> Result<bool> {
    let place = place.into();
    let named = |error: Error| error.source(place.shown());
    let real = place.at(&real_path(&place.path).map_err(named)?);
    let policy = OpenPolicy { backing_chain: true, ..OpenPolicy::default() };
    let (_, layers) = walk(&real, declared, &policy, &Control::new()).map_err(named)?;
    if layers.iter().any(|(_, _, layer)| layer.lacks_end) {
        return Ok(false);
    }
    layers
        .iter()
        .filter(|(_, declared, _)| *declared == SourceFormat::Raw)
        .try_fold(true, |known, (place, ..)| Ok(known && tells_its_end(place)?))
        .map_err(named)
}

fn tells_its_end(place: &Place) -> Result<bool> {
    inspect::tells_its_end(&inspect::Image::new(&window(place)?, &Control::new()))
}

/// The image, what it stands on, and so on down; every file of them is in the opener.
fn walk<'a>(
    real: &Place,
    declared: SourceFormat,
    policy: &'a OpenPolicy<'a>,
    control: &'a Control,
) -> Result<(Opener<'a>, Vec<Declared>)> {
    for piece in real.pieces() {
        policy.below_roots(&piece.path)?;
    }
    let mut opener = Opener {
        policy,
        control,
        files: Vec::new(),
        allocated: 0,
        extents: Vec::new(),
        warnings: Vec::new(),
    };
    let mut layers = Vec::new();
    let mut next = Some((real.clone(), declared, None));
    while let Some((place, format, wanted)) = next {
        if layers.len() == MAX_CHAIN {
            return Err(chain(&format!("it is longer than {MAX_CHAIN} images")));
        }
        let layer = opener.layer(&place, format, wanted.as_ref())?;
        next = match &layer.parent {
            None => None,
            Some(parent) => Some(opener.parent(&place.path, parent)?),
        };
        layers.push((place, format, layer));
    }
    Ok((opener, layers))
}

/// The whole chain as QEMU opens it: each image named with its driver, on the one below.
fn stacked(layers: &[Declared]) -> Result<serde_json::Value> {
    let mut below = serde_json::Value::Null;
    for (place, format, layer) in layers.iter().rev() {
        let mut node = node::standalone(*format, place)?;
        if layer.parent.is_some() {
            node["backing"] = below;
        }
        below = node;
    }
    Ok(below)
}

/// One image of the chain: where it is, and how it is to be read.
type Declared = (Place, SourceFormat, Opened);

/// One image of the chain, found harmless.
struct Opened {
    format: Format,
    subformat: Option<String>,
    compressed: bool,
    only_ours: bool,
    lacks_end: bool,
    parent: Option<Parent>,
    extents: Vec<(PathBuf, ExtentFile)>,
}

/// What an image says of the one that it stands on.
struct Wanted {
    by: PathBuf,
    ids: Vec<String>,
}

impl Wanted {
    fn fits(&self, id: &str) -> bool {
        self.ids.is_empty() || self.ids.iter().any(|wanted| wanted.eq_ignore_ascii_case(id))
    }
}

struct Opener<'a> {
    policy: &'a OpenPolicy<'a>,
    control: &'a Control,
    files: Vec<FileIdentity>,
    allocated: u64,
    extents: Vec<PathBuf>,
    warnings: Vec<String>,
}

impl Opener<'_> {
    fn layer(&mut self, place: &Place, declared: SourceFormat, wanted: Option<&Wanted>) -> Result<Opened> {
        let (path, window) = (&place.path, self.take(place)?);
        let found = detect_in(&window).map_err(|error| Error::io(Kind::Source, "read", path, &error))?.format;
        agree(declared, found)?;
        let window = inspect::with_log(window, found, declared, self.control)?;
        let layer = inspect::layer(&window, found, declared, self.control)?;
        if place.member.is_some() && (layer.parent.is_some() || !layer.extents.is_empty()) {
            return Err(Error::new(Kind::Unsupported, "it needs other members of the archive to be whole").rule("disk.unsupported").advice(
                "unpack the archive and name the disk itself, or export the appliance again without snapshots",
            ));
        }
        if let (Some(wanted), Some(is)) = (wanted, &layer.id)
            && !wanted.fits(is)
        {
            let (path, by) = (path.display(), wanted.by.display());
            return Err(chain(&format!("{path} was changed after {by} was made on it, or is another disk")));
        }
        let mut extents = Vec::with_capacity(layer.extents.len());
        for extent in layer.extents {
            extents.push((self.extent(path, &extent)?, extent));
        }
        self.warnings.extend(layer.warnings);
        Ok(Opened {
            format: found,
            subformat: layer.subformat,
            compressed: layer.compressed,
            only_ours: layer.only_ours || place.only_piece().is_none(),
            lacks_end: layer.lacks_end,
            parent: layer.parent,
            extents,
        })
    }

    fn extent(&mut self, image: &Path, extent: &ExtentFile) -> Result<PathBuf> {
        let path = self.member(image, &extent.name, "extent")?;
        let window = self.take(&Place::from(&path))?;
        let found =
            detect_in(&window).map_err(|error| Error::io(Kind::Source, "read", &path, &error))?.format;
        inspect::extent(&window, found, extent, self.control).map_err(|error| {
            let details = error.details();
            let advice = details.advice.clone().unwrap_or_default();
            let rule = details.rule.clone().unwrap_or_else(|| "disk.corrupt".to_owned());
            Error::new(error.kind(), format!("{}: {}", path.display(), details.cause))
                .advice(advice)
                .rule(rule)
        })?;
        self.extents.push(path.clone());
        Ok(path)
    }

    fn parent(&self, image: &Path, parent: &Parent) -> Result<(Place, SourceFormat, Option<Wanted>)> {
        if parent.name.is_empty() {
            return Err(chain(&format!("{} does not say what it stands on", image.display())));
        }
        if !self.policy.backing_chain {
            return Err(Error::new(
                Kind::Source,
                format!(
                    "{} holds only what differs from another image ({})",
                    image.display(),
                    shown(&parent.name)
                ),
            )
            .rule("disk.snapshots")
            .advice("consolidate its snapshots first, or allow the chain: with `backing_chain: true` at the disk in a manifest, or `convert --backing-chain`")
            .field("disks.backing_chain"));
        }
        let Some(format) = parent.format else {
            return Err(chain(&format!("{} does not name the format of what it stands on", image.display()))
                .advice("name it: `qemu-img rebase -u -b <file> -F <format> <image>` on a copy"));
        };
        let name = self.name_here(image, parent)?;
        let path = self.member(image, &name, "backing file")?;
        if self.files.iter().any(|file| {
            FileIdentity::read(&path).is_ok_and(|now| (now.dev, now.inode) == (file.dev, file.inode))
        }) {
            return Err(chain(&format!("{} comes twice in it", path.display())));
        }
        let wanted = Wanted { by: image.to_owned(), ids: parent.ids.clone() };
        Ok((path.into(), format, Some(wanted)))
    }

    /// The name of a parent in the directories of this machine: beside the image, or else in the first of those that are allowed; where no
    /// file has just this name, one that differs from it only in upper and lower case.
    fn name_here(&self, image: &Path, parent: &Parent) -> Result<String> {
        let (true, Some(last)) = (parent.is_moved, Path::new(&parent.name).file_name()) else {
            return Ok(parent.name.clone());
        };
        let beside = inspect::beside(image, &parent.name);
        let allowed = self.policy.allowed_paths.iter().map(|dir| dir.join(last));
        let places: Vec<PathBuf> = std::iter::once(beside).chain(allowed).collect();
        let exact = places.iter().position(|place| place.symlink_metadata().is_ok());
        let like = || places.iter().position(|place| !files_alike(place).is_empty());
        let Some(number) = exact.or_else(like) else { return Ok(parent.name.clone()) };
        let found = match files_alike(&places[number]).as_slice() {
            [only] => only.clone(),
            several => {
                let names: Vec<String> = several.iter().map(|path| shown(&path.to_string_lossy())).collect();
                return Err(Error::new(
                    Kind::Source,
                    format!("its backing file `{}` may be any of {}", shown(&parent.name), names.join(", ")),
                )
                .rule("disk.chain")
                .advice("they differ only in upper and lower case: give the one that is meant the name that the disk says")
                .field("disks.backing_chain"));
            }
        };
        let name = found.file_name().unwrap_or(last);
        Ok(match number {
            0 => Path::new(&parent.name).with_file_name(name).to_string_lossy().into_owned(),
            _ => found.to_string_lossy().into_owned(),
        })
    }

    /// The real path of a file that an image names: in the image's directory, or in one that was allowed.
    fn member(&self, image: &Path, name: &str, what: &str) -> Result<PathBuf> {
        let refused = |why: &str| {
            Error::new(Kind::Source, format!("its {what} `{}` {why}", shown(name)))
                .rule("disk.outside")
                .advice("put all files of the disk into one directory, or list the other one under `allowed_paths`")
                .field("disks.allowed_paths")
        };
        // `json:{…}`, `nbd://…`, `fat:…`: names that QEMU would not take for files.
        if name.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(refused("is not the name of a file"));
        }
        let path = inspect::beside(image, name);
        let plain = std::fs::symlink_metadata(&path);
        let real = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => refused("is missing")
                .rule("disk.missing")
                .advice("copy all files of the disk: the descriptor alone holds no data"),
            _ => refused(&format!("cannot be opened: {error}")).rule("disk.unreadable"),
        })?;
        let allowed = self
            .policy
            .allowed_paths
            .iter()
            .any(|dir| dir.canonicalize().is_ok_and(|dir| real.starts_with(dir)));
        if !allowed {
            if Path::new(name).is_absolute()
                || Path::new(name).components().any(|part| part == std::path::Component::ParentDir)
            {
                return Err(refused("lies outside the disk's directory"));
            }
            if plain.is_ok_and(|metadata| metadata.is_symlink()) || !real.starts_with(parent_of(image)) {
                return Err(refused("is a symbolic link"));
            }
        }
        self.policy.below_roots(&real)?;
        Ok(real)
    }

    /// Opens a file of the image and writes down what it is now.
    fn take(&mut self, place: &Place) -> Result<Window> {
        let stored = stored_window(place)?;
        for (piece, file) in place.pieces().into_iter().zip(stored.files()) {
            let path = &piece.path;
            refuse_locked(path)?;
            let metadata =
                file.metadata().map_err(|error| Error::io(Kind::Source, "look at", path, &error))?;
            let part = piece.part.as_ref().map_or(u64::MAX, |part| part.bytes);
            self.allocated = self.allocated.saturating_add(allocated_bytes(&metadata).min(part));
            self.files.push(FileIdentity { part: piece.part, ..FileIdentity::of(path, &metadata) });
        }
        let Some(packing) = place.packing() else { return Ok(stored) };
        packing.look_through(&stored, self.control)?;
        window(place)
    }
}

impl OpenPolicy<'_> {
    fn below_roots(&self, real: &Path) -> Result<()> {
        let below = |root: &PathBuf| root.canonicalize().is_ok_and(|root| real.starts_with(root));
        if self.read_roots.is_empty() || self.read_roots.iter().any(below) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Source,
            format!("{} lies outside the directories that may be read", real.display()),
        )
        .rule("disk.outside")
        .advice("move it below one of them, or add its directory to `paths.read`")
        .allowed(self.read_roots.iter().map(|root| root.display().to_string())))
    }
}

/// A window on an image that was looked through, if it is packed.
pub(super) fn window(place: &Place) -> Result<Window> {
    let mut failed = None;
    let window = place.window(&mut |path| opened(path, &mut failed));
    window.map_err(|error| failed.unwrap_or_else(|| Error::io(Kind::Source, "read", &place.path, &error)))
}

fn stored_window(place: &Place) -> Result<Window> {
    let mut failed = None;
    let window = place.stored_window(&mut |path| opened(path, &mut failed));
    window.map_err(|error| failed.unwrap_or_else(|| Error::io(Kind::Source, "read", &place.path, &error)))
}

fn opened(path: &Path, failed: &mut Option<Error>) -> std::io::Result<File> {
    open_nofollow(path).inspect_err(|error| *failed = Some(cannot_open(path, error)))
}

pub(super) fn real_path(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|error| cannot_open(path, &error))
}

fn cannot_open(path: &Path, error: &std::io::Error) -> Error {
    let made = Error::io(Kind::Source, "open", path, error).rule("disk.unreadable");
    match error.kind() {
        std::io::ErrorKind::NotFound => made
            .rule("disk.missing")
            .advice("check the path; relative ones count from the manifest's directory"),
        std::io::ErrorKind::PermissionDenied => made.advice(
            "let the service's user read it: `setfacl -m u:hyper2kvm:r <file>`, and `x` on its directories",
        ),
        std::io::ErrorKind::InvalidInput => {
            made.advice("name a plain file: directories, pipes and devices are not read")
        }
        _ => made.advice("check the storage it lies on"),
    }
}

/// A declared `raw` is read as raw whatever it holds; anything else has to be what it is said to be.
pub(super) fn agree(declared: SourceFormat, found: Format) -> Result<()> {
    if found == Format::Empty {
        return Err(Error::new(Kind::Source, "the file is empty")
            .rule("disk.cut_off")
            .advice("copy the disk again"));
    }
    if declared == SourceFormat::Raw || found.source_format() == Some(declared) {
        return Ok(());
    }
    if declared == SourceFormat::Qcow2 && found == Format::QcowOther {
        return Err(Error::new(Kind::Unsupported, "only versions 2 and 3 of qcow are read")
            .rule("disk.unsupported")
            .advice("convert it with `qemu-img convert -O qcow2` first"));
    }
    let error = Error::new(
        Kind::Source,
        format!("declared as {}, but its content is {}", declared.name(), found.name()),
    )
    .rule("disk.format");
    Err(match (found, found.source_format()) {
        (Format::Raw, _) => error.advice(
            "if it really is a raw disk declare it as `source_format: raw`; else it is damaged, or its end is missing",
        ),
        (_, Some(real)) => error.advice(format!("declare it as `source_format: {}`", real.name())),
        (Format::Luks, None) => error.advice("an encrypted volume is copied as it is with `source_format: raw`"),
        (Format::Html | Format::Xml, None) => error.advice("the download gave a page instead of the disk: fetch it again"),
        (Format::Gzip, None) => error.advice("say in the manifest that it is packed (`compression: gzip`), or unpack it"),
        (Format::Xz | Format::Zstd | Format::Zip | Format::Tar, None) => error.advice("unpack it first"),
        (_, None) => error.advice("name the disk image itself"),
    })
}

/// VMware marks a disk that a VM has open with a directory (or file) beside it.
pub(crate) fn refuse_locked(path: &Path) -> Result<()> {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lck");
    let lock = PathBuf::from(lock);
    let taken = match std::fs::read_dir(&lock) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() == std::io::ErrorKind::NotADirectory,
    };
    if !taken {
        return Ok(());
    }
    Err(Error::new(
        Kind::Source,
        format!("{} is open elsewhere: {} is there", path.display(), lock.display()),
    )
    .rule("disk.open_elsewhere")
    .advice("shut the VM down; if it is off and the lock was left behind by a crash, remove it"))
}

fn chain(what: &str) -> Error {
    Error::new(Kind::Source, format!("its chain of snapshots is broken: {what}"))
        .rule("disk.chain")
        .advice("consolidate the snapshots where the disk comes from, and copy it again")
}

fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(120).collect()
}
