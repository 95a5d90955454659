//! Where a webhook may go.
//!
//! Twice: the text when it is registered, the addresses whenever it is used. Both read it with the parser that the
//! connection is made with, so that no spelling means one thing to the judge and another to the socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;
use ureq::Error as Failure;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::reach::{Reach, reach};

/// As long as browsers and proxies bear it.
const LONGEST: usize = 2048;

/// Names that mean this machine or this network wherever they are looked up, and all names under them.
const LOCAL: [&str; 7] =
    ["localhost", "localdomain", "local", "internal", "home.arpa", "ip6-localhost", "ip6-loopback"];

/// Where deliveries may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// To public addresses.
    PublicOnly,
    /// To this machine and to private networks as well.
    AllowPrivate,
}

/// The address of a webhook, which its text allows. What its name means is judged by the guard, at every use.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
}

/// Why a webhook may not go there. It does not repeat the URL, whose path may be a secret, and does not say what a
/// name was resolved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// More than anybody needs.
    #[error("a webhook URL may have at most {LONGEST} bytes")]
    TooLong,
    /// It cannot be read.
    #[error("the webhook URL is not a URL")]
    NotAUrl,
    /// Neither of the two.
    #[error("a webhook URL must begin with https:// or http://")]
    Scheme,
    /// They would be in the log of every proxy.
    #[error("a webhook URL must not hold a user name or a password; the signature says who calls")]
    Credentials,
    /// Zero, or more than there are.
    #[error("the port of the webhook URL does not exist")]
    Port,
    /// Nothing that names a host.
    #[error("the host of the webhook URL is neither a name nor an address")]
    Host,
    /// Programs differ in what they make of such a number.
    #[error("the host of the webhook URL must be written as a name, as four decimal numbers or as [IPv6]")]
    Spelling,
    /// Behind the firewall, or nowhere.
    #[error("the webhook URL does not lead to a public address, and this server calls no others")]
    Private,
    /// Addresses that no server has.
    #[error("the webhook URL leads to an address that no server has")]
    Nowhere,
}

/// What the authority of a URL names.
enum Host {
    Address(IpAddr),
    Name(String),
}

impl Target {
    /// Judges a text, without a lookup.
    pub fn check(url: &str, policy: Policy) -> Result<Self, Refused> {
        if url.len() > LONGEST {
            return Err(Refused::TooLong);
        }
        let uri: Uri = url.parse().map_err(|_| Refused::NotAUrl)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(Refused::Scheme);
        }
        port(&uri)?;
        match Host::of(&uri)? {
            Host::Address(address) => judge(address, policy)?,
            Host::Name(name) if policy == Policy::PublicOnly && is_local(&name) => {
                return Err(Refused::Private);
            }
            Host::Name(_) => {}
        }
        Ok(Self { uri })
    }

    /// What to connect to.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }
}

/// Without the path, which may be a secret.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}/…", self.uri.scheme_str().unwrap_or_default())
    }
}

impl Host {
    fn of(uri: &Uri) -> Result<Self, Refused> {
        let authority = uri.authority().ok_or(Refused::Host)?;
        if authority.as_str().contains('@') {
            return Err(Refused::Credentials);
        }
        let host = authority.host();
        if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // Zones are refused with all else that is no address: they exist on one machine alone.
            let address: Ipv6Addr = inside.parse().map_err(|_| Refused::Host)?;
            return Ok(Self::Address(address.into()));
        }
        let dotless = host.strip_suffix('.').unwrap_or(host);
        let last = dotless.rsplit('.').next().unwrap_or_default();
        if is_number(last) {
            // No top-level domain is a number, so somebody means an address. This parser takes one spelling.
            let address: Ipv4Addr = host.parse().map_err(|_| Refused::Spelling)?;
            return Ok(Self::Address(address.into()));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if dotless.len() > 253 || !dotless.split('.').all(is_label) {
            return Err(Refused::Host);
        }
        Ok(Self::Name(dotless.to_ascii_lowercase()))
    }
}

/// Whether the C library would read a label as a number: decimal, octal or hexadecimal.
fn is_number(label: &str) -> bool {
    let all = |digits: &str, is: fn(&u8) -> bool| digits.as_bytes().iter().all(is);
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(digits) => all(digits, u8::is_ascii_hexdigit),
        None => !label.is_empty() && all(label, u8::is_ascii_digit),
    }
}

fn is_local(name: &str) -> bool {
    LOCAL.iter().any(|local| {
        name.strip_suffix(local).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

/// The port, said or meant. The parser takes a port that does not exist for none.
fn port(uri: &Uri) -> Result<u16, Refused> {
    let authority = uri.authority().ok_or(Refused::Host)?;
    let said = authority.as_str().rsplit('@').next().and_then(|rest| rest.strip_prefix(authority.host()));
    match said {
        None | Some("" | ":") => Ok(if uri.scheme_str() == Some("https") { 443 } else { 80 }),
        Some(_) => authority.port_u16().filter(|port| *port > 0).ok_or(Refused::Port),
    }
}

fn judge(address: IpAddr, policy: Policy) -> Result<(), Refused> {
    match (reach(address), policy) {
        (Reach::Public, _) | (Reach::Private, Policy::AllowPrivate) => Ok(()),
        (Reach::Private, Policy::PublicOnly) => Err(Refused::Private),
        (Reach::Nowhere, _) => Err(Refused::Nowhere),
    }
}

/// The lookup that connections are made with: all addresses of a name are allowed, or none is told.
///
/// The connection takes its addresses from here and asks nobody else, so there is no second answer to be had. What
/// a lookup finds beyond the first sixteen addresses is neither judged nor told.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    lookup: Arc<dyn Resolver>,
    policy: Policy,
}

impl Guard {
    pub(super) fn new(lookup: impl Resolver, policy: Policy) -> Self {
        Self { lookup: Arc::new(lookup), policy }
    }
}

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Failure> {
        let refuse = |refused: Refused| Failure::Other(Box::new(refused));
        let port = port(uri).map_err(refuse)?;
        let found = match Host::of(uri).map_err(refuse)? {
            Host::Address(address) => {
                let mut one = self.empty();
                one.push(SocketAddr::new(address, port));
                one
            }
            Host::Name(_) => self.lookup.resolve(uri, config, timeout)?,
        };
        if found.is_empty() {
            return Err(Failure::HostNotFound);
        }
        found.iter().try_for_each(|found| judge(found.ip(), self.policy)).map_err(refuse)?;
        Ok(found)
    }
}

/// What a lookup or an attempt was refused for, if it was.
pub(super) fn refusal(failure: &Failure) -> Option<Refused> {
    match failure {
        Failure::Other(cause) => cause.downcast_ref().copied(),
        _ => None,
    }
}
