//! The judge, on lines that real guests and firmwares wrote on their consoles.

use super::*;

/// How a guest ends that says these lines, and then stands at the last of them.
fn end(console: &str) -> Option<Sign> {
    let mut judge = Judge::new(None);
    let lines: Vec<&str> = console.lines().collect();
    let (last, before) = lines.split_last().unwrap();
    let firm = |sign: &Sign| !matches!(sign, Sign::Stuck { .. });
    before.iter().find_map(|line| judge.line(line).filter(firm)).or_else(|| judge.prompt(last))
}

fn failure(console: &str) -> &'static str {
    match end(console) {
        Some(Sign::Failed { what, .. }) => what,
        other => panic!("{other:?}: {console}"),
    }
}

#[test]
fn a_login_prompt_is_recognised_however_the_guest_is_called_and_whoever_talks_over_it() {
    for prompt in [
        "Debian GNU/Linux 12 sample ttyS0\n\nsample login:",
        "Welcome to Alpine Linux 3.20\nKernel 6.6.31-0-virt on an x86_64 (/dev/ttyS0)\nlocalhost login:",
        "web-1.example.com login: ",
        "login:",
        "photon-4711 login: [   41.2] random: crng init done\nx",
    ] {
        assert!(matches!(end(prompt), Some(Sign::Booted(_))), "{prompt}");
    }
    let talked_over = end("photon-4711 login: [   41.2] random: crng init done\nx");
    assert_eq!(talked_over, Some(Sign::Booted("login prompt: photon-4711 login:".to_owned())));
    for other in [
        "Last login: Tue Nov  4 10:11:12 UTC 2025 on ttyS0",
        "[  OK  ] Reached target getty.target - Login Prompts.",
        "         Starting systemd-logind.service - User Login Management...",
        "Failed password at login: nobody knows why",
    ] {
        assert_eq!(end(other), None, "{other}");
    }
}

#[test]
fn firmware_that_finds_nothing_is_told_apart() {
    assert_eq!(
        failure("Booting from Hard Disk...\nBoot failed: not a bootable disk\n\nNo bootable device.\n."),
        NO_DISK
    );
    assert_eq!(failure("Missing operating system"), NO_DISK);
    assert_eq!(
        failure(
            "BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x3,0x0)/Pci(0x0,0x0): Not Found\n\
             BdsDxe: loading Boot0002 \"EFI Internal Shell\" from Fv(7CB8BDC9)/FvFile(7C04A583)"
        ),
        UEFI_SHELL
    );
    assert_eq!(failure("UEFI v2.70 (EDK II, 0x00010000)\nShell> "), UEFI_SHELL);
    assert_eq!(failure(">>Start PXE over IPv4.\n  Station IP address is"), PXE);
    assert_eq!(failure("BdsDxe: No bootable option or device was found.\nBdsDxe: Press any key"), NO_DISK);
    assert_eq!(failure("Verification failed: (0x1A) Security Violation"), REFUSED);
}

#[test]
fn boot_loaders_that_stop_are_told_apart() {
    assert_eq!(
        failure(
            "error: no such device: 5b1f3d4c-0a6e-4c39-9d53-68d2a6b1c001.\nEntering rescue mode...\ngrub rescue> "
        ),
        GRUB_RESCUE
    );
    assert_eq!(
        failure("   Minimal BASH-like line editing is supported. For the first word,\ngrub> "),
        GRUB_PROMPT
    );
    assert_eq!(
        failure(
            "error: file `/boot/vmlinuz-6.1' not found.\nerror: you need to load the kernel first.\n\nPress any key to continue..."
        ),
        GRUB_FILES
    );
}

#[test]
fn kernels_that_panic_are_told_apart() {
    assert_eq!(
        failure(
            "[    2.1] /dev/root: Can't open blockdev\n[    2.2] VFS: Cannot open root device \"UUID=1\" or unknown-block(0,0): error -6\n\
             [    2.3] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
        ),
        NO_ROOT
    );
    assert_eq!(
        failure(
            "[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n[    3.1] CPU: 0 PID: 1 Comm: init"
        ),
        PANIC
    );
    assert_eq!(
        failure(
            "[    3.1] Kernel panic - not syncing: No working init found.  Try passing init= option to kernel."
        ),
        NO_INIT
    );
}

#[test]
fn why_a_kernel_panics_is_waited_for_until_its_line_has_ended() {
    let mut judge = Judge::new(None);
    let begun = "[    2.3] Kernel panic - not syncing: ";
    assert_eq!(judge.prompt(begun), None);
    let told = judge.line(&format!("{begun}VFS: Unable to mount root fs on unknown-block(0,0)"));
    assert!(matches!(told, Some(Sign::Failed { what: NO_ROOT, .. })), "{told:?}");
}

