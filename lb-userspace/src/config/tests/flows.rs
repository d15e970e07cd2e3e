//! How flows are spread, limited and let in: what a file may say about it, and everything that
//! must be said about what it may not.

use std::time::Duration;

use super::{HEAD, after, backends, mistakes, parse_any, said, service_of, web};
use crate::config::{Affinity, Limit, Rate, Scheduler};

/// A file whose UDP service `web` has these lines (from line 6 on) before its backends, and these
/// as backends.
fn udp(lines: &str, backends: &str) -> String {
    format!(
        "{HEAD}[service.web]\nlisten = [\"192.0.2.1:443/udp\"]\n{lines}\n\
         [service.web.backend]\n{backends}\n"
    )
}

/// A file whose TCP service `web` has these lines (from line 6 on).
fn tcp(lines: &str) -> String {
    web(&format!("listen = [\"192.0.2.1:80\"]\n{lines}"))
}

fn warnings(text: &str) -> Vec<String> {
    parse_any(text).unwrap().warnings
}

#[test]
fn schedulers_that_record_flows_are_told_from_those_that_do_not() {
    for (word, scheduler, records) in [
        ("maglev", Scheduler::Maglev, false),
        ("round-robin", Scheduler::RoundRobin, true),
        ("least-conn", Scheduler::LeastConn, true),
    ] {
        for text in [
            tcp(&format!("scheduler = \"{word}\"")),
            after(&format!("[defaults]\nscheduler = \"{word}\"")),
        ] {
            let service = service_of(&text);
            assert_eq!((service.scheduler, service.records_flows()), (scheduler, records));
        }
    }
}

#[test]
fn words_of_haproxy_and_ipvs_are_understood() {
    said(&[
        (
            tcp("scheduler = \"rr\""),
            &["6:13 unknown `scheduler`: `rr` / did you mean \"round-robin\"?"],
        ),
        (
            tcp("scheduler = \"wlc\""),
            &["6:13 unknown `scheduler`: `wlc` / did you mean \"least-conn\"?"],
        ),
        (
            tcp("scheduler = \"leastconn\""),
            &["6:13 unknown `scheduler`: `leastconn` / did you mean \"least-conn\"?"],
        ),
        (
            tcp("affinity = \"rr\""),
            &[
                "6:12 unknown `affinity`: `rr` / it may be one of `flow`, `client-ip`, `none` and `quic`",
            ],
        ),
        (
            tcp("maxconnrate = 5\nrate-limit = 5\nslowstart = \"5s\""),
            &[
                "6:1 unknown key `maxconnrate` in a service / did you mean `limit`?",
                "7:1 unknown key `rate-limit` in a service / did you mean `limit`?",
                "8:1 unknown key `slowstart` in a service / did you mean `slow-start`?",
            ],
        ),
        (
            after("[dataplane]\nslowstart = \"5s\""),
            &["9:1 unknown key `slowstart` in the dataplane / `slow-start` belongs in [defaults]"],
        ),
    ]);
}

#[test]
fn a_scheduler_that_chooses_for_every_flow_goes_with_affinity_flow_only() {
    let in_service = "set `affinity = \"flow\"`, or `scheduler = \"maglev\"`";
    let by_default = "the affinity comes from [defaults]: set `affinity = \"flow\"` in the service";
    let what = |scheduler: &str, affinity: &str| {
        format!(
            "`scheduler` = `{scheduler}` does not go with `affinity` = `{affinity}`: it chooses for every flow anew"
        )
    };
    for (text, expected) in [
        (
            tcp("scheduler = \"round-robin\"\naffinity = \"client-ip\""),
            format!("7:12 {} / {in_service}", what("round-robin", "client-ip")),
        ),
        (
            udp("scheduler = \"least-conn\"\naffinity = \"none\"", "a.address = \"10.0.0.1\""),
            format!("7:12 {} / {in_service}", what("least-conn", "none")),
        ),
        (
            udp(
                "scheduler = \"least-conn\"\naffinity = \"quic\"",
                "a = { address = \"10.0.0.1\", server-id = 1 }",
            ),
            format!("7:12 {} / {in_service}", what("least-conn", "quic")),
        ),
        (
            tcp("scheduler = \"least-conn\"") + "[defaults]\naffinity = \"client-ip\"\n",
            format!("6:13 {} / {by_default}", what("least-conn", "client-ip")),
        ),
        (
            tcp("affinity = \"client-ip\"") + "[defaults]\nscheduler = \"least-conn\"\n",
            format!("6:12 {} / {in_service}", what("least-conn", "client-ip")),
        ),
        // Once, however many services take both over.
        (
            after(
                "[defaults]\nscheduler = \"round-robin\"\naffinity = \"client-ip\"\n\
                 [service.b]\nlisten = [\"192.0.2.1:81\"]\nbackend.x.address = \"10.0.0.1\"",
            ),
            format!("10:12 {} / {in_service}", what("round-robin", "client-ip")),
        ),
    ] {
        assert_eq!(mistakes(&text), [expected], "{text}");
    }
    said(&[
        (tcp("scheduler = \"least-conn\"\naffinity = \"flow\""), &[]),
        (tcp("scheduler = \"maglev\"\naffinity = \"client-ip\""), &[]),
        // Passed over by a service with a TCP listener.
        (tcp("scheduler = \"least-conn\"") + "[defaults]\naffinity = \"none\"\n", &[]),
        (
            tcp("scheduler = \"least-con\"\naffinity = \"client-ip\""),
            &["6:13 unknown `scheduler`: `least-con` / did you mean \"least-conn\"?"],
        ),
    ]);
}

