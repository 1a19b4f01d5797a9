//! Appliances that are broken, hostile, or only odd. What each comes to stands in a table beside the test that reads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::appliances::{
    Ovf, archive, cut_up, gzip, hardware, item, member, on_controller, one_disk, one_disk_described, pack,
    sealed, sums, system, vmdk, vmware,
};

/// Says what is odd about it, and makes it in an empty directory.
pub type Case = (&'static str, fn(&Path) -> PathBuf);

/// A name that is no name of a file, and what a descriptor could do with it.
const SECRET: &str = "/etc/passwd";

/// All of them.
pub const ALL: &[Case] = &[
    // Archives
    ("a-member-above-the-archive", |dir| with_member(dir, b"../evil", b'0')),
    ("a-member-with-an-absolute-name", |dir| with_member(dir, b"/etc/cron.d/evil", b'0')),
    ("a-symbolic-link", |dir| with_member(dir, b"link", b'2')),
    ("a-hard-link-to-a-host-file", |dir| with_member(dir, b"link", b'1')),
    ("a-device", |dir| with_member(dir, b"zero", b'3')),
    ("a-pipe", |dir| with_member(dir, b"pipe", b'6')),
    ("two-members-of-one-name", |dir| with_member(dir, b"web.ovf", b'0')),
    ("two-descriptors", |dir| with_member(dir, b"other.ovf", b'0')),
    ("names-that-differ-by-case", |dir| with_member(dir, b"WEB-disk1.vmdk", b'0')),
    ("a-name-that-is-not-utf-8", |dir| with_member(dir, b"caf\xe9.txt", b'0')),
    ("twins-of-macos", |dir| with_member(dir, b"._web.ovf", b'0')),
    ("no-descriptor", |dir| {
        vmdk(dir, "web-disk1.vmdk", 1);
        pack(dir, "ustar", "web.ova", &["web-disk1.vmdk"])
    }),
    ("a-descriptor-that-comes-last", |dir| {
        one_disk(dir, |_| {});
        pack(dir, "gnu", "web.ova", &["web-disk1.vmdk", "web.ovf"])
    }),
    ("an-archive-cut-in-a-member", |dir| cut(&one_disk(dir, |_| {}), 60)),
    ("an-archive-without-its-end", |dir| {
        one_disk(dir, |_| {});
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        let bytes = [
            member(b"web.ovf", b'0', &read("web.ovf")),
            member(b"web-disk1.vmdk", b'0', &read("web-disk1.vmdk")),
        ];
        file(dir, "web.ova", &bytes.concat())
    }),
    ("a-member-of-impossible-size", |dir| {
        let size = b"30 size=18446744073709551615\n";
        file(dir, "web.ova", &archive(&[(b"pax", b'x', size), (b"web.ovf", b'0', b"")]))
    }),
    ("a-size-that-overflows", |dir| {
        let mut header = vec![0; 512];
        header[..7].copy_from_slice(b"web.ovf");
        header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        header[257..265].copy_from_slice(b"ustar\x0000");
        file(dir, "web.ova", &sealed(header, b""))
    }),
    ("a-sparse-member", |dir| with_member(dir, b"sparse", b'S')),
    ("a-gzip-bomb-instead-of-an-archive", |dir| {
        fs::write(dir.join("zeros"), vec![0; 8 << 20]).unwrap();
        let packed = Command::new("gzip").arg("-9c").arg(dir.join("zeros")).output().unwrap();
        file(dir, "web.ova", &packed.stdout)
    }),
    ("a-zip-with-backslashes", |dir| file(dir, "web.ova", b"PK\x03\x04\x14\0\0\0\0\0..\\..\\evil")),
    ("a-file-larger-than-its-disk", |dir| {
        one_disk(dir, |ovf| ovf.disks = ovf.disks.replace("capacity=\"8\"", "capacity=\"4\""))
    }),
    ("a-file-shorter-than-said", |dir| {
        one_disk(dir, |ovf| ovf.references = ovf.references.replace("/>", " ovf:size=\"99999999\"/>"))
    }),
    ("nothing-there", |dir| dir.join("missing.ova")),
    ("an-empty-archive", |dir| file(dir, "web.ova", b"")),
    // Descriptors
    ("an-external-entity", |dir| {
        one_disk(dir, |ovf| {
            ovf.head += &format!(r#"<!DOCTYPE x [<!ENTITY e SYSTEM "file://{SECRET}">]>"#);
            ovf.systems = ovf.systems.replace("<Name>web", "<Name>&e;");
        })
    }),
    ("a-billion-laughs", |dir| {
        let mut entities = r#"<!ENTITY a0 "ha">"#.to_owned();
        for level in 1..10 {
            entities += &format!(r#"<!ENTITY a{level} "{}">"#, format!("&a{};", level - 1).repeat(10));
        }
        one_disk(dir, |ovf| {
            ovf.head += &format!("<!DOCTYPE x [{entities}]>");
            ovf.systems = ovf.systems.replace("<Name>web", "<Name>&a9;");
        })
    }),
    ("a-descriptor-of-many-megabytes", |dir| one_disk(dir, |ovf| ovf.systems += &" ".repeat(17 << 20))),
    ("a-descriptor-nested-without-end", |dir| one_disk(dir, |ovf| ovf.systems += &"<a>".repeat(200_000))),
    ("a-web-page-saved-as-descriptor", |dir| {
        one_disk_described(dir, b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
    }),
    ("an-empty-descriptor", |dir| one_disk_described(dir, b"")),
    ("a-descriptor-in-utf-16", |dir| {
        let text = vmware("web", &[("web-disk1.vmdk", 8)]).text().replace("UTF-8", "UTF-16");
        let units: Vec<u8> =
            [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        one_disk_described(dir, &units)
    }),
    ("a-descriptor-with-a-mark-of-its-byte-order", |dir| {
        one_disk_described(
            dir,
            format!("\u{feff}{}", vmware("web", &[("web-disk1.vmdk", 8)]).text()).as_bytes(),
        )
    }),
    ("a-descriptor-in-latin-1", |dir| {
        let text = vmware("caf#", &[("web-disk1.vmdk", 8)]).text().replace("UTF-8", "ISO-8859-1");
        let bytes: Vec<u8> = text.bytes().map(|byte| if byte == b'#' { 0xe9 } else { byte }).collect();
        one_disk_described(dir, &bytes)
    }),
    ("a-descriptor-that-is-not-utf-8", |dir| {
        let text = vmware("caf#", &[("web-disk1.vmdk", 8)]).text();
        one_disk_described(
            dir,
            &text.bytes().map(|byte| if byte == b'#' { 0xe9 } else { byte }).collect::<Vec<u8>>(),
        )
    }),
    ("ovf-2.0", |dir| one_disk(dir, |ovf| ovf.head += "<!-- version 2 -->")),
    ("a-prefix-that-nobody-declared", |dir| {
        one_disk(dir, |ovf| ovf.systems = ovf.systems.replace("<Info/>", "<none:Info/>"))
    }),
    ("attributes-without-their-prefix", |dir| {
        one_disk(dir, |ovf| {
            for text in [&mut ovf.references, &mut ovf.disks] {
                *text = text.replace("ovf:", "");
            }
        })
    }),
    ("a-disk-above-the-appliance", |dir| href(dir, "../evil.vmdk")),
    ("a-disk-of-the-host", |dir| href(dir, SECRET)),
    ("a-disk-by-url", |dir| href(dir, "file:///etc/passwd")),
    ("a-disk-on-the-web", |dir| href(dir, "http://example.com/disk.vmdk")),
    ("a-disk-above-in-percent-signs", |dir| href(dir, "%2e%2e/evil.vmdk")),
    ("a-disk-that-is-missing", |dir| href(dir, "other.vmdk")),
    ("a-capacity-with-a-decimal-point", |dir| capacity(dir, "8.5", "byte * 2^20")),
    ("a-capacity-of-part-of-a-byte", |dir| capacity(dir, "8388608.5", "byte")),
    ("a-capacity-that-is-a-property", |dir| {
        one_disk(dir, |ovf| {
            ovf.disks = ovf.disks.replace("\"8\"", "\"${web.size}\"");
            let product = r#"<ProductSection ovf:class="web"><Info/><Property ovf:key="size" ovf:type="uint32" ovf:value="8"/></ProductSection>"#;
            ovf.systems = system("web", product, &hardware(1));
        })
    }),
    ("a-capacity-that-is-no-property", |dir| capacity(dir, "${disk.size}", "byte * 2^20")),
    ("a-capacity-in-parsecs", |dir| capacity(dir, "8", "parsec")),
    ("a-capacity-that-overflows", |dir| capacity(dir, "99999", "byte * 2^62")),
    ("a-capacity-in-gigabytes", |dir| capacity(dir, "1", "byte * 2^30")),
    ("a-disk-that-differs-from-another", |dir| {
        one_disk(dir, |ovf| ovf.disks = ovf.disks.replace("/>", " ovf:parentRef=\"base\"/>"))
    }),
    ("a-disk-in-pieces", |dir| in_pieces(dir, |_, _| {})),
    ("a-disk-that-should-be-in-pieces", |dir| {
        one_disk(dir, |ovf| ovf.references = ovf.references.replace("/>", " ovf:chunkSize=\"65536\"/>"))
    }),
    ("pieces-without-one-in-the-middle", |dir| {
        in_pieces(dir, |_, pieces| {
            pieces.remove(3);
        })
    }),
    ("pieces-without-the-last", |dir| {
        in_pieces(dir, |_, pieces| {
            pieces.pop();
        })
    }),
    ("pieces-with-one-too-many", |dir| {
        in_pieces(dir, |dir, pieces| {
            pad(dir, pieces.last().unwrap(), 65536);
            pieces.push(format!("web-disk1.vmdk.{:09}", pieces.len()));
            fs::write(dir.join(pieces.last().unwrap()), "x").unwrap();
        })
    }),
    ("a-piece-that-is-too-short", |dir| {
        in_pieces(dir, |dir, pieces| {
            cut(&dir.join(&pieces[2]), 50);
        })
    }),
    ("a-piece-that-is-too-long", |dir| in_pieces(dir, |dir, pieces| pad(dir, &pieces[2], 65537))),
    ("a-last-piece-that-is-cut-off", |dir| {
        in_pieces(dir, |dir, pieces| {
            cut(&dir.join(pieces.last().unwrap()), 50);
        })
    }),
    ("a-disk-packed-with-gzip", |dir| packed_with_gzip(dir, |_| {})),
    ("a-disk-packed-with-identity", |dir| {
        one_disk(dir, |ovf| ovf.references = ovf.references.replace("/>", " ovf:compression=\"identity\"/>"))
    }),
    ("a-disk-that-should-be-packed", |dir| {
        one_disk(dir, |ovf| ovf.references = ovf.references.replace("/>", " ovf:compression=\"gzip\"/>"))
    }),
    ("a-packed-disk-that-is-cut-off", |dir| packed_with_gzip(dir, |bytes| bytes.truncate(bytes.len() / 2))),
    ("a-packed-disk-without-its-checksum", |dir| {
        packed_with_gzip(dir, |bytes| bytes.truncate(bytes.len() - 8))
    }),
    ("a-packed-disk-with-a-wrong-checksum", |dir| {
        packed_with_gzip(dir, |bytes| {
            let at = bytes.len() - 8;
            bytes[at] ^= 1;
        })
    }),
    ("a-packed-disk-with-something-behind-it", |dir| {
        packed_with_gzip(dir, |bytes| bytes.extend(b"surprise"))
    }),
    ("a-gzip-bomb-as-a-disk", |dir| {
        fs::write(dir.join("zeros"), vec![0; 96 << 20]).unwrap();
        gzip(dir, "zeros");
        let bomb = fs::read(dir.join("zeros")).unwrap();
        packed_with_gzip(dir, |bytes| *bytes = bomb)
    }),
    ("a-disk-packed-with-something", |dir| {
        one_disk(dir, |ovf| ovf.references = ovf.references.replace("/>", " ovf:compression=\"rar\"/>"))
    }),
    ("several-machines", |dir| {
        vmdk(dir, "db-disk1.vmdk", 2);
        let mut ovf = vmware("web", &[("web-disk1.vmdk", 8), ("db-disk1.vmdk", 8)]);
        let second = system("db", "", &(item(6, 1, "") + &on_controller(1, 0, "ovf:/disk/disk1")));
        ovf.systems = format!(
            "<VirtualSystemCollection ovf:id=\"both\">{}{second}</VirtualSystemCollection>",
            system("web", "", &hardware(1))
        );
        vmdk(dir, "web-disk1.vmdk", 1);
        fs::write(dir.join("web.ovf"), ovf.text()).unwrap();
        pack(dir, "pax", "web.ova", &["web.ovf", "web-disk1.vmdk", "db-disk1.vmdk"])
    }),
    ("a-machine-without-disks", |dir| one_disk(dir, |ovf| ovf.systems = system("web", "", &hardware(0)))),
    ("a-machine-of-300-disks", |dir| {
        one_disk(dir, |ovf| {
            for number in 1..300 {
                ovf.disks +=
                    &format!(r#"<Disk ovf:diskId="disk{number}" ovf:fileRef="file0" ovf:capacity="8"/>"#);
            }
            ovf.systems = system("web", "", &hardware(300));
        })
    }),
    ("a-disk-used-twice", |dir| {
        one_disk(dir, |ovf| {
            let twice = hardware(1) + &on_controller(3, 7, "ovf:/disk/disk0");
            ovf.systems = system("web", "", &twice);
        })
    }),
    ("a-disk-that-nobody-describes", |dir| {
        one_disk(dir, |ovf| ovf.systems = system("web", "", &on_controller(3, 0, "ovf:/disk/none")))
    }),
    ("fewer-than-no-processors", |dir| quantity(dir, 3, "-4")),
    ("more-processors-than-there-are-numbers", |dir| quantity(dir, 3, "99999999999999999999")),
    ("more-memory-than-there-is", |dir| quantity(dir, 4, "18446744073709551615")),
    ("a-name-that-leads-elsewhere", |dir| named(dir, "../../etc/evil")),
    ("a-name-of-several-lines", |dir| named(dir, "web&#10;$(reboot)&#9;`id`")),
    ("a-name-of-300-letters", |dir| named(dir, &"n".repeat(300))),
    ("a-name-in-pictures", |dir| named(dir, "\u{1f980}\u{1f980}")),
    ("no-machine", |dir| one_disk(dir, |ovf| ovf.systems = String::new())),
    // Lists of checksums
    ("a-wrong-checksum-of-a-disk", |dir| listed(dir, |text| flip(text, "web-disk1.vmdk)= "))),
    ("a-wrong-checksum-of-the-descriptor", |dir| listed(dir, |text| flip(text, "web.ovf)= "))),
    ("half-a-list-of-checksums", |dir| listed(dir, |text| text[..text.len() - 20].to_owned())),
    ("an-empty-list-of-checksums", |dir| listed(dir, |_| String::new())),
    ("a-list-with-other-line-ends-and-letters", |dir| {
        listed(dir, |text| text.replace("SHA256(", "sha256 (").replace(")= ", ")=").replace('\n', "\r\n"))
    }),
    ("a-list-that-names-what-is-missing", |dir| {
        listed(dir, |text| text.to_owned() + &format!("SHA256(other.vmdk)= {}\n", "0".repeat(64)))
    }),
    ("a-list-that-leaves-a-disk-out", |dir| {
        listed(dir, |text| {
            text.lines().filter(|line| line.contains("ovf")).map(|line| format!("{line}\n")).collect()
        })
    }),
    ("checksums-of-a-kind-that-is-broken", |dir| {
        listed(dir, |_| format!("MD5(web.ovf)= {}\n", "0".repeat(32)))
    }),
    ("a-signature", |dir| {
        listed(dir, str::to_owned);
        fs::write(dir.join("web.cert"), "-----BEGIN CERTIFICATE-----\nnonsense\n").unwrap();
        pack(dir, "ustar", "web.ova", &["web.ovf", "web.mf", "web.cert", "web-disk1.vmdk"])
    }),
    // Disks in archives
    ("a-disk-that-is-no-disk", |dir| {
        one_disk(dir, |_| {});
        fs::write(dir.join("web-disk1.vmdk"), "this is no disk").unwrap();
        pack(dir, "ustar", "web.ova", &["web.ovf", "web-disk1.vmdk"])
    }),
    ("a-disk-whose-extents-lie-elsewhere", |dir| {
        one_disk(dir, |_| {});
        let text = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\nRW 8 FLAT \"passwd\" 0\n";
        fs::write(dir.join("web-disk1.vmdk"), text).unwrap();
        pack(dir, "ustar", "web.ova", &["web.ovf", "web-disk1.vmdk"])
    }),
];

fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A sound appliance with one more member, before the others.
fn with_member(dir: &Path, name: &[u8], kind: u8) -> PathBuf {
    one_disk(dir, |_| {});
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let content: &[u8] = if kind == b'0' { b"anything" } else { b"" };
    let members = [
        (name, kind, content),
        (b"web.ovf".as_slice(), b'0', &read("web.ovf")),
        (b"web-disk1.vmdk".as_slice(), b'0', &read("web-disk1.vmdk")),
    ];
    file(dir, "web.ova", &archive(&members))
}

/// An appliance whose disk lies in pieces, changed.
fn in_pieces(dir: &Path, change: impl FnOnce(&Path, &mut Vec<String>)) -> PathBuf {
    one_disk(dir, |_| {});
    let size = fs::metadata(dir.join("web-disk1.vmdk")).unwrap().len();
    let ovf = fs::read_to_string(dir.join("web.ovf")).unwrap();
    let file = "ovf:href=\"web-disk1.vmdk\"";
    let ovf = ovf.replace(file, &format!("{file} ovf:size=\"{size}\" ovf:chunkSize=\"65536\""));
    fs::write(dir.join("web.ovf"), ovf).unwrap();
    let mut pieces = cut_up(dir, "web-disk1.vmdk", 65536);
    change(dir, &mut pieces);
    let files: Vec<&str> = ["web.ovf"].into_iter().chain(pieces.iter().map(String::as_str)).collect();
    pack(dir, "ustar", "web.ova", &files)
}

/// An appliance whose disk is packed, changed.
fn packed_with_gzip(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    one_disk(dir, |ovf| ovf.references = ovf.references.replace("/>", " ovf:compression=\"gzip\"/>"));
    gzip(dir, "web-disk1.vmdk");
    let mut bytes = fs::read(dir.join("web-disk1.vmdk")).unwrap();
    change(&mut bytes);
    fs::write(dir.join("web-disk1.vmdk"), bytes).unwrap();
    pack(dir, "ustar", "web.ova", &["web.ovf", "web-disk1.vmdk"])
}

fn pad(dir: &Path, name: &str, bytes: u64) {
    fs::OpenOptions::new().write(true).open(dir.join(name)).unwrap().set_len(bytes).unwrap();
}

fn cut(path: &Path, hundredths: u64) -> PathBuf {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() * hundredths / 100).unwrap();
    path.to_owned()
}

fn href(dir: &Path, href: &str) -> PathBuf {
    one_disk(dir, |ovf| ovf.references = ovf.references.replace("web-disk1.vmdk", href))
}

fn capacity(dir: &Path, number: &str, unit: &str) -> PathBuf {
    one_disk(dir, |ovf| {
        ovf.disks = ovf.disks.replace("\"8\"", &format!("\"{number}\"")).replace("byte * 2^20", unit);
    })
}

fn quantity(dir: &Path, kind: u32, quantity: &str) -> PathBuf {
    let wanted = item(kind, 50, &format!("<rasd:VirtualQuantity>{quantity}</rasd:VirtualQuantity>"));
    one_disk(dir, |ovf| ovf.systems = system("web", "", &(hardware(1) + &wanted)))
}

fn named(dir: &Path, name: &str) -> PathBuf {
    one_disk(dir, |ovf: &mut Ovf| ovf.systems = system(name, "", &hardware(1)))
}

/// A sound appliance with its list of checksums, changed.
fn listed(dir: &Path, change: impl FnOnce(&str) -> String) -> PathBuf {
    one_disk(dir, |_| {});
    let text = change(&sums(dir, &["web.ovf", "web-disk1.vmdk"]));
    fs::write(dir.join("web.mf"), text).unwrap();
    pack(dir, "ustar", "web.ova", &["web.ovf", "web.mf", "web-disk1.vmdk"])
}

/// Another first digit behind this.
fn flip(text: &str, behind: &str) -> String {
    let at = text.find(behind).unwrap() + behind.len();
    let other = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}
