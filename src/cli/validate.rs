//! `validate`: checks manifests and configuration files, and says all that is wrong with them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::given::{self, document_of_machine};
use super::input::Input;
use super::remote;
use super::table::{Paint, Table, cell, printable};
use super::{Exit, Failure, StateArgs, Ui, interrupt};
use crate::disk::Control;
use crate::model::api::{Checked, InputCheck};
use crate::model::config::Settings;
use crate::model::facts::Facts;
use crate::model::validation::{Counts, Finding, Severity, Validation};
use crate::pipeline::preflight::Look;
use crate::service::preflight::{self, Depth, Document};

/// What is wrong with these is told with its place in the file.
const OF_THE_FILE: [&str; 3] = ["manifest.invalid", "manifest.hook", "network.mac"];
/// Groups of rules about what is around the input and not in it.
const AROUND: [&str; 3] = ["host.", "target.", "custom."];

/// Arguments of `validate`.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateArgs {
    /// Manifests, batches, profiles or configuration files, as YAML or JSON; appliances, VMX files, libvirt domains (their
    /// XML, or libvirt://NAME) and VMs of a vCenter or ESXi host (vsphere://CREDENTIAL-OR-HOST/PATH,
    /// esxi://CREDENTIAL-OR-HOST/FILE) as they would be converted
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,
    /// Run the whole pre-flight: open the sources and the guest, look at this host and at where the results go
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Checks them all.
pub(super) fn run(args: &ValidateArgs, ui: &Ui) -> Result<Exit, Failure> {
    let settings = args.state.settings_or_defaults()?;
    let depth = if args.deep { Depth::Preflight(Look::IntoGuests) } else { Depth::Text };
    let control = Control::new();
    if args.deep {
        interrupt::ends(&control);
    }
    let inputs = args.inputs.iter().flat_map(|path| check(path, &settings, depth, &control, ui)).collect();
    match control.interruption() {
        Some(_) => Err(Failure::silent(Exit::Interrupted)),
        None => print_checked(ui, &Checked { inputs }),
    }
}

fn check(path: &Path, settings: &Settings, depth: Depth, control: &Control, ui: &Ui) -> Vec<InputCheck> {
    let given = path.display().to_string();
    let mut beginning = |what: &str| ui.note(&format!("{given}: {what}"));
    // A directory is none of these files, and is told so.
    match remote::document(path, &settings.credentials) {
        Ok(None) => {}
        Ok(Some((document, filename))) => {
            return vec![check_document(
                &given,
                &document,
                &filename,
                (settings, depth),
                control,
                &mut beginning,
            )];
        }
        Err(error) => return vec![InputCheck::of(&given, &[error])],
    }
    let described = if path.is_dir() { Ok(None) } else { given::machines(path, settings) };
    let checked = described.and_then(|described| match described {
        Some(machines) => {
            let each = |facts| check_machine(&given, facts, (settings, depth), control, &mut beginning);
            Ok(machines.iter().map(each).collect())
        }
        None => Input::read(path).map(|input| {
            let document = Document {
                given: &given,
                bytes: &input.bytes,
                filename: &input.filename,
                base_directory: &input.base_directory,
            };
            vec![preflight::check_file(document, settings, depth, control, &mut beginning)]
        }),
    });
    checked.unwrap_or_else(|error| vec![InputCheck::of(&given, &[error])])
}

/// A machine that is described, as it would be converted.
fn check_machine(
    given: &str,
    facts: &Facts,
    (settings, depth): (&Settings, Depth),
    control: &Control,
    beginning: &mut dyn FnMut(&str),
) -> InputCheck {
    let (document, filename) = document_of_machine(facts);
    let mut checked = check_document(given, &document, &filename, (settings, depth), control, beginning);
    checked.warnings.extend(facts.warnings.iter().cloned());
    checked
}

/// A manifest that nobody wrote.
fn check_document(
    given: &str,
    document: &Value,
    filename: &str,
    (settings, depth): (&Settings, Depth),
    control: &Control,
    beginning: &mut dyn FnMut(&str),
) -> InputCheck {
    let bytes = document.to_string().into_bytes();
    let document = Document { given, bytes: &bytes, filename, base_directory: Path::new("/") };
    let mut checked = preflight::check_file(document, settings, depth, control, beginning);
    for error in &mut checked.errors {
        // Nobody wrote these lines.
        (error.line, error.column) = (None, None);
    }
    checked
}

/// Prints what was found. What is wrong with an input is exit code 2; if only what is around it stands in the way, 1.
pub(super) fn print_checked(ui: &Ui, checked: &Checked) -> Result<Exit, Failure> {
    if ui.json {
        ui.print_json(checked)?;
    } else {
        for input in &checked.inputs {
            ui.print(&describe(input, ui.color, ui.quiet))?;
        }
    }
    Ok(if checked.inputs.iter().all(|input| input.ok) {
        Exit::Done
    } else if checked.inputs.iter().all(|input| input.ok || is_only_around(input)) {
        Exit::Failed
    } else {
        Exit::Usage
    })
}

fn is_only_around(input: &InputCheck) -> bool {
    input.validation.as_ref().is_some_and(|validation| {
        let mut failing = validation.results.iter().filter(|finding| finding.severity.fails());
        failing.all(|finding| AROUND.iter().any(|group| finding.rule.starts_with(group)))
    })
}

