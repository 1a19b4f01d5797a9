//! `doctor`: what this machine can do, and what is to be done about what it cannot.
//!
//! Every part is looked at by itself and really tried where that is cheap; a part that is missing
//! disables just what needs it.

mod checks;
mod programs;

use serde::Serialize;

use super::table::{Paint, Table, cell};
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::config::Settings;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    state: StateArgs,
}

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    /// Found and works.
    Ok,
    /// Works with less than it could.
    Degraded,
    /// Not there.
    Missing,
    /// There, and does not work.
    Broken,
}

/// One part of the machine.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) status: Health,
    pub(super) version: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Health, detail: impl Into<String>) -> Check {
        Check { name, status, version: None, detail: Some(detail.into()), advice: None }
    }

    fn version(mut self, version: Option<String>) -> Check {
        self.version = version;
        self
    }

    fn advice(mut self, advice: impl Into<String>) -> Check {
        self.advice = Some(advice.into());
        self
    }

    /// Whether nothing can be converted as long as this is so.
    fn stops_conversions(&self) -> bool {
        matches!(self.name, "qemu-img" | "state-dir")
            && matches!(self.status, Health::Missing | Health::Broken)
    }
}

/// `{"checks": […]}`
#[derive(Debug, Serialize)]
pub(super) struct Checks {
    pub(super) checks: Vec<Check>,
}

/// Looks at everything and prints it; exit 3 if conversions cannot work.
pub(super) fn run(args: &DoctorArgs, ui: &Ui) -> Result<Exit, Failure> {
    let settings = args.state.settings_or_defaults()?;
    let found = examine(&settings);
    if ui.json {
        ui.print_json(&found)?;
    } else {
        ui.print(&describe(&found, ui))?;
    }
    Ok(if found.checks.iter().any(Check::stops_conversions) { Exit::Lacking } else { Exit::Done })
}

/// Looks at all parts, at the same time.
pub(super) fn examine(settings: &Settings) -> Checks {
    let checks = std::thread::scope(|scope| {
        let running: Vec<_> =
            checks::ALL.iter().map(|(name, check)| (*name, scope.spawn(move || check(settings)))).collect();
        running
            .into_iter()
            .map(|(name, check)| {
                check.join().unwrap_or_else(|_| Check::new(name, Health::Broken, "the check itself failed"))
            })
            .collect()
    });
    Checks { checks }
}

fn describe(found: &Checks, ui: &Ui) -> String {
    let mut table = Table::new(&["PART", "STATUS", "VERSION", "DETAIL"]);
    for check in &found.checks {
        let (word, paint) = match check.status {
            Health::Ok => ("ok", Paint::Good),
            Health::Degraded => ("degraded", Paint::Attention),
            Health::Missing => ("missing", Paint::Attention),
            Health::Broken => ("broken", Paint::Bad),
        };
        table.row([
            cell(check.name),
            cell(word).paint(paint),
            cell(check.version.as_deref().unwrap_or("-")),
            cell(check.detail.as_deref().unwrap_or("-")),
        ]);
    }
    let mut text = table.render(ui.color);
    let ill: Vec<&Check> = found.checks.iter().filter(|check| check.status != Health::Ok).collect();
    for (heading, line) in [
        ("what to do", (|check: &Check| check.advice.clone()) as fn(&Check) -> Option<String>),
        ("what is disabled meanwhile", |check| checks::disables(check).map(str::to_owned)),
    ] {
        let lines: Vec<String> = (ill.iter())
            .filter_map(|check| line(check).map(|words| format!("  {:<12} {words}\n", check.name)))
            .collect();
        if !lines.is_empty() && !ui.quiet {
            text.push_str(&format!("\n{heading}\n{}", lines.concat()));
        }
    }
    if found.checks.iter().any(Check::stops_conversions) {
        text.push_str("\nconversions cannot work on this machine\n");
    }
    text
}
