//! Values that do not go together, and everything that must be said about each.

use super::{HEAD, after, backends, said, web};

#[test]
fn listeners_must_make_sense() {
    said(&[
        (web("listen = []"), &["5:10 `listen` is empty: nothing would reach the service"]),
        (
            web("check = {}"),
            &[
                "4:1 service `web` has no `listen` / write what it is reached under: listen = [\"192.0.2.1:443\"]",
            ],
        ),
        (
            web(
                "listen = [\"192.0.2.1\", \"nowhere:80\", \"[fe80::1%eth0]:80\", \"224.0.0.1:80\", \
                 \"[::ffff:192.0.2.1]:80\"]",
            ),
            &[
                "5:11 `192.0.2.1` has no port / write \"192.0.2.1:443\", or \"192.0.2.1:*\" for any port",
                "5:24 `nowhere` is not an IP address / names are not looked up: write the address itself",
                "5:38 `fe80::1%eth0` is not an IP address / zones (`%eth0`) are for link-local addresses, which are of no use here",
                "5:59 a VIP cannot have a multicast address: `224.0.0.1`",
                "5:75 a VIP cannot have an IPv4 address written as IPv6: `::ffff:192.0.2.1` / write 192.0.2.1",
            ],
        ),
        (
            web("listen = [\"192.0.2.1:80\", \"192.0.2.1:80/tcp\"]"),
            &["5:27 `192.0.2.1:80/tcp` is listed twice"],
        ),
        (
            after(
                "[service.other]\nlisten = [\"192.0.2.1:80\", \
                 \"192.0.2.1:81\"]\nbackend.x.address = \"10.0.0.1\"",
            ),
            &["9:11 `192.0.2.1:80/tcp` belongs to service `web` already"],
        ),
        (
            web("listen = [\"192.0.2.1:*\"]"),
            &[
                "5:11 there is no port to check service `web` on: its listeners take any port / write check = { port = ... }, or check = { type = \"none\" }",
            ],
        ),
    ]);
}

#[test]
fn backends_must_make_sense() {
    said(&[
        (
            backends(""),
            &["6:1 service `web` has no backends / write web1 = { address = \"192.0.2.21\" }"],
        ),
        (
            format!("{HEAD}[service.web]\n"),
            &[
                "4:1 service `web` has no `backend` / write [service.web.backend] and a line for each",
                "4:1 service `web` has no `listen` / write what it is reached under: listen = [\"192.0.2.1:443\"]",
            ],
        ),
        (backends("web1 = {}"), &["7:8 backend `web1` has no `address`"]),
        (
            backends("web1 = { adress = \"10.0.0.1\" }"),
            &["7:10 unknown key `adress` in a backend / did you mean `address`?"],
        ),
        (
            backends("\"we b\" = { address = \"10.0.0.1\" }"),
            &[
                "7:1 `we b` cannot be the name of a backend / a name has at most 63 letters, digits, `.`, `_` and `-`, and begins with a letter or digit",
            ],
        ),
        (
            backends(
                "a.address = \"10.0.0.1:80\"\nb.address = \"10.0.0.0/8\"\nc.address = \
                 \"127.0.0.1\"\nd.address = \"db.example\"",
            ),
            &[
                "7:13 `10.0.0.1:80` is not an IP address / write it without a port",
                "8:13 `10.0.0.0/8` is not an IP address / write it without the prefix length",
                "9:13 a backend cannot have a loopback address: `127.0.0.1`",
                "10:13 `db.example` is not an IP address / names are not looked up: write the address itself",
            ],
        ),
        (
            backends(
                "web1 = { address = \"10.0.0.1\", port = 8080 }\n[defaults]\nforward = \"nat\"",
            ),
            &[
                "9:11 `forward` = `nat` is not supported by this version / it needs address translation; this version has `l2`, `ipip` and `gue`",
            ],
        ),
        (backends("web1 = { address = \"10.0.0.1\", port = 80 }"), &[]),
        (
            backends("web1 = { address = \"10.0.0.1\", port = 8080 }"),
            &[
                "7:39 `l2` cannot change the port to 8080: only the hardware addresses are rewritten / leave `port` out, and let the backend listen on the service's port",
            ],
        ),
        (
            backends("web1 = { address = \"192.0.2.1\" }"),
            &[
                "7:20 `192.0.2.1` is the address of a backend and a VIP / packets would come back to the balancer: write the backend's own address",
            ],
        ),
        (
            backends("web1 = { address = \"10.0.0.1\", weight = 1001 }"),
            &["7:41 `weight` must be 0 to 1000, got 1001"],
        ),
        (
            backends(
                "web1 = { address = \"10.0.0.1\", weight = 0 }\nweb2 = { address = \"10.0.0.2\", \
                 weight = 0 }",
            ),
            &[
                "7:41 every backend of service `web` has weight 0: none would take a flow / give at least one of them a weight, or drain them by `admin`",
            ],
        ),
    ]);
}

