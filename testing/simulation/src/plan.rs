//! What happens in a simulation: chosen by a seed, before it begins.
use crate::random::Random;
use lockstep_subnet::{consensus::simulation::SimulatedLink, replica::DiskFault};
use std::{fmt, time::Duration};

/// What is wrong with a node that is not honest. At most f of 3f + 1 are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It never runs.
    Silent,
    /// It sends random bytes on every channel.
    Noise,
    /// Two of it run with the same keys, each in touch with some of the peers: it votes, proposes and signs twice.
    Twins,
    /// It signs roots that its state does not have.
    Liar,
    /// Its clock is an hour ahead.
    Ahead,
    /// It loses everything that it stored, its votes included, and starts again.
    Amnesiac,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Silent,
        Self::Noise,
        Self::Twins,
        Self::Liar,
        Self::Ahead,
        Self::Amnesiac,
    ];
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node loses power.
    Crash {
        /// The node.
        node: usize,
        /// When it starts again.
        restart_after: Duration,
    },
    /// An operation on a node's state fails; the node ends and starts again.
    DiskFault {
        /// The node.
        node: usize,
        /// How many operations before it succeed.
        after: u64,
        /// How it fails.
        fault: DiskFault,
    },
    /// A node loses power, and a bit of its state is changed before it starts again.
    BitFlip {
        /// The node.
        node: usize,
        /// Which bit, modulo their number.
        bit: u64,
        /// When it starts again.
        restart_after: Duration,
    },
    /// A node's clock jumps, forwards or back.
    ClockJump {
        /// The node.
        node: usize,
        /// How many milliseconds it is ahead then.
        ahead_ms: i64,
    },
    /// A node's state is copied.
    Backup {
        /// The node.
        node: usize,
    },
    /// A node loses power and starts again with the last copy of its state.
    Restore {
        /// The node.
        node: usize,
        /// When it starts again.
        restart_after: Duration,
    },
    /// A node loses everything that it stored, and starts again.
    Wipe {
        /// The node.
        node: usize,
        /// When it starts again.
        restart_after: Duration,
    },
    /// The next height gives another state on a node than on the others.
    Upset {
        /// The node.
        node: usize,
    },
    /// Consensus' storage fails now and then, everywhere.
    StorageFaults {
        /// Failures in 100 operations.
        percent: u8,
        /// For so long.
        time: Duration,
    },
    /// The nodes are parted in two.
    Partition {
        /// On which side each is.
        sides: Vec<bool>,
        /// For so long.
        time: Duration,
    },
    /// A node does not hear another one; every other link works.
    Cut {
        /// Who is not heard.
        from: usize,
        /// Who does not hear.
        to: usize,
        /// For so long.
        time: Duration,
    },
    /// All links are worse.
    BadLinks {
        /// As bad as this.
        link: SimulatedLink,
        /// For so long.
        time: Duration,
    },
    /// The nodes share the subnet's key anew: another epoch begins.
    Reshare,
    /// Calls come all at once.
    Burst {
        /// So many.
        calls: usize,
    },
}

/// A simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it was chosen by; also orders what happens at once.
    pub seed: u64,
    /// The size of the subnet.
    pub nodes: usize,
    /// Which nodes are not honest.
    pub faulty: Vec<(usize, Fault)>,
    /// How many milliseconds each node's clock is ahead.
    pub skew_ms: Vec<i64>,
    /// The links, when nothing is wrong with them.
    pub link: SimulatedLink,
    /// Clients that make a call after the other.
    pub clients: usize,
    /// For so long there are faults.
    pub time: Duration,
    /// What happens, and when.
    pub events: Vec<(Duration, Event)>,
}

/// Clocks of honest nodes jump to no more than this ahead or behind: two differ by less than consensus bears.
const JUMP_MAX_MS: i64 = 4_500;
/// No fault lasts longer.
const FAULT_MAX: Duration = Duration::from_secs(6);

