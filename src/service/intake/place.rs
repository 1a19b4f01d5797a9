//! The directories that a drop passes through, and the two moves: to `processing/` and to `failed/`.
//!
//! A name in the drop directory may mean another file a moment later. So a move is checked on both
//! sides: the file that arrived has to be the one that was meant, else it is put back where it was.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::file::{self, Found};
use super::{names, prepare_drop_directory};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::report::ErrorReport;
use crate::service::kept;
use crate::service::queue::{Brought, DropRow, DroppedFile, FileIdentity};
use crate::sys::fs::{atomic_write, numbered, rename_noreplace, sync_dir};
use crate::sys::{failpoint, time};

/// A drop may hold a secret until its job has ended.
const DROP_MODE: u32 = 0o600;

/// Below `processing/`: where a refused drop lies while it is looked into, out of everybody's sight.
const ASIDE: &str = ".aside";

/// The directories.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) incoming: PathBuf,
    processing: PathBuf,
    failed: PathBuf,
}

impl Places {
    /// Makes what is missing, and sees to it that a drop can be moved without being copied.
    pub(super) fn prepare(settings: &Settings) -> Result<Places> {
        let layout = settings.layout();
        let places = Places {
            incoming: settings.intake.dir.clone(),
            processing: layout.processing(),
            failed: layout.failed(),
        };
        let cannot = |path: &Path, error: &io::Error| Error::io(Kind::Output, "make", path, error);
        prepare_drop_directory(&places.incoming)?;
        for directory in [&places.processing, &places.failed] {
            std::fs::create_dir_all(directory).map_err(|error| cannot(directory, &error))?;
        }
        let device = |path: &Path| {
            std::fs::metadata(path)
                .map(|metadata| metadata.dev())
                .map_err(|error| Error::io(Kind::Output, "look at", path, &error))
        };
        let drop_device = device(&places.incoming)?;
        for directory in [&places.processing, &places.failed] {
            if device(directory)? != drop_device {
                return Err(Error::new(
                    Kind::Output,
                    format!(
                        "{} and {} lie on different file systems",
                        places.incoming.display(),
                        directory.display()
                    ),
                )
                .field("intake.dir")
                .advice("put the drop directory on the file system of the state directory"));
            }
        }
        places
            .bring_back()
            .map_err(|error| Error::io(Kind::Output, "put back what lies in", &places.processing, &error))?;
        Ok(places)
    }

