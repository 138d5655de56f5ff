//! From the settings and the store to a session, or to one line that says why not.
//!
//! Nothing is written before the server agreed to everything, and no keys are made before it is certain that
//! this device has none elsewhere: two crypto stores of one device break its encryption for good.

use super::{
    account::{Account, Secret},
    store::{Session, Store},
    wire::{Wire, WireError},
};
use crate::audit::now;
use crate::chat::StartError;

/// A session, and what is known of the server.
pub(super) struct SignedIn {
    pub session: Session,
    /// The server answered, so what else it says counts.
    pub reachable: bool,
    /// No session was stored before.
    pub fresh: bool,
}

pub(super) async fn sign_in(
    account: &Account,
    store: &Store,
    wire: &Wire,
    say: &(dyn Fn(String) + Send + Sync),
) -> Result<SignedIn, StartError> {
    match store.session()? {
        Some(stored) => resume(account, store, wire, stored, say).await,
        None => first(account, store, wire).await,
    }
}

/// With a stored session only what is certain refuses to start: a server out of reach will be back.
async fn resume(
    account: &Account,
    store: &Store,
    wire: &Wire,
    stored: Session,
    say: &(dyn Fn(String) + Send + Sync),
) -> Result<SignedIn, StartError> {
    let folder = store.folder().display();
    if let Some(user) = &account.user
        && user.as_str() != stored.user
    {
        return Err(StartError::new(format!(
            "the store folder {folder} belongs to {}, the settings say {user}: move the folder away to sign in as {user}, or set the user back",
            stored.user
        )));
    }
    if let Some(device) = &account.device_id
        && *device != stored.device
    {
        return Err(StartError::new(format!(
            "the store folder {folder} belongs to device {}, the settings say {device}: remove device_id from the settings, or move the folder away to sign in as {device}",
            stored.device
        )));
    }
    let mut stored = match &account.secret {
        Secret::Token(token) if *token != stored.token => {
            Session { token: token.clone(), refresh: None, ..stored }
        }
        _ => stored,
    };
    let mut known = wire.who_am_i(&stored.token).await;
    // The token has ended by itself while the host was down.
    if matches!(&known, Err(WireError::Refused { code, .. }) if code == "M_UNKNOWN_TOKEN")
        && let Some(refresh) = stored.refresh.clone()
    {
        match wire.refresh(&stored, &refresh).await {
            Ok(next) => {
                keep(store, &next)?;
                known = wire.who_am_i(&next.token).await;
                stored = next;
            }
            Err(error @ WireError::Unreachable(_)) => known = Err(error),
            Err(_) => {}
        }
    }
    match known {
        Ok((user, device)) => {
            if user != stored.user || device.as_ref().is_some_and(|device| *device != stored.device) {
                return Err(StartError::new(format!(
                    "the token is one of {user}, device {}, and the store folder {folder} belongs to {}, device {}: use a token of that device, or move the folder away",
                    device.unwrap_or_default(),
                    stored.user,
                    stored.device
                )));
            }
            keep(store, &stored)?;
            Ok(SignedIn { session: stored, reachable: true, fresh: false })
        }
        Err(WireError::Refused { code, soft_logout, .. }) if code == "M_UNKNOWN_TOKEN" => {
            match &account.secret {
                Secret::Token(_) => Err(wrong_token()),
                Secret::Password(password) if soft_logout => {
                    let session = again(account, password, wire, &stored)
                        .await
                        .map_err(|error| log_in_failed(account, error))?;
                    keep(store, &session)?;
                    Ok(SignedIn { session, reachable: true, fresh: false })
                }
                Secret::Password(_) => Err(signed_out(&stored, store)),
            }
        }
        Err(WireError::Refused { code, message, .. }) if code == "M_USER_DEACTIVATED" => Err(
            StartError::new(format!("the account {} is closed ({message}): use another one", stored.user)),
        ),
        Err(error) => {
            say(format!("{} is out of reach: {}; trying on", account.homeserver, error.what()));
            Ok(SignedIn { session: stored, reachable: false, fresh: false })
        }
    }
}

/// Signs in on the same device once more.
async fn again(
    account: &Account,
    password: &str,
    wire: &Wire,
    session: &Session,
) -> Result<Session, WireError> {
    let next = wire.log_in(&session.user, password, Some(&session.device), &account.device_name).await?;
    if next.user == session.user && next.device == session.device {
        Ok(next)
    } else {
        Err(WireError::NotMatrix("it signed in another device than the one that was asked for".into()))
    }
}

/// How a session that has run out goes on.
pub(super) enum Renewed {
    /// With these tokens, which are kept.
    Session(Session),
    /// Later: the server is out of reach, or so is the folder.
    Later(String),
    /// Not without a person.
    Ended(StartError),
}

/// Signs in again on the same device, after the server has ended the session softly (spec, "Soft logout").
pub(super) async fn renew(account: &Account, store: &Store, wire: &Wire, session: &Session) -> Renewed {
    // Who was signed out for good is told so by the token itself, whatever became of its refreshing.
    match wire.who_am_i(&session.token).await {
        Ok(_) => return Renewed::Session(session.clone()),
        Err(WireError::Refused { code, soft_logout: false, .. }) if code == "M_UNKNOWN_TOKEN" => {
            return Renewed::Ended(signed_out(session, store));
        }
        Err(WireError::Refused { code, .. }) if code == "M_UNKNOWN_TOKEN" => {}
        Err(error) if error.is_final() => return Renewed::Ended(log_in_failed(account, error)),
        Err(error) => return Renewed::Later(error.what()),
    }
    let Secret::Password(password) = &account.secret else {
        return Renewed::Ended(StartError::new(format!(
            "the token of {} has run out (soft logout): get a new one, or use a password",
            session.user
        )));
    };
    match again(account, password, wire, session).await {
        Ok(next) => match store.keep_session(&next) {
            Ok(()) => Renewed::Session(next),
            Err(error) => Renewed::Later(format!("session.json cannot be written: {error}")),
        },
        Err(error) if error.is_final() => Renewed::Ended(log_in_failed(account, error)),
        Err(error) => Renewed::Later(error.what()),
    }
}

