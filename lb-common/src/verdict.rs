//! The whole answer about one frame, always with its reason.
//!
//! Every exit of the packet path is one of these, and each has a per-CPU counter: a forwarded
//! frame is counted for its backend, everything else under [`Verdict::index`].

use crate::address::{Address, Mac};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel's stack gets it, untouched.
    Pass(Pass),
    /// It ends here.
    Drop(Drop),
    /// It was turned into the answer and goes back where it came from.
    Answer(Answer),
    /// It goes to a backend.
    Forward(Route),
}

/// Where a forwarded frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Line of the backend in `BACKENDS` and `BACKEND_COUNTERS`.
    pub line: u32,
    /// Hardware address of the next hop.
    pub next_hop: Mac,
    /// Our own hardware address towards it.
    pub source: Mac,
    /// Interface towards it, if not the one the frame came in by.
    pub redirect: Option<u32>,
    /// What is put in front of the packet.
    pub tunnel: Option<Tunnel>,
}

/// What is put in front of a packet: see [`tunnel`](crate::tunnel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Our own address towards the backend.
    pub source: Address,
    /// The backend's.
    pub destination: Address,
    /// Whether it is GUE; else IP in IP.
    pub gue: bool,
    /// The flow's hash.
    pub entropy: u32,
    /// Sum of the inner packet's 16-bit words, folded, for a UDP checksum over it; 0: none is made.
    pub covered: u16,
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident, first $first:literal, limit $limit:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Index of the first one's counter.
            const FIRST: u32 = $first;
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The reason as users read it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The one with this counter.
            #[inline(always)]
            const fn at(index: u32) -> Option<Self> {
                $(if index == $first + Self::$variant as u32 {
                    return Some(Self::$variant);
                })*
                None
            }
        }

        const _: () = assert!($first + $name::ALL.len() <= $limit);
    };
}

reasons! {
    /// Why a frame is the kernel's business.
    Pass, first 0, limit 24 {
        /// Neither IPv4, IPv6 nor ARP.
        NotIp = "not-ip",
        /// It ends before the ports, or its headers cannot be read.
        Unreadable = "unreadable",
        /// No service has this address, port and protocol.
        NoService = "no-service",
        /// An IP protocol that no service can have.
        Protocol = "protocol",
        /// A service's address, but a hardware address that is not ours: a flooded frame.
        OtherHost = "other-host",
        /// IPv6 to an IPv4-mapped address, which never is on a wire (RFC 4942 section 2.2) and is
        /// how IPv4 services are looked up here.
        MappedAddress = "mapped-address",
        /// A fragment that is not sent to a VIP.
        Fragment = "fragment",
        /// More extension headers than are walked, or one that hides the ports.
        ExtensionHeaders = "extension-headers",
        /// ARP, neighbour discovery or ICMP that asks for something else than a VIP.
        NotForVip = "not-for-vip",
        /// ARP, neighbour discovery or ICMP for a VIP that is not a request we answer.
        NotARequest = "not-a-request",
        /// A request for a VIP whose lease has run out: the daemon is gone, or not the owner.
        NoLease = "no-lease",
        /// A request for a VIP on an interface that userspace has not told us about.
        UnknownInterface = "unknown-interface",
        /// A request with a checksum, hop limit or option that its RFC forbids.
        InvalidRequest = "invalid-request",
        /// A tail-called program is not there.
        NoProgram = "no-program",
        /// A table that is always there could not be read.
        NoTable = "no-table",
    }
}

reasons! {
    /// Why a frame that is sent to a service of ours goes no further.
    Drop, first 24, limit 48 {
        /// The service has no backend that may take it.
        NoBackend = "no-backend",
        /// The slot names a backend that is no more.
        StaleSlot = "stale-slot",
        /// The backend's hardware address is not known.
        Unresolved = "unresolved",
        /// The lengths in the IP header do not fit the frame.
        BadLength = "bad-length",
        /// The TCP or UDP header contradicts the IP header's length.
        BadTransport = "bad-transport",
        /// A fragment of something that has no ports, or hides them.
        Fragment = "fragment",
        /// Of a flow that nobody takes, but not to be answered: a reset itself, from no single
        /// host, or with IP options.
        NotAnswerable = "not-answerable",
        /// The answer does not fit into the frame's buffer.
        NoRoom = "no-room",
        /// The service does not let its source in.
        Denied = "denied",
        /// A new flow of a source that has begun too many lately.
        SourceRate = "source-rate",
        /// A new flow to a service that has been given too many lately.
        ServiceRate = "service-rate",
        /// Does not fit into its tunnel, and its sender cannot be told, or has been told often
        /// enough lately.
        TooBig = "too-big",
        /// A later fragment whose first one did not come before it, or came long ago: it cannot be
        /// told whose it is.
        FragmentUnknown = "fragment-unknown",
        /// A first fragment that ends inside its transport header, or a later one that begins there
        /// (RFC 1858, RFC 3128).
        TinyFragment = "tiny-fragment",
        /// A later fragment that begins before its first one ends, or comes after such a one
        /// (RFC 5722).
        OverlappingFragment = "overlapping-fragment",
    }
}

