mod steered;

use super::*;
use crate::fixture;
use lockstep_numeric::{Isa, Pool};
use proptest::prelude::*;
use std::sync::LazyLock;

const TOKENS: u32 = 24;

const SEEDED: Sampling = Sampling {
    temperature_milli: 900,
    top_k: 40,
    top_p_milli: 950,
    seed: 11,
    ..Sampling::GREEDY
};

static MODEL: LazyLock<Arc<Model>> =
    LazyLock::new(|| Model::from_bytes(&fixture::tiny_llama(5).build()).unwrap());

static PORTABLE: LazyLock<Arc<Kernels>> = LazyLock::new(|| kernels(Isa::Portable, 1));

/// A run without interruptions.
static WHOLE: LazyLock<Progress> = LazyLock::new(|| {
    let mut generation = start(params(PREFILL_CHUNK.get()));
    generation.advance(TOKENS, Work::MAX).unwrap();
    assert_eq!(generation.progress().tokens.len(), TOKENS as usize);
    generation.progress().clone()
});

fn kernels(isa: Isa, threads: usize) -> Arc<Kernels> {
    let pool = Pool::new(NonZeroUsize::new(threads).unwrap());
    Arc::new(Kernels::new(isa, Arc::new(pool)).unwrap())
}

fn params(chunk: usize) -> Params {
    Params {
        sampling: SEEDED,
        prefill_chunk: NonZeroUsize::new(chunk).unwrap(),
        ..Params::default()
    }
}

fn prompt() -> Prompt {
    let content = "What do the users in there call the other users, and why? 1234567890";
    Prompt::Messages(vec![Message {
        role: crate::Role::User,
        content: content.to_owned(),
    }])
}

fn start_with(params: Params, kernels: Arc<Kernels>) -> Generation {
    Generation::start(Arc::clone(&MODEL), kernels, &prompt(), params).unwrap()
}

fn start(params: Params) -> Generation {
    start_with(params, Arc::clone(&PORTABLE))
}

fn resume(progress: Progress) -> Result<Generation, GenerationError> {
    let params = params(PREFILL_CHUNK.get());
    Generation::resume(
        Arc::clone(&MODEL),
        Arc::clone(&PORTABLE),
        &prompt(),
        params,
        progress,
    )
}

#[test]
fn threads_vector_widths_and_chunks_give_one_result() {
    let isas = Isa::available();
    eprintln!("instruction sets tested: {isas:?}");
    for isa in isas {
        for threads in 1..=4 {
            let kernels = kernels(isa, threads);
            for chunk in [1, 7, 64] {
                let mut generation = start_with(params(chunk), Arc::clone(&kernels));
                generation.advance(TOKENS, Work::MAX).unwrap();
                assert_eq!(generation.progress(), &*WHOLE, "{isa} {threads} {chunk}");
            }
        }
    }
}

#[test]
fn generations_that_share_a_pool_do_not_disturb_each_other() {
    let kernels = kernels(Isa::Portable, 2);
    std::thread::scope(|scope| {
        for budget in [5_000, 70_000, Work::MAX] {
            let mut generation = start_with(params(16), Arc::clone(&kernels));
            scope.spawn(move || {
                while generation.advance(TOKENS, budget).unwrap() > 0 {}
                assert_eq!(generation.progress(), &*WHOLE);
            });
        }
    });
}

#[test]
fn the_chain_and_the_charge_are_frozen() {
    assert_eq!(WHOLE.chain.to_string(), FROZEN_CHAIN);
    assert_eq!(WHOLE.work, FROZEN_WORK);
}

const FROZEN_CHAIN: &str = "e227127bc167d3a3b748f24daa3c2e2a51ab9029612d3843ae75debe76318bdb";
const FROZEN_WORK: Work = 7_684_032;

#[test]
fn a_budget_is_exceeded_by_less_than_one_operation() {
    let mut generation = start(params(16));
    let largest = (0..MODEL.graph().operations.len())
        .map(|index| MODEL.graph().price(index, 16, fixture::CONTEXT_LENGTH))
        .max()
        .unwrap();
    assert_eq!(generation.advance(TOKENS, 0).unwrap(), 0);
    let mut total = 0;
    loop {
        let work = generation.advance(TOKENS, 10_000).unwrap();
        if work == 0 {
            break;
        }
        total += work;
        assert!(work < 10_000 + largest);
        assert_eq!(generation.progress().work, total);
    }
    assert_eq!(generation.progress(), &*WHOLE);
}

#[test]
fn permits_hold_the_generation_back_and_more_let_it_go_on() {
    let mut generation = start(params(16));
    for permitted in [0, 1, 1, 5, 3, TOKENS] {
        generation.advance(permitted, Work::MAX).unwrap();
        let reached = generation.progress().tokens.len();
        assert!(reached >= permitted as usize && reached <= TOKENS as usize);
        assert_eq!(generation.advance(permitted, Work::MAX).unwrap(), 0);
    }
    assert_eq!(generation.progress(), &*WHOLE);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn slices_and_restarts_change_nothing(
        slices in prop::collection::vec((1u64..400_000, any::<bool>()), 1..60),
    ) {
        let mut generation = start(params(PREFILL_CHUNK.get()));
        let mut uninterrupted = start(params(PREFILL_CHUNK.get()));
        for (budget, restart) in slices {
            let charged = generation.advance(TOKENS, budget).unwrap();
            prop_assert_eq!(charged, uninterrupted.advance(TOKENS, budget).unwrap());
            prop_assert_eq!(generation.progress(), uninterrupted.progress());
            if restart {
                generation = resume(generation.progress().clone()).unwrap();
            }
        }
        generation.advance(TOKENS, Work::MAX).unwrap();
        prop_assert_eq!(generation.progress(), &*WHOLE);
    }
}

