//! What is refused, and what becomes of a product when children fail.
use super::*;
use crate::common::parrot;

#[test]
fn what_cannot_be_multiplied_is_refused() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 1);
    let refused = |family: &mut Family, tile, order, text: &str| {
        assert_eq!(family.multiply(tile, order).unwrap_err(), text);
    };
    let cube = shape(2, 2, 2);
    refused(&mut family, cube, Order::Any, "no such matrix: a");
    family.store("a", Element::Float32, (2, 3), &[0; 24]);
    family.store("b", Element::Float32, (2, 3), &[0; 24]);
    refused(
        &mut family,
        cube,
        Order::Sequential,
        "shapes do not fit: 2 x 3 times 2 x 3",
    );
    family.store("b", Element::Float32, (3, 2), &[0; 24]);
    let text = "f32 sums depend on their order: only Sequential gives one result";
    refused(&mut family, cube, Order::Any, text);
    let text = "a tile has no elements: 2 x 0 x 2";
    refused(&mut family, shape(2, 0, 2), Order::Sequential, text);
    family.store("b", Element::Int8, (3, 2), &[0; 6]);
    refused(
        &mut family,
        cube,
        Order::Any,
        "elements differ: Float32 and Int8",
    );
    for name in ["a", "b"] {
        family.store(name, Element::Int32, (1, 1), &[0; 4]);
    }
    let text = "matrices of Int32 cannot be multiplied: only of Int8, Fixed16 and Float32";
    refused(&mut family, cube, Order::Any, text);
    family.store("a", Element::Int8, (1, 131_072), &[]);
    family.store("b", Element::Int8, (131_072, 1), &[]);
    let text = "sums of more than 131071 products may not fit: 131072";
    refused(&mut family, cube, Order::Any, text);
    family.store("a", Element::Float32, (1000, 1000), &[]);
    family.store("b", Element::Float32, (1000, 1000), &[]);
    let text = "tiles and sums of a call are more than 2000000 bytes: 12000000";
    refused(&mut family, shape_max(), Order::Sequential, text);
    family.adopt(0);
    refused(
        &mut family,
        cube,
        Order::Sequential,
        "there are no children",
    );
    // The largest sum that fits.
    family.adopt(1);
    let (k, bytes) = (131_071, vec![0x80; 131_071]);
    family.store("a", Element::Int8, (1, k), &bytes);
    family.store("b", Element::Int8, (k, 1), &bytes);
    family.multiply(shape(1, 50_000, 1), Order::Any).unwrap();
    assert_eq!(family.read("c", 4), (131_071_i32 << 14).to_le_bytes());

    let error = family.call("define", &("d", description(Element::Float32, u32::MAX, 2)));
    assert!(
        error
            .unwrap_err()
            .starts_with("all matrices would have more")
    );
    let error = family.call("define", &("d", description(Element::Fixed16(16), 1, 1)));
    assert_eq!(error.unwrap_err(), "the fraction has more than 15 bits: 16");
    let error = family.call("write", &("c", 1_u64, ByteBuf::from(vec![0; 4])));
    let text = "4 bytes from 1 on are not within the matrix, which has 4";
    assert_eq!(error.unwrap_err(), text);
    let stranger = Principal::from_slice(&[7; 29]);
    let arguments = candid::encode_args((Vec::<Principal>::new(),)).unwrap();
    let reply = family
        .subnet
        .update(family.parent, stranger, "set_children", &arguments);
    let reply: Outcome = candid::decode_one(&reply.unwrap()).unwrap();
    assert_eq!(reply.unwrap_err(), format!("not a controller: {stranger}"));
}

#[test]
fn children_that_fail_are_replaced_by_the_next() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 4);
    let product = shape(20, 30, 25);
    let (a, b) = (floats(7, 600, false), floats(8, 750, false));
    let expected = float_product(&a, &b, product);
    let bytes = |values: Vec<f32>| bytes_of(values.into_iter().map(f32::to_le_bytes));
    family.store("a", Element::Float32, (20, 30), &bytes(a));
    family.store("b", Element::Float32, (30, 25), &bytes(b));
    let tile = shape(7, 11, 8);
    family.children[2] = install_poor(&mut family.subnet, wasm, &());
    family.adopt(4);
    let [stopped, empty, poor, healthy] = family.children[..] else {
        unreachable!()
    };
    family
        .subnet
        .manage_canister("stop_canister", stopped)
        .unwrap();
    family.multiply(tile, Order::Sequential).unwrap();
    assert_eq!(family.read("c", 2000), expected, "one is stopped");
    family.subnet.uninstall(empty).unwrap();
    family.multiply(tile, Order::Sequential).unwrap();
    assert_eq!(family.read("c", 2000), expected, "one more has no code");
    starve(&mut family.subnet, poor);
    family.multiply(tile, Order::Sequential).unwrap();
    assert_eq!(family.read("c", 2000), expected, "one more has no cycles");
    family.children.swap(0, 2);
    family.adopt(1);
    let error = family.multiply(tile, Order::Sequential).unwrap_err();
    assert!(
        error.contains(&format!("Canister {poor} is out of cycles")),
        "{error}"
    );
    family.children.swap(0, 2);
    family.adopt(4);

    family
        .subnet
        .manage_canister("stop_canister", healthy)
        .unwrap();
    family
        .call("write", &("c", 0_u64, ByteBuf::from(vec![9; 4])))
        .unwrap();
    let before = family.read("c", 2000);
    let error = family.multiply(tile, Order::Sequential).unwrap_err();
    let start = format!("no child computed tile (0, 0, 0); the last, {healthy}: ");
    assert!(error.starts_with(&start), "{error}");
    assert!(
        error.contains(&format!("IC0508: Canister {healthy} is stopped")),
        "{error}"
    );
    assert_eq!(family.read("c", 2000), before, "nothing has changed");
    // The product that failed is not under way any more, and one child is enough.
    family
        .subnet
        .manage_canister("start_canister", stopped)
        .unwrap();
    family.multiply(tile, Order::Sequential).unwrap();
    assert_eq!(family.read("c", 2000), expected);
}

