//! How commands talk: text or one JSON document on standard output, errors on standard error.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::model::api::ErrorView;
use crate::model::error::{Error, Kind};

/// The heading of options that every command takes, below its own.
pub(super) const GLOBAL: &str = "Everywhere";

/// The options that every command takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct GlobalArgs {
    /// Print one JSON document instead of text; errors become one JSON object on standard error
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Say more (twice: still more)
    #[arg(short, long, global = true, help_heading = GLOBAL, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say only what was asked for, and errors
    #[arg(short, long, global = true, help_heading = GLOBAL, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl GlobalArgs {
    /// As logs count it: 0, more with each `-v`, less with `-q`.
    #[must_use]
    pub fn verbosity(&self) -> i8 {
        if self.quiet { -1 } else { i8::try_from(self.verbose).unwrap_or(i8::MAX) }
    }
}

/// Where a command's words go.
#[derive(Debug, Clone)]
pub struct Ui {
    /// One JSON document instead of text.
    pub json: bool,
    /// 0, 1 or 2 and more.
    pub verbose: u8,
    /// No words beyond the result.
    pub quiet: bool,
    /// Whether a person looks at standard output.
    pub terminal: bool,
    /// Whether colours are welcome on standard output.
    pub color: bool,
}

impl Ui {
    /// The user's wishes and what standard output is.
    #[must_use]
    pub fn new(args: &GlobalArgs) -> Ui {
        let terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ui {
            json: args.json,
            verbose: args.verbose,
            quiet: args.quiet,
            terminal,
            color: terminal && !no_color && !args.json,
        }
    }

    /// Prints a result. A reader that has gone away (`… | head`) ends the command quietly.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::silent(Exit::Done),
            _ => Error::new(Kind::Output, format!("cannot write to standard output: {error}")).into(),
        })
    }

    /// Prints a result as its one JSON document.
    pub fn print_json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::internal(format!("cannot write this as JSON: {error}")))?;
        self.print(&format!("{text}\n"))
    }

    /// A word for people beside the result: on standard error, and not with `-q` or `--json`.
    pub fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            complain(text);
        }
    }

    /// Tells why a command failed.
    pub fn fail(&self, failure: &Failure) {
        let Some(error) = &failure.error else { return };
        if self.json {
            let told = Told { error: ErrorView::from(error), exit_code: failure.exit.code() };
            complain(&serde_json::to_string(&told).unwrap_or_else(|_| error.to_string()));
        } else {
            complain(&format!("hyper2kvm: {error}"));
            if let Some(tail) = &error.details().console_tail {
                complain(tail.trim_end());
            }
        }
    }
}

/// The one object that `--json` puts on standard error.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    error: ErrorView,
    exit_code: u8,
}

/// One line on standard error. That nobody reads it is no reason to fail.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
