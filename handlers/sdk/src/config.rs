//! The handler's settings: `[settings]` of its manifest, overridden by the operator. They do not change during a
//! delivery.

use std::fmt;
use std::str::FromStr;

use crate::{Failure, host};

/// The value of a setting, or `None` if there is no such setting.
pub fn get(name: &str) -> Option<String> {
    host::setting(name)
}

/// The value of a setting as a `T`. A value that does not parse is for the operator to put right, so it is a
/// [`Failure::Unavailable`]: the records wait.
pub fn parse<T: FromStr<Err: fmt::Display>>(name: &str) -> Result<Option<T>, Failure> {
    get(name)
        .map(|value| value.parse())
        .transpose()
        .map_err(|error| Failure::unavailable(format!("setting `{name}` is not usable: {error}")))
}

/// All settings, sorted by name.
pub fn all() -> Vec<(String, String)> {
    host::settings()
}
