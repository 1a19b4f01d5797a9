//! A warning that is said over and over is said once, and then how often it was said again.
//!
//! ```text
//!  (unknown) ──said: shown──▶ open, for a while ──said again: counted──▶ open
//!      ▲                            │ the while is over
//!      └──── it was not said again ─┴─ it was: shown with the count, and open for another while
//! ```
//!
//! The same is what comes from the same place with the same words and fields. Errors are never folded, and neither is anything once too much is open.
//! A thread tells counts, as long as there is something to count.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tracing::field::Value as Recorded;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::{Fields, words};

/// How long a warning is counted before it is told how often it came.
pub const WINDOW: Duration = Duration::from_secs(60);

/// So many different warnings are counted at a time, …
const MOST: usize = 256;

/// … and none that is longer.
const MOST_BYTES: usize = 4 << 10;

/// Keeps back what was just said.
#[derive(Debug, Clone)]
pub struct Fold(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    window: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<String, Warning>,
    has_teller: bool,
    is_finished: bool,
}

/// A warning that was said, and how often since.
#[derive(Debug, Clone)]
struct Warning {
    of: &'static Metadata<'static>,
    said: Fields,
    again: u64,
    until: Instant,
}

impl Fold {
    /// Counts for so long.
    #[must_use]
    pub fn new(window: Duration) -> Fold {
        Fold(Arc::new(Shared { window, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Keeps back what was just said from this layer.
    pub fn over<L>(&self, inner: L) -> Folded<L> {
        Folded { inner, fold: self.clone() }
    }

    /// Tells all that is counted; from now on everything is shown.
    pub fn finish(&self) {
        let open = {
            let mut state = self.0.lock();
            state.is_finished = true;
            std::mem::take(&mut state.open)
        };
        self.0.changed.notify_all();
        open.into_values().for_each(|warning| warning.tell(self.0.window));
    }

    fn shows(&self, event: &Event<'_>) -> bool {
        let mut said = Fields::default();
        event.record(&mut said);
        let of = event.metadata();
        let key = format!("{:?} {said:?}", of.callsite());
        let now = Instant::now();
        let mut state = self.0.lock();
        if state.is_finished || key.len() > MOST_BYTES {
            return true;
        }
        if let Some(warning) = state.open.get_mut(&key)
            && (warning.until > now || warning.again > 0)
        {
            warning.again += 1;
            self.start_teller(&mut state);
            return false;
        }
        if state.open.len() >= MOST {
            state.open.retain(|_, warning| warning.until > now || warning.again > 0);
        }
        if state.open.len() < MOST {
            state.open.insert(key, Warning { of, said, again: 0, until: now + self.0.window });
        }
        true
    }

    fn start_teller(&self, state: &mut State) {
        if state.has_teller {
            return;
        }
        let shared = Arc::clone(&self.0);
        let started = thread::Builder::new().name("log".to_owned()).spawn(move || shared.tell_counts());
        // Without it counts are told at the end.
        state.has_teller = started.is_ok();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: until nothing is said again any more.
    fn tell_counts(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let due = state.take_due(now, self.window);
            if !due.is_empty() {
                // What is told comes by here again.
                drop(state);
                due.into_iter().for_each(|warning| warning.tell(self.window));
                state = self.lock();
                continue;
            }
            let Some(next) = state.open.values().map(|warning| warning.until).min() else {
                state.has_teller = false;
                return;
            };
            let wait = next.saturating_duration_since(now);
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// Those whose while is over and that were said again; those that were not are forgotten.
    fn take_due(&mut self, now: Instant, window: Duration) -> Vec<Warning> {
        self.open.retain(|_, warning| warning.until > now || warning.again > 0);
        let due = self.open.values_mut().filter(|warning| warning.until <= now);
        due.map(|warning| {
            let told = warning.clone();
            (warning.again, warning.until) = (0, now + window);
            told
        })
        .collect()
    }
}

impl Warning {
    /// The same event once more, with the count behind its words.
    fn tell(mut self, window: Duration) {
        if self.again == 0 {
            return;
        }
        let seconds = window.as_secs_f64();
        self.said.message = format!("{} ({} times more within {seconds} s)", self.said.message, self.again);
        let told: Vec<Option<Box<dyn Recorded>>> =
            self.of.fields().iter().map(|field| self.value(field.name())).collect();
        let values: Vec<Option<&dyn Recorded>> = told.iter().map(Option::as_deref).collect();
        TELLING.set(true);
        Event::dispatch(self.of, &self.of.fields().value_set_all(&values));
        TELLING.set(false);
    }

    fn value(&self, name: &str) -> Option<Box<dyn Recorded>> {
        if name == "message" {
            return Some(Box::new(self.said.message.clone()));
        }
        let value = &self.said.values.iter().find(|(known, _)| *known == name)?.1;
        Some(match value {
            Value::Bool(flag) => Box::new(*flag),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Box::new(number),
                (None, Some(number)) => Box::new(number),
                (None, None) => Box::new(number.as_f64().unwrap_or_default()),
            },
            other => Box::new(words(other)),
        })
    }
}

thread_local! {
    /// A count is being told: that is not counted itself.
    static TELLING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A layer that is told only what is to be shown.
pub struct Folded<L> {
    inner: L,
    fold: Fold,
}

impl<S, L> Layer<S> for Folded<L>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    L: Layer<S>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.inner.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.inner.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if *event.metadata().level() != Level::WARN || TELLING.get() || self.fold.shows(event) {
            self.inner.on_event(event, context);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Keeps what is shown: level, words, fields.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Heard {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let values: Vec<String> =
                fields.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
            self.0.lock().unwrap().push(format!("{} {}", fields.message, values.join(" ")));
        }
    }

    fn heard(window: Duration, log: impl FnOnce(&Fold)) -> Vec<String> {
        let (heard, fold) = (Heard::default(), Fold::new(window));
        let layer = fold.over(heard.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || log(&fold));
        let lines = heard.0.lock().unwrap();
        lines.clone()
    }

    fn slow(job: u32, what: &str) {
        tracing::warn!(job, what, "is slow");
    }

    #[test]
    fn the_same_warning_is_shown_once_and_then_how_often_it_came() {
        let lines = heard(WINDOW, |fold| {
            for _ in 0..500 {
                slow(17, "a");
                slow(18, "a");
            }
            slow(17, "b");
            fold.finish();
            slow(17, "a");
        });
        let times = "is slow (499 times more within 60 s)";
        assert_eq!(
            lines,
            [
                "is slow job=17 what=\"a\"".to_owned(),
                "is slow job=18 what=\"a\"".to_owned(),
                "is slow job=17 what=\"b\"".to_owned(),
                format!("{times} job=17 what=\"a\""),
                format!("{times} job=18 what=\"a\""),
                "is slow job=17 what=\"a\"".to_owned(),
            ]
        );
    }

    #[test]
    fn what_was_not_said_again_is_forgotten_and_shown_the_next_time() {
        let lines = heard(Duration::from_millis(20), |_| {
            slow(1, "a");
            thread::sleep(Duration::from_millis(30));
            slow(1, "a");
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
    }

    #[test]
    fn errors_and_news_are_never_folded() {
        let lines = heard(WINDOW, |_| {
            for _ in 0..3 {
                tracing::error!("failed");
                tracing::info!("goes on");
            }
        });
        assert_eq!(lines.len(), 6, "{lines:?}");
    }

    #[test]
    fn no_flood_of_different_warnings_is_remembered_whole() {
        let lines = heard(WINDOW, |fold| {
            for job in 0..1000 {
                slow(job, "a");
            }
            assert_eq!(fold.0.lock().open.len(), MOST);
        });
        assert_eq!(lines.len(), 1000);
        let lines = heard(WINDOW, |fold| {
            (0..2).for_each(|_| slow(1, &"long".repeat(MOST_BYTES)));
            assert!(fold.0.lock().open.is_empty());
        });
        assert_eq!(lines.len(), 2);
    }
}
