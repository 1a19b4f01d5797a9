//! The worker's end of the process that runs its hooks.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wire::{Bounds, Call, Command, Ended, Event};
use crate::disk::Control;
use crate::model::error::{Error, Kind, Result};

/// How soon a command reaches a hook.
const TICK: Duration = Duration::from_millis(100);
/// How long the process may take to end what it runs.
const FAREWELL: Duration = Duration::from_secs(10);

/// A running `hyper2kvm hooks`. Dropping it ends that, with all that it runs.
#[derive(Debug)]
pub(in crate::pipeline) struct Host {
    child: Child,
    orders: Mutex<Option<ChildStdin>>,
    waiting: Waiting,
    next: AtomicU64,
    listener: Option<JoinHandle<()>>,
}

type Waiting = Arc<Mutex<BTreeMap<u64, Sender<Event>>>>;

impl Host {
    /// Starts it: this program again, which is not confined as the caller is about to be.
    pub(in crate::pipeline) fn start(program: &Path) -> Result<Host> {
        let failed = |error: std::io::Error| {
            Error::internal(format!("the process for hooks cannot be started: {error}")).transient()
        };
        let mut child = std::process::Command::new(program)
            .arg0("hyper2kvm")
            .arg("hooks")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not in the worker's group: it has to outlive a kill of that, to end what it runs.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (orders, heard) = (child.stdin.take(), child.stdout.take());
        let waiting = Waiting::default();
        let listener = heard
            .map(|heard| {
                let waiting = Arc::clone(&waiting);
                std::thread::Builder::new().name("hooks".to_owned()).spawn(move || listen(heard, &waiting))
            })
            .transpose()
            .map_err(failed)?;
        Ok(Host { child, orders: Mutex::new(orders), waiting, next: AtomicU64::new(1), listener })
    }

    /// One attempt of a hook, to its end. Its output goes to `say`; what `control` is told reaches it.
    pub(super) fn attempt(
        &self,
        call: Call,
        bounds: Bounds,
        control: &Control,
        say: &mut dyn FnMut(&str),
    ) -> Result<Ended> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, heard) = mpsc::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, tell);
        self.order(&Command::Run { id, call: Box::new(call), bounds })?;
        let (mut paused, mut killed) = (false, false);
        loop {
            match heard.recv_timeout(TICK) {
                Ok(Event::Said { line, .. }) => say(&line),
                // One that ended well before it heard of it has ended well.
                Ok(Event::Ended { ended, .. }) if killed && !ended.success => return Err(cut()),
                Ok(Event::Ended { ended, .. }) => return Ok(ended),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(lost()),
            }
            if control.interruption().is_some() && !killed {
                killed = true;
                self.order(&Command::Kill { id })?;
            }
            if control.is_paused() != paused {
                paused = !paused;
                self.order(&if paused { Command::Pause { id } } else { Command::Resume { id } })?;
            }
        }
    }

    fn order(&self, command: &Command) -> Result<()> {
        let mut line = serde_json::to_vec(command)
            .map_err(|error| Error::internal(format!("a hook cannot be described: {error}")))?;
        line.push(b'\n');
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        match orders.as_mut().map(|orders| orders.write_all(&line)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => Err(lost()),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
        let begun = Instant::now();
        // Our sandbox does not let us kill it; losing its input ends it.
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > FAREWELL {
                tracing::warn!("the process for hooks does not end");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn listen(heard: ChildStdout, waiting: &Waiting) {
    for line in BufReader::new(heard).lines() {
        let Ok(line) = line else { break };
        let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, last) = match &event {
            Event::Said { id, .. } => (*id, false),
            Event::Ended { id, .. } => (*id, true),
        };
        if let Some(tell) = waiting.get(&id) {
            let _ = tell.send(event);
        }
        if last {
            waiting.remove(&id);
        }
    }
    // Whoever still waits hears that nobody will answer.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Told to stop or cancel.
pub(super) fn cut() -> Error {
    Error::new(Kind::Cancelled, "a hook was cut")
}

fn lost() -> Error {
    Error::internal("the process that runs hooks has ended").advice("it is tried again").transient()
}
