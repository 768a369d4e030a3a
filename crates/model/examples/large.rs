//! Models as large as machines run them, with pseudo-random weights.
//!
//! `large write SHAPE SEED FILE` writes a GGUF file: `sparse`, 8 billion weights of which a token uses 1.5; `half`, the same
//! with half the layers; `dense`, 8 billion weights that a token uses all; `small`, for a trial. `large prepare FILE
//! PACKED` prepares it. `large shelf BUDGET FIRST SECOND` loads prepared files within so many bytes of memory, and decodes
//! a few tokens with each: the first; the second, while the first is in use, and after that; the first again.
//!
//! `bench/large.py` measures them.
use lockstep_model::{
    Digest, Model, Sequence, Shelf, arch, file,
    fixture::{self, Random, Tiny, Weights},
    gguf::{Gguf, NewTensor, TensorType, Value, Writer},
    prepared,
};
use lockstep_numeric::{Isa, Kernels, Pool, convert::f32_to_f16};
use std::{
    collections::BTreeSet,
    env,
    error::Error,
    fs,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    thread,
    time::Instant,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a file has.
struct Shape {
    name: &'static str,
    embedding: usize,
    layers: usize,
    /// Every so many layers one attends.
    attends: usize,
    heads: usize,
    kv_heads: usize,
    feed_forward: usize,
    /// Dense layers before them, experts, those used, their width.
    experts: Option<(usize, usize, usize, usize)>,
    vocabulary: usize,
}

const SPARSE: Shape = Shape {
    name: "sparse",
    embedding: 2048,
    layers: 24,
    attends: 4,
    heads: 32,
    kv_heads: 8,
    feed_forward: 7168,
    experts: Some((2, 32, 4, 1792)),
    vocabulary: 1 << 16,
};

const SHAPES: [Shape; 4] = [
    SPARSE,
    Shape {
        name: "half",
        layers: 12,
        ..SPARSE
    },
    Shape {
        name: "dense",
        embedding: 4096,
        layers: 28,
        feed_forward: 16384,
        experts: None,
        ..SPARSE
    },
    Shape {
        name: "small",
        embedding: 512,
        layers: 4,
        heads: 8,
        kv_heads: 2,
        feed_forward: 1024,
        experts: Some((1, 8, 2, 512)),
        ..SPARSE
    },
];

const CONTEXT_LENGTH: usize = 32768;
const TAPS: usize = 3;
/// Tokens that each step of `shelf` decodes.
const TOKENS: usize = 8;
/// Blocks of a tensor that differ; behind them they come again.
const BLOCKS: usize = 1 << 14;

#[allow(
    clippy::disallowed_methods,
    reason = "measures speed; nothing replicated"
)]
fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let begun = Instant::now();
    match arguments[..] {
        ["write", shape, seed, file] => write(shape, seed.parse()?, Path::new(file))?,
        ["prepare", file, packed] => prepare(Path::new(file), Path::new(packed))?,
        ["shelf", budget, first, second] => {
            shelf(budget.parse()?, Path::new(first), Path::new(second))?;
        }
        _ => return Err(
            "usage: large write SHAPE SEED FILE | prepare FILE PACKED | shelf BUDGET FIRST SECOND"
                .into(),
        ),
    }
    eprintln!("{:.3} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// A line of JSON for each step.
#[allow(
    clippy::disallowed_methods,
    reason = "measures speed; nothing replicated"
)]
fn shelf(budget: u64, first: &Path, second: &Path) -> Result<()> {
    let threads = thread::available_parallelism()?;
    let kernels = Kernels::new(Isa::detect()?, Arc::new(Pool::new(threads)))?;
    let kernels = Arc::new(kernels);
    let shelf = Shelf::new(budget);
    let load = |step: &str, path: &Path| -> Result<Arc<Model>> {
        let begun = Instant::now();
        let digest = prepared::source(&file::map(path)?)?;
        let bytes = fs::metadata(path)?.len();
        let model = shelf.get(digest, bytes, || Model::open_prepared(path))?;
        let open_seconds = begun.elapsed().as_secs_f64();
        let mut sequence = Sequence::new(Arc::clone(&model), Arc::clone(&kernels), TOKENS);
        let begun = Instant::now();
        for token in 0..TOKENS {
            sequence.begin(&[token as u32 * 977], true)?;
            sequence.finish();
        }
        let line = serde_json::json!({
            "step": step,
            "open_seconds": open_seconds,
            "decode_seconds": begun.elapsed().as_secs_f64(),
            "tokens": TOKENS,
            "logits": Digest::of_floats(sequence.logits()),
            "shelf_bytes": shelf.bytes(),
            "anonymous_bytes": process_bytes("RssAnon"),
            "file_bytes": process_bytes("RssFile"),
        });
        println!("{line}");
        Ok(model)
    };
    let used = load("load the first", first)?;
    let refused = load("load the second beside it", second);
    let refused = refused.err().ok_or("both models fit the budget")?;
    println!(
        "{}",
        serde_json::json!({ "step": "load the second beside it", "error": refused.to_string() })
    );
    drop(used);
    load("evict the first, load the second", second)?;
    load("evict the second, load the first again", first)?;
    Ok(())
}

