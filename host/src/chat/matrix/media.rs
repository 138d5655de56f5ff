//! Files, by hand: matrix-sdk would hold in memory whatever the server sends, however much that is.

use std::{io::Read as _, time::Duration};

use bytes::{Bytes, BytesMut};
use matrix_sdk::ruma::{MxcUri, api::error::ErrorCode, events::room::EncryptedFile};
use matrix_sdk_crypto::AttachmentDecryptor;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::{
    Live,
    failure::passes,
    wire::{Wire, cause},
};
use crate::{chat::MediaError, event::MediaSource};

/// A file may take so long, and each piece of it.
pub(super) const WHOLE: Duration = Duration::from_secs(10 * 60);
const SILENT: Duration = Duration::from_secs(30);
/// What an error says.
pub(super) const ERROR: usize = 16 * 1024;

/// `GET /_matrix/client/v1/media/download` (spec 1.11, "Content repository"), or what servers had before.
const DOWNLOADS: [&[&str]; 2] = [&["client", "v1", "media", "download"], &["media", "v3", "download"]];

/// A file as it was sent, if it has at most so many bytes.
pub(super) async fn fetch(live: &Live, file: &MediaSource, most: usize) -> Result<Bytes, MediaError> {
    let fetched = tokio::time::timeout(WHOLE, async {
        match read(file.as_str())? {
            Read::Plain(url) => download(&live.wire, &live.token(), &url, most).await,
            Read::Encrypted(file) => {
                let sealed = download(&live.wire, &live.token(), file.url.as_str(), most).await?;
                let opened = tokio::task::spawn_blocking(move || open(&sealed, *file)).await;
                opened.unwrap_or(Err(MediaError::Altered))
            }
        }
    });
    fetched.await.unwrap_or_else(|_| Err(later("the server took too long")))
}

enum Read {
    Plain(String),
    Encrypted(Box<EncryptedFile>),
}

/// What `convert_in` made of the event: an address, or the JSON of an encrypted file.
fn read(source: &str) -> Result<Read, MediaError> {
    if source.starts_with("mxc://") {
        return Ok(Read::Plain(source.to_owned()));
    }
    let file = serde_json::from_str(source);
    file.map(|file| Read::Encrypted(Box::new(file)))
        .map_err(|_| gone("its sender did not say how it is encrypted"))
}

async fn download(wire: &Wire, token: &str, url: &str, most: usize) -> Result<Bytes, MediaError> {
    let (server, id) =
        <&MxcUri>::from(url).parts().map_err(|_| gone("its sender gave no address of a file"))?;
    let [now, before] = DOWNLOADS.map(|path| [path, &[server.as_str(), id]].concat());
    let answer = match answer(wire, token, &now).await {
        Err(Answered { code: Some(code), .. }) if code == "M_UNRECOGNIZED" => {
            answer(wire, token, &before).await
        }
        answer => answer,
    };
    take(answer.map_err(Answered::into_error)?, most).await
}

/// An answer that is not what was asked for.
pub(super) struct Answered {
    pub code: Option<String>,
    pub reason: String,
    /// It may come later; when, if the server says so.
    pub later: bool,
    pub after: Option<Duration>,
    pub status: Option<StatusCode>,
}

impl Answered {
    /// There was no answer.
    pub fn failed(reason: String) -> Self {
        Self { code: None, reason, later: true, after: None, status: None }
    }

    fn into_error(self) -> MediaError {
        let Self { code, reason, later: may_come, .. } = self;
        let reason = code.map_or(reason.clone(), |code| format!("{code}: {reason}"));
        if may_come { later(&reason) } else { gone(&reason) }
    }
}

async fn answer(wire: &Wire, token: &str, path: &[&str]) -> Result<Response, Answered> {
    let request = answered(wire.get(path, token).timeout(WHOLE));
    tokio::time::timeout(SILENT, request)
        .await
        .unwrap_or_else(|_| Err(Answered::failed("the server is silent".into())))
}

