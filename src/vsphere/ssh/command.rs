//! How `ssh` is called, how what it is to do is written for the shell on the other side, and what its complaints mean.
//!
//! What is not here: speaking with it.

use std::time::Duration;

use super::account::Account;
use crate::model::error::{Error, Kind, Result};
use crate::model::remote::LOGIN_RULE;
use crate::sys::process::{ChildSpec, find_program};

/// A host that is silent is asked so often whether it is there.
const ALIVE_ASKED: u64 = 3;
/// What the shell on the other side is: any that POSIX knows.
const SHELL: &str = "exec sh";
/// So much of a complaint is told.
const MOST_WORDS: usize = 300;

/// The child that logs in and begins a shell.
pub(super) fn child(account: &Account, timeout: Duration) -> Result<ChildSpec> {
    let program = find_program("ssh").ok_or_else(|| {
        Error::new(Kind::Unsupported, "there is no `ssh` on this machine").advice(
            "install it: `apt-get install openssh-client` (Debian), `dnf install openssh-clients` (RHEL)",
        )
    })?;
    let seconds = timeout.as_secs().max(1);
    let options = [
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile={}", account.known_hosts.display()),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        "CheckHostIP=no".to_owned(),
        "CanonicalizeHostname=no".to_owned(),
        format!("IdentityFile={}", account.identity.display()),
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        "PreferredAuthentications=publickey".to_owned(),
        "ControlMaster=no".to_owned(),
        "ControlPath=none".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ForwardX11=no".to_owned(),
        "PermitLocalCommand=no".to_owned(),
        "EscapeChar=none".to_owned(),
        "Compression=no".to_owned(),
        "LogLevel=ERROR".to_owned(),
        format!("ConnectTimeout={seconds}"),
        format!("ServerAliveInterval={}", (seconds / ALIVE_ASKED).max(1)),
        format!("ServerAliveCountMax={ALIVE_ASKED}"),
    ];
    // No file says anything else, and what is behind `--` is no option.
    let mut args: Vec<String> = ["-F", "none", "-T"].map(str::to_owned).to_vec();
    args.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
    args.extend(["-p".to_owned(), account.port.to_string(), "-l".to_owned(), account.username.clone()]);
    args.extend(["--".to_owned(), account.host.clone(), SHELL.to_owned()]);
    Ok(ChildSpec::new(program, args))
}

/// A text as one word of a shell's, whatever is in it.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What it means that the connection ended with this complaint.
pub(super) fn ended(account: &Account, complaint: &str) -> Error {
    let host = &account.host;
    let has = |words: &str| complaint.contains(words);
    let words: String = complaint
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .unwrap_or("the connection was closed")
        .chars()
        .filter(|c| !c.is_control())
        .take(MOST_WORDS)
        .collect();
    let failure = |kind: Kind| Error::new(kind, format!("{host} over SSH: {words}"));
    let keyscan = format!(
        "`ssh-keyscan -p {} {host}` prints what it has now: compare that with what the host's console says (`ssh-keygen -lf /etc/ssh/ssh_host_rsa_key.pub`)",
        account.port
    );
    let known = account.known_hosts.display();
    if has("HOST IDENTIFICATION HAS CHANGED") || has("Offending ") {
        return Error::new(Kind::Network, format!("{host} shows another key than the one in {known}"))
            .advice(format!("either the host was installed anew, or somebody else answers in its place: {keyscan}, then change its line there"))
            .permanent();
    }
    if has("Host key verification failed") || has("host key is known") {
        return Error::new(Kind::Network, format!("the key of {host} is not in {known}"))
            .advice(format!("{keyscan}, then add the line there"))
            .permanent();
    }
    if has("UNPROTECTED PRIVATE KEY") || has("bad permissions") {
        return Error::new(Kind::Auth, format!("others may read the key {}", account.identity.display()))
            .rule(LOGIN_RULE)
            .advice("give it to the service's user alone: `chown hyper2kvm FILE; chmod 0400 FILE`");
    }
    if has("Permission denied") || has("Too many authentication failures") || has("Load key") {
        let (user, key) = (&account.username, account.identity.display());
        return failure(Kind::Auth).rule(LOGIN_RULE).advice(format!(
            "see that {key} is a key without a passphrase that the service may read, and add its public half to /etc/ssh/keys-{user}/authorized_keys on the host"
        ));
    }
    if has("Unable to negotiate") {
        return failure(Kind::Network)
            .advice("this ssh and the host have no way to encrypt in common: see that both are up to date")
            .permanent();
    }
    failure(Kind::Network).advice(format!(
        "see that {host} is up, and that its SSH is started (Host › Manage › Services › TSM-SSH) and let through by its firewall"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Disposition;

    fn account() -> Account {
        Account {
            host: "esx.example.com".to_owned(),
            port: 22,
            username: "root".to_owned(),
            identity: "/keys/id".into(),
            known_hosts: "/keys/known".into(),
        }
    }

    #[test]
    fn nothing_can_be_said_to_ssh_but_by_us() {
        let spec = child(&account(), Duration::from_secs(30)).unwrap();
        let end: Vec<&str> = spec.args.iter().rev().take(7).rev().map(String::as_str).collect();
        assert_eq!(end, ["-p", "22", "-l", "root", "--", "esx.example.com", "exec sh"]);
        for option in
            ["BatchMode=yes", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "ServerAliveInterval=10"]
        {
            assert!(spec.args.iter().any(|arg| arg == option), "{option}");
        }
    }

    #[test]
    fn any_text_is_one_word_of_a_shell() {
        for text in ["web", "a b", "it's", "$(reboot)", "`reboot`", "a\nb", "\"", "ü;|&", "-rf", "''", "\\"]
        {
            let echoed = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(text))])
                .output();
            assert_eq!(String::from_utf8(echoed.unwrap().stdout).unwrap(), text);
        }
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        for (complaint, kind, disposition) in [
            (
                "root@esx: Permission denied (publickey,keyboard-interactive).",
                Kind::Auth,
                Disposition::NeedsOperator,
            ),
            (
                "@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\nroot@esx: Permission denied (publickey).",
                Kind::Auth,
                Disposition::NeedsOperator,
            ),
            (
                "No ED25519 host key is known for esx and you have requested strict checking.\nHost key verification failed.",
                Kind::Network,
                Disposition::Permanent,
            ),
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                Kind::Network,
                Disposition::Permanent,
            ),
            ("ssh: connect to host esx port 22: Connection refused", Kind::Network, Disposition::Transient),
            ("Connection closed by 10.0.0.1 port 22", Kind::Network, Disposition::Transient),
            ("", Kind::Network, Disposition::Transient),
        ] {
            let error = ended(&account(), complaint);
            assert_eq!((error.kind(), error.disposition()), (kind, disposition), "{complaint}");
            assert!(error.details().advice.is_some());
        }
        assert!(ended(&account(), "HOST IDENTIFICATION HAS CHANGED").to_string().contains("another key"));
    }
}
