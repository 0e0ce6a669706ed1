//! The monitor against a driver that is scripted: the real wrapper loads a library that says what a test wants.

use std::{
    fs,
    sync::{Arc, mpsc},
    time::Duration,
};

use kloros_actors::seams::{GpuUsers, Probe, ProbeError};
use serde_json::{Value, json};

use super::*;
use crate::clock::SystemClock;

mod fake;

use fake::{Fake, comes, gpu, watching};

const ONE: &str = "GPU-00000001";
const TWO: &str = "GPU-00000002";

fn view<'a>(snapshot: &'a Snapshot, uuid: &str) -> &'a GpuView {
    snapshot.gpus.iter().find(|gpu| gpu.identity.uuid == uuid).unwrap()
}

async fn looked(gpus: &Gpus) -> Snapshot {
    gpus.look().await.unwrap();
    gpus.known().snapshot
}

#[track_caller]
fn check_value(snapshot: &Snapshot, (what, first, second): Key, expected: f64) {
    let value = snapshot.gpus[0].value(what, first, second);
    assert!(value.is_some_and(|value| (value - expected).abs() < 1e-6), "{what:?} {first} {second}: {value:?}");
}

/// What a real H100 answered; see `tests/fixtures/nvml/README.md`.
fn recorded(name: &str) -> Value {
    let file = format!("{}/tests/fixtures/nvml/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[tokio::test]
async fn what_a_real_h100_said_comes_through_the_real_wrapper_in_base_units() {
    let mut fake = Fake::of(&[]);
    let said = recorded("h100-80gb-busy");
    (fake.script["gpus"], fake.script["system"]) = (said["gpus"].clone(), said["system"].clone());
    fake.say();
    let snapshot = looked(&fake.watched()).await;
    let gpu = &snapshot.gpus[0];
    assert_eq!(gpu.identity.name.as_deref(), Some("NVIDIA H100 80GB HBM3"));
    assert_eq!(gpu.identity.compute_capability.as_deref(), Some("9.0"));
    assert_eq!(snapshot.driver.cuda_version.as_deref(), Some("13.0"));
    for (key, expected) in [
        ((What::UtilizationRatio, "gpu", ""), 1.0),
        ((What::UtilizationRatio, "memory", ""), 0.34),
        ((What::MemoryBytes, "reserved", ""), 503_316_480.0),
        ((What::MemoryBytes, "used", ""), 82_838_355_968.0),
        ((What::TemperatureCelsius, "gpu", ""), 60.0),
        ((What::TemperatureCelsius, "memory", ""), 54.0),
        ((What::TemperatureThresholdCelsius, "slowdown", ""), 89.0),
        ((What::PowerWatts, "", ""), 698.274),
        ((What::PowerLimitWatts, "min", ""), 200.0),
        ((What::EnergyJoules, "", ""), 23_805.083),
        ((What::ClockHertz, "sm", "current"), 1.365e9),
        ((What::ClockHertz, "memory", "max"), 2.619e9),
        ((What::ThrottleActive, "power_cap", ""), 1.0),
        ((What::ThrottleActive, "hw_thermal", ""), 0.0),
        ((What::ThrottleSeconds, "power", ""), 26.093_113_312),
        ((What::PcieBytesPerSecond, "rx", ""), 20_301_000.0),
        ((What::PcieLinkGeneration, "current", ""), 5.0),
        ((What::EccErrors, "uncorrected", "aggregate"), 0.0),
        ((What::RemappedRows, "uncorrected", ""), 0.0),
        ((What::RowRemapFailure, "", ""), 0.0),
        ((What::PersistenceEnabled, "", ""), 1.0),
        ((What::MigEnabled, "", ""), 0.0),
    ] {
        check_value(&snapshot, key, expected);
    }
    let refused: Vec<&str> = gpu.refused.keys().copied().collect();
    assert_eq!(refused, ["nvlink", "retired_double_bit", "retired_single_bit", "retirement_pending"]);
    assert_eq!((gpu.processes[0].pid, gpu.processes[0].memory_bytes), (536, Some(82_829_115_392)));
}

#[tokio::test]
async fn the_observer_hears_of_a_full_h100_at_its_power_limit_that_it_is_full_and_not_throttled() {
    for (name, expected) in [
        ("h100-80gb-idle", [("utilization_ratio", 0.0), ("memory_used_ratio", 0.0059), ("power_watts", 92.845)]),
        ("h100-80gb-busy", [("utilization_ratio", 1.0), ("memory_used_ratio", 0.9745), ("power_watts", 698.274)]),
    ] {
        let mut fake = Fake::of(&[]);
        fake.script["gpus"] = recorded(name)["gpus"].clone();
        fake.say();
        let readings = fake.watched().read().await.unwrap();
        let value = |metric: &str| readings.iter().find(|reading| reading.metric == metric).unwrap().value;
        for (metric, wanted) in expected {
            assert!((value(metric) - wanted).abs() < 1e-4, "{name}: {metric} is {}", value(metric));
        }
        assert_eq!((value("throttled"), value("lost"), value("hardware_fault")), (0.0, 0.0, 0.0));
    }
}

#[tokio::test]
async fn a_machine_without_the_library_has_no_driver() {
    let gpus = Gpus::new(watching("/no/such/libnvidia-ml.so.1".as_ref()), Arc::new(SystemClock), |_| ());
    for _ in 0..2 {
        assert!(matches!(gpus.read().await, Err(ProbeError::Absent(why)) if why.contains("no NVIDIA driver")));
        assert!(matches!(gpus.users().await, Err(ProbeError::Absent(_))));
    }
    assert_eq!(gpus.known().snapshot.driver.state, DriverState::NoLibrary);
    assert_eq!(gpus.known().snapshot.driver.loads, 0);
}

#[tokio::test]
async fn a_library_that_is_not_nvml_is_no_gpu_and_no_panic() {
    let gpus = Gpus::new(watching("libc.so.6".as_ref()), Arc::new(SystemClock), |_| ());
    assert!(matches!(gpus.read().await, Err(ProbeError::Unreachable(_))));
    assert!(matches!(gpus.read().await, Err(ProbeError::Unreachable(_))), "it can be asked again");
}

#[tokio::test]
async fn this_machine_has_either_no_driver_or_gpus_that_say_something_possible() {
    let usual = Watching { library: None, ..watching("/unused".as_ref()) };
    let gpus = Gpus::new(usual, Arc::new(SystemClock), |_| ());
    match gpus.read().await {
        Err(ProbeError::Absent(_)) => {}
        Err(ProbeError::Unreachable(why)) => panic!("{why}"),
        Ok(readings) => {
            assert!(!readings.is_empty());
            for reading in readings {
                assert!(reading.subject.starts_with("gpu:") && reading.source.starts_with("nvml:GPU-"));
                let most = if reading.metric.ends_with("_ratio") { 1.0 } else { 10_000.0 };
                assert!((0.0..=most).contains(&reading.value), "{reading:?}");
            }
            for user in gpus.users().await.unwrap() {
                assert!(user.gpu.starts_with("GPU-") && user.pid > 0 && (0.0..=1.0).contains(&user.memory), "{user:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_call_that_hangs_is_named_counted_never_made_twice_and_recovered_from() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    let gpus = fake.watched_as(|watching| watching.deadline = Duration::from_secs(2));
    assert_eq!(looked(&gpus).await.driver.state, DriverState::Ready);
    let before = fake.calls(ONE, "nvmlDeviceGetPowerUsage");
    fake.set(0, "nvmlDeviceGetPowerUsage", json!({"hang": true}));

    assert_eq!(gpus.look().await.unwrap_err(), "no answer within 2 s");
    for _ in 0..3 {
        assert_eq!(gpus.look().await.unwrap_err(), "an earlier call has not returned yet");
    }
    assert!(gpus.users().await.is_err(), "who asks for something else waits, too, and not for ever");
    assert_eq!(fake.calls(ONE, "nvmlDeviceGetPowerUsage"), before + 1);
    let snapshot = gpus.known().snapshot;
    assert_eq!(snapshot.driver.state, DriverState::Hung);
    assert!(snapshot.driver.said.as_ref().unwrap().starts_with("power of GPU-00000001 has not returned for"));
    assert_eq!(view(&snapshot, ONE).errors[&("power", DEADLINE)], 1, "counted when it was given up, and once");
    assert!(view(&snapshot, ONE).value(What::UtilizationRatio, "gpu", "").is_some(), "what was known before stands");

    fake.set(0, "nvmlDeviceGetPowerUsage", json!({"value": 200_000}));
    let snapshot = comes(&gpus, |snapshot| {
        snapshot.driver.state == DriverState::Ready
            && view(snapshot, ONE).value(What::PowerWatts, "", "") == Some(200.0)
    })
    .await;
    assert_eq!(view(&snapshot, ONE).errors[&("power", DEADLINE)], 1);
}

#[tokio::test]
async fn nobody_waits_for_a_call_that_hangs_when_it_is_all_over() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    let gpus = fake.watched_as(|watching| {
        watching.deadline = Duration::from_millis(200);
        watching.listens = true;
    });
    fake.set(0, "nvmlDeviceGetPowerUsage", json!({"hang": true}));
    assert!(gpus.look().await.is_err());
    let (done, over) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        drop(gpus);
        done.send(()).unwrap();
    });
    over.recv_timeout(Duration::from_secs(20)).expect("the hanging call is not waited for");
    // The thread itself ends as soon as the driver lets it, before the library's file is gone.
    fake.set(0, "nvmlDeviceGetPowerUsage", json!({"value": 1}));
}

#[tokio::test]
async fn a_library_that_hangs_while_it_is_loaded_is_a_driver_that_hangs() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    fake.set_system("nvmlInit_v2", json!({"hang": true}));
    let gpus = fake.watched_as(|watching| watching.deadline = Duration::from_millis(200));
    assert!(matches!(gpus.read().await, Err(ProbeError::Unreachable(_))));
    // On a busy machine it may not even have been asked by then.
    comes(&gpus, |snapshot| snapshot.driver.state == DriverState::Hung).await;
    assert!(gpus.known().late[&(String::new(), "init")] >= 1);
    fake.set_system("nvmlInit_v2", json!({"value": 0}));
    comes(&gpus, |snapshot| snapshot.driver.state == DriverState::Ready).await;
}

#[tokio::test]
async fn a_gpu_that_is_lost_is_down_while_the_other_answers_and_is_found_again() {
    let mut fake = Fake::of(&[gpu(ONE), gpu(TWO)]);
    let gpus = fake.watched();
    looked(&gpus).await;
    fake.set(0, "lost", json!(true));
    let snapshot = comes(&gpus, |snapshot| view(snapshot, ONE).trouble.is_some()).await;
    assert_eq!(view(&snapshot, ONE).trouble, Some(Trouble::Lost));
    assert_eq!(view(&snapshot, ONE).value(What::PowerWatts, "", ""), None, "what it measured is not true any more");
    assert_eq!(view(&snapshot, ONE).value(What::EnergyJoules, "", ""), Some(5.0), "what it counted is");
    assert_eq!(view(&snapshot, TWO).trouble, None);
    let readings = gpus.read().await.unwrap();
    let lost = |gpu: &str| readings.iter().find(|each| each.metric == "lost" && each.subject == gpu).unwrap().value;
    assert_eq!((lost("gpu:00000001"), lost("gpu:00000002")), (1.0, 0.0));

    fake.set(0, "lost", json!(false));
    let snapshot = comes(&gpus, |snapshot| view(snapshot, ONE).trouble.is_none()).await;
    assert!(snapshot.driver.loads >= 2, "the library was loaded anew for it");
}

#[tokio::test]
async fn each_trouble_of_a_card_has_its_name() {
    for (code, trouble) in [
        (8, Trouble::PowerCables),
        (11, Trouble::Interrupts),
        (14, Trouble::InfoRom),
        (15, Trouble::Lost),
        (16, Trouble::ResetRequired),
        (999, Trouble::Silent),
    ] {
        let mut fake = Fake::of(&[gpu(ONE), gpu(TWO)]);
        let gpus = fake.watched_as(|watching| watching.lost_retry_max = Duration::from_secs(600));
        looked(&gpus).await;
        fake.set(0, "nvmlDeviceGetHandleByIndex_v2", json!({"code": code}));
        let snapshot = comes(&gpus, |snapshot| view(snapshot, ONE).trouble.is_some()).await;
        let found = view(&snapshot, ONE).trouble;
        // When the library was loaded anew meanwhile, the card is one that does not say who it is.
        assert!(found == Some(trouble) || found == Some(Trouble::Lost), "{code}: {found:?}");
        assert_eq!(view(&snapshot, TWO).trouble, None);
    }
}

#[tokio::test]
async fn a_gpu_that_is_taken_out_is_gone_and_a_new_one_is_found() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    fs::write(fake.kernel_list().join("0000:01:00.0"), "").unwrap();
    let gpus = fake.watched();
    looked(&gpus).await;
    fake.script["gpus"] = json!([gpu(TWO)]);
    fake.say();
    fs::rename(fake.kernel_list().join("0000:01:00.0"), fake.kernel_list().join("0000:02:00.0")).unwrap();
    let snapshot = comes(&gpus, |snapshot| snapshot.gpus.len() == 2).await;
    assert_eq!(view(&snapshot, ONE).trouble, Some(Trouble::Gone));
    assert_eq!(view(&snapshot, TWO).trouble, None);
    assert_eq!(view(&snapshot, TWO).identity.index, 0, "an index is no name");
}

#[tokio::test]
async fn a_gpu_that_comes_to_a_driver_without_any_or_says_who_it_is_at_last_is_found() {
    let mut fake = Fake::of(&[]);
    let gpus = fake.watched();
    assert_eq!(looked(&gpus).await.driver.state, DriverState::NoGpu);
    assert!(matches!(gpus.read().await, Err(ProbeError::Absent(_))));
    let mut lost = gpu(ONE);
    lost["lost"] = json!(true);
    fake.script["gpus"] = json!([lost]);
    fake.say();
    let snapshot = comes(&gpus, |snapshot| !snapshot.driver.unnamed.is_empty()).await;
    assert!(snapshot.gpus.is_empty(), "without a UUID it has no name");
    assert!(matches!(gpus.read().await, Err(ProbeError::Unreachable(why)) if why == "none of 1 GPUs answers"));
    fake.set(0, "lost", json!(false));
    comes(&gpus, |snapshot| snapshot.gpus.iter().any(|gpu| gpu.trouble.is_none())).await;
    fake.script["gpus"] = json!([]);
    fake.say();
    let snapshot = comes(&gpus, |snapshot| snapshot.driver.state == DriverState::NoGpu).await;
    assert_eq!(view(&snapshot, ONE).trouble, Some(Trouble::Gone));
    let readings = gpus.read().await.unwrap();
    assert!(readings.iter().any(|reading| reading.metric == "lost" && reading.value == 1.0));
}

#[tokio::test]
async fn a_driver_that_is_not_there_is_looked_for_in_growing_pauses() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    fake.set_system("nvmlInit_v2", json!({"code": 9}));
    let gpus = fake.watched_as(|watching| {
        watching.sample_every = Duration::from_secs(600);
        watching.absent_retry = Duration::from_secs(600);
    });
    for _ in 0..20 {
        assert!(matches!(gpus.read().await, Err(ProbeError::Absent(_))));
        assert!(gpus.users().await.is_err());
    }
    assert_eq!(fake.calls("", "nvmlInit_v2"), 1);
}

