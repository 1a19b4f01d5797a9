//! The end of a stream, which libvirt may leave without an answer.
//!
//! What libvirtd has to say of bytes that it cannot write bears the number of the whole stream. Where the library is just sending more of them, it takes
//! that for an answer to these and goes on; libvirtd ignores all that still comes, the end included, and each waits for the other for ever, with a
//! connection that shows every sign of life (libvirt 9). So a thread of its own waits for the answer, and is left behind where none can come. What is not here: streams
//! of which libvirtd does not read on: whoever asked for the import sees that it gets no further.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use virt::error::Error as Told;
use virt::stream::Stream;

use super::upload::Broken;
use crate::libvirt::failure::no_thread;
use crate::model::error::Error;

/// How often it is looked whether an answer can still come.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A pool that was full so often in a row, and no answer meanwhile: one that is only slow has written its last bytes by then.
const FULL_LOOKS: u32 = 6;
/// An end that is not the bytes' own is not waited for any longer: the connection ends it, too.
const ABORTED_WITHIN: Duration = Duration::from_secs(10);

/// Tells libvirt that all was sent, and waits until it has written that, or cannot as `is_full` says.
pub(super) fn finish(stream: Stream, is_full: &dyn Fn() -> bool) -> Result<(), Broken> {
    let answer = aside(|| stream.finish())?;
    let mut full = 0;
    loop {
        match answer.recv_timeout(LOOK_EVERY) {
            Ok(told) => return told.map_err(Broken::Libvirt),
            Err(RecvTimeoutError::Timeout) if is_full() => full += 1,
            Err(RecvTimeoutError::Timeout) => full = 0,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Broken::Ended(Error::internal("whoever waited for libvirt is gone")));
            }
        }
        if full >= FULL_LOOKS {
            return Err(Broken::Full);
        }
    }
}

/// Tells libvirt that nothing more comes. Why is known already: it learns that at the latest when the connection ends.
pub(super) fn abort(stream: Stream) {
    if let Ok(answer) = aside(|| stream.abort()) {
        let _ = answer.recv_timeout(ABORTED_WITHIN);
    }
}

/// Has a thread wait for the answer.
fn aside(
    end: impl FnOnce() -> Result<(), Told> + Send + 'static,
) -> Result<Receiver<Result<(), Told>>, Broken> {
    let (tell, told) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name("libvirt".to_owned()).spawn(move || drop(tell.send(end())));
    spawned.map(|_| told).map_err(|error| Broken::Ended(no_thread(&error)))
}
