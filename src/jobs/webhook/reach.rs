//! How far an address reaches, after IANA's registries of special-purpose addresses.
//!
//! Addresses that carry another address inside are judged by what they carry, because that is where their packets
//! come out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::Reach::{Nowhere, Private, Public};

/// Where packets to an address can go. The greater, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Anywhere on the Internet.
    Public,
    /// This machine, its link, its network or its host.
    Private,
    /// To no server, or not to one: unspecified, multicast, reserved, kept for examples.
    Nowhere,
}

/// How far an address reaches.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let bits = address.to_bits();
    let inside = |[a, b, c, d]: [u8; 4], prefix: u32| {
        (bits ^ Ipv4Addr::new(a, b, c, d).to_bits()).leading_zeros() >= prefix
    };
    V4.iter().find(|(network, prefix, _)| inside(*network, *prefix)).map_or(Public, |(.., reach)| *reach)
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let bits = address.to_bits();
    let carried = |shift: u32| reach_v4(Ipv4Addr::from_bits((bits >> shift) as u32));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Private,
        // Mapped, and translated by a gateway between the versions.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => carried(0),
        // 6to4 carries its gateway.
        [0x2002, ..] => carried(80),
        // Teredo carries its server, and its client with all bits turned.
        [0x2001, 0, ..] => carried(64).max(reach_v4(Ipv4Addr::from_bits(!bits as u32))),
        segments => {
            let inside = |[a, b, c]: [u16; 3], prefix: u32| {
                (bits ^ Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).to_bits()).leading_zeros() >= prefix
            };
            let special = V6.iter().find(|(network, prefix, _)| inside(*network, *prefix));
            // All that is given to anybody lies in 2000::/3.
            let rest = if segments[0] >> 13 == 1 { Public } else { Nowhere };
            special.map_or(rest, |(.., reach)| *reach)
        }
    }
}

/// The networks of version 4 that are not public.
const V4: [([u8; 4], u32, Reach); 16] = [
    // Also the unspecified address, which connects to this machine.
    ([0, 0, 0, 0], 8, Nowhere),
    ([10, 0, 0, 0], 8, Private),
    // Between a provider and its customers.
    ([100, 64, 0, 0], 10, Private),
    ([127, 0, 0, 0], 8, Private),
    // A public number that, inside the virtual machines of one cloud, is a service of their host.
    ([168, 63, 129, 16], 32, Private),
    ([169, 254, 0, 0], 16, Private),
    ([172, 16, 0, 0], 12, Private),
    ([192, 0, 0, 0], 24, Nowhere),
    ([192, 0, 2, 0], 24, Nowhere),
    ([192, 88, 99, 0], 24, Nowhere),
    ([192, 168, 0, 0], 16, Private),
    // For benchmarks, and used as private by some.
    ([198, 18, 0, 0], 15, Private),
    ([198, 51, 100, 0], 24, Nowhere),
    ([203, 0, 113, 0], 24, Nowhere),
    ([224, 0, 0, 0], 4, Nowhere),
    // Reserved, and the broadcast address.
    ([240, 0, 0, 0], 4, Nowhere),
];

/// The networks of version 6 that are private, or not public within 2000::/3.
const V6: [([u16; 3], u32, Reach); 7] = [
    // A gateway between the versions that knows private addresses.
    ([0x64, 0xff9b, 1], 48, Private),
    ([0xfc00, 0, 0], 7, Private),
    ([0xfe80, 0, 0], 10, Private),
    // What unique local addresses took the place of.
    ([0xfec0, 0, 0], 10, Private),
    // Protocols: benchmarks, relays, identifiers that look like addresses.
    ([0x2001, 0, 0], 23, Nowhere),
    ([0x2001, 0xdb8, 0], 32, Nowhere),
    ([0x3fff, 0, 0], 20, Nowhere),
];
