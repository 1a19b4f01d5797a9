//! `notifications.*`: who is told of what. The keys as written, the settings they come to, and what they may not say together.
//!
//! What stands in the configuration itself as a secret (an address with a token in it, a password) is never written out again:
//! settings that are printed leave it out. What is not here: sending anything.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resolve::{put, put_seconds};
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::{
    AbsolutePath, HostName, Id, Line, MailAddress, MailAddresses, Seconds, Secret, Whole,
};
use crate::model::notice::Event;
use crate::model::parse::Tree;
use crate::model::web_address::WebAddress;

/// `notifications`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotificationsFile {
    /// Whether anybody is told anything. Default false.
    pub enabled: Option<bool>,
    /// A VM was converted. Default false.
    pub on_success: Option<bool>,
    /// A VM failed, or a drop was refused. Default true.
    pub on_failure: Option<bool>,
    /// There is work, and nothing moves. Default true.
    pub on_stalled: Option<bool>,
    /// A job waits for somebody, or the network stays away. Default true.
    pub on_waiting: Option<bool>,
    /// The last VM of a batch has ended. Default false.
    pub on_batch_end: Option<bool>,
    /// The service runs again after it was not stopped in order. Default true.
    pub on_restart: Option<bool>,
    /// A job that waits for somebody is told of after this long. Default 600.
    pub waiting_after_s: Option<Seconds>,
    /// Nothing moved for this long: stalled. Default 1800.
    pub stalled_after_s: Option<Seconds>,
    /// The webhook's address. Or `webhook_url_file`.
    pub webhook_url: Option<Secret>,
    /// A file that holds nothing but the webhook's address.
    pub webhook_url_file: Option<AbsolutePath>,
    /// What the webhook understands. Default generic.
    pub webhook_type: Option<WebhookType>,
    /// A file that holds nothing but the secret with which messages are signed. Or `webhook_credential`.
    pub webhook_secret_file: Option<AbsolutePath>,
    /// The stored credential whose password is that secret.
    pub webhook_credential: Option<Id>,
    /// Certificates (PEM) that vouch for the webhook, besides the machine's own.
    pub webhook_ca_file: Option<AbsolutePath>,
    /// Whether mail is sent. Default false.
    pub email_enabled: Option<bool>,
    /// The mail server.
    pub email_smtp_host: Option<HostName>,
    /// Its port. Default 587.
    pub email_smtp_port: Option<Whole<1, 65535>>,
    /// How the connection to it is encrypted. Default starttls.
    pub email_security: Option<MailSecurity>,
    /// The sender.
    pub email_from: Option<MailAddress>,
    /// The receivers, with commas between them.
    pub email_to: Option<MailAddresses>,
    /// The login at the mail server. Default none.
    pub email_username: Option<Line>,
    /// Its password. Better `email_password_file` or `email_credential`.
    pub email_password: Option<Secret>,
    /// A file that holds nothing but the password.
    pub email_password_file: Option<AbsolutePath>,
    /// The stored credential with the password, and the login if `email_username` names none.
    pub email_credential: Option<Id>,
    /// Certificates (PEM) that vouch for the mail server, besides the machine's own.
    pub email_ca_file: Option<AbsolutePath>,
}

/// What a webhook understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WebhookType {
    /// The event as it is.
    Generic,
    /// Slack's incoming webhooks, and what copies them.
    Slack,
    /// Discord's.
    Discord,
}

/// How the connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MailSecurity {
    /// From its second command on; a server that cannot is sent nothing.
    Starttls,
    /// From its first byte on (port 465).
    Tls,
    /// Not at all; only to this machine itself.
    None,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretPlace {
    /// In the configuration itself.
    Written(Secret),
    /// In a file that holds nothing else.
    File(PathBuf),
    /// In a stored credential.
    Credential(PathBuf),
}

/// The webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebhookSettings {
    /// Its address, which may be a secret.
    pub url: SecretPlace,
    /// What it understands.
    pub webhook_type: WebhookType,
    /// With what messages are signed.
    pub signed_with: Option<SecretPlace>,
    /// Who vouches for it besides those whom the machine trusts.
    pub ca_file: Option<PathBuf>,
}

