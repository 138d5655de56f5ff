//! What is remembered, taken apart for a version that moves it into another shape, and put together again: pure.
//!
//! In an encrypted room, what was written and deleted there lies above what was written in clear. The version sees both as
//! one, as a handler does, and afterwards what differs from what is in clear stays in the room.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id::AgentName,
    journal::{Moved, Namespace, Remembered, Scope, Write},
};

/// Keys with their values.
pub type Values = BTreeMap<String, Vec<u8>>;

/// One memory to be moved, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Whose; never one of those that are above another.
    pub scope: Scope,
    /// As it is seen in this encrypted room, where something of it was written.
    sealed: Option<Scope>,
    /// What there is.
    pub values: Values,
}

/// What memories were moved into, for whoever moves them again because one of them has changed meanwhile: the others need
/// not be.
#[derive(Debug, Default)]
pub struct Known {
    from: Option<String>,
    moved: BTreeMap<(AgentName, Scope, Option<Scope>), (Values, Values)>,
}

impl Known {
    /// What was moved from another version is not known any more.
    pub fn since(&mut self, from: Option<&str>) {
        if self.from.as_deref() != from {
            *self = Self { from: from.map(str::to_owned), moved: BTreeMap::new() };
        }
    }

    /// What a memory was moved into, if it was and is the same.
    #[must_use]
    pub fn get(&self, agent: &AgentName, memory: &Memory) -> Option<Values> {
        let (before, after) = self.moved.get(&Self::key(agent, memory))?;
        (*before == memory.values).then(|| after.clone())
    }

    /// Notes it.
    pub fn put(&mut self, agent: &AgentName, memory: &Memory, after: &Values) {
        self.moved.insert(Self::key(agent, memory), (memory.values.clone(), after.clone()));
    }

    fn key(agent: &AgentName, memory: &Memory) -> (AgentName, Scope, Option<Scope>) {
        (agent.clone(), memory.scope.clone(), memory.sealed.clone())
    }
}

/// All that a plugin remembers for one agent.
#[derive(Debug)]
pub struct Migration {
    agent: AgentName,
    remembered: Vec<Remembered>,
    scopes: BTreeMap<Scope, Values>,
}

impl Migration {
    /// Of what is remembered now.
    #[must_use]
    pub fn new(agent: AgentName, remembered: Vec<Remembered>) -> Self {
        let mut scopes: BTreeMap<Scope, Values> = BTreeMap::new();
        for Remembered { namespace, key, stored } in &remembered {
            scopes.entry(namespace.scope.clone()).or_default().insert(key.clone(), stored.value.clone());
        }
        Self { agent, remembered, scopes }
    }

    fn values(&self, scope: &Scope) -> Values {
        self.scopes.get(scope).cloned().unwrap_or_default()
    }

    /// The memories in which there is something; those that lie above others come last.
    #[must_use]
    pub fn memories(&self) -> Vec<Memory> {
        let clear = self.scopes.iter().filter(|(scope, _)| !matches!(scope, Scope::Sealed { .. }));
        let clear = clear.map(|(scope, values)| Memory {
            scope: scope.clone(),
            sealed: None,
            values: values.clone(),
        });
        // One for both layers of it.
        let above: BTreeSet<_> = self.scopes.keys().filter_map(|scope| layer(scope, false)).collect();
        let above = above.into_iter().map(|sealed| {
            let mut values = self.values(&below(&sealed));
            for gone in layer(&sealed, true).iter().flat_map(|gone| self.values(gone).into_keys()) {
                values.remove(&gone);
            }
            values.extend(self.values(&sealed));
            Memory { scope: below(&sealed), sealed: Some(sealed), values }
        });
        clear.chain(above).collect()
    }

