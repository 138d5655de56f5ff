//! Who may do what: one pure function.

use serde::{Deserialize, Serialize};

/// What the gate says of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// It may not, and why; nothing of it is seen by a person.
    Deny(Denial),
}

/// Why an event may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Denial {
    /// The agent's own.
    Own,
    /// The sender is on no list.
    NotListed,
    /// Not addressed to the agent, where it has to be.
    NotAddressed,
    /// An edit.
    Edit,
    /// A notice.
    Notice,
    /// The room is not one that the agent serves.
    Room,
}
