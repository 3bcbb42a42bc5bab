//! Handlers of records written by hand.

use std::fmt::Write as _;

use tidemill_tests::component;
pub(crate) use tidemill_tests::component::CONTRACT;

/// A core module, with the world of records of this contract.
pub(crate) fn module(text: &str, contract: &str) -> Vec<u8> {
    component::module(text, contract, "records-handler")
}

/// The handler of `frame.wat` with these attacks, each a function's body.
pub(crate) fn of_attacks(bodies: &[&str]) -> Vec<u8> {
    let mut attacks = format!("(table $attacks {} funcref) (elem (table $attacks) (i32.const 0) func", bodies.len());
    for n in 0..bodies.len() {
        write!(attacks, " $attack{n}").unwrap();
    }
    attacks += ")\n";
    for (n, body) in bodies.iter().enumerate() {
        let body = body.replace("$SELF", &format!("$attack{n}"));
        writeln!(attacks, "(func $attack{n} (result i32) {body})").unwrap();
    }
    module(&include_str!("frame.wat").replace(";;ATTACKS\n", &attacks), CONTRACT)
}

/// A handler that does nothing, with these fields in its module.
pub(crate) fn idle(fields: &str) -> Vec<u8> {
    module(&idle_text(fields), CONTRACT)
}

/// Its text.
pub(crate) fn idle_text(fields: &str) -> String {
    let realloc = "(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 1024))";
    let params = "i32 i32 i32 i64 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32";
    let memory = if fields.contains("(memory") { "" } else { "(memory (export \"memory\") 1)" };
    format!(
        "(module {memory} {realloc} {fields}
           (func (export \"tidemill:handler/records@0.1.0#handle\") (param {params}) (result i32) (i32.const 0)))"
    )
}
