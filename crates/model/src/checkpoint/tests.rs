//! Checkpoints of every architecture: the bits of the GGUF files that they are made of, and what is wrong with others.
use super::{wanted as wanted_name, *};
use crate::{
    Digest, Model, Sequence,
    arch::TINY,
    fixture::{self, Element, TinyCheckpoint, Weights},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use serde_json::json;
use std::{fs, num::NonZeroUsize, sync::Arc};

type Named = BTreeMap<String, Vec<u8>>;

fn open(files: &Named) -> Result<Vec<u8>, CheckpointError> {
    let files = files
        .iter()
        .map(|(name, bytes)| (name.clone(), bytes.as_slice()));
    let checkpoint = Checkpoint::open(&files.collect())?;
    let mut file = Vec::new();
    checkpoint.write(&mut file).unwrap();
    assert_eq!(file.len() as u64, checkpoint.file_bytes());
    Ok(file)
}

fn logits(model: Arc<Model>) -> Vec<u32> {
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Arc::new(Kernels::new(Isa::Portable, pool).unwrap());
    let mut sequence = Sequence::new(model, kernels, 16);
    sequence
        .begin(&[1, 90, 80, 70, 60, 50, 40, 30, 20, 10, 9, 8, 7, 6], true)
        .unwrap();
    sequence.finish();
    sequence
        .logits()
        .iter()
        .map(|logit| logit.to_bits())
        .collect()
}

#[test]
fn a_checkpoint_has_the_bits_of_its_file() {
    for of in TINY {
        let wanted = fixture::tiny(of, 7, Weights::Float).build();
        let wanted_file = Gguf::parse(&wanted).unwrap();
        for shards in [1, 3] {
            let checkpoint = TinyCheckpoint {
                shards,
                ..TinyCheckpoint::new(of, 7)
            };
            let made = open(&checkpoint.files()).unwrap();
            let made_file = Gguf::parse(&made).unwrap();
            assert!(made_file.tensors().keys().eq(wanted_file.tensors().keys()));
            for (name, info) in wanted_file.tensors() {
                let other = &made_file.tensors()[name];
                assert_eq!(info.dimensions, other.dimensions, "{name}");
                assert_eq!(info.tensor_type, other.tensor_type, "{name}");
                let bytes = |file: &Gguf<'_>| file.tensor_bytes(name).unwrap().to_vec();
                assert_eq!(bytes(&wanted_file), bytes(&made_file), "{name}");
            }
            for (key, value) in wanted_file.metadata() {
                // A key and value length that follow from the others are not said again.
                assert_eq!(made_file.metadata().get(key), Some(value), "{key}");
            }
            let [wanted, made] = [&wanted, &made].map(|bytes| Model::from_bytes(bytes).unwrap());
            assert_eq!(wanted.graph(), made.graph());
            assert_eq!(logits(wanted), logits(made), "{}", of.architecture);
        }
    }
}

#[test]
fn a_folder_opens_as_a_model_whatever_its_name() {
    let files = TinyCheckpoint::new(&TINY[0], 3).files();
    let wanted = Digest::of(&open(&files).unwrap());
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        assert!(wanted_name(name), "{name}");
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    fs::write(folder.path().join("README.md"), "words").unwrap();
    let model = Model::open(folder.path()).unwrap();
    assert_eq!(model.digest(), wanted);
    assert_eq!(model.name(), "tiny");
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let error = Model::open(folder.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the checkpoint has no file of this name: model.safetensors"
    );
}

#[test]
fn matrices_keep_their_type_and_vectors_do_not() {
    for (element, name, file_type) in [(Element::F16, "F16", 1), (Element::Bf16, "BF16", 32)] {
        for of in TINY {
            let checkpoint = TinyCheckpoint {
                element,
                ..TinyCheckpoint::new(of, 7)
            };
            let made = open(&checkpoint.files()).unwrap();
            let file = Gguf::parse(&made).unwrap();
            assert_eq!(file.unsigned("general.file_type").unwrap(), file_type);
            for (tensor, info) in file.tensors() {
                let is_vector = info.dimensions.len() == 1 || tensor.ends_with("conv.weight");
                let wanted = if is_vector { "F32" } else { name };
                assert_eq!(info.tensor_type.name(), wanted, "{tensor}");
            }
            logits(Model::from_bytes(&made).unwrap());
        }
    }
}

#[test]
fn settings_of_the_first_dense_ones_with_convolutions_are_understood() {
    let of = &TINY[4];
    let mut checkpoint = TinyCheckpoint::new(of, 7);
    let settings = checkpoint.config.as_object_mut().unwrap();
    settings.remove("intermediate_size").unwrap();
    settings.remove("layer_types").unwrap();
    let attending = of
        .attends
        .iter()
        .enumerate()
        .filter(|(_, attends)| **attends);
    let attending: Vec<usize> = attending.map(|(layer, _)| layer).collect();
    settings.insert("full_attn_idxs".to_owned(), json!(attending));
    settings.insert("block_ff_dim".to_owned(), json!(144));
    settings.insert("block_auto_adjust_ff_dim".to_owned(), json!(true));
    settings.insert("block_multiple_of".to_owned(), json!(32));
    let made = Model::from_bytes(&open(&checkpoint.files()).unwrap()).unwrap();
    let wanted = fixture::tiny(of, 7, Weights::Float).build();
    let wanted = Model::from_bytes(&wanted).unwrap();
    assert_eq!(logits(wanted), logits(made));
}

/// The error of a checkpoint of the first architecture, or of the one of that number, after a change.
fn error_of(of: usize, change: impl FnOnce(&mut TinyCheckpoint)) -> String {
    let mut checkpoint = TinyCheckpoint::new(&TINY[of], 1);
    change(&mut checkpoint);
    open(&checkpoint.files()).unwrap_err().to_string()
}

#[test]
fn settings_that_are_not_computed_are_refused_by_name() {
    let feature = |of: usize, key: &str, value: Json| {
        let error = error_of(of, |checkpoint| checkpoint.config[key] = value);
        let start = "the checkpoint uses a feature that is not supported: ";
        error.strip_prefix(start).expect(&error).to_owned()
    };
    let at = |name: &str| TINY.iter().position(|of| of.architecture == name).unwrap();
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0 });
    assert_eq!(feature(0, "rope_scaling", yarn), "rotary scaling: yarn");
    assert_eq!(
        feature(0, "hidden_act", json!("gelu")),
        "hidden_act = \"gelu\" (config.json)"
    );
    assert_eq!(
        feature(0, "attention_bias", json!(true)),
        "attention_bias = true (config.json)"
    );
    assert_eq!(
        feature(0, "sliding_window", json!(64)),
        "windows of attention: sliding_window = 64"
    );
    assert_eq!(
        feature(at("gemma3"), "query_pre_attn_scalar", json!(168)),
        "queries scaled by another number than the length of heads: query_pre_attn_scalar = 168"
    );
    assert_eq!(
        feature(at("gemma3"), "final_logit_softcapping", json!(30.0)),
        "final_logit_softcapping = 30.0 (config.json)"
    );
    let types: Vec<&str> = ["full_attention", "full_attention", "sliding_attention"]
        .into_iter()
        .cycle()
        .take(7)
        .collect();
    assert_eq!(
        feature(at("gemma3"), "layer_types", json!(types)),
        "windows of attention in no regular order: layer_types"
    );
    assert_eq!(
        feature(at("lfm2"), "conv_bias", json!(true)),
        "conv_bias = true (config.json)"
    );
    assert_eq!(
        feature(at("lfm2moe"), "norm_topk_prob", json!(false)),
        "norm_topk_prob = false (config.json)"
    );
    let error = error_of(0, |checkpoint| {
        checkpoint.config["model_type"] = json!("mamba")
    });
    assert_eq!(
        error,
        "unsupported model type (known: llama, mistral, qwen2, qwen3, gemma3_text, gemma3, lfm2, lfm2_moe): mamba"
    );
}

