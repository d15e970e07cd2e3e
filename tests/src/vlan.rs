//! A tagged interface for kernels that have no 802.1Q device: a TAP device, and a thread that
//! carries frames between it and the node's `eth0`.
//!
//! ```text
//!   TCP/IP -- TAP device --+ push tags +--> packet socket -- eth0 -- cable
//!                          + pop tags <+
//! ```
//!
//! The kernel takes the outermost tag out of a frame before a packet socket sees it, and tells it
//! aside (PACKET_AUXDATA, packet(7)). A TAP device without offloads hands over whole frames with
//! complete checksums, so nothing else has to be done to them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread::{self, JoinHandle};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::node::Node;

/// Length of the two addresses that a frame begins with; tags follow.
const ADDRESSES: usize = 12;
/// Longer than any frame of an interface with an MTU of 1500, tags and all.
const LONGEST: usize = 2048;
/// MTU of the tagged interface: with two tags it still fits into an untagged frame of 1500.
const MTU: usize = 1492;

/// A tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// What the frame is announced as: 0x8100 (802.1Q), 0x88a8 (802.1ad, outer tags).
    pub protocol: u16,
    /// The VLAN's number, 1 to 4094.
    pub id: u16,
}

impl Tag {
    /// A customer's tag, 802.1Q.
    pub const fn customer(id: u16) -> Self {
        Self { protocol: 0x8100, id }
    }

    /// A provider's tag, 802.1ad; the outer one of two.
    pub const fn provider(id: u16) -> Self {
        Self { protocol: 0x88a8, id }
    }

    fn bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.protocol.to_be_bytes(), self.id.to_be_bytes());
        [a, b, c, d]
    }
}

/// A tagged interface of a node. Goes when it is dropped.
#[derive(Debug)]
pub struct Tagged {
    worker: Option<JoinHandle<()>>,
    /// Closed to end the worker.
    stop: Option<OwnedFd>,
}

impl Tagged {
    /// Makes the interface `name`, whose frames have these tags on the cable, the outermost
    /// first. It has the hardware address that the node's `eth0` got at first; addresses are for the caller.
    #[track_caller]
    pub fn new(node: &Node, name: &str, tags: &[Tag]) -> Self {
        let (tap, cable) = node.enter(|| {
            let tap = open_tap(name).expect("failed to make a TAP device");
            (tap, open_cable("eth0").expect("failed to open a packet socket"))
        });
        let mac = node.mac();
        node.sysctl(&format!("ipv6.conf.{name}.accept_dad"), "0");
        node.ip(&format!("link set {name} address {mac} mtu {MTU} up"));
        // Children must not hold it open.
        let (wait, stop) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("failed to make a pipe");
        let tags = tags.to_vec();
        let worker = thread::Builder::new()
            .name(format!("vlan-{name}"))
            .spawn(move || carry(tap, &cable, &wait, &tags))
            .expect("failed to start the thread of a tagged interface");
        Self { worker: Some(worker), stop: Some(stop) }
    }
}

impl Drop for Tagged {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(Err(_)) = self.worker.take().map(JoinHandle::join) {
            eprintln!("the thread of a tagged interface panicked");
        }
    }
}

