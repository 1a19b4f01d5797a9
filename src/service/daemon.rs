//! The daemon: takes hold of a state directory, starts all parts in order, and ends them in order.
//!
//! It is ready when the queue is open, the drop directory watched and the control socket listening,
//! and not before. One daemon owns a state directory (a lock on `daemon.lock`, which the kernel
//! lets go whatever kills the process). What is not here: any decision about jobs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::admission::Results;
use super::command::{Command, SchedulerHandle};
use super::configuration::ConfigurationSource;
use super::control::{self, ControlContext, ControlSocket};
use super::intake::{self, Intake, IntakeParts};
use super::leftovers::Leftovers;
use super::logging;
use super::network::NetworkMonitor;
use super::notices::{self, Notifier};
use super::passwords;
use super::queue::{QueueHandle, Telling, refuse_network_file_system};
use super::scheduler::{Scheduler, SchedulerParts};
use super::view::metrics;
use super::watchdog;
use crate::libvirt::LibvirtHealth;
use crate::model::config::{Layout, Settings};
use crate::model::error::{Error, Kind, Result};
use crate::pipeline::host_lock::{Holds, Who};
use crate::pipeline::publish::DIRECTORY_MODE;
use crate::source::profiles;
use crate::sys::dir::Dir;

/// Threads of the runtime: everything that takes long happens in workers or on threads of its own.
const RUNTIME_THREADS: usize = 2;

/// Threads that may hang on file systems that are away; made only when needed.
const BLOCKING_THREADS: usize = 64;

/// Nothing here recurses deeply, and every thread's stack counts when it was used once.
const STACK_BYTES: usize = 1 << 20;

/// Commands that wait to be looked at.
const COMMANDS: usize = 256;

/// How long open connections of the control socket may take at the end.
const CONTROL_FAREWELL: Duration = Duration::from_secs(1);

/// Runs the service until it is told to stop.
pub fn run(source: ConfigurationSource, verbosity: i8) -> Result<()> {
    let settings = source.load()?;
    check_profile(&settings)?;
    let logs = logging::for_daemon(&settings.log, verbosity, settings.verbosity())?;
    second_signal_ends_at_once()?;
    prepare_directories(&settings)?;
    let lock = Lock::take(&settings.layout())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .thread_name("hyper2kvm")
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(serve(settings, source, logs.clone(), &lock));
    // A thread that hangs on a file system that is away must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    drop(lock);
    logs.finish();
    outcome
}

