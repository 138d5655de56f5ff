//! The audit record: a chain that only grows.

use rusqlite::{Connection, Row, params, types::ValueRef};

use super::Failed;
use crate::audit::{Entry, Hash, Head, Recorded};

pub(super) fn record(db: &Connection, entries: Vec<Entry>) -> Result<(), Failed> {
    let mut end = head(db)?;
    for entry in entries {
        let Recorded { number, entry, hash } = end.push(entry);
        db.prepare_cached(
            "INSERT INTO audit (number, at, agent, plugin, what, permission, detail, count, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            signed(number),
            entry.at,
            entry.agent,
            entry.plugin,
            entry.what,
            entry.permission,
            entry.detail,
            entry.count,
            hash.0
        ])?;
    }
    db.prepare_cached("UPDATE audit_head SET count = ?1, hash = ?2")?
        .execute(params![signed(end.count), end.hash.0])?;
    Ok(())
}

pub(super) fn recorded(db: &Connection, after: u64, limit: u32) -> Result<Vec<Recorded>, Failed> {
    let recorded = db
        .prepare_cached(
            "SELECT number, at, agent, plugin, what, permission, detail, count, hash FROM audit
             WHERE number > ?1 ORDER BY number LIMIT ?2",
        )?
        .query_map(params![signed(after), limit], |row| {
            let entry = Entry {
                at: row.get(1)?,
                agent: text(row, 2)?,
                plugin: text(row, 3)?,
                what: text(row, 4)?.unwrap_or_default(),
                permission: text(row, 5)?,
                detail: text(row, 6)?.unwrap_or_default(),
                count: row.get(7)?,
            };
            Ok(Recorded { number: unsigned(row.get(0)?), entry, hash: hash(row, 8)? })
        })?
        .collect::<Result<_, _>>()?;
    Ok(recorded)
}

pub(super) fn head(db: &Connection) -> Result<Head, Failed> {
    let head = db
        .prepare_cached("SELECT count, hash FROM audit_head")?
        .query_row([], |row| Ok(Head { count: unsigned(row.get(0)?), hash: hash(row, 1)? }))?;
    Ok(head)
}

/// Text as it is now: bytes that somebody has put there and that are none are seen by the hash.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    })
}

/// Of another length it is none that fits.
fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<Hash> {
    let bytes = row.get_ref(column)?.as_blob_or_null()?.unwrap_or_default();
    Ok(bytes.try_into().map(Hash).unwrap_or_default())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
