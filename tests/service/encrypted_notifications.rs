//! Notifications over TLS and by mail: real servers of others (Python's, aiosmtpd), with certificates of a small authority.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::site::drop_disk;
use super::support::{Daemon, wait_for, within};

/// A server that takes one message after the other and appends each to a file: `https FILE CERT KEY`, or
/// `smtp|smtps|smtp-without-tls FILE CERT KEY`. Prints its port.
const SERVER: &str = r#"
import asyncio, http.server, ssl, sys
kind, out, cert, key = sys.argv[1:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
if kind == "https":
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            with open(out, "ab") as file:
                file.write(self.headers["x-hyper2kvm-delivery"].encode() + b" " + body + b"\n")
            self.send_response(204)
            self.end_headers()
        def log_message(self, *args):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()
from aiosmtpd.smtp import SMTP, AuthResult
class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 there is nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"
    async def handle_DATA(self, server, session, envelope):
        with open(out, "ab") as file:
            who = session.auth_data.login.decode() if session.authenticated else "-"
            head = f"== {who} {session.ssl is not None or kind == 'smtps'} {envelope.mail_from} {','.join(envelope.rcpt_tos)}\n"
            file.write(head.encode() + envelope.content + b"\n")
        return "250 OK"
def authenticate(server, session, envelope, mechanism, data):
    if (data.login, data.password) == (b"anna", b"right"):
        return AuthResult(success=True, auth_data=data)
    return AuthResult(success=False, handled=False)
async def main():
    loop = asyncio.get_running_loop()
    def session():
        if kind == "smtp":
            return SMTP(Handler(), tls_context=context, require_starttls=True, authenticator=authenticate, auth_required=True)
        return SMTP(Handler(), authenticator=authenticate, auth_require_tls=False)
    server = await loop.create_server(session, "127.0.0.1", 0, ssl=context if kind == "smtps" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"#;

struct Server {
    child: Child,
    port: u16,
    out: PathBuf,
}

impl Server {
    fn start(dir: &Path, kind: &str) -> Server {
        let out = dir.join(format!("{kind}.txt"));
        let (certificate, key) = (dir.join("leaf.pem"), dir.join("leaf.key"));
        // The system's own, for which the packages of the system are.
        let mut child = Command::new("/usr/bin/python3")
            .args(["-W", "ignore", "-c", SERVER, kind])
            .args([&out, &certificate, &key])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Server { child, port: line.trim().parse().unwrap(), out }
    }

    fn got(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An authority (`ca.pem`), and a certificate of it for this machine (`leaf.pem`, `leaf.key`).
fn certificates(dir: &Path) {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout leaf.key -out leaf.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nextendedKeyUsage=serverAuth\\n' >leaf.ext
        openssl x509 -req -days 2 -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile leaf.ext -out leaf.pem
    ";
    let done = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A daemon with these further keys of `notifications`, after one job has failed.
fn failed_job(keys: &str) -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!("notifications:\n  enabled: true\n{keys}"));
    daemon.start();
    let disk = daemon.scratch().join("bad.qcow2");
    fs::write(&disk, "no disk").unwrap();
    drop_disk(&daemon, "bad", &disk, "qcow2", "");
    assert_eq!(daemon.wait_batch("bad")["state"], "failed");
    daemon
}

#[track_caller]
fn wait_said(daemon: &Daemon, what: &str) {
    let said = within(Duration::from_secs(60), || daemon.log().contains(what).then_some(()));
    said.unwrap_or_else(|| panic!("`{what}` was not said\n{}", daemon.log()));
}

#[test]
fn a_webhook_over_tls_is_told_only_if_somebody_trusted_vouches_for_it() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = Server::start(dir.path(), "https");
    let url = format!("  webhook_url: https://localhost:{}/hook\n", server.port);
    let daemon = failed_job(&url);
    wait_said(&daemon, "the certificate of localhost is not trusted");
    assert_eq!(server.got(), "");

    let trusting = format!(
        "notifications:\n  enabled: true\n{url}  webhook_ca_file: {}\n",
        dir.path().join("ca.pem").display()
    );
    daemon.configure(&trusting);
    daemon.signal(rustix::process::Signal::HUP);
    let got = wait_for("the message", || Some(server.got()).filter(|got| got.ends_with('\n')));
    assert!(got.contains("\"event\":\"conversion_failure\""), "{got}");
    assert_eq!(got.lines().count(), 1, "{got}");
}

#[test]
fn mail_is_handed_over_encrypted_and_with_a_login() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let credentials = dir.path().join("credentials.d");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("mail.yaml"), "host: localhost\nusername: anna\npassword: right\n").unwrap();
    let keys = |port: u16, security: &str, login: &str| {
        format!(
            "  email_enabled: true\n  email_smtp_host: localhost\n  email_smtp_port: {port}\n  email_security: {security}\n  email_from: h2k@example.com\n  email_to: ops@example.com, nobody@example.com, anna@example.com\n  email_ca_file: {}\n{login}",
            dir.path().join("ca.pem").display()
        )
    };
    let starttls = Server::start(dir.path(), "smtp");
    let stored = format!("  email_credential: mail\ncredentials: {{dir: {}}}\n", credentials.display());
    let daemon = failed_job(&keys(starttls.port, "starttls", &stored));
    let got = wait_for("the mail", || Some(starttls.got()).filter(|got| got.contains("\r\n\r\n")));
    assert!(got.starts_with("== anna True h2k@example.com ops@example.com,anna@example.com\n"), "{got}");
    assert!(daemon.log().contains("550 to RCPT TO:<nobody@example.com>"), "{}", daemon.log());
    let parsed = read_mail(&starttls.out);
    let (subject, body) = parsed.split_once('\n').unwrap();
    assert_eq!(subject, "[hyper2kvm] ❌ Conversion Failed");
    assert!(body.starts_with("bad/bad failed: declared as qcow2"), "{body}");
    assert!(body.contains("\nWhat to do: "), "{body}");
    let id = got.lines().find_map(|line| line.strip_prefix("X-Hyper2kvm-Delivery: ")).unwrap().trim();
    assert!(got.contains(&format!("Message-ID: <{id}@example.com>")), "{got}");

    let tls = Server::start(dir.path(), "smtps");
    let password = dir.path().join("password");
    fs::write(&password, "right\n").unwrap();
    let file = format!("  email_username: anna\n  email_password_file: {}\n", password.display());
    let _daemon = failed_job(&keys(tls.port, "tls", &file));
    let got = wait_for("the mail", || Some(tls.got()).filter(|got| got.contains("\r\n\r\n")));
    assert!(got.starts_with("== anna True h2k@example.com"), "{got}");
}

