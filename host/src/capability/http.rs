//! `wasi:http`: requests to where the plugin may send them, with our own sender.
//!
//! The way of a request: is it asked for and granted; what its host resolves to is vetted, and the connection goes to
//! the very address that was; secrets that are bound to its origin are put on it, and taken out of what comes back.
//! A redirect is an answer like any other: whoever follows it sends a request of its own.

mod body;
pub mod client;
mod recorded;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

pub use self::client::{Resolver, System};
use self::{
    body::{Allowance, Incoming},
    client::{CONNECT, Outlet},
    recorded::{Asking, Question, Way},
};
use super::{
    Handling, Spent, State,
    answers::{Alive, Recorder},
};
use crate::{
    grant::{Denied, Permissions, Route},
    manifest::Permission,
    origin::Target,
    scrub::Scrubbing,
    secret::{Bound, Secrets},
    settings::InFlight,
    tally::Counts,
};

/// Requests of one delivery: more is a loop.
const REQUESTS: u32 = 64;
/// Those that are open at once: each is a connection.
const OPEN: usize = 8;
/// How long an answer may be on its way, and each piece of it: half of what a call may take. A plugin may say less.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Bytes of a request that are taken at once.
const CHUNK: usize = 16 * 1024;
/// Bytes of headers, those of the request and those of the answer.
const HEADERS: usize = 64 * 1024;

/// What a secret's request does not ask for: a part of an answer may be a part of the secret, and what is encoded
/// cannot be looked through. `gzip` is undone by the client.
const NOT_WITH_A_SECRET: [HeaderName; 6] = [
    header::ACCEPT_ENCODING,
    header::ACCEPT_CHARSET,
    HeaderName::from_static("a-im"),
    header::TE,
    header::RANGE,
    header::IF_RANGE,
];

/// `wasi:http` of one instance.
pub struct Http {
    ctx: WasiHttpCtx,
    hooks: Outgoing,
}

impl Http {
    /// With nothing allowed.
    pub fn new(outlet: Arc<Outlet>, secrets: Arc<Secrets>) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(HEADERS);
        let hooks = Outgoing { outlet, secrets, caller: None, open: Arc::default() };
        Self { ctx, hooks }
    }

    /// With what the plugin may do in this delivery.
    #[must_use]
    pub fn with(
        mut self,
        handling: &Handling,
        counts: Arc<Mutex<Counts>>,
        in_flight: Option<InFlight>,
        alive: Alive,
    ) -> Self {
        let Handling { permissions, event, spent, record, path, .. } = handling;
        let (permissions, spent) = (permissions.clone(), spent.clone());
        let (record, path) = (record.clone(), path.clone());
        let encrypted = event.room.encrypted;
        let caller = Caller { permissions, encrypted, spent, counts, record, path, in_flight, alive };
        self.hooks.caller = Some(caller);
        self
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.http.hooks, table: &mut self.table, ctx: &mut self.http.ctx }
    }
}

/// Whose requests they are.
struct Caller {
    permissions: Arc<Permissions>,
    /// What it handles was said in an encrypted room.
    encrypted: bool,
    spent: Arc<Spent>,
    counts: Arc<Mutex<Counts>>,
    record: Arc<Recorder>,
    path: Arc<str>,
    in_flight: Option<InFlight>,
    alive: Alive,
}

impl Caller {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which addresses a request may lead to, and whether it was granted and not only spared; it is counted.
    fn route(&self, target: &Target, method: &str, homeservers: &[Target]) -> Result<(Route, bool), Error> {
        let Self { permissions, encrypted, .. } = self;
        let routed = permissions.http(target, method, homeservers).and_then(|routed| {
            if *encrypted {
                permissions.carries(Permission::Http)?;
            }
            Ok(routed)
        });
        let call = || format!("http: {method} {target}");
        let mut counts = self.counts();
        match routed {
            Ok((route, None)) => {
                counts.used(Permission::Http);
                Ok((route, true))
            }
            Ok((route, Some(spared))) => {
                counts.denied(spared, true, &call());
                Ok((route, false))
            }
            Err(denied) => {
                counts.denied(denied, false, &call());
                Err(match denied {
                    Denied::Private | Denied::Homeserver => Error::DestinationIpProhibited,
                    _ => Error::HttpRequestDenied,
                })
            }
        }
    }
}

