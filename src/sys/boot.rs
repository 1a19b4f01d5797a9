//! Which run of the kernel this is. What it holds in memory of files is lost at the next one, and never between two.

/// The kernel's own name for this run; none where it does not tell, and then no two are the same.
#[must_use]
pub fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = text.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_run_of_the_kernel_has_one_name() {
        assert_eq!(super::boot_id().unwrap().len(), 36);
        assert_eq!(super::boot_id(), super::boot_id());
    }
}
