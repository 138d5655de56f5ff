//! A small OCI registry that can lie: what a proper one refuses to do is what a test wants to see.
//!
//! It speaks as much HTTP/1.1 as a client of it uses: one request for each connection.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Blobs by digest, and manifests by `REPOSITORY/manifests/` and a tag or a digest.
    kept: BTreeMap<String, Vec<u8>>,
    /// What is said in place of the truth, by the end of the path.
    lies: Vec<(String, Lie)>,
    /// Who may ask for a token, as `user:password` in Base64; without it anybody may do everything.
    user: Option<String>,
    asked: Vec<Request>,
}

/// What is sent in place of what was asked for.
#[derive(Clone)]
pub enum Lie {
    /// These bytes.
    Bytes(Vec<u8>),
    /// More and more of them, until nobody listens.
    Endless,
    /// It is elsewhere.
    Redirect(String),
}

/// A request, and whether it said who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
}

const TOKEN: &str = "a-token";

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

impl Registry {
    /// An empty one on a free port, for anybody.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let (address, state) = (registry.address, registry.state.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = state.clone();
                // A client that goes away in the middle is not our trouble.
                thread::spawn(move || drop(answer(stream, address, &state)));
            }
        });
        registry
    }

    /// `oci://127.0.0.1:PORT/REST`
    pub fn reference(&self, rest: &str) -> String {
        format!("oci://{}/{rest}", self.address)
    }

    /// `http://127.0.0.1:PORT/REST`
    pub fn url(&self, rest: &str) -> String {
        format!("http://{}/{rest}", self.address)
    }

    /// Lies about the paths that end so.
    pub fn lie(&self, end: &str, lie: Lie) {
        self.state.lock().unwrap().lies.push((end.to_owned(), lie));
    }

    /// Says the truth from now on.
    pub fn repent(&self) {
        self.state.lock().unwrap().lies.clear();
    }

    /// Lets nobody in but this user.
    pub fn only(&self, user: &str) {
        self.state.lock().unwrap().user = Some(user.to_owned());
    }

    /// What was asked for so far.
    pub fn asked(&self) -> Vec<Request> {
        self.state.lock().unwrap().asked.clone()
    }

    /// A manifest's text.
    pub fn manifest(&self, repository: &str, tag: &str) -> String {
        let kept = &self.state.lock().unwrap().kept;
        String::from_utf8(kept[&format!("{repository}/manifests/{tag}")].clone()).unwrap()
    }

    /// Puts a manifest there, whatever it says.
    pub fn put_manifest(&self, repository: &str, tag: &str, text: &str) {
        let kept = &mut self.state.lock().unwrap().kept;
        kept.insert(format!("{repository}/manifests/{tag}"), text.into());
    }

    pub fn blob(&self, digest: &str) -> Vec<u8> {
        self.state.lock().unwrap().kept[digest].clone()
    }
}

/// A status, headers, and a body.
type Answer = (u16, String, Vec<u8>);

fn answer(mut stream: TcpStream, address: SocketAddr, state: &Mutex<State>) -> std::io::Result<()> {
    let mut read = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    read.read_line(&mut first)?;
    let mut words = first.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        read.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = Vec::new();
    read.take(length).read_to_end(&mut body)?;
    let request = Request { method, path, authorization };
    let mut state = state.lock().unwrap();
    state.asked.push(request.clone());
    let lie = state.lies.iter().find(|(end, _)| request.path.ends_with(end)).map(|(_, lie)| lie.clone());
    let (status, headers, body) = match lie.filter(|_| request.method == "GET") {
        Some(Lie::Bytes(bytes)) => (200, String::new(), bytes),
        Some(Lie::Redirect(to)) => (307, format!("location: {to}\r\n"), vec![]),
        Some(Lie::Endless) => {
            drop(state);
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 4096])?;
            }
        }
        None => state.truth(&request, body, address),
    };
    drop(state);
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} Said\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}

fn refuse(status: u16, message: &str) -> Answer {
    (status, String::new(), json!({ "errors": [{ "code": "X", "message": message }] }).to_string().into())
}

impl State {
    fn truth(&mut self, request: &Request, body: Vec<u8>, address: SocketAddr) -> Answer {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if let Some(user) = &self.user {
            let said = request.authorization.as_deref();
            if path == "/token" {
                let may = said == Some(&format!("Basic {user}")) && query.contains("scope=a%3Ascope");
                let token = (200, String::new(), json!({ "token": TOKEN }).to_string().into());
                return if may { token } else { refuse(401, "who are you?") };
            }
            if said != Some(&format!("Bearer {TOKEN}")) {
                let realm =
                    format!("Bearer realm=\"http://{address}/token\",service=\"it\",scope=\"a:scope\"");
                return (401, format!("www-authenticate: {realm}\r\n"), vec![]);
            }
        }
        let path = path.strip_prefix("/v2/").unwrap_or(path).to_owned();
        let last = path.rsplit('/').next().unwrap().to_owned();
        match request.method.as_str() {
            "GET" | "HEAD" => {
                let key = if path.contains("/blobs/") { &last } else { &path };
                match self.kept.get(key) {
                    Some(bytes) => (200, String::new(), bytes.clone()),
                    None => refuse(404, "unknown"),
                }
            }
            // A place that has a query of its own already.
            "POST" => (202, format!("location: /v2/{path}1?state=x\r\n"), vec![]),
            "PUT" if path.contains("/blobs/uploads/") => {
                let sent = digest(&body);
                if query != format!("state=x&digest={}", sent.replace(':', "%3A")) {
                    return refuse(400, "the digest is another one");
                }
                self.kept.insert(sent, body);
                (201, String::new(), vec![])
            }
            "PUT" => {
                let manifest: Value = serde_json::from_slice(&body).unwrap();
                let layers = manifest["layers"].as_array().unwrap().iter();
                let mut blobs = layers.chain([&manifest["config"]]);
                let there = |blob: &Value| {
                    let kept = self.kept.get(blob["digest"].as_str().unwrap());
                    kept.is_some_and(|bytes| blob["size"] == json!(bytes.len()))
                };
                if !blobs.all(there) {
                    return refuse(400, "a blob is unknown");
                }
                let folder = path.strip_suffix(&last).unwrap().to_owned();
                self.kept.insert(format!("{folder}{}", digest(&body)), body.clone());
                self.kept.insert(path, body);
                (201, String::new(), vec![])
            }
            _ => refuse(405, "no"),
        }
    }
}
