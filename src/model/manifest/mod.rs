//! Artifact Manifest v1: what a person drops.
