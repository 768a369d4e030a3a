//! Lets the events of a plan happen and judges the end.
use crate::{
    Report,
    checks::{Agreement, Certificates, Once, Violations},
    client::{Client, Replicas, Surroundings},
    machine::{Machine, Seen, SkewedClock, lock},
    panics,
    plan::{Event, Fault, Plan},
    random::Random,
    register,
};
use ic_transport_types::QueryResponse;
use lockstep_subnet::{
    consensus::simulation::{SimulatedLink, Twin, World},
    replica::{Clock as _, Replica},
    state::Genesis,
    tree::paths::Scope,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    sync::{Arc, Mutex},
    time::Duration,
};

/// How often clients and machines are looked after.
const TICK: Duration = Duration::from_millis(25);
/// How long the canister may take to be there.
const DEPLOYMENT_MAX: Duration = Duration::from_secs(60);
/// How long it may take after healing until all is well.
const HEALING_MAX: Duration = Duration::from_secs(180);
/// Heights that all must certify after healing.
const NEW_HEIGHTS: u64 = 10;
/// How long a machine whose process ended takes to start again.
const RESTART: Duration = Duration::from_millis(500);
/// Checkpoints are as close as a simulation is short.
const CHECKPOINT_INTERVAL: NonZeroU64 = NonZeroU64::new(16).unwrap();
/// A clock that is wrong is ahead by this.
const AHEAD_MS: i64 = 3_600_000;
/// Of a hundred sectors that were not synced, so many are written all the same when the power goes.
const SURVIVING_PERCENT: usize = 50;

/// What is to happen later because of an event.
#[derive(Debug)]
enum Later {
    Restart(usize),
    Reconnect,
    StorageWorks,
    Wipe(usize),
}

struct Scenario<'plan> {
    plan: &'plan Plan,
    world: World,
    clock: SkewedClock,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    seen: Arc<Seen>,
    once: Once,
    safety: Violations,
    random: Random,
    /// What is to happen, by when and in the order in which it was set.
    later: BTreeMap<(u64, u64), Later>,
    scheduled: u64,
    sides: Option<Vec<bool>>,
    /// Who is not heard by whom.
    cuts: BTreeSet<(usize, usize)>,
    link: SimulatedLink,
    /// Panics and failures of nodes that are accounted for.
    panics: u64,
    failures: u64,
    /// Which twins a node is in touch with: the same of every pair, who work together.
    twin_sides: Vec<Twin>,
}

pub(crate) async fn run(world: World, plan: &Plan) -> Report {
    let mut scenario = Scenario::new(world, plan);
    let mut liveness = Vec::new();
    let mut healing = Duration::ZERO;
    match scenario.begin().await {
        Ok(()) => {
            scenario.let_happen().await;
            let healed_ns = scenario.heal().await;
            let settled = scenario.settle().await;
            healing = Duration::from_nanos(scenario.clock.now_ns() - healed_ns);
            match settled {
                Ok(()) => scenario.check_lists(),
                Err(error) => liveness.push(error),
            }
        }
        Err(error) => liveness.push(error),
    }
    scenario.report(liveness, healing)
}

/// The number of the epoch that a replica is in.
fn epoch(replica: &Replica) -> u64 {
    replica.executed().state.epoch()
}

