//! What somebody who asks is told, and what is put away.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::{
        Became, EffectKind, Fate, Last, Story, Tidy, Told,
        story::{Happening, destination},
    },
    Failed, commit, forget, id, json, optional_id, optional_json,
};
use crate::{
    effect::Effect,
    gate::Verdict,
    id::{AgentName, EventId},
};

/// The agent's effect was taken, or given up.
pub(super) fn note(db: &Connection, agent: i64, taken: bool, happening: &Happening) -> Result<(), Failed> {
    let sql = if taken {
        "UPDATE agent SET acknowledged = ?2 WHERE id = ?1"
    } else {
        "UPDATE agent SET given_up = ?2 WHERE id = ?1"
    };
    db.prepare_cached(sql)?.execute(params![agent, serde_json::to_string(happening)?])?;
    Ok(())
}

pub(super) fn agents(db: &Connection) -> Result<Vec<AgentName>, Failed> {
    let agents = db
        .prepare_cached("SELECT name FROM agent ORDER BY name")?
        .query_map([], |row| id(row, 0))?
        .collect::<Result<_, _>>()?;
    Ok(agents)
}

pub(super) fn last(db: &Connection, agent: &AgentName) -> Result<Last, Failed> {
    let mut last = db
        .prepare_cached("SELECT accepted, dropped, acknowledged, given_up FROM agent WHERE name = ?1")?
        .query_row([agent.as_str()], |row| {
            Ok(Last {
                accepted: optional_json(row, 0)?,
                dropped: optional_json(row, 1)?,
                acknowledged: optional_json(row, 2)?,
                given_up: optional_json(row, 3)?,
                ..Last::default()
            })
        })
        .optional()?
        .unwrap_or_default();
    let oldest = |sql| -> Result<Option<i64>, Failed> {
        let oldest = db
            .prepare_cached(sql)?
            .query_row([agent.as_str()], |row| row.get::<_, Option<i64>>(0))
            .optional()?;
        Ok(oldest.flatten())
    };
    last.oldest_event = oldest(
        "SELECT event.received FROM pending JOIN event ON event.sequence = pending.sequence
         WHERE pending.agent = (SELECT id FROM agent WHERE name = ?1) ORDER BY pending.sequence LIMIT 1",
    )?;
    last.oldest_effect = oldest(
        "SELECT contribution.at FROM unsent JOIN contribution ON contribution.row = unsent.contribution
         WHERE unsent.agent = (SELECT id FROM agent WHERE name = ?1) ORDER BY unsent.row LIMIT 1",
    )?;
    Ok(last)
}

pub(super) fn story(db: &Connection, agent: &AgentName, event: &EventId) -> Result<Option<Story>, Failed> {
    let found = db
        .prepare_cached(
            "SELECT sequence, room, session, received, again, refused,
                    EXISTS (SELECT 1 FROM pending WHERE pending.sequence = event.sequence),
                    EXISTS (SELECT 1 FROM locked WHERE locked.sequence = event.sequence)
             FROM event WHERE agent = (SELECT id FROM agent WHERE name = ?1) AND id IN (?2, '-' || ?2) AND room != ''",
        )?
        .query_row([agent.as_str(), event.as_str()], |row| {
            let refused = row.get_ref(5)?.as_str_or_null()?.is_some();
            let story = Story {
                event: event.clone(),
                room: id(row, 1)?,
                session: id(row, 2)?,
                received: row.get(3)?,
                again: row.get(4)?,
                verdict: if refused { Verdict::Deny(json(row, 5)?) } else { Verdict::Allow },
                waits: row.get(6)?,
                locked: row.get(7)?,
                deliveries: Vec::new(),
                sent_for: None,
            };
            Ok((row.get::<_, i64>(0)?, story))
        })
        .optional()?;
    let Some((sequence, mut story)) = found else { return Ok(None) };
    story.deliveries = deliveries(db, sequence)?;
    story.sent_for = db
        .prepare_cached(
            "SELECT ltrim(event.id, '-') FROM sent JOIN contribution ON contribution.row = sent.contribution
             JOIN event ON event.sequence = contribution.event
             WHERE sent.event = ?2 AND event.room != ''
                   AND contribution.agent = (SELECT id FROM agent WHERE name = ?1)",
        )?
        .query_row([agent.as_str(), event.as_str()], |row| id(row, 0))
        .optional()?;
    Ok(Some(story))
}

