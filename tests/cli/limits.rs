//! The control API towards those who may not, who are slow, and who talk nonsense.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::fake::Fake;
use crate::run::{Done, parts, request, run_at, talk};

/// A user without any rights.
const NOBODY: &str = "65534";

/// A stranger's run of the built binary, on a socket that everybody can reach.
fn run_as_nobody(fake: &Fake, words: &[&str]) -> Done {
    run_as(fake, &["--regid", NOBODY, "--clear-groups"], words)
}

fn run_as(fake: &Fake, groups: &[&str], words: &[&str]) -> Done {
    // A stranger may not look into the build directory.
    let binary = fake.state().join("hyper2kvm");
    if !binary.exists() {
        // By a child: what this process has open for writing, its other children have, too, and then nobody can run it.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_hyper2kvm")).arg(&binary).status().unwrap();
        assert!(copied.success());
    }
    std::fs::set_permissions(fake.state(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(fake.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    stranger(groups)
        .arg(&binary)
        .args(words)
        .arg("--state-dir")
        .arg(fake.state())
        .output()
        .expect("setpriv is part of util-linux")
        .into()
}

/// `setpriv` to a stranger, through `sudo` where the tester is not root.
fn stranger(groups: &[&str]) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("setpriv")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "setpriv"]);
        sudo
    };
    command.args(["--reuid", NOBODY]).args(groups);
    command
}

#[test]
fn who_can_connect_may_look_but_not_act() {
    let fake = Fake::start();
    assert_eq!(run_as_nobody(&fake, &["list"]).code, 0);
    assert_eq!(run_as_nobody(&fake, &["status"]).code, 0);
    for words in
        [vec!["cancel", "1"], vec!["pause"], vec!["drain"], vec!["prune"], vec!["priority", "1", "1"]]
    {
        let done = run_as_nobody(&fake, &words);
        assert_eq!(done.code, 1, "{words:?}: {}", done.stderr);
        assert!(done.stderr.contains("may look but not act"), "{}", done.stderr);
        assert!(done.stderr.contains("join the group"), "{}", done.stderr);
    }
    assert_eq!(run_at(fake.state(), &["show", "1", "--json"]).json()["state"], "running");
}

