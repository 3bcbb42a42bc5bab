//! Settings that are valid and endanger what is entrusted to the daemon.

use super::Findings;
use crate::settings::{Acks, Bootstrap, Settings};

const CHECK: &str = "settings";

pub(super) fn check(settings: &Settings, found: &mut Findings) {
    if settings.kafka.acks == Acks::Leader {
        let saw =
            "kafka.acks is 1: events go out without idempotence, and one that the leader alone has is lost with it";
        found.bad(CHECK, saw, "set kafka.acks = \"all\"");
    }
    if !settings.store.synchronous_full {
        let saw =
            "store.synchronous is \"normal\": a power cut undoes the last commits, of requests that were answered too";
        found.bad(CHECK, saw, "set store.synchronous = \"full\"");
    }
    if let Bootstrap::Embedded { .. } = settings.kafka.bootstrap {
        let saw = "the embedded broker is used, which forgets its records when it ends";
        found.warn(CHECK, saw, "for more than trying things out, name a cluster under kafka.bootstrap");
    }
    if settings.http.tls.is_none() && !settings.http.listen.ip().is_loopback() {
        let saw =
            format!("http.listen is {} without [http.tls]: tokens can be read on their way", settings.http.listen);
        found.warn(CHECK, saw, "set [http.tls], or let a proxy that speaks TLS stand before it");
    }
    if settings.metrics.listen.is_none() {
        found.warn(
            CHECK,
            "metrics.listen is \"off\": nobody can see lag, failures or a full disk",
            "set it to an address",
        );
    }
    found.else_ok(CHECK, "acknowledged by all replicas, idempotent, and on the disk before anybody is told");
}
