//! The C library itself: loaded at run time, and spoken to through a handful of call shapes.
//!
//! libguestfs exports some nine hundred functions that look alike: a handle, some strings or numbers, and a status, a string or a list as
//! the answer. So there is one function here for each *shape* instead of one for each function, which keeps what is `unsafe` small
//! enough to be read in one sitting. Which function has which shape is said once, in [`super::calls`]. What is not here: what any of
//! the functions means.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::{Library, Symbol};

use super::Failure;
use super::answers::{Room, Stat};
use super::log::{Log, Speaker};
use super::shapes::text;
use crate::guest::GuestfsPresence;

/// The name that every distribution gives it.
const SONAME: &str = "libguestfs.so.0";
/// `GUESTFS_EVENT_APPLIANCE`
const APPLIANCE_EVENT: u64 = 0x0010;
/// That, and `GUESTFS_EVENT_LIBRARY | TRACE | WARNING`: what goes into the log.
const LOGGED_EVENTS: u64 = APPLIANCE_EVENT | 0x0020 | 0x0040 | 0x0200;

unsafe extern "C" {
    /// The C library's: what libguestfs hands out belongs to the caller, who frees it with this.
    pub(super) fn free(pointer: *mut c_void);
}

/// `struct guestfs_version` of `guestfs.h`; part of its stable ABI.
#[repr(C)]
struct Version {
    major: i64,
    minor: i64,
    release: i64,
    extra: *mut c_char,
}

/// `struct guestfs_add_drive_opts_argv` of `guestfs.h`; part of its stable ABI.
#[repr(C)]
struct DriveOptions {
    bitmask: u64,
    readonly: c_int,
    format: *const c_char,
    interface: *const c_char,
    name: *const c_char,
    label: *const c_char,
    protocol: *const c_char,
    server: *const *const c_char,
    username: *const c_char,
    secret: *const c_char,
    cachemode: *const c_char,
    discard: *const c_char,
    copyonread: c_int,
    blocksize: c_int,
}

/// `struct guestfs_copy_attributes_argv` of `guestfs.h`; part of its stable ABI.
#[repr(C)]
struct CopiedAttributes {
    bitmask: u64,
    all: c_int,
    mode: c_int,
    xattributes: c_int,
    ownership: c_int,
}

const COPY_ALL: u64 = 1;
const DRIVE_READONLY: u64 = 1;
const DRIVE_FORMAT: u64 = 1 << 1;
const DRIVE_CACHEMODE: u64 = 1 << 9;
const DRIVE_DISCARD: u64 = 1 << 10;

/// `struct guestfs_statns` of `guestfs.h`, as far as it is used.
#[repr(C)]
struct Statns {
    dev: i64,
    ino: i64,
    mode: i64,
    nlink: i64,
    uid: i64,
    gid: i64,
    rdev: i64,
    size: i64,
    blksize: i64,
    blocks: i64,
    atime_sec: i64,
    atime_nsec: i64,
    mtime_sec: i64,
    mtime_nsec: i64,
    rest: [i64; 8],
}

/// `struct guestfs_statvfs` of `guestfs.h`.
#[repr(C)]
struct Statvfs {
    bsize: i64,
    frsize: i64,
    blocks: i64,
    bfree: i64,
    bavail: i64,
    files: i64,
    ffree: i64,
    favail: i64,
    fsid: i64,
    flag: i64,
    namemax: i64,
}

pub(super) type Raw = *mut c_void;
type Create = unsafe extern "C" fn() -> Raw;
type OnError = unsafe extern "C" fn(Raw, *const c_void, Raw);
type Callback = unsafe extern "C" fn(Raw, Raw, u64, c_int, c_int, *const c_char, usize, *const u64, usize);

fn library() -> Result<&'static Library, &'static str> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    // SAFETY: loading runs the library's initialisers, which only allocate; libguestfs documents that it may be loaded by any program.
    // The name is a constant, so nothing else is loaded.
    let loaded = LIBRARY.get_or_init(|| unsafe { Library::new(SONAME) }.map_err(|error| words(&error)));
    loaded.as_ref().map_err(String::as_str)
}

/// What the loader said, which it keeps one level below its error.
fn words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

