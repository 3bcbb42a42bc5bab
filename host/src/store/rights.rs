//! What one user's SQL may do with the tables of a database: all with its own, and with others' what it was granted.
//!
//! Its invariant: a view or trigger lends nobody a right. What a statement does through one, the user whose statement it
//! is must be allowed to do itself, and a view or trigger that somebody else has made reaches only tables of its maker: so
//! neither can borrow the other's rights. It asks no database; who owns what is told to [`Tables`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Rows may be read.
    Read,
    /// Rows may be read, inserted, changed and deleted; of a column, its values may be changed.
    Write,
}

impl Access {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Every table, in a grant.
const ALL: &str = "*";

/// A table, or one of its columns, or all tables, each with what may be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(BTreeMap<(String, Option<String>), Access>);

impl Grants {
    /// Adds `orders`, `orders.status` or `*`.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn add(&mut self, name: &str, access: Access) -> Result<(), String> {
        let (table, column) = match name.split_once('.') {
            Some((table, column)) => (table, Some(column.to_ascii_lowercase())),
            None => (name, None),
        };
        if table.is_empty() || column.as_deref() == Some("") || (table == ALL && column.is_some()) {
            return Err(format!("\"{name}\" is no table; write a table, \"table.column\", or \"*\" for all tables"));
        }
        if is_hosts(table) || is_internal(table) {
            return Err(format!("\"{table}\" is not a handler's table, and nobody gets it"));
        }
        self.0.insert((table.to_ascii_lowercase(), column), access);
        Ok(())
    }

    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each by itself.
    pub fn each(&self) -> impl Iterator<Item = Self> {
        self.0.iter().map(|(name, access)| Self([(name.clone(), *access)].into()))
    }

    /// Those of `asked` that are not granted.
    pub fn missing(&self, asked: &Self) -> Self {
        let lacks = |((table, column), access): &(&(String, Option<String>), &Access)| {
            !self.give(**access, table, column.as_deref())
        };
        Self(asked.0.iter().filter(lacks).map(|(name, access)| (name.clone(), *access)).collect())
    }

    /// Whether this was granted. A column that is empty stands for any.
    fn give(&self, access: Access, table: &str, column: Option<&str>) -> bool {
        let has = |table: &str, column: Option<&str>| {
            self.0.get(&(table.to_owned(), column.map(str::to_owned))).is_some_and(|given| *given >= access)
        };
        has(ALL, None)
            || has(table, None)
            || match column {
                Some("") => self.0.iter().any(|((name, _), given)| name == table && *given >= access),
                Some(column) => has(table, Some(&column.to_ascii_lowercase())),
                None => false,
            }
    }
}

impl fmt::Display for Grants {
    /// As it stands in a file: `{ orders = "read", "orders.status" = "write" }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, ((table, column), access)) in self.0.iter().enumerate() {
            let name = column.as_ref().map_or_else(|| table.clone(), |column| format!("{table}.{column}"));
            let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            let name = if bare { name } else { format!("\"{}\"", name.escape_default()) };
            write!(f, "{}{name} = \"{}\"", if n == 0 { "{ " } else { ", " }, access.name())?;
        }
        f.write_str(if self.0.is_empty() { "{}" } else { " }" })
    }
}

/// Whose a table, view or trigger is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The user whose migrations made it.
    User(Arc<str>),
    /// All users'.
    Everybody,
    /// No user's.
    Nobody,
}

impl Owner {
    fn serves(&self, user: &str) -> bool {
        match self {
            Self::User(owner) => **owner == *user,
            Self::Everybody => true,
            Self::Nobody => false,
        }
    }
}

/// A table or a view.
#[derive(Clone, Debug)]
struct Relation {
    owner: Owner,
    is_virtual: bool,
}

/// The tables, views and triggers of a database and whose they are.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    relations: HashMap<String, Relation>,
    triggers: HashMap<String, Owner>,
}

impl Owners {
    /// Adds a table or a view.
    pub fn add_relation(&mut self, name: &str, owner: Owner, is_virtual: bool) {
        self.relations.insert(name.to_ascii_lowercase(), Relation { owner, is_virtual });
    }

    /// Adds a trigger.
    pub fn add_trigger(&mut self, name: &str, owner: Owner) {
        self.triggers.insert(name.to_ascii_lowercase(), owner);
    }

    /// Whether there is a table, view or trigger of this name.
    pub fn has(&self, is_trigger: bool, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        if is_trigger { self.triggers.contains_key(&name) } else { self.relations.contains_key(&name) }
    }

