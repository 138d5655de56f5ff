//! Timers, and what becomes of one that is due.

use rusqlite::{Connection, OptionalExtension, params};

use super::{super::Sequence, Failed, inbox, json, number, version};
use crate::{
    id::{AgentName, PluginName, SessionId},
    timer::Timer,
};

/// A time in a column.
pub(super) fn column(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

fn time(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

pub(super) fn timers(
    db: &Connection,
    agent: &AgentName,
    plugin: &PluginName,
    session: &SessionId,
) -> Result<Vec<Timer>, Failed> {
    Ok(db
        .prepare_cached(
            "SELECT timer FROM timer
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2 AND session = ?3
             ORDER BY next, key",
        )?
        .query_map([agent.as_str(), plugin.as_str(), session.as_str()], |row| json(row, 0))?
        .collect::<Result<_, _>>()?)
}

pub(super) fn count(db: &Connection, agent: &AgentName, plugin: &PluginName) -> Result<u64, Failed> {
    let count: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM timer
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2",
        )?
        .query_row([agent.as_str(), plugin.as_str()], |row| row.get(0))?;
    Ok(time(count))
}

pub(super) fn next(db: &Connection, agent: &AgentName) -> Result<Vec<(PluginName, u64)>, Failed> {
    Ok(db
        .prepare_cached(
            "SELECT plugin, min(next) FROM timer
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) GROUP BY plugin ORDER BY plugin",
        )?
        .query_map([agent.as_str()], |row| Ok((super::id(row, 0)?, time(row.get(1)?))))?
        .collect::<Result<_, _>>()?)
}

pub(super) fn due(
    db: &Connection,
    agent: &AgentName,
    plugin: &PluginName,
    now: u64,
    limit: u32,
) -> Result<Vec<Timer>, Failed> {
    Ok(db
        .prepare_cached(
            "SELECT timer FROM timer
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2 AND next <= ?3
             ORDER BY next, session, key LIMIT ?4",
        )?
        .query_map(params![agent.as_str(), plugin.as_str(), column(now), limit], |row| json(row, 0))?
        .collect::<Result<_, _>>()?)
}

/// The timer moves on, or goes, and its event is there; if it is still as it was.
pub(super) fn fire(
    db: &Connection,
    name: &AgentName,
    timer: &Timer,
    next: Option<u64>,
    received: Option<&inbox::Received>,
) -> Result<Option<Sequence>, Failed> {
    let agent = number(db, name)?;
    if find(db, agent, timer)?.as_ref() != Some(timer) {
        return Ok(None);
    }
    match next {
        Some(next) => set(db, agent, &Timer { next, ..timer.clone() })?,
        None => cancel(db, agent, &timer.plugin, &timer.session, &timer.key)?,
    }
    version::fired(db, agent, timer)?;
    match received {
        Some(received) => inbox::receive_own(db, name, agent, received),
        None => Ok(None),
    }
}

pub(super) fn set(db: &Connection, agent: i64, timer: &Timer) -> Result<(), Failed> {
    let Timer { plugin, session, key, next, .. } = timer;
    let (session, json) = (session.as_str(), serde_json::to_string(timer)?);
    db.prepare_cached(
        "INSERT INTO timer (agent, plugin, session, key, next, timer) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (agent, plugin, session, key) DO UPDATE SET next = excluded.next, timer = excluded.timer",
    )?
    .execute(params![agent, plugin.as_str(), session, key, column(*next), json])?;
    Ok(())
}

pub(super) fn cancel(
    db: &Connection,
    agent: i64,
    plugin: &PluginName,
    session: &SessionId,
    key: &str,
) -> Result<(), Failed> {
    db.prepare_cached("DELETE FROM timer WHERE agent = ?1 AND plugin = ?2 AND session = ?3 AND key = ?4")?
        .execute(params![agent, plugin.as_str(), session.as_str(), key])?;
    Ok(())
}

/// A timer that was fired and not handled is there again, unless another has its name by now, or it comes again and was
/// cancelled meanwhile.
pub(super) fn put_back(db: &Connection, agent: i64, timer: &Timer) -> Result<(), Failed> {
    if timer.goes_back_over(find(db, agent, timer)?.as_ref()) {
        set(db, agent, timer)?;
    }
    Ok(())
}

fn find(db: &Connection, agent: i64, timer: &Timer) -> Result<Option<Timer>, Failed> {
    let Timer { plugin, session, key, .. } = timer;
    Ok(db
        .prepare_cached(
            "SELECT timer FROM timer WHERE agent = ?1 AND plugin = ?2 AND session = ?3 AND key = ?4",
        )?
        .query_row(params![agent, plugin.as_str(), session.as_str(), key], |row| json(row, 0))
        .optional()?)
}
