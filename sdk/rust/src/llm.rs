//! A language model, as the operator set it up. Needs the grant `llm`.
//!
//! ```no_run
//! # use parlour_plugin::prelude::*;
//! # fn on_message(message: Message) -> Result<Outcome, Error> {
//! let request = llm::Request::new(vec![
//!     llm::Turn::new(llm::Role::System, "Answer in one sentence."),
//!     llm::Turn::new(llm::Role::User, message.text),
//! ]);
//! let mut text = String::new();
//! for piece in &llm::ask(&request)? {
//!     text += &piece?.text;
//!     progress::draft(&Body::Markdown(text.clone()))?;
//! }
//! outbox::markdown(text)?;
//! # Ok(Outcome::Handled)
//! # }
//! ```

use crate::Error;

pub use crate::bindings::imports::parlour::plugin::llm::{Answer, Outcome, Piece, Request, Role, Turn, ask};

impl Turn {
    /// What one side said.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self { role, text: text.into(), extra: None }
    }
}

impl Request {
    /// A request that leaves all else to the operator's settings; the other fields may be set afterwards.
    pub fn new(turns: Vec<Turn>) -> Self {
        Self { turns, model: None, max_tokens: None, temperature: None, extra: None }
    }
}

/// The pieces of an answer, as they come.
pub struct Pieces<'a>(&'a Answer);

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().transpose()
    }
}

impl<'a> IntoIterator for &'a Answer {
    type Item = Result<Piece, Error>;
    type IntoIter = Pieces<'a>;

    fn into_iter(self) -> Pieces<'a> {
        Pieces(self)
    }
}
