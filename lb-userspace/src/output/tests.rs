//! What people see, word for word, at a fixed time.

use super::*;
use crate::api::tests::{at, backend, diff_view, flow, service_diff, view};
use crate::api::{
    BackendFlows, BackendState, ExplainBackend, ExplainChoice, ExplainService, ExplainSlot,
    ExplainView, Fate, FlowCountView, FlowKind, FlowState, FlowTally, FlowsView, GuardView,
    InterfaceView, LeavingView, Rejection, ReloadView, ServiceDiff, ServiceFlows, ServiceState,
    ServiceView, SilentView, VerdictView, VersionView,
};
use crate::config::{AdminState, Affinity, Rate, Scheduler};
use crate::state::{Override, Status};

const SCREEN: fn() -> Screen = || Screen { styled: false, now: at(2_041) };

fn shown(answer: &impl Answer) -> String {
    answer.table(&SCREEN())
}

#[test]
fn a_healthy_node_on_one_screen() {
    assert_eq!(
        shown(&view()),
        "\
lb1  up 17m21s  version 0.1.0
config  /etc/lb/lb.toml  sha256 9f2c41aa0b12  loaded 17m21s ago
xdp     eth0  native  up  02:00:00:00:00:01
no problems

SERVICE  LISTEN                   STATE  SERVING  SCHEDULER  AFFINITY  FORWARD  PACKETS  BYTES
web      192.0.2.100:443/tcp      up         2/2  maglev     flow      l2          412k   1.9G
         [2001:db8::100]:443/tcp

VERDICT  REASON      PACKETS  BYTES
pass     no-service       12   1.2k
"
    );
}

#[test]
fn what_is_wrong_is_said_first_and_loudly() {
    let mut view = view();
    view.config.rejected = Some(Rejection {
        at: at(2_000),
        report: "error: unknown key `bogus`\n --> lb.toml:6:1".to_owned(),
    });
    view.interfaces[0].xdp_mode = "generic".to_owned();
    view.interfaces.push(InterfaceView {
        name: "eth1".to_owned(),
        xdp_mode: "native".to_owned(),
        up: false,
        mac: "02:00:00:00:00:02".to_owned(),
    });
    view.problems = vec!["web/web2 down 41s: connection refused".to_owned()];
    view.services[0].state = ServiceState::Degraded;
    view.services[0].serving = 1;
    view.services[0].listen.truncate(1);
    view.verdicts.clear();
    assert_eq!(
        shown(&view),
        "\
lb1  up 17m21s  version 0.1.0
config  /etc/lb/lb.toml  sha256 9f2c41aa0b12  loaded 17m21s ago
REJECTED  41s ago: the file was refused, the configuration above still runs
    error: unknown key `bogus`
     --> lb.toml:6:1
xdp     eth0  GENERIC (behind the driver, slow)  up  02:00:00:00:00:01
xdp     eth1  native  DOWN  02:00:00:00:00:02
PROBLEMS
  ! web/web2 down 41s: connection refused

SERVICE  LISTEN               STATE     SERVING  SCHEDULER  AFFINITY  FORWARD  PACKETS  BYTES
web      192.0.2.100:443/tcp  degraded      1/2  maglev     flow      l2          412k   1.9G

no frames passed, dropped or answered yet
"
    );
}

#[test]
fn silent_clients_are_told_of_once_there_were_any() {
    let mut view = view();
    view.silent = SilentView { prodded: 12, failed: 0 };
    assert!(shown(&view).ends_with("1.2k\n\nsilent clients: 12 prodded, 0 failed\n"));
}

#[test]
fn guarded_services_say_what_they_let_in_and_what_was_turned_away() {
    let mut view = view();
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let guard = |flows, source, allow, deny| Some(GuardView { flows, source, allow, deny });
    view.services[0].guard = guard(rate(10_000, 500), rate(5, 5), 1, 12);
    view.services[0].listen.truncate(1);
    view.services.push(ServiceView {
        name: "dns".to_owned(),
        affinity: Affinity::Quic,
        scheduler: Scheduler::LeastConn,
        guard: guard(None, None, 0, 1),
        ..view.services[0].clone()
    });
    view.verdicts.push(VerdictView {
        action: "drop".to_owned(),
        reason: "denied".to_owned(),
        packets: 18_249,
        bytes: 1_000_000,
    });
    let shown = shown(&view);
    let (_, from) = shown.split_once("no problems\n\n").expect("no problems");
    assert_eq!(
        from,
        "\
SERVICE  LISTEN               STATE  SERVING  SCHEDULER   AFFINITY  FORWARD  PACKETS  BYTES
web      192.0.2.100:443/tcp  up         2/2  maglev      flow      l2          412k   1.9G
dns      192.0.2.100:443/tcp  up         2/2  least-conn  quic      l2          412k   1.9G
guarded  web: 10000 new flows/s (500 at once), 5 new flows/s (5 at once) of a source, 1 prefix allowed, \
12 prefixes denied
guarded  dns: 1 prefix denied
turned away by all of them: 18.2k denied, 0 over a source's limit, 0 over a service's limit

VERDICT  REASON      PACKETS  BYTES
pass     no-service       12   1.2k
drop     denied        18.2k   1.0M
"
    );
}

