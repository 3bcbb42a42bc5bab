//! The handler's settings - `[settings]` of its manifest, overridden by the operator - and its secrets, which the manifest asks for
//! and the operator gives. They do not change during a delivery.
//!
//! ```
//! # tidemill_sdk::test::example::run(|| {
//! use tidemill_sdk::config;
//!
//! // handler.toml:   secrets = ["payment-key"]
//! //                 [settings]
//! //                 currency = "EUR"
//! //                 reminder-days = 3
//! assert_eq!(config::get("currency").as_deref(), Some("EUR"));
//! assert_eq!(config::parse::<u64>("reminder-days")?, Some(3));
//! assert_eq!(config::secret("payment-key")?.expose(), "k-1");
//! # Ok(()) });
//! ```

use std::fmt;
use std::str::FromStr;

use crate::{Failure, host};

/// The value of a setting, or `None` if there is no such setting.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::config;
/// let currency = config::get("currency").unwrap_or_else(|| "USD".to_owned());
/// assert_eq!(currency, "EUR");
/// # Ok(()) });
/// ```
pub fn get(name: &str) -> Option<String> {
    host::setting(name)
}

/// The value of a setting as a `T`. A value that does not parse is for the operator to put right, so it is a
/// [`Failure::Unavailable`]: the records wait.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{Failure, config};
/// let days: u32 = config::parse("reminder-days")?.unwrap_or(7);
/// assert_eq!(days, 3);
/// assert!(matches!(config::parse::<u32>("currency"), Err(Failure::Unavailable { .. })));
/// # Ok(()) });
/// ```
pub fn parse<T: FromStr<Err: fmt::Display>>(name: &str) -> Result<Option<T>, Failure> {
    get(name)
        .map(|value| value.parse())
        .transpose()
        .map_err(|error| Failure::unavailable(format!("setting `{name}` is not usable: {error}")))
}

/// A secret of the handler's: a name that its manifest lists under `secrets`, and for which the operator says where the value is.
///
/// A version that lacks one of its secrets is refused when it is deployed. So what fails here is a name that the manifest does not
/// list, which is a [`Failure::Unavailable`]: the records wait for a version that does.
///
/// ```
/// use tidemill_sdk::outbound::Request;
/// use tidemill_sdk::{Failure, Record, config};
///
/// // handler.toml:                secrets = ["payment-key"]
/// // tidemill.toml:               [handler.billing.secrets]
/// //                              payment-key = { env = "PAYMENT_KEY" }
/// fn pay(record: &Record) -> Result<(), Failure> {
///     let key = config::secret("payment-key")?;
///     let request = Request::post("https://payments.example.com/charges");
///     request.header("authorization", format!("Bearer {}", key.expose())).send()?.success()?;
///     Ok(())
/// }
/// ```
pub fn secret(name: &str) -> Result<Secret, Failure> {
    let missing = || {
        Failure::unavailable(format!(
            "there is no secret `{name}`: handler.toml lists it under `secrets`, or nobody gave it"
        ))
    };
    get(name).map(Secret).ok_or_else(missing)
}

/// The value of a secret, which is not told where the whole is printed.
///
/// ```
/// # use tidemill_sdk::{Failure, config, info};
/// # fn look() -> Result<(), Failure> {
/// let key = config::secret("payment-key")?;
/// info!("{key:?}"); // Secret(..)
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for the one place that needs it.
    ///
    /// ```
    /// # use tidemill_sdk::config::Secret;
    /// fn authorization(key: &Secret) -> String {
    ///     format!("Bearer {}", key.expose())
    /// }
    /// ```
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// All settings, sorted by name; no secrets.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::config;
/// let names: Vec<String> = config::all().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["currency", "reminder-days"]);
/// # Ok(()) });
/// ```
pub fn all() -> Vec<(String, String)> {
    host::settings()
}