impl Plan {
    /// The plan of a seed: of ten, seven have four nodes, two seven and one thirteen.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed, 0);
        let nodes = match seed % 10 {
            3 | 7 => 7,
            9 => 13,
            _ => 4,
        };
        Self::choose(seed, nodes, &mut random)
    }

    /// The plan of a seed for a subnet of `nodes`.
    #[must_use]
    pub fn of_size(seed: u64, nodes: usize) -> Self {
        Self::choose(seed, nodes, &mut Random::new(seed, 0))
    }

    fn choose(seed: u64, nodes: usize, random: &mut Random) -> Self {
        let mut order: Vec<usize> = (0..nodes).collect();
        random.shuffle(&mut order);
        let tolerated = (nodes - 1) / 3;
        let count = random.below(tolerated + 1).max(random.below(tolerated + 1));
        let (faulty, honest) = order.split_at(count);
        let faulty = faulty
            .iter()
            .map(|node| (*node, *random.choose(&Fault::ALL)))
            .collect();
        let time = random.duration(Duration::from_secs(10), Duration::from_secs(25));
        let link = SimulatedLink {
            latency: random.duration(Duration::from_millis(5), Duration::from_millis(60)),
            jitter: random.duration(Duration::ZERO, Duration::from_millis(15)),
            loss_percent: if random.percent(50) { 0 } else { 3 },
        };
        let mut events: Vec<_> = (0..random.below(12))
            .map(|_| {
                let at = random.duration(Duration::from_secs(1), time);
                (at, Event::choose(nodes, honest, random))
            })
            .collect();
        events.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            nodes,
            faulty,
            skew_ms: (0..nodes)
                .map(|_| random.below(4_000) as i64 - 2_000)
                .collect(),
            link,
            clients: 1 + random.below(5),
            time,
            events,
        }
    }

    /// How many more epochs there are.
    #[must_use]
    pub fn epochs(&self) -> usize {
        let events = self.events.iter();
        events.filter(|(_, event)| *event == Event::Reshare).count()
    }

    /// What is wrong with a node; `None`: it is honest.
    #[must_use]
    pub fn fault(&self, node: usize) -> Option<Fault> {
        let found = self.faulty.iter().find(|(faulty, _)| *faulty == node);
        found.map(|(_, fault)| *fault)
    }
}

impl Event {
    fn choose(nodes: usize, honest: &[usize], random: &mut Random) -> Self {
        let node = *random.choose(honest);
        let short = Duration::from_millis(50);
        let restart_after = random.duration(short, FAULT_MAX);
        match random.below(24) {
            0..5 => Self::Crash {
                node,
                restart_after,
            },
            5..8 => Self::DiskFault {
                node,
                after: random.below(200) as u64,
                fault: *random.choose(&[DiskFault::Refused, DiskFault::Short]),
            },
            8 | 9 => Self::BitFlip {
                node,
                bit: random.number(),
                restart_after,
            },
            10 => Self::Backup { node },
            11 => Self::Restore {
                node,
                restart_after,
            },
            12 => Self::StorageFaults {
                percent: 1 + random.below(3) as u8,
                time: random.duration(short, Duration::from_secs(2)),
            },
            13 => Self::Cut {
                from: random.below(nodes),
                to: node,
                time: random.duration(short, FAULT_MAX),
            },
            14..16 => Self::Partition {
                sides: (0..nodes).map(|_| random.percent(50)).collect(),
                time: random.duration(short, FAULT_MAX),
            },
            16..18 => Self::BadLinks {
                link: SimulatedLink {
                    latency: random.duration(short, Duration::from_millis(400)),
                    jitter: random.duration(Duration::ZERO, Duration::from_millis(100)),
                    loss_percent: random.below(40) as u8,
                },
                time: random.duration(short, FAULT_MAX),
            },
            20 | 21 => Self::ClockJump {
                node,
                ahead_ms: random.below(2 * JUMP_MAX_MS as usize) as i64 - JUMP_MAX_MS,
            },
            22 | 23 => Self::Reshare,
            _ => Self::Burst {
                calls: 50 + random.below(150),
            },
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "seed {}: {} nodes", self.seed, self.nodes)?;
        for (node, fault) in &self.faulty {
            write!(formatter, ", {node} {fault:?}")?;
        }
        write!(
            formatter,
            "; links {:?}; {} clients; {:?}",
            self.link, self.clients, self.time
        )?;
        for (at, event) in &self.events {
            write!(formatter, "\n  {at:?} {event:?}")?;
        }
        Ok(())
    }
}
