//! Lines in configuration that ask for the old hypervisor: modules loaded by name, and the screen's driver in X.
//!
//! Pure. What is not here: which files.

use super::known::{MODULES, SCREENS};
use crate::guest::linux::text::{Rewritten, split_end};

/// `/etc/modules`, `modules-load.d`: what only the old hypervisor answers is asked for no more.
pub(super) fn modules(text: &str) -> Rewritten {
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 16);
    for line in text.split_inclusive('\n') {
        let name = line.split_whitespace().next().unwrap_or_default().replace('-', "_");
        if MODULES.contains(&name.as_str()) {
            new.push('#');
            result.changed(format!("{name} is not loaded"));
        }
        new.push_str(line);
    }
    result.text = new;
    result
}

/// `xorg.conf`: the screen has the driver that runs every screen of the kernel's.
pub(super) fn screen(text: &str) -> Rewritten {
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 16);
    for line in text.split_inclusive('\n') {
        let (body, end) = split_end(line);
        let trimmed = body.trim_start();
        let driver = trimmed
            .get(..6)
            .filter(|word| word.eq_ignore_ascii_case("driver"))
            .and_then(|_| trimmed.split('"').nth(1))
            .filter(|driver| SCREENS.contains(driver));
        match driver {
            Some(driver) => {
                new.push_str(&body.replacen(&format!("\"{driver}\""), "\"modesetting\"", 1));
                new.push_str(end);
                result.changed(format!("the screen's driver was {driver}"));
            }
            None => new.push_str(line),
        }
    }
    result.text = new;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_the_old_hypervisor_are_not_loaded_and_all_others_are() {
        let text = "# /etc/modules\nloop\nvmw_balloon\nvmw-vmci x=1\nvmxnet3\nvmw_pvscsi\n";
        let new = modules(text).text;
        assert_eq!(new, "# /etc/modules\nloop\n#vmw_balloon\n#vmw-vmci x=1\nvmxnet3\nvmw_pvscsi\n");
        assert_eq!(modules(&new).text, new);
    }

    #[test]
    fn the_screen_has_a_driver_that_runs_it() {
        let text = "Section \"Device\"\n\tIdentifier  \"vmware\"\n\tDriver      \"vmware\" # SVGA\nEndSection\n\
            Section \"InputDevice\"\n\tDriver \"vmmouse\"\nEndSection\n";
        let new = screen(text).text;
        assert_eq!(new, text.replace("Driver      \"vmware\"", "Driver      \"modesetting\""));
        assert_eq!(screen(&new).text, new);
    }
}
