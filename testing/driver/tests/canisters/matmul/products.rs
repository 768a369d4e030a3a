//! A product over canisters has the bits of one product on one machine.
use super::*;

/// Stores two matrices and checks their product for many rings, tiles and orders.
fn check(
    family: &mut Family,
    shape: Shape,
    element: Element,
    (a, b): (&[u8], &[u8]),
    orders: &[Order],
    expected: &[u8],
) {
    family.store("a", element, (shape.rows, shape.inner), a);
    family.store("b", element, (shape.inner, shape.columns), b);
    for count in 1..=family.children.len() {
        family.adopt(count);
        for edge in [1, 7, 16, 100] {
            let elements = shape.rows * shape.inner * shape.columns;
            // Tiles of one element only where that is not hours of calls.
            if elements / (edge * edge * edge) > 600 {
                continue;
            }
            for order in orders {
                let tile = Shape {
                    rows: edge,
                    inner: edge,
                    columns: edge,
                };
                family.multiply(tile, *order).unwrap();
                assert_eq!(
                    family.read("c", expected.len()),
                    expected,
                    "{shape:?} of {element:?}, tiles of {edge}, {count} children"
                );
                family.call("remove", &("c",)).unwrap();
            }
        }
    }
}

const SHAPES: [(u32, u32, u32); 9] = [
    (0, 0, 0),
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (1, 1, 1),
    (1, 9, 1),
    (8, 1, 9),
    (5, 6, 17),
    (37, 53, 41),
];

#[test]
fn f32_over_canisters_has_the_bits_of_the_kernel() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 4);
    for (rows, inner, columns) in SHAPES {
        let shape = shape(rows, inner, columns);
        for special in [false, true] {
            let a = floats(1, (rows * inner) as usize, special);
            let b = floats(2, (inner * columns) as usize, special);
            let expected = float_product(&a, &b, shape);
            let bytes = |values: Vec<f32>| bytes_of(values.into_iter().map(f32::to_le_bytes));
            let inputs = (&bytes(a)[..], &bytes(b)[..]);
            let orders = [Order::Sequential];
            check(
                &mut family,
                shape,
                Element::Float32,
                inputs,
                &orders,
                &expected,
            );
        }
    }
}

#[test]
fn integers_may_be_added_in_any_order() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 4);
    for (rows, inner, columns) in SHAPES {
        let shape = shape(rows, inner, columns);
        // Extremes often enough that sums become large.
        let values = |seed, count| {
            noise(seed, count).map(|bits| if bits >> 62 == 0 { i8::MIN } else { bits as i8 })
        };
        let a: Vec<i8> = values(3, (rows * inner) as usize).collect();
        let b: Vec<i8> = values(4, (inner * columns) as usize).collect();
        let expected = integer_product(&a, &b, shape);
        let bytes = |values: Vec<i8>| bytes_of(values.into_iter().map(i8::to_le_bytes));
        let inputs = (&bytes(a)[..], &bytes(b)[..]);
        let orders = [Order::Sequential, Order::Any];
        check(
            &mut family,
            shape,
            Element::Int8,
            inputs,
            &orders,
            &expected,
        );
    }
}

