//! Multiplies matrices by tiles on other canisters, with the bits of one product on one machine.
//!
//! Matrices are defined, written in chunks and read back; `multiply` cuts two of them into tiles, sends the tiles to
//! children, which multiply them on every core by fork-join, and puts the result together. The result is a function of
//! the matrices alone: the number of children, which of them fail, the shape of tiles and the order of answers cannot be
//! seen in it. Integers and fixed point are summed exactly, so their products may be computed in any order; f32 sums are
//! carried from child to child in the order of the inner index, and a request for any other order is refused.
//!
//! # Design
//! One module is parent and child: a child needs nothing that a parent has not, and there is one hash to install and
//! to check. Any canister may be both at once, even its own child: `compute` calls nobody.
//!
//! # Invariants
//! Only controllers change anything; `compute` changes nothing and answers everybody, at the canister's cost. A product
//! works on the matrices as they were when it began, and stores its result as a whole or not at all. One product is
//! under way at a time.
//!
//! # Errors
//! Everything that is refused is answered with its reason. Stop the canister before an upgrade, as with every canister
//! that waits for answers: matrices and children are kept.
mod element;
mod parent;
mod product;

use candid::{CandidType, Deserialize, Principal};
use element::Element;
use ic_cdk::{api, post_upgrade, pre_upgrade, query, update};
use parent::Multiplication;
use product::{Done, Shape, Work};
use serde_bytes::ByteBuf;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Range,
    rc::Rc,
};

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../matmul.did").len()] =
    *include_bytes!("../matmul.did");

/// Bytes of all matrices together, and of the sums of a product.
const BYTES_MAX: usize = 256 << 20;
/// Matrices.
const MATRICES_MAX: usize = 1_000;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 64;
/// Bytes of a reply of `read`, below those of a message.
const READ_BYTES_MAX: u32 = 2_000_000;
/// Children.
const CHILDREN_MAX: usize = 1_000;

/// The order of the products of an output tile.
#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Sequential,
    Any,
}

#[derive(CandidType, Deserialize)]
struct Description {
    element: Element,
    rows: u32,
    columns: u32,
}

/// A matrix, row by row.
#[derive(CandidType, Deserialize, Clone)]
struct Matrix {
    element: Element,
    rows: u32,
    columns: u32,
    bytes: ByteBuf,
}

#[derive(Default)]
struct State {
    matrices: BTreeMap<String, Rc<Matrix>>,
    children: Vec<Principal>,
}

/// The state in stable memory during an upgrade.
type Saved = (Vec<(String, Matrix)>, Vec<Principal>);

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

#[pre_upgrade]
fn pre_upgrade() {
    let State { matrices, children } = STATE.take();
    let matrices = matrices.into_iter();
    let matrices = matrices.map(|(name, matrix)| (name, Rc::unwrap_or_clone(matrix)));
    let saved: Saved = (matrices.collect(), children);
    ic_cdk::storage::stable_save(saved).expect("the state is encodable");
}

#[post_upgrade]
fn post_upgrade() {
    let (matrices, children): Saved =
        ic_cdk::storage::stable_restore().expect("the state was saved before the upgrade");
    let matrices = matrices.into_iter();
    let matrices = matrices.map(|(name, matrix)| (name, Rc::new(matrix)));
    STATE.set(State {
        matrices: matrices.collect(),
        children,
    });
}

#[update]
fn set_children(children: Vec<Principal>) -> Result<(), String> {
    check_caller()?;
    if children.len() > CHILDREN_MAX {
        return Err(format!(
            "more than {CHILDREN_MAX} children: {}",
            children.len()
        ));
    }
    STATE.with_borrow_mut(|state| state.children = children);
    Ok(())
}

#[query]
fn children() -> Vec<Principal> {
    STATE.with_borrow(|state| state.children.clone())
}

#[update]
fn define(name: String, description: Description) -> Result<(), String> {
    check_caller()?;
    let Description {
        element,
        rows,
        columns,
    } = description;
    element.check()?;
    let bytes = u128::from(rows) * u128::from(columns) * element.bytes() as u128;
    STATE.with_borrow_mut(|state| {
        state.check_room(&name, bytes)?;
        let matrix = Matrix {
            element,
            rows,
            columns,
            bytes: ByteBuf::from(vec![0; bytes as usize]),
        };
        state.matrices.insert(name, Rc::new(matrix));
        Ok(())
    })
}

