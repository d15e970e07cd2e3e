//! Whole files, good and bad.

mod flows;
mod mutations;
mod rules;
mod shape;

use std::path::Path;
use std::time::Duration;

use super::*;

/// The file that packages install.
const EXAMPLE: &str = include_str!("../../../packaging/lb.toml");
/// What a file needs before a service.
const HEAD: &str = "version = 1\n[node.lb1]\ninterfaces = [\"eth0\"]\n";

fn parse_any(text: &str) -> Result<Loaded, Report> {
    parse(Path::new("lb.toml"), text, &NodeChoice::Any)
}

/// The mistakes as `line:column message`, and their hints after ` / `.
fn mistakes(text: &str) -> Vec<String> {
    let Err(report) = parse_any(text) else {
        return Vec::new();
    };
    let line = |mistake: &Mistake| {
        let hint = mistake.hint.as_ref().map(|hint| format!(" / {hint}")).unwrap_or_default();
        format!("{}:{} {}{hint}", mistake.line, mistake.column, mistake.message)
    };
    report.mistakes().iter().map(line).collect()
}

/// Compares what is said about each file with what should be.
fn said(cases: &[(String, &[&str])]) {
    for (text, expected) in cases {
        assert_eq!(mistakes(text), *expected, "{text}");
    }
}

/// A file whose service `web` has these lines (from line 5 on) before its backends.
fn web(lines: &str) -> String {
    format!(
        "{HEAD}[service.web]\n{lines}\n[service.web.backend]\nweb1 = {{ address = \"10.0.0.1\" }}\n"
    )
}

/// A file whose service `web` has these lines (from line 7 on) as backends.
fn backends(lines: &str) -> String {
    format!("{HEAD}[service.web]\nlisten = [\"192.0.2.1:80\"]\n[service.web.backend]\n{lines}\n")
}

/// A file with one good service and these lines (from line 8 on) after it.
fn after(lines: &str) -> String {
    format!("{}{lines}\n", backends("web1.address = \"10.0.0.1\""))
}

fn service_of(text: &str) -> Service {
    parse_any(text).unwrap().config.services["web"].clone()
}

fn check_of(text: &str) -> Check {
    service_of(text).check
}

#[test]
fn the_packaged_example_is_good() {
    let Loaded { config, warnings } = parse_any(EXAMPLE).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.node.name, "lb1");
    assert_eq!(config.node.address, Some("192.0.2.11".parse().unwrap()));
    assert_eq!(config.digest.len(), 64);
    let web = &config.services["web"];
    let listen: Vec<String> = web.listen.iter().map(Listener::to_string).collect();
    assert_eq!(listen, ["192.0.2.100:443/tcp", "[2001:db8::100]:443/tcp"]);
    assert_eq!(web.check.port, 443);
    let probe = Probe::Http {
        path: "/healthz".to_owned(),
        host: Some("www.foobar.com".to_owned()),
        expect: vec![200],
        tls: Some(Tls::System),
    };
    assert_eq!(web.check.probe, probe);
    assert_eq!(web.backends["web3"].weight, 50);
    let dns = &config.services["dns"];
    assert_eq!((&dns.check.probe, dns.check.port), (&Probe::Tcp, 53));
    assert_eq!(dns.backends["ns2"].admin, AdminState::Drain);
}

