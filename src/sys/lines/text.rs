//! Lines for people: time, level, words, fields, and at the end what the whole process works for.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{Bound, Clock, words};
use crate::sys::time::rfc3339_utc;

/// The time of a line.
pub(super) struct Timer(pub(super) Clock);

impl FormatTime for Timer {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", rfc3339_utc((self.0)()))
    }
}

/// Writes them.
pub(super) struct Text {
    pub(super) lines: Format<Full, Timer>,
    /// As it stands at the end of each.
    pub(super) bound: String,
}

/// ` job=17 batch=night vm="web 01"`
pub(super) fn tail(bound: &Bound) -> String {
    let is_plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"=\\".contains(&byte))
    };
    let shown = bound.iter().map(|(name, value)| match words(value) {
        text if is_plain(&text) => format!(" {name}={text}"),
        text => format!(" {name}={text:?}"),
    });
    shown.collect()
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.bound.is_empty() {
            return self.lines.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.lines.format_event(context, Writer::new(&mut line), event)?;
        // What goes on in a further line does not look like one of its own.
        let line = line.trim_end_matches('\n').replace('\n', "\n    ");
        writeln!(writer, "{line}{}", self.bound)
    }
}