#[tokio::test]
async fn a_driver_that_is_loaded_anew_is_a_state_that_is_shown_counted_and_recovered_from() {
    let mut fake = Fake::of(&[gpu(ONE), gpu(TWO)]);
    let gpus = fake.watched();
    looked(&gpus).await;
    for (code, state) in [
        (9, DriverState::NotLoaded),
        (18, DriverState::VersionMismatch),
        (4, DriverState::NoPermission),
        (999, DriverState::Failing),
        (77, DriverState::Failing),
    ] {
        let loads = gpus.known().snapshot.driver.loads;
        // Whatever is asked, the driver does not know this user of the library any more; and then it cannot be loaded.
        for index in 0..2 {
            fake.script["gpus"][index]["nvmlDeviceGetUtilizationRates"] = json!({"code": 1});
        }
        fake.set_system("nvmlInit_v2", json!({"code": code}));
        let snapshot = comes(&gpus, |snapshot| snapshot.driver.state == state).await;
        assert!(snapshot.driver.said.is_some());
        assert!(snapshot.gpus.iter().all(|gpu| gpu.trouble == Some(Trouble::Driver)), "{code}");
        assert_eq!(gpus.read().await.is_err_and(|error| matches!(error, ProbeError::Absent(_))), code == 9);

        for index in 0..2 {
            fake.script["gpus"][index]["nvmlDeviceGetUtilizationRates"] = json!({"value": {"gpu": 1, "memory": 1}});
        }
        fake.set_system("nvmlInit_v2", json!({"value": 0}));
        let snapshot = comes(&gpus, |snapshot| snapshot.driver.state == DriverState::Ready).await;
        assert!(snapshot.gpus.iter().all(|gpu| gpu.trouble.is_none()));
        assert!(snapshot.driver.loads > loads);
    }
}

