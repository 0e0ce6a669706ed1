//! What is made of machines: a table of cases, and that every proposal is one that kloros accepts.

use std::{net::SocketAddr, path::PathBuf};

use kloros_actors::facts::{Manager, Scope};

use super::{
    proposal::{Home as Place, propose},
    seen::{Arguments, Process, RunBy, Seen},
    *,
};
use crate::settings::Settings;

const SECRET: &str = "s3cr3t-of-mine";

/// Returns a process that `names` it and listens where it is said.
fn process(pid: u32, name: &str, arguments: &[&str], listens: &[&str], run_by: RunBy) -> Process {
    let addresses: Vec<SocketAddr> = listens.iter().map(|address| address.parse().unwrap()).collect();
    Process {
        pid,
        parent: 1,
        names: vec![name.to_owned()],
        arguments: Arguments(arguments.iter().map(|argument| (*argument).to_owned()).collect()),
        run_by,
        listens: Some(addresses),
        ..Process::default()
    }
}

fn unit(name: &str) -> RunBy {
    RunBy::Unit(name.to_owned())
}

fn offered(processes: Vec<Process>, place: &Place) -> Offer {
    propose(&Seen { processes, ..Seen::default() }, KNOWN, place)
}

fn var_lib() -> Place {
    Place { path: "/var/lib/kloros".to_owned(), ..Place::default() }
}

/// Holds against `expected` the domains that are proposed, each with its port and its unit.
#[track_caller]
fn check(processes: Vec<Process>, expected: &[(&str, u16, Option<&str>)]) -> Offer {
    let offer = offered(processes, &var_lib());
    let found: Vec<(&str, u16, Option<&str>)> =
        offer.proposals.iter().map(|each| (each.domain.as_str(), each.port, each.fitted.unit.as_deref())).collect();
    assert_eq!(found, expected);
    offer
}

#[track_caller]
fn is_open(offer: &Offer, what: &str) {
    assert!(offer.proposals[0].open.iter().any(|open| open.contains(what)), "{what}: {:?}", offer.proposals[0].open);
}

#[test]
fn a_service_that_a_unit_runs_on_its_usual_port_is_described_as_it_ships() {
    let redis = process(7, "redis-server", &[], &["127.0.0.1:6379", "[::1]:6379"], unit("redis-server.service"));
    let offer = check(vec![redis], &[("redis", 6379, Some("redis-server.service"))]);
    let fitted = &offer.proposals[0].fitted;
    assert_eq!(fitted.domain_text, KNOWN[1].domain);
    assert_eq!(fitted.drop_ins[0].0, "/etc/systemd/system/redis-server.service.d/50-kloros.conf");
    assert_eq!(fitted.drop_ins[0].1, KNOWN[1].drop_ins[0].1);
    assert_eq!(offer.proposals[0].tunes.len(), 5);
    assert!(fitted.commands.iter().any(|command| command == "systemctl daemon-reload"));
}

#[test]
fn two_instances_of_a_service_are_two_domains_that_share_no_file() {
    let redis = |pid, address: &str, name: &str| process(pid, "redis-server", &[], &[address], unit(name));
    let two = vec![
        redis(9, "127.0.0.1:6380", "redis-server@cache.service"),
        redis(8, "0.0.0.0:6379", "redis-server.service"),
    ];
    let offer = check(
        two,
        &[("redis", 6379, Some("redis-server.service")), ("redis_6380", 6380, Some("redis-server@cache.service"))],
    );
    let fitted = &offer.proposals[1].fitted;
    assert_eq!(fitted.env_file, "/etc/kloros/env/redis_6380.env");
    let (path, text) = &fitted.drop_ins[0];
    assert_eq!(path, "/etc/systemd/system/redis-server@cache.service.d/50-kloros.conf");
    assert!(text.contains("--domain redis_6380\n") && text.contains("EnvironmentFile=-/etc/kloros/env/redis_6380.env"));
    assert!(fitted.experiments.starts_with("  redis_6380_speed:\n    domain: redis_6380\n"), "{}", fitted.experiments);
}

