use serde::{Deserialize, Serialize};

use super::FailureKind;

/// How a question ends whose experiment could not measure: nothing was found out about it.
pub const UNMEASURED: &str = "unmeasured";

/// What is to blame for an experiment that says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoidCause {
    /// What measures, or what the service stands on: the live settings failed, a whole generation did, or others disturbed it.
    Infrastructure,
    /// It broke off again and again, or never went to measure to an end: whatever ended it may be its own doing.
    BrokeOff,
    /// The service was not lent to it, or is not any more what it began with.
    Withheld,
    /// The machine had no room for it.
    NoRoom,
    /// Candidates far apart measured alike: the service may not apply its parameters.
    Flat,
    /// What was tried: too many settings failed where others were measured, or there are too few to compare.
    Settings,
    /// Versions that told no cause blamed what was tried.
    #[default]
    Untold,
}

impl VoidCause {
    /// Returns how the question ends that the experiment was to answer.
    ///
    /// `void` is a failure of the way to answer it, and lets it rest longer each time. A flat response is one: whether the
    /// service does not apply these knobs or does not heed them, turning them again says nothing new until a person mends it.
    /// What is `unmeasured` rests the usual time and is no failure of anything that was asked. The other words let it rest
    /// longer each time, since the same would only end so again, and blame no way.
    pub fn how(self) -> &'static str {
        match self {
            VoidCause::Infrastructure => UNMEASURED,
            VoidCause::BrokeOff => "broke_off",
            VoidCause::Withheld => "refused",
            VoidCause::NoRoom => "deferred",
            VoidCause::Flat | VoidCause::Settings | VoidCause::Untold => "void",
        }
    }

    /// Returns whether nobody told it, as in what older versions wrote.
    pub fn is_untold(&self) -> bool {
        *self == VoidCause::Untold
    }

    /// Returns what is to blame where too few of so many trials were measured: what was tried, unless enough failed for
    /// reasons that lie elsewhere.
    pub fn of_too_few(measured: usize, min: usize, failures: impl Iterator<Item = FailureKind>) -> VoidCause {
        let elsewhere = failures.filter(|kind| kind.is_of_circumstances()).count();
        if elsewhere > 0 && measured + elsewhere >= min { VoidCause::Infrastructure } else { VoidCause::Settings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::ExperimentEnd;

    #[test]
    fn an_end_that_older_versions_wrote_without_a_cause_is_read_and_written_as_it_was() {
        let text = r#"{"how":"void","experiment":"x-1","why":"all failed"}"#;
        let end: ExperimentEnd = serde_json::from_str(text).unwrap();
        assert!(matches!(end, ExperimentEnd::Void { cause: VoidCause::Untold, .. }), "{end:?}");
        assert_eq!(serde_json::to_string(&end).unwrap(), text);
        let text = r#"{"how":"void","experiment":"x-1","why":"all failed","cause":"infrastructure"}"#;
        let end: ExperimentEnd = serde_json::from_str(text).unwrap();
        assert!(matches!(end, ExperimentEnd::Void { cause: VoidCause::Infrastructure, .. }), "{end:?}");
        assert_eq!(serde_json::to_string(&end).unwrap(), text);
    }

    #[test]
    fn too_few_measurements_are_blamed_on_the_circumstances_only_where_these_took_enough_of_them() {
        use FailureKind::{Died, Disturbed, Infrastructure};
        for (failures, expected) in [
            (vec![Died, Died], VoidCause::Settings),
            (vec![], VoidCause::Settings),
            (vec![Disturbed, Died], VoidCause::Settings),
            (vec![Disturbed, Infrastructure], VoidCause::Infrastructure),
        ] {
            assert_eq!(VoidCause::of_too_few(2, 4, failures.clone().into_iter()), expected, "{failures:?}");
        }
    }
}
