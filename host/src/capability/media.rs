//! `media`: the files of the message that is being handled, and those that the handler makes. Each of the first is fetched
//! once, and all are kept until the handler has ended; nothing here looks at more of one than its first bytes.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Handling, State,
    answers::{given, kept},
    bindings::parlour::plugin::media::{File, Host},
    error,
    types::{Error, ErrorKind},
};
use crate::{
    answers::{self, Entry, Fact},
    event::{Attachment, Kind, MediaSource},
    id::PluginName,
    manifest::Permission,
    mime,
    text::file_name,
};

/// Bytes of one answer, and of one call.
const PIECE: usize = 1024 * 1024;
/// Bytes that one handler holds.
const HELD: u64 = 64 * 1024 * 1024;
/// Files that one handler makes, its tools included: more than anybody opens.
const MADE: usize = 32;
/// Downloads of one delivery, over all its attempts.
const DOWNLOADS: u32 = 64;
/// What all handlers of a plugin hold together, in KiB: a busy one leaves memory for others.
const ROOM: usize = 128 * 1024;
/// How long a download waits for that.
const PATIENCE: Duration = Duration::from_secs(5);

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
    held: tokio::sync::Mutex<Held>,
}

/// What is in memory.
#[derive(Default)]
struct Held {
    /// By the attachment's place in its message.
    fetched: BTreeMap<usize, Bytes>,
    made: Vec<Made>,
}

impl Held {
    /// How many more bytes there may be.
    fn left(&self) -> u64 {
        let fetched = self.fetched.values().map(|bytes| bytes.len() as u64);
        let made = self.made.iter().map(|made| made.bytes().len() as u64);
        HELD - fetched.chain(made).sum::<u64>().min(HELD)
    }
}

/// A file that a handler has made.
struct Made {
    handle: String,
    /// Whose: nobody else knows it.
    plugin: PluginName,
    name: String,
    mime: Option<String>,
    content: Content,
}

enum Content {
    /// Something may still be added.
    Open { bytes: BytesMut, room: Option<OwnedSemaphorePermit> },
    /// It was sent.
    Whole(Bytes),
}

impl Made {
    fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Open { bytes, .. } => bytes,
            Content::Whole(bytes) => bytes,
        }
    }

    /// All of it, from now on as it is.
    fn close(&mut self) -> Bytes {
        let bytes = match &mut self.content {
            Content::Open { bytes, room } => {
                Bytes::from_owner(Kept { bytes: std::mem::take(bytes).freeze(), _room: room.take() })
            }
            Content::Whole(bytes) => return bytes.clone(),
        };
        self.content = Content::Whole(bytes.clone());
        bytes
    }
}

/// A file that is to be sent.
pub struct Sending {
    /// One that is safe to show.
    pub name: String,
    /// What it is sent as.
    pub mime: String,
    /// What is in it.
    pub bytes: Bytes,
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
        self.take_kib(kib(bytes)).await
    }

    async fn take_kib(&self, kib: u32) -> Result<OwnedSemaphorePermit, Error> {
        let taken = tokio::time::timeout(PATIENCE, self.0.clone().acquire_many_owned(kib)).await;
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
            mime: mime::shown(&bytes).map(ToOwned::to_owned),
            extra: None,
        }))
    }

    async fn read(&mut self, handle: String, offset: u32, length: u32) -> Answer<Vec<u8>> {
        Ok(self.file(&handle, "media.read").await.map(|bytes| piece(&bytes, offset, length).to_vec()))
    }

    async fn create(&mut self, name: String, mime: Option<String>) -> Answer<String> {
        Ok(self.make(&name, mime.as_deref()).await)
    }

    async fn append(&mut self, handle: String, bytes: Vec<u8>) -> Answer<()> {
        Ok(self.lengthen(&handle, &bytes).await)
    }
}

impl State {
    async fn file(&mut self, handle: &str, call: &str) -> Result<Bytes, Error> {
        self.holds(Permission::Media, call)?;
        let handling = self.handling()?;
        let most = handling.permissions.media();
        let mut held = handling.media.held.lock().await;
        let (place, attachment) = attachment(handling, handle).ok_or_else(nowhere)?;
        if let Some(bytes) = held.fetched.get(&place) {
            return if bytes.len() as u64 <= most { Ok(bytes.clone()) } else { Err(too_large(most)) };
        }
        let left = held.left();
        let expected = attachment.size.unwrap_or(0);
        if expected > most {
            return Err(too_large(most));
        }
        let most = most.min(attachment.size.unwrap_or(most)).min(left);
        if expected > left || left == 0 {
            return Err(error(ErrorKind::TooLarge, "one delivery reads at most 64 MiB of files"));
        }
        let source = attachment.source.as_ref().ok_or_else(nowhere)?;
        let Handling { record, path, .. } = handling;
        let what = answers::digest([handle.as_bytes()]);
        let (key, found) = record.ask(path, "fetch", &what);
        if let Some(Entry { fact: Fact::Unfetched { error }, .. }) = found {
            return Err(given(error));
        }
        let fetched = fetched(handling, &self.room, source, &what, most).await;
        let bytes = fetched.inspect_err(|error| record.keep(key, Fact::Unfetched { error: kept(error) }))?;
        held.fetched.insert(place, bytes.clone());
        Ok(bytes)
    }