#[test]
fn only_udp_can_do_without_a_memory_of_flows() {
    let mistake = "6:12 `affinity` = `none` is for UDP alone, but service `web` has a TCP listener / without a memory of flows, a change of backends would break TCP connections: leave it out, or make the UDP listeners a service of their own";
    said(&[
        (web("listen = [\"192.0.2.1:80\"]\naffinity = \"none\""), &[mistake]),
        (web("listen = [\"192.0.2.1:53/udp\", \"192.0.2.1:53\"]\naffinity = \"none\""), &[mistake]),
        (web("listen = [\"192.0.2.1:53/udp\"]\naffinity = \"none\""), &[]),
        (
            web("listen = [\"192.0.2.1:53/upd\"]\naffinity = \"none\""),
            &[
                "5:11 `192.0.2.1:53/upd` has the unknown protocol `upd` / the protocol is `tcp` (which may be left out) or `udp`",
            ],
        ),
        (after("[defaults]\naffinity = \"none\""), &[]),
    ]);
}

#[test]
fn slots_must_be_a_prime_with_room_for_all_backends() {
    let two = "b.address = \"10.0.0.2\"\nc.address = \"10.0.0.3\"\n";
    let many: String = (0..700)
        .map(|number| {
            let weight = if number == 0 { 1 } else { 1_000 };
            let (high, low) = (number / 256, number % 256);
            format!("b{number} = {{ address = \"10.1.{high}.{low}\", weight = {weight} }}\n")
        })
        .collect();
    said(&[
        (
            after("[dataplane]\nslots = 65536"),
            &["9:9 `slots` must be a prime, got 65536 / primes near it are 65521 and 65537"],
        ),
        (after("[dataplane]\nslots = 100"), &["9:9 `slots` must be 101 to 4194301, got 100"]),
        (
            after("[dataplane]\nslots = -5_000_000_000"),
            &["9:9 `slots` must be 101 to 4194301, got -5000000000"],
        ),
        (
            backends(&format!("{two}[dataplane]\nslots = 199")),
            &[
                "4:10 service `web` has 2 backends, which is too many for 199 slots / `slots` of the service, or of [dataplane], must be a prime of at least 200 (100 a backend)",
            ],
        ),
        (
            backends(&many),
            &[
                "4:10 service `web` has 700 backends, which is too many for 65537 slots / `slots` of the service, or of [dataplane], must be a prime of at least 70000 (100 a backend)",
            ],
        ),
        (
            backends(&format!("{many}[dataplane]\nslots = 70001")),
            &[
                "7:39 weight 1 is impossible: its share of 70001 slots is less than one / the weights of the service add up to 699001: bring them closer together",
            ],
        ),
    ]);
}

#[test]
fn nodes_must_make_sense() {
    said(&[
        (
            "version = 1\n[node.lb1]\naddress = \"192.0.2.1\"\n[node.lb2]\ninterfaces = []\n"
                .to_owned(),
            &[
                "2:1 node `lb1` has no `interfaces` / name those that packets for the VIPs come in by: interfaces = [\"eth0\"]",
                "5:14 `interfaces` is empty: the node would take no packets",
            ],
        ),
        (
            "version = 1\n".to_owned(),
            &[
                "1:1 the file has no node / write [node.NAME] with its interfaces, NAME being the host's name",
            ],
        ),
        (
            after("[node.b]\ninterfaces = [\"eth0\", \"eth1\", \"eth0\"]"),
            &["9:31 interface `eth0` is listed twice"],
        ),
        (
            after("[node.b]\ninterfaces = [\"an-interface-name\", \"a b\", \"\"]"),
            &[
                "9:15 `an-interface-name` is too long for the name of an interface: at most 15 bytes",
                "9:36 `a b` is not the name of an interface",
                "9:43 `` is not the name of an interface",
            ],
        ),
        (
            after("[node.b]\ninterfaces = [\"eth0\"]\naddress = \"192.0.2.1\""),
            &[
                "10:11 `192.0.2.1` is the address of a node and a VIP / a VIP is an address that no host has for itself",
            ],
        ),
        (
            after(
                "[node.b]\ninterfaces = [\"eth0\"]\naddress = \"10.0.0.1\"\n[node.c]\ninterfaces \
                 = [\"eth0\"]\naddress = \"10.0.0.1\"",
            ),
            &[
                "7:16 `10.0.0.1` is the address of a backend and of a node / a balancer cannot be its own backend: it would send the packets on again",
                "13:11 nodes `b` and `c` have the same address",
            ],
        ),
    ]);
}

