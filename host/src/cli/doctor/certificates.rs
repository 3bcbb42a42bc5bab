//! Certificates that end soon, or have ended, and those of the listeners that no connection could be served with.
//!
//! Of a certificate it reads when it ends, and whether its key goes with it: who may trust it is for those who do. Sources: RFC 5280, 4.1
//! (what stands where in a certificate); X.690 (DER).

use std::collections::BTreeSet;
use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::Findings;
use crate::clock;
use crate::http::tls::Tls;
use crate::settings::Settings;
use crate::settings::units::{show_time, time};

const CHECK: &str = "certificates";
const DAY: i64 = 86_400_000;
/// How many days before its end one should be renewed.
const DAYS: i64 = 30;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version, which a certificate of the first one leaves out.
const VERSION: u8 = 0xa0;

pub(super) fn check(settings: &Settings, found: &mut Findings) {
    let mut files: BTreeSet<&Path> = settings.kafka.security.certificate_files().collect();
    for tls in settings.listeners_tls() {
        match Tls::read(tls) {
            Ok(_) => files.extend([Some(&*tls.certificate), tls.client_ca.as_deref()].into_iter().flatten()),
            Err(error) => found.bad(
                CHECK,
                format!("{error:#}"),
                "put a certificate and its key there, as PEM: no daemon starts with these, and one that runs keeps those before",
            ),
        }
    }
    let mut first = None;
    for file in files {
        let name = file.display();
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(all) => {
                for der in &all {
                    match end(der) {
                        Some(end) => {
                            first = Some(first.map_or(end, |first: i64| first.min(end)));
                            judge(&name.to_string(), end, clock::now(), found);
                        }
                        None => {
                            found.warn(CHECK, format!("{name} holds what is no certificate"), "put one there, as PEM")
                        }
                    }
                }
            }
            Err(error) => {
                found.bad(CHECK, format!("{name} cannot be read ({error})"), "put a certificate there, as PEM")
            }
        }
    }
    found.else_ok(
        CHECK,
        first.map_or("none is used".to_owned(), |end| format!("the first of them ends {}", show_time(end))),
    );
}

fn judge(name: &str, end: i64, now: i64, found: &mut Findings) {
    let days = (end - now) / DAY;
    if end <= now {
        found.bad(CHECK, format!("{name} has ended at {}", show_time(end)), "renew it: nobody is let in by it");
    } else if days < DAYS {
        found.warn(CHECK, format!("{name} ends in {days} days, at {}", show_time(end)), "renew it");
    }
}

/// When a certificate ends, in milliseconds since the Unix epoch; none where it is no certificate.
fn end(der: &[u8]) -> Option<i64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (body, _) = element(certificate, SEQUENCE)?;
    let mut rest = element(body, VERSION).map_or(body, |(_, rest)| rest);
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = element(rest, tag)?.1;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, rest) = element(validity, UTC_TIME).or_else(|| element(validity, GENERALIZED_TIME))?;
    let (text, century) = match element(rest, UTC_TIME) {
        // 50 to 99 are of the twentieth century.
        Some((text, _)) => (text, if text.first()? < &b'5' { "20" } else { "19" }),
        None => (element(rest, GENERALIZED_TIME)?.0, ""),
    };
    let digits = format!("{century}{}", std::str::from_utf8(text).ok()?.strip_suffix('Z')?);
    let part = |from, to| digits.get(from..to);
    time(&format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?
    ))
}

/// The content of the element that these bytes begin with, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = der else { return None };
    if *found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Verdict;
    use super::*;

    fn certificate(version: &[u8], times: &[u8]) -> Vec<u8> {
        let of = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let validity = of(SEQUENCE, times);
        let body = [version, &[INTEGER, 1, 7], &[SEQUENCE, 0], &[SEQUENCE, 0], &validity, &[SEQUENCE, 0]].concat();
        of(SEQUENCE, &of(SEQUENCE, &body))
    }

    #[test]
    fn a_certificate_says_when_it_ends() {
        let utc = b"\x17\x0d260101000000Z\x17\x0d270102030405Z";
        let version = [VERSION, 3, INTEGER, 1, 2];
        let expected = time("2027-01-02T03:04:05Z");
        assert_eq!(end(&certificate(&version, utc)), expected);
        assert_eq!(end(&certificate(&[], utc)), expected, "of the first version");
        let late = b"\x17\x0d260101000000Z\x18\x0f20510102030405Z";
        assert_eq!(end(&certificate(&version, late)), time("2051-01-02T03:04:05Z"));
        let whole = certificate(&version, utc);
        assert!((0..whole.len()).all(|cut| end(whole.get(..cut).unwrap()).is_none()), "what is cut off is none");
    }

    #[test]
    fn one_that_ends_within_a_month_is_told_of_before() {
        let judged = |days: i64| {
            let mut found = Findings::default();
            judge("a.pem", 100 * DAY, (100 - days) * DAY, &mut found);
            found.worst()
        };
        assert_eq!(
            [-1, 0, 1, 29, 30].map(judged),
            [Verdict::Bad, Verdict::Bad, Verdict::Warn, Verdict::Warn, Verdict::Ok]
        );
    }
}