#[test]
fn a_smallest_file_has_the_documented_defaults() {
    let config = parse_any(&after("")).unwrap().config;
    assert_eq!(config.dataplane.xdp_mode, XdpMode::Auto);
    assert_eq!(config.dataplane.slots, 65_537);
    assert_eq!(config.dataplane.lease, Duration::from_secs(3));
    assert_eq!(config.dataplane.quiet_window, Duration::from_secs(7_200));
    assert_eq!((config.dataplane.pins, config.dataplane.half_open), (500_000, 65_536));
    assert_eq!(config.dataplane.udp_idle, Duration::from_secs(30));
    assert_eq!(config.dataplane.tcp_idle, Duration::from_secs(7_200));
    assert_eq!(config.dataplane.closing_idle, Duration::from_secs(60));
    assert_eq!(config.dataplane.closed_idle, Duration::from_secs(10));
    assert_eq!(config.dataplane.half_open_idle, Duration::from_secs(30));
    assert_eq!(config.dataplane.sources, 131_072);
    assert_eq!(config.dataplane.pin_dir, Path::new("/sys/fs/bpf/lb"));
    assert_eq!(config.dataplane.state_dir, Path::new("/var/lib/lb"));
    assert_eq!(config.admin.socket, Path::new("/run/lb/lb.sock"));
    assert_eq!(config.node.address, None);
    let web = &config.services["web"];
    assert_eq!((web.scheduler, web.forward), (Scheduler::Maglev, Forward::L2));
    assert_eq!(web.affinity, Affinity::Flow);
    assert_eq!((web.slots, web.slow_start), (65_537, Duration::ZERO));
    assert_eq!((web.limit, web.sources.len()), (Limit::default(), 0));
    assert!(web.admits_unnamed() && !web.records_flows());
    assert_eq!((web.on_down, web.no_backend), (OnDown::Keep, NoBackend::Drop));
    assert_eq!(web.drain, Drain { grace: Duration::from_secs(60), then: OnDown::Keep });
    let backend = &web.backends["web1"];
    assert_eq!((backend.weight, backend.admin), (100, AdminState::Ready));
    assert_eq!((backend.backup, backend.slow_start, backend.server_id), (false, None, None));
    let check = Check {
        probe: Probe::Tcp,
        port: 80,
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    };
    assert_eq!(web.check, check);
}

#[test]
fn the_annotated_defaults_of_the_example_are_the_defaults() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(uncommented, EXAMPLE);
    let mut config = parse_any(&uncommented).unwrap().config;
    let plain = parse_any(EXAMPLE).unwrap().config;
    config.digest.clone_from(&plain.digest);
    assert_eq!(config, plain);
}

#[test]
fn the_socket_is_a_path_or_a_table() {
    for socket in ["\"/run/a.sock\"", "{ path = \"/run/a.sock\" }"] {
        let config = parse_any(&after(&format!("[admin]\nsocket = {socket}"))).unwrap().config;
        assert_eq!(config.admin.socket, Path::new("/run/a.sock"));
    }
}

#[test]
fn a_node_is_chosen_by_its_name_or_the_hosts() {
    let node = |choice| parse(Path::new("lb.toml"), EXAMPLE, &choice);
    let name = |choice| node(choice).unwrap().config.node.name;
    assert_eq!(name(NodeChoice::Named("lb2".to_owned())), "lb2");
    assert_eq!(name(NodeChoice::HostName("lb2".to_owned())), "lb2");
    assert_eq!(name(NodeChoice::HostName("lb2.example.net".to_owned())), "lb2");
    assert_eq!(name(NodeChoice::Any), "lb1");
    let report = node(NodeChoice::Named("lb3".to_owned())).unwrap_err();
    assert_eq!(report.mistakes()[0].message, "the file has no node `lb3`: it has `lb1` and `lb2`");
    let report = node(NodeChoice::HostName("box".to_owned())).unwrap_err();
    let message = "no node has this host's name, `box`: the file has `lb1` and `lb2`";
    assert_eq!(report.mistakes()[0].message, message);
    assert_eq!((report.mistakes()[0].line, report.mistakes()[0].column), (22, 7));
}

#[test]
fn a_services_check_goes_over_the_defaults_key_by_key() {
    let defaults = "[defaults]\ncheck = { type = \"http\", path = \"/up\", interval = \"4s\", \
                    fast-interval = \"1s\", rise = 5 }\n";
    let own = "listen = [\"192.0.2.1:80\"]\ncheck = { interval = \"200ms\", timeout = \"100ms\", \
               fall = 7, port = 8080 }";
    let check = check_of(&format!("{}{defaults}", web(own)));
    let probe = Probe::Http { path: "/up".to_owned(), host: None, expect: Vec::new(), tls: None };
    assert_eq!(check.probe, probe);
    assert_eq!(check.port, 8080);
    assert_eq!((check.rise, check.fall), (5, 7));
    assert_eq!(check.interval, Duration::from_millis(200));
    // Never longer than the interval.
    assert_eq!(check.fast_interval, Duration::from_millis(200));
}

