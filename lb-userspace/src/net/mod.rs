//! The way to each backend: which interface, which hardware address, or why there is none.
//!
//! ```text
//! kernel --netlink--> monitor::Monitor --Event::Link, Event::NextHop--> controller
//!                       table::Table   what is known, and what follows from it (pure)
//!                       asker::Asker   when to make the kernel ask a neighbour (pure)
//!                       decode         what netlink's messages say (pure)
//!                       kernel         netlink's sockets
//! ```
//!
//! And [`raw::Raw`], which sends packets whose headers are ours, and [`addresses::Addresses`], those of
//! this host.

pub mod addresses;
mod asker;
mod decode;
mod kernel;
pub mod monitor;
pub mod raw;
pub mod table;

pub use monitor::{Monitor, link_by_name};