#[test]
fn generations_can_move_between_threads() {
    fn moves<T: Send>() {}
    moves::<Generation>();
}

#[test]
fn an_ended_generation_resumes_without_computing() {
    let mut progress = WHOLE.clone();
    progress.ended = Some(Ended::EndOfText);
    let mut generation = resume(progress.clone()).unwrap();
    assert_eq!(generation.advance(u32::MAX, Work::MAX).unwrap(), 0);
    assert_eq!(generation.progress(), &progress);
}

#[test]
fn foreign_progress_is_refused() {
    let change = |change: fn(&mut Progress)| {
        let mut progress = WHOLE.clone();
        change(&mut progress);
        resume(progress).unwrap_err().to_string()
    };
    for (found, reason) in [
        (change(|p| p.prompt_tokens += 1), "the prompt's length"),
        (change(|p| p.prefilled -= 1), "the prefilled positions"),
        (change(|p| p.tokens.clear()), "the prefilled positions"),
        (change(|p| p.tokens = vec![5; 400]), "the number of tokens"),
        (change(|p| p.tokens[3] = 1 << 20), "a token"),
        (
            change(|p| p.operations_done = 1 << 20),
            "the operations done",
        ),
    ] {
        let wanted =
            format!("recorded progress does not belong to this prompt and model: {reason}");
        assert_eq!(found, wanted);
    }
}

#[test]
fn generation_stops_when_the_context_is_full() {
    let mut generation = start(params(16));
    while generation.progress().ended.is_none() {
        generation.advance(u32::MAX, 1_000_000).unwrap();
    }
    let progress = generation.progress();
    match progress.ended.unwrap() {
        // Every position is used, and the last one's token is not fed back.
        Ended::ContextFull => assert_eq!(
            progress.tokens.len() + generation.prompt_tokens().len(),
            fixture::CONTEXT_LENGTH + 1
        ),
        _ => panic!("the seed was chosen to run into the end of the context"),
    }
    let resumed = resume(progress.clone()).unwrap();
    assert_eq!(resumed.progress(), progress);
}

#[test]
fn generation_stops_at_an_end_of_text() {
    let tokenizer = MODEL.tokenizer();
    let end = tokenizer.eos().unwrap();
    let ended = (0..300).find_map(|seed| {
        let sampling = Sampling {
            temperature_milli: 3000,
            top_k: 0,
            top_p_milli: 1000,
            seed,
            ..Sampling::GREEDY
        };
        let mut generation = start(Params {
            sampling,
            tokens_max: Some(8),
            ..Params::default()
        });
        generation.advance(8, Work::MAX).unwrap();
        let progress = generation.progress();
        (progress.ended == Some(Ended::EndOfText)).then(|| progress.clone())
    });
    let progress = ended.expect("one of many random texts ends early");
    assert_eq!(progress.tokens.last(), Some(&end));
    assert_eq!(progress.text, tokenizer.decode(&progress.tokens));
}

#[test]
fn unusable_prompts_are_refused() {
    let start = |prompt| {
        Generation::start(
            Arc::clone(&MODEL),
            Arc::clone(&PORTABLE),
            &prompt,
            Params::default(),
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(
        start(Prompt::Text(String::new())),
        "the prompt has no tokens"
    );
    assert_eq!(
        start(Prompt::Tokens(vec![3; 193])),
        "the prompt has 193 tokens, but the model's context 192"
    );
    assert_eq!(
        start(Prompt::Tokens(vec![5000])),
        "token is not in the vocabulary of 268: 5000"
    );
}

#[test]
fn a_prompt_as_long_as_the_context_still_gets_one_token() {
    let prompt = Prompt::Tokens(vec![9; fixture::CONTEXT_LENGTH]);
    let mut generation = Generation::start(
        Arc::clone(&MODEL),
        Arc::clone(&PORTABLE),
        &prompt,
        Params::default(),
    )
    .unwrap();
    generation.advance(5, Work::MAX).unwrap();
    assert_eq!(generation.progress().tokens.len(), 1);
    assert!(generation.progress().ended.is_some());
}

#[test]
fn output_that_is_not_finite_is_an_error_and_stays_one() {
    let norm = "output_norm.weight";
    // Products with numbers as large as this have no end.
    let bytes = f32::MAX.to_le_bytes().repeat(64);
    let file = fixture::tiny_llama(5).without_tensor(norm).tensor(
        norm,
        &[64],
        crate::gguf::TensorType::F32,
        bytes,
    );
    let model = Model::from_bytes(&file.build()).unwrap();
    let kernels = Arc::clone(&PORTABLE);
    let mut generation = Generation::start(model, kernels, &prompt(), Params::default()).unwrap();
    for _ in 0..2 {
        let error = generation.advance(1, Work::MAX).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model's output is not finite at token 0"
        );
    }
}