fn deliveries(db: &Connection, sequence: i64) -> Result<Vec<Told>, Failed> {
    let found: Vec<(i64, Told)> = db
        .prepare_cached(
            "SELECT row, plugin, outcome, at, line FROM contribution WHERE event = ?1 ORDER BY row",
        )?
        .query_map([sequence], |row| {
            let outcome = commit::outcome(row.get_ref(2)?.as_str()?);
            let outcome = outcome.ok_or(rusqlite::Error::InvalidQuery)?;
            let (at, line) = (row.get(3)?, row.get(4)?);
            Ok((row.get(0)?, Told { plugin: optional_id(row, 1)?, outcome, at, line, effects: vec![] }))
        })?
        .collect::<Result<_, _>>()?;
    let told = found.into_iter().map(|(row, told)| effects(db, row).map(|effects| Told { effects, ..told }));
    told.collect()
}

fn effects(db: &Connection, contribution: i64) -> Result<Vec<Fate>, Failed> {
    let mut effects: Vec<Fate> = db
        .prepare_cached(
            "SELECT ordinal, plugin, kind, target, event, given_up, at FROM sent WHERE contribution = ?1",
        )?
        .query_map([contribution], over)?
        .collect::<Result<_, _>>()?;
    // Few wait at any time.
    let waiting: Vec<Fate> = db
        .prepare_cached(
            "SELECT ordinal, plugin, effect FROM unsent WHERE row >= ?1 << 16 AND row < ?1 + 1 << 16",
        )?
        .query_map([contribution], |row| {
            let effect: Effect = json(row, 2)?;
            Ok(Fate {
                ordinal: row.get(0)?,
                tool: optional_id(row, 1)?,
                kind: Some(EffectKind::of(&effect)),
                to: Some(destination(&effect)),
                became: Became::Waiting,
            })
        })?
        .collect::<Result<_, _>>()?;
    effects.extend(waiting);
    effects.sort_by_key(|effect| effect.ordinal);
    Ok(effects)
}

fn over(row: &Row<'_>) -> rusqlite::Result<Fate> {
    let (event, given_up, at): (Option<EventId>, Option<String>, _) =
        (optional_id(row, 4)?, row.get(5)?, row.get(6)?);
    Ok(Fate {
        ordinal: row.get(0)?,
        tool: optional_id(row, 1)?,
        kind: row.get_ref(2)?.as_str_or_null()?.and_then(EffectKind::parse),
        to: row.get(3)?,
        became: match (event, given_up) {
            (Some(event), _) => Became::Sent { event, at },
            (None, Some(reason)) => Became::GivenUp { reason, at },
            (None, None) => Became::Done,
        },
    })
}

pub(super) fn tidy(db: &Connection, agent: &AgentName, tidy: Tidy) -> Result<bool, Failed> {
    let Tidy { drafts_before, names, announcements, step } = tidy;
    let agent: Option<i64> = db
        .prepare_cached("SELECT id FROM agent WHERE name = ?1")?
        .query_row([agent.as_str()], |row| row.get(0))
        .optional()?;
    let Some(agent) = agent else { return Ok(false) };
    let mut gone = db
        .prepare_cached(
            "DELETE FROM draft WHERE agent = ?1 AND delivery IN (
                 SELECT delivery FROM draft WHERE agent = ?1 AND at < ?2
                 AND delivery NOT IN (SELECT delivery FROM unsent
                     JOIN contribution ON contribution.row = unsent.contribution WHERE unsent.agent = ?1)
                 ORDER BY at LIMIT ?3)",
        )?
        .execute(params![agent, drafts_before, step])?;
    let plugins: Vec<String> = db
        .prepare_cached("SELECT DISTINCT plugin FROM named WHERE agent = ?1")?
        .query_map([agent], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for plugin in plugins {
        gone += db
            .prepare_cached(
                "DELETE FROM named WHERE agent = ?1 AND plugin = ?2 AND name IN (
                     SELECT name FROM named WHERE agent = ?1 AND plugin = ?2
                     AND row <= (SELECT row FROM named WHERE agent = ?1 AND plugin = ?2
                                 ORDER BY row DESC LIMIT 1 OFFSET ?3)
                     ORDER BY row LIMIT ?4)",
            )?
            .execute(params![agent, plugin, names, step])?;
    }
    let own: Vec<i64> = db
        .prepare_cached(
            "SELECT sequence FROM event WHERE agent = ?1 AND room = ''
             AND sequence <= (SELECT sequence FROM event WHERE agent = ?1 AND room = ''
                              ORDER BY sequence DESC LIMIT 1 OFFSET ?2)
             AND sequence NOT IN (SELECT contribution.event FROM unsent
                 JOIN contribution ON contribution.row = unsent.contribution WHERE unsent.agent = ?1)
             ORDER BY sequence LIMIT ?3",
        )?
        .query_map(params![agent, announcements, step], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    forget::remove(db, &own)?;
    gone += own.len();
    Ok(gone >= step as usize)
}
