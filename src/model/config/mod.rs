//! The configuration: fragments as written, merged in order, and the settings they come to.

mod settings;

pub use settings::*;
