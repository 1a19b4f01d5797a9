//! `configuration.users`: accounts that are made, changed, locked or removed.
//!
//! A line of passwd or sudoers ends at its line break and a field at its colon, so nothing that holds either gets further than this.
//! What is not here: which numbers are free, and which groups a guest has.

use super::{refused, words};
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::{GuestUser, Manifest, Users};
use crate::model::parse::Tree;
use crate::model::setup::{Account, Accounts, PasswordHash};

const FIELD: &str = "configuration.users";
const ROOT: &str = "root";
/// Each password is hashed slowly on purpose, while the drop directory waits.
const MOST_ACCOUNTS: usize = 100;
/// crypt(3) takes no longer one.
const MOST_PASSWORD: usize = 511;
const MOST_HASH: usize = 255;
/// Methods of crypt(3) that guests of this century know.
const METHODS: [&str; 7] = ["6", "5", "y", "gy", "7", "2b", "2y"];
const MOST_RULE: usize = 1000;

/// A drop is kept, and may be read by more people than the service.
pub(super) fn check_no_clear_password(tree: &Tree, manifest: &Manifest) -> Result<()> {
    let users = manifest.configuration.as_ref().and_then(|configuration| configuration.users.as_ref());
    let users = users.and_then(|users| users.users.as_deref()).unwrap_or_default();
    match users.iter().position(|user| user.password.is_some()) {
        None => Ok(()),
        Some(index) => Err(tree
            .error(
                Kind::Manifest,
                &format!("{FIELD}.users[{index}].password"),
                "a password in clear text is only taken where `credentials.allow_inline` is true",
            )
            .advice("write `password_hash`, as `openssl passwd -6` makes it")),
    }
}

/// What is wanted of accounts.
pub(super) fn wanted(tree: &Tree, users: &Users) -> Result<Accounts> {
    let list = users.users.as_deref().unwrap_or_default();
    if list.len() > MOST_ACCOUNTS {
        return Err(refused(
            tree,
            &format!("{FIELD}.users"),
            format!("these are {} accounts", list.len()),
            "at most 100",
            "leave the rest to a directory service, or to a first-boot script",
        ));
    }
    let mut accounts = Accounts::default();
    for (index, user) in list.iter().enumerate() {
        accounts.wanted.push(account(tree, &format!("{FIELD}.users[{index}]"), user)?);
    }
    for (key, names, to) in [
        ("disable_users", &users.disable_users, &mut accounts.disabled),
        ("delete_users", &users.delete_users, &mut accounts.deleted),
    ] {
        for (index, name) in names.iter().flatten().enumerate() {
            let field = format!("{FIELD}.{key}[{index}]");
            let name = words::account(tree, &field, name.as_str())?;
            if name == ROOT {
                return Err(tree
                    .error(Kind::Manifest, &field, "a guest without root cannot be looked after")
                    .advice("take it out; to keep root from logging in, set `lock: true` for it"));
            }
            to.push(name);
        }
    }
    check_said_once(tree, &accounts)?;
    Ok(accounts)
}

fn check_said_once(tree: &Tree, accounts: &Accounts) -> Result<()> {
    let names = accounts.wanted.iter().map(|account| &account.name);
    let mut seen = std::collections::BTreeSet::new();
    for name in names.chain(&accounts.disabled).chain(&accounts.deleted) {
        if !seen.insert(name) {
            return Err(tree
                .error(Kind::Manifest, FIELD, format!("`{name}` is named twice"))
                .advice("say once what becomes of an account"));
        }
    }
    Ok(())
}

fn account(tree: &Tree, field: &str, user: &GuestUser) -> Result<Account> {
    let at = |key: &str| format!("{field}.{key}");
    let name = words::account(tree, &at("name"), user.name.as_str())?;
    let groups = user.groups.iter().flatten().enumerate();
    let groups: Vec<String> = groups
        .map(|(index, group)| words::account(tree, &format!("{field}.groups[{index}]"), group.as_str()))
        .collect::<Result<_>>()?;
    let path = |key: &str, value: &Option<crate::model::manifest::values::Line>| {
        value.as_ref().map(|value| words::path(tree, &at(key), value.as_str())).transpose()
    };
    let account = Account {
        uid: number(tree, &at("uid"), user.uid.map(|uid| uid.get()))?,
        gid: number(tree, &at("gid"), user.gid.map(|gid| gid.get()))?,
        groups,
        comment: user
            .comment
            .as_ref()
            .map(|comment| no_colon(tree, &at("comment"), comment.as_str()))
            .transpose()?,
        shell: path("shell", &user.shell)?,
        home: path("home", &user.home)?,
        create_home: user.create_home,
        password_hash: password(tree, field, user)?,
        lock: user.lock,
        ssh_keys: keys(user),
        sudo: rules(tree, &at("sudo"), user)?,
        name,
    };
    if account.name == ROOT {
        check_root(tree, field, user)?;
    } else if account.uid == Some(0) {
        return Err(tree
            .error(Kind::Manifest, &at("uid"), "a second account with the number 0 would be root")
            .advice("choose another number, and say with `sudo` what it may do"));
    }
    Ok(account)
}

