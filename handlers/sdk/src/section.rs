//! The custom sections that travel inside a handler's `.wasm` file.
//!
//! `tidemill:manifest` is the text of `handler.toml`. `tidemill:migrations` is a list of entries, each
//! `[u32 le: length of the name][name][u32 le: length of the SQL][SQL]`: self-delimiting, because linkers
//! concatenate sections of one name. Everything here runs while the handler is compiled, never in the component.
#![allow(clippy::indexing_slicing, reason = "evaluated at compile time, where a bad index is a compile error")]

/// One migration: its path as the handler names it, and its SQL.
pub type Migration = (&'static str, &'static str);

/// The text as an array, to be placed in a section.
pub const fn text<const LEN: usize>(text: &str) -> [u8; LEN] {
    put([0; LEN], 0, text.as_bytes())
}

/// How long the section of these migrations is.
pub const fn migrations_len(migrations: &[Migration]) -> usize {
    let mut len = 0;
    let mut at = 0;
    while at < migrations.len() {
        let (path, sql) = migrations[at];
        len += 8 + file_name(path).len() + sql.len();
        at += 1;
    }
    len
}

/// The section of these migrations.
pub const fn migrations<const LEN: usize>(migrations: &[Migration]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let mut end = 0;
    let mut at = 0;
    while at < migrations.len() {
        let (path, sql) = migrations[at];
        let parts = [file_name(path), sql.as_bytes()];
        let mut part = 0;
        while part < parts.len() {
            bytes = put(bytes, end, &(parts[part].len() as u32).to_le_bytes());
            bytes = put(bytes, end + 4, parts[part]);
            end += 4 + parts[part].len();
            part += 1;
        }
        at += 1;
    }
    bytes
}

/// Whether the file names rise. Migrations run in that order, so a list that says otherwise would mislead.
pub const fn in_order(migrations: &[Migration]) -> bool {
    let mut at = 1;
    while at < migrations.len() {
        if !less(file_name(migrations[at - 1].0), file_name(migrations[at].0)) {
            return false;
        }
        at += 1;
    }
    true
}

const fn put<const LEN: usize>(mut bytes: [u8; LEN], from: usize, part: &[u8]) -> [u8; LEN] {
    let mut at = 0;
    while at < part.len() {
        bytes[from + at] = part[at];
        at += 1;
    }
    bytes
}

/// What follows the last `/`.
const fn file_name(path: &str) -> &[u8] {
    let bytes = path.as_bytes();
    let mut from = bytes.len();
    while from > 0 && bytes[from - 1] != b'/' {
        from -= 1;
    }
    bytes.split_at(from).1
}

const fn less(left: &[u8], right: &[u8]) -> bool {
    let mut at = 0;
    while at < left.len() && at < right.len() {
        if left[at] != right[at] {
            return left[at] < right[at];
        }
        at += 1;
    }
    left.len() < right.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[Migration] = &[("migrations/0001_a.sql", "A;"), ("0002.sql", "")];

    #[test]
    fn entries_are_self_delimiting_and_carry_the_file_name_only() {
        const LEN: usize = migrations_len(TWO);
        let mut expected = Vec::new();
        for part in ["0001_a.sql", "A;", "0002.sql", ""] {
            expected.extend((part.len() as u32).to_le_bytes());
            expected.extend(part.as_bytes());
        }
        assert_eq!(migrations::<LEN>(TWO).to_vec(), expected);
    }

    #[test]
    fn file_names_must_rise() {
        assert!(in_order(TWO));
        assert!(!in_order(&[("b/1.sql", ""), ("a/1.sql", "")]));
        assert!(!in_order(&[("2.sql", ""), ("10.sql", ""), ("1.sql", "")]));
    }
}
