//! `lockstep demo`: the whole product on one page.

use crate::{
    client::{self, Llm},
    embedded,
    network::{Directory, Network, Options},
    pull, resident,
    run::open,
    store::Store,
};
use anyhow::{Context, Result, bail, ensure};
use ic_agent::Certificate;
use lockstep_canister::session::GenerationRequest;
use lockstep_model::Model;
use serde::Serialize;
use std::{
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Runs the demonstration.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to ask.
    #[arg(default_value = "Why is the sky blue?")]
    prompt: String,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Keep the network's state here instead of in a temporary directory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Print one JSON object instead of a report.
    #[arg(long)]
    json: bool,
}

/// What the demonstration found.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    canister: String,
    prompt: String,
    text: String,
    tokens: u32,
    answer_digest: String,
    generation_seconds: f64,
    replicas: Vec<ReplicaReport>,
    certificate: CertificateReport,
}

/// One replica, at the height that all are compared at.
#[derive(Debug, Serialize)]
struct ReplicaReport {
    isa: &'static str,
    threads: usize,
    session_digest: String,
    height: u64,
    state_root: String,
    multiply_accumulates: u64,
}

/// The certificate of the answer.
#[derive(Debug, Serialize)]
struct CertificateReport {
    root: String,
    signature: String,
    public_key: String,
    time_ns: u64,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let say = |line: String| {
        if !arguments.json {
            eprintln!("{line}");
        }
    };
    let path = pull::fetch(&Store::open()?, &pull::SMOLLM2, None)?;
    let model = open(&path.to_string_lossy())?;
    say(format!(
        "model      {} ({} MB), digest {}",
        model.name(),
        path.metadata()?.len() / 1_000_000,
        model.digest()
    ));

    let temporary = tempfile::tempdir().context("making a temporary directory")?;
    let directory = arguments.directory.as_deref().unwrap_or(temporary.path());
    let name = pull::SMOLLM2.alias;
    let options = Options {
        replicas: 4,
        port: 0,
        models: vec![(name.to_owned(), Arc::clone(&model))],
        diverse: true,
    };
    let begun = Instant::now();
    let network = Network::start(Directory::take(directory)?, options)?;
    say(format!(
        "subnet     {} replicas in {:.1} s",
        network.count(),
        begun.elapsed().as_secs_f64()
    ));

    let url = network.url(0).context("replica 0 runs")?.to_owned();
    let runtime = network.runtime();
    let begun = Instant::now();
    let llm = runtime.block_on(async {
        let agent = client::connect(&url).await?;
        Llm::install(agent, embedded::LLM_WASM, name, arguments.tokens).await
    })?;
    say(format!(
        "canister   {} installed in {:.1} s at {url}",
        llm.canister,
        begun.elapsed().as_secs_f64()
    ));
    say(format!("prompt     {}", arguments.prompt));

    let begun = Instant::now();
    let job = runtime.block_on(llm.ask(&arguments.prompt))?;
    let stream = |piece: &str| {
        if !arguments.json {
            print!("{piece}");
            // Whoever stopped reading stdout misses the stream; the report still says what happened.
            let _ = io::stdout().flush();
        }
    };
    let reading = runtime.block_on(llm.follow(job, stream))?;
    let generation_seconds = begun.elapsed().as_secs_f64();
    if !arguments.json {
        println!();
    }
    let (answer, certificate) = runtime.block_on(llm.result(job))?;
    ensure!(
        answer.text == reading.text,
        "the certified text is not the streamed one"
    );
    let answer_digest = hex::encode(&answer.digest);
    let rate = f64::from(answer.tokens) / generation_seconds;
    say(format!(
        "answer     {} tokens in {generation_seconds:.1} s ({rate:.1} per second, computed four times)",
        answer.tokens
    ));

