//! Repair by an installed virt-v2v, in place, on the overlays of the job.
//!
//! For guests that the repairs of this program do not know, and for whoever trusts virt-v2v more. It runs in the same confined process,
//! on the same overlays; what it made is looked at afterwards like any repair, and thrown away if it does not hold. It opens the guest in
//! an appliance of its own, so ours has to have ended before.
//!
//! ```text
//!   look (ours) ─▶ end ─▶ virt-v2v-in-place ─▶ look again (ours): the kernel that starts finds its disk
//! ```
//!
//! What is not here: when it is used (see [`super::work`]).

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::facts::Facts;
use super::tree::shown;
use super::work::{Event, Key, Order};
use crate::model::error::{Error, Kind, Result};
use crate::sys::process::find_program;

/// Its program that changes disks where they are.
const PROGRAM: &str = "virt-v2v-in-place";
/// How it says that it knows no such system.
const UNKNOWN_GUEST: &str = "unable to convert this guest type";
/// How it says that the guest can have virtio.
const HAS_VIRTIO: &str = "This guest has virtio drivers installed";
/// Longer lines are cut: they hold names out of the guest.
const LINE_LIMIT_BYTES: u64 = 16 << 10;
/// How many of its last lines an error shows.
const LAST_LINES: usize = 20;
/// Keys are for nobody else.
const KEY_MODE: u32 = 0o600;

/// What it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repaired {
    /// Whether the guest has drivers for virtio now; else it needs hardware that every system knows.
    pub(super) virtio: bool,
}

/// Refuses a machine that has no virt-v2v.
pub fn check_host() -> Result<()> {
    program().map(drop)
}

fn program() -> Result<PathBuf> {
    find_program(PROGRAM).ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("{PROGRAM} is not installed"))
            .field("pipeline.fix.engine")
            .advice("install it: `apt-get install virt-v2v` (Debian), `dnf install virt-v2v` (RHEL), or write `engine: native`")
    })
}

/// Lets it repair the guest in these drives, telling what it does.
pub(super) fn repair(order: &Order, facts: &Facts, emit: &mut dyn FnMut(Event)) -> Result<Repaired> {
    let program = program()?;
    let machine = order.temp.join("virt-v2v.xml");
    write_private(&machine, &description(order))?;
    let mut command = Command::new(program);
    command.args(["-i", "libvirtxml"]).arg(&machine).args(["--root", &root(facts)]);
    let keys = KeyFiles::write(order, facts)?;
    for selector in &keys.selectors {
        command.args(["--key", selector]);
    }
    // The same as for our own appliance: no daemon of libvirt's, and emulation where KVM does not work.
    if std::env::var_os("LIBGUESTFS_BACKEND").is_none() {
        command.env("LIBGUESTFS_BACKEND", "direct");
    }
    if !order.kvm {
        command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    }
    let told = run(command, order.log.as_deref(), emit);
    drop(keys);
    Ok(Repaired { virtio: told?.virtio })
}

/// The machine as virt-v2v wants to have it described. Only its disks matter: nothing is defined from it.
fn description(order: &Order) -> String {
    let mut text = String::from(
        "<domain type='kvm'>\n  <name>guest</name>\n  <memory unit='MiB'>1024</memory>\n  <vcpu>1</vcpu>\n  \
         <os><type arch='x86_64'>hvm</type></os>\n  <devices>\n",
    );
    for (number, drive) in order.drives.iter().enumerate() {
        let letter = letters(number);
        text.push_str(&format!(
            "    <disk type='file' device='disk'><driver name='qemu' type='{}'/><source file='{}'/><target dev='sd{letter}' bus='scsi'/></disk>\n",
            escaped(&drive.format),
            escaped(&drive.path.to_string_lossy()),
        ));
    }
    text.push_str("  </devices>\n</domain>\n");
    text
}

