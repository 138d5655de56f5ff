//! `llm`: a language model. The guest sees neither the endpoint nor the key.

pub mod openai;
mod recorded;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use wasmtime::component::Resource;

use super::{
    Handling, State, answers,
    bindings::parlour::plugin::llm as wit,
    error,
    types::{Error, ErrorKind},
};
use crate::{
    answers::{Entry, Fact},
    id::AgentName,
    manifest::Permission,
    rate::Budgets,
    settings::InFlight,
};

/// Text of one request.
const REQUEST: usize = 1024 * 1024;
/// Requests of one delivery: more is a loop.
const REQUESTS: u32 = 64;
/// Answers of one delivery that are being written at once: each is a connection.
const OPEN: usize = 8;

/// How long an answer may be on its way, and each piece of it, where a backend has no shorter time of its own: half of what
/// a call may take.
const WITHIN: Duration = Duration::from_secs(15 * 60);

/// Something that answers: an endpoint, or a script in a test.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Sends a request, and returns when the answer begins. Dropping the answer ends the request.
    ///
    /// # Errors
    /// [`Failure`], as the guest shall see it.
    async fn ask(&self, request: Request) -> Result<Box<dyn Answer>, Failure>;
}

/// An answer that is being written.
#[async_trait]
pub trait Answer: Send + Sync {
    /// Waits for the next piece; none at the end.
    ///
    /// # Errors
    /// [`Failure`], as the guest shall see it.
    async fn next(&mut self) -> Result<Option<Piece>, Failure>;
    /// How it ended; none before the end.
    fn outcome(&self) -> Option<Outcome>;
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "as in wit/llm.wit")]
pub struct Request {
    pub turns: Vec<Turn>,
    pub model: Option<String>,
    pub max_tokens: Option<u32>,
    pub temperature: Option<f32>,
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// What somebody said.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "as in wit/llm.wit")]
pub struct Turn {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    pub text: String,
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "as in wit/llm.wit")]
pub struct Piece {
    pub text: String,
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "as in wit/llm.wit")]
pub struct Outcome {
    pub finish_reason: String,
    pub prompt_tokens: Option<u32>,
    pub completion_tokens: Option<u32>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the words of wit/types.wit")]
pub enum Failure {
    #[error("{0}")]
    Invalid(String),
    #[error("the model is asked too often")]
    RateLimited { retry_after: Option<Duration> },
    #[error("{0}")]
    Unavailable(String),
    #[error("the model is silent")]
    Timeout,
    #[error("{0}")]
    TooLarge(String),
}

/// What a plugin has used of the model, by agent.
pub type Tokens = Mutex<Budgets<AgentName>>;
/// Where an endpoint does not count: bytes of text that are one token, at the least.
const TOKEN: u64 = 3;

/// What stands behind the guest's `answer`.
pub struct Answering {
    answer: Box<dyn Answer>,
    /// Bytes of text, both ways.
    text: u64,
    budget: Option<Budget>,
}

/// What an answer is charged to, however it ends.
struct Budget {
    tokens: Arc<Tokens>,
    agent: AgentName,
    per_day: NonZeroU32,
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Some(Budget { tokens, agent, per_day }) = self.budget.take() else { return };
        let counted = self.answer.outcome().and_then(|outcome| {
            Some(u64::from(outcome.prompt_tokens?) + u64::from(outcome.completion_tokens?))
        });
        let used = counted.unwrap_or_else(|| self.text.div_ceil(TOKEN));
        let mut tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.charge(agent, used, per_day, Instant::now());
    }
}

type Reply<T> = wasmtime::Result<Result<T, Error>>;

impl wit::Host for State {
    async fn ask(&mut self, request: wit::Request) -> Reply<Resource<Answering>> {
        let admitted = match self.admitted(request) {
            Ok(admitted) => admitted,
            Err(error) => return Ok(Err(error)),
        };
        match self.answered(admitted).await {
            Ok(answer) => {
                self.work.answering += 1;
                Ok(Ok(self.table.push(answer)?))
            }
            Err(error) => Ok(Err(error)),
        }
    }
}

