//! What is kept of events that are over, and for how long.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Failed, id, number, numbers};
use crate::id::{AgentName, EventId, RoomId};

pub(super) fn remember(
    db: &Connection,
    agent: &AgentName,
    newest: &[(RoomId, EventId)],
) -> Result<(), Failed> {
    let agent = number(db, agent)?;
    // What came before is older.
    note_newest(db)?;
    for (room, event) in newest {
        db.prepare_cached(
            "INSERT INTO newest (agent, room, event) VALUES (?1, ?2, ?3)
             ON CONFLICT (agent, room) DO UPDATE SET event = excluded.event",
        )?
        .execute(params![agent, room.as_str(), event.as_str()])?;
    }
    Ok(())
}

/// Notes the newest event of each room, of those that came since this was done last. The host's own, which have a sign
/// before their id, are nothing that the room has.
pub(super) fn note_newest(db: &Connection) -> Result<(), Failed> {
    for sql in [
        "INSERT INTO newest (agent, room, event)
         SELECT agent, room, id FROM event
         WHERE sequence > (SELECT newest FROM reached) AND id NOT LIKE '-%' ORDER BY sequence
         ON CONFLICT (agent, room) DO UPDATE SET event = excluded.event",
        "UPDATE reached SET newest = max(newest, coalesce((SELECT max(sequence) FROM event), 0))",
    ] {
        db.prepare_cached(sql)?.execute([])?;
    }
    Ok(())
}

/// Of events it looks at those that came since, by their numbers: the plus keeps SQLite from looking at all of the agent's.
pub(super) const NEWEST: &str = "WITH me AS (SELECT id FROM agent WHERE name = ?1)
     SELECT * FROM (SELECT event.id FROM event JOIN me ON +agent = me.id
                    WHERE sequence > (SELECT newest FROM reached) AND room = ?2 AND event.id NOT LIKE '-%'
                    ORDER BY sequence DESC LIMIT 1)
     UNION ALL SELECT event FROM newest JOIN me ON agent = me.id WHERE room = ?2
     LIMIT 1";

pub(super) fn newest(db: &Connection, agent: &AgentName, room: &RoomId) -> Result<Option<EventId>, Failed> {
    Ok(db.prepare_cached(NEWEST)?.query_row([agent.as_str(), room.as_str()], |row| id(row, 0)).optional()?)
}

/// An event goes with what was committed about it and what became of that. What waits stays, whatever its age.
pub(super) fn forget(db: &Connection, agent: &AgentName, before: u64, limit: u32) -> Result<u32, Failed> {
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    let over: Vec<i64> = db
        .prepare_cached(
            "SELECT sequence FROM event
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND at < ?2
                   AND NOT EXISTS (SELECT 1 FROM pending WHERE pending.sequence = event.sequence)
                   AND NOT EXISTS (SELECT 1 FROM locked WHERE locked.sequence = event.sequence)
                   AND NOT EXISTS (SELECT 1 FROM contribution
                                   JOIN unsent ON unsent.row >= contribution.row << 16 AND unsent.row < contribution.row + 1 << 16
                                   WHERE contribution.event = event.sequence)
             ORDER BY at, sequence LIMIT ?3",
        )?
        .query_map(params![agent.as_str(), before, limit], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    remove(db, &over)?;
    Ok(u32::try_from(over.len()).unwrap_or(limit))
}

/// What was forgotten, and is there again.
pub(super) fn again(db: &Connection, agent: i64, id: &str) -> Result<(), Failed> {
    let sequence = db
        .prepare_cached("SELECT sequence FROM event WHERE agent = ?1 AND id = ?2")?
        .query_row(params![agent, id], |row| row.get(0))?;
    remove(db, &[sequence])
}

/// Removes events, and all that there is about them but their numbers and what is newest.
pub(super) fn remove(db: &Connection, sequences: &[i64]) -> Result<(), Failed> {
    if sequences.is_empty() {
        return Ok(());
    }
    note_newest(db)?;
    numbers::keep(db)?;
    for sequence in sequences {
        for sql in [
            "DELETE FROM sent WHERE contribution IN (SELECT row FROM contribution WHERE event = ?1)",
            "DELETE FROM blob WHERE contribution IN (SELECT row FROM contribution WHERE event = ?1)",
            "DELETE FROM contribution WHERE event = ?1",
            "DELETE FROM event WHERE sequence = ?1",
        ] {
            db.prepare_cached(sql)?.execute([sequence])?;
        }
    }
    Ok(())
}
