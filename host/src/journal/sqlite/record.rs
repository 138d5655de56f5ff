//! What deliveries have learnt, and what is kept of those that have ended.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::{Error, Kept, Learnt},
    Failed,
    commit::is_committed,
    id, json, number,
};
use crate::{
    answers::{Entry, Fact, Key, Opening, Record},
    id::{AgentName, DeliveryId, EventId},
};

/// Entries made ready by their caller: the thread that writes has enough to do.
pub(super) struct Rows(Vec<(Entry, String)>);

impl Rows {
    pub(super) fn of(entries: Vec<Entry>) -> Result<Self, Failed> {
        let row = |entry: Entry| {
            let fact = serde_json::to_string(&entry.fact)?;
            Ok((entry, fact))
        };
        Ok(Self(entries.into_iter().map(row).collect::<Result<_, Failed>>()?))
    }
}

/// What becomes of them at the end.
pub(super) enum Ending {
    Goes,
    Stays(Box<(Kept, Rows)>),
}

impl Ending {
    pub(super) fn of(learnt: Option<Learnt>) -> Result<Option<Self>, Failed> {
        Ok(match learnt {
            None => None,
            Some(Learnt::Goes) => Some(Self::Goes),
            Some(Learnt::Stays(mut kept)) => {
                let rows = Rows::of(std::mem::take(&mut kept.entries))?;
                Some(Self::Stays(Box::new((*kept, rows))))
            }
        })
    }
}

pub(super) fn learn(db: &Connection, opening: &Opening, rows: Rows, full: bool) -> Result<(), Failed> {
    let agent = number(db, &opening.agent)?;
    if is_committed(db, agent, &opening.delivery)? {
        return Ok(());
    }
    let record = match found(db, agent, &opening.delivery)? {
        Some(record) => record,
        None => insert(db, agent, opening, false, None)?,
    };
    write(db, record, rows, full, None)
}

/// With what ends it.
pub(super) fn end(db: &Connection, agent: i64, delivery: &DeliveryId, ending: Ending) -> Result<(), Failed> {
    match ending {
        Ending::Goes => remove_if(db, agent, delivery),
        Ending::Stays(kept) => {
            let (Kept { opening, ended, full, .. }, rows) = *kept;
            let Some(row) = found(db, agent, delivery)? else {
                let row = insert(db, agent, &opening, full, Some(ended))?;
                // Most have learnt nothing.
                return if rows.0.is_empty() { Ok(()) } else { write(db, row, rows, full, Some(ended)) };
            };
            db.prepare_cached("UPDATE record SET said = ?2 WHERE row = ?1 AND said <> ?2")?
                .execute(params![row, opening.said])?;
            write(db, row, rows, full, Some(ended))
        }
    }
}

fn remove_if(db: &Connection, agent: i64, delivery: &DeliveryId) -> Result<(), Failed> {
    let Some(row) = found(db, agent, delivery)? else { return Ok(()) };
    remove(db, row)
}

/// What has not ended: nobody asks for the others by their delivery.
fn found(db: &Connection, agent: i64, delivery: &DeliveryId) -> Result<Option<i64>, Failed> {
    Ok(db
        .prepare_cached("SELECT row FROM record WHERE agent = ?1 AND delivery = ?2 AND ended IS NULL")?
        .query_row(params![agent, delivery.as_str()], |row| row.get(0))
        .optional()?)
}

/// Its row, as far as it has learnt nothing.
fn insert(
    db: &Connection,
    agent: i64,
    opening: &Opening,
    full: bool,
    ended: Option<i64>,
) -> Result<i64, Failed> {
    let mut insert = db.prepare_cached(
        "INSERT INTO record (agent, delivery, plugin, event, component, begun, is_full, ended, bytes, said)
         SELECT ?1, ?2, ?3, ?4, id, ?6, ?8, ?9, octet_length(?7), ?7 FROM component WHERE digest = ?5",
    )?;
    let mut insert = || {
        insert.execute(params![
            agent,
            opening.delivery.as_str(),
            opening.plugin.as_str(),
            opening.event.as_str(),
            opening.component,
            opening.begun,
            opening.said,
            full,
            ended
        ])
    };
    if insert()? == 0 {
        db.prepare_cached("INSERT INTO component (digest) VALUES (?1)")?.execute([&opening.component])?;
        insert()?;
    }
    Ok(db.last_insert_rowid())
}

fn write(db: &Connection, record: i64, rows: Rows, full: bool, ended: Option<i64>) -> Result<(), Failed> {
    let any = !rows.0.is_empty();
    for (entry, fact) in rows.0 {
        db.prepare_cached(
            "INSERT INTO answer (record, key, place, at, fact, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (record, key) DO UPDATE
             SET place = excluded.place, at = excluded.at, fact = excluded.fact, body = excluded.body",
        )?
        .execute(params![record, entry.key.0, entry.order, entry.at, fact, entry.body])?;
    }
    if any || full || ended.is_some() {
        db.prepare_cached(
            "UPDATE record SET is_full = is_full OR ?2, ended = ?3, bytes = octet_length(said) +
             (SELECT coalesce(sum(octet_length(fact) + octet_length(body) + 100), 0) FROM answer WHERE record = ?1)
             WHERE row = ?1",
        )?
        .execute(params![record, full, ended])?;
    }
    Ok(())
}

