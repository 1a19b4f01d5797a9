//! How much a conversion has to copy, and what its result may occupy.
//!
//! QEMU tells which ranges of the source hold data; from that the size of the result follows for every
//! target format, by the size of the pieces in which it allocates.

use crate::disk::control::Control;
use crate::disk::copy::Target;
use crate::disk::engine::Engine;
use crate::disk::facts::SourceDisk;
use crate::disk::failure::Call;
use crate::disk::watch;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, Preallocation};

/// Headers, and tables that do not grow.
const FIXED_BYTES: u64 = 4 << 20;
/// Tables grow with the disk: generously, one byte for this many.
const TABLE_SHARE: u64 = 2048;

/// What a conversion will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Bytes that the result may occupy at most.
    pub required_bytes: u64,
    /// Bytes that have to be copied: what progress counts.
    pub bytes_to_copy: u64,
}

/// See [`Engine::measure`].
pub(crate) fn run(
    engine: &Engine,
    source: &SourceDisk,
    target: &Target,
    control: &Control,
) -> Result<Measure> {
    let args = ["map", "--output=json", &source.qemu_name()].map(str::to_owned).to_vec();
    let spec = engine.spec(args, source.paths(), Vec::new(), engine.long_limits());
    let call = Call { verb: "map", kind: Kind::Source, source: Some(&source.path), target: None };
    let piece = piece_bytes(target.format);
    let (mut data, mut pieces, mut next_free) = (0u64, 0u64, 0u64);
    let mut garbled = false;
    // One range a line, in order; a fragmented disk has millions, so they are counted as they come.
    let output = watch::run_lines(engine, &spec, &call, control, &mut |line| {
        let line = line.trim().trim_start_matches('[').trim_end_matches([',', ']']);
        if line.is_empty() {
            return;
        }
        match serde_json::from_str::<Range>(line) {
            Ok(range) if range.data => {
                data += range.length;
                let (first, last) = (range.start / piece, (range.start + range.length.max(1) - 1) / piece);
                pieces += (last + 1).saturating_sub(first.max(next_free));
                next_free = next_free.max(last + 1);
            }
            Ok(_) => {}
            Err(_) => garbled = true,
        }
    })?;
    if !output.status.success() {
        return Err(call.failed(&output));
    }
    if garbled {
        return Err(Error::internal("qemu-img map printed something that is not a map"));
    }
    let size = source.facts.virtual_size;
    let tables = FIXED_BYTES + size / TABLE_SHARE;
    let content = match target.preallocation {
        Preallocation::Off | Preallocation::Metadata => pieces.saturating_mul(piece),
        Preallocation::Falloc | Preallocation::Full => size,
    };
    Ok(Measure { required_bytes: content.saturating_add(tables), bytes_to_copy: data })
}

#[derive(serde::Deserialize)]
struct Range {
    start: u64,
    length: u64,
    data: bool,
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
