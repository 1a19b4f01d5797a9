//! How a line of the log looks, wherever it goes: text for people, in colour on a terminal, or JSON for what collects logs.
//!
//! ```text
//! 2026-01-23T17:30:45.123Z  WARN hyper2kvm::work: is slow bytes=4096 job=17 batch=night vm=web01
//! {"ts":"2026-01-23T17:30:45.123Z","level":"WARN","msg":"is slow","ctx":{"job":17,…,"bytes":4096},"logger":"hyper2kvm::work","pid":4711}
//! ```
//!
//! What a whole process works for is bound to all of its lines, from whichever thread they come ([`Bound`]). A warning that is said over and over is
//! folded ([`fold`]). What is not here: where lines go, how many there are, and what the journal is told.

mod fields;
pub mod fold;
mod json;
mod text;

use serde_json::Value;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::registry::LookupSpan;

pub use self::fields::{Fields, words};

/// What belongs to every line of a process: `job`, `batch`, `vm`.
pub type Bound = Vec<(&'static str, Value)>;

/// Which time it is, in seconds since the epoch.
pub type Clock = fn() -> f64;

/// One JSON object a line.
pub fn json<S, W>(writer: W, bound: Bound, clock: Clock) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    json::Json { writer, bound, clock }
}

/// Lines for people. `target`: whether they say which part of the program speaks.
pub fn text<S, W>(
    writer: W,
    bound: &Bound,
    colours: bool,
    target: bool,
    clock: Clock,
) -> impl Layer<S> + Send + Sync + use<S, W>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::format().with_target(target).with_timer(text::Timer(clock));
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colours)
        .event_format(text::Text { lines, bound: text::tail(bound) })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        fn text(&self) -> String {
            let pid = format!("\"pid\":{}", std::process::id());
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().replace(&pid, "\"pid\":4711")
        }
    }

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Paper {
        type Writer = Paper;

        fn make_writer(&'w self) -> Paper {
            self.clone()
        }
    }

    fn then() -> f64 {
        1_769_189_445.123
    }

    fn night() -> Bound {
        vec![("job", 17.into()), ("batch", "night".into()), ("vm", "web 01".into())]
    }

    /// What happens to a job, from the beginning of a stage to its failure.
    fn work() {
        tracing::info!(target: "hyper2kvm::work", stage = "convert", "stage begins");
        let span = tracing::info_span!("disk", disk = "boot", percent = tracing::field::Empty);
        span.record("percent", 12.5);
        span.in_scope(|| {
            tracing::warn!(target: "hyper2kvm::work", bytes = 4096_u64, behind = -3, shared = true, "is \"slow\"\nagain");
        });
        let error = io::Error::new(io::ErrorKind::StorageFull, "no room");
        tracing::error!(target: "hyper2kvm::work", %error, path = ?std::path::Path::new("/srv/out"), "failed");
    }

    fn written<L>(make: impl FnOnce(Paper) -> L) -> String
    where
        L: Layer<tracing_subscriber::Registry> + Send + Sync,
    {
        let paper = Paper::default();
        let layer = make(paper.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        paper.text()
    }

    #[test]
    fn json_lines_look_like_this() {
        insta::assert_snapshot!(written(|paper| json(paper, night(), then)));
    }

    #[test]
    fn text_lines_look_like_this() {
        insta::assert_snapshot!(written(|paper| text(paper, &Bound::new(), false, true, then)));
    }

    #[test]
    fn lines_of_a_job_look_like_this() {
        insta::assert_snapshot!(written(|paper| text(paper, &night(), false, false, then)));
    }

    #[test]
    fn lines_on_a_terminal_look_like_this() {
        let lines = written(|paper| text(paper, &Bound::new(), true, true, then));
        insta::assert_snapshot!(lines.replace('\u{1b}', "ESC"));
    }

    #[test]
    fn every_json_line_is_one_object_whatever_is_said() {
        let paper = Paper::default();
        let layer = json(paper.clone(), Bound::new(), then);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(ts = "theirs", text = "\u{1b}[31m\n{\"level\":\"ERROR\"}", "a\nb");
        });
        let lines: Vec<Value> =
            paper.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1);
        assert_eq!((&lines[0]["level"], &lines[0]["ctx"]["ts"]), (&"INFO".into(), &"theirs".into()));
    }
}
