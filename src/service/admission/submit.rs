//! A manifest that comes over the control socket: the same as a drop, with somebody who waits for the answer.

use std::path::Path;
use std::sync::Arc;

use super::{Known, Results, places};
use crate::model::api::{Refusal, RefusalCode, SubmitRequest};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind};
use crate::pipeline::described;
use crate::pipeline::host_lock::Who;
use crate::service::queue::{Admission, Claim, NewDrop, QueueHandle};

/// How often what has to be known may change while it is found out.
pub(in crate::service) const MAX_OFFERS: u32 = 4;

/// Has a manifest accepted and answers its jobs. Blocks; never call it from async code.
pub(in crate::service) fn submit(
    request: SubmitRequest,
    queue: &QueueHandle,
    (results, who): (&Results, &Who),
    settings: &Arc<Settings>,
) -> Result<Vec<i64>, Refusal> {
    let invalid = |error| Refusal { code: RefusalCode::Invalid, error };
    let bytes = request.content.into_bytes();
    let base_directory = Path::new(&request.base_directory);
    let submission =
        described::submission(&bytes, &request.filename, base_directory, settings).map_err(invalid)?;
    let takeover = request.takeover;
    let drop = NewDrop { claim: Some(Claim { takeover }), ..NewDrop::new(bytes, None, submission) };
    let mut known = Known::default();
    for _ in 0..MAX_OFFERS {
        let (offered, settings, told) = ([drop.clone()], Arc::clone(settings), known.clone());
        let admission = queue.with_blocking(move |db| db.accept(&offered, &settings, &told))?.pop();
        match admission {
            Some(Admission::Accepted { jobs, .. }) => return Ok(jobs),
            Some(Admission::Refused(error)) => {
                let code = match error.kind() {
                    Kind::Duplicate | Kind::Exists => RefusalCode::WrongState,
                    _ => RefusalCode::Invalid,
                };
                return Err(Refusal { code, error });
            }
            Some(Admission::Asks(mut paths)) => {
                places::find_out(&mut paths, (who, takeover), &mut known)?;
                results.find_out(&paths, &mut known)?;
            }
            None => return Err(Error::internal("a submission was neither accepted nor refused").into()),
        }
    }
    Err(unsteady().into())
}

/// What has to be known keeps changing.
pub(in crate::service) fn unsteady() -> Error {
    Error::new(Kind::Output, "the earlier runs of this batch change while they are looked at")
        .transient()
        .advice("wait until they have ended; a drop is tried again by itself")
}
