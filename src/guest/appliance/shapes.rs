//! The call shapes: one function for each form in which libguestfs takes arguments and answers.
//!
//! A caller names a function and gives its strings; that the function has that shape is the caller's promise, kept in one table
//! ([`super::calls`]). What is not here: the handle's life, and calls that take structures (see [`super::library`]).

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use super::Failure;
use super::library::{Handle, Raw, free};

impl Handle {
    /// A function that takes strings and answers with a number; -1 is a failure.
    pub(super) fn status(&self, name: &str, args: &[&str]) -> Result<c_int, Failure> {
        let status: c_int = self.with_strings(name, args)?;
        if status == -1 { Err(self.complaint()) } else { Ok(status) }
    }

    /// The same, with a large number.
    pub(super) fn large(&self, name: &str, args: &[&str]) -> Result<i64, Failure> {
        let number: i64 = self.with_strings(name, args)?;
        if number == -1 { Err(self.complaint()) } else { Ok(number) }
    }

    /// A function that takes strings and optional arguments, of which none is given.
    pub(super) fn status_without_options(&self, name: &str, args: &[&str]) -> Result<c_int, Failure> {
        let strings = texts(args)?;
        let options: *const c_void = std::ptr::null();
        // SAFETY: the caller names a function of this shape; a null struct of options is documented to mean "none".
        let status = unsafe {
            match strings.as_slice() {
                [a] => self
                    .shape::<unsafe extern "C" fn(Raw, *const c_char, *const c_void) -> c_int>(name)?(
                    self.raw,
                    a.as_ptr(),
                    options,
                ),
                [a, b, c] => self.shape::<unsafe extern "C" fn(
                    Raw,
                    *const c_char,
                    *const c_char,
                    *const c_char,
                    *const c_void,
                ) -> c_int>(name)?(
                    self.raw, a.as_ptr(), b.as_ptr(), c.as_ptr(), options
                ),
                _ => return Err(format!("{name} is not called with {} strings", args.len())),
            }
        };
        if status == -1 { Err(self.complaint()) } else { Ok(status) }
    }

    /// A function that takes strings, then a number.
    pub(super) fn status_then_number(
        &self,
        name: &str,
        args: &[&str],
        number: c_int,
    ) -> Result<c_int, Failure> {
        let strings = texts(args)?;
        // SAFETY: the caller names a function of this shape.
        let status = unsafe {
            match strings.as_slice() {
                [] => self.shape::<unsafe extern "C" fn(Raw, c_int) -> c_int>(name)?(self.raw, number),
                [a] => self.shape::<unsafe extern "C" fn(Raw, *const c_char, c_int) -> c_int>(name)?(
                    self.raw,
                    a.as_ptr(),
                    number,
                ),
                _ => return Err(format!("{name} is not called with {} strings", args.len())),
            }
        };
        if status == -1 { Err(self.complaint()) } else { Ok(status) }
    }

    /// A function that takes a device and a number and answers with a string.
    pub(super) fn text_of_number(&self, name: &str, device: &str, number: c_int) -> Result<String, Failure> {
        let device = text(device)?;
        let ask = self.shape::<unsafe extern "C" fn(Raw, *const c_char, c_int) -> *mut c_char>(name)?;
        // SAFETY: the caller names a function of this shape.
        let answer = unsafe { ask(self.raw, device.as_ptr(), number) };
        self.take_string(answer)
    }

    /// A function that takes a large number and a string and answers with a large number; -1 is a failure.
    pub(super) fn large_of_large(&self, name: &str, number: i64, word: &str) -> Result<i64, Failure> {
        let word = text(word)?;
        let ask = self.shape::<unsafe extern "C" fn(Raw, i64, *const c_char) -> i64>(name)?;
        // SAFETY: the caller names a function of this shape.
        let answer = unsafe { ask(self.raw, number, word.as_ptr()) };
        if answer == -1 { Err(self.complaint()) } else { Ok(answer) }
    }

    /// A function that takes a large number and answers with a string.
    pub(super) fn string_of_large(&self, name: &str, number: i64) -> Result<String, Failure> {
        let ask = self.shape::<unsafe extern "C" fn(Raw, i64) -> *mut c_char>(name)?;
        // SAFETY: the caller names a function of this shape.
        let answer = unsafe { ask(self.raw, number) };
        self.take_string(answer)
    }

    /// A function that takes numbers, then a path: `chmod`, `chown`.
    pub(super) fn numbers_then_path(&self, name: &str, numbers: &[c_int], path: &str) -> Result<(), Failure> {
        let path = text(path)?;
        // SAFETY: the caller names a function of this shape.
        let status = unsafe {
            match *numbers {
                [a] => self.shape::<unsafe extern "C" fn(Raw, c_int, *const c_char) -> c_int>(name)?(
                    self.raw,
                    a,
                    path.as_ptr(),
                ),
                [a, b] => self
                    .shape::<unsafe extern "C" fn(Raw, c_int, c_int, *const c_char) -> c_int>(name)?(
                    self.raw,
                    a,
                    b,
                    path.as_ptr(),
                ),
                _ => return Err(format!("{name} is not called with {} numbers", numbers.len())),
            }
        };
        if status == -1 { Err(self.complaint()) } else { Ok(()) }
    }

    /// A function that takes strings and answers with one.
    pub(super) fn string(&self, name: &str, args: &[&str]) -> Result<String, Failure> {
        let answer: *mut c_char = self.with_strings(name, args)?;
        self.take_string(answer)
    }

