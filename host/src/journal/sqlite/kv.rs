//! What plugins remember.

use std::borrow::Cow;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{KeyQuery, Namespace, Read, Scope, Stored, Usage, Write},
    Failed, number,
};
use crate::id::{AgentName, PluginName};

pub(super) fn get(db: &Connection, namespace: &Namespace, key: &str) -> Result<Option<Stored>, Failed> {
    let stored = db
        .prepare_cached(
            "SELECT value, version FROM kv
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2 AND scope = ?3 AND key = ?4",
        )?
        .query_row(
            params![namespace.agent.as_str(), namespace.plugin.as_str(), scope(&namespace.scope), key],
            |row| Ok(Stored { value: row.get(0)?, version: row.get(1)? }),
        )
        .optional()?;
    Ok(stored)
}

pub(super) fn keys(db: &Connection, namespace: &Namespace, query: &KeyQuery) -> Result<Vec<String>, Failed> {
    let prefix = query.prefix.as_str();
    let after = query.after.as_deref().unwrap_or_default();
    // SQLite compares text byte by byte, like Rust; where the prefix ends is seen here, since the text that
    // follows all that begin with it may not be valid text.
    let mut statement = db.prepare_cached(
        "SELECT key FROM kv
         WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2 AND scope = ?3
           AND key >= ?4 AND key IS NOT ?5
         ORDER BY key LIMIT ?6",
    )?;
    let mut rows = statement.query(params![
        namespace.agent.as_str(),
        namespace.plugin.as_str(),
        scope(&namespace.scope),
        prefix.max(after),
        query.after,
        query.limit
    ])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        if !key.starts_with(prefix) {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}

pub(super) fn usage(db: &Connection, agent: &AgentName, plugin: &PluginName) -> Result<Usage, Failed> {
    let found = db
        .prepare_cached(
            "SELECT bytes, keys FROM kv_usage WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2",
        )?
        .query_row(params![agent.as_str(), plugin.as_str()], |row| {
            Ok(Usage { bytes: row.get(0)?, keys: row.get(1)? })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Whether a handler would still read the same.
pub(super) fn unchanged(db: &Connection, read: &Read) -> Result<bool, Failed> {
    match read {
        Read::Keys { namespace, query, found } => Ok(keys(db, namespace, query)? == *found),
        Read::Timers { agent, plugin, session, found } => {
            Ok(super::timers::timers(db, agent, plugin, session)? == *found)
        }
        Read::Key { namespace, key, version } => {
            let now: Option<i64> = db
                .prepare_cached(
                    "SELECT version FROM kv
                     WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2 AND scope = ?3 AND key = ?4",
                )?
                .query_row(
                    params![namespace.agent.as_str(), namespace.plugin.as_str(), scope(&namespace.scope), key],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(now == *version)
        }
    }
}

pub(super) fn write(db: &Connection, write: &Write, version: i64) -> Result<(), Failed> {
    let Namespace { agent, plugin, scope: of } = &write.namespace;
    let (agent, plugin, scope) = (number(db, agent)?, plugin.as_str(), scope(of));
    match &write.value {
        Some(value) => db
            .prepare_cached(
                "INSERT INTO kv (agent, plugin, scope, key, version, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (agent, plugin, scope, key)
                 DO UPDATE SET version = excluded.version, value = excluded.value",
            )?
            .execute(params![agent, plugin, scope, write.key, version, value])?,
        None => db
            .prepare_cached("DELETE FROM kv WHERE agent = ?1 AND plugin = ?2 AND scope = ?3 AND key = ?4")?
            .execute(params![agent, plugin, scope, write.key])?,
    };
    Ok(())
}

/// A scope in one column. What stands before the colon says whose it is, so no two are alike.
fn scope(scope: &Scope) -> Cow<'static, str> {
    match scope {
        Scope::Plugin => Cow::Borrowed("plugin"),
        Scope::Room(room) => Cow::Owned(format!("room:{room}")),
        Scope::User(user) => Cow::Owned(format!("user:{user}")),
        Scope::Session(session) => Cow::Owned(format!("session:{session}")),
        // Neither a room's id nor a person's has a space.
        Scope::Sealed { room, user, gone } => {
            let what = if *gone { "gone" } else { "sealed" };
            let user = user.as_ref().map_or("", |user| user.as_str());
            Cow::Owned(format!("{what}:{room} {user}"))
        }
    }
}
