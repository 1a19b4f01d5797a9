//! accounts: who the manifest lets into the guest, and who not any more.
//!
//! The four files are changed together as a whole (see [`change`]), then directories are made, keys added, and rules of sudo written.
//! Numbers, shells and groups follow what the guest's own `useradd` would go by. What is not here: directories of accounts that are
//! removed, which stay, and accounts that a directory service knows.

mod change;
mod home;
mod sudo;
mod table;

use std::time::{SystemTime, UNIX_EPOCH};

use super::{first_of, unfit};
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::linux::text::{self, Rewritten, not_kept};
use crate::guest::tree::Tree;
use crate::model::error::Result;
use change::{Custom, Files};
use table::Table;

const PASSWD: &str = "/etc/passwd";
const SHADOW: &str = "/etc/shadow";
const GROUP: &str = "/etc/group";
const GSHADOW: &str = "/etc/gshadow";
const LOGIN_DEFS: [&str; 2] = ["/etc/login.defs", "/usr/etc/login.defs"];
const USERADD: &str = "/etc/default/useradd";
const SHELLS: [&str; 3] = ["/bin/bash", "/usr/bin/bash", "/bin/ash"];
const LAST_SHELL: &str = "/bin/sh";
const SECONDS_OF_A_DAY: u64 = 86_400;

/// The repair.
#[derive(Debug)]
pub(in crate::guest::linux) struct Accounts;

impl Fix for Accounts {
    fn name(&self) -> &'static str {
        "accounts"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        (!options.setup.accounts.is_empty()).then_some("those log in whom the manifest names")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let wanted = &guest.options.setup.accounts;
        let before = read(&guest.tree)?;
        let mut after = before.clone();
        let settled = change::change(&mut after, wanted, &custom(&guest.tree, &before)?)?;
        for (path, before, after) in tables(&before, &after) {
            if before != after {
                let detail = "accounts are as the manifest has them".to_owned();
                let new = Rewritten { text: after.text(), changes: vec![detail], ..Rewritten::default() };
                text::edit(&mut guest.tree, &mut guest.warnings, path, |_| new)?;
            }
        }
        for (account, settled) in wanted.wanted.iter().zip(&settled) {
            home::make(&mut guest.tree, account, settled)?;
            home::add_keys(&mut guest.tree, account, settled)?;
            sudo::write(&mut guest.tree, account)?;
            if sudo::asks_in_vain(account, settled.has_password) {
                guest.warnings.push(format!(
                    "sudo asks {} for a password, and it has none: give it one, or a rule with NOPASSWD",
                    account.name
                ));
            }
            if let Some(shell) = &account.shell
                && !guest.tree.exists(shell)?
            {
                guest.warnings.push(format!("the shell of {} is not in the guest: {shell}", account.name));
            }
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let wanted = &guest.options.setup.accounts;
        let is = read(&guest.tree)?;
        let mut again = is.clone();
        let settled = change::change(&mut again, wanted, &custom(&guest.tree, &is)?)?;
        if let Some((path, ..)) = tables(&is, &again).into_iter().find(|(_, is, again)| is != again) {
            return Err(not_kept(path, "accounts still have to be changed"));
        }
        for (account, settled) in wanted.wanted.iter().zip(&settled) {
            if !home::has_keys(&guest.tree, account, settled)? {
                return Err(not_kept(&settled.home, "the keys are not there, or not their owner's"));
            }
            if !sudo::is_there(&guest.tree, account)? {
                return Err(not_kept("/etc/sudoers.d", "the rules are not there as they were given"));
            }
        }
        Ok(())
    }
}

/// Each file, before and after; shadow last, so that no account has a password before it has a line.
fn tables<'f>(before: &'f Files, after: &'f Files) -> Vec<(&'static str, &'f Table, &'f Table)> {
    let mut tables = vec![(GROUP, &before.group, &after.group)];
    if let (Some(before), Some(after)) = (&before.gshadow, &after.gshadow) {
        tables.push((GSHADOW, before, after));
    }
    tables.push((PASSWD, &before.passwd, &after.passwd));
    tables.push((SHADOW, &before.shadow, &after.shadow));
    tables
}

fn read(tree: &Tree) -> Result<Files> {
    let table = |path: &str, fields: usize| -> Result<Table> {
        match text::read(tree, path)? {
            Some(text) => Ok(Table::of(&text, fields)),
            None => Err(unfit(
                "configuration.users",
                format!("the guest has no {path}, so its accounts are kept in another way"),
                "remove `users` from the manifest, and make the accounts where the guest keeps them",
            )),
        }
    };
    Ok(Files {
        passwd: table(PASSWD, 7)?,
        shadow: table(SHADOW, 9)?,
        group: table(GROUP, 4)?,
        gshadow: text::read(tree, GSHADOW)?.map(|text| Table::of(&text, 4)),
    })
}

/// What the guest's own tools would go by.
fn custom(tree: &Tree, files: &Files) -> Result<Custom> {
    let of = |path: Option<&str>| -> Result<String> {
        path.map_or(Ok(None), |path| text::read(tree, path)).map(Option::unwrap_or_default)
    };
    let login = of(first_of(tree, &LOGIN_DEFS)?)?;
    let useradd = of(Some(USERADD))?;
    let number =
        |key: &str, default: u32| setting(&login, key).and_then(|text| text.parse().ok()).unwrap_or(default);
    let aging = |key: &str, default: u32| number(key, default).to_string();
    let shell = match setting(&useradd, "SHELL") {
        Some(shell) if shell.starts_with('/') && !shell.contains(':') && tree.exists(&shell)? => shell,
        _ => first_of(tree, &SHELLS)?.unwrap_or(LAST_SHELL).to_owned(),
    };
    let plain = |path: &String| path.starts_with('/') && path.len() < 200 && !path.contains([':', '.']);
    let shared = setting(&useradd, "GROUP").unwrap_or_else(|| "users".to_owned());
    let by_name = files.group.find(&shared).and_then(|entry| entry[2].parse().ok());
    let days =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / SECONDS_OF_A_DAY);
    Ok(Custom {
        // Whatever the file says, nobody becomes root or a part of the system by it.
        uids: (number("UID_MIN", 1000).max(100), number("UID_MAX", 60_000)),
        gids: (number("GID_MIN", 1000).max(100), number("GID_MAX", 60_000)),
        own_group: setting(&login, "USERGROUPS_ENAB").is_none_or(|word| word == "yes"),
        shared_group: shared.parse().ok().or(by_name).unwrap_or(100),
        home: setting(&useradd, "HOME").filter(plain).unwrap_or_else(|| "/home".to_owned()),
        shell,
        aging: [aging("PASS_MIN_DAYS", 0), aging("PASS_MAX_DAYS", 99_999), aging("PASS_WARN_AGE", 7)],
        today: days,
    })
}

/// A value of `KEY value` or `KEY=value`; the last one counts.
fn setting(text: &str, key: &str) -> Option<String> {
    let value = |line: &str| {
        let rest = line.trim().strip_prefix(key)?;
        let value = rest.strip_prefix(['=', ' ', '\t'])?;
        Some(value.trim().trim_matches('"').to_owned())
    };
    text.lines().filter_map(value).rfind(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_both_forms() {
        let text = "# UID_MIN 5\nUID_MIN\t\t 1000\nUID_MIN_X 7\nSHELL=/bin/zsh\nGROUP=\n";
        assert_eq!(setting(text, "UID_MIN").as_deref(), Some("1000"));
        assert_eq!(setting(text, "SHELL").as_deref(), Some("/bin/zsh"));
        assert_eq!(setting(text, "GROUP"), None);
    }
}
