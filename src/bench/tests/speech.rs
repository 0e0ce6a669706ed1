use std::io;

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{StreamExt, stream};
use kloros_actors::facts::{BenchLoad, FailureKind, SoundFormat, SpeechBench, SpeechSlo, TokenRange, TrialFailure};
use serde_json::Value;

use crate::{
    bench::{drive::Measured, speech::measure},
    process::free_port,
};

const CLOSED: BenchLoad = BenchLoad::Closed { clients: 2 };
const OPEN: BenchLoad = BenchLoad::Constant { rate_per_s: 20.0, in_flight_max: 64 };

/// Serves speech that is as good as the first segment of the path says.
async fn speaker() -> String {
    let router = Router::new().route("/{behaviour}/v1/audio/speech", post(speak));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn speak(Path(behaviour): Path<String>, Json(request): Json<Value>) -> Response {
    assert_eq!((&request["model"], &request["voice"]), (&"tts-1".into(), &"en".into()));
    let text = request["input"].as_str().unwrap().to_owned();
    // A tenth of a second for each character.
    let samples: Vec<u8> = (0..text.len() * 4_410).map(|at| (at % 251) as u8).collect();
    match behaviour.as_str() {
        "wav" => wav(0, samples).into_response(),
        "pcm" => samples.into_response(),
        "espeak" => espeak(&text).await,
        "empty" => wav(0, Vec::new()).into_response(),
        "silent" => wav(0, vec![0; 1000]).into_response(),
        "short" => wav(1_000_000_000, samples).into_response(),
        "cut" => {
            let begun = stream::iter([Ok(Bytes::from(wav(0, samples))), Err(io::Error::other("cut"))]);
            Body::from_stream(begun).into_response()
        }
        "hang" => {
            let begun = stream::iter([Ok::<_, io::Error>(Bytes::from(wav(0, samples)))]);
            Body::from_stream(begun.chain(stream::pending())).into_response()
        }
        "html" => "<html>It works!</html>".into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn wav(stated: u32, samples: Vec<u8>) -> Vec<u8> {
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    bytes.extend(22_050_u32.to_le_bytes());
    bytes.extend(44_100_u32.to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend(stated.to_le_bytes());
    bytes.extend(samples);
    bytes
}

/// A real voice: espeak-ng, started anew for each text.
async fn espeak(text: &str) -> Response {
    let spoken = tokio::process::Command::new("espeak-ng").args(["--stdout", text]).output().await.unwrap();
    assert!(spoken.status.success());
    spoken.stdout.into_response()
}

fn bench(load: BenchLoad) -> SpeechBench {
    SpeechBench {
        load,
        input_tokens: TokenRange { min: 5, max: 10 },
        model: "tts-1".to_owned(),
        voice: "en".to_owned(),
        format: SoundFormat::Wav,
        pcm_rate_hz: 22_050,
        warmup_s: 0.1,
        window_s: 0.6,
        slo: Some(SpeechSlo { first_byte_ms: 60_000.0, e2e_ms: 60_000.0 }),
        request_timeout_s: 60.0,
    }
}

async fn run(behaviour: &str, bench: &SpeechBench) -> Result<Measured, TrialFailure> {
    measure(&format!("{}/{behaviour}", speaker().await), bench, 7).await
}

#[track_caller]
fn check_all_numbers(measured: &Measured) {
    for name in [
        "first_byte_p50_ms",
        "e2e_p50_ms",
        "real_time_factor_p50",
        "audio_s_per_request",
        "audio_s_per_s",
        "goodput_per_s",
    ] {
        assert!(measured.metrics[name] > 0.0, "{name} of {measured:?}");
    }
    assert_eq!(measured.metrics["error_rate"], 0.0, "{measured:?}");
}

#[tokio::test]
async fn speech_is_as_long_as_it_sounds_with_a_head_and_without_one() {
    for (behaviour, format) in [("wav", SoundFormat::Wav), ("pcm", SoundFormat::Pcm)] {
        for load in [CLOSED, OPEN] {
            let measured = run(behaviour, &SpeechBench { format, ..bench(load) }).await.unwrap();
            check_all_numbers(&measured);
            let audio_s = measured.metrics["audio_s_per_request"];
            assert!((2.0..=4.0).contains(&audio_s), "texts of 20 to 40 characters: {audio_s}");
        }
    }
}

#[tokio::test]
async fn a_real_voice_is_measured() {
    if std::process::Command::new("espeak-ng").arg("--version").output().is_err() {
        assert!(std::env::var("KLOROS_ESPEAK").is_err(), "espeak-ng is missing: install espeak-ng");
        return;
    }
    let measured = run("espeak", &SpeechBench { window_s: 1.5, ..bench(CLOSED) }).await.unwrap();
    check_all_numbers(&measured);
    // At 175 words a minute, 4 to 9 words take 1.4 to 3.1 s; words of this list are short.
    let audio_s = measured.metrics["audio_s_per_request"];
    assert!((1.0..6.0).contains(&audio_s), "{audio_s}");
}

#[tokio::test]
async fn what_fails_to_speak_has_no_number_that_a_change_could_be_promoted_by() {
    let cases = [
        ("empty", "it is empty"),
        ("silent", "it is silent"),
        ("short", "it states 1000000000"),
        ("cut", "broke off"),
        ("hang", "no whole answer in time"),
        ("html", "it is no WAV"),
        ("busy", "status 503"),
    ];
    for (behaviour, why) in cases {
        let impatient = SpeechBench { request_timeout_s: 0.3, ..bench(CLOSED) };
        let failure = run(behaviour, &impatient).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BenchFailed);
        assert!(failure.detail.contains("none of") && failure.detail.contains(why), "{behaviour}: {failure}");
    }
    let url = format!("http://127.0.0.1:{}", free_port().unwrap());
    assert_eq!(measure(&url, &bench(OPEN), 7).await.unwrap_err().kind, FailureKind::Died);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let cases = [
        (SpeechBench { input_tokens: TokenRange { min: 3, max: 2 }, ..bench(CLOSED) }, "input_tokens"),
        (SpeechBench { window_s: 0.0, ..bench(CLOSED) }, "window_s"),
        (bench(BenchLoad::Closed { clients: 0 }), "clients"),
    ];
    for (bench, name) in cases {
        let failure = run("wav", &bench).await.unwrap_err();
        assert!(failure.detail.contains(name), "{failure} lacks {name}");
    }
}
