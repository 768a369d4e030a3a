use super::*;
use crate::{Generation, Params, Prompt, fixture, gguf::Gguf, gguf::Value};
use lockstep_numeric::{Isa, Pool};
use std::sync::LazyLock;

const TOKENS: usize = 6;

static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| fixture::tiny_llama(5).build());

/// No token twice.
fn prompt() -> Vec<u32> {
    (0..21).map(|index| (index * 11 + 40) % 268).collect()
}

fn check_of(file: &[u8]) -> SelfCheck {
    SelfCheck::new(Model::from_bytes(file).unwrap(), prompt(), TOKENS).unwrap()
}

fn configuration(isa: Isa, threads: usize, chunk: usize, batch: usize) -> Configuration {
    let [threads, prefill_chunk, batch] =
        [threads, chunk, batch].map(|count| NonZeroUsize::new(count).unwrap());
    let kernels = Kernels::new(isa, Arc::new(Pool::new(threads))).unwrap();
    Configuration {
        kernels: Arc::new(kernels),
        prefill_chunk,
        batch,
    }
}

fn portable(chunk: usize, batch: usize) -> Configuration {
    configuration(Isa::Portable, 1, chunk, batch)
}

/// The model file with one bit of a byte of a tensor flipped.
fn corrupted(tensor: &str, byte: usize) -> Vec<u8> {
    let mut file = FILE.clone();
    let place = {
        let gguf = Gguf::parse(&FILE).unwrap();
        let bytes = gguf.tensor_bytes(tensor).unwrap();
        bytes.as_ptr() as usize - FILE.as_ptr() as usize + byte
    };
    file[place] ^= 0x10;
    file
}

fn named(file: &[u8], left: &Configuration, right: &Configuration) -> Option<Difference> {
    let (whole, corrupted) = (check_of(&FILE), check_of(file));
    let left = Run::start(&whole, left).unwrap();
    first_difference(left, Run::start(&corrupted, right).unwrap()).unwrap()
}

#[test]
fn every_configuration_gives_one_outcome_and_it_is_the_generations() {
    let check = check_of(&FILE);
    let wanted = check.outcome(&portable(1, 1)).unwrap();
    let isas = Isa::available();
    eprintln!("instruction sets tested: {isas:?}");
    for isa in isas {
        for (threads, chunk, batch) in [(1, 1, 2), (2, 3, 5), (3, 7, 1), (1, 16, 3), (2, 64, 8)] {
            let configuration = configuration(isa, threads, chunk, batch);
            let outcome = check.outcome(&configuration).unwrap();
            assert_eq!(outcome, wanted, "{configuration}");
            assert_eq!(outcome.digest(), wanted.digest());
        }
    }
    let params = Params::default();
    let prompt = Prompt::Tokens(prompt());
    let kernels = portable(1, 1).kernels;
    let mut generation =
        Generation::start(Arc::clone(&check.model), kernels, &prompt, params).unwrap();
    generation.advance(TOKENS as u32, u64::MAX).unwrap();
    let tokens: Vec<u32> = wanted.steps.iter().map(|step| step.token).collect();
    let logits: Vec<Digest> = wanted.steps.iter().map(|step| step.logits).collect();
    assert_eq!(tokens, generation.progress().tokens);
    assert_eq!(logits, generation.logits_digests());
}

#[test]
fn equal_runs_have_no_difference() {
    let check = check_of(&FILE);
    for (left, right) in [
        (portable(1, 1), portable(16, 4)),
        (portable(7, 3), portable(5, 1)),
    ] {
        assert_eq!(check.first_difference(&left, &right), Ok(None));
    }
}

#[test]
fn a_wrong_weight_is_named_where_it_first_shows() {
    let last = prompt().len() - 1;
    let embedding = |token: u32| ("token_embd.weight", token as usize * 68 + 7);
    let unused = (0..268).find(|token| !prompt().contains(token)).unwrap();
    for ((tensor, byte), operation, position) in [
        (("blk.0.attn_k.weight", 2), "blk.0.attn_k", 0),
        (("blk.0.attn_v.weight", 1), "blk.0.attn_v", 0),
        (("blk.1.ffn_norm.weight", 3), "blk.1.ffn_norm", 0),
        (("blk.1.ffn_down.weight", 1), "blk.1.ffn_down", 0),
        // An embedding shows at its token, or among the logits when the text lacks the token.
        (embedding(prompt()[9]), "token_embd", 9),
        (embedding(prompt()[last - 1]), "token_embd", last - 1),
        (embedding(unused), "output", last),
        (("output_norm.weight", 2), "output_norm", last),
    ] {
        let file = corrupted(tensor, byte);
        for (left, right) in [(1, 1, 1, 1), (3, 1, 16, 4), (16, 5, 7, 1)]
            .map(|(c, b, d, e)| (portable(c, b), portable(d, e)))
        {
            let difference = named(&file, &left, &right).unwrap();
            assert_eq!(difference.name, operation, "{tensor}: {left}; {right}");
            assert_eq!(difference.position, position, "{tensor}: {left}; {right}");
        }
        let [whole, other] = [&FILE, &file].map(|file| check_of(file).outcome(&portable(16, 1)));
        let (whole, other) = (whole.unwrap(), other.unwrap());
        assert_ne!(other.digest(), whole.digest());
        assert_eq!(other.prompt == whole.prompt, position == last, "{tensor}");
    }
}

