//! Text files of a guest, changed in place: what every repair of a configuration file has in common.
//!
//! A repair of text is a pure function from the old text to a [`Rewritten`]. Here it is applied to a file, told, and later held to: the
//! same function must find nothing left to do. Bytes that are not UTF-8 (a comment from the nineties) survive. What is not here: what
//! any file means.

use crate::guest::tree::{Tree, shown};
use crate::model::error::{Error, Kind, Result};

/// Changes told one by one; of more, only how many.
const MOST_TOLD: usize = 4;
/// More of either are not kept: a hostile file could have a million.
const MOST_KEPT: usize = 64;
/// Characters of a guest's words in a message.
const MOST_SHOWN: usize = 100;

/// What became of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The text as it is now to be.
    pub text: String,
    /// What was changed, for people: `/dev/sda1 is UUID=…`.
    pub changes: Vec<String>,
    /// Names that change with the machine and that nothing is known for: left as they are.
    pub lost: Vec<String>,
}

impl Rewritten {
    /// Adds a change, unless it has been told.
    pub fn changed(&mut self, what: String) {
        if self.changes.len() < MOST_KEPT && !self.changes.contains(&what) {
            self.changes.push(what);
        }
    }

    /// Adds a name that nothing is known for, unless it has been told.
    pub fn lost(&mut self, name: &str) {
        let name = short(name);
        if self.lost.len() < MOST_KEPT && !self.lost.contains(&name) {
            self.lost.push(name);
        }
    }

    /// The changes in one line.
    #[must_use]
    pub fn detail(&self) -> String {
        let told: Vec<&str> = self.changes.iter().take(MOST_TOLD).map(String::as_str).collect();
        let more = self.changes.len() - told.len();
        if more == 0 { told.join("; ") } else { format!("{}; and {more} more", told.join("; ")) }
    }
}

/// A guest's words, fit for a message.
#[must_use]
pub fn short(words: &str) -> String {
    let cut: String = words.chars().take(MOST_SHOWN).collect();
    let dots = if cut.len() < words.len() { "…" } else { "" };
    format!("{}{dots}", shown(&cut))
}

/// Applies a repair to a file, if the file is there, and warns of names that it had to leave.
pub fn edit(
    tree: &mut Tree,
    warnings: &mut Vec<String>,
    path: &str,
    repair: impl FnOnce(&str) -> Rewritten,
) -> Result<()> {
    let Some(bytes) = tree.read(path)? else { return Ok(()) };
    let (text, encoding) = decode(&bytes);
    let rewritten = repair(&text);
    for name in &rewritten.lost {
        warnings.push(format!(
            "{}: {name} stays as it is, because nothing in these disks can be told to be it",
            shown(path)
        ));
    }
    if rewritten.text != text {
        tree.write(path, &encode(&rewritten.text, encoding), &rewritten.detail())?;
    }
    Ok(())
}

/// Reads a file again and fails if the same repair would change anything, or if it lost names that nobody was warned of.
pub fn is_settled(
    tree: &Tree,
    warnings: &[String],
    path: &str,
    repair: impl FnOnce(&str) -> Rewritten,
) -> Result<()> {
    let Some(bytes) = tree.read(path)? else { return Ok(()) };
    let (text, _) = decode(&bytes);
    let again = repair(&text);
    let silent = again.lost.iter().find(|name| !warnings.iter().any(|told| told.contains(name.as_str())));
    if again.text == text && silent.is_none() {
        return Ok(());
    }
    let what = silent.cloned().unwrap_or_else(|| again.detail());
    Err(not_kept(path, &format!("it still has to be changed: {what}")))
}

/// The error of a verification.
pub fn not_kept(path: &str, why: &str) -> Error {
    Error::new(Kind::Guest, format!("{} of the guest was repaired, and read back it is not: {why}", shown(path)))
        .advice("this is a fault of the repair: nothing was published; convert with that repair switched off, and report it")
}

/// The text of a file, if it is there.
pub fn read(tree: &Tree, path: &str) -> Result<Option<String>> {
    Ok(tree.read(path)?.map(|bytes| decode(&bytes).0))
}

/// How bytes became text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    /// One character for each byte, so that every byte comes back.
    Bytes,
}

fn decode(bytes: &[u8]) -> (String, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (bytes.iter().map(|&byte| char::from(byte)).collect(), Encoding::Bytes),
    }
}

fn encode(text: &str, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Utf8 => text.as_bytes().to_vec(),
        // Repairs add nothing but ASCII, so no character is too large.
        Encoding::Bytes => text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect(),
    }
}

/// A line without its end, and its end.
#[must_use]
pub fn split_end(line: &str) -> (&str, &str) {
    let body = line.strip_suffix('\n').unwrap_or(line);
    let body = body.strip_suffix('\r').unwrap_or(body);
    line.split_at(body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_utf8_come_back_as_they_were() {
        for bytes in [&b"# Pl\xe4tze\n\0\xff"[..], "# Plätze\n".as_bytes(), b""] {
            let (text, encoding) = decode(bytes);
            assert_eq!(encode(&text, encoding), bytes);
        }
    }

    #[test]
    fn many_changes_are_told_by_their_number() {
        let mut rewritten = Rewritten::default();
        for change in ["a", "b", "c", "d", "e", "f", "a"] {
            rewritten.changed(change.to_owned());
        }
        assert_eq!(rewritten.detail(), "a; b; c; d; and 2 more");
    }

    #[test]
    fn a_guests_words_in_a_message_are_short_and_move_no_cursor() {
        assert_eq!(short("/dev/sda1\x1b[2J"), "/dev/sda1\\u{1b}[2J");
        assert!(short(&"x".repeat(1_000_000)).chars().count() <= MOST_SHOWN + 1);
    }

    #[test]
    fn a_lines_end_is_told_apart() {
        assert_eq!(split_end("a\r\n"), ("a", "\r\n"));
        assert_eq!(split_end("a\n"), ("a", "\n"));
        assert_eq!(split_end("a"), ("a", ""));
    }
}
