use std::net::SocketAddr;

use kloros_actors::facts::Autonomy;

use super::*;

#[track_caller]
fn main_file_refused(text: &str, complaints: &[&str]) {
    refused(&[("kloros.toml", text)], complaints);
}

#[track_caller]
fn variables_refused(variables: &[(&str, &str)], complaints: &[&str]) {
    assert_eq!(Home::new(&[]).read(variables).unwrap_err().lines().collect::<Vec<_>>(), complaints);
}

#[test]
fn the_embedded_file_says_exactly_what_each_section_defaults_to() {
    let mut written: toml::Table = include_str!("../../../config/kloros.toml").parse().unwrap();
    let (shell, measuring) = (written.remove("shell").unwrap(), written.remove("measuring").unwrap());
    let (conversation, following) = (written.remove("conversation").unwrap(), written.remove("reload").unwrap());
    let reached = written.remove("api").unwrap();
    assert_eq!(written.remove("notices").unwrap(), toml::Value::try_from(Notices::default()).unwrap());
    assert_eq!(written.remove("traces").unwrap(), toml::Value::try_from(Traces::default()).unwrap());
    assert_eq!(written, toml::Table::try_from(Config::default()).unwrap());
    assert_eq!(shell, toml::Value::try_from(Shell::default()).unwrap());
    assert_eq!(measuring, toml::Value::try_from(Measuring::default()).unwrap());
    assert_eq!(conversation, toml::Value::try_from(Conversation::default()).unwrap());
    assert_eq!(following, toml::Value::try_from(Following::default()).unwrap());
    assert_eq!(reached, toml::Value::try_from(Reached::default()).unwrap());
}

#[test]
fn every_key_of_the_embedded_file_has_a_comment_above_it() {
    let mut before = "";
    for line in include_str!("../../../config/kloros.toml").lines() {
        assert!(line.is_empty() || line.starts_with('#') || before.starts_with('#') || line.starts_with('['), "{line}");
        before = line;
    }
}

#[test]
fn without_any_file_the_defaults_are_in_force_and_the_lab_is_tuned() {
    let (settings, files) = Home::new(&[]).read(&[]).unwrap();
    assert_eq!(settings.rooms, Config::default());
    assert_eq!(settings.shell, Shell::default());
    assert_eq!(settings.catalogue.domains.keys().collect::<Vec<_>>(), ["lab"]);
    assert_eq!(settings.catalogue.experiments.keys().collect::<Vec<_>>(), ["lab_tuning"]);
    assert_eq!(files, Vec::<PathBuf>::new());
}

#[test]
fn the_environment_wins_over_the_file_which_wins_over_the_defaults() {
    let text = "[validator]\nalpha = 0.1\nblocks_min = 8\n[curiosity.pressure]\nmax_candidates = 2\n";
    let home = Home::new(&[("kloros.toml", text)]);
    let environment = [
        ("KLOROS__VALIDATOR__ALPHA", "0.2"),
        ("KLOROS__GATE__AUTONOMY", "1"),
        ("KLOROS__SHELL__METRICS_ADDRESS", "127.0.0.1:1"),
        ("KLOROS__SHELL__CHAOS", "true"),
        ("KLOROS__CURIOSITY__PRESSURE__MAX_GENERATIONS", "9"),
        ("KLOROS__GPU__SAMPLE_EVERY_S", "5"),
        ("KLOROS_HOME", "not ours"),
        ("PATH", "/bin"),
    ];
    let (settings, files) = home.read(&environment).unwrap();
    let rooms = settings.rooms;
    assert_eq!((rooms.validator.alpha, rooms.validator.blocks_min, rooms.validator.blocks_max), (0.2, 8, 60));
    assert_eq!((rooms.curiosity.pressure.max_candidates, rooms.curiosity.pressure.max_generations), (2, 9));
    assert_eq!((rooms.gate.autonomy, rooms.gpu.sample_every_s), (Autonomy::Cautious, 5.0));
    assert_eq!(settings.shell.metrics_address, SocketAddr::from(([127, 0, 0, 1], 1)));
    assert!(settings.shell.chaos);
    assert_eq!(files, [home.path().join("kloros.toml")]);
}

