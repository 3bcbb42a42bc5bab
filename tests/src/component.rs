//! Handlers without a compiler: text to a core module that names its component type, which the host encodes.
//!
//! With one of them any handler can be put out of its work: see [`doing_nothing`].

use tidemill::deploy::artifact;
use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::sandbox::with_content;

/// The contract.
pub const CONTRACT: &str = include_str!("../../wit/handler.wit");

/// Exports all that a handler can, answers `ok` to everything, and 204 to a request.
const NOTHING: &str = r#"(module
    (memory (export "memory") 64)
    ;; 0: `ok`. 512: the response. From 1024 on the host writes what nobody reads.
    (data (i32.const 512) "\cc\00")
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "tidemill:handler/records@0.1.0#handle")
      (param i32 i32 i32 i64 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "tidemill:handler/http@0.1.0#handle") (param i32) (result i32) (i32.const 512))
    (func (export "tidemill:handler/compensation@0.1.0#compensate") (param i32) (result i32) (i32.const 0))
    (func (export "tidemill:handler/sends@0.1.0#completed") (param i32) (result i32) (i32.const 0))
    (func (export "tidemill:handler/timers@0.1.0#fire") (param i32 i32 i64 i32 i32 i32) (result i32) (i32.const 0)))"#;

/// A core module with this world of this contract.
pub fn module(text: &str, contract: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("handler.wit", contract).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// A handler with the manifest and the migrations of this one, which does nothing.
pub fn doing_nothing(component: &[u8]) -> Vec<u8> {
    let (manifest, migrations) = artifact::sections(component).unwrap();
    let length = |text: &str| u32::try_from(text.len()).unwrap().to_le_bytes();
    let texts = migrations.iter().flat_map(|migration| [&migration.name, &migration.sql]);
    let migrations: Vec<u8> = texts.flat_map(|text| [&length(text)[..], text.as_bytes()].concat()).collect();
    let nothing = module(NOTHING, CONTRACT, "handler");
    let nothing = with_content(&nothing, "tidemill:manifest", manifest.expect("a manifest inside").as_bytes());
    with_content(&nothing, "tidemill:migrations", &migrations)
}
