//! Pools: the places that libvirt keeps disks in. Found, made where they are wanted and missing, started, looked at again, forgotten.
//!
//! Whatever is done to a pool, what lies in it stays. What is not here: the volumes in it.

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::sys;

use super::failure::told;
use super::link::Link;
use super::volumes::checked;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};

/// libvirt writes `<name>.xml.new` into a directory of its own.
const MOST_NAME_BYTES: usize = 240;
/// For so long others may have volumes made in a pool that is to be looked at again, …
const IDLE_WITHIN: Duration = Duration::from_secs(60);
/// … and so often it is tried.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Kinds of pools whose volumes are files in a directory.
const OF_FILES: [&str; 3] = ["dir", "fs", "netfs"];
/// Where we write down that a pool which we define is a directory.
const DIRECTORY: &str = OF_FILES[0];

/// A pool, as libvirt sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What it is, in libvirt's word: `dir`, `fs`, `netfs`, `logical`, …
    pub kind: String,
    /// Whether it is started: what lies in an inactive one cannot be seen.
    pub active: bool,
    /// Whether it is there again after libvirt was restarted.
    pub persistent: bool,
    /// Whether it is started with libvirt.
    pub autostart: bool,
    /// Where its volumes are.
    pub path: Option<PathBuf>,
    /// Bytes in all; 0 while it is inactive.
    pub capacity: u64,
    /// Bytes that are taken.
    pub allocation: u64,
    /// Bytes that are free.
    pub available: u64,
}

impl Pool {
    /// Whether its volumes are files in a directory.
    #[must_use]
    pub fn is_of_files(&self) -> bool {
        OF_FILES.contains(&self.kind.as_str())
    }
}

/// A pool that somebody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its directory: where it is made if it is missing, and has to be if it is there.
    pub path: Option<PathBuf>,
    /// Whether it has to be active.
    pub start: bool,
}

/// All pools, by name.
pub fn list(link: &Link) -> Result<Vec<Pool>> {
    let failed = |error| told("cannot list the storage pools", &error);
    let pools = link.raw().list_all_storage_pools(0).map_err(failed)?;
    let mut listed = Vec::new();
    for pool in &pools {
        match describe(pool) {
            Ok(pool) => listed.push(pool),
            // One that was undefined since it was listed is none.
            Err(error) if error.code() == ErrorNumber::NoStoragePool => {}
            Err(error) => return Err(failed(error)),
        }
    }
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(listed)
}

/// The pool of this name, if there is one.
pub fn find(link: &Link, name: &str) -> Result<Option<Pool>> {
    let Some(pool) = look_up(link, name)? else { return Ok(None) };
    match describe(&pool) {
        Ok(pool) => Ok(Some(pool)),
        Err(error) if error.code() == ErrorNumber::NoStoragePool => Ok(None),
        Err(error) => Err(told(&format!("cannot look at the storage pool {name}"), &error)),
    }
}

/// The directory of a pool that results are made in: one of files, and active, for who can say what an inactive one would lie on.
pub fn of_results(link: &Link, name: &str) -> Result<PathBuf> {
    let pool = active(link, name)?;
    let found =
        describe(&pool).map_err(|error| told(&format!("cannot look at the storage pool {name}"), &error))?;
    let kind = &found.kind;
    match found.path.as_ref().filter(|_| found.is_of_files()) {
        Some(path) => plain(path).map(Path::to_owned),
        None => Err(Error::new(
            Kind::Unsupported,
            format!("the storage pool {name} ({kind}) is no directory: nothing can be made in it"),
        )
        .advice(
            "leave `output.pool` out, and have results put into it: `libvirt_integration.import_to_pool`",
        )),
    }
}

/// The pool of this name as it is, started if that is wanted; a missing one is made in its directory.
pub fn ensure(link: &Link, wanted: &Wanted) -> Result<Pool> {
    let name = &wanted.name;
    let pool = match (find(link, name)?, &wanted.path) {
        (Some(found), _) => found,
        (None, None) => return Err(missing(link, name)),
        (None, Some(path)) => match define(link, name, path, wanted.start) {
            // Somebody else was faster, and may not have come to its directory yet.
            Err(error) if error.kind() == Kind::Exists => {
                let _ = raw(link, name)?.build(0);
                find(link, name)?.ok_or(error)?
            }
            made => return made,
        },
    };
    if let Some(path) = &wanted.path
        && !pool.path.as_deref().is_some_and(|other| is_same(other, path))
    {
        let lies = pool.path.as_deref().map_or_else(|| "nowhere".into(), Path::to_string_lossy);
        return Err(Error::new(
            Kind::Manifest,
            format!("the storage pool {name} is there, but in {lies}, not in {}", path.display()),
        )
        .advice("leave out the path, or give the pool another name"));
    }
    if wanted.start && !pool.active { start(link, name) } else { Ok(pool) }
}

