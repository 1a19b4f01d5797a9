//! hyper2kvm turns virtual machines of other hypervisors into KVM guests that boot the first time.
//!
//! The program is one user of this library. There are three levels; each is built from the next and
//! can be left for it where it does not fit.
//!
//! **High**: a VM or a disk and what is to become of it: [`Migration`], [`DiskProcessor`]. Each has an
//! example.
//!
//! **Middle**: the parts of it. A manifest is read and planned by
//! [`model::planner::Submission`], without touching anything:
//!
//! ```
//! use hyper2kvm::model::{config::Settings, job::Stage, planner::Submission};
//! use std::path::Path;
//!
//! let manifest = b"
//! manifest_version: '1.0'
//! disks:
//!   - {id: boot, source_format: vmdk, local_path: /vms/web.vmdk}
//! ";
//! let settings = Settings::defaults(Path::new("/var/lib/hyper2kvm"), 4);
//! let plan = &Submission::read(manifest, "web.yaml", Path::new("/drop"), &settings)?
//!     .plans("web", "", &settings)?[0];
//! assert!(plan.runs(Stage::Validate));
//! assert_eq!(plan.result_path(&plan.disks[0]), Path::new("/var/lib/hyper2kvm/output/web/web/boot.qcow2"));
//! # Ok::<(), hyper2kvm::model::error::Error>(())
//! ```
//!
//! A plan is carried out by [`pipeline::worker::run`], on the caller's thread, or by
//! [`pipeline::launch::WorkerProcess`], in a confined process with typed events and commands.
//!
//! **Low**: the rooms themselves. [`disk`] knows images:
//!
//! ```
//! # let temp = tempfile::tempdir()?;
//! # let path = temp.path().join("web.vmdk");
//! # std::fs::write(&path, vec![0; 4096])?;
//! // Told by content: a name proves nothing.
//! assert_eq!(hyper2kvm::disk::detect(&path)?.format, hyper2kvm::disk::Format::Raw);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is not here: a promise that the low level stays as it is. The outside contract is the
//! program's: its files, commands and exit codes.

pub mod cli;
pub mod disk;
pub mod guest;
pub mod libvirt;
pub mod model;
pub mod pipeline;
pub mod report;
pub mod service;
pub mod source;
pub mod sys;
pub mod vsphere;
pub(crate) mod web;

pub use pipeline::{DiskProcessor, Migration};

/// To be called first in `main` of a program that uses the high level.
///
/// Every child is started as the program that runs, once more, which binds itself (death signal, limits, sandbox) and then
/// becomes the child: this is where that happens. In any other process it does nothing. A
/// program that cannot do this names a hyper2kvm binary instead (`with_program`).
pub fn init() {
    let word = std::env::args_os().nth(1);
    if word.as_ref().is_some_and(|word| word == "hooks") {
        let _ = pipeline::hooks::process_main();
        std::process::exit(0);
    }
    if word.is_some_and(|word| word == "stub") {
        // Comes back only where it could not become the child, having said why.
        let _ = sys::stub::main();
        std::process::exit(i32::from(sys::process::STUB_FAILURE_CODE));
    }
}
