//! Jobs of disks: what QEMU does with the files of a disk while its machine runs.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_ulong};
use std::ptr;

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// How far a job is.
#[derive(Debug, Clone, Copy)]
pub(in crate::libvirt) struct Info {
    /// One of `VIR_DOMAIN_BLOCK_JOB_TYPE_…`.
    pub(in crate::libvirt) kind: u32,
    pub(in crate::libvirt) done: u64,
    pub(in crate::libvirt) of: u64,
}

/// Puts the files between `top` and `base` into `base`; null means the first and the last one.
pub(in crate::libvirt) fn commit(
    domain: &Domain,
    disk: &CStr,
    base: Option<&CString>,
    top: Option<&CString>,
    bytes_per_s: u64,
    flags: u32,
) -> Result<(), Error> {
    let given = |path: Option<&CString>| path.map_or(ptr::null(), |path| path.as_ptr());
    let flags = flags | sys::VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES;
    // SAFETY: the machine is borrowed; the texts end with a NUL, outlive the call and are copied by it; null is allowed for both files.
    done(unsafe {
        sys::virDomainBlockCommit(
            domain.as_ptr(),
            disk.as_ptr(),
            given(base),
            given(top),
            rate(bytes_per_s),
            flags,
        )
    })
}

/// Takes what the files below hold into the topmost one.
pub(in crate::libvirt) fn pull(domain: &Domain, disk: &CStr, bytes_per_s: u64) -> Result<(), Error> {
    let flags = sys::VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES;
    // SAFETY: the machine is borrowed; the text ends with a NUL and outlives the call.
    done(unsafe { sys::virDomainBlockPull(domain.as_ptr(), disk.as_ptr(), rate(bytes_per_s), flags) })
}

/// Copies the disk to where this `<disk>` says, and then keeps both alike.
pub(in crate::libvirt) fn copy(
    domain: &Domain,
    disk: &CStr,
    to: &CStr,
    bytes_per_s: u64,
) -> Result<(), Error> {
    let mut field = [0; sys::VIR_TYPED_PARAM_FIELD_LENGTH as usize];
    for (to, from) in field.iter_mut().zip(sys::VIR_DOMAIN_BLOCK_COPY_BANDWIDTH.to_bytes()) {
        *to = from.cast_signed();
    }
    let mut bandwidth = sys::virTypedParameter {
        field,
        type_: sys::VIR_TYPED_PARAM_ULLONG.cast_signed(),
        value: sys::_virTypedParameter__bindgen_ty_1 { ul: bytes_per_s },
    };
    // A job of QEMU ends with it, which has to be agreed to.
    let flags = sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
    // SAFETY: the machine is borrowed; the texts end with a NUL and outlive the call, as does the one parameter, which is only read.
    done(unsafe {
        sys::virDomainBlockCopy(domain.as_ptr(), disk.as_ptr(), to.as_ptr(), &raw mut bandwidth, 1, flags)
    })
}

/// How far the job of this disk is; nothing where none is at work.
pub(in crate::libvirt) fn info(domain: &Domain, disk: &CStr) -> Result<Option<Info>, Error> {
    let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: the machine is borrowed; the text ends with a NUL, and libvirt fills in the struct of its own type.
    let found = unsafe { sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &raw mut info, 0) };
    match found {
        0 => Ok(None),
        1.. => Ok(Some(Info { kind: info.type_.cast_unsigned(), done: info.cur, of: info.end })),
        _ => Err(Error::last_error()),
    }
}

/// Ends the job, or has the machine use what it made (`VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT`); returns when that is done.
pub(in crate::libvirt) fn abort(domain: &Domain, disk: &CStr, flags: u32) -> Result<(), Error> {
    // SAFETY: the machine is borrowed; the text ends with a NUL and outlives the call.
    done(unsafe { sys::virDomainBlockJobAbort(domain.as_ptr(), disk.as_ptr(), flags) })
}

/// What does not fit is as fast as can be said.
fn rate(bytes_per_s: u64) -> c_ulong {
    c_ulong::try_from(bytes_per_s).unwrap_or(c_ulong::MAX)
}

fn done(answer: i32) -> Result<(), Error> {
    if answer == -1 { Err(Error::last_error()) } else { Ok(()) }
}
