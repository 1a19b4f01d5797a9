//! The command line: parse, dispatch, print. Decides nothing about a migration.
//!
//! Every subcommand is one file with its arguments (a `clap::Args` type) and a `run` that takes
//! them and the [`Ui`], and returns how the program ends. What is not here: any work. Commands ask
//! the daemon through its control socket, or call the rooms below.

mod acting;
mod boot_test;
mod bundle;
mod cancel;
mod check;
mod client;
mod completions;
mod convert;
mod cutover;
mod daemon;
mod doctor;
mod drain;
mod exit;
mod facts;
mod fix;
mod given;
mod handed;
mod input;
mod inspect;
mod interrupt;
#[cfg(feature = "libvirt")]
mod libvirt;
#[cfg(not(feature = "libvirt"))]
#[path = "libvirt_absent.rs"]
mod libvirt;
mod list;
mod logs;
mod man;
mod manifest;
mod mapped;
mod options;
mod pause;
mod plan;
mod price;
mod priority;
mod profiles;
mod progress;
mod prune;
mod release;
mod remote;
mod resume;
mod retry;
mod rollback;
mod schema;
mod show;
mod status;
mod submit;
mod table;
mod ui;
mod unit_settings;
mod validate;
mod vsphere;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser, Subcommand};

pub use exit::{Exit, Failure};
pub use options::StateArgs;
pub use ui::{GlobalArgs, Ui};

use crate::model::error::{Error, Kind};
use crate::service::logging;

/// Turns virtual machines of other hypervisors into KVM guests that boot the first time.
#[derive(Debug, Parser)]
#[command(
    name = "hyper2kvm",
    version,
    propagate_version = true,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(flatten)]
    state: StateArgs,
    #[command(subcommand)]
    command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service, in the foreground
    Daemon(daemon::DaemonArgs),
    /// Convert disks here and now, without a daemon
    Convert(convert::ConvertArgs),
    /// Start a disk in a throw-away machine and say whether the guest comes up
    BootTest(boot_test::BootTestArgs),
    /// Tell what would be done and why, touching nothing
    Plan(plan::PlanArgs),
    /// List the profiles, or print what one comes to and where each value comes from
    Profiles(profiles::ProfilesArgs),
    /// Write the manifest for a disk or an appliance
    Manifest(manifest::ManifestArgs),
    /// Check manifests and configuration files, and say all that is wrong
    Validate(validate::ValidateArgs),
    /// Tell which guest is inside the disks of a machine
    Inspect(inspect::InspectArgs),
    /// Repair the guest inside the disks of a machine, on a copy, or only show what would change
    Fix(fix::FixArgs),
    /// Hand manifests to the running service
    Submit(submit::SubmitArgs),
    /// List the jobs
    List(list::ListArgs),
    /// Show all of one job
    Show(show::ShowArgs),
    /// Look on while the work goes
    Watch(watch::WatchArgs),
    /// Print the log of a job
    Logs(logs::LogsArgs),
    /// End jobs and clean up after them
    Cancel(cancel::CancelArgs),
    /// Give batches away: their jobs end here, and another host may go on with them
    Release(release::ReleaseArgs),
    /// Stop what was made of a source, and give that back: what was changed there is undone, and it is started
    Rollback(rollback::RollbackArgs),
    /// Try ended jobs again, going on from what is left of them
    Retry(retry::RetryArgs),
    /// Move a job in the queue
    Priority(priority::PriorityArgs),
    /// Let jobs stand still
    Pause(pause::StandArgs),
    /// Let paused jobs go on
    Resume(pause::StandArgs),
    /// Make the next pass of a warm migration the last one
    Cutover(cutover::CutoverArgs),
    /// Start nothing new, let running jobs end
    Drain(drain::DrainArgs),
    /// Remove what is kept longer than configured
    Prune(prune::PruneArgs),
    /// Show how the service stands
    Status(status::StatusArgs),
    /// Check the service for a monitoring system: one line, exit code 0, 1, 2 or 3
    Check(check::CheckArgs),
    /// Look at the machines, pools and networks of a libvirt, and work on them
    Libvirt(libvirt::LibvirtArgs),
    /// Look at the machines of a vCenter, and prepare them
    Vsphere(vsphere::VsphereArgs),
    /// The same for an ESXi host
    Esxi(vsphere::VsphereArgs),
    /// Tell what this machine can do; exit code 3 if conversions cannot work
    Doctor(doctor::DoctorArgs),
    /// Pack a redacted archive for a bug report
    Bundle(bundle::BundleArgs),
    /// Print the JSON Schema of a kind of file
    Schema(schema::SchemaArgs),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual pages, or write them to a directory
    Man(man::ManArgs),
    /// Print the systemd settings that follow from the configured paths
    UnitSettings(unit_settings::UnitSettingsArgs),
}

