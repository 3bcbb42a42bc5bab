//! The [`handler!`](crate::handler!) macro: which functions a handler exports, and what travels with them.
//!
//! The component exports exactly what the macro names: a handler without `http` has no `http` export. On every
//! other target the macro leaves a [`Handler`] for [`test::Bench`](crate::test::Bench) to run.

use crate::compensation::Input;
use crate::http::{Problem, Request, Response};
use crate::publisher::Receipt;
use crate::section::Migration;
use crate::sends::Sent;
use crate::timers::Timer;
use crate::{Failure, Record};

/// What handles a record.
///
/// ```
/// use tidemill_sdk::{Failure, Handle, Record};
///
/// /// A wrapper that skips tombstones, for any handler of records.
/// fn unless_null(record: &Record, handle: Handle) -> Result<(), Failure> {
///     if record.value.is_none() { Ok(()) } else { handle(record) }
/// }
/// assert_eq!(unless_null(&Record::default(), |_| Err(Failure::reject("not reached"))), Ok(()));
/// ```
pub type Handle = fn(&Record) -> Result<(), Failure>;

/// What makes good what was given up on, for the reason that is its second argument.
///
/// ```
/// use tidemill_sdk::compensation::Input;
/// use tidemill_sdk::{Compensate, Failure, params, sql};
///
/// fn cancel(input: &Input, reason: &str) -> Result<(), Failure> {
///     let Input::Record(record) = input else { return Ok(()) };
///     sql::execute("UPDATE orders SET status = 'CANCELLED' WHERE id = ?1", params![record.key_str()])?;
///     tidemill_sdk::warn!("cancelled: {reason}");
///     Ok(())
/// }
/// const CANCEL: Compensate = cancel; // as in `compensate: cancel`
/// ```
pub type Compensate = fn(&Input, &str) -> Result<(), Failure>;

/// What is told of the events that were sent with `send_async`.
///
/// ```
/// use tidemill_sdk::publisher::Receipt;
/// use tidemill_sdk::sends::Sent;
/// use tidemill_sdk::{Completed, Failure, warn};
///
/// fn completed(sent: &Sent, outcome: Result<Receipt, String>) -> Result<(), Failure> {
///     if let Err(reason) = outcome {
///         warn!("the {} for {} is lost: {reason}", sent.event_type, sent.destination);
///     }
///     Ok(())
/// }
/// const COMPLETED: Completed = completed; // as in `sends: completed`
/// ```
pub type Completed = fn(&Sent, Result<Receipt, String>) -> Result<(), Failure>;

/// What is done at the times of one schedule.
///
/// ```
/// use tidemill_sdk::timers::Timer;
/// use tidemill_sdk::{Failure, Fire, params, sql};
///
/// fn expire(timer: &Timer) -> Result<(), Failure> {
///     sql::execute("DELETE FROM sessions WHERE ends_at <= ?1", params![timer.due])?;
///     Ok(())
/// }
/// const EXPIRE: Fire = expire; // as in `"expire-sessions" => expire`
/// ```
pub type Fire = fn(&Timer) -> Result<(), Failure>;

/// What answers the requests of one route.
///
/// ```
/// use tidemill_sdk::Answer;
/// use tidemill_sdk::http::{Request, Response};
///
/// fn version(_: &Request) -> tidemill_sdk::http::Result {
///     Ok(Response::ok("1.4.0"))
/// }
/// const VERSION: Answer = version; // as in `"GET /version" => version`
/// ```
pub type Answer = fn(&Request) -> Result<Response, Problem>;

