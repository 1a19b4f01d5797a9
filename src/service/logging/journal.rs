//! Log lines for the journal, told as sentences.
//!
//! The journal shows a person only `MESSAGE`, so that has to read as a whole: whose job it is, what
//! happened, and why. `tracing-journald` sends fields and the bare message ("failed", of nobody, for no
//! reason); [`Sentences`] stands before it and hands it the same event with a message that says it all.
//! The fields are sent as they are, to be searched for. What is not here: the journal's protocol.

use std::fmt::{self, Write as _};
use std::io;

use tracing::field::{Field, Value, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::sys::lines::{Fields, words};

/// Before the name of every field of ours.
const PREFIX: &str = "H2K";
/// A datagram holds about 200 KiB; a value that is longer than this is cut.
const MAX_VALUE_BYTES: usize = 16 * 1024;
/// Told in the message's own words, so not once more behind it.
const IN_THE_WORDS: [&str; 5] = ["job", "batch", "vm", "stage", "error"];

/// The journal of this machine; an error if there is none.
pub(super) fn connect() -> io::Result<Sentences<tracing_journald::Layer>> {
    let journal = tracing_journald::layer()?
        .with_syslog_identifier("hyper2kvm".to_owned())
        .with_field_prefix(Some(PREFIX.to_owned()))
        .with_priority_mappings(PriorityMappings {
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        });
    Ok(Sentences { inner: journal })
}

/// Of a span, as this layer keeps them.
struct Kept(Fields);

/// Hands every event on with a message that reads as a whole.
#[derive(Debug)]
pub(super) struct Sentences<L> {
    inner: L,
}

impl<S, L> Layer<S> for Sentences<L>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    L: Layer<S>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(Kept(fields));
        }
        self.inner.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(Kept(fields)) = span.extensions_mut().get_mut()
        {
            values.record(fields);
        }
        self.inner.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(Kept(outer)) = span.extensions().get() {
                fields.values.extend(outer.values.iter().cloned());
            }
        }
        event.record(&mut fields);
        let mut told =
            Told { sentence: sentence(&fields), values: vec![None; event.metadata().fields().len()] };
        event.record(&mut told);
        let values: Vec<Option<&dyn Value>> =
            told.values.iter().map(|value| value.as_ref().map(|text| text as &dyn Value)).collect();
        let values = event.metadata().fields().value_set_all(&values);
        self.inner.on_event(&Event::new(event.metadata(), &values), context);
    }
}

/// The event as it is handed on: the sentence for its message, all else as text.
struct Told {
    sentence: String,
    values: Vec<Option<String>>,
}

impl Told {
    fn take(&mut self, field: &Field, mut value: String) {
        if field.name() == "message" {
            value.clone_from(&self.sentence);
        }
        let mut length = value.len().min(MAX_VALUE_BYTES);
        while !value.is_char_boundary(length) {
            length -= 1;
        }
        value.truncate(length);
        // Those that the bridge from the `log` crate makes speak about itself.
        if !field.name().starts_with("log.") {
            self.values[field.index()] = Some(value);
        }
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

/// What a person reads.
fn sentence(fields: &Fields) -> String {
    let get = |name: &str| {
        let found = fields.values.iter().rev().find(|(key, _)| *key == name);
        found.map(|(_, value)| words(value))
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match (get("batch"), get("vm"), get("job")) {
        (Some(batch), Some(vm), _) => write!(text, "{batch}/{vm}: "),
        (Some(batch), None, _) => write!(text, "{batch}: "),
        (None, _, Some(job)) => write!(text, "job {job}: "),
        (None, _, None) => Ok(()),
    };
    if let Some(stage) = get("stage") {
        let _ = write!(text, "{stage} ");
    }
    text.push_str(&fields.message);
    if let Some(error) = get("error") {
        let _ = write!(text, ": {error}");
    }
    let others: Vec<String> = (fields.values.iter())
        .filter(|(key, _)| !IN_THE_WORDS.contains(key))
        .map(|(key, value)| format!("{key}={}", words(value)))
        .collect();
    if !others.is_empty() {
        let _ = write!(text, " ({})", others.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// In the journal's place: keeps what it is handed.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>);

    impl<S: Subscriber> Layer<S> for Heard {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let mut all: BTreeMap<_, _> =
                fields.values.iter().map(|(name, value)| (*name, words(value))).collect();
            all.insert("message", fields.message);
            self.0.lock().unwrap().push(all);
        }
    }

    fn heard(log: impl FnOnce()) -> Vec<BTreeMap<&'static str, String>> {
        let heard = Heard::default();
        let layer = Sentences { inner: heard.clone() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let lines = heard.0.lock().unwrap();
        lines.clone()
    }

    #[test]
    fn what_happens_to_a_job_reads_as_a_sentence_and_keeps_its_fields() {
        let heard = heard(|| {
            tracing::error!(job = 17, batch = "night", vm = %"web01", error = %"no room", attempt = 2, "failed");
        });
        assert_eq!(heard[0]["message"], "night/web01: failed: no room (attempt=2)");
        for (field, value) in [("job", "17"), ("batch", "night"), ("vm", "web01"), ("attempt", "2")] {
            assert_eq!(heard[0][field], value);
        }
    }

    #[test]
    fn what_has_no_job_is_just_told() {
        let heard = heard(|| tracing::info!("ready after {} ms", 12));
        assert_eq!(heard[0]["message"], "ready after 12 ms");
        assert_eq!(heard[0].len(), 1);
    }

    #[test]
    fn fields_of_spans_are_part_of_the_sentence() {
        let heard = heard(|| {
            let span =
                tracing::info_span!("job", batch = "night", vm = "web01", stage = tracing::field::Empty);
            span.record("stage", "convert");
            span.in_scope(|| tracing::warn!("is slow"));
        });
        assert_eq!(heard[0]["message"], "night/web01: convert is slow");
    }

    #[test]
    fn long_values_are_cut_where_a_character_ends() {
        let heard = heard(|| tracing::info!(text = "ä".repeat(100_000), "second"));
        assert!(heard[0]["text"].len() <= MAX_VALUE_BYTES);
        assert!(heard[0]["message"].len() <= MAX_VALUE_BYTES);
    }
}
