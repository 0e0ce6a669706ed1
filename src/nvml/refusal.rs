//! What an error of NVML means: ask again, never ask again, the GPU is in trouble, or the driver is.

use nvml_wrapper::error::NvmlError;

use super::sample::{DriverState, Trouble};

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It may go better next time.
    Again,
    /// This card or this driver does not have it; so it stays until the library is loaded anew.
    Never,
    /// The card does not work.
    Gpu(Trouble),
    /// The library must be loaded anew.
    Driver(DriverState),
}

impl Refusal {
    /// Returns what `error` of a call about one GPU means.
    pub(super) fn of(error: &NvmlError) -> Self {
        match error {
            NvmlError::GpuLost => Self::Gpu(Trouble::Lost),
            NvmlError::ResetRequired => Self::Gpu(Trouble::ResetRequired),
            NvmlError::IrqIssue => Self::Gpu(Trouble::Interrupts),
            NvmlError::InsufficientPower => Self::Gpu(Trouble::PowerCables),
            NvmlError::CorruptedInfoROM => Self::Gpu(Trouble::InfoRom),
            NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => {
                Self::Driver(driver_state(error))
            }
            // Of these the wrapper makes numbers that it does not know, be it return codes or values.
            NvmlError::UnexpectedVariant(_)
            | NvmlError::IncorrectBits(_)
            | NvmlError::NotSupported
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::FunctionNotFound
            | NvmlError::NoData
            | NvmlError::NotFound
            | NvmlError::NoPermission
            | NvmlError::InvalidArg => Self::Never,
            _ => Self::Again,
        }
    }
}

/// Returns what `error` says of the driver, when it kept the library from being loaded or asked.
pub(super) fn driver_state(error: &NvmlError) -> DriverState {
    match error {
        // A machine without the driver lacks the library, and that is how the loader says it.
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => DriverState::NoLibrary,
        NvmlError::DriverNotLoaded => DriverState::NotLoaded,
        NvmlError::LibRmVersionMismatch => DriverState::VersionMismatch,
        NvmlError::NoPermission => DriverState::NoPermission,
        _ => DriverState::Failing,
    }
}

/// Returns the name of an error, from a closed set.
pub(super) fn label(error: &NvmlError) -> &'static str {
    match error {
        NvmlError::Uninitialized => "uninitialized",
        NvmlError::InvalidArg => "invalid_argument",
        NvmlError::NotSupported => "not_supported",
        NvmlError::NoPermission => "no_permission",
        NvmlError::NotFound => "not_found",
        NvmlError::InsufficientSize(_) => "insufficient_size",
        NvmlError::InsufficientPower => "insufficient_power",
        NvmlError::DriverNotLoaded => "driver_not_loaded",
        NvmlError::Timeout => "timeout",
        NvmlError::IrqIssue => "irq_issue",
        NvmlError::LibraryNotFound | NvmlError::LibloadingError(_) => "library_not_found",
        NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_) => "function_not_found",
        NvmlError::CorruptedInfoROM => "corrupted_inforom",
        NvmlError::GpuLost => "gpu_lost",
        NvmlError::ResetRequired => "reset_required",
        NvmlError::OperatingSystem => "operating_system",
        NvmlError::LibRmVersionMismatch => "version_mismatch",
        NvmlError::InUse => "in_use",
        NvmlError::InsufficientMemory => "memory",
        NvmlError::NoData => "no_data",
        NvmlError::UnexpectedVariant(_) | NvmlError::IncorrectBits(_) => "unknown_code",
        NvmlError::Unknown => "unknown",
        _ => "other",
    }
}

/// Returns the error in words, with the number where the wrapper has no name for it.
pub(super) fn words(error: &NvmlError) -> String {
    match error {
        NvmlError::UnexpectedVariant(code) => format!("the driver answered with the unknown code {code}"),
        NvmlError::FailedToLoadSymbol(_) => "this driver does not have the call".to_owned(),
        NvmlError::NotSupported => "not supported".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_one_consequence() {
        for (error, expected) in [
            (NvmlError::NotSupported, Refusal::Never),
            (NvmlError::FailedToLoadSymbol("x".to_owned()), Refusal::Never),
            (NvmlError::UnexpectedVariant(28), Refusal::Never),
            (NvmlError::NoPermission, Refusal::Never),
            (NvmlError::GpuLost, Refusal::Gpu(Trouble::Lost)),
            (NvmlError::ResetRequired, Refusal::Gpu(Trouble::ResetRequired)),
            (NvmlError::Uninitialized, Refusal::Driver(DriverState::Failing)),
            (NvmlError::LibRmVersionMismatch, Refusal::Driver(DriverState::VersionMismatch)),
            (NvmlError::Unknown, Refusal::Again),
            (NvmlError::Timeout, Refusal::Again),
            (NvmlError::InsufficientSize(Some(3)), Refusal::Again),
        ] {
            assert_eq!(Refusal::of(&error), expected, "{error}");
        }
    }

    #[test]
    fn every_code_that_a_driver_may_ever_answer_with_has_a_name() {
        for code in 1..2000_u32 {
            let error = NvmlError::from(code);
            assert!(label(&error).bytes().all(|each| each.is_ascii_lowercase() || each == b'_'), "{code}");
            assert!(!words(&error).is_empty());
        }
        assert_eq!(label(&NvmlError::from(28)), "unknown_code");
        assert!(words(&NvmlError::from(28)).contains("28"));
    }
}
