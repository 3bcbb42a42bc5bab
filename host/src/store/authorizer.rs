//! Who may do what inside the database: one authorizer for each connection, which asks who is running.
//!
//! SQLite may prepare a statement again in the middle of a step, so the actor is set around every step and
//! not only around `prepare`. What is not listed here is refused; the host's own SQL is never restricted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// Whose SQL is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Actor {
    Host = 0,
    Guest = 1,
    Migration = 2,
}

/// The connection's present actor, shared with its authorizer.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<AtomicU8>);

impl Running {
    /// Until the guard is dropped, `actor` is running.
    pub(super) fn set(&self, actor: Actor) -> Guard {
        self.0.store(actor as u8, Ordering::Relaxed);
        Guard(self.clone())
    }

    pub(super) fn is_host(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Actor::Host as u8
    }

    pub(super) fn hook(&self) -> impl for<'r> FnMut(AuthContext<'r>) -> Authorization + Send + 'static {
        let running = self.clone();
        move |context| {
            let allowed = match running.0.load(Ordering::Relaxed) {
                0 => true,
                1 => guest_may(&context.action),
                _ => migration_may(&context.action),
            };
            if allowed { Authorization::Allow } else { Authorization::Deny }
        }
    }
}

pub(super) struct Guard(Running);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.store(Actor::Host as u8, Ordering::Relaxed);
    }
}

/// The first loads code. The next tell of what ran on the connection before, other deliveries' and the host's
/// statements included; RETURNING, and the number that `execute` returns, say the same of the guest's own. One call of
/// the last two takes the product of two lengths, whatever the deadline.
const DENIED_FUNCTIONS: [&str; 6] =
    ["load_extension", "last_insert_rowid", "changes", "total_changes", "json_patch", "jsonb_patch"];

fn guest_may(action: &AuthAction<'_>) -> bool {
    match action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => !hosts(table_name) && !internal(table_name),
        AuthAction::Function { function_name } => {
            !DENIED_FUNCTIONS.iter().any(|denied| function_name.eq_ignore_ascii_case(denied))
        }
        _ => false,
    }
}

/// A migration may also change the schema, which SQLite does by writing `sqlite_master`; that table cannot be
/// written directly, since the connection is in defensive mode.
fn migration_may(action: &AuthAction<'_>) -> bool {
    match action {
        AuthAction::CreateTable { table_name }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::DropTable { table_name }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::DropTrigger { table_name, .. }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::Analyze { table_name }
        | AuthAction::CreateVtable { table_name, .. }
        | AuthAction::DropVtable { table_name, .. } => !hosts(table_name),
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => !hosts(view_name),
        AuthAction::Reindex { .. } => true,
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => !hosts(table_name),
        other => guest_may(other),
    }
}

/// The ledger's tables.
fn hosts(table: &str) -> bool {
    has_prefix(table, "tm_")
}

/// SQLite's own tables and table-valued functions that show the whole database.
fn internal(table: &str) -> bool {
    ["sqlite_", "pragma_", "dbstat"].iter().any(|prefix| has_prefix(table, prefix))
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