#[test]
fn settings_and_tensors_that_contradict_each_other_are_named() {
    let set =
        |key: &'static str, value: Json| error_of(0, |checkpoint| checkpoint.config[key] = value);
    assert_eq!(
        set("intermediate_size", json!(64)),
        "tensor has [64, 96] instead of dimensions [64, 64]: blk.0.ffn_gate.weight"
    );
    assert_eq!(
        set("num_hidden_layers", json!(3)),
        "tensor is missing: blk.2.attn_norm.weight"
    );
    assert_eq!(
        set("num_hidden_layers", json!(1)),
        "the architecture has no use for a tensor of the file: blk.1.attn_k.weight"
    );
    assert_eq!(
        set("vocab_size", json!(300)),
        "config.json has something else than the size of the embedding in vocab_size: 300, but the embedding has 268 rows"
    );
    assert_eq!(
        set("num_hidden_layers", json!(1u64 << 40)),
        "config.json has something else than a number from 0 to 16777216 in num_hidden_layers: 1099511627776"
    );
    assert_eq!(
        set("hidden_size", json!("wide")),
        "config.json has something else than a number from 0 to 16777216 in hidden_size: \"wide\""
    );
    assert_eq!(
        set("hidden_size", Json::Null),
        "config.json does not say: hidden_size"
    );
    assert_eq!(
        set("tie_word_embeddings", json!(false)),
        "tensor is missing in model.safetensors: lm_head.weight"
    );
    assert_eq!(
        error_of(0, |checkpoint| {
            checkpoint.tensors.insert(
                "model.layers.0.side.weight".to_owned(),
                (vec![1], vec![0.0]),
            );
        }),
        "the architecture has no use for a tensor of the checkpoint: model.layers.0.side.weight"
    );
    assert_eq!(
        error_of(0, |checkpoint| {
            checkpoint
                .tensors
                .insert("norm.weight".to_owned(), (vec![64], vec![0.0; 64]));
        }),
        "tensor is in two files, model.norm.weight and norm.weight: output_norm.weight"
    );
    assert_eq!(
        error_of(0, |checkpoint| checkpoint.element = Element::F64),
        "tensor type is not supported here (supported: F32, F16, BF16): model.embed_tokens.weight is F64"
    );
    assert_eq!(
        error_of(0, |checkpoint| {
            checkpoint
                .tensors
                .insert("model.norm.weight".to_owned(), (vec![0], vec![]));
        }),
        "tensor has no elements: model.norm.weight"
    );
    let experts = TINY.iter().position(|of| of.experts.is_some()).unwrap();
    assert_eq!(
        error_of(experts, |checkpoint| {
            checkpoint
                .tensors
                .remove("model.layers.1.feed_forward.experts.2.w1.weight")
                .unwrap();
        }),
        "tensor is missing in model.safetensors: expert 2 of blk.1.ffn_gate_exps.weight"
    );
}