/// Of root only what lets it log in is changed.
fn check_root(tree: &Tree, field: &str, user: &GuestUser) -> Result<()> {
    let given = [
        ("uid", user.uid.is_some()),
        ("gid", user.gid.is_some()),
        ("groups", user.groups.is_some()),
        ("home", user.home.is_some()),
        ("create_home", user.create_home.is_some()),
        ("sudo", user.sudo.is_some()),
    ];
    match given.into_iter().find(|(_, there)| *there) {
        None => Ok(()),
        Some((key, _)) => Err(refused(
            tree,
            &format!("{field}.{key}"),
            "this of root is not changed",
            "password, password_hash, lock, ssh_keys, comment, shell",
            "remove it",
        )),
    }
}

fn number(tree: &Tree, field: &str, number: Option<i64>) -> Result<Option<u32>> {
    // The appliance's calls take no larger one, and guests give none.
    let fits = |number: i64| u32::try_from(number).ok().filter(|number| *number <= i32::MAX as u32);
    let Some(given) = number else { return Ok(None) };
    match fits(given).filter(|number| *number != 65_535 && *number != 65_534) {
        Some(number) => Ok(Some(number)),
        None => Err(refused(
            tree,
            field,
            format!("{given} cannot be given to an account"),
            "0 to 2147483647, but not 65534 and 65535",
            "choose one from 1000 on, or leave it out: the first free one is taken",
        )),
    }
}

fn no_colon(tree: &Tree, field: &str, text: &str) -> Result<String> {
    if text.contains(':') {
        return Err(tree
            .error(Kind::Manifest, field, "a colon would end this field of passwd")
            .advice("write it without a colon"));
    }
    Ok(text.to_owned())
}

fn password(tree: &Tree, field: &str, user: &GuestUser) -> Result<Option<PasswordHash>> {
    if let Some(password) = &user.password {
        let text = password.reveal();
        if user.password_hash.is_some() {
            return Err(tree
                .error(Kind::Manifest, &format!("{field}.password_hash"), "`password` is given too")
                .advice("keep one of them"));
        }
        if text.is_empty() || text.len() > MOST_PASSWORD || text.contains(['\n', '\r', '\0']) {
            return Err(refused(
                tree,
                &format!("{field}.password"),
                "this cannot be typed as a password",
                "1 to 511 bytes on one line",
                "to allow no password, set `lock: true`",
            ));
        }
    }
    let Some(hash) = &user.password_hash else { return Ok(None) };
    let text = hash.reveal();
    let digit = |c: char| c.is_ascii_alphanumeric() || "./$=,_-".contains(c);
    let mut parts = text.split('$').skip(1);
    let method = parts.next().is_some_and(|method| METHODS.contains(&method));
    let full = parts.last().is_some_and(|digest| digest.len() >= 22);
    if text.starts_with('$') && method && full && text.len() <= MOST_HASH && text.chars().all(digit) {
        return Ok(Some(PasswordHash(text.to_owned())));
    }
    Err(refused(
        tree,
        &format!("{field}.password_hash"),
        "this is not what crypt(3) makes of a password",
        "$6$…, $5$…, $y$…, $gy$…, $7$…, $2b$…, $2y$…",
        "make it with `openssl passwd -6` or `mkpasswd`, and quote it",
    ))
}

fn keys(user: &GuestUser) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for key in user.ssh_keys.iter().chain(&user.ssh_authorized_keys).flatten() {
        if !keys.iter().any(|known| known == key.as_str()) {
            keys.push(key.as_str().to_owned());
        }
    }
    keys
}

/// Rules of sudoers, without the name that they are for.
fn rules(tree: &Tree, field: &str, user: &GuestUser) -> Result<Vec<String>> {
    use serde_json::Value as Json;
    let bad = |what: &str| -> Error {
        refused(
            tree,
            field,
            format!("{what} is not a rule of sudoers"),
            "true, or rules as `ALL=(ALL:ALL) NOPASSWD: /usr/bin/systemctl`",
            "leave the account's name out, and write each rule on one line",
        )
    };
    let texts: Vec<&str> = match user.sudo.as_ref().map(|sudo| &sudo.0) {
        None | Some(Json::Null | Json::Bool(false)) => Vec::new(),
        Some(Json::Bool(true)) => vec!["ALL=(ALL:ALL) ALL"],
        Some(Json::String(text)) => vec![text.as_str()],
        Some(Json::Array(items)) => items
            .iter()
            .map(|item| item.as_str().ok_or_else(|| bad("one of these")))
            .collect::<Result<_>>()?,
        Some(_) => return Err(bad("this")),
    };
    texts
        .into_iter()
        .map(|text| {
            let rule = text.trim();
            let hosts = rule.split_once('=').map_or("", |(hosts, _)| hosts.trim_end());
            let host = |c: char| c.is_ascii_alphanumeric() || "_.,!-".contains(c);
            let tame = !rule.chars().any(char::is_control) && !rule.ends_with('\\') && !rule.contains('#');
            let good = !hosts.is_empty() && hosts.chars().all(host) && tame && rule.len() <= MOST_RULE;
            if good { Ok(rule.to_owned()) } else { Err(bad(&format!("`{}`", rule.escape_debug()))) }
        })
        .collect()
}
