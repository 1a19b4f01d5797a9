//! QEMU as a child of ours: what it says on its control socket, and what can be seen of its process.
//!
//! What is not here: how it is told what to run ([`super::qemu`]).

use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::hands::{Begun, Hands, Happening};
use super::line::JsonLine;
use super::qemu::{AGENT_ID, AGENT_SOCKET, CONTROL_SOCKET};
use crate::sys::process::Group;
use crate::sys::scratch::Scratch;

/// Where QEMU puts pictures, in the test's directory.
const PICTURE: &str = "screen.png";
/// Larger pictures are not of any screen.
const PICTURE_BYTES: u64 = 32 << 20;

/// One QEMU.
pub(super) struct Child<'a> {
    scratch: &'a Scratch,
    group: Group,
    control: Option<JsonLine>,
    /// By which number the last picture was asked for.
    asked: u64,
}

impl<'a> Child<'a> {
    pub(super) fn new(scratch: &'a Scratch, group: Group) -> Child<'a> {
        Child { scratch, group, control: None, asked: 0 }
    }

    fn happening(&self, message: &Value) -> Option<Happening> {
        match message["event"].as_str() {
            Some("RESET") if message["data"]["guest"] == true => Some(Happening::Restarted),
            Some("SHUTDOWN") => {
                Some(Happening::Off(message["data"]["reason"].as_str().unwrap_or("unknown").to_owned()))
            }
            Some("VSERPORT_CHANGE") if message["data"]["id"] == AGENT_ID => {
                Some(Happening::Agent { is_open: message["data"]["open"] == true })
            }
            None if self.asked > 0 && message["id"].as_u64() == Some(self.asked) => {
                Some(Happening::Picture(self.picture().filter(|_| message.get("error").is_none())))
            }
            Some(_) | None => None,
        }
    }

    fn picture(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.scratch.file(PICTURE)).ok()?;
        file.take(PICTURE_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes).filter(|bytes| !bytes.is_empty())
    }
}

impl Hands for Child<'_> {
    /// QEMU opens its sockets at once, if it starts at all.
    const BEGINS_WITHIN: Duration = Duration::from_secs(60);

    /// All sockets, then the guest may begin.
    fn begin(&mut self) -> Begun {
        let connect = |name| self.scratch.connect(name);
        let (Ok(control), Ok(agent)) = (connect(CONTROL_SOCKET), connect(AGENT_SOCKET)) else {
            return Begun::NotYet;
        };
        let mut control = JsonLine::new(control);
        control.say(&json!({ "execute": "qmp_capabilities" }));
        control.say(&json!({ "execute": "cont" }));
        self.control = Some(control);
        Begun::Runs(JsonLine::new(agent))
    }

    fn heard(&mut self) -> Vec<Happening> {
        let heard = self.control.as_mut().map(JsonLine::heard).unwrap_or_default();
        heard.iter().filter_map(|message| self.happening(message)).collect()
    }

    fn said(&mut self, _: &str) -> Option<Happening> {
        None
    }

    fn stands_still(&mut self) -> bool {
        self.group.stands_still()
    }

    fn processor_time(&self) -> Option<Duration> {
        self.group.pid().and_then(processor_time)
    }

    fn take_picture(&mut self) {
        self.asked += 1;
        let arguments = json!({ "filename": PICTURE, "format": "png" });
        let ask = json!({ "execute": "screendump", "arguments": arguments, "id": self.asked });
        if let Some(control) = &mut self.control {
            control.say(&ask);
        }
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
