//! How the connection does, for somebody who asks: what the last sync said, and what the SDK's stores know.

use std::sync::{
    Mutex,
    atomic::{AtomicI64, Ordering::Relaxed},
};

use super::{Live, account, lock};
use crate::{
    audit::now,
    chat::{Connection, Encryption, Outage},
};

/// What was heard of the server.
pub(super) struct Standing {
    /// When it answered a sync last; 0: not in this run.
    synced: AtomicI64,
    outage: Mutex<Option<Outage>>,
}

impl Standing {
    /// At the start.
    pub fn new(reachable: bool) -> Self {
        let reason = || "it was out of reach at the start".to_owned();
        let outage = (!reachable).then(|| Outage { since: now(), reason: reason() });
        Self { synced: AtomicI64::new(0), outage: Mutex::new(outage) }
    }

    /// A sync was answered. Says whether that ends an outage.
    pub fn answered(&self) -> bool {
        self.synced.store(now(), Relaxed);
        self.reached()
    }

    /// It answers. Says whether that ends an outage.
    pub fn reached(&self) -> bool {
        lock(&self.outage).take().is_some()
    }

    /// A sync was not. Says whether that is news.
    pub fn failed(&self, reason: &str) -> bool {
        let mut outage = lock(&self.outage);
        let since = outage.as_ref().map(|outage| outage.since);
        *outage = Some(Outage { since: since.unwrap_or_else(now), reason: reason.to_owned() });
        since.is_none()
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
    }
}
