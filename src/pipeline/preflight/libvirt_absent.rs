//! A build that knows nothing of libvirt is asked for nothing of it: the planner refuses that.

use super::{Scene, Validator};
use crate::model::validation::Findings;

pub(super) struct Libvirt;

impl Validator for Libvirt {
    fn name(&self) -> &'static str {
        "libvirt"
    }

    fn applies(&self, _: &Scene<'_>) -> bool {
        false
    }

    fn look(&self, _: &Scene<'_>, _: &mut Findings) {}
}
