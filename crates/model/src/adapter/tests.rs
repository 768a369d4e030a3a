use super::*;
use crate::{
    Batch, Sequence,
    arch::{self, TINY},
    execute::{Member, SequenceError},
    fixture::{self, GgufBuilder, Weights},
    generate::{Generation, Params, Prompt},
    gguf::Value,
    transcript::{Outcome, Transcript, TranscriptError},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use std::num::NonZeroUsize;

const LENGTH: usize = 24;
const F16: TensorType = TensorType::F16;
const F32: TensorType = TensorType::F32;

fn kernels(isa: Isa, threads: usize) -> Arc<Kernels> {
    let pool = Pool::new(NonZeroUsize::new(threads).unwrap());
    Arc::new(Kernels::new(isa, Arc::new(pool)).unwrap())
}

fn tokens(text: usize) -> Vec<u32> {
    (0..LENGTH as u32)
        .map(|index| (text as u32 * 41 + index * index * 7 + 3) % 268)
        .collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// A model of the first architecture, and its bytes.
fn base() -> (Arc<Model>, Vec<u8>) {
    let bytes = fixture::tiny_llama(3).build();
    (Model::from_bytes(&bytes).unwrap(), bytes)
}

fn adapter(bytes: &[u8], model: &Model, seed: u64, rank: usize, of: TensorType) -> Arc<Adapter> {
    let file = fixture::adapter(bytes, seed, rank, of, Some(model.digest())).build();
    Adapter::from_gguf(&file, model, None).unwrap()
}

fn logits(sequence: &mut Sequence, adapter: Option<Arc<Adapter>>, tokens: &[u32]) -> Vec<u32> {
    sequence.clear();
    sequence.set_adapter(adapter).unwrap();
    sequence.begin(tokens, true).unwrap();
    sequence.finish();
    bits(sequence.logits())
}

#[test]
fn a_text_has_the_bits_of_its_adapter_whatever_went_before() {
    let (model, bytes) = base();
    let [first, second] = [1, 2].map(|seed| adapter(&bytes, &model, seed, 8, F16));
    let mut sequence = Sequence::new(model.clone(), kernels(Isa::Portable, 1), LENGTH);
    let bare = logits(&mut sequence, None, &tokens(0));
    let one = logits(&mut sequence, Some(first.clone()), &tokens(0));
    let other = logits(&mut sequence, Some(second), &tokens(0));
    assert_ne!(bare, one);
    assert_ne!(one, other);
    assert_eq!(logits(&mut sequence, Some(first), &tokens(0)), one);
    assert_eq!(logits(&mut sequence, None, &tokens(0)), bare);
}

#[test]
fn texts_with_different_adapters_share_passes_with_the_bits_they_have_alone() {
    for (of, isa) in TINY
        .iter()
        .flat_map(|of| Isa::available().into_iter().map(move |isa| (of, isa)))
    {
        let bytes = fixture::tiny(of, 3, Weights::Mixed).build();
        let model = Model::from_bytes(&bytes).unwrap();
        // Of several ranks and types; the third text has none, the last two share one.
        let mut adapters = vec![
            Some(adapter(&bytes, &model, 1, 8, F16)),
            Some(adapter(&bytes, &model, 2, 8, F16)),
            None,
            Some(adapter(&bytes, &model, 3, 5, F32)),
            Some(adapter(&bytes, &model, 4, 19, F16)),
        ];
        adapters.push(adapters[4].clone());
        let mut alone = Sequence::new(model.clone(), kernels(Isa::Portable, 1), LENGTH);
        let mut wanted = Vec::new();
        let mut prices = Vec::new();
        for (text, adapter) in adapters.iter().enumerate() {
            alone.clear();
            alone.set_adapter(adapter.clone()).unwrap();
            let mut price = 0;
            for token in tokens(text) {
                alone.begin(&[token], true).unwrap();
                price += alone.finish();
            }
            wanted.push(bits(alone.logits()));
            prices.push(price);
        }
        assert!(prices[0] > prices[2] && prices[4] == prices[5]);
        let mut texts: Vec<Sequence> = adapters
            .iter()
            .map(|adapter| {
                let mut sequence = Sequence::new(model.clone(), kernels(isa, 1), LENGTH);
                sequence.set_adapter(adapter.clone()).unwrap();
                sequence
            })
            .collect();
        let mut batch = Batch::new(model.clone(), kernels(isa, 2));
        let all: Vec<Vec<u32>> = (0..texts.len()).map(tokens).collect();
        // Chunks of different lengths, and not all want logits each time.
        let mut at = vec![0; texts.len()];
        for round in 0.. {
            let members = texts.iter_mut().enumerate().filter_map(|(text, sequence)| {
                let length = (1 + (text + round) % 4).min(LENGTH - at[text]);
                let tokens = &all[text][at[text]..at[text] + length];
                at[text] += length;
                (length > 0).then_some(Member {
                    sequence,
                    tokens,
                    logits: at[text] == LENGTH || (text + round) % 2 == 0,
                })
            });
            let mut members: Vec<_> = members.collect();
            if members.is_empty() {
                break;
            }
            batch.run(&mut members).unwrap();
        }
        for (text, sequence) in texts.iter().enumerate() {
            let name = of.architecture;
            assert_eq!(bits(sequence.logits()), wanted[text], "{name} {isa} {text}");
        }
    }
}

#[test]
fn a_pass_costs_what_its_texts_cost_alone() {
    let (model, bytes) = base();
    let adapter = adapter(&bytes, &model, 1, 8, F16);
    let new = || Sequence::new(model.clone(), kernels(Isa::Portable, 1), LENGTH);
    let cost = |adapter: Option<&Arc<Adapter>>, chunk: usize| {
        let mut sequence = new();
        sequence.set_adapter(adapter.cloned()).unwrap();
        let mut cost = 0;
        for tokens in tokens(0).chunks(chunk) {
            sequence.begin(tokens, false).unwrap();
            cost += sequence.finish();
        }
        cost
    };
    let extra = |layer: u64| layer * (64 + 64) * 8 + layer * 64;
    // Queries and outputs; keys and values; gates and ups; downs.
    let wide =
        extra(2) + 2 * ((64 + 32) * 8 + 32) + 2 * ((64 + 96) * 8 + 96) + ((96 + 64) * 8 + 64);
    assert_eq!(
        cost(Some(&adapter), 5) - cost(None, 5),
        2 * wide * LENGTH as u64
    );
    assert_eq!(cost(Some(&adapter), 5), cost(Some(&adapter), 24));
    let mut texts = [new(), new()];
    texts[1].set_adapter(Some(adapter.clone())).unwrap();
    let tokens = tokens(0);
    let members = texts.iter_mut().map(|sequence| Member {
        sequence,
        tokens: &tokens,
        logits: false,
    });
    let mut batch = Batch::new(model.clone(), kernels(Isa::Portable, 1));
    let together = batch.run(&mut members.collect::<Vec<_>>()).unwrap();
    assert_eq!(together, cost(None, 24) + cost(Some(&adapter), 24));
}

#[test]
fn an_adapter_belongs_to_an_empty_text_and_to_its_base() {
    let (model, bytes) = base();
    let adapter = adapter(&bytes, &model, 1, 8, F16);
    let mut sequence = Sequence::new(model.clone(), kernels(Isa::Portable, 1), LENGTH);
    sequence.begin(&[1], false).unwrap();
    sequence.finish();
    let error = sequence.set_adapter(Some(adapter.clone())).unwrap_err();
    assert_eq!(error, SequenceError::AdapterTooLate { position: 1 });
    sequence.clear();
    sequence.set_adapter(Some(adapter.clone())).unwrap();
    sequence.clear();
    assert_eq!(sequence.adapter(), Some(&adapter));

    let other = Model::from_bytes(&fixture::tiny_llama(4).build()).unwrap();
    let mut sequence = Sequence::new(other.clone(), kernels(Isa::Portable, 1), LENGTH);
    let error = sequence.set_adapter(Some(adapter)).unwrap_err();
    let (wanted, found) = (other.digest(), model.digest());
    assert_eq!(error, SequenceError::ForeignAdapter { wanted, found });
    // The file is refused before that, whoever says which base it is of.
    let named = model.digest();
    for (file, stated) in [(Some(named), None), (None, Some(named))] {
        let file = fixture::adapter(&bytes, 1, 8, F16, file).build();
        let error = Adapter::from_gguf(&file, &other, stated).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "adapter is of another base: it names {named}, this is {}",
                other.digest()
            )
        );
    }
    let file = fixture::adapter(&bytes, 1, 8, F16, None).build();
    let error = Adapter::from_gguf(&file, &model, None).unwrap_err();
    assert!(matches!(error, AdapterError::Unbound), "{error}");
    assert!(Adapter::from_gguf(&file, &model, Some(named)).is_ok());
}

