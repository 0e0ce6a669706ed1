//! Autonomy: how much may happen without a person.

use crate::facts::{Autonomy, Risk};

/// The key of the env file that may lower the level.
pub const LEVEL_KEY: &str = "KLR_AUTONOMY_LEVEL";

/// Returns whether a change of this `risk` may go on without a person.
///
/// Level 0 always asks; each further level lets one more class of risk through.
///
/// ```
/// # use kloros_actors::{facts::{Autonomy, Risk}, gate::autonomy::rule};
/// assert!(!rule(Autonomy::Cautious, Risk::Medium));
/// assert!(rule(Autonomy::Trusted, Risk::Medium));
/// ```
pub fn rule(level: Autonomy, risk: Risk) -> bool {
    match level {
        Autonomy::Manual => false,
        Autonomy::Cautious => risk == Risk::Low,
        Autonomy::Trusted => risk <= Risk::Medium,
        Autonomy::Full => true,
    }
}

/// Returns the level in force, and a complaint if the env file says something that cannot be followed.
///
/// The env file may lower the `ceiling` of `kloros.toml`, never raise it: it is the file that winners are written to.
/// What is no level counts as 0, because whoever wrote it wanted some limit.
pub fn in_force(ceiling: Autonomy, env_value: Option<&str>) -> (Autonomy, Option<String>) {
    let Some(text) = env_value else { return (ceiling, None) };
    let level = match text.trim() {
        "0" => Autonomy::Manual,
        "1" => Autonomy::Cautious,
        "2" => Autonomy::Trusted,
        "3" => Autonomy::Full,
        // The text is not repeated: nothing from the env file is printed that is not on an allow-list.
        _ => {
            let complaint =
                format!("{LEVEL_KEY} in the env file is no autonomy level, so 0 is in force: use 0, 1, 2 or 3");
            return (Autonomy::Manual, Some(complaint));
        }
    };
    if level > ceiling {
        let (wanted, ceiling_level) = (u8::from(level), u8::from(ceiling));
        let complaint = format!(
            "{LEVEL_KEY} in the env file asks for {wanted}, which is above gate.autonomy = {ceiling_level} in \
             kloros.toml, so {ceiling_level} is in force: raise it there"
        );
        return (ceiling, Some(complaint));
    }
    (level, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEVELS: [Autonomy; 4] = [Autonomy::Manual, Autonomy::Cautious, Autonomy::Trusted, Autonomy::Full];

    #[test]
    fn each_level_lets_one_more_class_of_risk_through() {
        let table = [
            (Autonomy::Manual, Risk::Low, false),
            (Autonomy::Manual, Risk::Medium, false),
            (Autonomy::Manual, Risk::High, false),
            (Autonomy::Cautious, Risk::Low, true),
            (Autonomy::Cautious, Risk::Medium, false),
            (Autonomy::Cautious, Risk::High, false),
            (Autonomy::Trusted, Risk::Low, true),
            (Autonomy::Trusted, Risk::Medium, true),
            (Autonomy::Trusted, Risk::High, false),
            (Autonomy::Full, Risk::Low, true),
            (Autonomy::Full, Risk::Medium, true),
            (Autonomy::Full, Risk::High, true),
        ];
        for (level, risk, passes) in table {
            assert_eq!(rule(level, risk), passes, "{level:?} {risk}");
        }
    }

    #[test]
    fn the_env_file_lowers_the_level_and_never_raises_it() {
        for ceiling in LEVELS {
            assert_eq!(in_force(ceiling, None), (ceiling, None));
            for wanted in LEVELS {
                let (level, complaint) = in_force(ceiling, Some(&u8::from(wanted).to_string()));
                assert_eq!(level, wanted.min(ceiling));
                assert_eq!(complaint.is_some(), wanted > ceiling);
            }
        }
    }

    #[test]
    fn what_is_no_level_is_level_0_with_a_complaint_that_does_not_repeat_it() {
        for text in ["", "4", "-1", "+2", "02", "two", "2.0", "true", "\"2\"", "2 # why", "s3cret", "99999999999"] {
            let (level, complaint) = in_force(Autonomy::Full, Some(text));
            assert_eq!(level, Autonomy::Manual, "{text:?}");
            assert!(!complaint.unwrap().contains("s3cret"));
        }
    }

    #[test]
    fn spaces_around_a_level_do_not_matter() {
        assert_eq!(in_force(Autonomy::Full, Some(" 1\r\n")), (Autonomy::Cautious, None));
    }

    proptest! {
        #[test]
        fn no_text_at_all_raises_the_level(text in any::<String>(), ceiling in 0_u8..=3) {
            let ceiling = Autonomy::try_from(ceiling).unwrap();
            prop_assert!(in_force(ceiling, Some(&text)).0 <= ceiling);
        }
    }
}
