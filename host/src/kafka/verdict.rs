//! What a failed send means: whose fault it is, and so what becomes of the event.
//!
//! Pure. An error that is not known to be the record's or the destination's own may pass.

use rdkafka::error::RDKafkaErrorCode as Code;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The record itself: it will never be taken.
    Record,
    /// The destination: nothing goes there until somebody mends it.
    Destination,
    /// The producer: a new one is needed.
    Producer,
    /// It may pass.
    Passing,
}

pub(crate) fn judge(code: Code) -> Verdict {
    match code {
        Code::MessageSizeTooLarge | Code::InvalidMessage | Code::InvalidMessageSize | Code::InvalidRecord => {
            Verdict::Record
        }
        Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed
        | Code::PolicyViolation
        | Code::InvalidRequiredAcks => Verdict::Destination,
        // A producer that has failed for good throws away what it had not sent.
        Code::PurgeQueue
        | Code::PurgeInflight
        | Code::Fatal
        | Code::GaplessGuarantee
        | Code::Fenced
        | Code::OutOfOrderSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::UnknownProducerId
        | Code::ClusterAuthorizationFailed => Verdict::Producer,
        _ => Verdict::Passing,
    }
}
