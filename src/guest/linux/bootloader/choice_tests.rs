//! Which kernel is made the default, and in whose words.

use super::*;

fn kernel(version: &str, virtio: bool) -> GuestKernel {
    GuestKernel {
        version: version.to_owned(),
        image: Some(format!("/boot/vmlinuz-{version}")),
        virtio,
        ..GuestKernel::default()
    }
}

fn file(path: &str, format: Format) -> File {
    File { path: path.to_owned(), format }
}

const DEBIAN: &str = "set default=\"0\"\nmenuentry 'Debian' $menuentry_id_option 'simple' {\n linux /boot/vmlinuz-6.2 root=x\n}\n\
                      submenu 'Advanced' $menuentry_id_option 'adv' {\n\
                      menuentry 'Debian 6.1 (recovery mode)' $menuentry_id_option '6.1-rec' {\n linux /boot/vmlinuz-6.1 root=x single\n}\n\
                      menuentry 'Debian 6.1' $menuentry_id_option '6.1-adv' {\n linux /boot/vmlinuz-6.1 root=x\n}\n}\n";

fn block(lines: &str) -> String {
    let text = format!("# GRUB Environment Block\n{lines}");
    format!("{text}{}", "#".repeat(1024 - text.len()))
}

fn menus<'f>(loader: BootLoader, files: Vec<(&'f File, String)>) -> Menus<'f> {
    Menus { loader, files, loader_conf: None, defaults: None }
}

#[test]
fn a_default_with_virtio_stays() {
    let kernels = [kernel("6.2", true), kernel("6.1", true)];
    assert_eq!(wanted(&kernels, Some(&kernels[1])).unwrap(), None);
}

#[test]
fn the_newest_kernel_with_virtio_is_taken_that_is_not_for_mending() {
    let kernels =
        [kernel("6.3-debug", true), kernel("6.2", false), kernel("6.1", true), kernel("0-rescue-0f", true)];
    assert_eq!(wanted(&kernels, Some(&kernels[1])).unwrap().unwrap().version, "6.1");
    let kernels = [kernel("6.2", false), kernel("0-rescue-0f", true)];
    assert_eq!(wanted(&kernels, Some(&kernels[0])).unwrap().unwrap().version, "0-rescue-0f");
}

#[test]
fn where_nothing_tells_the_default_the_newest_is_it() {
    let kernels = [kernel("6.2", true), kernel("6.1", true)];
    assert_eq!(wanted(&kernels, None).unwrap(), None);
    let kernels = [kernel("6.2", false), kernel("6.1", true)];
    assert_eq!(wanted(&kernels, None).unwrap().unwrap().version, "6.1");
}

#[test]
fn a_guest_whose_kernels_all_lack_virtio_is_refused_with_advice() {
    let kernels = [kernel("2.6.18", false)];
    let error = wanted(&kernels, None).unwrap_err();
    assert_eq!(error.kind(), Kind::Guest);
    assert!(error.to_string().contains("no kernel of this guest"), "{error}");
    assert_eq!(wanted(&[], None).unwrap(), None, "what is not known is not refused");
}

#[test]
fn debians_menu_and_its_defaults_are_both_changed() {
    let menu = file("/boot/grub/grub.cfg", Format::GrubCfg);
    let mut menus = menus(BootLoader::Grub2, vec![(&menu, DEBIAN.to_owned())]);
    menus.defaults = Some("GRUB_DEFAULT=0\n".to_owned());
    assert_eq!(menus.default().as_deref(), Some("vmlinuz-6.2"));
    let edits = menus.with_default(&kernel("6.1", true)).unwrap();
    let name = "adv>6.1-adv";
    let changed = DEBIAN.replace("default=\"0\"", &format!("default=\"{name}\""));
    assert_eq!(
        edits,
        [
            ("/boot/grub/grub.cfg".to_owned(), changed.clone()),
            (DEFAULT_GRUB.to_owned(), format!("GRUB_DEFAULT=\"{name}\"\n")),
        ]
    );
    menus.files[0].1 = changed;
    assert_eq!(menus.default().as_deref(), Some("vmlinuz-6.1"));
}

