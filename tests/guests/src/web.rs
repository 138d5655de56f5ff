//! Sends requests, as it is told, and says what came of them.

use parlour_plugin::{prelude::*, secrets};
use wasip2::{
    http::{
        outgoing_handler::handle,
        types::{
            Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions,
            Scheme,
        },
    },
    io::streams::StreamError,
};

struct Web;

impl Commands for Web {
    fn list_commands() -> Vec<Command> {
        let rest = |name, description| Command::new(name, description).rest("text", "What it is done with");
        vec![
            rest("fetch", "METHOD URL [NAME: VALUE | …]: says status, headers and text"),
            rest("size", "The same: says how many bytes came"),
            rest("post", "BYTES URL: sends so many"),
            rest("many", "COUNT URL: sends so many at once, and says how many were taken"),
            rest(
                "search",
                "Looks for a text, given backwards, in all of its memory, after a request: TEXT METHOD URL",
            ),
            rest("patience", "MILLISECONDS METHOD URL: connects within so long"),
            rest("secret", "Whether a secret is there"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let said = match call.name.as_str() {
            "fetch" => fetch(&call.rest),
            "patience" => {
                let (patience, request) = call.rest.split_once(' ').unwrap_or_default();
                let answer = sent(request, 0, patience.parse().ok()).and_then(read);
                answer.map(|answer| answer.status.to_string())
            }
            "size" => send(&call.rest, 0).and_then(read).map(|answer| format!("{} bytes", answer.body.len())),
            "post" => {
                let (size, url) = call.rest.split_once(' ').unwrap_or_default();
                send(&format!("POST {url}"), size.parse().unwrap_or_default())
                    .and_then(read)
                    .map(|answer| String::from_utf8_lossy(&answer.body).into_owned())
            }
            "many" => {
                let (count, url) = call.rest.split_once(' ').unwrap_or_default();
                let open: Vec<_> = (0..count.parse().unwrap_or_default())
                    .map(|_| send(&format!("GET {url}"), 0))
                    .filter_map(Result::ok)
                    .collect();
                Ok(open.len().to_string())
            }
            "search" => {
                let (backwards, request) = call.rest.split_once(' ').unwrap_or_default();
                let came = fetch(request);
                let found = in_memory(backwards.as_bytes());
                came.map(|came| format!("{found} in memory, after {} bytes", came.len()))
            }
            _ => Ok(secrets::has(&call.rest).to_string()),
        };
        outbox::say(said.unwrap_or_else(|error| format!("error: {error}")))?;
        Ok(())
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

fn fetch(request: &str) -> Result<String, String> {
    let Answer { status, headers, body } = send(request, 0).and_then(read)?;
    let headers: String = headers
        .iter()
        .filter(|(name, _)| name != "date")
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value)))
        .collect();
    Ok(format!("{status}\n{headers}\n{}", String::from_utf8_lossy(&body)))
}

/// `METHOD URL NAME: VALUE | NAME: VALUE`, with so many bytes.
fn send(request: &str, bytes: usize) -> Result<IncomingResponse, String> {
    sent(request, bytes, None)
}

/// The same, where the connection comes about within so many milliseconds.
fn sent(request: &str, bytes: usize, patience: Option<u64>) -> Result<IncomingResponse, String> {
    let mut words = request.splitn(3, ' ');
    let (method, url) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let fields = Fields::new();
    for header in words.next().unwrap_or_default().split(" | ").filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(": ").ok_or("no header")?;
        fields.append(name, value.as_bytes()).map_err(|error| format!("{name}: {error}"))?;
    }
    let request = OutgoingRequest::new(fields);
    let method = match method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "TRACE" => Method::Trace,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    };
    request.set_method(&method).map_err(|()| "method")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(&rest[..at])).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&rest[at..])).map_err(|()| "path")?;
    let body = request.body().map_err(|()| "body")?;
    let options = RequestOptions::new();
    options.set_connect_timeout(patience.map(|patience| patience * 1_000_000)).map_err(|()| "patience")?;
    let coming = handle(request, Some(options)).map_err(|error| error.to_string())?;
    if bytes > 0 {
        let stream = body.write().map_err(|()| "write")?;
        let piece = vec![b'x'; 4096];
        let mut left = bytes;
        while left > 0 {
            // Whether all of it was taken, the answer says.
            if stream.blocking_write_and_flush(&piece[..left.min(4096)]).is_err() {
                break;
            }
            left -= left.min(4096);
        }
        drop(stream);
    }
    let finished = OutgoingBody::finish(body, None);
    coming.subscribe().block();
    let answer =
        coming.get().ok_or("no answer")?.map_err(|()| "taken")?.map_err(|error| error.to_string())?;
    finished.map_err(|error| error.to_string())?;
    Ok(answer)
}

fn read(response: IncomingResponse) -> Result<Answer, String> {
    let headers = response.headers().entries();
    let status = response.status();
    let incoming = response.consume().map_err(|()| "consumed")?;
    let stream = incoming.stream().map_err(|()| "stream")?;
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(piece) => body.extend(piece),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(code.map_or_else(|| error.to_debug_string(), |code| code.to_string()));
            }
        }
    }
    drop(stream);
    drop(IncomingBody::finish(incoming));
    Ok(Answer { status, headers, body })
}

/// How often a text that is given backwards stands in the whole memory of this instance.
fn in_memory(backwards: &[u8]) -> usize {
    let size = core::arch::wasm32::memory_size(0) * 65_536;
    let byte = |at: usize| {
        // SAFETY: all of linear memory can be read.
        unsafe { core::ptr::read_volatile(core::hint::black_box(at) as *const u8) }
    };
    let here =
        |at: usize| backwards.iter().rev().enumerate().all(|(place, expected)| byte(at + place) == *expected);
    (1..size.saturating_sub(backwards.len())).filter(|at| here(*at)).count()
}

parlour_plugin::export!(Web: commands);
