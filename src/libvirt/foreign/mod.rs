//! libvirt's functions that the crate `virt` lacks: called through its raw bindings, and wrapped so that nobody else has to be `unsafe`.
//!
//! One file per group of functions. What is not here: anything that decides; each wrapper owns what libvirt hands out and frees it.

pub(super) mod blocks;
pub(super) mod events;
pub(super) mod leases;
pub(super) mod statistics;
pub(super) mod streams;
