//! Penalties, bias, stops, and prompts that begin alike.
use super::*;
use crate::{Bias, Role};

/// Everything at once but a schema, which has its own tests.
fn all() -> Params {
    Params {
        sampling: Sampling {
            temperature_milli: 1300,
            min_p_milli: 20,
            repetition_penalty_milli: 1300,
            frequency_penalty_milli: 150,
            presence_penalty_milli: -80,
            penalty_window: 40,
            ..SEEDED
        },
        steering: Steering {
            bias: [(9, Bias::Ban), (40, Bias::Milli(900))].into(),
            stop: vec!["never in this text".to_owned()],
            schema: None,
        },
        ..Params::default()
    }
}

fn begin(params: Params, kernels: Arc<Kernels>) -> Generation {
    start_with(params, kernels)
}

fn run(params: Params) -> Progress {
    let mut generation = begin(params, Arc::clone(&PORTABLE));
    generation.advance(TOKENS, Work::MAX).unwrap();
    generation.progress().clone()
}

#[test]
fn each_option_gives_one_text_whatever_computes_it() {
    let only = |change: fn(&mut Params)| {
        let mut params = params(PREFILL_CHUNK.get());
        change(&mut params);
        params
    };
    let cases = [
        only(|p| p.sampling.min_p_milli = 300),
        only(|p| p.sampling.repetition_penalty_milli = 1500),
        only(|p| p.sampling.frequency_penalty_milli = 700),
        only(|p| p.sampling.presence_penalty_milli = 900),
        only(|p| p.steering.bias = [(40, Bias::Milli(4000))].into()),
        only(|p| p.steering.stop = vec!["e".to_owned()]),
        all(),
    ];
    for params in cases {
        let whole = run(params.clone());
        for isa in Isa::available() {
            for threads in [1, 3] {
                let kernels = kernels(isa, threads);
                let mut generation = begin(params.clone(), Arc::clone(&kernels));
                while generation.advance(TOKENS, 400_000).unwrap() > 0 {
                    generation = Generation::resume(
                        Arc::clone(&MODEL),
                        Arc::clone(&kernels),
                        &prompt(),
                        params.clone(),
                        generation.progress().clone(),
                    )
                    .unwrap();
                }
                assert_eq!(generation.progress(), &whole, "{isa} {threads} {params:?}");
            }
        }
    }
}

#[test]
fn each_option_has_a_chain_of_its_own() {
    let plain = params(PREFILL_CHUNK.get());
    let chain = |change: &dyn Fn(&mut Params)| {
        let mut params = plain.clone();
        change(&mut params);
        begin(params, Arc::clone(&PORTABLE)).progress().chain
    };
    let text = |text: &str| text.to_owned();
    let mut chains = vec![
        chain(&|_| ()),
        chain(&|p| p.sampling.min_p_milli = 1),
        chain(&|p| p.sampling.repetition_penalty_milli = 1),
        chain(&|p| p.sampling.frequency_penalty_milli = 1),
        chain(&|p| p.sampling.presence_penalty_milli = 1),
        chain(&|p| p.sampling.penalty_window = 1),
        chain(&|p| p.steering.bias = [(1, Bias::Milli(0))].into()),
        chain(&|p| p.steering.bias = [(1, Bias::Ban)].into()),
        chain(&|p| p.steering.bias = [(0, Bias::Ban)].into()),
        chain(&|p| p.steering.stop = vec![text("ab")]),
        chain(&|p| p.steering.stop = vec![text("a"), text("b")]),
        chain(&|p| p.steering.stop = vec![text("b"), text("a")]),
    ];
    chains.sort();
    let count = chains.len();
    chains.dedup();
    assert_eq!(chains.len(), count);
}

#[test]
fn a_ban_and_a_penalty_do_what_they_say() {
    let plain = run(Params::default());
    let first = plain.tokens[0];
    let banned = run(Params {
        steering: Steering {
            bias: [(first, Bias::Ban)].into(),
            ..Steering::default()
        },
        ..Params::default()
    });
    assert!(!banned.tokens.contains(&first));
    // A penalty that outweighs every logit: no token comes twice, nor one of the prompt.
    let fresh = run(Params {
        sampling: Sampling {
            presence_penalty_milli: i32::MAX,
            ..Sampling::GREEDY
        },
        ..Params::default()
    });
    let mut once = fresh.tokens.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), fresh.tokens.len());
    let prompt = prompt().tokens(&MODEL).unwrap();
    assert!(fresh.tokens.iter().all(|token| !prompt.contains(token)));
}

