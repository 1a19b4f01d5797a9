//! hyper2kvm turns virtual machines of other hypervisors into KVM guests that boot the first time.

pub mod cli;
pub mod disk;
pub mod model;
pub mod pipeline;
pub mod service;
pub mod sys;
