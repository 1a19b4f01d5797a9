//! Systems of the families that no package here installs, as trees with their real layouts: texts as distributions write them, kernels with modules and
//! initial RAM disks that can be read.
//!
//! All lie on one disk, each on the partition that its files take for its root.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: u64 = 1024 * 1024;
pub const PARTITION_MIB: u64 = 24;

/// A system: its name, what is in its files, which programs it has, and its kernels.
pub struct System {
    pub name: &'static str,
    texts: &'static [(&'static str, &'static str)],
    programs: &'static [&'static str],
    kernels: &'static [Kernel],
    /// Whether udev names its network cards.
    udev: bool,
}

/// A kernel as a package of the distribution leaves it.
struct Kernel {
    version: &'static str,
    image: &'static str,
    /// Where its initial RAM disks are, and the program that packs them.
    initrds: &'static [&'static str],
    packed_by: &'static str,
    /// What the names of its modules end with.
    ending: &'static str,
    builtin: &'static [&'static str],
    modules: &'static [&'static str],
}

const VIRTIO: [&str; 4] = ["virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci", "block/virtio_blk"];
const MODULES: &[&str] = &[
    "virtio/virtio",
    "virtio/virtio_ring",
    "virtio/virtio_pci",
    "block/virtio_blk",
    "scsi/virtio_scsi",
    "net/virtio_net",
    "ata/ahci",
    "message/fusion/mptspi",
];

const RHEL: System = System {
    name: "rhel-9",
    udev: true,
    texts: &[
        (
            "etc/os-release",
            "NAME=\"Red Hat Enterprise Linux\"\nVERSION_ID=\"9.4\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\nPRETTY_NAME=\"Red Hat Enterprise Linux 9.4 (Plow)\"\n",
        ),
        (
            "etc/fstab",
            "\n#\n# /etc/fstab\n# Created by anaconda on Tue May  7 09:12:44 2024\n#\n/dev/sda1               /                       ext4    defaults        0 0\nUUID=0123-4567          /boot/efi               vfat    umask=0077      0 2\n/dev/mapper/rhel-swap   none                    swap    defaults        0 0\n",
        ),
        ("etc/hostname", "db.example.org\n"),
        ("etc/selinux/config", "SELINUX=disabled\nSELINUXTYPE=targeted\n"),
        (
            "etc/default/grub",
            "GRUB_TIMEOUT=5\nGRUB_DEFAULT=saved\nGRUB_DISABLE_SUBMENU=true\nGRUB_CMDLINE_LINUX=\"crashkernel=1G-4G:192M resume=/dev/mapper/rhel-swap\"\nGRUB_ENABLE_BLSCFG=true\n",
        ),
        ("etc/kernel/cmdline", "root=/dev/sda1 ro crashkernel=1G-4G:192M\n"),
        ("boot/grub2/grub.cfg", "set default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n"),
        ("boot/grub2/grubenv", "# GRUB Environment Block\nsaved_entry=90561ec5-5.14.0-70.el9.x86_64\n"),
        ("boot/grub2/device.map", "(hd0)      /dev/sda\n"),
        (
            "boot/loader/entries/90561ec5-5.14.0-427.el9.x86_64.conf",
            "title Red Hat Enterprise Linux (5.14.0-427.el9.x86_64) 9.4 (Plow)\nversion 5.14.0-427.el9.x86_64\nlinux /boot/vmlinuz-5.14.0-427.el9.x86_64\ninitrd /boot/initramfs-5.14.0-427.el9.x86_64.img $tuned_initrd\noptions root=/dev/sda1 ro crashkernel=1G-4G:192M $tuned_params\ngrub_users $grub_users\n",
        ),
        (
            "boot/loader/entries/90561ec5-5.14.0-70.el9.x86_64.conf",
            "title Red Hat Enterprise Linux (5.14.0-70.el9.x86_64) 9.0 (Plow)\nversion 5.14.0-70.el9.x86_64\nlinux /boot/vmlinuz-5.14.0-70.el9.x86_64\ninitrd /boot/initramfs-5.14.0-70.el9.x86_64.img $tuned_initrd\noptions root=/dev/sda1 ro crashkernel=1G-4G:192M $tuned_params\n",
        ),
        (
            "etc/NetworkManager/system-connections/ens192.nmconnection",
            "[connection]\nid=ens192\ntype=ethernet\ninterface-name=ens192\n[ipv4]\nmethod=manual\naddress1=192.0.2.10/24,192.0.2.1\ndns=192.0.2.53;\n",
        ),
        (
            "usr/lib/systemd/system/vmtoolsd.service",
            "[Unit]\nDescription=Service for virtual machines hosted on VMware\n[Service]\nExecStart=/usr/bin/vmtoolsd\n[Install]\nWantedBy=multi-user.target\n",
        ),
        ("boot/vmlinuz-0-rescue-90561ec5", ""),
    ],
    programs: &["usr/bin/dnf", "usr/bin/rpm", "usr/bin/dracut", "usr/lib/systemd/systemd"],
    kernels: &[
        Kernel {
            version: "5.14.0-427.el9.x86_64",
            image: "boot/vmlinuz-5.14.0-427.el9.x86_64",
            initrds: &["boot/initramfs-5.14.0-427.el9.x86_64.img"],
            packed_by: "gzip",
            ending: ".ko.xz",
            builtin: &["virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci"],
            modules: &["block/virtio_blk", "scsi/virtio_scsi", "net/virtio_net", "ata/ahci"],
        },
        // Made for another hypervisor alone.
        Kernel {
            version: "5.14.0-70.el9.x86_64",
            image: "boot/vmlinuz-5.14.0-70.el9.x86_64",
            initrds: &["boot/initramfs-5.14.0-70.el9.x86_64.img"],
            packed_by: "gzip",
            ending: ".ko.xz",
            builtin: &[],
            modules: &["ata/ahci"],
        },
    ],
};

