//! Begins a future where one is: short work costs no hand-over to another thread.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

/// Runs a future to where it first waits; what is left of it becomes a task. As with a task, a panic ends what has
/// panicked and nothing else.
pub fn here(future: impl Future<Output = ()> + Send + 'static) {
    let mut future = AssertUnwindSafe(future).catch_unwind().boxed();
    if (&mut future).now_or_never().is_none() {
        tokio::spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };

    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_need_not_wait_has_ended_and_what_waits_goes_on() {
        let steps = Arc::new(AtomicU32::new(0));
        let (open, opened) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let counted = steps.clone();
        super::here(async move {
            counted.fetch_add(1, SeqCst);
            opened.await.unwrap();
            counted.fetch_add(1, SeqCst);
            done.send(()).unwrap();
        });
        assert_eq!(steps.load(SeqCst), 1);
        open.send(()).unwrap();
        ended.await.unwrap();
        assert_eq!(steps.load(SeqCst), 2);
        super::here(async { panic!("this ends here") });
    }
}
