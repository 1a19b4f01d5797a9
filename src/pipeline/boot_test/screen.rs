//! The screen of a guest that says nothing on its console: does it still move, and what does it show?
//!
//! A screen that stands still while the processor idles shows that a guest waits for somebody: at a login, or at
//! an error. Which of them, a picture cannot tell a program; a person can look at it. What is not here:
//! reading text off a picture.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read as _;
use std::time::Duration;

use crate::sys::scratch::Scratch;

use serde_json::{Value, json};

use super::line::JsonLine;

/// Where QEMU puts pictures, in the test's directory.
const PICTURE: &str = "screen.png";
/// Larger pictures are not of any screen.
const PICTURE_BYTES: u64 = 32 << 20;
/// The console has to be silent this long before the screen is asked.
const SILENCE: Duration = Duration::from_secs(20);
/// Between two pictures.
const EVERY: Duration = Duration::from_secs(5);
/// So many pictures in a row have to be alike.
const ALIKE: usize = 18;
/// A blinking cursor makes two of one.
const FACES: usize = 2;
/// An idle guest asks for less than this part of one processor.
const IDLE: f64 = 0.2;

/// What is known of the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    asked: Option<u64>,
    number: u64,
    looked: Option<Duration>,
    /// Per picture: its hash, when it was taken, and the processor time that was asked for until then.
    seen: VecDeque<(u64, Duration, Duration)>,
    now: (Duration, Duration),
    picture: Option<Vec<u8>>,
}

impl Screen {
    /// Takes a picture when it is time for one.
    pub(super) fn look(
        &mut self,
        ran: Duration,
        silent_since: Duration,
        pid: Option<u32>,
        control: &mut JsonLine,
    ) {
        if ran < silent_since + SILENCE {
            self.seen.clear();
            return;
        }
        if self.asked.is_some() || self.looked.is_some_and(|looked| ran < looked + EVERY) {
            return;
        }
        self.looked = Some(ran);
        let Some(asked_for) = pid.and_then(processor_time) else { return };
        self.now = (ran, asked_for);
        self.ask(control);
    }

    /// Takes one picture more, whatever was seen before.
    pub(super) fn last_picture(&mut self, control: &mut JsonLine) {
        self.ask(control);
    }

    /// Whether no picture is awaited.
    pub(super) fn is_done(&self) -> bool {
        self.asked.is_none()
    }

    fn ask(&mut self, control: &mut JsonLine) {
        self.number += 1;
        self.asked = Some(self.number);
        let arguments = json!({ "filename": PICTURE, "format": "png" });
        control.say(&json!({ "execute": "screendump", "arguments": arguments, "id": self.number }));
    }

    /// Hears QEMU's answer to what was asked.
    pub(super) fn answered(&mut self, answer: &Value, scratch: &Scratch) {
        if self.asked.is_none() || answer["id"].as_u64() != self.asked {
            return;
        }
        self.asked = None;
        let mut bytes = Vec::new();
        let read = std::fs::File::open(scratch.file(PICTURE))
            .and_then(|file| file.take(PICTURE_BYTES).read_to_end(&mut bytes));
        if answer.get("error").is_some() || read.is_err() || bytes.is_empty() {
            return;
        }
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        if self.seen.len() == ALIKE {
            self.seen.pop_front();
        }
        self.seen.push_back((hasher.finish(), self.now.0, self.now.1));
        self.picture = Some(bytes);
    }

    /// What speaks for a guest that waits for somebody, if anything does.
    pub(super) fn stands_still(&self) -> Option<String> {
        let (&(_, began, before), &(_, ended, after)) = self.seen.front().zip(self.seen.back())?;
        let faces: HashSet<u64> = self.seen.iter().map(|(face, ..)| *face).collect();
        let seconds = (ended.saturating_sub(began)).as_secs_f64();
        let busy = after.saturating_sub(before).as_secs_f64();
        let still = self.seen.len() == ALIKE && faces.len() <= FACES && busy < seconds * IDLE;
        still.then(|| format!("the screen stands still and the guest idles for {seconds:.0} s, with nothing on its serial console"))
    }

    /// The last picture.
    pub(super) fn picture(self) -> Option<Vec<u8>> {
        self.picture
    }
}

/// The processor time that all threads of a process had or waited for: on a host that is busy with other things, a
/// guest that gets little is not idle. None where the kernel does not tell.
fn processor_time(pid: u32) -> Option<Duration> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread may have ended since.
        let Ok(told) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
        total += told.split_whitespace().take(2).filter_map(|number| number.parse::<u64>().ok()).sum::<u64>();
    }
    (total > 0).then(|| Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(faces: &[u64], busy_ms: u32) -> Screen {
        let busy = Duration::from_millis(u64::from(busy_ms));
        let pictures = faces.iter().zip(0..).map(|(face, n)| (*face, EVERY * n, busy * n));
        Screen { seen: pictures.collect(), ..Screen::default() }
    }

    #[test]
    fn a_screen_with_a_blinking_cursor_stands_still() {
        let blinking: Vec<u64> = (0..ALIKE as u64).map(|n| n % 2).collect();
        assert!(seen(&blinking, 100).stands_still().unwrap().contains("85 s"));
        assert!(seen(&[7; ALIKE], 100).stands_still().is_some());
    }

    #[test]
    fn a_guest_that_works_or_was_not_watched_for_long_does_not() {
        assert_eq!(seen(&[7; ALIKE], 4000).stands_still(), None);
        assert_eq!(seen(&[7; ALIKE - 1], 100).stands_still(), None);
        let moving: Vec<u64> = (0..ALIKE as u64).map(|n| n % 3).collect();
        assert_eq!(seen(&moving, 100).stands_still(), None);
    }

    #[test]
    fn the_kernel_tells_what_a_process_asks_for() {
        let pid = std::process::id();
        let before = processor_time(pid).unwrap();
        let began = std::time::Instant::now();
        while processor_time(pid).unwrap() < before + Duration::from_millis(20) {
            assert!(began.elapsed() < Duration::from_secs(60));
        }
    }
}
