//! What handlers are told from outside is written down before they are told, so that one that runs again after a crash is
//! told the same and goes on where it was. What is recorded, and what is found again, [`crate::answers`] decides.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
};

use async_trait::async_trait;

use super::types::{Error, ErrorKind};
use crate::{
    answers::{Again, Book, Counts, Entry, Fact, Key, Kind, Opening, Record, Told, Writing, digest},
    clock::Clock,
};

/// Where it is written down.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// Writes, however often the storage fails; it is durable when this returns, unless the host closes.
    async fn learn(&self, opening: Opening, writing: Writing);
}

/// What is said of what was under way when the host ended, and is not asked again.
pub const LOST: &str = "the host ended while this was under way, and nobody knows what came of it";

/// What is recorded of one delivery, over all its attempts and tools.
pub struct Recorder {
    /// None where a past event is looked at: then nobody outside is asked.
    keeper: Option<Arc<dyn Keeper>>,
    /// It is one that has ended.
    replays: bool,
    opening: Box<dyn Fn(i64) -> Opening + Send + Sync>,
    book: Mutex<Book>,
    /// One write after the other: what was learnt first is written first.
    writing: tokio::sync::Mutex<()>,
    /// Something of it is in the journal.
    written: AtomicBool,
    /// What time it is.
    now: Clock,
    /// What time it is for handlers.
    clock: Arc<AtomicI64>,
    /// What was asked, and is in no record.
    unknown: Mutex<Vec<String>>,
}

/// Half of a digest, in hexadecimal.
fn short(digest: &[u8; 32]) -> String {
    let half = digest.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    format!("{half:032x}")
}

/// Milliseconds since 1970.
pub fn now(clock: &Clock) -> i64 {
    i64::try_from(clock.now()).unwrap_or(i64::MAX)
}

impl Recorder {
    /// For a delivery, and what it learnt before a crash. `opening` says how it began, given when.
    pub fn new(
        keeper: Arc<dyn Keeper>,
        clock: Clock,
        before: Option<&Record>,
        opening: impl Fn(i64) -> Opening + Send + Sync + 'static,
    ) -> Arc<Self> {
        let book = before.map_or_else(|| Book::new(now(&clock)), Book::of);
        Self::with(Some(keeper), clock, book, before.is_some(), Box::new(opening)).into()
    }

    /// To look at a delivery of the past.
    pub fn past(record: Record) -> Arc<Self> {
        Self { replays: true, ..Self::looked_at(record) }.into()
    }

    /// Nobody outside is asked.
    fn looked_at(record: Record) -> Self {
        let book = Book::of(&record);
        let opening = record.opening;
        Self::with(None, Clock::default(), book, true, Box::new(move |_| opening.clone()))
    }

