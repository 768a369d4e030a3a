//! Formats of keys and values, pages, windows, shared beginnings, budgets.
use super::*;
use crate::{
    arch::TINY,
    fixture::{Tiny, Weights},
};

/// Positions: several pages, the last one not full.
const LONG: usize = 150;
const CHUNKS: [usize; 4] = [1, 7, 64, LONG];

fn tokens(text: usize) -> Vec<u32> {
    let token = |index: usize| ((text * 37 + index * index * 7 + 3) % 268) as u32;
    (0..LONG).map(token).collect()
}

/// A small model of each architecture, with heads that every format takes.
fn models() -> impl Iterator<Item = (Tiny, Arc<Model>)> {
    TINY.iter().map(|of| {
        let wide = Tiny {
            head_dim: 32,
            ..*of
        };
        let file = fixture::tiny(&wide, 9, Weights::Mixed).build();
        (*of, Model::from_bytes(&file).unwrap())
    })
}

fn pool(model: &Model, format: KvFormat) -> Arc<KvPool> {
    kv_pool(model, format, usize::MAX).unwrap()
}

/// The logits behind the last of `tokens`, which follow in chunks.
fn feed(sequence: &mut Sequence, tokens: &[u32], chunk: usize) -> Bits {
    for tokens in tokens.chunks(chunk) {
        sequence.begin(tokens, true).unwrap();
        sequence.finish();
    }
    bits(sequence.logits())
}

#[test]
fn a_text_has_the_same_bits_in_every_configuration() {
    for (of, model) in models() {
        let mut by_format = Vec::new();
        for format in KvFormat::ALL {
            let pool = pool(&model, format);
            let new = |kernels| Sequence::in_pool(Arc::clone(&model), kernels, &pool, LONG);
            let texts = [0, 1].map(tokens);
            let wanted = texts
                .each_ref()
                .map(|text| feed(&mut new(Arc::clone(&PORTABLE)), text, 1));
            for isa in Isa::available() {
                let kernels = kernels(isa, 2);
                for chunk in CHUNKS {
                    let bits = feed(&mut new(Arc::clone(&kernels)), &texts[0], chunk);
                    assert_eq!(
                        bits, wanted[0],
                        "{} {format} {isa} {chunk}",
                        of.architecture
                    );
                }
                // Two texts in one batch, the second behind the first.
                let mut batch = Batch::new(Arc::clone(&model), Arc::clone(&kernels));
                let mut sequences = [0, 1].map(|_| new(Arc::clone(&kernels)));
                for (pass, first) in (0..LONG + 40).step_by(40).enumerate() {
                    let [one, two] = &mut sequences;
                    let part = |text: usize, first: usize| {
                        &texts[text][first.min(LONG)..(first + 40).min(LONG)]
                    };
                    let mut members = Vec::new();
                    if first < LONG {
                        members.push((one, part(0, first)));
                    }
                    if pass > 0 {
                        members.push((two, part(1, first - 40)));
                    }
                    let mut members: Vec<_> = members
                        .into_iter()
                        .map(|(sequence, tokens)| Member {
                            sequence,
                            tokens,
                            logits: true,
                        })
                        .collect();
                    batch.run(&mut members).unwrap();
                }
                for (sequence, wanted) in sequences.iter().zip(&wanted) {
                    assert_eq!(
                        &bits(sequence.logits()),
                        wanted,
                        "{} {format} {isa}",
                        of.architecture
                    );
                }
            }
            by_format.push(wanted);
        }
        by_format.dedup();
        assert_eq!(by_format.len(), 3, "formats differ: {}", of.architecture);
    }
}

#[test]
fn sequences_that_begin_alike_share_pages() {
    for (of, model) in models() {
        let pool = pool(&model, KvFormat::F16);
        let new = || Sequence::in_pool(Arc::clone(&model), Arc::clone(&PORTABLE), &pool, LONG);
        let mut beginning = new();
        let both = [tokens(0), tokens(1)];
        let alike = |first: usize| [&both[0][..first], &both[1][first..]].concat();
        let wanted = [64, 100].map(|first| feed(&mut new(), &alike(first), 7));
        let mut forks = Vec::new();
        for first in [64, 100] {
            let rest = &both[0][beginning.position()..first];
            feed(&mut beginning, rest, 9);
            let used = pool.used();
            forks.push(beginning.fork().unwrap());
            let layers = model.graph().attention.layers;
            let copied = match first % 64 {
                0 => 0,
                _ => layers * pool.page_bytes(),
            };
            assert_eq!(pool.used() - used, copied, "{}", of.architecture);
        }
        // The first goes on by itself, and what it writes reaches none of the others.
        let bits = feed(&mut beginning, &both[0][100..], 5);
        assert_eq!(bits, feed(&mut new(), &both[0], 11));
        for (mut fork, wanted) in forks.into_iter().zip(wanted) {
            let rest = &both[1][fork.position()..];
            assert_eq!(feed(&mut fork, rest, 3), wanted, "{}", of.architecture);
        }
        drop(beginning);
        assert_eq!(pool.used(), 0);
    }
}

