//! SQL that SQLite does not stop between two steps, or that looks like a broken store.

use serde_json::{Value, json};

use crate::offender::Pair;

/// A single function call can take a string's length squared, without ever asking whether the time is up.
#[test]
fn h4_a_function_that_takes_for_ever_does_not_hold_up_its_neighbours() {
    let long = "hex(zeroblob(8000000))";
    let half = "hex(zeroblob(4000000)) || '1'";
    let other = "replace(hex(zeroblob(4000000)), '0', '1') || '0'";
    let calls = [
        format!("SELECT instr({long}, {half})"),
        format!("SELECT length(replace({long}, {half}, ''))"),
        format!("SELECT {long} LIKE '%' || hex(zeroblob(24000)) || '1%'"),
        format!("SELECT {long} GLOB '*' || hex(zeroblob(24000)) || '1*'"),
        format!("SELECT length(trim({long}, {other}))"),
        format!("SELECT length(unhex({long}, {other}))"),
    ];
    let offences: Vec<(Value, &[&str])> = calls
        .iter()
        .map(|call| (json!([{ "do": "sql", "statements": [call], "go_on": true }, { "do": "panic" }]), &[][..]))
        .collect();
    Pair::new("", &[]).run(120, &offences);
}

/// SQLite calls it corruption when a full-text index and its table disagree; the store is all right.
#[test]
fn h4_a_full_text_index_that_is_out_of_step_harms_only_its_own_record() {
    let tables = "CREATE TABLE doc (id INTEGER PRIMARY KEY, body TEXT);
                  CREATE VIRTUAL TABLE found USING fts5 (body, content = 'doc', content_rowid = 'id');
                  INSERT INTO found (rowid, body) VALUES (1, 'lost');";
    let ask = json!({ "do": "sql", "statements": ["SELECT body FROM found WHERE found MATCH 'lost'"] });
    let check = json!({ "do": "sql", "statements": ["INSERT INTO found (found, rank) VALUES ('integrity-check', 1)"] });
    Pair::new("", &[("0002_text.sql", tables)]).run(60, &[(ask, &["tidemill.Retry"]), (check, &["tidemill.Retry"])]);
}
