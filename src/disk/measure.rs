//! How much a conversion has to copy, and what its result may occupy.
//!
//! The source's map tells which ranges hold data (QEMU's, for what we do not read ourselves); from that the size of the result follows for every
//! target format, by the size of the pieces in which it allocates.

use crate::disk::control::Control;
use crate::disk::copy::Target;
use crate::disk::engine::Engine;
use crate::disk::facts::SourceDisk;
use crate::disk::failure::Call;
use crate::disk::read::{Holds, Reader, Room};
use crate::disk::remote::Elsewhere;
use crate::disk::watch;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{Compression, OutputFormat, Preallocation};

/// Headers, and tables that do not grow.
const FIXED_BYTES: u64 = 4 << 20;
/// After so many questions to a map it is asked whether to go on.
const CHECK_EVERY: u32 = 1024;
/// Tables grow with the disk: generously, one byte for this many.
const TABLE_SHARE: u64 = 2048;

/// What a conversion will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Bytes that the result may occupy at most.
    pub required_bytes: u64,
    /// Bytes that have to be copied: what progress counts.
    pub bytes_to_copy: u64,
    /// Bytes that hold data: what is read, whatever is written.
    pub data_bytes: u64,
}

/// See [`Engine::measure`].
pub(crate) fn run(
    engine: &Engine,
    source: &SourceDisk,
    target: &Target,
    control: &Control,
) -> Result<Measure> {
    let mut content = Content { piece: piece_bytes(target.format), ..Content::default() };
    match source.remote.as_ref().and_then(Elsewhere::most_data) {
        Some(most) => content.add(0, most),
        None => match engine.reader(source, control)? {
            Some(reader) => ours(reader.as_ref(), control, &mut content)?,
            None => by_qemu(engine, source, control, &mut content)?,
        },
    }
    let Content { data, pieces, piece, .. } = content;
    let size = source.facts.virtual_size;
    let tables = FIXED_BYTES + size / TABLE_SHARE;
    let content = match target.preallocation {
        Preallocation::Off | Preallocation::Metadata => pieces.saturating_mul(piece + beside(target)),
        Preallocation::Falloc | Preallocation::Full => size,
    };
    let is_written_whole = target.format == OutputFormat::Raw && target.preallocation == Preallocation::Full;
    let bytes_to_copy = if is_written_whole { size } else { data };
    Ok(Measure { required_bytes: content.saturating_add(tables), bytes_to_copy, data_bytes: data })
}

/// What lies where, counted as it is told in order.
#[derive(Default)]
struct Content {
    /// In what pieces the target allocates.
    piece: u64,
    data: u64,
    pieces: u64,
    next_free: u64,
}

impl Content {
    fn add(&mut self, start: u64, length: u64) {
        self.data += length;
        let (first, last) = (start / self.piece, (start + length.max(1) - 1) / self.piece);
        self.pieces += (last + 1).saturating_sub(first.max(self.next_free));
        self.next_free = self.next_free.max(last + 1);
    }
}

fn ours(reader: &dyn Reader, control: &Control, content: &mut Content) -> Result<()> {
    let (mut at, mut room, mut asked) = (0, Room::default(), 0u32);
    while at < reader.size() {
        asked = asked.wrapping_add(1);
        if asked.is_multiple_of(CHECK_EVERY) {
            control.checkpoint()?;
        }
        let range = reader.next_range(at, &mut room)?;
        if range.holds == Holds::Data {
            content.add(range.start, range.length);
        }
        at = range.end();
    }
    Ok(())
}

fn by_qemu(engine: &Engine, source: &SourceDisk, control: &Control, content: &mut Content) -> Result<()> {
    let args = ["map", "--output=json", &source.qemu_name()?].map(str::to_owned).to_vec();
    let spec = engine.spec(args, source.paths(), Vec::new(), engine.long_limits());
    let call = Call { tool: "qemu-img map", kind: Kind::Source, source: Some(&source.path), target: None };
    let mut garbled = false;
    // One range a line, in order; a fragmented disk has millions, so they are counted as they come.
    let output = watch::run_lines(engine, &spec, &call, control, &mut |line| {
        let line = line.trim().trim_start_matches('[').trim_end_matches([',', ']']);
        if line.is_empty() {
            return;
        }
        match serde_json::from_str::<Range>(line) {
            Ok(range) if range.data => content.add(range.start, range.length),
            Ok(_) => {}
            Err(_) => garbled = true,
        }
    })?;
    if !output.status.success() {
        return Err(call.failed(&output));
    }
    match garbled {
        true => Err(Error::internal("qemu-img map printed something that is not a map")),
        false => Ok(()),
    }
}

#[derive(serde::Deserialize)]
struct Range {
    start: u64,
    length: u64,
    data: bool,
}

/// What each piece takes besides its data: where every one is packed, those grow that cannot be.
fn beside(target: &Target) -> u64 {
    match (target.format, target.compress) {
        (_, Compression::None) => 0,
        (OutputFormat::Vmdk, _) => 1 << 10,
        _ => 0,
    }
}

/// In what pieces a format allocates.
fn piece_bytes(format: OutputFormat) -> u64 {
    match format {
        OutputFormat::Raw => 4 << 10,
        OutputFormat::Qcow2 | OutputFormat::Vmdk => 64 << 10,
        OutputFormat::Vdi => 1 << 20,
        OutputFormat::Vhd => 2 << 20,
    }
}
