//! What happened since a position: one long poll after the other, read from the answers themselves.
//!
//! The position is Parlour's: every request names the one that was handed over last, and the next request is made
//! only when the caller comes back, that is, when it has stored the batch. An answer that is dropped half-way is
//! asked for again, and nothing is lost.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use matrix_sdk::{
    Error, HttpError, RefreshTokenError, Room,
    config::{SyncSettings, SyncToken},
    deserialized_responses::{
        ProcessedToDeviceEvent, TimelineEvent, TimelineEventKind, UnableToDecryptInfo, UnableToDecryptReason,
        VerificationLevel, VerificationState,
    },
    ruma::{
        OwnedRoomId, UInt,
        api::{
            client::{
                filter::{Filter, FilterDefinition, LazyLoadOptions, RoomEventFilter},
                sync::sync_events::v3::Filter as SyncFilter,
            },
            error::ErrorKind,
        },
        events::{AnySyncTimelineEvent, room::encrypted::OriginalSyncRoomEncryptedEvent},
        serde::Raw,
    },
    sync::SyncResponse,
};
use serde_json::Value;

use super::{
    Live,
    backfill::{self, Gap},
    convert_in,
    failure::{describe, http_error},
    room, sign_in,
    wire::cause,
};
use crate::{
    backoff::Backoff,
    chat::{Ended, Opened, SendError},
    event::{Batch, DeviceTrust, Event, Invite, Kind, Locked, Membership, Own, Position, Reading, Sender},
    id::{EventId, RoomId, UserId},
};

/// After a break that was longer the agent was away. A shorter one is the network's, and nobody knows of it.
const AWAY: Duration = Duration::from_secs(5 * 60);

/// How long the server may keep a request that has no news.
const LONG_POLL: Duration = Duration::from_secs(30);

/// Events per room and answer; what is more is back-filled.
const TIMELINE: u32 = 100;

/// What was said longer before the agent joined is not handed over, even if it was invited then: milliseconds.
const INVITED_FOR: u64 = 24 * 60 * 60 * 1000;

/// Where the next request starts, and how.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Start {
    pub position: Option<String>,
    /// The store knows nothing of the rooms, which the position takes for known.
    pub full_state: bool,
    /// The first request of this run, or after a break: it does not wait, for it is to say that all is known.
    pub at_once: bool,
    /// The agent has not caught up since it was started.
    pub away: bool,
    /// The server has refused the position: what came since is looked for in each room.
    pub refused: bool,
    /// Without a position, what makes its requests others than those before; the same for each try.
    pub number: u64,
}

impl Start {
    /// Where the agent was when it was stopped.
    pub fn from(position: Option<String>, full_state: bool) -> Self {
        Self { position, full_state, at_once: true, away: true, refused: false, number: nonce() }
    }

    /// After a batch that was handed over.
    pub fn after(position: String) -> Self {
        Self { at_once: false, away: false, ..Self::from(Some(position), false) }
    }

    /// In another session, which may have stored the answer that the server still has.
    pub fn begin_anew(&mut self) {
        (self.at_once, self.number) = (true, nonce());
    }

    /// The server does not take the position.
    fn refused(self) -> Self {
        Self { position: None, full_state: false, at_once: true, refused: true, number: nonce(), ..self }
    }
}

/// Why there is nothing more to hand over.
#[derive(Debug)]
pub(super) enum Halt {
    /// For good.
    Ended(Ended),
    /// The session has run out, and another may follow it.
    Signed,
    /// What the SDK has in memory may be ahead of its databases: it is to be opened anew.
    Ahead,
}

