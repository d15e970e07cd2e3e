use std::net::SocketAddr;

use lb_common::builder::{internet_sum, tcp_flag};
use lb_common::maps::{BACKEND_IN_USE, BACKEND_RESOLVED, Backend};

use super::*;
use crate::plan::tests::world;

const VIP: &str = "192.0.2.100:443";
/// The only service.
const SERVICE: u32 = 7;
const VIP6: &str = "[2001:db8::100]:443";

fn flow(client: &str, vip: &str, protocol: u8) -> Flow {
    let end = |text: &str| -> SocketAddr { text.parse().expect("an address with a port") };
    let (client, vip) = (end(client), end(vip));
    Flow {
        source: client.ip().into(),
        destination: vip.ip().into(),
        ports: u32::from(client.port().swap_bytes()) | u32::from(vip.port().swap_bytes()) << 16,
        protocol,
    }
}

/// The nth client's connection.
fn nth(n: usize) -> Flow {
    flow(&format!("198.51.{}.{}:4000", n / 200, n % 200 + 1), VIP, protocol::TCP)
}

/// Service 7 with backends 1 to 3, of which these are reset, on either VIP.
fn image(reset: &[u16]) -> Image {
    let mut image = Image::default();
    for vip in [VIP, VIP6] {
        let key = flow("[2001:db8::7]:1", vip, protocol::TCP).service_key();
        let service = Service {
            vip: key.vip,
            port_and_protocol: key.port_and_protocol,
            id: SERVICE,
            backend_base: 32,
            backend_lines: 16,
            ..Service::default()
        };
        image.listeners.insert(key, service);
    }
    for number in 1..=3 {
        let flag = if reset.contains(&number) { BACKEND_RESET } else { 0 };
        let backend = Backend {
            next_hop: BACKEND_RESOLVED | flag,
            flags: BACKEND_IN_USE,
            ..Backend::default()
        };
        image.backends.insert(32 + u32::from(number), backend);
    }
    image
}

fn pin(backend: u16, flags: u16) -> Pin {
    Pin { backend, flags, seen: 1 }
}

/// One second with these flows in the records of open connections.
fn second(prods: &mut Prods, image: &Image, epoch: u64, records: &[(Flow, Pin)]) -> Vec<Prod> {
    prods.note(image, epoch);
    if let Some(mut finder) = prods.begin(image, epoch) {
        records
            .iter()
            .for_each(|(flow, pin)| finder.look(Record::Current, &flow.key(SERVICE), pin));
        prods.take(finder);
    }
    prods.next(epoch)
}

#[test]
fn open_connections_of_the_backend_that_is_gone_are_prodded_and_no_others() {
    let (image, mut prods) = (image(&[2]), Prods::default());
    prods.note(&image, 5);
    let mut finder = prods.begin(&image, 5).expect("a round");
    let v6 = flow("[2001:db8::7]:40112", VIP6, protocol::TCP);
    let current = [
        (nth(1), pin(2, 0)),
        (nth(2), pin(1, 0)),
        (nth(3), pin(2, PIN_CLOSING)),
        (flow("198.51.100.7:53", VIP, protocol::UDP), pin(2, 0)),
        (flow("198.51.100.7:4000", "192.0.2.101:443", protocol::TCP), pin(2, 0)),
    ];
    current.iter().for_each(|(flow, pin)| finder.look(Record::Current, &flow.key(SERVICE), pin));
    finder.look(Record::Base, &v6.key(SERVICE), &pin(2, 0));
    finder.look(Record::HalfOpen, &nth(4).key(SERVICE), &pin(2, 0));
    prods.take(finder);
    let mut flows: Vec<_> = prods.next(5).iter().map(|prod| prod.flow.ends().0).collect();
    flows.sort();
    assert_eq!(flows, [nth(1).ends().0, v6.ends().0]);
}

#[test]
fn a_client_that_does_not_answer_is_prodded_three_times() {
    let (image, mut prods) = (image(&[2]), Prods::default());
    let records = [(nth(1), pin(2, 0))];
    let told: Vec<(u64, bool)> = (100..200)
        .flat_map(|epoch| {
            let now = second(&mut prods, &image, epoch, &records);
            now.into_iter().map(move |prod| (epoch, prod.first))
        })
        .collect();
    assert_eq!(told, [(100, true), (103, false), (110, false)]);
}

