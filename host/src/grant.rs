//! What a plugin may do: what it asks for in its manifest, as far as the operator grants it.

use std::{num::NonZeroU32, path::Path};

use crate::{
    id::{RoomId, UserId},
    journal::Usage,
    manifest::{Asks, Permission},
    origin::{HttpGrant, Target, address},
    settings::Grants,
    tool,
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

/// What all files of a folder that is written to may have, where nobody says otherwise.
pub const FILES: u64 = 64 * 1024 * 1024;

/// What one file of a message may have: it is held in memory.
pub const MEDIA: u64 = 32 * 1024 * 1024;

/// How many timers a plugin has for each agent, where nobody asks for more and nobody says less; and the most that anybody
/// has: those of one session are looked at together.
pub const TIMERS: u64 = 1000;
const MOST_TIMERS: u64 = 10_000;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Denied {
    /// Its manifest says nothing of it.
    #[error("the plugin does not ask for `{0}`")]
    NotAsked(Permission),
    /// It asks for something else of the kind.
    #[error("the plugin asks for other `{0}`")]
    NotAmongAsked(Permission),
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
            | Self::NotAmongAsked(permission)
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
        Self { asks, grants, audit_only: false }
    }

    /// What is asked and not granted is let through, and counted.
    #[must_use]
    pub fn audit_only(self, audit_only: bool) -> Self {
        Self { audit_only, ..self }
    }

    /// The plugin's own answers and memory, and what may be told from a record: nothing that reaches anybody.
    #[must_use]
    pub fn rehearsing(&self) -> Self {
        let Asks { outbox, kv, progress, directory, llm, http, media, secrets, .. } = self.asks.clone();
        let asks = Asks { outbox, kv, progress, directory, llm, http, media, secrets, ..Asks::default() };
        Self { asks, ..self.clone() }
    }

    /// The same asks, and other grants.
    #[must_use]
    pub fn with(&self, grants: Grants) -> Self {
        Self { asks: self.asks.clone(), grants, audit_only: self.audit_only }
    }

    /// Whether something is asked for at all.
    #[must_use]
    pub fn asks(&self, permission: Permission) -> bool {
        self.asks.has(permission)
    }

    /// What is asked and not granted at all.
    pub fn missing(&self) -> impl Iterator<Item = Permission> {
        self.asks.iter().map(|(asked, _)| asked).filter(|asked| self.holds(*asked).is_err())
    }

    /// Whether what was denied is let through all the same: of a plugin that is audit-only, what it asks for.
    #[must_use]
    pub fn spares(&self, denied: Denied) -> bool {
        let (Denied::NotGranted(permission) | Denied::Outside(permission)) = denied else { return false };
        self.audit_only && can_be_spared(permission)
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
                Permission::Rooms => self.grants.rooms.iter().cloned().collect(),
                Permission::People => self.grants.people.iter().cloned().collect(),
                Permission::Tools => self.grants.tools.iter().cloned().collect(),
                Permission::Llm => {
                    self.grants.llm.iter().flat_map(|llm| llm.models.iter().cloned()).collect()
                }
                Permission::Http => self.grants.http.iter().map(|grant| grant.url.to_string()).collect(),
                Permission::Files => {
                    self.grants.files.iter().map(|files| files.folder.display().to_string()).collect()
                }
                _ => vec![],
            };
            if whom.is_empty() {
                permission.to_string()
            } else {
                format!("{permission} = {}", whom.join(" "))
            }
        });
        let held = held.collect::<Vec<_>>().join(", ");
        let spared = self.spared();
        let held = if self.grants.encrypted { format!("{held}, encrypted") } else { held };
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
            // Of a secret the binding is the grant.
            Permission::Outbox
            | Permission::Kv
            | Permission::Progress
            | Permission::Directory
            | Permission::Secrets => true,
            Permission::Home => self.grants.home,
            Permission::Llm => self.grants.llm.is_some(),
            Permission::Rooms => !self.grants.rooms.is_empty(),
            Permission::People => !self.grants.people.is_empty(),
            Permission::Http => !self.grants.http.is_empty(),
            Permission::Files => self.grants.files.is_some(),
            Permission::Media => self.grants.media.is_some(),
            Permission::Timers => self.grants.timers.is_some(),
            Permission::Tools => !self.grants.tools.is_empty(),
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

    /// Whether a request may be sent, and which addresses it may lead to; with why it would have been denied, where it
    /// is spared. A private address and the homeserver never are.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn http(
        &self,
        to: &Target,
        method: &str,
        homeservers: &[Target],
    ) -> Result<(Route, Option<Denied>), Denied> {
        let Some(asked) = &self.asks.http else { return Err(Denied::NotAsked(Permission::Http)) };
        if !asked.has(to, method) {
            return Err(Denied::NotAmongAsked(Permission::Http));
        }
        let grants: Vec<&HttpGrant> =
            self.grants.http.iter().filter(|grant| grant.matches(to, method)).collect();
        let spared = match self.holds(Permission::Http) {
            Ok(()) if !grants.is_empty() => None,
            Ok(()) => Some(Denied::Outside(Permission::Http)),
            Err(denied) => Some(denied),
        };
        if let Some(denied) = spared.filter(|denied| !self.spares(*denied)) {
            return Err(denied);
        }
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
        let spares_homeservers = !this_one && (private || !to.is_https());
        Ok((Route { private, spares_homeservers }, spared))
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

    /// Bytes that a file of a message may have.
    #[must_use]
    pub fn media(&self) -> u64 {
        let asked = self.asks.media.as_ref().and_then(|media| media.bytes).unwrap_or(MEDIA);
        let granted = self.grants.media.as_ref().and_then(|media| media.bytes).unwrap_or(MEDIA);
        asked.min(granted).min(MEDIA)
    }

    /// How many timers it may have for each agent.
    #[must_use]
    pub fn timers(&self) -> u64 {
        let asked = self.asks.timers.as_ref().and_then(|timers| timers.count).unwrap_or(TIMERS);
        let granted = self.grants.timers.as_ref().and_then(|timers| timers.count).unwrap_or(TIMERS);
        asked.min(granted).min(MOST_TIMERS)
    }

    /// Whether a secret of this name is put on its requests.
    #[must_use]
    pub fn has_secret(&self, name: &str) -> bool {
        self.asks.secrets.contains_key(name)
    }

    /// Whether a tool may be called, by its full name; it need not exist.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn tool(&self, name: &str) -> Result<(), Denied> {
        self.holds(Permission::Tools)?;
        let asked = self.asks.tools.as_ref();
        if asked.is_some_and(|asked| !asked.names.is_empty() && !tool::is_among(name, &asked.names)) {
            return Err(Denied::NotAmongAsked(Permission::Tools));
        }
        let granted = tool::is_among(name, &self.grants.tools);
        if granted { Ok(()) } else { Err(Denied::Outside(Permission::Tools)) }
    }

    /// Whether it may ask a model by this name; none is the operator's default.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn model(&self, name: Option<&str>) -> Result<(), Denied> {
        self.holds(Permission::Llm)?;
        let Some(name) = name else { return Ok(()) };
        let models = self.grants.llm.as_ref().map(|llm| &llm.models);
        let granted = models.is_some_and(|models| models.contains(name) || models.contains("*"));
        if granted { Ok(()) } else { Err(Denied::Outside(Permission::Llm)) }
    }

    /// How many tokens of the model's it may use within a day, where that has an end.
    #[must_use]
    pub fn tokens_per_day(&self) -> Option<NonZeroU32> {
        self.grants.llm.as_ref()?.tokens_per_day
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
        | Permission::Llm
        | Permission::Http
        | Permission::Media
        | Permission::Timers
        | Permission::Tools => true,
        // Without a grant there is no folder.
        Permission::Files | Permission::Secrets => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        manifest::{Ask, AskKv, AskMedia, AskTimers, AskTools},
        settings::{Kv, LlmGrant, Media, Timers},
    };

    #[test]
    fn what_holds_is_asked_and_granted() {
        let ask = || Some(Ask { reason: "because".into() });
        let asks = Asks { outbox: ask(), llm: ask(), rooms: ask(), ..Asks::default() };
        let grants = Grants { llm: Some(LlmGrant::default()), home: true, ..Grants::default() };
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
    fn a_tool_is_named_by_the_plugin_and_by_the_operator() {
        let may = |asked: &[&str], granted: &[&str], name: &str| {
            let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let tools = AskTools { names: set(asked), ..AskTools::default() };
            let asks = Asks { tools: Some(tools), ..Asks::default() };
            Permissions::new(asks, Grants { tools: set(granted), ..Grants::default() }).tool(name).is_ok()
        };
        assert!(may(&[], &["*"], "weather.forecast"));
        assert!(may(&["weather.*"], &["weather.forecast"], "weather.forecast"));
        assert!(!may(&["weather.*"], &["*"], "files.read"), "it was not asked for");
        assert!(!may(&[], &["weather.*"], "weather-2.forecast"));
        assert!(!may(&[], &["weather.forecast"], "weather.history"));
        assert!(!may(&[], &[], "weather.forecast"));
        assert!(!may(&[], &["weather.*"], "weather"));
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
        let other = watched.with(Grants { llm: Some(LlmGrant::default()), ..Grants::default() });
        assert!(other.spares(Denied::NotGranted(Permission::Rooms)), "for every agent");
        let usual = Permissions::new(asks, Grants::default());
        assert!(!usual.spares(Denied::NotGranted(Permission::Rooms)) && usual.spared().is_empty());
    }

    #[test]
    fn a_file_is_as_large_as_was_asked_and_granted() {
        let most = |asked: Option<u64>, granted: Option<u64>| {
            let media = AskMedia { bytes: asked, ..AskMedia::default() };
            let asks = Asks { media: Some(media), ..Asks::default() };
            let media = Some(Media { bytes: granted });
            Permissions::new(asks, Grants { media, ..Grants::default() }).media()
        };
        assert_eq!(most(None, None), MEDIA);
        assert_eq!((most(Some(10), None), most(None, Some(10)), most(Some(20), Some(10))), (10, 10, 10));
        assert_eq!(most(Some(MEDIA * 2), Some(MEDIA * 2)), MEDIA, "nobody has more");
    }

    #[test]
    fn as_many_timers_as_were_asked_and_granted() {
        let most = |asked: Option<u64>, granted: Option<u64>| {
            let timers = AskTimers { count: asked, ..AskTimers::default() };
            let asks = Asks { timers: Some(timers), ..Asks::default() };
            let timers = Some(Timers { count: granted });
            Permissions::new(asks, Grants { timers, ..Grants::default() }).timers()
        };
        assert_eq!((most(None, None), most(Some(10), None), most(None, Some(10))), (TIMERS, 10, 10));
        assert_eq!((most(Some(2000), None), most(Some(2000), Some(2000))), (TIMERS, 2000));
        assert_eq!(most(Some(1_000_000), Some(1_000_000)), MOST_TIMERS, "nobody has a million");
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