/// Carries frames both ways until `stop`'s other end is closed.
fn carry(mut tap: File, cable: &OwnedFd, stop: &OwnedFd, tags: &[Tag]) {
    loop {
        let mut ready = [
            PollFd::new(tap.as_fd(), PollFlags::POLLIN),
            PollFd::new(cable.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => panic!("failed to wait for frames: {error}"),
        }
        let [from_tap, from_cable, stopped] = ready.map(|fd| fd.any().unwrap_or(false));
        if stopped {
            return;
        }
        let mut frame = [0; LONGEST];
        // An interface that is down or full loses frames, as any does.
        if from_tap
            && let Ok(length) = tap.read(&mut frame)
            && let Some(tagged) = push(&frame[..length], tags)
        {
            // SAFETY: the buffer and its length are those of `tagged`.
            unsafe { libc::send(cable.as_raw_fd(), tagged.as_ptr().cast(), tagged.len(), 0) };
        }
        if from_cable
            && let Ok(Some(frame)) = receive(cable)
            && let Some(bare) = pop(&frame, tags)
        {
            let _ = tap.write(&bare);
        }
    }
}

/// The frame with tags behind its addresses.
fn push(frame: &[u8], tags: &[Tag]) -> Option<Vec<u8>> {
    let (addresses, rest) = frame.split_at_checked(ADDRESSES)?;
    let tags: Vec<u8> = tags.iter().flat_map(|tag| tag.bytes()).collect();
    Some([addresses, &tags, rest].concat())
}

/// The frame without its tags, if they are just these.
fn pop(frame: &[u8], tags: &[Tag]) -> Option<Vec<u8>> {
    let (addresses, mut rest) = frame.split_at_checked(ADDRESSES)?;
    for tag in tags {
        let (found, behind) = rest.split_first_chunk::<4>()?;
        // Priority and drop eligibility, the upper four bits, are no part of the number.
        let found = [found[0], found[1], found[2] & 0x0f, found[3]];
        if found != tag.bytes() {
            return None;
        }
        rest = behind;
    }
    // A frame that has more tags belongs to another interface.
    let next = u16::from_be_bytes(*rest.first_chunk()?);
    (!matches!(next, 0x8100 | 0x88a8)).then(|| [addresses, rest].concat())
}

fn open_tap(name: &str) -> io::Result<File> {
    let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an ifreq is plain data, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::other(format!("`{name}` is too long for an interface")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes an ifreq, which ours is.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tap)
}

/// A packet socket for all frames of an interface of the calling thread's namespace.
pub(crate) fn open_cable(interface: &str) -> io::Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    // Protocol 0: nothing arrives before it is bound to the interface.
    // SAFETY: socket(2) takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, whose address and size are given.
    let set = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    // SAFETY: a sockaddr_ll is plain data, for which zeroes are a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the address is a sockaddr_ll, whose size is given.
    let bound = unsafe {
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        libc::bind(fd, (&raw const address).cast(), size)
    };
    if set < 0 || bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// One frame as it was on the cable, its outermost tag put back; `None` for one that we sent.
fn receive(socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    /// Room for the one control message that we asked for, aligned as its header wants.
    #[repr(align(8))]
    struct Control([u8; 64]);
    let (mut frame, mut control) = ([0u8; LONGEST], Control([0; 64]));
    let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
    // SAFETY: both are plain data, for which zeroes are a value.
    let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: every pointer of the message leads to a living buffer of the length given with it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    if from.sll_pkttype == libc::PACKET_OUTGOING {
        return Ok(None);
    }
    let frame = &frame[..length];
    // SAFETY: recvmsg(2) has filled the control buffer as CMSG_FIRSTHDR expects; the only message
    // asked for is a tpacket_auxdata, which is read as unaligned data if its type says so.
    let told = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        match header.as_ref() {
            Some(found)
                if (found.cmsg_level, found.cmsg_type)
                    == (libc::SOL_PACKET, libc::PACKET_AUXDATA) =>
            {
                Some(libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned())
            }
            _ => None,
        }
    };
    let Some(told) = told.filter(|told| told.tp_status & libc::TP_STATUS_VLAN_VALID != 0) else {
        return Ok(Some(frame.to_vec()));
    };
    let protocol = match told.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
        true => told.tp_vlan_tpid,
        false => 0x8100,
    };
    Ok(push(frame, &[Tag { protocol, id: told.tp_vlan_tci }]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_were_pushed_are_popped() {
        let frame = [&[1; 12][..], &[8, 0, 0x45, 0, 0]].concat();
        let tags = [Tag::provider(200), Tag::customer(100)];
        let tagged = push(&frame, &tags).expect("the frame has addresses");
        assert_eq!(tagged[12..20], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 100]);
        assert_eq!(pop(&tagged, &tags), Some(frame.clone()));
        assert_eq!(pop(&tagged, &tags[..1]), None, "one tag too many");
        assert_eq!(pop(&tagged, &[tags[0], Tag::customer(101)]), None, "another network's");
        assert_eq!(pop(&frame, &tags), None, "no tags");
        assert_eq!(pop(&frame[..11], &[]), None, "no addresses");
    }

    #[test]
    fn the_priority_of_a_tag_does_not_matter() {
        let frame = [&[1; 12][..], &[0x81, 0, 0xe0, 100, 8, 0]].concat();
        assert_eq!(pop(&frame, &[Tag::customer(100)]), Some([&[1; 12][..], &[8, 0]].concat()));
    }
}
