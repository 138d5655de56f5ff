//! The outbox: sends what was committed, in order within each room, until the chat has taken it or says that it
//! never will. What is left when the host ends is sent at the next start, with the same transaction ids.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    audit::now,
    backoff::Backoff,
    begin,
    chat::{Chat, Outage, SendError},
    effect::{Body, Content, Effect, EffectId, File, MessageRef, Outgoing, Place, Target, Upload},
    event::{MediaSource, Own},
    id::{AgentName, EventId, RoomId, TransactionId},
    journal::{Draft, Journal, Queued, Sent},
    notice::{Notice, Notices},
};

/// Files that an agent uploads at once: each is in memory meanwhile, and all go by the same line.
const UPLOADS: usize = 4;

/// Sends what one agent's plugins queued.
pub struct Outbox {
    agent: AgentName,
    chat: Arc<dyn Chat>,
    journal: Arc<dyn Journal>,
    notices: Notices,
    rooms: Mutex<HashMap<Key, Waiting>>,
    encrypted: Mutex<HashMap<RoomId, bool>>,
    uploads: Semaphore,
    /// What runs; waited for when the host ends.
    tasks: TaskTracker,
    closing: CancellationToken,
    /// When something was sent last, whatever came of it, in milliseconds since 1970; 0: not in this run.
    tried: AtomicI64,
    /// What has kept something from being sent, until the next is taken.
    trouble: Mutex<Option<Outage>>,
    /// Whether it is known what the server has taken of that which was sent before; only then more is sent.
    up_to_date: watch::Sender<bool>,
    /// The effects that are being sent, and their marks.
    sending: Mutex<HashMap<i64, String>>,
    /// Those of them that were found to have arrived.
    arrived: watch::Sender<HashSet<i64>>,
}

/// An effect is being sent for as long as this lives: until it is noted.
struct Sending<'a> {
    outbox: &'a Outbox,
    row: i64,
}

impl<'a> Sending<'a> {
    fn begins(outbox: &'a Outbox, queued: &Queued) -> Self {
        lock(&outbox.sending).insert(queued.row, queued.id.to_string());
        Self { outbox, row: queued.row }
    }

    fn has_arrived(&self) -> bool {
        self.outbox.arrived.borrow().contains(&self.row)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        lock(&self.outbox.sending).remove(&self.row);
        self.outbox.arrived.send_if_modified(|arrived| arrived.remove(&self.row));
    }
}

/// What keeps its order: a room, or the chat with a person whose room is not known yet, until it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Room(RoomId),
    Person(crate::id::UserId),
}

/// What waits in one room.
struct Waiting {
    queued: VecDeque<Queued>,
    /// Dropped with the rest.
    held: Vec<Held>,
}

/// Something whose end matters.
pub type Held = Box<dyn std::any::Any + Send>;

/// Why an effect has no way out.
enum Stuck {
    /// Say so, and go on with the next.
    Final(String),
    /// It may have arrived or not, and is tried again: as the other side asks, or after a while.
    Later(Option<Duration>),
    /// The host ends; it is tried again at the next start.
    Closing,
}

impl Outbox {
    /// Nothing to send yet. `closing` ends all waiting.
    pub fn new(
        agent: AgentName,
        chat: Arc<dyn Chat>,
        journal: Arc<dyn Journal>,
        notices: Notices,
        closing: CancellationToken,
    ) -> Self {
        let (rooms, encrypted) = (Mutex::default(), Mutex::default());
        let (uploads, tasks) = (Semaphore::new(UPLOADS), TaskTracker::new());
        let (up_to_date, sending, arrived) =
            (watch::Sender::new(false), Mutex::default(), watch::Sender::default());
        Self {
            agent,
            chat,
            journal,
            notices,
            rooms,
            encrypted,
            uploads,
            tasks,
            closing,
            up_to_date,
            sending,
            arrived,
            tried: AtomicI64::new(0),
            trouble: Mutex::default(),
        }
    }

    /// The connection has broken, and what was being sent may have arrived: nothing leaves until [`Self::caught_up`].
    pub fn broke(&self) {
        self.up_to_date.send_replace(false);
    }

