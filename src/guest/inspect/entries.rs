//! What a boot loader's configuration says starts if nobody chooses: the path of a kernel, or of a unified image.
//!
//! Only as far as it can be told without running the configuration: GRUB's is a program. What is not here: changing it (see the fixes).

use super::words::{assigned, compare_versions, unquoted};

/// Configuration that has more entries than this is not a person's.
const MOST_ENTRIES: usize = 500;

/// An entry of a GRUB 2 menu.
#[derive(Debug, Default)]
struct Entry {
    /// Where it stands: of each level the number, the title and the identifier.
    place: Vec<(usize, String, Option<String>)>,
    kernel: Option<String>,
}

/// A file of the boot loader specification: its name without `.conf`, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snippet {
    pub(super) id: String,
    pub(super) text: String,
}

impl Snippet {
    fn value(&self, key: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (found, value) = line.trim().split_once(char::is_whitespace)?;
            (found == key).then(|| value.trim())
        })
    }

    fn kernel(&self) -> Option<&str> {
        self.value("linux").or_else(|| self.value("efi")).or_else(|| self.value("uki"))
    }
}

/// Of GRUB 2, with its environment block and the snippets that `blscfg` would read.
pub(super) fn of_grub(config: &str, environment: &str, snippets: &[Snippet]) -> Option<String> {
    let saved = assigned(environment, "saved_entry");
    let told = config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("set default="))
        .map(unquoted)
        .rfind(|value| !value.contains("next_entry"));
    let default = match told {
        Some(value) if value.contains("saved_entry") => saved.clone().unwrap_or_default(),
        Some(value) if !value.starts_with('$') => value,
        _ => saved.clone().unwrap_or_default(),
    };
    let entries = menu(config);
    if config.lines().any(|line| matches!(line.split_whitespace().next(), Some("blscfg")))
        && !snippets.is_empty()
    {
        return of_snippets(snippets, &default);
    }
    let found = entries.iter().find(|entry| is_at(entry, &default));
    // A default that is not there is the first one.
    found.or(entries.first())?.kernel.clone()
}

/// GRUB's own order: the newest first.
fn of_snippets(snippets: &[Snippet], default: &str) -> Option<String> {
    let mut sorted: Vec<&Snippet> =
        snippets.iter().filter(|snippet| !snippet.id.contains("rescue")).collect();
    sorted.sort_by(|a, b| compare_versions(&b.id, &a.id));
    let named =
        snippets.iter().find(|snippet| snippet.id == default || snippet.value("title") == Some(default));
    let numbered = default.parse::<usize>().ok().and_then(|index| sorted.get(index).copied());
    named.or(numbered).or(sorted.first().copied())?.kernel().map(str::to_owned)
}

fn menu(config: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    // Of each open level: its place if it is a menu's, and how many entries it has had.
    let mut open: Vec<Option<(usize, String, Option<String>)>> = Vec::new();
    let mut counts = vec![0_usize];
    for line in config.lines().map(str::trim) {
        let is_menu = line.starts_with("submenu ");
        if (is_menu || line.starts_with("menuentry ")) && line.ends_with('{') && entries.len() < MOST_ENTRIES
        {
            let number = counts.last().copied().unwrap_or(0);
            if let Some(count) = counts.last_mut() {
                *count += 1;
            }
            let rest = line.split_once(' ').map_or("", |(_, rest)| rest);
            let id = ["$menuentry_id_option ", "${menuentry_id_option} ", "--id "]
                .iter()
                .find_map(|mark| rest.split_once(mark).map(|(_, id)| unquoted(id)));
            open.push(Some((number, unquoted(rest), id)));
            counts.push(0);
            if !is_menu {
                let place = open.iter().flatten().cloned().collect();
                entries.push(Entry { place, kernel: None });
            }
        } else if line.ends_with('{') {
            open.push(None);
        } else if line == "}" {
            if open.pop().flatten().is_some() && counts.len() > 1 {
                counts.pop();
            }
        } else if let Some(kernel) =
            ["linux ", "linux16 ", "linuxefi ", "linux\t", "linux16\t", "linuxefi\t", "chainloader "]
                .iter()
                .find_map(|word| line.strip_prefix(word))
            && let Some(entry) = entries.last_mut().filter(|_| open.iter().any(Option::is_some))
        {
            entry.kernel.get_or_insert_with(|| unquoted(kernel));
        }
    }
    entries
}

