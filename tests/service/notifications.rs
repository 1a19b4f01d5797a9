//! Notifications, against a running daemon and real receivers: what they get, how often, and what becomes of it when something fails.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use super::site::{drop_disk, source};
use super::support::receiver::{Answer, Hit, WebReceiver};
use super::support::{Daemon, wait_for, within};

/// Settings that send everything to a webhook.
fn all_to(url: &str) -> String {
    format!(
        "notifications:\n  enabled: true\n  on_success: true\n  on_batch_end: true\n  webhook_url: {url}\n"
    )
}

/// Settings that send only failures there.
fn failures_to(url: &str) -> String {
    format!("notifications: {{enabled: true, webhook_url: \"{url}\"}}\n")
}

fn notified(settings: &str) -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.configure(settings);
    daemon.start();
    daemon
}

/// A drop whose job fails, because its disk is not what it says.
fn drop_bad(daemon: &Daemon, name: &str) {
    let disk = daemon.scratch().join(format!("{name}.qcow2"));
    fs::write(&disk, "no disk").unwrap();
    drop_disk(daemon, name, &disk, "qcow2", "");
}

#[track_caller]
fn wait_taken(daemon: &Daemon, receiver: &WebReceiver, count: usize) -> Vec<Hit> {
    let taken = within(Duration::from_secs(60), || Some(receiver.taken()).filter(|hits| hits.len() >= count));
    taken.unwrap_or_else(|| panic!("{:#?} are not {count}\n{}", receiver.hits(), daemon.log()))
}

/// Waits until nothing is on its way any more.
#[track_caller]
fn wait_drained(daemon: &Daemon) {
    let outbox = || daemon.status_file().map(|status| status["notifications"].clone());
    let drained = within(Duration::from_secs(60), || outbox().filter(|outbox| outbox["pending"] == 0));
    drained.unwrap_or_else(|| panic!("{:?}\n{}", outbox(), daemon.log()));
}

fn events(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(Hit::event).collect()
}

/// How many events of this name receivers were told of, by themselves or in a summary.
fn told(hits: &[Hit], event: &str) -> u64 {
    let of = |hit: &Hit| match hit.event() {
        "summary" => hit.json()["details"]["counts"][event].as_u64().unwrap_or_default(),
        name => u64::from(name == event),
    };
    hits.iter().map(of).sum()
}

#[test]
fn each_event_arrives_once_with_what_is_known_of_it_and_is_signed() {
    let receiver = WebReceiver::start();
    let mut daemon = Daemon::prepare();
    let secret = daemon.scratch().join("secret");
    fs::write(&secret, "it is a secret\n").unwrap();
    let settings = all_to(&receiver.url("/hook?token=abc"));
    daemon.configure(&format!("{settings}  webhook_secret_file: {}\n", secret.display()));
    daemon.start();
    let disk = source(&daemon, "disk", "raw", 1);
    drop_disk(&daemon, "good", &disk, "raw", "");
    daemon.wait_batch("good");
    drop_bad(&daemon, "bad");
    daemon.wait_batch("bad");
    daemon.drop_file("worse.yaml", "disks: [\n");
    let hits = wait_taken(&daemon, &receiver, 5);
    wait_drained(&daemon);
    assert_eq!(
        events(&hits),
        ["conversion_success", "batch_ended", "conversion_failure", "batch_ended", "conversion_failure"]
    );
    let ids: BTreeSet<&str> = hits.iter().map(Hit::id).collect();
    assert_eq!(ids.len(), 5, "{hits:#?}");

    let good = hits[0].json();
    assert_eq!(good["title"], "✅ Conversion Successful");
    assert_eq!((&good["level"], &good["source"]), (&"success".into(), &"hyper2kvm-daemon".into()));
    let details = &good["details"];
    assert_eq!((&details["batch_id"], &details["filename"]), (&"good".into(), &"good.yaml".into()));
    assert!(fs::exists(details["report_path"].as_str().unwrap()).unwrap(), "{details}");
    assert_eq!(good["delivery_id"], hits[0].id());

    let bad = hits[2].json();
    assert_eq!((&bad["level"], &bad["details"]["kind"]), (&"error".into(), &"source".into()), "{bad:#}");
    assert!(fs::exists(bad["details"]["log_path"].as_str().unwrap()).unwrap(), "{bad:#}");
    assert_eq!(hits[3].json()["details"]["outcome"], "failed");
    let worse = hits[4].json();
    assert_eq!(
        (&worse["details"]["filename"], &worse["details"]["job_id"]),
        (&"worse.yaml".into(), &().into())
    );

    for hit in &hits {
        assert_eq!(
            (hit.target.as_str(), hit.headers["x-hyper2kvm-attempt"].as_str()),
            ("/hook?token=abc", "1")
        );
        assert_eq!(hit.headers["x-hyper2kvm-signature"], signature("it is a secret", &hit.body));
    }
    // What was told in the end is no news after a start in order.
    assert!(daemon.stop().success());
    daemon.start();
    drop_bad(&daemon, "again");
    assert_eq!(events(&wait_taken(&daemon, &receiver, 7))[5..], ["conversion_failure", "batch_ended"]);
}

