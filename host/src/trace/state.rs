//! `tracestate`: what tracing systems pass on beside the context (W3C Trace Context, 3.3).
//!
//! Its values belong to others. It is passed on whole, or not at all where it is malformed.

use bytes::Bytes;

/// Entries that there may be.
const MEMBERS: usize = 32;
/// The longest that is passed on, in bytes.
const LENGTH: usize = 4_096;

/// What several headers say, in their order; `None` where that is nothing, or malformed.
pub(super) fn join<'h>(mut headers: impl Iterator<Item = &'h Bytes>) -> Option<Bytes> {
    let first = headers.next()?;
    let state = match headers.next() {
        None => first.clone(),
        Some(second) => {
            let all: Vec<&[u8]> = [first, second].into_iter().chain(headers).map(|header| &**header).collect();
            all.join(&b","[..]).into()
        }
    };
    is_valid(&state).then_some(state)
}

fn is_valid(state: &[u8]) -> bool {
    if state.len() > LENGTH {
        return false;
    }
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut members = 0;
    for member in state.split(|byte| *byte == b',') {
        let start = member.iter().position(|byte| !blank(byte)).unwrap_or(member.len());
        let end = member.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
        let Some(member) = member.get(start..end).filter(|member| !member.is_empty()) else { continue };
        members += 1;
        let Some(middle) = member.iter().position(|byte| *byte == b'=') else { return false };
        let (key, value) = member.split_at(middle);
        if !is_key(key) || !is_value(value.get(1..).unwrap_or_default()) {
            return false;
        }
    }
    (1..=MEMBERS).contains(&members)
}

fn is_key(key: &[u8]) -> bool {
    let first = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let rest = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    first && key.len() <= 256 && key.iter().all(rest)
}

fn is_value(value: &[u8]) -> bool {
    let byte = |byte: &u8| (b' '..=b'~').contains(byte) && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.iter().all(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_formed_is_passed_on_as_it_is() {
        let of = |headers: &[&'static str]| {
            let headers: Vec<Bytes> = headers.iter().map(|header| Bytes::from_static(header.as_bytes())).collect();
            join(headers.iter()).map(|state| String::from_utf8_lossy(&state).into_owned())
        };
        for good in ["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "tenant@vendor=x y", " a=1 ,, b=2\t"] {
            assert_eq!(of(&[good]).as_deref(), Some(good));
        }
        assert_eq!(of(&["a=1", "b=2", "c=3"]).as_deref(), Some("a=1,b=2,c=3"));
        for wrong in ["", " , ", "a", "=1", "A=1", "a=", "a=1=2", "a=\u{7f}", "-a=1"] {
            assert_eq!(of(&[wrong]), None, "{wrong}");
        }
        let many = vec!["a=1"; MEMBERS + 1].join(",");
        assert!(!is_valid(many.as_bytes()) && !is_valid("a=1,".repeat(1_100).as_bytes()));
    }
}
