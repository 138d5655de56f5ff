//! The thread that owns the connection, and the grouped commit.
//!
//! Calls run in the order in which they were made. From the first that writes on, whatever comes until nothing
//! waits belongs to one group: one transaction, in which each but the first has a savepoint of its own, so that one that
//! fails takes back only what it did. Then one COMMIT, and only then the answers. While the disk is busy with one group,
//! the next one gathers, so groups grow with the load and a lone call waits for nobody.
//!
//! What need not be on disk at once ([`Thread::write_soon`]) rides on the next group. Where none comes it makes one of its own,
//! a moment later, or before the next read: whoever reads finds it.
//!
//! A caller that goes away takes nothing with it: what it asked is done.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{super::Error, Failed, file};

/// How many calls may wait; then callers wait until they may. As many as one group takes.
const QUEUE: usize = 256;

/// How many calls share one transaction, at most: the first waits while the last one runs.
const GROUP: usize = 256;

/// So long, what need not be on disk at once waits for a group to ride on.
const SOON: Duration = Duration::from_millis(250);

/// The thread, as its callers see it.
#[derive(Debug)]
pub(super) struct Thread {
    /// None once it is being dropped.
    calls: Option<mpsc::Sender<Asked>>,
    /// Somebody will say [`Asked::Now`].
    soon: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    pub(super) fn start(db: Connection) -> Result<Self, file::Error> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let handle = std::thread::Builder::new().name("journal".into()).spawn(move || serve(&db, queue))?;
        Ok(Self { calls: Some(calls), soon: Arc::default(), handle: Some(handle) })
    }

    /// Calls something that only reads.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        self.call(false, work).await
    }

    /// Calls something that writes. If it fails, it has written nothing.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        self.call(true, work).await
    }

    /// Has something written with the next group, or by itself in a moment. Whatever is called from now on finds it, or fails
    /// where it fails; it is tried until it succeeds, and a crash before that loses it.
    pub(super) async fn write_soon(
        &self,
        work: impl Fn(&Connection) -> Result<(), Failed> + Send + 'static,
    ) -> Result<(), Error> {
        let calls = self.calls.as_ref().expect("nobody calls what is being dropped");
        calls.send(Asked::Soon(Later { work: Box::new(work), ran: false })).await.map_err(|_| gone())?;
        if !self.soon.swap(true, Relaxed) {
            let (calls, soon) = (calls.downgrade(), self.soon.clone());
            tokio::spawn(async move {
                tokio::time::sleep(SOON).await;
                soon.store(false, Relaxed);
                // Whoever drops the thread has it all written.
                if let Some(calls) = calls.upgrade() {
                    // Where there is no room, there is something to ride on.
                    let _ = calls.try_send(Asked::Now);
                }
            });
        }
        Ok(())
    }

    async fn call<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        let (to, answer) = oneshot::channel();
        let call = Box::new(Calling { writes, work: Some(work), found: None, to });
        let calls = self.calls.as_ref().expect("nobody calls what is being dropped");
        calls.send(Asked::Call(call)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
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

/// What is in the queue.
enum Asked {
    Call(Box<dyn Call>),
    Soon(Later),
    /// What was to be written soon has waited for long enough.
    Now,
}

type Work = dyn Fn(&Connection) -> Result<(), Failed> + Send;

/// Something that is to be written soon.
struct Later {
    work: Box<Work>,
    /// In the transaction that is open.
    ran: bool,
}

/// A call in the queue: it is run, and later answered. The types that it works on are its own business.
trait Call: Send {
    fn writes(&self) -> bool;
    /// Whether it succeeded.
    fn run(&mut self, db: &Connection) -> bool;
    /// With what it found, or with why that isn't on disk.
    fn answer(self: Box<Self>, durable: &Result<(), String>);
}

struct Calling<T, W> {
    writes: bool,
    work: Option<W>,
    found: Option<Result<T, Error>>,
    to: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send, W: FnOnce(&Connection) -> Result<T, Failed> + Send> Call for Calling<T, W> {
    fn writes(&self) -> bool {
        self.writes
    }

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

fn serve(db: &Connection, mut queue: mpsc::Receiver<Asked>) {
    let mut later = Vec::new();
    let mut behind = false;
    while let Some(first) = next(&mut queue, behind) {
        let mut group = Group::new(db);
        let mut next = Some(first);
        while let Some(asked) = next {
            match asked {
                Asked::Call(mut call) if group.state.is_none() && later.is_empty() && !call.writes() => {
                    call.run(db);
                    call.answer(&Ok(()));
                }
                Asked::Call(call) => group.take(call, &mut later),
                Asked::Soon(one) => {
                    later.push(one);
                    group.catch_up(&mut later);
                }
                Asked::Now if later.is_empty() => {}
                Asked::Now => group.begin(&mut later),
            }
            next = if group.calls.len() < GROUP { queue.try_recv().ok() } else { None };
        }
        behind = group.end(&mut later);
    }
    let mut last = Group::new(db);
    if !later.is_empty() {
        last.begin(&mut later);
        last.end(&mut later);
    }
}

/// What is asked next. Where something was to be written soon and could not be, it is tried again though nobody asks.
fn next(queue: &mut mpsc::Receiver<Asked>, behind: bool) -> Option<Asked> {
    if !behind {
        return queue.blocking_recv();
    }
    std::thread::sleep(SOON);
    match queue.try_recv() {
        Ok(asked) => Some(asked),
        Err(TryRecvError::Empty) => Some(Asked::Now),
        Err(TryRecvError::Disconnected) => None,
    }
}

/// One transaction, and those who wait for it.
struct Group<'a> {
    db: &'a Connection,
    calls: Vec<Box<dyn Call>>,
    /// None before it has begun. An error is one of the whole group.
    state: Option<Result<(), String>>,
    /// One of the calls has written.
    wrote: bool,
}

impl<'a> Group<'a> {
    fn new(db: &'a Connection) -> Self {
        Self { db, calls: Vec::new(), state: None, wrote: false }
    }

    fn begin(&mut self, later: &mut [Later]) {
        if self.state.is_none() {
            // Not DEFERRED: that another process writes is then met here, and waited for.
            self.state = Some(execute(self.db, "BEGIN IMMEDIATE"));
            self.catch_up(later);
        }
    }

    /// What was to be written soon rides along.
    fn catch_up(&mut self, later: &mut [Later]) {
        for one in later.iter_mut().filter(|one| !one.ran) {
            let Some(Ok(())) = self.state else { return };
            let ran = (one.work)(self.db);
            one.ran = ran.is_ok();
            // Nobody may build on what the others write: a position, say, beyond what this one says.
            self.state = Some(ran.map_err(|reason| reason.0.to_string()).and_then(|()| still_open(self.db)));
        }
    }

    fn take(&mut self, mut call: Box<dyn Call>, later: &mut [Later]) {
        self.begin(later);
        if self.state == Some(Ok(())) {
            if !call.writes() {
                call.run(self.db);
                self.state = Some(still_open(self.db));
            } else if self.wrote {
                self.state = Some(within(self.db, |db| call.run(db)).map(drop));
            } else if call.run(self.db) {
                self.wrote = true;
                self.state = Some(still_open(self.db));
            } else {
                self.begin_anew(later);
            }
        }
        self.calls.push(call);
    }

    /// The first that writes has failed, and there is nothing to be kept beside what was to be written soon, which is again.
    fn begin_anew(&mut self, later: &mut [Later]) {
        roll_back(self.db);
        for one in &mut *later {
            one.ran = false;
        }
        self.state = None;
        self.begin(later);
    }

    /// Commits, or takes all of it back, and answers. Answers itself whether something was to be written soon and was not.
    fn end(self, later: &mut Vec<Later>) -> bool {
        let Some(state) = self.state else { return false };
        let durable = end(self.db, state);
        if durable.is_ok() {
            later.retain(|one| !one.ran);
        }
        if let (Err(reason), false) = (&durable, later.is_empty()) {
            tracing::warn!(target: "parlour", "journal: what became of effects is not noted yet: {reason}");
        }
        for one in &mut *later {
            one.ran = false;
        }
        for call in self.calls {
            call.answer(&durable);
        }
        durable.is_err() && !later.is_empty()
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
fn end(db: &Connection, state: Result<(), String>) -> Result<(), String> {
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
