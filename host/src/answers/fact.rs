//! What can be learnt, as the journal has it. Records of earlier versions are read as well.

use serde::{Deserialize, Serialize};

use crate::{
    journal::{Known, Named},
    timer::Timer,
};

/// What a timer costs beside its name and its payload.
const TIMER: usize = 512;
/// What is known of a message.
const MESSAGE: usize = 1024;

/// How much of an answer was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// Its head: the rest was on its way.
    Head,
    /// All that the handler wanted of it.
    Left,
    /// All of it.
    Whole,
}

/// What was learnt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Fact {
    /// A request that may change something outside, or costs something, was about to be sent.
    Begun {
        /// In words.
        request: String,
        /// It may have changed something outside.
        #[serde(default = "yes")]
        changes: bool,
    },
    /// An answer to an HTTP request, as the handler saw it; the body is the entry's.
    Http {
        /// In words.
        request: String,
        /// 200 and its like.
        status: u16,
        /// Each byte of a value is one character.
        headers: Vec<(String, String)>,
        /// How much of the body there is.
        extent: Extent,
        /// It may have changed something outside.
        changes: bool,
        /// Why the body broke off, where it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        broke: Option<Failure>,
    },
    /// An HTTP request failed before its answer began.
    Failed {
        /// In words.
        request: String,
        /// How, as the handler saw it.
        error: Failure,
        /// It may have changed something outside.
        changes: bool,
    },
    /// An answer of the language model.
    Llm {
        /// In words.
        request: String,
        /// Text, and what else there is, as a JSON object.
        pieces: Vec<(String, String)>,
        /// How it ended; none where the handler did not wait for that.
        ended: Option<Ended>,
        /// Why it broke off, where it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        broke: Option<Told>,
    },
    /// The language model did not begin to answer.
    Unanswered {
        /// In words.
        request: String,
        /// Why not.
        error: Told,
    },
    /// A value that was read; the bytes are the entry's.
    Value {
        /// Which write it was; none where there was no value.
        version: Option<i64>,
    },
    /// Keys that were listed.
    Keys {
        /// What was found.
        found: Vec<String>,
    },
    /// Timers that were looked at.
    Timers {
        /// Those of the session.
        found: Vec<Timer>,
        /// How many the plugin had in all.
        in_all: u64,
    },
    /// What was known of a message that was named by its id.
    Known {
        /// Nothing, where it was none.
        found: Option<Known>,
    },
    /// The message that had a name.
    Named {
        /// Nothing, where none had it.
        found: Option<Named>,
    },
    /// A file of a message that was fetched.
    File {
        /// BLAKE3 of it, in hexadecimal.
        digest: String,
    },
    /// A file of a message was not to be had.
    Unfetched {
        /// Why not.
        error: Told,
    },
    /// A request that changes nothing was sent: where nothing else is known of it, nobody waited for its answer.
    Asked {
        /// In words.
        request: String,
    },
    /// Which of several things that the handler waited for had come when it went on; none where that counts no more.
    Waited {
        /// Their places, as the handler saw them.
        ready: Vec<u32>,
    },
    /// The time at which the handler that was told to come later came again.
    Time,
}

/// What was begun is a change where nothing else is said of it: it was, before models were noted.
fn yes() -> bool {
    true
}

/// How an answer of the model ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in wit/llm.wit")]
pub struct Ended {
    pub finish_reason: String,
    pub prompt_tokens: Option<u32>,
    pub completion_tokens: Option<u32>,
}

/// How a request failed, as its handler saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the words of wasi:http")]
pub enum Failure {
    DestinationIpProhibited,
    DestinationUnavailable,
    ConnectionRefused,
    ConnectionTimeout,
    ConnectionReadTimeout,
    ConnectionLimitReached,
    TlsCertificateError,
    HttpRequestBodySize(Option<u64>),
    HttpResponseIncomplete,
    HttpResponseHeaderSectionSize(Option<u32>),
    HttpResponseBodySize(Option<u64>),
    HttpResponseTransferCoding(Option<String>),
    HttpResponseContentCoding(Option<String>),
    HttpResponseTimeout,
    HttpProtocolError,
    ConfigurationError,
    InternalError(Option<String>),
}

