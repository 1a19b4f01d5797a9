//! Addresses of this machine at which nobody else is, also while a test's own server is away. A port alone may be given to another one meanwhile.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};

/// An address that no other test has.
pub fn own_address() -> Ipv4Addr {
    // The lower ones are those that tests name.
    static NEXT: AtomicU8 = AtomicU8::new(10);
    let (number, [.., high, low]) = (NEXT.fetch_add(1, Ordering::Relaxed), std::process::id().to_be_bytes());
    Ipv4Addr::new(127, 64 + high % 128, low, number)
}
