//! How a domain file says who runs its service, and when it is ready.

use kloros_actors::facts::{Manager, ReadBack, ReadyBy, Scope};

use super::*;

const LAB: &str = include_str!("../../../config/domains/lab.toml");

const READY: &str = "http_path = \"/health\", within_s = 15, passes = 2";

const MANAGER: &str = "manager = \"child\"";

fn lab(from: &str, to: &str) -> Home {
    assert!(LAB.contains(from), "{from:?} is not there");
    Home::new(&[("domains/lab.toml", &LAB.replacen(from, to, 1))])
}

#[track_caller]
fn check_refused(from: &str, to: &str, says: &str) {
    let complaints = lab(from, to).read(&[]).unwrap_err();
    assert!(complaints.contains(says), "{to}: {complaints}");
}

#[test]
fn a_service_is_ready_by_one_way_and_by_no_other() {
    for (ready, says) in [
        ("within_s = 15", "service.ready: names no way to find out"),
        ("tcp = true, notify = true, within_s = 15", "service.ready: names tcp and notify"),
        ("tcp = false, within_s = 15", "service.ready: names no way to find out"),
        ("notify = true, within_s = 15, passes = 2", "service.ready.passes: what is said once counts once"),
        ("log_line = \"\", within_s = 15", "service.ready.log_line"),
        ("log_line = \"a\\nb\", within_s = 15", "service.ready.log_line"),
        ("command = [\"check\", \"{url}\"], within_s = 15", "unknown placeholder {url}"),
        ("command = [], within_s = 15", "service.ready.command: must have 1 or more entries"),
        ("command = [\"\"], within_s = 15", "the program is empty"),
        ("tcp = true, within_s = 15, bake_s = -1", "service.ready.bake_s: -1 is outside 0 to 3600"),
        ("tcp = true, within_s = 15, bake_s = nan", "service.ready.bake_s"),
        ("tcp = 1, within_s = 15", "service.ready.tcp"),
        ("tcp = true", "service.ready.within_s: is missing"),
    ] {
        check_refused(READY, ready, says);
    }
    for (ready, by) in [
        ("tcp = true, within_s = 15", ReadyBy::Tcp),
        ("notify = true, within_s = 15, bake_s = 2.5", ReadyBy::Notify),
        ("log_line = \"listening on\", within_s = 15", ReadyBy::LogLine("listening on")),
        ("http_path = \"/h\", within_s = 15", ReadyBy::Http("/h")),
    ] {
        let settings = lab(READY, ready).settings();
        assert_eq!(settings.catalogue.domains["lab"].service.ready.by(), by);
    }
    let settings = lab(READY, "command = [\"check\", \"{port}\"], within_s = 15, passes = 3").settings();
    let ready = &settings.catalogue.domains["lab"].service.ready;
    assert_eq!((ready.by(), ready.passes), (ReadyBy::Command(&["check".to_owned(), "{port}".to_owned()]), 3));
}

#[test]
fn a_unit_is_named_exactly_or_not_at_all() {
    for (unit, says) in [
        ("vllm*.service", "no pattern, path or list is taken"),
        ("vllm?.service", "no pattern, path or list is taken"),
        ("[a-z].service", "no pattern, path or list is taken"),
        ("a.service;rm", "is no service of systemd"),
        ("a;rm.service", "no pattern, path or list is taken"),
        ("a.service b.service", "no pattern, path or list is taken"),
        ("vllm@.service", "is a template: name the instance"),
        ("a@b@c.service", "no pattern, path or list is taken"),
        ("vllm.socket", "is no service of systemd"),
        ("vllm", "is no service of systemd"),
        ("../vllm.service", "is no service of systemd"),
        ("/etc/vllm.service", "no pattern, path or list is taken"),
        (".service", "is no service of systemd"),
    ] {
        let unit = format!("manager = {{ systemd = {{ unit = {unit:?} }} }}");
        check_refused(MANAGER, &unit, says);
    }
    let long = format!("manager = {{ systemd = {{ unit = \"{}.service\" }} }}", "a".repeat(250));
    check_refused(MANAGER, &long, "no pattern, path or list is taken");
    check_refused(MANAGER, "manager = { systemd = { unit = \"a.service\" } }", "service.port: 0 lets kloros choose");
    let scope = "manager = { systemd = { unit = \"a.service\", scope = \"root\" } }";
    check_refused(MANAGER, scope, "service.manager.systemd.scope");
    let port = "port = 0                     #";
    for (unit, scope) in [("vllm.service", Scope::System), ("chat@gpu-0.service", Scope::User)] {
        let manager = format!("manager = {{ systemd = {{ unit = {unit:?}, scope = {:?} }} }}", scope.label());
        let text = LAB.replacen(MANAGER, &manager, 1).replacen(port, "port = 8000 #", 1);
        let settings = Home::new(&[("domains/lab.toml", &text)]).settings();
        let expected = Manager::Systemd { unit: unit.to_owned(), scope };
        assert_eq!(settings.catalogue.domains["lab"].service.manager, expected);
        // What only a child of kloros says is not heard of a unit.
        for ready in ["notify = true, within_s = 15", "log_line = \"up\", within_s = 15"] {
            let complaints = Home::new(&[("domains/lab.toml", &text.replacen(READY, ready, 1))]).read(&[]).unwrap_err();
            assert!(complaints.contains("is heard of children of kloros alone"), "{complaints}");
        }
    }
}

#[test]
fn how_long_a_restart_and_a_stop_may_take_is_the_services_to_say() {
    let settings = Home::new(&[("domains/lab.toml", LAB)]).settings();
    let service = &settings.catalogue.domains["lab"].service;
    assert_eq!((service.restart_within_s, service.stop_within_s), (300, 30));
    let more = format!("{MANAGER}\nrestart_within_s = 900\nstop_within_s = 120");
    let settings = lab(MANAGER, &more).settings();
    let service = &settings.catalogue.domains["lab"].service;
    assert_eq!((service.restart_within_s, service.stop_within_s), (900, 120));
    check_refused(
        MANAGER,
        &format!("{MANAGER}\nrestart_within_s = 0"),
        "service.restart_within_s: 0 is outside 1 to 86400",
    );
    let told = lab("{ http_json = \"/config\" }", "{ command = [\"show\", \"{port}\"] }").settings();
    let expected = ReadBack::Command(vec!["show".to_owned(), "{port}".to_owned()]);
    assert_eq!(told.catalogue.domains["lab"].service.read_back, expected);
    check_refused("{ http_json = \"/config\" }", "{ command = [\"\"] }", "the program is empty");
}
