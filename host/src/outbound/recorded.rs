//! What services had answered to a delivery that failed, as it stands in the history of its attempts, for a replay.
//!
//! What is read back is exactly what was answered, or nothing. How much is recorded is bounded, since it travels in a header of
//! the dead letter.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Answer, CallError, CallErrorKind};
use crate::guest::Answers;
use crate::record::Response;

/// The longest record of answers, in bytes of JSON.
const MAX: usize = 16 << 10;

/// One answer, with the fingerprint of its call in base64.
#[derive(Serialize, Deserialize)]
struct Recorded {
    call: String,
    #[serde(flatten)]
    end: End,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum End {
    Answered { status: u16, headers: Vec<(String, Text)>, body: Text },
    Failed { failed: Kind, message: String },
}

/// How a call can end without an answer once it was made.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Timeout,
    Unreachable,
    TooLarge,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Base64 { base64: String },
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.to_owned()),
            Err(_) => Self::Base64 { base64: STANDARD.encode(bytes) },
        }
    }

    fn bytes(self) -> Option<bytes::Bytes> {
        match self {
            Self::Plain(text) => Some(text.into()),
            Self::Base64 { base64 } => STANDARD.decode(base64).ok().map(Into::into),
        }
    }
}

/// As JSON; `None` where there are none, or where they are too long.
pub fn write(answers: &Answers) -> Option<Json> {
    let one = |(call, answer): &([u8; 32], Answer)| {
        let end = match answer {
            Ok(response) => End::Answered {
                status: response.status,
                headers: response.headers.iter().map(|(name, value)| (name.clone(), Text::of(value))).collect(),
                body: Text::of(&response.body),
            },
            Err(error) => End::Failed {
                failed: match error.kind {
                    CallErrorKind::Timeout => Kind::Timeout,
                    CallErrorKind::Unreachable => Kind::Unreachable,
                    CallErrorKind::Limit => Kind::TooLarge,
                    // They end before the call is made, and do so again.
                    CallErrorKind::Request | CallErrorKind::Denied => return None,
                },
                message: error.message.clone(),
            },
        };
        serde_json::to_value(Recorded { call: STANDARD.encode(call), end }).ok()
    };
    let all = answers.iter().map(one).collect::<Option<Vec<Json>>>().filter(|all| !all.is_empty())?;
    let all = Json::Array(all);
    (all.to_string().len() <= MAX).then_some(all)
}

/// What [`write`] has written; none where it is not that.
pub fn read(recorded: &Json) -> Answers {
    let one = |recorded: Recorded| {
        let call = STANDARD.decode(recorded.call).ok()?.try_into().ok()?;
        let answer = match recorded.end {
            End::Answered { status, headers, body } => {
                let headers = headers.into_iter().map(|(name, value)| Some((name, value.bytes()?)));
                Ok(Response { status, headers: headers.collect::<Option<_>>()?, body: body.bytes()? })
            }
            End::Failed { failed, message } => {
                let kind = match failed {
                    Kind::Timeout => CallErrorKind::Timeout,
                    Kind::Unreachable => CallErrorKind::Unreachable,
                    Kind::TooLarge => CallErrorKind::Limit,
                };
                Err(CallError { kind, message })
            }
        };
        Some((call, answer))
    };
    let all: Vec<Recorded> = serde_json::from_value(recorded.clone()).unwrap_or_default();
    Arc::new(all.into_iter().map(one).collect::<Option<_>>().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_are_read_back_as_they_were_and_long_ones_are_left_out() {
        let response = |body: &[u8]| Response {
            status: 201,
            headers: vec![("x".into(), "1".into()), ("y".into(), b"\xff".to_vec().into())],
            body: body.to_vec().into(),
        };
        let failed = |kind| Err(CallError { kind, message: "it did not".into() });
        let all: Answers = Arc::new(vec![
            ([1; 32], Ok(response(b"paid"))),
            ([2; 32], Ok(response(b"\0\xfe"))),
            ([3; 32], failed(CallErrorKind::Timeout)),
            ([4; 32], failed(CallErrorKind::Limit)),
        ]);
        assert_eq!(*read(&write(&all).unwrap()), *all);
        assert_eq!(write(&Arc::default()), None);
        assert_eq!(write(&Arc::new(vec![([1; 32], Ok(response(&[b'a'; MAX])))])), None);
        assert!(read(&serde_json::json!([{ "call": "!", "status": 200, "headers": [], "body": "" }])).is_empty());
        assert!(read(&Json::Null).is_empty());
    }
}
