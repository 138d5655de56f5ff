//! What is in the rooms, and what happens when somebody writes: the homeserver's part.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{File, Line, message};
use crate::{
    chat::SendError,
    effect::{Body, Content, Outgoing, Upload},
    event::{
        Attachment, Class, DeviceTrust, Event, Invite, Kind, Locked, MediaSource, Member, Membership,
        Message, Own, Reading, Room, Sender,
    },
    id::{EventId, RoomId, TransactionId, UserId},
    mime,
};

#[derive(Default)]
pub(super) struct World {
    pub(super) rooms: HashMap<RoomId, RoomState>,
    pub(super) log: VecDeque<Event>,
    /// How many events the log has had that were handed over and are gone.
    pub(super) gone: usize,
    pub(super) transactions: HashMap<(UserId, TransactionId), EventId>,
    /// The transactions in their order.
    pub(super) sent: VecDeque<(UserId, TransactionId)>,
    pub(super) names: HashMap<UserId, String>,
    pub(super) files: HashMap<String, Bytes>,
    /// How many there were.
    pub(super) kept: usize,
    pub(super) invites: Vec<(UserId, Invite)>,
    pub(super) reads: Vec<(UserId, RoomId, EventId)>,
    pub(super) refusals: Vec<SendError>,
    pub(super) refused_files: Vec<SendError>,
    /// What cannot be read without its key, as it reads with it.
    pub(super) locked: HashMap<EventId, Event>,
    /// The keys that were given, in order.
    pub(super) keys: Vec<EventId>,
    /// So many answers to what is sent are lost on their way.
    pub(super) lost_answers: usize,
    /// What was sent by whom, and how many events there had been then.
    pub(super) own: VecDeque<(usize, UserId, Own)>,
    /// Rooms of another start have other event ids, as on a homeserver.
    pub(super) born: u128,
    pub(super) ids: u64,
    pub(super) closed: bool,
    /// So much of each kind is remembered, at most twice as much; none for everything.
    pub(super) newest: Option<usize>,
}

#[derive(Default)]
pub(super) struct RoomState {
    pub(super) members: BTreeSet<UserId>,
    pub(super) encrypted: bool,
    pub(super) direct: bool,
    pub(super) lines: Vec<Line>,
    /// How many lines were before these.
    pub(super) gone: usize,
    pub(super) at: HashMap<EventId, usize>,
    pub(super) typing: BTreeSet<UserId>,
}

impl RoomState {
    fn line(&mut self, event: &EventId) -> Option<&mut Line> {
        let at = *self.at.get(event)?;
        self.lines.get_mut(at - self.gone)
    }

    fn forget(&mut self, newest: usize) {
        for line in overdue(&mut self.lines, newest) {
            self.at.remove(&line.id);
            self.gone += 1;
        }
    }
}