    /// Those who have made a view or a trigger of this name, which are two names.
    fn makers(&self, name: &str) -> impl Iterator<Item = &Owner> {
        let name = name.to_ascii_lowercase();
        self.relations.get(&name).map(|relation| &relation.owner).into_iter().chain(self.triggers.get(&name))
    }
}

/// Whose tables a database has at present, for all of its connections.
#[derive(Debug, Default)]
pub struct Tables(RwLock<Owners>);

impl Tables {
    /// From now on it is these.
    pub fn set(&self, owners: Owners) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = owners;
    }

    /// Whether there is a table, view or trigger of this name.
    pub fn has(&self, is_trigger: bool, name: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).has(is_trigger, name)
    }
}

/// One user's rights in one database.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    /// The user.
    pub user: Arc<str>,
    /// What it was granted of others' tables.
    pub grants: Grants,
    /// Whose tables there are.
    pub tables: Arc<Tables>,
}

impl Rights {
    /// Whether rows of a table may be read or changed, where `column` is none for whole rows and empty for any column;
    /// `through` is the innermost view or trigger. A table that is not known may only be one of the statement's own (a
    /// common table expression), or, in a migration, one that it has just made.
    ///
    /// # Errors
    /// Why not, and what would have to be granted.
    pub(super) fn may(
        &self,
        access: Access,
        table: &str,
        column: Option<&str>,
        through: Option<&str>,
        migrates: bool,
    ) -> Result<(), String> {
        let owners = self.tables.0.read().unwrap_or_else(PoisonError::into_inner);
        let name = table.to_ascii_lowercase();
        let Some(relation) = owners.relations.get(&name) else {
            let of_statement = column == Some("") || TABLE_VALUED.contains(&name.as_str());
            return if migrates || (of_statement && access == Access::Read) {
                Ok(())
            } else {
                Err(format!("`{table}` is not a table that handler {} may use", self.user))
            };
        };
        let whose = match &relation.owner {
            Owner::User(owner) => format!("belongs to handler {owner}"),
            Owner::Everybody | Owner::Nobody => "was made by no handler".to_owned(),
        };
        let own = relation.owner.serves(&self.user);
        if !own && relation.is_virtual {
            return Err(format!("`{table}` {whose}: a virtual table serves only its own handler"));
        }
        if !own && !self.grants.give(access, &name, column) {
            let mut wanted = Grants::default();
            let column = column.filter(|column| !column.is_empty() && access == Access::Write);
            wanted.0.insert((name, column.map(str::to_ascii_lowercase)), access);
            return Err(format!(
                "handler {} may not {} `{table}`, which {whose}: tidemill.toml can give it, [handler.{}.grant] tables = {wanted}",
                self.user,
                access.name(),
                self.user
            ));
        }
        let Some(through) = through else { return Ok(()) };
        for maker in owners.makers(through) {
            if let Owner::User(maker) = maker
                && **maker != *self.user
                && !relation.owner.serves(maker)
            {
                return Err(format!(
                    "`{table}` {whose}, and `{through}`, a view or trigger of handler {maker}, reaches only tables of that handler"
                ));
            }
        }
        Ok(())
    }

    /// Whether a table, view or trigger may be changed or dropped: what is the user's own, or new.
    ///
    /// # Errors
    /// Whose it is.
    pub(super) fn may_alter(&self, is_trigger: bool, name: &str) -> Result<(), String> {
        let owners = self.tables.0.read().unwrap_or_else(PoisonError::into_inner);
        let lower = name.to_ascii_lowercase();
        let owner =
            if is_trigger { owners.triggers.get(&lower) } else { owners.relations.get(&lower).map(|r| &r.owner) };
        match owner {
            Some(owner) if !owner.serves(&self.user) => {
                let whose = if let Owner::User(owner) = owner { format!("handler {owner}") } else { "nobody".into() };
                Err(format!("`{name}` belongs to {whose}, and only its own migrations may change what it is made of"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a foreign key may refer to a table: to one of the user's own, or one that it may write anyhow.
    ///
    /// # Errors
    /// Why not.
    pub fn may_refer(&self, table: &str) -> Result<(), String> {
        self.may(Access::Write, table, None, None, false)
    }
}

/// Functions of SQLite's that a query may use like tables.
const TABLE_VALUED: [&str; 4] = ["json_each", "json_tree", "jsonb_each", "jsonb_tree"];

/// The ledger's tables.
pub(super) fn is_hosts(table: &str) -> bool {
    has_prefix(table, "tm_")
}

/// SQLite's own tables and table-valued functions that show the whole database.
pub(super) fn is_internal(table: &str) -> bool {
    ["sqlite_", "pragma_", "dbstat"].iter().any(|prefix| has_prefix(table, prefix))
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
