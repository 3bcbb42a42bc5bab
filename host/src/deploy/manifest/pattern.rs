//! A manifest's `pattern`, turned into the regular expressions that librdkafka understands.
//!
//! librdkafka matches topics with the C library's POSIX extended expressions, which know neither `\d` nor `(?:...)`
//! and take `\d` for the letter d without a word. Here the pattern is parsed as a common regular expression and
//! written out again so that it means the same for every topic name that Kafka allows, or is refused.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Every character that a topic's name can have, in the order in which a bracket expression may hold them.
const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz.-";

/// How many characters an expression may stand for when its repetitions are written out. The C library does write them
/// out, and takes up to a second to match some expressions of this size.
const LARGEST: usize = 1_000;

/// Checks a pattern and writes it as a POSIX extended expression.
///
/// # Errors
/// Why no topic can be chosen by it.
pub fn translate(pattern: &str) -> Result<String, String> {
    if !pattern.starts_with('^') {
        return Err(format!("\"{pattern}\" must start with ^"));
    }
    let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
    let parsed = parser.parse(pattern).map_err(|error| {
        let text = match &error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            other => other.to_string(),
        };
        format!("\"{pattern}\" is not a regular expression: {text}")
    })?;
    let wrong = |what: &str| format!("\"{pattern}\" {what}");
    if cost(&parsed) > LARGEST {
        return Err(wrong("repeats too much"));
    }
    // librdkafka tells a pattern from a name by its first character, and `^a|b` is anchored on one side only.
    let anchored = match parsed.kind() {
        HirKind::Look(Look::Start) => true,
        HirKind::Concat(parts) => parts.first().is_some_and(|part| matches!(part.kind(), HirKind::Look(Look::Start))),
        _ => false,
    };
    if !anchored {
        return Err(wrong("is not bound to the start by its ^ as a whole; write ^(...)"));
    }
    let mut out = String::new();
    write(&parsed, &mut out).map_err(wrong)?;
    Ok(out)
}

fn cost(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Repetition(repetition) => {
            // Without an end the C library writes it out once more, to be repeated.
            let times = repetition.max.unwrap_or(repetition.min.saturating_add(1)).max(1);
            cost(&repetition.sub).saturating_mul(usize::try_from(times).unwrap_or(usize::MAX))
        }
        HirKind::Literal(literal) => literal.0.len(),
        other => other.subs().iter().map(cost).fold(1, usize::saturating_add),
    }
}

fn write(hir: &Hir, out: &mut String) -> Result<(), &'static str> {
    match hir.kind() {
        HirKind::Empty => out.push_str("()"),
        HirKind::Literal(literal) => {
            for byte in &literal.0 {
                one_of(&[*byte], out)?;
            }
        }
        HirKind::Class(class) => {
            let has = |byte: u8| match class {
                Class::Bytes(class) => class.iter().any(|r| (r.start()..=r.end()).contains(&byte)),
                Class::Unicode(class) => class.iter().any(|r| (r.start()..=r.end()).contains(&char::from(byte))),
            };
            let members: Vec<u8> = ALPHABET.iter().copied().filter(|byte| has(*byte)).collect();
            one_of(&members, out)?;
        }
        HirKind::Look(Look::Start) => out.push('^'),
        HirKind::Look(Look::End) => out.push('$'),
        HirKind::Look(_) => return Err("uses a word or line boundary, which topic patterns do not know"),
        HirKind::Repetition(repetition) => {
            if repetition.min.max(repetition.max.unwrap_or(0)) > 255 {
                return Err("repeats something more than 255 times");
            }
            // Repetitions of nothing make the C library's work grow without bounds.
            if repetition.sub.properties().minimum_len() == Some(0) {
                return Err("repeats something that may be empty; leave out the inner or the outer repetition");
            }
            group(&repetition.sub, out)?;
            match (repetition.min, repetition.max) {
                (0, None) => out.push('*'),
                (1, None) => out.push('+'),
                (0, Some(1)) => out.push('?'),
                (min, None) => out.push_str(&format!("{{{min},}}")),
                (min, Some(max)) => out.push_str(&format!("{{{min},{max}}}")),
            }
        }
        HirKind::Capture(capture) => group(&capture.sub, out)?,
        HirKind::Concat(parts) => {
            for part in parts {
                match part.kind() {
                    HirKind::Alternation(_) => group(part, out)?,
                    _ => write(part, out)?,
                }
            }
        }
        HirKind::Alternation(parts) => {
            for (i, part) in parts.iter().enumerate() {
                if i > 0 {
                    out.push('|');
                }
                write(part, out)?;
            }
        }
    }
    Ok(())
}

fn group(hir: &Hir, out: &mut String) -> Result<(), &'static str> {
    out.push('(');
    write(hir, out)?;
    out.push(')');
    Ok(())
}

