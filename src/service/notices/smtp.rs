//! SMTP, as much of it as hands over one mail: EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA (RFC 5321, 3207, 4954).
//!
//! A login is said only where nobody listens: over TLS, or to this machine itself. A server that was to encrypt and cannot is told nothing.
//! What is not here: what the mail says, and how long it may all take.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::trouble::Trouble;
use crate::model::base64::base64;
use crate::model::config::{EmailSettings, MailSecurity};
use crate::model::notice::clean;
use crate::web::{Reach, Stream, connect, encrypt, once};

/// A reply longer than this is none.
const REPLY_BYTES: usize = 16 << 10;

/// Who sends what to whom.
pub(super) struct Envelope<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a [String],
    /// Lines end with CR LF, and none begins with a dot.
    pub(super) message: &'a str,
}

/// Hands a mail over to the server. `login`: name and password.
pub(super) async fn hand_over(
    settings: &EmailSettings,
    login: Option<(String, String)>,
    envelope: &Envelope<'_>,
) -> Result<(), Trouble> {
    let host = settings.host.as_str();
    let reach = match settings.security {
        MailSecurity::None => Reach::ThisMachine,
        MailSecurity::Starttls | MailSecurity::Tls => Reach::Anybody,
    };
    let ca_file = settings.ca_file.as_deref();
    let plain = connect(host, settings.port, reach, &once).await?;
    let mut talk: Talk<Box<dyn Stream>> = match settings.security {
        MailSecurity::Tls => Talk::with(encrypt(plain, host, ca_file).await?, host),
        MailSecurity::None => Talk::with(Box::new(plain), host),
        MailSecurity::Starttls => {
            let mut talk = Talk::with(plain, host);
            talk.greet().await?;
            if !talk.offers("STARTTLS") {
                return Err(talk.trouble("offers no STARTTLS, and is told nothing without it"));
            }
            talk.say("STARTTLS", 220).await?;
            // What came along in the clear would be taken for an answer to what is said under TLS.
            if !talk.heard.is_empty() {
                return Err(talk.trouble("spoke out of turn"));
            }
            let mut talk = Talk::with(encrypt(talk.stream, host, ca_file).await?, host);
            talk.hello().await?;
            talk.is_greeted = true;
            talk
        }
    };
    if !talk.is_greeted {
        talk.greet().await?;
    }
    if let Some((name, password)) = login {
        talk.log_in(&name, &password).await?;
    }
    talk.deliver(envelope).await
}

/// A conversation with a server.
struct Talk<S> {
    stream: S,
    host: String,
    /// What it said that was not looked at yet.
    heard: Vec<u8>,
    /// What it offers.
    extensions: Vec<String>,
    is_greeted: bool,
}

