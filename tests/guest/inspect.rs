//! What inspection tells of the systems of several distributions: small trees with real layouts, all looked at in one appliance.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};
use hyper2kvm::guest::inspect;
use hyper2kvm::model::error::Kind;

const MIB: u64 = 1024 * 1024;
const PARTITION_MIB: u64 = 16;

/// A system: its name, and its files as `path: content`.
type System = (&'static str, &'static [(&'static str, &'static str)]);

const RHEL: System = (
    "rhel-9",
    &[
        (
            "etc/os-release",
            "NAME=\"Red Hat Enterprise Linux\"\nVERSION_ID=\"9.4\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\nPRETTY_NAME=\"Red Hat Enterprise Linux 9.4 (Plow)\"\n",
        ),
        (
            "etc/fstab",
            "/dev/sda1 / xfs defaults 0 0\nUUID=0123-4567 /boot/efi vfat umask=0077 0 2\n/dev/mapper/rhel-swap none swap defaults 0 0\n",
        ),
        ("etc/hostname", "db.example.org\n"),
        ("usr/bin/dnf", ""),
        ("usr/bin/rpm", ""),
        ("usr/bin/dracut", ""),
        ("usr/lib/systemd/systemd", "ELF x86_64"),
        ("usr/lib/systemd/system/vmtoolsd.service", ""),
        ("boot/vmlinuz-5.14.0-427.el9.x86_64", ""),
        ("boot/initramfs-5.14.0-427.el9.x86_64.img", ""),
        ("boot/vmlinuz-5.14.0-70.el9.x86_64", ""),
        ("boot/initramfs-5.14.0-70.el9.x86_64.img", ""),
        ("boot/vmlinuz-0-rescue-90561ec5", ""),
        ("boot/grub2/grub.cfg", "set default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n"),
        ("boot/grub2/grubenv", "# GRUB Environment Block\nsaved_entry=90561ec5-5.14.0-70.el9.x86_64\n"),
        (
            "boot/loader/entries/90561ec5-5.14.0-427.el9.x86_64.conf",
            "title RHEL\nlinux /vmlinuz-5.14.0-427.el9.x86_64\n",
        ),
        (
            "boot/loader/entries/90561ec5-5.14.0-70.el9.x86_64.conf",
            "title RHEL\nlinux /vmlinuz-5.14.0-70.el9.x86_64\n",
        ),
        ("lib/modules/5.14.0-427.el9.x86_64/modules.dep", ""),
        ("lib/modules/5.14.0-427.el9.x86_64/modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\n"),
        ("lib/modules/5.14.0-427.el9.x86_64/kernel/drivers/block/virtio_blk.ko.xz", ""),
        ("lib/modules/5.14.0-427.el9.x86_64/kernel/drivers/net/virtio_net.ko.xz", ""),
        ("lib/modules/5.14.0-70.el9.x86_64/modules.dep", ""),
        (
            "etc/NetworkManager/system-connections/ens192.nmconnection",
            "[connection]\nid=ens192\ntype=ethernet\ninterface-name=ens192\n[ipv4]\nmethod=manual\naddress1=192.0.2.10/24,192.0.2.1\ndns=192.0.2.53;\n",
        ),
    ],
);

const SLES: System = (
    "sles-15",
    &[
        (
            "etc/os-release",
            "NAME=\"SLES\"\nVERSION_ID=\"15.5\"\nID=\"sles\"\nID_LIKE=\"suse\"\nPRETTY_NAME=\"SUSE Linux Enterprise Server 15 SP5\"\n",
        ),
        ("etc/fstab", "/dev/sda2 / ext4 defaults 0 1\n"),
        ("etc/HOSTNAME", "sap01\n"),
        ("usr/bin/zypper", ""),
        ("usr/bin/dracut", ""),
        ("usr/lib/systemd/systemd", "ELF x86_64"),
        ("boot/vmlinuz-5.14.21-150500.55-default", ""),
        ("boot/vmlinux-5.14.21-150500.55-default.gz", ""),
        ("boot/initrd-5.14.21-150500.55-default", ""),
        (
            "boot/grub2/grub.cfg",
            "set default=\"0\"\nmenuentry 'SLES' {\n linux /boot/vmlinuz-5.14.21-150500.55-default root=/dev/sda2\n}\n",
        ),
        ("lib/modules/5.14.21-150500.55-default/modules.dep", ""),
        ("lib/modules/5.14.21-150500.55-default/kernel/drivers/virtio/virtio_pci.ko.zst", ""),
        ("lib/modules/5.14.21-150500.55-default/kernel/drivers/scsi/virtio_scsi.ko.zst", ""),
        ("lib/modules/5.14.21-150500.55-default/kernel/drivers/net/virtio_net.ko.zst", ""),
        (
            "etc/sysconfig/network/ifcfg-eth0",
            "BOOTPROTO='static'\nIPADDR='192.0.2.20/24'\nSTARTMODE='auto'\n",
        ),
        ("etc/sysconfig/network/routes", "default 192.0.2.1 - -\n"),
        ("etc/sysconfig/network/config", "NETCONFIG_DNS_STATIC_SERVERS=\"192.0.2.53\"\n"),
    ],
);

