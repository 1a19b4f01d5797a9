//! The texts beside a result: `domain.xml`, the report's pages for people, and `report.json`, which is the last.
//!
//! All of them stand in the intent that publishing carries out, so a worker that dies in between finds what it was to write. With the digests
//! come a second report and second pages; there, too, the report is replaced last: as long as it is the first one, the pages are not all
//! known to be the second ones. What is not here: what the texts say.

use std::io;

use super::checkpoint::{Digests, Intent};
use super::directories::Directories;
use super::publish::{self, FILE_MODE, exists, failed};
use crate::model::error::Result;
use crate::sys::dir::Dir;
use crate::sys::failpoint;

/// Writes those that are not there yet, the report last.
pub(super) fn put(dirs: Directories<'_>, intent: &Intent) -> Result<()> {
    let dir = dirs.main();
    let mut anything = false;
    for (name, content) in before_report(intent) {
        if !is_there(dir, intent, name, content)? {
            if intent.replace {
                dir.remove(name).map_err(failed("replace", dir, name))?;
            }
            write(dirs, intent, name, content)?;
            failpoint::hit("publish.after-text");
            anything = true;
        }
    }
    let is_reported = is_reported(dir, intent)?;
    if anything || !is_reported {
        // What a worker that died here has left may not be durable.
        dir.sync().map_err(failed("make durable", dir, "."))?;
    }
    if let Some((name, content)) = &intent.report
        && !is_reported
    {
        failpoint::hit("publish.before-report");
        write(dirs, intent, name, content)?;
        dir.sync().map_err(failed("make durable", dir, name))?;
        failpoint::hit("publish.after-report");
    }
    Ok(())
}

fn before_report(intent: &Intent) -> impl Iterator<Item = (&String, &String)> {
    let texts = intent.domain.iter().chain(&intent.pages);
    texts.map(|(name, content)| (name, content))
}

fn write(dirs: Directories<'_>, intent: &Intent, name: &str, content: &str) -> Result<()> {
    let dir = dirs.main();
    let partial = format!(".{name}.partial");
    dir.write_fresh(&partial, content.as_bytes(), FILE_MODE).map_err(failed("write", dir, &partial))?;
    match dir.rename_noreplace(&partial, name) {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = dir.remove(&partial);
            if error.kind() == io::ErrorKind::AlreadyExists {
                publish::take_back(dirs, intent);
                return Err(exists(dir, name));
            }
            Err(failed("publish", dir, name)(error))
        }
    }
}

/// Whether the report is there, with the digests or without.
pub(super) fn is_reported(dir: &Dir, intent: &Intent) -> Result<bool> {
    intent.report.as_ref().map_or(Ok(true), |(name, content)| is_there(dir, intent, name, content))
}

/// Whether one of them is there already.
pub(super) fn have_begun(dir: &Dir, intent: &Intent) -> Result<bool> {
    for (name, content) in before_report(intent) {
        if is_there(dir, intent, name, content)? {
            return Ok(true);
        }
    }
    Ok(intent.report.is_some() && is_reported(dir, intent)?)
}

/// Whether all of them are.
pub(super) fn are_there(dir: &Dir, intent: &Intent) -> Result<bool> {
    for (name, content) in before_report(intent) {
        if !is_there(dir, intent, name, content)? {
            return Ok(false);
        }
    }
    is_reported(dir, intent)
}

/// Whether a text is there, as it was first or with the digests.
fn is_there(dir: &Dir, intent: &Intent, name: &str, content: &str) -> Result<bool> {
    let second = match &intent.digests {
        Digests::Made { report, pages } => match &intent.report {
            Some((report_name, _)) if report_name == name => report.as_deref(),
            _ => pages.iter().find(|(page, _)| page == name).map(|(_, text)| text.as_str()),
        },
        _ => None,
    };
    Ok(is_written(dir, name, content)? || second.map_or(Ok(false), |text| is_written(dir, name, text))?)
}

/// The report that marked the result as complete gives way to the same one with the digests, unless somebody took it away; its pages before it.
pub(super) fn replace(dir: &Dir, intent: &Intent) -> Result<()> {
    let Digests::Made { report: Some(report), pages } = &intent.digests else { return Ok(()) };
    let Some((name, first)) = &intent.report else { return Ok(()) };
    if !is_written(dir, name, first)? {
        return Ok(());
    }
    for ((page, first), (_, second)) in intent.pages.iter().zip(pages) {
        if is_written(dir, page, first)? {
            replace_one(dir, page, second)?;
            failpoint::hit("publish.between-reports");
        }
    }
    dir.sync().map_err(failed("make durable", dir, "."))?;
    replace_one(dir, name, report)?;
    dir.sync().map_err(failed("make durable", dir, name))
}

fn replace_one(dir: &Dir, name: &str, text: &str) -> Result<()> {
    let partial = format!(".{name}.partial");
    dir.write_fresh(&partial, text.as_bytes(), FILE_MODE)
        .and_then(|()| dir.rename_over(&partial, name))
        .map_err(failed("replace", dir, name))
}

/// Takes away those that come before the report, as far as they are ours.
pub(super) fn take_back(dir: &Dir, intent: &Intent) {
    for (name, content) in before_report(intent) {
        if matches!(is_there(dir, intent, name, content), Ok(true))
            && let Err(error) = dir.remove(name)
        {
            tracing::warn!(file = name, %error, "cannot take a published file back");
        }
    }
}

fn is_written(dir: &Dir, name: &str, content: &str) -> Result<bool> {
    match dir.entry(name).map_err(failed("look for", dir, name))? {
        Some(entry) if entry.is_file && entry.size == content.len() as u64 => {
            let there = dir.read(name, entry.size).map_err(failed("read", dir, name))?;
            Ok(there.as_deref() == Some(content.as_bytes()))
        }
        _ => Ok(false),
    }
}
