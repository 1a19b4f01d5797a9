//! How answers look: JSON in every case, refusals as [`Refusal`] with the status code that fits.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::api::{Refusal, RefusalCode};
use crate::model::error::{Error, Kind};

/// Longer than this nobody waits for an answer; the command is carried out all the same.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// An answer that is not success.
pub(super) struct Refused {
    status: StatusCode,
    refusal: Refusal,
}

impl Refused {
    /// The request itself is wrong.
    pub(super) fn request(status: StatusCode, cause: impl Into<String>, advice: &str) -> Refused {
        let error = Error::new(Kind::Manifest, cause).advice(advice);
        Refused { status, refusal: Refusal { code: RefusalCode::Invalid, error } }
    }

    /// The service cannot answer now.
    pub(super) fn busy(cause: impl Into<String>) -> Refused {
        let error = Error::new(Kind::Internal, cause).advice("try again").transient();
        Refused { status: StatusCode::SERVICE_UNAVAILABLE, refusal: Refusal::failed(error) }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        let status = match refusal.code {
            RefusalCode::NoSuchJob => StatusCode::NOT_FOUND,
            RefusalCode::WrongState => StatusCode::CONFLICT,
            RefusalCode::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalCode::NotAllowed => StatusCode::FORBIDDEN,
            RefusalCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refused { status, refusal }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.refusal)).into_response()
    }
}

/// An answer: the JSON of `T`, or a refusal.
pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// Awaits the scheduler's answer, for a limited time.
pub(super) async fn within<T: Serialize>(
    asked: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refused> {
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Refused::busy("the scheduler does not answer")),
    }
}

/// Reads a request's body. None at all means `{}`: everything at its default.
pub(super) fn read_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text).map_err(|error| {
        Refused::request(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("the body is not what this command takes: {error}"),
            "see docs/control-api.md",
        )
    })
}
