//! librdkafka's calls that the host needs and rust-rdkafka does not wrap, or only with a thread or a panic of its own.
//!
//! All `unsafe` of the Kafka modules is here and below. Each call makes a queue, waits on it, and has freed every event, queue
//! and list when it returns; nothing native gets out.

mod headers;
mod held;
mod offsets;
mod request;
mod topics;

use std::ffi::{CStr, c_char};
use std::ptr;

use rdkafka::error::RDKafkaErrorCode;

pub use self::headers::headers;
pub use self::held::Kept;
pub(super) use self::held::{Holder, Seat};
pub(super) use self::offsets::{BEGIN, END, list_offsets, list_times};
pub(super) use self::topics::{create_topic, describe_configs, describe_topics};

/// The code of a topic that is not there.
pub(super) const UNKNOWN_TOPIC: RDKafkaErrorCode = RDKafkaErrorCode::UnknownTopicOrPartition;

/// A request that failed as a whole or, for a topic to be created, for that topic.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason} ({code})")]
pub(super) struct Failure {
    pub(super) code: RDKafkaErrorCode,
    pub(super) reason: String,
}

impl Failure {
    fn invalid(reason: impl Into<String>) -> Self {
        Self { code: RDKafkaErrorCode::InvalidArgument, reason: reason.into() }
    }
}

/// Room for librdkafka's words on a refused argument.
struct ErrorText([u8; 512]);

impl ErrorText {
    fn new() -> Self {
        Self([0; 512])
    }

    fn as_mut_ptr(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }

    fn to_text(&self) -> String {
        CStr::from_bytes_until_nul(&self.0).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// # Safety
/// `text` must be null or a valid C string.
unsafe fn text(text: *const c_char) -> String {
    if ptr::eq(text, ptr::null()) {
        return String::new();
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
