//! The connections: names are resolved and vetted here, and a connection goes to an address that was.

use std::{
    collections::BTreeSet,
    error::Error as _,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use reqwest::dns::{Name, Resolve, Resolving};
use wasmtime_wasi_http::Error;

use crate::{
    grant::Route,
    origin::{
        Target,
        address::{canonical, is_public},
    },
};

/// How long a connection may take to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection that nobody uses is closed after this.
const IDLE: Duration = Duration::from_secs(10);
/// So many stay open to one host.
const IDLE_CONNECTIONS: usize = 4;

/// What finds the addresses of a name. What it finds is vetted, whatever it is.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of a host.
    ///
    /// # Errors
    /// It cannot be resolved.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

#[async_trait]
impl Resolver for System {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Clients with their connections, one for each [`Route`]: a connection that was vetted for one is used for no other.
pub struct Clients {
    resolver: Arc<dyn Resolver>,
    homeservers: Arc<[Target]>,
    made: [OnceLock<reqwest::Client>; 4],
}

impl Clients {
    /// With this resolver, and the homeservers that nobody reaches by accident.
    pub fn new(resolver: Arc<dyn Resolver>, homeservers: Vec<Target>) -> Self {
        Self { resolver, homeservers: homeservers.into(), made: Default::default() }
    }

    /// Where the agents sign in.
    pub fn homeservers(&self) -> &[Target] {
        &self.homeservers
    }

    /// Whether somebody may connect to one of these addresses: a host that is an address is never resolved.
    ///
    /// # Errors
    /// [`Error::DestinationIpProhibited`].
    pub async fn vet(&self, addresses: &[IpAddr], route: Route) -> Result<(), Error> {
        let vetted = self.vetted(route).vet(addresses).await;
        vetted.map(drop).map_err(|Prohibited| Error::DestinationIpProhibited)
    }

    fn vetted(&self, route: Route) -> Vetted {
        let homeservers = route.spares_homeservers.then(|| self.homeservers.clone());
        Vetted { resolver: self.resolver.clone(), private: route.private, homeservers }
    }

    /// The client of a route. The first one takes some milliseconds: it reads the certificates that the machine
    /// trusts.
    pub fn of(&self, route: Route) -> Result<&reqwest::Client, Error> {
        let slot = &self.made[usize::from(route.private) * 2 + usize::from(route.spares_homeservers)];
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let vetted = self.vetted(route);
        let client = reqwest::Client::builder()
            .dns_resolver(Arc::new(vetted))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build();
        let client = client.map_err(|error| {
            tracing::error!(target: "parlour", "http: {}", innermost(&error));
            Error::ConfigurationError
        })?;
        Ok(slot.get_or_init(|| client))
    }
}

/// A resolver that leaves out where nobody may connect to.
#[derive(Clone)]
struct Vetted {
    resolver: Arc<dyn Resolver>,
    private: bool,
    /// Whose addresses are left out.
    homeservers: Option<Arc<[Target]>>,
}

/// All addresses of a name were left out.
#[derive(Debug, thiserror::Error)]
#[error("it has no address that may be connected to")]
struct Prohibited;

impl Vetted {
    /// Those of some addresses that may be connected to.
    async fn vet(&self, found: &[IpAddr]) -> Result<Vec<SocketAddr>, Prohibited> {
        let mut spared = BTreeSet::new();
        for server in self.homeservers.iter().flat_map(|servers| servers.iter()) {
            let addresses = match server.address() {
                Some(address) => vec![address],
                // Nobody knows then where it is.
                None => self.resolver.resolve(server.host()).await.map_err(|_| Prohibited)?,
            };
            spared.extend(addresses.into_iter().map(place));
        }
        let may =
            |address: &IpAddr| (self.private || is_public(*address)) && !spared.contains(&place(*address));
        let vetted: Vec<SocketAddr> =
            found.iter().copied().filter(may).map(|address| SocketAddr::new(address, 0)).collect();
        if vetted.is_empty() && !found.is_empty() { Err(Prohibited) } else { Ok(vetted) }
    }
}

/// The same for all addresses that lead to the same place: there are many for this machine.
fn place(address: IpAddr) -> IpAddr {
    let address = canonical(address);
    if address.is_loopback() || address.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address }
}

impl Resolve for Vetted {
    fn resolve(&self, name: Name) -> Resolving {
        let vetted = self.clone();
        Box::pin(async move {
            let found = vetted.resolver.resolve(name.as_str()).await?;
            let vetted = vetted.vet(&found).await?;
            Ok(Box::new(vetted.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

/// What a guest is told of a failure: its kind, and nothing of the machine.
pub fn failed(error: &reqwest::Error) -> Error {
    let mut source = error.source();
    let (mut refused, mut certificate) = (false, false);
    while let Some(reason) = source {
        if reason.is::<Prohibited>() {
            return Error::DestinationIpProhibited;
        }
        let kind = reason.downcast_ref::<io::Error>().map(io::Error::kind);
        refused |= kind == Some(io::ErrorKind::ConnectionRefused);
        certificate |= kind == Some(io::ErrorKind::InvalidData);
        // An `io::Error` says what is in it by `get_ref` only.
        let inner = reason.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.and_then(|inner| inner.downcast_ref::<Prohibited>()).is_some() {
            return Error::DestinationIpProhibited;
        }
        source = reason.source();
    }
    if error.is_timeout() {
        Error::ConnectionTimeout
    } else if error.is_connect() && certificate {
        Error::TlsCertificateError
    } else if error.is_connect() && refused {
        Error::ConnectionRefused
    } else if error.is_connect() {
        Error::DestinationUnavailable
    } else if error.is_decode() {
        Error::HttpResponseContentCoding(None)
    } else if error.is_body() {
        Error::HttpResponseIncomplete
    } else {
        Error::HttpProtocolError
    }
}

/// The reason of a reason.
fn innermost(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
