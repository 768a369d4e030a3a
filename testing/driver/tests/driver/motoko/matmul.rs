//! Matrices on Motoko canisters: the product over children has the bits of one on one machine.
mod failures;

use super::compile;
use crate::{common::noise, support::anonymous};
use candid::{CandidType, Deserialize, Int, Nat, Principal, decode_one, utils::ArgumentEncoder};
use lockstep_driver::Subnet;

const PARENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../canisters/matmul/motoko/parent.mo"
);
const CHILD: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../canisters/matmul/motoko/child.mo"
);
const COMPILERS: [&str; 2] = ["classical", "enhanced"];

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
enum Elements {
    #[serde(rename = "float")]
    Float(Vec<f64>),
    #[serde(rename = "int")]
    Int(Vec<Int>),
}

#[derive(CandidType, Deserialize, Clone, Debug)]
struct Matrix {
    rows: Nat,
    columns: Nat,
    elements: Elements,
}

#[derive(CandidType)]
struct Shape {
    rows: Nat,
    inner: Nat,
    columns: Nat,
}

#[derive(CandidType, Deserialize)]
struct Coordinates {
    row: Nat,
    inner: Nat,
    column: Nat,
}

#[derive(CandidType)]
struct Work {
    at: Coordinates,
    shape: Shape,
    a: Elements,
    b: Elements,
    sums: Option<Elements>,
}

#[derive(CandidType, Deserialize)]
struct Done {
    at: Coordinates,
    sums: Elements,
}

#[derive(CandidType, Deserialize)]
enum Reply<T> {
    #[serde(rename = "ok")]
    Ok(T),
    #[serde(rename = "err")]
    Err(String),
}

impl<T> From<Reply<T>> for Result<T, String> {
    fn from(reply: Reply<T>) -> Self {
        match reply {
            Reply::Ok(value) => Ok(value),
            Reply::Err(text) => Err(text),
        }
    }
}

/// A parent and its children.
struct Family {
    subnet: Subnet,
    parent: Principal,
    children: Vec<Principal>,
}

impl Family {
    /// By one of the compilers; nothing where there is none.
    fn new(version: &'static str, count: usize) -> Option<Self> {
        let (parent, child) = compile(version, PARENT).zip(compile(version, CHILD))?;
        let mut subnet = Subnet::new();
        let mut install = |module: &[u8]| {
            let id = subnet.create_canister();
            subnet.install(id, module, &encode(&())).unwrap();
            id
        };
        let parent = install(parent);
        let children = (0..count).map(|_| install(child)).collect();
        let mut family = Self {
            subnet,
            parent,
            children,
        };
        family.adopt(count);
        Some(family)
    }

    /// Makes the first `count` children the ring.
    fn adopt(&mut self, count: usize) {
        let children = self.children[..count].to_vec();
        self.call::<()>(anonymous(), "setChildren", &(children,))
            .unwrap();
    }

    fn call<T: CandidType + for<'a> Deserialize<'a>>(
        &mut self,
        sender: Principal,
        method: &str,
        arguments: &impl ArgumentEncoder,
    ) -> Result<T, String> {
        let reply = self
            .subnet
            .update(self.parent, sender, method, &encode(arguments));
        decode_one::<Reply<T>>(&reply.unwrap()).unwrap().into()
    }

    fn multiply(&mut self, a: &Matrix, b: &Matrix, tile: Shape) -> Result<Elements, String> {
        let product: Matrix = self.call(anonymous(), "multiply", &(a, b, tile))?;
        assert_eq!((&product.rows, &product.columns), (&a.rows, &b.columns));
        Ok(product.elements)
    }
}

fn encode(arguments: &impl ArgumentEncoder) -> Vec<u8> {
    candid::utils::encode_args_ref(arguments).unwrap()
}

fn shape(rows: usize, inner: usize, columns: usize) -> Shape {
    Shape {
        rows: rows.into(),
        inner: inner.into(),
        columns: columns.into(),
    }
}

fn matrix(rows: usize, columns: usize, elements: Elements) -> Matrix {
    Matrix {
        rows: rows.into(),
        columns: columns.into(),
        elements,
    }
}

/// Floats of all sizes; every sixteenth special if asked for.
fn floats(seed: u64, count: usize, special: bool) -> Vec<f64> {
    const SPECIAL: [f64; 8] = [
        -0.0,
        5e-324, // the least subnormal
        -2.2e-308,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::NAN,
        f64::MIN,
    ];
    let value = |bits: u64| match (bits >> 60, special) {
        (0, true) => SPECIAL[bits as usize % SPECIAL.len()],
        _ => {
            let exponent = 1023 - 12 + (bits >> 32) % 24;
            f64::from_bits((bits & 0x800f_ffff_ffff_ffff) | exponent << 52)
        }
    };
    noise(seed, count).map(value).collect()
}

