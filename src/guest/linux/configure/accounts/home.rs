//! Directories of accounts: made from the skeleton, and with the keys that let their owners in.
//!
//! The directory is its owner's, who may have put a link where a file is expected; through such a link a key would end in a file of
//! somebody else's. So below it no link is followed. What is not here: which accounts there are.

use super::change::Settled;
use crate::guest::linux::configure::unfit;
use crate::guest::linux::text::{self, short};
use crate::guest::tree::Tree;
use crate::model::error::Result;
use crate::model::setup::Account;

const FIELD: &str = "configuration.users";
const SKELETON: &str = "/etc/skel";
/// Only its owner reads a new directory, as distributions of today make it.
const HOME_MODE: u32 = 0o700;
/// A skeleton has a handful of small files; what is larger is not copied.
const MOST_FILES: usize = 200;
const MOST_DEPTH: usize = 8;
const MOST_FILE_BYTES: u64 = 1 << 20;

/// Makes an account's directory, where it is to have one.
pub(super) fn make(tree: &mut Tree, account: &Account, settled: &Settled) -> Result<()> {
    let wanted = account.create_home.unwrap_or(settled.is_new);
    if !wanted || settled.home.is_empty() || settled.home == "/" || tree.exists(&settled.home)? {
        return Ok(());
    }
    let detail = format!("the directory of {}", account.name);
    tree.make_directory(&settled.home, HOME_MODE, &detail)?;
    let mut left = MOST_FILES;
    copy(tree, SKELETON, settled, &settled.home, MOST_DEPTH, &mut left, &detail)?;
    tree.set_access(&settled.home, owner(settled), HOME_MODE, &detail)
}

fn copy(
    tree: &mut Tree,
    from: &str,
    settled: &Settled,
    to: &str,
    depth: usize,
    left: &mut usize,
    detail: &str,
) -> Result<()> {
    for name in tree.list(from)? {
        let (from, to) = (format!("{from}/{name}"), format!("{to}/{name}"));
        let Some(stat) = tree.stat(&from)? else { continue };
        if *left == 0 || depth == 0 {
            break;
        }
        *left -= 1;
        let mode = stat.permissions() & 0o777;
        if let Some(target) = tree.link_target(&from)? {
            tree.link(&target, &to, detail)?;
        } else if stat.is_directory() {
            tree.make_directory(&to, mode, detail)?;
            copy(tree, &from, settled, &to, depth - 1, left, detail)?;
            tree.set_access(&to, owner(settled), mode, detail)?;
        } else if stat.is_file() && stat.size <= MOST_FILE_BYTES {
            let content = tree.read(&from)?.unwrap_or_default();
            tree.write_with_mode(&to, &content, mode, detail)?;
            tree.set_access(&to, owner(settled), mode, detail)?;
        }
    }
    Ok(())
}

/// Adds an account's keys to those that let it in.
pub(super) fn add_keys(tree: &mut Tree, account: &Account, settled: &Settled) -> Result<()> {
    if account.ssh_keys.is_empty() {
        return Ok(());
    }
    if settled.home.is_empty() || !tree.is_directory(&settled.home)? {
        return Err(unfit(
            FIELD,
            format!("`{}` has no directory for its keys: {}", account.name, short(&settled.home)),
            "set `create_home: true`",
        ));
    }
    let (directory, file) = places(settled);
    for path in [&directory, &file] {
        if tree.link_target(path)?.is_some() {
            return Err(unfit(
                FIELD,
                format!("{} is a link in the guest, and no key is written through it", short(path)),
                "replace it by what it leads to in the source machine, or leave `ssh_keys` out",
            ));
        }
    }
    let detail = format!("keys let {} in", account.name);
    tree.make_directory(&directory, 0o700, &detail)?;
    tree.set_access(&directory, owner(settled), 0o700, &detail)?;
    let before = text::read(tree, &file)?.unwrap_or_default();
    let after = with_keys(&before, &account.ssh_keys);
    if after != before || !tree.exists(&file)? {
        if before.is_empty() {
            tree.write_with_mode(&file, after.as_bytes(), 0o600, &detail)?;
        } else {
            text::edit(tree, &mut Vec::new(), &file, |text| text::Rewritten {
                text: with_keys(text, &account.ssh_keys),
                changes: vec![detail.clone()],
                ..text::Rewritten::default()
            })?;
        }
    }
    tree.set_access(&file, owner(settled), 0o600, &detail)
}

/// Whether the keys are there and their owner's.
pub(super) fn has_keys(tree: &Tree, account: &Account, settled: &Settled) -> Result<bool> {
    if account.ssh_keys.is_empty() {
        return Ok(true);
    }
    let (directory, file) = places(settled);
    for (path, mode) in [(&directory, 0o700), (&file, 0o600)] {
        let fits = tree
            .stat(path)?
            .is_some_and(|stat| (stat.uid, stat.gid, stat.permissions()) == (settled.uid, settled.gid, mode));
        if !fits {
            return Ok(false);
        }
    }
    let text = text::read(tree, &file)?.unwrap_or_default();
    Ok(with_keys(&text, &account.ssh_keys) == text)
}

fn places(settled: &Settled) -> (String, String) {
    let directory = format!("{}/.ssh", settled.home.trim_end_matches('/'));
    let file = format!("{directory}/authorized_keys");
    (directory, file)
}

fn owner(settled: &Settled) -> (u32, u32) {
    (settled.uid, settled.gid)
}

/// The keys of a file, and those that it lacks.
fn with_keys(text: &str, keys: &[String]) -> String {
    let mut new = text.to_owned();
    for key in keys {
        let body = blob(key);
        let is_there = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
            .any(|line| line == key || (body.is_some() && blob(line) == body && !has_options(key)));
        if !is_there {
            if !new.is_empty() && !new.ends_with('\n') {
                new.push('\n');
            }
            new.push_str(key);
            new.push('\n');
        }
    }
    new
}

/// The key itself, without options and comment.
fn blob(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with("AAAA"))
}

fn has_options(key: &str) -> bool {
    !["ssh-", "ecdsa-", "sk-"].iter().any(|kind| key.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_there_once_whatever_its_comment() {
        let keys = ["ssh-ed25519 AAAAone a@b".to_owned(), "ssh-rsa AAAAtwo".to_owned()];
        let new = with_keys("# mine\nssh-ed25519 AAAAone other", &keys);
        assert_eq!(new, "# mine\nssh-ed25519 AAAAone other\nssh-rsa AAAAtwo\n");
        assert_eq!(with_keys(&new, &keys), new);
        assert_eq!(with_keys("", &keys), "ssh-ed25519 AAAAone a@b\nssh-rsa AAAAtwo\n");
    }

    #[test]
    fn a_key_with_other_options_is_another_entry() {
        let key = "command=\"/bin/true\" ssh-rsa AAAAtwo".to_owned();
        let new = with_keys("ssh-rsa AAAAtwo\n", std::slice::from_ref(&key));
        assert_eq!(new, format!("ssh-rsa AAAAtwo\n{key}\n"));
        assert_eq!(with_keys("#ssh-rsa AAAAtwo\n", &["ssh-rsa AAAAtwo".to_owned()]).lines().count(), 2);
    }
}
