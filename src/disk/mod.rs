//! Bytes: formats, copying, verification. Knows nothing of guests, VMs or networks.
