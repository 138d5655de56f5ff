//! The bodies of requests and answers: bounded in size and time, and looked through for secrets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body::{Body as _, Frame};
use http_body_util::{BodyDataStream, BodyExt as _, StreamBody};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{Pieces, Slot, client, recorded::Recording};
use crate::scrub::Scrubbing;

/// Bytes of a request.
pub const REQUEST: u64 = 8 * 1024 * 1024;
/// Bytes of an answer, decompressed. A guest that reads it at once holds it in its memory.
const ANSWER: u64 = 32 * 1024 * 1024;

/// How much may still come.
#[derive(Clone)]
pub struct Allowance(Arc<(AtomicU64, AtomicBool)>);

impl Allowance {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new((AtomicU64::new(bytes), AtomicBool::new(false))))
    }

    /// More came than was allowed.
    pub fn is_over(&self) -> bool {
        self.0.1.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let (left, over) = &*self.0;
        let taken = left.try_update(Relaxed, Relaxed, |left| left.checked_sub(bytes as u64)).is_ok();
        over.fetch_or(!taken, Relaxed);
        taken
    }
}

/// A guest's body as the client sends it; none where it is empty.
pub fn outgoing(body: WasiBody, allowance: &Allowance) -> Option<reqwest::Body> {
    if body.is_end_stream() {
        return None;
    }
    let allowance = allowance.clone();
    let pieces = BodyDataStream::new(body).map(move |piece| {
        let piece = piece?;
        if allowance.take(piece.len()) { Ok(piece) } else { Err(Error::HttpRequestBodySize(Some(REQUEST))) }
    });
    Some(reqwest::Body::wrap_stream(pieces))
}

/// An answer that is being read.
pub struct Incoming {
    pieces: Pieces<reqwest::Result<Bytes>>,
    scrubbing: Option<Scrubbing>,
    between: Duration,
    allowance: Allowance,
    over: bool,
    recording: Recording,
    _slot: Slot,
}

impl Incoming {
    pub fn new(
        answer: reqwest::Response,
        scrubbing: Option<Scrubbing>,
        between: Duration,
        slot: Slot,
        recording: Recording,
    ) -> Self {
        let pieces = Box::pin(answer.bytes_stream());
        let allowance = Allowance::new(ANSWER);
        Self { pieces, scrubbing, between, allowance, over: false, recording, _slot: slot }
    }

    /// As a guest reads it.
    pub fn body(self) -> WasiBody {
        let pieces = stream::try_unfold(self, async |mut incoming| {
            Ok(incoming.next().await?.map(|piece| (piece, incoming)))
        });
        StreamBody::new(Box::pin(pieces.map_ok(Frame::data)) as Pieces<_>).boxed_unsync()
    }

    /// The next piece, when the end is written down that it may be.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let next = self.read().await;
        match &next {
            Ok(Some(piece)) => self.recording.piece(piece).await,
            Ok(None) => self.recording.whole().await,
            Err(error) => self.recording.broken(error).await,
        }
        next
    }

    /// The next piece that is not empty.
    async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.over {
            let piece = tokio::time::timeout(self.between, self.pieces.next()).await;
            let piece = piece.map_err(|_| Error::ConnectionReadTimeout)?.transpose();
            let clean = match piece.map_err(|error| client::failed(&error))? {
                Some(piece) if !self.allowance.take(piece.len()) => {
                    return Err(Error::HttpResponseBodySize(Some(ANSWER)));
                }
                Some(piece) => match &mut self.scrubbing {
                    Some(scrubbing) => Bytes::from(scrubbing.next(&piece)),
                    None => piece,
                },
                None => {
                    self.over = true;
                    Bytes::from(self.scrubbing.as_mut().map(Scrubbing::end).unwrap_or_default())
                }
            };
            if !clean.is_empty() {
                return Ok(Some(clean));
            }
        }
        Ok(None)
    }
}
