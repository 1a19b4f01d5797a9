//! A serial console as a person would read it: lines, without what moves cursors and changes colours.
//!
//! What comes in is a guest's, so nothing of it is trusted: memory is bounded, control characters never come
//! out, and bytes that are no text become U+FFFD. A line that its writer goes back to (a spinner) is replaced,
//! not repeated. What is not here: what the lines mean.

use std::collections::VecDeque;

/// A line longer than this is cut into pieces.
const LINE_CHARACTERS: usize = 1000;
/// Lines kept.
const LINES: usize = 400;

/// What the decoder is in the midst of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After ESC.
    Escape,
    /// After ESC and a character that announces one more (character sets).
    EscapeOne,
    /// After ESC `[`, until a final byte.
    Control,
    /// After ESC `]` and the like, until BEL or ESC.
    Words,
}

/// The console of one guest.
#[derive(Debug)]
pub(super) struct Console {
    state: State,
    partial: Vec<u8>,
    /// Whether the cursor went back to the start of the line: what comes next replaces it.
    returned: bool,
    lines: VecDeque<String>,
    fresh: Vec<String>,
}

impl Console {
    pub(super) fn new() -> Console {
        Console {
            state: State::Text,
            partial: Vec::new(),
            returned: false,
            lines: VecDeque::new(),
            fresh: Vec::new(),
        }
    }

    /// Takes what the guest wrote.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (_, 0x1b) => State::Escape,
                (State::Text, _) => {
                    self.text(byte);
                    State::Text
                }
                (State::Escape, b'[') => State::Control,
                (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::Words,
                (State::Escape, b' ' | b'#' | b'%' | b'('..=b'/') => State::EscapeOne,
                (State::Escape, b'c') => {
                    self.end_line();
                    State::Text
                }
                (State::Escape | State::EscapeOne, _) => State::Text,
                (State::Control, 0x40..=0x7e) => {
                    self.control(byte);
                    State::Text
                }
                // A line that ends within a sequence was none: firmware that was cut off in mid-word.
                (State::Control | State::Words, b'\n') => {
                    self.end_line();
                    State::Text
                }
                (State::Words, 0x07) => State::Text,
                (state @ (State::Control | State::Words), _) => state,
            };
        }
    }

    fn text(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => self.returned = true,
            0x08 => drop(self.partial.pop()),
            b'\t' => self.put(b' '),
            0..=0x1f | 0x7f => {}
            _ => self.put(byte),
        }
    }

    fn put(&mut self, byte: u8) {
        if std::mem::take(&mut self.returned) && !self.partial.is_empty() {
            let replaced = self.shown();
            self.partial.clear();
            // It was there to be read, once: it is judged and written down, but not kept for the end.
            self.note(replaced);
        }
        if self.partial.len() >= LINE_CHARACTERS {
            self.end_line();
        }
        self.partial.push(byte);
    }

    /// Sequences that put the cursor elsewhere begin a line, as far as a reader is concerned.
    fn control(&mut self, last: u8) {
        match last {
            b'H' | b'f' | b'J' | b'A' | b'B' | b'E' | b'F' => self.end_line(),
            b'C' => self.put(b' '),
            _ => {}
        }
    }

    fn end_line(&mut self) {
        self.returned = false;
        let line = self.shown();
        self.partial.clear();
        if line.is_empty() || self.lines.back() == Some(&line) {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.clone());
        self.note(line);
    }

    fn note(&mut self, line: String) {
        if !line.is_empty() && self.fresh.last() != Some(&line) {
            self.fresh.push(line);
        }
    }

    fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.partial);
        text.chars().filter(|c| !c.is_control()).collect::<String>().trim_end().to_owned()
    }

    /// The line that has no end yet: where a prompt stands.
    pub(super) fn prompt(&self) -> String {
        self.shown()
    }

    /// The lines that ended since this was asked last.
    pub(super) fn fresh(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// The last lines, the unfinished one too.
    pub(super) fn tail(&self, count: usize) -> Vec<String> {
        let prompt = Some(self.shown()).filter(|prompt| !prompt.is_empty());
        let all: Vec<String> = self.lines.iter().cloned().chain(prompt).collect();
        all[all.len().saturating_sub(count)..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<String> {
        let mut console = Console::new();
        console.take(bytes);
        console.tail(usize::MAX)
    }

    #[test]
    fn colours_and_cursors_are_not_text() {
        assert_eq!(
            read(b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS\r\n[\x1b[0;32m  OK  \x1b[0m] Reached \x1b]0;title\x07target.\r\n\x1b(Bdebian login: "),
            ["SeaBIOS", "[  OK  ] Reached target.", "debian login:"]
        );
        // OVMF writes each row by moving the cursor there.
        assert_eq!(
            read(b"\x1b[07;01HPress ESC in 5 seconds\x1b[07;01HPress ESC in 4 seconds\r\n\x1b[08;01H\x1b[33mShell> "),
            ["Press ESC in 5 seconds", "Press ESC in 4 seconds", "Shell>"]
        );
    }

    #[test]
    fn a_line_that_is_written_over_is_heard_once_and_not_kept() {
        let mut console = Console::new();
        console.take(b"[*     ] A start job is running (1s)\r[**    ] A start job is running (2s)\r\n");
        assert_eq!(console.tail(9), ["[**    ] A start job is running (2s)"]);
        assert_eq!(console.fresh().len(), 2);
        assert!(console.fresh().is_empty());
    }

    #[test]
    fn a_prompt_is_seen_before_its_line_ends_however_it_arrives() {
        let mut console = Console::new();
        for byte in b"x\r\n\x1b[1mhost login: " {
            console.take(&[*byte]);
        }
        assert_eq!(console.prompt(), "host login:");
    }

    #[test]
    fn what_a_guest_says_costs_bounded_memory_and_holds_no_control_characters() {
        let mut console = Console::new();
        let noise: Vec<u8> =
            (0..4_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for chunk in noise.chunks(1 << 16) {
            console.take(chunk);
            let heard = console.fresh();
            assert!(heard.iter().all(|line| line.len() <= 3 * LINE_CHARACTERS));
        }
        console.take(&vec![b'a'; 1 << 20]);
        let kept = console.tail(usize::MAX);
        assert!(kept.len() <= LINES + 1);
        assert!(kept.iter().flat_map(|line| line.chars()).all(|c| !c.is_control()));
    }
}
