//! What is known of a room without asking the server.

use matrix_sdk::deserialized_responses::MemberEvent;
use matrix_sdk::{
    Room, RoomMemberships, RoomState,
    ruma::events::room::member::{MembershipState, SyncRoomMemberEvent},
};

use crate::{
    chat::Attendance,
    event,
    id::{RoomId, UserId},
};

pub(super) async fn facts(room: &Room) -> Option<event::Room> {
    Some(event::Room {
        id: RoomId::parse(room.room_id()).ok()?,
        direct: is_direct(room).await,
        encrypted: room.encryption_state().is_encrypted(),
    })
}

/// Whether the agent is in it.
pub(super) async fn attendance(room: &Room) -> Attendance {
    match room.state() {
        RoomState::Joined => Attendance::Here {
            direct: is_direct(room).await,
            encrypted: room.encryption_state().is_encrypted(),
        },
        RoomState::Left | RoomState::Banned | RoomState::Invited | RoomState::Knocked => Attendance::Gone,
    }
}

/// Two members, and the account's `m.direct` or the invitation's `is_direct` say so (spec, "Direct Messaging").
/// Where the number of members is not known it is a room: there the agent waits to be addressed.
async fn is_direct(room: &Room) -> bool {
    let mut members = room.joined_members_count() + room.invited_members_count();
    if members == 0 {
        members =
            room.members_no_sync(RoomMemberships::ACTIVE).await.map_or(0, |members| members.len() as u64);
    }
    members == 2 && (!room.direct_targets().is_empty() || invited_as_direct(room).await)
}

async fn invited_as_direct(room: &Room) -> bool {
    let Ok(Some(own)) = room.get_member_no_sync(room.own_user_id()).await else { return false };
    match &**own.event() {
        MemberEvent::Sync(SyncRoomMemberEvent::Original(joined)) => {
            joined.unsigned.prev_content.as_ref().is_some_and(|before| {
                before.membership == MembershipState::Invite && before.is_direct == Some(true)
            })
        }
        _ => false,
    }
}

/// What somebody calls themselves in a room.
pub(super) async fn display_name(room: &Room, user: &UserId) -> Option<String> {
    let user = matrix_sdk::ruma::UserId::parse(user.as_str()).ok()?;
    let member = room.get_member_no_sync(&user).await.ok()??;
    member.display_name().map(ToOwned::to_owned)
}
