//! XIDs: the numbers under which the NVIDIA driver reports errors.
//!
//! What they mean is said in NVIDIA's "XID Errors" (docs.nvidia.com/deploy/xid-errors).

/// Those that mean trouble of the card, its memory, its links or its firmware.
const HARDWARE: [u64; 10] = [48, 63, 64, 74, 79, 92, 94, 95, 119, 120];

/// Those that a program brings about which computes nonsense or is ended.
const APPLICATION: [u64; 4] = [13, 31, 43, 45];

/// Returns whether it means trouble of the hardware, so that nothing measured on the GPU can be trusted.
pub(crate) fn is_hardware(xid: u64) -> bool {
    HARDWARE.contains(&xid)
}

/// Returns what it means, in a few words.
pub(crate) fn words(xid: u64) -> &'static str {
    match xid {
        13 => "a program's kernel failed",
        31 => "a program touched memory that is not its own",
        43 => "a program's channel was stopped",
        45 => "a program was ended while it computed",
        48 => "an error of memory that could not be corrected",
        63 => "a row of memory was replaced, or a page retired",
        64 => "a row of memory could not be replaced, or a page not retired",
        74 => "an error of NVLink",
        79 => "the GPU fell off the bus",
        92 => "many corrected errors of memory",
        94 => "a contained error of memory",
        95 => "an uncontained error of memory",
        119 | 120 => "the GPU's own firmware does not answer",
        _ if APPLICATION.contains(&xid) => "an error of a program",
        _ => "see NVIDIA's list of XIDs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_does_not_blame_the_gpu() {
        for xid in APPLICATION {
            assert!(!is_hardware(xid), "{xid}");
        }
        for xid in HARDWARE {
            assert!(is_hardware(xid) && words(xid) != words(0), "{xid}");
        }
        for xid in [0, 14, 999, u64::MAX] {
            assert!(!is_hardware(xid), "what nobody knows is not held against the card: {xid}");
        }
    }
}
