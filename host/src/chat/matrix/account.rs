//! What the settings say about one Matrix account.

use std::{fmt, path::PathBuf};

use crate::id::{AgentName, UserId};
pub use crate::settings::Encryption;

/// One Matrix account, and where this agent keeps what belongs to it. Nothing is shared between agents.
#[derive(Clone)]
pub struct Account {
    /// Whose account it is, for notices.
    pub agent: AgentName,
    /// The server's client-server API, `https://matrix.example.org`; it need not be named like the account's
    /// server, and nothing is discovered. Plain `http` only on loopback.
    pub homeserver: String,
    /// The account; optional with a token, which says it.
    pub user: Option<UserId>,
    /// How it signs in.
    pub secret: Secret,
    /// The device of a first login; a store of another device is refused.
    pub device_id: Option<String>,
    /// What other people see as the device's name.
    pub device_name: String,
    /// In which rooms the agent answers.
    pub encryption: Encryption,
    /// The account's recovery key (spec, "Secrets", `m.secret_storage.v1.aes-hmac-sha2`), where its
    /// cross-signing identity was made elsewhere.
    pub recovery_key: Option<String>,
    /// This agent's folder, mode 0700: the session, the keys, and the recovery key if one was made here.
    pub store: PathBuf,
}

/// How an account signs in.
#[derive(Clone)]
pub enum Secret {
    /// `m.login.password`, for the first login; the session is stored and reused.
    Password(String),
    /// An access token.
    Token(String),
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("agent", &self.agent)
            .field("homeserver", &self.homeserver)
            .field("user", &self.user)
            .field("secret", &self.secret)
            .field("device_id", &self.device_id)
            .field("encryption", &self.encryption)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}
