//! A record's headers, which rust-rdkafka reads with a panic where a name is no UTF-8.
//!
//! What is read is copied; it changes nothing.

use std::ffi::c_void;
use std::{ptr, slice};

use bytes::Bytes;
use rdkafka::bindings;
use rdkafka::message::BorrowedHeaders;
use rdkafka::types::RDKafkaRespErr;

use super::text;
use crate::record::Header;

/// A record's headers. Kafka's names are UTF-8, but no broker checks that: bytes that are not become U+FFFD.
pub fn headers(of: &BorrowedHeaders) -> Vec<Header> {
    let headers = ptr::from_ref(of).cast();
    // SAFETY: `BorrowedHeaders` is rust-rdkafka's name for librdkafka's headers, at whose address it is. What is got
    // from them points into the message, which `of` borrows, and is copied here.
    unsafe {
        let count = bindings::rd_kafka_header_cnt(headers);
        let get = |i| {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            let code = bindings::rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut size);
            (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| {
                let bytes = |value: *const c_void| Bytes::copy_from_slice(slice::from_raw_parts(value.cast(), size));
                Header { name: text(name), value: (!value.is_null()).then(|| bytes(value)) }
            })
        };
        (0..count).map_while(get).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_in_order_whatever_their_names() {
        // SAFETY: the headers are made, lent out for one call and destroyed here; each name and value is copied in.
        let read = unsafe {
            let all = bindings::rd_kafka_headers_new(3);
            let add = |name: &[u8], value: Option<&[u8]>| {
                let (at, size) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len() as isize));
                bindings::rd_kafka_header_add(all, name.as_ptr().cast(), name.len() as isize, at.cast(), size);
            };
            add(b"a", Some(b"1"));
            add(b"a", None);
            add(b"\xff\xfe", Some(b""));
            let read = headers(&*all.cast_const().cast::<BorrowedHeaders>());
            bindings::rd_kafka_headers_destroy(all);
            read
        };
        let header = |name: &str, value: Option<&'static [u8]>| Header {
            name: name.into(),
            value: value.map(Bytes::from_static),
        };
        let expected = [header("a", Some(b"1")), header("a", None), header("\u{fffd}\u{fffd}", Some(b""))];
        assert_eq!(read, expected);
    }
}