#[test]
fn checks_must_make_sense() {
    let http = |check: &str| web(&format!("listen = [\"192.0.2.1:80\"]\ncheck = {{ {check} }}"));
    said(&[
        (
            http("path = \"/x\""),
            &[
                "6:18 `path` has no effect on a check of type `tcp` / it needs `type = \"http\"` or \"https\"",
            ],
        ),
        (
            http("type = \"http\", verify = \"none\""),
            &[
                "6:35 `verify` has no effect on a check of type `http` / it needs `type = \"https\"`",
            ],
        ),
        (
            http("type = \"htp\", path = \"/x\""),
            &["6:18 unknown `type`: `htp` / did you mean \"http\"?"],
        ),
        (http("type = \"http\", path = \"x\""), &["6:33 `path` must begin with `/`, got `x`"]),
        (
            http("type = \"http\", path = \"/a b\""),
            &["6:33 `path` must hold no spaces, control or non-ASCII characters, got `/a b`"],
        ),
        (
            http("type = \"http\", host = \"a\\r\\nX: y\""),
            &["6:33 `host` must be a host name or an address, without a port, got `a\\r\\nX: y`"],
        ),
        (
            http("type = \"http\", host = \"a.example:80\""),
            &["6:33 `host` must be a host name or an address, without a port, got `a.example:80`"],
        ),
        (
            http("type = \"http\", expect = [200, 99, 600, \"2xx\"]"),
            &[
                "6:41 `expect` must be 100 to 599, got 99",
                "6:45 `expect` must be 100 to 599, got 600",
                "6:50 `expect` must be a whole number, found a string",
            ],
        ),
        (
            http("type = \"http\", expect = []"),
            &[
                "6:35 `expect` is empty: no answer would be good / leave it out to accept 200 to 399",
            ],
        ),
        (
            http("type = \"https\", verify = \"/ca.pem\""),
            &[
                "6:36 unknown `verify`: `/ca.pem` / a file of certificates is written as { ca = \"/path/to/ca.pem\" }",
            ],
        ),
        (
            http("type = \"https\", verify = { ca = \"ca.pem\" }"),
            &["6:43 `ca` must be an absolute path, got `ca.pem`"],
        ),
        (
            http("type = \"https\", verify = {}"),
            &[
                "6:36 `verify` has no `ca` / it may be \"none\", \"system\" or { ca = \"/path/to/ca.pem\" }",
            ],
        ),
        (http("port = 0"), &["6:18 `port` must be 1 to 65535, got 0"]),
        (
            after("[defaults]\ncheck = { type = \"tcp\", path = \"/x\" }"),
            &[
                "9:32 `path` has no effect on a check of type `tcp` / it needs `type = \"http\"` or \"https\"",
            ],
        ),
        (after("[defaults]\ncheck = true"), &["9:9 `check` must be a table, found a truth value"]),
    ]);
}

#[test]
fn every_mistake_of_every_service_is_found_in_one_run() {
    let text = "\
version = 1
[service.a]
listen = [\"192.0.2.1:80\", \"bad\"]
forward = \"l3\"
[service.a.backend]
a1 = { address = \"192.0.2.1\", weight = 5000 }
a2 = { adress = \"10.0.0.2\" }
[service.b]
listen = [\"192.0.2.1:80\"]
check = { rise = 0, type = \"http\", verify = \"none\" }
[service.b.backend]
b1 = { address = \"10.0.0.300\" }
";
    said(&[(
        text.to_owned(),
        &[
            "1:1 the file has no node / write [node.NAME] with its interfaces, NAME being the host's name",
            "3:27 `bad` has no port / write an address and a port: \"192.0.2.1:443\" or \"[2001:db8::1]:443\"",
            "4:11 unknown `forward`: `l3` / did you mean \"l2\"?",
            "6:18 `192.0.2.1` is the address of a backend and a VIP / packets would come back to the balancer: write the backend's own address",
            "6:40 `weight` must be 0 to 1000, got 5000",
            "7:8 unknown key `adress` in a backend / did you mean `address`?",
            "9:11 `192.0.2.1:80/tcp` belongs to service `a` already",
            "10:18 `rise` must be 1 to 100, got 0",
            "10:45 `verify` has no effect on a check of type `http` / it needs `type = \"https\"`",
            "12:18 `10.0.0.300` is not an IP address / an address is such as 192.0.2.1 or 2001:db8::1",
        ],
    )]);
}
