//! `man`: the manual pages, made from the same text as `--help`.

use std::fs;
use std::path::{Path, PathBuf};

use clap_mangen::Man;

use super::{Exit, Failure, Ui, command_line};
use crate::model::error::{Error, Kind, Result};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Write one page per command to this directory instead of printing the main page
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Prints the main page, or writes all of them.
pub(super) fn run(args: &ManArgs, ui: &Ui) -> std::result::Result<Exit, Failure> {
    match &args.directory {
        Some(directory) => {
            let pages = write_pages(directory)?;
            ui.note(&format!("{pages} pages written to {}", directory.display()));
        }
        None => ui.print(&String::from_utf8_lossy(&page(command_line())?))?,
    }
    Ok(Exit::Done)
}

fn write_pages(directory: &Path) -> Result<usize> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| Error::io(Kind::Output, "write", &path, &error)
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let mut line = command_line();
    line.build();
    let mut pages = vec![("hyper2kvm.1".to_owned(), line.clone())];
    for sub in line.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
        let name = format!("hyper2kvm-{}", sub.get_name());
        pages.push((format!("{name}.1"), sub.clone().display_name(name)));
    }
    for (file, command) in &pages {
        let path = directory.join(file);
        fs::write(&path, page(command.clone())?).map_err(failed(&path))?;
    }
    Ok(pages.len())
}

fn page(command: clap::Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command)
        .manual("hyper2kvm")
        .render(&mut text)
        .map_err(|error| Error::internal(format!("cannot make the manual page: {error}")))?;
    Ok(text)
}