/// What a server answers: a number, and words for people.
struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl<S: Stream> Talk<S> {
    fn with(stream: S, host: &str) -> Talk<S> {
        Talk { stream, host: host.to_owned(), heard: Vec::new(), extensions: Vec::new(), is_greeted: false }
    }

    fn trouble(&self, what: &str) -> Trouble {
        Trouble::again(format!("the mail server {} {what}", self.host))
    }

    /// Its first words, and what it offers.
    async fn greet(&mut self) -> Result<(), Trouble> {
        let reply = self.reply().await?;
        self.expect(&reply, 220, "its greeting")?;
        self.hello().await?;
        self.is_greeted = true;
        Ok(())
    }

    async fn hello(&mut self) -> Result<(), Trouble> {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        };
        let name = if is_name(&name) { name } else { "localhost".to_owned() };
        let reply = self.say(&format!("EHLO {name}"), 250).await?;
        self.extensions = reply.lines.iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        Ok(())
    }

    fn offers(&self, extension: &str) -> bool {
        self.extensions.iter().any(|line| line.split_whitespace().next() == Some(extension))
    }

    async fn log_in(&mut self, name: &str, password: &str) -> Result<(), Trouble> {
        let ways = self.extensions.iter().find(|line| line.starts_with("AUTH ")).cloned().unwrap_or_default();
        let offers = |way: &str| ways.split_whitespace().any(|offered| offered == way);
        if offers("PLAIN") {
            let both = base64(format!("\0{name}\0{password}").as_bytes());
            self.say_secretly(&format!("AUTH PLAIN {both}"), "AUTH", 235).await?;
        } else if offers("LOGIN") {
            self.say("AUTH LOGIN", 334).await?;
            self.say_secretly(&base64(name.as_bytes()), "AUTH", 334).await?;
            self.say_secretly(&base64(password.as_bytes()), "AUTH", 235).await?;
        } else {
            return Err(self.trouble("takes logins in no way that is known here (PLAIN, LOGIN)"));
        }
        Ok(())
    }

    async fn deliver(&mut self, envelope: &Envelope<'_>) -> Result<(), Trouble> {
        self.say(&format!("MAIL FROM:<{}>", envelope.from), 250).await?;
        let mut refused = Vec::new();
        for to in envelope.to {
            let command = format!("RCPT TO:<{to}>");
            let reply = self.ask(&command).await?;
            if let Err(trouble) = self.expect_any(&reply, &[250, 251], &command) {
                refused.push(trouble);
            }
        }
        if refused.len() == envelope.to.len() {
            return Err(refused.swap_remove(0));
        }
        for trouble in refused {
            tracing::warn!(error = trouble.text, "a receiver of mail is refused; the others are told");
        }
        self.say("DATA", 354).await?;
        self.write(&format!("{}.\r\n", envelope.message)).await?;
        let reply = self.reply().await?;
        match self.expect(&reply, 250, "the mail") {
            // It was read and is not wanted: the same again would not be either.
            Err(trouble) if (500..600).contains(&reply.code) => return Err(Trouble::never(trouble.text)),
            judged => judged?,
        }
        // It has the mail; how it says goodbye changes nothing.
        let _ = self.write("QUIT\r\n").await;
        Ok(())
    }

    async fn say(&mut self, command: &str, code: u16) -> Result<Reply, Trouble> {
        self.say_secretly(command, command, code).await
    }

    /// `told`: what the command is called where people see it.
    async fn say_secretly(&mut self, command: &str, told: &str, code: u16) -> Result<Reply, Trouble> {
        let reply = self.ask(command).await?;
        self.expect(&reply, code, told)?;
        Ok(reply)
    }

    async fn ask(&mut self, command: &str) -> Result<Reply, Trouble> {
        self.write(&format!("{command}\r\n")).await?;
        self.reply().await
    }

    fn expect(&self, reply: &Reply, code: u16, told: &str) -> Result<(), Trouble> {
        self.expect_any(reply, &[code], told)
    }

    fn expect_any(&self, reply: &Reply, codes: &[u16], told: &str) -> Result<(), Trouble> {
        if codes.contains(&reply.code) {
            return Ok(());
        }
        let words = clean(&reply.lines.join(" "));
        Err(self.trouble(&format!("answers {} to {told}: {}", reply.code, words.escape_debug())))
    }

    async fn write(&mut self, text: &str) -> Result<(), Trouble> {
        let written = self.stream.write_all(text.as_bytes()).await;
        let flushed = match written {
            Ok(()) => self.stream.flush().await,
            failed => failed,
        };
        flushed.map_err(|error| self.trouble(&format!("broke off: {error}")))
    }

    /// The next reply, with all of its lines.
    async fn reply(&mut self) -> Result<Reply, Trouble> {
        let mut lines = Vec::new();
        let mut total = 0;
        loop {
            let line = self.line().await?;
            total += line.len();
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let rest = line.get(3..).unwrap_or_default();
            let (Some(code), true) = (code, total <= REPLY_BYTES) else {
                return Err(self.trouble("does not speak SMTP"));
            };
            lines.push(rest.get(1..).unwrap_or_default().to_owned());
            if !rest.starts_with('-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    async fn line(&mut self) -> Result<String, Trouble> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.heard.len() > REPLY_BYTES {
                return Err(self.trouble("does not speak SMTP"));
            }
            let mut more = [0; 1024];
            let read = self.stream.read(&mut more).await;
            match read.map_err(|error| self.trouble(&format!("broke off: {error}")))? {
                0 => return Err(self.trouble("closed the connection")),
                length => self.heard.extend_from_slice(&more[..length]),
            }
        }
    }
}
