//! The moves of a dropped disk: to `processing/`, back there from `failed/` for a retry, and to `failed/` when it is refused.
//!
//! A disk is renamed, never copied, and never looked into here. One of several files is a directory in each of these places, in
//! which they keep their names. Every move can be taken again: a file that has arrived is known by what it is, so a daemon that
//! died between two of them goes on with the next.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::file::{self, Found};
use super::kind::is_manifest;
use super::place::{Places, put_back};
use crate::model::error::{Error, Kind, Result};
use crate::service::kept;
use crate::service::queue::{DropRow, DroppedFile};
use crate::sys::failpoint;
use crate::sys::fs::{parent_of, rename_noreplace, sync_dir};

/// Of a directory with the files of one disk, as of those in which it lies.
const DIRECTORY_MODE: u32 = 0o750;

impl Places {
    /// Brings the files of an accepted disk to `processing/`; answers their name there. Not durable until [`Places::sync_moves`].
    ///
    /// Their plan names that place, so it is not given another where something is in the way: then it is an error. A file that
    /// is gone cannot be made again as a manifest can; the job will say that it is missing.
    pub(super) fn carry(&self, row: &DropRow) -> Result<String> {
        let name = row.processing_name.clone().unwrap_or_else(|| row.name.clone());
        let place = self.in_processing(&name);
        let told = |error: io::Error| Error::io(Kind::Output, "move to processing/", &place, &error);
        if row.is_directory() {
            make_directory(&place).map_err(told)?;
        }
        let mut gone = 0;
        for file in &row.files {
            let to = if row.is_directory() { place.join(&file.name) } else { place.clone() };
            if self.carry_one(row, file, &to).map_err(told)? {
                if is_manifest(OsStr::new(&file.name)) {
                    kept::make_private(&to);
                }
            } else {
                gone += 1;
                tracing::error!(name = %file.name, "a dropped disk was taken away before it could be moved");
            }
        }
        if row.is_directory() {
            sync_dir(&place).map_err(told)?;
        }
        if let Some(settled) = row.settled_path.as_ref().filter(|_| gone < row.files.len()) {
            tidy(settled, row.is_directory()).map_err(told)?;
        }
        Ok(name)
    }

