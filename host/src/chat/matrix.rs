//! A Matrix account as a chat, on matrix-sdk: the only folder that names it.
//!
//! One client per agent; nothing is shared between two. The SDK decrypts, encrypts and keeps its own stores; the
//! position, what was handled and what is to be sent are the ledger's. Its send queue and event cache are not
//! used, for they would keep a second copy of each, with rules of their own.

mod account;
mod backfill;
mod convert_in;
mod crypto;
mod direct;
mod encrypting;
mod failure;
mod identity;
mod media;
mod membership;
mod presence;
mod room;
mod send;
mod sign_in;
mod standing;
mod store;
mod sync;
mod upload;
mod wire;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt,
    future::{BoxFuture, ready},
    stream::{self, BoxStream},
};
use matrix_sdk::{
    Client, SessionMeta, SessionTokens, SqliteCryptoStore, SqliteEventCacheStore, SqliteMediaStore,
    SqliteStateStore, SqliteStoreConfig,
    authentication::matrix::MatrixSession,
    config::RequestConfig,
    cross_process_lock::CrossProcessLockConfig,
    deserialized_responses::TimelineEvent,
    encryption::{BackupDownloadStrategy, EncryptionSettings},
    ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId as MatrixRoomId},
    store::{RoomLoadSettings, StateStoreDataKey, StoreConfig},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::account::{Account, Encryption, Secret};
use self::{
    crypto::Crypto,
    direct::Made,
    identity::{Identity as CrossSigning, Outcome},
    presence::Presence,
    sign_in::{Renewed, SignedIn},
    standing::Standing,
    store::{Session, Store},
    sync::{Halt, Start, matrix_room},
    wire::{Wire, cause},
};
use crate::{
    backoff::Backoff,
    chat::{Attendance, Chat, Connection, Ended, Identity, MediaError, Opened, Past, SendError, StartError},
    effect::{Outgoing, Upload},
    event::{Batch, Event, MediaSource, Position},
    id::{AgentName, EventId, RoomId, UserId},
    notice::{Notice, Notices},
};

/// One request; a sync's long poll comes on top.
const REQUEST: Duration = Duration::from_secs(30);

/// Setting up the account's identity may hold up a start for so long; it goes on after the first sync.
const IDENTITY: Duration = Duration::from_mins(1);

/// So may the first contact: an account in many rooms has much to tell.
const FIRST_CONTACT: Duration = Duration::from_mins(5);

/// Between two looks at something that nobody tells.
const MOMENT: Duration = Duration::from_millis(50);

/// Requests of a session that has run out end by themselves: the server refuses them.
const LAST_REQUESTS: Duration = Duration::from_secs(60);

const NOT_YET: &str = "the account has not signed in yet";

/// One account on one homeserver.
pub struct Matrix {
    account: Account,
    notices: Notices,
    /// None before it has signed in, and for a moment when it does so again.
    live: ArcSwapOption<Live>,
    past: OnceLock<Arc<dyn Past>>,
    stream: tokio::sync::Mutex<Stream>,
}

/// The request under way belongs to no caller, so that dropping [`Chat::next`] loses nothing.
struct Stream {
    start: Start,
    running: Option<JoinHandle<Result<Batch, Halt>>>,
    /// Came while the account was started.
    ready: Option<Result<Batch, Halt>>,
}

impl Stream {
    /// What comes next. Cancel-safe: the request goes on.
    async fn poll(&mut self, live: &Arc<Live>) -> Result<Batch, Halt> {
        let start = &self.start;
        let running =
            self.running.get_or_insert_with(|| tokio::spawn(sync::step(live.clone(), start.clone())));
        let result = running.await;
        self.running = None;
        let failed = |error| Err(Halt::Ended(Ended::Lost(format!("the sync loop failed: {error}"))));
        result.unwrap_or_else(failed)
    }
}

type Keys = BoxStream<'static, Option<BTreeSet<String>>>;

