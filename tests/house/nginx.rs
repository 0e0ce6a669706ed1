//! A service that takes its settings from a file alone: a real nginx, tuned by the domain file that ships.

use std::{env, fmt::Write as _, fs, process::Command};

use super::{
    QUIET,
    house::{House, said},
    stages,
};

/// Returns whether there is an nginx to tune; where it must be there, it is.
fn is_there() -> bool {
    let is_there = Command::new("/usr/sbin/nginx").arg("-v").output().is_ok_and(|output| output.status.success());
    assert!(is_there || env::var("KLOROS_NGINX").is_err(), "nginx is missing: install nginx-light");
    is_there
}

#[track_caller]
fn changed(text: String, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    })
}

/// The files that ship, with nginx as a child of the daemon, a page of its own, and measured more briefly. One value more is allowed
/// than nginx knows.
fn with_nginx() -> House {
    let shipped =
        |name: &str| fs::read_to_string(format!("{}/config/domains/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let house = House::new(QUIET, "");
    let (template, pages) = (house.path("nginx.conf"), house.path("www"));
    let user = Command::new("id").arg("-un").output().unwrap();
    let user = format!("user {};", String::from_utf8(user.stdout).unwrap().trim());
    let domain = changed(
        shipped("nginx.toml"),
        &[
            ("manager = { systemd = { unit = \"nginx.service\" } }", "manager = \"child\""),
            ("apply = \"reload\"\n", ""),
            ("port = 80\n", "port = 0\n"),
            ("\"/etc/kloros/nginx.conf\"", &format!("\"{}\"", template.display())),
            ("\"/etc/kloros/env/nginx.env\"", "\"nginx.env\""),
            ("warmup_s = 1\n", "warmup_s = 0.2\n"),
            ("window_s = 10\n", "window_s = 1\n"),
            ("clients = 32", "clients = 4"),
        ],
    );
    let (before, sendfile) = domain.split_once("[knobs.NGINX_SENDFILE]").unwrap();
    let sendfile = sendfile.replacen("[\"off\", \"on\"]", "[\"off\", \"on\", \"maybe\"]", 1);
    fs::create_dir_all(house.path("domains")).unwrap();
    fs::write(house.path("domains/nginx.toml"), format!("{before}[knobs.NGINX_SENDFILE]{sendfile}")).unwrap();
    fs::write(house.path("dream.yaml"), shipped("nginx.yaml")).unwrap();
    let root = format!("root {};", pages.display());
    let text =
        changed(shipped("nginx.conf"), &[("user www-data;", user.as_str()), ("root /var/www/html;", root.as_str())]);
    fs::write(template, text).unwrap();
    fs::create_dir_all(&pages).unwrap();
    fs::write(pages.join("index.html"), page()).unwrap();
    fs::write(house.path("nginx.env"), "# by hand\nNGINX_MULTI_ACCEPT=off\n").unwrap();
    house
}

/// A page that is worth compressing, but not all alike: a table of numbers.
fn page() -> String {
    let mut text = String::from("<html><table>\n");
    let mut number: u32 = 1;
    for row in 0..500 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let _ = writeln!(text, "<tr><td>{row}</td><td>{}</td><td>a row of the table</td></tr>", number >> 16);
    }
    text + "</table></html>\n"
}

/// Compressing as hard as can be makes pages hardly smaller and takes several times as long. What nginx does not even know never
/// comes so far.
#[test]
fn an_nginx_that_compresses_too_hard_gets_its_old_setting_back_and_what_it_refuses_never_reaches_it() {
    if !is_there() {
        println!("not tried: nginx is not installed");
        return;
    }
    let mut house = with_nginx();
    let before = house.read("nginx.env");
    let measured = house.kloros(&["bench", "nginx", "NGINX_SENDFILE=maybe"]);
    assert!(said(&measured).contains("invalid value \"maybe\" in \"sendfile\" directive"), "{}", said(&measured));

    house.spawn(&[]);
    house.until("the daemon answers", |house| house.kloros(&["status"]).status.success());
    let tried = house.kloros(&["try", "nginx", "NGINX_GZIP_COMP_LEVEL=9", "--no-wait"]);
    assert!(said(&tried).contains("NGINX_GZIP_COMP_LEVEL unset (1) -> 9"), "{}", said(&tried));
    house.until("it is live", |house| house.read("nginx.env").contains("NGINX_GZIP_COMP_LEVEL=9"));
    house.until("it is closed", |house| stages(house) == ["closed"]);
    let verdict = house.json(&["deployments"])[0]["verdict"].clone();
    println!("NGINX_GZIP_COMP_LEVEL 1 -> 9: {} {}", verdict["outcome"], verdict["reason"]);
    assert_eq!(verdict["outcome"], "rollback", "{verdict}");
    assert_eq!(house.read("nginx.env"), before, "the file is as it was, byte for byte");

    let settings = fs::metadata(house.path("nginx.env.nginx.conf")).unwrap().modified().unwrap();
    let refused = house.kloros(&["try", "nginx", "NGINX_SENDFILE=maybe", "--no-wait"]);
    assert!(said(&refused).contains("-> maybe"), "{}", said(&refused));
    house.until("it is closed", |house| stages(house) == ["closed", "closed"]);
    let deployments = house.json(&["deployments"]);
    let verdicts = deployments.as_array().unwrap().iter().map(|each| each["verdict"].to_string());
    let verdicts: Vec<String> = verdicts.filter(|verdict| verdict.contains("maybe")).collect();
    assert!(verdicts[0].contains("does not take the settings"), "{verdicts:?}");
    assert_eq!(house.read("nginx.env"), before);
    let untouched = fs::metadata(house.path("nginx.env.nginx.conf")).unwrap().modified().unwrap();
    assert_eq!(untouched, settings, "nginx was started again");

    assert_eq!(house.interrupt(), Some(0));
    assert_eq!(house.processes(), 0, "an nginx is left");
}
