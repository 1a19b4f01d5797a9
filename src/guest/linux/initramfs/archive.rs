//! The small archive that gives an initial RAM disk its virtio drivers, when it is appended to it.
//!
//! ```text
//!   <modules directory>/kernel/…/virtio_blk.ko, …   as the guest has them, with all that they need
//!   <modules directory>/modules.dep, .dep.bin        for the modules of the old image and these
//!   <modules directory>/modules.alias, .alias.bin    the guest's: a device finds its driver
//! ```
//!
//! Directories are named only where the kernel may make them: a link of that name would be replaced by the directory, and with it
//! everything behind the link would be gone. Pure. What is not here: reading the guest and writing the image.

use std::collections::BTreeMap;
use std::io::Read;

use super::cpio::Writer;
use super::depindex::{self, Dependencies};
use super::image::Image;
use super::modules::{Modules, name_of};

/// What loads modules reads these besides the dependencies; they name modules and no paths.
pub(super) const TABLES: [&str; 4] =
    ["modules.alias", "modules.alias.bin", "modules.builtin", "modules.builtin.bin"];
/// A driver is some hundred KiB; what unpacks to more is none.
const DRIVER_LIMIT_BYTES: u64 = 64 << 20;
/// Endings of packed modules.
const PACKED: [&str; 4] = [".xz", ".zst", ".gz", ".lz4"];

/// Plans an archive: which files of the guest's modules it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// In the image: `usr/lib/modules/6.1.0`.
    pub(super) directory: String,
    /// Below the guest's modules directory.
    pub(super) files: Vec<String>,
    /// Whether packed modules are unpacked, because those of the image are.
    pub(super) unpack: bool,
    /// Modules that the image has already: name and path below its modules directory.
    present: BTreeMap<String, String>,
    /// Directories that have to be made.
    new_directories: Vec<String>,
}

impl Plan {
    /// For an image of a kernel.
    #[must_use]
    pub(super) fn new(image: &Image, kernel: &str, modules: &Modules, wanted: &[&str]) -> Plan {
        let is_link = |name: &str| {
            image
                .entries
                .iter()
                .rev()
                .find(|entry| entry.name == name)
                .is_some_and(|entry| entry.mode & 0o170_000 == 0o120_000)
        };
        let directory = image.modules_directory(kernel).unwrap_or_else(|| {
            let below_usr = is_link("lib") || (image.has("usr/lib/modules") && !image.has("lib/modules"));
            format!("{}lib/modules/{kernel}", if below_usr { "usr/" } else { "" })
        });
        let inside = format!("{directory}/");
        let present: BTreeMap<String, String> = image
            .entries
            .iter()
            .filter(|entry| !entry.is_directory())
            .filter_map(|entry| {
                let path = entry.name.strip_prefix(&inside)?;
                Some((name_of(path)?, path.to_owned()))
            })
            .collect();
        let is_packed = |path: &String| PACKED.iter().any(|ending| path.ends_with(ending));
        let unpack = !present.is_empty() && !present.values().any(is_packed);
        let files: Vec<String> = modules
            .files(wanted)
            .into_iter()
            .filter(|path| name_of(path).is_some_and(|name| !present.contains_key(&name)))
            .collect();
        let mut new_directories = Vec::new();
        let mut above = String::new();
        for part in directory.split('/') {
            above = if above.is_empty() { part.to_owned() } else { format!("{above}/{part}") };
            if !image.has(&above) {
                new_directories.push(above.clone());
            }
        }
        Plan { directory, files, unpack, present, new_directories }
    }

    /// The archive. `contents` are those of [`Plan::files`] in their order, `tables` those of [`TABLES`] that the guest has.
    pub(super) fn build(
        &self,
        modules: &Modules,
        contents: &[Vec<u8>],
        tables: &[(&str, Vec<u8>)],
    ) -> std::io::Result<Vec<u8>> {
        let mut archive = Writer::default();
        for directory in &self.new_directories {
            archive.directory(directory);
        }
        let mut made: Vec<String> = Vec::new();
        let mut paths = self.present.clone();
        for (path, content) in self.files.iter().zip(contents) {
            let (path, content) =
                if self.unpack { unpacked(path, content)? } else { (path.clone(), content.clone()) };
            let mut above = String::new();
            for part in path.rsplit_once('/').map_or("", |(parent, _)| parent).split('/') {
                above = if above.is_empty() { part.to_owned() } else { format!("{above}/{part}") };
                if !above.is_empty() && !made.contains(&above) {
                    archive.directory(&format!("{}/{above}", self.directory));
                    made.push(above.clone());
                }
            }
            archive.file(&format!("{}/{path}", self.directory), &content);
            if let Some(name) = name_of(&path) {
                paths.insert(name, path);
            }
        }
        let dependencies = dependencies(modules, &paths);
        archive.file(&format!("{}/modules.dep", self.directory), depindex::text(&dependencies).as_bytes());
        archive.file(&format!("{}/modules.dep.bin", self.directory), &depindex::binary(&dependencies));
        for (name, content) in tables {
            archive.file(&format!("{}/{name}", self.directory), content);
        }
        Ok(archive.finish())
    }
}