/// What exists once the account is signed in.
struct Live {
    client: Client,
    wire: Arc<Wire>,
    account: Account,
    notices: Notices,
    session: Session,
    store: Arc<Store>,
    presence: Presence,
    standing: Arc<Standing>,
    past: Option<Arc<dyn Past>>,
    /// Tells which keys come.
    keys: tokio::sync::Mutex<Option<Keys>>,
    /// When the server answered last that all is known.
    here: Mutex<SystemTime>,
    /// Another session has taken its place.
    over: CancellationToken,
    identity_settled: tokio::sync::Mutex<bool>,
    /// Invitations that were handed over in this run.
    invited: Mutex<HashSet<OwnedRoomId>>,
    /// Invitations that were declined here and that the next sync takes away.
    declined: Mutex<HashSet<OwnedRoomId>>,
    /// What is known of direct chats in this run, each of which one looks for at a time.
    made: Mutex<HashMap<UserId, Arc<tokio::sync::Mutex<Option<Made>>>>>,
}

impl Matrix {
    /// An account that has not signed in yet.
    #[must_use]
    pub fn new(account: Account, notices: Notices) -> Self {
        let start = Start::from(None, false);
        let stream = tokio::sync::Mutex::new(Stream { start, running: None, ready: None });
        Self { account, notices, live: ArcSwapOption::empty(), past: OnceLock::new(), stream }
    }

    fn live(&self) -> Result<Arc<Live>, SendError> {
        self.live.load_full().ok_or(SendError::Later { after: None, reason: NOT_YET.into() })
    }

    /// A session, ready for work.
    async fn begin(
        &self,
        wire: Arc<Wire>,
        store: Arc<Store>,
        session: Session,
        standing: Arc<Standing>,
    ) -> Result<Live, StartError> {
        let client = open_client(&wire, &store, &session, &self.account.agent, &self.notices).await?;
        let keys = client.encryption().room_keys_received_stream().await.map(|keys| {
            // An error says that there were too many to tell.
            let names = keys.map(|keys| {
                Some(keys.ok()?.into_iter().map(|key| key.session_id).collect::<BTreeSet<String>>())
            });
            // Those of the session before may have told of keys that nobody has heard of yet.
            stream::once(ready(None)).chain(names).boxed()
        });
        Ok(Live {
            client,
            wire,
            account: self.account.clone(),
            notices: self.notices.clone(),
            session,
            store,
            presence: Presence::default(),
            standing,
            past: self.past.get().cloned(),
            keys: tokio::sync::Mutex::new(keys),
            here: Mutex::new(SystemTime::now()),
            over: CancellationToken::new(),
            identity_settled: tokio::sync::Mutex::default(),
            invited: Mutex::default(),
            declined: Mutex::default(),
            made: Mutex::default(),
        })
    }

    /// The session has run out: another one takes its place, on the same device, with the same keys.
    async fn sign_in_again(&self, live: Arc<Live>) -> Result<(), Ended> {
        let mut backoff = Backoff::default();
        let session = live.current();
        let session = loop {
            match sign_in::renew(&self.account, &live.store, &live.wire, &session).await {
                Renewed::Session(session) => break session,
                Renewed::Ended(error) => return Err(Ended::Lost(error.reason)),
                Renewed::Later(reason) => {
                    if live.standing.failed(&reason) {
                        live.say(format!("{} is out of reach: {reason}; trying on", self.account.homeserver));
                    }
                    backoff.wait(None).await;
                }
            }
        };
        live.say("the session had run out, and the agent has signed in again on the same device".into());
        self.open_again(live, session).await;
        Ok(())
    }

    /// Another client takes the place of this one: memory is then what the databases have.
    async fn open_again(&self, live: Arc<Live>, session: Session) {
        let (wire, store) = (live.wire.clone(), live.store.clone());
        let (here, standing) = (*lock(&live.here), live.standing.clone());
        // Two clients must not use the same keys: nothing of the old one is left before there is a new one.
        self.live.store(None);
        live.over.cancel();
        live.presence.end();
        let alone = async {
            while Arc::strong_count(&live) > 1 {
                tokio::time::sleep(MOMENT).await;
            }
        };
        if tokio::time::timeout(LAST_REQUESTS, alone).await.is_err() {
            tracing::warn!(target: "parlour", "a request of the old session has not ended");
        }
        drop(live);
        let mut backoff = Backoff::default();
        // Nothing is asked of the server here, so that all that fails is this machine's.
        let opened = loop {
            let (wire, store, session) = (wire.clone(), store.clone(), session.clone());
            match self.begin(wire, store, session, standing.clone()).await {
                Ok(opened) => break opened,
                Err(error) => {
                    if standing.failed(&error.reason) {
                        let (agent, text) = (self.account.agent.clone(), format!("{error}; trying on"));
                        self.notices.say(Notice::Agent { agent, text });
                    }
                    backoff.wait(None).await;
                }
            }
        };
        *lock(&opened.here) = here;
        self.live.store(Some(Arc::new(opened)));
    }

