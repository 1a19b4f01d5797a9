//! Why a message did not arrive, and whether another try makes sense.

use crate::web::NoAnswer;

/// What may be done after a try that failed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// Again, after the usual delay.
    Again,
    /// Again, but the receiver asks for so many seconds.
    After(f64),
    /// The receiver will not take this message, whatever happens.
    Never,
}

/// Why a message did not arrive.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trouble {
    /// For people; without anything of the message or a secret.
    pub(super) text: String,
    /// Whether another try makes sense.
    pub(super) fate: Fate,
}

impl Trouble {
    /// It may be better later.
    pub(super) fn again(text: String) -> Trouble {
        Trouble { text, fate: Fate::Again }
    }

    /// It will not.
    pub(super) fn never(text: String) -> Trouble {
        Trouble { text, fate: Fate::Never }
    }
}

/// Whoever could not be reached may be later: even a name that leads where nothing is sent can lead elsewhere then.
impl From<NoAnswer> for Trouble {
    fn from(none: NoAnswer) -> Trouble {
        Trouble::again(none.to_string())
    }
}