/// Mail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmailSettings {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is encrypted.
    pub security: MailSecurity,
    /// The sender.
    pub from: String,
    /// The receivers.
    pub to: Vec<String>,
    /// The login, if the server wants one.
    pub username: Option<String>,
    /// What proves that login.
    pub proof: Option<SecretPlace>,
    /// Who vouches for it besides those whom the machine trusts.
    pub ca_file: Option<PathBuf>,
}

/// `notifications.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationSettings {
    /// Whether anybody is told anything.
    pub enabled: bool,
    /// `on_success`
    pub on_success: bool,
    /// `on_failure`
    pub on_failure: bool,
    /// `on_stalled`
    pub on_stalled: bool,
    /// `on_waiting`
    pub on_waiting: bool,
    /// `on_batch_end`
    pub on_batch_end: bool,
    /// `on_restart`
    pub on_restart: bool,
    /// A job that waits for somebody is told of after this long.
    pub waiting_after_s: f64,
    /// Nothing moved for this long.
    pub stalled_after_s: f64,
    /// The webhook, if there is one.
    pub webhook: Option<WebhookSettings>,
    /// Mail, if it is switched on.
    pub email: Option<EmailSettings>,
}

impl Default for NotificationSettings {
    fn default() -> NotificationSettings {
        NotificationSettings {
            enabled: false,
            on_success: false,
            on_failure: true,
            on_stalled: true,
            on_waiting: true,
            on_batch_end: false,
            on_restart: true,
            waiting_after_s: 600.0,
            stalled_after_s: 1800.0,
            webhook: None,
            email: None,
        }
    }
}

impl NotificationSettings {
    /// What is told; nothing while they are switched off.
    #[must_use]
    pub fn events(&self) -> BTreeSet<Event> {
        let all = [
            (Event::Success, self.on_success),
            (Event::Failure, self.on_failure),
            (Event::Stalled, self.on_stalled),
            (Event::Waiting, self.on_waiting),
            (Event::BatchEnd, self.on_batch_end),
            (Event::Restart, self.on_restart),
        ];
        all.into_iter().filter(|(_, on)| *on && self.enabled).map(|(event, _)| event).collect()
    }
}

/// Lays what a file says over the defaults. `credentials_dir`: where stored credentials are.
pub(super) fn apply(
    file: &NotificationsFile,
    credentials_dir: &std::path::Path,
    settings: &mut NotificationSettings,
) {
    put(&mut settings.enabled, file.enabled);
    put(&mut settings.on_success, file.on_success);
    put(&mut settings.on_failure, file.on_failure);
    put(&mut settings.on_stalled, file.on_stalled);
    put(&mut settings.on_waiting, file.on_waiting);
    put(&mut settings.on_batch_end, file.on_batch_end);
    put(&mut settings.on_restart, file.on_restart);
    put_seconds(&mut settings.waiting_after_s, file.waiting_after_s);
    put_seconds(&mut settings.stalled_after_s, file.stalled_after_s);
    let path = |path: &Option<AbsolutePath>| path.as_ref().map(AbsolutePath::to_path);
    let written = |secret: &Option<Secret>| secret.clone().map(SecretPlace::Written);
    let stored = |name: &Option<Id>| {
        name.as_ref()
            .map(|name| SecretPlace::Credential(credentials_dir.join(format!("{}.yaml", name.as_str()))))
    };
    let in_file = |file: &Option<AbsolutePath>| path(file).map(SecretPlace::File);
    settings.webhook =
        written(&file.webhook_url).or_else(|| in_file(&file.webhook_url_file)).map(|url| WebhookSettings {
            url,
            webhook_type: file.webhook_type.unwrap_or(WebhookType::Generic),
            signed_with: in_file(&file.webhook_secret_file).or_else(|| stored(&file.webhook_credential)),
            ca_file: path(&file.webhook_ca_file),
        });
    settings.email = None;
    if let (Some(true), Some(host), Some(from), Some(to)) =
        (file.email_enabled, &file.email_smtp_host, &file.email_from, &file.email_to)
    {
        settings.email = Some(EmailSettings {
            host: host.as_str().to_owned(),
            port: file.email_smtp_port.and_then(|port| u16::try_from(port.get()).ok()).unwrap_or(587),
            security: file.email_security.unwrap_or(MailSecurity::Starttls),
            from: from.as_str().to_owned(),
            to: to.each().map(str::to_owned).collect(),
            username: file.email_username.as_ref().map(|name| name.as_str().to_owned()),
            proof: written(&file.email_password)
                .or_else(|| in_file(&file.email_password_file))
                .or_else(|| stored(&file.email_credential)),
            ca_file: path(&file.email_ca_file),
        });
    }
}

