//! Kills at the steps that no host sees.

use std::sync::{Arc, Mutex, PoisonError};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A host that dies when it has come so many times to a step that only its server sees.
#[derive(Clone, Default)]
pub struct Ambush(Arc<Mutex<Option<Set>>>);

struct Set {
    process: Pid,
    step: String,
    left: u32,
}

impl Ambush {
    /// Waits for a process at a step.
    pub fn set(&self, process: u32, step: &str, nth: u32) {
        let set = Set { process: Pid::from_raw(process.cast_signed()), step: step.into(), left: nth };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(set);
    }

    /// Waits for nobody.
    pub fn take_away(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A host has come to it. Answers whether it is dead now.
    pub fn met(&self, step: &str) -> bool {
        let mut ambush = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(set) = ambush.as_mut().filter(|set| set.step == step) else { return false };
        set.left -= 1;
        if set.left > 0 {
            return false;
        }
        // It may have died before.
        kill(set.process, Signal::SIGKILL).ok();
        *ambush = None;
        true
    }
}
