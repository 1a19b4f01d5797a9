//! Counters of machines, of all of them in one call.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// A UUID as text, with its end.
const UUID_BYTES: usize = sys::VIR_UUID_STRING_BUFLEN as usize;

/// What is told of one machine.
#[derive(Debug, Clone)]
pub(in crate::libvirt) struct Record {
    pub(in crate::libvirt) name: String,
    pub(in crate::libvirt) uuid: String,
    values: BTreeMap<String, Value>,
}

/// What a counter holds: all of those that are used here are whole numbers or names.
#[derive(Debug, Clone)]
enum Value {
    Number(i128),
    Text(String),
}

impl Record {
    pub(in crate::libvirt) fn number(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some(Value::Number(number)) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(in crate::libvirt) fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// Those of all machines; `groups` says which.
pub(in crate::libvirt) fn of_all(connection: &Connect, groups: u32) -> Result<Vec<Record>, Error> {
    let mut records = ptr::null_mut();
    // SAFETY: the connection is open as long as it is borrowed, and the list belongs to us on success.
    let count = unsafe { sys::virConnectGetAllDomainStats(connection.as_ptr(), groups, &raw mut records, 0) };
    taken(records, count)
}

/// Those of one machine; nothing where it has gone.
pub(in crate::libvirt) fn of_one(domain: &Domain, groups: u32) -> Result<Option<Record>, Error> {
    let mut records = ptr::null_mut();
    let mut asked = [domain.as_ptr(), ptr::null_mut()];
    // SAFETY: the list of machines ends with a null pointer and outlives the call; what is answered belongs to us on success.
    let count = unsafe { sys::virDomainListGetStats(asked.as_mut_ptr(), groups, &raw mut records, 0) };
    taken(records, count).map(|records| records.into_iter().next())
}

/// Copies what was answered, and frees it.
fn taken(records: *mut sys::virDomainStatsRecordPtr, count: c_int) -> Result<Vec<Record>, Error> {
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let copied = (0..count).map(|index| {
        // SAFETY: the list has this many records, none of which is null.
        let record = unsafe { &**records.add(index) };
        let mut uuid: [c_char; UUID_BYTES] = [0; UUID_BYTES];
        // SAFETY: a record holds its machine until the list is freed, whose name ends with a NUL and lives as long; the buffer has the size that is asked for.
        let name = unsafe {
            sys::virDomainGetUUIDString(record.dom, uuid.as_mut_ptr());
            text(sys::virDomainGetName(record.dom))
        };
        let values = (0..usize::try_from(record.nparams).unwrap_or(0)).filter_map(|index| {
            // SAFETY: the record has this many parameters.
            let parameter = unsafe { &*record.params.add(index) };
            // SAFETY: libvirt ends names of fields within their room.
            Some((unsafe { text(parameter.field.as_ptr()) }, value(parameter)?))
        });
        // SAFETY: it was all zeros, and libvirt writes one byte less than it has.
        Record { name, uuid: unsafe { text(uuid.as_ptr()) }, values: values.collect() }
    });
    let copied = copied.collect();
    // SAFETY: it is ours, and nothing that was copied points into it.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(copied)
}

fn value(parameter: &sys::virTypedParameter) -> Option<Value> {
    let held = parameter.value;
    // SAFETY: the type says which of them is held; texts end with a NUL and live as long as the list.
    unsafe {
        match parameter.type_.cast_unsigned() {
            sys::VIR_TYPED_PARAM_INT => Some(Value::Number(held.i.into())),
            sys::VIR_TYPED_PARAM_UINT => Some(Value::Number(held.ui.into())),
            sys::VIR_TYPED_PARAM_LLONG => Some(Value::Number(held.l.into())),
            sys::VIR_TYPED_PARAM_ULLONG => Some(Value::Number(held.ul.into())),
            sys::VIR_TYPED_PARAM_BOOLEAN => Some(Value::Number((held.b != 0).into())),
            sys::VIR_TYPED_PARAM_STRING => Some(Value::Text(text(held.s))),
            _ => None,
        }
    }
}

/// A copy of a text of libvirt's; a null pointer is an empty one.
///
/// # Safety
///
/// The pointer is null, or leads to bytes that end with a NUL.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: said above.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
