//! Files that go out, by hand as those that come in: matrix-sdk would copy each, and its limits of time are those of a
//! message. What encrypts them is matrix-sdk's.

use std::io::Read as _;

use bytes::Bytes;
use matrix_sdk_crypto::AttachmentEncryptor;
use reqwest::StatusCode;
use serde_json::Value;

use super::{
    Live,
    media::{Answered, ERROR, WHOLE, answered, take},
    send::{agreed_encryption, joined},
    wire::Wire,
};
use crate::{chat::SendError, effect::Upload, event::MediaSource};

/// `GET /_matrix/client/v1/media/config` (spec 1.11, "Content repository"), or what servers had before.
const CONFIGS: [&[&str]; 2] = [&["client", "v1", "media", "config"], &["media", "v3", "config"]];
/// `POST /_matrix/media/v3/upload`.
const UPLOAD: [&str; 3] = ["media", "v3", "upload"];
/// What is encrypted is no type of anything.
const SEALED: &str = "application/octet-stream";

/// Uploads a file, encrypted where its room is.
pub(super) async fn upload(live: &Live, upload: &Upload) -> Result<MediaSource, SendError> {
    let room = joined(&live.client, &upload.room)?;
    let encrypted = agreed_encryption(&room, live.account.encryption, upload.must_encrypt).await?;
    let (wire, token) = (&live.wire, &live.token());
    fits(wire, token, upload.bytes.len()).await?;
    if !encrypted {
        let address = put(wire, token, upload.bytes.clone(), &upload.mime).await?;
        return Ok(MediaSource::new(address));
    }
    let bytes = upload.bytes.clone();
    let sealed = tokio::task::spawn_blocking(move || seal(&bytes)).await;
    let (sealed, mut file) =
        sealed.ok().flatten().ok_or_else(|| later("it could not be encrypted".into()))?;
    file["url"] = put(wire, token, sealed, SEALED).await?.into();
    Ok(MediaSource::new(file.to_string()))
}

/// The bytes encrypted, and the file as it stands in an event, without its address.
fn seal(bytes: &[u8]) -> Option<(Bytes, Value)> {
    let mut clear = bytes;
    let mut encryptor = AttachmentEncryptor::new(&mut clear);
    let mut sealed = Vec::with_capacity(bytes.len());
    encryptor.read_to_end(&mut sealed).ok()?;
    Some((sealed.into(), serde_json::to_value(encryptor.finish()).ok()?))
}

/// Where a file stands in the content of an event, and as what: an encrypted one, or the address of one that is not.
pub(super) fn place(source: &MediaSource) -> Result<(&'static str, Value), serde_json::Error> {
    if source.as_str().starts_with("mxc://") {
        return Ok(("url", source.as_str().into()));
    }
    serde_json::from_str(source.as_str()).map(|file| ("file", Value::Object(file)))
}

/// Whether the server takes a file of this size, as far as it says so.
async fn fits(wire: &Wire, token: &str, size: usize) -> Result<(), SendError> {
    let ask = |path| answered(wire.get(path, token));
    let answer = match ask(CONFIGS[0]).await {
        Err(Answered { code: Some(code), .. }) if code == "M_UNRECOGNIZED" => ask(CONFIGS[1]).await,
        answer => answer,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(refused)
            if refused.later && refused.status.is_none_or(|status| status != StatusCode::NOT_FOUND) =>
        {
            return Err(refused.into_send_error());
        }
        // It does not say.
        Err(_) => return Ok(()),
    };
    let said = take(answer, ERROR).await.map_err(|error| later(error.to_string()))?;
    let said: Value = serde_json::from_slice(&said).unwrap_or_default();
    match said["m.upload.size"].as_u64() {
        Some(most) if size as u64 > most => {
            let reason = format!("the file has {size} bytes, and the server takes {most}");
            Err(SendError::Final { code: "M_TOO_LARGE".into(), reason })
        }
        _ => Ok(()),
    }
}

/// Uploads these bytes, and answers their address.
async fn put(wire: &Wire, token: &str, bytes: Bytes, mime: &str) -> Result<String, SendError> {
    let request = wire.post(&UPLOAD, token).header("content-type", mime).timeout(WHOLE);
    let answer = answered(request.body(bytes)).await.map_err(Answered::into_send_error)?;
    let said = take(answer, ERROR).await.map_err(|error| later(error.to_string()))?;
    let said: Value = serde_json::from_slice(&said).unwrap_or_default();
    let address = said["content_uri"].as_str().filter(|address| address.starts_with("mxc://"));
    address.map(ToOwned::to_owned).ok_or_else(|| later("the server gave the file no address".into()))
}

impl Answered {
    fn into_send_error(self) -> SendError {
        // Of the size of a file any proxy has the last word.
        let too_large = self.status == Some(StatusCode::PAYLOAD_TOO_LARGE);
        if self.later && !too_large {
            let reason = self.code.map_or(self.reason.clone(), |code| format!("{code}: {}", self.reason));
            return SendError::Later { after: self.after, reason };
        }
        let code = self.code.unwrap_or_else(|| "M_TOO_LARGE".into());
        SendError::Final { code, reason: self.reason }
    }
}