/// As Linux counts disks: a to z, then aa.
fn letters(number: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap_or_default());
    match number / 26 {
        0 => letter.to_string(),
        before => format!("{}{letter}", letters(before - 1)),
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '\'' => safe.push_str("&apos;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

/// The system that was looked at, where virt-v2v calls it by the same name; else the first that it finds.
fn root(facts: &Facts) -> String {
    let root = facts.layout.mounted.iter().find(|mounted| mounted.path == "/");
    root.filter(|root| !root.device.starts_with("/dev/mapper/") && !root.options.contains("subvol"))
        .map_or_else(|| "first".to_owned(), |root| root.device.clone())
}

/// The passphrases, in files: arguments are seen by everybody. They lie there only while virt-v2v runs.
#[derive(Debug, Default)]
struct KeyFiles {
    files: Vec<PathBuf>,
    /// For `--key`, one for each encrypted volume and each key that may open it.
    selectors: Vec<String>,
}

impl KeyFiles {
    fn write(order: &Order, facts: &Facts) -> Result<KeyFiles> {
        let mut keys = KeyFiles::default();
        let locked = facts.layout.volumes.iter().filter(|volume| volume.content == "crypto_LUKS");
        for volume in locked {
            let name = volume.uuid.as_deref().unwrap_or(&volume.device);
            let is_it = |uuid: &str| volume.uuid.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(uuid));
            let meant = |key: &&Key| {
                key.uuid.as_deref().is_none_or(is_it)
                    && key.device.as_deref().is_none_or(|device| device == volume.device)
            };
            for key in order.keys.iter().filter(meant) {
                let file = order.temp.join(format!("key{}", keys.files.len()));
                keys.files.push(file.clone());
                write_private(&file, &key.passphrase)?;
                keys.selectors.push(format!("{name}:file:{}", file.display()));
            }
        }
        Ok(keys)
    }
}

impl Drop for KeyFiles {
    fn drop(&mut self) {
        for file in &self.files {
            // Where that fails, the job's private directory goes in the end.
            let _ = std::fs::remove_file(file);
        }
    }
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(KEY_MODE).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Error::io(Kind::Output, "write", path, &error))
}

/// What it said that matters.
#[derive(Debug, Default)]
struct Told {
    virtio: bool,
    error: Option<String>,
    last: Vec<String>,
}

