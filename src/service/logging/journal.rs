//! Log lines for the journal, with their fields, in its native protocol.
//!
//! The journal shows a person only `MESSAGE`, so that has to read as a whole: whose job it is, what
//! happened, and why. The same values are sent as fields of their own besides, to be searched for. (The
//! crate that usually does this sends the bare message: "failed", of nobody, for no reason.)

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Before the name of every field of ours.
const PREFIX: &str = "H2K_";
/// A datagram holds about 200 KiB; a value that is longer than this is cut.
const MAX_VALUE_BYTES: usize = 16 * 1024;
/// Told in the message's own words, so not once more behind it.
const IN_THE_WORDS: [&str; 5] = ["job", "batch", "vm", "stage", "error"];

/// Sends events to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// The journal of this machine; an error if there is none.
    pub(super) fn connect() -> io::Result<Journal> {
        Journal::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        // journald ignores an empty datagram; that it can be sent means that somebody listens.
        socket.send_to(&[], path)?;
        Ok(Journal { socket, path: path.to_owned() })
    }
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.values.extend(outer.values.iter().cloned());
            }
        }
        event.record(&mut fields);
        // There is nowhere to tell that telling failed.
        let _ = self.socket.send_to(&datagram(event.metadata(), &fields), &self.path);
    }
}

/// The fields of an event or a span, in their order.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    values: Vec<(&'static str, String)>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// What a person reads.
    fn sentence(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = match (self.get("batch"), self.get("vm"), self.get("job")) {
            (Some(batch), Some(vm), _) => write!(text, "{batch}/{vm}: "),
            (Some(batch), None, _) => write!(text, "{batch}: "),
            (None, _, Some(job)) => write!(text, "job {job}: "),
            (None, _, None) => Ok(()),
        };
        if let Some(stage) = self.get("stage") {
            let _ = write!(text, "{stage} ");
        }
        text.push_str(&self.message);
        if let Some(error) = self.get("error") {
            let _ = write!(text, ": {error}");
        }
        for (index, (key, value)) in self.others().enumerate() {
            let _ = write!(text, "{}{key}={value}", if index == 0 { " (" } else { ", " });
        }
        if self.others().next().is_some() {
            text.push(')');
        }
        text
    }

    fn others(&self) -> impl Iterator<Item = &(&'static str, String)> {
        self.values.iter().filter(|(key, _)| !IN_THE_WORDS.contains(key))
    }

    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            // Made by the bridge from the `log` crate, about itself.
            name if name.starts_with("log.") => {}
            name => self.values.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

fn datagram(metadata: &tracing::Metadata<'_>, fields: &Fields) -> Vec<u8> {
    let priority = match *metadata.level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    };
    let mut bytes = Vec::new();
    put(&mut bytes, "MESSAGE", &fields.sentence());
    put(&mut bytes, "PRIORITY", priority);
    put(&mut bytes, "SYSLOG_IDENTIFIER", "hyper2kvm");
    put(&mut bytes, "TARGET", metadata.target());
    for (name, value) in &fields.values {
        put(&mut bytes, &journal_name(name), value);
    }
    bytes
}

/// Upper-case letters, digits and underscores are what the journal takes.
fn journal_name(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    PREFIX.chars().chain(plain).collect()
}

/// One field, in the form that may hold line breaks.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    let mut length = value.len().min(MAX_VALUE_BYTES);
    while !value.is_char_boundary(length) {
        length -= 1;
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    bytes.extend_from_slice(&value.as_bytes()[..length]);
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// The fields of every datagram that `log` sends.
    fn heard(log: impl FnOnce()) -> Vec<BTreeMap<String, String>> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let journal = Journal::at(&path).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), log);
        let mut found = Vec::new();
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(length) = socket.recv(&mut buffer) {
            if length > 0 {
                found.push(parse(&buffer[..length]));
            }
        }
        found
    }

    fn parse(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            let (name, rest) = (std::str::from_utf8(&bytes[..end]).unwrap(), &bytes[end + 1..]);
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            fields.insert(name.to_owned(), String::from_utf8(rest[8..8 + length].to_vec()).unwrap());
            assert_eq!(rest[8 + length], b'\n');
            bytes = &rest[8 + length + 1..];
        }
        fields
    }

    #[test]
    fn what_happens_to_a_job_reads_as_a_sentence_and_is_found_by_its_fields() {
        let heard = heard(|| {
            tracing::error!(job = 17, batch = "night", vm = %"web01", error = %"no room", attempt = 2, "failed");
        });
        assert_eq!(heard[0]["MESSAGE"], "night/web01: failed: no room (attempt=2)");
        assert_eq!(heard[0]["PRIORITY"], "3");
        for (field, value) in
            [("H2K_JOB", "17"), ("H2K_BATCH", "night"), ("H2K_VM", "web01"), ("H2K_ATTEMPT", "2")]
        {
            assert_eq!(heard[0][field], value);
        }
    }

    #[test]
    fn what_has_no_job_is_just_told() {
        let heard = heard(|| tracing::info!("ready after {} ms", 12));
        assert_eq!(heard[0]["MESSAGE"], "ready after 12 ms");
        assert!(!heard[0].keys().any(|name| name.starts_with("H2K_")));
    }

    #[test]
    fn fields_of_spans_count_as_well() {
        let heard = heard(|| {
            let span =
                tracing::info_span!("job", batch = "night", vm = "web01", stage = tracing::field::Empty);
            span.record("stage", "convert");
            span.in_scope(|| tracing::warn!("is slow"));
        });
        assert_eq!(heard[0]["MESSAGE"], "night/web01: convert is slow");
        assert_eq!(heard[0]["H2K_STAGE"], "convert");
    }

    #[test]
    fn line_breaks_stay_in_their_field_and_long_values_are_cut() {
        let heard = heard(|| {
            tracing::info!(text = "a\nMESSAGE=forged", "first");
            tracing::info!(text = "ä".repeat(100_000), "second");
        });
        assert_eq!(heard[0]["H2K_TEXT"], "a\nMESSAGE=forged");
        assert!(heard[1]["H2K_TEXT"].len() <= MAX_VALUE_BYTES);
    }
}