async fn first(account: &Account, store: &Store, wire: &Wire) -> Result<SignedIn, StartError> {
    let folder = store.folder().display();
    let server = &account.homeserver;
    wire.versions().await.map_err(|error| match error {
        WireError::Unreachable(why) => StartError::new(format!(
            "cannot reach {server} for the first login: {why}; check the URL and that the server runs"
        )),
        other => StartError::new(format!(
            "{server} does not answer like a Matrix server: {}; check the homeserver's URL",
            other.what()
        )),
    })?;
    let session = match &account.secret {
        Secret::Password(password) => {
            let Some(user) = &account.user else {
                return Err(StartError::new("a password without a user: set user to the account's id"));
            };
            if store.has_keys() {
                return Err(StartError::new(format!(
                    "the store folder {folder} has keys but no session.json: put that file back, or move the folder away to sign in as a new device"
                )));
            }
            wire.log_in(user.as_str(), password, account.device_id.as_deref(), &account.device_name)
                .await
                .map_err(|error| log_in_failed(account, error))?
        }
        Secret::Token(token) => {
            let (user, device) = wire.who_am_i(token).await.map_err(|error| match error {
                WireError::Refused { code, .. } if code == "M_UNKNOWN_TOKEN" || code == "M_MISSING_TOKEN" => {
                    wrong_token()
                }
                other => StartError::new(format!("{server} refuses the token: {}", other.what())),
            })?;
            let Some(device) = device else {
                return Err(StartError::new(format!(
                    "the token of {user} has no device: sign in to get one that has"
                )));
            };
            Session { user, device, token: token.clone(), refresh: None, since: Some(now()) }
        }
    };
    if let Some(user) = &account.user
        && user.as_str() != session.user
    {
        return Err(StartError::new(format!(
            "the token is one of {}, the settings say {user}: use a token of {user}, or set the user to {}",
            session.user, session.user
        )));
    }
    if let Some(device) = &account.device_id
        && *device != session.device
    {
        return Err(StartError::new(format!(
            "the token is one of device {}, the settings say {device}: use a token of {device}, or remove device_id",
            session.device
        )));
    }
    if !store.has_keys() {
        let key = wire.device_key(&session).await.map_err(|error| {
            StartError::new(format!(
                "{server} does not say which keys {} has: {}",
                session.user,
                error.what()
            ))
        })?;
        if key.is_some() {
            return Err(StartError::new(format!(
                "device {} of {} already has encryption keys, which are not here (was its token copied from another client?): use a password, or a token of a login made for this agent",
                session.device, session.user
            )));
        }
    }
    keep(store, &session)?;
    Ok(SignedIn { session, reachable: true, fresh: true })
}

/// Compares the device's keys with those that the server has for it, before anything is uploaded.
pub(super) async fn check_keys(
    wire: &Wire,
    session: &Session,
    store: &Store,
    local: Option<&str>,
) -> Result<(), StartError> {
    match wire.device_key(session).await {
        Ok(Some(server)) if Some(server.as_str()) != local => Err(StartError::new(format!(
            "device {} of {} has other encryption keys on the server than in {}: move the folder away and sign in as a new device",
            session.device,
            session.user,
            store.folder().display()
        ))),
        // A server that cannot say so now is asked again at the next start.
        _ => Ok(()),
    }
}

/// The line for an account that was signed out while it ran.
pub(super) fn signed_out(session: &Session, store: &Store) -> StartError {
    StartError::new(format!(
        "device {} of {} was signed out: move the folder {} away and sign in again",
        session.device,
        session.user,
        store.folder().display()
    ))
}

fn wrong_token() -> StartError {
    StartError::new("the server does not know the token (M_UNKNOWN_TOKEN): get a new one, or use a password")
}

fn log_in_failed(account: &Account, error: WireError) -> StartError {
    let user = account.user.as_ref().map_or("", |user| user.as_str());
    StartError::new(match error {
        WireError::Refused { code, message, .. } if code == "M_FORBIDDEN" => {
            format!("wrong password for {user} ({code}: {message}): check user and password")
        }
        WireError::Refused { code, message, .. } if code == "M_USER_DEACTIVATED" => {
            format!("the account {user} is closed ({code}: {message}): use another one")
        }
        WireError::Refused { code, message, .. } => {
            format!(
                "{} refuses the login of {user} ({code}: {message}): a token may work instead",
                account.homeserver
            )
        }
        WireError::Unreachable(why) => {
            format!("cannot reach {} for the login: {why}; check that the server runs", account.homeserver)
        }
        WireError::NotMatrix(why) => {
            format!(
                "{} does not answer like a Matrix server: {why}; check the homeserver's URL",
                account.homeserver
            )
        }
    })
}

fn keep(store: &Store, session: &Session) -> Result<(), StartError> {
    store.keep_session(session).map_err(|error| {
        StartError::new(format!("cannot write session.json in {}: {error}", store.folder().display()))
    })
}

impl WireError {
    /// The account is closed. A password that is refused may be taken later: so say servers, too, that cannot look it up.
    fn is_final(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "M_USER_DEACTIVATED")
    }

    fn what(&self) -> String {
        match self {
            Self::Unreachable(why) | Self::NotMatrix(why) => why.clone(),
            Self::Refused { code, message, .. } => format!("{code}: {message}"),
        }
    }
}