const ARCH: System = (
    "arch",
    &[
        ("etc/os-release", "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n"),
        ("etc/fstab", "/dev/sda3 / ext4 rw,relatime 0 1\n"),
        ("etc/hostname", "arch\n"),
        ("usr/bin/pacman", ""),
        ("usr/bin/mkinitcpio", ""),
        ("usr/lib/systemd/systemd", "ELF x86_64"),
        ("boot/vmlinuz-linux", ""),
        ("boot/initramfs-linux.img", ""),
        ("boot/initramfs-linux-fallback.img", ""),
        (
            "boot/grub/grub.cfg",
            "set default=\"0\"\nmenuentry 'Arch Linux' {\n\tlinux\t/boot/vmlinuz-linux root=/dev/sda3 rw\n}\n",
        ),
        ("lib/modules/6.11.1-arch1-1/modules.dep", ""),
        ("lib/modules/6.11.1-arch1-1/pkgbase", "linux\n"),
        ("lib/modules/6.11.1-arch1-1/vmlinuz", ""),
        (
            "lib/modules/6.11.1-arch1-1/modules.builtin",
            "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/block/virtio_blk.ko\nkernel/drivers/net/virtio_net.ko\n",
        ),
        ("etc/systemd/network/20-wired.network", "[Match]\nName=ens*\n[Network]\nDHCP=yes\n"),
    ],
);

const ALPINE: System = (
    "alpine",
    &[
        (
            "etc/os-release",
            "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20.3\nPRETTY_NAME=\"Alpine Linux v3.20\"\n",
        ),
        ("etc/fstab", "/dev/sda4 / ext4 rw,relatime 0 1\n"),
        ("etc/hostname", "alpine\n"),
        ("sbin/apk", ""),
        ("sbin/openrc", ""),
        ("sbin/init", ""),
        ("sbin/mkinitfs", ""),
        ("bin/busybox", "ELF x86_64"),
        ("boot/vmlinuz-lts", ""),
        ("boot/initramfs-lts", ""),
        ("boot/extlinux.conf", "DEFAULT menu.c32\nLABEL lts\n  LINUX vmlinuz-lts\n  INITRD initramfs-lts\n"),
        ("lib/modules/6.6.58-0-lts/modules.dep", ""),
        ("lib/modules/6.6.58-0-lts/kernel/drivers/virtio/virtio_pci.ko.gz", ""),
        ("lib/modules/6.6.58-0-lts/kernel/drivers/block/virtio_blk.ko.gz", ""),
        ("lib/modules/6.6.58-0-lts/kernel/drivers/net/virtio_net.ko.gz", ""),
        ("etc/network/interfaces", "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n"),
        ("usr/sbin/qemu-ga", ""),
    ],
);

const PHOTON: System = (
    "photon-5",
    &[
        (
            "usr/lib/os-release",
            "NAME=\"VMware Photon OS\"\nVERSION=\"5.0\"\nID=photon\nVERSION_ID=5.0\nPRETTY_NAME=\"VMware Photon OS/Linux\"\n",
        ),
        (
            "etc/fstab",
            "UUID=00000000-0000-4000-8000-000000000005 / ext4 defaults 1 1\n/dev/cdrom /mnt/cdrom iso9660 ro,noauto 0 0\n",
        ),
        ("etc/hostname", "photon\n"),
        ("usr/bin/tdnf", ""),
        ("usr/bin/rpm", ""),
        ("usr/bin/dracut", ""),
        ("usr/lib/systemd/systemd", "ELF x86_64"),
        ("usr/lib/systemd/system/vmtoolsd.service", ""),
        ("boot/vmlinuz-6.1.10-11.ph5-esx", ""),
        ("boot/initrd.img-6.1.10-11.ph5-esx", ""),
        (
            "boot/grub2/grub.cfg",
            "set default=0\nmenuentry \"Photon\" {\n linux /boot/$photon_linux root=$rootpartition\n}\n",
        ),
        ("lib/modules/6.1.10-11.ph5-esx/modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\n"),
        ("etc/systemd/network/99-dhcp-en.network", "[Match]\nName=e*\n\n[Network]\nDHCP=yes\n"),
    ],
);

