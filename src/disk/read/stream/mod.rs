//! A disk that is sent to us as a streamed VMDK (streamOptimized), from its beginning to its end, and of which nothing can be sought.
//!
//! ```text
//!   sender ──▶ one thread: parser ──▶ window: what came and was not read yet ──▶ readers: range, read ▸ unpack
//!                 skips what a copy has already        a bounded number of bytes
//! ```
//!
//! The map of such a disk is known only as far as it has come: who asks for more waits for it. So it is read by who goes through it once, in order, some
//! steps ahead of himself, as a copy does; who goes back is told that he cannot. It begins when it is first asked for anything, at the offset that
//! is asked for first: what lies before is skipped packed as it is. What is not here: who sends it (see [`Sender`]), and images that are files.

mod parser;
mod tables;
#[cfg(test)]
mod tests;
mod window;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::parser::{Item, Parser};
use self::window::{Slot, Window};
use super::{Holds, Range, Reader, Room};
use crate::disk::control::Control;
use crate::disk::write::BLOCK_BYTES;
use crate::model::error::{Error, Kind, Result};

/// A map tells no more of data at once, and ends there: so the same stream gives the same ranges, however it came in.
const STEP_BYTES: u64 = 1 << 20;
/// So long it is waited for a sender to be told that it is over.
const FAREWELL: Duration = Duration::from_secs(20);

/// Whoever has a disk sent to us.
pub(crate) trait Sender: Debug + Send + Sync {
    /// For people.
    fn name(&self) -> String;

    /// Has it sent, from its beginning. It asks `control` while it waits for anything.
    fn send(&self, control: &Control) -> Result<Box<dyn Sent>>;
}

/// A stream that is on its way. Dropped before it is finished, it is given up.
pub(crate) trait Sent: Send {
    /// Some of what comes next; 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    /// So much of the disk has come.
    fn reached(&mut self, bytes: u64, of: u64);

    /// All of it has come, and made sense.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Streamed {
    sender: Arc<dyn Sender>,
    size: u64,
    control: Control,
    window: Arc<Window>,
    /// What takes in the stream, once it has begun.
    intake: Mutex<Option<JoinHandle<()>>>,
}

impl Streamed {
    /// A disk of this size.
    pub(crate) fn new(sender: Arc<dyn Sender>, size: u64, control: &Control) -> Streamed {
        let window = Arc::new(Window::new(size));
        Streamed { sender, size, control: control.clone(), window, intake: Mutex::default() }
    }

    /// Has it begin, if it has not, with what belongs to the block of this offset.
    fn begin(&self, at: u64) -> Result<()> {
        let mut intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        if intake.is_some() {
            return Ok(());
        }
        let from = at - at % BLOCK_BYTES as u64;
        let (sender, control, size) = (Arc::clone(&self.sender), self.control.clone(), self.size);
        let window = Arc::clone(&self.window);
        let work = move || window.end(take_in(sender.as_ref(), &window, (from, size), &control));
        let begun = thread::Builder::new().name("stream".to_owned()).spawn(work);
        *intake = Some(begun.map_err(|error| Error::internal(format!("a thread cannot begin: {error}")))?);
        Ok(())
    }

    fn unpack(&self, slot: &Slot, (at, buffer): (u64, &mut [u8]), room: &mut Room) -> Result<()> {
        let from = slot.at.max(at);
        let until = (slot.at + slot.length).min(at + buffer.len() as u64);
        let part = &mut buffer[(from - at) as usize..(until - at) as usize];
        let within = (from - slot.at) as usize;
        let is_unpacked = if part.len() as u64 == slot.grain {
            room.unpack(&slot.packed, part) == Some(part.len())
        } else {
            let taken = room.unpack_aside(&slot.packed, slot.grain as usize, |all| {
                all.get(within..within + part.len()).map(|all| part.copy_from_slice(all))
            });
            taken.flatten().is_some()
        };
        if is_unpacked {
            Ok(())
        } else {
            Err(parser::broken(&self.sender.name(), slot.at, "the data cannot be unpacked"))
        }
    }
}