#[test]
fn quic_is_for_udp_and_needs_server_ids() {
    let good = "a = { address = \"10.0.0.1\", server-id = 0 }\n\
                b = { address = \"10.0.0.2\", server-id = 65535 }";
    let service = service_of(&udp("affinity = \"quic\"", good));
    assert_eq!(service.affinity, Affinity::Quic);
    let ids: Vec<_> = service.backends.values().map(|backend| backend.server_id).collect();
    assert_eq!(ids, [Some(0), Some(65_535)]);
    said(&[
        (
            tcp("affinity = \"quic\""),
            &[
                "6:12 `affinity` = `quic` is for UDP alone, but service `web` has a TCP listener / TCP has no connection ids: leave it out, or make the UDP listeners a service of their own",
            ],
        ),
        (
            udp(
                "affinity = \"quic\"",
                "a.address = \"10.0.0.1\"\nb = { address = \"10.0.0.2\", server-id = 7 }\n\
                 c = { address = \"10.0.0.3\", server-id = 7 }\n\
                 d = { address = \"10.0.0.4\", server-id = 65536 }",
            ),
            &[
                "8:1 backend `a` has no `server-id`, which `affinity` = `quic` finds it by / write the number that the server puts into its connection ids: server-id = 1",
                "10:41 `server-id` = 7 belongs to another backend already",
                "11:41 `server-id` must be 0 to 65535, got 65536",
            ],
        ),
        (
            udp("", "a.address = \"10.0.0.1\"\n[defaults]\naffinity = \"quic\""),
            &[
                "8:1 backend `a` has no `server-id`, which `affinity` = `quic` finds it by / write the number that the server puts into its connection ids: server-id = 1",
            ],
        ),
    ]);
    let by_default = service_of(&after("[defaults]\naffinity = \"quic\""));
    assert_eq!(by_default.affinity, Affinity::Flow);
}

#[test]
fn a_server_id_without_quic_is_a_warning() {
    let text = backends("a = { address = \"10.0.0.1\", server-id = 1 }");
    let warning = "lb.toml:7:41: `server-id` has no effect without `affinity = \"quic\"`";
    assert_eq!(warnings(&text), [warning]);
    assert_eq!(warnings(&(text + "[defaults]\naffinity = \"quic\"")), [warning]);
}

#[test]
fn slow_start_is_the_backends_the_services_or_the_defaults() {
    let found = |own: &str, backend: &str| {
        let service = service_of(&format!(
            "{HEAD}[defaults]\nslow-start = \"1m\"\n[service.web]\nlisten = [\"192.0.2.1:80\"]\n\
             {own}\n[service.web.backend]\nb = {{ address = \"10.0.0.1\"{backend} }}\n"
        ));
        (service.slow_start, service.backends["b"].slow_start)
    };
    let second = Duration::from_secs;
    assert_eq!(found("", ""), (second(60), None));
    assert_eq!(found("slow-start = \"0s\"", ""), (second(0), None));
    assert_eq!(
        found("slow-start = \"1h\"", ", slow-start = \"0s\""),
        (second(3_600), Some(second(0)))
    );
    said(&[
        (tcp("slow-start = \"61m\""), &["6:14 `slow-start` must be 0s to 1h, got `61m`"]),
        (
            after("[defaults]\nslow-start = \"2h\""),
            &["9:14 `slow-start` must be 0s to 1h, got `2h`"],
        ),
        (
            backends("b = { address = \"10.0.0.1\", slow-start = 30 }"),
            &[
                "7:42 `slow-start` must be a duration with a unit, in quotes, found a whole number / a duration is a whole number and ms, s, m, h or d: \"500ms\", \"2s\"",
            ],
        ),
    ]);
}

