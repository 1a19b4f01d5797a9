//! Puts view files on the disk, from threads of their own.
//!
//! Only the newest content of a file is ever written. Files are replaced atomically, so that a reader
//! never sees half of one; they are not synced, because they are made again after a crash. The scheduler
//! never waits for any of it.
//!
//! The state directory's own files (`status.json`, `progress/`) have a lane to themselves. What goes into
//! output directories, which may lie on a network file system that is away, goes through a lane per file
//! system (`lane`), so that a place that hangs holds up only itself.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lane::{Lane, Make};
use crate::model::config::Layout;
use crate::model::error::Result;
use crate::model::protocol::HeldLock;
use crate::pipeline::host_lock;
use crate::pipeline::publish::DIRECTORY_MODE;
use crate::sys::dir::Dir;
use crate::sys::fs;
use crate::sys::mounts::Mounts;

/// A write that takes longer than this is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// More file systems than this share lanes.
const MAX_LANES: usize = 16;

/// How long the table of mounts is taken to be as it was.
const MOUNTS_HOLD: Duration = Duration::from_secs(5);

/// What a waiting file needs besides its content.
const ENTRY_BYTES: usize = 256;

/// A file or link that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// A file with this content and mode.
    File {
        /// Content.
        bytes: Vec<u8>,
        /// Mode.
        mode: u32,
        /// Whether the directory is made if it is not there.
        make_directory: bool,
    },
    /// A symbolic link.
    Link {
        /// Where to.
        to: PathBuf,
    },
    /// Nothing.
    Gone,
    /// One of these, beside results; left out where another host works there by now.
    Under {
        /// The lock of this host.
        lock: HeldLock,
        /// What.
        view: Box<View>,
    },
}

impl View {
    /// About how much memory it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        let content = match self {
            View::File { bytes, .. } => bytes.len(),
            View::Link { to } => to.as_os_str().len(),
            View::Gone => 0,
            View::Under { view, .. } => view.bytes(),
        };
        content + ENTRY_BYTES
    }

    /// The same, as long as this lock is held.
    #[must_use]
    pub fn under(self, lock: HeldLock) -> View {
        View::Under { lock, view: Box::new(self) }
    }
}

/// Which file system a path lies on.
type Place = dyn Fn(&Path) -> PathBuf + Send + Sync;

/// Hands files to the lanes.
#[derive(Debug, Clone)]
pub struct ViewWriter(Arc<Lanes>);

struct Lanes {
    layout: Layout,
    /// For the state directory's own files.
    own: Arc<Lane>,
    /// By file system.
    others: Mutex<BTreeMap<PathBuf, Arc<Lane>>>,
    make: Arc<Make>,
    place: Box<Place>,
    patience: Duration,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("own", &self.own).field("others", &self.others).finish_non_exhaustive()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.each().iter().for_each(|lane| lane.close());
    }
}

impl ViewWriter {
    /// Starts the lane of the state directory; the others are started when they are needed.
    pub fn start(layout: Layout) -> Result<ViewWriter> {
        ViewWriter::with(layout, Arc::new(make), Box::new(by_mount()), PATIENCE)
    }

    fn with(layout: Layout, make: Arc<Make>, place: Box<Place>, patience: Duration) -> Result<ViewWriter> {
        let own = Lane::start(fs::parent_of(&layout.status_file()).to_owned(), Arc::clone(&make))?;
        Ok(ViewWriter(Arc::new(Lanes { layout, own, others: Mutex::default(), make, place, patience })))
    }

    /// This file is to be like this.
    pub fn put(&self, path: impl Into<PathBuf>, view: View) {
        let path = path.into();
        match self.0.lane_of(&path) {
            Ok(lane) => lane.put(path, view),
            Err(error) => tracing::warn!(path = %path.display(), "not written: {error}"),
        }
    }

    /// Returns when everything put before has been tried once, or after `limit`: a place that hangs is
    /// not waited for longer.
    pub async fn flush(&self, limit: Duration) {
        let lanes = self.0.each();
        let deadline = Instant::now() + limit;
        let waits = move || lanes.iter().filter(|lane| !lane.is_idle_by(deadline)).count();
        let unfinished = tokio::task::spawn_blocking(waits).await.unwrap_or_default();
        if unfinished > 0 {
            tracing::warn!("{unfinished} file systems did not take their last files in time");
        }
    }

