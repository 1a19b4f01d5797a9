//! The small values that manifests and configuration are made of: each checks itself while it is read.
//!
//! What a value of these types holds is well-formed; whether what it names exists is not asked here.

mod checks;
mod numbers;

use std::borrow::Cow;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::model::parse::Refusal;

pub use numbers::{FileMode, Rate, Seconds, Size, Throughput, Version, Whole};

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
    Id, checks::check_id, "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
);
checked_text!(
    /// One line of text: a name, a label.
    Line, checks::check_line, "^[^\\n\\r\\t]{1,255}$"
);
checked_text!(
    /// A pattern with the groups `vm` and `disk`.
    DiskPattern, checks::check_disk_pattern, "^[^\\n\\r\\t]{1,255}$"
);
checked_text!(
    /// A path as written: not empty, not relative to a home directory.
    PathText, checks::check_path, "^[^~\\n\\r\\t][^\\n\\r\\t]*$"
);
checked_text!(
    /// An absolute path, without `.` and `..`.
    AbsolutePath, checks::check_absolute, "^/[^\\n\\r\\t]*$"
);
checked_text!(
    /// A MAC address, kept in lower case with colons.
    Mac, checks::check_mac, "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"
);
checked_text!(
    /// The name of a network interface as the kernel takes it: at most 15 bytes, no `/`, no space.
    InterfaceName, checks::check_interface, "^[^\\s/:]{1,15}$"
);
checked_text!(
    /// An IPv4 or IPv6 address.
    Ip, checks::check_ip, "^[0-9A-Fa-f.:]+$"
);
checked_text!(
    /// An IPv4 or IPv6 address with its prefix length.
    IpPrefix, checks::check_ip_prefix, "^[0-9A-Fa-f.:]+/[0-9]{1,3}$"
);
checked_text!(
    /// A host name, an IPv4 address or an IPv6 address (in brackets or not).
    HostName, checks::check_host, "^[A-Za-z0-9.:\\[\\]_-]{1,253}$"
);
checked_text!(
    /// A UUID, kept in lower case.
    Uuid, checks::check_uuid, "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
);
checked_text!(
    /// `sha256:` and 64 lower-case hex digits; or `sha1:` and 40, `sha512:` and 128.
    Checksum, checks::check_checksum, "^(sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"
);
checked_text!(
    /// How far a disk grows: `+10GiB` by that much, `50GiB` to that much.
    Growth, checks::check_growth, "^\\+?[0-9.]+ ?[KMGT]i?B?$"
);
checked_text!(
    /// The name of a Unix group.
    GroupName, checks::check_group, "^[a-z_][a-z0-9_-]{0,31}$"
);
checked_text!(
    /// A line of `authorized_keys`: a public key of SSH, with options before it and a comment behind it if there are any.
    PublicKey, checks::check_public_key, "^[^\\n\\r\\t]{1,16384}$"
);
checked_text!(
    /// A part in per cent.
    Percent, checks::check_percent, "^[0-9]{1,3}%$"
);
checked_text!(
    /// The URI of a libvirt daemon; without a query, which could make it run programs.
    LibvirtUri, checks::check_libvirt_uri, "^[a-z]+(\\+[a-z]+)?://[^?#\\s]*$"
);
checked_text!(
    /// An http or https URL, in which names such as `{{ vm_name }}` may stand for values.
    HookUrl, checks::check_hook_url, "^https?://.+$"
);
checked_text!(
    /// An address of mail.
    MailAddress, checks::check_mail, "^[^\\s<>@,]+@[A-Za-z0-9.-]+$"
);
checked_text!(
    /// Addresses of mail, with commas between them.
    MailAddresses, checks::check_mails, "^[^\\s<>@,]+@[A-Za-z0-9.-]+(, *[^\\s<>@,]+@[A-Za-z0-9.-]+)*$"
);
checked_text!(
    /// A point in a week: `Sat 22:00`.
    WeekTime, checks::check_week_time, "^(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [0-2][0-9]:[0-5][0-9]$"
);

impl AbsolutePath {
    /// As a path.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(&self.0)
    }
}

impl MailAddresses {
    /// Each of them.
    pub fn each(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').map(str::trim)
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

/// A secret as written; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// One that was written elsewhere than in a document.
    #[must_use]
    pub fn made(text: &str) -> Secret {
        Secret(text.to_owned())
    }

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

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
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