#[test]
fn what_is_written_is_read_again_and_is_its_digest() {
    let (model, bytes) = base();
    for of in [F16, F32] {
        let file = fixture::adapter(&bytes, 1, 8, of, None).build();
        let read = Adapter::from_gguf(&file, &model, Some(model.digest())).unwrap();
        let mut written = Vec::new();
        read.write(&mut written).unwrap();
        assert_eq!(read.digest(), Digest::of(&written));
        let again = Adapter::from_gguf(&written, &model, None).unwrap();
        assert_eq!(again, read);
        assert_eq!(again.rank(), 8);
        assert_eq!(again.targets().len(), 14);
        let values: usize = 2 * 8 * (2 * 128 + 2 * 96 + 3 * 160);
        let stored = values * if of == F16 { 2 } else { 4 };
        assert!(read.resident_bytes() >= stored);
    }
}

#[test]
fn transcripts_name_the_adapter() {
    let (model, bytes) = base();
    let [first, second] = [1, 2].map(|seed| adapter(&bytes, &model, seed, 8, F16));
    let kernels = kernels(Isa::Portable, 1);
    let record = |adapter: Option<&Arc<Adapter>>| {
        let (model, kernels) = (model.clone(), kernels.clone());
        let prompt = Prompt::Text("hello".to_owned());
        let params = Params {
            adapter: adapter.cloned(),
            ..Params::default()
        };
        Transcript::record_with(model, kernels, prompt, params, 8, |_| ()).unwrap()
    };
    let (bare, adapted) = (record(None), record(Some(&first)));
    assert_ne!(bare.first_link, adapted.first_link);
    assert!(!bare.to_json().contains("adapter_digest"));
    let read = Transcript::from_json(&adapted.to_json()).unwrap();
    assert_eq!(read.adapter_digest, Some(first.digest()));
    let verify = |transcript: &Transcript, adapter: Option<&Arc<Adapter>>| {
        transcript.verify_adapted(model.clone(), kernels.clone(), adapter.cloned())
    };
    assert_eq!(verify(&read, Some(&first)).unwrap(), Outcome::Equal);
    for (transcript, adapter) in [(&read, None), (&read, Some(&second)), (&bare, Some(&first))] {
        let error = verify(transcript, adapter).unwrap_err();
        assert!(matches!(error, TranscriptError::OtherAdapter { .. }));
    }
    // A forged header is found by the chain.
    let forged = Transcript {
        adapter_digest: Some(second.digest()),
        ..read
    };
    let outcome = verify(&forged, Some(&second)).unwrap();
    assert!(matches!(outcome, Outcome::Differs { step: None, .. }));
}