/// Sends what a guest wants sent.
struct Outgoing {
    outlet: Arc<Outlet>,
    secrets: Arc<Secrets>,
    /// None while the host only lists.
    caller: Option<Caller>,
    open: Arc<AtomicUsize>,
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send>;

impl WasiHttpHooks for Outgoing {
    /// The client writes it, from the URL.
    fn set_host_header(&mut self) -> bool {
        false
    }

    /// A request that is never sent holds two of these, outside of the guest's memory.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Sending {
        match self.admitted(request) {
            Ok(admitted) => Box::new(admitted.send(self.outlet.clone(), options.unwrap_or_default())),
            Err(refused) => Box::new(std::future::ready(Err(refused))),
        }
    }
}

impl Outgoing {
    /// A request that may be sent.
    fn admitted(&self, request: Request<WasiBody>) -> Result<Admitted, Error> {
        let caller = self.caller.as_ref().ok_or(Error::HttpRequestDenied)?;
        caller.record.requests();
        let target = Target::of(&request.uri().to_string()).map_err(|_| Error::HttpRequestUriInvalid)?;
        let (route, granted) = caller.route(&target, request.method().as_str(), self.outlet.homeservers())?;
        let slot = Slot::take(&self.open).ok_or(Error::ConnectionLimitReached)?;
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        let asking = Asking {
            record: caller.record.clone(),
            path: caller.path.clone(),
            spent: caller.spent.clone(),
            alive: caller.alive.clone(),
            in_flight: caller.in_flight,
            words: format!("http: {} {target}", parts.method),
            changes: recorded::changes(&parts.method),
            // Without what the host puts on it.
            head: recorded::head(&parts.method, target.url().as_str(), &headers),
        };
        let bound: Vec<&Bound> = self.secrets.to(&target).filter(|_| granted).collect();
        if !bound.is_empty() {
            caller.counts().used(Permission::Secrets);
        }
        for bound in &bound {
            headers.insert(bound.header.clone(), bound.value.clone());
        }
        if !bound.is_empty() {
            for name in NOT_WITH_A_SECRET {
                headers.remove(name);
            }
        }
        let scrubs = bound.iter().map(|bound| bound.scrub.clone()).collect();
        let outward = Outward { target, route, method: parts.method, headers, scrubs };
        Ok(Admitted { outward, body, slot, asking })
    }
}

/// A request that may be sent.
struct Admitted {
    outward: Outward,
    body: WasiBody,
    slot: Slot,
    asking: Asking,
}

/// What is sent, but for its body.
struct Outward {
    target: Target,
    route: Route,
    method: http::Method,
    headers: HeaderMap,
    scrubs: Vec<crate::scrub::Scrub>,
}

impl Admitted {
    async fn send(
        self,
        outlet: Arc<Outlet>,
        options: RequestOptions,
    ) -> Result<(Response<WasiBody>, Io), Error> {
        let Self { outward, body, slot, asking } = self;
        let nothing_more: Io = Box::new(std::future::ready(Ok(())));
        let first_byte = deadline(options.first_byte_timeout);
        let looked_at = tokio::time::timeout(first_byte, recorded::looked_at(body));
        let (body, digest) = looked_at.await.map_err(|_| Error::HttpResponseTimeout)??;
        let (mut question, mut slot) = match asking.way(digest, slot).await? {
            Way::Answered(response) => return Ok((response, nothing_more)),
            Way::Open(question, slot) => (question, slot),
        };
        let between = deadline(options.between_bytes_timeout);
        let (answer, headers, scrubs) =
            match outward.answer(body, &outlet, options, &mut question, &mut slot).await {
                Ok(answer) => answer,
                Err(error) => return Err(question.failed(error).await),
            };
        let mut response = Response::new(());
        *response.status_mut() = answer.status();
        *response.headers_mut() = headers;
        let scrubbing = (!scrubs.is_empty()).then(|| Scrubbing::new(scrubs));
        let length = answer.content_length().filter(|_| scrubbing.is_none());
        let recording = question.came(answer.status(), response.headers(), length).await;
        let incoming = Incoming::new(answer, scrubbing, between, slot, recording);
        Ok((response.map(|()| incoming.body()), nothing_more))
    }
}

