//! The queue: what was accepted, what became of it, and nothing else.
//!
//! One SQLite database (write-ahead log, every commit on the disk before it counts), owned by one
//! thread. Everybody else holds a [`QueueHandle`] and sends it closures:
//!
//! ```text
//! intake ─┐
//! scheduler ─┼─ QueueHandle::with(|db| …) ─▶ one thread ─▶ Db ─▶ queue.db
//! control ─┘            ◀── the closure's result ──┘
//! ```
//!
//! Requests are served in the order in which they came, one at a time, so a closure sees and changes
//! a consistent whole; it must be short, because everybody else waits for it. This is the only place
//! that knows SQLite. It takes no decisions: what a drop means is decided in `admission`, when a
//! job runs in the scheduler.

mod accept;
mod acts;
mod batches;
mod db;
mod deliveries;
mod drops;
mod elsewhere;
mod expanding;
mod failure;
mod history;
mod inserting;
mod jobs;
mod outbox;
mod past;
mod place;
mod rivals;
mod rows;
mod schema;
mod warm;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

pub use accept::{Admission, NewDrop, PlanFn};
pub use batches::Target;
pub use db::Db;
pub use deliveries::Parcel;
pub use drops::{Brought, MovedDrop};
pub use elsewhere::Claim;
pub use expanding::Expansion;
pub use history::{Counts, Phase, PrunedBatch};
pub(super) use history::{released, taken_over};
pub use jobs::{Change, StageMark, Tries};
pub use outbox::{Receiver, Telling};
pub(in crate::service) use place::network_file_system;
pub use place::refuse_network_file_system;
pub use rows::{BatchRow, DropRow, DropState, DroppedFile, FileIdentity, JobRow, Waiting};
pub use schema::{APPLICATION_ID, VERSION};

use crate::model::error::{Error, Result};
pub(super) use crate::sys::time::now_epoch as now;

type Request = Box<dyn FnOnce(&mut Db) + Send>;

/// What the owning thread is sent.
enum Message {
    Serve(Request),
    Close(oneshot::Sender<()>),
}

/// Asks the thread that owns the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct QueueHandle {
    requests: mpsc::Sender<Message>,
}

impl QueueHandle {
    /// Opens (or makes) the queue at `path` and starts the thread that owns it.
    ///
    /// Refused: a file that is not a queue, one of a newer version, one that another process has open.
    pub fn open(path: &Path) -> Result<QueueHandle> {
        let db = Db::open(path)?;
        let (requests, inbox) = mpsc::channel();
        thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || serve(db, &inbox))
            .map_err(|error| Error::internal(format!("cannot start the queue's thread: {error}")))?;
        Ok(QueueHandle { requests })
    }

    /// Runs `work` on the owning thread and answers what it answers.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Db) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.send(work)?.await.map_err(|_| broken())?
    }

    /// The same for callers outside the runtime; never call it from async code.
    pub fn with_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Db) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.send(work)?.blocking_recv().map_err(|_| broken())?
    }

    /// Serves what was asked before, then closes the database. Who asks later gets an error.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Message::Close(done)).is_ok() {
            // An error means that the thread has ended, which is what was asked for.
            closed.await.unwrap_or_default();
        }
    }

    fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Db) -> Result<T> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T>>> {
        let (reply, answer) = oneshot::channel();
        let request: Request = Box::new(move |db| {
            // An asker that went away does not undo what it asked for, so a lost answer is no failure.
            drop(reply.send(work(db)));
        });
        self.requests
            .send(Message::Serve(request))
            .map_err(|_| Error::internal("the queue is closed: the service is ending"))?;
        Ok(answer)
    }
}

fn broken() -> Error {
    Error::internal("the queue did not answer: the work given to it broke off")
}

/// The owning thread. A closure that panics costs its own asker the answer, nobody else anything.
fn serve(mut db: Db, inbox: &mpsc::Receiver<Message>) {
    while let Ok(message) = inbox.recv() {
        match message {
            Message::Serve(request) => {
                if catch_unwind(AssertUnwindSafe(|| request(&mut db))).is_err() {
                    tracing::error!("a request to the queue broke off; it was undone");
                    db.reset();
                }
            }
            Message::Close(done) => {
                drop(db);
                // Whoever asked may be gone; the database is closed all the same.
                let _ = done.send(());
                return;
            }
        }
    }
}