    /// What is to be written, where each of the memories has become the values beside it.
    #[must_use]
    pub fn moved(&self, memories: &[(Memory, Values)]) -> Moved {
        let mut scopes: BTreeMap<Scope, Values> = BTreeMap::new();
        for (Memory { scope, .. }, values) in memories.iter().filter(|(memory, _)| memory.sealed.is_none()) {
            scopes.insert(scope.clone(), values.clone());
        }
        for (memory, values) in memories {
            let Some(sealed) = &memory.sealed else { continue };
            let clear = scopes.get(&memory.scope).cloned().unwrap_or_default();
            let own = values.iter().filter(|(key, value)| clear.get(*key) != Some(value));
            let own = own.map(|(key, value)| (key.clone(), value.clone())).collect();
            let gone = clear.into_keys().filter(|key| !values.contains_key(key));
            let gone = gone.map(|key| (key, vec![])).collect();
            scopes.insert(sealed.clone(), own);
            scopes.extend(layer(sealed, true).map(|scope| (scope, gone)));
        }
        let all: BTreeSet<&Scope> = self.scopes.keys().chain(scopes.keys()).collect();
        let mut writes = Vec::new();
        for scope in all {
            let (before, after) = (self.values(scope), scopes.get(scope).cloned().unwrap_or_default());
            let deleted =
                before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), None));
            let set = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
            let set = set.map(|(key, value)| (key.clone(), Some(value.clone())));
            writes.extend(deleted.chain(set).map(|(key, value)| (scope.clone(), key, value)));
        }
        let plugin = self.remembered.first().map(|it| it.namespace.plugin.clone());
        let write = |(scope, key, value)| {
            let (agent, plugin) = (self.agent.clone(), plugin.clone()?);
            Some(Write { namespace: Namespace { agent, plugin, scope }, key, value })
        };
        let seen = self.remembered.iter();
        Moved {
            agent: self.agent.clone(),
            seen: seen.map(|it| (it.namespace.clone(), it.key.clone(), it.stored.version)).collect(),
            writes: writes.into_iter().filter_map(write).collect(),
        }
    }

    /// Bytes and keys of all that there is now, and of what `moved` makes of it.
    #[must_use]
    pub fn sizes(&self, moved: &Moved) -> [(u64, u64); 2] {
        let mut all: BTreeMap<(&Scope, &str), u64> = BTreeMap::new();
        for Remembered { namespace, key, stored } in &self.remembered {
            all.insert((&namespace.scope, key.as_str()), (key.len() + stored.value.len()) as u64);
        }
        let before = (all.values().sum(), all.len() as u64);
        for Write { namespace, key, value } in &moved.writes {
            match value {
                Some(value) => {
                    all.insert((&namespace.scope, key.as_str()), (key.len() + value.len()) as u64);
                }
                None => drop(all.remove(&(&namespace.scope, key.as_str()))),
            }
        }
        [before, (all.values().sum(), all.len() as u64)]
    }
}

/// The layer of an encrypted room with the values that were written there, or with the keys that are gone there.
fn layer(scope: &Scope, gone: bool) -> Option<Scope> {
    match scope {
        Scope::Sealed { room, user, .. } => {
            Some(Scope::Sealed { room: room.clone(), user: user.clone(), gone })
        }
        _ => None,
    }
}