#[test]
fn a_wrong_rotation_is_named_at_the_first_position_that_turns() {
    let file = fixture::tiny_llama(5)
        .set("llama.rope.freq_base", Value::F32(10_001.0))
        .build();
    let difference = named(&file, &portable(4, 2), &portable(16, 1)).unwrap();
    assert_eq!(
        (difference.name.as_str(), difference.position),
        ("blk.0.rope_q", 1)
    );
    let number = difference.operation;
    assert_eq!(
        difference.to_string(),
        format!("operation {number} (blk.0.rope_q) at position 1")
    );
}

#[test]
fn output_that_is_not_finite_is_named_when_only_one_run_has_it() {
    let norm = "output_norm.weight";
    // Products with numbers as large as this have no end.
    let bytes = f32::MAX.to_le_bytes().repeat(64);
    let file = fixture::tiny_llama(5)
        .without_tensor(norm)
        .tensor(norm, &[64], crate::gguf::TensorType::F32, bytes)
        .build();
    let difference = named(&file, &portable(4, 2), &portable(16, 1)).unwrap();
    assert_eq!(difference.name, "output_norm");
    let check = check_of(&file);
    let error = SelfCheckError::NonFinite { step: 0 };
    let (left, right) = (portable(4, 2), portable(16, 1));
    assert_eq!(check.first_difference(&left, &right).unwrap_err(), error);
    assert_eq!(check.outcome(&left).unwrap_err(), error);
}

#[test]
fn traces_of_separate_runs_name_the_same_difference() {
    let corrupted = check_of(&corrupted("blk.1.ffn_down.weight", 1));
    let check = check_of(&FILE);
    let (left, right) = (portable(4, 2), portable(16, 1));
    let trace = check.trace(&left).unwrap();
    assert_eq!(check.compare(&trace, &check.trace(&right).unwrap()), None);
    // As they arrive from elsewhere.
    let mut copy = Trace::default();
    for (position, operation, digest) in corrupted.trace(&right).unwrap().rows() {
        copy.add(position, operation, digest);
    }
    let difference = check.compare(&trace, &copy).unwrap();
    assert_eq!(
        (difference.name.as_str(), difference.position),
        ("blk.1.ffn_down", 0)
    );
}

#[test]
fn positions_go_before_operations() {
    let trace = |changed: &[(usize, usize)]| {
        let mut trace = Trace::default();
        // As in a pass over positions 0 to 5: operation by operation.
        for operation in 0..10 {
            let row = |position| f32::from(changed.contains(&(operation, position)));
            let values: Vec<f32> = (0..6).map(row).collect();
            trace.observe(Output {
                operation,
                segment: 0,
                first_position: 0,
                width: 1,
                values: &values,
            });
            trace.observe(Output {
                operation,
                segment: 1,
                first_position: 0,
                width: 1,
                values: &[9.0; 6],
            });
        }
        trace
    };
    let (mut left, mut right) = (trace(&[]), trace(&[(3, 5), (8, 2), (7, 2)]));
    let mut compare = |end| left.take(end).first_difference(&right.take(end));
    assert_eq!(compare(2), None);
    assert_eq!(compare(4), Some((2, 7)));
    assert_eq!(compare(6), Some((5, 3)));
}

#[test]
fn companions_are_at_other_positions_and_start_again() {
    let check = check_of(&FILE);
    let mut run = Run::start(&check, &portable(4, 6)).unwrap();
    assert_eq!(run.segment(), 3);
    let mut restarts = 0;
    let mut before = [0; 5];
    while run.pass(&mut Trace::default()).unwrap() {
        let positions: Vec<usize> = run.companions.iter().map(Companion::position).collect();
        assert!(
            positions
                .iter()
                .any(|&position| position != run.subject.position())
        );
        for (before, position) in before.iter_mut().zip(positions) {
            restarts += usize::from(position < *before);
            *before = position;
        }
    }
    assert!(restarts > 0);
    assert_eq!(run.steps.len(), TOKENS);
}

#[test]
fn checks_that_cannot_run_say_why() {
    let model = Model::from_bytes(&FILE).unwrap();
    let error = |prompt: Vec<u32>, tokens| {
        let check = SelfCheck::new(Arc::clone(&model), prompt, tokens);
        check.unwrap_err().to_string()
    };
    assert_eq!(error(vec![], 3), "the prompt has no tokens");
    assert_eq!(
        error(vec![3, 300], 3),
        "token is not in the vocabulary of 268: 300"
    );
    assert_eq!(
        error(vec![3; 190], 4),
        "sequence is full: 193 positions needed, 192 there"
    );
    assert!(SelfCheck::new(Arc::clone(&model), vec![3; 190], 3).is_ok());
    let nothing = SelfCheck::new(model, vec![3], 0).unwrap();
    assert!(nothing.outcome(&portable(1, 3)).unwrap().steps.is_empty());
    assert_eq!(
        portable(3, 2).to_string(),
        "portable, threads 1, prefill chunk 3, batch 2"
    );
}