impl<'plan> Scenario<'plan> {
    fn new(world: World, plan: &'plan Plan) -> Self {
        let keys = world.genesis();
        let node_keys: Vec<[u8; 32]> = keys
            .nodes
            .iter()
            .map(|node| {
                ic_ed25519::PrivateKey::deserialize_raw_32(&node.query_signing_seed())
                    .public_key()
                    .serialize_raw()
            })
            .collect();
        let public_key = keys.subnet.public_key();
        let genesis = Genesis::new(&public_key, &node_keys, BTreeMap::new());
        let mut genesis = genesis.expect("the keys are valid");
        genesis.checkpoint_interval = CHECKPOINT_INTERVAL;
        let seen = Arc::new(Seen {
            agreement: Mutex::new(Agreement::default()),
            certificates: Mutex::new(Certificates::new(public_key)),
        });
        let machines = (0..plan.nodes)
            .map(|node| {
                let ahead_ms = match plan.fault(node) {
                    Some(Fault::Ahead) => AHEAD_MS,
                    _ => plan.skew_ms[node],
                };
                let clock = SkewedClock::new(world.clock(), ahead_ms);
                Machine::new(node, clock, genesis.clone(), Arc::clone(&seen))
            })
            .collect();
        let mut random = Random::new(plan.seed, 1);
        let twin_sides = (0..plan.nodes).map(|node| match plan.fault(node) {
            None => *random.choose(&[Twin::First, Twin::Second]),
            Some(_) => Twin::Both,
        });
        let twin_sides = twin_sides.collect();
        Self {
            plan,
            twin_sides,
            clock: SkewedClock::new(world.clock(), 0),
            machines,
            // The last one makes what comes in bursts.
            clients: (0..=plan.clients as u64)
                .map(|number| Client::new(plan.seed, number))
                .collect(),
            seen,
            once: Once::default(),
            safety: Violations::default(),
            random,
            later: BTreeMap::new(),
            scheduled: 0,
            panics: panics::count(),
            failures: 0,
            sides: None,
            cuts: BTreeSet::new(),
            link: plan.link,
            world,
        }
    }

    /// Starts everybody and deploys the canister.
    async fn begin(&mut self) -> Result<(), String> {
        for node in 0..self.plan.nodes {
            match self.plan.fault(node) {
                None => self.start(node).await,
                Some(fault) => self.start_faulty(node, fault).await,
            }
        }
        let key = ic_ed25519::PrivateKey::deserialize_raw_32(&[7; 32]);
        let now_ns = self.clock.now_ns();
        let calls = register::deployment(&key, now_ns + DEPLOYMENT_MAX.as_nanos() as u64);
        for call in calls {
            let bytes = call.encode_bytes().into();
            let replicas = self.replicas();
            let (_, first) = replicas.first().ok_or("no honest replica starts")?;
            let id = first
                .submit(Scope::Canister(register::id()), &bytes)
                .map_err(|error| format!("the canister is refused: {error:?}"))?;
            while !is_answered(first, &id) {
                if self.clock.now_ns() > now_ns + DEPLOYMENT_MAX.as_nanos() as u64 {
                    return Err("the canister is not deployed in time".to_owned());
                }
                self.clock.sleep(TICK).await;
            }
        }
        Ok(())
    }

    async fn start_faulty(&mut self, node: usize, fault: Fault) {
        let random = &mut self.random;
        let machine = &mut self.machines[node];
        let started = match fault {
            Fault::Silent => Ok(()),
            Fault::Noise => {
                self.world
                    .start_noise(node, Duration::from_millis(200))
                    .await;
                Ok(())
            }
            Fault::Twins => {
                let started = machine.start_twins(&mut self.world, &self.twin_sides).await;
                started.map_err(|error| format!("{error:?}"))
            }
            Fault::Liar => machine.start_faulty(&mut self.world, true).await,
            Fault::Ahead => machine.start_faulty(&mut self.world, false).await,
            Fault::Amnesiac => {
                let after = random.duration(Duration::from_secs(2), self.plan.time);
                self.schedule(after, Later::Wipe(node));
                self.machines[node]
                    .start_faulty(&mut self.world, false)
                    .await
            }
        };
        if let Err(error) = started {
            self.safety
                .add(format!("a faulty node does not start at first: {error}"));
        }
    }

    /// Starts an honest node. One that fails while it starts, because a fault is not over, is started again later.
    async fn start(&mut self, node: usize) {
        if self.machines[node].start(&mut self.world).await.is_err() {
            let random = &mut self.random;
            self.machines[node]
                .stop(&mut self.world, || random.percent(SURVIVING_PERCENT))
                .await;
            self.schedule(RESTART, Later::Restart(node));
        }
    }