#[tokio::test]
async fn a_driver_that_answers_no_call_any_more_is_loaded_anew() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    let gpus = fake.watched_as(|watching| {
        watching.lost_retry = Duration::from_secs(600);
        watching.lost_retry_max = Duration::from_secs(600);
    });
    looked(&gpus).await;
    // As in a container after its cgroup was written anew: everything is an unknown error.
    let silent: Vec<String> = fake.script["gpus"][0].as_object().unwrap().keys().cloned().collect();
    for call in silent.iter().filter(|call| !call.contains("UUID")) {
        fake.script["gpus"][0][call] = json!({"code": 999});
    }
    fake.script["gpus"][0]["nvmlDeviceGetHandleByIndex_v2"] = json!({"code": 999});
    fake.say();
    let snapshot = comes(&gpus, |snapshot| snapshot.driver.state == DriverState::Failing).await;
    assert_eq!(snapshot.driver.said.as_deref(), Some("no GPU answers any call"));
    fake.script["gpus"][0] = gpu(ONE);
    fake.say();
    comes(&gpus, |snapshot| snapshot.driver.loads >= 2 && view(snapshot, ONE).trouble.is_none()).await;
}

#[tokio::test]
async fn a_call_that_is_not_supported_is_made_once_and_again_after_the_library_was_loaded_anew() {
    let mut fake = Fake::of(&[gpu(ONE), gpu(TWO)]);
    let gpus = fake.watched();
    for _ in 0..5 {
        looked(&gpus).await;
    }
    assert_eq!(fake.calls(ONE, "nvmlDeviceGetEncoderUtilization"), 1);
    assert!(fake.calls(ONE, "nvmlDeviceGetPowerUsage") >= 5);
    let snapshot = gpus.known().snapshot;
    assert_eq!(view(&snapshot, ONE).refused["encoder_utilization"], "not supported");
    assert_eq!(view(&snapshot, ONE).errors[&("encoder_utilization", "not_supported")], 1);

    fake.script["gpus"][0]["nvmlDeviceGetEncoderUtilization"] = json!({"value": [30, 1000]});
    fake.set(1, "lost", json!(true));
    let snapshot = comes(&gpus, |snapshot| snapshot.driver.loads >= 2).await;
    let _ = snapshot;
    let encoder = |snapshot: &Snapshot| view(snapshot, ONE).value(What::UtilizationRatio, "encoder", "");
    comes(&gpus, |snapshot| encoder(snapshot) == Some(0.3)).await;
}

