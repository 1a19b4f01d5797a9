//! What an observer has of the machine that it watches, whoever runs it: QEMU as a child of ours ([`mod@super::child`]), or libvirt.
//!
//! Nothing here waits: what takes time is asked for, and told of later as something that happened.

use std::time::Duration;

use super::line::JsonLine;

/// Whether the guest runs.
#[derive(Debug)]
pub(super) enum Begun {
    /// It does not yet.
    NotYet,
    /// It does, and this is the port of its agent.
    Runs(JsonLine),
    /// It never will.
    #[cfg_attr(not(feature = "libvirt"), allow(dead_code, reason = "of a child its end says so"))]
    Never,
}

/// What becomes of a machine.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Happening {
    /// Its guest started it anew.
    Restarted,
    /// It is off, for this reason.
    Off(String),
    /// Its guest crashed, and said so to the machine.
    #[cfg_attr(not(feature = "libvirt"), allow(dead_code, reason = "only libvirt tells that"))]
    Crashed,
    /// Somebody in it opened the agent's port, or closed it.
    Agent {
        /// Whether it is open.
        is_open: bool,
    },
    /// The picture that was asked for, or none.
    Picture(Option<Vec<u8>>),
    /// It cannot be watched any more.
    #[cfg_attr(not(feature = "libvirt"), allow(dead_code, reason = "only libvirt tells that"))]
    Lost,
}

/// A machine as it is dealt with.
pub(super) trait Hands {
    /// It begins within this time, or not at all.
    const BEGINS_WITHIN: Duration;

    /// Lets the guest begin as soon as that can be done; nothing that it says is missed.
    fn begin(&mut self) -> Begun;

    /// What happened since it was asked last.
    fn heard(&mut self) -> Vec<Happening>;

    /// What a line on its console says of the machine itself.
    fn said(&mut self, line: &str) -> Option<Happening>;

    /// Whether it stands still because it was told to.
    fn stands_still(&mut self) -> bool;

    /// The processor time that it has had, where that can be told.
    fn processor_time(&self) -> Option<Duration>;

    /// Asks for a picture of its screen.
    fn take_picture(&mut self);
}
