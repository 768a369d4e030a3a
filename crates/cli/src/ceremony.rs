//! `lockstep ceremony`: the operators of a subnet make its keys together, and nobody has the whole of them; and make
//! shares of the same key anew when nodes join and leave.
//!
//! # Design
//! A step reads what lies in the ceremony's directory and writes there what others need; operators carry
//! the files. What a step makes is the same if it is repeated.

use crate::{
    error::{Failure, chain},
    network::{self, EPOCHS_DIRECTORY},
    resident,
};
use anyhow::Result;
use lockstep_subnet::consensus::genesis::{
    GenesisError, NodeKeys, PeerAddress, SUBNET_FILE, Subnet,
    ceremony::{
        self, Acknowledgements, Candidate, CeremonyError, Dealing, Entry, Log, Plan, Roles,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const SECRET_FILE: &str = "secret.json";
const PLAN_FILE: &str = "plan.json";
/// Has the subnet.json of the epoch before.
const BEFORE_DIRECTORY: &str = "before";
/// Of an identity in the name of an entry's file.
const NAME_DIGITS: usize = 8;

/// Makes a subnet's keys together with the operators of the other nodes, or new ones when nodes come and go.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    step: Step,
    /// Where the ceremony's files lie: one's own, and what others sent.
    #[arg(long, default_value = "ceremony", global = true)]
    directory: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Step {
    /// 1: make this node's secrets, and its entry, which all others need.
    Join {
        /// Where this node listens for its peers.
        #[arg(long, value_name = "HOST:PORT")]
        address: PeerAddress,
    },
    /// 1, for a node that the subnet has and that stays: make its entry for the next epoch.
    Stay {
        #[command(flatten)]
        node: Node,
        /// Where this node listens for its peers: where it has until now, when not given.
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<PeerAddress>,
    },
    /// 1, for a node that the subnet has and that leaves: make its entry for the next epoch.
    Leave {
        #[command(flatten)]
        node: Node,
    },
    /// 2: with the entries of all, make a dealing for each node, which that node alone may get.
    Deal {
        /// Models that canisters of this subnet may use, by file, alias or digest; the same for all.
        #[arg(long = "model")]
        models: Vec<String>,
        /// When nodes join and leave: the subnet's subnet.json as it is now.
        #[arg(long, value_name = "FILE", conflicts_with = "models")]
        before: Option<PathBuf>,
        /// The number of the epoch that is to begin: the one after that of `--before` when not given. Upgrades of the
        /// protocol count as epochs, and have no files.
        #[arg(long, requires = "before", value_parser = clap::value_parser!(u64).range(1..))]
        epoch: Option<u64>,
    },
    /// 3: with the dealings of all for this node, make its acknowledgement, which all others need.
    Acknowledge,
    /// 4: with the acknowledgements of all, make this node's log, which all others need.
    Conclude,
    /// 5: with the logs of all, make subnet.json, which is the same for all, and this node's keys.
    Finish,
}

/// A node of the subnet as it is now.
#[derive(Debug, clap::Args)]
struct Node {
    /// The node's secret file of the subnet's last epoch.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// The subnet.json that belongs to it.
    #[arg(long, value_name = "FILE")]
    before: PathBuf,
}

/// What all agreed on before they dealt.
#[derive(Serialize, Deserialize)]
struct PlanFile {
    entries: Vec<Entry>,
    models: BTreeMap<String, String>,
    /// 0: a new subnet.
    epoch: u64,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let directory = &arguments.directory;
    match &arguments.step {
        Step::Join { address } => enter(directory, || Ok(Candidate::generate(address.clone()))),
        Step::Stay { node, address } => enter(directory, || {
            let (keys, before) = node.read()?;
            let address = address.clone();
            let address = address.or_else(|| before.addresses().get(keys.index()).cloned());
            let address =
                address.ok_or_else(|| Failure::user("where will it be? say --address"))?;
            Ok(Candidate::of(&keys, Some(address)))
        }),
        Step::Leave { node } => enter(directory, || Ok(Candidate::of(&node.read()?.0, None))),
        Step::Deal {
            models,
            before,
            epoch,
        } => deal(directory, models, before.as_deref(), *epoch),
        Step::Acknowledge => acknowledge(directory),
        Step::Conclude => conclude(directory),
        Step::Finish => finish(directory),
    }
}

impl Node {
    fn read(&self) -> Result<(NodeKeys, Subnet)> {
        let before = read_subnet(&self.before)?;
        let keys = NodeKeys::read_file(&self.keys, &before);
        Ok((keys.map_err(|error| Failure::user(chain(error)))?, before))
    }
}

fn read_subnet(path: &Path) -> Result<Subnet> {
    let subnet = Subnet::read_file(path);
    Ok(subnet.map_err(|error| Failure::user(chain(error)))?)
}

fn enter(directory: &Path, candidate: impl FnOnce() -> Result<Candidate>) -> Result<()> {
    let secret = directory.join(SECRET_FILE);
    if secret.exists() {
        return Err(Failure::user(format!(
            "this node takes part already: {}",
            secret.display()
        ))
        .hint("for another ceremony, give another --directory")
        .into());
    }
    if directory.join(PLAN_FILE).exists() {
        return Err(Failure::user(format!(
            "{} has the files of another ceremony",
            directory.display()
        ))
        .hint("give another --directory")
        .into());
    }
    fs::create_dir_all(directory).map_err(|error| {
        Failure::environment(format!("cannot create {}: {error}", directory.display()))
    })?;
    let candidate = candidate()?;
    candidate.write(&secret).map_err(unwritten)?;
    let entry = candidate.entry();
    let path = directory.join(format!("entry-{}.json", &entry.identity[..NAME_DIGITS]));
    write(&path, &entry, false)?;
    eprintln!(
        "give it to all others; go on with `deal` when theirs are in {}",
        directory.display()
    );
    Ok(())
}

fn deal(
    directory: &Path,
    names: &[String],
    before: Option<&Path>,
    epoch: Option<u64>,
) -> Result<()> {
    let candidate = candidate(directory)?;
    if candidate.has_share() && before.is_none() {
        return Err(
            Failure::user("this node has a share of a subnet's key: of which subnet?")
                .hint("say --before subnet.json")
                .into(),
        );
    }
    let mut number = 0;
    if let Some(path) = before {
        let before = read_subnet(path)?;
        number = epoch.unwrap_or(before.epoch() + 1);
        let folder = directory.join(BEFORE_DIRECTORY);
        fs::create_dir_all(&folder).map_err(|error| {
            Failure::environment(format!("cannot create {}: {error}", folder.display()))
        })?;
        before.write(&folder).map_err(unwritten)?;
    }
    let models = resident::open_named(names)?;
    let models = models
        .iter()
        .map(|(name, model)| (name.clone(), model.digest().to_string()));
    let file = PlanFile {
        entries: read_all(directory, "entry-", ".json")?,
        models: models.collect(),
        epoch: number,
    };
    let plan = plan_of(directory, &file)?;
    let Roles { dealer, player } = plan.roles(&candidate).map_err(refused)?;
    match number {
        0 => println!("a new subnet"),
        number => println!("epoch {number}"),
    }
    println!("plan {}", plan.digest());
    let (count, quorum) = (plan.addresses().len(), plan.quorum());
    println!("{quorum} of {count} nodes can sign");
    for (node, address) in plan.addresses().iter().enumerate() {
        let mark = if Some(node) == player {
            " (this one)"
        } else {
            ""
        };
        println!("node {node} {address}{mark}");
    }
    write(&directory.join(PLAN_FILE), &file, false)?;
    let waits = player.map_or_else(
        || "go on with `conclude` when the acknowledgements of all are here".to_owned(),
        |player| format!("go on with `acknowledge` when the dealings for node {player} are here"),
    );
    let Some(dealer) = dealer else {
        eprintln!("compare the plan with all others by voice; {waits}");
        return Ok(());
    };
    for dealing in plan.deal(&candidate).map_err(refused)? {
        let name = format!("dealing-{dealer}-for-{}.json", dealing.receiver());
        write(&directory.join(name), &dealing, true)?;
    }
    eprintln!(
        "compare the plan with all others by voice; then give each node its dealing, so that nobody else can \
         read it, and {waits}"
    );
    Ok(())
}

fn acknowledge(directory: &Path) -> Result<()> {
    let (candidate, plan) = (candidate(directory)?, plan(directory)?);
    let Roles { dealer, player } = plan.roles(&candidate).map_err(refused)?;
    let index = player.ok_or(CeremonyError::Leaver).map_err(refused)?;
    let acknowledgement = plan
        .acknowledge(&candidate, &dealings(directory, index)?)
        .map_err(refused)?;
    let path = directory.join(format!("acknowledgement-{index}.json"));
    if let Ok(before) = ceremony::read::<Acknowledgements>(&path)
        && before != acknowledgement
    {
        return Err(Failure::user(format!(
            "this node has acknowledged other dealings before: {}",
            path.display()
        ))
        .hint("a dealer has sent two; begin anew with another --directory, and tell all")
        .into());
    }
    write(&path, &acknowledgement, false)?;
    match dealer {
        Some(_) => eprintln!("give it to all others; go on with `conclude` when theirs are here"),
        None => {
            eprintln!("give it to all others; go on with `finish` when the logs of all are here")
        }
    }
    Ok(())
}

fn conclude(directory: &Path) -> Result<()> {
    let (candidate, plan) = (candidate(directory)?, plan(directory)?);
    let dealer = plan.roles(&candidate).map_err(refused)?.dealer;
    let index = dealer.ok_or(CeremonyError::NoDealer).map_err(refused)?;
    let acknowledgements: Vec<Acknowledgements> = read_all(directory, "acknowledgement-", ".json")?;
    let log = plan
        .conclude(&candidate, &acknowledgements)
        .map_err(refused)?;
    write(&directory.join(format!("log-{index}.json")), &log, false)?;
    eprintln!("give it to all others; go on with `finish` when theirs are here");
    Ok(())
}

fn finish(directory: &Path) -> Result<()> {
    let (candidate, plan) = (candidate(directory)?, plan(directory)?);
    let player = plan.roles(&candidate).map_err(refused)?.player;
    let logs: Vec<Log> = read_all(directory, "log-", ".json")?;
    let dealings = match player {
        Some(player) => dealings(directory, player)?,
        None => Vec::new(),
    };
    let (subnet, keys) = plan.finish(&candidate, &dealings, &logs).map_err(refused)?;
    let epoch = plan.epoch();
    let folder = match epoch {
        0 => directory.to_owned(),
        _ => directory.join(EPOCHS_DIRECTORY).join(epoch.to_string()),
    };
    fs::create_dir_all(&folder).map_err(|error| {
        Failure::environment(format!("cannot create {}: {error}", folder.display()))
    })?;
    if let Some(keys) = &keys {
        keys.write(&folder).map_err(unwritten)?;
    }
    subnet.write(&folder).map_err(unwritten)?;
    if epoch > 0 {
        println!("epoch    {epoch}");
        println!("members  {}", hex::encode(subnet.digest()));
        eprintln!(
            "compare members with all others; then move {} into {EPOCHS_DIRECTORY}/ of the node's directory, and \
             delete everything else here",
            folder.display()
        );
        return Ok(());
    }
    let genesis = network::genesis(&subnet)?;
    println!("subnet   {}", genesis.subnet_id);
    println!("root key {}", hex::encode(&genesis.root_key));
    println!("genesis  {}", hex::encode(genesis.digest()));
    println!("members  {}", hex::encode(subnet.digest()));
    let index = keys.map_or(0, |keys| keys.index());
    eprintln!(
        "compare genesis and members with all others; then keep {SUBNET_FILE} and node-{index}.json, and delete {SECRET_FILE} \
         and the dealings"
    );
    Ok(())
}

fn candidate(directory: &Path) -> Result<Candidate> {
    let candidate = Candidate::read(&directory.join(SECRET_FILE));
    Ok(candidate.map_err(|error| {
        Failure::user(chain(error))
            .hint("begin with `join`, or with `stay` or `leave` if the subnet has this node")
    })?)
}

fn plan(directory: &Path) -> Result<Plan> {
    let file = ceremony::read(&directory.join(PLAN_FILE));
    let file: PlanFile =
        file.map_err(|error| Failure::user(chain(error)).hint("`deal` comes before this step"))?;
    plan_of(directory, &file)
}

fn plan_of(directory: &Path, file: &PlanFile) -> Result<Plan> {
    if file.epoch > 0 {
        let before = read_subnet(&directory.join(BEFORE_DIRECTORY).join(SUBNET_FILE))?;
        return Ok(Plan::next(&before, file.epoch, file.entries.clone()).map_err(refused)?);
    }
    let mut models = BTreeMap::new();
    for (name, text) in &file.models {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)
            .map_err(|error| Failure::user(format!("the digest of model {name}: {error}")))?;
        models.insert(name.clone(), digest);
    }
    Ok(Plan::new(file.entries.clone(), models).map_err(refused)?)
}

fn dealings(directory: &Path, index: usize) -> Result<Vec<Dealing>> {
    let paths = named(directory, "dealing-", &format!("-for-{index}.json"))?;
    let read = |path: &PathBuf| {
        let hint = "only its owner may read it: chmod 600";
        Ok(ceremony::read_secret(path).map_err(|error| Failure::user(chain(error)).hint(hint))?)
    };
    paths.iter().map(read).collect()
}

/// What the files of the directory hold whose names begin and end so.
fn read_all<T: DeserializeOwned>(directory: &Path, begin: &str, end: &str) -> Result<Vec<T>> {
    let read =
        |path: &PathBuf| Ok(ceremony::read(path).map_err(|error| Failure::user(chain(error)))?);
    named(directory, begin, end)?.iter().map(read).collect()
}

/// Their paths, in order.
fn named(directory: &Path, begin: &str, end: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)
        .map_err(|error| Failure::user(format!("cannot read {}: {error}", directory.display())))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(begin) && name.ends_with(end)
    });
    paths.sort();
    Ok(paths)
}

fn write(path: &Path, content: &impl Serialize, is_secret: bool) -> Result<()> {
    ceremony::write(path, content, is_secret).map_err(unwritten)?;
    println!("{}", path.display());
    Ok(())
}

fn refused(error: CeremonyError) -> Failure {
    Failure::user(chain(error))
}

fn unwritten(error: GenesisError) -> Failure {
    Failure::environment(chain(error))
}