    async fn sign_in(&self, from: Option<Position>) -> Result<Identity, StartError> {
        let mut stream = self.stream.lock().await;
        if self.live.load().is_some() {
            return Err(StartError::new("the account was started before"));
        }
        let (account, notices) = (self.account.clone(), self.notices.clone());
        let say = |text: String| notices.say(Notice::Agent { agent: account.agent.clone(), text });
        let wire = Arc::new(Wire::new(&account.homeserver)?);
        let store = Arc::new(Store::open(&account.store).await?);
        let had_keys = store.has_keys();
        let SignedIn { session, reachable, fresh } = sign_in::sign_in(&account, &store, &wire, &say).await?;
        let standing = Arc::new(Standing::new(reachable));
        let live = Arc::new(self.begin(wire, store, session, standing).await?);
        if reachable {
            let local = live.client.encryption().ed25519_key().await;
            sign_in::check_keys(&live.wire, &live.session, &live.store, local.as_deref()).await?;
        }
        let mut display_name = None;
        if reachable {
            let _ = tokio::time::timeout(IDENTITY, live.settle_identity()).await;
            display_name = live.client.account().get_display_name().await.ok().flatten();
        }
        let user = UserId::parse(live.own()).map_err(|error| {
            StartError::new(format!("the server gave the account a strange name: {error}"))
        })?;
        let full_state = from.is_some() && (fresh || !had_keys);
        stream.start = Start::from(from.map(|position| position.0), full_state);
        // From here on what is new counts, so the first contact is made now.
        if reachable && stream.start.position.is_none() {
            stream.ready = tokio::time::timeout(FIRST_CONTACT, stream.poll(&live)).await.ok();
        }
        self.live.store(Some(live));
        Ok(Identity { user, display_name })
    }

    async fn batch(&self) -> Result<Batch, Ended> {
        let mut stream = self.stream.lock().await;
        let mut again = Backoff::default();
        let mut renewed = false;
        let batch = loop {
            let Some(live) = self.live.load_full() else {
                return Err(Ended::Lost("the account was never signed in".into()));
            };
            let result = match stream.ready.take() {
                Some(result) => result,
                None => stream.poll(&live).await,
            };
            match result {
                Ok(batch) => break batch,
                Err(Halt::Ended(ended)) => return Err(ended),
                Err(Halt::Signed) => {
                    if std::mem::replace(&mut renewed, true) {
                        again.wait(None).await;
                    }
                    self.sign_in_again(live).await?;
                    stream.start.begin_anew();
                }
                Err(Halt::Ahead) => {
                    again.wait(None).await;
                    let session = live.current();
                    self.open_again(live, session).await;
                    stream.start.begin_anew();
                }
            }
        };
        stream.start = Start::after(batch.position.0.clone());
        Ok(batch)
    }
}