#[tokio::test]
async fn a_code_that_nobody_knows_is_a_state_of_that_call_alone() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    fake.set(0, "nvmlDeviceGetPowerUsage", json!({"code": 28}));
    fake.set(0, "nvmlDeviceGetPerformanceState", json!({"value": 77}));
    let snapshot = looked(&fake.watched()).await;
    let gpu = view(&snapshot, ONE);
    assert_eq!(gpu.trouble, None);
    assert!(gpu.refused["power"].contains("unknown code 28"));
    assert!(gpu.refused["performance_state"].contains("77"));
    assert_eq!(gpu.errors[&("power", "unknown_code")], 1);
    check_value(&snapshot, (What::TemperatureCelsius, "gpu", ""), 40.0);
}

#[tokio::test]
async fn garbage_is_clamped_and_all_ones_are_absent() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    fake.set(0, "nvmlDeviceGetUtilizationRates", json!({"value": {"gpu": 4_000, "memory": u32::MAX}}));
    fake.set(0, "nvmlDeviceGetPowerUsage", json!({"value": u32::MAX}));
    fake.set(0, "nvmlDeviceGetPerformanceState", json!({"value": 32}));
    fake.set(0, "nvmlDeviceGetCurrentClocksThrottleReasons", json!({"value": 0x1_0000_0008_u64}));
    let snapshot = looked(&fake.watched()).await;
    check_value(&snapshot, (What::UtilizationRatio, "gpu", ""), 1.0);
    check_value(&snapshot, (What::ThrottleActive, "hw_slowdown", ""), 1.0);
    check_value(&snapshot, (What::ThrottleActive, "unknown", ""), 1.0);
    for absent in [What::PowerWatts, What::PerformanceState] {
        assert_eq!(snapshot.gpus[0].value(absent, "", ""), None, "{absent:?}");
    }
    assert_eq!(snapshot.gpus[0].value(What::UtilizationRatio, "memory", ""), None);
}