    /// Which file system hangs, if one does.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let troubles: Vec<String> =
            self.0.each().iter().filter_map(|lane| lane.trouble(self.0.patience)).collect();
        troubles.into_iter().next()
    }
}

impl Lanes {
    fn lane_of(&self, path: &Path) -> Result<Arc<Lane>> {
        if path == self.layout.status_file() || path.starts_with(self.layout.progress()) {
            return Ok(Arc::clone(&self.own));
        }
        let place = (self.place)(path);
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = others.get(&place) {
            return Ok(Arc::clone(lane));
        }
        if others.len() >= MAX_LANES
            && let Some(lane) =
                others.values().find(|lane| !lane.is_stuck(self.patience)).or(others.values().next())
        {
            return Ok(Arc::clone(lane));
        }
        let lane = Lane::start(place.clone(), Arc::clone(&self.make))?;
        others.insert(place, Arc::clone(&lane));
        Ok(lane)
    }

    fn each(&self) -> Vec<Arc<Lane>> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(&self.own).chain(others.values()).cloned().collect()
    }
}

/// By the kernel's table of mounts, which is looked at again now and then.
fn by_mount() -> impl Fn(&Path) -> PathBuf {
    let table: Mutex<Option<(Instant, Mounts)>> = Mutex::default();
    move |path| {
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.as_ref().is_none_or(|(read_at, _)| read_at.elapsed() > MOUNTS_HOLD) {
            // Without a table all of it shares one lane.
            *table = Some((Instant::now(), Mounts::read().unwrap_or_default()));
        }
        table.as_ref().map_or_else(|| PathBuf::from("/"), |(_, mounts)| mounts.of(path))
    }
}

fn make(path: &Path, view: &View) -> io::Result<()> {
    match view {
        View::File { bytes, mode, make_directory } => {
            let made = fs::atomic_replace_unsynced(path, bytes, *mode);
            match made {
                Err(error) if error.kind() == io::ErrorKind::NotFound && *make_directory => {
                    make_directory_of(path)?;
                    fs::atomic_replace_unsynced(path, bytes, *mode)
                }
                made => made,
            }
        }
        View::Link { to } => match std::fs::read_link(path) {
            Ok(old) if old == *to => Ok(()),
            Ok(_) => {
                std::fs::remove_file(path)?;
                std::os::unix::fs::symlink(to, path)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directory_of(path)?;
                std::os::unix::fs::symlink(to, path)
            }
            Err(error) => Err(error),
        },
        View::Gone => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        View::Under { lock, view } => match host_lock::is_held(lock).map_err(io::Error::other)? {
            true => make(path, view),
            false => Ok(()),
        },
    }
}

