//! Lifecycle events of all machines, and the end of the connection that they come through.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use virt::error::Error;
use virt::sys;

use crate::libvirt::link::Link;

/// Who hears of it, on libvirt's own thread: it must not block there.
pub(in crate::libvirt) trait Hears: Send + Sync + 'static {
    /// Something happened to a machine: its name, its UUID, libvirt's numbers.
    fn lifecycle(&self, name: String, uuid: String, event: c_int, detail: c_int);
    /// The connection is gone, for this reason.
    fn closed(&self, reason: c_int);
}

/// A connection whose events somebody hears, until this goes out of scope.
#[derive(Debug)]
pub(in crate::libvirt) struct Listening {
    link: Link,
    lifecycle: c_int,
    closed: sys::virConnectCloseFunc,
}

impl Listening {
    /// Begins. libvirt's event loop has to run since before the connection was opened.
    pub(in crate::libvirt) fn begin<H: Hears>(link: Link, hears: &Arc<H>) -> Result<Listening, Error> {
        let connection = link.raw().as_ptr();
        let opaque = Arc::into_raw(hears.clone()).cast_mut().cast::<c_void>();
        let callback: sys::virConnectDomainEventCallback = Some(lifecycle::<H>);
        // SAFETY: libvirt calls what is registered for lifecycle events with the arguments of this type, and documents this very cast.
        let callback = unsafe {
            mem::transmute::<sys::virConnectDomainEventCallback, sys::virConnectDomainEventGenericCallback>(
                callback,
            )
        };
        // SAFETY: the connection is open as long as `link` lives. `opaque` is a reference of its own to a `H`, which libvirt gives back through
        // `release` when it calls `callback` no more.
        let registered = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connection,
                ptr::null_mut(),
                sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE as c_int,
                callback,
                opaque,
                Some(release::<H>),
            )
        };
        if registered < 0 {
            let error = Error::last_error();
            // SAFETY: libvirt did not take it: it is still ours, and given back once.
            unsafe { release::<H>(opaque) };
            return Err(error);
        }
        let mut listening = Listening { link, lifecycle: registered, closed: None };
        let opaque = Arc::into_raw(hears.clone()).cast_mut().cast::<c_void>();
        let callback: sys::virConnectCloseFunc = Some(closed::<H>);
        // SAFETY: as above.
        let registered =
            unsafe { sys::virConnectRegisterCloseCallback(connection, callback, opaque, Some(release::<H>)) };
        if registered < 0 {
            let error = Error::last_error();
            // SAFETY: as above.
            unsafe { release::<H>(opaque) };
            return Err(error);
        }
        listening.closed = callback;
        Ok(listening)
    }
}

impl Drop for Listening {
    /// May block as any call does. What cannot be taken back ends with the connection.
    fn drop(&mut self) {
        let connection = self.link.raw().as_ptr();
        if self.closed.is_some() {
            // SAFETY: the connection is open, and this is the pointer that was registered.
            unsafe { sys::virConnectUnregisterCloseCallback(connection, self.closed) };
        }
        // SAFETY: the connection is open, and this is the number that it gave.
        unsafe { sys::virConnectDomainEventDeregisterAny(connection, self.lifecycle) };
    }
}

/// What libvirt calls.
unsafe extern "C" fn lifecycle<H: Hears>(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: the machine is libvirt's, and there until this returns; the name belongs to it.
    let name = unsafe { text(sys::virDomainGetName(domain)) };
    let mut buffer = [0; sys::VIR_UUID_STRING_BUFLEN as usize];
    // SAFETY: as above, and the buffer is as long as libvirt wants it.
    let uuid = match unsafe { sys::virDomainGetUUIDString(domain, buffer.as_mut_ptr()) } {
        // SAFETY: it is filled and ends with a NUL.
        0 => unsafe { text(buffer.as_ptr()) },
        _ => String::new(),
    };
    // SAFETY: this is what was registered, and libvirt has not given it back.
    let hears = unsafe { &*opaque.cast_const().cast::<H>() };
    // A defect costs the event, not the process.
    let _ = catch_unwind(AssertUnwindSafe(|| hears.lifecycle(name, uuid, event, detail)));
    0
}

/// What libvirt calls.
unsafe extern "C" fn closed<H: Hears>(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: this is what was registered, and libvirt has not given it back.
    let hears = unsafe { &*opaque.cast_const().cast::<H>() };
    let _ = catch_unwind(AssertUnwindSafe(|| hears.closed(reason)));
}

/// Gives one reference back.
unsafe extern "C" fn release<H: Hears>(opaque: *mut c_void) {
    // SAFETY: each pointer that is registered comes from `Arc::into_raw`, and is given back once.
    drop(unsafe { Arc::from_raw(opaque.cast_const().cast::<H>()) });
}

/// A text of libvirt's; none is empty.
///
/// # Safety
///
/// It is null, or ends with a NUL and lives until this returns.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller says so.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
