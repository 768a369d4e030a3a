use super::*;
use lockstep_numeric::{Isa, Pool};
use proptest::prelude::*;
use std::{num::NonZeroUsize, sync::Arc};

fn kernels() -> Kernels {
    Kernels::new(Isa::Portable, Arc::new(Pool::new(NonZeroUsize::MIN))).unwrap()
}

const SEEDED: Sampling = Sampling {
    temperature_milli: 1000,
    seed: 7,
    ..Sampling::GREEDY
};

fn counts(sampling: Sampling, logits: &[f32], steps: u64) -> Vec<u32> {
    let kernels = kernels();
    let mut counts = vec![0; logits.len()];
    for step in 0..steps {
        counts[sampling.choose(&kernels, logits, step).unwrap() as usize] += 1;
    }
    counts
}

#[test]
fn greedy_takes_the_lowest_index_of_the_largest() {
    assert_eq!(
        Sampling::GREEDY
            .choose(&kernels(), &[1.0, 3.0, 3.0], 0)
            .unwrap(),
        1
    );
}

#[test]
fn non_finite_logits_are_an_error() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(Sampling::GREEDY.choose(&kernels(), &[0.0, bad], 0).is_err());
        assert!(SEEDED.choose(&kernels(), &[0.0, bad], 0).is_err());
    }
    assert!(SEEDED.choose(&kernels(), &[], 0).is_err());
}

#[test]
fn frequencies_follow_the_likelihoods() {
    // ln 1, ln 2, ln 4: one, two and four sevenths.
    let logits = [0.0, std::f32::consts::LN_2, 2.0 * std::f32::consts::LN_2];
    let counts = counts(SEEDED, &logits, 7000);
    for (count, wanted) in counts.iter().zip([1000u32, 2000, 4000]) {
        assert!(count.abs_diff(wanted) < 150, "{counts:?}");
    }
}

#[test]
fn cuts_leave_out_the_unlikely_and_ties_go_by_index() {
    let logits = [1.0, 1.0, 1.0, 0.9];
    let top_k = Sampling { top_k: 2, ..SEEDED };
    let cut = counts(top_k, &logits, 200);
    assert!(
        cut[0] > 50 && cut[1] > 50 && cut[2] + cut[3] == 0,
        "{cut:?}"
    );
    // Each of the first three has a little over a quarter.
    let top_p = Sampling {
        top_p_milli: 500,
        ..SEEDED
    };
    let cut = counts(top_p, &logits, 200);
    assert!(
        cut[0] > 50 && cut[1] > 50 && cut[2] + cut[3] == 0,
        "{cut:?}"
    );
    let none = Sampling {
        top_p_milli: 0,
        ..SEEDED
    };
    assert_eq!(counts(none, &logits, 50), [50, 0, 0, 0]);
}

#[test]
fn candidates_sort_by_value_then_token() {
    let values = [
        f32::NEG_INFINITY,
        f32::MIN,
        -1.0,
        -1e-40,
        0.0,
        1e-40,
        2.0,
        f32::INFINITY,
    ];
    let mut candidates = Vec::new();
    for (index, &value) in values.iter().enumerate() {
        let token = index as u32 * 2;
        candidates.extend([
            Candidate::new(value, token + 1),
            Candidate::new(value, token),
        ]);
    }
    candidates.sort_unstable();
    let sorted: Vec<_> = candidates.iter().map(|c| (c.value(), c.token())).collect();
    let wanted: Vec<_> = (0..values.len())
        .rev()
        .flat_map(|index| [0, 1].map(|odd| (values[index], index as u32 * 2 + odd)))
        .collect();
    assert_eq!(sorted, wanted);
    assert_eq!(Candidate::new(-0.0, 7), Candidate::new(0.0, 7));
}

#[test]
fn a_tiny_temperature_is_greedy() {
    let cold = Sampling {
        temperature_milli: 1,
        ..SEEDED
    };
    assert_eq!(counts(cold, &[-3e38, 5.0, 3e38, 0.0], 20), [0, 0, 20, 0]);
}

#[test]
fn random_numbers_are_frozen() {
    let drawn: Vec<u32> = (0..4)
        .map(|step| (uniform(1, step) * 16_777_216.0) as u32)
        .collect();
    assert_eq!(drawn, [12_420_321, 15_729_253, 1_579_585, 358_579]);
}

