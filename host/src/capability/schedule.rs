//! `schedule`: timers are set and cancelled with the commit, and listed as the handler has left them.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{
    Handling, State,
    bindings::parlour::plugin::schedule::{self, Host},
    error,
    types::{Error, ErrorKind},
};
use crate::{
    answers::{self, Entry, Fact},
    effect::{Effect, EffectId},
    id::{AgentName, PluginName, SessionId},
    journal::{self, Read},
    manifest::Permission,
    rhythm::{AHEAD, Every},
    settings::Role,
    text,
    timer::{CatchUp, Rhythm, Timer},
};

const KEY: usize = 128;
/// A timer says what it is about; what it needs besides is in `kv`.
const PAYLOAD: usize = 4 * 1024;
/// A time that is past by less is one of now: clocks differ, and handlers take a while.
const PAST: u64 = 60 * 1000;

/// Where timers come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// Those of a plugin in one session.
    async fn timers(
        &self,
        agent: &AgentName,
        plugin: &PluginName,
        session: &SessionId,
    ) -> Result<Vec<Timer>, journal::Error>;
    /// How many it has in all sessions.
    async fn count(&self, agent: &AgentName, plugin: &PluginName) -> Result<u64, journal::Error>;
}

/// The timers of the session before this handler, and how many there were in all, of each plugin that has asked.
pub type Before = BTreeMap<PluginName, (Arc<[Timer]>, u64)>;

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl Host for State {
    async fn at(
        &mut self,
        key: Option<String>,
        when: f64,
        payload: String,
        catch_up: schedule::CatchUp,
    ) -> Answer<schedule::Timer> {
        Ok(self.set_once(key, when, payload, catch_up).await)
    }

    async fn every(
        &mut self,
        key: Option<String>,
        cron: String,
        zone: String,
        payload: String,
        catch_up: schedule::CatchUp,
    ) -> Answer<schedule::Timer> {
        Ok(self.set_every(key, cron, zone, payload, catch_up).await)
    }

    async fn cancel(&mut self, key: String) -> Answer<bool> {
        Ok(self.cancel_timer(key).await)
    }

    async fn list(&mut self) -> Answer<Vec<schedule::Timer>> {
        Ok(self.list_timers().await)
    }
}

impl State {
    async fn set_once(
        &mut self,
        key: Option<String>,
        when: f64,
        payload: String,
        catch_up: schedule::CatchUp,
    ) -> Result<schedule::Timer, Error> {
        self.holds(Permission::Timers, "schedule.at")?;
        let now = self.clocks.now();
        let latest = now.saturating_add(ahead());
        let when = milliseconds(when).filter(|when| (now.saturating_sub(PAST)..=latest).contains(when));
        let when = when.ok_or_else(|| {
            error(
                ErrorKind::Invalid,
                "a timer is set for a time that is not past, and at most 366 days ahead",
            )
        })?;
        self.set_timer(key, payload, catch_up, Rhythm::Once, when).await
    }

    async fn set_every(
        &mut self,
        key: Option<String>,
        cron: String,
        zone: String,
        payload: String,
        catch_up: schedule::CatchUp,
    ) -> Result<schedule::Timer, Error> {
        self.holds(Permission::Timers, "schedule.every")?;
        let every = Every::parse(&cron, &zone).map_err(|reason| error(ErrorKind::Invalid, reason))?;
        let now = self.clocks.now();
        let next = every.after(now).filter(|next| *next <= now.saturating_add(ahead()));
        let next = next.ok_or_else(|| {
            error(ErrorKind::Invalid, format!("{:?} is not due within 366 days", text::beginning(&cron)))
        })?;
        self.set_timer(key, payload, catch_up, Rhythm::Every { cron, zone }, next).await
    }

    async fn set_timer(
        &mut self,
        key: Option<String>,
        payload: String,
        catch_up: schedule::CatchUp,
        rhythm: Rhythm,
        next: u64,
    ) -> Result<schedule::Timer, Error> {
        if !self.has_timers {
            return Err(error(ErrorKind::Unsupported, "the plugin does not export `timers`"));
        }
        if payload.len() > PAYLOAD {
            return Err(error(ErrorKind::TooLarge, "a timer's payload has at most 4 KiB"));
        }
        let key = key.map(checked).transpose()?;
        let (timers, total) = self.timers().await?;
        let handling = self.handling()?;
        if handling.role == Role::Guest {
            return Err(error(ErrorKind::Denied, "nobody who is listed has done what is handled"));
        }
        let most = handling.permissions.timers();
        let is_new = !timers.iter().any(|timer| Some(&timer.key) == key.as_ref());
        if is_new && total >= most {
            return Err(error(ErrorKind::TooLarge, format!("this plugin has at most {most} timers")));
        }
        // The effect that sets it is the next one.
        let id = EffectId { delivery: handling.delivery.clone(), ordinal: self.work.next() }.to_string();
        let timer = Timer {
            key: key.unwrap_or_else(|| id.clone()),
            id,
            plugin: handling.plugin.clone(),
            session: handling.session.clone(),
            room: handling.event.room.clone(),
            thread: handling.here().thread,
            sender: handling.event.sender.clone(),
            role: handling.role,
            payload,
            rhythm,
            catch_up: match catch_up {
                schedule::CatchUp::Skip => CatchUp::Skip,
                schedule::CatchUp::Once => CatchUp::Once,
                schedule::CatchUp::All => CatchUp::All,
            },
            next,
        };
        let told = told(&timer);
        self.queue(Effect::SetTimer(Box::new(timer)))?;
        Ok(told)
    }

