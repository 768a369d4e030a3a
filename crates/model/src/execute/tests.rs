mod cache;
mod experts;

use super::*;
use crate::fixture;
use lockstep_numeric::{Isa, Pool};
use proptest::prelude::*;
use std::{error::Error, num::NonZeroUsize, sync::LazyLock};

static MODEL: LazyLock<Arc<Model>> =
    LazyLock::new(|| Model::from_bytes(&fixture::tiny_llama(5).build()).unwrap());

static PORTABLE: LazyLock<Arc<Kernels>> = LazyLock::new(|| kernels(Isa::Portable, 1));

const TEXTS: usize = 6;
const LENGTH: usize = 24;
const CHUNKS: [usize; 4] = [1, 3, 7, 16];

/// Bits of logits.
type Bits = Vec<u32>;

/// Per text and position, the logits of the text alone, token by token.
static ALONE: LazyLock<Vec<Vec<Bits>>> = LazyLock::new(|| {
    let logits = |text| {
        let mut sequence = sequence(LENGTH);
        let tokens = tokens(text);
        let each = tokens.chunks(1).map(|token| {
            sequence.begin(token, true).unwrap();
            sequence.finish();
            bits(sequence.logits())
        });
        each.collect()
    };
    (0..TEXTS).map(logits).collect()
});

fn kernels(isa: Isa, threads: usize) -> Arc<Kernels> {
    let pool = Pool::new(NonZeroUsize::new(threads).unwrap());
    Arc::new(Kernels::new(isa, Arc::new(pool)).unwrap())
}

fn sequence(capacity: usize) -> Sequence {
    Sequence::new(Arc::clone(&MODEL), Arc::clone(&PORTABLE), capacity)
}

fn batch(kernels: &Arc<Kernels>) -> Batch {
    Batch::new(Arc::clone(&MODEL), Arc::clone(kernels))
}

/// The tokens of a text; texts 0 and 1 begin alike.
fn tokens(text: usize) -> Vec<u32> {
    let token = |index: usize| match (text, index) {
        (1, 0..10) => index * 7 + 3,
        _ => (text * 37 + index * 7 + 3) % 268,
    };
    (0..LENGTH).map(|index| token(index) as u32).collect()
}

