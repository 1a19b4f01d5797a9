//! Repairs of fstab and boot loaders on real file systems, in the appliance: what is changed, what is kept, and that once is enough.

use std::path::{Path, PathBuf};

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};
use hyper2kvm::guest::facts::{Facts, FixOptions, Layout, Mounted, Volume};
use hyper2kvm::guest::fix::{self, Fix, Guest};
use hyper2kvm::guest::linux;
use hyper2kvm::guest::tree::{Edit, Tree};
use hyper2kvm::model::guest::{BootLoader, GuestFirmware, GuestIdentity, GuestKernel, GuestType};

use crate::support::trees;

const UUID: &str = "0a6a4b9e-7d5b-4c57-9d3e-4f5a3c2b1a00";
const OURS: [&str; 5] = ["fstab", "crypttab", "resume", "bootloader", "efi-fallback"];

/// A file system on a whole disk, which the guest had as its first partition.
fn disk(dir: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    let image = dir.join("disk.raw");
    trees::ext4(&image, 64, &trees::tree(dir, files), &["-U", UUID]);
    image
}

fn facts(os_id: &str, bootloader: BootLoader, kernels: Vec<GuestKernel>) -> Facts {
    let root = Volume {
        device: "/dev/sda".to_owned(),
        disk: Some(0),
        partition: Some(1),
        content: "ext4".to_owned(),
        uuid: Some(UUID.to_owned()),
        ..Volume::default()
    };
    Facts {
        identity: GuestIdentity {
            kind: GuestType::Linux,
            os_id: Some(os_id.to_owned()),
            architecture: Some("x86_64".to_owned()),
            firmware: GuestFirmware::Uefi,
            bootloader,
            kernels,
            ..GuestIdentity::default()
        },
        layout: Layout {
            disks: vec!["/dev/sda".to_owned()],
            nodes: std::collections::BTreeMap::new(),
            volumes: vec![root],
            mounted: vec![Mounted {
                path: "/".to_owned(),
                device: "/dev/sda".to_owned(),
                options: String::new(),
            }],
            efi_partition: None,
            efi_path: Some("/boot/efi".to_owned()),
        },
    }
}

fn kernel(version: &str, virtio: bool) -> GuestKernel {
    GuestKernel {
        version: version.to_owned(),
        image: Some(format!("/boot/vmlinuz-{version}")),
        initramfs: Some(format!("/boot/initramfs-{version}.img")),
        virtio,
        ..GuestKernel::default()
    }
}

/// Repairs and verifies, and gives back what was changed, warned of, and the tree to look at.
fn repaired(appliance: Appliance, facts: &Facts) -> (Vec<Edit>, Vec<String>, Appliance) {
    let fixes: Vec<&dyn Fix> = linux::ALL.iter().copied().filter(|fix| OURS.contains(&fix.name())).collect();
    assert_eq!(fixes.len(), OURS.len());
    let options = FixOptions::default();
    let mut guest = Guest {
        tree: Tree::new(appliance, options.backup),
        facts: facts.clone(),
        options: &options,
        warnings: Vec::new(),
    };
    fix::carry_out(&fixes, &mut guest, &mut |_| {}).unwrap();
    let warnings = std::mem::take(&mut guest.warnings);
    let (appliance, edits) = guest.tree.into_appliance();
    (edits, warnings, appliance)
}

fn mounted(dir: &Path, image: PathBuf) -> Appliance {
    let settings =
        Settings { kvm: false, memory_mb: None, temp: dir.to_owned(), log: Some(dir.join("appliance.log")) };
    let drive = Drive { path: image, format: "raw".to_owned(), readonly: false };
    let appliance = Appliance::launch(&settings, &[drive]).unwrap();
    appliance.mount("", "/dev/sda", "/").unwrap();
    appliance
}

fn paths(edits: &[Edit]) -> Vec<&str> {
    edits.iter().map(|edit| edit.path.as_str()).collect()
}