#[test]
fn what_grub_remembers_is_changed_where_it_decides() {
    let (menu, env) =
        (file("/boot/grub2/grub.cfg", Format::GrubCfg), file("/boot/grub2/grubenv", Format::Grubenv));
    let text = DEBIAN.replace("default=\"0\"", "default=\"${saved_entry}\"");
    let mut menus = menus(BootLoader::Grub2, vec![(&menu, text), (&env, block("saved_entry=0\n"))]);
    let edits = menus.with_default(&kernel("6.1", true)).unwrap();
    assert_eq!(edits, [("/boot/grub2/grubenv".to_owned(), block("saved_entry=adv>6.1-adv\n"))]);
    menus.files[1].1 = edits[0].1.clone();
    assert_eq!(menus.default().as_deref(), Some("vmlinuz-6.1"));
}

#[test]
fn entries_in_files_of_their_own_are_remembered_by_their_name() {
    let (menu, env) =
        (file("/boot/grub2/grub.cfg", Format::GrubCfg), file("/boot/grub2/grubenv", Format::Grubenv));
    let one = file("/boot/loader/entries/0f-6.2.conf", Format::Bls);
    let two = file("/boot/loader/entries/0f-6.1.conf", Format::Bls);
    let mut menus = menus(
        BootLoader::Grub2,
        vec![
            (&menu, "set default=\"${saved_entry}\"\nblscfg\n".to_owned()),
            (&env, block("saved_entry=0f-6.2\n")),
            (&one, "linux /vmlinuz-6.2\n".to_owned()),
            (&two, "linux /vmlinuz-6.1\n".to_owned()),
        ],
    );
    assert_eq!(menus.default().as_deref(), Some("vmlinuz-6.2"));
    let edits = menus.with_default(&kernel("6.1", true)).unwrap();
    assert_eq!(edits, [("/boot/grub2/grubenv".to_owned(), block("saved_entry=0f-6.1\n"))]);
    menus.files[1].1 = edits[0].1.clone();
    assert_eq!(menus.default().as_deref(), Some("vmlinuz-6.1"));
}

#[test]
fn systemd_boot_grub_legacy_and_extlinux_are_told_in_their_words() {
    let entry = file("/boot/loader/entries/a-6.1.conf", Format::Bls);
    let mut systemd = menus(BootLoader::SystemdBoot, vec![(&entry, "linux /a/6.1/vmlinuz-6.1\n".to_owned())]);
    systemd.loader_conf = Some(("/boot/loader/loader.conf".to_owned(), "timeout 3\n".to_owned()));
    let edits = systemd.with_default(&kernel("6.1", true)).unwrap();
    assert_eq!(
        edits,
        [("/boot/loader/loader.conf".to_owned(), "timeout 3\ndefault a-6.1.conf\n".to_owned())]
    );

    let list = file("/boot/grub/menu.lst", Format::Legacy);
    let text = "default 0\ntitle a\nkernel /vmlinuz-6.2\ntitle b\nkernel /vmlinuz-6.1\n";
    let legacy = menus(BootLoader::GrubLegacy, vec![(&list, text.to_owned())]);
    assert_eq!(legacy.default().as_deref(), Some("vmlinuz-6.2"));
    assert_eq!(
        legacy.with_default(&kernel("6.1", true)).unwrap()[0].1,
        text.replace("default 0", "default 1")
    );

    let conf = file("/boot/extlinux.conf", Format::Extlinux);
    let text = "DEFAULT a\nLABEL a\nLINUX vmlinuz-6.2\nLABEL b\nLINUX vmlinuz-6.1\n";
    let extlinux = menus(BootLoader::Extlinux, vec![(&conf, text.to_owned())]);
    assert_eq!(extlinux.default().as_deref(), Some("vmlinuz-6.2"));
    assert_eq!(
        extlinux.with_default(&kernel("6.1", true)).unwrap()[0].1,
        text.replace("DEFAULT a", "DEFAULT b")
    );
}

#[test]
fn a_kernel_that_is_in_no_menu_is_said_to_be() {
    let menu = file("/boot/grub/grub.cfg", Format::GrubCfg);
    let menus = menus(BootLoader::Grub2, vec![(&menu, DEBIAN.to_owned())]);
    let error = menus.with_default(&kernel("9.9", true)).unwrap_err();
    assert!(error.to_string().contains("is not in the boot menu"), "{error}");
}