#[test]
fn which_port_is_asked_is_seen_or_said_to_be_a_guess() {
    let cases: [(&[&str], &[&str], u16, &str); 6] = [
        (&[], &["0.0.0.0:7000"], 7000, ""),
        (&["--port", "7001"], &["127.0.0.1:7000", "127.0.0.1:7001"], 7001, ""),
        (&[], &["127.0.0.1:7000", "127.0.0.1:6379"], 6379, ""),
        (&[], &["127.0.0.1:7002", "127.0.0.1:7001"], 7001, "which of its ports 7001, 7002"),
        (&[], &["10.1.2.3:7000"], 7000, "how it is reached: it listens on 10.1.2.3:7000"),
        (&["--port", "99999"], &[], 6379, "on none that is seen; 6379 is a guess"),
    ];
    for (arguments, listens, port, open) in cases {
        let redis = process(7, "redis-server", arguments, listens, unit("redis-server.service"));
        let offer = check(vec![redis], &[("redis", port, Some("redis-server.service"))]);
        is_open(&offer, open);
    }
    let hidden = Process { listens: None, ..process(7, "redis-server", &["--port=7005"], &[], unit("r.service")) };
    is_open(
        &check(vec![hidden], &[("redis", 7005, Some("r.service"))]),
        "root and its own user alone; 7005 is a guess",
    );
}

#[test]
fn what_a_server_forked_is_no_instance_of_its_own_and_its_ports_are_the_servers() {
    let child = |pid, parent, listens: &[&str]| Process {
        parent,
        ..process(pid, "redis-server", &[], listens, unit("redis-server.service"))
    };
    let processes = vec![child(7, 1, &[]), child(8, 7, &["127.0.0.1:7000"]), child(9, 8, &["127.0.0.1:7000"])];
    let offer = check(processes, &[("redis", 7000, Some("redis-server.service"))]);
    assert_eq!(offer.proposals[0].pid, 7);
}

#[test]
fn who_runs_a_service_decides_what_is_proposed() {
    let redis = |run_by| process(7, "redis-server", &[], &["127.0.0.1:6379"], run_by);
    let by_hand = check(vec![redis(RunBy::Nobody)], &[("redis", 6379, None)]);
    is_open(&by_hand, "who starts it: no unit of systemd runs process 7");
    let fitted = &by_hand.proposals[0].fitted;
    assert!(fitted.drop_ins.is_empty() && fitted.commands.is_empty());
    assert!(fitted.domain_text.contains("unit = \"kloros-redis.service\""), "a unit that runs another Redis is named");
    for (run_by, why) in [(RunBy::Kloros, "kloros runs it itself"), (RunBy::Container, "it runs in a container")] {
        let offer = check(vec![redis(run_by)], &[]);
        assert!(offer.left[0].why.starts_with(why), "{:?}", offer.left);
    }
    let of_user = check(vec![redis(RunBy::UserUnit("r.service".into()))], &[("redis", 6379, Some("r.service"))]);
    let fitted = &of_user.proposals[0].fitted;
    assert!(fitted.domain_text.contains("unit = \"r.service\", scope = \"user\""));
    assert_eq!(fitted.env_file, "/var/lib/kloros/redis.env");
    assert!(!fitted.drop_ins[0].1.contains("runuser") && fitted.drop_ins[0].0.starts_with("~/.config/systemd/user/"));
}

#[test]
fn what_the_home_describes_is_not_proposed_again_and_its_names_are_not_taken() {
    let redis = |port: u16| {
        let address = format!("127.0.0.1:{port}");
        process(7, "redis-server", &[], &[address.as_str()], unit("redis-server.service"))
    };
    let home = |name: &str, port| Place { described: [(name.to_owned(), port)].into(), ..var_lib() };
    let offer = offered(vec![redis(6379)], &home("cache", 6379));
    assert!(offer.proposals.is_empty());
    assert_eq!(offer.left[0].why, "domains/cache.toml describes what listens on 6379 already");
    let named = |place| offered(vec![redis(6379)], &place).proposals.remove(0).domain;
    assert_eq!(named(home("redis", 7000)), "redis_6379");
    let both = Place { described: [("redis".to_owned(), 1), ("redis_6379".to_owned(), 2)].into(), ..var_lib() };
    let offer = offered(vec![redis(6379)], &both);
    assert_eq!(offer.left[0].why, "there is a domain redis already: domains/redis.toml");
}