impl From<Ended> for Halt {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// A server that has no news says so after the time that it was given. One that does not wait is not asked without a pause.
const HASTY: Duration = Duration::from_secs(1);

/// Asks until there is something to hand over.
pub(super) async fn step(live: Arc<Live>, mut start: Start) -> Result<Batch, Halt> {
    let mut backoff = Backoff::default();
    let mut hasty = Backoff::default();
    loop {
        let asked = Instant::now();
        match live.client.sync_once(settings(&start)).await {
            Ok(answer) => {
                if live.standing.answered() {
                    live.say(format!("{} is back", live.account.homeserver));
                }
                say_what_is_unread(&answer);
                live.settle_identity().await;
                let moved = start.position.as_deref() != Some(answer.next_batch.as_str());
                backoff = Backoff::default();
                let missed = live.was_away(AWAY) || start.away;
                let batch = Batch { missed, ..collect(&live, answer, &start).await? };
                live.is_here();
                // The first one is handed over in any case: it says that the agent has caught up.
                if moved || start.at_once || !batch.invites.is_empty() {
                    return Ok(batch);
                }
                if asked.elapsed() < HASTY {
                    hasty.wait(None).await;
                }
            }
            Err(error) => {
                if let Some(halt) = halts(&live, &error) {
                    live.broke();
                    return Err(halt);
                }
                if start.position.is_some() && is_rejected(&error) {
                    live.say(format!(
                        "the server does not take the stored position ({}): looking in each room for what came since",
                        plain(&error)
                    ));
                    live.broke();
                    start = start.refused();
                    continue;
                }
                live.broke();
                // The answer was there and could not be stored. By now what decrypts may have moved on in memory, so that
                // the same answer could not be read again; and matrix-sdk may take it for one that it has handled
                // (`base/client.rs`, "Got the same sync response twice").
                if !matches!(error, Error::Http(_)) {
                    if live.standing.failed(&plain(&error)) {
                        live.say(format!(
                            "what the server has sent cannot be stored: {}; trying on",
                            plain(&error)
                        ));
                    }
                    return Err(Halt::Ahead);
                }
                start.at_once = true;
                if live.standing.failed(&plain(&error)) {
                    live.say(format!(
                        "{} is out of reach: {}; trying on",
                        live.account.homeserver,
                        plain(&error)
                    ));
                }
                backoff.wait(asked_pause(&error)).await;
            }
        }
    }
}

fn settings(start: &Start) -> SyncSettings {
    // Never the SDK's own token: `SyncToken::ReusePrevious` is what an absent one would mean.
    let token = match &start.position {
        Some(position) => SyncToken::Specific(position.clone()),
        None => SyncToken::NoToken,
    };
    let mut filter = FilterDefinition::default();
    filter.presence = Filter::ignore_all();
    filter.room.ephemeral = RoomEventFilter::ignore_all();
    // With lazy loading the server says how many members a room has.
    filter.room.state.lazy_load_options = LazyLoadOptions::Enabled { include_redundant_members: false };
    // History is not handed over, so there is no use in more of it than where it ends.
    let limit = if start.position.is_some() || start.refused { TIMELINE } else { 1 };
    filter.room.timeline.limit = Some(UInt::from(limit));
    if start.position.is_none() {
        // Synapse answers the same request of the same device from a cache for two minutes. After a rejected
        // position that would be an answer from the past, and with its position everything since would come again:
        // a name that nobody has makes it another request. Each try is the same one: a server that takes longer than
        // the agent waits goes on with it, and has the answer for one of the next.
        let nobody = format!("@{:x}:parlour.invalid", start.number);
        filter.room.timeline.not_senders.extend(nobody.try_into());
    }
    SyncSettings::new()
        .token(token)
        .filter(SyncFilter::FilterDefinition(filter))
        .full_state(start.full_state)
        .timeout(if start.at_once || start.position.is_none() { Duration::ZERO } else { LONG_POLL })
}

/// What an answer holds, in the order of each room. Without a position it is the first contact: history, of which
/// nothing is handed over but where it ends; or, where the position was refused, what each room has since the last event
/// that was handed over.
async fn collect(live: &Live, answer: SyncResponse, start: &Start) -> Result<Batch, Halt> {
    let mut batch = Batch::new(vec![], vec![], Position(answer.next_batch));
    let mut seen = HashSet::new();
    let mut left = backfill::ALL;
    for (id, update) in answer.rooms.joined {
        let Some(room) = live.client.get_room(&id) else { continue };
        let timeline = update.timeline;
        let newest = timeline.events.last().and_then(TimelineEvent::event_id);
        let happened = match &start.position {
            Some(since) => {
                let gap = timeline.prev_batch.filter(|_| timeline.limited);
                let gap = gap.map(|from| Gap { from, to: Some(since.clone()) });
                backfill::fill(live, &room, gap, timeline.events, &mut left).await?
            }
            None if start.refused => {
                let gap = timeline.prev_batch.map(|from| Gap { from, to: None });
                backfill::since_known(live, &room, gap, timeline.events, &mut left).await?
            }
            None => vec![],
        };
        if start.position.is_none()
            && let (Some(event), Ok(room)) = (newest, RoomId::parse(&id))
            && let Ok(event) = EventId::parse(&event)
        {
            batch.history.push((room, event));
        }
        let Some(facts) = room::facts(&room).await else { continue };
        for event in since_invited(happened, live.own()) {
            batch.own.extend(own(live, &facts.id, &event));
            if let Some(event) = convert(live, &room, &facts, &event).await
                && seen.insert(event.id.clone())
            {
                batch.events.push(event);
            }
        }
    }
    if start.position.is_some() {
        // Of rooms that were left only who came and went: nothing can be answered there.
        for (id, update) in answer.rooms.left {
            live.forget_declined(&id);
            let Some(room) = live.client.get_room(&id) else { continue };
            let Some(facts) = room::facts(&room).await else { continue };
            for event in update.timeline.events {
                if let Some(event) = convert(live, &room, &facts, &event).await
                    && matches!(event.kind, Kind::Member(_))
                    && seen.insert(event.id.clone())
                {
                    batch.events.push(event);
                }
            }
        }
    }
    for id in answer.rooms.invited.keys() {
        live.invited_again(id);
    }
    batch.invites = invites(live).await;
    Ok(batch)
}

/// What the agent itself has sent: messages, edits and reactions.
fn own(live: &Live, room: &RoomId, event: &TimelineEvent) -> Option<Own> {
    let json = event.raw().deserialize_as_unchecked::<Value>().ok()?;
    if json.get("sender")?.as_str()? != live.own() {
        return None;
    }
    let event = EventId::parse(json.get("event_id")?.as_str()?).ok()?;
    let replaces = convert_in::replaces(&json);
    Some(Own { room: room.clone(), event, mark: convert_in::mark(&json)?, replaces })
}

/// Drops what was in a room before the agent was invited: to the agent that is history, too. What was said between
/// the invitation and its joining is kept, for clients send the first message of a direct chat with the invitation.
fn since_invited(events: Vec<TimelineEvent>, own: &str) -> Vec<TimelineEvent> {
    let jsons: Vec<Value> =
        events.iter().map(|event| event.raw().deserialize_as_unchecked().unwrap_or_default()).collect();
    let mut begins = 0;
    let mut not_before = 0;
    let mut invited = None;
    for (at, event) in jsons.iter().enumerate() {
        match convert_in::membership_of(event, own) {
            Some(Membership::Invited) => invited = Some(at),
            // The last coming in counts, with the invitation just before it.
            Some(Membership::Joined) => {
                begins = invited.take().unwrap_or(at);
                not_before = convert_in::sent(event).saturating_sub(INVITED_FOR);
            }
            Some(_) => invited = None,
            None => {}
        }
    }
    let keep =
        jsons.iter().enumerate().map(|(at, event)| at >= begins && convert_in::sent(event) >= not_before);
    events
        .into_iter()
        .zip(keep.collect::<Vec<_>>())
        .filter_map(|(event, keep)| keep.then_some(event))
        .collect()
}

async fn convert(
    live: &Live,
    room: &Room,
    facts: &crate::event::Room,
    event: &TimelineEvent,
) -> Option<Event> {
    let json = event.raw().deserialize_as_unchecked::<Value>().ok()?;
    let id = EventId::parse(json.get("event_id")?.as_str()?).ok()?;
    let sender = UserId::parse(json.get("sender")?.as_str()?).ok()?;
    let device = match &event.kind {
        TimelineEventKind::PlainText { .. } => DeviceTrust::Cleartext,
        TimelineEventKind::Decrypted(decrypted) => trust(&decrypted.encryption_info.verification_state)?,
        // Nobody vouches for what cannot be read.
        TimelineEventKind::UnableToDecrypt { .. } => DeviceTrust::Unverified,
    };
    let (kind, reading) = match &event.kind {
        TimelineEventKind::UnableToDecrypt { utd_info, .. } => {
            (convert_in::unread(&json), Reading::Locked(locked(event, utd_info)))
        }
        _ => (convert_in::kind(&json)?, Reading::AtOnce),
    };
    let mark = (sender.as_str() == live.own()).then(|| convert_in::mark(&json)).flatten();
    let encrypted = facts.encrypted || device != DeviceTrust::Cleartext;
    Some(Event {
        id,
        room: crate::event::Room { encrypted, ..facts.clone() },
        sender: Sender { display_name: room::display_name(room, &sender).await, id: sender, device },
        sent: convert_in::sent(&json),
        mark,
        kind,
        reading,
    })
}

fn locked(event: &TimelineEvent, info: &UnableToDecryptInfo) -> Locked {
    let reason = match &info.reason {
        UnableToDecryptReason::MissingMegolmSession { .. } => "its key has not come".to_owned(),
        UnableToDecryptReason::UnknownMegolmMessageIndex => "its key is for later messages".to_owned(),
        other => format!("{other:?}"),
    };
    let raw = event.raw().json().get().to_owned();
    Locked { reason, key: info.session_id.clone(), raw, at: 0, missed: false }
}

/// Reads an event that could not be read before, if its key is there by now; otherwise the backup is asked for it.
pub(super) async fn open(live: &Live, event: &Event) -> Opened {
    let Reading::Locked(locked) = &event.reading else { return Opened::Nothing };
    let room = matrix_room(&event.room.id).and_then(|id| live.client.get_room(&id));
    let raw = Raw::<AnySyncTimelineEvent>::from_json_string(locked.raw.clone());
    let (Some(room), Ok(raw)) = (room, raw) else { return Opened::NotYet };
    let Ok(opened) =
        room.decrypt_event(raw.cast_ref_unchecked::<OriginalSyncRoomEncryptedEvent>(), None).await
    else {
        return Opened::NotYet;
    };
    if matches!(opened.kind, TimelineEventKind::UnableToDecrypt { .. }) {
        return Opened::NotYet;
    }
    let facts = event.room.clone();
    match convert(live, &room, &facts, &opened).await {
        Some(event) => Opened::Event(Box::new(event)),
        None => Opened::Nothing,
    }
}

/// A message from device to device that cannot be read may have been a room's key: whoever wonders why an event is locked finds
/// it in the log, without a word of it.
fn say_what_is_unread(answer: &SyncResponse) {
    let unread = |event: &&_| matches!(event, ProcessedToDeviceEvent::UnableToDecrypt { .. });
    let count = answer.to_device.iter().filter(unread).count();
    if count > 0 {
        tracing::warn!(target: "parlour", "{count} messages from other devices could not be decrypted: they may have brought keys");
    }
}

/// None for a message whose sender is not the owner of the device that encrypted it: it is forged.
fn trust(state: &VerificationState) -> Option<DeviceTrust> {
    Some(match state {
        VerificationState::Verified => DeviceTrust::Verified,
        VerificationState::Unverified(level) => match level {
            VerificationLevel::UnverifiedIdentity => DeviceTrust::CrossSigned,
            VerificationLevel::VerificationViolation => DeviceTrust::IdentityChanged,
            VerificationLevel::UnsignedDevice | VerificationLevel::None(_) => DeviceTrust::Unverified,
            VerificationLevel::MismatchedSender => return None,
        },
    })
}

/// The invitations that wait, those of earlier runs too, each once.
async fn invites(live: &Live) -> Vec<Invite> {
    let mut invites = Vec::new();
    for room in live.client.invited_rooms() {
        if live.is_declined(room.room_id()) || !live.is_news(room.room_id()) {
            continue;
        }
        let Ok(id) = RoomId::parse(room.room_id()) else { continue };
        let details = room.invite_details().await.ok();
        let by = details.and_then(|details| UserId::parse(details.inviter_id).ok());
        invites.push(Invite { room: id, inviter: by });
    }
    invites
}

/// Only these two end an agent; a session that has only run out is followed by another.
pub(super) fn halts(live: &Live, error: &Error) -> Option<Halt> {
    if let Error::Http(error) = error
        && let HttpError::RefreshToken(RefreshTokenError::MatrixAuth(refused)) = &**error
    {
        return refused
            .as_client_api_error()
            .filter(|refused| refused.status_code.is_client_error())
            .and_then(
                // What is asked for too often is not refused.
                |refused| (refused.status_code.as_u16() != 429).then_some(Halt::Signed),
            );
    }
    match error.client_api_error_kind()? {
        ErrorKind::UnknownToken(data) if data.soft_logout => Some(Halt::Signed),
        ErrorKind::UnknownToken(_) => {
            Some(Halt::Ended(Ended::Lost(sign_in::signed_out(&live.session, &live.store).reason)))
        }
        ErrorKind::UserDeactivated => {
            let reason = format!("the account {} was closed: use another one", live.own());
            Some(Halt::Ended(Ended::Lost(reason)))
        }
        _ => None,
    }
}

/// Synapse has no code of its own for a `since` that it cannot read: 400 `M_UNKNOWN`.
fn is_rejected(error: &Error) -> bool {
    let Error::Http(error) = error else { return false };
    error
        .as_client_api_error()
        .is_some_and(|error| error.status_code.as_u16() == 400 && error.error_kind().is_some())
}

fn asked_pause(error: &Error) -> Option<Duration> {
    match error {
        Error::Http(error) => later(error),
        _ => None,
    }
}

fn later(error: &HttpError) -> Option<Duration> {
    match http_error(error) {
        SendError::Later { after, .. } => after,
        SendError::Final { .. } => None,
    }
}

fn plain(error: &Error) -> String {
    match error {
        Error::Http(error) => describe(error),
        other => cause(other),
    }
}

/// A number that is different each time: the hasher's keys are random.
fn nonce() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}