#[test]
fn backups_slow_starts_and_open_flows_are_shown_where_there_are_any() {
    let mut services = view().services;
    let of = &mut services[0];
    (of.scheduler, of.lap, of.serving) = (Scheduler::LeastConn, None, 1);
    of.leaving = vec![LeavingView { address: [192, 0, 2, 9].into(), flows: Some(3), slots: 0 }];
    let [first, second] = of.backends.as_mut_slice() else { panic!("two backends") };
    (first.slots, first.open, first.growing) = (None, Some(18_249), Some(40));
    (second.slots, second.open, second.backup) = (None, Some(0), true);
    second.state = BackendState::Standby;
    let text = shown(&Backends::new(services.clone()));
    assert_eq!(
        text,
        "\
BACKEND   ADDRESS     STATE                      WEIGHT  CHECK                      NEXT HOP                    SLOTS   OPEN  FLOWS   PKTS  BYTES
web/web1  192.0.2.21  serving, slow start, 40 %     100  up 17m21s, 200 OK in 3 ms  02:00:00:00:00:21 via eth0      -  18.2k      -  18.2k   1.9M
web/web2  192.0.2.22  standby                       100  up 17m21s, 200 OK in 3 ms  02:00:00:00:00:22 via eth0      -      0      -  18.2k   1.9M
web: 192.0.2.9 is no longer in the file and keeps its old flows: 3 remembered
"
    );
    assert!(shown(&Services::new(services.clone())).contains("  1/1  least-conn  "));
    services[0].backends[1].state = BackendState::Serving;
    let text = shown(&ChangedBackend::new(services[0].backends[1].clone()));
    assert!(text.contains("  serving, a backup  "), "{text}");
    assert!(text.contains(" via eth0      -     0  "), "{text}");
}

#[test]
fn turns_are_shown_as_shares_of_a_lap() {
    let mut services = view().services;
    services[0].scheduler = Scheduler::RoundRobin;
    services[0].lap = Some(3);
    services[0].backends[0].slots = Some(2);
    services[0].backends[1].slots = Some(1);
    let text = shown(&Backends::new(services));
    assert!(text.contains("66.7%") && text.contains("33.3%"), "{text}");
}

#[test]
fn backends_show_shares_and_what_operators_changed() {
    let mut services = view().services;
    let [first, second] = services[0].backends.as_mut_slice() else { panic!("two backends") };
    first.state = BackendState::Draining;
    first.admin = AdminState::Drain;
    first.weight = 50;
    first.slots = Some(0);
    first.overridden = Some(Override {
        admin: Some(AdminState::Drain),
        weight: Some(50),
        reason: Some("kernel\nupgrade".to_owned()),
        by: "alice".to_owned(),
        at: at(1_849),
        ..Override::default()
    });
    second.state = BackendState::Unreachable;
    second.health = Status::Unknown;
    second.since = None;
    second.check = String::new();
    second.next_hop = "no answer to ARP on eth0".to_owned();
    second.packets = 0;
    second.bytes = 0;
    assert_eq!(
        shown(&Backends::new(services)),
        "\
BACKEND   ADDRESS     STATE           WEIGHT  CHECK                      NEXT HOP                    SLOTS  FLOWS   PKTS  BYTES
web/web1  192.0.2.21  draining*    50* (100)  up 17m21s, 200 OK in 3 ms  02:00:00:00:00:21 via eth0   0.0%      -  18.2k   1.9M
web/web2  192.0.2.22  UNREACHABLE        100  unknown                    no answer to ARP on eth0    33.5%      -      0      0
* web/web1: admin drain (the file says ready), weight 50 (the file says 100), by alice 3m12s ago: kernel\\nupgrade
"
    );
}

