use kloros_actors::facts::Direction;
use kloros_search::{Config, Kind, Options, Outcome, Search, Value};

use super::{super::space_file::space, *};

/// Returns what the file amounts to, or what is wrong with it, a line each.
fn read(text: &str) -> Result<super::super::space_file::SpaceFile, Vec<String>> {
    let home = Home::new(&[("space.toml", text)]);
    let complaints = space(&home.path().join("space.toml"));
    let local = |text: String| text.replace(&format!("{}/", home.path().display()), "");
    complaints.map_err(|complaints| complaints.to_string().lines().map(|line| local(line.to_owned())).collect())
}

#[track_caller]
fn space_refused(text: &str, complaints: &[&str]) {
    assert_eq!(read(text).unwrap_err(), complaints);
}

const CACHE: &str = "[params.CACHE]\ntype = \"categorical\"\nchoices = [\"none\", \"lru\"]\ndefault = \"none\"\n";

#[test]
fn whatever_the_engine_can_search_a_space_file_can_say() {
    let text = format!(
        "maximize = \"speed\"\nnoisy = false\nconstraints = [\"A <= B\"]\nforbidden = [{{ CACHE = \"lru\", D = true }}]\n\
         limits = [{{ each = {{ A = 1, B = 0.5 }}, max = 12 }}]\n\
         [params.A]\ntype = \"int\"\nlow = 1\nhigh = 9\nlog = true\nstep = 2\ndefault = 1\n\
         [params.B]\ntype = \"float\"\nlow = 0\nhigh = 9.5\nstep = 0.5\ndefault = 8\n{CACHE}\
         [params.D]\ntype = \"bool\"\ndefault = true\n\
         [params.E]\ntype = \"ordinal\"\nchoices = [1, 2.5, \"many\"]\ndefault = 2.5\n\
         [params.F]\ntype = \"integer\"\nlow = -1\nhigh = 1\nwhen = {{ param = \"CACHE\", in = [\"lru\"] }}\n"
    );
    let read = read(&text).unwrap();
    assert_eq!(read.objective, Some(("speed".to_owned(), Direction::Up)));
    assert_eq!(read.noisy, Some(false));
    let spec = read.space.spec();
    let names: Vec<&str> = spec.params.iter().map(|param| param.name.as_str()).collect();
    assert_eq!(names, ["A", "B", "CACHE", "D", "E", "F"], "in the order of the file");
    assert_eq!(spec.params[1].kind, Kind::Float { low: 0.0, high: 9.5, log: false, step: Some(0.5) });
    assert_eq!((spec.constraints.len(), spec.forbidden.len(), spec.limits.len()), (1, 1, 1));
    assert_eq!((spec.limits[0].each["B"], spec.limits[0].max), (0.5, 12.0));
    let default = read.default.unwrap();
    assert!(!default.contains_key("F"), "it is inactive, so it needs no default");
    assert!(read.space.contains(&default));
}

#[test]
fn without_any_default_there_is_none() {
    let read = read("[params.A]\ntype = \"bool\"\n").unwrap();
    assert_eq!((read.default, read.objective, read.noisy), (None, None, None));
}

#[test]
fn an_inactive_default_is_not_set_and_says_where_its_parameter_begins() {
    let text = format!(
        "{CACHE}[params.M]\ntype = \"int\"\nlow = 1\nhigh = 99\ndefault = 7\nwhen = {{ param = \"CACHE\", in = [\"lru\"] }}\n"
    );
    let read = read(&text).unwrap();
    let options = |seed| Options { budget: 6, seed, default: read.default.clone(), ..Options::default() };
    for seed in 0..4 {
        let mut search = Search::new(read.space.clone(), options(seed));
        let mut asked = Vec::new();
        while let Some(candidate) = search.ask(1).pop() {
            search.tell(candidate.id, Outcome::Value(1.0)).unwrap();
            asked.push(candidate.config);
        }
        let cache = |name: &str| ("CACHE".to_owned(), Value::Text(name.to_owned()));
        assert_eq!(asked[0], Config::from([cache("none")]));
        let with_it = Config::from([cache("lru"), ("M".to_owned(), Value::Integer(7))]);
        assert!(asked.contains(&with_it), "{asked:?}");
    }
}

