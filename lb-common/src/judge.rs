//! The decision about a frame: one generic function, run by the XDP program over its maps and
//! by the host over plain memory.
//!
//! Match first, judge after: until a frame is known to be sent to one of our services, the only
//! verdict is to pass it on untouched.

use crate::address::Mac;
use crate::flow::Flow;
use crate::frame::Frame;
use crate::guard::guard;
use crate::maps::{
    BACKEND_RESET, BACKEND_RESOLVED, BACKEND_STATE, Backend, Control, FEATURE_GUARDS,
    FEATURE_TUNNELS, SERVICE_BY_CLIENT, SERVICE_GUARDED, SERVICE_GUE, SERVICE_QUIC, SERVICE_REJECT,
    SERVICE_TUNNEL, Service,
};
use crate::parse::{self, Content, Link, Segment, ether_type};
use crate::quic;
use crate::slot::{Slot, slot_of};
use crate::steer::{self, Phase};
use crate::tables::{Record, Tables, find_service, is_ours};
use crate::tunnel::covered;
use crate::verdict::{Drop, Pass, Program, Route, Step, Tunnel, Verdict};

/// The first program: decides about whole TCP and UDP packets whose slot is steady, and sends
/// what is rare to the program made for it. There are two: where no service needs tunnels, the one
/// without them is quicker, as it never has a header to carry about.
#[inline(always)]
pub fn judge<const TUNNELS: bool, F: Frame, T: Tables>(frame: &F, tables: &T) -> Step {
    let Some(link) = parse::link(frame) else {
        return Step::Done(Verdict::Pass(Pass::Unreadable));
    };
    match parse::content(frame, &link) {
        Content::Segment(segment) => balance(frame, tables, &link, &segment, &Steady::<TUNNELS>),
        Content::Rare(program) => Step::Then(program),
        Content::None(reason) => Step::Done(Verdict::Pass(reason)),
    }
}

/// The program for packets whose slot is not steady, of either IP version and with extension
/// headers or without: the first program over again, with all that it leaves out.
#[inline(always)]
pub fn judge_transition<F: Frame, T: Tables>(frame: &F, tables: &T) -> Step {
    thorough(frame, tables, &Remembered::<false>)
}

/// The program for services that do not let everybody in: the same again, once they have been
/// asked.
#[inline(always)]
pub fn judge_guarded<F: Frame, T: Tables>(frame: &F, tables: &T) -> Step {
    thorough(frame, tables, &Remembered::<true>)
}

#[inline(always)]
fn thorough<F: Frame, T: Tables, C: Choice>(frame: &F, tables: &T, choice: &C) -> Step {
    let Some(link) = parse::link(frame) else {
        return Step::Done(Verdict::Pass(Pass::Unreadable));
    };
    // Written twice: the verifier has no sense for the halves of a value that was made in two
    // ways.
    if link.ether_type == ether_type::IPV6 {
        return match parse::extended(frame, link.l3) {
            Content::Segment(segment) => balance(frame, tables, &link, &segment, choice),
            Content::Rare(program) => Step::Then(program),
            Content::None(reason) => Step::Done(Verdict::Pass(reason)),
        };
    }
    match parse::content(frame, &link) {
        Content::Segment(segment) => balance(frame, tables, &link, &segment, choice),
        Content::Rare(program) => Step::Then(program),
        Content::None(reason) => Step::Done(Verdict::Pass(reason)),
    }
}