#[test]
fn a_changed_backend_is_shown_as_a_row() {
    let changed = ChangedBackend::new(backend("web1", 21, BackendState::Serving));
    assert_eq!(
        shown(&changed),
        "\
BACKEND   ADDRESS     STATE    WEIGHT  CHECK                      NEXT HOP                    SLOTS  FLOWS   PKTS  BYTES
web/web1  192.0.2.21  serving     100  up 17m21s, 200 OK in 3 ms  02:00:00:00:00:21 via eth0     84      -  18.2k   1.9M
"
    );
}

fn explanation() -> ExplainView {
    ExplainView {
        schema: "lb.explain/1".to_owned(),
        flow: "tcp 198.51.100.7:40112 > 192.0.2.100:443".to_owned(),
        service: Some(ExplainService {
            name: "web".to_owned(),
            listener: "192.0.2.100:443/tcp".to_owned(),
            scheduler: Scheduler::Maglev,
            affinity: Affinity::Flow,
        }),
        hash: Some(0x1a2b_3c4d),
        slot: Some(ExplainSlot {
            index: 9_042,
            count: 65_537,
            current: Some("web1".to_owned()),
            base: Some("web1".to_owned()),
            watched: false,
        }),
        backend: Some(ExplainBackend {
            id: "web/web1".to_owned(),
            address: [192, 0, 2, 21].into(),
            mac: "02:00:00:00:00:21".to_owned(),
            interface: "eth0".to_owned(),
        }),
        choices: Vec::new(),
        established: Some("web/web1".to_owned()),
        action: "forward".to_owned(),
        reason: "transmit".to_owned(),
        notes: Vec::new(),
    }
}

#[test]
fn an_explanation_tells_who_has_the_flow_if_it_is_there_already() {
    let view = ExplainView { established: Some("web/web2".to_owned()), ..explanation() };
    assert!(shown(&view).contains("6 but      if the flow is there already, web/web2 has it\n"));
}

#[test]
fn an_explanation_tells_who_may_have_the_turn() {
    let mut view = explanation();
    let service = view.service.as_mut().expect("a service");
    service.scheduler = Scheduler::LeastConn;
    let choice = |id: &str, turns, open| ExplainChoice { id: id.to_owned(), turns, open };
    view.choices = vec![choice("web/web1", 1, Some(3)), choice("web/web2", 2, Some(3))];
    (view.backend, view.reason) = (None, "least-conn".to_owned());
    view.notes = vec!["of equals, to whose turn\nit is".to_owned()];
    assert_eq!(
        shown(&view),
        "\
1 flow     tcp 198.51.100.7:40112 > 192.0.2.100:443
2 service  web on 192.0.2.100:443/tcp
3 hash     0x1a2b3c4d
4 slot     9042 of 65537: web1, for packets of old flows that nobody remembers
5 backend  one of web/web1 (3 open flows, 1 of 3 turns), web/web2 (3 open flows, 2 of 3 turns)
6 but      if the flow is there already, web/web1 has it
7 verdict  forward, least-conn
* of equals, to whose turn\\nit is
"
    );
    view.established = None;
    view.choices.iter_mut().for_each(|choice| choice.open = None);
    let service = view.service.as_mut().expect("a service");
    (service.scheduler, service.affinity) = (Scheduler::Maglev, Affinity::Quic);
    let text = shown(&view);
    assert!(text.contains("web/web2 (2 of 3 turns)\n6 verdict"), "{text}");
    assert!(text.contains(": web1, for packets that name no server\n"), "{text}");
}

#[test]
fn an_explanation_goes_through_the_stages() {
    assert_eq!(
        shown(&explanation()),
        "\
1 flow     tcp 198.51.100.7:40112 > 192.0.2.100:443
2 service  web on 192.0.2.100:443/tcp
3 hash     0x1a2b3c4d
4 slot     9042 of 65537: web1
5 backend  web/web1 at 192.0.2.21, next hop 02:00:00:00:00:21 via eth0
6 verdict  forward, transmit
"
    );
}

#[test]
fn an_explanation_tells_new_flows_from_old_ones() {
    let mut view = explanation();
    view.backend = None;
    view.action = "drop".to_owned();
    view.reason = "no-backend".to_owned();
    let slot = view.slot.as_mut().expect("a slot");
    (slot.current, slot.watched) = (None, true);
    assert!(shown(&view).contains(
        "\
4 slot     9042 of 65537: new flows go to no backend, flows from before the latest changes to \
         web1; some of its flows may be remembered and stay elsewhere
5 backend  none takes it
6 verdict  DROP, no-backend
"
    ));
}

