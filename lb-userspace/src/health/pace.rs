//! When the next probe starts. Pure: the randomness is a seed.

use std::time::Duration;

/// Spreads the probes of one backend, so that those of many do not come in bursts.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    random: u64,
}

impl Pace {
    pub(super) const fn new(seed: u64) -> Self {
        Self { random: seed }
    }

    /// `interval`, up to a tenth longer or shorter.
    pub(super) fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(0.9 + 0.2 * self.fraction())
    }

    /// A first delay, anywhere within `interval`.
    pub(super) fn first(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.fraction())
    }

    /// A number from 0 to below 1, by SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_varies_by_a_tenth_at_most_and_uses_that_range() {
        let mut pace = Pace::new(7);
        let all: Vec<_> =
            (0..1_000).map(|_| pace.jittered(Duration::from_secs(1)).as_millis()).collect();
        assert!(all.iter().all(|ms| (900..=1_100).contains(ms)), "{all:?}");
        assert!(all.iter().any(|&ms| ms < 920) && all.iter().any(|&ms| ms > 1_080));
    }

    #[test]
    fn first_probes_of_many_backends_are_spread_over_the_interval() {
        let mut tenths = [0; 10];
        for seed in 0..1_000 {
            let first = Pace::new(seed).first(Duration::from_secs(1));
            tenths[(first.as_millis() / 100) as usize] += 1;
        }
        assert!(tenths.iter().all(|&n| n > 50), "{tenths:?}");
    }
}
