//! From what is typed to what is printed, with the real server in between.

use clap::CommandFactory;

use super::args::Target;
use super::*;
use crate::api::tests::{at, bench};

const SCREEN: fn() -> Screen = || Screen { styled: false, now: at(2_041) };

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from([&["lb"], words].concat())
}

fn exit_code(words: &[&str]) -> i32 {
    parse(words).expect_err("must not parse").exit_code()
}

/// What `lb --socket SOCKET WORDS` prints.
async fn lb(socket: &std::path::Path, words: &[&str]) -> Result<Printed, Failure> {
    let mut cli = parse(words).expect("must parse");
    cli.global.socket = socket.to_owned();
    perform(cli.verb, &cli.global, &SCREEN()).await
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_parses() {
    for words in [
        "run",
        "run --config a.toml --node lb1",
        "check",
        "check a.toml --node lb1",
        "reload",
        "reload --dry-run",
        "diff new.toml",
        "flows list",
        "flows list web/web1 --source 198.51.100.0/24 --kind half-open --limit 7",
        "flows count",
        "flows count web --kind base",
        "flows count web --kind old",
        "status -o json",
        "-o json status",
        "--no-color --socket x.sock services",
        "backends",
        "backends web",
        "drain web/web1",
        "enable web/web1 --reason done",
        "disable web/web1",
        "weight web/web1 0",
        "weight web/web1 1000 --reason test",
        "version",
        "detach --config a.toml --force",
        "decap --interface eth0 --interface eth1 --from 10.9.0.11 --from fd09::/64",
        "decap --interface eth0 --from 10.9.0.11 --xdp-mode generic --pin-dir /sys/fs/bpf/x",
        "decap --status",
        "decap --remove",
        "backend setup --mode l2 --vip 192.0.2.100 --vip 2001:db8::100 --dry-run",
        "backend setup --mode gue --vip 192.0.2.100 --interface eth0 --from 10.9.0.11",
        "backend setup --undo --dry-run --state-dir /tmp/x",
    ] {
        parse(&words.split(' ').collect::<Vec<_>>()).expect(words);
    }
    parse(&["explain", "tcp 198.51.100.7:40112 > 192.0.2.100:443"]).expect("explain");
}

#[test]
fn what_is_left_out_has_its_default() {
    let cli = parse(&["run"]).expect("must parse");
    assert_eq!(cli.global.output, Format::Table);
    match cli.verb {
        Verb::Run { config, node: None } => assert_eq!(config.to_str(), Some("/etc/lb/lb.toml")),
        other => panic!("{other:?}"),
    }
    let socket = Cli::command()
        .get_arguments()
        .find(|argument| argument.get_id() == "socket")
        .map(|argument| (argument.get_default_values().to_vec(), argument.get_env().is_some()));
    assert_eq!(socket, Some((vec!["/run/lb/lb.sock".into()], true)));
}

#[test]
fn a_weight_keeps_its_target_and_reason() {
    match parse(&["weight", "web/web1", "50", "--reason", "slow disk"]).expect("parses").verb {
        Verb::Weight { target: Target { backend, reason }, weight } => {
            assert_eq!((backend.to_string().as_str(), weight), ("web/web1", 50));
            assert_eq!(reason.as_deref(), Some("slow disk"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for words in [
        "",
        "frobnicate",
        "status extra",
        "status -o yaml",
        "drain",
        "drain web1",
        "drain /web1",
        "weight web/web1",
        "weight web/web1 1001",
        "weight web/web1 -1",
        "weight web/web1 much",
        "diff",
        "flows",
        "flows list --limit 0",
        "flows list --limit 100001",
        "flows list --kind odd",
        "flows list --source 10.0.0.7/8",
        "flows count --limit 1",
        "decap",
        "decap --interface eth0",
        "decap --from 10.9.0.11",
        "decap --interface eth0 --from 10.9.0.11 --status",
        "decap --status --remove",
        "decap --interface eth0 --from ::ffff:10.9.0.11",
        "backend setup --mode l2",
        "backend setup --vip 192.0.2.100",
        "backend setup --mode ipip --vip 192.0.2.100 --interface eth0",
        "backend setup --mode gue --vip 192.0.2.100 --from 10.9.0.11",
        "backend setup --undo --vip 192.0.2.100",
        "explain",
        "explain tcp 192.0.2.1:1",
    ] {
        let words: Vec<_> = words.split_whitespace().collect();
        assert_eq!(exit_code(&words), 2, "{words:?}");
    }
    assert_eq!(exit_code(&["--help"]), 0);
    assert_eq!(exit_code(&["--version"]), 0);
}

#[tokio::test]
async fn options_for_tunnels_are_refused_without_one() {
    let words =
        ["backend", "setup", "--mode", "l2", "--vip", "192.0.2.100", "--from", "10.0.0.0/8"];
    let refused = lb(std::path::Path::new("/nowhere"), &words).await.expect_err("no tunnel");
    assert_eq!(refused.code(), 2);
    assert!(refused.words(false).contains("for tunnels"), "{}", refused.words(false));
}

#[tokio::test]
async fn answers_are_printed_as_table_or_json() {
    let bench = bench().await;
    let status = lb(&bench.socket, &["status"]).await.expect("status").text;
    assert!(status.starts_with("lb1  up 17m21s"), "{status}");
    let services = lb(&bench.socket, &["services"]).await.expect("services").text;
    assert!(services.starts_with("SERVICE"), "{services}");
    let json = lb(&bench.socket, &["backends", "web", "-o", "json"]).await.expect("json").text;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["schema"], "lb.backends/1");
    assert_eq!(json["backends"][1]["id"], "web/web2");
    let flow = "tcp 198.51.100.7:40112 > 192.0.2.100:443";
    let explained = lb(&bench.socket, &["explain", flow]).await.expect("explained").text;
    assert!(explained.ends_with("3 verdict  pass to the kernel, no-service\n"), "{explained}");
    let version = lb(&bench.socket, &["version"]).await.expect("version").text;
    assert_eq!(version.matches(env!("CARGO_PKG_VERSION")).count(), 2, "{version}");
}

#[test]
fn a_bad_prefix_is_named() {
    let error = parse(&["flows", "list", "--source", "10.0.0.0/33"]).expect_err("no prefix");
    assert!(error.to_string().contains("`10.0.0.0/33` is no prefix"), "{error}");
}

#[tokio::test]
async fn flows_are_asked_for_as_they_were_named() {
    let bench = bench().await;
    let text = async |words: &[&str]| lb(&bench.socket, words).await.expect("flows").text;
    let listed = text(&["flows", "list", "web/web2", "--limit", "3", "--kind", "current"]).await;
    for words in ["web2", "new", "1 of 3 flows", "not the number of connections"] {
        assert!(listed.contains(words), "{words} in {listed}");
    }
    let listed = text(&["flows", "list", "--source", "203.0.113.0/24"]).await;
    assert!(listed.starts_with("no flows\n"), "{listed}");
    let json = text(&["flows", "list", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["schema"], &json["total"]), (&"lb.flows/1".into(), &1000.into()));
    let json = text(&["flows", "count", "web/web2", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["services"][0]["backends"][0]["backend"], "web2");
    assert_eq!(json["services"][0]["base"], 1);
    let none = lb(&bench.socket, &["flows", "count", "dns/x"]).await.expect_err("no such service");
    assert_eq!(none.code(), 3);
    assert!(none.words(false).contains("Some(\"x\")"), "{}", none.words(false));
}

#[tokio::test]
async fn a_file_is_compared_by_its_text_and_mistakes_in_it_are_told() {
    let bench = bench().await;
    let file = bench.socket.with_file_name("new.toml");
    let path = file.to_str().expect("a path of letters");
    std::fs::write(&file, "version = 1\n").expect("written");
    let text = lb(&bench.socket, &["diff", path]).await.expect("compared").text;
    assert!(text.starts_with(&format!("{path}: sha256 0123456789ab would change")), "{text}");
    let text = lb(&bench.socket, &["reload", "--dry-run"]).await.expect("compared").text;
    assert!(text.starts_with("/etc/lb/lb.toml: sha256 0123456789ab would change"), "{text}");

    std::fs::write(&file, "bogus = 1\n").expect("written");
    let refused = lb(&bench.socket, &["diff", path]).await.expect_err("a bad file");
    let words =
        format!("error: unknown key `bogus`\n --> {path}:1:1\nlb: the file would be refused\n");
    assert_eq!((refused.code(), refused.words(false)), (6, words));
    let missing = lb(&bench.socket, &["diff", "/nowhere.toml"]).await.expect_err("no file");
    assert_eq!(missing.code(), 1);
    assert!(missing.words(false).starts_with("lb: failed to read /nowhere.toml: "));
}

#[tokio::test]
async fn edits_say_what_they_should() {
    let bench = bench().await;
    for (words, note) in [
        ("drain web/web1", "* web/web1: admin drain (the file says ready), by "),
        ("disable web/web1", "* web/web1: admin disable (the file says ready), by "),
        ("enable web/web1", "* web/web1: admin ready (the file says ready), by "),
        ("weight web/web1 7", "* web/web1: weight 7 (the file says 100), by "),
    ] {
        let words: Vec<_> = words.split(' ').chain(["--reason", "tests"]).collect();
        let text = lb(&bench.socket, &words).await.expect("edited").text;
        assert!(text.contains(note) && text.ends_with(" 41s ago: tests\n"), "{text}");
    }
}

#[tokio::test]
async fn failures_have_their_exit_codes_and_words() {
    let bench = bench().await;
    let failure = async |words: &[&str]| lb(&bench.socket, words).await.expect_err("must fail");

    let none = failure(&["drain", "web/web9"]).await;
    assert_eq!((none.code(), none.words(false)), (3, "lb: no backend web/web9\n".to_owned()));
    let none = failure(&["backends", "dns"]).await;
    let words = "lb: no service `dns`; the services are web\n".to_owned();
    assert_eq!((none.code(), none.words(false)), (3, words));
    let bad = failure(&["explain", "sctp x > y"]).await;
    assert_eq!(bad.code(), 2);
    let refused = failure(&["reload"]).await;
    let words = "error: unknown key `bogus`\n --> lb.toml:6:1\nlb: the file was refused, the old \
                 configuration still runs\n";
    assert_eq!((refused.code(), refused.words(false)), (6, words.to_owned()));

    let gone = bench.socket.with_file_name("other.sock");
    let gone = lb(&gone, &["status"]).await.expect_err("nobody there");
    assert_eq!(gone.code(), 4);
    assert!(gone.words(false).starts_with("lb: no daemon runs here"), "{}", gone.words(false));
}

#[tokio::test]
async fn the_version_is_told_without_a_daemon_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let printed = lb(&directory.path().join("lb.sock"), &["version"]).await.expect("printed");
    assert!(printed.text.contains("daemon  unknown: no daemon runs here"), "{}", printed.text);
    assert!(printed.failure.is_none());
}

#[tokio::test]
async fn a_host_is_only_cleaned_while_no_daemon_answers() {
    let bench = bench().await;
    let busy = host::nobody_answers(&bench.socket).await.expect_err("a daemon answers");
    assert!(busy.words(false).contains("stop it first, or use --force"), "{}", busy.words(false));
    let socket = bench.socket.clone();
    bench.server.shutdown().await;
    host::nobody_answers(&socket).await.expect("nobody answers any more");
}

#[test]
fn an_error_is_printed_with_its_causes_once() {
    let failure = Failure::from(anyhow::anyhow!("no such file").context("failed to read it"));
    assert_eq!(failure.words(false), "lb: failed to read it: no such file\n");
    assert_eq!(failure.code(), 1);
}
