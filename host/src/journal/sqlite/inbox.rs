//! What came in, and what of it has not ended.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::{Arrival, Pending, Sequence, is_locked, story::Happening, time_of},
    Failed, forget, id, json, number, numbers,
    thread::{Ahead, Unwritten},
};
use crate::{
    audit::now,
    event::{Event, Kind, Position},
    gate::{Denial, Verdict},
    id::{AgentName, EventId, PluginName, RoomId, SessionId},
};

/// The newest event of each room is noted at numbers that this divides.
const NOTED: i64 = 256;

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

/// A batch that is received: whoever brings it goes on when it is seen what each arrival is, and it is written then.
pub(super) struct Receiving {
    agent: AgentName,
    received: Vec<Received>,
    position: Position,
    found: Vec<Found>,
    arriving: Arc<Arriving>,
}

impl Receiving {
    pub(super) fn of(
        agent: &AgentName,
        arrivals: &[Arrival],
        position: &Position,
        arriving: Arc<Arriving>,
    ) -> Result<Self, Failed> {
        let received = arrivals.iter().map(Received::of).collect::<Result<_, _>>()?;
        Ok(Self { agent: agent.clone(), received, position: position.clone(), found: vec![], arriving })
    }
}

/// Events of the open transaction that may pass and have not ended: those that end in the same one are never written
/// to `pending`.
#[derive(Default)]
pub(super) struct Arriving(Mutex<BTreeMap<i64, Arrived>>);

struct Arrived {
    agent: i64,
    session: SessionId,
    /// JSON.
    event: String,
}

/// What was said is nobody's business.
impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Arriving")
    }
}

