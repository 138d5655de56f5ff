//! Streams into a file, which cost what goes through them, and out of one. Neither waits for ever.

use std::{fs::File, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;
use wasmtime_wasi::{
    p2::{DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult},
    runtime::{AbortOnDropJoinHandle, spawn, spawn_blocking},
};

use super::{
    WITHIN,
    folder::{Charge, Folder},
};

fn late() -> StreamError {
    StreamError::LastOperationFailed(io::Error::from(io::ErrorKind::TimedOut).into())
}

/// A stream out of a file.
pub struct Read {
    inner: DynInputStream,
    late: bool,
}

impl Read {
    /// What comes out of this one.
    pub fn new(inner: DynInputStream) -> Self {
        Self { inner, late: false }
    }
}

#[async_trait]
impl InputStream for Read {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.late { Err(late()) } else { self.inner.read(size) }
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.late {
            return Err(late());
        }
        timeout(WITHIN, self.inner.blocking_read(size)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn cancel(&mut self) {
        drop(timeout(WITHIN, self.inner.cancel()).await);
    }
}

#[async_trait]
impl Pollable for Read {
    async fn ready(&mut self) {
        self.late |= timeout(WITHIN, self.inner.ready()).await.is_err();
    }
}

/// A stream into a file.
pub struct Charged {
    inner: DynOutputStream,
    file: Arc<File>,
    folder: Arc<Folder>,
    limit: u64,
    /// Where it begins, until something was written: there may be a gap before.
    begins: Option<u64>,
    /// What is not written before it was charged.
    waiting: Option<(Bytes, AbortOnDropJoinHandle<io::Result<Charge>>)>,
    /// What is being written.
    charge: Option<Charge>,
    failed: Option<StreamError>,
    closed: bool,
}

impl Charged {
    /// What goes through this stream into this file is charged; it begins at a place, or at the end.
    pub fn new(
        inner: DynOutputStream,
        file: Arc<File>,
        (folder, limit): (Arc<Folder>, u64),
        begins: Option<u64>,
    ) -> Self {
        let (waiting, charge, failed) = (None, None, None);
        Self { inner, file, folder, limit, begins, waiting, charge, failed, closed: false }
    }

    fn check(&mut self) -> StreamResult<()> {
        match self.failed.take() {
            Some(failed) => {
                self.closed = true;
                Err(failed)
            }
            None if self.closed => Err(StreamError::Closed),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl OutputStream for Charged {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.check()?;
        if self.waiting.is_some() {
            return Err(StreamError::trap("write not permitted: check_write not called first"));
        }
        let size = bytes.len() as u64;
        if self.begins.is_none_or(|at| at == 0)
            && let Some(charge) = self.folder.try_take(size, self.limit)
        {
            self.charge = Some(charge);
            return self.inner.write(bytes);
        }
        let (folder, limit, file, begins) = (self.folder.clone(), self.limit, self.file.clone(), self.begins);
        let charging = spawn(async move {
            let gap = match begins {
                None | Some(0) => 0,
                Some(at) => at.saturating_sub(spawn_blocking(move || file.metadata()).await?.len()),
            };
            let charge = folder.take(gap.saturating_add(size), limit).await;
            charge.ok_or_else(|| rustix::io::Errno::NOSPC.into())
        });
        self.waiting = Some((bytes, charging));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check()?;
        if self.waiting.is_some() { Ok(()) } else { self.inner.flush() }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.check()?;
        if self.waiting.is_some() {
            return Ok(0);
        }
        let most = self.inner.check_write()?;
        if most > 0 {
            self.charge = None;
        }
        Ok(most)
    }

    /// Waits for what is being written: nobody leaves it behind.
    async fn cancel(&mut self) {
        self.ready().await;
        drop(timeout(WITHIN, self.inner.cancel()).await);
    }
}

#[async_trait]
impl Pollable for Charged {
    async fn ready(&mut self) {
        if let Some((_, charging)) = &mut self.waiting {
            let charged = timeout(WITHIN, charging).await.unwrap_or_else(|late| Err(late.into()));
            let bytes = self.waiting.take().map(|(bytes, _)| bytes).unwrap_or_default();
            let written = match charged {
                Ok(charge) => {
                    (self.charge, self.begins) = (Some(charge), None);
                    self.inner.write(bytes)
                }
                Err(error) => Err(StreamError::LastOperationFailed(error.into())),
            };
            self.failed = written.err();
        }
        if self.failed.is_none() && !self.closed && timeout(WITHIN, self.inner.ready()).await.is_err() {
            self.failed = Some(late());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that never answers.
    struct Hanging;

    #[async_trait]
    impl OutputStream for Hanging {
        fn write(&mut self, _: Bytes) -> StreamResult<()> {
            Ok(())
        }

        fn flush(&mut self) -> StreamResult<()> {
            Ok(())
        }

        fn check_write(&mut self) -> StreamResult<usize> {
            Ok(0)
        }

        async fn cancel(&mut self) {
            std::future::pending::<()>().await;
        }
    }

    #[async_trait]
    impl InputStream for Hanging {
        fn read(&mut self, _: usize) -> StreamResult<Bytes> {
            Ok(Bytes::new())
        }
    }

    #[async_trait]
    impl Pollable for Hanging {
        async fn ready(&mut self) {
            std::future::pending::<()>().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_disk() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = super::super::Folders::default().of(place.path()).expect("it is there");
        let file = Arc::new(File::create(place.path().join("file")).expect("it can be made"));
        let mut writing = Charged::new(Box::new(Hanging), file, (folder, 1000), None);
        let failed = writing.blocking_write_and_flush("text".into()).await;
        assert!(matches!(failed, Err(StreamError::LastOperationFailed(_))), "{failed:?}");
        OutputStream::cancel(&mut writing).await;
        let mut reading = Read::new(Box::new(Hanging));
        let failed = InputStream::blocking_read(&mut reading, 10).await;
        assert!(matches!(failed, Err(StreamError::LastOperationFailed(_))), "{failed:?}");
        reading.ready().await;
        assert!(reading.read(10).is_err());
    }
}
