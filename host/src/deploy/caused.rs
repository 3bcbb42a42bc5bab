//! What one event caused, with the handlers that run and the stores that are open.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use super::Deployer;
use super::command::Denied;
use crate::lineage::told::Traced;
use crate::lineage::{self, Places};

/// Held by the one trace that is being made: it keeps what it has read in memory.
static ONE: Mutex<()> = Mutex::new(());

impl Deployer {
    /// Traces an event id, or `TOPIC/PARTITION@OFFSET`.
    ///
    /// # Errors
    /// Nobody knows it, and where it was looked for; or a store cannot be read.
    pub fn trace(&self, asked: &str) -> Result<Traced> {
        let _one_at_a_time = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let stores = self.stores.listed().into_iter().map(|(_, path)| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (name, path.to_path_buf())
        });
        let places = Places { specs: self.specs(), stores: stores.collect(), kafka: self.around.kafka.clone() };
        let traced = lineage::trace(&places, asked)?;
        if traced.found.is_none() {
            let mut why = format!("nobody knows {asked}; it was looked for in: {}", traced.looked.join(", "));
            traced.notes.iter().for_each(|note| why += &format!("; {note}"));
            return Err(Denied::Unknown(why).into());
        }
        Ok(traced)
    }
}
