//! Where a request comes from: the address at the other end of the connection, or, behind a proxy that is trusted,
//! the one that the proxy names.
//!
//! Each proxy appends to `X-Forwarded-For` whom it was spoken to by, so the list is read from its end: the last
//! address that is none of our own proxies is the client. What stands before it the client may have made up.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::HeaderName;

/// The other end of the connection that a request came over, in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer(pub(super) SocketAddr);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Some addresses: one, or all that begin with the same bits, as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).leading_zeros() >= self.bits
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be an address, or a network such as 10.0.0.0/8".to_owned();
        let (address, bits) = text.trim().split_once('/').map_or((text.trim(), None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), str::parse).map_err(|_| wrong())?;
        if bits > all { Err(wrong()) } else { Ok(Self { address, bits }) }
    }
}

/// Who sent this request; `None` if it came over no connection.
pub(super) fn client(request: &Request, proxies: &[Network]) -> Option<IpAddr> {
    let Peer(peer) = request.extensions().get::<Peer>()?;
    let ours = |address: IpAddr| proxies.iter().any(|proxy| proxy.holds(address));
    let mut client = peer.ip().to_canonical();
    let lists = request.headers().get_all(FORWARDED_FOR).iter().rev();
    let mut hops = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.rsplit(','));
    while ours(client) {
        // Some proxies write the port as well.
        let Some(hop) = hops.next().map(str::trim) else { break };
        let address = hop.parse().or_else(|_| hop.parse().map(|hop: SocketAddr| hop.ip()));
        let Ok(address) = address else { break };
        client = IpAddr::to_canonical(&address);
    }
    Some(client)
}

/// Whose limits those of an address are. Whoever has one address of version 6 mostly has 64 bits of them.
pub(super) fn subject(address: IpAddr) -> Arc<str> {
    match address {
        IpAddr::V4(address) => format!("peer:{address}").into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("peer:{a:x}:{b:x}:{c:x}:{d:x}::/64").into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn networks_are_read_and_hold_what_they_should() {
        let holds = |network: &str, other| network.parse::<Network>().map(|n| n.holds(address(other)));
        assert_eq!(holds("10.0.0.0/8", "10.255.1.1"), Ok(true));
        assert_eq!(holds("10.0.0.0/8", "11.0.0.0"), Ok(false));
        assert_eq!(holds("127.0.0.1", "127.0.0.1"), Ok(true));
        assert_eq!(holds("127.0.0.1", "::ffff:127.0.0.1"), Ok(true));
        assert_eq!(holds("127.0.0.1", "127.0.0.2"), Ok(false));
        assert_eq!(holds("0.0.0.0/0", "::1"), Ok(false));
        assert_eq!(holds("fd00::/8", "fdab::1"), Ok(true));
        for wrong in ["", "proxy", "10.0.0.0/33", "10.0.0.0/", "::1/129"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_client_is_the_last_that_is_no_proxy_of_ours() {
        let from = |peer: &str, forwarded: &[&str], proxies: &str| {
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(Peer(SocketAddr::new(address(peer), 1)));
            for list in forwarded {
                request.headers_mut().append(FORWARDED_FOR, list.parse().expect("a header"));
            }
            let proxies: Vec<Network> =
                proxies.split_whitespace().map(|proxy| proxy.parse().expect("a network")).collect();
            client(&request, &proxies).expect("it has a peer").to_string()
        };
        assert_eq!(from("192.0.2.1", &["198.51.100.1"], ""), "192.0.2.1", "nobody is trusted");
        assert_eq!(from("192.0.2.1", &["198.51.100.1"], "10.0.0.0/8"), "192.0.2.1", "not this one");
        let two = "10.0.0.0/8 127.0.0.1";
        assert_eq!(from("127.0.0.1", &["6.6.6.6, 198.51.100.1,10.1.1.1"], two), "198.51.100.1");
        assert_eq!(from("127.0.0.1", &["6.6.6.6", "198.51.100.1:4711", "10.1.1.1"], two), "198.51.100.1");
        assert_eq!(from("127.0.0.1", &["6.6.6.6, nonsense"], two), "127.0.0.1");
        assert_eq!(from("127.0.0.1", &[], two), "127.0.0.1");
        assert_eq!(from("::ffff:192.0.2.1", &[], ""), "192.0.2.1");
    }

    #[test]
    fn a_household_has_one_share() {
        assert_eq!(&*subject(address("192.0.2.1")), "peer:192.0.2.1");
        assert_eq!(subject(address("2001:db8:1:2:3::4")), subject(address("2001:db8:1:2::9")));
        assert_ne!(subject(address("2001:db8:1:2::")), subject(address("2001:db8:1:3::")));
    }
}