const SLES: System = System {
    name: "sles-15",
    udev: true,
    texts: &[
        (
            "etc/os-release",
            "NAME=\"SLES\"\nVERSION_ID=\"15.5\"\nID=\"sles\"\nID_LIKE=\"suse\"\nPRETTY_NAME=\"SUSE Linux Enterprise Server 15 SP5\"\n",
        ),
        ("etc/fstab", "/dev/sda2  /  ext4  defaults  0  1\n"),
        ("etc/HOSTNAME", "sap01\n"),
        (
            "etc/default/grub",
            "GRUB_DISTRIBUTOR=\nGRUB_DEFAULT=saved\nGRUB_TIMEOUT=8\nGRUB_CMDLINE_LINUX_DEFAULT=\"splash=silent quiet\"\nGRUB_CMDLINE_LINUX=\"\"\nGRUB_TERMINAL=\"gfxterm\"\n",
        ),
        (
            "etc/sysconfig/bootloader",
            "LOADER_TYPE=\"grub2\"\nSECURE_BOOT=\"no\"\nDEFAULT_APPEND=\"splash=silent quiet\"\n",
        ),
        (
            "boot/grub2/grub.cfg",
            "set default=\"0\"\nmenuentry 'SLES 15-SP5' --class sles {\n\tset root='hd0,gpt2'\n\tlinux\t/boot/vmlinuz-5.14.21-150500.55-default root=/dev/sda2 splash=silent quiet\n\tinitrd\t/boot/initrd-5.14.21-150500.55-default\n}\n",
        ),
        ("boot/vmlinux-5.14.21-150500.55-default.gz", ""),
        (
            "etc/sysconfig/network/ifcfg-eth0",
            "BOOTPROTO='static'\nIPADDR='192.0.2.20/24'\nSTARTMODE='auto'\n",
        ),
        ("etc/sysconfig/network/routes", "default 192.0.2.1 - -\n"),
        ("etc/sysconfig/network/config", "NETCONFIG_DNS_STATIC_SERVERS=\"192.0.2.53\"\n"),
        (
            "etc/udev/rules.d/70-persistent-net.rules",
            "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"00:50:56:9c:00:02\", ATTR{dev_id}==\"0x0\", ATTR{type}==\"1\", KERNEL==\"eth*\", NAME=\"eth0\"\n",
        ),
        (
            "usr/lib/systemd/system/vmtoolsd.service",
            "[Service]\nExecStart=/usr/bin/vmtoolsd\n[Install]\nWantedBy=multi-user.target\n",
        ),
        (
            "etc/udev/rules.d/99-vmware-scsi-udev.rules",
            "ACTION==\"add\", SUBSYSTEMS==\"scsi\", ATTRS{vendor}==\"VMware*\", RUN+=\"/bin/sh -c 'echo 180 >/sys$DEVPATH/device/timeout'\"\n",
        ),
    ],
    programs: &[
        "usr/bin/zypper",
        "usr/bin/rpm",
        "usr/bin/dracut",
        "usr/lib/systemd/systemd",
        "usr/sbin/wicked",
    ],
    kernels: &[Kernel {
        version: "5.14.21-150500.55-default",
        image: "boot/vmlinuz-5.14.21-150500.55-default",
        initrds: &["boot/initrd-5.14.21-150500.55-default"],
        packed_by: "xz",
        ending: ".ko.zst",
        builtin: &[],
        modules: MODULES,
    }],
};