fn block(lines: &str) -> Vec<u8> {
    let mut block = format!("# GRUB Environment Block\n{lines}").into_bytes();
    block.resize(1024, b'#');
    block
}

fn read(appliance: &Appliance, path: &str) -> String {
    String::from_utf8(appliance.read(path, u64::MAX).unwrap()).unwrap()
}

#[test]
fn a_guest_of_rhel_9_is_repaired_once_and_keeps_all_else() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |version: &str| {
        format!(
            "title Rocky Linux ({version}) 9.3\nversion {version}\nlinux /boot/vmlinuz-{version}\n\
             initrd /boot/initramfs-{version}.img $tuned_initrd\noptions root=/dev/sda1 ro crashkernel=1G-4G:192M $tuned_params\n"
        )
    };
    let (old, new) = ("5.14.0-70.el9.x86_64", "5.14.0-362.el9.x86_64");
    let image = disk(
        dir.path(),
        &[
            ("/etc/fstab", b"# Pl\xe4tze\n/dev/sda1\t/\text4\tdefaults\t1 1\n/dev/sdq1 /gone xfs nofail 0 0\n"),
            ("/etc/default/grub", b"GRUB_DEFAULT=saved\nGRUB_CMDLINE_LINUX=\"crashkernel=1G-4G:192M\"\nGRUB_ENABLE_BLSCFG=true\n"),
            ("/etc/kernel/cmdline", b"root=/dev/sda1 ro\n"),
            ("/boot/grub2/grub.cfg", b"set default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n"),
            ("/boot/grub2/grubenv", &block(&format!("saved_entry=0f-{new}\nboot_success=1\n"))),
            ("/boot/grub2/device.map", b"(hd0)      /dev/sda\n"),
            (&format!("/boot/loader/entries/0f-{old}.conf"), entry(old).as_bytes()),
            (&format!("/boot/loader/entries/0f-{new}.conf"), entry(new).as_bytes()),
            ("/boot/efi/EFI/rocky/shimx64.efi", b"signed shim\0\xff"),
            ("/boot/efi/EFI/rocky/grubx64.efi", b"signed grub"),
            ("/boot/efi/EFI/rocky/mmx64.efi", b"keys"),
            ("/boot/efi/EFI/rocky/grub.cfg", b"configfile $prefix/grub.cfg\n"),
        ],
    );
    let facts = facts("rocky", BootLoader::Grub2, vec![kernel(new, false), kernel(old, true)]);

    let (edits, warnings, appliance) = repaired(mounted(dir.path(), image), &facts);

    let fstab = appliance.read("/etc/fstab", u64::MAX).unwrap();
    let expected = [
        b"# Pl\xe4tze\nUUID=",
        UUID.as_bytes(),
        b"\t/\text4\tdefaults\t1 1\n/dev/sdq1 /gone xfs nofail 0 0\n",
    ];
    assert_eq!(fstab, expected.concat());
    assert!(warnings.iter().any(|warning| warning.contains("/dev/sdq1")), "{warnings:?}");
    let grubenv = read(&appliance, "/boot/grub2/grubenv");
    assert_eq!(grubenv.len(), 1024);
    assert!(grubenv.contains(&format!("saved_entry=0f-{old}\nboot_success=1\n")), "{grubenv}");
    let console = "console=tty0 console=ttyS0,115200n8";
    let options = format!("options root=UUID={UUID} ro crashkernel=1G-4G:192M $tuned_params {console}\n");
    assert!(read(&appliance, &format!("/boot/loader/entries/0f-{new}.conf")).ends_with(&options));
    assert_eq!(read(&appliance, "/etc/kernel/cmdline"), format!("root=UUID={UUID} ro {console}\n"));
    assert!(appliance.look("/boot/grub2/device.map").unwrap().is_none());
    for (from, to) in
        [("shimx64.efi", "BOOTX64.EFI"), ("grubx64.efi", "grubx64.efi"), ("mmx64.efi", "mmx64.efi")]
    {
        assert!(
            appliance
                .equal(&format!("/boot/efi/EFI/rocky/{from}"), &format!("/boot/efi/EFI/BOOT/{to}"))
                .unwrap()
        );
    }
    assert!(!paths(&edits).contains(&"/boot/grub2/grub.cfg"), "the menu's own text needs nothing");
    let backup = appliance.read("/var/lib/hyper2kvm/backup/etc/fstab", u64::MAX).unwrap();
    assert!(backup.starts_with(b"# Pl\xe4tze\n/dev/sda1\t"));

    let (again, _, appliance) = repaired(appliance, &facts);
    assert_eq!(paths(&again), Vec::<&str>::new(), "a second time changes nothing");
    appliance.finish().unwrap();
}

