//! Logits after bias, penalties and bans.
use super::{ONE, Sampling, Surroundings};
use crate::steer::Bias;

/// Stands for a token that must not be chosen.
pub(super) const LEFT_OUT: f32 = f32::NEG_INFINITY;

/// The changed logits; none when nothing changes them.
pub(super) fn adjusted(
    sampling: &Sampling,
    logits: &[f32],
    surroundings: &Surroundings<'_>,
) -> Option<Vec<f32>> {
    let penalises = sampling.repetition_penalty_milli != ONE
        || sampling.frequency_penalty_milli != 0
        || sampling.presence_penalty_milli != 0;
    if !penalises && surroundings.bias.is_empty() && surroundings.allowed.is_none() {
        return None;
    }
    let mut values = logits.to_vec();
    for (&token, bias) in surroundings.bias {
        if let (Some(value), Bias::Milli(milli)) = (values.get_mut(token as usize), bias) {
            *value = finite(*value + *milli as f32 / 1000.0);
        }
    }
    if penalises {
        penalise(sampling, &mut values, surroundings.before);
    }
    for (&token, bias) in surroundings.bias {
        if let (Some(value), Bias::Ban) = (values.get_mut(token as usize), bias) {
            *value = LEFT_OUT;
        }
    }
    if let Some(allowed) = surroundings.allowed {
        for (index, value) in values.iter_mut().enumerate() {
            if !allowed.get(index).copied().unwrap_or(false) {
                *value = LEFT_OUT;
            }
        }
    }
    Some(values)
}

fn penalise(sampling: &Sampling, values: &mut [f32], before: [&[u32]; 2]) {
    let repetition = sampling.repetition_penalty_milli as f32 / 1000.0;
    let frequency = sampling.frequency_penalty_milli as f32 / 1000.0;
    let presence = sampling.presence_penalty_milli as f32 / 1000.0;
    let [prompt, answer] = before;
    let window = match sampling.penalty_window {
        0 => usize::MAX,
        window => window as usize,
    };
    let answered = answer.len().min(window);
    let asked = prompt.len().min(window - answered);
    let mut recent = [
        &prompt[prompt.len() - asked..],
        &answer[answer.len() - answered..],
    ]
    .concat();
    recent.sort_unstable();
    for same in recent.chunk_by(|a, b| a == b) {
        let Some(value) = values.get_mut(same[0] as usize) else {
            continue;
        };
        let repeated = match *value > 0.0 {
            true => *value / repetition,
            false => *value * repetition,
        };
        *value = finite(repeated - same.len() as f32 * frequency - presence);
    }
}

/// The nearest finite number. A number that is not one cannot occur: every step starts from a finite one.
fn finite(value: f32) -> f32 {
    value.clamp(f32::MIN, f32::MAX)
}
