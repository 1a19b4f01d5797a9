//! The one error type of the program: what kind, what went wrong, where, and what to do about it.
//!
//! Every failure that a person may see is one of these. The [`Kind`] is what scripts and the retry
//! policy look at; the cause is in the words of the thing that failed; the advice says what to do.
//! It is plain data (it travels from a worker to the service as JSON and ends in `.error.json`),
//! so it holds no source error objects: the chain is flattened into `cause` where it is built.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::job::Stage;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure this is. The names are part of the outside contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file or reference is malformed; a drop that is not a plain readable file.
    Manifest,
    /// A feature that this version or this machine lacks.
    Unsupported,
    /// The same work is already queued or running.
    Duplicate,
    /// A result is already there.
    Exists,
    /// A disk, VM or member is missing, unreadable, corrupt, cut off, escaping, or has changed.
    Source,
    /// Something is unreachable.
    Network,
    /// A login or privilege was refused.
    Auth,
    /// No room.
    DiskSpace,
    /// The target is not writable or not allowed.
    Output,
    /// Inspection or repair of the guest failed.
    Guest,
    /// The conversion itself failed.
    Conversion,
    /// The result does not hold what the source held.
    Validation,
    /// The guest did not boot.
    Boot,
    /// libvirt refused or failed.
    Libvirt,
    /// A hook failed.
    Hook,
    /// Stopped by the operator.
    Cancelled,
    /// Our fault, or a worker that crashed or ran out of memory.
    Internal,
}

impl Kind {
    /// Every kind, in the order of the contract's table.
    pub const ALL: [Kind; 17] = [
        Kind::Manifest,
        Kind::Unsupported,
        Kind::Duplicate,
        Kind::Exists,
        Kind::Source,
        Kind::Network,
        Kind::Auth,
        Kind::DiskSpace,
        Kind::Output,
        Kind::Guest,
        Kind::Conversion,
        Kind::Validation,
        Kind::Boot,
        Kind::Libvirt,
        Kind::Hook,
        Kind::Cancelled,
        Kind::Internal,
    ];

    /// The name as scripts see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Manifest => "manifest",
            Kind::Unsupported => "unsupported",
            Kind::Duplicate => "duplicate",
            Kind::Exists => "exists",
            Kind::Source => "source",
            Kind::Network => "network",
            Kind::Auth => "auth",
            Kind::DiskSpace => "disk_space",
            Kind::Output => "output",
            Kind::Guest => "guest",
            Kind::Conversion => "conversion",
            Kind::Validation => "validation",
            Kind::Boot => "boot",
            Kind::Libvirt => "libvirt",
            Kind::Hook => "hook",
            Kind::Cancelled => "cancelled",
            Kind::Internal => "internal",
        }
    }

    /// What the retry policy does with it, unless the error itself says otherwise.
    #[must_use]
    pub fn disposition(self) -> Disposition {
        match self {
            Kind::Network | Kind::Internal => Disposition::Transient,
            Kind::DiskSpace | Kind::Auth => Disposition::NeedsOperator,
            Kind::Manifest
            | Kind::Unsupported
            | Kind::Duplicate
            | Kind::Exists
            | Kind::Source
            | Kind::Output
            | Kind::Guest
            | Kind::Conversion
            | Kind::Validation
            | Kind::Boot
            | Kind::Libvirt
            | Kind::Hook
            | Kind::Cancelled => Disposition::Permanent,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What may be done after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Trying again later may help: retried with backoff.
    Transient,
    /// Trying again gives the same answer: the job fails now.
    Permanent,
    /// Somebody has to act first: the job waits for it (or fails, where there is nothing to wait for).
    NeedsOperator,
}

/// Where in what file the trouble is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Place {
    /// The file.
    pub file: Option<PathBuf>,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Column, from 1.
    pub column: Option<u32>,
    /// Path of the field, as `disks[1].source_format`.
    pub field: Option<String>,
    /// What is allowed there.
    pub allowed: Vec<String>,
}

