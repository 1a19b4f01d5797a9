//! Children as they are bound: sandbox, death with the parent, limits, lack of progress, commands from outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyper2kvm::disk::{Control, Interruption, Target};
use hyper2kvm::model::error::{Disposition, Kind};
use hyper2kvm::model::plan::{OutputFormat, Preallocation, SourceFormat};
use hyper2kvm::sys::kvm;
use hyper2kvm::sys::process::{Capture, ChildLimits, ChildSpec, ProcessError, Watch};
use hyper2kvm::sys::sandbox::{self, Rules};

use crate::support::{disks, wait_for};
use crate::{engine, launcher, open, target};

fn shell(script: &str) -> ChildSpec {
    ChildSpec::new("/bin/sh", ["-c", script])
}

fn confined(script: &str, read: &[&Path], write: &[&Path]) -> ChildSpec {
    let owned = |paths: &[&Path]| paths.iter().map(|path| path.to_path_buf()).collect();
    let rules = Rules { read: owned(read), write: owned(write), required: true, ..Rules::default() };
    ChildSpec { sandbox: Some(rules), ..shell(script) }
}

/// Whether a process is there and not only waiting to be reaped.
fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_confined_child_can_neither_write_its_source_nor_read_or_run_anything_else() {
    assert!(sandbox::available(), "this kernel has no landlock");
    let dir = tempfile::tempdir().unwrap();
    let [source, result, secret] = ["source", "result", "secret"].map(|name| dir.path().join(name));
    for path in [&source, &result, &secret] {
        std::fs::write(path, "old").unwrap();
    }
    let script = format!(
        "cat {s} && ! (echo new > {s}) && ! (: >> {s}) && ! rm {s} && ! mv {s} {s}2 && ! cat {x} && ! cat /etc/shadow \
         && ! (echo new > {d}/other) && ! ls {d} && echo new > {r} && echo all held",
        s = source.display(),
        r = result.display(),
        x = secret.display(),
        d = dir.path().display(),
    );
    let output = launcher().run_short(&confined(&script, &[&source], &[&result]), &mut |_| ()).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("all held"), "{said}\n{}", output.complaint());
    assert_eq!(std::fs::read_to_string(&source).unwrap(), "old");
    assert_eq!(std::fs::read_to_string(&result).unwrap(), "new\n");
}

#[test]
fn a_child_has_a_clean_environment_no_input_and_no_way_to_more_privileges() {
    let script =
        "env; cat; grep -E 'NoNewPrivs|^SigIgn' /proc/self/status; cat /proc/self/oom_score_adj; ulimit -c";
    let mut spec = shell(script);
    spec.env.push(("GIVEN".to_owned(), "yes".to_owned()));
    let mut launcher_command = launcher();
    let output = launcher_command.clone().run_short(&spec, &mut |_| ()).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("LC_ALL=C\n") && said.contains("GIVEN=yes\n"), "{said}");
    assert!(!said.contains("CARGO"), "{said}");
    assert!(said.contains("NoNewPrivs:\t1"), "{said}");
    assert!(said.ends_with("500\n0\n"), "{said}");
    // A stub that is not there is told as such.
    launcher_command = hyper2kvm::sys::process::Launcher::with_stub("/not/there");
    assert!(matches!(launcher_command.run_short(&spec, &mut |_| ()), Err(ProcessError::Start { .. })));
}

#[test]
fn relative_names_of_a_child_count_from_the_directory_that_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("note"), "found").unwrap();
    let spec = ChildSpec {
        directory: Some(dir.path().to_owned()),
        ..confined("cat note && echo there > answer", &[], &[dir.path()])
    };
    let output = launcher().run_short(&spec, &mut |_| ()).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "found", "{}", output.complaint());
    assert_eq!(std::fs::read_to_string(dir.path().join("answer")).unwrap(), "there\n");
}