fn within(
    sampling: Sampling,
    logits: &[f32],
    before: [&[u32]; 2],
    bias: &[(u32, Bias)],
    allowed: Option<&[bool]>,
) -> Result<u32, ChoiceError> {
    let bias = bias.iter().copied().collect();
    let surroundings = Surroundings {
        before,
        bias: &bias,
        allowed,
    };
    sampling.choose_within(&kernels(), logits, &surroundings, 0)
}

/// The logits after bias, penalties and bans.
fn adjusted(
    sampling: Sampling,
    logits: &[f32],
    before: [&[u32]; 2],
    bias: &[(u32, Bias)],
) -> Option<Vec<f32>> {
    let bias = bias.iter().copied().collect();
    let surroundings = Surroundings {
        before,
        bias: &bias,
        allowed: None,
    };
    adjust::adjusted(&sampling, logits, &surroundings)
}

#[test]
fn nothing_set_changes_nothing() {
    assert_eq!(adjusted(SEEDED, &[1.0, -2.0], [&[0], &[1]], &[]), None);
}

#[test]
fn penalties_are_exact() {
    let logits = [3.0, -2.0, 1.0, 0.5, 0.0];
    let before: [&[u32]; 2] = [&[0, 1, 9], &[0, 4]];
    let repetition = Sampling {
        repetition_penalty_milli: 1500,
        ..SEEDED
    };
    assert_eq!(
        adjusted(repetition, &logits, before, &[]).unwrap(),
        [2.0, -3.0, 1.0, 0.5, 0.0]
    );
    let frequency = Sampling {
        frequency_penalty_milli: 250,
        ..SEEDED
    };
    assert_eq!(
        adjusted(frequency, &logits, before, &[]).unwrap(),
        [2.5, -2.25, 1.0, 0.5, -0.25]
    );
    let presence = Sampling {
        presence_penalty_milli: -500,
        ..SEEDED
    };
    assert_eq!(
        adjusted(presence, &logits, before, &[]).unwrap(),
        [3.5, -1.5, 1.0, 0.5, 0.5]
    );
    // One after the other: (3 / 1.5) - 2 * 0.25 - 0.125.
    let all = Sampling {
        repetition_penalty_milli: 1500,
        frequency_penalty_milli: 250,
        presence_penalty_milli: 125,
        ..SEEDED
    };
    assert_eq!(
        adjusted(all, &logits, before, &[]).unwrap(),
        [1.375, -3.375, 1.0, 0.5, -0.375]
    );
}

#[test]
fn the_window_counts_back_from_the_end_of_the_answer() {
    let penalised = |penalty_window| {
        let sampling = Sampling {
            presence_penalty_milli: 1000,
            penalty_window,
            ..SEEDED
        };
        adjusted(sampling, &[0.0; 5], [&[0, 1], &[2, 3]], &[]).unwrap()
    };
    assert_eq!(penalised(1), [0.0, 0.0, 0.0, -1.0, 0.0]);
    assert_eq!(penalised(3), [0.0, -1.0, -1.0, -1.0, 0.0]);
    assert_eq!(penalised(0), [-1.0, -1.0, -1.0, -1.0, 0.0]);
    assert_eq!(penalised(99), penalised(0));
}

#[test]
fn bias_is_added_before_penalties_and_bans_come_last() {
    let sampling = Sampling {
        repetition_penalty_milli: 2000,
        ..SEEDED
    };
    let bias = [
        (0, Bias::Milli(-1500)),
        (1, Bias::Ban),
        (2, Bias::Milli(250)),
    ];
    assert_eq!(
        adjusted(sampling, &[1.0, 9.0, 1.0], [&[0, 1], &[]], &bias).unwrap(),
        [-1.0, f32::NEG_INFINITY, 1.25]
    );
    let far = adjusted(
        Sampling {
            repetition_penalty_milli: 1,
            ..SEEDED
        },
        &[f32::MAX, f32::MIN],
        [&[0, 1], &[]],
        &[(1, Bias::Milli(i32::MIN))],
    );
    assert_eq!(far.unwrap(), [f32::MAX, f32::MIN * 0.001]);
}

