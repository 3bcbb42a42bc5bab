//! Topic patterns: what librdkafka matches is what the author's regular expression says.

use std::ffi::CString;

use tidemill::deploy::manifest::pattern::translate;

/// As long as people write them, and short enough for the C library.
const PATTERN_MAX: usize = 80;

/// The first line is the pattern, each other one a topic's name.
pub(crate) fn patterns(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let pattern = lines.next().unwrap_or_default();
    if pattern.len() > PATTERN_MAX {
        return;
    }
    let posix = match translate(pattern) {
        Ok(posix) => posix,
        Err(wrong) => return assert!(wrong.contains(pattern), "{wrong}"),
    };
    assert!(posix.starts_with('^'), "{pattern} became {posix}");
    let original = regex::bytes::RegexBuilder::new(pattern).unicode(false).build();
    let native = Native::compile(&posix);
    // It is a common regular expression too, if its further parentheses do not make it too large.
    let again = translate(&posix).ok().map(|posix| Native::compile(&posix));
    for name in lines.filter(|name| is_topic(name)).take(8) {
        let matches = native.is_match(name);
        if let Some(again) = &again {
            assert_eq!(matches, again.is_match(name), "{pattern} became {posix}, and read again it tells {name} apart");
        }
        if let Ok(original) = &original {
            assert_eq!(
                matches,
                original.is_match(name.as_bytes()),
                "{pattern} became {posix}, and {name} is told apart"
            );
        }
    }
}

fn is_topic(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name.bytes().all(good)
}

/// A POSIX extended expression, as librdkafka has it.
struct Native(libc::regex_t);

impl Native {
    fn compile(pattern: &str) -> Self {
        let text = CString::new(pattern).unwrap();
        // SAFETY: an all-zero regex_t is a valid place for regcomp to write to, and the text is a C string.
        unsafe {
            let mut regex: libc::regex_t = std::mem::zeroed();
            let code = libc::regcomp(&mut regex, text.as_ptr(), libc::REG_EXTENDED | libc::REG_NOSUB);
            assert_eq!(code, 0, "{pattern}");
            Self(regex)
        }
    }

    fn is_match(&self, name: &str) -> bool {
        let name = CString::new(name).unwrap();
        // SAFETY: the expression was compiled, and the name is a C string.
        unsafe { libc::regexec(&self.0, name.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: it was compiled, and is freed here only.
        unsafe { libc::regfree(&mut self.0) }
    }
}
