//! Chromium without a window: opens one file, and tells what it said, what it asked for, and how it looked.
//!
//! Each run has a profile and fonts of its own (only DejaVu, so that a picture is the same on every machine), a time limit, and a process
//! group that is killed at its end. It runs with `--no-sandbox`: as root, and in most containers, it starts only so, and what it opens here
//! are files of our own.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::picture::Picture;

/// Of Debian's `chromium-headless-shell`.
const PROGRAM: &str = "chromium-headless-shell";
/// Far more than a page takes, on a machine that does other things.
const LIMIT: Duration = Duration::from_secs(120);

/// What is seen of a page.
pub struct Seen {
    /// Lines of its console: errors, warnings, and what its policy refused.
    pub console: Vec<String>,
    /// Every address that was asked for over a network.
    pub requests: Vec<String>,
    /// How it looked.
    pub picture: Picture,
    /// The same as a file's bytes.
    pub png: Vec<u8>,
}

/// Opens a file in a window of this size.
pub fn open(page: &Path, (width, height): (u32, u32), dark: bool) -> Seen {
    let scratch = tempfile::Builder::new().prefix("h2k-browser-").tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    fs::write(
        at("fonts.conf"),
        format!(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n<fontconfig>\
             <dir>/usr/share/fonts/truetype/dejavu</dir><cachedir>{}</cachedir>{}{}</fontconfig>\n",
            at("fonts").display(),
            font("sans-serif", "DejaVu Sans"),
            font("monospace", "DejaVu Sans Mono"),
        ),
    )
    .unwrap();
    let said = fs::File::create(at("said")).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", scratch.path())
        .env("TMPDIR", scratch.path())
        .env("FONTCONFIG_FILE", at("fonts.conf"))
        .args([
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            "--force-color-profile=srgb",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--no-first-run"])
        .args(["--no-sandbox", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000"])
        .arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }))
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("--user-data-dir={}", at("profile").display()))
        .arg(format!("--log-net-log={}", at("net.json").display()))
        .arg(format!("--screenshot={}", at("page.png").display()));
    command.arg(format!("file://{}", page.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).process_group(0);
    let mut child = command.spawn().expect("chromium-headless-shell is installed by set-up");
    let group = Pid::from_child(&child);
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    // Whatever it has started ends with it. It may have none any more.
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
    let words = String::from_utf8_lossy(&fs::read(at("said")).unwrap()).into_owned();
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{words}");
    let png = fs::read(at("page.png")).unwrap();
    let log: Value = serde_json::from_slice(&fs::read(at("net.json")).unwrap()).unwrap();
    Seen {
        console: words.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect(),
        requests: requests(&log),
        picture: Picture::decode(&png),
        png,
    }
}

/// What a family of fonts stands for.
fn font(family: &str, name: &str) -> String {
    format!("<alias><family>{family}</family><prefer><family>{name}</family></prefer></alias>")
}

/// The addresses in a network log.
fn requests(log: &Value) -> Vec<String> {
    let events = log["events"].as_array().expect("the network log has events");
    let mut found: Vec<String> =
        events.iter().filter_map(|event| event["params"]["url"].as_str()).map(str::to_owned).collect();
    found.dedup();
    found
}

#[test]
fn what_a_page_says_or_asks_for_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    // The port is one that nobody listens at.
    fs::write(&page, "<p>x<img src=\"http://127.0.0.1:9/x.png\"><script>console.error('oops')</script>")
        .unwrap();
    let seen = open(&page, (200, 100), false);
    assert!(seen.console.iter().any(|line| line.contains("oops")), "{:?}", seen.console);
    assert_eq!(seen.requests, ["http://127.0.0.1:9/x.png"]);
}
