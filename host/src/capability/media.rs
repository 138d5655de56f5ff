//! `media`: the files of the message that is being handled. Each is fetched once and kept until the handler has ended;
//! nothing here looks at more of it than its first bytes.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Handling, State,
    bindings::parlour::plugin::media::{File, Host},
    error,
    types::{Error, ErrorKind},
};
use crate::{
    answers::{self, Entry, Fact},
    event::{Attachment, Kind, MediaSource},
    manifest::Permission,
};

/// Bytes of one answer.
const PIECE: usize = 1024 * 1024;
/// Bytes that one handler holds.
const HELD: u64 = 64 * 1024 * 1024;
/// Downloads of one delivery, over all its attempts.
const DOWNLOADS: u32 = 64;
/// What all handlers of a plugin hold together, in KiB: a busy one leaves memory for others.
const ROOM: usize = 128 * 1024;
/// How long a download waits for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where a file says what it is.
const HEAD: usize = 8 * 1024;

/// Where files come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// A file, out of its encryption and as it was sent, if it has at most so many bytes.
    async fn fetch(&self, file: &MediaSource, most: usize) -> Result<Bytes, Failure>;
}

/// Why a file is not to be had.
#[derive(Debug)]
pub enum Failure {
    /// It has more bytes.
    TooLarge,
    /// It is gone, or nobody may have it.
    Gone(String),
    /// It is not what was sent.
    Altered,
    /// It may be had later.
    Later { after: Option<Duration>, reason: String },
}

/// The files of one attempt, its tools included.
pub struct Files {
    source: Arc<dyn Source>,
    held: tokio::sync::Mutex<BTreeMap<usize, Bytes>>,
}

impl Files {
    /// None is fetched yet.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, held: tokio::sync::Mutex::default() }
    }
}

/// Memory for the files of one plugin.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Room {
    async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Error> {
        let taken = tokio::time::timeout(PATIENCE, self.0.clone().acquire_many_owned(kib(bytes))).await;
        taken.ok().and_then(Result::ok).ok_or_else(|| {
            let full = error(ErrorKind::Unavailable, "this plugin holds too many files already");
            Error { retry_after: Some(5000), ..full }
        })
    }
}

/// At least one: what is held is counted.
fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1)
}

/// A file, and the room that it takes until nobody holds it.
struct Kept {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl Host for State {
    async fn fetch(&mut self, handle: String) -> Answer<File> {
        Ok(self.file(&handle, "media.fetch").await.map(|bytes| File {
            size: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            mime: sniff(&bytes),
            extra: None,
        }))
    }

    async fn read(&mut self, handle: String, offset: u32, length: u32) -> Answer<Vec<u8>> {
        Ok(self.file(&handle, "media.read").await.map(|bytes| piece(&bytes, offset, length).to_vec()))
    }
}

impl State {
    async fn file(&mut self, handle: &str, call: &str) -> Result<Bytes, Error> {
        self.holds(Permission::Media, call)?;
        let handling = self.handling()?;
        let most = handling.permissions.media();
        let nowhere = || error(ErrorKind::NotFound, "no file of this delivery has this handle");
        let (place, attachment) = attachment(handling, handle).ok_or_else(nowhere)?;
        let mut held = handling.media.held.lock().await;
        if let Some(bytes) = held.get(&place) {
            return if bytes.len() as u64 <= most { Ok(bytes.clone()) } else { Err(too_large(most)) };
        }
        let left = HELD - held.values().map(|bytes| bytes.len() as u64).sum::<u64>().min(HELD);
        let expected = attachment.size.unwrap_or(0);
        if expected > most {
            return Err(too_large(most));
        }
        let most = most.min(attachment.size.unwrap_or(most)).min(left);
        if expected > left || left == 0 {
            return Err(error(ErrorKind::TooLarge, "one delivery reads at most 64 MiB of files"));
        }
        if handling.spent.media.fetch_add(1, Relaxed) >= DOWNLOADS {
            return Err(error(ErrorKind::TooLarge, "one delivery downloads at most 64 files"));
        }
        let source = attachment.source.as_ref().ok_or_else(nowhere)?;
        let mut room = self.room.take(most).await?;
        let at_most = usize::try_from(most).unwrap_or(usize::MAX);
        let bytes =
            handling.media.source.fetch(source, at_most).await.map_err(|failed| told(failed, most))?;
        let (what, digest) = (answers::digest([handle.as_bytes()]), blake3::hash(&bytes).to_string());
        match handling.record.seen("file", &what) {
            Some(Entry { fact: Fact::File { digest: before }, .. }) if before != digest => {
                return Err(told(Failure::Altered, most));
            }
            _ => handling.record.saw("file", &what, Fact::File { digest }, Vec::new),
        }
        let room = room.split(kib(bytes.len() as u64) as usize);
        let bytes = Bytes::from_owner(Kept { bytes, _room: room });
        held.insert(place, bytes.clone());
        Ok(bytes)
    }
}

/// The name of an attachment for its delivery, and for no other one.
pub fn handle(handling: &Handling, place: usize) -> String {
    format!("{}/{place}", handling.delivery)
}

fn attachment<'a>(handling: &'a Handling, handle: &str) -> Option<(usize, &'a Attachment)> {
    let Kind::Message(message) = &handling.event.kind else { return None };
    message.attachments.iter().enumerate().find(|(place, _)| self::handle(handling, *place) == handle)
}

