//! An OpenAI-compatible endpoint: `POST …/chat/completions` with `stream: true`, answered by server-sent events.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::{Client, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, Backend, Failure, Outcome, Piece, Request};

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// All text of one answer: many times what a model can say.
const ANSWER: usize = 4 * 1024 * 1024;
/// All bytes of one answer: an endpoint says some 300 for a word.
const STREAM: usize = 64 * 1024 * 1024;

/// An endpoint with its key.
pub struct OpenAi {
    client: Client,
    url: String,
    key: Option<String>,
    model: String,
    idle: Duration,
}

impl OpenAi {
    /// An endpoint: `url` is what stands before `/chat/completions`, and `idle` how long it may be silent.
    ///
    /// # Errors
    /// One line, where `url` is no http or https address.
    pub fn new(url: &str, key: Option<String>, model: String, idle: Duration) -> Result<Self, String> {
        let parsed = reqwest::Url::parse(url).map_err(|error| format!("llm.url: {url:?}: {error}"))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(format!("llm.url: {url:?} is neither http nor https"));
        }
        let client = Client::builder()
            .connect_timeout(CONNECT)
            // A redirect would carry the words to where the operator did not send them.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| format!("llm: {error}"))?;
        Ok(Self { client, url: format!("{}/chat/completions", url.trim_end_matches('/')), key, model, idle })
    }

    fn body(&self, request: Request) -> Value {
        let turn = |turn: super::Turn| {
            let mut object = turn.extra;
            object.insert("role".into(), turn.role.into());
            object.insert("content".into(), turn.text.into());
            Value::Object(object)
        };
        let mut body = request.extra;
        // What some endpoints take in the place of `model`, and what would be charged several times.
        for key in ["models", "n", "best_of", "fallbacks", "route", "provider"] {
            body.remove(key);
        }
        body.insert("model".into(), request.model.unwrap_or_else(|| self.model.clone()).into());
        body.insert("messages".into(), request.turns.into_iter().map(turn).collect());
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({ "include_usage": true }));
        if let Some(tokens) = request.max_tokens {
            body.insert("max_tokens".into(), tokens.into());
        }
        if let Some(temperature) = request.temperature {
            body.insert("temperature".into(), f64::from(temperature).into());
        }
        Value::Object(body)
    }
}

#[async_trait]
impl Backend for OpenAi {
    async fn ask(&self, request: Request) -> Result<Box<dyn Answer>, Failure> {
        let mut post = self.client.post(&self.url).json(&self.body(request));
        if let Some(key) = &self.key {
            post = post.bearer_auth(key);
        }
        let response = tokio::time::timeout(self.idle, post.send())
            .await
            .map_err(|_| Failure::Timeout)?
            .map_err(|error| Failure::Unavailable(unreachable(&error)))?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let streamed = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        if !streamed {
            return whole(response, self.idle).await;
        }
        let events = bytes(response, STREAM, self.idle).eventsource().map(|event| {
            event.map_err(|error| match error {
                EventStreamError::Transport(failure) => failure,
                _ => not_understood(),
            })
        });
        Ok(Box::new(Streamed {
            events: Box::pin(events),
            outcome: Outcome::default(),
            ended: false,
            taken: 0,
        }))
    }
}

