//! `libvirt import`: a disk's file becomes a volume in a pool.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Asked;
use crate::cli::progress::DISK_LINE;
use crate::cli::table::printable;
use crate::cli::{Exit, Failure, Ui, interrupt};
use crate::disk::{Control, Format, detect, stands_on};
use crate::libvirt::import::{How, Import, Imported, import, rehearse};
use crate::libvirt::link::{Access, Link};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, SourceFormat};
use crate::model::units::human_size;

/// libvirt that says nothing for so long hangs; the kernel may take minutes to write out what it holds.
const SILENT_FOR: Duration = Duration::from_secs(600);
/// How long it may take to clean up after an interrupt.
const CLEANS_UP_WITHIN: Duration = Duration::from_secs(30);
/// How often the time is looked at.
const TICK: Duration = Duration::from_millis(500);

/// Arguments of `libvirt import`.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The disk's file
    file: PathBuf,
    /// The pool
    pool: String,
    /// The volume's name [default: the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The file's format [default: told by its content]
    #[arg(long, value_name = "FORMAT", value_parser = ["qcow2", "raw", "vmdk", "vhd", "vdi"])]
    format: Option<String>,
    /// Remove the file when the volume is whole; where both lie on one file system, it is renamed
    #[arg(long = "move")]
    moves: bool,
    /// Replace a volume of that name, unless something uses it
    #[arg(long)]
    overwrite: bool,
    /// Only say whether it could be imported
    #[arg(long)]
    dry_run: bool,
}

/// `import --dry-run --json`
#[derive(Serialize)]
struct Rehearsed<'a> {
    dry_run: bool,
    pool: &'a str,
    volume: &'a str,
    format: &'static str,
    bytes: u64,
}

/// What the thread that works says.
enum Moment {
    At(u64),
    Over(Box<Result<Imported>>),
}

/// Imports it; an interrupt removes what was made.
pub(super) fn run(args: &ImportArgs, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let order = Order::of(args)?;
    if args.dry_run {
        return only_look(&order, asked, ui);
    }
    let bytes = order.file.metadata().map_or(0, |found| found.len());
    let bar = bar(ui, &order.volume, bytes);
    let shown = (order.file.display().to_string(), order.volume.clone());
    let imported = watch(order, asked, |done| bar.set_position(done));
    bar.finish_and_clear();
    let imported = imported?;
    if ui.json {
        ui.print_json(&imported)?;
        return Ok(Exit::Done);
    }
    let Imported { volume, how, bytes } = imported;
    let (pool, path) = (printable(&volume.pool), printable(&volume.path.to_string_lossy()));
    let (file, name, size) = (printable(&shown.0), printable(&shown.1), human_size(bytes));
    ui.print(&format!("{file}: {how} to {pool}/{name} ({size}, {path})\n"))?;
    Ok(Exit::Done)
}

/// What a person sees meanwhile; nothing where none looks.
fn bar(ui: &Ui, name: &str, bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() || ui.json || ui.quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(DISK_LINE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style).with_prefix(printable(name))
}

fn only_look(order: &Order, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let looked = order.clone();
    let bytes = asked.ask(Access::Changes, move |link| rehearse(link, &looked.as_import()))?;
    let Order { pool, volume, format, .. } = order;
    let format = format.name();
    if ui.json {
        ui.print_json(&Rehearsed { dry_run: true, pool, volume, format, bytes })?;
        return Ok(Exit::Done);
    }
    let (file, size) = (printable(&order.file.display().to_string()), human_size(bytes));
    ui.print(&format!(
        "{file}: would become {}/{} ({format}, {size})\n",
        printable(pool),
        printable(volume)
    ))?;
    Ok(Exit::Done)
}

