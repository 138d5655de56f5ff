//! Answers of the model that are written down when they end, and those that were.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::json;

use super::{Answer, Failure, Outcome, Piece, Request, soon, told};
use crate::{
    answers::{self, Ended, Fact, Key, Kind, Told},
    capability::{
        answers::{Alive, Recorder, kept},
        types::Error,
    },
    text::escaped,
};

/// How much of a question is shown to somebody who looks at the past.
const WORDS: usize = 80;
/// What a piece costs beside its text.
const PIECE: usize = 64;

/// A digest of all that a request says.
pub fn digest(request: &Request) -> [u8; 32] {
    let Request { turns, model, max_tokens, temperature, extra } = request;
    let turns: Vec<_> = turns.iter().map(|turn| json!([turn.role, turn.text, turn.extra])).collect();
    let all = json!([turns, model, max_tokens, temperature, extra]);
    answers::digest([all.to_string().as_bytes()])
}

/// A request for somebody who looks at the past.
pub fn words(request: &Request) -> String {
    let last = request.turns.last().map(|turn| turn.text.as_str()).unwrap_or_default();
    format!("llm: {}", escaped(last, WORDS))
}

/// The model does not answer: that is noted, and answered.
pub async fn unanswered(record: &Recorder, key: Key, at: i64, words: String, error: Error) -> Error {
    record.came(at);
    let fact = Fact::Unanswered { request: words, error: kept(&error) };
    record.learn(key, at, fact, vec![]).await;
    error
}

/// An answer that is being written, by the model and by us.
pub struct Recording {
    answer: Box<dyn Answer>,
    record: Arc<Recorder>,
    alive: Alive,
    key: Key,
    words: String,
    at: i64,
    pieces: Vec<(String, String)>,
    /// Bytes of them.
    size: usize,
    /// It is written down, or never will be.
    over: bool,
}

impl Recording {
    pub fn new(
        answer: Box<dyn Answer>,
        record: Arc<Recorder>,
        alive: Alive,
        key: Key,
        words: String,
    ) -> Self {
        let at = record.now();
        record.came(at);
        Self { answer, record, alive, key, words, at, pieces: vec![], size: 0, over: false }
    }

    fn fact(&mut self, ended: Option<Ended>, broke: Option<Told>) -> Fact {
        self.over = true;
        let (request, pieces) = (std::mem::take(&mut self.words), self.pieces());
        Fact::Llm { request, pieces, ended, broke }
    }

    /// What has come, which is held here no longer.
    fn pieces(&mut self) -> Vec<(String, String)> {
        self.record.has_come(std::mem::take(&mut self.size));
        std::mem::take(&mut self.pieces)
    }
}

#[async_trait]
impl Answer for Recording {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        let next = soon(self.answer.next()).await;
        match &next {
            Ok(Some(piece)) if !self.over => {
                let extra =
                    if piece.extra.is_empty() { String::new() } else { json!(piece.extra).to_string() };
                let size = piece.text.len() + extra.len() + PIECE;
                if self.record.comes(size).await {
                    self.size += size;
                    self.pieces.push((piece.text.clone(), extra));
                } else {
                    self.over = true;
                    drop(self.pieces());
                    self.record.leave(&self.key);
                }
            }
            Ok(None) if !self.over => {
                let ended = self.answer.outcome().map(|outcome| Ended {
                    finish_reason: outcome.finish_reason,
                    prompt_tokens: outcome.prompt_tokens,
                    completion_tokens: outcome.completion_tokens,
                });
                let fact = self.fact(Some(ended.unwrap_or_else(unsaid)), None);
                self.record.learn(self.key, self.at, fact, vec![]).await;
            }
            Err(failure) if !self.over => {
                let fact = self.fact(None, Some(kept(&told(failure))));
                self.record.learn(self.key, self.at, fact, vec![]).await;
            }
            _ => {}
        }
        next
    }

    fn outcome(&self) -> Option<Outcome> {
        self.answer.outcome()
    }
}

fn unsaid() -> Ended {
    Ended { finish_reason: String::new(), prompt_tokens: None, completion_tokens: None }
}

impl Drop for Recording {
    /// The guest wanted no more of it, and maybe nothing: then it was not under way any more.
    fn drop(&mut self) {
        if !self.over && self.alive.is() {
            let fact = self.fact(None, None);
            self.record.learn_soon(self.key, self.at, fact, vec![]);
        }
        drop(self.pieces());
    }
}

/// An answer that was recorded.
pub struct Recorded {
    pieces: VecDeque<(String, String)>,
    ended: Option<Ended>,
    broke: Option<Told>,
    over: bool,
}

impl Recorded {
    pub fn new(pieces: Vec<(String, String)>, ended: Option<Ended>, broke: Option<Told>) -> Self {
        Self { pieces: pieces.into(), ended, broke, over: false }
    }
}

/// As the guest will see it.
fn given(told: &Told) -> Failure {
    let message = told.message.clone().unwrap_or_default();
    match told.kind {
        Kind::Invalid => Failure::Invalid(message),
        Kind::RateLimited => {
            let retry_after = told.retry_after.map(|after| Duration::from_millis(after.into()));
            Failure::RateLimited { retry_after }
        }
        Kind::Timeout => Failure::Timeout,
        Kind::TooLarge => Failure::TooLarge(message),
        _ => Failure::Unavailable(message),
    }
}

#[async_trait]
impl Answer for Recorded {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        if let Some((text, extra)) = self.pieces.pop_front() {
            return Ok(Some(Piece { text, extra: serde_json::from_str(&extra).unwrap_or_default() }));
        }
        self.over = true;
        match (&self.ended, &self.broke) {
            (Some(_), _) => Ok(None),
            (None, Some(told)) => Err(given(told)),
            (None, None) => Err(Failure::Unavailable("no more of this answer was kept".into())),
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        let ended = self.ended.as_ref().filter(|_| self.over)?;
        (!ended.finish_reason.is_empty()).then(|| Outcome {
            finish_reason: ended.finish_reason.clone(),
            prompt_tokens: ended.prompt_tokens,
            completion_tokens: ended.completion_tokens,
        })
    }
}