#[test]
fn a_model_server_is_described_with_its_model_and_its_program_where_they_are_plain() {
    let llama = |arguments: &[&str], program: Option<&str>| Process {
        program: program.map(str::to_owned),
        is_on_gpu: true,
        ..process(7, "llama-server", arguments, &["127.0.0.1:9000"], unit("llama.service"))
    };
    let known = vec![llama(&["-m", "/models/a-7b.gguf", "--api-key", SECRET], Some("/usr/bin/llama-server"))];
    let offer = check(known, &[("llama_cpp", 9000, Some("llama.service"))]);
    is_open(&offer, "whether the GPU holds it twice");
    let fitted = &offer.proposals[0].fitted;
    for text in [&fitted.domain_text, &fitted.drop_ins[0].1] {
        assert!(!text.contains("MODEL.gguf") && !text.contains("/opt/llama.cpp"), "{text}");
        assert!(text.contains("/models/a-7b.gguf") && text.contains("/usr/bin/llama-server"), "{text}");
    }
    assert!(fitted.drop_ins[0].1.contains("--port 9000"));
    for model in ["a b", "a\"b", "$(id)", "--flash", "https://me:pw@host/x", "me:pw@host", "a\nb", ""] {
        let offer = check(vec![llama(&["-m", model], None)], &[("llama_cpp", 9000, Some("llama.service"))]);
        is_open(&offer, "which model it runs");
        is_open(&offer, "which program may be started");
        assert!(offer.proposals[0].fitted.domain_text.contains("MODEL.gguf"));
    }
    let vllm = Process {
        names: vec!["python3.11".into(), "vllm".into()],
        ..process(
            7,
            "",
            &["python3", "/opt/vllm/bin/vllm", "serve", "org/model"],
            &["0.0.0.0:8000"],
            unit("vllm.service"),
        )
    };
    let offer = check(vec![vllm], &[("vllm", 8000, Some("vllm.service"))]);
    assert!(offer.proposals[0].fitted.domain_text.contains("\"serve\", \"org/model\""));
    // The model was given up where `serve` was followed by an option.
    let by_option = Process {
        names: vec!["vllm".into()],
        ..process(7, "", &["vllm", "serve", "--model", "org/model"], &["0.0.0.0:8000"], unit("vllm.service"))
    };
    let offer = check(vec![by_option], &[("vllm", 8000, Some("vllm.service"))]);
    assert!(offer.proposals[0].fitted.domain_text.contains("\"serve\", \"org/model\""));
    let bench = Process { names: vec!["vllm".into()], ..process(7, "", &["vllm", "bench"], &[], RunBy::Nobody) };
    check(vec![bench], &[]);
}

