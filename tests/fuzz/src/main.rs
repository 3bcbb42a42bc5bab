//! The fuzz targets: one function for each kind of input that the host reads and others wrote.
//!
//! libFuzzer calls the target that the variable `TARGET` names, with bytes that it changes so as to reach more of the
//! host's code. A target panics when a property does not hold; it keeps nothing from one input to the next that could
//! change what becomes of that one.

#![no_main]

use std::sync::OnceLock;

mod input;
mod records;
mod rows;
mod files;
mod patterns;
mod units;
mod routes;
mod http;
mod calls;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 14] = [
    ("calls", calls::calls),
    ("dead-letters", records::dead_letters),
    ("event-ids", records::event_ids),
    ("headers", records::headers),
    ("http", http::connections),
    ("manifests", files::manifests),
    ("patterns", patterns::patterns),
    ("responses", http::responses),
    ("routes", routes::routes),
    ("rows", rows::rows),
    ("sections", files::sections),
    ("settings", files::settings),
    ("tokens", http::tokens),
    ("units", units::units),
];

static TARGET: OnceLock<Target> = OnceLock::new();

fn choose() -> Target {
    let name = std::env::var("TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => *target,
        None => {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("set TARGET to one of {}", names.join(" "));
            std::process::exit(2);
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(choose)(bytes));