    /// The time of the plan.
    async fn let_happen(&mut self) {
        let begun_ns = self.clock.now_ns();
        let mut events = self.plan.events.iter().peekable();
        loop {
            let now = Duration::from_nanos(self.clock.now_ns() - begun_ns);
            while let Some((_, event)) = events.next_if(|(at, _)| *at <= now) {
                self.happen(event).await;
            }
            if now >= self.plan.time {
                return;
            }
            self.tick(true).await;
        }
    }

    async fn happen(&mut self, event: &Event) {
        match event {
            Event::Crash {
                node,
                restart_after,
            } => self.crash(*node, *restart_after).await,
            Event::DiskFault { node, after, fault } => {
                self.machines[*node].disk.fail_at(after + 1, *fault);
            }
            Event::BitFlip {
                node,
                bit,
                restart_after,
            } => {
                self.crash(*node, *restart_after).await;
                self.machines[*node].disk.flip_bit(*bit);
            }
            Event::ClockJump { node, ahead_ms } => self.machines[*node].set_clock(*ahead_ms),
            Event::Backup { node } => {
                let machine = &mut self.machines[*node];
                machine.backup = Some(machine.disk.copy());
            }
            Event::Restore {
                node,
                restart_after,
            } => {
                self.crash(*node, *restart_after).await;
                let machine = &mut self.machines[*node];
                // Without a copy the state is made anew.
                machine.disk = machine.backup.take().unwrap_or_default();
            }
            Event::Wipe {
                node,
                restart_after,
            } => {
                self.crash(*node, *restart_after).await;
                self.machines[*node].wipe();
            }
            Event::Upset { node } => self.machines[*node].upset(),
            Event::StorageFaults { percent, time } => {
                self.world.fail_storage(*percent);
                self.schedule(*time, Later::StorageWorks);
            }
            Event::Partition { sides, time } => {
                self.sides = Some(sides.clone());
                self.set_links().await;
                self.schedule(*time, Later::Reconnect);
            }
            Event::Cut { from, to, time } => {
                self.cuts.insert((*from, *to));
                self.set_links().await;
                self.schedule(*time, Later::Reconnect);
            }
            Event::BadLinks { link, time } => {
                self.link = *link;
                self.set_links().await;
                self.schedule(*time, Later::Reconnect);
            }
            Event::Reshare => self.world.install_next(),
            Event::Burst { calls } => self.burst(*calls),
        }
    }

    async fn crash(&mut self, node: usize, restart_after: Duration) {
        let random = &mut self.random;
        let machine = &mut self.machines[node];
        if machine.replica.is_some() {
            machine
                .stop(&mut self.world, || random.percent(SURVIVING_PERCENT))
                .await;
            self.schedule(restart_after, Later::Restart(node));
        }
    }

    fn schedule(&mut self, after: Duration, what: Later) {
        let at_ns = self.clock.now_ns() + after.as_nanos() as u64;
        self.later.insert((at_ns, self.scheduled), what);
        self.scheduled += 1;
    }

    async fn set_links(&self) {
        let is_cut = |from: usize, to: usize| {
            let sides = self.sides.as_ref();
            sides.is_some_and(|sides| sides[from] != sides[to]) || self.cuts.contains(&(from, to))
        };
        for from in 0..self.plan.nodes {
            for to in (0..self.plan.nodes).filter(|to| *to != from) {
                let link = (!is_cut(from, to)).then_some(self.link);
                self.world.set_link(from, to, link).await;
            }
        }
    }

    /// Waits a moment, then looks after machines and clients.
    async fn tick(&mut self, may_begin: bool) {
        self.clock.sleep(TICK).await;
        let now_ns = self.clock.now_ns();
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now_ns
        {
            let what = entry.remove();
            self.do_later(what).await;
        }
        for node in 0..self.plan.nodes {
            if self.machines[node].replica.is_some() && self.world.has_failed(node) {
                self.failures += 1;
                self.crash(node, RESTART).await;
            }
        }
        self.step_clients(may_begin);
    }

