//! The client: whom it trusts, when it tries again and when it does not, and sessions that end.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::{Duration, Instant};

use hyper2kvm::disk::Control;
use hyper2kvm::model::error::{Disposition, Error, Kind};
use hyper2kvm::model::manifest::values::Secret;
use hyper2kvm::model::thumbprint::Thumbprint;
use hyper2kvm::vsphere::inventory::{self, Filters};
use hyper2kvm::vsphere::{Client, Connection, Endpoint, Login, Patience, Trusted};
use serde_json::json;

use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};

const QUICK: Patience = Patience {
    max_retries: 3,
    base_backoff: Duration::from_millis(20),
    max_backoff: Duration::from_millis(40),
    jitter: 0.25,
    timeout: Duration::from_secs(10),
};

fn with(vcenter: &Vcenter, trust: Trusted, password: &str) -> Result<Client, Error> {
    let endpoint = Endpoint { host: "localhost".to_owned(), port: vcenter.port(), trust };
    let login = Login { username: USER.to_owned(), password: Secret::made(password) };
    Client::connect(&endpoint, &login, &QUICK, &Control::new())
}

fn signed(vcenter: &Vcenter) -> Trusted {
    Trusted::System { ca_file: Some(vcenter.ca()) }
}

fn connected(vcenter: &Vcenter) -> Client {
    with(vcenter, signed(vcenter), PASSWORD).unwrap()
}

/// How often something was asked.
fn asked(vcenter: &Vcenter, call: &str) -> usize {
    vcenter.requests().iter().filter(|request| request.call == call).count()
}

fn names(client: &Client) -> Vec<String> {
    inventory::list(client, &Filters::default()).unwrap().into_iter().map(|vm| vm.name).collect()
}

#[test]
fn a_server_is_trusted_by_who_signed_it_or_by_its_thumbprint_and_by_nothing_else() {
    let vcenter = Vcenter::start(Options::vcenter());
    let client = connected(&vcenter);
    assert!(client.about().is_vcenter && client.about().full_name.contains("VMware"), "{:?}", client.about());
    let pinned = Thumbprint::parse(&vcenter.thumbprint()).unwrap();
    with(&vcenter, Trusted::Pinned(pinned), PASSWORD).unwrap();
    with(&vcenter, Trusted::Anything, PASSWORD).unwrap();

    let before = asked(&vcenter, "Login");
    let refused = |trust: Trusted| {
        let error = with(&vcenter, trust, PASSWORD).unwrap_err();
        assert_eq!((error.kind(), error.disposition()), (Kind::Network, Disposition::Permanent), "{error}");
        let seen = Thumbprint::parse(&vcenter.thumbprint()).unwrap().to_string();
        assert!(error.to_string().contains(&seen), "{error}");
        error.to_string()
    };
    assert!(refused(Trusted::System { ca_file: None }).contains("nobody whom this machine trusts"));
    vcenter.certificate("expired");
    assert!(refused(signed(&vcenter)).contains("expired"));
    assert!(refused(Trusted::Pinned(pinned)).contains("somebody else answers in its place"));
    vcenter.certificate("wrong-name");
    assert!(refused(signed(&vcenter)).contains("for another name"));
    vcenter.certificate("own");
    assert!(refused(signed(&vcenter)).contains("nobody whom this machine trusts"));
    let own = Thumbprint::parse(&vcenter.thumbprint()).unwrap();
    with(&vcenter, Trusted::Pinned(own), PASSWORD).unwrap();
    assert_eq!(asked(&vcenter, "Login"), before + 1, "the password goes to nobody who is not trusted");
}

#[test]
fn a_login_that_is_refused_is_tried_once_and_shows_no_password() {
    let vcenter = Vcenter::start(Options::vcenter());
    let error = with(&vcenter, signed(&vcenter), "hunter2").unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (Kind::Auth, Disposition::NeedsOperator));
    assert!(error.to_string().contains(USER) && !format!("{error:?}").contains("hunter2"), "{error:?}");
    assert_eq!(asked(&vcenter, "Login"), 1);
}

