//! Bad keys, types and single values, and everything that must be said about each.

use super::{HEAD, after, backends, said, web};

#[test]
fn syntax_errors_have_a_place() {
    said(&[
        (
            "version = 1\nnode = = 3\n".to_owned(),
            &["2:8 syntax error: extra `=`, expected nothing"],
        ),
        (
            "version = 1\nx = \"unfinished\n".to_owned(),
            &["2:16 syntax error: invalid basic string, expected `\"`"],
        ),
        (
            after("web1 = 1\nweb1 = 2"),
            &[
                "8:1 `web1` is there twice / a key or table may stand once: join the two, or remove one",
                "9:1 `web1` is there twice / a key or table may stand once: join the two, or remove one",
            ],
        ),
        (
            after("[service.web]\nslots = 7"),
            &[
                "8:10 `web` is there twice / a key or table may stand once: join the two, or remove one",
                "9:1 `slots` is not supported by this version / remove it: it is for tables of different sizes; [dataplane].slots holds for all services",
            ],
        ),
    ]);
}

#[test]
fn unknown_keys_come_with_the_one_that_was_meant() {
    said(&[
        (
            after("[dataplan]"),
            &["8:2 unknown key `dataplan` in the file / did you mean `dataplane`?"],
        ),
        (
            HEAD.replace("node", "nodes"),
            &["2:2 unknown key `nodes` in the file / did you mean `node`?"],
        ),
        (
            after("[dataplane]\nxdp_mode = \"auto\""),
            &["9:1 unknown key `xdp_mode` in the dataplane / did you mean `xdp-mode`?"],
        ),
        (
            after("[dataplane]\nbanana = \"auto\""),
            &[
                "9:1 unknown key `banana` in the dataplane / the dataplane may have `xdp-mode`, `slots`, `lease`, `pin-dir` and `state-dir`",
            ],
        ),
        (
            web("listen = [\"192.0.2.1:80\"]\ninterval = \"2s\""),
            &["6:1 unknown key `interval` in a service / `interval` belongs in `check`"],
        ),
        (
            web("bind = [\"192.0.2.1:80\"]"),
            &["5:1 unknown key `bind` in a service / did you mean `listen`?"],
        ),
        (
            after("[defaults.check]\ninter = \"2s\"\nfall-count = 3"),
            &[
                "9:1 unknown key `inter` in a check / did you mean `interval`?",
                "10:1 unknown key `fall-count` in a check / a check may have `type`, `port`, `path`, `host`, `expect`, `verify`, `interval`, `fast-interval`, `timeout`, `rise` and `fall`",
            ],
        ),
        (
            after("[dataplane]\nxdp-mode = \"nativ\""),
            &["9:12 unknown `xdp-mode`: `nativ` / did you mean \"native\"?"],
        ),
        (
            backends("web1 = { address = \"10.0.0.1\", admin = \"off\" }"),
            &["7:40 unknown `admin`: `off` / it may be one of `ready`, `drain` and `disable`"],
        ),
    ]);
}

#[test]
fn what_later_versions_have_is_not_called_unknown() {
    said(&[
        (
            after("[pair]\nrouter-id = 1\n[mysql.main]\nuser = \"x\""),
            &[
                "8:2 `pair` is not supported by this version / remove it: it is for the pair of nodes (VRRP, peer link)",
                "10:2 `mysql` is not supported by this version / remove it: it is for MySQL roles",
            ],
        ),
        (
            after(
                "[defaults]\nscheduler = \"least-conn\"\nforward = \"ipip\"\naffinity = \
                 \"none\"\non-down = \"keep\"",
            ),
            &[
                "9:13 `scheduler` = `least-conn` is not supported by this version / it needs a record of each flow; this version has `maglev`",
                "10:11 `forward` = `ipip` is not supported by this version / it needs encapsulation; this version has `l2`",
                "11:12 `affinity` = `none` is not supported by this version / it needs hashing without any memory of flows; this version has `flow`",
                "12:1 `on-down` is not supported by this version / remove it: it is for resetting or keeping the flows of a backend that is down",
            ],
        ),
        (
            after("[admin]\nsocket = { path = \"/x\", viewers = [] }\nhttp = {}"),
            &[
                "9:25 `viewers` is not supported by this version / remove it: it is for operators and viewers",
                "10:1 `http` is not supported by this version / remove it: it is for the status page",
            ],
        ),
        (
            after("[node.lb2]\ninterfaces = [\"eth0\"]\npriority = 5"),
            &[
                "10:1 `priority` is not supported by this version / remove it: it is for the pair of nodes (VRRP, peer link)",
            ],
        ),
        (
            after("[dataplane]\nquiet-window = \"2h\"\npins = 5"),
            &[
                "9:1 `quiet-window` is not supported by this version / remove it: it is for the memory of flows from before a change",
                "10:1 `pins` is not supported by this version / remove it: it is for the memory of flows from before a change",
            ],
        ),
        (
            web("listen = [\"192.0.2.1:80\"]\nslow-start = \"3s\"\nslots = 101"),
            &[
                "6:1 `slow-start` is not supported by this version / remove it: it is for slow start",
                "7:1 `slots` is not supported by this version / remove it: it is for tables of different sizes; [dataplane].slots holds for all services",
            ],
        ),
    ]);
}

