//! The four files of a guest's accounts, changed together as its own tools would change them.
//!
//! Pure: from the files as they are to the files as they are to be, or to the first thing that does not fit this guest. Applied to its own
//! result it changes nothing. What is not here: reading and writing, directories, keys (see [`super::home`]).

use super::table::{Table, with_member, without_member};
use crate::guest::linux::configure::{unfit, unknown};
use crate::guest::linux::text::short;
use crate::model::error::{Error, Result};
use crate::model::setup::{Account, Accounts};

const FIELD: &str = "configuration.users";
/// In passwd: the password stands in shadow.
const SHADOWED: &str = "x";
/// No password is right, and nothing else is locked: keys go on to work.
const NO_PASSWORD: &str = "*";
/// Before a password: it is not taken.
const LOCKED: char = '!';
/// Days since 1970 on which an account that is switched off has expired.
const LONG_AGO: &str = "1";
/// Groups that let their members become root, under the names of several distributions.
const OF_ADMINISTRATORS: [&str; 3] = ["sudo", "wheel", "admin"];

/// What the files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) passwd: Table,
    pub(super) shadow: Table,
    pub(super) group: Table,
    /// Not every guest has it.
    pub(super) gshadow: Option<Table>,
}

/// What the guest's own tools would go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Custom {
    /// The first and the last number of an account.
    pub(super) uids: (u32, u32),
    /// The first and the last number of a group.
    pub(super) gids: (u32, u32),
    /// Whether every account has a group of its own.
    pub(super) own_group: bool,
    /// The group of those that have none.
    pub(super) shared_group: u32,
    /// Where directories lie.
    pub(super) home: String,
    /// The shell of who names none.
    pub(super) shell: String,
    /// How passwords age: fields 4 to 6 of shadow.
    pub(super) aging: [String; 3],
    /// Days since 1970.
    pub(super) today: u64,
}

/// An account as it is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
    pub(super) is_new: bool,
    /// Whether a password can be right.
    pub(super) has_password: bool,
}

/// Makes all the changes; answers what became of the wanted accounts, in their order.
pub(super) fn change(files: &mut Files, wanted: &Accounts, custom: &Custom) -> Result<Vec<Settled>> {
    let mut settled = Vec::with_capacity(wanted.wanted.len());
    for account in &wanted.wanted {
        settled.push(settle(files, account, custom)?);
    }
    for name in &wanted.disabled {
        disable(files, name)?;
    }
    for name in &wanted.deleted {
        delete(files, name);
    }
    Ok(settled)
}

fn settle(files: &mut Files, account: &Account, custom: &Custom) -> Result<Settled> {
    let known = files.passwd.find(&account.name);
    let is_new = known.is_none();
    let mut entry = match known {
        Some(entry) => entry,
        None => made(files, account, custom)?,
    };
    let uid = number(&entry, 2, "number")?;
    let gid = number(&entry, 3, "group")?;
    for (key, wanted, is) in [("uid", account.uid, uid), ("gid", account.gid, gid)] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != is) {
            return Err(unfit(
                FIELD,
                format!("`{}` is there with the {key} {is}, and {wanted} is wanted", account.name),
                "its files would be nobody's: leave the number out, or choose another name",
            ));
        }
    }
    for (field, value) in [(4, &account.comment), (5, &account.home), (6, &account.shell)] {
        if let Some(value) = value {
            entry[field].clone_from(value);
        }
    }
    let has_password = settle_password(files, account, &mut entry, custom);
    files.passwd.set(&entry);
    for group in &account.groups {
        join(files, group, &account.name)?;
    }
    Ok(Settled { uid, gid, home: entry[5].clone(), is_new, has_password })
}

/// A line for an account that there has not been, and a group for it.
fn made(files: &mut Files, account: &Account, custom: &Custom) -> Result<Vec<String>> {
    let taken = |table: &Table, number: u32| table.entries().any(|fields| fields[2] == number.to_string());
    let uid = match account.uid {
        Some(uid) if taken(&files.passwd, uid) => {
            return Err(unfit(
                FIELD,
                format!("the number {uid} is another account's"),
                "leave `uid` out, or choose another",
            ));
        }
        Some(uid) => uid,
        None => first_free(&files.passwd, custom.uids, "uid")?,
    };
    let named = files.group.find(&account.name);
    let gid = match (account.gid, named) {
        (Some(gid), _) if taken(&files.group, gid) => gid,
        (Some(_), Some(group)) => {
            return Err(unfit(
                FIELD,
                format!("the group `{}` is there with the number {}", account.name, short(&group[2])),
                "leave `gid` out",
            ));
        }
        (Some(gid), None) => make_group(files, &account.name, gid),
        (None, Some(group)) => number(&group, 2, "group")?,
        (None, None) if !custom.own_group => custom.shared_group,
        (None, None) if !taken(&files.group, uid) => make_group(files, &account.name, uid),
        (None, None) => {
            let gid = first_free(&files.group, custom.gids, "gid")?;
            make_group(files, &account.name, gid)
        }
    };
    let home = format!("{}/{}", custom.home, account.name);
    let fields = [&account.name, SHADOWED, &uid.to_string(), &gid.to_string(), "", &home, &custom.shell];
    Ok(fields.map(str::to_owned).to_vec())
}

