//! What a webhook may be sent to: the lists.

use std::net::IpAddr;

use crate::jobs::webhook::reach::{Reach, reach};
use crate::jobs::webhook::{Policy, Refused, Target};

/// Spellings of places behind the firewall that have to be seen through. With the operator's leave they are allowed.
const PRIVATE: [&str; 41] = [
    "http://127.0.0.1/",
    "https://127.0.0.1:8443/hook",
    "http://127.255.255.254/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://168.63.129.16/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://100.127.255.255/",
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://localhost/",
    "http://LOCALHOST:8080/",
    "http://localhost./",
    "http://a.localhost/",
    "http://a.b.LocalHost./",
    "http://localhost.localdomain/",
    "http://ip6-localhost/",
    "http://printer.local/",
    "http://metadata.google.internal/",
    "http://nas.home.arpa/",
    "http://[::1]/",
    "http://[::1]:8000/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::FFFF:10.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:c0a8:1::1]/",
    "http://[fe80::1]/",
    "http://[febf:ffff::1]/",
    "http://[fec0::1]/",
    "http://[fd00:ec2::254]/",
];

/// Addresses that no server has, whoever allows what.
const NOWHERE: [&str; 27] = [
    "http://0.0.0.0/",
    "http://0.0.0.0:8000/",
    "http://0.1.2.3/",
    "http://192.0.0.1/",
    "http://192.0.2.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://239.255.255.255/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::127.0.0.1]/",
    "http://[::7f00:2]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[::ffff:0.0.0.0]/",
    "http://[64:ff9b::224.0.0.1]/",
    "http://[100::1]/",
    "http://[2001:2::1]/",
    "http://[2001:10::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[2002:e000:1::]/",
    "http://[5f00::1]/",
    "http://[ff02::1]/",
    "http://[ff0e::1]/",
];

/// Teredo carries two addresses: a good server does not vouch for the client, nor the other way round.
const TEREDO: [&str; 2] = ["http://[2001:0:808:808:0:0:80ff:fffe]/", "http://[2001:0:7f00:1:0:0:f7f7:f7f7]/"];

/// What some program would read as something else, and what is no URL.
const NONSENSE: [(&str, Refused); 51] = [
    ("http://2130706433/", Refused::Spelling),
    ("http://2130706433:80/", Refused::Spelling),
    ("http://017700000001/", Refused::Spelling),
    ("http://0177.0.0.1/", Refused::Spelling),
    ("http://127.0.0.01/", Refused::Spelling),
    ("http://0177.0000.0000.0001/", Refused::Spelling),
    ("http://0x7f.0.0.1/", Refused::Spelling),
    ("http://0x7f000001/", Refused::Spelling),
    ("http://0X7F000001/", Refused::Spelling),
    ("http://127.0.0.0x1/", Refused::Spelling),
    ("http://0x/", Refused::Spelling),
    ("http://127.1/", Refused::Spelling),
    ("http://127.0.1/", Refused::Spelling),
    ("http://10.1/", Refused::Spelling),
    ("http://0/", Refused::Spelling),
    ("http://127.0.0.1./", Refused::Spelling),
    ("http://127.1./", Refused::Spelling),
    ("http://2852039166/", Refused::Spelling),
    ("http://425.510.425.510/", Refused::Spelling),
    ("http://127.0.0.1.1/", Refused::Spelling),
    // Public, but still not written as an address.
    ("http://134744072/", Refused::Spelling),
    ("http://hooks.example.com.1/", Refused::Spelling),
    ("http://[fe80::1%25eth0]/", Refused::Host),
    ("http://[fe80::1%eth0]/", Refused::Host),
    ("http://[::1]evil/", Refused::Port),
    ("http://[v1.fe80]/", Refused::Host),
    ("http://[127.0.0.1]/", Refused::Host),
    ("http://127.0.0.1%2e/", Refused::NotAUrl),
    ("http://%31%32%37.0.0.1/", Refused::NotAUrl),
    ("http://%6c%6f%63alhost/", Refused::NotAUrl),
    ("http://127。0。0。1/", Refused::NotAUrl),
    ("http://ⓛocalhost/", Refused::NotAUrl),
    ("http://１２７.0.0.1/", Refused::NotAUrl),
    ("http://hooks.example.com\\@127.0.0.1/", Refused::NotAUrl),
    (" http://hooks.example.com/", Refused::NotAUrl),
    ("http://hooks.example.com/\r\nHost: localhost", Refused::NotAUrl),
    ("http://hooks.example.com /", Refused::NotAUrl),
    ("http://user:pass@hooks.example.com/", Refused::Credentials),
    ("http://user@hooks.example.com/", Refused::Credentials),
    ("http://hooks.example.com@127.0.0.1/", Refused::Credentials),
    ("http://@127.0.0.1/", Refused::Credentials),
    ("http://hooks.example.com:0/", Refused::Port),
    ("http://hooks.example.com:65536/", Refused::Port),
    ("http://hooks.example.com:http/", Refused::Port),
    ("http://a..example.com/", Refused::Host),
    ("http://*.example.com/", Refused::Host),
    ("ftp://hooks.example.com/", Refused::Scheme),
    ("file:///etc/passwd", Refused::NotAUrl),
    ("gopher://127.0.0.1:70/_", Refused::Scheme),
    ("hooks.example.com/hook", Refused::NotAUrl),
    ("/hook", Refused::Scheme),
];