pub(super) fn presence() -> GuestfsPresence {
    if let Err(why) = library() {
        return GuestfsPresence::Missing { why: why.to_owned() };
    }
    match Handle::new().and_then(|handle| handle.version()) {
        Ok(version) => GuestfsPresence::Found { version },
        Err(why) => GuestfsPresence::Broken { why },
    }
}

/// A handle of the library: one appliance. Used by one thread at a time, which `&mut`-free calls through a raw pointer make sure of:
/// it is neither `Send` nor `Sync`.
pub(super) struct Handle {
    pub(super) raw: Raw,
    library: &'static Library,
    /// Where events go; boxed, so that its address holds while the library keeps it.
    log: Option<Box<Log>>,
}

impl Handle {
    pub(super) fn new() -> Result<Handle, Failure> {
        let library = library()?;
        let create: Symbol<'_, Create> = symbol(library, "guestfs_create")?;
        // SAFETY: the symbol has this signature in `guestfs.h`.
        let raw = unsafe { create() };
        if raw.is_null() {
            return Err("it gives no handle".to_owned());
        }
        let handle = Handle { raw, library, log: None };
        let silence: Symbol<'_, OnError> = symbol(library, "guestfs_set_error_handler")?;
        // SAFETY: as above; a null handler means that errors are only kept, to be asked for.
        unsafe { silence(raw, std::ptr::null(), std::ptr::null_mut()) };
        Ok(handle)
    }

    fn version(&self) -> Result<String, Failure> {
        let ask = self.shape::<unsafe extern "C" fn(Raw) -> *mut Version>("guestfs_version")?;
        // SAFETY: the symbol has this signature; the struct is read only where it is not null, and freed once.
        unsafe {
            let told = ask(self.raw);
            if told.is_null() {
                return Err("it does not tell its version".to_owned());
            }
            let Version { major, minor, release, extra } = *told;
            free(extra.cast());
            free(told.cast());
            Ok(format!("{major}.{minor}.{release}"))
        }
    }

    /// Sends what the library and its appliance say to a log.
    pub(super) fn log_to(&mut self, log: Log) -> Result<(), Failure> {
        let mut log = Box::new(log);
        let set = self.shape::<unsafe extern "C" fn(Raw, Callback, u64, c_int, Raw) -> c_int>(
            "guestfs_set_event_callback",
        )?;
        let opaque: *mut Log = &raw mut *log;
        // SAFETY: the symbol has this signature; `opaque` points into the box, which lives as long as the handle (see `Drop`).
        let status = unsafe { set(self.raw, on_event, LOGGED_EVENTS, 0, opaque.cast()) };
        self.log = Some(log);
        if status < 0 { Err(self.complaint()) } else { Ok(()) }
    }

    /// The last lines of the log.
    pub(super) fn log_tail(&self) -> String {
        self.log.as_ref().map_or_else(String::new, |log| log.tail())
    }

    /// The appliance is about to be started.
    pub(super) fn begins(&self) {
        self.log.iter().for_each(|log| log.begins());
    }

