//! `validate`: checks manifests and configuration files, and says all that is wrong with them.

use std::path::{Path, PathBuf};

use super::input::Input;
use super::table::{Paint, printable};
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::{Checked, InputCheck};
use crate::model::config::Settings;
use crate::service::preflight::{self, Document};

/// Arguments of `validate`.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateArgs {
    /// Manifests or configuration files, as YAML or JSON
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,
    /// Also open the sources and look at them
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Checks them all.
pub(super) fn run(args: &ValidateArgs, ui: &Ui) -> Result<Exit, Failure> {
    let settings = args.state.settings_or_defaults()?;
    let inputs = args.inputs.iter().map(|path| check(path, &settings, args.deep)).collect();
    print_checked(ui, &Checked { inputs })
}

fn check(path: &Path, settings: &Settings, deep: bool) -> InputCheck {
    let given = path.display().to_string();
    match Input::read(path) {
        Ok(input) => {
            let document = Document {
                given: &given,
                bytes: &input.bytes,
                filename: &input.filename,
                base_directory: &input.base_directory,
            };
            preflight::check_file(document, settings, deep)
        }
        Err(error) => InputCheck::of(&given, &[error]),
    }
}

/// Prints what was found; anything wrong is exit code 2.
pub(super) fn print_checked(ui: &Ui, checked: &Checked) -> Result<Exit, Failure> {
    if ui.json {
        ui.print_json(checked)?;
    } else {
        for input in &checked.inputs {
            ui.print(&describe(input, ui))?;
        }
    }
    Ok(if checked.inputs.iter().all(|input| input.ok) { Exit::Done } else { Exit::Usage })
}

fn describe(input: &InputCheck, ui: &Ui) -> String {
    let mut text = String::new();
    if input.ok && !ui.quiet {
        text.push_str(&format!("{}: {}\n", printable(&input.path), Paint::Good.on("ok", ui.color)));
    }
    for error in &input.errors {
        text.push_str(&format!("{}\n", printable(&error.line(&input.path))));
    }
    if !ui.quiet {
        if let Some(window) = &input.window {
            text.push_str(&format!("{}: its window {}\n", printable(&input.path), printable(window)));
        }
        for warning in &input.warnings {
            let word = Paint::Attention.on("warning", ui.color);
            text.push_str(&format!("{}: {word}: {}\n", printable(&input.path), printable(warning)));
        }
    }
    text
}