    /// A function that takes strings and answers with a list; of a hash, keys and values take turns.
    pub(super) fn list(&self, name: &str, args: &[&str]) -> Result<Vec<String>, Failure> {
        let answer: *mut *mut c_char = self.with_strings(name, args)?;
        self.take_list(answer)
    }

    /// A function that takes a string, then a list of strings, and answers with a list.
    pub(super) fn list_of_list(&self, name: &str, arg: &str, list: &[&str]) -> Result<Vec<String>, Failure> {
        let answer: *mut *mut c_char = self.with_list(name, arg, list)?;
        self.take_list(answer)
    }

    fn take_list(&self, answer: *mut *mut c_char) -> Result<Vec<String>, Failure> {
        if answer.is_null() {
            return Err(self.complaint());
        }
        let mut strings = Vec::new();
        // SAFETY: the library answers with a null-terminated array of strings, both of which belong to the caller: each is read
        // once and freed once.
        unsafe {
            let mut at = answer;
            while !(*at).is_null() {
                strings.push(CStr::from_ptr(*at).to_string_lossy().into_owned());
                free((*at).cast());
                at = at.add(1);
            }
            free(answer.cast());
        }
        Ok(strings)
    }

    /// A function that takes strings and answers with bytes.
    pub(super) fn bytes(&self, name: &str, args: &[&str]) -> Result<Vec<u8>, Failure> {
        let strings = texts(args)?;
        let mut size: usize = 0;
        // SAFETY: the caller names a function of this shape; the size is written before it returns.
        let answer = unsafe {
            match strings.as_slice() {
                [a] => self
                    .shape::<unsafe extern "C" fn(Raw, *const c_char, *mut usize) -> *mut c_char>(name)?(
                    self.raw,
                    a.as_ptr(),
                    &raw mut size,
                ),
                [a, b] => self.shape::<unsafe extern "C" fn(
                    Raw,
                    *const c_char,
                    *const c_char,
                    *mut usize,
                ) -> *mut c_char>(name)?(
                    self.raw, a.as_ptr(), b.as_ptr(), &raw mut size
                ),
                _ => return Err(format!("{name} is not called with {} strings", args.len())),
            }
        };
        self.take_bytes(answer, size)
    }

    /// A function that takes a string, then a list of strings, and answers with one: `debug`.
    pub(super) fn string_of_list(&self, name: &str, arg: &str, list: &[&str]) -> Result<String, Failure> {
        let answer: *mut c_char = self.with_list(name, arg, list)?;
        self.take_string(answer)
    }

    fn with_list<R: 'static>(&self, name: &str, arg: &str, list: &[&str]) -> Result<R, Failure> {
        let first = text(arg)?;
        let items = texts(list)?;
        let mut pointers: Vec<*const c_char> = items.iter().map(|item| item.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let ask = self.shape::<unsafe extern "C" fn(Raw, *const c_char, *const *const c_char) -> R>(name)?;
        // SAFETY: the caller names a function of this shape; the array is null-terminated, and it and its strings live until the
        // call returns.
        Ok(unsafe { ask(self.raw, first.as_ptr(), pointers.as_ptr()) })
    }

    pub(super) fn with_strings<R: 'static>(&self, name: &str, args: &[&str]) -> Result<R, Failure> {
        type S = *const c_char;
        let strings = texts(args)?;
        // SAFETY: the caller names a function of this shape (see `super::calls`); all strings live until the call returns.
        unsafe {
            Ok(match strings.as_slice() {
                [] => self.shape::<unsafe extern "C" fn(Raw) -> R>(name)?(self.raw),
                [a] => self.shape::<unsafe extern "C" fn(Raw, S) -> R>(name)?(self.raw, a.as_ptr()),
                [a, b] => self.shape::<unsafe extern "C" fn(Raw, S, S) -> R>(name)?(
                    self.raw,
                    a.as_ptr(),
                    b.as_ptr(),
                ),
                [a, b, c] => self.shape::<unsafe extern "C" fn(Raw, S, S, S) -> R>(name)?(
                    self.raw,
                    a.as_ptr(),
                    b.as_ptr(),
                    c.as_ptr(),
                ),
                _ => return Err(format!("{name} is not called with {} strings", args.len())),
            })
        }
    }

    /// `size` bytes that a function has answered with.
    pub(super) fn take_bytes(&self, answer: *mut c_char, size: usize) -> Result<Vec<u8>, Failure> {
        if answer.is_null() {
            return Err(self.complaint());
        }
        // SAFETY: the answer has `size` bytes and belongs to the caller.
        unsafe {
            let bytes = std::slice::from_raw_parts(answer.cast::<u8>(), size).to_vec();
            free(answer.cast());
            Ok(bytes)
        }
    }

    fn take_string(&self, answer: *mut c_char) -> Result<String, Failure> {
        if answer.is_null() {
            return Err(self.complaint());
        }
        // SAFETY: not null, null-terminated, and the caller's to free.
        unsafe {
            let words = CStr::from_ptr(answer).to_string_lossy().into_owned();
            free(answer.cast());
            Ok(words)
        }
    }
}

pub(super) fn text(words: &str) -> Result<CString, Failure> {
    CString::new(words).map_err(|_| format!("{words:?} holds a NUL"))
}

fn texts(words: &[&str]) -> Result<Vec<CString>, Failure> {
    words.iter().map(|word| text(word)).collect()
}