    async fn make(&mut self, name: &str, declared: Option<&str>) -> Result<String, Error> {
        self.holds(Permission::Media, "media.create")?;
        let mime =
            match declared {
                Some(declared) => Some(mime::parse(declared).ok_or_else(|| {
                    error(ErrorKind::Invalid, "a media type is two words, such as `text/csv`")
                })?),
                None => None,
            };
        let handling = self.handling()?;
        let mut held = handling.media.held.lock().await;
        if held.made.len() >= MADE {
            return Err(error(ErrorKind::TooLarge, "one delivery makes at most 32 files"));
        }
        let handle = handle_of_made(handling, held.made.len());
        let content = Content::Open { bytes: BytesMut::new(), room: None };
        let (plugin, name) = (handling.plugin.clone(), file_name(name));
        held.made.push(Made { handle: handle.clone(), plugin, name, mime, content });
        Ok(handle)
    }

    async fn lengthen(&mut self, handle: &str, more: &[u8]) -> Result<(), Error> {
        self.holds(Permission::Media, "media.append")?;
        if more.len() > PIECE {
            return Err(error(ErrorKind::TooLarge, "one call appends at most 1 MiB"));
        }
        let handling = self.handling()?;
        let most = handling.permissions.media();
        let mut held = handling.media.held.lock().await;
        let left = held.left();
        let made = held.made.iter_mut().find(|made| made.is(handle, &handling.plugin)).ok_or_else(nowhere)?;
        let Content::Open { bytes, room } = &mut made.content else {
            return Err(error(ErrorKind::Invalid, "this file was sent as it is"));
        };
        let size = (bytes.len() + more.len()) as u64;
        if size > most {
            return Err(too_large(most));
        }
        if more.len() as u64 > left {
            return Err(error(ErrorKind::TooLarge, "one delivery holds at most 64 MiB of files"));
        }
        let has = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wants = kib(size).saturating_sub(u32::try_from(has).unwrap_or(u32::MAX));
        if wants > 0 {
            let taken = self.room.take_kib(wants).await?;
            match room {
                Some(room) => room.merge(taken),
                None => *room = Some(taken),
            }
        }
        bytes.extend_from_slice(more);
        Ok(())
    }

    /// A file of this delivery, made or received, as it is to be sent.
    pub(super) async fn sending(&mut self, handle: &str, call: &str) -> Result<Sending, Error> {
        self.holds(Permission::Media, call)?;
        let handling = self.handling()?;
        let mut held = handling.media.held.lock().await;
        let empty = || error(ErrorKind::Invalid, "a file that is sent has something in it");
        let (name, declared, bytes) =
            match held.made.iter_mut().find(|made| made.is(handle, &handling.plugin)) {
                Some(made) if made.bytes().is_empty() => return Err(empty()),
                Some(made) => (made.name.clone(), made.mime.clone(), made.close()),
                None => {
                    drop(held);
                    let bytes = self.file(handle, call).await?;
                    let (_, attachment) = attachment(self.handling()?, handle).ok_or_else(nowhere)?;
                    (file_name(&attachment.name), attachment.mime.clone(), bytes)
                }
            };
        if bytes.is_empty() {
            return Err(empty());
        }
        Ok(Sending { name, mime: mime::sent_as(&bytes, declared.as_deref()), bytes })
    }
}

impl Made {
    fn is(&self, handle: &str, plugin: &PluginName) -> bool {
        self.handle == handle && self.plugin == *plugin
    }
}

fn nowhere() -> Error {
    error(ErrorKind::NotFound, "no file of this delivery has this handle")
}

/// The name of an attachment for its delivery, and for no other one.
pub fn handle(handling: &Handling, place: usize) -> String {
    format!("{}/{place}", handling.delivery)
}

/// The name of a file that was made, for its delivery and its plugin. It says nothing of the delivery, by which a tool
/// would know how the files of its caller's message are called.
fn handle_of_made(handling: &Handling, place: usize) -> String {
    let digest = Sha256::digest(format!("{}/{}/{place}", handling.delivery, handling.plugin));
    format!("made/{:016x}", digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
}

fn attachment<'a>(handling: &'a Handling, handle: &str) -> Option<(usize, &'a Attachment)> {
    let Kind::Message(message) = &handling.event.kind else { return None };
    message.attachments.iter().enumerate().find(|(place, _)| self::handle(handling, *place) == handle)
}

/// Downloads a file that `what` stands for in the record. It is the one that was downloaded before, if it was.
async fn fetched(
    handling: &Handling,
    room: &Room,
    source: &MediaSource,
    what: &[u8; 32],
    most: u64,
) -> Result<Bytes, Error> {
    let Handling { media, spent, record, .. } = handling;
    if spent.media.fetch_add(1, Relaxed) >= DOWNLOADS {
        return Err(error(ErrorKind::TooLarge, "one delivery downloads at most 64 files"));
    }
    let mut room = room.take(most).await?;
    let at_most = usize::try_from(most).unwrap_or(usize::MAX);
    let bytes = media.source.fetch(source, at_most).await.map_err(|failed| told(failed, most))?;
    let digest = blake3::hash(&bytes).to_string();
    match record.seen("file", what) {
        Some(Entry { fact: Fact::File { digest: before }, .. }) if before != digest => {
            return Err(told(Failure::Altered, most));
        }
        _ => record.saw("file", what, Fact::File { digest }, Vec::new),
    }
    let room = room.split(kib(bytes.len() as u64) as usize);
    Ok(Bytes::from_owner(Kept { bytes, _room: room }))
}

fn piece(bytes: &[u8], offset: u32, length: u32) -> &[u8] {
    let rest = bytes.get(offset as usize..).unwrap_or_default();
    &rest[..rest.len().min(length as usize).min(PIECE)]
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
}
