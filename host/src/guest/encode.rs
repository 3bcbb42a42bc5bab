//! Makes a component of a core module that names its component type, as wit-bindgen builds one for
//! wasm32-unknown-unknown.
//!
//! Its invariant: what is a component already is left as it is. It compiles and runs nothing.

use std::borrow::Cow;

use anyhow::{Context as _, Result};
use wasmparser::Parser;
use wit_component::ComponentEncoder;

/// What the names of those custom sections begin with that hold a core module's component type.
const COMPONENT_TYPE: &str = "component-type";

/// Whether the custom section of this name holds a component type.
pub fn names_component_type(section: &str) -> bool {
    section.starts_with(COMPONENT_TYPE)
}

/// The component in `bytes`, or the one that is made of the core module in them.
///
/// # Errors
/// The module imports or exports what its component type does not have, or is damaged.
pub fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    if !Parser::is_core_wasm(bytes) {
        return Ok(Cow::Borrowed(bytes));
    }
    let encode = |bytes| ComponentEncoder::default().validate(true).module(bytes)?.encode();
    let component = encode(bytes).context(
        "this core module cannot be made a component, since what it imports or exports is not what its component type says: \
         build the handler for wasm32-wasip2, or use nothing of the system",
    )?;
    Ok(Cow::Owned(component))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_component_stays_as_it_is_and_a_module_without_a_type_is_told() {
        let empty = b"\0asm\x0d\0\x01\0";
        assert!(matches!(component(empty).unwrap(), Cow::Borrowed(bytes) if bytes == empty));
        // Imports a function `a.b`, as one does that was built for another system.
        let module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x07\x01\x01a\x01b\0\0";
        let error = format!("{:#}", component(module).unwrap_err());
        assert!(error.contains("wasm32-wasip2") && error.contains('a'), "{error}");
    }
}
