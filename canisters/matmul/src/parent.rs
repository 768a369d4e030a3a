//! The parent's work: cuts matrices into tiles, has children multiply them, and gathers the sums.
//!
//! # Design
//! An extent of n elements is cut every `tile` elements from 0 on, the last tile being what is left. An output tile (i, j)
//! is the sum over k of the products of tiles (i, k) and (k, j). *Chains* are what can run side by side: in sequential
//! order a chain is all products of an output tile, whose sums travel with it from child to child; in any order every
//! product is a chain of its own. At most [`IN_FLIGHT_MAX`] chains run at a time: a wave, which is through when all of
//! its calls are answered.
//!
//! # Invariants
//! Product (i, k, j), number t = (i J + j) K + k, goes to child t mod n; if that fails, traps or answers with other
//! coordinates or another size, to the next in the ring, until all n have failed. Which child computed a tile cannot be
//! seen in the result.
use crate::{
    Matrix, Order,
    element::{Arithmetic, Element, INT8_INNER_MAX},
    product::{Coordinates, Done, Shape, Work},
};
use candid::Principal;
use ic_cdk::call::Call;
use serde_bytes::ByteBuf;
use std::{future::poll_fn, ops::Range, pin::Pin, rc::Rc, task::Poll};

/// Calls that wait for an answer at a time.
const IN_FLIGHT_MAX: usize = 16;
/// Bytes of a call's tiles and sums, below those of a message.
const TILE_BYTES_MAX: usize = 2_000_000;

type Chain = Pin<Box<dyn Future<Output = Result<(Coordinates, Vec<u8>), String>>>>;

/// A product of matrices.
pub(crate) struct Multiplication {
    a: Rc<Matrix>,
    b: Rc<Matrix>,
    arithmetic: Arithmetic,
    element: Element,
    rows: Cut,
    inner: Cut,
    columns: Cut,
    order: Order,
    children: Vec<Principal>,
}

/// An extent in tiles.
#[derive(Clone, Copy)]
struct Cut {
    extent: usize,
    tile: usize,
}

impl Cut {
    fn new(extent: u32, tile: u32) -> Self {
        // A tile beyond the matrix is the matrix.
        Self {
            extent: extent as usize,
            tile: tile.min(extent).max(1) as usize,
        }
    }

    fn count(self) -> usize {
        self.extent.div_ceil(self.tile)
    }

    fn span(self, index: u32) -> Range<usize> {
        let start = index as usize * self.tile;
        start..(start + self.tile).min(self.extent)
    }
}

impl Multiplication {
    /// # Errors
    /// Matrices or tiles that cannot be multiplied, or an order that would change the result.
    pub(crate) fn new(
        a: Rc<Matrix>,
        b: Rc<Matrix>,
        tile: Shape,
        order: Order,
        children: Vec<Principal>,
    ) -> Result<Self, String> {
        if a.element != b.element {
            return Err(format!(
                "elements differ: {:?} and {:?}",
                a.element, b.element
            ));
        }
        let (arithmetic, element) = a.element.product()?;
        if a.columns != b.rows {
            return Err(format!(
                "shapes do not fit: {} x {} times {} x {}",
                a.rows, a.columns, b.rows, b.columns
            ));
        }
        if arithmetic == Arithmetic::Float32 && order == Order::Any {
            return Err("f32 sums depend on their order: only Sequential gives one result".into());
        }
        if arithmetic == Arithmetic::Int8 && a.columns as usize > INT8_INNER_MAX {
            return Err(format!(
                "sums of more than {INT8_INNER_MAX} products may not fit: {}",
                a.columns
            ));
        }
        if tile.rows == 0 || tile.inner == 0 || tile.columns == 0 {
            return Err(format!(
                "a tile has no elements: {} x {} x {}",
                tile.rows, tile.inner, tile.columns
            ));
        }
        if children.is_empty() {
            return Err("there are no children".into());
        }
        let (rows, inner) = (Cut::new(a.rows, tile.rows), Cut::new(a.columns, tile.inner));
        let columns = Cut::new(b.columns, tile.columns);
        let (element_bytes, sum_bytes) = (arithmetic.element_bytes(), arithmetic.sum_bytes());
        let bytes = (rows.tile as u128 + columns.tile as u128)
            * (inner.tile * element_bytes) as u128
            + rows.tile as u128 * (columns.tile * sum_bytes) as u128;
        if bytes > TILE_BYTES_MAX as u128 {
            return Err(format!(
                "tiles and sums of a call are more than {TILE_BYTES_MAX} bytes: {bytes}"
            ));
        }
        Ok(Self {
            a,
            b,
            arithmetic,
            element,
            rows,
            inner,
            columns,
            order,
            children,
        })
    }

    /// Bytes of all sums.
    pub(crate) fn sum_bytes(&self) -> u128 {
        self.rows.extent as u128 * self.columns.extent as u128 * self.arithmetic.sum_bytes() as u128
    }