#[tokio::test]
async fn an_older_driver_without_a_function_lacks_that_number_alone() {
    let fake = Fake::of(&[gpu(ONE)]);
    // The same library, in which one function has another name.
    let mut bytes = fs::read(fake.library()).unwrap();
    let (name, other) = (b"nvmlDeviceGetMemoryInfo_v2\0", b"nvmlDeviceGetMemoryInfo_v9\0");
    let places: Vec<usize> = (0..bytes.len() - name.len()).filter(|at| &bytes[*at..at + name.len()] == name).collect();
    for at in places {
        bytes[at..at + name.len()].copy_from_slice(other);
    }
    fs::write(fake.library(), bytes).unwrap();
    let snapshot = looked(&fake.watched()).await;
    assert_eq!(view(&snapshot, ONE).refused["memory"], "this driver does not have the call");
    assert_eq!(view(&snapshot, ONE).errors[&("memory", "function_not_found")], 1);
    check_value(&snapshot, (What::PowerWatts, "", ""), 100.0);
}

#[tokio::test]
async fn at_most_so_many_gpus_are_watched_as_the_settings_say() {
    let all: Vec<Value> = (0..70).map(|index| gpu(&format!("GPU-{index:08}"))).collect();
    let mut fake = Fake::of(&all);
    fake.script["log"] = json!(false);
    fake.say();
    let gpus = fake.watched_as(|watching| watching.health_every = Duration::from_secs(600));
    let snapshot = looked(&gpus).await;
    assert_eq!((snapshot.gpus.len(), snapshot.driver.left_out), (64, 6));
    // Other cards in their places: who was seen once is remembered, and the bound holds.
    let others: Vec<Value> = (100..170).map(|index| gpu(&format!("GPU-{index:08}"))).collect();
    fake.script["gpus"] = json!(others);
    fake.say();
    let snapshot = comes(&gpus, |snapshot| snapshot.driver.loads >= 2).await;
    assert_eq!((snapshot.gpus.len(), snapshot.driver.left_out), (64, 70));
    assert!(snapshot.gpus.iter().all(|gpu| gpu.trouble.is_some()));
}

