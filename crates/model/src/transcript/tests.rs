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
        ..Sampling::GREEDY
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
fn options_that_are_not_set_are_not_written() {
    let json: serde_json::Value = serde_json::from_str(&RECORDED.to_json()).unwrap();
    let names = |value: &serde_json::Value| -> Vec<String> {
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&json["sampling"]),
        ["seed", "temperature_milli", "top_k", "top_p_milli"]
    );
    for name in ["steering", "steered_end"] {
        assert!(json.get(name).is_none(), "{name}");
    }
}

#[test]
fn a_steered_run_survives_json_and_verifies() {
    let sampling = Sampling {
        min_p_milli: 10,
        repetition_penalty_milli: 1001,
        ..RECORDED.sampling
    };
    let mut heard = Vec::new();
    let mut record = |stop: Vec<String>| {
        let steering = Steering {
            stop,
            bias: [(0, crate::Bias::Ban), (7, crate::Bias::Milli(-20))].into(),
            schema: None,
        };
        let params = Params {
            sampling,
            steering,
            ..Params::default()
        };
        let (model, prompt) = (Arc::clone(&MODEL), RECORDED.prompt.clone());
        let hear = |text: &[u8]| heard = text.to_vec();
        Transcript::record_with(model, kernels(2), prompt, params, 40, hear).unwrap()
    };
    let whole = record(Vec::new()).text;
    let stop = whole.chars().skip(5).find(char::is_ascii).unwrap();
    let recorded = record(vec![stop.to_string(), "another".to_owned()]);
    assert_eq!(recorded.steered_end, Some(Ended::Stopped));
    assert!(recorded.text.len() < whole.len());
    assert_eq!(String::from_utf8_lossy(&heard), recorded.text);
    let read = Transcript::from_json(&recorded.to_json()).unwrap();
    assert_eq!(read, recorded);
    assert_eq!(verify(&read), Outcome::Equal);

    let find = |tamper: &dyn Fn(&mut Transcript)| {
        let mut transcript = recorded.clone();
        tamper(&mut transcript);
        match verify(&transcript) {
            Outcome::Differs { step, what, .. } => (step, what),
            Outcome::Equal => panic!("tampering was not found"),
        }
    };
    assert_eq!(find(&|t| t.steered_end = None), (None, What::Ending));
    assert_eq!(
        find(&|t| t.steering.stop.truncate(1)),
        (None, What::FirstLink)
    );
    assert_eq!(
        find(&|t| t.sampling.min_p_milli = 0),
        (None, What::FirstLink)
    );
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

#[test]
fn the_format_of_the_cache_is_part_of_a_run() {
    let tiny = crate::fixture::Tiny {
        head_dim: 32,
        ..crate::arch::TINY[0]
    };
    let file = crate::fixture::tiny(&tiny, 2, crate::fixture::Weights::Mixed).build();
    let model = Model::from_bytes(&file).unwrap();
    let record = |kv| {
        let params = Params {
            kv,
            ..Params::default()
        };
        let (model, prompt) = (Arc::clone(&model), RECORDED.prompt.clone());
        Transcript::record_with(model, kernels(2), prompt, params, 6, |_| ()).unwrap()
    };
    let runs = KvFormat::ALL.map(record);
    for (run, format) in runs.iter().zip(KvFormat::ALL) {
        let json = run.to_json();
        assert_eq!(json.contains("\"kv\""), format != KvFormat::F16);
        let read = Transcript::from_json(&json).unwrap();
        assert_eq!(&read, run);
        let outcome = read.verify(Arc::clone(&model), kernels(1)).unwrap();
        assert_eq!(outcome, Outcome::Equal);
        for other in KvFormat::ALL {
            let forged = Transcript {
                kv: other,
                ..read.clone()
            };
            let outcome = forged.verify(Arc::clone(&model), kernels(1)).unwrap();
            assert_eq!(outcome == Outcome::Equal, other == format);
        }
    }
    let json = runs[1].to_json().replace("\"q8\"", "\"q9\"");
    let error = Transcript::from_json(&json).unwrap_err().to_string();
    assert!(
        error.contains("unknown format of keys and values: q9"),
        "{error}"
    );
}