#[test]
fn a_session_that_the_server_forgot_is_begun_anew_once() {
    let machine = json!({ "name": "web", "disks": [{ "capacity": 1 << 20 }] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine));
    let client = connected(&vcenter);
    assert_eq!(names(&client), ["web"]);
    vcenter.forget_sessions();
    assert_eq!(names(&client), ["web"]);
    assert_eq!(asked(&vcenter, "Login"), 2);
    std::thread::scope(|scope| {
        vcenter.forget_sessions();
        let at_once: Vec<_> = (0..6).map(|_| scope.spawn(|| names(&client))).collect();
        at_once.into_iter().for_each(|one| assert_eq!(one.join().unwrap(), ["web"]));
    });
    assert_eq!(asked(&vcenter, "Login"), 3, "one login for all who noticed");
    drop(client);
    assert_eq!(asked(&vcenter, "Logout"), 1);
}

#[test]
fn what_passes_is_tried_again_and_what_stays_is_not() {
    let vcenter = Vcenter::start(Options::vcenter());
    for kind in ["reset", "status"] {
        let before = asked(&vcenter, "RetrieveServiceContent");
        let fault = json!({ "on": "sdk", "named": "RetrieveServiceContent", "times": 2, "kind": kind, "status": 503 });
        vcenter.fault(&fault);
        connected(&vcenter);
        assert_eq!(asked(&vcenter, "RetrieveServiceContent") - before, 3, "{kind}");
    }
    vcenter.fault(&json!({ "on": "sdk", "named": "RetrieveServiceContent", "times": 99, "kind": "status", "status": 503 }));
    let before = asked(&vcenter, "RetrieveServiceContent");
    let error = with(&vcenter, signed(&vcenter), PASSWORD).unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (Kind::Network, Disposition::Transient));
    assert_eq!(asked(&vcenter, "RetrieveServiceContent") - before, 4, "the first time, and three retries");
    vcenter.calm();

    vcenter.fault(&json!({ "on": "sdk", "named": "RetrieveServiceContent", "times": 99, "kind": "status", "status": 404 }));
    let before = asked(&vcenter, "RetrieveServiceContent");
    let error = with(&vcenter, signed(&vcenter), PASSWORD).unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (Kind::Source, Disposition::Permanent));
    assert_eq!(asked(&vcenter, "RetrieveServiceContent") - before, 1);
}

#[test]
fn nobody_at_home_is_tried_again_and_told_and_an_end_from_outside_ends_the_waiting() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let login = Login { username: USER.to_owned(), password: Secret::made(PASSWORD) };
    let at = |host: &str, port: u16| Endpoint {
        host: host.to_owned(),
        port,
        trust: Trusted::System { ca_file: None },
    };
    for host in ["127.0.0.1", "no-such-host.invalid"] {
        let error = Client::connect(&at(host, closed), &login, &QUICK, &Control::new()).unwrap_err();
        assert_eq!((error.kind(), error.disposition()), (Kind::Network, Disposition::Transient), "{error}");
    }
    let never = Client::connect(&at("169.254.169.254", 443), &login, &QUICK, &Control::new()).unwrap_err();
    assert_eq!(never.disposition(), Disposition::Permanent, "{never}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let control = Control::new();
    let begun = Instant::now();
    let waiting = std::thread::spawn({
        let (endpoint, control) = (at("127.0.0.1", silent.local_addr().unwrap().port()), control.clone());
        move || Client::connect(&endpoint, &login, &QUICK, &control).unwrap_err()
    });
    let _taken = silent.accept().unwrap();
    control.cancel(false);
    assert_eq!(waiting.join().unwrap().kind(), Kind::Cancelled);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Somebody who is logged in, waits for nobody who is silent for this long, and tries nothing again.
fn hasty(vcenter: &Vcenter) -> Client {
    let endpoint = Endpoint { host: "localhost".to_owned(), port: vcenter.port(), trust: signed(vcenter) };
    let login = Login { username: USER.to_owned(), password: Secret::made(PASSWORD) };
    let patience = Patience { max_retries: 0, timeout: HASTY, ..QUICK };
    Client::connect(&endpoint, &login, &patience, &Control::new()).unwrap()
}

const HASTY: Duration = Duration::from_millis(700);

#[test]
fn a_server_that_says_nothing_or_a_byte_now_and_then_is_given_up_by_its_time_limit() {
    let vcenter = Vcenter::start(Options::vcenter());
    let client = hasty(&vcenter);
    for (kind, told) in [
        ("silent", "did not answer"),
        ("dripping-head", "did not answer"),
        ("dripping", "sends less than 4 KiB a second"),
    ] {
        vcenter.fault(&json!({ "on": "sdk", "named": "CreateContainerView", "times": 9, "kind": kind }));
        let begun = Instant::now();
        let error = inventory::list(&client, &Filters::default()).unwrap_err();
        vcenter.calm();
        assert!(error.to_string().contains(told), "{kind}: {error}");
        assert_eq!(error.disposition(), Disposition::Transient);
        assert!(begun.elapsed() < Duration::from_secs(15), "{kind}: {:?}", begun.elapsed());
    }
}

#[test]
fn who_reads_slowly_is_not_taken_for_a_server_that_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("content"), vec![7; 16 << 20]).unwrap();
    let machine = json!({ "name": "web", "disks": [disk(&dir.path().join("content"))] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine));
    let mut connection = hasty(&vcenter).open_connection().unwrap();
    let mut response = connection.get("/folder/web/web-flat.vmdk?dcPath=DC0&dsName=ds1", None).unwrap();
    let mut piece = vec![0; 1 << 20];
    for _ in 0..2 {
        response.body.read_exact(&mut piece).unwrap();
        std::thread::sleep(3 * HASTY);
    }
    let rest = std::io::copy(&mut response.body, &mut std::io::sink()).unwrap();
    assert_eq!(rest, 14 << 20);
}