/// What a layer lies above.
fn below(sealed: &Scope) -> Scope {
    match sealed {
        Scope::Sealed { user: Some(user), .. } => Scope::User(user.clone()),
        Scope::Sealed { user: None, .. } => Scope::Plugin,
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{PluginName, RoomId, UserId},
        journal::Stored,
    };

    fn agent() -> AgentName {
        AgentName::parse("agent").unwrap()
    }

    fn remembered(scope: &Scope, key: &str, value: &str) -> Remembered {
        let plugin = PluginName::parse("plugin").unwrap();
        let namespace = Namespace { agent: agent(), plugin, scope: scope.clone() };
        Remembered { namespace, key: key.into(), stored: Stored { value: value.into(), version: 1 } }
    }

    /// Every key gets a new name.
    fn renamed(memory: Memory) -> (Memory, Values) {
        let values = memory.values.iter().map(|(key, value)| (format!("new {key}"), value.clone())).collect();
        (memory, values)
    }

    #[test]
    fn what_lies_in_an_encrypted_room_is_moved_there_and_stays_there() {
        let room = RoomId::parse("!r").unwrap();
        let [sealed, gone] = [false, true].map(|gone| Scope::Sealed { room: room.clone(), user: None, gone });
        let user = Scope::User(UserId::parse("@a:b").unwrap());
        let migration = Migration::new(
            agent(),
            vec![
                remembered(&Scope::Plugin, "both", "clear"),
                remembered(&Scope::Plugin, "deleted there", "clear"),
                remembered(&user, "name", "a"),
                remembered(&sealed, "both", "secret"),
                remembered(&sealed, "only there", "secret"),
                remembered(&gone, "deleted there", ""),
            ],
        );
        let memories = migration.memories();
        let seen: Vec<_> =
            memories.iter().map(|it| (&it.scope, it.values.keys().collect::<Vec<_>>())).collect();
        assert_eq!(seen[0].1, ["both", "deleted there"]);
        assert_eq!(seen[1], (&user, vec![&"name".to_owned()]));
        assert_eq!(seen[2].0, &Scope::Plugin, "as it is called there");
        assert_eq!(seen[2].1, ["both", "only there"]);
        let moved = migration.moved(&memories.into_iter().map(renamed).collect::<Vec<_>>());
        let after = |scope: &Scope| {
            let of = moved.writes.iter().filter(|write| write.namespace.scope == *scope);
            let text = |value: &Option<Vec<u8>>| {
                value.as_ref().map(|value| String::from_utf8(value.clone()).unwrap())
            };
            of.map(|write| (write.key.as_str(), text(&write.value))).collect::<BTreeMap<_, _>>()
        };
        let value = |text: &str| Some(text.to_owned());
        assert_eq!(
            after(&Scope::Plugin),
            [
                ("both", None),
                ("deleted there", None),
                ("new both", value("clear")),
                ("new deleted there", value("clear"))
            ]
            .into()
        );
        assert_eq!(
            after(&sealed),
            [
                ("both", None),
                ("only there", None),
                ("new both", value("secret")),
                ("new only there", value("secret"))
            ]
            .into()
        );
        assert_eq!(after(&gone), [("deleted there", None), ("new deleted there", value(""))].into());
        let [before, now] = migration.sizes(&moved);
        assert_eq!((before.1, now.1), (6, 6));
        assert_eq!(now.0 - before.0, 6 * "new ".len() as u64);
    }

    #[test]
    fn only_what_has_changed_is_moved_anew() {
        let room = RoomId::parse("!r").unwrap();
        let sealed = Scope::Sealed { room, user: None, gone: false };
        let at = |value: &str| {
            let all = vec![remembered(&Scope::Plugin, "a", value), remembered(&sealed, "b", "1")];
            Migration::new(agent(), all).memories()
        };
        let mut known = Known::default();
        known.since(Some("1.0.0"));
        for memory in at("1") {
            assert_eq!(known.get(&agent(), &memory), None);
            let (memory, values) = renamed(memory);
            known.put(&agent(), &memory, &values);
        }
        for memory in at("1") {
            assert_eq!(known.get(&agent(), &memory), Some(renamed(memory).1));
        }
        let other = AgentName::parse("other").unwrap();
        assert!(at("1").iter().all(|memory| known.get(&other, memory).is_none()));
        // In the encrypted room both are seen as one.
        let changed: Vec<_> = at("2").iter().map(|memory| known.get(&agent(), memory).is_none()).collect();
        assert_eq!(changed, [true, true]);
        let more = vec![remembered(&Scope::Plugin, "a", "1"), remembered(&sealed, "b", "2")];
        let memories = Migration::new(agent(), more).memories();
        let changed: Vec<_> = memories.iter().map(|memory| known.get(&agent(), memory).is_none()).collect();
        assert_eq!(changed, [false, true]);
        known.since(Some("2.0.0"));
        assert!(at("1").iter().all(|memory| known.get(&agent(), memory).is_none()));
    }

    #[test]
    fn what_stays_as_it_is_is_not_written() {
        let migration = Migration::new(agent(), vec![remembered(&Scope::Plugin, "a", "1")]);
        let same = migration.memories().into_iter().map(|it| (it.clone(), it.values)).collect::<Vec<_>>();
        let moved = migration.moved(&same);
        assert!(moved.writes.is_empty());
        assert_eq!(moved.seen.len(), 1);
    }
}