#[test]
fn backups_stand_in_for_others() {
    let service = service_of(&backends(
        "a.address = \"10.0.0.1\"\nb = { address = \"10.0.0.2\", backup = true }\n\
         c = { address = \"10.0.0.3\", backup = false }",
    ));
    let backups: Vec<_> = service.backends.values().map(|backend| backend.backup).collect();
    assert_eq!(backups, [false, true, false]);
    said(&[
        (
            backends(
                "a = { address = \"10.0.0.1\", backup = true }\n\
                 b = { address = \"10.0.0.2\", backup = true }",
            ),
            &[
                "7:38 every backend of service `web` is a backup / a backup serves only while no other backend does: leave `backup` out for those that are to serve at any time",
            ],
        ),
        (
            backends("a = { address = \"10.0.0.1\", backup = \"true\" }"),
            &["7:38 `backup` must be `true` or `false`, found a string / write it without quotes"],
        ),
        (
            backends("a = { address = \"10.0.0.1\", backup = 1 }"),
            &["7:38 `backup` must be `true` or `false`, found a whole number"],
        ),
    ]);
}

#[test]
fn backups_and_others_are_weighed_apart() {
    let zero = "give at least one of them a weight, or drain them by `admin`";
    let both = mistakes(&backends(
        "a = { address = \"10.0.0.1\", weight = 0 }\n\
         b = { address = \"10.0.0.2\", weight = 0, backup = true }",
    ));
    let none = |which: &str| format!("every {which} has weight 0: none would take a flow / {zero}");
    let expected = [
        format!("7:38 {}", none("backend of service `web` that is no backup")),
        format!("8:38 {}", none("backup of service `web`")),
    ];
    assert_eq!(both, expected);

    // Of 401 slots, 1 of 1001 is none; alone it is all of them.
    let found = |rest: &str| {
        mistakes(&format!(
            "{HEAD}[service.web]\nlisten = [\"192.0.2.1:80\"]\nslots = 401\n\
             [service.web.backend]\n{rest}\n"
        ))
    };
    let impossible = "weight 1 is impossible: its share of 401 slots is less than one";
    let closer = "bring them closer together";
    assert_eq!(
        found(
            "a = { address = \"10.0.0.1\", weight = 1000 }\n\
             b = { address = \"10.0.0.2\", weight = 1 }\n\
             c = { address = \"10.0.0.3\", backup = true }"
        ),
        [format!(
            "9:38 {impossible} / the weights of the service's backends that are no backups add up to 1001: {closer}"
        )]
    );
    assert_eq!(
        found(
            "a.address = \"10.0.0.1\"\n\
             b = { address = \"10.0.0.2\", weight = 1, backup = true }\n\
             c = { address = \"10.0.0.3\", weight = 1000, backup = true }"
        ),
        [format!(
            "9:38 {impossible} / the weights of the service's backups add up to 1001: {closer}"
        )]
    );
    assert_eq!(
        found(
            "a = { address = \"10.0.0.1\", weight = 1000 }\n\
             b = { address = \"10.0.0.2\", weight = 1, backup = true }"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn a_service_may_have_slots_of_its_own() {
    let slots = |own: &str| {
        let text = tcp(own) + "[dataplane]\nslots = 4001\n";
        let config = parse_any(&text).unwrap().config;
        (config.dataplane.slots, config.services["web"].slots)
    };
    assert_eq!(slots(""), (4_001, 4_001));
    assert_eq!(slots("slots = 251"), (4_001, 251));
    let three = "web2.address = \"10.0.0.2\"\nweb3.address = \"10.0.0.3\"\n";
    let few = "4:10 service `web` has 3 backends, which is too many for 211 slots / `slots` must be a prime of at least 300 (100 a backend)";
    said(&[
        (
            tcp("slots = 250"),
            &["6:9 `slots` must be a prime, got 250 / primes near it are 241 and 251"],
        ),
        (tcp("slots = 97"), &["6:9 `slots` must be 101 to 4194301, got 97"]),
        (tcp("slots = 211") + three, &[few]),
        (tcp("slots = 307") + three + "[dataplane]\nslots = 101\n", &[]),
    ]);
}

#[test]
fn a_limit_has_a_rate_and_a_burst() {
    let limit = |table: &str| service_of(&tcp(&format!("limit = {table}"))).limit;
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    assert_eq!(limit("{}"), Limit::default());
    assert_eq!(limit("{ flows = 10_000 }"), Limit { flows: rate(10_000, 10_000), source: None });
    assert_eq!(
        limit("{ flows = 10000000, flows-burst = 1, source = 1, source-burst = 10000000 }"),
        Limit { flows: rate(10_000_000, 1), source: rate(1, 10_000_000) }
    );
    let none = "6:9 `limit` is for new flows, which service `web` does not tell from old ones: its `affinity` is `none` / leave it out, or set `affinity = \"flow\"` in the service";
    let by_client = "6:9 `limit` is for new flows, which service `web` does not tell from old ones: its `affinity` is `client-ip`, and it has a UDP listener / leave it out, or set `affinity = \"flow\"` in the service";
    let one = "a.address = \"10.0.0.1\"";
    let mixed =
        |lines: &str| web(&format!("listen = [\"192.0.2.1:80\", \"192.0.2.1:80/udp\"]\n{lines}"));
    said(&[
        (
            tcp("limit = { flows = 0, flows-burst = 10000001, source = \"5\" }"),
            &[
                "6:19 `flows` must be 1 to 10000000, got 0",
                "6:36 `flows-burst` must be 1 to 10000000, got 10000001",
                "6:55 `source` must be a whole number, found a string / write it without quotes",
            ],
        ),
        (
            tcp("limit = { flows-burst = 5, source-burst = 5 }"),
            &[
                "6:25 `flows-burst` has no effect without `flows` / write flows = ..., the new flows a second, next to it",
                "6:43 `source-burst` has no effect without `source` / write source = ..., the new flows a second, next to it",
            ],
        ),
        (
            tcp("limit = { flow = 5, flows-burst = 5 }"),
            &["6:11 unknown key `flow` in a limit / did you mean `flows`?"],
        ),
        (tcp("limit = 500"), &["6:9 `limit` must be a table, found a whole number"]),
        (
            after("[defaults]\nlimit = {}"),
            &["9:1 unknown key `limit` in the defaults / `limit` belongs in [service.NAME]"],
        ),
        (udp("limit = { source = 5 }\naffinity = \"none\"", one), &[none]),
        (udp("limit = { source = 5 }", one) + "[defaults]\naffinity = \"none\"\n", &[none]),
        (udp("limit = {}\naffinity = \"none\"", one), &[]),
        (udp("limit = { flows = 5 }\naffinity = \"client-ip\"", one), &[by_client]),
        (mixed("limit = { flows = 5 }\naffinity = \"client-ip\""), &[by_client]),
        (udp("limit = {}\naffinity = \"client-ip\"", one), &[]),
        (tcp("limit = { flows = 5 }\naffinity = \"client-ip\""), &[]),
    ]);
}

#[test]
fn sources_are_allowed_and_denied_by_prefix() {
    let rules = |lines: &str| {
        let service = service_of(&tcp(lines));
        let shown = |rule: &super::SourceRule| format!("{} {}", rule.prefix, rule.allow);
        let shown: Vec<_> = service.sources.iter().map(shown).collect();
        (shown.join(", "), service.admits_unnamed())
    };
    assert_eq!(rules("deny = []"), (String::new(), true));
    assert_eq!(rules("deny = [\"10.0.0.0/8\"]"), ("10.0.0.0/8 false".to_owned(), true));
    assert_eq!(
        rules(
            "allow = [\"2001:db8::/32\", \"10.0.0.0/8\"]\ndeny = [\"10.0.0.7\", \"10.0.0.0/16\"]"
        ),
        (
            "10.0.0.0/8 true, 10.0.0.0/16 false, 10.0.0.7/32 false, 2001:db8::/32 true".to_owned(),
            false
        )
    );
}

#[test]
fn rules_for_sources_must_make_sense() {
    said(&[
        (
            tcp("allow = [\"10.0.0.0/8\", \"10.0.0.7\"]\ndeny = [\"10.0.0.0/8\", \"10.0.0.7/32\"]"),
            &[
                "7:9 `10.0.0.0/8` is both allowed and denied",
                "7:23 `10.0.0.7/32` is both allowed and denied",
            ],
        ),
        (
            tcp("deny = [\"10.0.0.7\", \"2001:db8::/32\", \"10.0.0.7/32\", \"2001:DB8::/32\"]"),
            &["6:38 `10.0.0.7/32` is listed twice", "6:53 `2001:db8::/32` is listed twice"],
        ),
        (
            tcp("allow = [\"10.0.0.1/8\", \"::ffff:10.0.0.0/104\", \"10.0.0.0/33\", 8]"),
            &[
                "6:10 `10.0.0.1/8` has bits behind its prefix length / write \"10.0.0.0/8\", or \"10.0.0.1\" for that address alone",
                "6:24 `::ffff:10.0.0.0/104` has an IPv4 address written as IPv6 / write \"10.0.0.0/8\"",
                "6:47 `10.0.0.0/33` has an impossible prefix length / it is 0 to 32 for IPv4",
                "6:62 `allow` must be a string, found a whole number",
            ],
        ),
        (
            tcp("allow = []\ndeny = \"10.0.0.0/8\""),
            &[
                "6:9 `allow` is empty / leave it out to let everybody in; to let nobody in, write deny = [\"0.0.0.0/0\", \"::/0\"]",
                "7:8 `deny` must be an array of strings, found a string / put it in brackets: [\"...\"]",
            ],
        ),
    ]);
    let rules = |number: u32| {
        let all = (0..number).map(|n| format!("\"10.0.{}.{}\"", n / 256, n % 256));
        tcp(&format!("allow = [\"192.0.2.7\"]\ndeny = [\n{}]", all.collect::<Vec<_>>().join(",\n")))
    };
    assert_eq!(mistakes(&rules(999)), Vec::<String>::new());
    let many = "1007:1 a service has at most 1000 rules for sources, `web` has 1000";
    assert_eq!(mistakes(&rules(1_000)), [many.replace("has 1000", "has 1001")]);
}

#[test]
fn the_memory_of_recorded_flows_has_its_limits() {
    let keys = |tcp: &str, closing: &str, closed: &str, half_open: &str, sources: u32| {
        after(&format!(
            "[dataplane]\ntcp-idle = \"{tcp}\"\nclosing-idle = \"{closing}\"\n\
             closed-idle = \"{closed}\"\nhalf-open-idle = \"{half_open}\"\nsources = {sources}"
        ))
    };
    let dataplane =
        parse_any(&keys("7d", "1h", "59m", "10m", 16_777_216)).unwrap().config.dataplane;
    assert_eq!(dataplane.tcp_idle, Duration::from_secs(604_800));
    assert_eq!(dataplane.closing_idle, Duration::from_secs(3_600));
    assert_eq!(dataplane.closed_idle, Duration::from_secs(3_540));
    assert_eq!(dataplane.half_open_idle, Duration::from_secs(600));
    assert_eq!(dataplane.sources, 16_777_216);
    said(&[
        (keys("10s", "1s", "1s", "1s", 1_024), &[]),
        (
            keys("9s", "999ms", "0s", "0s", 1_023),
            &[
                "9:12 `tcp-idle` must be 10s to 7d, got `9s`",
                "10:16 `closing-idle` must be 1s to 1h, got `999ms`",
                "11:15 `closed-idle` must be 1s to 1h, got `0s`",
                "12:18 `half-open-idle` must be 1s to 10m, got `0s`",
                "13:11 `sources` must be 1024 to 16777216, got 1023",
            ],
        ),
        (
            keys("8d", "61m", "61m", "11m", 16_777_217),
            &[
                "9:12 `tcp-idle` must be 10s to 7d, got `8d`",
                "10:16 `closing-idle` must be 1s to 1h, got `61m`",
                "11:15 `closed-idle` must be 1s to 1h, got `61m`",
                "12:18 `half-open-idle` must be 1s to 10m, got `11m`",
                "13:11 `sources` must be 1024 to 16777216, got 16777217",
            ],
        ),
    ]);
}