fn piece(bytes: &[u8], offset: u32, length: u32) -> &[u8] {
    let rest = bytes.get(offset as usize..).unwrap_or_default();
    &rest[..rest.len().min(length as usize).min(PIECE)]
}

/// What the first bytes show.
fn sniff(bytes: &[u8]) -> Option<String> {
    let found = infer::get(&bytes[..bytes.len().min(HEAD)])?;
    Some(found.mime_type().to_owned())
}

fn too_large(most: u64) -> Error {
    error(ErrorKind::TooLarge, format!("the file has more than {most} bytes"))
}

fn told(failure: Failure, most: u64) -> Error {
    match failure {
        Failure::TooLarge => too_large(most),
        Failure::Gone(reason) => error(ErrorKind::NotFound, format!("the file is not there: {reason}")),
        Failure::Altered => Error {
            code: Some("altered".into()),
            ..error(ErrorKind::NotFound, "the file is not the one that was sent")
        },
        Failure::Later { after, reason } => Error {
            retry_after: after.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX)),
            ..error(ErrorKind::Unavailable, format!("the file is out of reach: {reason}"))
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_piece_is_what_there_is() {
        let bytes = vec![7; PIECE + 10];
        let size = |offset, length| piece(&bytes, offset, length).len();
        let large = u32::MAX;
        assert_eq!((size(0, 3), size(0, large), size(5, large)), (3, PIECE, PIECE));
        let end = u32::try_from(bytes.len()).unwrap();
        assert_eq!((size(end - 2, 10), size(end, 10), size(large, large), size(0, 0)), (2, 0, 0, 0));
    }

    #[test]
    fn a_file_is_what_its_first_bytes_show() {
        assert_eq!(sniff(b"\x89PNG\r\n\x1a\n").as_deref(), Some("image/png"));
        assert_eq!(sniff(b"%PDF-1.7").as_deref(), Some("application/pdf"));
        assert_eq!(sniff(b"just words"), None);
        assert_eq!(sniff(b""), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_holds_so_much_and_gets_more_when_it_lets_go() {
        let room = Room::default();
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(room.take(32 * 1024 * 1024).await.unwrap());
        }
        let full = room.take(1).await.unwrap_err();
        assert!(full.kind == ErrorKind::Unavailable && full.retry_after.is_some());
        let mut large = held.pop().unwrap();
        let small = Kept { bytes: Bytes::from_static(b"small"), _room: large.split(1) };
        let small = Bytes::from_owner(small);
        drop(large);
        assert!(room.take(32 * 1024 * 1024).await.is_err(), "a KiB is held");
        drop(small.slice(1..));
        drop(small);
        assert!(room.take(32 * 1024 * 1024).await.is_ok());
    }

    proptest! {
        /// Whatever somebody sends, behind whatever it begins with.
        #[test]
        fn no_file_is_too_strange_to_be_looked_at(
            head in prop::sample::select(vec![
                &b""[..], b"PK\x03\x04", b"\x1aE\xdf\xa3", b"RIFF", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\0\0\0\x18ftyp",
                b"\x7fELF", b"ID3", b"MZ", b"<!DOCTYPE", b"\0\0\0\x0cjP", b"SQLite format 3",
            ]),
            rest in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let bytes = [head, &rest].concat();
            for end in 0..bytes.len().min(64) {
                let _ = sniff(&bytes[..end]);
            }
            let _ = sniff(&bytes);
        }
    }
}
