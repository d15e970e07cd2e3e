//! Waits for something to become true, and says what it last saw when it does not.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` finds what it is after, and gives that. Panics with what
/// it last saw when `patience` is over.
#[track_caller]
pub fn wait_until<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() >= patience => {
                panic!("waited {patience:?} in vain for this: {what}; last seen: {seen}")
            }
            Err(_) => sleep(PAUSE),
        }
    }
}
