//! A new version moves what the one before it remembers.

use crate::{Memory, kv::Scope};

impl Memory {
    /// What [`crate::kv`] calls it.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Self::Plugin => Scope::Plugin,
            Self::Room => Scope::Room,
            Self::User => Scope::User,
            Self::Session => Scope::Session,
        }
    }
}
