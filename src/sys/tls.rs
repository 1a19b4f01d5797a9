//! Which cryptography TLS is done with: `ring`, for all who speak it.
//!
//! What is not here: whom is trusted, and who speaks.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

/// For who sets TLS up by themselves.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// For libraries that ask for what the process has: to be called before one is used, as often as one likes.
pub fn set_up() {
    // Another thread was first.
    let _ = ring::default_provider().install_default();
}
