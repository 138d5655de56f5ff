//! What stands between an agent and its homeserver, and does what networks do.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is answered by the server.
    None,
    /// The connection is closed without a word.
    Reset,
    /// It is answered with this status and body, and the server hears nothing of it.
    Answer(u16, String),
    /// It is never answered.
    Silence,
    /// The server takes it, and its answer is lost.
    Lost,
}

type Rule = Box<dyn Fn(&str) -> Fault + Send>;

/// It stands there until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    rule: Arc<Mutex<Rule>>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// Before a server at `http://127.0.0.1:PORT`.
    pub async fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server: SocketAddr = server.trim_start_matches("http://").parse().unwrap();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Fault::None)));
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let (hears, rules) = (heard.clone(), rule.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (hears, rules) = (hears.clone(), rules.clone());
                tokio::spawn(async move { drop(serve(stream, server, &hears, &rules).await) });
            }
        });
        Self { address, heard, rule, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this decides, from `METHOD PATH`.
    pub fn rule(&self, rule: impl Fn(&str) -> Fault + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    pub fn always(&self, fault: Fault) {
        self.rule(move |_| fault.clone());
    }

    /// How many requests there were with this in `METHOD PATH`.
    pub fn count(&self, what: &str) -> usize {
        self.heard(what).len()
    }

    /// They themselves, in order.
    pub fn heard(&self, what: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|request| request.contains(what)).cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One request, after which the connection is closed.
async fn serve(
    stream: TcpStream,
    server: SocketAddr,
    heard: &Mutex<Vec<String>>,
    rule: &Mutex<Rule>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let request = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    heard.lock().unwrap().push(request.clone());
    let fault = (rule.lock().unwrap())(&request);
    match fault {
        Fault::Reset => {}
        Fault::Silence => std::future::pending().await,
        Fault::Answer(status, body) => {
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} Odd\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await?;
        }
        Fault::None | Fault::Lost => {
            let mut upstream = TcpStream::connect(server).await?;
            let lines = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
            let head: String =
                lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
            upstream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await?;
            upstream.write_all(&body).await?;
            let mut answer = Vec::new();
            upstream.read_to_end(&mut answer).await?;
            if matches!(fault, Fault::None) {
                stream.write_all(&answer).await?;
            }
        }
    }
    stream.shutdown().await
}