reasons! {
    /// What was sent to a VIP and answered.
    Answer, first 48, limit 64 {
        /// An ARP request.
        Arp = "arp",
        /// An IPv6 neighbour solicitation.
        Neighbour = "neighbour",
        /// An ICMP echo request.
        Echo = "echo",
        /// An ICMPv6 echo request.
        EchoV6 = "echo-v6",
        /// A segment of a TCP flow that nobody takes: reset.
        Reset = "reset",
        /// A datagram of a UDP flow that nobody takes: port unreachable.
        Unreachable = "unreachable",
        /// A packet that does not fit into its tunnel: told what does.
        TooBig = "too-big",
    }
}

impl Verdict {
    /// Index of the verdict's counter in `VERDICTS`; `None` for a forwarded frame, which
    /// `BACKEND_COUNTERS` counts.
    #[inline(always)]
    pub const fn index(self) -> Option<u32> {
        match self {
            Self::Pass(reason) => Some(Pass::FIRST + reason as u32),
            Self::Drop(reason) => Some(Drop::FIRST + reason as u32),
            Self::Answer(reason) => Some(Answer::FIRST + reason as u32),
            Self::Forward(_) => None,
        }
    }

    /// The verdict with this counter.
    #[inline(always)]
    pub const fn at(index: u32) -> Option<Self> {
        if let Some(reason) = Pass::at(index) {
            Some(Self::Pass(reason))
        } else if let Some(reason) = Drop::at(index) {
            Some(Self::Drop(reason))
        } else if let Some(reason) = Answer::at(index) {
            Some(Self::Answer(reason))
        } else {
            None
        }
    }

    /// The verdict's name for users, such as `("drop", "no-backend")`.
    pub const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Pass(reason) => ("pass", reason.name()),
            Self::Drop(reason) => ("drop", reason.name()),
            Self::Answer(reason) => ("answer", reason.name()),
            Self::Forward(Route { redirect: None, .. }) => ("forward", "transmit"),
            Self::Forward(Route { redirect: Some(_), .. }) => ("forward", "redirect"),
        }
    }

    /// All verdicts that have a counter of their own.
    pub fn counted() -> impl Iterator<Item = Self> {
        let pass = Pass::ALL.iter().map(|reason| Self::Pass(*reason));
        let drop = Drop::ALL.iter().map(|reason| Self::Drop(*reason));
        let answer = Answer::ALL.iter().map(|reason| Self::Answer(*reason));
        pass.chain(drop).chain(answer)
    }
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (action, reason) = self.name();
        write!(f, "{action} ({reason})")
    }
}

/// The programs that the first one calls for rare work (`PROGRAMS` holds them by this number):
/// they cost nothing while nobody needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Program {
    /// ARP, neighbour discovery and ICMP: [`answer`](crate::answer::answer).
    Answer,
    /// Slots that are not steady, and IPv6 with extension headers:
    /// [`judge_transition`](crate::judge::judge_transition).
    Transition,
    /// Fragments: [`judge_fragment`](crate::fragment::judge_fragment).
    Fragment,
    /// Flows that nobody takes: [`refuse`](crate::refuse::refuse).
    Refuse,
    /// Services that do not let everybody in: [`judge_guarded`](crate::judge::judge_guarded).
    Guard,
    /// Packets that do not fit into their tunnel: [`too_big`](crate::too_big::too_big).
    TooBig,
    /// ICMP errors about what backends sent: [`judge_error`](crate::error::judge_error).
    Error,
}

impl Program {
    /// All of them: their numbers, and their names in the object file.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Answer, "lb_answer"),
        (Self::Transition, "lb_transition"),
        (Self::Fragment, "lb_fragment"),
        (Self::Refuse, "lb_refuse"),
        (Self::Guard, "lb_guard"),
        (Self::TooBig, "lb_too_big"),
        (Self::Error, "lb_error"),
    ];
}

/// Name of the first program in the object file.
pub const ENTRY_PROGRAM: &str = "lb_entry";
/// Name of the one that takes its place where services need tunnels.
pub const ENTRY_WITH_TUNNELS: &str = "lb_entry_tunnels";

/// What a program comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The frame's verdict.
    Done(Verdict),
    /// Another program must look at it.
    Then(Program),
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_verdict_has_a_counter_and_a_name_of_its_own() {
        let indices: BTreeSet<_> = Verdict::counted().filter_map(Verdict::index).collect();
        let names: BTreeSet<_> = Verdict::counted().map(Verdict::name).collect();
        assert_eq!(indices.len(), Verdict::counted().count());
        assert_eq!(names.len(), Verdict::counted().count());
        for verdict in Verdict::counted() {
            assert_eq!(verdict.index().and_then(Verdict::at), Some(verdict));
        }
        assert!(indices.iter().all(|index| *index < crate::maps::VERDICT_COUNTERS));
    }
}