#[test]
fn a_sequence_goes_back_as_far_as_its_layers_keep() {
    for (of, model) in models() {
        let pool = pool(&model, KvFormat::Q8);
        let new = || Sequence::in_pool(Arc::clone(&model), Arc::clone(&PORTABLE), &pool, LONG);
        let both = [tokens(0), tokens(1)];
        let mut sequence = new();
        feed(&mut sequence, &both[0], 50);
        let shared = sequence.fork().unwrap();
        assert_eq!(sequence.rewind(LONG), LONG);
        let keeps_all = of.window.is_none() && of.attends.iter().all(|attends| *attends);
        let position = sequence.rewind(40);
        assert_eq!(
            position,
            if keeps_all { 40 } else { 0 },
            "{}",
            of.architecture
        );
        assert_eq!(sequence.position(), position);
        let mixed = [&both[0][..40], &both[1][40..]].concat();
        let bits = feed(&mut sequence, &mixed[position..], 50);
        assert_eq!(bits, feed(&mut new(), &mixed, 50), "{}", of.architecture);
        // Pages that another sequence has, too, were not written.
        let mut shared = shared;
        assert_eq!(
            shared.rewind(LONG - 1),
            if keeps_all || of.window.is_some() {
                LONG - 1
            } else {
                0
            }
        );
        let position = shared.position();
        let bits = feed(&mut shared, &both[0][position..], 50);
        assert_eq!(bits, feed(&mut new(), &both[0], 50), "{}", of.architecture);
    }
}

#[test]
fn layers_with_a_window_keep_only_that() {
    let (of, model) = models()
        .find(|(of, _)| of.window.is_some())
        .expect("an architecture has windows");
    let pool = pool(&model, KvFormat::F16);
    let mut sequence = Sequence::in_pool(Arc::clone(&model), Arc::clone(&PORTABLE), &pool, LONG);
    feed(&mut sequence, &tokens(0), 10);
    let windows = model.graph().operations.iter().filter(|operation| {
        matches!(operation.action, crate::graph::Action::Attention { window, .. } if window.is_some())
    });
    let (local, layers) = (windows.count(), of.attends.len());
    // The last page of those that have a window of 12, all three of the others.
    assert_eq!(
        pool.used(),
        (local + 3 * (layers - local)) * pool.page_bytes()
    );
}

#[test]
fn a_budget_is_kept_and_a_sequence_that_has_no_room_loses_nothing() {
    let (_, model) = models().next().unwrap();
    let layers = model.graph().attention.layers;
    let page = pool(&model, KvFormat::Q4).page_bytes();
    // Two texts of a page and one of two more.
    let pool = kv_pool(&model, KvFormat::Q4, (4 * layers + 1) * page).unwrap();
    let kernels = Arc::clone(&PORTABLE);
    let new = || Sequence::in_pool(Arc::clone(&model), Arc::clone(&kernels), &pool, LONG);
    let text = tokens(0);
    let mut sequences = [new(), new(), new()];
    feed(&mut sequences[0], &text[..64], 64);
    feed(&mut sequences[1], &text[..64], 64);
    feed(&mut sequences[2], &text[..128], 64);
    let full = SequenceError::NoMemory(KvFull {
        needed: layers * page,
        used: 4 * layers * page,
        budget: (4 * layers + 1) * page,
    });
    assert_eq!(sequences[1].begin(&text[64..65], true), Err(full.clone()));
    assert_eq!(
        full.to_string(),
        format!(
            "no room for keys and values: {} bytes more, {} of {} in use",
            layers * page,
            4 * layers * page,
            (4 * layers + 1) * page
        )
    );
    let mut batch = Batch::new(Arc::clone(&model), Arc::clone(&kernels));
    let mut run = |sequences: &mut [Sequence; 3]| {
        let [first, second, _] = sequences;
        let member = |sequence| Member {
            sequence,
            tokens: &text[64..65],
            logits: true,
        };
        let mut members = [member(first), member(second)];
        batch.run(&mut members).map_err(|error| error.member)
    };
    assert_eq!(run(&mut sequences), Err(0));
    // What the first took is there again when the second finds no room.
    sequences[2].rewind(64);
    let taken = feed(&mut sequences[2], &text[64..65], 1);
    let left = sequences[2].rewind(64);
    assert_eq!((taken.is_empty(), left), (false, 64));
    assert_eq!(pool.used(), 3 * layers * page);
    let mut other = new();
    other.begin(&text[..1], false).unwrap();
    assert_eq!(pool.used(), 4 * layers * page);
    assert_eq!(run(&mut sequences), Err(0));
    drop(other);
    let third = KvFull {
        needed: layers * page,
        used: 3 * layers * page + layers * page,
        budget: (4 * layers + 1) * page,
    };
    assert_eq!(run(&mut sequences), Err(1));
    assert_eq!(pool.used() + layers * page, third.used);
    sequences[2].clear();
    run(&mut sequences).unwrap();
    assert_eq!(pool.used(), 4 * layers * page);
    let mut alone = Sequence::in_pool(
        Arc::clone(&model),
        Arc::clone(&kernels),
        &super::kv_pool(&model, KvFormat::Q4, usize::MAX).unwrap(),
        LONG,
    );
    let wanted = feed(&mut alone, &text[..65], 3);
    for sequence in &sequences[..2] {
        assert_eq!(bits(sequence.logits()), wanted);
    }
}

#[test]
fn the_size_of_a_cache_is_known_before_it_is_made() {
    for (of, model) in models() {
        for format in KvFormat::ALL {
            for positions in [1, 64, 65, LONG] {
                let pool = pool(&model, format);
                let kernels = Arc::clone(&PORTABLE);
                let mut sequence = Sequence::in_pool(Arc::clone(&model), kernels, &pool, LONG);
                feed(&mut sequence, &tokens(0)[..positions], LONG);
                let known = model.graph().cache_bytes(format, positions);
                let used = pool.used() as u64;
                assert!(used <= known, "{}", of.architecture);
                assert!(used == known || of.window.is_some(), "{}", of.architecture);
            }
        }
    }
}

#[test]
fn heads_that_a_format_does_not_take_are_refused() {
    let error = kv_pool(&MODEL, KvFormat::Q8, usize::MAX).unwrap_err();
    assert_eq!(
        error.to_string(),
        "keys and values of heads of 16 elements cannot be kept as q8"
    );
}