/// Defines a pool in a directory, which is made if it is missing, and has libvirt start it from now on.
pub fn define(link: &Link, name: &str, path: &Path, starts: bool) -> Result<Pool> {
    let name = checked_pool(name)?;
    let path = plain(path)?;
    let failed = |what: &str, error| told(&format!("cannot {what} the storage pool {name}"), &error);
    let xml = Element::new("pool")
        .with("type", DIRECTORY)
        .child(Element::text("name", name))
        .child(Element::new("target").child(Element::text("path", path.display())))
        .to_string();
    let pool = match StoragePool::define_xml(link.raw(), &xml, 0) {
        Ok(pool) => pool,
        Err(error) => match look_up(link, name)? {
            Some(_) => {
                return Err(Error::new(Kind::Exists, format!("the storage pool {name} is there already"))
                    .advice("give the new one another name"));
            }
            None => return Err(failed("define", error)),
        },
    };
    let made = pool.build(0).map_err(|error| failed("make the directory of", error)).and_then(|_| {
        if starts {
            begin(&pool).map_err(|error| failed("start", error))?;
        }
        pool.set_autostart(true).map_err(|error| failed("set the autostart of", error))
    });
    if let Err(error) = made {
        // The definition is ours alone; the directory stays, somebody may have put something into it.
        let _ = pool.destroy();
        let _ = pool.undefine();
        return Err(error);
    }
    describe(&pool).map_err(|error| failed("look at", error))
}

/// Starts a pool; one that is active stays so.
pub fn start(link: &Link, name: &str) -> Result<Pool> {
    let pool = raw(link, name)?;
    let failed = |what: &str, error| told(&format!("cannot {what} the storage pool {name}"), &error);
    begin(&pool).map_err(|error| failed("start", error))?;
    describe(&pool).map_err(|error| failed("look at", error))
}

/// Makes a pool active. Somebody else may have been faster: then it is so all the same.
fn begin(pool: &StoragePool) -> Result<(), virt::error::Error> {
    match pool.create(0) {
        Err(error) if !pool.is_active().unwrap_or(false) => Err(error),
        _ => Ok(()),
    }
}

/// Has libvirt look again which volumes lie in a pool.
pub fn refresh(link: &Link, name: &str) -> Result<Pool> {
    let pool = active(link, name)?;
    let failed = |error| told(&format!("cannot refresh the storage pool {name}"), &error);
    pool.refresh(0).map_err(failed)?;
    describe(&pool).map_err(failed)
}