/// A figure of this process, where the system tells it.
fn process_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn prepare(file: &Path, packed: &Path) -> Result<()> {
    let map = file::map(file)?;
    let mut out = fs::File::create(packed)?;
    prepared::write(&[&map], &mut out, |_, _| ())?;
    Ok(out.sync_all()?)
}

fn write(shape: &str, seed: u64, file: &Path) -> Result<()> {
    let shape = SHAPES.iter().find(|known| known.name == shape);
    let shape = shape.ok_or("no such shape (known: sparse, half, dense, small)")?;
    // The small files of the same architecture say what such a file says.
    let tiny = arch::TINY.iter().find(|tiny| {
        tiny.attends.contains(&false) && tiny.experts.is_some() == shape.experts.is_some()
    });
    let tiny = tiny.ok_or("no architecture has convolutions")?;
    let tensors = tensors(shape, tiny);
    let mut random = Random(seed);
    let writer = Writer::new(&metadata(shape, tiny, &mut random)?, &tensors);
    let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(file)?);
    writer.write(&mut out, |index, bytes| {
        fill(&tensors[index], &mut random, bytes);
        Ok::<_, std::io::Error>(())
    })?;
    out.flush()?;
    println!("{} bytes", writer.file_bytes());
    Ok(())
}

fn attends(shape: &Shape, layer: usize) -> bool {
    layer % shape.attends == 2
}

fn metadata(shape: &Shape, tiny: &Tiny, random: &mut Random) -> Result<Vec<(String, Value)>> {
    let file = fixture::tiny(tiny, 1, Weights::Mixed).build();
    let mut metadata = Gguf::parse(&file)?.metadata().clone();
    let size = |size: usize| Value::U32(size as u32);
    let kv_heads = (0..shape.layers).map(|layer| match attends(shape, layer) {
        true => size(shape.kv_heads),
        false => size(0),
    });
    let mut set = |key: &str, value| metadata.insert(format!("{}.{key}", tiny.architecture), value);
    set("attention.head_count_kv", Value::Array(kv_heads.collect()));
    set("block_count", size(shape.layers));
    set("context_length", size(CONTEXT_LENGTH));
    set("embedding_length", size(shape.embedding));
    set("feed_forward_length", size(shape.feed_forward));
    set("attention.head_count", size(shape.heads));
    set("rope.dimension_count", size(shape.embedding / shape.heads));
    set("rope.freq_base", Value::F32(1e6));
    set("vocab_size", size(shape.vocabulary));
    if let Some((dense, count, used, width)) = shape.experts {
        set("leading_dense_block_count", size(dense));
        set("expert_count", size(count));
        set("expert_used_count", size(used));
        set("expert_feed_forward_length", size(width));
    }
    metadata.insert(
        "general.name".to_owned(),
        Value::String(format!("large-{}", shape.name)),
    );
    let mut array = |key: &str| match metadata.remove(&format!("tokenizer.ggml.{key}")) {
        Some(Value::Array(values)) => Ok(values),
        _ => Err(format!("small files have no {key}")),
    };
    let (mut tokens, mut types, mut merges) =
        (array("tokens")?, array("token_type")?, array("merges")?);
    let controls = types.iter().filter(|kind| **kind == Value::I32(3)).count();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut words: Vec<String> = tokens[controls..].iter().map(text).collect();
    let mut known: BTreeSet<String> = words.iter().cloned().collect();
    while tokens.len() < shape.vocabulary {
        let mut word = || &words[(random.next() % words.len() as u64) as usize];
        let (left, right) = (word(), word());
        let both = format!("{left}{right}");
        if both.chars().count() > 12 || !known.insert(both.clone()) {
            continue;
        }
        merges.push(Value::String(format!("{left} {right}")));
        tokens.push(Value::String(both.clone()));
        types.push(Value::I32(1));
        words.push(both);
    }
    for (key, values) in [
        ("tokens", tokens),
        ("token_type", types),
        ("merges", merges),
    ] {
        metadata.insert(format!("tokenizer.ggml.{key}"), Value::Array(values));
    }
    Ok(metadata.into_iter().collect())
}