#[test]
fn a_services_drain_goes_over_the_defaults_key_by_key() {
    let drain = |own: &str| {
        let defaults = "[defaults]\ndrain = { grace = \"5m\", then = \"reset\" }\n";
        let text = format!("{}{defaults}", web(&format!("listen = [\"192.0.2.1:80\"]\n{own}")));
        let Drain { grace, then } = service_of(&text).drain;
        (grace.as_secs(), then)
    };
    assert_eq!(drain(""), (300, OnDown::Reset));
    assert_eq!(drain("drain = {}"), (300, OnDown::Reset));
    assert_eq!(drain("drain.then = \"keep\""), (300, OnDown::Keep));
    assert_eq!(drain("drain = { grace = \"0s\" }"), (0, OnDown::Reset));
    assert_eq!(drain("drain = { grace = \"24h\", then = \"keep\" }"), (86_400, OnDown::Keep));
}

#[test]
fn what_becomes_of_flows_is_said_by_the_service_or_the_defaults() {
    let found = |own: &str| {
        let defaults =
            "[defaults]\naffinity = \"client-ip\"\non-down = \"reset\"\nno-backend = \"reject\"\n";
        let text = format!("{}{defaults}", web(&format!("listen = [\"192.0.2.1:80\"]\n{own}")));
        let service = service_of(&text);
        (service.affinity, service.on_down, service.no_backend)
    };
    assert_eq!(found(""), (Affinity::ClientIp, OnDown::Reset, NoBackend::Reject));
    let own = "affinity = \"flow\"\non-down = \"keep\"\nno-backend = \"drop\"";
    assert_eq!(found(own), (Affinity::Flow, OnDown::Keep, NoBackend::Drop));
}

#[test]
fn services_with_tcp_pass_over_no_affinity_in_the_defaults() {
    let affinity = |own: &str| {
        let defaults = "[defaults]\naffinity = \"none\"\n";
        service_of(&format!("{}{defaults}", web(own))).affinity
    };
    assert_eq!(affinity("listen = [\"192.0.2.1:53/udp\"]"), Affinity::None);
    assert_eq!(affinity("listen = [\"192.0.2.1:53/udp\", \"192.0.2.1:53\"]"), Affinity::Flow);
    let own = "listen = [\"192.0.2.1:53/udp\"]\naffinity = \"client-ip\"";
    assert_eq!(affinity(own), Affinity::ClientIp);
}

#[test]
fn the_memory_of_flows_is_as_large_as_the_file_says() {
    let lines = "[dataplane]\nquiet-window = \"7d\"\npins = 16_777_216\nhalf-open = \
                 1_048_576\nudp-idle = \"1h\"";
    let dataplane = parse_any(&after(lines)).unwrap().config.dataplane;
    assert_eq!(dataplane.quiet_window, Duration::from_secs(604_800));
    assert_eq!((dataplane.pins, dataplane.half_open), (16_777_216, 1_048_576));
    assert_eq!(dataplane.udp_idle, Duration::from_secs(3_600));
}

#[test]
fn the_default_check_follows_the_listeners() {
    let udp = check_of(&web("listen = [\"192.0.2.1:53/udp\"]"));
    assert_eq!((udp.probe, udp.port), (Probe::None, 0));
    let both =
        check_of(&web("listen = [\"192.0.2.1:1053/udp\", \"192.0.2.1:*\", \"192.0.2.1:53\"]"));
    assert_eq!((both.probe, both.port), (Probe::Tcp, 53));
    let asked = check_of(&web("listen = [\"192.0.2.1:53/udp\"]\ncheck.type = \"tcp\""));
    assert_eq!((asked.probe, asked.port), (Probe::Tcp, 53));
}