#[test]
fn a_file_that_is_named_is_read_instead_and_must_be_there() {
    let home = Home::new(&[("kloros.toml", "[gate]\nautonomy = 0\n"), ("else/k.toml", "[gate]\nautonomy = 3\n")]);
    let load = |file: &str| read(home.path(), Some(&home.path().join(file)), []);
    assert_eq!(load("else/k.toml").unwrap().0.rooms.gate.autonomy, Autonomy::Full);
    let complaints = load("missing.toml").unwrap_err();
    assert_eq!(complaints.len(), 1);
    assert!(complaints.to_string().contains("missing.toml: cannot be read: "));
}

#[test]
fn a_value_of_another_type_is_refused_rather_than_turned_into_the_right_one() {
    for (value, complaint) in [
        ("2.7", "expected a whole number, found 2.7"),
        ("true", "expected a whole number, found true"),
        ("\"250\"", "expected a whole number, found the text \"250\""),
        ("1e9", "expected a whole number, found 1000000000.0"),
        ("nan", "expected a whole number, found NaN"),
        ("-1", "invalid value: integer `-1`, expected u32"),
        ("4294967296", "invalid value: integer `4294967296`, expected u32"),
        ("99999999999999999999", "expected a whole number, found 99999999999999999999, which is too large"),
        ("[250]", "expected a whole number, found a list"),
        ("{ a = 1 }", "expected a whole number, found a table"),
        ("2020-01-01", "expected a whole number, found a date"),
    ] {
        let expected = format!("kloros.toml:2: observer.warmup_readings: {complaint}");
        main_file_refused(&format!("[observer]\nwarmup_readings = {value}\n"), &[&expected]);
    }
}

#[test]
fn a_decimal_number_may_be_written_without_a_point_but_must_be_finite() {
    let home = Home::new(&[("kloros.toml", "[observer]\nmatters_from = 7\n")]);
    assert_eq!(home.settings().rooms.observer.matters_from, 7.0);
    for value in ["nan", "inf", "-inf", "true", "\"7\""] {
        let text =
            Home::new(&[("kloros.toml", &format!("[observer]\nmatters_from = {value}\n"))]).read(&[]).unwrap_err();
        assert!(text.starts_with("kloros.toml:2: observer.matters_from: expected a finite number, found "), "{text}");
    }
}

#[test]
fn a_flag_in_quotes_and_a_number_for_a_flag_are_refused() {
    main_file_refused(
        "[shell]\nchaos = \"true\"\nmetrics_beyond_loopback = 1\nlog = 3\nmetrics_address = \"here\"\n",
        &[
            "kloros.toml:2: shell.chaos: expected true or false, found the text \"true\"",
            "kloros.toml:3: shell.metrics_beyond_loopback: expected true or false, found 1",
            "kloros.toml:4: shell.log: expected a text, found 3",
            "kloros.toml:5: shell.metrics_address: invalid socket address syntax",
        ],
    );
}

#[test]
fn an_unknown_key_is_answered_by_the_nearest_known_one() {
    main_file_refused(
        "keep_from = 0.1\n[validator]\nkeep_form = 0.1\nmatters_from = 3.0\n[validatr]\nalpha = 0.1\n[curiosity.pressure]\nmax_candidate = 1\n",
        &[
            "kloros.toml:1: keep_from: unknown key; did you mean validator.keep_from?",
            "kloros.toml:3: validator.keep_form: unknown key; did you mean keep_from?",
            "kloros.toml:4: validator.matters_from: unknown key; did you mean observer.matters_from?",
            "kloros.toml:5: validatr: unknown key; did you mean validator?",
            "kloros.toml:8: curiosity.pressure.max_candidate: unknown key; did you mean max_candidates?",
        ],
    );
}

