//! How long somebody waits for a connection: the client has one time for all, and each request may say less.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tower_layer::Layer;
use tower_service::Service;

use super::CONNECT;

type Error = Box<dyn std::error::Error + Send + Sync>;

tokio::task_local! {
    /// The connector is told an address and nothing else, but is called in the task of the request.
    static PATIENCE: Duration;
}

/// A request whose connection comes about within this time, or not at all.
pub async fn within<F: Future>(patience: Duration, request: F) -> F::Output {
    PATIENCE.scope(patience, request).await
}

/// Makes a connector that gives up.
#[derive(Clone)]
pub struct Patience;

impl<S> Layer<S> for Patience {
    type Service = Patient<S>;

    fn layer(&self, inner: S) -> Patient<S> {
        Patient(inner)
    }
}

/// A connector that gives up.
#[derive(Clone)]
pub struct Patient<S>(S);

impl<S, R> Service<R> for Patient<S>
where
    S: Service<R, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, to: R) -> Self::Future {
        let patience = PATIENCE.try_with(|patience| *patience).unwrap_or(CONNECT);
        let connecting = tokio::time::timeout(patience, self.0.call(to));
        Box::pin(async move { connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? })
    }
}
