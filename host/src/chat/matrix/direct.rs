//! The direct chat with a person: found, or made. There is no transaction id for a room, so a room says itself, from its
//! creation on, whose direct chat it is. Before one is made it is looked for: where the account says so, where the rooms
//! say so, and among those of which only the server knows yet.

use std::time::{Duration, Instant};

use matrix_sdk::{
    Room, RoomState,
    deserialized_responses::RawAnySyncOrStrippedState,
    ruma::{
        OwnedRoomId, OwnedUserId, UserId as MatrixUserId,
        api::client::{
            membership::joined_rooms,
            room::create_room::v3::{Request as CreateRequest, RoomPreset},
            state::get_state_event_for_key::{self, v3::StateEventFormat},
        },
        events::{
            InitialStateEvent, StateEventType,
            room::{
                encryption::RoomEncryptionEventContent,
                member::{MembershipState, RoomMemberEventContent},
            },
        },
        serde::Raw,
    },
};
use serde_json::{Value, json};

use super::{
    Live,
    account::Encryption,
    failure::{http_error, is_refusal, send_error},
    lock,
    send::agreed_encryption,
    wire::cause,
};
use crate::{
    chat::SendError,
    id::{RoomId, UserId},
};

/// Whose direct chat a room is, in the content of its creation, which only whoever makes it can write.
const MARK: &str = "chat.parlour.direct";

/// A server that was asked for a room, and has not answered, may be at it for so long.
const MAKING: Duration = Duration::from_secs(10);

/// What is known of a person's direct chat in this run, and `m.direct` may not show yet.
pub(super) enum Made {
    /// It was made, or found by what it says of itself.
    Room(Room),
    /// It was asked for then, and may have been made or not.
    Unanswered(Instant),
}

/// The direct chat with a person: one that is marked so, in which both are, or a new one.
pub(super) async fn direct(live: &Live, user: &UserId) -> Result<RoomId, SendError> {
    let person = OwnedUserId::try_from(user.as_str()).map_err(|error| invalid(&error))?;
    let made = lock(&live.made).entry(user.clone()).or_default().clone();
    // One at a time: two that look at once would make two rooms.
    let mut made = made.lock().await;
    let room = match find(live, &person, &mut made).await? {
        Some(room) => room,
        None => make(live, &person, &mut made).await?,
    };
    RoomId::parse(room.room_id()).map_err(|error| invalid(&error))
}

/// The one that was found last or is marked so, without asking anybody.
pub(super) fn known(live: &Live, user: &UserId) -> Option<RoomId> {
    let made = lock(&live.made).get(user).cloned();
    let made = made.as_ref().and_then(|made| match made.try_lock().as_deref() {
        Ok(Some(Made::Room(room))) => Some(room.clone()),
        _ => None,
    });
    let person = OwnedUserId::try_from(user.as_str()).ok()?;
    // Where the other one has left, or the settings do not allow to write, another one will be found or made.
    let may = |room: &Room| match live.account.encryption {
        Encryption::Off => !room.encryption_state().is_encrypted(),
        Encryption::Required => room.encryption_state().is_encrypted(),
        Encryption::AsRoom => true,
    };
    let mut rooms = made.into_iter().chain(live.client.get_dm_rooms(&person));
    let room = rooms.find(|room| room.active_members_count() != 1 && may(room))?;
    RoomId::parse(room.room_id()).ok()
}

/// The one that there is.
async fn find(
    live: &Live,
    person: &MatrixUserId,
    made: &mut Option<Made>,
) -> Result<Option<Room>, SendError> {
    if let Some(Made::Room(room)) = made
        && usable(live, room, person).await?
    {
        return Ok(Some(room.clone()));
    }
    for room in live.client.get_dm_rooms(person) {
        if usable(live, &room, person).await? {
            return Ok(Some(room));
        }
    }
    let Some(room) = own(live, person).await? else { return Ok(None) };
    // The account says so from now on. That it does not is no hindrance: the room does.
    if let Err(error) = live.client.account().mark_as_dm(room.room_id(), &[person.to_owned()]).await {
        tracing::debug!(target: "parlour", "marking a direct chat: {}", cause(&error));
    }
    *made = Some(Made::Room(room.clone()));
    Ok(Some(room))
}

/// A room that says that it was made for this, and of which the account says nothing: the answer was lost, or the host
/// ended before it was written down.
async fn own(live: &Live, person: &MatrixUserId) -> Result<Option<Room>, SendError> {
    let mut empty = None;
    for room in live.client.joined_rooms() {
        if !is_made_for(live, &room, person).await? || !agrees(live, &room, must_encrypt(live)).await? {
            continue;
        }
        match membership(live, &room, person).await? {
            Some(MembershipState::Join | MembershipState::Invite) => return Ok(Some(room)),
            // The server has made the room, and has not come to the invitation.
            None => empty = Some(room),
            Some(_) => {}
        }
    }
    match empty {
        Some(room) => Err(invite(live, &room, person).await),
        None => Ok(None),
    }
}

/// Whether a room was made by this account to be a person's direct chat.
async fn is_made_for(live: &Live, room: &Room, person: &MatrixUserId) -> Result<bool, SendError> {
    if room.create_content().is_none_or(|creation| creation.creator.as_str() != live.own()) {
        return Ok(false);
    }
    let creation = room.get_state_event(StateEventType::RoomCreate, "").await;
    let Some(RawAnySyncOrStrippedState::Sync(creation)) = creation.map_err(|error| send_error(&error))?
    else {
        return Ok(false);
    };
    let creation = creation.deserialize_as_unchecked::<Value>().unwrap_or_default();
    Ok(creation["sender"] == live.own() && creation["content"][MARK] == person.as_str())
}