/// The futures of [`Chat`]'s methods. Under the bounds of those methods themselves the compiler proves for every part
/// of the SDK's client, anew in each, that it may be shared between threads, for half a minute.
impl Matrix {
    fn starting(&self, from: Option<Position>) -> BoxFuture<'_, Result<Identity, StartError>> {
        self.sign_in(from).boxed()
    }

    fn reading(&self) -> BoxFuture<'_, Result<Batch, Ended>> {
        self.batch().boxed()
    }

    fn sending<'f>(&'f self, outgoing: &'f Outgoing) -> BoxFuture<'f, Result<EventId, SendError>> {
        async { send::send(&self.live()?.client, self.account.encryption, outgoing).await }.boxed()
    }

    fn fetching<'f>(
        &'f self,
        file: &'f MediaSource,
        most: usize,
    ) -> BoxFuture<'f, Result<Bytes, MediaError>> {
        async move {
            let not_yet = || MediaError::Later { after: None, reason: NOT_YET.into() };
            let live = self.live.load_full().ok_or_else(not_yet)?;
            media::fetch(&live, file, most).await
        }
        .boxed()
    }

    fn waiting_for_keys(&self) -> BoxFuture<'_, Option<BTreeSet<String>>> {
        async {
            loop {
                if let Some(live) = self.live.load_full() {
                    // What is over must be let go of.
                    let keys = tokio::select! {
                        keys = live.keys() => Some(keys),
                        () = live.over.cancelled() => None,
                    };
                    if let Some(keys) = keys {
                        return keys;
                    }
                }
                tokio::time::sleep(MOMENT).await;
            }
        }
        .boxed()
    }

    fn opening<'f>(&'f self, event: &'f Event) -> BoxFuture<'f, Opened> {
        async move {
            match self.live.load_full() {
                Some(live) => sync::open(&live, event).await,
                None => Opened::NotYet,
            }
        }
        .boxed()
    }

    fn uploading<'f>(&'f self, upload: &'f Upload) -> BoxFuture<'f, Result<MediaSource, SendError>> {
        async {
            let live = self.live()?;
            upload::upload(&live, upload).await
        }
        .boxed()
    }

    fn seeing<'f>(&'f self, room: &'f RoomId) -> BoxFuture<'f, Attendance> {
        async move {
            let room = matrix_room(room).and_then(|room| self.live.load_full()?.client.get_room(&room));
            match room {
                Some(room) => room::attendance(&room).await,
                None => Attendance::Unknown,
            }
        }
        .boxed()
    }

    fn answering<'f>(&'f self, room: &'f RoomId, accept: bool) -> BoxFuture<'f, Result<(), SendError>> {
        async move {
            let live = self.live()?;
            membership::answer(&live, room, accept).await
        }
        .boxed()
    }

    fn connected(&self) -> BoxFuture<'_, Connection> {
        async {
            match self.live.load_full() {
                Some(live) => standing::connection(&live).await,
                None => Connection::default(),
            }
        }
        .boxed()
    }

    fn finding<'f>(&'f self, user: &'f UserId) -> BoxFuture<'f, Result<RoomId, SendError>> {
        async {
            let live = self.live()?;
            direct::direct(&live, user).await
        }
        .boxed()
    }
}

/// The signatures are what `async_trait` would make of them.
impl Chat for Matrix {
    fn remember(&self, past: Arc<dyn Past>) {
        drop(self.past.set(past));
    }