#[test]
fn what_is_wrong_with_a_parameter_is_said_with_its_line_and_what_to_do() {
    space_refused("", &["space.toml:1: params: is missing"]);
    space_refused(
        "[params.A]\ntype = \"int\"\nlow = 1\nhi = 9\n[params.PATH]\ntype = \"bool\"\n[params.a-b]\ntype = \"tensor\"\n[params.B]\ntype = \"ordinal\"\n",
        &[
            "space.toml:1: params.A.high: is missing",
            "space.toml:4: params.A.hi: unknown key; did you mean high?",
            "space.toml:5: params.PATH: must not be a parameter: it chooses which code runs",
            "space.toml:7: params.a-b: \"a-b\" cannot name an environment variable: use letters, digits and underscores",
            "space.toml:8: params.a-b.type: unknown type \"tensor\"; known are float, int, integer, categorical, ordinal, bool",
            "space.toml:9: params.B.choices: is missing",
        ],
    );
    space_refused(
        "[params.A]\ntype = \"int\"\nlow = 9\nhigh = 1\n",
        &["space.toml:1: params.A: low is above high: exchange them"],
    );
    space_refused(
        "[params.A]\ntype = \"categorical\"\nchoices = [\"a\\n\"]\n",
        &["space.toml:3: params.A.choices: \"a\\n\" holds a control character: take it out"],
    );
}

#[test]
fn what_is_wrong_between_parameters_is_said_where_it_stands() {
    space_refused(
        &format!("{CACHE}when = {{ param = \"CACHES\", in = [1] }}\n"),
        &[
            "space.toml:5: params.CACHE.when: the condition of CACHE names CACHES, which is not declared: declare it or correct the name",
        ],
    );
    space_refused(
        &format!("constraints = [\"CACHE < 1\"]\n{CACHE}"),
        &["space.toml:1: constraints: the constraint \"CACHE < 1\" is not of the form `a <= b`"],
    );
    space_refused(
        &format!("forbidden = [{{ CACHE = \"arc\" }}]\n{CACHE}"),
        &[
            "space.toml:1: forbidden: a forbidden combination names CACHE = arc, a value that CACHE never has: correct it or take it out",
        ],
    );
    for (limit, complaint) in [
        ("each = { CACHE = 1 }, max = 1", "a limit on CACHE: it has no numbers to add up: take it out"),
        ("each = { CASH = 1 }, max = 1", "a limit names CASH, which is not declared: declare it or correct the name"),
        ("each = { CACHE = 1 }", ".max: is missing"),
        ("each = { CACHE = 1 }, max = nan", ".max: NaN is no finite number"),
    ] {
        let refused = read(&format!("limits = [{{ {limit} }}]\n{CACHE}")).unwrap_err();
        assert!(refused.len() == 1 && refused[0].starts_with("space.toml:1: limits"), "{refused:?}");
        assert!(refused[0].ends_with(complaint), "{refused:?}");
    }
    space_refused(
        &format!("minimize = \"a\"\nmaximize = \"b\"\n{CACHE}"),
        &["space.toml:2: maximize: stands beside minimize: one metric is made better, so take one out"],
    );
}

#[test]
fn a_default_is_one_of_the_values_and_every_active_parameter_has_one() {
    space_refused(
        &format!("{CACHE}[params.A]\ntype = \"bool\"\n"),
        &["space.toml:5: params.A: has no default, while others have: give it one, or take out all"],
    );
    space_refused(
        "[params.A]\ntype = \"int\"\nlow = 1\nhigh = 9\nstep = 2\ndefault = 4\n",
        &["space.toml:6: params.A.default: 4 is none of its values"],
    );
    space_refused(
        &CACHE.replace("default = \"none\"", "default = \"arc\""),
        &["space.toml:4: params.CACHE.default: arc is none of its values"],
    );
    space_refused(
        &format!("forbidden = [{{ CACHE = \"none\" }}]\n{CACHE}"),
        &["space.toml:2: params: the defaults together break a constraint or are forbidden: change one of them"],
    );
}
