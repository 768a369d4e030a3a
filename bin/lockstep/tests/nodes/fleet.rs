//! Processes of `lockstep node` on loopback.
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering::Relaxed},
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// How many nodes a subnet has in which all are honest.
pub(crate) const NODES: usize = 4;

/// Guards the test run; judges nothing.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);

/// Polls until `done` gives something.
pub(crate) fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        if let Some(value) = done() {
            return value;
        }
        thread::sleep(POLL);
    }
    panic!("{what}: not within {PATIENCE:?}");
}

/// A subnet on this machine, every honest node a process.
pub(crate) struct Fleet {
    directory: TempDir,
    root_key: Vec<u8>,
    nodes: Vec<Mutex<Option<Running>>>,
}

struct Running {
    child: Child,
    /// The one line on its stdout.
    ready: Receiver<Value>,
    url: Option<String>,
}

impl Running {
    fn url(&mut self) -> Option<String> {
        if self.url.is_none() {
            let ready = self.ready.try_recv().ok()?;
            self.url = ready["url"].as_str().map(str::to_owned);
        }
        self.url.clone()
    }
}

impl Fleet {
    /// A subnet of honest nodes, all of which are ready.
    pub(crate) fn start() -> Self {
        let fleet = Self::deal(NODES, NODES);
        fleet.start_all();
        fleet
    }

    /// Deals the keys of `nodes`, of which the first `honest` are processes; the others are left to the caller. If there
    /// are more processes than nodes, those join later.
    pub(crate) fn deal(nodes: usize, honest: usize) -> Self {
        Self::deal_with(nodes, honest, &[])
    }