/// How long something may take, where a plugin may have said less.
fn deadline(said: Option<Duration>) -> Duration {
    said.unwrap_or(DEADLINE).min(DEADLINE)
}

impl Outward {
    /// The answer when it begins, with its headers as the guest may see them, and what is to be taken out of the rest.
    async fn answer(
        self,
        body: WasiBody,
        outlet: &Outlet,
        options: RequestOptions,
        question: &mut Question,
        slot: &mut Slot,
    ) -> Result<(reqwest::Response, HeaderMap, Vec<crate::scrub::Scrub>), Error> {
        let Self { target, route, method, mut headers, scrubs } = self;
        let connect = options.connect_timeout.unwrap_or(CONNECT).min(CONNECT);
        // Those that wait may hold what the others wait for: they give up.
        let room = tokio::time::timeout(connect, outlet.room()).await;
        slot.room = room.map_err(|_| Error::ConnectionLimitReached)?;
        if let Some(address) = target.address() {
            let vetted = tokio::time::timeout(connect, outlet.vet(&[address], route)).await;
            vetted.map_err(|_| Error::ConnectionTimeout)??;
        }
        question.begins(&mut headers).await?;
        let mut request = reqwest::Request::new(method, target.url().clone());
        *request.headers_mut() = headers;
        let allowance = Allowance::new(body::REQUEST);
        *request.body_mut() = body::outgoing(body, &allowance);
        let answer = client::within(connect, outlet.client(&target, route)?.execute(request));
        let answer = tokio::time::timeout(deadline(options.first_byte_timeout), answer).await;
        let answer = answer.map_err(|_| Error::HttpResponseTimeout)?.map_err(|error| {
            if allowance.is_over() {
                Error::HttpRequestBodySize(Some(body::REQUEST))
            } else {
                client::failed(&error)
            }
        })?;
        let headers = clean(answer.headers(), &scrubs)?;
        Ok((answer, headers, scrubs))
    }
}

/// The headers of an answer, without secrets.
fn clean(headers: &HeaderMap, scrubs: &[crate::scrub::Scrub]) -> Result<HeaderMap, Error> {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > HEADERS {
        return Err(Error::HttpResponseHeaderSectionSize(u32::try_from(size).ok()));
    }
    let mut headers = headers.clone();
    if scrubs.is_empty() {
        return Ok(headers);
    }
    // Whatever is still encoded cannot be looked through.
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Error::HttpResponseContentCoding(None));
    }
    let transfer = headers.get_all(header::TRANSFER_ENCODING);
    if transfer.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Error::HttpResponseTransferCoding(None));
    }
    // What is taken out changes the length.
    headers.remove(header::CONTENT_LENGTH);
    for value in headers.values_mut() {
        for scrub in scrubs {
            if let Some(clean) = scrub.text(value.as_bytes()) {
                *value = HeaderValue::from_bytes(&clean).map_err(|_| Error::HttpProtocolError)?;
            }
        }
    }
    // A header's name may say it as well as its value.
    let told = |name: &HeaderName| scrubs.iter().any(|scrub| scrub.text(name.as_str().as_bytes()).is_some());
    let told: Vec<HeaderName> = headers.keys().filter(|name| told(name)).cloned().collect();
    for name in told {
        headers.remove(name);
    }
    Ok(headers)
}

/// One of the requests that an instance may have open, with the room that it takes of its plugin's; given back when it is
/// dropped.
struct Slot {
    open: Arc<AtomicUsize>,
    room: [Option<OwnedSemaphorePermit>; 2],
}

impl Slot {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let slot = Self { open: open.clone(), room: [None, None] };
        (open.fetch_add(1, Relaxed) < OPEN).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

/// A boxed stream.
type Pieces<T> = Pin<Box<dyn futures_util::Stream<Item = T> + Send>>;
