//! Whether results of earlier runs are still there: asked outside the queue's thread, and not for ever.
//!
//! The place of a result may be a network file system that is away, where even the question hangs until
//! it is back. So each file system is asked on a thread of its own, and one that does not answer is not
//! asked again before it has: a mount that is away costs one thread, and the next drops one look into a
//! table. What is not known is an error that a later try may mend, never a guess: taking a result for
//! gone would convert its VM again, and taking it for there would leave it out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::places::Place;
use crate::model::error::{Error, Kind, Result};
use crate::service::view::checkpoint::BatchCheckpoint;
use crate::sys::mounts::Mounts;

/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be done where nothing can be found out.
const AGAIN: &str = "see to it that the service can look there; a drop stays where it is and is tried again by itself, \
                     what was submitted has to be submitted again";

/// What has been found out about results, and about the directories that they are put into.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    results: BTreeMap<PathBuf, bool>,
    places: BTreeMap<PathBuf, Place>,
}

impl Known {
    /// Whether a result is there, if that is known.
    #[must_use]
    pub fn is_there(&self, path: &Path) -> Option<bool> {
        self.results.get(path).copied()
    }

    /// What there is in a directory, if that is known.
    #[must_use]
    pub fn place(&self, directory: &Path) -> Option<&Place> {
        self.places.get(directory)
    }

    /// It was seen there, or seen to be missing.
    pub fn learn(&mut self, path: PathBuf, is_there: bool) {
        self.results.insert(path, is_there);
    }

    /// What other hosts have left of a batch, to be kept: once it is ours, our own checkpoints lie where theirs did.
    pub fn left_elsewhere(&self) -> Result<String> {
        let left = self.places.iter().filter_map(|(directory, place)| Some((directory, place.checkpoint()?)));
        let left: BTreeMap<&PathBuf, &BatchCheckpoint> = left.collect();
        serde_json::to_string(&left).map_err(|error| Error::internal(error.to_string()))
    }

    /// What was kept so counts, whatever lies there by now. What an earlier version has kept says nothing.
    pub fn remember(&mut self, kept: &str) {
        let left: BTreeMap<PathBuf, BatchCheckpoint> = serde_json::from_str(kept).unwrap_or_default();
        self.places.extend(left.into_iter().map(|(directory, left)| (directory, Place::left(left))));
    }

    /// A directory was looked at.
    pub(super) fn learn_place(&mut self, directory: PathBuf, place: Place) {
        self.places.insert(directory, place);
    }
}

/// Looks at one path; hangs as long as its file system does.
type Look = dyn Fn(&Path) -> io::Result<bool> + Send + Sync;

/// The file systems that are being asked, and since when.
#[derive(Debug, Default)]
struct Asked {
    since: Mutex<BTreeMap<PathBuf, Instant>>,
    answered: Condvar,
}

/// Asks file systems for results. Clones share what they know of those that do not answer.
#[derive(Clone)]
pub struct Results {
    look: Arc<Look>,
    patience: Duration,
    asked: Arc<Asked>,
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results").field("patience", &self.patience).field("asked", &self.asked).finish()
    }
}

impl Default for Results {
    fn default() -> Results {
        Results::with(look, PATIENCE)
    }
}

impl Results {
    /// Asks by another way than looking, and waits this long for each answer.
    pub fn with(
        look: impl Fn(&Path) -> io::Result<bool> + Send + Sync + 'static,
        patience: Duration,
    ) -> Results {
        Results { look: Arc::new(look), patience, asked: Arc::default() }
    }

    /// Finds out which of these are there. Blocks, but never longer than until a file system gives no
    /// sign of life: then it is an error that is worth another try.
    pub fn find_out(&self, paths: &BTreeSet<PathBuf>, known: &mut Known) -> Result<()> {
        let mounts = Mounts::read()
            .map_err(|error| Error::internal(format!("the table of mounts cannot be read: {error}")))?;
        self.find_out_by(paths, known, &|path: &Path| mounts.of(path))
    }

    fn find_out_by(
        &self,
        paths: &BTreeSet<PathBuf>,
        known: &mut Known,
        place: &dyn Fn(&Path) -> PathBuf,
    ) -> Result<()> {
        let mut by_place: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for path in paths {
            by_place.entry(place(path)).or_default().push(path.clone());
        }
        let asked: Vec<_> = by_place
            .into_iter()
            .map(|(place, paths)| (self.ask(&place, paths.clone()), place, paths))
            .collect();
        for (answers, place, paths) in asked {
            let answers = answers?;
            for path in paths {
                match answers.recv_timeout(self.patience) {
                    Ok(Ok(is_there)) => known.learn(path, is_there),
                    Ok(Err(error)) => return Err(cannot_tell(&path, &error)),
                    Err(_) => return Err(no_answer(&place)),
                }
            }
        }
        Ok(())
    }