    /// Which directory the drop directory is; none if it is not there.
    pub(super) fn incoming_identity(&self) -> Option<(u64, u64)> {
        std::fs::metadata(&self.incoming).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// Files of one drop, with the directories between which they are moved.
    pub(super) fn brought(&self, files: Vec<DroppedFile>) -> Brought {
        Brought { files, incoming: self.incoming.clone(), processing: self.processing.clone() }
    }

    /// Looks at a name in the drop directory.
    pub(super) fn look(&self, name: &OsStr) -> io::Result<Found> {
        file::look(&self.incoming.join(name))
    }

    /// Brings the file of an accepted drop to `processing/`; answers its name there. Not durable until
    /// [`Places::sync_moves`].
    ///
    /// The file may have been replaced or deleted since it was read: then what was accepted is written
    /// again from its `bytes`, and what lies in the drop directory now is left there.
    pub(super) fn acknowledge(
        &self,
        row: &DropRow,
        bytes: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<String> {
        let wanted = row.processing_name.clone().unwrap_or_else(|| row.name.clone());
        let from = self.incoming.join(&row.name);
        let told = |error: io::Error| Error::io(Kind::Output, "move to processing/", &from, &error);
        if file::look(&from).map_err(told)?.identity() == row.identity {
            for number in 1u32.. {
                let name = numbered(OsStr::new(&wanted), number);
                let to = self.processing.join(&name);
                match rename_noreplace(&from, &to) {
                    Ok(()) if file::look(&to).map_err(told)?.identity() == row.identity => {
                        failpoint::hit("intake.after-move");
                        kept::make_private(&to);
                        return Ok(name.to_string_lossy().into_owned());
                    }
                    Ok(()) => {
                        put_back(&to, &from).map_err(told)?;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(told(error)),
                }
            }
        }
        let to = self.processing.join(&wanted);
        // A crash after the rename: it is there already.
        let there = file::look(&to).map_err(told)?;
        if there.identity().is_none() || there.identity() != row.identity {
            if there != Found::Nothing {
                return self.write_beside(&wanted, &bytes()?);
            }
            atomic_write(&to, &bytes()?, DROP_MODE)
                .map_err(|error| Error::io(Kind::Output, "write", &to, &error))?;
            failpoint::hit("intake.after-move");
        }
        kept::make_private(&to);
        Ok(wanted)
    }

    /// A stranger lies under the name in `processing/`: what was accepted is written beside it.
    fn write_beside(&self, wanted: &str, bytes: &[u8]) -> Result<String> {
        for number in 2u32.. {
            let name = numbered(OsStr::new(wanted), number);
            let to = self.processing.join(&name);
            if file::look(&to).is_ok_and(|found| found == Found::Nothing) {
                atomic_write(&to, bytes, DROP_MODE)
                    .map_err(|error| Error::io(Kind::Output, "write", &to, &error))?;
                return Ok(name.to_string_lossy().into_owned());
            }
        }
        Err(Error::internal("there are no names left in processing/"))
    }

    /// Whether the file of a drop lies in `processing/` already.
    pub(super) fn holds(&self, row: &DropRow) -> bool {
        row.processing_name.as_ref().is_some_and(|name| {
            file::look(&self.processing.join(name)).is_ok_and(|found| found != Found::Nothing)
        })
    }

    /// The path of a name in `processing/`.
    pub(super) fn in_processing(&self, name: &str) -> PathBuf {
        self.processing.join(name)
    }

    /// Which file lies in `processing/` under this name.
    pub(super) fn identity_in_processing(&self, row: &DropRow, name: &str) -> Option<FileIdentity> {
        let place = self.processing.join(name);
        let path = if row.is_directory() { place.join(&row.name) } else { place };
        file::look(&path).ok()?.identity()
    }

    /// Makes the moves to `processing/` durable.
    pub(super) fn sync_moves(&self) -> Result<()> {
        for directory in [&self.processing, &self.incoming] {
            sync_dir(directory).map_err(|error| Error::io(Kind::Output, "sync", directory, &error))?;
        }
        Ok(())
    }

    /// Keeps a refused drop in `failed/<date>/` and says why beside it; answers where it is now.
    ///
    /// `None`: another file took its name meanwhile, which is left for a look of its own. It is first
    /// taken aside, where nobody else can read or exchange it; a daemon that dies then finds it there.
    /// The reason is written before the file, so that nothing ever lies in `failed/` without one.
    pub(super) fn refuse(
        &self,
        name: &OsStr,
        refused: FileIdentity,
        error: &Error,
    ) -> Result<Option<PathBuf>> {
        let from = self.incoming.join(name);
        let told = |error: io::Error| Error::io(Kind::Output, "move to failed/", &from, &error);
        let aside = self.make_aside().map_err(told)?;
        let held = aside.join(name);
        match rename_noreplace(&from, &held) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            moved => moved.map_err(told)?,
        }
        if file::look(&held).map_err(told)?.identity() != Some(refused) {
            put_back(&held, &from).map_err(told)?;
            drop(std::fs::remove_dir(&aside));
            return Ok(None);
        }
        let redacted = kept::redacted(&held).map_err(told);
        let kept = redacted.and_then(|copy| self.keep_refused(name, &held, copy.as_deref(), error));
        match &kept {
            // It is refused again when there is room for that.
            Err(_) => put_back(&held, &from).map_err(told)?,
            Ok(_) => drop(std::fs::remove_dir(&aside)),
        }
        kept.map(Some)
    }

    /// The directory in which refused drops lie while they are looked into.
    pub(super) fn make_aside(&self) -> io::Result<PathBuf> {
        let aside = self.processing.join(ASIDE);
        match std::fs::DirBuilder::new().mode(0o700).create(&aside) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(aside),
        }
    }

    /// `redacted`: what is kept instead of it, if it holds a secret.
    pub(super) fn keep_refused(
        &self,
        name: &OsStr,
        held: &Path,
        redacted: Option<&[u8]>,
        error: &Error,
    ) -> Result<PathBuf> {
        let now = time::now_epoch();
        let directory = self.failed.join(time::date_utc(now));
        let told = |error: io::Error| Error::io(Kind::Output, "move to failed/", held, &error);
        std::fs::create_dir_all(&directory).map_err(told)?;
        let report = ErrorReport::refused(&names::printable(name), time::rfc3339_utc(now), error);
        let mut text = serde_json::to_vec_pretty(&report)
            .map_err(|error| Error::internal(format!("cannot write an error report: {error}")))?;
        text.push(b'\n');
        let safe = names::for_failed(name);
        for number in 1u32.. {
            let target = directory.join(numbered(&safe, number));
            let reason = kept::beside(&target, ".error.json");
            let free = |path: &Path| file::look(path).map(|found| found == Found::Nothing);
            if !free(&target).map_err(told)? || !free(&reason).map_err(told)? {
                continue;
            }
            kept::write_report(&reason, &text)?;
            match kept::put(held, redacted, &target) {
                Ok(()) => return Ok(target),
                Err(error) => {
                    std::fs::remove_file(&reason).map_err(told)?;
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(told(error));
                    }
                }
            }
        }
        Err(Error::internal("there are no names left in failed/"))
    }

