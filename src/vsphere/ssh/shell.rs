//! A shell on a host, spoken with over one connection: a question at a time, each with an answer whose end is told from its bytes.
//!
//! ```text
//!   dd if='…' … ; R=$?; echo; echo "TOKEN-7 $R"      ─▶
//!                                                    ◀─   bytes of the file … ⏎ TOKEN-7 0 ⏎
//! ```
//!
//! The token is random, so that nothing that lies in a disk is taken for it. What is not here: what is asked, and asking again.

use std::time::Duration;

use super::account::Account;
use super::command;
use crate::disk::Control;
use crate::model::error::{Error, Kind, Result};
use crate::sys::process::Conversation;
use crate::vsphere::failure;
use crate::vsphere::flow::{AFTER_A_REST, Flow, Late};

/// Who waits looks this often whether its work was ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const TOKEN_BYTES: usize = 16;
/// The end of an answer is shorter.
const END_BYTES: usize = 96;
/// So much may come beside the bytes that were asked for.
const MOST_WORDS: usize = 64 << 10;

/// One connection.
#[derive(Debug)]
pub(super) struct Shell {
    conversation: Conversation,
    account: Account,
    token: String,
    asked: u64,
    timeout: Duration,
    /// Whether the last answer came to its end: then another question may follow.
    is_at_rest: bool,
    /// Whether it was given up because it came too slowly.
    is_slow: bool,
}

/// What came of a question.
#[derive(Debug)]
pub(super) struct Answer {
    /// What came beyond them, or all of it if none were asked for.
    pub(super) words: String,
    /// How the command ended.
    pub(super) code: i32,
}

impl Shell {
    /// Waits until the host lets us in.
    pub(super) fn begin(
        conversation: Conversation,
        account: &Account,
        timeout: Duration,
        control: &Control,
    ) -> Result<Shell> {
        let mut random = [0; TOKEN_BYTES];
        getrandom::fill(&mut random)
            .map_err(|error| Error::internal(format!("no random number: {error}")))?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut shell = Shell {
            conversation,
            account: account.clone(),
            token,
            asked: 0,
            timeout,
            is_at_rest: true,
            is_slow: false,
        };
        shell.ask("LC_ALL=C; export LC_ALL", &mut [], &mut 0, control)?;
        Ok(shell)
    }

    /// Whether another question may follow.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_at_rest
    }

    /// Whether it was given up because an answer came too slowly.
    pub(super) fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Has something done and fills the buffer with what that prints. `sure`: so many of its bytes are good, also where the answer breaks off.
    pub(super) fn ask(
        &mut self,
        script: &str,
        into: &mut [u8],
        sure: &mut usize,
        control: &Control,
    ) -> Result<Answer> {
        self.is_at_rest = false;
        self.asked += 1;
        let end = format!("{}-{}", self.token, self.asked);
        let question = format!("{script}\nR=$?; echo; echo \"{end} $R\"\n");
        if self.conversation.tell(question.as_bytes(), self.timeout).is_err() {
            return Err(self.ended());
        }
        let (mut total, mut beyond, mut tail) = (0, Vec::new(), Vec::with_capacity(2 * END_BYTES));
        let mut aside = vec![0; 4096];
        let mut flow = Flow::new(self.timeout, AFTER_A_REST);
        loop {
            control.ended()?;
            let filled = total.min(into.len());
            let room = if filled < into.len() { &mut into[filled..] } else { &mut aside[..] };
            let count = match self.conversation.hear(room, LOOK_EVERY) {
                Ok(Some(0)) | Err(_) => return Err(self.ended()),
                Ok(Some(count)) => count,
                Ok(None) => {
                    flow.look(control).map_err(|late| self.late(late))?;
                    continue;
                }
            };
            let bytes = &room[..count];
            let last = &bytes[count.saturating_sub(END_BYTES)..];
            tail.extend_from_slice(last);
            tail.drain(..tail.len().saturating_sub(END_BYTES));
            if filled == into.len() {
                beyond.extend_from_slice(&aside[..count]);
            }
            total += count;
            // A file that has become shorter ends earlier: its end is then no part of it.
            *sure = total.saturating_sub(END_BYTES).min(into.len());
            if let Some((length, code)) = end_in(&tail, &end) {
                let came = total - length;
                *sure = came.min(into.len());
                beyond.truncate(came - *sure);
                self.is_at_rest = true;
                let words = String::from_utf8_lossy(&beyond).into_owned();
                return Ok(Answer { words, code });
            }
            flow.came(count as u64).map_err(|late| self.late(late))?;
            if beyond.len() > MOST_WORDS {
                let host = &self.account.host;
                return Err(Error::new(Kind::Source, format!("{host} says more than it was asked for"))
                    .advice("see that its shell is the one of ESXi, and says nothing by itself"));
            }
        }
    }

    fn ended(&mut self) -> Error {
        let complaint = self.conversation.complaint();
        command::ended(&self.account, &complaint)
    }

    fn late(&mut self, late: Late) -> Error {
        self.is_slow = late == Late::Slow;
        failure::late(&format!("the SSH of {}", self.account.host), late, self.timeout)
    }
}

/// How long the end of an answer is, and how the command ended; none if this is not the end.
fn end_in(tail: &[u8], end: &str) -> Option<(usize, i32)> {
    let line = tail.strip_suffix(b"\n")?;
    let begin = line.iter().rposition(|byte| *byte == b'\n')?;
    let told = std::str::from_utf8(line.get(begin + 1..)?).ok()?;
    let code = told.strip_prefix(end)?.strip_prefix(' ')?.parse().ok()?;
    Some((tail.len() - begin, code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_own_token_and_with_nothing_else() {
        assert_eq!(end_in(b"data\nabc-7 0\n", "abc-7"), Some((9, 0)));
        assert_eq!(end_in(b"\nabc-7 127\n", "abc-7"), Some((11, 127)));
        for other in [
            &b"data\nabc-7 0"[..],
            b"abc-7 0\n",
            b"\nabc-6 0\n",
            b"\nabc-70 0\n",
            b"\nabc-7\n",
            b"\nabc-7 x\n",
            b"",
        ] {
            assert_eq!(end_in(other, "abc-7"), None);
        }
    }
}
