use super::*;
use crate::fixture::{self, GgufBuilder};

const MULTILINGUAL: &str = "The 42 users in there called.\n\n  Zürich, naïve café; Ελληνικά \
    Русский 日本語 हिन्दी عربى 👩‍👩‍👧 \t tab\u{0}nul \u{10ffff}\u{fdd0}<|im_end|>";

fn build(file: &GgufBuilder) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_metadata(&Gguf::parse(&file.build()).unwrap())
}

fn tokenizer() -> Tokenizer {
    build(&fixture::tiny_llama(1)).unwrap()
}

#[test]
fn text_round_trips_without_control_tokens() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode(MULTILINGUAL, Control::Spelled);
    assert!(ids.iter().all(|&id| id > 2));
    assert_eq!(tokenizer.decode(&ids), MULTILINGUAL.as_bytes());
    let shielded = tokenizer.shield(MULTILINGUAL);
    assert_eq!(tokenizer.encode(&shielded, Control::Parsed), ids);
}

#[test]
fn merges_apply_within_words_and_digits_stand_alone() {
    let tokenizer = tokenizer();
    let spellings: Vec<_> = tokenizer
        .encode("the the users 123", Control::Spelled)
        .into_iter()
        .map(|id| tokenizer.spelling(id).unwrap().to_owned())
        .collect();
    assert_eq!(
        spellings,
        ["the", "Ġthe", "Ġ", "user", "s", "Ġ", "1", "2", "3"]
    );
}

#[test]
fn control_tokens_are_parsed_only_on_request() {
    let tokenizer = tokenizer();
    let text = "<|im_start|>a<|im_end|>";
    let a = tokenizer.encode("a", Control::Spelled)[0];
    assert_eq!(tokenizer.encode(text, Control::Parsed), [1, a, 2]);
    assert!(tokenizer.encode(text, Control::Spelled).len() > 10);
    assert_eq!(tokenizer.decode(&[1, a, 2]), b"a");
    assert_eq!(tokenizer.decode(&[u32::MAX]), b"");
}

#[test]
fn user_defined_tokens_are_whole_in_all_text_and_longest_first() {
    let file = fixture::tiny_llama(1);
    let bytes = file.build();
    let gguf = Gguf::parse(&bytes).unwrap();
    let mut tokens = gguf.array("tokenizer.ggml.tokens").unwrap().to_vec();
    let mut types = gguf.array("tokenizer.ggml.token_type").unwrap().to_vec();
    for token in ["<think>", "<think>\n"] {
        tokens.push(Value::String(token.to_owned()));
        types.push(Value::I32(4));
    }
    let count = tokens.len() as u32;
    let tokenizer = build(
        &file
            .set("tokenizer.ggml.tokens", Value::Array(tokens))
            .set("tokenizer.ggml.token_type", Value::Array(types)),
    )
    .unwrap();
    let ids = tokenizer.encode("<think>\n<think>", Control::Spelled);
    assert_eq!(ids, [count - 1, count - 2]);
    assert_eq!(tokenizer.decode(&ids), b"<think>\n<think>");
    assert_eq!(tokenizer.shield("<think>"), "<think>");
}

#[test]
fn unusable_metadata_are_named() {
    let text = |text: &str| Value::String(text.to_owned());
    let file = fixture::tiny_llama(1);
    let error = build(&file.clone().set("tokenizer.ggml.pre", text("qwen2"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unsupported pre-tokenizer (known: smollm, gpt-2): qwen2"
    );
    let error = build(&file.clone().set("tokenizer.ggml.model", text("llama"))).unwrap_err();
    assert!(matches!(error, TokenizerError::UnsupportedTokenizer { .. }));
    let merges = Value::Array(vec![text("t h"), text("q zz")]);
    let error = build(&file.clone().set("tokenizer.ggml.merges", merges)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "merge 1 names a token that is not in the vocabulary: zz"
    );
    let error = build(&file.set("tokenizer.ggml.eos_token_id", Value::U32(9999))).unwrap_err();
    assert!(matches!(
        error,
        TokenizerError::IdOutOfRange { id: 9999, .. }
    ));
}