#[test]
fn a_generation_with_an_adapter_is_taken_up_where_it_was_left() {
    let (model, bytes) = base();
    let adapter = adapter(&bytes, &model, 1, 8, F16);
    let kernels = kernels(Isa::Portable, 1);
    let prompt = Prompt::Tokens(tokens(1));
    let params = || Params {
        adapter: Some(adapter.clone()),
        ..Params::default()
    };
    let start = || Generation::start(model.clone(), kernels.clone(), &prompt, params()).unwrap();
    let mut whole = start();
    whole.advance(6, Work::MAX).unwrap();
    let mut part = start();
    part.advance(6, whole.progress().work / 2).unwrap();
    let progress = part.progress().clone();
    assert!(progress.work > 0 && progress != *whole.progress());
    let mut part =
        Generation::resume(model.clone(), kernels.clone(), &prompt, params(), progress).unwrap();
    part.advance(6, Work::MAX).unwrap();
    assert_eq!(part.progress(), whole.progress());
}

fn error(model: &Model, file: &GgufBuilder) -> String {
    let base = Some(model.digest());
    let error = Adapter::from_gguf(&file.build(), model, base).unwrap_err();
    error.to_string()
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let (model, bytes) = base();
    let file = || fixture::adapter(&bytes, 1, 4, F32, None);
    let text = |text: &str| Value::String(text.to_owned());
    let zeros = |count: usize| vec![0; 4 * count];
    let (a, b) = ("blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b");
    let cases = [
        (
            file().set("general.type", text("model")),
            "not a LoRA adapter: general.type is model, not adapter",
        ),
        (
            file().set("adapter.type", text("ia3")),
            "not a LoRA adapter: adapter.type is ia3, not lora",
        ),
        (
            file().set("general.architecture", text("gpt2")),
            "adapter is for models of architecture gpt2, the base is one of: llama",
        ),
        (
            file().set("adapter.lora.alpha", Value::F32(f32::NAN)),
            "adapter's alpha is not a number it can be scaled by: NaN",
        ),
        (
            file().set(BASE_DIGEST, text("abc")),
            "adapter's base is not a digest: abc",
        ),
        (
            file().without_tensor(a),
            "adapter has only one of the two factors of: blk.0.attn_q.weight",
        ),
        (
            file().tensor("blk.0.attn_q.scale", &[4], F32, zeros(4)),
            "adapter has a tensor that is neither A nor B of a matrix: blk.0.attn_q.scale",
        ),
        (
            file()
                .without_tensor(a)
                .tensor(a, &[64, 2000], F32, zeros(64 * 2000)),
            "adapter's factor has 2000 rows of 64 instead of 1 to 1024 rows of 64: \
             blk.0.attn_q.weight.lora_a",
        ),
        (
            file()
                .without_tensor(b)
                .tensor(b, &[8, 64], F32, zeros(64 * 8)),
            "adapter's factor has 64 rows of 8 instead of 64 rows of 4, A's rank: \
             blk.0.attn_q.weight.lora_b",
        ),
        (
            file()
                .without_tensor(b)
                .tensor(b, &[4, 64], F32, vec![0xff; 4 * 4 * 64]),
            "adapter's factor has a value that is not finite: blk.0.attn_q.weight.lora_b",
        ),
    ];
    for (file, wanted) in cases {
        assert_eq!(error(&model, &file), wanted);
    }
    let target = |name: &str, inputs: u64, outputs: u64| {
        let (a, b) = (format!("{name}.lora_a"), format!("{name}.lora_b"));
        let file = file().tensor(&a, &[inputs, 4], F32, zeros(4 * inputs as usize));
        file.tensor(&b, &[4, outputs], F32, zeros(4 * outputs as usize))
    };
    let refused = "adapter changes the embedding, which is not supported: token_embd.weight";
    assert_eq!(
        error(&model, &target("token_embd.weight", 64, 268)),
        refused
    );
    // The output shares the embedding's matrix.
    let refused = "adapter changes what its base does not have: output.weight";
    assert_eq!(error(&model, &target("output.weight", 64, 268)), refused);
    let refused = "adapter changes a vector, which is not supported: output_norm.weight";
    assert_eq!(error(&model, &target("output_norm.weight", 64, 1)), refused);
    let sparse = TINY.iter().find(|of| of.experts.is_some()).unwrap();
    let bytes = fixture::tiny(sparse, 1, Weights::Mixed).build();
    let model = Model::from_bytes(&bytes).unwrap();
    let name = "blk.1.ffn_up_exps.weight";
    let refused = format!("adapter changes experts, which is not supported: {name}");
    let file = fixture::adapter(&bytes, 1, 4, F32, None);
    let file = file.tensor(&format!("{name}.lora_a"), &[64, 4], F32, zeros(256));
    assert_eq!(error(&model, &file), refused);
}