/// Whatever a machine shows, kloros accepts what it proposes, and what is accepted says what was found.
#[test]
fn what_is_proposed_for_everything_that_ships_is_accepted_when_it_is_written() {
    let mut processes = Vec::new();
    for (index, known) in KNOWN.iter().filter(|known| !known.programs.is_empty() && known.port != 0).enumerate() {
        for instance in 0..2_u16 {
            let pid = u32::try_from(index * 10).unwrap() + u32::from(instance) + 2;
            let address = format!("127.0.0.1:{}", known.port + instance * 50);
            let run_by = if instance == 0 { unit("a@b-c.service") } else { RunBy::Nobody };
            let verbs: Vec<&str> = known.verbs.iter().copied().take(1).collect();
            processes.push(process(pid, known.programs[0], &verbs, &[&address], run_by));
        }
    }
    let count = processes.len();
    let folder = tempfile::tempdir().unwrap();
    let place = Place { path: folder.path().display().to_string(), ..Place::default() };
    let offer = offered(processes, &place);
    assert_eq!(offer.proposals.len(), count);
    let plan = files::plan(folder.path(), &offer.proposals);
    let done = written(folder.path(), &plan);
    assert_eq!((done.wrote.len(), done.refused.len()), (count + 1, 0));
    assert_eq!(done.problems, Vec::<String>::new());
    let catalogue = Settings::load(folder.path(), None).unwrap().catalogue;
    assert_eq!(catalogue.experiments.len(), count);
    for proposal in &offer.proposals {
        let service = &catalogue.domains[&proposal.domain].service;
        assert_eq!((service.port, service.env_file.to_str()), (proposal.port, Some(proposal.fitted.env_file.as_str())));
        let named = proposal.fitted.unit.clone().unwrap_or_else(|| format!("kloros-{}.service", proposal.domain));
        assert_eq!(service.manager, Manager::Systemd { unit: named, scope: Scope::System });
    }
    let knobs = |offer: &Offer| offer.proposals.iter().map(|each| each.tunes.len()).sum::<usize>();
    assert_eq!(knobs(&offer), catalogue.domains.values().map(|domain| domain.knobs.len()).sum::<usize>());
    // Once more: everything is there.
    let again = Place { path: place.path, described: described(folder.path()) };
    let seen = Seen { processes: Vec::new(), ..Seen::default() };
    assert_eq!(again.described.len(), count);
    assert!(propose(&seen, KNOWN, &again).proposals.is_empty());
}

#[test]
fn the_lab_is_proposed_once_as_what_kloros_starts_itself() {
    let lab = |pid| process(pid, "kloros", &["kloros", "lab", "serve"], &["127.0.0.1:4000"], RunBy::Nobody);
    let offer = check(vec![lab(2), lab(3)], &[("lab", 4000, None)]);
    assert_eq!(offer.proposals[0].fitted.domain_text, KNOWN[0].domain);
    assert_eq!(offer.left.len(), 1);
    check(vec![process(2, "kloros", &["kloros", "run"], &[], RunBy::Nobody)], &[]);
}

#[test]
fn names_and_arguments_of_processes_are_neither_printed_nor_obeyed() {
    let evil = "x\n\u{1b}[2Jwrote      /etc/passwd";
    let redis = process(7, "redis-server", &["--requirepass", SECRET], &["127.0.0.1:6379"], unit("a\"b.service"));
    let other = process(8, evil, &["--api-key", SECRET], &["127.0.0.1:9999"], RunBy::Nobody);
    let offer = offered(vec![redis, other], &var_lib());
    is_open(&offer, "its unit, whose name has signs that no file is given");
    let shown = words(&offer, &[], false, &Done::default(), "kloros");
    let json = serde_json::to_string(&offer).unwrap();
    for text in [&shown, &json] {
        assert!(!text.contains(SECRET) && !text.contains("a\"b"), "{text}");
    }
    assert!(shown.lines().all(|line| !line.starts_with("wrote")), "{shown}");
    assert_eq!(offer.others.len(), 1);
}

#[test]
fn of_a_crowd_of_listeners_some_are_named_and_the_rest_is_counted() {
    let crowd: Vec<Process> = (1..=100_u32)
        .map(|number| process(number, "x", &[], &[&format!("127.0.0.1:{}", 9000 + number)], RunBy::Nobody))
        .collect();
    let offer = offered(crowd, &var_lib());
    assert_eq!((offer.others.len(), offer.others_more), (20, 80));
    assert!(words(&offer, &[], false, &Done::default(), "kloros").contains("80 more"));
}