/// The data of an [`Error`]; boxed there so that a `Result` stays small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// What sort of failure.
    pub kind: Kind,
    /// What went wrong, in the words of the thing that failed. One sentence, no trailing newline.
    pub cause: String,
    /// What to do about it.
    #[serde(default)]
    pub advice: Option<String>,
    /// Where in a file that a person wrote.
    #[serde(default)]
    pub place: Place,
    /// The stage in which it happened.
    #[serde(default)]
    pub stage: Option<Stage>,
    /// The source (disk, VM) concerned.
    #[serde(default)]
    pub source: Option<String>,
    /// The output concerned.
    #[serde(default)]
    pub output: Option<PathBuf>,
    /// The last lines a failed child printed.
    #[serde(default)]
    pub console_tail: Option<String>,
    /// Overrides the kind's disposition.
    #[serde(default)]
    pub disposition: Option<Disposition>,
    /// For `disk_space`: how many bytes are needed at `output`.
    #[serde(default)]
    pub need_bytes: Option<u64>,
    /// For `disk_space`: how many bytes are free there.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// Which rule of the pre-flight it breaks, if it is one of those (see [`validation`](super::validation)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// A failure with kind, cause and advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Error(Box<Details>);

impl Error {
    /// A failure of this kind for this cause.
    pub fn new(kind: Kind, cause: impl Into<String>) -> Self {
        Error(Box::new(Details {
            kind,
            cause: cause.into(),
            advice: None,
            place: Place::default(),
            stage: None,
            source: None,
            output: None,
            console_tail: None,
            disposition: None,
            need_bytes: None,
            free_bytes: None,
            rule: None,
        }))
    }

    /// An I/O failure on a path, told as "cannot WHAT PATH: why". `ENOSPC` and `EDQUOT` become `disk_space`.
    pub fn io(kind: Kind, what: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match error.kind() {
            E::StorageFull | E::QuotaExceeded => Kind::DiskSpace,
            _ => kind,
        };
        let made = Error::new(kind, format!("cannot {what} {}: {error}", path.display()));
        match kind {
            Kind::DiskSpace => made.advice("free some space there; the work goes on by itself").output(path),
            _ => made,
        }
    }

    /// Something that cannot happen did.
    pub fn internal(cause: impl Into<String>) -> Self {
        Error::new(Kind::Internal, cause)
            .advice("this is a defect of hyper2kvm: please report it with `hyper2kvm bundle`")
    }

    /// Says what to do about it.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Says in which file.
    #[must_use]
    pub fn file(mut self, file: impl Into<PathBuf>) -> Self {
        self.0.place.file = Some(file.into());
        self
    }

