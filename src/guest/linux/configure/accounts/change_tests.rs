//! What becomes of a guest's accounts: the four files before and after.

use super::*;
use crate::model::setup::PasswordHash;

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
old:x:1000:1000:Old Hand:/home/old:/bin/sh
";
const SHADOW: &str =
    "root:$6$a$b:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nold:$6$c$d:19000:0:99999:7:::\n";
const GROUP: &str = "root:x:0:\nsudo:x:27:old\nold:x:1000:\ndocker:x:999:old,daemon\n";
const GSHADOW: &str = "root:*::\nsudo:*::old\nold:!::\ndocker:!:old:old,daemon\n";

fn files() -> Files {
    Files {
        passwd: Table::of(PASSWD, 7),
        shadow: Table::of(SHADOW, 9),
        group: Table::of(GROUP, 4),
        gshadow: Some(Table::of(GSHADOW, 4)),
    }
}

fn custom() -> Custom {
    Custom {
        uids: (1000, 60_000),
        gids: (1000, 60_000),
        own_group: true,
        shared_group: 100,
        home: "/home".to_owned(),
        shell: "/bin/bash".to_owned(),
        aging: ["0", "99999", "7"].map(str::to_owned),
        today: 20_000,
    }
}

fn account(name: &str) -> Account {
    Account { name: name.to_owned(), ..Account::default() }
}

fn wanted(accounts: Vec<Account>) -> Accounts {
    Accounts { wanted: accounts, ..Accounts::default() }
}

/// The files after it, which a second time leaves alone.
#[track_caller]
fn changed(wanted: &Accounts) -> (Files, Vec<Settled>) {
    let mut files = files();
    let settled = change(&mut files, wanted, &custom()).unwrap();
    let mut again = files.clone();
    let tomorrow = Custom { today: 20_001, ..custom() };
    change(&mut again, wanted, &tomorrow).unwrap();
    assert_eq!(again, files, "a second time changes nothing");
    (files, settled)
}

fn refused(wanted: &Accounts) -> String {
    change(&mut files(), wanted, &custom()).unwrap_err().to_string()
}

fn line(table: &Table, name: &str) -> String {
    table.find(name).unwrap_or_default().join(":")
}

#[test]
fn a_new_account_gets_the_first_free_number_a_group_and_no_password() {
    let mut web = account("web");
    web.groups = vec!["sudo".to_owned()];
    web.comment = Some("Web Team".to_owned());
    let (files, settled) = changed(&wanted(vec![web]));
    assert_eq!(files.passwd.text(), format!("{PASSWD}web:x:1001:1001:Web Team:/home/web:/bin/bash\n"));
    assert_eq!(files.shadow.text(), format!("{SHADOW}web:*:20000:0:99999:7:::\n"));
    assert_eq!(line(&files.group, "sudo"), "sudo:x:27:old,web");
    assert_eq!(line(&files.group, "web"), "web:x:1001:");
    let gshadow = files.gshadow.unwrap();
    assert_eq!(
        (line(&gshadow, "sudo").as_str(), line(&gshadow, "web").as_str()),
        ("sudo:*::old,web", "web:!::")
    );
    let home = "/home/web".to_owned();
    assert_eq!(settled, [Settled { uid: 1001, gid: 1001, home, is_new: true, has_password: false }]);
}

#[test]
fn where_accounts_share_a_group_a_new_one_does_too() {
    let mut files = files();
    let custom = Custom { own_group: false, ..custom() };
    change(&mut files, &wanted(vec![account("web")]), &custom).unwrap();
    assert_eq!(line(&files.passwd, "web"), "web:x:1001:100::/home/web:/bin/bash");
    assert_eq!(files.group.text(), GROUP);
}

#[test]
fn of_an_account_that_is_there_only_what_is_given_changes() {
    let mut old = account("old");
    old.shell = Some("/bin/zsh".to_owned());
    let (files, settled) = changed(&wanted(vec![old]));
    assert_eq!(files.passwd.text(), PASSWD.replace("old:/bin/sh", "old:/bin/zsh"));
    assert_eq!((files.shadow.text().as_str(), files.group.text().as_str()), (SHADOW, GROUP));
    assert!(settled[0].has_password && !settled[0].is_new);
}