    fn start<'s, 'f>(&'s self, from: Option<Position>) -> BoxFuture<'f, Result<Identity, StartError>>
    where
        's: 'f,
        Self: 'f,
    {
        self.starting(from)
    }

    fn next<'s, 'f>(&'s self) -> BoxFuture<'f, Result<Batch, Ended>>
    where
        's: 'f,
        Self: 'f,
    {
        self.reading()
    }

    fn send<'s, 'o, 'f>(&'s self, outgoing: &'o Outgoing) -> BoxFuture<'f, Result<EventId, SendError>>
    where
        's: 'f,
        'o: 'f,
        Self: 'f,
    {
        self.sending(outgoing)
    }

    fn media<'s, 'm, 'f>(
        &'s self,
        file: &'m MediaSource,
        most: usize,
    ) -> BoxFuture<'f, Result<Bytes, MediaError>>
    where
        's: 'f,
        'm: 'f,
        Self: 'f,
    {
        self.fetching(file, most)
    }

    fn keys<'s, 'f>(&'s self) -> BoxFuture<'f, Option<BTreeSet<String>>>
    where
        's: 'f,
        Self: 'f,
    {
        self.waiting_for_keys()
    }

    fn open<'s, 'e, 'f>(&'s self, event: &'e Event) -> BoxFuture<'f, Opened>
    where
        's: 'f,
        'e: 'f,
        Self: 'f,
    {
        self.opening(event)
    }

    fn upload<'s, 'u, 'f>(&'s self, upload: &'u Upload) -> BoxFuture<'f, Result<MediaSource, SendError>>
    where
        's: 'f,
        'u: 'f,
        Self: 'f,
    {
        self.uploading(upload)
    }

    fn attendance<'s, 'r, 'f>(&'s self, room: &'r RoomId) -> BoxFuture<'f, Attendance>
    where
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        self.seeing(room)
    }

    fn typing(&self, room: &RoomId, on: bool) {
        if let (Some(live), Some(room)) = (self.live.load_full(), matrix_room(room)) {
            live.presence.typing(&live.client, room, on);
        }
    }

    fn read(&self, room: &RoomId, event: &EventId, _thread: Option<&EventId>) {
        let event = OwnedEventId::try_from(event.as_str());
        if let (Some(live), Some(room), Ok(event)) = (self.live.load_full(), matrix_room(room), event) {
            live.presence.read(&live.client, room, event);
        }
    }

    fn connection<'s, 'f>(&'s self) -> BoxFuture<'f, Connection>
    where
        's: 'f,
        Self: 'f,
    {
        self.connected()
    }

    fn answer<'s, 'r, 'f>(&'s self, room: &'r RoomId, accept: bool) -> BoxFuture<'f, Result<(), SendError>>
    where
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        self.answering(room, accept)
    }

    fn direct<'s, 'u, 'f>(&'s self, user: &'u UserId) -> BoxFuture<'f, Result<RoomId, SendError>>
    where
        's: 'f,
        'u: 'f,
        Self: 'f,
    {
        self.finding(user)
    }

    fn known_direct(&self, user: &UserId) -> Option<RoomId> {
        direct::known(&*self.live.load_full()?, user)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        if let Some(running) = self.stream.get_mut().running.take() {
            running.abort();
        }
    }
}

/// Opens the SDK's stores and gives it the session. Nothing is sent yet.
async fn open_client(
    wire: &Wire,
    store: &Arc<Store>,
    session: &Session,
    agent: &AgentName,
    notices: &Notices,
) -> Result<Client, StartError> {
    let folder = store.folder().display();
    let failed = |what: &str, error: &dyn std::error::Error| {
        StartError::new(format!("{what} in {folder}: {}", cause(error)))
    };
    store.prepare_databases().map_err(|error| failed("cannot make the databases", &error))?;
    let stores =
        open_stores(store.folder()).await.map_err(|error| failed("cannot open the databases", &*error))?;
    let client = Client::builder()
        .homeserver_url(wire.base().as_str())
        .respect_login_well_known(false)
        .handle_refresh_tokens()
        .store_config(stores)
        // When a request is made again is the outbox's and the sync loop's decision.
        .request_config(RequestConfig::new().disable_retry().timeout(REQUEST))
        .cross_process_store_config(CrossProcessLockConfig::SingleProcess)
        .with_enable_share_history_on_invite(false)
        .with_encryption_settings(EncryptionSettings {
            auto_enable_cross_signing: false,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
            auto_enable_backups: false,
        })
        .build()
        .await
        .map_err(|error| failed("cannot open the databases", &error))?;
    // Else the SDK takes an answer for known whose events were never handed over.
    client
        .state_store()
        .remove_kv_data(StateStoreDataKey::SyncToken)
        .await
        .map_err(|error| failed("cannot write the databases", &error))?;
    let user = OwnedUserId::try_from(session.user.as_str())
        .map_err(|error| failed("session.json names no account", &error))?;
    keep_tokens(&client, store, session, agent, notices)
        .map_err(|error| failed("cannot keep tokens", &error))?;
    let session = MatrixSession {
        meta: SessionMeta { user_id: user, device_id: session.device.as_str().into() },
        tokens: SessionTokens { access_token: session.token.clone(), refresh_token: session.refresh.clone() },
    };
    client.matrix_auth().restore_session(session, RoomLoadSettings::default()).await.map_err(|error| {
        StartError::new(format!(
            "the databases in {folder} do not fit the session: {}; move the folder away to sign in as a new device",
            cause(&error)
        ))
    })?;
    Ok(client)
}

/// What [`matrix_sdk::ClientBuilder::sqlite_store`] opens, with [`Crypto`] before the keys.
async fn open_stores(folder: &Path) -> Result<StoreConfig, Box<dyn std::error::Error + Send + Sync>> {
    let config = SqliteStoreConfig::new(folder);
    let (state, events, media, keys) = tokio::try_join!(
        SqliteStateStore::open_with_config(&config),
        SqliteEventCacheStore::open_with_config(&config),
        SqliteMediaStore::open_with_config(&config),
        SqliteCryptoStore::open_with_config(&config),
    )?;
    Ok(StoreConfig::new(CrossProcessLockConfig::SingleProcess)
        .state_store(state)
        .event_cache_store(events)
        .media_store(media)
        .crypto_store(Crypto::new(keys)))
}

/// Has the session written down whenever its tokens change, which is before the next request: until one of the new ones is
/// used, the server takes the old.
fn keep_tokens(
    client: &Client,
    store: &Arc<Store>,
    session: &Session,
    agent: &AgentName,
    notices: &Notices,
) -> Result<(), matrix_sdk::Error> {
    // The folder's lock is not the client's, of which something may live on for a moment.
    let (store, session) = (Arc::downgrade(store), session.clone());
    let (agent, notices) = (agent.clone(), notices.clone());
    let nobody_else_has_them = Box::new(|client: Client| {
        client
            .session_tokens()
            .ok_or_else(|| Box::<dyn std::error::Error + Send + Sync>::from("it has no tokens"))
    });
    let keep = Box::new(move |client: Client| {
        let (Some(store), Some(tokens)) = (store.upgrade(), client.session_tokens()) else { return Ok(()) };
        let SessionTokens { access_token, refresh_token } = tokens;
        let next = Session { token: access_token, refresh: refresh_token, ..session.clone() };
        store.keep_session(&next).map_err(|error| {
            let text = format!(
                "the session's new tokens could not be written: {error}; the next start may need the password"
            );
            notices.say(Notice::Agent { agent: agent.clone(), text });
            Box::<dyn std::error::Error + Send + Sync>::from(error)
        })
    });
    client.set_session_callbacks(nobody_else_has_them, keep)
}

impl Live {
    /// The session with its tokens as they are now.
    fn current(&self) -> Session {
        let tokens = self.client.session_tokens();
        let refresh = tokens.map_or_else(|| self.session.refresh.clone(), |tokens| tokens.refresh_token);
        Session { token: self.token(), refresh, ..self.session.clone() }
    }

