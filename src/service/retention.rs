//! What is removed when it is old: the history of ended batches with their progress files, logs, and
//! partial results of failed jobs. Results, and drops that were put away, are never touched.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::passwords;
use super::places::{batch_directory, where_it_lies};
use super::queue::{BatchRow, JobRow, QueueHandle};
use crate::model::api::Pruned;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::Plan;
use crate::pipeline::host_lock::Holds;
use crate::pipeline::publish;
use crate::sys::fs::allocated_bytes;
use crate::sys::time::now_epoch;

/// Removes (or with `dry_run` only counts) what the settings let go.
pub async fn prune(queue: &QueueHandle, settings: &Settings, holds: &Holds, dry_run: bool) -> Result<Pruned> {
    let now = now_epoch();
    let mut pruned = Pruned { dry_run, ..Pruned::default() };
    let before = now - settings.retention.failed_partial_s;
    prune_partials(queue, before, (holds, &settings.output_dir), &mut pruned).await?;
    let layout = settings.layout();
    let busy: Vec<String> =
        queue.with(|db| db.unfinished_batches()).await?.into_iter().map(|batch| batch.batch_id).collect();
    let logs = (layout.logs(), settings.retention.logs_s);
    let (count, bytes) = off_thread(move || prune_logs(&logs.0, logs.1, &busy, dry_run)).await?;
    pruned.logs += count;
    pruned.bytes += bytes;
    if !dry_run {
        let kept = layout.passwords();
        queue.with(move |db| passwords::forget(db, &kept)).await?;
    }
    let before = now - settings.retention.history_s;
    let batches = queue.with(move |db| db.prune(before, dry_run)).await?;
    pruned.batches = batches.len() as u64;
    let files: Vec<PathBuf> = batches
        .iter()
        .filter(|batch| batch.last_of_batch)
        .map(|batch| layout.batch_progress(&batch.batch_id))
        .collect();
    pruned.bytes += off_thread(move || files.iter().map(|path| remove(path, dry_run)).sum::<u64>()).await?;
    Ok(pruned)
}

async fn prune_partials(
    queue: &QueueHandle,
    before: f64,
    (holds, output_dir): (&Holds, &Path),
    pruned: &mut Pruned,
) -> Result<()> {
    let dry_run = pruned.dry_run;
    let old: Vec<(JobRow, Option<BatchRow>, Plan)> = queue
        .with(move |db| {
            let rows = db.jobs_with_old_partials(before)?;
            let each = |row: JobRow| {
                let (run, plan) = (db.batch_run(row.batch_key)?, db.plan(row.job_id)?);
                Ok((row, run, plan))
            };
            rows.into_iter().map(each).collect()
        })
        .await?;
    for (row, run, plan) in old {
        let (job, batch_id) = (row.job_id, row.batch_id);
        let above = run.map(|run| batch_directory(output_dir, &run)).unwrap_or_default();
        let holds = holds.clone();
        let removed = off_thread(move || {
            let found = partials(&plan);
            if dry_run {
                return Some((found, None));
            }
            let abandon = || publish::abandon(&plan, Some(holds.who().id()));
            let acts = publish::acts(&plan, job);
            match where_it_lies(&holds, (&batch_id, &above), &plan, abandon) {
                Ok(()) => Some((found, acts)),
                Err(error) if error.kind() == Kind::Exists => {
                    tracing::info!(job, batch = batch_id, vm = plan.vm_id, %error, "its partial results stay");
                    Some(((0, 0), None))
                }
                Err(error) => {
                    let (batch, vm) = (&batch_id, &plan.vm_id);
                    tracing::warn!(job, batch, vm, %error, "its partial results could not be removed; tried again next time");
                    None
                }
            }
        })
        .await?;
        let Some(((count, bytes), acts)) = removed else { continue };
        pruned.partials += count;
        pruned.bytes += bytes;
        if !dry_run {
            // The journal is gone: from here on only the queue knows.
            queue
                .with(move |db| {
                    acts.map_or(Ok(()), |acts| db.add_acts(job, &acts))?;
                    db.partials_removed(job)
                })
                .await?;
        }
    }
    Ok(())
}

/// The partial results of a plan that are there: how many, and how many bytes.
fn partials(plan: &Plan) -> (u64, u64) {
    publish::partials(plan)
        .iter()
        .filter_map(|path| std::fs::symlink_metadata(path).ok())
        .fold((0, 0), |(count, bytes), metadata| (count + 1, bytes + allocated_bytes(&metadata)))
}

/// Logs of batches that are not at work, by the time of their last line.
fn prune_logs(logs: &Path, keep_s: f64, busy: &[String], dry_run: bool) -> (u64, u64) {
    let keep = Duration::try_from_secs_f64(keep_s).unwrap_or(Duration::MAX);
    let Some(before) = SystemTime::now().checked_sub(keep) else { return (0, 0) };
    let (mut count, mut bytes) = (0, 0);
    for batch in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        if busy.iter().any(|id| batch.file_name() == id.as_str()) {
            continue;
        }
        for log in std::fs::read_dir(batch.path()).into_iter().flatten().flatten() {
            let is_old = log.metadata().and_then(|m| m.modified()).is_ok_and(|modified| modified < before);
            if is_old {
                count += 1;
                bytes += remove(&log.path(), dry_run);
            }
        }
        if !dry_run {
            // Goes only if it is empty.
            let _ = std::fs::remove_dir(batch.path());
        }
    }
    (count, bytes)
}

/// Removes a file; answers what it occupied.
fn remove(path: &Path, dry_run: bool) -> u64 {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    if !dry_run && let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), "cannot be removed: {error}");
        return 0;
    }
    allocated_bytes(&metadata)
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::internal("removing old things broke off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_logs_of_batches_at_rest_go() {
        let dir = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_secs(1000);
        for (path, is_old) in [
            ("done/vm.1.log", true),
            ("done/vm.2.log", false),
            ("busy/vm.1.log", true),
            ("gone/vm.1.log", true),
        ] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "x").unwrap();
            if is_old {
                std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
            }
        }
        let busy = ["busy".to_owned()];
        assert_eq!(prune_logs(dir.path(), 500.0, &busy, true).0, 2);
        assert!(dir.path().join("gone/vm.1.log").exists(), "a dry run removes nothing");
        assert_eq!(prune_logs(dir.path(), 500.0, &busy, false).0, 2);
        assert!(!dir.path().join("gone").exists());
        assert!(dir.path().join("done/vm.2.log").exists());
        assert!(dir.path().join("busy/vm.1.log").exists());
    }
}
