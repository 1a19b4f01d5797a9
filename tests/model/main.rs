//! What people write, and what becomes of it: manifests, configuration, schemas.

mod plans;
