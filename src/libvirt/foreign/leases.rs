//! The addresses that libvirt tells of a machine, and the leases of a network.
//!
//! The crate has no function for leases, and the one that it has for addresses takes for granted that each interface has a MAC address,
//! which a guest's agent decides, and keeps what libvirt handed out. What is not here: what an address is worth.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::ptr;

use virt::domain::Domain;
use virt::error::Error;
use virt::network::Network;
use virt::sys;

/// A guest can tell of any number of interfaces and addresses; more than these are of no use to anybody.
const MOST: usize = 1024;

unsafe extern "C" {
    /// Of the C library, with which libvirt's clients free its lists.
    fn free(memory: *mut c_void);
}

/// An address, as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::libvirt) struct Told {
    /// The interface, in the words of who told it.
    pub(in crate::libvirt) interface: Option<String>,
    /// Its MAC address.
    pub(in crate::libvirt) mac: Option<String>,
    /// The address.
    pub(in crate::libvirt) address: String,
    /// The length of its prefix.
    pub(in crate::libvirt) prefix: u32,
}

/// The addresses of a machine's interfaces, from one of libvirt's three sources.
pub(in crate::libvirt) fn of_domain(
    domain: &Domain,
    source: sys::virDomainInterfaceAddressesSource,
) -> Result<Vec<Told>, Error> {
    let mut list: *mut sys::virDomainInterfacePtr = ptr::null_mut();
    // SAFETY: the domain's pointer is valid as long as the domain lives, and libvirt writes one pointer to `list`.
    let count = unsafe { sys::virDomainInterfaceAddresses(domain.as_ptr(), &raw mut list, source, 0) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let mut told = Vec::new();
    for index in 0..count {
        // SAFETY: libvirt has filled `count` entries with pointers to interfaces, which are ours until they are freed, below and once.
        let interface = unsafe { *list.add(index) };
        // SAFETY: see above; texts are NUL-terminated or null, and there are `naddrs` addresses.
        unsafe {
            let (name, mac) = (text((*interface).name), text((*interface).hwaddr));
            for at in 0..(*interface).naddrs as usize {
                let address = (*interface).addrs.add(at);
                if let Some(value) = text((*address).addr)
                    && told.len() < MOST
                {
                    let prefix = (*address).prefix;
                    told.push(Told { interface: name.clone(), mac: mac.clone(), address: value, prefix });
                }
            }
            sys::virDomainInterfaceFree(interface);
        }
    }
    // SAFETY: the list itself is the caller's, made by the C library's allocator; it may be null.
    unsafe { free(list.cast()) };
    Ok(told)
}

/// The leases of a network that are not over: all, or those of one MAC address.
pub(in crate::libvirt) fn of_network(network: &Network, mac: Option<&str>) -> Result<Vec<Told>, Error> {
    // A MAC address with a NUL is nobody's.
    let Ok(mac) = mac.map(CString::new).transpose() else { return Ok(Vec::new()) };
    let mac_pointer = mac.as_ref().map_or(ptr::null(), |mac| mac.as_ptr());
    let mut list: *mut sys::virNetworkDHCPLeasePtr = ptr::null_mut();
    // SAFETY: the network's pointer is valid as long as the network lives, `mac` lives until the end of this function, and libvirt
    // writes one pointer to `list`.
    let count =
        unsafe { sys::virNetworkGetDHCPLeases(network.as_ptr(), mac_pointer, &raw mut list, NO_FLAGS) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let mut told = Vec::new();
    for index in 0..count {
        // SAFETY: libvirt has filled `count` entries with pointers to leases, which are ours until they are freed, here and once; their
        // texts are NUL-terminated or null.
        unsafe {
            let lease = *list.add(index);
            if let Some(address) = text((*lease).ipaddr)
                && told.len() < MOST
            {
                let (interface, mac) = (text((*lease).iface), text((*lease).mac));
                told.push(Told { interface, mac, address, prefix: (*lease).prefix });
            }
            sys::virNetworkDHCPLeaseFree(lease);
        }
    }
    // SAFETY: the list itself is the caller's, made by the C library's allocator; it may be null.
    unsafe { free(list.cast()) };
    Ok(told)
}

/// libvirt knows none yet.
const NO_FLAGS: c_uint = 0;

/// A copy of a text that libvirt owns.
///
/// # Safety
///
/// `pointer` is null, or a NUL-terminated text that lives as long as this call.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
