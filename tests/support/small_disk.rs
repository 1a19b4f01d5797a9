//! A file system with as little room as a test wants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system, unmounted when it goes out of scope.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    pub fn mount(at: &Path, size_mib: u64) -> SmallDisk {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m,mode=0755"), "h2k-test"])
            .arg(at)
            .status()
            .unwrap();
        assert!(done.success(), "mounting a tmpfs needs root");
        SmallDisk { at: at.to_owned() }
    }

    pub fn resize(&self, size_mib: u64) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,size={size_mib}m")])
            .arg(&self.at)
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// Fills it to the last byte; the file that does it can be removed again.
    pub fn fill(&self) -> PathBuf {
        let path = self.at.join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        let block = vec![1_u8; 64 << 10];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        let byte = [1_u8; 512];
        while std::io::Write::write_all(&mut file, &byte).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.at).status().ok();
    }
}