#[test]
fn a_program_that_is_not_there_is_told_as_such() {
    let error = launcher().run_short(&ChildSpec::new("/not/there", [""; 0]), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[test]
fn children_die_with_their_parent() {
    // The parent here is a worker of its own: a stub that becomes a shell, whose child is a stub again.
    // Killing the test is no option, so a real process in between is killed.
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let order = serde_json::json!({
        "parent": 0,
        "spec": {
            "program": "/bin/sh",
            "args": ["-c", format!("echo $$ > {}; exec sleep 600", pid_file.display())],
            "env": [], "limits": {}, "sandbox": null,
        },
    });
    // `$$` is the shell that starts the stub and stays its parent.
    let script = format!(
        "printf '%s' '{}' | sed \"s/\\\"parent\\\":0/\\\"parent\\\":$$/\" > {order} && {stub} stub < {order} & wait",
        order.to_string().replace('\'', "'\\''"),
        order = dir.path().join("order").display(),
        stub = env!("CARGO_BIN_EXE_hyper2kvm"),
    );
    let script = script.replace(" & wait", "; true");
    let mut parent = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
    let child = wait_for("the grandchild to run", || {
        std::fs::read_to_string(&pid_file).ok().filter(|text| text.ends_with('\n'))
    });
    let child = child.trim();
    assert!(is_alive(child));
    parent.kill().unwrap();
    parent.wait().unwrap();
    let killed = Instant::now();
    wait_for("the grandchild to be gone", || (!is_alive(child)).then_some(()));
    assert!(killed.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stub_whose_parent_has_ended_starts_nothing() {
    let order = serde_json::json!({
        "parent": 1,
        "spec": {"program": "/bin/echo", "args": ["ran"], "env": [], "limits": {}, "sandbox": null},
    });
    let mut stub = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .arg("stub")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut stub.stdin.take().unwrap(), order.to_string().as_bytes()).unwrap();
    let output = stub.wait_with_output().unwrap();
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the parent has ended"));
}

#[test]
fn limits_of_memory_processor_time_wall_time_and_file_size_hold() {
    let bound = |script: &str, limits: ChildLimits| {
        launcher().run_short(&ChildSpec { limits, ..shell(script) }, &mut |_| ())
    };
    let none = ChildLimits::default();
    let memory = bound(
        "exec dd if=/dev/zero of=/dev/null bs=400M count=1",
        ChildLimits { memory_bytes: Some(200 << 20), wall_s: Some(120.0), ..none },
    );
    assert!(!memory.unwrap().status.success());
    let processor =
        bound("while :; do :; done", ChildLimits { cpu_s: Some(1), wall_s: Some(120.0), ..none }).unwrap();
    assert_eq!(processor.ending(), "killed by signal 24");
    let wall = bound("sleep 600", ChildLimits { wall_s: Some(0.3), ..none }).unwrap_err();
    assert!(matches!(wall, ProcessError::TimedOut { .. }), "{wall}");
    let dir = tempfile::tempdir().unwrap();
    let script = format!("exec head -c 1000000 /dev/zero > {}/file", dir.path().display());
    let size = bound(&script, ChildLimits { file_size_bytes: Some(1000), ..none }).unwrap();
    assert!(!size.status.success());
    assert_eq!(std::fs::metadata(dir.path().join("file")).unwrap().len(), 1000);
}

#[test]
fn an_ended_child_takes_everything_it_started_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; echo started; wait", pid_file.display());
    let mut child = launcher().start(&shell(&script)).unwrap();
    let group = child.group();
    let mut lines = Vec::new();
    let output = child
        .supervise(
            Capture::Lines(&mut |line| {
                lines.push(line.to_owned());
                group.kill();
            }),
            Duration::from_millis(50),
            &mut || Watch::GoOn,
        )
        .unwrap();
    assert_eq!(output.ending(), "killed by signal 9");
    assert_eq!(lines, ["started"]);
    let below = std::fs::read_to_string(pid_file).unwrap();
    wait_for("the child's child to be gone", || (!is_alive(below.trim())).then_some(()));
}

#[test]
fn a_child_that_says_more_than_is_kept_is_read_to_its_end() {
    let script = "head -c 40000000 /dev/zero; head -c 1000000 /dev/zero >&2; echo the end >&2";
    let output = launcher().run_short(&shell(script), &mut |_| ()).unwrap();
    assert!(output.status.success());
    assert!(output.truncated);
    assert!(output.stdout.len() < 40_000_000);
    assert!(output.complaint().ends_with("the end"));
}

/// A disk large enough that its copy, which is one that QEMU makes, can be met while it runs.
fn large_copy(dir: &Path) -> (PathBuf, Target) {
    let disk = disks::disk(dir, "large", "raw", 600, 600, 11);
    let target = Target {
        preallocation: Preallocation::Full,
        ..target(dir.join("result.qcow2"), OutputFormat::Qcow2)
    };
    (disk, target)
}

/// The process that has this file open for writing by name in its command line.
fn copying(target: &Path) -> Option<String> {
    let name = target.display().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.contains("convert") && line.contains(&name))
            .then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

#[test]
fn a_copy_that_makes_no_progress_is_ended_as_transient() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, target) = large_copy(dir.path());
    let mut engine = engine();
    engine.stall_timeout_s = 1.5;
    let control = Control::new();
    let source = open(&disk, SourceFormat::Raw).unwrap();
    let measure = engine.measure(&source, &target, &control).unwrap();
    let stopper = std::thread::spawn({
        let path = target.path.clone();
        move || {
            let pid = wait_for("the copy to run", || copying(&path));
            // From outside: to our own pause the clock stands still.
            assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
        }
    });
    let error = engine.copy(&source, &target, &measure, &control, &mut |_| ()).unwrap_err();
    stopper.join().unwrap();
    assert_eq!((error.kind(), error.disposition()), (Kind::Conversion, Disposition::Transient));
    assert!(error.to_string().contains("no progress"), "{error}");
    assert_eq!(copying(&target.path), None);
}