#[test]
fn all_problems_are_said_at_once_wherever_they_stand() {
    let files = [
        ("kloros.toml", "gate = 3\n[observer]\nclear_s = -9.0\nwarmup_reading = 1\n[validator]\nalpha = 0.9\n"),
        ("domains/one.toml", "isolation = \"shadow\"\nisolation = \"shadow\"\n"),
        ("dream.yaml", "experiments: [\n"),
    ];
    let environment = [("KLOROS__GATE__AUTONOMY", "7"), ("KLOROS__DREAM__GAIN_MIN", "-1")];
    let text = Home::new(&files).read(&environment).unwrap_err();
    let places: Vec<&str> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let expected = [
        "domains/one.toml:2",
        "dream.yaml:2",
        "kloros.toml:1",
        "kloros.toml:3",
        "kloros.toml:4",
        "kloros.toml:6",
        "KLOROS__DREAM__GAIN_MIN",
        "KLOROS__GATE__AUTONOMY",
    ];
    assert_eq!(places, expected, "{text}");
}

#[test]
fn a_value_out_of_its_range_is_blamed_on_the_line_or_variable_that_set_it() {
    main_file_refused(
        "[gate]\nautonomy = 4\n\n[validator]\nundo_below = 0.5\n",
        &[
            "kloros.toml:2: gate.autonomy: 4 is no autonomy level: use 0, 1, 2 or 3",
            "kloros.toml:5: validator.undo_below: 0.5 is outside -0.99 to 0",
        ],
    );
    variables_refused(
        &[("KLOROS__VALIDATOR__ALPHA", "0.9"), ("KLOROS__CURIOSITY__PRESSURE__MAX_CANDIDATES", "0")],
        &[
            "KLOROS__CURIOSITY__PRESSURE__MAX_CANDIDATES: curiosity.pressure: 0 is outside 1 to 1000",
            "KLOROS__VALIDATOR__ALPHA: validator.alpha: 0.9 is outside 0.0001 to 0.5",
        ],
    );
}

#[test]
fn a_default_that_no_longer_fits_is_said_to_be_one() {
    main_file_refused(
        "[observer]\ngather_s = 90.0\n",
        &[
            "kloros.toml: observer.together_s: 60 is outside 90 to 86400 (its default, which another setting does not go with)",
        ],
    );
}

#[test]
fn a_variable_is_read_by_the_type_of_the_setting_it_overrides() {
    variables_refused(
        &[
            ("KLOROS__SHELL__CHAOS", "yes"),
            ("KLOROS__OBSERVER__WARMUP_READINGS", "2.7"),
            ("KLOROS__OBSERVER__MATTERS_FROM", "nan"),
            ("KLOROS__OBSERVER__SERIES_MAX", "-1"),
            ("KLOROS__GATE__AUTONOMY", "true"),
            ("KLOROS__DREAM__LOT_MAX", ""),
        ],
        &[
            "KLOROS__DREAM__LOT_MAX: dream.lot_max: expected a whole number, found \"\"",
            "KLOROS__GATE__AUTONOMY: gate.autonomy: expected a whole number, found \"true\"",
            "KLOROS__OBSERVER__MATTERS_FROM: observer.matters_from: expected a finite number, found \"nan\"",
            "KLOROS__OBSERVER__SERIES_MAX: observer.series_max: invalid value: integer `-1`, expected u32",
            "KLOROS__OBSERVER__WARMUP_READINGS: observer.warmup_readings: expected a whole number, found \"2.7\"",
            "KLOROS__SHELL__CHAOS: shell.chaos: expected true or false, found \"yes\"",
        ],
    );
}

#[test]
fn a_variable_that_overrides_nothing_is_refused_by_name() {
    variables_refused(
        &[("KLOROS__VALIDATOR__ALFA", "0.1"), ("KLOROS__gate__autonomy", "1"), ("KLOROS__GATE", "1"), ("KLOROS__", "")],
        &[
            "KLOROS__: overrides no setting; unset it",
            "KLOROS__GATE: overrides no setting; unset it",
            "KLOROS__VALIDATOR__ALFA: overrides no setting; did you mean KLOROS__VALIDATOR__ALPHA?",
            "KLOROS__gate__autonomy: overrides no setting; unset it",
        ],
    );
}

