//! What is bounded per address and in all.
mod bodies;
mod connections;
mod rates;
mod work;

pub(crate) use bodies::gather;
pub(crate) use connections::{Connections, Place};
pub(crate) use rates::{Rates, limit};
pub(crate) use work::Work;

use std::net::{IpAddr, Ipv6Addr};

/// Whom a bound per address counts: an IPv4 address, or the /64 network of an IPv6 address, of which a single client
/// has all addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// The source of a connection; `None` if it has no bounds of its own.
    pub(crate) fn of(address: IpAddr, limit_loopback: bool) -> Option<Self> {
        let address = address.to_canonical();
        if address.is_loopback() && !limit_loopback {
            return None;
        }
        Some(Self(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        }))
    }
}

#[cfg(test)]
mod tests;
