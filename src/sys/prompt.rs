//! A question at the terminal whose answer nobody sees.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Where a person sits, whatever standard input is.
const TERMINAL: &str = "/dev/tty";
/// No answer is longer.
const MOST_BYTES: u64 = 4096;
/// What an interrupt is, where it is a letter like any other.
const INTERRUPT: char = '\u{3}';

/// Asks, and does not show what is written; none: it was interrupted, or nothing was written. An error where nobody can be asked.
pub fn hidden(question: &str) -> io::Result<Option<String>> {
    let mut terminal = OpenOptions::new().read(true).write(true).open(TERMINAL)?;
    terminal.write_all(question.as_bytes())?;
    let quiet = Quiet::new(terminal.try_clone()?)?;
    let mut line = String::new();
    io::Read::take(BufReader::new(&terminal), MOST_BYTES).read_line(&mut line)?;
    drop(quiet);
    terminal.write_all(b"\n")?;
    let answer = line.trim_end_matches(['\n', '\r']);
    Ok((!answer.is_empty() && !answer.contains(INTERRUPT)).then(|| answer.to_owned()))
}

/// A terminal that shows nothing, until it is dropped.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: File) -> io::Result<Quiet> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        // An interrupt must not leave a terminal that shows nothing: here it is a letter.
        quiet.local_modes &= !(LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Quiet { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