#[test]
fn wrong_types_are_named() {
    said(&[
        (
            "version = \"1\"\nnode = 3\nservice = []\n".to_owned(),
            &[
                "1:11 `version` must be a whole number, found a string / write it without quotes",
                "2:8 `node` must be a table, found a whole number",
                "3:11 `service` must be a table, found an array",
            ],
        ),
        (
            "version = 2".to_owned() + &HEAD[11..],
            &["1:11 `version` must be 1, got 2 / this is the version of the file's format"],
        ),
        (
            HEAD[12..].to_owned(),
            &["1:1 the file does not say its `version` / begin it with `version = 1`"],
        ),
        (
            web("listen = \"192.0.2.1:80\""),
            &[
                "5:10 `listen` must be an array of strings, found a string / put it in brackets: [\"...\"]",
            ],
        ),
        (
            web("listen = [1, true]"),
            &[
                "5:11 `listen` must be a string, found a whole number",
                "5:14 `listen` must be a string, found a truth value",
            ],
        ),
        (
            backends("web1 = \"10.0.0.1\"\naddress = \"10.0.0.1\""),
            &[
                "7:1 `web1` must be a backend, which is a table / write web1 = { address = \"...\" }",
                "8:1 `address` must be a backend, which is a table / a key of a backend stands in [service.NAME.backend]",
            ],
        ),
        (
            after("[service]\nlisten = []"),
            &[
                "9:1 `listen` must be a service, which is a table / a key of a service stands in [service.NAME]",
            ],
        ),
        (
            backends("web1 = { address = 1.5, weight = \"5\", port = 2020-01-01 }"),
            &[
                "7:20 `address` must be a string, found a number with a point",
                "7:34 `weight` must be a whole number, found a string / write it without quotes",
                "7:46 `port` must be a whole number, found a date or time",
            ],
        ),
    ]);
}

#[test]
fn durations_need_units_and_ranges() {
    said(&[
        (
            after("[dataplane]\nlease = 3"),
            &[
                "9:9 `lease` must be a duration with a unit, in quotes, found a whole number / a duration is a whole number and ms, s, m or h: \"500ms\", \"2s\"",
            ],
        ),
        (
            after("[dataplane]\nlease = \"100ms\""),
            &["9:9 `lease` must be 300ms to 1m, got `100ms`"],
        ),
        (after("[dataplane]\nlease = \"2m\""), &["9:9 `lease` must be 300ms to 1m, got `2m`"]),
        (
            after(
                "[defaults.check]\ninterval = \"1\"\nfast-interval = \"1d\"\ntimeout = \
                 \"1ms\"\nrise = 0\nfall = 101",
            ),
            &[
                "9:12 `interval` = `1` has no unit / a duration is a whole number and ms, s, m or h: \"500ms\", \"2s\"",
                "10:17 `fast-interval` = `1d` has an unknown unit / a duration is a whole number and ms, s, m or h: \"500ms\", \"2s\"",
                "11:11 `timeout` must be 10ms to 1m, got `1ms`",
                "12:8 `rise` must be 1 to 100, got 0",
                "13:8 `fall` must be 1 to 100, got 101",
            ],
        ),
    ]);
}

#[test]
fn paths_are_absolute() {
    said(&[
        (
            after("[admin]\nsocket = \"lb.sock\""),
            &["9:10 `socket` must be an absolute path, got `lb.sock`"],
        ),
        (
            after(&format!("[admin]\nsocket = \"/{}\"", "x".repeat(107))),
            &[
                "9:10 `socket` must have at most 107 bytes, got `/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...`",
            ],
        ),
        (
            after("[dataplane]\npin-dir = \"\"\nstate-dir = \"/x\\u0000\""),
            &[
                "9:11 `pin-dir` must be an absolute path, got ``",
                "10:13 `state-dir` must hold no control characters, got `/x\\u{0}`",
            ],
        ),
    ]);
}
