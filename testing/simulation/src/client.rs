//! A client that makes one call after the other and takes nothing for done that no certificate says.
use crate::{
    checks::{Certificates, Once, Outcome},
    machine::lock,
    random::Random,
    register,
};
use bytes::Bytes;
use ic_certification::{Certificate, LookupResult};
use ic_ed25519::PrivateKey;
use lockstep_subnet::{
    ingress::RequestId,
    replica::{Certified, Replica},
    tree::paths::Scope,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// How long a call may be executed.
const EXPIRY: Duration = Duration::from_secs(60);
/// How long a client waits for an answer before it asks another replica.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of a hundred calls, so many fail.
const FAILING_PERCENT: usize = 10;
/// Of a hundred of the others, so many draw random bytes.
const DRAWING_PERCENT: usize = 20;

/// A call on its way.
#[derive(Debug)]
struct Call {
    id: RequestId,
    number: u64,
    envelope: Bytes,
    expiry_ns: u64,
    /// Which replica has it, and since when.
    at: Option<(usize, u64)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Client {
    key: PrivateKey,
    random: Random,
    call: Option<Call>,
    /// When it makes the next one.
    ready_ns: u64,
    /// The calls it has made.
    made: u64,
    /// What tells its calls from those of others.
    first: u64,
}

/// Replicas that run, by their nodes.
pub(crate) type Replicas = Vec<(usize, Arc<Replica>)>;

/// What a client has to do with the world.
pub(crate) struct Surroundings<'a> {
    pub(crate) now_ns: u64,
    pub(crate) replicas: &'a Replicas,
    pub(crate) certificates: &'a Mutex<Certificates>,
    pub(crate) once: &'a mut Once,
}

impl Client {
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed, 0xc11e_0000 + number);
        let mut key = [0; 32];
        for part in key.chunks_exact_mut(8) {
            part.copy_from_slice(&random.number().to_le_bytes());
        }
        Self {
            key: PrivateKey::deserialize_raw_32(&key),
            random,
            call: None,
            ready_ns: 0,
            made: 0,
            first: number << 32,
        }
    }

    /// Whether it waits for nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.call.is_none()
    }

    /// Goes on with its call, or makes the next one if it may.
    pub(crate) fn step(&mut self, world: &mut Surroundings<'_>, may_begin: bool) {
        let now_ns = world.now_ns;
        if self.call.is_none() && may_begin && now_ns >= self.ready_ns {
            let expiry_ns = now_ns + EXPIRY.as_nanos() as u64;
            let call = self.make(expiry_ns);
            world.once.sent(call.number);
            self.call = Some(call);
        }
        let Some(call) = &mut self.call else { return };
        let replica = call.at.and_then(|(node, since_ns)| {
            let replica = world.replicas.iter().find(|(other, _)| *other == node)?;
            let waits = now_ns - since_ns < PATIENCE.as_nanos() as u64;
            waits.then(|| Arc::clone(&replica.1))
        });
        let Some(replica) = replica else {
            call.at = None;
            if now_ns > call.expiry_ns + EXPIRY.as_nanos() as u64 {
                // Nobody executes it any more; whether somebody has is not known.
                self.call = None;
            } else if !world.replicas.is_empty() {
                let (node, replica) = self.random.choose(world.replicas);
                let taken = replica.submit(Scope::Canister(register::id()), &call.envelope);
                call.at = taken.is_ok().then_some((*node, now_ns));
            }
            return;
        };
        if let Some(outcome) = answer(&replica, &call.id, world.certificates) {
            match outcome {
                Ok(outcome) => world.once.answered(call.number, outcome),
                Err(wrong) => world.once.violations.add(wrong),
            }
            self.call = None;
            let pause = self
                .random
                .duration(Duration::ZERO, Duration::from_millis(800));
            self.ready_ns = now_ns + pause.as_nanos() as u64;
        }
    }

    /// Sends calls without waiting for what becomes of them.
    pub(crate) fn burst(&mut self, world: &mut Surroundings<'_>, count: usize) {
        for _ in 0..count {
            let call = self.make(world.now_ns + EXPIRY.as_nanos() as u64);
            world.once.sent(call.number);
            if let Some((_, replica)) = world.replicas.first() {
                // A replica may say that it has no room: then the call is not made.
                let _ = replica.submit(Scope::Canister(register::id()), &call.envelope);
            }
        }
    }

    fn make(&mut self, expiry_ns: u64) -> Call {
        let number = self.first + self.made;
        self.made += 1;
        let method = if self.random.percent(FAILING_PERCENT) {
            "fail"
        } else if self.random.percent(DRAWING_PERCENT) {
            "draw"
        } else {
            "add"
        };
        let argument = number.to_le_bytes().to_vec();
        let envelope =
            register::signed_call(&self.key, register::id(), method, argument, expiry_ns);
        Call {
            id: envelope.content.to_request_id(),
            number,
            envelope: envelope.encode_bytes().into(),
            expiry_ns,
            at: None,
        }
    }
}

/// What a certificate says of a call: `None` if nothing yet, an error if it says what cannot be.
fn answer(
    replica: &Replica,
    id: &RequestId,
    certificates: &Mutex<Certificates>,
) -> Option<Result<Outcome, String>> {
    let certified = replica.certified()?;
    let answer = certified.executed.state.history.get(id)?;
    answer
        .is_final()
        .then(|| read(&certified, id, certificates))
}

fn read(
    certified: &Certified,
    id: &RequestId,
    certificates: &Mutex<Certificates>,
) -> Result<Outcome, String> {
    let bytes = certified.call_certificate(id);
    let certificate: Certificate =
        serde_cbor::from_slice(&bytes).map_err(|error| format!("no certificate: {error}"))?;
    if !lock(certificates).verifies(&certificate.tree.digest(), &certificate.signature) {
        return Err("a certificate does not verify".to_owned());
    }
    let find = |name: &str| {
        let path: [&[u8]; 3] = [b"request_status", id.as_slice(), name.as_bytes()];
        match certificate.tree.lookup_path(path) {
            LookupResult::Found(value) => Ok(value.to_vec()),
            other => Err(format!("{name} of a call is not there: {other:?}")),
        }
    };
    match find("status")?.as_slice() {
        b"replied" => {
            let length = find("reply")?.try_into().map(u64::from_le_bytes);
            let length = length.map_err(|reply| format!("a reply is no length: {reply:?}"))?;
            Ok(Outcome::Done { length })
        }
        b"rejected" => Ok(Outcome::Failed),
        other => Err(format!(
            "a call's status is {}",
            String::from_utf8_lossy(other)
        )),
    }
}