#[test]
fn fixed_point_is_rounded_once_and_saturates() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 3);
    for (rows, inner, columns) in SHAPES {
        let shape = shape(rows, inner, columns);
        let values = |seed, count| {
            noise(seed, count).map(|bits| match bits >> 61 {
                0 => 1 << 11, // products of two are ties
                1 => i16::MAX,
                _ => bits as i16,
            })
        };
        let a: Vec<i16> = values(5, (rows * inner) as usize).collect();
        let b: Vec<i16> = values(6, (inner * columns) as usize).collect();
        let expected = fixed_product(&a, &b, shape);
        let bytes = |values: Vec<i16>| bytes_of(values.into_iter().map(i16::to_le_bytes));
        let inputs = (&bytes(a)[..], &bytes(b)[..]);
        let orders = [Order::Sequential, Order::Any];
        let element = Element::Fixed16(FRACTION);
        check(&mut family, shape, element, inputs, &orders, &expected);
        let out = Element::Fixed32(FRACTION);
        family.multiply(shape_max(), Order::Any).unwrap();
        assert_eq!(family.describe("c").unwrap().element, out);
    }
    // One product is what the type of fixed point numbers says it is.
    family.store(
        "a",
        Element::Fixed16(FRACTION),
        (1, 1),
        &3_i16.to_le_bytes(),
    );
    family.store(
        "b",
        Element::Fixed16(FRACTION),
        (1, 1),
        &2048_i16.to_le_bytes(),
    );
    family.multiply(shape_max(), Order::Sequential).unwrap();
    let product =
        Fixed::<i32, 12>::from_bits(3).saturating_mul(Fixed::from_bits(2048), Rounding::HalfEven);
    assert_eq!(family.read("c", 4), product.to_bits().to_le_bytes());
    // Without a fraction 2^15 * 2^15 * 4 does not fit.
    for (a, expected) in [(i16::MIN, i32::MAX), (i16::MAX, i32::MIN)] {
        let (row, column) = (
            bytes_of([a.to_le_bytes(); 4]),
            bytes_of([i16::MIN.to_le_bytes(); 4]),
        );
        family.store("a", Element::Fixed16(0), (1, 4), &row);
        family.store("b", Element::Fixed16(0), (4, 1), &column);
        family.multiply(shape(1, 1, 1), Order::Any).unwrap();
        assert_eq!(family.read("c", 4), expected.to_le_bytes());
    }
}

#[test]
fn neither_threads_nor_fork_join_can_be_seen() {
    let Some((forking, sequential)) = wasm("matmul").zip(sequential_wasm("matmul")) else {
        return;
    };
    let product = shape(33, 20, 21);
    let (a, b) = (floats(13, 660, true), floats(14, 420, true));
    let expected = float_product(&a, &b, product);
    let bytes = |values: Vec<f32>| bytes_of(values.into_iter().map(f32::to_le_bytes));
    let (a, b) = (bytes(a), bytes(b));
    let run = |wasm: &[u8], threads: usize| {
        let subnet = Subnet::on_threads(NonZeroUsize::new(threads).unwrap());
        let mut family = Family::on(subnet, wasm, 3);
        family.store("a", Element::Float32, (33, 20), &a);
        family.store("b", Element::Float32, (20, 21), &b);
        family
            .multiply(shape(20, 9, 21), Order::Sequential)
            .unwrap();
        assert_eq!(
            family.read("c", expected.len()),
            expected,
            "{threads} threads"
        );
        family.subnet.root()
    };
    assert_eq!(run(forking, 1), run(forking, 3));
    run(sequential, 1);
}

#[test]
fn matrices_survive_upgrades() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 2);
    let product = shape(9, 10, 11);
    let (a, b) = (floats(9, 90, true), floats(10, 110, true));
    let expected = float_product(&a, &b, product);
    let bytes = |values: Vec<f32>| bytes_of(values.into_iter().map(f32::to_le_bytes));
    family.store("a", Element::Float32, (9, 10), &bytes(a));
    family
        .subnet
        .upgrade(family.parent, wasm, b"", None)
        .unwrap();
    family.store("b", Element::Float32, (10, 11), &bytes(b));
    family
        .subnet
        .upgrade(family.parent, wasm, b"", None)
        .unwrap();
    family.multiply(shape(4, 4, 4), Order::Sequential).unwrap();
    family
        .subnet
        .upgrade(family.parent, wasm, b"", None)
        .unwrap();
    assert_eq!(family.read("c", expected.len()), expected);
    let children: Vec<Principal> = query(&family.subnet, family.parent, "children", &()).unwrap();
    assert_eq!(children, family.children);
}

#[test]
fn a_thousand_squared_over_four_children() {
    let Some(wasm) = wasm("matmul") else { return };
    let mut family = Family::new(wasm, 4);
    let edge = 1024;
    let (a, b) = (floats(11, 1 << 20, false), floats(12, 1 << 20, false));
    let expected = float_product(&a, &b, shape(edge, edge, edge));
    let bytes = |values: Vec<f32>| bytes_of(values.into_iter().map(f32::to_le_bytes));
    family.store("a", Element::Float32, (edge, edge), &bytes(a));
    family.store("b", Element::Float32, (edge, edge), &bytes(b));
    family
        .multiply(shape(256, 400, 256), Order::Sequential)
        .unwrap();
    assert!(family.read("c", expected.len()) == expected);
}