#[test]
fn files_that_are_missing_or_malformed_are_named() {
    let checkpoint = TinyCheckpoint {
        shards: 2,
        ..TinyCheckpoint::new(&TINY[0], 1)
    };
    let files = checkpoint.files();
    let error = |change: &dyn Fn(&mut Named)| {
        let mut files = files.clone();
        change(&mut files);
        open(&files).unwrap_err().to_string()
    };
    let shard = "model-00002-of-00002.safetensors";
    for name in ["config.json", "tokenizer.json", shard] {
        assert_eq!(
            error(&|files| drop(files.remove(name))),
            format!("the checkpoint has no file of this name: {name}")
        );
    }
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        INDEX,
    ] {
        for (text, wanted) in [("{", "JSON"), ("", "JSON"), ("\"x\u{0}", "JSON")] {
            let error = error(&|files| drop(files.insert(name.to_owned(), text.into())));
            assert!(error.contains(wanted) && error.contains(name), "{error}");
        }
        let nested = "[".repeat(1 << 16);
        let error = error(&|files| drop(files.insert(name.to_owned(), nested.clone().into())));
        assert!(error.ends_with(name), "{error}");
    }
    assert_eq!(
        error(&|files| drop(files.insert("config.json".to_owned(), b"[]".to_vec()))),
        "config.json has something else than an object in the file: []"
    );
    // Truncated, with a header that is too long, or none.
    let truncate =
        |length: usize| error(&|files: &mut Named| files.get_mut(shard).unwrap().truncate(length));
    for length in [0, 7, 8, 100, files[shard].len() - 1] {
        assert_eq!(
            truncate(length),
            format!("file is not a safetensors file: {shard}")
        );
    }
    let huge = |files: &mut Named| {
        files.get_mut(shard).unwrap()[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    };
    assert_eq!(
        error(&huge),
        format!("file is not a safetensors file: {shard}")
    );
    let index = |map: Json| {
        let text = json!({ "weight_map": map }).to_string();
        error(&|files: &mut Named| {
            files.insert(INDEX.to_owned(), text.clone().into_bytes());
        })
    };
    assert_eq!(
        index(json!({ "x": shard })),
        format!("tensor is missing in {shard}: x")
    );
    assert_eq!(
        index(json!({ "x": "../../etc/passwd" })),
        "the checkpoint has no file of this name: ../../etc/passwd"
    );
    assert_eq!(
        index(json!({ "x": 1 })),
        format!("file is not the JSON that is expected: {INDEX}")
    );
    let template = |files: &mut Named| {
        files.insert(TEMPLATE.to_owned(), b"\xff".to_vec());
    };
    assert_eq!(error(&template), "file is not UTF-8: chat_template.jinja");
    let template = |files: &mut Named| {
        files.insert(TEMPLATE.to_owned(), b"{% for %}".to_vec());
    };
    assert!(error(&template).starts_with("chat template is not valid Jinja: line 1: "));
}