#[test]
fn members_of_the_admin_group_may_act() {
    // `nogroup` is the primary group of `nobody` on Debian; what is asked here is the process's own group.
    let fake = Fake::start_with(|settings| settings.control.admin_group = "daemon".to_owned());
    let daemon = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid.to_string();
    let done = run_as(&fake, &["--regid", &daemon, "--clear-groups"], &["cancel", "1"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(run_as_nobody(&fake, &["cancel", "2"]).code, 1);
}

#[test]
fn who_may_not_connect_is_told_which_group_helps() {
    let fake = Fake::start();
    run_as_nobody(&fake, &["list"]);
    std::fs::set_permissions(fake.socket(), PermissionsExt::from_mode(0o600)).unwrap();
    let done: Done = stranger(&["--regid", NOBODY, "--clear-groups"])
        .arg(fake.state().join("hyper2kvm"))
        .args(["list", "--state-dir"])
        .arg(fake.state())
        .output()
        .unwrap()
        .into();
    assert_eq!(done.code, 4);
    assert!(done.stderr.contains("you may not connect") && done.stderr.contains("group"), "{}", done.stderr);
}

#[test]
fn nonsense_is_answered_with_a_typed_error() {
    let fake = Fake::start();
    for (head, body, status) in [
        ("GET /", "", 404),
        ("GET /v1/jobs/1/2/3/4", "", 404),
        ("DELETE /v1/jobs/1", "", 405),
        ("GET /v1/pause", "", 405),
        ("GET /v1/jobs?state=asleep", "", 422),
        ("GET /v1/jobs?colour=red", "", 422),
        ("GET /v1/jobs/%FF", "", 400),
        ("GET /v1/jobs/none", "", 404),
        ("POST /v1/jobs", "not json", 422),
        ("POST /v1/jobs", "{}", 422),
        ("POST /v1/jobs", r#"{"filename":"x","base_directory":"/","content":"","more":1}"#, 422),
        ("POST /v1/jobs/1/priority", "", 422),
        ("POST /v1/jobs/1/priority", r#"{"priority":"high"}"#, 422),
        ("POST /v1/jobs/1/retry", r#"{"from":"nowhere"}"#, 422),
        ("POST /v1/jobs/3/cancel", "", 409),
    ] {
        let (got, refusal) = parts(&talk(&fake.socket(), &request(head, body)));
        assert_eq!(got, status, "{head} {body}: {refusal}");
        assert!(refusal["code"].is_string() && refusal["error"]["cause"].is_string(), "{head}: {refusal}");
    }
}

#[test]
fn what_is_no_http_is_refused_and_the_service_goes_on() {
    let fake = Fake::start();
    for garbage in
        [&b"status\n"[..], b"{\"command\":\"status\"}\n", b"\x00\xff\x00\xff\r\n\r\n", b"GET\r\n\r\n"]
    {
        let answer = talk(&fake.socket(), garbage);
        assert!(answer.is_empty() || answer.contains(" 400 "), "{answer}");
    }
    let long = format!("GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let answer = talk(&fake.socket(), long.as_bytes());
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    assert_eq!(run_at(fake.state(), &["status"]).code, 0);
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let fake = Fake::start();
    let (status, refusal) =
        parts(&talk(&fake.socket(), &request("POST /v1/jobs/1/cancel", &" ".repeat(70_000))));
    assert_eq!((status, &refusal["code"]), (413, &"invalid".into()));
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 99999999\r\n\r\n";
    let mut whole = head.as_bytes().to_vec();
    whole.resize(21 << 20, b' ');
    let (status, _) = parts(&talk(&fake.socket(), &whole));
    assert_eq!(status, 413);
}

#[test]
fn a_manifest_of_sixteen_mebibytes_is_taken() {
    let fake = Fake::start();
    let path = fake.state().join("large.yaml");
    std::fs::write(&path, "x".repeat(16 << 20)).unwrap();
    let done = run_at(fake.state(), &["submit", path.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn who_sends_its_head_byte_by_byte_is_cut_off_and_others_are_served_meanwhile() {
    let fake = Fake::start();
    let mut slow = UnixStream::connect(fake.socket()).unwrap();
    let began = Instant::now();
    slow.write_all(b"GET /v1/status HTTP/1.1\r\n").unwrap();
    let mut cut_off = false;
    while began.elapsed() < Duration::from_secs(60) {
        if slow.write_all(b"x: y\r\n").is_err() {
            cut_off = true;
            break;
        }
        assert_eq!(run_at(fake.state(), &["status"]).code, 0);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(cut_off, "still connected after {:?}", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(5));
}

#[test]
fn strangers_cannot_take_all_connections() {
    let fake = Fake::start();
    let held: Vec<UnixStream> = (0..64).map(|_| UnixStream::connect(fake.socket()).unwrap()).collect();
    // Root holds all 64: the next one is refused with an answer, not left hanging.
    let answer = talk(&fake.socket(), &request("GET /v1/status", ""));
    let (status, refusal) = parts(&answer);
    assert_eq!((status, &refusal["error"]["disposition"]), (503, &"transient".into()));
    drop(held);
    let served = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        run_at(fake.state(), &["status"]).code == 0
    });
    assert!(served);
}

#[test]
fn status_answers_at_once_while_sixty_others_hold_connections() {
    let fake = Fake::start();
    let _held: Vec<UnixStream> = (0..60).map(|_| UnixStream::connect(fake.socket()).unwrap()).collect();
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let began = Instant::now();
            let (status, _) = parts(&talk(&fake.socket(), &request("GET /v1/status", "")));
            assert_eq!(status, 200);
            began.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[197] < Duration::from_secs(3), "p99 {:?}", times[197]);
    eprintln!("status p50 {:?} p99 {:?}", times[100], times[197]);
}