#[test]
fn greedy_listens_to_bias_penalties_and_masks() {
    let greedy = Sampling::GREEDY;
    let logits = [1.0, 3.0, 2.0, 2.0];
    assert_eq!(within(greedy, &logits, [&[], &[]], &[], None), Ok(1));
    let ban = [(1, Bias::Ban)];
    assert_eq!(within(greedy, &logits, [&[], &[]], &ban, None), Ok(2));
    let mask = [true, false, false, true];
    assert_eq!(within(greedy, &logits, [&[], &[]], &[], Some(&mask)), Ok(3));
    // Behind the end of a mask nothing is allowed.
    assert_eq!(
        within(greedy, &logits, [&[], &[]], &[], Some(&[true])),
        Ok(0)
    );
    let penalty = Sampling {
        repetition_penalty_milli: 2000,
        ..greedy
    };
    assert_eq!(within(penalty, &logits, [&[1, 2], &[]], &[], None), Ok(3));
    for sampling in [greedy, SEEDED] {
        assert_eq!(
            within(sampling, &logits, [&[], &[]], &[], Some(&[])),
            Err(ChoiceError::NothingAllowed)
        );
        assert_eq!(
            within(sampling, &[0.0, f32::NAN], [&[], &[]], &ban, None),
            Err(ChoiceError::NonFinite)
        );
    }
}

#[test]
fn min_p_cuts_below_a_share_of_the_most_likely() {
    // One, two and four sevenths.
    let logits = [0.0, std::f32::consts::LN_2, 2.0 * std::f32::consts::LN_2];
    let cut = |min_p_milli| {
        let sampling = Sampling {
            min_p_milli,
            ..SEEDED
        };
        counts(sampling, &logits, 300).occurring()
    };
    assert_eq!(cut(240), [true, true, true]);
    assert_eq!(cut(260), [false, true, true]);
    assert_eq!(cut(510), [false, false, true]);
    // Above 1, the most likely one stays.
    assert_eq!(cut(5000), [false, false, true]);
}

trait Occurs {
    fn occurring(self) -> Vec<bool>;
}

impl Occurs for Vec<u32> {
    fn occurring(self) -> Vec<bool> {
        self.into_iter().map(|count| count > 0).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What is banned is never chosen, whatever the numbers; a choice among nothing is an error and the only one.
    #[test]
    fn choices_are_allowed_ones(
        logits in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 1..40),
        allowed in prop::collection::vec(any::<bool>(), 0..44),
        banned in prop::collection::btree_set(0u32..40, 0..10),
        numbers in any::<[u32; 6]>(),
        penalties in any::<[i32; 2]>(),
        before in prop::collection::vec(0u32..50, 0..30),
        step in any::<u64>(),
    ) {
        let sampling = Sampling {
            temperature_milli: numbers[0] % 3 * (numbers[0] % 100_000),
            top_k: numbers[1] % 50,
            top_p_milli: numbers[2] % 1100,
            min_p_milli: numbers[3] % 1100,
            repetition_penalty_milli: numbers[4] % 5000,
            frequency_penalty_milli: penalties[0],
            presence_penalty_milli: penalties[1],
            penalty_window: numbers[5] % 40,
            seed: u64::from(numbers[5]),
        };
        let bias: BTreeMap<u32, Bias> = banned.iter().map(|&token| (token, Bias::Ban)).collect();
        let (prompt, answer) = before.split_at(before.len() / 3);
        let surroundings = Surroundings { before: [prompt, answer], bias: &bias, allowed: Some(&allowed) };
        let may = |token: u32| {
            (token as usize) < logits.len()
                && allowed.get(token as usize).copied().unwrap_or(false)
                && !banned.contains(&token)
        };
        let any = (0..logits.len() as u32).any(may);
        match sampling.choose_within(&kernels(), &logits, &surroundings, step) {
            Ok(token) => prop_assert!(may(token)),
            Err(error) => prop_assert!(!any && error == ChoiceError::NothingAllowed),
        }
    }

    /// Without anything around it, a choice is that of the logits alone.
    #[test]
    fn nothing_around_is_nothing(
        logits in prop::collection::vec(-50.0f32..50.0, 1..40),
        temperature_milli in 0u32..3000,
        seed in any::<u64>(),
    ) {
        let sampling = Sampling { temperature_milli, seed, ..SEEDED };
        let everything = vec![true; logits.len()];
        let alone = sampling.choose(&kernels(), &logits, 3).unwrap();
        for allowed in [None, Some(everything.as_slice())] {
            let surroundings = Surroundings { before: [&[1], &[2]], bias: &BTreeMap::new(), allowed };
            prop_assert_eq!(sampling.choose_within(&kernels(), &logits, &surroundings, 3), Ok(alone));
        }
    }
}
