//! The pause before a failed call is tried again.

use std::time::Duration;

use crate::random;

/// A random time from zero (full jitter) to `base`, which doubles with each failure up to `longest`. The jitter spreads the
/// retries of calls that failed together.
pub fn full_jitter(base: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1);
    let most = base
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(longest);
    most.mul_f64(random::fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_with_each_failure_up_to_the_longest() {
        let (base, longest) = (Duration::from_millis(200), Duration::from_secs(2));
        let failures_and_most = [(1, 0.2), (2, 0.4), (3, 0.8), (5, 2.0), (u32::MAX, 2.0)];
        for (failures, most) in failures_and_most {
            let times = (0..1_000).map(|_| full_jitter(base, longest, failures).as_secs_f64());
            let longest = times.fold(0.0, f64::max);
            assert!(
                (most * 0.9..=most).contains(&longest),
                "{failures}: {longest}"
            );
        }
    }
}
