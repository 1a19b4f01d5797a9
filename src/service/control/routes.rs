//! The table of routes, and the guard before each.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use tracing::info;

use super::answer::Refused;
use super::peer::Peer;
use super::{ControlContext, handlers, watch};

/// The largest manifest, quoted as JSON.
const MAX_SUBMISSION_BYTES: usize = 20 * 1024 * 1024;

/// All other bodies are a few words.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// A body that takes longer to arrive is not waited for.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// What a route lets its caller do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Look: everybody who can connect.
    Read,
    /// Act: root, the service's user, and the admin group.
    Act,
}

/// A route as the API's document knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteName {
    /// The method.
    pub method: Method,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// What it takes.
    pub access: Access,
}

struct Route {
    name: RouteName,
    max_body_bytes: usize,
    handler: MethodRouter<ControlContext>,
}

impl Route {
    fn read(path: &'static str, handler: MethodRouter<ControlContext>) -> Route {
        let name = RouteName { method: Method::GET, path, access: Access::Read };
        Route { name, max_body_bytes: 0, handler }
    }

    fn act(path: &'static str, handler: MethodRouter<ControlContext>) -> Route {
        let name = RouteName { method: Method::POST, path, access: Access::Act };
        Route { name, max_body_bytes: MAX_BODY_BYTES, handler }
    }

    fn max_body_bytes(self, max_body_bytes: usize) -> Route {
        Route { max_body_bytes, ..self }
    }
}

/// Every route there is. `{target}` is a job's number, `batch/vm` (its slash written `%2F`), a batch's id,
/// or a unique VM name.
fn table() -> Vec<Route> {
    vec![
        Route::read("/v1/status", get(handlers::status)),
        Route::read("/v1/stats", get(handlers::stats)),
        Route::read("/v1/jobs", get(handlers::list)),
        Route::read("/v1/jobs/{target}", get(handlers::show)),
        Route::read("/v1/jobs/{target}/progress", get(handlers::progress)),
        Route::read("/v1/jobs/{target}/watch", get(watch::batch)),
        Route::read("/v1/watch", get(watch::overview)),
        Route::read("/metrics", get(handlers::metrics)),
        Route::act("/v1/jobs", post(handlers::submit)).max_body_bytes(MAX_SUBMISSION_BYTES),
        Route::act("/v1/check", post(handlers::check)).max_body_bytes(MAX_SUBMISSION_BYTES),
        Route::act("/v1/jobs/{target}/cancel", post(handlers::cancel)),
        Route::act("/v1/jobs/{target}/release", post(handlers::release)),
        Route::act("/v1/jobs/{target}/rollback", post(handlers::rollback)),
        Route::act("/v1/jobs/{target}/retry", post(handlers::retry)),
        Route::act("/v1/jobs/{target}/priority", post(handlers::priority)),
        Route::act("/v1/jobs/{target}/pause", post(handlers::pause)),
        Route::act("/v1/jobs/{target}/resume", post(handlers::resume)),
        Route::act("/v1/jobs/{target}/cutover", post(handlers::cutover)),
        Route::act("/v1/pause", post(handlers::pause_all)),
        Route::act("/v1/resume", post(handlers::resume_all)),
        Route::act("/v1/drain", post(handlers::drain)),
        Route::act("/v1/prune", post(handlers::prune)),
        Route::act("/v1/reload", post(handlers::reload)),
        Route::act("/v1/stop", post(handlers::stop)),
    ]
}

/// The routes by name, for the test of the API's document.
#[must_use]
pub fn route_names() -> Vec<RouteName> {
    table().into_iter().map(|route| route.name).collect()
}

/// The router over all routes. A connection adds its [`Peer`] as an extension.
pub(super) fn router(context: &ControlContext) -> Router {
    let guarded = |route: &Route| Guard {
        context: context.clone(),
        access: route.name.access,
        max_body_bytes: route.max_body_bytes,
    };
    table()
        .into_iter()
        .fold(Router::new(), |router, route| {
            let layer = middleware::from_fn_with_state(guarded(&route), guard);
            router.route(route.name.path, route.handler.route_layer(layer))
        })
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        // The guard has its own limits.
        .layer(DefaultBodyLimit::disable())
        .with_state(context.clone())
}

#[derive(Clone)]
struct Guard {
    context: ControlContext,
    access: Access,
    max_body_bytes: usize,
}

/// Lets through who may, with a body that has arrived whole, is not too large, and came in time.
async fn guard(
    State(guard): State<Guard>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    if guard.access == Access::Read {
        // Nothing that only reads takes a body.
        return next.run(Request::from_parts(parts, Body::empty())).await;
    }
    let admin_group = guard.context.settings.borrow().control.admin_group.clone();
    if let Err(refusal) = peer.may_act(&admin_group).await {
        info!(uid = peer.uid, path = parts.uri.path(), "control: refused");
        return Refused::from(refusal).into_response();
    }
    info!(uid = peer.uid, pid = peer.pid, path = parts.uri.path(), "control: asked to act");
    match tokio::time::timeout(BODY_WITHIN, to_bytes(body, guard.max_body_bytes)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => Refused::request(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is cut off, or larger than {} bytes", guard.max_body_bytes),
            "a manifest may have 16 MiB; name disks by path instead of sending them",
        )
        .into_response(),
        Err(_) => Refused::request(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s", BODY_WITHIN.as_secs()),
            "send it faster",
        )
        .into_response(),
    }
}

async fn no_such_route(uri: Uri) -> Refused {
    Refused::request(
        StatusCode::NOT_FOUND,
        format!("there is no route {}", uri.path()),
        "see docs/control-api.md; a slash in a job's name is written %2F",
    )
}

async fn no_such_method(method: Method, uri: Uri) -> Refused {
    Refused::request(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} does not take {method}", uri.path()),
        "what looks is GET, what acts is POST",
    )
}