/// Has a thread do it: libvirt may block for as long as it likes, and then the thread ends with the program.
fn watch(order: Order, asked: &Asked, show: impl Fn(u64)) -> Result<Imported> {
    let control = Control::new();
    interrupt::ends(&control);
    let (tell, told) = mpsc::channel();
    let (uri, keep_on) = (asked.uri.clone(), control.clone());
    std::thread::spawn(move || {
        let result = Link::open(&uri, Access::Changes).and_then(|link| {
            // Whoever does not listen any more has given up.
            let mut on_progress = |done| drop(tell.send(Moment::At(done)));
            import(&link, &order.as_import(), &|| keep_on.checkpoint(), &mut on_progress)
        });
        tell.send(Moment::Over(Box::new(result)))
    });
    let mut heard = Instant::now();
    loop {
        match told.recv_timeout(TICK) {
            Ok(Moment::At(done)) => {
                // What comes after an interrupt does not put off the end.
                if control.interruption().is_none() {
                    heard = Instant::now();
                }
                show(done);
            }
            Ok(Moment::Over(result)) => return *result,
            Err(RecvTimeoutError::Timeout) => {
                let limit = if control.interruption().is_some() { CLEANS_UP_WITHIN } else { SILENT_FOR };
                if heard.elapsed() > limit {
                    return Err(silent(asked, limit));
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::internal("the import ended without a word"));
            }
        }
    }
}

fn silent(asked: &Asked, limit: Duration) -> Error {
    Error::new(Kind::Libvirt, format!("{} did not answer for {} s", asked.uri, limit.as_secs()))
        .advice("see what keeps libvirtd (or virtqemud) or the pool's storage busy; the next import of this volume clears away what is left")
        .transient()
}

/// What is asked for, understood.
#[derive(Debug, Clone)]
struct Order {
    pool: String,
    volume: String,
    file: PathBuf,
    format: OutputFormat,
    how: How,
    overwrite: bool,
}

impl Order {
    fn of(args: &ImportArgs) -> Result<Order> {
        // A link is followed here, where a person wrote it.
        let file = args.file.canonicalize().map_err(|error| {
            Error::io(Kind::Source, "open", &args.file, &error)
                .advice("name a plain file that this user may read")
        })?;
        let name = args.file.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let volume = args.name.clone().or(name).ok_or_else(|| {
            Error::new(Kind::Manifest, format!("the name of {} is not UTF-8", args.file.display()))
                .advice("give the volume a name: `--name`")
        })?;
        let named = args
            .format
            .as_deref()
            .and_then(|name| OutputFormat::ALL.into_iter().find(|known| known.name() == name));
        let format = named.map_or_else(|| format_of(&file), |format| said_to_be(format, &file))?;
        if format != OutputFormat::Raw
            && let Some(below) = stands_on(&file)
        {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{} is not whole: it stands on {}", file.display(), below.display()),
            )
            .advice("convert it first: `hyper2kvm convert` makes one file of a chain"));
        }
        let how = if args.moves { How::Move } else { How::Copy };
        Ok(Order { pool: args.pool.clone(), volume, file, format, how, overwrite: args.overwrite })
    }

    fn as_import(&self) -> Import<'_> {
        let Order { pool, volume, file, format, how, overwrite } = self;
        Import { pool, volume, file, format: *format, how: *how, overwrite: *overwrite }
    }
}

/// The format that was said, unless it plainly is another: before anything is replaced for it. Raw may look like anything.
fn said_to_be(format: OutputFormat, file: &Path) -> Result<OutputFormat> {
    let found = detect(file)?.format;
    match format == OutputFormat::Raw || found.source_format() == Some(format.into()) {
        true => Ok(format),
        false => Err(Error::new(
            Kind::Source,
            format!("{} is {}, not {}", file.display(), found.name(), format.name()),
        )
        .advice("leave `--format` out: its content tells what it is")),
    }
}

fn format_of(file: &Path) -> Result<OutputFormat> {
    let found = detect(file)?.format;
    let is_one_file = !matches!(found, Format::VmdkDescriptor | Format::VhdDifferencing);
    let source = found.source_format().filter(|_| is_one_file);
    source
        .and_then(|source| OutputFormat::ALL.into_iter().find(|format| SourceFormat::from(*format) == source))
        .ok_or_else(|| {
            Error::new(
                Kind::Unsupported,
                format!("{} is {}, of which no volume is made", file.display(), found.name()),
            )
            .advice("convert it first: `hyper2kvm convert`; or say what it is: `--format`")
        })
}