/// `2`, `1>0`, `Advanced options>Debian, with Linux 6.1`, `gnulinux-simple-…`
fn is_at(entry: &Entry, default: &str) -> bool {
    let steps: Vec<&str> = default.split('>').collect();
    let fits = |step: &str, (number, title, id): &(usize, String, Option<String>)| {
        step.parse() == Ok(*number) || step == title || id.as_deref() == Some(step)
    };
    let whole = steps.len() == entry.place.len()
        && steps.iter().zip(&entry.place).all(|(step, place)| fits(step, place));
    // The identifier of an entry in a submenu may stand alone.
    whole || steps.len() == 1 && entry.place.last().is_some_and(|(_, _, id)| id.as_deref() == Some(default))
}

/// Of GRUB 0.97.
pub(super) fn of_grub_legacy(config: &str) -> Option<String> {
    let mut default = 0;
    let mut kernels: Vec<Option<String>> = Vec::new();
    for line in config.lines().map(str::trim) {
        let (word, rest) = line.split_once([' ', '\t', '=']).unwrap_or((line, ""));
        match word {
            "default" => default = rest.trim().parse().unwrap_or(0),
            "title" if kernels.len() < MOST_ENTRIES => kernels.push(None),
            "kernel" => {
                if let Some(kernel) = kernels.last_mut() {
                    *kernel = rest.split_whitespace().find(|word| !word.starts_with("--")).map(str::to_owned);
                }
            }
            _ => {}
        }
    }
    kernels.get(default).or(kernels.first()).cloned().flatten()
}

/// Of systemd-boot: snippets, and unified images by their names. Without a default that fits, the newest starts.
pub(super) fn of_systemd_boot(config: &str, snippets: &[Snippet], unified: &[String]) -> Option<String> {
    let wanted = config.lines().find_map(|line| {
        line.trim().strip_prefix("default")?.strip_prefix(char::is_whitespace).map(str::trim)
    });
    let mut all: Vec<(String, String)> = unified
        .iter()
        .map(|path| (path.rsplit('/').next().unwrap_or(path).to_owned(), path.clone()))
        .chain(
            snippets
                .iter()
                .filter_map(|snippet| Some((format!("{}.conf", snippet.id), snippet.kernel()?.to_owned()))),
        )
        .collect();
    all.sort_by(|(a, _), (b, _)| compare_versions(b, a));
    let fits = |id: &str, pattern: &str| {
        let bare = id.trim_end_matches(".conf").trim_end_matches(".efi");
        matches(pattern, id) || matches(pattern, bare)
    };
    let named = wanted.and_then(|pattern| all.iter().find(|(id, _)| fits(id, pattern)));
    named.or(all.first()).map(|(_, path)| path.clone())
}

/// Shell patterns, as far as they are used here: `*` and `?`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) && pattern[p] != '*' {
            p += 1;
            t += 1;
        } else if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Of extlinux and syslinux.