#[test]
fn tokenizers_that_are_not_known_are_refused_by_name() {
    let error =
        |change: &dyn Fn(&mut Json)| error_of(0, |checkpoint| change(&mut checkpoint.tokenizer));
    let unsupported = "the checkpoint uses a feature that is not supported: ";
    assert_eq!(
        error(&|json| json["normalizer"] = json!({ "type": "Lowercase" })),
        format!("{unsupported}a change of texts (tokenizer.json): {{\"type\":\"Lowercase\"}}")
    );
    assert_eq!(
        error(&|json| json["pre_tokenizer"] = json!({ "type": "Whitespace" })),
        format!(
            "{unsupported}a way to cut texts into words (tokenizer.json): {{\"type\":\"Whitespace\"}}"
        )
    );
    assert_eq!(
        error(&|json| json["model"]["type"] = json!("WordPiece")),
        format!("{unsupported}a tokenizer of this kind: WordPiece")
    );
    assert_eq!(
        error(&|json| json["model"]["ignore_merges"] = json!(true)),
        format!("{unsupported}words cut as smollm, with ignore_merges = true (tokenizer.json)")
    );
    assert_eq!(
        error(&|json| json["added_tokens"][1]["lstrip"] = json!(true)),
        format!("{unsupported}an added token that takes in what is beside it: <|im_start|>")
    );
    assert_eq!(
        error(&|json| json["model"]["vocab"]["a"] = json!(1)),
        "two tokens have the id 1: <|im_start|> and a"
    );
    assert_eq!(
        error(&|json| json["model"]["vocab"]["more"] = json!(268)),
        "tokenizer.json has something else than a number below 268, the rows of the embedding in the id of \"more\": 268"
    );
    assert_eq!(
        error(&|json| json["model"]["merges"][0] = json!("t x y")),
        "tokenizer.json has something else than pairs of tokens in merges: number 0"
    );
    assert_eq!(
        error_of(0, |checkpoint| checkpoint.tokenizer_config["eos_token"] =
            json!("</end>")),
        "tokenizer_config.json has something else than a token of the vocabulary in eos_token: \"</end>\""
    );
    assert_eq!(
        error_of(0, |checkpoint| {
            checkpoint.tokenizer_config["eos_token"] = Json::Null;
            checkpoint.config["eos_token_id"] = json!(9999);
        }),
        "config.json has something else than an id of the vocabulary in eos_token_id: 9999"
    );
}