const ARCH: System = System {
    name: "arch",
    udev: true,
    texts: &[
        ("etc/os-release", "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n"),
        (
            "etc/fstab",
            "# Static information about the filesystems.\n# See fstab(5) for details.\n\n# /dev/sda3\n/dev/sda3           \t/         \text4      \trw,relatime\t0 1\n",
        ),
        ("etc/hostname", "arch\n"),
        (
            "etc/mkinitcpio.conf",
            "# vim:set ft=sh\nMODULES=()\nBINARIES=()\nFILES=()\nHOOKS=(base udev autodetect microcode modconf kms keyboard keymap consolefont block filesystems fsck)\n",
        ),
        (
            "etc/mkinitcpio.d/linux.preset",
            "ALL_kver=\"/boot/vmlinuz-linux\"\nPRESETS=('default' 'fallback')\ndefault_image=\"/boot/initramfs-linux.img\"\nfallback_image=\"/boot/initramfs-linux-fallback.img\"\nfallback_options=\"-S autodetect\"\n",
        ),
        (
            "etc/default/grub",
            "GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\nGRUB_DISTRIBUTOR=\"Arch\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"loglevel=3 quiet\"\nGRUB_CMDLINE_LINUX=\"\"\n",
        ),
        (
            "boot/grub/grub.cfg",
            "set default=\"0\"\nmenuentry 'Arch Linux' {\n\tlinux\t/boot/vmlinuz-linux root=/dev/sda3 rw  loglevel=3 quiet\n\tinitrd\t/boot/initramfs-linux.img\n}\n",
        ),
        ("lib/modules/6.11.1-arch1-1/pkgbase", "linux\n"),
        ("lib/modules/6.11.1-arch1-1/vmlinuz", ""),
        ("etc/systemd/network/20-wired.network", "[Match]\nName=ens192\n\n[Network]\nDHCP=yes\n"),
        ("etc/modules-load.d/vmware.conf", "vmw_balloon\nvmw_pvscsi\n"),
    ],
    programs: &["usr/bin/pacman", "usr/bin/mkinitcpio", "usr/lib/systemd/systemd"],
    kernels: &[Kernel {
        version: "6.11.1-arch1-1",
        image: "boot/vmlinuz-linux",
        initrds: &["boot/initramfs-linux.img", "boot/initramfs-linux-fallback.img"],
        packed_by: "zstd",
        ending: ".ko.zst",
        builtin: &[],
        modules: MODULES,
    }],
};

