//! What a failed request means: come back later, or never. Only a Matrix error code can say never; a proxy that
//! answers 404 in HTML cannot.

use std::time::{Duration, SystemTime};

use matrix_sdk::{
    Error, HttpError,
    ruma::api::error::{ErrorKind, RetryAfter},
};

use super::wire::cause;
use crate::chat::SendError;

pub(super) fn send_error(error: &Error) -> SendError {
    match error {
        Error::Http(error) => http_error(error),
        Error::WrongRoomState(_) => not_joined(),
        other => SendError::Later { after: None, reason: cause(other) },
    }
}

pub(super) fn http_error(error: &HttpError) -> SendError {
    let reason = describe(error);
    let Some(api) = error.as_client_api_error() else {
        return SendError::Later { after: None, reason };
    };
    let later = |after| SendError::Later { after, reason: reason.clone() };
    match api.error_kind() {
        Some(ErrorKind::LimitExceeded(limit)) => later(limit.retry_after.as_ref().and_then(delay)),
        // What the sync loop finds out too, and ends the agent for.
        Some(
            ErrorKind::UnknownToken(_) | ErrorKind::UserDeactivated | ErrorKind::ResourceLimitExceeded(_),
        ) => later(None),
        Some(kind) if !api.status_code.is_server_error() && api.status_code.as_u16() != 429 => {
            SendError::Final { code: kind.errcode().to_string(), reason }
        }
        _ => later(None),
    }
}

pub(super) fn not_joined() -> SendError {
    SendError::Final { code: "not-joined".into(), reason: "the agent is not in the room".into() }
}

/// One line without the URL, which names rooms.
pub(super) fn describe(error: &HttpError) -> String {
    match error {
        HttpError::Reqwest(error) => cause(error),
        other => other.to_string(),
    }
}

fn delay(retry: &RetryAfter) -> Option<Duration> {
    match retry {
        RetryAfter::Delay(delay) => Some(*delay),
        RetryAfter::DateTime(at) => at.duration_since(SystemTime::now()).ok(),
    }
}