    /// Says at which field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.0.place.field = Some(field.into());
        self
    }

    /// Says at which line and column (from 1).
    #[must_use]
    pub fn at(mut self, line: u32, column: u32) -> Self {
        self.0.place.line = Some(line);
        self.0.place.column = Some(column);
        self
    }

    /// Calls the file of this name as the person did who gave it; what is told of another file stays.
    #[must_use]
    pub fn file_as(mut self, name: &str, given: &Path) -> Self {
        if self.0.place.file.as_deref().is_none_or(|file| file == Path::new(name)) {
            self.0.place.file = Some(given.to_owned());
        }
        self
    }

    /// Forgets file, line and column if they name this text, which no person wrote.
    #[must_use]
    pub fn without_file(mut self, name: &str) -> Self {
        if self.0.place.file.as_deref() == Some(Path::new(name)) {
            self.0.place.file = None;
            self.0.place.line = None;
            self.0.place.column = None;
        }
        self
    }

    /// Says what is allowed there.
    #[must_use]
    pub fn allowed<S: Into<String>>(mut self, allowed: impl IntoIterator<Item = S>) -> Self {
        self.0.place.allowed = allowed.into_iter().map(Into::into).collect();
        self
    }

    /// Says in which stage, unless that is known already.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.0.stage.get_or_insert(stage);
        self
    }

    /// Says which source.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says which output.
    #[must_use]
    pub fn output(mut self, output: impl Into<PathBuf>) -> Self {
        self.0.output = Some(output.into());
        self
    }

    /// Adds the last lines that a child printed.
    #[must_use]
    pub fn console_tail(mut self, tail: impl Into<String>) -> Self {
        let tail = tail.into();
        self.0.console_tail = (!tail.trim().is_empty()).then_some(tail);
        self
    }

    /// Says that trying again later may help.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.0.disposition = Some(Disposition::Transient);
        self
    }

    /// Says that trying again gives the same answer.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.0.disposition = Some(Disposition::Permanent);
        self
    }

    /// For `disk_space`: how much is needed and how much is free.
    #[must_use]
    pub fn space(mut self, need_bytes: u64, free_bytes: u64) -> Self {
        self.0.need_bytes = Some(need_bytes);
        self.0.free_bytes = Some(free_bytes);
        self
    }

    /// Says which rule of the pre-flight is broken.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.0.rule = Some(rule.into());
        self
    }

    /// Tells behind its cause what else is wrong.
    #[must_use]
    pub fn and_also(mut self, others: &[&str]) -> Self {
        if !others.is_empty() {
            self.0.cause = format!("{}; also: {}", self.0.cause, others.join("; "));
        }
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What the retry policy does with it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        self.0.disposition.unwrap_or_else(|| self.0.kind.disposition())
    }

    /// All that is known.
    #[must_use]
    pub fn details(&self) -> &Details {
        &self.0
    }
}

impl fmt::Display for Error {
    /// `file:line:column: field: cause (allowed: …); advice`: one line, whatever a file wrote into it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = OneLine(f);
        let Details { cause, advice, place, .. } = &*self.0;
        if let Some(file) = &place.file {
            write!(line, "{}:", file.display())?;
            if let (Some(number), Some(column)) = (place.line, place.column) {
                write!(line, "{number}:{column}:")?;
            }
            line.write_str(" ")?;
        }
        if let Some(field) = &place.field {
            write!(line, "{field}: ")?;
        }
        line.write_str(cause)?;
        if !place.allowed.is_empty() {
            write!(line, " (allowed: {})", place.allowed.join(", "))?;
        }
        if let Some(advice) = advice {
            write!(line, "; {advice}")?;
        }
        Ok(())
    }
}

/// Writes control characters as escapes.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            let plain = part.trim_end_matches(char::is_control);
            self.0.write_str(plain)?;
            write!(self.0, "{}", part[plain.len()..].escape_default())?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_one_line_with_place_cause_and_advice() {
        let error = Error::new(Kind::Manifest, "unknown key `frmat`")
            .file("vm.yaml")
            .at(7, 3)
            .field("output.frmat")
            .advice("did you mean `format`?");
        assert_eq!(
            error.to_string(),
            "vm.yaml:7:3: output.frmat: unknown key `frmat`; did you mean `format`?"
        );
        let hostile = Error::new(Kind::Manifest, "unknown key `\n\u{1b}[2J`").field("\n");
        assert_eq!(hostile.to_string(), r"\n: unknown key `\n\u{1b}[2J`");
    }

    #[test]
    fn a_full_disk_is_disk_space_whatever_was_being_done() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Error::io(Kind::Output, "write", Path::new("/x"), &full).kind(), Kind::DiskSpace);
    }

    #[test]
    fn an_error_survives_the_way_through_a_pipe() {
        let error = Error::new(Kind::Source, "gone").stage(Stage::Load).source("/disk").transient();
        let back: Error = serde_json::from_str(&serde_json::to_string(&error).unwrap()).unwrap();
        assert_eq!(back, error);
        assert_eq!(back.disposition(), Disposition::Transient);
    }
}