/// The metadata of a checkpoint's tokenizer, with so many rows.
fn tokens(tokenizer: &Json, settings: &Json, rows: usize) -> BTreeMap<String, Value> {
    let (tokenizer, settings) = (tokenizer.to_string(), settings.to_string());
    let files = Files::from([
        (TOKENIZER.to_owned(), tokenizer.as_bytes()),
        (TOKENIZER_CONFIG.to_owned(), settings.as_bytes()),
    ]);
    let none = json!({});
    let config = Config::new(CONFIG, &none).unwrap();
    let metadata = tokens::metadata(&files, &config, rows).unwrap();
    metadata.into_iter().collect()
}

/// All bytes, and what a model adds to them.
fn with_bytes(more: &[&str]) -> Vec<String> {
    let mut tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(more.iter().map(|token| (*token).to_owned()));
    tokens
}

#[test]
fn sentencepiece_tokenizers_are_recognised() {
    let added = json!([
        { "id": 0, "content": "<unk>", "special": true },
        { "id": 1, "content": "<s>", "special": true },
        { "id": 2, "content": "</s>", "special": true },
        { "id": 266, "content": "\n\n", "special": false },
    ]);
    let tokens_of = with_bytes(&["\u{2581}", "a", "b", "c", "ab", "bc", "\u{2581}ab"]);
    let vocabulary: serde_json::Map<String, Json> = tokens_of
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" });
    let bpe = |normalizer: Json, cutting: Json| {
        json!({
            "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": cutting,
            "post_processor": { "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>" } }] },
            "model": {
                "type": "BPE", "vocab": vocabulary, "unk_token": "<unk>", "byte_fallback": true,
                "merges": [["b", "c"], ["a", "b"], ["\u{2581}", "ab"]],
            },
        })
    };
    let prepend = json!({ "type": "Prepend", "prepend": "\u{2581}" });
    let both = json!({ "type": "Sequence", "normalizers": [prepend, replace] });
    let split =
        json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious" });
    let meta = |scheme: &str| json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false });
    let settings = json!({ "bos_token": "<s>", "eos_token": "</s>" });
    for (normalizer, cutting, space_first) in [
        (both, Json::Null, true),
        (replace, split, false),
        (Json::Null, meta("first"), true),
        (Json::Null, meta("never"), false),
    ] {
        let metadata = tokens(&bpe(normalizer, cutting), &settings, 268);
        let get = |key: &str| &metadata[&format!("tokenizer.ggml.{key}")];
        assert_eq!(get("add_space_prefix"), &Value::Bool(space_first));
        assert_eq!(get("add_bos_token"), &Value::Bool(true));
        assert_eq!(get("unknown_token_id"), &Value::U32(0));
        let scores = get("scores").as_array().unwrap();
        let score = |id: usize| scores[id].as_f32().unwrap();
        let id = |token: &str| tokens_of.iter().position(|known| known == token).unwrap();
        assert!(score(id("bc")) > score(id("ab")) && score(id("ab")) > score(id("\u{2581}ab")));
        assert!(score(id("\u{2581}ab")) > score(id("a")));
        let kinds = get("token_type").as_array().unwrap();
        let kind = |id: usize| kinds[id].as_u64().unwrap();
        let found = [0, 1, 3, id("a"), 266, 267].map(kind);
        assert_eq!(found, [2, 3, 6, 1, 4, 5]);
        let table: Vec<_> = metadata.clone().into_iter().collect();
        let tokenizer = Tokenizer::from_metadata(&Gguf::of_table(&table, &[]).unwrap()).unwrap();
        let spelled = |text: &str| {
            let ids = tokenizer.encode(text, crate::tokenizer::Control::Spelled);
            assert_eq!(tokenizer.decode(&ids), text.as_bytes());
            let ids = ids.into_iter().map(|id| tokenizer.spelling(id).unwrap());
            ids.collect::<Vec<_>>().join("|")
        };
        let before = if space_first { "\u{2581}|" } else { "" };
        assert_eq!(spelled("abc\n\n"), format!("{before}a|bc|\n\n"));
    }
}