    /// The access token as it is now.
    fn token(&self) -> String {
        self.client.access_token().unwrap_or_else(|| self.session.token.clone())
    }

    fn own(&self) -> &str {
        &self.session.user
    }

    fn say(&self, text: String) {
        self.notices.say(Notice::Agent { agent: self.account.agent.clone(), text });
    }

    /// What is being sent may have arrived or not.
    fn broke(&self) {
        if let Some(past) = &self.past {
            past.broke();
        }
    }

    /// By the clock on the wall: a machine that slept was away, too.
    fn was_away(&self, longer_than: Duration) -> bool {
        lock(&self.here).elapsed().is_ok_and(|since| since > longer_than)
    }

    fn is_here(&self) {
        *lock(&self.here) = SystemTime::now();
    }

    /// Whether it is older than anything that is answered.
    fn is_too_old(&self, event: &TimelineEvent) -> bool {
        let Some(past) = &self.past else { return false };
        let sent = event.timestamp().and_then(MilliSecondsSinceUnixEpoch::to_system_time);
        sent.is_some_and(|sent| sent.elapsed().is_ok_and(|age| age > past.horizon()))
    }

    /// The keys of rooms that have come since it was asked last; none where some may have been missed.
    async fn keys(&self) -> Option<BTreeSet<String>> {
        let mut stream = self.keys.lock().await;
        if let Some(keys) = stream.as_mut() {
            if let Some(keys) = keys.next().await {
                return keys;
            }
            *stream = None;
        }
        std::future::pending().await
    }

    /// Sets up the account's identity, once per run.
    async fn settle_identity(&self) {
        let mut settled = self.identity_settled.lock().await;
        if *settled {
            return;
        }
        let say = |text| self.say(text);
        let identity =
            CrossSigning { client: &self.client, account: &self.account, store: &self.store, say: &say };
        *settled = matches!(identity.settle().await, Outcome::Settled);
    }

    fn declined(&self, room: &MatrixRoomId) {
        lock(&self.declined).insert(room.to_owned());
    }

    fn is_declined(&self, room: &MatrixRoomId) -> bool {
        lock(&self.declined).contains(room)
    }

    /// Whether this invitation was not handed over yet.
    fn is_news(&self, room: &MatrixRoomId) -> bool {
        lock(&self.invited).insert(room.to_owned())
    }

    fn invited_again(&self, room: &MatrixRoomId) {
        lock(&self.invited).remove(room);
        lock(&self.declined).remove(room);
    }

    /// A declined invitation whose end the server has confirmed leaves no trace in the account.
    fn forget_declined(&self, room: &MatrixRoomId) {
        if !lock(&self.declined).remove(room) {
            return;
        }
        if let Some(room) = self.client.get_room(room) {
            self.presence.spawn(async move {
                if let Err(error) = room.forget().await {
                    tracing::debug!(target: "parlour", "forgetting a declined room: {}", cause(&error));
                }
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
