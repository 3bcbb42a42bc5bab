//! Which names a manifest may use: handlers, stores, groups, topics, event ids and routes.
//!
//! Pure checks that return what is wrong with a text; they know nothing of files or of other handlers.

use std::collections::BTreeMap;

use super::{EventId, Place, Route};

/// What a dead letter topic's name holds in the place of the source topic's.
const TOPIC: &str = "{topic}";

/// Parameters that a route's path may have: `matchit` panics at one more.
pub(crate) const PARAMS_MAX: usize = 25;

/// Methods that a route may have.
pub(crate) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Checks the name of a handler or a store: it names files and metrics.
pub(crate) fn plain(name: &str) -> Result<String, String> {
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good =
        name.len() <= 63 && name.bytes().next().is_some_and(first) && name.bytes().all(|b| first(b) || b == b'-');
    if good {
        return Ok(name.to_owned());
    }
    Err(format!("\"{name}\" is not a valid name; use up to 63 of a-z, 0-9 and -, starting with a letter or a digit"))
}

/// Checks the name of a consumer group. Kafka takes any text; this refuses what tools and metadata cannot show.
pub(crate) fn group(name: &str) -> Result<String, String> {
    let good = !name.is_empty() && name.len() <= 249 && name.chars().all(|c| c.is_ascii_graphic());
    if good {
        return Ok(name.to_owned());
    }
    Err(format!("\"{}\" is not a valid group; use up to 249 visible ASCII characters", name.escape_debug()))
}

/// Checks a topic's name by Kafka's own rules (`org.apache.kafka.common.internals.Topic`).
pub(crate) fn topic(name: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !name.is_empty() && name.len() <= 249 && name.bytes().all(good) && name != "." && name != ".." {
        return Ok(name.to_owned());
    }
    let hint = if name.starts_with('^') { "; a regular expression goes into `pattern`" } else { "" };
    Err(format!("\"{name}\" is not a valid topic; use up to 249 of a-z, A-Z, 0-9, '.', '_' and '-'{hint}"))
}

/// Checks the name of a dead letter topic, in which `{topic}` may stand for the source topic.
pub(crate) fn dead_letter_topic(template: &str) -> Result<String, String> {
    if template == TOPIC {
        return Err("is the source topic itself; add a suffix, like \"{topic}.DLT\"".into());
    }
    // Any source topic is at least one character long.
    topic(&template.replace(TOPIC, "t"))
        .map(|_| template.to_owned())
        .map_err(|_| format!("\"{template}\" is not a valid topic; write a topic's name, or \"{TOPIC}\" with a suffix"))
}

/// Reads where event ids are: a place, `offset` or `key`.
pub(crate) fn event_id(text: &str) -> Result<EventId, String> {
    match text {
        "offset" => Ok(EventId::Offset),
        "key" => Ok(EventId::Key),
        _ => place(text).map(EventId::At),
    }
}

/// Reads a place: a JSON pointer (RFC 6901), or a header's name, which `header:` may stand before.
pub(crate) fn place(text: &str) -> Result<Place, String> {
    match text.strip_prefix("header:") {
        Some("") => return Err("\"header:\" names no header".into()),
        Some(name) => return Ok(Place::Header(name.to_owned())),
        None if text.is_empty() => return Err("names no place; write a JSON pointer, or a header's name".into()),
        None if !text.starts_with('/') => return Ok(Place::Header(text.to_owned())),
        None => {}
    }
    let bad_escape = text.split('~').skip(1).any(|after| !after.starts_with(['0', '1']));
    if bad_escape {
        return Err(format!("\"{text}\" is not a JSON pointer: ~ is written ~0, and / inside a name ~1 (RFC 6901)"));
    }
    Ok(Place::Pointer(text.to_owned()))
}

/// Checks the `source` of CloudEvents: a URI reference (RFC 3986), of which only the characters are looked at.
pub(crate) fn source(text: &str) -> Result<String, String> {
    let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c);
    match !text.is_empty() && text.chars().all(unreserved) {
        true => Ok(text.to_owned()),
        false => Err(format!("\"{text}\" is not a URI reference (RFC 3986); write something like \"/shop\"")),
    }
}

