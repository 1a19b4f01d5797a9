//! Where log lines go and how they look.
//!
//! Under systemd they go to the journal with the fields `H2K_JOB`, `H2K_BATCH`, `H2K_VM`, `H2K_STAGE`
//! (what events and spans call `job`, `batch`, `vm`, `stage`); elsewhere to stderr, as text or JSON; besides, to a file if one is
//! configured. A warning that is said over and over is folded, wherever it goes. `HYPER2KVM_LOG` overrides the level with a filter (`hyper2kvm=debug,rusqlite=warn`).
//! What is not here: how lines look (`sys::lines`), what a command prints, which is its output, and the worker's log, which the worker starts
//! for itself (it knows nothing of a service).

mod journal;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::model::config::{LogFormat, LogSettings};
use crate::model::error::{Error, Kind, Result};
use crate::sys::lines::fold::{Fold, WINDOW};
use crate::sys::lines::{self, Bound};
use crate::sys::time::now_epoch;

/// Overrides the level when set.
pub const FILTER_VARIABLE: &str = "HYPER2KVM_LOG";

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The logs of this process; kept to change them at a reload.
#[derive(Debug, Clone)]
pub struct Logging {
    level: reload::Handle<EnvFilter, Registry>,
    fold: Fold,
    file: Option<LogFile>,
    settings: LogSettings,
    /// How much more or less the command line asks for: that holds over every reload.
    asked: i8,
}

/// Starts the logs of the service. How many words is the sum of what the command line asks for and what
/// is configured: 0 is info, 1 debug, 2 trace; -1 warnings, -2 errors.
pub fn for_daemon(settings: &LogSettings, asked: i8, configured: i8) -> Result<Logging> {
    let mut outputs: Vec<BoxedLayer> = Vec::new();
    match journal(settings) {
        Some(layer) => outputs.push(layer),
        None => outputs.push(output(settings.format, io::stderr, colours())),
    }
    let file = settings.file.as_deref().map(LogFile::open).transpose()?;
    if let Some(file) = &file {
        outputs.push(output(settings.format, file.clone(), false));
    }
    Ok(start(outputs, (asked, configured), file, settings.clone()))
}

/// Starts the logs of a command: short lines on stderr, warnings only unless more is asked for.
pub fn for_command(verbosity: i8) -> Logging {
    let settings = LogSettings { format: LogFormat::Text, file: None, journald: false };
    let short = fmt::layer().with_writer(io::stderr).with_ansi(colours()).without_time().with_target(false);
    start(vec![short.boxed()], (verbosity, -1), None, settings)
}

impl Logging {
    /// More or fewer words are configured from now on.
    pub fn set_verbosity(&self, configured: i8) {
        // The only failure is that the subscriber is gone, and then there is nobody to tell.
        let _ = self.level.reload(filter(self.asked.saturating_add(configured)));
    }

    /// Tells how often warnings were said that were not shown again; after it all are shown.
    pub fn finish(&self) {
        self.fold.finish();
    }

    /// Opens the log file again, so that it may have been moved away by log rotation.
    pub fn reopen(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), LogFile::reopen)
    }

    /// What of new settings can only be applied by a restart, as the names of keys.
    #[must_use]
    pub fn needs_restart(&self, new: &LogSettings) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let old = &self.settings;
        for (key, differs) in [
            ("log.format", old.format != new.format),
            ("log.file", old.file != new.file),
            ("log.journald", old.journald != new.journald),
        ] {
            if differs {
                keys.push(key);
            }
        }
        keys
    }
}

fn start(
    outputs: Vec<BoxedLayer>,
    (asked, configured): (i8, i8),
    file: Option<LogFile>,
    settings: LogSettings,
) -> Logging {
    let (level, handle) = reload::Layer::new(filter(asked.saturating_add(configured)));
    // A second start in one process (tests) keeps the first.
    let fold = Fold::new(WINDOW);
    let _ = tracing_subscriber::registry().with(fold.over(outputs).with_filter(level)).try_init();
    Logging { level: handle, fold, file, settings, asked }
}

/// Ours at the level asked for; what others say one step quieter, because it is about their insides.
fn filter(verbosity: i8) -> EnvFilter {
    match std::env::var(FILTER_VARIABLE) {
        Ok(asked) if !asked.is_empty() => EnvFilter::new(asked),
        _ => EnvFilter::new(directives(verbosity)),
    }
}

fn directives(verbosity: i8) -> &'static str {
    match verbosity {
        ..=-2 => "error",
        -1 => "warn",
        0 => "warn,hyper2kvm=info",
        1 => "info,hyper2kvm=debug",
        _ => "debug,hyper2kvm=trace",
    }
}

/// The journal, if it is wanted and stderr leads there.
fn journal(settings: &LogSettings) -> Option<BoxedLayer> {
    if !settings.journald || !stderr_is_journal() {
        return None;
    }
    journal::connect().ok().map(Layer::boxed)
}

/// systemd says in `JOURNAL_STREAM` which device and inode the journal's stream has; a child whose
/// stderr was pointed elsewhere inherits the variable all the same, so they have to match.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    device.parse() == Ok(stderr.dev()) && inode.parse() == Ok(stderr.ino())
}

fn output<W>(format: LogFormat, writer: W, colours: bool) -> BoxedLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Text => lines::text(writer, &Bound::new(), colours, true, now_epoch).boxed(),
        LogFormat::Json => lines::json(writer, Bound::new(), now_epoch).boxed(),
    }
}

fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The configured file, appended to; shared with [`Logging::reopen`].
#[derive(Debug, Clone)]
struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<LogFile> {
        let file = Arc::new(Mutex::new(LogFile::append_to(path)?));
        Ok(LogFile { path: path.to_owned(), file })
    }

    fn reopen(&self) -> Result<()> {
        let file = LogFile::append_to(&self.path)?;
        *self.lock() = file;
        Ok(())
    }

    fn append_to(path: &Path) -> Result<File> {
        OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
            Error::io(Kind::Output, "open the log file", path, &error)
                .field("log.file")
                .advice("make its directory and let the service's user write there")
        })
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        // A thread that died while it wrote a line leaves at worst half a line.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line's turn on the file.
struct Turn<'a>(MutexGuard<'a, File>);

impl Write for Turn<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Turn<'a>;

    fn make_writer(&'a self) -> Turn<'a> {
        Turn(self.lock())
    }
}
