//! The connections: names are resolved and vetted here, and a connection goes to an address that was. Each plugin has its
//! own: none goes on in a connection that another one's secret was sent by, or learns whom another one talks to.

mod patience;

use std::{
    collections::{BTreeSet, HashMap},
    error::Error as _,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use if_addrs::IfAddr;
use reqwest::dns::{Name, Resolve, Resolving};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::Error;

use self::patience::Patience;
pub use self::patience::within;
use crate::{
    grant::Route,
    id::PluginName,
    origin::{
        Target,
        address::{Net, canonical, is_near, is_public},
    },
};

/// How long a connection may take to come about, TLS included. A plugin may say less.
pub const CONNECT: Duration = Duration::from_secs(10);
/// A connection that nobody uses is closed after this.
const IDLE: Duration = Duration::from_secs(10);
/// So many stay open to one host.
const IDLE_CONNECTIONS: usize = 2;
/// To so many origins connections of a plugin stay open: with these two, what it leaves behind is bounded.
const ORIGINS: usize = 8;
/// Requests of all plugins that are open at once: a process has some thousand descriptors.
const OPEN: usize = 256;
/// Those of one plugin: a busy one leaves room for others.
const OPEN_OF_PLUGIN: usize = 32;
/// Names of all plugins that are looked up at once: the machine's resolver takes a thread for each, of those that files
/// are written by.
const LOOKUPS: usize = 32;
/// Those of one plugin: whoever owns a name decides how long that takes.
const LOOKUPS_OF_PLUGIN: usize = 4;
/// After this a lookup that nobody waits for is forgotten: longer than resolvers try.
const LOOKUP: Duration = Duration::from_secs(120);

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

/// The ways out of all plugins.
pub struct Clients {
    resolver: Arc<dyn Resolver>,
    homeservers: Arc<[Target]>,
    open: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    outlets: Mutex<HashMap<PluginName, Arc<Outlet>>>,
}

impl Clients {
    /// With this resolver, and the homeservers that nobody reaches by accident.
    pub fn new(resolver: Arc<dyn Resolver>, homeservers: Vec<Target>) -> Self {
        let (open, lookups) = (Arc::new(Semaphore::new(OPEN)), Arc::new(Semaphore::new(LOOKUPS)));
        Self { resolver, homeservers: homeservers.into(), open, lookups, outlets: Mutex::default() }
    }

    /// A plugin's way out, the same one for all of its versions.
    pub fn of(&self, plugin: &PluginName) -> Arc<Outlet> {
        let mut outlets = self.outlets.lock().unwrap_or_else(PoisonError::into_inner);
        let outlet = outlets.entry(plugin.clone()).or_insert_with(|| {
            let bounds = |all: &Arc<Semaphore>, own| [Arc::new(Semaphore::new(own)), all.clone()];
            Arc::new(Outlet {
                homeservers: self.homeservers.clone(),
                names: Names {
                    resolver: self.resolver.clone(),
                    lookups: bounds(&self.lookups, LOOKUPS_OF_PLUGIN),
                },
                open: bounds(&self.open, OPEN_OF_PLUGIN),
                origins: Mutex::default(),
                made: Default::default(),
            })
        });
        outlet.clone()
    }
}

/// One plugin's clients with their connections, one for each [`Route`]: a connection that was vetted for one is used for
/// no other.
pub struct Outlet {
    homeservers: Arc<[Target]>,
    names: Names,
    /// For its own requests that are open, and for those of all plugins.
    open: [Arc<Semaphore>; 2],
    /// To which connections stay open.
    origins: Mutex<BTreeSet<String>>,
    made: [OnceLock<reqwest::Client>; 8],
}

impl Outlet {
    /// Where the agents sign in.
    pub fn homeservers(&self) -> &[Target] {
        &self.homeservers
    }

    /// Room for one more open request: of this plugin, and in all. Nobody closes these semaphores.
    pub async fn room(&self) -> [Option<OwnedSemaphorePermit>; 2] {
        let [own, all] = &self.open;
        let own = own.clone().acquire_owned().await.ok();
        [own, all.clone().acquire_owned().await.ok()]
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
        Vetted { names: self.names.clone(), private: route.private, homeservers }
    }

    /// Whether connections to there stay open.
    fn stays(&self, target: &Target) -> bool {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = target.to_string();
        origins.contains(&origin) || (origins.len() < ORIGINS && origins.insert(origin))
    }

    /// The client for a request. The first one takes some milliseconds: it reads the certificates that the machine
    /// trusts.
    pub fn client(&self, target: &Target, route: Route) -> Result<&reqwest::Client, Error> {
        let stays = self.stays(target);
        let bits = [route.private, route.spares_homeservers, stays];
        let slot = &self.made[bits.into_iter().fold(0, |slot, bit| slot * 2 + usize::from(bit))];
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
            .connector_layer(Patience)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(if stays { IDLE_CONNECTIONS } else { 0 })
            .build();
        let client = client.map_err(|error| {
            tracing::error!(target: "parlour", "http: {}", innermost(&error));
            Error::ConfigurationError
        })?;
        Ok(slot.get_or_init(|| client))
    }
}

/// Looks names up, so many at once.
#[derive(Clone)]
struct Names {
    resolver: Arc<dyn Resolver>,
    /// One plugin's, and all.
    lookups: [Arc<Semaphore>; 2],
}

impl Names {
    /// The addresses of a host. A lookup takes its room until it has ended, though whoever wanted it has given up: so
    /// does its thread.
    async fn look_up(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let [own, all] = self.lookups.clone();
        let room = [own.acquire_owned().await, all.acquire_owned().await];
        let (resolver, host) = (self.resolver.clone(), host.to_owned());
        let looking = tokio::spawn(async move {
            let found = tokio::time::timeout(LOOKUP, resolver.resolve(&host)).await;
            drop(room);
            found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        });
        looking.await.map_err(io::Error::other)?
    }
}

/// The addresses of this machine, with those that are beside them.
fn interfaces() -> io::Result<Vec<Net>> {
    let all = if_addrs::get_if_addrs()?.into_iter().map(|interface| match interface.addr {
        IfAddr::V4(four) => (four.ip.into(), four.prefixlen.into()),
        IfAddr::V6(six) => (six.ip.into(), six.prefixlen.into()),
    });
    Ok(all.collect())
}

/// A resolver that leaves out where nobody may connect to.
#[derive(Clone)]
struct Vetted {
    names: Names,
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
                None => self.names.look_up(server.host()).await.map_err(|_| Prohibited)?,
            };
            spared.extend(addresses.into_iter().map(place));
        }
        // Whoever does not know which they are reaches none.
        let near = if self.private { vec![] } else { interfaces().map_err(|_| Prohibited)? };
        let public = |address: IpAddr| is_public(address) && !is_near(address, &near);
        let may = |address: &IpAddr| (self.private || public(*address)) && !spared.contains(&place(*address));
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
            let found = vetted.names.look_up(name.as_str()).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_this_machine_are_known() {
        let all = interfaces().expect("they can be read");
        assert!(all.contains(&(Ipv4Addr::LOCALHOST.into(), 8)), "{all:?}");
    }

    #[tokio::test]
    async fn a_plugin_that_takes_all_it_may_leaves_room_for_others() {
        let clients = Clients::new(Arc::new(System), vec![]);
        let of = |name: &str| clients.of(&name.parse().expect("a name"));
        let mut held = vec![];
        for _ in 0..OPEN_OF_PLUGIN {
            held.push(of("busy").room().await);
        }
        let busy = of("busy");
        assert!(futures_util::poll!(std::pin::pin!(busy.room())).is_pending());
        assert!(futures_util::poll!(std::pin::pin!(of("other").room())).is_ready());
        // What it leaves open is bounded as well.
        let target = |number: usize| Target::of(&format!("https://{number}.example")).expect("a URL");
        assert!((0..ORIGINS).all(|number| busy.stays(&target(number))));
        assert!(!busy.stays(&target(ORIGINS)) && busy.stays(&target(0)));
    }
}
