//! One JSON object a line: `ts`, `level`, `msg`, and what belongs to it as `ctx`.
//!
//! What is written is one line whatever is said in it, and no field of an event can take the place of one of the line.

use std::io::Write as _;

use serde_json::{Map, Value};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::{Bound, Clock, Fields};
use crate::sys::time::rfc3339_utc;

/// Writes them.
pub(super) struct Json<W> {
    pub(super) writer: W,
    pub(super) bound: Bound,
    pub(super) clock: Clock,
}

/// Of a span, as this layer keeps them.
struct Kept(Fields);

impl<W> Json<W> {
    fn line(&self, event: &Event<'_>, outer: Vec<(&'static str, Value)>) -> Value {
        let mut said = Fields::default();
        event.record(&mut said);
        let mut context = Map::new();
        // Of two of one name the nearer one holds.
        for (name, value) in self.bound.iter().cloned().chain(outer).chain(said.values) {
            context.insert(name.to_owned(), value);
        }
        let of = event.metadata();
        serde_json::json!({
            "ts": rfc3339_utc((self.clock)()),
            "level": of.level().as_str(),
            "msg": said.message,
            "ctx": context,
            "logger": of.target(),
            "pid": std::process::id(),
        })
    }
}

impl<S, W> Layer<S> for Json<W>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(Kept(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(Kept(fields)) = span.extensions_mut().get_mut()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut outer = Vec::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(Kept(fields)) = span.extensions().get() {
                outer.extend(fields.values.iter().cloned());
            }
        }
        let line = format!("{}\n", self.line(event, outer));
        // Nobody can be told that the log cannot be written.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(line.as_bytes());
    }
}