#[test]
fn what_a_receiver_does_not_take_comes_again_under_its_id_and_when_it_asks_for_it() {
    let receiver = WebReceiver::start();
    receiver.answer_next([
        Answer::Status(500, ""),
        Answer::Status(429, "Retry-After: 3"),
        Answer::Status(404, ""),
        Answer::Hang,
    ]);
    let daemon = notified(&failures_to(&receiver.url("/")));
    drop_bad(&daemon, "bad");
    wait_for("the third try", || (receiver.hits().len() >= 3).then_some(()));
    let tries = receiver.hits();
    let waited = tries[2].at - tries[1].at;
    assert!(waited > Duration::from_secs_f64(2.5), "{waited:?}");
    // It hangs: the job has ended all the same, and another one comes and goes.
    drop_bad(&daemon, "other");
    assert_eq!(daemon.wait_batch("other")["state"], "failed");
    let hits = wait_taken(&daemon, &receiver, 2);
    wait_drained(&daemon);
    assert_eq!(hits.len(), 2);
    let hits = receiver.hits();
    let tries = |batch: &str| -> Vec<&Hit> {
        hits.iter().filter(|hit| hit.json()["details"]["batch_id"] == batch).collect()
    };
    let ids: BTreeSet<&str> = tries("bad").iter().map(|hit| hit.id()).collect();
    assert_eq!((tries("bad").len(), ids.len(), tries("other").len()), (5, 1, 1), "{hits:#?}");
    let bodies: BTreeSet<&String> = tries("bad").iter().map(|hit| &hit.body).collect();
    assert_eq!(bodies.len(), 1, "a message is the same on every try");
    let attempts: Vec<&str> =
        tries("bad").iter().map(|hit| hit.headers["x-hyper2kvm-attempt"].as_str()).collect();
    assert_eq!(attempts, ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_receiver_that_never_answers_holds_up_nothing_and_is_told_in_the_status() {
    let receiver = WebReceiver::start();
    receiver.answer_all(Answer::Hang);
    let mut daemon = notified(&all_to(&receiver.url("/")));
    for name in ["one", "two", "three"] {
        let disk = source(&daemon, name, "raw", 1);
        drop_disk(&daemon, name, &disk, "raw", "");
    }
    for name in ["one", "two", "three"] {
        assert_eq!(daemon.wait_batch(name)["state"], "completed");
        daemon.wait_settled("processed", &format!("{name}.yaml"));
    }
    let status = daemon.client(&["status"]);
    assert_eq!(status["notifications"]["pending"], 6, "{status:#}");
    wait_for("the first try to be over", || {
        let status = daemon.status_file()?;
        let error = status["notifications"]["last_error"].as_str()?.to_owned();
        error.contains("no answer within 10 s").then_some(())
    });
    // A service that ends does not wait for a receiver either.
    let asked = Instant::now();
    assert!(daemon.stop().success());
    // A request that is not answered takes ten.
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    receiver.answer_all(Answer::Status(200, ""));
    daemon.start();
    wait_drained(&daemon);
    let taken = receiver.taken();
    assert_eq!(told(&taken, "conversion_success"), 3, "{taken:#?}");
    assert_eq!(told(&taken, "batch_ended"), 3, "{taken:#?}");
}

#[test]
fn a_daemon_that_is_killed_before_or_after_it_sends_loses_and_doubles_nothing() {
    for point in ["notice.before-send", "notice.after-send"] {
        let receiver = WebReceiver::start();
        let mut daemon = Daemon::prepare();
        daemon.configure(&failures_to(&receiver.url("/")));
        daemon.env("HYPER2KVM_FAILPOINT", point);
        daemon.start();
        drop_bad(&daemon, "bad");
        daemon.wait_end(Duration::from_secs(60));
        daemon.no_env("HYPER2KVM_FAILPOINT");
        daemon.start();
        let sent_before = usize::from(point == "notice.after-send");
        let taken = wait_taken(&daemon, &receiver, 2 + sent_before);
        wait_drained(&daemon);
        assert_eq!(receiver.hits().len(), taken.len());
        let ids = |event: &str| -> Vec<String> {
            taken.iter().filter(|hit| hit.event() == event).map(|hit| hit.id().to_owned()).collect()
        };
        let failures = ids("conversion_failure");
        assert_eq!(failures.len(), 1 + sent_before, "{point}: {taken:#?}");
        assert!(failures.iter().all(|id| *id == failures[0]), "{point}: {failures:?}");
        assert_eq!(ids("daemon_restarted").len(), 1, "{point}: {taken:#?}");
    }
}

#[test]
fn a_receiver_that_is_away_is_told_when_it_is_there() {
    let address = WebReceiver::nobody();
    let mut daemon = notified(&failures_to(&format!("http://{address}/")));
    drop_bad(&daemon, "bad");
    daemon.wait_batch("bad");
    let cannot = format!("cannot connect to {}", address.ip());
    wait_for("a try", || daemon.log().contains(&cannot).then_some(()));
    daemon.kill9();
    let receiver = WebReceiver::at(address);
    daemon.start();
    let taken = wait_taken(&daemon, &receiver, 2);
    assert_eq!(events(&taken), ["conversion_failure", "daemon_restarted"]);
    assert!(taken[1].json()["details"]["previous"].as_str().is_some_and(|who| who.contains('@')));
}

#[test]
fn redirects_are_not_followed_and_what_is_refused_is_given_up() {
    let elsewhere = WebReceiver::start();
    let receiver = WebReceiver::start();
    let location: &'static str = format!("Location: {}", elsewhere.url("/secret-path")).leak();
    receiver.answer_next([
        Answer::Status(302, "Location: http://169.254.169.254/latest/meta-data/"),
        Answer::Status(307, location),
        Answer::Status(400, ""),
    ]);
    let daemon = notified(&failures_to(&receiver.url("/")));
    drop_bad(&daemon, "bad");
    wait_for("it to be given up", || (daemon.status_file()?["notifications"]["given_up"] == 1).then_some(()));
    assert!(elsewhere.hits().is_empty());
    assert!(daemon.log().contains("redirects"), "{}", daemon.log());
    assert!(daemon.log().contains("a notification is given up"), "{}", daemon.log());
    assert!(!daemon.log().contains("secret-path"), "{}", daemon.log());
    drop_bad(&daemon, "other");
    assert_eq!(wait_taken(&daemon, &receiver, 1)[0].json()["details"]["batch_id"], "other");
    let shown = daemon.run_client(&["status"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("400"), "{shown:?}");
}

#[test]
fn what_cannot_be_delivered_is_given_up_after_the_time_of_the_settings() {
    let address = WebReceiver::nobody();
    let settings = "retry: {base_delay_s: 0.2, max_delay_s: 1, give_up_after_s: 3}\n";
    let daemon = notified(&format!("{settings}{}", failures_to(&format!("http://{address}/"))));
    drop_bad(&daemon, "bad");
    wait_for("it to be given up", || {
        let outbox = daemon.status_file()?["notifications"].clone();
        (outbox["given_up"] == 1 && outbox["pending"] == 0).then_some(())
    });
}

#[test]
fn two_hundred_failures_are_a_handful_of_messages() {
    let receiver = WebReceiver::start();
    let daemon = notified(&failures_to(&receiver.url("/")));
    for number in 0..200 {
        daemon.drop_file(&format!("bad-{number}.yaml"), format!("name: bad-{number}\ndisks: none\n"));
    }
    let failures = |hits: &[Hit]| told(hits, "conversion_failure");
    let all =
        within(Duration::from_secs(180), || Some(receiver.taken()).filter(|hits| failures(hits) >= 200));
    let all = all.unwrap_or_else(|| panic!("{}\n{}", failures(&receiver.taken()), daemon.log()));
    assert_eq!(failures(&all), 200);
    assert!(all.len() <= 10, "{} messages", all.len());
    let has_more = |hit: &Hit| hit.json()["message"].as_str().unwrap().contains("more; `hyper2kvm list`");
    assert!(all.iter().any(|hit| hit.event() == "summary" && has_more(hit)), "{all:#?}");
}

#[test]
fn long_waits_are_told_once_each() {
    let receiver = WebReceiver::start();
    let limits = "limits: {disk_reserve: 900TiB}\n";
    let settings = format!(
        "{limits}notifications: {{enabled: true, waiting_after_s: 1, webhook_url: \"{}\"}}\n",
        receiver.url("/")
    );
    let mut daemon = notified(&settings);
    let disk = source(&daemon, "disk", "raw", 1);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    let taken = wait_taken(&daemon, &receiver, 1);
    let details = taken[0].json()["details"].clone();
    assert_eq!((&details["event"], &details["reason"]), (&"job_waiting".into(), &"disk_space".into()));
    assert!(details["waiting_seconds"].as_f64().is_some_and(|waited| waited >= 1.0), "{details}");
    assert!(details["detail"].as_str().is_some_and(|detail| detail.contains("free")), "{details}");
    // Neither time nor a start tells it again.
    assert!(daemon.stop().success());
    daemon.start();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(receiver.hits().len(), 1, "{:#?}", receiver.hits());
}

#[test]
fn a_job_that_stands_still_is_told_as_a_stall() {
    let receiver = WebReceiver::start();
    let held = super::site::HELD;
    let settings = format!(
        "{held}notifications: {{enabled: true, stalled_after_s: 2, webhook_url: \"{}\"}}\n",
        receiver.url("/")
    );
    let daemon = notified(&settings);
    let disk = source(&daemon, "disk", "raw", 96);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    super::site::wait_copying(&daemon, "vm");
    let workers: Vec<u32> =
        daemon.processes().into_iter().filter(|(pid, _)| *pid != daemon.pid()).map(|(pid, _)| pid).collect();
    let signal = |signal| {
        for pid in &workers {
            let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, signal).ok();
        }
    };
    signal(rustix::process::Signal::STOP);
    let taken = wait_taken(&daemon, &receiver, 1);
    signal(rustix::process::Signal::CONT);
    let details = taken[0].json()["details"].clone();
    assert_eq!((&details["event"], &details["queue_depth"]), (&"daemon_stalled".into(), &1.into()));
    assert_eq!(daemon.wait_batch("vm")["state"], "completed");
    daemon.wait_settled("processed", "vm.yaml");
    wait_drained(&daemon);
    // A disk that takes long to keep what was written may have been one more.
    let told = receiver.hits().len();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(receiver.hits().len(), told, "nothing to do is no stall: {:#?}", receiver.hits());
}

#[test]
fn a_reload_switches_them_on_mends_them_and_throws_away_what_nobody_gets() {
    let receiver = WebReceiver::start();
    let daemon = notified("");
    let reload = |settings: &str| {
        daemon.configure(settings);
        let before = daemon.log().matches("reloaded; ").count();
        daemon.signal(rustix::process::Signal::HUP);
        wait_for("the reload", || (daemon.log().matches("reloaded; ").count() > before).then_some(()));
    };
    drop_bad(&daemon, "before");
    daemon.wait_batch("before");
    assert!(daemon.status_file().unwrap()["notifications"].is_null());

    // A wait that the next reload cuts short.
    let slow = "retry: {base_delay_s: 3000, max_delay_s: 3600}\n";
    let nobody = WebReceiver::nobody();
    reload(&format!("{slow}{}", failures_to(&format!("http://{nobody}/"))));
    drop_bad(&daemon, "while");
    let cannot = format!("cannot connect to {}", nobody.ip());
    wait_for("a try", || daemon.log().contains(&cannot).then_some(()));
    reload(&format!("{slow}{}", failures_to(&receiver.url("/"))));
    let taken = wait_taken(&daemon, &receiver, 1);
    assert_eq!(taken[0].json()["details"]["batch_id"], "while");

    receiver.answer_all(Answer::Status(503, ""));
    drop_bad(&daemon, "lost");
    wait_for("a try", || (receiver.hits().len() == 2).then_some(()));
    reload("");
    wait_for("it to be said", || daemon.log().contains("notifications are thrown away").then_some(()));
    assert_eq!(receiver.taken().len(), 1);
}

#[test]
fn secrets_of_receivers_are_nowhere() {
    let receiver = WebReceiver::start();
    receiver.answer_next([Answer::Status(500, ""), Answer::Status(302, "Location: http://h/tokentoken2")]);
    let mut daemon = Daemon::prepare();
    let secret = daemon.scratch().join("signing");
    fs::write(&secret, "signingsigning\n").unwrap();
    daemon.configure(&format!(
        "verbose: 3\n{}  webhook_secret_file: {}\n  email_enabled: true\n  email_smtp_host: localhost\n  email_smtp_port: 9\n  email_from: a@example.com\n  email_to: b@example.com\n  email_username: anna\n  email_password: mailmailmail\n",
        all_to(&receiver.url("/tokentoken")),
        secret.display(),
    ));
    daemon.start();
    drop_bad(&daemon, "bad");
    daemon.wait_batch("bad");
    wait_taken(&daemon, &receiver, 2);
    wait_for("a try of mail", || daemon.log().contains("receiver=\"email\"").then_some(()));
    let bundle = daemon.scratch().join("bundle.tar");
    let config = daemon.config();
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .args(["--config", config.to_str().unwrap(), "bundle", "--output", bundle.to_str().unwrap()])
        .env("HYPER2KVM_STATE_DIR", daemon.state())
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let mut places = Daemon::files_below(daemon.state(), |_| true);
    places.extend([bundle, daemon.log_path()]);
    for (pid, _) in daemon.processes() {
        places.extend(["cmdline", "environ"].map(|name| format!("/proc/{pid}/{name}").into()));
    }
    for place in places {
        let bytes = fs::read(&place).unwrap_or_default();
        for secret in ["tokentoken", "signingsigning", "mailmailmail"] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", place.display());
        }
    }
}

/// As the documentation says that a receiver should.
fn signature(secret: &str, body: &str) -> String {
    let program = "import hashlib, hmac, sys; print('sha256=' + hmac.new(sys.argv[1].encode(), sys.argv[2].encode(), hashlib.sha256).hexdigest())";
    let done = std::process::Command::new("python3").args(["-c", program, secret, body]).output().unwrap();
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}
