use super::*;
use crate::fixture;
use lockstep_numeric::{Isa, Pool};
use std::{num::NonZeroUsize, sync::LazyLock};

static MODEL: LazyLock<Arc<Model>> =
    LazyLock::new(|| Model::from_bytes(&fixture::tiny_llama(5).build()).unwrap());

static RECORDED: LazyLock<Transcript> = LazyLock::new(|| {
    let prompt = Prompt::Text("the users in there".to_owned());
    let sampling = Sampling {
        temperature_milli: 700,
        top_k: 0,
        top_p_milli: 900,
        seed: 3,
    };
    Transcript::record(Arc::clone(&MODEL), kernels(2), prompt, sampling, 12).unwrap()
});

fn kernels(threads: usize) -> Arc<Kernels> {
    let pool = Pool::new(NonZeroUsize::new(threads).unwrap());
    Arc::new(Kernels::new(Isa::Portable, Arc::new(pool)).unwrap())
}

fn verify(transcript: &Transcript) -> Outcome {
    transcript.verify(Arc::clone(&MODEL), kernels(1)).unwrap()
}

#[test]
fn a_transcript_survives_json_and_verifies() {
    assert_eq!(RECORDED.steps.len(), 12);
    let read = Transcript::from_json(&RECORDED.to_json()).unwrap();
    assert_eq!(read, *RECORDED);
    assert_eq!(verify(&read), Outcome::Equal);
}

#[test]
fn tampering_is_found_at_its_step() {
    let other = Digest::of(b"other");
    let find = |tamper: &dyn Fn(&mut Transcript)| {
        let mut transcript = RECORDED.clone();
        tamper(&mut transcript);
        match verify(&transcript) {
            Outcome::Differs { step, what, .. } => (step, what),
            Outcome::Equal => panic!("tampering was not found"),
        }
    };
    assert_eq!(find(&|t| t.steps[4].token ^= 1), (Some(4), What::Token));
    assert_eq!(
        find(&|t| t.steps[7].logits_digest = other),
        (Some(7), What::LogitsDigest)
    );
    assert_eq!(find(&|t| t.steps[11].link = other), (Some(11), What::Link));
    assert_eq!(
        find(&|t| t.prompt_tokens[0] += 1),
        (None, What::PromptTokens)
    );
    assert_eq!(find(&|t| t.sampling.seed += 1), (None, What::FirstLink));
    assert_eq!(find(&|t| t.first_link = other), (None, What::FirstLink));
    assert_eq!(find(&|t| t.text.push('!')), (None, What::Text));
    assert_eq!(find(&|t| t.end_of_text ^= true), (None, What::Ending));
    let wording = |t: &mut Transcript| t.prompt = Prompt::Text("others".to_owned());
    assert_eq!(find(&wording), (None, What::PromptTokens));
}

#[test]
fn steps_beyond_the_context_are_found() {
    let mut transcript = Transcript::record(
        Arc::clone(&MODEL),
        kernels(1),
        Prompt::Tokens(vec![9; fixture::CONTEXT_LENGTH]),
        Sampling::GREEDY,
        5,
    )
    .unwrap();
    assert_eq!(transcript.steps.len(), 1);
    transcript.steps.push(transcript.steps[0]);
    assert!(matches!(
        verify(&transcript),
        Outcome::Differs {
            step: Some(1),
            what: What::Length,
            ..
        }
    ));
}

#[test]
fn a_transcript_of_another_model_is_refused() {
    let mut transcript = RECORDED.clone();
    transcript.model_digest = Digest::of(b"other");
    let error = transcript
        .verify(Arc::clone(&MODEL), kernels(1))
        .unwrap_err();
    assert!(matches!(error, TranscriptError::OtherModel { .. }));
}

#[test]
fn the_parser_is_strict() {
    let json = RECORDED.to_json();
    let error = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        Transcript::from_json(&json.replacen(from, to, 1))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("\"format_version\": 1", "\"format_version\": 2"),
        "unsupported format version (supported: 1): 2"
    );
    assert_eq!(
        error("\"arithmetic_version\": 1", "\"arithmetic_version\": 9"),
        "unsupported arithmetic version (supported: 1): 9"
    );
    assert_eq!(
        error("\"profile\": \"f32\"", "\"profile\": \"int\""),
        "unsupported profile (supported: f32): int"
    );
    let link = RECORDED.first_link.to_string();
    assert!(error(&link, &link[2..]).contains("not a digest of 64 hexadecimal digits"));
    assert!(error("\"seed\"", "\"speed\"").contains("unknown field `speed`"));
    assert!(error("\"steps\"", "\"stairs\"").contains("unknown field `stairs`"));
    assert!(Transcript::from_json("{}").is_err());
    assert!(Transcript::from_json(&json[..json.len() / 2]).is_err());
}
