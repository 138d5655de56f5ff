//! What a plugin may do: what it asks for in its manifest, as far as the operator grants it.

use std::{num::NonZeroU32, path::Path};

use crate::{
    id::{RoomId, UserId},
    journal::Usage,
    manifest::{Asks, Permission},
    origin::{HttpGrant, Target, address},
    settings::Grants,
};

/// What a plugin may remember for each agent, where nobody asks for more and nobody says less: a small database,
/// that still fits a machine with many of them.
pub const KV: Usage = Usage { bytes: 64 * 1024 * 1024, keys: 100_000 };

/// What one plugin may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    asks: Asks,
    grants: Grants,
}

/// What all files of a folder that is written to may have, where nobody says otherwise.
pub const FILES: u64 = 64 * 1024 * 1024;

/// A folder that may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach<'a> {
    /// Which.
    pub folder: &'a Path,
    /// Written to as well.
    pub write: bool,
    /// What all its files may have then.
    pub bytes: u64,
}

/// Which addresses a request may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// Also those of a private network.
    pub private: bool,
    /// None of the homeservers'.
    pub spares_homeservers: bool,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Denied {
    /// Its manifest says nothing of it.
    #[error("the plugin does not ask for `{0}`")]
    NotAsked(Permission),
    /// The operator has not granted it.
    #[error("the grant `{0}` is missing")]
    NotGranted(Permission),
    /// What was granted is something else.
    #[error("the grant `{0}` does not have it")]
    Outside(Permission),
    /// What is said in an encrypted room would leave it.
    #[error("what is said in an encrypted room would leave it (`{0}`), and the grant `encrypted` is missing")]
    Encrypted(Permission),
    /// The address is no public one.
    #[error("it leads into a private network, which the grant `http` does not say")]
    Private,
    /// The address is the homeserver's.
    #[error("it leads to the homeserver, which the grant `http` does not name")]
    Homeserver,
}

impl Denied {
    /// What was denied.
    #[must_use]
    pub fn permission(self) -> Permission {
        match self {
            Self::NotAsked(permission)
            | Self::NotGranted(permission)
            | Self::Outside(permission)
            | Self::Encrypted(permission) => permission,
            Self::Private | Self::Homeserver => Permission::Http,
        }
    }
}

impl Permissions {
    /// What is asked, as far as it is granted.
    #[must_use]
    pub fn new(asks: Asks, grants: Grants) -> Self {
        Self { asks, grants }
    }

    /// The same asks, and other grants.
    #[must_use]
    pub fn with(&self, grants: Grants) -> Self {
        Self { asks: self.asks.clone(), grants }
    }

    /// What is asked and not granted at all.
    pub fn missing(&self) -> impl Iterator<Item = Permission> {
        self.asks.iter().map(|(asked, _)| asked).filter(|asked| self.holds(*asked).is_err())
    }

    /// Whether something holds, at least in part.
    ///
    /// # Errors
    /// [`Denied`] where it is not asked, or not granted at all.
    pub fn holds(&self, permission: Permission) -> Result<(), Denied> {
        if !self.asks.has(permission) {
            return Err(Denied::NotAsked(permission));
        }
        let granted = match permission {
            // Of a secret the binding is the grant.
            Permission::Outbox
            | Permission::Kv
            | Permission::Progress
            | Permission::Directory
            | Permission::Secrets => true,
            Permission::Home => self.grants.home,
            Permission::Llm => self.grants.llm,
            Permission::Rooms => !self.grants.rooms.is_empty(),
            Permission::People => !self.grants.people.is_empty(),
            Permission::Http => !self.grants.http.is_empty(),
            Permission::Files => self.grants.files.is_some(),
        };
        if granted { Ok(()) } else { Err(Denied::NotGranted(permission)) }
    }