#[test]
fn a_copy_stands_still_while_paused_and_ends_when_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, target) = large_copy(dir.path());
    let mut engine = engine();
    engine.stall_timeout_s = 1.0;
    let control = Control::new();
    let source = open(&disk, SourceFormat::Raw).unwrap();
    let measure = engine.measure(&source, &target, &control).unwrap();
    let hand = std::thread::spawn({
        let (control, path) = (control.clone(), target.path.clone());
        move || {
            let pid = wait_for("the copy to run", || copying(&path));
            control.pause();
            let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            wait_for("the copy to stand still", || state().contains(") T ").then_some(()));
            // Longer than the stall limit: a pause is no lack of progress.
            std::thread::sleep(Duration::from_millis(1500));
            assert!(state().contains(") T "));
            control.resume();
            wait_for("the copy to go on", || (!state().contains(") T ")).then_some(()));
            control.cancel(false);
        }
    });
    let error = engine.copy(&source, &target, &measure, &control, &mut |_| ()).unwrap_err();
    hand.join().unwrap();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert_eq!(control.interruption(), Some(Interruption::Cancel { keep_partial: false }));
    assert_eq!(copying(&target.path), None);
}

#[test]
fn kvm_is_believed_only_when_a_guest_answered() {
    kvm::probe_emulation(&launcher()).unwrap();
    let started = Instant::now();
    let probe = kvm::probe(&launcher());
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(!probe.works || probe.present);
    assert!(!probe.detail.is_empty());
    println!("{probe:?}");
}

#[test]
fn a_confined_parent_still_sees_what_its_child_does() {
    // The stub confines a shell as a worker confines itself; the shell's child is confined further.
    let inner = serde_json::json!({
        "parent": 0,
        "spec": {
            "program": "/bin/sleep", "args": ["600"], "env": [], "limits": {},
            "sandbox": {"read": [], "write": [], "execute": [], "required": true, "network": false},
        },
    });
    let dir = tempfile::tempdir().unwrap();
    let stub = Path::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    let script = format!(
        "cd {dir}; printf '%s' '{inner}' | sed \"s/\\\"parent\\\":0/\\\"parent\\\":$$/\" > order; {stub} stub < order & \
         child=$!; until grep -q sleep /proc/$child/comm; do :; done; \
         grep -q rchar /proc/$child/io && grep -q sleep /proc/$child/stat && echo seen; kill $child",
        dir = dir.path().display(),
        stub = stub.display(),
    );
    let mut spec = confined(&script, &[Path::new("/proc")], &[dir.path()]);
    spec.sandbox.as_mut().unwrap().execute.push(stub.to_owned());
    spec.limits.wall_s = Some(60.0);
    let output = launcher().run_short(&spec, &mut |_| ()).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "seen\n", "{}", output.complaint());
}

#[test]
fn a_child_that_is_spoken_with_answers_complains_and_dies_with_its_conversation() {
    let soon = Duration::from_secs(10);
    let script = "echo $$; while read line; do [ \"$line\" = end ] && { echo why >&2; exit 3; }; echo \"<$line>\"; done";
    let mut spoken = launcher().converse(&shell(script)).unwrap();
    let hear = |spoken: &mut hyper2kvm::sys::process::Conversation| {
        let mut said = String::new();
        while !said.ends_with('\n') {
            let mut bytes = [0; 64];
            let count = spoken.hear(&mut bytes, soon).unwrap().unwrap();
            assert!(count > 0, "it has ended after {said}");
            said.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        said
    };
    let first = hear(&mut spoken);
    spoken.tell(b"one\n", soon).unwrap();
    assert_eq!(hear(&mut spoken), "<one>\n");
    assert_eq!(
        spoken.hear(&mut [0; 8], Duration::from_millis(20)).unwrap(),
        None,
        "it says nothing by itself"
    );
    drop(spoken);
    assert!(!is_alive(first.trim()), "it dies with whoever spoke with it");
    let mut spoken = launcher().converse(&shell(script)).unwrap();
    hear(&mut spoken);
    spoken.tell(b"end\n", soon).unwrap();
    assert_eq!(spoken.hear(&mut [0; 8], soon).unwrap(), Some(0), "its end is told");
    assert_eq!(spoken.complaint(), "why");
    let missing = ChildSpec::new("/not/there", [""; 0]);
    let mut spoken = launcher().converse(&missing).unwrap();
    assert_eq!(spoken.hear(&mut [0; 8], soon).unwrap(), Some(0));
    assert!(spoken.complaint().contains("exec"), "the stub says why it could not become the program");
}
