//! `kloros recover` and `kloros guard`: what is pending is undone without the daemon.

use clap::Args;
use serde_json::json;

use super::{Answer, out::Out};
use crate::{
    home::Home,
    recover::{self, Outcome, Report, When},
    telemetry,
};

/// What is undone.
#[derive(Args)]
pub(crate) struct RecoverArgs {
    /// Only put env files right, for a service that is about to start: nothing is restarted, and silence means that nothing
    /// was pending
    #[arg(long)]
    if_pending: bool,
    /// Only this domain
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
}

/// Whom the guard watches over.
#[derive(Args)]
pub(crate) struct GuardArgs {
    /// The domain
    #[arg(long, value_name = "NAME")]
    domain: String,
}

pub(crate) async fn recover(home: &Home, args: &RecoverArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let when = if args.if_pending { When::BeforeStart } else { When::Now };
    let reports = recover::recover(home, args.domain.as_deref(), when).await?;
    if args.if_pending && reports.is_empty() {
        return Ok(Answer::Done);
    }
    let shown: Vec<_> = reports.iter().map(as_json).collect();
    out.answer(&json!(shown), || words(&reports))?;
    Ok(if reports.iter().any(|report| report.outcome.needs_a_person()) { Answer::No } else { Answer::Done })
}

pub(crate) async fn guard(home: &Home, args: &GuardArgs, out: &mut Out) -> anyhow::Result<Answer> {
    telemetry::Log::start("info", false);
    let Some(report) = recover::watch(home, &args.domain).await? else { return Ok(Answer::Done) };
    if report.outcome.needs_a_person() {
        tracing::error!("{}", line(&report));
    } else {
        tracing::warn!("{}", line(&report));
    }
    out.answer(&json!([as_json(&report)]), || line(&report))?;
    Ok(if report.outcome.needs_a_person() { Answer::No } else { Answer::Done })
}

fn as_json(report: &Report) -> serde_json::Value {
    let why = match &report.outcome {
        Outcome::Failed(why) | Outcome::Stuck(why) | Outcome::Unreadable(why) => Some(why),
        _ => None,
    };
    json!({
        "domain": report.domain, "deployment": report.deployment, "outcome": report.outcome.label(), "why": why,
    })
}

fn words(reports: &[Report]) -> String {
    if reports.is_empty() {
        return "nothing is pending".to_owned();
    }
    reports.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn line(report: &Report) -> String {
    let domain = &report.domain;
    let what = report.deployment.as_deref().unwrap_or("what is pending");
    match &report.outcome {
        Outcome::Owned => format!("left       {domain}: the daemon works on {what}, or who acts in its place"),
        Outcome::Proven => format!("kept       {domain}: {what} was proven"),
        Outcome::Undone => format!("undone     {domain}: {what}; the service runs with the old values"),
        Outcome::UndoneAndDown => {
            format!("undone     {domain}: {what}; the service is down, and comes up with the old values")
        }
        Outcome::FileOnly => {
            format!("undone     {domain}: {what} in the env file; the service runs on: `kloros recover` restarts it")
        }
        Outcome::Failed(why) => format!("FAILED     {domain}: {what} is not undone: {why}"),
        Outcome::Stuck(why) => {
            format!("STUCK      {domain}: {what} is not undone, {why}: see to the service, then `kloros recover`")
        }
        Outcome::Unreadable(why) => format!(
            "UNREADABLE {domain}: {why}; look at .kloros/pending in the home and at the env file, and remove the file then"
        ),
    }
}
