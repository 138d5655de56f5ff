//! Rooms in memory: a chat for tests, benchmarks and embedders, and what the terminal stands on.
//!
//! [`Rooms`] plays the homeserver: it outlives a host, remembers transaction ids, and shows what another person
//! in the room would see. It has no network to fail; [`Rooms::refuse`] makes it say no, and [`Rooms::lose_answer`] say
//! nothing.
//!
//! ```
//! # tokio_test(async {
//! use parlour::chat::memory::Rooms;
//!
//! let rooms = Rooms::new();
//! let agent = rooms.account("@agent:memory");
//! let room = rooms.create(["@alice:memory", "@agent:memory"]);
//! rooms.say("@alice:memory", &room, "/echo hello");
//! assert_eq!(rooms.transcript(&room).len(), 1);
//! # drop(agent);
//! # });
//! # fn tokio_test<F: std::future::Future>(future: F) { tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { future.await; }) }
//! ```

mod account;
mod world;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::sync::watch;

pub use self::account::Memory;
use self::world::{RoomState, World};
use super::SendError;
use crate::{
    event::{AttachmentKind, Class, Invite, MediaSource, Membership, Message},
    id::{EventId, RoomId, UserId},
};

/// Rooms, and who is in them. Clones share them.
#[derive(Clone)]
pub struct Rooms {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<()>,
}

/// A message as somebody in the room sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its id.
    pub id: EventId,
    /// Who wrote it.
    pub sender: UserId,
    /// What it says, after all edits.
    pub text: String,
    /// It is a notice.
    pub notice: bool,
    /// The thread's root, in a thread.
    pub thread: Option<EventId>,
    /// What it answers.
    pub reply_to: Option<EventId>,
    /// How often it was edited.
    pub edits: u32,
    /// Who reacted, and how.
    pub reactions: Vec<(UserId, String)>,
    /// It was removed; its text is empty.
    pub redacted: bool,
    /// The file that it is, whose name is its text where nothing is said to it.
    pub file: Option<File>,
}

/// A file that somebody sent.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its media type, as it was declared.
    pub mime: String,
    /// As what clients show it.
    pub kind: AttachmentKind,
    /// What is in it.
    pub bytes: Bytes,
}

/// Its bytes are too many to be looked at.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, mime, kind, bytes } = self;
        write!(f, "File({name:?}, {mime}, {kind:?}, {} bytes)", bytes.len())
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self::new()
    }
}

impl Rooms {
    /// No rooms yet.
    #[must_use]
    pub fn new() -> Self {
        let born = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let world = World { born, ..World::default() };
        Self { world: Arc::new(Mutex::new(world)), changed: watch::Sender::new(()) }
    }

    /// No rooms yet, with one account to come, and nobody who looks back: only the newest is remembered of what was said, read
    /// and sent, and of what was handed over nothing.
    pub(in crate::chat) fn of_newest(newest: usize) -> Self {
        let rooms = Self::new();
        rooms.lock().newest = Some(newest);
        rooms
    }

    /// An agent's account. What was said before is history to it.
    ///
    /// # Panics
    /// Where `user` is no user id.
    #[must_use]
    pub fn account(&self, user: &str) -> Memory {
        Memory::new(self.clone(), user_id(user))
    }

