//! Ten thousand manifests at once: how long until all are durably queued, and how fast the control
//! socket answers meanwhile. Jobs run meanwhile too, as they would.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::figures::{Figures, ms, percentile};
use crate::support::{Daemon, disks};

const DROPS: usize = 10_000;
/// Between two questions; an impatient monitor.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Renames all files in as fast as a loop can, then waits until the queue holds them all.
pub fn measure(figures: &mut Figures) {
    let daemon = Daemon::start_new();
    let source = disks::disk(daemon.scratch(), "small", "raw", 1, 1, 7);
    let aside = daemon.state().join(".flood");
    fs::create_dir(&aside).unwrap();
    for number in 0..DROPS {
        let manifest = disks::manifest(&[("disk", &source, "raw")], &format!("name: flood-{number}\n"));
        fs::write(aside.join(format!("flood-{number}.yaml")), manifest).unwrap();
    }

    let incoming = daemon.state().join("incoming");
    let socket = daemon.state().join("control.sock");
    let done = AtomicBool::new(false);
    let (queued, answers_ms) = std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut answers = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let asked = Instant::now();
                status(&socket).expect("status is answered while drops arrive");
                answers.push(ms(asked.elapsed()));
                std::thread::sleep(ASK_EVERY);
            }
            answers
        });
        let begun = Instant::now();
        for entry in fs::read_dir(&aside).unwrap().flatten() {
            fs::rename(entry.path(), incoming.join(entry.file_name())).unwrap();
        }
        let renamed = begun.elapsed();
        // A file leaves the drop directory only after its row is durable.
        let limit = Duration::from_secs(300);
        while fs::read_dir(&incoming).unwrap().next().is_some() {
            assert!(begun.elapsed() < limit, "not all drops were taken within {limit:?}\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        let queued = begun.elapsed();
        done.store(true, Ordering::Relaxed);
        eprintln!("  renamed in {:.1} s, queued after {:.1} s", renamed.as_secs_f64(), queued.as_secs_f64());
        (queued, asker.join().unwrap())
    });
    let counts = status(&socket).unwrap();
    let jobs: u64 =
        counts["counts"].as_object().unwrap().values().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!(jobs, DROPS as u64, "every drop became one job: {counts}");

    figures.at_most("10,000 drops at once, all durably queued", queued.as_secs_f64(), 20.0, "s");
    figures.at_most("`status` meanwhile, p99", percentile(&answers_ms, 0.99), 50.0, "ms");
    figures.note("`status` meanwhile, p50", format!("{:.1} ms", percentile(&answers_ms, 0.5)));
    figures.note("`status` meanwhile, number of answers", answers_ms.len().to_string());
}

/// One question on a connection of its own, as a client command asks it.
fn status(socket: &Path) -> std::io::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: hyper2kvm\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    serde_json::from_str(body).map_err(|error| std::io::Error::other(format!("{error}: {answer}")))
}
