//! Where peers reach a node.
use super::GenesisError;
use commonware_p2p::{Address, Ingress};
use commonware_utils::Hostname;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// Where peers reach a node: `HOST:PORT`, HOST an address (IPv6 in brackets) or a name, which is
/// looked up at every attempt to connect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress(Ingress);

impl PeerAddress {
    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// The socket's address, if the host is not a name.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match &self.0 {
            Ingress::Socket(address) => Some(*address),
            Ingress::Dns { .. } => None,
        }
    }

    /// As connections take it. Where a peer connects from is not looked at: its handshake tells who
    /// it is.
    pub(crate) fn peer(&self) -> Address {
        Address::Asymmetric {
            ingress: self.0.clone(),
            egress: SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port())),
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self(Ingress::Socket(address))
    }
}

impl FromStr for PeerAddress {
    type Err = GenesisError;

    fn from_str(text: &str) -> Result<Self, GenesisError> {
        let ingress = match text.parse::<SocketAddr>() {
            Ok(address) => Some(Ingress::Socket(address)),
            Err(_) => named(text),
        };
        let usable = |ingress: &Ingress| {
            ingress.port() != 0 && !ingress.ip().as_ref().is_some_and(IpAddr::is_unspecified)
        };
        let ingress = ingress.filter(usable);
        ingress.map(Self).ok_or_else(|| GenesisError::Address {
            text: text.to_owned(),
        })
    }
}

fn named(text: &str) -> Option<Ingress> {
    let (host, port) = text.rsplit_once(':')?;
    // A last label of digits makes it a damaged address and no name.
    let last = host.rsplit('.').next()?;
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Ingress::Dns {
        host: Hostname::new(host).ok()?,
        port: port.parse().ok()?,
    })
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ingress::Socket(address) => address.fmt(formatter),
            Ingress::Dns { host, port } => write!(formatter, "{}:{port}", host.as_str()),
        }
    }
}