fn serialize(tensors: &[(String, Vec<usize>, Vec<u8>)], dtype: Dtype) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn what_peft_writes_is_the_same_adapter() {
    for of in TINY {
        let bytes = fixture::tiny(of, 3, Weights::Mixed).build();
        let model = Model::from_bytes(&bytes).unwrap();
        let base = Some(model.digest());
        let file = fixture::adapter(&bytes, 1, 4, F32, base).build();
        let tensors = fixture::peft(&file, &model);
        let wanted = Adapter::from_gguf(&file, &model, None).unwrap();
        let found =
            Adapter::from_peft(fixture::PEFT_CONFIG.as_bytes(), &tensors, &model, base).unwrap();
        assert_eq!(found, wanted, "{}", of.architecture);
        let error = Adapter::from_peft(fixture::PEFT_CONFIG.as_bytes(), &tensors, &model, None);
        assert!(matches!(error, Err(AdapterError::Unbound)));
        // From a folder.
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("adapter_config.json"),
            fixture::PEFT_CONFIG,
        )
        .unwrap();
        let error = Adapter::open(folder.path(), &model, base).unwrap_err();
        assert!(error.to_string().ends_with("adapter_model.safetensors"));
        let path = folder.path().join("adapter_model.safetensors");
        std::fs::write(path, &tensors).unwrap();
        let found = Adapter::open(folder.path(), &model, base).unwrap();
        assert_eq!(found, wanted);
    }
}

