//! What a scripted model does with one request.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

#[derive(Debug)]
pub enum Reply {
    /// An answer of these steps.
    Steps(Vec<Step>),
    /// An answer whose steps come while it runs; made by [`Model::live`](super::Model::live).
    Led(mpsc::Receiver<Step>),
    /// No answer, but a status with headers and a body.
    Refusal { status: u16, headers: Vec<(&'static str, String)>, body: Value },
    /// The connection stays open and nothing ever comes, not even a status.
    Silence,
}

/// One step of an answer. When the steps end, so does the answer, with `finish_reason: "stop"`.
#[derive(Clone, Debug)]
pub enum Step {
    /// A piece of text.
    Say(String),
    /// A `delta` as it stands: tool calls, reasoning.
    Delta(Value),
    /// Bytes as they stand, inside the stream: garbage, comments, half a line.
    Raw(String),
    Wait(Duration),
    /// The end, with another reason: `length`, `tool_calls`.
    Finish(&'static str),
    /// The connection breaks, without the end of the stream.
    BreakOff,
    /// Nothing more comes, but the connection stays open.
    FallSilent,
}

impl Reply {
    /// The whole text in one piece.
    pub fn text(text: &str) -> Reply {
        Reply::Steps(vec![Step::Say(text.to_owned())])
    }

    /// These pieces, with a pause before each.
    pub fn pieces<'a>(pieces: impl IntoIterator<Item = &'a str>, pause: Duration) -> Reply {
        Reply::Steps(
            pieces.into_iter().flat_map(|piece| [Step::Wait(pause), Step::Say(piece.to_owned())]).collect(),
        )
    }

    /// These pieces, and then `last`: [`Step::BreakOff`], [`Step::FallSilent`], …
    pub fn ending<'a>(pieces: impl IntoIterator<Item = &'a str>, last: Step) -> Reply {
        let pieces = pieces.into_iter().map(|piece| Step::Say(piece.to_owned()));
        Reply::Steps(pieces.chain([last]).collect())
    }

    /// Calls of functions, by name and arguments; each comes in pieces, as endpoints send them.
    pub fn calls(calls: &[(&str, &str)]) -> Reply {
        let delta = |delta: Value| Step::Delta(json!({ "tool_calls": [delta] }));
        let mut steps = Vec::new();
        for (index, (name, arguments)) in calls.iter().enumerate() {
            let (one, other) = arguments.split_at(arguments.len() / 2);
            let id = format!("call_{index}");
            let function = json!({ "name": name, "arguments": "" });
            steps.push(delta(json!({ "index": index, "id": id, "type": "function", "function": function })));
            for part in [one, other] {
                steps.push(delta(json!({ "index": index, "function": { "arguments": part } })));
            }
        }
        steps.push(Step::Finish("tool_calls"));
        Reply::Steps(steps)
    }

    /// A stream that is none.
    pub fn garbage() -> Reply {
        let raw = "data: {\"choices\": [{\"del\n\n\u{1}\u{2} <html>\n\n";
        Reply::Steps(vec![Step::Raw(raw.to_owned()), Step::BreakOff])
    }

    /// An error as OpenAI writes it.
    pub fn error(status: u16, message: &str) -> Reply {
        let body =
            json!({ "error": { "message": message, "type": "scripted", "param": null, "code": null } });
        Reply::Refusal { status, headers: Vec::new(), body }
    }

    pub fn unauthorized() -> Reply {
        Reply::error(401, "Incorrect API key provided")
    }

    /// 429 with `Retry-After` in seconds.
    pub fn rate_limited(retry_after: u32) -> Reply {
        Reply::error(429, "Rate limit reached").header("Retry-After", retry_after.to_string())
    }

    /// Adds a header to a refusal.
    pub fn header(mut self, name: &'static str, value: String) -> Reply {
        if let Reply::Refusal { headers, .. } = &mut self {
            headers.push((name, value));
        }
        self
    }
}

/// Leads one answer from the test. Dropped, it lets the answer end as if all was said.
///
/// A step waits until the connection has taken up the one before. After the client hung up it goes nowhere and says
/// so with `false`.
#[derive(Debug)]
pub struct Live(mpsc::Sender<Step>);

impl Live {
    pub(super) fn new(steps: mpsc::Sender<Step>) -> Live {
        Live(steps)
    }

    pub async fn say(&self, piece: &str) -> bool {
        self.step(Step::Say(piece.to_owned())).await
    }

    pub async fn step(&self, step: Step) -> bool {
        self.0.send(step).await.is_ok()
    }

    /// Ends the answer properly.
    pub async fn finish(self) -> bool {
        self.step(Step::Finish("stop")).await
    }

    /// Breaks the connection.
    pub async fn break_off(self) -> bool {
        self.step(Step::BreakOff).await
    }

    /// Waits until the answer is no longer wanted: the client hung up.
    pub async fn hung_up(&self) {
        self.0.closed().await;
    }
}
