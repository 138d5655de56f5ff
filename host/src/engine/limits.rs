//! What a call may take. Each limit is on by default, with its reason beside it.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::ResourceLimiter;

use crate::settings::CallLimits;

/// What a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time in which the guest runs; waiting in a host call is not charged. Two seconds are hundreds of times
    /// what answering a message takes, and short enough that nobody thinks the agent is dead.
    pub cpu: Duration,
    /// From the call to its end, waiting included: longer than a model writes.
    pub wall: Duration,
    /// Bytes of all memories of an instance together. Python starts with 13 MiB.
    pub memory: usize,
    /// Bytes of a component's file. `CPython` and its library have 18 MiB.
    pub component: usize,
    /// CPU time in which a component is compiled, in whole seconds. A Python one takes some twenty, and several times
    /// that on a small machine.
    pub compile_cpu: Duration,
    /// From the beginning of compiling to its end: a machine may be busy, and others go first.
    pub compile_wall: Duration,
    /// Bytes of memory in which a component is compiled, beside what the compiling program takes itself. A Python one
    /// takes 600 MiB, and more with more cores.
    pub compile_memory: usize,
    /// Bytes of a component's native code: a Python one has 34 MiB.
    pub compiled: usize,
    /// Bytes that a guest may pass in one host call: larger than the largest that a capability takes.
    pub host_call: usize,
    /// Instances at the same time, of all plugins. Those that wait hold one, so that there are many more than
    /// cores.
    pub instances: usize,
    /// Instances at the same time, of one plugin: a busy one leaves room for the others.
    pub instances_per_plugin: usize,
    /// Instances of tools at the same time, beside those: whoever calls a tool holds an instance until it has ended. Of
    /// one plugin's tools as many run as of its other instances.
    pub tools: usize,
    /// Messages, edits and reactions of one plugin in one room, within a minute, where its grants say nothing else; an answer to each event is free: more
    /// than anybody reads, and more than a homeserver takes for long.
    pub messages: NonZeroU32,
    /// How long a host call waits for the journal: thousands of times what it takes, and shorter than a person waits. It
    /// is called again later then.
    pub lookup: Duration,
    /// What clocks of guests are rounded down to: waiting is not more exact, and what others do on the same machine is
    /// not to be measured.
    pub clock: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_secs(2),
            wall: Duration::from_secs(30 * 60),
            memory: 256 * 1024 * 1024,
            component: 64 * 1024 * 1024,
            compile_cpu: Duration::from_secs(180),
            compile_wall: Duration::from_secs(10 * 60),
            compile_memory: 2 * 1024 * 1024 * 1024,
            compiled: 256 * 1024 * 1024,
            host_call: 8 * 1024 * 1024,
            instances: 256,
            instances_per_plugin: 64,
            tools: 128,
            messages: const { NonZeroU32::new(60).expect("it is not zero") },
            lookup: Duration::from_secs(30),
            clock: Duration::from_millis(1),
        }
    }
}

/// The largest memory that an operator can allow.
pub const LARGEST_MEMORY: usize = 1024 * 1024 * 1024;

impl Limits {
    /// Of one plugin: what it wants, as far as that is allowed; the usual, where nobody says anything.
    #[must_use]
    pub fn of(self, wanted: CallLimits, allowed: CallLimits) -> Self {
        fn least<T: Ord + Copy>(wanted: Option<T>, allowed: Option<T>, usual: T) -> T {
            wanted.unwrap_or(usual).min(allowed.unwrap_or(usual))
        }
        let milliseconds = |limits: CallLimits| limits.cpu_ms.map(|cpu| Duration::from_millis(cpu.into()));
        let seconds = |limits: CallLimits| limits.wall_s.map(|wall| Duration::from_secs(wall.into()));
        let bytes = |limits: CallLimits| limits.memory_mib.map(|memory| memory as usize * 1024 * 1024);
        Self {
            cpu: least(milliseconds(wanted), milliseconds(allowed), self.cpu),
            wall: least(seconds(wanted), seconds(allowed), self.wall),
            memory: least(bytes(wanted), bytes(allowed), self.memory).min(LARGEST_MEMORY.max(self.memory)),
            ..self
        }
    }
}

/// Entries of all tables of an instance: `StarlingMonkey` has one of 7,701.
const TABLES: usize = 100_000;

/// Memory and tables of one instance, summed: wasmtime asks for one memory at a time.
#[derive(Debug)]
pub struct Limiter {
    memory: usize,
    left: usize,
    tables: usize,
    /// The last growth of a memory that was allowed, in case it fails.
    last: usize,
    /// A memory was refused: the trap that follows is its consequence.
    pub refused: bool,
}

impl Limiter {
    /// An instance that may have so many bytes.
    pub fn new(memory: usize) -> Self {
        Self { memory, left: memory, tables: TABLES, last: 0, refused: false }
    }

    /// How many bytes it may have.
    pub fn memory(&self) -> usize {
        self.memory
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let Some(left) = self.left.checked_sub(growth) else {
            self.refused = true;
            return Ok(false);
        };
        self.left = left;
        self.last = growth;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.left += std::mem::take(&mut self.last);
        self.refused = true;
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let Some(left) = self.tables.checked_sub(desired.saturating_sub(current)) else { return Ok(false) };
        self.tables = left;
        Ok(true)
    }
}

/// The CPU time that one guest has used, as the system counts it for the thread that runs it: a thread that waits for
/// others to let it run is not charged. The first slice, in which most guests end, is read from a clock that costs less;
/// it is over at the first tick.
#[derive(Debug)]
pub struct Meter {
    born: Instant,
    /// The first slice is over.
    long: AtomicBool,
    /// Nanoseconds of finished slices.
    used: AtomicU64,
    /// When the running slice began, in nanoseconds of the clock that counts it.
    since: AtomicU64,
    budget: Duration,
}

impl Meter {
    /// A guest that may run so long.
    pub fn new(budget: Duration) -> Arc<Self> {
        let (used, since) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { born: Instant::now(), long: AtomicBool::new(false), used, since, budget })
    }

    /// Asked by the running guest itself, on the thread of the slice: the slice counts.
    pub fn is_over(&self) -> bool {
        let slice = self.now().saturating_sub(self.since.load(Relaxed));
        Duration::from_nanos(self.used.load(Relaxed) + slice) > self.budget
    }

    /// What has been used, but for the slice that runs.
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }

    fn now(&self) -> u64 {
        if self.long.load(Relaxed) {
            return thread_time();
        }
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Runs a future on this meter: what passes between its polls is not charged.
    pub async fn measure<F: Future>(self: Arc<Self>, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(move |context: &mut Context<'_>| {
            let start = self.now();
            self.since.store(start, Relaxed);
            let polled: Poll<F::Output> = future.as_mut().poll(context);
            self.used.fetch_add(self.now().saturating_sub(start), Relaxed);
            self.long.store(true, Relaxed);
            polled
        })
        .await
    }
}

/// CPU time of this thread, in nanoseconds.
fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
