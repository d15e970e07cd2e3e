//! Random frames that can be had again.

/// Frames that the kernel takes in a test run: at least an Ethernet header.
const SHORTEST: usize = 14;

/// The seed that `LB_SEED` names, or one by the clock; printed, so that a run can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("LB_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64)
    });
    println!("LB_SEED={seed}");
    seed
}

/// xorshift64* (Vigna, 2016): enough for mutations, and repeatable.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    /// Changes a frame in up to three places.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            match self.below(6) {
                // Headers are where it matters.
                0 | 1 => {
                    let at = self.below(bytes.len().min(80));
                    bytes[at] = self.next() as u8;
                }
                2 => {
                    let at = self.below(bytes.len().min(80));
                    bytes[at] ^= 1 << self.below(8);
                }
                3 => bytes.truncate(SHORTEST + self.below(bytes.len())),
                4 => {
                    let more = self.below(64);
                    bytes.extend((0..more).map(|n| n as u8));
                }
                _ => {
                    let tag = [0x81, 0, self.next() as u8, self.next() as u8];
                    bytes.splice(12..12, tag);
                }
            }
            bytes.resize(bytes.len().max(SHORTEST), 0);
        }
    }
}
