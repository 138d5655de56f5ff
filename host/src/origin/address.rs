//! Which addresses a name may lead to: those of the public internet.
//!
//! The special-purpose registries of IANA (RFC 6890) say which are not. An IPv6 address that carries an IPv4 address
//! (RFC 4291 mapped, RFC 6052 NAT64) is judged as the one that it carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address and the length of its prefix, in bits.
pub type Net<T = IpAddr> = (T, u32);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u32) -> Net<Ipv4Addr> {
    (Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u32) -> Net<Ipv6Addr> {
    (Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// What is not the public internet.
const NOT_PUBLIC_V4: [Net<Ipv4Addr>; 16] = [
    // "This network" (RFC 791).
    v4(0, 0, 0, 0, 8),
    // Private (RFC 1918).
    v4(10, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 168, 0, 0, 16),
    // Behind a provider's NAT (RFC 6598).
    v4(100, 64, 0, 0, 10),
    // Loopback.
    v4(127, 0, 0, 0, 8),
    // Link-local (RFC 3927), where clouds keep their metadata.
    v4(169, 254, 0, 0, 16),
    // What Azure's machines are told their metadata and keys by, though it is a public address. Other clouds' lie in what
    // is named above and below.
    v4(168, 63, 129, 16, 32),
    // Protocol assignments (RFC 6890), the old 6to4 relays (RFC 7526).
    v4(192, 0, 0, 0, 24),
    v4(192, 88, 99, 0, 24),
    // For documentation (RFC 5737) and benchmarks (RFC 2544).
    v4(192, 0, 2, 0, 24),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(198, 18, 0, 0, 15),
    // Multicast, reserved and broadcast.
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];

/// What of `2000::/3`, the global unicast addresses, is not the public internet.
const NOT_PUBLIC_V6: [Net<Ipv6Addr>; 4] = [
    // Protocol assignments, Teredo among them (RFC 2928).
    v6(0x2001, 0, 0, 23),
    // For documentation (RFC 3849, RFC 9637).
    v6(0x2001, 0xdb8, 0, 32),
    v6(0x3fff, 0, 0, 20),
    // 6to4, which carries IPv4 addresses (RFC 7526).
    v6(0x2002, 0, 0, 16),
];

/// Whether an address belongs to the public internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|net| within_v4(address, *net)),
        IpAddr::V6(address) => match carried(address) {
            Some(carried) => is_public(carried.into()),
            None => {
                within_v6(address, v6(0x2000, 0, 0, 3))
                    && !NOT_PUBLIC_V6.iter().any(|net| within_v6(address, *net))
            }
        },
    }
}

/// The shortest prefixes of a network that is somebody's own: what is shorter is a provider's, or a tunnel to everywhere.
const SHORTEST: (u32, u32) = (16, 48);

/// Whether an address belongs to this machine, of which these are the addresses, or to the network that it is in: whoever
/// may be reached there only from here, without a firewall in between.
#[must_use]
pub fn is_near(address: IpAddr, ours: &[Net]) -> bool {
    let address = canonical(address);
    ours.iter().any(|(our, prefix)| match (address, canonical(*our)) {
        (IpAddr::V4(address), IpAddr::V4(our)) => {
            let prefix = if *prefix < SHORTEST.0 { 32 } else { (*prefix).min(32) };
            within_v4(address, (our, prefix))
        }
        (IpAddr::V6(address), IpAddr::V6(our)) => {
            let prefix = if *prefix < SHORTEST.1 { 128 } else { (*prefix).min(128) };
            within_v6(address, (our, prefix))
        }
        _ => false,
    })
}

/// The IPv4 address in one that is mapped, or translated by NAT64 with the well-known prefix.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = within_v6(address, v6(0x64, 0xff9b, 0, 96));
    let [.., a, b, c, d] = address.octets();
    address.to_ipv4_mapped().or_else(|| nat64.then(|| Ipv4Addr::new(a, b, c, d)))
}

/// The same address, whichever way it is written.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => carried(six).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn within_v4(address: Ipv4Addr, (net, prefix): Net<Ipv4Addr>) -> bool {
    (address.to_bits() ^ net.to_bits()) >> (32 - prefix) == 0
}

fn within_v6(address: Ipv6Addr, (net, prefix): Net<Ipv6Addr>) -> bool {
    (address.to_bits() ^ net.to_bits()) >> (128 - prefix) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_public_internet_is_known() {
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "192.0.0.170",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "fe80::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "3fff::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "169.253.0.1",
            "168.63.129.15",
            "168.63.129.17",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn this_machine_and_its_network_are_near() {
        let net = |(address, prefix): (&str, u32)| (address.parse().unwrap(), prefix);
        let ours = [
            ("8.8.4.4", 24),
            ("9.9.9.9", 32),
            ("11.1.1.1", 8),
            ("2a00:1450:1:2::5", 64),
            ("2606:4700::5", 128),
            ("2a03::5", 16),
        ];
        let ours = ours.map(net);
        for address in [
            "8.8.4.4",
            "8.8.4.200",
            "::ffff:8.8.4.4",
            "64:ff9b::8.8.4.4",
            "9.9.9.9",
            "11.1.1.1",
            "2a00:1450:1:2::5",
            "2a00:1450:1:2:ffff::1",
            "2606:4700::5",
            "2a03::5",
        ] {
            assert!(is_near(address.parse().unwrap(), &ours), "{address}");
        }
        for address in
            ["8.8.5.1", "9.9.9.8", "11.1.1.2", "2a00:1450:1:3::5", "2606:4700::6", "2a03::6", "1.1.1.1"]
        {
            assert!(!is_near(address.parse().unwrap(), &ours), "{address}");
        }
    }

    #[test]
    fn an_address_is_the_same_whichever_way_it_is_written() {
        let canonical = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(canonical("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(canonical("64:ff9b::c000:201"), "192.0.2.1");
        assert_eq!(canonical("2606:4700::1"), "2606:4700::1");
    }
}
