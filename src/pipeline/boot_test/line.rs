//! Conversations in JSON, one document a line: QEMU's control socket and the guest agent's port.
//!
//! Neither end is trusted to be quick or short: nothing here waits, and a line that does not end is dropped.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

/// A line longer than this is no answer of QEMU's or of an agent's.
const LINE_BYTES: usize = 1 << 20;

/// One conversation over a socket that does not block.
#[derive(Debug)]
pub(super) struct JsonLine {
    stream: UnixStream,
    heard: Vec<u8>,
    unsent: Vec<u8>,
}

impl JsonLine {
    pub(super) fn new(stream: UnixStream) -> JsonLine {
        JsonLine { stream, heard: Vec::new(), unsent: Vec::new() }
    }

    /// Says something; what the other end does not take now is said later.
    pub(super) fn say(&mut self, document: &Value) {
        if self.unsent.len() < LINE_BYTES {
            self.unsent.extend_from_slice(document.to_string().as_bytes());
            self.unsent.push(b'\n');
        }
        self.flush();
    }

    /// What was heard since it was asked last; what is no JSON is passed over.
    pub(super) fn heard(&mut self) -> Vec<Value> {
        self.flush();
        let mut documents = Vec::new();
        read_available(&mut self.stream, &mut |bytes| {
            for part in bytes.split_inclusive(|byte| *byte == b'\n') {
                self.heard.extend_from_slice(part);
                if part.ends_with(b"\n") {
                    documents.extend(serde_json::from_slice::<Value>(&self.heard).ok());
                    self.heard.clear();
                } else if self.heard.len() > LINE_BYTES {
                    self.heard.clear();
                }
            }
        });
        documents
    }

    fn flush(&mut self) {
        // An end that is gone is noticed by whoever watches the process.
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) if count > 0 => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }
}

/// Reads what is there; bounded, so that an end that never stops talking cannot hold up everything else.
pub(super) fn read_available(stream: &mut impl Read, take: &mut dyn FnMut(&[u8])) {
    let mut buffer = [0; 16 << 10];
    for _ in 0..64 {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_heard_however_they_arrive_and_rubbish_is_passed_over() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut line = JsonLine::new(ours);
        theirs.write_all(b"{\"a\":1}\r\n\xff\xfe\n{\"b\"").unwrap();
        assert_eq!(line.heard(), [serde_json::json!({"a": 1})]);
        theirs.write_all(b":2}\n").unwrap();
        assert_eq!(line.heard(), [serde_json::json!({"b": 2})]);
        theirs.write_all(&vec![b'x'; 64 << 10]).unwrap();
        assert!(line.heard().is_empty());
        line.say(&serde_json::json!({"execute": "cont"}));
        let mut said = [0; 64];
        let count = theirs.read(&mut said).unwrap();
        assert_eq!(&said[..count], b"{\"execute\":\"cont\"}\n");
    }
}
