//! The nodes of a subnet in one process, connected over the loopback interface.
//!
//! # Design
//!
//! Each node is a [`Machine`] with its own storage directory and its own port, as if it ran on a
//! machine of its own: it can be stopped in the middle of anything and started again from its
//! directory while the others go on.
use super::{
    epochs::Installed,
    genesis::{Genesis, NodeKeys, PeerAddress, Subnet},
    machine::{Machine, MachineConfig, MachineError},
    node::NodeHandle,
};
use crate::application::Application;
use commonware_utils::sys_rng;
use rand_core::Rng as _;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};
use thiserror::Error;

/// Below the range from which the system takes the ports of outgoing connections, so that none of
/// those occupies a stopped node's port.
const PORTS: Range<u16> = 20_000..32_000;
const PORT_TRIES_MAX: usize = 1_000;

/// Why a node did not start or did not run to its stop.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The subnet has no such node.
    #[error("no such node: {index}")]
    UnknownNode {
        /// The number asked for.
        index: usize,
    },
    /// The node runs already.
    #[error("node runs already: {index}")]
    Running {
        /// The node.
        index: usize,
    },
    /// There is not one application for each node.
    #[error("expected {expected} applications, got: {actual}")]
    ApplicationCount {
        /// The number of nodes.
        expected: usize,
        /// The number of applications.
        actual: usize,
    },
    /// No free port was found.
    #[error("no free port on the loopback interface")]
    NoPort,
    /// The node did not start, or it failed.
    #[error("node {index}")]
    Node {
        /// The node.
        index: usize,
        /// What is wrong with it.
        source: MachineError,
    },
}

/// A subnet whose nodes run in this process. Dropping it stops them.
#[derive(Debug)]
pub struct Cluster {
    subnet: Arc<Subnet>,
    keys: Vec<NodeKeys>,
    directory: PathBuf,
    nodes: Vec<Option<Machine>>,
}

impl Cluster {
    /// A subnet none of whose nodes runs yet. Node `i` keeps its part of the chain in
    /// `directory/node-<i>`.
    ///
    /// # Errors
    ///
    /// If no free ports are found.
    pub fn new(genesis: Genesis, directory: impl Into<PathBuf>) -> Result<Self, ClusterError> {
        let Genesis {
            subnet,
            nodes: keys,
        } = genesis;
        Ok(Self {
            subnet: Arc::new(on_free_ports(subnet)?),
            nodes: keys.iter().map(|_| None).collect(),
            keys,
            directory: directory.into(),
        })
    }

    /// A subnet all of whose nodes run, node `i` with `applications[i]`.
    ///
    /// # Errors
    ///
    /// If there is not one application for each node, or a node does not start.
    pub fn start<A: Application>(
        genesis: Genesis,
        directory: impl Into<PathBuf>,
        applications: Vec<Arc<A>>,
    ) -> Result<Self, ClusterError> {
        let mut cluster = Self::new(genesis, directory)?;
        let (expected, actual) = (cluster.nodes.len(), applications.len());
        if expected != actual {
            return Err(ClusterError::ApplicationCount { expected, actual });
        }
        for (index, application) in applications.into_iter().enumerate() {
            cluster.start_node(index, application)?;
        }
        Ok(cluster)
    }

    /// The public part of the subnet's keys.
    #[must_use]
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// The keys of node `index`.
    #[must_use]
    pub fn keys(&self, index: usize) -> Option<&NodeKeys> {
        self.keys.get(index)
    }

    /// Where node `index` listens for its peers.
    #[must_use]
    pub fn address(&self, index: usize) -> Option<SocketAddr> {
        self.subnet.addresses().get(index)?.socket()
    }

    /// The handle of node `index`, if it was started and not stopped.
    #[must_use]
    pub fn node(&self, index: usize) -> Option<&NodeHandle> {
        Some(self.nodes.get(index)?.as_ref()?.handle())
    }

    /// Whether node `index` runs: it was started, not stopped, and did not fail.
    #[must_use]
    pub fn is_running(&self, index: usize) -> bool {
        matches!(self.nodes.get(index), Some(Some(node)) if node.is_running())
    }

    /// Starts node `index`, from its directory if it ran before. Blocks until its storage is open.
    ///
    /// # Errors
    ///
    /// If there is no such node, it runs already, or it fails while it starts.
    pub fn start_node(
        &mut self,
        index: usize,
        application: Arc<dyn Application>,
    ) -> Result<NodeHandle, ClusterError> {
        let unknown = ClusterError::UnknownNode { index };
        let keys = self.keys.get(index).cloned();
        let (Some(keys), Some(listen)) = (keys, self.address(index)) else {
            return Err(unknown);
        };
        if self.nodes[index].is_some() {
            return Err(ClusterError::Running { index });
        }
        let machine = Machine::start(MachineConfig {
            genesis: Installed {
                subnet: self.subnet.clone(),
                keys: Some(keys),
            },
            later: Vec::new(),
            upgrade_to: None,
            listen,
            storage: self.directory.join(format!("node-{index}")),
            application,
        });
        let machine = machine.map_err(|source| ClusterError::Node { index, source })?;
        let handle = machine.handle().clone();
        self.nodes[index] = Some(machine);
        Ok(handle)
    }

    /// Stops node `index` and waits until nothing of it runs and its application is released.
    ///
    /// # Errors
    ///
    /// If there is no such running node, or it had failed before.
    pub fn stop_node(&mut self, index: usize) -> Result<(), ClusterError> {
        let node = self.nodes.get_mut(index).and_then(Option::take);
        let node = node.ok_or(ClusterError::UnknownNode { index })?;
        node.stop()
            .map_err(|source| ClusterError::Node { index, source })
    }

    /// Stops all running nodes, the failed ones too.
    ///
    /// # Errors
    ///
    /// The first failure of a node, after all are stopped.
    pub fn shutdown(mut self) -> Result<(), ClusterError> {
        // All are told before the first is waited for.
        self.nodes
            .iter_mut()
            .flatten()
            .for_each(Machine::begin_stop);
        let mut result = Ok(());
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_some() {
                result = result.and(self.stop_node(index));
            }
        }
        result
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes
            .iter_mut()
            .flatten()
            .for_each(Machine::begin_stop);
    }
}

/// The subnet with an address on this machine's loopback interface for each node, at which nothing
/// listens now; chosen at random, so that clusters started at the same time rarely meet.
///
/// # Errors
///
/// If no free ports are found.
pub fn on_free_ports(subnet: Subnet) -> Result<Subnet, ClusterError> {
    let mut random = sys_rng();
    let mut addresses = BTreeSet::new();
    for _ in 0..PORT_TRIES_MAX {
        if addresses.len() == subnet.node_count() {
            break;
        }
        let offset = random.next_u32() % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).expect("smaller than the range");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            addresses.insert(address);
        }
    }
    let addresses = addresses.into_iter().map(PeerAddress::from).collect();
    subnet
        .with_addresses(addresses)
        .map_err(|_| ClusterError::NoPort)
}
