//! The lines that a service and its workers exchange, and the small grammars of the model.

use proptest::prelude::*;

use hyper2kvm::model::protocol::{WorkOrder, WorkerCommand, WorkerEvent};
use hyper2kvm::model::units;

use crate::hold;
use crate::mutate::{mutated, steps};

const EVENTS: [&str; 5] = [
    r#"{"event":"started","pid":17,"resumed":false}"#,
    r#"{"event":"stage_finished","stage":"load","seconds":0.5,"result":{"disks":[1,2,3]}}"#,
    r#"{"event":"disk","disk":"boot","bytes_total":1,"bytes_done":1,"bytes_per_second":1,"virtual_size":1}"#,
    r#"{"event":"progress","percentage":31.5}"#,
    r#"{"event":"finished","outcome":"failed","error":{"kind":"source","message":"gone"}}"#,
];

#[test]
fn a_line_of_a_worker_is_an_event_or_an_error() {
    hold(2000, &(0..EVENTS.len(), steps()), |(seed, steps)| {
        let line = mutated(EVENTS[seed].as_bytes(), &steps);
        if let Ok(event) = serde_json::from_slice::<WorkerEvent>(&line) {
            let again = serde_json::to_vec(&event).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let back: WorkerEvent =
                serde_json::from_slice(&again).map_err(|e| TestCaseError::fail(format!("{event:?}: {e}")))?;
            prop_assert_eq!(back, event);
        }
        Ok(())
    });
}

#[test]
fn a_line_to_a_worker_is_a_command_or_an_error() {
    let seed = br#"{"command":"cancel","keep_partial":true}"#;
    hold(2000, &steps(), |steps| {
        let line = mutated(seed, &steps);
        let _ = serde_json::from_slice::<WorkerCommand>(&line);
        let _ = serde_json::from_slice::<WorkOrder>(&line);
        Ok(())
    });
}

#[test]
fn sizes_and_durations_are_understood_or_refused() {
    hold(4000, &"[ -~]{0,24}|[0-9.]{1,30} ?[a-zA-Z/%]{0,6}", |text: String| {
        if let Ok(seconds) = units::parse_duration_s(&text) {
            prop_assert!(seconds.is_finite() && seconds >= 0.0, "{text}: {seconds}");
        }
        let _ = units::parse_size(&text);
        Ok(())
    });
}

#[test]
fn what_is_made_safe_is_an_id() {
    hold(4000, &any::<String>(), |text| {
        let id = units::safe_id(&text);
        prop_assert!(id.is_empty() || units::is_id(&id), "{text:?} became {id:?}");
        Ok(())
    });
}