    /// The same with more options for the genesis.
    pub(crate) fn deal_with(nodes: usize, honest: usize, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let addresses: Vec<_> = (0..nodes)
            .map(|_| format!("127.0.0.1:{}", free_port()))
            .collect();
        let output = lockstep(directory.path())
            .args(["genesis", "--json", "--nodes", &addresses.join(",")])
            .args(options)
            .arg("--directory")
            .arg(directory.path().join("genesis"))
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let root_key = report["root_key"].as_str().expect("it is there");
        Self {
            directory,
            root_key: hex::decode(root_key).expect("hexadecimal"),
            nodes: (0..honest).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Starts all processes and waits until they are ready.
    pub(crate) fn start_all(&self) {
        for index in 0..self.count() {
            self.launch(index);
        }
        for index in 0..self.count() {
            self.wait_until_ready(index);
        }
    }

    /// How many nodes are processes.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Where the keys lie.
    pub(crate) fn genesis(&self) -> PathBuf {
        self.directory.path().join("genesis")
    }

    /// The subnet's key, DER.
    pub(crate) fn root_key(&self) -> &[u8] {
        &self.root_key
    }

    /// Where a node keeps what it has.
    pub(crate) fn directory(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("node-{index}"))
    }

    /// Starts a node, which is not yet ready on return.
    pub(crate) fn launch(&self, index: usize) {
        self.launch_with(index, &[]);
    }

    /// The same with more options.
    pub(crate) fn launch_with(&self, index: usize, options: &[&str]) {
        let genesis = self.genesis();
        // One that joins has its keys elsewhere.
        let keys = Some(genesis.join(format!("node-{index}.json"))).filter(|keys| keys.exists());
        let keys = keys
            .iter()
            .flat_map(|keys| ["--keys".as_ref(), keys.as_os_str()]);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(index))
            .expect("a log");
        let mut child = lockstep(self.directory.path())
            .args(["node", "--json", "--threads", "1", "--http", "127.0.0.1:0"])
            .arg("--genesis")
            .arg(&genesis)
            .args(keys)
            .args(options)
            .arg("--directory")
            .arg(self.directory(index))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("stdout is JSON");
                // The node may have been killed meanwhile.
                let _ = sender.send(line);
            }
        });
        *self.node(index) = Some(Running {
            child,
            ready,
            url: None,
        });
    }

    /// Waits until a launched node serves clients.
    pub(crate) fn wait_until_ready(&self, index: usize) {
        wait(&format!("node {index} is ready"), || {
            let mut node = self.node(index);
            let running = node.as_mut().expect("it was launched");
            if let Some(status) = running.child.try_wait().expect("it is a child") {
                panic!("node {index} ended, {status}:\n{}", self.log(index));
            }
            running.url()
        });
    }

    /// Kills a node where it stands.
    pub(crate) fn kill(&self, index: usize) {
        let mut running = self.node(index).take().expect("it runs");
        running.child.kill().expect("it can be killed");
        running.child.wait().expect("it is a child");
    }

    /// Tells a node to stop.
    pub(crate) fn terminate(&self, index: usize) -> ExitStatus {
        let mut running = self.node(index).take().expect("it runs");
        terminate(&running.child);
        running.child.wait().expect("it is a child")
    }

    /// No process has ended.
    pub(crate) fn assert_all_run(&self) {
        for index in 0..self.count() {
            let mut node = self.node(index);
            let running = node.as_mut().expect("it was launched");
            let ended = running.child.try_wait().expect("it is a child");
            assert_eq!(ended, None, "node {index}:\n{}", self.log(index));
        }
    }

    /// Waits until a node has ended by itself.
    pub(crate) fn wait_for_end(&self, index: usize) -> ExitStatus {
        let status = wait(&format!("node {index} ends"), || {
            let mut node = self.node(index);
            let running = node.as_mut().expect("it was launched");
            running.child.try_wait().expect("it is a child")
        });
        *self.node(index) = None;
        status
    }

    /// What a node has said on stderr, in all its lives.
    pub(crate) fn log(&self, index: usize) -> String {
        fs::read_to_string(self.log_path(index)).expect("a log")
    }

    /// Where a node serves clients; none as long as it does not.
    pub(crate) fn url(&self, index: usize) -> Option<String> {
        self.node(index).as_mut()?.url()
    }

    /// The height that a node has executed, and the root after it.
    pub(crate) fn executed(&self, index: usize) -> Option<(u64, String)> {
        let status = self.ask(index, "status")?;
        assert_eq!(status["halted"], Value::Null, "node {index}");
        let root = status["executed_root"].as_str()?.to_owned();
        Some((status["executed_height"].as_u64()?, root))
    }

    /// What a node answers people at a path, if it answers.
    pub(crate) fn ask(&self, index: usize, path: &str) -> Option<Value> {
        get(&self.url(index)?, path)
    }

    /// Waits for a height that was seen at all nodes, and after which all of them had one root; whatever else was
    /// seen on the way is compared, too.
    pub(crate) fn assert_one_root(&self) -> u64 {
        let mut seen: Vec<BTreeMap<u64, String>> = vec![BTreeMap::new(); self.count()];
        wait("all nodes are seen at one height", || {
            for (index, roots) in seen.iter_mut().enumerate() {
                roots.extend(self.executed(index));
            }
            let (first, others) = seen.split_first().expect("there are nodes");
            for (height, root) in first {
                for (index, roots) in others.iter().enumerate() {
                    let other = roots.get(height).unwrap_or(root);
                    assert_eq!(other, root, "node {} at height {height}", index + 1);
                }
            }
            let mut common = first.keys().copied();
            common.find(|height| others.iter().all(|roots| roots.contains_key(height)))
        })
    }

    fn node(&self, index: usize) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.nodes[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("node-{index}.log"))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for index in 0..self.count() {
            if let Some(mut running) = self.node(index).take() {
                // One that has ended already is what is wanted.
                let _ = running.child.kill();
                let _ = running.child.wait();
            }
            if thread::panicking() {
                eprintln!("node {index} said:\n{}", self.log(index));
            }
        }
    }
}

/// The binary with its data in a directory.
pub(crate) fn lockstep(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command
        .env("LOCKSTEP_DATA", data.join("data"))
        .env("NO_COLOR", "1")
        .env_remove("LOCKSTEP_ISA");
    command
}

fn terminate(child: &Child) {
    let sent = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .expect("there is kill");
    assert!(sent.success());
}

/// A port at which nothing listens now, below those that systems give to outgoing connections: one of a node that
/// does not run must not be taken by a client.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 8_000).expect("it fits");
    loop {
        let port = 10_000 + (spread + NEXT.fetch_add(1, Relaxed)) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// What a node says about itself.
fn get(url: &str, path: &str) -> Option<Value> {
    let address: SocketAddr = url.strip_prefix("http://")?.parse().ok()?;
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request =
        format!("GET /_/lockstep/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (_, body) = response.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}