    /// What the server has taken was told.
    pub fn caught_up(&self) {
        self.up_to_date.send_if_modified(|is| !std::mem::replace(is, true));
    }

    /// Whether it is news that the agent is seen to have said this: nobody has heard that it arrived.
    pub fn is_in_doubt(&self, own: &[Own]) -> bool {
        let sending = lock(&self.sending);
        !own.is_empty()
            && (!*self.up_to_date.borrow()
                || sending.values().any(|mark| own.iter().any(|own| own.mark == *mark)))
    }

    /// The server has taken this one, which was noted.
    pub fn was_sent(&self, row: i64) {
        for waiting in lock(&self.rooms).values_mut() {
            waiting.queued.retain(|queued| queued.row != row);
        }
        if lock(&self.sending).contains_key(&row) {
            self.arrived.send_if_modified(|arrived| arrived.insert(row));
        }
    }

    /// A room was seen encrypted: nothing leaves in clear there any more.
    pub fn is_encrypted(&self, room: &RoomId) {
        lock(&self.encrypted).insert(room.clone(), true);
    }

    /// When something was sent last, in milliseconds since 1970, and what keeps the next from being sent.
    pub fn standing(&self) -> (Option<i64>, Option<Outage>) {
        let tried = Some(self.tried.load(Relaxed)).filter(|at| *at > 0);
        (tried, lock(&self.trouble).clone())
    }

    /// Something was not taken, and goes later.
    fn hinders(&self, reason: String) {
        let mut trouble = lock(&self.trouble);
        let since = trouble.as_ref().map_or_else(now, |trouble| trouble.since);
        *trouble = Some(Outage { since, reason });
    }

    /// Sends these, each after what was pushed before for the same room.
    pub fn push(self: &Arc<Self>, queued: Vec<Queued>) {
        let queued: Vec<_> = queued
            .into_iter()
            .filter_map(|queued| Some((key(&queued.effect)?, self.known(&queued.effect), queued)))
            .collect();
        let mut idle = Vec::new();
        {
            let mut rooms = lock(&self.rooms);
            for (key, known, queued) in queued {
                // What waits for its room to be found has its turn first.
                let key = if rooms.contains_key(&key) { key } else { known.map_or(key, Key::Room) };
                if let Some(waiting) = rooms.get_mut(&key) {
                    waiting.queued.push_back(queued);
                } else {
                    rooms.insert(key.clone(), Waiting { queued: [queued].into(), held: vec![] });
                    idle.push(key);
                }
            }
        }
        for key in idle {
            let outbox = self.clone();
            begin::here(self.tasks.track_future(async move { outbox.drain(key).await }));
        }
    }