#[test]
fn an_empty_file_and_one_with_a_byte_order_mark_are_in_order() {
    for text in ["", "\u{feff}", "# nothing\r\n", "\u{feff}[gate]\r\nautonomy = 2\r\n"] {
        assert_eq!(Home::new(&[("kloros.toml", text)]).settings().rooms, Config::default(), "{text:?}");
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_read_or_refused_but_never_misread() {
    let whole = include_str!("../../../config/kloros.toml");
    for end in (0..whole.len()).step_by(97).filter(|end| whole.is_char_boundary(*end)) {
        if let Err(text) = Home::new(&[("kloros.toml", &whole[..end])]).read(&[]) {
            let last = whole[..end].lines().count();
            assert!(text.lines().all(|line| line.starts_with(&format!("kloros.toml:{last}: "))), "{end}: {text}");
        }
    }
}

#[test]
fn a_folder_or_a_dangling_link_in_place_of_the_file_is_refused() {
    let home = Home::new(&[("kloros.toml/inner", "")]);
    assert_eq!(home.read(&[]).unwrap_err(), "kloros.toml: is no regular file");
    let home = Home::new(&[]);
    std::os::unix::fs::symlink("nowhere", home.path().join("kloros.toml")).unwrap();
    assert!(home.read(&[]).unwrap_err().starts_with("kloros.toml: cannot be read: "));
}

#[test]
fn the_summary_counts_and_names_the_files_that_were_read() {
    let home = Home::new(&[("kloros.toml", ""), ("dream.yaml", include_str!("../../../config/dream.yaml"))]);
    let summary = check(home.path(), None).unwrap().to_string();
    let folder = home.path().display();
    assert_eq!(summary, format!("ok: 1 domains, 1 experiments\nread {folder}/kloros.toml\nread {folder}/dream.yaml"));
    let summary = check(&home.path().join("nowhere"), None).unwrap().to_string();
    assert_eq!(summary, "ok: 1 domains, 1 experiments\nread no file: everything is built in");
}

#[test]
fn a_flood_of_problems_is_counted_rather_than_printed() {
    let text: String = (0..5000).map(|number| format!("k{number} = 1\n")).collect();
    let printed = Home::new(&[("kloros.toml", &text)]).read(&[]).unwrap_err();
    assert_eq!(printed.lines().count(), 101);
    assert_eq!(printed.lines().last(), Some("and 4900 more"));
}

#[test]
fn a_setting_that_there_is_no_more_is_answered_by_what_to_do() {
    main_file_refused(
        "[observer]\nraise_after = 3\nwindow_readings = 60\n",
        &[
            "kloros.toml:2: observer.raise_after: is no setting any more: write observer.for_s, in seconds",
            "kloros.toml:3: observer.window_readings: is no setting any more: the past has no window now; \
             observer.warmup_readings says how long a series is learned from",
        ],
    );
}

#[test]
fn times_of_silence_are_a_list_of_texts_that_may_name_whom_they_are_about() {
    let home = Home::new(&[("kloros.toml", "[observer]\nsilence = [\"sat,sun\", \"lab: 22:00-06:00\"]\n")]);
    let told: Vec<String> = home.settings().rooms.observer.silence.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["sat,sun", "lab: 22:00-06:00"]);
    let text = Home::new(&[("kloros.toml", "[observer]\nsilence = [\"a b: sat\"]\n")]).read(&[]).unwrap_err();
    assert!(text.starts_with("kloros.toml:2: observer.silence: \"a b\" is no name"), "{text}");
}

#[test]
fn a_name_that_is_no_domains_is_told_wherever_settings_name_one() {
    for (text, key) in [
        ("[curiosity]\nleave_alone = [\"lap\"]\n", "curiosity.leave_alone"),
        ("[conversation]\ndomain = \"lap\"\n", "conversation.domain"),
        ("[observer]\nsilence = [\"host: sat\", \"gpu: sat\", \"lap: sat\"]\n", "observer.silence"),
    ] {
        let told = Home::new(&[("kloros.toml", text)]).read(&[]).unwrap_err();
        assert_eq!(told, format!("kloros.toml: {key}: there is no domain \"lap\": the domains are lab"));
    }
}

#[test]
fn freeze_windows_are_a_list_of_texts_and_a_wrong_one_is_told_with_its_line() {
    let home = Home::new(&[("kloros.toml", "[gate]\nfreeze = [\"sat,sun\", \"22:00-06:00\"]\n")]);
    let told = |settings: Settings| settings.rooms.gate.freeze.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told(home.settings()), ["sat,sun", "22:00-06:00"]);
    // In a variable, semicolons stand between them.
    let (settings, _) = home.read(&[("KLOROS__GATE__FREEZE", "mon 09:00-18:00; fri")]).unwrap();
    assert_eq!(told(settings), ["mon 09:00-18:00", "fri"]);
    for (value, part) in [
        ("\"sat\"", "expected a list of texts, found the text \"sat\""),
        ("[1]", "expected a list of texts"),
        ("[\"sat\", \"caturday\"]", "\"caturday\" is no window of time: the days are mon"),
    ] {
        let text = Home::new(&[("kloros.toml", &format!("[gate]\nfreeze = {value}\n"))]).read(&[]).unwrap_err();
        assert!(text.starts_with("kloros.toml:2: gate.freeze: ") && text.contains(part), "{text}");
    }
}