impl Told {
    /// Takes in one line of its output.
    fn hear(&mut self, line: &str, emit: &mut dyn FnMut(Event)) {
        let line = shown(line.trim_end());
        self.virtio |= line.contains(HAS_VIRTIO);
        match meaning(&line) {
            Meaning::Step(step) => emit(Event::Fixing { name: format!("virt-v2v: {step}") }),
            Meaning::Warning(message) => emit(Event::Warning { message: format!("virt-v2v: {message}") }),
            Meaning::Error(cause) => {
                self.error.get_or_insert_with(|| cause.to_owned());
            }
            Meaning::Other => {}
        }
        if self.last.len() == LAST_LINES {
            self.last.remove(0);
        }
        self.last.push(line);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning<'a> {
    /// `[  48.8] Converting 12.15 to run on KVM`
    Step(&'a str),
    /// `virt-v2v-in-place: warning: …`
    Warning(&'a str),
    /// `virt-v2v-in-place: error: …`
    Error(&'a str),
    Other,
}

fn meaning(line: &str) -> Meaning<'_> {
    if let Some((_, step)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        return Meaning::Step(step);
    }
    let Some(words) = line.strip_prefix("virt-v2v").and_then(|rest| rest.split_once(": ")) else {
        return Meaning::Other;
    };
    match (words.1.strip_prefix("warning: "), words.1.strip_prefix("error: ")) {
        (Some(message), _) => Meaning::Warning(message),
        (_, Some(cause)) => Meaning::Error(cause),
        _ => Meaning::Other,
    }
}

fn run(mut command: Command, log: Option<&Path>, emit: &mut dyn FnMut(Event)) -> Result<Told> {
    let lost = |error: &std::io::Error| {
        Error::new(Kind::Guest, format!("{PROGRAM} could not be run: {error}"))
            .advice("run `virt-v2v --version`, and install it anew if that fails")
            .transient()
    };
    let (reader, writer) = std::io::pipe().map_err(|error| lost(&error))?;
    let both = writer.try_clone().map_err(|error| lost(&error))?;
    let mut child =
        command.stdin(Stdio::null()).stdout(writer).stderr(both).spawn().map_err(|error| lost(&error))?;
    // It holds the writing ends, and the output has no end while it lives.
    drop(command);
    let mut log = log.and_then(|path| File::options().append(true).open(path).ok());
    let mut told = Told::default();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.by_ref().take(LINE_LIMIT_BYTES).read_until(b'\n', &mut line).map_err(|error| lost(&error))?
        > 0
    {
        if let Some(log) = &mut log {
            // The log is for people; a full disk shows where it matters.
            let _ = log.write_all(&line);
        }
        told.hear(&String::from_utf8_lossy(&line), emit);
        line.clear();
    }
    let status = child.wait().map_err(|error| lost(&error))?;
    if status.success() { Ok(told) } else { Err(failed(&told, status)) }
}

fn failed(told: &Told, status: std::process::ExitStatus) -> Error {
    let cause = told.error.clone().unwrap_or_else(|| format!("it ended with {status}"));
    let tail = told.last.join("\n");
    if cause.contains(UNKNOWN_GUEST) {
        return Error::new(Kind::Unsupported, format!("virt-v2v cannot repair this guest: {cause}"))
            .field("pipeline.fix.on_unsupported_guest")
            .advice("`on_unsupported_guest: emulated` converts it as it is, for hardware that it knows")
            .console_tail(tail);
    }
    Error::new(Kind::Guest, format!("virt-v2v failed: {cause}"))
        .field("pipeline.fix.engine")
        .advice(
            "the appliance's log beside the job's has all that it said; `engine: native` repairs without it",
        )
        .console_tail(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_told_apart() {
        assert_eq!(
            meaning("[  48.8] Converting 12.15 to run on KVM"),
            Meaning::Step("Converting 12.15 to run on KVM")
        );
        assert_eq!(meaning("virt-v2v-in-place: warning: no GRUB"), Meaning::Warning("no GRUB"));
        assert_eq!(meaning("virt-v2v: error: no root"), Meaning::Error("no root"));
        assert_eq!(meaning("virt-v2v: This guest has virtio drivers installed."), Meaning::Other);
        assert_eq!(meaning("nbdcopy: something"), Meaning::Other);
    }

    #[test]
    fn the_first_error_is_the_cause_and_an_unknown_guest_is_one_that_may_be_borne() {
        let mut told = Told::default();
        for line in [
            "virt-v2v-in-place: error: virt-v2v is unable to convert this guest type (linux/unknown)",
            "virt-v2v-in-place: error: second",
            "If reporting bugs, run virt-v2v with debugging enabled",
        ] {
            told.hear(line, &mut |_| {});
        }
        let error = failed(&told, std::process::ExitStatus::default());
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("linux/unknown"), "{error}");
        assert_eq!(error.details().place.field.as_deref(), Some("pipeline.fix.on_unsupported_guest"));
    }

    #[test]
    fn disks_are_counted_beyond_the_alphabet() {
        assert_eq!([0, 25, 26, 27, 701, 702].map(letters), ["a", "z", "aa", "ab", "zz", "aaa"]);
    }

    #[test]
    fn keys_lie_in_files_only_as_long_as_they_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let key = |uuid: &str| Key { uuid: Some(uuid.to_owned()), device: None, passphrase: "x".to_owned() };
        let order = Order {
            kvm: false,
            memory_mb: None,
            temp: dir.path().to_owned(),
            log: None,
            drives: Vec::new(),
            keys: vec![key("AB-12"), key("another")],
            fix: None,
            diffs: false,
        };
        let mut facts = Facts::default();
        facts.layout.volumes.push(crate::guest::facts::Volume {
            content: "crypto_LUKS".to_owned(),
            uuid: Some("ab-12".to_owned()),
            ..Default::default()
        });
        let keys = KeyFiles::write(&order, &facts).unwrap();
        assert_eq!(keys.selectors, [format!("ab-12:file:{}/key0", dir.path().display())]);
        assert_eq!(std::fs::read_to_string(dir.path().join("key0")).unwrap(), "x");
        drop(keys);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_cannot_leave_its_place_in_the_description() {
        assert_eq!(escaped("/a'/><b&\""), "/a&apos;/&gt;&lt;b&amp;&quot;");
    }
}
