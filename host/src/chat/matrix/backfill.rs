//! Fetches what a sync answer left out: servers cut a room's timeline at a limit, and a client that does not ask
//! for the rest loses it.

use matrix_sdk::{Error, Room, deserialized_responses::TimelineEvent, room::MessagesOptions, ruma::UInt};
use serde_json::Value;

use super::{Live, convert_in, failure::send_error};
use crate::{
    backoff::Backoff,
    chat::{Ended, SendError},
    event::Membership,
};

/// So many events per room are fetched at most, the newest. Who was away for longer has other worries.
const MOST: usize = 500;

const PER_REQUEST: u32 = 100;

/// From where backward to where.
pub(super) struct Gap {
    pub from: String,
    pub to: String,
}

/// The events of the gap, oldest first. Waits through outages: the position must not move past what is missing.
pub(super) async fn fetch(
    live: &Live,
    room: &Room,
    gap: Gap,
    newer: &[TimelineEvent],
) -> Result<Vec<TimelineEvent>, Ended> {
    let mut newest_first = Vec::new();
    let mut from = gap.from;
    let mut backoff = Backoff::default();
    // What lies before the agent's invitation is nothing to it.
    let mut before = newer.iter().any(|event| is_own_invitation(event, live.own()));
    while !before && newest_first.len() < MOST {
        let mut options = MessagesOptions::backward();
        options.from = Some(from.clone());
        options.to = Some(gap.to.clone());
        options.limit = UInt::from(PER_REQUEST);
        let page = match room.messages(options).await {
            Ok(page) => page,
            Err(error) => match send_error(&error) {
                SendError::Later { after, reason } => {
                    if live.standing.failed(&reason) {
                        live.say(format!("{} is out of reach: {reason}; trying on", live.account.homeserver));
                    }
                    if let Error::Http(_) = error {
                        backoff.wait(after).await;
                        continue;
                    }
                    return Ok(oldest_first(newest_first));
                }
                SendError::Final { .. } => {
                    live.say(format!("events in {} could not be fetched: {error}", room.room_id()));
                    return Ok(oldest_first(newest_first));
                }
            },
        };
        if page.chunk.is_empty() {
            return Ok(oldest_first(newest_first));
        }
        before = page.chunk.iter().any(|event| is_own_invitation(event, live.own()));
        newest_first.extend(page.chunk);
        match page.end {
            Some(end) if end != from => from = end,
            _ => return Ok(oldest_first(newest_first)),
        }
    }
    if !before {
        newest_first.truncate(MOST);
        live.say(format!(
            "more than {MOST} events in {} were missed, the older ones are not answered",
            room.room_id()
        ));
    }
    Ok(oldest_first(newest_first))
}

fn is_own_invitation(event: &TimelineEvent, own: &str) -> bool {
    let event = event.raw().deserialize_as_unchecked::<Value>().ok();
    event.and_then(|event| convert_in::membership_of(&event, own)) == Some(Membership::Invited)
}

fn oldest_first(mut events: Vec<TimelineEvent>) -> Vec<TimelineEvent> {
    events.reverse();
    events
}
