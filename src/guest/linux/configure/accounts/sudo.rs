//! What accounts may do as root: a file of their own in `/etc/sudoers.d`.
//!
//! sudo reads no file there whose name has a dot, and none that others may write to; a rule that it cannot read switches sudo off for
//! everybody, so only rules come here whose form was checked. What is not here: that check (the planner's).

use crate::guest::linux::configure::{first_of, unfit};
use crate::guest::linux::text;
use crate::guest::tree::Tree;
use crate::model::error::Result;
use crate::model::setup::Account;

const FIELD: &str = "configuration.users";
const DIRECTORY: &str = "/etc/sudoers.d";
/// The second is where SUSE ships it.
const SUDOERS: [&str; 2] = ["/etc/sudoers", "/usr/etc/sudoers"];
const MODE: u32 = 0o440;

/// Writes an account's rules.
pub(super) fn write(tree: &mut Tree, account: &Account) -> Result<()> {
    if account.sudo.is_empty() {
        return Ok(());
    }
    let Some(sudoers) = first_of(tree, &SUDOERS)? else {
        return Err(unfit(
            FIELD,
            format!("the guest has no sudo, which `{}` is to use", account.name),
            "install it in the source machine, or leave `sudo` out",
        ));
    };
    if !text::read(tree, sudoers)?.is_some_and(|text| includes(&text)) {
        return Err(unfit(
            FIELD,
            format!("{sudoers} of the guest does not include {DIRECTORY}"),
            "add `@includedir /etc/sudoers.d` to it in the source machine, or leave `sudo` out",
        ));
    }
    let detail = format!("{} may use sudo", account.name);
    let path = path(account);
    tree.make_directory(DIRECTORY, 0o750, &detail)?;
    tree.write_with_mode(&path, content(account).as_bytes(), MODE, &detail)?;
    tree.set_access(&path, (0, 0), MODE, &detail)
}

/// Whether the rules are there.
pub(super) fn is_there(tree: &Tree, account: &Account) -> Result<bool> {
    let path = path(account);
    Ok(account.sudo.is_empty()
        || (tree.read(&path)?.as_deref() == Some(content(account).as_bytes())
            && tree.stat(&path)?.is_some_and(|stat| stat.mode & 0o777 == MODE)))
}

/// Whether a rule asks for a password that the account does not have.
pub(super) fn asks_in_vain(account: &Account, has_password: bool) -> bool {
    !has_password && !account.sudo.is_empty() && account.sudo.iter().all(|rule| !rule.contains("NOPASSWD"))
}

fn includes(sudoers: &str) -> bool {
    // The older form begins like a comment.
    sudoers.lines().map(str::trim).any(|line| {
        let words = line.strip_prefix("#includedir").or_else(|| line.strip_prefix("@includedir"));
        words.is_some_and(|directory| directory.trim() == DIRECTORY)
    })
}

fn path(account: &Account) -> String {
    format!("{DIRECTORY}/hyper2kvm-{}", account.name.replace('.', "_"))
}

fn content(account: &Account) -> String {
    let rules = account.sudo.iter().map(|rule| format!("{} {rule}\n", account.name));
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_in_a_file_that_sudo_reads() {
        let account = Account {
            name: "j.doe".to_owned(),
            sudo: vec!["ALL=(ALL:ALL) ALL".to_owned(), "web=(root) NOPASSWD: /usr/bin/id".to_owned()],
            ..Account::default()
        };
        assert_eq!(path(&account), "/etc/sudoers.d/hyper2kvm-j_doe");
        assert_eq!(content(&account), "j.doe ALL=(ALL:ALL) ALL\nj.doe web=(root) NOPASSWD: /usr/bin/id\n");
        assert!(!asks_in_vain(&account, false) && !asks_in_vain(&account, true));
    }

    #[test]
    fn both_forms_of_an_include_count() {
        assert!(
            includes("Defaults x\n#includedir /etc/sudoers.d\n") && includes("@includedir  /etc/sudoers.d\n")
        );
        assert!(!includes("# includedir /etc/sudoers.d\n@includedir /etc/other\n"));
    }
}
