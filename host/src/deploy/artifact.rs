//! A handler's file: the component, and the manifest and migrations that travel inside it or beside it.
//!
//! Everything is read without running or compiling anything. A truncated file is told from one that is something
//! else, so that a half-written copy is not mistaken for a broken handler.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use wasmparser::{Parser, Payload};

use super::manifest::{Manifest, Spec};
use crate::guest::encode;
use crate::guest::engine::COMPONENT_MAX;
use crate::ledger::deployment::Migration;
use crate::settings::{Problems, Settings};

/// What WebAssembly begins with.
const MAGIC: &[u8] = b"\0asm";
/// The custom section that holds `handler.toml`.
const MANIFEST_SECTION: &str = "tidemill:manifest";
/// The custom section that holds the migrations: for each, the length of its name (u32, little-endian), the name, the
/// length of its SQL, and the SQL.
const MIGRATIONS_SECTION: &str = "tidemill:migrations";

/// A handler's file, read and understood.
#[derive(Debug)]
pub struct Artifact {
    /// The component, or the core module that it is made from.
    pub bytes: Vec<u8>,
    /// Hash of the file, in hexadecimal.
    pub sha256: String,
    /// The manifest as TOML.
    pub manifest_text: String,
    /// The manifest.
    pub manifest: Manifest,
    /// In the order of their names.
    pub migrations: Vec<Migration>,
    /// Hash of the component, the manifest and the migrations, wherever they came from.
    pub version: String,
    /// Whether the manifest stood beside the component, and not in it.
    pub manifest_beside: bool,
    /// Whether the migrations did.
    pub migrations_beside: bool,
}

/// What an artifact is made of: the component, and what stands beside it.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// The component.
    pub wasm: Vec<u8>,
    /// `NAME.toml`, in place of the manifest inside.
    pub manifest: Option<String>,
    /// The files of `NAME.migrations`, in place of the migrations inside.
    pub migrations: Option<Vec<Migration>>,
}

impl Parts {
    /// Reads `NAME.wasm` and what stands beside it.
    ///
    /// # Errors
    /// The file is too large, or something cannot be read.
    pub fn read(file: &Path) -> Result<Self> {
        let length = fs::metadata(file).with_context(|| format!("read {}", file.display()))?.len();
        if length > COMPONENT_MAX {
            bail!(
                "the file has {length} bytes, and a component may have {COMPONENT_MAX}: strip it (`strip = \"debuginfo\"`)"
            );
        }
        let wasm = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let folder = file.with_extension("migrations");
        let migrations = if folder.is_dir() { Some(read_folder(&folder)?) } else { None };
        Ok(Self { wasm, manifest: read_beside(&file.with_extension("toml"))?, migrations })
    }
}

impl Artifact {
    /// Reads `NAME.wasm`; `NAME.toml` beside it replaces its manifest, and the folder `NAME.migrations` its migrations.
    pub fn read(file: &Path) -> Result<Self> {
        Self::from_parts(Parts::read(file)?, file)
    }

    /// Understands what was read; `file` names it in errors.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn from_parts(parts: Parts, file: &Path) -> Result<Self> {
        Self::of(parts, format!("{}[handler.toml]", file.display()), &file.with_extension("toml"))
    }

    /// Understands a file that stands alone, or is none yet; `origin` names its manifest in what is said of it.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn read_alone(bytes: Vec<u8>, origin: &str) -> Result<Self> {
        Self::of(Parts { wasm: bytes, ..Parts::default() }, origin.to_owned(), Path::new("NAME.toml"))
    }

    /// `inside_origin` and `beside` name the manifest in the component, and the one that would stand beside it.
    fn of(parts: Parts, inside_origin: String, beside: &Path) -> Result<Self> {
        let (manifest, inside) = sections(&parts.wasm)?;
        let (manifest_beside, migrations_beside) = (parts.manifest.is_some(), parts.migrations.is_some());
        let (manifest_text, origin) = match parts.manifest {
            Some(text) => (text, beside.display().to_string()),
            None => match manifest {
                Some(text) => (text, inside_origin),
                None => bail!(
                    "it carries no manifest: build it with the SDK's `handler!`, or put a manifest beside it as {}",
                    beside.display()
                ),
            },
        };
        let mut migrations = parts.migrations.unwrap_or(inside);
        migrations.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = migrations.windows(2).find(|pair| matches!(pair, [a, b] if a.name == b.name)) {
            bail!("two migrations are named {}", pair.first().map_or("", |m| m.name.as_str()));
        }
        let manifest = Manifest::parse(&manifest_text, &origin)?;
        let sha256 = crate::id::sha256_hex(&parts.wasm);
        let version = version(&sha256, &manifest_text, &migrations);
        Ok(Self {
            bytes: parts.wasm,
            sha256,
            manifest_text,
            manifest,
            migrations,
            version,
            manifest_beside,
            migrations_beside,
        })
    }

    /// The handler's name, which every manifest has.
    pub fn name(&self) -> &str {
        self.manifest.name.as_deref().unwrap_or_default()
    }

    /// What it was made of.
    pub fn parts(&self) -> Parts {
        Parts {
            wasm: self.bytes.clone(),
            manifest: self.manifest_beside.then(|| self.manifest_text.clone()),
            migrations: self.migrations_beside.then(|| self.migrations.clone()),
        }
    }

    /// The handler's configuration under the operator's settings, with its secrets, which are read now.
    ///
    /// # Errors
    /// What is wrong with it, what it asks for that is not given, secrets that cannot be read.
    pub fn resolve(&self, settings: &Settings) -> Result<Spec> {
        let (mut spec, mut missing) = self.lay_out(settings)?;
        for (name, secret) in &mut spec.secrets {
            if let Err(wrong) = secret.read() {
                let message = format!("the secret `{name}` ([handler.{}.secrets]) {wrong}", spec.name);
                missing.extend(Problems::one(format!("handler `{}`", spec.name), message));
            }
        }
        Ok(missing.or(spec)?)
    }

    /// The configuration without secrets, and what the handler asks for that is not given.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn lay_out(&self, settings: &Settings) -> Result<(Spec, Problems)> {
        let over = self.manifest.name.as_ref().and_then(|name| settings.overrides.get(name));
        Ok(Spec::lay_out(&self.manifest, &settings.defaults, over)?)
    }
}