pub(super) fn of_extlinux(config: &str) -> Option<String> {
    let mut default = None;
    let mut labels: Vec<(String, Option<String>)> = Vec::new();
    for line in config.lines().map(str::trim) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let first = || rest.split_whitespace().next().map(str::to_owned);
        match word.to_ascii_lowercase().as_str() {
            "default" | "ontimeout" => default = first().or(default),
            "label" if labels.len() < MOST_ENTRIES => labels.push((rest.trim().to_owned(), None)),
            "linux" | "kernel" => {
                if let Some((_, kernel)) = labels.last_mut() {
                    *kernel = first();
                }
            }
            _ => {}
        }
    }
    let named = labels.iter().find(|(label, _)| Some(label) == default.as_ref());
    named.or(labels.first()).and_then(|(_, kernel)| kernel.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = r#"
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set boot_once=true
else
   set default="DEFAULT"
fi
function load_video {
  insmod all_video
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-befd' {
	load_video
	linux	/boot/vmlinuz-6.1.0-10-amd64 root=/dev/sda1 ro  quiet
	initrd	/boot/initrd.img-6.1.0-10-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-befd' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-10-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-10-amd64-advanced-befd' {
		if [ x$grub_platform = xxen ]; then insmod xzio; fi
		linux	/boot/vmlinuz-6.1.0-10-amd64 root=/dev/sda1 ro  quiet
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-9-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-9-amd64-advanced-befd' {
		linux	/boot/vmlinuz-6.1.0-9-amd64 root=/dev/sda1 ro  quiet
	}
}
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
	fwsetup
}
"#;

    #[test]
    fn grub_s_default_is_found_by_number_title_and_identifier() {
        let rows = [
            ("0", "10"),
            ("1>1", "9"),
            ("Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-9-amd64", "9"),
            ("gnulinux-advanced-befd>gnulinux-6.1.0-9-amd64-advanced-befd", "9"),
            ("gnulinux-6.1.0-9-amd64-advanced-befd", "9"),
            ("removed", "10"),
        ];
        for (default, version) in rows {
            let found = of_grub(&DEBIAN.replace("DEFAULT", default), "", &[]);
            assert_eq!(found.unwrap(), format!("/boot/vmlinuz-6.1.0-{version}-amd64"), "{default}");
        }
        let saved = of_grub(
            &DEBIAN.replace("DEFAULT", "${saved_entry}"),
            "# GRUB Environment Block\nsaved_entry=1>1\n####",
            &[],
        );
        assert_eq!(saved.unwrap(), "/boot/vmlinuz-6.1.0-9-amd64");
    }

    #[test]
    fn red_hat_s_default_is_the_saved_snippet_else_the_newest() {
        let snippet = |version: &str| Snippet {
            id: format!("90561ec5-{version}"),
            text: format!(
                "title Rocky Linux ({version})\nversion {version}\nlinux /vmlinuz-{version}\ninitrd /initramfs-{version}.img $tuned_initrd\n"
            ),
        };
        let snippets =
            [snippet("0-rescue"), snippet("5.14.0-70.el9.x86_64"), snippet("5.14.0-427.el9.x86_64")];
        let config = "set default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n";
        let of = |environment: &str| of_grub(config, environment, &snippets).unwrap();
        assert_eq!(of("saved_entry=90561ec5-5.14.0-70.el9.x86_64\n"), "/vmlinuz-5.14.0-70.el9.x86_64");
        assert_eq!(of(""), "/vmlinuz-5.14.0-427.el9.x86_64");
        assert_eq!(of("saved_entry=1\n"), "/vmlinuz-5.14.0-70.el9.x86_64");
    }

    #[test]
    fn grub_legacy_counts_its_titles() {
        let config = "#boot=/dev/sda\ndefault=1\ntimeout=5\ntitle CentOS (2.6.32-754)\n\troot (hd0,0)\n\tkernel /vmlinuz-2.6.32-754 ro\n\
            title CentOS (2.6.32-696)\n\tkernel --no-mem-option /vmlinuz-2.6.32-696 ro root=/dev/sda2\n";
        assert_eq!(of_grub_legacy(config).unwrap(), "/vmlinuz-2.6.32-696");
        assert_eq!(of_grub_legacy("default 9\ntitle a\nkernel /a\n").unwrap(), "/a");
    }

    #[test]
    fn systemd_boot_takes_what_fits_its_pattern_else_the_newest() {
        let snippets =
            [Snippet { id: "arch".to_owned(), text: "title Arch\nlinux /vmlinuz-linux\n".to_owned() }];
        let unified = [
            "/boot/efi/EFI/Linux/debian-6.12.6-amd64.efi".to_owned(),
            "/boot/efi/EFI/Linux/debian-6.1.9-amd64.efi".to_owned(),
        ];
        assert_eq!(
            of_systemd_boot("timeout 3\ndefault arch.conf\n", &snippets, &unified).unwrap(),
            "/vmlinuz-linux"
        );
        assert_eq!(of_systemd_boot("default debian-*\n", &snippets, &unified).unwrap(), unified[0]);
        assert_eq!(of_systemd_boot("default debian-6.1.*\n", &[], &unified).unwrap(), unified[1]);
        assert_eq!(of_systemd_boot("", &[], &unified).unwrap(), unified[0]);
        assert_eq!(of_systemd_boot("", &[], &[]), None);
    }

    #[test]
    fn extlinux_starts_the_label_that_it_names() {
        let config = "DEFAULT menu.c32\nPROMPT 0\nLABEL lts\n  LINUX vmlinuz-lts\n  INITRD initramfs-lts\nLABEL virt\n  KERNEL /boot/vmlinuz-virt\n";
        assert_eq!(of_extlinux(config).unwrap(), "vmlinuz-lts");
        assert_eq!(of_extlinux(&config.replace("menu.c32", "virt")).unwrap(), "/boot/vmlinuz-virt");
    }

    #[test]
    fn configuration_that_makes_no_sense_names_no_kernel() {
        for text in [
            "",
            "}\n}\n}",
            "menuentry {\nmenuentry 'a' {\n",
            "linux /x",
            "set default=\"$x\"\nsubmenu 'a' {",
            "title",
            "default",
        ] {
            assert_eq!(of_grub(text, "", &[]), None, "{text}");
            assert_eq!(of_grub_legacy(text), None, "{text}");
            assert_eq!(of_extlinux(text), None, "{text}");
        }
    }
}
