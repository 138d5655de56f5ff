//! The thread that owns the connection, and the grouped commit.
//!
//! Calls run in the order in which they were made. From the first that writes on, whatever comes until nothing
//! waits belongs to one group: one transaction, in which each but the first has a savepoint of its own, so that one that
//! fails takes back only what it did. Then one COMMIT, and only then the answers. While the disk is busy with one group,
//! the next one gathers, so groups grow with the load and a lone call waits for nobody.
//!
//! Two kinds of writes need not be on disk at once. A [`Thread::note`] waits until a group begins. Of what is written by
//! [`Thread::ahead`] the answer is told first, and then a group is open for a moment: what is written because of it mostly
//! comes soon, and is in the same COMMIT. Where nothing comes that is to be on disk, the group is committed all the same.
//! Both are done in each group until one is on disk, before all that is called after them: whoever builds on them is on disk with
//! them, or not at all. While they cannot be written, nothing is.
//!
//! What a group is about to write and may turn out to be over before it ends is written at its end, or before anybody looks
//! at it ([`Unwritten`]).
//!
//! A caller that goes away takes nothing with it: what it asked is done.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{super::Error, Failed, file};

/// How many calls may wait; then callers wait until they may. As many as one group takes.
const QUEUE: usize = 256;

/// How many calls are taken at once: the first waits while the last one runs.
const GROUP: usize = 256;

/// So long, a note waits for a group to ride on; and so long after it has failed it is tried again.
const SOON: Duration = Duration::from_millis(250);

/// So long, a group is open in which nothing has to be on disk: longer than a handler takes that asks nobody.
const OPEN: Duration = Duration::from_millis(1);

/// The thread, as its callers see it.
#[derive(Debug)]
pub(super) struct Thread {
    /// None once it is being dropped.
    calls: Option<Sender<Queued>>,
    room: Arc<Semaphore>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    pub(super) fn start(db: Connection, unwritten: Arc<dyn Unwritten>) -> Result<Self, file::Error> {
        let (calls, queue) = mpsc::channel();
        let handle = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || serve(&queue, Group::new(&db, &*unwritten)))?;
        Ok(Self { calls: Some(calls), room: Arc::new(Semaphore::new(QUEUE)), handle: Some(handle) })
    }

    /// Calls something that only reads, and nothing of what is unwritten.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        self.call(Asked::Read, work).await
    }

    /// The same, of what was unwritten, too.
    pub(super) async fn read_all<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        self.call(Asked::ReadAll, work).await
    }

    /// Calls something that writes. If it fails, it has written nothing.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        self.call(Asked::Write, work).await
    }

    /// The same, of something that knows what is unwritten.
    pub(super) async fn commit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        self.call(Asked::Commit, work).await
    }

    /// Answers before it writes. What is called from now on finds it written; it is written until it is on disk, and a crash
    /// before that loses it.
    pub(super) async fn ahead<A: Ahead>(&self, work: A) -> Result<A::Answer, Error> {
        let (to, answer) = oneshot::channel();
        self.ask(Asked::Ahead(Box::new(Asking { work, to: Some(to) }))).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Has something written with the next group, or by itself in a moment. Whatever is called from now on finds it, or fails
    /// where it fails; it is tried until it succeeds, and a crash before that loses it.
    pub(super) async fn note(
        &self,
        work: impl Fn(&Connection) -> Result<(), Failed> + Send + 'static,
    ) -> Result<(), Error> {
        self.ask(Asked::Note(Box::new(work))).await
    }

    /// Returns when all that was done ahead and noted is on disk, which it is soon.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        self.call(Asked::Settle, |_| Ok(())).await
    }

    async fn call<T: Send + 'static>(
        &self,
        how: impl FnOnce(Box<dyn Call>) -> Asked,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        let (to, answer) = oneshot::channel();
        self.ask(how(Box::new(Calling { work: Some(work), found: None, to }))).await?;
        answer.await.map_err(|_| gone())?
    }

    async fn ask(&self, asked: Asked) -> Result<(), Error> {
        let room = self.room.clone().acquire_owned().await.map_err(|_| gone())?;
        let calls = self.calls.as_ref().expect("nobody calls what is being dropped");
        calls.send(Queued { asked, _room: room }).map_err(|_| gone())
    }
}

