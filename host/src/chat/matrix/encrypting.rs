//! Encrypting, which steps aside while a list of devices is being renewed.
//!
//! When a sync answer says that somebody's devices have changed, matrix-sdk asks for them before that sync ends. Whoever
//! encrypts meanwhile waits for it, up to 5 s, where no device of that person is known (`identities/manager.rs`,
//! `get_user_devices_for_encryption`), as none is of an agent's own account but the one that it is. In matrix-sdk 0.18 who
//! waits so holds the lock that the sync takes before it asks (`encryption/mod.rs`, `claim_one_time_keys`): each waits for the
//! other until the time is up. And Synapse says so of an agent's own account with the echo of each message in another room
//! than the one before.
//!
//! So what encrypts is taken back where it would begin to wait, having sent nothing, and begins again when the list is there.

use std::{
    collections::HashSet,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use matrix_sdk::ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

/// As long as matrix-sdk would wait.
const PATIENCE: Duration = Duration::from_secs(5);

type Users = HashSet<OwnedUserId>;

tokio::task_local! {
    /// Tells [`encrypting`] whom to wait for. Its task may be left where it stands then.
    static ASIDE: Mutex<Option<oneshot::Sender<(OwnedUserId, watch::Receiver<Users>)>>>;
}

/// Runs something that encrypts, again where it would wait for a list of devices.
pub(super) async fn encrypting<T, F: Future<Output = T>>(what: impl Fn() -> F) -> T {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let (tell, told) = oneshot::channel();
        let (user, mut outdated) = tokio::select! {
            biased;
            done = ASIDE.scope(Mutex::new(Some(tell)), what()) => return done,
            Ok(wait) = told => wait,
        };
        let renewed = outdated.wait_for(|outdated| !outdated.contains(&user));
        // Where it takes longer than that, matrix-sdk may have its way.
        drop(timeout_at(until, renewed).await);
    }
    what().await
}

/// Whose devices are to be asked for anew, as the databases are told.
#[derive(Debug, Default)]
pub(super) struct Outdated {
    own: OnceLock<(OwnedUserId, OwnedDeviceId)>,
    users: watch::Sender<Users>,
}

impl Outdated {
    /// The account, and this device of it.
    pub fn is_of(&self, user: &UserId, device: &DeviceId) {
        drop(self.own.set((user.into(), device.into())));
    }

    /// Whether each of them is outdated.
    pub fn are<'a>(&self, users: impl Iterator<Item = (&'a UserId, bool)>) {
        self.users.send_if_modified(|outdated| {
            users.fold(false, |changed, (user, is)| {
                changed | if is { outdated.insert(user.into()) } else { outdated.remove(user) }
            })
        });
    }

    /// Goes no further where somebody encrypts and the account's own are outdated.
    pub async fn step_aside_for_own(&self) {
        if let Some((own, _)) = self.own.get() {
            self.step_aside(own, std::iter::empty()).await;
        }
    }

    /// Goes no further where somebody encrypts and would wait for those of this person, who has the given ones.
    pub async fn step_aside<'a>(&self, user: &UserId, known: impl Iterator<Item = &'a OwnedDeviceId>) {
        if !self.users.borrow().contains(user) || known.count() > usize::from(self.is_own(user)) {
            return;
        }
        let told = ASIDE.try_with(|aside| {
            let tell = aside.lock().unwrap_or_else(PoisonError::into_inner).take();
            tell.is_some_and(|tell| tell.send((user.into(), self.users.subscribe())).is_ok())
        });
        if told == Ok(true) {
            std::future::pending::<()>().await;
        }
    }

    fn is_own(&self, user: &UserId) -> bool {
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
            device_id, user_id,
        },
    };
    use matrix_sdk_crypto::{
        DecryptionSettings, EncryptionSyncChanges, OlmMachine, TrustRequirement,
        types::requests::AnyOutgoingRequest,
    };

    use super::*;
    use crate::chat::matrix::crypto::Crypto;

    fn own() -> &'static UserId {
        user_id!("@agent:here")
    }

    async fn machine(folder: &std::path::Path) -> OlmMachine {
        let store = Crypto::new(SqliteCryptoStore::open(folder, None).await.unwrap());
        OlmMachine::with_store(own(), device_id!("DEVICE"), store, None).await.unwrap()
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

    /// The lock that matrix-sdk has in both.
    #[tokio::test]
    async fn who_encrypts_steps_aside_for_the_sync_that_asks_for_devices() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path()).await;
        assert!(asks(&machine).await, "of the first time");
        says_that_its_devices_have_changed(&machine).await;

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
            assert!(asks(&machine).await);
            end("synced");
        };
        tokio::join!(encrypts, syncs);
        assert_eq!(*ended.lock().unwrap(), ["synced", "encrypted"]);
    }

    /// Whoever does not encrypt is told what there is.
    #[tokio::test]
    async fn what_does_not_encrypt_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path()).await;
        assert!(asks(&machine).await);
        says_that_its_devices_have_changed(&machine).await;
        assert!(machine.store().load_tracked_users().await.unwrap()[0].dirty);
        assert!(machine.get_device(own(), device_id!("OTHER"), None).await.unwrap().is_none());
    }
}