    /// # Errors
    /// A tile that no child computed.
    pub(crate) async fn run(self) -> Result<Matrix, String> {
        let this = Rc::new(self);
        let width = this.arithmetic.sum_bytes();
        let mut sums = vec![0; this.rows.extent * this.columns.extent * width];
        let mut chains = this.chains();
        loop {
            let wave: Vec<Chain> = (&mut chains)
                .take(IN_FLIGHT_MAX)
                .map(|(at, end)| Box::pin(Rc::clone(&this).chain(at, end)) as Chain)
                .collect();
            if wave.is_empty() {
                break;
            }
            for part in join(wave).await {
                let (at, part) = part?;
                this.place(at, &part, &mut sums);
            }
        }
        Ok(Matrix {
            element: this.element,
            rows: this.a.rows,
            columns: this.b.columns,
            bytes: ByteBuf::from(Arithmetic::finish(sums, this.element)),
        })
    }

    /// First product of each chain, and where its inner index ends. Counts fit: extents do.
    fn chains(self: &Rc<Self>) -> impl Iterator<Item = (Coordinates, u32)> + use<> {
        let (rows, inner, columns) = (self.rows.count(), self.inner.count(), self.columns.count());
        let steps = match self.order {
            Order::Sequential => 1.min(inner),
            Order::Any => inner,
        };
        let length = inner.checked_div(steps).unwrap_or(0);
        (0..rows as u32).flat_map(move |row| {
            (0..columns as u32).flat_map(move |column| {
                (0..steps as u32).map(move |step| {
                    let inner = step * length as u32;
                    let at = Coordinates { row, inner, column };
                    (at, inner + length as u32)
                })
            })
        })
    }

    async fn chain(
        self: Rc<Self>,
        mut at: Coordinates,
        end: u32,
    ) -> Result<(Coordinates, Vec<u8>), String> {
        let mut sums = None;
        while at.inner < end {
            sums = Some(self.product(at, sums).await?);
            at.inner += 1;
        }
        Ok((at, sums.map(ByteBuf::into_vec).unwrap_or_default()))
    }

    async fn product(&self, at: Coordinates, sums: Option<ByteBuf>) -> Result<ByteBuf, String> {
        let (rows, inner) = (self.rows.span(at.row), self.inner.span(at.inner));
        let columns = self.columns.span(at.column);
        let sum_bytes = rows.len() * columns.len() * self.arithmetic.sum_bytes();
        let work = Work {
            at,
            arithmetic: self.arithmetic,
            shape: Shape {
                rows: rows.len() as u32,
                inner: inner.len() as u32,
                columns: columns.len() as u32,
            },
            a: ByteBuf::from(self.a.tile(rows, inner.clone())),
            b: ByteBuf::from(self.b.tile(inner, columns)),
            sums,
        };
        let argument = candid::encode_one(&work).expect("it has a Candid form");
        drop(work);
        let number = (u64::from(at.row) * self.columns.count() as u64 + u64::from(at.column))
            * self.inner.count() as u64
            + u64::from(at.inner);
        let count = self.children.len();
        let first = (number % count as u64) as usize;
        let mut last = String::new();
        for child in (0..count).map(|step| self.children[(first + step) % count]) {
            match ask(child, &argument, at, sum_bytes).await {
                Ok(sums) => return Ok(sums),
                Err(reason) => last = format!("{child}: {reason}"),
            }
        }
        Err(format!(
            "no child computed tile ({}, {}, {}); the last, {last}",
            at.row, at.inner, at.column
        ))
    }

    /// Takes the sums of a chain into all sums.
    fn place(&self, at: Coordinates, part: &[u8], sums: &mut [u8]) {
        let width = self.arithmetic.sum_bytes();
        let (rows, columns) = (self.rows.span(at.row), self.columns.span(at.column));
        for (row, part) in rows.zip(part.chunks_exact(columns.len() * width)) {
            let start = (row * self.columns.extent + columns.start) * width;
            self.arithmetic
                .gather(&mut sums[start..][..part.len()], part);
        }
    }
}

/// Asks a child for a product, and checks that it is the one asked for.
async fn ask(
    child: Principal,
    argument: &[u8],
    at: Coordinates,
    sum_bytes: usize,
) -> Result<ByteBuf, String> {
    let call = Call::unbounded_wait(child, "compute").with_raw_args(argument);
    let reply = call.await.map_err(|error| error.to_string())?;
    let reply: Result<Done, String> = reply.candid().map_err(|error| error.to_string())?;
    let done = reply?;
    if done.at != at || done.sums.len() != sum_bytes {
        return Err(format!(
            "it answered with {} bytes of tile ({}, {}, {})",
            done.sums.len(),
            done.at.row,
            done.at.inner,
            done.at.column
        ));
    }
    Ok(done.sums)
}

/// The outputs of all, in their order, when the last has one.
async fn join<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    let mut outputs: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