/// What a GET of a range answers: its status, and its bytes or that they did not come.
fn get(connection: &mut Connection, range: std::ops::Range<u64>) -> (u16, Result<Vec<u8>, std::io::Error>) {
    let mut response =
        connection.get("/folder/web/web-flat.vmdk?dcPath=DC0&dsName=ds1", Some(range)).unwrap();
    let mut bytes = Vec::new();
    let read = response.body.read_to_end(&mut bytes);
    (response.status.as_u16(), read.map(|_| bytes))
}

#[test]
fn ranges_of_files_come_over_one_connection_whatever_becomes_of_session_and_connection() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..3u32 << 20).map(|at| (at / 7) as u8).collect();
    std::fs::write(dir.path().join("content"), &content).unwrap();
    let machine = json!({ "name": "web", "disks": [disk(&dir.path().join("content"))] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine));
    let client = connected(&vcenter);
    let mut connection = client.open_connection().unwrap();
    let whole = |range: std::ops::Range<usize>| content[range].to_vec();
    for range in [0..10, 1 << 20..2 << 20, (3 << 20) - 1..3 << 20] {
        let (status, bytes) = get(&mut connection, range.start as u64..range.end as u64);
        assert_eq!((status, bytes.unwrap()), (206, whole(range)));
    }
    let clients = |vcenter: &Vcenter| {
        let files = vcenter.requests().into_iter().filter(|request| request.path.starts_with("/folder/"));
        files.map(|request| request.client).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(clients(&vcenter), 1);

    vcenter.forget_sessions();
    assert_eq!(get(&mut connection, 5..9).1.unwrap(), whole(5..9));
    assert_eq!(asked(&vcenter, "Login"), 2);
    // What is left of an answer is not taken for the next one.
    drop(connection.get("/folder/web/web-flat.vmdk?dcPath=DC0&dsName=ds1", None).unwrap());
    assert_eq!(get(&mut connection, 7..11).1.unwrap(), whole(7..11));
    // A server that hung up is asked over another one; one that breaks off in the middle is told.
    vcenter.fault(&json!({ "on": "folder", "named": "web-flat", "times": 1, "kind": "reset" }));
    assert_eq!(get(&mut connection, 1..3).1.unwrap(), whole(1..3));
    vcenter.fault(&json!({ "on": "folder", "named": "web-flat", "times": 1, "kind": "truncated" }));
    get(&mut connection, 0..3 << 20).1.unwrap_err();
    assert_eq!(get(&mut connection, 1..3).1.unwrap(), whole(1..3));
}
