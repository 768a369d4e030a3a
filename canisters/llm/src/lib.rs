//! Answers prompts with a resident model: one job per prompt, its tokens generated over the blocks
//! that follow.
//!
//! # Design
//! Jobs live on the heap and are saved to stable memory across upgrades. A running job is a session;
//! when the next prompt comes, sessions that are through are closed and their answers kept, the
//! newest [`ANSWERS_MAX`] of them.
//!
//! # Invariants
//! Only a job's asker and the controllers can read it.
use candid::{CandidType, Deserialize, Principal};
use ic_cdk::{api, init, post_upgrade, pre_upgrade, query, update};
use lockstep_cdk::{Error, Model, PROMPT_BYTES_MAX, Request, Session, Status as SessionStatus};
use std::{cell::RefCell, collections::BTreeMap};

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../llm.did").len()] = *include_bytes!("../llm.did");

/// Answers kept; the oldest go first.
const ANSWERS_MAX: usize = 1_000;
/// Prompts answered at a time, below the number of sessions the system allows.
const RUNNING_MAX: usize = 32;

#[derive(CandidType, Deserialize, Clone, Default)]
struct Config {
    model: String,
    max_tokens: u32,
}

#[derive(CandidType, Deserialize, Clone)]
enum Status {
    Running,
    Done,
    Failed(String),
}

#[derive(CandidType)]
struct Progress {
    text: String,
    tokens: u32,
    status: Status,
}

#[derive(CandidType)]
struct Answer {
    text: String,
    tokens: u32,
    digest: Vec<u8>,
}

/// What is known of a generation at one moment.
#[derive(CandidType, Deserialize, Clone)]
struct Snapshot {
    text: Vec<u8>,
    tokens: u32,
    digest: Vec<u8>,
    status: Status,
}

#[derive(CandidType, Deserialize)]
enum Work {
    Session(u64),
    Finished(Snapshot),
}

#[derive(CandidType, Deserialize)]
struct Job {
    asker: Principal,
    work: Work,
}

#[derive(CandidType, Deserialize, Default)]
struct State {
    config: Config,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

#[init]
fn init(config: Config) {
    STATE.with_borrow_mut(|state| state.config = config);
}

#[pre_upgrade]
fn pre_upgrade() {
    STATE.with_borrow(|state| {
        ic_cdk::storage::stable_save((state,)).expect("the state is encodable")
    });
}

#[post_upgrade]
fn post_upgrade() {
    let (state,): (State,) =
        ic_cdk::storage::stable_restore().expect("the state was saved before the upgrade");
    STATE.set(state);
}

#[update]
fn ask(prompt: String) -> Result<u64, String> {
    if prompt.len() > PROMPT_BYTES_MAX {
        return Err(format!(
            "the prompt is {} bytes, more than {PROMPT_BYTES_MAX}",
            prompt.len()
        ));
    }
    STATE.with_borrow_mut(|state| state.ask(&prompt, api::msg_caller()))
}

#[query]
fn read(job: u64) -> Result<Progress, String> {
    let Snapshot {
        text,
        tokens,
        status,
        ..
    } = snapshot(job)?;
    Ok(Progress {
        text: whole_characters(&text),
        tokens,
        status,
    })
}

#[update]
fn result(job: u64) -> Result<Answer, String> {
    let Snapshot {
        text,
        tokens,
        digest,
        status,
    } = snapshot(job)?;
    match status {
        Status::Running => Err(format!(
            "job {job} is still running: {tokens} tokens so far"
        )),
        Status::Failed(reason) => Err(format!("job {job} failed: {reason}")),
        Status::Done => Ok(Answer {
            text: whole_characters(&text),
            tokens,
            digest,
        }),
    }
}

/// The caller's job.
fn snapshot(id: u64) -> Result<Snapshot, String> {
    let caller = api::msg_caller();
    STATE.with_borrow(|state| {
        let visible = |job: &&Job| job.asker == caller || api::is_controller(&caller);
        let job = state
            .jobs
            .get(&id)
            .filter(visible)
            .ok_or_else(|| format!("no such job: {id}"))?;
        job.snapshot().map_err(|error| error.to_string())
    })
}

impl State {
    fn ask(&mut self, prompt: &str, asker: Principal) -> Result<u64, String> {
        self.settle();
        let running = self
            .jobs
            .values()
            .filter(|job| matches!(job.work, Work::Session(_)))
            .count();
        if running >= RUNNING_MAX {
            return Err(format!(
                "{running} prompts are being answered already; try again later"
            ));
        }
        let session = self.start(prompt).map_err(|error| error.to_string())?;
        let id = self.next_job;
        self.next_job += 1;
        self.jobs.insert(
            id,
            Job {
                asker,
                work: Work::Session(session.id()),
            },
        );
        Ok(id)
    }

    fn start(&self, prompt: &str) -> Result<Session, Error> {
        let session = Model::open(&self.config.model)?.start(&Request::greedy(prompt));
        session.advance(self.config.max_tokens)?;
        Ok(session)
    }

    /// Closes the sessions that are through and forgets the oldest answers.
    fn settle(&mut self) {
        for job in self.jobs.values_mut() {
            let Work::Session(session) = job.work else {
                continue;
            };
            let Ok(snapshot) = job.snapshot() else {
                continue;
            };
            if !matches!(snapshot.status, Status::Running) {
                job.work = Work::Finished(snapshot);
                // It was there a moment ago, in this very message.
                let _ = Session::from_id(session).close();
            }
        }
        let finished = self
            .jobs
            .iter()
            .filter(|(_, job)| matches!(job.work, Work::Finished(_)))
            .map(|(id, _)| *id);
        let finished: Vec<u64> = finished.collect();
        for id in finished
            .iter()
            .take(finished.len().saturating_sub(ANSWERS_MAX))
        {
            self.jobs.remove(id);
        }
    }
}

impl Job {
    fn snapshot(&self) -> Result<Snapshot, Error> {
        let session = match &self.work {
            Work::Finished(snapshot) => return Ok(snapshot.clone()),
            Work::Session(id) => Session::from_id(*id),
        };
        let status = match session.status()? {
            SessionStatus::Running => Status::Running,
            SessionStatus::Waiting | SessionStatus::Ended => Status::Done,
            SessionStatus::Failed(reason) => Status::Failed(reason),
        };
        Ok(Snapshot {
            text: session.text()?,
            tokens: session.tokens()?,
            digest: session.digest()?.to_vec(),
            status,
        })
    }
}

/// The text without a character that is not complete yet.
fn whole_characters(text: &[u8]) -> String {
    let whole = match std::str::from_utf8(text) {
        Err(error) if error.error_len().is_none() => &text[..error.valid_up_to()],
        _ => text,
    };
    String::from_utf8_lossy(whole).into_owned()
}
