//! The account's cross-signing identity, so that clients show no red shield beside what the agent says: made at
//! the first start where the account has none, recovered with the key from the settings where it was made
//! elsewhere (spec, "Cross-signing" and "Secrets").
//!
//! Every step may be interrupted and is taken up again at the next start. An identity or a backup that others
//! made is never reset: that takes a person.

use matrix_sdk::{
    Client, Error,
    encryption::{
        recovery::{RecoveryError, RecoveryState},
        secret_storage::SecretStorageError,
    },
    ruma::{
        OwnedUserId,
        api::client::uiaa::{AuthData, MatrixUserIdentifier, Password, UserIdentifier},
    },
};

use super::{
    account::{Account, Encryption, Secret},
    failure::{describe, is_unrecognized, send_error},
    store::Store,
    wire::cause,
};
use crate::chat::SendError;

/// What is left to do about the identity.
pub(super) enum Outcome {
    /// Nothing, in this run.
    Settled,
    /// The server was out of reach: again later.
    Later,
}

pub(super) struct Identity<'a> {
    pub client: &'a Client,
    pub account: &'a Account,
    pub store: &'a Store,
    pub say: &'a (dyn Fn(String) + Send + Sync),
}

impl Identity<'_> {
    pub async fn settle(&self) -> Outcome {
        if self.account.encryption == Encryption::Off {
            return Outcome::Settled;
        }
        self.client.encryption().wait_for_e2ee_initialization_tasks().await;
        match self.try_to_settle().await {
            Ok(()) => Outcome::Settled,
            Err(error) if is_passing(&error) => Outcome::Later,
            Err(error) => {
                (self.say)(format!("the device could not be verified: {}", plain(&error)));
                Outcome::Settled
            }
        }
    }

    async fn try_to_settle(&self) -> Result<(), Error> {
        let encryption = self.client.encryption();
        let own = self.own_user()?;
        let exists = encryption.request_user_identity(&own).await?.is_some();
        if !exists {
            if self.account.recovery_key.is_some() {
                (self.say)(
                    "the account has no identity yet, so the recovery key of the settings is not used".into(),
                );
            }
            if !self.bootstrap(own).await? {
                return Ok(());
            }
        } else if !self.has_private_keys().await && !self.recover().await? {
            return Ok(());
        }
        // A crash between making the identity and signing the device with it leaves the signature to be made.
        if let Some(device) = encryption.get_own_device().await?
            && !device.is_cross_signed_by_owner()
            && let Err(error) = device.verify().await
        {
            (self.say)(format!("the device could not be signed by its account: {}", cause(&error)));
        }
        self.keep_recoverable().await
    }

    /// Makes the identity. Servers let the first one pass without more; where not, the password is given.
    async fn bootstrap(&self, own: OwnedUserId) -> Result<bool, Error> {
        let encryption = self.client.encryption();
        let Err(error) = encryption.bootstrap_cross_signing(None).await else { return Ok(true) };
        let Some(asked) = error.as_uiaa_response() else { return Err(error) };
        let Secret::Password(password) = &self.account.secret else {
            (self.say)(
                "the server wants a password before the account gets an identity, so the device stays unverified: \
                 verify the account once in another client, and give its recovery_key"
                    .into(),
            );
            return Ok(false);
        };
        let user = UserIdentifier::Matrix(MatrixUserIdentifier::new(own.into()));
        let mut proof = Password::new(user, password.clone());
        proof.session = asked.session.clone();
        encryption.bootstrap_cross_signing(Some(AuthData::Password(proof))).await?;
        Ok(true)
    }

    /// Fetches the identity's private keys with the recovery key, and signs the device with them.
    async fn recover(&self) -> Result<bool, Error> {
        let kept_here = || self.store.recovery_key();
        let Some(key) = self.account.recovery_key.clone().or_else(kept_here) else {
            (self.say)(
                "the account's identity was made in another client, so this device stays unverified: \
                 set recovery_key to the account's recovery key"
                    .into(),
            );
            return Ok(false);
        };
        match self.client.encryption().recovery().recover_and_fix_backup(&key).await {
            Ok(()) if self.has_private_keys().await => Ok(true),
            Ok(()) => {
                (self.say)("the recovery key opens no keys of the account's identity, so this device stays unverified".into());
                Ok(false)
            }
            Err(RecoveryError::Sdk(error) | RecoveryError::SecretStorage(SecretStorageError::Sdk(error))) => {
                Err(error)
            }
            Err(error) => {
                (self.say)(format!(
                    "the recovery key does not fit, so this device stays unverified: {}; check recovery_key",
                    cause(&error)
                ));
                Ok(false)
            }
        }
    }

    /// Puts the identity's keys and those of the rooms where the recovery key can fetch them, and writes that key
    /// to its file. [`Store::recovery_begins`] says how a crash in between is told from a file moved away.
    async fn keep_recoverable(&self) -> Result<(), Error> {
        let recovery = self.client.encryption().recovery();
        let begun = self.store.recovery_was_begun();
        let has_file = self.store.recovery_key_path().exists();
        let io = |error: std::io::Error| Error::UnknownError(Box::new(error));
        if has_file {
            if begun {
                self.store.recovery_settled().map_err(io)?;
            }
            return Ok(());
        }
        if !self.has_private_keys().await {
            return Ok(());
        }
        let made = match recovery.state() {
            RecoveryState::Disabled => {
                self.store.recovery_begins().map_err(io)?;
                recovery.enable().await
            }
            RecoveryState::Enabled | RecoveryState::Incomplete if begun => recovery.reset_key().await,
            _ => return Ok(()),
        };
        match made {
            Ok(key) => {
                self.store.keep_recovery_key(&key).map_err(io)?;
                self.store.recovery_settled().map_err(io)
            }
            Err(RecoveryError::BackupExistsOnServer) => {
                self.store.recovery_settled().map_err(io)?;
                (self.say)(
                    "the account has a key backup that was made elsewhere, so no recovery key was made here"
                        .into(),
                );
                Ok(())
            }
            Err(RecoveryError::Sdk(error) | RecoveryError::SecretStorage(SecretStorageError::Sdk(error))) => {
                Err(error)
            }
            Err(error) => Err(Error::UnknownError(Box::new(error))),
        }
    }

    async fn has_private_keys(&self) -> bool {
        self.client.encryption().cross_signing_status().await.is_some_and(|status| status.is_complete())
    }

    fn own_user(&self) -> Result<OwnedUserId, Error> {
        self.client.user_id().map(ToOwned::to_owned).ok_or(Error::AuthenticationRequired)
    }
}

/// Not every server has what is asked for here.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Http(_))
        && matches!(send_error(error), SendError::Later { .. })
        && !is_unrecognized(error)
}

fn plain(error: &Error) -> String {
    match error {
        Error::Http(error) => describe(error),
        other => cause(other),
    }
}
