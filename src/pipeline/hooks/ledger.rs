//! Which hooks of a VM were started and which have ended: what decides, after a crash, what runs again.
//!
//! ```text
//!   recorded: started for the nth time ─▶ it runs ─▶ recorded: how it ended
//! ```
//!
//! Both records are durable before anything else is done. A hook that was cut between them runs again, and hears that this is not its first time
//! (`H2K_ATTEMPT`); one whose end is recorded does not. A machine that dies between the end and its record runs it once more: whoever writes a hook
//! is told so. It is a file of its own beside the journal, because hooks that run beside a stage write it while that is at work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::model::error::{Error, Kind, Result};
use crate::model::hook::{HookRun, PlannedHook};
use crate::model::manifest::HookStage;
use crate::model::plan::Plan;
use crate::pipeline::checkpoint::fingerprint;
use crate::sys::dir::Dir;
use crate::sys::failpoint;

/// An unknown version counts as none: its hooks run again.
const VERSION: u32 = 1;
const LIMIT_BYTES: u64 = 4 << 20;
/// Nobody but us has to read it.
const MODE: u32 = 0o600;

/// The name of a VM's ledger.
#[must_use]
pub(in crate::pipeline) fn ledger_name(vm_id: &str) -> String {
    format!(".{vm_id}.hooks.journal")
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Pages {
    version: u32,
    plan_sha256: String,
    /// By stage and number.
    hooks: BTreeMap<String, Record>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    started: u32,
    run: Option<HookRun>,
}

/// The ledger of one VM. Clones are the same one.
#[derive(Debug, Clone)]
pub(in crate::pipeline) struct Ledger {
    dir: Arc<Dir>,
    name: String,
    pages: Arc<Mutex<Pages>>,
}

impl Ledger {
    /// What earlier attempts of this plan recorded.
    pub(in crate::pipeline) fn open(dir: &Dir, plan: &Plan) -> Result<Ledger> {
        let name = ledger_name(&plan.vm_id);
        let path = dir.path().join(&name);
        let failed = |error: std::io::Error| {
            Error::io(Kind::Output, "read the record of hooks", &path, &error)
                .advice("remove it to run all hooks again")
        };
        let dir = Arc::new(dir.try_clone().map_err(failed)?);
        let found = match plan.hooks.is_empty() {
            true => None,
            false => dir.read(&name, LIMIT_BYTES).map_err(failed)?,
        };
        let plan_sha256 = fingerprint(plan);
        let pages = found
            .and_then(|bytes| serde_json::from_slice::<Pages>(&bytes).ok())
            .filter(|pages| pages.version == VERSION && pages.plan_sha256 == plan_sha256)
            .unwrap_or_else(|| Pages { version: VERSION, plan_sha256, hooks: BTreeMap::new() });
        Ok(Ledger { dir, name, pages: Arc::new(Mutex::new(pages)) })
    }

    /// How a hook ended, if it did.
    pub(in crate::pipeline) fn run_of(&self, hook: &PlannedHook) -> Option<HookRun> {
        self.lock().hooks.get(&key(hook)).and_then(|record| record.run.clone())
    }

    /// Records that a hook is about to be started, and says which time that is.
    pub(super) fn start(&self, hook: &PlannedHook) -> Result<u32> {
        failpoint::hit("hooks.before-start");
        let started = self.change(|pages| {
            let record = pages.hooks.entry(key(hook)).or_default();
            record.started = record.started.saturating_add(1);
            record.run = None;
            record.started
        })?;
        failpoint::hit("hooks.after-start");
        Ok(started)
    }

    /// Records how it ended.
    pub(super) fn end(&self, hook: &PlannedHook, run: &HookRun) -> Result<()> {
        failpoint::hit("hooks.before-end");
        self.change(|pages| pages.hooks.entry(key(hook)).or_default().run = Some(run.clone()))?;
        failpoint::hit("hooks.after-end");
        Ok(())
    }

    /// Hooks of these stages run again.
    pub(in crate::pipeline) fn forget(&self, stages: &[HookStage]) -> Result<()> {
        let is_of = |key: &str| stages.iter().any(|stage| key.split('/').next() == Some(stage.name()));
        if !self.lock().hooks.iter().any(|(key, record)| is_of(key) && record.run.is_some()) {
            return Ok(());
        }
        self.change(|pages| {
            pages.hooks.iter_mut().filter(|(key, _)| is_of(key)).for_each(|(_, record)| record.run = None);
        })
    }

    /// Whether a next attempt could go on from it.
    pub(in crate::pipeline) fn says_something(&self) -> bool {
        let of_failure = HookStage::OnFailure.name();
        self.lock().hooks.keys().any(|key| key.split('/').next() != Some(of_failure))
    }

    /// Its name in the result directory.
    pub(in crate::pipeline) fn name(&self) -> &str {
        &self.name
    }

    fn change<T>(&self, change: impl FnOnce(&mut Pages) -> T) -> Result<T> {
        let mut pages = self.lock();
        let done = change(&mut pages);
        let bytes = serde_json::to_vec(&*pages)
            .map_err(|error| Error::internal(format!("the record of hooks cannot be written: {error}")))?;
        self.dir.replace(&self.name, &bytes, MODE).map_err(|error| {
            Error::io(Kind::Output, "write the record of hooks", &self.dir.path().join(&self.name), &error)
        })?;
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(hook: &PlannedHook) -> String {
    format!("{}/{}", hook.stage.name(), hook.number)
}