fn make_directory_of(path: &Path) -> io::Result<()> {
    Dir::create_all(fs::parent_of(path), DIRECTORY_MODE).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::model::config::Settings;

    fn layout(state: &Path) -> Layout {
        Settings::defaults(state, 1).layout()
    }

    fn file(text: &str) -> View {
        View::File { bytes: text.as_bytes().to_vec(), mode: 0o644, make_directory: false }
    }

    #[tokio::test]
    async fn the_newest_content_is_on_the_disk_after_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let writer = ViewWriter::start(layout(dir.path())).unwrap();
        for text in ["1", "2", "3"] {
            writer.put(&path, file(text));
        }
        writer.flush(Duration::from_secs(10)).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "3");
    }

    #[tokio::test]
    async fn what_cannot_be_written_now_is_written_when_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/x.json");
        let writer = ViewWriter::start(layout(dir.path())).unwrap();
        writer.put(&path, file("1"));
        writer.flush(Duration::from_secs(10)).await;
        assert!(!path.exists());
        std::fs::create_dir(dir.path().join("later")).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !path.exists() {
            assert!(std::time::Instant::now() < deadline, "not tried again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn a_link_is_made_once_and_corrected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/.link");
        let writer = ViewWriter::start(layout(dir.path())).unwrap();
        for to in ["/a", "/a", "/b"] {
            writer.put(&path, View::Link { to: to.into() });
            writer.flush(Duration::from_secs(10)).await;
            assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(to));
        }
    }

    /// A writer for which `/away` hangs until the sender is dropped, and what it has written.
    struct Scene {
        writer: ViewWriter,
        back: mpsc::Sender<()>,
        begun: mpsc::Receiver<PathBuf>,
        made: Arc<Mutex<Vec<(PathBuf, View)>>>,
    }

    fn with_one_away() -> Scene {
        let (back, away) = mpsc::channel::<()>();
        let (begins, begun) = mpsc::channel();
        let (away, begins, made) = (Mutex::new(away), Mutex::new(begins), Arc::new(Mutex::new(Vec::new())));
        let written = Arc::clone(&made);
        let make = move |path: &Path, view: &View| {
            let _ = begins.lock().unwrap().send(path.to_owned());
            if path.starts_with("/away") {
                let _ = away.lock().unwrap().recv();
            }
            written.lock().unwrap().push((path.to_owned(), view.clone()));
            Ok(())
        };
        let first_step = |path: &Path| path.components().take(2).collect();
        let writer = ViewWriter::with(
            layout(Path::new("/state")),
            Arc::new(make),
            Box::new(first_step),
            Duration::from_millis(50),
        );
        Scene { writer: writer.unwrap(), back, begun, made }
    }

    #[tokio::test]
    async fn a_place_that_hangs_holds_up_only_itself_and_neither_the_stop() {
        let Scene { writer, back, begun, made } = with_one_away();
        writer.put("/away/checkpoint", file("0"));
        assert_eq!(begun.recv().unwrap(), Path::new("/away/checkpoint"));
        for version in 1..=100 {
            writer.put("/away/checkpoint", file(&version.to_string()));
        }
        writer.put("/state/status.json", file("status"));
        writer.put("/state/progress/web.json", file("progress"));
        writer.put("/near/checkpoint", file("near"));
        let before = Instant::now();
        writer.flush(Duration::from_secs(2)).await;
        assert!(before.elapsed() < Duration::from_secs(20), "the stop waits for what hangs");
        let mut there: Vec<PathBuf> = made.lock().unwrap().iter().map(|(path, _)| path.clone()).collect();
        there.sort();
        assert_eq!(
            there,
            ["/near/checkpoint", "/state/progress/web.json", "/state/status.json"].map(PathBuf::from)
        );
        assert_eq!(writer.trouble().unwrap(), "/away does not answer: 2 files wait to be written there");

        drop(back);
        writer.flush(Duration::from_secs(30)).await;
        let late: Vec<View> = made.lock().unwrap().drain(3..).map(|(_, view)| view).collect();
        assert_eq!(late, [file("0"), file("100")], "of what came meanwhile only the newest counts");
        assert_eq!(writer.trouble(), None);
    }

    #[tokio::test]
    async fn what_waits_for_a_place_that_hangs_is_bounded() {
        let Scene { writer, back, begun, made } = with_one_away();
        writer.put("/away/0", file("0"));
        begun.recv().unwrap();
        let megabyte = "x".repeat(1 << 20);
        for number in 1..=100 {
            writer.put(format!("/away/{number}"), file(&megabyte));
        }
        drop(back);
        writer.flush(Duration::from_secs(30)).await;
        let written = made.lock().unwrap().len();
        assert!((20..=33).contains(&written), "{written}");
        writer.put("/away/later", file("later"));
        writer.flush(Duration::from_secs(30)).await;
        assert_eq!(made.lock().unwrap().len(), written + 1, "there is room again");
    }

    #[tokio::test]
    async fn more_file_systems_than_lanes_share_them() {
        let Scene { writer, back, made, .. } = with_one_away();
        for number in 0..MAX_LANES * 2 {
            writer.put(format!("/{number}/x"), file("x"));
        }
        writer.flush(Duration::from_secs(30)).await;
        assert_eq!(made.lock().unwrap().len(), MAX_LANES * 2);
        assert_eq!(writer.0.each().len(), MAX_LANES + 1);
        drop(back);
    }
}
