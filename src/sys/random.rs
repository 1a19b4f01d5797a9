//! A number that nobody can foresee, to spread what would otherwise happen at the same time.

/// In 0..1; a machine without randomness spreads nothing.
#[must_use]
pub fn spread() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
