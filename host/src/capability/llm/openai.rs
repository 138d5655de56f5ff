//! An OpenAI-compatible endpoint: `POST …/chat/completions` with `stream: true`, answered by server-sent events.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use eventsource_stream::{Event, Eventsource};
use futures_util::{Stream, StreamExt};
use reqwest::{Client, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, Backend, Failure, Outcome, Piece, Request};

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// All text of one answer: many times what a model can say.
const ANSWER: usize = 4 * 1024 * 1024;

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
        let events = Box::pin(
            response.bytes_stream().eventsource().map(|event| event.map_err(|error| error.to_string())),
        );
        Ok(Box::new(Streamed {
            events,
            idle: self.idle,
            outcome: Outcome::default(),
            ended: false,
            taken: 0,
        }))
    }
}

/// An answer that comes in events.
struct Streamed {
    events: Pin<Box<dyn Stream<Item = Result<Event, String>> + Send + Sync>>,
    idle: Duration,
    outcome: Outcome,
    ended: bool,
    taken: usize,
}

#[async_trait]
impl Answer for Streamed {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        while !self.ended {
            let event =
                tokio::time::timeout(self.idle, self.events.next()).await.map_err(|_| Failure::Timeout)?;
            let Some(event) = event else {
                // Some endpoints close without `[DONE]`; one that has not said why it stopped broke off.
                self.ended = true;
                if self.outcome.finish_reason.is_empty() {
                    return Err(Failure::Unavailable("the model broke off".into()));
                }
                break;
            };
            let data = event.map_err(|_| Failure::Unavailable("the model broke off".into()))?.data;
            if data == "[DONE]" {
                self.ended = true;
                break;
            }
            self.taken += data.len();
            if self.taken > ANSWER {
                return Err(Failure::TooLarge("the answer has over 4 MiB".into()));
            }
            let chunk: Chunk = serde_json::from_str(&data)
                .map_err(|_| Failure::Unavailable("the model's answer is not understood".into()))?;
            if let Some(piece) = chunk.take(&mut self.outcome)? {
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
    let chunk: Chunk = serde_json::from_slice(&body)
        .map_err(|_| Failure::Unavailable("the model's answer is not understood".into()))?;
    let mut outcome = Outcome::default();
    let piece = chunk.take(&mut outcome)?;
    Ok(Box::new(Whole { piece, outcome }))
}

async fn bounded(response: Response, limit: usize, idle: Duration) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    loop {
        match tokio::time::timeout(idle, stream.next()).await {
            Err(_) => return Err(Failure::Timeout),
            Ok(None) => return Ok(body),
            Ok(Some(Err(_))) => return Err(Failure::Unavailable("the model broke off".into())),
            Ok(Some(Ok(bytes))) if body.len() + bytes.len() > limit => {
                return Err(Failure::TooLarge("the answer is too long".into()));
            }
            Ok(Some(Ok(bytes))) => body.extend_from_slice(&bytes),
        }
    }
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
