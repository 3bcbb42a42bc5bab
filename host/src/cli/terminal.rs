//! Text on its way to a terminal.
//!
//! Records, topics and headers are others' text. A character that a terminal would follow, or that turns the text around, is never
//! written as it is.

use std::fmt::Write as _;

/// A text in one line: control characters are written as in JSON.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if steers(c) => escape(&mut out, c),
            c => out.push(c),
        }
    }
    out
}

/// Lines of our own that may hold others' text: the same, but for the ends of lines. JSON stays the same JSON.
pub(super) fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) && !matches!(c, '\n' | '\t') { escape(&mut out, c) } else { out.push(c) }
    }
    out
}

/// Control characters, and those of Unicode that change the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(out: &mut String, c: char) {
    let _ = write!(out, "\\u{:04x}", u32::from(c));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_follows_is_left_and_json_stays_json() {
        let wild = "a\u{1b}[2J\u{9b}31m\r\n\u{7f}\u{202e}é\u{2028}";
        assert_eq!(plain(wild), "a\\u001b[2J\\u009b31m\\r\\n\\u007f\\u202eé\\u2028");
        assert_eq!(lines("a\tb\n\u{1b}"), "a\tb\n\\u001b");
        let json = serde_json::Value::from(wild);
        let shown = lines(&json.to_string());
        assert!(!shown.contains(steers), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).ok(), Some(json));
    }
}
