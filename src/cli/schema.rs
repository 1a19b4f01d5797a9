//! `schema KIND`: the JSON Schema of what people write and monitors read.

use super::{Exit, Failure, Ui};
use crate::model::schema::{SchemaKind, schema};

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
pub(super) struct SchemaArgs {
    /// Of what: manifest, batch, profile, config, progress, report, batch-report, error
    #[arg(value_name = "KIND", value_parser = |name: &str| SchemaKind::parse(name).map_err(|error| error.to_string()))]
    kind: SchemaKind,
}

/// Prints it.
pub(super) fn run(args: &SchemaArgs, ui: &Ui) -> Result<Exit, Failure> {
    ui.print_json(&schema(args.kind))?;
    Ok(Exit::Done)
}
