//! What ends a delivery, in one go.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{
        Commit, EffectKind, Error, Outcome, Queued, Sequence, never_received, row_of, story::destination,
        takes_draft, version::Standing,
    },
    Failed,
    inbox::Arriving,
    kv, number, numbers, record, timers, version,
};
use crate::{
    audit::now,
    effect::{Effect, EffectId, Place},
    id::{DeliveryId, EventId, PluginName},
};

/// The effects of a commit as JSON, in order, made by the caller.
pub(super) struct Effects(Vec<String>);

impl Effects {
    pub(super) fn of(commit: &Commit) -> Result<Self, Failed> {
        let effects = commit.effects().into_iter();
        Ok(Self(effects.map(|(.., effect)| serde_json::to_string(effect)).collect::<Result<_, _>>()?))
    }
}

pub(super) fn commit(
    db: &Connection,
    commit: &Commit,
    effects: Effects,
    learnt: Option<record::Ending>,
    arriving: &Arriving,
) -> Result<Vec<Queued>, Failed> {
    let Commit { agent: name, sequence, delivery, contribution, ends_event, line, .. } = commit;
    let at = now();
    // Before the reads are checked, so that the number is there for the writes; a conflict takes it back.
    let made = db
        .prepare_cached(
            "INSERT INTO contribution (row, agent, delivery, event, plugin, outcome, at, line)
             SELECT max(reached.contribution, coalesce((SELECT max(row) FROM contribution), 0)) + 1,
                    agent.id, ?2, event.sequence, ?3, ?4, ?6, ?7
             FROM agent JOIN event ON event.sequence = ?5 AND event.agent = agent.id JOIN reached
             WHERE agent.name = ?1 AND NOT EXISTS
                   (SELECT 1 FROM contribution AS other WHERE other.agent = agent.id AND other.delivery = ?2)
             RETURNING row, agent",
        )?
        .query_row(
            params![
                name.as_str(),
                delivery.as_str(),
                contribution.plugin.as_ref().map(PluginName::as_str),
                word(contribution.outcome),
                sequence.0,
                at,
                line
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((row, agent)): Option<(i64, i64)> = made else {
        return if is_committed(db, number(db, name)?, delivery)? {
            Ok(Vec::new())
        } else {
            Err(never_received(name, *sequence).into())
        };
    };
    for read in commit.contributions().flat_map(|contribution| &contribution.reads) {
        if !kv::unchanged(db, read)? {
            return Err(Error::Conflict.into());
        }
    }
    let mut standing = Vec::with_capacity(1);
    for contribution in commit.contributions() {
        standing.push(version::standing(db, commit, contribution)?);
    }
    let mut on_trial = Vec::new();
    for (contribution, standing) in commit.contributions().zip(standing) {
        if let Some(plugin) = contribution.plugin.as_ref().filter(|_| standing == Standing::OnTrial) {
            version::used(db, plugin)?;
            on_trial.push(plugin);
        }
        for write in &contribution.writes {
            if standing == Standing::OnTrial {
                version::keep(db, write)?;
            }
            kv::write(db, write, row)?;
        }
    }

    for contribution in commit.contributions() {
        let plugin = contribution.plugin.as_ref().map(PluginName::as_str);
        for blob in &contribution.files {
            db.prepare_cached(
                "INSERT INTO blob (contribution, agent, plugin, digest, bytes) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![row, agent, plugin, blob.digest, &blob.bytes[..]])?;
        }
    }

    let mut queued = Vec::with_capacity(effects.0.len());
    for ((ordinal, plugin, effect), json) in commit.effects().into_iter().zip(effects.0) {
        let of_a_tool = plugin.filter(|_| plugin != contribution.plugin.as_ref()).map(PluginName::as_str);
        if effect.is_inward() {
            if let Some(plugin) = plugin.filter(|plugin| on_trial.contains(plugin)) {
                version::keep_timer(db, agent, plugin, effect)?;
            }
            inward(db, agent, plugin, effect)?;
            let kind = EffectKind::of(effect).word();
            db.prepare_cached(
                "INSERT INTO sent (contribution, ordinal, plugin, at, kind, target) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![row, ordinal, of_a_tool, at, kind, destination(effect)])?;
            continue;
        }
        let row = row_of(row, queued.len())?;
        db.prepare_cached(
            "INSERT INTO unsent (row, agent, ordinal, effect, plugin) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![row, agent, ordinal, json, of_a_tool])?;
        let id = EffectId { delivery: delivery.clone(), ordinal: Some(ordinal) };
        queued.push(Queued { row, id, plugin: plugin.cloned(), effect: effect.clone() });
    }
    if !queued.iter().any(|queued| takes_draft(&queued.effect)) {
        db.prepare_cached("DELETE FROM draft WHERE agent = ?1 AND delivery = ?2")?
            .execute(params![agent, delivery.as_str()])?;
    }
    if let Some(learnt) = learnt {
        record::end(db, agent, delivery, learnt)?;
    }
    if *ends_event {
        // The last thing that may fail: what is no longer arriving comes back only with the whole transaction.
        arriving.end(db, sequence.0)?;
    }
    Ok(queued)
}

/// Nothing is committed twice.
pub(super) fn is_committed(db: &Connection, agent: i64, delivery: &DeliveryId) -> Result<bool, Failed> {
    Ok(db
        .prepare_cached("SELECT 1 FROM contribution WHERE agent = ?1 AND delivery = ?2")?
        .exists(params![agent, delivery.as_str()])?)
}

/// What the host says by itself has an event of the host's own, whose id is that of none.
pub(super) fn announce(
    db: &Connection,
    own: Commit,
    effects: Effects,
    arriving: &Arriving,
) -> Result<Vec<Queued>, Failed> {
    let agent = number(db, &own.agent)?;
    if is_committed(db, agent, &own.delivery)? {
        return Ok(Vec::new());
    }
    let sequence = numbers::event(db)?;
    db.prepare_cached("INSERT INTO event (sequence, agent, id, room, session) VALUES (?1, ?2, ?3, '', '')")?
        .execute(params![sequence, agent, format!("-{}", own.delivery)])?;
    commit(db, &Commit { sequence: Sequence(sequence), ..own }, effects, None, arriving)
}

/// What is done with the commit.
fn inward(db: &Connection, agent: i64, plugin: Option<&PluginName>, effect: &Effect) -> Result<(), Failed> {
    match effect {
        Effect::SetHome(place) => set_home(db, agent, place),
        Effect::SetTimer(timer) => timers::set(db, agent, timer),
        Effect::PutBack(timer) => timers::put_back(db, agent, timer),
        Effect::CancelTimer { session, key } => match plugin {
            Some(plugin) => timers::cancel(db, agent, plugin, session, key),
            None => Ok(()),
        },
        Effect::Send { .. }
        | Effect::File { .. }
        | Effect::Edit { .. }
        | Effect::React { .. }
        | Effect::Redact { .. } => Ok(()),
    }
}

fn set_home(db: &Connection, agent: i64, place: &Place) -> Result<(), Failed> {
    db.prepare_cached("UPDATE agent SET home_room = ?2, home_thread = ?3 WHERE id = ?1")?
        .execute(params![agent, place.room.as_str(), place.thread.as_ref().map(EventId::as_str)])?;
    Ok(())
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Refused => "refused",
        Outcome::Faulted => "faulted",
        Outcome::Cancelled => "cancelled",
        Outcome::Rested => "rested",
    }
}

pub(super) fn outcome(word: &str) -> Option<Outcome> {
    [Outcome::Done, Outcome::Refused, Outcome::Faulted, Outcome::Cancelled, Outcome::Rested]
        .into_iter()
        .find(|outcome| self::word(*outcome) == word)
}
