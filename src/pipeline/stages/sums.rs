//! The checksums that sources have to have: made beside the copy, and held against what was said before a disk counts as finished.
//!
//! A source whose checksum is wrong is a failed copy, whatever the copy came to: what was written of it goes. What is not here: the
//! checksum of a description, which is held against it when it is read.

use crate::disk::{Beside, Control, Member, Place, SourceDisk};
use crate::model::checksum::{self, Algorithm};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{Plan, PlannedDisk, Preflight};

/// What is to be checked of one disk.
#[derive(Debug)]
pub(super) struct Sums {
    expected: Vec<Expected>,
    beside: Beside,
}

#[derive(Debug)]
struct Expected {
    place: Place,
    algorithm: Algorithm,
    digits: String,
    field: String,
}

/// Whether there is anything to check.
pub(super) fn has_any(plan: &Plan, disk: &PlannedDisk) -> bool {
    plan.preflight == Preflight::Full && (disk.checksum.is_some() || !disk.piece_checksums.is_empty())
}

/// Begins to read, if there is anything to check.
pub(super) fn begin(
    plan: &Plan,
    number: usize,
    source: &SourceDisk,
    control: &Control,
) -> Result<Option<Sums>> {
    let Some(disk) = plan.disks.get(number).filter(|disk| has_any(plan, disk)) else { return Ok(None) };
    let expected = expected(number, disk, source.place())?;
    let places = expected.iter().map(|one| (one.place.clone(), one.algorithm)).collect();
    // Of a disk that has both, all bytes are read twice.
    let passes = u64::from(disk.checksum.is_some()) + u64::from(!disk.piece_checksums.is_empty());
    let bytes = source.stored_bytes().saturating_mul(passes);
    Ok(Some(Sums { expected, beside: Beside::begin(places, bytes, control) }))
}

fn expected(number: usize, disk: &PlannedDisk, place: &Place) -> Result<Vec<Expected>> {
    let one = |place: Place, sum: &String, field: &str| {
        let (algorithm, digits) =
            checksum::parse(sum).ok_or_else(|| Error::internal("a checksum of the plan is none"))?;
        let field = format!("disks[{number}].{field}");
        Ok(Expected { place, algorithm, digits: digits.to_owned(), field })
    };
    let whole = disk.checksum.iter().map(|sum| one(place.clone(), sum, "checksum"));
    let mut all = whole.collect::<Result<Vec<Expected>>>()?;
    if disk.piece_checksums.is_empty() {
        return Ok(all);
    }
    let pieces = place.pieces();
    if pieces.len() != disk.piece_checksums.len() {
        return Err(Error::new(
            Kind::Source,
            format!(
                "{} has {} pieces, and there are checksums of {}",
                place.shown(),
                pieces.len(),
                disk.piece_checksums.len()
            ),
        )
        .field(format!("disks[{number}].piece_checksums"))
        .source(place.shown())
        .advice("copy all pieces of the disk, or mend the manifest"));
    }
    for (index, (piece, sum)) in pieces.into_iter().zip(&disk.piece_checksums).enumerate() {
        let member = piece.part.as_ref().map(|part| Member {
            name: part.name.clone(),
            pieces: vec![piece.clone()],
            packing: None,
        });
        let place = Place { path: piece.path, member };
        all.push(one(place, sum, &format!("piece_checksums[{index}]"))?);
    }
    Ok(all)
}

impl Sums {
    /// So much of the copy is done, from 0 to 1; how much of the reading is, comes back.
    pub(super) fn follow(&self, copied: f64) -> f64 {
        self.beside.follow(copied);
        self.beside.done()
    }

    /// Waits for the checksums, and holds them against what was said.
    pub(super) fn hold(
        self,
        stall_timeout_s: f64,
        control: &Control,
        on_progress: &mut dyn FnMut(f64),
    ) -> Result<()> {
        let found = self.beside.finish(stall_timeout_s, control, on_progress)?;
        for (expected, found) in self.expected.into_iter().zip(found) {
            let Expected { place, digits, field, .. } = expected;
            if !found.eq_ignore_ascii_case(&digits) {
                return Err(Error::new(
                    Kind::Source,
                    format!("the checksum of {} is {found}, not {digits}", place.shown()),
                )
                .field(field)
                .source(place.shown())
                .advice("copy the disk again, or mend the manifest"));
            }
        }
        Ok(())
    }
}