/// What people really use.
const GOOD: [&str; 22] = [
    "https://hooks.example.com",
    "https://hooks.example.com/",
    "http://hooks.example.com/a/b?c=d&e=%20f",
    "https://hooks.example.com:8443/hook",
    "https://hooks.example.com:/hook",
    "https://hooks.example.com./hook",
    "HTTPS://Hooks.Example.COM/Hook",
    "https://hooks.example.com/hook#part",
    "https://xn--bcher-kva.example/hook",
    "https://under_score.example.com/",
    "https://localhost.example.com/",
    "https://notlocalhost/",
    "https://127.example.com/",
    "https://0x7f.example.com/",
    "https://1.1.1.1/",
    "https://93.184.216.34:8443/hook",
    "https://172.32.0.1/",
    "https://100.128.0.1/",
    "https://[2606:4700:4700::1111]/hook",
    "https://[2a00:1450:4001:830::200e]:8443/",
    "https://[::ffff:1.1.1.1]/",
    "https://[64:ff9b::1.1.1.1]/",
];

#[test]
fn every_spelling_of_a_place_behind_the_firewall_is_refused() {
    for url in PRIVATE.iter().chain(&TEREDO) {
        assert_eq!(Target::check(url, Policy::PublicOnly), Err(Refused::Private), "{url}");
    }
    for url in NOWHERE {
        assert_eq!(Target::check(url, Policy::PublicOnly), Err(Refused::Nowhere), "{url}");
    }
    for (url, reason) in NONSENSE {
        assert_eq!(Target::check(url, Policy::PublicOnly), Err(reason), "{url}");
    }
    let long = format!("https://hooks.example.com/{}", "x".repeat(2048));
    assert_eq!(Target::check(&long, Policy::PublicOnly), Err(Refused::TooLong));
    let label = format!("https://{}.example.com/", "x".repeat(64));
    assert_eq!(Target::check(&label, Policy::PublicOnly), Err(Refused::Host));
}

#[test]
fn what_people_use_is_taken() {
    for url in GOOD {
        for policy in [Policy::PublicOnly, Policy::AllowPrivate] {
            assert!(Target::check(url, policy).is_ok(), "{url}");
        }
    }
}

#[test]
fn the_operator_may_allow_what_is_private_but_not_what_is_nonsense() {
    for url in PRIVATE.iter().chain(&TEREDO) {
        assert!(Target::check(url, Policy::AllowPrivate).is_ok(), "{url}");
    }
    for url in NOWHERE {
        assert_eq!(Target::check(url, Policy::AllowPrivate), Err(Refused::Nowhere), "{url}");
    }
    for (url, reason) in NONSENSE {
        assert_eq!(Target::check(url, Policy::AllowPrivate), Err(reason), "{url}");
    }
}

/// The first and the last address of each network, and their neighbours outside.
#[test]
fn networks_end_where_the_registries_say() {
    for (before, first, last, behind, inside) in [
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", Reach::Private),
        ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0", Reach::Private),
        ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0", Reach::Private),
        ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17", Reach::Private),
        ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0", Reach::Private),
        ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0", Reach::Private),
        ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0", Reach::Nowhere),
        ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0", Reach::Nowhere),
        ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0", Reach::Nowhere),
        ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0", Reach::Private),
        ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0", Reach::Private),
        ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0", Reach::Nowhere),
        ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0", Reach::Nowhere),
        ("223.255.255.255", "224.0.0.0", "255.255.255.255", "1.0.0.0", Reach::Nowhere),
        ("2606::1", "0.0.0.0", "0.255.255.255", "1.0.0.0", Reach::Nowhere),
        ("2000::", "2001:1::", "2001:1ff:ffff::", "2001:200::", Reach::Nowhere),
        ("2001:db7:ffff::", "2001:db8::", "2001:db8:ffff::", "2001:db9::", Reach::Nowhere),
        ("3ffe:ffff::", "3fff::", "3fff:fff:ffff::", "3fff:1000::", Reach::Nowhere),
        ("2000::", "::2", "1fff:ffff::", "2000::", Reach::Nowhere),
        ("3ffe::", "4000::", "fbff:ffff::", "2400::", Reach::Nowhere),
        ("2400::", "fc00::", "fdff:ffff::", "2400::", Reach::Private),
        ("2400::", "fe80::", "feff:ffff::", "2400::", Reach::Private),
        ("2400::", "ff00::", "ffff:ffff::", "2400::", Reach::Nowhere),
    ] {
        let of = |address: &str| reach(address.parse::<IpAddr>().expect("an address"));
        assert_eq!([of(first), of(last)], [inside; 2], "{first} to {last}");
        assert_eq!([of(before), of(behind)], [Reach::Public; 2], "around {first} to {last}");
    }
}
