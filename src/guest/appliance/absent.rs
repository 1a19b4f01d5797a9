//! In place of the library, where this program was built without the feature `guestfs`: there is no handle, and never will be.
//!
//! The type has no value, so that nothing that needs one can be reached, and none of it has to say so.

use super::Failure;
use super::answers::{Room, Stat};
use super::log::Log;
use crate::guest::GuestfsPresence;

type Answer<T> = Result<T, Failure>;

/// No handle.
pub(super) enum Handle {}

pub(super) fn presence() -> GuestfsPresence {
    GuestfsPresence::NotBuilt
}

impl Handle {
    pub(super) fn new() -> Answer<Handle> {
        Err("this program was built without the feature `guestfs`".to_owned())
    }

    pub(super) fn log_to(&mut self, _: Log) -> Answer<()> {
        match *self {}
    }

    pub(super) fn large_of_large(&self, _: &str, _: i64, _: &str) -> Answer<i64> {
        match *self {}
    }

    pub(super) fn string_of_large(&self, _: &str, _: i64) -> Answer<String> {
        match *self {}
    }

    pub(super) fn log_tail(&self) -> String {
        match *self {}
    }

    pub(super) fn begins(&self) {
        match *self {}
    }

    pub(super) fn has_begun(&self) -> bool {
        match *self {}
    }

    pub(super) fn add_drive(&self, _: &str, _: &str, _: bool) -> Answer<()> {
        match *self {}
    }

    pub(super) fn status(&self, _: &str, _: &[&str]) -> Answer<i32> {
        match *self {}
    }

    pub(super) fn large(&self, _: &str, _: &[&str]) -> Answer<i64> {
        match *self {}
    }

    pub(super) fn status_without_options(&self, _: &str, _: &[&str]) -> Answer<i32> {
        match *self {}
    }

    pub(super) fn status_then_number(&self, _: &str, _: &[&str], _: i32) -> Answer<i32> {
        match *self {}
    }

    pub(super) fn text_of_number(&self, _: &str, _: &str, _: i32) -> Answer<String> {
        match *self {}
    }

    pub(super) fn numbers_then_path(&self, _: &str, _: &[i32], _: &str) -> Answer<()> {
        match *self {}
    }

    pub(super) fn string(&self, _: &str, _: &[&str]) -> Answer<String> {
        match *self {}
    }

    pub(super) fn list(&self, _: &str, _: &[&str]) -> Answer<Vec<String>> {
        match *self {}
    }

    pub(super) fn list_of_list(&self, _: &str, _: &str, _: &[&str]) -> Answer<Vec<String>> {
        match *self {}
    }

    pub(super) fn bytes(&self, _: &str, _: &[&str]) -> Answer<Vec<u8>> {
        match *self {}
    }

    pub(super) fn string_of_list(&self, _: &str, _: &str, _: &[&str]) -> Answer<String> {
        match *self {}
    }

    pub(super) fn read_at(&self, _: &str, _: &str, _: i32, _: i64) -> Answer<Vec<u8>> {
        match *self {}
    }

    pub(super) fn write_device(&self, _: &str, _: &[u8], _: i64) -> Answer<usize> {
        match *self {}
    }

    pub(super) fn write(&self, _: &str, _: &str, _: &[u8]) -> Answer<()> {
        match *self {}
    }

    pub(super) fn set_attribute(&self, _: &str, _: &str, _: &[u8]) -> Answer<()> {
        match *self {}
    }

    pub(super) fn copy_attributes(&self, _: &str, _: &str) -> Answer<()> {
        match *self {}
    }

    pub(super) fn set_times(&self, _: &str, _: (i64, i64)) -> Answer<()> {
        match *self {}
    }

    pub(super) fn lstat(&self, _: &str) -> Answer<Stat> {
        match *self {}
    }

    pub(super) fn room(&self, _: &str) -> Answer<Room> {
        match *self {}
    }
}