#[test]
fn verify_is_none_system_or_a_file() {
    for (verify, tls) in [
        ("\"none\"", Tls::None),
        ("\"system\"", Tls::System),
        ("{ ca = \"/etc/ca.pem\" }", Tls::Ca("/etc/ca.pem".into())),
    ] {
        let lines = format!(
            "listen = [\"192.0.2.1:443\"]\ncheck = {{ type = \"https\", verify = {verify} }}"
        );
        let Probe::Http { tls: Some(found), .. } = check_of(&web(&lines)).probe else {
            panic!("{verify} is no TLS probe");
        };
        assert_eq!(found, tls);
    }
}

#[test]
fn what_is_odd_but_allowed_is_a_warning() {
    let text = web(
        "listen = [\"192.0.2.1:80\"]\ncheck = { interval = \"500ms\", fast-interval = \"1s\" }",
    );
    let warnings = parse_any(&text).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "lb.toml:6:22: the check's timeout (1s) is longer than its interval (500ms) (a probe \
             that hangs delays the next one)",
            "lb.toml:6:47: `fast-interval` is longer than `interval`, which is used instead",
        ]
    );
    let text = web("listen = [\"192.0.2.1:80\"]\ncheck = { type = \"none\", port = 80 }");
    let warnings = parse_any(&text).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("lb.toml:6:33: `port` has no effect"), "{warnings:?}");
}

#[test]
fn parsing_twice_gives_the_same() {
    assert_eq!(parse_any(EXAMPLE), parse_any(EXAMPLE));
}