#[test]
fn unigram_tokenizers_are_recognised() {
    let tokens_of = with_bytes(&["\u{2581}", "a", "ab"]);
    let scored: Vec<Json> = tokens_of.iter().map(|token| json!([token, -1.5])).collect();
    let file = json!({
        "added_tokens": [{ "id": 1, "content": "<s>", "special": true }],
        "pre_tokenizer": { "type": "Metaspace", "replacement": "\u{2581}", "add_prefix_space": true },
        "model": { "type": "Unigram", "vocab": scored, "unk_id": 0, "byte_fallback": true },
    });
    let metadata: Vec<_> = tokens(&file, &json!({}), 262).into_iter().collect();
    let tokenizer = Tokenizer::from_metadata(&Gguf::of_table(&metadata, &[]).unwrap()).unwrap();
    let ids = tokenizer.encode("ab \u{e9}", crate::tokenizer::Control::Spelled);
    let spelled = ids.iter().map(|id| tokenizer.spelling(*id).unwrap());
    assert_eq!(
        spelled.collect::<Vec<_>>().join("|"),
        "\u{2581}|ab|\u{2581}|<0xC3>|<0xA9>"
    );
    assert_eq!(tokenizer.decode(&ids), "ab \u{e9}".as_bytes());
}

#[test]
fn patterns_of_words_are_recognised() {
    let pattern = |digits: &str| {
        format!(
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|{digits}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
        )
    };
    let bytes =
        |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": regex });
    let split = |digits: &str| {
        let split = json!({
            "type": "Split", "pattern": { "Regex": pattern(digits) }, "behavior": "Isolated", "invert": false
        });
        json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] })
    };
    for (cutting, ignore_merges, form, name) in [
        (bytes(true), false, Json::Null, "gpt-2"),
        (split("\\p{N}{1,3}"), true, Json::Null, "llama-bpe"),
        (split("\\p{N}"), false, json!({ "type": "NFC" }), "qwen2"),
    ] {
        let mut checkpoint = TinyCheckpoint::new(&TINY[0], 1);
        checkpoint.tokenizer["pre_tokenizer"] = cutting;
        checkpoint.tokenizer["normalizer"] = form;
        checkpoint.tokenizer["model"]["ignore_merges"] = json!(ignore_merges);
        let made = open(&checkpoint.files()).unwrap();
        let file = Gguf::parse(&made).unwrap();
        assert_eq!(file.text("tokenizer.ggml.pre").unwrap(), name);
    }
}

#[test]
fn rotations_are_stretched_as_the_settings_say() {
    let factors = |scaling: Json| {
        let mut checkpoint = TinyCheckpoint::new(&TINY[0], 1);
        checkpoint.config["rope_scaling"] = scaling;
        let made = open(&checkpoint.files())?;
        let file = Gguf::parse(&made).unwrap();
        let (words, _) = file
            .tensor_bytes("rope_freqs.weight")
            .unwrap()
            .as_chunks::<4>();
        Ok::<_, CheckpointError>(
            words
                .iter()
                .map(|word| f32::from_le_bytes(*word))
                .collect::<Vec<_>>(),
        )
    };
    let scaling = |low: f64| {
        json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        })
    };
    let found = factors(scaling(1.0)).unwrap();
    // Base 10000 and 16 values: frequencies 10^(-i/2); 64 positions make 10.2, 3.2, 1.02, 0.3 turns and so on.
    let smooth = |turns: f64| 1.0 / ((1.0 - (turns - 1.0) / 3.0) / 8.0 + (turns - 1.0) / 3.0);
    let turns = |pair: i32| 64.0 / std::f64::consts::TAU / [1.0, 10f64.sqrt(), 10.0][pair as usize];
    assert_eq!(found[0], 1.0);
    assert!((f64::from(found[1]) - smooth(turns(1))).abs() < 1e-6);
    assert!((f64::from(found[2]) - smooth(turns(2))).abs() < 1e-5);
    assert_eq!(found[3..], [8.0; 5]);
    assert_eq!(
        factors(scaling(4.0)).unwrap_err().to_string(),
        "config.json has something else than below high_freq_factor in low_freq_factor: 4.0"
    );
    assert_eq!(
        factors(scaling(-1.0)).unwrap_err().to_string(),
        "config.json has something else than a number above 0 in low_freq_factor: -1.0"
    );
}
