//! A small generator (xorshift64): the same numbers of the same seed every time.

/// It, between two numbers.
pub struct Random(u64);

impl Random {
    pub fn of(seed: u64) -> Self {
        // Of nothing it makes nothing.
        Self(seed.max(1))
    }

    /// A number below that.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap_or(0)
    }
}
