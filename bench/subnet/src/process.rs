//! The processes that are measured: `lockstep up`, or a `lockstep node` for each replica.
use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Ticks of `/proc` per second: what Linux shows to programs, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// A program under way. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `lockstep` and waits for the one line of JSON that says that it is ready.
    ///
    /// # Errors
    /// It does not start, or ends before it is ready.
    pub fn start(program: &Path, arguments: &[&str], log: &Path) -> Result<(Self, Value)> {
        let mut process = Self::launch(program, arguments, log)?;
        let ready = process.ready().with_context(|| {
            let said = fs::read_to_string(log).unwrap_or_default();
            format!(
                "{} {} said:\n{said}",
                program.display(),
                arguments.join(" ")
            )
        })?;
        Ok((process, ready))
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// It does not start.
    pub fn launch(program: &Path, arguments: &[&str], log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child })
    }

    /// Waits until a launched one is ready.
    ///
    /// # Errors
    /// It ends before, or says something else.
    pub fn ready(&mut self) -> Result<Value> {
        let stdout = self
            .child
            .stdout
            .take()
            .context("it was waited for before")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(!line.is_empty(), "it ended before it was ready");
        Ok(serde_json::from_str(&line)?)
    }

    /// Ends it where it stands.
    ///
    /// # Errors
    /// It had ended before.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it had ended by itself: {status}");
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Tells it to end, and waits.
    ///
    /// # Errors
    /// It ends otherwise than as it should.
    pub fn terminate(mut self) -> Result<()> {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status()?;
        ensure!(told.success(), "it had ended by itself");
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended otherwise: {status}");
        Ok(())
    }

    /// Processor time so far.
    ///
    /// # Errors
    /// The system does not say.
    pub fn processor(&self) -> Result<Processor> {
        Processor::of(self.child.id())
    }

    /// The most memory that it had so far.
    ///
    /// # Errors
    /// The system does not say.
    pub fn memory_bytes_max(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.context("no peak of memory in status")?;
        let kilobytes: u64 = kilobytes.trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of a process, seconds by what its threads are called.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Processor {
    /// In all, threads that have ended included.
    pub seconds: f64,
    /// Of its threads, by name without numbers.
    pub threads: BTreeMap<String, f64>,
}

impl Processor {
    /// Of this process.
    ///
    /// # Errors
    /// The system does not say.
    pub fn own() -> Result<Self> {
        Self::of(std::process::id())
    }

    fn of(id: u32) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{id}"));
        let (_, seconds) = read_stat(&folder)?;
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(folder.join("task"))? {
            // A thread may end while it is looked at.
            if let Ok((name, seconds)) = read_stat(&thread?.path()) {
                *threads.entry(name).or_default() += seconds;
            }
        }
        Ok(Self { seconds, threads })
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let threads = self.threads.iter().map(|(name, seconds)| {
            let before = earlier.threads.get(name).copied().unwrap_or_default();
            (name.clone(), seconds - before)
        });
        Self {
            seconds: self.seconds - earlier.seconds,
            threads: threads.filter(|(_, seconds)| *seconds > 0.0).collect(),
        }
    }

    /// Of both.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.seconds += other.seconds;
        for (name, seconds) in &other.threads {
            *self.threads.entry(name.clone()).or_default() += seconds;
        }
        self
    }
}

/// Name and processor time of a process or thread: fields 2, 14 and 15 of its `stat`.
fn read_stat(folder: &Path) -> Result<(String, f64)> {
    let text = fs::read_to_string(folder.join("stat"))?;
    let (before, after) = text.rsplit_once(')').context("no name in stat")?;
    let (_, name) = before.split_once('(').context("no name in stat")?;
    let ticks = after.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let name = name.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '-');
    Ok((name.to_owned(), ticks as f64 / TICKS_PER_SECOND))
}

/// A subnet under way.
#[derive(Debug)]
pub struct Subnet {
    /// Its processes: one, or one for each replica.
    pub processes: Vec<Process>,
    /// Where its gateways are.
    pub gateways: Vec<SocketAddr>,
    /// Its public key, DER.
    pub root_key: Vec<u8>,
}

impl Subnet {
    /// All replicas in one process.
    ///
    /// # Errors
    /// It does not start.
    pub fn up(program: &Path, directory: &Path, replicas: u32) -> Result<Self> {
        let state = directory.join("network");
        let (process, ready) = Process::start(
            program,
            &[
                "up",
                "--json",
                "--port",
                "0",
                "--replicas",
                &replicas.to_string(),
                "--directory",
                &state.to_string_lossy(),
            ],
            &directory.join("up.log"),
        )?;
        let urls = ready["replicas"].as_array().context("no replicas")?;
        let gateways = urls.iter().map(address);
        Ok(Self {
            processes: vec![process],
            gateways: gateways.collect::<Result<_>>()?,
            root_key: root_key(&ready)?,
        })
    }

    /// Processor time of all its processes.
    ///
    /// # Errors
    /// The system does not say.
    pub fn processor(&self) -> Result<Processor> {
        let mut all = Processor::default();
        for process in &self.processes {
            all = all.and(&process.processor()?);
        }
        Ok(all)
    }
}

/// The address of a gateway by its URL.
///
/// # Errors
/// It is none.
pub fn address(url: &Value) -> Result<SocketAddr> {
    let text = url.as_str().and_then(|url| url.strip_prefix("http://"));
    Ok(text.context("not a URL")?.parse()?)
}

/// The subnet's key in what a process says when it is ready.
///
/// # Errors
/// It is not there.
pub fn root_key(ready: &Value) -> Result<Vec<u8>> {
    Ok(hex::decode(
        ready["root_key"].as_str().context("no root key")?,
    )?)
}

/// Waits until `done` gives something.
///
/// # Errors
/// It takes too long.
pub async fn until<T>(what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    const PERIOD: Duration = Duration::from_millis(20);
    const PATIENCE: Duration = Duration::from_secs(60);
    for _ in 0..PATIENCE.as_millis() / PERIOD.as_millis() {
        if let Some(value) = done().await {
            return Ok(value);
        }
        tokio::time::sleep(PERIOD).await;
    }
    bail!("{what}: not within {} s", PATIENCE.as_secs())
}