impl Reader for Streamed {
    fn size(&self) -> u64 {
        self.size
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        self.begin(at)?;
        let until = (at - at % STEP_BYTES + STEP_BYTES).min(self.size);
        match self.window.data_at(at, until, &self.control)? {
            window::Lies::Data(until) => Ok(Range { start: at, length: until - at, holds: Holds::Data }),
            window::Lies::Gap(until) => Ok(Range { start: at, length: until - at, holds: Holds::Zeros }),
            window::Lies::Gone => Err(self.gone()),
        }
    }

    fn read(&self, at: u64, buffer: &mut [u8], room: &mut Room) -> Result<()> {
        self.begin(at)?;
        let until = at + buffer.len() as u64;
        let Some(slots) = self.window.slots(at, until, &self.control)? else { return Err(self.gone()) };
        buffer.fill(0);
        for slot in &slots {
            self.unpack(slot, (at, buffer), room)?;
        }
        self.window.is_read(at, until);
        Ok(())
    }
}

impl Streamed {
    fn gone(&self) -> Error {
        let name = self.sender.name();
        Error::new(
            Kind::Unsupported,
            format!("{name} comes as a stream, and what has come and gone cannot be read again"),
        )
        .source(name)
        .advice("choose a way to the disk on which it can be read anywhere, or copy it first")
        .permanent()
    }
}

impl Drop for Streamed {
    /// Nobody reads any more: who sends is told so, and that is waited for, but not for ever.
    fn drop(&mut self) {
        self.window.close();
        let intake = self.intake.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(intake) = intake else { return };
        let begun = Instant::now();
        while !intake.is_finished() && begun.elapsed() < FAREWELL {
            thread::sleep(Duration::from_millis(5));
        }
        if intake.is_finished() && intake.join().is_err() {
            tracing::warn!(name = self.sender.name(), "what took in a stream ended badly");
        }
    }
}

/// Goes through a stream without unpacking it: whether it is one, all of it, of a disk of this size.
pub(crate) fn follow(sent: Box<dyn Sent>, name: &str, size: u64, control: &Control) -> Result<()> {
    let mut parser = begun(sent, name, size)?;
    loop {
        control.checkpoint()?;
        if parser.next(size)? == Item::End {
            return parser.finish();
        }
    }
}

fn begun(sent: Box<dyn Sent>, name: &str, size: u64) -> Result<Parser> {
    let parser = Parser::begin(sent, name)?;
    let is = parser.disk_bytes();
    if is == size {
        return Ok(parser);
    }
    Err(Error::new(Kind::Source, format!("{name} was said to have {size} bytes and has {is}"))
        .rule("disk.changed")
        .source(name)
        .advice("make sure that nothing changes the disk, then try again"))
}

/// Takes in a stream until it ends, or nobody wants more of it.
fn take_in(sender: &dyn Sender, window: &Window, (from, size): (u64, u64), control: &Control) -> Result<()> {
    let mut parser = begun(sender.send(control)?, &sender.name(), size)?;
    // Who copies what comes behind sees no progress meanwhile, and is not to be taken for hanging.
    let mut skips = Some(control.stand_still());
    loop {
        control.checkpoint()?;
        match parser.next(from)? {
            Item::Grain { at, length, packed } => {
                skips = None;
                let slot = Slot { at, length, grain: parser.grain_bytes(), packed: Arc::new(packed) };
                if !window.put(slot) {
                    return Ok(());
                }
            }
            Item::Skipped { until, bytes } => {
                control.await_turn(bytes, &|| window.is_closed())?;
                if window.is_closed() {
                    return Ok(());
                }
                window.knows(until.min(from));
            }
            Item::End => break,
        }
    }
    drop(skips);
    parser.finish()
}
