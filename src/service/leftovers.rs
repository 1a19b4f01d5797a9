//! What an earlier daemon left: workers that are just dying, and their working files.
//!
//! Workers and all they start die with their service (parent-death signal), but one that hangs on storage
//! takes its time. A job must not be started again before its old worker is really gone. The service
//! does not wait for that to be ready; whatever touches results waits for [`Leftovers::gone`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

/// How long an old worker may take to die by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Knows when nothing of an earlier daemon is in the way any more.
#[derive(Debug, Clone)]
pub struct Leftovers {
    gone: CancellationToken,
}

impl Leftovers {
    /// Ends old workers and clears their working files, beside everything else.
    #[must_use]
    pub fn clear(state_dir: &Path, work_dir: &Path) -> Leftovers {
        let gone = CancellationToken::new();
        // However the task ends, nobody waits for ever.
        let told = gone.clone().drop_guard();
        let (state_dir, work_dir) = (state_dir.to_owned(), work_dir.to_owned());
        tokio::spawn(async move {
            end_old_workers(&state_dir).await;
            let _ = tokio::task::spawn_blocking(move || clear_work(&work_dir)).await;
            drop(told);
        });
        Leftovers { gone }
    }

    /// Returns when results may be touched.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

/// Returns when no worker of an earlier daemon of this state directory is alive any more.
///
/// One that even a kill does not end (its storage is away) is not waited for longer: it holds up all
/// others, and its lock in the output directory keeps a second worker from its files.
async fn end_old_workers(state_dir: &Path) {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let left = tokio::task::spawn_blocking({
            let state_dir = state_dir.to_owned();
            move || old_workers(&state_dir)
        });
        let left = left.await.unwrap_or_default();
        if left.is_empty() {
            if told {
                tracing::info!("the workers of an earlier daemon are gone");
            }
            return;
        }
        if begun.elapsed() > PATIENCE * 2 {
            tracing::warn!(?left, "workers of an earlier daemon do not end and are left behind");
            return;
        }
        if !told {
            told = true;
            tracing::info!(?left, "no job starts before the workers of an earlier daemon have ended");
        }
        if begun.elapsed() > PATIENCE {
            for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Removes what is left of working directories; the jobs make them anew.
fn clear_work(work_dir: &Path) {
    for entry in std::fs::read_dir(work_dir).into_iter().flatten().flatten() {
        let is_a_job = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        if !is_a_job {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
            _ => std::fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), "a leftover could not be removed: {error}");
        }
    }
}

/// Processes of this program, not ourselves, that a daemon of this state directory started.
fn old_workers(state_dir: &Path) -> Vec<i32> {
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != me && works_for(&entry.path(), state_dir) {
            found.extend(i32::try_from(pid));
        }
    }
    found
}

fn works_for(process: &Path, state_dir: &Path) -> bool {
    let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
    // What runs a worker's hooks outlives it by the moment that it takes to end them.
    let is_worker = matches!(arguments.split(|byte| *byte == 0).nth(1), Some(b"worker" | b"hooks"));
    is_worker && logs_below(process, &state_dir.join("logs"))
}

/// Every worker's standard error is its job's log.
fn logs_below(process: &Path, logs: &Path) -> bool {
    std::fs::read_link(process.join("fd/2")).is_ok_and(|path: PathBuf| path.starts_with(logs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_jobs_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["17/tmp", "keep/me", "18"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        clear_work(dir.path());
        assert!(!dir.path().join("17").exists());
        assert!(!dir.path().join("18").exists());
        assert!(dir.path().join("keep/me").exists());
    }

    #[test]
    fn nobody_works_for_a_directory_that_was_just_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(old_workers(dir.path()), Vec::<i32>::new());
    }
}
