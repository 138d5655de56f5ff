//! What came in, and what of it has not ended.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::{Arrival, Pending, Sequence, is_locked, story::Happening, time_of},
    Failed, forget, id, json, number, story,
};
use crate::{
    audit::now,
    event::{Event, Kind, Position},
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
    id: String,
    event: EventId,
    /// The host's own: nothing that the room has.
    own: bool,
    session: SessionId,
    room: RoomId,
    encrypted: bool,
    at: i64,
    locked: bool,
    /// The event as JSON, or why it may not pass.
    said: Result<String, String>,
    /// The same, as it is.
    denial: Option<Denial>,
}

impl Received {
    pub(super) fn of(arrival: &Arrival) -> Result<Self, Failed> {
        let event = &arrival.event;
        let own = matches!(event.kind, Kind::Timer(_));
        Ok(Self {
            // The host's own has an id that is that of none.
            id: if own { format!("-{}", event.id) } else { event.id.to_string() },
            event: event.id.clone(),
            own,
            session: arrival.session.clone(),
            room: event.room.id.clone(),
            encrypted: event.room.encrypted,
            at: time_of(event),
            locked: is_locked(event),
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
    let mut last = Last::default();
    let mut sequences = Vec::with_capacity(received.len());
    for it in received {
        let came = receive_one(db, agent, &it, at)?;
        sequences.push(came.sequence());
        last.take(it, came, at);
    }
    last.note(db, agent)?;
    Ok(sequences)
}

/// What came of an arrival.
#[derive(Clone, Copy)]
pub(super) enum Came {
    Accepted(Sequence),
    Refused,
    /// It was there before.
    Again,
}

impl Came {
    pub(super) fn sequence(self) -> Option<Sequence> {
        match self {
            Self::Accepted(sequence) => Some(sequence),
            Self::Refused | Self::Again => None,
        }
    }
}

/// What happened last: of several arrivals only the last is written down.
#[derive(Default)]
struct Last {
    accepted: Option<Happening>,
    dropped: Option<Happening>,
}

impl Last {
    fn take(&mut self, received: Received, came: Came, at: i64) {
        match (came, received.denial) {
            (Came::Accepted(_), _) => {
                let (event, room) = (Some(received.event), received.room.to_string());
                self.accepted = Some(Happening { event, room, at, why: None });
            }
            // Of the agent's own messages each comes back.
            (Came::Refused, Some(denial)) if denial != Denial::Own => {
                self.dropped = Some(Happening::denied(received.event, &received.room, at, denial));
            }
            _ => {}
        }
    }

    fn note(self, db: &Connection, agent: i64) -> Result<(), Failed> {
        for (what, happening) in [("accepted", self.accepted), ("dropped", self.dropped)] {
            if let Some(happening) = happening {
                story::note(db, agent, what, &happening)?;
            }
        }
        Ok(())
    }
}

pub(super) fn receive_one(db: &Connection, agent: i64, received: &Received, at: i64) -> Result<Came, Failed> {
    let room = received.room.as_str();
    if received.encrypted {
        db.prepare_cached("INSERT INTO encrypted_room (agent, room) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute(params![agent, room])?;
    }
    let known = db
        .prepare_cached("SELECT sequence FROM event WHERE agent = ?1 AND id = ?2")?
        .query_row(params![agent, received.id], |row| row.get(0))
        .optional()?;
    if let Some(sequence) = known {
        if !received.locked
            && let Some(came) = unlock_one(db, agent, sequence, received)?
        {
            return Ok(came);
        }
        db.prepare_cached("UPDATE event SET again = again + 1 WHERE sequence = ?1")?.execute([sequence])?;
        return Ok(Came::Again);
    }
    let session = received.session.as_str();
    let sequence = db
        .prepare_cached(
            "INSERT INTO event (agent, id, room, session, refused, at, received) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .insert(params![
            agent,
            received.id,
            room,
            session,
            received.said.as_ref().err(),
            received.at,
            at
        ])?;
    if !received.own {
        forget::note(db, agent, room, &received.id)?;
    }
    let Ok(event) = &received.said else { return Ok(Came::Refused) };
    let wait = if received.locked {
        "INSERT INTO locked (sequence, agent, session, event) VALUES (?1, ?2, ?3, ?4)"
    } else {
        "INSERT INTO pending (sequence, agent, session, event) VALUES (?1, ?2, ?3, ?4)"
    };
    db.prepare_cached(wait)?.execute(params![sequence, agent, session, event])?;
    Ok(Came::Accepted(Sequence(sequence)))
}

pub(super) fn unlock(
    db: &Connection,
    agent: &AgentName,
    sequence: Sequence,
    received: Received,
) -> Result<bool, Failed> {
    let agent = number(db, agent)?;
    let Some(came) = unlock_one(db, agent, sequence.0, &received)? else { return Ok(false) };
    let mut last = Last::default();
    last.take(received, came, now());
    last.note(db, agent)?;
    Ok(came.sequence().is_some())
}

/// Nothing, where it did not wait for its key.
fn unlock_one(
    db: &Connection,
    agent: i64,
    sequence: i64,
    received: &Received,
) -> Result<Option<Came>, Failed> {
    let waited = db
        .prepare_cached("DELETE FROM locked WHERE sequence = ?1 AND agent = ?2")?
        .execute([sequence, agent])?;
    if waited == 0 {
        return Ok(None);
    }
    let session = received.session.as_str();
    db.prepare_cached("UPDATE event SET session = ?2, refused = ?3 WHERE sequence = ?1")?
        .execute(params![sequence, session, received.said.as_ref().err()])?;
    let Ok(event) = &received.said else { return Ok(Some(Came::Refused)) };
    db.prepare_cached("INSERT INTO pending (sequence, agent, session, event) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![sequence, agent, session, event])?;
    Ok(Some(Came::Accepted(Sequence(sequence))))
}

pub(super) fn locked(
    db: &Connection,
    agent: &AgentName,
) -> Result<Vec<(Sequence, SessionId, Event)>, Failed> {
    let found = db
        .prepare_cached(
            "SELECT sequence, session, event FROM locked
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) ORDER BY sequence",
        )?
        .query_map([agent.as_str()], |row| Ok((Sequence(row.get(0)?), id(row, 1)?, json(row, 2)?)))?
        .collect::<Result<_, _>>()?;
    Ok(found)
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
