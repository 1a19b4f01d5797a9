//! The control API: HTTP and JSON on a unix socket, for the command line and for scripts.
//!
//! ```text
//! client ─▶ socket (mode: who may look) ─▶ connection (limits) ─▶ guard (who may act) ─▶ handler ─▶ scheduler
//! ```
//!
//! Handlers ask the scheduler and give its answer on; they hold no state and decide nothing. The
//! routes are one table ([`routes`]), and a test holds `docs/api/openapi.yaml` to it.

mod answer;
mod connection;
mod handlers;
mod peer;
mod routes;
mod socket;
mod watch;

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use routes::{Access, RouteName, route_names};
pub use socket::{ControlSocket, MAX_SOCKET_PATH_BYTES, check_length};

use crate::libvirt::LibvirtHealth;
use crate::model::config::Settings;
use crate::model::progress::Status;
use crate::service::command::SchedulerHandle;

/// What the control API needs of the service.
#[derive(Clone)]
pub struct ControlContext {
    /// Who is asked.
    pub scheduler: SchedulerHandle,
    /// The settings in force.
    pub settings: tokio::sync::watch::Receiver<Arc<Settings>>,
    /// How libvirt stands.
    pub libvirt: LibvirtHealth,
    /// Makes the text of `/metrics`.
    pub metrics: Arc<dyn Fn(&Status) -> String + Send + Sync>,
    /// When it is cancelled, no new connection is taken and open ones are brought to an end.
    pub stop: CancellationToken,
}

impl fmt::Debug for ControlContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlContext").finish_non_exhaustive()
    }
}

/// Serves until `context.stop` is cancelled; the socket's file is gone when it returns.
pub async fn serve(socket: ControlSocket, context: ControlContext) {
    let router = routes::router(&context);
    connection::accept_all(socket, router, &context.stop).await;
}