/// What each module of the image needs, by the paths that they have there.
fn dependencies(modules: &Modules, paths: &BTreeMap<String, String>) -> Dependencies {
    paths
        .iter()
        .map(|(name, path)| {
            let needs =
                modules.needs(name).iter().filter_map(|need| paths.get(&name_of(need)?).cloned()).collect();
            (name.clone(), (path.clone(), needs))
        })
        .collect()
}

/// A packed module, and its name, as it is unpacked.
fn unpacked(path: &str, content: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
    let Some(ending) = PACKED.iter().find(|ending| path.ends_with(*ending)) else {
        return Ok((path.to_owned(), content.to_vec()));
    };
    let mut plain = Vec::new();
    match *ending {
        ".gz" => flate2::bufread::GzDecoder::new(content).take(DRIVER_LIMIT_BYTES).read_to_end(&mut plain)?,
        ".xz" => {
            lzma_rust2::XzReader::new(content, false).take(DRIVER_LIMIT_BYTES).read_to_end(&mut plain)?
        }
        ".zst" => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(content)
                .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string()))?;
            decoder.take(DRIVER_LIMIT_BYTES).read_to_end(&mut plain)?
        }
        _ => {
            let why = format!("{path} is packed in a way that this version cannot unpack");
            return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, why));
        }
    };
    Ok((path.trim_end_matches(ending).to_owned(), plain))
}

#[cfg(test)]
mod tests {
    use super::super::cpio::Entry;
    use super::super::image;
    use super::*;

    const DEP: &str = "kernel/drivers/virtio/virtio.ko.xz:\n\
        kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz\n\
        kernel/drivers/scsi/sd_mod.ko.xz: kernel/drivers/scsi/scsi_mod.ko.xz\n\
        kernel/drivers/scsi/scsi_mod.ko.xz:\n";

    fn entry(name: &str, mode: u32) -> Entry {
        Entry { name: name.to_owned(), mode, size: 0 }
    }

    /// A Debian image: `lib` is a link, its modules were unpacked.
    fn debian() -> Image {
        let entries = vec![
            entry("lib", 0o120_777),
            entry("usr", 0o040_755),
            entry("usr/lib", 0o040_755),
            entry("usr/lib/modules", 0o040_755),
            entry("usr/lib/modules/6.12", 0o040_755),
            entry("usr/lib/modules/6.12/kernel/drivers/scsi/scsi_mod.ko", 0o100_644),
            entry("usr/lib/modules/6.12/kernel/drivers/scsi/sd_mod.ko", 0o100_644),
        ];
        Image { entries, ..Image::default() }
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut child =
            Command::new("xz").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn what_is_missing_comes_in_the_form_of_what_is_there() {
        let modules = Modules::parse(DEP, "");
        let plan = Plan::new(&debian(), "6.12", &modules, &["virtio_blk", "sd_mod"]);
        assert_eq!(plan.directory, "usr/lib/modules/6.12");
        assert_eq!(
            plan.files,
            ["kernel/drivers/block/virtio_blk.ko.xz", "kernel/drivers/virtio/virtio.ko.xz"]
        );
        assert!(plan.unpack);

        let archive = plan
            .build(&modules, &[xz(b"blk"), xz(b"virtio")], &[("modules.alias", b"alias".to_vec())])
            .unwrap();
        let added =
            image::read(&archive, &|name| name.contains("modules.") || name.ends_with(".ko")).unwrap();
        let content = |name: &str| {
            let kept = added.kept.iter().find(|(kept, _)| kept == &format!("usr/lib/modules/6.12/{name}"));
            String::from_utf8(kept.unwrap().1.clone()).unwrap()
        };
        assert_eq!(content("kernel/drivers/block/virtio_blk.ko"), "blk");
        assert_eq!(content("modules.alias"), "alias");
        // In the order of their names.
        assert_eq!(
            content("modules.dep"),
            "kernel/drivers/scsi/scsi_mod.ko:\n\
             kernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko\n\
             kernel/drivers/virtio/virtio.ko:\n\
             kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko\n"
        );
    }

    #[test]
    fn no_directory_is_made_where_a_link_is() {
        let modules = Modules::parse(DEP, "");
        let plan = Plan::new(&debian(), "6.12", &modules, &["virtio_blk"]);
        let archive = plan.build(&modules, &[xz(b"a"), xz(b"b")], &[]).unwrap();
        let added = image::read(&archive, &|_| false).unwrap();
        assert!(
            added.entries.iter().all(|entry| entry.name.starts_with("usr/lib/modules/6.12/")),
            "{added:?}"
        );
    }

    #[test]
    fn an_image_without_modules_gets_the_directories_that_it_lacks() {
        let image = Image { entries: vec![entry("bin", 0o040_755)], ..Image::default() };
        let plan = Plan::new(&image, "5.10", &Modules::parse(DEP, ""), &["virtio_blk"]);
        assert_eq!(plan.directory, "lib/modules/5.10");
        assert_eq!(plan.new_directories, ["lib", "lib/modules", "lib/modules/5.10"]);
        assert!(!plan.unpack);
    }
}