/// A request that may be made.
struct Admitted {
    backend: Arc<dyn Backend>,
    request: Request,
    /// Its bytes of text.
    text: u64,
}

impl State {
    /// A request that may be made, and of whom.
    fn admitted(&mut self, request: wit::Request) -> Result<Admitted, Error> {
        // A name that a guest makes up may say anything: it is not recorded.
        let model = request.model.as_deref();
        let call = if model.is_some() { "llm.ask of a model by name" } else { "llm.ask" };
        self.may(Permission::Llm, call, |permissions| permissions.model(model))?;
        self.leaves(Permission::Llm, "llm.ask")?;
        let text = size(&request);
        if text > REQUEST {
            return Err(error(ErrorKind::TooLarge, "a request has at most 1 MiB"));
        }
        let request = read(request)?;
        let handling = self.handling()?;
        let unsupported = || error(ErrorKind::Unsupported, "no language model is set up");
        let backend = handling.llm.clone().ok_or_else(unsupported)?;
        if self.work.answering >= OPEN {
            return Err(error(ErrorKind::TooLarge, "at most 8 answers are open at once; drop one"));
        }
        Ok(Admitted { backend, request, text: text as u64 })
    }

    /// The answer that was recorded, which was charged then, or a new one.
    async fn answered(&mut self, admitted: Admitted) -> Result<Answering, Error> {
        let Admitted { backend, request, text } = admitted;
        let Handling { record, path, spent, .. } = self.handling()?;
        let again = !record.replays() && self.in_flight != Some(InFlight::Fail);
        let words = recorded::words(&request);
        record.requests();
        let (key, found) = record.ask(path, "llm", &recorded::digest(&request));
        match found {
            Some(Entry { at, fact: Fact::Llm { pieces, ended, broke, .. }, .. }) => {
                record.came(at);
                let answer = Box::new(recorded::Recorded::new(pieces, ended, broke));
                return Ok(Answering { answer, text, budget: None });
            }
            Some(Entry { at, fact: Fact::Unanswered { error, .. }, .. }) => {
                record.came(at);
                return Err(answers::given(error));
            }
            Some(Entry { at, fact: Fact::Begun { .. }, .. }) if !again => {
                let lost = error(ErrorKind::Internal, answers::LOST);
                return Err(recorded::unanswered(record, key, at, words, lost).await);
            }
            _ => {}
        }
        if record.is_past(&words) {
            return Err(error(ErrorKind::Unavailable, "this was never asked"));
        }
        let budget = match self.budget() {
            Ok(budget) => budget,
            // Another time there may be some. It cost nothing to ask, and may be asked often.
            Err(none) => {
                record.keep(key, Fact::Unanswered { request: words, error: answers::kept(&none) });
                return Err(none);
            }
        };
        if spent.llm.fetch_add(1, Relaxed) >= REQUESTS {
            return Err(error(ErrorKind::TooLarge, "one delivery asks the model at most 64 times"));
        }
        let noted = Fact::Begun { request: words.clone(), changes: false };
        record.learn(key, record.now(), noted, vec![]).await;
        let answer = match soon(backend.ask(request)).await {
            Ok(answer) => answer,
            Err(failure) => {
                let failed = recorded::unanswered(record, key, record.now(), words, told(&failure));
                return Err(failed.await);
            }
        };
        let alive = self.alive.clone();
        let answer = Box::new(recorded::Recording::new(answer, record.clone(), alive, key, words));
        Ok(Answering { answer, text, budget })
    }

