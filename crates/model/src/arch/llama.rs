//! The `llama` architecture (Llama, SmolLM2, and others that are stored as it): grouped-query
//! attention with interleaved rotary pairs, and a SwiGLU feed-forward network.
use crate::{
    gguf::{Gguf, Value},
    graph::{Action, AttentionShape, BufferId, Builder, Graph, GraphError},
};

/// Longer contexts are refused: the table of rotary angles is made for all of it.
const CONTEXT_LENGTH_MAX: u64 = 1 << 18;

struct Sizes {
    embedding: usize,
    feed_forward: usize,
    attention: AttentionShape,
    epsilon: f32,
}

struct Buffers {
    residual: BufferId,
    normed: BufferId,
    query: BufferId,
    key: BufferId,
    value: BufferId,
    attended: BufferId,
    projected: BufferId,
    gate: BufferId,
    up: BufferId,
}

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    refuse_variants(file)?;
    let mut builder = Builder::new(file);
    let sizes = sizes(file, &builder)?;
    let embedding = sizes.embedding;
    let vocabulary = file.tensor("token_embd.weight")?.rows;
    let buffers = buffers(&mut builder, &sizes);

    let table = builder.matrix("token_embd.weight", vocabulary, embedding)?;
    builder.push(
        "token_embd",
        Action::Embed {
            table,
            output: buffers.residual,
        },
    );
    for layer in 0..sizes.attention.layers {
        attention(&mut builder, layer, &sizes, &buffers)?;
        feed_forward(&mut builder, layer, &sizes, &buffers)?;
    }

    let last = builder.buffer("last", embedding);
    let last_normed = builder.buffer("last_normed", embedding);
    let logits = builder.buffer("logits", vocabulary);
    builder.push(
        "last",
        Action::SelectLast {
            input: buffers.residual,
            output: last,
        },
    );
    let weight = builder.vector("output_norm.weight", embedding)?;
    builder.push(
        "output_norm",
        Action::RmsNorm {
            input: last,
            weight,
            epsilon: sizes.epsilon,
            output: last_normed,
        },
    );
    // Without a matrix of its own the output shares the embedding's.
    let output = match file.tensors().contains_key("output.weight") {
        true => builder.matrix("output.weight", vocabulary, embedding)?,
        false => table,
    };
    builder.product("output", output, last_normed, logits);
    let rope_base = builder.number("llama.rope.freq_base", 1.0)?;
    let context_length = builder.size_up_to("llama.context_length", CONTEXT_LENGTH_MAX)?;
    builder.finish(logits, sizes.attention, rope_base, context_length)
}

/// Refuses members of the family that compute something else.
fn refuse_variants(file: &Gguf<'_>) -> Result<(), GraphError> {
    let unsupported = |feature: &str| {
        Err(GraphError::UnsupportedFeature {
            feature: feature.to_owned(),
        })
    };
    let metadata = file.metadata();
    if metadata
        .get("llama.expert_count")
        .is_some_and(|v| v.as_u64() != Some(0))
    {
        return unsupported("mixture of experts (llama.expert_count)");
    }
    let scaling = metadata.get("llama.rope.scaling.type");
    if scaling.is_some_and(|v| v.as_str() != Some("none")) {
        return unsupported("rotary scaling (llama.rope.scaling.type)");
    }
    Ok(())
}

fn sizes(file: &Gguf<'_>, builder: &Builder<'_>) -> Result<Sizes, GraphError> {
    let embedding = builder.size("llama.embedding_length")?;
    let heads = builder.size("llama.attention.head_count")?;
    let kv_heads = match file
        .metadata()
        .contains_key("llama.attention.head_count_kv")
    {
        true => builder.size("llama.attention.head_count_kv")?,
        false => heads,
    };
    let head_dim = embedding / heads;
    let expect = |key: &str, value: usize, allowed: bool, wanted: String| match allowed {
        true => Ok(()),
        false => Err(GraphError::OutOfRange {
            key: key.to_owned(),
            value: value.to_string(),
            allowed: wanted,
        }),
    };
    expect(
        "llama.attention.head_count",
        heads,
        embedding.is_multiple_of(heads) && head_dim.is_multiple_of(2),
        format!("divides the embedding length {embedding} into heads of even length"),
    )?;
    expect(
        "llama.attention.head_count_kv",
        kv_heads,
        heads.is_multiple_of(kv_heads),
        format!("divides the head count {heads}"),
    )?;
    for key in [
        "llama.rope.dimension_count",
        "llama.attention.key_length",
        "llama.attention.value_length",
    ] {
        if let Some(value) = file.metadata().get(key).and_then(Value::as_u64) {
            let fits = value == head_dim as u64;
            expect(
                key,
                value as usize,
                fits,
                format!("{head_dim}, the head length"),
            )?;
        }
    }
    Ok(Sizes {
        embedding,
        feed_forward: builder.size("llama.feed_forward_length")?,
        attention: AttentionShape {
            layers: builder.size("llama.block_count")?,
            heads,
            kv_heads,
            head_dim,
        },
        epsilon: builder.number("llama.attention.layer_norm_rms_epsilon", 0.0)?,
    })
}