/// What was printed restarted nginx without the file that its drop-in reads, and let root write where a link of kloros' own led.
#[test]
fn no_printed_command_restarts_a_service_or_has_root_write_where_kloros_may_put_a_link() {
    for known in KNOWN.iter().filter(|known| !known.programs.is_empty() && known.port != 0) {
        for run_by in [unit("a.service"), RunBy::UserUnit("a.service".to_owned())] {
            let verbs: Vec<&str> = known.verbs.iter().copied().take(1).collect();
            let address = format!("127.0.0.1:{}", known.port);
            let offer = offered(vec![process(7, known.programs[0], &verbs, &[&address], run_by)], &var_lib());
            let fitted = &offer.proposals[0].fitted;
            assert!(!fitted.commands.is_empty() && fitted.before_restart.starts_with("by you alone"), "{}", known.name);
            for command in &fitted.commands {
                let of_shell = command.split("<<").next().unwrap();
                assert!(!of_shell.contains("restart") && !of_shell.contains("chown"), "{command}");
            }
            let shown = words(&offer, &[], false, &Done::default(), "kloros");
            assert!(!shown.contains("systemctl restart") && shown.contains("\nrestart    by you alone"), "{shown}");
        }
    }
}

#[test]
fn what_a_person_has_to_do_before_a_drop_in_is_installed_is_open() {
    let cases = [
        ("nginx", "nginx", "make /etc/kloros/nginx.conf from config/domains/nginx.conf"),
        ("postgres", "postgresql@15-main", "arguments win over your configuration file"),
        ("redis-server", "redis-server", "arguments win over your configuration file"),
    ];
    for (program, name, open) in cases {
        let offer = offered(vec![process(7, program, &[], &[], unit(&format!("{name}.service")))], &var_lib());
        is_open(&offer, open);
        let is_fitted = |open: &String| open.contains("fit it by hand");
        assert!(!offer.proposals[0].open.iter().any(is_fitted), "{:?}", offer.proposals[0].open);
    }
}

#[test]
fn of_a_unit_that_is_none_of_debians_it_is_said_that_the_command_has_to_be_fitted() {
    let cases = [
        ("redis-server", unit("redis-server@cache.service"), "ExecStart= below is for Debian's redis-server.service"),
        ("postgres", unit("postgresql.service"), "ExecStart= below is for Debian's postgresql@15-main.service"),
        ("redis-server", RunBy::UserUnit("redis-server.service".into()), "which it is not; fit it by hand"),
        ("llama-server", unit("llama.service"), "ExecStart= below is for llama-server.service"),
    ];
    for (program, run_by, open) in cases {
        is_open(&offered(vec![process(7, program, &[], &[], run_by)], &var_lib()), open);
    }
}

/// A home, whether it is the one of which the unit is told, whose it is, who asks, and parts of what is told.
type Case<'a> = (&'a PathBuf, bool, Option<u32>, u32, &'a [&'a str]);

#[test]
fn a_home_that_the_unit_does_not_work_in_or_that_is_not_yours_is_told() {
    let served = PathBuf::from("/var/lib/kloros");
    let own = PathBuf::from("/root/.local/state/kloros");
    let cases: [Case<'_>; 6] = [
        (&own, true, Some(0), 0, &["kloros --home /var/lib/kloros init"]),
        (&own, false, Some(0), 0, &[]),
        (&served, true, Some(105), 0, &[]),
        (&served, true, Some(105), 1000, &["belongs to user 105, and you are user 1000"]),
        (&served, true, None, 1000, &[]),
        (&own, true, Some(0), 1000, &["kloros --home /var/lib/kloros init", "belongs to user 0"]),
    ];
    for (root, is_served, owner, user, expected) in cases {
        let doubts = doubts(root, is_served.then_some(served.as_path()), owner, user);
        assert_eq!(doubts.len(), expected.len(), "{doubts:?}");
        assert!(doubts.iter().zip(expected).all(|(doubt, expected)| doubt.contains(expected)), "{doubts:?}");
        let offer = Offer { home: doubts, ..Offer::default() };
        let shown = words(&offer, &[], false, &Done::default(), "kloros");
        assert_eq!(shown.lines().filter(|line| line.starts_with("home ")).count(), expected.len(), "{shown}");
    }
}
