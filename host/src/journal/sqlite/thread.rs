//! The thread that owns the connection, and the grouped commit.
//!
//! Calls run in the order in which they were made. From the first that writes on, whatever comes until nothing
//! waits belongs to one group: one transaction, in which each has a savepoint of its own, so that one that fails
//! takes back only what it did. Then one COMMIT, and only then the answers. While the disk is busy with one group,
//! the next one gathers, so groups grow with the load and a lone call waits for nobody.
//!
//! A caller that goes away takes nothing with it: what it asked is done.

use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{super::Error, Failed, file};

/// How many calls may wait; then callers wait until they may. As many as one group takes.
const QUEUE: usize = 256;

/// How many calls share one transaction, at most: the first waits while the last one runs.
const GROUP: usize = 256;

/// The thread, as its callers see it.
#[derive(Debug)]
pub(super) struct Thread {
    /// None once it is being dropped.
    calls: Option<mpsc::Sender<Box<dyn Call>>>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    pub(super) fn start(db: Connection) -> Result<Self, file::Error> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let handle = std::thread::Builder::new().name("journal".into()).spawn(move || serve(&db, queue))?;
        Ok(Self { calls: Some(calls), handle: Some(handle) })
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

    async fn call<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Error> {
        let (to, answer) = oneshot::channel();
        let call = Box::new(Calling { writes, work: Some(work), found: None, to });
        let calls = self.calls.as_ref().expect("nobody calls what is being dropped");
        calls.send(call).await.map_err(|_| gone())?;
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

fn serve(db: &Connection, mut queue: mpsc::Receiver<Box<dyn Call>>) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = Vec::new();
        let mut state = Ok(());
        let mut next = Some(first);
        while let Some(mut call) = next {
            if group.is_empty() && !call.writes() {
                call.run(db);
                call.answer(&Ok(()));
            } else {
                if state.is_ok() {
                    state = join(db, group.is_empty(), call.as_mut());
                }
                group.push(call);
            }
            next = if group.len() < GROUP { queue.try_recv().ok() } else { None };
        }
        if !group.is_empty() {
            let durable = end(db, state);
            for call in group {
                call.answer(&durable);
            }
        }
    }
}

/// Runs a call as one of the group. An error is one of the whole group.
fn join(db: &Connection, first: bool, call: &mut dyn Call) -> Result<(), String> {
    if first {
        // Not DEFERRED: that another process writes is then met here, and waited for.
        execute(db, "BEGIN IMMEDIATE")?;
    }
    if !call.writes() {
        call.run(db);
        return Ok(());
    }
    execute(db, "SAVEPOINT call")?;
    if !call.run(db) {
        if db.is_autocommit() {
            return Err("the storage failed for a call in the same transaction".into());
        }
        execute(db, "ROLLBACK TO call")?;
    }
    execute(db, "RELEASE call")
}

/// Commits the group, or takes all of it back.
fn end(db: &Connection, state: Result<(), String>) -> Result<(), String> {
    let durable = state.and_then(|()| execute(db, "COMMIT"));
    if durable.is_err() && !db.is_autocommit() {
        // If even this fails, the next group's BEGIN does, and says why.
        let _ = execute(db, "ROLLBACK");
    }
    durable
}

fn execute(db: &Connection, sql: &str) -> Result<(), String> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.execute([]))
        .map(drop)
        .map_err(|error| error.to_string())
}