#[test]
fn a_stop_over_several_tokens_ends_the_text_before_it() {
    // Letters only, so that every byte is a character.
    let tokenizer = MODEL.tokenizer();
    let letters = |token: u32| {
        let bytes = tokenizer.token_bytes(token);
        !bytes.is_empty() && bytes.iter().all(u8::is_ascii_lowercase)
    };
    let bans = (0..MODEL.graph().vocabulary as u32).filter(|&token| !letters(token));
    let mut params = params(16);
    params.steering.bias = bans.map(|token| (token, Bias::Ban)).collect();
    let whole = run(params.clone());
    let text = String::from_utf8(whole.text.clone()).unwrap();
    let before = |tokens: usize| tokenizer.decode(&whole.tokens[..tokens]).len();
    let boundary = before(12);
    let from = boundary - 3;
    let stop = &text[from..boundary + 1];
    let expected = text.find(stop).unwrap();
    params.steering.stop = vec![stop.to_owned()];
    let mut generation = begin(params, Arc::clone(&PORTABLE));
    let mut given = 0;
    for count in 1..=TOKENS {
        generation.advance(count, Work::MAX).unwrap();
        assert!(generation.settled() >= given && generation.settled() <= expected);
        given = generation.settled();
    }
    let progress = generation.progress();
    assert_eq!(progress.ended, Some(Ended::Stopped));
    assert_eq!(progress.text, &whole.text[..expected]);
    assert_eq!(given, expected);
    assert_eq!(progress.tokens, whole.tokens[..progress.tokens.len()]);
    assert!(progress.tokens.len() < whole.tokens.len());
}

#[test]
fn unusable_steering_is_refused_before_anything_is_computed() {
    let steering = Steering {
        bias: [(268, Bias::Ban)].into(),
        ..Steering::default()
    };
    let params = Params {
        steering,
        ..Params::default()
    };
    let error = Generation::start(Arc::clone(&MODEL), Arc::clone(&PORTABLE), &prompt(), params)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the bias is for a token that is not in the vocabulary of 268: 268"
    );
}

fn message(role: Role, content: &str) -> Message {
    Message {
        role,
        content: content.to_owned(),
    }
}

#[test]
fn a_conversation_that_goes_on_has_the_bits_of_one_begun_anew() {
    for of in crate::arch::TINY {
        let file = fixture::tiny(of, 5, fixture::Weights::Mixed);
        let model = Model::from_bytes(&file.build()).unwrap();
        let kernels = Arc::clone(&PORTABLE);
        let mut messages = vec![message(Role::User, "why?")];
        let mut going: Option<Generation> = None;
        for turn in 0..3 {
            let prompt = Prompt::Messages(messages.clone());
            let params = Params {
                sampling: SEEDED,
                ..Params::default()
            };
            let mut fresh = Generation::start(
                Arc::clone(&model),
                Arc::clone(&kernels),
                &prompt,
                params.clone(),
            )
            .unwrap();
            let mut next = match going {
                None => {
                    Generation::start(Arc::clone(&model), Arc::clone(&kernels), &prompt, params)
                }
                Some(before) => before.next(Arc::clone(&kernels), &prompt, params),
            }
            .unwrap();
            let kept = next.progress().prefilled;
            fresh.advance(8, Work::MAX).unwrap();
            next.advance(8, Work::MAX).unwrap();
            let (told, wanted) = (next.progress(), fresh.progress());
            assert_eq!(told.tokens, wanted.tokens);
            assert_eq!(told.chain, wanted.chain);
            assert_eq!(told.text, wanted.text);
            assert_eq!(next.logits_digests(), fresh.logits_digests());
            if turn > 0 && model.graph().convolutions.is_empty() {
                assert!(kept > 0 && told.work < wanted.work, "{turn}: {kept}");
            }
            let answer = String::from_utf8_lossy(&told.text).into_owned();
            messages.push(message(Role::Assistant, &answer));
            messages.push(message(Role::User, "go on"));
            going = Some(next);
        }
    }
}
