//! The key files of a node: those of the genesis, and those of later epochs below `epochs/` of its directory.
//!
//! # Design
//! `epochs/<number>/` has `subnet.json` of an epoch and, if the node is one of its nodes, `node-<index>.json`. Files are
//! looked for while the node runs: those of the next epoch are a vote for beginning it.

use crate::error::{Failure, chain};
use anyhow::Result;
use lockstep_subnet::consensus::{
    Installed,
    genesis::{NodeKeys, PeerAddress, SUBNET_FILE, Subnet},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where the key files of later epochs lie.
pub(crate) const EPOCHS_DIRECTORY: &str = "epochs";

/// What a node knows of its subnet from files.
#[derive(Debug)]
pub(crate) struct Keyring {
    /// The subnet as it began.
    pub(crate) genesis: Installed,
    /// Later epochs, by number.
    pub(crate) later: Vec<Installed>,
}

impl Keyring {
    /// Of the genesis alone.
    pub(crate) fn new(subnet: Arc<Subnet>, keys: NodeKeys) -> Self {
        let genesis = Installed {
            subnet,
            keys: Some(keys),
        };
        let later = Vec::new();
        Self { genesis, later }
    }

    /// Reads what files there are.
    pub(crate) fn read(subnet: Subnet, keys: Option<&Path>, directory: &Path) -> Result<Self> {
        let keys = keys.map(|file| NodeKeys::read_file(file, &subnet));
        let keys = keys
            .transpose()
            .map_err(|error| Failure::user(chain(error)))?;
        let genesis = Installed {
            subnet: Arc::new(subnet),
            keys,
        };
        let own = genesis.keys.as_ref().map(NodeKeys::query_key);
        let later = Epochs::new(directory, own).added()?;
        Ok(Self { genesis, later })
    }

    /// The node's newest keys, and where it listens for its peers with them.
    pub(crate) fn newest(&self) -> Result<(&NodeKeys, &PeerAddress)> {
        let epochs = self.later.iter().rev().chain([&self.genesis]);
        let found = epochs.filter_map(|epoch| {
            let keys = epoch.keys.as_ref()?;
            Some((keys, epoch.subnet.addresses().get(keys.index())?))
        });
        let failure = || {
            Failure::user("there are no keys of this node").hint(format!(
                "give --keys, or put those of a later epoch below {EPOCHS_DIRECTORY}/ of its directory"
            ))
        };
        Ok(found.into_iter().next().ok_or_else(failure)?)
    }
}

/// The folder of later epochs, and what was read of it.
#[derive(Debug)]
pub(crate) struct Epochs {
    folder: PathBuf,
    /// What tells this node among others, if it is known.
    own: Option<[u8; 32]>,
    read: BTreeSet<u64>,
}

impl Epochs {
    /// Those of the node that keeps its state in a directory and answers queries with a key.
    pub(crate) fn new(directory: &Path, own: Option<[u8; 32]>) -> Self {
        Self {
            folder: directory.join(EPOCHS_DIRECTORY),
            own,
            read: BTreeSet::new(),
        }
    }

    /// The epochs that were added since this was last asked, by number.
    pub(crate) fn added(&mut self) -> Result<Vec<Installed>> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Ok(Vec::new());
        };
        let numbers: BTreeSet<u64> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        let new: Vec<u64> = numbers.difference(&self.read).copied().collect();
        let mut added = Vec::new();
        for number in new {
            added.push(self.epoch(number)?);
            self.read.insert(number);
        }
        Ok(added)
    }

    fn epoch(&self, number: u64) -> Result<Installed> {
        let folder = self.folder.join(number.to_string());
        let subnet = Subnet::read_file(&folder.join(SUBNET_FILE));
        let subnet = subnet.map_err(|error| Failure::user(chain(error)))?;
        if subnet.epoch() != number {
            return Err(Failure::user(format!(
                "{} has the files of epoch {}",
                folder.display(),
                subnet.epoch()
            ))
            .into());
        }
        let keys = node_file(&folder).map(|file| NodeKeys::read_file(&file, &subnet));
        let keys = keys
            .transpose()
            .map_err(|error| Failure::user(chain(error)))?;
        let is_node = self
            .own
            .is_some_and(|own| subnet.query_keys().contains(&own));
        if keys.is_none() && is_node {
            return Err(Failure::user(format!(
                "{} lacks this node's keys, which the ceremony has made with it",
                folder.display()
            ))
            .into());
        }
        Ok(Installed {
            subnet: Arc::new(subnet),
            keys,
        })
    }
}

/// The file of a node's secrets in a folder.
fn node_file(folder: &Path) -> Option<PathBuf> {
    let mut names = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let is_keys = name.starts_with("node-") && name.ends_with(".json");
        is_keys.then(|| folder.join(name))
    });
    names.next()
}