/// The same of a pool in which others may be having volumes made: libvirt looks again when that is done. `keep_on` ends the waiting with what it
/// fails with.
pub fn refresh_when_idle(link: &Link, name: &str, keep_on: &dyn Fn() -> Result<()>) -> Result<Pool> {
    let deadline = Instant::now() + IDLE_WITHIN;
    let pool = active(link, name)?;
    let failed = |error| told(&format!("cannot refresh the storage pool {name}"), &error);
    loop {
        match pool.refresh(0) {
            Ok(_) => return describe(&pool).map_err(failed),
            Err(error) if !is_busy(&error) => return Err(failed(error)),
            Err(error) if Instant::now() > deadline => {
                return Err(failed(error)
                    .advice("see who has a volume made in it, and wait for that")
                    .transient());
            }
            Err(_) => keep_on()?,
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a volume is being made in a pool, or copied. There is no code for that.
fn is_busy(error: &virt::error::Error) -> bool {
    error.code() == ErrorNumber::InternalError && error.message().contains("asynchronous jobs")
}

/// Stops a pool and forgets it. What lies in it stays.
pub fn undefine(link: &Link, name: &str) -> Result<()> {
    let pool = raw(link, name)?;
    let failed = |what: &str, error| told(&format!("cannot {what} the storage pool {name}"), &error);
    if pool.is_active().map_err(|error| failed("look at", error))? {
        pool.destroy().map_err(|error| failed("stop", error))?;
    }
    match pool.undefine() {
        // One that was never written down is gone when it stops.
        Err(error) if error.code() != ErrorNumber::NoStoragePool => Err(failed("undefine", error)),
        _ => Ok(()),
    }
}

/// As the crate knows it; one that is not there is an error which names those that are.
pub(super) fn raw(link: &Link, name: &str) -> Result<StoragePool> {
    look_up(link, name)?.ok_or_else(|| missing(link, name))
}

/// The same of one that has to be active.
pub(super) fn active(link: &Link, name: &str) -> Result<StoragePool> {
    let pool = raw(link, name)?;
    match pool.is_active() {
        Ok(true) => Ok(pool),
        Ok(false) => Err(Error::new(Kind::Libvirt, format!("the storage pool {name} is not active"))
            .advice(format!("start it: `hyper2kvm libvirt pool start {name}`"))),
        Err(error) => Err(told(&format!("cannot look at the storage pool {name}"), &error)),
    }
}

/// A pool as it is now.
pub(super) fn describe(pool: &StoragePool) -> Result<Pool, virt::error::Error> {
    let info = pool.get_info()?;
    let (kind, path) = kind_and_path(&pool.get_xml_desc(0)?);
    Ok(Pool {
        name: pool.get_name()?,
        uuid: pool.get_uuid_string()?,
        kind,
        active: info.state != sys::VIR_STORAGE_POOL_INACTIVE,
        persistent: pool.is_persistent()?,
        autostart: pool.get_autostart()?,
        path,
        capacity: info.capacity,
        allocation: info.allocation,
        available: info.available,
    })
}

fn kind_and_path(xml: &str) -> (String, Option<PathBuf>) {
    let Ok(document) = roxmltree::Document::parse(xml) else { return (String::new(), None) };
    let root = document.root_element();
    let below = |node: roxmltree::Node<'_, '_>, name: &str| {
        node.children().find(|child| child.has_tag_name(name)).map(|child| child.id())
    };
    let path = below(root, "target")
        .and_then(|target| below(document.get_node(target)?, "path"))
        .and_then(|path| Some(PathBuf::from(document.get_node(path)?.text()?)));
    (root.attribute("type").unwrap_or_default().to_owned(), path)
}

fn look_up(link: &Link, name: &str) -> Result<Option<StoragePool>> {
    match StoragePool::lookup_by_name(link.raw(), checked_pool(name)?) {
        Ok(pool) => Ok(Some(pool)),
        Err(error) if error.code() == ErrorNumber::NoStoragePool => Ok(None),
        Err(error) => Err(told(&format!("cannot look for the storage pool {name}"), &error)),
    }
}

fn missing(link: &Link, name: &str) -> Error {
    let names: Vec<String> = list(link).unwrap_or_default().into_iter().map(|pool| pool.name).collect();
    let error = Error::new(Kind::Libvirt, format!("there is no storage pool {name}"));
    match names.is_empty() {
        true => error.advice("define it: `hyper2kvm libvirt pool define NAME PATH`; there is none at all"),
        false => error.advice(format!("name one of those that there are: {}", names.join(", "))),
    }
}

fn checked_pool(name: &str) -> Result<&str> {
    checked("storage pool", name, MOST_NAME_BYTES)
}

/// A path that means the same to libvirt, wherever that was started.
fn plain(path: &Path) -> Result<&Path> {
    let bad = |why: &str| {
        Error::new(Kind::Manifest, format!("{} cannot be a storage pool's directory: {why}", path.display()))
            .advice("name a directory by its whole path, as /var/lib/libvirt/images")
    };
    let text = path.to_str().ok_or_else(|| bad("it is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(bad("it holds control characters"));
    }
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(bad("it is not absolute"));
    }
    if path == Path::new("/") {
        return Err(bad("all of the file system lies below it"));
    }
    Ok(path)
}

/// Whether both are the same file or directory, under whatever path.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::link::Access;

    #[test]
    fn kind_and_path_are_read_out_of_a_definition() {
        let xml = "<pool type='netfs'><name>x</name><source><dir path='/srv'/></source><target><path>/a &amp; b</path></target></pool>";
        assert_eq!(kind_and_path(xml), ("netfs".to_owned(), Some(PathBuf::from("/a & b"))));
        assert_eq!(kind_and_path("<pool type='rbd'/>"), ("rbd".to_owned(), None));
        assert_eq!(kind_and_path("<pool"), (String::new(), None));
    }

    #[test]
    fn a_missing_pool_is_told_with_those_that_there_are() {
        let link = Link::open("test:///default", Access::Changes).unwrap();
        let error =
            ensure(&link, &Wanted { name: "nowhere".to_owned(), path: None, start: true }).unwrap_err();
        assert_eq!(error.kind(), Kind::Libvirt);
        assert!(error.to_string().contains("default-pool"), "{error}");
    }

    #[test]
    fn names_and_paths_that_cannot_be_are_refused_before_libvirt_sees_them() {
        let link = Link::open("test:///default", Access::Changes).unwrap();
        for name in ["", "a/b", "nul\0", "line\nbreak", "..", &"x".repeat(241)] {
            assert_eq!(find(&link, name).unwrap_err().kind(), Kind::Manifest, "{name:?}");
        }
        for path in ["relative", "/srv/../etc", "/", "/srv/a\nb"] {
            assert_eq!(
                define(&link, "x", Path::new(path), true).unwrap_err().kind(),
                Kind::Manifest,
                "{path:?}"
            );
        }
    }
}
