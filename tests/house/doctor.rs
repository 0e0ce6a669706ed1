//! `kloros doctor` and what a person is told of settings that cannot be used, with the real program.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use super::house::{House, said};

/// Returns how the program ended and its findings about `about`, each of them whole; the two go together.
#[track_caller]
fn looked(house: &House, about: &str) -> (Option<i32>, Vec<Value>) {
    let output = house.kloros(&["doctor", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = told["findings"].as_array().unwrap();
    for finding in findings {
        assert!(["well", "note", "bad"].contains(&finding["how"].as_str().unwrap()), "{finding}");
        assert!(!finding["about"].as_str().unwrap().is_empty() && !finding["what"].as_str().unwrap().is_empty());
        assert!(finding["how"] != "bad" || finding["fix"].is_string(), "{finding} leaves a person alone");
    }
    let bad = findings.iter().filter(|finding| finding["how"] == "bad").count();
    assert_eq!((told["bad"].as_u64(), told["well"].as_bool()), (Some(bad as u64), Some(bad == 0)));
    assert_eq!(output.status.code(), Some(i32::from(bad > 0)), "{told}");
    let about = findings.iter().filter(|finding| finding["about"] == about).cloned().collect();
    (output.status.code(), about)
}

#[test]
fn a_home_that_is_in_order_is_said_to_be_and_nothing_is_made_in_it() {
    let house = House::new("", "");
    for (about, hows) in [("settings", ["well", "well"]), ("home", ["well", "well"]), ("daemon", ["note", "well"])] {
        let (_, findings) = looked(&house, about);
        assert!(!findings.is_empty(), "nothing is said of {about}");
        assert!(findings.iter().all(|each| hows.contains(&each["how"].as_str().unwrap())), "{findings:?}");
    }
    let mut there: Vec<_> = fs::read_dir(house.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    // Where turns at measuring are taken belongs to the whole machine, and whoever looks there first makes it; in a test it lies here.
    there.retain(|name| name != "lease");
    assert_eq!(there, ["kloros.toml"]);
}

#[test]
fn settings_that_cannot_be_used_are_named_with_file_and_line() {
    let house = House::new("", "");
    fs::write(house.path("kloros.toml"), "[validator]\nkeep_frm = 0.02\n").unwrap();
    let (code, findings) = looked(&house, "settings");
    assert_eq!((code, findings.len()), (Some(1), 1), "{findings:?}");
    let what = findings[0]["what"].as_str().unwrap();
    assert!(what.contains("kloros.toml:2: validator.keep_frm"), "{what}");
    assert_eq!(findings[0]["how"], "bad");
}

#[test]
fn a_webhook_that_cannot_be_used_is_a_mistake_of_the_settings_and_its_address_stays_a_secret() {
    let mut house = House::new("", "");
    fs::create_dir(house.path("conf.d")).unwrap();
    fs::write(house.path("conf.d/hook.toml"), "[notices]\nurl_file = \"hook\"\n").unwrap();
    fs::write(house.path("hook"), "http://127.0.0.1:9/very-secret\n").unwrap();
    fs::set_permissions(house.path("hook"), fs::Permissions::from_mode(0o644)).unwrap();
    let checked = house.kloros(&["check-config"]);
    assert_eq!(checked.status.code(), Some(1));
    let words = said(&checked);
    assert!(words.contains("hook.toml:2: notices.url_file: ") && words.contains("chmod 600"), "{words}");
    assert!(!words.contains("secret"), "{words}");
    let (code, findings) = looked(&house, "settings");
    assert_eq!((code, &findings[0]["how"]), (Some(1), &Value::from("bad")));
    house.spawn(&[]);
    assert_eq!(house.ended(), Some(78));
    fs::set_permissions(house.path("hook"), fs::Permissions::from_mode(0o600)).unwrap();
    let checked = house.kloros(&["check-config"]);
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
}