/// One character out of `members`, all of which can stand in a topic's name.
fn one_of(members: &[u8], out: &mut String) -> Result<(), &'static str> {
    match members {
        [] => return Err("asks for a character that no topic's name can have"),
        [b'.'] => out.push_str("[.]"),
        [byte] if ALPHABET.contains(byte) => out.push(char::from(*byte)),
        [_] => return Err("asks for a character that no topic's name can have"),
        many => {
            out.push('[');
            out.extend(many.iter().copied().map(char::from));
            out.push(']');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use std::ffi::CString;

    use proptest::prelude::*;

    use super::*;

    /// Matches as librdkafka does (`rdregex.c`).
    fn matches(pattern: &str, topic: &str) -> bool {
        let (pattern, topic) = (CString::new(pattern).unwrap(), CString::new(topic).unwrap());
        // SAFETY: an all-zero regex_t is a valid place for regcomp to write to; both strings end in NUL and outlive
        // the calls; regexec and regfree run only after regcomp succeeded.
        unsafe {
            let mut regex: libc::regex_t = std::mem::zeroed();
            let compiled = libc::regcomp(&mut regex, pattern.as_ptr(), libc::REG_EXTENDED | libc::REG_NOSUB);
            assert_eq!(compiled, 0, "{pattern:?}");
            let found = libc::regexec(&regex, topic.as_ptr(), 0, std::ptr::null_mut(), 0) == 0;
            libc::regfree(&mut regex);
            found
        }
    }

    #[test]
    fn a_translated_pattern_matches_what_the_author_meant() {
        for (pattern, yes, no) in [
            (r"^post-activity-\d{8}$", "post-activity-20251230", "post-activity-dddddddd"),
            (r"^a.c$", "a-c", "ac"),
            (r"^a\.c$", "a.c", "abc"),
            (r"^(?:order|payment)-events$", "payment-events", "order"),
            (r"^a[^b]+?$", "a-.Z", "ab"),
            (r"^\w+$", "a_1", "a-1"),
            (r"^(a|b)?c*x{2,}$", "bccxxx", "bccx"),
            (r"^[a-z-]+\.[0-9]$", "a-b.1", "A-b.1"),
            (r"^(a|)b$", "b", "ab2"),
        ] {
            let posix = translate(pattern).unwrap();
            assert!(posix.starts_with('^'), "{pattern} became {posix}");
            assert!(matches(&posix, yes), "{pattern} became {posix}, which misses {yes}");
            assert!(!matches(&posix, no), "{pattern} became {posix}, which takes {no}");
        }
    }

    #[test]
    fn what_cannot_be_matched_is_refused() {
        for (pattern, why) in [
            ("a", "must start with ^"),
            ("^a(", "not a regular expression"),
            (r"^a\b", "boundary"),
            ("^a b", "no topic's name"),
            ("^a{256}", "more than 255"),
            ("^((a{200}){200}){200}", "repeats too much"),
            // The C library writes each + out twice, so that so many took all of the memory.
            ("^a++++++++++++++++++++", "repeats too much"),
            ("^((((a{9,}){9,}){9,}){9,})", "repeats too much"),
            // The C library did not come to an end with this one.
            ("^(((ab|c)*)*){0,22}$", "may be empty"),
            ("^a|b", "as a whole"),
            ("^*a", "as a whole"),
            ("^(?=a)b", "not a regular expression"),
            (r"^\p{Greek}", "not a regular expression"),
        ] {
            let error = translate(pattern).unwrap_err();
            assert!(error.contains(why), "{pattern}: {error}");
        }
    }

    /// Expressions without anchors, and names that they match.
    fn names_of_patterns() -> impl Strategy<Value = (&'static str, String)> {
        let tails = [
            r"[a-c]{2,3}|x\.y",
            r"order-[0-9]+(\.[a-z]{1,3})?",
            r"(a|bc*)+_?Z",
            r"[0-9A-Z_.&&[^M5-7]]{1,9}",
            r"(?:(?:a?b){2}c|-){1,3}?",
        ];
        proptest::sample::select(tails.to_vec()).prop_flat_map(|tail| {
            let names = proptest::string::string_regex(tail).unwrap();
            names.prop_map(move |name| (tail, name))
        })
    }

    proptest! {
        /// Every name that the author's expression matches, librdkafka matches too.
        #[test]
        fn no_name_is_lost_in_translation((tail, name) in names_of_patterns()) {
            let posix = translate(&format!("^(?:{tail})$")).unwrap();
            prop_assert!(matches(&posix, &name), "{} became {}, which misses {}", tail, posix, name);
        }

        /// No pattern makes it panic, and what it writes is a POSIX expression that means the same when read again.
        #[test]
        fn any_text_is_translated_or_refused(tail in "[a-c.\\-()|*+?{}\\[\\]^$0-3\\\\d]{0,20}", name in "[a-c.0-3d-]{1,8}") {
            if let Ok(once) = translate(&format!("^{tail}")) {
                let twice = translate(&once).unwrap();
                prop_assert_eq!(matches(&once, &name), matches(&twice, &name), "{} / {}", once, twice);
            }
        }
    }
}
