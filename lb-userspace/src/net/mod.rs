//! The way to each backend: which interface, which hardware address, or why there is none.
//!
//! ```text
//! kernel --netlink--> monitor::Monitor --Event::Link, Event::NextHop--> controller
//!                       table::Table   what is known, and what follows from it (pure)
//!                       asker::Asker   when to make the kernel ask a neighbour (pure)
//!                       kernel         netlink's messages in and out
//! ```

mod asker;
mod kernel;
pub mod monitor;
pub mod table;

pub use monitor::{Monitor, link_by_name};