/// The answer to a request, if it is none that says no.
pub(super) async fn answered(request: RequestBuilder) -> Result<Response, Answered> {
    let answer = request.send().await.map_err(|error| Answered::failed(cause(&error)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let wait = answer.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse().ok());
    let wait = wait.map(Duration::from_secs);
    let said = take(answer, ERROR).await.unwrap_or_default();
    let said: Value = serde_json::from_slice(&said).unwrap_or_default();
    let code = said["errcode"].as_str().map(str::to_owned);
    let after = wait.or_else(|| said["retry_after_ms"].as_u64().map(Duration::from_millis));
    // Only a Matrix error code says never; a proxy cannot.
    let may_come = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || code.as_deref().is_none_or(|code| passes(&ErrorCode::from(code)));
    let reason = format!("the server answers {status}");
    Err(Answered { reason, code, later: may_come, after, status: Some(status) })
}

/// The body, as long as it is not longer.
pub(super) async fn take(mut answer: Response, most: usize) -> Result<Bytes, MediaError> {
    if answer.content_length().is_some_and(|length| length > most as u64) {
        return Err(MediaError::TooLarge);
    }
    let mut bytes = BytesMut::new();
    loop {
        let piece = tokio::time::timeout(SILENT, answer.chunk()).await;
        let piece = piece.map_err(|_| later("the server is silent"))?;
        let Some(piece) = piece.map_err(|error| later(&cause(&error)))? else { return Ok(bytes.freeze()) };
        if bytes.len() + piece.len() > most {
            return Err(MediaError::TooLarge);
        }
        bytes.extend_from_slice(&piece);
    }
}

/// Takes a file out of its encryption; what somebody has changed has another hash.
fn open(sealed: &[u8], file: EncryptedFile) -> Result<Bytes, MediaError> {
    let mut sealed = sealed;
    let mut opened = Vec::with_capacity(sealed.len());
    let mut decryptor = AttachmentDecryptor::new(&mut sealed, file.into())
        .map_err(|_| gone("it is encrypted in another way"))?;
    decryptor.read_to_end(&mut opened).map_err(|_| MediaError::Altered)?;
    Ok(opened.into())
}

fn gone(reason: &str) -> MediaError {
    MediaError::Gone { reason: reason.into() }
}

fn later(reason: &str) -> MediaError {
    MediaError::Later { after: None, reason: reason.into() }
}

/// What is in an encrypted file.
#[cfg(test)]
pub(super) fn opened(sealed: &[u8], source: &str) -> Option<Bytes> {
    match read(source) {
        Ok(Read::Encrypted(file)) => open(sealed, *file).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use matrix_sdk_crypto::AttachmentEncryptor;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A homeserver that answers each request in turn with these bytes, and then goes on with the last ones for ever.
    /// What it was asked is what it answers itself.
    async fn ask(
        answers: Vec<&'static [u8]>,
        url: &str,
        most: usize,
    ) -> (Result<Bytes, MediaError>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Wire::new(&format!("http://{}/", listener.local_addr().unwrap())).ok().unwrap();
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                asked.push(String::from_utf8(request).unwrap());
                let endless = answer.ends_with(b"more");
                let mut sent = stream.write_all(answer).await;
                while endless && sent.is_ok() {
                    sent = stream.write_all(&[b'x'; 4096]).await;
                }
            }
            asked
        });
        let got = download(&wire, "token", url, most).await;
        (got, server.await.unwrap())
    }

    #[tokio::test]
    async fn more_than_was_wanted_is_not_taken() {
        let url = "mxc://example.org/abc";
        let (got, asked) = ask(vec![b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfile"], url, 4).await;
        assert_eq!(&got.unwrap()[..], b"file");
        let request = asked[0].to_lowercase();
        assert!(
            request.starts_with("get /_matrix/client/v1/media/download/example.org/abc http"),
            "{request}"
        );
        assert!(request.contains("authorization: bearer token\r\n"), "{request}");
        // One that says so, and one that does not.
        let (got, _) = ask(vec![b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfiles"], url, 4).await;
        assert!(matches!(got, Err(MediaError::TooLarge)));
        let (got, _) = ask(vec![b"HTTP/1.1 200 OK\r\n\r\nmore"], url, 100_000).await;
        assert!(matches!(got, Err(MediaError::TooLarge)));
    }

    const OLD: &[u8] =
        b"HTTP/1.1 404 -\r\ncontent-length: 28\r\nconnection: close\r\n\r\n{\"errcode\":\"M_UNRECOGNIZED\"}";

    #[tokio::test]
    async fn an_error_says_whether_to_come_again() {
        let url = "mxc://example.org/abc";
        let file = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfile";
        let (got, asked) = ask(vec![OLD, file], url, 4).await;
        assert_eq!(&got.unwrap()[..], b"file");
        assert!(asked[1].starts_with("GET /_matrix/media/v3/download/example.org/abc "), "{asked:?}");

        let gone = b"HTTP/1.1 404 -\r\ncontent-length: 25\r\n\r\n{\"errcode\":\"M_NOT_FOUND\"}";
        let (got, _) = ask(vec![gone], url, 4).await;
        assert!(matches!(got, Err(MediaError::Gone { reason }) if reason.starts_with("M_NOT_FOUND")));
        for busy in [
            "HTTP/1.1 502 -\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 -\r\ncontent-length: 2\r\n\r\nno",
            "",
        ] {
            let (got, _) = ask(vec![busy.as_bytes()], url, 4).await;
            assert!(matches!(got, Err(MediaError::Later { .. })), "{busy}");
        }
        let nowhere = [
            "mxc://example.org",
            "mxc://example.org/../../v3/account/whoami",
            "https://example.org/x",
            "mxc:///x",
        ];
        for nowhere in nowhere {
            let (got, asked) = ask(vec![], nowhere, 4).await;
            assert!(matches!(got, Err(MediaError::Gone { .. })) && asked.is_empty(), "{nowhere}");
        }
    }

    #[test]
    fn an_encrypted_file_is_opened_as_it_was_sent_or_not_at_all() {
        let mut clear = &b"remember me"[..];
        let mut encryptor = AttachmentEncryptor::new(&mut clear);
        let mut sealed = Vec::new();
        encryptor.read_to_end(&mut sealed).unwrap();
        let mut file = serde_json::to_value(encryptor.finish()).unwrap();
        file["url"] = json!("mxc://example.org/abc");
        let source = |file: &Value| match read(&file.to_string()) {
            Ok(Read::Encrypted(file)) => *file,
            _ => panic!("{file}"),
        };
        assert_eq!(&open(&sealed, source(&file)).unwrap()[..], b"remember me");
        sealed[3] ^= 1;
        assert!(matches!(open(&sealed, source(&file)), Err(MediaError::Altered)));
        sealed[3] ^= 1;
        sealed.push(0);
        assert!(matches!(open(&sealed, source(&file)), Err(MediaError::Altered)));
        for nonsense in [json!({}), json!({ "url": 3 }), json!({ "url": "mxc://a/b", "key": {} })] {
            assert!(matches!(read(&nonsense.to_string()), Err(MediaError::Gone { .. })), "{nonsense}");
        }
    }
}