const ALPINE: System = System {
    name: "alpine",
    udev: false,
    texts: &[
        (
            "etc/os-release",
            "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20.3\nPRETTY_NAME=\"Alpine Linux v3.20\"\n",
        ),
        (
            "etc/fstab",
            "/dev/sda4\t/\text4\trw,relatime 0 1\n/dev/cdrom\t/media/cdrom\tiso9660\tnoauto,ro 0 0\n",
        ),
        ("etc/hostname", "alpine\n"),
        (
            "boot/extlinux.conf",
            "# Generated by update-extlinux 6.04_pre1-r15\nDEFAULT menu.c32\nPROMPT 0\nTIMEOUT 10\nLABEL lts\n  MENU DEFAULT\n  MENU LABEL Linux lts\n  LINUX vmlinuz-lts\n  INITRD initramfs-lts\n  APPEND root=/dev/sda4 modules=sd-mod,usb-storage,ext4 quiet rootfstype=ext4\n",
        ),
        (
            "etc/update-extlinux.conf",
            "overwrite=1\ndefault_kernel_opts=\"quiet rootfstype=ext4\"\nmodules=sd-mod,usb-storage,ext4\nroot=/dev/sda4\nverbose=0\nhidden=1\ntimeout=1\ndefault=lts\nserial_port=\nserial_baud=115200\n",
        ),
        (
            "etc/mkinitfs/mkinitfs.conf",
            "features=\"ata base cdrom ext4 keymap kms mmc nvme raid scsi usb\"\n",
        ),
        ("etc/network/interfaces", "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n"),
        (
            "etc/inittab",
            "::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\n#ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n",
        ),
        ("usr/sbin/qemu-ga", ""),
        ("etc/init.d/open-vm-tools", "#!/sbin/openrc-run\ncommand=/usr/bin/vmtoolsd\n"),
    ],
    programs: &["sbin/apk", "sbin/openrc", "sbin/init", "sbin/mkinitfs", "bin/busybox"],
    kernels: &[Kernel {
        version: "6.6.58-0-lts",
        image: "boot/vmlinuz-lts",
        initrds: &["boot/initramfs-lts"],
        packed_by: "gzip",
        ending: ".ko.gz",
        builtin: &[],
        modules: MODULES,
    }],
};

const PHOTON: System = System {
    name: "photon-5",
    udev: true,
    texts: &[
        (
            "usr/lib/os-release",
            "NAME=\"VMware Photon OS\"\nVERSION=\"5.0\"\nID=photon\nVERSION_ID=5.0\nPRETTY_NAME=\"VMware Photon OS/Linux\"\n",
        ),
        (
            "etc/fstab",
            "UUID=00000000-0000-4000-8000-000000000005 / ext4 defaults 1 1\n/dev/cdrom /mnt/cdrom iso9660 ro,noauto 0 0\n",
        ),
        ("etc/hostname", "photon\n"),
        (
            "boot/grub2/grub.cfg",
            "set default=0\nset timeout=5\nset rootpartition=/dev/sda5\nload_env -f /boot/photon.cfg\nmenuentry \"Photon\" {\n    linux /boot/$photon_linux root=$rootpartition $photon_cmdline $systemd_cmdline\n    if [ -f /boot/$photon_initrd ]; then\n        initrd /boot/$photon_initrd\n    fi\n}\n",
        ),
        (
            "boot/photon.cfg",
            "# GRUB Environment Block\nphoton_cmdline=init=/lib/systemd/systemd ro loglevel=3 quiet\nphoton_linux=vmlinuz-6.1.10-11.ph5\nphoton_initrd=initrd.img-6.1.10-11.ph5\n",
        ),
        ("etc/systemd/network/99-dhcp-en.network", "[Match]\nName=e*\n\n[Network]\nDHCP=yes\n"),
        (
            "usr/lib/systemd/system/vmtoolsd.service",
            "[Service]\nExecStart=/usr/bin/vmtoolsd\n[Install]\nWantedBy=multi-user.target\n",
        ),
    ],
    programs: &["usr/bin/tdnf", "usr/bin/rpm", "usr/bin/dracut", "usr/lib/systemd/systemd"],
    kernels: &[Kernel {
        version: "6.1.10-11.ph5",
        image: "boot/vmlinuz-6.1.10-11.ph5",
        initrds: &["boot/initrd.img-6.1.10-11.ph5"],
        packed_by: "zstd",
        ending: ".ko.xz",
        builtin: &["virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci"],
        modules: &["block/virtio_blk", "scsi/virtio_scsi", "net/virtio_net", "ata/ahci"],
    }],
};