fn version(sha256: &str, manifest: &str, migrations: &[Migration]) -> String {
    let parts = [sha256, manifest].into_iter().chain(migrations.iter().flat_map(|m| [m.name.as_str(), m.sql.as_str()]));
    let hashes: String = parts.map(|part| crate::id::sha256_hex(part.as_bytes())).collect();
    crate::id::sha256_hex(hashes.as_bytes())
}

fn read_beside(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn read_folder(folder: &Path) -> Result<Vec<Migration>> {
    let read = || format!("read {}", folder.display());
    let mut migrations = Vec::new();
    for entry in fs::read_dir(folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let sql = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            migrations.push(Migration { name, sql });
        }
    }
    Ok(migrations)
}

/// The manifest and the migrations inside a component or a module in it, or inside a core module that can be made a component.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub fn sections(bytes: &[u8]) -> Result<(Option<String>, Vec<Migration>)> {
    match bytes {
        [] => bail!("the file is empty: perhaps it is still being copied"),
        _ if MAGIC.starts_with(bytes) => bail!("the file is cut off: perhaps it is still being copied"),
        _ if !bytes.starts_with(MAGIC) => bail!("this is not WebAssembly: build the handler for wasm32-wasip2"),
        _ => {}
    }
    let (mut manifest, mut migrations) = (None, Vec::new());
    let mut typed = !Parser::is_core_wasm(bytes);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| {
            let at_end = error.message().contains("unexpected end");
            let advice =
                if at_end { "the file is cut off: perhaps it is still being copied" } else { "the file is damaged" };
            anyhow::anyhow!("{advice} ({error})")
        })?;
        let Payload::CustomSection(section) = payload else { continue };
        match section.name() {
            MANIFEST_SECTION => {
                let text = std::str::from_utf8(section.data()).context("the manifest inside is not UTF-8")?;
                if manifest.replace(text.to_owned()).is_some() {
                    bail!("it carries two manifests: `handler!` may stand only once in a handler");
                }
            }
            MIGRATIONS_SECTION => entries(section.data(), &mut migrations)
                .context("the migrations inside cannot be read: build the handler again with this SDK")?,
            name => typed |= encode::names_component_type(name),
        }
    }
    if !typed {
        bail!(
            "this is a core module that does not name its component type: build the handler for wasm32-wasip2, or with wit-bindgen for wasm32-unknown-unknown"
        );
    }
    Ok((manifest, migrations))
}

fn entries(mut data: &[u8], out: &mut Vec<Migration>) -> Result<()> {
    while !data.is_empty() {
        let (name, rest) = text(data)?;
        let (sql, rest) = text(rest)?;
        out.push(Migration { name, sql });
        data = rest;
    }
    Ok(())
}

fn text(data: &[u8]) -> Result<(String, &[u8])> {
    let (length, rest) = data.split_first_chunk::<4>().context("cut off")?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).context("cut off")?;
    Ok((std::str::from_utf8(text).context("not UTF-8")?.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_a_component_is_told_apart() {
        let check = |bytes: &[u8], expected: &str| {
            let error = format!("{:#}", sections(bytes).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        check(b"", "empty");
        for cut in 1..8 {
            check(b"\0asm\x0d\0\x01\0".get(..cut).unwrap(), "perhaps it is still being copied");
        }
        check(b"#!/bin/sh", "not WebAssembly");
        check(b"\0asm\x01\0\0\0", "core module");
        // The type's own text is read when it is encoded.
        sections(b"\0asm\x01\0\0\0\0\x0f\x0ecomponent-type").unwrap();
        check(b"\0asm\x0d\0\x01\0\x01\x50abc", "cut off");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), wasm in any::<bool>()) {
            let mut all = if wasm { b"\0asm\x0d\0\x01\0".to_vec() } else { Vec::new() };
            all.extend(&bytes);
            let _ = sections(&all);
            let _ = entries(&bytes, &mut Vec::new());
        }
    }
}