/// Names a room in the SDK's terms.
pub(super) fn matrix_room(room: &RoomId) -> Option<OwnedRoomId> {
    matrix_sdk::ruma::RoomId::parse(room.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAY: u64 = INVITED_FOR;

    fn message(id: &str, sent: u64) -> Value {
        json!({ "type": "m.room.message", "event_id": id, "sender": "@a:hs", "origin_server_ts": sent, "content": {} })
    }

    fn own(id: &str, now: &str, before: &str, sent: u64) -> Value {
        json!({
            "type": "m.room.member", "event_id": id, "sender": "@a:hs", "state_key": "@bot:hs", "origin_server_ts": sent,
            "content": { "membership": now }, "unsigned": { "prev_content": { "membership": before } },
        })
    }

    fn kept(events: &[Value]) -> Vec<String> {
        let events = events.iter().map(|event| {
            let raw = Raw::from_json_string(event.to_string()).unwrap();
            TimelineEvent::from_plaintext(raw)
        });
        since_invited(events.collect(), "@bot:hs")
            .iter()
            .map(|event| event.event_id().unwrap().to_string())
            .collect()
    }

    #[test]
    fn what_was_before_the_invitation_is_history() {
        let late = 10 * DAY;
        for (timeline, expected) in [
            (vec![message("$1", 1), message("$2", 2)], vec!["$1", "$2"]),
            (
                vec![
                    message("$1", late),
                    own("$i", "invite", "leave", late),
                    message("$2", late),
                    own("$j", "join", "invite", late),
                ],
                vec!["$i", "$2", "$j"],
            ),
            (
                vec![message("$1", late), own("$j", "join", "leave", late), message("$2", late)],
                vec!["$j", "$2"],
            ),
            // Invited long ago, and others talked meanwhile.
            (
                vec![
                    own("$i", "invite", "leave", 1),
                    message("$1", 2),
                    message("$2", late),
                    own("$j", "join", "invite", late + 1),
                ],
                vec!["$2", "$j"],
            ),
            // Another name is no coming in.
            (
                vec![message("$1", late), own("$n", "join", "join", late), message("$2", late)],
                vec!["$1", "$n", "$2"],
            ),
            // Put out and fetched back.
            (
                vec![
                    own("$i", "invite", "leave", late),
                    own("$j", "join", "invite", late),
                    message("$1", late),
                    own("$k", "leave", "join", late),
                    message("$2", late),
                    own("$l", "join", "leave", late),
                    message("$3", late),
                ],
                vec!["$l", "$3"],
            ),
        ] {
            assert_eq!(kept(&timeline), expected, "{timeline:?}");
        }
    }
}