#[test]
fn each_setting_is_shown_with_where_its_value_is_from() {
    let text = |file: &str, text: &str| super::super::layers::Text { file: file.to_owned(), text: text.to_owned() };
    let files = [
        text("kloros.toml", "[gate]\nautonomy = 0\n[shell]\nchaos = true\n"),
        text("conf.d/a.toml", "[gate]\nautonomy = 1\n"),
    ];
    let environment = [("KLOROS__SHELL__LOG".into(), "debug".into())];
    let mut complaints = Complaints::default();
    let shown = super::super::layers::shown(&files, environment, &mut complaints);
    let of = |key: &str| {
        let found = shown.iter().find(|setting| setting.key == key).unwrap();
        (found.value.clone(), found.origin.clone().unwrap_or_default())
    };
    assert_eq!(complaints.len(), 0);
    assert_eq!(of("gate.autonomy"), ("1".to_owned(), "conf.d/a.toml:2".to_owned()));
    assert_eq!(of("shell.chaos"), ("true".to_owned(), "kloros.toml:4".to_owned()));
    assert_eq!(of("shell.log"), ("\"debug\"".to_owned(), "KLOROS__SHELL__LOG".to_owned()));
    assert_eq!(of("reload.settle_s"), ("0.3".to_owned(), String::new()));
}

#[test]
fn domains_stand_beside_the_settings_or_in_the_home_where_none_are_beside_them() {
    let (home, etc) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = etc.path().join("kloros.toml");
    std::fs::write(&settings, "").unwrap();
    let lab = include_str!("../../../config/domains/lab.toml");
    let names = || {
        let settings = Settings::load(home.path(), Some(&settings)).unwrap();
        settings.catalogue.domains.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(names(), ["lab"], "what there is to practise on");
    for (folder, name) in [(&home, "at_home"), (&etc, "beside")] {
        std::fs::create_dir(folder.path().join("domains")).unwrap();
        std::fs::write(folder.path().join(format!("domains/{name}.toml")), lab).unwrap();
        assert_eq!(names(), [name]);
    }
    let (folders, files) = places(home.path(), Some(&settings));
    for folder in [home.path().join("domains"), etc.path().join("domains")] {
        assert!(folders.contains(&folder), "{folders:?}");
    }
    assert!(files.contains(&etc.path().join("domains/beside.toml")), "{files:?}");
}

#[test]
fn two_that_listen_at_one_address_are_refused() {
    main_file_refused(
        "[api]\nlisten = \"127.0.0.1:9464\"\n",
        &["kloros.toml:2: api.listen: shell.metrics_address is the same address: only one can listen there"],
    );
    let free =
        Home::new(&[("kloros.toml", "[shell]\nmetrics_address = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n")]);
    free.read(&[]).unwrap();
}
