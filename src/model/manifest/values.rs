//! The small values that manifests and configuration are made of: each checks itself while it is read.
//!
//! What a value of these types holds is well-formed; whether what it names exists is not asked here.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::model::parse::{Refusal, refuse};
use crate::model::units;

/// A text type whose content is checked: `name, check, JSON Schema pattern`.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:path, $pattern:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The value, if the text is one.
            pub fn new(text: &str) -> Result<Self, Refusal> {
                $check(text).map(Self)
            }

            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $check(&text).map(Self).map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

checked_text!(
    /// An id: of a batch, a VM, a disk, a credential. It is safe as a file name and on a command line.
    Id, check_id, "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
);
checked_text!(
    /// One line of text: a name, a label.
    Line, check_line, "^[^\\n\\r\\t]{1,255}$"
);
checked_text!(
    /// A path as written: not empty, not relative to a home directory.
    PathText, check_path, "^[^~\\n\\r\\t][^\\n\\r\\t]*$"
);
checked_text!(
    /// An absolute path, without `.` and `..`.
    AbsolutePath, check_absolute, "^/[^\\n\\r\\t]*$"
);
checked_text!(
    /// A MAC address, kept in lower case with colons.
    Mac, check_mac, "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"
);
checked_text!(
    /// The name of a network interface as the kernel takes it: at most 15 bytes, no `/`, no space.
    InterfaceName, check_interface, "^[^\\s/:]{1,15}$"
);
checked_text!(
    /// An IPv4 or IPv6 address.
    Ip, check_ip, "^[0-9A-Fa-f.:]+$"
);
checked_text!(
    /// An IPv4 or IPv6 address with its prefix length.
    IpPrefix, check_ip_prefix, "^[0-9A-Fa-f.:]+/[0-9]{1,3}$"
);
checked_text!(
    /// A host name, an IPv4 address or an IPv6 address (in brackets or not).
    HostName, check_host, "^[A-Za-z0-9.:\\[\\]_-]{1,253}$"
);
checked_text!(
    /// A UUID, kept in lower case.
    Uuid, check_uuid, "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
);
checked_text!(
    /// `sha256:` and 64 lower-case hex digits.
    Checksum, check_checksum, "^sha256:[0-9a-f]{64}$"
);
checked_text!(
    /// How far a disk grows: `+10GiB` by that much, `50GiB` to that much.
    Growth, check_growth, "^\\+?[0-9.]+ ?[KMGT]i?B?$"
);
checked_text!(
    /// The name of a Unix group.
    GroupName, check_group, "^[a-z_][a-z0-9_-]{0,31}$"
);
checked_text!(
    /// A part in per cent.
    Percent, check_percent, "^[0-9]{1,3}%$"
);
checked_text!(
    /// The URI of a libvirt daemon; without a query, which could make it run programs.
    LibvirtUri, check_libvirt_uri, "^[a-z]+(\\+[a-z]+)?://[^?#\\s]*$"
);
checked_text!(
    /// An http or https URL.
    HttpUrl, check_http_url, "^https?://[^\\s]+$"
);
checked_text!(
    /// A point in a week: `Sat 22:00`.
    WeekTime, check_week_time, "^(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [0-2][0-9]:[0-5][0-9]$"
);

fn no_breaks(text: &str, what: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        return Err(refuse(format!("{what} must not be empty"), "give it a value or remove the key"));
    }
    if text.contains(char::is_control) {
        return Err(refuse(format!("{what} must not hold line breaks or tabs"), "write it on one line"));
    }
    Ok(())
}

fn check_id(text: &str) -> Result<String, Refusal> {
    if units::is_id(text) {
        return Ok(text.to_owned());
    }
    let safe = units::safe_id(text);
    Err(refuse(format!("`{}` is not an id", text.escape_debug()), format!("`{safe}` would be one")).allowed(
        "1 to 128 of the letters a-z and A-Z, digits, `_`, `.` and `-`, not beginning with `.` or `-`",
    ))
}

