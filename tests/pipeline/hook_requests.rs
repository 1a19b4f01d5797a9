//! Hooks that send requests: what is sent, what counts as an answer, and where nothing is ever sent to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use hyper2kvm::model::error::Kind;
use hyper2kvm::model::hook::{Content, HookCall, PlannedHook};
use hyper2kvm::model::manifest::HookStage;
use hyper2kvm::model::retry::RetryPolicy;
use hyper2kvm::model::template::Template;

use crate::hooks::hook;
use crate::site::Site;

/// One request as it arrived.
struct Got {
    line: String,
    headers: BTreeMap<String, String>,
    body: String,
}

/// A server on this machine that answers one request after the other with these texts (none: it says nothing), and tells what it got.
fn server(answers: Vec<Option<String>>) -> (u16, Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, got) = mpsc::channel();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for answer in answers {
            let Ok((stream, _)) = listener.accept() else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let mut headers = BTreeMap::new();
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                let Some((name, value)) = header.trim_end().split_once(": ") else { break };
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body = String::from_utf8(body).unwrap();
            let _ = tell.send(Got { line: line.trim_end().to_owned(), headers, body });
            match answer {
                Some(answer) => (&stream).write_all(answer.as_bytes()).unwrap(),
                None => silent.push(stream),
            }
        }
    });
    (port, got)
}

fn answer(status: &str, further: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{further}\r\n{body}"))
}

fn request(method: &str, url: &str, body: &serde_json::Value) -> PlannedHook {
    let call = HookCall::Http {
        url: Template::parse(url).unwrap(),
        method: method.to_owned(),
        headers: BTreeMap::from([("X-Vm".to_owned(), Template::parse("{{ vm_id }}").unwrap())]),
        body: (!body.is_null()).then(|| Content::parse(body).unwrap()),
    };
    hook(HookStage::PreExtraction, 1, call)
}

fn site(planned: PlannedHook) -> Site {
    let mut site = Site::new(&["raw"]);
    site.order.plan.hooks = vec![planned];
    site
}

#[test]
fn a_request_carries_what_the_manifest_says_and_a_2xx_is_success() {
    let (port, got) = server(vec![answer("204 No Content", "", "")]);
    let body = serde_json::json!({ "vm": "{{ vm_id }}", "count": 3 });
    let site = site(request("POST", &format!("http://127.0.0.1:{port}/a/{{{{ batch_id }}}}?x=1"), &body));
    let report = site.succeed().content.unwrap();
    let got = got.recv().unwrap();
    assert_eq!(got.line, "POST /a/batch?x=1 HTTP/1.1");
    assert_eq!(got.headers["content-type"], "application/json");
    assert_eq!(got.headers["x-vm"], "vm");
    assert_eq!(got.body, r#"{"vm":"vm","count":3}"#);
    assert_eq!((report.hooks[0].http_status, report.hooks[0].exit_code), (Some(204), None));
    assert_eq!(report.hooks[0].status, "HTTP status 204");
}

#[test]
fn a_get_puts_its_fields_into_the_query() {
    let (port, got) = server(vec![answer("200 OK", "", "fine, password: hunter2")]);
    let body = serde_json::json!({ "path": "{{ output_dir }} &", "n": 1 });
    let site = site(request("GET", &format!("http://127.0.0.1:{port}/"), &body));
    site.succeed();
    let line = got.recv().unwrap().line;
    let out = site.out().display().to_string().replace('/', "%2F");
    assert_eq!(line, format!("GET /?path={out}%20%26&n=1 HTTP/1.1"));
    assert!(!site.log_text().contains("hunter2"), "{}", site.log_text());
}

#[test]
fn errors_and_silence_and_nobody_there_are_all_tried_again() {
    let (port, got) = server(vec![
        answer("500 Internal Server Error", "", "broken"),
        None,
        Some("no http at all\r\n\r\n".to_owned()),
        answer("429 Too Many Requests", "", ""),
        answer("200 OK", "", ""),
    ]);
    let mut planned = request("POST", &format!("http://127.0.0.1:{port}/"), &serde_json::Value::Null);
    planned.timeout_s = 2.0;
    planned.retry.max_retries = 4;
    let report = site(planned).succeed().content.unwrap();
    assert_eq!((report.hooks[0].attempts, report.hooks[0].success), (5, true));
    assert_eq!(got.iter().count(), 5);

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut planned = request("POST", &format!("http://127.0.0.1:{closed}/"), &serde_json::Value::Null);
    planned.retry.max_retries = 2;
    let site = site(planned);
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Hook);
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(site.log_text().matches("hook failed: tried again").count(), 2, "{}", site.log_text());
}

