//! The client-server API without a client: what a test sets up, and what it looks at from outside.
//!
//! Nothing here knows encryption: an event of an encrypted room comes back as the server stores it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::{Value, json};

use super::unique;

/// The password of every account that a test does not give another.
pub const PASSWORD: &str = "correct horse battery staple";

/// A request that takes longer has failed; `/sync` adds its own waiting time.
const DEADLINE: Duration = Duration::from_secs(30);

/// A session of an account.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub token: String,
    pub device: String,
}

/// A room to be made.
#[derive(Clone, Debug)]
pub struct NewRoom {
    pub version: &'static str,
    pub encrypted: bool,
    pub direct: bool,
    pub preset: &'static str,
    pub name: Option<String>,
    pub invite: Vec<String>,
}

/// A private plain group in room version 12, Synapse's default.
impl Default for NewRoom {
    fn default() -> NewRoom {
        NewRoom {
            version: "12",
            encrypted: false,
            direct: false,
            preset: "private_chat",
            name: None,
            invite: vec![],
        }
    }
}

#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    client: Client,
}

impl Api {
    pub fn new(base: String) -> Api {
        // No connection outlives its request: the runtime of the test that opened it may be gone by the next.
        let client = Client::builder().pool_max_idle_per_host(0).no_proxy().timeout(DEADLINE).build();
        Api { base, client: client.expect("a client without TLS has nothing to fail at") }
    }

    pub fn base_url(&self) -> &str {
        &self.base
    }

    pub async fn versions(&self) -> Result<Value> {
        self.get("", &["versions"]).await
    }

    /// A new account, as its full id.
    pub async fn register(&self, localpart: &str, password: &str) -> Result<String> {
        let auth = json!({ "type": "m.login.dummy" });
        let body =
            json!({ "username": localpart, "password": password, "auth": auth, "inhibit_login": true });
        text(&self.post("", &["v3", "register"], body).await?, "user_id")
    }

    /// A new session of an account, by its localpart or full id.
    pub async fn login(&self, user: &str, password: &str) -> Result<Login> {
        let identifier = json!({ "type": "m.id.user", "user": user });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        let login = self.post("", &["v3", "login"], body).await?;
        let (user, token) = (text(&login, "user_id")?, text(&login, "access_token")?);
        Ok(Login { user, token, device: text(&login, "device_id")? })
    }

    /// Ends every session of an account.
    pub async fn log_out_everywhere(&self, user: &str, password: &str) -> Result<()> {
        let token = self.login(user, password).await?.token;
        self.post(&token, &["v3", "logout", "all"], json!({})).await.map(drop)
    }

    /// A new account with a unique name and a session.
    pub async fn account(&self, name: &str) -> Result<Login> {
        self.login(&self.register(&unique(name), PASSWORD).await?, PASSWORD).await
    }

    pub async fn whoami(&self, token: &str) -> Result<Value> {
        self.get(token, &["v3", "account", "whoami"]).await
    }

    /// Everything that the server hands out of `user`'s keys: devices, cross-signing keys, signatures.
    pub async fn keys_query(&self, token: &str, user: &str) -> Result<Value> {
        self.post(token, &["v3", "keys", "query"], json!({ "device_keys": { user: [] } })).await
    }

    /// Makes a room and gives its id, which has no server name in it in version 12.
    pub async fn create_room(&self, token: &str, room: &NewRoom) -> Result<String> {
        let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        let encryption = json!({ "type": "m.room.encryption", "state_key": "", "content": algorithm });
        let mut body = json!({
            "room_version": room.version,
            "preset": room.preset,
            "is_direct": room.direct,
            "invite": room.invite,
            "initial_state": if room.encrypted { vec![encryption] } else { vec![] },
        });
        if let Some(name) = &room.name {
            body["name"] = json!(name);
        }
        text(&self.post(token, &["v3", "createRoom"], body).await?, "room_id")
    }

    pub async fn invite(&self, token: &str, room: &str, user: &str) -> Result<()> {
        self.post(token, &["v3", "rooms", room, "invite"], json!({ "user_id": user })).await.map(drop)
    }

    pub async fn join(&self, token: &str, room: &str) -> Result<()> {
        self.post(token, &["v3", "rooms", room, "join"], json!({})).await.map(drop)
    }

    pub async fn leave(&self, token: &str, room: &str) -> Result<()> {
        self.post(token, &["v3", "rooms", room, "leave"], json!({})).await.map(drop)
    }