/// What a handler was told in place of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in wit/types.wit")]
pub struct Told {
    pub kind: Kind,
    pub code: Option<String>,
    pub message: Option<String>,
    pub retry_after: Option<u32>,
}

/// What went wrong, coarsely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "as in wit/types.wit")]
pub enum Kind {
    Denied,
    NotFound,
    Invalid,
    RateLimited,
    TooLarge,
    Timeout,
    Unavailable,
    Conflict,
    Cancelled,
    Unsupported,
    Internal,
    Other,
}

impl Told {
    fn size(&self) -> usize {
        [&self.code, &self.message].into_iter().flatten().map(String::len).sum()
    }
}

impl Fact {
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Begun { request, .. } | Self::Failed { request, .. } | Self::Asked { request } => {
                request.len()
            }
            Self::Waited { ready } => 4 * ready.len(),
            Self::Http { request, headers, .. } => {
                let headers = headers.iter().map(|(name, value)| name.len() + value.len() + 8);
                request.len() + headers.sum::<usize>()
            }
            Self::Llm { request, pieces, broke, .. } => {
                let pieces = pieces.iter().map(|(text, extra)| text.len() + extra.len() + 8);
                request.len() + pieces.sum::<usize>() + broke.as_ref().map_or(0, Told::size)
            }
            Self::Unanswered { request, error } => request.len() + error.size(),
            Self::Unfetched { error } => error.size(),
            Self::Keys { found } => found.iter().map(|key| key.len() + 4).sum(),
            Self::Timers { found, .. } => {
                found.iter().map(|timer| TIMER + timer.key.len() + timer.payload.len()).sum()
            }
            Self::Known { .. } | Self::Named { .. } => MESSAGE,
            Self::Value { .. } | Self::File { .. } | Self::Time => 0,
        }
    }

    /// It comes with what is written anyway: asking again costs nothing, and changes nothing.
    pub(super) fn is_free(&self) -> bool {
        self.is_read()
            || matches!(self, Self::File { .. } | Self::Unfetched { .. } | Self::Asked { .. } | Self::Time)
    }

    /// What was read in the journal, or waited for: another time it may be otherwise.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Value { .. }
                | Self::Keys { .. }
                | Self::Timers { .. }
                | Self::Known { .. }
                | Self::Named { .. }
                | Self::Waited { .. }
        )
    }

    /// Nothing is known of it but that it was asked, and it changes nothing.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Begun { changes: false, .. } | Self::Asked { .. })
    }

    /// Something outside was changed, or may have been.
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Self::Begun { changes: true, .. }
                | Self::Http { changes: true, .. }
                | Self::Failed { changes: true, .. }
        )
    }

    /// An answer that says "not now": nothing was got by it.
    pub(super) fn is_not_now(&self) -> bool {
        match self {
            Self::Begun { .. }
            | Self::Failed { .. }
            | Self::Unanswered { .. }
            | Self::Unfetched { .. }
            | Self::Http { broke: Some(_), changes: false, .. } => true,
            Self::Llm { broke, .. } => broke.is_some(),
            Self::Http { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_host_recorded_is_read() {
        let text = r#"{"what":"llm","request":"r","pieces":[["a",""]],"ended":null}"#;
        let read = serde_json::from_str::<Fact>(text).unwrap();
        let pieces = vec![("a".to_owned(), String::new())];
        assert_eq!(read, Fact::Llm { request: "r".into(), pieces, ended: None, broke: None });
        let text =
            r#"{"what":"http","request":"r","status":200,"headers":[],"extent":"left","changes":true}"#;
        let read = serde_json::from_str::<Fact>(text).unwrap();
        assert!(matches!(read, Fact::Http { extent: Extent::Left, changes: true, broke: None, .. }));
        let read = serde_json::from_str::<Fact>(r#"{"what":"begun","request":"r"}"#).unwrap();
        assert_eq!(read, Fact::Begun { request: "r".into(), changes: true });
    }
}
