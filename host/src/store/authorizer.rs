//! Who may do what inside the database: one authorizer for each connection, which asks who is running.
//!
//! SQLite may prepare a statement again in the middle of a step, so the actor is set around every step and
//! not only around `prepare`. What is not listed here is refused; the host's own SQL is never restricted.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::rights::{Access, Rights, is_hosts, is_internal};

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
pub(super) struct Running(Arc<State>);

#[derive(Default)]
struct State {
    actor: AtomicU8,
    /// Whether the statement of a migration drops, alters or analyses something, for which SQLite looks at its own tables.
    alters: AtomicBool,
    rights: Mutex<Arc<Rights>>,
    /// Why something was refused last, where SQLite's own words do not say it.
    refused: Mutex<Option<String>>,
}

impl Running {
    /// Until the guard is dropped, `actor` is running.
    pub(super) fn set(&self, actor: Actor) -> Guard {
        self.0.actor.store(actor as u8, Ordering::Relaxed);
        Guard(self.clone())
    }

    /// Whose rights guests and migrations have from now on.
    pub(super) fn set_rights(&self, rights: Arc<Rights>) {
        *self.0.rights.lock().unwrap_or_else(PoisonError::into_inner) = rights;
    }

    /// A migration goes on to its next statement.
    pub(super) fn next_statement(&self) {
        self.0.alters.store(false, Ordering::Relaxed);
    }

    /// Why the last statement was refused, once.
    pub(super) fn take_refusal(&self) -> Option<String> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn is_host(&self) -> bool {
        self.0.actor.load(Ordering::Relaxed) == Actor::Host as u8
    }

    pub(super) fn hook(&self) -> impl for<'r> FnMut(AuthContext<'r>) -> Authorization + Send + 'static {
        let running = self.clone();
        move |context| {
            let state = &running.0;
            let migrates = match state.actor.load(Ordering::Relaxed) {
                0 => return Authorization::Allow,
                actor => actor == Actor::Migration as u8,
            };
            let rights = state.rights.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let asked = Asked { rights: &rights, through: context.accessor, migrates };
            let allowed = match (asked.about(&context.action), migrates) {
                (Some(answer), _) => answer,
                (None, true) => asked.as_migration(&context.action, &state.alters),
                (None, false) => Err(None),
            };
            match allowed {
                Ok(()) => Authorization::Allow,
                Err(why) => {
                    if why.is_some() {
                        *state.refused.lock().unwrap_or_else(PoisonError::into_inner) = why;
                    }
                    Authorization::Deny
                }
            }
        }
    }
}

pub(super) struct Guard(Running);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.actor.store(Actor::Host as u8, Ordering::Relaxed);
    }
}

/// The first loads code. The next tell of what ran on the connection before, other deliveries' and the host's
/// statements included; RETURNING, and the number that `execute` returns, say the same of the guest's own. One call of
/// the last two takes the product of two lengths, whatever the deadline.
const DENIED_FUNCTIONS: [&str; 6] =
    ["load_extension", "last_insert_rowid", "changes", "total_changes", "json_patch", "jsonb_patch"];

/// Kinds of virtual tables that hold what was put into them, or show what another one of them holds. `dbstat`, which
/// shows all tables, is none.
const MODULES: [&str; 8] = ["fts3", "fts4", "fts5", "fts4aux", "fts5vocab", "rtree", "rtree_i32", "geopoly"];

/// Refused, and why where SQLite's own words would not do.
type Answer = Result<(), Option<String>>;

/// One question of SQLite's, and who asks.
struct Asked<'a> {
    rights: &'a Rights,
    /// The innermost view or trigger. A common table expression of that name looks the same.
    through: Option<&'a str>,
    migrates: bool,
}