    async fn do_later(&mut self, what: Later) {
        match what {
            Later::Restart(node) => match self.plan.fault(node) {
                None => self.start(node).await,
                Some(_) => {
                    // What becomes of faulty nodes is their affair.
                    let _ = self.machines[node]
                        .start_faulty(&mut self.world, false)
                        .await;
                }
            },
            Later::Reconnect => {
                self.sides = None;
                self.cuts.clear();
                self.link = self.plan.link;
                self.set_links().await;
            }
            Later::StorageWorks => {
                self.world.fail_storage(0);
                self.restart_if_unsure().await;
            }
            Later::Wipe(node) => {
                self.crash(node, RESTART).await;
                self.machines[node].wipe();
            }
        }
    }

    /// After faults of consensus' storage: if there was a panic that no failed node explains, some node is not whole any
    /// more, which its process would not have outlived. All are started again, as it is not known which.
    async fn restart_if_unsure(&mut self) {
        let panics = panics::count();
        // What fails panics, and so does the node for it.
        if panics > self.panics + 2 * self.failures {
            for node in 0..self.plan.nodes {
                if self.plan.fault(node).is_none() {
                    self.crash(node, RESTART).await;
                }
            }
        }
        (self.panics, self.failures) = (panics, 0);
    }

    fn step_clients(&mut self, may_begin: bool) {
        let replicas = self.replicas();
        let mut surroundings = Surroundings {
            now_ns: self.clock.now_ns(),
            replicas: &replicas,
            certificates: &self.seen.certificates,
            once: &mut self.once,
        };
        let (_, clients) = self.clients.split_last_mut().expect("one makes bursts");
        for client in clients {
            client.step(&mut surroundings, may_begin);
        }
    }

    fn burst(&mut self, calls: usize) {
        let replicas = self.replicas();
        let mut surroundings = Surroundings {
            now_ns: self.clock.now_ns(),
            replicas: &replicas,
            certificates: &self.seen.certificates,
            once: &mut self.once,
        };
        let client = self.clients.last_mut().expect("one makes bursts");
        client.burst(&mut surroundings, calls);
    }

    /// The honest replicas that run.
    fn replicas(&self) -> Replicas {
        let honest = self
            .machines
            .iter()
            .filter(|machine| self.plan.fault(machine.node).is_none());
        honest
            .filter_map(|machine| Some((machine.node, machine.replica.clone()?)))
            .collect()
    }

    /// Ends all faults but those of faulty nodes; returns when.
    async fn heal(&mut self) -> u64 {
        self.world.fail_storage(0);
        self.restart_if_unsure().await;
        self.sides = None;
        self.cuts.clear();
        self.link = SimulatedLink {
            loss_percent: 0,
            ..self.plan.link
        };
        self.set_links().await;
        let waiting: BTreeSet<usize> = self
            .later
            .values()
            .filter_map(|what| match what {
                Later::Restart(node) => Some(*node),
                _ => None,
            })
            .collect();
        self.later.clear();
        for node in waiting {
            self.do_later(Later::Restart(node)).await;
        }
        self.clock.now_ns()
    }

