//! Connections: how many there may be, how long their heads may take, how they end.

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::peer::Peer;
use super::socket::ControlSocket;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;

/// Of them, how many may belong to users who are neither root nor the service: so that lookers cannot lock the operator out.
const MAX_FOREIGN_CONNECTIONS: usize = 48;

/// A request's head has to arrive within this time; an idle connection is closed after it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// The largest head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// When the service stops, requests that are being answered get this long.
const END_WITHIN: Duration = Duration::from_secs(2);

/// After a failed accept (no file descriptors left, say).
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(200);

const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
content-length: 145\r\nconnection: close\r\n\r\n\
{\"code\":\"failed\",\"error\":{\"kind\":\"internal\",\"cause\":\"too many connections to the control socket\",\"advice\":\"try again\",\"disposition\":\"transient\"}}";

/// Places for connections.
struct Places {
    all: Arc<Semaphore>,
    foreign: Arc<Semaphore>,
}

type Place = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Places {
    fn take(&self, peer: Peer) -> Option<Place> {
        let foreign = match peer.is_trusted() {
            true => None,
            false => Some(self.foreign.clone().try_acquire_owned().ok()?),
        };
        Some((self.all.clone().try_acquire_owned().ok()?, foreign))
    }
}

/// Accepts and serves until told to stop; then lets what is being answered end.
pub(super) async fn accept_all(socket: ControlSocket, router: Router, stop: &CancellationToken) {
    let places = Places {
        all: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        foreign: Arc::new(Semaphore::new(MAX_FOREIGN_CONNECTIONS)),
    };
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = socket.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => welcome(stream, &places, &router, stop, &connections).await,
            Err(error) => {
                warn!(%error, "control: cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    connections.close();
    let _ = tokio::time::timeout(END_WITHIN, connections.wait()).await;
}

async fn welcome(
    mut stream: UnixStream,
    places: &Places,
    router: &Router,
    stop: &CancellationToken,
    connections: &TaskTracker,
) {
    let Ok(peer) = Peer::of(&stream) else { return };
    match places.take(peer) {
        Some(place) => {
            connections.spawn(serve_one(stream, peer, router.clone(), stop.clone(), place));
        }
        None => {
            debug!(uid = peer.uid, "control: too many connections");
            // The socket's buffer takes these few bytes at once.
            let _ = tokio::time::timeout(ACCEPT_AGAIN_AFTER, stream.write_all(TOO_MANY)).await;
        }
    }
}

async fn serve_one(stream: UnixStream, peer: Peer, router: Router, stop: CancellationToken, place: Place) {
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(END_WITHIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        debug!(uid = peer.uid, %error, "control: a connection broke");
    }
    drop(place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::api::Refusal;

    #[test]
    fn even_the_refusal_of_a_connection_is_a_whole_answer() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "the body has {}", body.len());
        serde_json::from_str::<Refusal>(body).unwrap();
    }
}