    /// Whether the file is there now.
    fn carry_one(&self, row: &DropRow, file: &DroppedFile, to: &Path) -> io::Result<bool> {
        // In `failed/` only the operator can have put something else in its place: to mend it.
        let may_be = |found: Found, mended: bool| match found {
            Found::Plain(identity) => mended || identity == file.identity,
            _ => false,
        };
        match file::look(to)? {
            Found::Nothing => {}
            found if may_be(found, row.settled_path.is_some()) => return Ok(true),
            _ => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        let settled = row.settled_path.as_ref().map(|settled| match row.is_directory() {
            true => settled.join(&file.name),
            false => settled.clone(),
        });
        let dropped = Some(self.incoming.join(&file.name));
        for (from, mended) in [(settled, true), (dropped, false)] {
            let Some(from) = from else { continue };
            if !may_be(file::look(&from)?, mended) {
                continue;
            }
            match rename_noreplace(&from, to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                moved => moved?,
            }
            if may_be(file::look(to)?, mended) {
                failpoint::hit("intake.after-move");
                return Ok(true);
            }
            put_back(to, &from)?;
        }
        Ok(false)
    }

    /// Keeps the files of a refused disk in `failed/<date>/`, with the reason beside; answers where they are now.
    ///
    /// `None`: another file took the name of the first meanwhile; nothing was moved then. Another that has changed stays.
    pub(super) fn refuse_disk(&self, files: &[DroppedFile], error: &Error) -> Result<Option<PathBuf>> {
        let Some(main) = files.first() else { return Ok(None) };
        let name = OsStr::new(&main.name);
        let told =
            |error: io::Error| Error::io(Kind::Output, "move to failed/", &self.incoming.join(name), &error);
        let held = self.make_aside().map_err(told)?.join(name);
        if files.len() > 1 {
            make_directory(&held).map_err(told)?;
        }
        for (number, file) in files.iter().enumerate() {
            let from = self.incoming.join(&file.name);
            let to = if files.len() > 1 { held.join(&file.name) } else { held.clone() };
            let moved = match rename_noreplace(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                moved => moved.map(|()| true).map_err(told)?,
            };
            let is_it = moved && file::look(&to).map_err(told)?.identity() == Some(file.identity);
            if moved && !is_it {
                put_back(&to, &from).map_err(told)?;
            }
            if is_it && is_manifest(OsStr::new(&file.name)) {
                kept::redact(&to).map_err(told)?;
            }
            if !is_it && number == 0 {
                self.bring_back().map_err(told)?;
                return Ok(None);
            }
        }
        let kept = self.keep_refused(name, &held, None, error);
        // What could not be kept goes back, and is refused again when there is room for that.
        self.bring_back().map_err(told)?;
        kept.map(Some)
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match file::look(path)? {
            Found::Directory(_) => Ok(()),
            _ => Err(error),
        },
        made => made,
    }
}

/// What is left in `failed/` of a disk that was brought back from there: the reason of an earlier end, and an empty directory.
fn tidy(settled: &Path, is_directory: bool) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(std::fs::remove_file(kept::beside(settled, ".error.json")))?;
    if is_directory {
        match gone(std::fs::remove_dir(settled)) {
            // The operator has put something beside the files.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => removed?,
        }
    }
    match sync_dir(parent_of(settled)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Settings;
    use crate::service::queue::DropState;

    struct Scene {
        state: tempfile::TempDir,
        places: Places,
    }

    impl Scene {
        fn new() -> Scene {
            let state = tempfile::tempdir().unwrap();
            let places = Places::prepare(&Settings::defaults(state.path(), 2)).unwrap();
            Scene { state, places }
        }

        /// A disk of these files in the drop directory.
        fn disk(&self, names: &[&str]) -> DropRow {
            let put = |name: &&str| {
                let path = self.places.incoming.join(name);
                std::fs::write(&path, name).unwrap();
                let identity = file::look(&path).unwrap().identity().unwrap();
                DroppedFile { name: (*name).to_owned(), identity }
            };
            let files: Vec<DroppedFile> = names.iter().map(put).collect();
            DropRow {
                drop_id: 1,
                name: names[0].to_owned(),
                sha256: String::new(),
                identity: Some(files[0].identity),
                files,
                state: DropState::Accepted,
                processing_name: Some(format!("b-{}", names[0])),
                settled_path: None,
                accepted_at: 0.0,
            }
        }

        fn there(&self, path: &str) -> bool {
            self.state.path().join(path).exists()
        }
    }

    #[test]
    fn a_move_that_was_cut_between_two_files_goes_on_with_the_next() {
        let scene = Scene::new();
        let row = scene.disk(&["web.vmdk", "web-flat.vmdk"]);
        let place = scene.state.path().join("processing/b-web.vmdk");
        std::fs::create_dir(&place).unwrap();
        std::fs::rename(scene.places.incoming.join("web.vmdk"), place.join("web.vmdk")).unwrap();
        for _ in 0..2 {
            assert_eq!(scene.places.carry(&row).unwrap(), "b-web.vmdk");
            assert!(scene.there("processing/b-web.vmdk/web.vmdk"));
            assert!(scene.there("processing/b-web.vmdk/web-flat.vmdk"));
        }
    }

    #[test]
    fn a_stranger_in_the_place_that_the_plan_names_is_an_error_and_the_disk_stays() {
        let scene = Scene::new();
        let row = scene.disk(&["web.qcow2"]);
        std::fs::write(scene.state.path().join("processing/b-web.qcow2"), "stranger").unwrap();
        assert!(scene.places.carry(&row).is_err());
        assert!(scene.there("incoming/web.qcow2"));
    }

    #[test]
    fn another_file_under_the_name_of_an_accepted_disk_is_not_moved_in_its_place() {
        let scene = Scene::new();
        let row = scene.disk(&["web.qcow2"]);
        std::fs::write(scene.places.incoming.join(".new"), "another").unwrap();
        std::fs::rename(scene.places.incoming.join(".new"), scene.places.incoming.join("web.qcow2")).unwrap();
        scene.places.carry(&row).unwrap();
        assert!(scene.there("incoming/web.qcow2") && !scene.there("processing/b-web.qcow2"));
    }

    #[test]
    fn a_disk_comes_back_from_failed_also_after_it_was_mended_there_and_leaves_no_reason_behind() {
        let scene = Scene::new();
        let row = scene.disk(&["web.qcow2"]);
        let failed = scene.state.path().join("failed/2026-01-02/web.qcow2");
        std::fs::create_dir(failed.parent().unwrap()).unwrap();
        std::fs::remove_file(scene.places.incoming.join("web.qcow2")).unwrap();
        std::fs::write(&failed, "mended").unwrap();
        std::fs::write(kept::beside(&failed, ".error.json"), "{}").unwrap();
        scene.places.carry(&DropRow { settled_path: Some(failed.clone()), ..row }).unwrap();
        assert!(scene.there("processing/b-web.qcow2"));
        assert_eq!(std::fs::read_dir(failed.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_refused_disk_is_never_looked_into_and_lies_with_all_its_files() {
        let scene = Scene::new();
        let row = scene.disk(&["web.vmdk", "web-flat.vmdk"]);
        let secret = "password: hunter2\n";
        std::fs::write(scene.places.incoming.join("web-flat.vmdk"), "changed meanwhile").unwrap();
        std::fs::write(scene.places.incoming.join("web.vmdk"), secret).unwrap();
        let main = file::look(&scene.places.incoming.join("web.vmdk")).unwrap().identity().unwrap();
        let mut files = row.files.clone();
        let error = Error::new(Kind::Source, "cut off");
        assert_eq!(scene.places.refuse_disk(&files, &error).unwrap(), None, "it is another file now");
        assert!(scene.there("incoming/web.vmdk") && scene.there("incoming/web-flat.vmdk"));

        files[0].identity = main;
        let kept = scene.places.refuse_disk(&files, &error).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(kept.join("web.vmdk")).unwrap(), secret);
        assert!(kept::beside(&kept, ".error.json").exists());
        assert!(scene.there("incoming/web-flat.vmdk"), "what has changed is a drop of its own");
        assert!(!scene.there("processing/.aside"));
    }
}