    /// Waits until all honest replicas certify new heights, all calls are answered, and all epochs that were wanted have
    /// begun.
    async fn settle(&mut self) -> Result<(), String> {
        let until_ns = self.clock.now_ns() + HEALING_MAX.as_nanos() as u64;
        let honest = self.plan.nodes - self.plan.faulty.len();
        let mut goal = lock(&self.seen.agreement).height() + NEW_HEIGHTS;
        let mut are_idle = false;
        loop {
            self.tick(false).await;
            let replicas = self.replicas();
            if !are_idle && self.clients.iter().all(Client::is_idle) {
                // What the last of them was told is in what all certify then.
                are_idle = true;
                goal = goal.max(lock(&self.seen.agreement).height() + 1);
            }
            let epochs = self.plan.epochs() as u64;
            let is_there = |(_, replica): &(usize, Arc<Replica>)| {
                replica.certified_height() >= goal && epoch(replica) == epochs
            };
            if are_idle && replicas.len() == honest && replicas.iter().all(is_there) {
                return Ok(());
            }
            if self.clock.now_ns() > until_ns {
                let heights: Vec<_> = replicas
                    .iter()
                    .map(|(node, replica)| {
                        let executed = replica.executed().state.height;
                        (*node, executed, replica.certified_height(), epoch(replica))
                    })
                    .collect();
                return Err(format!(
                    "not all is well {HEALING_MAX:?} after healing: calls answered: {are_idle}; wanted height {goal}, \
                     nodes with executed and certified heights and epochs: {heights:?}"
                ));
            }
        }
    }

    /// Reads the list from every honest replica, by a query.
    fn check_lists(&mut self) {
        for (node, replica) in self.replicas() {
            if let Some(reason) = replica.halted() {
                self.safety.add(format!("node {node} has halted: {reason}"));
            }
            match list(&replica, self.clock.now_ns()) {
                Ok((noted, list)) => {
                    self.once.check(node, &list);
                    if noted > list.len() as u64 {
                        self.safety
                            .add(format!("node {node} notes {noted} of {} calls", list.len()));
                    }
                }
                Err(error) => self
                    .safety
                    .add(format!("node {node} does not tell its list: {error}")),
            }
        }
    }

    fn report(self, liveness: Vec<String>, healing: Duration) -> Report {
        let agreement = lock(&self.seen.agreement).clone();
        let certificates = lock(&self.seen.certificates).clone();
        let mut safety = self.safety.all().to_vec();
        for violations in [
            &agreement.violations,
            &certificates.violations,
            &self.once.violations,
        ] {
            safety.extend_from_slice(violations.all());
        }
        let mut incidents = crate::Incidents::default();
        for machine in &self.machines {
            if self.plan.fault(machine.node).is_none() {
                let own = machine.incidents();
                incidents.stops += own.stops;
                incidents.damaged += own.damaged;
                incidents.restored += own.restored;
            }
        }
        let replicas = self.replicas();
        Report {
            safety,
            liveness,
            height: agreement.height(),
            epoch: replicas
                .iter()
                .map(|(_, replica)| epoch(replica))
                .max()
                .unwrap_or(0),
            answers: self.once.answers(),
            certificates: certificates.count,
            incidents,
            divergences: self
                .machines
                .iter()
                .filter_map(Machine::divergence)
                .collect(),
            time: Duration::from_nanos(self.world.clock().now_ns()),
            healing,
            history: (
                self.world.history_checksum(),
                agreement.root(agreement.height()),
            ),
        }
    }
}

fn is_answered(replica: &Replica, id: &lockstep_subnet::ingress::RequestId) -> bool {
    replica.certified().is_some_and(|certified| {
        let answer = certified.executed.state.history.get(id);
        answer.is_some_and(|answer| answer.is_final())
    })
}

/// How often the canister heard itself, and its list.
fn list(replica: &Replica, now_ns: u64) -> Result<(u64, Vec<u64>), String> {
    let query = register::list_query(now_ns + 60_000_000_000);
    let bytes = replica
        .query(Scope::Canister(register::id()), &query.encode_bytes())
        .map_err(|error| format!("{error:?}"))?;
    let response = serde_cbor::from_slice(&bytes).map_err(|error| error.to_string())?;
    let reply = match response {
        QueryResponse::Replied { reply, .. } => reply.arg,
        QueryResponse::Rejected { reject, .. } => return Err(format!("{reject:?}")),
    };
    let (numbers, rest) = reply.as_chunks::<8>();
    let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
    match (numbers.next(), rest) {
        (Some(noted), []) => Ok((noted, numbers.collect())),
        _ => Err(format!("{} bytes", reply.len())),
    }
}
