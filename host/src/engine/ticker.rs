//! Makes running guests look up, once in a millisecond. It sleeps while none has run for a second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::Duration,
};

use wasmtime::Engine;

/// What others wait at the most while a guest has their thread.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without a guest after which the ticker sleeps: waking it costs more than some ticks.
const IDLE: u32 = 1000;

/// The thread that ticks.
pub struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
}

/// While it is there, the engine's epoch rises.
pub struct Ticking<'a>(&'a Shared);

impl Ticker {
    /// Starts the thread, which ends with the engine.
    ///
    /// # Errors
    /// One line, where there can be no thread.
    pub fn start(engine: &Engine) -> Result<Self, String> {
        let shared = Arc::<Shared>::default();
        let (engine, ticking) = (engine.weak(), shared.clone());
        let tick = move || {
            let mut idle = 0;
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
                idle = if ticking.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
                if idle > IDLE {
                    idle = 0;
                    ticking.asleep.store(true, SeqCst);
                    // A guest that has begun since has seen that we sleep, or is seen here.
                    while ticking.asleep.load(SeqCst) && ticking.running.load(SeqCst) == 0 {
                        thread::park();
                    }
                    ticking.asleep.store(false, SeqCst);
                }
            }
        };
        let thread = thread::Builder::new().name("parlour-ticks".into()).spawn(tick);
        let thread = thread.map_err(|error| format!("a thread: {error}"))?.thread().clone();
        Ok(Self { shared, thread })
    }

    /// Ticks until what it answers is dropped.
    pub fn tick(&self) -> Ticking<'_> {
        self.shared.running.fetch_add(1, SeqCst);
        if self.shared.asleep.swap(false, SeqCst) {
            self.thread.unpark();
        }
        Ticking(&self.shared)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    /// The thread finds the engine gone.
    fn drop(&mut self) {
        self.shared.running.fetch_add(1, SeqCst);
        self.thread.unpark();
    }
}