impl Drop for Thread {
    /// Closes the queue, and waits until it is worked off.
    fn drop(&mut self) {
        self.calls = None;
        if let Some(handle) = self.handle.take() {
            // If it panicked, the panic was reported, and its callers were told.
            let _ = handle.join();
        }
    }
}

fn gone() -> Error {
    Error::Storage("the journal's thread has ended".into())
}

/// In the queue.
struct Queued {
    asked: Asked,
    _room: OwnedSemaphorePermit,
}

/// What is asked.
enum Asked {
    Read(Box<dyn Call>),
    ReadAll(Box<dyn Call>),
    Write(Box<dyn Call>),
    Commit(Box<dyn Call>),
    Ahead(Box<dyn Answering>),
    Note(Box<Work>),
    Settle(Box<dyn Call>),
}

/// A call that is run once, and later answered. The types that it works on are its own business.
trait Call: Send {
    /// Whether it succeeded.
    fn run(&mut self, db: &Connection) -> bool;
    /// With what it found, or with why that isn't on disk.
    fn answer(self: Box<Self>, durable: &Result<(), String>);
}

struct Calling<T, W> {
    work: Option<W>,
    found: Option<Result<T, Error>>,
    to: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send, W: FnOnce(&Connection) -> Result<T, Failed> + Send> Call for Calling<T, W> {
    fn run(&mut self, db: &Connection) -> bool {
        self.found = self.work.take().map(|work| work(db).map_err(|failed| failed.0));
        matches!(self.found, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, durable: &Result<(), String>) {
        let answer = match (durable, self.found) {
            (_, Some(Err(error))) => Err(error),
            (Ok(()), Some(found)) => found,
            (Err(reason), _) => Err(Error::Storage(reason.clone())),
            (Ok(()), None) => return,
        };
        // The caller may be gone.
        let _ = self.to.send(answer);
    }
}

/// Something that knows what it will have written before it writes.
pub(super) trait Ahead: Send + 'static {
    type Answer: Send;
    /// Finds that out, and writes nothing.
    fn look(&mut self, db: &Connection) -> Result<Self::Answer, Failed>;
    /// The same each time, but for what time it is.
    fn write(&self, db: &Connection) -> Result<(), Failed>;
}

/// The same, for whoever waits for the answer.
trait Answering: Send {
    /// Whether there is something to be written.
    fn look(&mut self, db: &Connection) -> bool;
    fn refuse(self: Box<Self>, reason: String);
    fn work(self: Box<Self>) -> Box<Work>;
}

struct Asking<A: Ahead> {
    work: A,
    /// None once it was answered.
    to: Option<oneshot::Sender<Result<A::Answer, Error>>>,
}

impl<A: Ahead> Asking<A> {
    fn answer(&mut self, answer: Result<A::Answer, Error>) {
        if let Some(to) = self.to.take() {
            // The caller may be gone.
            let _ = to.send(answer);
        }
    }
}

impl<A: Ahead> Answering for Asking<A> {
    fn look(&mut self, db: &Connection) -> bool {
        let found = self.work.look(db).map_err(|failed| failed.0);
        let succeeded = found.is_ok();
        self.answer(found);
        succeeded
    }

    fn refuse(mut self: Box<Self>, reason: String) {
        self.answer(Err(Error::Storage(reason)));
    }

    fn work(self: Box<Self>) -> Box<Work> {
        let work = self.work;
        Box::new(move |db| work.write(db))
    }
}

/// Something that is done until it is on disk.
type Work = dyn Fn(&Connection) -> Result<(), Failed> + Send;

/// What is written at a group's end.
pub(super) trait Unwritten: Send + Sync + 'static {
    /// Writes it, and forgets it.
    fn write(&self, db: &Connection) -> Result<(), Failed>;
    /// What it comes from was taken back.
    fn forget(&self);
}

