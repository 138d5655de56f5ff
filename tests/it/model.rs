//! A scripted model behind an OpenAI-compatible endpoint: `POST /v1/chat/completions`, streamed or whole.
//!
//! A test says beforehand what the next requests get ([`Model::answer`]) or leads an answer live, piece by piece
//! ([`Model::live`]), and looks afterwards at what was asked. It speaks HTTP by hand, because most of what it must be
//! able to do is what a proper server would not: fall silent, break off, send garbage, notice when the client hangs up.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

mod script;
mod wire;

pub use script::{Live, Reply};

/// How long a test waits for a request or its end.
const DEADLINE: Duration = Duration::from_secs(20);

pub struct Model {
    address: SocketAddr,
    script: Arc<Mutex<Vec<Scripted>>>,
    requests: watch::Receiver<Vec<Request>>,
    server: JoinHandle<()>,
}

/// One request, and what became of it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Null if it was no JSON.
    pub body: Value,
    pub arrived: Instant,
    /// Pieces of text sent so far.
    pub pieces: usize,
    pub end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole answer was sent, or all of it that the script has.
    Answered,
    /// The client closed the connection before that.
    HungUp(Instant),
}

/// A reply for the next request whose last user message contains `about`.
struct Scripted {
    about: String,
    reply: Reply,
}

impl Model {
    /// A model on a free port, which has nothing to say yet.
    pub async fn start() -> Result<Model> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("opening a port for the model")?;
        let address = listener.local_addr()?;
        let script = Arc::new(Mutex::new(Vec::new()));
        let (record, requests) = watch::channel(Vec::new());
        let server = tokio::spawn(wire::serve(listener, script.clone(), Arc::new(record)));
        Ok(Model { address, script, requests, server })
    }

    /// What goes into the settings as `url`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The next request gets `reply`; each reply serves once, in this order. A request beyond the script is answered
    /// with a 500 that says so.
    pub fn answer(&self, reply: Reply) {
        self.answer_about("", reply);
    }

    /// The same for the next request whose last user message contains `words`, when several sessions ask at once.
    pub fn answer_about(&self, words: &str, reply: Reply) {
        let scripted = Scripted { about: words.to_owned(), reply };
        self.script.lock().expect("no one panics while holding the script").push(scripted);
    }

    /// The next request gets an answer that the test leads.
    pub fn live(&self) -> Live {
        self.live_about("")
    }

    pub fn live_about(&self, words: &str) -> Live {
        let (steps, led) = mpsc::channel(1);
        self.answer_about(words, Reply::Led(led));
        Live::new(steps)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    /// Waits for the request number `n`, counted from 0.
    pub async fn request(&self, n: usize) -> Result<Request> {
        self.wait(&format!("request {n}"), |requests| requests.get(n).cloned()).await
    }

    /// Waits for the end of the request number `n`.
    pub async fn end(&self, n: usize) -> Result<End> {
        self.wait(&format!("the end of request {n}"), |requests| requests.get(n)?.end).await
    }

    /// Waits until `find` finds something in the requests so far.
    pub async fn wait<T>(&self, what: &str, mut find: impl FnMut(&[Request]) -> Option<T>) -> Result<T> {
        let (mut requests, mut found) = (self.requests.clone(), None);
        let search = requests.wait_for(|requests| {
            found = find(requests);
            found.is_some()
        });
        let _ = tokio::time::timeout(DEADLINE, search).await;
        let Some(found) = found else {
            bail!("the model waited {DEADLINE:?} for {what}\n{:#?}", self.requests())
        };
        Ok(found)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The roles and texts of the conversation that was sent.
    pub fn messages(&self) -> Vec<(&str, &str)> {
        let messages = self.body["messages"].as_array().into_iter().flatten();
        messages
            .map(|one| (one["role"].as_str().unwrap_or(""), one["content"].as_str().unwrap_or("")))
            .collect()
    }

    fn last_user_message(&self) -> &str {
        self.messages().iter().rfind(|(role, _)| *role == "user").map_or("", |(_, content)| content)
    }

    fn streamed(&self) -> bool {
        self.body["stream"] == json!(true)
    }
}
