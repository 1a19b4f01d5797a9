//! Thin edges to the operating system: files, processes, sandbox, time. Knows nothing of the domain.
pub mod dir;
pub mod users;