fn check_line(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "this text")?;
    if text.chars().count() > 255 {
        return Err(refuse("this text has more than 255 characters", "shorten it"));
    }
    Ok(text.to_owned())
}

fn check_path(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a path")?;
    if text.starts_with('~') {
        return Err(refuse(
            "`~` is not expanded: the service has no home directory of yours",
            "write the path out, from `/` or relative to the manifest",
        ));
    }
    if text.len() > 4095 {
        return Err(refuse("a path may have at most 4095 bytes", "shorten it"));
    }
    Ok(text.to_owned())
}

fn check_absolute(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a path")?;
    if !text.starts_with('/') {
        return Err(refuse(format!("`{text}` is a relative path"), "write it out, from `/`"));
    }
    let text = check_path(text)?;
    Ok(normalised(Path::new(&text)).to_string_lossy().into_owned())
}

fn check_mac(text: &str) -> Result<String, Refusal> {
    let bad = || {
        refuse(
            format!("`{text}` is not a MAC address"),
            "write six pairs of hex digits, as 52:54:00:12:34:56",
        )
    };
    let separator = if text.contains('-') { '-' } else { ':' };
    let pairs: Vec<&str> = text.split(separator).collect();
    let all_hex = pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
    if pairs.len() != 6 || !all_hex {
        return Err(bad());
    }
    let mac = pairs.join(":").to_lowercase();
    // The lowest bit of the first byte marks groups; no network card has such an address.
    if u8::from_str_radix(pairs[0], 16).is_ok_and(|first| first & 1 == 1) {
        return Err(refuse(
            format!("`{text}` is a multicast address"),
            "a network card has a unicast address",
        ));
    }
    Ok(mac)
}

fn check_interface(text: &str) -> Result<String, Refusal> {
    let fits = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':');
    if fits {
        return Ok(text.to_owned());
    }
    Err(refuse(
        format!("`{}` is not the name of a network interface", text.escape_debug()),
        "write it as `ip link` shows it, for example br-lan or eth0.100",
    )
    .allowed("1 to 15 bytes without `/`, `:` and spaces"))
}

fn check_ip(text: &str) -> Result<String, Refusal> {
    text.parse::<IpAddr>().map(|ip| ip.to_string()).map_err(|_| {
        refuse(format!("`{text}` is not an IPv4 or IPv6 address"), "as 192.0.2.10 or 2001:db8::10")
    })
}

fn check_ip_prefix(text: &str) -> Result<String, Refusal> {
    let parsed = text.split_once('/').and_then(|(ip, prefix)| {
        let ip: IpAddr = ip.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        (prefix <= most).then(|| format!("{ip}/{prefix}"))
    });
    parsed.ok_or_else(|| {
        refuse(
            format!("`{text}` is not an address with a prefix length"),
            "as 192.0.2.10/24 or 2001:db8::10/64",
        )
    })
}

fn check_host(text: &str) -> Result<String, Refusal> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_name = text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label);
    if bare.parse::<IpAddr>().is_ok() || is_name {
        return Ok(bare.to_owned());
    }
    Err(refuse(
        format!("`{}` is not a host name or address", text.escape_debug()),
        "as vcenter.example.com or 192.0.2.10, without scheme, user, port or path",
    ))
}

fn check_uuid(text: &str) -> Result<String, Refusal> {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    if lengths == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) {
        return Ok(text.to_lowercase());
    }
    Err(refuse(format!("`{text}` is not a UUID"), "as 6ba7b810-9dad-11d1-80b4-00c04fd430c8"))
}

fn check_checksum(text: &str) -> Result<String, Refusal> {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(text.to_owned());
    }
    let advice = if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        "write the digits in lower case"
    } else {
        "write `sha256:` and the 64 hex digits that `sha256sum` prints"
    };
    Err(refuse("this is not a SHA-256 checksum", advice).allowed("sha256:<64 lower-case hex digits>"))
}