/// Has a person come into a room. They are looked for there again when the sync has brought the invitation; until then the
/// server says whether they are there.
async fn invite(live: &Live, room: &Room, person: &MatrixUserId) -> SendError {
    let coming = "the person is being invited";
    let (id, key) = (room.room_id().to_owned(), person.to_string());
    let asked = get_state_event_for_key::v3::Request::new(id, StateEventType::RoomMember, key);
    if let Ok(answer) = live.client.send(asked).await {
        let member: Value = serde_json::from_str(answer.event_or_content.get()).unwrap_or_default();
        if ["invite", "join"].iter().any(|there| member["membership"] == **there) {
            return later(coming);
        }
    }
    let mut member = RoomMemberEventContent::new(MembershipState::Invite);
    member.is_direct = Some(true);
    match room.send_state_event_for_key(person, member).await {
        Ok(_) => later(coming),
        Err(error) => send_error(&error),
    }
}

/// A new one, if it is certain that there is none.
async fn make(live: &Live, person: &MatrixUserId, made: &mut Option<Made>) -> Result<Room, SendError> {
    if matches!(made, Some(Made::Unanswered(at)) if at.elapsed() < MAKING) || is_coming(live, person).await? {
        return Err(later("the direct chat may have been made, and is not seen yet"));
    }
    let room = match live.client.create_room(request(live, person)?).await {
        Ok(room) => room,
        Err(error) => {
            *made = (!is_refusal(&error)).then(|| Made::Unanswered(Instant::now()));
            return Err(send_error(&error));
        }
    };
    *made = Some(Made::Room(room.clone()));
    // The next sync brings the room; whether it is encrypted is asked for now, so that a message can follow.
    agreed_encryption(&room, live.account.encryption, must_encrypt(live)).await?;
    Ok(room)
}

fn request(live: &Live, person: &MatrixUserId) -> Result<CreateRequest, SendError> {
    let mut request = CreateRequest::new();
    request.invite = vec![person.to_owned()];
    request.is_direct = true;
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    let mark = Raw::new(&json!({ MARK: person })).map_err(|error| invalid(&error))?;
    request.creation_content = Some(mark.cast_unchecked());
    if must_encrypt(live) {
        let content = RoomEncryptionEventContent::with_recommended_defaults();
        request.initial_state = vec![InitialStateEvent::with_empty_state_key(content).to_raw_any()];
    }
    Ok(request)
}

/// Whether the server has a room for this, made by this account, that no sync has brought yet.
async fn is_coming(live: &Live, person: &MatrixUserId) -> Result<bool, SendError> {
    for id in joined(live).await? {
        if live.client.get_room(&id).is_some() {
            continue;
        }
        let mut asked =
            get_state_event_for_key::v3::Request::new(id, StateEventType::RoomCreate, String::new());
        asked.format = StateEventFormat::Event;
        match live.client.send(asked).await.map_err(|error| http_error(&error)) {
            Ok(answer) => {
                let event: Value = serde_json::from_str(answer.event_or_content.get()).unwrap_or_default();
                if event["sender"] == live.own() && event["content"][MARK] == person.as_str() {
                    return Ok(true);
                }
            }
            // The agent has left it meanwhile.
            Err(SendError::Final { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Both are in it (or the person has still to accept), and the settings allow to write there.
async fn usable(live: &Live, room: &Room, person: &MatrixUserId) -> Result<bool, SendError> {
    let there = matches!(
        membership(live, room, person).await?,
        Some(MembershipState::Join | MembershipState::Invite)
    );
    Ok(there && agrees(live, room, false).await?)
}

/// What a person is in a room; none where they never were anything. That nobody can tell is an error: who took it for a
/// no would make another room.
async fn membership(
    live: &Live,
    room: &Room,
    person: &MatrixUserId,
) -> Result<Option<MembershipState>, SendError> {
    if room.state() != RoomState::Joined {
        return Ok(Some(MembershipState::Leave));
    }
    match room.get_member(person).await.map_err(|error| send_error(&error)) {
        Ok(member) => Ok(member.map(|member| member.membership().clone())),
        // What the agent is no longer in is no room for it.
        Err(SendError::Final { .. }) if !joined(live).await?.iter().any(|id| id == room.room_id()) => {
            Ok(Some(MembershipState::Leave))
        }
        Err(error) => Err(error),
    }
}

/// Whether the settings allow to write in a room.
async fn agrees(live: &Live, room: &Room, must_encrypt: bool) -> Result<bool, SendError> {
    match agreed_encryption(room, live.account.encryption, must_encrypt).await {
        Ok(_) => Ok(true),
        Err(SendError::Final { code, .. }) if ["encryption-off", "not-encrypted"].contains(&&*code) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The rooms that the agent is in, as the server says now.
async fn joined(live: &Live) -> Result<Vec<OwnedRoomId>, SendError> {
    let answer = live.client.send(joined_rooms::v3::Request::new()).await;
    Ok(answer.map_err(|error| http_error(&error))?.joined_rooms)
}

/// What is made here is encrypted, unless nothing may be.
fn must_encrypt(live: &Live) -> bool {
    live.account.encryption != Encryption::Off
}

fn later(reason: &str) -> SendError {
    SendError::Later { after: None, reason: reason.into() }
}

fn invalid(what: &dyn std::fmt::Display) -> SendError {
    SendError::Final { code: "invalid".into(), reason: what.to_string() }
}
