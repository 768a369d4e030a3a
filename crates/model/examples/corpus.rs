//! `corpus DIRECTORY`: writes the first files of the fuzz targets' corpus, `TARGET/NAME`.
//!
//! `cargo run --release -p lockstep-model --example corpus fuzz/corpus` writes those of the repository.
use lockstep_model::{
    Model,
    arch::TINY,
    fixture::{self, Element, GgufBuilder, TinyCheckpoint, Weights},
    fuzz::join,
    gguf::{Gguf, TensorType, Value},
};
use std::{error::Error, fs, path::PathBuf};

const TEXT: &[u8] = "The 42 users: na\u{ef}ve \u{65e5}\u{672c} \u{1f469}\u{200d}\u{1f469} \t\r\n<|im_end|></s><0x41>\u{fdd0} \u{2581}x".as_bytes();

const TEMPLATES: &[(&str, &str)] = &[
    ("turns", fixture::CHAT_TEMPLATE),
    (
        "namespace",
        "{%- set ns = namespace(n=0) %}{%- for m in messages[::-1] if m.role != 'system' %}{%- set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.content.split('x')[-1].strip() | tojson }}{%- endfor %}",
    ),
    (
        "macro",
        "{% macro turn(m, last=false) %}{% generation %}<|im_start|>{{ m.role|upper }}{{ m.content|trim }}{% endgeneration %}{% endmacro %}{% for m in messages %}{{ turn(m, loop.last) }}{% endfor %}{{ raise_exception('no') if not tools is none }}",
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: corpus DIRECTORY")?;
    let folder = PathBuf::from(folder);
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(folder.join(target))?;
        fs::write(folder.join(target).join(name), bytes)
    };
    let whole = fixture::tiny_llama(1);
    write("gguf", "llama", &whole.build())?;
    write("gguf", "second-of-two", &whole.split(2)[1][..4096])?;
    for of in TINY {
        // Without tensors: all metadata.
        let file = fixture::tiny(of, 1, Weights::Mixed).build();
        let file = Gguf::parse(&file)?;
        let metadata = file.metadata().iter();
        let builder = metadata.fold(GgufBuilder::default(), |builder, (key, value)| {
            builder.set(key, value.clone())
        });
        write(
            "gguf",
            &format!("{}-metadata", of.architecture),
            &builder.build(),
        )?;
        let mut checkpoint = TinyCheckpoint::new(of, 1);
        checkpoint.element = Element::Bf16;
        let files = checkpoint.files();
        let names = [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        ];
        let parts = names.map(|name| files[name].as_slice());
        // The largest have what the smaller ones have.
        if files["model.safetensors"].len() < 200_000 {
            write("checkpoint", of.architecture, &join(&parts))?;
        }
    }
    for (model, pre) in [
        ("gpt2", "smollm"),
        ("gpt2", "llama-bpe"),
        ("gpt2", "qwen2"),
        ("llama", "default"),
        ("t5", "default"),
    ] {
        let bytes = vocabulary(model, pre).build();
        write(
            "tokenizer",
            &format!("{model}-{pre}"),
            &join(&[&bytes, TEXT]),
        )?;
    }
    for (name, source) in TEMPLATES {
        write("template", name, &join(&[source.as_bytes(), TEXT]))?;
    }
    let model = Model::from_bytes(&whole.build())?;
    let adapter = fixture::adapter(&whole.build(), 1, 4, TensorType::F32, None).build();
    let tensors = fixture::peft(&adapter, &model);
    let config = fixture::PEFT_CONFIG.as_bytes();
    write("peft", "rank-4", &join(&[config, &tensors]))?;
    Ok(())
}

/// The metadata of a small tokenizer.
fn vocabulary(model: &str, pre: &str) -> GgufBuilder {
    let text = |text: &str| Value::String(text.to_owned());
    let base = GgufBuilder::default()
        .set("tokenizer.ggml.model", text(model))
        .set("tokenizer.ggml.pre", text(pre))
        .set("tokenizer.ggml.bos_token_id", Value::U32(1))
        .set("tokenizer.ggml.eos_token_id", Value::U32(2));
    if model == "gpt2" {
        let file = fixture::tiny_llama(1).build();
        let file = Gguf::parse(&file).expect("small files are files");
        let keys = ["tokens", "token_type", "merges"];
        return keys.into_iter().fold(base, |builder, key| {
            let key = format!("tokenizer.ggml.{key}");
            builder.set(&key, file.metadata()[&key].clone())
        });
    }
    let mut tokens = vec![("<unk>".to_owned(), 2, 0.0)];
    tokens.extend(["<s>", "</s>"].map(|token| (token.to_owned(), 3, 0.0)));
    tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0)));
    let pieces = [
        "\u{2581}",
        "\u{2581}u",
        "us",
        "se",
        "er",
        "ers",
        "\u{2581}users",
        "The",
        "ve",
        "4",
        "42",
    ];
    for (rank, piece) in (1..).zip(pieces) {
        tokens.push((piece.to_owned(), 1, -(rank as f32)));
    }
    tokens.push(("\r\n".to_owned(), 4, 0.0));
    let strings = tokens
        .iter()
        .map(|(token, ..)| Value::String(token.clone()));
    let kinds = tokens.iter().map(|(_, kind, _)| Value::I32(*kind));
    let scores = tokens.iter().map(|(.., score)| Value::F32(*score));
    base.set("tokenizer.ggml.tokens", Value::Array(strings.collect()))
        .set("tokenizer.ggml.token_type", Value::Array(kinds.collect()))
        .set("tokenizer.ggml.scores", Value::Array(scores.collect()))
        .set("tokenizer.ggml.unknown_token_id", Value::U32(0))
}