/// A handler as [`test::Bench`](crate::test::Bench) sees it; made by [`handler!`](crate::handler!).
///
/// ```
/// use tidemill_sdk::test::{Bench, record};
/// use tidemill_sdk::{Failure, Handler, Record};
///
/// fn greet(record: &Record) -> Result<(), Failure> {
///     tidemill_sdk::info!("hello {}", record.key_str().unwrap_or("nobody"));
///     Ok(())
/// }
///
/// /// Without any file, for a test of one function.
/// static HANDLER: Handler = Handler {
///     manifest: "name = \"greeter\"\ntopics = [\"guests\"]",
///     migrations: &[],
///     records: Some(greet),
///     compensate: None,
///     completed: None,
///     timers: &[],
///     routes: &[],
/// };
/// let mut bench = Bench::new(&HANDLER);
/// bench.record(&record("guests").with_key("ann"))?;
/// assert_eq!(bench.lines()[0].1, "hello ann");
/// # Ok::<(), Failure>(())
/// ```
#[derive(Debug)]
pub struct Handler {
    /// The text of `handler.toml`.
    pub manifest: &'static str,
    /// Paths and SQL, in the order in which they run.
    pub migrations: &'static [Migration],
    /// The function for records, if there is one.
    pub records: Option<Handle>,
    /// The function for what was given up on, if there is one.
    pub compensate: Option<Compensate>,
    /// The function for what became of events that were sent, if there is one.
    pub completed: Option<Completed>,
    /// The names of schedules and the function for each.
    pub timers: &'static [(&'static str, Fire)],
    /// `METHOD /path` and the function for it.
    pub routes: &'static [(&'static str, Answer)],
}

