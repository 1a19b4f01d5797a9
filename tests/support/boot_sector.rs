//! Guests that are one boot sector: they say what a real guest would say, and hear what is typed.

use std::fs;
use std::path::{Path, PathBuf};

/// Prints the text at 0x40 by the BIOS; 1 in it waits for the Enter key, 2 starts the machine anew, 0 stands still.
///
/// ```text
/// xorw %ax,%ax; movw %ax,%ds; sti; cld; movw $0x7c40,%si
/// next: lodsb; testb %al,%al; jz halt; cmpb $1,%al; je wait; cmpb $2,%al; je reboot
///       movb $0x0e,%ah; int $0x10; jmp next; nop
/// wait: xorw %ax,%ax; int $0x16; cmpb $0x0d,%al; jne wait; jmp next; nop
/// halt: hlt; jmp halt
/// reboot: ljmp $0xffff,$0
/// ```
#[rustfmt::skip]
const CODE: [u8; 48] = [
    0x31, 0xc0, 0x8e, 0xd8, 0xfb, 0xfc, 0xbe, 0x40, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x1a, 0x3c, 0x01,
    0x74, 0x0b, 0x3c, 0x02, 0x74, 0x15, 0xb4, 0x0e, 0xcd, 0x10, 0xeb, 0xed, 0x90, 0x31, 0xc0, 0xcd,
    0x16, 0x3c, 0x0d, 0x75, 0xf8, 0xeb, 0xe2, 0x90, 0xf4, 0xeb, 0xfd, 0xea, 0x00, 0x00, 0xff, 0xff,
];

/// A disk whose guest says this.
pub fn guest(dir: &Path, says: &str) -> PathBuf {
    let mut sector = vec![0; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[0x40..0x40 + says.len()].copy_from_slice(says.as_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    let path = dir.join("guest.raw");
    fs::write(&path, sector).unwrap();
    path
}