const RECORD: &str =
    "SELECT record.row, agent.name, delivery, plugin, event, component.digest, begun, ended, is_full, said
     FROM record JOIN agent ON agent.id = record.agent JOIN component ON component.id = record.component ";

pub(super) fn begun(db: &Connection, agent: &AgentName, event: &EventId) -> Result<Vec<Record>, Failed> {
    let sql = format!("{RECORD} WHERE event = ?1 AND agent.name = ?2 AND ended IS NULL ORDER BY record.row");
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map([event.as_str(), agent.as_str()], of)?.collect::<Result<Vec<_>, _>>()?;
    rows.into_iter().map(|row| whole(db, row)).collect()
}

/// Looks at all that is kept, which a host that serves has no time for: whoever wants to see an event again has the time, and no event has to be filed for it.
pub(super) fn past(db: &Connection, event: &EventId) -> Result<Vec<Record>, Failed> {
    let sql = format!("{RECORD} WHERE event = ?1 AND ended IS NOT NULL ORDER BY record.row");
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map([event.as_str()], of)?.collect::<Result<Vec<_>, _>>()?;
    rows.into_iter().map(|row| whole(db, row)).collect()
}

fn of(row: &Row<'_>) -> rusqlite::Result<(i64, Record)> {
    let opening = Opening {
        agent: id(row, 1)?,
        delivery: id(row, 2)?,
        plugin: id(row, 3)?,
        event: id(row, 4)?,
        component: row.get(5)?,
        begun: row.get(6)?,
        said: row.get(9)?,
    };
    Ok((row.get(0)?, Record { opening, ended: row.get(7)?, full: row.get(8)?, entries: vec![] }))
}

fn whole(db: &Connection, (row, mut record): (i64, Record)) -> Result<Record, Failed> {
    let mut statement = db.prepare_cached(
        "SELECT key, place, at, fact, body FROM answer WHERE record = ?1 ORDER BY place, rowid",
    )?;
    let entry = |row: &Row<'_>| {
        let fact: Fact = json(row, 3)?;
        Ok(Entry { key: Key(row.get(0)?), order: row.get(1)?, at: row.get(2)?, fact, body: row.get(4)? })
    };
    record.entries = statement.query_map([row], entry)?.collect::<Result<_, _>>()?;
    Ok(record)
}

pub(super) fn put_aside(db: &Connection, agent: &AgentName, delivery: &DeliveryId) -> Result<(), Failed> {
    let agent = number(db, agent)?;
    remove_if(db, agent, delivery)
}

pub(super) fn components(db: &Connection) -> Result<Vec<String>, Failed> {
    let mut statement = db.prepare_cached(
        "SELECT digest FROM component
         WHERE id IN (SELECT component FROM record WHERE ended IS NOT NULL
                      UNION ALL SELECT component FROM record WHERE ended IS NULL)
         ORDER BY digest",
    )?;
    let digests = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(digests)
}

pub(super) fn forget(db: &Connection, before: i64, most: u64, limit: u32) -> Result<u32, Failed> {
    let limit = limit as usize;
    // Of what has not ended: a person was taken off the list, say, while it waited. The host's own events, timers that were
    // due, have a sign before their id.
    let mut gone: Vec<i64> = db
        .prepare_cached(
            "SELECT row FROM record WHERE ended IS NULL AND NOT EXISTS
               (SELECT 1 FROM event JOIN pending USING (sequence)
                WHERE event.agent = record.agent AND event.id IN (record.event, '-' || record.event))
             LIMIT ?1",
        )?
        .query_map([limit], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let left = limit - gone.len();
    let oldest: Vec<(i64, i64, i64)> = db
        .prepare_cached(
            "SELECT row, ended, bytes FROM record WHERE ended IS NOT NULL ORDER BY ended, row LIMIT ?1",
        )?
        .query_map([left], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let late = oldest.partition_point(|(_, ended, _)| *ended < before);
    gone.extend(oldest[..late].iter().map(|(row, ..)| *row));
    // Adding up takes a look at all of them, and so does what they are of.
    let all = late < left;
    if all {
        let mut bytes: i64 = db
            .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM record WHERE ended IS NOT NULL")?
            .query_row([], |row| row.get(0))?;
        bytes -= oldest[..late].iter().map(|(.., size)| size).sum::<i64>();
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        for (row, _, size) in &oldest[late..] {
            if bytes <= most {
                break;
            }
            bytes -= size;
            gone.push(*row);
        }
    }
    gone.iter().try_for_each(|row| remove(db, *row))?;
    if all {
        forget_unused(db)?;
    }
    u32::try_from(gone.len()).map_err(|error| Failed(Error::Storage(error.to_string())))
}

fn remove(db: &Connection, row: i64) -> Result<(), Failed> {
    db.prepare_cached("DELETE FROM answer WHERE record = ?1")?.execute([row])?;
    db.prepare_cached("DELETE FROM record WHERE row = ?1")?.execute([row])?;
    Ok(())
}

/// Components of which nothing is kept any more.
fn forget_unused(db: &Connection) -> Result<(), Failed> {
    db.prepare_cached(
        "DELETE FROM component
         WHERE id NOT IN (SELECT component FROM record WHERE ended IS NOT NULL
                          UNION ALL SELECT component FROM record WHERE ended IS NULL)",
    )?
    .execute([])?;
    Ok(())
}