/// Checks the method of a route.
pub(crate) fn method(text: &str) -> Result<String, String> {
    if METHODS.contains(&text) {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    if METHODS.contains(&upper.as_str()) {
        return Err(format!("write \"{upper}\", in upper case"));
    }
    Err(format!("\"{text}\" is not a method that a route can have; valid is {}", METHODS.join(", ")))
}

/// Checks the path of a route: `/` and parts, of which some are parameters like `{id}`.
pub(crate) fn path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("\"{text}\" must start with /"));
    }
    if text.chars().any(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#')) {
        return Err(format!("\"{text}\" must hold only visible ASCII characters, without ? and #"));
    }
    let mut names: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').ok_or_else(|| format!("\"{text}\": a {{ has no }}"))?;
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if before.contains('}') || name.is_empty() || !name.bytes().all(word) {
            return Err(format!("\"{text}\": a parameter is written like {{id}}, with a-z, A-Z, 0-9 and _"));
        }
        if names.contains(&name) {
            return Err(format!("\"{text}\" has the parameter {{{name}}} twice"));
        }
        names.push(name);
        rest = behind;
    }
    if rest.contains('}') {
        return Err(format!("\"{text}\": a }} has no {{"));
    }
    if names.len() > PARAMS_MAX {
        return Err(format!("\"{text}\": a path has at most {PARAMS_MAX} parameters"));
    }
    matchit::Router::new().insert(text, ()).map_err(|error| format!("\"{text}\": {error}"))?;
    Ok(text.to_owned())
}

/// Finds the routes that a request could not tell apart: their positions, and which earlier one is in the way.
pub(crate) fn conflicts(routes: &[Route]) -> Vec<(usize, String)> {
    let mut routers: BTreeMap<&str, matchit::Router<()>> = BTreeMap::new();
    let mut found = Vec::new();
    for (position, route) in routes.iter().enumerate() {
        let router = routers.entry(route.method.as_str()).or_default();
        match router.insert(route.path.as_str(), ()) {
            Ok(()) => {}
            Err(matchit::InsertError::Conflict { with }) => found.push((position, with)),
            // The path was refused when it was read.
            Err(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn names_are_what_files_topics_and_tools_can_hold() {
        for good in ["a", "7", "order-events", &"a".repeat(63)] {
            assert!(plain(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a/b", "..", "é", &"a".repeat(64)] {
            assert!(plain(bad).is_err(), "{bad}");
        }
        for good in ["a", "Order.Events_1-x", &"t".repeat(249)] {
            assert!(topic(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "^a", "é", &"t".repeat(250)] {
            assert!(topic(bad).is_err(), "{bad}");
        }
        for good in ["{topic}.DLT", "dead-letters", "dlq.{topic}", "{topic}-dlt"] {
            assert!(dead_letter_topic(good).is_ok(), "{good}");
        }
        for bad in ["", "{topic}", "{name}.DLT", "a b"] {
            assert!(dead_letter_topic(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_event_id_is_a_pointer_a_header_the_key_or_the_offset() {
        assert_eq!(event_id("offset"), Ok(EventId::Offset));
        assert_eq!(event_id("key"), Ok(EventId::Key));
        for name in ["key", "offset", "/id", "header:x"] {
            assert_eq!(event_id(&format!("header:{name}")), Ok(EventId::At(Place::Header(name.into()))));
        }
        assert!(event_id("header:").is_err());
        assert_eq!(event_id("/a~1b/~0c"), Ok(EventId::At(Place::Pointer("/a~1b/~0c".into()))));
        assert_eq!(event_id("ce_id"), Ok(EventId::At(Place::Header("ce_id".into()))));
        for bad in ["/a~", "/a~2", "/~~0"] {
            assert!(event_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_has_whole_parameters_with_names_of_their_own() {
        for good in ["/", "/api/orders/{id}", "/a/{x}/b/{y}", "/a.{kind}"] {
            assert!(path(good).is_ok(), "{good}: {:?}", path(good));
        }
        for bad in ["", "api", "/a b", "/a?x", "/{", "/}", "/{}", "/{*rest}", "/{{a}}", "/{a}/{a}", "/{a}{b}", "/é"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        let many = |count: usize| (0..count).map(|n| format!("/{{p{n}}}")).collect::<String>();
        assert!(path(&many(25)).is_ok());
        assert!(path(&many(26)).unwrap_err().contains("at most 25 parameters"));
    }

    #[test]
    fn routes_that_cannot_be_told_apart_are_found() {
        let route = |method: &str, path: &str| Route { method: method.into(), path: path.into(), ..Route::default() };
        let routes = [
            route("GET", "/a/{id}"),
            route("POST", "/a/{name}"),
            route("GET", "/a/{name}"),
            route("GET", "/a/b"),
            route("GET", "/a/b"),
        ];
        let found: Vec<usize> = conflicts(&routes).into_iter().map(|(position, _)| position).collect();
        assert_eq!(found, [2, 4]);
    }
}