    /// What a daemon that died has left aside goes back to be looked at again.
    pub(super) fn bring_back(&self) -> io::Result<()> {
        self.empty(&self.processing.join(ASIDE))
    }

    /// Puts back what lies in a directory and in those below it, which hold the files of one disk each.
    fn empty(&self, directory: &Path) -> io::Result<()> {
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => self.empty(&entry.path())?,
                false => put_back(&entry.path(), &self.incoming.join(entry.file_name()))?,
            }
        }
        std::fs::remove_dir(directory)
    }
}

/// Puts a file that was moved by mistake back where it was, or beside it if its name is taken again.
pub(super) fn put_back(moved: &Path, origin: &Path) -> io::Result<()> {
    let name: OsString = origin.file_name().map(ToOwned::to_owned).unwrap_or_default();
    for number in 1u32.. {
        match rename_noreplace(moved, &origin.with_file_name(numbered(&name, number))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => return outcome,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::service::queue::DropState;

    struct Scene {
        _state: tempfile::TempDir,
        places: Places,
    }

    impl Scene {
        fn new() -> Scene {
            let state = tempfile::tempdir().unwrap();
            let places = Places::prepare(&Settings::defaults(state.path(), 2)).unwrap();
            Scene { _state: state, places }
        }

        fn put(&self, name: &str, content: &str) -> FileIdentity {
            std::fs::write(self.places.incoming.join(name), content).unwrap();
            self.places.look(OsStr::new(name)).unwrap().identity().unwrap()
        }

        fn row(&self, name: &str, identity: FileIdentity) -> DropRow {
            DropRow {
                drop_id: 1,
                name: name.to_owned(),
                sha256: String::new(),
                identity: Some(identity),
                state: DropState::Accepted,
                files: Vec::new(),
                processing_name: Some(format!("b-{name}")),
                settled_path: None,
                accepted_at: 0.0,
            }
        }

        fn processing(&self, name: &str) -> String {
            std::fs::read_to_string(self.places.processing.join(name)).unwrap()
        }

        fn incoming(&self, name: &str) -> Option<String> {
            std::fs::read_to_string(self.places.incoming.join(name)).ok()
        }
    }

    fn refusal() -> Error {
        Error::new(Kind::Manifest, "not a manifest").advice("see docs/manifest.md")
    }

    #[test]
    fn an_accepted_drop_is_moved_and_not_read_again() {
        let scene = Scene::new();
        let identity = scene.put("x.json", "one");
        let name = scene.places.acknowledge(&scene.row("x.json", identity), || panic!("read again")).unwrap();
        assert_eq!(name, "b-x.json");
        assert_eq!(scene.processing("b-x.json"), "one");
        assert_eq!(scene.incoming("x.json"), None);
        // As after a crash between the move and its mark.
        let again =
            scene.places.acknowledge(&scene.row("x.json", identity), || panic!("read again")).unwrap();
        assert_eq!(again, "b-x.json");
    }

    #[test]
    fn a_drop_that_was_replaced_after_it_was_read_is_written_again_and_its_successor_stays() {
        let scene = Scene::new();
        let identity = scene.put("x.json", "one");
        std::fs::write(scene.places.incoming.join(".new"), "two").unwrap();
        std::fs::rename(scene.places.incoming.join(".new"), scene.places.incoming.join("x.json")).unwrap();
        scene.places.acknowledge(&scene.row("x.json", identity), || Ok(b"one".to_vec())).unwrap();
        assert_eq!(scene.processing("b-x.json"), "one");
        assert_eq!(scene.incoming("x.json").unwrap(), "two");
    }

    #[test]
    fn a_drop_that_was_deleted_after_it_was_read_is_written_again() {
        let scene = Scene::new();
        let identity = scene.put("x.json", "one");
        std::fs::remove_file(scene.places.incoming.join("x.json")).unwrap();
        scene.places.acknowledge(&scene.row("x.json", identity), || Ok(b"one".to_vec())).unwrap();
        assert_eq!(scene.processing("b-x.json"), "one");
    }

    #[test]
    fn a_stranger_in_processing_is_not_overwritten() {
        let scene = Scene::new();
        std::fs::write(scene.places.processing.join("b-x.json"), "stranger").unwrap();
        let identity = scene.put("x.json", "one");
        let name = scene.places.acknowledge(&scene.row("x.json", identity), || panic!("read again")).unwrap();
        assert_eq!(name, "b-x-2.json");
        assert_eq!(scene.processing("b-x.json"), "stranger");
        std::fs::remove_file(scene.places.processing.join("b-x-2.json")).unwrap();
        let name = scene.places.acknowledge(&scene.row("x.json", identity), || Ok(b"one".to_vec())).unwrap();
        assert_eq!((name.as_str(), scene.processing("b-x-2.json").as_str()), ("b-x-2.json", "one"));
    }

    #[test]
    fn refused_drops_of_one_name_lie_side_by_side_each_with_its_reason() {
        let scene = Scene::new();
        for expected in ["x.json", "x-2.json", "x-3.json"] {
            let identity = scene.put("x.json", expected);
            let moved = scene.places.refuse(OsStr::new("x.json"), identity, &refusal()).unwrap().unwrap();
            assert_eq!(moved.file_name().unwrap(), expected);
            assert_eq!(std::fs::read_to_string(&moved).unwrap(), expected);
            let report: ErrorReport =
                serde_json::from_slice(&std::fs::read(kept::beside(&moved, ".error.json")).unwrap()).unwrap();
            assert_eq!((report.filename.as_str(), report.kind), ("x.json", Kind::Manifest));
            assert_eq!(report.suggestion.as_deref(), Some("see docs/manifest.md"));
        }
    }

    #[test]
    fn a_drop_that_was_replaced_before_its_refusal_is_not_moved_in_its_place() {
        let scene = Scene::new();
        let identity = scene.put("x.json", "bad");
        std::fs::write(scene.places.incoming.join(".new"), "better").unwrap();
        std::fs::rename(scene.places.incoming.join(".new"), scene.places.incoming.join("x.json")).unwrap();
        assert_eq!(scene.places.refuse(OsStr::new("x.json"), identity, &refusal()).unwrap(), None);
        assert_eq!(scene.incoming("x.json").unwrap(), "better");
        assert_eq!(
            std::fs::read_dir(&scene.places.failed)
                .unwrap()
                .flatten()
                .map(|day| { std::fs::read_dir(day.path()).unwrap().count() })
                .sum::<usize>(),
            0
        );
    }

    #[test]
    fn what_was_moved_by_mistake_goes_back_even_if_its_name_is_taken_again() {
        let scene = Scene::new();
        scene.put("x.json", "third");
        let moved = scene.places.processing.join("b-x.json");
        std::fs::write(&moved, "second").unwrap();
        put_back(&moved, &scene.places.incoming.join("x.json")).unwrap();
        assert_eq!(scene.incoming("x.json").unwrap(), "third");
        assert_eq!(scene.incoming("x-2.json").unwrap(), "second");
    }

    /// What lies in `failed/`: name, mode, content.
    fn failed(scene: &Scene) -> Vec<(String, u32, String)> {
        let mut found: Vec<_> = std::fs::read_dir(&scene.places.failed)
            .unwrap()
            .flatten()
            .flat_map(|day| std::fs::read_dir(day.path()).unwrap().flatten())
            .map(|entry| {
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                let content = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), mode, content)
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn a_refused_drop_that_holds_a_secret_is_kept_as_a_private_redacted_copy() {
        let scene = Scene::new();
        let identity = scene.put("x.yaml", "name: web\npassword: hunter2\n");
        let path = scene.places.incoming.join("x.yaml");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let kept = scene.places.refuse(OsStr::new("x.yaml"), identity, &refusal()).unwrap().unwrap();
        assert_eq!(kept.file_name().unwrap(), "x.yaml");
        let found = failed(&scene);
        assert_eq!(
            found[0],
            ("x.yaml".to_owned(), 0o600, "name: web\npassword: \"[redacted]\"\n".to_owned())
        );
        assert_eq!((found[1].0.as_str(), found[1].1), ("x.yaml.error.json", 0o640));
        assert_eq!(found.len(), 2);
        assert_eq!(scene.incoming("x.yaml"), None);
        assert!(!scene.places.processing.join(ASIDE).exists());
    }

    #[test]
    fn a_refused_drop_that_cannot_be_kept_now_goes_back_whole() {
        let scene = Scene::new();
        let identity = scene.put("x.yaml", "password: hunter2\n");
        let day = scene.places.failed.join(time::date_utc(time::now_epoch()));
        std::fs::write(&day, "no directory").unwrap();
        assert!(scene.places.refuse(OsStr::new("x.yaml"), identity, &refusal()).is_err());
        assert_eq!(scene.incoming("x.yaml").unwrap(), "password: hunter2\n");
    }

    #[test]
    fn a_refused_drop_that_a_daemon_left_aside_is_looked_at_again() {
        let state = tempfile::tempdir().unwrap();
        let settings = Settings::defaults(state.path(), 2);
        let aside = state.path().join("processing").join(ASIDE);
        std::fs::create_dir_all(&aside).unwrap();
        std::fs::write(aside.join("x.yaml"), "bad").unwrap();
        let places = Places::prepare(&settings).unwrap();
        assert_eq!(std::fs::read_to_string(places.incoming.join("x.yaml")).unwrap(), "bad");
        assert!(!aside.exists());
    }
}
