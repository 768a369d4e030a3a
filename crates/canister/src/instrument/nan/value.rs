//! What a value may hold, as far as NaNs go.

/// The canonical NaNs' bits.
const CANONICAL_F32: u32 = 0x7fc0_0000;
const CANONICAL_F64: u64 = 0x7ff8_0000_0000_0000;
pub(in crate::instrument) const CANONICAL_F32X4: u128 = 0x7fc0_0000_7fc0_0000_7fc0_0000_7fc0_0000;
pub(in crate::instrument) const CANONICAL_F64X2: u128 = 0x7ff8_0000_0000_0000_7ff8_0000_0000_0000;

/// How a value is made canonical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::instrument) enum Lanes {
    F32,
    F64,
    F32x4,
    F64x2,
}

/// The width of the floats that a value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    W32,
    W64,
}

/// A set of what a value may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holds(u8);

impl Holds {
    /// Nothing that making it canonical, in either width, would change.
    pub(super) const CANONICAL: Self = Self(0);
    /// Bits that must stay, and that would change if it were made canonical in 32-bit lanes.
    pub(super) const FIXED_32: Self = Self(1);
    /// The same for 64-bit lanes.
    pub(super) const FIXED_64: Self = Self(2);
    /// Any bits, which must stay.
    pub(super) const FIXED: Self = Self(1 | 2);
    /// NaNs of arithmetic in 32-bit lanes, whose bits the machine chose.
    const MADE_32: Self = Self(4);
    /// The same for 64-bit lanes.
    const MADE_64: Self = Self(8);

    /// Results of arithmetic.
    pub(super) fn made(width: Width) -> Self {
        match width {
            Width::W32 => Self::MADE_32,
            Width::W64 => Self::MADE_64,
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the machine may have chosen bits of it.
    pub(super) fn is_made(self) -> bool {
        self.has(Self(4 | 8))
    }

    /// Whether the machine may have chosen bits that an operation on such lanes depends on.
    pub(super) fn disturbs(self, width: Width) -> bool {
        match width {
            Width::W32 => self.has(Self::MADE_64),
            Width::W64 => self.has(Self::MADE_32),
        }
    }

    /// Whether some of what it may hold has to be made canonical, and some must not be.
    pub(super) fn is_mixed(self) -> bool {
        self.has(Self::MADE_32) && self.has(Self(1 | 8))
            || self.has(Self::MADE_64) && self.has(Self(2))
    }

    /// The value with lanes of this width moved, copied or left out: as lanes of the other width it is anything.
    pub(super) fn lanes(self, width: Width) -> Self {
        match width {
            Width::W32 => Self(self.0 & (1 | 4) | 2),
            Width::W64 => Self(self.0 & (2 | 8) | 1),
        }
    }

    /// How a value that is not mixed is made canonical, if it has to be.
    pub(super) fn sink(self, vector: bool) -> Option<Lanes> {
        match (self.has(Self::MADE_32), self.has(Self::MADE_64), vector) {
            (true, _, false) => Some(Lanes::F32),
            (true, _, true) => Some(Lanes::F32x4),
            (false, true, false) => Some(Lanes::F64),
            (false, true, true) => Some(Lanes::F64x2),
            (false, false, _) => None,
        }
    }

    /// A constant.
    pub(super) fn constant_f32(bits: u32) -> Self {
        if f32::from_bits(bits).is_nan() && bits != CANONICAL_F32 {
            Self::FIXED_32
        } else {
            Self::CANONICAL
        }
    }

    /// A constant.
    pub(super) fn constant_f64(bits: u64) -> Self {
        if f64::from_bits(bits).is_nan() && bits != CANONICAL_F64 {
            Self::FIXED_64
        } else {
            Self::CANONICAL
        }
    }

    /// A constant.
    pub(super) fn constant_v128(bytes: &[u8; 16]) -> Self {
        let f32s = bytes.as_chunks().0.iter();
        let f64s = bytes.as_chunks().0.iter();
        let f32s = f32s.map(|bytes| Self::constant_f32(u32::from_le_bytes(*bytes)));
        let f64s = f64s.map(|bytes| Self::constant_f64(u64::from_le_bytes(*bytes)));
        f32s.chain(f64s).fold(Self::CANONICAL, Self::or)
    }
}
