//! Where guests go on that take their time: on threads of the lowest priority, so that what is short never waits
//! behind them. A guest begins where its event is handled, and most end there.

use std::{panic::AssertUnwindSafe, task::Poll, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// A guest that has used so much CPU time goes on in the background: twice what a Python guest takes to start.
pub const HEAD: Duration = Duration::from_millis(10);

/// The threads.
pub struct Background(Option<Runtime>);

/// It panicked: something is wrong with the host.
pub struct Panicked;

impl Background {
    /// As many threads as the machine has cores; they sleep until there is something to do.
    ///
    /// # Errors
    /// One line, where there can be no threads.
    pub fn start() -> Result<Self, String> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(1, usize::from))
            .thread_name("parlour-guests")
            .on_thread_start(lowest_priority)
            .enable_all()
            .build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|error| format!("no thread for guests: {error}"))
    }

    /// Runs a future here while it `is_short`, and then in the background. Dropping this ends it at once, or at the
    /// guest's next look at the clock.
    pub async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
        is_short: impl Fn() -> bool,
    ) -> Result<T, Panicked> {
        let mut future = AssertUnwindSafe(future).catch_unwind().boxed();
        let begun = std::future::poll_fn(|context| match future.poll_unpin(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if is_short() => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        });
        if let Some(ended) = begun.await {
            return ended.map_err(|_| Panicked);
        }
        self.finish(future).await.map_err(|_| Panicked)
    }

    async fn finish<T: Send + 'static>(
        &self,
        future: BoxFuture<'static, std::thread::Result<T>>,
    ) -> std::thread::Result<T> {
        match &self.0 {
            Some(runtime) => match AbortOnDropHandle::new(runtime.spawn(future)).await {
                Ok(ended) => ended,
                Err(error) => Err(Box::new(error)),
            },
            None => future.await,
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Waiting for it is not allowed where other futures run.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Of this thread alone, where the system can do that.
fn lowest_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(19) {
        tracing::debug!(target: "parlour", "guests that take their time have the priority of all others: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn thread_name() -> Option<String> {
        thread::current().name().map(str::to_owned)
    }

    #[tokio::test]
    async fn what_is_long_goes_on_elsewhere_and_what_is_short_does_not() {
        let background = Background::start().unwrap();
        let work = || async {
            tokio::task::yield_now().await;
            thread_name()
        };
        let here = thread_name();
        assert_eq!(background.run(work(), || true).await.ok(), Some(here));
        assert_eq!(background.run(work(), || false).await.ok().flatten().as_deref(), Some("parlour-guests"));
    }

    #[tokio::test]
    async fn a_panic_ends_what_has_panicked() {
        let background = Background::start().unwrap();
        let work = || async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        };
        for short in [true, false] {
            assert!(background.run::<()>(work(), || short).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_is_dropped_ends() {
        let background = Background::start().unwrap();
        let (held, ended) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        let running = background.run(work, || false);
        assert!(tokio::time::timeout(Duration::from_millis(20), running).await.is_err());
        ended.await.unwrap_err();
    }
}