const AMAZON: System = (
    "amazon-2",
    &[
        (
            "etc/os-release",
            "NAME=\"Amazon Linux\"\nVERSION=\"2\"\nID=\"amzn\"\nID_LIKE=\"centos rhel fedora\"\nVERSION_ID=\"2\"\nPRETTY_NAME=\"Amazon Linux 2\"\n",
        ),
        ("etc/fstab", "LABEL=amazon-2 / ext4 defaults,noatime 1 1\n"),
        ("etc/hostname", "ip-192-0-2-30\n"),
        ("usr/bin/yum", ""),
        ("usr/bin/rpm", ""),
        ("usr/sbin/dracut", ""),
        ("usr/bin/cloud-init", ""),
        ("usr/lib/systemd/systemd", "ELF aarch64"),
        ("boot/vmlinuz-5.10.226-214.880.amzn2.aarch64", ""),
        ("boot/initramfs-5.10.226-214.880.amzn2.aarch64.img", ""),
        ("lib/modules/5.10.226-214.880.amzn2.aarch64/modules.dep", ""),
        ("etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nBOOTPROTO=dhcp\nONBOOT=yes\n"),
    ],
);

const SYSTEMS: [System; 6] = [RHEL, SLES, ARCH, ALPINE, PHOTON, AMAZON];

/// The head of a program for a machine; anything else as it is.
fn content(text: &str) -> Vec<u8> {
    let machine = match text.strip_prefix("ELF ") {
        Some("x86_64") => 62,
        Some("aarch64") => 183,
        _ => return text.into(),
    };
    let mut head = vec![0; 64];
    head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    head[16] = 3;
    head[18] = machine;
    head
}

/// One disk, a partition for each system and one more with nothing but data.
fn disk(dir: &Path) -> PathBuf {
    let image = dir.join("disk.raw");
    let count = SYSTEMS.len() as u64 + 1;
    std::fs::File::create(&image).unwrap().set_len((count * PARTITION_MIB + 2) * MIB).unwrap();
    let mut sfdisk =
        Command::new("/sbin/sfdisk").arg("--quiet").arg(&image).stdin(Stdio::piped()).spawn().unwrap();
    let table =
        format!("label: gpt\n{}", format!("size={PARTITION_MIB}MiB, type=linux\n").repeat(SYSTEMS.len() + 1));
    std::io::Write::write_all(&mut sfdisk.stdin.take().unwrap(), table.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    for index in 0..=SYSTEMS.len() {
        let (name, files) = SYSTEMS.get(index).copied().unwrap_or(("data", &[("etc/readme", "no system")]));
        let tree = dir.join(name);
        for (path, text) in files {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content(text)).unwrap();
        }
        let offset = format!("offset={}", MIB + index as u64 * PARTITION_MIB * MIB);
        let made = Command::new("/sbin/mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-L",
                name,
                "-U",
                &format!("00000000-0000-4000-8000-{:012}", index + 1),
            ])
            .args(["-E", &offset, "-d"])
            .args([&tree, &image])
            .arg(format!("{PARTITION_MIB}M"))
            .status()
            .unwrap();
        assert!(made.success());
    }
    image
}

#[test]
fn systems_of_every_family_are_known_by_what_lies_in_their_trees() {
    let dir = tempfile::tempdir().unwrap();
    let drive = Drive { path: disk(dir.path()), format: "raw".to_owned(), readonly: true };
    let settings = Settings { kvm: false, memory_mb: None, temp: dir.path().to_owned(), log: None };
    let appliance = Appliance::launch(&settings, &[drive]).unwrap();
    for (index, (name, _)) in SYSTEMS.iter().enumerate() {
        let root = format!("/dev/sda{}", index + 1);
        let mut identity = inspect::look(&appliance, &[], Some(&root), true).unwrap().identity;
        appliance.unmount_all().unwrap();
        for mount in &mut identity.mounts {
            // How much room a file system leaves is the business of mke2fs.
            assert_eq!(mount.free_bytes.is_some(), mount.path == "/", "{mount:?}");
            (mount.free_bytes, mount.total_bytes) = (None, None);
        }
        insta::assert_json_snapshot!(*name, identity);
    }

    let none = inspect::look(&appliance, &[], Some("LABEL=data"), true).unwrap_err();
    assert_eq!(
        (none.kind(), none.details().place.field.as_deref()),
        (Kind::Guest, Some("pipeline.fix.root"))
    );

    let chosen = inspect::look(&appliance, &[], None, true).unwrap();
    assert_eq!(chosen.identity.os_id.as_deref(), Some("rhel"), "of different systems the first");
    assert!(
        chosen.identity.notes.iter().any(|note| note.starts_with("6 systems were found")),
        "{:?}",
        chosen.identity.notes
    );
    assert_eq!(chosen.layout.volumes.len(), SYSTEMS.len() + 1);
    appliance.finish().unwrap();
}
