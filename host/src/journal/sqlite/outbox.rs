//! What goes out, and what became of it: effects, the names of messages, drafts; and where the agent is at home.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{
        Backlog, Draft, EffectKind, Known, Named, Queued, Sent,
        story::{Happening, destination},
        takes_draft,
    },
    Failed, id, json, number, optional_id, story,
};
use crate::{
    audit::now,
    effect::{Effect, EffectId, Place},
    event::MediaSource,
    id::{AgentName, DeliveryId, EventId, PluginName},
};

pub(super) fn unsent(db: &Connection, agent: &AgentName) -> Result<Vec<Queued>, Failed> {
    let queued = db
        .prepare_cached(
            "SELECT unsent.row, delivery, ordinal, coalesce(unsent.plugin, contribution.plugin), effect
             FROM unsent JOIN contribution ON contribution.row = unsent.contribution
             WHERE unsent.agent = (SELECT id FROM agent WHERE name = ?1) ORDER BY unsent.row",
        )?
        .query_map([agent.as_str()], |row| {
            Ok(Queued {
                row: row.get(0)?,
                id: EffectId { delivery: id(row, 1)?, ordinal: Some(row.get(2)?) },
                plugin: optional_id(row, 3)?,
                effect: json(row, 4)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(queued)
}

pub(super) fn sent(db: &Connection, agent: &AgentName, row: i64, sent: &Sent) -> Result<(), Failed> {
    let taken = db
        .prepare_cached(
            "DELETE FROM unsent WHERE row = ?1 AND agent = (SELECT id FROM agent WHERE name = ?2)
             RETURNING contribution, ordinal, effect, plugin, agent",
        )?
        .query_row(params![row, agent.as_str()], |row| {
            let of_a_tool: Option<String> = row.get(3)?;
            let (contribution, agent): (i64, i64) = (row.get(0)?, row.get(4)?);
            Ok((contribution, row.get::<_, u32>(1)?, json::<Effect>(row, 2)?, of_a_tool, agent))
        })
        .optional()?;
    let Some((contribution, ordinal, effect, of_a_tool, agent)) = taken else { return Ok(()) };
    let (event, room, given_up) = match sent {
        Sent::Accepted { event, room } => (Some(event.as_str()), Some(room.as_str()), None),
        Sent::GivenUp(reason) => (None, None, Some(reason)),
    };
    let (at, target) = (now(), room.map_or_else(|| destination(&effect), ToOwned::to_owned));
    db.prepare_cached(
        "INSERT INTO sent (contribution, ordinal, event, room, given_up, plugin, file, at, kind, target)
         SELECT ?1, ?2, ?3, iif(?4 AND coalesce(?7, plugin) IS NOT NULL, ?5, NULL), ?6, ?7, ?8, ?9, ?10, ?11
         FROM contribution WHERE row = ?1",
    )?
    .execute(params![
        contribution,
        ordinal,
        event,
        effect.message().is_some(),
        room,
        given_up,
        of_a_tool,
        effect.file().is_some(),
        at,
        EffectKind::of(&effect).word(),
        target
    ])?;
    let (event_id, why) = match sent {
        Sent::Accepted { event, .. } => (Some(event.clone()), None),
        Sent::GivenUp(reason) => (None, Some(reason.clone())),
    };
    story::note(db, agent, event.is_some(), &Happening { event: event_id, room: target, at, why })?;
    if let Some(file) = effect.file() {
        db.prepare_cached(
            "DELETE FROM blob WHERE contribution = ?1 AND digest = ?2 AND NOT EXISTS
             (SELECT 1 FROM unsent WHERE row >= ?1 << 16 AND row < ?1 + 1 << 16
              AND effect ->> '$.File.file.digest' = ?2)",
        )?
        .execute(params![contribution, file.digest])?;
    }
    if takes_draft(&effect) {
        db.prepare_cached(
            "DELETE FROM draft
             WHERE agent = ?1 AND delivery = (SELECT delivery FROM contribution WHERE row = ?2)",
        )?
        .execute([agent, contribution])?;
    }
    if let (Some(event), Some(room), Some((_, Some(name)))) = (event, room, effect.message()) {
        let file = effect.file().is_some();
        db.prepare_cached(
            "INSERT INTO named (agent, plugin, name, row, event, room, file)
             SELECT ?1, coalesce(?7, plugin), ?2, ?3, ?4, ?5, ?8 FROM contribution
             WHERE row = ?6 AND coalesce(?7, plugin) IS NOT NULL
             ON CONFLICT (agent, plugin, name)
             DO UPDATE SET row = excluded.row, event = excluded.event, room = excluded.room, file = excluded.file
             WHERE excluded.row > named.row",
        )?
        .execute(params![agent, name, row, event, room, contribution, of_a_tool, file])?;
    }
    Ok(())
}

pub(super) fn blob(
    db: &Connection,
    agent: &AgentName,
    delivery: &DeliveryId,
    digest: &str,
) -> Result<Option<Bytes>, Failed> {
    let bytes = db
        .prepare_cached(
            "SELECT bytes FROM blob JOIN contribution ON contribution.row = blob.contribution
             WHERE contribution.agent = (SELECT id FROM agent WHERE name = ?1) AND delivery = ?2 AND digest = ?3",
        )?
        .query_row([agent.as_str(), delivery.as_str(), digest], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    Ok(bytes.map(Bytes::from))
}

pub(super) fn blobs(db: &Connection, agent: &AgentName, plugin: &PluginName) -> Result<u64, Failed> {
    let bytes: i64 = db
        .prepare_cached(
            "SELECT coalesce(sum(octet_length(bytes)), 0) FROM blob
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2",
        )?
        .query_row([agent.as_str(), plugin.as_str()], |row| row.get(0))?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}

pub(super) fn stage(
    db: &Connection,
    agent: &AgentName,
    row: i64,
    source: &MediaSource,
) -> Result<(), Failed> {
    db.prepare_cached(
        "UPDATE unsent SET staged = ?3 WHERE row = ?2 AND agent = (SELECT id FROM agent WHERE name = ?1)",
    )?
    .execute(params![agent.as_str(), row, source.as_str()])?;
    Ok(())
}

pub(super) fn staged(db: &Connection, agent: &AgentName, row: i64) -> Result<Option<MediaSource>, Failed> {
    let staged = db
        .prepare_cached(
            "SELECT staged FROM unsent WHERE row = ?2 AND agent = (SELECT id FROM agent WHERE name = ?1)",
        )?
        .query_row(params![agent.as_str(), row], |row| row.get::<_, Option<String>>(0))
        .optional()?;
    Ok(staged.flatten().map(MediaSource::new))
}

pub(super) fn event_of(
    db: &Connection,
    agent: &AgentName,
    effect: &EffectId,
) -> Result<Option<EventId>, Failed> {
    let Some(ordinal) = effect.ordinal else {
        return Ok(drafted(db, agent, &effect.delivery)?.and_then(|draft| draft.event));
    };
    let event = db
        .prepare_cached(
            "SELECT sent.event FROM contribution JOIN sent ON sent.contribution = contribution.row
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND delivery = ?2 AND ordinal = ?3",
        )?
        .query_row(params![agent.as_str(), effect.delivery.as_str(), ordinal], |row| optional_id(row, 0))
        .optional()?;
    Ok(event.flatten())
}

pub(super) fn named(
    db: &Connection,
    agent: &AgentName,
    plugin: &PluginName,
    name: &str,
) -> Result<Option<Named>, Failed> {
    let of = [agent.as_str(), plugin.as_str(), name];
    let sent = db
        .prepare_cached(
            "SELECT row, event, room, file FROM named
             WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND plugin = ?2 AND name = ?3",
        )?
        .query_row(of, |row| {
            let sent = Named::Sent { event: id(row, 1)?, room: id(row, 2)?, file: row.get(3)? };
            Ok((row.get::<_, i64>(0)?, sent))
        })
        .optional()?;
    // Few wait at any time.
    let waiting = db
        .prepare_cached(
            "SELECT unsent.row, delivery, ordinal, effect
             FROM unsent JOIN contribution ON contribution.row = unsent.contribution
             WHERE unsent.agent = (SELECT id FROM agent WHERE name = ?1)
                   AND coalesce(unsent.plugin, contribution.plugin) = ?2
                   AND coalesce(effect ->> '$.Send.name', effect ->> '$.File.name') = ?3
             ORDER BY unsent.row DESC LIMIT 1",
        )?
        .query_row(of, |row| {
            let at = EffectId { delivery: id(row, 1)?, ordinal: Some(row.get(2)?) };
            Ok((row.get::<_, i64>(0)?, at, json::<Effect>(row, 3)?))
        })
        .optional()?;
    if let Some((row, id, effect)) = waiting
        && let Some((to, _)) = effect.message()
        && sent.as_ref().is_none_or(|sent| sent.0 < row)
    {
        return Ok(Some(Named::Waiting { id, to: to.clone(), file: effect.file().is_some() }));
    }
    Ok(sent.map(|(_, sent)| sent))
}

pub(super) fn known(db: &Connection, agent: &AgentName, event: &EventId) -> Result<Option<Known>, Failed> {
    let known = db
        .prepare_cached(
            "SELECT room, coalesce(sent.plugin, contribution.plugin), file FROM sent JOIN contribution ON contribution.row = sent.contribution
             WHERE sent.event = ?2 AND room IS NOT NULL AND agent = (SELECT id FROM agent WHERE name = ?1)
             UNION ALL
             SELECT room, NULL, 0 FROM event WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND id = ?2
             LIMIT 1",
        )?
        .query_row([agent.as_str(), event.as_str()], |row| {
            Ok(Known { room: id(row, 0)?, by: optional_id(row, 1)?, file: row.get(2)? })
        })
        .optional()?;
    Ok(known)
}

pub(super) fn draft(
    db: &Connection,
    agent: &AgentName,
    delivery: &DeliveryId,
    event: Option<&EventId>,
) -> Result<Draft, Failed> {
    let agent = number(db, agent)?;
    let noted = params![agent, delivery.as_str(), event.map(EventId::as_str)];
    let known = db
        .prepare_cached(
            "UPDATE draft SET event = coalesce(?3, event) WHERE agent = ?1 AND delivery = ?2 RETURNING event",
        )?
        .query_row(noted, |row| optional_id(row, 0))
        .optional()?;
    if let Some(event) = known {
        return Ok(Draft::of(delivery, event));
    }
    // Of a delivery that has ended nothing is kept: its draft is gone, and what is heard of it now is late.
    db.prepare_cached(
        "INSERT INTO draft (agent, delivery, event, at) SELECT ?1, ?2, ?3, ?4
         WHERE NOT EXISTS (SELECT 1 FROM contribution WHERE agent = ?1 AND delivery = ?2)",
    )?
    .execute(params![agent, delivery.as_str(), event.map(EventId::as_str), now()])?;
    Ok(Draft::of(delivery, event.cloned()))
}

pub(super) fn drafted(
    db: &Connection,
    agent: &AgentName,
    delivery: &DeliveryId,
) -> Result<Option<Draft>, Failed> {
    let event = db
        .prepare_cached(
            "SELECT event FROM draft WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND delivery = ?2",
        )?
        .query_row([agent.as_str(), delivery.as_str()], |row| optional_id(row, 0))
        .optional()?;
    Ok(event.map(|event| Draft::of(delivery, event)))
}

pub(super) fn backlog(db: &Connection, agent: &AgentName) -> Result<Backlog, Failed> {
    let count = |sql| -> Result<u64, Failed> {
        let count: i64 = db.prepare_cached(sql)?.query_row([agent.as_str()], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or_default())
    };
    Ok(Backlog {
        events: count("SELECT count(*) FROM pending WHERE agent = (SELECT id FROM agent WHERE name = ?1)")?,
        effects: count("SELECT count(*) FROM unsent WHERE agent = (SELECT id FROM agent WHERE name = ?1)")?,
        locked: count("SELECT count(*) FROM locked WHERE agent = (SELECT id FROM agent WHERE name = ?1)")?,
    })
}

pub(super) fn home(db: &Connection, agent: &AgentName) -> Result<Option<Place>, Failed> {
    let home = db
        .prepare_cached("SELECT home_room, home_thread FROM agent WHERE name = ?1 AND home_room IS NOT NULL")?
        .query_row([agent.as_str()], |row| Ok(Place { room: id(row, 0)?, thread: optional_id(row, 1)? }))
        .optional()?;
    Ok(home)
}