    /// Whether it asks to remember more than it may.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        let (asked, quota) = (self.asks.kv.clone().unwrap_or_default(), self.quota());
        asked.bytes.is_some_and(|bytes| bytes > quota.bytes)
            || asked.keys.is_some_and(|keys| keys > quota.keys)
    }

    /// How much it may remember for each agent: what it asks for, as far as that is granted.
    #[must_use]
    pub fn quota(&self) -> Usage {
        let asked = self.asks.kv.as_ref();
        let least = |asked: Option<u64>, granted: Option<u64>, usual: u64| {
            asked.unwrap_or(usual).min(granted.unwrap_or(usual))
        };
        Usage {
            bytes: least(asked.and_then(|kv| kv.bytes), self.grants.kv.bytes, KV.bytes),
            keys: least(asked.and_then(|kv| kv.keys), self.grants.kv.keys, KV.keys),
        }
    }

    /// How many messages it may send to one room within a minute, where that is said.
    #[must_use]
    pub fn messages_per_minute(&self) -> Option<NonZeroU32> {
        self.grants.messages_per_minute
    }

    /// Whether another room may be written to.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn room(&self, room: &RoomId) -> Result<(), Denied> {
        self.holds(Permission::Rooms)?;
        if self.grants.room(room) { Ok(()) } else { Err(Denied::Outside(Permission::Rooms)) }
    }

    /// Whether what is said in an encrypted room may leave it by this.
    ///
    /// # Errors
    /// [`Denied::Encrypted`].
    pub fn carries(&self, by: Permission) -> Result<(), Denied> {
        if self.grants.encrypted { Ok(()) } else { Err(Denied::Encrypted(by)) }
    }

    /// Whether a request may be sent, and which addresses it may lead to.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn http(&self, to: &Target, method: &str, homeservers: &[Target]) -> Result<Route, Denied> {
        self.holds(Permission::Http)?;
        let asked = self.asks.http.as_ref().is_some_and(|http| http.has(to, method));
        if !asked {
            return Err(Denied::Outside(Permission::Http));
        }
        let mut grants = self.grants.http.iter().filter(|grant| grant.matches(to, method)).peekable();
        if grants.peek().is_none() {
            return Err(Denied::Outside(Permission::Http));
        }
        let grants: Vec<&HttpGrant> = grants.collect();
        // Who writes an address down means it, and `localhost` is one (RFC 6761, section 6.3).
        let says_itself = to.address().is_some() || to.host() == "localhost";
        let named = grants.iter().any(|grant| grant.url.names(to.host()));
        let private = (named && says_itself) || grants.iter().any(|grant| grant.private);
        if !private && to.address().is_some_and(|address| !address::is_public(address)) {
            return Err(Denied::Private);
        }
        let homeserver = |server: &&Target| server.host() == to.host();
        let this_one = grants.iter().any(|grant| grant.url.origin().is_some_and(|of| of.same_origin(to)));
        if homeservers.iter().any(|server| homeserver(&server)) && !this_one {
            return Err(Denied::Homeserver);
        }
        // Over https the other side proves its name, so that nobody's name leads there.
        Ok(Route { private, spares_homeservers: !this_one && (private || !to.is_https()) })
    }

    /// The folder that it may see.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn files(&self) -> Result<Reach<'_>, Denied> {
        self.holds(Permission::Files)?;
        let (Some(asked), Some(granted)) = (&self.asks.files, &self.grants.files) else {
            return Err(Denied::NotGranted(Permission::Files));
        };
        let bytes = asked.bytes.unwrap_or(FILES).min(granted.bytes.unwrap_or(FILES));
        Ok(Reach { folder: &granted.folder, write: asked.write && granted.write, bytes })
    }

    /// Whether a secret of this name is put on its requests.
    #[must_use]
    pub fn has_secret(&self, name: &str) -> bool {
        self.asks.secrets.contains_key(name)
    }

    /// Whether a person may be written to.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn person(&self, user: &UserId) -> Result<(), Denied> {
        self.holds(Permission::People)?;
        if self.grants.person(user) { Ok(()) } else { Err(Denied::Outside(Permission::People)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        manifest::{Ask, AskKv},
        settings::Kv,
    };

    #[test]
    fn what_holds_is_asked_and_granted() {
        let ask = || Some(Ask { reason: "because".into() });
        let asks = Asks { outbox: ask(), llm: ask(), rooms: ask(), ..Asks::default() };
        let grants = Grants { llm: true, home: true, ..Grants::default() };
        let permissions = Permissions::new(asks.clone(), grants.clone());
        assert_eq!(permissions.holds(Permission::Outbox), Ok(()));
        assert_eq!(permissions.holds(Permission::Llm), Ok(()));
        assert_eq!(permissions.holds(Permission::Kv), Err(Denied::NotAsked(Permission::Kv)));
        assert_eq!(permissions.holds(Permission::Home), Err(Denied::NotAsked(Permission::Home)));
        assert_eq!(permissions.missing().collect::<Vec<_>>(), [Permission::Rooms]);

        let room = RoomId::parse("!a:example.org").unwrap();
        assert_eq!(permissions.room(&room), Err(Denied::NotGranted(Permission::Rooms)));
        let elsewhere = Grants { rooms: ["!b:example.org".into()].into(), ..grants };
        let permissions = Permissions::new(asks, elsewhere);
        assert_eq!(permissions.room(&room), Err(Denied::Outside(Permission::Rooms)));
    }

    #[test]
    fn a_quota_is_what_is_asked_as_far_as_it_is_granted() {
        let quota = |asked: Option<u64>, granted: Option<u64>| {
            let kv = AskKv { bytes: asked, ..AskKv::default() };
            let asks = Asks { kv: Some(kv), ..Asks::default() };
            let grants = Grants { kv: Kv { bytes: granted, keys: None }, ..Grants::default() };
            Permissions::new(asks, grants).quota().bytes
        };
        let (usual, more) = (KV.bytes, KV.bytes * 2);
        assert_eq!(quota(None, None), usual);
        assert_eq!(quota(Some(more), None), usual, "what is asked for is not granted by itself");
        assert_eq!(quota(None, Some(more)), usual, "and what is granted is not taken unasked");
        assert_eq!(quota(Some(more), Some(more)), more);
        assert_eq!(quota(Some(10), None), 10);
        assert_eq!(quota(None, Some(10)), 10);
    }
}