/// Steers a segment, if it is sent to a service.
#[inline(always)]
pub(crate) fn balance<F: Frame, T: Tables, C: Choice>(
    frame: &F,
    tables: &T,
    link: &Link,
    segment: &Segment,
    choice: &C,
) -> Step {
    let pass = |reason| Step::Done(Verdict::Pass(reason));
    let refuse = |reason| Step::Done(refuse(frame, tables, link, reason));
    let Some(control) = tables.control() else { return pass(Pass::NoTable) };
    let Some(service) = service_of(tables, &control, &segment.flow) else {
        return pass(C::NO_SERVICE);
    };
    if !frame.holds(segment.end) || segment.end < segment.l4 + segment.least {
        return refuse(Drop::BadLength);
    }
    if segment.claimed < segment.least || segment.l4 + segment.claimed > segment.end {
        return refuse(Drop::BadTransport);
    }
    let asked = Asked { service: &service, segment, epoch: control.epoch as u32 };
    if C::LET_IN != LetIn::Already
        && tables.features() & FEATURE_GUARDS != 0
        && service.flags & SERVICE_GUARDED != 0
    {
        if C::LET_IN == LetIn::Elsewhere {
            return Step::Then(Program::Guard);
        }
        // A flooded frame uses up nobody's share.
        if !is_ours(frame, tables, link.destination) {
            return pass(Pass::OtherHost);
        }
        let begins = choice.begins(frame, tables, &asked);
        if let Err(reason) = guard(tables, &service, segment.flow.source, begins) {
            return Step::Done(Verdict::Drop(reason));
        }
    }
    let tunnels = C::TUNNELS
        && tables.features() & FEATURE_TUNNELS != 0
        && service.flags & SERVICE_TUNNEL != 0;
    if tunnels && segment.end - link.l3 > service.fits as usize {
        return Step::Then(Program::TooBig);
    }
    let hash = hash(&control, &service, &segment.flow);
    let Some(slot) = tables.slot(service.slot_base + slot_of(hash, service.slot_count)) else {
        return refuse(Drop::StaleSlot);
    };
    let number = match choice.choose(frame, tables, slot, &asked) {
        Ok(number) => number,
        Err(program) => return Step::Then(program),
    };
    if number == 0 {
        if C::REFUSES
            && service.flags & SERVICE_REJECT != 0
            && is_ours(frame, tables, link.destination)
        {
            return Step::Then(Program::Refuse);
        }
        return refuse(Drop::NoBackend);
    }
    let line = service.backend_base + number;
    let Some(backend) = tables.backend(line) else { return refuse(Drop::StaleSlot) };
    if backend.next_hop & BACKEND_STATE != BACKEND_RESOLVED {
        if C::REFUSES
            && backend.next_hop & BACKEND_RESET != 0
            && is_ours(frame, tables, link.destination)
        {
            return Step::Then(Program::Refuse);
        }
        return refuse(if backend.flags == 0 { Drop::StaleSlot } else { Drop::Unresolved });
    }
    // Most frames leave by the interface they came in by: then our address towards the backend
    // is the one that the frame is sent to, and no table has to be asked.
    if link.destination != Mac::from_word(backend.source)
        && !is_ours(frame, tables, link.destination)
    {
        return pass(Pass::OtherHost);
    }
    let mut route = route(frame, line, &backend);
    if tunnels {
        route.tunnel = Some(tunnel::<F, C>(frame, link, segment, &service, &backend, hash));
    }
    Step::Done(Verdict::Forward(route))
}

/// Whose backend is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The listener that the packet is sent to.
    pub service: &'a Service,
    /// The packet.
    pub segment: &'a Segment,
    /// Seconds that userspace has counted.
    pub epoch: u32,
}

/// What a program does about the backend.
pub(crate) trait Choice {
    /// Who finds out whether a packet may come in.
    const LET_IN: LetIn;
    /// Why packets that no service is there for are the kernel's.
    const NO_SERVICE: Pass = Pass::NoService;
    /// Whether packets that nobody takes may be answered.
    const REFUSES: bool = true;
    /// Whether it puts packets into tunnels; else no service has any.
    const TUNNELS: bool = true;
    /// Whether what is behind the headers is the transport's, whole: then its checksum tells the sum
    /// of the packet.
    const WHOLE: bool = true;

    /// The backend's number; another program if this one does not tell.
    fn choose<F: Frame, T: Tables>(
        &self,
        frame: &F,
        tables: &T,
        slot: Slot,
        asked: &Asked<'_>,
    ) -> Result<u32, Program>;

    /// Whether a packet begins a flow.
    #[inline(always)]
    fn begins<F: Frame, T: Tables>(&self, frame: &F, tables: &T, asked: &Asked<'_>) -> bool {
        begins(frame, tables, asked)
    }
}

/// Who finds out whether a packet of a guarded service may come in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LetIn {
    /// Another program.
    Elsewhere,
    /// This one.
    Here,
    /// It has been found out.
    Already,
}

/// By nothing but the slot.
struct Steady<const TUNNELS: bool>;

impl<const TUNNELS: bool> Choice for Steady<TUNNELS> {
    const LET_IN: LetIn = LetIn::Elsewhere;
    const TUNNELS: bool = TUNNELS;