fn buffers(builder: &mut Builder<'_>, sizes: &Sizes) -> Buffers {
    let kv_width = sizes.attention.kv_heads * sizes.attention.head_dim;
    Buffers {
        residual: builder.buffer("residual", sizes.embedding),
        normed: builder.buffer("normed", sizes.embedding),
        query: builder.buffer("query", sizes.embedding),
        key: builder.buffer("key", kv_width),
        value: builder.buffer("value", kv_width),
        attended: builder.buffer("attended", sizes.embedding),
        projected: builder.buffer("projected", sizes.embedding),
        gate: builder.buffer("gate", sizes.feed_forward),
        up: builder.buffer("up", sizes.feed_forward),
    }
}

fn attention(
    builder: &mut Builder<'_>,
    layer: usize,
    sizes: &Sizes,
    buffers: &Buffers,
) -> Result<(), GraphError> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let file_name = |part: &str| format!("blk.{layer}.{part}.weight");
    let embedding = sizes.embedding;
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = sizes.attention;

    let weight = builder.vector(&file_name("attn_norm"), embedding)?;
    builder.push(
        name("attn_norm"),
        Action::RmsNorm {
            input: buffers.residual,
            weight,
            epsilon: sizes.epsilon,
            output: buffers.normed,
        },
    );
    for (part, rows, output) in [
        ("attn_q", embedding, buffers.query),
        ("attn_k", kv_heads * head_dim, buffers.key),
        ("attn_v", kv_heads * head_dim, buffers.value),
    ] {
        let weight = builder.matrix(&file_name(part), rows, embedding)?;
        builder.product(name(part), weight, buffers.normed, output);
    }
    for (part, values, heads) in [
        ("rope_q", buffers.query, heads),
        ("rope_k", buffers.key, kv_heads),
    ] {
        builder.push(name(part), Action::Rope { values, heads });
    }
    builder.push(
        name("store_kv"),
        Action::StoreKv {
            layer,
            key: buffers.key,
            value: buffers.value,
        },
    );
    builder.push(
        name("attention"),
        Action::Attention {
            layer,
            queries: buffers.query,
            heads,
            output: buffers.attended,
        },
    );
    let weight = builder.matrix(&file_name("attn_output"), embedding, embedding)?;
    builder.product(
        name("attn_output"),
        weight,
        buffers.attended,
        buffers.projected,
    );
    builder.push(
        name("attn_add"),
        Action::Add {
            accumulator: buffers.residual,
            addend: buffers.projected,
        },
    );
    Ok(())
}

fn feed_forward(
    builder: &mut Builder<'_>,
    layer: usize,
    sizes: &Sizes,
    buffers: &Buffers,
) -> Result<(), GraphError> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let file_name = |part: &str| format!("blk.{layer}.{part}.weight");
    let weight = builder.vector(&file_name("ffn_norm"), sizes.embedding)?;
    builder.push(
        name("ffn_norm"),
        Action::RmsNorm {
            input: buffers.residual,
            weight,
            epsilon: sizes.epsilon,
            output: buffers.normed,
        },
    );
    for (part, output) in [("ffn_gate", buffers.gate), ("ffn_up", buffers.up)] {
        let weight = builder.matrix(&file_name(part), sizes.feed_forward, sizes.embedding)?;
        builder.product(name(part), weight, buffers.normed, output);
    }
    builder.push(
        name("ffn_silu"),
        Action::SiluMul {
            gate: buffers.gate,
            up: buffers.up,
        },
    );
    let weight = builder.matrix(&file_name("ffn_down"), sizes.embedding, sizes.feed_forward)?;
    builder.product(name("ffn_down"), weight, buffers.gate, buffers.projected);
    builder.push(
        name("ffn_add"),
        Action::Add {
            accumulator: buffers.residual,
            addend: buffers.projected,
        },
    );
    Ok(())
}