const AMAZON: System = System {
    name: "amazon-2",
    udev: true,
    texts: &[
        (
            "etc/os-release",
            "NAME=\"Amazon Linux\"\nVERSION=\"2\"\nID=\"amzn\"\nID_LIKE=\"centos rhel fedora\"\nVERSION_ID=\"2\"\nPRETTY_NAME=\"Amazon Linux 2\"\n",
        ),
        (
            "etc/fstab",
            "LABEL=amazon-2     /           ext4    defaults,noatime  1   1\n/dev/xvdb /media/ephemeral0 auto defaults,nofail 0 2\n",
        ),
        ("etc/hostname", "ip-192-0-2-30\n"),
        (
            "etc/default/grub",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"console=tty0 console=ttyS0,115200n8 net.ifnames=0 biosdevname=0 nvme_core.io_timeout=4294967295 rd.shell=0\"\nGRUB_TIMEOUT=0\nGRUB_DISABLE_RECOVERY=\"true\"\nGRUB_TERMINAL=\"ec2-console\"\n",
        ),
        (
            "boot/grub2/grub.cfg",
            "set default=\"0\"\nmenuentry 'Amazon Linux 2' {\n\tset root='hd0,gpt6'\n\tlinux\t/boot/vmlinuz-5.10.226-214.880.amzn2.x86_64 root=LABEL=amazon-2 ro console=tty0 console=ttyS0,115200n8 net.ifnames=0\n\tinitrd\t/boot/initramfs-5.10.226-214.880.amzn2.x86_64.img\n}\n",
        ),
        (
            "etc/sysconfig/network-scripts/ifcfg-eth0",
            "DEVICE=eth0\nBOOTPROTO=dhcp\nONBOOT=yes\nTYPE=Ethernet\nUSERCTL=yes\nPEERDNS=yes\nDHCPV6C=yes\n",
        ),
        ("etc/cloud/cloud.cfg", "users:\n - default\ndisable_root: true\ndatasource_list: [ Ec2, None ]\n"),
    ],
    programs: &[
        "usr/bin/yum",
        "usr/bin/rpm",
        "usr/sbin/dracut",
        "usr/bin/cloud-init",
        "usr/lib/systemd/systemd",
    ],
    kernels: &[Kernel {
        version: "5.10.226-214.880.amzn2.x86_64",
        image: "boot/vmlinuz-5.10.226-214.880.amzn2.x86_64",
        initrds: &["boot/initramfs-5.10.226-214.880.amzn2.x86_64.img"],
        packed_by: "gzip",
        ending: ".ko",
        builtin: &[],
        modules: MODULES,
    }],
};

pub const SYSTEMS: [System; 6] = [RHEL, SLES, ARCH, ALPINE, PHOTON, AMAZON];

/// One disk, a partition for each system and one more with nothing but data; the trees stay beside it, each under its system's name.
pub fn disk(dir: &Path) -> PathBuf {
    let image = dir.join("disk.raw");
    let count = SYSTEMS.len() as u64 + 1;
    std::fs::File::create(&image).unwrap().set_len((count * PARTITION_MIB + 2) * MIB).unwrap();
    let line = format!("size={PARTITION_MIB}MiB, type=linux\n");
    let table = format!("label: gpt\n{}", line.repeat(SYSTEMS.len() + 1));
    pipe(Command::new("/sbin/sfdisk").arg("--quiet").arg(&image), table.as_bytes());
    for system in &SYSTEMS {
        put_tree(system, &dir.join(system.name));
    }
    std::fs::create_dir_all(dir.join("data/etc")).unwrap();
    std::fs::write(dir.join("data/etc/readme"), "no system").unwrap();
    for (index, name) in SYSTEMS.iter().map(|system| system.name).chain(["data"]).enumerate() {
        let mut mke2fs = Command::new("/sbin/mke2fs");
        mke2fs.args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            name,
            "-U",
            &format!("00000000-0000-4000-8000-{:012}", index + 1),
        ]);
        mke2fs.args(["-E", &format!("offset={}", offset(index)), "-d"]).args([&dir.join(name), &image]);
        assert!(mke2fs.arg(format!("{PARTITION_MIB}M")).status().unwrap().success());
    }
    image
}