/// What the keys may not say together.
pub(super) fn check(file: &NotificationsFile, tree: &Tree) -> Result<()> {
    let at = |key: &str| format!("notifications.{key}");
    let refuse = |key: &str, cause: String, advice: &str| {
        Err(tree.error(Kind::Manifest, &at(key), cause).advice(advice))
    };
    for (first, second, both) in [
        ("webhook_url", "webhook_url_file", file.webhook_url.is_some() && file.webhook_url_file.is_some()),
        (
            "webhook_secret_file",
            "webhook_credential",
            file.webhook_secret_file.is_some() && file.webhook_credential.is_some(),
        ),
        (
            "email_password",
            "email_password_file",
            file.email_password.is_some() && file.email_password_file.is_some(),
        ),
        (
            "email_password",
            "email_credential",
            file.email_password.is_some() && file.email_credential.is_some(),
        ),
        (
            "email_password_file",
            "email_credential",
            file.email_password_file.is_some() && file.email_credential.is_some(),
        ),
    ] {
        if both {
            return refuse(second, format!("`{first}` says the same already"), "keep one of the two");
        }
    }
    let has_webhook = file.webhook_url.is_some() || file.webhook_url_file.is_some();
    if let Some(url) = &file.webhook_url
        && let Err(why) = WebAddress::parse(url.reveal())
    {
        return refuse(
            "webhook_url",
            format!("this is no address of a webhook: {why}"),
            "write it as https://host/path",
        );
    }
    for (key, said) in [
        ("webhook_type", file.webhook_type.is_some()),
        ("webhook_secret_file", file.webhook_secret_file.is_some()),
        ("webhook_credential", file.webhook_credential.is_some()),
        ("webhook_ca_file", file.webhook_ca_file.is_some()),
    ] {
        if said && !has_webhook {
            let advice = "add `webhook_url`, or `webhook_url_file`, or remove it";
            return refuse(key, "there is no webhook that it could be about".to_owned(), advice);
        }
    }
    check_email(file, tree)?;
    if file.enabled == Some(true) && !has_webhook && file.email_enabled != Some(true) {
        let advice = "add `webhook_url`, or `email_enabled: true` with the `email_…` keys";
        return refuse("enabled", "there is nobody to notify".to_owned(), advice);
    }
    for (key, seconds) in
        [("waiting_after_s", file.waiting_after_s), ("stalled_after_s", file.stalled_after_s)]
    {
        if seconds.is_some_and(|seconds| seconds.0 < 1.0) {
            return refuse(key, "everything would be told of at once".to_owned(), "allow at least a second");
        }
    }
    Ok(())
}

fn check_email(file: &NotificationsFile, tree: &Tree) -> Result<()> {
    let refusal = |key: &str, cause: &str, advice: &str| -> Error {
        tree.error(Kind::Manifest, &format!("notifications.{key}"), cause).advice(advice)
    };
    if file.email_enabled == Some(true) {
        for (key, is_missing) in [
            ("email_smtp_host", file.email_smtp_host.is_none()),
            ("email_from", file.email_from.is_none()),
            ("email_to", file.email_to.is_none()),
        ] {
            if is_missing {
                let cause = format!("mail cannot be sent without `{key}`");
                return Err(refusal("email_enabled", &cause, "add it, or remove `email_enabled`"));
            }
        }
    }
    let has_password = file.email_password.is_some() || file.email_password_file.is_some();
    if has_password && file.email_username.is_none() {
        let key = if file.email_password.is_some() { "email_password" } else { "email_password_file" };
        return Err(refusal(key, "there is no login that it belongs to", "add `email_username`"));
    }
    if file.email_username.is_some() && !has_password && file.email_credential.is_none() {
        let advice = "add `email_password_file` or `email_credential`, or remove it";
        return Err(refusal("email_username", "there is no password for it", advice));
    }
    let is_here = |host: &HostName| {
        let host = host.as_str();
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    };
    if file.email_security == Some(MailSecurity::None) && !file.email_smtp_host.as_ref().is_some_and(is_here)
    {
        let cause = "mail leaves this machine only encrypted";
        return Err(refusal(
            "email_security",
            cause,
            "say `starttls` or `tls`, or name `localhost` as the server",
        ));
    }
    Ok(())
}