/// Commands of the manual that a later version brings. They do not exist here; who tries one is told.
pub const LATER: [&str; 3] = ["live-fix", "azure", "ami"];

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => run(&cli).into(),
        Err(error) => refuse_usage(error, &arguments).into(),
    }
}

fn run(cli: &Cli) -> Exit {
    let ui = Ui::new(&cli.global);
    // The daemon starts its own, once it knows its settings.
    let is_daemon = matches!(cli.command, Command::Daemon(_));
    let logs = (!is_daemon).then(|| logging::for_command(cli.global.verbosity()));
    let outcome = match &cli.command {
        Command::Daemon(args) => daemon::run(args, &ui),
        Command::Convert(args) => convert::run(args, &ui),
        Command::BootTest(args) => boot_test::run(args, &ui),
        Command::Manifest(args) => manifest::run(args, &ui),
        Command::Plan(args) => plan::run(args, &ui),
        Command::Profiles(args) => profiles::run(args, &ui),
        Command::Validate(args) => validate::run(args, &ui),
        Command::Inspect(args) => inspect::run(args, &ui),
        Command::Fix(args) => fix::run(args, &ui),
        Command::Submit(args) => submit::run(args, &ui),
        Command::List(args) => list::run(args, &ui),
        Command::Show(args) => show::run(args, &ui),
        Command::Watch(args) => watch::run(args, &ui),
        Command::Logs(args) => logs::run(args, &ui),
        Command::Cancel(args) => cancel::run(args, &ui),
        Command::Release(args) => release::run(args, &ui),
        Command::Rollback(args) => rollback::run(args, &ui),
        Command::Retry(args) => retry::run(args, &ui),
        Command::Priority(args) => priority::run(args, &ui),
        Command::Pause(args) => pause::run(args, &ui),
        Command::Resume(args) => resume::run(args, &ui),
        Command::Cutover(args) => cutover::run(args, &ui),
        Command::Drain(args) => drain::run(args, &ui),
        Command::Prune(args) => prune::run(args, &ui),
        Command::Status(args) => status::run(args, &ui),
        Command::Check(args) => check::run(args, &ui),
        Command::Libvirt(args) => libvirt::run(args, &ui),
        Command::Vsphere(args) | Command::Esxi(args) => vsphere::run(args, &ui),
        Command::Doctor(args) => doctor::run(args, &ui),
        Command::Bundle(args) => bundle::run(args, &ui),
        Command::Schema(args) => schema::run(args, &ui),
        Command::Completions(args) => completions::run(args, &ui),
        Command::Man(args) => man::run(args, &ui),
        Command::UnitSettings(args) => unit_settings::run(args, &ui),
    };
    logs.inspect(logging::Logging::finish);
    outcome.unwrap_or_else(|failure| {
        ui.fail(&failure);
        failure.exit
    })
}

/// The whole command line as clap knows it, for completions and manual pages.
fn command_line() -> clap::Command {
    Cli::command()
}

/// Help and version are answers; everything else that clap says is wrong usage.
fn refuse_usage(mut error: clap::Error, arguments: &[OsString]) -> Exit {
    if !error.use_stderr() {
        return if error.print().is_ok() { Exit::Done } else { Exit::Failed };
    }
    let later = (error.kind() == ErrorKind::InvalidSubcommand).then(|| later_command(&error)).flatten();
    if let Some(name) = later {
        // clap would guess at a similar name, which is never what was meant here.
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![
                format!("`{name}` comes with a later version of hyper2kvm").into(),
            ]),
        );
    }
    if arguments.iter().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let cause = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let advice = match later {
            Some(name) => format!("`{name}` comes with a later version of hyper2kvm"),
            None => "see `hyper2kvm help`".to_owned(),
        };
        let failure = Failure::new(Exit::Usage, Error::new(Kind::Manifest, cause).advice(advice));
        Ui::new(&GlobalArgs { json: true, ..GlobalArgs::default() }).fail(&failure);
    } else if error.print().is_err() {
        // Nobody reads standard error: the exit code says it.
    }
    Exit::Usage
}

/// The name that was tried, if a later version has it.
fn later_command(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(tried)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    LATER.into_iter().find(|name| name == tried)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn commands_of_later_versions_do_not_exist_yet() {
        let line = command_line();
        for name in LATER {
            assert!(line.find_subcommand(name).is_none(), "{name} exists: take it off the list");
        }
    }
}