#[test]
fn an_initramfs_that_gives_up_is_told_apart_by_who_made_it() {
    assert_eq!(
        failure(
            "Begin: Waiting for root file system ... Begin: Running /scripts/local-block ... done.\ndone.\n\
             Gave up waiting for root file system device.  Common problems:\n - Boot args (cat /proc/cmdline)\n\
             ALERT!  UUID=5b1f3d4c-0a6e-4c39-9d53-68d2a6b1c002 does not exist.  Dropping to a shell!\n(initramfs) "
        ),
        ROOT_MISSING
    );
    assert_eq!(
        failure("BusyBox v1.35.0 (Debian 1:1.35.0-4+b5) built-in shell (ash)\n\n(initramfs)"),
        INITRAMFS
    );
    assert_eq!(
        failure(
            "[  200.1] dracut-initqueue[402]: Warning: dracut-initqueue: starting timeout scripts\n\
             [  205.9] dracut-initqueue[402]: Warning: Could not boot.\ndracut:/# "
        ),
        DRACUT
    );
    assert_eq!(
        failure(
            "Generating \"/run/initramfs/rdsosreport.txt\"\n\nEntering emergency mode. Exit the shell to continue."
        ),
        DRACUT
    );
    assert_eq!(
        failure(
            ":: mounting 'UUID=1' on real root\nYou are now being dropped into an emergency shell.\n\
             sh: can't access tty; job control turned off\n[rootfs ~]# "
        ),
        INITRAMFS
    );
    assert_eq!(
        failure(
            " * Mounting boot media: failed.\ninitramfs emergency recovery shell launched. Type 'exit' to continue boot"
        ),
        INITRAMFS
    );
}

#[test]
fn systemd_that_gives_up_on_a_mount_is_recognised() {
    assert_eq!(
        failure(
            "[ TIME ] Timed out waiting for device dev-sdb1.device - /dev/sdb1.\n[DEPEND] Dependency failed for data.mount - /data.\n\
             You are in emergency mode. After logging in, type \"journalctl -xb\" to view"
        ),
        EMERGENCY
    );
    assert_eq!(
        failure(
            "Cannot open access to console, the root account is locked.\nSee sulogin(8) man page for more details."
        ),
        EMERGENCY
    );
}

#[test]
fn trouble_that_may_pass_is_not_yet_a_failure() {
    let mut judge = Judge::new(None);
    for line in [
        "[***   ] A start job is running for /dev/disk/by-uuid/0123 (1min 2s / no limit)",
        "[  132.1] dracut-initqueue[402]: Warning: dracut-initqueue: timeout, still waiting for following initqueue hooks:",
        "Begin: Waiting for root file system ... Begin: Running /scripts/local-block ... done.",
        "error: no such device: 5b1f3d4c.",
        "BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0): Access Denied",
    ] {
        assert!(matches!(judge.line(line), Some(Sign::Stuck { .. })), "{line}");
    }
}

#[test]
fn a_passphrase_is_asked_for_only_at_a_prompt() {
    for prompt in [
        "Please unlock disk sda3_crypt: ",
        "Begin: Mounting root file system ... Begin: Running /scripts/local-top ... Please unlock disk sda5_crypt: ",
        "Please enter passphrase for disk QEMU_HARDDISK (luks-5b1f)!: ***",
        "Enter passphrase for hd0,msdos1 (5b1f3d4c0a6e4c399d5368d2a6b1c001): ",
    ] {
        let mut judge = Judge::new(None);
        assert!(matches!(judge.prompt(prompt), Some(Sign::Passphrase(_))), "{prompt}");
        assert_eq!(judge.line(prompt), None, "the echo of a question is none");
    }
}

#[test]
fn an_expected_text_replaces_the_login_prompt() {
    let mut judge = Judge::new(Some(Regex::new(r"app [0-9]+ is ready").unwrap()));
    assert_eq!(judge.prompt("web login: "), None);
    assert!(judge.saw_login());
    assert!(matches!(judge.line("[   9.1] app 12 is ready"), Some(Sign::Booted(_))));
    assert!(matches!(judge.line("Kernel panic - not syncing: x"), Some(Sign::Failed { .. })));
}

#[test]
fn what_a_healthy_guest_says_on_its_way_up_means_nothing() {
    for line in [
        "[    0.000000] Command line: BOOT_IMAGE=/boot/vmlinuz root=UUID=1 ro console=ttyS0 panic=10",
        "[    1.7] Run /init as init process",
        "Loading, please wait...",
        "[  OK  ] Stopped initrd-switch-root.service - Switch Root.",
        "[    2.0] Asymmetric key parser 'x509' registered",
        "[  OK  ] Listening on systemd-initctl.socket - initctl Compatibility Named Pipe.",
        "         Starting emergency-log.service - not what it sounds like",
        "GRUB loading...",
    ] {
        assert_eq!(Judge::new(None).line(line), None, "{line}");
    }
}