/// Subject and text, read by somebody else's reader.
fn read_mail(file: &Path) -> String {
    let program = "import email, email.policy, sys; raw = open(sys.argv[1], 'rb').read().split(b'\\n', 1)[1]; mail = email.message_from_bytes(raw, policy=email.policy.default); print(mail['subject']); print(mail.get_content())";
    let done = Command::new("python3").args(["-c", program]).arg(file).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn a_mail_server_that_cannot_encrypt_is_told_nothing_unless_it_is_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = Server::start(dir.path(), "smtp-without-tls");
    let keys = |security: &str| {
        format!(
            "  email_enabled: true\n  email_smtp_host: localhost\n  email_smtp_port: {}\n  email_security: {security}\n  email_from: h2k@example.com\n  email_to: ops@example.com\n  email_username: anna\n  email_password: right\n",
            server.port
        )
    };
    let daemon = failed_job(&keys("starttls"));
    wait_said(&daemon, "offers no STARTTLS");
    assert_eq!(server.got(), "");
    let text = format!("notifications:\n  enabled: true\n{}", keys("none"));
    daemon.configure(&text);
    daemon.signal(rustix::process::Signal::HUP);
    let got = wait_for("the mail", || Some(server.got()).filter(|got| got.contains("\r\n\r\n")));
    assert!(got.starts_with("== anna False h2k@example.com ops@example.com\n"), "{got}");
}
