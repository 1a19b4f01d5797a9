//! What a boot test is asked, and what it finds.
//!
//! The answer is part of the outside contract: it is what `boot-test --json` prints and what reports hold. What
//! is not here: how a guest is started and watched (the pipeline's boot test).

use std::path::PathBuf;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Error, Kind, Result};
use super::libvirt_uri::SYSTEM;
use super::machine::Firmware;
use super::manifest::{Accelerator, BootMethod, BootTest, TestFirmware};

/// How long a guest may take under KVM, seconds.
pub const DEFAULT_TIMEOUT_S: f64 = 300.0;
/// How much longer everything takes under emulation.
pub const EMULATION_FACTOR: f64 = 4.0;
/// A regular expression may become this large when it is compiled.
const EXPECT_BYTES: usize = 1 << 20;

/// How a guest is to be tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootOptions {
    /// Who runs it.
    #[serde(default, skip_serializing_if = "BootMethod::is_default")]
    pub method: BootMethod,
    /// The libvirt that runs it, where one does; none: that of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt_uri: Option<String>,
    /// How long the guest may take under KVM; under emulation four times that.
    pub timeout_s: f64,
    /// What runs it.
    pub accel: Accelerator,
    /// Memory of the test machine, MiB; none: the machine's own, within reason.
    pub memory_mib: Option<u64>,
    /// Processors of the test machine; none: the machine's own, within reason.
    pub vcpus: Option<u32>,
    /// What starts it; none: what starts the machine.
    pub firmware: Option<Firmware>,
    /// Whether it has a screen.
    pub display: bool,
    /// A regular expression: text on the console that means "booted". None: a login prompt.
    pub expect: Option<String>,
}

impl Default for BootOptions {
    fn default() -> Self {
        BootOptions {
            method: BootMethod::default(),
            libvirt_uri: None,
            timeout_s: DEFAULT_TIMEOUT_S,
            accel: Accelerator::Auto,
            memory_mib: None,
            vcpus: None,
            firmware: None,
            display: true,
            expect: None,
        }
    }
}

impl BootOptions {
    /// As `pipeline.boot_test` says; refuses what this version cannot do.
    pub fn of_manifest(section: &BootTest) -> Result<BootOptions> {
        if section.timeout_s.as_ref().is_some_and(|seconds| seconds.0 <= 0.0) {
            return Err(Error::new(Kind::Manifest, "no guest comes up in no time")
                .field("pipeline.boot_test.timeout_s")
                .advice("give it time (`10m`), or set `pipeline.boot_test.enabled: false`"));
        }
        let default = BootOptions::default();
        let options = BootOptions {
            method: section.method.unwrap_or(default.method),
            libvirt_uri: None,
            timeout_s: section.timeout_s.as_ref().map_or(default.timeout_s, |seconds| seconds.0),
            accel: section.accel.unwrap_or(default.accel),
            memory_mib: section.memory_mb.map(|mib| mib.get().unsigned_abs()),
            vcpus: section.vcpus.and_then(|count| u32::try_from(count.get()).ok()),
            firmware: match section.firmware {
                Some(TestFirmware::Bios) => Some(Firmware::Bios),
                Some(TestFirmware::Uefi) => Some(Firmware::Uefi),
                Some(TestFirmware::Auto) | None => None,
            },
            display: section.display.unwrap_or(default.display),
            expect: section.expect.as_ref().map(|text| text.as_str().to_owned()),
        };
        options.expectation().map_err(|error| error.field("pipeline.boot_test.expect"))?;
        Ok(options)
    }

    /// Which libvirt runs it, if one does.
    #[must_use]
    pub fn libvirt(&self) -> &str {
        self.libvirt_uri.as_deref().unwrap_or(SYSTEM)
    }

    /// What is waited for on the console, if not for a login prompt.
    pub fn expectation(&self) -> Result<Option<Regex>> {
        let Some(text) = &self.expect else { return Ok(None) };
        let made = regex::RegexBuilder::new(text).size_limit(EXPECT_BYTES).build();
        made.map(Some).map_err(|error| {
            // The last line says why; those before show where, over several lines.
            let why = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
            Error::new(
                Kind::Manifest,
                format!("`{}` is not a regular expression: {why}", text.escape_debug()),
            )
            .advice("escape characters that are meant as they stand with a backslash")
        })
    }
}

/// Whether a guest came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It did, and said so.
    Booted,
    /// It did not, and said why.
    Failed,
    /// It said neither.
    Undetermined,
}

impl Verdict {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Booted => "booted",
            Verdict::Failed => "failed",
            Verdict::Undetermined => "undetermined",
        }
    }
}

/// What a boot test found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BootVerdict {
    /// Whether it came up.
    pub verdict: Verdict,
    /// The same, yes or no.
    pub booted: bool,
    /// How long it took.
    pub seconds: f64,
    /// What ran it: `kvm` or `tcg`.
    pub accel: String,
    /// What started it: `bios` or `uefi`.
    pub firmware: String,
    /// By what it was told.
    pub evidence: String,
    /// Where a picture of its screen is.
    pub screenshot: Option<PathBuf>,
    /// The last lines of its console.
    pub console_tail: Option<String>,
    /// Why it did not come up.
    pub error: Option<String>,
}

impl BootVerdict {
    /// The error of a guest that did not come up; none for one that did, or of which nobody knows.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        let error = self.error.as_ref().filter(|_| self.verdict == Verdict::Failed)?;
        Some(
            Error::new(Kind::Boot, format!("the guest did not boot: {error}"))
                .advice("the end of its console says where it stopped; repair the guest, or its source, and try again")
                .console_tail(self.console_tail.clone().unwrap_or_default()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<BootOptions> {
        BootOptions::of_manifest(&serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn what_the_manifest_does_not_say_has_defaults() {
        assert_eq!(options("{}").unwrap(), BootOptions::default());
        let said =
            options("{timeout_s: 30s, accel: tcg, memory_mb: 512, vcpus: 1, firmware: uefi, display: false}")
                .unwrap();
        assert_eq!(options("{method: libvirt}").unwrap().method, BootMethod::Libvirt);
        assert_eq!((said.timeout_s, said.memory_mib, said.vcpus), (30.0, Some(512), Some(1)));
        assert_eq!(
            (said.accel, said.firmware, said.display),
            (Accelerator::Tcg, Some(Firmware::Uefi), false)
        );
    }

    #[test]
    fn what_cannot_be_done_or_understood_is_refused_with_its_field() {
        let error = options("{expect: 'ready ('}").unwrap_err();
        assert_eq!(error.kind(), Kind::Manifest);
        assert_eq!(error.details().place.field.as_deref(), Some("pipeline.boot_test.expect"));
        assert!(error.to_string().contains("unclosed group"), "{error}");
        assert_eq!(options("{expect: '(a{1000}){1000}'}").unwrap_err().kind(), Kind::Manifest);
    }

    #[test]
    fn only_a_guest_that_failed_is_an_error() {
        let mut verdict = BootVerdict {
            verdict: Verdict::Failed,
            booted: false,
            seconds: 7.0,
            accel: "tcg".to_owned(),
            firmware: "bios".to_owned(),
            evidence: "Kernel panic".to_owned(),
            screenshot: None,
            console_tail: Some("Kernel panic - not syncing".to_owned()),
            error: Some("kernel panic".to_owned()),
        };
        let error = verdict.failure().unwrap();
        assert_eq!(error.kind(), Kind::Boot);
        assert!(error.details().console_tail.is_some());
        verdict.verdict = Verdict::Undetermined;
        assert_eq!(verdict.failure(), None);
    }
}
