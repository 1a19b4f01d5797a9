//! A start with a long history: how long until the daemon says that it is ready.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::figures::{Figures, median};
use crate::support::{Daemon, disks};

const FINISHED: u32 = 100_000;
const STARTS: usize = 5;

/// Starts alternately on a history of one job and on one of a hundred thousand.
pub fn measure(figures: &mut Figures) {
    let short = one_finished_job();
    let long = one_finished_job();
    multiply(&long);
    let mut short_s = Vec::new();
    let mut long_s = Vec::new();
    for _ in 0..STARTS {
        short_s.push(ready_after(&short).as_secs_f64());
        long_s.push(ready_after(&long).as_secs_f64());
    }
    let size_mib = fs::metadata(long.state().join("queue.db")).unwrap().len() >> 20;
    figures.at_most("start with 100,000 finished jobs, ready (median)", median(&long_s), 1.0, "s");
    figures.note("start with one finished job, ready (median)", format!("{:.3} s", median(&short_s)));
    figures.note("start with 100,000 finished jobs, unrounded", format!("{:.3} s", median(&long_s)));
    figures.note("its database", format!("{size_mib} MiB"));
}

/// A state directory whose daemon has converted one small disk and ended.
fn one_finished_job() -> Daemon {
    let mut daemon = Daemon::start_new();
    let source = disks::disk(daemon.scratch(), "small", "raw", 1, 1, 7);
    daemon.drop_file("first.yaml", disks::manifest(&[("disk", &source, "raw")], "name: first\n"));
    daemon.wait_batch("first");
    daemon.wait_settled("processed", "first.yaml");
    assert!(daemon.stop().success());
    daemon
}

/// Copies the rows of that job until there are [`FINISHED`], each under names of its own.
fn multiply(daemon: &Daemon) {
    let queue = Connection::open(daemon.state().join("queue.db")).unwrap();
    let own_names: [(&str, &[(&str, &str)]); 4] = [
        ("dropped", &[("drop_id", "drop_id + i"), ("name", "name || i"), ("inode", "inode + i")]),
        (
            "batch",
            &[
                ("batch_key", "batch_key + i"),
                ("batch_id", "batch_id || i"),
                ("stem", "stem || i"),
                ("content_sha256", "content_sha256 || i"),
                ("drop_id", "drop_id + i"),
            ],
        ),
        (
            "job",
            &[
                ("job_id", "job_id + i"),
                ("batch_key", "batch_key + i"),
                ("vm_id", "vm_id || i"),
                ("vm_name", "vm_name || i"),
                ("output_directory", "output_directory || i"),
            ],
        ),
        ("event", &[("event_id", "NULL"), ("job_id", "job_id + i")]),
    ];
    queue.execute_batch("BEGIN").unwrap();
    for (table, changed) in own_names {
        let mut statement = queue.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
        let columns: Vec<String> =
            statement.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let values: Vec<&str> = columns
            .iter()
            .map(|column| {
                changed.iter().find(|(name, _)| name == column).map_or(column.as_str(), |(_, value)| value)
            })
            .collect();
        let insert = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
             INSERT INTO {table} ({}) SELECT {} FROM {table}, n",
            FINISHED - 1,
            columns.join(", "),
            values.join(", ")
        );
        queue.execute(&insert, []).unwrap();
    }
    queue.execute_batch("COMMIT; ANALYZE").unwrap();
    let jobs: u32 = queue.query_row("SELECT count(*) FROM job", [], |row| row.get(0)).unwrap();
    assert_eq!(jobs, FINISHED);
}

/// Starts the daemon as systemd would and waits for what it would wait for.
fn ready_after(daemon: &Daemon) -> Duration {
    let path = daemon.scratch().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let log = File::create(daemon.log_path()).unwrap();
    let begun = Instant::now();
    let mut child = daemon
        .command()
        .env("NOTIFY_SOCKET", &path)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut message = [0_u8; 4096];
    let took = loop {
        let length = manager.recv(&mut message).unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
        if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            break begun.elapsed();
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_file(&path).unwrap();
    took
}
