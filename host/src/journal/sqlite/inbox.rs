//! What came in, and what of it has not ended.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::{Arrival, Pending, Sequence, story::Happening},
    Failed, id, json, story,
};
use crate::{
    audit::now,
    event::Position,
    gate::{Denial, Verdict},
    id::{AgentName, EventId, PluginName, RoomId, SessionId},
};

pub(super) fn position(db: &Connection, agent: &AgentName) -> Result<Option<Position>, Failed> {
    let position = db
        .prepare_cached("SELECT position FROM agent WHERE name = ?1")?
        .query_row([agent.as_str()], |row| row.get::<_, Option<String>>(0))
        .optional()?;
    Ok(position.flatten().map(Position))
}

/// An arrival, made ready by its caller: the thread that writes has enough to do.
pub(super) struct Received {
    id: EventId,
    session: SessionId,
    room: RoomId,
    encrypted: bool,
    /// The event as JSON, or why it may not pass.
    said: Result<String, String>,
    /// The same, as it is.
    denial: Option<Denial>,
}

impl Received {
    pub(super) fn of(arrival: &Arrival) -> Result<Self, Failed> {
        let event = &arrival.event;
        Ok(Self {
            id: event.id.clone(),
            session: arrival.session.clone(),
            room: event.room.id.clone(),
            encrypted: event.room.encrypted,
            said: match &arrival.verdict {
                Verdict::Allow => Ok(serde_json::to_string(event)?),
                Verdict::Deny(denial) => Err(serde_json::to_string(denial)?),
            },
            denial: match arrival.verdict {
                Verdict::Allow => None,
                Verdict::Deny(denial) => Some(denial),
            },
        })
    }
}

pub(super) fn receive(
    db: &Connection,
    agent: &AgentName,
    received: Vec<Received>,
    position: &Position,
) -> Result<Vec<Option<Sequence>>, Failed> {
    let agent: i64 = db
        .prepare_cached(
            "INSERT INTO agent (name, position) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET position = excluded.position RETURNING id",
        )?
        .query_row([agent.as_str(), &position.0], |row| row.get(0))?;
    let at = now();
    let (mut accepted, mut dropped) = (None, None);
    let mut sequences = Vec::with_capacity(received.len());
    for it in received {
        let received = receive_one(db, agent, &it, at)?;
        match (received, it.denial) {
            (Came::Accepted(_), _) => {
                let event = Some(it.id);
                accepted = Some(Happening { event, room: it.room.to_string(), at, why: None });
            }
            // Of the agent's own messages each comes back.
            (Came::Refused, Some(denial)) if denial != Denial::Own => {
                dropped = Some(Happening::denied(it.id, &it.room, at, denial));
            }
            _ => {}
        }
        sequences.push(match received {
            Came::Accepted(sequence) => Some(sequence),
            Came::Refused | Came::Again => None,
        });
    }
    for (what, happening) in [("accepted", accepted), ("dropped", dropped)] {
        if let Some(happening) = happening {
            story::note(db, agent, what, &happening)?;
        }
    }
    Ok(sequences)
}

#[derive(Clone, Copy)]
enum Came {
    Accepted(Sequence),
    Refused,
    Again,
}

fn receive_one(db: &Connection, agent: i64, received: &Received, at: i64) -> Result<Came, Failed> {
    let room = received.room.as_str();
    if received.encrypted {
        db.prepare_cached("INSERT INTO encrypted_room (agent, room) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute(params![agent, room])?;
    }
    let known = db
        .prepare_cached("UPDATE event SET again = again + 1 WHERE agent = ?1 AND id = ?2")?
        .execute(params![agent, received.id.as_str()])?;
    if known > 0 {
        return Ok(Came::Again);
    }
    let session = received.session.as_str();
    let sequence = db
        .prepare_cached(
            "INSERT INTO event (agent, id, room, session, refused, received) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .insert(params![agent, received.id.as_str(), room, session, received.said.as_ref().err(), at])?;
    let Ok(event) = &received.said else { return Ok(Came::Refused) };
    db.prepare_cached("INSERT INTO pending (sequence, agent, session, event) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![sequence, agent, session, event])?;
    Ok(Came::Accepted(Sequence(sequence)))
}

/// The two ways to ask differ in one line, and each has its index.
macro_rules! pending {
    ($of_session:literal) => {
        concat!(
            "SELECT sequence, session, event,
                    (SELECT group_concat(plugin, ' ' ORDER BY row) FROM contribution
                     WHERE contribution.event = pending.sequence)
             FROM pending
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) ",
            $of_session,
            " AND sequence > ?2 ORDER BY sequence LIMIT ?3"
        )
    };
}

pub(super) fn pending(
    db: &Connection,
    agent: &AgentName,
    session: Option<&SessionId>,
    after: Option<Sequence>,
    limit: u32,
) -> Result<Vec<Pending>, Failed> {
    let (agent, after) = (agent.as_str(), after.map_or(i64::MIN, |it| it.0));
    let rows = match session {
        None => db
            .prepare_cached(pending!(""))?
            .query_map(params![agent, after, limit], pending_of)?
            .collect::<Result<_, _>>()?,
        Some(session) => db
            .prepare_cached(pending!("AND session = ?4"))?
            .query_map(params![agent, after, limit, session.as_str()], pending_of)?
            .collect::<Result<_, _>>()?,
    };
    Ok(rows)
}

fn pending_of(row: &Row<'_>) -> rusqlite::Result<Pending> {
    let mut ended = Vec::new();
    for plugin in row.get_ref(3)?.as_str_or_null()?.into_iter().flat_map(|names| names.split(' ')) {
        let plugin = super::parsed::<PluginName>(3, plugin)?;
        if !ended.contains(&plugin) {
            ended.push(plugin);
        }
    }
    Ok(Pending { sequence: Sequence(row.get(0)?), event: json(row, 2)?, session: id(row, 1)?, ended })
}

pub(super) fn was_encrypted(db: &Connection, agent: &AgentName, room: &RoomId) -> Result<bool, Failed> {
    Ok(db
        .prepare_cached(
            "SELECT 1 FROM encrypted_room WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND room = ?2",
        )?
        .exists([agent.as_str(), room.as_str()])?)
}
