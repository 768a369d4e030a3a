use super::*;
use crate::{fixture, gguf::Gguf};
use proptest::prelude::*;

fn strings(stops: &[&str]) -> Vec<String> {
    stops.iter().map(|&stop| stop.to_owned()).collect()
}

fn prepare(steering: &Steering) -> Result<Option<Constraint>, SteeringError> {
    let file = fixture::tiny_llama(1).build();
    let tokenizer = Tokenizer::from_metadata(&Gguf::parse(&file).unwrap()).unwrap();
    steering.prepare(&tokenizer, tokenizer.vocabulary())
}

#[test]
fn the_first_complete_string_ends_the_text_where_it_begins() {
    let find = |stops: &[&str], text: &str| Stops(&strings(stops)).find(text.as_bytes(), 0);
    assert_eq!(find(&["END"], "the END of it"), Some(4));
    assert_eq!(find(&["END"], "the EN"), None);
    assert_eq!(find(&[], "anything"), None);
    // "c" is complete before "abcd".
    assert_eq!(find(&["abcd", "c"], "xabcd"), Some(3));
    // Complete at the same byte: the longest.
    assert_eq!(find(&["c", "abc", "bc"], "xabc"), Some(1));
    // What was looked at before is found when it becomes complete, and not again.
    let stops = strings(&["END"]);
    assert_eq!(Stops(&stops).find(b"the END", 6), Some(4));
    assert_eq!(Stops(&stops).find(b"the END.", 7), None);
}

#[test]
fn what_may_become_a_stop_is_held_back() {
    let settled = |stops: &[&str], text: &str| Stops(&strings(stops)).settled(text.as_bytes());
    assert_eq!(settled(&["END"], "the E"), 4);
    assert_eq!(settled(&["END"], "the EN"), 4);
    assert_eq!(settled(&["END"], "the ENE"), 6);
    assert_eq!(settled(&["aab"], "aaaa"), 2);
    assert_eq!(settled(&["x", "long stop"], "a lon"), 2);
    assert_eq!(settled(&[], "text"), 4);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the pieces, the text that was given out stays, and ends where the whole text ends.
    #[test]
    fn pieces_give_the_text_of_the_whole(
        pieces in prop::collection::vec("[ab]{0,4}", 0..12),
        stops in prop::collection::vec("[ab]{1,4}", 0..4),
    ) {
        let whole = pieces.concat();
        let stops = Stops(&stops);
        let mut text = Vec::new();
        let mut given = Vec::new();
        let mut stopped = false;
        for piece in &pieces {
            let seen = text.len();
            text.extend_from_slice(piece.as_bytes());
            if let Some(end) = stops.find(&text, seen) {
                text.truncate(end);
                stopped = true;
                prop_assert!(given.len() <= end);
                break;
            }
            let settled = stops.settled(&text);
            prop_assert!(settled >= given.len());
            prop_assert!(text.starts_with(&given));
            given = text[..settled].to_vec();
        }
        prop_assert!(text.starts_with(&given));
        let expected = stops.find(whole.as_bytes(), 0);
        prop_assert_eq!(stopped, expected.is_some());
        prop_assert_eq!(text, &whole.as_bytes()[..expected.unwrap_or(whole.len())]);
    }
}

#[test]
fn steering_that_cannot_be_used_is_refused() {
    let bias = Steering {
        bias: [(3, Bias::Ban), (268, Bias::Milli(1))].into(),
        ..Steering::default()
    };
    assert_eq!(
        prepare(&bias).unwrap_err().to_string(),
        "the bias is for a token that is not in the vocabulary of 268: 268"
    );
    let stop = Steering {
        stop: strings(&["x", ""]),
        ..Steering::default()
    };
    assert_eq!(
        prepare(&stop).unwrap_err().to_string(),
        "a string that stops the text is empty"
    );
    assert!(prepare(&Steering::default()).unwrap().is_none());
}

#[test]
fn what_is_empty_is_not_written_and_all_else_survives_json() {
    let write = |steering: &Steering| serde_json::to_string(steering).unwrap();
    assert_eq!(write(&Steering::default()), "{}");
    let steering = Steering {
        bias: [(3, Bias::Ban), (5, Bias::Milli(-1500))].into(),
        stop: strings(&["END"]),
        schema: Some("{}".to_owned()),
    };
    let json = write(&steering);
    assert_eq!(
        json,
        r#"{"bias":{"3":"ban","5":{"milli":-1500}},"stop":["END"],"schema":"{}"}"#
    );
    assert_eq!(serde_json::from_str::<Steering>(&json).unwrap(), steering);
    assert!(serde_json::from_str::<Steering>(r#"{"stops":[]}"#).is_err());
}
