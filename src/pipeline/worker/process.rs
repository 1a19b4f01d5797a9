//! The worker as a process: its pipes, its signals, its sandbox.
//!
//! The order and then commands come in on standard input, events go out on standard output, words
//! for people go to standard error. In this order, because each step closes a door that the one
//! before still needed: die with the parent; read the order; make the directories; close the
//! sandbox; only then start threads (they inherit it) and open anything that others have made. The work
//! itself runs on the main thread, because children die with the thread that started them. What is
//! not here: the work.

use std::io::{BufRead, BufReader, Read, Stdin, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::{Bench, asking, failed, settling, work};
use crate::disk::{Control, Fence as _};
use crate::model::error::{Error, Result};
use crate::model::protocol::{WorkOrder, WorkerCommand, WorkerEvent, WorkerOutcome};
use crate::pipeline::host_lock::HostFence;
use crate::pipeline::publish;
use crate::pipeline::remote::Access;
use crate::pipeline::workplace::Workplace;
use crate::sys::failpoint;
use crate::sys::lines;
use crate::sys::lines::fold::{Fold, WINDOW};
use crate::sys::sandbox::{self, Enforcement, Rules};
use crate::sys::secret;
use crate::sys::time::now_epoch;

/// A plan of a thousand disks fits in this.
const ORDER_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Something is told at least this often, also while a child says nothing or all stands still.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often it is looked whether this host still has the directory, whatever is done there.
const LOCK_LOOK: Duration = Duration::from_secs(1);
/// The exit code where not even an outcome could be told.
const NO_OUTCOME: u8 = 70;
/// How willingly the kernel ends a worker and its children when memory is short: before the service.
const OOM_SCORE_ADJ: &str = "300";

/// The hidden subcommand `worker`.
#[must_use]
pub fn process_main() -> ExitCode {
    if let Err(why) = die_with_parent() {
        eprintln!("hyper2kvm worker: {why}");
        return ExitCode::from(NO_OUTCOME);
    }
    // It is about to read passwords and passphrases.
    if let Err(error) = secret::leave_no_core() {
        eprintln!("hyper2kvm worker: its secrets may be in what is left of it if it dies: {error}");
    }
    let mut input = BufReader::new(std::io::stdin());
    let order = match read_order(&mut input) {
        Ok(order) => order,
        Err(error) => {
            let told = EventLine::new().tell(&WorkerEvent::Finished(failed(error)));
            return if told { ExitCode::SUCCESS } else { ExitCode::from(NO_OUTCOME) };
        }
    };
    let fold = start_logging(&order);
    let code = carry_out(&order, input);
    fold.finish();
    code
}

fn carry_out(order: &WorkOrder, input: BufReader<Stdin>) -> ExitCode {
    let events = EventLine::new();
    if let Some(settle) = order.settle {
        return alone(order, input, &events, &|access, control, emit| {
            settling::settle(order, settle, access, control, emit)
        });
    }
    if order.plan.is_to_be_described() {
        return alone(order, input, &events, &|access, control, emit| {
            asking::ask(order, access, control, emit)
        });
    }
    let (recorded, outcome) = match prepare(order, &events) {
        Err(error) => (None, failed(error)),
        Ok(place) => {
            let control = Control::new();
            // Before anybody is heard who may know better.
            control.limit_reading(order.limits.reading);
            let recorded = listen(input, &control, &events);
            obey_signals(&control);
            if let Some(fence) = place.fence.clone() {
                watch_the_lock(fence, &control);
            }
            keep_beating(&events);
            let mut emit = |event: WorkerEvent| {
                if !events.tell(&event) {
                    // Nobody hears us any more.
                    control.stop();
                }
            };
            let outcome = work(&place, &Bench::default(), order, &control, &mut emit);
            place.clear();
            (Some(recorded), outcome)
        }
    };
    failpoint::hit("worker.before-finished");
    let succeeded = matches!(outcome, WorkerOutcome::Succeeded(_));
    if !events.tell(&WorkerEvent::Finished(outcome)) {
        return ExitCode::from(NO_OUTCOME);
    }
    if succeeded && let Some(recorded) = recorded
        // An error means that the other end is gone: it may not have recorded anything.
        && recorded.recv().is_ok()
        && let Err(error) = publish::forget(&order.plan, order.limits.lock.clone())
    {
        tracing::warn!(%error, "the journal of a published result stays");
    }
    ExitCode::SUCCESS
}

/// Work with a server alone, for which nothing is written here.
type Lone<'w> = &'w dyn Fn(&Access, &Control, &mut dyn FnMut(WorkerEvent)) -> WorkerOutcome;

/// Nobody but a server is needed: that is all the work.
fn alone(order: &WorkOrder, input: BufReader<Stdin>, events: &EventLine, work: Lone<'_>) -> ExitCode {
    let prepared = asking::prepare(order).and_then(|access| {
        confine(&asking::rules(order, &access), events)?;
        Ok(access)
    });
    let outcome = match prepared {
        Err(error) => failed(error),
        Ok(access) => {
            let control = Control::new();
            // That its outcome was recorded is nothing that it waits for.
            drop(listen(input, &control, events));
            obey_signals(&control);
            keep_beating(events);
            let mut emit = |event: WorkerEvent| {
                if !events.tell(&event) {
                    control.stop();
                }
            };
            work(&access, &control, &mut emit)
        }
    };
    match events.tell(&WorkerEvent::Finished(outcome)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(NO_OUTCOME),
    }
}

/// Makes the directories and closes the sandbox. From here on nothing can be opened that the order does not name.
fn prepare(order: &WorkOrder, events: &EventLine) -> Result<Workplace> {
    let place = Workplace::prepare(order, &Bench::default().launcher)?;
    confine(&place.rules(order), events)?;
    Ok(place)
}

/// Closes the sandbox.
fn confine(rules: &Rules, events: &EventLine) -> Result<()> {
    match sandbox::apply(rules) {
        Ok(Enforcement::Nothing) => {
            events.tell(&WorkerEvent::Warning {
                stage: None,
                message: "this machine has no landlock: the worker runs without its sandbox".to_owned(),
            });
        }
        Ok(enforcement) => tracing::info!(?enforcement, "sandbox closed"),
        Err(error) => {
            return Err(Error::internal(format!("the worker's sandbox cannot be applied: {error}"))
                .advice(
                    "see `hyper2kvm doctor`; in a service unit the landlock system calls have to be allowed",
                )
                .permanent());
        }
    }
    Ok(())
}

/// Asks the kernel to end us with our parent, and makes sure that it has not ended already.
fn die_with_parent() -> std::result::Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot bind its life to its parent's: {error}"))?;
    let expected =
        std::env::args().find_map(|argument| argument.strip_prefix("--parent=")?.parse::<i32>().ok());
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    match expected {
        None => Err("it is started by the service, not by hand; use `hyper2kvm convert`".to_owned()),
        Some(expected) if Some(expected) != parent => Err("its parent has ended".to_owned()),
        Some(_) => {
            // Best effort: where it is not allowed, the kernel's own choice is good enough.
            let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
            Ok(())
        }
    }
}