    #[inline(always)]
    fn choose<F: Frame, T: Tables>(
        &self,
        _: &F,
        _: &T,
        slot: Slot,
        _: &Asked<'_>,
    ) -> Result<u32, Program> {
        if slot.is_steady() { Ok(slot.current()) } else { Err(Program::Transition) }
    }
}

/// By what is remembered of the flow, or by what the packet says.
pub(crate) struct Remembered<const GUARDS: bool>;

impl<const GUARDS: bool> Choice for Remembered<GUARDS> {
    const LET_IN: LetIn = if GUARDS { LetIn::Here } else { LetIn::Elsewhere };

    #[inline(always)]
    fn choose<F: Frame, T: Tables>(
        &self,
        frame: &F,
        tables: &T,
        slot: Slot,
        asked: &Asked<'_>,
    ) -> Result<u32, Program> {
        if slot.is_steady() {
            return Ok(slot.current());
        }
        let Asked { service, segment, epoch } = *asked;
        if service.flags & SERVICE_QUIC != 0 {
            let named = quic::server(frame, tables, service, segment);
            return Ok(named.unwrap_or(slot.current()));
        }
        let packet =
            steer::Packet { key: segment.flow.key(service.id), phase: segment.phase(), epoch };
        Ok(steer::transition(tables, service, slot, &packet))
    }
}

/// Whether a packet begins a flow: a SYN, a datagram of nobody who is remembered, a QUIC packet that
/// names no server.
#[inline(always)]
fn begins<F: Frame, T: Tables>(frame: &F, tables: &T, asked: &Asked<'_>) -> bool {
    let Asked { service, segment, .. } = *asked;
    match segment.phase() {
        Phase::Begins => true,
        Phase::Continues | Phase::Ends | Phase::Aborts => false,
        Phase::None if service.flags & SERVICE_QUIC != 0 => {
            quic::server(frame, tables, service, segment).is_none()
        }
        Phase::None => tables.recorded(Record::Current, &segment.flow.key(service.id)).is_none(),
    }
}

/// The listener that a flow is sent to: by its port, else any port of the address.
#[inline(always)]
pub fn service_of<T: Tables>(tables: &T, control: &Control, flow: &Flow) -> Option<Service> {
    let key = flow.service_key();
    match find_service(tables, control, key) {
        Some(service) => Some(service),
        None => find_service(tables, control, key.any_port()),
    }
}

/// The slot of a flow, counted from the start of `SLOTS`.
#[inline(always)]
pub fn slot_index(control: &Control, service: &Service, flow: &Flow) -> u32 {
    service.slot_base + slot_of(hash(control, service, flow), service.slot_count)
}

/// What a service tells flows apart by.
#[inline(always)]
fn hash(control: &Control, service: &Service, flow: &Flow) -> u32 {
    if service.flags & SERVICE_BY_CLIENT != 0 {
        flow.by_client().hash(control.hash_key)
    } else {
        flow.hash(control.hash_key)
    }
}

#[inline(always)]
fn route<F: Frame>(frame: &F, line: u32, backend: &Backend) -> Route {
    Route {
        line,
        next_hop: Mac::from_word(backend.next_hop),
        source: Mac::from_word(backend.source),
        redirect: if backend.ifindex == frame.ingress() { None } else { Some(backend.ifindex) },
        tunnel: None,
    }
}

#[inline(always)]
fn tunnel<F: Frame, C: Choice>(
    frame: &F,
    link: &Link,
    segment: &Segment,
    service: &Service,
    backend: &Backend,
    hash: u32,
) -> Tunnel {
    let gue = service.flags & SERVICE_GUE != 0;
    // Only UDP over IPv6 has a checksum to make.
    let sums = C::WHOLE && gue && backend.address.0[0] != 0;
    Tunnel {
        source: backend.local,
        destination: backend.address,
        gue,
        entropy: hash,
        covered: if sums { covered(frame, link, segment) } else { 0 },
    }
}

/// Drops a frame of ours; a flooded one is for the host that it is sent to.
#[inline(always)]
fn refuse<F: Frame, T: Tables>(frame: &F, tables: &T, link: &Link, reason: Drop) -> Verdict {
    if is_ours(frame, tables, link.destination) {
        Verdict::Drop(reason)
    } else {
        Verdict::Pass(Pass::OtherHost)
    }
}
