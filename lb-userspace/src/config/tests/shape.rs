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
                "9:9 `slots` must be 101 to 4194301, got 7",
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
                "9:1 unknown key `banana` in the dataplane / the dataplane may have `xdp-mode`, `slots`, `lease`, `quiet-window`, `pins`, `half-open`, `udp-idle`, `tcp-idle`, `closing-idle`, `closed-idle`, `half-open-idle`, `sources`, `pin-dir` and `state-dir`",
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
            after("[defaults]\nforward = \"full-nat\"\ncheck = { type = \"mysql\" }"),
            &[
                "9:11 `forward` = `full-nat` is not supported by this version / it needs address translation; this version has `l2`, `ipip` and `gue`",
                "10:18 `type` = `mysql` is not supported by this version / it needs MySQL roles; this version has `none`, `tcp`, `http` and `https`",
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
                "9:9 `lease` must be a duration with a unit, in quotes, found a whole number / a duration is a whole number and ms, s, m, h or d: \"500ms\", \"2s\"",
            ],
        ),
        (
            after("[dataplane]\nlease = \"100ms\""),
            &["9:9 `lease` must be 300ms to 1m, got `100ms`"],
        ),
        (after("[dataplane]\nlease = \"2m\""), &["9:9 `lease` must be 300ms to 1m, got `2m`"]),
        (
            after(
                "[defaults.check]\ninterval = \"1\"\nfast-interval = \"1w\"\ntimeout = \
                 \"1ms\"\nrise = 0\nfall = 101",
            ),
            &[
                "9:12 `interval` = `1` has no unit / a duration is a whole number and ms, s, m, h or d: \"500ms\", \"2s\"",
                "10:17 `fast-interval` = `1w` has an unknown unit / a duration is a whole number and ms, s, m, h or d: \"500ms\", \"2s\"",
                "11:11 `timeout` must be 10ms to 1m, got `1ms`",
                "12:8 `rise` must be 1 to 100, got 0",
                "13:8 `fall` must be 1 to 100, got 101",
            ],
        ),
    ]);
}

#[test]
fn the_memory_of_flows_has_its_limits() {
    said(&[
        (
            after(
                "[dataplane]\nquiet-window = \"0s\"\npins = 1023\nhalf-open = 1_023\nudp-idle = \
                 \"999ms\"",
            ),
            &[
                "9:16 `quiet-window` must be 1s to 7d, got `0s`",
                "10:8 `pins` must be 1024 to 16777216, got 1023",
                "11:13 `half-open` must be 1024 to 1048576, got 1023",
                "12:12 `udp-idle` must be 1s to 1h, got `999ms`",
            ],
        ),
        (
            after(
                "[dataplane]\nquiet-window = \"8d\"\npins = 16_777_217\nhalf-open = \
                 1_048_577\nudp-idle = \"61m\"",
            ),
            &[
                "9:16 `quiet-window` must be 1s to 7d, got `8d`",
                "10:8 `pins` must be 1024 to 16777216, got 16777217",
                "11:13 `half-open` must be 1024 to 1048576, got 1048577",
                "12:12 `udp-idle` must be 1s to 1h, got `61m`",
            ],
        ),
        (
            after(
                "[dataplane]\nquiet-window = \"1s\"\npins = 1024\nhalf-open = 1024\nudp-idle = \
                 \"1s\"",
            ),
            &[],
        ),
        (
            after("[dataplane]\nquiet-window = 7200\npins = \"500000\"\nhalf_open = 65536"),
            &[
                "9:16 `quiet-window` must be a duration with a unit, in quotes, found a whole number / a duration is a whole number and ms, s, m, h or d: \"500ms\", \"2s\"",
                "10:8 `pins` must be a whole number, found a string / write it without quotes",
                "11:1 unknown key `half_open` in the dataplane / did you mean `half-open`?",
            ],
        ),
    ]);
}

#[test]
fn what_becomes_of_flows_is_one_of_two_words() {
    said(&[
        (
            web(
                "listen = [\"192.0.2.1:80\"]\non-down = \"kill\"\nno-backend = \"rejcet\"\naffinity \
                 = \"source\"",
            ),
            &[
                "6:11 unknown `on-down`: `kill` / it may be one of `keep` and `reset`",
                "7:14 unknown `no-backend`: `rejcet` / did you mean \"reject\"?",
                "8:12 unknown `affinity`: `source` / it may be one of `flow`, `client-ip`, `none` and `quic`",
            ],
        ),
        (
            after("[defaults]\non-down = true\nno_backend = \"drop\"\ndrain = \"60s\""),
            &[
                "9:11 `on-down` must be a string, found a truth value",
                "10:1 unknown key `no_backend` in the defaults / did you mean `no-backend`?",
                "11:9 `drain` must be a table, found a string",
            ],
        ),
        (
            web("listen = [\"192.0.2.1:80\"]\ndrain = { grace = \"25h\", then = \"drop\" }"),
            &[
                "6:19 `grace` must be 0s to 1d, got `25h`",
                "6:33 unknown `then`: `drop` / it may be one of `keep` and `reset`",
            ],
        ),
        (
            web(
                "listen = [\"192.0.2.1:80\"]\ndrain = { grace = 60, timeout = \"1s\" }\ngrace = \"1s\"",
            ),
            &[
                "6:19 `grace` must be a duration with a unit, in quotes, found a whole number / a duration is a whole number and ms, s, m, h or d: \"500ms\", \"2s\"",
                "6:23 unknown key `timeout` in a drain / `timeout` belongs in `check`",
                "7:1 unknown key `grace` in a service / `grace` belongs in `drain`",
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