async fn serve(
    settings: Settings,
    source: ConfigurationSource,
    logs: logging::Logging,
    lock: &Lock,
) -> Result<()> {
    let started = Instant::now();
    let layout = settings.layout();
    let mut signals = Signals::listen()?;
    let leftovers = Leftovers::clear(&settings.state_dir, &settings.work_dir);
    let queue = QueueHandle::open(&layout.queue_db())?;
    let (news, news_seen) = watch::channel(());
    let (telling, owner) = (Telling::by(&settings, news.clone()), lock.owner.clone());
    let kept = layout.passwords();
    let left = queue.with(move |db| {
        let left = db.set_telling(telling)?;
        db.begin_service(&owner)?;
        passwords::forget(db, &kept)?;
        Ok(left)
    });
    notices::thrown_away(left.await?);
    let holds = Holds::new(Who::daemon(&name_of(&queue).await?, settings.takeover_stale_s));
    let network = NetworkMonitor::start(&settings.network_monitor).await;
    let (handle, commands) = SchedulerHandle::channel(COMMANDS);
    let (settings_now, settings_seen) = watch::channel(Arc::new(settings.clone()));
    let (draining, draining_seen) = watch::channel(false);
    let (brought_back, brought_back_seen) = watch::channel(0);
    let accepted = Arc::new(Notify::new());
    let results = Results::default();
    let intake = Intake::start(IntakeParts {
        settings: settings_seen.clone(),
        queue: queue.clone(),
        draining: draining_seen,
        brought_back: brought_back_seen,
        accepted: Arc::clone(&accepted),
        results: results.clone(),
    })?;
    let socket = ControlSocket::bind(&settings.socket(), &settings.control.group)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        state_dir = %settings.state_dir.display(),
        socket = %socket.path().display(),
        network = %network.state().borrow().detail(),
        "the service starts"
    );
    let stop_control = CancellationToken::new();
    let libvirt = LibvirtHealth::default();
    let scheduler = Scheduler::start(SchedulerParts {
        queue: queue.clone(),
        settings: settings_now,
        source,
        commands,
        accepted,
        draining,
        brought_back,
        network,
        intake_error: intake.last_error(),
        results,
        logging: Some(logs),
        owner: lock.owner.clone(),
        holds,
        leftovers,
        news,
        libvirt: libvirt.clone(),
    })
    .await?;
    let notifier = Notifier::start(queue.clone(), settings_seen.clone(), news_seen);
    let context = ControlContext {
        scheduler: handle.clone(),
        settings: settings_seen,
        libvirt,
        metrics: Arc::new(metrics::text),
        stop: stop_control.clone(),
    };
    let control = tokio::spawn(control::serve(socket, context));
    watchdog::ready("ready");
    tracing::info!("ready after {} ms", started.elapsed().as_millis());
    let mut work = tokio::spawn(scheduler.run());
    // The scheduler may also end by itself: told to over the control socket.
    loop {
        tokio::select! {
            ended = &mut work => {
                if ended.is_err() {
                    return Err(Error::internal("the scheduler broke off"));
                }
                break;
            }
            told = signals.next() => match told {
                Told::Reload => {
                    let handle = handle.clone();
                    tokio::spawn(async move { drop(handle.ask(Command::Reload).await) });
                }
                Told::Stop => {
                    watchdog::stopping("stopping: running jobs are checkpointed");
                    let handle = handle.clone();
                    tokio::spawn(async move { drop(handle.ask(Command::Stop).await) });
                }
            },
        }
    }
    watchdog::stopping("stopping");
    intake.stop().await;
    stop_control.cancel();
    let _ = tokio::time::timeout(CONTROL_FAREWELL, control).await;
    notifier.stop().await;
    if let Err(error) = queue.with(|db| db.end_service()).await {
        tracing::warn!(%error, "the next start will take this end for a crash");
    }
    queue.close().await;
    tracing::info!("the service has ended");
    Ok(())
}

/// Disks that are dropped have nobody who could be told that their profile is none.
fn check_profile(settings: &Settings) -> Result<()> {
    let intake = &settings.intake;
    match intake.accept_disks {
        true => {
            profiles::kept(&intake.profile, &settings.profiles_dir).map(drop).map_err(|error| {
                match error.details().place.file {
                    Some(_) => error,
                    None => error.field("intake.profile"),
                }
            })
        }
        false => Ok(()),
    }
}

/// What tells this queue from every other, wherever it is moved to.
async fn name_of(queue: &QueueHandle) -> Result<String> {
    const KEY: &str = "name";
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::internal(format!("no random number: {error}")))?;
    let new: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    queue
        .with(move |db| match db.flag(KEY)? {
            Some(name) => Ok(name),
            None => db.set_flag(KEY, Some(&new)).map(|()| new),
        })
        .await
}

enum Told {
    Reload,
    Stop,
}

/// SIGTERM and SIGINT stop, SIGHUP reloads.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Signals> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::internal(format!("cannot listen to signals: {error}")))
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}

/// The first SIGTERM or SIGINT stops in good order; a second one does not wait for that.
fn second_signal_ends_at_once() -> Result<()> {
    const STATUS_INTERRUPTED: i32 = 130;
    let told = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // The order matters: looked at first, set after.
        signal_hook::flag::register_conditional_shutdown(signal, STATUS_INTERRUPTED, Arc::clone(&told))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&told)))
            .map_err(|error| Error::internal(format!("cannot listen to signals: {error}")))?;
    }
    Ok(())
}

