//! How versions of plugins stand, and what becomes of what the one on trial wrote.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{
        Commit, Contribution, Decision, Error, Moved, Namespace, Release, Remembered, Stored, Undone,
        Versions, Write, version::Standing,
    },
    Failed, id, json, kv, number, numbers, optional_text, timers,
};
use crate::{
    effect::Effect,
    id::{AgentName, PluginName, SessionId},
    rhythm,
    timer::Timer,
};

pub(super) fn versions(db: &Connection, plugin: &PluginName) -> Result<Versions, Failed> {
    let found = db
        .prepare_cached(
            "SELECT accepted, accepted_version, trial, trial_version, used, rejected
             FROM plugin_version WHERE plugin = ?1",
        )?
        .query_row([plugin.as_str()], |row| {
            let release = |at| {
                let digest = optional_text(row, at)?;
                let version = optional_text(row, at + 1)?;
                Ok::<_, rusqlite::Error>(digest.map(|digest| Release { digest, version }))
            };
            Ok(Versions {
                accepted: release(0)?,
                trial: release(2)?,
                used: row.get(4)?,
                rejected: optional_text(row, 5)?,
            })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

fn store(db: &Connection, plugin: &PluginName, versions: &Versions) -> Result<(), Failed> {
    let Versions { accepted, trial, used, rejected } = versions;
    let digest = |of: &Option<Release>| of.as_ref().map(|release| release.digest.clone());
    let version = |of: &Option<Release>| of.as_ref().and_then(|release| release.version.clone());
    db.prepare_cached("INSERT OR REPLACE INTO plugin_version VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
        params![
            plugin.as_str(),
            digest(accepted),
            version(accepted),
            digest(trial),
            version(trial),
            used,
            rejected
        ],
    )?;
    Ok(())
}

/// What a contribution is; a conflict where it comes too late.
pub(super) fn standing(
    db: &Connection,
    commit: &Commit,
    contribution: &Contribution,
) -> Result<Standing, Failed> {
    let (Some(plugin), Some(digest)) = (&contribution.plugin, &contribution.digest) else {
        return Ok(Standing::Settled);
    };
    let versions = versions(db, plugin)?;
    let strange = || {
        Ok(commit.touches(plugin)
            && shape(db, plugin, Some(digest))? != shape(db, plugin, newest(&versions))?)
    };
    let standing = versions.standing(digest, strange, || touches_replaced(db, commit, plugin))?;
    standing.ok_or_else(|| Error::Conflict.into())
}

fn newest(versions: &Versions) -> Option<&str> {
    versions.newest().map(|release| release.digest.as_str())
}

/// In which shape a version reads and writes what is remembered; none where that is not known.
fn shape(db: &Connection, plugin: &PluginName, digest: Option<&str>) -> Result<Option<i64>, Failed> {
    Ok(db
        .prepare_cached("SELECT shape FROM plugin_shape WHERE plugin = ?1 AND digest = ?2")?
        .query_row(params![plugin.as_str(), digest], |row| row.get(0))
        .optional()?)
}

/// A version has the shape of the one before, or one of its own.
fn shapes(
    db: &Connection,
    plugin: &PluginName,
    before: &Versions,
    digest: &str,
    own: bool,
) -> Result<(), Failed> {
    let shape = if own { None } else { shape(db, plugin, newest(before))? };
    db.prepare_cached(
        "INSERT OR REPLACE INTO plugin_shape
         SELECT ?1, ?2, ifnull(?3, (SELECT ifnull(max(shape) + 1, 0) FROM plugin_shape WHERE plugin = ?1))",
    )?
    .execute(params![plugin.as_str(), digest, shape])?;
    Ok(())
}

fn touches_replaced(db: &Connection, commit: &Commit, plugin: &PluginName) -> Result<bool, Failed> {
    for (namespace, key) in commit.touched(plugin) {
        if is_replaced(db, namespace, key)? {
            return Ok(true);
        }
    }
    for (session, key) in commit.touched_timers(plugin) {
        if is_replaced_timer(db, &commit.agent, plugin, session, key)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A version on trial has done something.
pub(super) fn used(db: &Connection, plugin: &PluginName) -> Result<(), Failed> {
    db.prepare_cached("UPDATE plugin_version SET used = 1 WHERE plugin = ?1 AND used = 0")?
        .execute([plugin.as_str()])?;
    Ok(())
}

fn is_replaced(db: &Connection, namespace: &Namespace, key: Option<&String>) -> Result<bool, Failed> {
    let found = db
        .prepare_cached(
            "SELECT 1 FROM kv_replaced
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2 AND scope = ?3
               AND key = ifnull(?4, key)",
        )?
        .exists(params![
            namespace.agent.as_str(),
            namespace.plugin.as_str(),
            kv::scope(&namespace.scope),
            key
        ])?;
    Ok(found)
}

fn is_replaced_timer(
    db: &Connection,
    agent: &AgentName,
    plugin: &PluginName,
    session: &SessionId,
    key: Option<&str>,
) -> Result<bool, Failed> {
    let found = db
        .prepare_cached(
            "SELECT 1 FROM timer_replaced
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2 AND session = ?3
               AND key = ifnull(?4, key)",
        )?
        .exists(params![agent.as_str(), plugin.as_str(), session.as_str(), key])?;
    Ok(found)
}

/// The timer that a version on trial sets or cancels is kept, as it was before the first time.
pub(super) fn keep_timer(
    db: &Connection,
    agent: i64,
    plugin: &PluginName,
    effect: &Effect,
) -> Result<(), Failed> {
    let Some((session, key)) = effect.timer() else { return Ok(()) };
    db.prepare_cached(
        "INSERT OR IGNORE INTO timer_replaced
         SELECT ?1, ?2, ?3, ?4, timer.next, timer.timer
         FROM (SELECT 1) LEFT JOIN timer ON agent = ?1 AND plugin = ?2 AND session = ?3 AND key = ?4",
    )?
    .execute(params![agent, plugin.as_str(), session.as_str(), key])?;
    Ok(())
}

/// A timer has been due: the one that the version on trial has replaced by it is not due at that time again.
pub(super) fn fired(db: &Connection, agent: i64, fired: &Timer) -> Result<(), Failed> {
    let Timer { plugin, session, key, next: due, .. } = fired;
    let (plugin, session) = (plugin.as_str(), session.as_str());
    let replaced: Option<Timer> = db
        .prepare_cached(
            "SELECT timer FROM timer_replaced
             WHERE agent = ?1 AND plugin = ?2 AND session = ?3 AND key = ?4 AND timer IS NOT NULL",
        )?
        .query_row(params![agent, plugin, session, key], |row| json(row, 0))
        .optional()?;
    let Some(replaced) = replaced.filter(|replaced| replaced.next <= *due) else { return Ok(()) };
    let left = rhythm::after(&replaced, *due).map(|next| Timer { next, ..replaced });
    let (next, left) = match &left {
        Some(timer) => (Some(timers::column(timer.next)), Some(serde_json::to_string(timer)?)),
        None => (None, None),
    };
    db.prepare_cached(
        "UPDATE timer_replaced SET next = ?5, timer = ?6
         WHERE agent = ?1 AND plugin = ?2 AND session = ?3 AND key = ?4",
    )?
    .execute(params![agent, plugin, session, key, next, left])?;
    Ok(())
}

/// What a version on trial replaces is kept, as it was before the first time.
pub(super) fn keep(db: &Connection, write: &Write) -> Result<(), Failed> {
    let Namespace { agent, plugin, scope } = &write.namespace;
    db.prepare_cached(
        "INSERT OR IGNORE INTO kv_replaced
         SELECT ?1, ?2, ?3, ?4, kv.version, kv.value
         FROM (SELECT 1) LEFT JOIN kv ON agent = ?1 AND plugin = ?2 AND scope = ?3 AND key = ?4",
    )?
    .execute(params![number(db, agent)?, plugin.as_str(), kv::scope(scope), write.key])?;
    Ok(())
}

pub(super) fn remembering(db: &Connection, plugin: &PluginName) -> Result<Vec<AgentName>, Failed> {
    let mut statement = db.prepare_cached(
        "SELECT name FROM kv_usage JOIN agent ON agent.id = kv_usage.agent
         WHERE plugin = ?1 AND keys > 0 ORDER BY name",
    )?;
    let agents = statement.query_map([plugin.as_str()], |row| id(row, 0))?;
    Ok(agents.collect::<Result<_, _>>()?)
}

pub(super) fn remembered(
    db: &Connection,
    agent: &AgentName,
    plugin: &PluginName,
    before: bool,
) -> Result<Vec<Remembered>, Failed> {
    let mut statement = db.prepare_cached(
        "WITH of AS (SELECT id FROM agent WHERE name = ?1)
         SELECT scope, key, version, value FROM kv
         WHERE agent IN of AND plugin = ?2 AND NOT (?3 AND EXISTS (
             SELECT 1 FROM kv_replaced AS old
             WHERE old.agent = kv.agent AND old.plugin = kv.plugin AND old.scope = kv.scope AND old.key = kv.key))
         UNION ALL
         SELECT scope, key, version, value FROM kv_replaced
         WHERE ?3 AND agent IN of AND plugin = ?2 AND value IS NOT NULL",
    )?;
    let found = statement.query_map(params![agent.as_str(), plugin.as_str(), before], |row| {
        let (agent, plugin) = (agent.clone(), plugin.clone());
        let namespace = Namespace { agent, plugin, scope: kv::read_scope(row, 0)? };
        let stored = Stored { version: row.get(2)?, value: row.get(3)? };
        Ok(Remembered { namespace, key: row.get(1)?, stored })
    })?;
    let mut found = found.collect::<Result<Vec<_>, _>>()?;
    found.sort_by(|one, other| (&one.namespace, &one.key).cmp(&(&other.namespace, &other.key)));
    Ok(found)
}

pub(super) fn take_over(
    db: &Connection,
    plugin: &PluginName,
    release: &Release,
    on_trial: bool,
    moved: Option<&[Moved]>,
) -> Result<(), Failed> {
    let (moves, moved) = (moved.is_some(), moved.unwrap_or_default());
    if moves && !remembering(db, plugin)?.iter().eq(moved.iter().map(|moved| &moved.agent)) {
        return Err(Error::Conflict.into());
    }
    for Moved { agent, seen, .. } in moved {
        let now = remembered(db, agent, plugin, false)?.into_iter();
        if !now.map(|it| (it.namespace, it.key, it.stored.version)).eq(seen.iter().cloned()) {
            return Err(Error::Conflict.into());
        }
    }
    forget(db, plugin)?;
    let version = numbers::version(db)?;
    for write in moved.iter().flat_map(|moved| &moved.writes) {
        if on_trial {
            keep(db, write)?;
        }
        kv::write(db, write, version)?;
    }
    let before = versions(db, plugin)?;
    shapes(db, plugin, &before, &release.digest, moves)?;
    let versions = Versions {
        accepted: if on_trial { before.accepted } else { Some(release.clone()) },
        trial: on_trial.then(|| release.clone()),
        used: false,
        rejected: before.rejected.filter(|rejected| *rejected != release.digest),
    };
    store(db, plugin, &versions)
}

fn forget(db: &Connection, plugin: &PluginName) -> Result<(), Failed> {
    db.prepare_cached("DELETE FROM kv_replaced WHERE plugin = ?1")?.execute([plugin.as_str()])?;
    db.prepare_cached("DELETE FROM timer_replaced WHERE plugin = ?1")?.execute([plugin.as_str()])?;
    Ok(())
}

pub(super) fn decide(db: &Connection, plugin: &PluginName, decision: Decision) -> Result<Undone, Failed> {
    let (now, nothing) = (versions(db, plugin)?, Undone::default());
    if now == Versions::default() {
        return Ok(nothing);
    }
    let (versions, undone) = match (decision, now.trial.clone()) {
        (Decision::Forgiven, _) => (Versions { rejected: None, ..now }, nothing),
        (_, None) => return Ok(nothing),
        (_, Some(trial)) if decision.undoes(now.used) => {
            let rejected = if decision == Decision::RolledBack { Some(trial.digest) } else { now.rejected };
            let undone = undo(db, plugin)?;
            (Versions { trial: None, used: false, rejected, ..now }, undone)
        }
        (_, trial) => {
            forget(db, plugin)?;
            (Versions { accepted: trial, trial: None, used: false, ..now }, nothing)
        }
    };
    store(db, plugin, &versions)?;
    Ok(undone)
}

/// Every key has its value of before again, with the version that it had, and every timer is as it was.
fn undo(db: &Connection, plugin: &PluginName) -> Result<Undone, Failed> {
    db.prepare_cached(
        "DELETE FROM kv WHERE plugin = ?1 AND EXISTS (
             SELECT 1 FROM kv_replaced AS old
             WHERE old.agent = kv.agent AND old.plugin = kv.plugin AND old.scope = kv.scope AND old.key = kv.key)",
    )?
    .execute([plugin.as_str()])?;
    db.prepare_cached(
        "INSERT INTO kv (agent, plugin, scope, key, version, value)
         SELECT agent, plugin, scope, key, version, value FROM kv_replaced
         WHERE plugin = ?1 AND value IS NOT NULL",
    )?
    .execute([plugin.as_str()])?;
    let keys = db.prepare_cached("DELETE FROM kv_replaced WHERE plugin = ?1")?.execute([plugin.as_str()])?;
    db.prepare_cached(
        "DELETE FROM timer WHERE plugin = ?1 AND EXISTS (
             SELECT 1 FROM timer_replaced AS old
             WHERE old.agent = timer.agent AND old.plugin = timer.plugin AND old.session = timer.session
               AND old.key = timer.key)",
    )?
    .execute([plugin.as_str()])?;
    db.prepare_cached(
        "INSERT INTO timer (agent, plugin, session, key, next, timer)
         SELECT agent, plugin, session, key, next, timer FROM timer_replaced
         WHERE plugin = ?1 AND timer IS NOT NULL",
    )?
    .execute([plugin.as_str()])?;
    let timers =
        db.prepare_cached("DELETE FROM timer_replaced WHERE plugin = ?1")?.execute([plugin.as_str()])?;
    Ok(Undone { keys: keys as u64, timers: timers as u64 })
}
