//! Answers to requests that are written down before the guest sees their end, and those that were.
//!
//! A request that may change something outside is noted before it is sent, and its answer's head before the guest sees that.
//! The body is written when it has come: the guest reads it while it comes, but for its end.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyDataStream, BodyExt as _, Full, StreamBody};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{Pieces, REQUESTS, Slot};
use crate::{
    answers::{self, Entry, Extent, Fact, Failure, Key},
    capability::{
        Spent,
        answers::{Alive, LOST, Recorder},
    },
    settings::InFlight,
};

/// Bytes of a request's body that are looked at before it is sent. Of a longer one, what comes behind them tells it from no
/// other: bodies that long would have to be held in memory.
const LOOKED_AT: usize = 256 * 1024;

/// What makes a request that is sent again count once (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request that may be sent, for the record.
pub struct Asking {
    pub record: Arc<Recorder>,
    pub path: Arc<str>,
    pub spent: Arc<Spent>,
    pub alive: Alive,
    pub in_flight: Option<InFlight>,
    /// In words.
    pub words: String,
    /// It may change something outside.
    pub changes: bool,
    /// Of method, URL and headers.
    pub head: [u8; 32],
}

/// Whether a method may change something outside ([RFC 9110, 9.2.1](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.1)).
pub fn changes(method: &Method) -> bool {
    !method.is_safe()
}

/// A digest of what a guest wants sent, but for the body.
pub fn head(method: &Method, url: &str, headers: &HeaderMap) -> [u8; 32] {
    let mut lines: Vec<(&[u8], &[u8])> =
        headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())).collect();
    // Of one name the order counts, and that of names is the map's own.
    lines.sort_by_key(|(name, _)| *name);
    let lines = lines.into_iter().flat_map(|(name, value)| [name, value]);
    answers::digest([method.as_str().as_bytes(), url.as_bytes()].into_iter().chain(lines))
}

/// Looks at the beginning of a body, and answers it whole with a digest of what was seen.
pub async fn looked_at(mut body: WasiBody) -> Result<(WasiBody, [u8; 32]), Error> {
    let (mut pieces, mut seen, mut whole) = (Vec::new(), Vec::new(), false);
    while seen.len() < LOOKED_AT {
        let Some(frame) = body.frame().await else {
            whole = true;
            break;
        };
        let Ok(piece) = frame?.into_data() else { continue };
        seen.extend_from_slice(&piece[..piece.len().min(LOOKED_AT - seen.len())]);
        pieces.push(piece);
    }
    let digest = answers::digest([seen.as_slice()]);
    let body = if whole {
        let never = |never: std::convert::Infallible| -> Error { match never {} };
        Full::new(Bytes::from(pieces.concat())).map_err(never).boxed_unsync()
    } else {
        let first = stream::iter(pieces.into_iter().map(Ok));
        let all = first.chain(BodyDataStream::new(body)).map(|piece| piece.map(Frame::data));
        StreamBody::new(Box::pin(all) as Pieces<_>).boxed_unsync()
    };
    Ok((body, digest))
}

/// What becomes of a request.
pub enum Way {
    /// It was answered before.
    Answered(Response<WasiBody>),
    /// It is to be sent.
    Open(Question, Slot),
}

/// A request that is sent, and whose answer will be recorded.
pub struct Question {
    asking: Asking,
    key: Key,
    /// It may have changed something: it was noted that it would be sent.
    begun: bool,
}

impl Asking {
    /// Looks for the answer.
    pub async fn way(self, body: [u8; 32], slot: Slot) -> Result<Way, Error> {
        let request = answers::digest([self.head.as_slice(), &body]);
        let (key, found) = self.record.ask(&self.path, "http", &request);
        let again = !self.record.replays() && (self.in_flight == Some(InFlight::Retry) || !self.changes);
        let begun = found.as_ref().is_some_and(|found| found.fact.changes());
        match found {
            Some(Entry { at, fact: Fact::Http { status, headers, extent, broke, .. }, body, .. })
                if extent != Extent::Head || !again =>
            {
                self.record.came(at);
                return Ok(Way::Answered(answered(status, &headers, extent, broke, body, slot)?));
            }
            Some(Entry { at, fact: Fact::Failed { error, .. }, .. }) => {
                self.record.came(at);
                return Err(given(error));
            }
            Some(Entry { at, fact: Fact::Begun { .. }, .. }) if !again => {
                let lost = Error::InternalError(Some(LOST.into()));
                return Err(Question { asking: self, key, begun }.failed_at(at, lost).await);
            }
            // As long as somebody else was waited for, nobody knows how long this would have taken.
            Some(Entry { fact: Fact::Asked { .. }, .. }) if self.record.replays() => {
                return Err(Error::InternalError(Some("nobody waited for the answer".into())));
            }
            _ => {}
        }
        if self.record.is_past(&self.words) {
            return Err(Error::InternalError(Some("this was never asked".into())));
        }
        if self.spent.http.fetch_add(1, Relaxed) >= REQUESTS {
            return Err(Error::ConnectionLimitReached);
        }
        Ok(Way::Open(Question { asking: self, key, begun }, slot))
    }
}