#[test]
fn a_report_shows_the_line_a_caret_and_a_hint() {
    let text = backends(
        "web1 = { address = \"10.0.0.1\", weigth = 1 }\nweb2 = { address = \"10.0.0.1\" }",
    );
    let report = parse_any(&text).unwrap_err();
    assert_eq!(
        report.to_string(),
        "\
error: unknown key `weigth` in a backend
 --> lb.toml:7:32
  |
7 | web1 = { address = \"10.0.0.1\", weigth = 1 }
  |                                ^^^^^^
  |
  = help: did you mean `weight`?

error: backends `web1` and `web2` have the same address
 --> lb.toml:8:20
  |
7 | web1 = { address = \"10.0.0.1\", weigth = 1 }
  | ---- first here
8 | web2 = { address = \"10.0.0.1\" }
  |                    ^^^^^^^^^^
  |
  = help: to give a server more flows, raise its `weight`

lb.toml: 2 mistakes"
    );
    assert!(!report.render(false).contains('\x1b'));
    assert!(report.render(true).contains('\x1b'));
}

#[test]
fn places_that_are_far_apart_are_drawn_one_by_one() {
    let filler =
        "# a comment of some length, so that there is much between the places\n".repeat(500);
    let other = "[service.b]\nlisten = [\"192.0.2.1:80\"]\nbackend.x.address = \"10.0.0.1\"";
    let report = parse_any(&after(&format!("{filler}{other}"))).unwrap_err();
    let shown = "\
error: `192.0.2.1:80/tcp` belongs to service `web` already
   --> lb.toml:509:11
    |
509 | listen = [\"192.0.2.1:80\"]
    |           ^^^^^^^^^^^^^^
    |
   ::: lb.toml:5:11
    |
  5 | listen = [\"192.0.2.1:80\"]
    |           -------------- first here

lb.toml: 1 mistake";
    assert_eq!(report.to_string(), shown);
}

#[test]
fn a_line_that_is_too_long_is_named_without_being_drawn() {
    let text = web(&format!("listen = [{}\"192.0.2.1:0\"]", " ".repeat(5_000)));
    let shown = "\
error: `192.0.2.1:0` has an impossible port
--> lb.toml:5:5011
 = help: the port is a number from 1 to 65535, or `*` for any port

lb.toml: 1 mistake";
    assert_eq!(parse_any(&text).unwrap_err().to_string(), shown);
}

#[test]
fn a_report_counts_characters_not_bytes() {
    let report = parse_any("# \u{e9}\nversion = 1 \"\u{e9}\u{e9}\" = 2").unwrap_err();
    let mistake = &report.mistakes()[0];
    let place = format!("lb.toml:{}:{}\n", mistake.line, mistake.column);
    assert!(report.to_string().contains(&place), "{report}");
    let report =
        parse_any(&after("\"\u{e9}\u{e9}\".\"\u{e9}\u{4e2d}\".x = 2\n[node.\"\t\u{e9}\"]"))
            .unwrap_err();
    for mistake in report.mistakes() {
        let place = format!("lb.toml:{}:{}\n", mistake.line, mistake.column);
        assert!(report.to_string().contains(&place), "{place} {report}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_report() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.toml");
    let report = load(&path, &NodeChoice::Any).unwrap_err();
    assert_eq!(
        report.mistakes()[0].message,
        "failed to read the configuration: No such file or directory (os error 2)"
    );
    std::fs::write(&path, b"version = 1\n# caf\xe9\n").unwrap();
    let report = load(&path, &NodeChoice::Any).unwrap_err();
    let mistake = &report.mistakes()[0];
    assert_eq!((mistake.line, mistake.column), (2, 6));
    assert_eq!(mistake.message, "the file is not UTF-8 from here on");
    std::fs::write(&path, EXAMPLE).unwrap();
    assert_eq!(load(&path, &NodeChoice::Any).unwrap().config.path, path);
}

#[test]
fn a_carriage_return_before_each_line_feed_changes_nothing() {
    let Loaded { mut config, .. } = parse_any(&EXAMPLE.replace('\n', "\r\n")).unwrap();
    let plain = parse_any(EXAMPLE).unwrap().config;
    config.digest.clone_from(&plain.digest);
    assert_eq!(config, plain);
}

#[test]
fn absurd_files_end_in_a_report() {
    let dots = vec!["a"; 79].join(".");
    let nested = format!("[{dots}]\n{}{}", format!("{dots} = {{").repeat(78), "}".repeat(78));
    let long_list = format!("listen = [{}]", "\"x\",".repeat(200_000));
    for text in [
        nested,
        format!("a = {}", "[".repeat(100_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        web(&long_list),
        backends(&"x = 1\n".repeat(2_000)),
        format!("slots = {}", "9".repeat(100_000)),
        "\u{feff}version = 1".to_owned(),
        "\0".to_owned(),
        "version".to_owned(),
        String::new(),
    ] {
        let report = parse_any(&text).unwrap_err();
        assert!(!report.mistakes().is_empty());
        assert!(!report.to_string().is_empty());
    }
}

#[test]
fn the_limits_of_the_maps_are_known() {
    let listeners: String = (1..=4_097).map(|port| format!("\"192.0.2.1:{port}\",\n")).collect();
    let found = mistakes(&web(&format!("listen = [\n{listeners}]")));
    assert_eq!(found, ["4102:1 there are more than 4096 listeners"]);

    let lines: String = (0..32_768)
        .map(|number| format!("b{number}.address = \"10.9.{}.{}\"\n", number / 256, number % 256))
        .collect();
    let found = mistakes(&backends(&lines));
    assert_eq!(found, ["4:10 a service has at most 32767 backends, `web` has 32768"]);

    let services: String = (0..300)
        .map(|number| {
            format!(
                "[service.s{number}]\nlisten = [\"192.0.2.2:{}\"]\nbackend.x.address = \
                 \"10.0.0.1\"\n",
                number + 1
            )
        })
        .collect();
    let found = mistakes(&after(&format!("[dataplane]\nslots = 4194301\n{services}")));
    let message = "9:9 301 services with up to 4194301 slots each need 5 GiB of memory: at most 4 / \
                   choose a smaller prime";
    assert_eq!(found, [message]);

    // Services that say so themselves do not count with the slots of the others.
    let own = services.replacen("listen", "slots = 1000003\nlisten", 100);
    let found = mistakes(&after(&format!("[dataplane]\nslots = 4000037\n{own}")));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_key_is_in_the_reference() {
    const REFERENCE: &str = include_str!("../../../docs/CONFIG.md");
    for schema in schema::ALL {
        let later = schema.later.iter().map(|(key, _)| key);
        for key in schema.keys.iter().chain(later) {
            let row = format!("| `{key}` |");
            let listed = REFERENCE.contains(&row) || REFERENCE.contains(&format!("`[{key}"));
            assert!(listed, "`{key}` of {}", schema.place);
        }
    }
}