#[test]
fn a_password_replaces_another_and_begins_to_age_anew() {
    let mut root = account("root");
    root.password_hash = Some(PasswordHash("$6$new$hash".to_owned()));
    let (files, _) = changed(&wanted(vec![root.clone()]));
    assert_eq!(line(&files.shadow, "root"), "root:$6$new$hash:20000:0:99999:7:::");
    root.lock = Some(true);
    let (files, settled) = changed(&wanted(vec![root]));
    assert_eq!(line(&files.shadow, "root"), "root:!$6$new$hash:20000:0:99999:7:::");
    assert!(!settled[0].has_password);
}

#[test]
fn a_lock_comes_and_goes_without_losing_the_password() {
    let mut old = account("old");
    old.lock = Some(true);
    let (mut files, _) = changed(&wanted(vec![old.clone()]));
    assert_eq!(line(&files.shadow, "old"), "old:!$6$c$d:19000:0:99999:7:::");
    old.lock = Some(false);
    change(&mut files, &wanted(vec![old]), &custom()).unwrap();
    assert_eq!(files.shadow.text(), SHADOW);
}

#[test]
fn unlocking_never_leaves_an_account_open_to_everybody() {
    let mut files = files();
    files.shadow = Table::of("old:!:19000:0:99999:7:::\n", 9);
    let mut old = account("old");
    old.lock = Some(false);
    change(&mut files, &wanted(vec![old]), &custom()).unwrap();
    assert_eq!(line(&files.shadow, "old"), "old:*:19000:0:99999:7:::");
}

#[test]
fn an_account_that_is_disabled_keeps_its_password_and_has_expired() {
    let (files, _) = changed(&Accounts { disabled: vec!["old".to_owned()], ..Accounts::default() });
    assert_eq!(line(&files.shadow, "old"), "old:!$6$c$d:19000:0:99999:7::1:");
    assert_eq!(files.passwd.text(), PASSWD);
}

#[test]
fn an_account_that_is_deleted_is_in_none_of_the_files() {
    let (files, _) = changed(&Accounts { deleted: vec!["old".to_owned()], ..Accounts::default() });
    assert!(!files.passwd.text().contains("old") && !files.shadow.text().contains("old"));
    assert_eq!(files.group.text(), "root:x:0:\nsudo:x:27:\ndocker:x:999:daemon\n");
    assert_eq!(files.gshadow.unwrap().text(), "root:*::\nsudo:*::\ndocker:!::daemon\n");
}

#[test]
fn what_does_not_fit_the_guest_is_told() {
    let mut taken = account("web");
    taken.uid = Some(1000);
    assert!(refused(&wanted(vec![taken])).contains("1000 is another account's"));
    let mut other = account("old");
    other.uid = Some(1500);
    assert!(refused(&wanted(vec![other])).contains("`old` is there with the uid 1000"));
    let mut member = account("web");
    member.groups = vec!["dokcer".to_owned()];
    assert!(refused(&wanted(vec![member.clone()])).contains("did you mean `docker`?"));
    member.groups = vec!["wheel".to_owned()];
    assert!(refused(&wanted(vec![member])).contains("`sudo: true`"));
    let nobody = Accounts { disabled: vec!["odl".to_owned()], ..Accounts::default() };
    assert!(refused(&nobody).contains("did you mean `old`?"));
}

#[test]
fn files_of_a_hostile_guest_end_in_an_error_or_a_change_and_nothing_else() {
    for text in
        ["", ":", "web", "web:x", "web:x:a:b:c:d:e\n", "web:x:1\nweb:x:2\n", "\u{0}:::::::::::::::\n+\n"]
    {
        let mut files = Files {
            passwd: Table::of(text, 7),
            shadow: Table::of(text, 9),
            group: Table::of(text, 4),
            gshadow: Some(Table::of(text, 4)),
        };
        let mut accounts = wanted(vec![account("web"), account("db")]);
        accounts.deleted = vec!["old".to_owned()];
        let _ = change(&mut files, &accounts, &custom());
    }
}
