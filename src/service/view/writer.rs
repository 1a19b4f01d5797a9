//! Puts view files on the disk, from a thread of its own.
//!
//! Only the newest content of a file is ever written. One that cannot be written (a full disk, a
//! network file system that is away) is kept and tried again; that is logged once, and again when
//! it works. Files are replaced atomically, so that a reader never sees half of one; they are not
//! synced, because they are made again after a crash. The scheduler never waits for any of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::model::error::{Error, Result};
use crate::sys::fs;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(2);

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
}

enum Message {
    Put(PathBuf, View),
    Flush(mpsc::Sender<()>),
}

/// Hands files to the thread.
#[derive(Debug, Clone)]
pub struct ViewWriter {
    messages: mpsc::Sender<Message>,
}

impl ViewWriter {
    /// Starts the thread.
    pub fn start() -> Result<ViewWriter> {
        let (messages, inbox) = mpsc::channel();
        thread::Builder::new()
            .name("views".to_owned())
            .spawn(move || serve(&inbox))
            .map_err(|error| Error::internal(format!("cannot start the views' thread: {error}")))?;
        Ok(ViewWriter { messages })
    }

    /// This file is to be like this.
    pub fn put(&self, path: impl Into<PathBuf>, view: View) {
        // The thread ends only with the process.
        let _ = self.messages.send(Message::Put(path.into(), view));
    }

    /// Returns when everything put before has been tried once, or after `limit`.
    pub async fn flush(&self, limit: Duration) {
        let (done, flushed) = mpsc::channel();
        let _ = self.messages.send(Message::Flush(done));
        let _ = tokio::task::spawn_blocking(move || flushed.recv_timeout(limit)).await;
    }
}

fn serve(inbox: &mpsc::Receiver<Message>) {
    let mut waiting: BTreeMap<PathBuf, View> = BTreeMap::new();
    let mut failing: BTreeMap<PathBuf, View> = BTreeMap::new();
    loop {
        let first = if failing.is_empty() {
            inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            inbox.recv_timeout(RETRY)
        };
        let mut flushes = Vec::new();
        match first {
            Ok(message) => {
                take(message, &mut waiting, &mut flushes);
                inbox.try_iter().for_each(|message| take(message, &mut waiting, &mut flushes));
            }
            Err(RecvTimeoutError::Timeout) => {
                for (path, view) in &failing {
                    waiting.entry(path.clone()).or_insert_with(|| view.clone());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for (path, view) in std::mem::take(&mut waiting) {
            match make(&path, &view) {
                Ok(()) => {
                    if failing.remove(&path).is_some() {
                        tracing::info!(path = %path.display(), "written again");
                    }
                }
                Err(error) => {
                    if !failing.contains_key(&path) {
                        tracing::warn!(path = %path.display(), "cannot be written, tried again: {error}");
                    }
                    failing.insert(path, view);
                }
            }
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}

fn take(message: Message, waiting: &mut BTreeMap<PathBuf, View>, flushes: &mut Vec<mpsc::Sender<()>>) {
    match message {
        Message::Put(path, view) => {
            waiting.insert(path, view);
        }
        Message::Flush(done) => flushes.push(done),
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
    }
}

/// Result directories are 0751, so that libvirt's QEMU can pass through them.
fn make_directory_of(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o751).create(fs::parent_of(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> View {
        View::File { bytes: text.as_bytes().to_vec(), mode: 0o644, make_directory: false }
    }

    #[tokio::test]
    async fn the_newest_content_is_on_the_disk_after_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let writer = ViewWriter::start().unwrap();
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
        let writer = ViewWriter::start().unwrap();
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
        let writer = ViewWriter::start().unwrap();
        for to in ["/a", "/a", "/b"] {
            writer.put(&path, View::Link { to: to.into() });
            writer.flush(Duration::from_secs(10)).await;
            assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(to));
        }
    }
}
