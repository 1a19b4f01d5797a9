//! `modules.dep` and `modules.dep.bin`: what the loader of modules inside an initial RAM disk reads.
//!
//! The guest's own files name its own tree, where modules may be packed that lie unpacked in the RAM disk, so they are written anew for
//! just the modules that are in there. The binary form is kmod's index, version 2.1: a tree of characters in big-endian numbers. What
//! is not here: aliases, which know no paths and are taken as they are.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
/// Names of modules are ASCII.
const HIGHEST_CHARACTER: u8 = 0x7f;

/// By module name: its path and the paths of what it needs, below the kernel's directory.
pub(super) type Dependencies = BTreeMap<String, (String, Vec<String>)>;

/// The text form.
#[must_use]
pub(super) fn text(modules: &Dependencies) -> String {
    let lines = modules.values().map(|entry| line(entry) + "\n");
    lines.collect()
}

/// `a.ko: b.ko c.ko`
fn line((path, needs): &(String, Vec<String>)) -> String {
    let needs: String = needs.iter().map(|need| format!(" {need}")).collect();
    format!("{path}:{needs}")
}

#[derive(Default)]
struct Node {
    value: Option<String>,
    children: BTreeMap<u8, Node>,
}

/// The binary form.
#[must_use]
pub(super) fn binary(modules: &Dependencies) -> Vec<u8> {
    let mut root = Node::default();
    for (name, entry) in modules {
        if !name.bytes().all(|byte| (1..=HIGHEST_CHARACTER).contains(&byte)) {
            continue;
        }
        let mut node = &mut root;
        for byte in name.bytes() {
            node = node.children.entry(byte).or_default();
        }
        node.value = Some(line(entry));
    }
    let mut bytes = Vec::new();
    bytes.extend(MAGIC.to_be_bytes());
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend([0; 4]);
    let at = write(&root, &mut bytes);
    bytes[8..12].copy_from_slice(&at.to_be_bytes());
    bytes
}

/// Writes a node behind its children; tells where it is and what it has.
fn write(start: &Node, bytes: &mut Vec<u8>) -> u32 {
    // A row of nodes with one child each and no value becomes one node with a prefix.
    let mut prefix = Vec::new();
    let mut node = start;
    while node.value.is_none() && node.children.len() == 1 {
        let Some((byte, child)) = node.children.first_key_value() else { break };
        prefix.push(*byte);
        node = child;
    }
    let children: BTreeMap<u8, u32> =
        node.children.iter().map(|(byte, child)| (*byte, write(child, bytes))).collect();
    // The index is some 100 KiB large; its offsets have 28 bits.
    let mut at = u32::try_from(bytes.len()).unwrap_or(0);
    if !prefix.is_empty() {
        bytes.extend(&prefix);
        bytes.push(0);
        at |= HAS_PREFIX;
    }
    if let (Some((first, _)), Some((last, _))) = (children.first_key_value(), children.last_key_value()) {
        bytes.extend([*first, *last]);
        for byte in *first..=*last {
            bytes.extend(children.get(&byte).copied().unwrap_or(0).to_be_bytes());
        }
        at |= HAS_CHILDREN;
    }
    if let Some(value) = &node.value {
        bytes.extend(1_u32.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend(value.as_bytes());
        bytes.push(0);
        at |= HAS_VALUES;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependencies() -> Dependencies {
        let entry = |path: &str, needs: &[&str]| {
            (path.to_owned(), needs.iter().map(|&need| need.to_owned()).collect())
        };
        BTreeMap::from([
            ("h2k".to_owned(), entry("kernel/h2k.ko", &[])),
            ("h2k_blk".to_owned(), entry("kernel/h2k_blk.ko", &["kernel/h2k_ring.ko", "kernel/h2k.ko"])),
            ("h2k_ring".to_owned(), entry("kernel/h2k_ring.ko", &["kernel/h2k.ko"])),
            ("sd_mod".to_owned(), entry("kernel/sd_mod.ko", &[])),
        ])
    }

    #[test]
    fn the_text_is_what_depmod_writes() {
        assert_eq!(
            text(&dependencies()),
            "kernel/h2k.ko:\nkernel/h2k_blk.ko: kernel/h2k_ring.ko kernel/h2k.ko\nkernel/h2k_ring.ko: kernel/h2k.ko\nkernel/sd_mod.ko:\n"
        );
    }

    // Names of our own: a module that the running kernel has would be left out of the answer.
    #[test]
    fn kmod_itself_finds_a_module_and_its_needs_in_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("lib/modules/1.2.3");
        std::fs::create_dir_all(modules.join("kernel")).unwrap();
        for name in ["h2k", "h2k_ring", "h2k_blk"] {
            std::fs::write(modules.join(format!("kernel/{name}.ko")), "").unwrap();
        }
        std::fs::write(modules.join("modules.dep.bin"), binary(&dependencies())).unwrap();
        std::fs::write(modules.join("modules.dep"), text(&dependencies())).unwrap();
        for empty in ["alias", "symbols", "builtin", "builtin.alias"] {
            std::fs::write(modules.join(format!("modules.{empty}.bin")), binary(&Dependencies::new()))
                .unwrap();
        }
        let output = std::process::Command::new("/sbin/modprobe")
            .args(["--show-depends", "-S", "1.2.3", "-C", "/nonexistent", "-d"])
            .arg(dir.path())
            .arg("h2k_blk")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let names: Vec<&str> = told.split_whitespace().filter(|word| word.ends_with(".ko")).collect();
        assert_eq!(names.len(), 3, "{told} {}", String::from_utf8_lossy(&output.stderr));
        assert!(names[0].ends_with("kernel/h2k.ko") && names[2].ends_with("kernel/h2k_blk.ko"));
    }
}
