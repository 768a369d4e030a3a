//! Replicas in processes of their own, and links between them that take time.
//!
//! # Design
//! The genesis names a port of this program for each replica. Whoever connects there is connected to the replica, and
//! every byte, in either direction, is passed on a fixed time after it came. A message between two replicas passes one
//! such link, so the delay is that of one way. Links have no loss and no bound on bytes a second.
use crate::process::{Process, Subnet, address, root_key};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as Listener},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Bytes that are passed on at once.
const PIECE_BYTES: usize = 64 << 10;
/// How many wait in a link, so that a replica that does not read stops whoever writes.
const PIECES_MAX: usize = 4_096;

/// Replicas on this machine, a process each.
#[derive(Debug)]
pub struct Nodes {
    program: PathBuf,
    directory: PathBuf,
    /// Where each listens for its peers.
    listen: Vec<SocketAddr>,
    /// Where its gateway is.
    http: Vec<SocketAddr>,
    bytes: Arc<AtomicU64>,
}

impl Nodes {
    /// Makes the keys of `count` replicas and the links to them, in a directory. With `delay` nothing, replicas are
    /// connected to each other.
    ///
    /// # Errors
    /// The keys are not made, or there are no ports.
    pub async fn prepare(
        program: &Path,
        directory: &Path,
        count: usize,
        delay: Option<Duration>,
    ) -> Result<Self> {
        let bytes = Arc::new(AtomicU64::new(0));
        let mut ports = free_ports();
        let listen: Vec<SocketAddr> = ports.by_ref().take(count).collect();
        let http: Vec<SocketAddr> = ports.take(count).collect();
        ensure!(http.len() == count, "there are no free ports");
        let mut known = listen.clone();
        if let Some(delay) = delay {
            for (known, to) in known.iter_mut().zip(&listen) {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                *known = listener.local_addr()?;
                tokio::spawn(link(listener, *to, delay, Arc::clone(&bytes)));
            }
        }
        let known: Vec<String> = known.iter().map(SocketAddr::to_string).collect();
        let output = Command::new(program)
            .args(["genesis", "--json", "--nodes", &known.join(",")])
            .arg("--directory")
            .arg(directory.join("genesis"))
            .output()
            .context("making the genesis")?;
        ensure!(
            output.status.success(),
            "no genesis: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            listen,
            http,
            bytes,
        })
    }

    /// Starts all and waits until they serve clients.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(&self) -> Result<Subnet> {
        let processes = (0..self.listen.len()).map(|index| self.launch(index));
        let mut processes: Vec<Process> = processes.collect::<Result<_>>()?;
        let ready = processes.iter_mut().map(Process::ready);
        let ready: Vec<Value> = ready.collect::<Result<_>>()?;
        let gateways = ready.iter().map(|ready| address(&ready["url"]));
        Ok(Subnet {
            gateways: gateways.collect::<Result<_>>()?,
            root_key: root_key(&ready[0])?,
            processes,
        })
    }

    /// Starts one, from what it left behind, and waits for nothing.
    ///
    /// # Errors
    /// It does not start.
    pub fn launch(&self, index: usize) -> Result<Process> {
        let path = |name: String| self.directory.join(name).to_string_lossy().into_owned();
        let arguments = [
            "node",
            "--json",
            "--threads",
            "1",
            "--http",
            &self.http[index].to_string(),
            "--listen",
            &self.listen[index].to_string(),
            "--genesis",
            &path("genesis".into()),
            "--keys",
            &path(format!("genesis/node-{index}.json")),
            "--directory",
            &path(format!("node-{index}")),
        ];
        let log = self.directory.join(format!("node-{index}.log"));
        Process::launch(&self.program, &arguments, &log)
    }

    /// Bytes that have passed the links, in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// Addresses at which nothing listens now, below those that systems give to outgoing connections: one of a replica
/// that does not run must not be taken.
fn free_ports() -> impl Iterator<Item = SocketAddr> {
    let first = 10_000 + (std::process::id() % 10_000) as u16;
    let addresses = (first..32_000).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    addresses.filter(|address| Listener::bind(address).is_ok())
}

async fn link(listener: TcpListener, to: SocketAddr, delay: Duration, bytes: Arc<AtomicU64>) {
    while let Ok((from, _)) = listener.accept().await {
        let bytes = Arc::clone(&bytes);
        tokio::spawn(async move {
            // A replica that does not run is as one that cannot be reached.
            let Ok(to) = TcpStream::connect(to).await else {
                return;
            };
            let _ = (from.set_nodelay(true), to.set_nodelay(true));
            let ((from, to_from), (to, from_to)) = (from.into_split(), to.into_split());
            tokio::spawn(pass(from, from_to, delay, Arc::clone(&bytes)));
            pass(to, to_from, delay, bytes).await;
        });
    }
}

/// Passes on what comes, each piece after its delay, until one side closes.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    bytes: Arc<AtomicU64>,
) {
    let (sender, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let write = tokio::spawn(async move {
        while let Some((due, piece)) = waiting.recv().await {
            // The clock counts milliseconds, and would make one of no time.
            if Instant::now() < due {
                sleep_until(due).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        match from.read_buf(&mut piece).await {
            Ok(count) if count > 0 => {
                bytes.fetch_add(count as u64, Relaxed);
                if sender.send((Instant::now() + delay, piece)).await.is_err() {
                    break;
                }
            }
            _ => break,
        }
    }
    drop(sender);
    let _ = write.await;
}
