//! matrix-sdk's store of keys, in which no new session stands without the room key that came in it.
//!
//! matrix-sdk-crypto 0.18 saves an Olm session at once when a message begins it (`olm/account.rs`, `decrypt_olm_message`: its
//! cache of sessions is filled by saving), and the room key in that message, with the message's hash, only when the whole
//! sync answer has been read (`machine/mod.rs`, `receive_sync_changes`). A process that ends in between has a session
//! that has moved past a message whose key is nowhere: the server delivers the message again, the session is found, it
//! cannot read what it has read before, and the room key is lost for good.
//!
//! So a session that a message has just begun is held here, where whoever asks for sessions finds it, until the hashes
//! come: then both are one write. All else goes through, and a session with which something is sent is written before.
//!
//! What is seen here of the account's own devices lets [`super::encrypting`] step aside for the sync that asks for them.

use std::{
    collections::HashMap,
    fmt::{self, Debug},
};

use async_trait::async_trait;
use matrix_sdk::{
    SqliteCryptoStore,
    cross_process_lock::CrossProcessLockGeneration,
    ruma::{DeviceId, OwnedDeviceId, RoomId, TransactionId, UserId, events::secret::request::SecretName},
};
use matrix_sdk_crypto::{
    Account, DeviceData, GossipRequest, SecretInfo, Session, UserIdentityData,
    olm::{
        Curve25519PublicKey, InboundGroupSession, OlmMessageHash, OutboundGroupSession,
        PrivateCrossSigningIdentity, SenderDataType,
    },
    store::{
        CryptoStore,
        types::{
            BackupKeys, Changes, DehydratedDeviceKey, PendingChanges, RoomKeyCounts, RoomKeyWithheldEntry,
            RoomPendingKeyBundleDetails, RoomSettings, StoredRoomKeyBundleData, TrackedUser,
        },
    },
};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::encrypting::Outdated;

/// The databases' store, but for sessions that a message has just begun.
pub(super) struct Crypto {
    store: SqliteCryptoStore,
    /// They are in no file yet.
    begun: Mutex<Vec<Session>>,
    outdated: Outdated,
}

type Failed = <SqliteCryptoStore as CryptoStore>::Error;

impl Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crypto").finish_non_exhaustive()
    }
}

impl Crypto {
    pub fn new(store: SqliteCryptoStore) -> Self {
        Self { store, begun: Mutex::default(), outdated: Outdated::default() }
    }

    /// Whether a message from the other side has begun this session, and nothing knows of it yet. One that was begun
    /// here has received nothing when it is new.
    async fn is_begun(&self, session: &Session) -> Result<bool, Failed> {
        if !session.inner.lock().await.has_received_message() {
            return Ok(false);
        }
        let stored = self.store.get_sessions(&session.sender_key().to_base64()).await?;
        Ok(!stored.is_some_and(|stored| stored.contains(session)))
    }

    async fn save(&self, mut changes: Changes) -> Result<(), Failed> {
        let mut begun = self.begun.lock().await;
        if changes.message_hashes.is_empty() {
            if let [session] = &*changes.sessions
                && !begun.contains(session)
                && self.is_begun(session).await?
            {
                begun.append(&mut changes.sessions);
                // With it comes only what is counted of the device: sooner than the session it does no harm.
                return self.store.save_changes(changes).await;
            }
            // Something was sent with it meanwhile, or it brought nothing: it waits no longer.
            let saved = changes.sessions.clone();
            self.store.save_changes(changes).await?;
            begun.retain(|session| !saved.contains(session));
            return Ok(());
        }
        let others = begun.iter().filter(|session| !changes.sessions.contains(session)).cloned();
        changes.sessions.extend(others.collect::<Vec<_>>());
        self.store.save_changes(changes).await?;
        begun.clear();
        Ok(())
    }

    /// What the account has used up goes with the answer's end, so that what is begun is written before.
    async fn save_account(&self, changes: PendingChanges) -> Result<(), Failed> {
        let mut begun = self.begun.lock().await;
        if !begun.is_empty() {
            self.store.save_changes(Changes { sessions: begun.clone(), ..Changes::default() }).await?;
            begun.clear();
        }
        self.store.save_pending_changes(changes).await
    }

    async fn sessions(&self, sender_key: &str) -> Result<Option<Vec<Session>>, Failed> {
        let begun = self.begun.lock().await;
        let mut sessions = self.store.get_sessions(sender_key).await?.unwrap_or_default();
        for session in begun.iter().filter(|session| session.sender_key().to_base64() == sender_key) {
            if !sessions.contains(session) {
                sessions.push(session.clone());
            }
        }
        Ok((!sessions.is_empty()).then_some(sessions))
    }
}

