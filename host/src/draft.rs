//! Drafts: one message that shows what a handler has so far. It is edited at a pace that a homeserver allows,
//! and the handler never waits for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{runtime::Handle, sync::watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    capability::progress::Sink,
    chat::{Chat, SendError},
    effect::{Body, Content, EffectId, Outgoing, Place},
    id::{AgentName, DeliveryId, EventId, TransactionId},
    journal::Journal,
};

/// Between two edits: what a person reads comfortably. Homeservers allow a burst and then few, so that a long
/// draft is edited less and less often.
const PACE: Duration = Duration::from_secs(1);
const SLOWEST: Duration = Duration::from_secs(5);

/// The draft of one attempt at a delivery.
pub struct Drafts {
    to: Destination,
    /// Where drafts are sent from: the guest may run elsewhere.
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Nothing,
    Showing(Shown),
    /// A guest that was stopped may say one more thing before it ends.
    Finished,
}

/// Where a draft goes.
#[derive(Clone)]
pub struct Destination {
    /// Whose.
    pub agent: AgentName,
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// In which conversation.
    pub place: Place,
    /// The conversation is encrypted.
    pub encrypted: bool,
    /// Through which chat.
    pub chat: Arc<dyn Chat>,
    /// Where its transaction id is kept.
    pub journal: Arc<dyn Journal>,
}

struct Shown {
    latest: watch::Sender<Body>,
    /// Where nobody waits for its end, nothing is sent after it either.
    task: AbortOnDropHandle<()>,
}

impl Drafts {
    /// Nothing is shown yet.
    pub fn new(to: Destination) -> Self {
        Self { to, runtime: Handle::current(), state: Mutex::default() }
    }

    /// Shows no more. Answers the last text, if there was one, once nothing of it is under way.
    pub async fn finish(&self) -> Option<Body> {
        let state = std::mem::replace(
            &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner),
            State::Finished,
        );
        let State::Showing(shown) = state else { return None };
        let last = shown.latest.borrow().clone();
        drop(shown.latest);
        // A request that is under way is waited for: it must not arrive after the last edit.
        drop(shown.task.await);
        Some(last)
    }
}

impl Sink for Drafts {
    fn show(&self, body: Body) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Showing(shown) => drop(shown.latest.send_replace(body)),
            State::Nothing => {
                let (latest, bodies) = watch::channel(body);
                let task = self.runtime.spawn(keep_showing(self.to.clone(), bodies));
                *state = State::Showing(Shown { latest, task: AbortOnDropHandle::new(task) });
            }
            State::Finished => {}
        }
    }
}

/// Sends the newest text whenever it may, until there will be no newer one.
async fn keep_showing(to: Destination, mut bodies: watch::Receiver<Body>) {
    let Ok(draft) = to.journal.draft(&to.agent, &to.delivery, None).await else { return };
    let Ok(was_encrypted) = to.journal.was_encrypted(&to.agent, &to.place.room).await else { return };
    let to = Destination { encrypted: to.encrypted || was_encrypted, ..to };
    let mut event = draft.event;
    let mut pace = PACE;
    loop {
        let body = bodies.borrow_and_update().clone();
        let wait = match show(&to, &draft.transaction, event.as_ref(), body.clone()).await {
            Ok(sent) => {
                if event.is_none() {
                    event = Some(sent.clone());
                    // Without this note, the same transaction id finds the event again.
                    drop(to.journal.draft(&to.agent, &to.delivery, Some(&sent)).await);
                }
                pace
            }
            Err(SendError::Later { after, .. }) => after.unwrap_or(SLOWEST),
            Err(SendError::Final { .. }) => return,
        };
        pace = (pace.mul_f32(1.2)).min(SLOWEST);
        // No newer text will come: what is to stand in its place follows at once.
        let closed = async { while bodies.changed().await.is_ok() {} };
        if tokio::time::timeout(wait, closed).await.is_ok() {
            return;
        }
        if *bodies.borrow() == body && bodies.changed().await.is_err() {
            return;
        }
    }
}

async fn show(
    to: &Destination,
    transaction: &TransactionId,
    event: Option<&EventId>,
    body: Body,
) -> Result<EventId, SendError> {
    let id = EffectId { delivery: to.delivery.clone(), ordinal: None };
    let (transaction, content) = match event {
        None => {
            (transaction.clone(), Content::Message { body, thread: to.place.thread.clone(), reply_to: None })
        }
        Some(event) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let each =
                TransactionId::parse(format!("{transaction}.{now}")).unwrap_or_else(|_| transaction.clone());
            (each, Content::Edit { event: event.clone(), body })
        }
    };
    let outgoing = Outgoing {
        room: to.place.room.clone(),
        transaction,
        mark: id.to_string(),
        must_encrypt: to.encrypted,
        content,
    };
    to.chat.send(&outgoing).await
}
