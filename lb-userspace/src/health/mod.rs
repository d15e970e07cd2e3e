//! Active health checks: whether each backend serves, and why not.
//!
//! ```text
//! Supervisor --one task per backend--> probe::Prober (one connection, one deadline) -> Finding
//!                                      machine::Machine (rise and fall, pure)       -> Status
//!                                      pace::Pace (when the next probe starts, pure)
//!                                          `--Event::Health--> controller
//! ```

pub mod driver;
pub mod machine;
mod pace;
pub mod probe;

pub use driver::{Supervisor, Target};
pub use machine::{Machine, Outcome};
pub use probe::{Finding, Prober};