#[test]
fn a_client_that_answers_is_forgotten_and_left_alone() {
    let (image, mut prods) = (image(&[2]), Prods::default());
    let records = [(nth(1), pin(2, 0)), (nth(2), pin(2, 0))];
    assert_eq!(second(&mut prods, &image, 100, &records).len(), 2);
    let late: usize =
        (101..200).map(|epoch| second(&mut prods, &image, epoch, &records[..1]).len()).sum();
    assert_eq!(late, 2);
    // The last round began once both had nothing more to look for.
    assert!(prods.begin(&image, 200).is_none());
}

#[test]
fn a_backend_that_goes_again_begins_anew() {
    let (gone, back, mut prods) = (image(&[2]), image(&[]), Prods::default());
    let records = [(nth(1), pin(2, 0))];
    assert_eq!(second(&mut prods, &gone, 100, &records).len(), 1);
    for epoch in 101..120 {
        assert_eq!(second(&mut prods, &back, epoch, &records), []);
    }
    let again = second(&mut prods, &gone, 120, &records);
    assert_eq!(again.iter().map(|prod| prod.first).collect::<Vec<_>>(), [true]);
}

#[test]
fn flows_that_are_found_after_their_backend_is_back_are_left_alone() {
    let (gone, mut prods) = (image(&[2]), Prods::default());
    prods.note(&gone, 100);
    let mut finder = prods.begin(&gone, 100).expect("a round");
    finder.look(Record::Current, &nth(1).key(SERVICE), &pin(2, 0));
    prods.note(&image(&[]), 101);
    prods.take(finder);
    assert_eq!(prods.next(101), []);
}

#[test]
fn a_second_has_so_many_prods_which_backends_share() {
    let (image, mut prods) = (image(&[1, 2]), Prods::default());
    let many = 2 * PER_SECOND + 500;
    let records: Vec<_> = (0..many)
        .map(|n| (nth(n), pin(1, 0)))
        .chain((many..many + 10).map(|n| (nth(n), pin(2, 0))))
        .collect();
    let first = second(&mut prods, &image, 100, &records);
    assert_eq!(first.len(), PER_SECOND);
    let few: BTreeSet<_> = records[many..].iter().map(|(flow, _)| flow.key(SERVICE)).collect();
    assert_eq!(first.iter().filter(|prod| few.contains(&prod.flow.key(SERVICE))).count(), 10);
    // The few answer: nothing is in the way of the many's first round.
    let records = &records[..many];
    let mut told: BTreeSet<_> = first.iter().map(|prod| prod.flow.key(SERVICE)).collect();
    for epoch in 101..103 {
        let now = second(&mut prods, &image, epoch, records);
        assert!(now.len() <= PER_SECOND && now.iter().all(|prod| prod.first));
        told.extend(now.iter().map(|prod| prod.flow.key(SERVICE)));
    }
    assert_eq!(told.len(), many + 10);
}

#[test]
fn the_segment_comes_from_the_vip_and_has_right_checksums() {
    let chance = 0x0123_4567_89ab_cdef;
    let v4 = segment(&flow("198.51.100.7:40112", VIP, protocol::TCP), chance);
    assert_eq!(v4.len(), 40);
    assert_eq!(internet_sum(&v4[..20]), 0xffff);
    assert_eq!(v4[12..20], [192, 0, 2, 100, 198, 51, 100, 7]);
    let pseudo = [&v4[12..20], &[0, protocol::TCP, 0, 20]].concat();
    assert_eq!(internet_sum(&[&pseudo, &v4[20..]].concat()), 0xffff);

    let v6 = segment(&flow("[2001:db8::7]:40112", VIP6, protocol::TCP), chance);
    assert_eq!((v6.len(), v6[0] >> 4, v6[6]), (60, 6, protocol::TCP));
    assert_eq!((v6[23], v6[39]), (0, 7));
    let pseudo = [&v6[8..40], &[0, 0, 0, 20, 0, 0, 0, protocol::TCP]].concat();
    assert_eq!(internet_sum(&[&pseudo, &v6[40..]].concat()), 0xffff);

    for tcp in [&v4[20..], &v6[40..]] {
        let ports = [443_u16.to_be_bytes(), 40_112_u16.to_be_bytes()].concat();
        assert_eq!(tcp[..4], ports);
        assert_eq!(tcp[4..12], chance.to_be_bytes());
        assert_eq!(tcp[13], tcp_flag::ACK);
    }
}

#[test]
fn a_socket_is_missed_only_where_somebody_may_be_reset() {
    let mut config = world(&[(1, &[(1, 11, true, 1)])]).config();
    assert!(!may_reset(&config, true));
    for service in config.services.values_mut() {
        service.drain.then = OnDown::Reset;
    }
    assert!(may_reset(&config, true) && !may_reset(&config, false));
}
