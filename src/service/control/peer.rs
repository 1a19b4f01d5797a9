//! Who is at the other end of a connection, and what they may do.
//!
//! Whoever can connect may look: the socket's mode decides that. To act takes root, the service's
//! own user, or membership in the group `control.admin_group`. The kernel vouches for the numbers.

use tokio::net::UnixStream;

use crate::model::api::{Refusal, RefusalCode};
use crate::model::error::{Error, Kind};
use crate::sys::users;

/// The other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: Option<i32>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> std::io::Result<Peer> {
        let credentials = stream.peer_cred()?;
        Ok(Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
    }

    /// Whether it is root or the service's own user: what needs no look-up.
    pub(super) fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == users::effective_uid()
    }

    /// Lets through who may act.
    pub(super) async fn may_act(self, admin_group: &str) -> Result<(), Refusal> {
        if self.is_trusted() {
            return Ok(());
        }
        let group = admin_group.to_owned();
        let member = tokio::task::spawn_blocking(move || {
            let Some(gid) = users::group_id(&group)? else { return Ok(false) };
            Ok::<bool, std::io::Error>(gid == self.gid || users::user_is_in_group(self.uid, gid)?)
        })
        .await;
        match member {
            Ok(Ok(true)) => Ok(()),
            // A look-up that fails lets nobody in.
            _ => Err(Refusal {
                code: RefusalCode::NotAllowed,
                error: Error::new(Kind::Auth, format!("user {} may look but not act", self.uid))
                    .advice(format!("use root, the service's user, or join the group `{admin_group}`")),
            }),
        }
    }
}
