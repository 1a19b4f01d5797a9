//! Ledgers of long migrations: what is told of any number of acts, and that nothing which is outstanding is lost.

use super::acts::*;

fn snapshot(name: &str) -> ActKind {
    ActKind::Snapshot { name: name.to_owned(), moref: None, quiesced: None }
}

/// The numbers of acts.
fn numbers<'a>(acts: impl Iterator<Item = (usize, &'a Act)>) -> Vec<usize> {
    acts.map(|(number, _)| number).collect()
}

/// The passes of a migration: of each a snapshot that is made and goes.
fn passes(acts: &mut Acts, numbers: std::ops::Range<u32>) {
    for at in numbers.map(f64::from) {
        let made = acts.intend(snapshot("a"), at);
        acts.done(made, snapshot("a"), at + 0.1).unwrap();
        acts.undone(made, at + 0.2).unwrap();
    }
}

#[test]
fn of_any_number_of_passes_the_newest_are_told_and_how_many_are_not() {
    let mut acts = Acts::default();
    let tracking = acts.intend(ActKind::ChangeTracking, 1.0);
    acts.done(tracking, ActKind::ChangeTracking, 1.5).unwrap();
    passes(&mut acts, 10..4010);
    assert_eq!(acts.all().count(), 1 + MOST_UNDONE + 1);
    let told = numbers(acts.all());
    assert_eq!((told[0], told[1], told.last()), (tracking, 3992, Some(&4000)));
    assert_eq!(acts.all().map(|(_, act)| 1 + act.left_out).sum::<usize>(), 4001, "each is counted");
    let text = serde_json::to_string(&acts).unwrap();
    assert!(text.contains(r#""left_out":3991"#) && text.len() < 2000, "{text}");
    assert_eq!(serde_json::from_str::<Acts>(&text).unwrap(), acts);
    let stopped = acts.intend(ActKind::ShutDown { forced: false }, 5000.0);
    assert_eq!(stopped, 4001);
    assert_eq!(acts.shut_down().map(|(number, _)| number), Some(stopped));
    acts.undone(tracking, 5001.0).unwrap();
    assert_eq!(numbers(acts.outstanding()), [stopped]);
}

#[test]
fn what_is_outstanding_or_belongs_to_the_result_is_never_left_out() {
    let mut acts = Acts::default();
    passes(&mut acts, 1..30);
    let left = acts.intend(snapshot("left"), 30.0);
    passes(&mut acts, 31..60);
    let stopped = acts.intend(ActKind::ShutDown { forced: false }, 60.0);
    acts.undone(stopped, 61.0).unwrap();
    let again = acts.intend(ActKind::ShutDown { forced: true }, 62.0);
    passes(&mut acts, 63..200);
    let wanted = acts.intend(ActKind::Annotated { before: String::new() }, 200.0);
    assert_eq!(numbers(acts.outstanding()), [wanted, again, left]);
    assert_eq!(acts.get(stopped).map(|act| act.intended_at), Some(60.0));
    assert_eq!((acts.oldest_snapshot_at(), acts.get(0), acts.get(usize::MAX)), (Some(30.0), None, None));
    acts.undone(left, 201.0).unwrap();
    assert!(acts.undone(0, 202.0).is_err(), "it is not there any more");
}

#[test]
fn two_who_leave_out_different_ones_agree_and_what_either_knows_to_be_undone_is() {
    let mut journal = Acts::default();
    passes(&mut journal, 0..100);
    let mut queue = journal.clone();
    let made = journal.intend(snapshot("a"), 100.0);
    let heard = journal.clone();
    passes(&mut journal, 101..150);
    for merged in [journal.merged(&queue), queue.merged(&journal), heard.merged(&journal)] {
        assert_eq!(merged, journal);
    }
    // One was undone by somebody whom the journal has not heard of.
    queue = journal.clone();
    queue.undone(made, 200.0).unwrap();
    for merged in [journal.merged(&queue), queue.merged(&journal)] {
        assert_eq!(merged, queue);
    }
    // What only the one who has heard of less would leave out stays to be looked for.
    let mut other = heard.clone();
    other.undone(made, 200.0).unwrap();
    passes(&mut other, 101..149);
    assert_eq!(other.get(made), None);
    assert_eq!(journal.merged(&other).get(made).map(|act| act.state), Some(ActState::Intended));
}

#[test]
fn a_ledger_from_before_counts_as_it_did_and_one_with_impossible_numbers_does_no_harm() {
    let one = r#"{"act":"snapshot","name":"a","state":"done","intended_at":1.0}"#;
    let acts: Acts = serde_json::from_str(&format!("[{one},{one}]")).unwrap();
    assert_eq!(acts.all().map(|(number, act)| (number, act.left_out)).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
    let most = one.replace("1.0", &format!(r#"1.0,"left_out":{}"#, usize::MAX));
    let mut acts: Acts = serde_json::from_str(&format!("[{most},{most}]")).unwrap();
    acts.intend(snapshot("b"), 2.0);
    assert_eq!(acts.outstanding().count(), 3);
}

#[test]
fn while_the_work_waits_changes_go_on_being_tracked_and_nothing_else_stays() {
    let mut acts = Acts::default();
    acts.intend(ActKind::ChangeTracking, 1.0);
    let made = acts.intend(snapshot("a"), 2.0);
    let stopped = acts.intend(ActKind::ShutDown { forced: false }, 3.0);
    assert_eq!(numbers(acts.to_undo_meanwhile(false)), [stopped, made]);
    assert_eq!(numbers(acts.to_undo_meanwhile(true)), [made]);
}

#[test]
fn what_is_gone_with_its_source_is_neither_undone_nor_left_to_be() {
    let mut acts = Acts::default();
    let made = acts.intend(snapshot("a"), 1.0);
    let noted = acts.intend(ActKind::Annotated { before: String::new() }, 2.0);
    acts.gone(made, 3.0).unwrap();
    assert!(acts.undone(made, 4.0).is_err() && acts.gone(made, 4.0).is_err());
    acts.gone(noted, 3.0).unwrap();
    assert!(acts.outstanding().next().is_none() && !acts.is_unfinished());
    assert_eq!((acts.oldest_snapshot_at(), acts.lost().count()), (None, 2));
    let mut other = Acts::default();
    other.intend(snapshot("a"), 1.0);
    other.undone(0, 5.0).unwrap();
    assert_eq!(other.merged(&acts).get(0).map(|act| act.state), Some(ActState::Gone));
}

#[test]
fn the_oldest_snapshot_is_one_that_may_still_be_there() {
    let mut acts = Acts::default();
    assert_eq!(acts.oldest_snapshot_at(), None);
    let first = acts.intend(snapshot("a"), 1.0);
    acts.intend(ActKind::ChangeTracking, 2.0);
    acts.intend(snapshot("b"), 3.0);
    assert_eq!(acts.oldest_snapshot_at(), Some(1.0));
    acts.undone(first, 4.0).unwrap();
    assert_eq!(acts.oldest_snapshot_at(), Some(3.0));
}