impl Asked<'_> {
    /// What guests and migrations are answered alike; `None` for what no guest may do.
    fn about(&self, action: &AuthAction<'_>) -> Option<Answer> {
        let (access, table, column) = match action {
            AuthAction::Select | AuthAction::Recursive => return Some(Ok(())),
            // What virtual tables ask for themselves: the one whether another connection has written.
            AuthAction::Pragma { pragma_name, pragma_value: None }
                if ["data_version", "page_size"].iter().any(|name| pragma_name.eq_ignore_ascii_case(name)) =>
            {
                return Some(Ok(()));
            }
            AuthAction::Function { function_name } => {
                let denied = DENIED_FUNCTIONS.iter().any(|denied| function_name.eq_ignore_ascii_case(denied));
                return Some(if denied { Err(None) } else { Ok(()) });
            }
            AuthAction::Read { table_name, column_name } => (Access::Read, table_name, Some(*column_name)),
            AuthAction::Update { table_name, column_name } => (Access::Write, table_name, Some(*column_name)),
            AuthAction::Insert { table_name } | AuthAction::Delete { table_name } => (Access::Write, table_name, None),
            _ => return None,
        };
        if is_hosts(table) {
            return Some(Err(None));
        }
        if is_internal(table) || table.eq_ignore_ascii_case("pragma_quick_check") {
            return if self.migrates { None } else { Some(Err(None)) };
        }
        Some(self.rights.may(access, table, column, self.through, self.migrates).map_err(Some))
    }

    /// What only a migration may do: change what its own handler's tables are made of. SQLite does that by reading and
    /// writing its own tables, which is told from a migration that does so itself: one that reads `sqlite_schema`
    /// would see how others' tables are made, and one that writes `sqlite_sequence` could use up their numbers.
    fn as_migration(&self, action: &AuthAction<'_>, alters: &AtomicBool) -> Answer {
        let alter = |is_trigger: bool, name: &str| {
            if is_hosts(name) { Err(None) } else { self.rights.may_alter(is_trigger, name).map_err(Some) }
        };
        let altered = |answer: Answer| {
            alters.store(true, Ordering::Relaxed);
            answer
        };
        match action {
            AuthAction::CreateTable { table_name } | AuthAction::CreateIndex { table_name, .. } => {
                alter(false, table_name)
            }
            AuthAction::CreateView { view_name } => alter(false, view_name),
            AuthAction::CreateTrigger { trigger_name, table_name } => {
                alter(true, trigger_name).and_then(|()| alter(false, table_name))
            }
            AuthAction::CreateVtable { table_name, module_name } => {
                if MODULES.iter().any(|module| module_name.eq_ignore_ascii_case(module)) {
                    altered(alter(false, table_name))
                } else {
                    Err(Some(format!(
                        "a virtual table of {module_name} is not allowed; allowed are {}",
                        MODULES.join(", ")
                    )))
                }
            }
            AuthAction::DropTable { table_name }
            | AuthAction::DropIndex { table_name, .. }
            | AuthAction::AlterTable { table_name, .. }
            | AuthAction::Analyze { table_name }
            | AuthAction::DropVtable { table_name, .. } => altered(alter(false, table_name)),
            AuthAction::DropTrigger { trigger_name, table_name } => {
                altered(alter(true, trigger_name).and_then(|()| alter(false, table_name)))
            }
            AuthAction::DropView { view_name } => altered(alter(false, view_name)),
            AuthAction::Reindex { .. } => Ok(()),
            // Direct writes are refused by the connection's defensive mode.
            AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name }
                if is_schema(table_name) =>
            {
                Ok(())
            }
            AuthAction::Read { table_name, column_name }
                if is_schema(table_name) && column_name.eq_ignore_ascii_case("ROWID") =>
            {
                Ok(())
            }
            // ANALYZE empties what it has written before for a table, and asks only then whether it may.
            AuthAction::Delete { table_name } if is_statistics(table_name) => Ok(()),
            AuthAction::Read { table_name, column_name: "tbl" | "idx" } if is_statistics(table_name) => Ok(()),
            // How a new column of a STRICT table, or one with a CHECK or NOT NULL, is tried on the rows.
            AuthAction::Pragma { pragma_name, .. }
                if alters.load(Ordering::Relaxed) && pragma_name.eq_ignore_ascii_case("quick_check") =>
            {
                Ok(())
            }
            AuthAction::Read { .. }
            | AuthAction::Insert { .. }
            | AuthAction::Update { .. }
            | AuthAction::Delete { .. }
                if alters.load(Ordering::Relaxed) =>
            {
                Ok(())
            }
            _ => Err(None),
        }
    }
}

fn is_statistics(table: &str) -> bool {
    table.get(..11).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_stat"))
}

fn is_schema(table: &str) -> bool {
    table.eq_ignore_ascii_case("sqlite_master") || table.eq_ignore_ascii_case("sqlite_schema")
}