#[update]
fn write(name: String, offset: u64, bytes: ByteBuf) -> Result<(), String> {
    check_caller()?;
    STATE.with_borrow_mut(|state| {
        let matrix = state
            .matrices
            .get_mut(&name)
            .ok_or_else(|| unknown(&name))?;
        let range = range(matrix.bytes.len(), offset, bytes.len() as u64)?;
        Rc::make_mut(matrix).bytes[range].copy_from_slice(&bytes);
        Ok(())
    })
}

#[update]
fn remove(name: String) -> Result<(), String> {
    check_caller()?;
    STATE.with_borrow_mut(|state| {
        let removed = state.matrices.remove(&name);
        removed.map(drop).ok_or_else(|| unknown(&name))
    })
}

#[query]
fn describe(name: String) -> Option<Description> {
    STATE.with_borrow(|state| {
        state.matrices.get(&name).map(|matrix| Description {
            element: matrix.element,
            rows: matrix.rows,
            columns: matrix.columns,
        })
    })
}

#[query]
fn read(name: String, offset: u64, length: u32) -> Result<ByteBuf, String> {
    if length > READ_BYTES_MAX {
        return Err(format!("more than {READ_BYTES_MAX} bytes: {length}"));
    }
    STATE.with_borrow(|state| {
        let matrix = state.matrices.get(&name).ok_or_else(|| unknown(&name))?;
        let range = range(matrix.bytes.len(), offset, length.into())?;
        Ok(ByteBuf::from(&matrix.bytes[range]))
    })
}

#[update]
async fn multiply(
    a: String,
    b: String,
    out: String,
    tile: Shape,
    order: Order,
) -> Result<(), String> {
    check_caller()?;
    let multiplication = STATE.with_borrow(|state| {
        let matrix = |name: &str| {
            let matrix = state.matrices.get(name).cloned();
            matrix.ok_or_else(|| unknown(name))
        };
        let multiplication = Multiplication::new(
            matrix(&a)?,
            matrix(&b)?,
            tile,
            order,
            state.children.clone(),
        )?;
        state.check_room(&out, multiplication.sum_bytes())?;
        Ok::<_, String>(multiplication)
    })?;
    let _busy = Busy::enter()?;
    let matrix = multiplication.run().await?;
    STATE.with_borrow_mut(|state| {
        // Others may have come meanwhile.
        state.check_room(&out, matrix.bytes.len() as u128)?;
        state.matrices.insert(out, Rc::new(matrix));
        Ok(())
    })
}

#[update]
fn compute(work: Work) -> Result<Done, String> {
    work.compute()
}

impl State {
    /// Whether a matrix of so many bytes may have this name.
    fn check_room(&self, name: &str, bytes: u128) -> Result<(), String> {
        if name.len() > NAME_BYTES_MAX {
            return Err(format!(
                "the name has more than {NAME_BYTES_MAX} bytes: {}",
                name.len()
            ));
        }
        if self.matrices.len() >= MATRICES_MAX && !self.matrices.contains_key(name) {
            return Err(format!("there are {MATRICES_MAX} matrices already"));
        }
        let others = self.matrices.iter().filter(|(other, _)| *other != name);
        let others: usize = others.map(|(_, matrix)| matrix.bytes.len()).sum();
        let total = bytes + others as u128;
        if total > BYTES_MAX as u128 {
            return Err(format!(
                "all matrices would have more than {BYTES_MAX} bytes: {total}"
            ));
        }
        Ok(())
    }
}

impl Matrix {
    /// Some rows and columns of it.
    fn tile(&self, rows: Range<usize>, columns: Range<usize>) -> Vec<u8> {
        let width = self.element.bytes();
        let mut tile = Vec::with_capacity(rows.len() * columns.len() * width);
        for row in rows {
            let start = (row * self.columns as usize + columns.start) * width;
            tile.extend_from_slice(&self.bytes[start..][..columns.len() * width]);
        }
        tile
    }
}

/// Held while a product is under way; given back also when a callback traps.
struct Busy;

impl Busy {
    fn enter() -> Result<Self, String> {
        if BUSY.replace(true) {
            return Err("a product is under way; try again later".into());
        }
        Ok(Self)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(false);
    }
}

fn check_caller() -> Result<(), String> {
    let caller = api::msg_caller();
    if api::is_controller(&caller) {
        return Ok(());
    }
    Err(format!("not a controller: {caller}"))
}

fn unknown(name: &str) -> String {
    format!("no such matrix: {name}")
}

fn range(size: usize, offset: u64, length: u64) -> Result<Range<usize>, String> {
    match offset.checked_add(length) {
        Some(end) if end <= size as u64 => Ok(offset as usize..end as usize),
        _ => Err(format!(
            "{length} bytes from {offset} on are not within the matrix, which has {size}"
        )),
    }
}
