//! What a plugin may do: what it asks for in its manifest, as far as the operator grants it.

use crate::{
    id::{RoomId, UserId},
    journal::Usage,
    manifest::{Asks, Permission},
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
    audit_only: bool,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
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
}

impl Denied {
    /// What was denied.
    #[must_use]
    pub fn permission(self) -> Permission {
        match self {
            Self::NotAsked(permission) | Self::NotGranted(permission) | Self::Outside(permission) => {
                permission
            }
        }
    }
}

impl Permissions {
    /// What is asked, as far as it is granted.
    #[must_use]
    pub fn new(asks: Asks, grants: Grants) -> Self {
        Self { asks, grants, audit_only: false }
    }

    /// What is asked and not granted is let through, and counted.
    #[must_use]
    pub fn audit_only(self, audit_only: bool) -> Self {
        Self { audit_only, ..self }
    }

    /// The same asks, and other grants.
    #[must_use]
    pub fn with(&self, grants: Grants) -> Self {
        Self { asks: self.asks.clone(), grants, audit_only: self.audit_only }
    }

    /// What is asked and not granted at all.
    pub fn missing(&self) -> impl Iterator<Item = Permission> {
        self.asks.iter().map(|(asked, _)| asked).filter(|asked| self.holds(*asked).is_err())
    }

    /// Whether what was denied is let through all the same: of a plugin that is audit-only, what it asks for.
    #[must_use]
    pub fn spares(&self, denied: Denied) -> bool {
        self.audit_only && !matches!(denied, Denied::NotAsked(_)) && can_be_spared(denied.permission())
    }

    /// What is let through, as far as it is not granted.
    #[must_use]
    pub fn spared(&self) -> Vec<String> {
        let asked = self.asks.iter().map(|(asked, _)| asked).filter(|asked| !asked.is_free());
        let spared = asked.filter(|asked| self.audit_only && can_be_spared(*asked));
        spared.map(|permission| permission.to_string()).collect()
    }

    /// What holds, in a line: `outbox, rooms = !a:example.org`.
    #[must_use]
    pub fn summary(&self) -> String {
        let held = self.asks.iter().map(|(asked, _)| asked).filter(|asked| self.holds(*asked).is_ok());
        let held = held.map(|permission| {
            let whom = match permission {
                Permission::Rooms => &self.grants.rooms,
                Permission::People => &self.grants.people,
                _ => return permission.to_string(),
            };
            let whom: Vec<&str> = whom.iter().map(String::as_str).collect();
            format!("{permission} = {}", whom.join(" "))
        });
        let held = held.collect::<Vec<_>>().join(", ");
        let spared = self.spared();
        if spared.is_empty() { held } else { format!("{held}; audit-only: {}", spared.join(", ")) }
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
            Permission::Outbox | Permission::Kv | Permission::Progress | Permission::Directory => true,
            Permission::Home => self.grants.home,
            Permission::Llm => self.grants.llm,
            Permission::Rooms => !self.grants.rooms.is_empty(),
            Permission::People => !self.grants.people.is_empty(),
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

    /// Whether another room may be written to.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn room(&self, room: &RoomId) -> Result<(), Denied> {
        self.holds(Permission::Rooms)?;
        if self.grants.room(room) { Ok(()) } else { Err(Denied::Outside(Permission::Rooms)) }
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

/// What a plugin that is audit-only may do without its grant. Whoever adds a permission decides: what puts a secret on a
/// request, or takes words out of an encrypted room, is never let through, and a quota is none of these.
fn can_be_spared(permission: Permission) -> bool {
    match permission {
        Permission::Outbox
        | Permission::Kv
        | Permission::Progress
        | Permission::Directory
        | Permission::Home
        | Permission::Rooms
        | Permission::People
        | Permission::Llm => true,
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
    fn audit_only_spares_what_is_asked_and_nothing_else() {
        let ask = || Some(Ask { reason: "because".into() });
        let kv = Some(AskKv { bytes: Some(KV.bytes * 2), ..AskKv::default() });
        let asks = Asks { rooms: ask(), llm: ask(), kv, ..Asks::default() };
        let watched = Permissions::new(asks.clone(), Grants::default()).audit_only(true);
        let spares = |permission| watched.spares(watched.holds(permission).unwrap_err());
        assert!(spares(Permission::Rooms) && spares(Permission::Llm));
        assert!(watched.spares(Denied::Outside(Permission::Rooms)));
        assert!(!spares(Permission::People) && !spares(Permission::Home) && !spares(Permission::Outbox));
        assert_eq!(watched.quota(), KV, "a quota is a limit");
        assert_eq!(watched.summary(), "kv; audit-only: rooms, llm");
        let other = watched.with(Grants { llm: true, ..Grants::default() });
        assert!(other.spares(Denied::NotGranted(Permission::Rooms)), "for every agent");
        let usual = Permissions::new(asks, Grants::default());
        assert!(!usual.spares(Denied::NotGranted(Permission::Rooms)) && usual.spared().is_empty());
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