    /// Asks one file system, on a thread that ends when it has answered.
    fn ask(&self, place: &Path, paths: Vec<PathBuf>) -> Result<mpsc::Receiver<io::Result<bool>>> {
        if !self.asked.begin(place, self.patience) {
            return Err(no_answer(place));
        }
        let (answer, answers) = mpsc::channel();
        let (look, asked, of_thread) = (Arc::clone(&self.look), Arc::clone(&self.asked), place.to_owned());
        let started = thread::Builder::new().name("results".to_owned()).spawn(move || {
            for path in paths {
                // Whoever asked may have lost patience: then this only finds out when it answers again.
                if answer.send(look(&path)).is_err() {
                    break;
                }
            }
            asked.end(&of_thread);
        });
        started.map_err(|error| {
            self.asked.end(place);
            Error::internal(format!("cannot start a thread: {error}")).transient()
        })?;
        Ok(answers)
    }
}

impl Asked {
    /// Waits until nobody else asks there; false where that one waits for an answer itself.
    fn begin(&self, place: &Path, patience: Duration) -> bool {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(began) = since.get(place) {
            let Some(left) = patience.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
                return false;
            };
            since = self.answered.wait_timeout(since, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        since.insert(place.to_owned(), Instant::now());
        true
    }

    fn end(&self, place: &Path) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).remove(place);
        self.answered.notify_all();
    }
}

fn look(path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn no_answer(place: &Path) -> Error {
    Error::new(
        Kind::Output,
        format!("{} does not answer, and results of earlier runs lie there", place.display()),
    )
    .transient()
    .advice(AGAIN)
}

fn cannot_tell(path: &Path, error: &io::Error) -> Error {
    Error::io(Kind::Output, "look for the result of an earlier run at", path, error).transient().advice(AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[&str]) -> BTreeSet<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    /// `/away/x` lies on `/away`.
    fn first_step(path: &Path) -> PathBuf {
        path.components().take(2).collect()
    }

    /// A file system `/away` that hangs until the sender is dropped.
    fn with_one_away() -> (Results, mpsc::Sender<()>, Arc<Mutex<u32>>) {
        let (back, away) = mpsc::channel::<()>();
        let (away, looks) = (Mutex::new(away), Arc::new(Mutex::new(0)));
        let counted = Arc::clone(&looks);
        let look = move |path: &Path| {
            if path.starts_with("/away") {
                *counted.lock().unwrap() += 1;
                let _ = away.lock().unwrap().recv();
            }
            Ok(true)
        };
        (Results::with(look, Duration::from_secs(1)), back, looks)
    }

    #[test]
    fn what_is_there_and_what_is_gone_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let [there, gone] = ["there", "gone"].map(|name| dir.path().join(name));
        std::fs::write(&there, "").unwrap();
        let below_a_file = there.join("x");
        let all = BTreeSet::from([there.clone(), gone.clone(), below_a_file.clone()]);
        let mut known = Known::default();
        Results::default().find_out(&all, &mut known).unwrap();
        assert_eq!(
            [there, gone, below_a_file].map(|path| known.is_there(&path)),
            [Some(true), Some(false), Some(false)]
        );
        assert_eq!(known.is_there(Path::new("/another")), None);
    }

    #[test]
    fn a_file_system_that_is_away_is_an_error_for_another_try_and_costs_one_thread() {
        let (results, back, looks) = with_one_away();
        let mut known = Known::default();
        for _ in 0..3 {
            let error =
                results.find_out_by(&paths(&["/away/a", "/away/b"]), &mut known, &first_step).unwrap_err();
            assert_eq!(error.kind(), Kind::Output);
            assert_eq!(error.disposition(), crate::model::error::Disposition::Transient);
            assert!(error.to_string().contains("/away does not answer"), "{error}");
        }
        assert_eq!(*looks.lock().unwrap(), 1);
        results.find_out_by(&paths(&["/here/x"]), &mut known, &first_step).unwrap();
        assert_eq!(known, Known { results: BTreeMap::from([("/here/x".into(), true)]), ..Known::default() });
        drop(back);
        let deadline = Instant::now() + Duration::from_secs(30);
        while results.find_out_by(&paths(&["/away/a"]), &mut known, &first_step).is_err() {
            assert!(Instant::now() < deadline, "it is back and not asked again");
        }
        assert_eq!(known.is_there(Path::new("/away/a")), Some(true));
    }

    #[test]
    fn two_who_ask_one_file_system_at_a_time_are_both_answered() {
        let slow = |_: &Path| {
            thread::sleep(Duration::from_millis(20));
            Ok(true)
        };
        let results = Results::with(slow, Duration::from_secs(30));
        thread::scope(|scope| {
            for path in ["/here/a", "/here/b", "/here/c"] {
                let results = results.clone();
                scope.spawn(move || {
                    let mut known = Known::default();
                    results.find_out_by(&paths(&[path]), &mut known, &first_step).unwrap();
                    assert_eq!(known.is_there(Path::new(path)), Some(true));
                });
            }
        });
    }

    #[test]
    fn a_result_that_cannot_be_looked_at_is_not_taken_for_gone() {
        let refuse = |_: &Path| Err(io::ErrorKind::PermissionDenied.into());
        let error = Results::with(refuse, PATIENCE)
            .find_out_by(&paths(&["/here/x"]), &mut Known::default(), &first_step)
            .unwrap_err();
        assert!(error.to_string().contains("/here/x"), "{error}");
        assert_eq!(error.disposition(), crate::model::error::Disposition::Transient);
    }
}