/// The trait, of which all but a few goes to the databases as it is.
macro_rules! crypto_store {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl CryptoStore for Crypto {
            type Error = Failed;

            async fn save_changes(&self, changes: Changes) -> Result<(), Failed> {
                self.save(changes).await
            }

            async fn save_pending_changes(&self, changes: PendingChanges) -> Result<(), Failed> {
                self.save_account(changes).await
            }

            async fn get_sessions(&self, sender_key: &str) -> Result<Option<Vec<Session>>, Failed> {
                self.sessions(sender_key).await
            }

            async fn load_account(&self) -> Result<Option<Account>, Failed> {
                let account = self.store.load_account().await?;
                if let Some(account) = &account {
                    self.outdated.is_of(account.user_id(), account.device_id());
                }
                Ok(account)
            }

            async fn load_tracked_users(&self) -> Result<Vec<TrackedUser>, Failed> {
                let users = self.store.load_tracked_users().await?;
                self.outdated.was(users.iter().map(|user| (&*user.user_id, user.dirty)));
                // Before the server is asked for what the sync asks it for.
                if let Some(own) = self.outdated.awaited() {
                    self.outdated.step_aside(self.store.get_user_devices(own).await?.len()).await;
                }
                Ok(users)
            }

            async fn save_tracked_users(&self, users: &[(&UserId, bool)]) -> Result<(), Failed> {
                self.outdated.are(users, true);
                self.store.save_tracked_users(users).await?;
                self.outdated.are(users, false);
                Ok(())
            }

            async fn get_user_devices(
                &self,
                user: &UserId,
            ) -> Result<HashMap<OwnedDeviceId, DeviceData>, Failed> {
                let devices = self.store.get_user_devices(user).await?;
                if self.outdated.is_own(user) {
                    self.outdated.step_aside(devices.len()).await;
                }
                Ok(devices)
            }

            async fn get_device(
                &self,
                user: &UserId,
                device: &DeviceId,
            ) -> Result<Option<DeviceData>, Failed> {
                self.outdated.looks_up(user, device);
                self.store.get_device(user, device).await
            }

            $(async fn $name(&self, $($argument: $type),*) -> Result<$answer, Failed> {
                self.store.$name($($argument),*).await
            })*
        }
    };
}

crypto_store! {
    load_identity() -> Option<PrivateCrossSigningIdentity>;
    save_inbound_group_sessions(sessions: Vec<InboundGroupSession>, backed_up_to_version: Option<&str>) -> ();
    get_inbound_group_session(room: &RoomId, session: &str) -> Option<InboundGroupSession>;
    get_withheld_info(room: &RoomId, session: &str) -> Option<RoomKeyWithheldEntry>;
    get_withheld_sessions_by_room_id(room: &RoomId) -> Vec<RoomKeyWithheldEntry>;
    get_inbound_group_sessions() -> Vec<InboundGroupSession>;
    inbound_group_session_counts(backup_version: Option<&str>) -> RoomKeyCounts;
    get_inbound_group_sessions_by_room_id(room: &RoomId) -> Vec<InboundGroupSession>;
    get_inbound_group_sessions_for_device_batch(
        curve_key: Curve25519PublicKey, of: SenderDataType, after: Option<String>, limit: usize
    ) -> Vec<InboundGroupSession>;
    inbound_group_sessions_for_backup(backup_version: &str, limit: usize) -> Vec<InboundGroupSession>;
    mark_inbound_group_sessions_as_backed_up(backup_version: &str, sessions: &[(&RoomId, &str)]) -> ();
    reset_backup_state() -> ();
    load_backup_keys() -> BackupKeys;
    load_dehydrated_device_pickle_key() -> Option<DehydratedDeviceKey>;
    delete_dehydrated_device_pickle_key() -> ();
    get_outbound_group_session(room: &RoomId) -> Option<OutboundGroupSession>;
    get_own_device() -> DeviceData;
    get_user_identity(user: &UserId) -> Option<UserIdentityData>;
    is_message_known(hash: &OlmMessageHash) -> bool;
    get_outgoing_secret_requests(request: &TransactionId) -> Option<GossipRequest>;
    get_secret_request_by_info(info: &SecretInfo) -> Option<GossipRequest>;
    get_unsent_secret_requests() -> Vec<GossipRequest>;
    delete_outgoing_secret_requests(request: &TransactionId) -> ();
    get_secrets_from_inbox(name: &SecretName) -> Vec<Zeroizing<String>>;
    delete_secrets_from_inbox(name: &SecretName) -> ();
    get_room_settings(room: &RoomId) -> Option<RoomSettings>;
    get_received_room_key_bundle_data(room: &RoomId, user: &UserId) -> Option<StoredRoomKeyBundleData>;
    get_pending_key_bundle_details_for_room(room: &RoomId) -> Option<RoomPendingKeyBundleDetails>;
    get_all_rooms_pending_key_bundles() -> Vec<RoomPendingKeyBundleDetails>;
    has_downloaded_all_room_keys(room: &RoomId) -> bool;
    get_custom_value(key: &str) -> Option<Vec<u8>>;
    set_custom_value(key: &str, value: Vec<u8>) -> ();
    remove_custom_value(key: &str) -> ();
    try_take_leased_lock(lease: u32, key: &str, holder: &str) -> Option<CrossProcessLockGeneration>;
    next_batch_token() -> Option<String>;
    close() -> ();
    reopen() -> ();
    get_size() -> Option<usize>;
}