/// How a request or its answer failed, for the record.
fn kept(error: &Error) -> Failure {
    match error {
        Error::DestinationIpProhibited => Failure::DestinationIpProhibited,
        Error::DestinationUnavailable => Failure::DestinationUnavailable,
        Error::ConnectionRefused => Failure::ConnectionRefused,
        Error::ConnectionTimeout => Failure::ConnectionTimeout,
        Error::ConnectionReadTimeout => Failure::ConnectionReadTimeout,
        Error::ConnectionLimitReached => Failure::ConnectionLimitReached,
        Error::TlsCertificateError => Failure::TlsCertificateError,
        Error::HttpRequestBodySize(size) => Failure::HttpRequestBodySize(*size),
        Error::HttpResponseIncomplete => Failure::HttpResponseIncomplete,
        Error::HttpResponseHeaderSectionSize(size) => Failure::HttpResponseHeaderSectionSize(*size),
        Error::HttpResponseBodySize(size) => Failure::HttpResponseBodySize(*size),
        Error::HttpResponseTransferCoding(coding) => Failure::HttpResponseTransferCoding(coding.clone()),
        Error::HttpResponseContentCoding(coding) => Failure::HttpResponseContentCoding(coding.clone()),
        Error::HttpResponseTimeout => Failure::HttpResponseTimeout,
        Error::HttpProtocolError => Failure::HttpProtocolError,
        Error::ConfigurationError => Failure::ConfigurationError,
        Error::InternalError(line) => Failure::InternalError(line.clone()),
        _ => Failure::InternalError(None),
    }
}

/// The same as the guest saw it.
fn given(error: Failure) -> Error {
    match error {
        Failure::DestinationIpProhibited => Error::DestinationIpProhibited,
        Failure::DestinationUnavailable => Error::DestinationUnavailable,
        Failure::ConnectionRefused => Error::ConnectionRefused,
        Failure::ConnectionTimeout => Error::ConnectionTimeout,
        Failure::ConnectionReadTimeout => Error::ConnectionReadTimeout,
        Failure::ConnectionLimitReached => Error::ConnectionLimitReached,
        Failure::TlsCertificateError => Error::TlsCertificateError,
        Failure::HttpRequestBodySize(size) => Error::HttpRequestBodySize(size),
        Failure::HttpResponseIncomplete => Error::HttpResponseIncomplete,
        Failure::HttpResponseHeaderSectionSize(size) => Error::HttpResponseHeaderSectionSize(size),
        Failure::HttpResponseBodySize(size) => Error::HttpResponseBodySize(size),
        Failure::HttpResponseTransferCoding(coding) => Error::HttpResponseTransferCoding(coding),
        Failure::HttpResponseContentCoding(coding) => Error::HttpResponseContentCoding(coding),
        Failure::HttpResponseTimeout => Error::HttpResponseTimeout,
        Failure::HttpProtocolError => Error::HttpProtocolError,
        Failure::ConfigurationError => Error::ConfigurationError,
        Failure::InternalError(line) => Error::InternalError(line),
    }
}

/// As the guest saw it.
fn answered(
    status: u16,
    headers: &[(String, String)],
    extent: Extent,
    broke: Option<Failure>,
    body: Vec<u8>,
    slot: Slot,
) -> Result<Response<WasiBody>, Error> {
    let broken = || Error::InternalError(None);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| broken())?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| broken())?;
        let bytes: Vec<u8> = value.chars().filter_map(|byte| u8::try_from(byte).ok()).collect();
        response.headers_mut().append(name, HeaderValue::from_bytes(&bytes).map_err(|_| broken())?);
    }
    let rest = match extent {
        Extent::Whole => None,
        // Who read no further then has no reason to do so now.
        Extent::Head | Extent::Left => Some(Err(broke.map_or(Error::HttpResponseIncomplete, given))),
    };
    let body = (!body.is_empty()).then(|| Ok(Frame::data(Bytes::from(body))));
    let pieces = stream::iter(body.into_iter().chain(rest)).map(move |piece| {
        let _open = &slot;
        piece
    });
    Ok(response.map(|()| StreamBody::new(Box::pin(pieces) as Pieces<_>).boxed_unsync()))
}

