//! The C library, loaded at run time: the only foreign code that is called without a safe wrapper.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use libloading::{Library, Symbol};

use super::GuestfsPresence;

/// The name that every distribution gives it.
const SONAME: &str = "libguestfs.so.0";

/// `struct guestfs_version` of `guestfs.h`; part of its stable ABI.
#[repr(C)]
struct Version {
    major: i64,
    minor: i64,
    release: i64,
    extra: *mut c_char,
}

type Create = unsafe extern "C" fn() -> *mut c_void;
type Close = unsafe extern "C" fn(*mut c_void);
type SetErrorHandler = unsafe extern "C" fn(*mut c_void, *const c_void, *mut c_void);
type GetVersion = unsafe extern "C" fn(*mut c_void) -> *mut Version;
type FreeVersion = unsafe extern "C" fn(*mut Version);

pub(super) fn presence() -> GuestfsPresence {
    // SAFETY: loading runs the library's initialisers, which only allocate; libguestfs documents that it may
    // be loaded by any program. The name is a constant, so nothing else is loaded.
    let library = match unsafe { Library::new(SONAME) } {
        Ok(library) => library,
        Err(error) => return GuestfsPresence::Missing { why: words(&error) },
    };
    match version(&library) {
        Ok(version) => GuestfsPresence::Found { version },
        Err(why) => GuestfsPresence::Broken { why },
    }
}

/// What the loader said, which it keeps one level below its error.
fn words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn version(library: &Library) -> Result<String, String> {
    let create: Symbol<'_, Create> = symbol(library, "guestfs_create")?;
    let close: Symbol<'_, Close> = symbol(library, "guestfs_close")?;
    let silence: Symbol<'_, SetErrorHandler> = symbol(library, "guestfs_set_error_handler")?;
    let ask: Symbol<'_, GetVersion> = symbol(library, "guestfs_version")?;
    let free: Symbol<'_, FreeVersion> = symbol(library, "guestfs_free_version")?;
    // SAFETY: the symbols have the signatures of `guestfs.h`. The handle is used only between create and close,
    // on this thread; the struct is read only where it is not null, and freed once, by its own function.
    unsafe {
        let handle = create();
        if handle.is_null() {
            return Err("it gives no handle".to_owned());
        }
        silence(handle, std::ptr::null(), std::ptr::null_mut());
        let told = ask(handle);
        let words = if told.is_null() {
            Err("it does not tell its version".to_owned())
        } else {
            let Version { major, minor, release, .. } = *told;
            free(told);
            Ok(format!("{major}.{minor}.{release}"))
        };
        close(handle);
        words
    }
}

fn symbol<'l, T>(library: &'l Library, name: &str) -> Result<Symbol<'l, T>, String> {
    // SAFETY: each caller names a function of `guestfs.h` and the type with its signature.
    unsafe { library.get(name.as_bytes()) }.map_err(|_| format!("it has no function {name}"))
}