#[test]
fn answers_to_other_questions_are_no_answers() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 2);
    let two = 2.0_f32.to_le_bytes();
    family.store("a", Element::Float32, (1, 1), &two);
    family.store("b", Element::Float32, (1, 1), &two);
    let here = Coordinates {
        row: 0,
        inner: 0,
        column: 0,
    };
    let done = |at, size| {
        let sums = ByteBuf::from(vec![0; size]);
        Ok(Done { at, sums })
    };
    let there = Coordinates { column: 9, ..here };
    let cases: [(Result<Done, String>, &str); 3] = [
        (done(there, 4), "it answered with 4 bytes of tile (0, 0, 9)"),
        (done(here, 8), "it answered with 8 bytes of tile (0, 0, 0)"),
        (Err("no".into()), "no"),
    ];
    for (reply, reason) in cases {
        family.children[0] = parrot(&mut family.subnet, &reply);
        family.adopt(2);
        family.multiply(shape_max(), Order::Sequential).unwrap();
        assert_eq!(family.read("c", 4), 4.0_f32.to_le_bytes(), "{reason}");
        family.adopt(1);
        let error = family.multiply(shape_max(), Order::Sequential);
        let child = family.children[0];
        let text = format!("no child computed tile (0, 0, 0); the last, {child}: {reason}");
        assert_eq!(error.unwrap_err(), text);
    }
}

#[test]
fn a_child_checks_what_it_is_asked() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 1);
    let child = family.children[0];
    let mut ask = |shape, a: usize, b: usize, sums: Option<usize>| {
        let zeros = |size| ByteBuf::from(vec![0; size]);
        let work = Work {
            at: Coordinates {
                row: 1,
                inner: 2,
                column: 3,
            },
            arithmetic: Arithmetic::Fixed16,
            shape,
            a: zeros(a),
            b: zeros(b),
            sums: sums.map(zeros),
        };
        let reply: Result<Done, String> =
            update(&mut family.subnet, child, "compute", &(work,)).unwrap();
        reply.map(|done| (done.at.row, done.at.inner, done.at.column, done.sums.len()))
    };
    assert_eq!(ask(shape(2, 3, 4), 12, 24, None), Ok((1, 2, 3, 64)));
    assert_eq!(ask(shape(2, 3, 4), 12, 24, Some(64)), Ok((1, 2, 3, 64)));
    let error = ask(shape(2, 3, 4), 11, 24, None).unwrap_err();
    assert_eq!(error, "a is not 2 x 3 elements of 2 bytes: 11 bytes");
    let error = ask(shape(2, 3, 4), 12, 26, None).unwrap_err();
    assert_eq!(error, "b is not 3 x 4 elements of 2 bytes: 26 bytes");
    let error = ask(shape(2, 3, 4), 12, 24, Some(0)).unwrap_err();
    assert_eq!(error, "sums is not 2 x 4 elements of 8 bytes: 0 bytes");
    let error = ask(shape(u32::MAX, u32::MAX, 1), 0, 0, None).unwrap_err();
    assert!(
        error.starts_with("a is not 4294967295 x 4294967295"),
        "{error}"
    );
    // No inputs at all, and more outputs than there is memory.
    let error = ask(shape(u32::MAX, 0, u32::MAX), 0, 0, None).unwrap_err();
    assert!(error.starts_with("sums of more than"), "{error}");
}

#[test]
fn one_product_is_under_way_at_a_time() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 2);
    let ones = bytes_of([1.0_f32.to_le_bytes(); 16]);
    family.store("a", Element::Float32, (4, 4), &ones);
    family.store("b", Element::Float32, (4, 4), &ones);
    let arguments = ("a", "b", "c", shape(1, 1, 1), Order::Sequential);
    let arguments = crate::support::encode(&arguments);
    let mut submit = || {
        let (parent, sender) = (family.parent, Principal::anonymous());
        family.subnet.submit(parent, sender, "multiply", &arguments)
    };
    let calls = [submit(), submit()];
    let outcomes = calls.map(|call| {
        let reply = family.subnet.wait(call).unwrap();
        candid::decode_one::<Outcome>(&reply).unwrap()
    });
    let busy = Err("a product is under way; try again later".into());
    // Calls of a block are executed in an order of their own.
    assert!(
        outcomes == [Ok(()), busy.clone()] || outcomes == [busy, Ok(())],
        "{outcomes:?}"
    );
    assert_eq!(family.read("c", 64), bytes_of([4.0_f32.to_le_bytes(); 16]));
}