    /// What an answer will be charged to, where the plugin has a budget and something is left of it.
    fn budget(&self) -> Result<Option<Budget>, Error> {
        let Handling { agent, permissions, .. } = self.handling()?;
        let Some(per_day) = permissions.tokens_per_day() else { return Ok(None) };
        let left = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).left(agent, Instant::now());
        left.map_err(|wait| {
            let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            let line = format!("this plugin may use {per_day} tokens within a day, and has");
            Error { retry_after: Some(wait), ..error(ErrorKind::RateLimited, line) }
        })?;
        Ok(Some(Budget { tokens: self.tokens.clone(), agent: agent.clone(), per_day }))
    }
}

/// Bytes of a request's text.
fn size(request: &wit::Request) -> usize {
    let length = |extra: &Option<String>| extra.as_ref().map_or(0, String::len);
    let turns = request.turns.iter().map(|turn| turn.text.len() + length(&turn.extra));
    turns.sum::<usize>() + length(&request.extra)
}

impl wit::HostAnswer for State {
    async fn next(&mut self, answer: Resource<Answering>) -> Reply<Option<wit::Piece>> {
        let answering = self.table.get_mut(&answer)?;
        let next = answering.answer.next().await;
        let piece = |piece: Piece| {
            let piece = wit::Piece { text: piece.text, extra: extra(&piece.extra) };
            answering.text += (piece.text.len() + piece.extra.as_ref().map_or(0, String::len)) as u64;
            piece
        };
        Ok(next.map(|next| next.map(piece)).map_err(|failure| told(&failure)))
    }

    async fn outcome(&mut self, answer: Resource<Answering>) -> wasmtime::Result<Option<wit::Outcome>> {
        Ok(self.table.get(&answer)?.answer.outcome().map(|outcome| wit::Outcome {
            finish_reason: outcome.finish_reason,
            prompt_tokens: outcome.prompt_tokens,
            completion_tokens: outcome.completion_tokens,
            extra: None,
        }))
    }

    async fn drop(&mut self, answer: Resource<Answering>) -> wasmtime::Result<()> {
        self.table.delete(answer)?;
        self.work.answering -= 1;
        Ok(())
    }
}

async fn soon<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(WITHIN, answer).await.unwrap_or(Err(Failure::Timeout))
}

fn read(request: wit::Request) -> Result<Request, Error> {
    let turns = request.turns.into_iter().map(|turn| {
        let role = match turn.role {
            wit::Role::System => "system",
            wit::Role::User => "user",
            wit::Role::Assistant => "assistant",
            wit::Role::Tool => "tool",
        };
        Ok(Turn { role, text: turn.text, extra: object(turn.extra)? })
    });
    Ok(Request {
        turns: turns.collect::<Result<_, Error>>()?,
        model: request.model,
        max_tokens: request.max_tokens,
        temperature: request.temperature,
        extra: object(request.extra)?,
    })
}

fn object(text: Option<String>) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let Some(text) = text else { return Ok(serde_json::Map::new()) };
    serde_json::from_str(&text)
        .map_err(|reason| error(ErrorKind::Invalid, format!("`extra` is no JSON object: {reason}")))
}

fn extra(object: &serde_json::Map<String, serde_json::Value>) -> Option<String> {
    (!object.is_empty()).then(|| serde_json::Value::Object(object.clone()).to_string())
}

fn told(failure: &Failure) -> Error {
    let kind = match failure {
        Failure::Invalid(_) => ErrorKind::Invalid,
        Failure::RateLimited { .. } => ErrorKind::RateLimited,
        Failure::Unavailable(_) => ErrorKind::Unavailable,
        Failure::Timeout => ErrorKind::Timeout,
        Failure::TooLarge(_) => ErrorKind::TooLarge,
    };
    let retry_after = match failure {
        Failure::RateLimited { retry_after } => {
            retry_after.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX))
        }
        _ => None,
    };
    Error { retry_after, ..error(kind, failure.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_model() {
        let silent = soon(std::future::pending::<Result<(), Failure>>());
        assert_eq!(silent.await, Err(Failure::Timeout));
    }
}
