//! The key files of a node: those of the genesis, and those of later epochs below `epochs/` of its directory.
//!
//! # Design
//! `epochs/<number>/` has `subnet.json` of an epoch and, if the node is one of its nodes, `node-<index>.json`. Files are
//! looked for while the node runs: those of the next epoch are a vote for beginning it. Other names than numbers are
//! passed over, so that a folder can be filled beside its place and then renamed.

use crate::error::{Failure, chain};
use anyhow::Result;
use lockstep_subnet::consensus::{
    Installed,
    genesis::{NodeKeys, PeerAddress, SUBNET_FILE, Subnet},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
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

    /// Reads what files there are, and where more may come. What is wrong with a later epoch's is told, and it is
    /// passed over.
    ///
    /// # Errors
    /// If there are no keys at all.
    pub(crate) fn read(
        subnet: Subnet,
        keys: Option<&Path>,
        directory: &Path,
    ) -> Result<(Self, Epochs)> {
        let keys = keys.map(|file| NodeKeys::read_file(file, &subnet));
        let keys = keys
            .transpose()
            .map_err(|error| Failure::user(chain(error)))?;
        let genesis = Installed {
            subnet: Arc::new(subnet),
            keys,
        };
        let mut epochs = Epochs::new(directory, genesis.keys.as_ref().map(NodeKeys::query_key));
        let mut later = Vec::new();
        for found in epochs.look() {
            match found {
                Ok(installed) => {
                    epochs.note(&installed);
                    later.push(installed);
                }
                Err(error) => eprintln!("{error:#}"),
            }
        }
        let keyring = Self { genesis, later };
        epochs.own = Some(keyring.newest()?.keys.query_key());
        Ok((keyring, epochs))
    }

    /// The newest epoch for which there are keys.
    pub(crate) fn newest(&self) -> Result<Own<'_>> {
        let epochs = self.later.iter().rev().chain([&self.genesis]);
        let found = epochs.filter_map(|epoch| {
            let keys = epoch.keys.as_ref()?;
            Some(Own {
                keys,
                address: epoch.subnet.addresses().get(keys.index())?,
                subnet: &epoch.subnet,
            })
        });
        let failure = || {
            Failure::user("there are no keys of this node").hint(format!(
                "give --keys, or put {EPOCHS_DIRECTORY}/<number>/ with {SUBNET_FILE} and node-<index>.json, as ceremony finish made \
                 it, into its directory"
            ))
        };
        Ok(found.into_iter().next().ok_or_else(failure)?)
    }
}

/// What a node has for an epoch.
pub(crate) struct Own<'keyring> {
    /// Its secrets.
    pub(crate) keys: &'keyring NodeKeys,
    /// Where it listens for its peers.
    pub(crate) address: &'keyring PeerAddress,
    /// The public part.
    pub(crate) subnet: &'keyring Subnet,
}

/// The folder of later epochs, and what was read of it.
#[derive(Debug)]
pub(crate) struct Epochs {
    folder: PathBuf,
    /// What tells this node among others, if it is known.
    own: Option<[u8; 32]>,
    /// What was taken, by when its file was written.
    taken: BTreeMap<u64, SystemTime>,
}

impl Epochs {
    /// Those of the node that keeps its state in a directory and answers queries with a key.
    pub(crate) fn new(directory: &Path, own: Option<[u8; 32]>) -> Self {
        Self {
            folder: directory.join(EPOCHS_DIRECTORY),
            own,
            taken: BTreeMap::new(),
        }
    }

    /// The epochs that are there and were not noted as they are, by number, or what is wrong with them.
    pub(crate) fn look(&self) -> Vec<Result<Installed>> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        if self.folder.join(SUBNET_FILE).exists() {
            let folder = self.folder.display();
            let error = format!(
                "{folder} has key files itself: they belong into {folder}/<number>, the number of their epoch"
            );
            return vec![Err(Failure::user(error).into())];
        }
        let numbers: BTreeSet<u64> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        let new = numbers.into_iter().filter(|number| {
            let written = self.written(*number);
            written.is_none() || written.as_ref() != self.taken.get(number)
        });
        new.map(|number| self.epoch(number)).collect()
    }

    /// Passes over what was taken, as long as it stays as it is.
    pub(crate) fn note(&mut self, installed: &Installed) {
        let number = installed.subnet.epoch();
        if let Some(written) = self.written(number) {
            self.taken.insert(number, written);
        }
    }

    fn written(&self, number: u64) -> Option<SystemTime> {
        let file = self.folder.join(number.to_string()).join(SUBNET_FILE);
        fs::metadata(file).ok()?.modified().ok()
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