fn check_growth(text: &str) -> Result<String, Refusal> {
    match units::parse_size(text.strip_prefix('+').unwrap_or(text)) {
        Ok(bytes) if bytes > 0 => Ok(text.to_owned()),
        _ => Err(refuse(format!("`{text}` is not a growth"), "write \"+10GiB\" (by) or \"50GiB\" (to)")),
    }
}

fn check_group(text: &str) -> Result<String, Refusal> {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    if first && rest && text.len() <= 32 {
        return Ok(text.to_owned());
    }
    Err(refuse(
        format!("`{}` is not the name of a group", text.escape_debug()),
        "write it as `getent group` shows it",
    ))
}

fn check_percent(text: &str) -> Result<String, Refusal> {
    match text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok()) {
        Some(0..=100) => Ok(text.to_owned()),
        _ => Err(refuse(format!("`{text}` is not a percentage"), "write \"20%\"").allowed("0% to 100%")),
    }
}

fn check_libvirt_uri(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a URI")?;
    if text.contains(['?', '#']) {
        return Err(refuse(
            "a libvirt URI in a manifest may not have a query",
            "remove what follows the `?`",
        ));
    }
    match text.split_once("://") {
        Some((scheme, _)) if !scheme.is_empty() => Ok(text.to_owned()),
        _ => Err(refuse(format!("`{text}` is not a libvirt URI"), "as qemu:///system")),
    }
}

fn check_http_url(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a URL")?;
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !text.contains(char::is_whitespace) => Ok(text.to_owned()),
        _ => Err(refuse(format!("`{text}` is not an http or https URL"), "as https://host/path")),
    }
}

fn check_week_time(text: &str) -> Result<String, Refusal> {
    let good = text.split_once(' ').is_some_and(|(day, time)| {
        let time = time.split_once(':').and_then(|(h, m)| {
            Some((h.len() == 2 && h.parse::<u8>().ok()? < 24) && (m.len() == 2 && m.parse::<u8>().ok()? < 60))
        });
        ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&day) && time == Some(true)
    });
    if good {
        return Ok(text.to_owned());
    }
    Err(refuse(format!("`{text}` is not a day and time"), "as \"Sat 22:00\""))
}

impl AbsolutePath {
    /// As a path.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(&self.0)
    }
}

impl PathText {
    /// Absolute, counted from `base` if relative, with `.` and `..` taken out by their letters alone.
    #[must_use]
    pub fn below(&self, base: &Path) -> PathBuf {
        normalised(&base.join(&self.0))
    }
}

/// A path without `.` and `..`, by its letters alone: what a link along the way points at is not asked.
#[must_use]
pub fn normalised(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            // Above the root is the root.
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::Prefix(_) | Component::Normal(_) => clean.push(component),
        }
    }
    clean
}

impl Checksum {
    /// The hex digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

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

/// A number of bytes per second: `50MiB/s`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

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

fn bytes_of(written: &Written, what: &str, example: &str) -> Result<u64, Refusal> {
    let bad =
        |shown: &str| refuse(format!("`{shown}` is not {what}"), format!("write {example}, or plain bytes"));
    match written {
        Written::Text(text) => units::parse_size(text).map_err(|_| bad(text)),
        Written::Int(number) => u64::try_from(*number).map_err(|_| bad(&number.to_string())),
        Written::Float(number) => Err(bad(&number.to_string())),
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = deserializer.deserialize_any(TextOrNumber("a size such as 10GiB"))?;
        bytes_of(&written, "a size", "10GiB").map(Size).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = match deserializer.deserialize_any(TextOrNumber("a rate such as 50MiB/s"))? {
            Written::Text(text) => Written::Text(text.strip_suffix("/s").unwrap_or(&text).to_owned()),
            number => number,
        };
        bytes_of(&written, "a rate", "50MiB/s").map(Rate).map_err(de::Error::custom)
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
text_or_number_schema!(Size, Rate, Seconds, FileMode);

/// A secret as written; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

/// Free content that is passed on as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Free(pub serde_json::Value);

impl<'de> Deserialize<'de> for Free {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(Free)
    }
}

impl JsonSchema for Free {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Free".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}