/// Integers of one word, some of many.
fn ints(seed: u64, count: usize) -> Vec<Int> {
    let value = |bits: u64| {
        let word = Int::from(bits.cast_signed() >> (bits % 64));
        let large = bits.is_multiple_of(7);
        if large {
            word.clone() * word.clone() * word
        } else {
            word
        }
    };
    noise(seed, count).map(value).collect()
}

/// The product on one machine, the inner index increasing.
fn product<T: Clone>(
    (a, b): (&[T], &[T]),
    (rows, inner, columns): (usize, usize, usize),
    zero: &T,
    multiply_add: impl Fn(T, &T, &T) -> T,
) -> Vec<T> {
    let sum = |row: usize, column: usize| {
        (0..inner).fold(zero.clone(), |sum, k| {
            multiply_add(sum, &a[row * inner + k], &b[k * columns + column])
        })
    };
    (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| sum(row, column))
        .collect()
}

fn float_product(inputs: (&[f64], &[f64]), shape: (usize, usize, usize)) -> Vec<f64> {
    product(inputs, shape, &0.0, |sum, a, b| sum + a * b)
}

/// As Wasm shows them to canisters: there is one NaN.
fn bits(elements: &Elements) -> Vec<u64> {
    let Elements::Float(values) = elements else {
        panic!("these are floats")
    };
    let bits = |value: &f64| {
        if value.is_nan() {
            0x7ff8 << 48
        } else {
            value.to_bits()
        }
    };
    values.iter().map(bits).collect()
}

const SHAPES: [(usize, usize, usize); 8] = [
    (0, 0, 0),
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (1, 1, 1),
    (1, 9, 1),
    (5, 6, 17),
    (11, 17, 13),
];

/// For many rings and tiles.
fn check(
    family: &mut Family,
    (rows, inner, columns): (usize, usize, usize),
    a: &Elements,
    b: &Elements,
    equal: impl Fn(&Elements),
) {
    let a = matrix(rows, inner, a.clone());
    let b = matrix(inner, columns, b.clone());
    for count in 1..=family.children.len() {
        family.adopt(count);
        for tile in [(1, 4, 3), (4, 5, 7), (100, 3, 100), (16, 100, 16)] {
            let tile = shape(tile.0, tile.1, tile.2);
            equal(&family.multiply(&a, &b, tile).unwrap());
        }
    }
}

#[test]
fn floats_have_the_bits_of_one_machine() {
    for version in COMPILERS {
        let Some(mut family) = Family::new(version, 3) else {
            return;
        };
        for dimensions in SHAPES {
            let (rows, inner, columns) = dimensions;
            for special in [false, true] {
                let a = floats(1, rows * inner, special);
                let b = floats(2, inner * columns, special);
                let expected = bits(&Elements::Float(float_product((&a, &b), dimensions)));
                let (a, b) = (Elements::Float(a), Elements::Float(b));
                check(&mut family, dimensions, &a, &b, |product| {
                    assert_eq!(bits(product), expected, "{dimensions:?} by {version}");
                });
            }
        }
    }
}

#[test]
fn integers_are_exact() {
    for version in COMPILERS {
        let Some(mut family) = Family::new(version, 3) else {
            return;
        };
        for dimensions in SHAPES {
            let (rows, inner, columns) = dimensions;
            let (a, b) = (ints(3, rows * inner), ints(4, inner * columns));
            let zero = Int::from(0);
            let expected = product((&a, &b), dimensions, &zero, |sum, a, b| {
                sum + a.clone() * b.clone()
            });
            let expected = Elements::Int(expected);
            let (a, b) = (Elements::Int(a), Elements::Int(b));
            check(&mut family, dimensions, &a, &b, |product| {
                assert_eq!(product, &expected, "{dimensions:?} by {version}");
            });
        }
    }
}

#[test]
fn a_hundred_squared_over_four_children() {
    let Some(mut family) = Family::new("classical", 4) else {
        return;
    };
    let edge = 100;
    let (a, b) = (floats(5, edge * edge, false), floats(6, edge * edge, false));
    let expected = Elements::Float(float_product((&a, &b), (edge, edge, edge)));
    let a = matrix(edge, edge, Elements::Float(a));
    let b = matrix(edge, edge, Elements::Float(b));
    let product = family.multiply(&a, &b, shape(32, 40, 32)).unwrap();
    assert_eq!(bits(&product), bits(&expected));
}