#[test]
fn a_flow_for_nobody_ends_early() {
    let view = ExplainView {
        service: None,
        hash: None,
        slot: None,
        backend: None,
        action: "pass".to_owned(),
        reason: "no-service".to_owned(),
        ..explanation()
    };
    assert_eq!(
        shown(&view),
        "\
1 flow     tcp 198.51.100.7:40112 > 192.0.2.100:443
2 service  none has this address, port and protocol
3 verdict  pass to the kernel, no-service
"
    );
}

#[test]
fn a_reload_tells_what_it_did() {
    let view = ReloadView {
        digest: "9f2c41aa0b12cd34ef".to_owned(),
        changed: true,
        changes: vec!["~ web/web1 weight 100 -> 50".to_owned()],
        dropped_overrides: vec!["web/web1: gone".to_owned()],
        warnings: vec!["slots is small".to_owned()],
    };
    assert_eq!(
        shown(&Reloaded::new(view)),
        "\
reloaded: sha256 9f2c41aa0b12 runs now
  ~ web/web1 weight 100 -> 50
override: web/web1: gone
warning: slots is small
"
    );
}

fn two_flows() -> FlowsView {
    let mut gone = flow("192.0.2.23", 7, FlowKind::Current);
    (gone.state, gone.idle) = (FlowState::Closing, 192);
    FlowsView {
        schema: "lb.flows/1".to_owned(),
        flows: vec![gone, flow("web1", 40_112, FlowKind::Base)],
        total: 12_345,
        truncated: true,
    }
}

#[test]
fn flows_are_listed_with_what_is_left_out() {
    assert_eq!(
        shown(&two_flows()),
        "\
PROTO  SOURCE              DESTINATION      SERVICE  BACKEND               KIND  STATE     IDLE
tcp    198.51.100.7:7      192.0.2.100:443  web      192.0.2.23 (leaving)  new   closing  3m12s
tcp    198.51.100.7:40112  192.0.2.100:443  web      web1                  old   open       41s
2 of 12345 flows: --limit shows more
remembered flows only: those whose slot alone tells their backend are not, so that of a maglev service \
this is not the number of connections
"
    );
}

fn some_counts() -> FlowCountView {
    let tally = |flows, half_open, current, base, open, closing| FlowTally {
        flows,
        half_open,
        current,
        base,
        open,
        closing,
    };
    let of = |backend: &str, leaving, tally| BackendFlows {
        backend: backend.to_owned(),
        leaving,
        tally,
    };
    let (web1, gone) = (tally(1_003, 1, 2, 1_000, 1_001, 1), tally(3, 0, 0, 3, 2, 1));
    let mut web = web1;
    web.add(&gone);
    let service =
        |name: &str, backends, tally| ServiceFlows { service: name.to_owned(), backends, tally };
    let none = FlowTally::default();
    FlowCountView {
        schema: "lb.flow-count/1".to_owned(),
        services: vec![
            service("dns", vec![of("ns1", false, none)], none),
            service("web", vec![of("web1", false, web1), of("192.0.2.23", true, gone)], web),
        ],
        total: web,
    }
}

#[test]
fn flows_are_counted_by_backend_kind_and_state() {
    assert_eq!(
        shown(&some_counts()),
        "\
SERVICE  BACKEND               FLOWS  HALF-OPEN  NEW   OLD  OPEN  CLOSING
dns      ns1                       0          0    0     0     0        0
web      web1                   1003          1    2  1000  1001        1
web      192.0.2.23 (leaving)      3          0    0     3     2        1
web      all                    1006          1    2  1003  1003        2
all                             1006          1    2  1003  1003        2
remembered flows only: those whose slot alone tells their backend are not, so that of a maglev service \
this is not the number of connections
"
    );
}

#[test]
fn a_difference_is_told_line_by_line_and_in_slots_and_flows() {
    let mut view = diff_view("new.toml");
    view.fixed = vec!["dataplane.pin-dir".to_owned(), "admin.socket".to_owned()];
    view.grows = true;
    view.dropped_overrides = vec!["web/web1: admin drain by root is dropped".to_owned()];
    view.warnings = vec!["new.toml:7:3: odd".to_owned()];
    let untouched = ServiceDiff { moved: 0, moved_later: 0, affected: 0, ..service_diff() };
    view.services.extend([
        ServiceDiff { service: "api".to_owned(), ..untouched.clone() },
        ServiceDiff {
            service: "dns".to_owned(),
            keeps_flows: false,
            lost: 7,
            moved_later: 84,
            ..untouched.clone()
        },
        ServiceDiff { service: "old".to_owned(), fate: Fate::Goes, ..untouched.clone() },
        ServiceDiff { service: "new".to_owned(), fate: Fate::Comes, flows: 0, ..untouched },
    ]);
    assert_eq!(
        shown(&view),
        "\
new.toml: sha256 0123456789ab would change this:
  - web/web2
WOULD BE REFUSED: dataplane.pin-dir, admin.socket cannot change while the daemon runs: restart it
the maps are too small: they would be copied into larger ones
override: web/web1: admin drain by root is dropped
warning: new.toml:7:3: odd
SERVICE  SLOTS MOVED  ONCE ALL ARE UP  OLD FLOWS     FLOWS  AFFECTED  LOST
web      125 (49.8%)      125 (49.8%)  stay             12         5     -
dns         0 (0.0%)       84 (33.5%)  move too         12         -     7
old         0 (0.0%)         0 (0.0%)  service goes     12         -     -
new         0 (0.0%)         0 (0.0%)  new service       0         -     -
FLOWS are open ones that are remembered now: AFFECTED ones stay with a backend that gets no new flows any \
more, LOST ones are refused or sent elsewhere
"
    );
}

