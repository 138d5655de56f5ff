//! Encrypting, which steps aside while the account's own devices are being asked for.
//!
//! When a sync answer says that the devices of the agent's own account have changed, matrix-sdk asks for them before that sync
//! ends. Whoever encrypts meanwhile waits for it, up to 5 s, where the account has no device but this one
//! (`identities/manager.rs`, `get_user_devices_for_encryption`). In matrix-sdk 0.18 who waits so holds the lock that the sync
//! takes before it asks (`encryption/mod.rs`, `claim_one_time_keys`): each waits for the other until the time is up. And Synapse
//! says so with the echo of each message of the agent's in another room than the one before.
//!
//! So what encrypts is taken back where it would begin to wait, and begins again when they are there. By then nothing was
//! shared, nothing of the message was sent, and no session was made for it.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use matrix_sdk::ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

/// As long as matrix-sdk would wait, and waits after that.
const PATIENCE: Duration = Duration::from_secs(5);

type Tell = oneshot::Sender<watch::Receiver<bool>>;

tokio::task_local! {
    /// Tells [`encrypting`] what to wait for; its task is left where it stands then. None where it is too late for that.
    static ASIDE: Mutex<Option<Tell>>;
}

fn tell() -> Option<Tell> {
    ASIDE.try_with(|aside| aside.lock().unwrap_or_else(PoisonError::into_inner).take()).ok().flatten()
}

/// Runs something that encrypts, again where it would wait for the account's own devices.
pub(super) async fn encrypting<T, F: Future<Output = T>>(what: impl Fn() -> F) -> T {
    let mut until = None;
    while until.is_none_or(|until| Instant::now() < until) {
        let (tell, told) = oneshot::channel();
        let mut outdated = tokio::select! {
            biased;
            done = ASIDE.scope(Mutex::new(Some(tell)), what()) => return done,
            Ok(outdated) = told => outdated,
        };
        let renewed = outdated.wait_for(|outdated| !outdated);
        // Where it takes longer than that, matrix-sdk may have its way.
        drop(timeout_at(*until.get_or_insert(Instant::now() + PATIENCE), renewed).await);
    }
    what().await
}

/// Whether the account's own devices are to be asked for anew.
#[derive(Debug, Default)]
pub(super) struct Outdated {
    own: OnceLock<(OwnedUserId, OwnedDeviceId)>,
    is: watch::Sender<bool>,
    known: AtomicBool,
}

impl Outdated {
    /// The account, and this device of it.
    pub fn is_of(&self, user: &UserId, device: &DeviceId) {
        drop(self.own.set((user.into(), device.into())));
    }

