//! Every case of what a second drop means, as tables.

use super::*;

/// A batch that is known: id, stem (`-` for a named one), content, how it ended (`…`: not yet).
type Row = (&'static str, &'static str, &'static str, &'static str);

fn known(rows: &[Row], batch_id: &str) -> Option<KnownBatch> {
    rows.iter().find(|row| row.0 == batch_id).map(|(id, stem, content, outcome)| KnownBatch {
        batch_id: (*id).to_owned(),
        stem: (*stem != "-").then(|| (*stem).to_owned()),
        content_sha256: (*content).to_owned(),
        outcome: match *outcome {
            "…" => None,
            "completed" => Some(BatchState::Completed),
            "cancelled" => Some(BatchState::Cancelled),
            _ => Some(BatchState::Failed),
        },
    })
}

/// `new x`, `continue x`, `all done x`, or `duplicate of x`.
fn batch(rows: &[Row], name: &BatchName, content: &str, rerun: Rerun) -> String {
    let same = |ended: &str| rows.iter().find(|row| row.2 == content && row.3 == ended).map(|row| row.0);
    let question = BatchQuestion {
        name,
        content_sha256: content,
        rerun,
        same_unfinished: same("…"),
        same_completed: same("completed").is_some(),
    };
    match decide_batch(&question, |batch_id| Ok(known(rows, batch_id))) {
        Ok(BatchDecision::New { batch_id }) => format!("new {batch_id}"),
        Ok(BatchDecision::Continue { batch_id }) => format!("continue {batch_id}"),
        Ok(BatchDecision::AllDone { batch_id }) => format!("all done {batch_id}"),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Duplicate);
            assert!(error.details().advice.is_some());
            let named = error.details().cause.split('`').nth(1).unwrap().to_owned();
            format!("duplicate of {named}")
        }
    }
}

#[test]
fn a_single_vm_manifest_is_called_after_its_file() {
    let web = BatchName::Stem("web".to_owned());
    use Rerun::{All, Changed, Failed};
    let cases: &[(&str, &[Row], &str, Rerun, &str)] = &[
        ("nothing known", &[], "A", Failed, "new web"),
        ("the same, not ended", &[("web", "web", "A", "…")], "A", Failed, "duplicate of web"),
        ("the same, not ended, rerun", &[("web", "web", "A", "…")], "A", All, "duplicate of web"),
        ("the same under another name, not ended", &[("db", "db", "A", "…")], "A", Failed, "duplicate of db"),
        ("the same, failed", &[("web", "web", "A", "failed")], "A", Failed, "continue web"),
        ("the same, cancelled", &[("web", "web", "A", "cancelled")], "A", Failed, "continue web"),
        ("the same, succeeded", &[("web", "web", "A", "completed")], "A", Failed, "all done web"),
        ("nothing has changed", &[("web", "web", "A", "completed")], "A", Changed, "all done web"),
        ("the same, succeeded, all again", &[("web", "web", "A", "completed")], "A", All, "continue web"),
        ("succeeded under another name", &[("db", "db", "A", "completed")], "A", Failed, "all done web"),
        ("mended after a failure", &[("web", "web", "A", "failed")], "B", Failed, "continue web"),
        ("other content succeeded", &[("web", "web", "A", "completed")], "B", Failed, "new web-2"),
        ("other content not ended", &[("web", "web", "A", "…")], "B", Failed, "new web-2"),
        ("a wanted change", &[("web", "web", "A", "completed")], "B", Changed, "continue web"),
        ("a wanted rerun", &[("web", "web", "A", "completed")], "B", All, "continue web"),
        ("a wanted change, not ended", &[("web", "web", "A", "…")], "B", Changed, "new web-2"),
        (
            "two are taken",
            &[("web", "web", "A", "completed"), ("web-2", "web", "B", "…")],
            "C",
            Failed,
            "new web-3",
        ),
        (
            "the second failed",
            &[("web", "web", "A", "completed"), ("web-2", "web", "B", "failed")],
            "B",
            Failed,
            "continue web-2",
        ),
        (
            "its own content comes before another's failure",
            &[
                ("web", "web", "A", "completed"),
                ("web-2", "web", "B", "failed"),
                ("web-3", "web", "C", "failed"),
            ],
            "C",
            Failed,
            "continue web-3",
        ),
        ("a named batch has the name", &[("web", "-", "A", "failed")], "B", Failed, "new web-2"),
        (
            "another stem has the number",
            &[("web", "web", "A", "…"), ("web-2", "web-2", "B", "failed")],
            "C",
            Failed,
            "new web-3",
        ),
    ];
    for (case, rows, content, rerun, expected) in cases {
        assert_eq!(batch(rows, &web, content, *rerun), *expected, "{case}");
    }
}

#[test]
fn a_batch_that_names_itself_keeps_its_name() {
    let migration = BatchName::Named("migration".to_owned());
    use Rerun::{All, Failed};
    let cases: &[(&str, &[Row], &str, Rerun, &str)] = &[
        ("nothing known", &[], "A", Failed, "new migration"),
        ("not ended", &[("migration", "-", "A", "…")], "B", Failed, "duplicate of migration"),
        ("not ended, rerun", &[("migration", "-", "A", "…")], "B", All, "duplicate of migration"),
        ("failed, the same", &[("migration", "-", "A", "failed")], "A", Failed, "continue migration"),
        ("failed, mended", &[("migration", "-", "A", "failed")], "B", Failed, "continue migration"),
        ("succeeded, the same", &[("migration", "-", "A", "completed")], "A", Failed, "all done migration"),
        ("succeeded, all again", &[("migration", "-", "A", "completed")], "A", All, "continue migration"),
        ("succeeded, VMs added", &[("migration", "-", "A", "completed")], "B", Failed, "continue migration"),
    ];
    for (case, rows, content, rerun, expected) in cases {
        assert_eq!(batch(rows, &migration, content, *rerun), *expected, "{case}");
    }
}