#[test]
fn a_debian_whose_default_kernel_lacks_virtio_starts_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let menu = "set default=\"0\"\n\
        menuentry 'Debian GNU/Linux' $menuentry_id_option 'gnulinux-simple' {\n\tset root='hd0,msdos1'\n\tlinux\t/boot/vmlinuz-6.2 root=/dev/sda1 ro\n\tinitrd\t/boot/initrd.img-6.2\n}\n\
        submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced' {\n\
        \tmenuentry 'Linux 6.1' $menuentry_id_option 'gnulinux-6.1-advanced' {\n\t\tlinux\t/boot/vmlinuz-6.1 root=/dev/sda1 ro\n\t\tinitrd\t/boot/initrd.img-6.1\n\t}\n}\n";
    let image = disk(
        dir.path(),
        &[
            ("/etc/fstab", b"/dev/sda1 / ext4 errors=remount-ro 0 1\n"),
            ("/etc/crypttab", b"# <target name> <source device>\n"),
            ("/etc/initramfs-tools/conf.d/resume", b"RESUME=none\n"),
            ("/etc/default/grub", b"GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX=\"\"\nGRUB_DISABLE_LINUX_UUID=true\n"),
            ("/boot/grub/grub.cfg", menu.as_bytes()),
            ("/boot/efi/EFI/debian/grubx64.efi", b"grub"),
        ],
    );
    let facts = facts("debian", BootLoader::Grub2, vec![kernel("6.2", false), kernel("6.1", true)]);

    let (edits, warnings, appliance) = repaired(mounted(dir.path(), image), &facts);

    let expected = menu
        .replace("default=\"0\"", "default=\"gnulinux-advanced>gnulinux-6.1-advanced\"")
        .replace("root=/dev/sda1 ro", &format!("root=UUID={UUID} ro console=tty0 console=ttyS0,115200n8"));
    assert_eq!(read(&appliance, "/boot/grub/grub.cfg"), expected);
    let defaults = read(&appliance, "/etc/default/grub");
    assert!(defaults.starts_with("GRUB_DEFAULT=\"gnulinux-advanced>gnulinux-6.1-advanced\"\n"), "{defaults}");
    assert!(
        defaults.ends_with("GRUB_DISABLE_LINUX_UUID=true\n"),
        "an administrator's word stays: {defaults}"
    );
    assert!(warnings.iter().any(|warning| warning.contains("GRUB_DISABLE_LINUX_UUID")), "{warnings:?}");
    assert!(
        edits.iter().any(|edit| edit.detail == "6.1 starts now: 6.2 has not virtio's drivers"),
        "{edits:?}"
    );
    assert!(appliance.equal("/boot/efi/EFI/debian/grubx64.efi", "/boot/efi/EFI/BOOT/BOOTX64.EFI").unwrap());

    let (again, _, appliance) = repaired(appliance, &facts);
    assert_eq!(paths(&again), Vec::<&str>::new(), "a second time changes nothing");
    appliance.finish().unwrap();
}
