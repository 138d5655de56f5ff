//! The few requests that come before a session: is this a Matrix server, sign in, who am I, which keys does the
//! server have for this device. They are made by hand because matrix-sdk cannot ask them without opening a store
//! and making keys.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Url};
use serde_json::{Value, json};

use super::store::Session;
use crate::{audit::now, chat::StartError, settings::homeserver};

/// A server that takes longer to answer one of these counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Wire {
    http: Client,
    base: Url,
}

pub(super) enum WireError {
    /// No answer, or an answer that says to come back later.
    Unreachable(String),
    /// An answer, but not from a Matrix server.
    NotMatrix(String),
    /// An answer with a Matrix error code.
    Refused { code: String, message: String, soft_logout: bool },
}

impl Wire {
    pub fn new(homeserver: &str) -> Result<Self, StartError> {
        let base = homeserver::parse(homeserver).map_err(StartError::new)?;
        let http = Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| StartError::new(format!("cannot make an HTTP client: {}", cause(&error))))?;
        Ok(Self { http, base })
    }

    /// The URL as matrix-sdk takes it.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// A request for something below `/_matrix`. Each part of the path stays one.
    pub fn get(&self, path: &[&str], token: &str) -> RequestBuilder {
        self.below(Method::GET, path, token)
    }

    /// The same, to put something there.
    pub fn post(&self, path: &[&str], token: &str) -> RequestBuilder {
        self.below(Method::POST, path, token)
    }

    fn below(&self, method: Method, path: &[&str], token: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().push("_matrix").extend(path);
        }
        self.http.request(method, url).bearer_auth(token)
    }

    /// `GET /_matrix/client/versions` (spec, client-server API, "API Versions").
    pub async fn versions(&self) -> Result<(), WireError> {
        let answer = self.ask(self.request(Method::GET, "versions", None)).await?;
        match answer.get("versions") {
            Some(Value::Array(_)) => Ok(()),
            _ => Err(WireError::NotMatrix("it names no versions".into())),
        }
    }

    /// `POST /_matrix/client/v3/login` with `m.login.password` (spec, "Login").
    pub async fn log_in(
        &self,
        user: &str,
        password: &str,
        device: Option<&str>,
        device_name: &str,
    ) -> Result<Session, WireError> {
        let mut body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": password,
            "initial_device_display_name": device_name,
            "refresh_token": true,
        });
        if let Some(device) = device {
            body["device_id"] = device.into();
        }
        let answer = self.ask(self.request(Method::POST, "v3/login", None).json(&body)).await?;
        let field =
            |name| text(&answer, name).ok_or_else(|| WireError::NotMatrix(format!("it gave no {name}")));
        Ok(Session {
            user: field("user_id")?,
            device: field("device_id")?,
            token: field("access_token")?,
            since: Some(now()),
            refresh: text(&answer, "refresh_token"),
        })
    }

    /// `POST /_matrix/client/v3/refresh` (spec, "Refreshing access tokens"): the session with its next tokens. The old
    /// ones hold until one of these is used.
    pub async fn refresh(&self, session: &Session, refresh: &str) -> Result<Session, WireError> {
        let body = json!({ "refresh_token": refresh });
        let answer = self.ask(self.request(Method::POST, "v3/refresh", None).json(&body)).await?;
        let token = text(&answer, "access_token")
            .ok_or_else(|| WireError::NotMatrix("it gave no access_token".into()))?;
        let refresh = text(&answer, "refresh_token").unwrap_or_else(|| refresh.to_owned());
        Ok(Session { token, refresh: Some(refresh), ..session.clone() })
    }

    /// `GET /_matrix/client/v3/account/whoami`: the token's account and device.
    pub async fn who_am_i(&self, token: &str) -> Result<(String, Option<String>), WireError> {
        let answer = self.ask(self.request(Method::GET, "v3/account/whoami", Some(token))).await?;
        let user =
            text(&answer, "user_id").ok_or_else(|| WireError::NotMatrix("it gave no user_id".into()))?;
        Ok((user, text(&answer, "device_id")))
    }

    /// The Ed25519 key that the server has for a device, `POST /_matrix/client/v3/keys/query`.
    pub async fn device_key(&self, session: &Session) -> Result<Option<String>, WireError> {
        let body = json!({ "device_keys": { &session.user: [&session.device] } });
        let request = self.request(Method::POST, "v3/keys/query", Some(&session.token)).json(&body);
        let answer = self.ask(request).await?;
        let keys = &answer["device_keys"][&session.user][&session.device]["keys"];
        Ok(text(keys, &format!("ed25519:{}", session.device)))
    }

    fn request(&self, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
        let base = self.base.as_str().trim_end_matches('/');
        let request = self.http.request(method, format!("{base}/_matrix/client/{path}"));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Value, WireError> {
        let answer = request.send().await.map_err(|error| WireError::Unreachable(cause(&error)))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| WireError::Unreachable(cause(&error)))?;
        let body = serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object);
        let code = body.as_ref().and_then(|body| text(body, "errcode"));
        match (body, code) {
            (Some(body), None) if status.is_success() => Ok(body),
            (Some(_), Some(code)) if status.is_server_error() || status.as_u16() == 429 => {
                Err(WireError::Unreachable(format!("it answers {status} ({code})")))
            }
            (Some(body), Some(code)) => Err(WireError::Refused {
                code,
                message: text(&body, "error").unwrap_or_default(),
                soft_logout: body["soft_logout"] == Value::Bool(true),
            }),
            _ if status.is_server_error() => Err(WireError::Unreachable(format!("it answers {status}"))),
            _ => Err(WireError::NotMatrix(format!("it answers {status}, and no Matrix error"))),
        }
    }
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().map(ToOwned::to_owned)
}

/// The innermost reason; what is around it repeats the URL.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