#[tokio::test]
async fn a_counter_that_goes_backwards_with_a_new_driver_goes_on_upwards_here() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    let gpus = fake.watched();
    let energy = |snapshot: &Snapshot| view(snapshot, ONE).value(What::EnergyJoules, "", "");
    assert_eq!(energy(&looked(&gpus).await), Some(5.0));
    fake.set(0, "nvmlDeviceGetTotalEnergyConsumption", json!({"value": 7_000}));
    assert_eq!(energy(&looked(&gpus).await), Some(7.0));
    fake.set(0, "nvmlDeviceGetTotalEnergyConsumption", json!({"value": 1_000}));
    assert_eq!(energy(&looked(&gpus).await), Some(8.0));
}

#[tokio::test]
async fn errors_that_the_driver_reports_are_counted_for_their_gpu_also_when_it_is_lost() {
    let mut fake = Fake::of(&[gpu(ONE), gpu(TWO)]);
    let gpus = fake.watched_as(|watching| {
        watching.listens = true;
        watching.lost_retry = Duration::from_secs(600);
        watching.lost_retry_max = Duration::from_secs(600);
    });
    looked(&gpus).await;
    // Whoever listens has registered as soon as it waits.
    comes(&gpus, |_| fake.calls("", "nvmlEventSetWait_v2") >= 2).await;
    fake.script["gpus"][1]["lost"] = json!(true);
    fake.script["events"] = json!([
        {"uuid": ONE, "xid": 31}, {"uuid": TWO, "xid": 79}, {"uuid": ONE, "xid": 31}, {"uuid": TWO, "xid": 12_345},
    ]);
    fake.say();
    let count = |snapshot: &Snapshot, uuid: &str, xid| view(snapshot, uuid).xids.get(&xid).map(|seen| seen.count);
    let snapshot =
        comes(&gpus, |snapshot| count(snapshot, ONE, 31) == Some(2) && count(snapshot, TWO, 12_345) == Some(1)).await;
    assert_eq!(count(&snapshot, TWO, 79), Some(1));
    assert_eq!(count(&snapshot, ONE, 79), None);
    let readings = gpus.read().await.unwrap();
    let fault = |gpu: &str| readings.iter().find(|each| each.metric == "hardware_fault" && each.subject == gpu);
    assert_eq!(fault("gpu:00000001").unwrap().value, 0.0, "a program that fails does not blame the GPU");
    assert_eq!(fault("gpu:00000002").unwrap().value, 1.0);
}