    fn with(
        keeper: Option<Arc<dyn Keeper>>,
        now: Clock,
        book: Book,
        written: bool,
        opening: Box<dyn Fn(i64) -> Opening + Send + Sync>,
    ) -> Self {
        let clock = Arc::new(AtomicI64::new(book.begun()));
        Self {
            keeper,
            replays: false,
            opening,
            book: Mutex::new(book),
            writing: tokio::sync::Mutex::default(),
            written: AtomicBool::new(written),
            now,
            clock,
            unknown: Mutex::default(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handler runs again.
    pub fn again(&self, why: Again) {
        let mut book = self.book();
        book.again(why, self.now());
        self.clock.store(book.begun(), Relaxed);
    }

    /// There is no room for the answer to this.
    pub fn leave(&self, key: &Key) {
        self.book().leave(key);
    }

    /// How often each thing was asked, to come back to where a tool that runs again is told the same.
    pub fn counts(&self) -> Counts {
        self.book().counts()
    }

    /// What was asked since is asked again.
    pub fn come_back(&self, to: Counts) {
        self.book().come_back(to);
    }

    /// Something outside was changed, or may have been.
    pub fn changed(&self) -> bool {
        self.book().changed()
    }

    /// For another version, of which nothing is kept: it is told the same, and nobody else is asked.
    pub fn rehearsal(&self) -> Arc<Self> {
        let book = self.book();
        let opening = (self.opening)(book.begun());
        let told = Record { opening, ended: None, full: book.is_full(), entries: book.told() };
        Self::looked_at(told).into()
    }

    /// What time it is, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        now(&self.now)
    }

    /// The time that handlers see, in milliseconds since 1970: it stands still between two answers.
    pub fn clock(&self) -> Arc<AtomicI64> {
        self.clock.clone()
    }

    /// An answer is given that came at this time.
    pub fn came(&self, at: i64) {
        self.clock.fetch_max(at, Relaxed);
    }

    /// Whether a delivery is looked at that has ended: what was under way then has no answer now.
    pub fn replays(&self) -> bool {
        self.replays
    }

    /// Whether nobody outside is asked; what would have been is noted.
    pub fn is_past(&self, asked: &str) -> bool {
        let past = self.keeper.is_none();
        if past {
            self.unknown.lock().unwrap_or_else(PoisonError::into_inner).push(asked.to_owned());
        }
        past
    }

    /// What was asked, and is in no record.
    pub fn unknown(&self) -> Vec<String> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of a request that is made now.
    pub fn ask(&self, path: &str, call: &str, request: &[u8; 32]) -> (Key, Option<Entry>) {
        let mut book = self.book();
        let key = book.ask(path, call, request);
        (key, book.found(&key).cloned())
    }

    /// The handler makes a request outside.
    pub fn requests(&self) {
        self.book().requests();
    }

    /// What is known of a wait for so many things that begins now.
    pub fn wait(&self, path: &str, version: &str, count: usize) -> (Key, Option<Entry>) {
        let mut book = self.book();
        let key = book.wait(path, version, count);
        (key, book.found(&key).cloned())
    }

    /// The name of a tool's call within its delivery.
    pub fn tool(&self, path: &str, name: &str) -> Arc<str> {
        let Key(key) = self.book().ask(path, "tool", &digest([name.as_bytes()]));
        short(&key).into()
    }

    /// The same for the same delivery and request, whenever it is sent: an `Idempotency-Key`.
    pub fn idempotency(&self, key: &Key) -> String {
        let opening = (self.opening)(0);
        let parts = [opening.agent.as_str().as_bytes(), opening.delivery.as_str().as_bytes(), &key.0];
        short(&digest(parts))
    }

    /// What was read before, if it was.
    pub fn seen(&self, call: &str, what: &[u8; 32]) -> Option<Entry> {
        self.book().found(&Book::same(call, what)).cloned()
    }

    /// Something was read that costs nothing: it is written down with what does.
    pub fn saw(&self, call: &str, what: &[u8; 32], fact: Fact, body: impl FnOnce() -> Vec<u8>) {
        let mut book = self.book();
        let key = Book::same(call, what);
        if book.found(&key).is_none() {
            let order = book.place();
            let entry = Entry { key, order, at: self.now(), fact, body: body() };
            let _written_later = book.learn(entry);
        }
    }

    /// Answers whether something is to be written now.
    fn note(&self, key: Key, at: i64, fact: Fact, body: Vec<u8>) -> bool {
        let mut book = self.book();
        let order = book.place();
        book.learn(Entry { key, order, at, fact, body })
    }

    /// Notes what it cost nothing to ask: it is written down with what does.
    pub fn keep(&self, key: Key, fact: Fact) {
        self.keep_at(key, self.now(), fact);
    }

    /// The same of what came before now.
    pub fn keep_at(&self, key: Key, at: i64, fact: Fact) {
        let _written_later = self.note(key, at, fact, vec![]);
    }

    /// Writes what is not written yet.
    async fn write(&self, keeper: &dyn Keeper) {
        let _one = self.writing.lock().await;
        let (writing, begun) = {
            let mut book = self.book();
            (book.take(), book.begun())
        };
        if !writing.is_empty() {
            self.written.store(true, Relaxed);
            keeper.learn((self.opening)(begun), writing).await;
        }
    }

    /// Notes what was answered; it is durable when this returns.
    pub async fn learn(&self, key: Key, at: i64, fact: Fact, body: Vec<u8>) {
        let Some(keeper) = &self.keeper else { return };
        if self.note(key, at, fact, body) {
            self.write(&**keeper).await;
        }
    }

    /// Notes it soon: nobody waits for it.
    pub fn learn_soon(self: &Arc<Self>, key: Key, at: i64, fact: Fact, body: Vec<u8>) {
        let (Some(keeper), Ok(runtime)) = (self.keeper.clone(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        if self.note(key, at, fact, body) {
            let recorder = self.clone();
            runtime.spawn(async move { recorder.write(&*keeper).await });
        }
    }

    /// More of an answer comes that will be noted at its end. Answers whether there is room for it; if not, that is noted.
    pub async fn comes(&self, more: usize) -> bool {
        let due = {
            let mut book = self.book();
            if book.comes(more) {
                return true;
            }
            book.overflow()
        };
        if let (true, Some(keeper)) = (due, &self.keeper) {
            self.write(&**keeper).await;
        }
        false
    }

    /// So much of an answer is no longer coming.
    pub fn has_come(&self, size: usize) {
        self.book().came(size);
    }

    /// How it began, and what it has learnt and was not written yet. What is being written is waited for.
    pub async fn rest(&self) -> (Opening, Writing) {
        let _one = self.writing.lock().await;
        let mut book = self.book();
        let begun = book.begun();
        ((self.opening)(begun), book.take())
    }

    /// Whether something of it is in the journal. What is being written is waited for.
    pub async fn is_written(&self) -> bool {
        let _one = self.writing.lock().await;
        self.written.load(Relaxed)
    }

    /// How many answers of a kind are known.
    pub fn count(&self, of: impl Fn(&Fact) -> bool) -> u32 {
        self.book().count(of)
    }
}

/// An error, for the record.
pub fn kept(error: &Error) -> Told {
    let kind = match error.kind {
        ErrorKind::Denied => Kind::Denied,
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::Invalid => Kind::Invalid,
        ErrorKind::RateLimited => Kind::RateLimited,
        ErrorKind::TooLarge => Kind::TooLarge,
        ErrorKind::Timeout => Kind::Timeout,
        ErrorKind::Unavailable => Kind::Unavailable,
        ErrorKind::Conflict => Kind::Conflict,
        ErrorKind::Cancelled => Kind::Cancelled,
        ErrorKind::Unsupported => Kind::Unsupported,
        ErrorKind::Internal => Kind::Internal,
        ErrorKind::Other => Kind::Other,
    };
    let (code, message) = (error.code.clone(), error.message.clone());
    Told { kind, code, message, retry_after: error.retry_after }
}

/// An error that was recorded, for a guest.
pub fn given(told: Told) -> Error {
    let kind = match told.kind {
        Kind::Denied => ErrorKind::Denied,
        Kind::NotFound => ErrorKind::NotFound,
        Kind::Invalid => ErrorKind::Invalid,
        Kind::RateLimited => ErrorKind::RateLimited,
        Kind::TooLarge => ErrorKind::TooLarge,
        Kind::Timeout => ErrorKind::Timeout,
        Kind::Unavailable => ErrorKind::Unavailable,
        Kind::Conflict => ErrorKind::Conflict,
        Kind::Cancelled => ErrorKind::Cancelled,
        Kind::Unsupported => ErrorKind::Unsupported,
        Kind::Internal => ErrorKind::Internal,
        Kind::Other => ErrorKind::Other,
    };
    Error { kind, code: told.code, message: told.message, retry_after: told.retry_after, extra: None }
}

/// Whether an instance goes on: an answer that it dropped is one of which it wanted no more, and one that is dropped with it
/// was cut off.
#[derive(Clone, Default)]
pub struct Alive(Arc<AtomicBool>);

impl Alive {
    /// From now on, until the guard is dropped.
    pub fn runs(&self) -> Runs {
        self.0.store(true, Relaxed);
        Runs(Some(self.clone()))
    }

    /// Whether it does.
    pub fn is(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// As long as an instance goes on.
pub struct Runs(Option<Alive>);

impl Runs {
    /// It has ended by itself.
    pub fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        if let Some(Alive(alive)) = &self.0 {
            alive.store(false, Relaxed);
        }
    }
}
