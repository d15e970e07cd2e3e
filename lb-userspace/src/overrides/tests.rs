use super::*;
use crate::config::{self, AdminState, Backend, Config};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a second of this century")
}

fn server(weight: u16, admin: AdminState) -> Backend {
    Backend {
        address: "192.0.2.21".parse().expect("an address"),
        weight,
        admin,
        backup: false,
        slow_start: None,
        server_id: None,
    }
}

fn file() -> Backend {
    server(100, AdminState::Ready)
}

fn id(text: &str) -> BackendId {
    text.parse().expect("a backend")
}

fn set_admin(admin: AdminState) -> Edit {
    Edit { admin: Some(admin), ..Edit::default() }
}

fn set_weight(weight: u16) -> Edit {
    Edit { weight: Some(weight), ..Edit::default() }
}

fn with_reason(edit: Edit, reason: &str) -> Edit {
    Edit { reason: Some(reason.to_owned()), ..edit }
}

/// A configuration with one service, `web`.
fn config(backends: &[(&str, Backend)]) -> Config {
    let text = "version = 1\n\
        [node.lb1]\ninterfaces = [\"eth0\"]\n\
        [service.web]\nlisten = [\"192.0.2.100:443\"]\n\
        [service.web.backend]\nweb1 = { address = \"192.0.2.21\" }\n";
    let loaded = config::parse("lb.toml".as_ref(), text, &config::NodeChoice::Any);
    let mut config = loaded.expect("the text is right").config;
    let web = config.services.get_mut("web").expect("the text has it");
    web.backends = backends.iter().map(|(name, b)| ((*name).to_owned(), b.clone())).collect();
    config
}

#[test]
fn a_first_edit_makes_an_override_that_remembers_the_file() {
    let wish = with_reason(set_admin(AdminState::Drain), "kernel");
    assert_eq!(
        edit(&file(), None, &wish, "alice", at(7)),
        Some(Override {
            admin: Some(AdminState::Drain),
            admin_in_file: Some(AdminState::Ready),
            weight: None,
            weight_in_file: None,
            reason: Some("kernel".to_owned()),
            by: "alice".to_owned(),
            at: at(7),
        })
    );
}

#[test]
fn an_edit_leaves_the_other_field_alone() {
    let drained = edit(&file(), None, &set_admin(AdminState::Drain), "alice", at(1));
    let both = edit(&file(), drained.as_ref(), &set_weight(50), "bob", at(2)).expect("two fields");
    assert_eq!((both.admin, both.weight), (Some(AdminState::Drain), Some(50)));
    assert_eq!((both.by.as_str(), both.at), ("bob", at(2)));
}

#[test]
fn an_edit_to_what_the_file_says_takes_the_override_away() {
    let drained = edit(&file(), None, &set_admin(AdminState::Drain), "alice", at(1));
    assert_eq!(edit(&file(), drained.as_ref(), &set_admin(AdminState::Ready), "bob", at(2)), None);
    assert_eq!(edit(&file(), None, &set_weight(100), "bob", at(2)), None);

    let both = edit(&file(), drained.as_ref(), &set_weight(50), "alice", at(2));
    let rest = edit(&file(), both.as_ref(), &set_admin(AdminState::Ready), "alice", at(3));
    let rest = rest.expect("the weight is still overridden");
    assert_eq!((rest.admin, rest.admin_in_file, rest.weight), (None, None, Some(50)));
}

#[test]
fn a_reason_stays_with_who_gave_it() {
    let wish = with_reason(set_admin(AdminState::Drain), "kernel");
    let drained = edit(&file(), None, &wish, "alice", at(1));
    let again = edit(&file(), drained.as_ref(), &set_weight(50), "alice", at(2));
    assert_eq!(again.and_then(|o| o.reason).as_deref(), Some("kernel"));
    let other = edit(&file(), drained.as_ref(), &set_weight(50), "bob", at(2));
    assert_eq!(other.expect("overridden").reason, None);
    let new = edit(&file(), drained.as_ref(), &with_reason(set_weight(50), "slow"), "bob", at(2));
    assert_eq!(new.and_then(|o| o.reason).as_deref(), Some("slow"));
    let none = edit(&file(), drained.as_ref(), &with_reason(set_weight(50), ""), "alice", at(2));
    assert_eq!(none.expect("overridden").reason, None);
}

