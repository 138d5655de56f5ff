//! Coming and going: invitations answered.

use matrix_sdk::{Room, RoomState, ruma::api::client::membership::leave_room};

use super::{
    Live,
    failure::{http_error, send_error},
    sync::matrix_room,
};
use crate::{chat::SendError, id::RoomId};

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
