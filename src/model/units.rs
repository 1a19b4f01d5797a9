//! Sizes, rates and durations as people write them, and times as files carry them.

use std::collections::BTreeSet;

use crate::model::error::{Error, Kind, Result};

/// `10GiB`, `512MiB`, `1.5TiB`, `4096` → bytes. Decimal units (`GB`) count thousands.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(Kind::Manifest, format!("`{text}` is not a size"))
            .advice("write bytes, or a number with KiB, MiB, GiB, TiB (or kB, MB, GB, TB)")
    };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(bad);
    }
    let value: f64 = number.parse().map_err(|_| bad())?;
    let bytes = value * factor as f64;
    if bytes.is_finite() && (0.0..9.0e18).contains(&bytes) { Ok(bytes as u64) } else { Err(bad()) }
}

/// Bytes for people: `1.5 GiB`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `30s`, `5m`, `12h`, `2d`, `1.5`, `90` → seconds.
pub fn parse_duration_s(text: &str) -> Result<f64> {
    let bad = || {
        Error::new(Kind::Manifest, format!("`{text}` is not a duration"))
            .advice("write seconds, or a number with s, m, h or d")
    };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(bad()),
    };
    let value: f64 = number.parse().map_err(|_| bad())?;
    let seconds = value * factor;
    if seconds.is_finite() && seconds >= 0.0 { Ok(seconds) } else { Err(bad()) }
}

/// Seconds for people: `04:10`, `1:02:03`.
#[must_use]
pub fn human_duration(seconds: f64) -> String {
    let whole = if seconds.is_finite() && seconds > 0.0 { seconds.round() as u64 } else { 0 };
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{rest:02}") } else { format!("{minutes:02}:{rest:02}") }
}

/// Any text made into an id: runs of characters that an id may not hold become `-`.
///
/// Ids match `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}` (see [`is_id`]).
#[must_use]
pub fn safe_id(text: &str) -> String {
    let mut id = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '_' || (!id.is_empty() && (c == '.' || c == '-')) {
            id.push(c);
        } else if !id.is_empty() && !id.ends_with('-') {
            id.push('-');
        }
        if id.len() == 128 {
            break;
        }
    }
    let trimmed = id.trim_end_matches('-');
    if trimmed.is_empty() { "unnamed".to_owned() } else { trimmed.to_owned() }
}

/// A disk's id: its file's stem, and a number if another disk has that already.
pub(crate) fn own_id(name: &str, ids: &mut BTreeSet<String>) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    let stem = safe_id(last.rsplit_once('.').map_or(last, |(stem, _)| stem));
    let mut id = stem.clone();
    let mut number = 2;
    while !ids.insert(id.clone()) {
        id = format!("{stem}-{number}");
        number += 1;
    }
    id
}

/// Whether a text is an id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 128
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("10GiB").unwrap(), 10 << 30);
        assert_eq!(parse_size("1.5 TiB").unwrap(), 3 << 39);
        assert_eq!(parse_size("4096").unwrap(), 4096);
        assert_eq!(parse_size("5GB").unwrap(), 5_000_000_000);
        for bad in ["", "GiB", "-1", "10 apples", "99999999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration_s("12h").unwrap(), 43_200.0);
        assert_eq!(parse_duration_s("1.5").unwrap(), 1.5);
        assert!(parse_duration_s("soon").is_err());
    }

    #[test]
    fn ids_are_made_safe_and_safe_ids_stay() {
        for (text, id) in [
            ("web-01", "web-01"),
            ("-rf", "rf"),
            ("../../etc/passwd", "etc-passwd"),
            ("My VM (copy) #2", "My-VM-copy-2"),
            ("日本", "unnamed"),
            ("", "unnamed"),
        ] {
            assert_eq!(safe_id(text), id);
            assert!(is_id(&safe_id(text)));
        }
        assert!(is_id(&safe_id(&"x".repeat(500))));
    }
}
