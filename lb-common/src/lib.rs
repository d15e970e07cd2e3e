//! What the packet path and its control plane share: the map schema, and the packet code
//! itself, generic over where the bytes and the tables are.
//!
//! A frame's way, in the order of the modules:
//!
//! 1. [`parse`]: Ethernet, VLAN tags, IPv4 or IPv6, TCP or UDP, to a [`flow`]; what is neither
//!    goes to the program for [`answer`]s (ARP, neighbour discovery, echo), for ICMP [`error`]s, for
//!    extension headers, or for [`fragment`]s.
//! 2. [`judge`]: the service by destination ([`tables::find_service`]), and whether it lets the
//!    packet in ([`guard`]); the flow's hash picks a [`slot`], the slot names the backend; where it
//!    changed lately, or where flows are given out one by one ([`choose`]), the [`steer`] rule
//!    does; of [`quic`] the connection id may.
//! 3. [`rewrite`]: the frame is made ready for the backend.
//! 4. The [`verdict`] is counted and carried out by the caller.
//!
//! Nothing here allocates, knows a clock or touches the kernel: [`frame::Frame`] and
//! [`tables::Tables`] are all the packet code sees of the world. Both sides of the map schema,
//! [`maps`], are compiled from this crate.
#![no_std]

#[cfg(target_endian = "big")]
compile_error!("the packet path compares header words in memory order: little-endian only");

#[cfg(any(feature = "builder", test))]
extern crate alloc;

pub mod address;
pub mod answer;
#[cfg(any(feature = "builder", test))]
pub mod bank;
#[cfg(any(feature = "builder", test))]
pub mod builder;
pub mod bytes;
#[cfg(any(feature = "cases", test))]
pub mod cases;
pub mod checksum;
pub mod choose;
pub mod decap;
pub mod error;
pub mod flow;
pub mod fragment;
pub mod frame;
pub mod guard;
pub mod judge;
pub mod maps;
#[cfg(any(feature = "builder", test))]
pub mod memory;
pub mod parse;
pub mod process;
pub mod quic;
pub mod refuse;
pub mod rewrite;
pub mod slot;
pub mod steer;
pub mod tables;
pub mod too_big;
pub mod tunnel;
pub mod verdict;

pub use address::{Address, Mac};
pub use flow::Flow;
pub use frame::Frame;
pub use tables::Tables;
pub use verdict::{Answer, Drop, Pass, Program, Route, Step, Verdict};