#[test]
fn a_stabilised_scale_is_alpha_by_the_root_of_the_rank() {
    let (model, bytes) = base();
    let tensors = fixture::peft(&fixture::adapter(&bytes, 1, 4, F32, None).build(), &model);
    let config = fixture::PEFT_CONFIG.replace("\"use_rslora\":false", "\"use_rslora\":true");
    let base = Some(model.digest());
    let read = Adapter::from_peft(config.as_bytes(), &tensors, &model, base).unwrap();
    assert_eq!(read.alpha(), 16.0);
    let scale = read.factors.iter().flatten().next().unwrap().scale();
    assert_eq!(scale, 8.0 / 2.0);
}

#[test]
fn configurations_that_ask_for_more_are_refused_by_name() {
    let (model, bytes) = base();
    let tensors = fixture::peft(&fixture::adapter(&bytes, 1, 4, F32, None).build(), &model);
    let error = |config: &str, tensors: &[u8]| {
        let base = Some(model.digest());
        let error = Adapter::from_peft(config.as_bytes(), tensors, &model, base).unwrap_err();
        error.to_string()
    };
    for (setting, feature) in [
        (r#""use_dora":true"#, "use_dora"),
        (r#""modules_to_save":["lm_head"]"#, "modules_to_save"),
        (r#""rank_pattern":{"q_proj":8}"#, "rank_pattern"),
        (r#""layer_replication":[[0,2],[1,3]]"#, "layer_replication"),
        (r#""bias":"all""#, "bias = all"),
        (
            r#""init_lora_weights":"pissa_niter_4""#,
            "init_lora_weights = pissa_niter_4",
        ),
    ] {
        let key = setting.split(':').next().unwrap();
        let kept: Vec<&str> = fixture::PEFT_CONFIG
            .trim_matches(['{', '}'])
            .split(",\n    ")
            .collect();
        let kept = kept.join(",");
        let kept: Vec<&str> = kept
            .split(',')
            .filter(|pair| !pair.starts_with(key))
            .collect();
        let config = format!("{{{},{setting}}}", kept.join(","));
        let wanted = format!("adapter uses a feature that is not supported: {feature}");
        assert_eq!(error(&config, &tensors), wanted);
    }
    let zero = fixture::PEFT_CONFIG.replace("\"lora_alpha\":8", "\"lora_alpha\":0");
    let wanted = "adapter's alpha is not a number it can be scaled by: 0";
    assert_eq!(error(&zero, &tensors), wanted);
    let other = fixture::PEFT_CONFIG.replace("LORA", "IA3");
    let wanted = "not a LoRA adapter: peft_type is IA3, not LORA";
    assert_eq!(error(&other, &tensors), wanted);
    let rank = fixture::PEFT_CONFIG.replace("\"r\":4", "\"r\":8");
    assert!(error(&rank, &tensors).contains("rank 4 instead of rank 8: base_model.model.model"));
    assert!(error("[]", &tensors).starts_with("adapter's configuration cannot be read: "));
    assert!(error(fixture::PEFT_CONFIG, b"abc").starts_with("adapter's tensors cannot be read: "));

    let one = |name: &str, shape: [usize; 2]| {
        let bytes = vec![0; 4 * shape[0] * shape[1]];
        let tensors = [(name.to_owned(), shape.to_vec(), bytes)];
        error(fixture::PEFT_CONFIG, &serialize(&tensors, Dtype::F32))
    };
    let layer = "base_model.model.model.layers.0";
    let name = "base_model.model.model.embed_tokens.lora_embedding_A";
    let wanted = "adapter changes the embedding, which is not supported";
    assert_eq!(one(name, [4, 268]), format!("{wanted}: {name}"));
    let name = format!("{layer}.mlp.side_proj.lora_A.weight");
    let wanted = format!("adapter changes what its base does not have: {name}");
    assert_eq!(one(&name, [4, 64]), wanted);
    let name = format!("{layer}.self_attn.q_proj.lora_magnitude_vector");
    assert!(one(&name, [1, 64]).starts_with("adapter has a tensor that is neither A nor B"));
    let name = format!("{layer}.self_attn.q_proj.lora_B.weight");
    let wanted = format!("adapter's factor has 65 rows instead of whole heads of 16 rows: {name}");
    assert_eq!(one(&name, [65, 4]), wanted);
}

#[test]
fn merged_files_hold_the_sum_and_everything_else_as_it_was() {
    let (model, bytes) = base();
    let adapter = adapter(&bytes, &model, 1, 8, F16);
    let merged = |format| {
        let mut out = Vec::new();
        merge(&[&bytes], &adapter, format, &mut out).unwrap();
        out
    };
    let file = merged(None);
    assert_eq!(merged(None), file);
    let (base, read) = (Gguf::parse(&bytes).unwrap(), Gguf::parse(&file).unwrap());
    for (name, info) in base.tensors() {
        let found = read.tensor(name).unwrap();
        assert_eq!(found.dimensions, info.dimensions);
        let wanted = match adapter.targets().any(|target| target == name) {
            true if info.tensor_type != F32 => F16,
            _ => info.tensor_type,
        };
        assert_eq!(found.tensor_type, wanted, "{name}");
        if !adapter.targets().any(|target| target == name) {
            assert_eq!(read.tensor_bytes(name), base.tensor_bytes(name));
        }
    }
    for (key, value) in base.metadata() {
        assert_eq!(read.value(key).unwrap(), value);
    }
    let digest = read.text("lockstep.merged.adapter").unwrap();
    assert_eq!(digest, adapter.digest().to_string());
    // One value, by the definition.
    let file = merged(Some(F32));
    let read = Gguf::parse(&file).unwrap();
    let name = "blk.1.ffn_down.weight";
    let of = |file: &Gguf<'_>| {
        let info = file.tensor(name).unwrap();
        let shape = (info.rows, info.columns);
        values(
            name,
            info.tensor_type,
            shape,
            file.tensor_bytes(name).unwrap(),
        )
        .unwrap()
    };
    let factors = adapter.factors(adapter.names[name]).unwrap();
    let (a, b) = (factors.a(), factors.b());
    let (row, column) = (37, 91);
    let mut sum = 0.0f32;
    for r in 0..8 {
        sum += b[row * 8 + r] * a[r * 96 + column];
    }
    let wanted = of(&base)[row * 96 + column] + factors.scale() * sum;
    assert_eq!(of(&read)[row * 96 + column].to_bits(), wanted.to_bits());
    // It is a model, and the adapter is of another one now.
    let again = Model::from_bytes(&file).unwrap();
    let other = merge(&[&file], &adapter, None, &mut Vec::new()).unwrap_err();
    assert!(other.to_string().contains(&again.digest().to_string()));
    let error = merge(&[&bytes], &adapter, Some(TensorType::Q8_0), &mut Vec::new());
    let wanted = "merged weights cannot be written as Q8_0 (possible: F32, F16, BF16)";
    assert_eq!(error.unwrap_err().to_string(), wanted);
}

proptest! {
    #[test]
    fn mutated_files_are_errors_or_adapters(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let (model, bytes) = base();
        let base = Some(model.digest());
        let file = fixture::adapter(&bytes, 1, 2, F32, None).build();
        let tensors = fixture::peft(&fixture::adapter(&bytes, 1, 4, F32, None).build(), &model);
        let mutate = |mut bytes: Vec<u8>, within: usize| {
            let index = at.index(within.min(bytes.len()));
            bytes[index] = byte;
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        };
        // Most of what can go wrong stands at the beginning.
        for within in [usize::MAX, 4000, 200] {
            let _ = Adapter::from_gguf(&mutate(file.clone(), within), &model, base);
            let _ = Adapter::from_peft(fixture::PEFT_CONFIG.as_bytes(), &mutate(tensors.clone(), within), &model, base);
            let config = mutate(fixture::PEFT_CONFIG.as_bytes().to_vec(), within);
            let _ = Adapter::from_peft(&config, &tensors, &model, base);
        }
    }
}

#[test]
fn targets_are_all_matrices_that_products_are_made_with() {
    for of in TINY {
        let bytes = fixture::tiny(of, 3, Weights::Mixed).build();
        let graph = arch::graph(&Gguf::parse(&bytes).unwrap()).unwrap();
        let products = graph.operations.iter().filter_map(|o| match o.action {
            Action::MatMul { weight, .. } => Some(&graph.tensors[weight.0].name),
            _ => None,
        });
        let model = Model::from_bytes(&bytes).unwrap();
        let adapter = adapter(&bytes, &model, 1, 8, F16);
        let found: Vec<&str> = adapter.targets().collect();
        let mut wanted: Vec<&str> = products.map(String::as_str).collect();
        wanted.retain(|name| *name != "token_embd.weight");
        wanted.sort_unstable();
        assert_eq!(found, wanted);
    }
}
