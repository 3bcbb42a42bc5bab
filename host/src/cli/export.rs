//! `tidemill export`: what stands in the ledgers of a data folder, a JSON object a line.
//!
//! It reads beside a daemon that runs, or without one, and holds a row in memory. Each store is shown as it is at one moment.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value as Json, json};

use super::remote::name;
use super::{Config, say_more};
use crate::deploy::{audit, stores};
use crate::ledger::listing::{Holds, LISTINGS, Listing};
use crate::ledger::schema;
use crate::rig::wire;
use crate::settings::units;
use crate::store::{self, Connection, Kind, Row};

/// The listing that is no store's.
const AUDIT: &str = "audit";

/// `tidemill export`
#[derive(Debug, Args)]
pub struct Arguments {
    /// What.
    #[arg(value_parser = listings(), ignore_case = true)]
    listing: String,
    /// Only what is of this handler.
    #[arg(long, value_parser = name)]
    handler: Option<String>,
    /// Only what is in this store.
    #[arg(long, value_parser = name)]
    store: Option<String>,
    #[command(flatten)]
    config: Config,
}

fn listings() -> PossibleValuesParser {
    LISTINGS.iter().map(|listing| listing.name).chain([AUDIT]).collect::<Vec<_>>().into()
}

/// Prints it.
///
/// # Errors
/// There is no data folder; a store cannot be read, or is another version's.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let data = arguments.config.load()?.data;
    let handler = arguments.handler.as_deref();
    let Some(listing) = Listing::named(&arguments.listing) else { return export_audit(&data, handler) };
    let none = || {
        format!("{} is no data folder (`data`): name the settings with --config, or set TIDEMILL_DATA", data.display())
    };
    for (name, path) in stores::files(&data).with_context(none)? {
        if arguments.store.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let read = || format!("read store {}", path.display());
        let connection = Connection::open_reader(&path).with_context(read)?;
        schema::check(&connection).with_context(read)?;
        let (mut said, mut going) = (Ok(()), true);
        let shown = listing.each(&connection, handler, |row| {
            match say_more(&Json::Object(object(listing, &name, row)?).to_string()) {
                Ok(more) => going = more,
                Err(error) => (said, going) = (Err(error), false),
            }
            Ok(going)
        });
        shown.with_context(read)?;
        said?;
        if !going {
            return Ok(());
        }
    }
    Ok(())
}

fn object(listing: &Listing, store: &str, row: &Row<'_>) -> Result<Map<String, Json>, store::Error> {
    let mut object = Map::from_iter([("store".to_owned(), store.into())]);
    for (i, (name, _, holds)) in listing.fields.iter().enumerate() {
        let shown = match holds {
            Holds::Plain => wire::cell(row.value(i)?),
            Holds::Time => row.opt_integer(i)?.map(units::show_time).into(),
            Holds::Bytes => wire::text(row.opt_bytes(i)?.as_deref()),
            Holds::Json => serde_json::from_str(&row.text(i)?)
                .map_err(|error| store::Error::new(Kind::Other, format!("its column {name} is no JSON: {error}")))?,
        };
        object.insert((*name).to_owned(), shown);
    }
    Ok(object)
}

/// The audit log's lines as they are. One that a full disk has cut off is shown as text.
fn export_audit(data: &Path, handler: Option<&str>) -> Result<()> {
    let path = data.join(audit::FILE);
    let read = || format!("read the audit log {}", path.display());
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound && data.is_dir() => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no data folder {} (`data`): name the settings with --config", data.display())
        }
        file => BufReader::new(file.with_context(read)?),
    };
    for line in file.split(b'\n') {
        let line = String::from_utf8_lossy(&line.with_context(read)?).into_owned();
        let told = serde_json::from_str::<Json>(&line).unwrap_or_else(|_| json!({ "cut_off": line }));
        let of = told.get("handler").and_then(Json::as_str);
        if !line.is_empty() && (handler.is_none() || handler == of) && !say_more(&told.to_string())? {
            break;
        }
    }
    Ok(())
}