impl Question {
    /// It is about to be sent: what may change something is noted, and gets what makes it count once.
    pub async fn begins(&mut self, headers: &mut HeaderMap) -> Result<(), Error> {
        let Self { asking: Asking { record, words, changes, in_flight, .. }, key, begun } = self;
        if !*changes {
            record.keep(*key, Fact::Asked { request: words.clone() });
            return Ok(());
        }
        *begun = true;
        let noted = Fact::Begun { request: words.clone(), changes: true };
        record.learn(*key, record.now(), noted, vec![]).await;
        // A guest that has one of its own knows better.
        if *in_flight == Some(InFlight::Retry) && !headers.contains_key(IDEMPOTENCY_KEY) {
            // A string of structured headers (RFC 9651).
            let value = format!("\"{}\"", record.idempotency(key));
            let value = HeaderValue::from_str(&value).map_err(|_| Error::HttpProtocolError)?;
            headers.insert(IDEMPOTENCY_KEY, value);
        }
        Ok(())
    }

    /// There will be no answer: that is one, too.
    pub async fn failed(self, error: Error) -> Error {
        let at = self.asking.record.now();
        self.failed_at(at, error).await
    }

    async fn failed_at(self, at: i64, error: Error) -> Error {
        let Self { asking: Asking { record, words, .. }, key, begun } = self;
        record.came(at);
        let fact = Fact::Failed { request: words, error: kept(&error), changes: begun };
        record.learn(key, at, fact, vec![]).await;
        error
    }

    /// The answer's head has come.
    pub async fn came(self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> Recording {
        let Self { asking: Asking { record, alive, words, changes, .. }, key, .. } = self;
        let at = record.now();
        record.came(at);
        let text = |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let recording = Recording {
            record,
            alive,
            key,
            at,
            words,
            status,
            headers,
            changes,
            length,
            body: vec![],
            over: false,
        };
        if changes {
            recording.record.learn(key, at, recording.fact(Extent::Head), vec![]).await;
        }
        recording
    }
}

/// An answer that is being read, and recorded.
pub struct Recording {
    record: Arc<Recorder>,
    alive: Alive,
    key: Key,
    at: i64,
    words: String,
    status: StatusCode,
    headers: Vec<(String, String)>,
    changes: bool,
    /// Bytes that will have come, where that was said.
    length: Option<u64>,
    body: Vec<u8>,
    /// It is written down, or never will be.
    over: bool,
}

impl Recording {
    fn fact(&self, extent: Extent) -> Fact {
        Fact::Http {
            request: self.words.clone(),
            status: self.status.as_u16(),
            headers: self.headers.clone(),
            extent,
            changes: self.changes,
            broke: None,
        }
    }

    /// A piece, as the guest will see it.
    pub async fn piece(&mut self, piece: &[u8]) {
        if self.over {
            return;
        }
        if !self.record.comes(piece.len()).await {
            // There is no room for it.
            self.over = true;
            return drop(self.body());
        }
        self.body.extend_from_slice(piece);
        // Many read as much as was said, and do not wait for the end.
        if self.length == Some(self.body.len() as u64) {
            self.whole().await;
        }
    }

    /// All of it has come.
    pub async fn whole(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            let body = self.body();
            self.record.learn(self.key, self.at, self.fact(Extent::Whole), body).await;
        }
    }

    /// It broke off: so much of it came.
    pub async fn broken(&mut self, error: &Error) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let (body, mut fact) = (self.body(), self.fact(Extent::Left));
        if let Fact::Http { broke, .. } = &mut fact {
            *broke = Some(kept(error));
        }
        self.record.learn(self.key, self.at, fact, body).await;
    }

    /// What has come, which is held here no longer.
    fn body(&mut self) -> Vec<u8> {
        self.record.has_come(self.body.len());
        std::mem::take(&mut self.body)
    }
}

impl Drop for Recording {
    /// The guest wanted no more of it. Of one that it did not begin to read, nothing was got but that it was answered, which
    /// comes with what is learnt next.
    fn drop(&mut self) {
        let body = self.body();
        if self.over || !self.alive.is() {
            return;
        }
        if body.is_empty() && !self.changes {
            self.record.keep_at(self.key, self.at, self.fact(Extent::Left));
        } else {
            self.record.learn_soon(self.key, self.at, self.fact(Extent::Left), body);
        }
    }
}
