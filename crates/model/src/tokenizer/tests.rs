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
    let error = build(&file.clone().set("tokenizer.ggml.pre", text("tekken"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unsupported pre-tokenizer (known: gpt-2, smollm, llama-bpe, llama3, llama-v3, lfm2, qwen2, deepseek-r1-qwen): tekken"
    );
    let error = build(&file.clone().set("tokenizer.ggml.model", text("rwkv"))).unwrap_err();
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

/// The words that a text is cut into, as they are spelled.
fn words(pre: &str, text: &str) -> Vec<String> {
    let mut pieces = PreTokenizedString::from(text);
    let words = Words::named(pre).unwrap();
    words.splitter.pre_tokenize(&mut pieces).unwrap();
    let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
    let pieces = pieces.into_iter().map(|(piece, ..)| piece.to_owned());
    pieces.collect()
}

#[test]
fn words_are_cut_as_the_names_say() {
    let text = "It's 12345 naïve\n\n  I'LL go...\n x";
    let cut = |pre| words(pre, text).join("|");
    assert_eq!(
        cut("gpt-2"),
        "It|'s|Ġ12345|ĠnaÃ¯ve|ĊĊĠ|ĠI|'|LL|Ġgo|...|Ċ|Ġx"
    );
    assert_eq!(
        cut("smollm"),
        "It|'s|Ġ|1|2|3|4|5|ĠnaÃ¯ve|ĊĊĠ|ĠI|'|LL|Ġgo|...|Ċ|Ġx"
    );
    assert_eq!(
        cut("qwen2"),
        "It|'s|Ġ|1|2|3|4|5|ĠnaÃ¯ve|ĊĊ|Ġ|ĠI|'LL|Ġgo|...Ċ|Ġx"
    );
    for pre in ["llama-bpe", "lfm2"] {
        assert_eq!(cut(pre), "It|'s|Ġ|123|45|ĠnaÃ¯ve|ĊĊ|Ġ|ĠI|'LL|Ġgo|...Ċ|Ġx");
    }
}

/// A vocabulary for SentencePiece's BPE: all bytes, and some tokens with their scores.
fn sentencepiece(tokens: &[(&str, f32)]) -> GgufBuilder {
    let text = |text: &str| Value::String(text.to_owned());
    let mut spelled = vec![text("<unk>"), text("<s>"), text("</s>")];
    let mut types = [2, 3, 3].map(Value::I32).to_vec();
    let mut scores = vec![Value::F32(0.0); 3];
    for byte in 0..=255 {
        spelled.push(text(&format!("<0x{byte:02X}>")));
        types.push(Value::I32(6));
        scores.push(Value::F32(0.0));
    }
    for (token, score) in tokens {
        spelled.push(text(token));
        types.push(Value::I32(1));
        scores.push(Value::F32(*score));
    }
    fixture::tiny_llama(1)
        .set("tokenizer.ggml.model", text("llama"))
        .set("tokenizer.ggml.tokens", Value::Array(spelled))
        .set("tokenizer.ggml.token_type", Value::Array(types))
        .set("tokenizer.ggml.scores", Value::Array(scores))
}

const PIECES: &[(&str, f32)] = &[
    ("\u{2581}", -9.0),
    ("a", -8.0),
    ("b", -7.0),
    ("ab", -2.0),
    ("ba", -2.0),
    ("\u{2581}a", -1.5),
    ("aba", -3.0),
];

#[test]
fn the_best_pair_is_joined_first_and_of_equal_ones_the_leftmost() {
    let file = sentencepiece(PIECES);
    let tokenizer = build(&file).unwrap();
    let spell = |text: &str| {
        let ids = tokenizer.encode(text, Control::Spelled);
        assert_eq!(tokenizer.decode(&ids), text.as_bytes());
        let spelled = ids.iter().map(|id| tokenizer.spelling(*id).unwrap());
        spelled.collect::<Vec<_>>().join("|")
    };
    assert_eq!(spell("ab"), "\u{2581}a|b");
    assert_eq!(spell("bab"), "\u{2581}|ba|b");
    assert_eq!(spell("b abab"), "\u{2581}|b|\u{2581}a|ba|b");
    assert_eq!(spell("baba"), "\u{2581}|ba|ba");
    assert_eq!(spell("é\n"), "\u{2581}|<0xC3>|<0xA9>|<0x0A>");
    assert!(spell(MULTILINGUAL).matches("<0x").count() > 100);
    assert_eq!(spell(""), "");
    let without = build(&file.set("tokenizer.ggml.add_space_prefix", Value::Bool(false))).unwrap();
    let ids = without.encode("ab", Control::Spelled);
    assert_eq!(without.spelling(ids[0]), Some("ab"));
    assert_eq!((ids.len(), without.decode(&ids)), (1, b"ab".to_vec()));
}

#[test]
fn scores_are_numbers_and_bytes_are_bytes() {
    let file = sentencepiece(&[("a", f32::NAN)]);
    assert_eq!(
        build(&file).unwrap_err().to_string(),
        "vocabulary entry is not of the expected type: tokenizer.ggml.scores[259]"
    );
    let file = sentencepiece(&[]).set("tokenizer.ggml.scores", Value::Array(Vec::new()));
    assert_eq!(
        build(&file).unwrap_err().to_string(),
        "vocabulary has 259 tokens but 0 scores"
    );
}

#[test]
fn no_text_becomes_a_control_token_by_being_joined() {
    // All that is needed to join the spelling of one.
    let pieces = [
        ("\u{2581}", -1.0),
        ("<", -1.0),
        ("s", -1.0),
        (">", -1.0),
        ("<s", -1.0),
    ];
    let file = sentencepiece(&pieces);
    let tokenizer = build(&file).unwrap();
    let begins = tokenizer.bos().unwrap();
    assert_eq!(tokenizer.spelling(begins), Some("<s>"));
    for text in ["<s>", "<0x0A>", "<unk>"] {
        for (text, control) in [
            (text.to_owned(), Control::Spelled),
            (tokenizer.shield(text), Control::Parsed),
        ] {
            let ids = tokenizer.encode(&text, control);
            assert_eq!(tokenizer.decode(&ids), text.replace(MARK, "").as_bytes());
            assert!(!ids.contains(&begins), "{text}");
        }
    }
    assert_eq!(tokenizer.encode("<s>", Control::Parsed), [begins]);

    // The same where words that are tokens stay whole, and by a merge.
    let file = fixture::tiny_llama(1).set("tokenizer.ggml.pre", Value::String("llama-bpe".into()));
    let bytes = file.build();
    let gguf = Gguf::parse(&bytes).unwrap();
    let mut tokens = gguf.array("tokenizer.ggml.tokens").unwrap().to_vec();
    let mut types = gguf.array("tokenizer.ggml.token_type").unwrap().to_vec();
    let mut merges = gguf.array("tokenizer.ggml.merges").unwrap().to_vec();
    let end = tokens.len() as u32;
    for token in ["END", "he"] {
        tokens.push(Value::String(token.to_owned()));
        types.push(Value::I32(3));
    }
    merges.push(Value::String("h e".to_owned()));
    let tokenizer = build(
        &file
            .set("tokenizer.ggml.tokens", Value::Array(tokens))
            .set("tokenizer.ggml.token_type", Value::Array(types))
            .set("tokenizer.ggml.merges", Value::Array(merges)),
    )
    .unwrap();
    assert_eq!(tokenizer.encode("END", Control::Parsed), [end]);
    for text in ["END", "he"] {
        let ids = tokenizer.encode(text, Control::Spelled);
        assert!(ids.iter().all(|id| *id < end), "{text}: {ids:?}");
    }
}

#[test]
fn turns_end_where_models_end_them() {
    // A file that says nothing of it, and calls the token something else.
    let file = sentencepiece(&[("<end_of_turn>", -1.0), ("a", -1.0)]);
    let tokenizer = build(&file).unwrap();
    let end = 3 + 256;
    assert!(tokenizer.is_end(end) && tokenizer.is_end(tokenizer.eos().unwrap()));
    assert!(!tokenizer.is_end(end + 1));
    assert_eq!(tokenizer.encode("<end_of_turn>", Control::Parsed), [end]);
    assert!(
        !tokenizer
            .encode("<end_of_turn>", Control::Spelled)
            .contains(&end)
    );
    assert_eq!(
        tokenizer.shield("<end_of_turn>")[..MARK.len_utf8()],
        *MARK.to_string()
    );
}

#[test]
fn shielding_takes_no_longer_for_many_control_tokens() {
    let file = fixture::tiny_llama(1);
    let bytes = file.build();
    let gguf = Gguf::parse(&bytes).unwrap();
    let mut tokens = gguf.array("tokenizer.ggml.tokens").unwrap().to_vec();
    let mut types = gguf.array("tokenizer.ggml.token_type").unwrap().to_vec();
    for number in 0..20_000 {
        tokens.push(Value::String(format!("<unused{number}>")));
        types.push(Value::I32(3));
    }
    let file = file
        .set("tokenizer.ggml.tokens", Value::Array(tokens))
        .set("tokenizer.ggml.token_type", Value::Array(types));
    let tokenizer = build(&file).unwrap();
    // A quadratic or a linear search would take minutes.
    for text in ["<".repeat(1 << 16), format!("a{}", " ".repeat(1 << 16))] {
        let shielded = tokenizer.shield(&text);
        let ids = tokenizer.encode(&shielded, Control::Parsed);
        assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    }
}

/// The same vocabulary for the unigram model.
fn unigram(tokens: &[(&str, f32)]) -> GgufBuilder {
    sentencepiece(tokens)
        .set("tokenizer.ggml.model", Value::String("t5".into()))
        .set("tokenizer.ggml.add_space_prefix", Value::Bool(true))
}

#[test]
fn unigrams_of_the_greatest_sum_are_taken() {
    let tokens = [
        ("\u{2581}", -3.0),
        ("a", -2.0),
        ("b", -2.0),
        ("c", -2.5),
        ("ab", -3.0),
        ("bc", -4.5),
        ("abc", -7.0),
        ("\u{2581}ab", -6.5),
        ("d\u{e9}", -1.0),
    ];
    let tokenizer = build(&unigram(&tokens)).unwrap();
    let spelled = |text: &str| {
        let ids = tokenizer.encode(text, Control::Spelled);
        assert_eq!(tokenizer.decode(&ids), text.as_bytes());
        let ids = ids.into_iter().map(|id| tokenizer.spelling(id).unwrap());
        ids.collect::<Vec<_>>().join("|")
    };
    // -3 - 3, not -6.5; then -3 - 2.5, not -2 - 4.5 or -7.
    assert_eq!(spelled("ab"), "\u{2581}|ab");
    assert_eq!(spelled("abc"), "\u{2581}|ab|c");
    // -4.5 either way: the longest last token.
    assert_eq!(spelled("bc"), "\u{2581}|bc");
    // No token, in bytes; a token that begins with no token.
    assert_eq!(spelled("a\u{e9}"), "\u{2581}|a|<0xC3>|<0xA9>");
    assert_eq!(spelled("d\u{e9}d"), "\u{2581}|d\u{e9}|<0x64>");
    assert_eq!(spelled("  b "), "\u{2581}|\u{2581}|\u{2581}|b|\u{2581}");
    assert_eq!(spelled(""), "");
    for text in ["<s>", "</s>", MULTILINGUAL] {
        let ids = tokenizer.encode(text, Control::Spelled);
        assert!(ids.iter().all(|id| *id > 2), "{text}");
        assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    }
}

#[test]
fn spaces_beside_each_other_are_one_where_the_file_says_so() {
    let tokens = [("\u{2581}", -3.0), ("a", -2.0)];
    let merging =
        unigram(&tokens).set("tokenizer.ggml.remove_extra_whitespaces", Value::Bool(true));
    let tokenizer = build(&merging).unwrap();
    let ids = tokenizer.encode("  a   a ", Control::Spelled);
    assert_eq!(tokenizer.decode(&ids), b"a a");
}

#[test]
fn unigram_models_that_are_not_computed_are_refused() {
    let error = |file: GgufBuilder| build(&file).unwrap_err().to_string();
    let map = Value::Array(vec![Value::U8(1)]);
    assert_eq!(
        error(unigram(&[("a", -1.0)]).set("tokenizer.ggml.precompiled_charsmap", map)),
        "the tokenizer changes texts in a way that is not supported: tokenizer.ggml.precompiled_charsmap"
    );
    let long = "a".repeat(1025);
    assert_eq!(
        error(unigram(&[(&long, -1.0)])),
        "vocabulary entry is not of the expected type: tokenizer.ggml.tokens[259]"
    );
    for score in [f32::NEG_INFINITY, f32::NAN] {
        assert_eq!(
            error(unigram(&[("a", score)])),
            "vocabulary entry is not of the expected type: tokenizer.ggml.scores[259]"
        );
    }
}
