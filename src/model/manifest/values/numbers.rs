//! Numbers with bounds, and numbers that people write with a unit.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::model::bandwidth;
use crate::model::parse::{Refusal, refuse};
use crate::model::units;

/// A whole number between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whole<const LEAST: i64, const MOST: i64>(i64);

impl<const LEAST: i64, const MOST: i64> Whole<LEAST, MOST> {
    /// The number.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

impl<'de, const LEAST: i64, const MOST: i64> Deserialize<'de> for Whole<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        if (LEAST..=MOST).contains(&number) {
            return Ok(Whole(number));
        }
        let allowed =
            if MOST == i64::MAX { format!("{LEAST} or more") } else { format!("{LEAST} to {MOST}") };
        Err(de::Error::custom(refuse(format!("{number} is out of range"), "").allowed(allowed)))
    }
}

impl<const LEAST: i64, const MOST: i64> JsonSchema for Whole<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Whole_{LEAST}_{MOST}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        if MOST == i64::MAX {
            return json_schema!({ "type": "integer", "minimum": LEAST });
        }
        json_schema!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }
}

/// A version of a file format. An unquoted `1.0`, which YAML takes for a number, is the version "1.0".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VersionVisitor;
        impl Visitor<'_> for VersionVisitor {
            type Value = Version;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a version such as \"1.0\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Version, E> {
                if text == "1.0" {
                    return Ok(Version(text.to_owned()));
                }
                Err(E::custom(
                    refuse(
                        format!("version `{}` is not supported", text.escape_debug()),
                        "this version of hyper2kvm reads format 1.0",
                    )
                    .allowed("\"1.0\""),
                ))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Version, E> {
                self.visit_str(&format!("{number:?}"))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Version, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(VersionVisitor)
    }
}

impl JsonSchema for Version {
    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": "1.0" })
    }
}

/// A number of bytes: `10GiB`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A number of bytes per second: `50MiB/s`, or a plain number; none: `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub bandwidth::Rate);

/// A number of bytes per second that something may reach: `50MiB/s`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Throughput(pub u64);

/// No card and no disk is as fast; and every unit in which libvirt counts holds it.
const MOST_THROUGHPUT: u64 = 1 << 40;

/// Less would take years for a disk: whoever writes it forgot the unit.
const LEAST_RATE: u64 = 64 << 10;

/// A duration in seconds: `30s`, `12h`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

/// A file mode, written in octal with or without quotes: `0640`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// A value written as text or as a number.
struct TextOrNumber(&'static str);

enum Written {
    Text(String),
    Int(i64),
    Float(f64),
}

impl Visitor<'_> for TextOrNumber {
    type Value = Written;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Written, E> {
        Ok(Written::Text(text.to_owned()))
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Written, E> {
        Ok(Written::Int(number))
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Written, E> {
        Ok(Written::Float(number))
    }
}

fn bytes_of(written: &Written) -> Result<u64, String> {
    match written {
        Written::Text(text) => units::parse_size(text).map_err(|_| text.clone()),
        Written::Int(number) => u64::try_from(*number).map_err(|_| number.to_string()),
        Written::Float(number) => Err(number.to_string()),
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = deserializer.deserialize_any(TextOrNumber("a size such as 10GiB"))?;
        bytes_of(&written).map(Size).map_err(|shown| {
            de::Error::custom(refuse(format!("`{shown}` is not a size"), "write 10GiB, or plain bytes"))
        })
    }
}

impl Rate {
    /// The rate that a text names.
    pub fn parse(text: &str) -> Result<Rate, Refusal> {
        Rate::of(&Written::Text(text.to_owned()))
    }

    fn of(written: &Written) -> Result<Rate, Refusal> {
        let bytes = match written {
            Written::Text(text) if text == "unlimited" => return Ok(Rate(None)),
            Written::Text(text) => {
                let size = text.strip_suffix("/s").unwrap_or(text);
                bytes_of(&Written::Text(size.to_owned())).map_err(|_| text.clone())
            }
            number => bytes_of(number),
        };
        let refused =
            |cause: String, advice: &str| Err(refuse(cause, advice).allowed("64KiB/s or more, or unlimited"));
        match bytes.map(NonZeroU64::new) {
            Err(shown) => {
                refused(format!("`{shown}` is not a rate"), "write 50MiB/s, or plain bytes in a second")
            }
            Ok(None) => refused(
                "nothing would ever be copied".to_owned(),
                "`hyper2kvm pause` lets work stand still; `unlimited` is no limit",
            ),
            Ok(Some(rate)) if rate.get() < LEAST_RATE => {
                refused(format!("{rate} bytes in a second are too few"), "write the unit too, as 50MiB/s")
            }
            Ok(rate) => Ok(Rate(rate)),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = deserializer.deserialize_any(TextOrNumber("a rate such as 50MiB/s"))?;
        Rate::of(&written).map_err(de::Error::custom)
    }
}

impl Throughput {
    /// The one that a text names.
    pub fn new(text: &str) -> Result<Throughput, Refusal> {
        let size = text.strip_suffix("/s").unwrap_or(text);
        match units::parse_size(size) {
            Ok(bytes) if (1..=MOST_THROUGHPUT).contains(&bytes) => Ok(Throughput(bytes)),
            Ok(_) => {
                Err(refuse(format!("`{text}` is out of range"), "look at the unit: it is bytes, not bits")
                    .allowed("1 byte to 1TiB in a second"))
            }
            Err(_) => Err(refuse(
                format!("`{}` is not a rate", text.escape_debug()),
                "write 50MiB/s, or plain bytes in a second",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Throughput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = match deserializer.deserialize_any(TextOrNumber("a rate such as 50MiB/s"))? {
            Written::Text(text) => text,
            Written::Int(number) => number.to_string(),
            Written::Float(number) => number.to_string(),
        };
        Throughput::new(&written).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = match deserializer.deserialize_any(TextOrNumber("a duration such as 30s"))? {
            Written::Text(text) => units::parse_duration_s(&text).map_err(|_| text),
            Written::Int(number) if number >= 0 => Ok(number as f64),
            Written::Float(number) if number >= 0.0 => Ok(number),
            Written::Int(number) => Err(number.to_string()),
            Written::Float(number) => Err(number.to_string()),
        };
        seconds.map(Seconds).map_err(|shown| {
            de::Error::custom(refuse(
                format!("`{shown}` is not a duration"),
                "write seconds, or 30s, 5m, 12h, 2d",
            ))
        })
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = match deserializer.deserialize_any(TextOrNumber("a file mode such as \"0640\""))? {
            Written::Text(text) => text,
            // YAML 1.2 reads 0640 as the number 640; nobody writes a mode in decimal.
            Written::Int(number) => number.to_string(),
            Written::Float(number) => number.to_string(),
        };
        let octal = digits.strip_prefix("0o").unwrap_or(&digits);
        let all_octal = (1..=4).contains(&octal.len()) && octal.bytes().all(|b| matches!(b, b'0'..=b'7'));
        match u32::from_str_radix(octal, 8) {
            Ok(mode) if all_octal && mode & 0o400 != 0 && mode & !0o777 == 0 => Ok(FileMode(mode)),
            _ => Err(de::Error::custom(
                refuse(format!("`{digits}` is not a file mode"), "write it in octal, as \"0640\"")
                    .allowed("0400 to 0777, readable by the owner"),
            )),
        }
    }
}

macro_rules! text_or_number_schema {
    ($($name:ident),*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": ["string", "number"] })
            }
        }
    )*};
}
text_or_number_schema!(Size, Rate, Throughput, Seconds, FileMode);
