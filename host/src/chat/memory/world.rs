//! What is in the rooms, and what happens when somebody writes: the homeserver's part.

use std::{
    collections::{BTreeSet, HashMap},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{Line, message};
use crate::{
    chat::SendError,
    effect::{Body, Content, Outgoing},
    event::{
        Class, DeviceTrust, Event, Invite, Kind, Locked, Member, Membership, Message, Own, Reading, Room,
        Sender,
    },
    id::{EventId, RoomId, TransactionId, UserId},
};

#[derive(Default)]
pub(super) struct World {
    pub(super) rooms: HashMap<RoomId, RoomState>,
    pub(super) log: Vec<Event>,
    pub(super) transactions: HashMap<(UserId, TransactionId), EventId>,
    pub(super) names: HashMap<UserId, String>,
    pub(super) files: HashMap<String, Bytes>,
    pub(super) invites: Vec<(UserId, Invite)>,
    pub(super) reads: Vec<(UserId, RoomId, EventId)>,
    pub(super) refusals: Vec<SendError>,
    /// What cannot be read without its key, as it reads with it.
    pub(super) locked: HashMap<EventId, Event>,
    /// The keys that were given, in order.
    pub(super) keys: Vec<EventId>,
    /// So many answers to what is sent are lost on their way.
    pub(super) lost_answers: usize,
    /// What was sent by whom, and how much was in the log then.
    pub(super) own: Vec<(usize, UserId, Own)>,
    /// Rooms of another start have other event ids, as on a homeserver.
    pub(super) born: u128,
    pub(super) ids: u64,
    pub(super) closed: bool,
}

#[derive(Default)]
pub(super) struct RoomState {
    pub(super) members: BTreeSet<UserId>,
    pub(super) encrypted: bool,
    pub(super) direct: bool,
    pub(super) lines: Vec<Line>,
    pub(super) at: HashMap<EventId, usize>,
    pub(super) typing: BTreeSet<UserId>,
}

impl RoomState {
    fn line(&mut self, event: &EventId) -> Option<&mut Line> {
        let at = *self.at.get(event)?;
        self.lines.get_mut(at)
    }
}

impl World {
    pub(super) fn write(
        &mut self,
        user: &UserId,
        room: &RoomId,
        message: Message,
        reply_to: Option<EventId>,
        mark: Option<String>,
    ) -> EventId {
        let id = self.next_id();
        if let Some(state) = self.rooms.get_mut(room) {
            state.at.insert(id.clone(), state.lines.len());
            state.lines.push(Line {
                id: id.clone(),
                sender: user.clone(),
                text: message.text.clone(),
                notice: message.class == Class::Notice,
                thread: message.thread.clone(),
                reply_to,
                edits: 0,
                reactions: vec![],
                redacted: false,
            });
        }
        self.record(id.clone(), user, room, Kind::Message(message), mark);
        id
    }

    pub(super) fn move_member(&mut self, user: &UserId, room: &RoomId, membership: Membership) -> EventId {
        if let Some(state) = self.rooms.get_mut(room) {
            match membership {
                Membership::Joined => state.members.insert(user.clone()),
                _ => state.members.remove(user),
            };
        }
        let id = self.next_id();
        let member = Member { user: user.clone(), display_name: self.names.get(user).cloned(), membership };
        self.record(id.clone(), user, room, Kind::Member(member), None);
        id
    }

    fn record(&mut self, id: EventId, user: &UserId, room: &RoomId, kind: Kind, mark: Option<String>) {
        let Some(state) = self.rooms.get(room) else { return };
        let device = if state.encrypted { DeviceTrust::CrossSigned } else { DeviceTrust::Cleartext };
        let sender = Sender { id: user.clone(), display_name: self.names.get(user).cloned(), device };
        let sent = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let room = Room { id: room.clone(), direct: state.direct, encrypted: state.encrypted };
        self.log.push(Event { id, room, sender, sent, mark, kind, reading: Reading::AtOnce });
    }

    /// What somebody has sent between two places in the log; at a border, perhaps a little more.
    pub(super) fn own_between(&self, user: &UserId, from: usize, to: usize) -> Vec<Own> {
        let since = self.own.partition_point(|(at, ..)| *at < from);
        let sent = self.own[since..].iter().take_while(|(at, ..)| *at <= to);
        sent.filter(|(_, by, _)| by == user).map(|(.., own)| own.clone()).collect()
    }

    /// The newest event cannot be read until its key is given, which is called as the event is.
    pub(super) fn lock_newest(&mut self) {
        let Some(event) = self.log.last_mut() else { return };
        self.locked.insert(event.id.clone(), event.clone());
        let key = event.id.to_string();
        event.kind = Kind::Message(message(""));
        event.reading = Reading::Locked(Locked {
            reason: "its key has not come".into(),
            key: Some(key.clone()),
            raw: key,
            at: 0,
            missed: false,
        });
    }

    /// The newest event says that it was sent at another time.
    pub(super) fn antedate(&mut self, sent: u64) {
        if let Some(event) = self.log.last_mut() {
            event.sent = sent;
        }
    }

    fn next_id(&mut self) -> EventId {
        self.ids += 1;
        EventId::parse(format!("${:x}-{}", self.born, self.ids)).expect("an event id")
    }

    pub(super) fn send(&mut self, user: &UserId, outgoing: &Outgoing) -> Result<EventId, SendError> {
        let key = (user.clone(), outgoing.transaction.clone());
        if let Some(id) = self.transactions.get(&key) {
            return Ok(id.clone());
        }
        if let Some(error) = self.refusals.pop() {
            return Err(error);
        }
        let refused =
            |code: &str, reason: &str| Err(SendError::Final { code: code.into(), reason: reason.into() });
        let room = match self.rooms.get_mut(&outgoing.room) {
            None => return refused("M_NOT_FOUND", "there is no such room"),
            Some(room) if !room.members.contains(user) => return refused("M_FORBIDDEN", "not in the room"),
            Some(room) if outgoing.must_encrypt && !room.encrypted => {
                return refused("not-encrypted", "the room is not encrypted any more");
            }
            Some(room) => room,
        };
        let missing =
            || SendError::Final { code: "M_NOT_FOUND".into(), reason: "there is no such message".into() };
        let mark = Some(outgoing.mark.clone());
        let id = match &outgoing.content {
            Content::Message { body, thread, reply_to } => {
                let class = if matches!(body, Body::Notice(_)) { Class::Notice } else { Class::Text };
                let message = Message { class, thread: thread.clone(), ..message(body.text()) };
                self.write(user, &outgoing.room, message, reply_to.clone(), mark)
            }
            Content::Edit { event, body } => {
                let line = room.line(event).ok_or_else(missing)?;
                if line.sender != *user {
                    return refused("M_FORBIDDEN", "somebody else's message");
                }
                body.text().clone_into(&mut line.text);
                line.notice = matches!(body, Body::Notice(_));
                line.edits += 1;
                let id = self.next_id();
                let message = Message { class: Class::Edit, ..message(body.text()) };
                self.record(id.clone(), user, &outgoing.room, Kind::Message(message), mark);
                id
            }
            Content::Reaction { event, key } => {
                room.line(event).ok_or_else(missing)?.reactions.push((user.clone(), key.clone()));
                self.next_id()
            }
            Content::Redaction { event, .. } => {
                let line = room.line(event).ok_or_else(missing)?;
                line.text.clear();
                line.redacted = true;
                self.next_id()
            }
        };
        let replaces = match &outgoing.content {
            Content::Edit { event, .. } => Some(event.clone()),
            _ => None,
        };
        let room = outgoing.room.clone();
        let own = Own { room, event: id.clone(), mark: outgoing.mark.clone(), replaces };
        self.own.push((self.log.len(), user.clone(), own));
        self.transactions.insert(key, id.clone());
        if self.lost_answers > 0 {
            self.lost_answers -= 1;
            return Err(SendError::Later { after: None, reason: "the answer was lost".into() });
        }
        Ok(id)
    }
}