    /// Sends an event as it stands, in clear even into an encrypted room, and gives its id.
    pub async fn send_event(&self, token: &str, room: &str, kind: &str, content: Value) -> Result<String> {
        let path = ["v3", "rooms", room, "send", kind, &transaction()];
        text(&self.call(Method::PUT, token, &path, &[], Some(content)).await?, "event_id")
    }

    pub async fn redact(&self, token: &str, room: &str, event: &str) -> Result<String> {
        let path = ["v3", "rooms", room, "redact", event, &transaction()];
        text(&self.call(Method::PUT, token, &path, &[], Some(json!({}))).await?, "event_id")
    }

    pub async fn typing(&self, token: &str, user: &str, room: &str, typing: bool) -> Result<()> {
        let path = ["v3", "rooms", room, "typing", user];
        let body = json!({ "typing": typing, "timeout": 30_000 });
        self.call(Method::PUT, token, &path, &[], Some(body)).await.map(drop)
    }

    /// A public read receipt.
    pub async fn read(&self, token: &str, room: &str, event: &str) -> Result<()> {
        self.post(token, &["v3", "rooms", room, "receipt", "m.read", event], json!({})).await.map(drop)
    }

    /// All events of a room, oldest first, as the server stores them.
    pub async fn messages(&self, token: &str, room: &str) -> Result<Vec<Value>> {
        let path = ["v3", "rooms", room, "messages"];
        let (mut events, mut from) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![("dir", "f"), ("limit", "1000")];
            query.extend(from.as_deref().map(|from| ("from", from)));
            let page = self.call(Method::GET, token, &path, &query, None).await?;
            events.extend(page["chunk"].as_array().context("/messages has a chunk")?.iter().cloned());
            match page["end"].as_str() {
                Some(end) => from = Some(end.to_owned()),
                None => return Ok(events),
            }
        }
    }

    /// One event as the server stores it.
    pub async fn event(&self, token: &str, room: &str, event: &str) -> Result<Value> {
        self.get(token, &["v3", "rooms", room, "event", event]).await
    }

    /// The membership of everybody whom the room knows: `join`, `invite`, `leave`, `ban`.
    pub async fn members(&self, token: &str, room: &str) -> Result<BTreeMap<String, String>> {
        let answer = self.get(token, &["v3", "rooms", room, "members"]).await?;
        let events = answer["chunk"].as_array().context("/members has a chunk")?;
        events
            .iter()
            .map(|event| Ok((text(event, "state_key")?, text(&event["content"], "membership")?)))
            .collect()
    }

    /// One `/sync`, which waits at most `wait` for something new after `since`. Typing notices and receipts are
    /// under `rooms.join.ROOM.ephemeral.events`.
    pub async fn sync(&self, token: &str, since: Option<&str>, wait: Duration) -> Result<Value> {
        let wait = wait.as_millis().to_string();
        let mut query = vec![("timeout", wait.as_str())];
        query.extend(since.map(|since| ("since", since)));
        self.call(Method::GET, token, &["v3", "sync"], &query, None).await
    }

    pub async fn get(&self, token: &str, path: &[&str]) -> Result<Value> {
        self.call(Method::GET, token, path, &[], None).await
    }

    pub async fn post(&self, token: &str, path: &[&str], body: Value) -> Result<Value> {
        self.call(Method::POST, token, path, &[], Some(body)).await
    }

    /// Any call below `/_matrix/client`; an answer that is not a success is an error which quotes it.
    pub async fn call(
        &self,
        method: Method,
        token: &str,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Value>,
    ) -> Result<Value> {
        let what = format!("{method} {}", path.join("/"));
        let (status, answer) = self.try_call(method, token, path, query, body).await?;
        ensure!(status.is_success(), "{what}: {status} {answer}");
        Ok(answer)
    }

    /// The same, for tests that expect a refusal.
    pub async fn try_call(
        &self,
        method: Method,
        token: &str,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Value>,
    ) -> Result<(StatusCode, Value)> {
        let what = format!("{method} {}", path.join("/"));
        let mut url = Url::parse(&self.base)?;
        url.path_segments_mut().expect("http has a path").extend(["_matrix", "client"]).extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if path.last() == Some(&"sync") {
            let wait =
                query.iter().find(|(key, _)| *key == "timeout").and_then(|(_, wait)| wait.parse().ok());
            request = request.timeout(DEADLINE + Duration::from_millis(wait.unwrap_or(0)));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| what.clone())?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| what)?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

/// A transaction id that no other request of any test process has.
fn transaction() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn text(object: &Value, key: &str) -> Result<String> {
    object[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {object}"))
}
