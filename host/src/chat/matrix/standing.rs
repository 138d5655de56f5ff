//! How the connection does, for somebody who asks: what the last sync said, and what the SDK's stores know.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use super::{Live, account, lock};
use crate::{
    audit::now,
    chat::{Connection, Encryption, Outage, Undecryptable},
    id::{EventId, RoomId},
};

/// Events that could not be decrypted, of which more is told than that.
const TOLD: usize = 20;

/// What was heard of the server.
pub(super) struct Standing {
    /// When it answered a sync last; 0: not in this run.
    synced: AtomicI64,
    outage: Mutex<Option<Outage>>,
    undecryptable: AtomicU64,
    last: Mutex<VecDeque<Undecryptable>>,
}

impl Standing {
    /// At the start.
    pub fn new(reachable: bool) -> Self {
        let reason = || "it was out of reach at the start".to_owned();
        let outage = (!reachable).then(|| Outage { since: now(), reason: reason() });
        Self {
            synced: AtomicI64::new(0),
            outage: Mutex::new(outage),
            undecryptable: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// A sync was answered. Says whether that ends an outage.
    pub fn answered(&self) -> bool {
        self.synced.store(now(), Relaxed);
        lock(&self.outage).take().is_some()
    }

    /// A sync was not. Says whether that is news.
    pub fn failed(&self, reason: &str) -> bool {
        let mut outage = lock(&self.outage);
        let since = outage.as_ref().map(|outage| outage.since);
        *outage = Some(Outage { since: since.unwrap_or_else(now), reason: reason.to_owned() });
        since.is_none()
    }

    pub fn could_not_decrypt(&self, event: EventId, room: RoomId, why: String) {
        self.undecryptable.fetch_add(1, Relaxed);
        let mut last = lock(&self.last);
        last.push_back(Undecryptable { event, room, at: now(), why });
        if last.len() > TOLD {
            last.pop_front();
        }
    }
}

/// Nothing here goes out: the SDK has it in its stores.
pub(super) async fn connection(live: &Live) -> Connection {
    let standing = &live.standing;
    let encryption = match live.account.encryption {
        account::Encryption::Off => None,
        _ => Some(encryption(live).await),
    };
    Connection {
        device: Some(live.session.device.clone()),
        signed_in: live.session.since,
        synced: Some(standing.synced.load(Relaxed)).filter(|at| *at > 0),
        outage: lock(&standing.outage).clone(),
        encryption,
    }
}

async fn encryption(live: &Live) -> Encryption {
    let sdk = live.client.encryption();
    let device = sdk.get_own_device().await.ok().flatten();
    Encryption {
        verified: device.is_some_and(|device| device.is_cross_signed_by_owner()),
        identity: sdk.cross_signing_status().await.is_some_and(|status| status.is_complete()),
        backup: sdk.backups().are_enabled().await,
        undecryptable_count: live.standing.undecryptable.load(Relaxed),
        undecryptable: lock(&live.standing.last).iter().cloned().collect(),
    }
}