#[tokio::test]
async fn a_card_that_reports_no_errors_is_watched_all_the_same() {
    let mut fake = Fake::of(&[gpu(ONE), gpu(TWO)]);
    fake.set(0, "nvmlDeviceGetSupportedEventTypes", json!({"value": 0}));
    fake.set(1, "nvmlDeviceRegisterEvents", json!({"code": 999}));
    let gpus = fake.watched_as(|watching| watching.listens = true);
    let snapshot = looked(&gpus).await;
    assert!(snapshot.gpus.iter().all(|gpu| gpu.trouble.is_none()));
}

#[tokio::test]
async fn processes_and_instances_are_listed_with_their_memory() {
    let mut fake = Fake::of(&[gpu(ONE)]);
    fake.set(
        0,
        "nvmlDeviceGetComputeRunningProcesses_v3",
        json!({"value": [{"pid": 7, "usedGpuMemory": 100}, {"pid": 8, "usedGpuMemory": null}, {"pid": 9, "usedGpuMemory": 300}]}),
    );
    fake.set_system("nvmlSystemGetProcessName(9)", json!({"value": "/usr/bin/vllm serve"}));
    fake.set(0, "nvmlDeviceGetMigMode", json!({"value": [1, 1]}));
    fake.set(0, "nvmlDeviceGetMaxMigDeviceCount", json!({"value": 7}));
    let memory = json!({"value": {"total": 500, "free": 300, "used": 200, "reserved": 0}});
    fake.set(
        0,
        "instances",
        json!([null, {"nvmlDeviceGetUUID": {"value": "MIG-1"}, "nvmlDeviceGetMemoryInfo_v2": memory}]),
    );
    let gpus = fake.watched();
    let snapshot = looked(&gpus).await;
    let gpu = view(&snapshot, ONE);
    let told: Vec<_> = gpu.processes.iter().map(|each| (each.pid, each.name.as_deref(), each.memory_bytes)).collect();
    assert_eq!(told, [(9, Some("vllm"), Some(300)), (7, None, Some(100)), (8, None, None)]);
    assert_eq!(gpu.instances[0].uuid, "MIG-1");
    assert_eq!(gpu.instances[0].memory_used_bytes, Some(200));
    check_value(&snapshot, (What::MigInstances, "", ""), 1.0);
    let users: Vec<_> = gpus.users().await.unwrap().iter().map(|user| (user.pid, user.memory)).collect();
    assert_eq!(users, [(7, 0.1), (8, 0.0), (9, 0.3)]);
}

#[tokio::test]
async fn what_is_due_less_often_is_asked_less_often() {
    let fake = Fake::of(&[gpu(ONE)]);
    let gpus = fake.watched_as(|watching| {
        watching.detail_every = Duration::from_secs(600);
        watching.health_every = Duration::from_secs(600);
    });
    for _ in 0..4 {
        looked(&gpus).await;
    }
    assert_eq!(fake.calls(ONE, "nvmlDeviceGetUtilizationRates"), 4);
    assert_eq!(fake.calls(ONE, "nvmlDeviceGetClockInfo(0)"), 1);
    assert_eq!(fake.calls(ONE, "nvmlDeviceGetEccMode"), 1);
}
