//! What is refused, and what becomes of a product when children fail.
use super::*;
use crate::common::parrot;
use ic_management_canister_types::ProvisionalCreateCanisterWithCyclesArgs;
use std::time::Duration;

#[test]
fn what_cannot_be_multiplied_is_refused() {
    for version in COMPILERS {
        let Some(mut family) = Family::new(version, 1) else {
            return;
        };
        let float = |rows, columns, count| matrix(rows, columns, Elements::Float(vec![1.0; count]));
        let int = |rows, columns, value: Int| {
            matrix(rows, columns, Elements::Int(vec![value; rows * columns]))
        };
        let two = || shape(2, 2, 2);
        let cases = [
            (
                float(2, 3, 6),
                float(2, 3, 6),
                two(),
                "shapes do not fit: 2 x 3 times 2 x 3",
            ),
            (
                float(2, 3, 5),
                float(3, 2, 6),
                two(),
                "a is not 2 x 3: 5 elements",
            ),
            (
                float(2, 3, 6),
                float(3, 2, 7),
                two(),
                "b is not 3 x 2: 7 elements",
            ),
            (
                float(2, 2, 4),
                int(2, 2, Int::from(1)),
                two(),
                "elements differ",
            ),
            (
                float(2, 2, 4),
                float(2, 2, 4),
                shape(2, 0, 2),
                "a tile has no elements: 2 x 0 x 2",
            ),
            (
                float(1_000_000, 0, 0),
                float(0, 1_000_000, 0),
                two(),
                "the product is more than a reply can carry: 8_000_000_000_000 bytes",
            ),
            (
                float(500, 490, 245_000),
                float(490, 12, 5_880),
                shape(500, 490, 12),
                "tile (0, 0, 0) is more than a call can carry: 2_007_",
            ),
            (
                int(600, 1, Int::from(1 << 20)),
                int(1, 600, Int::from(1 << 20)),
                shape(200, 1, 200),
                "the product is more than a reply can carry: 2_160_",
            ),
        ];
        for (a, b, tile, text) in cases {
            let error = family.multiply(&a, &b, tile).unwrap_err();
            assert!(error.starts_with(text), "{error}");
        }
        family.adopt(0);
        let one = float(1, 1, 1);
        let error = family.multiply(&one, &one, two()).unwrap_err();
        assert_eq!(error, "there are no children");
        let stranger = Principal::from_slice(&[7; 29]);
        let expected = format!("not a controller: {stranger}");
        let error = family.call::<()>(stranger, "setChildren", &(Vec::<Principal>::new(),));
        assert_eq!(error.unwrap_err(), expected);
        let error = family.call::<Matrix>(stranger, "multiply", &(&one, &one, two()));
        assert_eq!(error.unwrap_err(), expected);
    }
}

/// Lets years pass until what a canister has is less than a message must have at hand.
fn starve(subnet: &mut Subnet, canister: Principal) {
    while subnet.cycles(canister) > 30_000_000_000 {
        subnet.advance_time(Duration::from_secs(365 * 24 * 60 * 60));
        subnet.tick();
    }
    assert!(subnet.cycles(canister) > 0, "its code is gone");
}

#[test]
fn children_that_fail_are_replaced_by_the_next() {
    let Some(mut family) = Family::new("enhanced", 4) else {
        return;
    };
    let dimensions = (8, 9, 10);
    let (a, b) = (floats(7, 72, false), floats(8, 90, false));
    let expected = bits(&Elements::Float(float_product((&a, &b), dimensions)));
    let a = matrix(8, 9, Elements::Float(a));
    let b = matrix(9, 10, Elements::Float(b));
    let tile = || shape(3, 4, 4);
    let trap = r#"(module
        (import "ic0" "trap" (func $trap (param i32 i32)))
        (memory 1)
        (data (i32.const 0) "boom")
        (func (export "canister_update compute") (call $trap (i32.const 0) (i32.const 4))))"#;
    let trapping = family.children[0];
    let module = wat::parse_str(trap).unwrap();
    family.subnet.reinstall(trapping, &module, b"").unwrap();
    let poor = ProvisionalCreateCanisterWithCyclesArgs {
        amount: Some(700_000_000_000_u64.into()),
        ..ProvisionalCreateCanisterWithCyclesArgs::default()
    };
    let poor = family
        .subnet
        .create_canister_with(anonymous(), &poor)
        .unwrap();
    let child = compile("enhanced", CHILD).unwrap();
    family.subnet.install(poor, child, &encode(&())).unwrap();
    starve(&mut family.subnet, poor);
    family.children[2] = poor;
    family.adopt(4);
    let product = family.multiply(&a, &b, tile()).unwrap();
    assert_eq!(bits(&product), expected, "one traps and one is dry");

    family.adopt(1);
    let error = family.multiply(&a, &b, tile()).unwrap_err();
    let text = format!(
        "no child computed tile (2, 0, 2); the last, {trapping}: IC0503: \
         Error from Canister {trapping}: Canister called `ic0.trap` with message: 'boom'"
    );
    assert!(error.starts_with(&text), "{error}");
    family.children.swap(0, 2);
    family.adopt(1);
    let error = family.multiply(&a, &b, tile()).unwrap_err();
    assert!(error.contains(&format!("{poor}: IC0207")), "{error}");
}