fn later(reason: String) -> SendError {
    SendError::Later { after: None, reason }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::chat::matrix::media;

    /// A homeserver that answers each request in turn. What came of three bytes, and what it was asked.
    async fn tell(answers: &[&str]) -> (Result<String, SendError>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Wire::new(&format!("http://{}/", listener.local_addr().unwrap())).ok().unwrap();
        let answers: Vec<String> = answers
            .iter()
            .map(|answer| {
                let (status, body) = answer.split_once(' ').unwrap();
                let length = body.len();
                format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
            })
            .collect();
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let whole = |request: &[u8]| {
                    let end = if request.starts_with(b"POST") { &b"\r\n\r\nabc"[..] } else { b"\r\n\r\n" };
                    request.ends_with(end)
                };
                while !whole(&request) {
                    request.push(stream.read_u8().await.unwrap());
                }
                asked.push(String::from_utf8(request).unwrap().to_lowercase());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        let sent = async {
            fits(&wire, "token", 3).await?;
            put(&wire, "token", Bytes::from_static(b"abc"), "text/plain").await
        };
        let sent = tokio::time::timeout(WHOLE, sent).await.unwrap();
        (sent, server.await.unwrap())
    }

    const ANY: &str = "200 {\"m.upload.size\":3}";
    const TAKEN: &str = "200 {\"content_uri\":\"mxc://hs/a\"}";

    #[tokio::test]
    async fn a_file_is_put_where_the_server_takes_it() {
        let (sent, asked) = tell(&[ANY, TAKEN]).await;
        assert_eq!(sent.unwrap(), "mxc://hs/a");
        assert!(asked[0].starts_with("get /_matrix/client/v1/media/config http"), "{asked:?}");
        assert!(asked[1].starts_with("post /_matrix/media/v3/upload http"), "{asked:?}");
        for header in
            ["content-type: text/plain\r\n", "authorization: bearer token\r\n", "content-length: 3\r\n"]
        {
            assert!(asked[1].contains(header), "{asked:?}");
        }
        // A server of before, and one that does not say how much it takes.
        let unknown = "404 {\"errcode\":\"M_UNRECOGNIZED\"}";
        let (sent, asked) = tell(&[unknown, ANY, TAKEN]).await;
        assert!(sent.is_ok() && asked[1].starts_with("get /_matrix/media/v3/config "), "{asked:?}");
        for silent in ["200 {}", "404 no", "403 {\"errcode\":\"M_FORBIDDEN\"}"] {
            assert!(tell(&[silent, TAKEN]).await.0.is_ok(), "{silent}");
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_final_and_all_else_comes_again() {
        let (sent, _) = tell(&["200 {\"m.upload.size\":2}"]).await;
        let said = sent.unwrap_err().to_string();
        assert_eq!(said, "M_TOO_LARGE: the file has 3 bytes, and the server takes 2");
        // A proxy may have less patience than its server.
        for (answer, code) in [
            ("413 <html>", "M_TOO_LARGE"),
            ("413 {\"errcode\":\"M_TOO_LARGE\"}", "M_TOO_LARGE"),
            ("403 {\"errcode\":\"M_FORBIDDEN\"}", "M_FORBIDDEN"),
        ] {
            let (sent, _) = tell(&[ANY, answer]).await;
            assert!(matches!(sent, Err(SendError::Final { code: is, .. }) if is == code), "{answer}");
        }
        let limited = "429 {\"errcode\":\"M_LIMIT_EXCEEDED\",\"retry_after_ms\":1500}";
        let (sent, _) = tell(&[ANY, limited]).await;
        assert!(
            matches!(sent, Err(SendError::Later { after: Some(after), .. }) if after.as_millis() == 1500)
        );
        for answers in [
            &[limited][..],
            &["502 x"],
            &[ANY, "502 <html>"],
            &[ANY, "404 <html>"],
            &[ANY, "401 {\"errcode\":\"M_UNKNOWN_TOKEN\"}"],
            &[ANY, "401 {\"errcode\":\"M_USER_LOCKED\"}"],
            &[ANY, "403 {\"errcode\":\"M_RESOURCE_LIMIT_EXCEEDED\"}"],
            &[ANY, "200 {\"content_uri\":\"https://hs/a\"}"],
        ] {
            let (sent, _) = tell(answers).await;
            assert!(matches!(sent, Err(SendError::Later { .. })), "{answers:?}");
        }
    }

    #[test]
    fn what_is_sealed_is_opened_by_what_stands_in_the_event() {
        let (sealed, mut file) = seal(b"remember me").unwrap();
        assert_eq!(sealed.len(), 11);
        assert_ne!(&sealed[..], b"remember me");
        file["url"] = "mxc://hs/a".into();
        let (key, place) = place(&MediaSource::new(file.to_string())).unwrap();
        assert_eq!((key, place["v"].as_str()), ("file", Some("v2")));
        assert_eq!(media::opened(&sealed, &place.to_string()).as_deref(), Some(&b"remember me"[..]));
        let (_, other) = seal(b"remember me").unwrap();
        assert_ne!(file["key"]["k"], other["key"]["k"], "each has a key of its own");
    }
}