impl Arriving {
    /// One has ended.
    pub(super) fn end(&self, db: &Connection, number: i64) -> Result<(), Failed> {
        if self.lock().remove(&number).is_none() {
            db.prepare_cached("DELETE FROM pending WHERE sequence = ?1")?.execute([number])?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Arrived>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unwritten for Arriving {
    fn write(&self, db: &Connection) -> Result<(), Failed> {
        let arrived = std::mem::take(&mut *self.lock());
        arrived.into_iter().try_for_each(|(number, it)| wait(db, it.agent, number, &it.session, &it.event))
    }

    fn forget(&self) {
        self.lock().clear();
    }
}

/// It waits for its turn.
fn wait(db: &Connection, agent: i64, number: i64, session: &SessionId, event: &str) -> Result<(), Failed> {
    db.prepare_cached("INSERT INTO pending (sequence, agent, session, event) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![number, agent, session.as_str(), event])?;
    Ok(())
}

impl Ahead for Receiving {
    type Answer = Vec<Option<Sequence>>;

    fn look(&mut self, db: &Connection) -> Result<Self::Answer, Failed> {
        let mut looking = Looking { db, agent: &self.agent, seen: HashMap::new(), next: None };
        self.found = self.received.iter().map(|it| looking.look(it)).collect::<Result<_, _>>()?;
        let came = self.found.iter().zip(&self.received);
        Ok(came.map(|(found, received)| found.came(received).sequence()).collect())
    }

    fn write(&self, db: &Connection) -> Result<(), Failed> {
        let (at, mut last) = (now(), Last::default());
        for (found, received) in self.found.iter().zip(&self.received) {
            last.take(received, found.came(received), at);
        }
        let agent = last.note(db, &self.agent, Some(&self.position))?;
        for (found, received) in self.found.iter().zip(&self.received) {
            if write(db, agent, received, *found, at)?
                && let (Found::New(number), Ok(event)) = (found, &received.said)
            {
                let arrived = Arrived { agent, session: received.session.clone(), event: event.clone() };
                self.arriving.lock().insert(*number, arrived);
            }
        }
        Ok(())
    }
}

/// What an arrival is, with the number that its event has or gets.
#[derive(Clone, Copy)]
enum Found {
    New(i64),
    /// It was there and could not be read, and now it can.
    Unlocked(i64),
    /// It was there.
    Again(i64),
}

impl Found {
    fn came(self, received: &Received) -> Came {
        match self {
            Self::New(number) | Self::Unlocked(number) if received.said.is_ok() => {
                Came::Accepted(Sequence(number))
            }
            Self::New(_) | Self::Unlocked(_) => Came::Refused,
            Self::Again(_) => Came::Again,
        }
    }
}

/// Who finds out what arrivals are, one after the other.
struct Looking<'a> {
    db: &'a Connection,
    agent: &'a AgentName,
    /// The arrivals before, by id, and which of them wait for their key.
    seen: HashMap<&'a str, (i64, bool)>,
    /// The number that the next event gets, once it was looked up.
    next: Option<i64>,
}

impl<'a> Looking<'a> {
    fn look(&mut self, received: &'a Received) -> Result<Found, Failed> {
        let id = &*received.id;
        let known = match self.seen.get(id) {
            Some(seen) => Some(*seen),
            None => find(self.db, self.agent, id)?,
        };
        let found = match known {
            Some((number, true)) if !received.locked => Found::Unlocked(number),
            Some((number, _)) => Found::Again(number),
            None => Found::New(self.number()?),
        };
        match found {
            Found::New(number) => self.seen.insert(id, (number, received.locked && received.said.is_ok())),
            Found::Unlocked(number) => self.seen.insert(id, (number, false)),
            Found::Again(_) => None,
        };
        Ok(found)
    }

    /// Numbers are never given twice, not even those of events that were forgotten.
    fn number(&mut self) -> Result<i64, Failed> {
        let number = match self.next {
            Some(number) => number,
            None => numbers::event(self.db)?,
        };
        self.next = Some(number + 1);
        Ok(number)
    }
}

/// An event's number, and whether it waits for its key.
fn find(db: &Connection, agent: &AgentName, id: &str) -> Result<Option<(i64, bool)>, Failed> {
    Ok(db
        .prepare_cached(
            "SELECT sequence, EXISTS (SELECT 1 FROM locked WHERE locked.sequence = event.sequence)
             FROM event WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND id = ?2",
        )?
        .query_row([agent.as_str(), id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

/// One of the host's own, at once.
pub(super) fn receive_own(
    db: &Connection,
    name: &AgentName,
    agent: i64,
    received: &Received,
) -> Result<Option<Sequence>, Failed> {
    let found = match find(db, name, &received.id)? {
        Some((number, _)) => Found::Again(number),
        None => Found::New(numbers::event(db)?),
    };
    if write(db, agent, received, found, now())?
        && let (Found::New(number), Ok(event)) = (found, &received.said)
    {
        wait(db, agent, number, &received.session, event)?;
    }
    Ok(found.came(received).sequence())
}

/// What came of an arrival.
#[derive(Clone, Copy)]
enum Came {
    Accepted(Sequence),
    Refused,
    /// It was there before.
    Again,
}

impl Came {
    fn sequence(self) -> Option<Sequence> {
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
    fn take(&mut self, received: &Received, came: Came, at: i64) {
        match (came, received.denial) {
            (Came::Accepted(_), _) => {
                let (event, room) = (Some(received.event.clone()), received.room.to_string());
                self.accepted = Some(Happening { event, room, at, why: None });
            }
            // Of the agent's own messages each comes back.
            (Came::Refused, Some(denial)) if denial != Denial::Own => {
                self.dropped = Some(Happening::denied(received.event.clone(), &received.room, at, denial));
            }
            _ => {}
        }
    }

    /// With the position up to which it has happened, where it has one. Answers the agent's number.
    fn note(self, db: &Connection, agent: &AgentName, position: Option<&Position>) -> Result<i64, Failed> {
        let json = |it: Option<Happening>| it.as_ref().map(serde_json::to_string).transpose();
        let (accepted, dropped) = (json(self.accepted)?, json(self.dropped)?);
        let mut update = db.prepare_cached(
            "UPDATE agent SET position = coalesce(?2, position), accepted = coalesce(?3, accepted),
                              dropped = coalesce(?4, dropped) WHERE name = ?1 RETURNING id",
        )?;
        let mut update = || {
            let noted = params![agent.as_str(), position.map(|it| &it.0), accepted, dropped];
            update.query_row(noted, |row| row.get(0)).optional()
        };
        if let Some(known) = update()? {
            return Ok(known);
        }
        let new = number(db, agent)?;
        update()?;
        Ok(new)
    }
}

/// All but that a new one waits for its turn. Answers whether it is one that may.
fn write(db: &Connection, agent: i64, received: &Received, found: Found, at: i64) -> Result<bool, Failed> {
    let (room, session) = (received.room.as_str(), received.session.as_str());
    if received.encrypted {
        db.prepare_cached("INSERT INTO encrypted_room (agent, room) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute(params![agent, room])?;
    }
    let number = match found {
        Found::New(number) => number,
        Found::Unlocked(number) => return unlock_one(db, agent, number, received).map(|_| false),
        Found::Again(number) => {
            db.prepare_cached("UPDATE event SET again = again + 1 WHERE sequence = ?1")?.execute([number])?;
            return Ok(false);
        }
    };
    let mut insert = db.prepare_cached(
        "INSERT INTO event (sequence, agent, id, room, session, refused, at, received)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (agent, id) DO NOTHING",
    )?;
    let refused = received.said.as_ref().err();
    let mut insert =
        || insert.execute(params![number, agent, received.id, room, session, refused, received.at, at]);
    if insert()? == 0 {
        // It was forgotten in a commit that has failed since: the answer stands that it is new.
        forget::again(db, agent, &received.id)?;
        insert()?;
    }
    if number % NOTED == 0 {
        forget::note_newest(db)?;
    }
    if let (true, Ok(event)) = (received.locked, &received.said) {
        db.prepare_cached("INSERT INTO locked (sequence, agent, session, event) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![number, agent, session, event])?;
    }
    Ok(!received.locked && received.said.is_ok())
}

pub(super) fn unlock(
    db: &Connection,
    agent: &AgentName,
    sequence: Sequence,
    received: &Received,
) -> Result<bool, Failed> {
    let number = number(db, agent)?;
    let Some(came) = unlock_one(db, number, sequence.0, received)? else { return Ok(false) };
    let mut last = Last::default();
    last.take(received, came, now());
    last.note(db, agent, None)?;
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
    wait(db, agent, sequence, &received.session, event)?;
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
                     WHERE contribution.event = pending.sequence),
                    EXISTS (SELECT 1 FROM contribution JOIN sent ON sent.contribution = contribution.row
                            WHERE contribution.event = pending.sequence)
                    OR EXISTS (SELECT 1 FROM contribution
                               JOIN unsent ON unsent.row >= contribution.row << 16 AND unsent.row < contribution.row + 1 << 16
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
    let (sequence, said) = (Sequence(row.get(0)?), row.get(4)?);
    Ok(Pending { sequence, event: json(row, 2)?, session: id(row, 1)?, ended, said })
}

pub(super) fn was_encrypted(db: &Connection, agent: &AgentName, room: &RoomId) -> Result<bool, Failed> {
    Ok(db
        .prepare_cached(
            "SELECT 1 FROM encrypted_room WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND room = ?2",
        )?
        .exists([agent.as_str(), room.as_str()])?)
}