fn describe(input: &InputCheck, color: bool, quiet: bool) -> String {
    let mut text = match &input.validation {
        Some(validation) if !is_of_the_file(validation) => in_a_table(input, validation, color, quiet),
        _ => in_lines(input, color, quiet),
    };
    if let Some(window) = input.window.as_ref().filter(|_| !quiet) {
        text.push_str(&format!("{}: its window {}\n", printable(&input.path), printable(window)));
    }
    text
}

fn is_of_the_file(validation: &Validation) -> bool {
    let mut failing = validation.results.iter().filter(|finding| finding.severity.fails()).peekable();
    failing.peek().is_some() && failing.all(|finding| OF_THE_FILE.contains(&finding.rule.as_str()))
}

fn in_lines(input: &InputCheck, color: bool, quiet: bool) -> String {
    let mut text = String::new();
    if input.ok && !quiet {
        text.push_str(&format!("{}: {}\n", printable(&input.path), Paint::Good.on("ok", color)));
    }
    for error in &input.errors {
        text.push_str(&format!("{}\n", printable(&error.line(&input.path))));
    }
    if !quiet {
        for warning in &input.warnings {
            let word = Paint::Attention.on("warning", color);
            text.push_str(&format!("{}: {word}: {}\n", printable(&input.path), printable(warning)));
        }
    }
    text
}

/// The summary, and all findings, the worst first.
fn in_a_table(input: &InputCheck, validation: &Validation, color: bool, quiet: bool) -> String {
    let verdict = if input.ok { Paint::Good.on("ok", color) } else { Paint::Bad.on("not ok", color) };
    let counted = counted(&validation.counts);
    let mut text = match quiet && input.ok {
        true => String::new(),
        false => format!("{}: {verdict}{counted}\n", printable(&input.path)),
    };
    let shown: Vec<&Finding> =
        validation.results.iter().filter(|finding| !quiet || finding.severity.fails()).collect();
    if shown.is_empty() {
        return text;
    }
    let mut table = Table::new(&["SEVERITY", "RULE", "ABOUT", "FOUND"]);
    for finding in shown {
        let advice = finding.suggestion.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
        table.row([
            cell(finding.severity.name()).paint(paint(finding.severity)),
            cell(&finding.rule),
            cell(finding.about.as_deref().unwrap_or("-")),
            cell(format!("{}{advice}", finding.message)),
        ]);
    }
    text.push_str(&table.render(color));
    text
}

fn paint(severity: Severity) -> Paint {
    match severity {
        Severity::Critical | Severity::Error => Paint::Bad,
        Severity::Warning => Paint::Attention,
        Severity::Info => Paint::Faint,
    }
}

/// ` (1 critical, 2 errors, 1 warning)`
fn counted(counts: &Counts) -> String {
    let one = |count: u64, word: &str, many: &str| {
        (count > 0).then(|| format!("{count} {}", if count == 1 { word } else { many }))
    };
    let words: Vec<String> = [
        one(counts.critical, "critical", "critical"),
        one(counts.error, "error", "errors"),
        one(counts.warning, "warning", "warnings"),
        one(counts.info, "note", "notes"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::{Error, Kind};
    use crate::model::plan::Preflight;
    use crate::model::validation::{Findings, Weights};

    #[test]
    fn what_was_found_stands_in_a_table_the_worst_first() {
        let mut findings = Findings::new(Weights::new());
        let found = |kind, cause: &str| Error::new(kind, cause);
        findings.add("host.kvm", None, found(Kind::Unsupported, "guests are emulated"));
        findings.add("disk.no_checksum", Some("boot"), found(Kind::Source, "there is no checksum of it"));
        let cut = found(Kind::Source, "the image is cut off\u{1b}[2J").advice("fetch the disk again");
        findings.add("disk.cut_off", Some("data"), cut);
        findings.raise("custom.site.owner", Severity::Critical, None, found(Kind::Hook, "nobody owns it"));
        let errors: Vec<Error> = findings
            .found()
            .iter()
            .filter(|raised| raised.finding.severity.fails())
            .map(|raised| raised.error.clone())
            .collect();
        let validation = Validation::of(Preflight::Full, findings.told().cloned().collect());
        let input = InputCheck { validation: Some(validation), ..InputCheck::of("web.yaml", &errors) };
        insta::assert_snapshot!(describe(&input, false, false), @r"
        web.yaml: not ok (1 critical, 1 error, 1 warning, 1 note)
        SEVERITY  RULE               ABOUT  FOUND
        critical  custom.site.owner  -      nobody owns it
        error     disk.cut_off       data   the image is cut off�[2J; fetch the disk again
        warning   host.kvm           -      guests are emulated
        info      disk.no_checksum   boot   there is no checksum of it
        ");
        insta::assert_snapshot!(describe(&input, false, true), @r"
        web.yaml: not ok (1 critical, 1 error, 1 warning, 1 note)
        SEVERITY  RULE               ABOUT  FOUND
        critical  custom.site.owner  -      nobody owns it
        error     disk.cut_off       data   the image is cut off�[2J; fetch the disk again
        ");
    }
}