/// Where a partition begins, in bytes.
pub fn offset(index: usize) -> u64 {
    MIB + index as u64 * PARTITION_MIB * MIB
}

fn put_tree(system: &System, tree: &Path) {
    let put = |path: &str, content: &[u8]| {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    for (path, text) in system.texts {
        let mut content = text.as_bytes().to_owned();
        if path.ends_with("/grubenv") {
            // Always as large as this.
            content.resize(1024, b'#');
        }
        put(path, &content);
    }
    for path in system.programs {
        put(path, &program());
    }
    if system.udev {
        put(
            "usr/lib/udev/rules.d/80-net-setup-link.rules",
            b"SUBSYSTEM!=\"net\", GOTO=\"net_setup_link_end\"\n",
        );
        put("usr/lib/systemd/network/99-default.link", b"[Match]\nOriginalName=*\n\n[Link]\nNamePolicy=keep kernel database onboard slot path\nMACAddressPolicy=persistent\n");
    }
    for kernel in system.kernels {
        put(kernel.image, b"a kernel");
        let directory = format!("lib/modules/{}", kernel.version);
        let module = |name: &&str| format!("kernel/drivers/{name}{}", kernel.ending);
        let depends: String = kernel
            .modules
            .iter()
            .map(|name| {
                // What talks over virtio needs the two below it, where these are modules.
                let below = VIRTIO[..2].iter().filter(|_| name.contains("virtio_") && *name != VIRTIO[1]);
                let below =
                    below.filter(|name| kernel.modules.contains(name)).map(module).collect::<Vec<_>>();
                format!("{}: {}\n", module(name), below.join(" "))
            })
            .collect();
        put(&format!("{directory}/modules.dep"), depends.as_bytes());
        let builtin: String =
            kernel.builtin.iter().map(|name| format!("kernel/drivers/{name}.ko\n")).collect();
        put(&format!("{directory}/modules.builtin"), builtin.as_bytes());
        put(&format!("{directory}/modules.alias"), b"alias virtio:d00000002v* virtio_blk\n");
        for name in kernel.modules {
            let content = format!("\x7fELF the module {name} of {}", kernel.version);
            put(&format!("{directory}/{}", module(name)), &packed(kernel.ending, content.as_bytes()));
        }
        let old = format!("{directory}/{}", module(&"ata/ahci"));
        let archive = archive(&[(&old, &packed(kernel.ending, b"\x7fELF the module ahci"))]);
        for initrd in kernel.initrds {
            put(initrd, &pack(kernel.packed_by, &archive));
        }
    }
}

/// The head of a program for x86_64.
fn program() -> Vec<u8> {
    let mut head = vec![0; 64];
    head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    head[16] = 3;
    head[18] = 62;
    head
}

/// A module as the ending of its name says.
fn packed(ending: &str, content: &[u8]) -> Vec<u8> {
    match ending.rsplit_once('.').unwrap().1 {
        "xz" => pack("xz", content),
        "zst" => pack("zstd", content),
        "gz" => pack("gzip", content),
        _ => content.to_owned(),
    }
}

fn pack(program: &str, content: &[u8]) -> Vec<u8> {
    let words: &[&str] = match program {
        "xz" => &["-c", "--check=crc32"],
        "gzip" => &["-c", "-n"],
        _ => &["-c", "-q"],
    };
    pipe(Command::new(program).args(words), content)
}

/// Runs a program with something on its standard input; what it printed.
fn pipe(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

/// An archive of files, with the directories that they lie in.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        for (end, _) in path.match_indices('/') {
            entry(&mut archive, &path[..end], 0o040_755, b"");
        }
        entry(&mut archive, path, 0o100_644, content);
    }
    entry(&mut archive, "TRAILER!!!", 0, b"");
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    archive.extend(b"070701");
    // Of thirteen numbers: the mode, the links, the length of the content and that of the name.
    let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
    for number in [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        archive.extend(format!("{number:08X}").bytes());
    }
    for part in [format!("{name}\0").as_bytes(), content] {
        archive.extend(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}