#[test]
fn a_server_that_cannot_be_reached_is_waited_for_within_the_attempt() {
    let nowhere = "no-such-host.invalid";
    let mut site = site(request("GET", &format!("http://{nowhere}/"), &serde_json::Value::Null));
    site.order.limits.retries.network =
        RetryPolicy { attempts: 3, base_delay_s: 0.1, max_delay_s: 0.1, jitter: 0.0 };
    let error = site.fail();
    assert!(error.to_string().contains("cannot look up no-such-host.invalid"), "{error}");
    assert_eq!(site.log_text().matches("tried again in 0.1 s").count(), 2, "{}", site.log_text());
    assert_eq!(site.log_text().matches("hook failed: tried again").count(), 0, "{}", site.log_text());
}

#[test]
fn a_redirect_is_followed_but_never_to_where_a_machine_tells_its_secrets() {
    let (second, got) = server(vec![answer("200 OK", "", "")]);
    let (first, _got) =
        server(vec![answer("302 Found", &format!("Location: http://localhost:{second}/there\r\n"), "")]);
    site(request("GET", &format!("http://127.0.0.1:{first}/"), &serde_json::Value::Null)).succeed();
    assert_eq!(got.recv().unwrap().line, "GET /there HTTP/1.1");

    for target in ["http://169.254.169.254/latest/meta-data/", "http://[::ffff:169.254.169.254]/"] {
        let (port, got) = server(vec![answer("302 Found", &format!("Location: {target}\r\n"), ""); 3]);
        let mut planned = request("GET", &format!("http://127.0.0.1:{port}/"), &serde_json::Value::Null);
        planned.retry.max_retries = 2;
        let site = site(planned);
        let error = site.fail();
        assert_eq!(error.kind(), Kind::Hook, "{error}");
        assert!(got.recv_timeout(Duration::from_secs(10)).is_ok());
        assert!(!site.log_text().contains("tried again"), "{target}: {}", site.log_text());
    }
    let mut planned = request("GET", "http://169.254.169.254/", &serde_json::Value::Null);
    planned.retry.max_retries = 2;
    let error = site(planned).fail();
    assert!(error.to_string().contains("link-local"), "{error}");
}

#[test]
fn a_server_that_nobody_vouches_for_is_not_talked_to() {
    let temp = tempfile::tempdir().unwrap();
    let (key, certificate) = (temp.path().join("key.pem"), temp.path().join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let serving = "import http.server, ssl, sys\n\
        class Answer(http.server.BaseHTTPRequestHandler):\n\
        \x20   def do_GET(self):\n\
        \x20       self.send_response(200); self.send_header('Content-Length', '0'); self.end_headers()\n\
        server = http.server.HTTPServer(('127.0.0.1', 0), Answer)\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
        context.load_cert_chain(sys.argv[1], sys.argv[2])\n\
        server.socket = context.wrap_socket(server.socket, server_side=True)\n\
        print(server.server_port, flush=True)\n\
        server.serve_forever()\n";
    let mut server = std::process::Command::new("python3")
        .args(["-c", serving])
        .args([&certificate, &key])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let url = format!("https://localhost:{}/", port.trim());
    let error = site(request("GET", &url, &serde_json::Value::Null)).fail();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");

    // Whoever administers the machine does.
    let trusting = site(request("GET", &url, &serde_json::Value::Null));
    let program = trusting.root().join("trusting");
    let text = format!(
        "#!/bin/sh\nSSL_CERT_FILE={} exec {} \"$@\"\n",
        certificate.display(),
        env!("CARGO_BIN_EXE_hyper2kvm")
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let told = crate::site::drive(&program, &trusting.order, &trusting.log(), |_, _| {});
    let _ = server.kill();
    let _ = server.wait();
    assert!(
        matches!(told.outcome, hyper2kvm::model::protocol::WorkerOutcome::Succeeded(_)),
        "{:?}",
        told.outcome
    );
}