fn bits(logits: &[f32]) -> Bits {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// What a text puts into a pass: text, number of tokens, whether logits are wanted.
type Part = (usize, usize, bool);

/// Runs a pass and compares logits, charge and positions with those of each text alone.
fn run(batch: &mut Batch, sequences: &mut [Sequence], parts: &[Part]) {
    let graph = MODEL.graph();
    let texts: Vec<Vec<u32>> = parts.iter().map(|&(text, ..)| tokens(text)).collect();
    let starts: Vec<usize> = parts.iter().map(|p| sequences[p.0].position()).collect();
    let mut free: Vec<Option<&mut Sequence>> = sequences.iter_mut().map(Some).collect();
    let mut members = Vec::new();
    for ((&(text, count, logits), all), &start) in parts.iter().zip(&texts).zip(&starts) {
        members.push(Member {
            sequence: free[text].take().unwrap(),
            tokens: &all[start..start + count],
            logits,
        });
    }
    let work = batch.run(&mut members).unwrap();
    let prices = parts.iter().zip(&starts);
    let prices = prices.map(|(&(_, count, logits), &start)| graph.pass_price(count, start, logits));
    assert_eq!(work, prices.sum::<Work>());
    for (&(text, count, logits), start) in parts.iter().zip(starts) {
        let sequence = &sequences[text];
        assert_eq!(sequence.position(), start + count);
        if logits {
            let wanted = &ALONE[text][start + count - 1];
            assert_eq!(&bits(sequence.logits()), wanted, "{parts:?} {text}");
        }
    }
}

#[test]
fn a_batch_gives_each_text_what_it_gets_alone() {
    let isas = Isa::available();
    eprintln!("instruction sets tested: {isas:?}");
    for isa in isas {
        for threads in 1..=3 {
            let kernels = kernels(isa, threads);
            for (chunk, members) in CHUNKS
                .into_iter()
                .flat_map(|c| (1..=TEXTS).map(move |m| (c, m)))
            {
                chunked(&kernels, chunk, members);
            }
        }
    }
}

/// Takes `members` texts of different lengths through in chunks; the later ones join later.
fn chunked(kernels: &Arc<Kernels>, chunk: usize, members: usize) {
    let mut batch = batch(kernels);
    let mut sequences: Vec<_> = (0..members).map(|_| sequence(LENGTH)).collect();
    for pass in 0.. {
        let rest = |text: usize| 5 + 3 * text - sequences[text].position();
        let parts: Vec<Part> = (0..members)
            .filter(|&text| text / 3 <= pass && rest(text) > 0)
            .map(|text| (text, chunk.min(rest(text)), (text + pass) % 3 != 0))
            .collect();
        if parts.is_empty() {
            break;
        }
        run(&mut batch, &mut sequences, &parts);
    }
    // The caches are right where the logits were not looked at, too.
    for (text, sequence) in sequences.iter_mut().enumerate() {
        let position = sequence.position();
        assert_eq!(position, 5 + 3 * text);
        sequence
            .begin(&tokens(text)[position..][..1], true)
            .unwrap();
        sequence.finish();
        assert_eq!(bits(sequence.logits()), ALONE[text][position]);
    }
}

#[test]
fn a_pass_without_logits_stops_before_the_head_and_keeps_the_old_ones() {
    let mut sequences = [sequence(LENGTH), sequence(LENGTH)];
    let mut batch = batch(&PORTABLE);
    run(&mut batch, &mut sequences, &[(0, 2, true), (1, 3, false)]);
    assert!(sequences[1].logits().is_empty());
    run(&mut batch, &mut sequences, &[(1, 2, false), (0, 2, false)]);
    assert_eq!(bits(sequences[0].logits()), ALONE[0][1]);
    assert_eq!(batch.run(&mut []), Ok(0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn any_schedule_of_passes_gives_the_same_bits(
        schedule in prop::collection::vec(
            (
                prop::sample::subsequence((0..TEXTS).collect::<Vec<_>>(), 1..=TEXTS).prop_shuffle(),
                prop::collection::vec((1usize..9, any::<bool>()), TEXTS),
                any::<bool>(),
            ),
            1..8,
        ),
        isa in prop::sample::select(Isa::available()),
        threads in 1usize..4,
    ) {
        let mut batch = batch(&kernels(isa, threads));
        let mut sequences: Vec<_> = (0..TEXTS).map(|_| sequence(LENGTH)).collect();
        for (texts, wanted, alone) in schedule {
            let parts: Vec<Part> = texts
                .into_iter()
                .zip(wanted)
                .map(|(text, (count, logits))| {
                    let room = LENGTH - sequences[text].position();
                    (text, count.min(room), logits)
                })
                .filter(|&(_, count, _)| count > 0)
                .collect();
            // Passes of one text and of several take turns on the same sequences.
            if let (true, Some(&(text, count, _))) = (alone, parts.first()) {
                let sequence = &mut sequences[text];
                let end = sequence.position() + count;
                sequence.begin(&tokens(text)[end - count..end], true).unwrap();
                sequence.finish();
                prop_assert_eq!(&bits(sequence.logits()), &ALONE[text][end - 1]);
            } else {
                run(&mut batch, &mut sequences, &parts);
            }
        }
    }
}

#[test]
fn a_batch_with_one_member_that_cannot_take_part_changes_nothing() {
    let foreign = Model::from_bytes(&fixture::tiny_llama(6).build()).unwrap();
    let mut batch = batch(&PORTABLE);
    let mut sequences = [sequence(LENGTH), sequence(4)];
    run(&mut batch, &mut sequences, &[(0, 3, true), (1, 2, true)]);
    let [first, second] = &mut sequences;
    first.begin(&tokens(0)[3..6], false).unwrap();
    first.step();
    let mut other = Sequence::new(Arc::clone(&foreign), Arc::clone(&PORTABLE), LENGTH);

    let mut fails = |sequence: &mut Sequence, tokens: &[u32], member: usize| {
        let mut members = [
            Member {
                sequence: &mut *first,
                tokens: &[1],
                logits: true,
            },
            Member {
                sequence,
                tokens,
                logits: true,
            },
        ];
        if member == 0 {
            members.swap(0, 1);
        }
        let error = batch.run(&mut members).unwrap_err();
        assert_eq!(error.member, member);
        assert_eq!(
            error.to_string(),
            format!("text {member} of the batch cannot take part")
        );
        error.source().unwrap().to_string()
    };
    assert_eq!(
        fails(second, &[1, 2, 3], 1),
        "sequence is full: 5 positions needed, 4 there"
    );
    assert_eq!(
        fails(second, &[1, 268], 0),
        "token is not in the vocabulary of 268: 268"
    );
    assert_eq!(
        fails(&mut other, &[1], 1),
        format!(
            "sequence is of another model than {}: {}",
            MODEL.digest(),
            foreign.digest()
        )
    );
    assert_eq!((first.position(), second.position()), (3, 2));
    assert_eq!((first.operations_done(), other.position()), (1, 0));
    assert_eq!(bits(first.logits()), ALONE[0][2]);
    // The pass that was under way goes on.
    first.finish();
    run(&mut batch, &mut sequences, &[(1, 2, true), (0, 2, true)]);
}

#[test]
fn a_model_loaded_twice_is_one_model() {
    let again = Model::from_bytes(&fixture::tiny_llama(5).build()).unwrap();
    let mut batch = Batch::new(again, Arc::clone(&PORTABLE));
    run(&mut batch, &mut [sequence(LENGTH)], &[(0, 4, true)]);
}

#[test]
fn a_batch_drops_a_members_own_pass() {
    let mut sequences = [sequence(LENGTH), sequence(LENGTH)];
    sequences[0].begin(&[200, 201, 202], true).unwrap();
    sequences[0].run(100_000);
    assert!(sequences[0].in_pass());
    let mut batch = batch(&PORTABLE);
    run(&mut batch, &mut sequences, &[(0, 2, true), (1, 3, true)]);
    assert!(!sequences[0].in_pass());
    assert_eq!(sequences[0].step(), None);
    run(&mut batch, &mut sequences, &[(0, 2, true)]);
}

/// Keeps (operation, position, bits) of one segment.
struct Recorder {
    segment: usize,
    heard: Vec<(usize, usize, Bits)>,
}

impl Observer for Recorder {
    fn observe(&mut self, output: Output<'_>) {
        if output.segment == self.segment {
            for (position, row) in output.rows() {
                self.heard.push((output.operation, position, bits(row)));
            }
        }
    }
}

#[test]
fn an_observer_hears_every_row_with_its_position() {
    let new = |segment| Recorder {
        segment,
        heard: Vec::new(),
    };
    let mut alone = new(0);
    let mut lonely = sequence(LENGTH);
    for token in tokens(2)[..6].chunks(1) {
        lonely.begin(token, lonely.position() == 5).unwrap();
        while lonely.step_observed(&mut alone).is_some() {}
    }
    assert_eq!(lonely.step_observed(&mut alone), None);

    let mut together = new(1);
    let mut sequences = [sequence(LENGTH), sequence(LENGTH)];
    let texts = [tokens(0), tokens(2)];
    for (range, logits) in [(0..4, false), (4..6, true)] {
        let mut members: Vec<Member<'_>> = sequences
            .iter_mut()
            .zip(&texts)
            .map(|(sequence, tokens)| Member {
                sequence,
                tokens: &tokens[range.clone()],
                logits,
            })
            .collect();
        let observed = batch(&PORTABLE).run_observed(&mut members, &mut together);
        observed.unwrap();
    }

    let graph = MODEL.graph();
    assert_eq!(
        alone.heard.len(),
        6 * graph.head + (graph.operations.len() - graph.head)
    );
    alone.heard.sort();
    together.heard.sort();
    assert_eq!(alone.heard, together.heard);
    let (operation, position, logits) = alone.heard.last().unwrap();
    assert_eq!((*operation, *position), (graph.operations.len() - 1, 5));
    assert_eq!(logits, &ALONE[2][5]);
}

#[test]
fn positions_that_are_forgotten_leave_no_trace() {
    let mut sequence = sequence(LENGTH);
    sequence.begin(&tokens(0), false).unwrap();
    sequence.finish();
    sequence.begin(&tokens(1)[..1], true).unwrap_err();
    // Texts 0 and 1 begin alike.
    let alike = std::iter::zip(tokens(0), tokens(1))
        .take_while(|(a, b)| a == b)
        .count();
    assert_eq!(sequence.rewind(alike), alike);
    assert_eq!(sequence.rewind(LENGTH), alike);
    sequence.begin(&tokens(1)[alike..], true).unwrap();
    sequence.finish();
    assert_eq!(bits(sequence.logits()), *ALONE[1].last().unwrap());
}
