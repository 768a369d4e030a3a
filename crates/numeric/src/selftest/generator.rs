//! Pseudo-random inputs for kernels.

/// A counter-based generator: output n is a mixture of the seed and n, the same on every machine.
#[derive(Clone, Debug)]
pub struct Generator {
    seed: u64,
    counter: u64,
}

impl Generator {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed: mix(seed ^ 0x6c6f_636b_7374_6570),
            counter: 0,
        }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.counter += 1;
        mix(self
            .seed
            .wrapping_add(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// An integer from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.bits() % (high - low + 1) as u64) as usize
    }

    /// An ordinary f32 between -`limit` and `limit`.
    pub fn ordinary(&mut self, limit: f32) -> f32 {
        // A 24-bit integer: exact.
        let fraction = ((self.bits() >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32;
        fraction * limit
    }

    /// Any f32: infinities, NaNs of all payloads, subnormals, zeros and extremes far more often than by chance.
    pub fn any(&mut self) -> f32 {
        const SPECIAL: [u32; 12] = [
            0x0000_0000,
            0x8000_0000,
            0x0000_0001,
            0x807f_ffff,
            0x0080_0000,
            0x3f80_0000,
            0x7f7f_ffff,
            0xff7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0xff80_0001,
        ];
        let bits = self.bits();
        f32::from_bits(match bits >> 62 {
            0 => SPECIAL[(bits % 12) as usize],
            1 => bits as u32 & 0x807f_ffff,
            _ => bits as u32,
        })
    }

    /// `count` values, in three of four cases ordinary ones up to `limit`, else with a few of any kind among them.
    pub fn values(&mut self, count: usize, limit: f32) -> Vec<f32> {
        let wild = match self.bits() % 8 {
            0 => 1,
            1 => 64,
            _ => 0,
        };
        (0..count)
            .map(|_| {
                if wild != 0 && self.bits().is_multiple_of(wild) {
                    self.any()
                } else {
                    self.ordinary(limit)
                }
            })
            .collect()
    }

    /// `count` random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.bits() as u8).collect()
    }
}

/// The finaliser of SplitMix64.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
