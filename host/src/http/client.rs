//! From which address a request comes: its connection's, or what a proxy says that the operator trusts.
//!
//! Its invariant: a client cannot choose its address. What stands in a header counts as far as those who wrote it are trusted, which is
//! read from the end, where the last of them has added what it saw.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName};

use crate::settings::{Forwarded, Http};

/// The address of the client that a request comes from, over a connection from `peer`.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, settings: &Http) -> IpAddr {
    let trusted = |address: IpAddr| settings.trusted_proxies.iter().any(|network| network.holds(address));
    let name = match settings.forwarded {
        Forwarded::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        Forwarded::Standard => FORWARDED,
    };
    let mut address = peer;
    // Several headers of one name are one list (RFC 9110, 5.2).
    for line in headers.get_all(name).iter().rev() {
        for element in line.to_str().unwrap_or_default().rsplit(',') {
            if !trusted(address) {
                return address;
            }
            let said = match settings.forwarded {
                Forwarded::XForwardedFor => read(element.trim()),
                Forwarded::Standard => standard(element),
            };
            // Who says something else hides for whom it asks.
            let Some(said) = said else { return address };
            address = said;
        }
    }
    address
}

/// `192.0.2.1`, `2001:db8::1`, and with a port: `192.0.2.1:80`, `[2001:db8::1]:80`.
fn read(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
}

/// The `for` of one element of `Forwarded` (RFC 7239, 4).
fn standard(element: &str) -> Option<IpAddr> {
    let value = element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    })?;
    read(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::Settings;

    fn from(toml: &str, peer: &str, header: &str, lines: &[&str]) -> String {
        let settings = Settings::parse(&format!("[http]\n{toml}"), "tidemill.toml").unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HeaderName::from_bytes(header.as_bytes()).unwrap(), line.parse().unwrap());
        }
        address(peer.parse().unwrap(), &headers, &settings.http).to_string()
    }

    #[test]
    fn h5_a_client_cannot_choose_its_address() {
        let trusting = "trusted-proxies = [\"10.0.0.0/8\"]";
        for (toml, peer, lines, address) in [
            ("", "10.0.0.1", &["192.0.2.1"][..], "10.0.0.1"),
            (trusting, "192.0.2.9", &["192.0.2.1"], "192.0.2.9"),
            (trusting, "10.0.0.1", &[], "10.0.0.1"),
            (trusting, "10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            (trusting, "::ffff:10.0.0.1", &["192.0.2.1:4711"], "192.0.2.1"),
            (trusting, "10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            // The first is what the client wrote itself.
            (trusting, "10.0.0.1", &["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
            (trusting, "10.0.0.1", &["198.51.100.7", "192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (trusting, "10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (trusting, "10.0.0.1", &["192.0.2.1, unknown"], "10.0.0.1"),
            (trusting, "10.0.0.1", &["192.0.2.1, , 10.0.0.2"], "10.0.0.2"),
        ] {
            assert_eq!(from(toml, peer, "x-forwarded-for", lines), address, "{toml} {peer} {lines:?}");
        }
        assert_eq!(
            from(trusting, "10.0.0.1", "forwarded", &["for=192.0.2.1"]),
            "10.0.0.1",
            "it is not the header that counts"
        );
        let standard = "trusted-proxies = [\"10.0.0.0/8\"]\nforwarded = \"forwarded\"";
        for (line, address) in [
            ("for=192.0.2.1;proto=https, for=10.0.0.2", "192.0.2.1"),
            ("proto=https;For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=_hidden", "10.0.0.1"),
            ("by=10.0.0.2", "10.0.0.1"),
        ] {
            assert_eq!(from(standard, "10.0.0.1", "forwarded", &[line]), address, "{line}");
        }
    }
}