/// The bytes of a response, not too many, and never silent for long. An endpoint that is thinking sends comments,
/// which are no events, but bytes.
fn bytes(
    response: Response,
    limit: usize,
    idle: Duration,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send + Sync {
    let stream = Box::pin(response.bytes_stream());
    futures_util::stream::try_unfold((stream, limit), move |(mut stream, left)| async move {
        match tokio::time::timeout(idle, stream.next()).await {
            Err(_) => Err(Failure::Timeout),
            Ok(None) => Ok(None),
            Ok(Some(Err(_))) => Err(broke_off()),
            Ok(Some(Ok(bytes))) => match left.checked_sub(bytes.len()) {
                None => Err(Failure::TooLarge("the answer is too long".into())),
                Some(left) => Ok(Some((bytes, (stream, left)))),
            },
        }
    })
}

fn broke_off() -> Failure {
    Failure::Unavailable("the model broke off".into())
}

fn not_understood() -> Failure {
    Failure::Unavailable("the model's answer is not understood".into())
}

/// An answer that comes in events.
struct Streamed {
    events: Pin<Box<dyn Stream<Item = Result<Event, Failure>> + Send + Sync>>,
    outcome: Outcome,
    ended: bool,
    taken: usize,
}

#[async_trait]
impl Answer for Streamed {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        while !self.ended {
            let Some(event) = self.events.next().await else {
                // Some endpoints close without `[DONE]`; one that has not said why it stopped broke off.
                self.ended = true;
                if self.outcome.finish_reason.is_empty() {
                    return Err(broke_off());
                }
                break;
            };
            let data = event?.data;
            if data == "[DONE]" {
                self.ended = true;
                break;
            }
            let chunk: Chunk = serde_json::from_str(&data).map_err(|_| not_understood())?;
            if let Some(piece) = chunk.take(&mut self.outcome)? {
                self.taken += piece.text.len();
                if self.taken > ANSWER {
                    return Err(Failure::TooLarge("the answer has over 4 MiB".into()));
                }
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    fn outcome(&self) -> Option<Outcome> {
        self.ended.then(|| self.outcome.clone())
    }
}

/// An answer that came at once, from an endpoint that does not stream.
struct Whole {
    piece: Option<Piece>,
    outcome: Outcome,
}

#[async_trait]
impl Answer for Whole {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        Ok(self.piece.take())
    }

    fn outcome(&self) -> Option<Outcome> {
        self.piece.is_none().then(|| self.outcome.clone())
    }
}

async fn whole(response: Response, idle: Duration) -> Result<Box<dyn Answer>, Failure> {
    let body = bounded(response, ANSWER, idle).await?;
    let chunk: Chunk = serde_json::from_slice(&body).map_err(|_| not_understood())?;
    let mut outcome = Outcome::default();
    let piece = chunk.take(&mut outcome)?;
    Ok(Box::new(Whole { piece, outcome }))
}

async fn bounded(response: Response, limit: usize, idle: Duration) -> Result<Vec<u8>, Failure> {
    bytes(response, limit, idle)
        .try_fold(Vec::new(), |mut body, bytes| async move {
            body.extend_from_slice(&bytes);
            Ok(body)
        })
        .await
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(alias = "message", default)]
    delta: Map<String, Value>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

impl Chunk {
    /// The piece in it, if there is one; the rest goes into `outcome`.
    fn take(self, outcome: &mut Outcome) -> Result<Option<Piece>, Failure> {
        if let Some(error) = self.error {
            return Err(Failure::Unavailable(format!("the model failed: {}", message(&error))));
        }
        if let Some(usage) = self.usage {
            outcome.prompt_tokens = usage.prompt_tokens;
            outcome.completion_tokens = usage.completion_tokens;
        }
        let Some(mut choice) = self.choices.into_iter().next() else { return Ok(None) };
        if let Some(reason) = choice.finish_reason {
            outcome.finish_reason = reason;
        }
        choice.delta.remove("role");
        let text = match choice.delta.remove("content") {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        choice.delta.retain(|_, value| !value.is_null());
        let empty = text.is_empty() && choice.delta.is_empty();
        Ok((!empty).then_some(Piece { text, extra: choice.delta }))
    }
}

async fn refused(response: Response) -> Failure {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|after| after.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let body = bounded(response, 64 * 1024, CONNECT).await.unwrap_or_default();
    let said =
        serde_json::from_slice::<Value>(&body).map_or_else(|_| String::new(), |body| message(&body["error"]));
    let said = if said.is_empty() { status.to_string() } else { format!("{}: {said}", status.as_u16()) };
    match status {
        StatusCode::TOO_MANY_REQUESTS => Failure::RateLimited { retry_after },
        // The operator's key is wrong, or may not use this model: no guest can mend that.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Failure::Unavailable(format!("the model's endpoint refuses the key ({})", status.as_u16()))
        }
        StatusCode::PAYLOAD_TOO_LARGE => Failure::TooLarge(said),
        status if status.is_client_error() => {
            Failure::Invalid(format!("the model's endpoint refuses the request: {said}"))
        }
        _ => Failure::Unavailable(format!("the model's endpoint failed: {said}")),
    }
}

/// What an endpoint says of an error, short enough for a line.
fn message(error: &Value) -> String {
    let text = error["message"].as_str().or(error.as_str()).unwrap_or_default();
    text.chars().take(300).collect()
}

/// Without the address, which is the operator's.
fn unreachable(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "the model's endpoint did not answer".into()
    } else {
        "the model's endpoint cannot be reached".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which model answers, and how often, is what was granted.
    #[test]
    fn no_further_member_chooses_the_model() {
        let backend =
            OpenAi::new("http://127.0.0.1:1/v1", None, "usual".into(), Duration::from_secs(1)).unwrap();
        let extra = json!({
            "model": "dear", "models": ["dear"], "fallbacks": ["dear"], "route": "dear", "provider": {"order": ["dear"]},
            "n": 100, "best_of": 100, "stream": false, "tools": [],
        });
        let Value::Object(extra) = extra else { unreachable!() };
        let request = Request { turns: vec![], model: None, max_tokens: None, temperature: None, extra };
        let expected = json!({
            "model": "usual", "messages": [], "stream": true, "stream_options": { "include_usage": true }, "tools": [],
        });
        assert_eq!(backend.body(request), expected);
    }
}
