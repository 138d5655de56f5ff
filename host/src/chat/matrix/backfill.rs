//! Fetches what a sync answer left out: servers cut a room's timeline at a limit, and a client that does not ask
//! for the rest loses it. The same way leads back to where the agent was, when the server has forgotten its position.

use matrix_sdk::{Room, deserialized_responses::TimelineEvent, room::MessagesOptions, ruma::UInt};
use serde_json::Value;

use super::{
    Live, convert_in,
    failure::{is_unrecognized, send_error},
    sync::{Halt, halts},
};
use crate::{
    backoff::Backoff,
    chat::SendError,
    event::Membership,
    id::{EventId, RoomId},
};

/// So many events of a room are fetched at most, the newest: twenty requests, and some megabytes. What is as far back in
/// a room that busy has been answered by somebody else.
const MOST: usize = 2000;

/// And so many of all rooms for one answer: they are in memory together.
pub(super) const ALL: usize = 20_000;

const PER_REQUEST: u32 = 100;

/// A page that is refused in words which say neither that the agent may not see it nor that it is not there is asked for so
/// often once more, for two minutes or longer: then the other rooms wait no longer for this one.
const REFUSALS: u32 = 8;

/// From where backward to where; without an end, to what the agent knows.
pub(super) struct Gap {
    pub from: String,
    pub to: Option<String>,
}

/// What was fetched, newest first, and what it reaches back to.
struct Fetched {
    newest_first: Vec<TimelineEvent>,
    reached: Reached,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// The position, what was known, or the room's beginning.
    Past,
    /// The agent's own invitation.
    Invitation,
    /// What there is more is too old, or too much.
    Bound,
}

/// A timeline with what was missing before it, oldest first. Waits through outages: the position must not move past what
/// is missing. `left` is how many may be fetched.
pub(super) async fn fill(
    live: &Live,
    room: &Room,
    gap: Option<Gap>,
    timeline: Vec<TimelineEvent>,
    left: &mut usize,
) -> Result<Vec<TimelineEvent>, Halt> {
    // What lies before the agent's invitation is nothing to it.
    let Some(gap) = gap.filter(|_| !timeline.iter().any(|event| is_own_invitation(event, live.own()))) else {
        return Ok(timeline);
    };
    let fetched = fetch(live, room, gap, left).await?;
    Ok(fetched.newest_first.into_iter().rev().chain(timeline).collect())
}

/// What came in a room since the last event that the agent knows. In a room of which it knows nothing that is what came
/// since its invitation, and without one nothing: all of it is history.
pub(super) async fn since_known(
    live: &Live,
    room: &Room,
    gap: Option<Gap>,
    mut timeline: Vec<TimelineEvent>,
    left: &mut usize,
) -> Result<Vec<TimelineEvent>, Halt> {
    if let Some(since) = known(live, room, timeline.iter().rev()).await {
        return Ok(timeline.split_off(timeline.len() - since));
    }
    let invited = timeline.iter().any(|event| is_own_invitation(event, live.own()));
    let none = Fetched { newest_first: vec![], reached: Reached::Past };
    let fetched = match gap.filter(|_| !invited) {
        Some(gap) => fetch(live, room, gap, left).await?,
        None => none,
    };
    let invited = invited || fetched.reached == Reached::Invitation;
    if !invited && !knows_room(live, room).await {
        return Ok(vec![]);
    }
    Ok(fetched.newest_first.into_iter().rev().chain(timeline).collect())
}

async fn fetch(live: &Live, room: &Room, gap: Gap, left: &mut usize) -> Result<Fetched, Halt> {
    let most = MOST.min(*left);
    let mut newest_first = Vec::new();
    let mut from = gap.from;
    let mut backoff = Backoff::default();
    let mut refused = 0;
    let reached = loop {
        if newest_first.len() >= most {
            newest_first.truncate(most);
            live.say(format!(
                "more than {most} events in {} were missed, the older ones are not answered",
                room.room_id()
            ));
            break Reached::Bound;
        }
        let mut options = MessagesOptions::backward();
        options.from = Some(from.clone());
        options.to.clone_from(&gap.to);
        options.limit = UInt::from(PER_REQUEST);
        let page = match room.messages(options).await {
            Ok(page) => page,
            Err(error) => {
                if let Some(halt) = halts(live, &error) {
                    live.broke();
                    return Err(halt);
                }
                let (after, reason) = match send_error(&error) {
                    SendError::Later { after, reason } if !is_unrecognized(&error) => (after, reason),
                    SendError::Final { code, reason } if is_final(&code) => {
                        live.say(format!("events in {} could not be fetched: {reason}", room.room_id()));
                        break Reached::Bound;
                    }
                    // Words that mean nothing: not for ever.
                    SendError::Final { reason, .. } | SendError::Later { reason, .. } => {
                        if refused == REFUSALS {
                            live.say(format!("events in {} could not be fetched: {reason}", room.room_id()));
                            break Reached::Bound;
                        }
                        refused += 1;
                        (None, reason)
                    }
                };
                if live.standing.failed(&reason) {
                    live.say(format!(
                        "events in {} cannot be fetched yet: {reason}; trying on",
                        room.room_id()
                    ));
                }
                backoff.wait(after).await;
                continue;
            }
        };
        backoff = Backoff::default();
        if live.standing.reached() {
            live.say(format!("{} is back", live.account.homeserver));
        }
        if gap.to.is_none()
            && let Some(since) = known(live, room, page.chunk.iter()).await
        {
            newest_first.extend(page.chunk.into_iter().take(since));
            break Reached::Past;
        }
        let invited = page.chunk.iter().any(|event| is_own_invitation(event, live.own()));
        let too_old = !page.chunk.is_empty() && page.chunk.iter().all(|event| live.is_too_old(event));
        if too_old {
            break Reached::Bound;
        }
        newest_first.extend(page.chunk);
        if invited {
            break Reached::Invitation;
        }
        match page.end {
            Some(end) if end != from => from = end,
            _ => break Reached::Past,
        }
    };
    *left -= newest_first.len().min(*left);
    Ok(Fetched { newest_first, reached })
}

/// Nobody shows it to the agent, however often it asks.
fn is_final(code: &str) -> bool {
    ["M_FORBIDDEN", "M_NOT_FOUND"].contains(&code)
}

/// How many of these, newest first, came after the oldest of them that the agent knows; none where it knows none. Within
/// a page a server's order is not that in which events came to the agent, so that others between them may be new.
async fn known(
    live: &Live,
    room: &Room,
    newest_first: impl ExactSizeIterator<Item = &TimelineEvent>,
) -> Option<usize> {
    let past = live.past.as_ref()?;
    let room = RoomId::parse(room.room_id()).ok()?;
    let mut oldest = None;
    for (at, event) in newest_first.enumerate() {
        if let Some(Ok(id)) = event.event_id().map(|id| EventId::parse(&id))
            && past.knows(&room, &id).await
        {
            oldest = Some(at);
        }
    }
    oldest
}

async fn knows_room(live: &Live, room: &Room) -> bool {
    match (&live.past, RoomId::parse(room.room_id())) {
        (Some(past), Ok(room)) => past.knows_room(&room).await,
        _ => false,
    }
}

fn is_own_invitation(event: &TimelineEvent, own: &str) -> bool {
    let event = event.raw().deserialize_as_unchecked::<Value>().ok();
    event.and_then(|event| convert_in::membership_of(&event, own)) == Some(Membership::Invited)
}
