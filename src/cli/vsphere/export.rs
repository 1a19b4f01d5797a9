//! `vsphere export`: a machine as an OVF or an OVA.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::WhichArgs;
use crate::cli::progress::DISK_LINE;
use crate::cli::table::printable;
use crate::cli::{Exit, Failure, Ui};
use crate::model::error::{Error, Kind};
use crate::model::units::{human_duration, human_size, is_id, safe_id};
use crate::vsphere::export::{self, Exported, Format, Moment, Progress, Wanted};
use crate::vsphere::{Client, machine};

const TELL_EVERY: Duration = Duration::from_millis(100);
/// Names of files have their endings behind them, and those of archives have to be short.
const MOST_NAME_BYTES: usize = 80;

/// Arguments of `vsphere export`.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// The directory that it goes to; it is made if it is not there
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// `ovf`: a directory of files; `ova`: one archive
    #[arg(long, value_enum, default_value_t = FormatArg::Ovf)]
    format: FormatArg,
    /// What it is called there [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    Ovf,
    Ova,
}

/// `export --json`
#[derive(Serialize)]
struct Document<'e> {
    #[serde(flatten)]
    exported: &'e Exported,
    seconds: f64,
}

pub(super) fn run(args: &ExportArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let name = args.name.as_deref();
    if let Some(name) = name.filter(|name| !is_id(name) || name.len() > MOST_NAME_BYTES) {
        return Err(Error::new(Kind::Manifest, format!("`{}` is no name for its files", printable(name)))
            .advice(format!(
                "a name is up to {MOST_NAME_BYTES} letters, digits, dots, underscores and hyphens"
            ))
            .into());
    }
    let vm = args.which.find(client)?.reference();
    let machine = machine::machine(client, &vm)?;
    let name = name.map_or_else(|| safe_id(&machine.name), str::to_owned);
    let wanted = Wanted {
        directory: std::path::absolute(&args.output)
            .map_err(|error| Error::io(Kind::Output, "find", &args.output, &error))?,
        name: name.chars().take(MOST_NAME_BYTES).collect(),
        format: match args.format {
            FormatArg::Ovf => Format::Ovf,
            FormatArg::Ova => Format::Ova,
        },
    };
    let progress = Arc::new(Progress::default());
    let exported =
        watched(&progress, machine.disks.len(), ui, || export::export(client, &machine, &wanted, &progress))?;
    let seconds = begun.elapsed().as_secs_f64();
    if ui.json {
        ui.print_json(&Document { exported: &exported, seconds })?;
        return Ok(Exit::Done);
    }
    for warning in &exported.warnings {
        ui.note(&printable(warning));
    }
    let bytes = exported.files.iter().map(|file| file.bytes).sum();
    ui.print(&format!(
        "{}: {} in {} files, {}\n",
        printable(&exported.path.display().to_string()),
        human_size(bytes),
        exported.files.len(),
        human_duration(seconds)
    ))?;
    Ok(Exit::Done)
}

/// Does something, and shows meanwhile how far it is.
fn watched<T: Send>(progress: &Arc<Progress>, disks: usize, ui: &Ui, work: impl FnOnce() -> T) -> T {
    let is_shown = std::io::stderr().is_terminal() && !ui.json && !ui.quiet;
    let bar = if is_shown { shown() } else { ProgressBar::hidden() };
    std::thread::scope(|scope| {
        let (over, is_over) = mpsc::channel::<()>();
        scope.spawn(|| {
            let is_over = is_over;
            while is_over.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
                let Moment { disk, done, of, bytes } = progress.moment();
                if disk > 0 {
                    bar.set_prefix(format!("disk {disk} of {disks}"));
                    bar.set_length(of);
                    bar.set_position(done);
                    bar.set_message(format!("{} sent", human_size(bytes)));
                }
            }
        });
        let done = work();
        drop(over);
        bar.finish_and_clear();
        done
    })
}

fn shown() -> ProgressBar {
    let style = ProgressStyle::with_template(DISK_LINE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}