    let replicas = compare(&network)?;
    for (index, replica) in replicas.iter().enumerate() {
        say(format!(
            "replica {index}  {:<8} {} thread{}  {:.1} G multiply-accumulates of its own",
            replica.isa,
            replica.threads,
            if replica.threads == 1 { " " } else { "s" },
            replica.multiply_accumulates as f64 / 1e9
        ));
        say(format!("           answer {}", replica.session_digest));
        say(format!(
            "           height {} root {}",
            replica.height, replica.state_root
        ));
        ensure!(
            replica.session_digest == answer_digest,
            "replica {index} computed another answer"
        );
    }
    let alone = recompute(&model, &arguments.prompt, arguments.tokens)?;
    ensure!(
        alone == answer_digest,
        "a run without replicas gives {alone}"
    );
    say(format!(
        "alone      answer {alone} (computed once more without replicas)"
    ));

    let certificate = check(&llm, &certificate)?;
    say(format!("certified  root {}", certificate.root));
    say(format!("           signature {}", certificate.signature));
    say("           verified by ic-agent when it came; its signature again by ic-verify-bls-signature".to_owned());
    if arguments.json {
        let report = Report {
            model: model.digest().to_string(),
            canister: llm.canister.to_text(),
            prompt: arguments.prompt.clone(),
            text: answer.text,
            tokens: answer.tokens,
            answer_digest,
            generation_seconds,
            replicas,
            certificate,
        };
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    network.stop()
}

/// Waits until all replicas stand at one height (an idle subnet makes a block every half second) and
/// reads from each what it has computed.
fn compare(network: &Network) -> Result<Vec<ReplicaReport>> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let deadline = Instant::now() + PATIENCE;
    loop {
        network.check()?;
        let states: Vec<_> = (0..network.count())
            .map(|index| {
                network
                    .replica(index)
                    .map(|replica| (replica.executed(), replica.status()))
                    .context("a replica stopped")
            })
            .collect::<Result<_>>()?;
        let height = states[0].0.state.height;
        if states
            .iter()
            .all(|(executed, _)| executed.state.height == height)
        {
            let mut reports = Vec::new();
            for (index, (executed, status)) in states.iter().enumerate() {
                let session = executed
                    .state
                    .sessions
                    .sessions
                    .values()
                    .next_back()
                    .context("the session is gone")?;
                let kernels = network
                    .replica_kernels(index)
                    .context("a replica stopped")?;
                reports.push(ReplicaReport {
                    isa: kernels.isa().name(),
                    threads: kernels.pool().threads(),
                    session_digest: hex::encode(session.progress.chain),
                    height,
                    state_root: hex::encode(executed.tree.digest()),
                    multiply_accumulates: status.session_work_done,
                });
            }
            let root = &reports[0].state_root;
            ensure!(
                reports.iter().all(|report| report.state_root == *root),
                "the replicas' roots differ at height {height}"
            );
            return Ok(reports);
        }
        if Instant::now() > deadline {
            bail!(
                "the replicas did not meet at one height in {} s",
                PATIENCE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The digest of the same answer computed without a subnet.
fn recompute(model: &Arc<Model>, prompt: &str, tokens: u32) -> Result<String> {
    let kernels = crate::kernels::checked(NonZeroUsize::new(2))?;
    let request = GenerationRequest {
        prompt: prompt.to_owned(),
        seed: 0,
        temperature_milli: 0,
    };
    let transcript = resident::transcript(model, &kernels, &request, tokens)?;
    Ok(transcript
        .steps
        .last()
        .map_or(transcript.first_link, |step| step.link)
        .to_string())
}

/// Checks the certificate's signature once more, apart from the agent.
fn check(llm: &Llm, certificate: &Certificate) -> Result<CertificateReport> {
    const DER_PREFIX_BYTES: usize = 37;
    let root = certificate.tree.digest();
    let root_key = llm.root_key();
    let public_key = root_key
        .get(DER_PREFIX_BYTES..)
        .context("the root key is too short")?;
    let message = [b"\x0Dic-state-root".as_slice(), &root].concat();
    if ic_verify_bls_signature::verify_bls_signature(&certificate.signature, &message, public_key)
        .is_err()
    {
        bail!("the certificate's signature is not the subnet's");
    }
    Ok(CertificateReport {
        root: hex::encode(root),
        signature: hex::encode(&certificate.signature),
        public_key: hex::encode(public_key),
        time_ns: client::certificate_time(certificate)?,
    })
}