/// Makes what is missing below the state directory. What is there keeps its modes: packaging set them.
fn prepare_directories(settings: &Settings) -> Result<()> {
    let layout = settings.layout();
    make(&settings.state_dir, 0o755)?;
    refuse_network_file_system(&settings.state_dir)?;
    for (path, mode) in [
        (layout.processing(), 0o750),
        (layout.processed(), 0o750),
        (layout.failed(), 0o750),
        (layout.logs(), 0o750),
        (layout.progress(), 0o755),
        (layout.passwords(), 0o700),
        (settings.work_dir.clone(), 0o700),
    ] {
        make(&path, mode)?;
    }
    let made = Dir::create_all(&settings.output_dir, DIRECTORY_MODE).map(drop);
    made.map_err(|error| cannot_make(&settings.output_dir, &error))?;
    intake::prepare_drop_directory(&settings.intake.dir)
}

fn make(path: &Path, mode: u32) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| cannot_make(path, &error))
}

fn cannot_make(path: &Path, error: &std::io::Error) -> Error {
    Error::io(Kind::Output, "make", path, error)
        .advice("name a state directory that this user may write, with --state-dir")
}

/// What a killed daemon was about to start still holds its files, until it has become another program.
const INHERITED: Duration = Duration::from_secs(2);

/// The hold on a state directory.
#[derive(Debug)]
struct Lock {
    _file: File,
    /// Who holds it: `pid@host`.
    owner: String,
}

impl Lock {
    fn take(layout: &Layout) -> Result<Lock> {
        let path = layout.lock();
        let failed = |what: &'static str, error: &std::io::Error| Error::io(Kind::Output, what, &path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(|error| failed("open the lock", &error))?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    let _ = file.rewind().and_then(|()| file.read_to_string(&mut holder));
                    let holder = holder.trim().split_once('@');
                    let is_dead = |pid: &str| {
                        pid.parse().is_ok_and(|pid| crate::sys::host::process_began(pid).is_none())
                    };
                    if begun.elapsed() < INHERITED && holder.is_some_and(|(pid, _)| is_dead(pid)) {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    }
                    let holder = match holder {
                        Some((pid, host)) => format!("process {pid} on {host}"),
                        None => "another process".to_owned(),
                    };
                    let directory = path.parent().unwrap_or(&path).display();
                    return Err(Error::new(
                        Kind::Internal,
                        format!("a daemon is running on {directory} already: {holder}"),
                    )
                    .advice("stop it, or name another state directory with --state-dir"));
                }
                Err(error) => return Err(failed("lock", &error.into())),
            }
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let owner = format!("{}@{host}", std::process::id());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(format!("{owner}\n").as_bytes()))
            .map_err(|error| failed("write the lock", &error))?;
        Ok(Lock { _file: file, owner })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_state_directory_has_one_daemon_and_the_second_is_told_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Settings::defaults(dir.path(), 1).layout();
        let first = Lock::take(&layout).unwrap();
        let error = Lock::take(&layout).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(&layout).unwrap();
    }

    #[test]
    fn what_a_killed_daemon_was_starting_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Settings::defaults(dir.path(), 1).layout();
        // As if it had died: its number is nobody's.
        std::fs::write(layout.lock(), format!("{}@here\n", i32::MAX)).unwrap();
        let child = File::open(layout.lock()).unwrap();
        rustix::fs::flock(&child, FlockOperation::NonBlockingLockExclusive).unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(child);
        });
        Lock::take(&layout).unwrap();
        ends.join().unwrap();
    }

    #[test]
    fn the_directories_have_the_modes_of_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::defaults(&dir.path().join("state"), 1);
        prepare_directories(&settings).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&settings.intake.dir), 0o2770);
        assert_eq!(mode(&settings.work_dir), 0o700);
        prepare_directories(&settings).unwrap();
    }
}
