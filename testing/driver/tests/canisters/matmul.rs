//! A product over canisters has the bits of one product on one machine.
use crate::support::{install, install_poor, query, starve, update, wasm};
use candid::{CandidType, Principal};
use lockstep_driver::Subnet;
use lockstep_numeric::{Fixed, Isa, Kernels, Pool, Rounding};
use serde::Deserialize;
use serde_bytes::ByteBuf;
use std::{num::NonZeroUsize, sync::Arc};

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Int8,
    Int32,
    Fixed16(u8),
    Fixed32(u8),
    Float32,
}

#[derive(CandidType, Clone, Copy)]
enum Order {
    Sequential,
    Any,
}

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Description {
    element: Element,
    rows: u32,
    columns: u32,
}

#[derive(CandidType, Clone, Copy, Debug)]
struct Shape {
    rows: u32,
    inner: u32,
    columns: u32,
}

type Outcome = Result<(), String>;

/// Bytes per call that fill a matrix: below 2 MiB.
const CHUNK: usize = 2_000_000;
/// Bits of the fraction in these tests.
const FRACTION: u8 = 12;

/// A parent and its children.
struct Family {
    subnet: Subnet,
    parent: Principal,
    children: Vec<Principal>,
}

impl Family {
    fn new(wasm: &[u8], count: usize) -> Self {
        let mut subnet = Subnet::new();
        let parent = install(&mut subnet, wasm, &());
        let children = (0..count).map(|_| install(&mut subnet, wasm, &()));
        let children = children.collect();
        let mut family = Self {
            subnet,
            parent,
            children,
        };
        family.adopt(count);
        family
    }

    /// Makes the first `count` children the ring.
    fn adopt(&mut self, count: usize) {
        let children = self.children[..count].to_vec();
        self.call("set_children", &(children,)).unwrap();
    }

    fn call(&mut self, method: &str, arguments: &impl candid::utils::ArgumentEncoder) -> Outcome {
        update(&mut self.subnet, self.parent, method, arguments).unwrap()
    }

    fn store(&mut self, name: &str, element: Element, (rows, columns): (u32, u32), bytes: &[u8]) {
        let description = Description {
            element,
            rows,
            columns,
        };
        self.call("define", &(name, description)).unwrap();
        for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
            let offset = (index * CHUNK) as u64;
            let chunk = ByteBuf::from(chunk);
            self.call("write", &(name, offset, chunk)).unwrap();
        }
    }

    fn read(&self, name: &str, size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < size {
            let length = (size - bytes.len()).min(CHUNK) as u32;
            let arguments = (name, bytes.len() as u64, length);
            let part: Result<ByteBuf, String> =
                query(&self.subnet, self.parent, "read", &arguments).unwrap();
            bytes.extend(part.unwrap().into_vec());
        }
        bytes
    }

    fn describe(&self, name: &str) -> Option<Description> {
        query(&self.subnet, self.parent, "describe", &(name,)).unwrap()
    }

    fn multiply(&mut self, tile: Shape, order: Order) -> Outcome {
        self.call("multiply", &("a", "b", "c", tile, order))
    }
}

/// Numbers that look random: SplitMix64.
fn noise(seed: u64, count: usize) -> impl Iterator<Item = u64> {
    (1..=count as u64).map(move |index| {
        let mut z = (seed << 32).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Floats of all sizes; every sixteenth special if asked for.
fn floats(seed: u64, count: usize, special: bool) -> Vec<f32> {
    const SPECIAL: [u32; 8] = [
        0x8000_0000, // -0
        0x0000_0001, // the least subnormal
        0x807f_ffff,
        0x7f80_0000, // infinity
        0xff80_0000,
        0x7f7f_ffff, // the largest
        0xffc1_2345, // NaN with a payload
        0x7f80_0001, // signalling NaN
    ];
    let value = |bits: u64| match (bits >> 60, special) {
        (0, true) => f32::from_bits(SPECIAL[bits as usize % 8]),
        _ => {
            let exponent = 127 - 12 + (bits >> 32) as u32 % 24;
            f32::from_bits((bits as u32 & 0x807f_ffff) | exponent << 23)
        }
    };
    noise(seed, count).map(value).collect()
}

fn bytes_of<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    values.into_iter().flatten().collect()
}

fn float_product(a: &[f32], b: &[f32], shape: Shape) -> Vec<u8> {
    let kernels = Kernels::new(Isa::Portable, Arc::new(Pool::new(NonZeroUsize::MIN))).unwrap();
    let (rows, inner, columns) = (shape.rows, shape.inner, shape.columns);
    let mut out = vec![0.0; (rows * columns) as usize];
    let shape = (rows as usize, inner as usize, columns as usize);
    kernels.matmul_f32(a, b, shape, &mut out);
    bytes_of(out.into_iter().map(f32::to_le_bytes))
}

/// Exact sums.
fn sums(a: &[i16], b: &[i16], shape: Shape) -> Vec<i64> {
    let (inner, columns) = (shape.inner as usize, shape.columns as usize);
    let sum = |row: usize, column: usize| {
        let products =
            (0..inner).map(|k| i64::from(a[row * inner + k]) * i64::from(b[k * columns + column]));
        products.sum()
    };
    let rows = 0..shape.rows as usize;
    rows.flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| sum(row, column))
        .collect()
}

fn fixed_product(a: &[i16], b: &[i16], shape: Shape) -> Vec<u8> {
    let rounded = sums(a, b, shape).into_iter().map(|sum| {
        let unit = 1 << FRACTION;
        let (floor, rest) = (sum.div_euclid(unit), sum.rem_euclid(unit));
        let up = rest * 2 > unit || (rest * 2 == unit && floor % 2 != 0);
        i32::try_from(floor + i64::from(up)).unwrap()
    });
    bytes_of(rounded.map(i32::to_le_bytes))
}

fn integer_product(a: &[i8], b: &[i8], shape: Shape) -> Vec<u8> {
    let wide = |values: &[i8]| values.iter().copied().map(i16::from).collect::<Vec<_>>();
    let sums = sums(&wide(a), &wide(b), shape).into_iter();
    bytes_of(sums.map(|sum| i32::try_from(sum).unwrap().to_le_bytes()))
}

fn shape(rows: u32, inner: u32, columns: u32) -> Shape {
    Shape {
        rows,
        inner,
        columns,
    }
}

/// Stores two matrices of `bits` values per shape and checks their product for many rings, tiles and orders.
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

fn shape_max() -> Shape {
    shape(u32::MAX, u32::MAX, u32::MAX)
}

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

fn description(element: Element, rows: u32, columns: u32) -> Description {
    Description {
        element,
        rows,
        columns,
    }
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
