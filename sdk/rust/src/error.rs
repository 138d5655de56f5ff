//! Saying what went wrong.

use crate::{Error, ErrorKind};

impl Error {
    /// An error of this kind. The message is one line for a person or a log, in lower case and without a
    /// period; whoever wrote a command is shown that of `invalid`, `denied` and `not-found`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, code: None, message: Some(message.into()), retry_after: None, extra: None }
    }

    /// The caller's mistake: an argument that cannot be used.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Not allowed to this person.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Denied, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Something cannot be reached for now: the host runs the handler again later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// None of the kinds that have a name.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Other, message)
    }

    /// Adds a short stable word that says it more exactly.
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Says in how many milliseconds the host may run the handler again, for `unavailable` and
    /// `rate-limited`.
    pub fn retry_after(mut self, milliseconds: u32) -> Self {
        self.retry_after = Some(milliseconds);
        self
    }
}