#[test]
fn an_edit_of_nothing_changes_nothing() {
    let drained = edit(&file(), None, &set_admin(AdminState::Drain), "alice", at(1));
    assert_eq!(edit(&file(), drained.as_ref(), &Edit::default(), "bob", at(2)), drained);
    assert_eq!(edit(&file(), None, &with_reason(Edit::default(), "why"), "bob", at(2)), None);
}

/// `web/web1` with weight 50 and drained, made against [`file`].
fn overridden() -> BTreeMap<BackendId, Override> {
    let drained = edit(&file(), None, &set_admin(AdminState::Drain), "alice", at(1));
    let both = edit(&file(), drained.as_ref(), &set_weight(50), "alice", at(2));
    both.into_iter().map(|entry| (id("web/web1"), entry)).collect()
}

#[test]
fn a_reload_that_touches_other_things_keeps_overrides() {
    let old = config(&[("web1", file())]);
    let new = config(&[("web1", file()), ("web2", server(7, AdminState::Drain))]);
    assert_eq!(reconcile(&old, &new, overridden()), (overridden(), Vec::new()));
}

#[test]
fn the_file_wins_where_it_changed_the_same_field() {
    let old = config(&[("web1", file())]);
    let new = config(&[("web1", server(80, AdminState::Ready))]);
    let (kept, lines) = reconcile(&old, &new, overridden());
    let entry = &kept[&id("web/web1")];
    assert_eq!((entry.admin, entry.weight), (Some(AdminState::Drain), None));
    assert_eq!(
        lines,
        ["web/web1: weight 50 by alice is dropped: the file changed 100 -> 80".to_owned()]
    );
}

#[test]
fn an_override_goes_when_the_file_takes_it_over_or_the_backend_is_gone() {
    let old = config(&[("web1", file())]);
    let same = config(&[("web1", server(50, AdminState::Drain))]);
    let (kept, lines) = reconcile(&old, &same, overridden());
    assert!(kept.is_empty());
    assert_eq!(lines.len(), 2, "{lines:?}");

    let gone = config(&[("web2", file())]);
    let (kept, lines) = reconcile(&old, &gone, overridden());
    assert!(kept.is_empty());
    assert_eq!(
        lines,
        ["web/web1: admin drain, weight 50 by alice is dropped: the file has no such backend any \
          more"
            .to_owned()]
    );
}

#[test]
fn a_change_made_while_the_daemon_was_away_is_seen_from_the_stored_values() {
    let now = config(&[("web1", server(80, AdminState::Ready))]);
    let (kept, lines) = reconcile(&now, &now, overridden());
    assert_eq!(kept[&id("web/web1")].weight, None);
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn an_override_without_the_files_value_is_judged_by_the_old_configuration() {
    let mut overrides = overridden();
    let entry = overrides.get_mut(&id("web/web1")).expect("overridden");
    (entry.admin_in_file, entry.weight_in_file) = (None, None);
    let old = config(&[("web1", file())]);
    let new = config(&[("web1", server(80, AdminState::Ready))]);
    let (kept, lines) = reconcile(&old, &new, overrides);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(kept[&id("web/web1")].admin_in_file, Some(AdminState::Ready));
}

#[test]
fn what_is_saved_is_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&directory.path().join("state"));
    assert_eq!(store.load().expect("no file is no override"), BTreeMap::new());
    store.save(&overridden()).expect("saved");
    assert_eq!(store.load().expect("loaded"), overridden());
    store.save(&BTreeMap::new()).expect("saved over");
    assert_eq!(store.load().expect("loaded"), BTreeMap::new());
    let names: Vec<_> = fs::read_dir(directory.path().join("state"))
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["overrides.json"], "no temporary file is left");
}

#[test]
fn a_file_that_cannot_be_understood_is_named_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path());
    for text in [
        "",
        "{\"schema\":\"lb.overrides/1\",\"overr",
        "{\"schema\":\"lb.overrides/2\",\"overrides\":{}}",
        "{\"schema\":\"lb.overrides/1\",\"overrides\":{\"web1\":{\"by\":\"a\",\"at\":\"x\"}}}",
    ] {
        fs::write(store.path(), text).expect("written");
        let error = format!("{:#}", store.load().expect_err(text));
        assert!(error.contains("overrides.json"), "{error}");
        assert_eq!(fs::read_to_string(store.path()).expect("still there"), text);
    }
}

#[test]
fn a_save_that_fails_names_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("written");
    let error = Store::open(&file.join("state")).save(&overridden()).expect_err("no directory");
    assert!(format!("{error:#}").contains("overrides.json"), "{error:#}");
}