    /// What the databases said at the start.
    pub fn was<'a>(&self, mut users: impl Iterator<Item = (&'a UserId, bool)>) {
        if !self.known.swap(true, Relaxed) {
            let was = users.any(|(user, is)| is && self.is_own(user));
            self.is.send_modify(|outdated| *outdated |= was);
        }
    }

    /// The databases are to say this of them, where it is news that somebody's are outdated, and say it, where they are not.
    pub fn are(&self, users: &[(&UserId, bool)], outdated: bool) {
        if users.iter().any(|(user, is)| *is == outdated && self.is_own(user)) {
            self.is.send_replace(outdated);
        }
    }

    /// The account, where its devices are outdated and somebody encrypts who may still step aside.
    pub fn awaited(&self) -> Option<&UserId> {
        let (own, _) = self.own.get()?;
        let may = || ASIDE.try_with(|aside| aside.lock().unwrap_or_else(PoisonError::into_inner).is_some());
        (*self.is.borrow() && may() == Ok(true)).then_some(own)
    }

    /// Goes no further where somebody encrypts and would wait: for the account's devices, as long as it has no other.
    pub async fn step_aside(&self, devices: usize) {
        if devices > 1 || !*self.is.borrow() {
            return;
        }
        if let Some(tell) = tell()
            && tell.send(self.is.subscribe()).is_ok()
        {
            std::future::pending::<()>().await;
        }
    }

    /// A device is looked up. With its own begins what cannot be taken back: a session is made, and its key shared.
    pub fn looks_up(&self, user: &UserId, device: &DeviceId) {
        if self.own.get().is_some_and(|(own, this)| own == user && this == device) {
            drop(tell());
        }
    }

    /// Whether this is the account.
    pub fn is_own(&self, user: &UserId) -> bool {
        self.own.get().is_some_and(|(own, _)| own == user)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use matrix_sdk::{
        SqliteCryptoStore,
        ruma::{
            api::client::{keys::get_keys::v3 as get_keys, sync::sync_events::DeviceLists},
            device_id, room_id,
            serde::Raw,
            user_id,
        },
    };
    use matrix_sdk_crypto::{
        DecryptionSettings, EncryptionSettings, EncryptionSyncChanges, OlmMachine, TrustRequirement,
        types::requests::AnyOutgoingRequest,
    };
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::chat::matrix::crypto::Crypto;

    fn own() -> &'static UserId {
        user_id!("@agent:here")
    }

    async fn machine(folder: &std::path::Path) -> OlmMachine {
        let store = Crypto::new(SqliteCryptoStore::open(folder, None).await.unwrap());
        OlmMachine::with_store(own(), device_id!("DEVICE"), store, None).await.unwrap()
    }

    /// One that was told that its account's devices have changed, and has not asked for them yet.
    async fn outdated(folder: &std::path::Path) -> OlmMachine {
        let machine = machine(folder).await;
        assert!(asks(&machine).await, "of the first time");
        says_that_its_devices_have_changed(&machine).await;
        machine
    }

    async fn says_that_its_devices_have_changed(machine: &OlmMachine) {
        let mut changed = DeviceLists::new();
        changed.changed.push(own().to_owned());
        let changes = EncryptionSyncChanges {
            to_device_events: vec![],
            changed_devices: &changed,
            one_time_keys_counts: &BTreeMap::new(),
            unused_fallback_keys: None,
            next_batch_token: None,
        };
        let settings = DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted };
        machine.receive_sync_changes(changes, &settings).await.unwrap();
    }

    /// What a sync does at its end; answers whether it has asked for the account's devices.
    async fn asks(machine: &OlmMachine) -> bool {
        let mut asked = false;
        for request in machine.outgoing_requests().await.unwrap() {
            let mut answer = get_keys::Response::new();
            answer.device_keys.insert(own().to_owned(), BTreeMap::new());
            if matches!(request.request(), AnyOutgoingRequest::KeysQuery(_)) {
                machine.mark_request_as_sent(request.request_id(), &answer).await.unwrap();
                asked = true;
            }
        }
        asked
    }

    #[tokio::test]
    async fn who_encrypts_steps_aside_for_the_sync_that_asks_for_devices() {
        let folder = tempfile::tempdir().unwrap();
        steps_aside(&outdated(folder.path()).await).await;
    }

    #[tokio::test]
    async fn what_was_outdated_before_a_start_is_waited_for_too() {
        let folder = tempfile::tempdir().unwrap();
        drop(outdated(folder.path()).await);
        steps_aside(&machine(folder.path()).await).await;
    }

    /// The lock that matrix-sdk has in both.
    async fn steps_aside(machine: &OlmMachine) {
        let (lock, ended) = (Arc::new(tokio::sync::Mutex::new(())), Mutex::new(Vec::new()));
        let end = |what| ended.lock().unwrap().push(what);
        let (held, mut holds) = watch::channel(false);
        let encrypts = async {
            let claims = || async {
                let _lock = lock.lock().await;
                held.send_replace(true);
                machine.get_missing_sessions(std::iter::once(own())).await.unwrap()
            };
            assert!(encrypting(claims).await.is_none());
            end("encrypted");
        };
        let syncs = async {
            holds.wait_for(|holds| *holds).await.unwrap();
            let _lock = lock.lock().await;
            assert!(asks(machine).await);
            end("synced");
        };
        tokio::join!(encrypts, syncs);
        assert_eq!(*ended.lock().unwrap(), ["synced", "encrypted"]);
    }

    /// From where the key of a room is shared on nothing is taken back: what a session was made for is stored.
    #[tokio::test]
    async fn whose_session_is_made_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let machine = outdated(folder.path()).await;
        let room = room_id!("!room:here");
        let shares = || async {
            let settings = EncryptionSettings::default();
            machine.share_room_key(room, std::iter::once(own()), settings).await.unwrap()
        };
        assert!(encrypting(shares).await.is_empty(), "nobody else is there");
        let said = to_raw_value(&json!({ "msgtype": "m.text", "body": "x" })).unwrap();
        let said = Raw::from_json(said);
        let sent = machine.encrypt_room_event_raw(room, "m.room.message", &said);
        let sent: Value = sent.await.unwrap().content.deserialize_as_unchecked().unwrap();
        let session = sent["session_id"].as_str().unwrap();
        let own = machine.store().get_inbound_group_session(room, session).await.unwrap();
        assert!(own.is_some(), "the agent reads what it says");
    }

    /// Where nobody asks, it is as if nobody had stepped aside.
    #[tokio::test(start_paused = true)]
    async fn nobody_steps_aside_for_ever() {
        let outdated = Outdated::default();
        outdated.is_of(own(), device_id!("DEVICE"));
        outdated.are(&[(own(), true)], true);
        let (runs, began) = (Mutex::new(0), Instant::now());
        let what = || async {
            *runs.lock().unwrap() += 1;
            outdated.step_aside(1).await;
        };
        encrypting(what).await;
        assert_eq!((*runs.lock().unwrap(), began.elapsed()), (2, PATIENCE));
        // Nor does whoever knows of other devices.
        encrypting(|| outdated.step_aside(2)).await;
        assert_eq!(began.elapsed(), PATIENCE);
    }

    /// Whoever does not encrypt is told what there is.
    #[tokio::test]
    async fn what_does_not_encrypt_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let machine = outdated(folder.path()).await;
        assert!(machine.store().load_tracked_users().await.unwrap()[0].dirty);
        assert!(machine.get_device(own(), device_id!("OTHER"), None).await.unwrap().is_none());
    }
}