    /// Waits until everything is sent, or, when the host is closing, until nothing is under way.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
        if let Err(error) = self.journal.settle().await {
            // The next start asks the server instead.
            self.notices.say(Notice::Journal { reason: error.to_string() });
        }
    }

    /// Drops something once nothing more is to be sent to a room.
    pub fn hold(&self, room: &RoomId, what: Held) {
        let mut rooms = lock(&self.rooms);
        if let Some(waiting) = rooms.get_mut(&Key::Room(room.clone())) {
            waiting.held.push(what);
        }
    }

    /// The room of the person whom it goes to, where it is known at once.
    fn known(&self, effect: &Effect) -> Option<RoomId> {
        match key(effect)? {
            Key::Person(user) => self.chat.known_direct(&user),
            Key::Room(_) => None,
        }
    }

    /// Finds the room of a person, where all that waits for it has its place among what goes there anyway. None where there
    /// is nothing more to do: it is sent with that, or nothing is left.
    async fn settle(&self, key: Key) -> Option<Key> {
        let Key::Person(user) = &key else { return Some(key) };
        let mut backoff = Backoff::default();
        let found = loop {
            if self.until_up_to_date().await.is_err() {
                break None;
            }
            if !self.is_waited_for(&key) {
                return None;
            }
            match self.ask(self.chat.direct(user)).await {
                Ok(room) => break Some(Key::Room(room)),
                Err(Stuck::Final(reason)) => {
                    let first =
                        lock(&self.rooms).get_mut(&key).and_then(|waiting| waiting.queued.pop_front());
                    if let Some(queued) = first {
                        self.give_up(&queued, reason).await;
                    }
                }
                Err(Stuck::Closing) => break None,
                Err(Stuck::Later(after)) => {
                    if self.wait(backoff.next(after)).await.is_err() {
                        break None;
                    }
                }
            }
        };
        let mut rooms = lock(&self.rooms);
        let moved = rooms.remove(&key)?;
        let room = found?;
        if let Some(waiting) = rooms.get_mut(&room) {
            waiting.queued.extend(moved.queued);
            waiting.queued.make_contiguous().sort_by_key(|queued| queued.row);
            return None;
        }
        rooms.insert(room.clone(), moved);
        Some(room)
    }

    /// Whether anything waits there; what does not is forgotten.
    fn is_waited_for(&self, key: &Key) -> bool {
        let mut rooms = lock(&self.rooms);
        let waited = rooms.get(key).is_some_and(|waiting| !waiting.queued.is_empty());
        if !waited {
            rooms.remove(key);
        }
        waited
    }

    /// Sends one room's effects, and ends when there are none.
    async fn drain(&self, key: Key) {
        let Some(key) = self.settle(key).await else { return };
        loop {
            let (queued, sending) = {
                let mut rooms = lock(&self.rooms);
                if self.closing.is_cancelled() {
                    return drop(rooms.remove(&key));
                }
                match rooms.get_mut(&key).and_then(|waiting| waiting.queued.pop_front()) {
                    Some(queued) => {
                        let sending = Sending::begins(self, &queued);
                        (queued, sending)
                    }
                    None => return drop(rooms.remove(&key)),
                }
            };
            match self.carry_through(&queued, &sending).await {
                Ok(Some((event, room))) => self.note(&queued, &Sent::Accepted { event, room }).await,
                Ok(None) => {}
                Err(Stuck::Final(reason)) => self.give_up(&queued, reason).await,
                Err(Stuck::Closing | Stuck::Later(_)) => return drop(lock(&self.rooms).remove(&key)),
            }
        }
    }

    /// Tries until the chat has taken it, or says that it never will, or it is found to have arrived, which was noted.
    async fn carry_through(
        &self,
        queued: &Queued,
        sending: &Sending<'_>,
    ) -> Result<Option<(EventId, RoomId)>, Stuck> {
        let mut backoff = Backoff::default();
        loop {
            self.until_up_to_date().await?;
            if sending.has_arrived() {
                return Ok(None);
            }
            let after = match self.carry_out(queued).await {
                Err(Stuck::Later(after)) => after,
                ended => return ended.map(Some),
            };
            let mut arrived = self.arrived.subscribe();
            let delay = backoff.next(after);
            tokio::select! {
                () = self.closing.cancelled() => return Err(Stuck::Closing),
                _ = arrived.wait_for(|arrived| arrived.contains(&queued.row)) => {}
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Waits until it is known what the server has taken.
    async fn until_up_to_date(&self) -> Result<(), Stuck> {
        if !*self.up_to_date.borrow() {
            let mut known = self.up_to_date.subscribe();
            tokio::select! {
                () = self.closing.cancelled() => return Err(Stuck::Closing),
                _ = known.wait_for(|known| *known) => {}
            }
        }
        Ok(())
    }

    async fn give_up(&self, queued: &Queued, reason: String) {
        self.notices.say(Notice::NotSent { agent: self.agent.clone(), reason: reason.clone() });
        self.note(queued, &Sent::GivenUp(reason)).await;
    }

    async fn note(&self, queued: &Queued, sent: &Sent) {
        let mut backoff = Backoff::default();
        while let Err(error) = self.journal.sent(&self.agent, queued.row, sent).await {
            self.notices.say(Notice::Journal { reason: error.to_string() });
            if self.wait(backoff.next(None)).await.is_err() {
                return;
            }
        }
    }

    /// Sends one effect.
    async fn carry_out(&self, queued: &Queued) -> Result<(EventId, RoomId), Stuck> {
        let (to, content) = match &queued.effect {
            Effect::Send { to, body, reply_to, takes_draft, .. } => {
                let place = self.place(to).await?;
                if *takes_draft && let Some(event) = self.take_draft(&queued.id, &place, body).await? {
                    return Ok((event, place.room));
                }
                let reply_to = self.answered(reply_to.as_ref(), queued).await?;
                (to, Content::Message { body: body.clone(), thread: place.thread, reply_to })
            }
            Effect::File { to, file, caption, reply_to, .. } => {
                let place = self.place(to).await?;
                let reply_to = self.answered(reply_to.as_ref(), queued).await?;
                let source = self.upload(queued, file, &place.room).await?;
                let File { name, mime, size, .. } = file.clone();
                let (caption, thread) = (caption.clone(), place.thread);
                (to, Content::File { source, name, mime, size, caption, thread, reply_to })
            }
            Effect::Edit { to, message, body } => {
                (to, Content::Edit { event: self.event(message, queued).await?, body: body.clone() })
            }
            Effect::React { to, message, key } => {
                (to, Content::Reaction { event: self.event(message, queued).await?, key: key.clone() })
            }
            Effect::Redact {
                to,
                message: MessageRef::Effect(draft @ EffectId { ordinal: None, .. }),
                ..
            } => {
                let drafted = self.retry(|| self.journal.drafted(&self.agent, &draft.delivery)).await?;
                let drafted = drafted.ok_or_else(|| not_there(queued))?;
                let body = Body::Notice("…".into());
                let event = self.draft_event(drafted, draft, &self.place(to).await?, &body).await?;
                (to, Content::Redaction { event, reason: None })
            }
            Effect::Redact { to, message, reason } => {
                (to, Content::Redaction { event: self.event(message, queued).await?, reason: reason.clone() })
            }
            Effect::SetHome(_) | Effect::SetTimer(_) | Effect::CancelTimer { .. } | Effect::PutBack(_) => {
                return Err(Stuck::Final("it is done with the commit, and not sent".into()));
            }
        };
        let room = self.place(to).await?.room;
        let event = self.send(&room, content, queued.id.transaction(), &queued.id).await?;
        Ok((event, room))
    }

    /// Where a file is: it is uploaded once, and where to is kept before its message goes, so that whatever happens in
    /// between, the same file goes with it.
    async fn upload(&self, queued: &Queued, file: &File, room: &RoomId) -> Result<MediaSource, Stuck> {
        if let Some(source) = self.retry(|| self.journal.staged(&self.agent, queued.row)).await? {
            return Ok(source);
        }
        let must_encrypt = self.must_encrypt(room).await?;
        let (agent, delivery) = (&self.agent, &queued.id.delivery);
        let asked = async {
            // It is in memory for no longer than it takes.
            let _permit = self.uploads.acquire().await;
            let found = self.journal.blob(agent, delivery, &file.digest).await.map_err(|error| {
                self.notices.say(Notice::Journal { reason: error.to_string() });
                SendError::Later { after: None, reason: error.to_string() }
            })?;
            let bytes = found.ok_or_else(|| {
                let reason = format!("{}: the file is not there", queued.id);
                SendError::Final { code: "not-found".into(), reason }
            })?;
            let upload = Upload { room: room.clone(), must_encrypt, mime: file.mime.clone(), bytes };
            self.chat.upload(&upload).await
        };
        let source = self.ask(asked).await?;
        self.retry(|| self.journal.stage(agent, queued.row, &source)).await?;
        Ok(source)
    }

    /// The event that a message answers, if it answers one.
    async fn answered(
        &self,
        reply_to: Option<&MessageRef>,
        queued: &Queued,
    ) -> Result<Option<EventId>, Stuck> {
        match reply_to {
            Some(message) => Ok(Some(self.event(message, queued).await?)),
            None => Ok(None),
        }
    }

    /// The last text of a draft takes its place. None where there is no draft.
    async fn take_draft(&self, id: &EffectId, place: &Place, body: &Body) -> Result<Option<EventId>, Stuck> {
        let drafted = self.retry(|| self.journal.drafted(&self.agent, &id.delivery)).await?;
        let Some(draft) = drafted else { return Ok(None) };
        let event = self.draft_event(draft, id, place, body).await?;
        let content = Content::Edit { event: event.clone(), body: body.clone() };
        self.send(&place.room, content, id.transaction(), id).await?;
        Ok(Some(event))
    }

    /// The event that a draft is. It may have been sent, and its answer lost. The same transaction id tells: either
    /// this is the first time, or the answer is the event that is there, with an older text.
    async fn draft_event(
        &self,
        draft: Draft,
        id: &EffectId,
        place: &Place,
        body: &Body,
    ) -> Result<EventId, Stuck> {
        if let Some(event) = draft.event {
            return Ok(event);
        }
        let content = Content::Message { body: body.clone(), thread: place.thread.clone(), reply_to: None };
        self.send(&place.room, content, draft.transaction, id).await
    }

    async fn send(
        &self,
        room: &RoomId,
        content: Content,
        transaction: TransactionId,
        id: &EffectId,
    ) -> Result<EventId, Stuck> {
        let must_encrypt = self.must_encrypt(room).await?;
        let outgoing =
            Outgoing { room: room.clone(), transaction, mark: id.to_string(), must_encrypt, content };
        self.ask(self.chat.send(&outgoing)).await
    }

    async fn place(&self, target: &Target) -> Result<Place, Stuck> {
        match target {
            Target::Place(place) => Ok(place.clone()),
            Target::Direct(user) => {
                let room = self.ask(self.chat.direct(user)).await?;
                Ok(Place { room, thread: None })
            }
        }
    }

    /// The event that a reference means, as far as it can be known by now.
    async fn event(&self, message: &MessageRef, queued: &Queued) -> Result<EventId, Stuck> {
        let found = match message {
            MessageRef::Event(event) => Some(event.clone()),
            MessageRef::Effect(id) => self.retry(|| self.journal.event_of(&self.agent, id)).await?,
        };
        found.ok_or_else(|| not_there(queued))
    }

    async fn must_encrypt(&self, room: &RoomId) -> Result<bool, Stuck> {
        if let Some(known) = lock(&self.encrypted).get(room) {
            return Ok(*known);
        }
        let known = self.retry(|| self.journal.was_encrypted(&self.agent, room)).await?;
        // Somebody may have seen it encrypted meanwhile.
        Ok(*lock(&self.encrypted).entry(room.clone()).or_insert(known))
    }

    /// Asks the chat once.
    async fn ask<T>(&self, what: impl Future<Output = Result<T, SendError>>) -> Result<T, Stuck> {
        self.tried.store(now(), Relaxed);
        let answer = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(Stuck::Closing),
            answer = what => answer,
        };
        match answer {
            Ok(value) => {
                drop(lock(&self.trouble).take());
                Ok(value)
            }
            Err(SendError::Final { code, reason }) => Err(Stuck::Final(format!("{code}: {reason}"))),
            Err(SendError::Later { after, reason }) => {
                self.hinders(reason);
                Err(Stuck::Later(after))
            }
        }
    }

    /// Asks the journal until it answers.
    async fn retry<T, F: Future<Output = Result<T, crate::journal::Error>>>(
        &self,
        what: impl Fn() -> F,
    ) -> Result<T, Stuck> {
        let mut backoff = Backoff::default();
        loop {
            match what().await {
                Ok(value) => return Ok(value),
                Err(error) => {
                    self.notices.say(Notice::Journal { reason: error.to_string() });
                    self.wait(backoff.next(None)).await?;
                }
            }
        }
    }

    async fn wait(&self, delay: Duration) -> Result<(), Stuck> {
        tokio::select! {
            () = self.closing.cancelled() => Err(Stuck::Closing),
            () = tokio::time::sleep(delay) => Ok(()),
        }
    }
}

fn not_there(queued: &Queued) -> Stuck {
    Stuck::Final(format!("{}: the message that it is about is not there", queued.id))
}

/// Where it goes, if it goes anywhere.
fn key(effect: &Effect) -> Option<Key> {
    Some(match effect {
        Effect::Send { to, .. }
        | Effect::File { to, .. }
        | Effect::Edit { to, .. }
        | Effect::React { to, .. }
        | Effect::Redact { to, .. } => match to {
            Target::Direct(user) => Key::Person(user.clone()),
            Target::Place(place) => Key::Room(place.room.clone()),
        },
        Effect::SetHome(_) | Effect::SetTimer(_) | Effect::CancelTimer { .. } | Effect::PutBack(_) => {
            return None;
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