/// Every line of this process is about this one job, and says so.
fn start_logging(order: &WorkOrder) -> Fold {
    let level = EnvFilter::try_from_env("HYPER2KVM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let bound = vec![
        ("job", order.job_id.into()),
        ("batch", order.batch_id.as_str().into()),
        ("vm", order.plan.vm_id.as_str().into()),
    ];
    let fold = Fold::new(WINDOW);
    let text = lines::text(std::io::stderr, &bound, false, false, now_epoch);
    let _ = tracing_subscriber::registry().with(fold.over(text).with_filter(level)).try_init();
    fold
}

fn read_order(input: &mut BufReader<Stdin>) -> Result<WorkOrder> {
    let mut line = Vec::new();
    input
        .by_ref()
        .take(ORDER_LIMIT_BYTES)
        .read_until(b'\n', &mut line)
        .map_err(|error| Error::internal(format!("the work order cannot be read: {error}")))?;
    serde_json::from_slice(&line)
        .map_err(|error| Error::internal(format!("the work order cannot be understood: {error}")))
}

/// Hears commands until there is nobody left to give them, which is a command to stop.
///
/// The receiver hears once when the outcome has been recorded; it is cut off with the input.
fn listen(mut input: BufReader<Stdin>, control: &Control, events: &EventLine) -> mpsc::Receiver<()> {
    let (tell_recorded, recorded) = mpsc::channel();
    let (control, events) = (control.clone(), events.clone());
    std::thread::spawn(move || {
        let mut line = String::new();
        while matches!(input.read_line(&mut line), Ok(read) if read > 0) {
            match serde_json::from_str(&line) {
                Ok(WorkerCommand::Pause) => {
                    control.pause();
                    events.tell(&WorkerEvent::Paused);
                }
                Ok(WorkerCommand::Resume) => {
                    control.resume();
                    events.tell(&WorkerEvent::Resumed);
                }
                Ok(WorkerCommand::Read { bytes }) => {
                    tracing::debug!(bytes_per_second = bytes, "how fast sources may be read");
                    control.limit_reading(bytes);
                }
                Ok(WorkerCommand::Cancel { keep_partial }) => control.cancel(keep_partial),
                Ok(WorkerCommand::Stop) => control.stop(),
                Ok(WorkerCommand::Recorded) => drop(tell_recorded.send(())),
                Err(error) => tracing::warn!(%error, "a line that is no command"),
            }
            line.clear();
        }
        control.stop();
    });
    recorded
}

fn obey_signals(control: &Control) {
    let control = control.clone();
    match Signals::new([SIGTERM, SIGINT]) {
        Ok(mut signals) => {
            std::thread::spawn(move || signals.forever().for_each(|_| control.stop()));
        }
        Err(error) => tracing::warn!(%error, "signals end this worker without a word"),
    }
}

/// Ends the work, and children that do not ask, once another host has the directory.
fn watch_the_lock(fence: Arc<HostFence>, control: &Control) {
    let control = control.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOCK_LOOK);
            if let Err(error) = fence.check()
                && fence.lost().is_some()
            {
                return control.give_up(error);
            }
        }
    });
}

fn keep_beating(events: &EventLine) {
    let events = events.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(HEARTBEAT);
            events.tell(&WorkerEvent::Heartbeat);
        }
    });
}

/// Standard output, one event a line, from several threads.
#[derive(Clone)]
struct EventLine(Arc<Mutex<Line>>);

struct Line {
    out: std::io::Stdout,
    finished: bool,
}

impl EventLine {
    fn new() -> EventLine {
        EventLine(Arc::new(Mutex::new(Line { out: std::io::stdout(), finished: false })))
    }

    /// Says whether it was heard. After the outcome nothing more is told.
    fn tell(&self, event: &WorkerEvent) -> bool {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if line.finished {
            return true;
        }
        line.finished = matches!(event, WorkerEvent::Finished(_));
        let Ok(mut text) = serde_json::to_vec(event) else { return false };
        text.push(b'\n');
        line.out.write_all(&text).and_then(|()| line.out.flush()).is_ok()
    }
}