/// Makes a component of the functions it names.
///
/// ```
/// use tidemill_sdk::compensation::Input;
/// use tidemill_sdk::http::{Request, Response};
/// use tidemill_sdk::publisher::Receipt;
/// use tidemill_sdk::sends::Sent;
/// use tidemill_sdk::{Failure, Record};
///
/// tidemill_sdk::handler! {
///     manifest: "example/handler.toml",
///     migrations: ["example/0001_shop.sql"],
///     records: handle,
///     compensate: make_good,
///     sends: completed,
///     timers: {
///         "expire-orders" => expire,
///     },
///     http: {
///         "POST /api/orders" => place,
///         "GET /api/orders/{id}" => show,
///     },
/// }
///
/// fn handle(record: &Record) -> Result<(), Failure> {
///     tidemill_sdk::info!("a record of {}", record.topic);
///     Ok(())
/// }
/// # fn make_good(_: &Input, _: &str) -> Result<(), Failure> { Ok(()) }
/// # fn completed(_: &Sent, _: Result<Receipt, String>) -> Result<(), Failure> { Ok(()) }
/// # fn expire(_: &tidemill_sdk::timers::Timer) -> Result<(), Failure> { Ok(()) }
/// # fn place(_: &Request) -> tidemill_sdk::http::Result { Ok(Response::new(201)) }
/// # fn show(_: &Request) -> tidemill_sdk::http::Result { Ok(Response::new(200)) }
/// # fn main() -> Result<(), Failure> {
/// # tidemill_sdk::test::Bench::new(&HANDLER).record(&tidemill_sdk::test::record("payments"))
/// # }
/// ```
///
/// In place of `records` may stand `events`, with a function for each type of event and, where that has several, each version of
/// its schema: see [`events`](mod@crate::events).
///
/// Paths are relative to the crate's folder. `migrations`, `records` (or `events`), `compensate`, `sends`, `timers` and `http` may be left
/// out, but keep this order. Migrations run in the order of their file names, once each, when the host first sees them. A timer has the name
/// of its `[[schedule]]` in the manifest, and a route is written as in `[[route]]`: the method, a space, the path.
#[macro_export]
macro_rules! handler {
    (
        manifest: $manifest:literal
        $(, migrations: [$($migration:literal),* $(,)?])?
        $(, records: $handle:path)?
        $(, events: { $($event:literal $(version $version:literal)? => $on:path),* $(,)? })?
        $(, compensate: $compensate:path)?
        $(, sends: $completed:path)?
        $(, timers: { $($timer:literal => $fire:path),* $(,)? })?
        $(, http: { $($route:literal => $answer:path),* $(,)? })?
        $(,)?
    ) => {
        $(
            fn __by_event(record: &$crate::Record) -> ::std::result::Result<(), $crate::Failure> {
                $crate::events::run(
                    &[$(($event, $crate::first![$(::std::option::Option::Some(concat!($version)),)? ::std::option::Option::None], $on)),*],
                    record,
                )
            }
        )?

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            const MANIFEST: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $manifest));
            #[used]
            #[unsafe(link_section = "tidemill:manifest")]
            static MANIFEST_SECTION: [u8; MANIFEST.len()] = $crate::section::text(MANIFEST);

            $(
                const MIGRATIONS: &[$crate::section::Migration] = &[$(
                    ($migration, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $migration))),
                )*];
                const LEN: usize = $crate::section::migrations_len(MIGRATIONS);
                #[used]
                #[unsafe(link_section = "tidemill:migrations")]
                static MIGRATIONS_SECTION: [u8; LEN] = $crate::section::migrations(MIGRATIONS);
            )?

            struct Component;

            $(
                impl $crate::component::records::Guest for Component {
                    fn handle(record: $crate::component::records::Record) -> $crate::component::records::Outcome {
                        $crate::component::records::run($handle, record)
                    }
                }
                $crate::component::records::export!(Component with_types_in $crate::component::records);
            )?

            $(
                impl $crate::component::records::Guest for Component {
                    fn handle(record: $crate::component::records::Record) -> $crate::component::records::Outcome {
                        // Of these types.
                        let _: &[&str] = &[$($event),*];
                        $crate::component::records::run(__by_event, record)
                    }
                }
                $crate::component::records::export!(Component with_types_in $crate::component::records);
            )?

            $(
                impl $crate::component::compensation::Guest for Component {
                    fn compensate(
                        input: $crate::component::compensation::Input,
                        reason: ::std::string::String,
                    ) -> $crate::component::records::Outcome {
                        $crate::component::compensation::run($compensate, input, &reason)
                    }
                }
                $crate::component::compensation::export!(Component with_types_in $crate::component::compensation);
            )?

            $(
                impl $crate::component::sends::Guest for Component {
                    fn completed(
                        event: $crate::component::sends::Event,
                        outcome: ::std::result::Result<$crate::component::sends::Receipt, ::std::string::String>,
                    ) -> $crate::component::records::Outcome {
                        $crate::component::sends::run($completed, event, outcome)
                    }
                }
                $crate::component::sends::export!(Component with_types_in $crate::component::sends);
            )?

            $(
                impl $crate::component::timers::Guest for Component {
                    fn fire(timer: $crate::component::timers::Timer) -> $crate::component::records::Outcome {
                        $crate::component::timers::run(&[$(($timer, $fire as $crate::Fire)),*], timer)
                    }
                }
                $crate::component::timers::export!(Component with_types_in $crate::component::timers);
            )?

            $(
                impl $crate::component::http::Guest for Component {
                    fn handle(request: $crate::component::http::Request) -> $crate::component::http::Response {
                        $crate::component::http::run(&[$(($route, $answer as $crate::Answer)),*], request)
                    }
                }
                $crate::component::http::export!(Component with_types_in $crate::component::http);
            )?
        };

        $(
            const _: () = assert!(
                $crate::section::in_order(&[$(($migration, "")),*]),
                "list the migrations by rising file name: that is the order in which they run"
            );
        )?

        /// This handler, for `tidemill_sdk::test::Bench`.
        #[cfg(not(target_arch = "wasm32"))]
        pub static HANDLER: $crate::Handler = $crate::Handler {
            manifest: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $manifest)),
            migrations: &[$($(
                ($migration, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $migration))),
            )*)?],
            records: $crate::first![
                $(Some($handle),)?
                $({
                    let _: &[&str] = &[$($event),*];
                    Some(__by_event)
                },)?
                None
            ],
            compensate: $crate::first![$(Some($compensate),)? None],
            completed: $crate::first![$(Some($completed),)? None],
            timers: &[$($(($timer, $fire)),*)?],
            routes: &[$($(($route, $answer)),*)?],
        };
    };
}

/// The first of its arguments.
#[doc(hidden)]
#[macro_export]
macro_rules! first {
    ($first:expr $(, $rest:expr)*) => {
        $first
    };
}