fn coordinates(row: u8, inner: u8, column: u8) -> Coordinates {
    Coordinates {
        row: row.into(),
        inner: inner.into(),
        column: column.into(),
    }
}

#[test]
fn answers_to_other_questions_are_no_answers() {
    let Some(mut family) = Family::new("classical", 2) else {
        return;
    };
    let two = matrix(1, 1, Elements::Float(vec![2.0]));
    let done = |at, sums| Reply::Ok(Done { at, sums });
    let zeros = |count| Elements::Float(vec![0.0; count]);
    let cases = [
        (
            done(coordinates(0, 0, 9), zeros(1)),
            "it answered with 1 elements of tile (0, 0, 9)",
        ),
        (
            done(coordinates(0, 0, 0), zeros(2)),
            "it answered with 2 elements of tile (0, 0, 0)",
        ),
        (
            done(coordinates(0, 0, 0), Elements::Int(vec![Int::from(0)])),
            "it answered with 1 elements of tile (0, 0, 0)",
        ),
        (Reply::Err("no".into()), "no"),
    ];
    for (reply, reason) in cases {
        family.children[0] = parrot(&mut family.subnet, &reply);
        family.adopt(2);
        let product = family.multiply(&two, &two, shape(1, 1, 1)).unwrap();
        assert_eq!(product, Elements::Float(vec![4.0]), "{reason}");
        family.adopt(1);
        let error = family.multiply(&two, &two, shape(1, 1, 1)).unwrap_err();
        let child = family.children[0];
        let text = format!("no child computed tile (0, 0, 0); the last, {child}: {reason}");
        assert_eq!(error, text);
    }
}

#[test]
fn a_child_checks_what_it_is_asked() {
    for version in COMPILERS {
        let Some(mut family) = Family::new(version, 1) else {
            return;
        };
        let child = family.children[0];
        let mut ask = |a, b, sums| {
            let work = Work {
                at: coordinates(1, 2, 3),
                shape: shape(2, 3, 4),
                a,
                b,
                sums,
            };
            let arguments = encode(&(work,));
            let reply = family
                .subnet
                .update(child, anonymous(), "compute", &arguments);
            let reply: Result<Done, String> =
                decode_one::<Reply<_>>(&reply.unwrap()).unwrap().into();
            reply.map(|Done { at, sums }| ([at.row, at.inner, at.column], sums))
        };
        let ones = |count| Elements::Float(vec![1.0; count]);
        let at = [1_u8, 2, 3].map(Nat::from);
        let product = ask(ones(6), ones(12), None).unwrap();
        assert_eq!(product, (at.clone(), Elements::Float(vec![3.0; 8])));
        let product = ask(ones(6), ones(12), Some(ones(8))).unwrap();
        assert_eq!(product, (at, Elements::Float(vec![4.0; 8])));
        let error = ask(ones(5), ones(12), None).unwrap_err();
        assert_eq!(error, "a is not 2 x 3: 5 elements");
        let error = ask(ones(6), ones(13), None).unwrap_err();
        assert_eq!(error, "b is not 3 x 4: 13 elements");
        let error = ask(ones(6), ones(12), Some(ones(0))).unwrap_err();
        assert_eq!(error, "sums is not 2 x 4: 0 elements");
        let ints = Elements::Int(vec![Int::from(1); 12]);
        let error = ask(ones(6), ints, None).unwrap_err();
        assert_eq!(error, "elements differ");
    }
}