    async fn cancel_timer(&mut self, key: String) -> Result<bool, Error> {
        self.holds(Permission::Timers, "schedule.cancel")?;
        let (timers, _) = self.timers().await?;
        let there = timers.iter().any(|timer| timer.key == key);
        if there {
            let session = self.handling()?.session.clone();
            self.queue(Effect::CancelTimer { session, key })?;
        }
        Ok(there)
    }

    async fn list_timers(&mut self) -> Result<Vec<schedule::Timer>, Error> {
        self.holds(Permission::Timers, "schedule.list")?;
        let (timers, _) = self.timers().await?;
        Ok(timers.iter().map(told).collect())
    }

    /// The timers of the session, with what this handler has done about them; and how many the plugin has in all.
    /// Handlers that run side by side do not see each other's: together they may go beyond the limit by what each sets.
    async fn timers(&mut self) -> Result<(Vec<Timer>, u64), Error> {
        let handling = self.handling()?;
        let (agent, plugin) = (handling.agent.clone(), handling.plugin.clone());
        let (before, in_all) = if let Some(before) = self.work.timers_before.get(&plugin) {
            before.clone()
        } else {
            let session = handling.session.clone();
            let (found, in_all) = before(handling).await.map_err(|failed| unavailable(&failed))?;
            // The first look counts: if it has changed since, the commit finds out.
            let read = Read::Timers { agent, plugin: plugin.clone(), session, found: found.clone() };
            self.work.reads.push(read);
            let before = (Arc::from(found), in_all);
            self.work.timers_before.entry(plugin).or_insert(before).clone()
        };
        let mut timers = before.to_vec();
        for effect in self.work.own() {
            match effect {
                Effect::SetTimer(timer) => {
                    timers.retain(|other| other.key != timer.key);
                    timers.push(Timer::clone(timer));
                }
                Effect::CancelTimer { key, .. } => timers.retain(|other| other.key != *key),
                _ => {}
            }
        }
        timers.sort_by(|one, other| (one.next, &one.key).cmp(&(other.next, &other.key)));
        let in_all = (in_all + timers.len() as u64).saturating_sub(before.len() as u64);
        Ok((timers, in_all))
    }
}

/// Those that were there before, and how many in all; as the handler saw them first, if it runs again.
async fn before(handling: &Handling) -> Result<(Vec<Timer>, u64), journal::Error> {
    let Handling { agent, plugin, session, timers, record, .. } = handling;
    let what = answers::digest([plugin.as_str().as_bytes()]);
    if let Some(Entry { fact: Fact::Timers { found, in_all }, .. }) = record.seen("timers", &what) {
        return Ok((found, in_all));
    }
    let found = timers.timers(agent, plugin, session).await?;
    let in_all = timers.count(agent, plugin).await?;
    record.saw("timers", &what, Fact::Timers { found: found.clone(), in_all }, Vec::new);
    Ok((found, in_all))
}

fn ahead() -> u64 {
    u64::try_from(AHEAD.as_millis()).unwrap_or(u64::MAX)
}

/// Whole milliseconds, if it is a time at all.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is checked to fit")]
fn milliseconds(time: f64) -> Option<u64> {
    // What comes after the year 9999 is no date.
    const LAST: f64 = 253_402_300_800_000.0;
    (0.0..LAST).contains(&time).then_some(time as u64)
}

#[expect(clippy::cast_precision_loss, reason = "whole milliseconds are exact for 285,000 years")]
fn told(timer: &Timer) -> schedule::Timer {
    let (cron, zone) = match &timer.rhythm {
        Rhythm::Once => (None, None),
        Rhythm::Every { cron, zone } => (Some(cron.clone()), Some(zone.clone())),
    };
    schedule::Timer {
        key: timer.key.clone(),
        next: timer.next as f64,
        cron,
        zone,
        payload: timer.payload.clone(),
        catch_up: match timer.catch_up {
            CatchUp::Skip => schedule::CatchUp::Skip,
            CatchUp::Once => schedule::CatchUp::Once,
            CatchUp::All => schedule::CatchUp::All,
        },
        extra: None,
    }
}

fn checked(key: String) -> Result<String, Error> {
    if key.is_empty() || key.len() > KEY || key.contains(char::is_control) {
        return Err(error(
            ErrorKind::Invalid,
            "a timer's name has 1 to 128 bytes, and no control characters",
        ));
    }
    Ok(key)
}

fn unavailable(failed: &journal::Error) -> Error {
    tracing::error!(target: "parlour", "schedule: {failed}");
    error(ErrorKind::Unavailable, "the storage failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_of_this_era() {
        for (time, expected) in [
            (0.0, Some(0)),
            (1_700_000_000_000.9, Some(1_700_000_000_000)),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (1e300, None),
        ] {
            assert_eq!(milliseconds(time), expected, "{time}");
        }
    }
}