/// What is to be forgotten, once it is as much as may stay.
fn overdue<T>(all: &mut Vec<T>, newest: usize) -> impl Iterator<Item = T> {
    let gone = if all.len() >= 2 * newest { all.len() - newest } else { 0 };
    all.drain(..gone)
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
            state.at.insert(id.clone(), state.gone + state.lines.len());
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
                file: None,
            });
            if let Some(newest) = self.newest {
                state.forget(newest);
            }
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
        self.log.push_back(Event { id, room, sender, sent, mark, kind, reading: Reading::AtOnce });
    }

    /// What somebody has sent between two places in the log; at a border, perhaps a little more.
    pub(super) fn own_between(&self, user: &UserId, from: usize, to: usize) -> Vec<Own> {
        let since = self.own.partition_point(|(at, ..)| *at < from);
        let sent = self.own.range(since..).take_while(|(at, ..)| *at <= to);
        sent.filter(|(_, by, _)| by == user).map(|(.., own)| own.clone()).collect()
    }

    /// The newest event cannot be read until its key is given, which is called as the event is.
    pub(super) fn lock_newest(&mut self) {
        let Some(event) = self.log.back_mut() else { return };
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
        if let Some(event) = self.log.back_mut() {
            event.sent = sent;
        }
    }

    fn next_id(&mut self) -> EventId {
        self.ids += 1;
        EventId::parse(format!("${:x}-{}", self.born, self.ids)).expect("an event id")
    }

    pub(super) fn keep(&mut self, bytes: Bytes) -> MediaSource {
        let name = format!("file{}", self.kept);
        self.kept += 1;
        self.files.insert(name.clone(), bytes);
        MediaSource::new(name)
    }

    pub(super) fn upload(&mut self, user: &UserId, upload: &Upload) -> Result<MediaSource, SendError> {
        if let Some(error) = self.refused_files.pop() {
            return Err(error);
        }
        self.room(user, &upload.room, upload.must_encrypt)?;
        Ok(self.keep(upload.bytes.clone()))
    }

    /// A room that may be written to.
    fn room(&mut self, user: &UserId, room: &RoomId, encrypt: bool) -> Result<&mut RoomState, SendError> {
        match self.rooms.get_mut(room) {
            None => Err(refused("M_NOT_FOUND", "there is no such room")),
            Some(room) if !room.members.contains(user) => Err(refused("M_FORBIDDEN", "not in the room")),
            Some(room) if encrypt && !room.encrypted => {
                Err(refused("not-encrypted", "the room is not encrypted any more"))
            }
            Some(room) => Ok(room),
        }
    }

    pub(super) fn send(&mut self, user: &UserId, outgoing: &Outgoing) -> Result<EventId, SendError> {
        let key = (user.clone(), outgoing.transaction.clone());
        if let Some(id) = self.transactions.get(&key) {
            return Ok(id.clone());
        }
        if let Some(error) = self.refusals.pop() {
            return Err(error);
        }
        let room = self.room(user, &outgoing.room, outgoing.must_encrypt)?;
        let missing = || refused("M_NOT_FOUND", "there is no such message");
        let mark = Some(outgoing.mark.clone());
        let id = match &outgoing.content {
            Content::Message { body, thread, reply_to } => {
                let class = if matches!(body, Body::Notice(_)) { Class::Notice } else { Class::Text };
                let message = Message { class, thread: thread.clone(), ..message(body.text()) };
                self.write(user, &outgoing.room, message, reply_to.clone(), mark)
            }
            Content::File { source, name, mime, caption, thread, reply_to, .. } => {
                let said = caption.as_ref().map_or("", Body::text);
                let bytes = self.files.get(source.as_str());
                let bytes = bytes.ok_or_else(|| refused("M_NOT_FOUND", "there is no such file"))?.clone();
                let attachment = Attachment {
                    kind: mime::kind(mime),
                    name: name.clone(),
                    mime: Some(mime.clone()),
                    size: Some(bytes.len() as u64),
                    duration: None,
                    source: Some(source.clone()),
                };
                let file = File { name: name.clone(), mime: mime.clone(), kind: attachment.kind, bytes };
                let message =
                    Message { thread: thread.clone(), attachments: vec![attachment], ..message(said) };
                let id = self.write(user, &outgoing.room, message, reply_to.clone(), mark);
                if let Some(line) = self.rooms.get_mut(&outgoing.room).and_then(|room| room.line(&id)) {
                    if said.is_empty() {
                        name.clone_into(&mut line.text);
                    }
                    line.file = Some(file);
                }
                id
            }
            Content::Edit { event, body } => {
                let line = room.line(event).ok_or_else(missing)?;
                if line.sender != *user {
                    return Err(refused("M_FORBIDDEN", "somebody else's message"));
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
                line.file = None;
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
        self.own.push_back((self.written(), user.clone(), own));
        if self.newest.is_some_and(|newest| self.sent.len() >= newest)
            && let Some(oldest) = self.sent.pop_front()
        {
            self.transactions.remove(&oldest);
        }
        self.sent.push_back(key.clone());
        self.transactions.insert(key, id.clone());
        if self.lost_answers > 0 {
            self.lost_answers -= 1;
            return Err(SendError::Later { after: None, reason: "the answer was lost".into() });
        }
        Ok(id)
    }

    pub(super) fn read(&mut self, user: &UserId, room: &RoomId, event: &EventId) {
        self.reads.push((user.clone(), room.clone(), event.clone()));
        if let Some(newest) = self.newest {
            drop(overdue(&mut self.reads, newest));
        }
    }

    /// How many events there have been since the beginning.
    pub(super) fn written(&self) -> usize {
        self.gone + self.log.len()
    }

    /// One event of the log, by its number since the beginning.
    pub(super) fn event(&self, number: usize) -> Option<&Event> {
        self.log.get(number.checked_sub(self.gone)?)
    }

    /// Up to here everything was handed over.
    pub(super) fn handed_over(&mut self, number: usize) {
        while self.newest.is_some() && self.gone < number && self.log.pop_front().is_some() {
            self.gone += 1;
        }
        while self.own.front().is_some_and(|(at, ..)| *at < self.gone) {
            self.own.pop_front();
        }
    }
}

fn refused(code: &str, reason: &str) -> SendError {
    SendError::Final { code: code.into(), reason: reason.into() }
}