#[test]
fn a_file_without_a_difference_says_so() {
    let mut view = diff_view("new.toml");
    (view.changes, view.services) = (Vec::new(), Vec::new());
    let nothing = "no slot would move, and no remembered flow\n";
    let words = "new.toml: sha256 0123456789ab says the same in other words\n";
    assert_eq!(shown(&view), format!("{words}{nothing}"));
    view.changed = false;
    let words = "new.toml: sha256 0123456789ab runs already\n";
    assert_eq!(shown(&view), format!("{words}{nothing}"));
}

#[test]
fn versions_tell_of_a_daemon_that_is_not_there() {
    let cli = VersionView { version: "0.1.0".to_owned(), map_schema: 1 };
    let versions = Versions::new(cli.clone(), Err("no daemon runs here".to_owned()));
    assert_eq!(
        shown(&versions),
        "lb      0.1.0 (map schema 1)\ndaemon  unknown: no daemon runs here\n"
    );
    let versions = Versions::new(cli.clone(), Ok(cli));
    assert!(shown(&versions).ends_with("daemon  0.1.0 (map schema 1)\n"));
}

#[test]
fn every_json_answer_has_its_schema_and_no_styles() {
    let screen = Screen { styled: true, ..SCREEN() };
    let schema = |json: serde_json::Result<String>| {
        let json = json.expect("encoded");
        assert!(!json.contains('\x1b') && json.ends_with("}\n"), "{json}");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        value["schema"].as_str().expect("a schema").to_owned()
    };
    let services = view().services;
    let version = VersionView { version: "0.1.0".to_owned(), map_schema: 1 };
    let json = Format::Json;
    assert_eq!(schema(text(&view(), json, &screen)), "lb.status/1");
    assert_eq!(schema(text(&explanation(), json, &screen)), "lb.explain/1");
    assert_eq!(schema(text(&Services::new(services.clone()), json, &screen)), "lb.services/1");
    assert_eq!(schema(text(&Backends::new(services.clone()), json, &screen)), "lb.backends/1");
    assert_eq!(schema(text(&two_flows(), json, &screen)), "lb.flows/1");
    assert_eq!(schema(text(&some_counts(), json, &screen)), "lb.flow-count/1");
    assert_eq!(schema(text(&diff_view("new.toml"), json, &screen)), "lb.diff/1");
    let changed = ChangedBackend::new(services[0].backends[0].clone());
    assert_eq!(schema(text(&changed, json, &screen)), "lb.backend/1");
    let versions = Versions::new(version, Err("no".to_owned()));
    assert_eq!(schema(text(&versions, json, &screen)), "lb.version/1");
    let checked = Checked::invalid("lb.toml".to_owned(), "error".to_owned());
    assert_eq!(schema(text(&checked, json, &screen)), "lb.check/1");
    assert_eq!(schema(text(&Detached::new(Vec::new()), json, &screen)), "lb.detach/1");
}

#[test]
fn styles_only_come_on_top_of_the_words() {
    let mut view = view();
    view.interfaces[0].xdp_mode = "generic".to_owned();
    view.problems = vec!["web/web2 down".to_owned()];
    view.services[0].state = ServiceState::Down;
    let plain = shown(&view);
    let styled = view.table(&Screen { styled: true, ..SCREEN() });
    assert!(styled.contains("\x1b[1;31mPROBLEMS\x1b[0m"), "{styled}");
    assert_eq!(without_escapes(&styled), plain);
}

/// Text without `ESC [ ... letter`, and without the spaces that were before an escape at a
/// line's end.
fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            for rest in characters.by_ref() {
                if rest.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(character);
        }
    }
    plain
}
