//! What an earlier daemon left: workers that are just dying, and their working files.
//!
//! Workers and all they start die with their service (parent-death signal). A job must not be started
//! again before its old worker is really gone, so a new daemon waits for that, and helps.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long an old worker may take to die by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Returns when no worker of an earlier daemon of this state directory is alive any more.
pub async fn end_old_workers(state_dir: &Path) {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let left = tokio::task::spawn_blocking({
            let state_dir = state_dir.to_owned();
            move || old_workers(&state_dir)
        });
        let left = left.await.unwrap_or_default();
        if left.is_empty() || begun.elapsed() > PATIENCE * 2 {
            return;
        }
        if !told {
            told = true;
            tracing::info!(?left, "waiting for workers of an earlier daemon to end");
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
pub fn clear_work(work_dir: &Path) {
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
    let is_worker = arguments.split(|byte| *byte == 0).nth(1) == Some(b"worker");
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
