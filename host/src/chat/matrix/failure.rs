//! What a failed request means: come back later, or never. Only a Matrix error code can say never; a proxy that
//! answers 404 in HTML cannot. And of the codes, none that is about the account or the server and not about what was sent.

use std::time::{Duration, SystemTime};

use matrix_sdk::{
    Error, HttpError,
    ruma::api::error::{ErrorCode, ErrorKind, RetryAfter},
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
        // Every server takes events: whoever says that was not reached.
        Some(ErrorKind::Unrecognized) => later(None),
        Some(kind) if passes(&kind.errcode()) => later(None),
        Some(kind) if !api.status_code.is_server_error() && api.status_code.as_u16() != 429 => {
            SendError::Final { code: kind.errcode().to_string(), reason }
        }
        _ => later(None),
    }
}

/// Whether an error is about the account or the server, and the same request may succeed when that has changed: what ends
/// an account, the sync finds out too. `M_UNKNOWN` is not one: with a 4xx it is what servers say to an event that they do
/// not take, now or ever, and whatever waits behind it would wait for ever.
pub(super) fn passes(code: &ErrorCode) -> bool {
    const PASS: [&str; 9] = [
        "M_UNKNOWN_TOKEN",
        "M_MISSING_TOKEN",
        "M_USER_DEACTIVATED",
        "M_USER_LOCKED",
        "M_USER_SUSPENDED",
        "M_RESOURCE_LIMIT_EXCEEDED",
        "M_CONSENT_NOT_GIVEN",
        "M_LIMIT_EXCEEDED",
        "M_NOT_YET_UPLOADED",
    ];
    PASS.contains(&code.as_str())
}

/// A code that says nothing but that somebody between here and the server did not know the request.
pub(super) fn is_unrecognized(error: &Error) -> bool {
    matches!(error.client_api_error_kind(), Some(ErrorKind::Unrecognized))
}

/// Whether the server has said that it does not do it. With anything else it may have.
pub(super) fn is_refusal(error: &Error) -> bool {
    let Error::Http(error) = error else { return false };
    let refused = error.as_client_api_error();
    refused.is_some_and(|api| api.status_code.is_client_error() && api.error_kind().is_some())
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

#[cfg(test)]
mod tests {
    use matrix_sdk::{
        RumaApiError,
        ruma::{
            api::{EndpointError as _, error::FromHttpResponseError},
            exports::http,
        },
    };

    use super::*;

    /// What an answer means to whoever wanted to send something.
    fn means(status: u16, headers: &[(&str, &str)], body: &str) -> SendError {
        let mut answer = http::Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        let answer = answer.body(body.as_bytes()).unwrap();
        let error = RumaApiError::from_http_response(answer);
        http_error(&HttpError::Api(Box::new(FromHttpResponseError::Server(error))))
    }

    fn code(status: u16, code: &str) -> SendError {
        means(status, &[], &format!(r#"{{"errcode":"{code}","error":"oh"}}"#))
    }

    #[test]
    fn only_what_is_about_the_message_is_final() {
        for (status, name) in [
            (403, "M_FORBIDDEN"),
            (404, "M_NOT_FOUND"),
            (400, "M_BAD_JSON"),
            (400, "M_INVALID_PARAM"),
            (400, "M_DUPLICATE_ANNOTATION"),
            (400, "M_UNKNOWN"),
            (413, "M_TOO_LARGE"),
        ] {
            assert!(matches!(code(status, name), SendError::Final { code, .. } if code == name), "{name}");
        }
        for (status, name) in [
            (401, "M_UNKNOWN_TOKEN"),
            (401, "M_MISSING_TOKEN"),
            (401, "M_USER_LOCKED"),
            (403, "M_USER_SUSPENDED"),
            (403, "M_USER_DEACTIVATED"),
            (403, "M_RESOURCE_LIMIT_EXCEEDED"),
            (403, "M_CONSENT_NOT_GIVEN"),
            (404, "M_UNRECOGNIZED"),
            (405, "M_UNRECOGNIZED"),
            (429, "M_UNKNOWN"),
            (500, "M_UNKNOWN"),
            (503, "M_FORBIDDEN"),
        ] {
            let said = code(status, name);
            assert!(matches!(said, SendError::Later { after: None, .. }), "{status} {name}: {said}");
        }
        for body in ["<html>", "{}", ""] {
            assert!(matches!(means(404, &[], body), SendError::Later { .. }), "{body}");
        }
    }

    #[test]
    fn a_limit_says_when_to_come_back_or_does_not() {
        let after = |headers: &[(&str, &str)], body: &str| match means(429, headers, body) {
            SendError::Later { after, .. } => after,
            other @ SendError::Final { .. } => panic!("{other}"),
        };
        let limited = r#"{"errcode":"M_LIMIT_EXCEEDED","error":"slowly"}"#;
        let with_delay = r#"{"errcode":"M_LIMIT_EXCEEDED","error":"slowly","retry_after_ms":1500}"#;
        assert_eq!(after(&[], limited), None);
        assert_eq!(after(&[], with_delay), Some(Duration::from_millis(1500)));
        assert_eq!(after(&[("retry-after", "7")], limited), Some(Duration::from_secs(7)));
    }
}
