//! The numbers of events and contributions: one more than the greatest there is or was, so that none is given twice, not
//! even that of something forgotten. How far they came stands apart when something goes, so that what comes and stays
//! writes nothing but itself. A contribution takes its own in the statement that writes it.

use rusqlite::Connection;

use super::Failed;

/// The next event's.
pub(super) fn event(db: &Connection) -> Result<i64, Failed> {
    let next = "SELECT max(event, coalesce((SELECT max(sequence) FROM event), 0)) + 1 FROM reached";
    Ok(db.prepare_cached(next)?.query_row([], |row| row.get(0))?)
}

/// One as a contribution has it, for what is written without one: the version of values.
pub(super) fn version(db: &Connection) -> Result<i64, Failed> {
    let take = "UPDATE reached
                SET contribution = max(contribution, coalesce((SELECT max(row) FROM contribution), 0)) + 1
                RETURNING contribution";
    Ok(db.prepare_cached(take)?.query_row([], |row| row.get(0))?)
}

/// Before any is removed.
pub(super) fn keep(db: &Connection) -> Result<(), Failed> {
    db.prepare_cached(
        "UPDATE reached SET event = max(event, coalesce((SELECT max(sequence) FROM event), 0)),
                            contribution = max(contribution, coalesce((SELECT max(row) FROM contribution), 0))",
    )?
    .execute([])?;
    Ok(())
}
