//! Offsets and times of partitions, of all that are asked for at once.
//!
//! It reads no record and commits nothing.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::bindings::{self, rd_kafka_admin_op_t};
use rdkafka::client::{Client, ClientContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::request::Request;
use super::{Failure, text};

/// For [`list_offsets`]: the first offset that is there.
pub(in crate::kafka) const BEGIN: i64 = -2;
/// For [`list_offsets`]: the offset that the next record will get.
pub(in crate::kafka) const END: i64 = -1;
/// For [`list_places`]: the record with the latest time (KIP-734).
const NEWEST: i64 = -3;

/// Asks for an offset of each partition: [`END`], or the first of a time in milliseconds since the Unix epoch (-1
/// where no record is that late). Whatever a transaction has written counts, also while it is open. A partition that
/// does not answer is not in the map.
pub(in crate::kafka) fn list_offsets<C: ClientContext>(
    client: &Client<C>,
    partitions: &[(&str, i32)],
    which: i64,
    timeout: Duration,
) -> Result<HashMap<(String, i32), i64>, Failure> {
    let places = list_places(client, partitions, which, timeout)?;
    Ok(places.into_iter().map(|(place, (offset, _))| (place, offset)).collect())
}

/// Asks for the latest time that a record of each partition has, in milliseconds since the Unix epoch; -1 where there is none.
pub(in crate::kafka) fn list_times<C: ClientContext>(
    client: &Client<C>,
    partitions: &[(&str, i32)],
    timeout: Duration,
) -> Result<HashMap<(String, i32), i64>, Failure> {
    let places = list_places(client, partitions, NEWEST, timeout)?;
    Ok(places.into_iter().map(|(place, (_, time))| (place, time)).collect())
}

/// An offset, and the time of its record.
type Listed = (i64, i64);

/// An offset of each partition, and the time of its record where that is known.
fn list_places<C: ClientContext>(
    client: &Client<C>,
    partitions: &[(&str, i32)],
    which: i64,
    timeout: Duration,
) -> Result<HashMap<(String, i32), Listed>, Failure> {
    let mut found = HashMap::with_capacity(partitions.len());
    if partitions.is_empty() {
        return Ok(found);
    }
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    let request = Request::new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, timeout)?;
    // SAFETY: the list is alive for the call, which copies it, and nobody else has it; its elements are as many as it
    // says. Client, options and queue outlive the call.
    unsafe {
        let native = &mut *list.ptr();
        for i in 0..usize::try_from(native.cnt).unwrap_or(0) {
            (*native.elems.add(i)).offset = which;
        }
        bindings::rd_kafka_ListOffsets(client.native_ptr(), native, request.options, request.queue);
    }
    let event = request.wait()?;
    // SAFETY: the event is alive to the end of this function, and owns the result and everything reached from it; null
    // is checked for, and what is kept is copied.
    unsafe {
        let result = bindings::rd_kafka_event_ListOffsets_result(event.0);
        if result.is_null() {
            return Err(Failure::invalid("librdkafka answered ListOffsets with another event"));
        }
        let mut count = 0;
        let infos = bindings::rd_kafka_ListOffsets_result_infos(result, &mut count);
        for i in 0..count {
            let place = &*bindings::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(i));
            if place.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                let time = bindings::rd_kafka_ListOffsetsResultInfo_timestamp(*infos.add(i));
                found.insert((text(place.topic), place.partition), (place.offset, time));
            }
        }
    }
    Ok(found)
}