    /// Whether the appliance has said anything yet.
    pub(super) fn has_begun(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.has_begun())
    }

    /// Attaches an image.
    pub(super) fn add_drive(&self, path: &str, format: &str, readonly: bool) -> Result<(), Failure> {
        let add = self.shape::<unsafe extern "C" fn(Raw, *const c_char, *const DriveOptions) -> c_int>(
            "guestfs_add_drive_opts_argv",
        )?;
        let (path, format) = (text(path)?, text(format)?);
        let none = std::ptr::null();
        // An overlay that was cut is thrown away, so nothing has to wait for the disk; it is made durable at the end, all at once.
        let writable = if readonly { 0 } else { DRIVE_CACHEMODE | DRIVE_DISCARD };
        let options = DriveOptions {
            bitmask: DRIVE_READONLY | DRIVE_FORMAT | writable,
            readonly: c_int::from(readonly),
            format: format.as_ptr(),
            interface: none,
            name: none,
            label: none,
            protocol: none,
            server: std::ptr::null(),
            username: none,
            secret: none,
            cachemode: c"unsafe".as_ptr(),
            discard: c"besteffort".as_ptr(),
            copyonread: 0,
            blocksize: 0,
        };
        // SAFETY: the symbol has this signature; all strings live until the call returns, and the library copies them.
        let status = unsafe { add(self.raw, path.as_ptr(), &raw const options) };
        if status < 0 { Err(self.complaint()) } else { Ok(()) }
    }

    /// `guestfs_write`, `guestfs_write_append`
    pub(super) fn write(&self, name: &str, path: &str, content: &[u8]) -> Result<(), Failure> {
        let write =
            self.shape::<unsafe extern "C" fn(Raw, *const c_char, *const c_char, usize) -> c_int>(name)?;
        let path = text(path)?;
        // SAFETY: the symbol has this signature; it reads exactly as many bytes as it is told.
        let status = unsafe { write(self.raw, path.as_ptr(), content.as_ptr().cast(), content.len()) };
        if status == -1 { Err(self.complaint()) } else { Ok(()) }
    }

    /// `guestfs_pwrite_device`; how many bytes were written.
    pub(super) fn write_device(&self, device: &str, bytes: &[u8], offset: i64) -> Result<usize, Failure> {
        let write = self
            .shape::<unsafe extern "C" fn(Raw, *const c_char, *const c_char, usize, i64) -> c_int>(
                "guestfs_pwrite_device",
            )?;
        let device = text(device)?;
        // SAFETY: the symbol has this signature; it reads exactly as many bytes as it is told.
        let written = unsafe { write(self.raw, device.as_ptr(), bytes.as_ptr().cast(), bytes.len(), offset) };
        usize::try_from(written).map_err(|_| self.complaint())
    }

    /// `guestfs_pread`, `guestfs_pread_device`: so many bytes from an offset.
    pub(super) fn read_at(
        &self,
        name: &str,
        path: &str,
        count: c_int,
        offset: i64,
    ) -> Result<Vec<u8>, Failure> {
        let read = self
            .shape::<unsafe extern "C" fn(Raw, *const c_char, c_int, i64, *mut usize) -> *mut c_char>(name)?;
        let path = text(path)?;
        let mut size: usize = 0;
        // SAFETY: the symbol has this signature; the size is written before it returns.
        let answer = unsafe { read(self.raw, path.as_ptr(), count, offset, &raw mut size) };
        self.take_bytes(answer, size)
    }

    /// `guestfs_lsetxattr`
    pub(super) fn set_attribute(&self, path: &str, name: &str, value: &[u8]) -> Result<(), Failure> {
        let set = self.shape::<unsafe extern "C" fn(
            Raw,
            *const c_char,
            *const c_char,
            c_int,
            *const c_char,
        ) -> c_int>("guestfs_lsetxattr")?;
        let (path, name) = (text(path)?, text(name)?);
        let length = c_int::try_from(value.len()).map_err(|_| "the value is too long".to_owned())?;
        // SAFETY: the symbol has this signature; it reads exactly as many bytes as it is told.
        let status = unsafe { set(self.raw, name.as_ptr(), value.as_ptr().cast(), length, path.as_ptr()) };
        if status == -1 { Err(self.complaint()) } else { Ok(()) }
    }

    /// `guestfs_copy_attributes`: owner, mode and extended attributes.
    pub(super) fn copy_attributes(&self, from: &str, to: &str) -> Result<(), Failure> {
        let copy = self.shape::<unsafe extern "C" fn(
            Raw,
            *const c_char,
            *const c_char,
            *const CopiedAttributes,
        ) -> c_int>("guestfs_copy_attributes_argv")?;
        let (from, to) = (text(from)?, text(to)?);
        let all = CopiedAttributes { bitmask: COPY_ALL, all: 1, mode: 0, xattributes: 0, ownership: 0 };
        // SAFETY: the symbol has this signature; strings and options live until the call returns.
        let status = unsafe { copy(self.raw, from.as_ptr(), to.as_ptr(), &raw const all) };
        if status == -1 { Err(self.complaint()) } else { Ok(()) }
    }

    /// `guestfs_utimens`: when a file was last written, which is when it was last read, too.
    pub(super) fn set_times(&self, path: &str, (seconds, nanoseconds): (i64, i64)) -> Result<(), Failure> {
        let set = self.shape::<unsafe extern "C" fn(Raw, *const c_char, i64, i64, i64, i64) -> c_int>(
            "guestfs_utimens",
        )?;
        let path = text(path)?;
        // SAFETY: the symbol has this signature.
        let status = unsafe { set(self.raw, path.as_ptr(), seconds, nanoseconds, seconds, nanoseconds) };
        if status == -1 { Err(self.complaint()) } else { Ok(()) }
    }

    /// `guestfs_lstatns`
    pub(super) fn lstat(&self, path: &str) -> Result<Stat, Failure> {
        let answer: *mut Statns = self.with_strings("guestfs_lstatns", &[path])?;
        if answer.is_null() {
            return Err(self.complaint());
        }
        // SAFETY: not null, of this layout, and the caller's to free; it holds no pointers.
        unsafe {
            let stat = Stat {
                inode: (*answer).ino.cast_unsigned(),
                device: (*answer).dev.cast_unsigned(),
                mode: u32::try_from((*answer).mode).unwrap_or(0),
                uid: u32::try_from((*answer).uid).unwrap_or(0),
                gid: u32::try_from((*answer).gid).unwrap_or(0),
                size: u64::try_from((*answer).size).unwrap_or(0),
                modified: ((*answer).mtime_sec, (*answer).mtime_nsec),
            };
            free(answer.cast());
            Ok(stat)
        }
    }

    /// `guestfs_statvfs`
    pub(super) fn room(&self, path: &str) -> Result<Room, Failure> {
        let answer: *mut Statvfs = self.with_strings("guestfs_statvfs", &[path])?;
        if answer.is_null() {
            return Err(self.complaint());
        }
        // SAFETY: not null, of this layout, and the caller's to free; it holds no pointers.
        unsafe {
            let number = |value: i64| u64::try_from(value).unwrap_or(0);
            let block = number((*answer).frsize.max(1));
            let room = Room {
                free_bytes: number((*answer).bavail).saturating_mul(block),
                total_bytes: number((*answer).blocks).saturating_mul(block),
                free_inodes: ((*answer).files > 0).then(|| number((*answer).ffree)),
            };
            free(answer.cast());
            Ok(room)
        }
    }

    /// One of the library's functions.
    pub(super) fn shape<T: 'static>(&self, name: &str) -> Result<Symbol<'static, T>, Failure> {
        symbol(self.library, name)
    }

    /// What went wrong in the last call, in the library's words.
    pub(super) fn complaint(&self) -> Failure {
        let ask = self.shape::<unsafe extern "C" fn(Raw) -> *const c_char>("guestfs_last_error");
        let Ok(ask) = ask else { return "it does not say what went wrong".to_owned() };
        // SAFETY: the string belongs to the handle and holds until the next call.
        unsafe {
            let words = ask(self.raw);
            if words.is_null() {
                return "it does not say what went wrong".to_owned();
            }
            CStr::from_ptr(words).to_string_lossy().into_owned()
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(close) = self.shape::<unsafe extern "C" fn(Raw)>("guestfs_close") {
            // SAFETY: the handle is closed once, here; the log that its last events go to is dropped after it.
            unsafe { close(self.raw) };
        }
    }
}