fn serve(queue: &Receiver<Queued>, mut group: Group<'_>) {
    loop {
        let first = match group.due {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => queue.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        let first = match first {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let others = std::iter::from_fn(|| queue.try_recv().ok());
        first.into_iter().chain(others).take(GROUP).for_each(|it| group.take(it.asked));
        group.catch_up();
        if group.is_awaited() || group.due.is_some_and(|due| due <= Instant::now()) {
            group.end();
        }
    }
    group.end();
}

/// One transaction, and those who wait for it.
struct Group<'a> {
    db: &'a Connection,
    unwritten: &'a dyn Unwritten,
    /// None before it has begun. An error is one of the whole group.
    state: Option<Result<(), String>>,
    /// Those that are answered at its end.
    calls: Vec<Box<dyn Call>>,
    /// One of them has written.
    wrote: bool,
    /// What is done in each group until one is on disk, in order.
    lasting: Vec<Lasting>,
    /// When it ends though nobody waits for it.
    due: Option<Instant>,
}

struct Lasting {
    work: Box<Work>,
    /// It was answered before.
    ahead: bool,
    /// In the transaction that is open.
    ran: bool,
}

impl<'a> Group<'a> {
    fn new(db: &'a Connection, unwritten: &'a dyn Unwritten) -> Self {
        Self { db, unwritten, state: None, calls: Vec::new(), wrote: false, lasting: Vec::new(), due: None }
    }

    fn take(&mut self, asked: Asked) {
        match asked {
            Asked::Read(call) => {
                self.begin_if_any();
                self.read(call);
            }
            Asked::ReadAll(call) => {
                self.begin_if_any();
                self.write_all();
                self.read(call);
            }
            Asked::Write(call) => {
                self.begin();
                self.write_all();
                self.write(call);
            }
            Asked::Commit(call) => {
                self.begin();
                self.write(call);
            }
            Asked::Ahead(work) => self.ahead(work),
            Asked::Note(work) => self.note(work),
            Asked::Settle(call) => self.settle(call),
        }
    }

    /// Whether somebody waits for what is on disk, or is to be told that nothing will be.
    fn is_awaited(&self) -> bool {
        self.wrote || matches!(self.state, Some(Err(_)))
    }

    /// What is read of what others have written is told when that is on disk; what was done ahead will be.
    fn read(&mut self, mut call: Box<dyn Call>) {
        if self.state.as_ref().is_none_or(Result::is_ok) {
            call.run(self.db);
            if !self.wrote {
                call.answer(&Ok(()));
                self.check();
                return;
            }
            self.check();
        }
        self.calls.push(call);
    }

    fn write(&mut self, mut call: Box<dyn Call>) {
        if self.state == Some(Ok(())) {
            if self.wrote {
                self.state = Some(within(self.db, |db| call.run(db)).map(drop));
            } else {
                let wrote = call.run(self.db);
                self.check();
                if !wrote {
                    self.begin_anew();
                }
            }
        }
        // Though it has failed: it may have taken the others with it.
        self.wrote = true;
        self.calls.push(call);
    }

    /// What was answered before it is written first, since it builds on that; notes wait until its caller has the answer.
    fn ahead(&mut self, mut work: Box<dyn Answering>) {
        self.open();
        if self.lasting.iter().any(|lasting| lasting.ahead && !lasting.ran) {
            self.catch_up();
        }
        if let Some(Err(reason)) = &self.state {
            return work.refuse(reason.clone());
        }
        if work.look(self.db) {
            self.lasting.push(Lasting { work: work.work(), ahead: true, ran: false });
        }
        self.check();
    }

    fn note(&mut self, work: Box<Work>) {
        self.lasting.push(Lasting { work, ahead: false, ran: false });
        self.be_due(SOON);
    }

    fn settle(&mut self, mut call: Box<dyn Call>) {
        call.run(self.db);
        if self.state.is_none() && self.lasting.is_empty() {
            call.answer(&Ok(()));
            return;
        }
        self.be_due(OPEN);
        self.calls.push(call);
    }

    fn open(&mut self) {
        if self.state.is_none() {
            // Not DEFERRED: that another process writes is then met here, and waited for.
            self.state = Some(execute(self.db, "BEGIN IMMEDIATE"));
            self.be_due(OPEN);
        }
    }

    /// Opens the group for what builds on what was noted and done ahead.
    fn begin(&mut self) {
        self.open();
        self.catch_up();
    }

    /// The same for whoever only looks: where there is nothing, no group is opened.
    fn begin_if_any(&mut self) {
        if self.state.is_some() || !self.lasting.is_empty() {
            self.begin();
        }
    }

    /// Does what is to be on disk before all that comes, if the group is open.
    fn catch_up(&mut self) {
        for lasting in self.lasting.iter_mut().filter(|lasting| !lasting.ran) {
            let Some(Ok(())) = self.state else { return };
            let ran = (lasting.work)(self.db);
            lasting.ran = ran.is_ok();
            // Nobody may build on what the others write: a position, say, beyond what this one says.
            self.state = Some(ran.map_err(|reason| reason.0.to_string()).and_then(|()| still_open(self.db)));
        }
    }

    fn write_all(&mut self) {
        if self.state == Some(Ok(())) {
            let written = self.unwritten.write(self.db);
            self.state = Some(written.map_err(|why| why.0.to_string()).and_then(|()| still_open(self.db)));
        }
    }

    /// Whether the transaction is still there, if it was.
    fn check(&mut self) {
        if self.state == Some(Ok(())) {
            self.state = Some(still_open(self.db));
        }
    }

    /// The first that writes has failed, and what was done ahead and noted is done again: nothing else was.
    fn begin_anew(&mut self) {
        roll_back(self.db);
        self.undone();
        self.state = None;
        self.begin();
    }

    fn undone(&mut self) {
        self.unwritten.forget();
        self.lasting.iter_mut().for_each(|lasting| lasting.ran = false);
    }

    fn be_due(&mut self, after: Duration) {
        let then = Instant::now() + after;
        self.due = Some(self.due.map_or(then, |due| due.min(then)));
    }

    /// Commits, or takes all of it back, and answers.
    fn end(&mut self) {
        self.begin_if_any();
        self.write_all();
        let durable = end(self.db, self.state.take());
        match &durable {
            Ok(()) => self.lasting.clear(),
            Err(reason) if !self.lasting.is_empty() => {
                tracing::warn!(target: "parlour", "journal: what came in and what was sent is not on disk yet: {reason}");
            }
            Err(_) => {}
        }
        self.undone();
        self.wrote = false;
        self.due = None;
        if !self.lasting.is_empty() {
            self.be_due(SOON);
        }
        for call in self.calls.drain(..) {
            call.answer(&durable);
        }
    }
}

/// Runs something that writes as one of a group, and answers whether it succeeded. An error is one of the whole group.
fn within(db: &Connection, run: impl FnOnce(&Connection) -> bool) -> Result<bool, String> {
    execute(db, "SAVEPOINT call")?;
    let succeeded = run(db);
    still_open(db)?;
    if !succeeded {
        execute(db, "ROLLBACK TO call")?;
    }
    execute(db, "RELEASE call")?;
    Ok(succeeded)
}

/// SQLite takes a whole transaction back by itself where the disk fails, though somebody only reads: without one, each
/// statement that follows would be a commit.
fn still_open(db: &Connection) -> Result<(), String> {
    if db.is_autocommit() {
        return Err("the storage failed for a call in the same transaction".into());
    }
    Ok(())
}

/// Commits the group, or takes all of it back.
fn end(db: &Connection, state: Option<Result<(), String>>) -> Result<(), String> {
    let Some(state) = state else { return Ok(()) };
    let durable = state.and_then(|()| execute(db, "COMMIT"));
    if durable.is_err() {
        roll_back(db);
    }
    durable
}

fn roll_back(db: &Connection) {
    if !db.is_autocommit() {
        // If even this fails, the next BEGIN does, and says why.
        let _ = execute(db, "ROLLBACK");
    }
}

fn execute(db: &Connection, sql: &str) -> Result<(), String> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.execute([]))
        .map(drop)
        .map_err(|error| error.to_string())
}