#[test]
fn a_numbered_name_stays_an_id() {
    assert_eq!(numbered("web", 1), "web");
    assert_eq!(numbered("web", 12), "web-12");
    let long = "x".repeat(128);
    assert!(crate::model::units::is_id(&numbered(&long, 345)));
}

/// A result: content, and what of it is there (`whole`, `part`, `gone`).
type Past = (&'static str, &'static str);

/// `run`, `beside`, `done 1`, `refused`. Results are newest first; their jobs count from 1.
fn vm(last: Option<JobState>, past: &[Past], content: &str, rerun: Rerun, on_exists: OnExists) -> String {
    let successes: Vec<PastSuccess> = (1..)
        .zip(past)
        .map(|(job_id, (content, there))| PastSuccess {
            job_id,
            content_sha256: (*content).to_owned(),
            intact: *there == "whole",
            in_the_way: *there != "gone",
        })
        .collect();
    let question = VmQuestion {
        batch_id: "migration",
        vm_id: "web",
        content_sha256: content,
        rerun,
        on_exists,
        last,
        successes: &successes,
    };
    match decide_vm(&question) {
        Ok(VmDecision::Run) => "run".to_owned(),
        Ok(VmDecision::RunBeside) => "beside".to_owned(),
        Ok(VmDecision::AlreadyDone { job_id }) => format!("done {job_id}"),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Duplicate);
            assert!(error.to_string().contains("rerun: changed"), "{error}");
            "refused".to_owned()
        }
    }
}

/// The case, what its newest job came to, its results, its content now, what is asked for, what comes of it.
type VmCase = (&'static str, Option<JobState>, &'static [Past], &'static str, Rerun, OnExists, &'static str);

#[test]
fn each_vm_of_a_batch_that_continues_is_decided_for_itself() {
    use JobState::{Cancelled, Failed as JobFailed, Skipped, Succeeded};
    use OnExists::{Refuse, Replace};
    use Rerun::{All, Changed, Failed};
    let cases: &[VmCase] = &[
        ("a new VM", None, &[], "A", Failed, Refuse, "run"),
        ("failed", Some(JobFailed), &[], "A", Failed, Refuse, "run"),
        ("cancelled", Some(Cancelled), &[], "B", Failed, Refuse, "run"),
        ("succeeded", Some(Succeeded), &[("A", "whole")], "A", Failed, Refuse, "done 1"),
        (
            "skipped after success",
            Some(Skipped),
            &[("A", "whole"), ("A", "whole")],
            "A",
            Failed,
            Refuse,
            "done 1",
        ),
        (
            "succeeded, nothing has changed",
            Some(Succeeded),
            &[("A", "whole")],
            "A",
            Changed,
            Refuse,
            "done 1",
        ),
        ("succeeded, all again", Some(Succeeded), &[("A", "whole")], "A", All, Refuse, "beside"),
        ("succeeded, all again, in its place", Some(Succeeded), &[("A", "whole")], "A", All, Replace, "run"),
        ("its result is gone", Some(Succeeded), &[("A", "gone")], "A", Failed, Refuse, "run"),
        ("part of its result is gone", Some(Succeeded), &[("A", "part")], "A", Failed, Refuse, "beside"),
        ("part of it is gone, in its place", Some(Succeeded), &[("A", "part")], "A", Failed, Replace, "run"),
        ("changed since", Some(Succeeded), &[("A", "whole")], "B", Failed, Refuse, "refused"),
        ("changed since, in its place", Some(Succeeded), &[("A", "whole")], "B", Failed, Replace, "refused"),
        (
            "changed since, and its result is gone",
            Some(Succeeded),
            &[("A", "gone")],
            "B",
            Failed,
            Refuse,
            "refused",
        ),
        ("a wanted change", Some(Succeeded), &[("A", "whole")], "B", Changed, Refuse, "beside"),
        ("a wanted change, in its place", Some(Succeeded), &[("A", "whole")], "B", Changed, Replace, "run"),
        ("a wanted change, all again", Some(Succeeded), &[("A", "whole")], "B", All, Refuse, "beside"),
        ("the change failed, tried again", Some(JobFailed), &[("A", "whole")], "B", Failed, Refuse, "beside"),
        ("back to what succeeded", Some(JobFailed), &[("A", "whole")], "A", Failed, Refuse, "done 1"),
        (
            "back to what succeeded before",
            Some(Succeeded),
            &[("B", "whole"), ("A", "whole")],
            "A",
            Failed,
            Refuse,
            "done 2",
        ),
    ];
    for (case, last, past, content, rerun, on_exists, expected) in cases {
        assert_eq!(vm(*last, past, content, *rerun, *on_exists), *expected, "{case}");
    }
}

#[test]
fn a_queue_that_fails_is_no_refusal() {
    let name = BatchName::Stem("web".to_owned());
    let question = BatchQuestion {
        name: &name,
        content_sha256: "A",
        rerun: Rerun::Failed,
        same_unfinished: None,
        same_completed: false,
    };
    let full = || Error::new(Kind::DiskSpace, "full");
    assert_eq!(decide_batch(&question, |_| Err(full())).unwrap_err().kind(), Kind::DiskSpace);
}
