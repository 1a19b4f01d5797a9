//! `libvirt …` of a build without libvirt: says so.

use super::{Exit, Failure, Ui};
use crate::model::error::{Error, Kind};

/// Whatever was asked.
#[derive(Debug, clap::Args)]
pub(super) struct LibvirtArgs {
    #[arg(value_name = "TASK", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Refuses it.
pub(super) fn run(args: &LibvirtArgs, _: &Ui) -> Result<Exit, Failure> {
    let task = args.words.first().map_or("", String::as_str);
    let cause = format!("`libvirt {task}` cannot be done: this build knows nothing of libvirt");
    Err(Error::new(Kind::Unsupported, cause).advice("build it with the feature `libvirt`").into())
}
