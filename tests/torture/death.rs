//! Where a host dies.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// The steps that no host sees: somebody else kills it there.
pub const COMING: &str = "coming";
pub const ACCEPTED: &str = "accepted";

/// The steps of an event at which a host may die, in the order in which it meets them.
pub const STEPS: [&str; 11] = [
    // The server has said what is new, and it is on its way, or being stored by the chat (matrix-sdk's keys are).
    COMING,
    // All that the chat stores is stored, and nothing is in the journal.
    "received",
    // It is stored with its position, and nothing is begun.
    "stored",
    // The handler is about to begin.
    "started",
    // In a host call of the handler's.
    "host call",
    // The handler has returned, and nothing is committed.
    "ended",
    // It is committed, and nothing is sent.
    "committed",
    // An effect is about to be sent.
    "sending",
    // The server has it, and the answer is not here.
    ACCEPTED,
    // The answer is here, and not noted.
    "answered",
    // It is noted, on disk.
    "noted",
];

/// The step at which it is, and how often that step is passed before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub step: String,
    pub nth: u32,
}

/// One life's death.
#[derive(Debug, Default)]
pub struct Death {
    plan: Option<Plan>,
    passed: Mutex<HashMap<&'static str, u32>>,
}

impl Death {
    pub fn new(plan: Option<Plan>) -> Self {
        Self { plan, passed: Mutex::default() }
    }

    /// Whether this step is to be the last one.
    pub fn dies_at(&self, step: &str) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.step == step)
    }

    /// A step: the last one, where it is planned so.
    pub fn at(&self, step: &'static str) {
        debug_assert!(STEPS.contains(&step), "{step}");
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = passed.entry(step).or_default();
        *count += 1;
        if self.plan.as_ref().is_some_and(|plan| plan.step == step && plan.nth == *count) {
            kill(Pid::this(), Signal::SIGKILL).expect("it is this process");
            // No instruction of this process comes after it, but for this one perhaps.
            loop {
                std::thread::park();
            }
        }
    }
}
