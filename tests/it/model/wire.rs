//! HTTP/1.1 and server-sent events, as much as a scripted model needs: one request for each connection.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::script::{Reply, Step};
use super::{End, Request, Scripted};

type Script = Arc<Mutex<Vec<Scripted>>>;
type Record = Arc<watch::Sender<Vec<Request>>>;

/// Serves until it is dropped, and its connections with it.
pub async fn serve(listener: TcpListener, script: Script, record: Record) {
    let mut connections = JoinSet::new();
    loop {
        // Accepting fails only for a connection that has gone again.
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(stream, script.clone(), record.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, script: Script, record: Record) {
    let (read, write) = stream.into_split();
    let mut read = BufReader::new(read);
    // A connection that is opened and not used is no request.
    let Ok(request) = read_request(&mut read).await else { return };
    let reply = choose(&script, &request);
    let streamed = request.streamed();
    let mut number = 0;
    record.send_modify(|requests| {
        number = requests.len();
        requests.push(request);
    });

    let answer = Answer { write, streamed, text: String::new(), number, record: record.clone() };
    let end = tokio::select! {
        // A write that fails has met the same end as a read that finds nothing.
        given = answer.give(reply) => if given.is_ok() { End::Answered } else { End::HungUp(Instant::now()) },
        () = closed(&mut read) => End::HungUp(Instant::now()),
    };
    record.send_modify(|requests| requests[number].end = Some(end));
}

fn choose(script: &Script, request: &Request) -> Reply {
    if request.method != "POST" || request.path != "/v1/chat/completions" {
        return Reply::error(404, "Not found");
    }
    let asked = request.last_user_message();
    let mut script = script.lock().expect("no one panics while holding the script");
    match script.iter().position(|scripted| asked.contains(&scripted.about)) {
        Some(next) => script.remove(next).reply,
        None => Reply::error(500, "the script of this test has no answer for this request"),
    }
}

async fn read_request(read: &mut BufReader<OwnedReadHalf>) -> Result<Request> {
    let first = line(read).await?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = words.next().zip(words.next()).context("a request line has a method and a path")?;
    let mut headers = Vec::new();
    while let Some((name, value)) = line(read).await?.split_once(':') {
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = u64::from_str_radix(&line(read).await?, 16)?;
            read.take(size).read_to_end(&mut body).await?;
            line(read).await?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length") {
        read.take(length.parse()?).read_to_end(&mut body).await?;
    }
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Request { method, path, headers, body, arrived: Instant::now(), pieces: 0, end: None })
}

async fn line(read: &mut BufReader<OwnedReadHalf>) -> Result<String> {
    let mut line = String::new();
    ensure!(read.read_line(&mut line).await? > 0, "the connection was closed");
    Ok(line.trim_end().to_owned())
}

/// Ends when the client has hung up; what it sends beyond its request is nobody's business.
async fn closed(read: &mut BufReader<OwnedReadHalf>) {
    let mut rest = [0; 512];
    while read.read(&mut rest).await.is_ok_and(|length| length > 0) {}
}

/// An answer being given.
struct Answer {
    write: OwnedWriteHalf,
    streamed: bool,
    /// What was said, for an answer that goes out whole.
    text: String,
    number: usize,
    record: Record,
}

impl Answer {
    async fn give(mut self, reply: Reply) -> Result<()> {
        match reply {
            Reply::Refusal { status, headers, body } => self.whole(status, &headers, &body).await,
            Reply::Silence => std::future::pending().await,
            Reply::Steps(steps) => {
                self.begin().await?;
                for step in steps {
                    if self.ends_with(step).await? {
                        return Ok(());
                    }
                }
                self.finish("stop").await
            }
            Reply::Led(mut steps) => {
                self.begin().await?;
                while let Some(step) = steps.recv().await {
                    if self.ends_with(step).await? {
                        return Ok(());
                    }
                }
                self.finish("stop").await
            }
        }
    }

    /// Takes one step, and says whether it was the last.
    async fn ends_with(&mut self, step: Step) -> Result<bool> {
        match step {
            Step::Say(piece) => {
                self.text.push_str(&piece);
                self.delta(json!({ "content": piece }), Value::Null).await?;
                self.record.send_modify(|requests| requests[self.number].pieces += 1);
            }
            Step::Delta(delta) => self.delta(delta, Value::Null).await?,
            Step::Raw(raw) => self.chunk(&raw).await?,
            Step::Wait(pause) => tokio::time::sleep(pause).await,
            Step::FallSilent => std::future::pending().await,
            // The connection is dropped without the chunk that would end it.
            Step::BreakOff => return Ok(true),
            Step::Finish(reason) => return self.finish(reason).await.map(|()| true),
        }
        Ok(false)
    }

    async fn begin(&mut self) -> Result<()> {
        if self.streamed {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                        transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
            self.write.write_all(head.as_bytes()).await?;
            self.delta(json!({ "role": "assistant", "content": "" }), Value::Null).await?;
        }
        Ok(())
    }

    async fn delta(&mut self, delta: Value, finish_reason: Value) -> Result<()> {
        let event = json!({
            "id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 0, "model": "scripted",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish_reason }],
        });
        self.chunk(&format!("data: {event}\n\n")).await
    }

    /// One chunk of the stream; nothing of an answer that goes out whole.
    async fn chunk(&mut self, text: &str) -> Result<()> {
        if self.streamed {
            self.write.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, reason: &str) -> Result<()> {
        if self.streamed {
            self.delta(json!({}), json!(reason)).await?;
            self.chunk("data: [DONE]\n\n").await?;
            self.write.write_all(b"0\r\n\r\n").await?;
            return Ok(self.write.shutdown().await?);
        }
        let message = json!({ "role": "assistant", "content": self.text });
        let body = json!({
            "id": "chatcmpl-scripted", "object": "chat.completion", "created": 0, "model": "scripted",
            "choices": [{ "index": 0, "message": message, "finish_reason": reason }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 },
        });
        self.whole(200, &[], &body).await
    }

    /// A status and a body in one.
    async fn whole(&mut self, status: u16, headers: &[(&str, String)], body: &Value) -> Result<()> {
        let body = body.to_string();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\n{headers}\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        self.write.write_all(answer.as_bytes()).await?;
        Ok(self.write.shutdown().await?)
    }
}