fn tensors(shape: &Shape, tiny: &Tiny) -> Vec<NewTensor> {
    let mut tensors = Vec::new();
    let mut add = |name: String, dimensions: &[usize], tensor_type| {
        tensors.push(NewTensor {
            name,
            dimensions: dimensions.iter().map(|size| *size as u64).collect(),
            tensor_type,
        });
    };
    let (matrix, vector) = (TensorType::Q8_0, TensorType::F32);
    let embedding = shape.embedding;
    let head_dim = embedding / shape.heads;
    let kv_width = shape.kv_heads * head_dim;
    add(
        "token_embd.weight".to_owned(),
        &[embedding, shape.vocabulary],
        matrix,
    );
    add(format!("{}.weight", tiny.output_norm), &[embedding], vector);
    for layer in 0..shape.layers {
        let mut add = |name: &str, dimensions: &[usize], tensor_type| {
            add(format!("blk.{layer}.{name}"), dimensions, tensor_type);
        };
        add("attn_norm.weight", &[embedding], vector);
        add("ffn_norm.weight", &[embedding], vector);
        if attends(shape, layer) {
            add("attn_q.weight", &[embedding, embedding], matrix);
            add("attn_k.weight", &[embedding, kv_width], matrix);
            add("attn_v.weight", &[embedding, kv_width], matrix);
            add("attn_output.weight", &[embedding, embedding], matrix);
            add("attn_q_norm.weight", &[head_dim], vector);
            add("attn_k_norm.weight", &[head_dim], vector);
        } else {
            add(
                "shortconv.in_proj.weight",
                &[embedding, 3 * embedding],
                matrix,
            );
            add("shortconv.out_proj.weight", &[embedding, embedding], matrix);
            add("shortconv.conv.weight", &[TAPS, embedding], vector);
        }
        match shape.experts {
            Some((dense, count, _, width)) if layer >= dense => {
                add("ffn_gate_inp.weight", &[embedding, count], vector);
                add("exp_probs_b.bias", &[count], vector);
                add("ffn_gate_exps.weight", &[embedding, width, count], matrix);
                add("ffn_up_exps.weight", &[embedding, width, count], matrix);
                add("ffn_down_exps.weight", &[width, embedding, count], matrix);
            }
            _ => {
                add("ffn_gate.weight", &[embedding, shape.feed_forward], matrix);
                add("ffn_up.weight", &[embedding, shape.feed_forward], matrix);
                add("ffn_down.weight", &[shape.feed_forward, embedding], matrix);
            }
        }
    }
    tensors
}

/// Values of about the size that keeps activations' size: norms around 1, others around 0.
fn fill(tensor: &NewTensor, random: &mut Random, bytes: &mut Vec<u8>) {
    let elements: u64 = tensor.dimensions.iter().product();
    let total = tensor.tensor_type.bytes(elements).unwrap_or_default() as usize;
    let spread = 1.0 / (tensor.dimensions[0] as f32).sqrt();
    let mut blocks = Vec::new();
    if tensor.tensor_type == TensorType::F32 {
        let is_norm = tensor.name.ends_with("norm.weight");
        for _ in 0..(total / 4).min(BLOCKS) {
            let value = match is_norm {
                true => 0.5 + random.unit(),
                false => (random.unit() - 0.5) * 3.5 * spread,
            };
            blocks.extend(value.to_le_bytes());
        }
    } else {
        for _ in 0..(elements as usize / 32).min(BLOCKS) {
            // Bytes spread over 74 around 0.
            let scale = spread / 74.0 * (0.5 + random.unit());
            blocks.extend(f32_to_f16(scale).to_le_bytes());
            for _ in 0..4 {
                blocks.extend(random.next().to_le_bytes());
            }
        }
    }
    while bytes.len() < total {
        let count = blocks.len().min(total - bytes.len());
        bytes.extend(&blocks[..count]);
    }
}
