//! The versions of the rules by which a block changes the state.
//!
//! # Design
//! The genesis says by which version a subnet begins, and an [epoch](crate::state::Epoch) by which it goes on. A program
//! knows a range of versions and executes each height by the version of its epoch, also when it executes it again
//! years later. A change of the rules is a new version, and every place that depends on it asks for it.
//!
//! | version | is new |
//! |---|---|
//! | 5 | epochs; what there was before is no longer executed |
//! | 6 | the certified tree has the number of the epoch at `/lockstep/epoch` |

/// The oldest version that is executed.
pub const OLDEST: u64 = 5;
/// The newest one, by which new subnets begin.
pub const NEWEST: u64 = 6;

/// From this version on certificates cover the epoch's number.
pub(crate) const CERTIFIED_EPOCHS: u64 = 6;

/// Whether blocks are executed by it.
#[must_use]
pub fn is_known(version: u64) -> bool {
    (OLDEST..=NEWEST).contains(&version)
}
