//! `network_mapping` and `storage_mapping`: what stands here for what the machine had where it came from.
//!
//! What is not here: which of several entries holds for a card or a disk (the planner decides that), and how libvirt is told.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::NicModel;
use super::values::{InterfaceName, Line, Mac, PathText, Size, Throughput, Whole};
use crate::model::parse::Refusal;
use crate::model::plan::OutputFormat;

/// `network_mapping`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkMapping {
    /// Name of a source network, or a pattern with `*` and `?`, to what its cards are plugged into.
    pub source_networks: Option<BTreeMap<String, NetworkTarget>>,
    /// What becomes of MAC addresses; default preserve.
    pub mac_address_policy: Option<MacPolicy>,
    /// For `custom`: old to new. Keys are MAC addresses.
    pub mac_address_overrides: Option<BTreeMap<Mac, Mac>>,
    /// For networks that are not named.
    pub default_bridge: Option<InterfaceName>,
}

/// What becomes of MAC addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MacPolicy {
    /// They stay.
    #[default]
    Preserve,
    /// New ones.
    Regenerate,
    /// As `mac_address_overrides` says; others stay.
    Custom,
}

/// What the cards of a network are plugged into: a bridge's name, or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkTarget {
    /// A bridge.
    Bridge(InterfaceName),
    /// More.
    Plug(Box<NetworkPlug>),
}

/// What the cards of a network are plugged into, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlug {
    /// A bridge of Linux's; or `network`, or `ovs_bridge`.
    pub bridge: Option<InterfaceName>,
    /// A network of libvirt's.
    pub network: Option<Line>,
    /// A bridge of Open vSwitch's.
    pub ovs_bridge: Option<InterfaceName>,
    /// The VLAN, with `ovs_bridge`.
    pub vlan: Option<Whole<1, 4094>>,
    /// The model of the cards that do not say theirs.
    pub model: Option<NicModel>,
    /// How much a card may send and receive.
    pub bandwidth: Option<Bandwidth>,
    /// Whether it is no error that the machine has no such network.
    pub optional: Option<bool>,
}

/// `bandwidth`: of one network card.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// What it receives.
    pub inbound: Option<Flow>,
    /// What it sends.
    pub outbound: Option<Flow>,
}

/// How much may flow one way: `50MiB/s`, or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// So much in the long run.
    Average(Throughput),
    /// More.
    Limits(FlowLimits),
}

/// How much may flow one way.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowLimits {
    /// In the long run.
    pub average: Throughput,
    /// For a moment.
    pub peak: Option<Throughput>,
    /// How much may flow at the peak.
    pub burst: Option<Size>,
}

/// `storage_mapping`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageMapping {
    /// The pool for disks that are not named.
    pub default_pool: Option<Line>,
    /// Id of a disk, its role (`boot`, `data`), or a pattern with `*` and `?`, to where its result lies.
    pub disk_mappings: Option<BTreeMap<String, DiskTarget>>,
    /// Format of every disk, instead of `output.format`.
    pub format_override: Option<OutputFormat>,
    /// Whether every result has all its room from its beginning (thick), instead of `output.preallocation`.
    pub preallocate: Option<bool>,
    /// How the host caches every disk.
    pub cache: Option<DiskCache>,
    /// How much every disk may read and write.
    pub qos: Option<DiskQos>,
}

/// Where a disk's result lies: a directory, or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskTarget {
    /// A directory.
    Directory(PathText),
    /// More.
    Place(Box<DiskPlace>),
}

/// Where a disk's result lies, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskPlace {
    /// The directory; none: the VM's.
    pub directory: Option<PathText>,
    /// A libvirt storage pool instead.
    pub pool: Option<Line>,
    /// Its format.
    pub format_override: Option<OutputFormat>,
    /// Whether it has all its room from its beginning (thick).
    pub preallocate: Option<bool>,
    /// How the host caches it.
    pub cache: Option<DiskCache>,
    /// How much it may read and write.
    pub qos: Option<DiskQos>,
    /// Whether it is no error that the machine has no such disk.
    pub optional: Option<bool>,
}

/// How the host caches a disk: as libvirt calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskCache {
    /// Not; the guest's flushes reach the disk.
    None,
    /// Reads and writes; the guest's flushes reach the disk.
    Writeback,
    /// Reads; each write reaches the disk.
    Writethrough,
    /// Not; each write reaches the disk.
    Directsync,
    /// Reads and writes; flushes are ignored.
    Unsafe,
}

impl DiskCache {
    /// The name in manifests, and libvirt's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DiskCache::None => "none",
            DiskCache::Writeback => "writeback",
            DiskCache::Writethrough => "writethrough",
            DiskCache::Directsync => "directsync",
            DiskCache::Unsafe => "unsafe",
        }
    }
}

/// `qos`: how much a disk may read and write in a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskQos {
    /// Bytes read and written; or both of the next.
    pub total_bytes_sec: Option<Throughput>,
    /// Bytes read.
    pub read_bytes_sec: Option<Throughput>,
    /// Bytes written.
    pub write_bytes_sec: Option<Throughput>,
    /// Requests to read and write; or both of the next.
    pub total_iops_sec: Option<Whole<1, 1_000_000_000>>,
    /// Requests to read.
    pub read_iops_sec: Option<Whole<1, 1_000_000_000>>,
    /// Requests to write.
    pub write_iops_sec: Option<Whole<1, 1_000_000_000>>,
}

/// A value that has a short form, which is a text or a number, and a long one, which is a map.
trait ShortOrLong<'de>: Sized {
    /// What people are told that it may be.
    const EXPECTED: &'static str;
    /// The long form.
    type Long: Deserialize<'de>;

    fn short(text: &str) -> Result<Self, Refusal>;
    fn long(long: Self::Long) -> Self;
}

struct ShortOrLongVisitor<T>(PhantomData<T>);

impl<'de, T: ShortOrLong<'de>> Visitor<'de> for ShortOrLongVisitor<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::short(text).map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::Long::deserialize(de::value::MapAccessDeserializer::new(map)).map(T::long)
    }
}

macro_rules! short_or_long {
    ($name:ident, $expected:literal, $short:ident($text:ty), $long:ident($map:ty), $wrap:expr) => {
        impl<'de> ShortOrLong<'de> for $name {
            const EXPECTED: &'static str = $expected;
            type Long = $map;

            fn short(text: &str) -> Result<$name, Refusal> {
                <$text>::new(text).map($name::$short)
            }
            fn long(long: $map) -> $name {
                $name::$long($wrap(long))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                deserializer.deserialize_any(ShortOrLongVisitor(PhantomData))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let (short, long) =
                    (generator.subschema_for::<$text>(), generator.subschema_for::<$map>());
                json_schema!({ "anyOf": [short, long] })
            }
        }
    };
}

short_or_long!(
    NetworkTarget,
    "the name of a bridge, or a map with one of `bridge`, `network` and `ovs_bridge`",
    Bridge(InterfaceName),
    Plug(NetworkPlug),
    Box::new
);
short_or_long!(
    DiskTarget,
    "a directory, or a map with what holds for the disk",
    Directory(PathText),
    Place(DiskPlace),
    Box::new
);
short_or_long!(
    Flow,
    "a rate such as 50MiB/s, or a map with `average`",
    Average(Throughput),
    Limits(FlowLimits),
    std::convert::identity
);
