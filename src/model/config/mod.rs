//! The configuration: fragments as written, merged in order, and the settings they come to.
//!
//! ```text
//! hyper2kvm.yaml, conf.d/*.yaml ─ parse ─▶ trees ─ features of other versions refused ─▶ decode each, strictly
//!                                                     └─▶ merge in order ─▶ validate together ─▶ Settings
//! ```
//!
//! Reading the files is their callers' work; what is here is pure, so a reload can be tried before it is applied.

mod changes;
mod file;
mod later;
mod libvirt;
mod notifications;
mod preflight;
mod resolve;
mod settings;
mod vcenter;

pub use changes::{Changes, changes};
pub use file::{
    BandwidthFile, ConfigFile, ControlFile, IntakeFile, LimitsFile, LogFile, MetricsFile, NetworkFile,
    PathsFile, RetentionFile, RetryFile, SettleFile, VddkFile,
};
pub use later::is_named_in as names_what_comes_later;
pub use libvirt::{LibvirtFile, LibvirtSettings};
pub use notifications::{
    EmailSettings, MailSecurity, NotificationSettings, NotificationsFile, SecretPlace, WebhookSettings,
    WebhookType,
};
pub use preflight::{CustomValidator, PreflightFile, PreflightSettings, ValidatorFile};
pub use resolve::{Fragment, Overrides, check_fragment, resolve};
pub use settings::*;
pub use vcenter::VcConnectionSettings;
