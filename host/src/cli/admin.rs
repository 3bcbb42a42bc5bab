//! `tidemill admin`: who may call the admin API, and what can be asked of it.
//!
//! It works on the files of the settings, whether or not a daemon runs, and asks none.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::remote::{print_json, table};
use super::{Config, say};
use crate::http::admin::openapi;
use crate::http::admin::operation::Role;
use crate::http::admin::tokens::{self, named};

/// `tidemill admin`
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make, list or revoke tokens of the admin API that have a name and a role.
    #[command(subcommand)]
    Token(Token),
    /// Print the description of the API, OpenAPI 3.1, for tools that make clients or tests of it.
    Openapi,
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Make a token and print it, this once; a daemon that runs takes it from then on.
    New {
        /// By which the audit log knows who has it.
        #[arg(value_parser = named)]
        name: String,
        /// What it may do: `read`; `operate`, which also changes what becomes of records; or `deploy`, which also changes what runs.
        #[arg(long)]
        role: Role,
        #[command(flatten)]
        config: Config,
    },
    /// List the tokens, without themselves.
    List {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: Config,
    },
    /// Take a token away; a daemon that runs refuses it from then on.
    Revoke {
        /// Its name.
        name: String,
        #[command(flatten)]
        config: Config,
    },
}

/// Does it.
///
/// # Errors
/// The settings are wrong; or the file of the tokens cannot be read or written, and was left as it is.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Token(token) => run_token(token),
        What::Openapi => say(openapi::text()?.trim_end()),
    }
}

fn run_token(token: &Token) -> Result<()> {
    match token {
        Token::New { name, role, config } => say(&tokens::make(&tokens::file(&config.load()?), name, *role)?),
        Token::Revoke { name, config } => {
            tokens::revoke(&tokens::file(&config.load()?), name)?;
            say(&format!("token {name} is taken away"))
        }
        Token::List { json, config } => {
            let all = tokens::list(&tokens::file(&config.load()?))?;
            if *json {
                return print_json(&all);
            }
            if all.is_empty() {
                return say("no token has a name: make one with `tidemill admin token new NAME --role ROLE`");
            }
            let mut rows = vec![["NAME", "ROLE", "MADE"].map(str::to_owned).to_vec()];
            rows.extend(all.into_iter().map(|token| vec![token.name, token.role.to_string(), token.made]));
            say(&table(&rows))
        }
    }
}