fn make_group(files: &mut Files, name: &str, gid: u32) -> u32 {
    files.group.set(&[name.to_owned(), SHADOWED.to_owned(), gid.to_string(), String::new()]);
    if let Some(gshadow) = &mut files.gshadow {
        gshadow.set(&[name.to_owned(), LOCKED.to_string(), String::new(), String::new()]);
    }
    gid
}

/// Says whether a password can be right then.
fn settle_password(files: &mut Files, account: &Account, entry: &mut [String], custom: &Custom) -> bool {
    let mut shadow = files.shadow.find(&account.name).unwrap_or_else(|| {
        let [least, most, warn] = &custom.aging;
        // A password that stands in passwd itself is moved.
        let password = if entry[1] == SHADOWED { NO_PASSWORD } else { entry[1].as_str() };
        [&account.name, password, &custom.today.to_string(), least, most, warn, "", "", ""]
            .map(str::to_owned)
            .to_vec()
    });
    let bare = shadow[1].trim_start_matches(LOCKED).to_owned();
    let was_locked = shadow[1].starts_with(LOCKED);
    let password = account.password_hash.as_ref().map_or(bare.as_str(), |hash| &hash.0).to_owned();
    let is_changed = password != bare;
    let lock = account.lock.unwrap_or(was_locked && !is_changed);
    shadow[1] =
        if lock && !password.starts_with(NO_PASSWORD) { format!("{LOCKED}{password}") } else { password };
    if is_changed {
        shadow[2] = custom.today.to_string();
    }
    // An account without any password would let everybody in; one that was never given any is not unlocked to that.
    if shadow[1].is_empty() && account.lock == Some(false) {
        shadow[1] = NO_PASSWORD.to_owned();
    }
    files.shadow.set(&shadow);
    SHADOWED.clone_into(&mut entry[1]);
    !shadow[1].starts_with([LOCKED, '*'])
}

fn join(files: &mut Files, group: &str, name: &str) -> Result<()> {
    let Some(mut entry) = files.group.find(group) else {
        let known: Vec<String> = files.group.entries().map(|fields| fields[0].to_owned()).collect();
        let advice = if OF_ADMINISTRATORS.contains(&group) {
            "what administrators may do is said by `sudo: true`, whatever their group is called here"
        } else {
            "make it in the source machine, or leave it out"
        };
        return Err(unknown(FIELD, "group", group, known.iter().map(String::as_str), advice));
    };
    if let Some(members) = with_member(&entry[3], name) {
        entry[3] = members;
        files.group.set(&entry);
    }
    if let Some(gshadow) = &mut files.gshadow
        && let Some(mut entry) = gshadow.find(group)
        && let Some(members) = with_member(&entry[3], name)
    {
        entry[3] = members;
        gshadow.set(&entry);
    }
    Ok(())
}

/// Neither passwords nor keys let it in any more.
fn disable(files: &mut Files, name: &str) -> Result<()> {
    let Some(mut entry) = files.shadow.find(name) else {
        let known: Vec<String> = files.passwd.entries().map(|fields| fields[0].to_owned()).collect();
        let advice = "take it out of `disable_users`";
        return Err(unknown(FIELD, "account", name, known.iter().map(String::as_str), advice));
    };
    if !entry[1].starts_with(LOCKED) {
        entry[1].insert(0, LOCKED);
    }
    LONG_AGO.clone_into(&mut entry[7]);
    files.shadow.set(&entry);
    Ok(())
}

/// Takes an account out, and a group that was its alone.
fn delete(files: &mut Files, name: &str) {
    let gid = files.passwd.find(name).map(|entry| entry[3].clone());
    files.passwd.remove(name);
    files.shadow.remove(name);
    for table in [Some(&mut files.group), files.gshadow.as_mut()].into_iter().flatten() {
        let entries: Vec<Vec<String>> =
            table.entries().map(|fields| fields.into_iter().map(str::to_owned).collect()).collect();
        for mut entry in entries {
            let mut is_changed = false;
            // In gshadow the third field has administrators of the group; in group it is a number, which no name is.
            for field in [2, 3] {
                if let Some(left) = without_member(&entry[field], name) {
                    entry[field] = left;
                    is_changed = true;
                }
            }
            if is_changed {
                table.set(&entry);
            }
        }
    }
    let own = files.group.find(name).filter(|group| Some(&group[2]) == gid.as_ref() && group[3].is_empty());
    let is_used = files.passwd.entries().any(|fields| Some(fields[3]) == gid.as_deref());
    if own.is_some() && !is_used {
        files.group.remove(name);
        if let Some(gshadow) = &mut files.gshadow {
            gshadow.remove(name);
        }
    }
}

fn first_free(table: &Table, (first, last): (u32, u32), key: &str) -> Result<u32> {
    let taken: std::collections::BTreeSet<u32> =
        table.entries().filter_map(|fields| fields[2].parse().ok()).collect();
    let free = (first..=last).find(|number| !taken.contains(number));
    free.ok_or_else(|| {
        unfit(FIELD, format!("no number from {first} to {last} is free"), format!("give one: `{key}`"))
    })
}

fn number(entry: &[String], field: usize, what: &str) -> Result<u32> {
    let text = entry.get(field).map_or("", String::as_str);
    text.parse().map_err(|_| -> Error {
        let name = entry.first().map_or("", String::as_str);
        unfit(
            FIELD,
            format!("the {what} of `{}` is `{}` in the guest, which is no number", short(name), short(text)),
            "mend that line in the source machine",
        )
    })
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
