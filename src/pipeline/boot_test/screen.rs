//! The screen of a guest that says nothing on its console: does it still move, and what does it show?
//!
//! A screen that stands still while the processor idles shows that a guest waits for somebody: at a login, or at
//! an error. Which of them, a picture cannot tell a program; a person can look at it. What is not here:
//! how a picture is taken, and reading text off it.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

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
    is_asked: bool,
    looked: Option<Duration>,
    /// Per picture: its hash, when it was taken, and the processor time that was asked for until then.
    seen: VecDeque<(u64, Duration, Duration)>,
    now: (Duration, Duration),
    picture: Option<Vec<u8>>,
}

impl Screen {
    /// Whether it is time for a picture, which is then awaited.
    pub(super) fn wants_one(
        &mut self,
        ran: Duration,
        silent_since: Duration,
        processor_time: impl FnOnce() -> Option<Duration>,
    ) -> bool {
        if ran < silent_since + SILENCE {
            self.seen.clear();
            return false;
        }
        if self.is_asked || self.looked.is_some_and(|looked| ran < looked + EVERY) {
            return false;
        }
        self.looked = Some(ran);
        let Some(asked_for) = processor_time() else { return false };
        self.now = (ran, asked_for);
        self.is_asked = true;
        true
    }

    /// One more is awaited, whatever was seen before.
    pub(super) fn wants_a_last_one(&mut self) {
        self.is_asked = true;
    }

    /// Whether no picture is awaited.
    pub(super) fn is_done(&self) -> bool {
        !self.is_asked
    }

    /// A picture that was awaited, or that there will be none.
    pub(super) fn take(&mut self, picture: Option<Vec<u8>>) {
        if !std::mem::take(&mut self.is_asked) {
            return;
        }
        let Some(bytes) = picture else { return };
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
}
