//! Coming and going: invitations answered, direct chats found or made.

use matrix_sdk::{
    Client, Room, RoomState,
    ruma::{
        OwnedRoomId, OwnedUserId,
        api::client::{
            membership::{joined_rooms, leave_room},
            room::create_room::v3::{Request as CreateRequest, RoomPreset},
        },
        events::{
            InitialStateEvent,
            room::{encryption::RoomEncryptionEventContent, member::MembershipState},
        },
    },
};

use super::{
    Live,
    account::Encryption,
    failure::{http_error, send_error},
    send::agreed_encryption,
    sync::matrix_room,
};
use crate::{
    chat::SendError,
    id::{RoomId, UserId},
};

/// Joins, or leaves. A room that the inviter meant as direct is marked so in `m.direct`, as clients do; the SDK
/// does that.
pub(super) async fn answer(live: &Live, room: &RoomId, accept: bool) -> Result<(), SendError> {
    let gone = || SendError::Final { code: "not-invited".into(), reason: "the invitation is gone".into() };
    let id = matrix_room(room).ok_or_else(gone)?;
    let invited = live.client.get_room(&id).ok_or_else(gone)?;
    match invited.state() {
        RoomState::Invited if live.is_declined(&id) => return if accept { Err(gone()) } else { Ok(()) },
        RoomState::Invited => {}
        RoomState::Joined if accept => return Ok(()),
        _ => return Err(gone()),
    }
    if !accept {
        return leave(live, &invited).await;
    }
    match invited.join().await.map_err(|error| send_error(&error)) {
        Err(error @ SendError::Final { .. }) => {
            // A dead invitation would come back for ever.
            let _ = leave(live, &invited).await;
            Err(error)
        }
        other => other,
    }
}

/// Leaves this room and no other. `Room::leave` also leaves what the room calls its predecessors, which is the
/// word of whoever invites: anybody could have the agent leave a room by inviting it to one that names it.
async fn leave(live: &Live, room: &Room) -> Result<(), SendError> {
    let request = leave_room::v3::Request::new(room.room_id().to_owned());
    match live.client.send(request).await.map_err(|error| http_error(&error)) {
        // Gone already is as good.
        Ok(_) | Err(SendError::Final { .. }) => {
            live.declined(room.room_id());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The direct chat with a person: one that is marked so, in which both are, or a new one.
pub(super) async fn direct(live: &Live, user: &UserId) -> Result<RoomId, SendError> {
    let invalid =
        |what: &dyn std::fmt::Display| SendError::Final { code: "invalid".into(), reason: what.to_string() };
    let person = OwnedUserId::try_from(user.as_str()).map_err(|error| invalid(&error))?;
    // One at a time: two that look at once would make two rooms.
    let mut made = live.made.lock().await;
    if let Some(room) = made.get(user)
        && usable(live, room, &person).await?
    {
        return RoomId::parse(room.room_id()).map_err(|error| invalid(&error));
    }
    for room in live.client.get_dm_rooms(&person) {
        if usable(live, &room, &person).await? {
            return RoomId::parse(room.room_id()).map_err(|error| invalid(&error));
        }
    }
    let room = create(&live.client, person, live.account.encryption).await?;
    let id = RoomId::parse(room.room_id()).map_err(|error| invalid(&error))?;
    made.insert(user.clone(), room.clone());
    // The next sync brings the room; whether it is encrypted is asked for now, so that a message can follow.
    agreed_encryption(&room, live.account.encryption, live.account.encryption != Encryption::Off).await?;
    Ok(id)
}

async fn create(client: &Client, person: OwnedUserId, encryption: Encryption) -> Result<Room, SendError> {
    let mut request = CreateRequest::new();
    request.invite = vec![person];
    request.is_direct = true;
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    if encryption != Encryption::Off {
        let content = RoomEncryptionEventContent::with_recommended_defaults();
        request.initial_state = vec![InitialStateEvent::with_empty_state_key(content).to_raw_any()];
    }
    client.create_room(request).await.map_err(|error| send_error(&error))
}

/// Both are in it (or the person has still to accept), and the settings allow to write there. That nobody can tell is an
/// error: who took it for a no would make another room.
async fn usable(live: &Live, room: &Room, person: &OwnedUserId) -> Result<bool, SendError> {
    if room.state() != RoomState::Joined {
        return Ok(false);
    }
    let member = match room.get_member(person).await.map_err(|error| send_error(&error)) {
        Ok(member) => member,
        // Only what the agent is no longer in is no room for it.
        Err(refused @ SendError::Final { .. })
            if joined(live).await?.iter().any(|id| id == room.room_id()) =>
        {
            return Err(refused);
        }
        Err(SendError::Final { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let there =
        member.is_some_and(|it| matches!(it.membership(), MembershipState::Join | MembershipState::Invite));
    Ok(there && agrees(live, room).await?)
}

/// Whether the settings allow to write in a room.
async fn agrees(live: &Live, room: &Room) -> Result<bool, SendError> {
    match agreed_encryption(room, live.account.encryption, false).await {
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