    /// A room with these people in it, of version 12 as it were: its id has no server part.
    ///
    /// # Panics
    /// Where one is no user id.
    pub fn create<'a>(&self, members: impl IntoIterator<Item = &'a str>) -> RoomId {
        let mut world = self.lock();
        let id = RoomId::parse(format!("!room{}", world.rooms.len())).expect("a room id");
        let state = RoomState { members: members.into_iter().map(user_id).collect(), ..RoomState::default() };
        world.rooms.insert(id.clone(), state);
        drop(world);
        self.tell();
        id
    }

    /// A direct chat between two people.
    ///
    /// # Panics
    /// Where one is no user id.
    pub fn create_direct(&self, one: &str, other: &str) -> RoomId {
        let id = self.create([one, other]);
        self.change(&id, |room| room.direct = true);
        id
    }

    /// Says of a room that it is encrypted. Nothing is: this is memory.
    pub fn encrypt(&self, room: &RoomId) {
        self.change(room, |room| room.encrypted = true);
    }

    /// Says of a room that it is not encrypted any more, as a dishonest server would.
    pub fn decrypt(&self, room: &RoomId) {
        self.change(room, |room| room.encrypted = false);
    }

    /// What people call themselves.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn call(&self, user: &str, name: &str) {
        self.lock().names.insert(user_id(user), name.into());
    }

    /// Somebody writes.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn say(&self, user: &str, room: &RoomId, text: &str) -> EventId {
        self.post(user, room, message(text))
    }

    /// Somebody writes in a thread.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn say_in_thread(&self, user: &str, room: &RoomId, root: &EventId, text: &str) -> EventId {
        self.post(user, room, Message { thread: Some(root.clone()), ..message(text) })
    }

    /// Somebody writes something particular.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn post(&self, user: &str, room: &RoomId, message: Message) -> EventId {
        let id = self.lock().write(&user_id(user), room, message, None, None);
        self.tell();
        id
    }

    /// Somebody has written at another time, as their server says: milliseconds since 1970.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn say_at(&self, user: &str, room: &RoomId, text: &str, sent: u64) -> EventId {
        let mut world = self.lock();
        let id = world.write(&user_id(user), room, message(text), None, None);
        world.antedate(sent);
        drop(world);
        self.tell();
        id
    }

    /// Somebody writes, and the key to what they write does not come with it.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn say_locked(&self, user: &str, room: &RoomId, text: &str) -> EventId {
        let mut world = self.lock();
        let id = world.write(&user_id(user), room, message(text), None, None);
        world.lock_newest();
        drop(world);
        self.tell();
        id
    }

    /// The key to an event comes.
    pub fn give_key(&self, event: &EventId) {
        self.lock().keys.push(event.clone());
        self.tell();
    }

    /// Keeps a file, for attachments to be found by.
    pub fn keep(&self, bytes: impl Into<Bytes>) -> MediaSource {
        self.lock().keep(bytes.into())
    }

    /// How many files were kept and uploaded so far.
    #[must_use]
    pub fn files(&self) -> usize {
        self.lock().kept
    }

    /// Puts something else in a file's place.
    pub fn replace(&self, file: &MediaSource, bytes: impl Into<Bytes>) {
        self.lock().files.insert(file.as_str().to_owned(), bytes.into());
    }

    /// Removes a file, as a homeserver does some day.
    pub fn lose(&self, file: &MediaSource) {
        self.lock().files.remove(file.as_str());
    }

    /// Somebody joins or leaves.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn member(&self, user: &str, room: &RoomId, membership: Membership) -> EventId {
        let user = user_id(user);
        let mut world = self.lock();
        let id = world.move_member(&user, room, membership);
        drop(world);
        self.tell();
        id
    }

    /// Somebody wants somebody in a room.
    ///
    /// # Panics
    /// Where one is no user id.
    pub fn invite(&self, inviter: &str, user: &str, room: &RoomId) {
        let invite = Invite { room: room.clone(), inviter: Some(user_id(inviter)) };
        self.lock().invites.push((user_id(user), invite));
        self.tell();
    }

    /// The next send is answered with this error.
    pub fn refuse(&self, error: SendError) {
        self.lock().refusals.insert(0, error);
    }

    /// What is sent is taken again, whatever [`Self::refuse`] has left.
    pub fn accept(&self) {
        self.lock().refusals.clear();
    }

    /// What is sent next arrives, and whoever sent it does not hear so.
    pub fn lose_answer(&self) {
        self.lock().lost_answers += 1;
    }

    /// Forgets which transaction ids were used, as servers do after a day: what comes with one of them again is sent
    /// again.
    pub fn forget_transactions(&self) {
        let mut world = self.lock();
        world.transactions.clear();
        world.sent.clear();
    }

    /// The next upload is answered with this error.
    pub fn refuse_file(&self, error: SendError) {
        self.lock().refused_files.insert(0, error);
    }

    /// Nobody will write any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.tell();
    }

    /// What somebody in the room sees.
    #[must_use]
    pub fn transcript(&self, room: &RoomId) -> Vec<Line> {
        self.lock().rooms.get(room).map_or_else(Vec::new, |room| room.lines.clone())
    }

    /// Who is in a room.
    #[must_use]
    pub fn members(&self, room: &RoomId) -> Vec<UserId> {
        self.lock().rooms.get(room).map_or_else(Vec::new, |room| room.members.iter().cloned().collect())
    }

    /// Who is typing in a room.
    #[must_use]
    pub fn typing(&self, room: &RoomId) -> Vec<UserId> {
        self.lock().rooms.get(room).map_or_else(Vec::new, |room| room.typing.iter().cloned().collect())
    }

    /// Read receipts so far: who, and up to which event.
    #[must_use]
    pub fn reads(&self, room: &RoomId) -> Vec<(UserId, EventId)> {
        self.lock()
            .reads
            .iter()
            .filter(|(_, at, _)| at == room)
            .map(|(user, _, event)| (user.clone(), event.clone()))
            .collect()
    }

    /// Waits until the room's transcript satisfies `condition`, and answers it.
    ///
    /// # Errors
    /// The transcript as it is after `limit`.
    pub async fn until(
        &self,
        room: &RoomId,
        limit: Duration,
        condition: impl Fn(&[Line]) -> bool,
    ) -> Result<Vec<Line>, Vec<Line>> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                let met = {
                    let world = self.lock();
                    let lines = world.rooms.get(room).map_or(&[][..], |room| &room.lines);
                    condition(lines)
                };
                if met || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let met = tokio::time::timeout(limit, wait).await.is_ok();
        let transcript = self.transcript(room);
        if met { Ok(transcript) } else { Err(transcript) }
    }

    fn change(&self, room: &RoomId, how: impl FnOnce(&mut RoomState)) {
        if let Some(state) = self.lock().rooms.get_mut(room) {
            how(state);
        }
        self.tell();
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_replace(());
    }
}

fn user_id(text: &str) -> UserId {
    UserId::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A message that says just this, and mentions whom it names by full id.
#[must_use]
pub fn message(text: &str) -> Message {
    Message {
        class: Class::Text,
        text: text.into(),
        html: None,
        thread: None,
        reply_to: None,
        mentions: vec![],
        attachments: vec![],
    }
}
