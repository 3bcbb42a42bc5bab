//! Takes out of a component what only a debugger or a linker reads.
//!
//! Its invariant: whatever runs stays byte for byte, and so do the manifest, the migrations and the functions' names, by which a
//! trap is told.

use anyhow::{Context as _, Result};
use wasmparser::{Parser, Payload};

/// Ids of the sections that hold a module or a component within a component.
const MODULE: u8 = 1;
const COMPONENT: u8 = 4;
/// The first eight bytes: magic and version.
const HEADER: usize = 8;

/// The same component without what nobody needs to run it.
///
/// # Errors
/// It is damaged.
pub fn strip(component: &[u8]) -> Result<Vec<u8>> {
    let damaged = "read what was built";
    let mut open: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut out = component.get(..HEADER).context(damaged)?.to_vec();
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.context(damaged)?;
        let nested = match &payload {
            Payload::ModuleSection { unchecked_range, .. } => Some((MODULE, unchecked_range.start)),
            Payload::ComponentSection { unchecked_range, .. } => Some((COMPONENT, unchecked_range.start)),
            _ => None,
        };
        if let Some((id, start)) = nested {
            let header = component.get(start..start + HEADER).context(damaged)?.to_vec();
            open.push((id, std::mem::replace(&mut out, header)));
            continue;
        }
        match payload {
            Payload::CustomSection(custom) if !keeps(custom.name()) => {}
            Payload::End(_) => {
                if let Some((id, outer)) = open.pop() {
                    let inner = std::mem::replace(&mut out, outer);
                    section(&mut out, id, &inner);
                }
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    section(&mut out, id, component.get(range).context(damaged)?);
                }
            }
        }
    }
    Ok(out)
}

/// Which custom sections stay.
fn keeps(name: &str) -> bool {
    matches!(name, "name" | "component-name") || name.starts_with("tidemill:") || name.starts_with("metadata.code.")
}

fn section(out: &mut Vec<u8>, id: u8, content: &[u8]) {
    out.push(id);
    let mut rest = content.len();
    // The length as unsigned LEB128.
    while rest > 0x7f {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::deploy::artifact::sections;

    fn custom(name: &str, content: &[u8]) -> Vec<u8> {
        let mut body = vec![name.len() as u8];
        body.extend(name.bytes());
        body.extend(content);
        let mut out = Vec::new();
        section(&mut out, 0, &body);
        out
    }

    #[test]
    fn what_runs_and_what_the_host_reads_stays_and_the_rest_goes() {
        let manifest = custom("tidemill:manifest", &[b'#'; 300]);
        let empty_types: &[u8] = &[1, 1, 0];
        let module = |more: &[Vec<u8>]| [b"\0asm\x01\0\0\0".as_slice(), empty_types, &more.concat()].concat();
        let component = |module: &[u8], more: &[Vec<u8>]| {
            let mut out = b"\0asm\x0d\0\x01\0".to_vec();
            section(&mut out, MODULE, module);
            out.extend(more.concat());
            out
        };
        let names = custom("name", &[]);
        let full = component(
            &module(&[custom(".debug_info", &[7; 500]), manifest.clone(), names.clone(), custom("producers", &[0])]),
            &[custom("producers", &[0]), custom("component-name", &[])],
        );
        let stripped = strip(&full).unwrap();
        assert_eq!(stripped, component(&module(&[manifest, names]), &[custom("component-name", &[])]));
        assert_eq!(sections(&stripped).unwrap().0.unwrap().len(), 300);
        assert_eq!(strip(&stripped).unwrap(), stripped);
        assert!(strip(full.get(..full.len() - 1).unwrap()).is_err());
    }
}