/// Called by the library, on the thread that called it.
unsafe extern "C" fn on_event(
    _: Raw,
    opaque: Raw,
    event: u64,
    _: c_int,
    _: c_int,
    buffer: *const c_char,
    length: usize,
    _: *const u64,
    _: usize,
) {
    if opaque.is_null() || buffer.is_null() {
        return;
    }
    let speaker = if event == APPLIANCE_EVENT { Speaker::Appliance } else { Speaker::Library };
    // SAFETY: `opaque` is the box of `log_to`, which outlives the handle and is used by nothing else while a call runs; the buffer
    // has as many bytes as the library says. `Log::add` does not panic: nothing may unwind into C.
    unsafe {
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), length);
        (*opaque.cast::<Log>()).add(speaker, bytes);
    }
}

fn symbol<'l, T>(library: &'l Library, name: &str) -> Result<Symbol<'l, T>, Failure> {
    // SAFETY: each caller names a function of `guestfs.h` and the type with its signature.
    unsafe { library.get(name.as_bytes()) }.map_err(|_| format!("it has no function {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_that_is_called_is_one_that_the_library_has() {
        let library = library().unwrap();
        let sources = [
            include_str!("calls.rs"),
            include_str!("mod.rs"),
            include_str!("library.rs"),
            include_str!("shapes.rs"),
        ];
        let mut count = 0;
        for name in sources
            .iter()
            .flat_map(|source| source.split('"'))
            .filter(|word| word.len() > 8 && word.starts_with("guestfs_"))
        {
            symbol::<unsafe extern "C" fn()>(library, name).unwrap();
            count += 1;
        }
        assert!(count > 40, "{count}");
    }
}
